"""Sources: how fast the Loader is on tars and Parquet files, beside a folder of the same images.

    python benchmarks/sources.py [--images DIR] [--limit N] [--folder DIR] [--count N] [--threads N]
                                 [--rounds N] [--json FILE] [--write]

A pass lists the source and prepares all of its images in memory. The files are in the page cache.
All sources give the folder's tensors, byte for byte, or the benchmark ends. --folder chooses where
the sources are made.

Parquet files are of two forms: as Hugging Face's `datasets` 5.2 writes images, not compressed, in
row groups of 100 MB; and as pyarrow writes them where nothing else is said, compressed by Snappy
with a dictionary, in row groups of 100 rows, as older sets of images are.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import itertools
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
from zoofast.base.cpus import usable_cpus
from zoofast.base.extras import needs
from zoofast.base.text import counted
from zoofast.commands.shared import console
from zoofast.commands.shared.arguments import positive, thread_count
from zoofast.preprocess.sources.parquet import import_pyarrow

RECIPE = load_recipe("alexnet")
SHARDS = 4
ROW_GROUP_BYTES = 100_000_000  # of the newer form
OLD_ROW_GROUP = 100  # rows
FLOOR = 0.95  # of the folder's speed
PARQUET, OLD_PARQUET = "Parquet", "Parquet, Snappy and a dictionary"
FLOORS = {"WebDataset shards, .tar": FLOOR, PARQUET: FLOOR, OLD_PARQUET: FLOOR}


def make_sources(images: Images, count: int, folder: Path) -> dict[str, str]:
    """Writes the same `count` images in each form, each with a label; the source of each form."""
    import_pyarrow()  # as zoofast does, which sets its allocator up
    with needs("remote", BenchmarkError):
        import pyarrow
        import zstandard
        from pyarrow import parquet
    cycle = itertools.islice(itertools.cycle(images.paths), count)
    files = {f"image{i:06d}.JPEG": path.read_bytes() for i, path in enumerate(cycle)}
    names = list(files)
    for part in ("folder", "shards", "tables", "old-tables"):
        (folder / part).mkdir()
    for name, data in files.items():
        (folder / "folder" / name).write_bytes(data)
    per_shard = -(-count // SHARDS)
    for i in range(SHARDS):
        mine = names[i * per_shard : (i + 1) * per_shard]
        shard = write_tar({name: files[name] for name in mine})
        (folder / f"shards/{i}.tar").write_bytes(shard)
        (folder / f"shards/{i}.tar.gz").write_bytes(gzip.compress(shard, 6))
        (folder / f"shards/{i}.tar.zst").write_bytes(zstandard.compress(shard))
        rows = [{"bytes": files[name], "path": name} for name in mine]
        table = pyarrow.table({"image": rows, "label": [label_of(name) for name in mine]})
        parquet.write_table(
            table,
            folder / f"tables/{i}.parquet",
            row_group_size=max(1, len(mine) * ROW_GROUP_BYTES // table.nbytes),
            compression={"image.bytes": "none", "image.path": "none", "label": "snappy"},
            use_dictionary=["label"],
            column_encoding={"image.bytes": "PLAIN", "image.path": "PLAIN"},
            use_content_defined_chunking={
                "min_chunk_size": 256 * 1024,
                "max_chunk_size": 1024 * 1024,
                "norm_level": 0,
            },
            write_page_index=True,
        )
        old = folder / f"old-tables/{i}.parquet"
        parquet.write_table(table, old, row_group_size=OLD_ROW_GROUP)
    return {
        "folder": str(folder / "folder"),
        "WebDataset shards, .tar": str(folder / "shards/*.tar"),
        PARQUET: str(folder / "tables"),
        OLD_PARQUET: str(folder / "old-tables"),
        "shards, .tar.zst": str(folder / "shards/*.tar.zst"),
        "shards, .tar.gz": str(folder / "shards/*.tar.gz"),
    }


def label_of(name: str) -> int:
    return int(name[5:11]) % 1000


def write_tar(files: dict[str, bytes]) -> bytes:
    """A tar in WebDataset's layout."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            label = str(label_of(name)).encode()
            for member, content in ((name, data), (f"{name[:11]}.cls", label)):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def digests(where: str, threads: int) -> dict[str, bytes]:
    """The sum of each image's tensor, by name, in order."""
    found: dict[str, bytes] = {}
    with open_source(where) as source, Loader(source, RECIPE, threads=threads) as loader:
        for batch in loader:
            for name, row in zip(batch.names, batch.array, strict=True):
                found[name] = hashlib.blake2b(row).digest()
    return found


def measure(where: str, count: int, threads: int, timing: Timing) -> None:
    """Adds the seconds of one pass, per image."""
    begin, begin_cpu, done = time.perf_counter(), time.process_time(), 0
    with open_source(where) as source, Loader(source, RECIPE, threads=threads) as loader:
        for batch in loader:
            done += len(batch.names)
    if done != count:
        raise BenchmarkError(f"{where}: prepared {done} of {count}")
    timing.seconds.append((time.perf_counter() - begin) / done)
    timing.cpu_seconds.append((time.process_time() - begin_cpu) / done)


def run(args: argparse.Namespace) -> int:
    images = find_images(args.images, args.limit)
    note, threads = load_note(), args.threads or usable_cpus()
    with tempfile.TemporaryDirectory(prefix="zoofast-bench-", dir=args.folder) as scratch:
        sources = make_sources(images, args.count, Path(scratch))
        with console.progress("verified", len(sources)) as meter:
            for name, where in sources.items():
                if name == "folder":
                    expected = digests(where, threads)
                elif list(digests(where, threads).items()) != list(expected.items()):
                    raise BenchmarkError(f"{name}: its tensors are not those of the folder")
                meter.advance(1)
        timings = {name: Timing() for name in sources}
        contenders = [
            partial(measure, where, args.count, threads, timings[name])
            for name, where in sources.items()
        ]
        in_turn(contenders, args.rounds, "sources")
    rows, reached = [], {}
    for name, timing in timings.items():
        reached[name] = 1 / timing.ratio_to(timings["folder"])
        cpu = f"{sum(timing.cpu_seconds) / len(timing.cpu_seconds) * 1e3:.3f}"
        floor = f"{FLOORS[name]:.2f}" if name in FLOORS else ""
        rate = f"{1 / timing.median:,.0f}"
        rows.append([name, *timing.milliseconds(), rate, cpu, f"{reached[name]:.3f}", floor])
    headings = ["source", "ms/image", "min…max", "images/s", "CPU ms/image", "÷ folder", "floor"]
    about = (
        f"{images.description}, repeated to {args.count}; files in the page cache, listing "
        f"included, Loader with {counted(threads, 'thread')} to memory; medians of {args.rounds} "
        f"rounds; {conditions(note)}"
    )
    figures = {
        "runs": {name: timing.as_dict() for name, timing in timings.items()},
        "speed_of_folder": reached,
    }
    slow = [name for name, floor in FLOORS.items() if reached[name] < floor]
    verdict = f"Below the floor: {', '.join(slow)}." if slow else "No source is below its floor."
    publish(args, "sources", {"Sources": Table(headings, rows)}, about, figures, [verdict])
    return 0


def main() -> int:
    parser = benchmark_parser("Sources.", rounds=7)
    add_images(parser)
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to write; default: /tmp")
    # So many that the start of a run, which a long run has once, does not count.
    parser.add_argument("--count", type=positive, default=4800, metavar="N", help="default: 4800")
    parser.add_argument(
        "--threads", type=thread_count, metavar="N", help="default: all usable CPUs"
    )
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
