"""`zoofast eval`: answers against NumPy, in every arrangement and after every accident."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import folders, oracle

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto

from tests.support import fake_aclruntime, models, traces
from zoofast import _core, load_recipe
from zoofast.base.rows import read_named_rows
from zoofast.cli import main
from zoofast.conversion import models as known_models
from zoofast.errors import BackendError, ImageError, OutputError
from zoofast.evaluation.evaluate import EvalOptions, evaluate
from zoofast.evaluation.result import EvalProgress, Evaluation
from zoofast.inference.backends import open_backend
from zoofast.inference.remote import RemoteModel
from zoofast.inference.spec import DEFAULT_BATCH, ModelSpec
from zoofast.preprocess.sources import Item, Source, open_source
from zoofast.scoring.labels import Labels
from zoofast.scoring.score import ScoreOptions
from zoofast.scoring.tally import TITLE

ZOOFAST = Path(sys.executable).with_name("zoofast")
SPEC = oracle.Spec(size=(5, 5), crop=(4, 4))
COUNT = 23


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return folders.good_files(COUNT)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Path:
    """A folder with images, labels, a recipe and a model; nothing in it is changed by tests."""
    folder = tmp_path_factory.mktemp("eval")
    folders.write(folder / "images", files)
    folders.recipe_file(folder, SPEC)
    models.write_model(folder / "m.onnx")
    write_labels(folder / "labels.txt", [Path(name).stem for name in files])
    return folder


def label_of(name: str) -> int:
    return sum(name.encode()) % models.CLASSES


def write_labels(path: Path, names: list[str]) -> None:
    path.write_text("".join(f"{name}.JPEG {label_of(name)}\n" for name in names))


def scores_of(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    tensors = np.stack([folders.tensor(data, SPEC) for data in files.values()])
    rows = models.logits(tensors)
    return {Path(name).stem: row for name, row in zip(files, rows, strict=True)}


def result_of(files: dict[str, bytes]) -> str:
    """result.json, by NumPy alone."""
    places = []
    for name, row in scores_of(files).items():
        order = sorted(range(models.CLASSES), key=lambda i: (-row[i], i))
        places.append(order.index(label_of(name)))
    value = [
        {"key": "Number of images", "value": str(len(files))},
        {"key": "Number of classes", "value": str(models.CLASSES)},
    ]
    for k in range(5):
        percent = np.round(np.float64(np.mean([place <= k for place in places])) * 100, 2)
        value.append({"key": f"Top{k + 1} accuracy", "value": f"{float(percent)}%"})
    return json.dumps({"title": TITLE, "value": value})


def words(run: Path, *more: str | Path, images: Path | None = None) -> list[str]:
    where = [run / "m.onnx", images or run / "images", run / "labels.txt"]
    return [str(word) for word in ("eval", *where, "--recipe", run / "recipe.toml", *more)]


# ---- the answer ----------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        "--threads 1 --batchsize 1",
        "--threads 3 --batchsize 4",
        "--threads 2 --batchsize 4 --depth 9",
        "--threads 2 --batchsize 5 --device 0,1,2",
        "--threads 2 --batchsize 64",
    ],
)
def test_the_arrangement_changes_nothing(
    run: Path, files: dict[str, bytes], tmp_path: Path, options: str
) -> None:
    out = ["-o", tmp_path / "r.json", "--save-logits", tmp_path / "l.npy"]
    assert main(words(run, *out, *options.split())) == 0
    assert (tmp_path / "r.json").read_text() == result_of(files)
    names, rows = read_named_rows(tmp_path / "l.npy")
    expected = scores_of(files)
    assert names == sorted(expected)
    assert rows.dtype == np.float32
    assert rows == pytest.approx(np.stack([expected[name] for name in names]), rel=1e-4, abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.names.txt", "l.npy", "r.json"]


def test_the_same_bytes_as_the_way_over_the_disk(run: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert main(["prep", str(run / "images"), out, "--recipe", str(run / "recipe.toml")]) == 0
    infer = ["infer", "--model", str(run / "m.onnx"), "--input", out, "--batchsize", "4"]
    infer += ["--output", str(tmp_path), "--output_dirname", "results"]
    assert main(infer) == 0
    score = ["score", str(tmp_path / "results"), str(run / "labels.txt")]
    assert (
        main([*score, "-o", str(tmp_path / "a.json"), "--per-class", str(tmp_path / "a.csv")]) == 0
    )
    more = ["-o", tmp_path / "b.json", "--per-class", tmp_path / "b.csv", "--batchsize", "4"]
    assert main(words(run, *more)) == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "b.csv").read_text().count("\n") > 2


def test_aipp_models_take_bytes(tmp_path: Path, files: dict[str, bytes]) -> None:
    spec = oracle.Spec(size=(5, 5), crop=(4, 4), dtype="uint8", layout="NHWC")
    folders.write(tmp_path / "images", files)
    folders.recipe_file(tmp_path, spec)
    models.write_model(tmp_path / "m.onnx", 4, image=(4, 4, 3), dtype=TensorProto.UINT8)
    write_labels(tmp_path / "labels.txt", [Path(name).stem for name in files])
    assert main(words(tmp_path, "--save-logits", tmp_path / "l.npy")) == 0
    names, rows = read_named_rows(tmp_path / "l.npy")
    tensors = [folders.tensor(files[f"{name}.JPEG"], spec) for name in names]
    expected = models.logits(np.stack(tensors).astype(np.float32))
    assert rows == pytest.approx(expected, rel=1e-4, abs=1e-2)


def test_what_is_said(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(words(run, "--json", tmp_path / "e.json")) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.endswith(f"scored {COUNT} of {COUNT}\n")
    assert "the device computes" in shown.out
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert (numbers["state"], numbers["images"], numbers["total"]) == ("complete", COUNT, COUNT)
    assert numbers["recipe"]["digest"] == load_recipe(str(run / "recipe.toml")).digest
    assert numbers["score"]["images"] == COUNT
    assert 0 < numbers["device_busy"] < 1
    assert numbers["batchsize"] == DEFAULT_BATCH
    assert main(words(run, "--quiet")) == 0
    out = capsys.readouterr().out.splitlines()
    assert (len(out), out[1]) == (2, f"scored {COUNT} of {COUNT}")


def test_a_part_of_the_images_misses_no_label(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(run, "--limit", "5", "--quiet")) == 0
    assert capsys.readouterr().out.endswith("scored 5 of 5\n")
    assert main(words(run, "--shard", "2/4", "--quiet")) == 0
    assert capsys.readouterr().out.endswith("scored 6 of 6\n")


def test_an_output_can_be_chosen(run: Path, tmp_path: Path) -> None:
    models.write_model(tmp_path / "two.onnx", outputs=2)
    where = words(run, "--output-index", "1", "--save-logits", tmp_path / "n.npy")
    where[1] = str(tmp_path / "two.onnx")
    assert main(where) == 0
    names, rows = read_named_rows(tmp_path / "n.npy")
    folder = run / "images"
    expected = scores_of({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert rows == pytest.approx(-np.stack([expected[name] for name in names]), rel=1e-4, abs=1e-5)
    where[where.index("1", 5)] = "2"
    assert main(where) == 2


@pytest.mark.parametrize("cpus", [1, 3])
def test_the_trace_has_a_row_for_all_that_computes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    monkeypatch.setattr("zoofast.inference.spec.usable_cpus", lambda: cpus)
    assert main(words(run, "--trace", tmp_path / "t.json", "--batchsize", "4")) == 0
    trace = traces.read_trace(tmp_path / "t.json")
    rows = {"device 0"} if cpus == 1 else {f"device 0 executor {i}" for i in range(cpus)}
    found = {s.thread for s in trace.slices if s.name == "infer"}
    assert found <= rows
    assert any(thread.startswith("worker") for thread in trace.threads)
    inferred = sorted(s.batch for s in trace.slices if s.name == "infer")
    assert inferred == list(range(6))
    assert all("main" in flow and rows & set(flow) for flow in trace.flows.values())
    scored = [s for s in trace.slices if s.name == "score"]
    assert [s.batch for s in scored] == inferred


# ---- before the run --------------------------------------------------------------


@pytest.mark.parametrize(
    "option", ["-o", "--json", "--report", "--trace", "--per-class", "--save-logits", "--journal"]
)
def test_files_that_cannot_be_written_are_named_before(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    for where, why in (
        (tmp_path / "no" / "f", f"mkdir -p {tmp_path / 'no'}"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(words(run, option, where))
        assert why in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_cannot_work_is_said_before(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def said(arguments: list[str]) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        shown = capsys.readouterr()
        assert shown.err.count("\n") == 1
        return shown.err

    assert "recipe test makes image float16[4x3x4x4], but the model takes image float32" in said(
        words(run, "--dtype", "float16")
    )
    other = words(run)
    other[3] = str(tmp_path / "labels.txt")
    write_labels(tmp_path / "labels.txt", ["x", "y"])
    assert "no image has a label: the names do not match (img0000 against x)" in said(other)
    (tmp_path / "labels.txt").write_text("img0000.JPEG 6\n")
    assert "the label of img0000 is 6" in said(other)
    assert "give the labels: LABELS or --labels-from DIR" in said([*other[:3], *other[4:]])
    assert "--resume needs -o FILE or --journal FILE" in said(words(run, "--resume"))
    assert "no.onnx: no such model file" in said([*words(run)[:1], "no.onnx", *words(run)[2:]])
    fixed = words(run, "--batchsize", "3")
    fixed[1] = models.write_model(tmp_path / "fixed.onnx", 2)
    assert "is made for batch size 2, not 3" in said(fixed)
    assert "are for --backend sim, not null" in said(
        words(run, "--backend", "null", "--sim-fps", "5")
    )
    assert "its guide has no figure for batch size 3" in said(
        ["eval", "alexnet", *words(run)[2:], "--sim-device", "310P3", "--batchsize", "3"]
    )


# ---- bad images ------------------------------------------------------------------


def with_bad(files: dict[str, bytes], every: int) -> dict[str, bytes]:
    """A bad image after every few good ones."""
    bad = list(folders.BAD_FILES.values())
    mixed = dict(files)
    for i, name in enumerate(sorted(files)):
        if i % every == 0:
            mixed[name.replace(".JPEG", "_bad.JPEG")] = bad[i % len(bad)]
    return mixed


@pytest.mark.parametrize("batch", [2, 4, 7])
def test_bad_images_are_left_out_and_named(
    run: Path,
    files: dict[str, bytes],
    tmp_path: Path,
    batch: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mixed = with_bad(files, 3)  # with batches of 4, every batch has one
    images = folders.write(tmp_path / "images", mixed)
    names = [Path(name).stem for name in mixed]
    write_labels(tmp_path / "labels.txt", names)
    arguments = words(run, "--batchsize", str(batch), "-o", tmp_path / "r.json", images=images)
    arguments[3] = str(tmp_path / "labels.txt")
    arguments += ["--json", str(tmp_path / "e.json")]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert shown.out.endswith(f"scored {COUNT} of {len(mixed)}\n")
    assert "zoofast: image that cannot be prepared: 8: img0000_bad (" in shown.err
    assert "label without a result" not in shown.err
    assert (tmp_path / "r.json").read_text() == result_of(files)
    problems = json.loads((tmp_path / "e.json").read_text())["score"]["problems"]
    assert sorted(problems["failed"]) == sorted(set(names) - {Path(name).stem for name in files})
    # when they are mended, --resume does only those
    for name in set(mixed) - set(files):
        (images / name).write_bytes(files["img0001.JPEG"])
    assert main([*arguments, "--resume"]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["images"] == len(mixed) - COUNT
    assert "scored 31 of 31" in capsys.readouterr().out
    assert main([*arguments, "--allow-missing"]) == 0


def test_nothing_but_bad_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = folders.write(tmp_path / "images", folders.BAD_FILES)
    arguments = words(run, "-o", tmp_path / "r.json", images=images)
    write_labels(tmp_path / "labels.txt", [Path(name).stem for name in folders.BAD_FILES])
    arguments[3] = str(tmp_path / "labels.txt")
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert shown.out.endswith("scored 0 of 3\n")
    assert shown.err.count("zoofast: failed: ") == 3
    assert not (tmp_path / "r.json").exists()


def test_stop_at_the_first(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = folders.write(tmp_path / "images", folders.good_files(6) | folders.BAD_FILES)
    assert main(words(run, "--on-error", "stop", images=images)) == 2
    error = capsys.readouterr().err
    assert "bad_cut.JPEG: image file is truncated" in error
    assert error.count("\n") == 1


def test_an_empty_source(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    assert main(words(run, images=tmp_path / "images")) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ---- accidents -------------------------------------------------------------------


def options(run: Path, **more: Any) -> EvalOptions:
    device = more.pop("devices", 1)
    batch = more.pop("batch", 4)
    specs = [ModelSpec(str(run / "m.onnx"), device=i, batch=batch) for i in range(device)]
    return EvalOptions(specs, **more)


def evaluated(run: Path, source: Source, chosen: EvalOptions, **more: Any) -> Evaluation:
    recipe = load_recipe(str(run / "recipe.toml"))
    return evaluate(source, source.items, recipe, None, chosen, **more)


@given(
    bad=st.lists(st.booleans(), min_size=1, max_size=40),
    batch=st.integers(1, 9),
    threads=st.integers(1, 4),
    devices=st.integers(1, 3),
    depth=st.one_of(st.none(), st.integers(1, 12)),
)
def test_no_image_is_lost_or_counted_twice(
    run: Path,
    tmp_path_factory: pytest.TempPathFactory,
    bad: list[bool],
    batch: int,
    threads: int,
    devices: int,
    depth: int | None,
) -> None:
    there = sorted((run / "images").iterdir())
    items = [
        Item(f"i{i:02d}", "/nowhere/at/all.JPEG" if is_bad else str(there[i % COUNT]))
        for i, is_bad in enumerate(bad)
    ]
    logits_file = tmp_path_factory.mktemp("l") / "l.npy"
    chosen = options(
        run,
        batch=batch,
        devices=devices,
        threads=threads,
        depth=depth,
        logits=logits_file,
    )
    found = evaluated(run, Source("list", items), chosen)
    names, _ = read_named_rows(logits_file)
    assert names == [item.name for item, is_bad in zip(items, bad, strict=True) if not is_bad]
    assert [failure.name for failure in found.failures] == [
        item.name for item, is_bad in zip(items, bad, strict=True) if is_bad
    ]
    assert (found.state, found.images) == ("complete", len(names))


def test_a_source_that_shrinks_and_grows(
    run: Path, tmp_path: Path, files: dict[str, bytes]
) -> None:
    folders.write(tmp_path / "images", files)
    with open_source(tmp_path / "images") as source:
        (tmp_path / "images/img0003.JPEG").unlink()
        (tmp_path / "images/new.JPEG").write_bytes(files["img0000.JPEG"])
        (tmp_path / "images/img0005.JPEG").write_bytes(files["img0005.JPEG"][:400])
        found = evaluated(run, source, options(run))
    assert {failure.name for failure in found.failures} == {"img0003", "img0005"}
    assert found.images == COUNT - 2


class Wrapped:
    """A model that does `before` each execution; see zoofast.inference.backends.Model."""

    def __init__(self, before: Callable[[int], None], concurrency: int = 1) -> None:
        self.concurrency = concurrency
        self._model = open_backend("4x3x4x4:float32:6", "null")
        self.input, self.outputs = self._model.input, self._model.outputs
        self._before, self._calls = before, 0

    def infer(self, batch: Any, loop: int = 1) -> Any:
        self._calls += 1
        self._before(self._calls)
        return self._model.infer(batch, loop)

    def times(self) -> Any:
        return self._model.times()

    def __enter__(self) -> Wrapped:
        return self

    def __exit__(self, *error: Any) -> None:
        pass


def test_a_model_with_concurrency_computes_several_batches_at_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    concurrency = 3
    together = threading.Barrier(concurrency, timeout=60)

    def meet(call: int) -> None:
        if call <= concurrency:
            together.wait()  # for ever, if they came one after another

    monkeypatch.setattr(ModelSpec, "open", lambda spec: Wrapped(meet, concurrency))
    with open_source(run / "images") as source:
        found = evaluated(run, source, options(run, threads=1))
    assert (found.state, found.images) == ("complete", COUNT)
    assert found.concurrency == concurrency
    rows = {row for row, busy in found.timeline.busy_ns.items() if "infer" in busy}
    assert rows == {f"device 0 executor {i}" for i in range(concurrency)}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("device")]


@pytest.mark.parametrize(("concurrency", "cpus"), [(1, 3), (3, 3), (3, 5)])
def test_onnx_runtime_computes_batches_at_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, concurrency: int, cpus: int
) -> None:
    monkeypatch.setattr("zoofast.inference.backends.ort.usable_cpus", lambda: cpus)
    rng = np.random.default_rng(concurrency)
    batches = rng.standard_normal((12, 4, 3, 4, 4)).astype(np.float32)
    with open_backend(str(run / "m.onnx"), batch=4, concurrency=concurrency) as model:
        assert model.concurrency == concurrency
        with ThreadPoolExecutor(concurrency) as pool:
            answers = list(pool.map(lambda batch: model.infer(batch)[0], batches))
        assert len(model.times().compute) == 12
    for batch, answer in zip(batches, answers, strict=True):
        assert answer == pytest.approx(models.logits(batch), rel=1e-4, abs=1e-5)


def test_progress_tells_the_running_accuracy(
    run: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoofast.evaluation.evaluate.PROGRESS_NS", 0)
    label = {Path(name).stem: label_of(Path(name).stem) for name in files}
    order = {name: np.argsort(-row, kind="stable") for name, row in scores_of(files).items()}
    told: list[tuple[int, int, int, int]] = []

    def tell(state: EvalProgress) -> None:
        assert state.failures == 0
        told.append((state.images, state.scored, *state.hits))

    recipe = load_recipe(str(run / "recipe.toml"))
    with open_source(run / "images") as source:
        names = [item.name for item in source.items]
        labels = Labels(label, "here")
        evaluate(
            source, source.items, recipe, labels, options(run, scoring=ScoreOptions(top_k=2)), tell
        )
    for seen in (0, 4, 8, COUNT):
        hits = [np.flatnonzero(order[name] == label[name])[0] for name in names[:seen]]
        expected = (seen, seen, sum(hit < 1 for hit in hits), sum(hit < 2 for hit in hits))
        assert expected in told
    assert told == sorted(told)


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BackendError("the card is gone"), "device 1: the card is gone"),
        (ZeroDivisionError("a defect"), "a defect"),
        (MemoryError("no more"), "no more"),
    ],
)
def test_a_device_that_fails_ends_the_run_by_name(
    run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, concurrency: int
) -> None:
    def fail(call: int) -> None:
        if call == 2:
            raise error

    def slow(call: int) -> None:
        time.sleep(0.02)

    monkeypatch.setattr(
        ModelSpec, "open", lambda spec: Wrapped(fail if spec.device == 1 else slow, concurrency)
    )
    with (
        open_source(run / "images") as source,
        pytest.raises(type(error), match=said) as raised,
    ):
        evaluated(run, source, options(run, devices=2))
    assert str(raised.value).count(str(error)) == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("device")]


def test_a_device_that_cannot_be_loaded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(spec: ModelSpec) -> Wrapped:
        if spec.device == 2:
            raise BackendError("no such card")
        return Wrapped(lambda call: None)

    monkeypatch.setattr(ModelSpec, "open", load)
    with (
        open_source(run / "images") as source,
        pytest.raises(BackendError, match=r"^device 2: no such card$"),
    ):
        evaluated(run, source, options(run, devices=3))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("device")]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_device_that_hangs_is_given_up(
    run: Path, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    freed = threading.Event()

    def hang(call: int) -> None:
        if call == 3:
            freed.wait(60)

    monkeypatch.setattr(ModelSpec, "open", lambda spec: Wrapped(hang, concurrency))
    monkeypatch.setattr("zoofast.inference.devices.CLOSING_SECONDS", 0.1)
    with (
        open_source(run / "images") as source,
        pytest.raises(BackendError, match=r"device 0: has not answered for \d+ s"),
    ):
        evaluated(run, source, options(run, timeout=0.3))
    freed.set()


@pytest.mark.parametrize("speeds", ["host", "device"])
def test_whoever_is_slow(run: Path, monkeypatch: pytest.MonkeyPatch, speeds: str) -> None:
    """Either side waits for the other; the shares say which."""
    if speeds == "device":
        monkeypatch.setattr(ModelSpec, "open", lambda spec: Wrapped(lambda call: time.sleep(0.05)))
    else:
        from zoofast.preprocess.loader import Loader

        take = Loader.take

        def slow(self: Loader) -> Any:
            time.sleep(0.05)
            return take(self)

        monkeypatch.setattr(Loader, "take", slow)
    with open_source(run / "images") as source:
        found = evaluated(run, source, options(run))
    assert found.images == COUNT
    assert (found.device_share("infer") > 0.5) == (speeds == "device")


WATCHED = """
import sys, time
from zoofast.inference.backends.null import NullModel
calls = 0
fast = NullModel.infer
def infer(self, batch, loop=1):
    global calls
    calls += 1
    {what}
    return fast(self, batch, loop)
NullModel.infer = infer
from zoofast.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("time.sleep(1000 if calls == 2 else 0)", 2),
        ("sys.exit(5) if calls == 2 else None", 5),
        ("raise RuntimeError('a defect')", 1),
        ("time.sleep(0.001 * (calls % 7))", 0),
    ],
)
def test_the_watchdog(run: Path, what: str, code: int) -> None:
    """Whatever a backend does, the process ends, and in time."""
    arguments = words(run, "--backend", "null", "--device-timeout", "1", "--device", "0,1")
    arguments[1] = "4x3x4x4:float32:6"
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(what=what), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    if code == 2:
        assert "has not answered" in done.stderr
        assert done.stderr.count("\n") == 1


# ---- interrupted and resumed ------------------------------------------------------


def slow_words(run: Path, tmp_path: Path, *more: str) -> list[str]:
    arguments = words(run, "--sim-fps", "40", "--batchsize", "2", *more)
    arguments += ["-o", str(tmp_path / "r.json"), "--save-logits", str(tmp_path / "l.npy")]
    return [*arguments, "--json", str(tmp_path / "e.json")]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed_equals_undisturbed(
    run: Path, tmp_path: Path, how: signal.Signals
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    assert main([*slow_words(run, tmp_path / "whole"), "--sim-fps", "1e5"]) == 0
    arguments = slow_words(run, tmp_path / "broken")
    process = subprocess.Popen(
        [ZOOFAST, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    journal = tmp_path / "broken/r.json.journal"
    until = time.monotonic() + 30
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(how)
    out, error = process.communicate(timeout=30)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert f"of {COUNT} images are done; to continue, repeat the command with --resume" in error
        assert f" of {COUNT}\n" in out
        assert json.loads((tmp_path / "broken/e.json").read_text())["state"] == "partial"
    assert not (tmp_path / "broken/r.json").exists()
    assert not (tmp_path / "broken/l.npy").exists()
    done = journal.read_bytes().count(b"\n") - 1
    assert main([*arguments, "--sim-fps", "1e6"]) == 2  # neither --resume nor --overwrite
    if how == signal.SIGKILL:
        with journal.open("ab") as file:
            file.write(b'{"names": ["img00')  # as if it had been killed here
    # the journal is of another speed, which is another model
    assert main([*arguments, "--sim-fps", "1e6", "--resume"]) == 2
    assert main([*arguments, "--resume"]) == 0
    numbers = json.loads((tmp_path / "broken/e.json").read_text())
    assert numbers["resumed"] == 2 * done
    assert numbers["images"] == COUNT - 2 * done
    for name in ("r.json", "l.npy", "l.names.txt"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not journal.exists()


def test_a_journal_that_does_not_fit(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def journal_of(*more: str) -> list[str]:
        return words(run, "-o", tmp_path / "r.json", "--on-error", "stop", *more, images=images)

    images = folders.write(tmp_path / "images", folders.good_files(9) | folders.BAD_FILES)
    (images / "bad_cut.JPEG").rename(images / "img0008b.JPEG")  # comes after the good ones
    (images / "bad_empty.JPEG").unlink()
    (images / "bad_text.JPEG").unlink()
    assert main(journal_of("--batchsize", "3")) == 2
    assert "the images that are done are kept, and --resume continues" in capsys.readouterr().err
    journal = tmp_path / "r.json.journal"
    for more, said in (
        (["--top-k", "3"], "is of another top-k (5, now 3)"),
        (["--save-logits", str(tmp_path / "l.npy")], "has not the logits of the 9 images"),
    ):
        assert main(journal_of("--resume", *more)) == 2
        assert said in capsys.readouterr().err
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], b'{"names": 5}\n', *lines[1:]]))
    assert main(journal_of("--resume")) == 2
    assert "line 2 is damaged" in capsys.readouterr().err
    journal.write_bytes(b"".join(lines))
    assert main(journal_of("--resume", "--limit", "2")) == 2
    assert "holds img0002, which is not among this run's images" in capsys.readouterr().err
    (images / "img0008b.JPEG").unlink()
    assert main(journal_of("--overwrite", "--allow-missing")) == 0
    assert not journal.exists()


def test_errors_of_the_disk_name_the_file(run: Path, tmp_path: Path) -> None:
    with open_source(run / "images") as source:
        for where in ({"journal": tmp_path / "no/j"}, {"logits": tmp_path / "no/l.npy"}):
            with pytest.raises(OutputError, match="no/"):
                evaluated(run, source, options(run, **where))
    with (
        open_source(run / "images") as source,
        pytest.raises(
            ImageError, match=r"stopped at the first failure\); the images that are done are kept"
        ),
    ):
        source.items.append(Item("gone", "/nowhere.JPEG"))
        evaluated(run, source, options(run, journal=tmp_path / "j", on_error="stop"))


# ---- simulated NPUs ----------------------------------------------------------------


def test_a_simulated_npu_is_never_faster_than_it_is(run: Path, tmp_path: Path) -> None:
    arguments = words(run, "--sim-fps", "100", "--batchsize", "4", "--json", tmp_path / "e.json")
    assert main(arguments) == 0
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert numbers["seconds"] >= 0.9 * 24 / 100  # six batches
    assert numbers["device_images_per_second"] == pytest.approx(100)
    assert numbers["images"] == COUNT


def test_the_guides_speeds_are_known(tmp_path: Path, files: dict[str, bytes]) -> None:
    images = str(folders.write(tmp_path / "images", files))
    arguments = ["eval", "squeezenet1_1", images, "--recipe", "squeezenet1_1"]
    arguments += ["--sim-device", "310P3", "--json", str(tmp_path / "e.json")]
    assert main(arguments) == 0
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert numbers["batchsize"] == 8
    assert numbers["device_images_per_second"] == pytest.approx(21301.5, rel=1e-3)
    assert numbers["score"] is None
    # the recipe says which model a file is
    assert main(["eval", "mine.om", *arguments[2:], "--backend", "sim", "--batchsize", "1"]) == 0
    numbers = json.loads((tmp_path / "e.json").read_text())
    speed = known_models.load("squeezenet1_1").fps["310P3"][1]
    assert numbers["device_images_per_second"] == pytest.approx(speed, rel=1e-3)


def test_the_installed_command_shows_no_bar_when_piped(run: Path) -> None:
    done = subprocess.run([ZOOFAST, *words(run)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"scored {COUNT} of {COUNT}\n")


# ---- aclruntime, in processes of its own -------------------------------------------


@pytest.fixture(params=fake_aclruntime.GENERATIONS)
def generation(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The fake as the module that spawned processes import."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path/aclruntime.py").write_text(fake_aclruntime.SHIM)
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setenv("FAKE_ACLRUNTIME", request.param)
    name: str = request.param
    return name


@pytest.mark.parametrize("devices", ["0", "1,2"])
def test_npus(
    run: Path, files: dict[str, bytes], tmp_path: Path, generation: str, devices: str
) -> None:
    arguments = words(run, "--device", devices, "-o", tmp_path / "r.json")
    arguments[1] = models.write_model(tmp_path / "m.om", 4)
    assert main([*arguments, "--json", str(tmp_path / "e.json")]) == 0
    assert (tmp_path / "r.json").read_text() == result_of(files)
    assert json.loads((tmp_path / "e.json").read_text())["device_images_per_second"] > 0


def test_a_process_takes_a_second_batch_while_it_runs_the_first(run: Path, tmp_path: Path) -> None:
    model = models.write_model(tmp_path / "two.onnx", outputs=2)
    plan = load_recipe(str(run / "recipe.toml")).plan()
    ring = [_core.Batch(plan, 4, shared=True) for _ in range(3)]
    rng = np.random.default_rng(5)
    with RemoteModel(model, backend="onnxruntime", batch=4) as remote:
        remote.share(ring)
        asked: list[np.ndarray] = []
        ended = 0
        for i in range(8):
            slots = ring[i % 3].array
            slots[:] = rng.standard_normal(slots.shape)
            asked.append(models.logits(slots.astype(np.float32)))
            remote.begin(slots)
            if i:
                ran = remote.end()
                assert ended <= ran.begin_ns <= ran.end_ns
                ended = ran.end_ns
                expected = asked[i - 1]
                assert ran.outputs[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)
                assert ran.outputs[1] == pytest.approx(-expected, rel=1e-4, abs=1e-5)
        last = remote.end().outputs[0]
        assert last == pytest.approx(asked[-1], rel=1e-4, abs=1e-5)
        assert len(remote.times().compute) == 8
        remote.begin(ring[7 % 3].array)
        again = remote.end().outputs[0]
        assert again == pytest.approx(last, rel=1e-6)
        assert last == pytest.approx(asked[-1], rel=1e-4, abs=1e-5)  # a copy of our own
        remote.begin(ring[0].array)
        remote.kill()
        with pytest.raises(BackendError, match="ended with exit code -9"):
            for _ in range(2):  # it may have been faster
                remote.end()
                remote.begin(ring[0].array)


DYING = (
    fake_aclruntime.SHIM
    + """
module = sys.modules[__name__]
make = module.InferenceSession
def session(path, device, options):
    made = make(path, device, options)
    run = made.run
    def dying(names, feeds):
        {what}
        return run(names, feeds)
    made.run = dying
    return made
module.InferenceSession = session
import time
"""
)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("os._exit(7)", r"the process of device 1 ended with exit code 7"),
        ("os.kill(os.getpid(), 9)", r"the process of device 1 ended with exit code -9"),
        ("time.sleep(1000)", r"device 1: has not answered for \d+ s"),
        ("raise RuntimeError('[507011][task timeout] ')", r"cannot run on device 1: \[507011\]"),
    ],
)
def test_an_npu_that_dies(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    said: str,
) -> None:
    (tmp_path / "path").mkdir()
    only_one = f"if device == 1: {what}"
    (tmp_path / "path/aclruntime.py").write_text(DYING.format(what=only_one))
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setenv("FAKE_ACLRUNTIME", "G3")
    monkeypatch.setattr("zoofast.inference.devices.CLOSING_SECONDS", 1.0)
    arguments = words(run, "--device", "0,1", "--device-timeout", "1")
    arguments[1] = models.write_model(tmp_path / "m.om", 1)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error), error


# ---- memory ------------------------------------------------------------------------

GROWTH = """
import json, re, sys
from pathlib import Path
from zoofast import load_recipe
from zoofast.conversion import models
from zoofast.evaluation.evaluate import EvalOptions, evaluate
from zoofast.preprocess.sources import Item, Source
from zoofast.inference.spec import ModelSpec
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
paths, recipe = sorted(map(str, Path(sys.argv[1]).iterdir())), load_recipe(sys.argv[2])
marks = []
def progress(running):
    marks.append((running.images, resident()))
items = [Item(f"i{i:05d}", paths[i % len(paths)]) for i in range(20_000)]
spec = ModelSpec("8x3x4x4:float32:1000", "null")
found = evaluate(Source("list", items), items, recipe, None, EvalOptions([spec]), progress)
print(json.dumps([found.images, marks]))
"""


def test_memory_does_not_grow_with_the_images(run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(run / "images"), str(run / "recipe.toml")],
        capture_output=True,
        text=True,
        check=True,
    )
    images, marks = json.loads(done.stdout)
    assert images == 20_000
    early = max(nbytes for seen, nbytes in marks if seen <= 4000)
    # what is kept of an image for scoring: names and six best classes
    assert marks[-1][1] - early < 16_000 * 400
