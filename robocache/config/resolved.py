"""A job as a config again: what is stored beside the output it made."""

from __future__ import annotations

import dataclasses
from typing import Any

from omegaconf import OmegaConf

from robocache.config.inputs import csv_mapping, times_mapping
from robocache.config.job import Feature, FeatureSource, Job
from robocache.config.reading import literal
from robocache.config.segments import segments_mapping
from robocache.config.splits import splits_mapping
from robocache.config.steps import step_mapping
from robocache.config.values import duration_text, period_name
from robocache.ops.modes import WIDTHS


def resolved_yaml(job: Job) -> str:
    """``job`` as a config that reads back as the same job, whatever the environment.

    Storage options are left out (they may hold credentials); a comment says so where there were any.
    """
    times, trim = job.input.times, job.timeline.trim
    config = {
        "input": {
            "uri": list(job.input.uri),
            "format": job.input.format,
            "times": times and times_mapping(times),
            "csv": csv_mapping(job.input.csv) or None,
            "episode": job.input.episode,
            "stamp": job.input.stamp,
            "segments": segments_mapping(job.segments),
            "select": list(job.input.select) or "",
            "verify_checksums": job.input.verify_checksums,
            "salvage": job.input.salvage,
            "max_failed_episodes": job.max_failed_episodes,
            "max_vanished": job.max_vanished,
            "read_timeout": job.read_timeout,
            "max_unpacked_mb": job.input.max_unpacked >> 20,
            "fingerprint": job.input.fingerprint,
            "on_restart": job.quality.on_restart,
        },
        "features": {feature.name: _feature_mapping(feature) for feature in job.features},
        "timeline": {
            "rate_hz": None if job.timeline.rate is None else str(job.timeline.rate),
            "reference": job.timeline.reference,
            "range": job.timeline.range,
            "causal": job.timeline.causal,
            "provenance": job.timeline.provenance,
            "trim": None if trim is None else {"features": dict(trim.features), "rows": trim.rows},
        },
        "output": {k: v for k, v in dataclasses.asdict(job.output).items() if k != "storage_options"},
        "compute": dataclasses.asdict(job.compute),
        "cluster": dataclasses.asdict(job.cluster),
        "quality": {
            **{k: v for k, v in dataclasses.asdict(job.quality).items() if k != "on_restart"},
            "max_late": duration_text(job.quality.max_late),
        },
        "splits": splits_mapping(job.splits),
    }
    text = OmegaConf.to_yaml(OmegaConf.create(literal(config)))
    if job.input.storage_options or job.output.storage_options:
        text = "# storage_options left out: they may hold credentials\n" + text
    return text


def _feature_mapping(feature: Feature) -> Any:
    """Its sources; with keys of its own a mapping."""
    sources, usual = [_source_mapping(s) for s in feature.sources], Feature("", ())
    own = {key: value for key in ("dtype", "role") if (value := getattr(feature, key)) != getattr(usual, key)}
    if feature.pose is not None:
        own["pose"] = {**_source_mapping(feature.pose), "quaternion_order": feature.pose.quaternion_order}
    for step in feature.steps:
        own[step.key] = step_mapping(step)
    return {"sources": sources, **own} if own else sources


def _source_mapping(source: FeatureSource) -> dict[str, Any]:
    """The source with the keys that are not at their defaults, and how it is aligned in any case."""
    mapping: dict[str, Any] = {"source": source.source, "align": source.align, "max_gap": _limit(source.max_gap)}
    if source.snap != "auto":
        mapping["snap"] = _limit(source.snap or None)
    if source.offset:
        mapping["offset"] = duration_text(source.offset)
    if source.period is not None:
        mapping["period"] = period_name(source.period)
    usual = FeatureSource(source.source)
    for key in ("optional", "static", "stamp", "nonfinite", "repeats", "window"):
        if getattr(source, key) != getattr(usual, key):
            mapping[key] = getattr(source, key)
    if source.align in WIDTHS:
        mapping["quaternion_order"] = source.quaternion_order
    return mapping


def _limit(value: int | str | None) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else duration_text(value)
