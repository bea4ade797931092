"""How a run shows itself: a bar on a terminal, a line every few seconds elsewhere, and a summary at its end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from robocache.engine.run import Progress
from robocache.output.tables import Summary

logger = logging.getLogger("robocache")

LOG_EVERY_S = 5.0
_SHOWN_REASONS = 10


@contextlib.contextmanager
def display() -> Iterator[Callable[[Progress], None]]:
    """A function to call with each :class:`Progress`."""
    console = Console(stderr=True)
    began = time.monotonic()
    first: Progress | None = None

    def rates(p: Progress) -> tuple[float, float]:
        """Rows and bytes a second of this run; what an earlier run had done does not count."""
        nonlocal first
        first = first or p
        seconds = max(time.monotonic() - began, 1e-9)
        return (p.rows - first.rows) / seconds, (p.bytes_in - first.bytes_in) / seconds

    if console.is_terminal:
        columns = (
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} episodes"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[quarantined]} quarantined"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=console) as bar:
            task = bar.add_task("run", total=None, speed="", quarantined=0)

            def draw(p: Progress) -> None:
                rows, size = rates(p)
                bar.update(
                    task,
                    completed=p.episodes,
                    total=p.of_episodes,
                    speed=f"{rows:,.0f} rows/s {decimal(int(size))}/s",
                    quarantined=p.quarantined,
                )

            yield draw
        return

    logged = began

    def log(p: Progress) -> None:
        nonlocal logged
        rows, size = rates(p)
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


def render_summary(s: Summary) -> str:
    """The end of a run, for a person."""
    total = s.episodes + len(s.quarantined)
    lines = [
        f"{s.uri}: {s.rows:,} rows of {s.episodes} episodes in {s.parts} parts, {decimal(s.bytes_out)} "
        f"from {decimal(s.bytes_in)} of input, {s.seconds:.2f} s",
    ]
    if s.skipped_shards:
        lines.append(f"{s.skipped_shards} of {s.shards} shards were there already, of this config and input")
    if s.quarantined:
        allowed = "" if s.within_limit else ", more than max_failed_episodes allows"
        lines.append(f"quarantined: {len(s.quarantined)} of {total} episodes{allowed}")
        for q in s.quarantined[:_SHOWN_REASONS]:
            lines.append(f"  {q.id}: {q.reason}")
        if len(s.quarantined) > _SHOWN_REASONS:
            lines.append(
                f"  ... and {len(s.quarantined) - _SHOWN_REASONS} more in {s.uri}/meta/robocache/quarantine.jsonl"
            )
    return "\n".join(lines)
