"""Streaming: the rate of an evaluation, the rates of host and device alone, and the way over disk.

    python benchmarks/stream.py [--images DIR] [--model M.onnx] [--count N] [--rounds N]
                                [--json FILE] [--write]

In turn: the Loader alone; evaluations on simulated NPUs, one of half the host's rate, the same in a
process of its own as a real NPU has, and one of twice the host's rate.

With --model (which takes the tensors of squeezenet1_1_float32), also on ONNX Runtime: preprocessing
alone; inference alone, with ONNX Runtime's own threads and with one batch per core; both streamed;
and prep, infer and score one after the other over the disk.

Exit code 1: a result differs between stream and disk, or a rate is lower than its limit.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness import (
    BenchmarkError,
    Timing,
    add_images,
    benchmark_parser,
    find_images,
    in_turn,
    run_main,
)
from report import Table, conditions, load_note, publish

from zoofast import Loader, load_recipe
from zoofast.base.cpus import usable_cpus
from zoofast.base.text import counted
from zoofast.commands.shared.arguments import positive
from zoofast.evaluation.evaluate import evaluate
from zoofast.evaluation.options import EvalOptions
from zoofast.inference.backends import open_backend
from zoofast.inference.devices import PREFETCH
from zoofast.inference.job import dummy_batch
from zoofast.inference.spec import DEFAULT_BATCH, ModelSpec
from zoofast.inference.stream import ring_depth
from zoofast.preprocess.sources import Item, Source
from zoofast.scoring.labels import Labels

RECIPE = load_recipe("squeezenet1_1_float32")
BATCH = 8  # of the simulated NPUs; ONNX Runtime has zoofast eval's default
REPEATS = 4  # of all images through ONNX Runtime, so that start and end take little of the time
MIN_OF_DEVICE, MIN_OF_HOST, MAX_OF_SUM = 0.97, 0.95, 1.0  # limits of the ratios


def source_of(paths: Sequence[Path], count: int) -> Source:
    cycle = itertools.islice(itertools.cycle(paths), count)
    return Source("files", [Item(f"{i:06d}", str(path.resolve())) for i, path in enumerate(cycle)])


def labels_of(source: Source) -> Labels:
    """Arbitrary labels: only the equality of results matters here."""
    return Labels({item.name: label_of(item) for item in source.items}, "arbitrary labels")


def label_of(item: Item) -> int:
    return sum(os.fsencode(os.path.basename(item.path))) % (RECIPE.classes or 1)


def prepare(source: Source, timing: Timing) -> None:
    """Adds the seconds per image of the Loader, which throws the tensors away."""
    begin, done = time.perf_counter(), 0
    with Loader(source, RECIPE, batch_size=BATCH, depth=ring_depth(BATCH, PREFETCH)) as loader:
        for batch in loader:
            done += len(batch.names)
    if done != len(source.items):
        raise BenchmarkError(f"prepared {done} of {len(source.items)}")
    timing.seconds.append((time.perf_counter() - begin) / done)


def evaluate_all(source: Source, spec: ModelSpec, timing: Timing) -> None:
    """Adds the seconds per image of an evaluation, without those of loading the model."""
    evaluation = evaluate(source, source.items, RECIPE, labels_of(source), EvalOptions([spec]))
    if evaluation.score is None or evaluation.score.tally.images != len(source.items):
        raise BenchmarkError(f"{spec.model}: scored {evaluation.images} of {len(source.items)}")
    timing.seconds.append(evaluation.seconds / evaluation.images)


def simulated(fps: float) -> str:
    shape = "x".join(map(str, (BATCH, *RECIPE.shape)))
    return f"{shape}:{RECIPE.dtype}:{RECIPE.classes}@{fps}"


class InProcess(ModelSpec):
    """A model in a process of its own, as the models of aclruntime are."""

    own_process = True


def infer_alone(model: str, count: int, concurrency: int, timing: Timing) -> None:
    """Adds the seconds per image of inference alone, always of the same batch."""
    with open_backend(model, batch=DEFAULT_BATCH, concurrency=concurrency) as loaded:
        batch = dummy_batch(loaded.inputs, "random")
        begin = time.perf_counter()
        with ThreadPoolExecutor(concurrency) as pool:
            for _ in pool.map(lambda i: loaded.infer(*batch), range(-(-count // DEFAULT_BATCH))):
                pass
        timing.seconds.append((time.perf_counter() - begin) / count)


class OverDisk:
    """prep, infer and score, as a user runs them."""

    def __init__(self, source: Source, model: str, folder: Path) -> None:
        self._model, self._folder = model, folder
        self._list, self._labels = folder / "list.txt", folder / "labels.txt"
        links = folder / "links"
        links.mkdir()
        for item in source.items:
            (links / f"{item.name}.JPEG").symlink_to(item.path)
        self._list.write_text("".join(f"{links / item.name}.JPEG\n" for item in source.items))
        self._labels.write_text(
            "".join(f"{item.name}.JPEG {label_of(item)}\n" for item in source.items)
        )
        self.written = 0
        self.result = ""

    def _zoofast(self, *words: object) -> None:
        command = [sys.executable, "-c", "from zoofast.cli import main; exit(main())"]
        done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True)
        if done.returncode:
            raise BenchmarkError(f"{words[0]}: {done.stderr.strip()}")

    def steps(self, timing: Timing, two: Timing, count: int) -> None:
        """Adds the seconds per image of the three commands to `timing`, and those of prep and infer
        to `two`."""
        with tempfile.TemporaryDirectory(dir=self._folder) as work:
            begin = time.perf_counter()
            bins, results, out = Path(work, "bins"), Path(work, "r"), Path(work, "result.json")
            self._zoofast("prep", self._list, bins, "--recipe", RECIPE.name, "--quiet")
            where = ["--input", bins, "--output", work, "--output_dirname", "r", "--quiet"]
            self._zoofast(
                "infer", "--model", self._model, "--batchsize", str(DEFAULT_BATCH), *where
            )
            two.seconds.append((time.perf_counter() - begin) / count)
            self._zoofast("score", results, self._labels, "-o", out, "--quiet")
            timing.seconds.append((time.perf_counter() - begin) / count)
            self.written = sum(path.stat().st_size for path in Path(work).rglob("*"))
            self.result = out.read_text()

    def stream(self, timing: Timing, count: int) -> None:
        with tempfile.TemporaryDirectory(dir=self._folder) as work:
            begin, out = time.perf_counter(), Path(work, "result.json")
            words = [self._model, self._list, self._labels, "--recipe", RECIPE.name, "-o", out]
            self._zoofast("eval", *words, "--quiet")
            timing.seconds.append((time.perf_counter() - begin) / count)
            if out.read_text() != self.result and self.result:
                raise BenchmarkError("the result.json of eval differs from that of score")


@dataclass
class Results:
    """Timings and ratios by name, the rows of the table, and the rows beyond their limit."""

    timings: dict[str, Timing] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    rows: list[list[str]] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def time(self, names: Sequence[str]) -> list[Timing]:
        """New timings with these names."""
        timings = [Timing() for _ in names]
        self.timings |= zip(names, timings, strict=True)
        return timings

    def add(self, title: str, name: str, verdict: str = "", is_missed: bool = False) -> None:
        """Adds the row of the timing `name`."""
        timing = self.timings[name]
        rate = f"{1 / timing.median:,.0f}"
        self.rows.append([title, *timing.milliseconds(), rate, verdict])
        if is_missed:
            self.missed.append(title)


def run(args: argparse.Namespace) -> int:
    images, note = find_images(args.images, args.limit), load_note()
    results, model = Results(), ""
    on_simulated_npus(source_of(images.paths, args.count), args.rounds, results)
    if args.model:
        on_ort(images.paths, args, results)
        model = (
            f"; ONNX Runtime with {Path(args.model).name}, batch {DEFAULT_BATCH}, in memory "
            f"{REPEATS} times over the images, by commands once"
        )
    table = Table(["", "ms/image", "min…max", "images/s", ""], results.rows)
    about = (
        f"{images.description}, repeated to {args.count}, {RECIPE.name}, batch {BATCH}, "
        f"{counted(usable_cpus(), 'thread')}; medians of {args.rounds} rounds{model}; "
        f"{conditions(note)}"
    )
    figures = {name: timing.as_dict() for name, timing in results.timings.items()}
    missed = results.missed
    limits = (
        f"The limits are {MIN_OF_DEVICE:.0%} of the device's rate in this process, "
        f"{MIN_OF_HOST:.0%} of the host's, and {MAX_OF_SUM:.2f}× the sum."
    )
    verdict = f"Slower than the limit: {'; '.join(missed)}." if missed else "No row is slower."
    numbers = {"timings": figures, "ratios": results.ratios}
    publish(args, "stream", {"Streaming": table}, about, numbers, [f"{limits} {verdict}"])
    return 1 if missed else 0


def on_simulated_npus(source: Source, rounds: int, results: Results) -> None:
    """Adds what NPUs of half the host's rate and of twice that rate compute."""
    guess = Timing()
    prepare(source, Timing())  # reads the files into the page cache
    prepare(source, guess)
    rate = 1 / guess.median
    host, half, process, twice = results.time(["host", "half", "process", "twice"])
    slow, fast = simulated(rate / 2), simulated(rate * 2)
    in_turn(
        [
            partial(prepare, source, host),
            partial(evaluate_all, source, ModelSpec(slow, "sim"), half),
            partial(evaluate_all, source, InProcess(slow, "sim"), process),
            partial(evaluate_all, source, ModelSpec(fast, "sim"), twice),
        ],
        rounds,
        "stream",
    )
    device = Timing([2 / rate] * rounds)
    of_device, in_process = 1 / half.ratio_to(device), 1 / process.ratio_to(device)
    of_host = 1 / twice.ratio_to(host)
    results.ratios |= {
        "of the device": of_device,
        "of the device, in a process": in_process,
        "of the host": of_host,
    }
    results.add("the Loader alone", "host")
    verdict = "{:.1%} of the device's rate"
    is_missed = of_device < MIN_OF_DEVICE
    results.add("NPU of half that rate", "half", verdict.format(of_device), is_missed)
    results.add("the same, in its own process", "process", verdict.format(in_process))
    verdict = f"{of_host:.1%} of the host's rate"
    results.add("NPU of twice that rate", "twice", verdict, of_host < MIN_OF_HOST)


def on_ort(paths: Sequence[Path], args: argparse.Namespace, results: Results) -> None:
    """Adds what a real model computes on this machine."""
    names = ["prep", "infer", "concurrent", "both", "disk", "two commands", "command"]
    prep, infer, concurrent, both, disk, two, command = results.time(names)
    once, source = source_of(paths, len(paths)), source_of(paths, REPEATS * len(paths))
    few, many = len(once.items), len(source.items)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        over_disk = OverDisk(once, args.model, Path(folder))
        spec = ModelSpec(args.model, batch=DEFAULT_BATCH)
        in_turn(
            [
                partial(prepare, source, prep),
                partial(infer_alone, args.model, many, 1, infer),
                partial(infer_alone, args.model, many, usable_cpus(), concurrent),
                partial(evaluate_all, source, spec, both),
                partial(over_disk.steps, disk, two, few),
                partial(over_disk.stream, command, few),
            ],
            args.rounds,
            "stream with ONNX Runtime",
        )

    def of_sum(infer: Timing) -> float:
        rounds = zip(both.seconds, prep.seconds, infer.seconds, strict=True)
        return float(statistics.median(each / (first + then) for each, first, then in rounds))

    alone, per_core, commands = of_sum(infer), of_sum(concurrent), command.ratio_to(two)
    results.ratios |= {
        "of the sum in memory": alone,
        "of the sum with concurrency": per_core,
        "of the sum": commands,
        "written": float(over_disk.written),
    }
    results.add("preprocessing alone", "prep")
    results.add("ONNX Runtime alone", "infer")
    results.add("the same, one batch per core", "concurrent")
    verdict = (
        f"{alone:.2f}× the sum with ONNX Runtime alone, {per_core:.2f}× with one batch per core"
    )
    results.add("both, streamed", "both", verdict, alone > MAX_OF_SUM)
    as_long = disk.ratio_to(command)
    verdict = f"{as_long:.2f}× as long, {over_disk.written / 1e6:,.0f} MB written"
    results.add("three commands, over the disk", "disk", verdict)
    results.add("of these, prep and infer", "two commands")
    verdict = f"{commands:.2f}× prep and infer, nothing written"
    results.add("one command, streamed", "command", verdict, commands > MAX_OF_SUM)


def main() -> int:
    parser = benchmark_parser("Streaming evaluation.", rounds=7)
    add_images(parser)
    parser.add_argument("--model", metavar="M.onnx", help="also measure with ONNX Runtime")
    parser.add_argument("--folder", type=Path, help="where the three steps write")
    parser.add_argument("--count", type=positive, default=3000, metavar="N", help="default: 3000")
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
