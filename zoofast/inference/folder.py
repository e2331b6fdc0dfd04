"""A folder of model-ready files -> a folder of results, as ais_bench does it, on any backend."""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast import _logits
from zoofast.base.files import write_atomic
from zoofast.base.names import stem
from zoofast.errors import BackendError, OutputError, SourceError
from zoofast.inference.backends import Model, TensorInfo, Times, open_backend
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe, recipe_names

FORMATS = ("BIN", "NPY", "TXT")
SUFFIXES = (".npy", ".NPY", ".bin", ".BIN")
READ_AHEAD = 2  # batches read while one is in the model
WRITE_BEHIND = 4  # batches whose results wait for the disk
FREE_BYTES = 64 << 20  # left over for others when free space is checked


# ---- inputs ------------------------------------------------------------------


def natural_key(path: str) -> list[tuple[int, int, str]]:
    """Sorts as ais_bench: runs of digits as numbers, the rest without regard to case."""
    parts = re.split(r"(\d+)", path)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in parts]


def list_inputs(where: str) -> list[str]:
    """The .bin and .npy files of a folder in ais_bench's order, or the one file `where`.

    Raises SourceError: nothing there, or two files whose results would have one name.
    """
    if Path(where).is_dir():
        try:
            files = sorted(str(path) for path in Path(where).iterdir() if path.suffix in SUFFIXES)
        except OSError as error:
            raise SourceError(f"{where}: cannot be listed: {error.strerror}") from error
        files.sort(key=natural_key)
    elif where.endswith(SUFFIXES) and Path(where).is_file():
        files = [where]
    else:
        raise SourceError(f"{where}: no such folder, nor a .bin or .npy file")
    if not files:
        raise SourceError(f"{where}: holds no .bin or .npy files")
    first: dict[str, str] = {}
    for file in files:
        if first.setdefault(stem(file), file) != file:
            raise SourceError(
                f"{first[stem(file)]} and {file} would both give {stem(file)}_0, since names end "
                "at the first dot; rename one"
            )
    return files


class InputReader:
    """Reads files into batches. Every file holds `images` images of the model's input."""

    def __init__(self, info: TensorInfo, images: int) -> None:
        self.info, self.images = info, images
        self.file_nbytes = info.image_nbytes * images

    def check(self, file: str) -> str | None:
        """Why the file does not fit the model, with both numbers; None when it does."""
        wanted = f"{self.images} * {self.info.image_nbytes} bytes for {self.info}"
        try:
            if not file.lower().endswith(".npy"):
                nbytes = Path(file).stat().st_size
                return None if nbytes == self.file_nbytes else f"{nbytes} bytes, not {wanted}"
            array = np.load(file, mmap_mode="r")
        except OSError as error:
            return error.strerror or str(error)
        except ValueError:
            return "is no .npy file of numbers"
        if array.dtype != self.info.dtype or array.nbytes != self.file_nbytes:
            return f"{array.dtype}{list(array.shape)}, {array.nbytes} bytes, not {wanted}"
        return None

    def read(self, file: str, out: NDArray[Any]) -> str | None:
        """Fills `out`, the file's part of a batch; returns what is wrong instead of raising."""
        try:
            if file.lower().endswith(".npy"):
                wrong = self.check(file)
                if wrong is None:
                    out[...] = np.load(file).reshape(out.shape)
                return wrong
            flat = out.reshape(-1).view(np.uint8).data
            with Path(file).open("rb", buffering=0) as stream:
                got = 0
                while n := stream.readinto(flat[got:]):
                    got += n
                if got != len(flat) or stream.read(1):
                    return self.check(file) or "changed while it was read"
        except OSError as error:
            return error.strerror or str(error)
        return None


# ---- outputs -----------------------------------------------------------------


def encode_rows(rows: NDArray[Any], fmt: str) -> bytes:
    """One file's share of an output as ais_bench writes it. rows: (images, …)."""
    if fmt == "BIN":
        return rows.tobytes()
    if fmt == "TXT":
        lines = rows.reshape(-1, rows.shape[-1])
        if rows.dtype in (np.float32, np.float16):
            return _logits.format_rows(np.ascontiguousarray(lines, np.float32))
        number = "%f " if rows.dtype.kind == "f" else "%d "
        line = number * lines.shape[1] + "\n"
        return "".join(line % tuple(row) for row in lines.tolist()).encode()
    buffer = io.BytesIO()
    np.save(buffer, rows)
    return buffer.getvalue()


@dataclass(frozen=True)
class ResultSink:
    """Where results go: <folder>/<name>_<output>.<format>, each whole or absent."""

    folder: Path
    fmt: str
    outputs: int

    def files(self, name: str) -> list[str]:
        suffix = self.fmt.lower()
        return [str(self.folder / f"{name}_{i}.{suffix}") for i in range(self.outputs)]

    def write(self, name: str, rows: Sequence[NDArray[Any]]) -> None:
        for file, output in zip(self.files(name), rows, strict=True):
            write_atomic(file, encode_rows(output, self.fmt))

    def check_space(self, files: int, outputs: Sequence[TensorInfo]) -> None:
        """Raises OutputError when the results of `files` images cannot fit."""
        per_value = {"BIN": 0, "NPY": 0, "TXT": 10}
        each = 0
        for info in outputs:
            text = int(np.prod(info.shape[1:])) * per_value[self.fmt]
            # a file takes whole blocks
            each += -(-max(text, info.image_nbytes) // 4096) * 4096
        free = shutil.disk_usage(self.folder).free
        if files * each + FREE_BYTES > free:
            raise OutputError(
                f"{self.folder}: {files} results need about {files * each >> 20} MiB, "
                f"{free >> 20} MiB are free"
            )


def open_folder(output: str, dirname: str | None) -> Path:
    """Makes <output>/<dirname>; without a dirname, the time is one."""
    folder = Path(output) / (dirname or time.strftime("%Y_%m_%d-%H_%M_%S"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
    return folder


def beside(folder: Path, suffix: str) -> Path:
    """<folder><suffix>: never inside, where evaluators would take it for a result."""
    return folder.with_name(folder.name + suffix)


# ---- a run -------------------------------------------------------------------


@dataclass
class InferReport:
    """What a run did. Times are of this run, images and failures of all its files."""

    batch: int
    files: int = 0  # done in this run
    images: int = 0
    seconds: float = 0.0  # by the clock, from the first read to the last write
    times: Times = field(default_factory=Times)
    failures: dict[str, str] = field(default_factory=dict)  # file -> why
    infos: list[tuple[str, list[str]]] = field(default_factory=list)  # input, its outputs

    def throughput(self) -> float:
        """ais_bench's: images the device would compute per second with nothing around it."""
        return 1000 * self.batch / float(np.mean(self.times.compute))

    def images_per_second(self) -> float:
        """By the clock, with reading, copying and writing."""
        return self.images / max(self.seconds, 1e-9)


Progress = Callable[[int], None]


def infer_files(
    model: Model,
    files: Sequence[str],
    sink: ResultSink | None,
    *,
    images_per_file: int = 1,
    loop: int = 1,
    on_error: str = "skip",
    progress: Progress = lambda images: None,
) -> InferReport:
    """Runs `files` through `model`, in order, in the calling thread; reads and writes beside it.

    A short last batch is filled up with copies of its first file, whose results are dropped. A
    file that does not fit is left out and reported; on_error "stop" makes it a SourceError.
    sink None: nothing is written. Raises BackendError, OutputError.
    """
    info = model.input
    batch = info.shape[0]
    if images_per_file < 1 or batch % images_per_file:
        raise BackendError(f"batch size {batch} is no multiple of {images_per_file} images a file")
    reader = InputReader(info, images_per_file)
    report = InferReport(batch)
    per_batch = batch // images_per_file
    groups = [files[i : i + per_batch] for i in range(0, len(files), per_batch)]
    # a buffer for each batch being read, and one in the model
    buffers = [np.empty(info.shape, info.dtype) for _ in range(READ_AHEAD + 1)]
    begin = time.perf_counter()

    def fill(index: int) -> dict[str, str]:
        buffer = buffers[index % len(buffers)]
        wrong = {}
        good = None
        for position, file in enumerate(groups[index]):
            part = slice(position * images_per_file, (position + 1) * images_per_file)
            why = reader.read(file, buffer[part])
            if why is not None:
                wrong[file] = why
            elif good is None:
                good = part
        for position in range(per_batch):
            if position >= len(groups[index]) or groups[index][position] in wrong:
                part = slice(position * images_per_file, (position + 1) * images_per_file)
                buffer[part] = 0 if good is None else buffer[good]
        return wrong

    def write(index: int, outputs: list[NDArray[Any]], wrong: dict[str, str]) -> None:
        if sink is None:
            return
        for position, file in enumerate(groups[index]):
            if file not in wrong:
                part = slice(position * images_per_file, (position + 1) * images_per_file)
                sink.write(stem(file), [output[part] for output in outputs])

    with ThreadPoolExecutor(1, "read") as reading, ThreadPoolExecutor(1, "write") as writing:
        reads: deque[Future[dict[str, str]]] = deque()
        writes: deque[Future[None]] = deque()
        try:
            for index in range(len(groups)):
                while len(reads) <= READ_AHEAD and index + len(reads) < len(groups):
                    reads.append(reading.submit(fill, index + len(reads)))
                wrong = reads.popleft().result()
                if wrong and on_error == "stop":
                    file, why = next(iter(wrong.items()))
                    raise SourceError(f"{file}: {why}")
                report.failures.update(wrong)
                done = [file for file in groups[index] if file not in wrong]
                if done:
                    outputs = model.infer(buffers[index % len(buffers)], loop)
                    writes.append(writing.submit(write, index, outputs, wrong))
                while len(writes) > WRITE_BEHIND:
                    writes.popleft().result()
                report.files += len(done)
                report.images += len(done) * images_per_file
                report.infos += [(file, sink.files(stem(file)) if sink else []) for file in done]
                progress(len(done) * images_per_file)
            while writes:
                writes.popleft().result()
        finally:
            reading.shutdown(cancel_futures=True)
            writing.shutdown()  # what was computed is written, also on Ctrl-C
    report.seconds = time.perf_counter() - begin
    report.times = model.times()
    return report


PURE = "pure_infer_data"  # ais_bench's name for the input that is none


def infer_nothing(
    model: Model, data: NDArray[Any], loop: int, sink: ResultSink | None = None
) -> InferReport:
    """Pure inference: the same batch `loop` times; the last outputs, whole, go to the sink."""
    report = InferReport(model.input.shape[0])
    begin = time.perf_counter()
    outputs = model.infer(data, loop)
    report.seconds = time.perf_counter() - begin
    report.images = report.batch * loop
    report.times = model.times()
    if sink is not None:
        sink.write(PURE, outputs)
        report.infos = [(PURE, sink.files(PURE))]
    return report


def made_up_batch(info: TensorInfo, kind: str) -> NDArray[Any]:
    """kind zero, or random: random bytes, as ais_bench; for floats in [0, 1)."""
    if kind == "zero":
        return np.zeros(info.shape, info.dtype)
    rng = np.random.default_rng(0)
    if info.dtype.kind == "f":
        return rng.random(info.shape).astype(info.dtype)
    return rng.integers(0, 128, info.shape).astype(info.dtype)


def warm_up(model: Model, data: NDArray[Any], count: int) -> None:
    """Runs `count` times, and forgets the times."""
    for _ in range(count):
        model.infer(data)
    model.reset_times()


@dataclass(frozen=True)
class Job:
    """All that one device does in a run; plain data, for another process."""

    model: str
    backend: str | None = None
    provider: str | None = None
    device: int = 0
    batch: int | None = None
    files: list[str] | None = None  # None: pure inference
    images_per_file: int = 1
    folder: Path | None = None
    fmt: str = "BIN"
    loop: int = 1
    warmup: int = 1
    pure_data: str = "zero"
    on_error: str = "skip"
    recipe: str | None = None

    def run(
        self, progress: Progress = lambda images: None, ready: Callable[[], Any] = lambda: None
    ) -> InferReport:
        """Loads the model in the calling thread and runs it; `ready` is called in between."""
        with open_backend(
            self.model,
            self.backend,
            device=self.device,
            batch=self.batch,
            provider=self.provider,
        ) as model:
            if self.recipe is not None:
                check_recipe(model.input, load_recipe(self.recipe))
            sink = None
            if self.folder is not None:
                sink = ResultSink(self.folder, self.fmt, len(model.outputs))
            if self.files is None:
                data = made_up_batch(model.input, self.pure_data)
                warm_up(model, data, self.warmup)
                ready()
                return infer_nothing(model, data, self.loop, sink)
            if self.files:
                check_most(InputReader(model.input, self.images_per_file), self.files)
            if sink is not None:
                sink.check_space(len(self.files), model.outputs)
            warm_up(model, made_up_batch(model.input, "zero"), self.warmup)
            ready()
            return infer_files(
                model,
                self.files,
                sink,
                images_per_file=self.images_per_file,
                loop=self.loop,
                on_error=self.on_error,
                progress=progress,
            )


def check_recipe(info: TensorInfo, recipe: Recipe) -> None:
    """Raises BackendError unless the model takes what the recipe makes."""

    def fits(recipe: Recipe) -> bool:
        return (recipe.shape, np.dtype(recipe.dtype)) == (info.shape[1:], info.dtype)

    if not fits(recipe):
        made = TensorInfo(recipe.input_name, (info.shape[0], *recipe.shape), np.dtype(recipe.dtype))
        variants = (name for name in recipe_names() if name.startswith(f"{recipe.name}_"))
        other = next((name for name in variants if fits(load_recipe(name))), None)
        cure = "use the recipe, or the type and layout, that the model was made for"
        if other is not None:
            cure = f"recipe {other} makes that"
        raise BackendError(f"recipe {recipe.name} makes {made}, but the model takes {info}; {cure}")


def check_most(reader: InputReader, files: Sequence[str]) -> None:
    """Raises BackendError when no file fits the model: then none is odd, the model is wrong."""
    why = reader.check(files[0])
    if why is not None and all(reader.check(file) is not None for file in files[1:]):
        raise BackendError(
            f"{files[0]} and all {len(files)} inputs do not fit the model: {why}; were they "
            "prepared for another model, type or layout?"
        )


# ---- numbers -----------------------------------------------------------------

QUANTILES = {"median": 50, "p90": 90, "p99": 99}


def latency(times: Sequence[float]) -> dict[str, float]:
    """min, mean, median, p90, p99, max of milliseconds; zeros of nothing."""
    values = np.asarray(times or [0.0])
    spread = {name: float(np.percentile(values, q)) for name, q in QUANTILES.items()}
    return {
        "min": float(values.min()),
        "mean": float(values.mean()),
        **spread,
        "max": float(values.max()),
    }


def ais_bench_statistics(times: Sequence[float]) -> dict[str, float]:
    """The numbers of one line of ais_bench's summary, milliseconds."""
    values = np.asarray(times or [0.0])
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "percentile(99%)": float(np.percentile(values, 99)),
    }


def ais_bench_lines(report: InferReport, display_all: bool = False) -> Iterator[str]:
    """The summary on ais_bench's standard output, word for word."""

    def line(name: str, times: Sequence[float]) -> str:
        numbers = ", ".join(f"{k} = {v}" for k, v in ais_bench_statistics(times).items())
        return f"[INFO] {name} (ms): {numbers}"

    yield "[INFO] -----------------Performance Summary------------------"
    if display_all and report.times.to_device:
        yield line("H2D_latency", report.times.to_device)
    yield line("NPU_compute_time", report.times.compute)
    if display_all and report.times.from_device:
        yield line("D2H_latency", report.times.from_device)
    mean = float(np.mean(report.times.compute))
    yield (
        f"[INFO] throughput 1000*batchsize.mean({report.batch})/NPU_compute_time.mean({mean}): "
        f"{report.throughput()}"
    )
    yield "[INFO] ------------------------------------------------------"


def ais_bench_summary(report: InferReport, arguments: list[str]) -> dict[str, Any]:
    """The content of ais_bench's summary file, in its order of keys."""

    def statistics(times: Sequence[float]) -> dict[str, float]:
        return {**ais_bench_statistics(times), "count": len(times)}

    return {
        "filesinfo": {
            str(i): {"infiles": [source], "outfiles": results}
            for i, (source, results) in enumerate(report.infos)
        },
        "args": arguments,
        "NPU_compute_time": statistics(report.times.compute),
        "H2D_latency": statistics(report.times.to_device),
        "D2H_latency": statistics(report.times.from_device),
        "throughput": report.throughput() if report.times.compute else 0.0,
        "npu_compute_time_list": report.times.compute,
        "pid": os.getpid(),
    }
