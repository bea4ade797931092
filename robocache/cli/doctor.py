"""``robocache doctor``: what this machine and this installation can do, and what to do about the rest."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from rich.filesize import decimal
from rich.table import Table

from robocache.cli import terminal
from robocache.cli.terminal import cell

#: ``ok``: there and working. ``missing``: RoboCache does not work, or works slowly, without it. ``off``: an optional
#: part that is not there.
State = Literal["ok", "missing", "off"]

#: A container's own memory limit (cgroup v2).
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

_STYLE = {"ok": "green", "missing": "red", "off": "dim"}
_OPTIONAL = {
    "ray": "only for running on a cluster: pip install ray",
    "s3fs": "only for s3:// URIs: pip install s3fs",
    "gcsfs": "only for gs:// URIs: pip install gcsfs",
}


class Check(NamedTuple):
    """One line of the report: what was looked at, how it stands, and what was found or what would help."""

    name: str
    state: State
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def run(args: argparse.Namespace) -> bool:
    if args.json:
        terminal.document([check._asdict() for check in report()])
    else:
        terminal.show(render(report()))
    return True


def report() -> list[Check]:
    """Every check, in the order to read them. A check that fails is a line of the report, never an error."""
    checks: Sequence[Callable[[], list[Check]]] = (_machine, _torch, _extension, _decoder, _packages, _readers, _disk)
    return [line for check in checks for line in _guarded(check)]


def render(lines: Sequence[Check]) -> Table:
    """The report as a table."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, state, detail in lines:
        table.add_row(cell(name), cell(state, _STYLE[state]), cell(detail))
    return table


def _guarded(check: Callable[[], list[Check]]) -> list[Check]:
    try:
        return check()
    except Exception as error:  # a broken installation breaks in its own ways; the other checks still count
        return [Check(check.__name__.strip("_"), "missing", f"{type(error).__name__}: {error}")]


def _machine() -> list[Check]:
    from robocache.engine.cores import usable_cores

    return [
        Check("python", "ok", f"{platform.python_version()} ({sys.executable})"),
        Check("platform", "ok", platform.platform()),
        Check("cores", "ok", f"{usable_cores()} usable of {os.cpu_count()}"),
        Check("memory", "ok", _memory()),
    ]


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.exists() else "max"
    if text != "max" and int(text) < total:
        return f"{decimal(int(text))} in this container, of {decimal(total)}"
    return decimal(total)


def _torch() -> list[Check]:
    import torch

    lines = [Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")]
    if not torch.backends.cuda.is_built():
        return [*lines, Check("cuda", "off", "this torch is built without CUDA; alignment runs on the CPU")]
    if not torch.cuda.is_available():
        return [*lines, Check("cuda", "off", f"torch is built for CUDA {torch.version.cuda}, but sees no device")]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        arch = f"sm_{device.major}{device.minor}"
        lines.append(Check(f"cuda:{index}", "ok", f"{device.name}, {arch}, {decimal(device.total_memory)}"))
    return lines


def _extension() -> list[Check]:
    import torch

    from robocache.ops import _library

    if not _library.available():
        return [Check("extension", "missing", f"{_library.reason()}; the plain-torch reference is used, much slower")]
    kernels = [name for name in ("cpu", "cuda") if _library.has_kernel("fuse", torch.device(name))]
    instructions = torch.ops.robocache.instruction_set()
    return [Check("extension", "ok", f"kernels for {', '.join(kernels)}; CPU kernels use {instructions}")]


def _decoder() -> list[Check]:
    from robocache.formats.messages import native

    if native.library is None:
        return [Check("decoder", "missing", f"{native.reason}; messages of logs are decoded in numpy, slower")]
    return [Check("decoder", "ok", "messages of logs are decoded by compiled code")]


def _packages() -> list[Check]:
    lines = []
    for name in ("numpy", "pyarrow", "omegaconf", "fsspec", *_OPTIONAL):
        try:
            lines.append(Check(name, "ok", version(name)))
        except PackageNotFoundError:
            absent: State = "off" if name in _OPTIONAL else "missing"
            lines.append(Check(name, absent, _OPTIONAL.get(name, f"pip install {name}")))
    return lines


def _readers() -> list[Check]:
    from robocache.formats import READERS, UNAVAILABLE

    lines = []
    for name, reader in READERS.items():
        state: State = "off" if name in UNAVAILABLE else "ok"
        found = " ".join(reader.suffixes) or "dataset folders"
        lines.append(Check(f"reader {name}", state, UNAVAILABLE.get(name, found)))
    return lines


def _disk() -> list[Check]:
    folder = Path.cwd()
    return [Check("disk", "ok", f"{decimal(shutil.disk_usage(folder).free)} free in {folder}")]
