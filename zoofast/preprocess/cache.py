"""A cache of images' 8-bit pixels on disk, which all recipes of the same geometry share.

For an image whose pixels are stored, a run compares its file's size and time, reads its pixels and
packs them. It neither decodes nor resizes. pixel_file.py says what is on disk. The core's threads
make tensors of pixels, and store pixels: see zf_job.stored in csrc/zoofast.h.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from zoofast import _core
from zoofast._core import Status
from zoofast.base.checks import check_least
from zoofast.base.urls import is_url, redacted, shown
from zoofast.errors import OutputError
from zoofast.preprocess.pixel_file import KEY_BYTES, PixelFile, Place, Stored, geometry_of
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.sources import Item, Source
from zoofast.preprocess.sources.source import is_settled


class PixelCache:
    """Where a Loader keeps images' pixels: `folder`, which is made if needed.

    Outputs are the same bytes with and without a cache. max_bytes: of all pixels and indexes in the
    folder (None: no limit); to make room, geometries that no process writes to are removed, the
    least recently used first. warn: gets each reason why the cache is not used, or not filled,
    once, and what was removed. Several Loaders may use one PixelCache, one after the other or at
    once; the first fills it.

    Raises OutputError for an empty name of the folder and for a URL; ValueError for max_bytes below
    0.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        max_bytes: int | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        check_least(0, max_bytes=max_bytes)
        if not os.fspath(folder):  # an unset variable of a shell, which pathlib takes for "."
            raise OutputError("the folder of the cache has no name; '.' is the current folder")
        if is_url(os.fspath(folder)):
            raise OutputError(
                f"{shown(os.fspath(folder))}: the cache is a folder of this machine; name one"
            )
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._warn = warn
        self._left_free = 0  # bytes of its disk that are for others
        self._told: set[str] = set()
        self._kept: tuple[dict[str, Any], PixelFile] | None = None  # a geometry that is kept open

    def tell(self, text: str) -> None:
        """Warns, unless the same was said before."""
        if text not in self._told:
            self._told.add(text)
            self._warn(text)

    def tell_full(self, is_limit: bool) -> None:
        """is_limit: of max_bytes, not of the disk."""
        reason = "the rest of the disk is left to the outputs"
        if is_limit:
            reason = f"its limit is {self.max_bytes:,} bytes"
        self.tell(
            f"{self.folder} is full: {reason}; other images are prepared as without a cache; "
            f"zoofast cache clear {self.folder} removes old pixels"
        )

    def tell_unknown(self, where: str) -> None:
        self.tell(
            f"{redacted(where)}: nothing tells whether images change, or they have just changed; "
            f"{self.folder} does not keep their pixels"
        )

    def _tell_removed(self, digest: str) -> None:
        self.tell(
            f"{self.folder}: removed the pixels of geometry {digest}, the least recently used; the "
            f"limit is {self.max_bytes:,} bytes"
        )

    def beside(self, folder: Path, nbytes: int) -> PixelCache:
        """This cache for a Loader whose tensors, of `nbytes` bytes, go to `folder`: if that is on
        the same disk, the cache leaves as many bytes free.

        Raises OutputError where the cache cannot be made.
        """
        self._make_folder()
        same = self.folder.exists() and self.folder.stat().st_dev == folder.stat().st_dev
        made = copy.copy(self)  # it shares the set of what was told
        made._left_free = nbytes if same else 0
        return made

    def _make_folder(self) -> bool:
        """False on a full disk, after a warning. Raises OutputError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            if getattr(error, "errno", None) != errno.ENOSPC:
                raise OutputError(f"{self.folder}: cannot be written to: {reason}") from error
            self.tell(f"{self.folder}: {reason}; the cache is not used")
            return False
        return True

    def open(self, source: Source, recipe: Recipe) -> SourcePixels | None:
        """The pixels of a source's images; None where this cache cannot have them.

        Raises OutputError where the folder cannot be made.
        """
        geometry = geometry_of(recipe)
        if geometry is None:
            self.tell(f"{recipe.name} has no 8-bit pixels to keep: {self.folder} is not used")
            return None
        if self._kept is not None and self._kept[0] == geometry:
            return SourcePixels(self, self._kept[1], source, closes=False)
        file = self._open_file(geometry)
        return None if file is None else SourcePixels(self, file, source)

    def _open_file(self, geometry: dict[str, Any]) -> PixelFile | None:
        """None on a full disk, after a warning. Raises OutputError."""
        if not self._make_folder():
            return None
        limits = self.max_bytes, self._left_free
        file = PixelFile(self.folder, geometry, *limits, self._tell_removed)
        if file.problem is not None:
            self.tell(f"{file.problem}; the cache is read, and not filled")
        return file

    @contextmanager
    def kept_open(self, recipe: Recipe) -> Iterator[None]:
        """Keeps the pixels of a recipe open for Loaders that follow one another in the block. To
        open them takes a microsecond for each image, and looks again at what the disk has free.

        Raises OutputError where the folder cannot be made.
        """
        geometry = geometry_of(recipe)
        file = None if geometry is None else self._open_file(geometry)
        if geometry is None or file is None:
            yield
            return
        self._kept = geometry, file
        try:
            yield
        finally:
            self._kept = None
            file.close()


@dataclass
class _Pending:
    """An image whose pixels go to a slot unless those of an earlier run can be used."""

    key: bytes
    slot: int
    is_new: bool  # the slot held no pixels of this image
    by_pillow: _ByPillow | None = None


class _ByPillow(NamedTuple):
    """What became of pixels that Pillow decoded, from a file of `nbytes` bytes."""

    nbytes: int
    errno: int  # 0: they were written
    checksum: int
    place: Place


class SourcePixels:
    """What a cache has of the images of one source, for one ring of batches."""

    def __init__(
        self, cache: PixelCache, file: PixelFile, source: Source, closes: bool = True
    ) -> None:
        """closes: the file is closed with it."""
        self._cache, self._file, self._source, self._closes = cache, file, source, closes
        self._fills = file.writes
        self._pending: dict[_core.Batch, dict[int, _Pending]] = {}
        self._new: set[bytes] = set()  # keys of images that have a new slot and no record yet

    def close(self) -> None:
        """Closes the files. The threads that use them must have ended."""
        if self._closes:
            self._file.close()

    def attach(self, batch: _core.Batch, items: Sequence[Item]) -> None:
        """Tells each job of a batch, which is to be submitted, where its image's pixels are, or
        where to store them."""
        file, pending = self._file, self._pending.setdefault(batch, {})
        pending.clear()
        for i, item in enumerate(items):
            if item.problem is not None:
                continue
            key = self._key(item)
            if key is None:
                self._cache.tell_unknown(self._source.where)
                continue
            stored = file.find(key)
            if stored is not None:
                slot, nbytes, mtime_ns, checksum, place = stored
                offset = file.offset(slot)
                batch.use_pixels(i, file.fd, offset, checksum, place, nbytes, mtime_ns)
            else:
                new = None if key in self._new else self._new_slot()
                if new is None:
                    continue
                slot = new
                self._new.add(key)
            if self._fills:
                batch.store_pixels(i, file.fd, file.offset(slot))
                pending[i] = _Pending(key, slot, stored is None)

    def _new_slot(self) -> int | None:
        if not self._fills:
            return None
        try:
            slot = self._file.new_slot()
        except OSError as error:  # the folder was removed
            self._stop(error.errno or errno.EIO)
            return None
        if slot is None:
            self._cache.tell_full(self._file.is_disk_left)
        return slot

    def _key(self, item: Item) -> bytes | None:
        known_by = self._source.cache_key(item)
        if known_by is None:
            return None
        return hashlib.blake2b(known_by, digest_size=KEY_BYTES).digest()

    def has(self, item: Item, max_file_bytes: int) -> bool:
        """Whether the item need not be fetched. max_file_bytes: a larger image is to fail."""
        key = self._key(item)
        stored = None if key is None else self._file.find(key)
        return stored is not None and stored.file_nbytes <= max_file_bytes

    def _stop(self, error: int) -> None:
        """Fills the cache no further; it is still read. error: an errno."""
        self._fills = False
        text = f"{self._cache.folder}: {os.strerror(error)}; the cache is filled no further"
        self._cache.tell(text)

    def keep_by_pillow(
        self, batch: _core.Batch, i: int, plan: _core.Plan, workspace: _core.Workspace, nbytes: int
    ) -> None:
        """Stores the pixels of the tensor that `workspace` made last, of image i, if they are to be
        stored. nbytes: of the image file. Several threads may call it for different images."""
        pending = self._pending[batch].get(i)
        if pending is None:
            return
        pixels, place = workspace.pixels(plan)
        try:
            put = os.pwrite(self._file.fd, pixels.data, self._file.offset(pending.slot))
            error = 0 if put == len(pixels) else errno.ENOSPC
        except OSError as caught:
            error = caught.errno or errno.EIO
        pending.by_pillow = _ByPillow(nbytes, error, _core.checksum(pixels), place)

    def collect(self, batch: _core.Batch) -> None:
        """Records what was stored of a batch that is done."""
        pending = self._pending[batch]
        if not pending:
            return
        stored: dict[bytes, Stored] = {}
        for outcome in batch.stored_pixels():
            of = pending.pop(outcome.i)
            if of.by_pillow is not None:
                nbytes, error, checksum, place = of.by_pillow
                outcome = outcome._replace(
                    status=Status.OK,
                    errno=error,
                    checksum=checksum,
                    place=place,
                    # 0: the image was not fetched, because the cache seemed to have its pixels
                    file_nbytes=outcome.file_nbytes or nbytes,
                )
            if outcome.errno:
                self._stop(outcome.errno)
            is_stored = outcome.status == Status.OK and not outcome.errno
            if is_stored and is_settled(outcome.file_mtime_ns, outcome.read_ns):
                stamp = outcome.file_nbytes, outcome.file_mtime_ns
                stored[of.key] = Stored(of.slot, *stamp, outcome.checksum, outcome.place)
            elif of.is_new:
                self._file.free(of.slot)
            self._new.discard(of.key)
        try:
            self._file.put(stored)
        except OSError as error:
            self._stop(error.errno or errno.EIO)
