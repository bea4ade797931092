"""An output that is there already as a LeRobot dataset in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from robocache.config.load import job_from_mapping
from robocache.engine.cores import threads_of
from robocache.engine.tree import tree_spec
from robocache.errors import OutputError
from robocache.output.dataset import Output
from robocache.output.layout import LOCK
from robocache.output.lerobot import layout, tree
from robocache.output.lerobot.options import LeRobotOptions
from robocache.output.lock import Check, locked
from robocache.output.store import Store


@dataclass
class _Folder:
    """The folder of the dataset, held by this process."""

    store: Store
    check: Check

    def write(self, name: str, data: Any) -> None:
        self.check()
        self.store.write(name, data)


def from_dataset(
    uri: str,
    to: str,
    *,
    version: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[str, ...]:
    """Make a LeRobot dataset at ``to`` of the output of ``robocache run`` at ``uri``, of whichever format; what is
    there of an earlier call and has not changed stays. Returns notes for a person.

    version: of the output; None: the newest
    options: of ``output.lerobot``, such as ``task="press the button"`` or ``video="av1"``

    ``OutputError`` where ``uri`` is no output, ``to`` holds other files, or a column has no place in LeRobot's format;
    ``ConfigError`` where its timeline has no rate.
    """
    output = Output.open(uri, storage_options, version=version)
    job = job_from_mapping(yaml.safe_load(output.config))
    spec = replace(tree_spec(job), options=LeRobotOptions(**options))
    store = Store(to, storage_options)
    if store.files() and not store.files(layout.OWN):
        raise OutputError(f"{to} holds files that this has not written; choose another folder")
    with locked(store, LOCK) as check:
        return tree.finalise(_Folder(store, check), output, spec, threads_of(job.compute.threads))
