"""Windows of rows: the kernels and the plain-torch twin against windows cut one number at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robocache.ops import _library
from robocache.ops.reference import windows as reference
from robocache.ops.windows import WindowSteps, episode_bounds, gather_windows
from tests.marks import needs_cuda

DTYPES = (torch.float32, torch.float64, torch.bool, torch.uint8, torch.int16, torch.uint16, torch.int64, torch.uint64)
SHAPES = ((), (3,), (26,), (4,), (2, 5), (0,))


def table_of(dtype: torch.dtype, rows: int, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    numbers = np.random.default_rng(seed).integers(0, 2 if dtype == torch.bool else 200, (rows, *shape))
    return torch.from_numpy(numbers).to(dtype)


def cut(table: np.ndarray, steps: list[int], fill: Any, rows: list[int], ends: list[int]) -> tuple[np.ndarray, Any]:
    out, outside = (
        np.zeros((len(rows), len(steps), *table.shape[1:]), table.dtype),
        np.zeros((len(rows), len(steps)), bool),
    )
    for b, row in enumerate(rows):
        episode = max(e for e in range(len(ends) - 1) if ends[e] <= row)
        for k, step in enumerate(steps):
            at = min(max(row + step, ends[episode]), ends[episode + 1] - 1)
            outside[b, k] = at != row + step
            out[b, k] = fill if outside[b, k] and fill is not None else table[at]
    return out, outside


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    windows=st.lists(
        st.one_of(
            st.lists(st.integers(-12, 12), min_size=1, max_size=5),
            st.builds(lambda a, n: list(range(a, a + n)), st.integers(-9, 3), st.integers(1, 12)),
        ),
        min_size=1, max_size=3,
    ),
    columns=st.lists(
        st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES), st.booleans()), min_size=1, max_size=6
    ),
    data=st.data(),
)  # fmt: skip
def test_any_windows(lengths, windows, columns, data):
    ends = [0, *np.cumsum(lengths).tolist()]
    rows = data.draw(st.lists(st.integers(0, ends[-1] - 1), max_size=7))
    tables = [table_of(dtype, ends[-1], shape, k) for k, (dtype, shape, _) in enumerate(columns)]
    fills = [(0.0 if not d.is_floating_point else 0.5) if filled else None for d, _, filled in columns]
    of = [k % len(windows) for k in range(len(columns))]
    bounds, own = episode_bounds(torch.tensor(ends)), torch.tensor(rows, dtype=torch.int64)
    made = [WindowSteps(steps) for steps in windows]
    assert [m.run for m in made] == [steps == list(range(steps[0], steps[0] + len(steps))) for steps in windows]
    values, outside = gather_windows(tables, made, of, own, bounds, fills=fills)
    twin = reference.gather_windows(tables, of, fills, [m.steps for m in made], own, bounds)
    for k, (table, found, again) in enumerate(zip(tables, values, twin, strict=False)):
        wanted, pad = cut(table.numpy(), windows[of[k]], fills[k], rows, ends)
        assert found.dtype == again.dtype == table.dtype
        np.testing.assert_array_equal(found.numpy(), wanted)
        np.testing.assert_array_equal(again.numpy(), wanted)
        np.testing.assert_array_equal(outside[of[k]].numpy(), pad)


@pytest.mark.skipif(
    not _library.has_kernel("gather_windows", torch.device("cpu")), reason="the extension has no kernel"
)
def test_what_does_not_fit_is_told_and_nothing_foreign_is_read():
    table, bounds, rows = torch.zeros(6, 2), episode_bounds(torch.tensor([0, 6])), torch.tensor([1])
    here = [WindowSteps([0])]
    for wrong, told in (
        ({"tables": [torch.zeros(5, 2)]}, r"tables\[0\] must be \[6, ...\]"),
        ({"of": [1]}, r"of\[0\] is 1; there are 1 windows"),
        ({"rows": torch.tensor([1.0])}, "rows must be int64"),
        ({"bounds": bounds.long()}, "bounds must be int32"),
        ({"tables": [torch.zeros(6, 2, dtype=torch.int32)], "fills": [0.5]}, "a fill of 0.5 for a table of Int"),
    ):
        asked = {"tables": [table], "windows": here, "of": [0], "rows": rows, "bounds": bounds, "fills": None} | wrong
        fills = asked.pop("fills")
        with pytest.raises(ValueError, match=told):
            gather_windows(**asked, fills=fills)
    values, _ = gather_windows([torch.arange(6)], here, [0], torch.tensor([-5, 99]), bounds)
    assert values[0].tolist() == [[0], [5]]  # rows that are not there: the nearest that is
    with pytest.raises(ValueError, match="must have a step"):
        WindowSteps([])


@pytest.mark.gpu
@needs_cuda
def test_on_a_card_the_same_bytes():
    generator = np.random.default_rng(5)
    ends = torch.tensor([0, *np.cumsum(generator.integers(1, 300, 80)).tolist()])
    rows = torch.from_numpy(generator.integers(0, int(ends[-1]), 3000))
    windows = [range(-15, 1), range(50), [0], [-40, 3, -2, 7], range(-3, 2000)]
    columns = [(d, s) for d in DTYPES for s in (*SHAPES, (700,))]
    tables = [table_of(d, int(ends[-1]), s, k) for k, (d, s) in enumerate(columns)]
    of = [k % len(windows) if s != (700,) else 2 for k, (_, s) in enumerate(columns)]
    fills = [None if k % 3 else (0.25 if d.is_floating_point else 0.0) for k, (d, _) in enumerate(columns)]
    found = []
    for device in ("cpu", "cuda"):
        made = [WindowSteps(list(steps), device) for steps in windows]
        there = [table.to(device) for table in tables]
        for some in (slice(None, None, 4), slice(1, 3)):
            values, outside = gather_windows(there[some], made, of[some], rows[:500].to(device),
                                             episode_bounds(ends).to(device), fills=fills[some])  # fmt: skip
            found.append([x.cpu() for x in (*values, *outside)])
    for here, there in zip(found[:2], found[2:], strict=True):
        for a, b in zip(here, there, strict=True):
            assert torch.equal(a.view(torch.uint8) if a.numel() else a, b.view(torch.uint8) if b.numel() else b)
