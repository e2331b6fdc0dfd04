"""A zoofast command in the process of the test: a process of its own takes a third of a second.

Tests of what only a process has (signals, terminals, streams that fail, limits of memory) start
the installed command instead.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest import mock

from zoofast.cli import main


class Ended(NamedTuple):
    """What subprocess.run tells of a process."""

    returncode: int
    stdout: str
    stderr: str


def call(function: Callable[[], object], encoding: str = "utf-8", **environment: str) -> Ended:
    """Calls `function`, which returns an exit code or raises SystemExit.

    encoding: of standard output and standard error, which are no terminals.
    environment: variables for the call.
    """
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    error = io.TextIOWrapper(io.BytesIO(), encoding, "backslashreplace")
    with (
        mock.patch.dict(os.environ, environment),
        redirect_stdout(out),
        redirect_stderr(error),
    ):
        try:
            code = function()
        except SystemExit as end:
            code = end.code
    texts = []
    for stream in (out, error):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]
    return Ended(code if isinstance(code, int) else int(code is not None), *texts)


def zoofast(*words: object, encoding: str = "utf-8", **environment: str) -> Ended:
    """Runs `zoofast WORDS` on a terminal's width of 120 columns."""
    arguments = [str(word) for word in words]
    return call(lambda: main(arguments), encoding, **{"COLUMNS": "120", **environment})
