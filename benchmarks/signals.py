"""Signals with a known truth: per episode and column a sum of two sines, sampled at jittered stamps."""

from __future__ import annotations

import math

import torch
from cases import NANOSECONDS
from torch import Tensor


class Signal:
    """``sum_k a_k sin(2 pi f_k t + p_k)`` with f in [low_hz, high_hz]; column d is at most ``peak[d]``."""

    def __init__(self, batch: int, peak: Tensor, low_hz: float, high_hz: float, random: torch.Generator) -> None:
        shape = (2, batch, 1, len(peak))

        def uniform() -> Tensor:
            return torch.rand(shape, dtype=torch.float64, device=random.device, generator=random)

        self.peak = peak
        self._frequency = 2 * math.pi * (low_hz + (high_hz - low_hz) * uniform())
        self._phase = 2 * math.pi * uniform()

    def at(self, times: Tensor) -> Tensor:
        """int64 nanoseconds ``[B, n]`` -> float64 ``[B, n, D]``."""
        seconds = (times.double() / NANOSECONDS)[..., None]
        waves = [torch.sin(f * seconds + p) for f, p in zip(self._frequency, self._phase, strict=True)]
        return (0.7 * waves[0] + 0.3 * waves[1]) * self.peak


def stamps(batch: int, hz: float, seconds: float, random: torch.Generator) -> Tensor:
    """int64 ``[B, n]``: a steady rate with jitter of a tenth of the period."""
    period = round(NANOSECONDS / hz)
    ticks = torch.arange(round(hz * seconds), device=random.device) * period
    return ticks + torch.randint(0, period // 10, (batch, len(ticks)), device=random.device, generator=random)
