"""Every layout of labels, and the errors for other files."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import matfiles
from zoofast.errors import LabelError
from zoofast.scoring.labels import Labels, labels_from_folders, load_labels, load_synsets
from zoofast.scoring.matfile import read_struct_array

# Three classes; ILSVRC numbers them in another order than that of their ids.
IDS = ["n01440764", "n02119789", "n13133613"]
BY_ILSVRC_ID = {1: "n02119789", 2: "n13133613", 3: "n01440764"}


def names(*classes: int) -> dict[str, int]:
    return {f"ILSVRC2012_val_{i:08d}": value for i, value in enumerate(classes, 1)}


def write_meta(path: Path, compressed: bool = True) -> None:
    """A meta.mat as the devkit's: two levels, of which only the leaves are classes."""
    scipy_io = pytest.importorskip("scipy.io")
    synsets = np.zeros(
        (4, 1),
        [
            ("ILSVRC2012_ID", "O"),
            ("WNID", "O"),
            ("words", "O"),
            ("num_children", "O"),
            ("children", "O"),
        ],
    )
    for row, (number, synset) in zip(synsets, BY_ILSVRC_ID.items(), strict=False):
        row[0] = (float(number), synset, f"words of {number}, é", 0.0, np.empty((0, 0)))
    synsets[3, 0] = (4.0, "n00001740", "entity", 3.0, np.array([[1.0, 2.0, 3.0]]))
    scipy_io.savemat(path, {"other": np.eye(2), "synsets": synsets}, do_compression=compressed)


def test_golden_labels(shared: Path) -> None:
    labels = load_labels(shared / "imagenet-sample/val_label.txt")
    assert len(labels.by_name) == 300
    assert labels.by_name["n01491361_tiger_shark"] == 3


@pytest.mark.parametrize("text", ["a.JPEG 0\nb.1.JPEG 7\n", "\ufeffval/a.JPEG\t0\r\n\r\nb  7"])
def test_name_class_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "val_map.txt").write_bytes(text.encode())
    assert load_labels(tmp_path / "val_map.txt").by_name == {"a": 0, "b": 7}


def test_a_class_that_no_model_has() -> None:
    """A source may say any number, such as a pickle."""
    assert Labels({"a": 2**31 - 1}, "here").by_name["a"] == 2**31 - 1
    with pytest.raises(LabelError, match=r"^here: a class is no whole number of 31 bits$"):
        Labels({"a": 2**31}, "here")


def test_hiai_folder(tmp_path: Path) -> None:
    for name, label in (("a", "3"), ("b", 0)):
        annotation = {"category_id": label, "category_name": f"class {label}"}
        (tmp_path / f"{name}.json").write_text(json.dumps({"image": {"annotations": [annotation]}}))
    (tmp_path / "HiAI_label.json").write_text("{}")
    labels = load_labels(tmp_path)
    assert labels.by_name == {"a": 3, "b": 0}
    assert labels.class_names == {3: "class 3", 0: "class 0"}


def test_class_folders(tmp_path: Path) -> None:
    for synset in reversed(IDS):
        (tmp_path / synset).mkdir()
        (tmp_path / synset / f"{synset}_1.JPEG").touch()
        (tmp_path / synset / ".hidden").touch()
    (tmp_path / "notes.txt").touch()
    labels = load_labels(tmp_path)
    assert labels.by_name == {f"{synset}_1": i for i, synset in enumerate(IDS)}
    assert labels.class_count == 3
    assert labels == labels_from_folders(tmp_path)


def test_some_class_folders_need_the_list_of_all(tmp_path: Path) -> None:
    (tmp_path / "val" / IDS[2]).mkdir(parents=True)
    (tmp_path / "val" / IDS[2] / "x.JPEG").touch()
    (tmp_path / "synsets.txt").write_text("\n".join(IDS))
    labels = load_labels(tmp_path / "val", tmp_path / "synsets.txt")
    assert (labels.by_name, labels.class_count) == ({"x": 2}, 3)
    (tmp_path / "val" / "n99999999").mkdir()
    with pytest.raises(LabelError, match=r"n99999999: not a class of .*synsets\.txt"):
        load_labels(tmp_path / "val", tmp_path / "synsets.txt")


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("inside", ["", "data"])
def test_devkit_maps_ilsvrc_ids(tmp_path: Path, inside: str, compressed: bool) -> None:
    data = tmp_path / inside
    data.mkdir(exist_ok=True)
    truth = data / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("3\n1\n2\n1\n")
    write_meta(data / "meta.mat", compressed)
    labels = load_labels(tmp_path)
    assert labels.by_name == names(0, 1, 2, 1)
    assert labels.class_names == {0: "words of 3, é", 1: "words of 1, é", 2: "words of 2, é"}
    assert labels.class_count == 3
    assert labels == load_labels(truth)
    assert load_labels(truth, data / "meta.mat").by_name == labels.by_name


@pytest.mark.parametrize(
    "synsets",
    [
        "n02119789 1 kit_fox\nn13133613 2\nn01440764 3 tench",
        "n02119789 kit fox\nn13133613\nn01440764 tench",
        "n01440764 3 tench\nn02119789 1 kit_fox\nn13133613 2",
    ],
)
def test_devkit_with_a_synset_list(tmp_path: Path, synsets: str) -> None:
    (tmp_path / "truth.txt").write_text("3\n1\n2\n")
    (tmp_path / "map_clsloc.txt").write_text(synsets)
    labels = load_labels(tmp_path / "truth.txt", tmp_path / "map_clsloc.txt")
    assert labels.by_name == names(0, 1, 2)
    assert labels.class_names[0] == "tench"


def test_ilsvrc_ids_are_not_taken_for_class_indices(tmp_path: Path) -> None:
    truth = tmp_path / "truth.txt"
    truth.write_text("3\n1\n")
    with pytest.raises(LabelError, match=r"are not class indices; put the devkit's meta\.mat"):
        load_labels(truth)
    (tmp_path / "sorted.txt").write_text("\n".join(IDS))
    with pytest.raises(LabelError, match="sorted and does not say them"):
        load_labels(truth, tmp_path / "sorted.txt")
    truth.write_text("4\n1\n")
    (tmp_path / "map.txt").write_text("n02119789 1\nn13133613 2\nn01440764 3")
    with pytest.raises(LabelError, match="ILSVRC id 4 is not in the list"):
        load_labels(truth, tmp_path / "map.txt")


def test_synset_ids_in_validation_order(tmp_path: Path) -> None:
    path = tmp_path / "imagenet_2012_validation_synset_labels.txt"
    path.write_text("\n".join([IDS[1], IDS[0], IDS[2], IDS[1]]))
    assert load_labels(path).by_name == names(1, 0, 2, 1)
    (tmp_path / "all.txt").write_text("\n".join(["n00000001", *IDS]))
    assert load_labels(path, tmp_path / "all.txt").by_name == names(2, 1, 3, 2)


def test_synset_ids_as_classes(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(f"a.JPEG {IDS[2]}\n")
    with pytest.raises(LabelError, match="line 1: n13133613 is a synset id; give --synsets"):
        load_labels(tmp_path / "labels.txt")
    (tmp_path / "all.txt").write_text("\n".join(IDS))
    labels = load_labels(tmp_path / "labels.txt", tmp_path / "all.txt")
    assert labels.by_name == {"a": 2}
    assert labels.class_count == len(IDS)  # a model with more needs the list of all its classes
    (tmp_path / "labels.txt").write_text("a.JPEG 2\n")
    assert load_labels(tmp_path / "labels.txt", tmp_path / "all.txt").class_count is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("a.JPEG 1\nb.JPEG\n", "line 2: has 1 words, not NAME CLASS"),
        ("a.JPEG 1 2\n", "line 1: has 3 words"),
        ("a.JPEG one\n", "line 1: the class 'one' is no whole number from 0"),
        ("a.JPEG -1\n", "line 1: the class '-1' is no whole number from 0"),
        ("a.JPEG 1\na.png 1\n", "line 2: a has a label already"),
        ("a.JPEG\nb.JPEG\n", "neither NAME CLASS lines nor"),
        ("1\nn01440764\n", "neither NAME CLASS lines nor"),
    ],
)
def test_bad_texts_are_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(LabelError, match=why) as error:
        load_labels(path)
    assert str(error.value).startswith(str(path))


def test_bad_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="absent: no labels can be read: No such file"):
        load_labels(tmp_path / "absent")
    with pytest.raises(LabelError, match="holds no labels"):
        load_labels(tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabelError, match="line 1 is no UTF-8: not a text file"):
        load_labels(tmp_path / "binary.txt")
    (tmp_path / "binary.txt").write_bytes(b"a.jpg 1\ncaf\xe9.jpg 2\n")
    with pytest.raises(LabelError, match=r"binary\.txt: line 2 is no UTF-8"):
        load_labels(tmp_path / "binary.txt")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(LabelError, match=r"a\.json: has no image\.annotations\[0\]"):
        load_labels(tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("fox\n", "does not begin with a synset id"),
        ("n01440764\nn01440764\n", "line 2: n01440764 is listed twice"),
        ("n01440764 1\nn02119789 1\n", "two synsets have the same ILSVRC id"),
    ],
)
def test_bad_synset_lists_are_named(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(LabelError, match=why):
        load_synsets(tmp_path / "list.txt")


# ---- MAT files ---------------------------------------------------------------


def small_mat() -> bytes:
    number = matfiles.matrix(
        6, (1, 1), "", matfiles.element(2, b"\x07")
    )  # a double, stored as a byte
    text = matfiles.matrix(4, (1, 2), "", matfiles.element(16, "é".encode() + b"x"))
    return matfiles.mat_file(
        matfiles.struct_array("s", ["n", "text"], [[number, text], [number, text]])
    )


def test_mat_by_hand(tmp_path: Path) -> None:
    expected: list[dict[str, Any]] = [{"n": 7.0, "text": "éx"}] * 2
    path = tmp_path / "s.mat"
    path.write_bytes(small_mat())
    assert read_struct_array(path, "s") == expected
    packed = zlib.compress(small_mat()[128:])
    path.write_bytes(matfiles.mat_file(struct.pack("<II", 15, len(packed)) + packed))
    assert read_struct_array(path, "s") == expected
    with pytest.raises(LabelError, match="no struct array named t"):
        read_struct_array(path, "t")


def test_damaged_mat_files_are_named(tmp_path: Path) -> None:
    intact = small_mat()
    path = tmp_path / "meta.mat"
    for cut in range(0, len(intact), 4):
        path.write_bytes(intact[:cut])
        with pytest.raises(LabelError, match=r"meta\.mat: (is|not|holds)"):
            read_struct_array(path, "s")
    rng = np.random.default_rng(0)
    for _ in range(300):  # flipped bytes give an answer or a LabelError, nothing else
        damaged = bytearray(intact)
        damaged[rng.integers(128, len(intact))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert isinstance(read_struct_array(path, "s"), list)
        except LabelError as error:
            assert str(error).startswith(str(path))


def test_mat_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "meta.mat"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 200)
    with pytest.raises(LabelError, match=r"is a MAT 7\.3 file"):
        read_struct_array(path, "s")
    path.write_bytes(b"text")
    with pytest.raises(LabelError, match="not a MAT 5 file"):
        read_struct_array(path, "s")
    path.write_bytes(small_mat())
    with pytest.raises(LabelError, match="no struct array named synsets"):
        load_synsets(path)
