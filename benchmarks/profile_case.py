"""One call of RoboCache on one case, between the profiler's start and stop: what scripts/profile_ncu.sh runs under ncu.

python benchmarks/profile_case.py phase1_large
python benchmarks/profile_case.py --list
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import kinematics
import torch
import voxel_cases
from cases import load

#: name of the report -> size and "phase name dtype" of the case
PROFILES = {
    "phase1_small": ("small", "resample B32 S500 T250 D256 linear f32"),
    "phase1_medium": ("medium", "resample B256 S1000 T500 D32 linear bf16"),
    "phase1_large": ("large", "resample B1024 S4096 T2048 D128 linear bf16"),
    "phase2_small": ("small", "fuse B8 2s 200Hz D16 + 500Hz D8 + 100Hz D8 to 50Hz bf16"),
    "phase2_medium": ("medium", "fuse B64 10s 400Hz D16 + 1000Hz D8 + 200Hz D8 to 100Hz bf16"),
    "phase2_large": ("large", "fuse B512 30s 400Hz D16 + 1000Hz D8 + 200Hz D8 to 100Hz bf16"),
    "phase1_large_d32": ("large", "resample B4096 S1000 T500 D32 linear bf16"),
    "phase1_large_d7": ("large", "resample B4096 S4096 T2048 D7 linear bf16"),
    "phase1_large_jagged": ("large", "resample jagged 10000 of 50..20000 D7 linear bf16"),
    "phase1_large_cubic": ("large", "resample B4096 S2000 T1000 D32 cubic bf16"),
    "phase1_large_mean": ("large", "resample B4096 S2000 T1000 D32 mean bf16"),
    "phase1_large_slerp": ("large", "resample B4096 S2000 T1000 D4 slerp f32"),
    "phase1_large_pose": ("large", "resample B4096 S2000 T1000 D7 pose bf16"),
    "phase1_large_f32": ("large", "resample B1024 S4096 T2048 D128 linear f32"),
    "phase1_large_d32_f32": ("large", "resample B4096 S1000 T500 D32 linear f32"),
    "phase1_large_d7_f32": ("large", "resample B4096 S4096 T2048 D7 linear f32"),
    "phase1_large_d26": ("large", "resample B2048 S4096 T2048 D26 linear bf16"),
    "phase1_large_d26_f32": ("large", "resample B2048 S4096 T2048 D26 linear f32"),
    "phase1_large_jagged_f32": ("large", "resample jagged 10000 of 50..20000 D7 linear f32"),
    "phase1_large_jagged_d32": ("large", "resample jagged 10000 of 50..20000 D32 linear bf16"),
    "phase1_large_jagged_d32_f32": ("large", "resample jagged 10000 of 50..20000 D32 linear f32"),
    "phase1_large_skewed": ("large", "resample jagged 1 of 1000000 + 10000 of 100 D32 linear bf16"),
    "phase1_large_skewed_f32": ("large", "resample jagged 1 of 1000000 + 10000 of 100 D32 linear f32"),
    "phase1_small_bf16": ("small", "resample B32 S500 T250 D256 linear bf16"),
    "phase1_tiny": ("small", "resample B1 S200 T50 D7 linear bf16"),
    "phase1_tiny_f32": ("small", "resample B1 S200 T50 D7 linear f32"),
    "phase2_large_f32": ("large", "fuse B512 30s 400Hz D16 + 1000Hz D8 + 200Hz D8 to 100Hz f32"),
    "phase2_large_wide": ("large", "fuse B1024 30s 200Hz D32 + 100Hz D32 + 50Hz D64 to 50Hz bf16"),
    "phase2_large_wide_f32": ("large", "fuse B1024 30s 200Hz D32 + 100Hz D32 + 50Hz D64 to 50Hz f32"),
}
#: the same of clouds; KERNEL=regex picks one of the launches
VOXELS = {
    "phase3_small": ("small", "1 x 250000 lidar to 1024x1024x80 sparse points f32"),
    "phase3_medium": ("medium", "8 x 500000 camera to 128x128x128 dense occupancy f32"),
    "phase3_large": ("large", "64 x 500000 uniform to 128x128x128 dense occupancy f32"),
    "phase3_large_mean": ("large", "64 x 500000 camera to 128x128x128 sparse mean f32"),
}
#: of a million rows (of chunks, a tenth) of the arm whose URDF the environment variable names
ARMS = {f"phase4_large_{name}": name for name in ("forward", "jacobian", "chunk", "rot6d")}


def main() -> int:
    names = [*PROFILES, *VOXELS, *(ARMS if "ROBOCACHE_URDF" in os.environ else ())]
    if sys.argv[1:] == ["--list"]:
        print("\n".join(names))
        return 0
    if len(sys.argv) != 2 or sys.argv[1] not in names:
        print(
            f"name one of: {', '.join(names)}" + ("" if names[-1] in ARMS else "; arms need ROBOCACHE_URDF=panda.urdf")
        )
        return 2
    name = sys.argv[1]
    if name in ARMS:
        urdf = Path(os.environ["ROBOCACHE_URDF"]).read_text()
        rows = kinematics.SIZES["large"] // (10 if ARMS[name] == "chunk" else 1)
        arm = kinematics.build(ARMS[name], rows, urdf, "cuda", torch.float32)
        call, said = partial(kinematics.ours(arm), arm.q), f"{arm.name} of {arm.rows} f32"
    elif name in VOXELS:
        (cloud,) = voxel_cases.load([VOXELS[name][0]], VOXELS[name][1])
        call, said = cloud.build("cuda").voxels, f"{cloud.name} {cloud.dtype}"
    else:
        (case,) = load([PROFILES[name][0]], PROFILES[name][1])
        call, said = case.build("cuda").aligned, f"{case.name} {case.dtype}"
    call()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    call()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()
    print(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
