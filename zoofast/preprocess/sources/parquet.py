"""Images in Parquet files, such as those of ILSVRC/imagenet-1k on Hugging Face.

A row is an image: the column `image` is a struct of `bytes` and `path`, or the bytes themselves;
the column `label` is the number of its class. A file is listed without its images. They are read by
row groups, a few rows at a time.
https://parquet.apache.org/docs/file-format/
https://huggingface.co/docs/datasets/image_dataset
"""

from __future__ import annotations

import bisect
import errno
import os
from array import array
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain
from typing import Any, NamedTuple

from zoofast.base.by_name import NumbersByName
from zoofast.base.extras import needs
from zoofast.base.files import MAX_FILE_BYTES
from zoofast.base.names import stem
from zoofast.errors import SourceError
from zoofast.preprocess.sources.items import Item, Names
from zoofast.preprocess.sources.readahead import Fetched, ReadAhead, Stream, read_local
from zoofast.preprocess.sources.source import FetchedSource, Source, archive_stamp
from zoofast.preprocess.sources.stored import FetchError, too_large
from zoofast.preprocess.sources.tars import MAX_CLASS

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "bytes")  # the first one is preferred
LABEL_COLUMNS = ("label", "cls")
_BATCH_BYTES = 1_000_000  # of the rows that are read at once, by their mean size
_MAX_BATCH_ROWS = 64
_LISTED_ROWS = 10_000  # whose names are read at once
_MAX_GROUP_BYTES = 1 << 24  # of a row group that is read at once
_BUFFER_BYTES = 1 << 20  # of a larger one that are read at once
MAX_GROUPS_AT_ONCE = 2  # row groups that are read from a store at the same time


@dataclass
class _File:
    """A Parquet file: its columns by their paths, and the first row of each row group.

    open: gives what pyarrow reads, the file's path or a file object.
    """

    path: str
    open: Callable[[], Any]
    metadata: Any
    image: str
    image_path: str | None
    label: str | None
    first_rows: list[int]  # and the number of rows
    stamp: bytes | None

    @property
    def rows(self) -> int:
        return self.first_rows[-1]

    def group(self, row: int) -> int:
        return bisect.bisect_right(self.first_rows, row) - 1

    def batches(
        self, columns: Sequence[str], groups: Sequence[int], rows: int
    ) -> Generator[Any, None, None]:
        """The rows of row groups, at most `rows` at once. Raises OSError that names the file."""
        from pyarrow import parquet

        largest = max((self.metadata.row_group(i).total_byte_size for i in groups), default=0)
        with (
            _damage(self.path),
            parquet.ParquetFile(
                self.open(),
                metadata=self.metadata,
                # Without a buffer, a column of a row group is read at once, and copied once less.
                buffer_size=0 if largest <= _MAX_GROUP_BYTES else _BUFFER_BYTES,
                pre_buffer=False,  # it would read all columns of a row group
                page_checksum_verification=True,
            ) as file,
        ):
            yield from file.iter_batches(rows, list(groups), list(columns), use_threads=False)


@contextmanager
def _damage(path: str) -> Iterator[None]:
    """Turns pyarrow's errors into an OSError."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, FetchError):
            raise OSError(error.errno, f"{path}: {error.strerror}") from None
        reason = str(error).partition("\n")[0]
        raise OSError(errno.EIO, f"{path}: cannot be read as Parquet: {reason}") from error


class _Part(NamedTuple):
    """Some rows of a row group, in order."""

    file: _File
    group: int
    rows: list[int]


@dataclass
class ParquetSource(FetchedSource):
    """Images of Parquet files; an item's offset is its row. problem: why labels cannot be read."""

    files: list[_File] = field(default_factory=list)
    classes: array[int] = field(default_factory=lambda: array("i"))  # of the items; -1: none
    problem: str | None = None

    def read_labels(self) -> NumbersByName | None:
        if self.problem is not None:
            raise SourceError(self.problem)
        pairs = zip(Names(self.items), self.classes, strict=True)
        return NumbersByName(pair for pair in pairs if pair[1] >= 0) or None

    def read(self, item: Item, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The item's bytes. It reads the item's row group up to the item."""
        if item.problem is not None:
            raise OSError(errno.EINVAL, item.problem)
        (part,) = self._parts([item])
        with closing(self._produce(part, max_bytes)) as produced:
            data = next(chain.from_iterable(produced))
        if isinstance(data, OSError):
            raise data
        return bytes(data)

    def open_reader(self, items: Sequence[Item], max_bytes: int) -> ReadAhead:
        return read_local(self.streams(items, max_bytes))

    def streams(self, items: Sequence[Item], max_bytes: int) -> list[Stream]:
        """A stream for the items of each row group."""
        return [
            Stream(len(part.rows), partial(self._produce, part, max_bytes))
            for part in self._parts(items)
        ]

    def _parts(self, items: Sequence[Item]) -> list[_Part]:
        """The items in runs of one row group each, with rows in order."""
        parts: list[_Part] = []
        for item in items:
            assert item.offset is not None
            file, row = self.files[item.archive], item.offset
            group = file.group(row)
            last = parts[-1] if parts else None
            if last and last.file is file and last.group == group and last.rows[-1] < row:
                last.rows.append(row)
            else:
                parts.append(_Part(file, group, [row]))
        return parts

    def _produce(self, part: _Part, max_bytes: int) -> Generator[list[Fetched], None, None]:
        file = part.file
        first, end = file.first_rows[part.group : part.group + 2]
        nbytes = file.metadata.row_group(part.group).total_byte_size
        at_once = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES * (end - first) // max(1, nbytes)))
        given = 0
        with closing(file.batches([file.image], [part.group], at_once)) as batches:
            for batch in batches:
                column = _leaf(batch.column(0))
                stop = bisect.bisect_left(part.rows, first + len(column), given)
                rows = [row - first for row in part.rows[given:stop]]
                if rows:
                    contents = list(_contents(column, rows, max_bytes))
                    if 2 * len(rows) < len(column):  # a view keeps the memory of the whole batch
                        contents = [d if isinstance(d, OSError) else bytes(d) for d in contents]
                    yield contents
                first += len(column)
                given = stop
                if given == len(part.rows):
                    return
        raise OSError(errno.EIO, f"{file.path}: row group {part.group} has fewer rows than it says")


def _leaf(column: Any) -> Any:
    """The values of a column, or of the one field of a struct that was read."""
    import pyarrow

    return column.field(0) if pyarrow.types.is_struct(column.type) else column


def _contents(column: Any, rows: Sequence[int], max_bytes: int) -> Iterator[Fetched]:
    """The images of `rows` of a binary column. They are views of Arrow's memory, not copies."""
    from pyarrow import types

    _, offsets, data = column.buffers()
    ends = memoryview(offsets).cast("B").cast("q" if types.is_large_binary(column.type) else "i")
    view = memoryview(b"" if data is None else data).cast("B")
    is_valid = column.is_valid().to_pylist() if column.null_count else None
    for row in rows:
        begin, end = ends[column.offset + row], ends[column.offset + row + 1]
        if is_valid is not None and not is_valid[row]:
            yield OSError(errno.ENODATA, "the row has no image")
        elif end - begin > max_bytes:
            yield too_large(max_bytes)
        else:
            yield view[begin:end]


def import_pyarrow() -> None:
    """Raises SourceError when pyarrow is missing."""
    # Arrow's allocator reads this when it is loaded, and keeps the memory of a row group for the
    # next one. Otherwise it gives the memory back to the system, which clears it anew: 3 % of the
    # CPU time of a run. Arrow's other allocators are no faster.
    is_set = "MIMALLOC_PURGE_DELAY" in os.environ
    if not is_set:
        os.environ["MIMALLOC_PURGE_DELAY"] = "-1"
    try:
        with needs("remote", SourceError):
            import pyarrow.parquet  # noqa: F401
    finally:
        if not is_set:
            del os.environ["MIMALLOC_PURGE_DELAY"]


def from_parquet(where: str, paths: Sequence[str]) -> Source:
    """Lists the rows of Parquet files. where: what they are together, for messages."""
    import_pyarrow()
    source = ParquetSource(where)
    for path in paths:
        try:
            with _damage(path):
                status = os.stat(path)
            stamp = archive_stamp(path, status)
            list_rows(source, path, partial(str, path), status.st_size, stamp)
        except OSError as error:
            raise SourceError(error.strerror) from error
    return source


def list_rows(
    source: ParquetSource, path: str, opened: Callable[[], Any], nbytes: int, stamp: bytes | None
) -> None:
    """Adds the rows of a file, which `opened` gives. Raises SourceError; OSError that names it."""
    file, problem = _open(path, opened, nbytes, stamp)
    archive = len(source.files)
    source.files.append(file)
    source.stamps.append(stamp)
    row, unnamed = 0, f"{path}/{stem(path)}_"
    for names, labels in _names_and_labels(file):
        for name, label in zip(names, labels, strict=True):
            item = Item.at(f"{path}/{name}" if name else f"{unnamed}{row:08d}", row, 0, archive)
            source.items.append(item)
            row += 1
            if label is None or label < 0:
                label = -1  # its class is unknown, as in a set for tests
            elif label > MAX_CLASS:
                problem, label = f"{item.path}: its label is more than {MAX_CLASS}", -1
            source.classes.append(label)
    if row != file.rows:
        raise SourceError(f"{path}: has {row:,} rows, but says that it has {file.rows:,}")
    source.problem = source.problem or problem


def _names_and_labels(file: _File) -> Iterator[tuple[list[Any], list[Any]]]:
    """The paths and the labels of some rows at a time; None for what is not in the file."""
    columns = [name for name in (file.image_path, file.label) if name is not None]
    if not columns:
        yield [None] * file.rows, [None] * file.rows
        return
    for batch in file.batches(columns, range(len(file.first_rows) - 1), _LISTED_ROWS):
        columns_read: dict[str | None, list[Any]] = {}
        with _damage(file.path):  # a text may be no UTF-8
            for name in columns:
                columns_read[name] = _leaf(batch.column(name.partition(".")[0])).to_pylist()
        nothing = [None] * batch.num_rows
        yield columns_read.get(file.image_path, nothing), columns_read.get(file.label, nothing)


def _image_columns(kinds: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The columns with the images and with their paths. kinds: the types of columns."""
    from pyarrow import types

    for name in IMAGE_COLUMNS:
        kind = kinds.get(name)
        if kind is None:
            continue
        if types.is_binary(kind) or types.is_large_binary(kind):
            return name, None
        if types.is_struct(kind):
            fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
            data, path = fields.get("bytes"), fields.get("path")
            if data is not None and (types.is_binary(data) or types.is_large_binary(data)):
                is_text = path is not None and (
                    types.is_string(path) or types.is_large_string(path)
                )
                return f"{name}.bytes", f"{name}.path" if is_text else None
    return None, None


def _open(
    path: str, opened: Callable[[], Any], nbytes: int, stamp: bytes | None
) -> tuple[_File, str | None]:
    """What a file tells of itself, and why its labels cannot be read. Raises SourceError."""
    from pyarrow import parquet, types

    with _damage(path), parquet.ParquetFile(opened()) as file:
        metadata, schema = file.metadata, file.schema_arrow
    counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    first_rows = list(accumulate(counts, initial=0))
    if min(counts, default=0) < 0 or first_rows[-1] > nbytes:
        raise SourceError(f"{path}: damaged: it says that it has {first_rows[-1]:,} rows")
    kinds: dict[str, Any] = {}  # of the columns whose names are unique
    for name in (*IMAGE_COLUMNS, *LABEL_COLUMNS):
        indices = schema.get_all_field_indices(name)
        if len(indices) == 1:
            kinds[name] = schema.field(indices[0]).type
    image, image_path = _image_columns(kinds)
    if image is None:
        raise SourceError(
            f"{path}: has no column of images: {', '.join(IMAGE_COLUMNS)}, each binary or a struct "
            f"with bytes; its columns: {', '.join(schema.names[:20])}"
        )
    label, problem = next((name for name in LABEL_COLUMNS if name in kinds), None), None
    if label is not None and not types.is_integer(kinds[label]):
        problem = f"{path}: its column {label} is {kinds[label]}, not a whole number"
        label = None
    return _File(path, opened, metadata, image, image_path, label, first_rows, stamp), problem
