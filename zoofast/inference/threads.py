"""Runs one job on each of several devices, each in a thread of this process.

For backends that let go of the GIL while they wait. No thread can be killed: one that is to end
finds out at its next message, and a model that waits for a device is abandoned.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from zoofast.inference.backends import Model, QueuedModel
from zoofast.inference.child import CLOSING_SECONDS, TERMINATE_SECONDS
from zoofast.inference.job import InferJob
from zoofast.inference.workers import Message, Workers, run_job

ABANDON_SECONDS = 3.0  # in which an abandoned model raises; a call that loads a model may hang on


class _Stopped(BaseException):
    """The thread is to end."""


class _JobThread(threading.Thread):
    def __init__(
        self, index: int, job: InferJob, messages: queue.SimpleQueue[tuple[int, Message]]
    ) -> None:
        super().__init__(name=f"device {job.spec.device}", daemon=True)
        self._index, self._job, self._messages = index, job, messages
        self._may_go_on = threading.Semaphore(0)
        self._model: Model | None = None
        self._stopped = self._abandoned = False

    def run(self) -> None:
        try:
            message: Message = run_job(self._job, self._send, self._ask, self._opened)
        except _Stopped:
            return
        except BaseException as error:
            message = error
        self._messages.put((self._index, message))

    def _send(self, message: Message) -> None:
        self._messages.put((self._index, message))
        if self._stopped:
            raise _Stopped

    def _ask(self, message: Message) -> None:
        self._send(message)
        self._may_go_on.acquire()
        if self._stopped:
            raise _Stopped

    def _opened(self, model: Model) -> None:
        self._model = model
        if self._abandoned:
            self.abandon()

    def let_go_on(self) -> None:
        self._may_go_on.release()

    def stop(self) -> None:
        """The thread ends after what it does now, and writes what is computed."""
        self._stopped = True
        self._may_go_on.release()

    def abandon(self) -> None:
        """What waits for the device raises soon."""
        self._abandoned = True
        self.stop()
        if isinstance(self._model, QueuedModel):
            self._model.kill()


class Threads(Workers):
    """Threads of this process."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._threads: list[_JobThread] = []
        self._messages: queue.SimpleQueue[tuple[int, Message]] = queue.SimpleQueue()

    def _start(self, index: int) -> None:
        self._threads.append(_JobThread(index, self._jobs[index], self._messages))
        self._threads[-1].start()

    def _receive(self, seconds: float) -> Iterator[tuple[int, Message]]:
        try:
            index, message = self._messages.get(timeout=seconds)
        except queue.Empty:
            return
        if index not in self._runs:
            yield index, message

    def _let_go_on(self, index: int) -> None:
        self._threads[index].let_go_on()

    def _give_up(self, index: int) -> None:
        self._threads[index].abandon()

    def _wait_for_end(self, indices: Sequence[int]) -> None:
        _join([self._threads[i] for i in indices], CLOSING_SECONDS)

    def _end_all(self) -> None:
        for thread in self._threads:
            thread.stop()
        try:
            _join(self._threads, TERMINATE_SECONDS)
        finally:
            for thread in self._threads:
                if thread.is_alive():
                    thread.abandon()
            _join(self._threads, ABANDON_SECONDS)


def _join(threads: Sequence[_JobThread], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
