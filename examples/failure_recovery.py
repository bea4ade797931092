"""Kill a run again and again, and see that it ends as if nothing had happened.

    python examples/failure_recovery.py [--mode local|ray] [--episodes 60] [--seed 0]

Makes sample logs, the last of them cut off, and a dataset of them in an undisturbed run. Then makes it again, while
`kill -9` hits the process (local mode) or its workers and then the driver (ray mode, where Ray is installed) at random
moments; each time the same command goes on where the last one was. In the end both outputs are the same, byte for byte.

Writes out/failure_recovery/. Linux: workers are found in /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from robocache import Output, verify
from robocache.output.layout import manifest_file
from robocache.sample import write_samples

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"
#: Files that name the output or tell how the run went, or when, rather than what it made.
OWN = ("/_config.yaml", "/_report.json", "/_version.json")


def command(logs: Path, out: Path, *overrides: str) -> list[str]:
    """As a person would type it; a shard for each log or two, so that there is something to lose."""
    job = [f"input.uri={logs}/*.mcap", f"output.uri={out}", "output.shard_mb=1", "compute.threads=1", *overrides]
    return [sys.executable, "-m", "robocache.cli", "run", str(CONFIG), *job]


def committed(out: Path) -> int:
    """Shards that are safe: a line of the manifest each."""
    manifest = out / manifest_file(1)
    return manifest.read_bytes().count(b"\n") if manifest.exists() else 0


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """A Ray cluster of this machine that outlives drivers; the environment that leads them to it."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, logging_level="WARNING")
    try:
        yield {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    finally:
        ray.shutdown()


def workers() -> list[int]:
    """Processes of our own cluster with a shard in hand; the parent of each is a raylet, which is our child."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::Worker.run"):
                raylet = parent(int(folder.name))
                if parent(raylet) == os.getpid():
                    found.append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def disturbed(arguments: Sequence[str], out: Path, env: dict[str, str], kills: Sequence[tuple[int, str]]) -> int:
    """One run; each of ``kills`` is a number of committed shards and what is killed then: worker or driver.

    The run's exit code, -9 where it was killed.
    """
    with open(out.with_suffix(".log"), "a") as log:
        run = subprocess.Popen(arguments, env=env, stdout=log, stderr=log)
    for shards, victim in kills:
        pids: list[int] = []
        while run.poll() is None and not pids:
            time.sleep(0.001)
            if committed(out) >= shards:
                pids = [run.pid] if victim == "driver" else workers()
        if run.poll() is None:
            pid = random.choice(pids)
            os.kill(pid, signal.SIGKILL)
            print(f"  killed {victim} {pid} with {committed(out)} shards committed")
    return run.wait(timeout=120)


def digests(out: Path) -> dict[str, str]:
    files = {p.relative_to(out).as_posix(): p for p in sorted(out.rglob("*")) if p.is_file()}
    return {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in files.items() if not name.endswith(OWN)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    has_ray = importlib.util.find_spec("ray") is not None
    parser.add_argument("--mode", choices=("local", "ray"), default="ray" if has_ray else "local")
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--seed", type=int, help="of the moments; default: others each time")
    args = parser.parse_args()
    random.seed(args.seed)
    began = time.monotonic()
    folder = Path("out/failure_recovery").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    logs, calm, rough = (folder / name for name in ("logs", "calm", "rough"))
    size = sum(p.stat().st_size for p in write_samples(logs, episodes=args.episodes, seconds=10.0, seed=0))
    print(f"{args.episodes + 1} logs, {size / 1e6:.0f} MB; the last one is cut off")
    if disturbed(command(logs, calm), calm, dict(os.environ), []):
        sys.exit(calm.with_suffix(".log").read_text())
    total = committed(calm)
    print(f"undisturbed run: {total} shards")

    def moments(count: int) -> list[int]:
        return sorted(random.sample(range(1, total // 2), count))

    if args.mode == "local":
        ended = rerun(command(logs, rough), rough, dict(os.environ), [[(at, "driver")] for at in moments(3)])
    else:
        first, second, third, fourth = moments(4)
        rounds = [[(first, "worker"), (second, "worker"), (third, "driver")], [(fourth, "worker")]]
        ray = ("cluster.mode=ray", "cluster.workers=2", "cluster.memory_mb=500")
        with cluster() as address:
            ended = rerun(command(logs, rough, *ray), rough, {**os.environ, **address}, rounds)

    found, quarantine = verify(str(rough)), Output.open(str(rough)).quarantine
    same = digests(rough) == digests(calm)
    print(f"exit code {ended}; verify: {'whole' if not found.problems else found.problems}")
    print(f"{len(digests(calm))} files: {'the same bytes as undisturbed' if same else 'NOT the same as undisturbed'}")
    for q in quarantine:
        print(f"quarantined: {q.id}: {q.reason}")
    print(f"{time.monotonic() - began:.0f} s; {folder}")
    return 0 if ended == 0 and same and not found.problems and len(quarantine) == 1 else 1


def rerun(arguments: Sequence[str], out: Path, env: dict[str, str], rounds: Sequence[Sequence[tuple[int, str]]]) -> int:
    """A run for each round of kills, and one more where the last was killed; the last one's exit code."""
    code = -signal.SIGKILL
    for kills in [*rounds, []]:
        if code != -signal.SIGKILL:
            break
        before = committed(out)
        print(f"run, {before} shards are there already")
        code = disturbed(arguments, out, env, kills)
    return code


if __name__ == "__main__":
    sys.exit(main())
