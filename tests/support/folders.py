"""Folders of images for the tests of loading and preparing."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support import jpegs, oracle

SPEC = oracle.Spec(size=(40, 40), crop=(32, 32))  # small, so that the tests are quick


def good_files(n: int) -> dict[str, bytes]:
    """n images of all sorts by name, every kind of decoder among them."""
    files: dict[str, bytes] = {}
    for i in range(n):
        height, width = 30 + 7 * i % 50, 35 + 11 * i % 60
        if i % 7 == 3:
            data = jpegs.gray_jpeg(height, width, i)
        elif i % 7 == 5:
            data = jpegs.save(jpegs.photo(height, width, i), "PNG")
        else:
            data = jpegs.jpeg(height, width, i, subsampling=i % 3, progressive=i % 5 == 1)
        files[f"img{i:04d}.JPEG"] = data
    return files


BAD_FILES = {
    "bad_cut.JPEG": jpegs.jpeg(90, 90, 1)[:900],
    "bad_empty.JPEG": b"",
    "bad_text.JPEG": b"404 not found\n",
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def age(path: Path) -> Path:
    """Makes a file, or those of a folder, old; each has a time of its own. A cache of pixels does
    not keep what was just written."""
    for i, file in enumerate(sorted(path.iterdir()) if path.is_dir() else [path]):
        os.utime(file, ns=(0, 10**18 + i))
    return path


def tensor(data: bytes, spec: oracle.Spec = SPEC) -> NDArray[np.float32]:
    return oracle.tensor(oracle.pixels(data), spec)


def recipe_file(folder: Path, spec: oracle.Spec = SPEC) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.toml"
    path.write_text(spec.toml())
    return str(path)


def sums(folder: Path, *suffixes: str) -> dict[str, str]:
    """name -> sha256 of the files with those suffixes"""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name.endswith(suffixes)
    }


def open_below(folder: Path) -> list[str]:
    """The files below `folder` that this process has open, also removed ones."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of the listing itself, or of another thread
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in found if path.startswith(f"{folder}/")]


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Permissions hold inside, for root too: it acts as nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
