"""Devices of an evaluation that fail, hang or die: what the others compute, and what is said."""

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

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.support import eval_case, fake_aclruntime, models
from zoofast import _core, load_recipe
from zoofast.base.rows import read_named_rows
from zoofast.cli import main
from zoofast.errors import BackendError
from zoofast.evaluation.result import EvalProgress
from zoofast.inference.backends import open_backend
from zoofast.inference.devices import Devices
from zoofast.inference.remote import RemoteModel, kill_models
from zoofast.inference.spec import ModelSpec
from zoofast.preprocess.sources import open_source


def device_threads() -> list[threading.Thread]:
    """The threads of devices that do not end. A lost device's thread may end after the run."""
    threads = [each for each in threading.enumerate() if each.name.startswith("device")]
    for thread in threads:
        thread.join(timeout=300)
    return [thread for thread in threads if thread.is_alive()]


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


# ---- several batches at the same time ------------------------------------------------


def test_a_model_with_concurrency_computes_several_batches_at_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    concurrency = 3
    together = threading.Barrier(concurrency, timeout=60)

    def meet(call: int) -> None:
        if call <= concurrency:
            together.wait()  # for ever, if they came one after another

    monkeypatch.setattr(ModelSpec, "open", lambda spec: eval_case.Wrapped(meet, concurrency))
    with open_source(run / "images") as source:
        evaluation = eval_case.evaluated(run, source, eval_case.options(run, threads=1))
    assert (evaluation.state, evaluation.images) == ("complete", eval_case.COUNT)
    assert evaluation.concurrency == concurrency
    rows = {row for row, busy in evaluation.timeline.busy_ns.items() if "infer" in busy}
    assert rows == {f"device 0 executor {i}" for i in range(concurrency)}
    assert not device_threads()


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


# ---- devices in this process ---------------------------------------------------------


def failing(lost: set[int], call: int, error: Exception) -> Callable[[int], Callable[[int], None]]:
    """device -> what it does before each call. The devices `lost` raise `error` at the call of
    number `call`. Every later call of theirs, and every call of another device, waits until all of
    them have raised it: else no batch may be left for a lost device that begins late."""
    left, failed = set(lost), threading.Event()

    def of_device(device: int) -> Callable[[int], None]:
        def before(calls: int) -> None:
            if device not in lost or calls > call:
                assert failed.wait(60)
            elif calls == call:
                left.discard(device)
                if not left:
                    failed.set()
                raise error

        return before

    return of_device


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), MemoryError("no more")])
def test_a_defect_ends_the_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, concurrency: int
) -> None:
    before = failing({1}, 2, error)
    monkeypatch.setattr(
        ModelSpec, "open", lambda spec: eval_case.Wrapped(before(spec.device), concurrency)
    )
    with open_source(run / "images") as source, pytest.raises(type(error), match=str(error)):
        eval_case.evaluated(run, source, eval_case.options(run, devices=2))
    assert not device_threads()


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("lost", [{1}, {0, 2}, {0, 1, 2}])
def test_the_others_compute_what_a_lost_device_did_not(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: set[int], concurrency: int
) -> None:
    before = failing(lost, 1, BackendError("the card is gone"))
    monkeypatch.setattr(
        ModelSpec, "open", lambda spec: eval_case.Wrapped(before(spec.device), concurrency, 2)
    )
    chosen = eval_case.options(run, devices=3, logits=tmp_path / "l.npy", journal=tmp_path / "j")
    with open_source(run / "images") as source:
        if len(lost) == 3:
            with pytest.raises(BackendError) as raised:
                eval_case.evaluated(run, source, chosen)
            said = {f"device {i}: the card is gone" for i in range(3)}
            parts = set(str(raised.value).split("; "))
            assert {part for part in parts if "device" in part} == said
            return
        evaluation = eval_case.evaluated(run, source, chosen)
    assert evaluation.lost_devices == {i: f"device {i}: the card is gone" for i in sorted(lost)}
    assert (evaluation.state, evaluation.images) == ("complete", eval_case.COUNT)
    assert sorted(evaluation.lost_lines()) == [
        f"device {i}: the card is gone; the other devices computed its batches"
        for i in sorted(lost)
    ]
    names, rows = read_named_rows(tmp_path / "l.npy")
    assert names == sorted(names)
    assert len(set(names)) == len(rows) == eval_case.COUNT
    assert not device_threads()


def test_a_device_that_cannot_be_loaded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(spec: ModelSpec) -> eval_case.Wrapped:
        if spec.device in broken:
            raise BackendError(reason if reason else f"no card {spec.device}")
        return eval_case.Wrapped(lambda call: None)

    monkeypatch.setattr(ModelSpec, "open", load)
    broken, reason = {0, 2}, ""
    with open_source(run / "images") as source:
        evaluation = eval_case.evaluated(run, source, eval_case.options(run, devices=3))
        assert evaluation.lost_devices == {0: "device 0: no card 0", 2: "device 2: no card 2"}
        assert evaluation.images == eval_case.COUNT
        broken = {0, 1, 2}
        with pytest.raises(BackendError, match=r"^device \d: no card \d(; device \d: no .*){2}$"):
            eval_case.evaluated(run, source, eval_case.options(run, devices=3))
        reason = "no such model file"  # of all devices is said once
        with pytest.raises(BackendError, match=r"^no such model file$"):
            eval_case.evaluated(run, source, eval_case.options(run, devices=3))
    assert not device_threads()


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_device_that_hangs_is_lost(
    run: Path, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    freed = threading.Event()

    def hang(call: int) -> None:
        if call == 3:
            freed.wait(60)

    monkeypatch.setattr(ModelSpec, "open", lambda spec: eval_case.Wrapped(hang, concurrency))
    monkeypatch.setattr("zoofast.inference.devices.CLOSING_SECONDS", 0.1)
    with (
        open_source(run / "images") as source,
        pytest.raises(BackendError, match=r"device 0 has not answered for \d+ s"),
    ):
        eval_case.evaluated(run, source, eval_case.options(run, timeout=0.3))
    freed.set()


def test_each_device_has_its_own_clock(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Device 0 answers all the time, slowly; that device 1 hangs is noticed all the same."""
    freed = threading.Event()

    def tell(state: EvalProgress) -> None:
        if state.lost_devices:
            freed.set()

    monkeypatch.setattr(
        ModelSpec,
        "open",
        lambda spec: eval_case.Wrapped(
            lambda call: freed.wait(60 if spec.device == 1 else 0.05), batch=1
        ),
    )
    with open_source(run / "images") as source:
        source.items = list(source.items) * 9  # 10 seconds of work
        options = eval_case.options(run, devices=2, timeout=2.0)
        evaluation = eval_case.evaluated(run, source, options, progress=tell)
    assert re.match(r"device 1 has not answered for \d+ s", evaluation.lost_devices[1])
    assert evaluation.images == 9 * eval_case.COUNT


def test_a_device_is_lost_at_the_second_look(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stop of the whole process, which is a leap of the clock, a device has time to
    answer."""
    freed = threading.Event()
    monkeypatch.setattr(
        ModelSpec, "open", lambda spec: eval_case.Wrapped(lambda call: freed.wait(60))
    )
    slots = _core.Batch(load_recipe(str(run / "recipe.toml")).plan(), 4)
    with Devices([ModelSpec("m.onnx", device=i) for i in range(2)], 600.0) as devices:

        def begin_and_leap() -> None:
            for number in range(2):
                devices.put(number, slots, 4)
            wait_for(lambda: all(each.busy_since() for each in devices._devices))
            devices._lose_late(time.monotonic() + 1000)
            assert not devices.lost

        devices.begin([slots])
        begin_and_leap()
        freed.set()
        assert sorted(devices.get()[0] for _ in range(2)) == [0, 1]
        freed.clear()
        devices._lose_late(time.monotonic() + 1000)  # no device has a batch
        begin_and_leap()
        with pytest.raises(BackendError, match="device 1 has not answered for 1,001 s"):
            devices._lose_late(time.monotonic() + 1001)
        freed.set()


def test_a_device_that_does_not_open(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    freed, opens = threading.Event(), {2}

    def load(spec: ModelSpec) -> eval_case.Wrapped:
        if spec.device not in opens:
            freed.wait(60)
        return eval_case.Wrapped(lambda call: None)

    monkeypatch.setattr(ModelSpec, "open", load)
    monkeypatch.setattr("zoofast.inference.lateness.OPENING_SECONDS", 2.0)
    monkeypatch.setattr("zoofast.inference.devices.CLOSING_SECONDS", 0.1)
    with open_source(run / "images") as source:
        options = eval_case.options(run, timeout=2.0, devices=3)
        evaluation = eval_case.evaluated(run, source, options)
        assert evaluation.lost_devices.keys() == {0, 1}
        assert evaluation.lost_devices[0].startswith("device 0 has not loaded the model in ")
        assert evaluation.images == eval_case.COUNT
        opens.clear()
        monkeypatch.setattr("zoofast.inference.lateness.OPENING_SECONDS", 0.2)
        with pytest.raises(BackendError, match=r"device 0 has not loaded the model in \d+ s"):
            eval_case.evaluated(run, source, eval_case.options(run, timeout=0.2))
    freed.set()


@pytest.mark.parametrize("speeds", ["host", "device"])
def test_whoever_is_slow(run: Path, monkeypatch: pytest.MonkeyPatch, speeds: str) -> None:
    """Either side waits for the other; the shares say which."""
    if speeds == "device":
        ended = time.monotonic()

        def compute(call: int) -> None:
            """Takes at least twice as long as the device has waited, however slow the host is."""
            nonlocal ended
            time.sleep(max(0.05, 2 * (time.monotonic() - ended)))
            ended = time.monotonic()

        monkeypatch.setattr(ModelSpec, "open", lambda spec: eval_case.Wrapped(compute))
    else:
        from zoofast.preprocess.loader import Loader, Prepared

        take = Loader.take

        def slow(self: Loader) -> Prepared | None:
            time.sleep(0.05)
            return take(self)

        monkeypatch.setattr(Loader, "take", slow)
    with open_source(run / "images") as source:
        evaluation = eval_case.evaluated(run, source, eval_case.options(run))
    assert evaluation.images == eval_case.COUNT
    assert (evaluation.device_share("infer") > 0.5) == (speeds == "device")


WATCHED = """
import itertools, sys, time
from zoofast.inference.backends.null import NullModel
number = itertools.count(1)
fast = NullModel.infer
def infer(self, *batch, loop=1):
    calls = next(number)  # threads of several devices call this
    {what}
    return fast(self, *batch, loop=loop)
NullModel.infer = infer
from zoofast.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("time.sleep(1000 if calls == 2 else 0)", 1),
        ("time.sleep(1000)", 2),
        ("sys.exit(5) if calls == 2 else None", 5),
        ("raise RuntimeError('a defect')", 1),
        ("time.sleep(0.001 * (calls % 7))", 0),
    ],
)
def test_the_process_ends(run: Path, what: str, code: int) -> None:
    """Whatever a backend does, the process ends, and in time."""
    timeout = "3" if "1000" in what else "60"
    arguments = eval_case.words(
        run, "--backend", "null", "--device-timeout", timeout, "--device", "0,1"
    )
    arguments[1] = "4x3x4x4:float32:6"
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(what=what), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    if "1000" in what:
        assert "has not answered" in done.stderr
        assert done.stderr.count("\n") == (2 if code == 1 else 1)
        assert done.stdout.endswith(f"scored {eval_case.COUNT} of {eval_case.COUNT}\n") == (
            code == 1
        )


def test_answers_behind_a_hole_are_in_the_journal(
    run: Path, tmp_path: Path, files: dict[str, bytes]
) -> None:
    """One device hangs at its first batch, and the run is killed before that is noticed."""
    at_once = "import zoofast.evaluation.evaluate as e; e.RANKED_NS = 0"
    hang = f"{at_once}; time.sleep(1000 if calls == 1 else 0)"
    out = ["-o", tmp_path / "r.json", "--save-logits", tmp_path / "l.npy", "--batchsize", "2"]
    arguments = eval_case.words(run, "--backend", "null", "--device", "0,1", *out)
    arguments[1] = "2x3x4x4:float32:6"
    process = subprocess.Popen([sys.executable, "-c", WATCHED.format(what=hang), *arguments])
    journal = tmp_path / "r.json.journal"
    until = time.monotonic() + 300
    while len(eval_case.recorded(journal)) < eval_case.COUNT - 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert main([*arguments, "--resume", "--json", str(tmp_path / "e.json")]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["images"] == 2  # those of the hole
    names, rows = read_named_rows(tmp_path / "l.npy")
    assert names == sorted(Path(name).stem for name in files)
    assert np.array_equal(rows, np.tile(-np.arange(6, dtype=np.float32), (eval_case.COUNT, 1)))
    assert not journal.exists()


# ---- aclruntime, in processes of its own ---------------------------------------------


@pytest.mark.parametrize(
    ("generation", "devices"),
    [*((generation, "1") for generation in fake_aclruntime.GENERATIONS), ("G2", "1,2")],
)
def test_npus(
    run: Path,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    generation: str,
    devices: str,
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch, generation)
    arguments = eval_case.words(run, "--device", devices, "-o", tmp_path / "r.json")
    arguments[1] = models.write_model(tmp_path / "m.om", 4)
    assert main([*arguments, "--json", str(tmp_path / "e.json")]) == 0
    assert (tmp_path / "r.json").read_text() == eval_case.result_of(files)
    assert json.loads((tmp_path / "e.json").read_text())["device_images_per_second"] > 0


def test_a_process_takes_a_second_batch_while_it_runs_the_first(run: Path, tmp_path: Path) -> None:
    model = models.write_model(tmp_path / "two.onnx", outputs=2)
    plan = load_recipe(str(run / "recipe.toml")).plan()
    ring = [_core.Batch(plan, 4, shared=True) for _ in range(3)]
    rng = np.random.default_rng(5)
    with RemoteModel(model, backend="onnxruntime", batch=4) as remote:
        remote.share(ring)
        expected: list[np.ndarray] = []
        ended = 0
        for i in range(8):
            slots = ring[i % 3].array
            slots[:] = rng.standard_normal(slots.shape)
            expected.append(models.logits(slots.astype(np.float32)))
            remote.begin(slots)
            if i:
                result = remote.end()
                assert ended <= result.begin_ns <= result.end_ns
                ended = result.end_ns
                before = expected[i - 1]
                assert result.outputs[0] == pytest.approx(before, rel=1e-4, abs=1e-5)
                assert result.outputs[1] == pytest.approx(-before, rel=1e-4, abs=1e-5)
        last = remote.end().outputs[0]
        assert last == pytest.approx(expected[-1], rel=1e-4, abs=1e-5)
        assert len(remote.times().compute) == 8
        remote.begin(ring[7 % 3].array)
        again = remote.end().outputs[0]
        assert again == pytest.approx(last, rel=1e-6)
        assert last == pytest.approx(expected[-1], rel=1e-4, abs=1e-5)  # a copy of our own
        remote.begin(ring[0].array)
        kill_models([remote])
        with pytest.raises(BackendError, match="ended with exit code -15"):
            for _ in range(2):  # it may have been faster
                remote.end()
                remote.begin(ring[0].array)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("os._exit(7)", r"the process of device 1 ended with exit code 7"),
        ("os.kill(os.getpid(), 9)", r"the process of device 1 ended with exit code -9"),
        ("time.sleep(1000)", r"device 1 has not answered for \d+ s"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", r"device 1 has not answered for \d+ s"),
        ("raise RuntimeError('[507011][task timeout] ')", r"cannot run on device 1: \[507011\]"),
    ],
)
def test_an_npu_that_dies(
    run: Path,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: str,
    reason: str,
) -> None:
    mark = str(tmp_path / "mark")
    wait = f"while device == 0 and not os.path.exists({mark!r}): time.sleep(0.01)"
    dying = f"if device and calls == 1: open({mark!r}, 'w').close(); {fault}"
    # Device 0 waits, or it might compute everything before device 1 has its second batch.
    fake_aclruntime.install(tmp_path / "path", monkeypatch, at_run=f"{wait}\n        {dying}")
    timeout = "3" if "sleep" in fault or "STOP" in fault else "60"
    out = ["--device-timeout", timeout, "-o", tmp_path / "r.json", "--quiet"]
    arguments = eval_case.words(run, *out, "--device", "0,1")
    arguments[1] = models.write_model(tmp_path / "m.om", 1)
    assert main(arguments) == 1
    shown = capfd.readouterr()
    assert re.search(reason, shown.err), shown.err
    then, at_the_end = shown.err.splitlines()
    assert then.endswith("; the other devices go on")
    assert at_the_end.endswith("; the other devices computed its batches")
    assert shown.out.splitlines()[1:] == [
        f"scored {eval_case.COUNT} of {eval_case.COUNT}"
    ]  # nothing of ACL's
    assert (tmp_path / "r.json").read_text() == eval_case.result_of(files)


def test_no_npu_is_left(
    run: Path,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_aclruntime.install(
        tmp_path / "path", monkeypatch, at_run="if device and calls == 1: os._exit(7)"
    )
    arguments = eval_case.words(run, "-o", tmp_path / "r.json")
    arguments[1] = models.write_model(tmp_path / "m.om", 1)
    assert main([*arguments, "--device", "1"]) == 2
    error = capsys.readouterr().err
    assert "the process of device 1 ended with exit code 7; the images that are done" in error
    assert main([*arguments, "--device", "0", "--resume"]) == 0
    assert (tmp_path / "r.json").read_text() == eval_case.result_of(files)


def test_the_reason_of_acl_is_in_the_error(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_aclruntime.install(tmp_path / "path", monkeypatch)
    arguments = eval_case.words(run, "--device", "8,9")
    arguments[1] = models.write_model(tmp_path / "m.om", 1)
    assert main(arguments) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "on device 9: [107001][Error code unknown] (acl open device 9 failed)" in shown.err
    assert shown.err.count("\n") == 1


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("fault", ["time.sleep(1000)", "os.kill(os.getpid(), signal.SIGSTOP)"])
@pytest.mark.parametrize("how", ["kill", "interrupt twice"])
def test_no_process_outlives_a_run_with_a_hung_device(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, how: str
) -> None:
    hung = tmp_path / "hung"
    fault = f"open({str(hung)!r}, 'w').write(str(os.getpid())); {fault}"
    fake_aclruntime.install(tmp_path / "path", monkeypatch, at_run=fault)
    arguments = eval_case.words(run)
    arguments[1] = models.write_model(tmp_path / "m.om", 4)
    process = subprocess.Popen([eval_case.ZOOFAST, *arguments], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: hung.exists() and hung.read_text())
    child = int(hung.read_text())
    assert is_running(child)
    if how == "kill":
        process.kill()
    else:
        process.send_signal(signal.SIGINT)
        time.sleep(1)  # until the first one has been handled
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    wait_for(lambda: not is_running(child))
    assert process.returncode == (-signal.SIGKILL if how == "kill" else 130)
