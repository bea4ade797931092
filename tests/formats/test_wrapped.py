"""Files that are packed as a whole are read as those inside them, and a bomb does not go off."""

from __future__ import annotations

import gzip
from pathlib import Path

import lz4.frame
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from damage import outcomes
from message_kit import JOINTS, T0, joints, record

from robocache.errors import InputError
from robocache.formats import InputSpec, TableTimes, list_episodes, read_episode, wrapped

PACK = {".gz": gzip.compress, ".zst": zstandard.compress, ".zstd": zstandard.compress, ".lz4": lz4.frame.compress}
TIMES = TableTimes(column="t", unit="s")


def read(path: Path, source: str, times: TableTimes | None = None) -> np.ndarray:
    spec = InputSpec((str(path),), times=times)
    (ref,) = list_episodes(spec)
    return read_episode(ref, [source], spec).streams[source].values


@pytest.mark.parametrize("suffix", PACK)
def test_any_format_is_read_through_any_wrapper(tmp_path, suffix):
    sent = [(T0 + i, joints(T0 + i, ["a"], [float(i)])) for i in range(20)]
    mcap = record(tmp_path / "a.mcap", {"/joints": (JOINTS, sent)})
    pq.write_table(pa.table({"t": np.arange(20.0), "x": np.arange(20.0)}), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("t,x\n" + "".join(f"{i},{i}\n" for i in range(20)))
    sources = {"a.mcap": "/joints.position", "b.parquet": "x", "c.csv": "x"}
    for path in (mcap, tmp_path / "b.parquet", tmp_path / "c.csv"):
        (path.parent / f"{path.name}{suffix}").write_bytes(PACK[suffix](path.read_bytes()))
        path.unlink()
    spec = InputSpec((str(tmp_path),), times=TIMES)
    assert [(r.id, r.failure) for r in list_episodes(spec)] == [(f"{name}{suffix}", "") for name in sources]
    for name, source in sources.items():
        times = None if name == "a.mcap" else TIMES
        values = read(tmp_path / f"{name}{suffix}", source, times)
        np.testing.assert_array_equal(np.ravel(values), np.arange(20))


def test_what_is_packed_in_several_members_is_read_whole(tmp_path):
    text = ["t,x\n0,1\n", "1,2\n", "2,3\n"]
    (tmp_path / "a.csv.gz").write_bytes(b"".join(gzip.compress(piece.encode()) for piece in text))
    assert read(tmp_path / "a.csv.gz", "x", TIMES).tolist() == [1, 2, 3]


def test_what_is_inside_is_checked_as_any_file_is(tmp_path):
    (tmp_path / "a.mcap.zst").write_bytes(zstandard.compress(b"PAR1" + bytes(100)))
    (tmp_path / "b.mcap.gz").write_bytes(b"not packed at all")
    first, second = list_episodes(InputSpec((str(tmp_path),)))
    assert "not mcap: begins with b'PAR1" in first.failure
    assert "begins with b'not ', not as gzip does; its name says that it is packed" in second.failure


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(wrapped, "MOST_BYTES", 1 << 20)
    path = tmp_path / "a.mcap.zst"
    path.write_bytes(zstandard.compress(b"\x89MCAP0\r\n" + bytes(1 << 26)))
    (ref,) = list_episodes(InputSpec((str(path),)))
    assert "bytes unpack to more than" in ref.failure


def test_damage_is_refused(tmp_path):
    sent = [(T0 + i, joints(T0 + i, ["a"], [float(i)])) for i in range(20)]
    whole = record(tmp_path / "a.mcap", {"/joints": (JOINTS, sent)})
    path = tmp_path / "b.mcap.zst"
    path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(whole.read_bytes()))
    assert set(outcomes(path, ["/joints.position"], 60)) <= {"read", "refused"}


def test_a_missing_member_says_which(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"t,x\n0,1\n" * 10_000)[:-50])
    with pytest.raises(InputError, match="cannot be unpacked"):
        read(path, "x", TIMES)
