"""Windows of rows in plain torch; see :mod:`robocache.ops.windows`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Unsigned numbers, which torch cannot pick or fill, go as signed ones of the same bits.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def gather_windows(
    tables: Sequence[Tensor],
    of: Sequence[int],
    fills: Sequence[float | None],
    steps: Sequence[Tensor],
    rows: Tensor,
    bounds: Tensor,
) -> list[Tensor]:
    """Of each table ``[B, K, ...]``, then of each window bool ``[B, K]``."""
    first, last = bounds.index_select(0, rows).long().unbind(1)
    places, outside = [], []
    for each in steps:
        wanted = rows[:, None] + each
        at = torch.minimum(torch.maximum(wanted, first[:, None]), last[:, None])
        places.append(at)
        outside.append(at != wanted)
    out = []
    for table, w, fill in zip(tables, of, fills, strict=True):
        numbers = table.view(_SIGNED.get(table.dtype, table.dtype))
        found = numbers.index_select(0, places[w].reshape(-1)).view(*places[w].shape, *table.shape[1:])
        if fill is not None:
            found.masked_fill_(outside[w].view(*outside[w].shape, *[1] * (table.dim() - 1)), fill)
        out.append(found.view(table.dtype))
    return [*out, *outside]
