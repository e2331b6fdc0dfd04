"""What the benchmarks share: arguments, images, processes, timings, rounds in turn."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoofast import load_recipe
from zoofast.commands.shared import console
from zoofast.commands.shared.arguments import file_to_write, positive
from zoofast.errors import ZoofastError
from zoofast.preprocess.reference import prepare_image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHARED = Path(os.environ.get("ZOOFAST_SHARED", ROOT.parent / "shared"))
SAMPLE = SHARED / "imagenet-sample" / "val"
SYNTHETIC = ROOT / ".cache" / "benchmark-images"
SYNTHETIC_COUNT = 300
RECIPE = "alexnet"
RECIPES = {"prepare": RECIPE, "prepare_uint8": "bilinear256_224_u8"}


class BenchmarkError(ZoofastError):
    """The benchmark cannot continue; the message is one line."""


def benchmark_parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """The arguments of every benchmark. rounds: the default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--rounds", type=positive, default=rounds, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--json", type=file_to_write, metavar="FILE", help="write all figures")
    parser.add_argument("--write", action="store_true", help="update the tables in the pages")
    return parser


def add_images(parser: argparse.ArgumentParser) -> None:
    """The arguments of every benchmark over images."""
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of JPEGs (default: a sample of ImageNet beside the checkout, else synthetic "
        "JPEGs, which are made once)",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images")


def run_main(run: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser) -> int:
    """Parses the command line and runs; a ZoofastError is one line and exit code 2."""
    try:
        return run(parser.parse_args())
    except ZoofastError as error:
        print(f"zoofast: {error}", file=sys.stderr)
        return 2


@dataclass(frozen=True)
class Images:
    """Image files in order, and a description of them."""

    paths: list[Path]
    description: str


def find_images(folder: Path | None, limit: int | None) -> Images:
    """The images of `folder`; of the sample where it is None; synthetic ones without a sample."""
    if folder is not None:
        description = f"images of {folder.name}"
    elif SAMPLE.is_dir():
        folder, description = SAMPLE, "real ImageNet validation images"
    else:
        folder, description = SYNTHETIC, "synthetic images (tools/images.py)"
        sys.path.insert(0, str(ROOT / "tools"))
        from images import make_images

        make_images(folder, SYNTHETIC_COUNT)
    suffixes = {".jpeg", ".jpg"}
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    except OSError as error:
        raise BenchmarkError(f"{folder}: {error.strerror}; name a folder by --images") from error
    paths = files[:limit]
    if not paths:
        raise BenchmarkError(f"{folder}: no .jpeg or .jpg; name a folder of images by --images")
    nbytes = sum(path.stat().st_size for path in paths) / len(paths)
    return Images(paths, f"{len(paths)} {description}, {nbytes / 1e3:.1f} kB on average")


def write_reference(images: Images, folder: Path) -> None:
    """Writes the results of Pillow and NumPy for image i: `i.decode.npy`, and `i.KIND.npy` for each
    kind of RECIPES."""
    recipes = {kind: load_recipe(name) for kind, name in RECIPES.items()}
    with console.progress("reference", len(images.paths)) as meter:
        for i, path in enumerate(images.paths):
            with Image.open(path) as image:
                for kind, recipe in recipes.items():
                    np.save(folder / f"{i}.{kind}.npy", prepare_image(image, recipe))
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
        """CPU seconds per second of wall time; below 1 where one thread had to wait for its CPU."""
        return statistics.median(
            cpu / seconds for cpu, seconds in zip(self.cpu_seconds, self.seconds, strict=True)
        )

    def ratio_to(self, other: Timing) -> float:
        """How many times as long as `other`: the median of the ratios of each round. What slows
        the machine down for a while slows both, so the ratio does not change."""
        return _median_ratio(self.seconds, other.seconds)

    def cpu_ratio_to(self, other: Timing) -> float:
        """How many times as much CPU time as `other`: the median of the ratios of each round."""
        return _median_ratio(self.cpu_seconds, other.cpu_seconds)

    def milliseconds(self) -> list[str]:
        """The median, and the smallest and the largest value, as cells of a table."""
        low, high = min(self.seconds) * 1e3, max(self.seconds) * 1e3
        return [f"{self.median * 1e3:.3f}", f"{low:.3f}…{high:.3f}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "median": self.median,
            "min": min(self.seconds),
            "max": max(self.seconds),
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }


def _median_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


class LineProcess:
    """A Python process that answers each line on its standard input by one line."""

    def __init__(self, name: str, *arguments: str, **env: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )

    def send(self, line: str) -> None:
        """Raises BenchmarkError when the process has ended."""
        assert self._process.stdin
        try:
            print(line, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None

    def receive(self) -> Any:
        """The next answer, which is JSON. Raises BenchmarkError when the process has ended."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> BenchmarkError:
        return BenchmarkError(f"{self.name}: its process ended ({self._process.wait()})")

    def close(self) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


class Peer(LineProcess):
    """A running worker.py."""

    def __init__(self, name: str, images_list: Path, reference: Path) -> None:
        # Every peer has one thread, so the thread pools of libraries do too.
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        worker = str(HERE / "worker.py")
        super().__init__(name, worker, name, str(images_list), str(reference), **one)
        self.timing = Timing()
        self.about: dict[str, Any] = {}
        self.verified: dict[str, Any] = {}

    def ask(self, command: str) -> dict[str, Any]:
        """The worker's answer. Raises BenchmarkError with the worker's error."""
        self.send(command)
        answer: dict[str, Any] = self.receive()
        if "error" in answer:
            raise BenchmarkError(f"{self.name}: {answer['error']}")
        return answer


def in_turn(contenders: Sequence[Callable[[], None]], rounds: int, what: str) -> None:
    """Runs every contender once per round. Each round begins with another contender, so that no
    contender always runs after the same one."""
    with console.progress(what, rounds * len(contenders)) as meter:
        for r in range(rounds):
            first = r % len(contenders)
            for contender in (*contenders[first:], *contenders[:first]):
                contender()
                meter.advance(1)
