"""How far a run is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TypeAlias

from rich.filesize import decimal
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from robocache.cli.terminal import console

if TYPE_CHECKING:
    from robocache.engine.run import Progress

logger = logging.getLogger("robocache")

#: To be called with each progress.
Show: TypeAlias = "Callable[[Progress], None]"

LOG_EVERY_S = 5.0


def display(*, quiet: bool = False) -> AbstractContextManager[Show]:
    """What shows a run's progress, where standard error goes: a bar or lines; ``quiet``: nothing."""
    if not quiet and sys.stderr.isatty() and console(sys.stderr).is_interactive:
        return _bar()
    return _lines()


class _Speed:
    """Rows and bytes a second of this run; what an earlier run had done does not count."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.first: Progress | None = None

    def __call__(self, p: Progress) -> tuple[float, float]:
        self.first = self.first or p
        seconds = max(time.monotonic() - self.began, 1e-9)
        return (p.rows - self.first.rows) / seconds, (p.bytes_in - self.first.bytes_in) / seconds


@contextmanager
def _bar() -> Iterator[Show]:
    """It pulses until the first progress tells how much there is; it takes what the figures leave of the width."""
    speed = _Speed()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), TimeRemainingColumn())
    with Bar(*columns, console=console(sys.stderr), expand=True) as bar:
        task = bar.add_task("looking at the input", total=None)

        def draw(p: Progress) -> None:
            rows, size = speed(p)
            left_out = f", {p.quarantined} quarantined" if p.quarantined else ""
            done = f"{p.episodes}/{p.of_episodes} episodes{left_out}, {rows:,.0f} rows/s, {decimal(int(size))}/s"
            bar.update(task, completed=p.episodes, total=p.of_episodes, description=done)

        yield draw


@contextmanager
def _lines() -> Iterator[Show]:
    speed = _Speed()
    logged = speed.began

    def log(p: Progress) -> None:
        nonlocal logged
        rows, size = speed(p)
        now = time.monotonic()
        if now - logged < LOG_EVERY_S and p.episodes < p.of_episodes:
            return
        logged = now
        left = p.of_bytes - p.bytes_in
        logger.info(
            "%d/%d episodes, %.0f rows/s, %s/s, %d quarantined, %s s left",
            *(p.episodes, p.of_episodes, rows, decimal(int(size)), p.quarantined),
            f"{left / size:.0f}" if size else "?" if left else "0",
        )

    yield log
