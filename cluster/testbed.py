"""Several hosts of one Ray cluster on one Linux machine: network namespaces, a raylet in each, links that can be cut.

    sudo python cluster/testbed.py --hosts 3                        # then type: help
    sudo python cluster/testbed.py --hosts 3 -- robocache run configs/cluster.yaml

Each host is a network namespace with an address of its own on a bridge that lies in one more namespace, so nothing
outside sees it and any number of testbeds can run side by side. Token authentication is on. The hosts share the
machine's disk, as a cluster shares its file system, and its cores: give each fewer CPUs than the machine has.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "rb"
PORT = 6379
#: Titles of Ray's own Python processes.
_NO_ACTORS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
_number = itertools.count()


@dataclass
class Host:
    """A namespace on the bridge, and the ``ray start --block`` in it, None before its start."""

    name: str
    namespace: str
    address: str
    ray: subprocess.Popen[bytes] | None = None


def why_not() -> str | None:
    """What keeps a testbed from running here, None where nothing does."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    namespace = f"{PREFIX}-{_owner(os.getpid())}-{next(_number)}-trial"
    tried = subprocess.run(["ip", "netns", "add", namespace], capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespace can be made: {tried.stderr.strip()}"
    _ip("netns", "del", namespace)
    return None


class Testbed:
    """Use as a context manager. ``hosts``: how many at the start, named h0 (the head, and a worker too), h1, ...

    cpus, gpus, memory_mb: what each host offers; GPUs need not be real
    env: of all raylets, hence of the workers, and of what :meth:`popen` starts, besides this process's own
    ``RuntimeError`` where a host does not come up, with the end of its log.
    """

    __test__ = False  # its name is not that of a pytest class

    def __init__(
        self,
        hosts: int = 3,
        *,
        cpus: float = 1,
        gpus: float = 0,
        memory_mb: int = 1000,
        env: Mapping[str, str] | None = None,
    ):
        self.hosts: dict[str, Host] = {}
        self._count, self._offer = hosts, (cpus, gpus, memory_mb)
        self.name = f"{PREFIX}-{_owner(os.getpid())}-{next(_number)}"
        self.folder = _folder(self.name)  # a short path: sockets below it may have 107 characters
        self._switch = f"{self.name}-switch"
        self._starts = itertools.count()
        token = self.folder / "token"
        self.env = {
            **os.environ,
            "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            **(env or {}),
        }

    def __enter__(self) -> Testbed:
        sweep()
        try:
            self.folder.mkdir(mode=0o700)
            (self.folder / "token").write_text(secrets.token_hex(32))
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge", "stp_state", "0")
            _ip("-n", self._switch, "link", "set", "bridge", "up")
            self.wait(self.add_host(wait=False))
            for host in [self.add_host(wait=False) for _ in range(1, self._count)]:
                self.wait(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _remove(self.name)
        for host in self.hosts.values():
            if host.ray is not None:
                host.ray.wait()

    @property
    def head(self) -> Host:
        return self.hosts["h0"]

    def add_host(self, *, wait: bool = True) -> Host:
        """One more, joined to the cluster; with ``wait`` once its raylet is registered."""
        number = len(self.hosts)
        name = f"h{number}"
        host = self.hosts[name] = Host(name, f"{self.name}-{name}", f"10.0.0.{number + 1}")
        _ip("netns", "add", host.namespace)
        _ip("-n", self._switch, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        _ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")
        _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", host.namespace, "link", "set", device, "up")
        self.start(host, wait=wait)
        return host

    def start(self, host: Host, *, wait: bool = True) -> None:
        """Start Ray there, after ending what is left of it."""
        if host.ray is not None:
            _kill_all(host.namespace)
            host.ray.wait()
        cpus, gpus, memory_mb = self._offer
        as_head = ["--head", "--port", str(PORT), "--include-dashboard", "false"]
        where = as_head if host is self.head else ["--address", f"{self.head.address}:{PORT}"]
        command = ["ray", "start", "--block", *where, "--node-ip-address", host.address, "--disable-usage-stats"]
        command += ["--num-cpus", f"{cpus:g}", "--num-gpus", f"{gpus:g}", "--memory", str(memory_mb * 1_000_000)]
        command += ["--object-store-memory", "100000000", "--temp-dir", str(self.folder / f"{next(self._starts)}")]
        with self.log(host).open("wb") as log:
            host.ray = self.popen(command, host, stdout=log, stderr=log)
        if wait:
            self.wait(host)

    def wait(self, host: Host, timeout_s: float = 90.0) -> None:
        """Until its raylet is registered."""
        assert host.ray is not None
        end = time.monotonic() + timeout_s
        while b"Ray runtime started" not in (said := self.log(host).read_bytes()):
            if host.ray.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Ray did not start on {host.name}: {said.decode(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def log(self, host: Host) -> Path:
        """What ``ray start`` says there; the raylet's and the workers' logs are below ``folder``."""
        return self.folder / f"{host.name}.log"

    def popen(self, command: Sequence[str], host: Host | None = None, **options: Any) -> subprocess.Popen[bytes]:
        """A process on a host, the head where none is given, with RAY_ADDRESS set; it ends with the testbed."""
        host = host or self.head
        env = self.env if command[0] == "ray" else self.env | {"RAY_ADDRESS": f"{self.head.address}:{PORT}"}
        defaults: dict[str, Any] = {"env": env, "stdin": subprocess.DEVNULL, "start_new_session": True}
        return subprocess.Popen(["ip", "netns", "exec", host.namespace, *command], **defaults | options)

    def cut(self, host: Host) -> None:
        """Pull its cable: nothing comes or goes, and nobody is told."""
        _ip("-n", self._switch, "link", "set", host.name, "down")

    def restore(self, host: Host) -> None:
        _ip("-n", self._switch, "link", "set", host.name, "up")

    def kill_raylet(self, host: Host) -> None:
        """SIGKILL; its workers see it and end."""
        for pid, command in processes(host.namespace):
            if command.split(" ", 1)[0].endswith("/raylet"):
                _kill(pid)

    def actors(self, host: Host | None = None) -> list[int]:
        """Process ids of the actors of a host, or of all."""
        hosts = [host] if host else list(self.hosts.values())
        found = [p for h in hosts for p in processes(h.namespace)]
        return [pid for pid, title in found if title.startswith("ray::") and title not in _NO_ACTORS]

    def kill_actor(self, pid: int) -> None:
        """SIGKILL. ``ProcessLookupError`` where it is not, or no longer, an actor of this testbed."""
        if pid not in self.actors():
            raise ProcessLookupError(f"{pid} is no actor here")
        _kill(pid)


def sweep() -> None:
    """Remove the testbeds whose owners died without doing so."""
    for name in {namespace.rpartition("-")[0] for namespace in _namespaces()}:
        ours = re.fullmatch(rf"{PREFIX}-((\d+)\.\d+)-\d+", name)
        if ours and _owner(int(ours[2])) != ours[1]:
            _remove(name)


def processes(namespace: str) -> list[tuple[int, str]]:
    """Process ids and command lines."""
    found = []
    for pid in map(int, _ip("netns", "pids", namespace).split()):
        with contextlib.suppress(OSError):  # it ended meanwhile
            text = Path(f"/proc/{pid}/cmdline").read_bytes()
            found.append((pid, text.replace(b"\0", b" ").decode(errors="replace").strip()))
    return found


def _remove(name: str) -> None:
    """All processes of a testbed, its namespaces, and with them its links and addresses, and its folder."""
    for namespace in [n for n in _namespaces() if n.startswith(f"{name}-")]:
        try:
            _kill_all(namespace)
            _ip("netns", "del", namespace)
        except RuntimeError:
            if namespace in _namespaces():  # else another sweep was faster
                raise
    shutil.rmtree(_folder(name), ignore_errors=True)


def _kill_all(namespace: str) -> None:
    while pids := _ip("netns", "pids", namespace).split():
        for pid in pids:
            _kill(int(pid))
        time.sleep(0.01)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _owner(pid: int) -> str | None:
    """A name for a live process that no later one has: its id, and when it began."""
    try:
        return f"{pid}.{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return None


def _folder(name: str) -> Path:
    return Path(tempfile.gettempdir()) / name


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines()]


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {shlex.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _prompt(bed: Testbed) -> None:
    """Operations from standard input, until its end."""
    on_host: dict[str, Callable[[Host], object]] = {
        "cut": bed.cut,
        "restore": bed.restore,
        "kill-raylet": bed.kill_raylet,
        "restart": bed.start,
        "actors": lambda host: print(*bed.actors(host), flush=True),
    }
    usage = f"{' | '.join(on_host)} HOST; add; kill PID; run COMMAND; quit"
    for line in sys.stdin:
        match shlex.split(line):
            case []:
                pass
            case ["quit"]:
                return
            case ["add"]:
                print(bed.add_host().name, flush=True)
            case ["kill", pid] if pid.isdigit():
                try:
                    bed.kill_actor(int(pid))
                except ProcessLookupError as error:
                    print(error, flush=True)
            case ["run", *command] if command:
                print("exit code", bed.popen(command).wait(), flush=True)
            case [operation, name] if operation in on_host and name in bed.hosts:
                on_host[operation](bed.hosts[name])
            case _:
                print(f"{usage}; hosts: {' '.join(bed.hosts)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--cpus", type=float, default=1, help="of each host")
    parser.add_argument("--gpus", type=float, default=0, help="of each host; they need not be real")
    parser.add_argument("--memory-mb", type=int, default=1000, help="of each host, for workers")
    parser.add_argument("command", nargs="*", help="run on the head, its exit code returned; without: a prompt")
    args = parser.parse_args()
    if reason := why_not():
        print(f"no testbed here: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it cleans up
    with Testbed(args.hosts, cpus=args.cpus, gpus=args.gpus, memory_mb=args.memory_mb) as bed:
        if args.command:
            return bed.popen(args.command, stdin=None).wait()
        print(f"{' '.join(bed.hosts)} are up; logs in {bed.folder}", flush=True)
        _prompt(bed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
