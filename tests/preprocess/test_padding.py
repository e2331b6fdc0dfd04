"""Recipes that fit the whole picture into the tensor equal the same steps in OpenCV and NumPy."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support import jpegs
from zoofast import _core
from zoofast.errors import RecipeError
from zoofast.preprocess import reference
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe, parse_recipe
from zoofast.preprocess.recipe_text import to_toml

Pixels = NDArray[Any]
SHAPES = [(375, 500), (500, 333), (64, 64), (641, 640), (33, 700), (480, 639), (1217, 900)]


@pytest.fixture(scope="module")
def cv2() -> Any:
    module = pytest.importorskip("cv2")
    module.ipp.setUseIPP(False)
    return module


def put(image: Pixels, size: int, top: int, left: int, value: float) -> Pixels:
    canvas = np.full((size, size, 3), value, image.dtype)
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def mmdet(cv2: Any, bgr: Pixels) -> Pixels:
    """mmcv.imrescale, imnormalize and impad, as the Cascade R-CNN guides call them."""
    height, width = bgr.shape[:2]
    scale = min(1216 / max(height, width), 1216 / min(height, width))
    size = int(width * float(scale) + 0.5), int(height * float(scale) + 0.5)
    image = cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    mean = np.array([123.675, 116.28, 103.53], np.float32)
    std = np.array([58.395, 57.12, 57.375], np.float32)
    cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)
    cv2.subtract(image, np.float64(mean.reshape(1, -1)), image)
    cv2.multiply(image, 1 / np.float64(std.reshape(1, -1)), image)
    left, top = (1216 - size[0]) // 2, (1216 - size[1]) // 2
    return put(image, 1216, top, left, 0).transpose(2, 0, 1)


def letterbox(cv2: Any, bgr: Pixels) -> Pixels:
    """The letterbox of YOLOv5 without `auto`; RGB."""
    height, width = bgr.shape[:2]
    ratio = min(640 / height, 640 / width)
    new_w, new_h = round(width * ratio), round(height * ratio)
    image = cv2.resize(bgr, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    across, down = (640 - new_w) / 2, (640 - new_h) / 2
    top, bottom = round(down - 0.1), round(down + 0.1)
    left, right = round(across - 0.1), round(across + 0.1)
    border = (top, bottom, left, right, cv2.BORDER_CONSTANT)
    image = cv2.copyMakeBorder(image, *border, value=(114, 114, 114))
    return image[:, :, ::-1]


def letterbox_float32(cv2: Any, bgr: Pixels) -> Pixels:
    return letterbox(cv2, bgr).transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def yolox(cv2: Any, bgr: Pixels) -> Pixels:
    """YOLOX's `preproc`."""
    ratio = min(640 / bgr.shape[0], 640 / bgr.shape[1])
    size = int(bgr.shape[1] * ratio), int(bgr.shape[0] * ratio)
    image = cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR)
    return put(image, 640, 0, 0, 114).transpose(2, 0, 1).astype(np.float32)


def faceboxes(cv2: Any, bgr: Pixels) -> Pixels:
    """The steps of the FaceBoxes guide, and RetinaFace's with 1000 in place of 1024."""
    factor = 1024 / max(bgr.shape[:2])
    image = cv2.resize(bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    return put(image, 1024, 0, 0, 0)


GUIDES = {
    "mmdet1216_centre": mmdet,
    "letterbox640": letterbox_float32,
    "letterbox640_u8": letterbox,
    "yolox640": yolox,
    "cv2nearest1024_corner_bgr_u8": faceboxes,
}


def made(rgb: Pixels, recipe: Recipe, isa: str) -> Pixels:
    plan = recipe.plan()
    out = np.full(plan.nbytes, 0xA5, np.uint8)
    assert _core.Workspace(isa).prepare_rgb(rgb, plan, out).status == _core.Status.OK
    return out.view(plan.dtype).reshape(plan.shape)


@pytest.mark.parametrize("name", GUIDES)
def test_the_guides_steps(cv2: Any, isa: str, name: str) -> None:
    recipe = load_recipe(name)
    for seed, (height, width) in enumerate(SHAPES):
        rgb = jpegs.photo(height, width, seed)
        wanted = GUIDES[name](cv2, np.ascontiguousarray(rgb[:, :, ::-1]))
        tensor = made(rgb, recipe, isa)
        assert tensor.dtype == wanted.dtype
        assert np.array_equal(tensor, wanted), (height, width)


def test_nearest_by_factor(cv2: Any, isa: str) -> None:
    text = to_toml(load_recipe("cv2nearest1024_corner_bgr_u8")).replace("1024", "200")
    recipe = parse_recipe(text, "test")
    draw = random.Random(1)
    for _ in range(100):
        height, width = draw.randint(8, 400), draw.randint(8, 400)
        bgr = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        factor = 200 / max(height, width)
        image = cv2.resize(bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
        tensor = made(np.ascontiguousarray(bgr[:, :, ::-1]), recipe, isa)
        assert np.array_equal(tensor, put(image, 200, 0, 0, 0)), (height, width)


@pytest.mark.parametrize("name", GUIDES)
def test_the_slow_reference(name: str) -> None:
    recipe = load_recipe(name)
    for height, width in SHAPES[:3]:
        rgb = jpegs.photo(height, width, 3)
        wanted = reference.prepare_image(Image.fromarray(rgb), recipe)
        assert np.array_equal(made(rgb, recipe, "scalar"), wanted)


@pytest.mark.parametrize("name", GUIDES)
def test_the_text_of_a_recipe_gives_it_back(name: str) -> None:
    recipe = load_recipe(name)
    assert parse_recipe(to_toml(recipe), "test") == recipe


def test_pillows_filters_pad_too(isa: str) -> None:
    text = to_toml(load_recipe("letterbox640")).replace("cv2-linear", "bicubic")
    recipe = parse_recipe(text, "test")
    for height, width in SHAPES:
        rgb = jpegs.photo(height, width, 1)
        wanted = reference.prepare_image(Image.fromarray(rgb), recipe)
        assert np.array_equal(made(rgb, recipe, isa), wanted)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[114.0, 114.0, 114.0]", "[114, 114, 256]", "pad.value"),
        ("[114.0, 114.0, 114.0]", "[1.5, 0, 0]", "whole numbers"),
        ('position = "centre"', 'position = "left"', "centre, corner"),
        ("[tensor]", '[crop]\nsize = 640\nrounding = "up"\n[tensor]', "exclude each other"),
        ('mode = "fit"', 'mode = "short"', "half-even"),
        ('"half-even"', '"cv2-factor"', "needs resize.filter 'cv2-nearest'"),
        ('stage = "pixels"', 'stage = "tensor"', "float tensors only"),
    ],
)
def test_mistakes(old: str, new: str, words: str) -> None:
    text = to_toml(load_recipe("letterbox640_u8"))
    assert old in text
    with pytest.raises(RecipeError, match=words):
        parse_recipe(text.replace(old, new, 1), "test")
