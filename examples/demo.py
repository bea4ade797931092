"""`make demo`: sample logs of a simulated arm -> one fused table -> proof that it is right.

    python examples/demo.py [--seconds 20] [--episodes 8]

Writes sample_logs/ and out/demo/ in the current folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from robocache import Output, run, verify
from robocache.cli.progress import display
from robocache.cli.run import render
from robocache.sample import truth, write_samples

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"

# Output columns and the sources that make them, as in configs/demo.yaml, with what is left to expect: sensor noise
# (standard deviation in the logs), and for a 20 ms mean of the 1 kHz force also the curvature of the signal.
TRUTH = {
    "observation.state": (("/joint_states.position", "/joint_states.velocity"), "rad, rad/s"),
    "observation.wrench": (("/ft_sensor.wrench",), "N, Nm"),
    "observation.imu": (("/imu.angular_velocity", "/imu.linear_acceleration"), "rad/s, m/s2"),
    "observation.orientation": (("/imu.orientation",), "quaternion"),
    "observation.ee_pose": (("/ee_pose.pose",), "m, quaternion"),
}


def same_sign(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Quaternions q and -q are one rotation: take the sign nearer to the truth."""
    return np.where((values * like).sum(axis=1, keepdims=True) < 0, -values, values)


def compare(table, seed: int) -> Table:
    """Errors of every valid row against the analytic signal at its time."""
    report = Table(title="against the analytic ground truth (valid rows)", title_justify="left")
    for heading in ("column", "unit", "valid", "median error", "99 %", "largest"):
        report.add_column(heading, justify="left" if heading in ("column", "unit") else "right")
    episodes = table["episode_index"].to_numpy()
    times = table["time_ns"].to_numpy()
    for column, (sources, unit) in TRUTH.items():
        values = table[column].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1).astype(np.float64)
        valid = table[f"{column}.valid"].to_numpy()
        errors = []
        for episode in np.unique(episodes):
            rows = (episodes == episode) & valid
            exact = np.hstack([truth(s, times[rows], episode=int(episode), seed=seed) for s in sources])
            found = values[rows]
            if unit.endswith("quaternion"):
                found[:, -4:] = same_sign(found[:, -4:], exact[:, -4:])
            errors.append(np.abs(found - exact).max(axis=1))
        e = np.concatenate(errors)
        report.add_row(
            column, unit, f"{valid.mean():.1%}", f"{np.median(e):.2g}", f"{np.quantile(e, 0.99):.2g}", f"{e.max():.2g}"
        )
    return report


def head(table) -> Table:
    """The first rows, of each column its first two numbers."""
    shown = Table(title="the first rows (two numbers of each column)", title_justify="left")
    headings = {"episode_index": "ep.", "frame_index": "row", "timestamp": "t (s)"}
    names = [n for n in table.column_names if not n.endswith(".valid") and n != "time_ns"]
    for name in names:
        shown.add_column(headings.get(name, name.removeprefix("observation.")), no_wrap=True)
    for row in table.slice(0, 5).to_pylist():
        cells = []
        for name in names:
            value = row[name]
            if isinstance(value, list):
                value = " ".join(f"{x:.2f}" for x in value[:2]) if row[f"{name}.valid"] else "not valid"
            cells.append(f"{value:.2f}" if isinstance(value, float) else str(value))
        shown.add_row(*cells)
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    console = Console(width=max(Console().width, 110))
    began = time.monotonic()
    logs = write_samples("sample_logs", episodes=args.episodes, seconds=args.seconds, seed=0)
    console.print(f"{len(logs)} logs, {sum(p.stat().st_size for p in logs) / 1e6:.1f} MB, the last one cut off\n")
    with display() as progress:
        summary = run(str(CONFIG), overwrite=True, progress=progress)
    console.print("\n".join(render(summary)), markup=False, highlight=False)
    found = verify("out/demo")
    console.print(f"verify: {'whole' if not found.problems else found.problems}\n", markup=False)
    table = Output.open("out/demo").dataset().to_table()
    console.print(head(table))
    console.print(compare(table, seed=0))
    console.print(f"\n{time.monotonic() - began:.1f} s in all; the table is in out/demo, its records in out/demo/meta")
    programs, here = os.path.relpath(Path(sys.executable).parent), os.path.relpath(Path(__file__).parent)
    console.print(f"see it:       {programs}/robocache report out/demo", markup=False, highlight=False)
    console.print(f"train on it:  {programs}/python {here}/pytorch_dataloader.py", markup=False, highlight=False)
    return 0 if summary.within_limit and not found.problems else 1


if __name__ == "__main__":
    sys.exit(main())
