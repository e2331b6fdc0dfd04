"""Images that a text file lists, one path a line."""

from __future__ import annotations

import os

from zoofast.base.files import text_lines
from zoofast.errors import SourceError
from zoofast.preprocess.sources.source import Source, is_image


def from_list(where: str) -> Source:
    if is_image(where):
        raise SourceError(
            f"{where}: a single image is no source; name its folder, or a text file that lists the "
            "image"
        )
    folder, source = os.path.dirname(where), Source(where)
    # A path may have any bytes but zeros, which nearly every file that is no text has.
    for line in text_lines(where, errors="surrogateescape"):
        if "\0" in line and not is_image(line):
            raise SourceError(
                f"{where}: no folder, .tar (also compressed), .parquet, CIFAR pickle or text file "
                "of paths"
            )
        # A blank may begin a name. No name of an image ends with one, but a line that people wrote
        # may.
        name = line.rstrip()
        path = os.path.join(folder, name)
        is_comment = name.startswith("#") and not os.path.lexists(path)
        if name and not is_comment:
            source.add(path)
    return source
