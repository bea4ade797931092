"""A batch of windows, which PyTorch's ``default_collate`` takes as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data._utils.collate import collate, default_collate_fn_map


class Item(dict):
    """One window of a :class:`Batch`."""


class Batch(Sequence):
    """Windows that were assembled together: a sequence of items, and ``tensors`` of them all, the batch first."""

    def __init__(self, tensors: dict[str, Any], count: int):
        self.tensors, self._count = tensors, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return Item({name: values[index] for name, values in self.tensors.items()})


def _collated(batch: Sequence[Item], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """The batch as it was assembled; items that somebody has picked from several are put together anew."""
    if isinstance(batch, Batch):
        return batch.tensors
    return {name: collate([item[name] for item in batch], collate_fn_map=collate_fn_map) for name in batch[0]}


default_collate_fn_map[Item] = _collated
