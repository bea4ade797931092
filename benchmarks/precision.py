"""What a number's width costs: accuracy against time and bytes, for every value dtype in and out.

    python benchmarks/precision.py --out benchmarks/results/precision.csv

Linear resampling of 1 kHz signals (two sines of 0.2 to 2 Hz a column; the columns' peaks span two decades) to 500 Hz.
Errors are relative to the column's peak. ``interpolation`` is against the signal itself, ``rounding`` against the
float64 answer from float64 samples: what narrow values and narrow outputs add. The 8-bit outputs have one scale a
column: its peak over the largest finite value of the type.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import gpu_common
import torch
from bytes_model import bytes_of
from cases import DTYPES, NANOSECONDS, Batch
from common import CsvLog
from gpu_common import Bench
from signals import Signal, stamps
from torch import Tensor

from robocache.ops import StreamSpec, fuse_multimodal

COLUMNS = 32
HZ, TARGET_HZ = 1000, 500
EIGHT_BIT = {"e4m3": (torch.float8_e4m3fn, 448.0), "e5m2": (torch.float8_e5m2, 57344.0), "int8": (torch.int8, 127.0)}
OUTPUTS = DTYPES | {name: dtype for name, (dtype, _) in EIGHT_BIT.items()}


def align(batch: Batch, name: str, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    return fuse_multimodal(batch.streams, batch.targets, out_dtype=OUTPUTS[name], out_scale=scale, validate=False)


def errors(out: Tensor, scale: Tensor | None, peak: Tensor, expected: Tensor) -> tuple[float, float]:
    """RMS and largest error, relative to the columns' peaks."""
    value = out.double() if scale is None else out.double() * scale.double()
    error = (value - expected).abs_().div_(peak)
    return float(error.square().mean().sqrt()), float(error.max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--device", default=gpu_common.default_device(), choices=("cuda", "cpu"))
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--repetitions", type=int, default=gpu_common.REPETITIONS)
    args = parser.parse_args()
    device = args.device
    log, bench, where = CsvLog(args.out), Bench(device), gpu_common.environment(device)
    random = torch.Generator(device).manual_seed(6)
    peak = torch.logspace(-1, 1, COLUMNS, dtype=torch.float64, device=device)
    signal = Signal(args.batch, peak, 0.2, 2.0, random)
    times = stamps(args.batch, HZ, args.seconds, random)
    step = NANOSECONDS // TARGET_HZ
    targets = (torch.arange(1, round(TARGET_HZ * args.seconds) - 1, device=device) * step).repeat(args.batch, 1)
    samples, truth = signal.at(times), signal.at(targets)
    exact, _ = fuse_multimodal([StreamSpec(samples, times)], targets, validate=False)
    scales = {name: (peak / EIGHT_BIT[name][1]).float() if name in EIGHT_BIT else None for name in OUTPUTS}
    copy, copy_bytes = bench.copy()
    copy_speed = copy_bytes / copy.median / 1e6
    for source, dtype in DTYPES.items():
        batch = Batch((StreamSpec(samples.to(dtype), times),), targets, None, (times.shape[1],))
        sets = [batch, batch.copy()]
        names = [name for name, out in OUTPUTS.items() if out.itemsize <= dtype.itemsize]
        found, failed = bench.measure(
            {name: lambda data, name=name: align(data, name, scales[name]) for name in names}, sets, args.repetitions
        )
        for name, why in failed.items():
            print(f"{source} to {name}: {why}")
        for name, timing in found.items():
            out, valid = align(batch, name, scales[name])
            moved = bytes_of(batch, out, valid)
            interpolation, rounding = errors(out, scales[name], peak, truth), errors(out, scales[name], peak, exact)
            log.write(
                {
                    "input": source,
                    "output": name,
                    **timing.columns(),
                    "bytes_ideal": moved.ideal,
                    "bytes_sectors": moved.sectors,
                    "share_sectors": f"{moved.sectors / timing.median / 1e6 / copy_speed:.4f}",
                    "rms_interpolation": f"{interpolation[0]:.3e}",
                    "max_interpolation": f"{interpolation[1]:.3e}",
                    "rms_rounding": f"{rounding[0]:.3e}",
                    "max_rounding": f"{rounding[1]:.3e}",
                    "copy_gb_s": f"{copy_speed:.1f}",
                    **where,
                }
            )
            print(f"{source:5} to {name:5} {timing.median:9.4f} ms  rounding rms {rounding[0]:.2e}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
