"""From URIs to episode references: what format each file is, which files belong together, which episodes they hold.

A bad file never stops a listing: it becomes a reference that carries its failure, so that it is counted and not lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import takewhile
from posixpath import relpath
from typing import TypeAlias

import yaml
from fsspec.implementations.local import LocalFileSystem

from robocache.errors import InputError, UnexpectedError
from robocache.formats.base import InputSpec, natural_key, open_file, open_stored, shown
from robocache.formats.compression import unpacking
from robocache.formats.files import Found, absent, expand, known_suffixes, pass_over
from robocache.formats.guard import guarded
from robocache.formats.registry import READERS, UNAVAILABLE
from robocache.formats.wrapped import first_bytes, inner_name, wrapper_of
from robocache.threads import mapped
from robocache.types import EpisodeRef, FileStamp, PassedOver

#: Known only to say what a misnamed file is.
_FOREIGN = {
    "gzip": b"\x1f\x8b",
    "zstd": b"\x28\xb5\x2f\xfd",
    "a Git LFS pointer instead of the file": b"version https://git-lfs",
}
#: Bytes of a file's beginning that tell text, and a table, from other files; that hold any magic.
_TEXT, _LEAST = 4096, 64
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, which not every build of PyYAML has
_DEEPEST = 32  # levels of a metadata.yaml; there are six
_THREADS = 16  # listing waits for storage, not for the processor


#: Makes a call of a reader, which can be pickled, given what it is for: ``listing run_7.h5``.
Ask: TypeAlias = Callable[[str, Callable[[], list[EpisodeRef]]], list[EpisodeRef]]


@dataclass(frozen=True, slots=True)
class _Group:
    """Files that one call of a reader lists; ``tables`` as in :class:`EpisodeRef`."""

    id: str
    format: str
    files: tuple[FileStamp, ...]
    tables: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What an input holds: its episodes in natural order of their ids, the files that no reader takes, and what the ids
    are relative to.
    """

    episodes: list[EpisodeRef]
    passed_over: list[PassedOver]
    root: str = ""


def list_episodes(spec: InputSpec) -> list[EpisodeRef]:
    """The episodes of :func:`list_input`."""
    return list_input(spec).episodes


def list_input(
    spec: InputSpec,
    root: str | None = None,
    known: Collection[str] = (),
    *,
    ask: Ask | None = None,
    sized: Callable[[int], None] = lambda nbytes: None,
) -> Listing:
    """Every episode below ``spec.uri``, in natural order of their ids, each once; and what was passed over.

    A URI is a file, a glob, or a folder (searched recursively, hidden files left out). A folder with a reader's
    marker (``meta/info.json``) is one dataset. A file asked for by name or glob that no reader knows, or any file
    that is damaged, misnamed or unreadable, is listed with its failure; files of unknown suffix below a folder are
    passed over, and said to be. Ids are relative to the folder that all URIs have in common, or to what they were
    relative to before (``root``), as long as more of them are then ``known``. Pieces of one recording, as ``episode``
    or a rosbag2 metadata.yaml beside them says, are one episode. ``ask`` makes
    the calls of readers; an ``UnexpectedError`` of it is the failure of that file. ``sized`` is told how many bytes
    there are, before any file is opened. Raises :class:`InputError` where a
    URI matches nothing or ``format`` or ``episode`` cannot be, and ``OSError`` where the storage fails.
    """
    if spec.format not in ("auto", *READERS):
        raise InputError(f"input.format: {spec.format!r} is unknown; auto or one of {', '.join(READERS)} is right")
    pattern = _pattern(spec.episode)
    bases: list[str] = []
    passed: list[PassedOver] = []
    found: dict[str, Found] = {}
    for uri in spec.uri:
        base, items, beside = expand(uri, spec)
        passed += beside
        if not items:
            if gone := absent(uri):
                raise InputError(f"input.uri: nothing at {uri!r}: {gone}")
            held = f" ({describe_passed(beside)})" if beside else ""
            suffixes = known_suffixes(spec.format)
            raise InputError(f"input.uri: nothing at {uri!r} is a recording{held}; known are {suffixes}")
        bases.append(base)
        found |= {item.uri: item for item in items}
    if spec.times is not None and spec.times.file:  # a table of the times of files is no recording
        found = {uri: item for uri, item in found.items() if uri.rpartition("/")[2] != spec.times.file}
    sized(sum(file.size for item in found.values() for file in item.files))
    datasets = tuple(f"{uri}/" for uri, item in found.items() if item.marker)
    items, strays = _verify([item for uri, item in found.items() if not uri.startswith(datasets)], spec)
    passed += strays
    taken = {file.uri for item in items for file in item.files}
    passed = [file for file in dict.fromkeys(passed) if file.uri not in taken]
    items, passed = _split_recordings(items, passed)
    root, groups = _rooted(items, _common_folder(bases), root, known, spec, pattern)

    def listed_by(group: _Group) -> list[EpisodeRef]:
        call = partial(_episodes, group, spec)
        try:
            return call() if ask is None else ask(f"listing {group.id}", call)
        except UnexpectedError as error:
            return [replace(_unlisted(group, str(error)), retry=True)]

    refs = [ref for listed in mapped(listed_by, groups, _THREADS) for ref in listed]
    return Listing(sorted(_selected(refs, spec.select), key=lambda ref: natural_key(ref.id)), passed, root)


def _selected(refs: Sequence[EpisodeRef], select: Sequence[str]) -> list[EpisodeRef]:
    """Those that ``input.select`` asks for by ids or globs on them, where a reader has not chosen within its file."""

    def within(ref: EpisodeRef) -> bool:
        return bool(ref.format and READERS[ref.format].selects and (ref.key or ref.failure))

    whole = [ref for ref in refs if not within(ref)]
    if not select or not whole:
        return list(refs)
    hits = {item: {ref.id for ref in whole if fnmatchcase(ref.id, item)} for item in select}
    if len(whole) == len(refs) and (unknown := [item for item, ids in hits.items() if not ids]):
        ids = sorted((ref.id for ref in whole), key=natural_key)
        raise InputError(f"input.select: no episode {unknown[0]!r}; the episodes are {shown(ids, 8)}")
    out = {ref.id for ref in whole}.difference(*hits.values())
    return [ref for ref in refs if ref.id not in out]


def describe_passed(files: Sequence[PassedOver]) -> str:
    """Files passed over for a message: how many of what, and an example of each."""
    kinds: dict[str, list[PassedOver]] = {}
    for file in files:
        kinds.setdefault(file.what, []).append(file)
    parts = []
    for what, some in sorted(kinds.items(), key=lambda item: (not item[0], item[0])):
        name, remedy = some[0].uri.rpartition("/")[2], some[0].remedy
        count = f"{len(some)} file{'s' if len(some) != 1 else ''} passed over"
        parts.append(f"{count}: {what or 'of no known kind'}, as {name}{f'; {remedy}' if remedy else ''}")
    return "; ".join(parts)


def _split_recordings(items: Sequence[Found], passed: Sequence[PassedOver]) -> tuple[list[Found], list[PassedOver]]:
    """The same, with the folder as ``whole`` of the files that a rosbag2 metadata.yaml beside them names as one; it is
    passed over no longer."""
    folders = {file.uri.rpartition("/")[0] for file in passed if file.uri.endswith("/metadata.yaml")}
    members: dict[str, list[Found]] = {}
    for item in items:
        folder = item.files[0].uri.rpartition("/")[0]
        if folder in folders and item.format and READERS[item.format].splits:
            members.setdefault(folder, []).append(item)
    whole: dict[str, Found] = {}
    known: set[str] = set()
    for folder, some in members.items():
        fs, path = some[0].fs, f"{some[0].path.rpartition('/')[0]}/metadata.yaml"
        if (names := _named_files(fs.cat_file(path))) is None:
            continue
        known.add(f"{folder}/metadata.yaml")
        by_name = {inner_name(item.files[0].uri.rpartition("/")[2]): item for item in some}
        lost = [name for name in names if inner_name(name) not in by_name]
        failure = f"{folder}/metadata.yaml: names {lost[0]}, which is not there or cannot be read" if lost else ""
        for name in map(inner_name, names):
            if name in by_name and len(names) > 1:
                item = by_name[name]
                whole[item.uri] = replace(item, whole=folder, failure=item.failure or failure)
    return [whole.get(item.uri, item) for item in items], [file for file in passed if file.uri not in known]


def _named_files(text: bytes) -> list[str] | None:
    """The files that rosbag2's metadata.yaml names; None: it is another file of that name."""
    depth = 0
    try:
        for event in yaml.parse(text, _YAML):  # loading goes as deep as the text does, on the stack
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                return None
        told = yaml.load(text, _YAML)["rosbag2_bagfile_information"]["relative_file_paths"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return None
    if not isinstance(told, list) or not all(isinstance(name, str) for name in told):
        return None
    return [name.rpartition("/")[2] for name in told]


def _pattern(episode: str) -> re.Pattern[str] | None:
    if episode in ("file", "folder"):
        return None
    try:
        pattern = re.compile(episode)
    except re.error as error:
        raise InputError(f"input.episode: {episode!r} is no regular expression: {error}") from error
    if "episode" not in pattern.groupindex:
        raise InputError(f"input.episode: {episode!r} lacks a group (?P<episode>...); or use 'file' or 'folder'")
    return pattern


def _verify(items: Sequence[Found], spec: InputSpec) -> tuple[list[Found], list[PassedOver]]:
    """The same, with a failure where the first bytes are not of the format, one batch of reads a file system; and
    apart from them the unsure ones that are no recordings."""
    heads: dict[str, bytes | Exception] = {}
    for fs in {id(item.fs): item.fs for item in items}.values():
        some = [i for i in items if i.fs is fs and not i.failure and i.files[0].size and not _is_folder(i)]
        alone = [item for item in some if isinstance(fs, LocalFileSystem) or wrapper_of(item.uri)]
        heads |= {item.uri: _read_head(item, spec) for item in alone}
        mine = [item for item in some if item.uri not in heads]
        paths = [item.path for item in mine]
        read = fs.cat_ranges(paths, [0] * len(paths), [*map(_head, mine)], on_error="return") if paths else []
        heads |= {item.uri: head for item, head in zip(mine, read, strict=True)}
    found, passed = [], []
    for item in items:
        head = heads.get(item.uri, b"")
        if item.unsure and isinstance(head, bytes) and not READERS[item.format].holds(head, spec):
            passed.append(pass_over(item.files[0]))
        else:
            checked = item.failure or ("" if _is_folder(item) else _check(item, head, spec))
            found.append(replace(item, failure=checked))
    return found, passed


def _is_folder(item: Found) -> bool:
    """Whether it is a folder that is a recording as a whole."""
    reader = READERS.get(item.format)
    return bool(reader is not None and reader.folder and item.uri.endswith(reader.folder))


def _read_head(item: Found, spec: InputSpec) -> bytes | Exception:
    """What a local file, or the file inside a packed one, begins with, or why it cannot be had."""
    try:
        if (wrapper := wrapper_of(item.uri)) is None:
            with open_file(item.files[0], spec) as file:
                return file.read(_head(item))
        with open_stored(item.files[0], spec) as file:
            return first_bytes(file, wrapper, _head(item), item.uri)
    except Exception as error:
        return error


def _head(item: Found) -> int:
    """Bytes of a file's beginning that tell its format, and what else it may be."""
    reader = READERS[item.format]
    if not reader.magic or reader.marker or item.unsure:
        return _TEXT
    return max(_LEAST, reader.offsets[-1] + len(reader.magic))


def _check(item: Found, head: bytes | Exception, spec: InputSpec) -> str:
    """Why a file is not what its name says; empty where it is. ``OSError`` where the storage failed."""
    uri = item.files[0].uri
    if isinstance(head, Exception):
        try:
            with guarded(item.files, format=item.format), unpacking(spec.max_unpacked):
                raise head
        except InputError as error:
            return str(error)
    if not head:
        return f"{uri}: empty file"
    reader = READERS[item.format]
    magic = b"" if reader.marker else reader.magic
    known = {name: other.magic for name, other in READERS.items() if other.magic} | _FOREIGN
    looks = next((name for name, other in known.items() if head.startswith(other)), "")
    if reader.begins(head, spec) and (magic or not looks):
        return ""
    meaning = f", which is {looks}" if looks else ""
    return f"{uri}: not {item.format}: begins with {head[:8]!r}{meaning}; {repr(magic) if magic else 'text'} is right"


def _group(items: Sequence[Found], root: str, episode: str, pattern: re.Pattern[str] | None) -> list[_Group]:
    """Files to groups: tables and pieces as ``input.episode`` says, pieces of a whole in any case, others alone."""
    groups: dict[tuple[str, str], list[tuple[str, Found]]] = {}  # (id, what it stands for) -> [(table, file)]
    for item in sorted(items, key=lambda item: natural_key(item.uri)):
        path, table = _below(root, item.uri), ""
        key = (path, item.uri)
        reader = READERS[item.format] if item.format else None
        folder, _, name = item.uri.rpartition("/")
        if reader is not None and (reader.members or reader.splits) and episode != "file":
            stem = name.rpartition(".")[0] or name
            match = pattern.fullmatch(path) if pattern else None
            if match:
                key, stem = (match["episode"] or "", ""), match.groupdict().get("table") or stem
            elif pattern:
                item = replace(item, failure=f"{item.uri}: {path!r} does not match input.episode")
            else:
                key = (_below(root, folder), folder)
            table = stem if reader.members else ""
        elif item.whole:
            key = (_below(root, item.whole), item.whole)
        groups.setdefault(key, []).append((table, item))
    merged: dict[str, _Group] = {}
    for (id, _), members in groups.items():
        id = id.encode("utf-8", "backslashreplace").decode()  # file names need not be text, ids do
        while id in merged:  # a folder beside a file or a match of the same name
            id = f"./{id}"
        merged[id] = _merge(id, members)
    return list(merged.values())


def _merge(id: str, members: Sequence[tuple[str, Found]]) -> _Group:
    tables = tuple(table for table, _ in members if table)
    formats = sorted({item.format for _, item in members})
    failure = next((item.failure for _, item in members if item.failure), "")
    twice = sorted({table for table in tables if tables.count(table) > 1})
    if not failure and len(formats) > 1:
        failure = f"{members[0][1].uri}: one episode cannot mix {' and '.join(formats)}"
    elif not failure and twice:
        failure = f"{members[0][1].uri}: several files of the episode are the table {twice[0]!r}; see input.episode"
    files = tuple(file for _, item in members for file in item.files)
    return _Group(id, formats[0], files, tables, failure)


def _episodes(group: _Group, spec: InputSpec) -> list[EpisodeRef]:
    failure = group.failure or UNAVAILABLE.get(group.format, "")
    if not failure:
        try:
            with guarded(group.files, format=group.format), unpacking(spec.max_unpacked):
                refs = READERS[group.format].episodes(group.id, group.files, spec)
            if refs:
                return [replace(ref, tables=group.tables) for ref in refs]
            failure = f"{group.files[0].uri}: holds no episode"
        except InputError as error:
            failure = str(error)
    return [_unlisted(group, failure)]


def _unlisted(group: _Group, failure: str) -> EpisodeRef:
    nbytes = sum(max(file.size, 0) for file in group.files)
    return EpisodeRef(group.id, group.format, group.files, nbytes=nbytes, failure=failure)


def _common_folder(folders: Sequence[str]) -> str:
    levels = zip(*(folder.split("/") for folder in folders), strict=False)
    return "/".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels))


def _rooted(
    items: Sequence[Found],
    common: str,
    before: str | None,
    known: Collection[str],
    spec: InputSpec,
    pattern: re.Pattern[str] | None,
) -> tuple[str, list[_Group]]:
    """What ids are relative to, and the groups under these ids. Where it is not the folder that it was ``before``, that
    has moved, or more or less of it is listed now: of what it may be then the one under which most ids are ``known``.
    """
    roots = [common]
    if before is not None and before != common:
        names = before.split("/")
        roots = [before, common] if _nested(before, common) else [common]
        roots += [f"{common}/{'/'.join(names[-k:])}" for k in (1, 2)]  # ids with .. tell what it was called
    if len(roots) == 1:
        return common, _group(items, common, spec.episode, pattern)
    familiar = {id[: cut.start()] for id in known for cut in re.finditer("[#@]|$", id)}
    tried = [(root, _group(items, root, spec.episode, pattern)) for root in roots]
    return max(tried, key=lambda one: sum(group.id in familiar for group in one[1]))


def _nested(one: str, other: str) -> bool:
    """Whether one of two folders is in the other. All local ones are in the empty one, whose name is that of ``/``."""
    inner, outer = sorted((one, other), key=len, reverse=True)
    return inner != outer and inner.startswith(f"{outer}/")


def _below(root: str, uri: str) -> str:
    """The path below the input root, with ``..`` for what is not below it; the root's own name for the root itself."""
    if uri == root:
        return uri.rpartition("/")[2]
    if not uri.startswith(f"{root}/"):
        return relpath(uri, root) if root else uri
    return uri.removeprefix(root).lstrip("/")
