"""Pinocchio from Python: a loop over the rows, which is how its Python interface takes a batch; a thread a core, each
with data of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pinocchio as pin
import torch
from torch import Tensor


def build(case: Any) -> Callable[[Tensor], Tensor] | None:
    if case.name not in ("forward", "jacobian", "inverse"):
        return None
    whole = pin.buildModelFromXML(case.urdf)
    fingers = [i for i, name in enumerate(whole.names) if "finger" in name]
    model = pin.buildReducedModel(whole, fingers, pin.neutral(whole))
    hand = model.getFrameId("panda_hand")
    base = pin.SE3(model.frames[model.getFrameId("panda_link0")].placement)
    threads = len(os.sched_getaffinity(0))

    def forward(q: np.ndarray, out: np.ndarray) -> None:
        data = model.createData()
        for row, result in zip(q, out, strict=True):
            pin.forwardKinematics(model, data, row)
            frame = base.actInv(pin.updateFramePlacement(model, data, hand))
            result[:] = pin.SE3ToXYZQUAT(frame)
        out[:, 3:] *= np.where(out[:, 6:] < 0, -1, 1)

    def jacobian(q: np.ndarray, out: np.ndarray) -> None:
        data = model.createData()
        for row, result in zip(q, out, strict=True):
            result[:] = pin.computeFrameJacobian(model, data, row, hand, pin.ReferenceFrame.LOCAL_WORLD_ALIGNED)

    def inverse(poses: np.ndarray, out: np.ndarray) -> None:
        """The damped iteration of its own example (inverse-kinematics.py), 30 starts more from anywhere."""
        data, random = model.createData(), np.random.default_rng(0)
        low, high = model.lowerPositionLimit, model.upperPositionLimit
        for pose, result in zip(poses, out, strict=True):
            goal, q = base * pin.XYZQUATToSE3(pose), (low + high) / 2
            for _ in range(31):
                for _ in range(40):
                    pin.forwardKinematics(model, data, q)
                    error = pin.log(pin.updateFramePlacement(model, data, hand).actInv(goal)).vector
                    if np.linalg.norm(error[:3]) < 1e-4 and np.linalg.norm(error[3:]) < 1e-3:
                        break
                    j = pin.computeFrameJacobian(model, data, q, hand)
                    j = -pin.Jlog6(data.oMf[hand].actInv(goal).inverse()) @ j
                    step = -j.T @ np.linalg.solve(j @ j.T + 1e-6 * np.eye(6), error)
                    q = np.clip(pin.integrate(model, q, step), low, high)
                else:
                    q = random.uniform(low, high)
                    continue
                break
            result[:] = q

    work = {"forward": forward, "jacobian": jacobian, "inverse": inverse}[case.name]
    shape = {"forward": (7,), "jacobian": (6, 7), "inverse": (7,)}[case.name]
    pool = ThreadPoolExecutor(threads)

    def call(x: Tensor) -> Tensor:
        rows = x.double().numpy()
        out = np.empty((len(rows), *shape))
        list(pool.map(work, np.array_split(rows, threads), np.array_split(out, threads)))
        return torch.from_numpy(out).to(x.dtype)

    return call
