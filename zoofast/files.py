"""Output files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from zoofast.errors import OutputError


def write_whole(path: Path | str, data: bytes) -> None:
    """Writes `data` beside `path` and renames it there, so that no reader sees half a file.

    Raises OutputError naming the file; what stood at `path` before is then untouched.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            out.write(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
