"""The configuration edge: YAML and overrides in, one :class:`~robocache.config.job.Job` out, or every mistake at once.

OmegaConf is used here and nowhere further in. Interpolations (``${oc.env:NAME,default}``, ``${input.uri}``) are
resolved; nothing in a config imports code. Relative paths are relative to the current directory, as in a shell.

Overrides are ``path=value`` with the value read as YAML: ``timeline.rate_hz=100``, ``output.uri=out2``. Feature names
contain dots, so a feature is written as errors print it (``features.observation.state[1].max_gap=1s``) where the file
has it, and in brackets where the override adds it (``features[observation.effort]=/joint_states.effort``).
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import yaml
from fsspec.core import split_protocol
from fsspec.utils import glob_translate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robocache.config.job import ClusterSpec, ComputeSpec, Feature, FeatureSource, Job, OutputSpec, TimelineSpec
from robocache.config.schema import (
    EXPECTED,
    UNREADABLE,
    Config,
    Input,
    Problems,
    Source,
    Timeline,
    did_you_mean,
    key_names,
    literal,
    read_section,
    reason,
    resolved,
)
from robocache.errors import ConfigError
from robocache.formats.base import TIME_UNITS, InputSpec, TableTimes, parse_source
from robocache.ops.modes import WIDTHS
from robocache.output.schema import INDEX_COLUMNS


def load_job(path: str, overrides: Sequence[str] = ()) -> Job:
    """Read a YAML file, apply ``overrides`` (see the module's text) and check it all.

    Raises :class:`ConfigError` with every problem found, each beginning with the file and the place in it.
    """
    problems = Problems()
    try:
        config = _load_yaml(path)
        for override in overrides:
            _apply_override(config, override, problems)
        return _job(config, problems)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None


def job_from_mapping(mapping: Mapping[str, Any]) -> Job:
    """The job that a config, given as the YAML has it, asks for.

    Raises :class:`ConfigError` with every problem found, each beginning with its path.
    """
    config = mapping if isinstance(mapping, DictConfig) else OmegaConf.create(dict(mapping))
    return _job(config, Problems())


def resolved_yaml(job: Job) -> str:
    """``job`` as a config that reads back as the same job, whatever the environment.

    Storage options are left out (they may hold credentials); a comment says so where there were any.
    """
    times = job.input.times
    config = {
        "input": {
            "uri": list(job.input.uri),
            "format": job.input.format,
            "times": times and _times_mapping(times),
            "episode": job.input.episode,
            "stamp": job.input.stamp,
            "verify_checksums": job.input.verify_checksums,
            "max_failed_episodes": job.max_failed_episodes,
        },
        "features": {feature.name: [_source_mapping(s) for s in feature.sources] for feature in job.features},
        "timeline": {
            "rate_hz": None if job.timeline.rate is None else str(job.timeline.rate),
            "reference": job.timeline.reference,
            "range": job.timeline.range,
        },
        "output": {k: v for k, v in dataclasses.asdict(job.output).items() if k != "storage_options"},
        "compute": dataclasses.asdict(job.compute),
        "cluster": dataclasses.asdict(job.cluster),
    }
    text = OmegaConf.to_yaml(OmegaConf.create(literal(config)))
    if job.input.storage_options or job.output.storage_options:
        text = "# storage_options left out: they may hold credentials\n" + text
    return text


def parse_duration(text: str) -> int:
    """Nanoseconds of ``50ms``, ``1.5s``, ``-3ms``, ``250us``, ``10ns``, exactly. ``ValueError`` says what is wrong."""
    match = re.fullmatch(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*(ns|us|ms|s)", text.strip(), re.ASCII)
    if match is None:
        raise ValueError(f"write {EXPECTED['max_gap']}")
    nanoseconds = Fraction(match[1]) * TIME_UNITS[match[2]]
    if nanoseconds.denominator != 1:
        raise ValueError("it is finer than a nanosecond; write whole nanoseconds")
    if abs(nanoseconds) >= 2**63:
        raise ValueError("it is longer than the 292 years that int64 nanoseconds hold")
    return int(nanoseconds)


def parse_rate(value: int | float | str) -> Fraction:
    """A rate in Hz exactly as written: 50, 29.97 (not its nearest binary float), ``30000/1001``.

    ``ValueError`` for anything that is not a number above 0 and up to 1e9 (a step of one nanosecond).
    """
    try:
        rate = Fraction(repr(value) if isinstance(value, float) else value)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 10**9:
        raise ValueError(f"write {EXPECTED['rate_hz']}")
    return rate


def _job(config: DictConfig, problems: Problems) -> Job:
    checked = read_section(Config, config, "", problems)
    job_input = _input(checked.input, problems)
    features = _features(checked.features, problems)
    timeline = _timeline(checked.timeline, problems)
    _at_least(problems, "input.max_failed_episodes", checked.input.max_failed_episodes, 0)
    _at_least(problems, "output.shard_mb", checked.output.shard_mb, 1)
    _at_least(problems, "compute.max_memory_mb", checked.compute.max_memory_mb, 1)
    _at_least(problems, "compute.threads", checked.compute.threads, 0)
    _check_cluster(checked.cluster, checked.compute, problems)
    _check_output(job_input.uri, checked.output, problems)
    _check_reach(job_input.uri, checked.output, checked.cluster, problems)
    if lines := problems.lines():
        raise ConfigError(lines)
    return Job(
        input=job_input,
        features=features,
        timeline=timeline,
        output=checked.output,
        compute=checked.compute,
        cluster=checked.cluster,
        max_failed_episodes=checked.input.max_failed_episodes,
    )


def _input(cfg: Input, problems: Problems) -> InputSpec:
    uris: tuple[str, ...] = ()
    if not problems.under("input.uri"):
        uris = (cfg.uri,) if isinstance(cfg.uri, str) else tuple(cfg.uri)
        if not uris or not all(uri.strip() for uri in uris):
            problems.wrong("input.uri", cfg.uri, f"write {EXPECTED['uri']}, or a list of them")
    if cfg.episode not in ("file", "folder"):
        try:
            grouped = "episode" in re.compile(cfg.episode).groupindex
        except re.error as error:
            problems.wrong("input.episode", cfg.episode, f"not a regular expression: {error}")
        else:
            if not grouped:
                guess = did_you_mean(cfg.episode, ["file", "folder"])
                problems.wrong("input.episode", cfg.episode, f"{guess}write {EXPECTED['episode']}")
    return InputSpec(
        uri=uris,
        format=cfg.format,
        storage_options=cfg.storage_options,
        times=_times(cfg, problems),
        episode=cfg.episode,
        stamp=cfg.stamp,
        verify_checksums=cfg.verify_checksums,
    )


def _times(cfg: Input, problems: Problems) -> TableTimes | None:
    times = cfg.times
    if times is None or problems.under("input.times"):
        return None
    if cfg.format in ("mcap", "lerobot"):
        problems.add("input.times", f"{cfg.format} carries its own time; leave it out")
    if (times.column is None) == (times.rate_hz is None):
        found = "neither column nor rate_hz" if times.column is None else "both column and rate_hz"
        problems.add("input.times", f"found {found}; write a time column and its unit, or else a fixed rate_hz")
    elif times.rate_hz is not None and times.unit is not None:
        problems.add("input.times.unit", "a unit belongs to a time column, not to rate_hz; leave it out")
    rate = _parsed(parse_rate, times.rate_hz, "input.times.rate_hz", problems)
    return TableTimes(column=times.column, unit=times.unit or "s", rate_hz=None if rate is None else float(rate))


def _features(found: Any, problems: Problems) -> tuple[Feature, ...]:
    if problems.under("features"):
        return ()
    if not isinstance(found, DictConfig) or not found:
        problems.wrong("features", found, f"write {EXPECTED['features']}")
        return ()
    features = []
    for name in found:
        if not isinstance(name, str) or not name.strip():
            problems.add(f"features.{name!r}", "name a feature with text, such as observation.state")
            continue
        path = f"features.{name}"
        if name in INDEX_COLUMNS:
            problems.add(path, f"every dataset has its own column {name}; choose another name")
        elif name.endswith(".valid") and name.removesuffix(".valid") in found:
            problems.add(path, f"this column marks where {name.removesuffix('.valid')} is valid; choose another name")
        value = resolved(found, name, path, problems)
        if isinstance(value, ListConfig):
            if not value:
                problems.wrong(path, value, f"write {EXPECTED['source']}, or a list of sources")
            places = [f"{path}[{i}]" for i in range(len(value))]
            items = [(resolved(value, i, place, problems), place) for i, place in enumerate(places)]
        else:
            items = [(value, path)]
        features.append(Feature(name, tuple(_source(*item, problems) for item in items if item[0] is not UNREADABLE)))
    return tuple(features)


def _source(found: Any, path: str, problems: Problems) -> FeatureSource:
    if isinstance(found, str):
        found = OmegaConf.create({"source": found})
    elif not isinstance(found, DictConfig):
        problems.wrong(path, found, f"write {EXPECTED['source']}, or a mapping with the keys {key_names(Source)}")
        return FeatureSource("")
    cfg = read_section(Source, found, path, problems)
    source = ""
    if not problems.under(f"{path}.source"):
        source = cfg.source
        width = _selected_width(source, f"{path}.source", problems)
        wanted = WIDTHS.get(cfg.align, width)
        if width is not None and width != wanted:
            problems.wrong(f"{path}.align", cfg.align, f"it takes {wanted} columns and {source} selects {width}")
    if cfg.quaternion_order is not None and cfg.align not in WIDTHS and not problems.under(f"{path}.align"):
        right = f"align {cfg.align} knows no quaternions; align slerp or pose, or leave it out"
        problems.wrong(f"{path}.quaternion_order", cfg.quaternion_order, right)
    max_gap = _parsed(parse_duration, cfg.max_gap, f"{path}.max_gap", problems)
    if max_gap is not None and max_gap < 0:
        problems.wrong(f"{path}.max_gap", cfg.max_gap, "write a duration of 0 or more; offset shifts a stream in time")
    return FeatureSource(
        source=source,
        align=cfg.align,
        max_gap=max_gap,
        offset=_parsed(parse_duration, cfg.offset, f"{path}.offset", problems) or 0,
        optional=cfg.optional,
        quaternion_order=cfg.quaternion_order or "xyzw",
    )


def _selected_width(source: str, path: str, problems: Problems) -> int | None:
    """How many columns the source's selector picks; None where only the recording can tell."""
    try:
        name, selector = parse_source(source)
    except ValueError as error:
        problems.add(path, str(error))
        return None
    if not name.strip() and selector is None:  # a table's columns need no name before them
        problems.wrong(path, source, f"write {EXPECTED['source']}")
    bounds = [(i.start or 0, i.stop) if isinstance(i, slice) else (0, 1) for i in selector or ()]
    if selector is None or any(stop is None or start < 0 or stop < 0 for start, stop in bounds):
        return None
    return sum(max(stop - start, 0) for start, stop in bounds)


def _timeline(cfg: Timeline, problems: Problems) -> TimelineSpec:
    if problems.under("timeline.rate_hz", "timeline.reference"):
        return TimelineSpec()
    if (cfg.rate_hz is None) == (cfg.reference is None):
        found = "neither rate_hz nor reference" if cfg.rate_hz is None else "both rate_hz and reference"
        problems.add("timeline", f"found {found}; write rate_hz, or else the reference source whose stamps to use")
    if cfg.reference is not None:
        _selected_width(cfg.reference, "timeline.reference", problems)
    rate = _parsed(parse_rate, cfg.rate_hz, "timeline.rate_hz", problems)
    return TimelineSpec(rate=rate, reference=cfg.reference, range=cfg.range)


def _check_output(inputs: Sequence[str], output: OutputSpec, problems: Problems) -> None:
    """A run must not read what it writes, nor write around what it reads (an overwrite would delete it)."""
    if problems.under("output.uri"):
        return
    if not output.uri.strip():
        problems.wrong("output.uri", output.uri, f"write {EXPECTED['uri']}")
        return
    for uri in inputs:
        try:
            if uri.strip() and _overlap(_absolute(uri), _absolute(output.uri)):
                problems.wrong("output.uri", output.uri, f"it overlaps the input {uri}; write a folder apart from it")
        except ValueError as error:  # a glob that fsspec cannot read either
            problems.wrong("input.uri", uri, str(error))


def _check_cluster(cluster: ClusterSpec, compute: ComputeSpec, problems: Problems) -> None:
    _at_least(problems, "cluster.max_attempts", cluster.max_attempts, 1)
    _at_least(problems, "cluster.workers", cluster.workers, 0)
    _at_least(problems, "cluster.memory_mb", cluster.memory_mb, 0)
    gpus, cpus = cluster.gpus_per_worker, cluster.cpus_per_worker
    if not 0 < cpus < math.inf or (cpus > 1 and cpus % 1):
        problems.wrong("cluster.cpus_per_worker", cpus, "write a fraction between 0 and 1, or a whole number")
    if gpus is not None and not problems.under("cluster.gpus_per_worker", "compute.device"):
        if not 0 <= gpus < math.inf or (gpus > 1 and gpus % 1):
            problems.wrong("cluster.gpus_per_worker", gpus, "write 0, a fraction between 0 and 1, or a whole number")
        elif gpus and compute.device == "cpu":
            problems.wrong("cluster.gpus_per_worker", gpus, "compute.device is cpu; write 0 or leave it out")
        elif not gpus and compute.device == "cuda":
            problems.wrong("cluster.gpus_per_worker", gpus, "compute.device is cuda; write more than 0 or leave it out")


def _check_reach(inputs: Sequence[str], output: OutputSpec, cluster: ClusterSpec, problems: Problems) -> None:
    """A running cluster's nodes share no current folder, and that of a submitted job vanishes with the job."""
    address = cluster.to_join() if cluster.mode == "ray" and not problems.under("cluster") else None
    if address is None:
        return
    right = (
        f"the nodes of the cluster at {address} share no current folder; write an absolute path that all of them see, "
        "or a URI such as s3://bucket/run-1"
    )
    for path, uris in (("input.uri", inputs), ("output.uri", (output.uri,))):
        for uri in uris if not problems.under(path) else ():
            protocol, local = split_protocol(uri)
            if protocol in (None, "file", "local") and not os.path.isabs(os.path.expanduser(local)):
                problems.wrong(path, uri, right)


def _overlap(source: str, output: str) -> bool:
    """True where the input (a file, a folder, which is searched recursively, or a glob) and the output share files."""
    plain = re.split(r"[*?\[]", source)[0]
    if plain == source:
        return f"{output}/".startswith(source.rstrip("/") + "/") or source.startswith(f"{output}/")
    folders = [output[:i] for i, c in enumerate(output) if c == "/" and i] + [output]
    parts = [f"{output}/{folder}part.{suffix}" for folder in ("", "data/") for suffix in ("parquet", "arrow")]
    return plain.startswith(f"{output}/") or any(map(re.compile(glob_translate(source)).match, folders + parts))


def _absolute(uri: str) -> str:
    """``uri`` in one spelling: local paths absolute with links resolved, no trailing slash."""
    protocol, path = split_protocol(uri)
    if protocol in (None, "file", "local"):
        return os.path.realpath(os.path.expanduser(path))
    return f"{protocol}://{path.rstrip('/')}"


def _parsed(parse: Any, value: Any, path: str, problems: Problems) -> Any:
    """``parse(value)``; None where there is no value, or once its ``ValueError`` has been reported."""
    try:
        return None if value is None else parse(value)
    except ValueError as error:
        problems.wrong(path, value, str(error))
        return None


def _at_least(problems: Problems, path: str, value: int, least: int) -> None:
    if value < least:
        problems.wrong(path, value, f"write a whole number of {least} or more")


def _load_yaml(path: str) -> DictConfig:
    try:
        config = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([f"cannot be parsed: {reason(error)}"]) from None
    if not isinstance(config, DictConfig):
        raise ConfigError([f"found a list; write a mapping with the keys {key_names(Config)}"])
    return config


def _apply_override(config: DictConfig, override: str, problems: Problems) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        problems.add(f"override {override!r}", "write path=value, such as timeline.rate_hz=100")
        return
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        OmegaConf.update(config, _bracketed(config, key.strip()), value["value"], merge=False)  # type: ignore
    except (OmegaConfBaseException, yaml.YAMLError, TypeError, ValueError) as error:
        problems.add(f"override {override!r}", f"cannot be applied: {reason(error)}")


def _bracketed(config: DictConfig, key: str) -> str:
    """``features.observation.state[0].align`` -> ``features[observation.state][0].align``: the longest known name."""
    rest = key.removeprefix("features.")
    features = config.get("features")
    if rest == key or not isinstance(features, DictConfig):
        return key
    names = [str(n) for n in features if re.match(re.escape(str(n)) + r"(?:[.\[]|$)", rest)]
    name = max(names, key=len, default=None)
    return key if name is None else f"features[{name}]{rest[len(name) :]}"


def _times_mapping(times: TableTimes) -> dict[str, Any]:
    return {"rate_hz": times.rate_hz} if times.column is None else {"column": times.column, "unit": times.unit}


def _source_mapping(source: FeatureSource) -> dict[str, Any]:
    mapping: dict[str, Any] = {"source": source.source, "align": source.align}
    if source.max_gap is not None:
        mapping["max_gap"] = _duration(source.max_gap)
    if source.offset:
        mapping["offset"] = _duration(source.offset)
    if source.optional:
        mapping["optional"] = True
    if source.align in WIDTHS:
        mapping["quaternion_order"] = source.quaternion_order
    return mapping


def _duration(nanoseconds: int) -> str:
    unit = next(unit for unit in ("s", "ms", "us", "ns") if nanoseconds % TIME_UNITS[unit] == 0)
    return f"{nanoseconds // TIME_UNITS[unit]}{unit}"
