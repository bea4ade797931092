"""The plain data types that every part of RoboCache speaks: stream, episode, and references to them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa


def prepare_threads() -> None:
    """Call before starting threads that convert between numpy and Arrow.

    pyarrow imports pandas, where there is one, when it first converts an array. Threads that did so at the same time
    would meet a half-imported module. What starts no threads need not wait the half second that it takes.
    """
    pa.array(np.empty(0))


#: Values of a stream. Numbers and truth values of one shape are an array ``[n, *shape]``; everything else (text,
#: encoded images, messages whose arrays vary in length) is an Arrow array of ``n``.
Values: TypeAlias = "np.ndarray | pa.Array"


@dataclass(frozen=True, slots=True)
class Source:
    """A signal as a config asks for it, and what is settled about it for the whole dataset.

    path:  where it is in a recording (see :mod:`robocache.formats.base`), e.g. ``/joint_states.position[elbow]``
    stamp: its clock: ``header``, ``log``, ``publish`` or the path of a field of the same message; empty: that of
           ``input.stamp``
    names: its columns in the order that the dataset has settled, for a signal whose messages carry names; empty: as
           the messages have them
    """

    path: str
    stamp: str = ""
    names: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Tells it from every other signal of an episode: the path, and the clock where it has one of its own."""
        return f"{self.path} (stamp: {self.stamp})" if self.stamp else self.path


@dataclass(frozen=True, slots=True)
class StreamType:
    """What one sample of a stream is.

    arrow: its Arrow type: a number, a truth value, nested fixed-size lists of these, text, bytes, a list, a struct
    about: what the values are, where the recording says so; every key is optional and the values are JSON:
           ``names`` of the columns of the last axis, ``unit``, ``frame``; of an image ``encoding``, ``height``,
           ``width``; of a cloud ``fields``; ``kind``: ``quaternion``, ``pose``, ``image`` or ``cloud`` where the
           message type tells it
    """

    arrow: pa.DataType
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: the lengths of its nested fixed-size lists."""
        shape, kind = [], self.arrow
        while pa.types.is_fixed_size_list(kind):
            shape.append(kind.list_size)
            kind = kind.value_type
        return tuple(shape)

    @property
    def element(self) -> pa.DataType:
        """The type inside its nested fixed-size lists."""
        kind = self.arrow
        while pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
        return kind

    @property
    def numeric(self) -> bool:
        """Whether it is numbers (truth values are none) of one shape, which can be computed with."""
        return pa.types.is_integer(self.element) or pa.types.is_floating(self.element)

    @property
    def open(self) -> bool:
        """Whether only a sample tells what the schema leaves open: how long a list of numbers or truth values is, which
        fields a cloud has.
        """
        if self.about.get("kind") == "cloud" and pa.types.is_struct(self.arrow):
            return "fields" not in self.about
        kind, listed = self.arrow, False
        while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            listed = listed or not pa.types.is_fixed_size_list(kind)
            kind = kind.value_type
        return listed and (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))

    @property
    def width(self) -> int:
        """How many numbers a sample holds."""
        return int(np.prod(self.shape, dtype=np.int64))


def array_type(dtype: np.dtype, shape: Sequence[int] = ()) -> pa.DataType:
    """The Arrow type of one sample of an array ``[n, *shape]``."""
    kind = pa.from_numpy_dtype(dtype)
    for length in reversed(shape):
        kind = pa.list_(kind, length)
    return kind


def numpy_type(kind: pa.DataType) -> np.dtype:
    """The dtype of an Arrow type of numbers or truth values, the inverse of ``pyarrow.from_numpy_dtype``.

    Arrow's own way wants pandas to be there, up to pyarrow 25.
    """
    return _NUMPY_TYPES[kind]


def as_rows(values: np.ndarray) -> np.ndarray:
    """Samples ``[n, *shape]`` as ``[n, width]``. n may be 0: how wide those are NumPy does not work out from -1."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


_NUMPY_TYPES = {pa.from_numpy_dtype(np.dtype(code)): np.dtype(code) for code in "?bhilBHILefd"}


@dataclass(frozen=True, slots=True)
class Stream:
    """One signal of one episode, as recorded: possibly unsorted, with repeated stamps or non-finite values.

    times:     int64 nanoseconds ``[n]``
    values:    ``n`` samples, see :data:`Values`
    about:     see :class:`StreamType`
    present:   bool ``[n, width]``, False where a message lacks a column that its names would give; None: all are there
    log_times: int64 nanoseconds ``[n]``, when each sample arrived; None where the recording does not tell
    notes:     what had to be decided while it was read, a sentence each: a clock that was exchanged for another,
               samples that were not taken
    """

    times: np.ndarray
    values: Values
    about: Mapping[str, Any] = field(default_factory=dict)
    present: np.ndarray | None = None
    log_times: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.times.dtype != np.int64 or self.times.ndim != 1:
            raise ValueError(f"times must be int64 [n], got {self.times.dtype} {list(self.times.shape)}")
        if len(self.values) != len(self.times):
            raise ValueError(f"{len(self.times)} times for {len(self.values)} values")

    @property
    def type(self) -> StreamType:
        """What one sample is."""
        if isinstance(self.values, np.ndarray):
            return StreamType(array_type(self.values.dtype, self.values.shape[1:]), self.about)
        return StreamType(self.values.type, self.about)

    @property
    def nbytes(self) -> int:
        """Of its stamps and samples."""
        held = (self.times, self.values, self.present, self.log_times)
        return sum(items.nbytes for items in held if items is not None)

    @property
    def lag(self) -> int:
        """By how much at most its stamps are apart from when the samples arrived, nanoseconds; 0 where none tells."""
        if self.log_times is None or not len(self.times):
            return 0
        return max(abs(int(a) - int(b)) for a, b in self._extremes())

    def _extremes(self) -> Iterator[tuple[int, int]]:
        """Stamps and arrivals of the samples that came first and last of all by their difference."""
        assert self.log_times is not None
        apart = self.times.astype(np.float64) - self.log_times  # exact enough to find where
        for row in (int(apart.argmin()), int(apart.argmax())):
            yield int(self.times[row]), int(self.log_times[row])

    def take(self, rows: np.ndarray) -> Stream:
        """Those samples, in this order: ``rows`` int64 ``[k]``."""

        def pick(items: np.ndarray | None) -> np.ndarray | None:
            return None if items is None else items[rows]

        values = self.values
        picked = values[rows] if isinstance(values, np.ndarray) else values.take(pa.array(rows))
        return Stream(self.times[rows], picked, self.about, pick(self.present), pick(self.log_times), self.notes)


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What was found in one stream of one episode, what was done about it, and how much of its columns is valid.

    samples:     as recorded
    late:        samples recorded after one of a later stamp; late_by: by how much at most, nanoseconds
    duplicates:  samples that have the stamp of the one before
    non_finite:  samples with a NaN or an infinity that were left out
    dropped:     samples that no row can use: not finite, or replaced by a later one of the same stamp
    gaps:        steps wider than max_gap; longest_gap: the widest step, nanoseconds
    valid_share: part of the rows, 0..1
    """

    source: str
    samples: int
    late: int = 0
    late_by: int = 0
    duplicates: int = 0
    non_finite: int = 0
    dropped: int = 0
    gaps: int = 0
    longest_gap: int = 0
    valid_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about an episode that a person must know although its rows were made.

    code:    which kind of thing, of :data:`robocache.engine.quality.CODES`
    subject: the source or the feature that it is about; empty: the episode
    text:    what was found and what would change it
    share:   how bad, 0..1 or a count, to name the worst episode
    failed:  it breaks a threshold of ``quality``
    """

    code: str
    subject: str
    text: str
    share: float = 0.0
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Gathered:
    """A finding that episodes of a run have in common.

    episodes: how many; failed: in how many it breaks a threshold; worst: the id of the worst, whose text this is
    """

    code: str
    subject: str
    episodes: int
    worst: str
    text: str
    failed: int

    @property
    def line(self) -> str:
        """For a summary."""
        return self.text if self.episodes == 1 else f"{self.text} (the worst of {self.episodes} episodes: {self.worst})"


#: As late as int64 nanoseconds can tell: a segment without an end.
NEVER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a recording that is an episode by itself: rows from ``begin`` on and before ``end``.

    begin, end: int64 nanoseconds, on the clock of ``input.stamp``
    metadata:   what is known of it, name and value each
    """

    begin: int
    end: int
    metadata: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Episode:
    """One recording: the streams that were asked for, by :attr:`Source.key`, and its metadata.

    ``streams`` lacks a source that the recording does not have; whether that is an error is the caller's to say.
    ``metadata`` is small and JSON-serialisable (task text, success flag, robot type). ``notes``: what of the recording
    could not be read, a sentence each. ``segment``: what of the recording it is; its streams then hold few samples
    from before and after, so that rows at its ends are what they are in the whole.
    """

    id: str
    streams: Mapping[str, Stream]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    segment: Segment | None = None

    @property
    def nbytes(self) -> int:
        """Of its stamps and samples."""
        return sum(stream.nbytes for stream in self.streams.values())


@dataclass(frozen=True, slots=True)
class FileStamp:
    """One input file and what tells a changed file from an unchanged one.

    uri:     full fsspec URI (a plain path for local files)
    size:    bytes
    version: local: mtime in nanoseconds; object store: etag
    """

    uri: str
    size: int
    version: str


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file below a folder that no reader takes: ``what`` it is, as far as its name tells, and what would read it."""

    uri: str
    size: int
    what: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class EpisodeRef:
    """Where an episode is, without its data: what listing returns, shards hold and workers receive.

    id:      unique in the dataset and the same on every listing: the path below the input root, plus ``#key``
    format:  name of the reader (``mcap``, ``hdf5``, ...)
    files:   the files it is read from, the main one first
    tables:  what each of ``files`` is called in source paths, where an episode is several tables; else empty
    key:     which episode of the file (HDF5 group, LeRobot episode index); empty where a file is one episode
    nbytes:  about how much reading it costs, for balancing shards
    failure: why it cannot be read at all, known since listing; such a reference goes straight to the quarantine
    context: what else decides what is read, as text; where it is given, a change of the first of ``files`` is one of
             the episode, and a change of the others, which it was taken from, is none
    take:    which of the takes of a recording whose clock starts again; None: all of it
    retry:   whether the failure may pass, so that a later run is to try again
    segment: what of the recording it is; None: all of it
    prefix:  what the topics of one robot of several begin with: sources are looked for behind it first
    content: digest of what is asked of it, where its files hold other episodes too and ``input.fingerprint: content``
             says that this alone tells whether it has changed; else empty
    """

    id: str
    format: str
    files: tuple[FileStamp, ...]
    key: str = ""
    nbytes: int = 0
    failure: str = ""
    tables: tuple[str, ...] = ()
    context: str = ""
    take: int | None = None
    retry: bool = False
    segment: Segment | None = None
    prefix: str = ""
    content: str = ""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One stream of an episode as ``robocache inspect`` shows it.

    source: path that a config would use, e.g. ``/imu/data``
    type:   schema or dtype name as the format has it, e.g. ``sensor_msgs/msg/Imu`` or ``float64``
    fields: paths below ``source`` with their element type and shape, e.g. ``("angular_velocity", "float64[3]")``
    times:  int64 nanoseconds ``[n]`` in recorded order
    failure: why its values cannot be read; empty where they can
    """

    source: str
    type: str
    fields: tuple[tuple[str, str], ...]
    times: np.ndarray
    failure: str = ""


def frame_times(frames: np.ndarray, rate: Fraction | float) -> np.ndarray:
    """Times of frame numbers at a fixed rate: ``round(frame * 1e9 / rate)``, halves up, so that no rate ever drifts.

    frames: integers ``[n]``
    rate:   Hz, above zero, exactly as it is; a float stands for the simplest fraction near it (29.97002997 is
            30000/1001)
    returns int64 nanoseconds ``[n]``; ``ValueError`` for a rate that is not a positive number
    """
    if not 0 < rate < float("inf"):
        raise ValueError(f"a rate must be a positive number of Hz, got {rate}")
    exact = Fraction(rate)
    period = Fraction(1_000_000_000) / (exact.limit_denominator(1_000_000) if isinstance(rate, float) else exact)
    whole, rest = divmod(period.numerator, period.denominator)
    frames = np.asarray(frames).astype(np.int64)
    if len(frames) and 2 * int(np.abs(frames).max()) * period.denominator >= 2**62:
        frames = frames.astype(object)  # Python integers: such rates are rare and int64 would overflow
    half_up = (2 * frames * rest + period.denominator) // (2 * period.denominator)
    return (frames * whole + half_up).astype(np.int64)


def rate_times(n: int, rate: Fraction | float) -> np.ndarray:
    """The first ``n`` times at a fixed rate, from 0 (see :func:`frame_times`): int64 nanoseconds ``[n]``."""
    return frame_times(np.arange(n), rate)
