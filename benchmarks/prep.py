"""Preprocessing in memory, zoofast and its peers: AlexNet's recipe, JPEG bytes to float32 CHW.

    python benchmarks/prep.py [--images DIR] [--rounds N] [--json FILE] [--write]

Each peer runs in a process of its own. Its results are compared with Pillow's first; then all
peers are timed in turn. Exit code 1: a peer claims to equal Pillow and does not, or cannot run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from harness import (
    BenchmarkError,
    Images,
    Peer,
    add_images,
    benchmark_parser,
    find_images,
    in_turn,
    run_main,
    write_reference,
)
from report import README, Table, conditions, load_note, publish, replace_block, today

from zoofast import load_recipe
from zoofast.base.cpus import cpu_name
from zoofast.commands.shared import console
from zoofast.preprocess.file_writer import FileWriter
from zoofast.preprocess.loader import OutputPaths
from zoofast.preprocess.sources import Item, Source

PEERS = (
    "guide_script",
    "guide_script_tofile",
    "torchvision_pillow",
    "torchvision_v2",
    "opencv",
    "simplejpeg_opencv",
    "simplejpeg_decode",
    "libjpeg_turbo",
    "zoofast_prepare",
    "zoofast_uint8",
    "zoofast_loader",
)
OURS, BARE = "zoofast_prepare", "libjpeg_turbo"
README_PEERS = ("guide_script", "torchvision_pillow", "simplejpeg_opencv", BARE, OURS)
STAGE_PASSES = 5


def open_peers(
    names: list[str], images_list: Path, reference: Path
) -> tuple[list[Peer], list[str]]:
    """The peers whose results are what they claim, and the errors of the others."""
    peers, problems = [], []
    with console.progress("verify", len(names)) as meter:
        for name in names:
            peer = Peer(name, images_list, reference)
            try:
                peer.about = peer.ask("hello")
                peer.verified = peer.ask("verify")
                if peer.about["exact"] and peer.verified["equal"] != peer.verified["images"]:
                    raise BenchmarkError(
                        f"{name}: claims Pillow's bytes, but {peer.verified['equal']} of "
                        f"{peer.verified['images']} images have them (largest difference "
                        f"{peer.verified['largest_difference']:g})"
                    )
                peers.append(peer)
            except BenchmarkError as error:
                problems.append(str(error))
                peer.close()
            meter.advance(1)
    return peers, problems


def measure(peers: list[Peer], count: int, rounds: int) -> None:
    """Fills every peer's timing, in seconds per image."""

    def once(peer: Peer) -> None:
        answer = peer.ask("time")
        peer.timing.seconds.append(answer["seconds"] / count)
        peer.timing.cpu_seconds.append(answer["cpu_seconds"] / count)

    for peer in peers:
        peer.ask("time")  # warm caches and allocators
    in_turn([partial(once, peer) for peer in peers], rounds, "time")


def equals_pillow(peer: Peer) -> str:
    if peer.verified["equal"] == peer.verified["images"]:
        return "yes"
    return f"no, off by up to {peer.verified['largest_difference']:.2g}"


def peers_table(peers: list[Peer]) -> Table:
    by_name = {peer.name: peer.timing for peer in peers}
    rows = []
    for peer in sorted(peers, key=lambda peer: -peer.timing.median):
        timing = peer.timing
        ratios = [
            f"{timing.ratio_to(by_name[base]):.2f}" if base in by_name else "–"
            for base in (OURS, BARE)
        ]
        rate = f"{1 / timing.median:,.0f}"
        equal = equals_pillow(peer)
        rows.append([peer.about["label"], *timing.milliseconds(), rate, *ratios, equal])
    headings = ["", "ms/image", "min…max", "images/s", "÷ zoofast", "÷ bare decode"]
    return Table([*headings, "equals Pillow"], rows)


def readme_table(peers: list[Peer]) -> Table:
    """The five rows that the project's README shows."""
    chosen = {peer.name: peer for peer in peers if peer.name in README_PEERS}
    ours = chosen[OURS].timing
    rows = [
        [
            peer.about["label"],
            f"{1 / peer.timing.median:,.0f}",
            f"{peer.timing.ratio_to(ours):.2f}",
            equals_pillow(peer),
        ]
        for peer in sorted(chosen.values(), key=lambda peer: -peer.timing.median)
    ]
    return Table(["", "images/s", "time ÷ zoofast's", "equals Pillow"], rows)


def stage_seconds(images: Images) -> dict[str, float]:
    """Seconds per image of each stage, one thread, files to files: the minimum of some passes."""
    recipe = load_recipe("alexnet")
    source = Source("files", [Item(path.stem, str(path)) for path in images.paths])
    passes = []
    for _ in range(STAGE_PASSES):
        with tempfile.TemporaryDirectory(prefix="zoofast-bench-") as folder:
            paths = OutputPaths(folder, ".bin")
            with FileWriter(source, recipe, paths, threads=1) as loader:
                for batch in loader:
                    if batch.failures:
                        raise BenchmarkError(str(batch.failures[0]))
                passes.append(loader.stats.stage_seconds)
    shortest = {stage: min(seconds[stage] for seconds in passes) for stage in passes[0]}
    return {stage: seconds / len(images.paths) for stage, seconds in shortest.items() if seconds}


def stages_table(seconds: dict[str, float]) -> Table:
    total = sum(seconds.values())
    rows = [[stage, f"{s * 1e6:,.0f}", f"{s / total:.0%}"] for stage, s in seconds.items()]
    return Table(["stage", "µs/image", "share"], [*rows, ["sum", f"{total * 1e6:,.0f}", ""]])


def run(args: argparse.Namespace) -> int:
    images = find_images(args.images, args.limit)
    note = load_note()
    with tempfile.TemporaryDirectory(prefix="zoofast-bench-") as folder:
        images_list = Path(folder) / "images.txt"
        images_list.write_text("\n".join(str(path.resolve()) for path in images.paths), "utf-8")
        write_reference(images, Path(folder))
        peers, problems = open_peers(args.peers, images_list, Path(folder))
        try:
            measure(peers, len(images.paths), args.rounds)
        finally:
            for peer in peers:
                peer.close()
    stages = stage_seconds(images)

    versions: dict[str, str] = {}
    for peer in peers:
        versions |= peer.about["versions"]
    share = min((peer.timing.cpu_share for peer in peers), default=0.0)
    about = (
        f"{images.description}; medians of {args.rounds} rounds, in which each peer had a CPU for "
        f"at least {share:.0%} of the time; {conditions(note)}"
    )
    stated = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    for problem in problems:
        print(f"zoofast: not measured: {problem}", file=sys.stderr)
    if args.write and (problems or set(args.peers) != set(PEERS)):
        raise BenchmarkError("nothing is written, because not every peer was measured")
    tables = {
        "One image's bytes to a float32 tensor, one thread": peers_table(peers),
        "zoofast's stages, files to files, one thread": stages_table(stages),
    }
    figures = as_dict(peers, problems, stages, versions)
    publish(args, "prep", tables, about, figures, [f"Versions: {stated}."])
    if args.write:
        table = readme_table(peers).markdown()
        short = f"{images.description}; medians of {args.rounds} rounds; {cpu_name()}; {today()}."
        replace_block(README, "prep", f"{table}\n\n{short}")
    return 1 if problems else 0


def as_dict(
    peers: list[Peer],
    problems: list[str],
    stages: dict[str, float],
    versions: dict[str, str],
) -> dict[str, Any]:
    return {
        "versions": versions,
        "peers": {
            peer.name: {**peer.about, **peer.verified, **peer.timing.as_dict()} for peer in peers
        },
        "not_measured": problems,
        "stage_seconds": stages,
    }


def main() -> int:
    parser = benchmark_parser("Preprocessing in memory, zoofast and its peers.", rounds=7)
    add_images(parser)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME")
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
