"""Output files that appear whole or not at all, and input files of any content.

An output is written under a temporary name, `.NAME.part`, and renamed when it is complete. The
temporary file is locked while it is written; one that a killed process left is replaced by the next
run that writes NAME.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from zoofast.base.lock import HeldError, claim, release
from zoofast.errors import OutputError

PART = ".part"  # ends the name of a file that is not whole
MAX_FILE_BYTES = 256_000_000  # of an input file, unless the user sets another limit
MAX_TEXT_BYTES = 8_000_000_000  # of a text that is read in parts: more than 100 million names
MAX_LINE_BYTES = 65_536  # of a line of it
_OPEN_FILES = re.compile(r"/proc/[0-9]+(?:/task/[0-9]+)?/fd")


@contextmanager
def write_errors(path: Path | str) -> Iterator[None]:
    """Turns an OSError into an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def part_path(path: Path, folder: Path | None = None) -> Path:
    """The temporary file of an output, in `folder` or beside the output."""
    return (folder or path.parent) / f".{path.name}{PART}"


def is_device_or_pipe(path: Path | str) -> bool:
    """Whether `path` is no file and no folder, such as /dev/null, or names an open file, as
    /dev/stdout does. Nothing may be put in its place, nor be written beside it."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        return True
    folder = os.path.dirname(path)
    folders = [folder]
    with suppress(OSError):  # no link
        folders.append(os.path.dirname(os.path.join(folder, os.readlink(path))))
    return any(_OPEN_FILES.fullmatch(os.path.realpath(each)) for each in folders)


@contextmanager
def atomic_output(path: Path | str, part_folder: Path | None = None) -> Iterator[Path]:
    """A temporary path to write to; renamed to `path` when the block ends without an error.

    So no reader sees half a file. After an error the temporary file is removed, and an earlier
    `path` is untouched. The temporary file lies beside `path`, or in `part_folder`, which must be
    on the same file system. A device or pipe is written to directly. Raises OutputError that names
    `path`, also for an OSError of the block.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(
            f"{path}: the folder {path.parent} does not exist: mkdir -p {path.parent}"
        )
    if is_device_or_pipe(path):
        with write_errors(path):
            yield path
        return
    part = part_path(path, part_folder)
    with write_errors(path):
        try:
            fd = claim(part)
        except HeldError:
            raise OutputError(f"{path}: another process is writing it now") from None
        try:
            yield part
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        finally:
            with suppress(OSError):  # the file was written through another descriptor
                release(fd)


def write_atomic(path: Path | str, data: bytes, part_folder: Path | None = None) -> None:
    """Writes `data` to `path`, whole or not at all. Raises OutputError that names `path`."""
    with atomic_output(path, part_folder) as part:
        part.write_bytes(data)


def write_pieces(path: Path | str, pieces: Iterable[str]) -> None:
    """Writes a text in UTF-8, whole or not at all. Raises OutputError that names `path`.

    What UTF-8 cannot encode, such as the bytes of some file names, becomes an escape.
    """
    with (
        atomic_output(path) as part,
        part.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.writelines(pieces)


def read_file(path: str | os.PathLike[str], max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a regular file of at most `max_bytes`. Raises OSError for any other."""
    with opened(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_large(path, max_bytes)
    return data


def text_lines(path: str | os.PathLike[str], errors: str = "strict") -> Iterator[str]:
    """The lines of a UTF-8 text without their ends: of a regular file, or of a pipe such as the
    shell's `<(command)`. A line ends with "\\n" or "\\r\\n".

    errors: of bytes.decode, for bytes that are no UTF-8. Raises OSError for any other file, or for
    a text or a line that is too long; UnicodeDecodeError.
    """
    nbytes = count = 0
    with opened(path, pipes=True) as file:
        while data := file.readline(MAX_LINE_BYTES + 1):
            count += 1
            if len(data) > MAX_LINE_BYTES:
                reason = f"line {count} has more than {MAX_LINE_BYTES:,} bytes"
                raise OSError(errno.EFBIG, reason, os.fspath(path))
            text = data.removeprefix(codecs.BOM_UTF8) if nbytes == 0 else data
            nbytes += len(data)
            if nbytes > MAX_TEXT_BYTES:
                raise too_large(path, MAX_TEXT_BYTES)
            yield text.removesuffix(b"\n").removesuffix(b"\r").decode(errors=errors)


@contextmanager
def opened(path: str | os.PathLike[str], pipes: bool = False) -> Iterator[BufferedReader]:
    """A regular file, or also a pipe, to be read. Raises OSError for any other."""
    # O_NONBLOCK: without it, opening a pipe waits for a writer
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if pipes else os.O_NONBLOCK))
    with open(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or (pipes and stat.S_ISFIFO(mode))):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        yield file


def too_large(path: str | os.PathLike[str], max_bytes: int) -> OSError:
    """The error for a file of more than `max_bytes` bytes."""
    return OSError(errno.EFBIG, f"larger than {max_bytes:,} bytes", os.fspath(path))
