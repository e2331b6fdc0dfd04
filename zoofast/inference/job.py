"""What one device does in a run of `zoofast infer` or `zoofast bench`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.names import stem
from zoofast.errors import SourceError
from zoofast.inference.backends import (
    Model,
    PinningModel,
    QueuedModel,
    TensorInfo,
    Times,
    open_backend,
)
from zoofast.inference.inputs import (
    BatchReader,
    GroupReader,
    InputBatch,
    check_any_fits,
    found_images_per_file,
)
from zoofast.inference.outputs import ResultSink, ResultWriter, part_of_file
from zoofast.inference.record import RecordedOutput
from zoofast.inference.spec import ModelSpec, check_recipe
from zoofast.preprocess.recipe import Recipe

PURE = "pure_infer_data"  # ais_bench's name for the input of pure inference
Progress = Callable[[int], None]  # called with the number of files that were done
# Called once, when the first outputs are computed and before any is written, with the outputs of
# one file and the images that it holds.
Commit = Callable[[tuple[RecordedOutput, ...], int], None]


@dataclass
class InferReport:
    """What one device did. batch: the model's batch size, in images."""

    batch: int
    images_per_file: int = 1
    files: int = 0  # whose results this run made
    images: int = 0
    seconds: float = 0.0  # from the first read to the last write
    times: Times = field(default_factory=Times)
    failures: dict[str, str] = field(default_factory=dict)  # file -> reason
    results: list[tuple[str, list[str]]] = field(default_factory=list)  # input, its result files
    inputs: Sequence[TensorInfo] = ()  # what the model takes; nothing for a lost device

    def throughput(self) -> float:
        """Images a second of the device alone, as ais_bench counts them; 0.0 without times."""
        mean_ms = float(np.mean(self.times.compute)) if self.times.compute else 0.0
        return 1000 * self.batch / mean_ms if mean_ms else 0.0


def infer_files(
    model: Model,
    files: Sequence[str],
    sink: ResultSink | None,
    *,
    name: str = "the model",
    further: Mapping[str, tuple[str, ...]] | None = None,
    images_per_file: int = 1,
    loop: int = 1,
    on_error: str = "skip",
    progress: Progress = lambda files: None,
    commit: Commit = lambda outputs, images: None,
) -> InferReport:
    """Runs `files` through `model` in order; reads and writes in other threads.

    name: of the model, for errors. further: files of the model's further inputs, as GroupReader
    has them. A file that does not fit the model is left out and reported; with on_error "stop" it
    raises SourceError. sink None: no results are written. Raises BackendError, OutputError.
    """
    batch_size = model.input.shape[0]
    report = InferReport(batch_size, images_per_file)
    begin = time.perf_counter()
    queued = isinstance(model, QueuedModel) and loop == 1
    held = model.max_in_flight + 1 if isinstance(model, QueuedModel) else 1
    memory = model.host_memory if isinstance(model, PinningModel) else None
    reader = GroupReader(name, model.inputs, images_per_file, further or {})
    with (
        BatchReader(reader, files, held, memory) as batches,
        nullcontext() if sink is None else ResultWriter(sink) as writer,
    ):
        for batch, outputs in (_queued if queued else _in_turn)(model, batches, loop):
            if batch.failures and on_error == "stop":
                file, reason = next(iter(batch.failures.items()))
                raise SourceError(f"{file}: {reason}")
            report.failures.update(batch.failures)
            if batch.rows:
                results = [
                    (stem(file), [part_of_file(output, rows, batch_size) for output in outputs])
                    for file, rows in batch.rows.items()
                ]
                if not report.files:
                    commit(recorded_outputs(results[0][1]), images_per_file)
                if writer is not None:
                    writer.put(results)
                    if not report.files:  # a device that hangs next may keep the GIL
                        writer.flush()
            report.files += len(batch.rows)
            report.images += len(batch.rows) * images_per_file
            report.results += [
                (file, sink.files(stem(file)) if sink else []) for file in batch.rows
            ]
            progress(len(batch.rows))
    report.seconds = time.perf_counter() - begin
    report.times, report.inputs = model.times(), model.inputs
    return report


Outputs = list[NDArray[Any]]


def _in_turn(
    model: Model, batches: Iterable[InputBatch], loop: int
) -> Iterator[tuple[InputBatch, Outputs]]:
    """Each batch with its outputs; a batch without files has none."""
    for batch in batches:
        yield batch, model.infer(*batch.arrays, loop=loop) if batch.rows else []


def _queued(
    model: Any, batches: Iterable[InputBatch], loop: int
) -> Iterator[tuple[InputBatch, Outputs]]:
    """The same with a QueuedModel, which is never without a batch."""
    waiting: deque[InputBatch] = deque()
    for batch in batches:
        if batch.rows:
            model.begin(*batch.arrays, rows=max(rows.stop for rows in batch.rows.values()))
        waiting.append(batch)
        if len(waiting) == model.max_in_flight:
            yield _ended(model, waiting)
    while waiting:
        yield _ended(model, waiting)


def _ended(model: QueuedModel, waiting: deque[InputBatch]) -> tuple[InputBatch, Outputs]:
    batch = waiting.popleft()
    return batch, model.end().outputs if batch.rows else []


def recorded_outputs(outputs: Sequence[NDArray[Any]]) -> tuple[RecordedOutput, ...]:
    """The types of one file's outputs, for the record."""
    return tuple(RecordedOutput(str(output.dtype), output.shape) for output in outputs)


def infer_dummy(
    model: Model,
    data: Sequence[NDArray[Any]],
    loop: int,
    sink: ResultSink | None = None,
    commit: Commit = lambda outputs, images: None,
) -> InferReport:
    """Pure inference: runs one batch `loop` times. The sink gets the whole batch's outputs."""
    report = InferReport(model.input.shape[0])
    begin = time.perf_counter()
    outputs = model.infer(*data, loop=loop)
    report.seconds = time.perf_counter() - begin
    report.images = report.batch * loop
    report.times, report.inputs = model.times(), model.inputs
    if sink is not None:
        commit(recorded_outputs(outputs), 1)
        sink.write(PURE, outputs)
        report.results = [(PURE, sink.files(PURE))]
    return report


def dummy_batch(inputs: Sequence[TensorInfo], kind: str) -> list[NDArray[Any]]:
    """A batch without images. kind "zero"; "random": floats in [0, 1), or integers in [0, 128)."""
    rng = np.random.default_rng(0)

    def made(info: TensorInfo) -> NDArray[Any]:
        if kind == "zero":
            return np.zeros(info.shape, info.dtype)
        if info.dtype.kind == "f":
            return rng.random(info.shape).astype(info.dtype)
        return rng.integers(0, 128, info.shape).astype(info.dtype)

    return list(map(made, inputs))


def warm_up(model: Model, data: Sequence[NDArray[Any]], count: int) -> None:
    """Runs the batch `count` times and discards the times."""
    for _ in range(count):
        model.infer(*data)
    model.reset_times()


@dataclass(frozen=True)
class InferJob:
    """All that one device does in a run. It can be pickled for another process.

    files: None for pure inference. further: of each file, the files of the model's further inputs.
    images_per_file: None: found by the size of the files. folder: where results go; None: no
    results are written. parts: the folder of unfinished results; None: beside the results. recipe:
    a recipe whose tensors the model must take. check_fit: a job of which no file fits the model is
    an error.
    """

    spec: ModelSpec
    files: list[str] | None = None
    further: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    images_per_file: int | None = None
    folder: Path | None = None
    parts: Path | None = None
    fmt: str = "BIN"
    loop: int = 1
    warmup: int = 1
    pure_data: str = "zero"
    on_error: str = "skip"
    recipe: Recipe | None = None
    check_fit: bool = True

    def open(self, concurrency: int = 1) -> Model:
        """Loads the model in the calling thread. Raises BackendError."""
        spec = self.spec
        return open_backend(
            spec.model,
            spec.backend,
            device=spec.device,
            batch=spec.batch,
            default_batch=spec.default_batch,
            provider=spec.provider,
            concurrency=concurrency,
            dynamic=spec.dynamic,
        )

    def run(
        self,
        progress: Progress = lambda files: None,
        ready: Callable[[], Any] = lambda: None,
        commit: Commit = lambda outputs, images: None,
        opened: Callable[[Model], Any] = lambda model: None,
    ) -> InferReport:
        """Loads the model in the calling thread, calls `opened` with it, warms it up, calls
        `ready`, and runs the files."""
        with self.open() as model:
            opened(model)
            if self.recipe is not None:
                check_recipe(model.input, self.recipe)
            sink = None
            if self.folder is not None:
                sink = ResultSink(self.folder, self.fmt, len(model.outputs), self.parts)
            if self.files is None:
                data = dummy_batch(model.inputs, self.pure_data)
                warm_up(model, data, self.warmup)
                ready()
                return infer_dummy(model, data, self.loop, sink, commit)
            images = self.images_per_file or found_images_per_file(model.input, self.files)
            if self.files and self.check_fit:
                check_any_fits(
                    GroupReader(self.spec.model, model.inputs, images, self.further), self.files
                )
            if sink is not None:
                sink.check_space(
                    len(self.files), model.outputs, model.input.shape[0] // images or 1
                )
            warm_up(model, dummy_batch(model.inputs, "zero"), self.warmup)
            ready()
            return infer_files(
                model,
                self.files,
                sink,
                name=self.spec.model,
                further=self.further,
                images_per_file=images,
                loop=self.loop,
                on_error=self.on_error,
                progress=progress,
                commit=commit,
            )
