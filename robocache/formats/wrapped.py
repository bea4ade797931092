"""Files that are packed as a whole, whatever their format: ``run.bag.gz``, ``run.mcap.zst``, ``run.csv.lz4``."""

from __future__ import annotations

import tempfile
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from robocache.errors import InputError
from robocache.formats.compression import refuse_bomb


class Wrapper(NamedTuple):
    """A codec as Arrow names it, and what files of it begin with."""

    codec: str
    magic: bytes


WRAPPERS = {
    ".gz": Wrapper("gzip", b"\x1f\x8b"),
    ".zst": Wrapper("zstd", b"\x28\xb5\x2f\xfd"),
    ".zstd": Wrapper("zstd", b"\x28\xb5\x2f\xfd"),
    ".lz4": Wrapper("lz4", b"\x04\x22\x4d\x18"),
}
#: What any file may unpack to, and how many times its size a larger one may: logs pack to a tenth or so.
MOST_BYTES, MOST_RATIO = 1 << 30, 200
_PIECE = 1 << 20


def wrapper_of(path: str) -> Wrapper | None:
    """How a file is packed, by its name; None: it is not."""
    name = path.lower()
    return next((wrapper for suffix, wrapper in WRAPPERS.items() if name.endswith(suffix)), None)


def inner_name(path: str) -> str:
    """What the file inside is called."""
    suffix = next((suffix for suffix in WRAPPERS if path.lower().endswith(suffix)), "")
    return path[: len(path) - len(suffix)]


def first_bytes(file: BinaryIO, wrapper: Wrapper, count: int, uri: str) -> bytes:
    """What the file inside begins with."""
    return b"" if not (head := _head(file)) else _pieces(file, wrapper, head, uri).read(count)


def unwrap(file: BinaryIO, wrapper: Wrapper, uri: str, most: int | None = None) -> BinaryIO:
    """The file inside, in a temporary file that goes when it is closed. ``InputError``: it is damaged, or larger than
    ``most`` (None: than its size lets one expect)."""
    stored = file.seek(0, 2)
    limit = max(MOST_BYTES, MOST_RATIO * stored) if most is None else most
    inside = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
    try:
        with _pieces(file, wrapper, _head(file), uri) as stream:
            size = 0
            while piece := stream.read(_PIECE):
                size += len(piece)
                if size > limit:
                    if most is not None:
                        refuse_bomb(f"{uri}: held in memory whole", size, stored, most)
                    raise InputError(
                        f"{uri}: {stored} bytes unpack to more than {limit}; unpack it, and look whether it is damaged"
                    )
                inside.write(piece)
    except (pa.ArrowException, OSError) as error:
        inside.close()
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{uri}: cannot be unpacked ({error}); the file is damaged or cut off") from None
    except BaseException:
        inside.close()
        raise
    inside.seek(0)
    return inside


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    return head


def _pieces(file: BinaryIO, wrapper: Wrapper, head: bytes, uri: str) -> pa.CompressedInputStream:
    if not head.startswith(wrapper.magic):
        raise InputError(f"{uri}: begins with {head!r}, not as {wrapper.codec} does; its name says that it is packed")
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), wrapper.codec)
