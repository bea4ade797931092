"""Files of every kind that RoboCache reads, mutants of them, and what reading these comes to.

A mutant is read in a process of its own, so that a crash, a hang and the memory that it took are seen as what they are.
"""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import process_time

from robocache.engine.child import Child, EndedError, Limits
from robocache.engine.deadline import DeadlineError
from robocache.errors import ConfigError, InputError, OutputError

#: A mutant that takes longer, or more memory, is a finding.
SECONDS, MEMORY = 5.0, 1 << 30


@dataclass(frozen=True)
class Seed:
    """Something sound: ``root`` is what is read, ``files`` below it are what mutants are made of."""

    target: str
    root: Path
    files: tuple[Path, ...]


@dataclass
class Tally:
    """What became of the mutants of one target."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    largest: int = 0
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.outcomes.items()))
        return f"{counts}; slowest {self.slowest:.2f} s, largest {self.largest / 1e6:.0f} MB"


# ---- mutants --------------------------------------------------------------------------------------------------------

_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
_NUMBERS = (b"0", b"-1", b"1e308", b"999999999", b"18446744073709551616", b"nan", b"null", b'"x"', b"[]")


def mutant(data: bytes, rng: random.Random) -> bytes:
    """A few changes of the kinds that find most: bits, lengths at their extremes, pieces lost, doubled and moved."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = _place(len(out), rng)
        kind = rng.randrange(9)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind in (2, 3):  # a length, a count, an offset
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(_EXTREMES) % (1 << (8 * width))
            out[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 4:
            del out[at : at + rng.choice((1, 4, 64, 4096, len(out)))]
        elif kind == 5:
            out[at:at] = out[at : at + rng.choice((1, 16, 256))] * rng.choice((1, 2, 100))
        elif kind == 6:
            size = rng.choice((4, 64, 512))
            other = _place(len(out), rng)
            out[at : at + size] = out[other : other + size]
        elif kind == 7:
            out[at : at + 512] = bytes(len(out[at : at + 512]))
        elif numbers := list(re.finditer(rb"-?\d+(\.\d+)?", bytes(out[:100_000]))):
            found = rng.choice(numbers)
            out[found.start() : found.end()] = rng.choice(_NUMBERS)
    return bytes(out)


def _place(size: int, rng: random.Random) -> int:
    """Half of them near the ends, where formats keep their structure."""
    near = min(size, 2048)
    return max(0, rng.choice((rng.randrange(size + 1), rng.randrange(near + 1), size - 1 - rng.randrange(near + 1))))


# ---- what is done with a mutant, in a process of its own ------------------------------------------------------------


def read_recording(root: str, format: str) -> str:
    """List, look, describe and read everything, as a run and `inspect` would."""
    from robocache.formats import InputSpec, TableTimes, describe_episode, list_episodes, list_streams, read_episode
    from robocache.formats.registry import READERS

    times = None if READERS[format].own_time else TableTimes(rate_hz=20)
    outcome = "refused"
    for salvage in (False, True) if format in ("mcap", "rosbag1") else (False,):
        spec = InputSpec((root,), format=format, times=times, salvage=salvage)
        try:
            for ref in list_episodes(spec)[:4]:
                streams = list_streams(ref, spec)
                sources = [
                    f"{s.source}.{name}" if READERS[format].own_time and name else s.source
                    for s in streams[:8]
                    for name, _ in (s.fields[:4] or (("", ""),))
                ]
                for source in dict.fromkeys(sources):
                    try:
                        describe_episode(ref, [source], spec, look=True)
                        read_episode(ref, [source], spec)
                        outcome = "read"
                    except InputError:
                        pass
        except InputError:
            pass
    return outcome


def read_output(root: str) -> str:
    from robocache.output.dataset import Output
    from robocache.output.verify import verify

    try:
        problems = verify(root).problems
    except OutputError:
        problems = ("refused",)
    try:
        opened = Output.open(root)
        for part in opened.parts:
            opened.table(part)
        _ = opened.plan, opened.schema, opened.episodes, opened.quarantine, opened.statistics, opened.config
    except OutputError:
        return "refused"
    return "told" if problems else "read"


def read_config(root: str) -> str:
    from robocache.config.load import load_job

    try:
        load_job(root)
    except ConfigError:
        return "refused"
    return "read"


def read_lease(root: str) -> str:
    from robocache.output.lock import _seen

    return "read" if _seen(Path(root).read_bytes(), "etag").token else "refused"


def measured(call: Callable[[], str]) -> tuple[str, float, int]:
    """Its outcome, seconds, and the most bytes that this process has held meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began = process_time()  # this machine may have others to serve
    try:
        outcome = call()
    except (OSError, MemoryError) as error:  # these a run tries again
        outcome = f"{type(error).__name__}"
    took = process_time() - began
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return outcome, took, int(peak[1]) * 1024 if peak else 0


def call_of(seed: Seed, root: Path) -> Callable[[], str]:
    other = {"output": read_output, "config": read_config, "lease": read_lease}.get(seed.target)
    return partial(other, str(root)) if other else partial(read_recording, str(root), seed.target)


# ---- a session ------------------------------------------------------------------------------------------------------


class Session:
    """Reads mutants of seeds one after the other; what it finds is kept in ``kept`` as it was read."""

    def __init__(self, folder: Path, kept: Path | None = None, seed: int = 0):
        self.folder, self.kept, self.rng = folder, kept, random.Random(seed)
        self.child: Child | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child is not None:
            self.child.close()

    def one(self, seed: Seed, tally: Tally) -> None:
        work = self.folder / f"mutant{''.join(seed.root.suffixes)}"
        for old in self.folder.glob("mutant*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        if seed.root.is_dir():
            shutil.copytree(seed.root, work)
        else:
            shutil.copyfile(seed.root, work)
        changed = self.rng.choice(seed.files)
        target = work / changed.relative_to(seed.root) if seed.root.is_dir() else work
        target.write_bytes(mutant(changed.read_bytes(), self.rng))
        outcome, took, peak = self.ask(seed, work)
        tally.outcomes[outcome] += 1
        tally.slowest, tally.largest = max(tally.slowest, took), max(tally.largest, peak)
        if outcome not in ("read", "refused", "told") or took > SECONDS or peak > MEMORY:
            place = self._keep(work, target)
            tally.findings.append(f"{seed.target}: {outcome}, {took:.1f} s, {peak / 1e6:.0f} MB: {place}")

    def ask(self, seed: Seed, root: Path) -> tuple[str, float, int]:
        if self.child is None:
            self.child = Child(Limits(memory=8 << 30))
        try:
            return self.child.ask(partial(measured, call_of(seed, root)), seed.target, 6 * SECONDS, "the harness")
        except EndedError as end:
            self.child = None
            return str(end), 0.0, 0
        except DeadlineError:
            self.child = None
            return "hang", 6 * SECONDS, 0
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:200]}", 0.0, 0

    def _keep(self, work: Path, target: Path) -> Path:
        if self.kept is None:
            return target
        place = self.kept / f"{self.rng.randrange(10**9)}{''.join(work.suffixes)}"
        self.kept.mkdir(parents=True, exist_ok=True)
        shutil.copytree(work, place) if work.is_dir() else shutil.copyfile(work, place)
        return place


def endless(seeds: list[Seed]) -> Iterator[Seed]:
    while True:
        yield from seeds
