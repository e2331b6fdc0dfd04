"""The zoo's recipes: their tensors have the hashes of what the guides' own scripts wrote."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import golden
from zoofast.conversion import aipp_file
from zoofast.errors import ModelError, RecipeError
from zoofast.preprocess.folder import PrepOptions, prepare_folder
from zoofast.preprocess.guides import TASKS, guides
from zoofast.preprocess.prepare import prepare
from zoofast.preprocess.recipe_file import load_recipe, recipe_names
from zoofast.preprocess.sources import open_source

CLASSIFIERS = {name: guide for name, guide in guides().items() if guide.task == TASKS[0]}
RECIPES = sorted({guide.recipe for guide in CLASSIFIERS.values() if guide.recipe is not None})
MISSING = sorted(name for name, guide in guides().items() if guide.recipe is None)
# Names of bins that are the image's name for all file names of the data set, or that are no files.
BIN_NAMES = {
    '{name less leading and trailing characters of ".JPEG"}.bin': "{stem}.bin",
    "{name less 4 characters}.bin": "{stem}.bin",
    "{name}.bin (keeps .JPEG)": "{name}.bin",
    "{i}.bin and {i}_flip.bin": "{i}.bin",
    "no files: arrays go straight to the runtime": "{stem}.bin",
}
# Pictures of each recipe: 20; `make test-zoo` asks for "all" 300, tools/check.sh for a "few".
PICTURES = os.environ.get("ZOOFAST_TEST_ZOO", "")
ALL = PICTURES == "all"


def hashes(folder: Path, recipe: str) -> dict[str, str]:
    """Picture -> the first 16 hexadecimal digits of its tensor's SHA-256."""
    without_ipp = folder / "sha16" / f"{recipe}@noipp.sha16"  # of some of OpenCV's filters
    path = without_ipp if without_ipp.exists() else folder / "sha16" / f"{recipe}.sha16"
    lines = path.read_text().splitlines()
    chosen = lines[:: {"all": 1, "few": 50}.get(PICTURES, 15)]
    assert len(chosen) == {"all": 300, "few": 6}.get(PICTURES, 20)
    return {name: digest for name, digest in (line.split() for line in chosen)}


def sha16(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def picture(shared: Path, name: str, recipe: str) -> bytes | Path:
    """What the guide's script read: the picture, or for small pictures its thumbnail."""
    path = shared / "imagenet-sample" / "val" / name
    side = 32 if recipe.startswith("cifar") else 112 if recipe.startswith("none112") else 0
    if not side:
        return path
    file = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        small.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


@pytest.fixture(scope="module")
def zoo(shared: Path) -> Path:
    folder = shared / "golden" / "zoo"
    if not folder.is_dir():
        pytest.skip("no golden/zoo")
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_guides_tensors(zoo: Path, shared: Path, recipe: str) -> None:
    expected = hashes(zoo, recipe)
    chosen = load_recipe(recipe)
    pictures = {name: picture(shared, name, recipe) for name in expected}
    for name in expected:
        with Image.open(shared / "imagenet-sample" / "val" / name) as image:
            if not golden.follows_installed_pillow(chosen, *image.size):
                del pictures[name]
    assert len(pictures) >= len(expected) / 2
    made = {name: sha16(prepare(data, chosen).tobytes()) for name, data in pictures.items()}
    assert made == {name: expected[name] for name in pictures}


@pytest.mark.parametrize(
    ("guide", "hashes_of", "limit"),
    [
        ("volo", "bicubic233_224@8", 24),
        ("beit", "bicubic256_224_half@8", 24),
        ("efficientnet_b7", "bicubic600_600@16", 16),
    ],
)
def test_bins_as_the_guide_packs_them(
    zoo: Path, shared: Path, tmp_path: Path, guide: str, hashes_of: str, limit: int
) -> None:
    packing = guides()[guide].packing
    options = PrepOptions(packing=packing, limit=None if ALL else limit)
    with open_source(shared / "imagenet-sample" / "val") as source:
        prepare_folder(source, tmp_path, load_recipe(guide), options)
    made = {path.name: sha16(path.read_bytes()) for path in tmp_path.glob("*.bin")}
    lines = (zoo / "sha16" / f"{hashes_of}.sha16").read_text().splitlines()
    expected = dict(line.split() for line in lines[: None if ALL else limit // packing.images])
    assert made == expected


def test_mirrored_bins_of_the_guide(zoo: Path, shared: Path, tmp_path: Path) -> None:
    guide = guides()["lresnet100e_ir"]
    expected = [hashes(zoo, "none112_bgr_half"), hashes(zoo, "none112_bgr_half@mirrored")]
    for name in expected[0]:
        data = picture(shared, name, "none112_bgr_half")
        assert isinstance(data, bytes)
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    with open_source(tmp_path / "in") as source:
        names = [os.path.basename(item.path) for item in source.items]
        options = PrepOptions(packing=guide.packing)
        prepare_folder(source, tmp_path / "out", load_recipe(guide.name), options)
    for end, digests in zip(("", "_flip"), expected, strict=True):
        made = {
            name: sha16((tmp_path / "out" / f"{i}{end}.bin").read_bytes())
            for i, name in enumerate(names)
        }
        assert made == digests


@pytest.mark.parametrize("guide", ["resnet50_mmlab", "3d_attention_net", "genet", "big_transfer"])
def test_bins_of_a_cifar_pickle(zoo: Path, shared: Path, tmp_path: Path, guide: str) -> None:
    recipe = guides()[guide].recipe
    assert recipe is not None
    expected = hashes(zoo, recipe)
    data = []
    for name in expected:
        thumbnail = picture(shared, name, recipe)
        assert isinstance(thumbnail, bytes)
        with Image.open(io.BytesIO(thumbnail)) as image:
            data.append(np.asarray(image).transpose(2, 0, 1).reshape(-1))
    content = {b"data": np.stack(data), b"labels": [0] * len(data)}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content, 2))
    packing = guides()[guide].packing
    with open_source(tmp_path / "test_batch") as source:
        prepare_folder(source, tmp_path / "out", load_recipe(guide), PrepOptions(packing=packing))
        files = [packing.name(i, item) for i, item in enumerate(source.items)]
    made = [sha16((tmp_path / "out" / file).read_bytes()) for file in files]
    assert made == list(expected.values())


def rows(zoo: Path) -> Iterator[dict[str, str]]:
    with (zoo / "guides.csv").open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def test_every_guide_has_a_name(zoo: Path) -> None:
    """All rows of the table are there, with the table's recipe, input and figures."""
    by_key = {
        (guide.path, guide.recipe or guide.missing, guide.size): guide
        for guide in CLASSIFIERS.values()
    }
    expressible = {recipe.stem for recipe in (zoo / "sha16").glob("*.sha16")} & set(RECIPES)
    assert len(expressible) == len(RECIPES) == 49
    found = []
    for row in rows(zoo):
        path = row["path"].removeprefix("ACL_PyTorch/")
        shape = re.match(r"N,3,(\d+),(\d+)", row["input_shape"])
        size = (int(shape[1]), int(shape[2])) if shape else None
        candidates = [guide for key, guide in by_key.items() if (key[0], key[2]) == (path, size)]
        assert len(candidates) == 1, row["guide"]
        (guide,) = candidates
        found.append(guide.name)
        assert guide.recipe == (row["recipe_id"] if row["recipe_id"] in expressible else None)
        assert guide.input == (row["input_name"] or None)
        assert guide.label_offset == int(row["label_offset"] or 0)
        if row["classes"].isdigit():
            assert guide.classes == int(row["classes"])
        for accuracy, column in ((guide.top1, "top1"), (guide.top5, "top5")):
            assert accuracy == (float(row[column].split()[0]) if row[column] else None)
        for chip, column in (("310", "fps_310"), ("310P", "fps_310P"), ("T4", "fps_t4")):
            text = f"{row[column].split()[0]}@".split("@") if row[column] else None
            rate = None if text is None else (int(text[1] or 1), float(text[0]))
            assert guide.rates.get(chip) == rate
        assert str(guide.packing.images) == row["images_per_bin"].split()[0]
        assert guide.packing.mirror == ("mirrored" in row["images_per_bin"])
        assert guide.packing.fill == {"dropped": "drop"}.get(row["fill"], "zero")
        assert guide.packing.names == BIN_NAMES.get(row["name_pattern"], row["name_pattern"])
        assert bool(guide.side_file) == any(
            word in row["sidecar"] for word in ("label", ".info")
        ), row["guide"]
    assert sorted(found) == sorted(CLASSIFIERS)
    assert len(found) == 107


@pytest.mark.parametrize("name", sorted(set(guides()) - set(MISSING)))
def test_a_guides_name_is_a_recipe(name: str) -> None:
    guide, recipe = guides()[name], load_recipe(name)
    assert recipe.name == name
    assert guide.recipe is not None
    pixels = load_recipe(guide.recipe)
    for field in ("resize", "resize_size", "crop", "crop_rounding", "size", "dtype", "layout"):
        assert getattr(recipe, field) == getattr(pixels, field)
    assert (recipe.filter, recipe.channels) == (pixels.filter, pixels.channels)
    assert recipe.normalization == pixels.normalization
    if guide.classes is not None and guide.input is not None:
        assert recipe.classes == guide.classes
        assert recipe.label_offset == guide.label_offset
        if guide.size is not None:
            assert recipe.input_name == guide.input
    if guide.size is not None:
        assert recipe.input_size == guide.size
    assert np.isfinite(recipe.normalization.table()).all()


@pytest.mark.parametrize("name", MISSING)
def test_what_no_recipe_describes_is_said(name: str) -> None:
    with pytest.raises(RecipeError, match=f"guide {name}: zoofast cannot prepare its images"):
        load_recipe(name)


def test_names_are_not_taken_twice() -> None:
    assert not set(recipe_names()) & set(guides())


def guides_with_aipp(zoo: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The name of each guide with a recipe and an AIPP file, and the file's line of aipp.csv."""
    with (zoo / "aipp.csv").open(newline="", encoding="utf-8") as file:
        lines = {
            row["guide"]: row for row in csv.DictReader(file) if row["used_by_readme"] == "yes"
        }
    for row in rows(zoo):
        names = [
            guide.name
            for guide in guides().values()
            if guide.recipe is not None and row["path"].endswith(f"/{guide.path}")
        ]
        if names and row["guide"] in lines:
            yield names[0], lines[row["guide"]]


def test_the_aipp_of_a_guide(zoo: Path) -> None:
    """What the NPU computes of the bins is what the guide's own AIPP file says."""
    checked = 0
    for name, aipp in guides_with_aipp(zoo):
        if not aipp["min_0"]:
            continue
        recipe = load_recipe(name)
        assert recipe.on_device is not None, name
        unit = 255.0 if recipe.on_device.scale == "0-1" else 1.0
        for c, at in enumerate(recipe.channels.index(colour) for colour in "RGB"):
            assert recipe.on_device.mean[c] * unit == pytest.approx(float(aipp[f"min_{at}"]), 1e-6)
            factor = 1 / (recipe.on_device.std[c] * unit)
            assert factor == pytest.approx(float(aipp[f"var_reci_{at}"]), 1e-5)
        checked += 1
    assert checked >= 12


def test_the_aipp_file_of_a_guide_makes_the_input_of_its_recipe(zoo: Path, tmp_path: Path) -> None:
    keys = {"src_w": "src_image_size_w", "src_h": "src_image_size_h", "mean_0": "mean_chn_0"}
    keys |= {f"min_{c}": f"min_chn_{c}" for c in range(3)}
    keys |= {f"var_reci_{c}": f"var_reci_chn_{c}" for c in range(3)}
    others = ("guide", "file", "used_by_readme", "note", "matrix", "input_bias")
    config, checked = tmp_path / "aipp.config", 0
    for name, aipp in guides_with_aipp(zoo):
        fields = {keys.get(key, key): aipp[key] for key in aipp if key not in others and aipp[key]}
        lines = [f"    {key} : {value}\n" for key, value in fields.items()]
        config.write_text("aipp_op {\n    aipp_mode : static\n" + "".join(lines) + "}\n")
        if name == "shufflenetv2":  # its script writes 244x244, its AIPP file says 224x224
            with pytest.raises(ModelError, match="src_image_size_h is 224, not 244"):
                aipp_file.check(config, load_recipe(name))
        else:
            aipp_file.check(config, load_recipe(name))
        checked += 1
    assert checked >= 12
