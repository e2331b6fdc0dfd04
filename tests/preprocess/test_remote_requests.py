"""What is asked of a server for a tar: no more than is needed, and nothing twice after a kill."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.support import eval_case, folders, in_process, jpegs, models, tars, web
from zoofast.preprocess.folder import PrepOptions, prepare_folder
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sources import open_source
from zoofast.preprocess.sources.remote import GROUP_BYTES

pytestmark = pytest.mark.slow

RECIPE = parse_recipe(folders.SPEC.toml(), "test")


def test_a_killed_eval_gives_the_undisturbed_result(tmp_path: Path) -> None:
    """Of a tar whose second half the server keeps back until the run is killed."""
    pictures = [jpegs.jpeg(420, 560, i, quality=95) for i in range(20)]
    files = {f"{i:03d}.JPEG": pictures[i % 20] for i in range(100)}
    tars.make_labelled(tmp_path / "val.tar", files)
    data = (tmp_path / "val.tar").read_bytes()
    assert len(data) > 4 * GROUP_BYTES
    models.write_model(tmp_path / "m.onnx")
    folders.recipe_file(tmp_path, eval_case.SPEC)
    eval_case.write_labels(tmp_path / "labels.txt", [Path(name).stem for name in files])
    result, journal = tmp_path / "result.json", tmp_path / "result.json.journal"
    is_listed = threading.Event()

    def is_held(begin: int, end: int) -> bool:
        held = is_listed.is_set() and begin >= len(data) / 2
        if end == len(data):
            is_listed.set()
        return held

    with web.serving({"/val.tar": data}) as server:
        server.is_held = is_held
        words = eval_case.words(tmp_path, "-o", result, "--batchsize", "4", "--quiet")
        words[2] = f"{server.url}/val.tar"
        with subprocess.Popen([eval_case.ZOOFAST, *words]) as run:
            deadline = time.monotonic() + 300
            while not eval_case.recorded(journal):
                assert run.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            run.send_signal(signal.SIGKILL)
        done = len(eval_case.recorded(journal))
        assert not result.exists() and done < len(files)
        server.released.set()
        ended = in_process.zoofast(*words, "--resume", "--json", tmp_path / "report.json")
    assert ended.returncode == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["resumed"], report["images"]) == (done, len(files) - done)
    assert result.read_text() == eval_case.result_of(files) and not journal.exists()


def test_only_what_is_needed_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 members of 100 kB, the three that are chosen, and no byte of others."""
    monkeypatch.setattr("zoofast.preprocess.sources.remote.LIKELY_RATE", 0)  # a request costs 0 s
    tars.make_labelled(
        tmp_path / "x.tar", {f"{i:02d}.JPEG": bytes([i]) * 100_000 for i in range(20)}
    )
    with web.serving({"/x.tar": (tmp_path / "x.tar").read_bytes()}) as server:
        with open_source(f"{server.url}/x.tar") as source:
            listing = server.sent["/x.tar"]
            assert listing < len(server.files["/x.tar"]) / 4
            options = PrepOptions(threads=1, limit=3, shard=(2, 5))
            report = prepare_folder(source, tmp_path / "few", RECIPE, options)
        assert report.names == ["01", "06", "11"]
        assert server.sent["/x.tar"] - listing == report.nbytes_in == 300_000


def test_a_distant_tar_is_listed_by_large_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a request takes as long as many members, 60 members cost far less than 60 requests."""
    monkeypatch.setattr("zoofast.preprocess.sources.remote.LIKELY_RATE", 1e12)
    tars.make_labelled(
        tmp_path / "x.tar", {f"{i:02d}.JPEG": bytes([i]) * 100_000 for i in range(60)}
    )
    with web.serving({"/x.tar": (tmp_path / "x.tar").read_bytes()}) as server:
        with open_source(f"{server.url}/x.tar") as source, open_source(tmp_path / "x.tar") as other:
            assert source.items == other.items
        assert len(server.requests) < 20


def test_labels_of_a_tar_come_with_its_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for one that is larger than what is read of the tar at once."""
    monkeypatch.setattr("zoofast.preprocess.sources.remote.LIKELY_RATE", 0)  # a request costs 0 s
    tars.make_labelled(tmp_path / "x.tar", {f"{i:02d}.JPEG": bytes(100_000) for i in range(10)})
    long = json.dumps({"label": 7, "text": "x" * 50_000}).encode()
    with tarfile.open(tmp_path / "x.tar", "a") as tar:
        for member, content in (("long.JPEG", b"x"), ("long.json", long)):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    data = (tmp_path / "x.tar").read_bytes()
    with web.serving({"/x.tar": data}) as server, open_source(f"{server.url}/x.tar") as source:
        before = len(server.requests)
        labels = {f"{i:02d}": i % models.CLASSES for i in range(10)} | {"long": 7}
        assert source.read_labels() == labels
        assert source.read_labels() == labels
        assert len(server.requests) == before + 1
