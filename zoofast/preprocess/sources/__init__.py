"""Where images come from: a folder, a list of files, tars, Parquet files, a pickle.

One module lists each kind of source; `source` says what a listed source is. Rules for all of them:

- A file whose suffix is not that of an image, and a file whose name begins with a dot (such as the
  `._x.jpg` of macOS), is skipped and counted.
- A sample name becomes part of file names. An image whose name cannot be one (see name_problem), or
  whose size in its archive is negative, fails alone: it is named, counted and left out.
- Two images of one name are an error, since the second would overwrite the first's output.
- A member of an archive is read from the archive alone. Its name is never a path to open.
- A folder is listed once, however many links lead to it.
"""

from __future__ import annotations

import os

import numpy as np

from zoofast.base.text import counted
from zoofast.base.urls import is_url, shown
from zoofast.errors import SourceError
from zoofast.preprocess.sources.folder import from_folder
from zoofast.preprocess.sources.items import Item, Items, Names
from zoofast.preprocess.sources.lists import from_list
from zoofast.preprocess.sources.patterns import PARQUET, TAR, TARS, expand
from zoofast.preprocess.sources.pickles import from_pickle, is_pickle
from zoofast.preprocess.sources.source import SUFFIXES, FetchedSource, Source
from zoofast.preprocess.sources.tars import from_tars

__all__ = ["SUFFIXES", "FetchedSource", "Item", "Items", "Names", "Source", "open_source"]


def open_source(where: str | os.PathLike[str]) -> Source:
    """Lists the images of `where`, in a fixed order.

    A folder is walked with its subfolders (so ImageFolder trees work), sorted by path. A `.tar` is
    indexed and read in place, in its members' order; `.tar.gz`, `.tgz`, `.tar.bz2`, `.tar.xz` and
    `.tar.zst` are decompressed ahead. Several tars are one source, in order:
    `shard-{00000..00063}.tar`, or a pattern with `*`, `?` or `[…]`, whose matches are sorted.
    Parquet files (one, several, or a folder of them) are read by row groups. A pickle of CIFAR, or
    of JPEGs, is read whole; its images are named by their numbers, from 00000. Any other file is a
    list of paths, one a line; a relative path starts at the list's own folder. A URL that fsspec
    knows, such as s3://bucket/val or https://host/val.tar, is a folder, tars or Parquet files, too.
    URLs, Parquet files and `.tar.zst` need `pip install zoofast[remote]`.
    Files and folders whose names begin with a dot are skipped. The suffix of a name, in any case,
    says whether a file is an image.

    Raises SourceError: nothing there, not readable, no images, or two images of one name.
    """
    where = os.fspath(where).removeprefix("file://")
    try:
        source = _list(where)
    except OSError as error:
        raise SourceError(f"{error.filename or where}: {error.strerror or error}") from error
    try:
        if not source.items:
            skipped = f" ({len(source.skipped)} other files)" if source.skipped else ""
            raise SourceError(
                f"{shown(where)}: no images{skipped}; known suffixes: {', '.join(sorted(SUFFIXES))}"
            )
        _check_duplicates(source.items)
    except SourceError:
        source.close()
        raise
    return source


def _list(where: str) -> Source:
    if is_url(where):
        # Imported here, since few sources lie in a store.
        from zoofast.preprocess.sources.remote import from_url

        return from_url(where)
    if os.path.isdir(where):
        folder = from_folder(where)
        files = [path for path in folder.skipped if not os.path.basename(path).startswith(".")]
        tables = [path for path in files if path.lower().endswith(PARQUET)]
        only_tables = _list_files(where, tables) if tables and not folder.items else None
        return only_tables or folder
    several = expand(where)
    if several is None and not os.path.exists(where):
        raise SourceError(f"{where}: no such folder, file or list")
    source = _list_files(where, [where] if several is None else several)
    if source is not None:
        return source
    if several is not None:
        known = (*TARS, PARQUET)
        other = next((path for path in several if not path.lower().endswith(known)), several[0])
        raise SourceError(
            f"{other}: several files are a source only if all are tars, or all are Parquet files"
        )
    if where.lower().endswith(".zip"):
        raise SourceError(f"{where}: a .zip cannot be read in place; unpack it once to a folder")
    if os.path.isfile(where) and is_pickle(where):
        return from_pickle(where)
    return from_list(where)


def _list_files(where: str, paths: list[str]) -> Source | None:
    """The images of tars, or of Parquet files; None for files of any other kind."""
    if all(path.lower().endswith(TAR) for path in paths):
        return from_tars(where, paths)
    # Imported where they are needed: most sources are neither.
    if all(path.lower().endswith(TARS) for path in paths):
        from zoofast.preprocess.sources.compressed_tars import from_compressed_tars

        return from_compressed_tars(where, paths)
    if all(path.lower().endswith(PARQUET) for path in paths):
        from zoofast.preprocess.sources.parquet import from_parquet

        return from_parquet(where, paths)
    return None


def _check_duplicates(items: Items | list[Item]) -> None:
    """Raises SourceError when two images have one name."""
    # Hashes take less memory than a dictionary of the names.
    hashes = np.fromiter(map(hash, Names(items)), np.int64, len(items))
    ordered = np.sort(hashes)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    first: dict[str, Item] = {}
    clashes: list[str] = []
    for place in np.flatnonzero(np.isin(hashes, repeated)).tolist() if len(repeated) else ():
        item = items[place]
        if item.problem is not None:
            continue
        if item.name in first:
            clashes.append(f"{first[item.name].path} and {item.path} (both {item.name!r})")
        else:
            first[item.name] = item
    if clashes:
        more = f", and {len(clashes) - 3} more" if len(clashes) > 3 else ""
        raise SourceError(
            f"{counted(len(clashes), 'image')} would overwrite another's output, since names end "
            f"at the first dot: {'; '.join(clashes[:3])}{more}; rename them"
        )
