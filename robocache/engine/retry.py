"""Transient faults, storage that fails and memory that runs out, are tried again; everything else is not."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger("robocache")

#: First wait before the next attempt; doubles each time.
BACKOFF_S = 0.5

T = TypeVar("T")


def transient(error: BaseException) -> bool:
    """Whether another attempt may go well: storage failed, or memory ran out, here or on a device."""
    return isinstance(error, OSError) or lacks_memory(error)


def lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out, here or on a device: another attempt is to take less at once."""
    torch = sys.modules.get("torch")  # who has not imported it has no error of its
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


def with_retries(attempts: int, what: str, call: Callable[[], T]) -> T:
    """``call()``, up to ``attempts`` times while it raises what is :func:`transient`. ``what`` names it in the log."""
    for attempt in range(1, attempts):
        try:
            return call()
        except Exception as error:
            if not transient(error):
                raise
            logger.warning("%s, attempt %d of %d: %s; trying again", what, attempt, attempts, error)
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
    return call()
