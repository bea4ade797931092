"""Actions as learners want them: relative to a state, to the step before, to a chunk's start; and back.

===== ============================================================ ========================================
kind  what a row holds                                             its base
===== ============================================================ ========================================
step  how to get from this row's action to the next one            the row's own action
state this row's action as seen from the state of the same row     the row's state
chunk this row's action and the next ones, ``chunk`` in all, each  the row's state: that at the chunk's
      as seen from the state of this row                           start
===== ============================================================ ========================================

As seen from a base: of numbers the difference, of a pose (x y z qx qy qz qw) ``inv(base) pose``. Where there is no next
row in the episode, and where a number that it takes is NaN, the result is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from robocache.ops import _library
from robocache.ops._library import compiled
from robocache.ops._numpy import alike, tensor
from robocache.ops.reference import rotations as reference
from robocache.ops.rotations import checked_offsets, episode_starts

KINDS = ("step", "chunk", "state")
_POSE = 7


class _Relative(NamedTuple):
    """Which columns are relative: those that are by themselves, and the first of each pose. The rest stays as it is."""

    single: tuple[bool, ...]
    poses: tuple[int, ...]

    def fits(self, steps: int) -> bool:
        """Whether the kernel takes so many (kernels/include/robocache/action/relative.h)."""
        return len(self.single) <= 768 and len(self.poses) <= 64 and steps <= 1 << 20

    def singles(self, device: torch.device) -> Tensor:
        return torch.tensor(self.single, dtype=torch.bool, device=device)

    def kernel(
        self,
        actions: Tensor,
        state: Tensor | None,
        offsets: Tensor | None,
        first: int,
        count: int,
        *,
        compose: bool = False,
    ) -> Tensor:
        op = torch.ops.robocache.relative_actions
        return op(actions, state, offsets, first, count, list(map(int, self.single)), list(self.poses), compose)


def to_delta(
    actions: Any,
    kind: str = "step",
    *,
    state: Any = None,
    offsets: Any = None,
    chunk: int | None = None,
    mask: Sequence[bool] | None = None,
    poses: Sequence[int] = (),
    validate: bool = True,
) -> Any:
    """Absolute actions ``[N, D]`` as relative ones, of the same dtype.

    kind:    see above
    state:   ``[N, D]``, of kinds state and chunk
    offsets: int64 ``[B + 1]``, the episodes; None: one
    chunk:   of kind chunk, how many actions a row holds
    mask:    a truth value a column: False is left absolute (a gripper, as a rule); None: none is
    poses:   the first column of each pose; they must not overlap, and the mask holds for all of a pose or for none
    validate: look at the offsets' values; a device is waited for to do so. Without it wrong ones give wrong windows

    returns ``[N, D]``, of kind chunk ``[N, chunk, D]``. float64 makes the inverse exact for numbers that were float32:
    the difference of two of them is one float64 as long as one is not 2^29 times the other.

    ``ValueError``: arguments that do not fit together. NumPy arrays are taken and given back.
    """
    given = actions
    actions, relative = _checked("to_delta", actions, kind, mask, poses, chunk)
    offsets = checked_offsets("to_delta", offsets, len(actions), actions.device, validate=validate)
    if kind == "step":
        if state is not None:
            raise ValueError("to_delta: kind step takes no state")
        return alike(_windows(actions, None, offsets, 1, 1, relative)[:, 0], given)
    state = _state("to_delta", state, actions)
    if kind == "state":
        return alike(_windows(actions, state, None, 0, 1, relative)[:, 0], given)
    return alike(_windows(actions, state, offsets, 0, cast(int, chunk), relative), given)


def from_delta(
    deltas: Any,
    kind: str = "step",
    *,
    state: Any = None,
    offsets: Any = None,
    chunk: int | None = None,
    mask: Sequence[bool] | None = None,
    poses: Sequence[int] = (),
) -> Any:
    """The absolute actions of :func:`to_delta`, ``[N, D]``, with the same arguments.

    deltas: as that returns them
    state:  of kinds state and chunk as there. Of kind step the action at each episode's first row, ``[B, D]``; or
            ``[N, D]``, a row of numbers wherever a chain of steps begins and NaN elsewhere. What no chain reaches is
            NaN. Columns that the mask leaves absolute are those of the row after; at a chain's beginning, ``state``'s.
    Quaternions come back with w >= 0.
    """
    given = deltas
    rows, relative = _checked("from_delta", deltas, kind, mask, poses, chunk)
    if kind == "chunk":
        rows = rows[:, 0]
    start = episode_starts("from_delta", offsets, len(rows), rows.device)
    if kind != "step":
        return alike(_seen_from(rows, _state("from_delta", state, rows), relative), given)
    state = tensor("from_delta", "state", state)
    episodes = 1 if offsets is None else len(offsets) - 1
    if state.shape == (episodes, rows.shape[1]) and episodes != len(rows):
        first = start.unique()
        held = torch.diff(torch.as_tensor([0, len(rows)] if offsets is None else offsets, device=rows.device)) > 0
        heads = torch.full_like(rows, torch.nan)
        heads[first] = state[held].to(rows.dtype)
    elif state.shape == rows.shape:
        heads = state.to(rows.dtype)
    else:
        raise ValueError(
            f"from_delta: state {list(state.shape)} must be {[episodes, rows.shape[1]]} or {[*rows.shape]}"
        )
    return alike(_chained(rows, heads, start, relative), given)


def chain_starts(deltas: Any, actions: Any, *, offsets: Any = None) -> Any:
    """The ``state`` that :func:`from_delta` needs of steps ``[N, D]``: the actions wherever a chain begins, as no step
    leads there (the first row of an episode, a row after one that is NaN), NaN elsewhere.
    """
    given = deltas
    deltas, actions = tensor("chain_starts", "deltas", deltas), tensor("chain_starts", "actions", actions)
    start = episode_starts("chain_starts", offsets, len(deltas), deltas.device)
    rows = torch.arange(len(deltas), device=deltas.device)
    reached = torch.zeros_like(rows, dtype=torch.bool)
    reached[1:] = torch.isfinite(deltas).all(-1)[:-1]
    begins = (rows == start) | ~reached
    return alike(torch.where(begins[:, None], actions, torch.nan), given)


def normalize_gripper(x: Any, closed: float, opened: float) -> Any:
    """A gripper's width or angle as 0 (closed) to 1 (open), not clipped; ``closed`` and ``opened`` are its readings at
    the two ends, in either order. ``ValueError`` where they are the same or not finite.
    """
    given, x = x, tensor("normalize_gripper", "x", x)
    return alike((x - closed) / _span(closed, opened), given)


def unnormalize_gripper(x: Any, closed: float, opened: float) -> Any:
    """The inverse of :func:`normalize_gripper`."""
    given, x = x, tensor("unnormalize_gripper", "x", x)
    return alike(x * _span(closed, opened) + closed, given)


def binarize_gripper(
    x: Any, *, low: float = 0.05, high: float = 0.95, offsets: Any = None, backward: bool = False
) -> Any:
    """0 where a gripper ``[N]`` is below ``low``, 1 where it is above ``high``; between them what it was decided to be
    before (hysteresis), so that noise about one threshold does not switch it.

    backward: what it is next decided to be, so that a closing hand counts as closed from its first move, as OpenVLA
              has it
    offsets:  int64 ``[B + 1]``, the episodes; None: one
    Rows before any is decided are what the first decision is; where an episode has none, 1 from the middle on. NaN
    stays NaN and decides nothing. ``ValueError``: low above high, a shape that is not ``[N]``.
    """
    given, x = x, tensor("binarize_gripper", "x", x)
    if x.dim() != 1 or not low <= high:
        raise ValueError(f"binarize_gripper: x must be [N], got {list(x.shape)}; low {low} at most high {high}")
    start = episode_starts("binarize_gripper", offsets, len(x), x.device)
    if not len(x):
        return alike(x.clone(), given)
    rows = torch.arange(len(x), device=x.device)
    decided = (x < low) | (x > high)
    last = torch.where(decided, rows, -1).cummax(0).values
    following = torch.where(decided, rows, len(x)).flip(0).cummin(0).values.flip(0)
    inside = following < len(x)
    before, after = last >= start, inside & (start[following.clamp(max=len(x) - 1)] == start)
    first, second, at, to = (after, before, following, last) if backward else (before, after, last, following)
    deciding = torch.where(first, at, torch.where(second, to, rows)).clamp(0, len(x) - 1)
    value = torch.where(first | second, x[deciding] > high, x >= (low + high) / 2).to(x.dtype)
    return alike(torch.where(torch.isnan(x), torch.nan, value), given)


def _span(closed: float, opened: float) -> float:
    span = opened - closed
    if not (span != 0 and abs(span) < float("inf")):
        raise ValueError(f"a gripper closed at {closed} and open at {opened} has no range")
    return span


def _checked(
    op: str, x: Any, kind: str, mask: Sequence[bool] | None, poses: Sequence[int], chunk: int | None
) -> tuple[Tensor, _Relative]:
    """The values, and which of their columns are relative."""
    if kind not in KINDS:
        raise ValueError(f"{op}: kind is {kind!r}; use one of {', '.join(KINDS)}")
    x = tensor(op, "the first argument", x)
    chunked = kind == "chunk" and op == "from_delta"
    if x.dim() != (3 if chunked else 2) or (chunked and not x.shape[1]):
        raise ValueError(f"{op}: {kind} takes {'[N, chunk, D]' if chunked else '[N, D]'}, got {list(x.shape)}")
    if (chunk is not None) != (kind == "chunk") and not chunked:
        raise ValueError(f"{op}: chunk is {chunk}; kind chunk takes a length, the others none")
    if chunk is not None and chunk < 1:
        raise ValueError(f"{op}: chunk is {chunk}; use 1 or more")
    width = x.shape[-1]
    if mask is not None and len(mask) != width:
        raise ValueError(f"{op}: the mask has {len(mask)} values for {width} columns")
    columns = [True] * width if mask is None else [bool(m) for m in mask]
    relative, end = [], 0
    for first in sorted(poses):
        if first < end or first + _POSE > width:
            raise ValueError(f"{op}: the poses at {sorted(poses)} do not lie side by side in {width} columns")
        end = first + _POSE
        held = columns[first:end]
        if any(held) != all(held):
            raise ValueError(f"{op}: the mask splits the pose at column {first}")
        if all(held):
            relative.append(first)
            columns[first:end] = [False] * _POSE
    return x, _Relative(tuple(columns), tuple(relative))


def _state(op: str, state: Any, like: Tensor) -> Tensor:
    if state is None:
        raise ValueError(f"{op}: kinds state and chunk take a state")
    state = tensor(op, "state", state)
    if state.shape != like.shape:
        raise ValueError(f"{op}: state {list(state.shape)} must be like the actions {list(like.shape)}")
    return state.to(like.dtype)


def _windows(
    actions: Tensor, state: Tensor | None, offsets: Tensor | None, first: int, count: int, relative: _Relative
) -> Tensor:
    """Of each row ``[N, D]`` those ``first`` and more behind it, ``count`` in all, as seen from the state's row, else
    from the row itself: ``[N, count, D]``, NaN behind the end of its episode.
    """
    if relative.fits(first + count) and compiled("relative_actions", actions, *([] if state is None else [state])):
        return relative.kernel(actions, state, offsets, first, count)
    start = episode_starts("to_delta", offsets, len(actions), actions.device)
    rows, inside = _ahead(actions, start, first + count)
    base = (actions if state is None else state)[:, None].expand(-1, count, -1)
    return _as_seen(rows[:, first:], base, relative).masked_fill_(~inside[:, first:], torch.nan)


def _ahead(x: Tensor, start: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Each row ``[N, D]`` and those behind it, ``[N, count, D]``, and which are of its episode, ``[N, count, 1]``."""
    # A view. With as many rows behind as are looked at there is a window of no row at all, which goes.
    rows = torch.cat([x, x.new_zeros(count, x.shape[1])]).unfold(0, count, 1)[:-1].transpose(1, 2)
    starts = torch.cat([start, start.new_full((count,), -1)]).unfold(0, count, 1)[:-1]
    return rows, (starts == start[:, None]).unsqueeze(-1)


def _as_seen(x: Tensor, base: Tensor, relative: _Relative) -> Tensor:
    out = torch.where(relative.singles(x.device), x - base, x)
    for at in relative.poses:
        out[..., at : at + _POSE] = reference.relative_pose(x[..., at : at + _POSE], base[..., at : at + _POSE])
    return out


def _seen_from(x: Tensor, base: Tensor, relative: _Relative) -> Tensor:
    """The inverse, row by row."""
    if relative.fits(1) and compiled("relative_actions", x, base):
        return relative.kernel(x, base, None, 0, 1, compose=True)[:, 0]
    out = torch.where(relative.singles(x.device), base + x, x)
    for at in relative.poses:
        out[..., at : at + _POSE] = reference.compose_pose(base[..., at : at + _POSE], x[..., at : at + _POSE])
    return out


def _chained(deltas: Tensor, heads: Tensor, start: Tensor, relative: _Relative) -> Tensor:
    """Steps put one after another from each head on: a scan that doubles its reach (Hillis & Steele, CACM 1986)."""
    rows = torch.arange(len(deltas), device=deltas.device)
    head = torch.isfinite(heads).all(-1) | (rows == start)
    out = heads.clone()
    out[1:] = torch.where(head[1:, None], heads[1:], deltas[:-1])
    reach = rows - torch.where(head, rows, -1).cummax(0).values  # steps from the head of its chain
    step = 1
    while len(out) and step <= int(reach.max()):
        late = reach >= step
        earlier = out[(rows[late] - step)]
        out = out.clone()
        out[late] = _seen_from(out[late], earlier, relative)
        step *= 2
    return out


if _library.has_kernel("relative_actions", torch.device("cpu")):

    @torch.library.register_fake("robocache::relative_actions")
    def _fake(
        actions: Tensor,
        state: Tensor | None,
        offsets: Tensor | None,
        first: int,
        count: int,
        single: list[int],
        poses: list[int],
        compose: bool,
    ) -> Tensor:
        return actions.new_empty((actions.shape[0], count, actions.shape[1]))
