"""Evaluations that are interrupted and resumed; journals of any content."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.support import eval_case, folders, models
from zoofast.base.lock import output_lock
from zoofast.cli import main
from zoofast.errors import BackendError, ImageError, OutputError
from zoofast.evaluation.journal import END, Journal, end_journal
from zoofast.inference.spec import ModelSpec
from zoofast.preprocess.sources import Item, Source, open_source
from zoofast.scoring.topk import TopK

FIRST = b'{"model":"m","backend":"b","recipe":"r"}\n'  # a journal's first line


def slow_words(run: Path, tmp_path: Path, *more: str) -> list[str]:
    arguments = eval_case.words(run, "--sim-fps", "10", "--batchsize", "2", *more)
    arguments += ["-o", str(tmp_path / "r.json"), "--save-logits", str(tmp_path / "l.npy")]
    return [*arguments, "--json", str(tmp_path / "e.json")]


@contextmanager
def no_space_for(out: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The disk is full when the output `out` gets its name."""
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if Path(target) == out:
            raise OSError(28, os.strerror(28))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        yield


# ---- interrupted and resumed ---------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, 200, 1 << 40], ids=["each batch", "some", "all at the end"])
def test_answers_that_are_ranked_together_are_the_same(
    run: Path,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nbytes: int,
) -> None:
    monkeypatch.setattr("zoofast.evaluation.evaluate.RANKED_BYTES", nbytes)
    monkeypatch.setattr("zoofast.evaluation.evaluate.RANKED_NS", 10**18)
    out = tmp_path / "r.json"
    assert main(eval_case.words(run, "-o", out, "--batchsize", "4", "--quiet")) == 0
    assert out.read_text() == eval_case.result_of(files)


def test_answers_that_wait_to_be_ranked_outlive_the_device(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(call: int) -> None:
        if call == 4:
            raise BackendError("it is gone")

    monkeypatch.setattr("zoofast.evaluation.evaluate.RANKED_NS", 10**18)
    monkeypatch.setattr(ModelSpec, "open", lambda spec: eval_case.Wrapped(fail))
    out = tmp_path / "r.json"
    assert main(eval_case.words(run, "-o", out, "--quiet")) == 2
    lines = (tmp_path / "r.json.journal").read_text().splitlines()[1:]
    batches = [json.loads(line)["names"] for line in lines]
    assert [len(names) for names in batches] == [12], "three batches of four, in one line"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed_equals_undisturbed(
    run: Path, tmp_path: Path, how: signal.Signals
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    assert main([*slow_words(run, tmp_path / "whole"), "--sim-fps", "1e5"]) == 0
    arguments = slow_words(run, tmp_path / "broken")
    process = subprocess.Popen(
        [eval_case.ZOOFAST, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    journal = tmp_path / "broken/r.json.journal"
    until = time.monotonic() + 300
    while len(eval_case.recorded(journal)) < 6:
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(how)
    out, error = process.communicate(timeout=300)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert (
            f"of {eval_case.COUNT} images are done; to continue, repeat the command with --resume"
            in error
        )
        assert f" of {eval_case.COUNT}\n" in out
        assert json.loads((tmp_path / "broken/e.json").read_text())["state"] == "partial"
    assert not (tmp_path / "broken/r.json").exists()
    assert not (tmp_path / "broken/l.npy").exists()
    done = len(eval_case.recorded(journal))
    assert main([*arguments, "--sim-fps", "1e6"]) == 2  # neither --resume nor --overwrite
    if how == signal.SIGKILL:
        with journal.open("ab") as file:
            file.write(b'{"names": ["img00')  # as if it had been killed here
    # the journal is of another speed, which is another model
    assert main([*arguments, "--sim-fps", "1e6", "--resume"]) == 2
    assert main([*arguments, "--resume"]) == 0
    numbers = json.loads((tmp_path / "broken/e.json").read_text())
    assert numbers["resumed"] == done
    assert numbers["images"] == eval_case.COUNT - done
    for name in ("r.json", "l.npy", "l.names.txt"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    names = {"e.json", "r.json", "l.npy", "l.names.txt"}
    assert {path.name for path in (tmp_path / "broken").iterdir()} == names


def test_a_journal_that_does_not_fit(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def journal_of(*more: str) -> list[str]:
        return eval_case.words(
            run, "-o", tmp_path / "r.json", "--on-error", "stop", *more, images=images
        )

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
        (["--limit", "2"], "which is not among this run's images"),
    ):
        assert main(journal_of("--resume", *more)) == 2
        assert said in capsys.readouterr().err
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], b'{"names": 5}\n', *lines[1:]]))
    assert main(journal_of("--resume")) == 2
    assert "line 2 is damaged" in capsys.readouterr().err
    (images / "img0008b.JPEG").unlink()
    assert main(journal_of("--overwrite", "--allow-missing")) == 0
    assert not journal.exists()


@pytest.mark.parametrize("reverse", [False, True], ids=["same-order", "reversed"])
@pytest.mark.parametrize("more", [0, 1])
def test_logits_are_found_in_any_order(
    run: Path,
    tmp_path: Path,
    files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reverse: bool,
    more: int,
) -> None:
    """A run that ended while it wrote its outputs leaves a journal in the order of the answers,
    but logits in the source's order."""
    out, logits, names = (tmp_path / name for name in ("r.json", "l.npy", "l.names.txt"))
    arguments = eval_case.words(run, "-o", out, "--save-logits", logits, "--batchsize", "5")
    with no_space_for(out, monkeypatch):
        assert main(arguments) == 2
    journal = tmp_path / "r.json.journal"
    first, *batches = journal.read_bytes().splitlines(keepends=True)
    if reverse:
        journal.write_bytes(b"".join([first, *reversed(batches)]))
    whole, lines = logits.read_bytes(), names.read_text().splitlines(keepends=True)
    # Rows that the journal does not have: the run was killed between the two.
    row, line = whole[-models.CLASSES * 4 :] * more, "not_in_journal\n" * more

    # Names of other images: one twice, one missing, one unknown.
    for wrong in ([lines[1], *lines[1:]], lines[:-1], ["unknown\n", *lines[1:]]):
        names.write_text("".join(wrong) + line)
        assert main([*arguments, "--resume"]) == 2
        error = capsys.readouterr().err
        assert f"has not the logits of the {eval_case.COUNT} images that are done" in error
        assert "--overwrite" in error and "--resume" not in error
        assert logits.read_bytes() == whole and not out.exists()

    logits.write_bytes(whole + row)
    names.write_text("".join(lines) + line)
    assert main([*arguments, "--resume"]) == 0
    assert out.read_text() == eval_case.result_of(files)
    assert logits.read_bytes() == whole and names.read_text() == "".join(lines)
    assert lines == [f"{name}\n" for name in sorted(eval_case.scores_of(files))]


def test_a_run_that_failed_at_its_start_blocks_nothing(
    run: Path, tmp_path: Path, files: dict[str, bytes]
) -> None:
    out = ["-o", tmp_path / "r.json"]
    assert main(eval_case.words(run, *out, "--dtype", "float16")) == 2
    assert main(eval_case.words(run, *out, "--output-index", "7")) == 2
    assert list(tmp_path.iterdir()) == []
    # so that earlier versions' journals, which have a first line and no batch, do not block either
    (tmp_path / "r.json.journal").write_bytes(FIRST)
    assert main(eval_case.words(run, *out, "--resume")) == 0
    assert (tmp_path / "r.json").read_text() == eval_case.result_of(files)
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_complete_run_with_a_bad_image_can_be_repeated(
    run: Path, tmp_path: Path, files: dict[str, bytes]
) -> None:
    images = folders.write(tmp_path / "images", {**files, "img0003b.JPEG": b"no image"})
    arguments = eval_case.words(run, "-o", tmp_path / "r.json", "--save-logits", tmp_path / "l.npy")
    arguments += ["--json", str(tmp_path / "e.json")]
    arguments[2] = str(images)
    for more, done in (
        ([], eval_case.COUNT),
        ([], eval_case.COUNT),
        (["--resume"], 0),
        ([], eval_case.COUNT),
    ):
        assert main([*arguments, *more]) == 1
        numbers = json.loads((tmp_path / "e.json").read_text())
        assert (numbers["images"], numbers["resumed"]) == (done, eval_case.COUNT - done)
        assert [failure["name"] for failure in numbers["failures"]] == ["img0003b"]
    (images / "img0003b.JPEG").write_bytes(files["img0003.JPEG"])
    assert main([*arguments, "--resume", "--allow-missing"]) == 0
    names = (tmp_path / "l.names.txt").read_text().split()
    assert names == sorted(names)  # the mended one is not at the end
    rows = np.load(tmp_path / "l.npy")
    assert np.array_equal(rows[names.index("img0003b")], rows[names.index("img0003")])
    assert not (tmp_path / "r.json.journal").exists()


@pytest.mark.parametrize("option", ["-o", "--json", "--report", "--per-class"])
def test_the_journal_stays_until_every_output_is_written(
    run: Path,
    tmp_path: Path,
    files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    out = tmp_path / "outputs" / "file"
    out.parent.mkdir()
    arguments = eval_case.words(run, option, out, "--journal", tmp_path / "journal")
    with no_space_for(out, monkeypatch):
        assert main(arguments) == 2
    shown = capsys.readouterr()
    assert "file: cannot be written: No space left on device" in shown.err
    assert (
        f"scored {eval_case.COUNT} of {eval_case.COUNT}" in shown.out
    )  # before anything is written
    assert main(arguments) == 2  # not without --resume
    assert main([*arguments, "--resume", "--quiet"]) == 0
    assert out.stat().st_size > 0
    assert not (tmp_path / "journal").exists()


def test_two_runs_with_one_journal(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--journal", "--save-logits"):
        with output_lock(tmp_path / "x.npy"):
            assert main(eval_case.words(run, option, tmp_path / "x.npy")) == 2
        error = capsys.readouterr().err
        assert f"x.npy is in use by process {os.getpid()}" in error
        assert error.count("\n") == 1
    assert main(eval_case.words(run, "--journal", tmp_path / "x.npy")) == 0
    assert list(tmp_path.iterdir()) == []


def test_overwrite_spares_the_journal_of_a_run_and_of_a_failed_start(
    run: Path, tmp_path: Path
) -> None:
    journal = tmp_path / "j"
    words = eval_case.words(run, "--journal", journal, "--overwrite", "--quiet")
    content = FIRST + b"damaged\n"  # of another run
    journal.write_bytes(content)
    with output_lock(journal):  # of a run that goes on
        assert main(words) == 2
    assert main([*words, "--output-index", "7"]) == 2
    assert journal.read_bytes() == content
    assert main(words) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--overwrite", "--resume", "--quiet"])
@pytest.mark.parametrize(
    "content",
    [b"\x08\x08\x12\x07pytorch", b"a line\n", b"[]\n", b'{"title": "x"}', b'{"model": "x"}\n'],
    ids=["model", "text", "list", "result", "object"],
)
def test_a_file_that_is_no_journal_stays(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, content: bytes
) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    assert main(eval_case.words(run, "--journal", path, option)) == 2
    error = capsys.readouterr().err
    assert "x: is no journal of zoofast eval" in error and "name another file" in error
    assert "--overwrite" not in error
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b'{"mo', b'{"model":"0123'])
def test_a_journal_that_was_cut_off_in_its_first_line_is_begun_anew(
    run: Path, tmp_path: Path, content: bytes
) -> None:
    for option in ("--overwrite", "--resume", "--quiet"):
        (tmp_path / "j").write_bytes(content)
        assert main(eval_case.words(run, "--journal", tmp_path / "j", option)) == 0
        assert list(tmp_path.iterdir()) == []


def test_the_end_of_a_run_spares_the_journal_of_the_next(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    journal.write_bytes(b"of the next run\n")
    with output_lock(journal):
        end_journal(journal, keep=False)
        end_journal(journal, keep=True)
    assert journal.read_bytes() == b"of the next run\n"
    end_journal(journal, keep=False)
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_disk_name_the_file(run: Path, tmp_path: Path) -> None:
    with open_source(run / "images") as source:
        for where in ({"journal": tmp_path / "no/j"}, {"logits": tmp_path / "no/l.npy"}):
            with pytest.raises(OutputError, match="no/"):
                eval_case.evaluated(run, source, eval_case.options(run, **where))
    with (
        open_source(run / "images") as source,
        pytest.raises(ImageError, match=r"first failure\); the images that are done are kept"),
    ):
        source.items.append(Item("gone", "/nowhere.JPEG"))
        eval_case.evaluated(
            run, source, eval_case.options(run, journal=tmp_path / "j", on_error="stop")
        )


def test_a_failure_stops_the_run_at_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 batches, one of the first has a failure; none of the last is computed."""
    monkeypatch.setattr("zoofast.evaluation.evaluate.RANKED_NS", 10**18)
    there = sorted((run / "images").iterdir())
    items = [Item(f"i{i:03d}", str(there[i % eval_case.COUNT])) for i in range(400)]
    items[5] = Item("gone", "/nowhere.JPEG")
    calls: list[int] = []
    monkeypatch.setattr(ModelSpec, "open", lambda spec: eval_case.Wrapped(calls.append))
    with pytest.raises(ImageError, match="nowhere"):
        eval_case.evaluated(run, Source("list", items), eval_case.options(run, on_error="stop"))
    assert 0 < len(calls) < 50


def test_a_huge_image_is_left_out_and_named(run: Path, tmp_path: Path) -> None:
    """100 GB that claim to be an image, and a limit that the others fit into."""
    with (tmp_path / "huge.JPEG").open("wb") as file:
        file.truncate(100 << 30)
    with open_source(run / "images") as source:
        count = len(source.items)
        huge = Item("huge", str(tmp_path / "huge.JPEG"))
        source.items = [*source.items[:3], huge, *source.items[3:]]
        evaluation = eval_case.evaluated(run, source, eval_case.options(run))
        assert [str(failure) for failure in evaluation.failures] == [
            f"{tmp_path}/huge.JPEG: larger than 256,000,000 bytes"
        ]
        assert evaluation.images == count
        options = eval_case.options(run, max_file_bytes=10)
        assert len(eval_case.evaluated(run, source, options).failures) == count + 1


@pytest.mark.parametrize("call", ["write", "close", "unlink"])
@pytest.mark.parametrize("number", [5, 28])  # EIO, ENOSPC
def test_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fail(*arguments: Any, **more: Any) -> Any:
        raise OSError(number, os.strerror(number))

    class Failing(io.FileIO):
        def write(self, data: Any) -> int:
            return fail() if call == "write" else super().write(data)

        def close(self) -> None:
            closed = self.closed
            super().close()
            if call == "close" and not closed:
                fail()

    if call == "unlink":
        monkeypatch.setattr(Path, "unlink", fail)
        with pytest.raises(OutputError, match=os.strerror(number)):
            end_journal(tmp_path / "j", keep=False)
        return
    journal = Journal(tmp_path / "j", {}, None)
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: Failing(path, mode))
    with pytest.raises(OutputError, match=f"j: cannot be written: {os.strerror(number)}"):
        journal.append(["a"], best_of(1))
        journal.close()
    journal.close()


# ---- journals of any content ---------------------------------------------------------


def best_of(images: int) -> TopK:
    rng = np.random.default_rng(images)
    return TopK.of_logits(rng.standard_normal((images, models.CLASSES)).astype(np.float32), 6)


class Taken:
    """The names of the batches that a journal gives."""

    def __init__(self) -> None:
        self.names: list[list[str]] = []

    def __call__(self, names: list[str], best: TopK) -> None:
        assert len(best.classes) == len(names)
        self.names.append(names)


def opened(path: Path) -> tuple[Journal, list[list[str]]]:
    """A journal to be resumed, and the names of its batches."""
    taken = Taken()
    return Journal(path, {}, taken), taken.names


def entry(**changes: Any) -> bytes:
    """A line of two images, with other values for some keys; None leaves a key out."""
    best = best_of(2)
    value: dict[str, Any] = {"names": ["a", "b"]}
    value |= {name: getattr(best, name).tolist() for name in best.__dataclass_fields__}
    value |= changes
    return json.dumps({k: v for k, v in value.items() if v is not None}).encode() + b"\n"


MALFORMED: dict[str, bytes] = {
    "no JSON": b"x\n",
    "no object": b"[]\n",
    "a number": b"5\n",
    "deep": b"[" * 100_000 + b"\n",
    "many digits": b'{"names": ' + b"9" * 5000 + b"}\n",
    "no UTF-8": b'{"names": "\xff"}\n',
    "empty line": b"\n",
    "binary": bytes(range(256)) * 20 + b"\n",
    "names are a text": entry(names="ab"),
    "names are numbers": entry(names=[1, 2]),
    "a name too many": entry(names=["a", "b", "c"]),
    "no names": entry(names=None),
    "a name twice": entry(names=["a", "a"]),
    "no total": entry(total=None),
    "total is a text": entry(total="x"),
    "total is ragged": entry(total=[[1], [1, 2]]),
    "total is deep": entry(total=[[1.0], [2.0]]),
    "classes beyond int32": entry(classes=[[1 << 40] * 6] * 2),
    "classes beyond int64": entry(classes=[[1 << 90] * 6] * 2),
    "classes are flat": entry(classes=[1, 2]),
    "classes are empty": entry(classes=[[], []], values=[[], []]),
    "another width": entry(classes=[[1, 2]] * 2, values=[[1.0, 2.0]] * 2),
    "classes are objects": entry(classes=[{}, {}]),
}


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("resume", [True, False])
def test_a_malformed_line_is_one_error(tmp_path: Path, line: bytes, resume: bool) -> None:
    path = tmp_path / "j"
    content = b"".join([FIRST, entry(names=["first", "second"]), line, entry(names=["c", "d"])])
    path.write_bytes(content)
    take = Taken() if resume else None
    with pytest.raises(OutputError, match=r"j: line 3 is damaged \(.*begin anew") as raised:
        Journal(path, {}, take)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500
    assert path.read_bytes() == content  # nothing is cut off
    if not line.startswith(b"{") or b"9" * 5000 in line:
        path.write_bytes(line)
        with pytest.raises(OutputError, match="j: is no journal of zoofast eval"):
            Journal(path, {}, take)


@pytest.mark.parametrize(
    "classes", [[[6] * 6] * 2, [[-2] * 6] * 2, [[1 << 30] * 6] * 2], ids=["one", "below", "far"]
)
def test_classes_of_another_model(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: list[list[int]]
) -> None:
    journal = tmp_path / "r.json.journal"
    arguments = eval_case.words(run, "-o", tmp_path / "r.json", "--on-error", "stop")
    images = folders.write(tmp_path / "images", folders.good_files(9) | folders.BAD_FILES)
    assert main([*arguments[:2], str(images), *arguments[3:], "--limit", "12"]) == 2
    assert journal.exists()  # a batch was done before the run stopped
    first = journal.read_bytes().splitlines(keepends=True)[0]
    journal.write_bytes(first + entry(names=["img0000", "img0001"], classes=classes))
    assert main([*arguments, "--resume"]) == 2
    error = capsys.readouterr().err
    assert "holds other classes than the model's 6" in error


@pytest.mark.parametrize("command", ["eval", "merge"])
def test_an_image_of_two_batches(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    result, journal = tmp_path / "r.json", tmp_path / "r.json.journal"
    arguments = eval_case.words(run, "-o", result, "--shard", "1/2", "--batchsize", "2")
    assert main(arguments) == 0
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], lines[1], *lines[2:]]))
    before = result.read_bytes()
    capsys.readouterr()
    if command == "merge":
        labels = ["--labels", str(run / "labels.txt")]
        assert main(["merge", str(tmp_path / "all.json"), str(result), *labels]) == 2
    else:
        assert main([*arguments, "--resume"]) == 2
    name = json.loads(lines[1])["names"][0]
    assert f"line 3 is damaged ({name} stands in it twice)" in capsys.readouterr().err
    assert result.read_bytes() == before


def test_batches_are_not_held(tmp_path: Path) -> None:
    """Millions of images are resumed: a journal is read line by line."""
    path, best = tmp_path / "j", best_of(100)
    journal = Journal(path, json.loads(FIRST), None)
    for i in range(100):
        journal.append([f"ILSVRC2012_val_{i:04d}{k:04d}" for k in range(100)], best)
    journal.close()
    count = 0

    def take(names: list[str], best: TopK) -> None:
        nonlocal count
        count += len(names)

    tracemalloc.start()
    Journal(path, {}, take).close()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 20 * count


def test_lines_that_are_cut_off_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "j"
    whole = FIRST + entry(names=["a", "b"])
    for cut in (b"", b'{"names"', entry(names=["c", "d"])[:-1]):
        path.write_bytes(whole + cut)
        journal, names = opened(path)
        assert names == [["a", "b"]]
        journal.append(["e", "f"], best_of(2))
        journal.close()
        assert opened(path)[1] == [["a", "b"], ["e", "f"]]


def test_the_end_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "j"
    end_journal(path, keep=True)
    end_journal(path, keep=False)
    assert not path.exists()
    path.write_bytes(FIRST + entry())
    end_journal(path, keep=True)
    assert json.loads(path.read_bytes().splitlines()[-1]) == END
    Journal(path, {}, None)  # does not refuse
    journal, names = opened(path)
    assert names == [["a", "b"]]
    journal.append(["c", "d"], best_of(2))
    journal.close()
    with pytest.raises(OutputError, match="of an evaluation that did not end"):
        Journal(path, {}, None)
