"""Videos of LeRobot datasets as references: which frame of which file each row of an episode is. Nothing is decoded.

Version 2.x keeps a file an episode and camera, whose frames are its rows; 3.0 joins many episodes in a file, and says
in ``meta/episodes`` which file, and when the episode begins in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from robocache.errors import InputError
from robocache.formats.base import InputSpec, open_file
from robocache.formats.parquet_rows import read_columns
from robocache.formats.stamps import look
from robocache.storage import open_storage
from robocache.types import FileStamp, Stream, StreamType
from robocache.video import FRAME, Video, read_video
from robocache.video.depth import told_of


def video_type(feature: Mapping[str, Any]) -> StreamType:
    """References, and as large as info.json says."""
    about: dict[str, Any] = {"kind": "video"}
    shape, names = feature.get("shape"), feature.get("names")
    if isinstance(shape, list) and isinstance(names, list) and len(shape) == len(names) == 3:
        told = dict(zip(map(str, names), shape, strict=True))
        about |= {key: told[key] for key in ("height", "width") if isinstance(told.get(key), int)}
    info = feature.get("info")
    if isinstance(info, dict) and (depth := told_of(info)):
        about["depth"] = depth
    return StreamType(FRAME, about)


@dataclass(frozen=True)
class Camera:
    """A camera of an episode.

    root:        the dataset's folder, with its slash
    template:    info.json's video_path
    name:        of the feature; feature: what info.json says of it
    chunks_size: episodes of a chunk, where nothing else tells the chunk
    """

    root: str
    template: str | None
    name: str
    feature: Mapping[str, Any]
    episode: int
    chunks_size: int

    def find(self, spec: InputSpec) -> tuple[FileStamp, float | None] | None:
        """Its file, and when the episode begins there, in seconds (None: with it); None where there is no such file."""
        chunk, file, begin = _place(self, spec) or (self.episode // self.chunks_size, self.episode, None)
        try:
            path = str(self.template).format(
                video_key=self.name, episode_index=self.episode, episode_chunk=chunk, chunk_index=chunk, file_index=file
            )
        except (KeyError, IndexError, ValueError) as error:
            where = f"{self.root}meta/info.json: video_path {self.template!r}"
            raise InputError(f"{where} has a placeholder {error} that is none of LeRobot's") from None
        fs, local = open_storage(f"{self.root}{path}", spec.storage_options)
        if not fs.exists(local):
            # Some templates name folders that no writer has made: a file of that name, and only one, is the one meant.
            name = f"/{self.name}/{path.rpartition('/')[2]}"
            folder = open_storage(f"{self.root}videos", spec.storage_options)[1]
            meant = [other for other in fs.find(folder) if other.endswith(name)] if fs.exists(folder) else []
            if len(meant) != 1:
                return None
            (local,) = meant
        return look(fs, local, fs.info(local)).stamp, begin

    def lacking(self, spec: InputSpec) -> str:
        """Why its frames cannot be read, as far as their place tells; empty where they can."""
        try:
            return "" if self.find(spec) else "its file is not there; leave it out, or set optional: true"
        except InputError as error:
            return str(error)

    def read(self, times: np.ndarray, spec: InputSpec) -> Stream | None:
        """A reference for each row, which are at ``times``; None where there is no file. ``InputError`` where it is
        damaged, or has fewer frames than there are rows."""
        found = self.find(spec)
        if found is None:
            return None
        stamp, begin = found
        video = _indexed(stamp, spec)
        first = 0 if begin is None else int(np.abs(video.times - round(begin * 1e9)).argmin())
        stop = first + len(times)
        if stop > len(video.pts):
            raise InputError(f"{stamp.uri}: has {len(video.pts)} frames, its {len(times)} rows need {stop}")
        path = stamp.uri.removeprefix(self.root)
        about = {**video_type(self.feature).about, **video.about, "files": {path: stamp.uri}}
        return Stream(times, video.frames(path, np.arange(first, stop)), about)


class _Held:
    """How a file is opened, which does not tell one file from another."""

    def __init__(self, spec: InputSpec):
        self.spec = spec

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=64)  # the episodes of one file ask for it one after another
def _known(stamp: FileStamp, held: _Held) -> Video:
    with open_file(stamp, held.spec) as opened:
        return read_video(opened, stamp.uri)


def _indexed(stamp: FileStamp, spec: InputSpec) -> Video:
    return _known(stamp, _Held(spec))


def _place(camera: Camera, spec: InputSpec) -> tuple[int, int, float] | None:
    """Chunk and file of a camera's video, and when the episode begins there; None where no table tells."""
    fs, local = open_storage(f"{camera.root}meta/episodes", spec.storage_options)
    columns = [f"videos/{camera.name}/{key}" for key in ("chunk_index", "file_index", "from_timestamp")]
    for path, info in sorted(fs.find(local, detail=True).items()) if fs.exists(local) else ():
        if not path.endswith(".parquet"):
            continue
        stamp = look(fs, path, info).stamp
        with open_file(stamp, spec) as opened, pq.ParquetFile(opened) as table:
            if not set(columns) <= set(table.schema_arrow.names):
                raise InputError(f"{camera.root}meta/episodes: does not say where the videos of {camera.name} are")
            rows = read_columns(table, ["episode_index", *columns], stamp)
        at = rows["episode_index"].to_pylist()
        if camera.episode in at:
            row = at.index(camera.episode)
            chunk, file, begin = (rows[column][row].as_py() for column in columns)
            return int(chunk), int(file), float(begin)
    return None
