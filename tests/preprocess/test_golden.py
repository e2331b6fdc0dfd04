"""Every bin that the guides' own scripts made of the sample images, on every CPU level."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import golden
from zoofast import _core
from zoofast.preprocess import recipe
from zoofast.preprocess.recipe_file import load_recipe

# The ResNet34 guide's script in its inceptionv4 mode rounds the crop's origin to even.
SCRIPT_RECIPE = """
name = "inceptionv4 by the resnet34 script"
[resize]
mode = "short"
size = 342
filter = "bilinear"
[crop]
size = 299
rounding = "half-even"
[tensor]
dtype = "float32"
layout = "NCHW"
[normalize]
scale = "0-1"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[model]
input = "image"
output = "class"
classes = 1001
"""


def check(shared: Path, guide: str, chosen: recipe.Recipe, isa: str) -> None:
    sums = golden.sums(shared, guide)
    workspace, plan = _core.Workspace(isa), chosen.plan()
    out = np.empty(chosen.nbytes, np.uint8)
    images = sorted((shared / "imagenet-sample" / "val").iterdir())
    assert len(images) == 300
    wrong = []
    for path in images:
        status = workspace.prepare(path.read_bytes(), plan, out).status
        # the core decodes all images of the sample itself
        if status != _core.Status.OK or hashlib.sha256(out).hexdigest() != sums.pop(
            f"{path.stem}.bin"
        ):
            wrong.append((path.name, _core.Status(status).name))
    assert wrong == []
    assert sums == {}


@pytest.mark.parametrize("guide", golden.GUIDES)
def test_guide(shared: Path, guide: str, isa: str) -> None:
    check(shared, guide, load_recipe(golden.GUIDES[guide]), isa)


def test_resnet34_script_in_its_inceptionv4_mode(shared: Path, isa: str, tmp_path: Path) -> None:
    file = tmp_path / "script.toml"
    file.write_text(SCRIPT_RECIPE)
    chosen = load_recipe(str(file))
    check(shared, "ResNet34-script-inceptionv4", chosen, isa)


def test_only_the_rounding_sets_that_mode_apart_from_the_guide(shared: Path) -> None:
    """With the crop rounded as the script does, the guide's recipe makes the script's bins."""
    guide = load_recipe("inceptionv4")
    assert guide.crop_rounding == "truncate"
    chosen = replace(guide, crop_rounding="half-even")
    check(shared, "ResNet34-script-inceptionv4", chosen, _core.isa())
    script = golden.sums(shared, "ResNet34-script-inceptionv4")
    assert all(
        script[name] != digest for name, digest in golden.sums(shared, "InceptionV4").items()
    )


def test_squeezenet_without_aipp_is_alexnets_preprocessing() -> None:
    """Both guides: short side 256, centre crop 224, the mean and standard deviation of ImageNet."""
    a, b = load_recipe("squeezenet1_1_float32"), load_recipe("alexnet")
    assert a.shape == b.shape
    assert np.array_equal(a.normalization.table(), b.normalization.table())
    c = load_recipe("squeezenet1_1").with_output("float32", "NCHW")
    assert np.array_equal(c.normalization.table(), a.normalization.table())
