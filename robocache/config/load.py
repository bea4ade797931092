"""The configuration edge: YAML and overrides in, one :class:`~robocache.config.job.Job` out, or every mistake at once.

OmegaConf is used here and nowhere further in. Interpolations (``${oc.env:NAME,default}``, ``${input.uri}``) are
resolved; nothing in a config imports code. Relative paths are relative to the current directory, as in a shell.

Overrides are ``path=value`` with the value read as YAML: ``timeline.rate_hz=100``, ``output.uri=out2``. Feature names
contain dots, so a feature is written as errors print it (``features.observation.state[1].max_gap=1s``) where the file
has it, and in brackets where the override adds it (``features[observation.effort]=/joint_states.effort``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robocache.config.actions import check_deltas
from robocache.config.checks import (
    check_cluster,
    check_lerobot,
    check_names,
    check_output,
    check_reach,
    check_reference,
    check_secrets,
    check_trim,
)
from robocache.config.features import features as read_features
from robocache.config.features import selected_width
from robocache.config.inputs import read_input
from robocache.config.job import Job, QualitySpec, TimelineSpec, TrimSpec
from robocache.config.reading import Problems, key_names, read_section, reason
from robocache.config.schema import EXPECTED, Config, Quality, Timeline, Trim
from robocache.config.segments import read_segments
from robocache.config.splits import read_splits
from robocache.config.values import at_least, limit, parse_rate, parsed, seconds
from robocache.errors import ConfigError


def to_job(config: str | Mapping[str, Any] | Job, overrides: Sequence[str] = ()) -> Job:
    """The job that a config asks for: a path of a YAML file, the same as a mapping, or a job as it is.

    ``overrides`` are for files. ``ConfigError``.
    """
    if isinstance(config, Job):
        return config
    if isinstance(config, Mapping):
        return job_from_mapping(config)
    return load_job(config, overrides)


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


def _job(config: DictConfig, problems: Problems) -> Job:
    checked = read_section(Config, config, "", problems)
    job_input = read_input(checked.input, problems)
    features = read_features(checked.features, problems)
    timeline = _timeline(checked.timeline, problems)
    segments = read_segments(checked.input.segments, problems)
    if checked.input.on_restart == "split" and segments.cuts:
        problems.add("input.on_restart", "recordings that are cut into segments have one clock; write sort")
    quality = _quality(checked.quality, checked.input.on_restart, problems)
    check_reference(timeline, features, problems)
    check_deltas(features, timeline, problems)
    check_trim(features, timeline, checked.output, problems)
    at_least(problems, "input.max_failed_episodes", checked.input.max_failed_episodes, 0)
    at_least(problems, "input.max_vanished", checked.input.max_vanished, 0)
    seconds(problems, "input.read_timeout", checked.input.read_timeout)
    at_least(problems, "input.max_unpacked_mb", checked.input.max_unpacked_mb, 1)
    for key in ("shard_mb", "part_mb", "keep_versions"):
        at_least(problems, f"output.{key}", getattr(checked.output, key), 1)
    at_least(problems, "output.row_group_rows", checked.output.row_group_rows, 0)
    splits = read_splits(checked.splits, problems)
    at_least(problems, "compute.max_memory_mb", checked.compute.max_memory_mb, 1)
    at_least(problems, "compute.threads", checked.compute.threads, 0)
    at_least(problems, "compute.processes", checked.compute.processes, 0)
    at_least(problems, "compute.isolate_memory_mb", checked.compute.isolate_memory_mb, 0)
    check_cluster(checked.cluster, checked.compute, problems)
    check_names(features, checked.output, problems)
    check_lerobot(features, timeline, checked.output, problems)
    check_output(job_input.uri, checked.output, problems)
    check_secrets(job_input.uri, checked.output, problems)
    check_reach(job_input.uri, checked.output, checked.cluster, problems)
    if lines := problems.lines():
        raise ConfigError(lines)
    return Job(
        input=job_input,
        features=features,
        timeline=timeline,
        output=checked.output,
        compute=checked.compute,
        cluster=checked.cluster,
        quality=quality,
        max_failed_episodes=checked.input.max_failed_episodes,
        max_vanished=checked.input.max_vanished,
        read_timeout=checked.input.read_timeout,
        splits=splits,
        segments=segments,
    )


def _quality(cfg: Quality, on_restart: Any, problems: Problems) -> QualitySpec:
    for key in ("min_kept", "min_valid", "max_dropped"):
        value = getattr(cfg, key)
        if not problems.under(f"quality.{key}") and not 0 <= value <= 1:
            problems.wrong(f"quality.{key}", value, "write a share between 0 and 1")
    late = limit(cfg.max_late, "quality.max_late", problems)
    if late == "auto" or late is None:
        if not problems.under("quality.max_late"):
            problems.wrong("quality.max_late", cfg.max_late, f"write {EXPECTED['max_late']}")
        late = 0
    return QualitySpec(cfg.on_fail, cfg.min_kept, cfg.min_valid, cfg.max_dropped, late, on_restart)


def _timeline(cfg: Timeline, problems: Problems) -> TimelineSpec:
    if problems.under("timeline.rate_hz", "timeline.reference"):
        return TimelineSpec()
    if (cfg.rate_hz is None) == (cfg.reference is None):
        found = "neither rate_hz nor reference" if cfg.rate_hz is None else "both rate_hz and reference"
        problems.add("timeline", f"found {found}; write rate_hz, or else the reference source whose stamps to use")
    if cfg.reference is not None:
        selected_width(cfg.reference, "timeline.reference", problems)
    rate = parsed(parse_rate, cfg.rate_hz, "timeline.rate_hz", problems)
    return TimelineSpec(rate, cfg.reference, cfg.range, cfg.causal, cfg.provenance, _trim(cfg.trim, problems))


def _trim(cfg: Trim | None, problems: Problems) -> TrimSpec | None:
    if cfg is None or problems.under("timeline.trim"):
        return None
    features = {str(name): float(below) for name, below in cfg.features.items()}
    if not features:
        problems.wrong("timeline.trim.features", {}, "write features and thresholds, such as {action: 0.001}")
    for name, below in features.items():
        if not 0 <= below < math.inf:
            problems.wrong(f"timeline.trim.features.{name}", below, "write a number of 0 or more")
    return TrimSpec(tuple(features.items()), cfg.rows)


def _load_yaml(path: str) -> DictConfig:
    try:
        with open(path, encoding="utf-8") as file:
            _refuse_depth(file.read())
        config = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([f"cannot be parsed: {reason(error)}"]) from None
    except RecursionError:
        raise ConfigError([_DEEP]) from None
    if not isinstance(config, DictConfig):
        raise ConfigError([f"found a list; write a mapping with the keys {key_names(Config)}"])
    return config


#: No config nests deeper; to parse what does takes time that grows with the square of its depth.
_MOST_DEPTH = 100
_DEEP = "cannot be parsed: it nests lists or mappings hundreds deep"


def _refuse_depth(text: str) -> None:
    depth = 0
    for token in yaml.scan(text):
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > _MOST_DEPTH:
            raise ConfigError([_DEEP])


_OPENING = (
    yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken, yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken,
)  # fmt: skip
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def _apply_override(config: DictConfig, override: str, problems: Problems) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        problems.add(f"override {override!r}", "write path=value, such as timeline.rate_hz=100")
        return
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        OmegaConf.update(config, _bracketed(config, key.strip()), value["value"], merge=False)  # type: ignore
    except (OmegaConfBaseException, yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
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
