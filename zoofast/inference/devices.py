"""Models on one or more devices, which take batches from one queue.

Each device has a thread that loads its model. Where a device computes several batches at the same
time, more threads run batches with that model; each of them is an executor. All executors of all
devices take from one queue, so a faster device takes more batches.

A device that fails during a run is lost: the other devices compute its batches. The memory of a
batch is not reused before the batch has an answer, so its tensors are still there.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from zoofast import _core
from zoofast.errors import BackendError, ZoofastError
from zoofast.inference.backends import (
    Allocate,
    Model,
    PinningModel,
    QueuedModel,
    Result,
    TensorInfo,
    Times,
    check_one_input,
)
from zoofast.inference.child import CLOSING_SECONDS
from zoofast.inference.lateness import Lateness
from zoofast.inference.remote import RemoteModel, kill_models
from zoofast.inference.spec import ModelSpec
from zoofast.timing.timeline import Timeline

PREFETCH = 2  # batches per executor: the one that it computes, and the next
JOIN_SECONDS = 0.5  # for a thread whose process was killed; a model in this process may hang on


@dataclass(eq=False)
class _Task:
    number: int  # of the batch
    slots: _core.Batch
    rows: int  # of the batch that hold an image


@dataclass
class _Answer:
    number: int
    outputs: list[NDArray[Any]]


@dataclass
class _Loaded:
    device: _Device


@dataclass
class _Failure:
    device: _Device
    error: BaseException


_Event = _Answer | _Loaded | _Failure


class _TaskQueue:
    """The tasks of all devices, and which device works on which task.

    A SimpleQueue wakes a thread in C. A condition of `threading` would take so much longer that the
    host prepares a few percent fewer images.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()  # None: no more come
        self._lock = threading.Lock()  # guards the two below
        self._taken: dict[_Device, list[_Task]] = {}
        self._lost: set[_Device] = set()

    def put(self, task: _Task) -> None:
        self._waiting.put(task)

    def take(self, device: _Device, block: bool = True) -> _Task | None:
        """The next task; None when no more come, or when the device is lost.

        Raises queue.Empty when there is none yet and `block` is false.
        """
        task = self._waiting.get(block)
        if task is not None:
            with self._lock:
                if device not in self._lost:
                    self._taken.setdefault(device, []).append(task)
                    return task
        self._waiting.put(task)  # for the other executors
        return None

    def complete(self, device: _Device, task: _Task) -> bool:
        """The device has the answer of a task. False: it is lost, and others have the task."""
        with self._lock:
            if device in self._lost:
                return False
            self._taken[device].remove(task)
            return True

    def lose(self, device: _Device) -> None:
        """Gives the tasks that the device has taken to the others."""
        with self._lock:
            self._lost.add(device)
            for task in self._taken.pop(device, []):
                self._waiting.put(task)

    def close(self, drop: bool = False) -> None:
        """No more tasks come. drop: those that no device has taken are dropped."""
        with suppress(queue.Empty):
            while drop:
                self._waiting.get_nowait()
        self._waiting.put(None)


class _Executor(threading.Thread):
    """Runs tasks with a device's model until there are no more."""

    def __init__(self, device: _Device, model: Model | QueuedModel, name: str) -> None:
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
            if not self._device.tasks.complete(self._device, task):
                return
            timeline = self._device.timeline
            if timeline is not None:
                timeline.span(self.name, "wait", ended_ns, result.begin_ns, task.number)
                timeline.span(self.name, "infer", result.begin_ns, result.end_ns, task.number)
            self._device.events.put(_Answer(task.number, result.outputs))
            ended_ns = result.end_ns

    def _results(self) -> Iterator[tuple[_Task, Result]]:
        if isinstance(self._model, QueuedModel):
            yield from self._queued_results(self._model)
            return
        while (task := self._device.tasks.take(self._device)) is not None:
            begin = time.monotonic_ns()
            self.busy_since = begin / 1e9
            outputs = self._model.infer(task.slots.array)
            self.busy_since = 0.0
            yield task, Result(outputs, begin, time.monotonic_ns())

    def _queued_results(self, model: QueuedModel) -> Iterator[tuple[_Task, Result]]:
        """Queues batches while the model runs the batch before."""
        in_flight: deque[_Task] = deque()
        more = True
        while True:
            while more and len(in_flight) < model.max_in_flight:
                try:
                    task = self._device.tasks.take(self._device, block=not in_flight)
                except queue.Empty:
                    break
                if task is None:
                    more = False
                    break
                self.busy_since = self.busy_since or time.monotonic()
                model.begin(task.slots.array, rows=task.rows)
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
        spec: ModelSpec,
        tasks: _TaskQueue,
        events: queue.SimpleQueue[_Event],
    ) -> None:
        super().__init__(name=f"device {spec.device}", daemon=True)
        self.number, self.title = spec.device, spec.model
        self.tasks, self.events = tasks, events
        self.model: Model | QueuedModel | None = None
        self.executors: list[_Executor] = []
        self.prefetch = 0  # batches that the device holds
        self.times = Times()
        self.timeline: Timeline | None = None
        self.loaded = False
        self._open_model = spec.open
        self._may_begin = threading.Event()
        self._ring: Sequence[_core.Batch] = ()
        self.killed = False  # its process, if it has one, must end

    def begin(self, ring: Sequence[_core.Batch], timeline: Timeline | None) -> None:
        """Lets the device take tasks."""
        self._ring, self.timeline = ring, timeline
        self._may_begin.set()

    def fail(self, error: BaseException) -> None:
        self.events.put(_Failure(self, error))

    def kill(self) -> None:
        """Ends what waits for the device, in bounded time. Another Model cannot be ended."""
        self.killed = True
        if isinstance(self.model, QueuedModel):
            self.model.kill()

    def busy_since(self) -> float | None:
        """Since when the device has worked on a batch, in monotonic seconds; None: it waits."""
        # An executor may end its batch meanwhile, so its time is read once.
        return min((since for each in self.executors if (since := each.busy_since)), default=None)

    def run(self) -> None:
        try:
            self.model = self._open_model()
            if self.killed:
                self.kill()
            with self.model as model:
                names = [self.name]
                if model.concurrency > 1:
                    names = [f"{self.name} executor {i}" for i in range(model.concurrency)]
                self.executors = [_Executor(self, model, name) for name in names]
                # Asked for with every batch, so the slow look at the model's type is made once.
                self.prefetch = (
                    model.max_in_flight + 1  # the queued batches, and the next
                    if isinstance(model, QueuedModel)
                    else PREFETCH * len(names)
                )
                self.loaded = True
                self.events.put(_Loaded(self))
                self._may_begin.wait()
                if isinstance(model, QueuedModel):
                    model.share(self._ring)
                for executor in self.executors[1:]:
                    executor.start()
                self.executors[0].run()
                for executor in self.executors[1:]:
                    executor.join()
                self.times = model.times()
        except BaseException as error:
            self.fail(error)


def joined_reasons(lost: Mapping[int, str], has_begun: bool) -> str:
    """Why all devices are lost, as one line. lost: device -> reason. What all devices say before
    the run has begun, such as that there is no such model, is said once."""
    reasons = {why.removeprefix(f"device {number}: ") for number, why in lost.items()}
    return reasons.pop() if len(reasons) == 1 and not has_begun else "; ".join(lost.values())


class Devices:
    """One model on one or more devices, each in a thread or process of its own.

    A context manager. Entering it waits until the model is loaded on all devices that are not lost;
    `input` and `outputs` are known then. Raises BackendError when two devices take different
    inputs.

    timeout: seconds that a device may take for a batch, see Lateness. A device that takes longer,
    that cannot load the model, or that fails during the run, is lost; when no device is left,
    BackendError is raised. lost: number of a lost device -> the reason.
    """

    def __init__(self, specs: Sequence[ModelSpec], timeout: float) -> None:
        self._timeout = timeout
        self._tasks = _TaskQueue()
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._has_begun = False
        self._looked = 0.0  # when the devices were last looked at
        self._lateness = Lateness(timeout)
        self.shared = any(spec.own_process for spec in specs)
        self._devices = [_Device(spec, self._tasks, self._events) for spec in specs]
        self._in_use = list(self._devices)
        self.lost: dict[int, str] = {}
        self.input: TensorInfo
        self.outputs: list[TensorInfo]

    def __len__(self) -> int:
        return len(self._devices)

    @property
    def concurrency(self) -> int:
        """How many batches all devices compute at the same time."""
        return sum(len(device.executors) for device in self._in_use)

    @property
    def prefetch(self) -> int:
        """How many batches all devices hold: those that they compute, and the next ones."""
        return sum(device.prefetch for device in self._in_use)

    def __enter__(self) -> Devices:
        self._opened = time.monotonic()
        for device in self._devices:
            device.start()
        try:
            while not all(device.loaded for device in self._in_use):
                event = self._next_event()
                if isinstance(event, _Failure) and event.device in self._in_use:
                    self._lose_failed(event)
                    self._check_any_left()
            first = self._in_use[0]
            assert first.model is not None
            self.input, self.outputs = first.model.input, first.model.outputs
            check_one_input(first.title, [each.name for each in first.model.inputs])
            for device in self._in_use:
                assert device.model is not None
                if device.model.input != self.input:
                    raise BackendError(
                        f"device {device.number}: takes {device.model.input}, but device "
                        f"{first.number} takes {self.input}"
                    )
        except BaseException:
            self._end()
            raise
        return self

    @property
    def host_memory(self) -> Allocate | None:
        """Allocates memory that the devices copy directly; None if they need no such memory."""
        model = self._in_use[0].model
        return model.host_memory if isinstance(model, PinningModel) else None

    def begin(self, ring: Sequence[_core.Batch], timeline: Timeline | None = None) -> None:
        """Lets the devices work on the batches of `ring`."""
        self._has_begun = True
        for device in self._devices:
            device.begin(ring, timeline)

    def put(self, number: int, slots: _core.Batch, rows: int) -> None:
        """Queues a batch, of which `rows` rows hold an image, for the first executor that is
        free."""
        self._tasks.put(_Task(number, slots, rows))

    def get(self) -> tuple[int, list[NDArray[Any]]]:
        """Waits for an answer: a batch's number and its outputs. Raises BackendError."""
        while True:
            event = self._next_event()
            if isinstance(event, _Answer):
                return event.number, event.outputs
            if isinstance(event, _Failure) and event.device in self._in_use:
                self._lose_failed(event)
                self._check_any_left()

    def finish(self) -> list[Times]:
        """Closes the models, after all answers were taken. Returns the times of each device.

        A device that cannot be closed is lost.
        """
        self._tasks.close()
        deadline = time.monotonic() + self._timeout
        for device in list(self._in_use):
            device.join(max(0.0, deadline - time.monotonic()))
            if device.is_alive():
                self._lose(device, f"{device.name} has not closed within {self._timeout:,.0f} s")
        while not self._events.empty():
            event = self._events.get()
            if isinstance(event, _Failure) and event.device in self._in_use:
                self._lose_failed(event)
        return [device.times for device in self._devices]

    def _next_event(self) -> _Event | None:
        """Waits for an event, but not long; looks at the devices' clocks."""
        seconds = self._lateness.look_seconds
        now = time.monotonic()
        if now - self._looked >= seconds:
            self._looked = now
            self._lose_late(now)
        try:
            return self._events.get(timeout=seconds)
        except queue.Empty:
            return None

    def _lose_late(self, now: float) -> None:
        for device in list(self._in_use):
            since = device.busy_since() if device.loaded else self._opened
            reason = self._lateness.reason(device, device.name, since, now, device.loaded)
            if reason is not None:
                self._lose(device, reason)
                self._check_any_left()

    def _lose_failed(self, failure: _Failure) -> None:
        """Another error than a BackendError is no fault of the device, and ends the run."""
        if not isinstance(failure.error, BackendError):
            self._raise(failure)
        self._lose(failure.device, f"{self._prefix(failure.device)}{failure.error}")

    def _lose(self, device: _Device, reason: str) -> None:
        self._in_use.remove(device)
        self.lost[device.number] = reason
        self._tasks.lose(device)
        # Ending a process may take seconds, in which the other devices need this thread.
        threading.Thread(target=device.kill, name=f"end {device.name}", daemon=True).start()

    def _check_any_left(self) -> None:
        if not self._in_use:
            raise BackendError(joined_reasons(self.lost, self._has_begun))

    def _prefix(self, device: _Device) -> str:
        return f"{device.name}: " if len(self) > 1 else ""

    def _raise(self, failure: _Failure) -> None:
        error = failure.error
        if isinstance(error, ZoofastError):
            raise type(error)(f"{self._prefix(failure.device)}{error}") from error
        raise error

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _end(self) -> None:
        """Ends all threads and processes of devices, in bounded time."""
        self._tasks.close(drop=True)
        for device in self._devices:
            device.begin((), None)
        try:
            deadline = time.monotonic() + CLOSING_SECONDS
            for device in self._in_use:
                device.join(max(0.0, deadline - time.monotonic()))
        finally:
            alive = [device for device in self._devices if device.is_alive()]
            for device in alive:
                device.killed = True
            kill_models([device.model for device in alive if isinstance(device.model, RemoteModel)])
            for device in alive:
                if isinstance(device.model, QueuedModel) and not isinstance(
                    device.model, RemoteModel
                ):
                    device.model.kill()
            for device in alive:
                device.join(JOIN_SECONDS)
