"""Messages as a container hands them over, whatever it is: where each lies in a buffer, and when it came."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Schema:
    """What a container says of the type of a channel's messages."""

    name: str
    encoding: str
    data: bytes

    def plain(self) -> tuple[str, str]:
        """Name and definition without what changes no message: comments, blanks, the style of names."""
        lines = (line.partition("#")[0].split() for line in self.data.decode("utf-8", "replace").splitlines())
        text = "\n".join(" ".join(words) for words in lines if words)
        return self.name.replace("/msg/", "/"), text.replace("/msg/", "/")


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of one channel in a window, in file order.

    buffer:    uint8, the window, valid until the next window is asked for
    start:     int64 ``[n]`` offset of each payload in the buffer
    size:      int64 ``[n]`` its bytes
    log_times: int64 ``[n]`` nanoseconds, when each arrived
    publish_times: int64 ``[n]`` nanoseconds, when each was sent; None where the container does not tell
    """

    buffer: np.ndarray
    start: np.ndarray
    size: np.ndarray
    log_times: np.ndarray
    publish_times: np.ndarray | None = None

    def first(self, count: int) -> Messages:
        """The first ``count`` of them."""
        publish = None if self.publish_times is None else self.publish_times[:count]
        return Messages(self.buffer, self.start[:count], self.size[:count], self.log_times[:count], publish)


def gather(buffer: np.ndarray, start: np.ndarray, nbytes: int) -> np.ndarray:
    """``nbytes`` from each offset as uint8 ``[n, nbytes]``: one memcpy a row. The caller has checked the bounds."""
    if not len(start) or not nbytes:
        return np.empty((len(start), nbytes), np.uint8)
    rows = np.ndarray(len(buffer) - nbytes + 1, f"V{nbytes}", buffer, strides=1)
    return rows[start].view(np.uint8).reshape(len(start), nbytes)
