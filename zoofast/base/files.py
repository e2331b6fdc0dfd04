"""Output files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoofast.errors import OutputError

PART = ".part"  # ends the name of a file that is not whole


@contextmanager
def write_errors(path: Path | str) -> Iterator[None]:
    """Turns an OSError into an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def atomic_output(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed to `path` when the block ends well.

    So no reader sees half a file. After an error the temporary file is removed, and an earlier
    `path` is untouched. Raises OutputError that names `path`, also for an OSError of the block.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(
            f"{path}: the folder {path.parent} does not exist: mkdir -p {path.parent}"
        )
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    with write_errors(path):
        try:
            yield part
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_atomic(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all. Raises OutputError that names `path`."""
    with atomic_output(path) as part:
        part.write_bytes(data)
