"""Which bytes of a sound file a checksum covers that its reader, or `verify`, must compare."""

from __future__ import annotations

import bz2
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path


def _mcap(path: Path) -> Iterator[range]:
    """Records of chunks that carry a CRC."""
    data = path.read_bytes()
    if not data.startswith(b"\x89MCAP0"):
        return
    at = 8
    while at + 9 <= len(data):
        kind, size = data[at], struct.unpack_from("<Q", data, at + 1)[0]
        if kind == 6 and at + 9 + size <= len(data):
            (crc,) = struct.unpack_from("<I", data, at + 9 + 24)
            begin = at + 9 + 28 + 4 + struct.unpack_from("<I", data, at + 9 + 28)[0] + 8
            if crc and begin < at + 9 + size:
                yield range(begin, at + 9 + size)
        at += 9 + size


def _rosbag1(path: Path) -> Iterator[range]:
    """Chunks of bz2, which ends with a CRC."""
    data, at = path.read_bytes(), 0
    while (at := data.find(b"BZh", at)) >= 0:
        packer = bz2.BZ2Decompressor()
        packer.decompress(data[at:])
        end = len(data) - len(packer.unused_data)
        yield range(at, end)
        at = end


def _zip(path: Path) -> Iterator[range]:
    """What the members of an archive hold."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            file.seek(member.header_offset + 26)
            begin = member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            if member.compress_size:
                yield range(begin, begin + member.compress_size)


def _hdf5(path: Path) -> Iterator[range]:
    """Chunks with Fletcher's checksum."""
    import h5py

    found: list[range] = []

    def look(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.fletcher32:
            for k in range(item.id.get_num_chunks()):
                chunk = item.id.get_chunk_info(k)
                found.append(range(chunk.byte_offset, chunk.byte_offset + chunk.size))

    with h5py.File(path) as file:
        file.visititems(look)
    yield from found


def _rlds(path: Path) -> Iterator[range]:
    if ".tfrecord" in path.name:
        yield range(path.stat().st_size)


def _output(path: Path) -> Iterator[range]:
    """Parts, by the manifest's checksum."""
    if path.parent.name == "data":
        yield range(path.stat().st_size)


COVERED: dict[str, Callable[[Path], Iterator[range]]] = {
    "mcap": _mcap, "rosbag1": _rosbag1, "numpy": _zip, "zarr": _zip, "hdf5": _hdf5, "rlds": _rlds, "output": _output,
}  # fmt: skip
