"""How much longer does a run take when its logs lie on an object store that is 20 ms away?

    python benchmarks/remote_run.py CACHE_FOLDER [--logs 24] [--latency 0.02] --out benchmarks/results/remote_run.csv

The store is moto's S3 server (the extra ``test``) on loopback, in a process of its own, which waits before each answer.
Where there are two cores, the server has the second and the runs the first, so that what serving costs is not counted:
both kinds of run then work on one core, in turns. The output is local for both; the job is configs/demo.yaml.

``requests``  that one run makes; ``by_file`` of them for each log
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import common
from end_to_end import CONFIG, sample_logs

from robocache.config.load import load_job
from robocache.engine.run import run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
BUCKET = "logs"


def serve(pipe: Connection, folder: str, latency: float, core: int | None) -> None:
    """The server: says its options when the files are there, then, each time it is asked, how often it was."""
    import s3_kit

    if core is not None:
        os.sched_setaffinity(0, {core})

    def late(_: Any) -> str:
        time.sleep(latency)
        return ""

    with s3_kit.serve() as server:
        server.client.mkdir(BUCKET)
        for path in sorted(Path(folder).iterdir()):
            server.client.pipe_file(f"{BUCKET}/{path.name}", path.read_bytes())
        server.fault = late
        pipe.send(server.options)
        while pipe.recv():
            pipe.send(len(server.requests))


@contextmanager
def store(folder: Path, latency: float, core: int | None) -> Iterator[tuple[dict[str, Any], Connection]]:
    """Options to reach the server, and what it answers by."""
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    process = context.Process(target=serve, args=(far, str(folder), latency, core), daemon=True)
    process.start()
    try:
        yield pipe.recv(), pipe
    finally:
        pipe.send(False)
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="folder for the sample logs and the outputs")
    parser.add_argument("--logs", type=int, default=24, help="of 10.7 MB each")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds that the store waits before each answer")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, help="CSV to write")
    args = parser.parse_args()

    folder = args.cache / f"logs_{args.logs}x60s"
    size = sum(path.stat().st_size for path in sample_logs(folder, args.logs, 60.0)) / 1e6
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    apart = len(cores) > 1
    with store(folder, args.latency, cores[1] if apart else None) as (options, pipe):
        if apart:
            os.sched_setaffinity(0, {cores[0]})
        out = args.cache / "remote_out"
        always = [f"output.uri={out}", "compute.device=cpu"]
        local = load_job(str(CONFIG), [f"input.uri={folder}/*.mcap", *always])
        reach = [f"input.storage_options.{key}={options[key]}" for key in ("endpoint_url", "key", "secret")]
        remote = load_job(str(CONFIG), [f"input.uri=s3://{BUCKET}/*.mcap", *reach, *always])
        rows: set[int] = set()

        def once(job: Any) -> None:
            shutil.rmtree(out, ignore_errors=True)
            summary = run(job)
            assert not summary.quarantined, summary.quarantined[0].reason
            rows.add(summary.rows)

        def asked() -> int:
            pipe.send(True)
            return int(pipe.recv())

        before = asked()
        once(remote)
        requests = asked() - before
        timings = common.take_turns({"local": lambda: once(local), "remote": lambda: once(remote)}, args.repetitions)
    shutil.rmtree(out, ignore_errors=True)
    assert len(rows) == 1, rows
    times, low, high = common.ratio(timings["local"], timings["remote"])
    print(
        f"{args.logs} logs, {size:.0f} MB, {args.latency * 1e3:.0f} ms: local {timings['local'].median:.2f} s, remote "
        f"{timings['remote'].median:.2f} s, {times:.2f} times as long [{low:.2f}, {high:.2f}], {requests} requests"
    )
    about = {
        "input_mb": f"{size:.0f}",
        "latency_ms": f"{args.latency * 1e3:.0f}",
        "cores_of_the_run": 1 if apart else "",
    }
    found = {"times_local": f"{times:.2f}", "times_min": f"{low:.2f}", "times_max": f"{high:.2f}"}
    common.write_csv(
        args.out,
        [
            {
                "case": name,
                **common.timing_columns(timing),
                **about,
                **(found if name == "remote" else dict.fromkeys(found, "")),
                "requests": requests if name == "remote" else 0,
                "by_file": f"{requests / args.logs:.1f}" if name == "remote" else 0,
                **common.machine("moto", "s3fs", "numpy", "pyarrow"),
            }
            for name, timing in timings.items()
        ],
    )


if __name__ == "__main__":
    main()
