"""Preprocessing beyond 256/224 bilinear: zoofast, Pillow, torchvision and OpenCV, one thread.

    python benchmarks/cases.py [--images DIR] [--rounds N] [--json FILE] [--write]

Each case has a recipe and images: other filters and sizes, larger sources, grayscale, other
encodings. Before it is timed, every result of zoofast and of the exact peers is compared with
Pillow's and NumPy's. Exit code 1: a peer is faster than zoofast.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from harness import (
    BenchmarkError,
    Timing,
    add_images,
    benchmark_parser,
    find_images,
    run_main,
)
from numpy.typing import NDArray
from one_thread import OURS, Prepare, measure, report_cases
from peers._torchvision import torchvision
from PIL import Image
from report import conditions, load_note

import zoofast
from zoofast import _core
from zoofast.preprocess.recipe_file import parse_recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.oracle import Spec, pixels, tensor

FILES = 40
PHOTOS = 4  # of 12 megapixels
CV2_FILTERS = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
MEAN, STD = (np.array(values, np.float32) for values in (Spec().mean, Spec().std))

cv2.setNumThreads(0)


def spec(side: int, crop: int, filter: str = "bilinear", **options: Any) -> Spec:
    return Spec(size=(side, side), crop=(crop, crop), filter=filter, **options)


USUAL = spec(256, 224)
EXACT_384 = Spec(mode="exact", size=(384, 384), crop=None, filter="bilinear")
BYTES = spec(256, 224, dtype="uint8", layout="NHWC")


def encoded(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def scaled(image: Image.Image, shorter: int) -> Image.Image:
    factor = shorter / min(image.size)
    return image.resize((round(image.width * factor), round(image.height * factor)))


def unchanged(path: Path) -> bytes:
    return path.read_bytes()


def changed(path: Path, *, mode: str = "RGB", shorter: int | None = None, **options: Any) -> bytes:
    """The image encoded anew."""
    with Image.open(path) as image:
        pixels = image.convert(mode)
        return encoded(pixels if shorter is None else scaled(pixels, shorter), **options)


@dataclass
class Case:
    """A recipe and the images that it is applied to."""

    name: str
    spec: Spec
    make: Callable[[Path], bytes] = unchanged
    files: int = FILES


def cases() -> list[Case]:
    plain: dict[str, Any] = {"quality": 75, "subsampling": 2}
    return [
        Case("bilinear 256/224", USUAL),
        Case("bicubic 248/224", spec(248, 224, "bicubic")),
        Case("Lanczos 256/224", spec(256, 224, "lanczos")),
        Case("exact 384 × 384, bilinear", EXACT_384),
        Case("256/224 to uint8", BYTES),
        Case("shorter side 1000 pixels", USUAL, partial(changed, shorter=1000, quality=90)),
        Case("12 megapixels", USUAL, partial(changed, shorter=3000, quality=90), PHOTOS),
        Case("grayscale", USUAL, partial(changed, mode="L", quality=90)),
        Case("4:2:0, quality 75", USUAL, partial(changed, **plain)),
        Case("4:2:0, quality 75, progressive", USUAL, partial(changed, progressive=True, **plain)),
    ]


# ---- the peers ---------------------------------------------------------------


def normalized(rgb: NDArray[np.uint8], spec: Spec) -> NDArray[Any]:
    """As the guides' scripts do it."""
    if spec.dtype == "uint8":
        return rgb
    values = rgb.astype(np.float32) / np.float32(255)
    values = (values - MEAN) / STD
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def size_and_origin(spec: Spec, width: int, height: int) -> tuple[int, int, int, int]:
    """The resized image's width and height, and the crop's left and top."""
    if spec.crop is None:
        return spec.size[1], spec.size[0], 0, 0
    shorter = min(width, height)
    width, height = spec.size[0] * width // shorter, spec.size[0] * height // shorter
    return width, height, round((width - spec.crop[1]) / 2), round((height - spec.crop[0]) / 2)


def pillow(spec: Spec) -> Prepare:
    filter = Image.Resampling[spec.filter.upper()]

    def prepare(data: bytes) -> NDArray[Any]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        width, height, left, top = size_and_origin(spec, *image.size)
        image = image.resize((width, height), filter)
        if spec.crop:
            image = image.crop((left, top, left + spec.crop[1], top + spec.crop[0]))
        return normalized(np.asarray(image), spec)

    return prepare


def on_torchvision(spec: Spec) -> Prepare:
    transforms = torchvision.transforms
    filter = transforms.InterpolationMode[spec.filter.upper()]
    steps: list[Any] = [
        transforms.Resize(spec.size if spec.mode == "exact" else spec.size[0], filter)
    ]
    if spec.crop:
        steps.append(transforms.CenterCrop(spec.crop))
    if spec.dtype != "uint8":
        steps += [transforms.ToTensor(), transforms.Normalize(spec.mean, spec.std)]
    pipeline = transforms.Compose(steps)

    def prepare(data: bytes) -> NDArray[Any]:
        made = pipeline(Image.open(io.BytesIO(data)).convert("RGB"))
        return np.asarray(made) if spec.dtype == "uint8" else made.numpy()

    return prepare


def opencv(spec: Spec) -> Prepare:
    scale = 1 / (STD * 255)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

    def prepare(data: bytes) -> NDArray[Any]:
        bgr = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags), np.uint8)
        width, height, left, top = size_and_origin(spec, bgr.shape[1], bgr.shape[0])
        resized = cv2.resize(bgr, (width, height), interpolation=CV2_FILTERS[spec.filter])
        if spec.crop:
            resized = resized[top : top + spec.crop[0], left : left + spec.crop[1]]
        if spec.dtype == "uint8":
            return np.ascontiguousarray(resized[:, :, ::-1])
        out = np.empty((3, *resized.shape[:2]), np.float32)
        for c in range(3):
            np.subtract(resized[:, :, 2 - c], MEAN[c] * 255, out=out[c], dtype=np.float32)
            out[c] *= scale[c]
        return out

    return prepare


def ours(spec: Spec) -> Prepare:
    recipe = parse_recipe(spec.toml(), "case")
    return lambda data: zoofast.prepare(data, recipe)


PEERS: dict[str, tuple[Callable[[Spec], Prepare], bool]] = {  # and whether it equals Pillow
    OURS: (ours, True),
    "Pillow": (pillow, True),
    "torchvision": (on_torchvision, True),
    "OpenCV": (opencv, False),
}


def verify(case: Case, name: str, prepare: Prepare, images: Sequence[bytes]) -> None:
    for i, data in enumerate(images):
        expected, made = tensor(pixels(data), case.spec), prepare(data)
        if (made.shape, made.dtype) != (expected.shape, expected.dtype):
            raise BenchmarkError(f"{case.name}: {name}'s tensor is {made.shape} {made.dtype}")
        if PEERS[name][1] and made.tobytes() != expected.tobytes():
            raise BenchmarkError(f"{case.name}: {name} does not equal Pillow for image {i}")


def measured(case: Case, paths: Sequence[Path], rounds: int) -> tuple[list[str], dict[str, Timing]]:
    """The number of images and their mean size in kB, and the peers' timings."""
    images = [case.make(path) for path in paths[:: max(1, len(paths) // case.files)]]
    images = images[: case.files]
    prepares = {name: make(case.spec) for name, (make, _) in PEERS.items()}
    for name, prepare in prepares.items():
        verify(case, name, prepare, images)
    cells = [str(len(images)), f"{sum(map(len, images)) / len(images) / 1e3:.0f}"]
    return cells, measure(prepares, images, rounds, case.name)


def run(args: argparse.Namespace) -> int:
    images, note = find_images(args.images, args.limit), load_note()
    timings = {case.name: measured(case, images.paths, args.rounds) for case in cases()}
    about = (
        f"{images.description}, encoded anew where the case says so; level {_core.isa()}, one "
        f"thread, bytes in memory; medians of {args.rounds} rounds in turn, CPU time; "
        f"{conditions(note)}"
    )
    return report_cases(
        args, "cases", "Other recipes and images", timings, ["", "files", "kB"], about
    )


def main() -> int:
    parser = benchmark_parser("Preprocessing of other recipes and images.", rounds=5)
    add_images(parser)
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
