"""What C libraries print on standard output, in a process that belongs to a device.

aclruntime prints the reasons of its errors there, and raises exceptions with only a number. In a
child process standard output is a file in memory; BackendErrors quote it, and users do not see it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re

_STDOUT = 1
MAX_BYTES = 1 << 20  # kept; a library may print a line for every execution
MAX_LINES, MAX_CHARS = 3, 400  # of a reason
_LOG_LEVEL = re.compile(r"\[(INFO|WARN|WARNING|DEBUG|ERROR)\] *")
_NO_REASON = ("INFO", "WARN", "WARNING", "DEBUG")
_captured = False


def capture() -> None:
    """From now on, standard output of this process is a file in memory."""
    global _captured
    fd = os.memfd_create("stdout")
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # it continues at the front when it is emptied
    os.dup2(fd, _STDOUT)
    os.close(fd)
    _captured = True


def take_reason() -> str:
    """The errors that were printed since the last call, as one line; "" if there are none."""
    if not _captured:
        return "the reason is on standard output"
    ctypes.CDLL(None).fflush(None)
    text = os.pread(_STDOUT, MAX_BYTES, 0).decode(errors="replace")
    os.ftruncate(_STDOUT, 0)
    lines = []
    for line in text.splitlines():
        level = _LOG_LEVEL.match(line)
        if line.strip() and not (level and level[1] in _NO_REASON):
            lines.append(_LOG_LEVEL.sub("", line, count=1).strip())
    return "; ".join(lines[:MAX_LINES])[:MAX_CHARS]


def trim() -> None:
    """Empties the file when it has grown large. Call it now and then."""
    if _captured and os.fstat(_STDOUT).st_size > MAX_BYTES:
        os.ftruncate(_STDOUT, 0)
