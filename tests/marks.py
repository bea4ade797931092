"""What a test needs of the machine: marks that skip it, saying why, where that is not there."""

from __future__ import annotations

import pytest
import torch

from robocache.ops import _library

needs_extension = pytest.mark.skipif(not _library.available(), reason=_library.reason())
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
