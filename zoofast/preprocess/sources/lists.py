"""Images that a text file lists, one path a line."""

from __future__ import annotations

import os

from zoofast.base.files import read_file
from zoofast.errors import SourceError
from zoofast.preprocess.sources.source import Source, is_image


def from_list(where: str) -> Source:
    folder = os.path.dirname(where)
    try:
        lines = read_file(where, pipes=True).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        if is_image(where):
            raise SourceError(
                f"{where}: a single image is no source; name its folder, or a text file that "
                "lists the image"
            ) from error
        raise SourceError(
            f"{where}: no folder, .tar (also compressed), .parquet, CIFAR pickle or text file of "
            "paths"
        ) from error
    source = Source(where)
    for line in lines:
        line = line.strip()
        if line and not line.startswith("#"):
            source.add(os.path.join(folder, line))
    return source
