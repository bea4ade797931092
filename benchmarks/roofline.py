"""Roofline and counters of the profiled kernels, from the raw pages that scripts/profile_ncu.sh wrote.

    python benchmarks/roofline.py FOLDER     (*.csv in it) -> docs/perf/roofline/{h100.svg,h100_instructions.svg,
                                             h100_counters.csv}, and the table in docs/perf/roofline/h100_analysis.md

The copy bandwidth is that of benchmarks/results/phase1_trajectory.csv (column copy_gb_s). Arithmetic: float32 adds and
multiplies as 1, fused multiply-adds as 2, per byte that DRAM moved, as Nsight Compute's own roofline counts.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import re
import statistics
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from common import read_csv, write_csv
from documents import fill, table

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "perf" / "roofline"
COUNTERS = FOLDER / "h100_counters.csv"
SCALE = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+?)_per_issue_active\.ratio")
_FLOPS = "smsp__sass_thread_inst_executed_op_{}_pred_on.sum.per_cycle_elapsed"


@dataclass
class Counters:
    """One launch. Times in us, speeds in GB/s and GFLOP/s, the rest as named; nan: not in the file."""

    report: str
    kernel: str
    grid: str
    block: str
    time_us: float
    dram_read_mb: float
    dram_write_mb: float
    dram_gb_s: float
    dram_peak_percent: float
    share_of_copy: float
    gflop_s: float
    gflop_peak: float
    flop_per_byte: float
    achieved_occupancy_percent: float
    theoretical_occupancy_percent: float
    registers: float
    shared_bytes: float
    l1_hit_percent: float
    l2_hit_percent: float
    issue_slots_percent: float
    top_stall: str
    top_stall_cycles: float
    ginst_s: float = math.nan  # instructions of warps, 1e9 a second
    ginst_peak: float = math.nan  # one a cycle of each scheduler
    inst_per_kb: float = math.nan  # of warps, for 1,000 bytes that DRAM moved


def kept() -> list[Counters]:
    """Those of earlier reports."""
    if not COUNTERS.exists():
        return []
    kinds = {field.name: float if field.type == "float" else str for field in fields(Counters)}
    return [Counters(**{name: kinds[name](value) for name, value in row.items()}) for row in read_csv(COUNTERS)]


def read_raw(path: Path) -> list[dict[str, str | float]]:
    """Rows of a raw page in base units (seconds, bytes): its second line names each column's unit."""
    with path.open(newline="") as file:
        lines = [line for line in file if not line.startswith("==")]
    header, units, *rows = csv.reader(lines)
    return [{n: _value(v, u) for n, v, u in zip(header, row, units, strict=True)} for row in rows]


def _value(text: str, unit: str) -> str | float:
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        return text
    head = unit.split("/")[0]
    base = {"second": "s", "ns": "ns", "us": "us", "ms": "ms", "s": "s"}
    if head in base or head.endswith("second"):
        return number * SCALE.get(head[0], 1.0) if head not in ("s", "second") else number
    return number * SCALE[head[0]] if head[:1] in SCALE and head[1:] in ("byte", "hz", "Hz") else number


def counters(report: str, raw: dict[str, str | float], copy_gb_s: float) -> Counters:
    def number(*names: str) -> float:
        for name in names:
            if isinstance(value := raw.get(name), float):
                return value
        return float("nan")

    stalls = {
        found.group(1): value
        for name, value in raw.items()
        if (found := _STALL.fullmatch(name)) and isinstance(value, float) and found.group(1) != "selected"
    }
    top = max((name for name in stalls if not name.endswith("not_issued")), key=lambda n: stalls[n], default="")
    seconds = number("gpu__time_duration.sum")
    read, write = number("dram__bytes_read.sum"), number("dram__bytes_write.sum")
    dram = (read + write) / seconds
    clock = number("smsp__cycles_elapsed.avg.per_second")
    flops = sum(weight * number(_FLOPS.format(op)) for op, weight in (("fadd", 1), ("fmul", 1), ("ffma", 2))) * clock
    peak = 2 * number("sm__sass_thread_inst_executed_op_ffma_pred_on.sum.peak_sustained")
    return Counters(
        report=report,
        kernel=re.sub(r".*::(?=\w+<)", "", str(raw.get("Kernel Name", "")).removeprefix("void ").split("(")[0]),
        grid=str(raw.get("Grid Size", "")),
        block=str(raw.get("Block Size", "")),
        time_us=seconds * 1e6,
        dram_read_mb=read / 1e6,
        dram_write_mb=write / 1e6,
        dram_gb_s=dram / 1e9,
        dram_peak_percent=number(
            "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
            "dram__throughput.avg.pct_of_peak_sustained_elapsed",
        ),
        share_of_copy=dram / 1e9 / copy_gb_s,
        gflop_s=flops / 1e9,
        gflop_peak=peak * number("sm__cycles_elapsed.avg.per_second", "smsp__cycles_elapsed.avg.per_second") / 1e9,
        flop_per_byte=flops / dram,
        achieved_occupancy_percent=number("sm__warps_active.avg.pct_of_peak_sustained_active"),
        theoretical_occupancy_percent=number("sm__maximum_warps_per_active_cycle_pct"),
        registers=number("launch__registers_per_thread"),
        shared_bytes=number("launch__shared_mem_per_block_static") + number("launch__shared_mem_per_block_dynamic"),
        l1_hit_percent=number("l1tex__t_sector_hit_rate.pct"),
        l2_hit_percent=number("lts__t_sector_hit_rate.pct"),
        issue_slots_percent=number(
            "smsp__issue_active.avg.pct_of_peak_sustained_active", "sm__inst_issued.avg.pct_of_peak_sustained_active"
        ),
        top_stall=top,
        top_stall_cycles=stalls.get(top, float("nan")),
        ginst_s=number("smsp__inst_executed.sum") / seconds / 1e9,
        ginst_peak=number("smsp__cycles_elapsed.sum.per_second") / 1e9,
        inst_per_kb=1e3 * number("smsp__inst_executed.sum") / (read + write),
    )


def counters_table() -> str:
    """From the kept counters; nothing is measured yet where there are none."""
    lines = [
        [
            row["report"],
            f"`{row['kernel']}`",
            f"{float(row['time_us']):.1f}",
            f"{float(row['dram_gb_s']):,.0f}",
            f"{float(row['share_of_copy']):.1%}",
            f"{float(row['achieved_occupancy_percent']):.0f} of {float(row['theoretical_occupancy_percent']):.0f}",
            f"{float(row['registers']):.0f}",
            f"{float(row['shared_bytes']):.0f}",
            f"{float(row['l2_hit_percent']):.1f}",
            f"{float(row['issue_slots_percent']):.0f}",
            f"{row['top_stall']} {float(row['top_stall_cycles']):.1f}",
            f"{float(row['flop_per_byte']):.3f}",
            "" if math.isnan(per_kb := float(row["inst_per_kb"])) else f"{per_kb:.0f}",
        ]
        for row in (read_csv(COUNTERS) if COUNTERS.exists() else [])
    ]
    header = ["report", "kernel", "us", "DRAM GB/s", "of a copy", "occupancy, %", "registers", "shared, bytes"]
    return table(
        [*header, "L2 hits, %", "issue slots, %", "top stall, cycles an issue", "flop a byte", "instructions a kB"],
        lines,
    )


Point = tuple[Counters, float, float]  # of which kernel, where it is on the axes


def draw(
    points: list[Point], slope: float, peak: float, limits: tuple[float, float], names: list[str], path: Path
) -> None:
    """Kernels under a roof that rises by ``slope``, a copy's speed, to ``peak``. names: of axes and roof."""
    import plots

    figure, axes = plots.new_figure(7, 4.5)
    low, high = limits
    knee = peak / slope
    axes.plot([low, knee, high], [low * slope, peak, peak], color="black", linewidth=1)
    axes.annotate(names[2], (low * 1.1, low * slope * 6))
    axes.annotate(names[3], (knee / 12, peak * 0.9))
    markers = itertools.cycle("osD^v<>pPX*hd")  # more kernels than there are colours
    for c, x, y in points:
        axes.scatter(x, y, s=18, marker=next(markers), label=f"{c.report}, {c.share_of_copy:.0%} of a copy")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.legend(fontsize=4 if len(points) > 20 else 6, loc="lower right", ncols=2 if len(points) > 20 else 1)
    plots.save(figure, path)


def draw_both(found: list[Counters], copy: float) -> None:
    """The rooflines of arithmetic and of instructions, which issue slots bound whatever they compute."""
    line = f"copy, {copy:,.0f} GB/s"
    flops = [(c, c.flop_per_byte, c.gflop_s) for c in found if c.gflop_s > 0]
    peak = statistics.median(c.gflop_peak for c in found)
    names = ["float32 operations a DRAM byte", "GFLOP/s", line, f"float32 peak, {peak:,.0f} GFLOP/s"]
    draw(flops, copy, peak, (0.1, 100.0), names, FOLDER / "h100.svg")
    issued = [(c, c.inst_per_kb, c.ginst_s) for c in found if c.ginst_s > 0]
    peak = statistics.median(c.ginst_peak for c, *_ in issued)
    names = ["instructions of warps for 1,000 DRAM bytes", "1e9 instructions a second", line]
    draw(
        issued,
        copy / 1e3,
        peak,
        (10.0, 10000.0),
        [*names, f"issue slots, {peak:,.0f}"],
        FOLDER / "h100_instructions.svg",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="raw pages: NAME.csv")
    parser.add_argument("--copy-gb-s", type=float, help="instead of the result file's copy bandwidth")
    args = parser.parse_args()
    results = ROOT / "benchmarks" / "results" / "phase1_trajectory.csv"
    if args.copy_gb_s is None and not results.exists():
        parser.error(f"{results} is not there: run benchmarks/run_all.sh first, or give --copy-gb-s")
    copy = args.copy_gb_s or statistics.median(float(row["copy_gb_s"]) for row in read_csv(results))
    found = [counters(path.stem, raw, copy) for path in sorted(args.folder.glob("*.csv")) for raw in read_raw(path)]
    if not found:
        print(f"{args.folder} holds no *.csv")
        return 1
    told = {c.report for c in found}
    found = sorted(found + [c for c in kept() if c.report not in told], key=lambda c: c.report)
    write_csv(COUNTERS, [asdict(c) for c in found])
    fill(FOLDER / "h100_analysis.md", {"counters": counters_table})
    print(counters_table())
    draw_both(found, copy)
    return 0


if __name__ == "__main__":
    sys.exit(main())
