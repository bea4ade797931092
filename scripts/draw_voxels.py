#!/usr/bin/env python3
"""docs/voxels.png: a recorded cloud of coloured points beside the voxels that `robocache run` makes of it.

    python scripts/draw_voxels.py configs/kinect.yaml docs/voxels.png

The config's feature observation.colour (sparse, mean of r, g, b) of the first row is drawn, as it is read back from an
output that this makes in a folder of its own, beside the first cloud.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from robocache import run
from robocache.clouds import decode_cloud
from robocache.config.load import load_job
from robocache.formats import list_episodes, read_episode

WIDTH, HEIGHT, GAP = 540, 430, 12
BACKGROUND = 248
#: Of the three faces of a cube that can be seen, along x, y and z.
LIGHT = (0.78, 1.0, 0.9)


def camera(yaw: float = 24.0, pitch: float = 16.0) -> np.ndarray:
    """Rotation ``[3, 3]`` from a camera's frame (x right, y down, z ahead) to the view's."""
    a, b = np.radians(yaw), np.radians(pitch)
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_x @ about_y


def draw(points: np.ndarray, colours: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Points ``[n, 3]`` in their colours ``[n, 3]`` (0..255), the nearest on top: uint8 ``[HEIGHT, WIDTH, 3]``."""
    view = camera()
    corners = np.array(np.meshgrid(*zip(lower, upper, strict=True))).reshape(3, -1).T @ view.T
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    scale = 1.04 * min(WIDTH / np.ptp(corners[:, 0]), HEIGHT / np.ptp(corners[:, 1]))
    seen = (points @ view.T - middle) * scale
    x, y = (seen[:, 0] + WIDTH / 2).astype(int), (seen[:, 1] + HEIGHT / 2).astype(int)
    inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    order = np.argsort(-seen[inside, 2], kind="stable")  # the last one written is the nearest
    image = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    image[y[inside][order], x[inside][order]] = colours[inside][order].clip(0, 255)
    return image


def cubes(
    coordinates: np.ndarray, colours: np.ndarray, lower: np.ndarray, size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points all over the faces of the voxels, and their colours; edges darker, so that cubes are told apart."""
    n = 14
    u, v = (a.ravel() for a in np.meshgrid((np.arange(n) + 0.5) / n, (np.arange(n) + 0.5) / n))
    edge = (np.minimum(u, v) < 0.08) | (np.maximum(u, v) > 0.92)
    places, shades = [], []
    for axis in range(3):
        for side in (0.0, 1.0):
            face = np.insert(np.stack([u, v], axis=1), axis, side, axis=1)
            places.append((coordinates[:, None] + face[None]) * size + lower)
            shades.append(colours[:, None] * (LIGHT[axis] * np.where(edge, 0.72, 1.0))[None, :, None])
    return [np.concatenate(places).reshape(-1, 3), np.concatenate(shades).reshape(-1, 3)]


def png(image: np.ndarray) -> bytes:
    """uint8 ``[H, W, 3]`` as PNG, each row as its difference from the one above."""
    rows = np.zeros((image.shape[0], 1 + image.shape[1] * 3), np.uint8)
    flat = image.reshape(len(image), -1)
    rows[:, 0] = 2
    rows[0, 1:] = flat[0]
    rows[1:, 1:] = flat[1:] - flat[:-1]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 2, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("image")
    args = parser.parse_args()
    job = load_job(args.config)
    (step,) = next(f for f in job.features if f.name == "observation.colour").steps
    lower, upper = np.array(step.bounds)
    ref = list_episodes(job.input)[0]
    stream = read_episode(ref, ["points"], job.input).streams["points"]
    cloud = decode_cloud(stream.values[0], stream.about)
    places = cloud.places()
    there = np.isfinite(places).all(axis=1)
    before = np.stack([cloud.column(c) for c in "rgb"], axis=1)[there]
    with tempfile.TemporaryDirectory() as folder:
        run(replace(job, output=replace(job.output, uri=f"{folder}/out")))
        row = pq.read_table(f"{folder}/out/data")["observation.colour"][0].as_py()
    coordinates, colours = np.array(row["coordinates"]), np.array(row["values"])
    after = cubes(coordinates, colours, lower, step.size[0])
    image = np.full((HEIGHT, 2 * WIDTH + GAP, 3), 255, np.uint8)
    image[:, :WIDTH] = draw(places[there], before, lower, upper)
    image[:, -WIDTH:] = draw(*after, lower, upper)
    Path(args.image).write_bytes(png(image & 0xF8 | 0x04))  # five bits a colour: half the bytes, nothing to be seen
    print(f"{args.image}: {there.sum():,} points, {len(coordinates):,} voxels")


if __name__ == "__main__":
    main()
