"""Recipes read from other libraries, against the libraries' own transforms."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import folders, jpegs, libraries
from zoofast.errors import RecipeError
from zoofast.preprocess import importers, reference
from zoofast.preprocess.folder import PrepOptions, prepare_folder
from zoofast.preprocess.importers import first_use
from zoofast.preprocess.importers import timm as timm_importer
from zoofast.preprocess.importers.huggingface import own_transform
from zoofast.preprocess.importers.imported import Imported
from zoofast.preprocess.importers.transforms import from_transforms
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.prepare import prepare
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe, parse_recipe
from zoofast.preprocess.recipe_text import to_toml
from zoofast.preprocess.sources import open_source

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZES = [(375, 500), (501, 333), (224, 224), (90, 301), (40, 33)]  # height, width
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 10,
    "pretrained_cfg": {
        "input_size": [3, 64, 64],
        "test_input_size": [3, 96, 96],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "crop_mode": "center",
        "mean": MEAN,
        "std": [0.5, 0.25, 0.3],
        "num_classes": 10,
    },
}


@pytest.fixture(scope="module")
def torchvision() -> Any:
    return libraries.load("torchvision")


def written(folder: Path, **changes: Any) -> str:
    """A timm config.json with some values of its pretrained_cfg changed."""
    path = folder / "config.json"
    path.write_text(
        json.dumps({**CONFIG, "pretrained_cfg": {**CONFIG["pretrained_cfg"], **changes}})
    )
    return str(path)


def assert_equal(
    recipe: Recipe,
    transform: Callable[[Image.Image], Any],
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> None:
    """The recipe makes the transform's values of images of odd and even sizes."""
    for seed, (height, width) in enumerate(sizes):
        data = jpegs.jpeg(height, width, seed)
        wanted = np.asarray(transform(Image.open(io.BytesIO(data)).convert("RGB")))
        made = prepare(data, recipe)
        assert (made.shape, made.dtype) == (wanted.shape, wanted.dtype)
        assert made.tobytes() == wanted.tobytes(), f"{height}x{width}"


# ---- timm ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "test_size", "steps"),
    [
        ({}, False, [("Resize", 67), ("CenterCrop", 64)]),  # floor(64 / 0.95)
        ({}, True, [("Resize", 96), ("CenterCrop", 96)]),
        ({"crop_pct": 1.3}, False, [("Resize", 49), ("CenterCrop", 64)]),  # pads
        ({"crop_mode": "squash"}, False, [("Resize", (67, 67)), ("CenterCrop", 64)]),
        ({"crop_pct": None}, False, [("Resize", 73), ("CenterCrop", 64)]),  # timm's default: 0.875
        (
            {"crop_mode": "squash", "input_size": [3, 64, 48], "crop_pct": 1.0},
            False,
            [("Resize", (64, 48)), ("CenterCrop", (64, 48))],
        ),
    ],
)
def test_a_model_card_of_timm(
    torchvision: Any,
    tmp_path: Path,
    changes: dict[str, Any],
    test_size: bool,
    steps: list[tuple[str, Any]],
) -> None:
    transforms = torchvision.transforms
    options = {"Resize": {"interpolation": transforms.InterpolationMode.BICUBIC}}
    wanted = transforms.Compose(
        [
            *(getattr(transforms, kind)(size, **options.get(kind, {})) for kind, size in steps),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, [0.5, 0.25, 0.3]),
        ]
    )
    recipe = load_recipe(written(tmp_path, **changes), test_size)
    assert (recipe.classes, recipe.name) == (10, "resnet18")
    assert_equal(recipe, wanted)


def test_the_name_of_a_model_card(tmp_path: Path) -> None:
    """It becomes a file's name; so it is the folder's where the model's would not do."""
    folder = tmp_path / "card"
    folder.mkdir()
    for architecture, tag, name in (
        ("vit_tiny", "augreg_in21k", "vit_tiny.augreg_in21k"),
        ("vit_tiny", None, "vit_tiny"),
        ("../../x", "y", "card"),
    ):
        card = {"architecture": architecture, "pretrained_cfg": {"tag": tag}}
        (folder / "config.json").write_text(json.dumps(card))
        assert load_recipe(str(folder / "config.json")).name == name


def test_arguments_of_the_model_in_its_card(tmp_path: Path) -> None:
    """As in timm: the outer number of classes counts, and the argument of a fixed size."""

    def recipe_of(arguments: Any, **changes: Any) -> Recipe:
        data = {**CONFIG["pretrained_cfg"], "num_classes": 1000, **changes}
        card = {**CONFIG, "pretrained_cfg": data, "model_args": arguments}
        (tmp_path / "config.json").write_text(json.dumps(card))
        return load_recipe(str(tmp_path / "config.json"))

    assert (recipe_of({}).classes, recipe_of({}).size) == (10, (64, 64))
    assert recipe_of({"img_size": 48}).size == (64, 64)  # a network that takes any size
    assert recipe_of({"img_size": 48}, fixed_input_size=True).size == (48, 48)
    both = recipe_of({"img_size": [48, 40]}, fixed_input_size=True, crop_mode="squash")
    assert both.size == (48, 40)
    free = {"img_size": 48, "dynamic_img_size": True}
    assert recipe_of(free, fixed_input_size=True).size == (64, 64)
    for arguments, message in (
        ({"in_chans": 1}, "model_args: in_chans is not 3"),
        (["img_size"], "model_args is no table"),
        ({"checkpoint_path": "other.pth"}, "'checkpoint_path' is no argument of a network"),
        ({"pretrained": True}, "'pretrained' is no argument of a network"),
    ):
        with pytest.raises(RecipeError, match=message):
            recipe_of(arguments)


def test_a_model_card_needs_no_library(tmp_path: Path) -> None:
    code = (
        "import sys; from zoofast.preprocess.recipe_file import load_recipe; load_recipe("
        f"{written(tmp_path)!r}); sys.exit(any(m in sys.modules for m in ('torch', 'timm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": [1, 28, 28]}, "input_size has 1 channels"),
        ({"input_size": [3, -1, 28]}, "input_size is not"),
        ({"input_size": 224}, "input_size is not"),
        ({"input_size": 0}, "input_size is not"),
        ({"input_size": []}, "input_size is not"),
        ({"interpolation": "random"}, "interpolation = 'random': one of nearest, lanczos"),
        ({"interpolation": "cv2-linear"}, "interpolation = 'cv2-linear': one of nearest"),
        ({"interpolation": ["bicubic"]}, "interpolation is not a short text"),
        ({"crop_mode": "magic"}, "crop_mode = 'magic'"),
        ({"crop_pct": "1"}, "crop_pct is not a number"),
        ({"crop_pct": 1e-9}, "crop_pct is not a number"),
        ({"crop_pct": float("nan")}, "crop_pct is not a number"),
        ({"mean": [0.5]}, "mean is not three numbers"),
        ({"mean": ["a", "b", "c"]}, "mean is not three numbers"),
        ({"mean": [0.5, 0.5, 2], "crop_mode": "border", "crop_pct": 1.0}, "pad.value"),
        ({"crop_mode": "border"}, "crop_mode 'border' pads and crops"),
        ({"std": [1, 0, 1]}, "normalize.std"),
        ({"input_size": [3, 16000, 16000], "crop_pct": 0.5}, "makes 32000x32000 pixels"),
    ],
)
def test_a_wrong_model_card_is_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(written(tmp_path, **changes))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow  # imports timm
def test_names_of_timm() -> None:
    timm = libraries.load("timm")
    imported = importers.load("timm:resnet18")
    assert imported.recipe.name == f"resnet18.{timm.models.get_pretrained_cfg('resnet18').tag}"
    assert_equal(imported.recipe, imported.transform())
    with pytest.raises(RecipeError, match=r"has no model 'resnt18' .did you mean 'resnet18'"):
        importers.load("timm:resnt18")


@pytest.mark.slow  # imports timm
def test_timms_border_around_the_whole_image(torchvision: Any, tmp_path: Path) -> None:
    libraries.load("timm")
    import torch
    from timm.data import transforms

    # Of the last two, side / ratio and side * (1 / ratio) are rounded to other numbers.
    sizes = [*SIZES, (640, 330), (768, 420)]
    for size, crop_pct in (([224, 224], 1.0), ([61, 84], 1.0), ([90, 64], 1.25)):
        card = written(
            tmp_path, input_size=[3, *size], crop_pct=crop_pct, crop_mode="border", mean=MEAN
        )
        imported = importers.load(card)
        wanted = imported.transform()
        assert_equal(imported.recipe, wanted, sizes)
        assert_equal(parse_recipe(to_toml(imported.recipe), "saved"), wanted, sizes[-1:])
    v1 = torchvision.transforms
    steps = [transforms.ResizeKeepRatio((61, 84), longest=1.0, interpolation="bicubic")]
    steps += [transforms.CenterCropOrPad((70, 84), fill=7), v1.ToTensor()]
    assert_equal(Recipe.from_transforms(v1.Compose(steps)), v1.Compose(steps), sizes)
    for fill in (7.9, (1, 2, 3), [4.5], (1.2, 3.9, 254.6)):  # torchvision cuts the decimals off
        padded = v1.Compose([steps[0], transforms.CenterCropOrPad((70, 84), fill), v1.ToTensor()])
        assert_equal(Recipe.from_transforms(padded), padded, sizes[:2])
    wide = transforms.ResizeKeepRatio(64, 1.0)
    for step, message in (
        (transforms.ResizeKeepRatio(64), "longest = 1"),
        (transforms.ResizeKeepRatio(64, 1.0, "random"), "draws the interpolation at random"),
        (v1.Compose([wide, transforms.CenterCropOrPad(64, (1, 2))]), "fill is neither"),
        (v1.Compose([wide, transforms.CenterCropOrPad(64, "red")]), "fill is not a number"),
        (v1.Compose([wide, transforms.CenterCropOrPad(64, -1)]), "pad.value"),
        (v1.Compose([wide, transforms.CenterCropOrPad(64, np.int64(3))]), "fill is not a number"),
        (v1.Compose([wide, transforms.CenterCropOrPad((64.0, 64))]), "not whole numbers"),
        (v1.Compose([wide, v1.ToTensor(), transforms.CenterCropOrPad(64)]), "pads a tensor"),
        (transforms.ResizeKeepRatio([64], 1.0), "size is not one number, or height and width"),
        (transforms.ToTensor(torch.float16), "makes torch.float16"),
        (transforms.ResizeKeepRatio(64, 1.0, random_scale_prob=1), "without random sizes"),
        (transforms.CenterCropOrPad(64), "after ResizeKeepRatio"),
    ):
        with pytest.raises(RecipeError, match=message):
            Recipe.from_transforms(v1.Compose([step, v1.ToTensor()]))


@pytest.mark.slow  # imports timm
@pytest.mark.parametrize(
    "changes",
    [
        {"input_size": [3, 99, 100], "crop_pct": 1.9},  # both sides become 52: not resized by ratio
        {"crop_pct": 0, "crop_mode": None, "interpolation": ""},
        {"interpolation": "lanczos", "mean": [0, 0, 0], "std": [1, 1, 1]},
        {"mean": [], "std": None},
    ],
)
def test_a_model_card_as_timm_reads_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    libraries.load("timm")
    imported = importers.load(written(tmp_path, **changes))
    assert_equal(imported.recipe, imported.transform())
    assert imported.configuration != importers.load(written(tmp_path)).configuration


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RecipeError, match=r"'timm' is missing: pip install 'zoofast\[timm\]'"):
        load_recipe("timm:resnet18")


# ---- torchvision -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "AlexNet_Weights.IMAGENET1K_V1",
        "ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1",  # bicubic, 518 pixels
        "ResNet50_QuantizedWeights.DEFAULT",
    ],
)
def test_weights_of_torchvision(torchvision: Any, name: str) -> None:
    imported = importers.load(f"torchvision:{name}")
    kind, _, tag = name.partition(".")
    weights = getattr(torchvision.models, kind, None) or getattr(
        torchvision.models.quantization, kind
    )
    assert_equal(imported.recipe, weights[tag].transforms())
    assert imported.recipe.classes == 1000
    assert imported.recipe.top1 == weights[tag].meta["_metrics"]["ImageNet-1K"]["acc@1"]


def test_unknown_weights(torchvision: Any) -> None:
    with pytest.raises(RecipeError, match="did you mean 'ResNet50_Weights'"):
        load_recipe("torchvision:ResNet5_Weights.DEFAULT")
    with pytest.raises(RecipeError, match="has no 'V9', but IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        load_recipe("torchvision:ResNet50_Weights.V9")


# ---- any transform -------------------------------------------------------------------------


def test_transforms_of_both_versions(torchvision: Any) -> None:
    v1, v2 = torchvision.transforms, libraries.load("torchvision.transforms.v2")
    normalize = v1.Normalize(MEAN, STD)
    exact = [v1.Resize((70, 50), v1.InterpolationMode.LANCZOS), v1.ToTensor()]
    for transform in (
        v1.Compose(
            [v1.Resize(72), v1.CenterCrop((64, 48)), v1.ToTensor(), v1.Normalize(MEAN, STD)]
        ),
        v1.Compose([*exact, normalize]),
        v1.Compose([v1.Compose(exact), v1.CenterCrop(31)]),
        v1.Compose([v1.Compose(exact), v1.CenterCrop((91, 57))]),  # pads
        v1.Compose([v1.Resize(65), v1.PILToTensor(), v1.CenterCrop(64)]),  # uint8
        v2.Compose([v2.RGB(), v2.Resize((64, 64)), v2.PILToTensor(), v2.ToDtype(torch_float())]),
        v2.Compose([v2.Resize((9, 64)), v2.ToImage(), v2.ToDtype(torch_float(), scale=True)]),
        v2.Compose([v2.Resize(64), v2.CenterCrop(64), v1.ToTensor(), v2.Normalize(MEAN, STD)]),
    ):
        assert_equal(Recipe.from_transforms(transform), transform)


def test_the_numbers_of_normalize(torchvision: Any) -> None:
    """As in torchvision: one number is for all channels; numbers come in many types."""
    import torch

    v1, v2 = torchvision.transforms, libraries.load("torchvision.transforms.v2")
    steps = [v1.Resize(40), v1.CenterCrop(32), v1.ToTensor()]
    for mean, std in (
        (0, 1),
        (0.5, 0.25),
        ([0.5], STD),
        (MEAN, (0.25,)),
        (torch.tensor(0.5), torch.tensor([0.5])),
        (torch.tensor(MEAN), np.array(STD)),
        (np.array(MEAN, np.float16), np.float32(0.3)),
        (tuple(torch.tensor(MEAN)), [True, 2, 3.0]),
    ):
        transform = v1.Compose([*steps, v1.Normalize(mean, std)])
        assert_equal(Recipe.from_transforms(transform), transform)
    transform = v1.Compose([*steps, v2.Normalize([0.5], torch.tensor(STD))])
    assert_equal(Recipe.from_transforms(transform), transform)
    for mean in ("abc", ["0.5"] * 3, None, [10**400] * 3, [1j, 0, 0], [], MEAN[:2]):
        transform = v1.Compose([*steps, v1.Normalize(mean, 1)])
        with pytest.raises(Exception):  # noqa: B017  # torchvision raises many types
            transform(Image.new("RGB", (50, 50)))
        with pytest.raises(RecipeError, match="step Normalize: mean is neither a finite number"):
            Recipe.from_transforms(transform)
    shaped = v1.Normalize(torch.tensor(MEAN).view(3, 1, 1), 1)
    with pytest.raises(RecipeError, match="step Normalize: mean is neither"):
        Recipe.from_transforms(v1.Compose([*steps, shaped]))


def test_the_types_of_sizes(torchvision: Any) -> None:
    v1, v2 = torchvision.transforms, libraries.load("torchvision.transforms.v2")
    for kind in (v1, v2):
        for size, crop in (
            ([40], (32,)),
            ((np.int64(40), np.int32(33)), np.array([31, 32])),
            (range(40, 42), np.int64(45)),
        ):
            transform = v1.Compose([kind.Resize(size), kind.CenterCrop(crop), v1.ToTensor()])
            assert_equal(Recipe.from_transforms(transform), transform, SIZES[:3])
        for crop in ("40", (40.0, 40.0), -3):
            transform = v1.Compose([kind.CenterCrop(crop), v1.ToTensor()])
            with pytest.raises(RecipeError, match=r"crop\.size"):
                Recipe.from_transforms(transform)


def test_the_filters_of_resize(torchvision: Any) -> None:
    """v1 takes torchvision's enum and Pillow's numbers; v2 also takes texts."""
    v1, v2 = torchvision.transforms, libraries.load("torchvision.transforms.v2")

    def transform(resize: Any) -> Any:
        return v1.Compose([resize, v1.CenterCrop(32), v1.ToTensor()])

    texts = [v2.Resize(40, interpolation=text) for text in ("nearest-exact", "bicubic", "box")]
    filters = (*range(6), Image.Resampling.LANCZOS, *v1.InterpolationMode)
    others = [kind.Resize(40, interpolation=filter) for kind in (v1, v2) for filter in filters]
    for resize in (*texts, *others):
        one = transform(resize)
        assert_equal(Recipe.from_transforms(one), one, SIZES[:2])
    for resize in (v1.Resize(40, "bicubic"), v2.Resize(40, interpolation=6)):
        with pytest.raises((TypeError, KeyError)):
            transform(resize)(Image.new("RGB", (50, 50)))
        with pytest.raises(RecipeError, match="step Resize: the interpolation is no"):
            Recipe.from_transforms(transform(resize))


def torch_float() -> Any:
    import torch

    return torch.float32


def test_what_a_recipe_cannot_say_is_named(torchvision: Any) -> None:
    v1, v2 = torchvision.transforms, libraries.load("torchvision.transforms.v2")
    crop, tensor = v1.CenterCrop(64), v1.ToTensor()
    cases = [
        ([v1.RandomResizedCrop(64), tensor], "step RandomResizedCrop: draws at random"),
        ([v2.RandomHorizontalFlip(), tensor], "step RandomHorizontalFlip: draws at random"),
        ([v1.ColorJitter(), tensor], "step ColorJitter: draws at random"),
        ([tensor, v1.Resize(64), crop], "step Resize: resizes a tensor"),
        ([v2.ToImage(), v2.Resize(64), crop], "step Resize: resizes a tensor"),
        ([v1.Resize(64, max_size=99), crop, tensor], "step Resize: max_size"),
        ([crop, v1.Resize(64), tensor], "step Resize: a recipe resizes once, before the crop"),
        ([v1.Grayscale(3), crop, tensor], "step Grayscale: recipes have nothing"),
        ([v1.Lambda(lambda x: x), crop, tensor], "step Lambda: recipes have nothing"),
        ([lambda x: x, crop, tensor], "step <lambda>: not a transform of torchvision"),
        ([v1.Resize(64), tensor], "sizes vary"),
        ([crop, v2.ToDtype(torch_float())], "step ToDtype: has no effect on a PIL image"),
        ([crop], "makes no tensor"),
        ([crop, tensor, v1.Normalize([0.5] * 2, 1)], "step Normalize: mean is neither"),
        ([v1.Compose(iter([crop])), tensor], "step Compose: its transforms are not a list"),
        ([v1.Compose(None), tensor], "step Compose: its transforms are not a list"),
        ([crop, v1.PILToTensor(), v1.Normalize(MEAN, STD)], "step Normalize: needs a float tensor"),
    ]
    for steps, message in cases:
        with pytest.raises(RecipeError) as error:
            from_transforms(v1.Compose(steps))
        assert message in str(error.value)
    endless = v1.Compose([])
    endless.transforms.append(endless)
    with pytest.raises(RecipeError, match="nested too deeply"):
        from_transforms(endless)


def test_the_users_own_function(
    torchvision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_15.py").write_text(
        "from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor\n"
        "def evaluation():\n"
        "    return Compose([Resize(40), CenterCrop(32), ToTensor()])\n"
        "fixed = evaluation()\n"
        "def broken():\n"
        "    raise KeyError('no\\nsuch')\n"
        "def quits():\n"
        "    raise SystemExit(0)\n"
        "class Odd:\n"
        "    def __getattr__(self, name):\n"
        "        raise KeyError(name)\n"
        "odd = Odd()\n"
        "old = CenterCrop(32)\n"
        "del old.size\n"
    )
    (tmp_path / "quits_15.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("evaluation", "fixed"):
        recipe = load_recipe(f"mine_15:{name}")
        assert (recipe.resize_size, recipe.size) == ((40, 40), (32, 32))
    with pytest.raises(RecipeError, match=r"mine_15:broken: KeyError: 'no\\nsuch'"):
        load_recipe("mine_15:broken")
    for name in ("mine_15:quits", "quits_15:x"):  # the run must not end as if all were done
        with pytest.raises(RecipeError, match=f"{name}: SystemExit: 0"):
            load_recipe(name)
    with pytest.raises(RecipeError, match="mine_15:odd: step Odd: not a transform of torchvision"):
        load_recipe("mine_15:odd")
    with pytest.raises(RecipeError, match="step CenterCrop: its attributes cannot be read: Attr"):
        load_recipe("mine_15:old")
    with pytest.raises(RecipeError, match="no module no_such_module in this folder"):
        load_recipe("no_such_module:x")


# ---- Hugging Face ------------------------------------------------------------------------


def processor(folder: Path, kind: str, **values: Any) -> str:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": kind, **values}))
    return str(path)


def resized(image: Image.Image, height: int, width: int, filter: int) -> Any:
    return np.asarray(image.resize((width, height), filter))


def test_the_arithmetic_of_efficientnet(tmp_path: Path) -> None:
    """Rescaled in float64, then 1 and the mean subtracted, then divided twice: all in float32."""
    mean, std = [0.485, 0.456, 0.406], [0.47853944, 0.4732864, 0.47434163]
    path = processor(
        tmp_path,
        "EfficientNetImageProcessor",
        size={"height": 61, "width": 50},
        resample=0,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        image_mean=mean,
        image_std=std,
    )

    def wanted(image: Image.Image) -> Any:
        x = (resized(image, 61, 50, 0).astype(np.float64) * (1 / 127.5)).astype(np.float32)
        x = x - np.float32(1) - np.array(mean, np.float32)
        return (x / np.array(std, np.float32) / np.array(std, np.float32)).transpose(2, 0, 1)

    assert_equal(load_recipe(path), wanted)


@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize("kind", ["ViTImageProcessor", "EfficientNetImageProcessor"])
@pytest.mark.parametrize(
    "values",
    [
        {"do_rescale": None},
        {"do_normalize": None, "image_mean": None},
        {"do_center_crop": None, "crop_size": None, "do_pad": None},
        {"rescale_offset": True},
        {"rescale_offset": None, "include_top": None},
        {"include_top": True},
        {"do_flip_channel_order": True},
        {"image_mean": None},
        {"size": None},
        {"resample": None},
        {"rescale_factor": None},
    ],
)
def test_nulls_and_keys_of_other_classes(tmp_path: Path, kind: str, values: dict[str, Any]) -> None:
    """What transformers refuses is refused; else the tensors are its own."""
    libraries.load("transformers")
    path = processor(tmp_path, kind, **values)
    image = Image.open(io.BytesIO(jpegs.jpeg(90, 301, 1))).convert("RGB")
    transform = own_transform(kind, json.loads(Path(path).read_text()))
    try:
        transform(image)
    except (ValueError, TypeError):
        with pytest.raises(RecipeError):
            load_recipe(path)
    else:
        assert_equal(load_recipe(path), transform)


@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize(
    "kind", ["ViTImageProcessor", "CLIPImageProcessor", "PoolFormerImageProcessor"]
)
@pytest.mark.parametrize(
    "values",
    [
        {"default_to_square": True},
        {"default_to_square": False},
        {"default_to_square": None},
        {"size": {"height": 40, "width": 40, "shortest_edge": None}},
        {"size": {"height": None, "width": None, "shortest_edge": 40}},
        {"size": {"width": 45, "height": 40}},
        {"size": [40, 45]},
    ],
)
def test_sizes_as_transformers_reads_them(
    tmp_path: Path, kind: str, values: dict[str, Any]
) -> None:
    libraries.load("transformers")
    size = {"size": 40, "do_center_crop": True, "crop_size": 38, "crop_pct": None}
    path = processor(tmp_path, kind, **{**size, **values})
    try:
        transform = own_transform(kind, json.loads(Path(path).read_text()))
    except ValueError:
        with pytest.raises(RecipeError, match="size has"):
            load_recipe(path)
    else:
        assert_equal(load_recipe(path), transform)


def test_the_configuration_holds_what_no_recipe_holds(tmp_path: Path) -> None:
    one = importers.load(processor(tmp_path, "ViTImageProcessor"))
    other = importers.load(processor(tmp_path, "ViTImageProcessor", device="cpu"))
    assert one.recipe.digest == other.recipe.digest
    assert one.configuration != other.configuration


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (
            b'\xef\xbb\xbf{"image_processor_type": "ViTImageProcessor"}',
            "not JSON: Unexpected UTF-8",
        ),
        ('{"image_processor_type": "ViTImageProcessor"}'.encode("utf-16"), "not JSON"),
        (b'{"image_processor_type": "ViTImageProcessor", "x": "\xff"}', "not JSON"),
        (b'{"image_processor_type": "ViTImageProcessor", "image_mean": NaN}', "finite numbers"),
        (b'{"image_processor_type": ["ViTImageProcessor"]}', "no text 'image_processor_type'"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b" " * 10_000_001, "cannot be read"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as error:
        load_recipe(str(path))
    assert message in str(error.value) and str(path) in str(error.value)


def test_two_files_of_a_folder(tmp_path: Path) -> None:
    """transformers 5 prefers the one, transformers 4 the other."""
    own = tmp_path / "preprocessor_config.json"
    shared = tmp_path / "processor_config.json"
    config = {"image_processor_type": "ViTImageProcessor", "size": 40}
    other = {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 40, "width": 40}}
    shared.write_text(json.dumps({"image_processor": other, "processor_class": "X"}))
    assert load_recipe(f"hf:{tmp_path}").size == (40, 40)
    own.write_text(json.dumps(config))
    assert load_recipe(f"hf:{tmp_path}").size == (40, 40)
    own.write_text(json.dumps({**config, "size": 41}))
    with pytest.raises(
        RecipeError, match=r"preprocessor_config.json and processor_config.json dif"
    ):
        load_recipe(f"hf:{tmp_path}")
    assert (load_recipe(str(own)).size, load_recipe(str(shared)).size) == ((41, 41), (40, 40))
    shared.write_text(json.dumps({"processor_class": "X"}))
    assert load_recipe(f"hf:{tmp_path}").size == (41, 41)
    shared.write_text(json.dumps({"image_processor": 3}))
    with pytest.raises(RecipeError, match="image_processor is not a table"):
        load_recipe(f"hf:{tmp_path}")


def test_a_null_is_no_missing_key(tmp_path: Path) -> None:
    recipe = load_recipe(processor(tmp_path, "ViTImageProcessor", do_normalize=None, size=40))
    wanted = lambda image: resized(image, 40, 40, 2).transpose(2, 0, 1) / 255  # noqa: E731
    assert_equal(recipe, lambda image: wanted(image).astype(np.float32))
    foreign = {"rescale_offset": True, "include_top": True, "do_flip_channel_order": True}
    plain = load_recipe(processor(tmp_path, "ViTImageProcessor"))
    assert load_recipe(processor(tmp_path, "ViTImageProcessor", **foreign)) == plain
    with pytest.raises(RecipeError, match="image_std is null; it is needed"):
        load_recipe(processor(tmp_path, "ViTImageProcessor", image_std=None))


@pytest.mark.parametrize("name", ["m\U0001f600", 'm\x7f\t"\\', "nu\udcff"])
def test_a_saved_recipe_can_be_read(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(processor(tmp_path, "ViTImageProcessor"))
    read = parse_recipe(to_toml(replace(recipe, summary=name)), "saved")
    assert read.summary == name.replace("\udcff", "?")


def test_the_sizes_of_convnext_and_the_channels_of_mobilevit(tmp_path: Path) -> None:
    def cropped(image: Image.Image, side: int, crop: int) -> Any:
        short = min(image.size)
        x = resized(image, side * image.height // short, side * image.width // short, 3)
        top, left = (x.shape[0] - crop) // 2, (x.shape[1] - crop) // 2
        padded = np.zeros((crop, crop, 3), np.uint8)
        rows, columns = slice(max(top, 0), top + crop), slice(max(left, 0), left + crop)
        part = x[rows, columns]
        y, x0 = max(-top, 0), max(-left, 0)
        padded[y : y + part.shape[0], x0 : x0 + part.shape[1]] = part
        return padded.transpose(2, 0, 1).astype(np.float32) / np.float32(255)

    size = {"shortest_edge": 51}
    path = processor(tmp_path, "ConvNextFeatureExtractor", size=size, do_normalize=False)
    assert_equal(load_recipe(path), lambda image: cropped(image, 58, 51))  # int(51 / 0.875)
    path = processor(tmp_path, "ConvNextImageProcessor", size=384, do_normalize=False)
    wide = {"size": (384, 384), "resize": "exact", "crop": None}
    recipe = load_recipe(path)
    assert {key: getattr(recipe, key) for key in wide} == wide
    path = processor(tmp_path, "MobileViTImageProcessor", size=40, crop_size=51)
    assert_equal(load_recipe(path), lambda image: cropped(image, 40, 51)[::-1])
    recipe = load_recipe(processor(tmp_path, "LevitImageProcessor"))
    assert (recipe.resize_size, recipe.size) == ((256, 256), (224, 224))
    recipe = load_recipe(processor(tmp_path, "PoolFormerImageProcessor", crop_pct=0.95))
    assert (recipe.resize_size, recipe.size) == ((235, 235), (224, 224))


def test_a_folder_of_a_model(tmp_path: Path) -> None:
    processor(tmp_path, "ViTImageProcessorFast", size=48, do_normalize=False, do_rescale=False)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b"}}))
    imported = importers.load(f"hf:{tmp_path}")
    recipe = imported.recipe
    assert (recipe.name, recipe.classes, recipe.dtype) == (tmp_path.name, 2, "uint8")
    assert "names ViTImageProcessorFast; zoofast computes what ViTImageProcessor" in imported.note
    assert_equal(recipe, lambda image: resized(image, 48, 48, 2).transpose(2, 0, 1))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(RecipeError, match="no text 'architecture'"):
        load_recipe(f"hf:{tmp_path}")
    written(tmp_path)
    assert load_recipe(f"hf:{tmp_path}").resize_size == (67, 67)  # a model of timm
    with pytest.raises(RecipeError, match="there is no folder"):
        load_recipe("hf:google/vit-base-patch16-224")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("DonutImageProcessor", {}, "zoofast knows ViTImageProcessor, DeiT"),
        ("ViTImageProcesor", {}, "did you mean 'ViTImageProcessor'"),
        ("ViTImageProcessor", {"resample": 9}, "resample is not one"),
        ("ViTImageProcessor", {"resample": True}, "resample is not one"),
        ("ViTImageProcessor", {"do_resize": "no"}, "do_resize is neither"),
        ("ViTImageProcessor", {"size": {"shortest_edge": 9, "longest_edge": 9}}, "size has short"),
        ("ViTImageProcessor", {"size": {"shortest_edge": 9}}, "sizes vary"),
        ("ViTImageProcessor", {"size": 1e9}, "size is not a size"),
        ("ViTImageProcessor", {"size": 10**9}, "size is not of 1 to"),
        ("ViTImageProcessor", {"rescale_factor": 0}, "rescale_factor is not a number"),
        ("ViTImageProcessor", {"image_std": [0, 1, 1]}, "normalize.std"),
        ("ViTImageProcessor", {"do_pad": True}, "do_pad"),
        ("ConvNextImageProcessor", {"size": [9, 9]}, "needs 'shortest_edge'"),
        ("ConvNextImageProcessor", {"size": 9, "do_center_crop": True, "crop_size": 9}, "once"),
        ("CLIPImageProcessor", {"crop_size": {"shortest_edge": 9}}, "crop_size has no height"),
    ],
)
def test_a_wrong_preprocessor_config_is_one_line(
    tmp_path: Path, kind: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(processor(tmp_path, kind, **values))
    assert message in str(error.value) and "\n" not in str(error.value)


# ---- the first use --------------------------------------------------------------------------


class StandIn:
    """A library whose transform is the slow reference plus `error`; it counts its images."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.error, self.images = recipe, 0.0, 0
        self.configuration: str | None = "one"
        self.refused: tuple[int, int] | None = None  # size of an image

    def __call__(self, image: Image.Image) -> Any:
        self.images += 1
        if image.size == self.refused:
            raise ZeroDivisionError(f"{image.size}\nof many lines")
        return reference.prepare_image(image, self.recipe) + np.float32(self.error)

    def imported(self) -> Imported:
        return Imported(
            self.recipe, "a stand-in", ("numpy",), lambda: self, configuration=self.configuration
        )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(first_use, "_proven", set())
    return StandIn(timm_importer.from_config(CONFIG["pretrained_cfg"], "resnet18", False).recipe)


def test_the_first_use_compares_once(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {**folders.good_files(7), **folders.BAD_FILES}
    images = folders.write(tmp_path / "in", files)

    def compare() -> Any:
        with open_source(str(images)) as source:
            return first_use.check_first_use(stand_in.imported(), source, source.items)

    stand_in.error = 1.0
    with pytest.raises(RecipeError) as difference:
        compare()
    assert "5 of 5 images differ from a stand-in: img0000: " in str(difference.value)
    stand_in.error, stand_in.images = 0.0, 0
    checked = compare()
    assert checked is not None and (checked.images, checked.differing) == (5, [])
    assert stand_in.images == 5
    assert compare() is None
    first_use._proven.clear()  # as in the next process
    assert compare() is None and stand_in.images == 5


def test_another_configuration_is_compared(stand_in: StandIn, tmp_path: Path) -> None:
    """Also where zoofast reads the same recipe from it; of code there is none to remember."""
    images = folders.write(tmp_path / "in", folders.good_files(2))
    with open_source(str(images)) as source:

        def compare(imported: Imported) -> Any:
            return first_use.check_first_use(imported, source, source.items)

        assert compare(stand_in.imported()) is not None
        assert compare(stand_in.imported()) is None
        for configuration in ("two", None):
            stand_in.configuration, stand_in.error = configuration, 1.0
            with pytest.raises(RecipeError, match="2 of 2 images differ"):
                compare(stand_in.imported())
            stand_in.error = 0.0
            imported = stand_in.imported()
            assert compare(imported) is not None
            assert compare(imported) is None
        assert compare(stand_in.imported()) is not None


def test_a_hooked_step_is_compared(stand_in: StandIn, torchvision: Any, tmp_path: Path) -> None:
    """Its class and attributes are those of the step that was proven before."""
    v1 = torchvision.transforms
    transform = v1.Compose([v1.CenterCrop(32), v1.ToTensor(), v1.Normalize(MEAN, STD)])
    images = folders.write(tmp_path / "in", folders.good_files(2))
    with open_source(str(images)) as source:
        Loader(source, Recipe.from_transforms(transform)).close()
        transform.transforms[-1].register_forward_hook(lambda step, input, output: -output)
        with pytest.raises(RecipeError, match="2 of 2 images differ from the transform"):
            Loader(source, Recipe.from_transforms(transform))


def test_an_image_that_the_library_alone_refuses(stand_in: StandIn, tmp_path: Path) -> None:
    files = {f"{size}.jpg": jpegs.jpeg(size, 70) for size in (50, 60)}
    images = folders.write(tmp_path / "in", files)
    stand_in.refused = (70, 60)
    with open_source(str(images)) as source:
        with pytest.raises(RecipeError) as error:
            first_use.check_first_use(stand_in.imported(), source, source.items)
        words = "60: only zoofast makes a tensor; the transform raises ZeroDivisionError: (70, 60)"
        assert words in str(error.value) and "1 of 2 images differ" in str(error.value)
        assert "\n" not in str(error.value)
        # Neither makes a tensor of the image: the resize is none, and the tensor has another size.
        stand_in.recipe = replace(
            stand_in.recipe, resize="none", resize_size=(0, 0), crop=None, size=(50, 70)
        )
        checked = first_use.check_first_use(stand_in.imported(), source, source.items)
        assert checked is not None and (checked.images, checked.differing) == (1, [])


def test_a_library_that_refuses_the_configuration(stand_in: StandIn, tmp_path: Path) -> None:
    def make() -> Any:
        raise AttributeError("no such\nkey")

    images = folders.write(tmp_path / "in", folders.good_files(1))
    imported = replace(stand_in.imported(), make_transform=make)
    with (
        open_source(str(images)) as source,
        pytest.raises(RecipeError, match=r"a stand-in cannot be made: AttributeError: no such$"),
    ):
        first_use.check_first_use(imported, source, source.items)


def test_what_prepares_images_compares_first(stand_in: StandIn, tmp_path: Path) -> None:
    images = folders.write(tmp_path / "in", folders.good_files(6))
    recipe = stand_in.imported().provable_recipe.with_output("uint8", "NHWC")
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert recipe.digest == stand_in.recipe.with_output("uint8", "NHWC").digest
    options = PrepOptions(format="pack")
    stand_in.error = 1.0
    with open_source(str(images)) as source:
        with pytest.raises(RecipeError, match="5 of 5 images differ"):
            Loader(source, recipe)
        with pytest.raises(RecipeError, match="5 of 5 images differ"):
            prepare_folder(source, tmp_path / "out", recipe, options)
        stand_in.error, stand_in.images = 0.0, 0
        with Loader(source, recipe) as loader:
            assert sum(len(batch.names) for batch in loader) == 6
        assert prepare_folder(source, tmp_path / "out", recipe, options).prepared == 6
    assert stand_in.images == 5
