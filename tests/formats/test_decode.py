"""The compiled decoder against the walk in numpy, and both against rosbags: sound messages and damaged ones."""

from __future__ import annotations

import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from robocache.errors import InputError
from robocache.formats.base import parse_item
from robocache.formats.mcap import windows
from robocache.formats.messages import native
from robocache.formats.messages.batch import Messages
from robocache.formats.messages.blocks import (
    Decoded,
    Plan,
    Ragged,
    Spans,
    Targets,
    ragged_numbers,
    span_bytes,
    to_arrow,
)
from robocache.formats.messages.decode import Decoder
from robocache.formats.messages.definitions import parse_definition
from robocache.formats.messages.lowered import lower
from robocache.formats.messages.packing import CDR, ROS1
from robocache.formats.messages.program import compile_program

pytestmark = pytest.mark.skipif(native.library is None, reason="robocache._decode is not built")

TEXT = """
string label
uint8 small
float64[3] xyz
bool flag
int16[] few
uint8[] blob
Inner[] inner
Named[] named
Inner[2] pair
string[] words
float32[] samples
int64 tail
"""
INNER = "float64 weight\nuint8 id\n"  # of one layout: 16 bytes apart
NAMED = "string name\nint32 number\nfloat32[2] at\nint16[] list\n"
RULE = "=" * 40 + "\n"
STORES = {
    "cdr, little": (get_typestore(Stores.ROS2_HUMBLE), CDR),
    "cdr, big": (get_typestore(Stores.ROS2_HUMBLE), CDR),
    "ros1": (get_typestore(Stores.ROS1_NOETIC), ROS1),
}
for _store, _ in STORES.values():
    for _name, _text in (("Inner", INNER), ("Named", NAMED), ("All", TEXT)):
        if f"t/msg/{_name}" not in _store.types:
            _store.register(get_types_from_msg(_text, f"t/msg/{_name}"))
ROOT = parse_definition("t/All", f"{TEXT}{RULE}MSG: t/Inner\n{INNER}{RULE}MSG: t/Named\n{NAMED}".encode(), "here")


def match(text: str):
    return parse_item(text)


#: Keys that are asked for together: leaves, sequences, whole arrays, elements by place, by name, by number, all.
ASKED = {
    "leaves": [("small",), ("xyz",), ("flag",), ("tail",), ("label",)],
    "sequences": [("few",), ("blob",), ("samples",), ("words",)],
    "places": [("inner", 1, "id"), ("pair", 0, "weight"), ("named", 1, "at"), ("named", 0, "list"), ("words", 2)],
    "matches": [("named", match("name=n2"), "number"), ("named", match("number=1"), "at"), ("tail",)],
    "matches by number": [("inner", match("id=2"), "weight"), ("named", match("number=-5"), "at"), ("small",)],
    "every": [("inner", None, "weight"), ("named", None, "at"), ("pair", None, "id"), ("tail",)],
    "every list": [("named", None, "list"), ("tail",)],
}


def message(kind: str, i: int, *, even: bool):
    """Of one shape where ``even``; else every length depends on ``i``."""
    store, _ = STORES[kind]
    inner, named = store.types["t/msg/Inner"], store.types["t/msg/Named"]
    k = 0 if even else i
    return store.types["t/msg/All"](
        label="l" * (3 + k % 3),
        small=i % 256,
        xyz=np.array([i, -i, i / 2]),
        flag=i % 2 == 0,
        few=np.arange(2 + k % 3, dtype=np.int16) - i,
        blob=np.arange(1 + k % 7, dtype=np.uint8),
        inner=[inner(i + j / 4, (i + j) % 256) for j in range(2 + k % 2)],
        named=[
            named(
                f"n{(i + j) % 4}", (i + j) % 3, np.float32([i, j]), np.arange(2 + (k + j) % 2 * (not even), dtype="i2")
            )
            for j in range(2 + k % 3)
        ],
        pair=[inner(j + i * 1.5, j) for j in range(2)],
        words=["w" * ((k + j) % 5) for j in range(3 + k % 2)],
        samples=np.arange(4, dtype=np.float32) * i,
        tail=i * (1 << 40) - 3,
    )


def packed(kind: str, count: int, *, even: bool) -> list[bytes]:
    store, packing = STORES[kind]
    sent = [message(kind, i, even=even) for i in range(count)]
    if packing is ROS1:
        return [bytes(store.serialize_ros1(m, "t/msg/All")) for m in sent]
    return [bytes(store.serialize_cdr(m, "t/msg/All", little_endian=kind == "cdr, little")) for m in sent]


def window(payloads: list[bytes]) -> Messages:
    """In one buffer of exactly their size, at odd places."""
    size = np.array([len(data) for data in payloads], np.int64)
    start = np.cumsum(size + 1) - size
    buffer = np.frombuffer(b"".join(b"\xee" + data for data in payloads), np.uint8)
    return Messages(buffer, start, size, np.zeros(len(size), np.int64))


def told(messages: Messages, found: Decoded) -> dict:
    """Blocks as plain values; of what lies somewhere in the buffer the bytes."""
    out: dict = {}
    for key, block in found.blocks.items():
        having = np.logical_and.reduce([mask for k, mask in found.having.items() if k == key[: len(k)]] or [True])
        if not np.any(having):
            continue  # nowhere: one leaves it out, the other has zeros
        if isinstance(block, Spans):
            starts, sizes = np.broadcast_arrays(block.start, block.size)
            data = [messages.buffer[s : s + n].tobytes() for s, n in zip(starts, sizes, strict=True)]
            out[key] = [text for text, there in zip(data, np.broadcast_to(having, len(data)), strict=True) if there]
        elif isinstance(block, Ragged):
            flat, counts = ragged_numbers(messages.buffer, block, found.order)
            out[key] = (flat.tolist(), np.asarray(counts).tolist())
        else:
            out[key] = (block.astype(block.dtype.newbyteorder("=")).tobytes(), block.shape)
    return out | {("having", k): mask.tolist() for k, mask in found.having.items() if not mask.all()}


def by_both(messages: Messages, keys: list, packing) -> tuple[str, str]:
    """What the compiled decoder and numpy make of the messages: the same values, or the same refusal."""
    decoder = Decoder(ROOT, keys, packing, "here")
    answers = []
    for walk in (decoder.decode, decoder._walk):
        try:
            answers.append(("read", told(messages, walk(messages))))
        except InputError as error:
            answers.append(("refused", str(error)))
    assert answers[0] == answers[1]
    return answers[0]


@pytest.mark.parametrize("even", [True, False], ids=["even", "uneven"])
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("kind", STORES)
def test_compiled_and_numpy_find_the_same(kind, asked, even):
    packing = STORES[kind][1]
    messages = window(packed(kind, 40, even=even))
    outcome, _ = by_both(messages, ASKED[asked], packing)
    lowered = lower(compile_program(ROOT, ASKED[asked], packing, "here"), packing, Plan())
    if asked.startswith("every") and not even:
        assert outcome == "refused"
    else:
        assert outcome == "read"
        assert lowered.decode(messages, Targets({}, {})) is not None  # and it was not numpy that did it


def test_it_finds_what_was_sent():
    messages = window(packed("cdr, big", 30, even=False))
    sent = [message("cdr, big", i, even=False) for i in range(30)]
    keys = [key for asked in ("leaves", "sequences", "matches") for key in ASKED[asked]]
    found = lower(compile_program(ROOT, keys, CDR, "here"), CDR, Plan()).decode(messages, Targets({}, {}))
    np.testing.assert_array_equal(found.blocks[("xyz",)], [m.xyz for m in sent])
    np.testing.assert_array_equal(found.blocks[("tail",)][:, 0], [m.tail for m in sent])
    flat, counts = ragged_numbers(messages.buffer, found.blocks[("few",)], found.order)
    np.testing.assert_array_equal(flat, np.concatenate([m.few for m in sent]))
    assert counts.tolist() == [len(m.few) for m in sent]
    blobs = to_arrow(messages.buffer, *found.blocks[("blob",)][:2], text=False, where="")
    assert blobs.to_pylist() == [bytes(m.blob) for m in sent]
    key = ("named", match("name=n2"))
    wanted = [next((n.number for n in m.named if n.name == "n2"), None) for m in sent]
    assert found.having[key].tolist() == [number is not None for number in wanted]
    assert found.blocks[(*key, "number")][:, 0].tolist() == [number or 0 for number in wanted]


@pytest.mark.parametrize("kind", STORES)
def test_numbers_and_times_are_put_where_they_stay(kind):
    """Leaves side by side, a time of the same leaf, one of two leaves, and texts told apart: as a plan asks for it."""
    packing, messages = STORES[kind][1], window(packed(kind, 50, even=False))
    sent = [message(kind, i, even=False) for i in range(50)]
    tail, small, both = ("tail",), ("small",), (("tail",), ("small",))
    picked = tuple(("inner", 1, name) for name in ("weight",))
    plan = Plan(((tail,), (("xyz",),), picked), (((tail,), (7,)), (both, (3, 5))), frozenset({("label",)}), frozenset())
    rows, stamps = np.full((60, 3), np.nan), np.zeros(50, np.int64)
    targets = Targets({(("xyz",),): rows[5:55]}, {(tail,): stamps})
    keys = [tail, small, ("xyz",), ("label",), *picked]
    found = Decoder(ROOT, keys, packing, "here", plan).decode(messages, targets)
    assert found.tables[(("xyz",),)].base is rows and found.times[(tail,)] is stamps
    np.testing.assert_array_equal(rows[5:55], [m.xyz for m in sent])
    assert np.isnan(rows[:5]).all() and np.isnan(rows[55:]).all()
    np.testing.assert_array_equal(found.tables[(tail,)][:, 0], [m.tail for m in sent])
    assert stamps.tolist() == [m.tail * 7 for m in sent]
    assert found.times[both].tolist() == [m.tail * 3 + m.small * 5 for m in sent]
    assert found.tables[picked][:, 0].tolist() == [m.inner[1].weight for m in sent]
    label = found.blocks[("label",)]
    assert label.first is not None and label.which is not None
    assert [sent[label.first[k]].label for k in label.which] == [m.label for m in sent]


@pytest.mark.parametrize("kind", STORES)
def test_damaged_messages_are_refused_alike(kind):
    """Any byte of any message may be anything, and any message may end anywhere."""
    rng = random.Random(kind)
    packing, seen = STORES[kind][1], {"read": 0, "refused": 0}
    good = {even: packed(kind, 6, even=even) for even in (True, False)}
    for trial in range(250):
        payloads = list(good[trial % 2 == 0])
        for _ in range(rng.choice([1, 1, 3])):
            which = rng.randrange(len(payloads))
            data = bytearray(payloads[which])
            if rng.random() < 0.3:
                del data[rng.randrange(len(data) + 1) :]
            for _ in range(rng.choice([0, 1, 2, 8])):
                if len(data) >= 4:
                    at = rng.randrange(len(data) - 3)
                    data[at : at + 4] = rng.choice(
                        [bytes(4), b"\xff" * 4, b"\0\0\0\x80", rng.randbytes(4), b"\1\0\0\0"]
                    )
            payloads[which] = bytes(data)
        outcome, _ = by_both(window(payloads), rng.choice(list(ASKED.values())), packing)
        seen[outcome] += 1
    assert min(seen.values()) > 40


def test_a_first_message_that_claims_much_takes_no_memory():
    """Columns as wide as its, for all messages, would be 80 GB."""
    head = b"\0\1\0\0"
    payloads = [head + struct.pack("<II", 200_000, 0) + bytes(1_600_000), *[head + bytes(4)] * 50_000]
    root = parse_definition("t/Long", b"float64[] x", "here")
    decoder = Decoder(root, [("x",)], CDR, "here")
    found = decoder.decode(window(payloads))
    assert isinstance(found.blocks[("x",)], Ragged) and int(found.blocks[("x",)].counts.sum()) == 200_000


def test_programs_that_do_not_fit_their_arrays_are_no_programs():
    run = np.array([1, 8, 4, 1, 0, 4, 0, 0, 0, 0])
    start, size, buffer = np.zeros(2, np.int64), np.full(2, 32), np.zeros(64, np.uint8)

    def ask(code: np.ndarray, out: list, counts: tuple = ()) -> None:
        native.library.run(buffer, start, size, (code, b"", 10, 0, False, False), counts, out)

    ask(run, [np.empty((2, 4))])
    for code, out in [
        (run, [np.empty((2, 3))]),
        (run, []),
        (run[:-1], [np.empty((2, 4))]),
        (np.array([1, 8, 4, 1, 0, 5, 0, 0, 0, 0]), [np.empty((2, 5))]),
        (np.array([1, 8, 4, 1, 0, 4, 0, 8, 0, 0]), [np.empty((2, 4))]),
        (np.array([1, 8, 4, 1, 0, 2, 0, 0, 1, 0]), [np.empty((2, 4))]),
        (np.array([1, 3, 4, 0]), []),
        (np.array([3, 8, 1, -1, 0, 0]), [np.empty((2, 4))]),
        (np.array([4, -1, -1, 9]), []),
        (np.array([5, -1, 1, -1, 0, 1, -1, 7, 0]), []),
        (np.array([2, -1, 0]), [np.empty(1)]),
        (np.array([9]), []),
    ]:
        with pytest.raises(ValueError, match="no such program"):
            ask(code, out)
    with pytest.raises(TypeError):
        native.library.run(buffer, start)


def test_spans_are_told_apart_in_the_order_in_which_they_occur(monkeypatch):
    rng = random.Random(0)
    texts = [rng.choice([b"", b"base", b"cart", b"base_link", b"a" * 300]) for _ in range(500)]
    buffer = np.frombuffer(b"".join(texts), np.uint8)
    size = np.array([len(text) for text in texts])
    spans = Spans(np.cumsum(size) - size, size)
    for library in (native.library, None):
        monkeypatch.setattr(native, "library", library)
        known, which = span_bytes(buffer, spans)
        assert known == list(dict.fromkeys(texts)) and [known[k] for k in which] == texts
        assert to_arrow(buffer, *spans[:2], text=True, where="").to_pylist() == [text.decode() for text in texts]
    assert native.distinct(buffer, spans.start, spans.size + 1) is None


def test_checksums_are_those_of_zlib():
    data = np.random.default_rng(0).integers(0, 256, 5000, np.uint8)
    for size in [*range(200), 1000, 4999]:
        for begin in (0, 1, 7):
            part = data[begin : begin + size].data
            assert native.library.crc32(part, 0) == zlib.crc32(part)
            assert native.library.crc32(part, 0xDEADBEEF) == zlib.crc32(part, 0xDEADBEEF)


def record(opcode: int, content: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(content)) + content


def test_records_are_walked_alike(monkeypatch):
    rng = random.Random(1)
    for trial in range(300):
        parts = []
        for _ in range(rng.randrange(1, 12)):
            opcode, length = rng.choice([5, 5, 5, 6, 3, 0x0F]), rng.choice([0, 1, 2, 22, 30, 50])
            parts.append(record(opcode, rng.choice([b"\1\0", b"\2\0"])[:length] + bytes(max(0, length - 2))))
        data = bytearray(b"".join(parts))
        if trial % 2:
            data[rng.randrange(len(data))] = rng.randrange(256)
        end = rng.randrange(len(data) + 1) if trial % 3 == 0 else len(data)
        answers = []
        for library in (native.library, None):
            with monkeypatch.context() as patch:
                patch.setattr(native, "library", library)
                found, chunk, stop = windows.scan(memoryview(data), 0, end, frozenset({1, 2}))
                answers.append(({id: some.tolist() for id, some in found.items()}, chunk, stop))
        assert answers[0] == answers[1]


def test_messages_of_an_index_are_located_alike(monkeypatch):
    rng = random.Random(2)
    good = 0
    for _ in range(300):
        data, offsets = bytearray(), []
        for i in range(8):
            offsets.append(len(data))
            data += record(5, struct.pack("<HIQQ", 1, i, 10 + i, 20 + i) + bytes(rng.randrange(9)))
        if rng.random() < 0.5:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.4:
            offsets[rng.randrange(8)] = rng.choice([0, len(data) - 31, len(data) - 30, 1 << 63, (1 << 64) - 1])
        if rng.random() < 0.2:
            rng.shuffle(offsets)
        pairs = np.array([[0, offset] for offset in offsets], np.uint64)
        buffer, half = np.frombuffer(bytes(data), np.uint8), offsets[4]
        pieces = [pairs[:4, 1], pairs[4:, 1] - np.uint64(half if 0 < half < len(data) else 0)]
        limits = [(4, 0, len(data)), (4, half if 0 < half < len(data) else 0, len(data))]
        answers = []
        for library in (native.library, None):
            with monkeypatch.context() as patch:
                patch.setattr(native, "library", library)
                try:
                    found = windows.locate(buffer, 1, pieces, limits, "here")
                    answers.append(
                        [x.tolist() for x in (found.start, found.size, found.log_times, found.publish_times)]
                    )
                    good += library is not None
                except InputError as error:
                    answers.append(str(error))
        assert answers[0] == answers[1]
    assert 50 < good < 250


def test_threads_decode_at_once():
    messages = window(packed("cdr, little", 400, even=False))
    keys = ASKED["places"]
    decoder = Decoder(ROOT, keys, CDR, "here")
    expected = told(messages, decoder.decode(messages))
    with ThreadPoolExecutor(4) as pool:
        assert all(
            found == expected for found in pool.map(lambda _: told(messages, decoder.decode(messages)), range(16))
        )


def test_an_extension_that_is_missing_is_no_hindrance(monkeypatch):
    messages = window(packed("ros1", 5, even=True))
    monkeypatch.setattr(native, "library", None)
    decoder = Decoder(ROOT, [("tail",)], ROS1, "here")
    assert decoder.decode(messages).blocks[("tail",)][:, 0].tolist() == [i * (1 << 40) - 3 for i in range(5)]
