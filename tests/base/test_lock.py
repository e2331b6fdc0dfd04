"""One writer for each output: between processes, after kill -9, and across forks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zoofast.base.lock import HeldError, claim, lock_path, output_lock, release
from zoofast.errors import OutputError

HOLD = """
import sys, time
from zoofast.base.lock import output_lock
with output_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(output: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of `output`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    process.communicate()


@pytest.mark.parametrize("kind", ["folder", "file", "new file"])
def test_the_second_process_is_told_who_has_it(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out"
    if kind == "folder":
        output.mkdir()
    elif kind == "file":
        output.write_text("earlier")
    first = holder(output)
    try:
        told = rf"out is in use by process {first.pid} on \S+ \(-c {re.escape(str(output))}\); wait"
        with pytest.raises(OutputError, match=told), output_lock(output):
            pass
    finally:
        end(first, signal.SIGKILL)
    with output_lock(output):  # the kernel freed it
        assert lock_path(output).exists()
    assert not lock_path(output).exists()


def test_two_locks_in_one_process(tmp_path: Path) -> None:
    with output_lock(tmp_path):
        with pytest.raises(OutputError, match=f"process {os.getpid()} on"), output_lock(tmp_path):
            pass
        with output_lock(tmp_path / "other"):
            pass
    with output_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_chosen_lock_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with output_lock(out, tmp_path / ".out.lock"):
        assert list(out.iterdir()) == []
        second = output_lock(out, tmp_path / ".out.lock")
        with pytest.raises(OutputError, match="out is in use"), second:
            pass
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    lock = output_lock(tmp_path / "no" / "x")
    with pytest.raises(OutputError, match=r"no/\.x\.lock: cannot be written: No such file"), lock:
        pass


def test_a_forked_child_does_not_prolong_the_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    with output_lock(tmp_path):
        child = os.fork()
        if child == 0:
            os.read(read, 1)  # outlives the block of its parent
            os._exit(0)
    try:
        with output_lock(tmp_path):
            pass
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


def test_a_child_that_leaves_the_block_does_not_free_the_lock(tmp_path: Path) -> None:
    with output_lock(tmp_path):
        lock = output_lock(tmp_path / "x")
        lock.__enter__()
        child = os.fork()
        if child == 0:
            lock.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(OutputError, match="in use"), output_lock(tmp_path / "x"):
            pass
        lock.__exit__(None, None, None)


@pytest.mark.parametrize("kind", ["file", "link", "link to nothing", "pipe"])
def test_what_lies_in_the_way_is_replaced_and_never_followed(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "lock", tmp_path / "other"
    other.write_text("precious")
    if kind == "file":
        path.write_text("process 1 on earth (gone)")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(other if kind == "link" else tmp_path / "made")
    fd = claim(path)
    os.write(fd, b"mine")
    assert path.read_bytes() == b"mine"
    assert path.is_file() and not path.is_symlink()
    with pytest.raises(HeldError):
        claim(path)
    release(fd)
    assert other.read_text() == "precious"
    assert not (tmp_path / "made").exists()


def test_many_at_once_are_one_after_the_other(tmp_path: Path) -> None:
    """Processes that start together: each either has the lock alone, or is refused."""
    code = """
import sys
from pathlib import Path
from zoofast.base.lock import output_lock
from zoofast.errors import OutputError
out, mine = Path(sys.argv[1]), Path(sys.argv[1]) / "inside"
sys.stdin.readline()
entered = 0
for _ in range(60):
    try:
        with output_lock(out):
            mine.touch(exist_ok=False)
            mine.unlink()
            entered += 1
    except OutputError as error:
        assert "in use by" in str(error), error
print(entered)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    entered = [int(process.communicate()[0]) for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sum(entered) > 0
    assert list(tmp_path.iterdir()) == []
