"""How far a run is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TypeAlias

from rich.console import RenderableType
from rich.constrain import Constrain
from rich.filesize import decimal
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from robocache.cli.terminal import console

if TYPE_CHECKING:
    from robocache.engine.run import Progress as Counts

logger = logging.getLogger("robocache")

#: To be called with each progress.
Show: TypeAlias = "Callable[[Counts], None]"

LOG_EVERY_S = 5.0
#: Columns behind the bar for the ``^C`` that the terminal writes there; in the last column it would break the line.
_SPARE = 3


def display(*, quiet: bool = False) -> AbstractContextManager[Show]:
    """What shows a run's progress, where standard error goes: a bar or lines; ``quiet``: nothing."""
    if not quiet and sys.stderr.isatty() and console(sys.stderr).is_interactive:
        return _bar()
    return _lines()


class _Speed:
    """Rows and bytes a second of this run; what an earlier run had done does not count."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.first: Counts | None = None

    def __call__(self, p: Counts) -> tuple[float, float]:
        self.first = self.first or p
        seconds = max(time.monotonic() - self.began, 1e-9)
        return (p.rows - self.first.rows) / seconds, (p.bytes_in - self.first.bytes_in) / seconds


@contextmanager
def _bar() -> Iterator[Show]:
    """It pulses until the first progress tells how much there is; it takes what the figures leave of the width."""
    speed = _Speed()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), TimeRemainingColumn())
    out = console(sys.stderr)
    bar = Progress(*columns, console=out, expand=True, auto_refresh=False)
    task = bar.add_task("looking at the input", total=None)

    def draw(p: Counts) -> None:
        rows, size = speed(p)
        left_out = f", {p.quarantined} quarantined" if p.quarantined else ""
        done = f"{p.episodes}/{p.of_episodes} episodes{left_out}, {rows:,.0f} rows/s, {decimal(int(size))}/s"
        bar.update(task, completed=p.episodes, total=p.of_episodes, description=done)

    def within() -> RenderableType:
        return Constrain(bar.get_renderable(), out.width - _SPARE)

    with Live(get_renderable=within, console=out, refresh_per_second=10) as live:
        try:
            yield draw
        except BaseException:  # what is said of it should not stand below a bar that has told nothing
            live.transient = bar.tasks[0].total is None
            raise


@contextmanager
def _lines() -> Iterator[Show]:
    speed = _Speed()
    logged = speed.began

    def log(p: Counts) -> None:
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
