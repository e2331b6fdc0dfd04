"""The result files that `zoofast infer` writes, byte for byte as ais_bench writes them."""

from __future__ import annotations

import io
import math
import shutil
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast import _logits
from zoofast.base.files import write_atomic
from zoofast.base.rows import npy_header
from zoofast.base.text import counted
from zoofast.errors import BackendError, OutputError
from zoofast.inference.backends import TensorInfo

FORMATS = ("BIN", "NPY", "TXT")
MAX_WAITING = 4  # batches whose results wait for the disk
RESERVED_BYTES = 64 << 20  # of free space, which a run leaves to others
BLOCK_BYTES = 4096  # a file takes whole blocks of the disk
TEXT_BYTES = 10  # of a number in a TXT file, about


def encode_rows(rows: NDArray[Any], fmt: str) -> bytes:
    """The content of a result file. rows: (images, …), one file's part of an output."""
    if fmt == "BIN":
        return rows.tobytes()
    if fmt == "TXT":
        lines = rows.reshape(-1, rows.shape[-1] if rows.ndim else 1)
        if rows.dtype in (np.float32, np.float16):
            return _logits.format_rows(np.ascontiguousarray(lines, np.float32))
        number = "%f " if rows.dtype.kind == "f" else "%d "
        line = number * lines.shape[1] + "\n"
        return "".join(line % tuple(row) for row in lines.tolist()).encode()
    buffer = io.BytesIO()
    np.save(buffer, rows)
    return buffer.getvalue()


def part_of_file(output: NDArray[Any], rows: slice, batch: int) -> NDArray[Any]:
    """One file's part of an output, as ais_bench divides it: the first axis in equal parts, one for
    each file of the batch. rows: of the batch, which the file filled; a file that fills the whole
    batch gets the whole output. Raises BackendError when the axis cannot be divided."""
    images = rows.stop - rows.start
    files = batch // images
    if files == 1:
        return output
    length = output.shape[0] if output.ndim else 0
    if not length or length % files:
        raise BackendError(
            f"an output of shape {list(output.shape)} cannot be divided among the {files} files of "
            "a batch; use a model of a batch size that one file fills"
        )
    part = length // files
    index = rows.start // images
    return output[index * part : (index + 1) * part]


def is_whole(file: Path, fmt: str, dtype: str, shape: Sequence[int]) -> bool:
    """Whether a result file has the length of `shape`; a TXT file, whether its last line ends.

    After a power failure a file may be incomplete under its final name. Raises OSError.
    """
    if fmt == "TXT":
        return file.read_bytes().endswith(b"\n")
    header = npy_header(tuple(shape), dtype) if fmt == "NPY" else b""
    return file.stat().st_size == len(header) + math.prod(shape) * np.dtype(dtype).itemsize


@dataclass(frozen=True)
class ResultSink:
    """Result files <folder>/<name>_<output>.<format>; each appears whole or not at all."""

    folder: Path
    fmt: str
    outputs: int
    parts: Path | None = None  # the folder of unfinished files; None: `folder`

    def files(self, name: str) -> list[str]:
        """The result files of one input, one for each output."""
        suffix = self.fmt.lower()
        return [str(self.folder / f"{name}_{i}.{suffix}") for i in range(self.outputs)]

    def write(self, name: str, rows: Sequence[NDArray[Any]]) -> None:
        """rows: the input's part of each output, (images, …). Raises OutputError."""
        for file, output in zip(self.files(name), rows, strict=True):
            write_atomic(file, encode_rows(output, self.fmt), self.parts)

    def check_space(self, files: int, outputs: Sequence[TensorInfo], batch: int) -> None:
        """Raises OutputError when the results of `files` files do not fit on the disk. batch: the
        number of files whose results an output holds."""
        nbytes = 0
        for info in outputs:
            size = math.prod(info.shape) // batch
            text = size * TEXT_BYTES if self.fmt == "TXT" else 0
            nbytes += -(-max(text, info.nbytes // batch) // BLOCK_BYTES) * BLOCK_BYTES
        free = shutil.disk_usage(self.folder).free
        needed = files * nbytes + RESERVED_BYTES
        if needed > free:
            raise OutputError(
                f"{self.folder}: the results of {counted(files, 'file')} need {needed:,} bytes, "
                f"with a reserve of {RESERVED_BYTES:,}, and {free:,} are free; free some space"
            )


class ResultWriter:
    """Writes results in a thread while the model runs other batches. A context manager.

    Leaving the context writes what is still waiting, also after an exception, so that nothing that
    was computed is lost.
    """

    def __init__(self, sink: ResultSink) -> None:
        self._sink = sink
        self._writes: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1, "write")

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self._wait(0)

    def put(self, results: Iterable[tuple[str, Sequence[NDArray[Any]]]]) -> None:
        """results: names, and each one's part of the outputs. Raises OutputError of an earlier
        batch."""
        self._writes.append(self._thread.submit(self._write, list(results)))
        self._wait(MAX_WAITING)

    def flush(self) -> None:
        """Waits until everything is written. Raises OutputError."""
        self._wait(0)

    def _wait(self, max_waiting: int) -> None:
        while len(self._writes) > max_waiting:
            self._writes.popleft().result()

    def _write(self, results: list[tuple[str, Sequence[NDArray[Any]]]]) -> None:
        for name, parts in results:
            self._sink.write(name, parts)


def open_folder(output: str, dirname: str | None) -> Path:
    """Makes the folder <output>/<dirname>; without a dirname, its name is the time."""
    folder = Path(output) / (dirname or time.strftime("%Y_%m_%d-%H_%M_%S"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
    return folder


def sibling_path(folder: Path, suffix: str) -> Path:
    """<folder><suffix>. The guides' scripts would take a file inside the folder for a result."""
    return folder.parent / (folder.name + suffix)  # with_name refuses the root folder
