"""The readers by name, and the one door through which they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, TypeVar

from robocache.errors import InputError
from robocache.formats.arrow_files import ArrowReader
from robocache.formats.base import InputSpec, Reader, parse_source
from robocache.formats.clouds import LasReader, PcdReader
from robocache.formats.compression import unpacking
from robocache.formats.csv_tables import CsvReader
from robocache.formats.guard import guarded
from robocache.formats.hdf5 import Hdf5Reader
from robocache.formats.lerobot import LeRobotReader
from robocache.formats.mcap import McapReader
from robocache.formats.metadata import metadata_sources, metadata_streams
from robocache.formats.numpy_files import NumpyReader
from robocache.formats.rlds import RldsReader
from robocache.formats.rosbag1 import Rosbag1Reader
from robocache.formats.rosbag2 import Rosbag2Reader
from robocache.formats.segments import cut, prefixed
from robocache.formats.tables import ParquetReader
from robocache.formats.ulog import UlogReader
from robocache.formats.videos import VideoReader
from robocache.formats.zarr_store import ZarrReader
from robocache.types import Episode, EpisodeRef, Source, Stream, StreamInfo, StreamType

Found = TypeVar("Found", Stream, StreamType)

#: Every format by name; closed, so that a config cannot name code.
READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        McapReader(),
        Rosbag1Reader(),
        Rosbag2Reader(),
        UlogReader(),
        Hdf5Reader(),
        ZarrReader(),
        NumpyReader(),
        RldsReader(),
        CsvReader(),
        ParquetReader(),
        ArrowReader(),
        LeRobotReader(),
        PcdReader(),
        LasReader(),
        VideoReader(),
    )
}
#: Formats that cannot be read here, and what would change that.
UNAVAILABLE: dict[str, str] = {
    name: f"reading {name} needs {reader.package}: pip install 'robocache[{name}]'"
    for name, reader in READERS.items()
    if reader.package and not find_spec(reader.package)
}


def list_streams(ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
    """Every stream of an episode, for people to read. Errors as :func:`guarded` has them."""
    with guarded(ref.files, _name(ref), ref.format), unpacking(spec.max_unpacked):
        return _reader(ref).streams(ref, spec)


def describe_episode(
    ref: EpisodeRef, sources: Sequence[str | Source], spec: InputSpec, *, look: bool = False
) -> dict[str, StreamType]:
    """The types of sources, by :attr:`Source.key`, from the recording's schemas; one that it lacks is absent.

    look: where a schema leaves a width open (:attr:`StreamType.open`), read one sample to settle it, and the names of
          its columns where samples carry them. Without, nothing of the data is read.

    ``MissingError`` where a source has no such field, naming those there are; errors as :func:`guarded` has them.
    """
    with guarded(ref.files, _name(ref), ref.format), unpacking(spec.max_unpacked):
        asked = _sources(sources)
        found = _of_robot(ref, asked, lambda some: _reader(ref).describe(ref, some, spec, look=look))
        if told := metadata_sources(asked, found):
            metadata = _known(ref, _reader(ref).read(ref, [], spec).metadata)
            found |= {key: stream.type for key, stream in metadata_streams(told, metadata, 0).items()}
        return {source.key: found[source.key] for source in asked if source.key in found}


def read_episode(ref: EpisodeRef, sources: Sequence[str | Source], spec: InputSpec) -> Episode:
    """Read the named sources of an episode and no others, by :attr:`Source.key`; one that it lacks is absent.

    Errors as :func:`guarded` has them.
    """
    with guarded(ref.files, _name(ref), ref.format), unpacking(spec.max_unpacked):
        asked = _sources(sources)
        episode = _read(ref, asked, spec)
        if told := metadata_sources(asked, episode.streams):
            start = min((int(s.times.min()) for s in episode.streams.values() if len(s.times)), default=0)
            streams = {**episode.streams, **metadata_streams(told, episode.metadata, start)}
            episode = replace(episode, streams={s.key: streams[s.key] for s in asked if s.key in streams})
        return episode


def _read(ref: EpisodeRef, asked: Sequence[Source], spec: InputSpec) -> Episode:
    """What the reference is of its recording."""
    read: list[Episode] = []

    def streams(some: Sequence[Source]) -> dict[str, Stream]:
        read.append(_reader(ref).read(ref, some, spec))
        return dict(read[-1].streams)

    found = _of_robot(ref, asked, streams)
    notes = tuple(dict.fromkeys(note for episode in read for note in episode.notes))
    episode = Episode(ref.id, found, _known(ref, read[0].metadata), notes)
    return episode if ref.segment is None else cut(episode, ref.segment)


def _of_robot(
    ref: EpisodeRef, asked: Sequence[Source], ask: Callable[[Sequence[Source]], dict[str, Found]]
) -> dict[str, Found]:
    """What a reader answers for sources; for those of one robot of several behind its prefix, and what is not there as
    it is written: it is shared."""
    if not ref.prefix:
        return ask(asked)
    own = prefixed(ref, asked)
    answers = ask(own)
    found = {s.key: answers[mine.key] for s, mine in zip(asked, own, strict=True) if mine.key in answers}
    shared = [source for source in asked if source.key not in found]
    return found | (ask(shared) if shared else {})


def _known(ref: EpisodeRef, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The recording's metadata with what is known of the reference."""
    own = {} if ref.segment is None else dict(ref.segment.metadata)
    return {**metadata, **({"robot": ref.prefix} if ref.prefix else {}), **own}


def _name(ref: EpisodeRef) -> str:
    """Which episode of its file, without the rows that it has there."""
    return ref.key.partition(":")[0]


def _sources(sources: Sequence[str | Source]) -> list[Source]:
    found = [Source(source) if isinstance(source, str) else source for source in sources]
    for source in found:
        try:
            parse_source(source.path)
        except ValueError as error:
            raise InputError(str(error)) from None
    return found


def _reader(ref: EpisodeRef) -> Reader:
    if ref.failure:
        raise InputError(ref.failure)
    if ref.format in UNAVAILABLE:
        raise InputError(UNAVAILABLE[ref.format])
    return READERS[ref.format]
