"""Several files by one text: `shard-{00000..00063}.tar`, `shard-*.tar`."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator

from zoofast.errors import SourceError

MAX_FILES = 100_000
# ends of the names of files
TAR = ".tar"
TARS = (TAR, ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
PARQUET = ".parquet"
_RANGE = re.compile(r"\{([0-9]{1,18})\.\.([0-9]{1,18})\}")
_WILD = re.compile(r"[*?[]")


def expand(where: str) -> list[str] | None:
    """The paths of the files that `where` names, in order; None if it is the path of one file.

    A range `{FIRST..LAST}` stands for each number in order, with zeros in front as in FIRST or
    LAST. `*`, `?` and `[…]` match names as in a shell; what they match is sorted. An existing file
    is never taken for a pattern. Raises SourceError for a file of a range that does not exist, for
    a pattern that matches nothing, and for more than MAX_FILES files.
    """
    if os.path.lexists(where) or not (_RANGE.search(where) or _WILD.search(where)):
        return None
    paths: list[str] = []
    for path in numbered(where):
        if _WILD.search(path):
            matches = sorted(glob.glob(path))
            if not matches:
                raise SourceError(f"{path}: no file matches")
            paths += matches
        elif os.path.exists(path):
            paths.append(path)
        else:
            raise SourceError(f"{path}: no such file, which is one of {where}")
        if len(paths) > MAX_FILES:
            raise SourceError(f"{where}: more than {MAX_FILES:,} files")
    return paths


def numbered(where: str) -> Iterator[str]:
    """`where` with its ranges filled in; the last range changes fastest, as in a shell."""
    match = _RANGE.search(where)
    if match is None:
        yield where
        return
    first, last = match.groups()
    if int(first) > int(last):
        raise SourceError(f"{where}: the range {match[0]} ends before it begins")
    padded = any(len(text) > 1 and text.startswith("0") for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    for number in range(int(first), int(last) + 1):
        for rest in numbered(where[match.end() :]):
            yield f"{where[: match.start()]}{number:0{width}d}{rest}"
