"""The sample name, which joins an image, its tensor and its results."""

from __future__ import annotations

import os
import re

MAX_NAME_BYTES = 240  # of 255 that a file name may have; the others are for suffixes
_FORBIDDEN = re.compile(r"[\0/\n\r]")


def stem(path: str) -> str:
    """The sample name of a path: its last component up to the FIRST dot.

    The guides' scripts and ais_bench name samples in this way.
    `val/ILSVRC2012_val_00000001.JPEG` -> `ILSVRC2012_val_00000001`; `a.1.bin` -> `a`.
    """
    return path[path.rfind("/") + 1 :].partition(".")[0]


def name_problem(name: str) -> str | None:
    """Why `name` cannot be a sample name, which becomes part of file names; None when it can."""
    if not name or name in (".", ".."):
        return "the name before the first dot is empty"
    if _FORBIDDEN.search(name):
        return "the name has a line break, a slash or a null byte"
    try:
        nbytes = len(name if name.isascii() else os.fsencode(name))
    except UnicodeEncodeError:
        return "the name has a character that file names here cannot have"
    if nbytes > MAX_NAME_BYTES:
        return f"the name before the first dot has more than {MAX_NAME_BYTES} bytes"
    return None
