"""Inverse kinematics of one tip, many poses at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robocache.ops import _kinematics
from robocache.ops.rotations import convert_rotation
from robocache.ops.urdf import Flat

#: The longest step of a coordinate in one iteration, radians or metres.
_LONGEST = 0.7
#: Rows of one descent, where restarts can fill them.
_AT_ONCE = 1024
#: A start is given up where this many iterations do not take a third off its error.
_STALLED = 8
#: What remains of the damping where the error is none.
_LEAST = 1e-9


@dataclass(frozen=True)
class Solver:
    """Tolerances in metres and radians; ``gain``: of the leaning towards a reference, in the null space."""

    chain: Flat
    tip: int
    made: _kinematics.Made
    position: float
    rotation: float
    iterations: int
    gain: float

    def solve(
        self, pose: Tensor, q0: Tensor | None, leaning: Tensor | None, restarts: int, seed: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, converged, residual and iterations of poses ``[N, 7]``, float64."""
        count, joints = len(pose), len(self.chain.joints)
        limits = torch.as_tensor(self.chain.limits, device=pose.device)
        # A continuous joint is drawn from a turn; how far it goes is its own affair.
        low, high = torch.nan_to_num(limits, posinf=math.pi, neginf=-math.pi).unbind(-1)
        draw = torch.Generator().manual_seed(seed)
        turn = convert_rotation(pose[:, 3:], "quaternion_xyzw", "matrix")
        good = torch.isfinite(pose).all(-1) & torch.isfinite(turn).all(-1).all(-1)
        target = torch.cat([turn, pose[:, :3, None]], -1)
        shares = torch.rand(restarts, joints, generator=draw, dtype=torch.float64).to(pose.device)
        random = low + shares * (high - low)  # the same of every pose, whose answer depends on no other
        first = ((low + high) / 2).expand(count, -1) if q0 is None else q0
        first = torch.where(torch.isfinite(first), first, (low + high) / 2)
        best = pose.new_full((count, joints), torch.nan)
        residual = pose.new_full((count, 2), torch.nan)
        done = torch.zeros(count, dtype=torch.bool, device=pose.device)
        iterations = torch.zeros(count, dtype=torch.int64, device=pose.device)
        begun = 0
        while begun <= restarts:
            rows = torch.nonzero(good & ~done).squeeze(-1)
            if not len(rows):
                break
            # Of few poses many starts at once, of which the first in order that arrives counts.
            tries = min(restarts + 1 - begun, max(1, _AT_ONCE // len(rows))) if begun else 1
            starts = random[begun - 1 : begun - 1 + tries].repeat(len(rows), 1) if begun else first[rows]
            many = rows.repeat_interleave(tries)
            lean = None if leaning is None else leaning[many]
            q = torch.minimum(torch.maximum(starts, limits[:, 0]), limits[:, 1])
            made = self._descend(q, target[many], lean, limits)
            found, errors, ok, spent = (x.unflatten(0, (len(rows), tries)) for x in made)
            sizes = torch.where(ok, -1.0, errors.sum(-1)).nan_to_num(torch.inf)
            pick = sizes.argmin(-1)  # the first of those that arrived
            order, each = torch.arange(tries, device=pose.device), torch.arange(len(rows), device=pose.device)
            counted = ~ok.any(-1, keepdim=True) | (order <= pick[:, None])
            iterations[rows] += (spent * counted).sum(-1)
            found, errors, ok = found[each, pick], errors[each, pick], ok[each, pick]
            better = torch.isnan(residual[rows, 0]) | (errors.sum(-1) < residual[rows].sum(-1)) | ok
            best[rows[better]], residual[rows[better]] = found[better], errors[better]
            done[rows] = ok
            begun += tries
        return best, done, residual, iterations

    def _descend(
        self, q: Tensor, target: Tensor, leaning: Tensor | None, limits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One start of every row: the last q, its errors, whether they are small enough, and iterations."""
        q = q.clone()
        errors = q.new_full((len(q), 2), torch.inf)
        spent = torch.zeros(len(q), dtype=torch.int64, device=q.device)
        active = torch.arange(len(q), device=q.device)
        eye = torch.eye(6, dtype=q.dtype, device=q.device)
        before = q.new_zeros(len(q))
        for step in range(self.iterations + 1):
            at = q[active]
            twist = self._twist(at, target[active])
            size = torch.stack([_length(twist[:, :3]), _length(twist[:, 3:])], -1)
            errors[active] = size
            # With a reference it goes on after it has arrived, as long as it may: to where it leans.
            left = ~self._arrived(size) if leaning is None else torch.ones_like(active, dtype=torch.bool)
            if step and step % _STALLED == 0 and leaning is None:
                left &= size.sum(-1) < before[active] * 2 / 3
                before[active] = size.sum(-1)
            elif not step:
                before[active] = size.sum(-1)
            if step == self.iterations or not bool(left.any()):
                break
            active, at, twist, size = active[left], at[left], twist[left], size[left]
            spent[active] += 1
            jacobian = _kinematics.jacobian(at, self.chain, [self.tip], False, self.made)[:, 0]
            damping = (0.5 * (twist * twist).sum(-1)).clamp(max=1.0)[:, None, None] * 1e-2 + _LEAST
            free = torch.ones_like(at, dtype=torch.bool)
            change = torch.zeros_like(at)
            for _ in range(2):  # the second time without the joints that would leave their limits
                held = jacobian * free[:, None]
                square = held @ held.mT + damping * eye
                change = (held.mT @ torch.linalg.solve(square, twist.unsqueeze(-1))).squeeze(-1)
                if leaning is not None:
                    lean = self.gain * (leaning[active] - at) * free
                    along = held.mT @ torch.linalg.solve(square, held @ lean.unsqueeze(-1))
                    change = change + lean - along.squeeze(-1)
                out = ((at <= limits[:, 0]) & (change < 0)) | ((at >= limits[:, 1]) & (change > 0))
                if not bool((out & free).any()):
                    break
                free = free & ~out
            longest = change.abs().amax(-1, keepdim=True).clamp(min=_LONGEST)
            moved = at + change * (_LONGEST / longest)
            q[active] = torch.minimum(torch.maximum(moved, limits[:, 0]), limits[:, 1])
        return q, errors, self._arrived(errors), spent

    def _arrived(self, errors: Tensor) -> Tensor:
        return (errors[:, 0] <= self.position) & (errors[:, 1] <= self.rotation)

    def _twist(self, q: Tensor, target: Tensor) -> Tensor:
        """From where the tip is to the target: metres and an axis angle, along the base's axes."""
        frame = _kinematics.frames(q, self.chain, [self.tip], self.made)[:, 0]
        turn = convert_rotation(target[..., :3] @ frame[..., :3].mT, "matrix", "axis_angle")
        return torch.cat([target[..., 3] - frame[..., 3], turn], -1)


def _length(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=-1)
