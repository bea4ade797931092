"""Which episodes of a shard kill the process that works on them? Tried in processes of their own, one after another.

The exit status of such a process is evidence that a worker's death is not: it says how the process ended, and nobody
who kills workers, restarts nodes or cuts links has touched it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence

from robocache.engine.process import Blamed, Processor
from robocache.engine.shards import Shard
from robocache.errors import WorkersError

_CHILD = "from robocache.engine.probe import main; main()"


def deadly_episodes(processor: Processor, shard: Shard, blamed: Blamed, deaths: int) -> dict[int, str]:
    """Index and reason of each episode, but those ``blamed``, that ends ``deaths`` processes which do nothing else.

    ``WorkersError`` where no process can be started.
    """
    found: dict[int, str] = {}
    left = [Shard(shard.index, (index,), (ref,)) for index, ref in shard.episodes() if index not in blamed]
    died: list[str] = []  # how, while doing nothing but the first of those left
    while left:
        survived, end = _in_child(processor, left)
        if survived:  # one that came after others has yet to be tried alone
            left, died = left[survived:], []
        else:
            died.append(end)
        if len(died) == deaths:
            how = " and ".join(dict.fromkeys(died))
            found[left[0].indexes[0]] = f"its process ended {deaths} times by {how} while processing it alone"
            left, died = left[1:], []
    return found


def _in_child(processor: Processor, episodes: Sequence[Shard]) -> tuple[int, str]:
    """How many of the episodes one process survives, and how it ends."""
    by_value = sys.modules.get("ray.cloudpickle", pickle)  # what a driver's __main__ defines travels to its workers so
    job = pickle.dumps(sys.path) + by_value.dumps((processor, episodes))
    done = subprocess.run([sys.executable, "-c", _CHILD], input=job, stdout=subprocess.PIPE)
    if not done.stdout:
        raise WorkersError(f"the process that is to try the episodes of shard {episodes[0].index} does not start")
    code = done.returncode
    return len(done.stdout) - 1, f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def main() -> None:
    """The child: says on its standard output that it is ready, and once more for each episode done."""
    if sys.platform == "linux":  # it must not outlive the worker: 1 is PR_SET_PDEATHSIG
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    said = os.dup(1)
    os.dup2(2, 1)  # whatever else prints
    sys.path[:] = pickle.load(sys.stdin.buffer)
    processor, episodes = pickle.load(sys.stdin.buffer)
    os.write(said, b".")
    for episode in episodes:
        processor.process(episode, last_attempt=True)
        os.write(said, b".")
