"""Backends load model files and run them on batches of tensors. A backend knows nothing of images.

A Model is loaded, run and closed in one thread: a device's context belongs to the thread that made
it. Only a Model with a concurrency above 1 may run in several threads. A QueuedModel takes further
batches while it computes one. Each device of aclruntime needs a process of its own, because
aclruntime keeps the GIL while the device computes; such a process is a QueuedModel too
(zoofast.inference.remote).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from zoofast import _core
from zoofast.base import acl_library
from zoofast.errors import BackendError
from zoofast.inference.dynamic import Dynamic

# Backend -> module of this package. The module has load(model, device, batch, provider,
# concurrency) -> Model, and is imported when the backend is used first.
BACKENDS = {
    "onnxruntime": "ort",
    "acl": "acl",
    "aclruntime": "aclruntime",
    "null": "null",
    "sim": "sim",
}
WITHOUT_FILE = {"null", "sim"}  # the model is a text, not a file
KEEP_GIL = {"aclruntime"}  # no other thread runs while the device computes
BY_SUFFIX = {".onnx": "onnxruntime", ".om": "acl"}
CAN_HANG = {"acl", "aclruntime"}  # a device may never answer
QUANTILES = {"median": 50, "p90": 90, "p99": 99}  # of latencies, in percent


Allocate = Callable[[int], Any]  # bytes -> a writable buffer


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a model. The first number of the shape is the batch size."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def image_nbytes(self) -> int:
        """Bytes of one image of the batch."""
        return self.nbytes // self.shape[0]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{'x'.join(map(str, self.shape))}]"


@dataclass
class Times:
    """Milliseconds of each execution on the device, and of each copy to and from the device."""

    compute: list[float] = field(default_factory=list)
    to_device: list[float] = field(default_factory=list)
    from_device: list[float] = field(default_factory=list)


def latency(times: Sequence[float]) -> dict[str, float]:
    """min, mean, median, p90, p99 and max of `times`, in the unit of `times`; 0.0 for no times."""
    values = np.asarray(times or [0.0])
    quantiles = {name: float(np.percentile(values, q)) for name, q in QUANTILES.items()}
    return {
        "min": float(values.min()),
        "mean": float(values.mean()),
        **quantiles,
        "max": float(values.max()),
    }


class BatchSize(NamedTuple):
    """The batch size to run a model with.

    requested: required; a model with another fixed batch size is refused. None: no requirement.
    default: for a model that takes any batch size, when none is requested. dynamic: the rest of
    the shape, for a dynamic `.om`.
    """

    requested: int | None = None
    default: int = 1
    dynamic: Dynamic = Dynamic()


class Model(Protocol):
    """A loaded model. Use it as a context manager, in one thread.

    concurrency: the number of threads that may call `infer` at the same time. input: the first of
    the inputs; a classifier has no other.
    """

    @property
    def concurrency(self) -> int: ...

    @property
    def input(self) -> TensorInfo: ...

    @property
    def inputs(self) -> list[TensorInfo]: ...

    @property
    def outputs(self) -> list[TensorInfo]: ...

    def infer(self, *batch: NDArray[Any], loop: int = 1) -> list[NDArray[Any]]:
        """Runs the batch `loop` times. Returns the outputs in the order of `outputs`.

        batch: an array for each input, C-contiguous, of the input's shape and dtype; not copied,
        so it must not change during the call. The caller owns the returned arrays. Raises
        BackendError.
        """

    def times(self) -> Times:
        """The times of all executions since loading or since the last reset."""

    def reset_times(self) -> None: ...

    def __enter__(self) -> Model: ...

    def __exit__(self, *exception: object) -> None: ...


class Result(NamedTuple):
    """The outputs of a batch; when its execution began and ended, monotonic nanoseconds."""

    outputs: list[NDArray[Any]]
    begin_ns: int
    end_ns: int


@runtime_checkable
class QueuedModel(Protocol):
    """A loaded model that holds up to `max_in_flight` batches. A context manager."""

    concurrency: int
    max_in_flight: int

    @property
    def input(self) -> TensorInfo: ...

    @property
    def inputs(self) -> list[TensorInfo]: ...

    @property
    def outputs(self) -> list[TensorInfo]: ...

    def share(self, batches: Sequence[_core.Batch]) -> None:
        """Called once, with the batches whose arrays `begin` will get."""

    def begin(self, *batch: NDArray[Any], rows: int) -> None:
        """Queues a batch, an array for each input, of which only the first `rows` images matter. It
        must not change before its result is there. Raises BackendError."""

    def end(self) -> Result:
        """Waits for the oldest queued batch. Raises BackendError."""

    def kill(self) -> None:
        """Makes a call that waits for the device raise, in bounded time. Any thread may call it."""

    def times(self) -> Times: ...

    def __enter__(self) -> QueuedModel: ...

    def __exit__(self, *exception: object) -> None: ...


@runtime_checkable
class PinningModel(Protocol):
    """A model on a device that copies batches in its own kind of host memory faster than others."""

    def host_memory(self, nbytes: int) -> Any:
        """A writable buffer. Raises BackendError."""


def backend_of(model: str, backend: str | None = None) -> str:
    """`backend` if given, else the backend for the suffix of `model`. Raises BackendError.

    An .om goes to aclruntime where CANN's library cannot be opened.
    """
    if backend is None:
        suffix = Path(model).suffix.lower()
        if suffix not in BY_SUFFIX:
            known = " or ".join(BY_SUFFIX)
            raise BackendError(f"{model}: not an {known} file; name its backend with --backend")
        backend = BY_SUFFIX[suffix]
        return "aclruntime" if backend == "acl" and acl_library.problem() else backend
    if backend not in BACKENDS:
        raise BackendError(f"{backend}: no such backend; there are {', '.join(BACKENDS)}")
    return backend


def open_backend(
    model: str,
    backend: str | None = None,
    *,
    device: int = 0,
    batch: int | None = None,
    default_batch: int = 1,
    provider: str | None = None,
    concurrency: int = 1,
    dynamic: Dynamic | None = None,
) -> Model:
    """Loads `model` on `device`, with `backend` or with the backend of the file's suffix.

    batch: the required batch size; None: the model's, or `default_batch` for a model that takes
    any. provider: ONNX Runtime's execution provider. concurrency: the number of threads that want
    to call `infer` at the same time; Model.concurrency says how many may. dynamic: shapes and
    normalization for a dynamic `.om`; the backend acl has them only. Raises BackendError: a
    missing file or package, another batch size, a model that cannot be loaded.
    """
    backend = backend_of(model, backend)
    if backend not in WITHOUT_FILE and not Path(model).is_file():
        raise BackendError(f"{model}: no such model file")
    dynamic = dynamic or Dynamic()
    if backend != "acl" and (dynamic.hw or dynamic.shapes or dynamic.output_nbytes):
        raise BackendError(
            f"{model}: the backend {backend} takes no dynamic shape; use --backend acl, or compile "
            "the .om for one fixed shape: zoofast atc"
        )
    module = importlib.import_module(f"zoofast.inference.backends.{BACKENDS[backend]}")
    loaded: Model = module.load(
        model, device, BatchSize(batch, default_batch, dynamic), provider, concurrency
    )
    return loaded


def input_shape(
    model: str, name: str, declared: list[int | None], batch: BatchSize
) -> tuple[int, ...]:
    """The shape to run with. declared: the model's shape, with None for a number it leaves open.

    Raises BackendError when a number other than the batch size is open, or when the batch size is
    fixed and not the requested one.
    """
    if not declared or any(number is None for number in declared[1:]):
        shape = "x".join("?" if number is None else str(number) for number in declared)
        raise BackendError(
            f"{model}: input {name} is [{shape}]; only the batch, the first number, may be open"
        )
    fixed = declared[0]
    if fixed is not None and batch.requested is not None and fixed != batch.requested:
        raise BackendError(
            f"{model}: is made for batch size {fixed} only; give --batchsize {fixed}, or the model "
            "for another size"
        )
    first = fixed if fixed is not None else batch.requested or batch.default
    return (first, *(number for number in declared[1:] if number is not None))


def output_shape(
    model: str, name: str, declared: Sequence[int], batch: int, largest: int
) -> tuple[int, ...]:
    """The shape of an output for `batch` images, of a model that takes several batch sizes.

    declared: the shape for the largest batch size, `largest`, or with -1 for the batch. Raises
    BackendError when the batch is not the first number: the output cannot be divided by images.
    """
    if not declared or declared[0] not in (-1, largest):
        shape = "x".join("?" if number < 0 else str(number) for number in declared)
        raise BackendError(
            f"{model}: takes several batch sizes, but output {name} is [{shape}], without the "
            "batch as its first number; convert the model for one batch size"
        )
    return (batch, *declared[1:])


def check_batch(inputs: Sequence[TensorInfo], batch: Sequence[NDArray[Any]]) -> None:
    """Raises BackendError unless `batch` has an array for each input, C-contiguous and of the
    input's shape and dtype."""
    if len(batch) != len(inputs):
        raise BackendError(f"the model has {len(inputs)} inputs, the batch {len(batch)}")
    for info, array in zip(inputs, batch, strict=True):
        if array.shape != info.shape or array.dtype != info.dtype:
            got = TensorInfo("the batch is", array.shape, array.dtype)
            raise BackendError(f"input {info}: {got}")
        if not array.flags.c_contiguous:
            raise BackendError(f"input {info}: the batch is not C-contiguous")


def check_one_input(model: str, inputs: Sequence[str]) -> None:
    """Raises BackendError for a model of several inputs. inputs: their names."""
    if len(inputs) != 1:
        raise BackendError(
            f"{model}: has {len(inputs)} inputs ({', '.join(inputs)}); a classifier has one"
        )
