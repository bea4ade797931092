"""Small files made by hand that stand for far more: each costs at most 5 s and 500 MB to read or to refuse."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SECONDS, MEMORY = 5.0, 500_000_000
#: Zeros, and how many of them.
SIZE = 600 << 20
_T0 = 1_700_000_000_000_000_000
_HALF = 500 << 20


def _packed_zeros(pack: Callable[[], object], before: bytes = b"", size: int = SIZE) -> bytes:
    """Without ever holding them."""
    packer: object = pack()
    pieces = [packer.compress(before)]  # type: ignore[attr-defined]
    block = bytes(1 << 20)
    pieces += [packer.compress(block) for _ in range(size >> 20)]  # type: ignore[attr-defined]
    return b"".join([*pieces, packer.flush()])  # type: ignore[attr-defined]


def _zstd() -> object:
    import zstandard

    return zstandard.ZstdCompressor().compressobj()


def _lz4(before: bytes) -> bytes:
    sink = io.BytesIO()
    with pa.CompressedOutputStream(pa.PythonFile(sink, "w"), "lz4") as stream:
        stream.write(before)
        for _ in range(SIZE >> 20):
            stream.write(bytes(1 << 20))
        stream.flush()
        return sink.getvalue()


# ---- messages -------------------------------------------------------------------------------------------------------

_MCAP_MAGIC = b"\x89MCAP0\r\n"


def _mcap_record(kind: int, content: bytes) -> bytes:
    return struct.pack("<BQ", kind, len(content)) + content


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()


def _mcap_head(definition: str) -> bytes:
    schema = struct.pack("<H", 1) + _text("b/One") + _text("ros2msg") + _text(definition)
    channel = struct.pack("<HH", 1, 1) + _text("/x") + _text("cdr") + struct.pack("<I", 0)
    return _mcap_record(3, schema) + _mcap_record(4, channel)


def _mcap(codec: str, *, footer: bool, definition: str = "float64 x", content: bytes | None = None) -> bytes:
    """A log of one chunk: a message, and zeros without end. Without a footer only salvage goes into it."""
    head = _mcap_head(definition)
    inside = content if content is not None else struct.pack("<HIQQ", 1, 0, _T0, _T0) + b"\0\1\0\0" + bytes(8)
    size = 0 if content is not None else SIZE
    message = struct.pack("<BQ", 5, len(inside) + size) + inside
    packed = _lz4(head + message) if codec == "lz4" else _packed_zeros(_zstd, head + message, size)
    whole = len(head + message) + size
    chunk = struct.pack("<QQQI", _T0, _T0, whole, 0) + _text(codec) + struct.pack("<Q", len(packed)) + packed
    out = _MCAP_MAGIC + _mcap_record(1, _text("ros2") + _text("x")) + _mcap_record(6, chunk)
    if not footer:
        return out
    end = _mcap_record(15, struct.pack("<I", 0)) + _mcap_record(2, struct.pack("<QQI", 0, 0, 0))
    return out + end + _MCAP_MAGIC


def _types(count: int, line: str) -> str:
    """Types that hold the next twice each: two to the power of ``count`` fields."""
    types = [f"MSG: b/T{i}\nb/T{i + 1} left\nb/T{i + 1} right" for i in range(count)]
    return "\n===\n".join(["b/T0 all", *types, f"MSG: b/T{count}\n{line}"])


def _bag(codec: str, packed: bytes, size: int) -> bytes:
    def record(fields: dict[str, bytes], data: bytes) -> bytes:
        head = b"".join(struct.pack("<I", len(k) + 1 + len(v)) + k.encode() + b"=" + v for k, v in fields.items())
        return struct.pack("<I", len(head)) + head + struct.pack("<I", len(data)) + data

    def opened(index: int) -> bytes:
        fields = {"op": b"\3", "index_pos": struct.pack("<Q", index), "conn_count": struct.pack("<I", 1),
                  "chunk_count": struct.pack("<I", 1)}  # fmt: skip
        return b"#ROSBAG V2.0\n" + record(fields, b" " * 4027)

    chunk = record({"op": b"\5", "compression": codec.encode(), "size": struct.pack("<I", size)}, packed)
    at = len(opened(0))
    told = {"topic": b"/x", "type": b"b/One", "md5sum": b"0" * 32, "message_definition": b"float64 x\n"}
    data = b"".join(struct.pack("<I", len(k) + 1 + len(v)) + k.encode() + b"=" + v for k, v in told.items())
    connection = record({"op": b"\7", "conn": struct.pack("<I", 0), "topic": b"/x"}, data)
    fields = {"op": b"\6", "ver": struct.pack("<I", 1), "chunk_pos": struct.pack("<Q", at), "start_time": bytes(8),
              "end_time": bytes(8), "count": struct.pack("<I", 1)}  # fmt: skip
    info = record(fields, struct.pack("<II", 0, 1))
    return opened(at + len(chunk)) + chunk + connection + info


def _db3(path: Path, statements: list[str], blob: bytes = b"") -> Path:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)")
        db.execute("INSERT INTO topics VALUES (7, '/x', 'std_msgs/msg/String', 'cdr')")
        for statement in statements:
            db.execute(statement, (blob,) if "?" in statement else ())
    return path


_MESSAGES = "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)"
_ENDLESS = (
    "CREATE VIEW messages AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) "
    "SELECT id, 7 AS topic_id, id AS timestamp, zeroblob(1000) AS data FROM n"
)
_ONE_PACKED = [_MESSAGES, f"INSERT INTO messages VALUES (1, 7, {_T0}, ?)"]


def _ulog(*formats: str) -> bytes:
    def message(kind: str, content: bytes) -> bytes:
        return struct.pack("<HB", len(content), ord(kind)) + content

    out = b"ULog\x01\x12\x35\x01" + bytes(8) + message("B", bytes(40))
    out += b"".join(message("F", text.encode()) for text in formats)
    return out + message("A", b"\0\7\0T0") + message("D", b"\7\0" + bytes(64)) * 3


# ---- arrays and tables ----------------------------------------------------------------------------------------------


def _hdf5(path: Path, **dataset: object) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        found = file.create_dataset("x", **dataset)
        if dataset.get("compression"):
            for at in range(0, found.shape[0], found.chunks[0]):
                found[at : at + found.chunks[0]] = 0
    return path


def _groups(path: Path, deep: bool) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        group = file
        for k in range(3000 if deep else 20_000):
            made = group.create_group("g" if deep else f"g{k}")
            group = made if deep else file
    return path


def _zarr(path: Path, *, write: bool = False, **array: object) -> Path:
    import zarr

    store = zarr.storage.ZipStore(path, mode="w") if path.suffix == ".zip" else zarr.storage.LocalStore(path)
    root = zarr.open_group(store, mode="w", zarr_format=3)
    made = root.create_array("x", dtype="f8", **array)
    if write:
        made[: made.chunks[0]] = 1.0
    store.close()
    return path


def _fat_piece(path: Path) -> Path:
    """A piece of a small array unpacks to more than the array is."""
    _zarr(path, shape=(4000,), chunks=(1000,), write=True)
    (piece,) = (path / "x/c").iterdir()
    piece.write_bytes(_packed_zeros(_zstd_sized))
    return path


def _zstd_sized() -> object:
    import zstandard

    return zstandard.ZstdCompressor().compressobj(size=SIZE)


def _fat_metadata(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        told = b'{"zarr_format": 3, "node_type": "group", "attributes": {"a": "'
        with archive.open("zarr.json", "w", force_zip64=True) as member:
            member.write(told)
            for _ in range(SIZE >> 20):
                member.write(b" " * (1 << 20))
            member.write(b'"}}')
    return path


def _npz(path: Path, size: int = SIZE) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w", force_zip64=True) as m:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (size // 8,)})
        m.write(head.getvalue())
        for _ in range(size >> 20):
            m.write(bytes(1 << 20))
    return path


def _npy(path: Path, shape: tuple[int, ...]) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return path


def _members(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(60_000):
            archive.writestr(f"{k}.npy", b"")
    return path


def parquet(path: Path, table: pa.Table, **options: object) -> Path:
    pq.write_table(table, path, compression="zstd", **options)
    return path


def one_text() -> pa.Table:
    """611 rows of one text of a megabyte: 1 MB that are 611."""
    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(611, np.int32)), pa.array(["y" * 1_000_000]))
    return pa.table({"x": rows})


def _lists() -> pa.Table:
    flat = pa.array(np.zeros(SIZE // 8))
    return pa.table({"x": pa.FixedSizeListArray.from_arrays(flat, len(flat) // 4)})


def _lerobot(root: Path, info: dict[str, object], table: pa.Table | None = None, episodes: str = "") -> Path:
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    told = {"codebase_version": "v2.1", "fps": 30, "total_episodes": 1,
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "features": {"x": {"dtype": "float32", "shape": [1]}}}  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(told | info))
    (root / "meta/episodes.jsonl").write_text(episodes or '{"episode_index": 0, "length": 3}\n')
    if table is not None:
        parquet(root / "data/chunk-000/episode_000000.parquet", table)
    return root


def _record(path: Path, features: str = "", body: bytes = b"") -> Path:
    """An RLDS record."""
    from test_rlds import masked

    head = struct.pack("<Q", len(body))
    sums = struct.pack("<I", masked(head)), struct.pack("<I", masked(body))
    path.mkdir()
    if features:
        (path / "features.json").write_text(features)
    (path / "demo-train.tfrecord-00000-of-00001").write_bytes(head + sums[0] + body + sums[1])
    return path


def _nested(depth: int) -> bytes:
    body = b""
    for _ in range(depth):
        size, varint = len(body), b""
        while True:
            varint += bytes([size & 0x7F | (0x80 if size > 0x7F else 0)])
            size >>= 7
            if not size:
                break
        body = b"\x0a" + varint + body
    return body


# ---- clouds, images, videos -----------------------------------------------------------------------------------------


def _pcd(kind: str, body: bytes, points: int = 10**12) -> bytes:
    head = f"VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {points}\nHEIGHT 1\n"
    return f"{head}VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {points}\nDATA {kind}\n".encode() + body


def _las(path: Path) -> Path:
    import cloud_kit

    data = bytearray(cloud_kit.las(np.zeros((20, 3)), np.arange(20)))
    struct.pack_into("<I", data, 107, 2**32 - 1)
    path.write_bytes(data)
    return path


def png(width: int, height: int, rows: int | None = None) -> bytes:
    """Black; ``rows``: as many as are there of ``height``."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(9), bytes(1 + 3 * width)
    pixels = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A sound small one whose header claims to be large."""
    import av

    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 64, 64, "yuvj420p", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24").reformat(format="yuvj420p")
    data = bytearray(b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)]))
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def _video(path: Path, change: Callable[[bytearray], None]) -> Path:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def _count(box: bytes, data: bytearray) -> None:
    """A table of a video claims that it has a thousand million entries."""
    struct.pack_into(">I", data, data.index(box) + (12 if box == b"stsz" else 8), 10**9)


# ---- all of them ----------------------------------------------------------------------------------------------------


def _wrote(name: str, data: Callable[[], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data())
        return folder / name

    return make


def _at(name: str, make: Callable[..., Path], *rest: object, **more: object) -> Callable[[Path], Path]:
    return lambda folder: make(folder / name, *rest, **more)


def _output(folder: Path, name: str, change: Callable[[Path], bytes]) -> Path:
    """An output whose part holds zeros without end, with the manifest that whoever makes it up gives it."""
    import hashlib

    from engine_kit import job, manifest, write_recordings

    from robocache.engine.run import run

    (folder / "logs").mkdir()
    run(job(write_recordings(folder / "logs", 1, samples=40), folder / "out", output__format=name))
    (part,) = (folder / "out/data").iterdir()
    data = change(part)
    old, told = part.read_bytes(), manifest(folder / "out").read_text()
    part.write_bytes(data)
    sums = (hashlib.sha256(old).hexdigest(), hashlib.sha256(data).hexdigest())
    told = told.replace(*sums).replace(f'"bytes":{len(old)}', f'"bytes":{len(data)}')
    manifest(folder / "out").write_text(told.replace(f'"bytes": {len(old)}', f'"bytes": {len(data)}'))
    return folder / "out"


def _zeros(part: Path) -> pa.Table:
    if part.suffix == ".arrow":
        with pa.ipc.open_file(str(part)) as file:
            schema = file.schema
    else:
        schema = pq.read_schema(part)
    return pa.table({"episode_index": pa.array(np.zeros(SIZE // 8, np.int64))}).replace_schema_metadata(schema.metadata)


def _parquet_part(part: Path) -> bytes:
    sink = io.BytesIO()
    pq.write_table(_zeros(part), sink, compression="zstd")
    return sink.getvalue()


def _arrow_part(part: Path) -> bytes:
    sink, table = pa.BufferOutputStream(), _zeros(part)
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


_DEEP_JSON = "[" * 100_000
_LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, 40))])
_DOUBLING = [*(f"T{k}:T{k + 1} a;T{k + 1} b;" for k in range(30)), "T30:float x;"]
_PCD_HEAD = struct.pack("<II", 9, 2**32 - 1)
_TYPES = _types(30, "float64 x")

BOMBS: dict[str, dict[str, Callable[[Path], Path]]] = {
    "mcap": {
        "a chunk of zstd": _wrote("a.mcap", lambda: _mcap("zstd", footer=True)),
        "a chunk of lz4": _wrote("a.mcap", lambda: _mcap("lz4", footer=True)),
        "a chunk of zstd, to be salvaged": _wrote("a.mcap", lambda: _mcap("zstd", footer=False)),
        "a chunk of lz4, to be salvaged": _wrote("a.mcap", lambda: _mcap("lz4", footer=False)),
        "types that double": _wrote("a.mcap", lambda: _mcap("zstd", footer=True, definition=_TYPES, content=bytes(40))),
        "a packed log": _wrote("a.mcap.zst", lambda: _packed_zeros(_zstd, _MCAP_MAGIC, 2 * SIZE)),
    },
    "rosbag1": {
        "a chunk of bz2": _wrote("a.bag", lambda: _bag("bz2", _packed_zeros(bz2.BZ2Compressor, b"", _HALF), _HALF)),
        "a chunk of lz4": _wrote("a.bag", lambda: _bag("lz4", _lz4(b""), SIZE)),
        "a chunk that claims": _wrote("a.bag", lambda: _bag("bz2", bz2.compress(bytes(9)), 2**32 - 1)),
    },
    "rosbag2": {
        "messages without end": _at("a.db3", _db3, [_ENDLESS]),
        "a packed message": lambda folder: _db3(folder / "a.db3", _ONE_PACKED, _packed_zeros(_zstd)),
    },
    "ulog": {
        "types that double": _wrote("a.ulg", lambda: _ulog(*_DOUBLING)),
        "a type of itself": _wrote("a.ulg", lambda: _ulog("T0:T0 a;float x;")),
        "an array without end": _wrote("a.ulg", lambda: _ulog("T0:uint64_t timestamp;float[2000000000] x;")),
    },
    "hdf5": {
        "zeros": _at("a.h5", _hdf5, shape=(SIZE // 8,), dtype="f8", chunks=(1 << 17,), compression="gzip"),
        "a large chunk": _at("a.h5", _hdf5, shape=(200,), dtype="f8", maxshape=(None,), chunks=(1 << 28,)),
        "what was never written": _at("a.h5", _hdf5, shape=(10**12,), dtype="f8", chunks=(1 << 17,)),
        "groups within groups": _at("a.h5", _groups, True),
        "many groups": _at("a.h5", _groups, False),
    },
    "zarr": {
        "zeros": _at("a.zarr", _zarr, shape=(SIZE // 8,), chunks=(SIZE // 8,), fill_value=0.0),
        "what was never written": _at("a.zarr", _zarr, shape=(10**12,), chunks=(1 << 17,)),
        "what was never written, zipped": _at("a.zarr.zip", _zarr, shape=(10**9,), chunks=(1 << 17,)),
        "metadata": _at("a.zarr.zip", _fat_metadata),
        "a piece of more than it is": _at("a.zarr", _fat_piece),
    },
    "numpy": {
        "zeros": _at("a.npz", _npz),
        "a shape without end": _at("a.npy", _npy, (2**40, 2**20)),
        "many members": _at("a.npz", _members),
    },
    "rlds": {
        "messages within messages": lambda folder: _record(folder / "a", body=_nested(5000)),
        "a deep description": lambda folder: _record(folder / "a", _DEEP_JSON, _nested(3)),
    },
    "csv": {
        "rows": _wrote("a.csv.gz", lambda: gzip.compress(b"t,x\n" + b"0,1\n" * (50 << 20))),
        "one line": _wrote("a.csv.gz", lambda: gzip.compress(b"t,x\n" + b"1" * (200 << 20))),
        "columns": _wrote("a.csv.gz", lambda: gzip.compress(b"a," * 5_000_000 + b"a\n" + b"1," * 5_000_000)),
    },
    "parquet": {
        "runs": lambda folder: parquet(folder / "a.parquet", pa.table({"x": pa.array(np.zeros(SIZE // 8))})),
        "one text in all rows": lambda folder: parquet(folder / "a.parquet", one_text()),
        "one text, not told": lambda folder: parquet(folder / "a.parquet", one_text(), store_schema=False),
        "lists": lambda folder: parquet(folder / "a.parquet", _lists()),
    },
    "lerobot": {
        "runs": lambda folder: _lerobot(folder / "a", {}, pa.table({"x": pa.array(np.zeros(SIZE // 8))})),
        "one text in all rows": lambda folder: _lerobot(folder / "a", {}, one_text()),
        "a path without end": lambda folder: _lerobot(folder / "a", {"data_path": "{episode_index:>9999999999}"}),
        "episodes without end": lambda folder: _lerobot(folder / "a", {"total_episodes": 10**12}),
        "a deep description": lambda folder: _lerobot(folder / "a", {}, episodes=_DEEP_JSON),
    },
    "pcd": {
        "points without end": _wrote("1.pcd", lambda: _pcd("binary", bytes(12))),
        "points without end, packed": _wrote("1.pcd", lambda: _pcd("binary_compressed", _PCD_HEAD + bytes(9))),
        "points without end, as text": _wrote("1.pcd", lambda: _pcd("ascii", b"0 0 0\n")),
    },
    "las": {"points without end": _at("1.las", _las)},
    "image": {
        "PNG": _wrote("a.png", lambda: png(20_000, 20_000)),
        "JPEG": _wrote("a.jpg", lambda: jpeg(65_000, 65_000)),
    },
    "video": {
        "sizes": _at("a.mp4", _video, partial(_count, b"stsz")),
        "times": _at("a.mp4", _video, partial(_count, b"stts")),
        "places": _at("a.mp4", _video, partial(_count, b"stco")),
    },
    "output": {
        "a part of Parquet": lambda folder: _output(folder, "parquet", _parquet_part),
        "a part of Arrow": lambda folder: _output(folder, "arrow", _arrow_part),
    },
    "config": {
        "a deep nest": _wrote("a.yaml", _DEEP_JSON.encode),
        "laughs": _wrote("a.yaml", _LAUGHS.encode),
    },
    "lease": {"a deep nest": _wrote("lease", _DEEP_JSON.encode)},
}  # fmt: skip
