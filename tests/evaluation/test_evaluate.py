"""`zoofast eval`: answers against NumPy, in every arrangement and after every accident."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import eval_case, folders, oracle

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto

from tests.support import models, traces
from zoofast import load_recipe
from zoofast.base.rows import read_named_rows
from zoofast.cli import main
from zoofast.conversion import models as known_models
from zoofast.evaluation.evaluate import evaluate
from zoofast.evaluation.result import EvalProgress
from zoofast.inference.spec import DEFAULT_BATCH
from zoofast.preprocess.sources import Item, Source, open_source
from zoofast.scoring.labels import Labels
from zoofast.scoring.score import ScoreOptions

# ---- the answer ----------------------------------------------------------------


def test_a_pickle_of_cifar_has_its_labels(tmp_path, capsys):
    rng = np.random.default_rng(5)
    pictures = rng.integers(0, 256, (40, 32, 32, 3), np.uint8)
    tensors = np.stack([oracle.tensor(picture, eval_case.SPEC) for picture in pictures])
    best = models.logits(tensors).argmax(1)
    labels = [int(answer) if i % 4 else 0 for i, answer in enumerate(best)]
    content = {b"data": pictures.transpose(0, 3, 1, 2).reshape(40, -1), b"labels": labels}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content, 2))
    (tmp_path / "recipe.toml").write_text(eval_case.SPEC.toml())
    words = ["eval", models.write_model(tmp_path / "m.onnx"), str(tmp_path / "test_batch")]
    words += ["--recipe", str(tmp_path / "recipe.toml"), "--quiet"]
    assert main([*words, "--json", str(tmp_path / "all.json")]) == 0
    result = json.loads((tmp_path / "all.json").read_text())
    assert result["score"]["accuracy"]["top1"] == np.mean(best == labels)
    assert 0.75 <= np.mean(best == labels) < 1


def test_pixels_of_the_cache_give_the_same_answers(
    run: Path, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.age(run / "images")
    for out in ("fills", "reads"):
        words = ["--cache", tmp_path / "cache", "-o", tmp_path / out]
        assert main(eval_case.words(run, *words, "--json", tmp_path / "all.json")) == 0
        assert (tmp_path / out).read_text() == eval_case.result_of(files)
    assert json.loads((tmp_path / "all.json").read_text())["decoders"]["cache"] == len(files)
    assert re.search(rf"pixels from the cache +│ +{len(files)} ", capsys.readouterr().out)


@pytest.mark.parametrize(
    "options",
    [
        "--threads 1 --batchsize 1",
        "--threads 3 --batchsize 4",
        "--threads 2 --batchsize 4 --depth 9",
        "--threads 2 --batchsize 5",
        "--threads 2 --batchsize 64",
    ],
)
def test_the_arrangement_changes_nothing(
    run: Path, files: dict[str, bytes], tmp_path: Path, options: str
) -> None:
    out = ["-o", tmp_path / "r.json", "--save-logits", tmp_path / "l.npy"]
    assert main(eval_case.words(run, *out, *options.split())) == 0
    assert (tmp_path / "r.json").read_text() == eval_case.result_of(files)
    names, rows = read_named_rows(tmp_path / "l.npy")
    expected = eval_case.scores_of(files)
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
    assert main(eval_case.words(run, *more)) == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "b.csv").read_text().count("\n") > 2


def test_aipp_models_take_bytes(tmp_path: Path, files: dict[str, bytes]) -> None:
    spec = oracle.Spec(size=(5, 5), crop=(4, 4), dtype="uint8", layout="NHWC")
    folders.write(tmp_path / "images", files)
    folders.recipe_file(tmp_path, spec)
    models.write_model(tmp_path / "m.onnx", 4, image=(4, 4, 3), dtype=TensorProto.UINT8)
    eval_case.write_labels(tmp_path / "labels.txt", [Path(name).stem for name in files])
    assert main(eval_case.words(tmp_path, "--save-logits", tmp_path / "l.npy")) == 0
    names, rows = read_named_rows(tmp_path / "l.npy")
    tensors = [folders.tensor(files[f"{name}.JPEG"], spec) for name in names]
    expected = models.logits(np.stack(tensors).astype(np.float32))
    assert rows == pytest.approx(expected, rel=1e-4, abs=1e-2)


def test_what_is_said(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(eval_case.words(run, "--json", tmp_path / "e.json")) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.endswith(f"scored {eval_case.COUNT} of {eval_case.COUNT}\n")
    assert "the device computes" in shown.out
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert (numbers["state"], numbers["images"], numbers["total"]) == (
        "complete",
        eval_case.COUNT,
        eval_case.COUNT,
    )
    assert numbers["recipe"]["digest"] == load_recipe(str(run / "recipe.toml")).digest
    assert numbers["score"]["images"] == eval_case.COUNT
    assert 0 < numbers["device_busy"] < 1
    assert numbers["batchsize"] == DEFAULT_BATCH
    assert main(eval_case.words(run, "--quiet")) == 0
    out = capsys.readouterr().out.splitlines()
    assert (len(out), out[1]) == (2, f"scored {eval_case.COUNT} of {eval_case.COUNT}")


def test_a_part_of_the_images_misses_no_label(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(eval_case.words(run, "--limit", "5", "--quiet")) == 0
    assert capsys.readouterr().out.endswith("scored 5 of 5\n")
    assert main(eval_case.words(run, "--shard", "2/4", "--quiet")) == 0
    assert capsys.readouterr().out.endswith("scored 6 of 6\n")


def test_an_output_can_be_chosen(run: Path, tmp_path: Path) -> None:
    models.write_model(tmp_path / "two.onnx", outputs=2)
    where = eval_case.words(run, "--output-index", "1", "--save-logits", tmp_path / "n.npy")
    where[1] = str(tmp_path / "two.onnx")
    assert main(where) == 0
    names, rows = read_named_rows(tmp_path / "n.npy")
    folder = run / "images"
    expected = eval_case.scores_of(
        {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    )
    assert rows == pytest.approx(-np.stack([expected[name] for name in names]), rel=1e-4, abs=1e-5)
    where[where.index("1", 5)] = "2"
    assert main(where) == 2


@pytest.mark.parametrize("cpus", [1, 3])
def test_the_trace_has_a_row_for_all_that_computes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    monkeypatch.setattr("zoofast.inference.spec.usable_cpus", lambda: cpus)
    assert main(eval_case.words(run, "--trace", tmp_path / "t.json", "--batchsize", "4")) == 0
    trace = traces.read_trace(tmp_path / "t.json")
    rows = {"device 0"} if cpus == 1 else {f"device 0 executor {i}" for i in range(cpus)}
    found = {s.thread for s in trace.slices if s.name == "infer"}
    assert found <= rows
    assert any(thread.startswith("worker") for thread in trace.threads)
    inferred = sorted(s.batch for s in trace.slices if s.name == "infer")
    assert inferred == list(range(6))
    assert all("main" in flow and rows & set(flow) for flow in trace.flows.values())
    scored = [s for s in trace.slices if s.name == "score"]
    assert sorted(s.batch for s in scored) == inferred, "batches are scored as their answers come"


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
            main(eval_case.words(run, option, where))
        assert why in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "pipe"),
    [("--save-logits", "x.npy"), ("--save-logits", "x.names.txt"), ("--journal", "x.npy")],
)
def test_a_pipe_is_not_replaced_by_a_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, pipe: str
) -> None:
    os.mkfifo(tmp_path / pipe)
    with pytest.raises(SystemExit, match="2"):
        main(eval_case.words(run, option, tmp_path / "x.npy"))
    assert f"{pipe} is a device or a pipe; name a file" in capsys.readouterr().err
    assert [path.is_fifo() for path in tmp_path.iterdir()] == [True]


@pytest.mark.parametrize("to_pipe", [True, False], ids=["pipe", "stdout"])
def test_there_is_no_journal_beside_a_pipe_or_standard_output(
    run: Path,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    to_pipe: bool,
) -> None:
    """The failed image would keep the journal."""
    images = folders.write(tmp_path / "images", {**files, "img0003b.JPEG": b"no image"})
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    if not to_pipe:
        assert main(eval_case.words(run, "-o", "-", images=images)) == 1
        assert list(Path().iterdir()) == []
        return
    os.mkfifo("pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit(Path("pipe").read_text)
        assert main(eval_case.words(run, "-o", "pipe", images=images)) == 1
        assert read.result(60) == eval_case.result_of(files)
    assert list(Path().iterdir()) == [Path("pipe")]


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
        eval_case.words(run, "--dtype", "float16")
    )
    other = eval_case.words(run)
    other[3] = str(tmp_path / "labels.txt")
    eval_case.write_labels(tmp_path / "labels.txt", ["x", "y"])
    for more in ([], ["--limit", "2"], ["--shard", "2/23"]):
        name = "img0001" if "--shard" in more else "img0000"
        assert f"no image has a label: the names do not match ({name} against x)" in (
            said([*other, *more])
        )
    (tmp_path / "labels.txt").write_text("img0000.JPEG 6\n")
    assert "the label of img0000 is 6" in said(other)
    assert "give the labels: LABELS or --labels-from SRC" in said([*other[:3], *other[4:]])
    assert "--resume needs -o FILE or --journal FILE" in said(eval_case.words(run, "--resume"))
    assert "no.onnx: no such model file" in said(
        [*eval_case.words(run)[:1], "no.onnx", *eval_case.words(run)[2:]]
    )
    fixed = eval_case.words(run, "--batchsize", "3")
    fixed[1] = models.write_model(tmp_path / "fixed.onnx", 2)
    assert "is made for batch size 2 only" in said(fixed)
    assert "are for --backend sim, not null" in said(
        eval_case.words(run, "--backend", "null", "--sim-fps", "5")
    )
    assert "its guide has no figure for batch size 3" in said(
        ["eval", "alexnet", *eval_case.words(run)[2:], "--sim-device", "310P3", "--batchsize", "3"]
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


@pytest.mark.parametrize(("suffix", "kind"), [("cls", ""), ("json", ".gz")])
def test_shards_of_webdataset_with_their_own_labels(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, kind: str
) -> None:
    files = {path.name: path.read_bytes() for path in sorted((run / "images").iterdir())}
    names = list(files)
    for i in range(2):
        archive: Any
        with tarfile.open(tmp_path / f"shard-{i:02d}.tar{kind}", f"w:{kind[1:]}") as archive:
            for name in names[i * 12 : i * 12 + 12]:
                label = eval_case.label_of(Path(name).stem)
                text = str(label) if suffix == "cls" else json.dumps({"label": label})
                members = {name: files[name], f"{Path(name).stem}.{suffix}": text.encode()}
                for member, data in members.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    result = tmp_path / "result.json"
    given = eval_case.words(run, "-o", result, images=tmp_path / f"shard-{{00..01}}.tar{kind}")
    others = ["--labels-from", str(tmp_path / f"*.tar{kind}")]
    for labels in ([], ["--labels-from", "source"], others):
        assert main([*given[:3], *labels, *given[4:]]) == 0
        assert result.read_text() == eval_case.result_of(files)
    (tmp_path / "0.txt").write_text("x.JPEG\n")
    capsys.readouterr()
    assert main([*given[:3], "--labels-from", str(tmp_path / "0.txt"), *given[4:]]) == 2
    assert "0.txt: holds no labels (CIFAR" in capsys.readouterr().err


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
    eval_case.write_labels(tmp_path / "labels.txt", names)
    arguments = eval_case.words(
        run, "--batchsize", str(batch), "-o", tmp_path / "r.json", images=images
    )
    arguments[3] = str(tmp_path / "labels.txt")
    arguments += ["--json", str(tmp_path / "e.json")]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert shown.out.endswith(f"scored {eval_case.COUNT} of {len(mixed)}\n")
    assert "zoofast: image that cannot be prepared: 8: img0000_bad (" in shown.err
    assert "label without a result" not in shown.err
    assert (tmp_path / "r.json").read_text() == eval_case.result_of(files)
    problems = json.loads((tmp_path / "e.json").read_text())["score"]["problems"]
    assert sorted(problems["failed"]) == sorted(set(names) - {Path(name).stem for name in files})
    # when they are mended, --resume does only those
    for name in set(mixed) - set(files):
        (images / name).write_bytes(files["img0001.JPEG"])
    assert main([*arguments, "--resume"]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["images"] == len(mixed) - eval_case.COUNT
    assert "scored 31 of 31" in capsys.readouterr().out
    assert main([*arguments, "--allow-missing"]) == 0


def test_nothing_but_bad_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = folders.write(tmp_path / "images", folders.BAD_FILES)
    arguments = eval_case.words(run, "-o", tmp_path / "r.json", images=images)
    eval_case.write_labels(tmp_path / "labels.txt", [Path(name).stem for name in folders.BAD_FILES])
    arguments[3] = str(tmp_path / "labels.txt")
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert shown.out.endswith("scored 0 of 3\n")
    assert shown.err.count("zoofast: failed: ") == 3
    assert not (tmp_path / "r.json").exists()


def test_stop_at_the_first(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = folders.write(tmp_path / "images", folders.good_files(6) | folders.BAD_FILES)
    assert main(eval_case.words(run, "--on-error", "stop", images=images)) == 2
    error = capsys.readouterr().err
    assert "bad_cut.JPEG: image file is truncated" in error
    assert error.count("\n") == 1


def test_an_empty_source(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    assert main(eval_case.words(run, images=tmp_path / "images")) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ---- accidents -------------------------------------------------------------------


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
        Item(f"i{i:02d}", "/nowhere/at/all.JPEG" if is_bad else str(there[i % eval_case.COUNT]))
        for i, is_bad in enumerate(bad)
    ]
    logits_file = tmp_path_factory.mktemp("l") / "l.npy"
    chosen = eval_case.options(
        run,
        batch=batch,
        devices=devices,
        threads=threads,
        depth=depth,
        logits=logits_file,
    )
    # ONNX Runtime's CPU is device 0 alone; several models on it stand for several devices
    chosen = replace(chosen, specs=[replace(spec, device=0) for spec in chosen.specs])
    found = eval_case.evaluated(run, Source("list", items), chosen)
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
        found = eval_case.evaluated(run, source, eval_case.options(run))
    assert {failure.name for failure in found.failures} == {"img0003", "img0005"}
    assert found.images == eval_case.COUNT - 2


def test_progress_tells_the_running_accuracy(
    run: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoofast.evaluation.run.PROGRESS_NS", 0)
    monkeypatch.setattr("zoofast.evaluation.evaluate.RANKED_NS", 0)
    monkeypatch.setattr("zoofast.inference.spec.usable_cpus", lambda: 1)  # answers in order
    label = {Path(name).stem: eval_case.label_of(Path(name).stem) for name in files}
    order = {
        name: np.argsort(-row, kind="stable") for name, row in eval_case.scores_of(files).items()
    }
    told: list[tuple[int, int, int, int]] = []

    def tell(state: EvalProgress) -> None:
        assert state.failures == 0
        told.append((state.images, state.scored, *state.hits))

    recipe = load_recipe(str(run / "recipe.toml"))
    with open_source(run / "images") as source:
        names = [item.name for item in source.items]
        labels = Labels(label, "here")
        evaluate(
            source,
            source.items,
            recipe,
            labels,
            eval_case.options(run, scoring=ScoreOptions(top_k=2)),
            tell,
        )
    for seen in (0, 4, 8, eval_case.COUNT):
        hits = [np.flatnonzero(order[name] == label[name])[0] for name in names[:seen]]
        expected = (seen, seen, sum(hit < 1 for hit in hits), sum(hit < 2 for hit in hits))
        assert expected in told
    assert told == sorted(told)


# ---- simulated NPUs ----------------------------------------------------------------


def test_a_simulated_npu_is_never_faster_than_it_is(run: Path, tmp_path: Path) -> None:
    arguments = eval_case.words(
        run, "--sim-fps", "100", "--batchsize", "4", "--json", tmp_path / "e.json"
    )
    assert main(arguments) == 0
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert numbers["seconds"] >= 0.9 * 24 / 100  # six batches
    assert numbers["device_images_per_second"] == pytest.approx(100)
    assert numbers["images"] == eval_case.COUNT


def test_the_guides_speeds_are_known(
    tmp_path: Path, files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    images = str(folders.write(tmp_path / "images", files))
    arguments = ["eval", "squeezenet1_1", images, "--recipe", "squeezenet1_1"]
    arguments += ["--sim-device", "310P3", "--json", str(tmp_path / "e.json")]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0] == "squeezenet1_1 on 310P3"
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
    done = subprocess.run(
        [eval_case.ZOOFAST, *eval_case.words(run)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"scored {eval_case.COUNT} of {eval_case.COUNT}\n")


# ---- memory ------------------------------------------------------------------------

GROWTH = """
import json, re, sys
from pathlib import Path
from zoofast import load_recipe
from zoofast.conversion import models
from zoofast.evaluation.evaluate import evaluate
from zoofast.evaluation.options import EvalOptions
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


def test_a_shard_without_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = eval_case.words(run, "--shard", "300/400")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"{run / 'images'}: there is no image to evaluate: it has fewer images than" in error
