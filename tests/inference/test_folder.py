"""`zoofast infer` and `zoofast bench`: ais_bench's files and words, and every way to fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto

from tests.support import eval_case, fake_aclruntime, folders, models
from zoofast.base.lock import output_lock
from zoofast.base.provenance import file_sha256
from zoofast.cli import main
from zoofast.errors import BackendError, OutputError, SourceError
from zoofast.inference import ais_bench
from zoofast.inference.backends import Times, open_backend
from zoofast.inference.inputs import list_inputs
from zoofast.inference.job import InferJob, InferReport, infer_files
from zoofast.inference.measure import search_sizes
from zoofast.inference.outputs import ResultSink, encode_rows
from zoofast.inference.record import RunRecord
from zoofast.inference.spec import ModelSpec
from zoofast.scoring.results import read_logits


def infer(folder: Path, *options: str, model: str = "", dirname: str = "r") -> int:
    model = model or models.write_model(folder / "m.onnx")
    where = ["--input", str(folder / "in"), "--output", str(folder / "out")]
    return main(["infer", "--model", model, *where, "--output_dirname", dirname, *options])


def results(folder: Path, count: int, suffix: str, dirname: str = "r") -> np.ndarray:
    names = [f"x{i}_0.{suffix}" for i in range(count)]
    assert sorted(path.name for path in (folder / "out" / dirname).iterdir()) == sorted(names)
    return np.stack([read_logits(folder / "out" / dirname / name) for name in names])


# ---- against ais_bench -------------------------------------------------------


def test_summary_words_and_numbers_are_ais_benchs(shared: Path) -> None:
    golden = json.loads((shared / "golden/ais_bench/sqz_bs4_summary.json").read_text())
    report = InferReport(4, times=Times(golden["npu_compute_time_list"]))
    lines = (shared / "golden/ais_bench/sqz_bs4.stdout.txt").read_text().splitlines()
    begin = next(i for i, line in enumerate(lines) if "Performance Summary" in line)
    assert list(ais_bench.summary_lines(report)) == lines[begin : begin + 4]
    summary = ais_bench.summary(report, golden["args"])
    assert list(summary) == list(golden)
    for key in ("args", "NPU_compute_time", "throughput", "npu_compute_time_list"):
        assert summary[key] == golden[key]
        assert str(summary[key]) == str(golden[key])  # keys in the same order


def test_files_and_names_are_ais_benchs(shared: Path, tmp_path: Path) -> None:
    golden = json.loads((shared / "golden/ais_bench/sqz_bs4_summary.json").read_text())
    sources = [info["infiles"][0] for info in golden["filesinfo"].values()]
    sink = ResultSink(Path("out/r"), "TXT", 1)
    report = InferReport(4, results=[(file, sink.files(Path(file).stem)) for file in sources])
    assert ais_bench.summary(report, [])["filesinfo"] == golden["filesinfo"]
    text = (shared / "golden/ais_bench/n01443537_goldfish_0.txt").read_bytes()
    row = read_logits(shared / "golden/ais_bench/n01443537_goldfish_0.txt")
    assert encode_rows(row[None], "TXT") == text


def test_order_of_inputs_is_natural(tmp_path: Path) -> None:
    names = ["b10.bin", "B9.bin", "a.bin", "b1.npy", "b010x.BIN", "notes.txt", "b2.bin.part"]
    for name in names:
        (tmp_path / name).touch()
    order = [Path(file).name for file in list_inputs(str(tmp_path))]
    assert order == ["a.bin", "b1.npy", "B9.bin", "b10.bin", "b010x.BIN"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int32", "uint8"])
def test_text_equals_printf(dtype: str) -> None:
    rows = (np.random.default_rng(0).standard_normal((2, 3, 4)) * 99).astype(dtype)
    number = "%f" if rows.dtype.kind == "f" else "%d"
    lines = ["".join(number % value + " " for value in row) for row in rows.reshape(-1, 4).tolist()]
    assert encode_rows(rows, "TXT").decode() == "\n".join(lines) + "\n"


def test_binary_formats_equal_numpys(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((1, 7)).astype(np.float32)
    assert encode_rows(rows, "BIN") == rows.tobytes()
    np.save(tmp_path / "a.npy", rows)
    assert encode_rows(rows, "NPY") == (tmp_path / "a.npy").read_bytes()


# ---- results -----------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 4, 16])
@pytest.mark.parametrize("fmt", ["TXT", "BIN", "NPY"])
def test_results_do_not_depend_on_the_batch(tmp_path: Path, batch: int, fmt: str) -> None:
    images = models.write_inputs(tmp_path / "in", 9)
    assert infer(tmp_path, "--outfmt", fmt, "--batchsize", str(batch)) == 0
    got = results(tmp_path, 9, fmt.lower())
    assert got == pytest.approx(models.logits(images), rel=1e-5, abs=1e-5)
    summary = json.loads((tmp_path / "out/r_summary.json").read_text())
    assert summary["NPU_compute_time"]["count"] == -(-9 // batch)
    assert summary["filesinfo"]["8"]["outfiles"] == [str(tmp_path / f"out/r/x8_0.{fmt.lower()}")]


def test_npy_inputs_and_several_outputs(tmp_path: Path) -> None:
    images = models.write_inputs(tmp_path / "in", 3)
    for i, image in enumerate(images):
        (tmp_path / f"in/x{i}.bin").unlink()
        np.save(tmp_path / f"in/x{i}.npy", image[None])
    model = models.write_model(tmp_path / "m.onnx", 2, outputs=2)
    assert infer(tmp_path, "--outfmt", "NPY", model=model) == 0
    for i, row in enumerate(models.logits(images)):
        for output, sign in ((0, 1), (1, -1)):
            saved = np.load(tmp_path / f"out/r/x{i}_{output}.npy")
            assert saved.shape == (1, models.CLASSES)
            assert saved[0] == pytest.approx(sign * row, rel=1e-5, abs=1e-5)


def test_a_model_of_several_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, where = models.write_pair_model(tmp_path / "m.onnx"), models.write_pairs(tmp_path, 7)
    words = ["infer", "-m", model, "--batchsize", "4", "-o", str(tmp_path), "--output_dirname", "r"]
    words += ["--outfmt", "NPY", "-i"]
    assert main([*words, where]) == 0
    images = np.stack([np.fromfile(tmp_path / f"image/x{i}.bin", np.float32) for i in range(7)])
    models.check_pairs(tmp_path / "r", images)
    summary = json.loads((tmp_path / "r_summary.json").read_text())
    assert summary["filesinfo"]["6"]["infiles"] == [
        str(tmp_path / "image/x6.bin"),
        str(tmp_path / "shift/s6.bin"),
    ]
    (tmp_path / "shift/s3.bin").write_bytes(bytes(8))
    assert main([*words, where]) == 1
    assert len(list((tmp_path / "r").iterdir())) == 6 * 4
    assert f"x3.bin ({tmp_path / 'shift/s3.bin'}: 8 bytes, not " in capsys.readouterr().err
    assert main([*words, str(tmp_path / "image")]) == 2
    assert "has 2 inputs (image, shift), --input names 1; " in capsys.readouterr().err
    (tmp_path / "shift/s5.bin").unlink()
    assert main([*words, where]) == 2
    assert "shift: holds 6 files, but " in capsys.readouterr().err


def test_batch_packed_files(tmp_path: Path) -> None:
    images = models.write_inputs(tmp_path / "in", 6)
    for i in range(6):
        (tmp_path / f"in/x{i}.bin").unlink()
    for i in range(3):
        images[2 * i : 2 * i + 2].tofile(tmp_path / f"in/x{i}.bin")
    model = models.write_model(tmp_path / "m.onnx", 4)
    assert infer(tmp_path, "--images-per-file", "2", "--outfmt", "NPY", model=model) == 0
    got = np.concatenate([np.load(tmp_path / f"out/r/x{i}_0.npy") for i in range(3)])
    assert got == pytest.approx(models.logits(images), rel=1e-5, abs=1e-5)
    assert infer(tmp_path, "--images-per-file", "3", model=model) == 2


@pytest.mark.parametrize("suffix", ["bin", "npy"])
def test_images_per_file_are_found_by_the_size(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = models.write_inputs(tmp_path / "in", 6)
    for i in range(6):
        (tmp_path / f"in/x{i}.bin").unlink()
    for i in range(3):
        pair = images[2 * i : 2 * i + 2]
        file = tmp_path / f"in/x{i}.{suffix}"
        pair.tofile(file) if suffix == "bin" else np.save(file, pair)
    (tmp_path / "in/a.bin").write_bytes(b"broken")  # the first file
    model = models.write_model(tmp_path / "m.onnx", 4)
    assert infer(tmp_path, "--outfmt", "NPY", model=model) == 1
    shown = capsys.readouterr()
    assert "each file holds 2 images" in shown.out
    assert f"{tmp_path}/in/a.bin (6 bytes, not 2 * 192 bytes" in shown.err
    record = RunRecord.read(tmp_path / "out/r")
    assert record is not None
    assert record.images_per_file == 2
    whole = result_bytes(tmp_path / "out/r")
    got = np.concatenate([np.load(tmp_path / f"out/r/x{i}_0.npy") for i in range(3)])
    assert got == pytest.approx(models.logits(images), rel=1e-5, abs=1e-5)
    (tmp_path / "in/a.bin").unlink()
    (tmp_path / "out/r/x1_0.npy").unlink()
    assert infer(tmp_path, "--outfmt", "NPY", "--resume", model=model) == 0
    assert "inferred 3 of 3 files (2 by an earlier run)" in capsys.readouterr().out
    assert result_bytes(tmp_path / "out/r") == whole
    assert infer(tmp_path, "--images-per-file", "1", model=model) == 2  # demanded


@pytest.mark.parametrize("shape", [(24,), (8, 3)])
@pytest.mark.parametrize("suffix", ["onnx", "om"])
def test_outputs_whose_first_dimension_is_not_the_batch(
    shape: tuple[int, ...],
    suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each file gets an equal part of the first axis, as ais_bench divides with array_split."""
    import onnx
    from onnx import helper, numpy_helper

    fake_aclruntime.install(tmp_path / "path", monkeypatch)
    path = tmp_path / f"m.{suffix}"
    models.write_model(path, 4)
    model = onnx.load(path, format="protobuf")
    for node in model.graph.node:
        if node.output[0] == "class":
            node.output[0] = "rows"
    model.graph.node.pop()  # the negated scores
    model.graph.node.append(helper.make_node("Reshape", ["rows", "shape"], ["class"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape), "shape"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("class", 1, shape))
    onnx.save(model, path, format="protobuf")
    images = models.write_inputs(tmp_path / "in", 4)
    assert infer(tmp_path, "--outfmt", "NPY", model=str(path)) == 0
    for i, part in enumerate(np.array_split(models.logits(images).reshape(shape), 4)):
        got = np.load(tmp_path / f"out/r/x{i}_0.npy")
        assert got == pytest.approx(part, rel=1e-5, abs=1e-5)
    files = folders.good_files(4)
    folders.write(tmp_path / "images", files)
    (tmp_path / "labels.txt").write_text("".join(f"{name} 0\n" for name in files))
    words = [str(path), str(tmp_path / "images"), str(tmp_path / "labels.txt")]
    recipe = folders.recipe_file(tmp_path, eval_case.SPEC)
    assert main(["eval", *words, "--recipe", recipe]) == 2
    error = capsys.readouterr().err
    assert "has no row for each image" in error
    assert error.count("\n") == 1


def test_beside_a_manifest_of_prep_each_file_is_one_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice the size is float32 where the model takes float16, and not two images."""
    images = models.write_inputs(tmp_path / "in", 4)
    for i in range(4):
        images[[i, i]].tofile(tmp_path / f"in/x{i}.bin")
    manifest = {
        "state": "complete",
        "recipe": {"name": "r", "digest": "d"},
        "options": {"format": "bin"},
        "resize_order": "pillow-13.0",
        "names": [f"x{i}" for i in range(4)],
        "failures": [],
    }
    (tmp_path / "in/zoofast-prep.json").write_text(json.dumps(manifest))
    model = models.write_model(tmp_path / "m.onnx", 4)
    assert infer(tmp_path, model=model) == 2
    assert "were they prepared for another model, type or layout?" in capsys.readouterr().err


def test_devices_must_find_the_same_images_per_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch)
    images = models.write_inputs(tmp_path / "in", 6)
    images[:2].tofile(tmp_path / "in/x0.bin")
    images[:2].tofile(tmp_path / "in/x1.bin")
    model = models.write_model(tmp_path / "m.om", 2)
    for i in range(4, 6):
        (tmp_path / f"in/x{i}.bin").unlink()
    assert infer(tmp_path, "--device", "0,1", model=model) == 2
    assert "give --images-per-file" in capsys.readouterr().err


def test_several_devices_divide_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch)
    images = models.write_inputs(tmp_path / "in", 5)
    model = models.write_model(tmp_path / "m.om", 2)
    assert infer(tmp_path, "--device", "0,3", "--outfmt", "TXT", model=model) == 0
    shown = capsys.readouterr().out
    assert "i:0 device_0 throughput:" in shown
    assert "i:1 device_3 throughput:" in shown
    assert "[INFO] summary throughput:" in shown
    assert "inferred 5 of 5 files" in shown
    out = tmp_path / "out/r"
    for device, numbers in ((0, (0, 1)), (3, (2, 3, 4))):
        assert (out / f"device{device}_summary.json").is_file()
        for i in numbers:
            row = read_logits(out / f"device{device}/x{i}_0.txt")
            assert row == pytest.approx(models.logits(images)[i], rel=1e-4, abs=1e-5)


def test_pure_inference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = models.write_model(tmp_path / "m.onnx", 4)
    numbers = tmp_path / "n.json"
    options = ["--loop", "7", "--json", str(numbers), "--output", str(tmp_path / "out")]
    assert main(["infer", "--model", model, *options, "--output_dirname", "p"]) == 0
    shown = capsys.readouterr().out
    assert "[INFO] throughput 1000*batchsize.mean(4)/NPU_compute_time.mean(" in shown
    values = json.loads(numbers.read_text())
    assert values["images"] == 28
    assert list(values["latency_ms"]) == ["min", "mean", "median", "p90", "p99", "max"]
    assert values["latency_ms"]["min"] <= values["latency_ms"]["p99"]
    summary = json.loads((tmp_path / "out/p_summary.json").read_text())
    result = str(tmp_path / "out/p/pure_infer_data_0.bin")
    assert summary["filesinfo"] == {"0": {"infiles": ["pure_infer_data"], "outfiles": [result]}}
    assert Path(result).read_bytes() == bytes(4 * models.CLASSES * 4)
    assert summary["NPU_compute_time"]["count"] == 7


def test_null_backend(tmp_path: Path) -> None:
    models.write_inputs(tmp_path / "in", 3)
    spec = "2x3x4x4:float32:5"
    assert infer(tmp_path, "--backend", "null", "--outfmt", "TXT", model=spec) == 0
    assert results(tmp_path, 3, "txt").tolist() == [[-0.0, -1, -2, -3, -4]] * 3
    for bad in ("m.onnx", "2", "0x3", "2x3:float8"):
        with pytest.raises(BackendError, match="made-up model is SHAPE"):
            open_backend(bad, "null")


def test_the_whole_way_gives_the_golden_accuracy(shared: Path, tmp_path: Path) -> None:
    """Golden scores as the model: each input holds its row, and the model passes it on."""
    from onnx import helper, save

    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 1000]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", info[:1], info[1:])
    opset = [helper.make_opsetid("", 13)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    (tmp_path / "in").mkdir()
    golden = shared / "golden/txt/squeezenet1_1"
    for file in golden.iterdir():
        read_logits(file).tofile(tmp_path / "in" / f"{file.stem.removesuffix('_0')}.bin")
    model = str(tmp_path / "m.onnx")
    assert infer(tmp_path, "--outfmt", "TXT", "--batchsize", "7", model=model) == 0
    for file in golden.iterdir():
        assert (tmp_path / "out/r" / file.name).read_bytes() == file.read_bytes()
    labels = str(shared / "imagenet-sample/val_label.txt")
    out = tmp_path / "result.json"
    assert main(["score", str(tmp_path / "out/r"), labels, "-o", str(out)]) == 0
    assert out.read_bytes() == (shared / "golden/txt/squeezenet1_1.json").read_bytes()


# ---- what does not fit -------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"batch": 4}, "is made for batch size 4 only; give --batchsize 4, or"),
        ({"image": (3, "H", "W")}, r"input image is \[\?x3x\?x\?\]; only the batch"),
        ({"dtype": TensorProto.BOOL}, r"image is a tensor\(bool\), not supported"),
    ],
)
def test_models_that_do_not_fit(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    model = models.write_model(tmp_path / "m.onnx", **options)
    with pytest.raises(BackendError, match=why):
        open_backend(model, batch=3)


def test_models_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.onnx").write_text("not a model")
    with pytest.raises(BackendError, match=r"bad\.onnx: cannot be loaded: "):
        open_backend(str(tmp_path / "bad.onnx"))
    with pytest.raises(BackendError, match="no such model file"):
        open_backend(str(tmp_path / "absent.onnx"))
    with pytest.raises(BackendError, match=r"not an \.onnx or \.om file; name its backend"):
        open_backend(str(tmp_path / "model.pth"))
    with pytest.raises(BackendError, match="no such backend; there are onnxruntime, acl"):
        open_backend("m.onnx", "tensorrt")
    model = models.write_model(tmp_path / "m.onnx")
    with pytest.raises(BackendError, match=r"no such provider; it has .*CPU"):
        open_backend(model, provider="TPU")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"needs ONNX Runtime: pip install 'zoofast\[infer\]'"):
        open_backend(model)


def test_batches_that_do_not_fit(tmp_path: Path) -> None:
    with open_backend(models.write_model(tmp_path / "m.onnx", 2)) as model:
        for batch in (
            np.zeros((1, *models.IMAGE), np.float32),
            np.zeros((2, *models.IMAGE), np.float64),
            np.zeros((2, *models.IMAGE[::-1]), np.float32),
        ):
            with pytest.raises(BackendError, match=r"input image float32\[2x3x4x4\]: the batch is"):
                model.infer(batch)
        with pytest.raises(BackendError, match="not C-contiguous"):
            model.infer(np.zeros((2, 3, 4, 8), np.float32)[..., ::2])


def test_inputs_of_another_model_are_refused_before_the_run(tmp_path: Path) -> None:
    models.write_inputs(tmp_path / "in", 2)
    model = models.write_model(tmp_path / "m.onnx", dtype=TensorProto.UINT8)
    with pytest.raises(SourceError, match=r"192 bytes, not 1 \* 48 bytes for image uint8.*other"):
        InferJob(ModelSpec(model), list_inputs(str(tmp_path / "in"))).run()
    assert infer(tmp_path, model=model) == 2
    assert not list((tmp_path / "out/r").iterdir())


def test_a_recipe_must_fit_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = models.write_model(tmp_path / "m.onnx", 2)
    assert main(["infer", "--model", model, "--recipe", "alexnet"]) == 2
    error = capsys.readouterr().err
    assert "recipe alexnet makes actual_input_1 float32[2x3x224x224], but" in error
    assert "takes image float32[2x3x4x4]" in error


@pytest.mark.parametrize("broken", [b"", b"short", bytes(193)])
@pytest.mark.parametrize("where", [0, 2, 4])
def test_one_broken_file_among_many(
    tmp_path: Path, where: int, broken: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    images = models.write_inputs(tmp_path / "in", 5)
    bad = tmp_path / f"in/x{where}.bin"
    bad.write_bytes(broken)
    assert infer(tmp_path, "--batchsize", "2", "--json", str(tmp_path / "n.json")) == 1
    shown = capsys.readouterr()
    assert f"files left out: 1: {bad} ({len(broken)} bytes, not 1 * 192 bytes" in shown.err
    assert "inferred 4 of 5 files" in shown.out
    assert list(json.loads((tmp_path / "n.json").read_text())["failures"]) == [str(bad)]
    for i in set(range(5)) - {where}:
        row = read_logits(tmp_path / f"out/r/x{i}_0.bin")
        assert row == pytest.approx(models.logits(images)[i], rel=1e-5, abs=1e-5)
    assert not (tmp_path / f"out/r/x{where}_0.bin").exists()
    assert infer(tmp_path, "--on-error", "stop") == 2


def test_odd_npy_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.write_inputs(tmp_path / "in", 1)
    np.save(tmp_path / "in/y.npy", np.zeros(models.IMAGE))
    (tmp_path / "in/z.npy").write_bytes(b"nothing")
    (tmp_path / "in/a.npy").touch()
    np.savez(tmp_path / "in/b.npy", np.zeros(3))
    (tmp_path / "in/b.npy.npz").rename(tmp_path / "in/b.npy")
    os.mkfifo(tmp_path / "in/pipe.bin")
    os.mkfifo(tmp_path / "in/q.npy")
    assert infer(tmp_path, "--json", str(tmp_path / "n.json")) == 1
    error = capsys.readouterr().err
    assert "a.npy (not a .npy file of numbers)" in error
    reasons = json.loads((tmp_path / "n.json").read_text())["failures"]
    said = {Path(file).name: reason for file, reason in reasons.items()}
    assert said.pop("y.npy").startswith("float64[3, 4, 4], 384 bytes, not 1 * 192 bytes")
    assert said == {
        **dict.fromkeys(["a.npy", "b.npy", "z.npy"], "not a .npy file of numbers"),
        **dict.fromkeys(["pipe.bin", "q.npy"], "not a regular file"),
    }


@pytest.mark.parametrize("inside", ["out/r", "out/r/device1"])
def test_results_do_not_replace_inputs(
    tmp_path: Path, inside: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / inside).mkdir(parents=True)
    models.write_inputs(tmp_path / inside, 1)
    shutil.copy(tmp_path / inside / "x0.bin", tmp_path / inside / "x0_0.bin")
    before = (tmp_path / inside / "x0_0.bin").read_bytes()
    assert infer(tmp_path, "--input", str(tmp_path / inside)) == 2
    assert "--input lies in the folder of the results" in capsys.readouterr().err
    assert (tmp_path / inside / "x0_0.bin").read_bytes() == before


def test_inputs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        list_inputs(str(tmp_path / "absent"))
    with pytest.raises(SourceError, match=r"holds no \.bin or \.npy files"):
        list_inputs(str(tmp_path))
    (tmp_path / "a.1.bin").touch()
    (tmp_path / "a.2.bin").touch()
    with pytest.raises(SourceError, match="would both give a_0, since names end"):
        list_inputs(str(tmp_path))


# ais_bench's options and their defaults, of 2023-06, and the later ones that have a default
AIS_BENCH_DEFAULTS = {
    "outfmt": "BIN",
    "loop": "1",
    "debug": "0",
    "device": "0",
    "dymBatch": "0",
    "auto_set_dymshape_mode": "0",
    "auto_set_dymdims_mode": "0",
    "pure_data_type": "zero",
    "profiler": "0",
    "dump": "0",
    "output_batchsize_axis": "0",
    "run_mode": "array",
    "display_all_summary": "0",
    "warmup_count": "1",
    "pipeline": "0",
    "profiler_rename": "1",
    "divide_input": "0",
    "threads": "1",
}


@pytest.mark.parametrize("separator", ["_", "-"])
def test_ais_benchs_options_are_accepted_at_their_defaults(tmp_path: Path, separator: str) -> None:
    models.write_inputs(tmp_path / "in", 2)
    where = {"input": tmp_path / "in", "output": tmp_path / "out", "output_dirname": "r/"}
    where["model"] = models.write_model(tmp_path / "m.onnx")
    words = ["infer"]
    for name, value in {**where, **AIS_BENCH_DEFAULTS}.items():
        words += ["--" + name.replace("_", separator), str(value)]
    assert main(words) == 0
    assert sorted(path.name for path in (tmp_path / "out/r").iterdir()) == ["x0_0.bin", "x1_0.bin"]


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        ("--dymHW 224", "'224' is not H,W, as 224,224"),
        ("--dymShape image:0", "is not NAME:N,C,H,W"),
        ("--auto-set-dymdims-mode 1", "with --dymShape or --dymDims"),
        ("--profiler true", "zoofast profile"),
        ("--dump 1", "use ais_bench"),
        ("--acl_json_path acl.json", "use ais_bench"),
        ("--output_batchsize_axis 1", "the batch is the first axis"),
        ("--threads 2", "--device 0,1"),
        ("--run_mode fast", "'fast' is not supported; leave it out"),
        ("--display_all_summary 2", "'2' is neither true nor false"),
    ],
)
def test_other_values_of_ais_benchs_options_are_refused(
    words: str, cure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["infer", "--model", "m.om", *words.split()])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"zoofast: error: argument {words[:5]}")
    assert cure in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("value", "shown"), [("1", 1), ("TRUE", 1), ("0", 0), ("no", 0)])
def test_display_all_summary(
    value: str,
    shown: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch)
    model = models.write_model(tmp_path / "m.om", 2)
    assert main(["infer", "--model", model, "--display_all_summary", value]) == 0
    assert capfd.readouterr().out.count("[INFO] H2D_latency (ms): ") == shown


def test_several_files_as_input(tmp_path: Path) -> None:
    images = models.write_inputs(tmp_path / "in", 5)
    files = [str(tmp_path / f"in/x{i}.bin") for i in (3, 0, 4)]
    model = models.write_model(tmp_path / "m.onnx", 2)
    words = ["infer", "-m", model, "-i", ",".join(files), "-o", str(tmp_path / "out")]
    assert main([*words, "--output_dirname", "r"]) == 0
    summary = json.loads((tmp_path / "out/r_summary.json").read_text())
    assert [info["infiles"][0] for info in summary["filesinfo"].values()] == files
    for i in (3, 0, 4):
        row = read_logits(tmp_path / f"out/r/x{i}_0.bin")
        assert row == pytest.approx(models.logits(images)[i], rel=1e-5, abs=1e-5)
    (tmp_path / "in/a,b.bin").touch()
    assert list_inputs(str(tmp_path / "in/a,b.bin")) == [str(tmp_path / "in/a,b.bin")]
    for bad, why in (
        (f"{files[0]},{tmp_path / 'in'}", "is a folder; name one folder, or files with commas"),
        (f"{files[0]},absent.bin", r"^absent.bin: no such folder, nor"),
        (f"{files[0]},", "no such folder, nor"),
        (f"{files[0]},{files[0]}", "is named twice"),
        (",".join(files * 300), "is named twice"),  # longer than a path may be
    ):
        with pytest.raises(SourceError, match=why):
            list_inputs(bad)


def test_a_failing_device_ends_the_run_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch)
    models.write_inputs(tmp_path / "in", 4)
    for i in (2, 3):  # the second device's inputs
        (tmp_path / f"in/x{i}.bin").write_bytes(b"")
    model = models.write_model(tmp_path / "m.om", 1)
    assert infer(tmp_path, "--device", "0,3", model=model) == 2
    assert "device 3: " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["infer", "bench", "eval"])
def test_the_cpu_has_no_device_above_0(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = models.write_model(tmp_path / "m.onnx")
    words = [command, model] if command == "eval" else [command, "--model", model]
    if command == "eval":
        files = folders.good_files(1)
        folders.write(tmp_path / "images", files)
        (tmp_path / "labels.txt").write_text("".join(f"{name} 0\n" for name in files))
        words += [str(tmp_path / "images"), str(tmp_path / "labels.txt"), "--recipe", "alexnet"]
    assert main([*words, "-d", "99"]) == 2
    error = capsys.readouterr().err
    assert "m.onnx: ONNX Runtime on the CPU has no device 99, only 0; leave out --device" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--output_dirname", "x"],
        ["--resume"],
        ["--device", "0,0"],
        ["--device", "256"],
        ["--loop", "0"],
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: list[str]) -> None:
    model = models.write_model(tmp_path / "m.onnx")
    try:
        assert main(["infer", "--model", model, *options]) == 2
    except SystemExit as error:
        assert error.code == 2


# ---- interrupted, resumed, full ----------------------------------------------


def summarized(tmp_path: Path) -> list[tuple[str, list[str]]]:
    """The inputs and their results in ais_bench's summary file."""
    infos = json.loads((tmp_path / "out/r_summary.json").read_text())["filesinfo"]
    folder = tmp_path / "out/r"
    return [
        (Path(info["infiles"][0]).stem, [str(Path(path).relative_to(folder)) for path in files])
        for info in infos.values()
        if (files := info["outfiles"])
    ]


def test_resume_does_only_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.write_inputs(tmp_path / "in", 6)
    model = models.write_model(tmp_path / "m.onnx")
    assert infer(tmp_path, model=model, dirname="whole") == 0
    assert infer(tmp_path, model=model) == 0
    folder = tmp_path / "out/r"
    (folder / "x1_0.bin").unlink()
    (folder / "x4_0.bin").unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    capsys.readouterr()
    assert infer(tmp_path, "--resume", model=model) == 0
    assert "inferred 6 of 6 files (4 by an earlier run)" in capsys.readouterr().out
    assert summarized(tmp_path) == [(f"x{i}", [f"x{i}_0.bin"]) for i in range(6)]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for path in (tmp_path / "out/whole").iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert infer(tmp_path, "--resume", model=model) == 0  # nothing left
    assert "inferred 6 of 6 files (6 by an earlier run)" in capsys.readouterr().out


def test_resume_of_another_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models.write_inputs(tmp_path / "in", 2)
    assert infer(tmp_path) == 0
    other = models.write_model(tmp_path / "other.onnx", outputs=2)
    assert infer(tmp_path, "--resume", model=other) == 2
    assert "holds a run of another model" in capsys.readouterr().err
    weights = models.write_external_model(tmp_path / "large.onnx")
    assert infer(tmp_path, model=str(tmp_path / "large.onnx")) == 0
    models.change_byte(weights)
    assert infer(tmp_path, "--resume", model=str(tmp_path / "large.onnx")) == 2
    assert "holds a run of another model" in capsys.readouterr().err
    (tmp_path / "out/r_run.json").write_text("{")
    assert infer(tmp_path, "--resume") == 2
    assert "is a damaged record" in capsys.readouterr().err
    (tmp_path / "out/r_run.json").unlink()
    assert infer(tmp_path, "--resume") == 2
    assert "holds results of an unknown run" in capsys.readouterr().err


def result_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*_*.*")}


def test_resume_needs_every_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.write_inputs(tmp_path / "in", 6)
    model = models.write_model(tmp_path / "m.onnx", outputs=2)
    assert infer(tmp_path, model=model) == 0
    whole = result_bytes(tmp_path / "out/r")
    assert len(whole) == 12
    for name in ("x0_0.bin", "x2_1.bin", "x5_0.bin", "x5_1.bin"):  # killed between two outputs
        (tmp_path / "out/r" / name).unlink()
    capsys.readouterr()
    assert infer(tmp_path, "--resume", model=model) == 0
    assert "inferred 6 of 6 files (3 by an earlier run)" in capsys.readouterr().out
    assert result_bytes(tmp_path / "out/r") == whole


@pytest.mark.parametrize("fmt", ["BIN", "NPY", "TXT"])
def test_resume_needs_whole_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fmt: str
) -> None:
    models.write_inputs(tmp_path / "in", 6)
    model = models.write_model(tmp_path / "m.onnx", outputs=2)
    assert infer(tmp_path, "--outfmt", fmt, model=model) == 0
    whole = result_bytes(tmp_path / "out/r")
    for name, nbytes in (("x1_0", 0), ("x3_1", 5), ("x4_0", -1)):  # a power failure
        file = tmp_path / f"out/r/{name}.{fmt.lower()}"
        file.write_bytes(file.read_bytes()[:nbytes])
    capsys.readouterr()
    assert infer(tmp_path, "--outfmt", fmt, "--resume", model=model) == 0
    assert "inferred 6 of 6 files (3 by an earlier run)" in capsys.readouterr().out
    assert result_bytes(tmp_path / "out/r") == whole


def test_a_new_run_replaces_a_damaged_record(tmp_path: Path) -> None:
    models.write_inputs(tmp_path / "in", 2)
    assert infer(tmp_path) == 0
    whole = result_bytes(tmp_path / "out/r")
    (tmp_path / "out/r_run.json").write_text("{")
    assert infer(tmp_path) == 0
    assert result_bytes(tmp_path / "out/r") == whole
    assert RunRecord.read(tmp_path / "out/r") is not None


def test_a_resumed_run_on_other_devices_leaves_no_second_result(tmp_path: Path) -> None:
    models.write_inputs(tmp_path / "in", 6)
    spec = "2x3x4x4:float32:5"
    null = ["--backend", "null", "--outfmt", "TXT"]
    assert infer(tmp_path, *null, "--device", "0,1", model=spec) == 0
    assert infer(tmp_path, *null, "--device", "2", "--resume", model=spec) == 0
    (tmp_path / "out/r/device0/x1_0.txt").unlink()
    assert infer(tmp_path, *null, "--device", "2", "--resume", model=spec) == 0
    assert len(list((tmp_path / "out/r").rglob("*.txt"))) == 6
    assert summarized(tmp_path) == [
        (f"x{i}", [("" if i == 1 else f"device{i // 3}/") + f"x{i}_0.txt"]) for i in range(6)
    ]


@pytest.mark.parametrize("fmt", ["BIN", "TXT"])
def test_a_run_replaces_all_results_of_the_run_before(tmp_path: Path, fmt: str) -> None:
    """Another model, fewer inputs, another format, one output less: nothing old stays."""
    models.write_inputs(tmp_path / "in", 9)
    assert infer(tmp_path, model=models.write_model(tmp_path / "two.onnx", outputs=2)) == 0
    for i in range(2, 9):
        (tmp_path / f"in/x{i}.bin").unlink()
    other = models.write_model(tmp_path / "other.onnx", 2)
    assert infer(tmp_path, "--outfmt", fmt, model=other) == 0
    names = {path.name for path in (tmp_path / "out/r").iterdir()}
    assert names == {f"x{i}_0.{fmt.lower()}" for i in range(2)}
    record = RunRecord.read(tmp_path / "out/r")
    assert record is not None
    assert record.samples == ("x0", "x1")
    assert [str(output) for output in record.outputs] == [f"float32[1,{models.CLASSES}]"]
    assert record.model == file_sha256(other)


def test_results_that_no_run_recorded_are_not_mixed_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models.write_inputs(tmp_path / "in", 2)
    (tmp_path / "out/r").mkdir(parents=True)
    (tmp_path / "out/r/stranger_0.bin").write_bytes(b"by another program")
    (tmp_path / "out/r/x0_0.txt").write_bytes(b"by another program")
    assert infer(tmp_path) == 2
    assert "holds 1 results of other inputs (stranger)" in capsys.readouterr().err
    assert (tmp_path / "out/r/x0_0.txt").exists()
    (tmp_path / "out/r/stranger_0.bin").unlink()
    assert infer(tmp_path) == 0
    assert {path.name for path in (tmp_path / "out/r").iterdir()} == {"x0_0.bin", "x1_0.bin"}


@pytest.mark.parametrize("how", ["no model", "damaged model", "other input", "other batch"])
@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_failed_start_deletes_no_result(tmp_path: Path, how: str, more: list[str]) -> None:
    models.write_inputs(tmp_path / "in", 5)
    assert infer(tmp_path) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    model = tmp_path / "other.onnx"
    if how == "damaged model":
        model.write_bytes(b"no model")
    elif how == "other input":
        models.write_model(model, dtype=TensorProto.UINT8)
    elif how == "other batch":
        models.write_model(model, 4)
        more = [*more, "--batchsize", "3"]
    assert infer(tmp_path, *more, model=str(model)) == 2
    after = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert after == before


def test_two_runs_with_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.write_inputs(tmp_path / "in", 2)
    assert infer(tmp_path) == 0
    folder = tmp_path / "out/r"
    with output_lock(folder, folder.with_name(".r.lock")):
        assert infer(tmp_path) == 2
    assert f"r is in use by process {os.getpid()}" in capsys.readouterr().err
    assert infer(tmp_path) == 0


def test_a_new_run_drops_the_results_it_would_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch)
    models.write_inputs(tmp_path / "in", 3)
    model = models.write_model(tmp_path / "m.om", 1)
    assert infer(tmp_path, "--device", "0,1", model=model) == 0
    assert infer(tmp_path) == 0
    assert not list((tmp_path / "out/r").glob("device*/*"))
    assert len(list((tmp_path / "out/r").glob("*.bin"))) == 3


SLOW = """
import sys, time
from zoofast.inference.backends.null import NullModel
fast = NullModel.infer
def slow(self, *batch, loop=1):
    time.sleep(0.2)
    return fast(self, *batch, loop=loop)
NullModel.infer = slow
from zoofast.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed_equals_undisturbed(tmp_path: Path, how: signal.Signals) -> None:
    models.write_inputs(tmp_path / "in", 60)
    spec = "2x3x4x4:float32:5"
    where = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    words = ["infer", "--backend", "null", "--model", spec, *where, "--outfmt", "TXT"]
    words += ["--output_dirname", "r"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    folder = tmp_path / "out/r"
    deadline = time.monotonic() + 300
    while len(list(folder.glob("*.txt"))) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    _, error = process.communicate(timeout=300)
    done = {path.name: path.read_bytes() for path in folder.glob("*.txt")}
    assert 6 <= len(done) < 60
    assert set(done.values()) == {b"-0.000000 -1.000000 -2.000000 -3.000000 -4.000000 \n"}
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert b"to continue, repeat the command with --resume" in error
    assert main([*words, "--resume"]) == 0
    assert len(list(folder.glob("*.txt"))) == 60


def test_a_full_disk_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models.write_inputs(tmp_path / "in", 20)
    write = Path.replace
    wrote = []

    def full(self: Path, target: Path) -> Path:
        if self.name.startswith(".x") and len(wrote) == 3:
            raise OSError(28, os.strerror(28))
        wrote.append(target)
        return write(self, target)

    monkeypatch.setattr(Path, "replace", full)
    wrote.clear()
    assert infer(tmp_path) == 2
    error = capsys.readouterr().err
    assert "_0.bin: cannot be written: No space left on device" in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "out/r").glob(".*"))  # no half-written file


def test_too_little_space_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=65 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with open_backend("1x3x4x4", "null") as model:
        sink = ResultSink(tmp_path, "TXT", 1)
        sink.check_space(10, model.outputs, 1)
        with pytest.raises(OutputError, match=r"need [\d,]+ bytes, .* and 68,157,440 are free"):
            sink.check_space(1000, model.outputs, 1)


def test_a_failing_model_ends_the_run(tmp_path: Path) -> None:
    models.write_inputs(tmp_path / "in", 10)

    class Failing:
        calls = 0

        def __init__(self, model: Any) -> None:
            self.model, self.outputs = model, model.outputs
            self.input, self.inputs = model.input, model.inputs

        def infer(self, *batch: Any, loop: int = 1) -> Any:
            self.calls += 1
            if self.calls == 3:
                raise BackendError("the device is gone")
            return self.model.infer(*batch, loop=loop)

    (tmp_path / "out").mkdir()
    with open_backend("2x3x4x4", "null") as model:
        failing: Any = Failing(model)
        sink = ResultSink(tmp_path / "out", "TXT", 1)
        with pytest.raises(BackendError, match="the device is gone"):
            infer_files(failing, list_inputs(str(tmp_path / "in")), sink)
    assert len(list((tmp_path / "out").iterdir())) == 4  # what was computed is written


# ---- bench -------------------------------------------------------------------


def test_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for size in (1, 2):
        models.write_model(tmp_path / f"m_bs{size}.onnx", size)
    outputs = [str(tmp_path / name) for name in ("b.md", "b.json")]
    template = str(tmp_path / "m_bs{bs}.onnx")
    options = ["--batchsize", "1,2", "--loop", "3", "--markdown", outputs[0], "--json", outputs[1]]
    assert main(["bench", "--model", template, *options]) == 0
    assert "best" in capsys.readouterr().out
    numbers = json.loads(Path(outputs[1]).read_text())
    assert [row["batchsize"] for row in numbers["rows"]] == [1, 2]
    best = [row for row in numbers["rows"] if row["best"]]
    fastest = max(row["images_per_second"] for row in numbers["rows"])
    assert [row["images_per_second"] for row in best] == [fastest]
    for row in numbers["rows"]:
        mean = row["latency_ms"]["mean"]
        assert row["images_per_second"] == pytest.approx(1000 * row["batchsize"] / mean)
        (level,) = row["levels"]
        assert level["concurrency"] == 1
        # the device's time of a batch is a part of the time from host to host
        assert level["host_latency_ms"]["min"] >= row["latency_ms"]["min"]
    table = Path(outputs[0]).read_text().splitlines()
    assert table[0].startswith("| batch size | img/s |")
    assert len(table) == 4
    assert sum("**" in line for line in table) == 1


def test_bench_at_several_levels_and_for_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, numbers = models.write_model(tmp_path / "m.onnx"), tmp_path / "b.json"
    words = ["bench", "-m", model, "--batchsize", "2", "--json", str(numbers), "--concurrency"]
    assert main([*words, "1,2", "--duration", "0.05"]) == 0
    found = json.loads(numbers.read_text())
    assert (found["loop"], found["duration"]) == (None, 0.05)
    assert [level["concurrency"] for level in found["rows"][0]["levels"]] == [1, 2]
    assert found["rows"][0]["images_per_second"] > 0
    capsys.readouterr()
    null = ["bench", "-m", "4x3x8x8", "--backend", "null", "--batchsize", "4", "--concurrency", "2"]
    assert main(null) == 2
    assert "takes at most 1 batch at a time, not 2" in capsys.readouterr().err


def test_bench_looks_for_the_best_size_within_a_latency(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Limits that every machine keeps, and that none does."""
    model, numbers = models.write_model(tmp_path / "m.onnx"), tmp_path / "b.json"
    words = ["bench", "-m", model, "--loop", "2", "--json", str(numbers), "--max-latency"]
    assert main([*words, "1e6", "--batchsize", "1,4"]) == 0
    found = json.loads(numbers.read_text())
    levels = {row["batchsize"]: row["levels"][0] for row in found["rows"]}
    fastest = max(levels, key=lambda size: float(levels[size]["images_per_second"]))
    assert found["best_within"] == {"batchsize": fastest, **levels[fastest]}
    assert [row["batchsize"] for row in found["rows"] if row["best"]] == [fastest]
    assert main([*words, "0.001"]) == 1
    assert json.loads(numbers.read_text())["best_within"] is None
    assert "no batch size has a p99 latency of at most 0.001 ms" in capsys.readouterr().err
    words[2] = models.write_model(tmp_path / "one.onnx", 1)
    assert main([*words, "1e6"]) == 0  # the search ends where the model takes no larger batch
    assert "batch size 2 is not measured: is made for" in capsys.readouterr().err
    assert [row["batchsize"] for row in json.loads(numbers.read_text())["rows"]] == [1]


def test_the_search_of_a_size_finds_the_limit() -> None:
    for limit in (*range(40), 511, 512, 1000, 5000):
        asked: list[int] = []

        def is_within(size: int, limit: int = limit, asked: list[int] = asked) -> bool:
            asked.append(size)
            return size <= limit

        search_sizes(is_within, 1024)
        found = max([size for size in asked if size <= limit], default=0)
        assert found <= min(limit, 1024) <= found + max(1, found // 8)
        assert len(asked) == len(set(asked)) < 16


def test_bench_keeps_the_sizes_that_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = models.write_model(tmp_path / "m.onnx", 2)
    numbers = str(tmp_path / "b.json")
    words = ["bench", "--model", model, "--loop", "2", "--json", numbers]
    assert main([*words, "--batchsize", "1,2"]) == 1
    assert "batch size 1 is not measured: " in capsys.readouterr().err
    assert [row["batchsize"] for row in json.loads(Path(numbers).read_text())["rows"]] == [2]
    assert main([*words, "--batchsize", "1,2,4,8"]) == 1
    error = capsys.readouterr().err
    assert "batch sizes 1, 4, 8 are not measured: is made for batch size 2 only; give" in error
    assert error.count("is made for") == 1
    assert main([*words, "--batchsize", "4,8,16"]) == 2
    assert capsys.readouterr().err.count("is made for") == 1
    absent = str(tmp_path / "absent_{bs}.onnx")
    assert main(["bench", "--model", absent, "--batchsize", "1,2"]) == 2
    assert "absent_1.onnx, " in capsys.readouterr().err
