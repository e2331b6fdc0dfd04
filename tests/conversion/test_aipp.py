"""AIPP: the guide's file, and a proof without an NPU that AIPP keeps the accuracy."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoofast.cli import main
from zoofast.conversion.agreement import run_onnx
from zoofast.conversion.aipp import Aipp
from zoofast.errors import ModelError, RecipeError
from zoofast.inference.dynamic import aipp_of_recipe
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.prepare import prepare
from zoofast.preprocess.recipe import Normalization
from zoofast.preprocess.recipe_file import load_recipe
from zoofast.preprocess.sources import open_source

# The values of the SqueezeNet1_1 guide's aipp.config.
SQUEEZENET = {
    "aipp_mode": "static",
    "related_input_rank": "0",
    "input_format": "RGB888_U8",
    "src_image_size_w": "224",
    "src_image_size_h": "224",
    "crop": "false",
    "rbuv_swap_switch": "false",
    "csc_switch": "false",
    "mean_chn_0": "0",
    "mean_chn_1": "0",
    "mean_chn_2": "0",
    "min_chn_0": "123.675",
    "min_chn_1": "116.28",
    "min_chn_2": "103.53",
    "var_reci_chn_0": "0.0171247538316637",
    "var_reci_chn_1": "0.0175070028011204",
    "var_reci_chn_2": "0.0174291938997821",
}


def values(text):
    lines = [line.partition("#")[0].split(":") for line in text.splitlines()]
    return {line[0].strip(): line[1].strip() for line in lines if len(line) == 2}


def npu(text, pixels):
    """The network's input that an NPU computes of `pixels` (N, H, W, 3) with an AIPP file."""
    comment, first, *lines, last = text.splitlines()
    assert (comment[0], first, last) == ("#", "aipp_op {", "}")
    assert all(re.fullmatch(r"    \w+ : [\w.]+ +# .*", line) for line in lines)
    fields = values(text)
    assert (fields["aipp_mode"], fields["input_format"]) == ("static", "RGB888_U8")
    assert fields["rbuv_swap_switch"] == fields["csc_switch"] == "false"
    assert pixels.shape[1:] == (int(fields["src_image_size_h"]), int(fields["src_image_size_w"]), 3)
    if fields["crop"] == "true":
        top, left = int(fields["load_start_pos_h"]), int(fields["load_start_pos_w"])
        height, width = int(fields["crop_size_h"]), int(fields["crop_size_w"])
        pixels = pixels[:, top : top + height, left : left + width]
    planes = []
    for c in range(3):
        plane = pixels[..., c].astype(np.float16) - np.float16(int(fields[f"mean_chn_{c}"]))
        plane = plane - np.float16(fields[f"min_chn_{c}"])
        planes.append(plane * np.float16(fields[f"var_reci_chn_{c}"]))
    return np.stack(planes, axis=1).astype(np.float32)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)


def test_the_file_has_the_guides_values_and_explains_each(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["aipp", "squeezenet1_1"]) == 0
    text = Path("aipp.config").read_text()
    assert values(text) == SQUEEZENET
    assert all(" # " in line for line in text.splitlines() if ":" in line and line[0] != "#")
    assert capsys.readouterr().out == "aipp.config: the NPU will take 224x224x3 uint8 images\n"


def test_a_float_recipe_gets_a_file_too_and_the_command_to_prepare_for_it(tmp_path, capsys):
    out = tmp_path / "aipp.config"
    assert main(["aipp", "inceptionv4", "-o", str(out)]) == 0
    fields = values(out.read_text())
    assert fields["src_image_size_w"] == "299"
    assert [fields[f"min_chn_{c}"] for c in range(3)] == ["127.5"] * 3
    assert float(fields["var_reci_chn_1"]) == pytest.approx(1 / 127.5, rel=1e-14)
    assert "--recipe inceptionv4 --dtype uint8 --layout NHWC" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["squeezenet1_1", "alexnet", "inceptionv4"])
def test_the_file_computes_the_float_recipes_input(name, pixels):
    recipe = replace(
        load_recipe(name).with_output("uint8", "NHWC"), size=(224, 224), input_size=(224, 224)
    )
    config = Aipp.from_recipe(recipe)
    inputs = npu(config.text(), pixels)
    table = recipe.on_device.table()
    exact = np.stack([table[c][pixels[..., c]] for c in range(3)], axis=1)
    assert inputs.shape == exact.shape
    # Three float16 roundings: of the two constants, of the difference and of the product.
    assert np.abs(inputs - exact).max() < 4 * 2.0**-11 * np.abs(exact).max()
    np.testing.assert_array_equal(config.apply(pixels), inputs)


def test_pixels_are_cropped_as_the_recipe_crops():
    recipe = replace(load_recipe("squeezenet1_1"), size=(256, 250), input_size=(224, 224))
    config = Aipp.from_recipe(recipe)
    assert (config.crop, config.crop_start) == ((224, 224), (16, 13))
    pixels = np.random.default_rng(1).integers(0, 256, (2, 256, 250, 3), dtype=np.uint8)
    cropped = Aipp.from_recipe(load_recipe("squeezenet1_1")).apply(pixels[:, 16:240, 13:237])
    np.testing.assert_array_equal(config.apply(pixels), cropped)
    np.testing.assert_array_equal(npu(config.text(), pixels), cropped)


def test_means_follow_the_order_of_the_bytes():
    config = Aipp.from_recipe(replace(load_recipe("squeezenet1_1"), channels="BGR"))
    assert config.minimum == (103.53, 116.28, 123.675)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize(
    "normalization",
    [
        Normalization("0-1", (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)),
        Normalization("0-255", (103.5, 116.25, 123.75), (57.0, 58.0, 59.0)),
        Normalization(1 / 255, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)),
        Normalization(1 / 128, (0.9, 1.0, 1.1), (0.5, 1.0, 2.0)),
        Normalization(
            "0-1", (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), second_mean=(0.3, 0.2, 0.1),
            second_std=(0.4, 0.5, 2.0),
        ),
        Normalization("0-255", (10.0, 20.0, 30.0), (50.0, 60.0, 70.0), reciprocal=True),
    ],
    ids=["0-1", "0-255", "1/255", "1/128", "two means", "reciprocal"],
)  # fmt: skip
def test_dynamic_aipp_computes_what_the_file_and_the_table_say(normalization, channels):
    recipe = replace(
        load_recipe("squeezenet1_1"),
        on_device=normalization, channels=channels, size=(256, 250), input_size=(224, 224),
    )  # fmt: skip
    static, dynamic = Aipp.from_recipe(recipe), aipp_of_recipe(recipe)
    assert (dynamic.low, dynamic.var) == (static.minimum, static.factor)
    assert (dynamic.source, dynamic.swap) == ((256, 250), False)
    assert dynamic.crop == (16, 13, 224, 224) == (*static.crop_start, *static.crop)
    order = ["RGB".index(channel) for channel in channels]
    computed = (np.arange(256) - np.array(dynamic.low)[:, None]) * np.array(dynamic.var)[:, None]
    np.testing.assert_allclose(computed, normalization.table()[order], rtol=1e-4, atol=1e-5)


def test_a_mean_of_whole_numbers_is_subtracted_too(pixels):
    config = replace(Aipp.from_recipe(load_recipe("squeezenet1_1")), mean=(10, 20, 30))
    expected = pixels[0, 5, 7].astype(float) - [10, 20, 30] - np.array(config.minimum)
    for inputs in (config.apply(pixels), npu(config.text(), pixels)):
        np.testing.assert_allclose(
            inputs[0, :, 5, 7], expected * config.factor, rtol=2e-3, atol=2e-3
        )


def test_what_aipp_cannot_do_is_refused(pixels):
    with pytest.raises(RecipeError, match="AIPP takes uint8 NHWC"):
        Aipp.from_recipe(load_recipe("alexnet"))
    squeezenet = load_recipe("squeezenet1_1")
    with pytest.raises(RecipeError, match="means of 0 to 255"):
        Aipp.from_recipe(
            replace(squeezenet, on_device=replace(squeezenet.on_device, mean=(-0.1, 0.0, 0.0)))
        )
    with pytest.raises(RecipeError, match="sides of 2 to 4096"):
        Aipp.from_recipe(replace(squeezenet, size=(5000, 224), input_size=(5000, 224)))
    for wrong in (pixels[:, :-1], pixels.astype(np.float32), pixels.transpose(0, 3, 1, 2)):
        with pytest.raises(ModelError, match="AIPP is configured for uint8 images of 224x224x3"):
            Aipp.from_recipe(squeezenet).apply(wrong)


def test_prepared_images_become_what_the_float_recipe_prepares(tmp_path):
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(2).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((300, 280), Image.Resampling.BICUBIC).save(path)
    pixels = prepare(path, load_recipe("squeezenet1_1"))
    inputs = Aipp.from_recipe(load_recipe("squeezenet1_1")).apply(pixels[None])
    exact = prepare(path, load_recipe("squeezenet1_1_float32"))
    assert np.abs(inputs[0] - exact).max() < 4 * 2.0**-11 * np.abs(exact).max()


def test_the_accuracy_through_aipp_is_that_of_the_float_route(shared, tmp_path):
    """The trained SqueezeNet on a third of the sample: float16 costs not one image."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("no torch or onnxruntime")
    onnx_path, config = tmp_path / "squeezenet.onnx", tmp_path / "aipp.config"
    weights = shared / "models" / "squeezenet1_1.pth"
    assert main(["export", "squeezenet1_1", "--weights", f"{weights}", "-o", f"{onnx_path}"]) == 0
    assert main(["aipp", "squeezenet1_1", "-o", str(config)]) == 0
    lines = (shared / "imagenet-sample" / "val_label.txt").read_text().splitlines()
    labels = {line.split()[0].partition(".")[0]: int(line.split()[1]) for line in lines}
    (tmp_path / "val").mkdir()
    for image in sorted((shared / "imagenet-sample" / "val").iterdir())[::3]:
        (tmp_path / "val" / image.name).symlink_to(image)

    def hits(recipe_name, to_input):
        """Of each image: whether its label is the first, and whether it is among the first five."""
        found = []
        with (
            open_source(tmp_path / "val") as source,
            Loader(source, load_recipe(recipe_name), batch_size=50) as loader,
        ):
            for batch in loader:
                logits = run_onnx(onnx_path, to_input(batch.array))
                best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
                right = best == np.array([labels[name] for name in batch.names])[:, None]
                found += zip(batch.names, right[:, 0], right.any(axis=1), strict=True)
        return found

    # test_pipeline.py compares the float route with the guide's script on the whole sample
    exact = hits("squeezenet1_1_float32", lambda array: array)
    assert len(exact) == 100
    assert 40 < sum(first for _, first, _ in exact) < 80
    text = config.read_text()
    assert hits("squeezenet1_1", lambda array: npu(text, array)) == exact
