"""Child processes for devices. They end in bounded time and never outlive this process.

A child is a new Python process, since a fork of a process that has used a device does not work.
multiprocessing.Process is not used: at exit it waits without limit for a child that hangs in a
driver.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from zoofast.inference import native_output

CLOSING_SECONDS = 5.0  # that a process may take to release its device
TERMINATE_SECONDS = 2.0  # from SIGTERM to SIGKILL
KILL_SECONDS = 2.0  # after SIGKILL; a process that the kernel cannot end is left alone
_PR_SET_PDEATHSIG = 1
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from zoofast.inference.child import run_child; run_child(*map(int, sys.argv[2:]))"
)


class Child:
    """A process that runs `target(connection, *args)`; `connection` is this process's end.

    fds: descriptors that the child gets, with the same numbers. The child ignores Ctrl-C, dies with
    the thread that created it, and its standard output goes to native_output.
    """

    def __init__(self, target: Callable[..., None], *args: Any, fds: Sequence[int] = ()) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            words = [json.dumps(sys.path), str(theirs.fileno()), str(os.getpid())]
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, *words],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *fds),
            )
        with suppress(OSError):  # it has ended already; whoever receives finds out
            self.connection.send((target, args))

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """The exit code, negative for a signal; None while the process runs after `seconds`."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(max(seconds, 0.0))
        return None

    def describe_end(self) -> str:
        """Why nothing can be received any more."""
        code = self.wait(KILL_SECONDS)
        return "closed its connection" if code is None else f"ended with exit code {code}"

    def close(self) -> None:
        """Closes the connection. A child that waits for a message ends then."""
        self.connection.close()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)


def end_children(children: Sequence[Child], seconds: float = TERMINATE_SECONDS) -> None:
    """Ends the processes: SIGTERM, and SIGKILL to those that run after `seconds`.

    Returns within `seconds` and KILL_SECONDS. A KeyboardInterrupt meanwhile kills at once.
    """
    try:
        for child in children:
            child.signal(signal.SIGTERM)
        _wait_all(children, seconds)
    finally:
        for child in children:
            child.signal(signal.SIGKILL)
        _wait_all(children, KILL_SECONDS)


def wait_for_end(children: Sequence[Child]) -> None:
    """Lets processes that have sent all close their devices, for CLOSING_SECONDS at most."""
    _wait_all(children, CLOSING_SECONDS)


def _wait_all(children: Sequence[Child], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for child in children:
        child.wait(deadline - time.monotonic())


def run_child(fd: int, parent: int) -> None:
    """The child process: receives the function to run over the socket `fd`, and runs it."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which decides
    native_output.capture()
    # EOFError: the parent has closed the connection; OSError: it has ended.
    with Connection(fd) as connection, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        target, args = connection.recv()
        target(connection, *args)


def _die_with(parent: int) -> None:
    """Lets the kernel kill this process, also a stopped one, when `parent` ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)
