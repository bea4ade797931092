"""Which episodes of a shard kill the process that works on them, or hold it up? Tried in processes of their own, forked
from one that has imported what they need: an import of torch takes longer than most episodes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from robocache.engine.child import Child, EndedError
from robocache.engine.deadline import DeadlineError
from robocache.engine.forkserver import ForkServer
from robocache.engine.process import Blamed, Processor
from robocache.engine.shards import Shard


def deadly_episodes(processor: Processor, shard: Shard, blamed: Blamed, deaths: int) -> dict[int, str]:
    """Index and reason of each episode, but those ``blamed``, that ends ``deaths`` processes which do nothing else, or
    takes longer alone than a shard may.

    ``WorkersError`` where no process can be started.
    """
    server = ForkServer(["robocache.engine.worker", *({"ray.cloudpickle"} & sys.modules.keys())])
    try:
        server.ready(None)
        return _tried(processor, shard, blamed, deaths, partial(Child, start=server.fork))
    finally:
        server.close()


def _tried(
    processor: Processor, shard: Shard, blamed: Blamed, deaths: int, started: Callable[[], Child]
) -> dict[int, str]:
    seconds = processor.job.cluster.shard_deadline
    found: dict[int, str] = {}
    child: Child | None = None
    for index, ref in shard.episodes():
        if index in blamed:
            continue
        died: list[str] = []  # how, while doing nothing but this one
        alone = child is None
        while len(died) < deaths:
            child = child or started()
            try:
                one = Shard(shard.index, (index,), (ref,))
                child.ask(partial(_process, processor, one), f"processing {ref.id}", seconds, "cluster.shard_deadline")
            except DeadlineError:
                if alone:
                    found[index] = f"processing it alone has not ended within {seconds:g} s (cluster.shard_deadline)"
                    child = None
                    break
                end = ""
            except EndedError as error:
                end = str(error)
            except Exception as error:  # that of a device that is lost, say
                child.close()
                end = f"{type(error).__name__}: {error}"
            else:
                break
            if alone:
                died.append(end)
            child, alone = None, True
        else:
            how = " and ".join(dict.fromkeys(died))
            found[index] = f"its process ended {deaths} times by {how} while processing it alone"
    if child is not None:
        child.close()
    return found


def _process(processor: Processor, episode: Shard) -> None:
    processor.process(episode, last_attempt=True)
