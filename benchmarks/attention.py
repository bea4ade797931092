"""Fusing three streams by alignment and by cross-attention: cost, and accuracy on signals with known truth.

    python benchmarks/attention.py --out benchmarks/results/attention.csv

Three streams (16 columns at 400 Hz, 8 at 1 kHz, 8 at 200 Hz, sines of 0.2 to 3 Hz with peak 1) to 100 Hz. Attention:
baselines/attention_fusion.py, at several sharpness values, so that it is judged at its best one. Errors are against the
signal at the target times, over all targets inside the recordings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import gpu_common
import torch
from baselines.attention_fusion import AttentionFusion
from cases import DTYPES, NANOSECONDS
from common import CsvLog
from gpu_common import Bench
from signals import Signal, stamps
from torch import Tensor

from robocache.ops import StreamSpec, fuse_multimodal

STREAMS = ((400, 16), (1000, 8), (200, 8))  # Hz, columns
TARGET_HZ = 100
SHARPNESS = (16.0, 64.0, 256.0)


def make(batch: int, seconds: float, device: str) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    """Stamps and float64 values of each stream, the targets, the truth at them."""
    random = torch.Generator(device).manual_seed(5)
    period = NANOSECONDS // TARGET_HZ
    targets = (torch.arange(1, round(TARGET_HZ * seconds) - 1, device=device) * period).repeat(batch, 1)
    streams, truth = [], []
    for hz, dim in STREAMS:
        signal = Signal(batch, torch.ones(dim, dtype=torch.float64, device=device), 0.2, 3.0, random)
        times = stamps(batch, hz, seconds, random)
        streams.append((times, signal.at(times)))
        truth.append(signal.at(targets))
    return streams, targets, torch.cat(truth, dim=-1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--device", default=gpu_common.default_device(), choices=("cuda", "cpu"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--repetitions", type=int, default=gpu_common.REPETITIONS)
    args = parser.parse_args()
    log, bench, where = CsvLog(args.out), Bench(args.device), gpu_common.environment(args.device)
    samples, targets, truth = make(args.batch, args.seconds, args.device)
    calls: dict[str, Callable[[object], Tensor]] = {}
    operations: dict[str, int] = {}
    for name in ("f32", "bf16", "f16"):
        specs = [StreamSpec(x.to(DTYPES[name]), t) for t, x in samples]
        calls[f"robocache linear {name}"] = lambda _, specs=specs: fuse_multimodal(specs, targets, validate=False)[0]
        if name == "f32":
            continue
        for sharpness in SHARPNESS:
            fusion = AttentionFusion(specs, targets, sharpness, DTYPES[name])
            who = f"attention {name}, sharpness {sharpness:g}"
            calls[who], operations[who] = lambda _, fusion=fusion: fusion(), fusion.operations
    errors: dict[str, tuple[float, float]] = {}
    for who, call in list(calls.items()):
        try:
            error = (call(None).double() - truth).abs()
            errors[who] = float(error.square().mean().sqrt()), float(error.max())
        except RuntimeError as why:  # no FlashAttention-2 for this device or type
            print(f"{who}: {gpu_common.reason(why)}", flush=True)
            del calls[who]
    times, _ = bench.measure(calls, [None], args.repetitions)
    base = times["robocache linear bf16"].median
    for who, found in times.items():
        rms, largest = errors[who]
        log.write(
            {
                "who": who,
                "batch": args.batch,
                "seconds": args.seconds,
                **found.columns(),
                "times_linear_bf16": f"{found.median / base:.3f}",
                "rms_error": f"{rms:.3e}",
                "max_error": f"{largest:.3e}",
                "operations": operations.get(who, ""),
                **where,
            }
        )
        print(f"{who:34} {found.median:9.4f} ms  rms {rms:.2e}  max {largest:.2e}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
