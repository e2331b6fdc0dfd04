"""The CPU's name, and how many CPUs this process may use."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpu_name() -> str:
    """The CPU's name; its architecture where the kernel does not give the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def usable_cpus() -> int:
    """How many CPUs this process may use: its affinity mask and its cgroup's quota. At least 1."""
    count = len(os.sched_getaffinity(0))
    quota = _cgroup_quota(CGROUP, Path("/proc/self/cgroup"))
    if quota is not None:
        count = min(count, math.ceil(quota))
    return max(count, 1)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _cgroup_quota(root: Path, membership: Path) -> float | None:
    """The smallest CPU quota of this process's cgroup and the cgroups above it, in CPUs.

    None: there is no quota. membership: the file /proc/self/cgroup.
    """
    quotas: list[float] = []
    for line in (_read(membership) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # cgroup version 2
            own = root / path.lstrip("/")
            for folder in (own, *own.parents):
                words = (_read(folder / "cpu.max") or "").split()
                if len(words) == 2 and words[0] != "max":
                    quotas.append(int(words[0]) / int(words[1]))
                if folder == root:
                    break
        elif "cpu" in controllers.split(","):
            own = root / controllers / path.lstrip("/")
            for folder in (own, root / controllers):
                quota, period = (
                    _read(folder / "cpu.cfs_quota_us"),
                    _read(folder / "cpu.cfs_period_us"),
                )
                if quota and period and int(quota) > 0:
                    quotas.append(int(quota) / int(period))
    return min(quotas, default=None)
