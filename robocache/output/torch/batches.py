"""The order in which a training loop gets the windows of a dataset, and how it goes on after a stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, Sampler, get_worker_info

if TYPE_CHECKING:
    from robocache.output.torch.dataset import Dataset

#: Windows whose order is worked out at once.
_STRETCH = 8192


def ranked(rank: int | None, world: int | None) -> tuple[int, int]:
    """Of this process, where they are not given."""
    if (rank is None) != (world is None):
        raise ValueError("give rank and world, or neither")
    if rank is None or world is None:
        ready = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if ready else (0, 1)
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not of 0 to {world - 1}")
    return rank, world


class WindowSampler(Sampler[int]):
    """The windows of one rank in the order of (seed, epoch), for a ``DataLoader`` of the dataset; each window is of
    exactly one rank. ``state_dict`` is exact under torchdata's ``StatefulDataLoader``; PyTorch's own reads ahead of
    what a training loop has seen, for which :meth:`Batches.state_dict` is. Its end begins the next epoch.
    """

    def __init__(self, dataset: Dataset, shuffle: bool, seed: int, rank: int, world: int):
        self.dataset, self.shuffle, self.seed, self.rank, self.world = dataset, shuffle, seed, rank, world
        self.epoch, self._taken = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Begin that one."""
        self.epoch, self._taken = epoch, 0

    def __len__(self) -> int:
        start, stop = _share(self)
        return stop - start

    def __iter__(self) -> Iterator[int]:
        order = self.dataset.order(shuffle=self.shuffle, seed=self.seed, epoch=self.epoch)
        start, stop = order.share(self.rank, self.world)
        for at in range(start + self._taken, stop, _STRETCH):
            for window in order.windows(at, min(at + _STRETCH, stop)).tolist():
                self._taken += 1
                yield window
        self.set_epoch(self.epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """What goes on behind the windows that were taken."""
        return {"epoch": self.epoch, "taken": self._taken, "of": _identity(self)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """``ValueError`` where it is of another order of windows."""
        _same(state["of"], _identity(self))
        self.epoch, self._taken = state["epoch"], state["taken"]


class Batches(IterableDataset):
    """Batches of windows, dicts of tensors, in the order of (seed, epoch): iterate over it as it is, or give it to a
    ``DataLoader(batches, batch_size=None)``. Each window is in one batch of one rank, once an epoch, and the batches
    come in the same order whatever the threads and the workers. The end of an epoch begins the next.

    threads: how many assemble batches ahead, 0: none. A ``DataLoader``'s worker processes assemble their own

    ``drop_last`` leaves out what does not fill a batch, and gives all ranks as many batches; without it the ranks'
    numbers of windows differ by one at most.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        shuffle: bool,
        seed: int,
        drop_last: bool,
        rank: int,
        world: int,
        threads: int,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size, shuffle, seed
        self.drop_last, self.rank, self.world, self.threads = drop_last, rank, world, threads
        self.epoch, self._batch, self._own = 0, 0, 0

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        if self.drop_last:
            return len(self.dataset) // self.world // self.batch_size
        start, stop = _share(self)
        return -(-(stop - start) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Begin that one."""
        self.epoch, self._batch, self._own = epoch, 0, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        if worker is None:
            yield from self._ahead()
            return
        mine = range(self._batch + worker.id + self._own * worker.num_workers, len(self), worker.num_workers)
        for items in self._windows(mine):
            self._own += 1
            yield self.dataset.__getitems__(items).tensors
        self.set_epoch(self.epoch + 1)

    def _ahead(self) -> Iterator[dict[str, Any]]:
        """All batches that are left, assembled by threads."""
        number, count = self._batch, len(self)
        for tensors, windows in self._assembled(range(number, count), self.dataset.together(self.batch_size)):
            for at in range(0, windows, self.batch_size):
                number += 1
                self._goes_on(number, count)
                yield tensors if windows <= self.batch_size else _part(tensors, at, at + self.batch_size)

    def _assembled(self, rest: range, together: int) -> Iterator[tuple[dict[str, Any], int]]:
        """So many batches at once, and how many windows they have."""
        groups, gathered, none = self._windows(rest, together), self._gathering(), np.zeros(0, np.int64)
        if not self.threads:
            for items in groups:
                yield gathered(items), len(items)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            under_way: list[tuple[Future, int]] = []
            try:
                while True:
                    while len(under_way) <= self.threads and len(items := next(groups, none)):
                        under_way.append((pool.submit(gathered, items), len(items)))
                    if not under_way:
                        return
                    first, windows = under_way.pop(0)
                    yield first.result(), windows
            finally:
                for one, _ in under_way:
                    one.cancel()

    def _gathering(self) -> Callable[[np.ndarray], dict[str, Any]]:
        """What assembles windows; on a card in the stream of the thread that asks for them, whatever thread does it."""
        dataset = self.dataset
        if dataset.device.type != "cuda":
            return lambda items: dataset.__getitems__(items).tensors
        stream = torch.cuda.current_stream(dataset.device)

        def there(items: np.ndarray) -> dict[str, Any]:
            with torch.cuda.stream(stream):
                return dataset.__getitems__(items).tensors

        return there

    def _goes_on(self, batch: int, count: int) -> None:
        if batch < count:
            self._batch = batch
        else:
            self.set_epoch(self.epoch + 1)

    def _windows(self, batches: range, together: int = 1) -> Iterator[np.ndarray]:
        """The windows of these batches, of so many that follow each other at once; a stretch of the order is worked out
        at once.
        """
        order = self.dataset.order(shuffle=self.shuffle, seed=self.seed, epoch=self.epoch)
        start, stop = order.share(self.rank, self.world)
        stop = min(stop, start + len(self) * self.batch_size)
        known = np.zeros(0, np.int64)
        first = start
        for number in batches[::together]:
            low = start + number * self.batch_size
            high = min(low + self.batch_size * together, stop)
            if not first <= low or high > first + len(known):
                first = low
                known = order.windows(low, min(stop, max(high, low + _STRETCH)))
            yield known[low - first : high - first]

    def state_dict(self, batch: int | None = None) -> dict[str, Any]:
        """What goes on behind the batches that were handed out. batch: how many of this epoch's a training loop has
        had, where a ``DataLoader`` with workers stands between, whose number may then be another.
        """
        at = self._batch if batch is None else batch
        return {"epoch": self.epoch, "batch": at, "own": self._own, "of": _identity(self)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """``ValueError`` where it is of another order of batches."""
        _same(state["of"], _identity(self))
        self.epoch, self._batch, self._own = state["epoch"], state["batch"], state["own"]
        if not self._own:
            self._goes_on(self._batch, len(self))


def _part(tensors: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Some of the windows that were assembled at once; tensors stay where they are."""
    return {name: values[start:stop] for name, values in tensors.items()}


def _share(of: WindowSampler | Batches) -> tuple[int, int]:
    count = len(of.dataset)
    return count * of.rank // of.world, count * (of.rank + 1) // of.world


def _identity(of: WindowSampler | Batches) -> dict[str, Any]:
    """What decides which windows come when, but for the epoch."""
    names = ("batch_size", "shuffle", "seed", "drop_last", "rank", "world")
    told = {name: getattr(of, name) for name in names if hasattr(of, name)}
    dataset = of.dataset
    return told | {"version": dataset.output.version.number, "windows": len(dataset), "pools": dataset.pools}


def _same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    other = [
        f"{name} was {before.get(name)!r} and is {value!r}" for name, value in now.items() if before.get(name) != value
    ]
    if other:
        raise ValueError(f"the state is of another order of windows: {'; '.join(other)}")
