"""Which CPUs these are, and how many this process may use."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpu_name() -> str:
    """The CPU's name, where the kernel tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def usable_cpus() -> int:
    """CPUs in the affinity mask, or fewer where a cgroup's quota allows less. At least 1."""
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
    """The smallest CPU quota on the way from this process's cgroup to the root, in CPUs."""
    quotas: list[float] = []
    for line in (_read(membership) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            at = root / path.lstrip("/")
            for folder in (at, *at.parents):
                words = (_read(folder / "cpu.max") or "").split()
                if len(words) == 2 and words[0] != "max":
                    quotas.append(int(words[0]) / int(words[1]))
                if folder == root:
                    break
        elif "cpu" in controllers.split(","):
            at = root / controllers / path.lstrip("/")
            for folder in (at, root / controllers):
                quota, period = (
                    _read(folder / "cpu.cfs_quota_us"),
                    _read(folder / "cpu.cfs_period_us"),
                )
                if quota and period and int(quota) > 0:
                    quotas.append(int(quota) / int(period))
    return min(quotas, default=None)
