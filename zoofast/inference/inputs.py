"""The tensor files that `zoofast infer` reads, in ais_bench's order, as batches of the model."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.files import opened
from zoofast.base.names import stem
from zoofast.base.npy import NOT_NPY, map_npy
from zoofast.errors import BackendError, ResultError, SourceError
from zoofast.inference.backends import Allocate, TensorInfo
from zoofast.inference.packs import PackReader, is_pack, list_rows
from zoofast.preprocess.manifest import MANIFEST, read_manifest

SUFFIXES = (".npy", ".NPY", ".bin", ".BIN")
PREFETCH = 2  # batches that are read while the model runs another


def is_input_file(path: str) -> bool:
    """Whether a file of a folder of inputs is read, by its name: a tensor, the names of a pack, or
    the manifest."""
    return path.endswith((*SUFFIXES, ".names.txt")) or os.path.basename(path) == MANIFEST


def natural_key(path: str) -> list[tuple[int, int, str]]:
    """ais_bench's sort key: runs of digits compare as numbers, other text ignores case."""
    parts = re.split(r"(\d+)", path)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in parts]


def images_of_samples(where: str) -> dict[str, tuple[str, ...]]:
    """Name of a bin's result -> the name of the image in each row of the bin, "" for none.

    Empty unless `where` is a folder of bins that are packed or named as `zoofast prep` does it for
    a guide. Raises OutputError for a damaged manifest.
    """
    manifest = read_manifest(Path(where)) if os.path.isdir(where) else None
    rows = None if manifest is None else manifest.rows
    return {} if rows is None else {stem(file): tuple(names) for file, names in rows.items()}


def recipe_of(where: str) -> str | None:
    """The digest of the recipe that made the files of `where`, as the manifest beside them says.

    With commas between them for several folders, "none" for one without a manifest; None where no
    folder has one. Raises OutputError for a damaged manifest.
    """
    parts = [where] if os.path.exists(where) else where.split(",")
    folders = dict.fromkeys(
        part if os.path.isdir(part) else os.path.dirname(part) for part in parts
    )
    manifests = [read_manifest(Path(folder)) for folder in folders]
    if not any(manifests):
        return None
    return ",".join(each.recipe_digest if each is not None else "none" for each in manifests)


def _packed_files(where: str) -> list[str]:
    """The bins of a folder in the order of its manifest, if that names bins; also in folders."""
    manifest = read_manifest(Path(where))
    rows = None if manifest is None else manifest.rows
    paths = [os.path.join(where, file) for file in rows or ()]
    return [path for path in paths if os.path.isfile(path)]


def _with_rows(file: str) -> list[str]:
    """The inputs that a file holds: the rows of a pack, else the file itself."""
    return list_rows(file) if is_pack(file) else [file]


def list_inputs(where: str) -> list[str]:
    """The .bin and .npy files of the folder `where` in ais_bench's order, or the file `where`, or
    the files in `where` with commas between them, in their order. Of a folder that `zoofast prep`
    packed as a guide does, the bins in the order of the images. A pack stands for its rows; see
    zoofast.inference.packs.

    Raises SourceError: no such files, or two files whose results would have the same name;
    ResultError for a damaged pack.
    """
    if os.path.isdir(where) and (packed := _packed_files(where)):
        files = packed
    elif os.path.isdir(where):
        try:
            files = sorted(str(path) for path in Path(where).iterdir() if path.suffix in SUFFIXES)
        except OSError as error:
            raise SourceError(f"{where}: cannot be listed: {error.strerror}") from error
        files.sort(key=natural_key)
    else:
        files = [where] if os.path.exists(where) else where.split(",")
        for file in files:
            if len(files) > 1 and os.path.isdir(file):
                raise SourceError(f"{file}: is a folder; name one folder, or files with commas")
            if not (file.endswith(SUFFIXES) and os.path.isfile(file)):
                raise SourceError(f"{file or where}: no such folder, nor a .bin or .npy file")
            if files.count(file) > 1:
                raise SourceError(f"{file}: is named twice")
    files = [each for file in files for each in _with_rows(file)]
    if not files:
        raise SourceError(f"{where}: holds no .bin or .npy files")
    by_stem: dict[str, str] = {}
    for file in files:
        first = by_stem.setdefault(stem(file), file)
        if first != file:
            raise SourceError(
                f"{first} and {file} would both give {stem(file)}_0, since names end "
                "at the first dot; rename one"
            )
    return files


def list_groups(where: str) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """The files of `list_inputs`; for a model of several inputs, also of each file the files of the
    further inputs.

    `where` names a folder for each input then, with commas between them. The files of the folders
    belong together in their order, as in ais_bench. Raises SourceError.
    """
    folders = where.split(",")
    if os.path.exists(where) or len(folders) == 1 or not all(map(os.path.isdir, folders)):
        return list_inputs(where), {}
    first, *others = (list_inputs(folder) for folder in folders)
    for folder, files in zip(folders[1:], others, strict=True):
        if len(files) != len(first):
            raise SourceError(
                f"{folder}: holds {len(files)} files, but {folders[0]} holds {len(first)}; each "
                "input of the model needs a file for each sample"
            )
    return first, dict(zip(first, zip(*others, strict=True), strict=True))


class InputReader:
    """Reads single files. Every file holds `images` images of the model's input."""

    def __init__(self, info: TensorInfo, images: int) -> None:
        self.info, self.images = info, images
        self._packs = PackReader()
        self.file_nbytes = info.image_nbytes * images

    def check(self, file: str) -> str | None:
        """Why the file does not fit the model, with both sizes; None if it fits."""
        wanted = f"{self.images} * {self.info.image_nbytes} bytes for {self.info}"
        try:
            array = self._packs.row(file)
            if array is None and not file.lower().endswith(".npy"):
                nbytes = Path(file).stat().st_size
                return None if nbytes == self.file_nbytes else f"{nbytes} bytes, not {wanted}"
            if array is None:
                array = map_npy(file)
        except OSError as error:
            return error.strerror or str(error)
        except ResultError as error:
            return str(error)
        except ValueError:
            return NOT_NPY
        if array.dtype != self.info.dtype or array.nbytes != self.file_nbytes:
            return f"{array.dtype}{list(array.shape)}, {array.nbytes} bytes, not {wanted}"
        return None

    def read(self, file: str, out: NDArray[Any]) -> str | None:
        """Reads the file into `out`, (images, *shape of an image). Returns the reason of a failure,
        or None."""
        try:
            row = self._packs.row(file)
            if row is not None or file.lower().endswith(".npy"):
                reason = self.check(file)
                if reason is None:
                    out[...] = (map_npy(file) if row is None else row).reshape(out.shape)
                return reason
            flat = out.reshape(-1).view(np.uint8).data
            with opened(file) as stream:
                filled = 0
                while n := stream.readinto(flat[filled:]):
                    filled += n
                if filled != len(flat) or stream.read(1):
                    return self.check(file) or "changed while it was read"
        except OSError as error:
            return error.strerror or str(error)
        except ResultError as error:
            return str(error)
        return None


class GroupReader:
    """Reads the files of all inputs of a model. Every file of the first input holds `images` images
    of the batch, and so many parts of every other input.

    further: file of the first input -> files of the other inputs. Raises BackendError for
    inputs that cannot be divided among the files of a batch.
    """

    def __init__(
        self,
        model: str,
        inputs: Sequence[TensorInfo],
        images: int,
        further: Mapping[str, tuple[str, ...]],
    ) -> None:
        first = inputs[0]
        self._further = further
        given = 1 + len(next(iter(further.values()), ()))
        if given != len(inputs):
            names = ", ".join(info.name for info in inputs)
            raise BackendError(
                f"{model}: has {len(inputs)} inputs ({names}), --input names {given}; name a "
                "folder for each, with commas between them, in this order"
            )
        batch_size = first.shape[0]
        if images < 1 or batch_size % images:
            raise BackendError(
                f"batch size {batch_size} is no multiple of {images} images a file; take a model "
                f"of batch size {images}, or give --batchsize {images}"
            )
        self.files = batch_size // images  # of a batch, for each input
        for info in inputs[1:]:
            if info.shape[0] % self.files:
                raise BackendError(
                    f"{model}: input {info} cannot be divided among the {self.files} files of a "
                    "batch; use a model of a batch size that one file fills"
                )
        self.inputs = inputs
        self.readers = [InputReader(info, info.shape[0] // self.files) for info in inputs]

    def check(self, file: str) -> str | None:
        """Why the sample of `file` does not fit the model, or None."""
        return self._first_failure(file, lambda reader, path, _: reader.check(path))

    def read(self, file: str, index: int, arrays: Sequence[NDArray[Any]]) -> str | None:
        """Reads the sample of `file` into part `index` of each input's batch. Returns the reason of
        a failure, or None."""

        def read(reader: InputReader, path: str, array: NDArray[Any]) -> str | None:
            return reader.read(path, array[index * reader.images : (index + 1) * reader.images])

        return self._first_failure(file, read, arrays)

    def _first_failure(
        self,
        file: str,
        call: Callable[[InputReader, str, Any], str | None],
        arrays: Sequence[NDArray[Any]] = (),
    ) -> str | None:
        paths = (file, *self._further.get(file, ()))
        for i, (reader, path) in enumerate(zip(self.readers, paths, strict=True)):
            reason = call(reader, path, arrays[i] if arrays else None)
            if reason is not None:
                return reason if i == 0 else f"{path}: {reason}"
        return None


def found_images_per_file(info: TensorInfo, files: Sequence[str]) -> int:
    """How many images of the model's input one file holds, by the size of the first file that fits,
    as in ais_bench; 1 if none fits.

    A row of a pack is one image. Beside a manifest of `zoofast prep`, the manifest says it. The
    size would be no hint: four times the size is float32 where the model takes uint8.
    """
    for file in files:
        if is_pack(os.path.dirname(file)):
            return 1
        for folder in (Path(file).parent, Path(file).parent.parent):
            manifest = read_manifest(folder)
            if manifest is not None:
                return manifest.packing.images
        try:
            if file.lower().endswith(".npy"):
                array = map_npy(file)
                nbytes = array.nbytes if array.dtype == info.dtype else 0
            else:
                nbytes = Path(file).stat().st_size
        except (OSError, ValueError):
            continue
        images, rest = divmod(nbytes, info.image_nbytes)
        if images and not rest and not info.shape[0] % images:
            return images
    return 1


def check_any_fits(reader: GroupReader, files: Sequence[str]) -> None:
    """Raises SourceError if no file fits the model: then the model or the recipe is wrong."""
    reason = reader.check(files[0])
    if reason is not None and all(reader.check(file) is not None for file in files[1:]):
        raise SourceError(
            f"{files[0]} and all {len(files)} inputs do not fit the model: {reason}; were they "
            "prepared for another model, type or layout?"
        )


@dataclass
class InputBatch:
    """A batch for the model: for each input an array of the input's shape.

    rows: the files that were read, each with its rows of the first input. failures: the other
    files, each with the reason.
    """

    arrays: list[NDArray[Any]]
    rows: dict[str, slice]
    failures: dict[str, str]


class BatchReader:
    """Reads `files` as batches in a thread, PREFETCH batches ahead. A context manager.

    An iterated batch is valid until `held` more are asked for. `memory` allocates the batches'
    memory; None: NumPy. Rows without a file hold copies of the batch's first file, as in ais_bench.
    """

    def __init__(
        self,
        reader: GroupReader,
        files: Sequence[str],
        held: int = 1,
        memory: Allocate | None = None,
    ) -> None:
        self._reader = reader
        self._groups = [files[i : i + reader.files] for i in range(0, len(files), reader.files)]
        # Memory for each batch that is being read, and for each in the model.
        self._buffers = [
            [
                np.empty(info.shape, info.dtype)
                if memory is None
                else np.frombuffer(memory(info.nbytes), info.dtype).reshape(info.shape)
                for info in reader.inputs
            ]
            for _ in range(min(PREFETCH + held, len(self._groups)))
        ]
        self._thread = ThreadPoolExecutor(1, "read")

    def __enter__(self) -> BatchReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[InputBatch]:
        reads: deque[Future[InputBatch]] = deque()
        for index in range(len(self._groups)):
            while len(reads) <= PREFETCH and index + len(reads) < len(self._groups):
                reads.append(self._thread.submit(self._read, index + len(reads)))
            yield reads.popleft().result()

    def _read(self, index: int) -> InputBatch:
        batch = InputBatch(self._buffers[index % len(self._buffers)], {}, {})
        images, group = self._reader.readers[0].images, self._groups[index]
        first: int | None = None  # part of the batch that is filled
        unfilled = list(range(len(group), self._reader.files))
        for part, file in enumerate(group):
            reason = self._reader.read(file, part, batch.arrays)
            if reason is not None:
                batch.failures[file] = reason
                unfilled.append(part)
                continue
            batch.rows[file] = slice(part * images, (part + 1) * images)
            if first is None:
                first = part
        for array in batch.arrays:
            parts = array.reshape(self._reader.files, -1)
            for part in unfilled:
                parts[part] = 0 if first is None else parts[first]
        return batch
