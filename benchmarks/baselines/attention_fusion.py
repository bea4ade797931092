"""Fusing streams by temporal cross-attention, as learned policies do, with nothing learned.

Queries are features of the target times, keys the same features of the sample times, values the samples; every target
attends to every sample of its episode and stream, and the streams' results lie side by side. A time's features are
sines and cosines at 32 frequencies between one period in twice the recording and one in four samples, so the logit of
a pair is ``sharpness / 32 * sum_f cos(w_f dt)``: highest at dt = 0 and lower everywhere else. Softmax then makes a
narrow bump around the target: kernel smoothing (Nadaraya-Watson), which is what an attention head with sinusoidal time
codes can do of interpolation without training. A trained head could do better on the signals it was trained on.

``torch.nn.functional.scaled_dot_product_attention`` with the FlashAttention-2 backend on a GPU (it wants bf16 or f16,
and values as wide as the keys: they are padded with zeros); on a CPU whatever torch has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

from robocache.ops import StreamSpec

FREQUENCIES = 32
WIDTH = 2 * FREQUENCIES  # of queries, keys and padded values
CHUNK = 8  # episodes whose features are made at once: they are float64


def features(times: Tensor, span: int, period: int, sharpness: float, dtype: torch.dtype) -> Tensor:
    """int64 ``[B, n]`` -> ``[B, 1, n, 64]``; the dot product of two is ``sharpness / 32 * sum cos``."""
    steps = torch.linspace(0, 1, FREQUENCIES, dtype=torch.float64, device=times.device)
    low, high = 2 * math.pi / (2 * span), 2 * math.pi / (4 * period)
    omega = low * (high / low) ** steps
    scale = math.sqrt(sharpness / FREQUENCIES)
    made = []
    for part in times.split(CHUNK):
        angle = part.double()[..., None] * omega
        made.append((torch.cat([angle.cos(), angle.sin()], dim=-1) * scale).to(dtype))
    return torch.cat(made)[:, None]


class AttentionFusion:
    """Everything that does not depend on the sample values is made beforehand and not timed, in its favour."""

    def __init__(self, streams: Sequence[StreamSpec], targets: Tensor, sharpness: float, dtype: torch.dtype) -> None:
        self._pairs = []
        for s in streams:
            span = int(s.times.max() - s.times.min()) + 1
            period = span // s.times.shape[1]
            code = [features(t, span, period, sharpness, dtype) for t in (targets, s.times)]
            self._pairs.append((code[0], code[1], s.values.shape[-1]))
        self._values = [pad(s.values.to(dtype), (0, WIDTH - s.values.shape[-1]))[:, None] for s in streams]
        self._cuda = targets.is_cuda

    def __call__(self) -> Tensor:
        """``[B, T, sum D]``."""
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if self._cuda else nullcontext():
            found = [
                scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0, :, :width]
                for (query, key, width), value in zip(self._pairs, self._values, strict=True)
            ]
        return torch.cat(found, dim=-1)

    @property
    def operations(self) -> int:
        """Floating-point operations of the two matrix products."""
        return sum(4 * q.shape[0] * q.shape[2] * k.shape[2] * WIDTH for q, k, _ in self._pairs)
