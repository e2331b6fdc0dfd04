"""One lock for each output, so that no two processes write to one output at the same time.

The lock is `flock` on a small file inside an output folder, or beside an output file. The kernel
frees the lock when its process ends, also by kill -9. What such a process left is taken over by the
next: files are created with O_EXCL and O_NOFOLLOW, so that no link of that name is ever followed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zoofast.base.urls import redacted
from zoofast.errors import OutputError

FOLDER_LOCK = ".zoofast.lock"  # the lock file of a folder, inside the folder
HOLDER_BYTES = 1000  # of a lock file: who holds the lock
HOLDER_SECONDS = 0.5  # a holder has written its name by then
# errors of file systems that have no locks
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)

_held: set[int] = set()  # descriptors of locks that this process holds


def _close_inherited() -> None:
    """In a forked child: a lock would live as long as the child's copy of the descriptor."""
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)


class HeldError(Exception):
    """Another process holds the lock of a file."""


class InUseError(OutputError):
    """Another process writes to an output. The message names that process."""


def claim(path: Path) -> int:
    """Creates the file `path` and locks it; returns its descriptor, open for writing.

    A file that a dead process left there is replaced. Raises HeldError when a process, also this
    one, holds the lock; OSError.
    """
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            _remove_abandoned(path)
            continue
        # Another process may have seen the file before it was locked, and have removed it.
        if _lock(fd) and _is_at(fd, path):
            _held.add(fd)
            return fd
        os.close(fd)


def release(fd: int) -> None:
    """Closes the descriptor of `claim`, which frees the lock; not in a forked child."""
    if fd in _held:
        _held.remove(fd)
        os.close(fd)


def _remove_abandoned(path: Path) -> None:
    """Removes the file `path` unless a process holds its lock: then HeldError."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            fd = os.open(path, flags | os.O_RDWR)  # NFS locks files that are open for writing
        except PermissionError:
            fd = os.open(path, flags | os.O_RDONLY)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a link, a socket: nobody's lock
            raise
        os.unlink(path)
        return
    try:
        if not _lock(fd):
            raise HeldError
        if _is_at(fd, path):
            os.unlink(path)
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    """Takes the lock of an open file if it is free, or if the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)


def lock_path(output: Path) -> Path:
    """The lock file of an output: inside a folder, beside a file."""
    if output.is_dir():
        return output / FOLDER_LOCK
    return output.with_name(f".{output.name}.lock")


@contextmanager
def output_lock(output: Path | str, lock_file: Path | None = None) -> Iterator[None]:
    """Holds the lock of `output`, a folder or a file, while the block runs.

    lock_file: where the lock is, if not at lock_path(output). It is removed at the end. Raises
    InUseError at once when another process has the lock; OutputError when the lock file cannot be
    written.
    """
    output = Path(output)
    path = lock_file or lock_path(output)
    try:
        fd = claim(path)
    except HeldError:
        raise InUseError(
            f"{output} is in use by {_holder(path)}; wait for its end, or choose another output"
        ) from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    with suppress(OSError):  # on a full disk the lock holds too
        os.write(fd, _this_process().encode(errors="backslashreplace")[:HOLDER_BYTES])
    try:
        yield
    finally:
        if fd in _held:
            with suppress(OSError):  # the folder may be gone
                os.unlink(path)
            with suppress(OSError):  # nobody needs what the lock file says
                release(fd)


def _this_process() -> str:
    program, *arguments = sys.argv or ["python"]
    command = shlex.join([os.path.basename(program), *map(redacted, arguments)])
    return f"process {os.getpid()} on {platform.node()} ({command})\n"


def _holder(path: Path) -> str:
    """Who holds the lock `path`, as that process wrote it."""
    deadline = time.monotonic() + HOLDER_SECONDS
    with suppress(OSError):  # the holder may have ended meanwhile
        while time.monotonic() < deadline:
            text = path.read_bytes()[:HOLDER_BYTES].decode(errors="replace").strip()
            if text:
                return "".join(char if char.isprintable() else "?" for char in text)
            time.sleep(0.01)
    return "another process"
