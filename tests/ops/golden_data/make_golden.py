"""Writes trajectory_fp32.pt and multimodal_fp32.pt: float32 inputs and what NumPy and SciPy answer in float64.

    python tests/ops/golden_data/make_golden.py

The same bytes on every run. No RoboCache operation takes part in the answers (see ``tests/ops/ops_oracles.py``).
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[2])]

from ops_oracles import EPOCH, MODES, align_row, ragged  # noqa: E402

LENGTHS, TARGETS = (40, 1, 0, 2, 24), (36, 4, 3, 0, 20)  # of the episodes in a jagged batch


def trajectory_cases() -> dict[str, dict]:
    """Every mode on int64 epoch stamps and on float seconds, without and with a limit on gaps; jagged."""
    cases = {}
    for number, mode in enumerate(MODES):
        for time_dtype in ("int64", "float64", "float32"):
            r = ragged(number, mode, lengths=LENGTHS, targets=TARGETS, time_dtype=time_dtype)
            max_gap = 6_000_000 if time_dtype == "int64" else 10 / 1024
            expected, valid = r.expected(mode)
            cases[f"{mode}-{time_dtype}"] = {
                "inputs": {**r.arguments(), "mode": mode},
                "expected": expected,
                "valid": valid,
                "max_gap": max_gap,
                "valid_within_max_gap": r.expected(mode, max_gap)[1],
            }
    return cases


#: A robot's streams: mode, samples in each of three episodes, columns, ns between samples, clock offset, max_gap.
ROBOT = {
    "joints": ("linear", (40, 38, 30), 7, 5_000_000, 0, 6_000_000),
    "wrench": ("mean", (200, 190, 150), 6, 1_000_000, -3_000_000, None),
    "pose": ("pose", (20, 21, 15), 7, 10_000_000, 12_345_678, 100_000_000),
    "gripper": ("previous", (2, 0, 3), 1, 100_000_000, 1, 150_000_000),  # the second episode lacks it
}


def multimodal_cases() -> dict[str, dict]:
    """Streams at their own rates and clocks, fused at 50 Hz: two, three, and one that an episode lacks."""
    targets = EPOCH + torch.arange(-2, 12) * 20_000_000
    streams, values, valids = {}, {}, {}
    for seed, (name, (mode, lengths, width, step, offset, max_gap)) in enumerate(ROBOT.items()):
        r = ragged(100 + seed, mode, lengths=lengths, targets=[0] * len(lengths), width=width)
        times = EPOCH + (r.times - EPOCH) * (step // 1000) // 5000
        streams[name] = {
            "values": r.values,
            "times": times,
            "mode": mode,
            "offsets": r.offsets,
            "max_gap": max_gap,
            "offset": offset,
        }
        rows = [
            align_row(mode, times[i:j].numpy(), r.values[i:j].numpy(), targets.numpy(), max_gap, offset)
            for i, j in itertools.pairwise(r.offsets.tolist())
        ]
        values[name] = torch.stack([torch.from_numpy(value) for value, _ in rows])
        valids[name] = torch.stack([torch.from_numpy(valid) for _, valid in rows])
    return {
        case: {
            "streams": [streams[name] for name in names],
            "target_times": targets.repeat(3, 1),
            "expected": torch.cat([values[name] for name in names], dim=-1),
            "valid": torch.stack([valids[name] for name in names], dim=-1),
        }
        for case, names in {
            "two": ("joints", "wrench"),
            "three": ("joints", "wrench", "pose"),
            "optional": ("gripper", "joints", "pose"),
        }.items()
    }


if __name__ == "__main__":
    torch.save(trajectory_cases(), HERE / "trajectory_fp32.pt")
    torch.save(multimodal_cases(), HERE / "multimodal_fp32.pt")
