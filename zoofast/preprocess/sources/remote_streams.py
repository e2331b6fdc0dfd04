"""Images in compressed tars, and in Parquet files, in a store."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from zoofast.base.cpus import usable_cpus
from zoofast.errors import SourceError
from zoofast.preprocess.sources.compressed_tars import (
    MAX_TARS_AT_ONCE,
    CompressedTarSource,
    list_tars,
)
from zoofast.preprocess.sources.decompress import Forward
from zoofast.preprocess.sources.items import Item
from zoofast.preprocess.sources.parquet import (
    MAX_GROUPS_AT_ONCE,
    ParquetSource,
    import_pyarrow,
    list_rows,
)
from zoofast.preprocess.sources.readahead import ReadAhead
from zoofast.preprocess.sources.stored import StoredFile, file_stamp
from zoofast.preprocess.sources.stores import Forwards, RangeFile, Requests, Store


@dataclass
class RemoteCompressedTars(CompressedTarSource):
    """Images of compressed tars in a store. requests: of the listing and of `read`."""

    store: Store = field(kw_only=True)
    requests: Requests = field(kw_only=True)
    tars: list[StoredFile] = field(default_factory=list)

    def close(self) -> None:
        super().close()
        self.requests.cancel()
        self.requests.close()

    def content(self, archive: int) -> Forward:
        file = Forwards(self.requests, self.tars[archive])
        return Forward(file.pread, self.paths[archive], file.close)

    def open_reader(self, items: Sequence[Item], max_bytes: int) -> ReadAhead:
        reading = copy.copy(self)  # with requests that end with the reader
        reading.requests = requests = Requests(self.store)
        streams = reading.streams(items, max_bytes)
        threads = min(MAX_TARS_AT_ONCE, len(streams), usable_cpus())
        return ReadAhead(streams, threads, on_close=requests.cancel, on_closed=requests.close)


@dataclass
class RemoteParquet(ParquetSource):
    """Images of Parquet files in a store. requests: of the listing and of `read`."""

    store: Store = field(kw_only=True)
    requests: Requests = field(kw_only=True)
    stored: list[StoredFile] = field(default_factory=list)

    def close(self) -> None:
        super().close()
        self.requests.cancel()
        self.requests.close()

    def open_reader(self, items: Sequence[Item], max_bytes: int) -> ReadAhead:
        reading, requests = copy.copy(self), Requests(self.store)
        reading.files = [
            replace(file, open=partial(_open, requests, stored))
            for file, stored in zip(self.files, self.stored, strict=True)
        ]
        return ReadAhead(
            reading.streams(items, max_bytes),
            min(MAX_GROUPS_AT_ONCE, usable_cpus()),
            on_close=requests.cancel,
            on_closed=requests.close,
        )


def from_remote_compressed_tars(store: Store, keys: Sequence[str]) -> RemoteCompressedTars:
    """Lists compressed tars: each is read once from its start to its end."""
    source = RemoteCompressedTars(store.url, store=store, requests=Requests(store))
    try:
        for file in _stats(source.requests, keys):
            source.tars.append(file)
            source.paths.append(file.shown)
            source.stamps.append(file_stamp(file))
        list_tars(source)
    except BaseException:
        source.close()
        raise
    return source


def from_remote_parquet(store: Store, keys: Sequence[str]) -> RemoteParquet:
    """Lists the rows of Parquet files."""
    import_pyarrow()
    source = RemoteParquet(store.url, store=store, requests=Requests(store))
    try:
        for file in _stats(source.requests, keys):
            source.stored.append(file)
            opened = partial(_open, source.requests, file)
            list_rows(source, file.shown, opened, file.nbytes or 0, file_stamp(file))
    except OSError as error:
        source.close()
        raise SourceError(error.strerror) from None
    except BaseException:
        source.close()
        raise
    return source


def _open(requests: Requests, file: StoredFile) -> RangeFile:
    """Raises FetchError for a file that is not the listed one any more."""
    requests.check(file)
    return RangeFile(requests, file)


def _stats(requests: Requests, keys: Sequence[str]) -> list[StoredFile]:
    """Raises SourceError that names the file."""
    files = []
    for key in keys:
        try:
            files.append(requests.stat(key))
        except OSError as error:
            raise SourceError(f"{requests.store.shown(key)}: {error.strerror}") from None
    return files
