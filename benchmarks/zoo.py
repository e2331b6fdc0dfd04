"""Recipes of the zoo beside OpenCV, Pillow and torchvision: decode, resize, normalize, one thread.

    python benchmarks/zoo.py [--images DIR] [--rounds N] [--json FILE] [--write]

The library that a recipe's pixels come from must give equal tensors for every image, or nothing is
timed. The other libraries take their own filter of the same kind. OpenCV has IPP off, as the
promise says. Exit code 1: a peer is faster than zoofast.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable, Sequence
from functools import partial
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

from zoofast import _core, load_recipe
from zoofast.preprocess.prepare import prepare
from zoofast.preprocess.recipe import FLOAT32_FILTER, Recipe

Pixels = NDArray[Any]
FILES = 40
RECIPES = (  # and whose pixels they have
    ("bicubic248_224_n64", "Pillow"),  # LV-Vit: normalized in float64
    ("exact384_bicubic_u8", "Pillow"),
    ("cv2linear_exact256", "OpenCV"),
    ("cv2cubic_exact256_u8", "OpenCV"),
    ("cv2area256_224_floor_u8", "OpenCV"),
    ("cv2f32_274_240_ceil_bgr", "OpenCV"),
    ("letterbox640", "OpenCV"),
    ("mmdet1216_centre", "OpenCV"),
)
CV2_FILTERS = {
    "bicubic": cv2.INTER_CUBIC,
    "cv2-linear": cv2.INTER_LINEAR,
    "cv2-linear-float32": cv2.INTER_LINEAR,
    "cv2-cubic": cv2.INTER_CUBIC,
    "cv2-area": cv2.INTER_AREA,
}
PILLOW_FILTERS = {
    "cv2-linear": "bilinear",
    "cv2-linear-float32": "bilinear",
    "cv2-cubic": "bicubic",
    "cv2-area": "box",
}


def resized(recipe: Recipe, width: int, height: int) -> tuple[int, int]:
    """Width and height of the resized image."""
    target_height, target_width = recipe.resize_size
    if recipe.resize == "exact":
        return target_width, target_height
    if recipe.resize == "short":
        side = target_height
        if width < height:
            return side, int(side * height / width)
        return int(side * width / height), side
    scale = min(target_width / width, target_height / height)
    if recipe.resize_rounding == "half-even":
        return round(width * scale), round(height * scale)
    return int(width * scale + 0.5), int(height * scale + 0.5)


def origin(recipe: Recipe, width: int, height: int) -> tuple[int, int]:
    """Left and top of the crop."""
    assert recipe.crop is not None
    left, top = (width - recipe.crop[1]) / 2, (height - recipe.crop[0]) / 2
    functions: dict[str, Callable[[float], int]] = {
        "half-even": round,
        "truncate": int,
        "up": math.ceil,
        "down": math.floor,
    }
    rounding = functions[recipe.crop_rounding]
    return rounding(left), rounding(top)


def borders(recipe: Recipe, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom."""
    assert recipe.pad is not None
    left, top = (recipe.pad[1] - width) // 2, (recipe.pad[0] - height) // 2
    return left, top, recipe.pad[1] - width - left, recipe.pad[0] - height - top


def normalized(pixels: Pixels, recipe: Recipe) -> Pixels:
    """Of pixels in the tensor's order of channels, float32 or as the recipe's precision says."""
    norm = recipe.normalization
    order = slice(None, None, -1 if recipe.channels == "BGR" else 1)
    mean, std = (np.array(x[order], norm.precision) for x in (norm.mean, norm.std))
    values: Pixels = pixels if pixels.dtype == np.float32 else pixels.astype(norm.precision)
    if norm.reciprocal:  # as mmcv
        cv2.subtract(values, mean.astype(np.float64).reshape(1, -1), values)
        cv2.multiply(values, 1 / std.astype(np.float64).reshape(1, -1), values)
        return values
    if norm.scale == "0-1" and pixels.dtype == np.uint8:
        values /= np.array(255, norm.precision)
    if any(norm.mean):
        values -= mean
        values /= std
    return values


def tensor(values: Pixels, recipe: Recipe) -> Pixels:
    if recipe.layout == "NCHW":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values, recipe.dtype)


def padded(pixels: Pixels, recipe: Recipe, size: tuple[int, int]) -> Pixels:
    left, top, right, bottom = borders(recipe, *size)
    sides = (top, bottom, left, right, cv2.BORDER_CONSTANT)
    return cv2.copyMakeBorder(pixels, *sides, value=recipe.pad_value)


def finished(pixels: Pixels, recipe: Recipe, size: tuple[int, int]) -> Pixels:
    """The tensor of resized pixels in the tensor's order of channels."""
    if recipe.crop is not None:
        left, top = origin(recipe, *size)
        pixels = pixels[top : top + recipe.crop[0], left : left + recipe.crop[1]]
    if recipe.pad is not None and recipe.pad_stage == "pixels":
        pixels = padded(pixels, recipe, size)
    if recipe.dtype == "uint8":
        return np.ascontiguousarray(pixels)
    values = normalized(pixels, recipe)
    if recipe.pad is not None and recipe.pad_stage == "tensor":
        values = padded(values, recipe, size)
    return tensor(values, recipe)


def opencv(recipe: Recipe) -> Prepare:
    filter = CV2_FILTERS[recipe.filter]

    def run(data: bytes) -> Pixels:
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if recipe.filter == FLOAT32_FILTER:
            image = image.astype(np.float32)
            if recipe.normalization.scale == "0-1":
                image /= np.float32(255)
        size = resized(recipe, image.shape[1], image.shape[0])
        image = cv2.resize(image, size, interpolation=filter)
        if recipe.channels == "RGB":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return finished(image, recipe, size)

    return run


def pillow(recipe: Recipe) -> Prepare:
    filter = Image.Resampling[PILLOW_FILTERS.get(recipe.filter, recipe.filter).upper()]

    def run(data: bytes) -> Pixels:
        with Image.open(io.BytesIO(data)) as file:
            image = file.convert("RGB")
        size = resized(recipe, *image.size)
        pixels = np.asarray(image.resize(size, filter))
        return finished(pixels[:, :, ::-1] if recipe.channels == "BGR" else pixels, recipe, size)

    return run


def on_torchvision(recipe: Recipe) -> Prepare:
    transforms, functional = torchvision.transforms, torchvision.transforms.functional
    filter = transforms.InterpolationMode[PILLOW_FILTERS.get(recipe.filter, recipe.filter).upper()]
    norm = recipe.normalization
    unit = 1.0 if norm.scale == "0-1" else 255.0
    normalize = transforms.Normalize([x / unit for x in norm.mean], [x / unit for x in norm.std])
    # ToTensor divides by 255; without a normalization of 0-255 the values stay 0-1.
    is_normalized = any(norm.mean)

    def run(data: bytes) -> Pixels:
        with Image.open(io.BytesIO(data)) as file:
            image: Any = file.convert("RGB")
        width, height = resized(recipe, *image.size)
        image = functional.resize(image, [height, width], filter)
        if recipe.crop is not None:
            image = functional.center_crop(image, list(recipe.crop))
        if recipe.pad is not None and recipe.pad_stage == "pixels":
            fill = tuple(map(int, recipe.pad_value))
            image = functional.pad(image, list(borders(recipe, width, height)), fill)
        if recipe.dtype == "uint8":
            return np.array(image)
        values = functional.to_tensor(image)
        if is_normalized:
            values = normalize(values)
        if recipe.pad is not None and recipe.pad_stage == "tensor":
            values = functional.pad(values, list(borders(recipe, width, height)), 0)
        return np.asarray((values.flip(0) if recipe.channels == "BGR" else values).numpy())

    return run


def ours(recipe: Recipe) -> Prepare:
    return partial(prepare, recipe=recipe)


PEERS: dict[str, Callable[[Recipe], Prepare]] = {
    OURS: ours,
    "OpenCV": opencv,
    "Pillow": pillow,
    "torchvision": on_torchvision,
}


def verify(
    recipe: Recipe, exact: str, prepares: dict[str, Prepare], images: Sequence[bytes]
) -> None:
    for i, data in enumerate(images):
        made = {name: prepare(data) for name, prepare in prepares.items()}
        for name, each in made.items():
            if each.shape != recipe.shape or each.dtype != recipe.dtype:
                raise BenchmarkError(f"{recipe.name}: {name}'s tensor is {each.shape} {each.dtype}")
        if made[OURS].tobytes() != made[exact].tobytes():
            raise BenchmarkError(f"{recipe.name}: zoofast differs from {exact} for image {i}")


def measured(recipe: Recipe, exact: str, images: Sequence[bytes], rounds: int) -> dict[str, Timing]:
    prepares = {name: make(recipe) for name, make in PEERS.items()}
    verify(recipe, exact, prepares, images)
    return measure(prepares, images, rounds, recipe.name)


def run(args: argparse.Namespace) -> int:
    images, note = find_images(args.images, args.limit), load_note()
    chosen = images.paths[:: max(1, len(images.paths) // FILES)][:FILES]
    files = [path.read_bytes() for path in chosen]
    cv2.setNumThreads(1)
    cv2.ipp.setUseIPP(False)
    cases = {
        name: ([exact], measured(load_recipe(name), exact, files, args.rounds))
        for name, exact in RECIPES
    }
    about = (
        f"{len(files)} of {images.description}; level {_core.isa()}, one thread, bytes in memory; "
        f"OpenCV {cv2.__version__} without IPP; medians of {args.rounds} rounds in turn, CPU time; "
        f"{conditions(note)}"
    )
    return report_cases(args, "zoo", "Recipes of the zoo", cases, ["recipe", "equals"], about)


def main() -> int:
    parser = benchmark_parser("Recipes of the zoo beside OpenCV, Pillow and torchvision.", rounds=5)
    add_images(parser)
    return run_main(run, parser)


if __name__ == "__main__":
    raise SystemExit(main())
