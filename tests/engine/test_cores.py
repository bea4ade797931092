"""How many threads a run takes where the machine is not all its own."""

from __future__ import annotations

import os

import pytest

from robocache.engine import cores


@pytest.fixture
def group(tmp_path, monkeypatch):
    """The process's own control group, two below the root of all."""
    own = tmp_path / "cgroup/pod/container"
    own.mkdir(parents=True)
    (tmp_path / "self").write_text("0::/pod/container\n")
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "self")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return own


@pytest.mark.parametrize(
    ("own", "above", "usable"),
    [
        ("max 100000", "max 100000", 8),
        ("200000 100000", "max 100000", 2),
        ("max 100000", "300000 100000", 3),
        ("250000 100000", "500000 100000", 3),  # what is left of a core is still of use
        ("5000 100000", "max 100000", 1),
        ("6400000 100000", None, 8),
        (None, None, 8),
    ],
)
def test_the_least_of_affinity_and_limits(group, own, above, usable):
    for folder, text in ((group, own), (group.parent, above)):
        if text is not None:
            (folder / "cpu.max").write_text(f"{text}\n")
    assert cores.usable_cores() == usable


def test_where_there_are_no_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "none")
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "none")
    assert cores.usable_cores() == len(os.sched_getaffinity(0))
