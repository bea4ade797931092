"""Loads the compiled extension, and says which operators it has on which device."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from functools import cache
from pathlib import Path

import torch

logger = logging.getLogger("robocache")


def _load() -> str:
    """Why the extension cannot be used; empty where it is loaded."""
    if os.environ.get("ROBOCACHE_NO_EXTENSION"):
        return "switched off by ROBOCACHE_NO_EXTENSION"
    try:
        importlib.import_module("robocache._C")
    except ModuleNotFoundError:
        folder = Path(__file__).resolve().parent.parent
        return f"no compiled extension in {folder}; build it with `pip install --no-build-isolation .`"
    except ImportError as error:
        return f"the compiled extension does not load beside torch {torch.__version__}: {error}"
    return ""


_REASON = _load()


def available() -> bool:
    """True where the compiled extension is loaded."""
    return not _REASON


def reason() -> str:
    """Why the compiled extension is not loaded; empty where it is."""
    return _REASON


def _kernels(key: str) -> frozenset[str]:
    """Names of the operators that have a kernel under a dispatch key."""
    names = torch._C._dispatch_get_registrations_for_dispatch_key(key) if available() else []
    return frozenset(n.removeprefix("robocache::") for n in names if n.startswith("robocache::"))


_KERNELS = {"cpu": _kernels("CPU"), "cuda": _kernels("CUDA")}


def check_schema(op: str, names: tuple[str, ...], *doors: str) -> None:
    """Take an extension whose operator has other arguments, or which lacks one of its ``doors`` (the functions of
    ``robocache._C``), for none: it was built from other sources."""
    global _REASON
    if not available():
        return
    found = tuple(a.name for a in getattr(torch.ops.robocache, op).default._schema.arguments)
    missing = [door for door in doors if not hasattr(sys.modules["robocache._C"], door)]
    if found != names or missing:
        what = f"{op} takes {', '.join(found)}" if found != names else f"it has no {missing[0]}"
        _REASON = f"the compiled extension is of other sources ({what}); build it again"
        _KERNELS.clear()


def has_kernel(op: str, device: torch.device) -> bool:
    """True where the extension has operator ``op`` for ``device`` (a CPU build has none for CUDA)."""
    return op in _KERNELS.get(device.type, ())


def compiled(op: str, *inputs: torch.Tensor) -> bool:
    """Whether the kernel of ``op``, which has no gradients and takes float64 or float32, takes these inputs; else its
    plain-torch twin does.
    """
    kinds = {(x.dtype, x.device) for x in inputs}
    if len(kinds) > 1 or inputs[0].dtype not in (torch.float64, torch.float32):
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return False
    device = inputs[0].device
    if has_kernel(op, device) or (available() and device.type == "meta" and has_kernel(op, torch.device("cpu"))):
        return True
    warn_fallback(op)
    return False


@cache
def warn_fallback(op: str) -> None:
    """Say once a process and operator that the slow reference does the work."""
    why = _REASON or "the extension was built without CUDA"
    logger.warning("the plain-torch reference does %s, much slower: %s", op, why)
