"""Models on one or more devices, which take batches from one queue.

Each device has a thread that loads its model. Where a device computes several batches at the same
time, more threads run batches with that model; each of them is an executor. All executors of all
devices take from one queue, so a faster device takes more batches.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from zoofast import _core
from zoofast.errors import BackendError, ZoofastError
from zoofast.inference.backends import Model, TensorInfo, Times
from zoofast.inference.remote import MAX_IN_FLIGHT, RemoteModel, RemoteResult
from zoofast.inference.spec import ModelSpec
from zoofast.timing.timeline import Timeline

PREFETCH = 2  # batches per executor: the one that it computes, and the next
PREFETCH_OF_PROCESS = MAX_IN_FLIGHT + 1  # the requested batches, and the next
CLOSING_SECONDS = 5.0  # for a device's thread to end


@dataclass
class _Task:
    number: int  # of the batch
    slots: _core.Batch


@dataclass
class _Answer:
    number: int
    outputs: list[NDArray[Any]]


@dataclass
class _Failure:
    device: int
    error: BaseException


class _Executor(threading.Thread):
    """Runs tasks with a device's model until it takes None, which it puts back for the others."""

    def __init__(self, device: _Device, model: Model | RemoteModel, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.busy_since = 0.0  # monotonic seconds; 0: it waits for a task
        self._device, self._model = device, model

    def run(self) -> None:
        """The device's thread calls this too, since the thread that loaded a model must run it."""
        try:
            self._run_tasks()
        except BaseException as error:
            self._device.fail(error)

    def _run_tasks(self) -> None:
        ended_ns = time.monotonic_ns()  # of the batch before
        for task, result in self._results():
            timeline = self._device.timeline
            if timeline is not None:
                timeline.span(self.name, "wait", ended_ns, result.begin_ns, task.number)
                timeline.span(self.name, "infer", result.begin_ns, result.end_ns, task.number)
            self._device.answers.put(_Answer(task.number, result.outputs))
            ended_ns = result.end_ns
        self._device.tasks.put(None)

    def _results(self) -> Iterator[tuple[_Task, RemoteResult]]:
        if isinstance(self._model, RemoteModel):
            yield from self._results_of_process(self._model)
            return
        while (task := self._device.tasks.get()) is not None:
            begin = time.monotonic_ns()
            self.busy_since = begin / 1e9
            outputs = self._model.infer(task.slots.array)
            self.busy_since = 0.0
            yield task, RemoteResult(outputs, begin, time.monotonic_ns())

    def _results_of_process(self, model: RemoteModel) -> Iterator[tuple[_Task, RemoteResult]]:
        """Requests a batch from the process while the process runs the batch before."""
        in_flight: deque[_Task] = deque()
        more = True
        while True:
            while more and len(in_flight) < MAX_IN_FLIGHT:
                try:
                    task = self._device.tasks.get(block=not in_flight)
                except queue.Empty:
                    break
                if task is None:
                    more = False
                    break
                self.busy_since = self.busy_since or time.monotonic()
                model.begin(task.slots.array)
                in_flight.append(task)
            if not in_flight:
                return
            result = model.end()
            self.busy_since = time.monotonic() if len(in_flight) > 1 else 0.0
            yield in_flight.popleft(), result


class _Device(threading.Thread):
    """Loads the model, reports that it is loaded, and runs its executors."""

    def __init__(
        self,
        open_model: Callable[[], Model | RemoteModel],
        device: int,
        tasks: queue.SimpleQueue[_Task | None],
        answers: queue.SimpleQueue[_Answer | _Failure | _Device],
    ) -> None:
        super().__init__(name=f"device {device}", daemon=True)
        self.device = device
        self.tasks, self.answers = tasks, answers
        self.model: Model | RemoteModel | None = None
        self.executors: list[_Executor] = []
        self.times = Times()
        self.timeline: Timeline | None = None
        self._open_model = open_model
        self._may_begin = threading.Event()
        self._ring: Sequence[_core.Batch] = ()

    def begin(self, ring: Sequence[_core.Batch], timeline: Timeline | None) -> None:
        """Lets the device take tasks."""
        self._ring, self.timeline = ring, timeline
        self._may_begin.set()

    def fail(self, error: BaseException) -> None:
        self.answers.put(_Failure(self.device, error))

    def run(self) -> None:
        try:
            with self._open_model() as model:
                names = [self.name]
                if model.concurrency > 1:
                    names = [f"{self.name} executor {i}" for i in range(model.concurrency)]
                self.model = model
                self.executors = [_Executor(self, model, name) for name in names]
                self.answers.put(self)
                self._may_begin.wait()
                if isinstance(model, RemoteModel):
                    model.share(self._ring)
                for executor in self.executors[1:]:
                    executor.start()
                self.executors[0].run()
                for executor in self.executors[1:]:
                    executor.join()
                self.times = model.times()
        except BaseException as error:
            self.fail(error)


class Devices:
    """One model on one or more devices, each in a thread or process of its own.

    A context manager. Entering it waits until the model is loaded on all devices; `input` and
    `outputs` are known then. Raises BackendError with the device's number when the model cannot be
    loaded on a device, or when two devices take different inputs. timeout: seconds after which a
    device that has not answered counts as failed.
    """

    def __init__(self, specs: Sequence[ModelSpec], timeout: float) -> None:
        self._timeout = timeout
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[_Answer | _Failure | _Device] = queue.SimpleQueue()
        self.shared = any(spec.own_process for spec in specs)
        self._threads = [
            _Device(spec.open, spec.device, self._tasks, self._answers) for spec in specs
        ]
        self.input: TensorInfo
        self.outputs: list[TensorInfo]

    def __len__(self) -> int:
        return len(self._threads)

    @property
    def concurrency(self) -> int:
        """How many batches all devices compute at the same time."""
        return sum(len(thread.executors) for thread in self._threads)

    @property
    def prefetch(self) -> int:
        """How many batches all devices hold: those that they compute, and the next ones."""
        return sum(
            PREFETCH_OF_PROCESS
            if isinstance(thread.model, RemoteModel)
            else PREFETCH * len(thread.executors)
            for thread in self._threads
        )

    def __enter__(self) -> Devices:
        for thread in self._threads:
            thread.start()
        try:
            for _ in self._threads:
                answer = self._answers.get()
                if isinstance(answer, _Failure):
                    self._raise(answer)
            models = [thread.model for thread in self._threads]
            assert models[0] is not None
            self.input, self.outputs = models[0].input, models[0].outputs
            for thread in self._threads:
                assert thread.model is not None
                if thread.model.input != self.input:
                    raise BackendError(
                        f"device {thread.device}: takes {thread.model.input}, but device "
                        f"{self._threads[0].device} takes {self.input}"
                    )
        except BaseException:
            self._end()
            raise
        return self

    def begin(self, ring: Sequence[_core.Batch], timeline: Timeline | None = None) -> None:
        """Lets the devices work on the batches of `ring`."""
        for thread in self._threads:
            thread.begin(ring, timeline)

    def put(self, number: int, slots: _core.Batch) -> None:
        """Queues a batch for the first executor that is free."""
        self._tasks.put(_Task(number, slots))

    def get(self) -> tuple[int, list[NDArray[Any]]]:
        """Waits for an answer: a batch's number and its outputs. Raises BackendError."""
        while True:
            try:
                answer = self._answers.get(timeout=min(self._timeout, 1.0))
            except queue.Empty:
                self._check_timeouts()
                continue
            if isinstance(answer, _Failure):
                self._raise(answer)
            if isinstance(answer, _Answer):
                return answer.number, answer.outputs

    def finish(self) -> list[Times]:
        """Closes the models, after all answers were taken. Returns the times of each device."""
        self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        while not self._answers.empty():
            answer = self._answers.get()
            if isinstance(answer, _Failure):
                self._raise(answer)
        return [thread.times for thread in self._threads]

    def _check_timeouts(self) -> None:
        now = time.monotonic()
        for thread in self._threads:
            busy = (executor.busy_since for executor in thread.executors if executor.busy_since)
            since = min(busy, default=now)
            if now - since > self._timeout:
                raise BackendError(
                    f"device {thread.device}: has not answered for {now - since:,.0f} s; a slow "
                    "model may need a longer --device-timeout"
                )

    def _raise(self, failure: _Failure) -> None:
        error = failure.error
        if isinstance(error, ZoofastError):
            prefix = f"device {failure.device}: " if len(self) > 1 else ""
            raise type(error)(f"{prefix}{error}") from error
        raise error

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _end(self) -> None:
        while True:  # drop the tasks that no executor has taken
            try:
                self._tasks.get_nowait()
            except queue.Empty:
                break
        self._tasks.put(None)
        for thread in self._threads:
            thread.begin((), None)
        until = time.monotonic() + CLOSING_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive() and isinstance(thread.model, RemoteModel):
                thread.model.kill()
                thread.join()
