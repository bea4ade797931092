"""The readers by name, and the one door through which they are called."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from robocache.errors import InputError
from robocache.formats.base import InputSpec, Reader, parse_source
from robocache.formats.guard import guarded
from robocache.formats.hdf5 import Hdf5Reader
from robocache.formats.lerobot import LeRobotReader
from robocache.formats.mcap import McapReader
from robocache.formats.tables import CsvReader, ParquetReader
from robocache.types import Episode, EpisodeRef, Source, StreamInfo, StreamType

#: Every format by name; closed, so that a config cannot name code.
READERS: dict[str, Reader] = {
    reader.name: reader for reader in (McapReader(), Hdf5Reader(), CsvReader(), ParquetReader(), LeRobotReader())
}
#: Formats that cannot be read here, and what would change that.
UNAVAILABLE: dict[str, str] = (
    {} if find_spec("h5py") else {"hdf5": "reading HDF5 needs h5py: pip install 'robocache[hdf5]'"}
)


def list_streams(ref: EpisodeRef, spec: InputSpec) -> list[StreamInfo]:
    """Describe every stream of an episode. Errors as :func:`guarded` has them."""
    with guarded(ref.files, ref.key, ref.format):
        return _reader(ref).streams(ref, spec)


def read_episode(ref: EpisodeRef, sources: Sequence[str], spec: InputSpec) -> Episode:
    """Read the named sources of an episode and no others; unknown ones are absent from ``Episode.streams``.

    Errors as :func:`guarded` has them.
    """
    with guarded(ref.files, ref.key, ref.format):
        sources = [s if isinstance(s, str) else s.path for s in sources]
        for source in sources:
            _check_source(source)
        return _reader(ref).read(ref, sources, spec)


def describe_episode(
    ref: EpisodeRef, sources: Sequence[Source], spec: InputSpec, *, look: bool
) -> dict[str, StreamType]:
    """PLACEHOLDER until the readers describe."""
    episode = read_episode(ref, sources, spec)
    return {k: s.type for k, s in episode.streams.items()}


def _check_source(source: str) -> None:
    try:
        parse_source(source)
    except ValueError as error:
        raise InputError(str(error)) from None


def _reader(ref: EpisodeRef) -> Reader:
    if ref.failure:
        raise InputError(ref.failure)
    if ref.format in UNAVAILABLE:
        raise InputError(UNAVAILABLE[ref.format])
    return READERS[ref.format]
