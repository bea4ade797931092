"""What Hopper's own instructions are worth here: prototypes beside the shipped kernels, on the same data, in turns.

    python benchmarks/hopper.py --out benchmarks/results/hopper.csv [--cutlass FOLDER]

``bulk``      narrow rows by bulk copies of the copy engine (TMA) in blocks that stay, hopper/bulk.cu
``cluster``   stamps that all episodes share, searched once a cluster of blocks, hopper/cluster.cu
``wgmma``     interpolation as a banded matrix times the samples on the matrix units, hopper/wgmma.cu (needs the headers
              of CUTLASS, ``pip download nvidia-cutlass``); ``cublas`` the same product by torch.bmm, its matrix given
``fetch``     the shipped kernel under another limit of what L2 fetches from memory at least (32, 64, 128 bytes)

docs/architecture/hopper.md says what came of each. A prototype whose values are not the shipped ones (bit by bit, but
for the matrix products) ends the program. ``--profile NAME`` runs each variant of a technique once, for ncu.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import gpu_common
import torch
from bytes_model import bytes_of, used_rows
from cases import Batch, Case, load
from common import CsvLog
from gpu_common import Bench
from torch import Tensor

from robocache.ops import limit_l2_fetch

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent / "kernels"
FLAGS = ["-std=c++20", "-O3", "-fmad=false", "-gencode=arch=compute_90a,code=sm_90a", "--expt-relaxed-constexpr"]
SHIPPED = "shipped"
TILE, WINDOW = 64, 144  # of hopper/wgmma.cu

Variant = Callable[[Batch], tuple[Tensor, Tensor]]


class Unfit(Exception):
    """A prototype does not take this case."""


class Call(ctypes.Structure):
    """hopper/prototype.cuh's struct of this name."""

    _fields_ = [
        (name, ctypes.c_void_p) for name in ("values", "times", "offsets", "targets", "target_offsets", "out", "valid")
    ] + [
        (name, ctypes.c_int64)
        for name in ("batch", "length", "dim", "time_stride", "target_length", "target_stride", "rows", "bf16")
    ]
    _fields_.append(("queue", ctypes.c_void_p))


def build(name: str, folder: Path, *flags: str) -> ctypes.CDLL:
    """Compiles ``hopper/NAME.cu`` into ``folder``, unless it is there."""
    library = folder / f"{name}.so"
    if not library.exists():
        source = HERE / "hopper" / f"{name}.cu"
        include = [f"-I{KERNELS}", f"-I{KERNELS / 'include'}"]
        command = ["nvcc", *FLAGS, *include, *flags, "-shared", "-Xcompiler", "-fPIC", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def prototype(function: Callable[..., int], *arguments: object) -> Variant:
    """``function(call, *arguments)`` on a batch of one linear stream."""

    def run(batch: Batch) -> tuple[Tensor, Tensor]:
        (values, times, _, offsets, *_), targets = batch.streams[0], batch.targets
        out = torch.empty((*targets.shape, values.shape[-1]), dtype=values.dtype, device="cuda")
        valid = torch.empty((*targets.shape, 1), dtype=torch.bool, device="cuda")
        jagged = offsets is not None
        call = Call(
            values=values.data_ptr(),
            times=times.data_ptr(),
            offsets=offsets.data_ptr() if jagged else None,
            targets=targets.data_ptr(),
            target_offsets=batch.target_offsets.data_ptr() if jagged else None,
            out=out.data_ptr(),
            valid=valid.data_ptr(),
            batch=len(offsets) - 1 if jagged else values.shape[0],
            length=values.shape[-2],
            dim=values.shape[-1],
            time_stride=0 if jagged else times.stride(0),
            target_length=0 if jagged else targets.shape[1],
            target_stride=0 if jagged else targets.stride(0),
            rows=targets.numel(),
            bf16=values.dtype == torch.bfloat16,
            queue=torch.cuda.current_stream().cuda_stream,
        )
        status = function(ctypes.byref(call), *arguments)
        if status:
            raise Unfit(f"the prototype returned {status}")
        return out, valid

    return run


def shared_stamps(batch: Batch) -> Batch:
    """The same values, every episode with the stamps and the targets of the first."""
    stream, targets = batch.streams[0], batch.targets
    times = stream.times[:1].expand(stream.times.shape)
    return Batch((stream._replace(times=times),), targets[:1].expand(targets.shape), None, batch.longest)


def banded(batch: Batch) -> Variant:
    """cuBLAS: ``[tiles, 64, 144] x [tiles, 144, D]``, its left factor given, so neither search nor matrix are timed.

    Tile k of an episode starts at sample 128 k, where stamps are evenly spaced but for jitter and targets half as many.
    """
    (values, times, *_), targets = batch.streams[0], batch.targets
    episodes, length, dim = values.shape
    tiles = targets.shape[1] // TILE
    step = length // tiles
    inside = torch.searchsorted(times[:1], targets[:1], right=True)[0] - 1  # alike in every episode, but for jitter
    begin = torch.arange(tiles, device="cuda") * step
    weights = torch.zeros((tiles, TILE, WINDOW), dtype=values.dtype, device="cuda")
    place = inside.view(tiles, TILE) - begin[:, None]
    weights.scatter_(2, place[..., None], 0.5)
    weights.scatter_(2, place[..., None] + 1, 0.5)
    given = weights.repeat(episodes, 1, 1)

    def run(batch: Batch) -> tuple[Tensor, Tensor]:
        source = batch.streams[0].values
        # without the last one, which would end behind the values
        windows = source.as_strided(
            (episodes * tiles - 1, WINDOW, dim), (step * dim, dim, 1)
        )  # the last would end late
        return torch.bmm(given[:-1], windows), given

    return run


def fetch(size: int) -> Variant:
    def run(batch: Batch) -> tuple[Tensor, Tensor]:
        limit_l2_fetch(size)
        return batch.aligned()

    return run


def techniques(folder: Path, cutlass: Path | None, misfits: Tensor) -> dict[str, tuple[list[str], dict[str, Variant]]]:
    """Each one's cases (as ``load`` finds them) and variants. ``misfits`` counts the targets that the matrix products
    leave out, as their samples are not among their tile's.
    """
    bulk, cluster = build("bulk", folder).bulk_linear, build("cluster", folder).cluster_linear
    found: dict[str, tuple[list[str], dict[str, Variant]]] = {
        "bulk": (
            ["T2048 D7 linear", "20000 D7 linear", "T2048 D26 linear"],
            {
                f"{stages} stages" + (f", {blocks} blocks" if blocks else ""): prototype(bulk, stages, blocks)
                for stages, blocks in ((1, 0), (2, 0), (3, 0), (4, 0), (2, 4))
            },
        ),
        "cluster": (
            ["S4096 T2048 D128 linear", "S1000 T500 D32 linear"],
            {f"clusters of {size}": prototype(cluster, size) for size in (1, 2, 4, 8)},
        ),
        "fetch": (
            ["D7 linear", "D14 linear", "D7 pose", "fuse"],
            {f"{size} bytes": fetch(size) for size in (32, 64, 128)},
        ),
    }
    if cutlass is not None:
        wgmma = build("wgmma", folder, f"-I{cutlass}").wgmma_linear
        at = ctypes.c_void_p(misfits.data_ptr())
        found["wgmma"] = (
            ["S4096 T2048 D128 linear bf16"],
            {
                "2 taps": prototype(wgmma, 2, 1, at),
                "2 taps, weights of 16 bits": prototype(wgmma, 2, 2, at),
                "4 taps": prototype(wgmma, 4, 1, at),
            },
        )
    return found


def difference(found: Tensor, right: Tensor) -> float:
    """The largest, beside the largest value; NaN where one has a NaN that the other has not."""
    a, b = found.float(), right.float()
    if not torch.equal(a.isnan(), b.isnan()):
        return float("nan")
    return float((a - b).abs().nan_to_num().max() / b.abs().nan_to_num().max())


def input_of(technique: str, case: Case) -> Batch:
    batch = case.build("cuda")
    return shared_stamps(batch) if technique == "cluster" else batch


def copy_of(technique: str, batch: Batch) -> Batch:
    return shared_stamps(batch.copy()) if technique == "cluster" else batch.copy()


def measure(
    technique: str,
    case: Case,
    variants: dict[str, Variant],
    misfits: Tensor,
    bench: Bench,
    log: CsvLog,
    repetitions: int,
) -> None:
    where = gpu_common.environment("cuda")
    batch = input_of(technique, case)
    out, valid = batch.aligned()
    ideal = bytes_of(batch, out, valid).ideal
    if technique == "cluster":  # all share the first episode's stamps and targets, which are nothing beside the values
        ideal -= len(used_rows(batch, batch.streams[0])) * batch.streams[0].times.itemsize + batch.targets.nbytes
    exact = technique not in ("wgmma", "cublas")
    off = {SHIPPED: 0.0}
    for name, call in list(variants.items()):
        try:
            values, flags = call(batch)
        except Unfit as why:
            print(f"{technique:8} {case.name} {case.dtype}, {name}: {why}")
            variants = {n: v for n, v in variants.items() if n != name}
            continue
        off[name] = difference(values, out)
        same = torch.equal(flags, valid)
        if exact and (off[name] != 0 or not same):
            sys.exit(f"{technique}, {name}, {case.name} {case.dtype}: off by {off[name]}, flags equal: {same}")
    if int(misfits):
        sys.exit(f"{case.name}: {int(misfits)} targets outside their tile's samples")
    if technique == "wgmma":
        variants = {**variants, "cublas, matrix given": banded(batch)}
        off["cublas, matrix given"] = float("nan")
    per_set = batch.input_bytes + out.nbytes + valid.nbytes
    del out, valid
    count = gpu_common.sets_needed(per_set, "cuda")
    sets = [batch, *(copy_of(technique, batch) for _ in range(count - 1))]
    copy, copy_bytes = bench.copy()
    copies: dict[str, gpu_common.Times] = {}
    # A limit of the card holds for all that runs: no turns, and the copy under each of them, too.
    calls: dict[str, Variant] = variants if technique == "fetch" else {SHIPPED: Batch.aligned, **variants}
    times: dict[str, gpu_common.Times] = {}
    if technique == "fetch":
        for name, call in calls.items():
            call(batch)
            found, _ = bench.measure({name: Batch.aligned}, sets, repetitions)
            times |= found
            copies[name], _ = bench.copy()
        limit_l2_fetch(64)
    else:
        times, _ = bench.measure(calls, sets, repetitions)
    shipped = times["64 bytes" if technique == "fetch" else SHIPPED]
    for name, found in times.items():
        speed = copy_bytes / copies.get(name, copy).median / 1e6
        numbers = gpu_common.numbers(found, shipped, ideal, speed)
        log.write(
            {
                "technique": technique,
                "case": case.name,
                "dtype": case.dtype,
                "variant": name,
                **numbers,
                "off": f"{off.get(name, 0):.3g}",
                "copy_gb_s": f"{speed:.1f}",
                **where,
            }
        )
        print(
            f"{technique:8} {case.name} {case.dtype}, {name}: {found.median:.4f} ms,"
            f" {numbers['share_ideal']} of a copy, {numbers['times_robocache']} of shipped, off {off.get(name, 0):.3g}",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--cutlass", type=Path, help="CUTLASS' include folder")
    parser.add_argument("--libraries", type=Path, help="folder of compiled prototypes, to compile none again")
    parser.add_argument("--repetitions", type=int, default=gpu_common.REPETITIONS)
    parser.add_argument("--only", default="", help="a technique")
    parser.add_argument("--profile", action="store_true", help="run everything once, between the profiler's marks")
    args = parser.parse_args()
    if torch.cuda.get_device_capability() < (9, 0):
        sys.exit("these need compute capability 9.0")
    with tempfile.TemporaryDirectory() as own:
        misfits = torch.zeros(1, dtype=torch.int32, device="cuda")
        found = techniques(args.libraries or Path(own), args.cutlass, misfits)
        log = None if args.profile else CsvLog(args.out)
        bench = Bench("cuda")
        for technique, (names, variants) in found.items():
            if args.only not in ("", technique):
                continue
            cases = [c for name in names for c in load(("large",), name)]
            if args.profile:
                cases = cases[:1]
            for case in cases:
                if log is not None:
                    measure(technique, case, variants, misfits, bench, log, args.repetitions)
                    continue
                batch = input_of(technique, case)
                calls = [Batch.aligned, *variants.values()]
                for call in calls:
                    call(batch)
                torch.cuda.synchronize()
                torch.cuda.cudart().cudaProfilerStart()
                for call in calls:
                    call(batch)
                torch.cuda.synchronize()
                torch.cuda.cudart().cudaProfilerStop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
