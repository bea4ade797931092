"""The library's front door: what the command line does, as functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from robocache.config.job import Job
from robocache.config.load import job_from_mapping, load_job
from robocache.config.resolved import resolved_yaml
from robocache.engine import run as engine
from robocache.engine.run import Progress
from robocache.output.tables import Summary
from robocache.output.verify import Verification, verify

__all__ = ["Progress", "Summary", "Verification", "run", "verify"]


def run(
    config: str | Mapping[str, Any] | Job,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Make the dataset that a config describes, or go on with it.

    config:    path of a YAML file, the same as a mapping, or a :class:`~robocache.config.job.Job`
    overrides: ``key=value`` for a YAML file, e.g. ``timeline.rate_hz=100``
    overwrite: replace an output that another config wrote
    progress:  called after each committed shard

    ``ConfigError``, ``InputError`` (nothing matches input.uri), ``OutputError``: nothing is lost, run again.
    """
    job = to_job(config, overrides)
    return engine.run(job, resolved_yaml(job), overwrite=overwrite, progress=progress)


def to_job(config: str | Mapping[str, Any] | Job, overrides: Sequence[str] = ()) -> Job:
    """The job that a config, in any of the forms that :func:`run` takes, asks for. ``ConfigError``."""
    if isinstance(config, Job):
        return config
    if isinstance(config, Mapping):
        return job_from_mapping(config)
    return load_job(config, overrides)
