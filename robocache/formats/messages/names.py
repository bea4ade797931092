"""Columns that messages name themselves: each message brought to one order by the names it carries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robocache.formats.base import shown


class Named(NamedTuple):
    """Rows of the settled columns.

    values:  ``[m, columns]`` of the messages that have one of them
    present: bool ``[m, columns]`` which of them each has; None: all
    kept:    bool ``[n]`` which messages these are; None: all
    """

    values: np.ndarray
    present: np.ndarray | None
    kept: np.ndarray | None


class ByName:
    """Brings the numbers of messages to one order by name, and counts what is not to be had."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self.seen: Counter[tuple[str, ...]] = Counter()
        self.uneven = 0

    def straight(self, spoken: Sequence[tuple[str, ...]], width: int, count: int) -> bool:
        """Whether ``count`` messages of ``width`` numbers have just the settled columns, in their order."""
        if list(spoken) != [self.names] or not width == len(self.names) == len(set(self.names)) > 0:
            return False
        self.seen[self.names] += count
        return True

    def arrange(
        self, flat: np.ndarray, counts: np.ndarray, spoken: Sequence[tuple[str, ...]], which: np.ndarray
    ) -> Named:
        """
        flat:   the numbers of all ``n`` messages one after another; counts: int64 ``[n]`` how many each has
        spoken: the lists of names that occur; which: int64 ``[n]`` the one that each message carries
        """
        n, width = len(counts), len(self.names)
        uniform = n > 0 and len(spoken) == 1 and bool((counts == len(spoken[0])).all())
        if uniform and (order := self._order(spoken[0])) is not None and (order >= 0).all():
            self.seen[spoken[0]] += n
            whole = flat.reshape(n, len(spoken[0]))
            straight = len(order) == whole.shape[1] and (order == np.arange(len(order))).all()
            return Named(whole if straight else whole[:, order], None, None)
        kept, present = np.zeros(n, bool), np.zeros((n, width), bool)
        values = np.full((n, width), np.nan if flat.dtype.kind == "f" else 0, flat.dtype)
        starts = np.cumsum(counts) - counts
        for code, names in enumerate(spoken):
            rows = np.flatnonzero(which == code)
            self.seen[names] += len(rows)
            order = self._order(names)
            if order is None:
                continue
            kept[rows] = True
            full = rows[counts[rows] == len(names)]
            self.uneven += len(rows) - len(full)  # no number for each name: none can be told from another
            there = np.flatnonzero(order >= 0)
            values[np.ix_(full, there)] = flat[starts[full][:, None] + order[there]]
            present[np.ix_(full, there)] = True
        if not kept.all():
            values, present = values[kept], present[kept]
        return Named(values, None if present.all() else present, None if kept.all() else kept)

    def _order(self, names: tuple[str, ...]) -> np.ndarray | None:
        """Where each settled column is in a message of these names, -1: nowhere; None where it has none of them."""
        at = {name: i for i, name in reversed(list(enumerate(names)))}
        order = np.array([at.get(name, -1) for name in self.names], np.int64)
        return order if (order >= 0).any() else None

    def notes(self, *, chosen: bool = False) -> list[str]:
        """What a person should know of the messages that were not taken, not whole, or brought to another order.

        chosen: the order is a selector's, so that messages may differ from it, if not from each other
        """
        found = []
        moved = sum(count for names, count in self.seen.items() if self._moved(names, chosen))
        if moved:
            of = "" if moved == sum(self.seen.values()) else f" of {sum(self.seen.values()):,}"
            order = "than in most" if chosen else "than the dataset's"
            text = f"the names of {_messages(moved)}{of} stand in another order {order}"
            found.append(f"{text}; each number is in the column of its name")
        others = {names: count for names, count in self.seen.items() if self._order(names) is None}
        if others:
            listed = sorted({name for names in others for name in names})
            carry = f"carry other names ({shown(listed, 12)})" if listed else "carry no names"
            found.append(f"{_messages(sum(others.values()))} {carry}")
        if self.uneven:
            found.append(f"{_messages(self.uneven)} do not have one value for each name")
        return found

    def _moved(self, names: tuple[str, ...], chosen: bool) -> bool:
        """Whether these names stand in another order than the settled columns, or (chosen) than those seen most."""
        order = self._order(names)
        usual = self._order(max(self.seen, key=lambda seen: self.seen[seen])) if chosen else np.arange(len(self.names))
        if order is None or usual is None:
            return False
        both = (order >= 0) & (usual >= 0)
        return bool((np.argsort(order[both]) != np.argsort(usual[both])).any())

    def missing(self) -> str:
        """Why there is no sample, where there are messages and none has any of the names; else empty."""
        if not self.seen or any(self._order(names) is not None for names in self.seen):
            return ""
        listed = sorted({name for names in self.seen for name in names})
        return f"no message has {shown(self.names, 12)}; " + (
            f"the names that they carry are {shown(listed)}" if listed else "they carry no names"
        )


def _messages(count: int) -> str:
    return f"{count:,} message{'s' if count != 1 else ''}"
