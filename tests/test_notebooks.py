"""The notebooks of examples/notebooks: their cells one after the other, from an empty folder."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "examples/notebooks").glob("*.ipynb"))}
needs_ray = [pytest.mark.slow, pytest.mark.ray, pytest.mark.skipif(find_spec("ray") is None, reason="no Ray")]


def code(name: str) -> list[str]:
    cells = json.loads(NOTEBOOKS[name].read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), "clear the outputs"
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_they_are_all_here():
    assert set(NOTEBOOKS) == {"quick_start", "your_own_log", "scale_out"}


@pytest.mark.parametrize("name", ["quick_start", "your_own_log", pytest.param("scale_out", marks=needs_ray)])
def test_cells(name, tmp_path, monkeypatch, request, capsys):
    """In this process, which has torch already."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(before))
    torch.set_num_threads(1)
    known: dict[str, object] = {"__name__": "__main__"}
    for cell in code(name):
        exec(compile(cell, f"{name}.ipynb", "exec"), known)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_in_a_kernel(name, tmp_path, monkeypatch):
    """As Jupyter does it."""
    client = pytest.importorskip("nbclient", reason="the extra `notebooks` is not installed")
    pytest.importorskip("ipykernel", reason="the extra `notebooks` is not installed")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    nbformat.validate(notebook)
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
