"""Which decoder a cloud's payload is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from robocache.clouds.columns import Cloud, Field
from robocache.clouds.depth import decode_depth
from robocache.clouds.las import decode_las
from robocache.clouds.pcd import decode_pcd
from robocache.clouds.pointcloud2 import MESSAGE, decode_message, message_fields
from robocache.clouds.records import real_fields
from robocache.errors import InputError
from robocache.types import StreamType

#: Whole files, by ``about["encoding"]``.
ENCODINGS: Mapping[str, Callable[[bytes], Cloud]] = {"pcd": decode_pcd, "las": decode_las}


def is_cloud(kind: StreamType) -> bool:
    """Whether samples of this type can be decoded."""
    known = kind.arrow == MESSAGE or kind.about.get("encoding") in (*ENCODINGS, "depth")
    return kind.about.get("kind") == "cloud" and known


def decode_cloud(payload: pa.Scalar | np.ndarray, about: Mapping[str, Any]) -> Cloud:
    """The points of one sample of a stream of clouds; ``about``: the stream's. ``InputError`` where it is damaged."""
    if isinstance(payload, pa.StructScalar):
        return decode_message(payload, about)
    if isinstance(payload, np.ndarray):
        return decode_depth(payload, about)
    decode = ENCODINGS.get(about.get("encoding", ""))
    if decode is None:
        raise InputError(f"clouds of encoding {about.get('encoding')!r} cannot be read; {', '.join(ENCODINGS)} can")
    return decode(payload.as_buffer().to_pybytes())


def known_fields(about: Mapping[str, Any]) -> list[Field] | None:
    """The fields that a stream of clouds says it has; None where it does not say."""
    if "fields" not in about:
        return None
    if about.get("encoding") in (*ENCODINGS, "depth"):
        return [Field.of(told) for told in about["fields"]]
    return [item.field for item in real_fields(message_fields(about))]
