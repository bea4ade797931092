"""Prove that an output is what its manifest says: every part whole, every input episode in exactly one place."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.errors import OutputError, RoboCacheError
from robocache.output import documents, layout, statistics, tables
from robocache.output.dataset import Output
from robocache.output.layout import (
    DATA,
    EPISODES,
    LOCK,
    META,
    OLDER,
    PART_FOLDERS,
    PART_STATISTICS,
    QUARANTINE,
    STATISTICS,
)
from robocache.output.lerobot import doctor, tree
from robocache.output.lerobot.listing import is_dataset, of_others
from robocache.output.manifest import EpisodeRecord, PartRecord
from robocache.output.plan import Plan
from robocache.output.schema import marks
from robocache.output.statistics import Statistics
from robocache.output.store import Store
from robocache.output.tables import EPISODE_SCHEMA, quarantine_lines
from robocache.output.version import Version, list_versions


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what is wrong with it (nothing: the version is whole).

    version:     which, of the versions that the output has
    passed_over: files of the input that the last run could not take for recordings, as its report has them
    notes:       what is not wrong but worth knowing: a run that is at work or was killed
    lerobot:     of a LeRobot dataset that is no output of a run, the version of its format
    """

    version: int
    episodes: int
    rows: int
    parts: int
    bytes: int
    quarantined: int
    problems: tuple[str, ...]
    passed_over: int = 0
    notes: tuple[str, ...] = ()
    lerobot: str = ""


class _DamageError(Exception):
    """What is wrong with a part."""


#: What a parser throws at damaged bytes.
_DAMAGES = (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError, MemoryError)


#: Bytes of a part that are hashed at once.
_BLOCK = 1 << 20
_CHANGED = "{} sha256 is not the manifest's: changed or damaged; delete it and run again"


def _told(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300] or type(error).__name__


def verify(
    uri: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    version: int | None = None,
    max_unpacked_mb: int | None = None,
) -> Verification:
    """Check one version of an output (None: the newest) against its own plan and manifest: checksums, sizes, row
    counts, that each part holds the rows of its episodes in order, that each planned episode is in the output or in the
    quarantine, once, that the tables made from the manifest say what it says, and that there is no file that does not
    belong. Right during a run too. ``OutputError`` where ``uri`` is no output at all, or has no such version.

    max_unpacked_mb: MiB of rows of one episode that are held; None: 128, or 64 times the bytes of its part
    """
    if version is None and (found_there := _of_others(Store(uri, storage_options, links=True))) is not None:
        return found_there
    output = Output.open(uri, storage_options, version=version)
    number = output.version.number
    try:
        found = _verify(output, version, None if max_unpacked_mb is None else max_unpacked_mb << 20)
    except (*_DAMAGES, RoboCacheError) as error:
        found = Verification(number, 0, 0, 0, 0, 0, (f"{META} cannot be read: {_told(error)}",))
    if found.problems and number < (there := list_versions(output.store)).newest and number not in there.kept:
        raise OutputError(f"{uri}: version {number} is no longer kept (output.keep_versions): runs went on meanwhile")
    return found


def _verify(output: Output, asked: int | None, most: int | None) -> Verification:
    number, store = output.version.number, output.store
    busy = store.exists(LOCK)
    found: Counter[str] = Counter()
    places: Counter[tuple[int, str]] = Counter()
    problems: list[str] = []
    plan = output.plan
    next(output.records(), None)  # before it is hashed: a file may be without end
    problems += _version_problems(output, plan)

    total: dict[str, Statistics] = {}
    damaged = False
    for record in output.records():
        if record.identity != output.identity:
            problems.append(
                f"shard {record.shard}: its record belongs to config {record.identity}, not {output.identity}"
            )
        for part, episodes in record.by_part():
            try:
                total = statistics.merged([total, _check_part(output, part, episodes, most)])
            except _DamageError as error:
                problems.append(f"{part.name}: {error}")
                damaged = True
            found.update(rows=part.rows, parts=1, bytes=part.bytes)
        places.update((e.index, e.id) for e in record.episodes)
        places.update((q.index, q.id) for q in record.quarantined)
        found.update(episodes=len(record.episodes), quarantined=len(record.quarantined))
    problems.extend(_coverage_problems(plan, places))
    late: tuple[str, ...] = ()
    if asked in (None, number) and not busy:
        problems += tree.problems(store)
        if any(p.startswith(layout.TREE_PARTS) for p in output.parts) and not is_dataset(store):
            late = ("there is no LeRobot tree: the last run could not make it, or no row of any episode is for it",)
    around, notes = _around(output, plan, None if damaged else total, busy=busy)
    problems += around
    counts = (found["episodes"], found["rows"], found["parts"], found["bytes"], found["quarantined"])
    return Verification(number, *counts, tuple(problems), _passed_over(output), (*notes, *late))


def _of_others(store: Store) -> Verification | None:
    """A LeRobot dataset that no run has made; None where it is none."""
    if not of_others(store):
        return None
    e = doctor.examine(store)
    return Verification(
        0, e.episodes, e.rows, e.files, e.bytes, 0, tuple(e.problems), notes=tuple(e.notes), lerobot=e.version
    )


def _version_problems(output: Output, plan: Plan) -> Iterator[str]:
    """Whether its files are those that it was made with."""
    version, number = output.version, output.version.number
    for name, found, wanted in (
        (layout.manifest_file(number), output.manifest_sha256(), version.manifest),
        (layout.plan_file(number), plan.sha256(), version.plan),
    ):
        if found != wanted:
            yield f"{name}: its sha256 is not the version's: changed or damaged; run again with --overwrite"
    try:
        _ = output.config
    except OutputError as error:
        yield str(error)


def _around(
    output: Output, plan: Plan, total: Mapping[str, Statistics] | None, *, busy: bool
) -> tuple[list[str], list[str]]:
    """What is wrong with what lies about the newest version, and what is worth knowing of it: the tables that are made
    of it, files that no version has. A run that is at work may be about to write or remove these; one that was killed
    has left them to the next. Nothing for an older version.

    total: statistics of all parts, None where they are damaged; busy: a run was there a while ago
    """
    store, number = output.store, output.version.number
    strays = _strays(output)
    late = [name for name in output.version.tables if output.made(name) is None]
    of_tables: list[str] = []
    if not late or not (busy or store.exists(LOCK)):
        of_tables += _episode_problems(output, plan)
        of_tables += _quarantine_problems(output)
        if total is not None:
            of_tables += _statistics_problems(output, {name: s.summary() for name, s in total.items()})
    busy = busy or store.exists(LOCK)
    if strays and not busy:  # a run may have come and gone meanwhile, and has left nothing
        still = set(_strays(output))
        strays = [name for name in strays if name in still]
        busy = store.exists(LOCK)
    if list_versions(store).newest != number:
        return [], []
    notes = []
    if busy:
        theirs = [n for n in strays if layout.is_part(n) or not n.startswith(f"{DATA}/")]
        strays = [n for n in strays if n not in theirs]
        notes = [
            f"a run is writing here, or was killed: {LOCK}, and {len(theirs)} files that are no version's yet or now"
        ]
    text = {False: "no record of this file", True: "left behind by a killed run; run the job again"}
    return [*(f"{name}: {text[name.endswith('.tmp')]}" for name in strays), *of_tables], notes


def _strays(output: Output) -> list[str]:
    """Files that are no version's, and drafts."""
    store = output.store
    others: set[str] = set()
    for number in list_versions(store).kept:
        with contextlib.suppress(OutputError):
            others |= set(Output(store, Version.read(store, number)).parts)
    right = layout.places(output.parts, others)
    places = (*PART_FOLDERS, OLDER, PART_STATISTICS)
    found = [n for folder in places for n in store.files(folder) if n not in right and not layout.is_tree(n)]
    return found + [n for n in store.files(META) if n.endswith(".tmp") and n not in found]


def _passed_over(output: Output) -> int:
    try:
        return len(output.report["passed_over"])
    except (OSError, ValueError, KeyError, TypeError, RoboCacheError):  # a run that has not ended yet has no report
        return 0


def _coverage_problems(plan: Plan, places: Counter[tuple[int, str]]) -> Iterator[str]:
    seen: set[int] = set()
    for e in plan.episodes:
        if e.index in seen:
            yield f"episode {e.index} ({e.id}): its number was given twice"
        seen.add(e.index)
        if e.shard is None:
            continue
        count = places.pop((e.index, e.id), 0)
        if count == 0:
            yield f"episode {e.index} ({e.id}): lost, neither in the output nor in the quarantine"
        elif count > 1:
            yield f"episode {e.index} ({e.id}): recorded {count} times"
    for index, id in places:
        yield f"episode {index} ({id}): in the manifest but not in the plan"


def _check_part(
    output: Output, part: PartRecord, of: Sequence[EpisodeRecord], most: int | None
) -> dict[str, Statistics]:
    """The statistics of its episodes together. ``_DamageError`` where it, or they, are not what its record says."""
    with _copied(output, part) as file:
        beside = _checked(lambda: output.store.read(layout.statistics_name(part.name)), part.statistics)
        with _decoding("cannot be decoded"):
            each, together = statistics.decode(beside)
        rows = _Rows(of, each, documents.most_held(part.bytes, most))
        with _decoding("cannot be decoded"):
            for piece in documents.pieces(file, part.bytes, layout.part_format(part.name), part.rows):
                rows.take(piece)
        rows.end()
    if not _same(together, statistics.merged(each.values())):
        raise _DamageError("its statistics are not what those of its episodes add up to")
    return together


@contextlib.contextmanager
def _decoding(what: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGES as error:
        raise _DamageError(f"{what} ({_told(error)})") from error


class _Rows:
    """The rows of a part as they come, piece by piece: what is held of them is one episode.

    each: the statistics of each episode; most: bytes of one that are held
    """

    def __init__(self, of: Sequence[EpisodeRecord], each: Mapping[int, Mapping[str, Statistics]], most: int):
        self.indexes = [e.index for e in of]
        self.left, self.each, self.most = deque(e for e in of if e.rows), each, most
        self.held: list[pa.Table] = []
        self.count = self.bytes = 0

    def take(self, rows: pa.Table) -> None:
        at = 0
        while at < rows.num_rows:
            if not self.left:
                raise _DamageError(f"it has more rows than episodes {self.indexes}")
            episode = self.left[0]
            piece = rows.slice(at, episode.rows - self.count)
            if (piece["episode_index"].to_numpy() != episode.index).any():
                raise _DamageError(f"its rows are not those of episodes {self.indexes}")
            if not np.array_equal(piece["frame_index"].to_numpy(), np.arange(self.count, self.count + len(piece))):
                raise _DamageError("frame_index does not count up from 0 in every episode")
            at, self.count, self.bytes = at + len(piece), self.count + len(piece), self.bytes + piece.nbytes
            if self.bytes > self.most:
                raise _DamageError(
                    f"rows of episode {episode.index} unpack to {self.bytes} bytes or more, at most {self.most} are "
                    "held; --max-unpacked-mb allows more"
                )
            self.held.append(piece)
            if self.count == episode.rows:
                self._compare(self.left.popleft())

    def _compare(self, episode: EpisodeRecord) -> None:
        with _decoding("its columns are not those of an output"):
            same = _same(self.each.get(episode.index, {}), _statistics_of(pa.concat_tables(self.held)))
        if not same:
            raise _DamageError(f"the statistics of episode {episode.index} are not those of its rows")
        self.held, self.count, self.bytes = [], 0, 0

    def end(self) -> None:
        if self.left:
            raise _DamageError(f"it has fewer rows than episodes {self.indexes}")


@contextlib.contextmanager
def _copied(output: Output, part: PartRecord) -> Iterator[IO[bytes]]:
    """The bytes of a part, once they are known to be its record's: the file, or what has come of it over a network."""
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(output.opened(part.name))
            if (size := file.seek(0, io.SEEK_END)) != part.bytes:
                raise _DamageError(f"{size} bytes, the manifest says {part.bytes}")
            file.seek(0)
            copy = None if output.store.local else stack.enter_context(tempfile.TemporaryFile())
            digest = hashlib.sha256()
            while block := file.read(_BLOCK):
                digest.update(block)
                if copy is not None:
                    copy.write(block)
            if digest.hexdigest() != part.sha256:
                raise _DamageError(_CHANGED.format("its"))
            yield file if copy is None else copy
    except (OSError, OutputError, MemoryError) as error:
        raise _DamageError(f"cannot be read ({error})") from error


def _checked(read: Callable[[], bytes], sha256: str) -> bytes:
    try:
        data = read()
    except (OSError, OutputError, MemoryError) as error:
        raise _DamageError(f"cannot be read ({error})") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise _DamageError(_CHANGED.format("its statistics'"))
    return data


def _statistics_of(rows: pa.Table) -> dict[str, Statistics]:
    """Of each column that has a validity column."""
    found = {}
    for name, mark in marks(rows.schema).items():
        s = statistics.of_column(rows[name], rows[mark].to_numpy())
        if s is not None:
            found[name] = s
    return found


def _same(found: Mapping[str, Statistics], wanted: Mapping[str, Statistics]) -> bool:
    return found.keys() == wanted.keys() and all(found[name].agrees(s) for name, s in wanted.items())


def _episode_problems(output: Output, plan: Plan) -> Iterator[str]:
    try:
        data = output.store.read(EPISODES, output.largest)
        table = documents.unpacked(pq.ParquetFile(pa.BufferReader(data)), len(data))
    except (*_DAMAGES, OutputError) as error:
        yield f"{EPISODES}: cannot be read ({_told(error)}); run the job again"
        return
    if not table.schema.equals(EPISODE_SCHEMA):
        yield f"{EPISODES}: its columns are not {', '.join(EPISODE_SCHEMA.names)}; run the job again"
        return
    has = table["episode_index"].to_numpy()
    if table["episode_index"].null_count or (np.diff(has) <= 0).any():
        yield f"{EPISODES}: its rows are not in the order of the episodes, each once; run the job again"
        return
    right = tables.episodes_of(output.records(), plan)
    wanted = right["episode_index"].to_numpy()
    there = np.isin(wanted, has)
    wrong: list[int] = []
    expected, rows = right.filter(there), table.take(np.searchsorted(has, wanted[there]))
    if not rows.equals(expected):
        pairs = zip(rows.to_pylist(), expected.to_pylist(), strict=True)
        wrong = [e["episode_index"] for row, e in pairs if row != e]
    for text, episodes in (
        ("no rows of episodes {}", np.setdiff1d(wanted, has)),
        ("rows of episodes {}, which the manifest does not have", np.setdiff1d(has, wanted)),
        ("the rows of episodes {} do not say what the manifest says", wrong),
    ):
        if len(episodes):
            more = f" and {len(episodes) - 10} more" if len(episodes) > 10 else ""
            yield f"{EPISODES}: {text.format(', '.join(map(str, episodes[:10])) + more)}; run the job again"


def _quarantine_problems(output: Output) -> Iterator[str]:
    try:
        found = output.store.read(QUARANTINE, output.largest)
    except (OSError, OutputError) as error:
        yield f"{QUARANTINE}: cannot be read ({error}); run the job again"
        return
    if found != quarantine_lines(q for r in output.records() for q in r.quarantined):
        yield f"{QUARANTINE}: its lines are not the manifest's quarantined episodes; run the job again"


def _statistics_problems(output: Output, wanted: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    try:
        found = documents.mapping(documents.parsed(output.store.read(STATISTICS, output.largest)))
        columns = list(found.items())
    except (OSError, ValueError, OutputError) as error:
        yield f"{STATISTICS}: cannot be read ({error}); run the job again"
        return
    if found.keys() != wanted.keys():
        yield f"{STATISTICS}: columns {list(found)}, the parts have {list(wanted)}; run the job again"
        return
    for name, column in columns:
        if not _agree(column, wanted[name]):
            yield f"{STATISTICS}: {name} is not what the parts' statistics add up to; run the job again"


def _agree(found: Any, wanted: Mapping[str, Any]) -> bool:
    """Same counts, and the same numbers but for their last bits, which are not the same on every machine."""
    if not isinstance(found, dict) or found.keys() != wanted.keys() or found["count"] != wanted["count"]:
        return False
    try:
        has, right = (np.array([s[key] for key in wanted if key != "count"], np.float64) for s in (found, wanted))
    except (TypeError, ValueError):
        return False
    scale = np.nanmax(np.abs(right), axis=0, initial=0.0)
    return has.shape == right.shape and np.allclose(has, right, rtol=1e-9, atol=1e-9 * scale, equal_nan=True)
