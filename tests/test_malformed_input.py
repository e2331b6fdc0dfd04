"""Every reader of outside data, fed malformed files: a one-line ZoofastError, or a value.

Each reader gets all shapes as they are, and what zoofast itself writes with one value replaced.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import folders, hostile, matfiles, oracle
from zoofast.cli import main
from zoofast.conversion.npu_smi import parse as parse_npu_smi
from zoofast.conversion.onnxfile import read_valid as read_onnx
from zoofast.conversion.pipeline import CACHE_NAME, StepCache
from zoofast.errors import ZoofastError
from zoofast.evaluation.journal import Journal
from zoofast.inference.record import RunRecord, record_path
from zoofast.preprocess.importers.huggingface import CONFIG
from zoofast.preprocess.manifest import MANIFEST, read_manifest
from zoofast.preprocess.recipe_file import load_recipe
from zoofast.preprocess.sources import open_source
from zoofast.scoring.compare import read_accuracies
from zoofast.scoring.labels import load_labels, load_synsets
from zoofast.scoring.matfile import read_struct_array
from zoofast.scoring.results import read_logits
from zoofast.scoring.topk import TopK


def ignore(names: list[str], best: TopK) -> None:
    """Takes a journal's batches."""


SHAPES: dict[str, bytes] = {
    "empty": b"",
    "a newline": b"\n",
    "NUL": b"\0" * 600,
    "binary": b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 8,
    "not UTF-8": b"\xff\xfe\xfd 1\n",
    "byte order mark": b"\xef\xbb\xbf{}\n",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a cut object": b'{"a": [1, 2',
    "a list": b"[]\n",
    "a number": b"3\n",
    "null": b"null\n",
    "a text": b'"x"\n',
    "an empty object": b"{}\n",
    "NaN": b"NaN\n",
    "infinity": b'{"a": 1e400}\n',
    "a huge number": hostile.HUGE.encode() + b"\n",
    "a huge number of TOML": b"a = " + hostile.HUGE.encode() + b"\n",
    "a deep list": hostile.DEEP_LIST.encode() + b"\n",
    "a deep object": hostile.DEEP_OBJECT.encode() + b"\n",
    "a deep list of TOML": b"a = " + hostile.DEEP_LIST.encode() + b"\n",
    "a surrogate": b'{"a": "\\ud800"}\n',
    "a long line": b"x" * 1_000_000 + b"\n",
    "many lines": b"x\n" * 10_000,
    "repeated keys": b'{"a": 1, "a": 2}\n',
    "HTML": b"<!DOCTYPE html><title>404</title>\n",
    "control characters": b"\x1b]0;title\x07 1\r\n",
    "half a tar": b"img.JPEG".ljust(257, b"\0") + b"ustar\x0000" + b"\xff" * 200,
    "half a .npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9",
    "a .npy of objects": b"\x93NUMPY\x01\x00\x46\x00"
    + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(69)
    + b"\n\x80\x04.",
    "a .npy of a huge shape": b"\x93NUMPY\x01\x00\x56\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 99), }".ljust(85)
    + b"\n\0\0\0\0",
    "a MAT file": matfiles.mat_file(),
    "half a MAT file": matfiles.mat_file(matfiles.matrix(2, (9, 9), "synsets"))[:150],
}


@dataclass
class Reader:
    """One reader: the name of its file, and the call that reads it in a folder."""

    file: str
    read: Callable[[Path], Any]


# what a run must have in common with the journal that it resumes
JOURNAL = {"model": "m", "backend": "b", "recipe": "r"}


def read_results(folder: Path) -> int:
    labels = folder.parent / "labels.txt"
    labels.write_text("a.JPEG 1\n")
    return main(["score", str(folder), str(labels), "--quiet"])


READERS = {
    "labels": Reader("labels.txt", lambda folder: load_labels(folder / "labels.txt")),
    "labels of JSON": Reader("labels.json", lambda folder: load_labels(folder / "labels.json")),
    "synsets": Reader("synsets.txt", lambda folder: load_synsets(folder / "synsets.txt")),
    "synsets of MATLAB": Reader("meta.mat", lambda folder: load_synsets(folder / "meta.mat")),
    "a MAT file": Reader("x.mat", lambda folder: read_struct_array(folder / "x.mat", "synsets")),
    "accuracies": Reader("result.json", lambda folder: read_accuracies(folder / "result.json")),
    "a text result": Reader("r/a_0.txt", lambda folder: read_logits(folder / "r/a_0.txt")),
    "a .npy result": Reader("r/a_0.npy", lambda folder: read_logits(folder / "r/a_0.npy")),
    "a .bin result": Reader("r/a_0.bin", lambda folder: read_logits(folder / "r/a_0.bin")),
    "a folder of texts": Reader("r/a_0.txt", lambda folder: read_results(folder / "r")),
    "a folder of .npy": Reader("r/a_0.npy", lambda folder: read_results(folder / "r")),
    "a recipe": Reader("mine.toml", lambda folder: load_recipe(str(folder / "mine.toml"))),
    "a model card of timm": Reader("c.json", lambda folder: load_recipe(str(folder / "c.json"))),
    "a processor": Reader(CONFIG, lambda folder: load_recipe(f"hf:{folder}")),
    "a list of images": Reader("list.txt", lambda folder: open_source(folder / "list.txt")),
    "a tar": Reader("x.tar", lambda folder: open_source(folder / "x.tar")),
    "a manifest": Reader(MANIFEST, read_manifest),
    "a journal": Reader("j", lambda folder: Journal(folder / "j", JOURNAL, ignore)),
    "a record": Reader("r_run.json", lambda folder: RunRecord.read(folder / "r")),
    "a step cache": Reader(CACHE_NAME, StepCache),
    "an ONNX model": Reader("m.onnx", lambda folder: read_onnx(folder / "m.onnx")),
    "npu-smi's table": Reader(
        "table", lambda folder: parse_npu_smi((folder / "table").read_bytes().decode("latin-1"))
    ),
}


def check(read: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The call gives a value, or raises a ZoofastError of one line without control characters."""
    try:
        value = read()
    except ZoofastError as error:
        message = str(error)
        assert message.isprintable(), repr(message[:300])
        assert 0 < len(message) < 2000, "the error repeats the file"
        return
    finally:
        shown = capsys.readouterr()
    if isinstance(value, Journal):
        value.close()
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", READERS)
def test_shapes(name: str, shape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = READERS[name]
    if name == "an ONNX model":
        pytest.importorskip("onnx")
    (tmp_path / "r").mkdir()
    (tmp_path / reader.file).write_bytes(SHAPES[shape])
    check(lambda: reader.read(tmp_path), capsys)


def replaced(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(where, value with something else there, or without it): at every place of a JSON value."""
    for other in hostile.VALUES:
        yield f"{path} = {str(other)[:20]}", other
    if isinstance(value, dict):
        for key in value:
            yield f"{path} without {key}", {k: v for k, v in value.items() if k != key}
            for where, inner in replaced(value[key], (*path, key)):
                yield where, {**value, key: inner}
    if isinstance(value, list) and value:
        for where, inner in replaced(value[0], (*path, 0)):
            yield where, [inner, *value[1:]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what prep, infer, eval and convert leave for a later run."""
    folder = tmp_path_factory.mktemp("written")
    folders.write(folder / "images", folders.good_files(2))
    recipe = folders.recipe_file(folder, oracle.Spec(size=(5, 5), crop=(4, 4)))
    words = ["prep", str(folder / "images"), str(folder / "out"), "--recipe", recipe, "--quiet"]
    assert main(words) == 0
    RunRecord("digest", "in", "BIN", 1, (), ("a", "b")).write(folder / "r")
    inputs = {"step": "export", "settings": {"opset": 11}, "files": ["digest"]}
    cache = {"m.onnx": {"inputs": inputs, "output": "digest"}}
    (folder / CACHE_NAME).write_text(json.dumps(cache))
    columns = {name: [0.5] for name in ("confidence", "total", "min_score")}
    batch = {"names": ["a"], "classes": [[1, 2]], "values": [[1.0, 0.5]], **columns}
    (folder / "batch.json").write_text(json.dumps(batch))
    return folder


def test_a_manifest_with_one_value_replaced(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = json.loads((written / "out" / MANIFEST).read_text())
    good["names"] = good["names"][:1]
    count = 0
    for _, content in replaced(good):
        (tmp_path / MANIFEST).write_text(json.dumps(content))
        check(lambda: read_manifest(tmp_path), capsys)
        count += 1
    assert count > 300


def test_a_record_with_one_value_replaced(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = json.loads(record_path(written / "r").read_text())
    good["outputs"] = [{"dtype": "float32", "shape": [1, 6]}]
    for _, content in replaced(good):
        record_path(tmp_path / "r").write_text(json.dumps(content))
        check(lambda: RunRecord.read(tmp_path / "r"), capsys)


def test_a_step_cache_with_one_value_replaced(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _, content in replaced(json.loads((written / CACHE_NAME).read_text())):
        (tmp_path / CACHE_NAME).write_text(json.dumps(content))
        check(lambda: StepCache(tmp_path), capsys)


def test_a_journal_with_one_value_replaced(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, description = tmp_path / "j", {**JOURNAL, "classes": 2}
    good = json.loads((written / "batch.json").read_text())
    first = json.dumps(description)
    for _, content in replaced(description):
        path.write_text(json.dumps(content) + "\n" + json.dumps(good) + "\n")
        check(lambda: Journal(path, description, ignore), capsys)
    for _, content in replaced(good):
        path.write_text(first + "\n" + json.dumps(content) + "\n")
        check(lambda: Journal(path, description, ignore), capsys)


def test_the_journal_of_these_tests_is_one(written: Path, tmp_path: Path) -> None:
    """Otherwise every replaced value would be refused for another reason."""
    good = (written / "batch.json").read_text()
    (tmp_path / "j").write_text(f"{json.dumps(JOURNAL)}\n{good}\n")
    taken = []
    Journal(tmp_path / "j", JOURNAL, lambda names, best: taken.append(names)).close()
    assert taken == [["a"]]


def test_a_models_configuration_with_one_value_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = {"height": 6, "width": 8}
    processor = {"image_processor_type": "DeiTImageProcessor", "size": size, "crop_size": 5}
    processor |= {"resample": 2, "do_resize": True, "rescale_factor": 0.5, "image_mean": [1, 1, 1]}
    card = {"input_size": [3, 6, 6], "crop_pct": 0.9, "interpolation": "box", "crop_mode": "squash"}
    card |= {"architecture": "x", "mean": [0, 0, 0], "std": [1, 1, 1], "num_classes": 3}
    path = tmp_path / "config.json"
    for name, good in ((f"hf:{tmp_path}", processor), (str(path), card)):
        file = tmp_path / CONFIG if name.startswith("hf:") else path
        for _, content in replaced(good):
            file.write_text(json.dumps(content))
            check(lambda name=name: load_recipe(name).plan(), capsys)
    for _, content in replaced({"id2label": {"0": "a"}, "num_labels": 1}):
        (tmp_path / CONFIG).write_text(json.dumps(processor))
        path.write_text(json.dumps(content))
        check(lambda: load_recipe(f"hf:{tmp_path}").plan(), capsys)


def test_arrays_of_any_type_as_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = [
        np.zeros((0,), np.float32),
        np.zeros((3, 0), np.float32),
        np.zeros((2, 3, 4), np.float32),
        np.float32(1),
        np.full(5, np.nan, np.float32),
        np.zeros(5, np.complex64),
        np.zeros(5, "S3"),
        np.zeros(5, [("a", "f4")]),
        np.zeros(5, "M8[s]"),
        np.zeros(5, bool),
        np.asfortranarray(np.zeros((2, 3), ">f8")),
    ]
    (tmp_path / "r").mkdir()
    for array in arrays:
        np.save(tmp_path / "r/a_0.npy", array)
        check(lambda: read_logits(tmp_path / "r/a_0.npy"), capsys)
        check(lambda: read_results(tmp_path / "r"), capsys)


def test_a_recipe_with_one_value_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = oracle.Spec().toml().splitlines()
    values = ["-1", "0", "1e400", "nan", hostile.HUGE, '""', "[]", "{}", "true", "1979-05-27", "["]
    values += ["[" * 50_000, "99999999999999999999", '"\\u0000"', "[1, 2, 3]", "[[1, 2]]"]
    for number, line in enumerate(lines):
        key, equals, _ = line.partition(" = ")
        if equals:
            for value in values:
                changed = copy.copy(lines)
                changed[number] = f"{key} = {value}"
                path = tmp_path / "mine.toml"
                path.write_text("\n".join(changed) + "\n")
                check(lambda path=path: load_recipe(str(path)).plan(), capsys)
