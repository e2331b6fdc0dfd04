"""The names of classes: ImageNet's without being asked, the labels' own first."""

from __future__ import annotations

import ast
import csv
import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from zoofast.cli import main
from zoofast.scoring.class_names import name_classes, name_of_synset
from zoofast.scoring.labels import labels_from_folders

LISTS = Path(name_classes.__code__.co_filename).parent


def lines(file: str) -> list[tuple[str, str]]:
    text = (LISTS / file).read_text(encoding="ascii")
    return [tuple(line.split(" ", 1)) for line in text.splitlines()]  # type: ignore[misc]


@pytest.mark.parametrize(("file", "count"), [("imagenet1k.txt", 1000), ("imagenet21k.txt", 21843)])
def test_the_lists_are_complete(file: str, count: int) -> None:
    synsets = [synset for synset, _ in lines(file)]
    assert len(synsets) == len(set(synsets)) == count
    assert synsets == sorted(synsets)  # the order of class indices in every framework
    assert all(re.fullmatch(r"n[0-9]{8}", synset) for synset in synsets)
    assert all(name and name == name.strip() for _, name in lines(file))


def test_the_thousand_names_are_torchvisions() -> None:
    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("torchvision is not installed")
    meta = Path(spec.submodule_search_locations[0]) / "models" / "_meta.py"
    match = re.search(r"_IMAGENET_CATEGORIES = (\[.*?\n\])", meta.read_text(), re.DOTALL)
    assert match
    names = [name for _, name in lines("imagenet1k.txt")]
    assert names == ast.literal_eval(match[1])
    assert len(set(names)) == 1000


def test_the_names_fit_the_sample_images(shared: Path) -> None:
    text = (shared / "imagenet-sample/val_label.txt").read_text()
    synsets = lines("imagenet1k.txt")
    for line in text.splitlines():
        file, label = line.split()
        synset, name = synsets[int(label)]
        assert file.startswith(synset)
        assert file[10:].removesuffix(".JPEG").replace("_", " ").lower() in (name.lower(), "crane")


def names(classes: int, offset: int = 0, labels: dict[int, str] | None = None) -> list[str]:
    described = name_classes(classes, offset, labels)
    return [described.describe(index) for index in (0, 1, classes - 1)]


def test_names_by_the_number_of_classes() -> None:
    assert names(1000) == ["0 tench", "1 goldfish", "999 toilet tissue"]
    assert names(1001, 1) == ["0 background", "1 (label 0) tench", "1000 (label 999) toilet tissue"]
    assert names(1001, 0) == ["0 background", "1 tench", "1000 toilet tissue"]
    assert names(1000, -1) == [
        "0 (label 1) tench",
        "1 (label 2) goldfish",
        "999 (label 1000) toilet tissue",
    ]
    assert names(21843) == ["0 organism", "1 benthos", "21842 knothole"]
    assert names(21841) == ["0 organism", "1 benthos", "21840 knothole"]
    assert names(10) == ["0", "1", "9"]


def test_names_of_the_labels_come_first() -> None:
    own = {0: "a", 999: "z"}
    assert names(1000, 0, own) == ["0 a", "1", "999 z"]
    assert names(1001, 1, own) == ["0 background", "1 (label 0) a", "1000 (label 999) z"]
    assert not name_classes(1000, 0, own).of_imagenet
    assert name_classes(1000, 0).of_imagenet


def test_the_classes_that_models_of_21841_lack() -> None:
    of_all = [synset for synset, _ in lines("imagenet21k.txt")]
    of_21841 = name_classes(21841, 0).by_class
    words = dict(lines("imagenet21k.txt"))
    expected = [words[synset] for synset in of_all if synset not in ("n03931044", "n09859684")]
    assert [of_21841[i] for i in range(21841)] == expected


def test_class_folders_have_names(tmp_path: Path) -> None:
    for folder in ("n01440764", "cats", "n00004475"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.JPEG").touch()
    assert labels_from_folders(tmp_path).class_names == {0: "cats", 1: "organism", 2: "tench"}
    assert name_of_synset("n99999999") == "n99999999"


@pytest.mark.parametrize("classes", [1000, 1001])
def test_score_and_compare_show_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: int
) -> None:
    offset = classes - 1000
    for name, best in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        row = np.eye(classes)[best + offset]
        (tmp_path / name / "i_0.txt").write_text(" ".join(map(str, row)) + "\n")
    (tmp_path / "labels.txt").write_text("i.JPEG 0\n")
    a, b, labels = (str(tmp_path / name) for name in ("a", "b", "labels.txt"))
    per_class, everything = tmp_path / "c.csv", tmp_path / "s.json"
    options = ["--per-class", str(per_class), "--json", str(everything)]
    assert main(["score", a, labels, *options]) == 0
    shown = capsys.readouterr().out
    assert "names of ImageNet, unless --synsets names others" in " ".join(shown.split())
    assert "tench" in shown and "goldfish" in shown
    with per_class.open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["tench"]
    assert json.loads(everything.read_text())["class_names_of_imagenet"] is True
    assert main(["compare", a, b, labels]) == 0
    shown = capsys.readouterr().out
    assert "goldfish" in shown and "shark" in shown and "tench" in shown
    synsets = tmp_path / "synsets.txt"
    synsets.write_text("".join(f"n{i:08d} own{i}\n" for i in range(1000)))
    assert main(["score", a, labels, "--synsets", str(synsets)]) == 0
    shown = capsys.readouterr().out
    assert "own0" in shown and "own1" in shown
    assert "tench" not in shown and "ImageNet" not in shown
