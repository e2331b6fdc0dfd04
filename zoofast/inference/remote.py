"""A model in a process of its own, for backends that keep the GIL while the device computes.

The process maps the memory of the loader's ring, so tensors are not sent: a request is the number
of a batch. Outputs come back in memory that both processes map. The process has a second request
while it runs the first, so the device need not wait for the next request. Requests and answers are
a few bytes, because sending them wakes threads on CPUs that are busy with images. Everything else
goes over a connection.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast import _core
from zoofast.errors import BackendError, ZoofastError
from zoofast.inference.backends import Model, Result, TensorInfo, Times, check_batch, open_backend
from zoofast.inference.child import CLOSING_SECONDS, Child, end_children

MAX_IN_FLIGHT = 2  # requested batches: one that the process runs, and the next
_REQUEST = struct.Struct("<i")  # the number of a batch
_READ_CONNECTION = _REQUEST.pack(-1)  # instead of a number: the request is on the connection
_ANSWER = struct.Struct("<qq")  # begin and end of the execution, monotonic nanoseconds
_FAILED = _ANSWER.pack(-1, -1)  # instead of times: the error is on the connection


class RemoteModel:
    """A model that runs in a child process; `open_with` are the arguments of open_backend there.

    A context manager: entering it waits until the model is loaded. `input` and `outputs` are as in
    zoofast.inference.backends.Model. Raises BackendError when the model cannot be loaded or the
    process ends.
    """

    concurrency = 1
    max_in_flight = MAX_IN_FLIGHT

    def __init__(self, model: str, **open_with: Any) -> None:
        self._model, self._device = model, open_with.get("device", 0)
        self.input: TensorInfo
        self.inputs: list[TensorInfo]
        self.outputs: list[TensorInfo]
        self._batches: dict[int, int] = {}  # address of a shared batch -> its number
        # MAX_IN_FLIGHT sets of output arrays; the first one receives the next answer.
        self._answers: deque[list[NDArray[Any]]] = deque()
        requests, self._requests = os.pipe()
        self._results, results = os.pipe()
        try:
            self.child = Child(_serve, requests, results, model, open_with, fds=(requests, results))
        finally:
            os.close(requests)
            os.close(results)
        self._pipe = self.child.connection

    def __enter__(self) -> RemoteModel:
        try:
            self.inputs, self.outputs = self._receive()
            self.input = self.inputs[0]
            nbytes = MAX_IN_FLIGHT * sum(output.nbytes for output in self.outputs)
            fd = os.memfd_create("zoofast")
            try:
                os.ftruncate(fd, nbytes)
                self._answers.extend(_map_arrays(fd, self.outputs, MAX_IN_FLIGHT))
                self._send_memory("answers", fd)
            finally:
                os.close(fd)
        except BaseException:
            self._close()
            raise
        return self

    def share(self, batches: Sequence[_core.Batch]) -> None:
        """Lets the process map the memory of these batches, which have the model's batch size."""
        for number, batch in enumerate(batches):
            self._batches[_address(batch.array)] = number
            self._send_memory("map", batch.fd)

    def begin(self, *batch: NDArray[Any], rows: int = 0) -> None:
        """Requests the outputs of a shared batch. At most MAX_IN_FLIGHT may be requested."""
        check_batch(self.inputs, batch)
        self._request(_REQUEST.pack(self._batches[_address(batch[0])]))

    def end(self) -> Result:
        """Waits for the oldest requested batch. Raises BackendError."""
        result = os.read(self._results, _ANSWER.size)
        if not result or result == _FAILED:
            self._receive()  # raises
        begin_ns, end_ns = _ANSWER.unpack(result)
        answer = self._answers[0]
        self._answers.rotate(-1)
        return Result([output.copy() for output in answer], begin_ns, end_ns)

    def kill(self) -> None:
        """Ends the process in bounded time. A call that waits for the process raises then."""
        kill_models([self])

    def times(self) -> Times:
        """The times of all executions."""
        self._send("times")
        times: Times = self._receive()
        return times

    def _request(self, request: bytes) -> None:
        with suppress(OSError):  # the process has ended; _receive reports it
            os.write(self._requests, request)

    def _send(self, request: str) -> None:
        self._request(_READ_CONNECTION)
        with suppress(OSError):
            self._pipe.send(request)

    def _send_memory(self, request: str, fd: int) -> None:
        self._send(request)
        with suppress(OSError):
            send_handle(self._pipe, fd, self.child.pid)

    def _receive(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise BackendError(
                f"{self._model}: the process of device {self._device} {self.child.describe_end()}"
            ) from None
        if isinstance(answer, ZoofastError):
            raise answer
        return answer

    def __exit__(self, *exception: object) -> None:
        self._close()

    def _close(self) -> None:
        self.child.close()  # the process closes the model and ends
        for fd in (self._requests, self._results):
            os.close(fd)
        if self.child.wait(CLOSING_SECONDS) is None:
            end_children([self.child])


def kill_models(models: Sequence[RemoteModel]) -> None:
    """Ends the models' processes in bounded time. Any thread may call this; a call that waits for
    one of the processes raises then."""
    end_children([model.child for model in models])


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _serve(
    pipe: Connection, requests: int, results: int, model: str, open_with: dict[str, Any]
) -> None:
    """The child process: answers requests, ZoofastErrors included, until the pipe is closed."""
    try:
        with open_backend(model, **open_with) as loaded:
            pipe.send((loaded.inputs, loaded.outputs))
            _answer_requests(loaded, pipe, requests, results)
    except ZoofastError as error:
        os.write(results, _FAILED)
        pipe.send(error)


def _answer_requests(model: Model, pipe: Connection, requests: int, results: int) -> None:
    batches: list[NDArray[Any]] = []
    answers: deque[list[NDArray[Any]]] = deque()
    while request := os.read(requests, _REQUEST.size):
        if request != _READ_CONNECTION:
            batch = batches[_REQUEST.unpack(request)[0]]
            begin_ns = time.monotonic_ns()
            outputs = model.infer(batch)
            end_ns = time.monotonic_ns()
            for shared, output in zip(answers[0], outputs, strict=True):
                np.copyto(shared, output, casting="no")
            os.write(results, _ANSWER.pack(begin_ns, end_ns))
            answers.rotate(-1)
            continue
        what = pipe.recv()
        if what == "map":
            batches += _receive_arrays(pipe, [model.input])[0]
        elif what == "answers":
            answers.extend(_receive_arrays(pipe, model.outputs, MAX_IN_FLIGHT))
        else:
            pipe.send(model.times())


def _receive_arrays(
    pipe: Connection, tensors: Sequence[TensorInfo], sets: int = 1
) -> list[list[NDArray[Any]]]:
    fd = recv_handle(pipe)
    try:
        return _map_arrays(fd, tensors, sets)
    finally:
        os.close(fd)


def _map_arrays(fd: int, tensors: Sequence[TensorInfo], sets: int) -> list[list[NDArray[Any]]]:
    """`sets` lists of arrays, one array for each tensor, in the shared memory `fd`, in order."""
    memory, offset = mmap.mmap(fd, 0), 0
    arrays: list[list[NDArray[Any]]] = []
    for _ in range(sets):
        arrays.append([])
        for tensor in tensors:
            arrays[-1].append(np.ndarray(tensor.shape, tensor.dtype, memory, offset))
            offset += tensor.nbytes
    return arrays
