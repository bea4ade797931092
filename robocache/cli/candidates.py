"""What of a recording's streams may become features: source paths in the language of configs, and names for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from robocache.formats.base import parse_item

#: Fields that are a clock, a counter of messages or the name of a frame: what a feature is read by, not what it is.
_CLOCKS = re.compile(r"header|stamp|timestamp\w*|seq|sequence|(child_)?frame_id|time_utc_usec")
#: Arrays of text that name the columns beside them.
_NAMES = re.compile(r"(joint_)?names?")
_COVARIANCE = re.compile(r"covariance")
#: Endings of columns that belong together: ``q_0 q_1``, ``Fx Fy Fz``, ``qx qy qz qw``.
_MEMBER = re.compile(r"(?P<base>.*?)(?P<member>[._\- ]?\d+|[xyzw]|[XYZW]|(?:^|[._\- ])q[xyzw])")
_NUMBER = re.compile(r"(?P<class>float|u?int|bool)\d*(?P<shape>\[.*\])?")
_CLASSES = {"float": "float", "int": "int", "uint": "int", "bool": "bool"}
#: What columns beside a feature's are called.
_BESIDE = ("valid", "stamps", "start")
#: What scalars of a message are called beside the floating-point ones.
_SUFFIX = {"float": (), "int": ("codes",), "bool": ("flags",)}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A source path that may be a feature.

    words:  what its feature is called, from the general to the special
    reason: why it is left out; empty: it is not
    parts:  what it lays side by side, where each of that would do alone
    whole:  it is of whole numbers or truth values, whatever type they have side by side
    """

    source: str
    words: tuple[str, ...]
    reason: str = ""
    parts: tuple[Candidate, ...] = ()
    whole: bool = False


def selector(names: Sequence[str]) -> str:
    """``[a,b,"c,d"]``: columns by their names, each in quotes where it would read as something else."""
    return f"[{','.join(_item(name) for name in names)}]"


def _item(name: str) -> str:
    if parse_item(name) == name and name == name.strip() and not re.search(r"[,\[\]\"']", name):
        return name
    return f"'{name}'" if '"' in name else f'"{name}"'


def of_message(source: str, fields: Sequence[tuple[str, str]]) -> list[Candidate]:
    """Of a topic whose messages have these fields: structs and arrays of numbers each, scalars of one class of numbers
    together, texts each; no stamps and names of frames. Covariances are left out."""
    types = {name: kind for name, kind in fields if not name.startswith("[")}
    return list(_walk(source, "", types))


def _walk(source: str, at: str, types: Mapping[str, str]) -> Iterable[Candidate]:
    scalars: dict[str, list[str]] = {}
    for child in _children(at, types):
        path = f"{at}.{child}" if at else child
        kind = _NUMBER.fullmatch(types.get(path, ""))
        below = [name for name in types if name.startswith(f"{path}.")]
        words = (*_words(source), *_words(path))
        if _CLOCKS.fullmatch(child) or (_NAMES.fullmatch(child) and types.get(path, "").endswith("[]")):
            continue
        if _COVARIANCE.search(child):
            yield Candidate(f"{source}.{path}", words, "how sure an estimate is")
        elif below and not (kind and _alike(below, types)):
            yield from _walk(source, path, types)
        elif kind and not kind["shape"]:
            scalars.setdefault(_CLASSES[kind["class"]], []).append(child)
        else:
            yield Candidate(f"{source}.{path}", words)
    whole, words = f"{source}.{at}" if at else source, (*_words(source), *_words(at))
    for kind_of, names in scalars.items():
        parts = tuple(Candidate(f"{whole}.{name}", (*words, *_words(name))) for name in names)
        if len(parts) == 1:
            yield parts[0]
        else:
            yield Candidate(f"{whole}{selector(names)}", (*words, *_SUFFIX[kind_of]), "", parts, kind_of != "float")


def of_records(source: str, fields: Sequence[tuple[str, str]]) -> list[Candidate]:
    """Of an array of records: each field."""
    return [Candidate(f"{source}.{name}", (*_words(source), *_words(name))) for name, _ in fields]


def _children(at: str, types: Mapping[str, str]) -> list[str]:
    rests = (name[len(at) + 1 :] if at else name for name in types if not at or name.startswith(f"{at}."))
    return list(dict.fromkeys(rest.partition(".")[0] for rest in rests))


def _alike(paths: Sequence[str], types: Mapping[str, str]) -> bool:
    """Whether a struct is one thing: all of it fractions, and no stamp or covariance among them."""
    last = [path.rpartition(".")[2] for path in paths]
    return all(types[path].startswith("float") for path in paths) and not any(
        _CLOCKS.fullmatch(name) or _COVARIANCE.search(name) for name in last
    )


def of_columns(columns: Sequence[tuple[str, str]], table: str = "") -> list[Candidate]:
    """Of a table's columns: those that are members of one thing by their names together, every other one alone."""
    out: list[Candidate] = []
    taken: set[str] = set()
    for name, kind in columns:
        if name in taken:
            continue
        group = _together(name, kind, columns)
        taken.update(group)
        if len(group) > 1:
            match = _MEMBER.fullmatch(name)
            base = re.sub(r"\W+$|_+$", "", match["base"]) if match else ""
            base = base or "".join(member[-1] for member in group)
            base = "pose" if base in ("xyzxyzw", "xyzwxyz") else base
            out.append(Candidate(f"{table}{selector(group)}", (*_words(table), *_words(base))))
        else:
            path = f"{table}.{name}" if table else name
            out.append(Candidate(path, (*_words(table), *_words(name))))
    return out


def _together(name: str, kind: str, columns: Sequence[tuple[str, str]]) -> list[str]:
    """The columns that ``name`` begins a row of, itself the first; alone where there is none."""
    first = _MEMBER.fullmatch(name)
    if first is None or not _NUMBER.fullmatch(kind) or "[" in kind:
        return [name]
    group: list[str] = []
    rest = columns[[n for n, _ in columns].index(name) :]
    for other, other_kind in rest:
        match = _MEMBER.fullmatch(other)
        if match is None or other_kind != kind or match["base"] != first["base"]:
            break
        if match["member"][-1].isdigit() != first["member"][-1].isdigit():
            break
        group.append(other)
    return group


def _words(path: str) -> tuple[str, ...]:
    """The words of a path that a column's name may hold."""
    parts = re.split(r"[/.\[\]@=\"' ]+", path)
    clean = [re.sub(r"\W+", "_", part).strip("_") for part in parts]
    return tuple(word for word in clean if word and not word.isdigit())


def feature_name(prefix: str, words: Sequence[str], taken: Iterable[str]) -> str:
    """A column's name: its words behind ``prefix`` (observation, action), each said once; another than those
    ``taken``."""
    said: list[str] = []
    for word in words:
        if not said or said[-1] != word:
            said.append(word)
    said = [word for word in said if word not in ("data", "value")] or said
    if said and said[0] in ("observation", "observations", "obs", "action", "actions"):
        prefix = "action" if said[0].startswith("action") else "observation"
        said = said[1:]
    if said and said[-1] in _BESIDE:
        said[-1] += "_value"
    name = base = ".".join([prefix, *said]) if said else prefix
    known, count = set(taken), 1
    while name in known:
        count += 1
        name = f"{base}_{count}"
    return name
