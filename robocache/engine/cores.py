"""How many cores this process may use, which in a container or under a batch system is not what the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


#: So many cores are kept busy by threads; with more, processes do more than threads that wait for one another.
FEW = 2


def threads_of(wanted: int) -> int:
    """What ``compute.threads`` comes to: 0 is as many as there are cores."""
    return wanted or usable_cores()


def usable_cores() -> int:
    """Those of the process's affinity, or as many as its cgroup's limit of CPU time is worth, where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _limits())]))


def _limits() -> list[float]:
    """CPU seconds a second that the process's cgroup and those above it allow (cgroup v2)."""
    try:
        own = OWN_CGROUP.read_text().partition("0::/")[2].partition("\n")[0]
    except OSError:
        own = ""
    limits = []
    for folder in (CGROUPS / own, *(CGROUPS / own).parents):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            limits.append(int(quota) / int(period))
        except (OSError, ValueError):  # no such file at the root of all, "max" where there is no limit
            continue
    return limits
