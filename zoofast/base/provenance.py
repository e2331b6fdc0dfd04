"""What results were made from and by: SHA-256 digests of data, files and models, and versions."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path

from zoofast.base.onnx_weights import weight_files

_BLOCK_BYTES = 1 << 20


def sha256(data: bytes) -> str:
    """The SHA-256 of `data`, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def model_digest(model: str) -> str:
    """Identifies a model: the SHA-256 of its file, or `model` itself where it names no file.

    The digest of an ONNX model with weights in further files covers these files too. Raises
    OSError; BackendError for such a file outside of the model's folder.
    """
    if not Path(model).is_file():
        return model
    digest, folder = file_sha256(model), os.path.dirname(model)
    lines = [digest]
    for name in weight_files(model):
        path = os.path.join(folder, name)
        # A file that is missing is an error of the backend.
        lines.append(f"{name} {file_sha256(path) if os.path.isfile(path) else 'missing'}")
    return digest if len(lines) == 1 else sha256(os.fsencode("\n".join(lines)))


def commit() -> str | None:
    """The commit that the installed package was built from; None in a checkout."""
    text = (Path(__file__).parent.parent / "commit.txt").read_text(encoding="utf-8").strip()
    return None if text.startswith("$") else text


def versions() -> dict[str, str]:
    """The versions that determine a tensor's bytes: of packages, of Python, and the CPU level."""
    import numpy
    import PIL

    from zoofast import _core

    return {
        "zoofast": version("zoofast"),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
        "cpu_level": _core.isa(),
        "machine": platform.machine(),
    }
