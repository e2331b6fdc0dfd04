"""Images in `.tar` files, which are indexed once and then read in place.

In WebDataset's layout a sample is several members of one tar whose names are equal up to the first
dot: `key.jpg`, `key.cls`, `key.json`. Members of an image's sample are not counted as skipped; the
`cls` member, or the key `label` or `cls` of the `json` member, is the image's class.
https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from zoofast.base.by_name import NumbersByName
from zoofast.base.parsing import parse_json
from zoofast.base.sequences import Selection
from zoofast.errors import SourceError
from zoofast.preprocess.sources.items import Item, Items
from zoofast.preprocess.sources.source import Source, archive_stamp, is_image
from zoofast.preprocess.sources.tar_headers import Member, Pread, list_members

MAX_LABEL_BYTES = 1 << 20  # of a member that holds a label
MAX_CLASS = 999_999_999
_LABEL_SUFFIXES = (".cls", ".json")  # the first is preferred
_UNREAD, _NO_CLASS = -1, -2  # in place of a class

# What a member that holds a label says, see read_label; or why it cannot be read.
Label = int | SourceError | None
# Gives a member's bytes, of at most as many as its second argument, or raises OSError.
Read = Callable[[Item, int], bytes]


class LabelMembers:
    """The members of tars that hold the classes of images, one for an image, and the classes.

    It takes 5.5 bytes for each besides the file's name, and 16 for its place.
    """

    def __init__(self) -> None:
        self.items = Items()
        self._classes = array("i")  # of each, or one of the constants above
        self._unreadable: dict[int, SourceError] = {}  # why, by the place in `items`

    def append(self, item: Item, label: Label = _UNREAD) -> None:
        """label: if the member was read while its tar was listed."""
        if isinstance(label, SourceError):
            self._unreadable[len(self.items)] = label
            label = None
        self._classes.append(_NO_CLASS if label is None else label)
        self.items.append(item)

    def unread(self) -> Selection[Item]:
        """The members that `classes` reads, in its order."""
        return Selection.where(self.items, np.array(self._classes) == _UNREAD)

    def classes(self, read: Read) -> Iterator[tuple[str, int]]:
        """The name and the class of each image that has one. Raises SourceError."""
        for place, item in enumerate(self.items):
            if place in self._unreadable:
                raise self._unreadable[place]
            label: int | None = self._classes[place]
            if label == _UNREAD:
                label = read_label(item, read)
            if label is not None and label != _NO_CLASS:
                yield item.name, label


@dataclass
class TarSource(Source):
    """Images of tars. label_members: what `labels` are read from; empty when they are read."""

    label_members: LabelMembers = field(default_factory=LabelMembers)
    labels: NumbersByName | None = None

    def read_labels(self) -> NumbersByName | None:
        """Reads the class of each image from its `cls` or `json` member."""
        if self.labels is None:
            self.labels = NumbersByName(self._read_classes())
            self.label_members = LabelMembers()  # frees their memory
        return self.labels or None

    def _read_classes(self) -> Iterator[tuple[str, int]]:
        """The name and the class of each image that has one."""
        return self.label_members.classes(self.read)

    def pread(self, archive: int) -> Pread:
        fd = self.fds[archive]
        return lambda offset, size: os.pread(fd, size, offset)


def from_tars(where: str, paths: Sequence[str]) -> Source:
    """Indexes the tars `paths`, which stay open. where: what they are together, for messages."""
    source = TarSource(where)
    try:
        for archive, path in enumerate(paths):
            source.fds.append(open_tar(path, len(paths)))
            source.stamps.append(archive_stamp(path, os.fstat(source.fds[archive])))
            with tar_errors(path):
                members = list_members(source.pread(archive))
                index(source, archive, member_prefix(path, len(paths)), members)
    except BaseException:
        source.close()
        raise
    return source


def member_prefix(path: str, count: int) -> str:
    """Before the names of a tar's members, in their paths. count: of the tars of the source."""
    return path + "/" if count > 1 else ""


@contextmanager
def tar_errors(path: str) -> Iterator[None]:
    """Turns what tarfile raises for damaged headers into a SourceError."""
    try:
        yield
    except (
        tarfile.TarError,
        ValueError,
        ArithmeticError,
        LookupError,
        RecursionError,
    ) as error:
        raise SourceError(f"{path}: not a readable tar file: {error}") from error


def open_tar(path: str, count: int) -> int:
    """A descriptor of the file `path`, one of `count`. Raises OSError; SourceError."""
    try:
        # Without O_NONBLOCK, a pipe would be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise SourceError(
                f"{path}: this process may not open {count} tars at once; raise its limit: "
                f"ulimit -n {count + 1024}"
            ) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise SourceError(f"{path}: not a regular file")
    return fd


def index(
    source: TarSource,
    archive: int,
    prefix: str,
    members: Iterable[Member],
    labels: Mapping[int, Label] = {},
) -> None:
    """Adds the members of the tar number `archive`. prefix: of their paths. labels: those that were
    read with the headers, by the offset of the member."""
    first_item = len(source.items)
    others: list[tuple[str, int, int]] = []  # path, offset and size of members that are no images
    for name, offset, nbytes, regular in members:
        path = prefix + name
        if _is_hidden(name):
            source.skipped.append(path)
        elif is_image(name):
            # A link has no bytes of its own in the tar, and becomes an empty file, which fails.
            source.items.append(Item.at(path, offset, nbytes if regular else 0, archive))
        elif not regular:
            source.skipped.append(path)
        else:
            others.append((path, offset, nbytes))
    samples = {_sample(item.path) for item in source.items[first_item:]} if others else set()
    holding: dict[str, Item] = {}  # the member with the label of each image, by its name
    for path, offset, nbytes in others:
        if _sample(path) not in samples:
            source.skipped.append(path)
        elif is_label(path):
            item = Item.at(path, offset, nbytes, archive)
            if item.problem is not None:  # the image fails by its name; its label can be read
                item = item._replace(problem=None)
            known = holding.get(item.name)
            if known is None or _rank(path) < _rank(known.path):
                holding[item.name] = item
    for item in holding.values():
        assert item.offset is not None
        source.label_members.append(item, labels.get(item.offset, _UNREAD))


def _is_hidden(name: str) -> bool:
    """Whether a member's name, or that of a folder that it lies in, begins with a dot."""
    if name[:1] != "." and "/." not in name:
        return False
    *folders, base = name.split("/")
    return base[:1] == "." or any(part[:1] == "." and part not in (".", "..") for part in folders)


def _sample(path: str) -> str:
    """What the paths of a sample's members have in common: all up to the file name's first dot."""
    folder, slash, base = path.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _rank(path: str) -> int:
    """How preferred a label is, from 0."""
    return _LABEL_SUFFIXES.index(os.path.splitext(path)[1].lower())


def is_label(path: str) -> bool:
    """Whether a member can hold the class of its sample, by its name."""
    return path.lower().endswith(_LABEL_SUFFIXES)


def read_label(member: Item, read: Read) -> int | None:
    """The class in a member; None for JSON without one. Raises SourceError."""
    try:
        if member.nbytes < 0:
            raise ValueError(f"its size is {member.nbytes} bytes")
        content = read(member, MAX_LABEL_BYTES)
        if len(content) < member.nbytes:
            raise ValueError("the tar ends within it")
        return _label(member.path, content)
    except OSError as error:
        raise SourceError(f"{member.path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SourceError(f"{member.path}: holds no class: {error}") from error


def label_or_error(member: Item, read: Read) -> Label:
    """As read_label, but a SourceError is returned."""
    try:
        return read_label(member, read)
    except SourceError as error:
        return error


def _label(path: str, content: bytes) -> int | None:
    """The class in a `cls` or `json` member; None for JSON without one. Raises ValueError."""
    if path.lower().endswith(_LABEL_SUFFIXES[0]):
        text = content.strip()
        if not (text.isdigit() and len(text) <= len(str(MAX_CLASS))):
            raise ValueError(f"not a whole number from 0 to {MAX_CLASS}")
        return int(text)
    sample = parse_json(content)
    if not isinstance(sample, dict):
        return None
    label = sample.get("label", sample.get("cls"))
    if label is None:
        return None
    if type(label) is not int or not 0 <= label <= MAX_CLASS:
        raise ValueError(f"its label is not a whole number from 0 to {MAX_CLASS}")
    return label
