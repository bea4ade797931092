"""What no reader of compressed MCAP logs can avoid: inflating all their chunks."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zstandard
from mcap.reader import make_reader

Chunks = list[tuple[int, int, int]]


def chunks_of(path: Path) -> Chunks:
    """Where each chunk's compressed bytes begin and end in the file, and how many bytes they become."""
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    ends = [(index, index.chunk_start_offset + index.chunk_length) for index in summary.chunk_indexes]
    return [(end - index.compressed_size, end, index.uncompressed_size) for index, end in ends]


class Decompressor:
    """Reads and decompresses files into buffers that are there from the start, a pair for each thread."""

    def __init__(self, chunks: dict[Path, Chunks], threads: int):
        self._chunks = chunks
        paths = list(chunks)
        self._shares = [paths[i::threads] for i in range(threads)]
        largest = max(size for found in chunks.values() for _, _, size in found)
        self._inputs = [bytearray(max(p.stat().st_size for p in paths)) for _ in range(threads)]
        self._outputs = [bytearray(largest) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads)

    def __call__(self) -> None:
        list(self._pool.map(self._share, range(len(self._shares))))

    def _share(self, thread: int) -> None:
        data, target = memoryview(self._inputs[thread]), memoryview(self._outputs[thread])
        context = zstandard.ZstdDecompressor()
        for path in self._shares[thread]:
            with path.open("rb", buffering=0) as file:
                file.readinto(data)
            for begin, end, size in self._chunks[path]:
                if context.stream_reader(data[begin:end]).readinto(target[:size]) != size:
                    sys.exit(f"{path}: a chunk does not decompress to its size")
