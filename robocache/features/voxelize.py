"""``voxelize``: clouds to voxels. Each cloud that a row picks is decoded and brought into the grid once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from robocache.clouds import Cloud, decode_cloud, is_cloud, known_fields
from robocache.clouds.columns import field_problem
from robocache.errors import InputError
from robocache.features.cast import rounded_columns
from robocache.features.steps import Compute, Samples
from robocache.ops.grid import Grid
from robocache.types import Finding, StreamType, array_type

if TYPE_CHECKING:
    from robocache.ops.voxelize import DenseVoxels, SparseVoxels

#: ``reduce``: those of the op, and distances to the surfaces.
REDUCTIONS = ("occupancy", "count", "sum", "mean", "min", "max", "points", "tsdf")
#: Reductions whose values are those of features.
OF_FEATURES = ("sum", "mean", "min", "max", "points")
#: Numbers of one dense sample at most: four times as many bytes, in every row.
MOST_NUMBERS = 1 << 28
_XYZ = ("x", "y", "z")


@dataclass(frozen=True, slots=True)
class Voxelize:
    """The points of each cloud in a grid, see :func:`robocache.ops.voxelize.voxelize`.

    size, bounds: of the grid, in the units of the cloud, as a rule metres
    reduce:       what a voxel holds, one of :data:`REDUCTIONS`
    layout:       dense: ``[X, Y, Z]``, of features ``[X, Y, Z, C]``, of tsdf ``[X, Y, Z, 2]`` (distance, weight);
                  sparse: lists of the voxels that hold a point, their coordinates and values
    features:     fields of the points that are reduced; none: x, y, z
    max_points:   of ``points``
    truncation:   of ``tsdf``, whose sensor is at the origin of the cloud's own frame

    Samples with poses are moved by them, in float64, before they are brought into the grid.
    dtype:        float64 where the feature's is, else float32
    """

    key: ClassVar[str] = "voxelize"
    picks: ClassVar[bool] = True
    rows: ClassVar[bool] = False
    beside: ClassVar[str] = ""

    size: tuple[float, float, float]
    bounds: tuple[tuple[float, float, float], tuple[float, float, float]]
    reduce: str = "occupancy"
    layout: str = "dense"
    features: tuple[str, ...] = ()
    max_points: int = 32
    truncation: float | None = None
    dtype: str = "float32"

    @property
    def grid(self) -> Grid:
        return Grid.of(self.size, self.bounds)

    @property
    def columns(self) -> tuple[str, ...]:
        """Of a voxel's values; none where a voxel holds one number."""
        if self.reduce == "tsdf":
            return ("distance", "weight")
        return (self.features or _XYZ) if self.reduce in OF_FEATURES else ()

    def type(self, given: StreamType) -> StreamType:
        """A cloud becomes numbers (dense) or a struct of lists (sparse)."""
        about = given.about
        if not is_cloud(given):
            hint = "; name the whole message, without .data" if about.get("kind") == "cloud" else ""
            raise ValueError(f"voxelize: the source holds {given.arrow}, which is no cloud of points{hint}")
        fields = known_fields(about)
        asked = self.columns if self.reduce in OF_FEATURES else ()
        for name in dict.fromkeys((*_XYZ, *asked)) if fields is not None else ():
            if problem := field_problem(name, fields or []):
                raise ValueError(f"voxelize{'.features' if name in self.features else ''}: {problem}")
        told = {"size": self.size, "bounds": self.bounds, "shape": self.grid.shape, "reduce": self.reduce}
        kept = {key: about[key] for key in ("frame",) if key in about}
        kept["voxels"] = {**told, "layout": self.layout}
        if self.columns:
            kept["names"] = list(self.columns)
        return StreamType(self._sparse if self.layout == "sparse" else self._dense, kept)

    @property
    def _element(self) -> np.dtype:
        return np.dtype({"occupancy": "bool", "count": "int32"}.get(self.reduce, self.dtype))

    @property
    def _shape(self) -> tuple[int, ...]:
        return (*self.grid.shape, *([len(self.columns)] if self.columns else []))

    @property
    def _dense(self) -> pa.DataType:
        return array_type(self._element, self._shape)

    @property
    def _sparse(self) -> pa.DataType:
        """Coordinates of the voxels that hold a point; what they hold, but of occupancy, where that says no more."""
        fields = [("coordinates", pa.list_(pa.list_(pa.int32(), 3)))]
        if self.reduce != "occupancy":
            shape = (
                *([self.max_points] if self.reduce == "points" else []),
                *([len(self.columns)] * bool(self.columns)),
            )
            fields.append(("values", pa.list_(array_type(self._element, shape))))
        if self.reduce == "points":
            fields.append(("counts", pa.list_(pa.int32())))
        return pa.struct(fields)

    def apply(self, given: Samples, compute: Compute) -> Samples:
        """Clouds ``[n]`` to ``[n, X, Y, Z, ...]``, or an array of ``n`` structs."""
        tally = _Tally()
        kept = np.flatnonzero(given.valid)
        values: np.ndarray | pa.Array
        if self.layout == "sparse":
            lists = [
                self._sparse_piece(piece, compute, tally) for _, piece in self._pieces(given, kept, compute, tally)
            ]
            values = pa.concat_arrays([pa.array([], self._sparse), *lists])
            if len(kept) < len(given.valid):
                place = np.full(len(given.valid), -1)
                place[kept] = np.arange(len(kept))
                values = values.take(pa.array(place, mask=place < 0))
        else:
            values = np.zeros((len(given.valid), *self._shape), self._element)
            for rows, piece in self._pieces(given, kept, compute, tally):
                values[rows] = self._dense_piece(piece, compute, tally)
        return replace(given, values=values, findings=tally.findings())

    def _pieces(
        self, given: Samples, kept: np.ndarray, compute: Compute, tally: _Tally
    ) -> Iterator[tuple[list[int], _Piece]]:
        """Some clouds at a time, as many as a quarter of the memory holds, and where among the samples they are."""
        dense = self.layout == "dense"
        each = int(np.prod(self._shape)) * self._element.itemsize if dense else 0
        rows: list[int] = []
        places: list[np.ndarray] = []
        features: list[np.ndarray] = []
        held = 0
        for row in kept.tolist():
            try:
                cloud = decode_cloud(given.values[row], given.about)
                place, feature = self._taken(cloud, None if given.poses is None else given.poses[row], tally)
            except InputError as error:
                raise type(error)(f"cloud {row + 1} of {len(given.valid)}: {error}") from None
            rows.append(row)
            places.append(place)
            features.append(feature)
            held += place.nbytes + feature.nbytes + each
            if held > compute.max_memory_mb << 18:
                yield rows, _Piece.of(places, features, None if given.poses is None else given.poses[rows])
                rows, places, features, held = [], [], [], 0
        if rows:
            yield rows, _Piece.of(places, features, None if given.poses is None else given.poses[rows])

    def _taken(self, cloud: Cloud, pose: np.ndarray | None, tally: _Tally) -> tuple[np.ndarray, np.ndarray]:
        """Places ``[n, 3]`` and features ``[n, C]``. A point with a feature that is not finite has no place either."""
        places = cloud.places()
        if pose is not None and self.reduce != "tsdf":  # rays are moved with their sensor, in the kernel
            places = moved(places, pose)
        if self.reduce in OF_FEATURES:
            features = np.empty((len(places), len(self.columns)), self._element)
            for i, name in enumerate(self.columns):
                column = places[:, _XYZ.index(name)] if name in _XYZ else cloud.column(name)
                features[:, i] = column
                if column.dtype.itemsize > 2 and column.dtype != self._element:
                    tally.rounded |= {name for _ in rounded_columns(column[:, None], self._element)}
            places[~np.isfinite(features).all(axis=1)] = np.nan
        else:
            features = np.empty((len(places), 0), self._element)
        tally.points += len(places)
        tally.bad += int(np.count_nonzero(~np.isfinite(places).all(axis=1)))
        return places, features

    def _dense_piece(self, piece: _Piece, compute: Compute, tally: _Tally) -> np.ndarray:
        import torch

        from robocache.ops.voxelize import integrate_tsdf

        if self.reduce != "tsdf":
            return self._voxels(piece, compute, tally).values.numpy()
        points, offsets = (torch.from_numpy(x).to(compute.device) for x in (piece.places, piece.offsets))
        here = np.tile([0.0, 0, 0, 0, 0, 0, 1], (len(piece.offsets) - 1, 1)) if piece.poses is None else piece.poses
        sensor = torch.from_numpy(here).to(compute.device)
        volume = integrate_tsdf(
            points, sensor, offsets=offsets, voxel_size=self.size, bounds=self.bounds, truncation=self.truncation or 0.0
        )
        return torch.stack(volume, dim=-1).cpu().numpy()

    def _sparse_piece(self, piece: _Piece, compute: Compute, tally: _Tally) -> pa.Array:
        """A struct of lists a cloud."""
        found: Any = self._voxels(piece, compute, tally)
        starts = pa.array(found.offsets.numpy().astype(np.int32))
        lists = []
        for column in self._sparse:
            flat: pa.Array = pa.array(getattr(found, column.name).numpy().reshape(-1))
            for size in reversed(StreamType(column.type.value_type).shape):
                flat = pa.FixedSizeListArray.from_arrays(flat, size)
            lists.append(pa.ListArray.from_arrays(starts, flat))
        return pa.StructArray.from_arrays(lists, fields=list(self._sparse))

    def _voxels(self, piece: _Piece, compute: Compute, tally: _Tally) -> DenseVoxels | SparseVoxels:
        import torch

        from robocache.ops.voxelize_chunked import voxelize_chunked

        found = voxelize_chunked(
            torch.from_numpy(piece.places),
            offsets=torch.from_numpy(piece.offsets),
            features=torch.from_numpy(piece.features) if self.columns else None,
            voxel_size=self.size,
            bounds=self.bounds,
            reduce=self.reduce,
            layout=self.layout,
            max_points=self.max_points,
            max_memory_mb=compute.max_memory_mb / 2,
            device=compute.device,
        )
        tally.dropped += int(found.dropped.sum())
        return found


class _Piece(NamedTuple):
    """Clouds one after another. places: ``[N, 3]``; features: ``[N, C]``; offsets: ``[B + 1]``; poses: ``[B, 7]``"""

    places: np.ndarray
    features: np.ndarray
    offsets: np.ndarray
    poses: np.ndarray | None

    @classmethod
    def of(cls, places: list[np.ndarray], features: list[np.ndarray], poses: np.ndarray | None) -> _Piece:
        offsets = np.cumsum([0, *map(len, places)], dtype=np.int64)
        return cls(np.concatenate(places), np.concatenate(features), offsets, poses)


def moved(places: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points ``[n, 3]`` turned and shifted by a pose x y z qx qy qz qw of unit quaternion, float64.

    Product by product: a matrix product's rounding differs from one processor to the next.
    """
    x, y, z = (places[:, i].astype(np.float64) for i in range(3))
    qx, qy, qz, qw = (float(q) for q in pose[3:])
    rows = (
        (1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy - qz * qw), 2 * (qx * qz + qy * qw)),
        (2 * (qx * qy + qz * qw), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz - qx * qw)),
        (2 * (qx * qz - qy * qw), 2 * (qy * qz + qx * qw), 1 - 2 * (qx * qx + qy * qy)),
    )
    return np.stack([a * x + b * y + c * z + float(t) for (a, b, c), t in zip(rows, pose[:3], strict=True)], axis=1)


@dataclass
class _Tally:
    """points: seen; bad: of which a coordinate, or a feature asked for, is not finite; dropped: those, and those out of
    bounds; rounded: features that the column's type rounds"""

    points: int = 0
    bad: int = 0
    dropped: int = 0
    rounded: set[str] = field(default_factory=set)

    def findings(self) -> tuple[Finding, ...]:
        found = []
        if lost := max(self.bad, self.dropped):
            text = (
                f"{lost:,} of {self.points:,} points ({lost / self.points:.1%}) are in no voxel: "
                f"{lost - self.bad:,} lie outside of the bounds, {self.bad:,} are not finite"
            )
            found.append(Finding("points", "", text, lost / self.points))
        if self.rounded:
            text = f"float32 rounds {', '.join(sorted(self.rounded))} more coarsely than recorded; set dtype: float64"
            found.append(Finding("rounded", "", text, len(self.rounded)))
        return tuple(found)
