"""Output files that appear whole or not at all; what tells a model from another."""

from __future__ import annotations

import hashlib
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


def model_digest(model: str) -> str:
    """What tells a model file from another: its SHA-256; for no file, the text itself."""
    path = Path(model)
    if not path.is_file():
        return model
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
