"""Windows of rows: around each of some rows of a dataset the rows that a training loop wants of each column."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from robocache.ops import _library
from robocache.ops.reference import windows as reference


class WindowSteps:
    """Steps from a window's own row, int32 ``[K]`` on a device."""

    def __init__(self, steps: Sequence[int], device: torch.device | str = "cpu"):
        numbers = [int(step) for step in steps]
        if not numbers:
            raise ValueError("gather_windows: a window must have a step")
        if not -(2**31) <= min(numbers) <= max(numbers) < 2**31:
            raise ValueError(f"gather_windows: steps {min(numbers)} to {max(numbers)} do not fit in 32 bits")
        self.steps = torch.tensor(numbers, dtype=torch.int32, device=device)
        self.run = all(b == a + 1 for a, b in pairwise(numbers))


def episode_bounds(offsets: Tensor) -> Tensor:
    """Of each row the first and the last row of its episode: int32 ``[N, 2]`` of ``offsets``, int64 ``[E + 1]``."""
    if int(offsets[-1]) >= 2**31:
        raise ValueError(f"gather_windows: {int(offsets[-1])} rows; at most {2**31 - 1}")
    edges = torch.stack([offsets[:-1], offsets[1:] - 1], 1).to(torch.int32)
    return edges.repeat_interleave(offsets.diff(), dim=0)


def gather_windows(
    tables: Sequence[Tensor],
    windows: Sequence[WindowSteps],
    of: Sequence[int],
    rows: Tensor,
    bounds: Tensor,
    *,
    fills: Sequence[float | None] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """The windows around some rows, of all columns at once: one launch on a GPU.

    tables: columns of all rows, ``[N, *shape]`` of any dtypes, all on one device
    of:     for each table the number of its window in ``windows``
    rows:   int64 ``[B]``, each below N: nothing that is not there is read, but only the caller knows of a mistake
    bounds: int32 ``[N, 2]`` of :func:`episode_bounds`
    fills:  for each table what stands outside of the episode; None: the nearest row of the episode

    Returns of each table ``[B, K, *shape]``, and of each window bool ``[B, K]``: which steps lead out of the episode.
    ``ValueError``: shapes that do not fit together.
    """
    chosen = [None] * len(tables) if fills is None else list(fills)
    steps, where = [window.steps for window in windows], rows.device
    if _library.has_kernel("gather_windows", where):
        filled, values = [fill is not None for fill in chosen], [float(fill or 0) for fill in chosen]
        runs = [window.run for window in windows]
        op = torch.ops.robocache.gather_windows
        found = op(list(tables), list(of), filled, values, steps, runs, rows, bounds)
    else:
        if where.type != "meta":
            _library.warn_fallback("gather_windows")
        found = reference.gather_windows(tables, of, chosen, steps, rows, bounds)
    return found[: len(tables)], found[len(tables) :]


if _library.has_kernel("gather_windows", torch.device("cpu")):

    @torch.library.register_fake("robocache::gather_windows")
    def _fake(
        tables: list[Tensor],
        of: list[int],
        filled: list[bool],
        fills: list[float],
        steps: list[Tensor],
        runs: list[bool],
        rows: Tensor,
        bounds: Tensor,
    ) -> list[Tensor]:
        made = [t.new_empty((len(rows), len(steps[w]), *t.shape[1:])) for t, w in zip(tables, of, strict=True)]
        return [*made, *(rows.new_empty((len(rows), len(s)), dtype=torch.bool) for s in steps)]
