"""What a reader declares is all that the rest knows of it: shown by one that nobody has heard of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from robocache.cli import main as cli
from robocache.config.load import job_from_mapping
from robocache.errors import ConfigError, InputError
from robocache.formats import READERS, InputSpec, Reader, describe_episode, list_episodes, read_episode
from robocache.formats.base import read_bytes
from robocache.types import Episode, EpisodeRef, FileStamp, Source, Stream, StreamInfo, StreamType, array_type

MAGIC = b"TOY1"


class ToyReader(Reader):
    """``TOY1``, then pairs of int64 nanoseconds and float64; a folder with toy.ini is one dataset of such files."""

    name: ClassVar[str] = "toy"
    suffixes: ClassVar[tuple[str, ...]] = (".toy",)
    magic: ClassVar[bytes] = MAGIC
    own_time: ClassVar[bool] = True

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        return [EpisodeRef(id, self.name, tuple(files), nbytes=files[0].size)]

    def streams(self, ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
        return [StreamInfo("x", "float64", (), self._rows(ref, spec)["t"])]

    def describe(
        self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
    ) -> dict[str, StreamType]:
        return {s.key: StreamType(array_type(np.dtype(float))) for s in sources if s.path == "x"}

    def read(self, ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> Episode:
        rows = self._rows(ref, spec)
        return Episode(ref.id, {s.key: Stream(rows["t"].copy(), rows["x"].copy()) for s in sources if s.path == "x"})

    def _rows(self, ref: EpisodeRef, spec: InputSpec) -> np.ndarray:
        return np.frombuffer(read_bytes(ref.files[0], spec)[len(MAGIC) :], [("t", "<i8"), ("x", "<f8")])


class ToySetReader(ToyReader):
    """A folder with toy.ini is one dataset: an episode for each file in its folder ``runs``."""

    name: ClassVar[str] = "toyset"
    suffixes: ClassVar[tuple[str, ...]] = ()
    magic: ClassVar[bytes] = b""
    marker: ClassVar[str] = "toy.ini"
    parts: ClassVar[tuple[str, ...]] = ("runs",)

    def episodes(self, id: str, files: Sequence[FileStamp], spec: InputSpec) -> list[EpisodeRef]:
        return [EpisodeRef(f"{id}#{i}", self.name, (file,)) for i, file in enumerate(files[1:])]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, "toy", ToyReader())
    monkeypatch.setitem(READERS, "toyset", ToySetReader())


def write(path: Path, rows: int = 50) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.zeros(rows, [("t", "<i8"), ("x", "<f8")])
    data["t"], data["x"] = np.arange(rows) * 10**7, np.arange(rows) / 2
    path.write_bytes(MAGIC + data.tobytes())
    return path


def test_files_are_listed_checked_described_and_read(tmp_path: Path) -> None:
    write(tmp_path / "in/a.toy")
    (tmp_path / "in/b.toy").write_bytes(b"#ROSBAG V2.0\n")
    good, bad = list_episodes(InputSpec((str(tmp_path / "in"),)))
    assert (good.id, good.format) == ("a.toy", "toy")
    assert "not toy: begins with b'#ROSBAG '" in bad.failure and "which is rosbag1" in bad.failure
    assert describe_episode(good, ["x", "y"], InputSpec(())) == {"x": StreamType(pa.float64())}
    assert read_episode(good, [Source("x", stamp="log")], InputSpec(())).streams["x (stamp: log)"].values[-1] == 24.5
    write(tmp_path / "in/c.csv")
    assert "which is toy" in {ref.id: ref.failure for ref in list_episodes(InputSpec((str(tmp_path / "in"),)))}["c.csv"]


def test_a_folder_with_its_marker_is_a_dataset(tmp_path: Path) -> None:
    for name in ("set/runs/1.toy", "set/runs/2.toy", "set/other/3.toy", "4.toy"):
        write(tmp_path / name)
    (tmp_path / "set/toy.ini").write_text("x")
    refs = list_episodes(InputSpec((str(tmp_path),)))
    assert [(ref.id, ref.format) for ref in refs] == [("4.toy", "toy"), ("set#0", "toyset"), ("set#1", "toyset")]
    with pytest.raises(InputError, match=r"folders with toy\.ini"):
        list_episodes(InputSpec((str(tmp_path / "set/runs"),), format="toyset"))


def test_config_knows_it_and_its_time(tmp_path: Path) -> None:
    def config(**keys: object) -> dict:
        features, timeline = {"x": {"source": "x", "dtype": "float64"}}, {"rate_hz": 100}
        given = {"uri": str(tmp_path / "in"), **keys}
        return {"input": given, "features": features, "timeline": timeline, "output": {"uri": str(tmp_path / "out")}}

    assert job_from_mapping(config(format="toy")).input.format == "toy"
    with pytest.raises(ConfigError, match=r"input\.times: toy carries its own time"):
        job_from_mapping(config(format="toy", times={"rate_hz": 1}))
    with pytest.raises(ConfigError, match=r"input\.format: found 'toyst'; did you mean 'toyset'"):
        job_from_mapping(config(format="toyst"))
    write(tmp_path / "in/a.toy")
    (tmp_path / "c.yaml").write_text(str(config()))
    assert cli(["run", str(tmp_path / "c.yaml"), "compute.device=cpu"]) == 0
    table = pa.parquet.read_table(tmp_path / "out/data") if hasattr(pa, "parquet") else None
    assert table is None or table["x"].to_pylist() == [i / 2 for i in range(50)]
