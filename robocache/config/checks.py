"""What sections of a config must agree on with each other: input, output, cluster and compute."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

from fsspec.core import split_protocol
from fsspec.utils import glob_translate

from robocache.config.job import ClusterSpec, ComputeSpec, Feature, OutputSpec, TimelineSpec
from robocache.config.reading import Problems, did_you_mean
from robocache.config.schema import EXPECTED
from robocache.config.values import at_least, seconds
from robocache.output.lerobot.features import INDEX
from robocache.output.schema import EPISODE_ID, INDEX_COLUMNS

#: What queries call what must not be seen: signatures of AWS, Google and Azure, tokens and keys of others.
_SECRET = re.compile(r"signature|^sig$|token|secret|password|credential|api_?key|access_?key", re.IGNORECASE)


def check_reference(timeline: TimelineSpec, features: Sequence[Feature], problems: Problems) -> None:
    """The reference has the offset that its feature gives it, so there must be one."""
    offsets = {s.offset for f in features for s in f.sources if s.source == timeline.reference}
    if len(offsets) > 1:
        shown = ", ".join(f"{ns:+d} ns" for ns in sorted(offsets))
        problems.add("timeline.reference", f"{timeline.reference} has the offsets {shown} in the features; give it one")


def check_trim(features: Sequence[Feature], timeline: TimelineSpec, output: OutputSpec, problems: Problems) -> None:
    """Rows are trimmed by features that there are; and a chain of rows has no holes."""
    trim = timeline.trim
    if trim is None or problems.under("features", "timeline"):
        return
    names = [feature.name for feature in features]
    for name, _ in trim.features:
        if name not in names:
            problems.add(f"timeline.trim.features.{name}", f"no such feature; {did_you_mean(name, names)}write another")
    if trim.rows == "all":
        chained = [feature.name for feature in features if any(step.rows for step in feature.steps)]
        if chained:
            problems.wrong("timeline.trim.rows", "all", f"{chained[0]} goes by the rows around it; write ends")
        if output.format == "lerobot":
            problems.wrong("timeline.trim.rows", "all", "LeRobot has a rate and no stamps; write ends")


def check_output(inputs: Sequence[str], output: OutputSpec, problems: Problems) -> None:
    """A run must not read what it writes, nor write around what it reads (an overwrite would delete it)."""
    if problems.under("output.uri"):
        return
    if not output.uri.strip():
        problems.wrong("output.uri", output.uri, f"write {EXPECTED['uri']}")
        return
    for uri in inputs:
        try:
            if uri.strip() and overlaps(uri, output.uri):
                problems.wrong("output.uri", output.uri, f"it overlaps the input {uri}; write a folder apart from it")
        except ValueError as error:  # a glob that fsspec cannot read either
            problems.wrong("input.uri", uri, str(error))


def check_secrets(inputs: Sequence[str], output: OutputSpec, problems: Problems) -> None:
    """URIs are written into the output, the log and error messages, so that no password may be in one."""
    right = "keep it out of the URI, which is written into the output and the log: give it in storage_options"
    for path, uris in (("input.uri", inputs), ("output.uri", (output.uri,))):
        for uri in uris if not problems.under(path) else ():
            for part in uri.split("::"):
                parts = urlsplit(part if "://" in part else "")
                if parts.password is not None:
                    problems.add(path, f"holds the password of {parts.username!r} at {parts.hostname}; {right}")
                for name, _ in parse_qsl(parts.query):
                    if _SECRET.search(name):
                        problems.add(path, f"holds a secret, {name!r}, in the query behind {parts.path!r}; {right}")


def check_names(features: Sequence[Feature], output: OutputSpec, problems: Problems) -> None:
    """Columns' names are different ones still where the separator stands for their dots."""
    if problems.under("output.name_separator", "features"):
        return
    if not output.name_separator:
        problems.wrong("output.name_separator", "", "write what is to stand for a dot in a column's name, such as '_'")
        return
    names = [
        *INDEX_COLUMNS,
        EPISODE_ID,
        *(f"{f.name}{end}" for f in features for end in ("", ".valid", ".start", ".stamps")),
    ]
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(output.column(name), name)
        if other != name:
            right = "choose another separator, or name one of them differently"
            problems.add("output.name_separator", f"{other} and {name} are then both {output.column(name)}; {right}")


def check_lerobot(features: Sequence[Feature], timeline: TimelineSpec, output: OutputSpec, problems: Problems) -> None:
    """LeRobot knows rows by their number and a rate, and has names of its own."""
    options = output.lerobot
    at_least(problems, "output.lerobot.data_mb", options.data_mb, 1)
    if output.format != "lerobot" or problems.under("output", "features"):
        return
    if timeline.reference is not None:
        right = "LeRobot has a rate and no stamps; write timeline.rate_hz"
        problems.wrong("timeline.reference", timeline.reference, right)
    names = [f.name for f in features]
    for name in names:
        if "/" in name or name in INDEX or name == "task":
            right = "LeRobot's features have no slash in their names" if "/" in name else "LeRobot has its own"
            problems.add(f"features.{name}", f"{right}; choose another name")
    task = options.task_feature
    if task is not None and task not in names:
        problems.wrong("output.lerobot.task_feature", task, f"{did_you_mean(task, names)}write a feature's name")


def check_cluster(cluster: ClusterSpec, compute: ComputeSpec, problems: Problems) -> None:
    at_least(problems, "cluster.max_attempts", cluster.max_attempts, 1)
    at_least(problems, "cluster.workers", cluster.workers, 0)
    at_least(problems, "cluster.memory_mb", cluster.memory_mb, 0)
    seconds(problems, "cluster.shard_deadline", cluster.shard_deadline)
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


def check_reach(inputs: Sequence[str], output: OutputSpec, cluster: ClusterSpec, problems: Problems) -> None:
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


def overlaps(source: str, output: str) -> bool:
    """True where the input (a file, a folder, which is searched recursively, or a glob) and the output share files."""
    source, output = _absolute(source), _absolute(output)
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
