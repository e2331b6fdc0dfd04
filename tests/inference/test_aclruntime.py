"""The aclruntime backend against a strict stand-in, once per generation, which is tested too."""

from __future__ import annotations

import json
import re
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto

from tests.support import fake_aclruntime, models
from zoofast.cli import main
from zoofast.errors import BackendError
from zoofast.inference.backends import open_backend
from zoofast.scoring.results import read_logits


@pytest.fixture(autouse=True)
def tracing() -> Iterator[None]:
    tracemalloc.start(1)
    yield
    tracemalloc.stop()


@pytest.fixture(params=fake_aclruntime.GENERATIONS)
def acl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = fake_aclruntime.build(request.param)
    monkeypatch.setitem(sys.modules, "aclruntime", module)
    return module


def images(count: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, *models.IMAGE)).astype(np.float32)


# ---- the backend -------------------------------------------------------------


def test_infer(acl: Any, tmp_path: Path) -> None:
    batch = images(4)
    with open_backend(models.write_model(tmp_path / "m.om", 4, outputs=2), device=3) as model:
        assert str(model.input) == "image float32[4x3x4x4]"
        assert [str(output) for output in model.outputs] == [
            "class float32[4x6]",
            "negated float32[4x6]",
        ]
        scores, negated = model.infer(batch)
    assert scores == pytest.approx(models.logits(batch), rel=1e-5, abs=1e-5)
    assert np.array_equal(negated, -scores)


def test_times(acl: Any, tmp_path: Path) -> None:
    copies = 0 if acl.state.generation in ("G0", "G1") else 1
    with open_backend(models.write_model(tmp_path / "m.om", 2)) as model:
        model.infer(images(2), loop=5)
        times = model.times()
        assert len(times.compute) == 5
        assert all(0 <= ms < 1000 for ms in times.compute)
        assert sum(times.compute) > 0
        assert len(times.to_device) == len(times.from_device) == copies
        model.reset_times()
        assert model.times().compute == []
        assert model.times().to_device == []
        model.infer(images(2))
        assert len(model.times().compute) == 1  # the loop of 5 is over


def test_dynamic_batch(acl: Any, tmp_path: Path) -> None:
    path = models.write_model(tmp_path / "m.om")
    for size in (1, 3):
        with open_backend(path, batch=size) as model:
            assert model.input.shape == (size, *models.IMAGE)
            scores = model.infer(images(size))[0]
            assert scores == pytest.approx(models.logits(images(size)), rel=1e-5, abs=1e-5)
    with pytest.raises(BackendError, match="is made for batch size 4 only"):
        open_backend(models.write_model(tmp_path / "m4.om", 4), batch=8)


def test_dynamic_batch_that_is_not_first_in_an_output(acl: Any, tmp_path: Path) -> None:
    path = models.write_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node[2].output[0] = "rows"
    model.graph.node[3].CopyFrom(onnx.helper.make_node("Transpose", ["rows"], ["class"]))
    shape = [models.CLASSES, "N"]
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("class", 1, shape))
    onnx.save(model, tmp_path / "m.om", format="protobuf")
    why = r"output class is \[6x\?\], without the batch as its first number; convert the model"
    with pytest.raises(BackendError, match=why):
        open_backend(str(tmp_path / "m.om"), batch=2)


def test_uint8_input(acl: Any, tmp_path: Path) -> None:
    batch = np.arange(2 * 48, dtype=np.uint8).reshape(2, *models.IMAGE)
    with open_backend(models.write_model(tmp_path / "m.om", 2, dtype=TensorProto.UINT8)) as model:
        assert model.input.dtype == np.uint8
        scores = model.infer(batch)[0]
    assert scores == pytest.approx(models.logits(batch.astype(np.float32)), rel=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, *models.IMAGE), np.float32),  # other byte count
        np.zeros((2, *models.IMAGE), np.int32),  # same byte count: aclruntime would take it
        np.zeros((2, 3, 16), np.float32),
        np.zeros((2, 3, 4, 8), np.float32)[..., ::2],
        np.zeros((4, 4, 3, 2), np.float32).T,
    ],
)
def test_batches_that_do_not_fit_never_reach_the_device(
    acl: Any, tmp_path: Path, wrong: np.ndarray
) -> None:
    with open_backend(models.write_model(tmp_path / "m.om", 2)) as model:
        with pytest.raises(BackendError, match="input image"):
            model.infer(wrong)
        assert model.times().compute == []


def test_another_thread_is_refused(acl: Any, tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def use() -> None:
        try:
            model.infer(images(2))
        except BaseException as error:
            caught.append(error)

    with open_backend(models.write_model(tmp_path / "m.om", 2)) as model:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        model.infer(images(2))
    assert [type(error) for error in caught] == [BackendError]
    assert "was loaded in another thread" in str(caught[0])


def test_one_model_after_another(acl: Any, tmp_path: Path) -> None:
    path = models.write_model(tmp_path / "m.om", 2)
    for _ in range(3):
        with open_backend(path) as model:
            model.infer(images(2))
        with pytest.raises(BackendError, match="is closed"):
            model.infer(images(2))
        assert model.input.name == "image"  # copied out of the session


def test_models_that_cannot_be_loaded(
    acl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.om").write_text("no model")
    with pytest.raises(BackendError, match=r"bad\.om: cannot be loaded on device 0: \[1\]\[ACL"):
        open_backend(str(tmp_path / "bad.om"))
    with pytest.raises(BackendError, match=r"on device 9: \[107001\]"):
        open_backend(models.write_model(tmp_path / "m.om"), device=9)
    monkeypatch.setitem(sys.modules, "aclruntime", None)
    with pytest.raises(BackendError, match="needs aclruntime, which comes with ais_bench, for"):
        open_backend(models.write_model(tmp_path / "m.om"))


def test_a_failing_run_is_named(acl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_backend(models.write_model(tmp_path / "m.om", 2), device=2) as model:
        acl.state.finalized = 1  # somebody else's finalize
        with pytest.raises(BackendError, match=r"m\.om: cannot run on device 2: \[-1\]\[ACL"):
            model.infer(images(2))
        acl.state.finalized = 0


# ---- the commands ------------------------------------------------------------


@pytest.mark.parametrize("generation", ["G1", "G2", "G4"])
def test_infer_command(
    generation: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch, generation)
    inputs = models.write_inputs(tmp_path / "in", 7)
    words = ["infer", "--model", models.write_model(tmp_path / "m.om", 2), "--outfmt", "TXT"]
    words += ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main([*words, "--output_dirname", "r", "--display_all_summary"]) == 0
    shown = capfd.readouterr().out
    assert "inferred 7 of 7 files" in shown
    assert "acl init success" not in shown
    assert ("[INFO] H2D_latency (ms): min" in shown) == (generation != "G1")
    for i, row in enumerate(models.logits(inputs)):
        got = read_logits(tmp_path / f"out/r/x{i}_0.txt")
        assert got == pytest.approx(row, rel=1e-4, abs=1e-5)
    summary = json.loads((tmp_path / "out/r_summary.json").read_text())
    assert summary["NPU_compute_time"]["count"] == 4  # the warm-up is not counted


def test_bench_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch)
    for size in (1, 4):
        models.write_model(tmp_path / f"m{size}.om", size)
    words = ["bench", "--model", str(tmp_path / "m{bs}.om"), "--batchsize", "1,4", "--loop", "3"]
    assert main([*words, "--json", str(tmp_path / "b.json")]) == 0
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["batchsize"] for row in rows] == [1, 4]
    capfd.readouterr()
    assert main([*words, "--device", "9"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert error.count("(acl open device 9 failed)") == 1  # once, not for every batch size


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"at_run": "if calls == 2: time.sleep(1000)"}, r"device 1 has not answered for \d+ s"),
        ({"at_run": "os._exit(7)"}, r"the process of device 1 ended with exit code 7"),
        ({"at_open": "time.sleep(1000)"}, r"device 1 has not loaded the model in \d+ s"),
    ],
)
def test_a_device_that_hangs_ends_infer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    faults: dict[str, str],
    reason: str,
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch, **faults)
    if "at_open" in faults:
        monkeypatch.setattr("zoofast.inference.lateness.OPENING_SECONDS", 0.5)
    inputs = models.write_inputs(tmp_path / "in", 7)
    words = ["infer", "--model", models.write_model(tmp_path / "m.om", 2), "--device", "1"]
    words += ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    timeout = "0.5" if "at_open" in faults else "60" if "_exit" in str(faults) else "2"
    words += ["--output_dirname", "r", "--device-timeout", timeout]
    assert main(words) == 2
    error = capfd.readouterr().err
    assert re.search(reason, error), error
    assert error.count("\n") == 1
    fake_aclruntime.install(tmp_path / "path", monkeypatch)
    words[-1] = "60"
    assert main([*words, "--resume"]) == 0
    for i, row in enumerate(models.logits(inputs)):
        got = read_logits(tmp_path / f"out/r/x{i}_0.bin")
        assert got == pytest.approx(row, rel=1e-4, abs=1e-5)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "r",
        "r_run.json",
        "r_summary.json",
    ]


@pytest.mark.parametrize("generation", ["G2", "G4"])
def test_several_devices_are_several_processes(
    generation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch, generation)
    inputs = models.write_inputs(tmp_path / "in", 5)
    words = ["infer", "--model", models.write_model(tmp_path / "m.om", 2), "--device", "0,1,2"]
    words += ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main([*words, "--output_dirname", "r", "--outfmt", "TXT"]) == 0
    for device, numbers in enumerate(((0,), (1, 2), (3, 4))):
        for i in numbers:
            got = read_logits(tmp_path / f"out/r/device{device}/x{i}_0.txt")
            assert got == pytest.approx(models.logits(inputs)[i], rel=1e-4, abs=1e-5)


def test_a_device_that_hangs_ends_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch, at_run="time.sleep(1000)")
    monkeypatch.setattr("zoofast.inference.lateness.OPENING_SECONDS", 5)
    model = models.write_model(tmp_path / "m.om", 2)
    assert main(["bench", "--model", model, "--batchsize", "2", "--device-timeout", "1"]) == 2
    error = capfd.readouterr().err
    assert re.search(r"device 0 has not (answered for|loaded the model in) \d+ s", error), error


def infer_on(folder: Path, devices: str, *options: str) -> int:
    words = ["infer", "--model", models.write_model(folder / "m.om", 2), "--device", devices]
    words += ["--input", str(folder / "in"), "--output", str(folder / "out")]
    return main([*words, "--output_dirname", "r", *options])


@pytest.mark.parametrize(
    ("fault", "done", "reason"),
    [
        ("calls == 1: time.sleep(1000)", 0, r"device 1 has not answered for \d+ s"),
        ("calls == 2: os.kill(os.getpid(), signal.SIGKILL)", 2, "device 1 ended with exit code -9"),
        ("calls == 2: raise RuntimeError('[107002]')", 2, r"device 1: .*\[107002\]"),
    ],
)
def test_another_device_computes_the_files_of_a_lost_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: str,
    done: int,
    reason: str,
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch, at_run=f"if device == 1 and {fault}")
    inputs = models.write_inputs(tmp_path / "in", 10)
    numbers = tmp_path / "n.json"
    timeout = "3" if "sleep" in fault else "60"
    assert infer_on(tmp_path, "0,1", "--device-timeout", timeout, "--json", str(numbers)) == 1
    shown = capfd.readouterr()
    assert re.search(f"{reason}.*; the other devices computed its files", shown.err), shown.err
    assert "inferred 10 of 10 files" in shown.out
    out = tmp_path / "out/r"
    lost = range(5, 5 + done)  # whose results the lost device has written
    for i, row in enumerate(models.logits(inputs)):
        (file,) = out.rglob(f"x{i}_0.bin")
        assert file.parent.name == ("device1" if i in lost else "device0")
        assert read_logits(file) == pytest.approx(row, rel=1e-4, abs=1e-5)
    for device, count in ((0, 10 - done), (1, done)):
        summary = json.loads((tmp_path / f"out/r/device{device}_summary.json").read_text())
        results = [info["outfiles"][0] for info in summary["filesinfo"].values()]
        assert len(results) == count
        assert all(Path(result).parent == out / f"device{device}" for result in results)
    values = json.loads(numbers.read_text())
    assert values["images"] == values["files"] == 10
    assert list(values["lost_devices"]) == ["1"]
    (tmp_path / "labels.txt").write_text("".join(f"x{i} {i % 6}\n" for i in range(10)))
    assert main(["score", str(out), str(tmp_path / "labels.txt")]) == 0
    fake_aclruntime.install(tmp_path / "path", monkeypatch)
    capfd.readouterr()
    assert infer_on(tmp_path, "0,1", "--resume") == 0
    assert "inferred 10 of 10 files (10 by an earlier run)" in capfd.readouterr().out


def test_another_device_computes_the_files_of_one_that_cannot_load_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fault = "if device in (1, 2): raise RuntimeError('[507899][driver error] ')"
    fake_aclruntime.install(tmp_path / "path", monkeypatch, at_open=fault)
    inputs = models.write_inputs(tmp_path / "in", 9)
    assert infer_on(tmp_path, "0,2,1") == 1
    shown = capfd.readouterr()
    for device in (1, 2):
        reason = rf"device {device}: .*m\.om: cannot be loaded on device {device}: \[507899\].*"
        assert re.search(f"{reason}; the other devices computed its files", shown.err), shown.err
    assert "inferred 9 of 9 files" in shown.out
    for i, row in enumerate(models.logits(inputs)):
        result = read_logits(tmp_path / f"out/r/device0/x{i}_0.bin")
        assert result == pytest.approx(row, rel=1e-4, abs=1e-5)
    assert infer_on(tmp_path, "2,1", "--resume") == 2
    error = capfd.readouterr().err
    then, at_the_end = error.splitlines()
    assert then.count("[507899]") == 1 and then.endswith("; the other devices go on")
    assert at_the_end.count("[507899]") == 2
    assert len(list((tmp_path / "out/r").rglob("*.bin"))) == 9


def test_files_that_do_not_fit_stay_with_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Device 2 leaves one good file, which device 0 gets, and two others, which device 1 gets."""
    fault = "if device == 2 and calls == 1: os._exit(7)"
    fake_aclruntime.install(tmp_path / "path", monkeypatch, at_run=fault)
    models.write_inputs(tmp_path / "in", 9)
    for i in (7, 8):
        (tmp_path / f"in/x{i}.bin").write_bytes(b"short")
    assert infer_on(tmp_path, "0,1,2") == 1
    shown = capfd.readouterr()
    assert "files left out: 2: " in shown.err
    assert "device 2 ended with exit code 7; the other devices computed its files" in shown.err
    assert "inferred 7 of 9 files" in shown.out
    assert (tmp_path / "out/r/device0/x6_0.bin").is_file()


def test_files_of_a_lost_device_may_hold_several_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fault = "if device == 1 and calls == 2: os._exit(7)"
    fake_aclruntime.install(tmp_path / "path", monkeypatch, at_run=fault)
    inputs = images(12)
    (tmp_path / "in").mkdir()
    for i in range(6):
        inputs[2 * i : 2 * i + 2].tofile(tmp_path / f"in/x{i}.bin")
    numbers = tmp_path / "n.json"
    assert infer_on(tmp_path, "1,0", "--outfmt", "NPY", "--json", str(numbers)) == 1
    assert "inferred 6 of 6 files" in capfd.readouterr().out
    values = json.loads(numbers.read_text())
    assert (values["images"], values["images_per_file"], values["files"]) == (12, 2, 6)
    files = [next((tmp_path / "out/r").rglob(f"x{i}_0.npy")) for i in range(6)]
    assert [file.parent.name[-1] for file in files] == list("100000")
    got = np.concatenate([np.load(file) for file in files])
    assert got == pytest.approx(models.logits(inputs), rel=1e-4, abs=1e-5)


def test_no_device_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Device 1 is lost at once; device 0 is lost when it computes the last of the other's files."""
    fault = "if device == 1 and calls == 1 or calls == 3: os._exit(7)"
    fake_aclruntime.install(tmp_path / "path", monkeypatch, at_run=fault)
    inputs = models.write_inputs(tmp_path / "in", 9)
    assert infer_on(tmp_path, "0,1") == 2
    then, error = capfd.readouterr().err.splitlines()
    assert "device 1 ended with" in then and then.endswith("; the other devices go on")
    assert error.index("device 1 ended with") < error.index("device 0 ended with")
    done = len(list((tmp_path / "out/r").rglob("*.bin")))
    assert done >= 6  # the results of the last batch may be lost with the process
    fake_aclruntime.install(tmp_path / "path", monkeypatch)
    assert infer_on(tmp_path, "0,1", "--resume") == 0
    assert f"inferred 9 of 9 files ({done} by an earlier run)" in capfd.readouterr().out
    for i, row in enumerate(models.logits(inputs)):
        (file,) = (tmp_path / "out/r").rglob(f"x{i}_0.bin")
        assert read_logits(file) == pytest.approx(row, rel=1e-4, abs=1e-5)


# ---- the stand-in must be able to fail ----------------------------------------


def raw(acl: Any, path: str, device: int = 0) -> Any:
    return acl.InferenceSession(path, device, acl.session_options())


def feed(acl: Any, batch: np.ndarray, device: int = 0) -> Any:
    if hasattr(acl, "BaseTensor"):
        return acl.BaseTensor(batch.__array_interface__["data"][0], batch.nbytes)
    tensor = acl.Tensor(batch)
    tensor.to_device(device)
    return tensor


def test_fake_checks_arguments(acl: Any, tmp_path: Path) -> None:
    path = models.write_model(tmp_path / "m.om", 2)
    options = acl.session_options()
    with pytest.raises(TypeError):
        acl.InferenceSession(path, device_id=0)
    with pytest.raises(TypeError):
        acl.InferenceSession(Path(path), 0, options)
    with pytest.raises(TypeError):
        options.loop = 1.5
    with pytest.raises(AttributeError):
        options.loops = 2
    session, batch = raw(acl, path), images(2)
    good = feed(acl, batch)
    for names, feeds, kind in (
        (("class",), [good], TypeError),
        (["class"], good, TypeError),
        (["class"], [batch], TypeError),
        (["klass"], [good], RuntimeError),
        (["class", "class"], [good], RuntimeError),
        (["class"], [], RuntimeError),
        (["class"], [good, good], fake_aclruntime.Misuse),
        (["class"], [feed(acl, images(1))], (RuntimeError, fake_aclruntime.Misuse)),
    ):
        with pytest.raises(kind):
            session.run(names, feeds)
    (result,) = session.run(["class"], [good])
    with pytest.raises(RuntimeError, match="tensor is in npu"):
        np.array(result)


def test_fake_notices_freed_arrays(acl: Any, tmp_path: Path) -> None:
    session = raw(acl, models.write_model(tmp_path / "m.om", 2))
    dangling = feed(acl, images(2))  # the array is gone already
    if hasattr(acl, "BaseTensor"):
        with pytest.raises(fake_aclruntime.Misuse, match="freed before run"):
            session.run(["class"], [dangling])
    else:  # these generations copy
        assert len(session.run(["class"], [dangling])) == 1


def test_fake_notices_use_after_the_end(acl: Any, tmp_path: Path) -> None:
    path, batch = models.write_model(tmp_path / "m.om", 2), images(2)
    session = raw(acl, path)
    desc = session.get_inputs()[0]
    if hasattr(session, "free_resource"):
        session.free_resource()
        with pytest.raises(fake_aclruntime.Misuse, match="after free_resource"):
            session.run(["class"], [feed(acl, batch)])
    del session
    with pytest.raises(fake_aclruntime.Misuse, match="after its session"):
        print(desc.name)
    session = raw(acl, path)
    if hasattr(session, "finalize"):
        session.finalize()
        with pytest.raises(RuntimeError):
            session.run(["class"], [feed(acl, batch)])
        with pytest.raises(RuntimeError):
            raw(acl, path)
        session.finalize()
        with pytest.raises(fake_aclruntime.Misuse, match="segmentation fault"):
            session.run(["class"], [feed(acl, batch)])


def test_fake_minds_threads(acl: Any, tmp_path: Path) -> None:
    session, batch = raw(acl, models.write_model(tmp_path / "m.om", 2)), images(2)
    outcome: list[Any] = []

    def use() -> None:
        try:
            outcome.append(session.run(["class"], [feed(acl, batch)]))
        except BaseException as error:
            outcome.append(type(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    expected = {"G0": fake_aclruntime.Misuse, "G1": fake_aclruntime.Misuse, "G2": RuntimeError}
    if acl.state.generation in expected:
        assert outcome == [expected[acl.state.generation]]
    else:
        assert len(outcome[0]) == 1


def test_fake_gives_a_context_to_the_last_session(acl: Any, tmp_path: Path) -> None:
    path, batch = models.write_model(tmp_path / "m.om", 2), images(2)
    first, second = raw(acl, path, 0), raw(acl, path, 1)
    second.run(["class"], [feed(acl, batch, 1)])
    if acl.state.generation == "G2":
        with pytest.raises(RuntimeError):
            first.run(["class"], [feed(acl, batch)])
    else:
        first.run(["class"], [feed(acl, batch)])
