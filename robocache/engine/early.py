"""What takes long to start and can be started before this process imports torch, which takes seconds itself."""

from __future__ import annotations

from contextlib import suppress

from robocache.config.job import Job
from robocache.engine.cores import FEW, threads_of
from robocache.engine.deadline import taken
from robocache.engine.forkserver import ForkServer
from robocache.errors import InputError
from robocache.formats.files import expand
from robocache.storage import is_local

#: Bytes of recordings from which on processes save more time than they take to start: some four seconds of a core, most
#: of it for torch. On two cores, where threads hardly wait for each other, 4.2 GB took 23 s with them and 24 without.
ENOUGH = 2_000_000_000
#: What a process of the local mode imports.
MODULES = ("robocache.engine.worker",)

_STARTED: list[ForkServer] = []


def processes_of(job: Job, nbytes: int) -> int:
    """How many ``compute.processes`` come to where so many bytes are to be read; 1: none but this one."""
    threads = threads_of(job.compute.threads)
    return min(job.compute.processes or (threads if threads > FEW and nbytes >= ENOUGH else 1), threads)


def start(job: Job) -> None:
    """Start the server of a run's processes where it is sure to need one. Whoever runs the job takes it
    (:func:`server`); :func:`close` ends it where nobody has.
    """
    if job.cluster.mode == "local" and (processes_of(job, 0) > 1 or processes_of(job, _local_bytes(job)) > 1):
        _STARTED.append(ForkServer(MODULES))


def server() -> ForkServer:
    """One that was started, or a new one. The thread that calls this must live as long as it does."""
    return taken(_STARTED) or ForkServer(MODULES)


def close() -> None:
    """End what nobody has taken."""
    while (left := taken(_STARTED)) is not None:
        left.close()


def _local_bytes(job: Job) -> int:
    """Of the recordings that lie on this machine; 0 where that takes more than a look at their folders."""
    if processes_of(job, ENOUGH) == 1:
        return 0
    total = 0
    for uri in job.input.uri:
        with suppress(InputError, OSError):  # the run says so
            if is_local(uri):
                total += sum(file.size for found in expand(uri, job.input).found for file in found.files)
    return total
