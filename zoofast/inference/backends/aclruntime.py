"""OM models on an Ascend NPU through aclruntime, of any generation.

Every build since 2022-11 has the version 0.0.2, so this module tests for features:

- BaseTensor takes an address. Builds without BaseTensor have only Tensor, which copies the array.
- exec_time_list holds milliseconds or (start, end) pairs. The oldest builds have only a sum and a
  count.
- free_resource closes one session. finalize closes ACL for the whole process: no session can be
  made after it, and a second use crashes. This module never calls finalize; a process may end
  without it.

aclruntime checks only byte counts and reads from the address that it is given. This module checks
shape, dtype, memory order and thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base import acl_library
from zoofast.errors import BackendError
from zoofast.inference import native_output
from zoofast.inference.backends import (
    BatchSize,
    TensorInfo,
    Times,
    check_batch,
    check_one_input,
    input_shape,
    output_shape,
)

_LOG_WARNINGS = 3


def load(
    model: str, device: int, batch: BatchSize, provider: str | None, concurrency: int
) -> AclruntimeModel:
    try:
        import aclruntime
    except ImportError as error:
        raise BackendError(
            f"{model}: needs CANN: source its set_env.sh, or name its {acl_library.ACL_LIBRARY} "
            "with --acl-lib; the backend aclruntime needs aclruntime, which comes with ais_bench, "
            f"for this Python and CANN ({error})"
        ) from error
    return AclruntimeModel(aclruntime, model, device, batch)


class AclruntimeModel:
    """A Model of zoofast.inference.backends. Only the loading thread may call its methods."""

    concurrency = 1

    def __init__(self, acl: Any, model: str, device: int, batch: BatchSize) -> None:
        self._acl, self._model, self._device = acl, model, device
        self._thread = threading.get_ident()
        options = acl.session_options()
        options.log_level = _LOG_WARNINGS
        with self._errors("cannot be loaded"):
            self._session = acl.InferenceSession(model, device, options)
        inputs = self._session.get_inputs()
        check_one_input(model, [each.name for each in inputs])
        declared = [None if number < 0 else int(number) for number in inputs[0].shape]
        shape = input_shape(model, inputs[0].name, declared, batch)
        # The descriptions point into the session, so they are copied while the session lives.
        self.input = self._info(inputs[0], shape)
        self.inputs = [self.input]
        largest = int(inputs[0].realsize) // self.input.image_nbytes
        if declared[0] is None:
            with self._errors(f"cannot take batch size {shape[0]}"):
                self._session.set_dynamic_batchsize(shape[0])
        realsize = int(self._session.get_inputs()[0].realsize)
        if realsize != self.input.nbytes:
            raise BackendError(
                f"{model}: input {self.input} is {self.input.nbytes} bytes, but aclruntime "
                f"wants {realsize}"
            )
        self.outputs = []
        for output in self._session.get_outputs():
            numbers = tuple(int(number) for number in output.shape)
            if declared[0] is None or (numbers and numbers[0] < 0):
                numbers = output_shape(model, output.name, numbers, shape[0], largest)
            self.outputs.append(self._info(output, numbers))
        self._memory = acl.MemorySummary() if hasattr(acl, "MemorySummary") else None
        self.reset_times()

    def _info(self, desc: Any, shape: tuple[int, ...]) -> TensorInfo:
        number = int(desc.datatype)
        if number not in acl_library.DTYPES:
            raise BackendError(f"{self._model}: {desc.name} has ACL's data type {number}, unknown")
        return TensorInfo(str(desc.name), shape, np.dtype(acl_library.DTYPES[number]))

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """aclruntime raises every error as a RuntimeError with a number, and prints the reason."""
        try:
            yield
        except RuntimeError as error:
            reason = native_output.take_reason()
            raise BackendError(
                f"{self._model}: {what} on device {self._device}: {str(error).strip()}"
                + (f" ({reason})" if reason else "")
            ) from error

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise BackendError(
                f"{self._model}: was loaded in another thread; ACL's context belongs to that thread"
            )
        if self._session is None:
            raise BackendError(f"{self._model}: is closed")

    def infer(self, *batch: NDArray[Any], loop: int = 1) -> list[NDArray[Any]]:
        self._check_thread()
        check_batch(self.inputs, batch)
        (array,) = batch
        with self._errors("cannot run"):
            self._session.options().loop = loop
            if hasattr(self._acl, "BaseTensor"):
                # BaseTensor holds only the address, so `array` must live until run returns.
                address = array.__array_interface__["data"][0]
                feed = self._acl.BaseTensor(address, array.nbytes)
            else:
                # Tensor takes unknown element types for single bytes and cuts the data off.
                feed = self._acl.Tensor(array.reshape(-1).view(np.int8))
                feed.to_device(self._device)
            results = self._session.run([output.name for output in self.outputs], [feed])
            native_output.trim()
            arrays = []
            for output, result in zip(self.outputs, results, strict=True):
                result.to_host()
                arrays.append(self._array(output, result))
        return arrays

    def _array(self, output: TensorInfo, result: Any) -> NDArray[Any]:
        array = np.array(result)
        if array.nbytes != output.nbytes:
            raise BackendError(
                f"{self._model}: output {output} came back as {array.nbytes} bytes, not "
                f"{output.nbytes}"
            )
        # Element types that the buffer protocol cannot describe arrive as bytes.
        return array.view(output.dtype).reshape(output.shape)

    def times(self) -> Times:
        self._check_thread()
        with self._errors("cannot report its times"):
            summary = self._session.sumary()
        if hasattr(summary, "exec_time_list"):
            compute = [
                float(entry[1] - entry[0]) if hasattr(entry, "__len__") else float(entry)
                for entry in summary.exec_time_list
            ]
        else:
            # Only the sum is known. Equal parts have the right mean.
            count = int(summary.exec_count)
            compute = [float(summary.exec_time) / max(count, 1)] * count
        if self._memory is None:
            return Times(compute)
        return Times(
            compute,
            [float(ms) for ms in self._memory.H2D_time_list],
            [float(ms) for ms in self._memory.D2H_time_list],
        )

    def reset_times(self) -> None:
        self._check_thread()
        with self._errors("cannot reset its times"):
            self._session.reset_sumaryinfo()
            if self._memory is not None:
                self._memory.reset()

    def __enter__(self) -> AclruntimeModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        session, self._session = self._session, None
        if hasattr(session, "free_resource"):
            keep_first = suppress(BackendError) if error else nullcontext()
            with keep_first, self._errors("cannot be closed"):
                session.free_resource()
