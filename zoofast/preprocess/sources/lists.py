"""Images that a text file lists, one path a line."""

from __future__ import annotations

import os

from zoofast.base.files import read_file
from zoofast.errors import SourceError
from zoofast.preprocess.sources.source import Source


def from_list(where: str) -> Source:
    folder = os.path.dirname(where)
    try:
        lines = read_file(where, pipes=True).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where}: neither a folder, a .tar nor a text file of paths ({error.reason})"
        ) from error
    source = Source(where)
    for line in lines:
        line = line.strip()
        if line and not line.startswith("#"):
            source.add(os.path.join(folder, line))
    return source
