"""A model in a process of its own, for backends that keep the GIL while the device computes.

Batches are not sent: the process maps the loader's ring, and is told which batch to run.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast import _core
from zoofast.backends import TensorInfo, Times, check_batch, open_backend
from zoofast.errors import BackendError, ZoofastError

CLOSING_SECONDS = 10.0  # for the device to be let go of


class RemoteModel:
    """See zoofast.backends.Model; `open_with` is for zoofast.backends.open_backend.

    `infer` takes only arrays of the batches that were given to `share`.
    """

    lanes = 1

    def __init__(self, model: str, **open_with: Any) -> None:
        self._model, self._device = model, open_with.get("device", 0)
        self._batches: dict[int, int] = {}  # address -> number
        # spawned: a fork of a process that has used a device is broken
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, model, open_with), name=f"device {self._device}"
        )
        self._process.daemon = True
        self._process.start()
        theirs.close()
        try:
            self.input, self.outputs = self._receive()
        except BaseException:
            self.kill()
            raise

    def share(self, batches: Sequence[_core.Batch]) -> None:
        """Lets the process map shared batches of the model's size."""
        for number, batch in enumerate(batches):
            self._batches[_address(batch.array)] = number
            self._pipe.send(("map", batch.array.nbytes))
            assert self._process.pid is not None
            send_handle(self._pipe, batch.fd, self._process.pid)

    def infer(self, batch: NDArray[Any], loop: int = 1) -> list[NDArray[Any]]:
        check_batch(self.input, batch)
        outputs: list[NDArray[Any]] = self._call("infer", self._batches[_address(batch)], loop)
        return outputs

    def times(self) -> Times:
        times: Times = self._call("times")
        return times

    def reset_times(self) -> None:
        self._call("reset_times")

    def kill(self) -> None:
        """Ends the process at once; from any thread. A call that waits for it raises."""
        self._process.kill()

    def _call(self, *request: Any) -> Any:
        with suppress(OSError):  # it is gone; receiving says how
            self._pipe.send(request)
        return self._receive()

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
        self._pipe.close()  # the process closes the model, and ends
        self._process.join(CLOSING_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _serve(pipe: Connection, model: str, open_with: dict[str, Any]) -> None:
    """In the process: answers requests until the pipe is closed, ZoofastErrors included."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the pipe
    # EOFError: the parent closed the pipe; BrokenPipeError: it is gone
    with suppress(EOFError, BrokenPipeError):
        try:
            with open_backend(model, **open_with) as loaded:
                pipe.send((loaded.input, loaded.outputs))
                batches: list[NDArray[Any]] = []
                while True:
                    what, *arguments = pipe.recv()
                    if what == "map":
                        batches.append(_mapped(recv_handle(pipe), arguments[0], loaded.input))
                    elif what == "infer":
                        number, loop = arguments
                        pipe.send(loaded.infer(batches[number], loop))
                    else:
                        pipe.send(getattr(loaded, what)())
        except ZoofastError as error:
            pipe.send(error)


def _mapped(fd: int, nbytes: int, info: TensorInfo) -> NDArray[Any]:
    try:
        memory = mmap.mmap(fd, nbytes)
    finally:
        os.close(fd)
    return np.frombuffer(memory, info.dtype).reshape(info.shape)
