"""One packed message, or one array of it, as Python values: for a look at the first, and for what is the same in all.

Data goes through :mod:`robocache.formats.messages.decode`, a window at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from robocache.errors import InputError
from robocache.formats.messages.blocks import ByteOrder
from robocache.formats.messages.decode import byte_order
from robocache.formats.messages.definitions import Number, Struct, Text, Type
from robocache.formats.messages.packing import Packing

_MOST = 1 << 20  # elements of an array of structs or text


def unpack_message(root: Struct, data: np.ndarray, packing: Packing, where: str) -> dict[str, Any]:
    """A whole message (uint8 ``[n]``): structs as dicts, numbers of an array as numpy arrays."""
    lead = packing.encapsulation
    if len(data) < max(lead, 2 * bool(lead)):
        raise InputError(f"{where}: a message of {len(data)} bytes, the CDR encapsulation alone takes {lead}")
    order = byte_order(data[None, :2], where) if lead else "<"
    return _Cursor(data[lead:].tobytes(), order, packing, where).value(root)


def unpack_value(kind: Type, data: bytes, order: ByteOrder, packing: Packing, where: str) -> Any:
    """A value that lies at the beginning of ``data``, which begins at a multiple of 4 of its message."""
    return _Cursor(data, order, packing, where).value(kind)


class _Cursor:
    def __init__(self, data: bytes, order: ByteOrder, packing: Packing, where: str):
        self._data, self._order, self._packing, self._where, self._at = data, order, packing, where, 0

    def value(self, kind: Type) -> Any:
        if isinstance(kind, Struct):
            return {name: self.value(inner) for name, inner in kind.fields}
        if isinstance(kind, Number):
            return self._numbers(kind.dtype, 1)[0].item()
        if isinstance(kind, Text):
            return self._text()
        length = self._length() if kind.length is None else kind.length
        if isinstance(kind.element, Number):
            return self._numbers(kind.element.dtype, length)
        if length > min(_MOST, len(self._data)):
            raise InputError(f"{self._where}: an array of {length} elements; the messages do not match their schema")
        return [self.value(kind.element) for _ in range(length)]

    def _take(self, size: int, align: int) -> bytes:
        start = self._at + (-self._at % align if self._packing.aligned else 0)
        if start + size > len(self._data):
            raise InputError(f"{self._where}: ends in the middle of a field; the message does not match its schema")
        self._at = start + size
        return self._data[start : start + size]

    def _numbers(self, dtype: np.dtype, count: int) -> np.ndarray:
        if not count:
            return np.empty(0, dtype)
        data = self._take(count * dtype.itemsize, dtype.itemsize)
        plain = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder(self._order)
        return np.frombuffer(data, plain).astype(dtype)

    def _length(self) -> int:
        return int(self._numbers(np.dtype(np.uint32), 1)[0])

    def _text(self) -> str:
        data = self._take(self._length(), 1)
        return (data[:-1] if self._packing.nul else data).decode("utf-8", "replace")
