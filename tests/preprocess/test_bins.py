"""Bins as guides pack them: which images each holds, names, side files, failures, resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import folders
from zoofast.errors import OutputError
from zoofast.preprocess import folder as prep
from zoofast.preprocess.bins import PLAIN, Packing
from zoofast.preprocess.folder import PrepOptions, PrepReport, prepare_folder
from zoofast.preprocess.manifest import MANIFEST, read_manifest
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sources import open_source

FILES = folders.good_files(10)
TENSORS = [folders.tensor(data, folders.SPEC) for data in FILES.values()]
ZEROS = np.zeros_like(TENSORS[0])
BROKEN = 5  # the image that some tests damage
BY_4 = Packing(4, "zero", "in_{i:03d}.bin")


@pytest.fixture(scope="module")
def chosen() -> Recipe:
    return parse_recipe(folders.SPEC.toml(), "test")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return folders.write(tmp_path / "val", FILES)


def damage(images: Path) -> None:
    (images / f"img{BROKEN:04d}.JPEG").write_bytes(b"no image")


def repair(images: Path) -> None:
    name = f"img{BROKEN:04d}.JPEG"
    (images / name).write_bytes(FILES[name])


def run(images: Path, out: Path, chosen: Recipe, packing: Packing, **options: Any) -> PrepReport:
    labels = {f"img{i:04d}": 100 + i for i in range(10)}
    with open_source(images) as source:
        chosen_options = PrepOptions(threads=2, packing=packing, **options)
        return prepare_folder(source, out, chosen, chosen_options, labels=labels)


def bins(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.bin*")}


def joined(*tensors: NDArray[Any]) -> bytes:
    return b"".join(tensor.tobytes() for tensor in tensors)


WHOLE = {
    "in_000.bin": joined(*TENSORS[0:4]),
    "in_001.bin": joined(*TENSORS[4:8]),
    "in_002.bin": joined(*TENSORS[8:], ZEROS, ZEROS),
}


def test_the_last_bin_is_filled_with_zeros(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    report = run(images, tmp_path / "out", chosen, BY_4, verify=10)
    assert (report.prepared, report.failures) == (10, [])
    assert report.verified is not None
    assert (report.verified.images, report.verified.equal) == (10, 10)
    assert bins(tmp_path / "out") == WHOLE
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest.rows == {
        "in_000.bin": ["img0000", "img0001", "img0002", "img0003"],
        "in_001.bin": ["img0004", "img0005", "img0006", "img0007"],
        "in_002.bin": ["img0008", "img0009", "", ""],
    }


def test_the_last_bin_is_left_out_by_name(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    report = run(images, tmp_path / "out", chosen, Packing(4, "drop", "in_{i:03d}.bin"))
    assert bins(tmp_path / "out") == {name: WHOLE[name] for name in ("in_000.bin", "in_001.bin")}
    assert [failure.name for failure in report.failures] == ["img0008", "img0009"]
    assert "would hold 2 of 4 images" in report.failures[0].reason


def test_an_image_that_fails_keeps_its_row(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    """The other rows do not shift, and the row is nobody's."""
    damage(images)
    report = run(images, tmp_path / "out", chosen, BY_4)
    assert [failure.name for failure in report.failures] == ["img0005"]
    second = joined(TENSORS[4], ZEROS, *TENSORS[6:8])
    assert bins(tmp_path / "out") == {**WHOLE, "in_001.bin": second}
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest.rows is not None
    assert manifest.rows["in_001.bin"] == ["img0004", "", "img0006", "img0007"]

    repair(images)
    again = run(images, tmp_path / "out", chosen, BY_4, resume=True)
    assert (again.prepared, again.resumed, again.failures) == (4, 6, [])
    assert bins(tmp_path / "out") == WHOLE


def test_a_bin_without_an_image_waits_for_the_manifest(
    images: Path, tmp_path: Path, chosen: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the manifest lists the failure: no bin whose zeros nobody knows of."""
    damage(images)
    write = prep.write_manifest

    def dies(folder: Path, content: dict[str, Any]) -> None:
        if content["failures"]:
            raise KeyboardInterrupt
        write(folder, content)

    out = tmp_path / "out"
    monkeypatch.setattr(prep, "write_manifest", dies)
    with pytest.raises(KeyboardInterrupt):
        run(images, out, chosen, BY_4)
    assert sorted(bins(out)) == ["in_000.bin", "in_001.bin.part", "in_002.bin"]
    monkeypatch.undo()
    repair(images)
    run(images, out, chosen, BY_4, resume=True)
    assert bins(out) == WHOLE


def test_resuming_makes_what_is_missing(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    out = tmp_path / "out"
    run(images, out, chosen, BY_4)
    (out / "in_000.bin").unlink()
    (out / "in_002.bin").write_bytes(b"cut short")
    again = run(images, out, chosen, BY_4, resume=True)
    assert (again.prepared, again.resumed) == (6, 4)
    assert bins(out) == WHOLE


@pytest.mark.parametrize(
    ("packing", "options", "words"),
    [
        (BY_4, {"limit": 9}, "hold other images"),
        (
            Packing(2, "zero", "in_{i:03d}.bin"),
            {},
            r"another packing of bins \(4 images a bin, in_",
        ),
        (Packing(), {}, r"now 1 image a bin, \{stem\}.bin, fill zero\)"),
    ],
)
def test_resuming_needs_the_same_bins(
    images: Path,
    tmp_path: Path,
    chosen: Recipe,
    packing: Packing,
    options: dict[str, Any],
    words: str,
) -> None:
    run(images, tmp_path / "out", chosen, BY_4)
    with pytest.raises(OutputError, match=words):
        run(images, tmp_path / "out", chosen, packing, resume=True, **options)
    assert bins(tmp_path / "out") == WHOLE


def test_an_image_less_in_the_source_is_not_a_resume(
    images: Path, tmp_path: Path, chosen: Recipe
) -> None:
    run(images, tmp_path / "out", chosen, BY_4)
    (images / "img0000.JPEG").unlink()
    with pytest.raises(OutputError, match="hold other images"):
        run(images, tmp_path / "out", chosen, BY_4, resume=True)


def test_overwriting_removes_the_bins_alone(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    out = tmp_path / "out"
    run(images, out, chosen, Packing(1, "zero", "{folder}/{i}.bin", True))
    assert len(bins(out)) == 20
    (out / "val" / "mine.bin").write_bytes(b"precious")
    run(images, out, chosen, BY_4, overwrite=True)
    assert bins(out) == {**WHOLE, "val/mine.bin": b"precious"}


def test_numbers_count_the_images_of_the_source(
    images: Path, tmp_path: Path, chosen: Recipe
) -> None:
    """A failed image leaves its number out, so that the numbers of the others stay."""
    damage(images)
    out = tmp_path / "out"
    report = run(images, out, chosen, Packing(1, "zero", "image_{i}.bin"), verify=10)
    assert report.verified is not None
    assert (report.verified.images, report.verified.differing) == (9, [])
    assert bins(out) == {
        f"image_{i}.bin": tensor.tobytes() for i, tensor in enumerate(TENSORS) if i != BROKEN
    }
    repair(images)
    assert run(images, out, chosen, Packing(1, "zero", "image_{i}.bin"), resume=True).prepared == 1
    assert bins(out)["image_5.bin"] == TENSORS[BROKEN].tobytes()


@pytest.mark.parametrize("names", ["{stem}.bin", "{name}.bin", "{folder}/{stem}.bin"])
def test_names_of_the_image(images: Path, tmp_path: Path, chosen: Recipe, names: str) -> None:
    run(images, tmp_path / "out", chosen, Packing(1, "zero", names))
    made = [
        names.replace("{stem}", f"img{i:04d}")
        .replace("{name}", f"img{i:04d}.JPEG")
        .replace("{folder}", "val")
        for i in range(10)
    ]
    expected = zip(made, TENSORS, strict=True)
    assert bins(tmp_path / "out") == {name: tensor.tobytes() for name, tensor in expected}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_mirrored_copies(images: Path, tmp_path: Path, chosen: Recipe, layout: str) -> None:
    recipe = chosen.with_output(None, layout)
    run(images, tmp_path / "out", recipe, Packing(1, "zero", "{i}.bin", True))
    made = bins(tmp_path / "out")
    assert len(made) == 20
    for i, tensor in enumerate(TENSORS):
        mirrored = tensor[:, :, ::-1]
        if layout == "NHWC":
            tensor, mirrored = tensor.transpose(1, 2, 0), mirrored.transpose(1, 2, 0)
        assert made[f"{i}.bin"] == tensor.tobytes()
        assert made[f"{i}_flip.bin"] == mirrored.tobytes()


@pytest.mark.parametrize(
    ("packing", "line", "expected"),
    [
        (BY_4, "{labels}", "100 101 102 103\n104 105 106 107\n108 109\n"),
        (
            Packing(8, "drop", "test_{i}.bin"),
            "{bin} {labels} ",
            "test_0.bin 100 101 102 103 104 105",
        ),
        (Packing(1, "zero", "img{i}.bin"), "{stem} {labels}", "img0 100\nimg1 101\n"),
        (Packing(), "{bin} {labels}", "img0000.bin 100\nimg0001.bin 101\n"),
        (Packing(), "{i} {path} {width} {height}", "0 OUT/img0000.bin 28 24\n1 OUT/img0001"),
    ],
)
def test_side_files(
    images: Path, tmp_path: Path, chosen: Recipe, packing: Packing, line: str, expected: str
) -> None:
    side, out = tmp_path / "side.txt", tmp_path / "out"
    chosen = replace(chosen, crop=(24, 28), size=(24, 28))
    run(images, out, chosen, packing, side_file=str(side), side_line=line)
    assert side.read_text().startswith(expected.replace("OUT", str(out)))
    assert len(side.read_text().splitlines()) == (10 // packing.images or 1) + (packing is BY_4)


def test_a_side_file_of_labels_as_an_array(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    side = tmp_path / "gt.npy"
    run(images, tmp_path / "out", chosen, BY_4, side_file=str(side))
    array = np.load(side)
    assert array.dtype == np.int64
    assert array.tolist() == [[100, 101, 102, 103], [104, 105, 106, 107], [108, 109, -1, -1]]


def test_a_missing_label_is_said_before_the_work(
    images: Path, tmp_path: Path, chosen: Recipe
) -> None:
    (images / "other.JPEG").write_bytes(FILES["img0000.JPEG"])
    side = tmp_path / "label.txt"
    with pytest.raises(OutputError, match=r"label.txt: 1 image without a label \(other\)"):
        run(images, tmp_path / "out", chosen, BY_4, side_file=str(side))
    assert not bins(tmp_path / "out")
    assert not side.exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"images": 0}, "1 to 1024"),
        ({"images": 2}, "several images need {i}"),
        ({"names": "{stem}"}, "ends in .bin"),
        ({"names": "fixed.bin"}, "bins of one image"),
        ({"names": "{folder}.bin"}, "bins of one image"),
        ({"names": "{i:5d}.bin"}, "its places are"),
        ({"names": "{i.__class__}.bin"}, "its places are"),
        ({"fill": "ones"}, "fill is zero or drop"),
    ],
)
def test_packings_that_cannot_be(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OutputError, match=words):
        Packing(**values)


@pytest.mark.parametrize("names", ["../{stem}.bin", "/{stem}.bin", "a/b/{stem}.bin", ".{i}.bin"])
def test_bins_stay_in_their_folder(
    images: Path, tmp_path: Path, chosen: Recipe, names: str
) -> None:
    with pytest.raises(OutputError, match="its bin cannot be named"):
        run(images, tmp_path / "out", chosen, Packing(1, "zero", names))
    assert not bins(tmp_path)


def test_numbered_bins_have_no_shards(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    with pytest.raises(OutputError, match="each shard would count from 0"):
        run(images, tmp_path / "out", chosen, BY_4, shard=(1, 2))
    side = {"side_file": str(tmp_path / "side.txt"), "side_line": "{i} {bin}"}
    with pytest.raises(OutputError, match=r"side file are numbered by \{i\}, and each shard would"):
        run(images, tmp_path / "out", chosen, PLAIN, shard=(1, 2), **side)
    assert not bins(tmp_path) and not (tmp_path / "side.txt").exists()
    run(images, tmp_path / "out", chosen, PLAIN, shard=(1, 2), **{**side, "side_line": "{stem}"})
    assert (tmp_path / "side.txt").read_text().split() == [f"img{i:04d}" for i in range(0, 10, 2)]


def test_the_manifest_of_plain_bins_names_no_bins(
    images: Path, tmp_path: Path, chosen: Recipe
) -> None:
    run(images, tmp_path / "out", chosen, Packing())
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["packing"] is None


def test_links_in_the_output_folder_are_not_followed(
    images: Path, tmp_path: Path, chosen: Recipe
) -> None:
    """A link with a temporary file's name, and a link in the place of a bins' folder."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(b"precious")
    (out / "in_000.bin.part").symlink_to(elsewhere / "file")
    run(images, out, chosen, BY_4)
    assert bins(out) == WHOLE

    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "val").symlink_to(elsewhere)
    with pytest.raises(OutputError, match="val: is a link to another folder"):
        run(images, tmp_path / "linked", chosen, Packing(1, "zero", "{folder}/{stem}.bin"))
    assert [path.read_bytes() for path in elsewhere.iterdir()] == [b"precious"]
