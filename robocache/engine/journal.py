"""Which shards this process is at, written down so that the next run knows what this one died of.

Local mode works in threads, so an episode that crashes its process takes the run with it. A line is appended as a shard
begins and as it ends; faulthandler adds what it says as the process crashes (a segmentation fault, an abort). Shards
that had begun and not ended are then probed first by the next run (:mod:`robocache.engine.probe`): at once after such a
crash, and after ``max_attempts`` runs that ended without a word, as a kill or the kernel's out-of-memory killer ends
them, for anyone may kill a process. The file goes with the last shard that is not suspected.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from robocache.engine.shards import Shard
from robocache.output.layout import IN_FLIGHT
from robocache.output.store import Store

logger = logging.getLogger("robocache")

#: How faulthandler begins.
_CRASH = ("Fatal Python error", "Windows fatal exception")


class Journal:
    """Of one run, in the output's folder; nothing is written where that is not on a local disk.

    suspects: fingerprints of the shards that earlier runs died at
    """

    def __init__(self, store: Store, deaths: int):
        self._path = Path(store.path(IN_FLIGHT)) if store.local else None
        self._begun: set[str] = set()
        self._handle = -1
        self.suspects = self._read(deaths)

    def _read(self, deaths: int) -> frozenset[str]:
        """``deaths``: how many runs must have died at a shard without a word."""
        crashed: set[str] = set()
        begun: Counter[str] = Counter()  # since they last ended
        lines: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            if self._path is not None:
                lines = self._path.read_text(errors="replace").splitlines()
        for line in lines:
            if line.startswith(_CRASH):
                crashed |= set(begun)
                logger.warning("an earlier run crashed (%s); what it was at is tried in processes of its own", line)
            elif line.startswith("begins "):
                begun[line.removeprefix("begins ")] += 1
            elif line.startswith("ends "):
                shard = line.removeprefix("ends ")
                crashed.discard(shard)
                begun.pop(shard, None)
        return frozenset(crashed | {shard for shard, times in begun.items() if times >= deaths})

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep it for the length of a ``with``."""
        if self._path is None:
            yield
            return
        self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        ours = not faulthandler.is_enabled()  # else it tells someone already
        if ours:
            faulthandler.enable(self._handle)
        try:
            yield
            if not self._begun:
                self._path.unlink()
        finally:
            if ours:
                faulthandler.disable()
            os.close(self._handle)
            self._handle = -1

    def begins(self, shard: Shard) -> None:
        """It is being worked on."""
        self._begun.add(shard.fingerprint())
        self._say(f"begins {shard.fingerprint()}")

    def ends(self, shard: Shard) -> None:
        """Well or not, the process has survived it."""
        self._begun.discard(shard.fingerprint())
        self._say(f"ends {shard.fingerprint()}")

    def _say(self, line: str) -> None:
        if self._handle >= 0:
            os.write(self._handle, f"{line}\n".encode())
