"""One output column: the type that its sources give it, and its values and validity on the timeline.

The sources of a feature lie side by side. Numbers are cast to the feature's ``dtype`` here and nowhere else; what a
column holds at rows without a value is NaN of floats, 0 of integers, false of truth values and null of everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.features.cast import cast
from robocache.features.encode import joined
from robocache.features.steps import Compute, Samples, Step
from robocache.output.schema import FeatureType
from robocache.types import Finding, StreamType, Values, array_type, as_rows, numpy_type

#: How encoded images and other payloads are stored: what Hugging Face datasets and LeRobot read as an image.
PAYLOAD = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
#: Bytes of one chunk of a payload column: Arrow's binary holds 2 GiB.
_CHUNK = 1 << 30


@dataclass(frozen=True)
class Aligned:
    """One source of a feature on the timeline.

    values: numbers ``[T, width]``; or the recorded samples, of which ``rows`` picks
    valid:  bool ``[T]``
    rows:   int64 ``[T]``, the sample behind each row, -1 for none; None where ``values`` are on the timeline already
    poses:  float64 ``[n, 7]`` of each of ``n`` samples, x y z qx qy qz qw, NaN where there is none
    about:  what the samples are in this episode (:class:`robocache.types.StreamType`)
    absent: bool ``[width]``, columns that have no number anywhere in the episode, which no row is invalid for
    finite: whether a NaN or an infinity makes a row invalid
    starts: float64 ``[T, width]`` or None, see :class:`robocache.features.steps.Samples`
    stamps: int64 ``[T, 2]``, the first and the last stamp that each row used; None unless asked for
    counts: int32 ``[T]``, how many samples of a window there are; None where it is none
    """

    values: Values
    valid: np.ndarray
    rows: np.ndarray | None = None
    absent: np.ndarray | None = None
    finite: bool = True
    stamps: np.ndarray | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    poses: np.ndarray | None = None
    starts: np.ndarray | None = None
    counts: np.ndarray | None = None


def feature_type(
    name: str,
    types: Sequence[StreamType],
    dtype: str = "auto",
    about: Mapping[str, Any] = MappingProxyType({}),
    steps: Sequence[Step] = (),
    window: int = 0,
) -> FeatureType:
    """The column of a feature whose sources are of these types. A lone source keeps its shape, several lie abreast.

    about: stored with the column beside what the sources say of themselves (names, units, frames)
    steps: what is made of the sources; ``ValueError`` where one cannot be made of what it is given
    window: how many samples of the source a row holds, one behind another; 0: it is no window
    """
    kind = abreast(types)
    for step in joined(steps):
        kind = step.type(kind)
    known = {**kind.about, **about}
    if not _number(kind):
        return FeatureType(name, _payload_type(kind.arrow), known)
    element = _element([kind.element] if steps else [t.element for t in types]) if dtype == "auto" else np.dtype(dtype)
    told = known.get("convert", {})
    starts = len(told["names"]) if told.get("delta") == "step" else 0
    shape = () if kind.shape in ((), (1,)) else kind.shape
    return FeatureType(name, array_type(element, (window, *shape) if window else shape), known, starts, bool(window))


def stepped(
    steps: Sequence[Step],
    sources: Sequence[Aligned],
    compute: Compute,
    about: Mapping[str, Any] = MappingProxyType({}),
    beside: np.ndarray | None = None,
) -> tuple[list[Aligned], tuple[Finding, ...]]:
    """The sources after the steps of their feature, as one, and what was found on the way.

    about: what the sources are side by side; beside: what a step of rows needs, see :class:`Samples`

    A step sees each sample once: what no row picks is not looked at, what several rows pick is made once.
    """
    if not steps:
        return list(sources), ()
    first = sources[0]
    valid = np.logical_and.reduce([s.valid for s in sources])
    if len(sources) == 1 and first.rows is not None:
        valid = valid & (first.rows >= 0)
        used, rows = np.unique(first.rows[valid], return_inverse=True)
        taken = first.values[used] if isinstance(first.values, np.ndarray) else first.values.take(pa.array(used))
        poses = None if first.poses is None else first.poses[used]
        there = np.ones(len(used), bool) if poses is None else np.isfinite(poses).all(axis=1)
        known = {**about, **first.about}
        done = Samples(taken, there, known, poses, recorded=first.values, places=used)
        place = np.full(len(valid), -1)
        place[valid] = rows
    else:
        blocks = [s.values if s.rows is None else _taken(s) for s in sources]
        if len(sources) == 1:
            about = {**about, **first.about}
        block = np.concatenate([np.asarray(b).reshape(len(valid), -1) for b in blocks], axis=1)
        done = Samples(block, valid, about)
        place = np.arange(len(valid))
    findings: list[Finding] = []
    for step in joined(steps):
        if step.rows:
            spread = _taken(Aligned(done.values, valid, place))
            there = (place >= 0) & done.valid[place] if len(done.valid) else np.zeros(len(place), bool)
            done = replace(done, values=spread, valid=there, beside=beside)
            place = np.arange(len(place))
        done = step.apply(replace(done, findings=()), compute)
        findings += done.findings
    good = place >= 0
    good[good] = done.valid[place[good]]
    # What a step of rows could make of a row that is not valid (the first actions of a chunk) is kept with it.
    picked = None if any(step.rows for step in steps) else np.where(good, place, -1)
    return [Aligned(done.values, good, picked, finite=first.finite, starts=done.starts)], tuple(findings)


def assemble(feature: FeatureType, sources: Sequence[Aligned]) -> tuple[pa.Array | pa.ChunkedArray, np.ndarray, int]:
    """The column's values and its bool ``[T]`` validity, and how many rows hold a number that does not fit its type.

    A row is valid where every source is, and its numbers are finite and fit.
    """
    valid = np.logical_and.reduce([s.valid for s in sources])
    kind = StreamType(feature.arrow)
    if not _number(kind):
        (source,) = sources
        return _picked(source, feature.arrow), valid, 0
    parts, unfit = [], np.zeros(len(valid), bool)
    dtype = numpy_type(kind.element)
    for source in sources:
        numbers = source.values if source.rows is None else _taken(source)
        assert isinstance(numbers, np.ndarray)
        out, fits = cast(numbers.reshape(len(valid), -1), dtype)
        if fits is not None:
            # A value of a row that is invalid anyway (NaN before the first sample, say) is no overflow.
            unfit |= ~fits.all(axis=1) & source.valid
        if dtype.kind == "f" and source.finite:
            finite = np.isfinite(out)
            if not finite.all():
                over = np.isinf(out)  # of finite samples only: the kernels' own result may be beyond the type
                if over.any():
                    unfit |= over.any(axis=1) & source.valid
                    out = np.where(over, np.nan, out).astype(dtype)
                if source.absent is not None and source.absent.any():
                    finite = finite | source.absent
                valid = valid & finite.all(axis=1)
        parts.append(out)
    block = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    unfit &= np.logical_and.reduce([s.valid for s in sources])
    return number_array(block, feature.arrow), valid & ~unfit, int(unfit.sum())


def number_array(block: np.ndarray, kind: pa.DataType) -> pa.Array:
    """``block [T, width]`` as an Arrow array of the (nested) type ``kind``, without a copy where it is contiguous."""
    if 0 in StreamType(kind).shape:  # which Arrow's lists of a fixed size cannot be made of otherwise
        return pa.array(block.reshape(len(block), *StreamType(kind).shape).tolist(), kind)
    array = pa.array(np.ascontiguousarray(block).reshape(-1), from_pandas=False)
    for size in reversed(StreamType(kind).shape):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def flat_numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """All numbers of a column of (nested lists of) numbers, one after another; of null lists what lies beneath."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    while pa.types.is_fixed_size_list(flat.type):
        size, at = flat.type.list_size, flat.offset
        flat = flat.values.slice(at * size, len(flat) * size)
    return flat.to_numpy(zero_copy_only=False)


def _number(kind: StreamType) -> bool:
    return kind.numeric or pa.types.is_boolean(kind.element)


def _element(kinds: Sequence[pa.DataType]) -> np.dtype:
    """Floats become float32, everything else stays as recorded; of a mixture, what holds all of it."""
    if any(pa.types.is_floating(k) for k in kinds):
        return np.dtype(np.float32)
    common = np.result_type(*(numpy_type(k) for k in kinds))
    return np.dtype(np.float64) if common.kind == "f" else common  # int64 beside uint64


def abreast(types: Sequence[StreamType]) -> StreamType:
    """The sources of a feature side by side, as recorded."""
    if len(types) == 1 or not _number(types[0]):
        return StreamType(types[0].arrow, _about(types))
    element = np.result_type(*(numpy_type(t.element) for t in types))
    return StreamType(array_type(element, (sum(t.width for t in types),)), _about(types))


def _payload_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return PAYLOAD
    if pa.types.is_large_string(kind):
        return pa.string()
    return kind


def _about(types: Sequence[StreamType]) -> dict[str, Any]:
    """What the sources say of themselves: names of the columns where every source has them, else the lone source's."""
    if len(types) == 1:
        return dict(types[0].about)
    named = [list(t.about.get("names", ())) for t in types]
    if all(len(names) == t.width for names, t in zip(named, types, strict=True)):
        return {"names": [name for names in named for name in names]}
    return {}


def _taken(source: Aligned) -> np.ndarray:
    """The picked numbers; zeros (NaN of floats) where there is nothing to pick from."""
    values, rows = source.values, source.rows
    assert isinstance(values, np.ndarray) and rows is not None
    values = as_rows(values)
    none = rows < 0
    if len(rows) == len(values) and (rows == np.arange(len(rows))).all():
        return values  # each picked once, in order: as clouds mostly are, whose grids are large
    if not none.any():
        return values[rows]
    out = np.full((len(rows), values.shape[1]), np.nan if values.dtype.kind == "f" else 0, values.dtype)
    out[~none] = values[rows[~none]]
    return out


def _picked(source: Aligned, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """The picked payloads, null where there is nothing to pick from."""
    assert source.rows is not None
    values = source.values if isinstance(source.values, pa.Array) else pa.array([], kind)
    if not len(values):
        return (
            _wrapped(pa.nulls(len(source.rows), pa.binary())) if kind == PAYLOAD else pa.nulls(len(source.rows), kind)
        )
    rows = pa.array(source.rows, mask=source.rows < 0)
    each = max(1, _CHUNK // max(1, values.nbytes // len(values)))
    made = _wrapped if kind == PAYLOAD else lambda some: some.cast(kind)
    chunks = [made(values.take(rows.slice(at, each))) for at in range(0, max(len(rows), 1), each)]
    return chunks[0] if len(chunks) == 1 else pa.chunked_array(chunks, kind)


def _wrapped(payloads: pa.Array) -> pa.Array:
    paths = pa.nulls(len(payloads), pa.string())
    return pa.StructArray.from_arrays([payloads.cast(pa.binary()), paths], fields=list(PAYLOAD))
