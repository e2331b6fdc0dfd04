"""The acl backend against an emulation of libascendcl.so that is strict about what ACL forbids."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.support import emulator, eval_case, folders, models, once
from zoofast.base.rows import read_named_rows

NOTHING_LEAKED = "[aclemu] aclFinalize: nothing leaked\n"


@pytest.fixture(scope="module")
def acl(made: once.Once) -> emulator.Emulator:
    return emulator.build(made)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return folders.good_files(eval_case.COUNT)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Path:
    """Images, labels, a recipe, and models for batches of 4 and with gears."""
    folder = tmp_path_factory.mktemp("acl")
    folders.write(folder / "images", files)
    folders.recipe_file(folder, eval_case.SPEC)
    eval_case.write_labels(folder / "labels.txt", [Path(name).stem for name in files])
    onnx = models.write_model(folder / "any.onnx")
    emulator.write_om(folder / "m4.om", onnx=onnx)
    emulator.write_om(folder / "gears.om", batch=None, onnx=onnx, dynamic_batch=[1, 2, 8])
    return folder


def words(run: Path, model: str, *more: str | Path) -> list[str]:
    chosen = eval_case.words(run, *more)
    chosen[1] = str(run / model)
    return chosen


def statistics(path: Path) -> dict[str, Any]:
    """What the emulation counted in one process."""
    (line,) = path.read_text().splitlines()
    counted: dict[str, Any] = json.loads(line)
    return counted


@pytest.mark.parametrize(
    ("model", "devices", "executions"),
    [("m4.om", "0", 6), ("m4.om", "0,1", 6), ("gears.om", "0", 3)],
)
def test_eval(
    acl: emulator.Emulator,
    run: Path,
    files: dict[str, bytes],
    tmp_path: Path,
    model: str,
    devices: str,
    executions: int,
) -> None:
    """23 images: the last batch of a model with gears is of 7 and takes the gear 8."""
    out = ["-o", tmp_path / "r.json", "--save-logits", tmp_path / "l.npy", "--device", devices]
    done = acl.run(*words(run, model, *out), STATS_FILE=tmp_path / "stats")
    assert (done.returncode, done.stderr) == (0, NOTHING_LEAKED)
    assert (tmp_path / "r.json").read_text() == eval_case.result_of(files)
    names, rows = read_named_rows(tmp_path / "l.npy")
    expected = eval_case.scores_of(files)
    for name, row in zip(names, rows, strict=True):
        assert row == pytest.approx(expected[name], rel=1e-4, abs=1e-4)
    counted = statistics(tmp_path / "stats")
    assert counted["misuses"] == 0
    assert counted["async_executes"] == executions
    assert counted["pageable_copies"] == 0  # the ring is pinned memory
    assert counted["samples"] == 24


OVERLAP = """
import numpy as np
from zoofast.inference.backends import open_backend
with open_backend(sys.argv[1]) as model:
    print(model.input, *model.outputs)
    rng = np.random.default_rng(3)
    memory = model.host_memory(6 * model.input.nbytes)
    ring = np.frombuffer(memory, np.float32).reshape(6, *model.input.shape)
    ring[:] = rng.random(ring.shape)
    results = []
    for batch in ring[:model.max_in_flight]:
        model.begin(batch, rows=len(batch))
    for batch in ring[model.max_in_flight:]:
        results.append(model.end().outputs[0])
        model.begin(batch, rows=len(batch))
    while len(results) < len(ring):
        results.append(model.end().outputs[0])
    own = [model.infer(batch.copy())[0] for batch in ring]  # memory that is not pinned
    assert all(map(np.array_equal, own, results))
    np.save(sys.argv[2], np.stack(results)), np.save(sys.argv[3], ring)
    assert len(model.times().compute) == 12, model.times()
"""


def test_batches_that_overlap(acl: emulator.Emulator, run: Path, tmp_path: Path) -> None:
    done = acl.python(OVERLAP, run / "m4.om", tmp_path / "got.npy", tmp_path / "ring.npy", FPS=2000)
    assert (done.returncode, done.stderr) == (0, NOTHING_LEAKED)
    assert done.stdout == "image float32[4x3x4x4] class float32[4x6]\n"
    batches = np.load(tmp_path / "ring.npy")
    for got, batch in zip(np.load(tmp_path / "got.npy"), batches, strict=True):
        assert got == pytest.approx(models.logits(batch), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "device", "text"),
    [
        ({"FAULT": "load:1=207001"}, "0", "loaded on device 0: aclmdlLoadFromFile: ACL's error"
         " 207001, ACL_ERROR_RT_MEMORY_ALLOCATION (EMU"),
        ({}, "7", "ACL's error 107001, ACL_ERROR_RT_INVALID_DEVICEID"),
        ({"FAIL": "aclInit:1:507899"}, "0", "aclInit: ACL's error 507899"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_loaded(
    acl: emulator.Emulator, run: Path, settings: dict[str, object], device: str, text: str
) -> None:
    done = acl.run(*words(run, "m4.om", "--device", device), QUIET=1, **settings)
    assert done.returncode == 2
    assert text in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_library_that_is_none(acl: emulator.Emulator, run: Path, tmp_path: Path) -> None:
    empty = acl.library.with_name("libacl_dvpp.so")
    program = "import os; os.environ['ZOOFAST_ACL_LIB'] = sys.argv.pop(); "
    program += (
        "from zoofast.cli import main; sys.exit(main(['eval', '--backend', 'acl', *sys.argv[2:]]))"
    )
    done = acl.python(program, *words(run, "m4.om"), empty)
    assert done.returncode == 2
    assert "libacl_dvpp.so: has no function aclInit" in done.stderr


def test_gears_need_the_batch_first_in_an_output(
    acl: emulator.Emulator, run: Path, tmp_path: Path
) -> None:
    output = {"name": "class", "dtype": "float32", "shape": [models.CLASSES, -1]}
    emulator.write_om(tmp_path / "m.om", batch=None, dynamic_batch=[1, 2], outputs=[output])
    models.write_inputs(tmp_path / "in", 3)
    done = acl.run("infer", "-m", tmp_path / "m.om", "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "output class is [6x2], without the batch as its first number" in done.stderr
    assert "Traceback" not in done.stderr


PAIR = [
    {"name": "image", "dtype": "float32", "shape": [-1, *models.IMAGE]},
    {"name": "shift", "dtype": "int64", "shape": [-1, models.CLASSES]},
]
SHAPE = ["--dymShape", "image:4,3,4,4;shift:4,6", "--outputSize", "96,32,48,24"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param({}, [], id="static"),
        pytest.param({"dynamic_batch": [1, 2, 4]}, [], id="batch", marks=pytest.mark.slow),
        pytest.param(
            {"dynamic_dims": [[4, 3, 4, 4, 4, 6], [1, 3, 4, 4, 1, 6]]},
            ["--dymDims", SHAPE[1]],
            id="dims",
            marks=pytest.mark.slow,
        ),
        pytest.param({"dynamic_shape": True}, SHAPE, id="shape"),
    ],
)
def test_several_inputs_and_outputs_of_all_types(
    acl: emulator.Emulator, run: Path, tmp_path: Path, kind: dict[str, Any], options: list[str]
) -> None:
    batch = -1 if kind else 4
    om = emulator.write_om(
        tmp_path / "m.om",
        onnx=models.write_pair_model(tmp_path / "m.onnx"),
        inputs=[{**info, "shape": [batch, *info["shape"][1:]]} for info in PAIR],
        outputs=[
            {"name": name, "dtype": dtype, "shape": [batch, 1 if name == "best" else 6]}
            for name, dtype in models.PAIR_OUTPUTS.items()
        ],
        **kind,
    )
    where = models.write_pairs(tmp_path, 7)
    chosen = ["infer", "-m", om, "-i", where, "-o", tmp_path, "--output_dirname", "r"]
    done = acl.run(*chosen, "--outfmt", "NPY", *options, STATS_FILE=tmp_path / "stats")
    assert (done.returncode, done.stderr) == (0, NOTHING_LEAKED)
    assert statistics(tmp_path / "stats")["misuses"] == 0
    images = np.stack([np.fromfile(tmp_path / f"image/x{i}.bin", np.float32) for i in range(7)])
    models.check_pairs(tmp_path / "r", images)
    if not kind:
        done = acl.run(*words(run, om), QUIET=1)
        assert done.returncode == 2
        assert "has 2 inputs (image, shift); a classifier has one" in done.stderr


# ---- faults --------------------------------------------------------------------------


def check_ends_and_resumes(
    acl: emulator.Emulator,
    words: list[str],
    fault: str,
    code: int,
    text: str,
    last: str,
) -> None:
    """A run with a fault says one line, or if another device goes on, one then and one at the end;
    the run after it with --resume is complete, and says so with `last`."""
    done = acl.run(*words, FAULT=fault, QUIET=1)
    assert done.returncode == code, done.stderr
    ends = ["the other devices go on", "the other devices computed its"] if code == 1 else [""]
    lines = done.stderr.splitlines()
    for line, end in zip(lines, ends, strict=True):
        assert text in line and end in line, done.stderr
    if code == 2:
        done = acl.run(*words, "--resume", QUIET=1)
        assert done.returncode == 0, done.stderr
    assert last in done.stdout


HUNG = "device {} has not answered for "
LOST = "ACL's error 507010, ACL_ERROR_RT_LOST_HEARTBEAT"


@pytest.mark.parametrize(
    ("fault", "devices", "code", "text"),
    [
        ("d2h:2=507013", "0,1", 1, "ACL_ERROR_RT_SYS_DMA"),
        ("device_lost:7", "0,1", 1, LOST),
        ("hang_execute:3", "0", 2, HUNG.format(0)),
        ("hang_h2d:1", "0,1", 1, "has not answered for "),
    ],
)
def test_eval_ends_with_the_reason(
    acl: emulator.Emulator,
    run: Path,
    files: dict[str, bytes],
    tmp_path: Path,
    fault: str,
    devices: str,
    code: int,
    text: str,
) -> None:
    options = ["-o", tmp_path / "r.json", "--device", devices, "--device-timeout", "4"]
    chosen = words(run, "m4.om", *options)
    last = f"scored {eval_case.COUNT} of {eval_case.COUNT}\n"
    check_ends_and_resumes(acl, chosen, fault, code, text, last)
    assert (tmp_path / "r.json").read_text() == eval_case.result_of(files)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("hang_execute:5", "has not answered for "),
        ("device_lost:16", LOST),
    ],
)
def test_another_device_infers_what_a_lost_one_did_not(
    acl: emulator.Emulator, run: Path, tmp_path: Path, fault: str, text: str
) -> None:
    images = models.write_inputs(tmp_path / "in", 23)
    chosen = ["infer", "-m", str(run / "m4.om"), "-i", str(tmp_path / "in"), "-o", str(tmp_path)]
    chosen += ["--output_dirname", "out", "--outfmt", "NPY", "--device-timeout", "4"]
    chosen += ["--device", "0,1"]
    check_ends_and_resumes(acl, chosen, fault, 1, text, "inferred 23 of 23 files")
    for i, expected in enumerate(models.logits(images)):
        (file,) = (tmp_path / "out").rglob(f"x{i}_0.npy")
        assert np.load(file)[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["eval", "infer"])
@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("load:1=207001", "aclmdlLoadFromFile: ACL's error 207001"),
        ("malloc:3=207001", "aclrtMalloc: ACL's error 207001"),
        ("malloc_host:2", "use a smaller batch, or end other programs"),
        ("h2d:3=507013", "ACL's error 507013"),
        ("execute:3=507011", "a queued task: ACL's error 507011, ACL_ERROR_RT_MODEL_EXE"),
        ("d2h:3=507013", "ACL's error 507013"),
        ("hang_h2d:3", HUNG.format(0)),
        ("hang_execute:3", HUNG.format(0)),
        ("hang_d2h:3", HUNG.format(0)),
        ("device_lost:7", LOST),
    ],
)
def test_every_fault_ends_with_the_reason(
    acl: emulator.Emulator,
    run: Path,
    files: dict[str, bytes],
    tmp_path: Path,
    command: str,
    fault: str,
    text: str,
) -> None:
    if command == "eval":
        chosen = words(run, "m4.om", "-o", tmp_path / "r.json")
        last = f"scored {eval_case.COUNT} of {eval_case.COUNT}\n"
    else:
        models.write_inputs(tmp_path / "in", 23)
        chosen = ["infer", "-m", str(run / "m4.om"), "-i", str(tmp_path / "in"), "-o"]
        chosen += [str(tmp_path), "--output_dirname", "out"]
        # How many batches were stored before the device failed is a matter of time.
        last = "inferred 23 of 23 files"
    check_ends_and_resumes(acl, [*chosen, "--device-timeout", "4"], fault, 2, text, last)
    if command == "eval":
        assert (tmp_path / "r.json").read_text() == eval_case.result_of(files)
        return
    images = np.stack([np.fromfile(tmp_path / f"in/x{i}.bin", np.float32) for i in range(23)])
    for i, expected in enumerate(models.logits(images.reshape(23, -1))):
        got = np.fromfile(tmp_path / f"out/x{i}_0.bin", np.float32)
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("step", ["h2d", "execute", "d2h"])
@pytest.mark.slow
def test_a_slow_step_is_no_fault(
    acl: emulator.Emulator, run: Path, files: dict[str, bytes], tmp_path: Path, step: str
) -> None:
    chosen = words(run, "m4.om", "-o", tmp_path / "r.json")
    done = acl.run(*chosen, FAULT=f"slow_{step}:3=1500")
    assert done.returncode == 0 and done.stderr.endswith(NOTHING_LEAKED), done.stderr
    assert "zoofast" not in done.stderr
    assert (tmp_path / "r.json").read_text() == eval_case.result_of(files)


def test_infer_drives_two_devices_from_one_process(
    acl: emulator.Emulator, run: Path, tmp_path: Path
) -> None:
    images = models.write_inputs(tmp_path / "in", 23)
    chosen = ["infer", "-m", run / "m4.om", "-i", tmp_path / "in", "-o", tmp_path]
    chosen += ["--output_dirname", "out", "--outfmt", "NPY", "--device", "0,1"]
    done = acl.run(*chosen, STATS_FILE=tmp_path / "stats")
    assert (done.returncode, done.stderr) == (0, NOTHING_LEAKED)
    counted = statistics(tmp_path / "stats")
    assert (counted["misuses"], counted["model_loads"]) == (0, 2)
    for i, expected in enumerate(models.logits(images)):
        file = tmp_path / f"out/device{int(i >= 11)}/x{i}_0.npy"
        assert np.load(file)[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("command", ["eval", "infer"])
def test_an_interrupt_closes_in_order(
    acl: emulator.Emulator, run: Path, tmp_path: Path, command: str
) -> None:
    """Ctrl-C in the middle of a slow run: what is queued ends, and everything is given back.

    A batch takes a third of a second, since what is queued has two seconds to end."""
    models.write_inputs(tmp_path / "in", 60)
    chosen = words(run, "m4.om", "-o", tmp_path / "r.json")
    if command == "infer":
        chosen = ["infer", "-m", str(run / "m4.om"), "-i", str(tmp_path / "in")]
        chosen += ["-o", str(tmp_path), "--output_dirname", "out"]
    process = acl.start(*chosen, FPS=12)
    first = tmp_path / ("r.json.journal" if command == "eval" else "out/x0_0.bin")
    until = time.monotonic() + 300
    while not (first.exists() and (command == "infer" or first.read_bytes().count(b"\n") > 1)):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted" in error
    assert error.count(NOTHING_LEAKED) == 1, error


# ---- dynamic models ------------------------------------------------------------------

GEARS: dict[str, dict[str, Any]] = {
    "hw": {"dynamic_hw": [[4, 4], [8, 8]]},
    "dims": {"dynamic_dims": [[1, 3, 4, 4], [4, 3, 4, 4], [4, 3, 8, 8]]},
    "shape": {"dynamic_shape": True},
}
OPTIONS = {
    "hw": ["--dymHW", "4,4"],
    "dims": ["--dymDims", "image:4,3,4,4"],
    "shape": ["--dymShape", "image:4,3,4,4", "--outputSize", "96"],
}


@pytest.mark.parametrize("kind", list(GEARS))
def test_dynamic_shapes(
    acl: emulator.Emulator, run: Path, files: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    """eval takes the shape from the recipe, infer from ais_bench's option."""
    batch = 4 if kind == "hw" else None
    om = emulator.write_om(
        tmp_path / "m.om", batch=batch, image=(3, -1, -1), onnx=str(run / "any.onnx"), **GEARS[kind]
    )
    done = acl.run(*words(run, om, "-o", tmp_path / "r.json"), STATS_FILE=tmp_path / "stats")
    assert done.returncode == 0 and done.stderr.endswith(NOTHING_LEAKED), done.stderr
    assert (tmp_path / "r.json").read_text() == eval_case.result_of(files)
    counted = statistics(tmp_path / "stats")
    assert (counted["misuses"], counted["samples"]) == (0, 23 if kind == "shape" else 24)
    images = models.write_inputs(tmp_path / "in", 7)
    infer = ["infer", "-m", om, "-i", tmp_path / "in", "-o", tmp_path, "--output_dirname", "out"]
    done = acl.run(*infer, "--outfmt", "NPY", *OPTIONS[kind], QUIET=1)
    assert (done.returncode, done.stderr) == (0, "")
    for i, expected in enumerate(models.logits(images)):
        got = np.load(tmp_path / f"out/x{i}_0.npy")[0]
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-5)
    done = acl.run(*infer, QUIET=1)
    assert done.returncode == 2
    assert f"has a dynamic shape; {'give' if kind == 'shape' else 'choose'} one with --dym" in (
        done.stderr
    )


def test_dynamic_aipp_from_the_recipe(
    acl: emulator.Emulator, run: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    """One .om for two recipes: the NPU normalizes as each of them says."""
    spec = json.loads((run / "m4.om").read_text())
    spec["inputs"][0]["dynamic_aipp"] = {"max_src": [8, 8]}
    (tmp_path / "m.om").write_text(json.dumps(spec))
    text = (run / "recipe.toml").read_text()
    other = tmp_path / "other.toml"
    other.write_text(text.replace("0.485", "0.5").replace("0.229", "0.25"))
    assert other.read_text() != text
    results = []
    for recipe in (run / "recipe.toml", other):
        logits = []
        for model, more in (
            (str(run / "m4.om"), []),
            (str(tmp_path / "m.om"), ["--dtype", "uint8", "--layout", "NHWC"]),
        ):
            chosen = words(run, model, *more, "--save-logits", tmp_path / "l.npy")
            chosen[chosen.index("--recipe") + 1] = str(recipe)
            done = acl.run(*chosen)
            assert (done.returncode, done.stderr) == (0, NOTHING_LEAKED)
            logits.append(read_named_rows(tmp_path / "l.npy")[1].copy())
        assert logits[1] == pytest.approx(logits[0], rel=1e-3, abs=1e-3)
        results.append(logits[1])
    assert not np.allclose(*results, rtol=0.01)


@pytest.mark.slow
def test_the_golden_accuracy_with_aipp(
    acl: emulator.Emulator, shared: Path, tmp_path: Path
) -> None:
    """SqueezeNet on the sample: float32, static AIPP and dynamic AIPP, on one and two devices."""
    pytest.importorskip("torch")
    weights = shared / "models/squeezenet1_1.pth"
    done = acl.run("export", "squeezenet1_1", "--weights", weights, "-o", tmp_path / "m.onnx")
    assert done.returncode == 0, done.stderr
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    aipp = {"min": (255 * mean).tolist(), "var": (1 / (255 * std)).tolist()}
    image, pixels = [4, 3, 224, 224], [4, 224, 224, 3]
    for kind, tensor, recipe, devices in (
        ("float", {"dtype": "float32", "shape": image}, "squeezenet1_1_float32", "0"),
        ("static", {"dtype": "uint8", "shape": pixels, "aipp": aipp}, "squeezenet1_1", "0,1"),
        (
            "dynamic",
            {"dtype": "float32", "shape": image, "dynamic_aipp": {"max_src": [224, 224]}},
            "squeezenet1_1",
            "0",
        ),
    ):
        om = emulator.write_om(
            tmp_path / f"{kind}.om",
            classes=1000,
            onnx=str(tmp_path / "m.onnx"),
            inputs=[{"name": "image", **tensor}],
        )
        where = [shared / "imagenet-sample/val", shared / "imagenet-sample/val_label.txt"]
        out = tmp_path / f"{kind}.json"
        done = acl.run("eval", om, *where, "--recipe", recipe, "-o", out, "--device", devices)
        assert (done.returncode, done.stderr) == (0, NOTHING_LEAKED)
        values = {entry["key"]: entry["value"] for entry in json.loads(out.read_text())["value"]}
        assert (values["Top1 accuracy"], values["Top5 accuracy"]) == ("63.33%", "84.0%"), kind


AIPP_CONFIG = """[aipp_op]
input_format : RGB888_U8
src_image_size_w : 6
src_image_size_h : 5
crop : 1
load_start_pos_w : 2
load_start_pos_h : 1
crop_size_w : 4
crop_size_h : 4
rbuv_swap_switch : 1
mean_chn_0 : 100
mean_chn_1 : 110
mean_chn_2 : 120
var_reci_chn_0 : 0.02
var_reci_chn_1 : 0.03
var_reci_chn_2 : 0.04
"""


def test_dynamic_aipp_from_ais_benchs_file(
    acl: emulator.Emulator, run: Path, tmp_path: Path
) -> None:
    """Crop, exchange of channels, mean and variance of the file, against NumPy."""
    spec = json.loads((run / "m4.om").read_text())
    spec["inputs"][0]["dynamic_aipp"] = {"max_src": [8, 8]}
    (tmp_path / "m.om").write_text(json.dumps(spec))
    (tmp_path / "aipp.config").write_text(AIPP_CONFIG)
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(5).integers(0, 256, (7, 5, 6, 3), np.uint8)
    for i, image in enumerate(pixels):
        image.tofile(tmp_path / f"in/x{i}.bin")
    chosen = ["infer", "-m", tmp_path / "m.om", "-i", tmp_path / "in", "-o", tmp_path]
    chosen += ["--output_dirname", "r", "--outfmt", "NPY"]
    done = acl.run(*chosen, "--aipp_config", tmp_path / "aipp.config")
    assert (done.returncode, done.stderr) == (0, NOTHING_LEAKED)
    cropped = pixels[:, 1:5, 2:6, ::-1].astype(np.float32)
    normalized = (cropped - [100, 110, 120]) * np.float32([0.02, 0.03, 0.04])
    expected = models.logits(normalized.transpose(0, 3, 1, 2).astype(np.float32))
    for i, row in enumerate(expected):
        got = np.load(tmp_path / f"r/x{i}_0.npy")[0]
        assert got == pytest.approx(row, rel=1e-3, abs=1e-3)
    done = acl.run(*chosen, QUIET=1)
    assert done.returncode == 2
    assert "input image has dynamic AIPP; give a --recipe" in done.stderr


def test_bench_asks_a_device_that_hangs_only_once(
    acl: emulator.Emulator, run: Path, tmp_path: Path
) -> None:
    """The device hangs at the second size. To load a model anew, it would have a minute."""
    for size in (1, 2, 3, 5):
        emulator.write_om(tmp_path / f"m{size}.om", batch=size, onnx=str(run / "any.onnx"))
    numbers = tmp_path / "b.json"
    chosen = ["bench", "-m", tmp_path / "m{bs}.om", "--batchsize", "1,2,3,5", "--loop", "5"]
    chosen += ["--concurrency", "1", "--json", numbers, "--device-timeout", "2"]
    done = acl.run(*chosen, timeout=45, FAULT="hang_execute:9", QUIET=1)  # 1 + 5 of each size
    assert done.returncode == 1, done.stderr
    assert "batch sizes 2, 3, 5 are not measured: device 0 has not answered for" in done.stderr
    found = json.loads(numbers.read_text())
    assert [row["batchsize"] for row in found["rows"]] == [1]
    assert list(found["failures"]) == ["2", "3", "5"]


def test_profile_gives_up_a_device_that_hangs(
    acl: emulator.Emulator, run: Path, tmp_path: Path
) -> None:
    chosen = ["profile", run / "images", "--only-recipe", "--seconds", "0.05"]
    chosen += ["--recipe", run / "recipe.toml", "--scratch", tmp_path, "-m", run / "m4.om"]
    done = acl.run(*chosen, "--device-timeout", "1", timeout=45, FAULT="hang_execute:1", QUIET=1)
    assert done.returncode == 2
    assert "device 0 has not answered for" in done.stderr
    assert "--device-timeout above 1\n" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_bench_tells_what_the_copies_cost(
    acl: emulator.Emulator, run: Path, tmp_path: Path
) -> None:
    """192 bytes of float32 an image; the copy takes twice as long as the computation."""
    chosen = ["bench", "-m", run / "m4.om", "--batchsize", "4", "--loop", "2"]
    settings = {"QUIET": 1, "FPS": 400, "H2D_GBPS": 4 * 192 / 0.02 / 1e9}
    out = ["--json", tmp_path / "b.json", "--report", tmp_path / "b.html"]
    done = acl.run(*chosen, *out, STATS_FILE=tmp_path / "stats", **settings)
    assert done.returncode == 0, done.stderr
    counted = statistics(tmp_path / "stats")
    assert (counted["misuses"], counted["pageable_copies"]) == (0, 0)
    assert counted["async_executes"] == 1 + 3 * 2  # the warm-up, and the levels 1, 2 and 4
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    transfer = row["transfer"]
    assert (transfer["nbytes"], transfer["nbytes_with_aipp"]) == (192, 48)
    assert transfer["to_device"] >= 5000 and transfer["compute"] >= 2500
    assert transfer["bus_share"] == pytest.approx(transfer["to_device"] / transfer["compute"])
    assert row["copies_ms"]["to_device"]["min"] >= 20
    assert [level["concurrency"] for level in row["levels"]] == [1, 2, 4]
    assert all(level["host_latency_ms"]["min"] >= 30 for level in row["levels"])
    assert row["levels"][0]["images_per_second"] <= 4 / 0.03
    assert "copy in, median" in (tmp_path / "b.html").read_text()
    assert "An image has 192 bytes." in done.stdout
    assert "With AIPP an image has 48 bytes of 8-bit pixels" in done.stdout
    done = acl.run(*chosen, "--concurrency", "5", QUIET=1)
    assert done.returncode == 2
    assert "the device takes at most 4 batches at a time, not 5" in done.stderr


def test_profile_tells_what_the_copies_cost(
    acl: emulator.Emulator, run: Path, tmp_path: Path
) -> None:
    """One .om with dynamic AIPP: as float32 it would take four times the bytes."""
    spec = json.loads((run / "m4.om").read_text())
    spec["inputs"][0]["dynamic_aipp"] = {"max_src": [8, 8]}
    (tmp_path / "m.om").write_text(json.dumps(spec))
    text = (run / "recipe.toml").read_text().replace("float32", "uint8").replace("NCHW", "NHWC")
    (tmp_path / "pixels.toml").write_text(text.replace("[normalize]", "[aipp]"))
    chosen = ["profile", run / "images", "--only-recipe", "--seconds", "0.05"]
    chosen += ["--scratch", tmp_path, "--json", tmp_path / "p.json", "-m"]
    settings = {"QUIET": 1, "FPS": 400, "H2D_GBPS": 4 * 192 / 0.02 / 1e9}
    for om, recipe, nbytes in (
        (run / "m4.om", run / "recipe.toml", 192),
        (tmp_path / "m.om", tmp_path / "pixels.toml", 48),
    ):
        done = acl.run(*chosen, om, "--recipe", recipe, **settings)
        assert done.returncode == 0, done.stderr
        transfer = json.loads((tmp_path / "p.json").read_text())["stream"]["transfer"]
        assert (transfer["nbytes"], transfer["nbytes_with_aipp"]) == (nbytes, 48)
        assert transfer["to_device"] >= 5000 * nbytes / 192
        assert transfer["bus_share"] == pytest.approx(transfer["to_device"] / transfer["compute"])
        said = " ".join(done.stdout.split())
        assert f"An image has {nbytes} bytes." in said
        assert ("With AIPP an image has 48 bytes of 8-bit pixels" in said) == (nbytes == 192)
