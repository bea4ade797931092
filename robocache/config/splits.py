"""The section ``splits``: shares of the dataset, or the ids that belong to each split, in the file or in a table."""

from __future__ import annotations

import csv
import math
from typing import Any

from robocache.config.job import SplitSpec
from robocache.config.reading import Problems

_RIGHT = (
    "write shares that add up to 1, such as {train: 0.9, val: 0.1}, a list of episode ids for each split, or the path "
    "of a CSV file with the columns id and split"
)


def read_splits(found: Any, problems: Problems) -> SplitSpec:
    """The section as a job has it."""
    if found is None or problems.under("splits"):
        return SplitSpec()
    if isinstance(found, str):
        return _table(found, problems)
    items = list(found.items()) if hasattr(found, "items") else []
    if not items or not all(str(name).strip() for name, _ in items):
        problems.wrong("splits", found, _RIGHT)
        return SplitSpec()
    if all(isinstance(share, int | float) and not isinstance(share, bool) for _, share in items):
        shares = tuple((str(name), float(share)) for name, share in items)
        total = math.fsum(share for _, share in shares)
        if not all(0 <= share <= 1 for _, share in shares) or not math.isclose(total, 1, abs_tol=1e-9):
            problems.add("splits", f"the shares add up to {total:g}; {_RIGHT}")
        return SplitSpec(shares)
    ids: dict[str, str] = {}
    for name, listed in items:
        if isinstance(listed, str | bytes) or not hasattr(listed, "__iter__"):
            problems.wrong(f"splits.{name}", listed, _RIGHT)
            continue
        _take(ids, [(str(id), str(name)) for id in listed], f"splits.{name}", problems)
    return SplitSpec(ids=ids)


def splits_mapping(splits: SplitSpec) -> dict[str, Any] | None:
    """The section as a config has it."""
    if splits.shares:
        return dict(splits.shares)
    mapping: dict[str, list[str]] = {}
    for id, name in splits.ids.items():
        mapping.setdefault(name, []).append(id)
    return mapping or None


def _table(path: str, problems: Problems) -> SplitSpec:
    ids: dict[str, str] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.add("splits", f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}; {_RIGHT}")
        return SplitSpec()
    if not rows or not {"id", "split"} <= rows[0].keys():
        problems.add("splits", f"{path}: has no rows with the columns id and split; {_RIGHT}")
        return SplitSpec()
    for k, row in enumerate(rows):
        if not row["id"] or not row["split"]:
            problems.add("splits", f"{path}, row {k + 1}: found {list(row.values())}; write an id and a split")
            return SplitSpec()
    _take(ids, [(row["id"], row["split"]) for row in rows], f"splits: {path}", problems)
    return SplitSpec(ids=ids)


def _take(ids: dict[str, str], pairs: list[tuple[str, str]], where: str, problems: Problems) -> None:
    for id, name in pairs:
        if ids.setdefault(id, name) != name:
            problems.add(where, f"episode {id!r} is in {ids[id]!r} too; give it one split")
