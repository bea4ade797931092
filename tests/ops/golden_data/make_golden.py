"""Writes trajectory_fp32.pt, multimodal_fp32.pt and voxelization_fp32.pt: float32 inputs and what NumPy and SciPy
answer in float64.

    python tests/ops/golden_data/make_golden.py

The same bytes on every run. No RoboCache operation takes part in the answers (see ``ops_oracles.py`` and
``voxel_oracles.py`` in tests/ops).
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[2])]

from ops_oracles import EPOCH, MODES, align_row, ragged  # noqa: E402
from voxel_oracles import REDUCTIONS, UNIT, answer, cloud, dense  # noqa: E402

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


def voxel_cases() -> dict[str, dict]:
    """Every reduction, sparse and dense, of the points' own columns and of features."""
    cases = {}
    points, offsets = cloud(200, (120, 0, 1, 60), width=4)
    features = torch.randn(len(points), 2, generator=torch.Generator().manual_seed(200))
    for reduce, own in itertools.product(REDUCTIONS, (True, False)):
        x = None if own else features
        found = answer(
            points.numpy(),
            offsets.tolist(),
            features=None if own else features.numpy(),
            reduce=reduce,
            max_points=3,
            **UNIT,
        )
        inputs = {"points": points, "offsets": offsets, "features": x}
        options = {**UNIT, "reduce": reduce, "max_points": 3}
        dropped = torch.from_numpy(found.dropped)
        rows = torch.bincount(torch.from_numpy(found.cloud), minlength=len(dropped))
        name = f"{reduce}-{'own' if own else 'features'}"
        cases[f"{name}-sparse"] = {
            **inputs,
            "options": {**options, "layout": "sparse"},
            "coordinates": torch.from_numpy(found.coordinates).int(),
            "values": torch.from_numpy(found.values),
            "counts": torch.from_numpy(found.counts).int(),
            "offsets": offsets,
            "rows": torch.cat([rows.new_zeros(1), rows.cumsum(0)]),
            "point_to_voxel": torch.from_numpy(found.row),
            "dropped": dropped,
        }
        if reduce != "points":
            values = torch.from_numpy(dense(found, len(dropped), (8, 12, 4), reduce))
            cases[f"{name}-dense"] = {
                **inputs,
                "options": {**options, "layout": "dense"},
                "values": values,
                "dropped": dropped,
            }
    return cases


if __name__ == "__main__":
    torch.save(trajectory_cases(), HERE / "trajectory_fp32.pt")
    torch.save(multimodal_cases(), HERE / "multimodal_fp32.pt")
    torch.save(voxel_cases(), HERE / "voxelization_fp32.pt")
