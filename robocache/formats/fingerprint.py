"""``input.fingerprint: content``: what tells a changed episode where tools keep sizes and times, or rewrite files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.errors import InputError
from robocache.formats.base import InputSpec, open_stored
from robocache.formats.guard import guarded
from robocache.formats.registry import read_episode
from robocache.threads import mapped
from robocache.types import Episode, EpisodeRef, FileStamp, Source

_FILES, _EPISODES = 16, 4  # at a time; the second are held whole


def by_content(
    refs: Sequence[EpisodeRef], sources: Sequence[Source], spec: InputSpec, ask: Callable[[str, Callable], Any]
) -> list[EpisodeRef]:
    """The same, with a digest of what is asked of it as the content of each episode that shares its file with others,
    and the sha256 of each file of the others as its version. Reads all of them; ``OSError`` where the storage fails.

    ask: makes the calls of readers, which can be pickled; the first argument names what they do
    """

    def content(ref: EpisodeRef) -> str:
        try:
            return ask(f"reading {ref.id}", partial(_content, ref, sources, spec))
        except InputError:
            return ""

    held = [ref for ref in refs if ref.key and not ref.failure]
    contents = dict(zip(held, mapped(content, held, _EPISODES), strict=True))
    # Of an episode that cannot be read its file tells: its shard says what is wrong.
    files = list(dict.fromkeys(file for ref in refs if not contents.get(ref) for file in ref.files if file.size > 0))
    versions = dict(zip(files, mapped(lambda file: _sha256(file, spec), files, _FILES), strict=True))
    return [
        replace(ref, content=contents[ref])
        if contents.get(ref)
        else replace(ref, files=tuple(replace(f, version=versions.get(f, f.version)) for f in ref.files))
        for ref in refs
    ]


def _sha256(file: FileStamp, spec: InputSpec) -> str:
    found = hashlib.sha256()
    try:
        with guarded((file,)), open_stored(file, spec) as content:
            while block := content.read(1 << 20):
                found.update(block)
    except InputError:
        return file.version  # its shard says what is wrong
    return found.hexdigest()


def _content(ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec) -> str:
    return digest(read_episode(ref, sources, spec))


def digest(episode: Episode) -> str:
    """Of its streams and its metadata: the same for the same, however it was cut out of its file."""
    found = hashlib.sha256(json.dumps(episode.metadata, sort_keys=True, default=str).encode())
    for key, stream in sorted(episode.streams.items()):
        told = [key, str(stream.type.arrow), dict(stream.about), stream.notes, len(stream.times)]
        found.update(json.dumps(told, sort_keys=True, default=str).encode())
        for items in (stream.times, stream.values, stream.present, stream.log_times):
            if isinstance(items, np.ndarray):
                found.update(items.tobytes())
            elif items is not None:
                _update(found, items)
    return found.hexdigest()[:32]


def _update(found: Any, values: pa.Array) -> None:
    if pa.types.is_dictionary(values.type):  # of all that the file holds
        values = values.dictionary_decode()
    alone = values.take(pa.array(np.arange(len(values))))  # a slice has bits of its neighbours
    batch = pa.record_batch([alone], ["values"])
    with pa.ipc.new_stream(pa.PythonFile(_Hashing(found), mode="w"), batch.schema) as writer:
        writer.write_batch(batch)


class _Hashing:
    """A file that keeps nothing but the hash of what is written."""

    closed = False

    def __init__(self, found: Any):
        self._found = found

    def write(self, data: Any) -> int:
        self._found.update(data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
