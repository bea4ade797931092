"""Tables in documents: what is between ``<!-- generated: NAME -->`` and ``<!-- end -->`` is made from result files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

NOT_MEASURED = "not measured yet"
_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others numbers."""
    if not rows:
        return NOT_MEASURED
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def filled(text: str, blocks: Mapping[str, Callable[[], str]]) -> str:
    """The text with every block that is in ``blocks`` written anew."""

    def write(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        return f"{begin}\n{blocks[name]()}\n\n{end}" if name in blocks else found.group()

    return _BLOCK.sub(write, text)


def fill(path: Path, blocks: Mapping[str, Callable[[], str]]) -> bool:
    """Whether the file changed."""
    old = path.read_text()
    new = filled(old, blocks)
    if new != old:
        path.write_text(new)
    return new != old
