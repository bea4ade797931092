"""Files of every kind that RoboCache reads, mutants of them, and what reading these comes to.

A mutant is read in a process of its own, so that a crash, a hang and the memory that it took are seen as what they are.
"""

from __future__ import annotations

import hashlib
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import process_time

import numpy as np

from robocache.engine.child import Child, EndedError, Limits
from robocache.engine.deadline import DeadlineError
from robocache.errors import ConfigError, InputError, OutputError

#: A mutant that takes longer, or more memory, is a finding.
SECONDS, MEMORY = 5.0, 1 << 30
#: What waits and does not work for so long hangs; what works has six times ``SECONDS`` of its processor.
_WALL = 300.0


@dataclass(frozen=True)
class Seed:
    """Something sound: ``root`` is what is read, ``files`` below it are what mutants are made of.

    covered: of files, the ranges of bytes that a checksum covers: damage there must be seen
    """

    target: str
    root: Path
    files: tuple[Path, ...]
    covered: Mapping[Path, tuple[range, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What reading came to: ``read``, ``told`` (read, with a note or a problem), ``salvaged`` or ``refused``; hashes of
    the streams that were read, and the notes.
    """

    outcome: str
    streams: frozenset[str] = frozenset()
    notes: frozenset[str] = frozenset()


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

    def row(self, target: str) -> dict[str, object]:
        """For a table of raw results."""
        return {
            "target": target,
            "tried": sum(self.outcomes.values()),
            "outcomes": dict(sorted(self.outcomes.items())),
            "slowest_cpu_s": round(self.slowest, 2),
            "largest_MB": round(self.largest / 1e6),
            "findings": self.findings,
        }


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


def damage(data: bytes, covered: tuple[range, ...], rng: random.Random) -> bytes:
    """A few bytes changed, all of them in places that a checksum covers."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        span = rng.choice(covered)
        out[rng.choice(span)] ^= rng.randrange(1, 256)
    return bytes(out)


def _place(size: int, rng: random.Random) -> int:
    """Half of them near the ends, where formats keep their structure."""
    near = min(size, 2048)
    return max(0, rng.choice((rng.randrange(size + 1), rng.randrange(near + 1), size - 1 - rng.randrange(near + 1))))


# ---- what is done with a mutant, in a process of its own ------------------------------------------------------------


def read_recording(root: str, format: str) -> Answer:
    """List, look, describe and read everything, as a run and `inspect` would."""
    from robocache.formats import InputSpec, TableTimes, list_episodes, list_streams
    from robocache.formats.registry import READERS

    timed = READERS[format].own_time
    found, streams, notes = "refused", set[str](), set[str]()
    for salvage in (False, True) if format in ("mcap", "rosbag1") else (False,):
        spec = InputSpec((root,), format=format, times=None if timed else TableTimes(rate_hz=20), salvage=salvage)
        try:
            for ref in list_episodes(spec)[:2]:
                named = [
                    f"{s.source}.{name}" if timed and name else s.source
                    for s in list_streams(ref, spec)[:8]
                    for name, _ in (s.fields[:4] or (("", ""),))
                ]
                outcome = _read(ref, list(dict.fromkeys(named)), spec, streams, notes)
                if outcome != "refused" and found == "refused":
                    found = "salvaged" if salvage else outcome
        except InputError:
            pass
    return Answer(found, frozenset(streams), frozenset(notes))


def _read(ref, sources: list[str], spec, streams: set[str], notes: set[str]) -> str:
    """All at once, as a run does; where that is refused, one by one. Salvage leaves out what is damaged: not hashed."""
    from robocache.formats import describe_episode, read_episode

    found = "refused"
    for some in (sources, *([source] for source in sources[:4])):
        try:
            describe_episode(ref, some, spec, look=True)
            episode = read_episode(ref, some, spec)
        except InputError:
            continue
        if not spec.salvage:
            for key, stream in episode.streams.items():
                values = stream.values.tobytes() if hasattr(stream.values, "tobytes") else _packed(stream.values)
                streams.add(f"{ref.id} {key} {hashlib.sha256(stream.times.tobytes() + values).hexdigest()}")
        notes.update(episode.notes, *(stream.notes for stream in episode.streams.values()))
        found = "told" if notes else "read"
        if some is sources:
            break
    return found


def _packed(values) -> bytes:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([values], ["v"]).serialize().to_pybytes()


def read_output(root: str) -> Answer:
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
        return Answer("refused")
    return Answer("told" if problems else "read", frozenset(() if problems else ("other",)))


def read_config(root: str) -> Answer:
    from robocache.config.load import load_job

    try:
        load_job(root)
    except ConfigError:
        return Answer("refused")
    return Answer("read")


def read_lease(root: str) -> Answer:
    from robocache.output.lock import _seen

    return Answer("read" if _seen(Path(root).read_bytes(), "etag").token else "refused")


def read_image(root: str) -> Answer:
    """As the step ``decode`` does."""
    import pyarrow as pa

    from robocache.features.decode import Decode
    from robocache.features.steps import Compute, Samples
    from robocache.types import StreamType

    values = pa.array([Path(root).read_bytes()], pa.binary())
    try:
        step = Decode(resize=(8, 8))
        step.type(StreamType(values.type, {"kind": "image"}))
        step.apply(Samples(values, np.ones(1, bool), {"kind": "image"}), Compute())
    except InputError:
        return Answer("refused")
    return Answer("read")


def read_video(root: str) -> Answer:
    from robocache.video import decoded_frames
    from robocache.video import read_video as look

    try:
        with open(root, "rb") as opened:
            found = look(opened, root)
        with open(root, "rb") as opened:
            for _ in decoded_frames(opened, root, found.pts.tolist()[:20]):
                pass
    except InputError:
        return Answer("refused")
    return Answer("read")


def measured(call: Callable[[], Answer]) -> tuple[Answer, float, int]:
    """Its outcome, seconds, and the most bytes that this process has held meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began = process_time()  # this machine may have others to serve
    try:
        answer = call()
    except (OSError, MemoryError) as error:  # these a run tries again
        answer = Answer(type(error).__name__)
    took = process_time() - began
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return answer, took, int(peak[1]) * 1024 if peak else 0


#: Encodings of messages and of their schemas, and the container that their seeds are in.
WITHIN = dict.fromkeys(("ros2idl", "omgidl", "xcdr2", "wstring", "flatbuffer"), "mcap")


def call_of(seed: Seed, root: Path) -> Callable[[], Answer]:
    others = {"output": read_output, "config": read_config, "lease": read_lease}
    other = (others | {"image": read_image, "video": read_video}).get(seed.target)
    return (
        partial(other, str(root)) if other else partial(read_recording, str(root), WITHIN.get(seed.target, seed.target))
    )


# ---- a session ------------------------------------------------------------------------------------------------------


class Session:
    """Reads mutants of seeds one after the other; what it finds is kept in ``kept`` as it was read."""

    GOOD = ("read", "told", "salvaged", "refused")

    def __init__(self, folder: Path, kept: Path | None = None, seed: int = 0):
        self.folder, self.kept, self.rng = folder, kept, random.Random(seed)
        self.child: Child | None = None
        self.sound: dict[Path, Answer] = {}

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child is not None:
            self.child.close()

    def one(self, seed: Seed, tally: Tally) -> None:
        if seed.covered:
            self._sound(seed)
        work = self._copy(seed)
        covering = bool(seed.covered) and self.rng.random() < 0.25
        changed = self.rng.choice(tuple(seed.covered) if covering else seed.files)
        target = work / changed.relative_to(seed.root) if seed.root.is_dir() else work
        before = changed.read_bytes()
        target.write_bytes(damage(before, seed.covered[changed], self.rng) if covering else mutant(before, self.rng))
        answer, took, peak = self.ask(seed, work)
        outcome = answer.outcome
        sound = self._sound(seed) if covering else answer
        if outcome != "refused" and not answer.streams <= sound.streams and answer.notes <= sound.notes:
            outcome = "damage accepted"
        tally.outcomes[outcome] += 1
        tally.slowest, tally.largest = max(tally.slowest, took), max(tally.largest, peak)
        if outcome not in self.GOOD or took > SECONDS or peak > MEMORY:
            place = self._keep(work, target)
            tally.findings.append(f"{seed.target}: {outcome}, {took:.1f} s, {peak / 1e6:.0f} MB: {place}")

    def _sound(self, seed: Seed) -> Answer:
        """What reading the seed itself gives, under the name that its mutants have."""
        if seed.root not in self.sound:
            self.sound[seed.root] = self.ask(seed, self._copy(seed))[0]
        return self.sound[seed.root]

    def _copy(self, seed: Seed) -> Path:
        work = self.folder / f"mutant{''.join(seed.root.suffixes)}"
        for old in self.folder.glob("mutant*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        shutil.copytree(seed.root, work) if seed.root.is_dir() else shutil.copyfile(seed.root, work)
        return work

    def ask(self, seed: Seed, root: Path) -> tuple[Answer, float, int]:
        if self.child is None:
            self.child = Child(Limits(8 << 30, 6 * SECONDS))
        try:
            return self.child.ask(partial(measured, call_of(seed, root)), seed.target, _WALL, "the harness")
        except EndedError as end:
            self.child = None
            return Answer(str(end)), 0.0, 0
        except DeadlineError:
            self.child = None
            return Answer("hang"), 6 * SECONDS, 0
        except Exception as error:
            return Answer(f"{type(error).__name__}: {str(error)[:200]}"), 0.0, 0

    def _keep(self, work: Path, target: Path) -> Path:
        if self.kept is None:
            return target
        place = self.kept / f"{self.rng.randrange(10**9)}{''.join(work.suffixes)}"
        self.kept.mkdir(parents=True, exist_ok=True)
        shutil.copytree(work, place) if work.is_dir() else shutil.copyfile(work, place)
        return place


def endless(seeds: list[Seed], seed: int = 0) -> Iterator[Seed]:
    """Each now and then, small ones more often: they are read sooner, and more of them is structure."""
    rng = random.Random(seed)
    weights = [1 / (30_000 + sum(file.stat().st_size for file in one.files)) for one in seeds]
    while True:
        yield rng.choices(seeds, weights)[0]
