"""Arrow files and streams: the same rows as of Parquet, episodes within a file, what other writers make, damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from damage import outcomes

from robocache import run, verify
from robocache.errors import InputError
from robocache.formats import InputSpec, TableTimes, list_episodes, list_input, list_streams, read_episode

TIMES = TableTimes("time", "ns")
T0 = 1_700_000_000_000_000_000


def rows(n: int = 60, **more: object) -> pa.Table:
    q = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(3.0 * n, dtype=np.float32)), 3)
    word = pa.array(["pick", "place"] * (n // 2)).dictionary_encode()
    image = pa.array([{"bytes": bytes([k % 250]) * 20, "path": None} for k in range(n)])
    times = T0 + 20_000_000 * np.arange(n)
    return pa.table(
        {"time": times, "q": q, "word": word, "image": image, "grip": pa.array([None, *range(1, n)]), **more}
    )


def write(path: Path, table: pa.Table, how: str = "file", compression: str | None = None) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    make = pa.ipc.new_stream if how == "stream" else pa.ipc.new_file
    with make(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=17 if len(table) < 1000 else None)
    return path


def read(path: Path, *sources: str, which: int = 0, **options: object):
    spec = InputSpec((str(path),), times=TIMES, **options)
    return read_episode(list_episodes(spec)[which], list(sources), spec)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("how", ["file", "stream"])
def test_the_same_as_of_parquet(tmp_path, how, compression):
    pq.write_table(rows(), tmp_path / "a.parquet")
    write(tmp_path / "a.arrow", rows(), how, compression)
    sources = ["q", "q[0:2]", "word", "image", "grip", "[grip]"]
    found, wanted = (read(tmp_path / name, *sources).streams for name in ("a.arrow", "a.parquet"))
    assert list(found) == sources
    for key, stream in wanted.items():
        assert stream.type == found[key].type and stream.times.tolist() == found[key].times.tolist()
        assert np.array_equal(np.asarray(stream.values), np.asarray(found[key].values), equal_nan=key in ("grip", "q"))
        assert (stream.present is None) == (found[key].present is None)
    spec = InputSpec((str(tmp_path),), times=TIMES)
    one, other = ([s.fields for s in list_streams(ref, spec)] for ref in list_episodes(spec))
    assert one == other


def test_a_file_of_many_episodes(tmp_path):
    numbers = np.repeat([4, 0, 4], [10, 30, 20])
    path = write(tmp_path / "a.arrow", rows(episode_index=pa.array(numbers)))
    spec = InputSpec((str(path),), times=TIMES)
    assert [ref.id for ref in list_episodes(spec)] == ["a.arrow#0", "a.arrow#4"]
    assert read(path, "q", which=0).streams["q"].values[:, 0].tolist() == [3.0 * k for k in range(10, 40)]
    last = read(path, "q", which=1).streams["q"]
    assert last.values[:, 0].tolist() == [3.0 * k for k in [*range(10), *range(40, 60)]]
    assert len(list_episodes(InputSpec((str(path),), times=TIMES, episode="folder"))) == 1


def test_what_other_writers_make(tmp_path):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.DataFrame({"time": (T0 + 20_000_000 * np.arange(4)).tolist(), "word": ["a", "", None, "größer"]})
    frame.write_ipc(tmp_path / "p.arrow")
    frame.write_ipc_stream(tmp_path / "s.arrow")
    feather.write_feather(rows(), str(tmp_path / "f.feather"))
    for name in ("p.arrow", "s.arrow"):
        assert read(tmp_path / name, "word").streams["word"].values.to_pylist() == ["a", "", None, "größer"]
    assert read(tmp_path / "f.feather", "q").streams["q"].values.shape == (60, 3)


def test_a_run_from_arrow(tmp_path):
    (tmp_path / "logs").mkdir()
    for k in range(2):
        write(tmp_path / f"logs/{k}.arrow", rows(), ["file", "stream"][k])
    config = {
        "input": {"uri": str(tmp_path / "logs"), "times": {"column": "time", "unit": "ns"}},
        "features": {"q": "q", "word": "word", "image": "image"},
        "timeline": {"rate_hz": 50},
        "output": {"uri": str(tmp_path / "out")},
    }
    summary = run(config)
    assert (summary.episodes, summary.rows, summary.quarantined) == (2, 120, ())
    assert not verify(str(tmp_path / "out")).problems


def test_what_is_none_says_so(tmp_path):
    (tmp_path / "a.arrow").write_bytes(b"PAR1" + bytes(100))
    (tmp_path / "b.feather").write_bytes(b"FEA1" + bytes(100))
    one, other = list_input(InputSpec((str(tmp_path),), times=TIMES)).episodes
    assert "parquet" in one.failure and "is Feather of version 1; write it again" in other.failure
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(InputError, match="two columns are called 'x'"):
        read(write(tmp_path / "c.arrow", twice), "x")


def nothing(rows: int) -> pa.Array:
    return pa.Array.from_buffers(pa.null(), rows, [None])


@pytest.mark.parametrize(
    ("x", "compression"),
    [
        (lambda: pa.array([bytes(200 << 20)]), "zstd"),
        (lambda: nothing((1 << 31) - 1), None),
        (lambda: pa.FixedSizeListArray.from_arrays(nothing(1 << 30), 1 << 30), None),
    ],
    ids=["zeros", "rows of nothing", "lists of nothing"],
)
def test_few_bytes_that_stand_for_many_are_refused(tmp_path, x, compression):
    path = write(tmp_path / "a.arrow", pa.table({"x": x()}), "file", compression)
    assert path.stat().st_size < 1 << 20
    spec = InputSpec((str(path),), times=TableTimes(rate_hz=10))
    with pytest.raises(InputError, match=r"bytes unpack to .* raise input\.max_unpacked_mb|holds lists of nothing"):
        read_episode(list_episodes(spec)[0], ["x"], spec)


def test_texts_that_point_elsewhere_are_refused(tmp_path):
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 2**30, 2], np.int32)), pa.py_buffer(b"ab")]
    )
    with pytest.raises(InputError, match="cannot be read as arrow"):
        read(write(tmp_path / "a.arrow", pa.table({"time": [1, 2], "x": bad})), "x")


@pytest.mark.parametrize("how", ["file", "stream"])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_damage_is_refused(tmp_path, how, compression):
    path = write(tmp_path / "a.arrow", rows().select(["time", "q", "word"]), how, compression)
    assert set(outcomes(path, ["q", "word"], 150, times=TIMES)) == {"read", "refused"}
