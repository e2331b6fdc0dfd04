"""Nodes in this process which stand for a cluster's, and an evaluation on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support import eval_case
from zoofast import load_recipe
from zoofast.cluster.connection import LostError, Node
from zoofast.cluster.driver import START_SECONDS
from zoofast.cluster.evaluate import evaluate_on
from zoofast.cluster.work import Worker
from zoofast.evaluation.options import EvalOptions
from zoofast.evaluation.result import Evaluation
from zoofast.preprocess.sources import open_source
from zoofast.scoring.labels import load_labels

Change = Callable[[str, int, Any], Any]  # of (node, number of its call of run, its answer)


class Clock:
    """Stands for the driver's module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Nodes:
    """Stands for RayCluster. `change` may replace an answer of `run`, or raise. is_silent: says
    which methods of a node do not answer; while no other call is under way, the clock goes on."""

    def __init__(self, *names: str, change: Change = lambda node, call, answer: answer) -> None:
        self.alive, self.change = list(names), change
        self.prepare: Callable[[str, Worker], object] = lambda node, worker: None
        self.starts: dict[str, int] = dict.fromkeys(names, 0)
        self.runs: dict[str, int] = dict.fromkeys(names, 0)
        self.puts = self.stops = self.waits = 0
        self.is_silent: Callable[[str, str], bool] = lambda node, method: False
        self.clock = Clock()

    def nodes(self) -> list[Node]:
        return [Node(name, name, 1, 0) for name in self.alive]

    def start(self, node: Node, work: Any, cpus: int) -> Any:
        self.starts[node.id] += 1
        worker = Worker(work, cpus, 0)
        self.prepare(node.id, worker)
        return node.id, worker

    def call(self, actor: Any, method: str, *arguments: Any) -> Any:
        return lambda: (*actor, method, arguments)

    def wait(self, calls: Sequence[Any], seconds: float) -> list[Any]:
        self.waits += 1
        assert calls and self.waits < 1000, "the driver waits for ever"
        ended = [call for call in calls if not self.is_silent(call()[0], call()[2])]
        self.clock.now += 0 if ended else 100
        return ended

    def get(self, call: Any) -> Any:
        node, worker, method, arguments = call()
        answer = getattr(worker, method)(*arguments)
        if method != "run":
            return answer
        self.runs[node] += 1
        return self.change(node, self.runs[node], answer)

    def lose(self, node: str) -> NoReturn:
        """To be called by `change`: the node is gone."""
        self.alive.remove(node)
        raise LostError("the node is gone")

    def put(self, data: Any) -> Any:
        self.puts += 1
        self.clock.now += START_SECONDS + 1  # it is large
        return data

    def stop(self, actor: Any) -> None:
        self.stops += 1
        actor[1]._stack.close()


@pytest.fixture(autouse=True)
def few_images_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoofast.cluster.ranges.FIRST_IMAGES", 4)
    monkeypatch.setattr("zoofast.cluster.ranges.MAX_IMAGES", 4)
    monkeypatch.chdir(".")  # workers change to the driver's folder: it is this one


def evaluated(cluster: Any, run: Path, **options: Any) -> Evaluation:
    recipe, labels = load_recipe(str(run / "recipe.toml")), load_labels(run / "labels.txt")
    chosen: EvalOptions = eval_case.options(run, **options)
    with open_source(run / "images") as source:
        return evaluate_on(cluster, source, source.items, recipe, labels, chosen)


def check(evaluation: Evaluation, files: dict[str, bytes]) -> None:
    assert evaluation.score is not None and evaluation.state == "complete"
    assert evaluation.score.tally.result_json() == eval_case.result_of(files)
    assert evaluation.score.problems.lines() == []
