"""Images from nginx on loopback, beside the same images on the disk: the Loader with two threads.

    python benchmarks/remote.py [--images DIR] [--rounds N] [--count N] [--json FILE] [--write]

COUNT images, which are copies of those of DIR, come from a folder, a tar, the tar over HTTP, and a
folder of files over HTTP. First, all tensors are compared with those of the folder. The time to
list a source is measured apart. nginx takes a part of the same CPUs. It needs
`apt-get install nginx-light` and `pip install 'zoofast[remote]'`.

TCP's congestion control changes what sending costs: BBR paces by timers, also on loopback. Where
this machine's is not cubic, Linux's default, the tar also comes from a server that uses cubic.
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
from contextlib import ExitStack, suppress
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
from zoofast.commands.shared.arguments import positive
from zoofast.preprocess.sources import Source

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support import nginx

RECIPE = load_recipe("alexnet")
THREADS = 2
OWN_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
USUAL_CONGESTION = "cubic"


def prepare(source: Source) -> float:
    """Seconds for each image."""
    begin, done, count = time.perf_counter(), 0, len(source.items)
    with Loader(source, RECIPE, threads=THREADS) as loader:
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


def write_root(root: Path, images: Images, count: int) -> None:
    """The folder `val` of `count` images, and the tar `val.tar` of them.

    Each is a file of its own, as in a real set: a tar of some hundred images stays in the CPU's
    caches, and to begin with it anew ends a request early.
    """
    (root / "val").mkdir(parents=True)
    with tarfile.open(root / "val.tar", "w") as tar:
        for i, path in enumerate(itertools.islice(itertools.cycle(images.paths), count)):
            copy = root / "val" / f"image{i:06d}.JPEG"
            shutil.copyfile(path, copy)
            tar.add(copy, copy.name)


def run(args: argparse.Namespace) -> int:
    images = find_images(args.images, args.limit)
    note = load_note()
    with tempfile.TemporaryDirectory(prefix="zoofast-bench-") as scratch, ExitStack() as servers:
        root = Path(scratch, "root")
        write_root(root, images, args.count)
        url = servers.enter_context(nginx.serving(root, Path(scratch, "nginx")))
        own = OWN_CONGESTION.read_text().strip()
        places = {
            "folder": f"{root}/val",
            "tar": f"{root}/val.tar",
            f"tar over HTTP, {own}": f"{url}/val.tar",
            f"folder over HTTP, {own}": f"{url}/val/",
        }
        if own != USUAL_CONGESTION:
            with suppress(OSError):  # a machine that reserves it for root
                usual = nginx.serving(root, Path(scratch, "usual"), USUAL_CONGESTION)
                url = servers.enter_context(usual)
                places[f"tar over HTTP, {USUAL_CONGESTION}"] = f"{url}/val.tar"
        return compare(args, images, places, note)


def compare(args: argparse.Namespace, images: Images, places: dict[str, str], note: str) -> int:
    """Times all, and publishes the figures. places: where the sources are, by their names."""
    open_source([*places.values()][-1]).close()  # over HTTP: fsspec is imported once
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
        timings[name].seconds.append(prepare(sources[name]))

    in_turn([partial(once, name) for name in sources], args.rounds, "remote")
    rows = []
    for name, timing in timings.items():
        local = name.partition(" over HTTP")[0]
        share = "" if name == local else f"{timings[local].ratio_to(timing):.2f}"
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
    # So many that the start of a run, which a long run has once, does not count.
    parser.add_argument("--count", type=positive, default=3600, metavar="N", help="default: 3600")
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
