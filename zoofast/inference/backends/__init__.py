"""What runs a model. A backend turns a model file into a `Model`; nothing here knows images.

A Model is loaded, run and closed in ONE thread, unless it has lanes: aclruntime binds a device's
context to the thread that made the session. Run a second device from a second process, because
aclruntime also keeps the GIL while the device computes.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zoofast.errors import BackendError

# name -> module of this package, which has load(path, device, batch, provider, lanes) -> Model and
# is imported only when asked for
BACKENDS = {"onnxruntime": "ort", "aclruntime": "acl", "null": "null", "sim": "sim"}
WITHOUT_FILE = {"null", "sim"}  # their model is a text
KEEP_GIL = {"aclruntime"}  # while the device computes
BY_SUFFIX = {".onnx": "onnxruntime", ".om": "aclruntime"}


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a model; the batch is the shape's first number."""

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
    """Milliseconds of each execution on the device, and of each copy to and from it."""

    compute: list[float] = field(default_factory=list)
    to_device: list[float] = field(default_factory=list)
    from_device: list[float] = field(default_factory=list)


class BatchSize(NamedTuple):
    """`asked`: needed; a model of another fixed batch is refused. `default`: for a model that
    leaves it open, when nothing was asked for."""

    asked: int | None = None
    default: int = 1


class Model(Protocol):
    """A loaded model with one input. Use as a context manager, in one thread.

    lanes: so many threads may call `infer` at once.
    """

    @property
    def lanes(self) -> int: ...

    @property
    def input(self) -> TensorInfo: ...

    @property
    def outputs(self) -> list[TensorInfo]: ...

    def infer(self, batch: NDArray[Any], loop: int = 1) -> list[NDArray[Any]]:
        """Runs `loop` times; the outputs, as declared, in arrays of the caller's own.

        batch: C-contiguous, of the input's shape and dtype; read in place, until the return.
        Raises BackendError.
        """

    def times(self) -> Times:
        """Of all executions since loading or the last reset."""

    def reset_times(self) -> None: ...

    def __enter__(self) -> Model: ...

    def __exit__(self, *exception: object) -> None: ...


def backend_of(model: str, backend: str | None = None) -> str:
    """The backend's name: as given, or by the file's suffix. Raises BackendError."""
    if backend is None:
        suffix = Path(model).suffix.lower()
        if suffix not in BY_SUFFIX:
            known = " or ".join(BY_SUFFIX)
            raise BackendError(f"{model}: is no {known} file; name its backend with --backend")
        return BY_SUFFIX[suffix]
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
    lanes: int = 1,
) -> Model:
    """Loads `model` on `device`; the backend goes by the file's suffix unless named.

    batch: needed size; a model of any batch takes it (else `default_batch`), one of a fixed batch
    must have it. provider: ONNX Runtime's execution provider. lanes: how many
    threads would call `infer` at once, if the device is this host's CPU; Model.lanes says how many
    may. Raises BackendError: a missing file or package, another batch, a model that cannot be
    loaded.
    """
    backend = backend_of(model, backend)
    if backend not in WITHOUT_FILE and not Path(model).is_file():
        raise BackendError(f"{model}: no such model file")
    module = importlib.import_module(f"zoofast.inference.backends.{BACKENDS[backend]}")
    loaded: Model = module.load(model, device, BatchSize(batch, default_batch), provider, lanes)
    return loaded


def input_shape(
    model: str, name: str, declared: list[int | None], batch: BatchSize
) -> tuple[int, ...]:
    """The shape to run with. declared: None where the model leaves it open (the batch only).

    Raises BackendError when another number is open, or the batch is fixed to another than
    was asked for.
    """
    if not declared or any(number is None for number in declared[1:]):
        shape = "x".join("?" if number is None else str(number) for number in declared)
        raise BackendError(
            f"{model}: input {name} is [{shape}]; only the batch, the first number, may be open"
        )
    fixed = declared[0]
    if fixed is not None and batch.asked is not None and fixed != batch.asked:
        raise BackendError(
            f"{model}: is made for batch size {fixed}, not {batch.asked}; leave out --batchsize "
            "or use the model for that size"
        )
    first = fixed if fixed is not None else batch.asked or batch.default
    return (first, *(number for number in declared[1:] if number is not None))


def check_batch(info: TensorInfo, batch: NDArray[Any]) -> None:
    """Raises BackendError unless `batch` is what the input takes, in one C-ordered block."""
    if batch.shape != info.shape or batch.dtype != info.dtype:
        got = TensorInfo("the batch is", batch.shape, batch.dtype)
        raise BackendError(f"input {info}: {got}")
    if not batch.flags.c_contiguous:
        raise BackendError(f"input {info}: the batch is not C-contiguous")
