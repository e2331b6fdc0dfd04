"""Runs one job on each of several devices, each in a process of its own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from zoofast.errors import ZoofastError
from zoofast.inference.child import Child, end_children, wait_for_end
from zoofast.inference.job import InferJob
from zoofast.inference.workers import DeviceRun, Ended, Message, Workers, run_job


class Processes(Workers):
    """Processes that are ended by SIGTERM, and later by SIGKILL."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._children: list[Child] = []

    def _start(self, index: int) -> None:
        self._children.append(Child(_run_one, self._jobs[index]))

    def _receive(self, seconds: float) -> Iterator[tuple[int, Message]]:
        running = [i for i in range(len(self._jobs)) if i not in self._runs]
        connections = [self._children[i].connection for i in running]
        for ready in wait(connections, seconds):
            index = running[connections.index(ready)]  # type: ignore[arg-type]
            if index not in self._runs:
                yield index, self._message_of(index)

    def _message_of(self, index: int) -> Message:
        child, spec = self._children[index], self._jobs[index].spec
        try:
            message: Message = child.connection.recv()
        except (EOFError, OSError):
            end = child.describe_end()
            return Ended(f"{spec.model}: the process of device {spec.device} {end}")
        if isinstance(message, DeviceRun):
            child.close()
        return message

    def _let_go_on(self, index: int) -> None:
        with suppress(OSError):  # it has ended; the next _receive finds out
            self._children[index].connection.send(True)

    def _give_up(self, index: int) -> None:
        self._children[index].signal(signal.SIGTERM)  # _end_all kills it if this does not end it
        self._children[index].close()

    def _wait_for_end(self, indices: Sequence[int]) -> None:
        wait_for_end([self._children[i] for i in indices])

    def _end_all(self) -> None:
        end_children(self._children)
        for child in self._children:
            child.close()


def _run_one(connection: Connection, job: InferJob) -> None:
    """The device's process: sends messages, the last of them a DeviceRun or a ZoofastError."""
    signal.signal(signal.SIGTERM, _end_by_signal)

    def ask(message: Any) -> None:
        connection.send(message)
        connection.recv()

    message: DeviceRun | ZoofastError
    try:
        message = run_job(job, connection.send, ask)
    except ZoofastError as error:
        message = error
    # Everything is written. Python would print a traceback of a handler that runs at its exit.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection.send(message)


def _end_by_signal(*_: Any) -> None:
    """Ends the process, which writes the results that are computed first."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal would interrupt the writing
    sys.exit(-signal.SIGTERM)
