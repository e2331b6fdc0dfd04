"""A Ray cluster of several nodes on this machine, each with processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support import limits

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no network
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
STORE_BYTES = 80_000_000  # of each node, about the least that Ray takes
# A node with this file in PYTHONPATH, and paths in ZOOFAST_TEST_HIDDEN, does not see these paths.
HIDING = """\
import os

hidden = tuple(filter(None, os.environ.get("ZOOFAST_TEST_HIDDEN", "").split(":")))

def hide(function):
    def call(path=".", *arguments, **options):
        if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(hidden):
            raise FileNotFoundError(2, os.strerror(2), path)
        return function(path, *arguments, **options)
    return call

if hidden:
    import builtins, io
    for name in ("stat", "scandir", "open", "listdir"):
        setattr(os, name, hide(getattr(os, name)))
    builtins.open = io.open = hide(open)
"""


class Nodes:
    """A head without CPUs, and `count` nodes of one CPU each."""

    def __init__(self, folder: Path, count: int) -> None:
        from ray.cluster_utils import Cluster

        (folder / "sitecustomize.py").write_text(HIDING)
        self._folder = folder
        self.hidden = folder / "hidden"  # what is below it, no node sees
        fast = {
            "health_check_initial_delay_ms": 1000,
            "health_check_period_ms": 500,
            "health_check_timeout_ms": 5000,
            "health_check_failure_threshold": 4,
        }
        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "_system_config": fast}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._note(self._cluster.head_node)
        self.address: str = self._cluster.address
        try:
            self.nodes = [self.add() for _ in range(count)]
        except BaseException:
            self.close()
            raise

    def add(self, *hidden: Path) -> Any:
        """A node that does not see the paths `hidden`, nor self.hidden."""
        paths = ":".join(map(str, (self.hidden, *hidden)))
        env = {"ZOOFAST_TEST_HIDDEN": paths, "PYTHONPATH": str(self._folder)}
        env |= {"TMPDIR": str(self._folder)}
        node = self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, env_vars=env)
        self._note(node)
        return node

    def _note(self, node: Any) -> None:
        self._processes += [each.process for some in node.all_processes.values() for each in some]

    def remove(self, node: Any) -> None:
        """Ends a node that `add` returned."""
        self._cluster.remove_node(node)

    def kill(self, node: Any) -> str:
        """SIGKILL to all processes of a node; returns its id."""
        raylet, processes = _processes(node)
        for pid in (raylet, *(int(path.name) for path in processes)):
            with suppress(ProcessLookupError):  # it ended with the raylet
                os.kill(pid, signal.SIGKILL)
        self.nodes.remove(node)
        return str(node.node_id)

    def computes(self, node: Any) -> bool:
        """Whether a process of the node computes a task of zoofast now."""
        return any(_title(path).startswith(b"ray::Worker.run") for path in _processes(node)[1])

    def close(self) -> None:
        """Ends all processes of the cluster, whatever happens."""
        try:
            with limits.at_most(300):
                self._cluster.shutdown()
        finally:
            for process in self._processes:
                process.kill()


def _processes(node: Any) -> tuple[int, list[Path]]:
    """The node's raylet, and the folders in /proc of the processes that it has started."""
    raylet = node.all_processes["raylet"][0].process.pid
    return raylet, [path for path in Path("/proc").glob("[0-9]*") if _parent(path) == raylet]


def _title(process: Path) -> bytes:
    """What Ray says that a process does."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0
