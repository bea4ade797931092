"""Share of the GPU's copy bandwidth that alignment and fusion reach.

    python benchmarks/gpu_bandwidth.py [--out benchmarks/results/gpu_bandwidth.csv] [--only NAME]

Bytes are counted by the least that must move: every sample row that some target's bracket (or bin) uses once, with its
stamp; every target stamp; every output value and validity flag once. The copy bandwidth is a device-to-device copy of
2 GiB, bytes read plus bytes written, measured in the same run. Inputs are far larger than the L2 cache, and between
two timed calls 256 MiB of other memory is written, so no call finds its input there. Times are medians of device
events.
"""

from __future__ import annotations

import argparse
import csv
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from robocache.ops import StreamSpec, fuse_multimodal

REPETITIONS = 15
NANOSECONDS = 1_000_000_000


@dataclass
class Case:
    name: str
    streams: list[StreamSpec]
    targets: torch.Tensor
    target_offsets: torch.Tensor | None = None
    out_dtype: torch.dtype | None = None


def dense(batch: int, samples: int, dim: int, dtype: torch.dtype, mode: str, period: int) -> StreamSpec:
    """Stamps at a steady period with jitter of a tenth of it."""
    times = torch.arange(samples, device="cuda") * period + torch.randint(
        0, max(period // 10, 1), (batch, samples), device="cuda"
    )
    values = torch.randn(batch, samples, dim, device="cuda", dtype=torch.float32).to(dtype)
    return StreamSpec(values, times, mode)


def targets_for(batch: int, count: int, span: int) -> torch.Tensor:
    return (torch.arange(count, device="cuda") * (span // count) + span // (2 * count)).repeat(batch, 1)


def resample_case(name: str, b: int, s: int, t: int, d: int, dtype: torch.dtype, mode: str = "linear") -> Case:
    period = 1_000_000
    return Case(name, [dense(b, s, d, dtype, mode, period)], targets_for(b, t, s * period))


def jagged_case(name: str, dim: int, dtype: torch.dtype) -> Case:
    """10,000 episodes of 50 to 20,000 samples (log-uniform), two samples a target."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.exp(torch.empty(10_000).uniform_(3.92, 9.9, generator=generator)).long().clamp(50, 20_000)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    target_offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (lengths // 2).cumsum(0)])
    period = 1_000_000

    def ramp(of: torch.Tensor, step: int) -> torch.Tensor:
        index = torch.arange(int(of[-1]))
        return (index - torch.repeat_interleave(of[:-1], of.diff())) * step

    times = ramp(offsets, period).cuda() + torch.randint(0, period // 10, (int(offsets[-1]),), device="cuda")
    values = torch.randn(int(offsets[-1]), dim, device="cuda").to(dtype)
    targets = ramp(target_offsets, 2 * period).cuda() + period
    return Case(name, [StreamSpec(values, times, "linear", offsets.cuda())], targets, target_offsets.cuda())


def fuse_case(name: str, dtype: torch.dtype, modes: tuple[str, str, str] = ("linear",) * 3) -> Case:
    """Three sensors, 30 s: 16 columns at 400 Hz, 8 at 1 kHz, 8 at 200 Hz, to 100 Hz."""
    batch, seconds = 512, 30
    rates = ((400, 16), (1000, 8), (200, 8))
    streams = [
        dense(batch, rate * seconds, dim, dtype, mode, NANOSECONDS // rate)
        for (rate, dim), mode in zip(rates, modes, strict=True)
    ]
    return Case(name, streams, targets_for(batch, 100 * seconds, seconds * NANOSECONDS))


def cases() -> list:
    bf16, f32, f64 = torch.bfloat16, torch.float32, torch.float64
    shapes = [
        ("B1024 S4096 T2048 D128 bf16", 1024, 4096, 2048, 128, bf16),
        ("B1024 S4096 T2048 D128 f32", 1024, 4096, 2048, 128, f32),
        ("B4096 S1000 T500 D32 bf16", 4096, 1000, 500, 32, bf16),
        ("B4096 S1000 T500 D32 f32", 4096, 1000, 500, 32, f32),
        ("B4096 S4096 T2048 D7 f32", 4096, 4096, 2048, 7, f32),
        ("B2048 S4096 T2048 D26 f32", 2048, 4096, 2048, 26, f32),
        ("B2048 S4096 T2048 D26 bf16", 2048, 4096, 2048, 26, bf16),
        ("B1024 S4096 T2048 D26 f64", 1024, 4096, 2048, 26, f64),
    ]
    made = [(f"linear {n}", lambda n=n, a=a: resample_case(f"linear {n}", *a)) for n, *a in shapes]
    made += [
        (
            "linear jagged 10,000 episodes D32 bf16",
            lambda: jagged_case("linear jagged 10,000 episodes D32 bf16", 32, bf16),
        ),
        ("linear jagged 10,000 episodes D7 f32", lambda: jagged_case("linear jagged 10,000 episodes D7 f32", 7, f32)),
        ("fuse 3 streams bf16", lambda: fuse_case("fuse 3 streams bf16", bf16)),
        ("fuse 3 streams f32", lambda: fuse_case("fuse 3 streams f32", f32)),
        (
            "fuse 3 streams linear mean nearest f32",
            lambda: fuse_case("fuse 3 streams linear mean nearest f32", f32, ("linear", "mean", "nearest")),
        ),
    ]
    for mode, dim in (("nearest", 32), ("cubic", 32), ("mean", 32), ("angle", 32), ("slerp", 4), ("pose", 7)):
        name = f"{mode} B4096 S2000 T1000 D{dim} f32"
        made.append((name, lambda n=name, m=mode, d=dim: resample_case(n, 4096, 2000, 1000, d, f32, m)))
    return made


def touched_rows(case: Case) -> list[int]:
    """How many sample rows each stream's targets use: counted by aligning the rows' own numbers."""
    counts = []
    for s in case.streams:
        jagged = s.offsets is not None
        total = s.times.numel()
        used = torch.zeros(total + 1, dtype=torch.bool, device="cuda")
        if s.mode == "mean":
            counts.append(total)
            continue
        if jagged:
            local = torch.arange(total, device="cuda")
            numbers = local[:, None].double()
        else:
            numbers = torch.arange(total, device="cuda").view(s.times.shape)[..., None].double()
        modes = [s.mode] if s.mode in ("nearest",) else ["previous", "next"]
        for mode in modes:
            picked, _ = fuse_multimodal(
                [StreamSpec(numbers, s.times, mode, s.offsets)],
                case.targets,
                target_offsets=case.target_offsets,
                validate=False,
            )
            rows = picked.reshape(-1).nan_to_num(total).long()
            used[rows] = True
            if s.mode == "cubic":
                used[(rows - 1 if mode == "previous" else rows + 1).clamp(0, total)] = True
        counts.append(int(used[:total].sum()))
    return counts


def floor_bytes(case: Case, out: torch.Tensor, valid: torch.Tensor) -> int:
    rows = touched_rows(case)
    values = sum(
        n * (s.values.shape[-1] * s.values.element_size() + 8) for n, s in zip(rows, case.streams, strict=True)
    )
    return values + case.targets.numel() * 8 + out.numel() * out.element_size() + valid.numel()


def median_ms(function, flush: torch.Tensor) -> tuple[float, float, float]:
    for _ in range(3):
        function()
    times = []
    for _ in range(REPETITIONS):
        flush.fill_(1)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    times.sort()
    return times[len(times) // 2], times[0], times[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", default="benchmarks/results/gpu_bandwidth.csv")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--commit", default="", help="where the tree is no git checkout")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return 0
    flush = torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda")
    source = torch.empty(2 * 2**30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copy_ms, *spread = median_ms(lambda source=source, target=target: target.copy_(source), flush)
    copy = 2 * source.numel() / copy_ms / 1e6
    del source, target
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    where = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": args.commit or commit or "unknown",
    }
    rows = [
        {
            "case": "copy 2 GiB",
            "ms": copy_ms,
            "ms_min": spread[0],
            "ms_max": spread[1],
            "n": REPETITIONS,
            "gbytes": 4.295,
            "gb_s": copy,
        }
        | {"share": 1.0}
        | where
    ]
    print(f"{'case':44} {'ms':>8} {'GB':>7} {'GB/s':>7} {'of copy':>7}")
    print(f"{'copy 2 GiB':44} {copy_ms:8.3f} {4.295:7.3f} {copy:7.0f} {1:7.1%}")
    for name, make in cases():
        if args.only not in name:
            continue
        case = make()

        def call(case: Case = case):
            return fuse_multimodal(
                case.streams,
                case.targets,
                target_offsets=case.target_offsets,
                out_dtype=case.out_dtype,
                validate=False,
            )

        out, valid = call()
        size = floor_bytes(case, out, valid)
        del out, valid
        ms, low, high = median_ms(call, flush)
        speed = size / ms / 1e6
        print(f"{name:44} {ms:8.3f} {size / 1e9:7.3f} {speed:7.0f} {speed / copy:7.1%}", flush=True)
        rows.append(
            {
                "case": name,
                "ms": ms,
                "ms_min": low,
                "ms_max": high,
                "n": REPETITIONS,
                "gbytes": size / 1e9,
                "gb_s": speed,
            }
            | {"share": speed / copy}
            | where
        )
        del case, call
        torch.cuda.empty_cache()
    path = Path(args.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
