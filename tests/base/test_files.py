"""Files that are whole or absent, and the reading of files of any kind."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zoofast.base import files
from zoofast.base.files import (
    atomic_output,
    is_device_or_pipe,
    part_path,
    read_file,
    text_lines,
    write_atomic,
)
from zoofast.errors import OutputError


def test_the_file_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_atomic(path, b"first")
    with pytest.raises(ZeroDivisionError), atomic_output(path) as part:
        part.write_bytes(b"half")
        assert path.read_bytes() == b"first"
        _ = 1 / 0
    assert path.read_bytes() == b"first"
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_output(tmp_path / "out" / "x", tmp_path) as part:
        assert part.parent == tmp_path
        part.write_bytes(b"whole")
        assert list((tmp_path / "out").iterdir()) == []
    assert (tmp_path / "out" / "x").read_bytes() == b"whole"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_a_killed_process_or_an_attacker_left_is_replaced(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "x", tmp_path / "other"
    other.write_text("precious")
    if kind == "file":
        part_path(path).write_text("half")
    else:
        part_path(path).symlink_to(other)
    write_atomic(path, b"whole")
    assert path.read_bytes() == b"whole" and not path.is_symlink()
    assert other.read_text() == "precious"
    assert sorted(tmp_path.iterdir()) == [other, path]


def test_kill_9_leaves_what_the_next_run_replaces(tmp_path: Path) -> None:
    code = """
import sys
from zoofast.base.files import atomic_output
with atomic_output(sys.argv[1]) as part:
    part.write_text("half")
    print("wrote", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "x")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "wrote\n"
    with pytest.raises(OutputError, match="x: another process is writing it now"):
        write_atomic(tmp_path / "x", b"second")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == [".x.part"]
    write_atomic(tmp_path / "x", b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    write_atomic("/dev/null", b"x")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OutputError, match="/dev/full: cannot be written: No space left on device"):
        write_atomic("/dev/full", b"x")


@pytest.mark.parametrize("way", ["link", "/proc/self/fd", "/dev/fd"])
def test_an_open_file_is_written_to_and_not_replaced(tmp_path: Path, way: str) -> None:
    """As the shell's `-o /dev/stdout > file`."""
    with (tmp_path / "file").open("wb") as file:
        path = Path("/proc/self/fd" if way == "link" else way, str(file.fileno()))
        if way == "link":  # as /dev/stdout is one
            path = tmp_path / "stdout"
            path.symlink_to(f"/proc/self/fd/{file.fileno()}")
        assert is_device_or_pipe(path) and path.is_symlink()
        write_atomic(path, b"whole")
        assert path.is_symlink()
    assert (tmp_path / "file").read_bytes() == b"whole"
    (tmp_path / "other").symlink_to("file")
    assert not is_device_or_pipe(tmp_path / "other") and not is_device_or_pipe("file")


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no/x: the folder .*no does not exist: mkdir -p"):
        write_atomic(tmp_path / "no" / "x", b"")
    with pytest.raises(OutputError, match="cannot be written: Is a directory"):
        write_atomic(tmp_path, b"")
    assert list(tmp_path.iterdir()) == []
    output = atomic_output(tmp_path / "x")
    with pytest.raises(OutputError, match="x: cannot be written: No space left on device"), output:
        Path("/dev/full").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_reading_a_file_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_file(path, 4)
    with path.open("wb") as sparse:
        sparse.truncate(100 << 30)
    with pytest.raises(OSError, match="larger than 256,000,000 bytes"):
        read_file(path)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="not a regular file"):
            read_file(other)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_lines_end_with_a_line_feed_alone(tmp_path: Path, start: bytes) -> None:
    """Perhaps after a carriage return; a path may have the other ends that Python knows."""
    path, rng = tmp_path / "text", random.Random(5)
    parts = [
        "a",
        "é",
        "日本",
        "\n",
        "\r\n",
        "b\rb",
        "\v",
        "\x0c",
        "\x1c",
        "\x85",
        "\u2028",
        " ",
        "",
    ]
    for _ in range(300):
        text = "x" + "".join(rng.choices(parts, k=rng.randrange(30)))
        path.write_bytes(start + text.encode())
        lines = io.StringIO(text.replace("\r\n", "\n"), newline="\n")
        assert list(text_lines(path)) == [line.removesuffix("\n") for line in lines]


def test_lines_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text"
    longest = "é" * (files.MAX_LINE_BYTES // 2 - 1) + "a\n"
    path.write_text(longest * 2)
    assert list(text_lines(path)) == [longest[:-1]] * 2
    for line in (longest[:-1] + "aa", "é" * files.MAX_LINE_BYTES, "a" + "é" * files.MAX_LINE_BYTES):
        path.write_text(f"one\n{line}\n")
        with pytest.raises(OSError, match="line 2 has more than 65,536 bytes"):
            list(text_lines(path))
    path.write_bytes(b"one\n\xff\n")
    lines = text_lines(path)
    assert next(lines) == "one"
    with pytest.raises(UnicodeDecodeError):
        next(lines)
    assert list(text_lines(path, errors="surrogateescape")) == ["one", "\udcff"]
    with pytest.raises(OSError, match="not a regular file"):
        list(text_lines("/dev/zero"))
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 10)
    path.write_text("1234\n" * 2)
    assert list(text_lines(path)) == ["1234"] * 2
    path.write_text("1234\n" * 2 + "\n")
    with pytest.raises(OSError, match="larger than 10 bytes"):
        list(text_lines(path))
