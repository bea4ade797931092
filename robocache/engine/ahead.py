"""Episodes read ahead of who aligns them, on threads of their own, no more at a time than memory is allowed for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread

from robocache.formats import InputSpec
from robocache.stages import Stages
from robocache.storage import is_local
from robocache.types import Episode, EpisodeRef

#: Threads that read recordings which lie some way off: most of that is waiting for answers, a few for each of them.
FAR = 4


def readers(threads: int, input: InputSpec) -> int:
    """How many threads read ahead where there are cores for ``threads`` of them."""
    return threads if all(map(is_local, input.uri)) else max(threads, FAR)


class Ahead:
    """Reads the episodes of a shard, and of the next one, in order.

    No more than ``most`` bytes of recordings are being read or wait to be taken, but one episode at least. For one
    thread that takes.
    """

    def __init__(self, read: Callable[[EpisodeRef], Episode], threads: int, most: int, stages: Stages):
        self._read, self._stages, self._most = read, stages, most
        self._asked: SimpleQueue[tuple[EpisodeRef, Future[Episode]] | None] = SimpleQueue()
        # No pool: Python would not end before its threads have, and a read may never return.
        self._threads = [Thread(target=self._serve, name=f"ahead_{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()
        self._ahead: dict[EpisodeRef, Future[Episode]] = {}  # in the order in which they are to be taken
        self._next: deque[EpisodeRef] = deque()
        self._held = 0

    def begin(
        self, refs: Sequence[EpisodeRef], following: Sequence[EpisodeRef] = ()
    ) -> Callable[[EpisodeRef], Episode]:
        """A function that hands over the episodes of ``refs``, or raises what reading one did; each is to be asked for
        once, in order. Those of ``following`` are read once these are.
        """
        wanted = [*refs, *following]
        self.forget(but=wanted)
        self._next = deque(ref for ref in wanted if ref not in self._ahead)
        self._fill()

        def take(ref: EpisodeRef) -> Episode:
            future = self._ahead.pop(ref, None)
            if future is None:
                if ref in self._next:
                    self._next.remove(ref)
                return self._read(ref)
            try:
                with self._stages.time("wait"):
                    return future.result()
            finally:
                self._held -= ref.nbytes
                self._fill()

        return take

    def forget(self, but: Sequence[EpisodeRef] = ()) -> None:
        """Give up what was read ahead, or is to be."""
        self._next.clear()
        kept = set(but)
        for ref in [ref for ref in self._ahead if ref not in kept]:
            self._ahead.pop(ref).cancel()
            self._held -= ref.nbytes

    def close(self) -> None:
        """Read nothing more; does not wait for what is being read."""
        self.forget()
        for _ in self._threads:
            self._asked.put(None)

    def _fill(self) -> None:
        while self._next and (not self._ahead or self._held + self._next[0].nbytes <= self._most):
            ref = self._next.popleft()
            future: Future[Episode] = Future()
            self._ahead[ref] = future
            self._asked.put((ref, future))
            self._held += ref.nbytes

    def _serve(self) -> None:
        while (asked := self._asked.get()) is not None:
            ref, future = asked
            if not future.set_running_or_notify_cancel():
                continue
            try:
                with self._stages.time("decode"):
                    episode = self._read(ref)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(episode)
                del episode
            del asked, future


def most_ahead(max_memory_mb: int) -> int:
    """Bytes of recordings that may be read ahead."""
    return max_memory_mb * 2**20 // 4
