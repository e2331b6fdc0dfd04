"""How far copies and computation overlap with the backend acl, on the emulation of libascendcl.so.

    python benchmarks/acl_overlap.py [--images DIR] [--limit N] [--fps F] [--rounds N] [--json FILE]
                                     [--write]

The emulation is that of $ZOOFAST_SHARED or beside the checkout; g++ builds it once. Its engine for
computation and its engine for copies to the device take the same time for an image. A client that
copies, executes and copies in turn is compared with `zoofast eval` and `zoofast infer`, on one and
on two devices. All must give the same outputs. The figures say nothing about the speed of a card.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    HERE,
    ROOT,
    SHARED,
    BenchmarkError,
    Timing,
    add_images,
    benchmark_parser,
    find_images,
    in_turn,
    run_main,
)
from numpy.typing import NDArray
from report import Table, conditions, load_note, publish

from zoofast import load_recipe
from zoofast.base.rows import read_named_rows
from zoofast.commands.shared.arguments import rate

RECIPE = load_recipe("resnet34")
BATCH, CLASSES = 4, 1000
MODES = ("serial", "eval", "infer")
REPEATS = 4  # each image is used so often: the first and the last batch cannot overlap
WANTED_TO_SERIAL, WANTED_OF_ENGINE = 1.8, 0.95


class Case:
    """The emulation, its model, and images under several names."""

    def __init__(self, folder: Path, images: list[Path], fps: float) -> None:
        self.folder, self.fps = folder, fps
        source = SHARED / "acl-emulator"
        if not (source / "build.sh").is_file():
            raise BenchmarkError(f"{source}: no emulation of ACL; set ZOOFAST_SHARED")
        build = ROOT / ".cache" / "acl-emulator"
        self.run(["sh", str(source / "build.sh")], ACLEMU_OUT=str(build))
        self.library = build / "build" / "libascendcl.so"
        nbytes = int(np.prod(RECIPE.shape)) * np.dtype(RECIPE.dtype).itemsize
        self.settings = {
            "ZOOFAST_ACL_LIB": str(self.library),
            "ACLEMU_PYDIR": str(source),
            "ACLEMU_ENGINE": "fake",
            "ACLEMU_FPS": str(fps),
            "ACLEMU_H2D_GBPS": str(fps * nbytes / 1e9),
            "ACLEMU_QUIET": "1",
        }
        self.links, self.labels = folder / "images", folder / "labels.txt"
        self.links.mkdir()
        names = [f"{i:06d}" for i in range(REPEATS * len(images))]
        for name, path in zip(names, images * REPEATS, strict=True):
            (self.links / f"{name}.JPEG").symlink_to(path.resolve())
        self.labels.write_text("".join(f"{name}.JPEG 0\n" for name in names))
        self.model = folder / "m.om"
        self.model.write_text(
            json.dumps(
                {
                    "aclemu_om": 1,
                    "name": "fake",
                    "onnx": "",
                    "inputs": [_tensor(RECIPE.input_name, RECIPE.dtype, RECIPE.shape)],
                    "outputs": [_tensor("class", "float32", (CLASSES,))],
                }
            )
        )
        self.bins = folder / "bins"
        self.zoofast("prep", self.links, self.bins, "--recipe", RECIPE.name)
        self.timings = {(mode, n): Timing() for n in (1, 2) for mode in MODES}

    def run(self, words: list[str], **settings: str) -> str:
        done = subprocess.run(
            words, env={**os.environ, **settings}, capture_output=True, text=True, cwd=ROOT
        )
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise BenchmarkError(f"{' '.join(words[2:5])}: {' '.join(lines[-3:])}")
        return done.stdout

    def zoofast(self, *words: object, **settings: str) -> None:
        code = "from zoofast.cli import main; exit(main())"
        command = [sys.executable, "-c", code, *map(str, words), "--quiet"]
        self.run(command, **self.settings, **settings)

    def measure(self, mode: str, devices: int, check: bool) -> NDArray[np.float32]:
        """Runs all images, and returns the outputs in the order of names. check: the emulation
        looks for misuse, which takes time; a run that is timed goes without."""
        numbers = ",".join(map(str, range(devices)))
        stats = self.folder / "stats"
        stats.unlink(missing_ok=True)
        settings = {"ACLEMU_STATS_FILE": str(stats), "ACLEMU_CHECK": str(int(check))}
        out, figures = self.folder / "logits.npy", self.folder / "figures.json"
        if mode == "serial":
            client = str(HERE / "peers" / "serial_acl.py")
            words = [str(self.library), str(self.model), str(self.bins), str(BATCH), str(CLASSES)]
            command = [sys.executable, client, *words, str(devices), str(out)]
            measured = json.loads(self.run(command, **self.settings, **settings))
            outputs: NDArray[np.float32] = np.load(out)
        elif mode == "eval":
            words = [str(self.model), str(self.links), str(self.labels), "--recipe", RECIPE.name]
            more = ["--device", numbers, "--save-logits", str(out), "--json", str(figures)]
            self.zoofast("eval", *words, *more, **settings)
            measured = json.loads(figures.read_text())
            outputs = np.array(read_named_rows(out)[1])
        else:
            results = Path(tempfile.mkdtemp(dir=self.folder))
            where = ["-i", self.bins, "-o", results, "--output_dirname", "r"]
            more = ["--device", numbers, "--json", str(figures)]
            self.zoofast("infer", "-m", self.model, *where, *more, **settings)
            measured = json.loads(figures.read_text())
            files = sorted(results.rglob("*.bin"), key=lambda path: path.name)
            outputs = np.stack([np.fromfile(path, np.float32) for path in files])
        if check and mode != "serial" and json.loads(stats.read_text())["misuses"]:
            raise BenchmarkError(f"{mode} uses ACL in a way that it forbids")
        if not check:
            self.timings[mode, devices].seconds.append(measured["seconds"] / len(outputs))
        return outputs


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": [BATCH, *shape]}


def run(args: argparse.Namespace) -> int:
    images, note = find_images(args.images, args.limit), load_note()
    with tempfile.TemporaryDirectory() as folder:
        case = Case(Path(folder), images.paths, args.fps)
        expected = case.measure("serial", 1, check=True)
        for mode, devices in case.timings:
            if not np.array_equal(case.measure(mode, devices, check=True), expected):
                raise BenchmarkError(f"{mode} on {devices} devices gives other outputs")

        def timed(mode: str, devices: int) -> None:
            case.measure(mode, devices, check=False)

        in_turn([partial(timed, *key) for key in case.timings], args.rounds, "overlap")
        timings = case.timings
    rows, low = [], []
    for (mode, devices), timing in timings.items():
        to_serial = timings["serial", devices].ratio_to(timing)
        of_engine = 1 / timing.median / (devices * args.fps)
        if mode != "serial" and (to_serial < WANTED_TO_SERIAL or of_engine < WANTED_OF_ENGINE):
            low.append(f"{mode} on {devices}")
        name = "copy, execute, copy in turn" if mode == "serial" else f"zoofast {mode}"
        cells = [f"{devices}", f"{1 / timing.median:,.1f}", f"{to_serial:.2f}", f"{of_engine:.1%}"]
        rows.append([name, *cells])
    headings = ["way", "devices", "images/s", "÷ in turn", "of the slower engine"]
    about = (
        f"{REPEATS} times {images.description}; batches of {BATCH}; each device computes, and "
        f"copies in, {args.fps:g} images/s at most; medians of {args.rounds} rounds; "
        f"{conditions(note)}"
    )
    figures = {f"{mode} {n}": timing.as_dict() for (mode, n), timing in timings.items()}
    notes = [] if not low else [f"Below 1.8 times the serial rate, or 95 %: {', '.join(low)}."]
    publish(args, "acl_overlap", {"Overlap on the emulation": Table(headings, rows)}, about,
            figures, notes)  # fmt: skip
    return 1 if low else 0


def main() -> int:
    parser = benchmark_parser("how far copies and computation overlap on the emulation of ACL", 3)
    add_images(parser)
    parser.add_argument(
        "--fps", type=rate, default=200.0, help="images/s of each engine (default: %(default)g)"
    )
    return run_main(run, parser)


if __name__ == "__main__":
    sys.exit(main())
