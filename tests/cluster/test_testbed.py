"""The testbed does what it says: hosts that are apart, links that can be cut, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import testbed
from conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("testbeds")]

NODES = "import ray; ray.init(logging_level='ERROR'); print(*sorted(n['NodeName'] for n in ray.nodes() if n['Alive']))"


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def lives(pid: int) -> bool:
    """False also where it waits for whoever inherited it to ask for its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def left_behind(name: str) -> list[str]:
    namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
    return [n for n in namespaces if n.startswith(name)] + [str(f) for f in [testbed._folder(name)] if f.exists()]


@pytest.mark.slow
def test_hosts():
    with testbed.Testbed(2, env={"RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "500"}) as bed:

        def said(code: str, host: testbed.Host = bed.head) -> str:
            process = bed.popen([sys.executable, "-c", code], host, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            return process.communicate()[0].decode().strip()

        head, other = bed.head, bed.hosts["h1"]
        assert said(NODES) == f"{head.address} {other.address}"
        reach = f"import socket; socket.create_connection(('{head.address}', {testbed.PORT}), 1); print('yes')"
        assert said(reach, other) == "yes"
        bed.cut(other)
        assert "Error" in said(reach, other)
        bed.restore(other)
        until(lambda: said(reach, other) == "yes")  # the link comes up, then the neighbours are found anew

        with pytest.raises(ProcessLookupError):
            bed.kill_actor(os.getpid())
        bed.kill_raylet(other)
        until(lambda: said(NODES) == head.address)
        bed.start(other)
        third = bed.add_host()
        assert said(NODES) == f"{head.address} {other.address} {third.address}"
        pids = [pid for host in bed.hosts.values() for pid, _ in testbed.processes(host.namespace)]
    assert left_behind(bed.name) == []
    assert [pid for pid in pids if lives(pid)] == []


def test_the_command_line_and_what_it_leaves_when_killed():
    command = [sys.executable, str(ROOT / "cluster" / "testbed.py"), "--hosts", "1"]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdin is not None and owner.stdout is not None
    _, _, folder = owner.stdout.readline().strip().partition(" are up; logs in ")
    name = Path(folder).name
    typed = ["actors h0", f"kill {os.getpid()}", "cut h9", f"run {sys.executable} -c 'exit(3)'"]
    owner.stdin.write("".join(f"{line}\n" for line in typed))
    owner.stdin.flush()
    said = [owner.stdout.readline().strip() for _ in typed]
    assert said[:2] == ["", f"{os.getpid()} is no actor here"]
    assert said[2].endswith("hosts: h0")
    assert said[3] == "exit code 3"
    testbed.sweep()
    assert len(left_behind(name)) == 3  # the host, the switch and the folder of one that lives
    owner.kill()
    owner.wait()
    testbed.sweep()
    assert left_behind(name) == []
