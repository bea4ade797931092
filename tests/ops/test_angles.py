"""Values that go round: any period, and means that know of it, against numpy.unwrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ops_oracles import IMPLEMENTATIONS, PUBLIC, assert_same_bits, dense

from robocache.ops import StreamSpec
from robocache.ops.chunked import fuse_multimodal_chunked

each_implementation = pytest.mark.parametrize("impl", IMPLEMENTATIONS)
PERIODS = (2 * math.pi, 360.0, 24.0, 1.0)


def wrapped(x, period):
    """In (-period/2, period/2]."""
    return -((-x + period / 2) % period - period / 2)


def apart(a, b, period):
    return np.abs(wrapped(np.asarray(a) - np.asarray(b), period))


def turning(seed, n, period):
    """A column that turns both ways, by less than 0.4 of a turn a sample, as a sensor reports it."""
    return wrapped(np.cumsum(np.random.default_rng(seed).uniform(-0.4, 0.4, n)) * period, period)


@each_implementation
@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_between_two_angles_on_the_shorter_arc(impl, period, dtype):
    angles = torch.from_numpy(turning(1, 200, period)).to(dtype)
    times, targets = np.arange(200) * 10, np.arange(0, 1990, 3)
    out = impl.resample(
        angles[None, :, None],
        torch.from_numpy(times)[None],
        torch.from_numpy(targets)[None],
        mode="angle",
        period=period,
    )[0, :, 0].numpy()
    expected = np.interp(targets, times, np.unwrap(angles.double().numpy(), period=period))
    assert apart(out, expected, period).max() <= 8 * torch.finfo(dtype).eps * period
    half = torch.tensor(period / 2, dtype=dtype).item()
    assert out.max() <= half and out.min() > -half


@each_implementation
@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("width", [1, 3, 7, 40])
@pytest.mark.parametrize("every", [1, 2, 3, 7, 50, 700])
def test_a_mean_of_angles_is_that_of_the_unwrapped(impl, period, width, every):
    n = 1400
    angles = np.stack([turning(c, n, period) for c in range(width)], axis=1).astype(np.float32)
    times = np.arange(n) * 10
    targets = np.arange(n // every) * 10 * every + 5 * (every - 1)  # in the middle of each `every`
    out, valid = impl.resample(
        torch.from_numpy(angles)[None], torch.from_numpy(times)[None], torch.from_numpy(targets)[None],
        mode="mean", period=period, return_valid=True,
    )  # fmt: skip
    if len(targets) > 1:
        bins = angles[: len(targets) * every].astype(np.float64).reshape(len(targets), every, width)
        expected = np.unwrap(bins, period=period, axis=1).mean(axis=1)
        assert apart(out[0].numpy(), expected, period).max() <= 4e-6 * period
    assert valid.all()
    assert float(out.abs().max()) <= np.float32(period / 2)


@each_implementation
def test_degrees_over_the_seam(impl):
    times, targets = torch.tensor([[0, 1, 10, 11]]), torch.tensor([[0, 10]])
    degrees = torch.tensor([[[359.0], [1.0], [179.0], [-179.0]]])
    assert impl.resample(degrees, times, targets, mode="mean", period=360).flatten().tolist() == [0.0, 180.0]
    plain = impl.resample(degrees, times, targets, mode="mean").flatten().tolist()
    assert plain == [180.0, 0.0]  # what a mean without a period makes of it
    between = impl.resample(degrees, times * 10, torch.tensor([[5, 105]]), mode="angle", period=360)
    assert between.flatten().tolist() == [0.0, 180.0]
    radians = impl.resample(degrees.deg2rad(), times, targets, mode="mean", period=2 * math.pi)
    assert torch.allclose(radians.flatten(), torch.tensor([0.0, math.pi]), atol=1e-6)


@each_implementation
def test_an_empty_bin_and_a_lone_target_are_as_angle(impl):
    times, degrees = torch.tensor([[0, 100]]), torch.tensor([[[170.0], [-170.0]]])
    for targets in ([[40, 50, 60]], [[50]]):
        targets = torch.tensor(targets)
        mean = impl.resample(degrees, times, targets, mode="mean", period=360, return_valid=True)
        angle = impl.resample(degrees, times, targets, mode="angle", period=360, return_valid=True)
        assert_same_bits(mean, angle)


def test_two_pi_is_the_default_of_angle_in_every_dtype():
    for dtype in (torch.float32, torch.float64):
        values, times, targets = dense(3, 2, 200, 300, "angle")
        values = values.to(dtype) * 5
        assert_same_bits(
            [PUBLIC.resample(values, times, targets, mode="angle")],
            [PUBLIC.resample(values, times, targets, mode="angle", period=2 * math.pi)],
        )


@pytest.mark.parametrize("mode", ["angle", "mean"])
def test_pieces_are_the_whole(mode):
    values, times, targets = dense(4, 3, 300, 100, "angle")
    streams = [StreamSpec(values * 60, times, mode, period=360), StreamSpec(values, times, "linear")]
    assert_same_bits(fuse_multimodal_chunked(streams, targets, max_memory_mb=2 / 1024), PUBLIC.fuse(streams, targets))


@pytest.mark.parametrize("period", [0, -360, float("nan"), float("inf")])
@pytest.mark.parametrize("mode", ["angle", "mean"])
def test_a_period_that_is_none_is_refused(mode, period):
    values, times, targets = dense(3, 1, 20, 10)
    with pytest.raises(ValueError, match=r"period is .*full turn"):
        PUBLIC.resample(values, times, targets, mode=mode, period=period)


@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest", "previous", "next"])
def test_modes_that_go_round_nothing_take_no_period(mode):
    values, times, targets = dense(3, 1, 20, 10)
    with pytest.raises(ValueError, match=f"mode {mode} goes round nothing"):
        PUBLIC.resample(values, times, targets, mode=mode, period=360)
