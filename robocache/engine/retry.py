"""Transient faults, storage that fails and memory that runs out, are tried again; everything else is not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger("robocache")

TRANSIENT = (OSError, MemoryError, torch.OutOfMemoryError)
#: First wait before the next attempt; doubles each time.
BACKOFF_S = 0.5

T = TypeVar("T")


def with_retries(attempts: int, what: str, call: Callable[[], T], last: Callable[[], T] | None = None) -> T:
    """``call()``, up to ``attempts`` times while it raises one of TRANSIENT. ``what`` names it in the log.

    The last attempt calls ``last`` where it is given, and what it raises passes.
    """
    for attempt in range(1, attempts):
        try:
            return call()
        except TRANSIENT as error:
            logger.warning("%s, attempt %d of %d: %s; trying again", what, attempt, attempts, error)
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
    return (last or call)()
