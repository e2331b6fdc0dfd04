"""Where images come from: a folder, a folder of class folders, a tar file, a list of paths."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from zoofast.base.names import stem
from zoofast.errors import SourceError

SUFFIXES = frozenset(
    (".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
)


@dataclass(frozen=True)
class Item:
    """One image: its sample name (see zoofast.base.names), and where its bytes are."""

    name: str
    path: str  # for people; opened unless the bytes lie in a tar file
    offset: int = 0
    nbytes: int = -1  # of a tar member; -1: the whole file at `path`

    @property
    def in_archive(self) -> bool:
        return self.nbytes >= 0


@dataclass
class Source:
    """A listed source: items in a fixed order. A context manager (it may hold a file open)."""

    where: str
    items: list[Item]
    skipped: list[str] = field(default_factory=list)  # files that are no images, by suffix
    fd: int = -1  # of the tar file

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read(self, item: Item) -> bytes:
        """The item's bytes. Raises OSError."""
        if item.in_archive:
            return os.pread(self.fd, item.nbytes, item.offset)
        return Path(item.path).read_bytes()


def open_source(where: str | os.PathLike[str]) -> Source:
    """Lists the images of `where`, in a fixed order.

    A folder is walked with its subfolders (so ImageFolder trees work), sorted by path; a `.tar`
    is indexed and read in place, in its members' order; any other file is a list of paths, one a
    line, relative ones being relative to the list's own folder. File types go by suffix,
    whatever its case.

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
        else:
            source = _from_list(where)
    except OSError as error:
        raise SourceError(f"{where}: {error.strerror or error}") from error
    if not source.items:
        source.close()
        skipped = f" ({len(source.skipped)} other files)" if source.skipped else ""
        raise SourceError(
            f"{where}: no images{skipped}; known suffixes: {', '.join(sorted(SUFFIXES))}"
        )
    try:
        _check_names(source.items)
    except SourceError:
        source.close()
        raise
    return source


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


def _from_folder(where: str) -> Source:
    source = Source(where, [])
    folders = [(where, frozenset[tuple[int, int]]())]
    found: list[str] = []
    while folders:
        folder, above = folders.pop()
        status = os.stat(folder)
        own = (status.st_dev, status.st_ino)
        if own in above:
            continue  # a link to a folder that it lies in: the same images again
        with os.scandir(folder) as entries:
            for entry in entries:
                # entry.is_dir() raises for a link that leads nowhere but to itself
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    folders.append((entry.path, above | {own}))
                elif _is_image(entry.name):
                    found.append(entry.path)
                else:
                    source.skipped.append(entry.path)
    source.items = [Item(stem(path), path) for path in sorted(found)]
    source.skipped.sort()
    return source


def _from_tar(where: str) -> Source:
    source = Source(where, [])
    try:
        with tarfile.open(where, "r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse() or not _is_image(member.name):
                    source.skipped.append(member.name)
                    continue
                source.items.append(
                    Item(stem(member.name), member.name, member.offset_data, member.size)
                )
    except tarfile.TarError as error:
        raise SourceError(f"{where}: not a readable tar file: {error}") from error
    source.fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    return source


def _from_list(where: str) -> Source:
    folder = os.path.dirname(where)
    try:
        lines = Path(where).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where}: neither a folder, a .tar nor a text file of paths ({error.reason})"
        ) from error
    source = Source(where, [])
    for line in lines:
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        path = os.path.join(folder, line)
        if _is_image(path):
            source.items.append(Item(stem(path), path))
        else:
            source.skipped.append(path)
    return source


def _check_names(items: Iterable[Item]) -> None:
    """Output names end at the first dot, so two inputs could overwrite each other's output."""
    first: dict[str, Item] = {}
    clashes: list[str] = []
    for item in items:
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
    for name, item in first.items():
        if not name:
            raise SourceError(f"{item.path}: the name before the first dot is empty; rename it")
        if "\n" in name or "\r" in name:
            raise SourceError(f"{item.path!r}: names with line breaks break lists; rename it")
