"""Malformed and hostile labels, synset lists, result JSONs and saved logits: one line, exit code 2.

Each text is fed to the command, since a traceback would show there.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import hostile, matfiles
from zoofast.base.files import MAX_FILE_BYTES
from zoofast.cli import main


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "a_0.txt").write_text("1 2 3 \n")
    return folder


def replaced(good: Any, path: tuple[str | int, ...]) -> Iterator[str]:
    """`good` as JSON with the value at `path`, and at each of its parents, replaced or missing."""
    for depth in range(len(path) + 1):
        for value in hostile.VALUES:
            copy = [json.loads(json.dumps(good))]
            keys = [0, *path[:depth]]
            parent = copy
            for key in keys[:-1]:
                parent = parent[key]
            parent[keys[-1]] = value
            yield json.dumps(copy[0])


@pytest.mark.parametrize(
    "text",
    [
        f"a.JPEG {hostile.HUGE}\n",
        f"a.JPEG 1\nb.JPEG {2**63}\n",
        f"a.JPEG {2**31}\n",
        "a.JPEG ٣\n",
        "a.JPEG 1e400\n",
        ".JPEG 1\n",
        f"{hostile.HUGE}\n",
        "x" * 1_000_000,
        "a.JPEG " + "x" * 1_000_000,
        "\0\n" * 10,
        "n01440764\n" * 3 + hostile.HUGE,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_label_texts(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text(text)
    assert str(labels) in hostile.refused(capsys, "score", results, labels)


def test_labels_that_no_model_has(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a.JPEG 999999999\n")
    assert "outside the model's 3 classes" in hostile.refused(capsys, "score", results, labels)


def test_label_files_of_other_kinds(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = tmp_path / "huge.txt"
    with huge.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert "huge.txt: cannot be read: line 1 has more than 65,536 bytes" in hostile.refused(
        capsys, "score", results, huge
    )
    assert "/dev/zero: cannot be read: not a regular file" in hostile.refused(
        capsys, "score", results, "/dev/zero"
    )
    for path in (tmp_path / ("x" * 300), tmp_path / "labels" / "none", results / "a_0.txt" / "b"):
        assert "no labels can be read" in hostile.refused(capsys, "score", results, path)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    hostile.refused(capsys, "score", results, loop)
    hostile.refused(capsys, "score", results, huge, "--synsets", huge)


GOOD_HIAI = {"image": {"annotations": [{"category_id": 3}]}}
HIAI_PATH = ("image", "annotations", 0, "category_id")


def test_hiai_folders(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    for text in (*hostile.NOT_JSON, *replaced(GOOD_HIAI, HIAI_PATH)):
        (labels / "a.json").write_text(text)
        assert "a.json" in hostile.refused(capsys, "score", results, labels)
    (labels / "a.json").write_text('{"image": {"annotations": [{"category_id": 2.0}]}}')
    assert main(["score", str(results), str(labels)]) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        f"n01440764 {hostile.HUGE}\n",
        f"n01440764 {2**31}\n",
        "x" * 1_000_000,
        f"n{hostile.HUGE}\n",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_synset_lists(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    labels, synsets = tmp_path / "labels.txt", tmp_path / "synsets.txt"
    labels.write_text("a.JPEG n01440764\n")
    synsets.write_text(text)
    assert str(synsets) in hostile.refused(capsys, "score", results, labels, "--synsets", synsets)


def double(value: float) -> bytes:
    return matfiles.matrix(6, (1, 1), "", matfiles.element(9, struct.pack("<d", value)))


def chars(text: str) -> bytes:
    return matfiles.matrix(4, (1, len(text)), "", matfiles.element(16, text.encode()))


def synsets_of(*rows: tuple[bytes, bytes, bytes, bytes]) -> bytes:
    fields = ["ILSVRC2012_ID", "WNID", "words", "num_children"]
    return matfiles.struct_array("synsets", fields, [list(row) for row in rows])


ZERO, ID, WNID, WORDS = double(0), double(1), chars("n01440764"), chars("tench")
CELL_BOMB = matfiles.matrix(1, (1, 1), "")
for _ in range(2000):
    CELL_BOMB = matfiles.matrix(1, (1, 1), "", CELL_BOMB)


@pytest.mark.parametrize(
    "variables",
    [
        synsets_of((double(np.inf), WNID, WORDS, ZERO)),
        synsets_of((double(np.nan), WNID, WORDS, ZERO)),
        synsets_of((ID, WNID, WORDS, double(np.inf))),
        synsets_of((ID, ID, WORDS, ZERO)),
        synsets_of((ID, chars("fish"), WORDS, ZERO)),
        synsets_of((ID, WNID, ID, ZERO)),
        synsets_of((WORDS, WNID, WORDS, ZERO)),
        synsets_of((ID, WNID, WORDS, ZERO), (ID, chars("n02119789"), WORDS, ZERO)),
        synsets_of((ID, WNID, WORDS, ID)),  # no leaf
        matfiles.struct_array("synsets", [], [[]] * 3),
        matfiles.matrix(
            2,
            (2**31 - 1, 2**31 - 1),
            "synsets",
            matfiles.element(5, b"\x20\0\0\0"),
            matfiles.element(1, b""),
        ),
        matfiles.matrix(
            2,
            (1, 1),
            "synsets",
            matfiles.element(5, struct.pack("<i", -1)),
            matfiles.element(1, b"x"),
        ),
        matfiles.matrix(
            2,
            (1, 1),
            "synsets",
            matfiles.element(9, struct.pack("<d", np.inf)),
            matfiles.element(1, b"x"),
        ),
        matfiles.matrix(4, (1, 1), "synsets", matfiles.element(9, struct.pack("<d", 65.0))),
        matfiles.matrix(4, (1, 1), "synsets", matfiles.element(1, b"\xff")),
        CELL_BOMB,
        matfiles.element(
            15, zlib.compress(b"\0" * (MAX_FILE_BYTES + 100), 9)
        ),  # inflates a thousandfold
        matfiles.element(
            14,
            matfiles.element(6, b"\2\0\0\0\0\0\0\0")
            + matfiles.element(9, struct.pack("<d", 1e300)),
        ),
    ],
)
def test_meta_mat(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], variables: bytes
) -> None:
    labels, meta = tmp_path / "labels.txt", tmp_path / "meta.mat"
    labels.write_text("1\n")
    meta.write_bytes(matfiles.mat_file(variables))
    assert str(meta) in hostile.refused(capsys, "score", results, labels, "--synsets", meta)


# ---- compare -----------------------------------------------------------------


def test_result_jsons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    guide = {
        "title": "",
        "value": [
            {"key": "Number of images", "value": "5"},
            {"key": "Top1 accuracy", "value": "50.0%"},
        ],
    }
    ours = {"images": 5, "accuracy": {"top1": 0.5}}
    good = tmp_path / "good.json"
    good.write_text(json.dumps(ours))
    texts = [
        *hostile.NOT_JSON,
        *replaced(guide, ("value", 0, "value")),
        *replaced(guide, ("value", 1, "value")),
        *replaced(guide, ("value", 1, "key")),
        *replaced(ours, ("accuracy", "top1")),
        *replaced(ours, ("images",)),
        *replaced({"score": ours}, ("score", "accuracy")),
    ]
    for text in texts:
        path.write_text(text)
        assert str(path) in hostile.refused(capsys, "compare", path, good)
    path.write_text('{"score": null}')
    assert "eval had no labels" in hostile.refused(capsys, "compare", path, good)


def npy(header: str, payload: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + payload


def saved(array: Any, path: Path) -> bytes:
    np.save(path, array, allow_pickle=True)
    return path.read_bytes()


FLOATS = b"\0" * 24


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04 no zip",
        npy(""),
        npy("{"),
        npy("(" * 3000),
        npy("1" * 5000),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", FLOATS[:20]),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 1)}", FLOATS),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", FLOATS),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0)}", FLOATS),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", FLOATS),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3)}", FLOATS),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 99999999999999999999)}", FLOATS),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4611686018427387904)}", FLOATS),
        npy("{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3)}", FLOATS),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}", FLOATS),
        npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3)}", FLOATS),
        npy("{'descr': '<c8', 'fortran_order': False, 'shape': (1, 3)}", FLOATS),
        npy("{'descr': 3, 'fortran_order': 7, 'shape': 'x'}", FLOATS),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3.0)}", FLOATS),
    ],
)
def test_saved_logits(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    path = tmp_path / "a.npy"
    for names in ("a\nb\n", ""):
        path.write_bytes(content)
        (tmp_path / "a.names.txt").write_text(names)
        assert str(path) in hostile.refused(capsys, "compare", path, path)


def test_saved_logits_of_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, names = tmp_path / "a.npy", tmp_path / "a.names.txt"
    names.write_text("a\nb\n")
    with path.open("wb") as file:
        np.savez(file, x=np.zeros((2, 3), np.float32))
    hostile.refused(capsys, "compare", path, path)
    path.write_bytes(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", FLOATS))
    assert main(["compare", str(path), str(path)]) == 0
    names.write_text("a\na\n")
    assert "a.names.txt: names a sample twice" in hostile.refused(capsys, "compare", path, path)
    names.write_text("a\n")
    hostile.refused(capsys, "compare", path, path)


@pytest.mark.parametrize(
    "option",
    ["--threads=-1", "--threads=0", "--top-k=-1", "--top-k=1000000", f"--top-k={hostile.HUGE}"],
    ids=lambda option: option[:20],
)
def test_numbers_of_the_command(results: Path, option: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["score", str(results), "labels.txt", option])
    assert stopped.value.code == 2


# ---- the terminal ------------------------------------------------------------


def hostile_names(tmp_path: Path) -> tuple[str, str]:
    """Results and class folders whose names hold escape sequences, markup and bytes of no text."""
    results, classes = tmp_path / "results", tmp_path / "classes"
    name = os.fsdecode(b"a\x1b]0;title\x07[red]\xff")
    results.mkdir(exist_ok=True)
    for sample in (name, name + "unlabelled"):
        (results / f"{sample}_0.txt").write_text("1 2 3\n")
    (results / "stray\x1b[1m").touch()
    for folder, sample in (
        ("[red]\x1b[2m", name),
        (os.fsdecode(b"\xfe"), "missing\x1b[3m"),
        ("c", "b"),
    ):
        (classes / folder).mkdir(parents=True)
        (classes / folder / f"{sample}.JPEG").touch()
    return str(results), str(classes)


def test_names_are_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, classes = hostile_names(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(results, other)
    for file in other.glob("*.txt"):
        file.write_text("3 2 1\n")
    files = [f"--per-class={tmp_path / 'c.csv'}", f"--json={tmp_path / 's.json'}"]
    assert main(["score", results, "--labels-from", classes, *files]) == 1
    assert main(["compare", results, str(other), "--labels-from", classes]) == 1
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\\x1b" in text
        text.encode()  # no half of a character


@pytest.mark.parametrize("command", ["score", "compare"])
def test_standard_output_that_fails(tmp_path: Path, command: str) -> None:
    results, classes = hostile_names(tmp_path)
    zoofast = [str(Path(sys.executable).with_name("zoofast")), command, results]
    arguments = ["--labels-from", classes] if command == "score" else [results]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*zoofast, *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert "zoofast: error: standard output: No space left on device\n" in done.stderr
    assert "Traceback" not in done.stderr
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does when it has seen enough
    try:
        done = subprocess.run(
            [*zoofast, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writing)
    assert done.returncode == (1 if command == "score" else 0)
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr
