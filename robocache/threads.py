"""Work shared out to threads that nobody has to wait for: what they are at may never return."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from queue import Empty, SimpleQueue
from threading import Thread
from types import ModuleType
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")


def mapped(call: Callable[[S], T], items: Sequence[S], threads: int) -> list[T]:
    """``call`` of each, on so many threads; raises what the first of the items that failed has raised.

    Neither an interrupt nor the end of the process waits for what they are at, as they would for those of a pool.
    """
    todo: SimpleQueue[tuple[int, S]] = SimpleQueue()
    done: SimpleQueue[tuple[int, bool, Any]] = SimpleQueue()
    for item in enumerate(items):
        todo.put(item)

    def serve() -> None:
        while True:
            try:
                place, item = todo.get_nowait()
            except Empty:
                return
            try:
                done.put((place, True, call(item)))
            except BaseException as error:
                done.put((place, False, error))

    for number in range(min(threads, len(items))):
        Thread(target=serve, name=f"mapped_{number}", daemon=True).start()
    results: list[tuple[bool, Any]] = [(False, None)] * len(items)
    try:
        for _ in items:
            place, well, value = done.get()
            results[place] = well, value
    except BaseException:
        while not todo.empty():  # none is to begin another
            try:
                todo.get_nowait()
            except Empty:
                break
        raise
    failed = next((value for well, value in results if not well), None)
    if failed is not None:
        raise failed
    return [value for _, value in results]


def without_pandas() -> None:
    """For a whole process. Nothing here uses pandas, and pyarrow would import one that is there as soon as it converts
    anything, which takes a quarter of a second and is not safe from threads. So there is none.
    """
    sys.meta_path.insert(0, _NoPandas())


class _NoPandas(MetaPathFinder, Loader):
    """Who imports pandas is told that it is not there. Who only asks where it is (torch does) is told of no place."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        return ModuleSpec(fullname, self) if fullname == "pandas" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        raise ModuleNotFoundError("robocache does without pandas", name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        raise AssertionError("none was created")
