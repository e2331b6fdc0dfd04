"""Where images come from: a folder, a folder of class folders, a tar file, a pickle, a list.

Rules for every source:

- A file whose suffix is not that of an image, and a file whose name begins with a dot (such as the
  `._x.jpg` of macOS), is skipped and counted.
- A sample name becomes part of file names. An image whose name cannot be one (see name_problem), or
  whose size in its archive is negative, fails alone: it is named, counted and left out.
- Two images of one name are an error, since the second would overwrite the first's output.
- A member of an archive is read from the archive alone. Its name is never a path to open.
- A folder is listed once, however many links lead to it.
"""

from __future__ import annotations

import errno
import io
import os
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from zoofast.base.files import MAX_FILE_BYTES, read_file
from zoofast.base.names import name_problem, stem
from zoofast.errors import SourceError
from zoofast.preprocess.pickles import is_pickle, read_pictures

MAX_HEADER_BYTES = 1 << 20  # of a tar header, long names and pax attributes included
SUFFIXES = frozenset(
    (".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
)


@dataclass(frozen=True)
class Item:
    """One image: its sample name (see zoofast.base.names), and where its bytes are.

    path: for messages, and the file to open unless the image is a member of a tar file, which has
    `offset` and `nbytes`. problem: why the image cannot be prepared, if its name alone says so.
    """

    name: str
    path: str
    offset: int | None = None
    nbytes: int = 0  # of a member
    problem: str | None = None

    @property
    def in_archive(self) -> bool:
        return self.offset is not None


@dataclass
class Source:
    """A listed source: items in a fixed order. A context manager (it may hold a file open)."""

    where: str
    items: list[Item]
    skipped: list[str] = field(default_factory=list)  # files that are no images, by their name
    fd: int = -1  # of the tar file, or of the images of a pickle
    labels: Mapping[str, int] | None = None  # of the images, by name, if the source has them

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read(self, item: Item, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The item's bytes. Raises OSError, also for more than `max_bytes`, and for no file."""
        if item.problem is not None:
            raise OSError(errno.EINVAL, item.problem)
        if item.offset is None:
            return read_file(item.path, max_bytes)
        if item.nbytes > max_bytes:
            raise OSError(errno.EFBIG, f"larger than {max_bytes:,} bytes")
        return os.pread(self.fd, item.nbytes, item.offset)

    def add(self, path: str, offset: int | None = None, nbytes: int = 0) -> None:
        """Adds the image `path`, or counts it as skipped when it is none by its name."""
        base = os.path.basename(path)
        if base.startswith(".") or os.path.splitext(base)[1].lower() not in SUFFIXES:
            self.skipped.append(path)
            return
        name = stem(base)
        problem = name_problem(name)
        if problem is None and "\0" in path:
            problem = "the path has a null byte"
        if problem is None and nbytes < 0:
            problem = f"its size in the archive is {nbytes} bytes"
        self.items.append(Item(name, path, offset, nbytes, problem))


def open_source(where: str | os.PathLike[str]) -> Source:
    """Lists the images of `where`, in a fixed order.

    A folder is walked with its subfolders (so ImageFolder trees work), sorted by path. A `.tar` is
    indexed and read in place, in its members' order. A pickle of CIFAR, or of JPEGs, is read whole;
    its images are named by their numbers, from 00000. Any other file is a list of paths, one a
    line; a relative path starts at the list's own folder. Files and folders whose names begin with
    a dot are skipped. The suffix of a name, in any case, says whether a file is an image.

    Raises SourceError: nothing there, not readable, no images, or two images of one name.
    """
    where = os.fspath(where)
    try:
        if os.path.isdir(where):
            source = _from_folder(where)
        elif not os.path.exists(where):
            raise SourceError(f"{where}: no such folder, tar file or list")
        elif where.lower().endswith(".tar"):
            source = _from_tar(where)
        elif where.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")):
            raise SourceError(
                f"{where}: a compressed archive cannot be read in place; unpack it once to .tar "
                "or to a folder"
            )
        elif os.path.isfile(where) and is_pickle(_first_bytes(where)):
            source = _from_pickle(where)
        else:
            source = _from_list(where)
    except OSError as error:
        raise SourceError(f"{error.filename or where}: {error.strerror or error}") from error
    try:
        if not source.items:
            skipped = f" ({len(source.skipped)} other files)" if source.skipped else ""
            raise SourceError(
                f"{where}: no images{skipped}; known suffixes: {', '.join(sorted(SUFFIXES))}"
            )
        _check_duplicates(source.items)
    except SourceError:
        source.close()
        raise
    return source


_Folder = tuple[str, frozenset[tuple[int, int]]]  # its path, and the folders that it lies in


def _from_folder(where: str) -> Source:
    source = Source(where, [])
    # Linked folders come last: a folder that is also linked to is listed under its own path.
    folders: list[_Folder] = [(where, frozenset())]
    links: list[_Folder] = []
    first: dict[tuple[int, int], str] = {}  # the path that each folder was listed under
    twice: list[tuple[str, str]] = []
    files: list[str] = []
    while folders or links:
        folder, above = folders.pop() if folders else links.pop()
        status = os.stat(folder)
        own = (status.st_dev, status.st_ino)
        if own in above:
            continue  # a link to a folder that it lies in
        if own in first:
            twice.append((first[own], folder))
            continue
        first[own] = folder
        with os.scandir(folder) as entries:
            for entry in entries:
                # entry.is_dir() raises for a link that leads nowhere but to itself
                if not entry.is_symlink():
                    is_folder, into = entry.is_dir(), folders
                else:
                    is_folder, into = os.path.isdir(entry.path), links
                if is_folder and entry.name.startswith("."):
                    source.skipped.append(entry.path)
                elif is_folder:
                    into.append((entry.path, above | {own}))
                else:
                    files.append(entry.path)
    for path in sorted(files):
        source.add(path)
    for listed, other in twice:
        if any(item.path.startswith(listed + os.sep) for item in source.items):
            raise SourceError(
                f"{other} and {listed} are one folder, whose images would overwrite each other's "
                "output, since names end at the first dot; remove the link"
            )
    return source


class _Headers(io.FileIO):
    """A tar file for tarfile to list: a header that claims to be large is not read into memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size) or b""


def _from_tar(where: str) -> Source:
    source = Source(where, [])
    last = -1
    try:
        with _Headers(where) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.offset_data <= last:
                    raise tarfile.ReadError("a member that begins before the last one")
                last = member.offset_data
                if member.isdir():
                    continue
                hidden = any(
                    part.startswith(".") and part not in (".", "..")
                    for part in member.name.split("/")[:-1]
                )
                if hidden or not member.isreg() or member.issparse():
                    source.skipped.append(member.name)
                else:
                    source.add(member.name, member.offset_data, member.size)
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise SourceError(f"{where}: not a readable tar file: {error}") from error
    source.fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    return source


def _first_bytes(where: str) -> bytes:
    with open(where, "rb") as file:
        return file.read(2)


def _from_pickle(where: str) -> Source:
    try:
        pictures = read_pictures(read_file(where))
    except ValueError as error:
        reason = str(error)[:120]  # it can show any part of the file
        raise SourceError(f"{where}: neither a pickle of CIFAR nor of JPEGs: {reason}") from error
    source = Source(where, [])
    with tempfile.TemporaryFile() as file:
        for i, data in enumerate(pictures.files):
            source.add(f"{where}/{i:05d}{pictures.suffix}", file.tell(), len(data))
            file.write(data)
        file.flush()
        source.fd = os.dup(file.fileno())
    if pictures.labels:
        names = [item.name for item in source.items]
        source.labels = dict(zip(names, pictures.labels, strict=True))
    return source


def _from_list(where: str) -> Source:
    folder = os.path.dirname(where)
    try:
        lines = read_file(where, pipes=True).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where}: neither a folder, a .tar nor a text file of paths ({error.reason})"
        ) from error
    source = Source(where, [])
    for line in lines:
        line = line.strip()
        if line and not line.startswith("#"):
            source.add(os.path.join(folder, line))
    return source


def _check_duplicates(items: Iterable[Item]) -> None:
    """Raises SourceError when two images have one name."""
    first: dict[str, Item] = {}
    clashes: list[str] = []
    for item in items:
        if item.problem is not None:
            continue
        if item.name in first:
            clashes.append(f"{first[item.name].path} and {item.path} (both {item.name!r})")
        else:
            first[item.name] = item
    if clashes:
        more = f", and {len(clashes) - 3} more" if len(clashes) > 3 else ""
        raise SourceError(
            f"{len(clashes)} images would overwrite another's output, since names end at the "
            f"first dot: {'; '.join(clashes[:3])}{more}; rename them"
        )
