"""Scoring result files: zoofast against the guides' way, two threads against one, memory.

    python benchmarks/score.py [--rounds N] [--files N] [--many N] [--json FILE] [--write]

Exit code 1: a contender gave another result, or memory grew with the files' contents.
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
from functools import partial
from pathlib import Path

import numpy as np
from harness import SHARED, BenchmarkError, Timing, in_turn
from report import README, RESULTS, Table, load_note, machine, replace_block, today, write_json

from zoofast import _logits
from zoofast.scoring.labels import Labels, load_labels
from zoofast.scoring.results import ReadOptions, ResultReader
from zoofast.scoring.score import score_folder

CLASSES = 1000
GOLDEN = SHARED / "golden" / "txt" / "squeezenet1_1"
PER_FILE = 2048  # bytes of memory that a further file may take: name and ranks, not its 9.5 kB

# VmHWM, because ru_maxrss begins with what the parent had when it forked
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
    """Result files' contents, their labels, and what they are in words."""
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
    """`count` result files and their labels; the contents repeat."""
    rows, truth, what = sample_rows()
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
    return results, labels, what


# ---- contenders: each gives the hits at top-1 … top-5 ------------------------------


def guides_way(results: Path, labels: Labels) -> list[int]:
    """What the guides' scripts do with a file: split, one np.float32 per word, a full sort."""
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


def numpy_way(results: Path, labels: Labels) -> list[int]:
    """NumPy as well as it goes: the row parsed at once, only the best sorted."""
    hits = np.zeros(5, int)
    for name in os.listdir(results):
        truth = labels.by_name[name.split(".")[0].rpartition("_")[0]]
        row = np.array((results / name).read_bytes().split(), np.float64).astype(np.float32)
        best = np.argpartition(-row, 5)[:5]
        best = best[np.argsort(-row[best])]
        hits += np.cumsum(best == truth)
    return hits.tolist()


def zoofast_way(results: Path, labels: Labels, threads: int) -> list[int]:
    """All of `zoofast score` but the printing."""
    score = score_folder(results, labels, reading=ReadOptions(threads=threads))
    return score.tally.hits.tolist()


def ranking_alone(results: Path, labels: Labels, threads: int) -> list[int]:
    """Without labels: list the folder, open, read, parse, rank, confidence."""
    with ResultReader(results, 6, ReadOptions(threads=threads)) as reader:
        reader.finish()
    return []


def reading_alone(results: Path, labels: Labels) -> list[int]:
    """open, read, close: what no scorer can do without."""
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


def ranking_in_memory(threads: int, timing: Timing) -> None:
    """Control: arithmetic that shares nothing and stays in each CPU's own cache; what two CPUs,
    which may be one core's two threads, give at this moment."""

    def work(seed: int) -> None:
        scores = np.random.default_rng(seed).normal(0, 1, (64, CLASSES)).astype(np.float32)
        for _ in range(1600 // threads):
            _logits.confidence(scores)

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    timing.seconds.append(time.perf_counter() - begin)
    timing.cpu_seconds.append(0.0)


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--files", type=int, default=5000, metavar="N", help="default: 5000")
    parser.add_argument("--many", type=int, default=50_000, metavar="N", help="for memory")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--write", action="store_true", help="update the tables in the pages")
    args = parser.parse_args()
    note = load_note()
    with tempfile.TemporaryDirectory() as temporary:
        results, label_file, what = make_files(Path(temporary), args.files)
        labels = load_labels(label_file)
        ways: dict[str, Callable[[], list[int]]] = {
            "guides' script": partial(guides_way, results, labels),
            "NumPy, parsed at once": partial(numpy_way, results, labels),
            "open, read, close alone": partial(reading_alone, results, labels),
            "zoofast, 1 thread": partial(zoofast_way, results, labels, 1),
            "zoofast, 2 threads": partial(zoofast_way, results, labels, 2),
            "… ranking alone, 1 thread": partial(ranking_alone, results, labels, 1),
            "… ranking alone, 2 threads": partial(ranking_alone, results, labels, 2),
        }
        timings = {name: Timing() for name in ways}
        answers: dict[str, list[int]] = {name: [] for name in ways}
        contenders = [
            partial(measure, way, args.files, timings[name], answers[name])
            for name, way in ways.items()
        ]
        control = {threads: Timing() for threads in (1, 2)}
        contenders += [partial(ranking_in_memory, n, timing) for n, timing in control.items()]
        in_turn(contenders, args.rounds, "score")
        given = {name: hits for name, hits in answers.items() if hits}
        right = answers["guides' script"]
        wrong = [name for name, hits in given.items() if hits != right]
        many, many_labels, _ = make_files(Path(temporary), args.many)
        memory = {args.files: peak_memory(results, label_file)}
        memory[args.many] = peak_memory(many, many_labels)

    guides, one, two = (
        timings[name] for name in ("guides' script", "zoofast, 1 thread", "zoofast, 2 threads")
    )
    table = Table(
        ["", "µs / file", "min - max", "guides' script takes"],
        [
            [
                name,
                f"{timing.median * 1e6:.1f}",
                f"{min(timing.seconds) * 1e6:.1f} - {max(timing.seconds) * 1e6:.1f}",
                f"{guides.ratio_to(timing):.1f} ×",
            ]
            for name, timing in timings.items()
        ],
    )
    c_one, c_two = timings["… ranking alone, 1 thread"], timings["… ranking alone, 2 threads"]
    facts = [
        f"Two threads are {one.ratio_to(two):.2f} × as fast as one (ranking alone "
        f"{c_one.ratio_to(c_two):.2f} ×), where arithmetic in each CPU's own cache, which shares "
        f"nothing, is {control[1].ratio_to(control[2]):.2f} ×.",
        f"Peak memory is {memory[args.files] / 1e6:.0f} MB for {args.files:,} files and "
        f"{memory[args.many] / 1e6:.0f} MB for {args.many:,}.",
    ]
    table.show("scoring, warm cache")
    print("\n".join(facts))
    if args.json:
        write_json(
            args.json,
            {
                "machine": machine(),
                "note": note,
                "files": args.files,
                "timings": {name: timing.as_dict() for name, timing in timings.items()},
                "control": {str(n): timing.as_dict() for n, timing in control.items()},
                "memory": memory,
            },
        )
    if args.write:
        text = (
            f"{table.markdown()}\n\n{args.files:,} files of {CLASSES} classes, {what}, in the page "
            f"cache; medians of {args.rounds} rounds in turn, ratios paired by round. "
            f"{' '.join(facts)} {machine()}; {note}; {today()}."
        )
        replace_block(RESULTS, "score", text)
        replace_block(
            README,
            "score",
            f"zoofast ranks a result file of {CLASSES} logits in {one.median * 1e6:.1f} µs. "
            f"The guides' script needs {guides.median * 1e6:.0f} µs.",
        )
    if wrong:
        print(f"other hits than the guides' {right}: {', '.join(wrong)}", file=sys.stderr)
    grown = (memory[args.many] - memory[args.files]) / max(args.many - args.files, 1)
    if grown > PER_FILE:
        print(f"memory grew by {grown:.0f} bytes a file", file=sys.stderr)
    return 1 if wrong or grown > PER_FILE else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"benchmark: {error}")
