"""`zoofast recipe`: show, check, diff, save."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import folders, libraries
from zoofast.cli import main
from zoofast.commands.recipe import _steps
from zoofast.preprocess.guides import guides
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe, parse_recipe, recipe_names
from zoofast.preprocess.recipe_text import to_toml

CARD = {
    "architecture": "x",
    "input_size": [3, 40, 40],
    "crop_pct": 0.8,
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}
MINE = """
import numpy as np
from PIL import Image
offset = 0.0
def mine(image):
    width, height = image.size
    short = min(width, height)
    image = image.resize((50 * width // short, 50 * height // short), Image.Resampling.BICUBIC)
    left, top = round((image.width - 40) / 2), round((image.height - 40) / 2)
    x = np.asarray(image.crop((left, top, left + 40, top + 40)))
    x = (x.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    return x.transpose(2, 0, 1) + np.float32(offset)
def maker():
    return mine
def other(image):
    return mine(image) + np.float32(1)
def fails(image):
    raise KeyError("no such\\nimage")
def quits(image):
    raise SystemExit(0)
def flat(image):
    return mine(image)[0]
def batch(image):
    return mine(image)[None]
def words(image):
    return {"pixel_values": mine(image)}
"""


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mine_recipe_15.py").write_text(MINE)
    (tmp_path / "card.json").write_text(json.dumps(CARD))
    folders.write(tmp_path / "in", {**folders.good_files(6), **folders.BAD_FILES})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "card.json"


def every_recipe() -> list[Recipe]:
    names = [*recipe_names(), *(name for name, guide in guides().items() if guide.recipe)]
    recipes = [load_recipe(name) for name in names]
    uint8 = load_recipe("alexnet").with_output("uint8")
    odd = replace(uint8.with_output("float32"), name='a "name"\x7f\n', summary="Größe \\ \t")
    half = replace(odd.normalization, scale=1 / 127.5, second_mean=(1, 2, 3), second_std=(1, 1, 9))
    return [*recipes, uint8, replace(odd, normalization=half), replace(uint8, on_device=half)]


def test_the_saved_text_gives_the_same_recipe() -> None:
    recipes = every_recipe()
    assert len(recipes) > 100
    for recipe in recipes:
        # without a filter, every filter does the same
        expected = recipe if recipe.resize != "none" else replace(recipe, filter="bilinear")
        made = parse_recipe(to_toml(recipe), recipe.name)
        if recipe.crop is None:
            made = replace(made, crop_rounding=recipe.crop_rounding)
        assert made == expected


def test_save_and_diff(card: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "save", card, "-o", "saved.toml"]) == 0
    assert load_recipe("saved.toml") == load_recipe(card)
    assert main(["recipe", "diff", card, "saved.toml"]) == 0
    assert "make the same tensors" in capsys.readouterr().out
    Path("changed.toml").write_text(
        Path("saved.toml").read_text().replace("size = 50", "size = 51")
    )
    assert main(["recipe", "diff", card, "changed.toml"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "." in line]
    assert len(lines) == 1 and "resize.size" in lines[0] and "50" in lines[0] and "51" in lines[0]


def test_show(card: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "show", card]) == 0
    shown = capsys.readouterr().out
    for words in (
        "the short side to 50 pixels, bicubic",
        "40×40 pixels from the centre",
        "((x / 255) − (0.5, 0.5, 0.5)) / (0.25, 0.25, 0.25), in float32",
        "float32 NCHW 3×40×40, RGB",
        load_recipe(card).digest,
    ):
        assert words in shown


def test_every_recipe_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in {
        "letterbox640": "to 640×640 pixels, the picture in the middle; pixels (114, 114, 114)",
        "mmdet1216_centre": "cv2, turned by the EXIF orientation",
        "yolox640": "at the top left",
    }.items():
        assert main(["recipe", "show", name]) == 0
        assert words in " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(_steps(recipe) for recipe in every_recipe())


def test_a_resize_of_floats_is_shown_in_the_order_of_the_work(tmp_path: Path) -> None:
    recipe = load_recipe("alexnet")
    steps = dict(_steps(replace(recipe, filter="cv2-linear-float32")))
    assert steps["resize"].endswith(", cv2-linear-float32; of x / 255 as float32")
    assert steps["normalize"].startswith("(x − (0.485, 0.456, 0.406)) / ")
    assert dict(_steps(recipe))["normalize"].startswith("((x / 255) − ")


def test_check_against_the_users_own_code(card: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recipe", "check", card, "in", "--against"]
    for name in ("mine", "maker"):
        assert main([*words, f"mine_recipe_15:{name}"]) == 0
        assert "6 of 6 images equal mine_recipe_15:" in capsys.readouterr().out
    assert main([*words, "mine_recipe_15:other", "--count", "3"]) == 1
    captured = capsys.readouterr()
    assert "0 of 3 images equal" in captured.out
    assert "differs: img0000: 4800 of 4800 values differ, by at most 1" in captured.err
    assert main([*words, "mine_recipe_15:fails", "--count", "2"]) == 1
    captured = capsys.readouterr()
    assert "differs: img0000: only zoofast makes a tensor; the transform raises" in captured.err
    assert "KeyError: 'no such" in captured.err and "0 of 2 images equal" in captured.out
    assert main([*words, "mine_recipe_15:quits", "--count", "1"]) == 1
    assert "the transform raises SystemExit: 0" in capsys.readouterr().err
    assert main(["recipe", "save", card, "-o", "nchw.toml"]) == 0
    Path("nhwc.toml").write_text(Path("nchw.toml").read_text().replace("NCHW", "NHWC"))
    words[2] = "nhwc.toml"
    assert main([*words, "mine_recipe_15:mine"]) == 0
    for name, shape in (
        ("flat", "float32 (40, 40)"),
        ("batch", "float32 (1, 3, 40, 40)"),
        ("words", "object ()"),
    ):
        assert main([*words, f"mine_recipe_15:{name}"]) == 1
        assert f"img0000: float32 (40, 40, 3) instead of {shape}" in capsys.readouterr().err
    assert main(["recipe", "check", "alexnet", "in"]) == 2
    assert "--against" in capsys.readouterr().err


@pytest.mark.slow  # imports timm
def test_no_image_to_compare(card: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is equal where nothing was compared."""
    libraries.load("timm")
    folders.write(Path("bad"), folders.BAD_FILES)
    main(["prep", "bad", "out", "--recipe", card])
    shown = capsys.readouterr().err
    assert "not compared with timm's transform of card.json: no image gives a tensor" in shown
    assert "equal to" not in shown
