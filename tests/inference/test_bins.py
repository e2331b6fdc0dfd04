"""`zoofast infer` and `zoofast score` of bins that are packed and named as guides do it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support import folders, oracle
from zoofast import load_recipe
from zoofast.cli import main
from zoofast.errors import OutputError
from zoofast.inference.inputs import images_of_samples, list_inputs, recipe_of

IMAGES, CLASSES, BAD = 10, 7, 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images, one of them broken; labels of all; a model of 7 classes; a recipe."""
    folder = tmp_path_factory.mktemp("data")
    files = folders.good_files(IMAGES)
    files[f"img{BAD:04d}.JPEG"] = b"no image"
    folders.write(folder / "val", files)
    labels = [f"img{i:04d}.JPEG {i * 3 % CLASSES}\n" for i in range(IMAGES)]
    (folder / "labels.txt").write_text("".join(labels))
    folders.recipe_file(folder)
    weights = np.random.default_rng(1).standard_normal((3, CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["class"]),
        ],
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("class", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 11)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "m.onnx")
    return folder


def prep(data: Path, out: Path, *options: str) -> int:
    recipe = ["--recipe", str(data / "recipe.toml"), "--quiet"]
    return main(["prep", str(data / "val"), str(out), *recipe, *options])


def infer(data: Path, bins: Path, to: Path, *options: str) -> int:
    where = ["--input", str(bins), "--output", str(to.parent), "--output_dirname", to.name]
    return main(["infer", "--model", str(data / "m.onnx"), *where, *options])


def score(data: Path, results: Path, *labels: str) -> dict[str, Any]:
    """The score without what depends on how the results lie in files."""
    to = results.with_name("score.json")
    given = labels or (str(data / "labels.txt"),)
    assert main(["score", str(results), *given, "--json", str(to), "--quiet"]) == 1  # img0005
    content: dict[str, Any] = json.loads(to.read_text())
    return content


def compared(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in ("results", "versions")}


@pytest.fixture(scope="module")
def plain_results(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one image a bin, named after the image."""
    folder = tmp_path_factory.mktemp("plain")
    assert prep(data, folder / "bins") == 1
    assert infer(data, folder / "bins", folder / "r", "--batchsize", "2", "--outfmt", "BIN") == 0
    return folder / "r"


@pytest.fixture(scope="module")
def plain(data: Path, plain_results: Path) -> dict[str, Any]:
    """Their score."""
    content = score(data, plain_results)
    assert content["images"] == IMAGES - 1
    return content


PACKINGS = pytest.mark.parametrize(
    ("packing", "batch"),
    [
        (["--images-per-bin", "4", "--bin-names", "in_{i:03d}.bin"], "8"),
        (["--images-per-bin", "4", "--bin-names", "in_{i:03d}.bin"], "4"),
        (["--bin-names", "{i}.bin"], "2"),
        (["--bin-names", "{folder}/{name}.bin"], "2"),
        (["--bin-names", "{i}.bin", "--mirror"], "2"),
    ],
    ids=["two bins a batch", "one bin a batch", "numbered", "folders", "mirrored"],
)


@PACKINGS
@pytest.mark.parametrize("outfmt", ["TXT", "BIN", "NPY"])
def test_the_score_is_that_of_plain_bins(
    data: Path,
    tmp_path: Path,
    plain: dict[str, Any],
    packing: list[str],
    batch: str,
    outfmt: str,
) -> None:
    """Also with an image that could not be prepared: the rows of the others do not shift."""
    assert prep(data, tmp_path / "bins", *packing) == 1
    options = ["--batchsize", batch, "--outfmt", outfmt]
    assert infer(data, tmp_path / "bins", tmp_path / "r", *options) == 0
    made = score(data, tmp_path / "r")
    if outfmt == "TXT":  # six digits behind the point
        assert made["accuracy"] == plain["accuracy"]
        assert made["by_class"] == plain["by_class"]
        assert made["problems"] == plain["problems"]
    else:
        assert compared(made) == compared(plain)


@PACKINGS
@pytest.mark.parametrize("outfmt", ["TXT", "BIN", "NPY"])
def test_their_logits_are_compared_with_those_of_plain_bins(
    data: Path,
    tmp_path: Path,
    plain_results: Path,
    packing: list[str],
    batch: str,
    outfmt: str,
) -> None:
    prep(data, tmp_path / "bins", *packing)
    infer(data, tmp_path / "bins", tmp_path / "r", "--batchsize", batch, "--outfmt", outfmt)
    out, limit = tmp_path / "c.json", "1e-6" if outfmt == "TXT" else "0"
    options = ["--max-difference", limit, "--json", str(out)]
    sides = [str(plain_results), str(tmp_path / "r")]
    for a, b in (sides, sides[::-1]):
        assert main(["compare", a, b, *options]) == 0
        assert json.loads(out.read_text())["images"] == IMAGES - 1
    assert main(["compare", *sides, str(data / "labels.txt"), *options]) == 0


def test_damaged_results_of_several_images_are_not_compared(
    data: Path, tmp_path: Path, plain_results: Path
) -> None:
    prep(data, tmp_path / "bins", "--images-per-bin", "4", "--bin-names", "in_{i:03d}.bin")
    infer(data, tmp_path / "bins", tmp_path / "r", "--batchsize", "4", "--outfmt", "BIN")
    file, out = tmp_path / "r" / "in_000_0.bin", tmp_path / "c.json"
    whole = file.read_bytes()
    for damaged, why in (
        (whole[:-8], "its 104 bytes are cut short"),
        (whole[:-1], "its 111 bytes are cut short"),
        (whole + whole[:8], "has 30 values, by infer's record 28"),
        (b"", "no number in its first row"),
    ):
        file.write_bytes(damaged)
        assert main(["compare", str(plain_results), str(tmp_path / "r"), "--json", str(out)]) == 1
        content = json.loads(out.read_text())
        assert content["failed"] == {f"img{i:04d}": f"{file}: {why}" for i in range(4)}
        assert content["images"] == IMAGES - 1 - 4


def test_bins_in_the_order_of_the_images(data: Path, tmp_path: Path) -> None:
    names = ["--bin-names", "{i}.bin", "--mirror"]
    prep(data, tmp_path / "bins", *names)
    files = [Path(file).name for file in list_inputs(str(tmp_path / "bins"))]
    assert files[:4] == ["0.bin", "0_flip.bin", "1.bin", "1_flip.bin"]
    images = images_of_samples(str(tmp_path / "bins"))
    assert (images["0"], images["0_flip"], images[f"{BAD}"]) == (("img0000",), ("",), ("",))


def test_labels_of_the_bins(data: Path, tmp_path: Path, plain: dict[str, Any]) -> None:
    """A guide's side file names the bins: `img0 3`."""
    side = tmp_path / "img_label.txt"
    labels = ["--labels", str(data / "labels.txt"), "--side-file", str(side)]
    prep(data, tmp_path / "bins", "--bin-names", "bin{i}.bin", *labels)
    assert side.read_text().splitlines()[1] == "bin1 3"
    infer(data, tmp_path / "bins", tmp_path / "r", "--batchsize", "2", "--outfmt", "BIN")
    made = score(data, tmp_path / "r", str(side))
    assert (made["images"], made["accuracy"]) == (plain["images"], plain["accuracy"])
    assert made["problems"]["no_result"] == [f"bin{BAD}"]


def test_a_damaged_result_is_named(data: Path, tmp_path: Path, plain: dict[str, Any]) -> None:
    packing = ["--images-per-bin", "4", "--bin-names", "in_{i:03d}.bin"]
    prep(data, tmp_path / "bins", *packing)
    infer(data, tmp_path / "bins", tmp_path / "r", "--batchsize", "4", "--outfmt", "BIN")
    cut = tmp_path / "r" / "in_000_0.bin"
    whole = cut.read_bytes()
    for nbytes in (len(whole) - 8, len(whole) // 4):  # the second: as many values as one image
        cut.write_bytes(whole[:nbytes])
        made = score(data, tmp_path / "r")
        assert made["images"] == plain["images"] - 4
        assert made["problems"]["unreadable"] == {
            "in_000_0.bin": f"its {nbytes} bytes are cut short"
        }
    cut.write_bytes(whole + whole[:1])
    made = score(data, tmp_path / "r")
    assert made["problems"]["unreadable"] == {
        "in_000_0.bin": f"its {len(whole) + 1} bytes are cut short"
    }
    cut.write_bytes(whole + whole[:8])
    made = score(data, tmp_path / "r")
    assert made["images"] == plain["images"] - 4
    assert made["problems"]["wrong_length"] == {"in_000_0.bin": 30}
    cut.write_bytes(whole)
    (tmp_path / "r" / "in_001_0.bin").write_bytes(b"")
    made = score(data, tmp_path / "r")
    assert made["images"] == 6
    assert list(made["problems"]["unreadable"]) == ["in_001_0.bin"]


def test_a_batch_that_bins_do_not_divide(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prep(data, tmp_path / "bins", "--images-per-bin", "4", "--bin-names", "{i}.bin")
    assert infer(data, tmp_path / "bins", tmp_path / "r", "--batchsize", "2") == 2
    assert "give --batchsize 4" in capsys.readouterr().err


def test_results_of_other_bins_are_not_resumed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bins have the same names, and hold other images."""
    packing = ["--images-per-bin", "4", "--bin-names", "{i}.bin"]
    options = ["--batchsize", "4", "--outfmt", "BIN"]
    prep(data, tmp_path / "bins", *packing)
    infer(data, tmp_path / "bins", tmp_path / "r", *options)
    assert infer(data, tmp_path / "bins", tmp_path / "r", *options, "--resume") == 0
    prep(data, tmp_path / "bins", *packing, "--overwrite", "--limit", "9")
    assert infer(data, tmp_path / "bins", tmp_path / "r", *options, "--resume") == 2
    assert "bins of other images" in capsys.readouterr().err


@pytest.mark.parametrize("fmt", ["bin", "pack"])
def test_results_of_another_recipe_are_not_resumed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fmt: str
) -> None:
    """The tensors have the same names and the same size."""
    bins, results = tmp_path / "bins", tmp_path / "r"
    where = bins / "pack.npy" if fmt == "pack" else bins
    prep(data, bins, "--format", fmt)
    assert infer(data, where, results) == 0
    assert infer(data, where, results, "--resume") == 0
    recipe = Path(folders.recipe_file(tmp_path, oracle.Spec(size=(64, 64), crop=(32, 32))))
    images = [str(data / "val"), str(bins), "--recipe", str(recipe), "--quiet"]
    main(["prep", *images, "--format", fmt, "--overwrite"])
    assert infer(data, where, results, "--resume") == 2
    assert "r: holds a run of another recipe (" in capsys.readouterr().err
    assert infer(data, where, results) == 0


def test_the_recipes_of_several_folders(data: Path, tmp_path: Path) -> None:
    prep(data, tmp_path / "a")
    (tmp_path / "b").mkdir()
    digest = load_recipe(str(data / "recipe.toml")).digest
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert recipe_of(a) == digest
    assert recipe_of(f"{a},{b}") == f"{digest},none"
    assert recipe_of(f"{a}/img0001.bin,{a}/img0002.bin") == digest
    assert recipe_of(b) is None


def test_a_damaged_manifest(tmp_path: Path) -> None:
    (tmp_path / "zoofast-prep.json").write_text("{}")
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(OutputError, match="not a manifest"):
        list_inputs(str(tmp_path))
