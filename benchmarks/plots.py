"""The plots of the result files: share of a copy, factors to the peers, accuracy against time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

Row = dict[str, str]
OURS = "robocache"
COLORS = {"bf16": "#1f77b4", "f32": "#ff7f0e", "f64": "#2ca02c", "f16": "#9467bd"}


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    mpl.rcParams.update({"svg.hashsalt": "robocache", "svg.fonttype": "none", "font.size": 8})
    return plt.subplots(figsize=(width, height), layout="constrained")


def save(figure: Any, path: Path) -> Path:
    """As SVG, without a date: the same results give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
    return path


def draw(folder: Path, results: Callable[[str], list[Row]]) -> list[Path]:
    """Whatever there are results for."""
    rows = [row for name in ("phase1_trajectory", "phase2_multimodal") for row in results(name)]
    rows = [row for row in rows if row["status"] == "ok" and row["size"] == "large"]
    found = []
    if rows:
        found += [save(_shares(rows), folder / "share_of_copy.svg"), save(_peers(rows), folder / "peers.svg")]
    if narrow := results("precision"):
        found.append(save(_precision(narrow), folder / "precision.svg"))
    return found


def _label(row: Row) -> str:
    return f"{row['case']} {row['dtype']}"


def _shares(rows: list[Row]) -> Any:
    ours = [row for row in rows if row["who"] == OURS][::-1]
    figure, axes = new_figure(8, 0.22 * len(ours) + 1)
    for row, y in zip(ours, range(len(ours)), strict=True):
        axes.barh(y, float(row["share_sectors"]) * 100, color=COLORS[row["dtype"]], alpha=0.35)
        axes.barh(y, float(row["share_ideal"]) * 100, color=COLORS[row["dtype"]], height=0.4)
    axes.axvline(100, color="black", linewidth=0.8)
    axes.axvline(93, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(ours)), [_label(row) for row in ours])
    axes.set_xlabel(f"% of the bandwidth of a 2 GiB copy, {ours[0]['device']} (narrow bar: ideal bytes, wide: sectors)")
    return figure


def _peers(rows: list[Row]) -> Any:
    names = sorted({row["who"] for row in rows} - {OURS})
    labels = [_label(row) for row in rows if row["who"] == OURS and row["must_show"] == "True"][::-1]
    figure, axes = new_figure(8, 0.3 * len(labels) + 1)
    for k, name in enumerate(names):
        found = {_label(row): float(row["times_robocache"]) for row in rows if row["who"] == name}
        shown = [(y, found[label]) for y, label in enumerate(labels) if label in found]
        places = [y + 0.8 * ((k + 0.5) / len(names) - 0.5) for y, _ in shown]
        axes.barh(places, [x for _, x in shown], height=0.8 / len(names), label=name)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("times RoboCache's time (1: as fast)")
    axes.legend()
    return figure


def _precision(rows: list[Row]) -> Any:
    figure, axes = new_figure(6, 4)
    for source, color in COLORS.items():
        part = [row for row in rows if row["input"] == source]
        errors = [max(float(row["rms_rounding"]), 1e-17) for row in part]
        axes.scatter([float(row["median_ms"]) for row in part], errors, color=color, label=f"{source} in")
        for row, error in zip(part, errors, strict=True):
            axes.annotate(row["output"], (float(row["median_ms"]), error), fontsize=6)
    axes.set_yscale("log")
    axes.set_xlabel("ms")
    axes.set_ylabel("RMS rounding error, relative to the column's peak")
    axes.legend()
    return figure
