"""prep and eval on a real Ray cluster: a head, and three nodes of one CPU each, on this machine."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx import numpy_helper

from tests.support import eval_case, folders, jpegs, limits, models, paths, ray_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of Ray
]
ROUNDS = 26  # of the 23 images: 598 images
MAX_SECONDS = 600  # of a test, or of starting the cluster


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ray_cluster.Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_cluster.QUIET.items():
            patch.setenv(name, value)
        with limits.at_most(MAX_SECONDS):
            made = ray_cluster.Nodes(tmp_path_factory.mktemp("nodes"), 3)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(autouse=True)
def limit(nodes: ray_cluster.Nodes) -> Iterator[None]:
    """Begins when the cluster has started."""
    with limits.at_most(MAX_SECONDS):
        yield


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """598 images; every 23rd is the same."""
    few = list(folders.good_files(eval_case.COUNT).values())
    return {f"img{i:04d}.JPEG": few[i % len(few)] for i in range(ROUNDS * len(few))}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Path:
    folder = tmp_path_factory.mktemp("case")
    folders.write(folder / "images", {**files, **folders.BAD_FILES})
    folders.recipe_file(folder, eval_case.SPEC)
    models.write_model(folder / "m.onnx")
    eval_case.write_labels(folder / "labels.txt", [Path(name).stem for name in files])
    return folder


def start(*words: object) -> subprocess.Popen[str]:
    command = [str(eval_case.ZOOFAST), *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and what zoofast said on standard error."""
    try:
        _, error = process.communicate(timeout=300)
    finally:
        kill(process)
    return process.returncode, error


def kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(lines: int, journal: Path, process: subprocess.Popen[str]) -> None:
    wait_until(
        lambda: journal.exists() and journal.read_bytes().count(b"\n") >= lines,
        process,
    )


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    try:
        until = time.monotonic() + 300
        while not is_so():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
    except BaseException:
        kill(process)
        raise


def slow(case: Path, out: Path, nodes: ray_cluster.Nodes, *more: object) -> list[object]:
    """An evaluation on NPUs of 50 images/s, which takes four seconds on three nodes."""
    out.mkdir(exist_ok=True)
    words = eval_case.words(case, "--sim-fps", "50", "--batchsize", "4")
    results = ["-o", out / "r.json", "--json", out / "e.json", "--save-logits", out / "r.npy"]
    return [*words, *results, "--ray", nodes.address, *more]


def check_results(case: Path, out: Path) -> None:
    """That result.json and the logits are those of one machine."""
    words = eval_case.words(case, "--sim-fps", "1e6", "--batchsize", "4", "--quiet")
    results = ["-o", out / "whole.json", "--save-logits", out / "whole.npy"]
    code, error = ended(start(*words, *results))
    assert code == 1, error  # the bad images
    assert np.load(out / "whole.npy").any(axis=1).all()
    for end in ("json", "npy", "names.txt"):
        assert (out / f"r.{end}").read_bytes() == (out / f"whole.{end}").read_bytes(), end
    assert not (out / "r.npy.nodes").exists()


def said(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_a_node_is_killed(case: Path, tmp_path: Path, nodes: ray_cluster.Nodes) -> None:
    process = start(*slow(case, tmp_path, nodes))
    wait_for(3, tmp_path / "r.json.journal", process)
    wait_until(lambda: nodes.computes(nodes.nodes[-1]), process)
    killed = nodes.kill(nodes.nodes[-1])
    code, error = ended(process)
    nodes.nodes.append(nodes.add())
    assert code == 1
    # Ray may count the node as alive for a while; then the driver starts another process there.
    reason = "its process has ended|no process can start there"
    assert re.search(rf"\({killed[:8]}\): ({reason})", error), error
    assert "; the other nodes go on" in error
    check_results(case, tmp_path)
    report = said(tmp_path / "e.json")
    assert report["images"] == len(list((case / "images").glob("img*")))
    assert [failure["name"] for failure in report["failures"]] == sorted(
        Path(name).stem for name in folders.BAD_FILES
    )
    assert len(report["nodes"]) == 3
    assert [killed[:8] in node["name"] for node in report["nodes"]] == [
        bool(node["lost"]) for node in report["nodes"]
    ]
    assert sum(node["images"] for node in report["nodes"]) == report["total"]
    assert report["device_images_per_second"] is None  # nodes measure no device alone


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_is_ended_and_resumed(
    case: Path, tmp_path: Path, nodes: ray_cluster.Nodes, number: signal.Signals
) -> None:
    words = slow(case, tmp_path, nodes)
    process = start(*words)
    wait_for(3, tmp_path / "r.json.journal", process)
    process.send_signal(number)
    code, error = ended(process)
    if number == signal.SIGKILL:
        assert code == -number and not (tmp_path / "r.json").exists()
    else:
        assert code == 143 and "interrupted: the result is partial" in error, error
        assert said(tmp_path / "e.json")["state"] == "partial"
    code, error = ended(start(*words, "--resume"))
    assert code == 1 and "image that cannot be prepared: 3" in error, error
    report = said(tmp_path / "e.json")
    assert 0 < report["resumed"] < report["total"]
    assert report["resumed"] + report["images"] + len(report["failures"]) == report["total"]
    check_results(case, tmp_path)


def test_prep(case: Path, tmp_path: Path, nodes: ray_cluster.Nodes) -> None:
    recipe = folders.recipe_file(tmp_path)
    words = ["prep", case / "images", "--recipe", recipe, "--quiet"]
    code, error = ended(start(*words, tmp_path / "here"))
    assert code == 1, error
    code, error = ended(start(*words, tmp_path / "there", "--ray", nodes.address, "--verify", 5))
    assert code == 1, error
    assert folders.sums(tmp_path / "there", ".bin") == folders.sums(tmp_path / "here", ".bin")
    here, there = (said(tmp_path / name / "zoofast-prep.json") for name in ("here", "there"))
    for key in ("prepared", "failures", "failures_by_cause", "names", "nbytes_in", "nbytes_out"):
        assert there[key] == here[key], key
    assert there["verified"]["equal"] == 5
    words += ["--format", "pack"]
    for pack in ([tmp_path / "pack"], [tmp_path / "ray_pack", "--ray", nodes.address]):
        code, error = ended(start(*words, *pack))
        assert code == 1, error
    for name in ("pack.npy", "pack.names.txt"):
        packs = [(tmp_path / folder / name).read_bytes() for folder in ("pack", "ray_pack")]
        assert packs[0] == packs[1], name
    assert sum(node["images"] for node in there["nodes"]) == there["total"]
    assert len(there["nodes"]) == 3


def test_a_cache(case: Path, tmp_path: Path, nodes: ray_cluster.Nodes) -> None:
    """The nodes share this machine's disk, where one of them at a time fills the cache."""
    words = ["prep", case / "images", "--recipe", folders.recipe_file(tmp_path), "--quiet"]
    code, error = ended(start(*words, tmp_path / "here"))
    assert code == 1, error
    words += ["--ray", nodes.address, "--cache", tmp_path / "cache"]
    cached = []
    for out in (tmp_path / "first", tmp_path / "second"):
        code, error = ended(start(*words, out))
        assert code == 1, error
        assert folders.sums(out, ".bin") == folders.sums(tmp_path / "here", ".bin")
        cached.append(said(out / "zoofast-prep.json")["decoders"]["cache"])
    assert cached[0] == 0 < cached[1]
    code, error = ended(start("cache", "verify", tmp_path / "cache"))
    assert code == 0, error


def test_bins_when_the_driver_and_a_node_are_killed(
    tmp_path: Path, nodes: ray_cluster.Nodes
) -> None:
    large = [jpegs.jpeg(1500, 2000, i) for i in range(3)]
    files = {f"img{i:04d}.JPEG": large[i % 3] for i in range(250)}
    bad = {name.replace("bad_", "img0100_"): data for name, data in folders.BAD_FILES.items()}
    images = folders.write(tmp_path / "images", {**files, **bad})
    words = ["prep", images, "--recipe", folders.recipe_file(tmp_path), "--quiet", "--mirror"]
    words += ["--images-per-bin", 4, "--bin-names", "{i}.bin"]
    code, error = ended(start(*words, tmp_path / "here"))
    assert code == 1, error
    out = tmp_path / "there"
    words += [out, "--ray", nodes.address]

    def until(bins: int) -> subprocess.Popen[str]:
        """Runs until there are so many bins, or to the end."""
        process = start(*words)
        wait_until(
            lambda: process.poll() is not None or len(list(out.glob("*.bin"))) >= bins, process
        )
        return process

    process = until(20)
    kill(process)
    process.communicate()
    words.append("--resume")
    process = until(60)
    nodes.kill(nodes.nodes[-1])
    code, error = ended(process)
    nodes.nodes.append(nodes.add())
    assert code == 1, error
    here, there = (said(tmp_path / name / "zoofast-prep.json") for name in ("here", "there"))
    for key in ("failures", "names", "packing", "total", "state"):
        assert there[key] == here[key], key
    assert there["prepared"] + there["resumed"] == here["prepared"] == len(files)
    assert len(here["packing"]["bins"]) == 64
    assert folders.sums(out, "") == folders.sums(tmp_path / "here", "") | {
        "zoofast-prep.json": folders.sums(out, ".json")["zoofast-prep.json"]
    }
    assert not (out / ".zoofast-ray").exists()


def test_a_node_without_the_images_and_a_model_that_nodes_lack(
    case: Path, tmp_path: Path, nodes: ray_cluster.Nodes, files: dict[str, bytes]
) -> None:
    """The model has more bytes than the object store of a node, and is sent through it."""
    nodes.hidden.mkdir()
    path = nodes.hidden / "large.onnx"
    model = onnx.load(case / "m.onnx")
    ballast = np.random.default_rng(1).integers(0, 255, 100_000_000, np.uint8)
    assert ballast.nbytes > ray_cluster.STORE_BYTES
    model.graph.initializer.append(numpy_helper.from_array(ballast, "ballast"))
    onnx.save(model, path)
    blind = nodes.add(case / "images")
    words = eval_case.words(case, "-o", tmp_path / "r.json", "--json", tmp_path / "e.json")
    words[1] = str(path)
    try:
        code, error = ended(start(*words, "--ray", nodes.address))
    finally:
        nodes.remove(blind)  # other tests, which may come later, count the nodes
    assert code == 1, error
    assert f"({blind.node_id[:8]}): {case / 'images'}: no such folder" in error
    assert (tmp_path / "r.json").read_text() == eval_case.result_of(files)
    (copy,) = nodes.hidden.parent.glob("zoofast-models-*/*.onnx")
    assert copy.read_bytes() == path.read_bytes()
    assert copy.stem == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_pages_example_of_ray_data(
    tmp_path: Path, nodes: ray_cluster.Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run as a user runs it, from the folder of the images."""
    page = (paths.ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "imagenet/val").mkdir(parents=True)
    for i in range(8):
        data = jpegs.jpeg(300, 280 + i, i)
        (tmp_path / f"imagenet/val/ILSVRC2012_val_{i + 1:08d}.JPEG").write_bytes(data)
    check = """
from zoofast import load_recipe, prepare
for row in tensors.take_all() + marked.take_all():
    if "path" in row:
        assert (row["tensor"] == prepare(row["path"], load_recipe("resnet34"))).all()
        print("equal")
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import ray; ray.init('{nodes.address}')\n{code}{check}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    printed = [line for line in done.stdout.splitlines() if line != "equal"]
    assert [line for line, _ in itertools.groupby(printed)] == expected
    assert done.stdout.count("equal\n") == 8
