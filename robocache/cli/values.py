"""What the numbers of a recording are: their range and how many are none, by column, for ``inspect``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from rich.table import Table
from rich.text import Text

from robocache.cli.terminal import cell, grid, shown
from robocache.errors import InputError
from robocache.types import as_rows

if TYPE_CHECKING:
    from robocache.formats import InputSpec
    from robocache.types import EpisodeRef, Stream

#: Wider samples (images, grids) are told as a whole.
_MOST_COLUMNS = 64
#: More columns than these that never change are a row.
_FEW = 3


@dataclass(frozen=True, slots=True)
class Values:
    """The numbers of one source.

    shape:      of a sample; of lists of any length -1
    names:      of the columns, where the recording tells
    unit:       of them all, where the recording tells
    low, high:  smallest and largest finite number of each column; of more than 64 columns, or of lists, of all
                together; None where a column never holds one
    non_finite: samples with a NaN, an infinity or nothing in them
    """

    shape: tuple[int, ...]
    names: tuple[str, ...]
    unit: str
    low: tuple[float | int | None, ...]
    high: tuple[float | int | None, ...]
    non_finite: int


def read_values(ref: EpisodeRef, sources: Sequence[str], spec: InputSpec) -> dict[str, Values]:
    """By source path, of those whose numbers can be read. In one go; where that fails by halves, so that what cannot
    be read hides nothing else."""
    from robocache.formats import read_episode

    try:
        streams = read_episode(ref, sources, spec).streams
    except InputError:
        if len(sources) < 2:
            return {}
        half = len(sources) // 2
        return read_values(ref, sources[:half], spec) | read_values(ref, sources[half:], spec)
    return {source: found for source, stream in streams.items() if (found := values_of(stream)) is not None}


def values_of(stream: Stream) -> Values | None:
    """None where a stream holds no numbers."""
    if not isinstance(stream.values, np.ndarray):
        return _of_lists(stream.values)
    values = as_rows(stream.values)
    there = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    if stream.present is not None:
        there &= stream.present
    none = int(np.count_nonzero(~there.all(axis=1)))
    if values.shape[1] > _MOST_COLUMNS:
        values, there = values.reshape(-1, 1), there.reshape(-1, 1)
    columns = [values[:, k][there[:, k]] for k in range(values.shape[1])]
    names = tuple(map(str, stream.about.get("names") or ()))
    return Values(
        stream.values.shape[1:],
        names if len(names) == len(columns) else (),
        str(stream.about.get("unit") or ""),
        tuple(column.min().item() if len(column) else None for column in columns),
        tuple(column.max().item() if len(column) else None for column in columns),
        none,
    )


def _of_lists(values: pa.Array) -> Values | None:
    flat = values
    while pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type):
        flat = flat.flatten()
    if flat is values or not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)):
        return None
    numbers = flat.drop_null().to_numpy(zero_copy_only=False)
    finite = numbers[np.isfinite(numbers)]
    low, high = ((finite.min().item(),), (finite.max().item(),)) if len(finite) else ((None,), (None,))
    # Of lists a NaN is one number among others: what counts is a sample without a list.
    return Values((-1,), (), "", low, high, values.null_count)


def render_values(found: Mapping[str, Values]) -> Table:
    """A row a column: what it is called in a source path, and its range; what is wider in a row for all. Fields of
    what is shown as a whole, and stamps, which are the clock, are not shown again.
    """
    table = grid("min", "max", "NaN", folded="values")
    for path, v in found.items():
        if path.endswith(".header.stamp") or any(path.startswith(f"{whole}.") for whole in found):
            continue
        faults = Text(f"{v.non_finite:,}", style="yellow") if v.non_finite else Text("-", style="dim")
        unit = f" {shown(v.unit)}" if v.unit else ""
        if len(v.low) == 1:
            wide = f" [{' x '.join('any' if n < 0 else str(n) for n in v.shape)}]" if v.shape not in ((), (1,)) else ""
            name = f"[{v.names[0]}]" if v.names else wide
            table.add_row(Text.assemble(shown(path + name), (unit, "dim")), *_range(v.low[0], v.high[0]), faults)
            continue
        numbers = [number for number in v.low if number is not None]
        if _FEW < len(numbers) == len(v.low) and v.low == v.high:  # covariances, as a rule
            told = (f" {len(v.low)} columns, constant{unit}", "dim")
            table.add_row(Text.assemble(shown(path), told), _number(min(numbers)), _number(max(numbers)), faults)
            continue
        table.add_row(Text.assemble(shown(path), (f" {len(v.low)} columns{unit}", "dim")), "", "", faults)
        for k, (low, high) in enumerate(zip(v.low, v.high, strict=True)):
            table.add_row(cell(f"  [{v.names[k] if v.names else k}]"), *_range(low, high), "")
    return table


def _range(low: float | int | None, high: float | int | None) -> tuple[Text, Text]:
    if low is None or high is None:
        return Text("-", style="dim"), Text("never", style="yellow")
    return Text(_number(low)), Text(_number(high))


def _number(value: float | int) -> str:
    return str(value) if isinstance(value, bool | int) else f"{value:.6g}"
