"""The steps ``forward_kinematics`` and ``convert``, checked as far as the config alone tells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig

from robocache.config import schema
from robocache.config.job import Feature, TimelineSpec
from robocache.config.reading import Problems, read_section
from robocache.config.schema import EXPECTED
from robocache.features.convert import Convert, Gripper
from robocache.features.kinematics import ForwardKinematics
from robocache.ops.rotation_names import rotation_shape
from robocache.ops.urdf import read_urdf


def forward_kinematics(cfg: schema.ForwardKinematics, path: str, problems: Problems) -> ForwardKinematics | None:
    where = f"{path}.forward_kinematics"
    if problems.under(where):
        return None
    tips = [cfg.tip] if isinstance(cfg.tip, str) else list(cfg.tip)
    if not tips or len(set(tips)) < len(tips):
        problems.wrong(f"{where}.tip", cfg.tip, f"write {EXPECTED['tip']}, no two alike")
        return None
    if cfg.urdf.lstrip().startswith("<"):
        problems.wrong(f"{where}.urdf", cfg.urdf[:20], f"write {EXPECTED['urdf']}")
        return None
    try:
        text = read_urdf(cfg.urdf).decode()
    except (OSError, ValueError) as error:
        problems.add(f"{where}.urdf", f"{cfg.urdf} cannot be read: {getattr(error, 'strerror', None) or error}")
        return None
    step = ForwardKinematics(cfg.urdf, tuple(tips), cfg.base or "", cfg.form, tuple(cfg.joints), tuple(cfg.keep), text)
    try:
        if not step.flat.joints:
            problems.add(f"{where}.tip", f"no joint moves between {step.flat.links[0]} and {', '.join(tips)}")
    except ValueError as error:
        problems.add(where, str(error))
    return step


def convert(cfg: schema.Convert, path: str, problems: Problems) -> Convert | None:
    where = f"{path}.convert"
    if problems.under(where):
        return None
    grippers = _grippers(cfg.gripper, f"{where}.gripper", problems)
    if not (cfg.delta or cfg.rotation or cfg.continuous or grippers or problems.under(where)):
        problems.add(where, "converts nothing; write delta, rotation, continuous or gripper, or leave it out")
    for key in ("rotation", "rotation_from"):
        try:
            rotation_shape(getattr(cfg, key) or "matrix")
        except ValueError as error:
            problems.add(f"{where}.{key}", str(error))
    if cfg.continuous and not cfg.rotation_from.startswith("quaternion"):
        problems.add(f"{where}.continuous", f"is for quaternions, not for {cfg.rotation_from}; leave it out")
    if (cfg.chunk is not None) != (cfg.delta == "chunk"):
        missing = "missing; write how many actions a row holds, such as 16"
        problems.add(f"{where}.chunk", missing if cfg.delta == "chunk" else "is for delta: chunk; leave it out")
    elif cfg.chunk is not None and cfg.chunk < 1:
        problems.wrong(f"{where}.chunk", cfg.chunk, "write 1 or more")
    if bool(cfg.state) != (cfg.delta in ("chunk", "state")):
        right = "is for delta: chunk and state; leave it out" if cfg.state else f"missing; write {EXPECTED['state']}"
        problems.add(f"{where}.state", right)
    if cfg.absolute and not cfg.delta:
        problems.add(f"{where}.absolute", "is for deltas, and there is none; leave it out")
    return Convert(
        cfg.delta or "", cfg.chunk, cfg.state or "", tuple(cfg.absolute), cfg.rotation or "", cfg.rotation_from,
        cfg.continuous, grippers,
    )  # fmt: skip


def check_deltas(features: Sequence[Feature], timeline: TimelineSpec, problems: Problems) -> None:
    """A state must be a feature that holds absolute numbers; what looks ahead must be an action where rows may not."""
    named = {feature.name: feature for feature in features}
    for feature in features:
        step = next((s for s in feature.steps if isinstance(s, Convert)), None)
        if step is None:
            continue
        where = f"features.{feature.name}.convert"
        if step.state:
            state = named.get(step.state)
            others = ", ".join(name for name in named if name != feature.name)
            if state is None or state is feature:
                problems.wrong(f"{where}.state", step.state, f"write another feature: {others}")
            elif any(s.rows for s in state.steps):
                problems.wrong(
                    f"{where}.state", step.state, "that feature is converted by rows itself; name one that is not"
                )
        if timeline.causal and feature.role != "action" and step.delta in ("step", "chunk"):
            problems.add(
                f"{where}.delta", f"{step.delta} looks ahead, which timeline.causal admits of role: action only"
            )


def _grippers(found: Any, where: str, problems: Problems) -> tuple[Gripper, ...]:
    if found is None:
        return ()
    if not isinstance(found, (DictConfig, ListConfig, dict, list)):
        problems.wrong(where, found, "write a mapping with the keys column, closed, open, or a list of them")
        return ()
    several = isinstance(found, (ListConfig, list))
    items = [(item, f"{where}[{i}]") for i, item in enumerate(found)] if several else [(found, where)]
    out = []
    for item, place in items:
        cfg = read_section(schema.Gripper, item, place, problems)
        if problems.under(place):
            continue
        if not (math.isfinite(cfg.closed) and math.isfinite(cfg.open) and cfg.closed != cfg.open):
            problems.add(place, f"closed at {cfg.closed} and open at {cfg.open} is no range")
        out.append(Gripper(cfg.column, cfg.closed, cfg.open))
    return tuple(out)
