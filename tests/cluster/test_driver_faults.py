"""Nodes that are lost, slow, late or blind: the result is that of one machine all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.support import eval_case, stand_in_nodes
from zoofast.cluster.connection import FailedError, LostError
from zoofast.cluster.driver import Driver
from zoofast.cluster.ranges import parts_of
from zoofast.cluster.work import Refused, Worker
from zoofast.errors import BackendError
from zoofast.preprocess.loader import Failure

Nodes = stand_in_nodes.Nodes
evaluated, check = stand_in_nodes.evaluated, stand_in_nodes.check
few_images_a_task = stand_in_nodes.few_images_a_task


def without(answer: Any, paths: list[str], lacking: list[str]) -> Any:
    """The answer of a node that cannot read the images at `lacking`. paths: those of the task."""
    good = np.array([path not in lacking for path in paths])
    failures = [
        Failure(Path(path).stem, path, "unreadable", "No such file")
        for path, is_good in zip(paths, good, strict=True)
        if not is_good
    ]
    return replace(answer, is_good=good, best=answer.best[np.flatnonzero(good)], failures=failures)


def paths_of(worker: Any, places: Any) -> list[str]:
    return [worker._items[place].path for place in places.tolist()]


class OneByOne(stand_in_nodes.Nodes):
    """One call ends after the other."""

    def wait(self, calls: Any, seconds: float) -> list[Any]:
        return super().wait(calls, seconds)[:1]


def test_a_process_that_is_started_again_gets_the_model_again(
    run: Path, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def lacks(node: str, worker: Any) -> None:
        spec = replace(worker._work.spec, model="/nowhere/m.onnx")
        worker._work = replace(worker._work, spec=spec)

    def dies(node: str, call: int, answer: Any) -> Any:
        if call == 1:
            for copy in tmp_path.glob("zoofast-models-*/*"):
                copy.unlink()
            raise LostError("its process has ended")
        return answer

    cluster = Nodes("a", change=dies)
    cluster.prepare = lacks
    check(evaluation := evaluated(cluster, run), files)
    assert evaluation.lost_nodes == {} and (cluster.puts, cluster.starts["a"]) == (1, 2)


def test_a_node_that_cannot_keep_the_model(run: Path) -> None:
    def lacks(node: str, worker: Any) -> None:
        worker.open = lambda *model: Refused("no space", missing_model=True)

    cluster = Nodes("a")
    cluster.prepare = lacks
    with pytest.raises(BackendError, match=r"^no node is left: a: no space$"):
        evaluated(cluster, run)


def test_a_model_of_another_node_that_differs(run: Path, files: dict[str, bytes]) -> None:
    def other(node: str, worker: Any) -> None:
        if node == "b":
            of_node = worker.open
            worker.open = lambda *model: replace(of_node(*model), classes=5)

    cluster = Nodes("a", "b")
    cluster.prepare = other
    check(evaluation := evaluated(cluster, run), files)
    assert "5 classes; another node's has " in evaluation.lost_nodes["b"]


def test_a_node_that_waited_long_for_its_first_task(
    run: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, opened = Nodes("a", "b"), Driver.open

    def late(driver: Driver) -> Any:
        answer = opened(driver)
        while len(driver._ready()) < 2:
            list(driver._step())
        cluster.clock.now += 4000
        return answer

    cluster.is_silent = lambda node, method: (
        (node, method) == ("b", "run") and not cluster.runs["a"]
    )
    monkeypatch.setattr(Driver, "open", late)
    monkeypatch.setattr("zoofast.cluster.driver.time", cluster.clock)
    check(evaluation := evaluated(cluster, run), files)
    assert evaluation.lost_nodes == {}


def test_a_slow_node_is_not_a_silent_one(
    run: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each task takes 1,000 s."""
    answered = [0.0]

    def slow(node: str, call: int, answer: Any) -> Any:
        answered[0] = cluster.clock.now
        return answer

    cluster = OneByOne("a", change=slow)
    cluster.is_silent = lambda node, method: (
        method == "run" and cluster.clock.now < answered[0] + 1000
    )
    monkeypatch.setattr("zoofast.cluster.driver.time", cluster.clock)
    check(evaluated(cluster, run), files)


def test_a_lost_node_that_answers_later_is_not_used(
    run: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Nodes("a", "b")
    is_late = {("b", "ping"): 200, ("a", "run"): 200}
    cluster.is_silent = lambda *call: cluster.clock.now < is_late.get(call, 0)
    monkeypatch.setattr("zoofast.cluster.driver.time", cluster.clock)
    check(evaluation := evaluated(cluster, run), files)
    assert list(evaluation.lost_nodes) == ["b"] and cluster.runs["b"] == 0


def test_a_node_that_joins_later(
    run: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def joins(node: str, call: int, answer: Any) -> Any:
        cluster.alive = ["a", "b"]
        cluster.clock.now += 5
        return answer

    cluster = Nodes("a", "b", change=joins)
    cluster.alive = ["a"]
    cluster.is_silent = lambda node, method: (
        (node, method) == ("a", "run") and cluster.starts["b"] > 0 and not cluster.runs["b"]
    )
    monkeypatch.setattr("zoofast.cluster.driver.time", cluster.clock)
    check(evaluated(cluster, run), files)
    assert all(cluster.runs.values())


@pytest.mark.parametrize("is_node", [True, False])
def test_a_node_that_refuses_a_task(run: Path, files: dict[str, bytes], is_node: bool) -> None:
    """is_node: other tasks would fail there too."""

    def refuses(node: str, call: int, answer: Any) -> Any:
        return Refused("a disk is full", is_node=is_node) if (node, call) == ("b", 1) else answer

    cluster = Nodes("a", "b", change=refuses)
    check(evaluation := evaluated(cluster, run), files)
    assert evaluation.lost_nodes == ({"b": "b: a disk is full"} if is_node else {})
    assert cluster.starts == {"a": 1, "b": 1 if is_node else 2}


def test_what_failed_on_a_node_is_tried_on_another(run: Path, files: dict[str, bytes]) -> None:
    victim = str(run / "images" / sorted(files)[1])

    def noted(node: str, worker: Any) -> None:
        def call(chosen: Any) -> Any:
            if node == "a" and victim in paths_of(worker, chosen):
                raise FailedError("MemoryError: no memory")
            return Worker.run(worker, chosen)

        worker.run = call

    cluster = OneByOne("a", "b")
    cluster.prepare = noted
    check(evaluated(cluster, run), files)
    assert cluster.starts == {"a": 2, "b": 1}


def test_a_process_that_always_ends(run: Path) -> None:
    def ends(node: str, worker: Any) -> None:
        def ping() -> None:
            raise LostError("its process has ended")

        worker.ping = ping

    cluster = Nodes("a")
    cluster.prepare = ends
    with pytest.raises(BackendError, match=r"^no node is left: a: its process has ended$"):
        evaluated(cluster, run)
    assert cluster.starts == {"a": 3}


def test_devices_that_nodes_lose(run: Path, files: dict[str, bytes]) -> None:
    def loses(node: str, call: int, answer: Any) -> Any:
        return replace(answer, lost_devices={"3": "it hangs"}) if call == 1 else answer

    check(evaluation := evaluated(Nodes("a", change=loses), run), files)
    assert evaluation.lost_nodes == {"a, device 3": "a: it hangs"}


def test_no_process_asks_for_more_cpus_than_its_node_has(
    run: Path, files: dict[str, bytes]
) -> None:
    asked: list[int] = []

    class Noting(stand_in_nodes.Nodes):
        def start(self, node: Any, work: Any, cpus: int) -> Any:
            asked.append(cpus)
            return super().start(node, work, cpus)

    check(evaluated(Noting("a"), run, threads=8), files)
    assert asked == [1]


def test_an_image_that_the_only_node_cannot_read_is_not_tried_again(
    run: Path, files: dict[str, bytes]
) -> None:
    victim = str(run / "images" / sorted(files)[0])

    def blind(node: str, worker: Any) -> None:
        def call(places: Any) -> Any:
            return without(Worker.run(worker, places), paths_of(worker, places), [victim])

        worker.run = call

    cluster = Nodes("a")
    cluster.prepare = blind
    evaluation = evaluated(cluster, run)
    assert [failure.path for failure in evaluation.failures] == [victim]
    assert evaluation.images == eval_case.COUNT - 1
    assert sum(node.tasks for node in evaluation.nodes) == cluster.runs["a"]


def test_a_node_that_cannot_read_two_images_is_kept(run: Path, files: dict[str, bytes]) -> None:
    victims = [str(run / "images" / sorted(files)[i]) for i in (1, 5)]

    def blind(node: str, worker: Any) -> None:
        def call(places: Any) -> Any:
            lacking = victims if node == "a" else []
            return without(Worker.run(worker, places), paths_of(worker, places), lacking)

        worker.run = call

    cluster = Nodes("a", "b")
    cluster.prepare = blind
    check(evaluation := evaluated(cluster, run), files)
    assert evaluation.lost_nodes == {}
    assert {node.name: node.misread for node in evaluation.nodes} == {"a": victims, "b": []}


def test_a_node_that_reads_what_it_could_not_read_at_first(
    run: Path, files: dict[str, bytes]
) -> None:
    """The other node, which would try it, is lost."""
    victim = str(run / "images" / sorted(files)[1])
    lacking = [victim]

    def blind(node: str, worker: Any) -> None:
        def call(places: Any) -> Any:
            paths = paths_of(worker, places)
            answer = without(Worker.run(worker, places), paths, lacking)
            if victim in paths:
                lacking.clear()
            return answer

        if node == "a":
            worker.run = call

    def goes(node: str, call: int, answer: Any) -> Any:
        if node == "b":
            cluster.lose("b")
        return answer

    cluster = Nodes("a", "b", change=goes)
    cluster.prepare = blind
    check(evaluation := evaluated(cluster, run), files)
    assert not lacking and evaluation.lost_nodes == {"b": "b: the node is gone"}
    assert evaluation.nodes[0].misread == []


def test_parts_of_many_images_and_cpus() -> None:
    parts = parts_of(np.array([0, 49, 50, 99], np.int32), 100, {"a": 1, "b": 1}, 1)
    assert [part.tolist() for part in parts.values()] == [[0, 49], [50, 99]]
    places = np.array([0, 13_999_999], np.int32)
    parts = parts_of(places, 14_000_000, {"a": 200, "b": 200}, 1)
    assert [part.tolist() for part in parts.values()] == [[0], [13_999_999]]
