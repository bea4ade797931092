"""CSV files as tables: parsed once by pyarrow, in the dialect that :mod:`robocache.formats.csv_dialect` finds.

What pyarrow leaves as text is looked at again: numbers among blanks or with a plus, and lists of numbers in cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from robocache.errors import InputError
from robocache.formats.base import CsvSpec, InputSpec, read_bytes
from robocache.formats.compression import MOST_CHUNK, most_unpacked
from robocache.formats.csv_dialect import BOMS, Dialect, is_table, read_dialect
from robocache.formats.tables import Table, TableReader
from robocache.types import FileStamp

_NUMBER = r"^[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|Inf|infinity|Infinity)$"
_INTEGER = r"^[+-]?[0-9]{1,18}$"
_LIST = r"^\[[^\[\]]*\]$"


class CsvReader(TableReader):
    """Separated values with a header or names of the config; see ``input.csv``. Also ``.txt`` if asked."""

    name: ClassVar[str] = "csv"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")
    asked: ClassVar[tuple[str, ...]] = (".txt",)

    def begins(self, head: bytes, spec: InputSpec) -> bool:
        """Text of any encoding."""
        marked = head.startswith(tuple(bom for bom, _ in BOMS))
        return marked or bool(spec.csv.encoding) or super().begins(head, spec)

    def holds(self, head: bytes, spec: InputSpec) -> bool:
        """Text that is a table of two columns or more, as far as it goes."""
        return self.begins(head, spec) and is_table(head, spec.csv)

    def open_table(self, file: FileStamp, spec: InputSpec) -> AbstractContextManager[Table]:
        """A file as a table by itself."""
        return self._open(file, "", "", spec)

    @contextmanager
    def _open(self, file: FileStamp, table: str, key: str, spec: InputSpec) -> Iterator[Table]:
        dialect = read_dialect(read_bytes(file, spec, most_unpacked(max(file.size, 0), MOST_CHUNK)), spec.csv, file.uri)
        found: dict[str, pa.ChunkedArray] = {}
        damaged: dict[str, InputError] = {}
        for name, column in _parsed(dialect, spec.csv, file.uri).items():
            try:
                found[name] = _settled(column, dialect.decimal, f"{file.uri}: column {name!r}")
            except InputError as error:  # of this column alone: only who asks for it needs to know
                damaged[name] = error
        types = {name: found[name].type if name in found else pa.string() for name in dialect.names if name}

        def load(names: Sequence[str], head: bool = False) -> pa.Table:
            for name in names:
                if name in damaged:
                    raise damaged[name]
            return pa.table({name: found[name] for name in names})

        def texts(names: Sequence[str]) -> dict[str, pa.ChunkedArray]:  # a float64 would lose a time's nanoseconds
            numbers = [name for name in names if _is_number(types[name])]
            return _parsed(dialect, spec.csv, file.uri, numbers) if numbers else {}

        units = dict(zip(dialect.names, dialect.units, strict=True)) if dialect.units else {}
        yield Table(file.uri, table, pa.schema(list(types.items())), load, spec, units, damaged, texts)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _parsed(dialect: Dialect, spec: CsvSpec, where: str, texts: Sequence[str] = ()) -> dict[str, pa.ChunkedArray]:
    """Every column, in the type that its cells have; or ``texts`` alone, as text with a decimal point."""
    names = [name for name in dialect.names if name]
    if len(set(names)) < len(names):
        raise InputError(f"{where}: two columns have one name; the header is {', '.join(dialect.names)}")
    if not dialect.data.strip():
        return {name: pa.chunked_array([pa.nulls(0)]) for name in texts or names}
    keys = [name or f"\0{k}" for k, name in enumerate(dialect.names)]
    try:
        found = pacsv.read_csv(
            pa.py_buffer(dialect.data),
            read_options=pacsv.ReadOptions(use_threads=False, column_names=keys),  # with threads, errors name no row
            parse_options=pacsv.ParseOptions(delimiter=dialect.separator),
            convert_options=pacsv.ConvertOptions(
                decimal_point=dialect.decimal,
                strings_can_be_null=True,
                null_values=[*pacsv.ConvertOptions().null_values, *spec.null_words],
                include_columns=list(texts) or None,
                column_types={name: pa.string() for name in texts},
            ),
        )
    except pa.ArrowInvalid as error:
        counted = re.sub(r"Row #(\d+)", lambda row: f"Row #{int(row[1]) + dialect.above}", str(error))
        raise InputError(f"{where}: {counted}") from None
    columns = dict(zip(found.column_names, found.columns, strict=True))
    if texts:
        return {name: _pointed(column, dialect.decimal) for name, column in columns.items()}
    for key, name in zip(keys, dialect.names, strict=True):
        if not name and columns.pop(key).null_count < found.num_rows:  # nothing but a separator at the end of lines
            raise InputError(f"{where}: column {keys.index(key) + 1} has no name; the header is {dialect.names}")
    return columns


def _pointed(column: pa.ChunkedArray, decimal: str) -> pa.ChunkedArray:
    return column if decimal == "." else pc.replace_substring(column, decimal, ".")


def _settled(column: pa.ChunkedArray, decimal: str, where: str) -> pa.ChunkedArray:
    """Text as what it is: numbers, lists of numbers, or text. One cell that is no number among others that are is an
    ``InputError``: it would make text of them all."""
    if not pa.types.is_string(column.type):
        return column
    plain = pc.utf8_trim_whitespace(column)
    missing = pc.is_in(plain, pa.array(pacsv.ConvertOptions().null_values))
    plain = pc.if_else(missing, pa.scalar(None, pa.string()), plain)
    if pc.all(pc.match_substring_regex(plain, _LIST), min_count=1).as_py():
        return _lists(plain)
    numbers = _pointed(plain, decimal)
    numeric = pc.match_substring_regex(numbers, _NUMBER)
    if not pc.any(numeric).as_py():
        return column
    if not pc.all(numeric).as_py():
        row = pc.index(numeric, False).as_py()
        raise InputError(f"{where}, row {row + 1}: {column[row].as_py()!r} is not a number")
    return _cast(numbers)


def _cast(numbers: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    whole = pc.all(pc.match_substring_regex(numbers, _INTEGER)).as_py()
    return pc.cast(pc.replace_substring_regex(numbers, r"^\+", ""), pa.int64() if whole else pa.float64())


def _lists(plain: pa.ChunkedArray) -> pa.ChunkedArray:
    """``[1, 2, 3]`` or, as numpy prints it, ``[1 2 3]``; text where other things are listed."""
    inner = pc.utf8_trim_whitespace(pc.utf8_slice_codeunits(plain, 1, -1)).combine_chunks()
    inner = pc.if_else(pc.equal(inner, ""), pa.scalar(None, pa.string()), inner)
    commas = pc.any(pc.match_substring(inner, ",")).as_py()
    split = pc.split_pattern(inner, ",") if commas else pc.ascii_split_whitespace(inner)
    items = pc.utf8_trim_whitespace(split.flatten())
    if not pc.all(pc.match_substring_regex(items, _NUMBER), min_count=0).as_py():
        return plain
    offsets = pc.if_else(pc.is_valid(split), split.offsets[:-1], None)
    return pa.chunked_array([pa.ListArray.from_arrays(pa.concat_arrays([offsets, split.offsets[-1:]]), _cast(items))])
