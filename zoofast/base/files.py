"""Output files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoofast.errors import OutputError


@contextmanager
def atomic_output(path: Path | str) -> Iterator[Path]:
    """A path beside `path` to write to; it becomes `path` when the block ends without an error.

    So no reader sees half a file. After an error nothing of it is left, and an earlier `path` is
    untouched. Raises OutputError naming the file, for an OSError of the block as well.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(
            f"{path}: the folder {path.parent} does not exist: mkdir -p {path.parent}"
        )
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
        raise


def write_atomic(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all. Raises OutputError naming the file."""
    with atomic_output(path) as part:
        part.write_bytes(data)
