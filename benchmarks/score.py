"""Scoring result files: zoofast and the guides' script, two threads and one, memory.

    python benchmarks/score.py [--rounds N] [--files N] [--many N] [--json FILE] [--write]

Exit code 1: a contender gives another result, or memory grows with the content of the files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from harness import SHARED, BenchmarkError, Timing, benchmark_parser, in_turn, run_main
from report import README, Table, conditions, load_note, publish, replace_block

from zoofast import _logits
from zoofast.commands.shared.arguments import positive
from zoofast.scoring.labels import Labels, load_labels
from zoofast.scoring.results import ReadOptions, ResultReader
from zoofast.scoring.score import score_folder

CLASSES = 1000
GUIDES = "guides' script"  # the contender that the others are compared with
GOLDEN = SHARED / "golden" / "txt" / "squeezenet1_1"
MAX_MEMORY_PER_FILE = 2048  # bytes: name and ranks, not the 9.5 kB of its content

# The peak of getrusage includes that of the parent process; VmHWM does not.
PEAK_MEMORY = """
import json, re, sys
from pathlib import Path
from zoofast.scoring.labels import load_labels
from zoofast.scoring.results import ReadOptions
from zoofast.scoring.score import score_folder
score = score_folder(sys.argv[1], load_labels(sys.argv[2]), reading=ReadOptions(threads=2))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(json.dumps([score.tally.images, int(peak) * 1024]))
"""


def sample_rows() -> tuple[list[bytes], list[int], str]:
    """The contents of result files, their labels, and a description."""
    if GOLDEN.is_dir():
        labels = load_labels(SHARED / "imagenet-sample" / "val_label.txt").by_name
        files = sorted(GOLDEN.iterdir())
        truth = [labels[file.name.removesuffix("_0.txt")] for file in files]
        return [file.read_bytes() for file in files], truth, "SqueezeNet's logits of real images"
    rng = np.random.default_rng(0)
    rows = rng.normal(10, 5, (300, CLASSES)).astype(np.float32)
    truth = rng.integers(0, CLASSES, 300).tolist()
    return [_logits.format_rows(row[None]) for row in rows], truth, "random logits"


def make_files(folder: Path, count: int) -> tuple[Path, Path, str]:
    """`count` result files and their labels; the contents repeat. Also returns a description."""
    rows, truth, description = sample_rows()
    results = folder / f"results{count}"
    results.mkdir()
    first: list[Path] = []
    lines = []
    for i in range(count):
        file = results / f"ILSVRC2012_val_{i:08d}_0.txt"
        if i < len(rows):
            file.write_bytes(rows[i])
            first.append(file)
        else:
            os.link(first[i % len(rows)], file)
        lines.append(f"ILSVRC2012_val_{i:08d}.JPEG {truth[i % len(rows)]}\n")
    labels = folder / f"labels{count}.txt"
    labels.write_text("".join(lines))
    return results, labels, description


# ---- contenders: each returns the hits at top-1 … top-5 -----------------------------


def score_as_guides(results: Path, labels: Labels) -> list[int]:
    """As the guides' scripts: split, one np.float32 per word, a full sort."""
    hits = np.zeros(5, int)
    for name in os.listdir(results):
        truth = labels.by_name[name.split(".")[0].rpartition("_")[0]]
        with (results / name).open() as file:
            words = file.readline().strip().split(" ")
        row = np.zeros(len(words), np.float32)
        for i, word in enumerate(words):
            row[i] = np.float32(word)
        for place, index in enumerate(np.argsort(-row)[:5]):
            if index == truth:
                hits[place:] += 1
    return hits.tolist()


def score_with_numpy(results: Path, labels: Labels) -> list[int]:
    """NumPy at its best: parses a row at once, sorts only the best classes."""
    hits = np.zeros(5, int)
    for name in os.listdir(results):
        truth = labels.by_name[name.split(".")[0].rpartition("_")[0]]
        row = np.array((results / name).read_bytes().split(), np.float64).astype(np.float32)
        best = np.argpartition(-row, 5)[:5]
        best = best[np.argsort(-row[best])]
        hits += np.cumsum(best == truth)
    return hits.tolist()


def score_with_zoofast(results: Path, labels: Labels, threads: int) -> list[int]:
    """All of `zoofast score` without the printing."""
    score = score_folder(results, labels, reading=ReadOptions(threads=threads))
    return score.tally.hits.tolist()


def only_rank(results: Path, labels: Labels, threads: int) -> list[int]:
    """Lists the folder; opens, reads, parses and ranks every file. Needs no labels."""
    with ResultReader(results, 6, ReadOptions(threads=threads)) as reader:
        reader.finish()
    return []


def only_read(results: Path, labels: Labels) -> list[int]:
    """Opens, reads and closes every file, as every scorer must."""
    for name in os.listdir(results):
        fd = os.open(results / name, os.O_RDONLY)
        os.read(fd, 1 << 17)
        os.close(fd)
    return []


def measure(run: Callable[[], list[int]], count: int, timing: Timing, answers: list[int]) -> None:
    begin, begin_cpu = time.perf_counter(), time.process_time()
    answers[:] = run()
    timing.seconds.append((time.perf_counter() - begin) / count)
    timing.cpu_seconds.append((time.process_time() - begin_cpu) / count)


def compute_in_cache(threads: int, timing: Timing) -> None:
    """Control: arithmetic that shares nothing and stays in the cache of each CPU. It shows what two
    CPUs, which may be two hardware threads of one core, compute at this moment."""

    def work(seed: int) -> None:
        scores = np.random.default_rng(seed).normal(0, 1, (64, CLASSES)).astype(np.float32)
        for _ in range(1600 // threads):
            _logits.confidence(scores)

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    timing.seconds.append(time.perf_counter() - begin)
    timing.cpu_seconds.append(0.0)  # not measured


def peak_memory(results: Path, labels: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY, str(results), str(labels)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    images, nbytes = json.loads(done.stdout)
    if images != len(os.listdir(results)):
        raise BenchmarkError(f"{results.name}: scored {images}")
    return int(nbytes)


@dataclass
class Measured:
    """The timings, the hits and the memory of all contenders."""

    timings: dict[str, Timing]
    hits: dict[str, list[int]]
    control: dict[int, Timing]  # threads -> seconds of arithmetic alone
    memory: dict[int, int]  # files -> peak bytes
    description: str  # of the files


def measure_all(args: argparse.Namespace) -> Measured:
    with tempfile.TemporaryDirectory() as temporary:
        results, label_file, description = make_files(Path(temporary), args.files)
        labels = load_labels(label_file)
        ways: dict[str, Callable[[], list[int]]] = {
            GUIDES: partial(score_as_guides, results, labels),
            "NumPy, parsed at once": partial(score_with_numpy, results, labels),
            "open, read, close alone": partial(only_read, results, labels),
            "zoofast, 1 thread": partial(score_with_zoofast, results, labels, 1),
            "zoofast, 2 threads": partial(score_with_zoofast, results, labels, 2),
            "… ranking alone, 1 thread": partial(only_rank, results, labels, 1),
            "… ranking alone, 2 threads": partial(only_rank, results, labels, 2),
        }
        timings = {name: Timing() for name in ways}
        hits: dict[str, list[int]] = {name: [] for name in ways}
        contenders = [
            partial(measure, way, args.files, timings[name], hits[name])
            for name, way in ways.items()
        ]
        control = {threads: Timing() for threads in (1, 2)}
        contenders += [partial(compute_in_cache, n, timing) for n, timing in control.items()]
        in_turn(contenders, args.rounds, "score")
        many, many_labels, _ = make_files(Path(temporary), args.many)
        memory = {args.files: peak_memory(results, label_file)}
        memory[args.many] = peak_memory(many, many_labels)
    return Measured(timings, hits, control, memory, description)


def ways_table(timings: dict[str, Timing]) -> Table:
    rows = []
    for name, timing in timings.items():
        low, high = min(timing.seconds) * 1e6, max(timing.seconds) * 1e6
        times = f"{timings[GUIDES].ratio_to(timing):.1f} ×"
        rows.append([name, f"{timing.median * 1e6:.1f}", f"{low:.1f}…{high:.1f}", times])
    return Table(["", "µs/file", "min…max", "guides' script takes"], rows)


def facts(args: argparse.Namespace, measured: Measured) -> list[str]:
    def speedup(name: str) -> float:
        one, two = (measured.timings[f"{name}, {threads}"] for threads in ("1 thread", "2 threads"))
        return one.ratio_to(two)

    control = measured.control[1].ratio_to(measured.control[2])
    few, many = measured.memory[args.files], measured.memory[args.many]
    return [
        f"Two threads are {speedup('zoofast'):.2f} × as fast as one, in ranking alone "
        f"{speedup('… ranking alone'):.2f} ×. Arithmetic that stays in the cache of each CPU is "
        f"{control:.2f} × as fast with two threads.",
        f"Peak memory is {few / 1e6:.0f} MB for {args.files:,} files and {many / 1e6:.0f} MB for "
        f"{args.many:,} files.",
    ]


def run(args: argparse.Namespace) -> int:
    note = load_note()
    measured = measure_all(args)
    timings = measured.timings
    about = (
        f"{args.files:,} files of {CLASSES} classes, {measured.description}, in the page cache; "
        f"medians of {args.rounds} rounds in turn, ratios by round; {conditions(note)}"
    )
    figures = {
        "files": args.files,
        "timings": {name: timing.as_dict() for name, timing in timings.items()},
        "control": {str(n): timing.as_dict() for n, timing in measured.control.items()},
        "memory": measured.memory,
    }
    tables = {"Scoring, files in the page cache": ways_table(timings)}
    publish(args, "score", tables, about, figures, facts(args, measured))
    if args.write:
        ours, guides = timings["zoofast, 1 thread"].median, timings[GUIDES].median
        replace_block(
            README,
            "score",
            f"zoofast ranks a result file of {CLASSES} logits in {ours * 1e6:.1f} µs. "
            f"The guides' script needs {guides * 1e6:.0f} µs.",
        )
    right = measured.hits[GUIDES]
    wrong = [name for name, hits in measured.hits.items() if hits and hits != right]
    if wrong:
        print(f"zoofast: other hits than the guides' {right}: {', '.join(wrong)}", file=sys.stderr)
    more_files = max(args.many - args.files, 1)
    growth = (measured.memory[args.many] - measured.memory[args.files]) / more_files
    if growth > MAX_MEMORY_PER_FILE:
        print(f"zoofast: memory grows by {growth:.0f} bytes per file", file=sys.stderr)
    return 1 if wrong or growth > MAX_MEMORY_PER_FILE else 0


def main() -> int:
    parser = benchmark_parser("Scoring result files.", rounds=9)
    parser.add_argument("--files", type=positive, default=5000, metavar="N", help="default: 5000")
    parser.add_argument(
        "--many", type=positive, default=50_000, metavar="N", help="for memory (default: 50000)"
    )
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
