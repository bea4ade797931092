"""Forward kinematics and Jacobian in Triton: a program a block of rows, the chain unrolled with its constants in the
kernel's text, so that zeros and ones of it cost nothing: more than a library that takes any chain could do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _forward(q, out, numbers, rows, joints: tl.constexpr, block: tl.constexpr):
    r = tl.program_id(0) * block + tl.arange(0, block)
    keep = r < rows
    r = r.to(tl.int64)
    a, b, c = tl.full([block], 1.0, tl.float32), tl.zeros([block], tl.float32), tl.zeros([block], tl.float32)
    d, e, f = tl.zeros([block], tl.float32), tl.full([block], 1.0, tl.float32), tl.zeros([block], tl.float32)
    g, h, i = tl.zeros([block], tl.float32), tl.zeros([block], tl.float32), tl.full([block], 1.0, tl.float32)
    x, y, z = tl.zeros([block], tl.float32), tl.zeros([block], tl.float32), tl.zeros([block], tl.float32)
    for k in tl.static_range(joints + 1):
        m = numbers + 12 * k
        m0, m1, m2, m3 = tl.load(m), tl.load(m + 1), tl.load(m + 2), tl.load(m + 3)
        m4, m5, m6, m7 = tl.load(m + 4), tl.load(m + 5), tl.load(m + 6), tl.load(m + 7)
        m8, m9, m10, m11 = tl.load(m + 8), tl.load(m + 9), tl.load(m + 10), tl.load(m + 11)
        x, y, z = x + a * m3 + b * m7 + c * m11, y + d * m3 + e * m7 + f * m11, z + g * m3 + h * m7 + i * m11
        a, b, c = a * m0 + b * m4 + c * m8, a * m1 + b * m5 + c * m9, a * m2 + b * m6 + c * m10
        d, e, f = d * m0 + e * m4 + f * m8, d * m1 + e * m5 + f * m9, d * m2 + e * m6 + f * m10
        g, h, i = g * m0 + h * m4 + i * m8, g * m1 + h * m5 + i * m9, g * m2 + h * m6 + i * m10
        if k < joints:
            angle = tl.load(q + r * joints + k, mask=keep, other=0.0)
            s, co = tl.sin(angle), tl.cos(angle)
            a, b = a * co + b * s, b * co - a * s
            d, e = d * co + e * s, e * co - d * s
            g, h = g * co + h * s, h * co - g * s
    w0, x0, y0, z0 = 1 + a + e + i, 1 + a - e - i, 1 - a + e - i, 1 - a - e + i
    best = tl.maximum(tl.maximum(w0, x0), tl.maximum(y0, z0))
    xy, xz, yz, wx, wy, wz = b + d, c + g, f + h, h - f, c - g, d - b
    by_w, by_x, by_y = w0 == best, x0 == best, y0 == best
    qw = tl.where(by_w, w0, tl.where(by_x, wx, tl.where(by_y, wy, wz)))
    qx = tl.where(by_w, wx, tl.where(by_x, x0, tl.where(by_y, xy, xz)))
    qy = tl.where(by_w, wy, tl.where(by_x, xy, tl.where(by_y, y0, yz)))
    qz = tl.where(by_w, wz, tl.where(by_x, xz, tl.where(by_y, yz, z0)))
    n = tl.where(qw < 0, -1.0, 1.0) * tl.rsqrt(qw * qw + qx * qx + qy * qy + qz * qz)
    o = out + r * 7
    tl.store(o, x, mask=keep)
    tl.store(o + 1, y, mask=keep)
    tl.store(o + 2, z, mask=keep)
    tl.store(o + 3, qx * n, mask=keep)
    tl.store(o + 4, qy * n, mask=keep)
    tl.store(o + 5, qz * n, mask=keep)
    tl.store(o + 6, qw * n, mask=keep)


def build(case: Any) -> Callable[[Tensor], Tensor] | None:
    if case.name != "forward" or case.q.dtype != torch.float32:
        return None
    from robocache.ops import _kinematics

    chain = case.chain
    structure, numbers = _kinematics.arguments(chain.flat, list(chain.tips))
    nodes = structure[0]
    flat = torch.tensor(numbers, dtype=torch.float64)
    before = flat[: 14 * nodes].view(nodes, 14)
    if not (before[:, 12] == 1).all() or before[:, 13].any() or any(structure[4 : 3 + 3 * nodes : 3]):
        raise ValueError("written for joints that turn by their own coordinate")
    steps = torch.cat([before[:, :12], flat[14 * nodes :].view(1, 12)]).float().to(case.q.device).contiguous()

    def call(q: Tensor, block: int, warps: int) -> Tensor:
        out = torch.empty(len(q), 7, dtype=q.dtype, device=q.device)
        _forward[(triton.cdiv(len(q), block),)](q, out, steps, len(q), joints=nodes, block=block, num_warps=warps)
        return out

    best = min(
        [(block, warps) for block in (128, 256, 512) for warps in (2, 4, 8)],
        key=lambda choice: triton.testing.do_bench(lambda: call(case.q, *choice)),
    )
    return lambda q: call(q, *best)
