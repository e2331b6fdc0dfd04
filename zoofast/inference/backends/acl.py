"""OM models on an Ascend NPU through CANN's own library, libascendcl.so.

Batches overlap: while the NPU computes a batch, the next one is copied to it, and the outputs of
the one before are copied back. Inputs in pinned memory (`host_memory`) are copied from where they
are. The GIL is never held meanwhile.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast import _acl, _core
from zoofast.base import acl_library
from zoofast.errors import BackendError
from zoofast.inference.backends import (
    BatchSize,
    Result,
    TensorInfo,
    Times,
    check_batch,
    input_shape,
    output_shape,
)

# ACL's numbers for element types
DTYPES = {
    0: "float32",
    1: "float16",
    2: "int8",
    3: "int32",
    4: "uint8",
    6: "int16",
    7: "uint16",
    8: "uint32",
    9: "int64",
    10: "uint64",
    11: "float64",
    12: "bool",
}
# One batch is copied in, one is computed, one is copied out. One more is queued, so that the device
# has work when this thread wakes up late.
MAX_IN_FLIGHT = 4


def load(
    model: str, device: int, batch: BatchSize, provider: str | None, concurrency: int
) -> AclModel:
    problem = acl_library.problem()
    if problem:
        raise BackendError(
            f"{model}: needs CANN's {acl_library.ACL_LIBRARY}: source CANN's set_env.sh, or name "
            f"the library with --acl-lib ({problem})"
        )
    return AclModel(model, device, batch)


class AclModel:
    """A Model and a QueuedModel of zoofast.inference.backends."""

    concurrency = 1
    max_in_flight = MAX_IN_FLIGHT

    def __init__(self, model: str, device: int, batch: BatchSize) -> None:
        self._model, self._device = model, device
        with self._errors("cannot be loaded"):
            self._acl = _acl.Model(device, model, MAX_IN_FLIGHT)
        try:
            self._describe(batch)
        except BaseException:
            with suppress(_acl.AclError):
                self._acl.close()
            raise
        self._times = Times()
        self._gears: deque[int] = deque()  # of the batches in flight: their rows on the device
        self._ended_ns = 0  # when the last batch ended, monotonic

    def _describe(self, batch: BatchSize) -> None:
        inputs = self._acl.inputs
        if len(inputs) != 1:
            names = ", ".join(each.name for each in inputs)
            raise BackendError(
                f"{self._model}: has {len(inputs)} inputs ({names}); a classifier has one"
            )
        declared = [None if number < 0 else number for number in inputs[0].shape]
        if self._acl.dynamic == "batch":
            batch = self._with_gears(batch)
        shape = input_shape(self._model, inputs[0].name, declared, batch)
        self.input = self._info(inputs[0], shape)
        self.outputs = [
            self._info(output, self._output_shape(output, shape[0])) for output in self._acl.outputs
        ]

    def _with_gears(self, batch: BatchSize) -> BatchSize:
        """The batch size for a model with gears: the largest gear if none is requested."""
        gears = [gear[0] for gear in self._acl.gears]
        if batch.requested is not None and batch.requested > max(gears):
            raise BackendError(
                f"{self._model}: is made for batch sizes {', '.join(map(str, gears))}; "
                f"{batch.requested} is larger"
            )
        return BatchSize(batch.requested, max(gears))

    def _output_shape(self, output: _acl.Tensor, batch: int) -> tuple[int, ...]:
        """ACL gives the shape for the largest gear."""
        is_dynamic = self._acl.dynamic == "batch"
        if not is_dynamic and (not output.shape or output.shape[0] >= 0):
            return output.shape
        largest = max(gear[0] for gear in self._acl.gears) if is_dynamic else 0
        return output_shape(self._model, output.name, output.shape, batch, largest)

    def _info(self, tensor: _acl.Tensor, shape: tuple[int, ...]) -> TensorInfo:
        if tensor.type not in DTYPES:
            raise BackendError(
                f"{self._model}: {tensor.name} has ACL's data type {tensor.type}, unknown"
            )
        return TensorInfo(tensor.name, shape, np.dtype(DTYPES[tensor.type]))

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except _acl.AclError as error:
            raise BackendError(f"{self._model}: {what} on device {self._device}: {error}") from None

    def share(self, batches: Sequence[_core.Batch]) -> None:
        """Nothing is to be done: pinned memory serves all devices."""

    def host_memory(self, nbytes: int) -> _acl.HostMemory:
        """Memory for batches that the device copies directly. Raises BackendError."""
        with self._errors("cannot get pinned memory"):
            return self._acl.host_memory(nbytes)

    def begin(self, batch: NDArray[Any], rows: int = 0, loop: int = 1) -> None:
        check_batch(self.input, batch)
        gear: tuple[int, ...] = ()
        size = self.input.shape[0]
        if self._acl.dynamic == "batch":
            wanted = rows or size
            size = min(gear[0] for gear in self._acl.gears if gear[0] >= wanted)
            gear = (size,)
        if size > len(batch):  # the batch size lies between two gears
            batch = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), axis=0)])
        with self._errors("cannot run"):
            self._acl.begin([batch[:size]], gear, loop)
        self._gears.append(loop)

    def end(self) -> Result:
        with self._errors("cannot run"):
            arrays, times = self._acl.end([output.dtype for output in self.outputs])
        end_ns = time.monotonic_ns()
        loop = self._gears.popleft()
        for kept, ms, count in (
            (self._times.to_device, times.to_device, 1),
            (self._times.compute, times.compute, loop),
            (self._times.from_device, times.from_device, 1),
        ):
            if ms >= 0:
                kept += [ms] * count
        begin_ns = max(self._ended_ns, end_ns - round(max(times.compute, 0.0) * loop * 1e6))
        self._ended_ns = end_ns
        outputs = [
            self._as_declared(output, array)
            for output, array in zip(self.outputs, arrays, strict=True)
        ]
        return Result(outputs, begin_ns, end_ns)

    @staticmethod
    def _as_declared(output: TensorInfo, array: NDArray[Any]) -> NDArray[Any]:
        """The rows of another gear, as those of the batch; rows without an image are 0."""
        if array.shape == output.shape or array.shape[1:] != output.shape[1:]:
            return array
        rows = np.zeros(output.shape, output.dtype)
        count = min(len(rows), len(array))
        rows[:count] = array[:count]
        return rows

    def infer(self, batch: NDArray[Any], loop: int = 1) -> list[NDArray[Any]]:
        self.begin(batch, loop=loop)
        return self.end().outputs

    def kill(self) -> None:
        self._acl.abandon()

    def times(self) -> Times:
        return self._times

    def reset_times(self) -> None:
        self._times = Times()

    def __enter__(self) -> AclModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._errors("cannot be closed"):
                self._acl.close()
        except BackendError:
            if error is None:
                raise
