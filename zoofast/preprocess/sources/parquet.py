"""Images in Parquet files, such as those of ILSVRC/imagenet-1k on Hugging Face.

A row is an image: the column `image` is a struct of `bytes` and `path`, or the bytes themselves;
the column `label` is the number of its class. A file is listed without its images. They are read by
row groups, a few rows at a time: by parquet_pages, and by pyarrow what that leaves.
https://parquet.apache.org/docs/file-format/
https://huggingface.co/docs/datasets/image_dataset
"""

from __future__ import annotations

import bisect
import errno
import io
import os
from array import array
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple

from zoofast.base.by_name import NumbersByName
from zoofast.base.extras import needs
from zoofast.base.files import MAX_FILE_BYTES
from zoofast.base.names import stem
from zoofast.errors import SourceError
from zoofast.preprocess.sources.fetch_errors import FetchError, changed, too_large
from zoofast.preprocess.sources.items import Item, Names
from zoofast.preprocess.sources.parquet_pages import (
    ColumnChunk,
    UnusualError,
    Values,
    column_chunks,
    pages,
)
from zoofast.preprocess.sources.readahead import Fetched, ReadAhead, Stream, read_local
from zoofast.preprocess.sources.source import FetchedSource, Source, archive_stamp
from zoofast.preprocess.sources.tars import MAX_CLASS

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "bytes")  # the first one is preferred
LABEL_COLUMNS = ("label", "cls")
_BATCH_BYTES = 1_000_000  # of the rows that are read at once, by their mean size
_MAX_BATCH_ROWS = 64
_LISTED_ROWS = 10_000  # whose names are read at once
_MAX_GROUP_BYTES = 1 << 24  # of a row group that is read at once
_BUFFER_BYTES = 1 << 20  # of a larger one that are read at once
_TAIL_BYTES = 1 << 16  # of a file that are read first, as pyarrow does
MAX_GROUPS_AT_ONCE = 2  # row groups that are read from a store at the same time


@dataclass
class _File:
    """A Parquet file: its columns by their paths, and the first row of each row group.

    open: gives what pyarrow reads, the file's path or a file object; raises OSError for a file that
    is not the listed one any more. chunks: the images of each
    row group; None: pyarrow reads them.
    """

    path: str
    open: Callable[[], Any]
    metadata: Any
    image: str
    image_path: str | None
    label: str | None
    chunks: list[ColumnChunk | None]
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

    def images(self, group: int, rows: int) -> Generator[Values, None, None]:
        """The images of a row group, some at a time. rows: that pyarrow is to read at once. They
        are views of Arrow's memory. Raises OSError that names the file."""
        given, chunk = 0, self.chunks[group]
        try:
            if chunk is None:
                raise UnusualError
            with _damage(self.path), closing(_opened(self.open())) as file:
                read = partial(_read, file)
                if chunk.end - chunk.begin <= _MAX_GROUP_BYTES:  # one request to a store
                    whole = read(chunk.begin, chunk.end - chunk.begin)
                    read = partial(_part, whole, chunk.begin)
                for values in pages(read, chunk):
                    given += len(values)
                    yield values
            return
        except UnusualError:
            pass
        with closing(self.batches([self.image], [group], rows)) as batches:
            for batch in batches:
                values = _views(_leaf(batch.column(0)))
                known = min(given, len(values))
                given -= known
                if values[known:]:
                    yield values[known:]


def _opened(what: Any) -> Any:
    """The file at a path, without a buffer; or the file object that `what` is."""
    return open(what, "rb", buffering=0) if isinstance(what, str) else what


def _read(file: Any, begin: int, nbytes: int) -> memoryview:
    """`nbytes` bytes of a file from `begin` on. Raises OSError; UnusualError at the file's end."""
    import pyarrow

    file.seek(begin)
    if isinstance(file, io.FileIO):
        # Arrow's allocator, unlike Python's, has memory that the system need not clear.
        view = memoryview(pyarrow.allocate_buffer(nbytes)).cast("B")
        view = view[: file.readinto(view)]
    else:
        view = memoryview(file.read(nbytes))
    if len(view) != nbytes:
        raise UnusualError
    return view


def _footer(file: Any, nbytes: int) -> memoryview:
    """The bytes of the metadata of a file of `nbytes` bytes; none if they are not there."""
    try:
        tail = _read(file, max(nbytes - _TAIL_BYTES, 0), min(nbytes, _TAIL_BYTES))
        length = int.from_bytes(tail[-8:-4], "little")
        if length <= len(tail) - 8:
            return tail[len(tail) - 8 - length : -8]
        return _read(file, nbytes - 8 - length, length) if length <= nbytes - 8 else tail[:0]
    except UnusualError:
        return memoryview(b"")


def _part(data: memoryview, first: int, begin: int, nbytes: int) -> memoryview:
    """As _read, of `data`, which begins with the byte `first` of the file."""
    return data[begin - first : begin - first + nbytes]


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
    rows: array[int]


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
                parts.append(_Part(file, group, array("q", (row,))))
        return parts

    def _produce(self, part: _Part, max_bytes: int) -> Generator[list[Fetched], None, None]:
        file = part.file
        first, end = file.first_rows[part.group : part.group + 2]
        nbytes = file.metadata.row_group(part.group).total_byte_size
        at_once = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES * (end - first) // max(1, nbytes)))
        given = 0
        with closing(file.images(part.group, at_once)) as images:
            for values in images:
                stop = bisect.bisect_left(part.rows, first + len(values), given)
                # A view keeps the memory of all values.
                is_copied = 2 * (stop - given) < len(values)
                for i in range(given, stop, at_once):
                    rows = part.rows[i : min(i + at_once, stop)]
                    yield [_fetched(values[row - first], max_bytes, is_copied) for row in rows]
                first += len(values)
                given = stop
                if given == len(part.rows):
                    return
        raise OSError(errno.EIO, f"{file.path}: row group {part.group} has fewer rows than it says")


def _leaf(column: Any) -> Any:
    """The values of a column, or of the one field of a struct that was read."""
    import pyarrow

    return column.field(0) if pyarrow.types.is_struct(column.type) else column


def _fetched(value: memoryview | None, max_bytes: int, is_copied: bool) -> Fetched:
    """An image, or why a row has none."""
    if value is None:
        return OSError(errno.ENODATA, "the row has no image")
    if len(value) > max_bytes:
        return too_large(max_bytes)
    return bytes(value) if is_copied else value


def _views(column: Any) -> Values:
    """The values of a binary column."""
    from pyarrow import types

    _, offsets, data = column.buffers()
    ends = memoryview(offsets).cast("B").cast("q" if types.is_large_binary(column.type) else "i")
    view = memoryview(b"" if data is None else data).cast("B")
    pairs = pairwise(ends[column.offset : column.offset + len(column) + 1])
    values: Values = [view[begin:end] for begin, end in pairs]
    if column.null_count:
        is_valid = column.is_valid().to_pylist()
        return [value if has else None for value, has in zip(values, is_valid, strict=True)]
    return values


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
            list_rows(source, path, partial(_unchanged, path, status), status.st_size, stamp)
        except OSError as error:
            raise SourceError(error.strerror) from error
    return source


def _unchanged(path: str, listed: os.stat_result) -> str:
    """The path, unless the file is another one now, or was written since. Raises OSError."""
    now = os.stat(path)
    for of in ("st_dev", "st_ino", "st_size", "st_mtime_ns"):
        if getattr(now, of) != getattr(listed, of):
            raise changed("it was replaced or written")
    return path


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
                if path is not None and types.is_dictionary(path):
                    path = path.value_type
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

    with _damage(path), closing(_opened(opened())) as content:
        footer = _footer(content, nbytes)
        with parquet.ParquetFile(content) as file:
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
    chunks = column_chunks(metadata, footer, image)
    file = _File(path, opened, metadata, image, image_path, label, chunks, first_rows, stamp)
    return file, problem
