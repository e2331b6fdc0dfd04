"""A command that would write a file twice, or write to a file that it reads, is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import folders, in_process
from zoofast.commands.shared.arguments import ReadFolder, check_files
from zoofast.commands.shared.console import STDOUT
from zoofast.errors import OutputError
from zoofast.preprocess.sources.source import is_image

RECIPE = ["--recipe", "recipe.toml"]
EVAL = ["eval", "m.onnx", "b.tar", "labels.txt", *RECIPE]
PREP = ["prep", "images", "out", *RECIPE]
SCORE = ["score", "results", "labels.txt"]
# the command, and the two arguments that its error names
CASES: dict[str, tuple[list[str], str, str]] = {
    "eval -o LABELS": ([*EVAL, "-o", "labels.txt"], "-o", "LABELS"),
    "eval -o MODEL": ([*EVAL, "-o", "m.onnx"], "-o", "MODEL"),
    "eval -o SRC": ([*EVAL, "-o", "b.tar"], "-o", "SRC"),
    "eval -o recipe": ([*EVAL, "-o", "recipe.toml"], "-o", "--recipe"),
    "eval -o link": ([*EVAL, "-o", "link"], "-o", "MODEL"),
    "eval -o pattern": (
        ["eval", "m.onnx", "[ab].tar", "labels.txt", *RECIPE, "-o", "b.tar"],
        "-o",
        "SRC",
    ),
    "eval --trace labels-from": (
        ["eval", "m.onnx", "images", "--labels-from", "b.tar", *RECIPE, "--trace", "b.tar"],
        "--trace",
        "--labels-from",
    ),
    "eval --report synsets": (
        [*EVAL, "--synsets", "x", "--report", "x"],
        "--report",
        "--synsets",
    ),
    "eval --journal MODEL": ([*EVAL, "--journal", "m.onnx"], "the journal", "MODEL"),
    "eval -o logits": ([*EVAL, "-o", "y", "--save-logits", "y"], "-o", "--save-logits"),
    "eval -o json": ([*EVAL, "-o", "y", "--json", "./y"], "-o", "--json"),
    "eval names": (
        [*EVAL, "--save-logits", "z.npy", "--per-class", "z.names.txt"],
        "--per-class",
        "the names of --save-logits",
    ),
    "eval journal": ([*EVAL, "-o", "y", "--json", "y.journal"], "--json", "the journal"),
    "score -o LABELS": ([*SCORE, "-o", "labels.txt"], "-o", "LABELS"),
    "score -o json": ([*SCORE, "-o", "y", "--json", "y"], "-o", "--json"),
    "compare": (["compare", "x", "labels.txt", "--json", "x"], "--json", "A"),
    "infer": (["infer", "--model", "m.onnx", "--json", "m.onnx"], "--json", "--model"),
    "infer input": (
        ["infer", "--model", "m.onnx", "--input", "x,labels.txt", "--json", "x"],
        "--json",
        "--input",
    ),
    "bench": (["bench", "--model", "m.onnx", "--json", "m.onnx"], "--json", "--model"),
    "bench twice": (
        ["bench", "--model", "m.onnx", "--json", "y", "--markdown", "y"],
        "--json",
        "--markdown",
    ),
    "profile": (["profile", "b.tar", *RECIPE, "--trace", "b.tar"], "--trace", "SRC"),
    "atc": (["atc", "x.om", *RECIPE, "--soc", "310P3", "-o", "x"], "-o", "MODEL"),
    "atc log": (["atc", "x.atc.log", *RECIPE, "--soc", "310P3", "-o", "x"], "ATC's log", "MODEL"),
    "atc aipp": (
        ["atc", "m.onnx", *RECIPE, "--soc", "310P3", "-o", "x", "--aipp", "x.om"],
        "-o",
        "the AIPP file",
    ),
    "aipp": (["aipp", "recipe.toml", "-o", "recipe.toml"], "-o", "RECIPE"),
    "prep labels": (
        [*PREP, "--side-file", "labels.txt", "--labels", "labels.txt"],
        "--side-file",
        "--labels",
    ),
    "prep twice": ([*PREP, "--side-file", "y", "--json", "y"], "--side-file", "--json"),
    "prep manifest": (
        [*PREP, "--side-file", "out/zoofast-prep.json"],
        "--side-file",
        "the manifest",
    ),
    "prep tensor": ([*PREP, "--side-file", "out/img0001.bin"], "--side-file", "a tensor"),
    "prep npy": (
        [*PREP, "--format", "npy", "--json", "out/img0001.npy"],
        "--json",
        "a tensor",
    ),
    "prep pack": (
        [*PREP, "--format", "pack", "--json", "out/pack.names.txt"],
        "--json",
        "a tensor",
    ),
    "prep mirrored": (
        [*PREP, "--mirror", "--side-file", "out/img0001_flip.bin"],
        "--side-file",
        "a tensor",
    ),
    # files of a folder that is read
    "eval image": (
        ["eval", "m.onnx", "images", "labels.txt", *RECIPE, "-o", "images/img0000.JPEG"],
        "-o",
        "SRC",
    ),
    "eval image of a linked folder": (
        ["eval", "m.onnx", "tree", "labels.txt", *RECIPE, "-o", "tree/linked/img0000.JPEG"],
        "-o",
        "SRC",
    ),
    "prep image": ([*PREP, "--json", "images/img0000.JPEG"], "--json", "SRC"),
    "profile image": (
        ["profile", "images", *RECIPE, "--json", "images/img0000.JPEG"],
        "--json",
        "SRC",
    ),
    "score --images": (
        [*SCORE, "--images", "images", "--report", "images/img0000.JPEG"],
        "--report",
        "--images",
    ),
    "score result": ([*SCORE, "--json", "results/img0000_0.txt"], "--json", "RESULTS"),
    "score record": ([*SCORE, "-o", "results_run.json"], "-o", "the record of RESULTS"),
    "compare result": (
        ["compare", "y", "results", "--json", "results/img0000_0.txt"],
        "--json",
        "B",
    ),
    "compare names": (
        ["compare", "x.npy", "y", "--json", "x.names.txt"],
        "--json",
        "the names of A",
    ),
    "infer tensor": (
        ["infer", "--model", "m.onnx", "--input", "bins", "--json", "bins/x.bin"],
        "--json",
        "--input",
    ),
    "eval folder of labels": (
        ["eval", "m.onnx", "b.tar", "json", *RECIPE, "--json", "json/img0000.json"],
        "--json",
        "LABELS",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_no_output_replaces_an_input_or_another_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folders.write(tmp_path / "images", folders.good_files(2))
    folders.recipe_file(tmp_path)
    for name in ("m.onnx", "a.tar", "b.tar", "labels.txt", "x", "x.om", "x.atc.log"):
        Path(name).write_text("img0000.JPEG 1\nimg0001.JPEG 2\n")
    Path("results_run.json").touch()
    Path("x.names.txt").touch()
    folders.write(tmp_path / "results", {"img0000_0.txt": b"1"})
    folders.write(tmp_path / "bins", {"x.bin": b"1"})
    folders.write(tmp_path / "json", {"img0000.json": b"{}"})
    Path("tree").mkdir()
    Path("tree/linked").symlink_to(tmp_path / "images")
    Path("out").mkdir()
    Path("link").symlink_to("m.onnx")
    before = content(tmp_path)
    words, first, second = CASES[case]
    done = in_process.zoofast(*words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "name another file" in done.stderr or "name two files" in done.stderr
    for name in (first, second):
        assert f"{name} " in done.stderr or f"{name};" in done.stderr
    assert content(tmp_path) == before


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_that_nothing_is_lost_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("old").touch()
    check_files([("-o", "pipe"), ("--json", "pipe"), ("--report", "/dev/null")])
    check_files([("-o", STDOUT), ("--json", STDOUT), ("--report", None)])
    check_files([("-o", "old"), ("--json", "folder/x")], [("A", "folder"), ("B", None)])
    images = [ReadFolder(name, folder, is_image) for name, folder in (("A", "folder"), ("B", None))]
    Path("folder/result.json").touch()  # of an earlier run
    Path("folder-2").mkdir()
    Path("folder-2/old.jpg").touch()
    check_files([("-o", "folder/result.json")], images)
    check_files([("-o", "folder/new.jpg"), ("--json", "folder-2/old.jpg")], images)
    check_files([("-o", "new")], [("--recipe", "new")])  # the name of a recipe, and no file
    with pytest.raises(OutputError, match="old: -o would replace the file of A; name another"):
        check_files([("-o", "old")], [("A", Path("folder/../old"))])
    with pytest.raises(OutputError, match="new: is the file of -o and of --json; name two files"):
        check_files([("-o", "new"), ("--json", tmp_path / "new")])
