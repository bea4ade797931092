"""Chains of a robot's links: forward kinematics, the geometric Jacobian, the inverse, velocities.

Angles are radians, lengths metres. All take rows of coordinates ``[..., J]``, float64 or float32, dense or (``[N, J]``)
jagged alike, as each row stands for itself; a row that is not finite gives NaN. NumPy arrays are taken and given back.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robocache.ops import _kinematics
from robocache.ops._inverse import Solver
from robocache.ops._library import compiled
from robocache.ops._numpy import alike, tensor
from robocache.ops.rotations import convert_rotation
from robocache.ops.urdf import Flat, parse_urdf, read_urdf

#: How a frame is given, and its shape.
FORMS = {"pose": (7,), "matrix": (4, 4), "rot6d": (9,)}


class InverseResult(NamedTuple):
    """q:          ``[..., J]`` within the limits; the best that was found where it did not converge
    converged:  bool ``[...]``, whether both errors are within their tolerances
    residual:   ``[..., 2]``, metres and radians
    iterations: int64 ``[...]``, of all starts together"""

    q: Any
    converged: Any
    residual: Any
    iterations: Any


@dataclass(frozen=True)
class KinematicChain:
    """Chains from a base to one tip or several, made by :meth:`from_urdf`.

    tips: places in ``flat.links``; single: named as text, so that results have no axis for them
    """

    flat: Flat
    tips: tuple[int, ...]
    single: bool
    _made: _kinematics.Made = field(default_factory=dict, repr=False, compare=False)  # what the kernels take, by links

    def __post_init__(self) -> None:
        self._made[self.tips] = _kinematics.arguments(self.flat, list(self.tips))  # so that torch.compile finds it

    @classmethod
    def from_urdf(
        cls, path_or_text: str | os.PathLike[str], base: str | None = None, tip: str | Sequence[str] = ()
    ) -> KinematicChain:
        """From a URDF, by its path or as text.

        base: the link in whose frame everything is told; None: the root
        tip:  a link, or several; any links of the tree, also above the base or on other branches

        ``ValueError``: no URDF, no such links, joints that cannot be computed, more than 64 of them. ``OSError``: no
        such file.
        """
        text = str(path_or_text).lstrip()
        robot = parse_urdf(read_urdf(path_or_text), "URDF" if text.startswith("<") else text)
        tips = [tip] if isinstance(tip, str) else list(tip)
        if not tips:
            raise ValueError(f"{robot.name}: name a tip, one of its links: {', '.join(robot.links)}")
        flat = robot.flat(base, tips)
        return cls(flat, tuple(flat.links.index(t) for t in tips), isinstance(tip, str))

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Of the coordinates, in order along the chains; a mimic has none of its own."""
        return self.flat.joints

    @property
    def links(self) -> tuple[str, ...]:
        """Every link on the chains, the base first."""
        return self.flat.links

    @property
    def limits(self) -> Tensor:
        """Float64 ``[J, 2]``, lower and upper; infinite of continuous joints."""
        return torch.from_numpy(self.flat.limits.copy())

    def forward(self, q: Any, as_: str = "pose", links: Sequence[str] | str | None = None) -> Any:
        """Where links are, in the base's frame.

        as_:   ``pose`` (x y z qx qy qz qw, w >= 0), ``matrix`` (4 by 4) or ``rot6d`` (x y z and the first two columns)
        links: some on the chains, or ``all``; None: the tips

        returns ``[..., *form]`` of a lone tip or link named as text, else ``[..., L, *form]``; with gradients
        """
        if as_ not in FORMS:
            raise ValueError(f"forward: as_ is {as_!r}; use one of {', '.join(FORMS)}")
        wanted, single = self._links(links)
        rows = self._rows("forward", q)
        flat = _flat(rows)
        if as_ != "matrix" and wanted and compiled("forward_kinematics", flat):
            out = _kinematics.forward(flat, self.flat, wanted, as_, self._made)
        else:
            out = _formed(_kinematics.frames(flat, self.flat, wanted, self._made), as_)
        out = out.reshape(*rows.shape[:-1], *out.shape[1:])
        return alike(out.squeeze(rows.dim() - 1) if single else out, q)

    def jacobian(self, q: Any, frame: str = "world") -> Any:
        """``[..., 6, J]`` (of several tips ``[..., L, 6, J]``): the velocity of the tip by those of the joints, linear
        rows first, at the tip.

        frame: ``world``: along the base's axes; ``body``: along the tip's own
        """
        if frame not in ("world", "body"):
            raise ValueError(f"jacobian: frame is {frame!r}; use world or body")
        rows = self._rows("jacobian", q)
        out = _kinematics.jacobian(_flat(rows), self.flat, list(self.tips), frame == "body", self._made)
        out = out.reshape(*rows.shape[:-1], *out.shape[1:])
        return alike(out.squeeze(rows.dim() - 1) if self.single else out, q)

    def velocity(self, q: Any, joint_velocity: Any, frame: str = "world") -> Any:
        """The tip's velocity ``[..., 6]``, linear then angular, of velocities ``[..., J]`` of the coordinates."""
        jacobian = tensor("velocity", "q", self.jacobian(q, frame))
        moved = self._rows("velocity", joint_velocity).to(jacobian.dtype)
        if not self.single:
            moved = moved.unsqueeze(-2)
        return alike((jacobian @ moved.unsqueeze(-1)).squeeze(-1), q)

    def joint_velocity(self, q: Any, velocity: Any, frame: str = "world", *, damping: float = 0.0) -> Any:
        """The least velocities ``[..., J]`` of the coordinates that come nearest to a velocity ``[..., 6]`` of the tip.

        damping: above 0 keeps them small near singular configurations, at the cost of accuracy (Wampler 1986)
        """
        self._one_tip("joint_velocity")
        jacobian = tensor("joint_velocity", "q", self.jacobian(q, frame))
        wanted = tensor("joint_velocity", "velocity", velocity).to(jacobian.dtype)
        if wanted.shape != jacobian.shape[:-1]:
            raise ValueError(f"joint_velocity: velocity must be {list(jacobian.shape[:-1])}, got {list(wanted.shape)}")
        good = torch.isfinite(jacobian).all(-1).all(-1) & torch.isfinite(wanted).all(-1)
        held = torch.where(good[..., None, None], jacobian, 0.0)
        if damping:
            square = held @ held.mT + damping**2 * torch.eye(6, dtype=held.dtype, device=held.device)
            out = (held.mT @ torch.linalg.solve(square, wanted.nan_to_num().unsqueeze(-1))).squeeze(-1)
        else:
            out = (torch.linalg.pinv(held) @ wanted.nan_to_num().unsqueeze(-1)).squeeze(-1)
        return alike(torch.where(good[..., None], out, torch.nan), q)

    def inverse(
        self,
        pose: Any,
        q0: Any = None,
        *,
        reference: Any = None,
        gain: float = 0.1,
        position_tolerance: float = 1e-4,
        rotation_tolerance: float = 1e-3,
        max_iterations: int = 40,
        restarts: int = 30,
        seed: int = 0,
    ) -> InverseResult:
        """Coordinates within the limits that bring the tip to poses ``[..., 7]``.

        Damped least squares with the damping that falls with the error (Sugihara, IEEE T-RO 2011), joints held at
        their limits while they push against them; computed in float64.

        q0:             ``[J]`` or ``[..., J]``, where to begin; None: the middle of the limits
        reference:      ``[J]`` or ``[..., J]``: of many solutions, lean towards this one; ``gain``: how strongly, 0..1
        max_iterations: of each start; restarts: more starts, anywhere within the limits, drawn from ``seed``

        No answer is silently wrong: see :class:`InverseResult`. A pose that is not finite, or a zero quaternion, does
        not converge and gives NaN.
        """
        self._one_tip("inverse")
        wanted = tensor("inverse", "pose", pose)
        if wanted.dim() < 1 or wanted.shape[-1] != 7:
            raise ValueError(f"inverse: pose must be [..., 7], got {list(wanted.shape)}")
        if not (max_iterations >= 1 and restarts >= 0 and 0 <= gain <= 1):
            raise ValueError("inverse: max_iterations must be 1 or more, restarts 0 or more, gain from 0 to 1")
        flat = wanted.detach().reshape(-1, 7).double()
        starts, leaning = (self._broadcast(name, x, flat) for name, x in (("q0", q0), ("reference", reference)))
        solver = Solver(
            self.flat, self.tips[0], self._made, position_tolerance, rotation_tolerance, max_iterations, gain
        )
        found = solver.solve(flat, starts, leaning, restarts, seed)
        shape = wanted.shape[:-1]
        q, converged, residual, iterations = (x.reshape(*shape, *x.shape[1:]) for x in found)
        cast = (q.to(wanted.dtype), converged, residual.to(wanted.dtype), iterations)
        return InverseResult(*(alike(x, pose) for x in cast))

    def _links(self, links: Sequence[str] | str | None) -> tuple[list[int], bool]:
        if links is None:
            return list(self.tips), self.single
        if links == "all":
            return list(range(len(self.flat.links))), False
        names = [links] if isinstance(links, str) else list(links)
        if lacking := [name for name in names if name not in self.flat.links]:
            raise ValueError(f"forward: {lacking[0]!r} is not on the chains; they hold {', '.join(self.flat.links)}")
        return [self.flat.links.index(name) for name in names], isinstance(links, str)

    def _rows(self, op: str, q: Any) -> Tensor:
        rows = tensor(op, "q", q)
        if rows.dim() < 1 or rows.shape[-1] != len(self.joint_names):
            names = ", ".join(self.joint_names)
            raise ValueError(f"{op}: q {list(rows.shape)} must be [..., {len(self.joint_names)}]: {names}")
        return rows

    def _one_tip(self, op: str) -> None:
        if len(self.tips) != 1:
            raise ValueError(f"{op}: the chain has {len(self.tips)} tips; make one with a single tip")

    def _broadcast(self, name: str, x: Any, pose: Tensor) -> Tensor | None:
        if x is None:
            return None
        rows = self._rows("inverse", x).to(pose)
        try:
            return _flat(rows).expand(len(pose), -1).contiguous()
        except RuntimeError:
            raise ValueError(f"inverse: {name} {list(rows.shape)} must be [J] or a row a pose") from None


def _flat(rows: Tensor) -> Tensor:
    return rows.reshape(rows.shape[:-1].numel(), rows.shape[-1])


def _formed(frames: Tensor, as_: str) -> Tensor:
    """Frames ``[..., 3, 4]`` in another form."""
    if as_ == "matrix":
        last = frames.new_tensor([0.0, 0, 0, 1]).expand(*frames.shape[:-2], 1, 4)
        return torch.cat([frames, torch.where(torch.isnan(frames[..., :1, :1]), torch.nan, last)], -2)
    turn, place = frames[..., :3], frames[..., 3]
    if as_ == "rot6d":
        return torch.cat([place, turn[..., :2].mT.flatten(-2)], -1)
    return torch.cat([place, convert_rotation(turn, "matrix", "quaternion_xyzw")], -1)
