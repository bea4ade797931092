"""docs/keys.md, made of the schema that configs are read by: `python scripts/config_keys.py` writes it anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from robocache.config import schema

PAGE = Path(__file__).resolve().parent.parent / "docs/keys.md"
HEAD = """# Every key

Made of the schema by `python scripts/config_keys.py`; a test holds it against the schema. What the keys mean is in
[configuration.md](configuration.md). A feature is a source path, the keys of a feature below, or a list of sources;
where it has several, they stand under its `sources`, each with the keys from `source` on. `splits` is a mapping, see
[configuration.md](configuration.md#keys).
"""
#: What keys hold that take several forms, as far as they are mappings.
FORMS = {"decode": schema.Decode, "gripper": schema.Gripper}
_WORDS = {str: "text", int: "whole number", float: "number", bool: "bool", type(None): "null", Any: "see there"}


def sections() -> Iterator[tuple[str, type]]:
    """Title and schema of each table."""
    hints = get_type_hints(schema.Config)
    for name in (f.name for f in dataclasses.fields(schema.Config)):
        if name == "features":
            yield "a feature", schema.SingleSource
        elif dataclasses.is_dataclass(hints[name]):
            yield name, hints[name]


def keys(section: type, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and what to write, those of mappings behind the mapping's own."""
    hints = get_type_hints(section)
    for field in dataclasses.fields(section):
        kind = hints[field.name]
        inner = next((k for k in (kind, *get_args(kind)) if dataclasses.is_dataclass(k)), FORMS.get(field.name))
        yield f"{prefix}{field.name}", _word(kind), _default(field), schema.EXPECTED.get(field.name, "")
        if inner is not None:
            yield from keys(inner, f"{prefix}{field.name}.")


def _word(kind: Any) -> str:
    if dataclasses.is_dataclass(kind):
        return "mapping"
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_word(k) for k in inner if k is not type(None)))
    if origin in (list, tuple):
        return f"list of {_word(inner[0])}" if inner else "list"
    if origin is dict:
        return "mapping"
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def _default(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING:
        return "" if field.default_factory is not dataclasses.MISSING else "required"
    if field.default in (None, ""):
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def page() -> str:
    out = [HEAD]
    for title, section in sections():
        out.append(f"\n## {title}\n\n| key | type | default | write |\n| --- | --- | --- | --- |")
        for key, *cells in keys(section):
            out.append(f"| `{key}` | {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
