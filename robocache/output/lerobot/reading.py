"""Rows of the parts that a tree is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robocache.errors import OutputError
from robocache.output.dataset import Output
from robocache.output.layout import part_format

if TYPE_CHECKING:
    from robocache.output.lerobot.episodes import TreeEpisode


def read_episodes(
    output: Output, episodes: Sequence[TreeEpisode], columns: Sequence[str]
) -> Iterator[tuple[TreeEpisode, pa.Table]]:
    """Each episode with its rows as its part has them. ``OutputError`` where a part cannot be read."""
    for part, some in groupby(episodes, key=lambda e: e.part):
        if part_format(part) == "arrow":
            table = output.table(part, columns)
            yield from ((e, table.slice(e.at, e.rows)) for e in some)
            continue
        with _readable(output, part), output.opened(part) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            ends = np.cumsum(sizes)
            for e in some:
                first = int(np.searchsorted(ends, e.at, side="right"))
                last = int(np.searchsorted(ends, e.at + e.rows, side="left"))
                table = parquet.read_row_groups(range(first, last + 1), columns=list(columns), use_threads=False)
                yield e, table.slice(e.at - int(ends[first] - sizes[first]), e.rows)


def read_columns(output: Output, part: str, columns: Sequence[str]) -> pa.Table:
    """Columns of all rows of a part, in this order. ``OutputError``."""
    if part_format(part) == "arrow":
        return output.table(part, columns)
    with _readable(output, part), output.opened(part) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        return parquet.read(columns=list(columns)).select(list(columns))


@contextmanager
def _readable(output: Output, part: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, IndexError) as error:
        raise OutputError(
            f"{output.uri}/{part} cannot be read ({error}); `robocache verify` says what is damaged"
        ) from error
