"""The type of .bin results, and the run that they are of: as recorded by infer, or plausible."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support import hostile
from zoofast.cli import main
from zoofast.inference.record import RecordedOutput, RunRecord, record_path
from zoofast.scoring.formats import BIN_DTYPES, MAX_SAMPLED

IMAGES = 20


def scores(classes: int) -> np.ndarray:
    """Whole numbers, which every type can hold; one maximum in each row."""
    rng = np.random.default_rng(classes)
    rows = rng.integers(0, 90, (IMAGES, classes))
    rows[np.arange(IMAGES), rng.integers(0, classes, IMAGES)] = 100
    return rows


def write_run(
    tmp_path: Path, rows: np.ndarray, dtype: str, outfmt: str = "BIN", record: bool = True
) -> tuple[Path, Path]:
    """Result files of `rows` and labels that half of the images hit."""
    folder = tmp_path / "results"
    folder.mkdir()
    for i, row in enumerate(rows.astype(dtype)):
        if outfmt == "BIN":
            row.tofile(folder / f"i{i}_0.bin")
        elif outfmt == "NPY":
            np.save(folder / f"i{i}_0.npy", row[None])
        else:
            (folder / f"i{i}_0.txt").write_text(" ".join(f"{value:f}" for value in row) + "\n")
    if record:
        recorded(folder, RecordedOutput(dtype, (1, rows.shape[1])), outfmt=outfmt)
    labels = tmp_path / "labels.txt"
    best = rows.argmax(axis=1)
    lines = [f"i{i}.JPEG {best[i] if i % 2 else (best[i] + 1) % 3}\n" for i in range(len(rows))]
    labels.write_text("".join(lines))
    return folder, labels


def recorded(folder: Path, *outputs: RecordedOutput, outfmt: str = "BIN", **more: object) -> None:
    names = tuple(f"i{i}" for i in range(IMAGES))
    RunRecord("digest", "bins", outfmt, outputs=outputs, **{"samples": names, **more}).write(folder)


def accuracy(folder: Path, labels: Path, tmp_path: Path, *options: str) -> float:
    out = tmp_path / "score.json"
    assert main(["score", str(folder), str(labels), "--json", str(out), *options]) == 0
    score = json.loads(out.read_text())
    assert score["images"] == IMAGES
    return float(score["accuracy"]["top1"])


def hits(rows: np.ndarray, labels: Path) -> float:
    truth = [int(line.split()[1]) for line in labels.read_text().splitlines()]
    offset = rows.shape[1] == 1001
    return float(np.mean(rows.argmax(axis=1) == np.array(truth) + offset))


@pytest.mark.parametrize("classes", [7, 1000])
@pytest.mark.parametrize("dtype", BIN_DTYPES)
def test_the_recorded_type_is_used(tmp_path: Path, dtype: str, classes: int) -> None:
    rows = scores(classes)
    folder, labels = write_run(tmp_path, rows, dtype)
    assert accuracy(folder, labels, tmp_path) == hits(rows, labels)
    assert main(["compare", str(folder), str(folder)]) == 0


@pytest.mark.parametrize("dtype", [dtype for dtype in BIN_DTYPES if dtype != "float32"])
def test_without_a_record_another_type_must_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    rows = scores(1000)
    folder, labels = write_run(tmp_path, rows, dtype, record=False)
    for arguments in (["score", folder, labels], ["compare", folder, folder]):
        assert "with --bin-dtype" in hostile.refused(capsys, *arguments)
    assert accuracy(folder, labels, tmp_path, "--bin-dtype", dtype) == hits(rows, labels)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "float64"])
@pytest.mark.parametrize("classes", [2, 10, 21843])
def test_values_tell_another_type_of_any_number_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str, classes: int
) -> None:
    rows = scores(classes) - (50 if dtype == "int64" else 0)
    rows = rows * 1.01 if dtype == "float64" else rows
    folder, labels = write_run(tmp_path, rows, dtype, record=False)
    if dtype == "float64":
        rng = np.random.default_rng(0)
        for file in folder.iterdir():
            (np.fromfile(file, dtype) + rng.standard_normal(classes)).tofile(file)
    assert "give its type with --bin-dtype" in hostile.refused(capsys, "score", folder, labels)


@pytest.mark.parametrize("classes", [2, 10, 999, 1000, 1001, 2048, 21843])
@pytest.mark.parametrize("kind", ["logits", "probabilities", "zeros", "one-hot"])
def test_float32_scores_need_no_type(tmp_path: Path, classes: int, kind: str) -> None:
    rows = np.random.default_rng(1).standard_normal((IMAGES, classes)) * 20
    if kind == "probabilities":
        rows = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    elif kind != "logits":
        rows[:] = 0
        rows[:, 1] = kind == "one-hot"
    folder, labels = write_run(tmp_path, rows, "float32", record=False)
    labels.write_text("".join(f"i{i}.JPEG 0\n" for i in range(IMAGES)))
    offset = classes == 1001
    assert accuracy(folder, labels, tmp_path) == np.mean(rows.argmax(axis=1) == offset)


@pytest.mark.parametrize(("classes", "other"), [(500, "float16"), (2000, "int64"), (250, "int8")])
def test_sizes_of_two_types_need_one_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: int, other: str
) -> None:
    rows = scores(classes)
    folder, labels = write_run(tmp_path, rows, "float32", record=False)
    error = hostile.refused(capsys, "score", folder, labels)
    assert "which are 1000 values if they are" in error
    assert other in error
    assert accuracy(folder, labels, tmp_path, "--bin-dtype", "float32") == hits(rows, labels)


def test_sizes_and_types_that_disagree_with_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, labels = write_run(tmp_path, scores(1000), "float32")
    error = hostile.refused(capsys, "score", folder, labels, "--bin-dtype", "float16")
    assert "infer has written float32[1,1000]; give no --bin-dtype" in error
    recorded(folder, RecordedOutput("float16", (1, 1000)))
    error = hostile.refused(capsys, "score", folder, labels)
    assert "most results have 2000 values, but by infer's record" in error
    assert str(record_path(folder)) in error
    hostile.refused(capsys, "compare", folder, folder)
    recorded(folder, RecordedOutput("bool", (1, 4000)))
    assert "bool[1,4000], no scores" in hostile.refused(capsys, "score", folder, labels)
    recorded(folder, RecordedOutput("float32", (1, 1000)), images_per_file=4)
    assert "the results of 4 images" in hostile.refused(capsys, "score", folder, labels)


def test_one_result_of_another_size_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, labels = write_run(tmp_path, scores(1000), "int64")
    (folder / "i3_0.bin").write_bytes(bytes(4000))
    assert main(["score", str(folder), str(labels)]) == 1
    shown = capsys.readouterr()
    assert "another number of classes: 1: i3_0.bin (500 values)" in shown.err
    assert shown.out.endswith(f"scored {IMAGES - 1} of {IMAGES}\n")


def test_results_of_another_run_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, labels = write_run(tmp_path, scores(7), "float32")
    stray = folder / "other_0.bin"
    np.zeros(7, np.float32).tofile(stray)
    for arguments in (["score", folder, labels], ["compare", folder, folder]):
        error = hostile.refused(capsys, *arguments)
        assert "1 results are not of the run that" in error
        assert "other_0.bin is not of its images" in error
        assert "run infer into an empty folder, or delete the record" in error
    stray.rename(folder / "i3_0.txt")
    assert "(i3_0.txt is not a .bin file)" in hostile.refused(capsys, "score", folder, labels)
    hostile.refused(capsys, "score", folder, labels, "--format", "txt")
    assert main(["score", str(folder), str(labels), "--format", "bin"]) == 0
    (folder / "i3_0.txt").unlink()
    record_path(folder).unlink()
    assert main(["score", str(folder), str(labels)]) == 0


def test_the_folder_of_one_device_has_its_parents_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = scores(1000)
    folder, labels = write_run(tmp_path, rows, "int64")
    (folder / "device0").mkdir()
    for file in folder.glob("*.bin"):
        file.rename(folder / "device0" / file.name)
    assert accuracy(folder, labels, tmp_path) == hits(rows, labels)
    assert accuracy(folder / "device0", labels, tmp_path) == hits(rows, labels)
    monkeypatch.chdir(folder)
    assert accuracy(Path("."), labels, tmp_path) == hits(rows, labels)
    assert accuracy(Path("device0"), labels, tmp_path) == hits(rows, labels)


def test_several_outputs_have_a_type_each(tmp_path: Path) -> None:
    rows = scores(1000)
    folder, labels = write_run(tmp_path, rows, "float32")
    for i, row in enumerate(rows):
        (99 - row).astype(np.int64).tofile(folder / f"i{i}_1.bin")
    recorded(folder, RecordedOutput("float32", (1, 1000)), RecordedOutput("int64", (1, 1000)))
    assert accuracy(folder, labels, tmp_path) == hits(rows, labels)
    assert accuracy(folder, labels, tmp_path, "--output-index", "1") == hits(-rows, labels)
    for file in folder.glob("*_0.bin"):
        file.unlink()  # output 1 is the lowest that is left
    assert accuracy(folder, labels, tmp_path) == hits(-rows, labels)


@pytest.mark.parametrize("outfmt", ["TXT", "NPY"])
def test_other_formats_say_their_type_themselves(tmp_path: Path, outfmt: str) -> None:
    rows = scores(1000)
    folder, labels = write_run(tmp_path, rows, "int32", outfmt)
    assert accuracy(folder, labels, tmp_path) == hits(rows, labels)


def test_a_record_without_outputs_says_nothing_of_the_type(tmp_path: Path) -> None:
    rows = scores(9)
    folder, labels = write_run(tmp_path, rows, "float32")
    record_path(folder).write_text('{"model": "digest", "input": "bins", "outfmt": "BIN"}')
    assert accuracy(folder, labels, tmp_path) == hits(rows, labels)


def test_damaged_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, labels = write_run(tmp_path, scores(9), "float32")
    path = record_path(folder)
    good = json.loads(path.read_text())
    texts = ["", "{", "[]", "3", "null", hostile.DEEP_OBJECT, "{}"]
    for key in good:
        for value in (5.5, [5], {"a": 1}, [{"dtype": "float32"}], True):
            texts.append(json.dumps({**good, key: value}))
    for dtype in ("float31", 5, "O", None, "float32,int8"):
        texts.append(json.dumps({**good, "outputs": [{"dtype": dtype, "shape": [1, 9]}]}))
    for shape in ("x", 5, [1, -9], [1, 1e400], [[1]], None):
        texts.append(json.dumps({**good, "outputs": [{"dtype": "float32", "shape": shape}]}))
    texts.append(json.dumps({**good, "images": {"i0": ["a"], "i1": ["a"]}}))
    for text in texts:
        path.write_text(text)
        assert "is a damaged record" in hostile.refused(capsys, "score", folder, labels)
    path.unlink()
    path.mkdir()
    assert "cannot be read: Is a directory" in hostile.refused(capsys, "score", folder, labels)


def test_only_some_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((3 * MAX_SAMPLED + 1, 4))
    folder, labels = write_run(tmp_path, rows, "float32", record=False)
    read = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), original(path))[1])
    assert main(["score", str(folder), str(labels)]) == 0
    assert 1 <= len([path for path in read if path.suffix == ".bin"]) <= MAX_SAMPLED


# ---- after `zoofast infer` ---------------------------------------------------


def infer(tmp_path: Path, model: Path, *options: str) -> int:
    arguments = ["--model", str(model), "--input", str(tmp_path / "in"), "--output"]
    arguments += [str(tmp_path / "out"), "--output_dirname", "r", "--batchsize", "2", "--quiet"]
    return main(["infer", *arguments, *options])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "float64"])
@pytest.mark.parametrize("options", [(), ("--device", "0,1"), ("--resume",)], ids=str)
def test_what_infer_writes_is_read_as_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, options: tuple[str, ...]
) -> None:
    model = cast_model(tmp_path / ("m.om" if "--device" in options else "m.onnx"), dtype)
    if "--device" in options:
        from tests.support import fake_aclruntime  # needs ONNX Runtime

        fake_aclruntime.install(tmp_path / "path", monkeypatch)
    rows = write_inputs(tmp_path, 6)
    assert infer(tmp_path, model, *options) == 0
    if "--resume" in options:
        assert infer(tmp_path, model, *options) == 0
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"x{i}.JPEG {row.argmax()}\n" for i, row in enumerate(rows)))
    out = tmp_path / "s.json"
    assert main(["score", str(tmp_path / "out/r"), str(labels), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["accuracy"]["top1"] == 1.0
    record = json.loads((tmp_path / "out/r_run.json").read_text())
    assert record["outputs"] == [{"dtype": dtype, "shape": [1, 1000]}]


def test_results_that_an_earlier_run_left_are_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs(tmp_path, 6)
    assert infer(tmp_path, cast_model(tmp_path / "a.onnx", "float32")) == 0
    folder, labels = tmp_path / "out/r", tmp_path / "labels.txt"
    labels.write_text("".join(f"x{i}.JPEG 1\n" for i in range(6)))
    assert main(["score", str(folder), str(labels)]) == 0
    for i in (3, 4, 5):
        (tmp_path / f"in/x{i}.bin").unlink()
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert infer(tmp_path, cast_model(tmp_path / "b.onnx", "float16")) == 0
    for name, content in kept.items():  # as infer leaves them, or an earlier infer has left them
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    assert "3 results are not of the run that" in hostile.refused(capsys, "score", folder, labels)


def cast_model(path: Path, dtype: str) -> Path:
    """Gives its input back, as another type."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kinds = onnx.helper, onnx.TensorProto
    kind = {"float16": kinds.FLOAT16, "float64": kinds.DOUBLE, "int64": kinds.INT64}.get(
        dtype, kinds.FLOAT
    )
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=kind)],
        "g",
        [helper.make_tensor_value_info("x", kinds.FLOAT, ["n", 1000])],
        [helper.make_tensor_value_info("y", kind, ["n", 1000])],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def write_inputs(tmp_path: Path, count: int) -> np.ndarray:
    rows = scores(1000)[:count]
    (tmp_path / "in").mkdir()
    for i, row in enumerate(rows):
        row.astype(np.float32).tofile(tmp_path / "in" / f"x{i}.bin")
    return rows
