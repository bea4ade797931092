"""CSV in every dialect, against Python's csv module, pandas, or the numbers written; and what is asked for."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pandas
import pytest

from robocache.config.load import job_from_mapping, load_job
from robocache.config.resolved import resolved_yaml
from robocache.errors import ConfigError, InputError
from robocache.formats import InputSpec, TableTimes, describe_episode, list_episodes, list_input, read_episode
from robocache.formats.base import CsvSpec
from robocache.types import Stream

SECONDS = TableTimes("t", "s")
STAMPS = ["1311868163.869700001", "1311868163.879700002", "1311868163.889700003"]
NANOSECONDS = [1311868163869700001, 1311868163879700002, 1311868163889700003]


def read(path: Path, *sources: str, times: TableTimes | None = SECONDS, **dialect: object) -> dict[str, Stream]:
    spec = InputSpec((str(path),), times=times, csv=CsvSpec(**dialect))
    (ref,) = list_episodes(spec)
    assert not ref.failure, ref.failure
    streams = read_episode(ref, sources, spec).streams
    described = describe_episode(ref, sources, spec, look=True)
    assert {key: s.type.arrow for key, s in streams.items()} == {key: d.arrow for key, d in described.items()}
    return dict(streams)


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def cells(separator: str, decimal: str = ".") -> str:
    """Three rows with a text that the separator is in, as Python's csv module writes them."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator)
    writer.writerow(["t", "x", "n", "label"])
    for k, stamp in enumerate(STAMPS):
        writer.writerow([stamp.replace(".", decimal), f"{k - 1.25}".replace(".", decimal), k, f"go{separator}on"])
    return out.getvalue()


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_and_decimals_are_found(tmp_path: Path, separator: str, decimal: str, end: str) -> None:
    if separator == decimal:
        pytest.skip("no such file")
    path = written(tmp_path / "a.csv", cells(separator, decimal).replace("\r\n", end))
    found = read(path, "x", "n", "label")
    assert found["x"].values.tolist() == [-1.25, -0.25, 0.75]
    assert found["n"].values.tolist() == [0, 1, 2] and found["n"].values.dtype == np.int64
    assert found["label"].values.to_pylist() == [f"go{separator}on"] * 3
    assert all(s.times.tolist() == NANOSECONDS for s in found.values())  # every nanosecond, in every dialect


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"])
@pytest.mark.parametrize("packed", [False, True])
def test_encodings(tmp_path: Path, encoding: str, packed: bool) -> None:
    content = "t;Kraft_Längs;label\n0,5;1,5;Öl\n1,5;2,5;Öl\n".encode(encoding)
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    given = {} if encoding in ("utf-8", "utf-8-sig", "utf-16") else {"encoding": encoding}
    found = read(path, "Kraft_Längs", "label", **given)
    assert found["Kraft_Längs"].values.tolist() == [1.5, 2.5] and found["label"].values.to_pylist() == ["Öl", "Öl"]
    assert found["label"].times.tolist() == [500_000_000, 1_500_000_000]


@pytest.mark.parametrize(
    "header",
    ["t x y\n", "# a log\n# t x y\n", "# 12 of May\n\n#t x y\n", "t   x\ty\n# a comment with several words\n"],
)
def test_blanks_between_numbers(tmp_path: Path, header: str) -> None:
    path = written(tmp_path / "a.txt", header + "  0.5  1.5\t-2e-3 \n1.5    2.5 3\n")
    name = "#t" if "#t" in header else "t"
    found = read(path, "x", "y", times=TableTimes(name))
    wanted = pandas.read_csv(path, sep=r"\s+", comment="#", names=["t", "x", "y"], skip_blank_lines=True)
    wanted = wanted[wanted["t"] != "t"].astype(float)
    assert found["x"].values.tolist() == wanted["x"].tolist() == [1.5, 2.5]
    assert found["y"].values.tolist() == wanted["y"].tolist() == [-2e-3, 3.0]
    assert found["x"].times.tolist() == [500_000_000, 1_500_000_000]


def test_a_header_in_a_comment(tmp_path: Path) -> None:
    path = written(tmp_path / "data.csv", "#timestamp [ns],w_x [rad s^-1],#n\n1403636579758555392,0.5,1\n")
    found = read(path, "w_x [rad s^-1]", "#n", times=TableTimes("#timestamp [ns]", "ns"))
    assert found["w_x [rad s^-1]"].times.tolist() == [1403636579758555392]
    assert found["w_x [rad s^-1]"].about == {"unit": "rad s^-1"} and found["#n"].values.tolist() == [1]


def test_comments_between_rows_and_cells_that_begin_like_one(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "#made by hand\nt,x,colour\n0,1,red\n# pause\n1,2,#00ff00\n")
    found = read(path, "x", "colour")
    assert found["x"].values.tolist() == [1, 2] and found["colour"].values.to_pylist() == ["red", "#00ff00"]
    path = written(tmp_path / "b.csv", "% made by hand\nt,x\n0,1\n% 5,6\n%5,6\n1,2\n")
    assert read(path, "x", comment="%")["x"].values.tolist() == [1, 2]
    path = written(tmp_path / "c.csv", "colour,t\nred,0\n#00ff00,1\n")
    assert read(path, "colour")["colour"].values.to_pylist() == ["red", "#00ff00"]  # a row like the others


@pytest.mark.parametrize(
    ("units", "wanted"),
    [
        ("s,N,m/s,rad,", ["N", "m/s", "rad", None]),
        ("[s],[Nm],(m/s^2),[deg],-", ["Nm", "m/s^2", "deg", "-"]),
        ("ms,%,rad s^-1,°C,mm", ["%", "rad s^-1", "°C", "mm"]),
    ],
)
def test_a_row_of_units(tmp_path: Path, units: str, wanted: list[str | None]) -> None:
    path = written(tmp_path / "a.csv", f"t,a,b,c,d\n{units}\n0,1.5,2,3,go\n1,2.5,3,4,on\n")
    found = read(path, "a", "b", "c", "d")
    assert [s.about.get("unit") for s in found.values()] == wanted
    assert found["a"].values.tolist() == [1.5, 2.5] and found["b"].values.dtype == np.int64


def test_what_is_no_row_of_units(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "t,mode\n0,m\n1,s\n")
    assert read(path, "mode")["mode"].values.to_pylist() == ["m", "s"]
    path = written(tmp_path / "b.csv", "mode,axis\nm,s\nn,s\n")
    assert read(path, "mode", times=TableTimes(rate_hz=1), units_row=False)["mode"].values.to_pylist() == ["m", "n"]
    path = written(tmp_path / "c.csv", "t,x\nsoon,far\n1,2\n")
    with pytest.raises(InputError, match=r"column 'x', row 1: 'far' is not a number"):
        read(path, "x")
    assert read(path, "x", units_row=True)["x"].about == {"unit": "far"}


def test_lines_to_skip_and_names(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "Logger 2.1\nserial, 12\nt,x\n0,1\n1,2\n")
    assert read(path, "x", skip_rows=2)["x"].values.tolist() == [1, 2]
    path = written(tmp_path / "b.csv", "# no header here 1 2 3\n0,1,2\n1,2,4\n")
    found = read(path, "b", "[a,b]", names=("t", "a", "b"))
    assert found["b"].values.tolist() == [2, 4] and found["[a,b]"].values.tolist() == [[1, 2], [2, 4]]


def test_a_time_column_that_is_asked_for(tmp_path: Path) -> None:
    """Its values are numbers, as of any column; as the time it has all its digits."""
    path = written(tmp_path / "a.csv", "t,x\n" + "".join(f"{stamp},{k}\n" for k, stamp in enumerate(STAMPS)))
    found = read(path, "t", "[t,x]")
    assert found["t"].values.tolist() == [float(stamp) for stamp in STAMPS]
    assert found["[t,x]"].values[:, 1].tolist() == [0, 1, 2]
    assert found["t"].times.tolist() == NANOSECONDS


def test_words_for_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "t,x,n,s\n0,--, ,a\n1,2.5,  3,--\n2, nan , -4,b\n3,+1.5,+5,c\n")
    found = read(path, "x", "n", "s", null_words=("--",))
    np.testing.assert_array_equal(found["x"].values, [np.nan, 2.5, np.nan, 1.5])
    assert found["n"].values.tolist() == [0, 3, -4, 5] and found["n"].present.tolist() == [
        [False],
        [True],
        [True],
        [True],
    ]
    assert found["s"].values.to_pylist() == ["a", None, "b", "c"]
    with pytest.raises(InputError, match="'--' is not a number"):
        read(path, "x")


def test_lists_in_cells(tmp_path: Path) -> None:
    rows = [
        'comma;"[1.5, 2, -3e-1]"', "numpy;[1. 2.5 3.]", "whole;[1, 2, 3]", "ragged;[1, 2]", "nested;[[1, 2], [3, 4]]",
        "words;[a, b, c]",
    ]  # fmt: skip
    names, values = zip(*(row.split(";") for row in rows), strict=True)
    second = ('"[4, 5, 6]"', "[4 5  6]", "[4, 5, 6]", "[3]", "[[5, 6], [7, 8]]", "[d, e, f]")
    text = "\n".join(";".join(line) for line in (("t", *names), ("0", *values), ("1", *second), ("2", *[""] * 6)))
    found = read(written(tmp_path / "a.csv", text), *names, "comma[0,2]")
    np.testing.assert_array_equal(found["comma"].values, [[1.5, 2, -0.3], [4, 5, 6], [np.nan] * 3])
    np.testing.assert_array_equal(found["numpy"].values, [[1, 2.5, 3], [4, 5, 6], [np.nan] * 3])
    assert found["whole"].values.tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]
    assert found["whole"].present.tolist() == [[True] * 3, [True] * 3, [False] * 3]
    assert found["ragged"].values.to_pylist() == [[1, 2], [3], None]
    assert found["comma[0,2]"].values[:2].tolist() == [[1.5, -0.3], [4, 6]]
    assert found["nested"].values.to_pylist()[0] == "[[1, 2], [3, 4]]"
    assert found["words"].values.to_pylist()[0] == "[a, b, c]"


def test_separators_behind_every_row(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "t,x,\n0,1,\n1,2,\n")
    assert read(path, "", times=SECONDS)[""].values.tolist() == [1, 2]  # all numbers but the time
    path = written(tmp_path / "b.csv", "t,x,\n0,1,5\n1,2,6\n")
    with pytest.raises(InputError, match="column 3 has no name"):
        read(path, "x")


def test_numbers_that_are_whole_at_first(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "t,x\n" + "".join(f"{k},{k if k < 199_999 else 0.5}\n" for k in range(200_000)))
    values = read(path, "x")["x"].values
    assert values.dtype == np.float64 and values[-2:].tolist() == [199_998.0, 0.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0.5,1,2\n1.5,2,3\n", r"all numbers, so its 3 columns have no names; set input\.csv\.names, .*'0\.5,1,2'"),
        (b"t,x\n0,\xe9\n", r"line 2 is not UTF-8; set input\.csv\.encoding.*'t,x' \| '0,é'"),
        (b"t;a,b;x\n1;2,a;3\n2;3,b;4\n", r"cells may be apart by ',' and ';'; set input\.csv\.separator"),
        (b"t;x\n0;1,234\n1;2,345\n", r"a comma in '1,234' may be a decimal one or not; set input\.csv\.decimal"),
        (b"t;x\n0,5;1.5\n1,5;2.5\n", r"set input\.csv\.decimal"),
        (b"Logger\nv2\nt,x\n0,1\n1,2\n", r"2 lines are before .* set input\.csv\.skip_rows, e\.g\. 2; .* 'Logger'"),
        (b"$GPVTG,,,,N*30\n$GPGSV,1,1,00*79\n$GPRMC,001902.00,V,,,N*77\n", r"NMEA sentences, not a table"),
        (b"t,x\x1b[2J\n0,1\n", r"its columns are t, x"),
        (b"# a\nt,x\n0,1\n2\n", r"Row #4: Expected 2 columns, got 1"),
    ],
)  # fmt: skip
def test_doubts_are_asked_about(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read(path, "x", "[gone]")
    assert str(path) in str(caught.value)


def test_wrong_answers_are_explained(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "t,x\n0,1\n1,2\n")
    with pytest.raises(InputError, match="3 names are given for rows of 2 cells"):
        read(path, "x", names=("t", "x", "y"))
    path.write_bytes(b"t,x\n0,\xff\xfe\n")
    with pytest.raises(InputError, match=r"is not ascii: .*input\.csv\.encoding right"):
        read(path, "x", encoding="ascii")


def test_text_files_count_where_they_are_asked_for(tmp_path: Path) -> None:
    written(tmp_path / "a.csv", "t,x\n0,1\n")
    written(tmp_path / "b.txt", "t x\n0 1\n1 2\n")
    written(tmp_path / "long.txt", "t;Öl\n" + "0;é\n" * 2000)
    written(tmp_path / "README.txt", "How it was made\nby whom, and when\nand why: 1 2\n")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"t;x\n0;1\n1;2\n"))

    def ids(uri: Path, **options: str) -> list[str]:
        return [ref.id for ref in list_episodes(InputSpec((str(uri),), **options))]

    assert ids(tmp_path) == ["a.csv"]
    assert ids(tmp_path, format="csv") == ["a.csv", "b.txt", "c.txt.gz", "long.txt"]
    assert ids(tmp_path / "b.*") == ids(tmp_path / "b.txt") == ["b.txt"]
    assert ids(tmp_path / "README.txt") == ["README.txt"]  # asked for by name: reading says what is wrong with it
    passed = list_input(InputSpec((str(tmp_path),), format="csv")).passed_over
    assert [file.uri for file in passed] == [str(tmp_path / "README.txt")]


def test_the_config_says_it(tmp_path: Path) -> None:
    def job(**dialect: object):
        return job_from_mapping({
            "input": {"uri": "a.csv", "csv": dialect}, "features": {"x": "x"}, "timeline": {"rate_hz": 1},
            "output": {"uri": "out"},
        })  # fmt: skip

    full = job(
        separator="tab", decimal=",", comment="%", skip_rows=2, names=["t", "x"], encoding="latin-1",
        null_words=["--"], units_row=True,
    )  # fmt: skip
    assert full.input.csv == CsvSpec("\t", ",", "%", 2, ("t", "x"), "latin-1", ("--",), True)
    (tmp_path / "again.yaml").write_text(resolved_yaml(full))
    assert load_job(str(tmp_path / "again.yaml")) == full
    for dialect, place in [
        ({"separator": "::"}, "separator"), ({"decimal": ";"}, "decimal"),
        ({"separator": ",", "decimal": ","}, "decimal"),
        ({"skip_rows": -1}, "skip_rows"), ({"names": ["t", "t"]}, "names"), ({"encoding": "utf-99"}, "encoding"),
        ({"comment": ""}, "comment"), ({"seperator": ","}, "seperator"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=rf"input\.csv\.{place}: "):
            job(**dialect)


@pytest.mark.realdata
def test_real_trajectory(data_dir: Path) -> None:
    path = data_dir / "more/tables/stamped_ba_estimate0.txt"
    names = ("t", "x", "y", "z", "qx", "qy", "qz", "qw")
    with pytest.raises(InputError, match=r"input\.csv\.names"):
        read(path, "x")
    stream = read(path, "[x,y,z,qx,qy,qz,qw]", names=names)["[x,y,z,qx,qy,qz,qw]"]
    wanted = pandas.read_csv(path, sep=" ", names=names, dtype=str)
    assert stream.values.tolist() == wanted[list(names[1:])].astype(float).values.tolist()
    assert stream.times[0] == 1403636580063560000 and len(stream.times) == 107
    digits = [stamp.split(".") for stamp in wanted["t"]]
    assert stream.times.tolist() == [int(s) * 10**9 + int(f.ljust(9, "0")) for s, f in digits]


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["motor_data", "replay_log_trial_1"])
def test_real_tables(data_dir: Path, name: str) -> None:
    path = data_dir / f"more/tables/{name}.csv"
    wanted = pandas.read_csv(path)
    time = wanted.columns[0]
    found = read(path, *wanted.columns[1:], times=TableTimes(time))
    for column in wanted.columns[1:]:
        np.testing.assert_array_equal(found[column].values, wanted[column].to_numpy())


@pytest.mark.realdata
def test_real_blank_cells_and_dates(data_dir: Path) -> None:
    path = data_dir / "more/tables/simple_parse_timestamp.csv"
    found = read(path, "A", "B", "C", "D", times=TableTimes(rate_hz=5))
    assert found["A"].values.tolist() == [0, 4, 5, 6, 7] and not found["A"].present[0, 0]
    assert found["B"].present[:, 0].tolist() == [True, True, False, True, True]
    assert found["C"].values.tolist() == [-1, -2, -3, -2, 0]
    with pytest.raises(InputError, match=r"01/20/2021 10:11:32\.332' is no time"):
        read(path, "A", times=TableTimes("timestamp"))


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["humminbird-M37", "pygpsdata-nmea4", "ublox-lea-5q"])
def test_real_nmea_is_no_table(data_dir: Path, name: str) -> None:
    spec = InputSpec((str(data_dir / f"more/nmea/{name}.log"),), format="csv", times=SECONDS)
    (ref,) = list_episodes(spec)
    with pytest.raises(InputError, match="NMEA sentences, not a table"):
        read_episode(ref, ["x"], spec)
