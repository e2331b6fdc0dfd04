"""Images that a text file lists, one path a line."""

from __future__ import annotations

import os

from zoofast.base.files import text_lines
from zoofast.errors import SourceError
from zoofast.preprocess.sources.source import Source, is_image


def from_list(where: str) -> Source:
    folder, source = os.path.dirname(where), Source(where)
    try:
        for line in text_lines(where):
            line = line.strip()
            if line and not line.startswith("#"):
                source.add(os.path.join(folder, line))
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
    return source
