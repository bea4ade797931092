"""The steps of a feature: a mapping in a config each, checked as far as the config alone tells."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from robocache.config import actions, schema
from robocache.config.reading import Problems, read_section
from robocache.config.schema import EXPECTED, Column
from robocache.config.values import at_least
from robocache.features.cast import ROUNDED
from robocache.features.decode import Decode
from robocache.features.depth import Depth
from robocache.features.encode import DepthCodes, Encode
from robocache.features.steps import Step
from robocache.features.voxelize import MOST_NUMBERS, OF_FEATURES, Voxelize
from robocache.ops.grid import Grid


def read_steps(column: Column, sources: int, path: str, problems: Problems) -> tuple[Step, ...]:
    """The steps of the feature at ``path``, of so many ``sources``, in the order in which they are taken."""
    steps: list[Step | None] = []
    if column.decode not in (None, False):
        if sources > 1:
            problems.add(f"{path}.decode", f"takes one source, found {sources}; give each a feature of its own")
        steps.append(_decode(column.decode, f"{path}.decode", problems))
        if column.depth is not None or column.voxelize is not None:
            problems.add(f"{path}.decode", "makes colours, which depth and voxelize do not take; leave one of them out")
    if column.encode is not None:
        if sources > 1:
            problems.add(f"{path}.encode", f"takes one source, found {sources}; give each a feature of its own")
        steps.append(_encode(column, f"{path}.encode", problems))
    if column.depth is not None:
        steps.append(_depth(column.depth, f"{path}.depth", problems))
        if column.voxelize is None:
            problems.add(f"{path}.depth", "makes clouds, which a column does not hold; add voxelize")
    if column.voxelize is not None and not problems.under(f"{path}.voxelize"):
        if sources > 1:
            problems.add(f"{path}.voxelize", f"takes one source, found {sources}; give each a feature of its own")
        steps.append(_voxelize(column.voxelize, column.dtype, path, problems))
    if column.forward_kinematics is not None:
        steps.append(actions.forward_kinematics(column.forward_kinematics, path, problems))
    if column.convert is not None:
        steps.append(actions.convert(column.convert, path, problems))
    for key in ("forward_kinematics", "convert"):
        if getattr(column, key) is not None and (column.voxelize is not None or column.depth is not None):
            problems.add(f"{path}.{key}", "is for numbers, which voxels and depths are not; leave one of them out")
        elif getattr(column, key) is not None and column.dtype not in ("auto", "float16", "float32", "float64"):
            problems.wrong(f"{path}.dtype", column.dtype, f"{key} gives fractions; write float32 or float64")
    return tuple(step for step in steps if step is not None)


def step_mapping(step: Any) -> dict[str, Any]:
    """A step as a config has it: its keys that are not at their defaults."""
    keys = {f.name for f in dataclasses.fields(getattr(schema, type(step).__name__))}
    usual = {f.name: f.default for f in dataclasses.fields(step)}
    found = {key: value for key, value in dataclasses.asdict(step).items() if key in keys and value != usual[key]}
    found = {key: {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
             for key, value in found.items()}  # fmt: skip
    return {key: _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and value and isinstance(value[0], dict):
        return [dict(item) for item in value]
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _decode(found: Any, where: str, problems: Problems) -> Decode | None:
    if found is True:
        return Decode()
    if not OmegaConf.is_dict(found):
        problems.wrong(where, found, "write true, or {resize: [height, width]}")
        return None
    cfg = read_section(schema.Decode, found, where, problems)
    if problems.under(where):
        return None
    if cfg.resize and (len(cfg.resize) != 2 or min(cfg.resize) < 1 or max(cfg.resize) > 1 << 14):
        problems.wrong(f"{where}.resize", list(cfg.resize), f"write {EXPECTED['resize']}")
        return None
    return Decode((cfg.resize[0], cfg.resize[1]) if cfg.resize else None)


#: What is for pixels that stay numbers.
_OF_NUMBERS = ("depth", "voxelize", "forward_kinematics", "convert")


def _encode(column: Column, where: str, problems: Problems) -> Encode | None:
    cfg = column.encode
    assert cfg is not None
    for key in (key for key in _OF_NUMBERS if getattr(column, key) is not None):
        problems.add(where, f"makes bytes, which {key} does not take; leave one of them out")
    if column.dtype != "auto":
        problems.add(where, "makes bytes, which have no dtype; leave dtype out")
    if cfg.crf is not None and not 0 <= cfg.crf <= (63 if cfg.codec == "av1" else 51):
        problems.wrong(f"{where}.crf", cfg.crf, f"write 0 to {63 if cfg.codec == 'av1' else 51}")
    if cfg.g is not None:
        at_least(problems, f"{where}.g", cfg.g, 1)
    for key in ("crf", "g") if cfg.codec == "png" else ():
        if getattr(cfg, key) is not None:
            problems.add(f"{where}.{key}", "is for videos, not for png; leave it out")
    depth = None
    if cfg.depth is not None and not problems.under(f"{where}.depth"):
        depth = DepthCodes(cfg.depth.near, cfg.depth.far, cfg.depth.scale)
        if not 0 < depth.near < depth.far < math.inf:
            problems.wrong(f"{where}.depth.near", depth.near, "write near and far, metres above 0, far the larger")
        if depth.scale is not None and not 0 < depth.scale < math.inf:
            problems.wrong(f"{where}.depth.scale", depth.scale, "write a number above 0")
        if cfg.codec not in ("png", "h265"):
            problems.wrong(f"{where}.codec", cfg.codec, "depths take 12 bits; write png or h265, which have them")
        if column.decode not in (None, False):
            problems.add(f"{where}.depth", "is for recorded depths, and decode makes colours; leave one of them out")
    if problems.under(where):
        return None
    usual = {key: value for key in ("crf", "g") if (value := getattr(cfg, key)) is not None}
    return Encode(cfg.codec, depth=depth, **usual)


def _depth(cfg: schema.Depth, where: str, problems: Problems) -> Depth | None:
    for key in ("fx", "fy", "scale"):
        value = getattr(cfg, key)
        if value is not None and not 0 < value < math.inf:
            problems.wrong(f"{where}.{key}", value, "write a number above 0")
    for key in ("cx", "cy"):
        if (value := getattr(cfg, key)) is not None and not math.isfinite(value):
            problems.wrong(f"{where}.{key}", value, f"write {EXPECTED[key]}")
    return None if problems.under(where) else Depth(cfg.fx, cfg.fy, cfg.cx, cfg.cy, cfg.scale)


def _voxelize(cfg: schema.Voxelize, dtype: str, path: str, problems: Problems) -> Voxelize | None:
    where = f"{path}.voxelize"
    size = _size(cfg.size)
    if size is None:
        problems.wrong(f"{where}.size", cfg.size, f"write {EXPECTED['size']}")
    corners = _corners(cfg.bounds)
    if corners is None:
        problems.wrong(f"{where}.bounds", cfg.bounds, f"write {EXPECTED['bounds']}, each of its numbers rising")
    step = Voxelize(
        size or (1.0, 1.0, 1.0),
        corners or ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        cfg.reduce,
        cfg.layout,
        tuple(cfg.features),
        32 if cfg.max_points is None else cfg.max_points,
        cfg.truncation,
        "float64" if dtype == "float64" else "float32",
    )
    reduce, of_features = cfg.reduce, cfg.reduce in OF_FEATURES
    if (reduce, cfg.layout) in (("points", "dense"), ("tsdf", "sparse")):
        other = "sparse" if cfg.layout == "dense" else "dense"
        problems.wrong(f"{where}.layout", cfg.layout, f"{reduce} is {other}; write that, or another reduce")
    if cfg.features and not of_features:
        problems.add(f"{where}.features", f"{reduce} takes none; leave them out, or reduce by {_of_features()}")
    twice = next((name for name in cfg.features if cfg.features.count(name) > 1), None)
    if twice is not None or not all(name.strip() for name in cfg.features):
        problems.wrong(f"{where}.features", list(cfg.features), "write fields of the cloud, no two alike")
    if cfg.max_points is not None:
        at_least(problems, f"{where}.max_points", cfg.max_points, 1)
        if reduce != "points":
            problems.add(f"{where}.max_points", f"is for reduce: points, not for {reduce}; leave it out")
    if (cfg.truncation is not None) != (reduce == "tsdf"):
        right = "write how far from a surface its distances go, such as 0.3" if reduce == "tsdf" else "leave it out"
        problems.add(f"{where}.truncation", f"{'missing' if reduce == 'tsdf' else f'{reduce} has none'}; {right}")
    elif cfg.truncation is not None and not 0 < cfg.truncation < math.inf:
        problems.wrong(f"{where}.truncation", cfg.truncation, "write a distance above 0")
    _check_dtype(step, dtype, path, problems)
    if problems.under(where):
        return None
    try:
        grid = Grid.of(step.size, step.bounds)
    except ValueError as error:
        problems.add(where, str(error))
        return None
    numbers = grid.cells * max(1, len(step.columns))
    if cfg.layout == "dense" and numbers > MOST_NUMBERS:
        shape = " x ".join(map(str, grid.shape))
        problems.add(
            where, f"{shape} voxels are {numbers:,} numbers in every row; use layout: sparse, or a coarser grid"
        )
    reach = max(abs(x) for corner in step.bounds for x in corner)
    placed = of_features and any(axis in step.columns for axis in "xyz")
    if placed and step.dtype == "float32" and np.spacing(np.float32(reach)) > ROUNDED * min(step.size):
        problems.add(
            f"{path}.dtype",
            f"float32 tells places at {reach:g} apart only by {np.spacing(np.float32(reach)):g}, with voxels of "
            f"{min(step.size):g}; write float64",
        )
    return step


def _check_dtype(step: Voxelize, dtype: str, path: str, problems: Problems) -> None:
    """Dense voxels are numbers of any kind; the values within a list are of few."""
    if dtype == "auto":
        return
    if step.reduce == "occupancy" and (step.layout == "sparse" or not dtype.startswith(("bool", "uint", "int"))):
        right = "write bool or uint8" if step.layout == "dense" else "coordinates alone tell it; leave dtype out"
        problems.wrong(f"{path}.dtype", dtype, f"occupancy is true or false; {right}")
    elif step.layout == "sparse" and (step.reduce == "count" or dtype not in ("float32", "float64")):
        right = "counts are int32; leave it out" if step.reduce == "count" else "sparse values are float32 or float64"
        problems.wrong(f"{path}.dtype", dtype, right)
    elif step.reduce not in ("occupancy", "count") and not dtype.startswith("float"):
        problems.wrong(f"{path}.dtype", dtype, f"{step.reduce} gives fractions; write float32, float64 or float16")


def _of_features() -> str:
    return ", ".join(OF_FEATURES[:-1]) + f" or {OF_FEATURES[-1]}"


def _numbers(value: Any) -> list[float] | None:
    """A list of finite numbers; None for anything else."""
    found: Any = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    good = isinstance(found, list) and all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in found
    )
    return [float(x) for x in found] if good else None


def _size(value: Any) -> tuple[float, float, float] | None:
    single = isinstance(value, int | float) and not isinstance(value, bool)
    found = [float(value)] * 3 if single and math.isfinite(value) else _numbers(value)
    if found is None or len(found) != 3 or min(found) <= 0:
        return None
    return (found[0], found[1], found[2])


def _corners(value: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    found = list(value) if OmegaConf.is_list(value) or isinstance(value, list) else []
    corners = [_numbers(corner) for corner in found]
    if len(corners) != 2 or any(corner is None or len(corner) != 3 for corner in corners):
        return None
    lower, upper = (corner or [] for corner in corners)
    if not all(a < b for a, b in zip(lower, upper, strict=True)):
        return None
    return (lower[0], lower[1], lower[2]), (upper[0], upper[1], upper[2])
