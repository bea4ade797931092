"""What a job's input is, before anything of it is processed: its episodes, and the types of its sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from robocache.config.job import Job
from robocache.engine.bounded import Bounded
from robocache.engine.retry import with_retries
from robocache.engine.segments import examples, split_robots, split_segments
from robocache.engine.source_types import SourceTypes, resolve
from robocache.engine.takes import split_takes
from robocache.formats import by_content, describe_passed, list_input
from robocache.output.commit import OutputWriter
from robocache.types import EpisodeRef, PassedOver


@dataclass(frozen=True)
class Listed:
    """The episodes of an input, what their sources are, the files that no reader takes, and what the episodes' ids are
    relative to.
    """

    episodes: list[EpisodeRef]
    types: SourceTypes
    passed_over: tuple[PassedOver, ...]
    root: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person must know of the input, a line each."""
        return (*self.types.notes, *([describe_passed(self.passed_over)] if self.passed_over else ()))


def listing(job: Job, output: OutputWriter | None = None, sized: Callable[[int], None] = lambda nbytes: None) -> Listed:
    """Lists the input and settles its types. Writes nothing.

    output: where the version that stands was made with this config, what it has settled holds for what is added to it
    sized:  called with the bytes of all recordings as soon as they are known, long before this returns

    ``ConfigError``, ``InputError`` (nothing matches input.uri), ``OSError`` where the storage fails.
    """
    settled, root, ids = None, None, frozenset[str]()
    if output is not None and output.standing is not None and (known := output.known()) is not None:
        root, ids = output.standing.version.root, frozenset(known.present())
        if output.standing.identity == job.identity() and not output.anew:
            settled = SourceTypes.from_json(output.standing.version.types)
    attempts = job.cluster.max_attempts
    with Bounded(job, spread=True) as bounded:
        list_once = partial(list_input, job.input, root, ids, ask=bounded.persistent, sized=sized)
        found = with_retries(attempts, "listing", list_once)
        refs = split_robots(job, found.episodes)
        if job.input.fingerprint == "content":
            tell = partial(by_content, refs, job.sources, job.input, bounded.persistent)
            refs = with_retries(attempts, "reading what tells a changed file", tell)
        refs = split_segments(job, refs, bounded)
        types = resolve(job, examples(refs), bounded) if settled is None else settled
        if job.quality.on_restart == "split" and types.types:
            refs = split_takes(job, types, refs, bounded)
    return Listed(refs, types, tuple(found.passed_over), found.root)
