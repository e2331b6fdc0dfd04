"""The values of a column of bytes in a Parquet file, read page by page.

pyarrow copies a value up to three times after its page is decompressed. Here it is a view of the
page. What is rare or damaged is left to pyarrow: `pages` raises UnusualError.

https://parquet.apache.org/docs/file-format/data-pages/
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoofast.preprocess.sources.thrift import (
    BYTES,
    I32,
    I64,
    LIST,
    STRUCT,
    Fields,
    read_struct,
    read_varint,
)

MAX_PAGE_BYTES = 64 << 20  # of a page, compressed or not
_HEAD_BYTES = 256, 1 << 15  # that a page's header takes as a rule, and at most
# Numbers of Parquet's enums.
_NO_CODEC, _SNAPPY = 0, 1
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_PLAIN, _PLAIN_DICTIONARY, _RLE, _RLE_DICTIONARY = 0, 2, 3, 8
# Fields of a file, a row group, and a column of it.
_ROW_GROUPS = 4, LIST
_COLUMNS, _ROWS = (1, LIST), (3, I64)
_FILE_PATH, _ABOUT_COLUMN, _ENCRYPTION = (1, BYTES), (3, STRUCT), (8, STRUCT)
_CODEC, _CHUNK_VALUES, _CHUNK_NBYTES = (4, I32), (5, I64), (7, I64)
_FIRST_PAGE, _DICTIONARY_OFFSET = (9, I64), (11, I64)
# Fields of a page's header, and of its part that is for the kind of page.
_KIND, _NBYTES, _COMPRESSED_NBYTES, _CRC = (1, I32), (2, I32), (3, I32), (4, I32)
_DATA, _DICTIONARY = (5, STRUCT), (7, STRUCT)
_VALUES, _ENCODING, _LEVEL_ENCODING, _OTHER_LEVEL_ENCODING = (1, I32), (2, I32), (3, I32), (4, I32)

Values = list[memoryview | None]  # None: a row without a value


class UnusualError(Exception):
    """What only pyarrow reads, or what is damaged."""


class ColumnChunk(NamedTuple):
    """A column of one row group: the bytes [begin, end) of the file, `values` in number.

    max_level: of the definition levels, which say whether a row has a value; 0 if all rows have.
    """

    begin: int
    end: int
    values: int
    is_compressed: bool
    max_level: int


def column_chunks(metadata: Any, footer: memoryview, path: str) -> list[ColumnChunk | None]:
    """The column `path` of each row group; None for those that `pages` does not read.

    metadata: pyarrow's FileMetaData. footer: the file's bytes of it; of a damaged file, pyarrow's
    objects of columns may end the process.
    """
    count = metadata.num_row_groups
    try:
        columns = [metadata.schema.column(i) for i in range(metadata.num_columns)]
        (number,) = [i for i, column in enumerate(columns) if column.path == path]
        column = columns[number]
        groups = read_struct(footer)[0].get(_ROW_GROUPS, [])
        if column.physical_type == "BYTE_ARRAY" and not column.max_repetition_level:
            chunks = [_column_chunk(each, number, column.max_definition_level) for each in groups]
            if len(chunks) == count:
                return chunks
    except (LookupError, TypeError, ValueError):
        pass
    return [None] * count


def _column_chunk(group: Fields, index: int, max_level: int) -> ColumnChunk | None:
    """Column `index` of a row group. Raises LookupError; TypeError."""
    column = group[_COLUMNS][index]
    if _FILE_PATH in column or _ENCRYPTION in column:
        return None
    about = column[_ABOUT_COLUMN]
    begin, nbytes, values, codec = (
        about[each] for each in (_FIRST_PAGE, _CHUNK_NBYTES, _CHUNK_VALUES, _CODEC)
    )
    begin = min(begin, about.get(_DICTIONARY_OFFSET) or begin)
    if values != group[_ROWS] or begin < 0 or nbytes < 0 or codec not in (_NO_CODEC, _SNAPPY):
        return None
    return ColumnChunk(begin, begin + nbytes, values, codec == _SNAPPY, max_level)


def pages(read: Callable[[int, int], memoryview], chunk: ColumnChunk) -> Iterator[Values]:
    """The values of each page, in order.

    read: gives the bytes from an offset of the file on, of a length. Raises what `read` raises;
    UnusualError, also after the first pages.
    """
    at, left = chunk.begin, chunk.values
    dictionary: Values | None = None
    while left > 0:
        header, length = _header(read, at, chunk.end)
        with _unusual():
            nbytes, compressed_nbytes = header[_NBYTES], header[_COMPRESSED_NBYTES]
            begin, end = at + length, at + length + compressed_nbytes
            _check(0 <= nbytes <= MAX_PAGE_BYTES and begin <= end <= chunk.end)
            _check(compressed_nbytes <= MAX_PAGE_BYTES)
        page = read(begin, compressed_nbytes)
        with _unusual():
            _check(_CRC not in header or zlib.crc32(page) == header[_CRC] % (1 << 32))
            page = _decompressed(page, nbytes, chunk.is_compressed)
            if header[_KIND] == _DICTIONARY_PAGE:
                about = header[_DICTIONARY]
                _check(dictionary is None and 0 <= about[_VALUES] <= chunk.values)
                _check(about[_ENCODING] in (_PLAIN, _PLAIN_DICTIONARY))
                dictionary = _plain(page, about[_VALUES])
                values: Values = []
            else:
                about = header[_DATA]
                _check(header[_KIND] == _DATA_PAGE and 0 <= about[_VALUES] <= left)
                _check(_LEVEL_ENCODING in about and _OTHER_LEVEL_ENCODING in about)
                values = _data(page, about, chunk.max_level, dictionary)
        left -= len(values)
        if values:
            yield values
        at = end


def _header(read: Callable[[int, int], memoryview], at: int, end: int) -> tuple[Fields, int]:
    """The header of the page at `at`, and its length. end: of the column."""
    for nbytes in _HEAD_BYTES:
        with suppress(IndexError, ValueError):
            return read_struct(read(at, max(min(nbytes, end - at), 0)))
    raise UnusualError


@contextmanager
def _unusual() -> Iterator[None]:
    """Turns the errors of a damaged page into UnusualError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, struct.error) as error:
        raise UnusualError from error


def _check(is_usual: bool) -> None:
    if not is_usual:
        raise UnusualError


def _decompressed(page: memoryview, nbytes: int, is_compressed: bool) -> memoryview:
    """The page's `nbytes` bytes."""
    if not is_compressed:
        _check(len(page) == nbytes)
        return page
    import pyarrow

    _check(read_varint(page, 0)[0] == nbytes)  # so many are written, or Snappy fails
    try:
        return memoryview(pyarrow.Codec("snappy").decompress(page, nbytes)).cast("B")
    except (pyarrow.ArrowException, OSError) as error:
        raise UnusualError from error


def _data(page: memoryview, about: Fields, max_level: int, dictionary: Values | None) -> Values:
    """The values of a data page."""
    count, at = about[_VALUES], 0
    has_value = np.ones(count, bool)
    if max_level:
        _check(about[_LEVEL_ENCODING] == _RLE)
        (nbytes,) = struct.unpack_from("<I", page)
        at = 4 + nbytes
        _check(at <= len(page))
        levels = _runs(page[4:at], max_level.bit_length(), count)
        _check(bool((levels <= max_level).all()))
        has_value = levels == max_level
    present = int(has_value.sum())
    values = page[at:]
    if about[_ENCODING] == _PLAIN:
        found = _plain(values, present)
    else:
        _check(dictionary is not None and about[_ENCODING] in (_PLAIN_DICTIONARY, _RLE_DICTIONARY))
        assert dictionary is not None
        bits = values[0] if present or values else 0
        found = [dictionary[i] for i in _runs(values[1:], bits, present).tolist()]
    if present == count:
        return found
    each = iter(found)
    return [next(each) if is_there else None for is_there in has_value.tolist()]


def _plain(page: memoryview, count: int) -> Values:
    """`count` values, each behind its length."""
    values: Values = []
    at = 0
    for _ in range(count):
        (nbytes,) = struct.unpack_from("<I", page, at)
        end = at + 4 + nbytes
        _check(end <= len(page))
        values.append(page[at + 4 : end])
        at = end
    return values


def _runs(data: memoryview, bits: int, count: int) -> NDArray[np.int64]:
    """`count` numbers of `bits` bits, in runs of equal or of packed ones.

    https://parquet.apache.org/docs/file-format/data-pages/encodings/, "RLE/Bit-Packing Hybrid"
    """
    _check(bits <= 32)
    runs: list[NDArray[np.int64]] = []
    at, left = 0, count
    while left > 0:
        header, at = read_varint(data, at)
        _check(header > 1)  # a run has a number
        if header & 1:
            groups = header >> 1  # of eight numbers
            end = at + groups * bits
            _check(end <= len(data) and groups <= -(-left // 8))
            packed = np.unpackbits(np.frombuffer(data[at:end], np.uint8), bitorder="little")
            run = packed.reshape(8 * groups, bits) @ (1 << np.arange(bits, dtype=np.int64))
            run = run[:left]
        else:
            end = at + -(-bits // 8)
            _check(end <= len(data))
            number = int.from_bytes(data[at:end], "little")
            run = np.full(min(header >> 1, left), number, np.int64)
        runs.append(run)
        left -= len(run)
        at = end
    return np.concatenate(runs) if runs else np.empty(0, np.int64)
