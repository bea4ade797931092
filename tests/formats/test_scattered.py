"""A remote file read here and there: the bytes are the file's, and few are fetched."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robocache.formats.scattered import BLOCK, KEPT, MOST_AHEAD, ScatteredFile


class Counted(io.BytesIO):
    """What was fetched: where, and how much."""

    def __init__(self, data: bytes):
        super().__init__(data)
        self.fetched: list[tuple[int, int]] = []

    def read(self, size: int | None = -1, /) -> bytes:
        at = self.tell()
        data = super().read(size)
        self.fetched.append((at, len(data)))
        return data


DATA = np.random.default_rng(0).bytes((KEPT + 40) * BLOCK + 17)
PLACES = st.tuples(st.integers(0, len(DATA) + 10), st.one_of(st.integers(0, 3 * BLOCK), st.integers(0, len(DATA))))


@given(st.lists(PLACES, max_size=30))
@settings(max_examples=30, deadline=None)
def test_the_bytes_are_those_of_the_file(places: list[tuple[int, int]]) -> None:
    file = ScatteredFile(Counted(DATA))
    for at, size in places:
        assert file.seek(at) == at
        assert file.read(size) == DATA[at : at + size]
        assert file.tell() == max(at, min(at + size, len(DATA)))


def test_a_place_read_again_is_not_fetched_again() -> None:
    stream = Counted(DATA)
    file = ScatteredFile(stream)
    for _ in range(3):
        for at in (0, 40 * BLOCK + 5, 7 * BLOCK - 2):
            file.seek(at)
            assert file.read(4) == DATA[at : at + 4]
    assert stream.fetched == [(0, BLOCK), (40 * BLOCK, BLOCK), (6 * BLOCK, 2 * BLOCK)]


def test_what_is_read_from_front_to_back_is_fetched_in_ever_larger_pieces() -> None:
    stream = Counted(DATA)
    file, into = ScatteredFile(stream), bytearray(1000)
    for at in range(0, len(DATA), 1000):
        count = file.readinto(into)
        assert into[:count] == DATA[at : at + 1000]
    sizes = [size for _, size in stream.fetched]
    assert sizes[:4] == [BLOCK, 2 * BLOCK, 4 * BLOCK, 8 * BLOCK] and max(sizes) == MOST_AHEAD
    assert sum(sizes) == len(DATA)


def test_closing_closes_what_is_below_and_a_seek_in_front_of_the_file_is_refused() -> None:
    stream = Counted(DATA)
    with ScatteredFile(stream) as file:
        assert file.seek(-17, io.SEEK_END) == len(DATA) - 17
        assert file.read() == DATA[-17:] and file.read(1) == b""
        with pytest.raises(ValueError, match="byte -1"):
            file.seek(-1)
    assert stream.closed
