"""A model in a process of its own, for backends that keep the GIL while the device computes.

Batches are not sent: the process maps the loader's ring, and is told which batch to run; answers
come in memory that both have. A second batch can be asked for while the first is run, so that the
device does not wait for what the processes say to each other. That is as little as can be, since
what a busy host's caches have lost by then takes long: a number for a request, two for an answer.
All else goes over a connection.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import struct
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoofast import _core
from zoofast.errors import BackendError, ZoofastError
from zoofast.inference.backends import Model, TensorInfo, Times, check_batch, open_backend

CLOSING_SECONDS = 10.0  # for the device to be let go of
FLYING = 2  # batches that the process may be asked for at a time: one it runs, one is next
_REQUEST = struct.Struct("<i")  # the number of a batch, or:
_TALK = _REQUEST.pack(-1)  # what is wanted comes over the connection
_ANSWER = struct.Struct("<qq")  # when the execution began and ended, or:
_FAILED = _ANSWER.pack(-1, -1)  # the error comes over the connection


class Ran(NamedTuple):
    """A batch's outputs, and when its execution began and ended, monotonic nanoseconds."""

    outputs: list[NDArray[Any]]
    begin_ns: int
    end_ns: int


class RemoteModel:
    """A Model of zoofast.inference.backends; `open_with` is passed to open_backend there.

    `infer`, and `begin` with `end`, take only arrays of the batches that were given to `share`.
    """

    lanes = 1

    def __init__(self, model: str, **open_with: Any) -> None:
        self._model, self._device = model, open_with.get("device", 0)
        self._batches: dict[int, int] = {}  # address -> number
        self._answers: deque[list[NDArray[Any]]] = deque()  # of FLYING batches, the next first
        # spawned: a fork of a process that has used a device is broken
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        wanted, self._requests = context.Pipe(duplex=False)
        self._results, given = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_serve,
            args=(theirs, wanted, given, model, open_with),
            name=f"device {self._device}",
        )
        self._process.daemon = True
        self._process.start()
        for end in (theirs, wanted, given):
            end.close()
        try:
            self.input, self.outputs = self._receive()
            nbytes = FLYING * sum(output.nbytes for output in self.outputs)
            fd = os.memfd_create("zoofast")
            try:
                os.ftruncate(fd, nbytes)
                self._answers.extend(_arrays(fd, self.outputs, FLYING))
                self._send_memory("answers", fd)
            finally:
                os.close(fd)
        except BaseException:
            self.kill()
            raise

    def share(self, batches: Sequence[_core.Batch]) -> None:
        """Lets the process map shared batches of the model's size."""
        for number, batch in enumerate(batches):
            self._batches[_address(batch.array)] = number
            self._send_memory("map", batch.fd)

    def infer(self, batch: NDArray[Any], loop: int = 1) -> list[NDArray[Any]]:
        for _ in range(loop):
            self.begin(batch)
            outputs = self.end().outputs
        return outputs

    def begin(self, batch: NDArray[Any]) -> None:
        """Asks for the batch's outputs; at most FLYING batches may be asked for at a time."""
        check_batch(self.input, batch)
        self._request(_REQUEST.pack(self._batches[_address(batch)]))

    def end(self) -> Ran:
        """Waits for the batch that was asked for first. Raises BackendError."""
        result = os.read(self._results.fileno(), _ANSWER.size)
        if not result or result == _FAILED:
            self._receive()  # raises
        begin_ns, end_ns = _ANSWER.unpack(result)
        answer = self._answers[0]
        self._answers.rotate(-1)
        return Ran([output.copy() for output in answer], begin_ns, end_ns)

    def times(self) -> Times:
        times: Times = self._call("times")
        return times

    def reset_times(self) -> None:
        self._call("reset_times")

    def kill(self) -> None:
        """Ends the process at once; from any thread. A call that waits for it raises."""
        self._process.kill()

    def _call(self, *request: Any) -> Any:
        self._send(*request)
        return self._receive()

    def _request(self, request: bytes) -> None:
        with suppress(OSError):  # it is gone; receiving says how
            os.write(self._requests.fileno(), request)

    def _send(self, *request: Any) -> None:
        self._request(_TALK)
        with suppress(OSError):
            self._pipe.send(request)

    def _send_memory(self, what: str, fd: int) -> None:
        self._send(what)
        assert self._process.pid is not None
        with suppress(OSError):
            send_handle(self._pipe, fd, self._process.pid)

    def _receive(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise BackendError(
                f"{self._model}: the process of device {self._device} ended with exit code "
                f"{self._process.exitcode}"
            ) from None
        if isinstance(answer, ZoofastError):
            raise answer
        return answer

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(self, *exception: object) -> None:
        for end in (self._pipe, self._requests, self._results):
            end.close()  # the process closes the model, and ends
        self._process.join(CLOSING_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _serve(
    pipe: Connection,
    requests: Connection,
    results: Connection,
    model: str,
    open_with: dict[str, Any],
) -> None:
    """In the process: answers requests until the pipe is closed, ZoofastErrors included."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the pipe
    # EOFError: the parent closed the pipe; BrokenPipeError: it is gone
    with suppress(EOFError, BrokenPipeError):
        try:
            with open_backend(model, **open_with) as loaded:
                pipe.send((loaded.input, loaded.outputs))
                _answer(loaded, pipe, requests.fileno(), results.fileno())
        except ZoofastError as error:
            os.write(results.fileno(), _FAILED)
            pipe.send(error)


def _answer(model: Model, pipe: Connection, requests: int, results: int) -> None:
    batches: list[NDArray[Any]] = []
    answers: deque[list[NDArray[Any]]] = deque()
    while request := os.read(requests, _REQUEST.size):
        if request != _TALK:
            batch = batches[_REQUEST.unpack(request)[0]]
            begin_ns = time.monotonic_ns()
            outputs = model.infer(batch)
            end_ns = time.monotonic_ns()
            for to, output in zip(answers[0], outputs, strict=True):
                np.copyto(to, output, casting="no")
            os.write(results, _ANSWER.pack(begin_ns, end_ns))
            answers.rotate(-1)
            continue
        [what] = pipe.recv()
        if what == "map":
            batches += _received(pipe, [model.input])[0]
        elif what == "answers":
            answers.extend(_received(pipe, model.outputs, FLYING))
        else:
            pipe.send(getattr(model, what)())


def _received(
    pipe: Connection, tensors: Sequence[TensorInfo], times: int = 1
) -> list[list[NDArray[Any]]]:
    fd = recv_handle(pipe)
    try:
        return _arrays(fd, tensors, times)
    finally:
        os.close(fd)


def _arrays(fd: int, tensors: Sequence[TensorInfo], times: int) -> list[list[NDArray[Any]]]:
    """Arrays for the tensors, one after the other in the shared memory `fd`, so many times."""
    memory, at = mmap.mmap(fd, 0), 0
    found: list[list[NDArray[Any]]] = []
    for _ in range(times):
        found.append([])
        for tensor in tensors:
            found[-1].append(np.ndarray(tensor.shape, tensor.dtype, memory, at))
            at += tensor.nbytes
    return found
