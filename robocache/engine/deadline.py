"""Calls that may never return: warned about long before their time is over, then given up.

Nothing can end a thread of Python's that waits in a system call or in a library. So a call with a deadline is made on a
spare thread, and whoever asked goes on without it: the thread is left behind, with whatever lock its library holds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

logger = logging.getLogger("robocache")

#: When a call that goes on is warned about, as shares of its time.
_WARNED = (0.1, 0.5)

T = TypeVar("T")


class DeadlineError(TimeoutError):
    """A call has not returned in its time; as an ``OSError`` it is tried again."""


def outlasts(wait: Callable[[float], bool], what: str, seconds: float, key: str) -> bool:
    """Whether ``wait(timeout)``, which says if the call has returned by then, says no for ``seconds``.

    what: names the call in the warnings; key: of the config, that sets its time
    """
    began = time.monotonic()
    for share in (*_WARNED, 1.0):
        if wait(max(0.0, began + share * seconds - time.monotonic())):
            return False
        if share < 1.0:
            took = time.monotonic() - began
            logger.warning("%s has taken %.3g s and goes on; it is given up after %g s (%s)", what, took, seconds, key)
    return True


class Deadline:
    """Of something that has begun now, for who looks at it from time to time. 0 ``seconds``: it has none."""

    def __init__(self, what: str, seconds: float, key: str):
        self._what, self._seconds, self._key = what, seconds, key
        self._began, self._warn = time.monotonic(), list(_WARNED)

    def passed(self) -> bool:
        """Whether its time is over; warns as that comes near."""
        took = time.monotonic() - self._began
        if not self._seconds or took < (self._warn or [1.0])[0] * self._seconds:
            return False
        if not self._warn:
            logger.warning("%s is given up: it has not ended in %g s (%s)", self._what, self._seconds, self._key)
            return True
        self._warn.pop(0)
        left = self._seconds - took
        logger.warning("%s has taken %.3g s and goes on; it has %.3g s more (%s)", self._what, took, left, self._key)
        return False


def overdue(what: str, seconds: float, key: str) -> DeadlineError:
    """For a call that is given up."""
    return DeadlineError(f"{what} has not returned within {seconds:g} s ({key})")


def within(call: Callable[[], T], what: str, seconds: float, key: str) -> T:
    """``call()``, made on a spare thread; ``DeadlineError`` once it has taken longer. 0 ``seconds``: it may take for
    ever, and is made here.
    """
    if not seconds:
        return call()
    spare = taken(_spares) or _Spare()
    answer: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
    got: list[tuple[bool, Any]] = []

    def wait(timeout: float) -> bool:
        try:
            got.append(answer.get(timeout=timeout))
        except Empty:
            return False
        return True

    spare.asked.put((partial(copy_context().run, call), answer))
    try:
        if outlasts(wait, what, seconds, key):
            raise overdue(what, seconds, key)
    except BaseException:
        spare.asked.put(None)  # it ends with the call, if that ends
        raise
    _spares.append(spare)
    well, value = got.pop()
    if well:
        return value
    try:
        raise value
    finally:
        del value  # else its traceback holds this frame, and the frame the traceback


class _Spare:
    """A thread that makes one call after another."""

    def __init__(self) -> None:
        self.asked: SimpleQueue[tuple[Callable[[], Any], SimpleQueue[tuple[bool, Any]]] | None] = SimpleQueue()
        Thread(target=self._serve, name="spare", daemon=True).start()

    def _serve(self) -> None:
        while (asked := self.asked.get()) is not None:
            call, answer = asked
            try:
                result = True, call()
            except BaseException as error:
                result = False, error
            answer.put(result)
            del asked, call, answer, result


#: Threads that wait for a call.
_spares: list[_Spare] = []


def taken(idle: list[T]) -> T | None:
    """One of what is idle, for whichever thread is first; None where there is none."""
    try:
        return idle.pop()
    except IndexError:
        return None
