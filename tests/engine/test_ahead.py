"""Reading ahead: in order, each once, what is raised where it is asked for, and never more than is allowed for."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from robocache.engine.ahead import Ahead
from robocache.stages import Stages
from robocache.types import Episode, EpisodeRef

REFS = [EpisodeRef(name, "test", (), nbytes=10) for name in "abcdefgh"]
FIRST, SECOND = REFS[:4], REFS[4:]


class Reader:
    """Notes what it reads, and how much was read that nobody had taken."""

    def __init__(self) -> None:
        self.lock, self.read, self.taken, self.most = threading.Lock(), [], 0, 0

    def __call__(self, ref: EpisodeRef) -> Episode:
        with self.lock:
            self.read.append(ref.id)
            self.most = max(self.most, len(self.read) - self.taken)
        if ref.id == "b":
            raise OSError(5, "the disk hiccups")
        return Episode(ref.id, {})


def take(ahead: Ahead, reader: Reader, refs: list[EpisodeRef], following: Sequence[EpisodeRef] = ()) -> list[str]:
    read, found = ahead.begin(refs, following), []
    for ref in refs:
        try:
            found.append(read(ref).id)
        except OSError as error:
            found.append(error.strerror)
        with reader.lock:
            reader.taken += 1
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_two_shards(threads):
    reader = Reader()
    ahead = Ahead(reader, threads, 25, Stages())
    assert take(ahead, reader, FIRST, SECOND) == ["a", "the disk hiccups", "c", "d"]
    assert take(ahead, reader, SECOND) == ["e", "f", "g", "h"]
    ahead.close()
    assert sorted(reader.read) == sorted("abcdefgh")  # each once
    assert reader.most <= 4  # two of ten bytes each, what is being taken, and what takes its place


def test_one_that_is_larger_than_is_allowed_for_is_read_all_the_same():
    reader = Reader()
    ahead = Ahead(reader, 2, 1, Stages())
    assert take(ahead, reader, SECOND) == ["e", "f", "g", "h"]
    ahead.close()


def test_what_was_read_for_a_shard_that_does_not_come_is_given_up():
    reader = Reader()
    ahead = Ahead(reader, 1, 1000, Stages())
    ahead.begin(FIRST)
    assert take(ahead, reader, SECOND) == ["e", "f", "g", "h"]
    ahead.close()
    assert ahead._held == 0
