"""The README's commands on a real Ray head with its job server and its token: submit, read back, stop, measure."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from engine.engine_kit import META, ROOT, assert_same_tree, config, do, write_shards
from process_kit import start

from robocache.config.load import load_job
from robocache.engine import run as engine
from robocache.output.layout import manifest_file
from robocache.sample import write_samples

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.ray

BIN = Path(sys.executable).parent
SHARDS = 10


def readme(begin: str, within: str = "") -> str:
    """The README's command that begins like this and has that in it, on one line, its comment cut off."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    commands = [re.sub(r"\s+#.*", "", line) for line in blocks.replace("\\\n", " ").splitlines()]
    return next(command for command in commands if command.startswith(begin) and within in command)


@dataclass(frozen=True)
class Head:
    """A head node of its own ports, folder and home."""

    env: dict[str, str]
    folder: Path
    gcs: str
    dashboard: str
    metrics: str

    def run(self, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.env | changes, cwd=ROOT, text=True, capture_output=True, timeout=120)

    def ray_job(self, verb: str, *arguments: str) -> str:
        """`ray job VERB ...`, and everything it says."""
        done = self.run("ray", "job", verb, "--address", self.dashboard, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.sub(r"\x1b\[\d*m", "", done.stdout + done.stderr)  # its colours

    def counts(self) -> dict[str, float]:
        """RoboCache's metrics as this node exports them, summed over processes; those by stage as name.stage."""
        sums: dict[str, float] = defaultdict(float)
        with urllib.request.urlopen(self.metrics, timeout=10) as response:
            for line in response.read().decode().splitlines():
                if found := re.match(r"ray_robocache_(\w+)_total\{(.*)\} (\S+)$", line):
                    stage = re.search(r'stage="(\w+)"', found[2])
                    sums[f"{found[1]}.{stage[1]}" if stage else found[1]] += float(found[3])
        return sums


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """Started as the README says, with what keeps it apart from other clusters of this machine."""
    folder = Path(tempfile.mkdtemp(prefix="rc", dir="/tmp"))  # short: Ray puts sockets in it
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        gcs, dashboard, client, agent, metrics = (s.getsockname()[1] for s in sockets)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "HOME": str(folder),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_metrics_report_interval_ms": "500",
    }
    name, _, value = readme("export RAY_AUTH_MODE").removeprefix("export ").partition("=")
    env[name] = value
    subprocess.run(shlex.split(readme("ray get-auth-token")), env=env, check=True, capture_output=True)
    options = {
        "--node-ip-address": "127.0.0.1",
        "--port": gcs,
        "--dashboard-port": dashboard,
        "--ray-client-server-port": client,
        "--dashboard-agent-listen-port": agent,
        "--metrics-export-port": metrics,
        "--num-cpus": 2,
        "--object-store-memory": 100_000_000,
        "--temp-dir": folder / "ray",
    }
    command = [*shlex.split(readme("ray start --head")), "--block", "--disable-usage-stats"]
    command += [f"{option}={value}" for option, value in options.items()]
    made = Head(env, folder, f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", f"http://127.0.0.1:{metrics}/metrics")
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        token = (folder / ".ray/auth_token").read_text()
        question = urllib.request.Request(f"{made.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {token}"})

        def answers() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(question, timeout=5):
                made.counts()  # its agent exports them, which starts later
                return True
            return False

        wait_for(answers, "the head to answer", 120)
        yield made
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(happened: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)


def committed(out: Path) -> int:
    manifest = out / manifest_file(1)
    return manifest.read_bytes().count(b"\n") if manifest.exists() else 0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)


@pytest.fixture
def shards(tmp_path) -> Path:
    """A config of a run of 10 shards on 2 workers, and the folder beside it where they leave their process ids."""
    write_shards(tmp_path / "logs", SHARDS)
    (tmp_path / "pids").mkdir()
    cluster = {"mode": "ray", "workers": 2, "memory_mb": 100}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config(tmp_path / "logs", tmp_path / "out", cluster=cluster)))
    return path


def expected(shards: Path) -> Path:
    """What the local mode makes of it."""
    local = shards.parent / "local"
    do(load_job(str(shards), ["cluster.mode=local", f"output.uri={local}"]))
    return local


def test_the_readme(head, tmp_path):
    write_samples(tmp_path / "logs", episodes=3, seconds=4.0)
    places = {"http://127.0.0.1:8265": head.dashboard, "/mnt/logs": tmp_path / "logs", "/mnt/dataset": tmp_path / "out"}

    def submitted(command: str) -> tuple[str, str]:
        """A job's id and its output."""
        for place, here in places.items():
            command = command.replace(place, str(here))
        done = head.run(*shlex.split(command))
        assert done.returncode == 0, done.stdout + done.stderr
        return re.search(r"raysubmit_\w+", done.stdout + done.stderr)[0], done.stdout

    job, _ = submitted(readme("ray job submit", "python jobs/preprocess.py"))
    assert f"Job '{job}' succeeded" in head.ray_job("status", job)
    logs = head.ray_job("logs", job)
    assert f"{tmp_path}/out: " in logs and "quarantined: 1 of 4 episodes" in logs
    uploads = list((head.folder / "ray/session_latest/runtime_resources/working_dir_files").glob("_ray_pkg_*/"))
    assert [sorted(p.name for p in folder.iterdir()) for folder in uploads] == [["configs", "jobs"]]
    _, output = submitted(readme("ray job submit", "python jobs/verify.py"))
    assert "3 episodes" in output and "whole" in output
    local = [f"input.uri={tmp_path}/logs", f"output.uri={tmp_path}/local", "cluster.mode=local"]
    engine.run(load_job(str(ROOT / "configs/cluster.yaml"), local))
    assert_same_tree(tmp_path / "out", tmp_path / "local")


@pytest.mark.slow
def test_a_stopped_job_goes_on_when_submitted_again(head, shards):
    """Its shards take longer than Ray's 3 s between SIGTERM and SIGKILL: RAY_JOB_STOP_WAIT_TIME_S is what helps."""
    folder = shards.parent
    wait = '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}'
    slow = ["python", str(ROOT / "tests/slow_job.py"), str(folder / "pids"), "4", "--config", str(shards)]
    begun = ["--no-wait", "--working-dir", ".", "--runtime-env-json", wait, "--", *slow]
    job = re.search(r"raysubmit_\w+", head.ray_job("submit", *begun))[0]
    wait_for(lambda: committed(folder / "out") >= 2, "two shards")
    before = committed(folder / "out")
    head.ray_job("stop", job)
    assert f"Job '{job}' was stopped" in head.ray_job("status", job)
    kept = committed(folder / "out")
    assert before < kept < SHARDS
    workers = [int(p.name) for p in (folder / "pids").iterdir()]
    assert workers
    wait_for(lambda: not any(map(alive, workers)), "the workers' end", 20)
    logs = head.ray_job("logs", job)
    assert re.search(r"\(Worker pid=\d+\) .* INFO [\d.]+ shard \d+ begins", logs)
    assert "stopping: waiting up to" in logs and "what was committed is kept" in logs

    again = ["python", "jobs/preprocess.py", "--config", str(shards)]
    output = head.ray_job("submit", "--working-dir", ".", "--", *again)
    assert f"{kept} of {SHARDS} shards were there already, of this config and input" in output
    assert_same_tree(folder / "out", expected(shards))


@pytest.mark.slow
def test_a_driver_that_gets_sigterm_and_its_metrics(head, shards):
    """A worker killed, the run stopped and begun again: nothing is counted twice, and nothing is forgotten."""
    folder, zero = shards.parent, head.counts()
    slow = [sys.executable, str(ROOT / "tests/slow_job.py"), str(folder / "pids")]
    env = head.env | {"RAY_ADDRESS": head.gcs}
    with open(folder / "log", "w") as log:
        first = [*slow, "0.5", "--config", str(shards)]
        driver = subprocess.Popen(first, env=env, cwd=ROOT, stdout=log, stderr=log)
        wait_for(lambda: driver.poll() is not None or committed(folder / "out") >= 2, "two shards")
        os.kill(int(next((folder / "pids").iterdir()).name), signal.SIGKILL)
        wait_for(lambda: driver.poll() is not None or "trying again" in (folder / "log").read_text(), "the retry")
        before = committed(folder / "out")
        driver.terminate()
        assert driver.wait(60) == 130, (folder / "log").read_text()
    text = (folder / "log").read_text()
    assert re.search(r"shard \d+, attempt 1, node [\d.]+ \(process \d+, cpu\): its worker died", text)
    assert "stopping: waiting up to" in text and "what was committed is kept" in text
    kept = committed(folder / "out")
    assert before <= kept < SHARDS
    workers = [int(p.name) for p in (folder / "pids").iterdir()]
    wait_for(lambda: not any(map(alive, workers)), "the workers' end", 20)

    done = head.run(*slow, "0", "--config", str(shards), RAY_ADDRESS=head.gcs)
    assert done.returncode == 0, done.stderr
    assert f"{kept} of {SHARDS} shards were there already, of this config and input" in done.stdout
    assert_same_tree(folder / "out", expected(shards))
    report = yaml.safe_load((folder / "out" / META / "_report.json").read_text())
    wanted = {"rows": report["rows"], "bytes": report["bytes_out"], "shards": SHARDS, "quarantined": 0}

    def counted() -> dict[str, float]:
        return {name: value - zero[name] for name, value in head.counts().items()}

    wait_for(lambda: counted().get("rows", 0) >= wanted["rows"], "the metrics", 15)
    found = counted()
    assert {name: found.get(name, 0) for name in wanted} == wanted
    assert found["retries"] >= 1
    assert all(found[f"seconds.{stage}"] > 0 for stage in ("read", "align", "encode", "write"))
    page = (ROOT / "docs/deployment/README.md").read_text()
    told = {name.split(".")[0] for name in found} | {"quarantined"}  # exported once there is one
    assert told == set(re.findall(r"ray_robocache_(\w+)_total[`{]", page))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"RAY_AUTH_MODE": ""}, "takes a token and was sent none; set RAY_AUTH_MODE=token"),
        ({"HOME": "/nonexistent"}, "takes another token than this process has"),
    ],
)
def test_without_the_token_it_says_so_at_once(head, shards, changes, said):
    env = {name: value for name, value in (head.env | {"RAY_ADDRESS": head.gcs} | changes).items() if value}
    process = start("run", str(shards), cwd=ROOT, env=env)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert f"cluster.address: the Ray cluster at {head.gcs} {said}" in err
    assert "Traceback" not in err
    assert "Failed to get cluster ID" not in err  # what Ray says each second, for 20 of them
