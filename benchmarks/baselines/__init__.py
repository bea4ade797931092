"""What RoboCache is compared with. Each module imports its library only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from cases import Batch, Case
from torch import Tensor

Align = Callable[[Batch], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Baseline:
    """``module`` has ``unsupported(case, device) -> str`` (empty: it can) and ``build(batch, **options) -> Align``."""

    module: str
    options: tuple[tuple[str, object], ...] = ()

    def unsupported(self, case: Case, device: str) -> str:
        try:
            return import_module(f"baselines.{self.module}").unsupported(case, device)
        except ImportError as error:
            return str(error)

    def build(self, batch: Batch) -> Align:
        return import_module(f"baselines.{self.module}").build(batch, **dict(self.options))


BASELINES = {
    "pytorch eager": Baseline("pytorch_native", (("compiled", False),)),
    "torch.compile": Baseline("pytorch_native", (("compiled", True),)),
    "triton": Baseline("triton_prototype"),
    "cupy": Baseline("cupy_baseline"),
}
