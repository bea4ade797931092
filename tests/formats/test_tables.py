"""CSV and Parquet: times, sources, types, several tables an episode, mistakes, damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import outcomes

from robocache.errors import InputError
from robocache.formats import InputSpec, TableTimes, list_episodes, list_streams, read_episode
from robocache.formats.times import to_ns
from robocache.types import Episode, EpisodeRef

MS = TableTimes("timestamp", "ms")


def csv(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def parquet(path: Path, table: pa.Table | dict, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)
    return path


def read(path: Path, *sources: str, times: TableTimes | None = None, episode: str = "file", which: int = 0) -> Episode:
    spec = InputSpec((str(path),), times=times, episode=episode)
    ref = list_episodes(spec)[which]
    assert not ref.failure, ref.failure
    return read_episode(ref, list(sources), spec)


@pytest.mark.parametrize(
    ("values", "unit", "nanoseconds"),
    [
        (np.array([1677963752663.0]), "ms", 1677963752663000000),
        (np.array([1677963752663]), "ms", 1677963752663000000),
        (np.array([2**53 + 1]), "ns", 2**53 + 1),
        (np.array([-1.5]), "us", -1500),
        (np.array([0.07]), "s", 70_000_000),
        (np.array([7, 255], np.uint8), "s", 7_000_000_000),
        (np.array([0.1], np.float32), "s", 100_000_001),
        (np.array([1677963752.125]), "s", 1677963752125000000),
    ],
)
def test_units_are_exact(values: np.ndarray, unit: str, nanoseconds: int) -> None:
    times = to_ns(values, unit, where="x")
    assert times.dtype == np.int64
    assert times[0] == nanoseconds


def test_epoch_fractions_err_by_no_more_than_float64_does() -> None:
    stamps = [1677963752663 + k / 1000 for k in range(0, 1000, 7)]
    times = to_ns(np.array(stamps), "ms", where="x")
    wanted = [1677963752663000000 + k * 1000 for k in range(0, 1000, 7)]
    assert np.abs(times - wanted).max() < 250  # a float64 near 1.7e12 resolves 2.4e-4 ms


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_times_out_of_range_are_refused(unit: str) -> None:
    for values in (np.array([1e18]), np.array([10**18]), np.array([np.nan]), np.array([np.inf]), np.array([-1e300])):
        with pytest.raises(InputError, match=r"^here: "):
            to_ns(values, unit, where="here")
    with pytest.raises(InputError, match="row 2"):
        to_ns(np.array([0, np.nan]), unit, where="here")


@pytest.mark.parametrize(
    ("header", "cells", "times"),
    [
        ("timestamp", ["1677963752663.0", "1677963752664.0"], MS),
        ("timestamp", ["1677963752663", "1677963752664"], MS),
        ("timestamp", ["2023-03-04T21:02:32.663", "2023-03-04T21:02:32.664"], None),
        ("Time", ["2023-03-04 21:02:32.663Z", "2023-03-04 21:02:32.664Z"], None),
        ("t", ["2023-03-04T22:02:32.663+01:00", "2023-03-04T21:02:32.664+00:00"], TableTimes("t")),
        ("time_ns", ["1677963752663000000", "1677963752664000000"], None),
        ("stamp_ms", ["1677963752663", "1677963752664"], None),
    ],
)
def test_csv_times_in_every_form(tmp_path: Path, header: str, cells: list[str], times: TableTimes | None) -> None:
    path = csv(tmp_path / "a.csv", f"{header},x\n{cells[0]},1\n{cells[1]},2\n")
    stream = read(path, "x", times=times).streams["x"]
    assert stream.times.tolist() == [1677963752663000000, 1677963752664000000]


def test_csv_values(tmp_path: Path) -> None:
    path = csv(
        tmp_path / "a.csv",
        "\ufefftime_ns, Fx [N] ,n,b,label,gap,void\n0,1.5,1,true,go,1,\n5,-2e3,2,false,stop,,\n9,nan,3,true,,3,\n",
    )
    streams = read(path, "Fx [N]", "n", "b", "label", "gap", "void", "[n,b,gap]", "[0:2]", "gone").streams
    assert "gone" not in streams
    values = {source: stream.values for source, stream in streams.items()}
    np.testing.assert_array_equal(values["Fx [N]"], [1.5, -2000, np.nan])
    assert values["n"].dtype == np.int64
    assert values["b"].dtype == np.bool_
    assert values["label"].to_pylist() == ["go", "stop", None]
    assert values["gap"].tolist() == [1, 0, 3] and values["gap"].dtype == np.int64  # a whole number has no NaN
    assert streams["gap"].present.tolist() == [[True], [False], [True]]
    assert np.isnan(values["void"]).all()
    assert values["[n,b,gap]"].tolist() == [[1, 1, 1], [2, 0, 0], [3, 1, 3]]
    assert streams["[n,b,gap]"].present.tolist() == [[True] * 3, [True, True, False], [True] * 3]
    assert streams["[n,b,gap]"].about == {"names": ["n", "b", "gap"]} and streams["Fx [N]"].about == {"unit": "N"}
    np.testing.assert_array_equal(values["[0:2]"], [[1.5, 1], [-2000, 2], [np.nan, 3]])
    assert all(stream.times.tolist() == [0, 5, 9] for stream in streams.values())


def test_only_the_columns_asked_for_are_parsed(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "time_ns,x,bad\n0,1,2\n1,2,oops\n")
    assert read(path, "x").streams["x"].values.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("text", "source", "times", "message"),
    [
        ("a,b\n1,2\n", "b", None, r"no time is known; set input\.times.*columns are a, b"),
        ("timestamp,b\n1,2\n", "b", None, r"set input\.times"),  # a number does not say its unit
        ("time_ns,t_s,b\n1,1,2\n", "b", None, r"several columns may be the time \(time_ns, t_s\)"),
        ("a,b\n1,2\n", "b", MS, r"time column 'timestamp' is not there; its columns are a, b"),
        ("time_ns,b\n1,2\n2,x7\n3,4\n", "b", None, r"column 'b', row 2: 'x7' is not a number"),
        ("time_ns,b\n1,2\nsoon,3\n", "b", None, r"column 'time_ns', row 2: 'soon' is not a number"),
        ("time_ns,b\n1,2\n,3\n", "b", None, r"column 'time_ns': row 2 \(of 2\) has no time"),
        ("time_ns,b,c\n1,up,1\n2,down,2\n", "[b,c]", None, r"column 'b': holds string, numbers of one size are needed"),
        ("time_ns,b,c\n1,1,1\n", "[b,d]", None, r"no column 'd'; its columns are time_ns, b, c"),
        ("time_ns,b,b\n1,1,1\n", "b", None, r"two columns have one name"),
        ("time_ns,b\n1,2\n3\n", "b", None, r"Row #3.*Expected 2 columns, got 1"),
        ("\n\n", "b", None, r"Empty CSV"),
        ("timestamp,b\n2023-03-04,1\nlater,2\n", "b", TableTimes("timestamp"), r"row 2: 'later'"),
    ],
)
def test_csv_mistakes_are_explained(
    tmp_path: Path, text: str, source: str, times: TableTimes | None, message: str
) -> None:
    path = csv(tmp_path / "a.csv", text)
    with pytest.raises(InputError, match=message) as caught:
        read(path, source, times=times)
    assert str(path) in str(caught.value)


def test_a_rate_instead_of_a_column(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "x,y\n1,2\n3,4\n5,6\n")
    times = TableTimes(rate_hz=30)
    assert read(path, "x", times=times).streams["x"].times.tolist() == [0, 33_333_333, 66_666_667]
    (ref,) = list_episodes(InputSpec((str(path),)))
    infos = list_streams(ref, InputSpec((), times=times))
    assert [(info.source, info.type, len(info.times)) for info in infos] == [("x", "int64", 3), ("y", "int64", 3)]


def test_no_rows(tmp_path: Path) -> None:
    stream = read(csv(tmp_path / "a.csv", "time_ns,x\n"), "x").streams["x"]
    assert stream.times.shape == (0,)
    assert stream.values.shape == (0,)
    stream = read(csv(tmp_path / "b.csv", "time_ns,x,y\n"), "[x,y]").streams["[x,y]"]
    assert stream.values.shape == (0, 2)
    empty = pa.table({"time_ns": pa.array([], pa.int64()), "x": pa.array([], pa.list_(pa.float32(), 3))})
    stream = read(parquet(tmp_path / "a.parquet", empty), "x").streams["x"]
    assert stream.times.shape == (0,)
    assert stream.values.shape == (0, 3)


def test_parquet_types(tmp_path: Path) -> None:
    n = 3
    table = pa.table({
        "time": pa.array([0, 1000, 2000], pa.timestamp("us", "UTC")),
        "obs.state": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype="f4")), 2),
        "nested": pa.array([[[1, 2], [3, 4]]] * n, pa.list_(pa.list_(pa.int32()))),
        "holes": pa.array([[1.0, 2.0], None, [5.0, None]], pa.list_(pa.float32())),
        "fixed_holes": pa.array([None, [1, 2], [3, 4]], pa.list_(pa.int64(), 2)),
        "half": pa.array(np.array([1, 2, 3], np.float16)),
        "gap": pa.array([1, None, 3]),
        "flag": pa.array([True, None, False]),
        "image": pa.array([{"bytes": b"x", "path": "p"}] * n),
        "outside": pa.array([{"bytes": None, "path": "p"}] * n, pa.struct({"bytes": pa.binary(), "path": "string"})),
        "blob": pa.array([b"a", b"bc", None]),
        "text": pa.array(["u", "v", "w"]).dictionary_encode(),
        "ragged": pa.array([[1.0], [1.0, 2.0], [1.0]]),
        "struct": pa.array([{"x": 1.0}] * n),
    })  # fmt: skip
    path = parquet(tmp_path / "a.parquet", table)
    good = [n for n in table.column_names if n not in ("time", "ragged", "struct", "outside")]
    streams = read(path, *good, "ragged", "obs.state[1]", "[gap,half]").streams
    values = {source: stream.values for source, stream in streams.items()}
    present = {source: stream.present.tolist() for source, stream in streams.items() if stream.present is not None}
    assert values["obs.state"].dtype == np.float32
    assert values["obs.state"].shape == (3, 2)
    assert values["obs.state[1]"].tolist() == [[1], [3], [5]]
    assert values["nested"].tolist() == [[[1, 2], [3, 4]]] * 3
    assert values["nested"].dtype == np.int32
    np.testing.assert_array_equal(values["holes"], [[1, 2], [np.nan, np.nan], [5, np.nan]])
    assert values["fixed_holes"].tolist() == [[0, 0], [1, 2], [3, 4]] and values["fixed_holes"].dtype == np.int64
    assert present["fixed_holes"] == [[False, False], [True, True], [True, True]]
    assert values["half"].dtype == np.float16
    assert values["gap"].tolist() == [1, 0, 3] and values["gap"].dtype == np.int64
    assert values["flag"].tolist() == [True, False, False] and values["flag"].dtype == bool
    assert present["gap"] == present["flag"] == [[True], [False], [True]]
    assert values["[gap,half]"].tolist() == [[1, 1], [0, 2], [3, 3]]
    assert present["[gap,half]"] == [[True, True], [False, True], [True, True]]
    assert values["ragged"].type == pa.list_(pa.float64())
    assert values["ragged"].to_pylist() == [[1.0], [1.0, 2.0], [1.0]]
    assert values["image"].to_pylist() == [b"x"] * 3
    assert values["blob"].to_pylist() == [b"a", b"bc", None]
    assert values["text"].to_pylist() == ["u", "v", "w"]
    assert read(path, "half").streams["half"].times.tolist() == [0, 1_000_000, 2_000_000]
    for source, message in [
        ("ragged[0]", "holds lists of differing length"),
        ("struct", "cannot be read as a stream"),
        ("outside", "separate files"),
        ("text[0]", "numbers of one size are needed"),
    ]:
        with pytest.raises(InputError, match=rf"a\.parquet: column '{source.partition('[')[0]}': .*{message}"):
            read(path, source)
    infos = {info.source: info.type for info in list_streams(list_episodes(InputSpec((str(path),)))[0], InputSpec(()))}
    assert infos["obs.state"] == "float32[2]"
    assert infos["image"] == "image"
    assert "time" not in infos


@pytest.mark.parametrize("row_group_size", [2, 1000])
@pytest.mark.parametrize("statistics", [True, False])
def test_a_parquet_file_of_several_episodes(tmp_path: Path, row_group_size: int, statistics: bool) -> None:
    table = {"episode_index": [0, 0, 0, 7, 7, 12], "time_ns": [0, 1, 2, 0, 1, 0], "x": [0.0, 1, 2, 3, 4, 5]}
    path = parquet(tmp_path / "a.parquet", table, row_group_size=row_group_size, write_statistics=statistics)
    refs = list_episodes(InputSpec((str(path),)))
    assert [ref.id for ref in refs] == ["a.parquet#0", "a.parquet#7", "a.parquet#12"]
    assert [read(path, "x", which=i).streams["x"].values.tolist() for i in range(3)] == [[0, 1, 2], [3, 4], [5]]
    alternating = {"episode_index": [1, 2, 1, 2], "time_ns": [0, 0, 1, 1], "x": [1.0, 2, 3, 4]}
    path = parquet(tmp_path / "b.parquet", alternating, row_group_size=row_group_size, write_statistics=statistics)
    assert [read(path, "x", which=i).streams["x"].values.tolist() for i in range(2)] == [[1, 3], [2, 4]]
    one = parquet(tmp_path / "c.parquet", {"episode_index": [3, 3], "time_ns": [0, 1], "x": [1.0, 2.0]})
    assert [ref.id for ref in list_episodes(InputSpec((str(one),)))] == ["c.parquet"]


def test_several_tables(tmp_path: Path) -> None:
    csv(tmp_path / "r/arm.csv", "time_ns,x,left.y\n0,1,2\n10,3,4\n")
    csv(tmp_path / "r/arm.left.csv", "time_ns,y,label\n5,6,go\n")
    sources = ["arm.x", "arm.left.y", "arm[left.y,x]", "arm", "arm.left", "arm.z", "x"]
    streams = read(tmp_path / "r", *sources, episode="folder").streams
    assert list(streams) == sources[:-2]
    assert streams["arm.x"].times.tolist() == [0, 10]
    assert streams["arm.left.y"].values.tolist() == [6]  # the table arm.left has it: the longest name wins
    assert streams["arm[left.y,x]"].values.tolist() == [[2, 1], [4, 3]]
    assert streams["arm"].values.tolist() == [[1, 2], [3, 4]]
    assert streams["arm.left"].values.tolist() == [6]  # text is no number


def test_a_single_table_needs_no_prefix(tmp_path: Path) -> None:
    csv(tmp_path / "r/arm.csv", "time_ns,x\n0,1\n")
    streams = read(tmp_path / "r", "x", "arm.x", "arm[x]", episode="folder").streams
    assert [stream.values.ravel().tolist() for stream in streams.values()] == [[1]] * 3


def test_csv_damage(tmp_path: Path) -> None:
    lines = "".join(f"{i * 1000},{i * 0.5},{i},text{i}\n" for i in range(300))
    path = csv(tmp_path / "a.csv", "time_ns,x,n,label\n" + lines)
    seen = outcomes(path, ["x", "n", "label", "[x,n]"], tries=80)
    assert set(seen) == {"read", "refused"}, seen


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_parquet_damage(tmp_path: Path, compression: str) -> None:
    n = 400
    table = {
        "time_ns": np.arange(n),
        "x": np.random.default_rng(0).normal(size=n),
        "v": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(n * 3, dtype="f4")), 3),
        "label": [f"text{i}" for i in range(n)],
        "episode_index": np.arange(n) // 200,
    }
    path = parquet(tmp_path / "a.parquet", table, compression=compression, row_group_size=150, write_page_checksum=True)
    seen = outcomes(path, ["x", "v", "label", "[x,episode_index]"], tries=80)
    assert set(seen) == {"read", "refused"}, seen


def screw(data_dir: Path) -> InputSpec:
    return InputSpec((str(data_dir / "arm_ft/screw_sindy"),), times=MS, episode="folder")


def screw_ref(spec: InputSpec) -> EpisodeRef:
    (ref,) = list_episodes(spec)
    assert ref.id == "screw_sindy"
    assert ref.tables == ("observation_data", "sensor_data")
    return ref


@pytest.mark.realdata
@pytest.mark.parametrize("order", [1, -1])
def test_real_screw_driving(data_dir: Path, order: int) -> None:
    spec = screw(data_dir)
    sources = ["sensor_data[Fx,Fy,Fz]", "observation_data[X,Y]", "sensor_data.A", "observation_data.v"][::order]
    episode = read_episode(screw_ref(spec), sources, spec)
    assert list(episode.streams) == sources
    sensor, camera = episode.streams["sensor_data[Fx,Fy,Fz]"], episode.streams["observation_data[X,Y]"]
    assert sensor.times[:2].tolist() == [1677963752663000000, 1677963752681000000]
    assert camera.times[0] == 1677963752004000000
    assert camera.values.shape == (726, 2)
    assert (sensor.times % 1_000_000 == 0).all()
    assert sensor.values[0].tolist() == [-1.4706788719784145, 2.542851119228065, -25.768471168293978]
    infos = {info.source: dict(info.fields) for info in list_streams(screw_ref(spec), spec)}
    assert infos["observation_data"] == {"X": "float64", "Y": "float64", "Z": "int64", "v": "int64"}


@pytest.mark.realdata
def test_real_files_alone_and_by_pattern(data_dir: Path) -> None:
    folder = data_dir / "arm_ft/screw_sindy"
    alone = InputSpec((str(folder / "sensor_data.csv"), str(folder / "observation_data.csv")), times=MS)
    refs = list_episodes(alone)
    assert [ref.id for ref in refs] == ["observation_data.csv", "sensor_data.csv"]
    assert read_episode(refs[1], ["[Tx,Ty,Tz]"], alone).streams["[Tx,Ty,Tz]"].values.shape == (726, 3)
    pattern = InputSpec((str(folder.parent),), times=MS, episode=r"(?P<episode>\w+)/(?P<table>[a-z]+)_data\.csv")
    (ref,) = list_episodes(pattern)
    assert (ref.id, ref.tables) == ("screw_sindy", ("observation", "sensor"))
    assert set(read_episode(ref, ["sensor.Fx", "observation[v]"], pattern).streams) == {"sensor.Fx", "observation[v]"}


@pytest.mark.realdata
def test_damage_to_real_files(data_dir: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(data_dir / "arm_ft/screw_sindy/sensor_data.csv", tmp_path))
    seen = outcomes(path, ["Fx", "[Fx,Fy,Fz]"], tries=40, times=MS)
    assert set(seen) == {"read", "refused"}, seen
