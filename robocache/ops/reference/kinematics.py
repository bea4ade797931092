"""Forward kinematics and the geometric Jacobian of flat chains in plain torch, with gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robocache.ops.urdf import Flat


def forward(q: Tensor, chain: Flat, links: list[int]) -> Tensor:
    """Frames ``[N, L, 3, 4]`` of links (places in ``chain.links``) at ``q [N, J]``; NaN rows where ``q`` is not
    finite.
    """
    frames = _nodes(q, chain)
    out = [_link(frames, chain, k, q) for k in links]
    bad = ~torch.isfinite(q).all(-1)
    return torch.where(bad[:, None, None, None], torch.nan, torch.stack(out, 1))


def jacobian(q: Tensor, chain: Flat, links: list[int], body: bool = False) -> Tensor:
    """``[N, L, 6, J]``: velocities of links, linear rows first, along the base's axes (``body``: along the link's own),
    by those of the coordinates.
    """
    frames = _nodes(q, chain)
    out = []
    for k in links:
        link = _link(frames, chain, k, q)
        place = link[..., 3]
        columns = [q.new_zeros(len(q), 6) for _ in chain.joints]
        node = int(chain.node[k])
        while node >= 0:
            axis, arm = frames[node][..., 2], place - frames[node][..., 3]
            turning = torch.cat([torch.linalg.cross(axis, arm), axis], -1)
            moved = torch.cat([axis, torch.zeros_like(axis)], -1) if chain.sliding[node] else turning
            at = int(chain.coordinate[node])
            columns[at] = columns[at] + float(chain.factor[node]) * moved
            node = int(chain.parent[node])
        made = torch.stack(columns, -1) if columns else q.new_zeros(len(q), 6, 0)
        if body:
            turn = link[..., :3].mT
            made = torch.cat([turn @ made[..., :3, :], turn @ made[..., 3:, :]], -2)
        out.append(made)
    bad = ~torch.isfinite(q).all(-1)
    return torch.where(bad[:, None, None, None], torch.nan, torch.stack(out, 1))


def _nodes(q: Tensor, chain: Flat) -> list[Tensor]:
    """Frames ``[N, 3, 4]`` of the nodes."""
    frames: list[Tensor] = []
    for k, before in enumerate(_tensors(chain.before, q)):
        at = int(chain.parent[k])
        frame = before.expand(len(q), 3, 4) if at < 0 else _after(frames[at], before)
        angle = float(chain.factor[k]) * q[:, int(chain.coordinate[k])] + float(chain.offset[k])
        x, y, z, place = frame.unbind(-1)
        if chain.sliding[k]:
            place = place + z * angle[:, None]
        else:
            sine, cosine = torch.sin(angle)[:, None], torch.cos(angle)[:, None]
            x, y = x * cosine + y * sine, y * cosine - x * sine
        frames.append(torch.stack([x, y, z, place], -1))
    return frames


def _link(frames: list[Tensor], chain: Flat, k: int, q: Tensor) -> Tensor:
    behind, at = _tensors(chain.behind[k], q), int(chain.node[k])
    return behind.expand(len(q), 3, 4) if at < 0 else _after(frames[at], behind)


def _after(frame: Tensor, step: Tensor) -> Tensor:
    turned = frame[..., :3] @ step
    return torch.cat([turned[..., :3], turned[..., 3:] + frame[..., 3:]], -1)


def _tensors(x: np.ndarray, like: Tensor) -> Tensor:
    return torch.as_tensor(x, dtype=like.dtype, device=like.device)
