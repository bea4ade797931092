"""Relative actions, grippers and normalisation: against loops that are plainly right and formulas written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from robocache import (
    binarize_gripper,
    chain_starts,
    from_delta,
    normalize,
    normalize_gripper,
    to_delta,
    unnormalize,
    unnormalize_gripper,
)

OFFSETS = np.array([0, 5, 5, 12, 13])
FEW = settings(max_examples=50, deadline=None)


def rows(seed: int = 0, poses: bool = True) -> np.ndarray:
    """A gripper, a pose and a joint: nine columns."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((13, 9))
    x[:, 4:8] = Rotation.random(13, random_state=seed).as_quat(canonical=True) if poses else x[:, 4:8]
    return x


def seen(x: np.ndarray, base: np.ndarray) -> np.ndarray:
    """One row: gripper absolute, pose in the base's frame, joint a difference."""
    turn = Rotation.from_quat(base[4:8]).inv()
    q = (turn * Rotation.from_quat(x[4:8])).as_quat(canonical=True)
    return np.concatenate([x[:1], turn.apply(x[1:4] - base[1:4]), q, x[8:] - base[8:]])


MASK = (False, *[True] * 8)


def test_step_by_a_loop():
    x = rows()
    found = to_delta(x, "step", offsets=OFFSETS, mask=MASK, poses=[1])
    for first, last in itertools.pairwise(OFFSETS):
        for t in range(first, last):
            if t + 1 < last:
                np.testing.assert_allclose(found[t], seen(x[t + 1], x[t]), atol=1e-14)
            else:
                assert np.isnan(found[t]).all()


def test_state_and_chunk_by_a_loop():
    x, state = rows(), rows(1)
    arguments = {"state": state, "offsets": OFFSETS, "mask": MASK, "poses": [1]}
    of_state, chunks = to_delta(x, "state", **arguments), to_delta(x, "chunk", chunk=3, **arguments)
    assert chunks.shape == (13, 3, 9)
    for first, last in itertools.pairwise(OFFSETS):
        for t in range(first, last):
            np.testing.assert_allclose(of_state[t], seen(x[t], state[t]), atol=1e-14)
            for k in range(3):
                if t + k < last:
                    np.testing.assert_allclose(chunks[t, k], seen(x[t + k], state[t]), atol=1e-14)
                else:
                    assert np.isnan(chunks[t, k]).all()
    np.testing.assert_allclose(from_delta(of_state, "state", **arguments), x, atol=1e-14)
    np.testing.assert_allclose(from_delta(chunks, "chunk", **arguments), x, atol=1e-14)


@FEW
@given(seed=st.integers(0, 10**6), holes=st.lists(st.integers(0, 12), max_size=4))
def test_steps_come_back_around_holes(seed, holes):
    x = rows(seed)
    x[holes] = np.nan
    steps = to_delta(x, "step", offsets=OFFSETS, mask=MASK, poses=[1])
    starts = chain_starts(steps, x, offsets=OFFSETS)
    back = from_delta(steps, "step", state=starts, offsets=OFFSETS, mask=MASK, poses=[1])
    np.testing.assert_allclose(back, x, atol=1e-12)
    whole = np.isfinite(x).all(axis=1)
    assert np.array_equal(np.isfinite(starts).all(axis=1)[[0, 5, 12]], whole[[0, 5, 12]])


def test_steps_of_float32_joints_come_back_to_the_bit():
    rng = np.random.default_rng(3)
    x = np.cumsum(rng.standard_normal((5000, 26)).astype(np.float32) * np.float32(0.01), axis=0, dtype=np.float32)
    steps = to_delta(x.astype(np.float64), "step")
    back = from_delta(steps, "step", state=x[:1].astype(np.float64))
    assert back.astype(np.float32).tobytes() == x.tobytes()


def test_starts_of_episodes():
    x = rows()
    steps = to_delta(torch.from_numpy(x), "step", offsets=torch.from_numpy(OFFSETS), poses=[1])
    heads = torch.from_numpy(x[[0, 0, 5, 12]])  # the second episode is empty
    back = from_delta(steps, "step", state=heads, offsets=torch.from_numpy(OFFSETS), poses=[1])
    np.testing.assert_allclose(back.numpy(), x, atol=1e-12)


def test_no_rows_and_episodes_shorter_than_a_chunk():
    none = torch.empty(0, 7)
    assert to_delta(none).shape == (0, 7)
    assert to_delta(none, "state", state=none).shape == (0, 7)
    assert to_delta(none, "chunk", state=none, chunk=3).shape == (0, 3, 7)
    one = torch.tensor([[2.0], [5.0], [9.0]])
    found = to_delta(one, "chunk", state=torch.zeros(3, 1), offsets=torch.tensor([0, 1, 3]), chunk=4)
    there = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    assert torch.equal(found[..., 0].isnan(), ~there)
    assert found[..., 0][there].tolist() == [2, 5, 9, 9]


def test_refusals():
    x = rows()
    for arguments, message in (
        ({"kind": "leap"}, "kind is 'leap'; use one of step, chunk, state"),
        ({"kind": "state"}, "take a state"),
        ({"kind": "step", "state": x}, "takes no state"),
        ({"kind": "chunk", "state": x}, "chunk is None; kind chunk takes a length"),
        ({"kind": "chunk", "state": x, "chunk": 0}, "use 1 or more"),
        ({"kind": "step", "mask": [True]}, "1 values for 9 columns"),
        ({"kind": "step", "poses": [3]}, "do not lie side by side"),
        ({"kind": "step", "poses": [0, 2]}, "do not lie side by side"),
        ({"kind": "step", "poses": [0], "mask": MASK}, "splits the pose at column 0"),
        ({"kind": "step", "offsets": np.array([0, 5])}, "must rise from 0 to 13"),
        ({"kind": "state", "state": x[:2]}, "must be like the actions"),
    ):
        with pytest.raises(ValueError, match=message):
            to_delta(x, **arguments)


def test_gripper():
    x = np.array([0.0, 0.02, 0.08])
    np.testing.assert_allclose(normalize_gripper(x, 0.0, 0.08), [0, 0.25, 1])
    np.testing.assert_allclose(normalize_gripper(x, 0.08, 0.0), [1, 0.75, 0])
    np.testing.assert_allclose(unnormalize_gripper(normalize_gripper(x, 0.08, 0.01), 0.08, 0.01), x)
    with pytest.raises(ValueError, match="has no range"):
        normalize_gripper(x, 0.1, 0.1)


@FEW
@given(x=st.lists(st.sampled_from([0.0, 0.3, 0.6, 1.0, np.nan]), max_size=13), backward=st.booleans())
def test_binarize_by_a_loop(x, backward):
    x = np.array(x + [0.3] * (13 - len(x)))
    found = binarize_gripper(x, low=0.2, high=0.8, offsets=OFFSETS, backward=backward)
    for first, last in itertools.pairwise(OFFSETS):
        episode = x[first:last][:: -1 if backward else 1]
        clear = [v for v in episode if v in (0.0, 1.0)]
        state, out = (clear[0] if clear else None), []
        for v in episode:
            state = v if v in (0.0, 1.0) else state
            out.append(np.nan if np.isnan(v) else float(v >= 0.5) if state is None else state)
        np.testing.assert_array_equal(found[first:last], out[:: -1 if backward else 1])


#: Four columns: spread, narrow (below every epsilon), wide, and one that never moves.
DATA = np.random.default_rng(0).standard_normal((500, 4)) * [1, 1e-9, 1e3, 0] + [0, 0, 5, 0.7]
S = {
    "mean": DATA.mean(0), "std": DATA.std(0) * [1, 1, 1, 0], "min": DATA.min(0), "max": DATA.max(0),
    **{f"q{p:02d}": np.quantile(DATA, p / 100, axis=0) for p in (1, 10, 90, 99)},
}  # fmt: skip


def lerobot_bounds(low, high):
    span = np.where(high - low == 0, 1e-8, high - low)
    return 2 * (DATA - low) / span - 1


def openvla_bounds(low, high):
    return np.where(S["min"] == S["max"], 0.0, np.clip(2 * (DATA - low) / (high - low + 1e-8) - 1, -1, 1))


def range_normalizer(epsilon):
    """Diffusion policy's get_range_normalizer_from_stat: y = scale x + offset."""
    span = S["max"] - S["min"]
    still = span < epsilon
    scale = 2 / np.where(still, 2, span)
    return scale * DATA + np.where(still, 0 - S["min"], -1 - scale * S["min"])


def gauss_normalizer(epsilon):
    scale = 1 / np.where(S["std"] < epsilon, 1, S["std"])
    return DATA * scale - S["mean"] * scale


PUBLISHED = {
    ("lerobot", "mean_std"): (DATA - S["mean"]) / (S["std"] + 1e-8),
    ("lerobot", "min_max"): lerobot_bounds(S["min"], S["max"]),
    ("lerobot", "q01_q99"): lerobot_bounds(S["q01"], S["q99"]),
    ("lerobot", "q10_q90"): lerobot_bounds(S["q10"], S["q90"]),
    ("openpi", "mean_std"): (DATA - S["mean"]) / (S["std"] + 1e-6),
    ("openpi", "q01_q99"): (DATA - S["q01"]) / (S["q99"] - S["q01"] + 1e-6) * 2 - 1,
    ("openvla", "mean_std"): (DATA - S["mean"]) / (S["std"] + 1e-8),
    ("openvla", "min_max"): openvla_bounds(S["min"], S["max"]),
    ("openvla", "q01_q99"): openvla_bounds(S["q01"], S["q99"]),
    ("diffusion_policy", "min_max"): range_normalizer(1e-4),
    ("diffusion_policy", "mean_std"): gauss_normalizer(1e-4),
    ("umi", "min_max"): range_normalizer(1e-7),
    ("act", "mean_std"): (DATA - S["mean"]) / np.clip(S["std"], 1e-2, np.inf),
}


@pytest.mark.parametrize(("convention", "mode"), PUBLISHED, ids="-".join)
def test_normalisation_is_the_published_formula(convention, mode):
    found = normalize(DATA, S, mode, convention)
    np.testing.assert_allclose(found, PUBLISHED[convention, mode], rtol=1e-9, atol=1e-9)
    back = unnormalize(found, S, mode, convention)
    if convention == "openvla" and mode != "mean_std":
        low, high = (S["min"], S["max"]) if mode == "min_max" else (S["q01"], S["q99"])
        span = high - low + 1e-8
        wanted = np.where(S["min"] == S["max"], low, np.clip(DATA, low, low + span))
    else:
        wanted = DATA
    np.testing.assert_allclose(back, wanted, rtol=1e-12, atol=1e-12)
    masked = normalize(DATA.astype(np.float32), S, mode, convention, mask=[True, True, False, False])
    assert masked.dtype == np.float32
    np.testing.assert_array_equal(masked[:, 2:], DATA[:, 2:].astype(np.float32))


def test_every_rule_is_tested_and_what_is_not_there_is_refused():
    from robocache.ops.normalize import RULES

    assert {(c, m) for c, modes in RULES.items() for m in modes} == set(PUBLISHED)
    with pytest.raises(ValueError, match="convention is 'rlds'; use one of lerobot, openpi"):
        normalize(DATA, S, "min_max", "rlds")
    with pytest.raises(ValueError, match="mode is 'min_max'; openpi has mean_std, q01_q99"):
        normalize(DATA, S, "min_max", "openpi")
    with pytest.raises(ValueError, match="q99 is missing"):
        normalize(DATA, {"q01": 0.0}, "q01_q99")
    with pytest.raises(ValueError, match=r"min \[3\] must be a number or 4 of them"):
        normalize(DATA, {"min": [0.0] * 3, "max": 1.0}, "min_max")
