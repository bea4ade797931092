"""zstd unpacked on a GPU by nvCOMP, where that is installed (``pip install robocache[gpu]``)."""

from __future__ import annotations

import ctypes
import importlib
from functools import cache
from typing import Any

import torch

#: Compressed blocks must begin at a multiple of so many bytes.
ALIGNMENT = 16


class _Options(ctypes.Structure):
    """``nvcompBatchedZstdDecompressOpts_t``: 0 leaves the choice of the backend to the library."""

    _fields_ = (("backend", ctypes.c_int), ("reserved", ctypes.c_char * 60))


@cache
def library() -> Any:
    """nvCOMP's C library of version 6, or None."""
    try:
        found = importlib.import_module("nvidia.libnvcomp").load_library()
    except (ImportError, OSError):
        return None
    pointer, size, status = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    try:
        room, inflate = found.nvcompBatchedZstdDecompressGetTempSize, found.nvcompBatchedZstdDecompressAsync
    except AttributeError:
        return None
    room.argtypes, room.restype = [size, size, _Options, ctypes.POINTER(size), size, pointer], status
    inflate.argtypes = [
        pointer, pointer, pointer, pointer, size, pointer, size, pointer, _Options, pointer, pointer
    ]  # fmt: skip
    inflate.restype = status
    return found


def inflate(
    packed: torch.Tensor, blocks: torch.Tensor, target: torch.Tensor, where: torch.Tensor, largest: int
) -> torch.Tensor:
    """Unpack blocks on the current stream of their device; bool ``[n]`` which of them became what they should.

    packed, target: uint8; blocks, where: int64 ``[2, n]``, where each begins in them and how many bytes it has
    largest: bytes that one becomes at most
    ``RuntimeError`` where nvCOMP refuses the call.
    """
    count, device = blocks.shape[1], packed.device
    stream = torch.cuda.current_stream(device).cuda_stream
    needed = ctypes.c_size_t()
    _well(library().nvcompBatchedZstdDecompressGetTempSize(count, largest, _Options(), needed, len(target), stream))
    scratch = torch.empty(max(1, needed.value), dtype=torch.uint8, device=device)
    sources, targets = blocks[0] + packed.data_ptr(), where[0] + target.data_ptr()
    became = torch.zeros(count, dtype=torch.int64, device=device)
    statuses = torch.full((count,), -1, dtype=torch.int32, device=device)
    pointers = (x.data_ptr() for x in (sources, blocks[1], where[1], became))
    rest = (scratch.data_ptr(), needed.value, targets.data_ptr(), _Options(), statuses.data_ptr(), stream)
    _well(library().nvcompBatchedZstdDecompressAsync(*pointers, count, *rest))
    return (statuses == 0) & (became == where[1])


def _well(status: int) -> None:
    if status:
        raise RuntimeError(f"nvCOMP refuses to unpack: status {status}")
