"""What a batch has under one name."""

from __future__ import annotations

from dataclasses import dataclass

from robocache.ops.normalize import Normalization
from robocache.output.pictures import Pictures
from robocache.output.rows import Column
from robocache.output.windows import Window


@dataclass(frozen=True)
class Key:
    """window: None: the row itself, without an axis of its own; mark: the column that says which rows count"""

    column: Column
    window: Window | None
    mark: str = ""
    normal: Normalization | None = None
    pictures: Pictures | None = None

    @property
    def resident(self) -> bool:
        """Whether it is numbers that stay as they lie, by steps of rows: what a device can gather by itself."""
        by_steps = self.window is None or self.window.times is None
        return self.column.dtype is not None and self.pictures is None and by_steps

    @property
    def fillable(self) -> bool:
        """Whether ``fill`` stands where there is no valid number."""
        return bool(self.mark) and self.column.dtype is not None and self.column.dtype.kind == "f"

    @property
    def nbytes(self) -> int:
        """Of a window in a batch, about, but for payloads."""
        return (1 if self.window is None else len(self.window.steps)) * (self.column.nbytes + 2)
