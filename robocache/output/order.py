"""In which order a training run takes the windows of a dataset: a pure function of (seed, epoch), with nothing kept.

A window's place in an epoch is scattered over a pool of windows by a permutation that is computed, not stored, so that
any stretch of an epoch is known at once: a run goes on after any batch, ranks and workers each work out their own.
Where the rows do not fit in memory a pool is what does: whole blocks of rows that lie together on the disk, themselves
in an order that is scattered.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 6


def _mixed(x: np.ndarray) -> np.ndarray:
    """uint64 ``[n]`` to others that look unlike: MurmurHash3's finaliser."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


def key_of(*numbers: int) -> np.uint64:
    """A key for :func:`scattered`: other numbers, or the same in another order, give another one."""
    key = np.zeros(1, np.uint64)
    for number in numbers:
        key = _mixed(key * np.uint64(0x9E3779B97F4A7C15) + np.uint64(number % 2**64) + np.uint64(1))
    return key[0]


def scattered(places: np.ndarray, count: int, key: np.uint64) -> np.ndarray:
    """Where a permutation of ``0..count-1`` sends these: int64 ``[n]`` of int64 ``[n]``.

    A Feistel network over the next power of two; what leaves the range is sent on until it is back in it.
    """
    if count <= 1:
        return places.astype(np.int64)
    bits = max(2, int(count - 1).bit_length())
    low, high = bits // 2, bits - bits // 2
    out = places.astype(np.uint64)
    outside = np.arange(len(out))
    keys = [key_of(int(key), k) for k in range(_ROUNDS)]
    while len(outside):
        left, right, widths = out[outside] >> np.uint64(low), out[outside] & np.uint64((1 << low) - 1), (high, low)
        for one in keys:
            mask = np.uint64((1 << widths[0]) - 1)
            left, right, widths = right, left ^ (_mixed(right + one) & mask), widths[::-1]
        out[outside] = (left << np.uint64(widths[1])) | right
        outside = outside[out[outside] >= count]
    return out.astype(np.int64)


class Order:
    """The order of the windows of one epoch.

    counts: int64 ``[blocks]``, how many windows each block of rows has; the windows are numbered block by block
    nbytes: int64 ``[blocks]``, how much memory each takes
    budget: how many bytes of blocks may be in a pool; 0: all of them are in one
    shuffle: False: as they are numbered
    """

    def __init__(
        self, counts: np.ndarray, nbytes: np.ndarray, *, budget: int = 0, shuffle: bool, seed: int = 0, epoch: int = 0
    ):
        self.shuffle, self._numbers = shuffle, (seed, epoch)
        blocks = len(counts)
        scatter = shuffle and budget
        self._order = scattered(np.arange(blocks), blocks, key_of(seed, epoch, 0)) if scatter else np.arange(blocks)
        firsts, size = [0], 0
        for place, block in enumerate(self._order):
            if budget and size and size + nbytes[block] > budget:
                firsts.append(place)
                size = 0
            size += int(nbytes[block])
        self._starts = np.cumsum(counts, dtype=np.int64) - counts
        self._ends = np.concatenate([[0], np.cumsum(counts[self._order], dtype=np.int64)])
        self._pools = np.append(self._ends[firsts], self._ends[-1])
        self.total = int(self._ends[-1])

    def share(self, rank: int, world: int) -> tuple[int, int]:
        """First and last place, the latter excluded, of one rank: each place is of exactly one of them."""
        return self.total * rank // world, self.total * (rank + 1) // world

    def windows(self, start: int, stop: int) -> np.ndarray:
        """The windows at these places of the epoch, int64 ``[stop - start]``."""
        out = np.arange(start, stop)
        if not self.shuffle or stop <= start:
            return out
        first = int(np.searchsorted(self._pools, start, "right")) - 1
        for pool in range(first, len(self._pools) - 1):
            low, high = int(self._pools[pool]), int(self._pools[pool + 1])
            if low >= stop:
                break
            mine = slice(max(low - start, 0), min(high, stop) - start)
            out[mine] = low + scattered(out[mine] - low, high - low, key_of(*self._numbers, 1, pool))
        at = np.searchsorted(self._ends, out, "right") - 1
        return self._starts[self._order[at]] + out - self._ends[at]
