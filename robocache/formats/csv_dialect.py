"""The dialect of a CSV file: what ``input.csv`` says, and what of the rest its first lines leave no doubt about.

What is not certain is asked for, in an error that shows the lines and names the key.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

from robocache.errors import InputError
from robocache.formats.base import CsvSpec

#: What files begin with that say how they are encoded.
BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_SEPARATORS = (",", ";", "\t", "|")
#: Lines that are looked at.
_LOOKED_AT = 60
_MOST_COMMENTS = 1000
_TABS = {"whitespace": "\t"}
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
_NMEA = re.compile(r"[$!][A-Z]{2}[A-Z0-9]{3,4},.*\*[0-9A-F]{2}\s*")
#: What units are made of; a row of nothing else below a header is a row of units.
_UNITS = (
    "s sec secs second seconds ms msec us usec µs μs ns min h Hz kHz MHz m mm cm km um µm g mg kg",
    "N Nm mN mNm kN Pa kPa MPa hPa bar mbar V mV A mA W kW J K C °C degC F % T mT uT µT G gauss",
    "rad mrad deg degs degree degrees ° rpm rev count counts px pixel pixels bool enum none unitless 1 -",
)
_UNIT = re.compile("|".join(" ".join(_UNITS).split()))
_BETWEEN = re.compile(r"[\s*/·.^]|(?<=[A-Za-z°])-?\d")


@dataclass(frozen=True)
class Dialect:
    """How a file is to be parsed.

    data:      the rows alone as UTF-8: without what is before the header, the header, comments and the row of units
    above:     lines above the first row
    separator: one character between cells
    decimal:   point or comma
    names:     of the columns
    units:     of the columns, where a row of them stands below the header; else empty
    """

    data: bytes
    above: int
    separator: str
    decimal: str
    names: tuple[str, ...]
    units: tuple[str, ...] = ()


def read_dialect(content: bytes, spec: CsvSpec, where: str) -> Dialect:
    """What a file's bytes are. ``InputError``, beginning with ``where``, for what is no table, or leaves a doubt."""
    text = _decoded(content, spec, where)
    head = list(islice(io.StringIO(text, newline=""), spec.skip_rows + _LOOKED_AT + _MOST_COMMENTS))
    lines, mark = head[spec.skip_rows :], spec.comment or "#"
    table = [line for line in lines if line.strip() and not line.startswith(mark)][:_LOOKED_AT]
    doubt = _Doubt(where, lines)
    if not table and not any(line.strip() for line in lines):
        raise InputError(f"{where}: Empty CSV file")
    if sum(bool(_NMEA.fullmatch(line)) for line in table) > len(table) // 2:
        raise InputError(f"{where}: NMEA sentences, not a table; convert them to one, as with gpsbabel")
    separator = spec.separator or _separator(table, doubt)
    cells = [_cells(line, separator) for line in table]
    comment = () if spec.names else _comment_header(lines, cells, separator, spec, mark)
    names = spec.names or comment or _header(cells, doubt)
    rows = cells if spec.names or comment else cells[1:]
    if spec.names and rows and len(rows[0]) != len(names):
        raise doubt.of("names", f"{len(names)} names are given for rows of {len(rows[0])} cells", "one a column")
    wanted = spec.units_row
    has_units = bool(rows) and (wanted or (wanted is None and not spec.names and _is_units(rows[0], len(names))))
    units = tuple(unit.strip().strip("[]()") for unit in rows[0]) if has_units else ()
    decimal = spec.decimal or _decimal(rows[has_units:], separator, doubt)
    first = len(table) - len(rows) + has_units  # of the table's lines, that of the first row
    above = next((k for k, line in enumerate(lines) if first < len(table) and line is table[first]), len(lines))
    begins = sum(map(len, head[: spec.skip_rows + above]))
    data = _rows(text[begins:], separator, mark, len(names), bool(spec.comment))
    return Dialect(data, spec.skip_rows + above, _TABS.get(separator, separator), decimal, tuple(names), units)


def is_table(head: bytes, spec: CsvSpec) -> bool:
    """Whether the first bytes of a file are rows of as many cells as each other, two or more, with numbers in them."""
    for cut in range(4):  # through a character, maybe
        try:
            text = _decoded(head[: len(head) - cut], spec, "")
            break
        except InputError:
            continue
    else:
        return False
    lines = io.StringIO(text, newline="").readlines()[spec.skip_rows :]
    whole = [line for line in lines if line.strip() and not line.startswith(spec.comment or "#")]
    table = whole[: max(len(whole) - 1, 1)][:_LOOKED_AT]  # the last one may be cut
    for separator in [spec.separator] if spec.separator else [*_SEPARATORS, "whitespace"]:
        widths = {len(_cells(line, separator)) for line in table}
        if len(widths) == 1 and widths.pop() > 1:
            return any(_NUMBER.fullmatch(cell.strip()) for cell in _cells(table[-1], separator))
    return False


class _Doubt:
    """Errors that show how a file begins and name the key that would settle what is not certain."""

    def __init__(self, where: str, lines: Sequence[str]):
        self.where = where
        self.begins = " | ".join(repr(line.rstrip("\r\n")[:100]) for line in lines[:4])

    def of(self, key: str, why: str, example: str) -> InputError:
        return InputError(f"{self.where}: {why}; set input.csv.{key}, e.g. {example}; it begins {self.begins}")


def _decoded(content: bytes, spec: CsvSpec, where: str) -> str:
    found = next((name for bom, name in BOMS if content.startswith(bom)), "")
    encoding = spec.encoding or found or "utf-8"
    begins = _Doubt(where, [line.decode("latin-1") for line in content[:2000].splitlines()])
    try:
        text = content.decode(encoding)
    except UnicodeError as error:
        if spec.encoding or found:
            raise InputError(f"{where}: is not {encoding}: {error}; is input.csv.encoding right?") from None
        row = content[: getattr(error, "start", 0)].count(b"\n") + 1
        raise begins.of("encoding", f"line {row} is not UTF-8", "latin-1, cp1252 or utf-16") from None
    if "\0" in text:
        raise begins.of("encoding", "holds NUL bytes, as UTF-16 read as UTF-8 does", "utf-16-le")
    return text.removeprefix("\ufeff")


def _cells(line: str, separator: str) -> list[str]:
    line = line.rstrip("\r\n")
    if separator == "whitespace":
        return line.split()
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])


def _separator(table: Sequence[str], doubt: _Doubt) -> str:
    """The one by which every line has as many cells as the others; of a ragged file the one in its first line."""
    if not table:
        return ","
    counts = {s: [len(_cells(line, s)) for line in table] for s in _SEPARATORS}
    even = [s for s, found in counts.items() if found[0] > 1 and len(set(found)) == 1]
    if len(even) > 1 and "," in even:
        others = [s for s in even if s != ","]
        cells = [cell for line in table for s in others[:1] for cell in _cells(line, s)]
        if any(_COMMA.fullmatch(cell.strip()) for cell in cells):  # what the comma splits are decimals
            even = others
    if len(even) > 1:
        shown = " and ".join(repr(s) for s in even)
        raise doubt.of("separator", f"its cells may be apart by {shown}", f"{even[0]!r}")
    if even:
        return even[0]
    words = [len(line.split()) for line in table]
    numbers = all(_NUMBER.fullmatch(cell) for line in table[1:] or table for cell in line.split())
    if words[0] > 1 and len(set(words)) == 1 and numbers:
        return "whitespace"
    for found in counts.values():  # lines before the header
        first = next((k for k, n in enumerate(found) if n > 1), 0)
        if first and len(found) - first > 2 and len(set(found[first:])) == 1 and set(found[:first]) == {1}:
            raise doubt.of("skip_rows", f"{first} lines are before its header", f"{first}")
    return next((s for s, found in counts.items() if found[0] > 1), ",")


def _decimal(body: Sequence[Sequence[str]], separator: str, doubt: _Doubt) -> str:
    if separator == ",":
        return "."
    cells = [cell.strip() for row in body for cell in row]
    comma, point = (any(form.fullmatch(cell) for cell in cells) for form in (_COMMA, _POINT))
    with_comma = [cell for cell in cells if _COMMA.fullmatch(cell)]
    if comma and (point or all(_THOUSANDS.fullmatch(cell) for cell in with_comma)):
        raise doubt.of("decimal", f"a comma in {with_comma[0]!r} may be a decimal one or not", "','")
    return "," if comma else "."


def _comment_header(
    lines: Sequence[str], cells: Sequence[Sequence[str]], separator: str, spec: CsvSpec, mark: str
) -> tuple[str, ...]:
    """The names in the last comment above a first row that holds a number; empty: it is no header.

    ``#timestamp [ns],x`` has its mark as a part of the first name, ``# timestamp x`` apart from it.
    """
    above = [line for line in takewhile(lambda line: not line.strip() or line.startswith(mark), lines) if line.strip()]
    if not above or spec.comment or (cells and not any(_NUMBER.fullmatch(cell.strip()) for cell in cells[0])):
        return ()
    names = tuple(name.strip() for name in _cells(above[-1].removeprefix(f"{mark} "), separator))
    text = not any(_NUMBER.fullmatch(name) for name in names)
    return names if text and (not cells or len(names) == len(cells[0])) else ()


def _header(cells: Sequence[Sequence[str]], doubt: _Doubt) -> tuple[str, ...]:
    """The names in the first row."""
    names = tuple(name.strip() for name in cells[0]) if cells else ()
    if any(names) and all(_NUMBER.fullmatch(name) or not name for name in names):
        example = f"[t, {', '.join('abcdefgh'[: max(len(names) - 1, 1)])}]"
        why = f"its first row is all numbers, so its {len(names)} columns have no names"
        raise doubt.of("names", why, example)
    return names


def _is_units(row: Sequence[str], width: int) -> bool:
    """Whether every cell is a unit, in brackets or not, and one of them at least says something."""
    said = [cell for cell in (cell.strip().strip("[]()").strip() for cell in row) if cell not in ("", "-", "1")]
    parts = [[part for part in _BETWEEN.split(cell) if part.strip("-0123456789")] for cell in said]
    return len(row) == width and bool(said) and all(some and all(map(_UNIT.fullmatch, some)) for some in parts)


def _rows(text: str, separator: str, mark: str, width: int, sure: bool) -> bytes:
    """The rows alone. A line that begins with ``#`` and has as many cells as a row is one, unless the config says."""
    if separator != "whitespace" and not text.startswith(mark) and f"\n{mark}" not in text:
        return text.encode()
    rows = []
    for line in io.StringIO(text, newline=""):
        if line.startswith(mark) and (sure or len(_cells(line, separator)) != width):
            continue
        rows.append("\t".join(line.split()) + "\n" if separator == "whitespace" else line)
    return "".join(rows).encode()
