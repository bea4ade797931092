"""What each source is, settled once for the dataset: from the recordings' schemas, by what most of them say.

Nothing of the data is read for it but, where a schema leaves the number of columns open (a joint state's positions),
one message of some recordings. So a name that no recording has is found before anything is read.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.config.job import Feature, FeatureSource, Job
from robocache.engine.bounded import Bounded
from robocache.engine.retry import with_retries
from robocache.errors import ConfigError, InputError, MissingError
from robocache.features import feature_type
from robocache.formats import describe_episode
from robocache.ops.modes import WIDTHS
from robocache.output.schema import FeatureType
from robocache.threads import mapped
from robocache.types import EpisodeRef, Source, StreamType, array_type, numpy_type

#: Modes that compute new numbers; the others pick a sample.
COMPUTING = ("linear", "cubic", "mean", "slerp", "pose", "angle")
SELECTING = ("nearest", "previous", "next")
#: All samples of a bin, see :mod:`robocache.engine.windows`.
WINDOW = "window"
#: Modes that a row can do with what has been recorded before it.
LOOKING_BACK = ("previous", "mean", WINDOW)
#: Recordings whose messages are looked into where the schemas leave a width open, spread over the listing.
LOOKED_INTO = 64
_THREADS = 16  # describing waits for storage, not for the processor


@dataclass(frozen=True)
class SourceTypes:
    """What the sources of a job are.

    types:   by :attr:`~robocache.types.Source.key`; ``about["names"]`` is the order that every recording is brought to
    seen_in: the first episode of each type, for messages
    notes:   what a person must know of how they were settled, a sentence each
    """

    types: Mapping[str, StreamType] = field(default_factory=dict)
    seen_in: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON values: ``schema`` for :meth:`from_json`, ``described`` for people."""
        about = {key: {"about": json.dumps(dict(kind.about))} for key, kind in self.types.items()}
        fields = [pa.field(key, kind.arrow, metadata=about[key]) for key, kind in self.types.items()]
        return {
            "described": {key: describe_type(kind) for key, kind in self.types.items()},
            "schema": b64encode(pa.schema(fields).serialize().to_pybytes()).decode(),
            "seen_in": dict(self.seen_in),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> SourceTypes:
        """What :meth:`to_json` gave."""
        schema = pa.ipc.read_schema(pa.py_buffer(b64decode(found["schema"])))
        types = {f.name: StreamType(f.type, json.loads(f.metadata[b"about"])) for f in schema}
        return cls(types, found["seen_in"], tuple(found["notes"]))

    def wanted(self, sources: Sequence[Source]) -> list[Source]:
        """The sources to read, with the names of their columns in the settled order; all, where nothing is settled."""
        if not self.types:
            return list(sources)  # no recording could be opened; reading them says why
        return [
            Source(s.path, s.stamp, tuple(self.types[s.key].about.get("names", ())))
            for s in sources
            if s.key in self.types
        ]


def mode_of(source: FeatureSource, type: StreamType) -> str:
    """The alignment of a source: its own, or by what it holds. Quaternions and poses as such, other floats linearly;
    whole numbers, truth values and text hold until the next one; images, clouds and payloads are the nearest.
    """
    if source.align != "auto":
        return source.align
    kind = type.about.get("kind")
    if kind == "quaternion" and type.shape == (WIDTHS["slerp"],):
        return "slerp"
    if kind == "pose" and type.shape == (WIDTHS["pose"],):
        return "pose"
    if kind in ("image", "cloud"):
        return "nearest"
    if pa.types.is_floating(type.element):
        return "linear"
    held = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
    small = type.width <= 64  # an image of whole numbers is no state that holds
    return "previous" if small and any(test(type.element) for test in held) else "nearest"


def mode_in(job: Job, feature: Feature, source: FeatureSource, type: StreamType) -> str:
    """As :func:`mode_of`; an observation of a causal timeline holds unless the config says how it is aligned. A window
    is a mode of its own.
    """
    if source.window:
        return WINDOW
    causal = job.timeline.causal and feature.role != "action"
    if source.align == "auto" and (causal or feature.picks):
        return "previous" if causal else "nearest"
    return mode_of(source, type)


def pose_mode(job: Job, feature: Feature) -> str:
    """How the pose of a feature's clouds is brought to their stamps."""
    return "previous" if job.timeline.causal and feature.role != "action" else "pose"


def resolve(job: Job, refs: Sequence[EpisodeRef], bounded: Bounded | None = None) -> SourceTypes:
    """Settle the type of every source; empty where no recording can be opened. ``bounded`` makes the readers' calls.

    ``ConfigError`` where a required source, or the time that the config names, is in no recording, or a source cannot
    be aligned or written as the config says; ``OSError`` where nothing can be opened and the storage is why.
    """
    good = [ref for ref in refs if not ref.failure]
    schemas, missing, storage = _describe(job, good, bounded, look=False)
    if not schemas:
        if missing:
            raise ConfigError([f"no episode has all that the config names; the first: {missing}"])
        if storage is not None:
            raise storage
        return SourceTypes()
    settled, seen_in, notes = _majority(job, schemas)
    if problems := _missing(job, schemas):  # said before any message is looked at, which would tell what is open
        closed = {key: "" if settled[key].open else id for key, id in seen_in.items()}
        raise ConfigError([*problems, *_problems(job, settled, closed)])
    if any(t.open for found in schemas.values() for t in found.values()):
        step = -(-len(good) // LOOKED_INTO)
        some = [ref for ref in good if ref.id in schemas][::step]
        looked, missing, _ = _describe(job, some, bounded, look=True)
        if not looked and missing:
            raise ConfigError([f"no episode has all that the config names; the first: {missing}"])
        known = {key for found in schemas.values() for key in found}
        schemas = {**{id: _closed(found) for id, found in schemas.items()}, **looked}
        settled, seen_in, notes = _majority(job, schemas, known)
    if problems := _problems(job, settled, seen_in):
        raise ConfigError(problems)
    return SourceTypes(settled, seen_in, tuple(notes))


def _closed(found: Mapping[str, StreamType]) -> dict[str, StreamType]:
    return {key: t for key, t in found.items() if not t.open}


def _describe(
    job: Job, refs: Sequence[EpisodeRef], bounded: Bounded | None, *, look: bool
) -> tuple[dict[str, dict[str, StreamType]], str, OSError | None]:
    """By episode id, in the order of the listing; the first lack that the config names; the last storage fault."""

    def one(ref: EpisodeRef) -> dict[str, StreamType] | Exception:
        describe = partial(describe_episode, ref, job.sources, job.input, look=look)
        if bounded is not None:
            describe = partial(bounded, f"describing {ref.id}", describe)
        try:
            return with_retries(job.cluster.max_attempts, f"episode {ref.id}", describe)
        except (InputError, OSError) as error:
            return error

    results = mapped(one, refs, _THREADS)
    missing, storage = "", None
    found: dict[str, dict[str, StreamType]] = {}
    for ref, result in zip(refs, results, strict=True):
        if isinstance(result, MissingError):
            missing = missing or str(result)
        elif isinstance(result, OSError):
            storage = result
        elif not isinstance(result, Exception):  # what is damaged goes to the quarantine as its shard is processed
            found[ref.id] = result
    return found, missing, storage


def _missing(job: Job, schemas: Mapping[str, Mapping[str, StreamType]]) -> list[str]:
    """Required sources that no recording has."""
    have = {key for found in schemas.values() for key in found}
    first = next(iter(schemas))
    problems = []
    for feature in job.features:
        for k, s in enumerate(feature.streams):
            if s.key not in have and not s.optional:
                where = f"{feature.name}.pose" if s is feature.pose else f"{feature.name}[{k}]"
                problems.append(
                    f"features.{where}.source: {s.source} is in none of {len(schemas)} episodes (first: "
                    f"{first}); `robocache inspect` lists what they have"
                )
    reference = job.reference
    if reference is not None and reference.key not in have:
        problems.append(
            f"timeline.reference: {reference.source} is in none of {len(schemas)} episodes (first: {first})"
        )
    return problems


def _majority(
    job: Job, schemas: Mapping[str, Mapping[str, StreamType]], known: Collection[str] = ()
) -> tuple[dict[str, StreamType], dict[str, str], list[str]]:
    """Of each source the type that most recordings have, the first in the listing on a tie; widths above none.

    known: sources that recordings have although none could be looked into
    """
    types: dict[str, StreamType] = {}
    seen_in: dict[str, str] = {}
    notes = []
    for source in job.sources:
        votes: Counter[str] = Counter()
        first: dict[str, tuple[str, StreamType]] = {}
        elements: dict[str, set[pa.DataType]] = {}
        for id, found in schemas.items():
            if (kind := found.get(source.key)) is not None:
                vote = _vote(kind)
                votes[vote] += bool(kind.width) and not kind.open
                first.setdefault(vote, (id, kind))
                elements.setdefault(vote, set()).add(kind.element)
        if not votes:
            if source.key not in known:
                notes.append(f"{source.key} is in no recording; its columns are left empty")
            types[source.key], seen_in[source.key] = StreamType(pa.list_(pa.float32(), 0)), ""
            continue
        winner = max(votes, key=lambda v: votes[v])  # max keeps the first of equals
        seen_in[source.key], kind = first[winner]
        types[source.key] = _wide_enough(kind, elements[winner])
        others = [id for vote, (id, _) in first.items() if vote != winner]
        if others:
            notes.append(
                f"{source.key} is {describe_type(types[source.key])} in most recordings and something else in others "
                f"(the first: {others[0]})"
            )
    return types, seen_in, notes


def _vote(kind: StreamType) -> str:
    """The same for two recordings that one column can hold: numbers of one shape are one kind (a column of a text file
    holds whole numbers in one and fractions in the next), and an order of names is no other kind of robot.
    """
    what = ["number", *kind.shape] if kind.numeric else str(kind.arrow)
    return json.dumps([what, sorted(kind.about.get("names", ())), kind.about.get("element")])


def _wide_enough(kind: StreamType, elements: set[pa.DataType]) -> StreamType:
    """The type with numbers that hold those of all ``elements``."""
    if not kind.numeric or len(elements) == 1:
        return kind
    common = np.result_type(*(numpy_type(e) for e in elements))
    return StreamType(array_type(common, kind.shape), kind.about)


def describe_type(type: StreamType) -> str:
    """A type for messages: what it is and, where its columns have names, these."""
    names = type.about.get("names")
    return f"{type.arrow}" + (f" ({', '.join(names)})" if names else "")


def _problems(job: Job, types: Mapping[str, StreamType], seen_in: Mapping[str, str]) -> list[str]:
    """What the config asks of sources that they cannot give."""
    problems = []
    for feature in job.features:
        found = [types[s.key] for s in feature.sources]
        for k, (s, kind) in enumerate(zip(feature.sources, found, strict=True)):
            where = f"features.{feature.name}[{k}]"
            if not seen_in[s.key]:
                continue
            mode = mode_in(job, feature, s, kind)
            numbers = kind.numeric or pa.types.is_boolean(kind.element)
            if mode in COMPUTING and feature.picks:
                problems.append(
                    f"{where}.align: {mode} would make samples that were never recorded, and {feature.steps[0].key} "
                    f"takes them as they are; use one of {', '.join(SELECTING)}"
                )
            elif mode in COMPUTING and not pa.types.is_floating(kind.element):
                if not numbers:
                    problems.append(
                        f"{where}.align: {mode} cannot combine the {kind.arrow} of {s.source}; use one of "
                        f"{', '.join(SELECTING)}"
                    )
                elif not feature.dtype.startswith("float"):
                    problems.append(
                        f"{where}.align: {mode} makes numbers that were never recorded of the {kind.element} of "
                        f"{s.source}; use one of {', '.join(SELECTING)}, or set a dtype of float32 or float64"
                    )
            if job.timeline.causal and feature.role != "action" and not (s.static or mode in LOOKING_BACK):
                problems.append(
                    f"{where}.align: {mode} looks ahead; timeline.causal admits {' and '.join(LOOKING_BACK)} (over the "
                    "time since the row before) and static sources; choose one of these, or set role: action"
                )
            if mode == WINDOW and not numbers:
                problems.append(f"{where}.window: {s.source} holds {kind.arrow}; a window is of numbers")
            if not numbers and len(feature.sources) > 1:
                problems.append(f"{where}.source: {s.source} holds {kind.arrow}; it needs a feature of its own")
            if numbers and kind.width != WIDTHS.get(mode, kind.width):
                problems.append(f"{where}.align: {mode} takes {WIDTHS[mode]} columns, {s.source} has {kind.width}")
            if not numbers and feature.dtype != "auto" and not feature.steps:
                problems.append(
                    f"features.{feature.name}.dtype: {feature.dtype} is for numbers, {s.source} holds {kind.arrow}"
                )
        trimmed = dict(job.timeline.trim.features) if job.timeline.trim is not None else {}
        if feature.name in trimmed and not all(k.numeric or pa.types.is_boolean(k.element) for k in found):
            problems.append(f"timeline.trim.features.{feature.name}: holds no numbers; name a feature that does")
        if feature.pose is not None and seen_in[feature.pose.key]:
            kind = types[feature.pose.key]
            if not pa.types.is_floating(kind.element) or kind.width != WIDTHS["pose"]:
                problems.append(
                    f"features.{feature.name}.pose.source: {feature.pose.source} holds {kind.arrow}; a pose is "
                    f"{WIDTHS['pose']} numbers, x y z qx qy qz qw"
                )
        if feature.steps and all(seen_in[s.key] for s in feature.sources):
            try:
                made = feature_type(feature.name, found, feature.dtype, steps=feature.steps)
                if feature.beside:
                    _check_beside(job, types, feature, made)
            except ValueError as error:
                problems.append(f"features.{feature.name}.{error}")
        if found and all(not kind.width for kind in found) and any(seen_in[s.key] for s in feature.sources):
            seen = ", ".join(f"{list(types[s.key].shape)} in {seen_in[s.key]}" for s in feature.sources)
            sources = ", ".join(s.source for s in feature.sources)
            problems.append(f"features.{feature.name}: {sources} has no columns ({seen}); leave the feature out")
    return problems


def _check_beside(job: Job, types: Mapping[str, StreamType], feature: Feature, made: FeatureType) -> None:
    """``ValueError`` where the feature that another is seen from has other columns."""
    (other,) = (f for f in job.features if f.name == feature.beside)
    kinds = [types[s.key] for s in other.sources]
    state = feature_type(other.name, kinds, other.dtype, steps=other.steps, window=other.window)
    kind = StreamType(state.arrow, state.about)
    there, own = len(kind.about.get("convert", {}).get("names", ())) or kind.width, made.about["convert"]["names"]
    if not kind.numeric or there != len(own):
        raise ValueError(f"convert.state: {other.name} has {there} columns, the action {len(own)}: {', '.join(own)}")
