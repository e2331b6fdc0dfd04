"""Recipes of detection, face and text guides: what the guides' own scripts wrote of made images.

tools/compare_guides.py ran the scripts and wrote detection.sha16.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.support import detection, golden, jpegs
from zoofast.preprocess.guides import TASKS, guides
from zoofast.preprocess.prepare import prepare
from zoofast.preprocess.recipe_file import load_recipe

LINES = (Path(__file__).parent / "detection.sha16").read_text().splitlines()
GUIDES = [guide for guide in guides().values() if guide.task != TASKS[0]]
RECIPES = sorted({str(guide.recipe) for guide in GUIDES})


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    sizes = [*detection.SIZES, (160, 160)]  # the last one for FaceNet
    return {f"{h}x{w}": jpegs.save(detection.picture(h, w), "BMP") for h, w in sizes}


def test_every_guide_was_run() -> None:
    assert len(GUIDES) >= 30
    assert {guide.task for guide in GUIDES} == set(TASKS[1:])
    assert sorted({line.split()[0] for line in LINES}) == RECIPES


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_scripts_tensors(images: dict[str, bytes], recipe: str) -> None:
    expected = dict(line.split()[1:] for line in LINES if line.split()[0] == recipe)
    chosen = load_recipe(recipe)
    sizes = [tuple(map(int, name.split("x"))) for name in expected]
    for name, (height, width) in zip(list(expected), sizes, strict=True):
        if not golden.follows_installed_pillow(chosen, width, height):
            del expected[name]
    made = {
        name: hashlib.sha256(prepare(images[name], chosen).tobytes()).hexdigest()[:16]
        for name in expected
    }
    assert made == expected
    assert made


# What the guides' own AIPP files subtract and multiply, by channel of the tensor.
AIPP = {
    "faceboxes": ((104, 117, 123), (1, 1, 1)),
    "fots": ((123.675, 116.28, 103.53), (0.01712475, 0.017507, 0.01742919)),
    "retinaface": ((104, 117, 123), (1, 1, 1)),
    "yolof_builtin": ((103.94, 116.78, 123.68), (1, 1, 1)),
    "yolov4": ((0, 0, 0), (0.003921568627451,) * 3),
}


def test_the_aipp_of_a_guide() -> None:
    assert set(AIPP) == {guide.name for guide in GUIDES if load_recipe(guide.name).dtype == "uint8"}
    for name, (minimum, factor) in AIPP.items():
        recipe = load_recipe(name)
        assert recipe.on_device is not None
        order = ["RGB".index(c) for c in recipe.channels]
        assert [recipe.on_device.means_0_255[c] for c in order] == pytest.approx(minimum)
        stds = [recipe.on_device.stds_0_255[c] for c in order]
        assert [1 / std for std in stds] == pytest.approx(factor, rel=1e-5)
