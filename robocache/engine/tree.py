"""What a run of format lerobot does beside its parts: LeRobot's tree, made of the version that it ends with."""

from __future__ import annotations

from robocache.config.job import Job
from robocache.engine.cores import threads_of
from robocache.engine.prepare import Preparer
from robocache.engine.source_types import SourceTypes
from robocache.errors import ConfigError
from robocache.output.commit import OutputWriter
from robocache.output.dataset import Output
from robocache.output.lerobot import tree
from robocache.output.lerobot.features import unfit
from robocache.output.lerobot.options import TreeSpec
from robocache.output.schema import marks
from robocache.output.version import Version


def refuse_columns(job: Job, types: SourceTypes) -> None:
    """``ConfigError`` where a feature is of a kind that LeRobot has none of, before anything is processed."""
    if job.output.format != "lerobot":
        return
    schema, problems = Preparer(job, types).schema, []
    for name in marks(schema):
        if why := unfit(schema.field(name)):
            problems.append(f"features.{name}: {why}; leave it out, or write output.format parquet or arrow")
    task = job.output.lerobot.task_feature
    if task is not None and str(schema.field(task).type) != "string":
        problems.append(f"output.lerobot.task_feature: {task} holds {schema.field(task).type}, no text")
    if problems:
        raise ConfigError(problems)


def finalise(job: Job, output: OutputWriter, version: Version) -> tuple[str, ...]:
    """Let the tree be that of the version; of another format let there be none. Returns notes for a person."""
    if job.output.format != "lerobot":
        tree.withdraw(output)
        return ()
    threads = threads_of(job.compute.threads)
    return tree.finalise(output, Output(output.store, version), tree_spec(job), threads)


def tree_spec(job: Job) -> TreeSpec:
    """What decides a tree of the job's output. ``ConfigError`` where the timeline has no rate."""
    if job.timeline.rate is None:
        raise ConfigError(
            ["timeline.reference: LeRobot has a rate and no stamps; an output of timeline.rate_hz can be one"]
        )
    options = job.output.lerobot
    must = [f.name for f in job.features if not all(s.optional for s in f.sources)]
    required = [name for name in must if name != options.task_feature]
    ids = job.splits.ids.values()
    return TreeSpec(
        options,
        job.timeline.rate,
        tuple(map(job.output.column, required)),
        job.output.codec,
        tuple(name for name, _ in job.splits.shares) or tuple(dict.fromkeys(ids)),
        job.input.storage_options,
    )
