"""The main job on IMAGES, or on images that it makes: tensors, checked, beside the guide's way;
then the stream into a simulated NPU, and with --model and --labels into a real model.

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
MADE = 200  # images, where none are given
BY_GUIDE = 60  # images that the slow way is timed on


def zoofast(*words: str | Path) -> int:
    """Runs the installed command; returns its exit code, or ends with it if nothing was done."""
    print("$ zoofast", " ".join(str(word) for word in words), flush=True)
    code = subprocess.run([Path(sys.executable).with_name("zoofast"), *words]).returncode
    if code not in (0, 1):
        sys.exit(code)
    return code


def zoofast_prep(images: Path, bins: Path) -> dict[str, object]:
    """Prepares the images and returns the report."""
    report = FOLDER / "prep.json"
    more = ["--overwrite", "--verify", "50", "--json", report]
    zoofast("prep", images, bins, "--recipe", RECIPE, *more)
    loaded: dict[str, object] = json.loads(report.read_text())
    return loaded


def stream(images: Path, model: Path | None, labels: Path | None, recipe: str) -> int:
    """Evaluates on a simulated NPU, or on `model`; the exit code."""
    if model is None:
        npu = ["--sim-device", "310P3", "--recipe", "squeezenet1_1"]
        return zoofast("eval", "squeezenet1_1", images, *npu)
    result, report = FOLDER / "result.json", FOLDER / "eval.json"
    truth = [labels] if labels else ["--labels-from", images]
    more = ["--recipe", recipe, "-o", result, "--json", report, "--overwrite"]
    return zoofast("eval", model, images, *truth, *more)


def guides_way(images: Path, folder: Path) -> tuple[int, float]:
    """Prepares some images as the guide's script does; how many, and in what time."""
    from PIL import Image

    from zoofast import load_recipe, open_source
    from zoofast.preprocess.reference import prepare_image

    recipe = load_recipe(RECIPE)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    done, begin = 0, time.perf_counter()
    with open_source(images) as source:
        for item in source.items[:BY_GUIDE]:
            if item.in_archive:
                continue
            try:
                with Image.open(item.path) as image:
                    prepare_image(image, recipe).tofile(folder / f"{item.name}.bin")
            except Exception as error:
                print(f"the guide's way fails on {item.path}: {error}")
                continue
            done += 1
    return done, time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description="The main job, checked against Pillow.")
    parser.add_argument("images", type=Path, nargs="?", help="default: images that it makes")
    parser.add_argument("--model", type=Path, help="an ONNX file to evaluate on the images")
    parser.add_argument("--labels", type=Path, help="default: the images' folders are the classes")
    parser.add_argument("--recipe", default="squeezenet1_1_float32", help="default: %(default)s")
    args = parser.parse_args()
    images = args.images
    if images is None:
        from images import make_images

        images = FOLDER / "images"
        print(f"making {MADE} images in {images}")
        make_images(images, MADE)

    report = zoofast_prep(images, FOLDER / "bins")
    slow, seconds = guides_way(images, FOLDER / "guide")
    made = {path.name: path.read_bytes() for path in (FOLDER / "guide").glob("*.bin")}
    equal = sum((FOLDER / "bins" / name).read_bytes() == bytes_ for name, bytes_ in made.items())

    table = Table(title="The guide's way, one process, beside zoofast", title_justify="left")
    for heading in ("", "images", "images/s"):
        table.add_column(heading, justify="right")
    rate = report["images_per_second"]
    assert isinstance(rate, float)
    table.add_row("guide's script (Pillow, NumPy)", str(slow), f"{slow / seconds:,.0f}")
    table.add_row(f"zoofast, {report['threads']} threads", str(report["prepared"]), f"{rate:,.0f}")
    Console().print(table)
    print(f"{equal} of {len(made)} files are equal, byte for byte; {rate * seconds / slow:.1f}x")
    streamed = stream(images, args.model, args.labels, args.recipe)
    return 0 if equal == len(made) and not report["failed"] and not streamed else 1


if __name__ == "__main__":
    raise SystemExit(main())
