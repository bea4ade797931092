"""The operators of kinematics as Python sees them: a flat chain as lists of numbers, shapes, and the choice between the
compiled kernel and its plain-torch twin.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from robocache.ops import _library
from robocache.ops._library import compiled
from robocache.ops.reference import kinematics as reference
from robocache.ops.urdf import MOST_JOINTS, Flat

#: A chain's arguments by its links, kept from call to call.
Made: TypeAlias = "dict[tuple[int, ...], tuple[list[int], list[float]]]"
#: Position: the operator's number of a form; its width.
WIDTHS = {"frame": 12, "pose": 7, "rot6d": 9}


def arguments(chain: Flat, links: list[int]) -> tuple[list[int], list[float]]:
    """``structure`` and ``numbers`` as the operators take them (kernels/bindings/kinematics.cpp says how)."""
    order = sorted(range(len(links)), key=lambda place: int(chain.node[links[place]]))
    structure = [len(chain.parent), len(chain.joints), len(links)]
    numbers: list[float] = []
    for k in range(len(chain.parent)):
        structure += [int(chain.parent[k]), int(chain.sliding[k]), int(chain.coordinate[k])]
        numbers += [*chain.before[k].reshape(-1).tolist(), float(chain.factor[k]), float(chain.offset[k])]
    for place in order:
        structure += [int(chain.node[links[place]]), place]
        numbers += chain.behind[links[place]].reshape(-1).tolist()
    return structure, numbers


def forward(q: Tensor, chain: Flat, links: list[int], form: str, made: Made) -> Tensor:
    """``[N, L, width of form]`` of ``q [N, J]`` by the kernel."""
    out = []
    for some in _groups(links):
        structure, numbers = _kept(chain, some, made)
        out.append(torch.ops.robocache.forward_kinematics(q, structure, numbers, list(WIDTHS).index(form)))
    return out[0] if len(out) == 1 else torch.cat(out, 1)


def jacobian(q: Tensor, chain: Flat, links: list[int], body: bool, made: Made) -> Tensor:
    """``[N, L, 6, J]`` of ``q [N, J]``."""
    if not compiled("geometric_jacobian", q):
        return reference.jacobian(q, chain, links, body)
    parts = []
    for some in _groups(links):
        structure, numbers = _kept(chain, some, made)
        parts.append(torch.ops.robocache.geometric_jacobian(q, structure, numbers, body))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def frames(q: Tensor, chain: Flat, links: list[int], made: Made) -> Tensor:
    """``[N, L, 3, 4]`` of ``q [N, J]``, by the kernel or its twin."""
    if links and compiled("forward_kinematics", q):
        return forward(q, chain, links, "frame", made).unflatten(-1, (3, 4))
    return reference.forward(q, chain, links)


def _kept(chain: Flat, links: list[int], made: Made) -> tuple[list[int], list[float]]:
    key = tuple(links)
    if key not in made:
        made[key] = arguments(chain, links)
    return made[key]


def _groups(links: list[int]) -> list[list[int]]:
    return [links[at : at + MOST_JOINTS] for at in range(0, len(links), MOST_JOINTS)]


def _check(op: str, q: Tensor, structure: list[int]) -> None:
    if q.dtype not in (torch.float64, torch.float32) or q.dim() != 2 or q.shape[1] != structure[1]:
        raise ValueError(f"{op}: q {q.dtype} {list(q.shape)} must be float64 or float32 [N, {structure[1]}]")


if _library.has_kernel("forward_kinematics", torch.device("cpu")):

    @torch.library.register_fake("robocache::forward_kinematics")
    def _fake_forward(q: Tensor, structure: list[int], numbers: list[float], form: int) -> Tensor:
        _check("forward_kinematics", q, structure)
        return q.new_empty((q.shape[0], structure[2], list(WIDTHS.values())[form]))

    @torch.library.register_fake("robocache::geometric_jacobian")
    def _fake_jacobian(q: Tensor, structure: list[int], numbers: list[float], body: bool) -> Tensor:
        _check("geometric_jacobian", q, structure)
        return q.new_empty((q.shape[0], structure[2], 6, q.shape[1]))
