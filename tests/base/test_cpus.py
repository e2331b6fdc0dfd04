"""How many threads to start: affinity and cgroup quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zoofast.base import cpus


def v2(root: Path, own: str, limits: dict[str, str]) -> Path:
    """A cgroup v2 tree with cpu.max files, and the membership file."""
    for folder, limit in limits.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "cpu.max").write_text(limit + "\n")
    membership = root / "membership"
    membership.write_text(f"0::/{own}\n")
    return membership


@pytest.mark.parametrize(
    ("limits", "quota"),
    [
        ({"a/b": "200000 100000"}, 2.0),
        ({"a/b": "max 100000"}, None),
        ({"a/b": "max 100000", "a": "150000 100000"}, 1.5),  # a parent's limit holds too
        ({"a/b": "400000 100000", "a": "300000 100000"}, 3.0),
        ({"a/b": "50000 100000"}, 0.5),
        ({}, None),
        ({".": "100000 100000"}, 1.0),
    ],
)
def test_quota_of_version_2(tmp_path: Path, limits: dict[str, str], quota: float | None) -> None:
    assert cpus._cgroup_quota(tmp_path, v2(tmp_path, "a/b", limits)) == quota


@pytest.mark.parametrize(
    ("quota_us", "quota"), [("200000", 2.0), ("-1", None), ("150000", 1.5), (None, None)]
)
def test_quota_of_version_1(tmp_path: Path, quota_us: str | None, quota: float | None) -> None:
    own = tmp_path / "cpu,cpuacct" / "docker" / "x"
    own.mkdir(parents=True)
    if quota_us is not None:
        (own / "cpu.cfs_quota_us").write_text(quota_us)
        (own / "cpu.cfs_period_us").write_text("100000")
    membership = tmp_path / "membership"
    membership.write_text("5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n")
    assert cpus._cgroup_quota(tmp_path, membership) == quota


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert cpus._cgroup_quota(tmp_path, tmp_path / "gone") is None


def test_the_smaller_of_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for quota, expected in ((None, 8), (2.5, 3), (0.2, 1), (64.0, 8)):
        monkeypatch.setattr(cpus, "_cgroup_quota", lambda root, membership, q=quota: q)
        assert cpus.usable_cpus() == expected


def test_affinity_is_respected() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cpus.usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
