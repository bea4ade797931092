"""Registers of every alignment kernel and the occupancy they allow, as the compiler says; needs nvcc, no GPU.

    python benchmarks/occupancy.py [--arch 90]    4 minutes of compiling -> benchmarks/results/occupancy_sm_ARCH.csv
    python benchmarks/occupancy.py --tables       only the tables in docs/architecture/occupancy_analysis.md

Compiles as scripts/check_kernels.sh does: PTX for compute_80, from Hopper on compute_90, and from that machine code for
one architecture.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from common import read_csv, write_csv
from documents import fill, table
from gpu_common import commit

from robocache.ops.modes import MODES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture" / "occupancy_analysis.md"
REGISTERS_90 = ROOT / "benchmarks" / "results" / "occupancy_sm_90.csv"
COUNTERS = ROOT / "docs" / "perf" / "roofline" / "h100_counters.csv"
TIMES = {"l": "int64", "d": "float64", "f": "float32"}
VALUES = {"f": "f32", "d": "f64", "Half": "f16", "BFloat16": "bf16", "AnyFloat": "AnyFloat", "Any": "Any"}
REGISTERS, UNIT, WARPS_A_BLOCK = 65_536, 256, 4  # of a multiprocessor; a warp gets registers in units of 256
WARPS = {"86": 48, "89": 48, "120": 48}  # a multiprocessor holds, where it is not 64

_KERNEL = re.compile(r"11fuse_kernelI([ldf])([fd]|N\w*?\d+([A-Z][A-Za-z]+\d*)E)Li(\d+)ELi(\d+)ELi(n?\d+)E")
_COMPILED = re.compile(r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry function|\Z)", re.DOTALL)
_ENTRY = re.compile(r"\.entry (\w+)\((.*?)\{", re.DOTALL)


@dataclass(frozen=True)
class Kernel:
    """One instantiation. Blocks, warps, occupancy: of a multiprocessor, as many as the registers allow."""

    arch: str
    time: str
    values: str
    vec: int
    streams: int
    mode: str
    launch_bound_blocks: int
    registers: int
    static_shared_bytes: int
    stack_bytes: int
    spill_bytes: int
    parameter_bytes: int
    blocks: int
    warps: int
    occupancy: float
    commit: str


def template_arguments(mangled: str) -> tuple[str, str, int, int, str]:
    """Time, V, VEC, Cap, and the mode that all streams share ("any": none) of a kernel's mangled name.

    ``ValueError`` where it is none of ours.
    """
    if not (found := _KERNEL.search(mangled)):
        raise ValueError(f"{mangled} is no fuse_kernel<Time, V, VEC, Cap, kMode>")
    time, values, name, vec, cap, mode = found.groups()
    lean = "any" if mode.startswith("n") else MODES[int(mode)]
    return TIMES[time], VALUES[name or values], int(vec), int(cap), lean


def blocks_by_registers(registers: int, warps: int) -> int:
    """On a multiprocessor that holds ``warps``; each of its four partitions takes a warp of a block."""
    a_warp = -(-registers * 32 // UNIT) * UNIT
    return min(REGISTERS // 4 // a_warp, warps // WARPS_A_BLOCK)


def parse(ptx: str, log: str, arch: str, at_commit: str) -> Iterator[Kernel]:
    """``ptx`` declares parameters and launch bounds; ``log`` is what ``ptxas -v`` said of it."""

    def total(pattern: str, text: str) -> int:
        return sum(int(number) for number in re.findall(pattern, text))

    declared = dict(_ENTRY.findall(ptx))
    for name, said in _COMPILED.findall(log):
        registers, most = total(r"Used (\d+) registers", said), WARPS.get(arch, 64)
        warps = blocks_by_registers(registers, most) * WARPS_A_BLOCK
        yield Kernel(
            f"sm_{arch}",
            *template_arguments(name),
            launch_bound_blocks=total(r"\.minnctapersm (\d+)", declared[name]),
            registers=registers,
            static_shared_bytes=total(r"(\d+) bytes smem", said),
            stack_bytes=total(r"(\d+) bytes stack frame", said),
            spill_bytes=total(r"(\d+) bytes spill", said),
            parameter_bytes=total(r"_param_\d+\[(\d+)\]", declared[name]),  # multiples of 8: nothing between them
            blocks=warps // WARPS_A_BLOCK,
            warps=warps,
            occupancy=warps / most,
            commit=at_commit,
        )


def compiled(arch: str, at_commit: str) -> list[Kernel]:
    """Every kernel of kernels/cuda/align, one compiler at a time. ``CalledProcessError`` where it refuses."""
    kernels: list[Kernel] = []
    flags = ["-std=c++20", "-O3", "-fmad=false", "-I.", "-Iinclude", "-ptx"]
    flags.append(f"-arch=compute_{90 if int(arch) >= 90 else 80}")
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder, "kernels.ptx")
        for source in sorted((ROOT / "kernels" / "cuda" / "align").glob("*.cu")):
            subprocess.run(["nvcc", *flags, source, "-o", ptx], cwd=ROOT / "kernels", check=True)
            command = ["ptxas", f"-arch=sm_{arch}", "-v", str(ptx), "-o", f"{ptx}.o"]
            log = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
            kernels += parse(ptx.read_text(), log, arch, at_commit)
    return sorted(kernels, key=lambda k: (k.mode == "any", k.mode, k.values.lower(), k.time, k.streams, -k.vec))


def registers_table() -> str:
    columns = ("launch_bound_blocks", "registers", "blocks", "warps")
    sizes = ("static_shared_bytes", "stack_bytes", "spill_bytes", "parameter_bytes")
    lines = []
    for row in read_csv(REGISTERS_90) if REGISTERS_90.exists() else []:
        lean = "" if row["mode"] == "any" else f", {row['mode']}"
        name = f"`<{row['time']}, {row['values']}, {row['vec']}, {row['streams']}{lean}>`"
        lines.append([name, *(row[c] for c in columns), f"{float(row['occupancy']):.1%}", *(row[c] for c in sizes)])
    header = ["`fuse_kernel`", "blocks asked for", "registers", "blocks", "warps", "occupancy", "static shared"]
    return table([*header, "stack", "spills", "parameters"], lines)


def achieved_table() -> str:
    columns = ("registers", "shared_bytes", "theoretical_occupancy_percent", "achieved_occupancy_percent")
    rows = read_csv(COUNTERS) if COUNTERS.exists() else []
    lines = [[row["report"], f"`{row['kernel']}`", *(f"{float(row[c]):.0f}" for c in columns)] for row in rows]
    return table(["report", "kernel", "registers", "shared, bytes a block", "theoretical, %", "achieved, %"], lines)


BLOCKS: dict[str, Callable[[], str]] = {"registers": registers_table, "achieved": achieved_table}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="90", help="80, 86, 89, 90, 100, 120")
    parser.add_argument("--tables", action="store_true", help="compile nothing")
    args = parser.parse_args()
    if not args.tables:
        kernels = compiled(args.arch, commit())
        write_csv(REGISTERS_90.with_name(f"occupancy_sm_{args.arch}.csv"), [asdict(k) for k in kernels])
    print(f"{PAGE.relative_to(ROOT)}: {'written' if fill(PAGE, BLOCKS) else 'unchanged'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
