"""Reading a section of a config file by its schema: types checked, every problem collected with its path."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import field
from typing import Any, Literal, TypeVar

import yaml
from omegaconf import MISSING, DictConfig, ListConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from robocache.config.schema import EXPECTED
from robocache.errors import ConfigError

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}

Section = TypeVar("Section")

#: Stands for a value that could not be read; the problem has been reported.
UNREADABLE = object()


class Problems:
    """What is wrong, each with its path. Later checks ask whether a value can be relied on, so as not to echo."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def add(self, path: str, text: str) -> None:
        self._found.append((path, text))

    def wrong(self, path: str, value: Any, right: str) -> None:
        """``path`` holds ``value``; ``right`` says what would do."""
        self.add(path, f"found {_describe(value)}; {right}")

    def under(self, *paths: str) -> bool:
        """True where one of ``paths``, or anything in it or around it, has a problem."""
        return any(_within(found, path) or _within(path, found) for found, _ in self._found for path in paths)

    def lines(self) -> list[str]:
        return [f"{path}: {text}" for path, text in self._found]


def read_section(schema: type[Section], found: Any, path: str, problems: Problems) -> Section:
    """``found`` as an instance of the dataclass ``schema``; what does not fit is reported and keeps its default.

    A required value that is missing or wrong is None. Types are checked and converted by OmegaConf.
    """
    if found is None:  # a section with nothing in it
        found = OmegaConf.create({})
    elif not isinstance(found, DictConfig):
        problems.wrong(path, found, f"write a mapping with the keys {key_names(schema)}")
        return _instance(schema, {})
    hints = _hints(schema)
    keys = list(found)
    for key in keys:
        if key not in hints:
            guess = did_you_mean(str(key), list(hints))
            problems.add(_join(path, key), f"unknown key; {guess}the keys here are {key_names(schema)}")
    values: dict[str, Any] = {}
    for key, hint in hints.items():
        where = _join(path, key)
        inner: Any = next((h for h in _alternatives(hint) if dataclasses.is_dataclass(h)), None)
        if key in keys:
            value = resolved(found, key, where, problems)
        elif inner is not None and key in _required(schema):
            value = None  # read as an empty section, so that all it lacks is named
        else:
            if key in _required(schema):
                problems.add(where, f"missing; write {_expected(key, hint)}")
            continue
        if inner is not None and value is not UNREADABLE and (value is not None or key in _required(schema)):
            value = read_section(inner, value, where, problems)
        elif inner is None and hint is not Any and value is not UNREADABLE:
            value = _converted(schema, key, hint, value, where, problems)
        if value is not UNREADABLE:
            values[key] = value
    return _instance(schema, values)


#: The types of a schema's keys, worked out once: a config asks for them at each of its sources.
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


@functools.cache
def _alone(schema: type, key: str) -> type:
    """A schema of this key and no other: OmegaConf makes a node for every key of a schema to check one value."""
    return dataclasses.make_dataclass(key, [(key, _hints(schema)[key], field(default=MISSING))])


def _instance(schema: type[Section], values: dict[str, Any]) -> Section:
    hints = _hints(schema)
    for key in _required(schema):
        values.setdefault(key, _instance(hints[key], {}) if dataclasses.is_dataclass(hints[key]) else None)
    return schema(**values)


def _required(schema: Any) -> list[str]:
    fields = dataclasses.fields(schema)
    return [f.name for f in fields if f.default is NO_DEFAULT and f.default_factory is NO_DEFAULT]


def resolved(found: DictConfig | ListConfig, key: Any, path: str, problems: Problems) -> Any:
    """``found[key]`` with its interpolation resolved, or ``UNREADABLE`` once that has been reported."""
    try:
        return found[key]
    except MissingMandatoryValue:
        problems.add(path, f"missing; replace ??? by {EXPECTED.get(key, 'a value')}")
    except OmegaConfBaseException as error:
        problems.add(path, reason(error))
    return UNREADABLE


def _converted(schema: type, key: str, hint: Any, value: Any, path: str, problems: Problems) -> Any:
    """``value`` as OmegaConf's type checks have it for this key, or ``UNREADABLE`` once its problem is reported.

    An environment variable is text, so its conversions from text are wanted; those from a number to text or to a
    truth value would hide a mistake.
    """
    kinds = _alternatives(hint)
    number = isinstance(value, int | float)
    hidden = (number and str in kinds and float not in kinds) or (
        number and bool in kinds and not isinstance(value, bool)
    )
    try:
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        if not hidden:
            node = OmegaConf.structured(_alone(schema, key))
            OmegaConf.update(node, key, literal(value))
            return value if isinstance(value, list | dict) or str in kinds else node[key]
    except (MissingMandatoryValue, InterpolationResolutionError) as error:  # inside a list or a mapping
        problems.add(path, reason(error))
        return UNREADABLE
    except OmegaConfBaseException:
        pass
    guess = did_you_mean(value, _choices(hint)) if isinstance(value, str) else ""
    problems.wrong(path, value, f"{guess}{'it may be' if guess else 'write'} {_expected(key, hint)}")
    return UNREADABLE


def literal(value: Any) -> Any:
    """``value`` with its texts escaped, so that OmegaConf reads back what is there rather than an interpolation."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, list):
        return [literal(item) for item in value]
    return {key: literal(item) for key, item in value.items()} if isinstance(value, dict) else value


def reason(error: Exception) -> str:
    """An OmegaConf or YAML error in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem or error.context} (line {mark.line + 1}, column {mark.column + 1})"
    line = str(error).splitlines()[0]
    return re.sub(r"^\w+ raised while resolving interpolation: (\"?)(.*)\1$", r"\2", line)


def did_you_mean(name: str, known: list[str]) -> str:
    """``did you mean 'x'? `` where one of ``known`` is close to ``name``; else nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def known_episode(id: str, ids: list[str]) -> str:
    """``id``. ``ConfigError`` where it is none of ``ids``."""
    if id not in ids:
        close = did_you_mean(id, ids)
        raise ConfigError([f"--episode: {id!r} is none of {len(ids)} episodes; {close}the first is {ids[0]!r}"])
    return id


def key_names(schema: type) -> str:
    return ", ".join(f.name for f in dataclasses.fields(schema))


def _expected(key: str, hint: Any) -> str:
    if choices := _choices(hint):
        return _either(choices)
    return EXPECTED.get(key) or _either([_WORDS[typing.get_origin(h) or h] for h in _alternatives(hint)])


def _choices(hint: Any) -> list[str]:
    """The names of a closed set."""
    return [str(c) for h in _alternatives(hint) if typing.get_origin(h) is Literal for c in typing.get_args(h)]


def _alternatives(hint: Any) -> list[Any]:
    """The types that ``hint`` allows, other than None."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [h for h in (typing.get_args(hint) if union else (hint,)) if h is not type(None)]


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith((outer + ".", outer + "["))


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, DictConfig | dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, ListConfig | list):
        return "a list" if value else "an empty list"
    return repr(value)
