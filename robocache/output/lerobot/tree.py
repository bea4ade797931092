"""Making the tree stand, step by step, so that a crash at any of them leaves the tree before, the tree after, or none.

What is new waits in a folder of ours, whole; then the record says what is to be where; then info.json goes, files take
their places, and info.json comes back last. Who reads the folder between finds no dataset rather than a wrong one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from robocache.errors import OutputError
from robocache.output.dataset import Output
from robocache.output.lerobot import layout
from robocache.output.lerobot.documents import documents
from robocache.output.lerobot.episodes import Survey, survey
from robocache.output.lerobot.features import Shown, tree_features
from robocache.output.lerobot.footage import Footage
from robocache.output.lerobot.images import decoded, refused
from robocache.output.lerobot.layout import CARD, FOLDERS, INFO, OWN, RECORD, STAGED, staged_name, staged_names
from robocache.output.lerobot.options import TreeSpec
from robocache.output.lerobot.reading import read_episodes
from robocache.output.lerobot.units import Looked, Tree, Unit, cut
from robocache.output.store import Store

#: Files that take their places between two looks at whether the folder is still ours.
_AT_ONCE = 64


@dataclass(frozen=True)
class Record:
    """What is in the tree, or is to be once what waits has taken its place.

    files: by name, the key of what decides their bytes, how many, and their sha256
    """

    files: Mapping[str, tuple[str, int, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, store: Store) -> Record:
        """An empty one where there is none, or none that can be read: then all is made anew."""
        try:
            found = json.loads(store.read(RECORD))["files"]
            return cls({name: (str(key), int(size), str(sha256)) for name, (key, size, sha256) in found.items()})
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def encode(self) -> bytes:
        return json.dumps({"files": self.files}, indent=0).encode()


class Writer(Protocol):
    """Who may write the folder that the tree is in."""

    store: Store

    def check(self) -> None:
        """``OutputError`` once another may."""

    def write(self, name: str, data: Any) -> None:
        """As :meth:`Store.write`, after a check."""


def finalise(writer: Writer, output: Output, spec: TreeSpec, threads: int) -> tuple[str, ...]:
    """Let the tree be that of the version, by making what is not so yet; notes for a person.

    ``OutputError`` where a column has no place in it, or a part cannot be read: the tree before stays.
    """
    store = writer.store
    found = survey(output, spec)
    if not found.episodes:
        withdraw(writer)
        return (*found.notes, "LeRobot: there is no tree, since no episode has rows for it")
    features = tree_features(output.schema, spec, lambda name: _first_shown(output, name, found, spec))
    tree = Tree(spec, features, found.tasks)
    units = cut(found.episodes, spec.options.data_mb)
    before, swap, looked = Record.read(store), _Swap(writer), Looked()

    def make(unit: Unit) -> None:
        key = tree.key(unit)
        if not swap.has(before, layout.digest_name(unit.number), key):
            for name, data in tree.build(output, unit, cameras, threads, looked):
                swap.stage(name, key, data)

    # Of units with cameras two at a time: while the frames of one are encoded the other is put together.
    at_once = min(threads, 2) if any(f.camera for f in features) else threads
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="lerobot-cameras") as cameras,
        ThreadPoolExecutor(at_once, thread_name_prefix="lerobot") as pool,
    ):
        for done in [pool.submit(make, unit) for unit in units]:
            done.result()
    for name, data in documents(tree, units, found, swap.read).items():
        key = hashlib.sha256(data).hexdigest()
        if name == CARD and _another(store, before):
            continue
        if not swap.has(before, name, key):
            swap.stage(name, key, data)
    swap.settle(before)
    found.notes += _told(looked)
    frames = sum(e.length for e in found.episodes)
    return (*found.notes, f"LeRobot {spec.options.version}: {len(found.episodes)} episodes, {frames} frames")


def _told(looked: Looked) -> Iterator[str]:
    """What a person must know of cameras."""
    if looked.anew:
        first = min(looked.anew)
        yield f"LeRobot: {len(looked.anew)} recorded videos do not fit and were encoded anew, the first {first}"
    for name in sorted({name for name, _, _ in looked.outside}):
        some = [(clipped, read) for of, clipped, read in looked.outside if of == name]
        clipped, read = sum(c for c, _ in some), sum(r for _, r in some)
        if clipped:
            share = clipped / read
            yield f"LeRobot: {name}: {share:.1%} of the depths are not within 0.01 to 10 m and are as far as that goes"


def withdraw(writer: Writer) -> None:
    """Take the tree away, where there is one: its info.json first, its record last."""
    store = writer.store
    if not store.files(OWN):
        return
    writer.check()
    store.remove(INFO)
    if not _another(store, Record.read(store)):
        store.remove(CARD)
    store.remove_all([n for folder in FOLDERS for n in store.files(folder) if layout.is_tree(n)])
    store.remove_all([name for name in store.files(OWN) if name != RECORD])
    store.remove(RECORD)


def _another(store: Store, record: Record) -> bool:
    """Whether the card that is there is a person's, which is left alone."""
    try:
        found = store.read(CARD)
    except FileNotFoundError:
        return False
    key, _, sha256 = record.files.get(CARD, ("", 0, ""))
    if sha256 and store.exists(staged_name(CARD, key)):  # a run died before that had taken the place of another of ours
        return False
    return sha256 != hashlib.sha256(found).hexdigest()


def problems(store: Store) -> list[str]:
    """What of the tree is not as its record says; nothing where there is none."""
    record = Record.read(store)
    found = []
    for name, (_, size, sha256) in record.files.items():
        if name == CARD:  # anybody may write it
            continue
        try:
            data = store.read(name)
        except OSError as error:
            found.append(f"{name}: cannot be read ({error}); run the job again")
            continue
        if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
            found.append(f"{name}: is not what was written: changed or damaged; delete it and run the job again")
    there = (name for folder in FOLDERS for name in store.files(folder))
    strays = [name for name in there if layout.is_tree(name) and name not in record.files]
    return found + [f"{name}: is none of the tree's files; run the job again" for name in strays]


class _Swap:
    """Files on their way into the tree."""

    def __init__(self, writer: Writer):
        self.writer, self.store = writer, writer.store
        self.waiting = set(self.store.files(STAGED))
        self.sizes = {n: s for folder in FOLDERS for n, s in self.store.sizes(folder).items()}
        self.wanted: dict[str, tuple[str, int, str]] = {}

    def has(self, before: Record, last: str, key: str) -> bool:
        """Whether the files of a key are all there, in their places or waiting; then they are taken as they are.

        last: the one that is made after all others
        """
        waiting, taken = staged_names(self.waiting, key), {}
        names = waiting.keys() | {name for name, (of, _, _) in before.files.items() if of == key}
        if last not in names:
            return False
        for name in sorted(names):
            staged = waiting.get(name)
            there = before.files.get(name)
            if staged is not None:
                data = self.store.read(staged)
                taken[name] = (key, len(data), hashlib.sha256(data).hexdigest())
            elif there is not None and there[0] == key and self._size(name) == there[1]:
                taken[name] = there
            else:
                return False
        self.wanted |= taken
        return True

    def _size(self, name: str) -> int:
        if name in self.sizes:
            return self.sizes[name]
        return len(self.store.read(name)) if self.store.exists(name) else -1

    def stage(self, name: str, key: str, data: Any) -> None:
        staged = staged_name(name, key)
        self.writer.write(staged, data)
        view = memoryview(data)
        self.wanted[name] = (key, view.nbytes, hashlib.sha256(view).hexdigest())
        self.waiting.add(staged)

    def read(self, name: str) -> bytes:
        """The bytes that the file is to have."""
        staged = staged_name(name, self.wanted[name][0])
        return self.store.read(staged if staged in self.waiting else name)

    def settle(self, before: Record) -> None:
        """Put what waits in its place, and take away what the tree does without."""
        self.writer.check()
        record = Record(dict(sorted(self.wanted.items())))
        places = {name: staged_name(name, key) for name, (key, _, _) in self.wanted.items()}
        moves = {name: at for name, at in places.items() if at in self.waiting}
        # Not those that the record before names alone: a run that died here has written the next one already.
        strays = [name for name in self.sizes if layout.is_tree(name) and name not in self.wanted]
        if moves or strays or record != before:
            self.writer.write(RECORD, record.encode())
            if INFO in self.sizes and INFO not in moves:  # it stays as it is, and must not stand meanwhile
                held = staged_name(INFO, self.wanted[INFO][0])
                self.store.move(INFO, held)
                moves[INFO] = held
            else:
                self.store.remove(INFO)
            waiting = [(at, name) for name, at in moves.items() if name != INFO]
            for some in range(0, len(waiting), _AT_ONCE):
                self.writer.check()
                self.store.move_all(dict(waiting[some : some + _AT_ONCE]))
            self.store.remove_all(strays)
            if INFO in moves:
                self.store.move(moves[INFO], INFO)
        self.store.remove_all(self.store.files(STAGED))


def _first_shown(output: Output, column: str, found: Survey, spec: TreeSpec) -> Shown:
    """The first image of a column of encoded images, or of references to frames."""
    for episode, table in read_episodes(output, found.episodes, [column]):
        where = f"{episode.id}: {column}"
        for row in table.column(0):
            held = row.as_py() or {}
            if held.get("bytes") is not None:
                frame = decoded(held["bytes"], where)
                return Shown(frame.height, frame.width)
            if held.get("pts") is not None:
                with refused(where):
                    video = Footage(episode.videos, spec.storage_options).video(held["path"])
                return Shown(video.height, video.width, video.codec, video.pixels)
    raise OutputError(f"{column}: holds no image in any episode; leave it out")
