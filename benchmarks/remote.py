"""Images from nginx on loopback, beside the same images on the disk: the Loader with two threads.

    python benchmarks/remote.py [--images DIR] [--rounds N] [--count N] [--json FILE] [--write]

The images, repeated to COUNT, come from a folder, a tar, the tar over HTTP, and a folder of files
over HTTP. First, all tensors are compared with those of the folder. The time to list a source is
measured apart. nginx takes a part of the same CPUs. It needs `apt-get install nginx-light` and
`pip install 'zoofast[remote]'`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import shutil
import sys
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path

from harness import (
    BenchmarkError,
    Images,
    Timing,
    add_images,
    benchmark_parser,
    find_images,
    in_turn,
    run_main,
)
from report import Table, conditions, load_note, publish

from zoofast import Loader, load_recipe, open_source
from zoofast.commands.arguments import positive
from zoofast.preprocess.sources import Source

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support import nginx

RECIPE = load_recipe("alexnet")
THREADS = 2


def prepare(source: Source, count: int) -> float:
    """Seconds for each of `count` images."""
    items = list(itertools.islice(itertools.cycle(source.items), count))
    begin, done = time.perf_counter(), 0
    with Loader(source, RECIPE, items=items, threads=THREADS) as loader:
        for batch in loader:
            done += len(batch.names)
    if done != count:
        raise BenchmarkError(f"{source.where}: prepared {done} of {count}")
    return (time.perf_counter() - begin) / count


def digests(source: Source) -> dict[str, str]:
    """name -> digest of the tensor"""
    made = {}
    with Loader(source, RECIPE, threads=THREADS) as loader:
        for batch in loader:
            for name, row in zip(batch.names, batch.array, strict=True):
                made[name] = hashlib.sha256(row.tobytes()).hexdigest()
    return made


def write_root(root: Path, images: Images) -> None:
    """The folder `val` of the images, and the tar `val.tar` of them."""
    (root / "val").mkdir(parents=True)
    with tarfile.open(root / "val.tar", "w") as tar:
        for path in images.paths:
            shutil.copy(path, root / "val")
            tar.add(path, path.name)


def run(args: argparse.Namespace) -> int:
    images = find_images(args.images, args.limit)
    note = load_note()
    with tempfile.TemporaryDirectory(prefix="zoofast-bench-") as scratch:
        root = Path(scratch, "root")
        write_root(root, images)
        with nginx.serving(root, Path(scratch, "nginx")) as url:
            return compare(args, images, root, url, note)


def compare(args: argparse.Namespace, images: Images, root: Path, url: str, note: str) -> int:
    """Times all, and publishes the figures."""
    places = {
        "folder": f"{root}/val",
        "tar": f"{root}/val.tar",
        "tar over HTTP": f"{url}/val.tar",
        "folder over HTTP": f"{url}/val/",
    }
    open_source(places["tar over HTTP"]).close()  # fsspec is imported once
    sources, listed = {}, {}
    for name, where in places.items():
        begin = time.perf_counter()
        sources[name] = open_source(where)
        listed[name] = time.perf_counter() - begin
    expected = digests(sources["folder"])
    for name, source in sources.items():
        if digests(source) != expected:
            raise BenchmarkError(f"{name}: other tensors than the folder's")
    timings = {name: Timing() for name in sources}

    def once(name: str) -> None:
        timings[name].seconds.append(prepare(sources[name], args.count))

    in_turn([partial(once, name) for name in sources], args.rounds, "remote")
    local = {"tar over HTTP": "tar", "folder over HTTP": "folder"}
    rows = []
    for name, timing in timings.items():
        share = "" if name not in local else f"{timings[local[name]].ratio_to(timing):.2f}"
        listing = f"{listed[name] * 1e3:.0f}"
        rows.append([name, *timing.milliseconds(), f"{1 / timing.median:,.0f}", share, listing])
    columns = ["source", "ms/image", "min…max", "images/s", "÷ local", "ms to list"]
    about = (
        f"{images.description}, repeated to {args.count}; {THREADS} threads beside nginx; "
        f"medians of {args.rounds} rounds; {conditions(note)}"
    )
    runs = {name: timing.as_dict() for name, timing in timings.items()}
    figures = {"runs": runs, "seconds_to_list": listed}
    publish(args, "remote", {"Images over HTTP": Table(columns, rows)}, about, figures)
    return 0


def main() -> int:
    parser = benchmark_parser("Images over HTTP beside local ones.", rounds=9)
    add_images(parser)
    # So many that the begin of a run, which a long run has once, does not count.
    parser.add_argument("--count", type=positive, default=3600, metavar="N", help="default: 3600")
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
