"""Who computes which images when nodes fail; on nodes in this process instead of a cluster's."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.support import eval_case, folders, in_process, models, stand_in_nodes
from zoofast import load_recipe
from zoofast.cluster.connection import FailedError, LostError, RayCluster, connect
from zoofast.cluster.evaluate import evaluate_on
from zoofast.cluster.prepare import store_on
from zoofast.cluster.ranges import FIRST_IMAGES, MAX_IMAGES, Ranges, parts_of, task_images
from zoofast.cluster.work import Done, Refused, Worker
from zoofast.commands.shared.console import warn_of_misreads
from zoofast.errors import BackendError, OutputError
from zoofast.evaluation.options import EvalOptions
from zoofast.evaluation.result import Evaluation
from zoofast.inference.spec import ModelSpec
from zoofast.preprocess.bins import Packing
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.folder import PrepOptions, PrepReport, prepare_folder
from zoofast.preprocess.loader import Failure
from zoofast.preprocess.manifest import MANIFEST
from zoofast.preprocess.sources import open_source
from zoofast.report.data import Table
from zoofast.report.eval import eval_report
from zoofast.scoring.labels import load_labels

Nodes = stand_in_nodes.Nodes
evaluated, check = stand_in_nodes.evaluated, stand_in_nodes.check
few_images_a_task = stand_in_nodes.few_images_a_task


def test_two_nodes_share_the_images(run: Path, files: dict[str, bytes]) -> None:
    cluster = Nodes("a", "b")
    evaluation = evaluated(cluster, run)
    check(evaluation, files)
    assert all(cluster.runs.values()) and evaluation.lost_nodes == {} and cluster.puts == 0
    assert sum(node.images for node in evaluation.nodes) == eval_case.COUNT
    with open_source(run / "images") as source:
        page = eval_report(evaluation, ["zoofast", "eval"], source)
    (section,) = [section for section in page.sections if section.title == "Nodes"]
    (table,) = section.blocks
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["a", "b"]
    assert [row[4] for row in table.rows] == [node.images for node in evaluation.nodes]
    assert [node.tasks for node in evaluation.nodes] == list(cluster.runs.values())


def test_a_lost_node_and_a_process_that_is_started_again(
    run: Path, files: dict[str, bytes]
) -> None:
    def dies(node: str, call: int, answer: Any) -> Any:
        if node == "b" and call == 1:
            raise LostError("its process has ended")
        return answer

    cluster = Nodes("a", "b", change=dies)
    check(evaluation := evaluated(cluster, run), files)
    assert evaluation.lost_nodes == {} and cluster.starts == {"a": 1, "b": 2}
    assert cluster.stops == 3  # that of b, too, which may live on and keep its CPUs

    def goes(node: str, call: int, answer: Any) -> Any:
        if node == "b":
            cluster.lose("b")
        return answer

    cluster = Nodes("a", "b", change=goes)
    check(evaluation := evaluated(cluster, run), files)
    assert evaluation.lost_nodes == {"b": "b: the node is gone"}
    assert cluster.starts == {"a": 1, "b": 1}

    def joins(node: str, call: int, answer: Any) -> Any:
        cluster.lose("a")

    cluster = Nodes("a", change=joins)
    with pytest.raises(BackendError, match=r"^no node is left: a: the node is gone$"):
        evaluated(cluster, run)


def test_a_silent_node(run: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    for silent, reason in (
        ("ping", "has not begun within 120 s; if others use its 1 CPU, --threads N asks for fewer"),
        ("open", "has not answered for 1,800 s"),
    ):
        cluster = Nodes("b")
        cluster.is_silent = lambda node, method, silent=silent: method == silent  # type: ignore
        monkeypatch.setattr("zoofast.cluster.driver.time", cluster.clock)
        with pytest.raises(BackendError, match=f"^no node is left: b: {reason}$"):
            evaluated(cluster, run)
    cluster = Nodes("a", "b")
    cluster.is_silent = lambda node, method: (node, method) == ("b", "run")
    monkeypatch.setattr("zoofast.cluster.driver.time", cluster.clock)
    check(evaluation := evaluated(cluster, run), files)
    assert evaluation.lost_nodes == {"b": "b: has not answered for 1,800 s"}


def test_only_the_task_that_a_process_computed_has_failed(
    run: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(node: str, call: int, answer: Any) -> Any:
        if call in (1, 2, 4):  # the first task twice, then the second one
            raise LostError("its process has ended")
        return answer

    monkeypatch.setattr("zoofast.cluster.driver.MAX_STARTS", 9)
    cluster = Nodes("a", change=dies)
    check(evaluated(cluster, run), files)
    assert cluster.starts == {"a": 4}


def test_what_fails_three_times_ends_the_run_by_name(run: Path, tmp_path: Path) -> None:
    def fails(node: str, call: int, answer: Any) -> Any:
        if isinstance(answer, Done) and not answer.is_good.all():
            raise AssertionError
        if len(answer.is_good) == 4 and answer.stats.nbytes_in == first[0]:
            raise FailedError("MemoryError: no memory")
        return answer

    names = sorted((run / "images").iterdir())[4:8]
    first = [sum(path.stat().st_size for path in names)]
    cluster = Nodes("a", "b", change=fails)
    with pytest.raises(BackendError) as caught:
        evaluated(cluster, run, journal=tmp_path / "j")
    assert f"4 images, {names[0]} to {names[-1]}: failed on 3 attempts; the last on " in str(
        caught.value
    )
    assert "MemoryError: no memory; the images that are done are kept, and --resume" in str(
        caught.value
    )
    assert sum(cluster.starts.values()) == 5  # each time in another process


@pytest.mark.parametrize("blind", ["a", "ab"])
def test_an_image_that_a_node_cannot_read_is_tried_on_another(
    run: Path, files: dict[str, bytes], blind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = sorted(files)[1]  # of a's first task

    def hides(node: str, call: int, answer: Any) -> Any:
        for i, path in enumerate(places[node].pop(0)):
            if node in blind and path.endswith(victim):
                good = answer.is_good.copy()
                good[i] = False
                best = answer.best[np.flatnonzero(good)]
                failure = Failure(Path(victim).stem, path, "unreadable", "No such file")
                return replace(answer, is_good=good, best=best, failures=[failure])
        return answer

    cluster = Nodes("a", "b", change=hides)
    places: dict[str, list[list[str]]] = {"a": [], "b": []}
    run_of = Worker.run

    def noted(node: str, worker: Worker) -> None:
        def call(chosen: Any) -> Any:
            places[node].append([worker._items[place].path for place in chosen.tolist()])
            return run_of(worker, chosen)

        worker.run = call  # type: ignore[method-assign]

    cluster.prepare = noted
    evaluation = evaluated(cluster, run)
    assert evaluation.lost_nodes == {}
    misread = {node.name: node.misread for node in evaluation.nodes}
    if blind == "ab":
        assert [failure.path for failure in evaluation.failures] == [str(run / "images" / victim)]
        assert evaluation.images == eval_case.COUNT - 1
        assert misread == {"a": [], "b": []}
        return
    check(evaluation, files)
    assert misread == {"a": [str(run / "images" / victim)], "b": []}
    warn_of_misreads(evaluation.nodes)
    assert capsys.readouterr().err == (
        f"zoofast: a: could not read images of 1 task, such as {run / 'images' / victim}; other "
        "nodes read them\n"
    )


def test_a_node_is_given_up_when_it_could_not_read_images_of_three_tasks(
    run: Path, files: dict[str, bytes]
) -> None:
    def hides(node: str, call: int, answer: Any) -> Any:
        if node != "a":
            return answer
        good = answer.is_good.copy()
        good[0] = False
        failure = Failure("x", f"x{call}.jpg", "unreadable", "No such file")
        best = answer.best[np.arange(1, len(good))]
        return replace(answer, is_good=good, best=best, failures=[failure])

    cluster = Nodes("a", "b", change=hides)
    evaluation = evaluated(cluster, run)
    check(evaluation, files)
    assert evaluation.nodes[0].misread[:3] == ["x1.jpg", "x2.jpg", "x3.jpg"]
    assert evaluation.lost_nodes == {
        "a": "a: could not read images of 3 tasks, which other nodes can read; the last is x3.jpg"
    }
    assert evaluation.nodes[0].images == 0


def test_nodes_that_differ_are_not_used(
    run: Path, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = folders.write(tmp_path / "fewer", dict(sorted(files.items())[1:]))
    cluster = Nodes("a", "other")

    def elsewhere(node: str, worker: Worker) -> None:
        if node == "other":
            images = replace(worker._work.images, where=str(fewer))
            worker._work = replace(worker._work, images=images)

    cluster.prepare = elsewhere
    check(evaluation := evaluated(cluster, run), files)
    assert evaluation.lost_nodes == {
        "other": f"other: {fewer}: lists other images: 22, not 23; number 1 is img0001 there, "
        "img0000 here"
    }

    def old(node: str, worker: Worker) -> None:
        images = replace(worker._work.images, resize_order="pillow-1")
        worker._work = replace(worker._work, images=images)

    cluster.prepare = old
    with pytest.raises(BackendError, match="no node is left: a: has a Pillow of another resize"):
        evaluated(cluster, run)
    with pytest.raises(BackendError, match="has no node with a CPU"):
        evaluated(Nodes(), run)
    with pytest.raises(OutputError, match="--trace is for one machine"):
        evaluated(cluster, run, trace=tmp_path / "trace.json")


def test_logits_are_those_of_one_machine(
    run: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    def goes(node: str, call: int, answer: Any) -> Any:
        if node == "b" and call == 2:  # when its logits are written
            cluster.lose("b")
        return answer

    cluster = Nodes("a", "b", change=goes)
    here, there = tmp_path / "here.npy", tmp_path / "there.npy"
    with open_source(run / "images") as source:
        eval_case.evaluated(run, source, eval_case.options(run, logits=here))
    (tmp_path / "there.npy.nodes").mkdir()
    (tmp_path / "there.npy.nodes/of_a_killed_driver.npy").touch()
    check(evaluation := evaluated(cluster, run, logits=there), files)
    assert evaluation.lost_nodes == {"b": "b: the node is gone"}
    assert there.read_bytes() == here.read_bytes()
    names = there.with_name("there.names.txt").read_text()
    assert names == here.with_name("here.names.txt").read_text()
    expected = eval_case.scores_of(files)
    assert names.split() == list(expected)
    np.testing.assert_allclose(np.load(there), np.stack(list(expected.values())), rtol=1e-5)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"here.npy", "here.names.txt", "there.npy", "there.names.txt"}


def test_a_folder_that_a_node_does_not_see(
    run: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    def elsewhere(node: str, worker: Worker) -> None:
        if node == "b":
            worker._work = replace(worker._work, mark=str(tmp_path / "elsewhere/0"))

    cluster: Any = Nodes("a", "b")
    cluster.prepare = elsewhere
    cure = "this node does not see the driver's folder; the output must be on storage that all"
    check(evaluation := evaluated(cluster, run, logits=tmp_path / "l.npy"), files)
    assert evaluation.lost_nodes["b"].startswith(f"b: {tmp_path}/elsewhere: {cure}")
    recipe = load_recipe(str(run / "recipe.toml"))
    with open_source(run / "images") as source:
        report = prepare_folder(source, tmp_path / "out", recipe, store=store_on(cluster))
    assert report.nodes[1].lost.startswith(f"b: {tmp_path}/out: {cure}")
    assert report.prepared == len(files) and not (tmp_path / "out/.zoofast-ray").exists()

    cluster = Nodes("a", change=lambda node, call, answer: replace(answer, file="gone.npy"))
    with pytest.raises(OutputError, match=r"gone\.npy: logits of a node cannot be read: No such"):
        evaluated(cluster, run, logits=tmp_path / "l.npy")


def test_a_model_that_nodes_lack_is_sent_once(
    run: Path, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cluster = Nodes("a", "b")

    def lacks(node: str, worker: Worker) -> None:
        spec = replace(worker._work.spec, model="/nowhere/m.onnx")  # type: ignore[union-attr]
        worker._work = replace(worker._work, spec=spec)  # type: ignore[call-arg]

    cluster.prepare = lacks
    monkeypatch.setattr("zoofast.cluster.driver.time", cluster.clock)
    # b begins while the driver sends the model to a, which takes longer than b may take to begin
    cluster.is_silent = lambda node, method: (node, method) == ("b", "ping") and not cluster.puts
    check(evaluation := evaluated(cluster, run), files)
    assert cluster.puts == 1 and evaluation.lost_nodes == {}
    folder = tmp_path / f"zoofast-models-{os.getuid()}"
    (copy,) = folder.iterdir()
    assert copy.read_bytes() == (run / "m.onnx").read_bytes()

    def dies(node: str, call: int, answer: Any) -> Any:
        if node == "b" and call == 1:
            copy.unlink(missing_ok=True)
            raise LostError("its process has ended")
        return answer

    cluster = Nodes("b", change=dies)
    cluster.prepare = lacks
    check(evaluation := evaluated(cluster, run), files)
    assert evaluation.lost_nodes == {} and copy.exists()
    copy.unlink()
    monkeypatch.setattr("zoofast.cluster.evaluate.MAX_MODEL_BYTES", 1)
    with pytest.raises(BackendError, match=r"m\.onnx: cannot be read: larger than 1 bytes$"):
        evaluated(cluster, run)

    class Full:
        def put(self, data: Any) -> Any:
            raise MemoryError("no room")

    full = RayCluster(Full())
    with pytest.raises(
        BackendError, match=r"no space for the model's 3 bytes .*--object-store-mem"
    ):
        full.put(np.zeros(3, np.uint8))


def test_a_model_of_several_files_is_not_sent(
    run: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    weights = models.write_external_model(tmp_path / "m.onnx")
    spec = ModelSpec(str(tmp_path / "m.onnx"), batch=4)
    recipe, labels = load_recipe(str(run / "recipe.toml")), load_labels(run / "labels.txt")

    def evaluated(cluster: Any) -> Evaluation:
        with open_source(run / "images") as source:
            options = EvalOptions([spec])
            return evaluate_on(cluster, source, source.items, recipe, labels, options)

    check(evaluated(Nodes("a", "b")), files)
    cluster = Nodes("a")
    cluster.prepare = lambda node, worker: models.change_byte(weights)
    with pytest.raises(
        BackendError, match=r"in 1 further file \(m\.onnx\.data\); put the model on"
    ):
        evaluated(cluster)
    assert cluster.puts == 0


class Exceptions:
    """Stands for ray.exceptions, and for the module itself."""

    class RayError(Exception): ...

    class RayTaskError(RayError): ...

    class RayActorError(RayError): ...

    class ActorUnschedulableError(RayError): ...

    def __init__(self, error: Exception) -> None:
        self.exceptions, self._error = self, error

    def get(self, call: Any) -> Any:
        raise self._error


def test_what_ray_says_of_a_process_that_has_ended() -> None:
    died = "The actor died because of an error raised in its creation task, ray::Worker\n  …\n"
    for text, reason in (
        ("The actor died unexpectedly.\n\tpid: 7", r"has ended \(The actor died unexpectedly.\)$"),
        (
            died + "No module named 'zoofast'",
            r"cannot begin \(No module named 'zoofast'\); install",
        ),
        ("", "has ended"),
    ):
        with pytest.raises(LostError, match=f"^its process {reason}"):
            RayCluster(Exceptions(Exceptions.RayActorError(text))).get("call")
    with pytest.raises(LostError, match=r"^no process can start there: the node is gone"):
        RayCluster(Exceptions(Exceptions.ActorUnschedulableError("The actor …"))).get("call")
    with pytest.raises(LostError, match=r"^the object is lost$"):
        RayCluster(Exceptions(Exceptions.RayError("the object is lost\n…"))).get("call")


def test_prep_on_nodes(files: dict[str, bytes], tmp_path: Path) -> None:
    images = folders.write(tmp_path / "in", {**files, **folders.BAD_FILES})
    recipe = load_recipe(folders.recipe_file(tmp_path))
    lost: list[str] = []

    def goes(node: str, call: int, answer: Any) -> Any:
        if node == "b" and call == 2:
            cluster.alive = ["a"]
            (tmp_path / "there/img0001.bin.0123abcd.part").write_bytes(b"half")
            lost.append(node)
            raise LostError("the node is gone")
        return answer

    cluster: Any = Nodes("a", "b", change=goes)
    with open_source(images) as source:
        here = prepare_folder(source, tmp_path / "here", recipe)
        there = prepare_folder(source, tmp_path / "there", recipe, store=store_on(cluster))
        again = prepare_folder(
            source,
            tmp_path / "there",
            recipe,
            PrepOptions(resume=True),
            store=store_on(Nodes("c")),  # type: ignore[arg-type]
        )
    assert lost and [node.lost for node in there.nodes] == ["", "b: the node is gone"]
    assert folders.sums(tmp_path / "there", ".bin") == folders.sums(tmp_path / "here", ".bin")
    assert not list((tmp_path / "there").glob("*.part"))
    for key in ("failures", "prepared", "nbytes_in", "nbytes_out", "decoders", "causes"):
        assert getattr(there, key) == getattr(here, key), key
    assert (again.prepared, again.resumed) == (0, len(files))
    assert [failure.name for failure in again.failures] == ["bad_cut", "bad_empty", "bad_text"]


def test_prep_names_a_lost_node_at_its_end(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is left to do, so that no progress was told."""

    def refuses(node: str, worker: Worker) -> None:
        if node == "b":
            worker.open = lambda model=None: Refused("lacks the images")  # type: ignore[method-assign]

    cluster = Nodes("a", "b")
    cluster.prepare = refuses
    monkeypatch.setattr("zoofast.cluster.connection.connect", lambda _: nullcontext(cluster))
    images = folders.write(tmp_path / "in", files)
    words = ["prep", images, tmp_path / "out", "--recipe", folders.recipe_file(tmp_path)]
    for more in ([], ["--resume"]):
        done = in_process.zoofast(*words, "--quiet", "--ray", "local", *more)
        line = "zoofast: b: lacks the images; the other nodes computed its batches\n"
        assert done.stderr.endswith(line) and done.returncode == 1


def test_a_pack_on_nodes(files: dict[str, bytes], tmp_path: Path) -> None:
    images = folders.write(tmp_path / "in", {**files, **folders.BAD_FILES})
    recipe = load_recipe(folders.recipe_file(tmp_path))

    def goes(node: str, call: int, answer: Any) -> Any:
        if node == "a" and call == 1:  # so that the first images come last
            cluster.lose("a")
        if node == "b" and call == 6 and stops:
            raise KeyboardInterrupt
        return answer

    with open_source(images) as source:
        prepare_folder(source, tmp_path / "here", recipe, PrepOptions(format="pack"))
        for stops in (True, False):
            cluster: Any = Nodes("a", "b", change=goes)
            options = PrepOptions(format="pack", resume=not stops)
            try:
                there = prepare_folder(
                    source, tmp_path / "there", recipe, options, store=store_on(cluster)
                )
            except KeyboardInterrupt:
                assert stops
    assert there.resumed > 0 and there.prepared + there.resumed == len(files)
    assert [failure.name for failure in there.failures] == ["bad_cut", "bad_empty", "bad_text"]
    for name in ("pack.npy", "pack.names.txt"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    left = {path.name for path in (tmp_path / "there").iterdir()}
    assert left == {path.name for path in (tmp_path / "here").iterdir()}


@pytest.mark.parametrize(
    "packing",
    [
        Packing(5, "zero", "in_{i:03d}.bin", mirror=True),
        Packing(4, "drop", "{folder}/{i}.bin"),
        Packing(1, "zero", "{i}.bin"),
        Packing(1, "zero", "{name}.bin", mirror=True),
    ],
)
def test_bins_on_nodes(files: dict[str, bytes], tmp_path: Path, packing: Packing) -> None:
    """Three images fail, and no file can have the name of another one. The driver is killed. When
    it continues, a node is lost, and one cannot read an image."""
    bad = {name.replace("bad_", "img0006_"): data for name, data in folders.BAD_FILES.items()}
    nameless = {"img0010" * 34 + "img.JPEG": files["img0000.JPEG"]}
    images = folders.write(tmp_path / "in", {**files, **bad, **nameless})
    recipe = load_recipe(folders.recipe_file(tmp_path))
    labels = {Path(name).stem: i for i, name in enumerate({**files, **bad})}
    victim, hidden = images / "img0003.JPEG", tmp_path / "hidden"
    out = tmp_path / "there"

    def prepared(resume: bool = False, store: Any = None) -> PrepReport:
        to = tmp_path / "here" if store is None else out
        side, line = f"{to}.txt", "{i} {bin} {labels}"
        options = PrepOptions(packing=packing, side_file=side, side_line=line, resume=resume)
        with open_source(images) as source:
            return prepare_folder(source, to, recipe, options, labels=labels, store=store)

    def blind(node: str, worker: Worker) -> None:
        def run(places: Any) -> Any:
            victim.rename(hidden)
            try:
                return Worker.run(worker, places)
            finally:
                hidden.rename(victim)

        if node == "a":
            worker.run = run  # type: ignore[method-assign]

    def goes(node: str, call: int, answer: Any) -> Any:
        if stops and (node, call) == ("c", 1):
            raise KeyboardInterrupt
        if not stops and (node, call) == ("b", 2):
            cluster.alive.remove("b")
            (out / f"{here.bins[-1].file}.0123abcd.part").write_bytes(b"half")  # type: ignore[index]
            raise LostError("the node is gone")
        return answer

    def made(folder: Path) -> dict[str, bytes]:
        paths = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    here = prepared()
    for stops in (True, False):
        cluster: Any = Nodes("a", "b", "c", change=goes)
        cluster.prepare = blind
        try:
            there = prepared(not stops, store_on(cluster))
        except KeyboardInterrupt:
            assert stops
            held = packing.images > 1 or packing.mirror
            assert any(name.endswith(".part") for name in made(out)) == held
    assert [node.misread for node in there.nodes] == [[str(victim)], [], []]
    assert [node.lost for node in there.nodes] == ["", "b: the node is gone", ""]
    assert there.resumed > 0 and there.prepared + there.resumed == here.prepared
    assert made(out) == made(tmp_path / "here")
    assert (tmp_path / "there.txt").read_text() == (tmp_path / "here.txt").read_text()
    for key in ("failures", "names", "unnamed", "bins", "total", "state"):
        assert getattr(there, key) == getattr(here, key), key

    shutil.rmtree(out)
    cluster = Nodes("a", "c")  # none is lost
    cluster.prepare = blind
    there = prepared(store=store_on(cluster))
    assert [node.misread for node in there.nodes] == [[str(victim)], []]
    assert made(out) == made(tmp_path / "here")


def test_a_node_that_would_name_bins_otherwise(files: dict[str, bytes], tmp_path: Path) -> None:
    """It has images of the same names, with other endings."""
    images = folders.write(tmp_path / "in", files)
    other = {name.replace("JPEG", "jpg"): data for name, data in files.items()}
    there = folders.write(tmp_path / "there", other)

    def elsewhere(node: str, worker: Worker) -> None:
        if node == "b":
            moved = replace(worker._work.images, where=str(there))
            worker._work = replace(worker._work, images=moved)

    cluster: Any = Nodes("a", "b")
    cluster.prepare = elsewhere
    recipe = load_recipe(folders.recipe_file(tmp_path))
    for names, lost in (("{name}.bin", True), ("{stem}_{i}.bin", False)):
        options = PrepOptions(packing=Packing(1, names=names), overwrite=True)
        with open_source(images) as source:
            to = tmp_path / "out"
            report = prepare_folder(source, to, recipe, options, store=store_on(cluster))
        reason = f"b: {there}: lists images of other paths, after which other bins would be named"
        assert [node.lost for node in report.nodes] == ["", reason if lost else ""]
        assert len(list((tmp_path / "out").glob("*.bin"))) == len(files)


def test_the_size_of_tasks() -> None:
    assert task_images(0, 10**6, 3, 1) == 4 != FIRST_IMAGES  # see few_images_a_task
    assert task_images(1e9, 10**6, 3, 1) == 4 != MAX_IMAGES
    assert task_images(2.9, 10**6, 3, 1) == 2
    assert task_images(1e9, 10**6, 3, 1, 3) == 3
    assert task_images(0, 10**6, 3, 8) == 8
    assert [task_images(0, left, 2, 1) for left in (100, 16, 12, 5, 1, 0)] == [4, 4, 3, 2, 1, 1]
    ranges = Ranges({"": np.arange(3, 8, dtype=np.int32)})
    first, second = ranges.take(4), ranges.take(4)
    assert first is not None and second is not None and ranges.take(4) is None
    assert [first.places.tolist(), second.places.tolist()] == [[3, 4, 5, 6], [7]]
    first.failed_on = {"a"}
    ranges.put_back(first)
    assert ranges.left == 4
    assert ranges.take(1, "a", ["a", "b"]) is None and ranges.take(1, "b", ["a", "b"]) is first
    ranges.put_back(first)
    assert ranges.take(1, "a", ["a"]) is first
    first.failed_on = {"a", "b"}
    ranges.put_back(first)
    assert ranges.take(1, "a", ["a", "b"]) is first and ranges.left == 0


@given(
    todo=st.sets(st.integers(0, 99)),
    shares=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    batch=st.integers(1, 7),
    asked=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), max_size=30),
)
def test_parts_of_nodes(
    todo: set[int], shares: list[int], batch: int, asked: list[tuple[int, int]]
) -> None:
    """Each image is in one part and is taken once, in ranges that follow one another."""
    places = np.array(sorted(todo), np.int32)
    parts = parts_of(places, 100, {str(i): share for i, share in enumerate(shares)}, batch)
    assert np.concatenate(list(parts.values())).tolist() == places.tolist()
    whole = parts_of(np.arange(100, dtype=np.int32), 100, dict(enumerate(shares)), 1)  # type: ignore[arg-type]
    for number, share in enumerate(shares):
        assert abs(len(whole[number]) - 100 * share / sum(shares)) <= 1  # type: ignore[index]
        first = parts[str(number)][:1].tolist()
        assert not first or places.tolist().index(first[0]) % batch == 0
    ranges, taken = Ranges(parts), list[int]()
    for node, images in [*asked, *[(0, 100)] * (len(shares) + 1)]:
        own = len(parts.get(str(node), ())) and {*parts[str(node)].tolist()} - {*taken}
        each = ranges.take(images, str(node))
        if each is not None:
            got = each.places.tolist()
            at = places.tolist().index(got[0])
            assert places[at : at + len(got)].tolist() == got and len(got) <= images
            assert not own or own.issuperset(got)
            taken += got
        assert ranges.left == len(todo) - len(taken)
    assert sorted(taken) == places.tolist() and ranges.take(1, "0") is None


def on_own_disks(folder: Path) -> Callable[[str, Worker], None]:
    """For Nodes.prepare: the caches of the nodes are in folders of their own."""

    def prepare(node: str, worker: Worker) -> None:
        assert worker._work.cache is not None
        cache = replace(worker._work.cache, folder=str(folder / node))
        worker._work = replace(worker._work, cache=cache)

    return prepare


def test_a_cache_on_each_node(run: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    """The next runs find most pixels, whichever node asks first; but at the end, a node may take
    images of another's part."""
    told: list[str] = []
    cache, count = PixelCache(tmp_path / "cache", warn=told.append), eval_case.COUNT
    for names, least in (("ba", 0), ("ab", count - 8)):
        cluster = Nodes(*names)
        cluster.prepare = on_own_disks(tmp_path)
        evaluation = evaluated(cluster, run, cache=cache)
        check(evaluation, files)
        assert least <= evaluation.stats.decoders["cache"] <= 3 * least
        assert all(cluster.runs.values())
    recipe = load_recipe(str(run / "recipe.toml"))
    with open_source(run / "images") as source:
        options = PrepOptions(packing=Packing(3, names="{i}.bin"))
        for form in (PrepOptions(), options, PrepOptions(format="pack")):
            to = tmp_path / f"{form.format}{form.packing.images}" / "there"
            prepare_folder(source, to.with_name("here"), recipe, form)
            cluster = Nodes("b", "a")
            cluster.prepare = on_own_disks(tmp_path)
            form = replace(form, cache=cache)
            report = prepare_folder(source, to, recipe, form, store=store_on(cluster))  # type: ignore[arg-type]
            # A pack's tensors are made in order, whatever a node's cache has.
            least = 1 if form.format == "pack" else count - 8
            assert report.decoders["cache"] >= least and report.prepared == count
            suffixes = ".bin", ".npy", ".txt"
            assert folders.sums(to, *suffixes) == folders.sums(to.with_name("here"), *suffixes)
    assert told == []


def test_what_the_nodes_caches_tell(run: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    told: list[str] = []
    cache = PixelCache(tmp_path / "cache", 1, warn=told.append)
    cluster = Nodes("a", "b")
    cluster.prepare = on_own_disks(tmp_path)
    check(evaluated(cluster, run, cache=cache), files)
    assert len(told) == 2
    for node, text in zip("ab", sorted(told), strict=True):
        assert text.startswith(f"{node}: {tmp_path / node} is full: its limit is 1 bytes")
    (tmp_path / "file").write_text("precious")
    cluster = Nodes("a")
    reason = f"a: {tmp_path / 'file'}: cannot be written to"
    with pytest.raises(BackendError, match=re.escape(reason)):
        evaluated(cluster, run, cache=PixelCache(tmp_path / "file"))


@pytest.mark.parametrize("address", ["nowhere:6379", "ray://nowhere:10001"])
def test_a_host_that_is_not_known(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*address: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with (
        pytest.raises(BackendError, match="the host nowhere was not found"),
        connect(address),
    ):
        pass


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port at which nothing listens, and nothing else can."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def said_of(address: str) -> str:
    with pytest.raises(BackendError) as error, connect(address):
        pass
    return str(error.value)


def test_a_port_at_which_nothing_listens(
    free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"127.0.0.1:{free_port}"
    expected = f"no Ray cluster answers at 127.0.0.1, port {free_port} (Connection refused); start"
    for address in (where, f"ray://{where}", f"ray://{where}/"):
        assert said_of(address).startswith(f"--ray {address}: {expected}")
    for address in ("127.0.0.1:65536", f"ray://[::1]:{'9' * 5000}"):
        port = address.rpartition(":")[2]
        assert said_of(address) == f"--ray {address}: there is no port {port}; ports end at 65535"
    monkeypatch.setenv("RAY_ADDRESS", where)
    assert said_of("auto").startswith(f"RAY_ADDRESS={where}: {expected}")

    def silent(address: object, timeout: float) -> None:
        assert timeout <= 10
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", silent)
    assert "port 6379 (timed out); start" in said_of("10.0.0.1:6379")


@pytest.mark.slow
def test_the_address_of_a_head_that_was_killed(
    free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import services

    monkeypatch.setattr(services, "find_gcs_addresses", lambda: set())
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(f"127.0.0.1:{free_port}\n")
    assert said_of("auto").startswith(
        f"127.0.0.1:{free_port}, the cluster that was last started here: no Ray cluster answers"
    )
    (tmp_path / "ray/ray_current_cluster").unlink()
    assert said_of("auto").startswith("no Ray cluster answers on this machine")
