"""The benchmark's point clouds: cases of configs/*.json, made on a device from their seed.

uniform   spread evenly over the bounds, the hardest for any cache
lidar     ten sweeps of a 64-beam scanner in azimuth order, on a road between walls; x, y, z, intensity
camera    a depth image of 800 x 625 pixels, row by row, of a wavy surface and a wall behind it; x, y, z
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cases import CONFIGS, DTYPES, SIZES
from torch import Tensor

from robocache.ops._voxel import Arguments
from robocache.ops.grid import Grid
from robocache.ops.modes import REDUCTIONS
from robocache.ops.voxelize import voxelize_slab


@dataclass(frozen=True)
class Clouds:
    """One call's input: points ``[B, P, F]``, and what is asked for."""

    points: Tensor
    grid: Grid
    reduce: str
    layout: str
    max_points: int

    def copy(self) -> Clouds:
        return Clouds(self.points.clone(), self.grid, self.reduce, self.layout, self.max_points)

    def voxels(self) -> tuple[Tensor, ...]:
        """RoboCache's own answer, past the making of the grid."""
        g = self.grid
        slab = (0, g.shape[0])
        return voxelize_slab(
            Arguments(self.points, None, None, g.box, g.shape, slab, REDUCTIONS.index(self.reduce), self.max_points),
            self.layout,
        )


@dataclass(frozen=True)
class Case:
    size: str
    dtype: str
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        s = self.spec
        shape = "x".join(map(str, Grid.of(s["voxel_size"], s["bounds"]).shape))
        return f"{s['frames']} x {s['points']} {s['cloud']} to {shape} {s['layout']} {s['reduce']}"

    def build(self, device: str) -> Clouds:
        s = self.spec
        random = torch.Generator(device).manual_seed(s["seed"])
        grid = Grid.of(s["voxel_size"], s["bounds"])
        points = CLOUDS[s["cloud"]](s["frames"], s["points"], grid, random).to(DTYPES[self.dtype])
        return Clouds(points.contiguous(), grid, s["reduce"], s["layout"], s.get("max_points", 32))


def load(sizes: Sequence[str] = SIZES, only: str = "") -> list[Case]:
    """The cases of these sizes whose "name dtype" holds ``only``."""
    found = []
    for size in sizes:
        config = json.loads((CONFIGS / f"{size}.json").read_text())
        found += [Case(size, dtype, spec) for spec in config["voxelize"] for dtype in spec["dtypes"]]
    return [case for case in found if only in f"{case.name} {case.dtype}"]


def _rand(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.rand(shape, device=random.device, generator=random)


def _uniform(frames: int, points: int, grid: Grid, random: torch.Generator) -> Tensor:
    lower, upper = (torch.tensor(x, device=random.device) for x in (grid.lower, grid.upper))
    return lower + _rand((frames, points, 3), random) * (upper - lower)


def _lidar(frames: int, points: int, grid: Grid, random: torch.Generator) -> Tensor:
    beams, sweeps = 64, 10
    columns = points // beams
    k = torch.arange(columns * beams, device=random.device)
    azimuth = (k // beams) * (2 * math.pi * sweeps / columns) + _rand((frames, len(k)), random) * 1e-3
    elevation = torch.deg2rad(-25 + (k % beams) * (28 / beams))
    sine, cosine = elevation.sin(), elevation.cos()
    ground = torch.where(sine < 0, -1.8 / sine, math.inf)
    wall = 12.0 / (azimuth.sin().abs() * cosine).clamp(min=1e-3)  # two walls along the road
    range_ = torch.minimum(torch.minimum(ground, wall), torch.full_like(wall, 60.0))
    range_ = range_ + (_rand((frames, len(k)), random) - 0.5) * 0.04
    xyz = [range_ * cosine * azimuth.cos(), range_ * cosine * azimuth.sin(), range_ * sine]
    cloud = torch.stack([*xyz, _rand((frames, len(k)), random)], dim=-1)
    rest = cloud[:, : points - len(k)]
    return torch.cat([cloud, rest], dim=1)


def _camera(frames: int, points: int, grid: Grid, random: torch.Generator) -> Tensor:
    width = 800
    k = torch.arange(points, device=random.device)
    u, v = (k % width - width / 2) / 500, (k // width - points / width / 2) / 500
    phase = _rand((frames, 1), random) * 6
    depth = 4 + 0.5 * torch.sin(6 * u + phase) * torch.cos(5 * v + phase)
    depth = torch.where(u + 0.2 * torch.sin(phase) > 0.4, 9.0, depth) + (_rand((frames, points), random) - 0.5) * 0.02
    return torch.stack([u * depth, v * depth, depth], dim=-1)


CLOUDS = {"uniform": _uniform, "lidar": _lidar, "camera": _camera}
