"""CDR messages that are laid out otherwise than ROS 2's middlewares do as a rule, brought into that layout.

What a message is tells its encapsulation: plain CDR (of XCDR1) is decoded as it is; XCDR2, plain, delimited or as a
list of members, is taken apart (:mod:`robocache.formats.messages.repack`), as are types with wide strings or with
members that may be lacking, which become sequences of one or none.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np

from robocache.errors import InputError
from robocache.formats.messages.batch import Messages, gather, unpacked
from robocache.formats.messages.blocks import ByteOrder
from robocache.formats.messages.definitions import Array, Number, Struct, Text, Type
from robocache.formats.messages.idl import Record
from robocache.formats.messages.lowered import ChunkDecoder
from robocache.formats.messages.packed import PackedTopic
from robocache.formats.messages.packing import CDR
from robocache.formats.messages.repack import Parts, repack
from robocache.formats.messages.topic import Request

#: By the encapsulation without its lowest bit, which tells the byte order: the version, and what a type is that does
#: not say so itself.
_KINDS = {0x00: (1, "final"), 0x02: (1, "mutable"), 0x06: (2, "final"), 0x08: (2, "appendable"), 0x0A: (2, "mutable")}
_NAMES = ", ".join(f"{kind:#06x}" for kind in _KINDS)
_MOST = 1 << 16  # values of one message that are gone through one by one
_DEEPEST = 64
#: How many bytes a length of a wide string counts for, and how they are encoded: middlewares differ.
_WIDE = ((2, "utf-16"), (4, "utf-32"), (1, "utf-16"))


class CdrTopic(PackedTopic):
    """Messages of ROS 2 or DDS; arguments as those of its base."""

    def __init__(self, topic: str, root: Struct, requests: Sequence[Request], *, reserve: int, uri: str):
        super().__init__(topic, narrow(root), requests, CDR, reserve=reserve, uri=uri)
        self._wire, self._name = root, f"{uri}: {topic}"
        self._plain = _plain(root)

    def add(self, messages: Messages) -> None:
        if not len(messages.start) or int(messages.size.min()) < 4:
            return super().add(messages)
        kinds = gather(messages.buffer, messages.start, 2)
        if self._plain and not (kinds[:, 0].any() or (kinds[:, 1] > 1).any()):
            return super().add(messages)
        messages = unpacked(messages, self._name)
        if int(messages.size.min()) < 4:
            return super().add(messages)
        kinds = gather(messages.buffer, messages.start, 2)
        if self._plain and not (kinds[:, 0].any() or (kinds[:, 1] > 1).any()):
            return super().add(messages)
        return super().add(repack(messages, partial(parts, self._wire, self._name)))

    def decoder(self, channel: int, first: Messages, room: int) -> ChunkDecoder | None:
        return super().decoder(channel, first, room) if self._plain else None


@lru_cache(maxsize=256)
def narrow(root: Struct) -> Struct:
    """The type once its texts are UTF-8 and all that may be lacking are sequences."""
    return root if _plain(root) else _narrow_struct(root)


def _narrow_struct(root: Struct) -> Struct:
    return Struct(root.name, tuple((name, _narrow(inner)) for name, inner in root.fields))


def _narrow(kind: Type) -> Type:
    if isinstance(kind, Struct):
        return _narrow_struct(kind)
    if isinstance(kind, Array):
        return Array(_narrow(kind.element), kind.length)
    return Text() if isinstance(kind, Text) else kind


def _plain(kind: Type) -> bool:
    """Whether plain CDR of the type is what the decoder reads."""
    if isinstance(kind, Record) and (
        kind.extension == "mutable" or kind.cases or any(member.optional for member in kind.members)
    ):
        return False
    if isinstance(kind, Struct):
        return all(_plain(inner) for _, inner in kind.fields)
    return _plain(kind.element) if isinstance(kind, Array) else not (isinstance(kind, Text) and kind.wide)


def parts(root: Struct, where: str, data: bytes) -> Parts:
    """A message taken apart; it becomes plain CDR, little endian. ``InputError`` where it does not match its type."""
    if len(data) < 4:
        raise InputError(f"{where}: a message of {len(data)} bytes, the CDR encapsulation alone takes 4")
    kind = data[0] << 8 | data[1]
    if kind & ~1 not in _KINDS:
        raise InputError(f"{where}: CDR encapsulation {kind:#06x}; {_NAMES} and each plus 1 can be read")
    version, usual = _KINDS[kind & ~1]
    if isinstance(root, Record) and root.extension:
        usual = "appendable"  # what IDL has for types within that do not say so
    fault: InputError | None = None
    # What neither the message nor the type tells is what leads to the message's end.
    for nested in (usual, "final") if version == 2 and usual == "appendable" else (usual,):
        for wide in _WIDE:
            cursor = _Cursor(data, version, nested, kind & 1 == 1, wide, where)
            try:
                cursor.value(root, 0)
                if len(data) - cursor.at <= 3:  # which fill the last word
                    return cursor.parts
                left = len(data) - cursor.at
                fault = fault or InputError(
                    f"{where}: {left} bytes behind the last field; the message does not match its schema"
                )
            except InputError as error:
                fault = fault or error
            if not cursor.texts:
                break
    assert fault is not None
    raise fault


class _Cursor:
    """Leads over a message. texts: wide strings that it has met."""

    def __init__(self, data: bytes, version: int, usual: str, little: bool, wide: tuple[int, str], where: str):
        self.parts, self.at, self.texts = Parts(bytearray(b"\0\1\0\0")), 4, 0
        self._data, self._end, self._where, self._wide = data, len(data), where, wide
        self._two, self._usual = version == 2, usual
        self._order: ByteOrder = "<" if little else ">"
        self._most, self._count = 8 if version == 1 else 4, 0

    def value(self, kind: Type, depth: int) -> None:
        self._count += 1
        if self._count > _MOST or depth > _DEEPEST:
            raise self._fault(f"holds more than {_MOST} values, or {_DEEPEST} levels")
        if isinstance(kind, Number):
            self._numbers(kind, 1)
        elif isinstance(kind, Text):
            self._text(kind)
        elif isinstance(kind, Array):
            self._array(kind, depth)
        else:
            self._struct(kind, depth)

    def _fault(self, what: str) -> InputError:
        return InputError(f"{self._where}: {what}; the message does not match its schema")

    def _align(self, size: int) -> None:
        self.at += -(self.at - 4) % min(size, self._most)

    def _need(self, nbytes: int) -> None:
        if nbytes > self._end - self.at:
            raise self._fault("ends in the middle of a field")

    def _word(self) -> int:
        """A uint32 that is no value."""
        self._align(4)
        self._need(4)
        (word,) = struct.unpack_from(f"{self._order}I", self._data, self.at)
        self.at += 4
        return int(word)

    def _put(self, word: int) -> None:
        self.parts.align(4, 4)
        self.parts.out += struct.pack("<I", word)

    def _numbers(self, kind: Number, count: int) -> None:
        item = kind.dtype.itemsize
        if not count:
            return
        self._align(item)
        self._need(count * item)
        self.parts.align(item, 4)
        self.parts.copy(self.at, self.at + count * item, 1 if self._order == "<" else item)
        self.at += count * item

    def _text(self, kind: Text) -> None:
        length = self._word()
        if not kind.wide:
            self._need(length)
            self._put(length)
            self.parts.copy(self.at, self.at + length)
            self.at += length
            return
        self.texts += 1
        unit, encoding = self._wide
        self._need(length * unit)
        raw = self._data[self.at : self.at + length * unit]
        self.at += length * unit
        try:
            text = raw.decode(f"{encoding}-{'le' if self._order == '<' else 'be'}")
        except UnicodeDecodeError:
            raise self._fault(f"holds a wide string that is not {encoding}") from None
        if "\0" in text[:1] + text[1:-1]:  # half a character of another width
            raise self._fault(f"holds a wide string with a NUL in it, as {encoding}")
        packed = text.removesuffix("\0").encode()
        self._put(len(packed) + 1)
        self.parts.out += packed + b"\0"

    def _array(self, kind: Array, depth: int) -> None:
        limit = self._end
        delimited = self._two and not isinstance(kind.element, Number)
        if delimited:
            self._limit(self._word())
        count = kind.length
        if count is None:
            count = self._word()
            self._put(count)
        if isinstance(kind.element, Number):
            self._numbers(kind.element, count)
        else:
            if count > self._end - self.at:
                raise self._fault(f"claims {count} elements")
            for _ in range(count):
                self.value(kind.element, depth + 1)
        if delimited:
            self.at, self._end = self._end, limit

    def _limit(self, nbytes: int) -> None:
        """What comes is so many bytes."""
        self._need(nbytes)
        self._end = self.at + nbytes

    def _struct(self, kind: Struct, depth: int) -> None:
        extension = (kind.extension if isinstance(kind, Record) else "") or self._usual
        if not self._two:
            if extension == "mutable" or (isinstance(kind, Record) and any(m.optional for m in kind.members)):
                raise self._fault(f"{kind.name} is a list of members of XCDR1, which is not read")
            return self._members(kind, depth)
        if extension == "final":
            return self._members(kind, depth)
        limit = self._end
        self._limit(self._word())
        if extension == "mutable":
            self._listed(kind, depth)
        else:
            self._members(kind, depth)
        self.at, self._end = self._end, limit  # members that a later version of the type has are passed over
        return None

    def _members(self, kind: Struct, depth: int) -> None:
        if isinstance(kind, Record) and kind.cases:
            return self._union(kind, depth)
        optional = [member.optional for member in kind.members] if isinstance(kind, Record) else []
        for k, (_, inner) in enumerate(kind.fields):
            if optional and optional[k]:
                self._need(1)
                there = self._data[self.at] != 0
                self.at += 1
                self._maybe(inner, there, depth)
            else:
                self.value(inner, depth + 1)
        return None

    def _maybe(self, kind: Type, there: bool, depth: int) -> None:
        """A member that may be lacking, of which ``kind`` is the sequence."""
        assert isinstance(kind, Array)
        self._put(int(there))
        if there:
            self.value(kind.element, depth + 1)

    def _union(self, kind: Record, depth: int) -> None:
        (_, label), *fields = kind.fields
        assert isinstance(label, Number)
        item = label.dtype.itemsize
        self._align(item)
        self._need(item)
        dtype = np.dtype(np.uint8) if label.dtype.kind == "b" else label.dtype
        number = np.frombuffer(self._data, dtype.newbyteorder(self._order), 1, self.at)[0]
        self.at += item
        self.parts.align(item, 4)
        self.parts.out += number.astype(dtype).tobytes()  # which decides the shape, so it is no value
        chosen = next((k for k, case in enumerate(kind.cases) if int(number) in case), 0)
        chosen = chosen or next((k for k, case in enumerate(kind.cases) if None in case), 0)
        for k, (_, inner) in enumerate(fields, start=1):
            self._maybe(inner, k == chosen, depth)

    def _listed(self, kind: Struct, depth: int) -> None:
        """Members in any order, each with its id and its size."""
        found: dict[int, tuple[int, int]] = {}
        end = self._end
        while end - self.at >= 4:
            head = self._word()
            size = self._size(head >> 28 & 7)
            self._need(size)
            found[head & 0x0FFFFFFF] = (self.at, self.at + size)
            self.at += size
        records = kind.members if isinstance(kind, Record) else ()
        if isinstance(kind, Record) and kind.cases:
            raise self._fault(f"{kind.name} is a mutable union, which is not read")
        for k, (name, inner) in enumerate(kind.fields):
            id, optional = (records[k].id, records[k].optional) if records else (k, False)
            place = found.get(id)
            if place is None and not optional:
                raise self._fault(f"lacks {kind.name}.{name}")
            if place is not None:
                self.at, self._end = place
            if optional:
                self._maybe(inner, place is not None, depth)
            else:
                self.value(inner, depth + 1)
        self._end = end

    def _size(self, code: int) -> int:
        """Of a member by its length code; from 5 on its own length is the size, and is read with it."""
        if code < 4:
            return 1 << code
        word = self._word()
        if code == 4:
            return word
        self.at -= 4
        return 4 + word * {5: 1, 6: 4, 7: 8}[code]
