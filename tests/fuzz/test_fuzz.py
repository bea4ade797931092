"""A few mutants of every kind of file: each is read or refused. ``python -m tests.fuzz`` tries more of them."""

from __future__ import annotations

import random

import pytest
from corpus import FOUND, WRITERS, seeds, unpacked
from fuzz_kit import MEMORY, SECONDS, Answer, Seed, Session, Tally, measured, mutant

#: Each costs a start of a second or so; the others have fast siblings in tests/formats.
FEW = ("mcap", "hdf5", "numpy", "config", "lease")


@pytest.mark.parametrize("target", [pytest.param(t, marks=() if t in FEW else pytest.mark.slow) for t in WRITERS])
def test_mutants_are_read_or_refused(target, tmp_path, shared):
    tally, made = Tally(), seeds(tmp_path / "seeds", target)
    shared.folder, shared.kept = tmp_path, None
    for k in range(6 if target in FEW else 60):
        shared.one(made[k % len(made)], tally)
    assert tally.findings == [], tally.findings
    assert sum(tally.outcomes.values()) > 0


@pytest.mark.parametrize("path", sorted(FOUND.glob("*/*")), ids=lambda path: path.name.partition(".")[0])
def test_what_was_a_finding_is_none_any_more(path, tmp_path, shared):
    root = unpacked(path, tmp_path)
    answer, took, peak = shared.ask(Seed(path.parent.name, root, ()), root)
    assert answer.outcome in Session.GOOD and took < SECONDS and peak < MEMORY, (answer, took, peak)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One process for all of them."""
    with Session(tmp_path_factory.mktemp("mutants"), seed=1) as session:
        yield session


def test_mutants_are_other_files():
    rng, data = random.Random(0), bytes(range(256)) * 4
    made = {mutant(data, rng) for _ in range(50)}
    assert len(made) > 40
    assert mutant(b"", rng) is not None


def test_what_is_measured():
    answer, took, peak = measured(lambda: Answer(str(len(b"1" * (200 << 20)) >> 20)))
    assert answer.outcome == "200"
    assert took < 5
    assert peak > 200e6
