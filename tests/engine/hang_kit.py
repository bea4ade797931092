"""Readings that do not return. They travel to processes of their own, so nothing of torch is imported here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from robocache.types import Episode, EpisodeRef


class Gate:
    """Who comes here waits until the end of the test."""

    def __init__(self):
        self.opened = threading.Event()
        self.waited = 0

    def wait(self, *_: object) -> None:
        self.waited += 1
        self.opened.wait(60)

    def __reduce__(self):
        return Gate, ()


@dataclass(frozen=True)
class Lingering:
    """Reading one episode does not return, in one process or in every one."""

    inner: Callable[[EpisodeRef], Episode]
    gate: Gate
    id: str
    everywhere: bool
    process: int = os.getpid()

    def __call__(self, ref: EpisodeRef) -> Episode:
        if ref.id == self.id and (self.everywhere or os.getpid() == self.process):
            self.gate.wait()
        return self.inner(ref)


def crash() -> None:
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


def spin() -> None:
    while True:
        time.monotonic()


def devour() -> bytes:
    return bytes(4 << 30)
