"""Named rows: short writes, errors of close, and what an earlier writer left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from zoofast.base import rows as module
from zoofast.base.rows import NamedRows, read_named_rows
from zoofast.errors import OutputError

NAMES = [f"image{i}" for i in range(50)]
ROWS = np.random.default_rng(0).normal(size=(50, 33)).astype(np.float32)


def write(path: Path) -> None:
    rows = NamedRows(path, (33,), "float32")
    try:
        for i in range(0, 50, 7):
            rows.append(NAMES[i : i + 7], ROWS[i : i + 7])
        rows.finish()
    finally:
        rows.close()


def test_writes_that_come_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write may take any part of the bytes; the header once ended up cut, with exit 0."""
    real = os.write

    def short(fd: int, data: memoryview) -> int:
        return real(fd, data[: max(1, len(data) // 3)])

    monkeypatch.setattr(module.os, "write", short)
    monkeypatch.setattr(module.os, "pwrite", lambda fd, data, at: os.pwrite(fd, data[:9], at))
    write(tmp_path / "x.npy")
    names, array = read_named_rows(tmp_path / "x.npy")
    assert names == NAMES
    assert np.array_equal(array, ROWS)
    assert np.array_equal(np.load(tmp_path / "x.npy"), ROWS)


@pytest.mark.parametrize("name", ["x.npy", "x.names.txt"])
def test_a_pipe_is_not_replaced(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(OutputError, match=f"{name} is a device or a pipe; name a file"):
        write(tmp_path / "x.npy")
    assert [path.is_fifo() for path in tmp_path.iterdir()] == [True]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("failing", [1, 2])
def test_a_close_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, failing: int
) -> None:
    """NFS and quotas report a failed write at close; nothing may get its final name then."""
    real: Callable[[int], None] = os.close
    calls = 0

    def close(fd: int) -> None:
        nonlocal calls
        calls += 1
        real(fd)
        if calls == failing:
            raise OSError(number, os.strerror(number))

    rows = NamedRows(tmp_path / "x.npy", (33,), "float32")
    rows.append(NAMES, ROWS)
    monkeypatch.setattr(module.os, "close", close)
    with pytest.raises(OutputError, match=rf"x\.npy.*: cannot be written: {os.strerror(number)}"):
        rows.finish()
    rows.close()  # all is closed already
    assert calls == 2
    assert not (tmp_path / "x.npy").exists()
    assert not (tmp_path / "x.names.txt").exists()


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "write", full)
    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        write(tmp_path / "x.npy")
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize("name", ["x.npy.part", "x.names.txt.part"])
def test_links_of_temporary_names_are_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "other").write_text("precious\n" * 1000)
    (tmp_path / name).symlink_to(tmp_path / "other")
    write(tmp_path / "x.npy")
    assert read_named_rows(tmp_path / "x.npy")[0] == NAMES
    rows = NamedRows(tmp_path / "x.npy", (33,), "float32")
    for path in ("x.npy", "x.names.txt"):
        (tmp_path / path).unlink()
    for path in ("x.npy.part", "x.names.txt.part"):
        (tmp_path / path).symlink_to(tmp_path / "other")
    with pytest.raises(OutputError, match="cannot be written: Too many levels"):
        rows.reopen(len)
    assert (tmp_path / "other").read_text() == "precious\n" * 1000


def test_a_finished_output_stays_until_the_next_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    write(path)
    rows = NamedRows(path, (33,), "float32")
    rows.clear_parts()
    rows.append(NAMES[:3], -ROWS[:3])
    rows.close()  # as after an error
    names, array = read_named_rows(path)
    assert names == NAMES and np.array_equal(array, ROWS)
    again = NamedRows(path, (33,), "float32")
    left: list[str] = []
    assert again.reopen(lambda names: left.extend(names) or len(names)) == 3
    assert left == NAMES[:3]
    again.append(NAMES[3:5], -ROWS[3:5])
    again.finish()
    names, array = read_named_rows(path)
    assert names == NAMES[:5] and np.array_equal(array, -ROWS[:5])


def test_a_finished_output_stays_where_nothing_of_it_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    write(path)
    assert NamedRows(path, (33,), "float32").reopen(lambda names: 0) == 0
    assert read_named_rows(path)[0] == NAMES


@pytest.mark.parametrize("order", [None, np.array([2, 0, 1])])
@pytest.mark.parametrize("step", range(6))
def test_a_kill_while_an_output_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, order: NDArray[np.int64] | None
) -> None:
    """Whenever the process ends in finish(), no new row stands beside an old name, and the new
    rows can be had."""
    path = tmp_path / "x.npy"
    write(path)
    rows = NamedRows(path, (33,), "float32")
    rows.append(["a", "b", "c"], -ROWS[:3])
    with monkeypatch.context() as patched:
        calls = 0

        def interrupt(real: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: object) -> None:
                nonlocal calls
                calls += 1
                if calls > step:
                    raise KeyboardInterrupt
                real(*arguments)

            return call

        for name in ("replace", "unlink"):
            patched.setattr(os, name, interrupt(getattr(os, name)))
        try:
            rows.finish(order)
            finished = True
        except KeyboardInterrupt:
            finished = False
    rows.close()
    if path.exists() and (tmp_path / "x.names.txt").exists():
        names, array = read_named_rows(path)
        new = dict(zip(["a", "b", "c"], -ROWS[:3], strict=True))
        old = dict(zip(NAMES, ROWS, strict=True))
        assert all(
            np.array_equal(row, (new | old)[name]) for name, row in zip(names, array, strict=True)
        )
    assert not (finished and step < 3)  # there are at least three steps
    if not finished:
        again = NamedRows(path, (33,), "float32")
        assert again.reopen(lambda names: 3 * (sorted(names) == ["a", "b", "c"])) == 3
        again.finish()
    names, array = read_named_rows(path)
    for name, row in zip(names, array, strict=True):
        assert np.array_equal(row, -ROWS["abc".index(name)])
    assert sorted(names) == ["a", "b", "c"]
