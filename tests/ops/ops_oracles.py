"""What the tests of the alignment ops share: independent answers, data to ask about, and the implementations to ask.

The answers are NumPy and SciPy, one row at a time in float64, written for plainness: ``numpy.interp``,
``scipy.interpolate.PchipInterpolator``, ``scipy.spatial.transform.Slerp``, and loops.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from robocache.ops import align as public
from robocache.ops.align import StreamSpec
from robocache.ops.reference import align as reference

EPOCH = 1_700_000_000_000_000_000  # ns: about November 2023
MODES = ("linear", "cubic", "nearest", "previous", "next", "mean", "angle", "slerp", "pose")
EXACT_MODES = ("linear", "nearest", "previous", "next", "mean")  # every rounding of these is laid down
WIDTH = {"slerp": 4, "pose": 7}  # the other modes take any

#: Largest error in float32, times the largest magnitude among the values: a few roundings for linear, a chain of
#: about twenty for the others, one a sample for mean.
FLOAT32_ERROR = {mode: 5e-7 if mode in ("linear", "nearest", "previous", "next") else 4e-6 for mode in MODES}


# ---- independent answers --------------------------------------------------------------------------------------------


def align_row(
    mode: str,
    times: np.ndarray,
    values: np.ndarray,
    targets: np.ndarray,
    max_gap: float | None = None,
    shift: float = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """One row: stamps ``[n]``, values ``[n, D]``, targets ``[T]`` -> float64 ``[T, D]`` and bool ``[T]``."""
    keep = np.append(times[1:] != times[:-1], True)[: len(times)]
    times, values, targets = times[keep], values[keep].astype(np.float64), targets - np.asarray(shift, targets.dtype)
    if len(times) == 0:
        return np.full((len(targets), values.shape[1]), np.nan), np.zeros(len(targets), bool)
    limit = np.inf if max_gap is None else max_gap
    if mode in ("nearest", "previous", "next"):
        return _select(mode, times, values, targets, limit)

    t, x = (times - times[0]).astype(np.float64), (targets - times[0]).astype(np.float64)
    valid = np.array([_in_bracket(times, target, limit) for target in targets], bool)
    inside = np.clip(x, t[0], t[-1])
    if mode == "cubic" and len(t) > 2:
        return PchipInterpolator(t, values)(inside), valid
    if mode in ("linear", "cubic"):
        return _interp(inside, t, values), valid
    if mode == "mean":
        value = _interp(inside, t, values)
        for k, members in enumerate(_bins(times, targets)):
            if members.any():
                value[k], valid[k] = values[members].mean(axis=0), True
        return value, valid
    if mode == "angle":
        return _interp_angle(inside, t, values), valid
    if mode == "slerp":
        return _slerp(inside, t, values), valid
    if mode == "pose":
        return np.hstack([_interp(inside, t, values[:, :3]), _slerp(inside, t, values[:, 3:])]), valid
    raise AssertionError(mode)


def _interp(x: np.ndarray, t: np.ndarray, values: np.ndarray) -> np.ndarray:
    columns = [np.interp(x, t, column) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.empty((len(x), 0))


def _in_bracket(times: np.ndarray, target: float, limit: float) -> bool:
    if target in times:
        return True
    before, after = times[times < target], times[times > target]
    return bool(len(before) and len(after) and after[0] - before[-1] <= limit)


def _select(
    mode: str, times: np.ndarray, values: np.ndarray, targets: np.ndarray, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    picked, valid = [], []
    for target in targets:
        allowed = {"nearest": times == times, "previous": times <= target, "next": times >= target}[mode]
        if allowed.any():
            distance = np.where(allowed, np.abs(times - target).astype(np.float64), np.inf)
            picked.append(int(np.argmin(distance)))  # the first of equals: the earlier sample
            valid.append(distance[picked[-1]] <= limit)
        else:
            picked.append(0 if mode == "previous" else len(times) - 1)
            valid.append(False)
    return values[np.array(picked, int)], np.array(valid, bool)


def _bins(times: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    """Which samples fall into each target's bin; everything doubled, so that midpoints of integers are integers."""
    if len(targets) < 2:
        return [np.zeros(len(times), bool)] * len(targets)
    edges = np.concatenate([[3 * targets[0] - targets[1]], targets[1:] + targets[:-1], [3 * targets[-1] - targets[-2]]])
    return [(2 * times >= low) & (2 * times < high) for low, high in itertools.pairwise(edges)]


def _bracket(x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low = np.clip(np.searchsorted(t, x, side="right") - 1, 0, max(len(t) - 2, 0))
    high = np.minimum(low + 1, len(t) - 1)
    width = np.where(high > low, t[high] - t[low], 1.0)
    return low, high, ((x - t[low]) / width)[:, None]


def _interp_angle(x: np.ndarray, t: np.ndarray, values: np.ndarray) -> np.ndarray:
    low, high, w = _bracket(x, t)
    arc = np.angle(np.exp(1j * (values[high] - values[low])))
    return np.angle(np.exp(1j * (values[low] + w * arc)))


def _slerp(x: np.ndarray, t: np.ndarray, values: np.ndarray) -> np.ndarray:
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    if len(t) == 1:
        return np.repeat(unit, len(x), axis=0)
    q = Slerp(t, Rotation.from_quat(unit))(x).as_quat()
    start = unit[np.searchsorted(t, x, side="right") - 1]
    return np.where((q * start).sum(axis=1, keepdims=True) < 0, -q, q)  # a quaternion and its negative are one rotation


def angle_error(a: Tensor, b: Tensor) -> Tensor:
    """Distance along the circle, radians."""
    difference = a.double() - b.double()
    return torch.atan2(difference.sin(), difference.cos()).abs()


# ---- data -----------------------------------------------------------------------------------------------------------


def stamps(rng: np.random.Generator, n: int, *, dtype: str = "int64", step: int = 5_000_000) -> np.ndarray:
    """``n`` sorted stamps with jitter, a few repeats and a few dropouts; exact in every time dtype."""
    unit = 2**-10 if dtype.startswith("float") else step // 8
    steps = rng.integers(4, 13, n)
    steps[rng.random(n) < 0.1] = 0
    steps[rng.random(n) < 0.03] = 100
    ticks = np.cumsum(steps)
    return (ticks * unit + EPOCH).astype(np.int64) if dtype == "int64" else (ticks * unit).astype(dtype)


def targets_for(rng: np.random.Generator, times: np.ndarray, n: int) -> np.ndarray:
    """``n`` sorted targets over a little more than the recording, a quarter of them on stamps."""
    low, high = (times[0], times[-1]) if len(times) else (0, 1)
    grid = 2.0**-12 if times.dtype.kind == "f" else 1
    margin = float(high - low) / 16 + 64 * grid
    drawn = rng.uniform(-margin, float(high - low) + margin, n)
    free = (low + (np.round(drawn / grid) * grid).astype(times.dtype)).astype(times.dtype)
    on = rng.random(n) < 0.25
    return np.sort(np.where(on, rng.choice(times, n), free)) if len(times) else np.sort(free)


def signal(rng: np.random.Generator, mode: str, n: int, width: int = 3) -> np.ndarray:
    """Smooth random values ``[n, D]`` that fit the mode; quaternions turn less than half a turn a sample."""
    width = WIDTH.get(mode, width)
    walk = np.cumsum(rng.normal(size=(n, width)), axis=0) * (0.5 if mode == "angle" else 0.2)
    if mode in WIDTH and n:
        turns = Rotation.from_rotvec(np.cumsum(rng.normal(size=(n, 3)) * 0.3, axis=0)).as_quat()
        walk[:, -4:] = turns * rng.choice([-1, 1], (n, 1)) * rng.uniform(0.5, 2, (n, 1))
    return walk


@dataclass(frozen=True)
class Ragged:
    """A jagged batch of one stream with its targets, and the answers to it."""

    times: Tensor
    values: Tensor
    offsets: Tensor
    targets: Tensor
    target_offsets: Tensor

    def expected(self, mode: str, max_gap: float | None = None) -> tuple[Tensor, Tensor]:
        """Row by row from the oracle: float64 ``[K, D]``, bool ``[K]``."""
        rows = [
            align_row(
                mode, *(a.numpy() for a in (self.times[i:j], self.values.double()[i:j], self.targets[k:m])), max_gap
            )
            for i, j, k, m in zip(
                self.offsets[:-1], self.offsets[1:], self.target_offsets[:-1], self.target_offsets[1:], strict=True
            )
        ]
        value = np.concatenate([v for v, _ in rows]) if rows else np.empty((0, self.values.shape[1]))
        return torch.from_numpy(value), torch.from_numpy(np.concatenate([ok for _, ok in rows] or [np.empty(0, bool)]))

    def arguments(self) -> dict:
        return {
            "source_data": self.values,
            "source_times": self.times,
            "target_times": self.targets,
            "source_offsets": self.offsets,
            "target_offsets": self.target_offsets,
        }


def ragged(
    seed: int,
    mode: str = "linear",
    *,
    lengths: Sequence[int] = (60, 1, 0, 2, 33),
    targets: Sequence[int] = (50, 4, 3, 0, 40),
    time_dtype: str = "int64",
    dtype: torch.dtype = torch.float32,
    width: int = 3,
) -> Ragged:
    rng = np.random.default_rng(seed)
    times = [stamps(rng, n, dtype=time_dtype) for n in lengths]
    wanted = [targets_for(rng, t, k) for t, k in zip(times, targets, strict=True)]
    values = [signal(rng, mode, n, width) for n in lengths]
    return Ragged(
        times=torch.from_numpy(np.concatenate(times)),
        values=torch.from_numpy(np.concatenate(values)).to(dtype),
        offsets=torch.tensor([0, *np.cumsum(lengths)]),
        targets=torch.from_numpy(np.concatenate(wanted)),
        target_offsets=torch.tensor([0, *np.cumsum(targets)]),
    )


def dense(
    seed: int,
    batch: int,
    samples: int,
    targets: int,
    mode: str = "linear",
    *,
    width: int = 3,
    time_dtype: str = "int64",
) -> tuple[Tensor, Tensor, Tensor]:
    """Values ``[B, S, D]`` float32, times ``[B, S]``, targets ``[B, T]``."""
    r = ragged(seed, mode, lengths=[samples] * batch, targets=[targets] * batch, width=width, time_dtype=time_dtype)
    return (
        r.values.reshape(batch, samples, -1),
        r.times.reshape(batch, samples),
        r.targets.reshape(batch, targets),
    )


def bits(x: Tensor) -> Tensor:
    """The same memory as integers."""
    return x.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def assert_same_bits(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """-0 differs from 0; a NaN is a NaN, whatever its payload."""
    for a, b in zip(actual, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        a, b = a.cpu(), b.cpu()
        differing = (bits(a) != bits(b)) & ~(a.float().isnan() & b.float().isnan())
        assert not differing.any(), f"{int(differing.sum())} of {differing.numel()} elements differ"


def assert_close(actual: Tensor, expected: Tensor, mode: str, tolerance: float, scale: float | None = None) -> None:
    """Within ``tolerance`` times the largest magnitude; angles along the circle; NaN where NaN is expected."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    actual, expected = actual.double().cpu(), expected.double().cpu()
    assert torch.equal(actual.isnan(), expected.isnan())
    actual, expected = actual.nan_to_num(), expected.nan_to_num()
    error = angle_error(actual, expected) if mode == "angle" else (actual - expected).abs()
    limit = tolerance * max(
        1.0, scale if scale is not None else float(expected.abs().max()) if expected.numel() else 0.0
    )
    assert not error.numel() or float(error.max()) <= limit, f"{mode}: off by {float(error.max()):.3g} > {limit:.3g}"


# ---- implementations ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Implementation:
    """Something that resamples and fuses with the signatures of :mod:`robocache.ops.align`."""

    resample: Callable[..., Tensor | tuple[Tensor, Tensor]]
    fuse: Callable[..., tuple[Tensor, Tensor]]


def _reference_fuse(
    streams: Sequence[StreamSpec],
    target_times: Tensor,
    *,
    target_offsets: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    out_scale: Tensor | None = None,
    validate: bool = True,
) -> tuple[Tensor, Tensor]:
    return reference.fuse(public.to_arguments(streams, target_times, target_offsets, out_dtype, out_scale))


def _reference_resample(
    source_data: Tensor,
    source_times: Tensor,
    target_times: Tensor,
    *,
    mode: str = "linear",
    source_offsets: Tensor | None = None,
    source_scale: Tensor | float | None = None,
    max_gap: float | int | None = None,
    period: float | None = None,
    return_valid: bool = False,
    **options,
) -> Tensor | tuple[Tensor, Tensor]:
    stream = StreamSpec(source_data, source_times, mode, source_offsets, max_gap, 0, period, source_scale)
    out, valid = _reference_fuse([stream], target_times, **options)
    return (out, valid[..., 0]) if return_valid else out


REFERENCE = Implementation(_reference_resample, _reference_fuse)
PUBLIC = Implementation(public.resample_trajectories, public.fuse_multimodal)
IMPLEMENTATIONS = [pytest.param(REFERENCE, id="reference"), pytest.param(PUBLIC, id="public")]
