"""A Ray cluster of two nodes of one CPU each, beside one process with two threads.

    python benchmarks/cluster.py [--images DIR] [--count N] [--rounds N] [--json FILE] [--write]

In turn: the Loader with two threads; an evaluation on the two nodes, with a model that computes
nothing. Both prepare the same images, under --count different names.

The table also has what a task costs besides the work, and the bytes that the driver holds.

Exit code 1: the result of the cluster differs from that of one machine, or its rate is lower than
its limit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
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
from zoofast.cluster.connection import RayCluster, connect
from zoofast.cluster.evaluate import evaluate_on
from zoofast.commands.shared.arguments import positive
from zoofast.evaluation.evaluate import evaluate
from zoofast.evaluation.options import EvalOptions
from zoofast.evaluation.result import Evaluation
from zoofast.evaluation.run import Run
from zoofast.inference.spec import ModelSpec
from zoofast.preprocess.sources import Source, open_source
from zoofast.scoring.labels import Labels, load_labels
from zoofast.scoring.topk import TopK

RECIPE = load_recipe("alexnet")
NODES, BATCH = 2, 8
MIN_OF_LOADER = 0.85
MODEL = f"{BATCH}x3x224x224:float32:1000"
OPTIONS = EvalOptions([ModelSpec(MODEL, "null")])


def links(paths: list[Path], folder: Path, count: int) -> None:
    """`count` names for the images, as hard links where the file system has them."""
    for i in range(count):
        path, link = paths[i % len(paths)].resolve(), folder / f"ILSVRC2012_val_{i:08d}.JPEG"
        try:
            os.link(path, link)
        except OSError:
            link.symlink_to(path)


def labels_of(source: Source) -> Labels:
    return Labels({item.name: i % 1000 for i, item in enumerate(source.items)}, "arbitrary labels")


def prepare(source: Source, timing: Timing) -> None:
    """Adds the seconds per image of the Loader with as many threads as there are nodes."""
    begin, done = time.perf_counter(), 0
    with Loader(source, RECIPE, batch_size=BATCH, threads=NODES) as loader:
        for batch in loader:
            done += len(batch.names)
    if done != len(source.items):
        raise BenchmarkError(f"prepared {done} of {len(source.items)}")
    timing.seconds.append((time.perf_counter() - begin) / done)


def on_cluster(cluster: RayCluster, source: Source, timing: Timing, runs: list[Evaluation]) -> None:
    """Adds the seconds per image on the nodes, from the first task to the last answer."""
    labels = labels_of(source)
    evaluation = evaluate_on(cluster, source, source.items, RECIPE, labels, OPTIONS)
    if evaluation.images != len(source.items) or len(evaluation.nodes) != NODES:
        raise BenchmarkError(f"{evaluation.images} of {len(source.items)} images were computed")
    timing.seconds.append(evaluation.seconds / evaluation.images)
    runs.append(evaluation)


def verify(cluster: RayCluster, source: Source) -> None:
    """Raises BenchmarkError unless the cluster's result is that of one machine."""
    items = source.items[:1000]
    labels = labels_of(source).of({item.name for item in items})
    here = evaluate(source, items, RECIPE, labels, OPTIONS)
    there = evaluate_on(cluster, source, items, RECIPE, labels, OPTIONS, limit=1000)
    assert here.score is not None and there.score is not None
    if here.score.as_dict() != there.score.as_dict():
        raise BenchmarkError("the result of the cluster differs from that of one machine")


def overhead(evaluation: Evaluation) -> tuple[int, float]:
    """How many tasks there were, and how long a node waited for each, in seconds."""
    tasks = sum(node.tasks for node in evaluation.nodes)
    return tasks, sum(node.waited for node in evaluation.nodes) / max(tasks - NODES, 1)


def driver_bytes(where: Path, label_file: Path) -> tuple[float, float]:
    """Bytes an image that the driver holds when all answers are there: of all, and of the list of
    images alone."""
    tracemalloc.start()
    with open_source(where) as source, ExitStack() as stack:
        items, k = source.items, OPTIONS.scoring.top_k + 1
        listed = tracemalloc.get_traced_memory()[0]
        label_file.write_text("".join(f"{item.name}.JPEG 7\n" for item in items))
        evaluation = Evaluation(RECIPE, source.where, OPTIONS.specs, len(items), 0)
        labels = load_labels(label_file)
        run = Run(evaluation, items, labels, OPTIONS, lambda state: None, stack)
        run.begin(classes=1000)
        for i in range(0, len(items), BATCH):
            places = run.todo[i : i + BATCH]
            best = TopK.of_logits(np.zeros((len(places), 1000), np.float32), k)
            run.add(places, np.ones(len(places), bool), best, [])
        held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / len(items), listed / len(items)


@contextmanager
def cluster_of(count: int) -> Iterator[RayCluster]:
    """A head without CPUs, and `count` nodes of one CPU, each with processes of its own."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(count):
            made.add_node(num_cpus=1)
        with connect(made.address) as connected:
            yield connected
    finally:
        made.shutdown()


def run(args: argparse.Namespace) -> int:
    images, note = find_images(args.images, args.limit), load_note()
    loader, nodes, runs = Timing(), Timing(), list[Evaluation]()
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as other,
        cluster_of(NODES) as cluster,
    ):
        links(images.paths, Path(folder), args.count)
        held, listed = driver_bytes(Path(folder), Path(other, "labels.txt"))
        with open_source(folder) as source:
            verify(cluster, source)
            prepare(source, Timing())  # reads the files into the page cache
            in_turn(
                [
                    partial(prepare, source, loader),
                    partial(on_cluster, cluster, source, nodes, runs),
                ],
                args.rounds,
                "cluster",
            )
    ratio = 1 / nodes.ratio_to(loader)
    tasks, seconds = overhead(runs[-1])
    rows = [
        ["the Loader, 2 threads", *loader.milliseconds(), f"{1 / loader.median:,.0f}", ""],
        [
            "2 nodes of one CPU",
            *nodes.milliseconds(),
            f"{1 / nodes.median:,.0f}",
            f"{ratio:.1%} of the Loader's rate",
        ],
    ]
    about = (
        f"{images.description}, under {args.count:,} names, {RECIPE.name}; medians of "
        f"{args.rounds} rounds; {conditions(note)}"
    )
    costs = (
        f"The last round had {tasks} tasks; a node waited {seconds * 1e3:.1f} ms for each. The "
        f"driver holds {held:.0f} bytes an image, {listed:.0f} of them for the list of images."
    )
    table = Table(["", "ms/image", "min…max", "images/s", ""], rows)
    figures = {
        "timings": {"loader": loader.as_dict(), "nodes": nodes.as_dict()},
        "ratio": ratio,
        "tasks": tasks,
        "seconds_waited_for_a_task": seconds,
        "bytes_of_driver": held,
        "bytes_of_list": listed,
    }
    publish(args, "cluster", {"Cluster": table}, about, figures, [costs])
    if ratio < MIN_OF_LOADER:
        print("zoofast: the nodes are slower than their limit", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = benchmark_parser("A Ray cluster of two nodes, beside one process.", rounds=3)
    add_images(parser)
    parser.add_argument(
        "--count", type=positive, default=20_000, metavar="N", help="default: 20000"
    )
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
