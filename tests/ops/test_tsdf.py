"""Truncated signed distances: against rays walked one by one in Python floats, and what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from marks import needs_cuda
from ops_oracles import assert_same_bits
from voxel_oracles import needs_kernels

from robocache import integrate_tsdf
from robocache.ops import voxelize as ops
from robocache.ops.reference import voxelize as reference

GRID = {"voxel_size": (0.1, 0.12, 0.08), "bounds": ((-1.0, -1.2, -0.8), (1.0, 1.2, 0.8)), "truncation": 0.25}


@pytest.fixture(params=["reference", "public"])
def implementation(request, monkeypatch):
    if request.param == "reference":
        monkeypatch.setattr(ops, "_call", lambda op, arguments: getattr(reference, op)(arguments))


def expected(points: np.ndarray, pose: np.ndarray, grid: dict) -> tuple[np.ndarray, np.ndarray]:
    """Sum of truncated distances and number of rays of each voxel. Every crossed voxel is found by its own: a voxel is
    crossed where the ray's band and the box have more than a point in common (slabs, no walk)."""
    lower, upper, size = (np.broadcast_to(np.asarray(x, float), 3) for x in (*grid["bounds"], grid["voxel_size"]))
    shape = np.rint((upper - lower) / size).astype(int)
    corners = lower + np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) * size
    turn = _matrix(pose[3:])
    total, count = np.zeros(shape), np.zeros(shape, int)
    for p in points:
        ray = turn @ p
        length = np.linalg.norm(ray)
        if not (np.isfinite(length) and length > 0):
            continue
        unit = ray / length
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (corners - pose[:3]) / unit, (corners + size - pose[:3]) / unit
        near = np.maximum(np.minimum(a, b).max(axis=-1), max(length - grid["truncation"], 0))
        far = np.minimum(np.maximum(a, b).min(axis=-1), length + grid["truncation"])
        crossed = near < far
        distance = length - (corners + size / 2 - pose[:3]) @ unit
        total[crossed] += np.clip(distance, -grid["truncation"], grid["truncation"])[crossed]
        count[crossed] += 1
    return total, count


def _matrix(q: np.ndarray) -> np.ndarray:
    x, y, z, w = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def scene(seed: int, batch: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clouds of points about two metres before sensors that look at the grid from aside; some are not finite."""
    random = np.random.default_rng(seed)
    direction = random.normal(0, 0.25, (batch, count, 3)) + np.array([0, 0, 1.0])
    points = direction / np.linalg.norm(direction, axis=-1, keepdims=True) * random.uniform(1.5, 2.5, (batch, count, 1))
    points[:, ::50, random.integers(0, 3)] = math.nan
    points[:, 7] = 0.0
    poses = np.concatenate([random.normal(0, 0.1, (batch, 3)), random.normal(0, 1, (batch, 4))], axis=1)
    for pose in poses:
        pose[:3] -= _matrix(pose[3:]) @ (0, 0, 2.0)
    return torch.from_numpy(points), torch.from_numpy(poses)


def test_two_frames_are_the_mean_of_all_rays(implementation):
    volume, total, count = None, 0.0, 0
    for seed in (1, 2):
        points, poses = scene(seed, 2, 150)
        volume = integrate_tsdf(points, poses, volume, **GRID)
        sums = [expected(p.numpy(), pose.numpy(), GRID) for p, pose in zip(points, poses, strict=True)]
        total, count = total + np.stack([s for s, _ in sums]), count + np.stack([c for _, c in sums])
    # A ray through an edge may be on either side of it for one of the two: random rays pass none within rounding.
    np.testing.assert_array_equal(volume.weight.numpy(), count)
    seen = count > 0
    assert seen.sum() > 2000
    error = np.abs(volume.distance.numpy()[seen] - total[seen] / count[seen])
    assert error.max() < 1e-5 * GRID["truncation"]
    assert (volume.distance.numpy()[~seen] == np.float32(GRID["truncation"])).all()


def test_rays_along_an_axis(implementation):
    """From inside the grid along +x: voxels of one line, whose distances are known by hand."""
    pose = torch.tensor([0.05, 0.06, 0.04, 0, 0, 0, 1.0], dtype=torch.float64)
    found = integrate_tsdf(torch.tensor([[0.5, 0.0, 0.0]]), pose, **GRID)
    line = found.weight[0, :, 10, 10].nonzero().squeeze(1)
    assert found.weight.sum() == len(line)
    centres = -1.0 + (line.double() + 0.5) * 0.1
    torch.testing.assert_close(
        found.distance[0, line, 10, 10].double(), (0.55 - centres).clamp(-0.25, 0.25), atol=3e-7, rtol=0
    )
    assert line.tolist() == [13, 14, 15, 16, 17]  # from 0.3 to 0.8, the voxels that hold these ends among them


def test_order_batch_and_layout_do_not_matter(implementation):
    points, poses = scene(3, 3, 200)
    whole = integrate_tsdf(points, poses, **GRID)
    shuffled = points[:, torch.randperm(200, generator=torch.Generator().manual_seed(3))]
    assert_same_bits(integrate_tsdf(shuffled, poses, **GRID), whole)
    jagged = integrate_tsdf(points.reshape(-1, 3), poses, offsets=torch.arange(4) * 200, **GRID)
    assert_same_bits(jagged, whole)
    for b in range(3):
        alone = integrate_tsdf(points[b], poses[b], **GRID)
        assert_same_bits(alone, [x[b : b + 1] for x in whole])


@needs_kernels
def test_kernel_is_the_reference():
    points, poses = scene(4, 2, 3000)
    old = ops.TsdfVolume(torch.rand(2, 20, 20, 20) * 0.2, torch.randint(0, 5, (2, 20, 20, 20)).float())
    kernel = integrate_tsdf(points, poses, old, **GRID)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_call", lambda op, arguments: getattr(reference, op)(arguments))
        assert_same_bits(integrate_tsdf(points, poses, old, **GRID), kernel)


def test_rays_from_nowhere_end(implementation):
    """Far, huge and degenerate: no endless walk, nothing seen."""
    pose = torch.tensor([0, 0, 0, 0, 0, 0, 1.0], dtype=torch.float64)
    far = torch.tensor([[1e30, 0, 0], [1e200, 1e200, 0], [math.inf, 0, 0], [0, 0, 0]], dtype=torch.float64)
    assert not integrate_tsdf(far, pose, **GRID).weight.any()
    assert not integrate_tsdf(torch.tensor([[1.0, 0, 0]]), torch.full((7,), math.nan), **GRID).weight.any()
    assert integrate_tsdf(torch.zeros(0, 3), pose, **GRID).weight.sum() == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"truncation": 0.0}, "above 0"),
        ({"sensor_pose": torch.zeros(2, 7)}, r"\[1, 7\]"),
        ({"volume": (torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2))}, "volume.distance"),
        ({"points": torch.zeros(3, 3).requires_grad_()}, "no gradient"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(implementation, change, message):
    arguments = {"points": torch.zeros(3, 3), "sensor_pose": torch.zeros(7), **GRID, **change}
    with pytest.raises(ValueError, match=message):
        integrate_tsdf(**arguments)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_cuda_is_the_cpu(dtype):
    points, poses = scene(5, 3, 20_000)
    points = points.to(dtype)
    once = integrate_tsdf(points, poses, **GRID)
    twice = integrate_tsdf(points.flip(0), poses, once, **GRID)
    for _ in range(10):
        found = integrate_tsdf(points.cuda(), poses.cuda(), **GRID)
        assert_same_bits(found, once)
        assert_same_bits(integrate_tsdf(points.flip(0).cuda(), poses.cuda(), found, **GRID), twice)
