"""A connection to a Ray cluster: its nodes, an actor on each, calls and their results."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from zoofast.base.extras import needs
from zoofast.base.text import first_line
from zoofast.cluster.work import EvalWork, PrepWork, Worker
from zoofast.errors import BackendError

LOCAL = "local"  # as an address: a cluster of this machine alone, for this run
OWN = "auto"  # the cluster that this machine is a node of
CONNECT_SECONDS = 5.0  # for a host to answer that something listens
MAX_PORT = 65_535


@dataclass(frozen=True)
class Node:
    """A node of the cluster, and what Ray counts there."""

    id: str
    name: str
    cpus: int
    npus: int


class LostError(Exception):
    """The process on a node, or the node itself, has ended."""


class FailedError(Exception):
    """A call has raised an exception that nobody expected."""


class RayCluster:
    """What the driver needs of Ray. `connect` makes one."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def nodes(self) -> list[Node]:
        """The nodes that are alive and have CPUs."""
        alive = []
        for each in self._ray.nodes():
            resources = each.get("Resources", {})
            if each.get("Alive") and resources.get("CPU", 0) >= 1:
                name = f"{each.get('NodeManagerHostname')} ({each['NodeID'][:8]})"
                cpus, npus = int(resources["CPU"]), int(resources.get("NPU", 0))
                alive.append(Node(each["NodeID"], name, cpus, npus))
        return alive

    def start(self, node: Node, work: EvalWork | PrepWork, cpus: int) -> Any:
        """A Worker in a process of its own on `node`."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        npus = node.npus if isinstance(work, EvalWork) else 0
        actor = self._ray.remote(Worker).options(
            num_cpus=cpus,
            resources={"NPU": npus} if npus else None,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            max_restarts=0,
            max_task_retries=0,
        )
        return actor.remote(work, cpus, npus)

    def call(self, actor: Any, method: str, *arguments: Any) -> Any:
        """Begins a call of the actor's method; returns what `wait` and `get` take."""
        return getattr(actor, method).remote(*arguments)

    def wait(self, calls: Sequence[Any], seconds: float) -> list[Any]:
        """The calls that have ended, in the order of `calls`; waits for one, but not longer than
        `seconds`."""
        if not calls:
            time.sleep(seconds)
            return []
        # Ray waits for a number of calls: for all that have ended, it must not wait.
        done, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        if not done:
            done, _ = self._ray.wait(list(calls), num_returns=1, timeout=seconds)
        return list(done)

    def get(self, call: Any) -> Any:
        """What a call has returned. Raises LostError; FailedError."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(call)
        except errors.RayTaskError as error:
            raise FailedError(first_line(error.cause or error)) from error
        except errors.RayActorError as error:
            lines = str(error).splitlines() or [""]
            if "creation task" in lines[0]:  # such as for a package that is missing there
                raise LostError(
                    f"its process cannot begin ({lines[-1]}); install the zoofast and the Ray of "
                    "this machine there"
                ) from error
            raise LostError(f"its process has ended ({lines[0]})") from error
        except errors.ActorUnschedulableError as error:
            raise LostError(
                "no process can start there: the node is gone, or has too few free CPUs or NPUs"
            ) from error
        except errors.RayError as error:  # such as a result that was lost with its node
            raise LostError(first_line(error)) from error

    def put(self, data: NDArray[np.uint8]) -> Any:
        """Puts bytes where every node can get them. Raises BackendError."""
        try:
            return self._ray.put(data)
        except Exception as error:  # ObjectStoreFullError, OutOfDiskError; MemoryError, OSError
            raise BackendError(
                f"Ray's object store has no space for the model's {len(data):,} bytes "
                f"({first_line(error)}); put the model on storage that all nodes share, or start "
                "Ray with a larger --object-store-memory"
            ) from error

    def stop(self, actor: Any) -> None:
        """Ends the actor's process."""
        with suppress(Exception):  # it may have ended
            self._ray.kill(actor)


@contextmanager
def connect(address: str) -> Iterator[RayCluster]:
    """A connection to the cluster at `address`, which ends with the block.

    address: as ray.init takes it: OWN, "HOST:6379", "ray://HOST:10001", or LOCAL. Raises
    BackendError.
    """
    _check_address(address)
    with needs("ray", BackendError):
        import ray
        import ray.exceptions
    try:
        with _kept_handler(signal.SIGTERM):
            ray.init(
                address,
                log_to_driver=False,
                configure_logging=False,
                include_dashboard=False if address == LOCAL else None,
            )
    except Exception as error:  # ConnectionError, ValueError, RuntimeError and more
        where = "on this machine" if address in (OWN, LOCAL) else f"at {address}"
        raise BackendError(
            f"no Ray cluster answers {where} ({first_line(error)}); start one with "
            "`ray start --head`, or give its address: --ray ADDRESS"
        ) from error
    try:
        yield RayCluster(ray)
    finally:
        ray.shutdown()


@contextmanager
def _kept_handler(number: signal.Signals) -> Iterator[None]:
    """Sets this process's handler for the signal again after the block. Ray's ends the process
    with SystemExit."""
    handler = signal.getsignal(number)
    try:
        yield
    finally:
        # Only the main thread can set handlers, so that Ray sets none in another thread.
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, handler)


def _check_address(address: str) -> None:
    """Raises BackendError for an address where nothing listens: Ray would try for many minutes."""
    name = f"--ray {address}"
    if address == OWN:
        address, name = _own_address()
    if address == LOCAL:
        return
    try:
        netloc = urlsplit(address if "://" in address else f"//{address}").netloc
    except ValueError:
        return  # Ray says what an address is
    host, _, port = netloc.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")  # of an IPv6 address
    if not (host and port.isdecimal()):
        return
    if len(port) > len(str(MAX_PORT)) or int(port) > MAX_PORT:
        raise BackendError(f"{name}: there is no port {port}; ports end at {MAX_PORT}")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BackendError(f"{name}: the host {host} was not found: {reason}") from error
    except OSError as error:
        raise BackendError(
            f"{name}: no Ray cluster answers at {host}, port {port} ({error.strerror or error}); "
            "start one with `ray start --head`, or give its address: --ray ADDRESS"
        ) from error


def _own_address() -> tuple[str, str]:
    """The address that Ray takes for OWN, "" if it is not known; and where it is from."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address, f"RAY_ADDRESS={address}"
    # A head that was killed leaves a file with its address. How Ray finds the file, and the
    # processes of clusters without one, is not of its public interface.
    with suppress(Exception):
        from ray._private.services import get_ray_address_from_environment

        address = str(get_ray_address_from_environment(OWN, None))
        return address, f"{address}, the cluster that was last started here"
    return "", OWN
