"""The doctor: every check answers, says what it found, and survives an installation that is broken."""

from __future__ import annotations

import builtins
import platform

import pytest
import torch
from rich.console import Console

from robocache.cli import doctor
from robocache.formats import READERS
from robocache.ops import _library


def lines() -> dict[str, doctor.Check]:
    found = doctor.report()
    assert len({line.name for line in found}) == len(found)
    assert all(line.state in ("ok", "missing", "off") and line.detail for line in found)
    return {line.name: line for line in found}


def test_the_report_says_what_is_here():
    found = lines()
    assert found["python"].detail.startswith(platform.python_version())
    assert found["torch"].detail.startswith(torch.__version__)
    assert {"platform", "cores", "memory", "disk", "ray", "s3fs"} <= found.keys()
    assert all(found[name].state == "ok" for name in ("numpy", "pyarrow", "omegaconf", "fsspec"))
    assert {f"reader {name}" for name in READERS} <= found.keys()
    devices = [name for name in found if name.startswith("cuda:")]
    assert len(devices) == torch.cuda.device_count()
    assert ("cuda" in found) == (not devices)


def test_the_extension_is_reported_as_it_is():
    found = lines()["extension"]
    assert (found.state == "ok") == _library.available()


def test_a_missing_extension_says_why(monkeypatch):
    monkeypatch.setattr(_library, "available", lambda: False)
    monkeypatch.setattr(_library, "reason", lambda: "no compiled extension in here")
    found = lines()["extension"]
    assert found.state == "missing"
    assert found.detail.startswith("no compiled extension in here")


def test_an_absent_package_is_off_if_optional_and_missing_if_not(monkeypatch):
    def absent(name: str) -> str:
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", absent)
    found = lines()
    assert (found["ray"].state, found["pyarrow"].state) == ("off", "missing")
    assert "pip install pyarrow" in found["pyarrow"].detail


def test_an_absent_reader_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("robocache.formats.UNAVAILABLE", {"hdf5": "reading hdf5 needs the package h5py"})
    found = lines()
    assert (found["reader hdf5"].state, found["reader mcap"].state) == ("off", "ok")
    assert "h5py" in found["reader hdf5"].detail


def test_a_broken_torch_is_a_line_and_the_rest_is_still_checked(monkeypatch):
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "torch":
            raise OSError("libcudart.so.13: cannot open shared object file")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    found = {line.name: line for line in doctor.report()}
    assert found["torch"].state == found["extension"].state == "missing"
    assert "libcudart.so.13" in found["torch"].detail
    assert found["disk"].state == found["numpy"].state == "ok"


@pytest.mark.parametrize(("limit", "total"), [("1000000000\n", "1.0 GB in this container"), ("max\n", "B")])
def test_memory_is_what_the_container_may_use(monkeypatch, tmp_path, limit, total):
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(doctor, "CGROUP_LIMIT", tmp_path / "memory.max")
    detail = lines()["memory"].detail
    assert total in detail
    assert ("container" in detail) == (limit != "max\n")


def test_the_table_shows_every_line():
    console = Console(width=200, color_system=None)
    report = doctor.report()
    with console.capture() as capture:
        console.print(doctor.render(report))
    shown = capture.get()
    assert all(line.name in shown and line.detail[:40] in shown for line in report)
