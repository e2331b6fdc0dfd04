"""A folder that the driver and all nodes see, and the files of logits or tensors that tasks write
to it."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoofast.base.files import atomic_output, write_errors
from zoofast.base.npy import map_npy
from zoofast.errors import OutputError

LOGITS_BYTES = 64 << 20  # of the logits of a task, which a node holds in memory
TENSORS_BYTES = 512 << 20  # of the tensors of a task


@contextmanager
def shared_folder(folder: Path) -> Iterator[str]:
    """Makes `folder` anew for a run, with a file in it; yields the file's absolute path.

    A node that finds the file sees the driver's folder, and not another one of the same name. The
    folder is removed at the end. The caller holds a lock on it. Raises OutputError.
    """
    mark = Path(os.path.abspath(folder), secrets.token_hex(8))
    with write_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)  # of a driver that was killed
        mark.parent.mkdir()
        mark.touch()
    try:
        yield str(mark)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_shared(mark: str, folder: str) -> None:
    """Raises OutputError unless this node sees the folder of the file `mark`. folder: for the
    message."""
    if not os.path.exists(mark):
        raise OutputError(
            f"{folder}: this node does not see the driver's folder; the output must be on storage "
            "that all nodes share, under the same path"
        )


def write_logits(mark: str, parts: Sequence[NDArray[np.float32]]) -> str:
    """Writes the rows of `parts`, (n, classes) each, to a new file beside `mark`.

    Returns the file's name. Raises OutputError.
    """
    path = new_file(mark)
    with atomic_output(path) as part, part.open("wb") as file:
        np.save(file, np.concatenate(parts))
    return path.name


def new_file(mark: str) -> Path:
    """The path of a file beside `mark` that no other task writes."""
    return Path(mark).with_name(f"{secrets.token_hex(8)}.npy")


@contextmanager
def read_logits(mark: str, name: str, shape: tuple[int, int]) -> Iterator[NDArray[np.float32]]:
    """The rows of a file of `write_logits`, float32 of `shape`. It is removed when the block ends
    without an error. Raises OutputError."""
    path = Path(mark).with_name(name)
    try:
        rows = map_npy(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path}: logits of a node cannot be read: {reason}") from error
    if rows.shape != shape or rows.dtype != np.float32:
        raise OutputError(f"{path}: holds {rows.dtype} {list(rows.shape)}, not {list(shape)}")
    yield rows
    with write_errors(path):
        path.unlink()
