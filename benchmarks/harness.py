"""What the benchmarks share: the images, peers in processes of their own, rounds in turn."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoofast import load_recipe
from zoofast.commands import console
from zoofast.errors import ZoofastError
from zoofast.preprocess.reference import prepare_image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHARED = Path(os.environ.get("ZOOFAST_SHARED", ROOT.parent / "shared"))
SAMPLE = SHARED / "imagenet-sample" / "val"
MADE = ROOT / ".cache" / "benchmark-images"
MADE_COUNT = 300
RECIPE = "alexnet"


class BenchmarkError(ZoofastError):
    """The benchmark cannot go on; one line says why."""


def benchmark_parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """What every benchmark over images takes. rounds: the default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of JPEGs (default: a sample of ImageNet beside the checkout, else JPEGs "
        "that look like it, made once)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument(
        "--rounds", type=int, default=rounds, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--write", action="store_true", help="update the tables in the pages")
    return parser


def run_main(run: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser) -> int:
    """Parses the command line and runs; a BenchmarkError is one line and exit code 2."""
    try:
        return run(parser.parse_args())
    except BenchmarkError as error:
        print(f"zoofast: {error}", file=sys.stderr)
        return 2


@dataclass(frozen=True)
class Images:
    """Paths in order, and in words what they are."""

    paths: list[Path]
    what: str


def find_images(folder: Path | None, limit: int | None) -> Images:
    """The images of `folder`, else the sample, else made ones."""
    if folder is not None:
        what = f"the images of {folder.name}"
    elif SAMPLE.is_dir():
        folder, what = SAMPLE, "real ImageNet validation images"
    else:
        folder, what = MADE, "synthetic images (tools/images.py), for want of real ones"
        sys.path.insert(0, str(ROOT / "tools"))
        from images import make_images

        make_images(folder, MADE_COUNT)
    suffixes = {".jpeg", ".jpg"}
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    except OSError as error:
        raise BenchmarkError(f"{folder}: {error.strerror}; name a folder by --images") from error
    paths = found[:limit]
    if not paths:
        raise BenchmarkError(f"{folder}: no .jpeg or .jpg; name a folder of images by --images")
    nbytes = sum(path.stat().st_size for path in paths) / len(paths)
    return Images(paths, f"{len(paths)} {what}, {nbytes / 1e3:.1f} kB on average")


def write_reference(images: Images, folder: Path) -> None:
    """Writes what Pillow and NumPy make of image i: `i.prepare.npy` and `i.decode.npy`."""
    recipe = load_recipe(RECIPE)
    with console.progress("reference", len(images.paths)) as meter:
        for i, path in enumerate(images.paths):
            with Image.open(path) as image:
                np.save(folder / f"{i}.prepare.npy", prepare_image(image, recipe))
                np.save(folder / f"{i}.decode.npy", np.asarray(image.convert("RGB")))
            meter.advance(1)


@dataclass
class Timing:
    """Seconds per image, one value per round."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def cpu_share(self) -> float:
        """CPU seconds per second by the clock; below 1 for one thread, others took its CPU."""
        return statistics.median(
            cpu / seconds for cpu, seconds in zip(self.cpu_seconds, self.seconds, strict=True)
        )

    def ratio_to(self, other: Timing) -> float:
        """How many times as long as `other`: the median over rounds, so that a slow spell of
        the machine, which hits both, cancels."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def as_dict(self) -> dict[str, Any]:
        return {
            "median": self.median,
            "min": min(self.seconds),
            "max": max(self.seconds),
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }


class Peer:
    """A running worker.py. A context manager."""

    def __init__(self, name: str, images_list: Path, reference: Path) -> None:
        self.name, self.timing = name, Timing()
        self.about: dict[str, Any] = {}
        self.verified: dict[str, Any] = {}
        # Libraries' own thread pools would break the one-thread rule.
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), name, str(images_list), str(reference)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one},
        )

    def ask(self, command: str) -> dict[str, Any]:
        """The worker's answer. Raises BenchmarkError with the peer's own words."""
        assert self._process.stdin and self._process.stdout
        try:
            print(command, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise BenchmarkError(f"{self.name}: its process ended ({self._process.wait()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchmarkError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def in_turn(contenders: Sequence[Callable[[], None]], rounds: int, what: str) -> None:
    """Runs every contender once per round, each round beginning with another one, so that none
    always follows the same neighbour."""
    with console.progress(what, rounds * len(contenders)) as meter:
        for r in range(rounds):
            at = r % len(contenders)
            for contender in (*contenders[at:], *contenders[:at]):
                contender()
                meter.advance(1)
