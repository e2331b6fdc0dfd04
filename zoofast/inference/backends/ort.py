"""ONNX models through ONNX Runtime."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.cpus import usable_cpus
from zoofast.errors import BackendError
from zoofast.inference.backends import BatchSize, TensorInfo, Times, check_batch, input_shape

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
PROVIDER_SUFFIX = "ExecutionProvider"
CPU = f"CPU{PROVIDER_SUFFIX}"


def load(
    model: str, device: int, batch: BatchSize, provider: str | None, concurrency: int
) -> OrtModel:
    """provider: with or without "ExecutionProvider", in any case; default CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"{model}: needs ONNX Runtime: pip install 'zoofast[infer]' ({error})"
        ) from error
    chosen = _provider(provider or "CPU", onnxruntime.get_available_providers())
    if chosen == CPU and device:
        raise BackendError(
            f"{model}: ONNX Runtime on the CPU has no device {device}, only 0; leave out --device, "
            "or name a --provider that has devices"
        )
    options = {} if chosen == CPU else {"device_id": str(device)}
    concurrency = concurrency if chosen == CPU else 1
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors only; exceptions report them too
    if concurrency > 1:
        # The calling thread computes its own batch. The session's threads are the CPUs left over.
        settings.intra_op_num_threads = max(1, usable_cpus() - concurrency + 1)
        # A thread without work must leave its CPU to the threads that prepare images.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(model, settings, providers=[(chosen, options)])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise BackendError(f"{model}: cannot be loaded: {_one_line(error)}") from error
    if session.get_providers()[0] != chosen:
        raise BackendError(f"{model}: {chosen} could not be started")
    return OrtModel(model, session, batch, concurrency)


def _provider(name: str, available: list[str]) -> str:
    wanted = name.lower().removesuffix(PROVIDER_SUFFIX.lower())
    for provider in available:
        if provider.removesuffix(PROVIDER_SUFFIX).lower() == wanted:
            return provider
    names = ", ".join(provider.removesuffix(PROVIDER_SUFFIX) for provider in available)
    raise BackendError(f"{name}: this ONNX Runtime has no such provider; it has {names}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class OrtModel:
    """A zoofast.inference.backends.Model."""

    def __init__(self, model: str, session: Any, batch: BatchSize, concurrency: int) -> None:
        self._model, self._session, self.concurrency = model, session, concurrency
        self.inputs = [self._input(each, batch) for each in session.get_inputs()]
        self.input = self.inputs[0]
        size = self.input.shape[0]
        self.outputs = [self._output(output, size) for output in session.get_outputs()]
        self.reset_times()

    def _dtype(self, tensor: Any) -> np.dtype[Any]:
        if tensor.type not in _DTYPES:
            raise BackendError(f"{self._model}: {tensor.name} is a {tensor.type}, not supported")
        return np.dtype(_DTYPES[tensor.type])

    def _input(self, tensor: Any, batch: BatchSize) -> TensorInfo:
        declared = [number if isinstance(number, int) else None for number in tensor.shape]
        shape = input_shape(self._model, tensor.name, declared, batch)
        return TensorInfo(tensor.name, shape, self._dtype(tensor))

    def _output(self, tensor: Any, batch: int) -> TensorInfo:
        numbers = [number if isinstance(number, int) else None for number in tensor.shape]
        if None in numbers[1:]:
            raise BackendError(
                f"{self._model}: output {tensor.name} is {tensor.shape}; only the first number may "
                "be open"
            )
        shape = tuple(batch if number is None else number for number in numbers)
        return TensorInfo(tensor.name, shape, self._dtype(tensor))

    def infer(self, *batch: NDArray[Any], loop: int = 1) -> list[NDArray[Any]]:
        check_batch(self.inputs, batch)
        feed = {info.name: array for info, array in zip(self.inputs, batch, strict=True)}
        try:
            for _ in range(loop):
                begin = time.perf_counter()
                outputs: list[NDArray[Any]] = self._session.run(None, feed)
                self._times.compute.append((time.perf_counter() - begin) * 1e3)
        except Exception as error:  # see load
            raise BackendError(f"{self._model}: {_one_line(error)}") from error
        return outputs

    def times(self) -> Times:
        return self._times

    def reset_times(self) -> None:
        self._times = Times()

    def __enter__(self) -> OrtModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self._session = None
