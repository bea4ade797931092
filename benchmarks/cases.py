"""The benchmark's cases: read from configs/*.json, made on a device from their seed.

Stamps are int64 nanoseconds at a steady period with jitter of a tenth of it. Targets are evenly spaced and lie inside
the recording. Values are normal. Jagged lengths are log-uniform, or as listed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robocache.ops import StreamSpec, fuse_multimodal

CONFIGS = Path(__file__).resolve().parent / "configs"
SIZES = ("small", "medium", "large")
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "f64": torch.float64}
NANOSECONDS = 1_000_000_000
PERIOD = 1_000_000  # ns between the samples of a resample case


@dataclass(frozen=True)
class Batch:
    """One call's input. ``longest``: samples of the longest episode of a stream, known to whoever made it."""

    streams: tuple[StreamSpec, ...]
    targets: Tensor
    target_offsets: Tensor | None
    longest: tuple[int, ...]

    def copy(self) -> Batch:
        """The same input in other memory."""
        streams = tuple(
            s._replace(values=s.values.clone(), times=s.times.clone(), offsets=_clone(s.offsets)) for s in self.streams
        )
        return Batch(streams, self.targets.clone(), _clone(self.target_offsets), self.longest)

    @property
    def input_bytes(self) -> int:
        tensors = [x for s in self.streams for x in (s.values, s.times, s.offsets)]
        return sum(x.nbytes for x in [*tensors, self.targets, self.target_offsets] if x is not None)

    @property
    def width(self) -> int:
        return sum(s.values.shape[-1] for s in self.streams)

    def aligned(self) -> tuple[Tensor, Tensor]:
        """RoboCache's own answer: values and validity."""
        return fuse_multimodal(self.streams, self.targets, target_offsets=self.target_offsets, validate=False)


@dataclass(frozen=True)
class Case:
    phase: str  # resample or fuse
    size: str
    dtype: str
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        s = self.spec
        if self.phase == "fuse":
            streams = " + ".join(
                f"{x['hz']}Hz D{x['dim']}" + (f" {x['mode']}" if "mode" in x else "") for x in s["streams"]
            )
            return f"B{s['batch']} {s['seconds']}s {streams} to {s['target_hz']}Hz"
        if "jagged" not in s:
            shape = f"B{s['batch']} S{s['samples']} T{s['targets']}"
        elif "lengths" in s["jagged"]:
            shape = "jagged " + " + ".join(f"{count} of {length}" for count, length in s["jagged"]["lengths"])
        else:
            shape = "jagged {episodes} of {shortest}..{longest}".format(**s["jagged"])
        return f"{shape} D{s['dim']} {s['mode']}"

    @property
    def modes(self) -> set[str]:
        return {x.get("mode", "linear") for x in self.spec.get("streams", [self.spec])}

    def peers(self, known: Sequence[str]) -> list[str]:
        """Whom RoboCache is compared with: everyone, unless the case lists them."""
        return [name for name in known if name in self.spec.get("peers", known)]

    def build(self, device: str) -> Batch:
        random = torch.Generator(device).manual_seed(self.spec["seed"])
        dtype = DTYPES[self.dtype]
        if self.phase == "fuse":
            return _fuse(self.spec, dtype, device, random)
        if "jagged" in self.spec:
            return _jagged(self.spec, dtype, device, random)
        batch, samples, count = (self.spec[key] for key in ("batch", "samples", "targets"))
        stream = _dense(batch, samples, self.spec["dim"], dtype, self.spec["mode"], PERIOD, random)
        return Batch((stream,), _targets(batch, count, samples * PERIOD, device), None, (samples,))


def load(sizes: Sequence[str] = SIZES, only: str = "") -> list[Case]:
    """The cases of these sizes whose "phase name dtype" holds ``only``."""
    found = []
    for size in sizes:
        config = json.loads((CONFIGS / f"{size}.json").read_text())
        for phase in ("resample", "fuse"):
            found += [Case(phase, size, dtype, spec) for spec in config[phase] for dtype in spec["dtypes"]]
    return [case for case in found if only in f"{case.phase} {case.name} {case.dtype}"]


def _clone(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.clone()


def _jitter(shape: tuple[int, ...], period: int, random: torch.Generator) -> Tensor:
    return torch.randint(0, max(period // 10, 1), shape, device=random.device, generator=random)


def _normal(shape: tuple[int, ...], dtype: torch.dtype, random: torch.Generator) -> Tensor:
    narrow = dtype if dtype.itemsize < 4 else torch.float32  # drawn as it is stored: no second copy of large inputs
    return torch.empty(shape, dtype=narrow, device=random.device).normal_(generator=random).to(dtype)


def _dense(
    batch: int, samples: int, dim: int, dtype: torch.dtype, mode: str, period: int, random: torch.Generator
) -> StreamSpec:
    times = torch.arange(samples, device=random.device) * period + _jitter((batch, samples), period, random)
    return StreamSpec(_normal((batch, samples, dim), dtype, random), times, mode)


def _targets(batch: int, count: int, span: int, device: str) -> Tensor:
    step = span // count
    return (torch.arange(count, device=device) * step + step // 2).repeat(batch, 1)


def _lengths(jagged: Mapping[str, Any], random: torch.Generator) -> Tensor:
    if "lengths" in jagged:
        counts, lengths = zip(*jagged["lengths"], strict=True)
        return torch.repeat_interleave(torch.tensor(lengths), torch.tensor(counts)).to(random.device)
    low, high = math.log(jagged["shortest"]), math.log(jagged["longest"] + 1)
    drawn = torch.rand(jagged["episodes"], device=random.device, generator=random, dtype=torch.float64)
    return (low + drawn * (high - low)).exp().long().clamp(jagged["shortest"], jagged["longest"])


def _jagged(spec: Mapping[str, Any], dtype: torch.dtype, device: str, random: torch.Generator) -> Batch:
    lengths = _lengths(spec["jagged"], random)
    every = spec["samples_per_target"]
    offsets, target_offsets = _offsets(lengths), _offsets(lengths // every)
    total = int(offsets[-1])
    times = _ramp(offsets) * PERIOD + _jitter((total,), PERIOD, random)
    stream = StreamSpec(_normal((total, spec["dim"]), dtype, random), times, spec["mode"], offsets)
    targets = _ramp(target_offsets) * (every * PERIOD) + every * PERIOD // 2
    return Batch((stream,), targets, target_offsets, (int(lengths.max()),))


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _ramp(offsets: Tensor) -> Tensor:
    """0, 1, 2, ... from each episode's start."""
    return torch.arange(int(offsets[-1]), device=offsets.device) - torch.repeat_interleave(offsets[:-1], offsets.diff())


def _fuse(spec: Mapping[str, Any], dtype: torch.dtype, device: str, random: torch.Generator) -> Batch:
    batch, seconds = spec["batch"], spec["seconds"]
    streams = tuple(
        _dense(batch, x["hz"] * seconds, x["dim"], dtype, x.get("mode", "linear"), NANOSECONDS // x["hz"], random)
        for x in spec["streams"]
    )
    targets = _targets(batch, spec["target_hz"] * seconds, seconds * NANOSECONDS, device)
    return Batch(streams, targets, None, tuple(s.times.shape[1] for s in streams))
