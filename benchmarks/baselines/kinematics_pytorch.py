"""pytorch-kinematics, as its README uses it: a serial chain, batched; compiled by torch where asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_kinematics as pk
import torch
from torch import Tensor


def build(case: Any, compiled: bool = False) -> Callable[[Tensor], Tensor] | None:
    if case.name not in ("forward", "jacobian", "inverse"):
        return None
    chain = pk.build_serial_chain_from_urdf(case.urdf.encode(), "panda_hand", "panda_link0")
    chain = chain.to(dtype=case.q.dtype, device=case.q.device)
    if case.name == "inverse":
        return _inverse(chain, case)

    def forward(q: Tensor) -> Tensor:
        m = chain.forward_kinematics(q).get_matrix()
        w, x, y, z = pk.matrix_to_quaternion(m[:, :3, :3]).unbind(-1)
        quaternion = torch.stack([x, y, z, w], -1)
        return torch.cat([m[:, :3, 3], torch.where(w[:, None] < 0, -quaternion, quaternion)], -1)

    call = forward if case.name == "forward" else chain.jacobian
    return torch.compile(call) if compiled else call


def _inverse(chain: Any, case: Any) -> Callable[[Tensor], Tensor]:
    """Its damped least squares with restarts; each pose's first solution that converged, else its last."""
    limits = case.chain.limits.to(case.q)
    solver = pk.PseudoInverseIK(
        chain, max_iterations=40, num_retries=30, joint_limits=limits, early_stopping_any_converged=True,
        early_stopping_no_improvement="all", pos_tolerance=1e-4, rot_tolerance=1e-3, debug=False, lr=0.5,
    )  # fmt: skip

    def solve(poses: Tensor) -> Tensor:
        goal = pk.Transform3d(pos=poses[:, :3], rot=poses[:, [6, 3, 4, 5]], dtype=poses.dtype, device=poses.device)
        found = solver.solve(goal)
        best = found.converged.to(torch.int8).argmax(1)
        return found.solutions[torch.arange(len(poses), device=poses.device), best]

    return solve
