"""Images of a folder and of its subfolders."""

from __future__ import annotations

import os
from collections.abc import Iterator

from zoofast.base.sequences import Strings
from zoofast.errors import SourceError
from zoofast.preprocess.sources.source import Source

_Folder = tuple[str, frozenset[tuple[int, int]]]  # its path, and the folders that it lies in


def from_folder(where: str) -> Source:
    source = Source(where)
    # Linked folders come last: a folder that is also linked to is listed under its own path.
    folders: list[_Folder] = [(where, frozenset())]
    links: list[_Folder] = []
    first: dict[tuple[int, int], str] = {}  # the path that each folder was listed under
    twice: list[tuple[str, str]] = []
    entries: dict[str, Strings] = {}  # of each folder, sorted; a folder's name ends with a slash
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
        names: list[str] = []
        with os.scandir(folder) as found:
            for entry in found:
                # entry.is_dir() raises for a link that leads nowhere but to itself
                if not entry.is_symlink():
                    is_folder, into = entry.is_dir(), folders
                else:
                    is_folder, into = os.path.isdir(entry.path), links
                if is_folder and entry.name.startswith("."):
                    source.skipped.append(entry.path)
                elif is_folder:
                    into.append((entry.path, above | {own}))
                    names.append(entry.name + "/")
                else:
                    names.append(entry.name)
        names.sort()
        entries[folder] = Strings(names)
    for path in _files(where, entries):
        source.add(path)
    for listed, other in twice:
        if any(item.path.startswith(listed + os.sep) for item in source.items):
            raise SourceError(
                f"{other} and {listed} are one folder, whose images would overwrite each other's "
                "output, since names end at the first dot; remove the link"
            )
    return source


def _files(where: str, entries: dict[str, Strings]) -> Iterator[str]:
    """The paths of all files, sorted. entries: see from_folder; they are taken out.

    A folder's name with a slash stands among the names of its folder where its paths stand.
    """
    below = [(os.path.join(where, ""), iter(entries.pop(where)))]
    while below:
        prefix, names = below[-1]
        for name in names:
            path = prefix + name
            if not name.endswith("/"):
                yield path
            elif (listed := entries.pop(path[:-1], None)) is not None:
                below.append((path, iter(listed)))
                break
        else:
            below.pop()
