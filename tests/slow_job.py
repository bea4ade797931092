"""jobs/preprocess.py with shards that take a while, so that a test can stop it, or kill its workers, in mid-run.

    python slow_job.py FOLDER SECONDS [arguments of jobs/preprocess.py]

Each worker leaves its process id in FOLDER and logs each shard it begins.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from robocache.engine import run
from robocache.engine.process import Processor, ShardResult
from robocache.engine.shards import Shard


@dataclass(frozen=True)
class Slow(Processor):  # of __main__, so Ray takes it to the workers by value
    folder: str = ""
    seconds: float = 0.0

    def process(self, shard: Shard, **options: object) -> ShardResult:
        (Path(self.folder) / str(os.getpid())).touch()
        logging.getLogger("robocache").info("shard %d begins", shard.index)
        time.sleep(self.seconds)
        return super().process(shard, **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    _, folder, seconds, *arguments = sys.argv
    run.Processor = functools.partial(Slow, folder=folder, seconds=float(seconds))  # type: ignore[misc]
    sys.argv = ["jobs/preprocess.py", *arguments]
    sys.path.insert(0, "jobs")
    import preprocess

    sys.exit(preprocess.main())
