"""The names and places of a tree's files, in the output's folder."""

from __future__ import annotations

import re
from collections.abc import Iterable

from robocache.output import layout
from robocache.output.layout import DATA, META

#: What a tree stands by: a reader that finds none finds no dataset.
INFO = "meta/info.json"
STATS = "meta/stats.json"
MODALITY = "meta/modality.json"
CARD = "README.md"
#: Which of v3.0, which of v2.1.
TASKS, TASK_LINES = "meta/tasks.parquet", "meta/tasks.jsonl"
EPISODE_LINES, STATISTICS_LINES = "meta/episodes.jsonl", "meta/episodes_stats.jsonl"

#: Ours: what is in the tree, what is kept beside its units, and files that wait for their place.
OWN = f"{META}/_lerobot"
RECORD = f"{OWN}/_tree.json"
STAGED = f"{OWN}/_staged"

#: Files a folder.
CHUNK = 1000
#: About how many MB (1e6 bytes) a file of videos has.
VIDEO_MB = 200
DATA_PATH = {
    "v3.0": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "v2.1": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
}


VIDEO_PATH = {
    "v3.0": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    "v2.1": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
#: Where the files of a tree are, and others.
FOLDERS = (DATA, "meta", "videos")
_DOCUMENTS = (INFO, STATS, MODALITY, TASKS, TASK_LINES, EPISODE_LINES, STATISTICS_LINES)
_VIDEO = re.compile(r"videos/([^/]+/chunk-\d{3,}/file-\d{3,}|chunk-\d{3,}/[^/]+/episode_\d{6,})\.mp4")
_UNIT = re.compile(rf"meta/episodes/chunk-\d{{3,}}/file-\d{{3,}}\.parquet|{OWN}/_(episodes|statistics)-\d{{6,}}\.pq")


def is_tree(name: str) -> bool:
    """True for the name of a file that a tree, of whichever version and data, has or may have had."""
    return name in _DOCUMENTS or layout.is_tree(name) or bool(_UNIT.fullmatch(name) or _VIDEO.fullmatch(name))


def places(unit: int) -> tuple[int, int]:
    """Chunk and file of a unit's rows in v3.0."""
    return divmod(unit, CHUNK)


def rows_name(v3: bool, unit: int, episode: int) -> str:
    """Of the file that holds the rows of an episode of a unit."""
    if v3:
        chunk, file = places(unit)
        return f"{DATA}/chunk-{chunk:03d}/file-{file:03d}.parquet"
    return f"{DATA}/chunk-{episode // CHUNK:03d}/episode_{episode:06d}.parquet"


def episodes_name(v3: bool, unit: int) -> str:
    """Of the table of a unit's episodes; v2.1 has lines of text instead, which are made of it."""
    chunk, file = places(unit)
    return f"meta/episodes/chunk-{chunk:03d}/file-{file:03d}.parquet" if v3 else f"{OWN}/_episodes-{unit:06d}.pq"


def video_name(v3: bool, key: str, unit: int, number: int) -> str:
    """Of a file of a camera's frames: in v3.0 one of those of a unit, which has a chunk; in v2.1 that of an episode."""
    if v3:
        return f"videos/{key}/chunk-{unit:03d}/file-{number:03d}.mp4"
    return f"videos/chunk-{number // CHUNK:03d}/{key}/episode_{number:06d}.mp4"


def digest_name(unit: int) -> str:
    """Of the statistics of a unit that merge."""
    return f"{OWN}/_statistics-{unit:06d}.pq"


def staged_name(name: str, key: str) -> str:
    """Where the file waits until it takes its place."""
    return f"{_staged(key)}{name.replace('%', '%25').replace('/', '%2F')}.new"


def staged_names(waiting: Iterable[str], key: str) -> dict[str, str]:
    """Of the files that wait those of a key: where each waits, by its name."""
    own = _staged(key)
    some = (at for at in waiting if at.startswith(own))
    return {at[len(own) : -len(".new")].replace("%2F", "/").replace("%25", "%"): at for at in some}


def _staged(key: str) -> str:
    return f"{STAGED}/_{key[:24]}-"
