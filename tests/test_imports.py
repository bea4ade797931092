"""Imports run one way, layer by layer, and a command imports what it needs and no more."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from process_kit import robocache

import robocache as package
from robocache.sample import write_samples

ROOT = Path(__file__).resolve().parent.parent
#: Each may import those of its own row and of the rows below it; of two rooms of one row neither may import the other.
LAYERS = (
    ("__main__",),
    ("cli", "lerobot"),
    ("engine",),
    ("config", "actions"),
    ("features", "formats", "output"),
    ("ops", "clouds", "video"),
    ("sample",),
    ("types", "errors", "storage", "stages", "threads", "scratch", "parquet", "text"),
)
#: Arrows that go down although the rows alone would not say so, or that must not be there although they would.
ALLOWED = {("features", "output"), ("cli", "sample"), ("types", "errors"), ("storage", "errors")}
#: What a room may not import, wherever it stands.
WITHOUT = {
    "output": {"torch", "ray"},
    "formats": {"torch", "ray"},
    "clouds": {"torch", "ray"},
    "video": {"torch", "ray"},
    "config": {"torch", "ray"},
    "types": {"torch"},
}
#: Of a room what is about just that.
EXCEPT = "robocache/output/torch/"


def room(module: str) -> str:
    return module.split(".")[1] if module.startswith("robocache.") else ""


def imports(path: Path) -> list[str]:
    """Every module that a file imports, at its top or anywhere in it, but not for type checkers alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            assert node.module is not None
            found += [
                f"{node.module}.{alias.name}" if node.module == "robocache" else node.module for alias in node.names
            ]
    return found


@functools.cache
def modules() -> list[tuple[str, str, str]]:
    """(file, its room, a module that it imports)."""
    out = []
    for path in sorted((ROOT / "robocache").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        own = path.relative_to(ROOT / "robocache").parts[0].removesuffix(".py")
        if own not in ("__init__", "_version"):
            out += [(name, own, module) for module in imports(path)]
    return out


def test_every_room_has_its_layer():
    known = {name for row in LAYERS for name in row}
    assert {own for _, own, _ in modules()} <= known


def test_no_arrow_runs_back():
    row = {name: k for k, names in enumerate(LAYERS) for name in names}
    back = [
        f"{file} imports {module}"
        for file, own, module in modules()
        if (other := room(module)) and other != own and other in row
        if row[other] <= row[own] and (own, other) not in ALLOWED
    ]
    assert not back


def test_what_a_room_does_without():
    wrong = [
        f"{file} imports {module}"
        for file, own, module in modules()
        if module.partition(".")[0] in WITHOUT.get(own, ()) and not file.startswith(EXCEPT)
    ]
    assert not wrong


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Two logs, a config, and its output."""
    work = tmp_path_factory.mktemp("imports")
    write_samples(work / "logs", episodes=1, seconds=1.0)
    (work / "config.yaml").write_text(
        "input: {uri: logs, max_failed_episodes: 1}\nfeatures: {x: /joint_states.position}\n"
        "timeline: {rate_hz: 50}\noutput: {uri: out}\n"
    )
    assert robocache("run", "-q", "config.yaml", cwd=work).returncode == 0
    return work


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def command(*arguments: str, options: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *options, "-m", "robocache.cli", *arguments]


@pytest.mark.parametrize(
    ("line", "without"),
    [
        ("--help", {"torch", "pandas.core", "ray", "numpy", "pyarrow", "omegaconf", "fsspec"}),
        ("--version", {"torch", "pandas.core", "ray", "numpy", "pyarrow", "omegaconf", "fsspec"}),
        ("plan config.yaml", {"torch", "pandas.core", "ray"}),
        ("verify out", {"torch", "pandas.core", "ray", "omegaconf", "h5py"}),
        ("inspect out", {"torch", "pandas.core", "ray", "omegaconf", "h5py"}),
        ("inspect logs/episode_000.mcap", {"torch", "pandas.core", "ray", "omegaconf"}),
    ],
)
def test_a_command_starts_without(work, line, without):
    done = subprocess.run(
        command(*line.split(), options=("-X", "importtime")),
        cwd=work,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {said.rpartition("|")[2].strip() for said in done.stderr.splitlines() if said.startswith("import time:")}
    assert "robocache.cli" in imported
    assert not imported & without


def test_no_type_is_asked_of_pandas():
    """``to_pandas_dtype`` raises where pandas is missing, up to pyarrow 25; nothing here needs pandas."""
    assert not [str(path) for path in (ROOT / "robocache").rglob("*.py") if ".to_pandas" in path.read_text()]


def test_who_uses_the_package_is_told_its_types():
    """PEP 561: without the marker a type checker takes everything of an installed package for ``Any``."""
    assert (ROOT / "robocache/py.typed").exists()
    tree = ast.parse((ROOT / "robocache/__init__.py").read_text())
    told = {a.name: i.module for n in tree.body if isinstance(n, ast.If) for i in n.body for a in i.names}
    assert told == package._HOME
    assert sorted(package.__all__) == sorted(["__version__", *told])
