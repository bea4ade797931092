"""URDF files: the tree of links and joints, and chains of it as flat arrays.

Read by a small strict parser: the packages that read URDF load meshes with it, and bring as many packages as that
takes. Whatever is not kinematics (inertia, meshes, transmissions, simulators' tags) is passed over.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

#: Joints that a chain can hold.
MOVING = ("revolute", "continuous", "prismatic")
MOST_JOINTS = 64
_MOST_BYTES = 1 << 26


@dataclass(frozen=True)
class Joint:
    """One joint of a tree; metres and radians.

    origin:       ``[4, 4]``, the child's frame in the parent's at 0
    axis:         ``[3]``, a unit vector in the child's frame
    lower, upper: limits; infinite of a continuous joint
    mimic:        the joint that it follows, a factor and an offset
    """

    name: str
    kind: str
    parent: str
    child: str
    origin: np.ndarray
    axis: np.ndarray
    lower: float
    upper: float
    mimic: tuple[str, float, float] | None = None


class Flat(NamedTuple):
    """Chains as arrays: nodes, each a moving joint about (along) the z axis of its own frame, parents before children.

    joints:     names of the coordinates, in order; limits: float64 ``[J, 2]``
    before:     float64 ``[n, 3, 4]``, the node's frame at 0 in its parent's
    parent:     int ``[n]``, -1: the base
    sliding:    bool ``[n]``, prismatic
    coordinate: int ``[n]``, its place in joints; factor, offset: float64 ``[n]``, of a mimic (else 1 and 0)
    links:      names of the links on the chains; node: int ``[L]``, what each is fixed to (-1: the base);
    behind:     float64 ``[L, 3, 4]``, where
    """

    joints: tuple[str, ...]
    limits: np.ndarray
    before: np.ndarray
    parent: np.ndarray
    sliding: np.ndarray
    coordinate: np.ndarray
    factor: np.ndarray
    offset: np.ndarray
    links: tuple[str, ...]
    node: np.ndarray
    behind: np.ndarray


@dataclass(frozen=True)
class Robot:
    """A tree of links: ``joints`` by the name of the link that each carries."""

    name: str
    links: tuple[str, ...]
    joints: Mapping[str, Joint]

    @property
    def root(self) -> str:
        return next(link for link in self.links if link not in self.joints)

    def flat(self, base: str | None, tips: Sequence[str]) -> Flat:
        """The chains from a link (None: the root) to others, along the tree in either direction.

        ``ValueError``: no such link, a joint on the way that is neither fixed nor of :data:`MOVING`, more than
        :data:`MOST_JOINTS` of them.
        """
        base = self.root if base is None else base
        for link in (base, *tips):
            if link not in self.links:
                raise ValueError(f"{self.name}: no link is called {link!r}; it has {', '.join(self.links)}")
        frames: dict[str, tuple[int, np.ndarray]] = {base: (-1, np.eye(4))}
        nodes: list[tuple[np.ndarray, int, Joint, str, float, float]] = []
        for tip in tips:
            for joint, link, up in self._way(base, tip):
                if link in frames:
                    continue
                at, frame = frames[joint.child if up else joint.parent]
                if joint.kind == "fixed":
                    frames[link] = (at, frame @ (_inverse(joint.origin) if up else joint.origin))
                    continue
                if joint.kind not in MOVING:
                    raise ValueError(
                        f"{self.name}: joint {joint.name} is {joint.kind}; chains of {', '.join(MOVING)} and fixed "
                        "joints can be computed"
                    )
                # Upwards the motion comes first, the other way about, and then the way to the parent.
                turn = _towards(-joint.axis if up else joint.axis)
                source, factor, offset = self._followed(joint)
                nodes.append(((frame if up else frame @ joint.origin) @ turn, at, joint, source, factor, offset))
                frames[link] = (len(nodes) - 1, _inverse(turn) @ (_inverse(joint.origin) if up else np.eye(4)))
        if len(nodes) > MOST_JOINTS:
            raise ValueError(f"{self.name}: {len(nodes)} moving joints from {base} to {', '.join(tips)}; at most 64")
        names = tuple(dict.fromkeys(node[3] for node in nodes))
        limits = {joint.name: (joint.lower, joint.upper) for joint in self.joints.values()}
        return Flat(
            names,
            np.array([limits[name] for name in names]).reshape(-1, 2),
            np.array([node[0][:3] for node in nodes]).reshape(-1, 3, 4),
            np.array([node[1] for node in nodes], np.int64),
            np.array([node[2].kind == "prismatic" for node in nodes], bool),
            np.array([names.index(node[3]) for node in nodes], np.int64),
            np.array([node[4] for node in nodes], np.float64),
            np.array([node[5] for node in nodes], np.float64),
            tuple(frames),
            np.array([at for at, _ in frames.values()], np.int64),
            np.array([frame[:3] for _, frame in frames.values()]),
        )

    def _way(self, base: str, tip: str) -> Iterator[tuple[Joint, str, bool]]:
        """Joints from a link to another, the link that each leads to, and whether that is towards the root."""
        above_base, above_tip = self._above(base), self._above(tip)
        common = next((link for link in above_tip if link in above_base), None)
        if common is None:
            raise ValueError(f"{self.name}: no joints lead from {base} to {tip}")
        for link in above_base[: above_base.index(common)]:
            yield self.joints[link], self.joints[link].parent, True
        for link in reversed(above_tip[: above_tip.index(common)]):
            yield self.joints[link], link, False

    def _above(self, link: str) -> list[str]:
        out = [link]
        while out[-1] in self.joints:
            out.append(self.joints[out[-1]].parent)
        return out

    def _followed(self, joint: Joint) -> tuple[str, float, float]:
        """The joint whose coordinate moves it, with factor and offset, through mimics of mimics."""
        named = {j.name: j for j in self.joints.values()}
        factor, offset, seen = 1.0, 0.0, {joint.name}
        while joint.mimic is not None:
            source, by, more = joint.mimic
            if source not in named or source in seen or named[source].kind not in MOVING:
                raise ValueError(f"{self.name}: joint {joint.name} mimics {source!r}, which is no joint that can lead")
            factor, offset = factor * by, factor * more + offset
            joint = named[source]
            seen.add(source)
        return joint.name, factor, offset


def read_urdf(path_or_text: str | os.PathLike[str]) -> bytes:
    """The bytes of a URDF, given its path or itself (text that begins with ``<``). ``OSError`` where there is no file,
    ``ValueError`` where it is too large for one.
    """
    text = str(path_or_text)
    if text.lstrip("\ufeff \t\r\n").startswith("<"):
        return text.encode()
    with open(text, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{text}: more than {_MOST_BYTES >> 20} MiB is no URDF")
    return data


def parse_urdf(data: bytes, name: str = "URDF") -> Robot:
    """``ValueError``, beginning with ``name``, where it is no URDF of a tree: what was found and what would be right.

    A document with a DOCTYPE is refused, as its entities could grow without bound.
    """
    try:
        return _parsed(data)
    except (ValueError, expat.ExpatError, ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"{name}: {error}") from None


def _parsed(data: bytes) -> Robot:
    def refuse(*_: object) -> None:
        raise ValueError("it declares a DOCTYPE, which URDF has no use for; remove it")

    first = expat.ParserCreate()
    first.StartDoctypeDeclHandler = refuse
    first.Parse(data, True)
    root = ElementTree.fromstring(data)
    if root.tag != "robot":
        raise ValueError(f"its root is <{root.tag}>, that of a URDF is <robot>; expand xacro files first")
    links = tuple(_attribute(element, "name", "a link") for element in root.findall("link"))
    joints = [_joint(element) for element in root.findall("joint")]
    for what, names in (("links", links), ("joints", tuple(j.name for j in joints))):
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two {what} are called {twice!r}")
    by_child: dict[str, Joint] = {}
    for joint in joints:
        for end in (joint.parent, joint.child):
            if end not in links:
                raise ValueError(f"joint {joint.name} names the link {end!r}, which is not there")
        if joint.child in by_child:
            raise ValueError(f"link {joint.child} hangs on two joints, {by_child[joint.child].name} and {joint.name}")
        by_child[joint.child] = joint
    if not links:
        raise ValueError("it has no links")
    robot = Robot(root.get("name", "robot"), links, by_child)
    for link in links:
        at, steps = link, 0
        while at in by_child:
            at, steps = by_child[at].parent, steps + 1
            if steps > len(links):
                raise ValueError(f"the joints above link {link} lead back to it")
    return robot


def _joint(element: ElementTree.Element) -> Joint:
    name = _attribute(element, "name", "a joint")
    what = f"joint {name}"
    kind = _attribute(element, "type", what)
    parent, child = (_attribute(_child(element, end, what), "link", f"{what}: <{end}>") for end in ("parent", "child"))
    origin = np.eye(4)
    if (found := element.find("origin")) is not None:
        origin[:3, 3] = _numbers(found.get("xyz", "0 0 0"), 3, f"{what}: origin xyz")
        origin[:3, :3] = _rpy(_numbers(found.get("rpy", "0 0 0"), 3, f"{what}: origin rpy"))
    axis = np.array([1.0, 0, 0])
    if kind in MOVING and (found := element.find("axis")) is not None:
        axis = _numbers(found.get("xyz", "1 0 0"), 3, f"{what}: axis")
    length = float(np.linalg.norm(axis))
    if not length > 0:
        raise ValueError(f"{what}: its axis is 0 0 0, which has no direction")
    lower, upper = -math.inf, math.inf
    if kind in ("revolute", "prismatic"):
        limit = _child(element, "limit", what)
        lower, upper = (_numbers(limit.get(end, "0"), 1, f"{what}: limit {end}")[0] for end in ("lower", "upper"))
        if lower > upper:
            raise ValueError(f"{what}: its limits are {lower} and {upper}; the lower one comes first")
    mimic = None
    if (found := element.find("mimic")) is not None:
        factor, offset = (
            float(_numbers(found.get(key, usual), 1, f"{what}: mimic {key}")[0])
            for key, usual in (("multiplier", "1"), ("offset", "0"))
        )
        mimic = (_attribute(found, "joint", f"{what}: <mimic>"), factor, offset)
    return Joint(name, kind, parent, child, origin, axis / length, float(lower), float(upper), mimic)


def _child(element: ElementTree.Element, tag: str, what: str) -> ElementTree.Element:
    found = element.find(tag)
    if found is None:
        raise ValueError(f"{what} has no <{tag}>")
    return found


def _attribute(element: ElementTree.Element, name: str, what: str) -> str:
    found = element.get(name)
    if not found:
        raise ValueError(f"{what} has no {name}")
    return found


def _numbers(text: str, count: int, what: str) -> np.ndarray:
    try:
        found = np.array([float(word) for word in text.replace("_", "?").split()])  # Python reads 1_0 as ten
    except ValueError:
        found = np.array([])
    if len(found) != count or not np.isfinite(found).all():
        raise ValueError(f"{what} is {text!r}; it must be {count} finite number{'s' * (count > 1)}")
    return found


def _rpy(angles: np.ndarray) -> np.ndarray:
    """Roll about x, then pitch about y, then yaw about z, all fixed axes."""
    (sr, sp, sy), (cr, cp, cy) = np.sin(angles), np.cos(angles)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def _inverse(frame: np.ndarray) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = frame[:3, :3].T
    out[:3, 3] = -frame[:3, :3].T @ frame[:3, 3]
    return out


def _towards(axis: np.ndarray) -> np.ndarray:
    """A frame whose z axis lies along ``axis``; exact along the coordinate axes."""
    helper = np.eye(3)[int(np.argmin(np.abs(axis)))]
    x = np.cross(helper, axis)
    x = x / np.linalg.norm(x)
    out = np.eye(4)
    out[:3, :3] = np.stack([x, np.cross(axis, x), axis], axis=1)
    return out
