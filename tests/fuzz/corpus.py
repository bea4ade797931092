"""Sound files of every target, small, by the writers that the tests have; and real ones where these are at hand."""

from __future__ import annotations

import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from covered import COVERED
from fuzz_kit import Seed

FOUND = Path(__file__).with_name("found")
REAL = Path(__file__).resolve().parents[3] / "shared/data"
_SUFFIXES = {
    ".mcap": "mcap", ".bag": "rosbag1", ".db3": "rosbag2", ".ulg": "ulog", ".h5": "hdf5", ".hdf5": "hdf5",
    ".csv": "csv",
    ".parquet": "parquet", ".npz": "numpy", ".npy": "numpy", ".pcd": "pcd", ".las": "las", ".laz": "las",
}  # fmt: skip
_LARGEST = 400_000


def seeds(folder: Path, target: str, *, real: bool = False) -> list[Seed]:
    """Of one target, written below ``folder``; ``real``: with the real recordings of its suffixes, if there are any,
    and what was a finding once.
    """
    folder.mkdir(parents=True)
    roots = WRITERS[target](folder)
    if real and REAL.is_dir():
        roots += [
            path
            for path in sorted(REAL.rglob("*"))
            if _SUFFIXES.get(path.suffix) == target and path.is_file() and path.stat().st_size < _LARGEST
        ]
    found = sorted(FOUND.glob(f"{target}/*")) if real else []
    again = [unpacked(path, folder / "found" / path.name) for path in found]
    return [*(_seed(target, root) for root in roots), *(Seed(target, root, _files(root)) for root in again)]


def unpacked(path: Path, folder: Path) -> Path:
    """The file or the folder in an archive."""
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
        return folder / archive.getnames()[0].partition("/")[0]


def _seed(target: str, root: Path) -> Seed:
    files = _files(root)
    covers = COVERED.get(target, lambda path: ())
    return Seed(target, root, files, {path: found for path in files if (found := tuple(covers(path)))})


def _files(root: Path) -> tuple[Path, ...]:
    return tuple(p for p in sorted(root.rglob("*")) if p.is_file()) if root.is_dir() else (root,)


def _mcap(folder: Path) -> list[Path]:
    from broken_files import _write_mcap

    _write_mcap(folder / "a.mcap", 0)
    return [folder / "a.mcap", packed(folder / "a.mcap")]


def packed(path: Path) -> Path:
    import zstandard

    out = path.with_name(f"{path.name}.zst")
    out.write_bytes(zstandard.compress(path.read_bytes()))
    return out


def _rosbag1(folder: Path) -> list[Path]:
    from test_rosbag1 import write

    return [write(folder / f"{how}.bag", how) for how in ("none", "bz2", "lz4")]


def _rosbag2(folder: Path) -> list[Path]:
    from test_rosbag2 import write

    return [write(folder / "a.db3"), write(folder / "b.db3", define=True)]


def _ulog(folder: Path) -> list[Path]:
    from test_ulog import log

    (folder / "a.ulg").write_bytes(log())
    return [folder / "a.ulg"]


def _hdf5(folder: Path) -> list[Path]:
    import h5py
    from broken_files import _write_hdf5

    _write_hdf5(folder / "a.hdf5", 0)
    with h5py.File(folder / "b.hdf5", "w") as file:
        for k in range(2):
            demo = file.create_group(f"data/demo_{k}")
            demo.create_dataset("actions", data=np.arange(60.0).reshape(20, 3), compression="gzip")
            demo.create_dataset("words", data=["a", "bb"] * 10, dtype=h5py.string_dtype())
            demo.attrs["num_samples"] = 20
    with h5py.File(folder / "c.hdf5", "w") as file:
        file.create_dataset("q", data=np.arange(600.0).reshape(200, 3), chunks=(50, 3), fletcher32=True)
    return [folder / "a.hdf5", folder / "b.hdf5", folder / "c.hdf5"]


def _zarr(folder: Path) -> list[Path]:
    from test_arrays import buffer

    return [buffer(folder / "b.zarr", 2), buffer(folder / "c.zarr", 3), buffer(folder / "d.zarr.zip", 3)]


def _numpy(folder: Path) -> list[Path]:
    arrays = {"q": np.arange(30.0).reshape(10, 3), "ok": np.arange(10) % 2 == 0, "word": np.array(["a"] * 10)}
    np.savez_compressed(folder / "a.npz", **arrays)
    np.save(folder / "b.npy", arrays["q"])
    return [folder / "a.npz", folder / "b.npy"]


def _rlds(folder: Path) -> list[Path]:
    from test_rlds import write

    (folder / "set").mkdir()
    write(folder / "set")
    return [folder / "set"]


def _csv(folder: Path) -> list[Path]:
    from broken_files import _write_csv

    _write_csv(folder / "a.csv", 0)
    rows = "".join(f"{k};{k},5;-1\n" for k in range(30))
    (folder / "b.csv").write_text(f"% made by hand\nt;x;y\n[s];[m];[m]\n{rows}")
    return [folder / "a.csv", folder / "b.csv"]


def _parquet(folder: Path) -> list[Path]:
    from broken_files import _write_parquet
    from engine_kit import write_parquet

    _write_parquet(folder / "a.parquet", 0)
    write_parquet(folder / "b.parquet", samples=50, word=["one", "two"] * 25)
    return [folder / "a.parquet", folder / "b.parquet"]


def _arrow(folder: Path) -> list[Path]:
    import test_arrow_files as kit

    how = {
        "a.arrow": ("file", None),
        "b.arrow": ("stream", None),
        "c.arrow": ("file", "zstd"),
        "d.arrow": ("stream", "lz4"),
    }
    return [kit.write(folder / name, kit.rows(), *given) for name, given in how.items()]


def _lerobot(folder: Path) -> list[Path]:
    from test_lerobot import write_v2, write_v3

    return [write_v2(folder / "v2"), write_v3(folder / "v3")]


def _pcd(folder: Path) -> list[Path]:
    import cloud_kit

    made = []
    for how in ("ascii", "binary", "binary_compressed"):
        made.append(folder / f"17000000{len(made)}.{how}.pcd")
        made[-1].write_bytes(cloud_kit.pcd(cloud_kit.points(20), how))
    return made


def _las(folder: Path) -> list[Path]:
    import cloud_kit

    (folder / "1.las").write_bytes(cloud_kit.las(np.random.default_rng(0).random((20, 3)), np.arange(20)))
    return [folder / "1.las"]


def _output(folder: Path) -> list[Path]:
    from engine_kit import job, write_recordings

    from robocache.engine.run import run

    (folder / "logs").mkdir()
    write_recordings(folder / "logs", 2, samples=40)
    made = [folder / format for format in ("parquet", "arrow", "lerobot")]
    for out in made:
        run(job(folder / "logs", out, output__format=out.name))
    return made


def _config(folder: Path) -> list[Path]:
    from config_kit import FULL

    (folder / "a.yaml").write_text(FULL)
    return [folder / "a.yaml"]


def _lease(folder: Path) -> list[Path]:
    (folder / "lease").write_text(json.dumps({"holder": "process 7 on a", "token": "f00", "beat": 3}))
    return [folder / "lease"]


def _bare(path: Path, name: str, schema: tuple[str, bytes], encoding: str, sent: list[bytes]) -> Path:
    """A log whose messages lie open, behind no checksum and in no chunk, so that what is changed of them is read."""
    from mcap.writer import Writer

    with path.open("wb") as file:
        writer = Writer(file, use_chunking=False, enable_crcs=False)
        writer.start()
        channel = writer.register_channel("/all", encoding, writer.register_schema(name, *schema))
        for k, data in enumerate(sent):
            writer.add_message(channel, 1_700_000_000_000_000_000 + k, data, 1_700_000_000_000_000_000 + k)
        writer.finish()
    return path


def _idl_of(folder: Path, *forms: str) -> list[Path]:
    """Of DDS, in XCDR2."""
    import test_cdr

    made = []
    for form in forms:
        types, text = test_cdr.classes(test_cdr.FORMS[form]), test_cdr.IDL % {"ext": f"@{form}"}
        if form == "mutable":
            text = text.replace("@mutable union", "@final union")
        kind = {"final": 7, "appendable": 9, "mutable": 11}[form]
        sent = [test_cdr.message(types, k).serialize(use_version_2=True) for k in range(6)]
        sent = [bytes([0, kind]) + data[2:] for data in sent]
        made.append(_bare(folder / f"{form}.mcap", "robot::All", ("omgidl", text.encode()), "cdr", sent))
    return made


def _ros2idl(folder: Path) -> list[Path]:
    line = "=" * 80
    text = (
        f"{line}\nIDL: sensor/msg/State\nmodule sensor {{ module msg {{ typedef double double__3[3];\n"
        "struct State { builtin_interfaces::msg::Time stamp; double__3 position; sequence<uint8> data; }; }; };\n"
        f"{line}\nIDL: builtin_interfaces/msg/Time\nmodule builtin_interfaces {{ module msg {{ struct Time {{ "
        "int32 sec; uint32 nanosec; }; }; };\n"
    )
    sent = [struct.pack("<4xiIdddI2s", 1_700_000_000 + k, 5, k, 2 * k, 3 * k, 2, b"ab") for k in range(6)]
    sent = [b"\0\1\0\0" + data[4:] for data in sent]
    return [_bare(folder / "a.mcap", "sensor/msg/State", ("ros2idl", text.encode()), "cdr", sent)]


def _wstring(folder: Path) -> list[Path]:
    made = []
    for unit, encoding in ((2, "utf-16-le"), (4, "utf-32-le")):
        sent = []
        for k, word in enumerate(("links", "", "größer", "右")):
            body = struct.pack("<I", len(word)) + word.encode(encoding)
            sent.append(b"\0\1\0\0" + body + bytes(-len(body) % 8) + struct.pack("<d", k))
        schema = ("ros2msg", b"wstring<=20 label\nfloat64 x\n")
        made.append(_bare(folder / f"{unit}.mcap", "robot/msg/Label", schema, "cdr", sent))
    return made


def _flatbuffer(folder: Path) -> list[Path]:
    import test_flatbuffer as kit

    return [
        _bare(
            folder / f"{name}.mcap", f"foxglove.{name}", ("flatbuffer", kit.schema(name)), "flatbuffer",
            [make(k) for k in range(6)],
        )
        for name, make in (("PoseInFrame", kit.pose), ("CompressedImage", kit.image))
    ]  # fmt: skip


WRITERS: dict[str, Callable[[Path], list[Path]]] = {
    "mcap": _mcap, "rosbag1": _rosbag1, "rosbag2": _rosbag2, "ulog": _ulog, "hdf5": _hdf5, "zarr": _zarr,
    "numpy": _numpy, "rlds": _rlds, "csv": _csv, "parquet": _parquet, "arrow": _arrow, "lerobot": _lerobot,
    "pcd": _pcd, "las": _las,
    "ros2idl": _ros2idl, "omgidl": lambda folder: _idl_of(folder, "final"), "wstring": _wstring,
    "xcdr2": lambda folder: _idl_of(folder, "appendable", "mutable"), "flatbuffer": _flatbuffer,
    "output": _output, "config": _config, "lease": _lease,
}  # fmt: skip
