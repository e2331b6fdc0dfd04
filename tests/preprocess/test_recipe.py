"""Recipes: those of the package, a user's own, and each kind of mistake in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import oracle
from zoofast.errors import RecipeError, ZoofastError
from zoofast.preprocess.recipe_file import load_recipe, parse_recipe, recipe_names

GOOD = oracle.Spec().toml()


def changed(old: str, new: str, text: str = GOOD) -> str:
    assert old in text
    return text.replace(old, new, 1)


def without(line: str, text: str = GOOD) -> str:
    return changed(line + "\n", "", text)


def test_a_users_own_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)
    mine = load_recipe(str(file))
    assert (mine.name, mine.resize, mine.resize_size, mine.crop) == (
        "test",
        "short",
        (32, 32),
        (24, 24),
    )
    assert mine.shape == (3, 24, 24)
    assert mine.nbytes == 3 * 24 * 24 * 4
    assert mine.label_offset == 0
    assert mine.accuracy is None


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_are_named_after_their_files(name: str) -> None:
    loaded = load_recipe(name)
    assert loaded.name == name
    assert loaded.summary
    assert loaded.plan().nbytes == loaded.nbytes


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "input", "output", "classes", "offset"),
    [
        ("alexnet", (3, 224, 224), "float32", "actual_input_1", "output1", 1000, 0),
        ("resnet34", (3, 224, 224), "float32", "image", "class", 1000, 0),
        ("squeezenet1_1", (224, 224, 3), "uint8", "image", "class", 1000, 0),
        ("inceptionv4", (3, 299, 299), "float32", "image", "class", 1001, 1),
        ("nasnetalarge", (3, 331, 331), "float32", "image", "class", 1001, 1),
    ],
)
def test_what_the_guides_feed(
    name: str,
    shape: tuple[int, int, int],
    dtype: str,
    input: str,
    output: str,
    classes: int,
    offset: int,
) -> None:
    loaded = load_recipe(name)
    assert (loaded.shape, loaded.dtype) == (shape, dtype)
    assert (loaded.input_name, loaded.output_name) == (input, output)
    assert loaded.accuracy is not None
    assert (loaded.classes, loaded.label_offset) == (classes, offset)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # unknown
        (changed("rounding", "roundin"), ["crop.roundin", "'rounding'"]),
        (changed("mean", "means"), ["normalize.means", "'mean'"]),
        (changed("filter", "filtre"), ["resize.filtre", "'filter'"]),
        (changed("[crop]", "[crops]"), ["[crops]", "'crop'"]),
        (changed("name =", "nam ="), ["'nam'", "'name'"]),
        (changed("classes", "class_count"), ["model.class_count"]),
        (GOOD + "[colour]\nx = 1\n", ["[colour]"]),
        # missing
        (without('name = "test"'), ["'name' is missing"]),
        (without("size = 32"), ["'resize.size' is missing"]),
        (without('filter = "bilinear"'), ["'resize.filter' is missing"]),
        (without('mode = "short"'), ["'resize.mode' is missing"]),
        (without('rounding = "half-even"'), ["'crop.rounding' is missing"]),
        (without('dtype = "float32"'), ["'tensor.dtype' is missing"]),
        (without('scale = "0-1"'), ["'normalize.scale' is missing"]),
        (GOOD.split("[model]")[0], ["[model] is missing"]),
        ("name = 'x'\n", ["[resize] is missing"]),
        ("", ["missing"]),
        # values
        (changed('"bilinear"', '"bilinaer"'), ["resize.filter", "'bilinear'"]),
        (changed('"short"', '"shorter"'), ["resize.mode", "'short'"]),
        (changed('"half-even"', '"half_even"'), ["crop.rounding", "'half-even'"]),
        (changed('"float32"', '"float64"'), ["tensor.dtype", "float32, float16, uint8"]),
        (changed('"bilinear"', '"bilinear"\nrounding = "up"'), ["resize.rounding", "half-up"]),
        (changed('"short"', '"exact"\nrounding = "down"'), ["resize.rounding", "'exact'"]),
        (changed("mean =", "precision = 'float8'\nmean ="), ["normalize.precision", "float64"]),
        (changed('"NCHW"', '"nchw"'), ["tensor.layout", "NCHW, NHWC"]),
        (changed('"RGB"', '"GBR"'), ["tensor.channels", "RGB, BGR"]),
        (changed('"0-1"', "2"), ["normalize.scale = 2", "0-1, 0-255"]),
        (changed('"0-1"', '"1"'), ["normalize.scale = '1'", "0-1, 0-255"]),
        (changed("size = 32", "size = 0"), ["resize.size = 0", "1 to 16384"]),
        (changed("size = 32", "size = -3"), ["resize.size = -3"]),
        (changed("size = 32", "size = 99999"), ["resize.size = 99999"]),
        (changed("size = 32", "size = 32.0"), ["resize.size = 32.0", "whole number"]),
        (changed("size = 32", "size = true"), ["resize.size = True", "whole number"]),
        (changed("size = 32", 'size = "32"'), ["resize.size = '32'"]),
        (changed("size = 32", "size = [32, 32]"), ["resize.size"]),
        (changed("size = [24, 24]", "size = [24]"), ["crop.size = [24]", "[height, width]"]),
        (changed("size = [24, 24]", "size = [24, 24, 3]"), ["crop.size"]),
        (changed("0.485, ", ""), ["normalize.mean", "three numbers"]),
        (changed("0.485", '"x"'), ["normalize.mean"]),
        (changed("0.485", "nan"), ["normalize.mean"]),
        (changed("0.485", "inf"), ["normalize.mean"]),
        (changed("0.485", "1" + "0" * 400), ["normalize.mean"]),
        (changed("0.229", "0"), ["normalize.std", "above 0"]),
        (changed("0.229", "-0.229"), ["normalize.std", "above 0"]),
        (changed("0.229", "1e-60"), ["normalize", "float32"]),
        (changed("classes = 1000", "classes = 0"), ["model.classes = 0", "1 or more"]),
        (changed("classes = 1000", "classes = 1000\nlabel_offset = -1"), ["model.label_offset"]),
        (changed("classes = 1000", "classes = 1000\ntop1 = 101"), ["model.top1", "percentage"]),
        (changed('input = "image"', 'input = ""'), ["model.input"]),
        (changed('name = "test"', "name = 3"), ["name = 3"]),
        # values that do not go together
        (changed('"float32"', '"uint8"'), ["tensor.dtype", "[aipp]"]),
        (changed("[normalize]", "[aipp]"), ["[aipp] needs tensor.dtype = 'uint8'"]),
        (changed("classes = 1000", "classes = 1000\nsize = 25"), ["model.size", "exceeds"]),
        (changed("[normalize]", "size = 30\n[normalize]"), ["tensor.size = [30, 30]"]),
        (
            without('rounding = "half-even"', without("size = [24, 24]", without("[crop]"))),
            ["'tensor.size' is missing"],
        ),
        (changed('"short"', '"none"'), ["resize.size", "none"]),
        # not TOML
        (GOOD + "[model]\n", ["not TOML"]),
        (GOOD + "what is this", ["not TOML"]),
        (changed("[crop]", "[[crop]]"), ["crop"]),
    ],
)
def test_mistakes_are_named(text: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "mine.toml")
    message = str(caught.value)
    assert message.startswith("mine.toml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_values_too_large_for_half_precision_are_named() -> None:
    """255 / 0.001 is beyond float16; the tensor would hold infinities."""
    text = changed('"0-1"', '"0-255"', GOOD).replace("0.229, 0.224, 0.225", "0.001, 0.001, 0.001")
    parse_recipe(text, "mine.toml")  # float32 holds it
    with pytest.raises(RecipeError, match=r"mine\.toml: .*float16"):
        parse_recipe(changed('"float32"', '"float16"', text), "mine.toml")
    with pytest.raises(RecipeError, match="float16"):
        parse_recipe(text, "mine.toml").with_output("float16")


@pytest.mark.parametrize("name", ["alexnett", "AlexNet", "squeezenet", "resnet"])
def test_unknown_names_name_the_nearest(name: str) -> None:
    with pytest.raises(RecipeError, match="did you mean") as caught:
        load_recipe(name)
    assert name in str(caught.value)
    assert "`zoofast models` lists" in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.toml: No such file"):
        load_recipe(str(tmp_path / "gone.toml"))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"binary\.toml"):
        load_recipe(str(binary))
    with pytest.raises(RecipeError, match="folder"):
        (tmp_path / "folder.toml").mkdir()
        load_recipe(str(tmp_path / "folder.toml"))


def test_every_recipe_error_is_a_zoofast_error() -> None:
    assert issubclass(RecipeError, ZoofastError)


# ---- digests ------------------------------------------------------------------

# Pinned: folders that users prepared must still be accepted by later versions.
DIGESTS = {
    "alexnet": "7561a76fa85474be",
    "inceptionv3": "b58f7d17bad8a996",
    "inceptionv4": "79e9cd79d23fa232",
    "inceptionv4_half_even": "442002a0a91d4b2a",
    "nasnetalarge": "1d8a8f24c00800cc",
    "resnet34": "fa93d891d81b52f0",
    "squeezenet1_1": "43f54f7d625b07a1",
    "squeezenet1_1_float32": "88aef3a5fd163f42",
}


def test_digests_are_stable() -> None:
    assert {name: load_recipe(name).digest for name in DIGESTS} == DIGESTS


def test_digest_ignores_names_comments_and_order() -> None:
    digest = parse_recipe(GOOD, "x").digest
    head, *tables = GOOD.split("[")
    shuffled = changed('"test"', '"other"', head) + 'summary = "x"  # hm\n'
    shuffled += "".join("[" + table for table in reversed(_tables(tables)))
    assert shuffled != GOOD
    assert parse_recipe(shuffled, "y").digest == digest


def _tables(pieces: list[str]) -> list[str]:
    """Joins pieces between brackets again: a list value is no table."""
    tables: list[str] = []
    for piece in pieces:
        if piece[0].isalpha():
            tables.append(piece)
        else:
            tables[-1] += "[" + piece
    return tables


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("size = 32", "size = 33"),
        ('"bilinear"', '"bicubic"'),
        ('"half-even"', '"truncate"'),
        ('"short"', '"height"'),
        ('"bilinear"', '"bilinear"\nrounding = "half-up"'),
        ("mean =", "precision = 'float64'\nmean ="),
        ("[24, 24]", "[24, 25]"),
        ('"float32"', '"float16"'),
        ('"NCHW"', '"NHWC"'),
        ('"RGB"', '"BGR"'),
        ("0.485", "0.4850001"),
        ("0.225", "0.226"),
        ('"0-1"', '"0-255"'),
        ('"image"', '"picture"'),
        ("classes = 1000", "classes = 1001"),
        ("classes = 1000", "classes = 1000\nlabel_offset = 1"),
    ],
)
def test_digest_sees_every_change(old: str, new: str) -> None:
    assert parse_recipe(changed(old, new), "x").digest != parse_recipe(GOOD, "x").digest


# ---- other outputs ------------------------------------------------------------


def test_uint8_leaves_the_normalization_to_the_device() -> None:
    given = load_recipe("alexnet")
    raw = given.with_output("uint8", "NHWC")
    assert raw.on_device == given.normalization
    assert raw.normalization.is_identity
    assert raw.plan().nbytes == given.nbytes // 4
    assert raw.with_output("float32", "NCHW") == given
    assert given.with_output() == given
    assert given.with_output("float32", "NCHW") is given


def test_unknown_outputs() -> None:
    with pytest.raises(RecipeError, match=r"dtype 'int8': one of float32, float16, uint8"):
        load_recipe("alexnet").with_output("int8")
    with pytest.raises(RecipeError, match="layout 'HWC': one of NCHW, NHWC"):
        load_recipe("alexnet").with_output(None, "HWC")


def test_normalization_is_one_float32_operation_after_the_other() -> None:
    """Not the same as multiplying by 1 / 255 or folding mean and deviation together."""
    table = load_recipe("alexnet").normalization.table()
    for value in range(256):
        for c in range(3):
            x = np.float32(value) / np.float32(255)
            x = (x - np.float32(oracle.IMAGENET[0][c])) / np.float32(oracle.IMAGENET[1][c])
            assert table[c, value] == x


def test_every_guide_of_the_catalogue_can_be_said() -> None:
    """A recipe of each kind that the other classification guides use."""
    kinds = [
        oracle.Spec(size=(256, 256), crop=(224, 224), filter="bicubic"),
        oracle.Spec(size=(256, 256), crop=(224, 224), rounding="truncate"),
        oracle.Spec(mode="exact", size=(256, 256), crop=(224, 224), rounding="truncate"),
        oracle.Spec(mode="exact", size=(384, 384), crop=None, filter="bicubic", dtype="uint8"),
        oracle.Spec(mode="exact", size=(256, 128), crop=None),
        oracle.Spec(mode="none", crop=None, out=(32, 32)),
        oracle.Spec(size=(342, 342), crop=(300, 300), channels="BGR"),
        oracle.Spec(size=(256, 256), crop=(224, 224), scale="0-255", channels="BGR"),
        oracle.Spec(size=(256, 256), crop=(224, 224), dtype="float16"),
        oracle.Spec(size=(256, 256), crop=(224, 224), filter="lanczos", dtype="uint8"),
    ]
    for kind in kinds:
        made = parse_recipe(kind.toml(), "kind")
        assert made.size == (kind.crop or kind.out or kind.size)
    larger = oracle.Spec(size=(256, 256), crop=(256, 256), dtype="uint8", layout="NHWC").toml()
    larger += "size = 224\n[aipp]\nscale = '0-1'\nmean = [0.5, 0.5, 0.5]\n"
    made = parse_recipe(larger, "larger")
    assert (made.size, made.input_size) == ((256, 256), (224, 224))
    assert made.on_device is not None
