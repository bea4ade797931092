"""Loads the compiled extension and registers what torch needs to know of its operator beside the kernels."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("robocache")

#: Names of the alignment modes; their positions are the kernels' ``Mode`` (kernels/include/robocache/types.h).
MODES = ("linear", "cubic", "nearest", "previous", "next", "mean", "slerp", "pose", "angle")


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


@lru_cache(maxsize=1)
def warn_fallback() -> None:
    """Say once a process that the slow reference does the work."""
    logger.warning("the plain-torch reference does the alignment, much slower: %s", _REASON)


def _has_kernel(key: str) -> bool:
    return available() and torch._C._dispatch_has_kernel_for_dispatch_key("robocache::fuse", key)


_SUPPORTED = tuple(device for device, key in (("cpu", "CPU"), ("cuda", "CUDA")) if _has_kernel(key))


def supports(device: torch.device) -> bool:
    """True where the extension has kernels for ``device`` (a CPU build has none for CUDA)."""
    return device.type in _SUPPORTED


def fuse(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The operator ``torch.ops.robocache.fuse``, by the short way where no compiler wants to see it."""
    if torch.compiler.is_compiling():
        return torch.ops.robocache.fuse(*arguments)
    return sys.modules["robocache._C"].fuse(*arguments)


if available():

    @torch.library.register_fake("robocache::fuse")
    def _fuse_shape(
        values: Sequence[Tensor],
        times: Sequence[Tensor],
        offsets: Sequence[Tensor | None],
        modes: Sequence[int],
        max_gaps: Sequence[float],
        shifts: Sequence[float],
        targets: Tensor,
        target_offsets: Tensor | None,
        out_dtype: torch.dtype,
        out_scale: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        width = sum(x.shape[-1] for x in values)
        return (
            targets.new_empty((*targets.shape, width), dtype=out_dtype),
            targets.new_empty((*targets.shape, len(values)), dtype=torch.bool),
        )
