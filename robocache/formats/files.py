"""Which files a URI leads to: single files, globs, folders, LeRobot datasets, on any fsspec file system."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from glob import escape as glob_escape
from glob import has_magic
from hashlib import sha256
from typing import Any, NamedTuple

import fsspec
from fsspec.core import split_protocol
from fsspec.implementations.local import LocalFileSystem

from robocache.errors import InputError
from robocache.formats.base import InputSpec, Reader
from robocache.formats.registry import READERS
from robocache.formats.stamps import full_uri, look
from robocache.formats.wrapped import inner_name
from robocache.storage import OUTPUT_META, answer, as_oserror, open_storage, unanswered
from robocache.types import FileStamp, PassedOver


@dataclass(frozen=True, slots=True)
class Found:
    """One file, or one dataset folder, that a URI led to.

    format:  reader that its name asks for; empty where none does
    files:   the file; of a dataset its marker (see :class:`robocache.formats.base.Reader`), then its other files
    path:    the first of them as ``fs`` has it
    failure: why it cannot be read, as far as its name and place tell
    whole:   the folder of the recording that it is a piece of
    unsure:  its name alone does not claim it: it counts if it begins like a recording, else it is passed over
    """

    format: str
    files: tuple[FileStamp, ...]
    fs: fsspec.AbstractFileSystem
    path: str
    failure: str = ""
    whole: str = ""
    unsure: bool = False

    @property
    def uri(self) -> str:
        """The file, or the dataset's folder."""
        return self.files[0].uri.removesuffix(f"/{self.marker}")

    @property
    def marker(self) -> str:
        """Of its format; empty where this is a file."""
        return READERS[self.format].marker if self.format else ""


#: How names say which of several files one is: ``x.tfrecord-00000-of-00002``.
_PIECE = re.compile(r"-\d+-of-\d+$")
#: What recordings of known kinds are called that no reader takes.
_KNOWN = (
    ((".mp4", ".m4v", ".mkv", ".mov", ".webm"), "a video", "name it, as videos/*.mp4, or set input.format: video"),
    ((".avi",), "a video that does not say when its frames are shown", "convert it to MP4, as with `ffmpeg -c copy`"),
    ((".laz",), "a compressed point cloud", "decompress it to LAS, as with laszip"),
    ((".ply",), "a point cloud", "convert it to PCD"),
    ((".svo", ".svo2"), "a ZED recording", "export its streams"),
    ((".urdf", ".xacro"), "a robot's description", "name it in forward_kinematics.urdf"),
    ((".txt",), "a text file", "if it is a table, name it, as poses/*.txt, or set input.format: csv"),
    ((".log", ".nmea"), "a text log, as of a GPS receiver", "convert it to CSV"),
    (("/features.json", "/dataset_info.json"), "a description of RLDS records", "it is read with them"),
)


def pass_over(stamp: FileStamp) -> PassedOver:
    """A file as one that no reader takes."""
    name = inner_name(stamp.uri.lower())
    found = next(((what, how) for suffixes, what, how in _KNOWN if name.endswith(suffixes)), ("", ""))
    return PassedOver(stamp.uri, max(stamp.size, 0), *found)


def _asked(format: str) -> list[Reader]:
    return list(READERS.values()) if format == "auto" else [READERS[format]]


def known_suffixes(format: str) -> str:
    """What a listing takes, for messages."""
    readers = _asked(format)
    suffixes = [suffix for reader in readers for suffix in reader.suffixes]
    return ", ".join([*suffixes, *(f"folders with {reader.marker}" for reader in readers if reader.marker)])


def absent(uri: str) -> str:
    """That a local path is not there, and what may be meant by it; empty where it is there, or is none."""
    protocol, path = split_protocol(uri)
    path = os.path.expanduser(path)
    if protocol not in (None, "file", "local") or os.path.exists(path) or has_magic(path):
        return ""
    folder = os.path.dirname(path.rstrip("/"))
    while folder and not os.path.isdir(folder):
        path, folder = folder, os.path.dirname(folder)
    name = os.path.basename(path.rstrip("/"))
    close = get_close_matches(name, os.listdir(folder or "."), n=1)
    return "no such file or folder" + (f"; did you mean {os.path.join(folder, close[0])!r}?" if close else "")


class Expanded(NamedTuple):
    """What a URI leads to: ``base`` is the folder that its episodes' ids are relative to."""

    base: str
    found: list[Found]
    passed: list[PassedOver]


def expand(uri: str, spec: InputSpec) -> Expanded:
    """What a URI leads to.

    A folder gives what a reader claims by suffix, hidden files left out; a file or a glob's match counts as it is.
    ``InputError`` for an unknown protocol and where an object store refuses; ``OSError`` where the storage fails.
    """
    try:
        fs, path = open_storage(uri, spec.storage_options)
    except (ValueError, ImportError) as error:  # no such protocol, or its package is missing
        raise InputError(f"input.uri: {uri!r}: {error}") from error
    try:
        with as_oserror(uri):
            return _expand(fs, path, spec)
    except PermissionError as error:
        raise InputError(f"input.uri: {uri!r}: {error}; check input.storage_options and what they permit") from error


def _expand(fs: fsspec.AbstractFileSystem, path: str, spec: InputSpec) -> Expanded:
    here = full_uri(fs, path)
    try:
        info = fs.info(path)
    except FileNotFoundError as error:
        if unanswered(error):
            raise
        return _expand_glob(fs, path, spec) if has_magic(path) else Expanded(here, [], [])
    except PermissionError as error:
        if answer(error):  # of an object store: more likely the credentials than the one object
            raise
        return Expanded(here.rpartition("/")[0], [_unreadable(fs, path)], [])
    if info["type"] == "directory":
        return Expanded(here, *_search(fs, path, spec))
    return Expanded(here.rpartition("/")[0], [_named(fs, path, info, spec)], [])


def _expand_glob(fs: fsspec.AbstractFileSystem, path: str, spec: InputSpec) -> Expanded:
    errors: list[OSError] = []
    found: list[Found] = []
    passed: list[PassedOver] = []
    asked, path = path, _literal(fs, path)
    for match, info in sorted(fs.glob(path, detail=True, **_catch(fs, errors)).items()):
        folder = info["type"] == "directory" or (isinstance(fs, LocalFileSystem) and os.path.isdir(match))  # a link
        inside, beside = _search(fs, match, spec) if folder else ([_named(fs, match, info, spec)], [])
        found += inside
        passed += beside
    written = full_uri(fs, asked).split("/")[:-1]
    folders = full_uri(fs, path).split("/")[:-1]
    fixed = next((i for i, name in enumerate(folders) if has_magic(name) and name == written[i]), len(folders))
    folders = written
    return Expanded("/".join(folders[:fixed]), found + _unlisted(fs, errors), passed)


def _literal(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """A glob with those of its folders escaped that are there as they are written: ``run[1]`` is a folder's name."""
    done: list[str] = []
    plain: list[str] = []
    for name in path.split("/"):
        plain.append(name)
        if has_magic(name) and fs.isdir("/".join(plain)):
            name = glob_escape(name)
        elif has_magic(name):
            return "/".join([*done, *path.split("/")[len(done) :]])
        done.append(name)
    return "/".join(done)


def _search(fs: fsspec.AbstractFileSystem, root: str, spec: InputSpec) -> tuple[list[Found], list[PassedOver]]:
    """The recordings below a folder, datasets as a whole, then single files; and the files passed over."""
    errors: list[OSError] = []
    root = root.rstrip("/")
    files = dict(_walk_local(root, errors) if isinstance(fs, LocalFileSystem) else _walk(fs, root, errors))
    found = _unlisted(fs, errors)
    passed: list[PassedOver] = []
    datasets: dict[str, str] = {}
    for reader in (reader for reader in _asked(spec.format) if reader.marker):
        for marker in sorted((path for path in files if path.endswith(f"/{reader.marker}")), key=len):
            folder = marker.removesuffix(f"/{reader.marker}")
            if folder in datasets or _inside(folder, datasets):
                continue
            datasets[folder] = marker
            below = tuple(f"{folder}/{part}/" for part in reader.parts)
            others = sorted(path for path in files if path.startswith(below) and path != marker)
            stamps = tuple(look(fs, path, files[path]).stamp for path in [marker, *others])
            found.append(Found(reader.name, stamps, fs, marker))
    outputs = _outputs(files, root)
    passed += [PassedOver(full_uri(fs, folder), 0, "an output of RoboCache", "") for folder in outputs]
    for folder, (format, stamp) in _folders(fs, root, files, spec).items():
        datasets[folder] = folder
        found.append(Found(format, (stamp,), fs, folder))
    for path, details in files.items():
        format = _by_suffix(path, asked="" if spec.format == "auto" else spec.format)
        if _inside(path, datasets) or _inside(path, outputs):
            continue
        stamp, special = look(fs, path, details)
        if special:
            passed.append(PassedOver(stamp.uri, 0, special, ""))
        elif format and spec.format in ("auto", format):
            unsure = not _claimed(path).endswith(READERS[format].suffixes)
            found.append(Found(format, (stamp,), fs, path, unsure=unsure))
        else:
            passed.append(pass_over(stamp))
    return found, passed


def _folders(
    fs: fsspec.AbstractFileSystem, root: str, files: Mapping[str, Any], spec: InputSpec
) -> dict[str, tuple[str, FileStamp]]:
    """Folders that are recordings by their names, at ``root`` or below it: their formats, and what tells their version,
    by that of all files in them."""
    endings = {reader.folder: reader.name for reader in _asked(spec.format) if reader.folder}
    if not endings:
        return {}
    inside: dict[str, list[str]] = {}
    for path in files:
        around = [folder for folder in _parents(path) if folder.endswith(tuple(endings)) and len(folder) >= len(root)]
        if around:
            inside.setdefault(around[-1], []).append(path)
    found = {}
    for folder, paths in inside.items():
        stamps = [look(fs, path, files[path]).stamp for path in sorted(paths)]
        told = "\n".join(f"{stamp.uri} {stamp.size} {stamp.version}" for stamp in stamps)
        stamp = FileStamp(full_uri(fs, folder), sum(max(s.size, 0) for s in stamps), sha256(told.encode()).hexdigest())
        found[folder] = (next(name for ending, name in endings.items() if folder.endswith(ending)), stamp)
    return found


def _outputs(files: Mapping[str, Any], root: str) -> dict[str, str]:
    """Folders below ``root`` that a run has written, by a file of each. Its own output is no input of a run, though it
    be inside or a link leads there; who names one as the input means it."""
    inside = f"/{OUTPUT_META}/"
    found = {path[: path.index(inside, len(root))]: path for path in files if inside in path[len(root) :]}
    return {folder: path for folder, path in found.items() if folder != root}


def _inside(path: str, folders: Mapping[str, str]) -> bool:
    return any(parent in folders for parent in _parents(path))


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _walk(fs: fsspec.AbstractFileSystem, root: str, errors: list[OSError]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        files = fs.find(root, detail=True, **_catch(fs, errors))
    except PermissionError as error:
        if answer(error):
            raise
        errors.append(error)
        return
    for path, info in files.items():
        if not any(part.startswith(".") for part in path[len(root) :].split("/")):
            yield path, info


def _walk_local(root: str, errors: list[OSError]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """As :func:`_walk`, and through links to folders, which fsspec passes over; each folder once."""
    seen = set()
    for folder, folders, names in os.walk(root or "/", followlinks=True, onerror=errors.append):
        real = os.path.realpath(folder)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if real not in seen else []
        if real not in seen:
            yield from ((f"{folder.rstrip('/')}/{name}", {}) for name in sorted(names) if not name.startswith("."))
        seen.add(real)


def _catch(fs: fsspec.AbstractFileSystem, errors: list[OSError]) -> dict[str, Any]:
    """Keeps a file system that walks folder by folder from passing over, in silence, one that it cannot list."""
    return {} if fs.async_impl else {"on_error": errors.append}


def _unlisted(fs: fsspec.AbstractFileSystem, errors: Sequence[OSError]) -> list[Found]:
    """Folders that may not be listed count as failures; any other error is the storage's and is raised."""
    found = []
    for error in errors:
        if isinstance(error, PermissionError):
            found.append(_unreadable(fs, str(error.filename or "?")))
        elif not isinstance(error, FileNotFoundError):  # a glob's fixed part need not exist
            raise error
    return found


def _unreadable(fs: fsspec.AbstractFileSystem, path: str) -> Found:
    uri = full_uri(fs, path)
    return Found("", (FileStamp(uri, 0, ""),), fs, path, f"{uri}: permission denied")


def _named(fs: fsspec.AbstractFileSystem, path: str, info: Mapping[str, Any], spec: InputSpec) -> Found:
    """A file asked for by name or glob: it counts even where no reader claims it."""
    format = _by_suffix(path, asked="auto") if spec.format == "auto" else spec.format
    (stamp, special), failure = look(fs, path, info), ""
    if special:
        format, failure = "", f"{stamp.uri}: is {special}, not a file"
    elif not format:
        known = pass_over(stamp)
        failure = f"{stamp.uri}: unrecognised format; known are {known_suffixes('auto')}, else set input.format"
        if known.what:
            remedy = f"; {known.remedy}" if known.remedy else ""
            failure = f"{stamp.uri}: is {known.what}, which no reader takes{remedy}"
    elif marker := READERS[format].marker:
        format, failure = "", f"{stamp.uri}: a {format} dataset is a folder with {marker}, this is a file"
    return Found(format, (stamp,), fs, path, failure)


def _claimed(path: str) -> str:
    """A file's name as far as it says what the file is: without a wrapper's suffix, and which piece of a set it is."""
    return _PIECE.sub("", inner_name(path.lower()))


def _by_suffix(path: str, *, asked: str) -> str:
    """The format that a file's name claims; of names that mean nothing by themselves, where it is ``asked`` for."""
    name = _claimed(path)
    for reader in READERS.values():
        if name.endswith(reader.suffixes) or (asked in ("auto", reader.name) and name.endswith(reader.asked)):
            return reader.name
    return ""
