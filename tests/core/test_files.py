"""Files that the core writes: complete under their final name, and never through a link."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from zoofast import _core


def aligned(nbytes: int) -> np.ndarray:
    """Bytes that begin on a page, as direct I/O needs them; readable up to the last page's end."""
    capacity = nbytes + 2 * _core.PAGE
    memory = np.random.default_rng(nbytes).integers(0, 256, capacity, np.uint8)
    first = -memory.ctypes.data % _core.PAGE
    return memory[first : first + nbytes]


@pytest.mark.parametrize("nbytes", [1, 4095, 4096, 4097, 3 * 4096, 100_000])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("before", ["nothing", "longer files", "links", "a dangling link"])
def test_files_are_written(tmp_path: Path, nbytes: int, offset: int, before: str) -> None:
    data = aligned(nbytes + offset)[offset:]
    path, temporary, victim = tmp_path / "a.bin", tmp_path / "a.bin.part", tmp_path / "victim"
    victim.write_bytes(b"precious")
    if before == "longer files":
        path.write_bytes(b"old" * 50_000)
        temporary.write_bytes(b"left by a process that was killed" * 10_000)
    elif before == "links":
        path.symlink_to(victim)
        temporary.symlink_to(victim)
    elif before == "a dangling link":
        temporary.symlink_to(tmp_path / "absent")
    _core.write_file(path, temporary, data)
    assert path.read_bytes() == data.tobytes()
    assert not path.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "victim"]
    assert victim.read_bytes() == b"precious"


def test_a_hard_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.link(victim, tmp_path / "a.part")
    _core.write_file(tmp_path / "a", tmp_path / "a.part", aligned(5000))
    assert victim.read_bytes() == b"precious"


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    data = aligned(5000)
    with pytest.raises(FileNotFoundError):
        _core.write_file(tmp_path / "absent/a", tmp_path / "absent/a.part", data)
    (tmp_path / "a.part").mkdir()
    with pytest.raises(OSError):
        _core.write_file(tmp_path / "a", tmp_path / "a.part", data)
    assert os.listdir(tmp_path) == ["a.part"]
    with pytest.raises(OSError, match="name too long"):
        _core.write_file(tmp_path / "b", tmp_path / ("b" * 256), data)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        _core.write_file(tmp_path / "folder", tmp_path / "c.part", data)
    assert sorted(os.listdir(tmp_path)) == ["a.part", "folder"]
