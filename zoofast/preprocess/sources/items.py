"""The images of a source, and the list of them."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import NamedTuple, overload

from zoofast.base.names import name_problem, stem
from zoofast.base.sequences import Mapped, Selection, Strings, is_same

_NO_OFFSET = -1
_MAX_NBYTES = 1 << 62  # a damaged tar may claim more


class Item(NamedTuple):
    """One image: its sample name (see zoofast.base.names), and where its bytes are.

    path: for messages, and the file to open unless the image is a member of an archive: then its
    bytes are the `nbytes` bytes from `offset` on of the archive number `archive` of the source. Of
    a file that is fetched, `nbytes` is the size in the listing, 0 for an unknown size.
    problem: why the image cannot be prepared, if its name or its size alone says so.
    """

    name: str
    path: str
    offset: int | None = None
    nbytes: int = 0
    problem: str | None = None
    archive: int = 0

    @classmethod
    def at(cls, path: str, offset: int | None = None, nbytes: int = 0, archive: int = 0) -> Item:
        """The item named after the file or member `path`, with its problem, if there is one."""
        name = stem(path)
        problem = name_problem(name)
        if problem is None and "\0" in path:
            problem = "the path has a null byte"
        if problem is None and nbytes < 0:
            problem = f"its size in the archive is {nbytes} bytes"
        return cls(name, path, offset, nbytes, problem, archive)

    @property
    def in_archive(self) -> bool:
        """Whether the item is a part of an archive, and no file of its own."""
        return self.offset is not None


class Items(Sequence[Item]):
    """A list of items, which grows at its end alone.

    It takes 1.5 bytes for each item besides the file's name, and 16 more for members of archives.
    Each item is made when it is asked for. Items of one folder should follow one another.
    """

    def __init__(self) -> None:
        self._bases = Strings()  # the last components of the paths
        # Items with the same folder and archive that follow one another are a run.
        self._begins, self._archives = array("Q"), array("Q")
        self._folders: list[str] = []  # of each run, with the slash at the end
        self._where: array[int] | None = None  # offset and size of each, if one has any
        self._names: dict[int, str] = {}  # those that do not follow from the path
        self._problems: dict[int, str] = {}

    def append(self, item: Item) -> None:
        number, path = len(self._bases), item.path
        slash = path.rfind("/") + 1
        folders = self._folders
        if not (folders and path[:slash] == folders[-1] and item.archive == self._archives[-1]):
            self._begins.append(number)
            self._archives.append(item.archive)
            folders.append(path[:slash])
        base = path[slash:]
        self._bases.append(base)
        if self._where is None and (item.offset is not None or item.nbytes):
            self._where = array("q", (_NO_OFFSET, 0)) * number
        if self._where is not None:
            self._where.append(_NO_OFFSET if item.offset is None else item.offset)
            self._where.append(max(min(item.nbytes, _MAX_NBYTES), -_MAX_NBYTES))
        if item.name != base.partition(".")[0]:
            self._names[number] = item.name
        if item.problem is not None:
            self._problems[number] = item.problem

    def names(self) -> Iterator[str]:
        """The sample names of all items, in order."""
        named = self._names
        for number, base in enumerate(self._bases):
            yield named[number] if number in named else base.partition(".")[0]

    def __len__(self) -> int:
        return len(self._bases)

    def __eq__(self, other: object) -> bool:
        return is_same(self, other)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Selection[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Selection[Item]:
        if isinstance(index, slice):
            return Selection(self, range(len(self))[index])
        number = range(len(self._bases))[index]
        run = bisect_right(self._begins, number) - 1
        base, where = self._bases[number], self._where
        offset, nbytes = (_NO_OFFSET, 0) if where is None else where[2 * number : 2 * number + 2]
        return Item(
            self._names[number] if number in self._names else base.partition(".")[0],
            self._folders[run] + base,
            None if offset == _NO_OFFSET else offset,
            nbytes,
            self._problems.get(number),
            self._archives[run],
        )

    def __iter__(self) -> Iterator[Item]:
        """In half the time of asking for each."""
        names, problems, where = self._names, self._problems, self._where
        offset, nbytes = None, 0
        bases = enumerate(self._bases)
        ends = [*self._begins[1:], len(self._bases)]
        for run, begin in enumerate(self._begins):
            folder, archive = self._folders[run], self._archives[run]
            for number, base in islice(bases, ends[run] - begin):
                if where is not None:
                    offset, nbytes = where[2 * number], where[2 * number + 1]
                    if offset == _NO_OFFSET:
                        offset = None
                name = names[number] if number in names else base.partition(".")[0]
                problem = problems.get(number) if problems else None
                yield Item(name, folder + base, offset, nbytes, problem, archive)


class Names(Mapped[str]):
    """The names of items."""

    def __init__(self, items: Sequence[Item]) -> None:
        super().__init__(items, attrgetter("name"))

    def __iter__(self) -> Iterator[str]:
        # Items are not made for their names alone.
        return self._items.names() if isinstance(self._items, Items) else super().__iter__()
