"""Small drawings as SVG, each a figure with words for who cannot see it. Colours are Okabe and Ito's, which the
colour-blind tell apart; what matters is told by place or by text as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 320, 72
#: Columns that a drawing has room for.
COLUMNS = 160


def figure(title: str, words: str, body: str, *, height: float = HEIGHT, low: str = "", high: str = "") -> str:
    """A drawing with a title above, and what its left and right ends stand for below."""
    ends = f'<div class="ends"><span>{escape(low)}</span><span>{escape(high)}</span></div>' if low or high else ""
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg role="img" aria-label="{escape(f"{title}: {words}")}" '
        f'viewBox="0 0 {WIDTH} {height:g}" preserveAspectRatio="none">{body}</svg>{ends}</figure>'
    )


def bars(heights: np.ndarray, *, kind: str = "a") -> str:
    """A histogram: ``heights [n]``, the tallest as tall as the drawing."""
    top = heights.max(initial=0) or 1
    x, y = np.linspace(0, WIDTH, len(heights) + 1), HEIGHT * (1 - heights / top)
    steps = "".join(f"V{_n(v)}H{_n(right)}" for v, right in zip(y, x[1:], strict=True))
    return f'<path class="{kind}" d="M0 {HEIGHT}{steps}V{HEIGHT}Z"/>'


def band(low: np.ndarray, high: np.ndarray, middle: np.ndarray, floor: float, ceiling: float) -> str:
    """From ``low`` to ``high`` and a line at ``middle``, each ``[n]``; what is not there is left out."""
    low, high = _columns(low, np.fmin), _columns(high, np.fmax)
    middle = _columns(middle, np.fmax)
    x, step = _places(len(low))
    span = (ceiling - floor) or 1.0
    place = [np.clip(HEIGHT * (1 - (v - floor) / span), 0, HEIGHT) for v in (low, high, middle)]
    there = np.isfinite(place[0])
    boxes = "".join(
        f"M{_n(x[k])} {_n(place[1][k])}h{_n(step)}V{_n(max(place[0][k], place[1][k] + 0.8))}h-{_n(step)}z"
        for k in np.flatnonzero(there)
    )
    line = "".join(f"M{_n(x[k])} {_n(place[2][k])}h{_n(step)}" for k in np.flatnonzero(np.isfinite(place[2])))
    return f'<path class="soft" d="{boxes}"/><path class="line" d="{line}"/>'


def line(values: np.ndarray, floor: float, ceiling: float, *, kind: str = "line") -> str:
    """``values [n]`` one after the other, as a line through all that a column holds; what is not finite is a hole."""
    low, high = _columns(values, np.fmin), _columns(values, np.fmax)
    x, step = _places(len(low))
    span = (ceiling - floor) or 1.0
    out, pen = [], "M"
    for k in range(len(low)):
        if not np.isfinite(low[k]):
            pen = "M"
            continue
        ends = {_n(HEIGHT * (1 - (v - floor) / span)) for v in (low[k], high[k])}
        for y in ends:
            out.append(f"{pen}{_n(x[k] + step / 2)} {y}")
            pen = "L"
    return f'<path class="{kind}" d="{"".join(out)}"/>'


def dots(at: np.ndarray, values: np.ndarray, floor: float, ceiling: float, *, most: int = 300) -> str:
    """Points at ``at [n]`` in 0..1, some of them where there are many."""
    span = (ceiling - floor) or 1.0
    there = np.flatnonzero(np.isfinite(values) & (at >= 0) & (at <= 1))
    there = there[:: max(1, -(-len(there) // most))]
    y = HEIGHT * (1 - (values[there] - floor) / span)
    return (
        f'<path class="dots" d="{"".join(f"M{_n(WIDTH * a)} {_n(b)}h0" for a, b in zip(at[there], y, strict=True))}"/>'
    )


def shares(values: np.ndarray, *, height: float = 14) -> str:
    """A strip of shares 0..1 ``[n]``, the least of those that fall into one column; darker is less, and lower."""
    least = _columns(values, np.fmin)
    x, step = _places(len(least))
    out, k = [], 0
    level = np.where(np.isnan(least), -1, np.minimum((np.nan_to_num(least) * 4).astype(int), 4))
    level[(level == 4) & (least < 0.9995)] = 3
    while k < len(level):
        end = k
        while end < len(level) and level[end] == level[k]:
            end += 1
        top = 0 if level[k] < 0 else height * (4 - level[k]) / 5
        width = step * (end - k)
        place = f'x="{_n(x[k])}" y="{_n(top)}" width="{_n(width)}" height="{_n(height - top)}"'
        out.append(f'<rect class="{"sx" if level[k] < 0 else f"s{level[k]}"}" {place}/>')
        k = end
    return "".join(out)


def spans(pieces: Sequence[tuple[float, float]], *, height: float = 10) -> str:
    """Where something is: pieces from..to in 0..1. Those that the drawing cannot tell apart are one."""
    merged: list[list[float]] = []
    for first, last in pieces:
        if merged and first - merged[-1][1] < 0.5 / WIDTH:
            merged[-1][1] = max(last, merged[-1][1])
        else:
            merged.append([first, last])
    boxes = "".join(
        f"M{_n(WIDTH * a)} 0H{_n(max(WIDTH * b, WIDTH * a + 0.6))}V{height:g}H{_n(WIDTH * a)}z" for a, b in merged
    )
    return f'<path class="a" d="{boxes}"/>'


def _columns(values: np.ndarray, join: np.ufunc) -> np.ndarray:
    """At most ``COLUMNS`` of them, those that share one joined."""
    if len(values) <= COLUMNS:
        return np.asarray(values, np.float64)
    edges = np.linspace(0, len(values), COLUMNS + 1).astype(np.int64)[:-1]
    return join.reduceat(np.asarray(values, np.float64), edges)


def _places(count: int) -> tuple[np.ndarray, float]:
    step = WIDTH / max(count, 1)
    return np.arange(count) * step, step


def _n(x: float) -> str:
    """A coordinate, short."""
    return f"{x:.1f}".rstrip("0").rstrip(".") if np.isfinite(x) else "0"
