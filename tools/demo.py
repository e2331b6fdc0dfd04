"""Prepares IMAGES, checks the tensors against Pillow and compares the speed with the guide's way;
then streams the images into a simulated NPU, or with --model into a real model.

python tools/demo.py [IMAGES] [--model M.onnx --labels FILE [--recipe NAME]]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "demo"
RECIPE = "resnet34"
SYNTHETIC_IMAGES = 200  # made where no images are given
GUIDE_IMAGES = 60  # prepared in the guide's way, which is slow


def zoofast(*words: str | Path) -> int:
    """Runs the installed command; returns exit code 0 or 1, and exits with any other code."""
    print("$ zoofast", " ".join(str(word) for word in words), flush=True)
    code = subprocess.run([Path(sys.executable).with_name("zoofast"), *words]).returncode
    if code not in (0, 1):
        sys.exit(code)
    return code


def zoofast_prep(images: Path, bins: Path) -> dict[str, object]:
    """Prepares the images with zoofast and returns its report."""
    path = FOLDER / "prep.json"
    options = ["--recipe", RECIPE, "--overwrite", "--verify", "50", "--json", path]
    zoofast("prep", images, bins, *options)
    report: dict[str, object] = json.loads(path.read_text())
    return report


def stream(images: Path, model: Path | None, labels: Path | None, recipe: str) -> int:
    """Evaluates a simulated NPU, or `model`; returns the exit code."""
    if model is None:
        simulation = ["--sim-device", "310P3", "--recipe", "squeezenet1_1"]
        return zoofast("eval", "squeezenet1_1", images, *simulation)
    result, report = FOLDER / "result.json", FOLDER / "eval.json"
    label_options = [labels] if labels else ["--labels-from", images]
    options = ["--recipe", recipe, "-o", result, "--json", report, "--overwrite"]
    return zoofast("eval", model, images, *label_options, *options)


def prepare_as_guide(images: Path, folder: Path) -> tuple[int, float]:
    """Prepares the first images as the guide's script does; returns (images, seconds)."""
    from PIL import Image

    from zoofast import load_recipe, open_source
    from zoofast.preprocess.reference import prepare_image

    recipe = load_recipe(RECIPE)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    count, begin = 0, time.perf_counter()
    with open_source(images) as source:
        for item in source.items[:GUIDE_IMAGES]:
            if item.in_archive:
                continue
            try:
                with Image.open(item.path) as image:
                    prepare_image(image, recipe).tofile(folder / f"{item.name}.bin")
            except Exception as error:
                print(f"the guide's way fails on {item.path}: {error}")
                continue
            count += 1
    return count, time.perf_counter() - begin


def compare_with_guide(images: Path, report: dict[str, object]) -> bool:
    """Prepares some images in the guide's way, prints both speeds; True if the files are equal."""
    count, seconds = prepare_as_guide(images, FOLDER / "guide")
    files = list((FOLDER / "guide").glob("*.bin"))
    equal = sum((FOLDER / "bins" / file.name).read_bytes() == file.read_bytes() for file in files)

    table = Table(title="The guide's way in one process, and zoofast", title_justify="left")
    for heading in ("", "images", "images/s"):
        table.add_column(heading, justify="right")
    rate = report["images_per_second"]
    assert isinstance(rate, float)
    table.add_row("guide's script (Pillow, NumPy)", str(count), f"{count / seconds:,.0f}")
    table.add_row(f"zoofast, {report['threads']} threads", str(report["prepared"]), f"{rate:,.0f}")
    Console().print(table)
    print(f"{equal} of {len(files)} files are equal, byte for byte; {rate * seconds / count:.1f}x")
    return equal == len(files)


def main() -> int:
    parser = argparse.ArgumentParser(description="The main job, checked against Pillow.")
    parser.add_argument("images", type=Path, nargs="?", help="default: synthetic images")
    parser.add_argument("--model", type=Path, help="an ONNX file to evaluate on the images")
    parser.add_argument("--labels", type=Path, help="default: the images' folders are the classes")
    parser.add_argument("--recipe", default="squeezenet1_1_float32", help="default: %(default)s")
    args = parser.parse_args()
    images = args.images
    if images is None:
        from images import make_images

        images = FOLDER / "images"
        print(f"making {SYNTHETIC_IMAGES} images in {images}")
        make_images(images, SYNTHETIC_IMAGES)

    report = zoofast_prep(images, FOLDER / "bins")
    equal = compare_with_guide(images, report)
    streamed = stream(images, args.model, args.labels, args.recipe)
    return 0 if equal and not report["failed"] and not streamed else 1


if __name__ == "__main__":
    raise SystemExit(main())
