"""Writes every number in the documents from the result files, and draws the plots.

    python benchmarks/report.py            fill the tables, draw docs/perf/plots/*.svg
    python benchmarks/report.py --check    exit 1 where a table is not what the result files say

Tables stand between markers (documents.py); where a result file is missing they say so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from common import read_csv
from documents import NOT_MEASURED, fill, filled, table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PLOTS = ROOT / "docs" / "perf" / "plots"
DOCUMENTS = (
    ROOT / "benchmarks" / "comparison_matrix.md",
    ROOT / "docs" / "competitive_analysis.md",
    ROOT / "docs" / "architecture" / "hopper.md",
    ROOT / "docs" / "perf" / "energy.md",
    ROOT / "docs" / "perf" / "precision.md",
    ROOT / "docs" / "perf" / "ablations.md",
    ROOT / "docs" / "benchmarks" / "REPRODUCING.md",
)
OURS = "robocache"
PEERS = ("pytorch eager", "torch.compile", "triton", "cupy")
VOXEL_PEERS = ("pytorch eager", "torch.compile", "triton", "mmcv's algorithm", "spconv's algorithm")
HEADER = ("case", "size", "ms, median ± stddev", "ideal MB", "share, ideal")
Row = dict[str, str]


def results(name: str) -> list[Row]:
    """Rows of a result file; none where it is not there."""
    path = RESULTS / f"{name}.csv"
    return read_csv(path) if path.exists() else []


def cases(rows: list[Row]) -> dict[tuple[str, str, str], dict[str, Row]]:
    """(size, case, dtype) -> who -> row, in the order of the file."""
    found: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row["size"], row["case"], row["dtype"]), {})[row["who"]] = row
    return found


# ---- tables ---------------------------------------------------------------------------------------------------------


def throughput(name: str) -> str:
    """Time, spread and share of a copy of each case, and how many times slower each peer is."""
    lines = []
    for (size, case, dtype), who in cases(results(name)).items():
        if ours := _ours(f"{case} {dtype}", size, who):
            shares = [f"{float(who[OURS][f'share_{model}']):.1%}" for model in ("sectors", "pieces")]
            lines.append([*ours, *shares, *(_times(who.get(peer)) for peer in PEERS)])
    return table([*HEADER, "sectors", "pieces", *(f"{peer}, x" for peer in PEERS)], lines)


def voxels() -> str:
    """Time, spread and share of a copy of each case, and how many times slower each peer is; a star: other bits on
    another run of the same input."""
    lines = []
    for (size, case, dtype), who in cases(results("phase3_voxelization")).items():
        if ours := _ours(f"{case} {dtype}", size, who):
            peers = [(who.get(peer), _times(who.get(peer))) for peer in VOXEL_PEERS]
            starred = (f"{x} *" if row is not None and row["same_bits"] == "False" else x for row, x in peers)
            lines.append([*ours, *starred])
    return table([*HEADER, *(f"{peer}, x" for peer in VOXEL_PEERS)], lines)


def _ours(case: str, size: str, who: Mapping[str, Row]) -> list[str]:
    """RoboCache's cells of :data:`HEADER`, in bold where the case must be shown; none where it has no result."""
    ours = who.get(OURS)
    if ours is None or ours["status"] != "ok":
        return []
    must = "**" if ours["must_show"] == "True" else ""
    return [
        f"{must}{case}{must}",
        size,
        f"{float(ours['median_ms']):.4f} ± {float(ours['stddev_ms']):.4f}",
        f"{int(ours['bytes_ideal']) / 1e6:.1f}",
        f"{float(ours['share_ideal']):.1%}",
    ]


def _times(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{float(row['times_robocache']):.2f}" if row["status"] == "ok" else "-"


def best_peer() -> str:
    """On the shapes that matter: the best of torch.compile and Triton, and each one's factor."""
    lines = []
    for name in ("phase1_trajectory", "phase2_multimodal"):
        for (size, case, dtype), who in cases(results(name)).items():
            if size == "small" or who.get(OURS, {}).get("must_show") != "True":
                continue
            factors = {p: float(who[p]["times_robocache"]) for p in PEERS if p in who and who[p]["status"] == "ok"}
            best = min(factors, key=lambda p: factors[p]) if factors else ""
            lines.append([f"{case} {dtype}", best, *(f"{factors[p]:.2f}" if p in factors else "-" for p in PEERS)])
    return table(["case", "fastest peer", *(f"{peer}, x" for peer in PEERS)], lines)


def why_not() -> str:
    """Every baseline that was not timed on a case, and the reason."""
    lines = [
        f"- {row['case']} {row['dtype']}: {row['who']}: {row['status']}"
        for name in ("phase1_trajectory", "phase2_multimodal")
        for row in results(name)
        if row["status"] != "ok"
    ]
    measured = results("phase1_trajectory") or results("phase2_multimodal")
    return "\n".join(lines) or ("All were timed on all of their cases." if measured else NOT_MEASURED)


def latency() -> str:
    found: dict[tuple[str, str], dict[tuple[str, str], Row]] = {}
    for row in results("latency"):
        found.setdefault((row["case"], row["dtype"]), {})[row["measure"], row["who"]] = row

    def number(rows: dict[tuple[str, str], Row], measure: str, who: str, column: str = "median_us") -> str:
        row = rows.get((measure, who))
        return f"{float(row[column]):.2f}" if row else "-"

    lines = [
        [
            f"{case} {dtype}",
            number(rows, "graph", OURS),
            number(rows, "graph", "empty kernel"),
            number(rows, "graph", OURS, "times_empty"),
            number(rows, "graph", "triton"),
            number(rows, "host", OURS),
            number(rows, "host", "robocache op"),
            number(rows, "host", "torch op"),
            number(rows, "host", "torch fill of 1"),
            number(rows, "host", "triton"),
            number(rows, "turns", OURS),
            number(rows, "turns", "torch fill of 1"),
        ]
        for (case, dtype), rows in found.items()
    ]
    header = ["case", "graph, us", "empty kernel, us", "x empty", "triton graph, us", "host, us", "of it operator, us"]
    header += ["by torch.ops, us", "torch fill_ of 1, us", "triton, us", "in turns, us", "fill_ in turns, us"]
    return table(header, lines)


def attention() -> str:
    lines = [
        [
            row["who"],
            f"{float(row['median_ms']):.4f}",
            f"{float(row['times_linear_bf16']):.1f}",
            f"{float(row['operations']) / 1e12:.2f}" if row["operations"] else "",
            row["rms_error"],
            row["max_error"],
        ]
        for row in results("attention")
    ]
    return table(["who", "ms", "x linear bf16", "10^12 operations", "RMS error", "largest error"], lines)


def precision() -> str:
    lines = [
        [
            f"{row['input']} to {row['output']}",
            f"{float(row['median_ms']):.4f}",
            f"{int(row['bytes_ideal']) / 1e6:.1f}",
            f"{float(row['share_sectors']):.1%}",
            row["rms_rounding"],
            row["max_rounding"],
            row["rms_interpolation"],
        ]
        for row in results("precision")
    ]
    header = ["in and out", "ms", "ideal MB", "share, sectors", "RMS rounding", "largest rounding", "RMS to the signal"]
    return table(header, lines)


def ablations() -> str:
    lines = [
        [
            f"{row['case']} {row['dtype']}",
            row["variant"],
            *(
                [
                    f"{float(row['median_ms']):.4f} ± {float(row['stddev_ms']):.4f}",
                    f"{float(row['times_first']):.3f}" if row["times_first"] else "",
                    f"{float(row['share_sectors']):.1%}",
                ]
                if row["status"] == "ok"
                else [row["status"], "", ""]
            ),
        ]
        for row in results("ablations")
    ]
    return table(["case", "variant", "ms, median ± stddev", "x the first", "share, sectors"], lines)


def hopper(technique: str) -> str:
    """Each variant of a technique beside the shipped kernel, case by case."""
    lines = [
        [
            f"{row['case']} {row['dtype']}",
            row["variant"],
            f"{float(row['median_ms']):.4f} ± {float(row['stddev_ms']):.4f}",
            f"{float(row['share_ideal']):.1%}",
            row["times_robocache"],
            row["off"],
        ]
        for row in results("hopper")
        if row["technique"] == technique
    ]
    return table(["case", "variant", "ms, median ± stddev", "of a copy", "x shipped", "off by"], lines)


def energy() -> str:
    """Watts, and joules for what has to be moved, of everyone; the peers' energy beside ours."""
    rows = results("energy")
    ours = {(row["case"], row["dtype"]): row for row in rows if row["who"] == OURS}
    lines = []
    for row in rows:
        if not row["watts"]:
            continue
        mine = ours.get((row["case"], row["dtype"]))
        times = f"{float(row['joules_gb']) / float(mine['joules_gb']):.2f}" if mine else ""
        what = f"{row['case']} {row['dtype']}".strip()
        figures = [row["watts"], row["joules_gb"], row["joules_gb_over_idle"], row["joules_million_rows"], times]
        lines.append([what, row["who"], *figures])
    return table(["case", "who", "W", "J/GB", "J/GB over idle", "J a million rows", "x robocache"], lines)


def where() -> str:
    """The machine of every result file."""
    columns = ("device", "driver", "cuda", "torch", "triton", "cupy", "python", "commit")
    lines = []
    phases = ("phase1_trajectory", "phase2_multimodal", "phase3_voxelization", "phase4_action_space")
    for name in (*phases, "latency", "attention", "precision", "ablations", "hopper", "energy"):
        for machine in sorted({tuple(row.get(c, "") for c in columns) for row in results(name)}):
            lines.append([f"{name}.csv", *machine])
    return table(["file", *columns], lines)


def copy_speed() -> str:
    """What the copy and an empty kernel were in the run: the yardstick, and the protocol's own share of a time."""
    rows = [row for row in results("phase1_trajectory") + results("phase2_multimodal") if row["who"] == OURS]
    if not rows:
        return NOT_MEASURED
    speeds = sorted(float(row["copy_gb_s"]) for row in rows)
    nothing = sorted(float(row["nothing_median_ms"]) * 1e3 for row in rows)
    return (
        f"Copy of 2 GiB: {speeds[len(speeds) // 2]:,.0f} GB/s (median over {len(rows)} cases; "
        f"{speeds[0]:,.0f} to {speeds[-1]:,.0f}). Kernel that does nothing: {nothing[len(nothing) // 2]:.2f} us."
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "resample": lambda: throughput("phase1_trajectory"),
    "fuse": lambda: throughput("phase2_multimodal"),
    "voxels": voxels,
    "best-peer": best_peer,
    "why-not": why_not,
    "latency": latency,
    "attention": attention,
    "precision": precision,
    "ablations": ablations,
    **{f"hopper-{name}": partial(hopper, name) for name in ("bulk", "cluster", "fetch", "wgmma")},
    "energy": energy,
    "where": where,
    "copy": copy_speed,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        stale = [path for path in DOCUMENTS if filled(path.read_text(), BLOCKS) != path.read_text()]
        for path in stale:
            print(f"{path.relative_to(ROOT)}: run `python benchmarks/report.py`")
        return 1 if stale else 0
    for path in DOCUMENTS:
        print(f"{path.relative_to(ROOT)}: {'written' if fill(path, BLOCKS) else 'unchanged'}")
    try:
        import plots
    except ImportError as error:
        print(f"no plots: {error}")
        return 0
    for path in plots.draw(PLOTS, results):
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
