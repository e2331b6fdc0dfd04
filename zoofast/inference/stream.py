"""Images to logits with nothing on disk: the loader's ring, devices beside it, answers in order.

    loader ──► ring of batches ──► one queue ──► devices' lanes ──► answers, put in order
       ▲                                                                 │
       └────────────────────── batch given back ◄────────────────────────┘

The main thread moves batches and does nothing that takes long. Each device has a thread, or one a
lane where it can compute several batches at once. All take from one queue, so that a faster one
gets more. Memory is the ring: no more batches are ever made.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast import _core
from zoofast.base.cpus import usable_cpus
from zoofast.errors import BackendError, ZoofastError
from zoofast.inference.backends import KEEP_GIL, Model, TensorInfo, Times, backend_of, open_backend
from zoofast.inference.remote import FLYING, Ran, RemoteModel
from zoofast.preprocess.loader import Loader, Prepared
from zoofast.timing.timeline import Timeline

DEFAULT_BATCH = 4  # of models that take any; what more of them compute leaves the caches
MOST_LANES = 16  # each takes as much memory as a batch's activations
AHEAD = 2  # batches a lane: the one that it computes, and the next
AHEAD_OF_PROCESS = FLYING + 1  # what a process was asked for, and the next
# The loader has at least so many batches of the ring, and, where a device beside this host must not
# wait for it, so many images: threads that share a busy host's cores are not woken at once.
FILLING_BATCHES, FILLING_IMAGES = 2, 48
CLOSING_SECONDS = 5.0  # for a device's thread to end


def ring_depth(batch: int, ahead: int, on_host: bool = False) -> int:
    """How many batches of that size keep devices and loader busy.

    ahead: batches that the devices have at a time. on_host: they are this host's own cores, which
    always have something to do; a smaller ring leaves them more of the caches.
    """
    filling = FILLING_BATCHES if on_host else max(FILLING_BATCHES, -(-FILLING_IMAGES // batch))
    return ahead + filling


@dataclass(frozen=True)
class ModelSpec:
    """A model on one device; as zoofast.inference.backends.open_backend takes it."""

    model: str
    backend: str | None = None
    device: int = 0
    batch: int | None = None
    default_batch: int = 1
    provider: str | None = None

    @property
    def own_process(self) -> bool:
        return backend_of(self.model, self.backend) in KEEP_GIL

    def open(self) -> Model:
        options: dict[str, Any] = {
            "backend": self.backend,
            "device": self.device,
            "batch": self.batch,
            "default_batch": self.default_batch,
            "provider": self.provider,
        }
        if self.own_process:
            return RemoteModel(self.model, **options)
        return open_backend(self.model, lanes=min(usable_cpus(), MOST_LANES), **options)


@dataclass
class _Job:
    number: int  # of the batch
    slots: _core.Batch


@dataclass
class _Answer:
    number: int
    outputs: list[NDArray[Any]]


@dataclass
class _Failed:
    device: int
    error: BaseException


class _Lane(threading.Thread):
    """Answers jobs with a device's model until None comes, which it leaves for the others."""

    def __init__(self, device: _Device, model: Model, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.busy_since = 0.0  # monotonic seconds; 0: it waits
        self._device, self._model = device, model

    def run(self) -> None:
        """Also called directly: a model without lanes is run by the thread that loaded it."""
        try:
            self._serve()
        except BaseException as error:
            self._device.fail(error)

    def _serve(self) -> None:
        ended = time.monotonic_ns()  # the batch before
        for job, ran in self._runs():
            timeline = self._device.timeline
            if timeline is not None:
                timeline.span(self.name, "wait", ended, ran.begin_ns, job.number)
                timeline.span(self.name, "infer", ran.begin_ns, ran.end_ns, job.number)
            self._device.answers.put(_Answer(job.number, ran.outputs))
            ended = ran.end_ns
        self._device.jobs.put(None)

    def _runs(self) -> Iterator[tuple[_Job, Ran]]:
        if isinstance(self._model, RemoteModel):
            yield from self._runs_ahead(self._model)
            return
        while (job := self._device.jobs.get()) is not None:
            begin = time.monotonic_ns()
            self.busy_since = begin / 1e9
            outputs = self._model.infer(job.slots.array)
            self.busy_since = 0.0
            yield job, Ran(outputs, begin, time.monotonic_ns())

    def _runs_ahead(self, model: RemoteModel) -> Iterator[tuple[_Job, Ran]]:
        """The process is asked for a batch while it runs the one before."""
        flying: deque[_Job] = deque()
        more = True
        while True:
            while more and len(flying) < FLYING:
                try:
                    job = self._device.jobs.get(block=not flying)
                except queue.Empty:
                    break
                if job is None:
                    more = False
                    break
                self.busy_since = self.busy_since or time.monotonic()
                model.begin(job.slots.array)
                flying.append(job)
            if not flying:
                return
            ran = model.end()
            self.busy_since = time.monotonic() if len(flying) > 1 else 0.0
            yield flying.popleft(), ran


class _Device(threading.Thread):
    """Opens the model, says that it is ready, and runs its lanes."""

    def __init__(
        self,
        open_model: Callable[[], Model],
        device: int,
        jobs: queue.SimpleQueue[_Job | None],
        answers: queue.SimpleQueue[_Answer | _Failed | _Device],
    ) -> None:
        super().__init__(name=f"device {device}", daemon=True)
        self.device = device
        self.jobs, self.answers = jobs, answers
        self.model: Model | None = None
        self.lanes: list[_Lane] = []
        self.times = Times()
        self.timeline: Timeline | None = None
        self._open = open_model
        self._begin = threading.Event()
        self._ring: Sequence[_core.Batch] = ()

    def begin(self, ring: Sequence[_core.Batch], timeline: Timeline | None) -> None:
        """Lets it take jobs."""
        self._ring, self.timeline = ring, timeline
        self._begin.set()

    def fail(self, error: BaseException) -> None:
        self.answers.put(_Failed(self.device, error))

    def run(self) -> None:
        try:
            with self._open() as model:
                names = [self.name]
                if model.lanes > 1:
                    names = [f"{self.name} lane {i}" for i in range(model.lanes)]
                self.model, self.lanes = model, [_Lane(self, model, name) for name in names]
                self.answers.put(self)
                self._begin.wait()
                if isinstance(model, RemoteModel):
                    model.share(self._ring)
                for lane in self.lanes[1:]:
                    lane.start()
                self.lanes[0].run()
                for lane in self.lanes[1:]:
                    lane.join()
                self.times = model.times()
        except BaseException as error:
            self.fail(error)


@dataclass
class Streamed:
    """A batch that is through. logits: (n, classes) float32, a row for each of prepared.names;
    the tensors themselves are gone."""

    number: int
    prepared: Prepared
    logits: NDArray[np.float32]


class Devices:
    """Models on one or more devices, each in a thread (or process) of its own. A context manager.

    Entering waits until all are loaded; `input` and `outputs` are then known. Raises BackendError
    with the device's number when one cannot be loaded, or when they differ.
    timeout: seconds after which a device that has not answered is given up.
    """

    def __init__(self, specs: Sequence[ModelSpec], timeout: float) -> None:
        self._timeout = timeout
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[_Answer | _Failed | _Device] = queue.SimpleQueue()
        self._many = len(specs) > 1
        self.shared = any(spec.own_process for spec in specs)
        self._threads = [
            _Device(spec.open, spec.device, self._jobs, self._answers) for spec in specs
        ]
        self.input: TensorInfo
        self.outputs: list[TensorInfo]

    def __len__(self) -> int:
        return len(self._threads)

    @property
    def lanes(self) -> int:
        """How many batches they compute at once."""
        return sum(len(thread.lanes) for thread in self._threads)

    @property
    def ahead(self) -> int:
        """How many batches they have at a time: what they compute, and what is next."""
        return sum(
            AHEAD_OF_PROCESS if isinstance(thread.model, RemoteModel) else AHEAD * len(thread.lanes)
            for thread in self._threads
        )

    def __enter__(self) -> Devices:
        for thread in self._threads:
            thread.start()
        try:
            for _ in self._threads:
                answer = self._answers.get()
                if isinstance(answer, _Failed):
                    self._fail(answer)
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
        """Lets the devices work on batches of `ring`."""
        for thread in self._threads:
            thread.begin(ring, timeline)

    def put(self, number: int, slots: _core.Batch) -> None:
        """Queues a batch for whichever lane is free first."""
        self._jobs.put(_Job(number, slots))

    def get(self) -> tuple[int, list[NDArray[Any]]]:
        """Waits for an answer: the batch's number and its outputs. Raises BackendError."""
        while True:
            try:
                answer = self._answers.get(timeout=min(self._timeout, 1.0))
            except queue.Empty:
                self._check_time()
                continue
            if isinstance(answer, _Failed):
                self._fail(answer)
            if isinstance(answer, _Answer):
                return answer.number, answer.outputs

    def finish(self) -> list[Times]:
        """Closes the models after all answers are in; the times of each device."""
        self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        while not self._answers.empty():
            answer = self._answers.get()
            if isinstance(answer, _Failed):
                self._fail(answer)
        return [thread.times for thread in self._threads]

    def _check_time(self) -> None:
        now = time.monotonic()
        for thread in self._threads:
            since = min((lane.busy_since for lane in thread.lanes if lane.busy_since), default=now)
            if now - since > self._timeout:
                raise BackendError(
                    f"device {thread.device}: has not answered for {now - since:,.0f} s; a slow "
                    "model may need a longer --device-timeout"
                )

    def _fail(self, failed: _Failed) -> None:
        error = failed.error
        if isinstance(error, ZoofastError):
            where = f"device {failed.device}: " if self._many else ""
            raise type(error)(f"{where}{error}") from error
        raise error

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _end(self) -> None:
        while True:  # what no device has begun is dropped
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        self._jobs.put(None)
        for thread in self._threads:
            thread.begin((), None)
        until = time.monotonic() + CLOSING_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive() and isinstance(thread.model, RemoteModel):
                thread.model.kill()
                thread.join()


def stream(
    loader: Loader, devices: Devices, output_index: int = 0, timeline: Timeline | None = None
) -> Iterator[Streamed]:
    """Runs all that `loader` has through `devices`; batches come in source order.

    The loader's batches are of the model's size; its ring should be `ring_depth` deep. A batch
    that is short, because it is the last or because images failed, is filled up with its first
    image for the device, and cut. Raises what the loader raises, and BackendError.
    """
    devices.begin(loader.ring, timeline)
    flying: dict[int, Prepared] = {}
    through: dict[int, Streamed] = {}  # until those before them are
    taken = yielded = 0
    most = min(devices.ahead, len(loader.ring))  # at a time with devices
    more = True
    while more or flying or through:
        while more and len(flying) < most:
            asked = time.monotonic_ns()
            prepared = loader.take()
            if prepared is None:
                more = False
                break
            if timeline is not None:
                timeline.prepared(taken, prepared, asked)
            if prepared.names:
                array = prepared.slots.array
                array[len(prepared.names) :] = array[0]
                flying[taken] = prepared
                devices.put(taken, prepared.slots)
            else:
                loader.give_back(prepared)
                classes = int(np.prod(devices.outputs[output_index].shape[1:]))
                through[taken] = Streamed(taken, prepared, np.empty((0, classes), np.float32))
            taken += 1
        if flying and yielded not in through:
            number, outputs = devices.get()
            prepared = flying.pop(number)
            loader.give_back(prepared)
            rows = outputs[output_index][: len(prepared.names)]
            logits = np.ascontiguousarray(rows.reshape(len(rows), -1), np.float32)
            through[number] = Streamed(number, prepared, logits)
        while yielded in through:
            streamed = through.pop(yielded)
            yield streamed
            if timeline is not None:
                images = len(streamed.prepared.names)
                timeline.finish(yielded, images, time.monotonic_ns())
            yielded += 1
