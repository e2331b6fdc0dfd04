"""Faults on purpose, in thousands; see tools/campaign.sh, which runs this.

Each case is a command that is disturbed, and the same command again, undisturbed and with --resume
where it has that. Expected of the disturbed run: exit code 0 and all files right, or a one-line
error, or its death; and never a file under its final name that an undisturbed run would not write.
Expected of the run after it: exit code 0, and the files of an undisturbed run, byte for byte.

A case runs in a fork of a process that has imported zoofast, so that a thousand take minutes.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import hashlib
import importlib
import io
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import re
import shutil
import signal
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import fake_aclruntime, folders, hostile, models, oracle
from zoofast.cli import main

CALLS = ("open", "write", "truncate", "close", "rename", "unlink")
FAULTS = ("enospc", "eio", "short")
KILLS = ("kill", "killed")
STATE = 4096  # bytes of the file in which the preloaded library counts
# Files that are there while a run has not ended, and in which it continues.
UNFINISHED = re.compile(r"\.part$|\.lock$|\.journal$|^\.|^zoofast-prep\.json$|^zoofast-.*\.json$")
TIMED_OUT = 60.0
WRITERS = "two writers"
NOT_DISTURBED = "not disturbed"  # such a case is checked, but not counted as a fault or a kill
# Of JSON files with times: what must equal an undisturbed run, whatever the way to it.
CONTENT = {
    "zoofast-prep.json": (
        *("state", "recipe", "resize_order", "shape", "dtype", "layout", "source", "folder"),
        *("total", "skipped_as_no_image", "failed", "failures", "failures_by_cause", "names"),
    ),
    "r_summary.json": ("filesinfo",),
    "all.json": (
        *("state", "model", "model_digest", "backend", "devices", "lost_devices", "input", "score"),
        *("batchsize", "recipe", "source", "total", "skipped_as_no_image", "failures"),
    ),
}


@dataclass
class Scenario:
    """A command line; {out} stands for the folder that it writes in."""

    name: str
    words: list[str]
    again: list[str] = field(default_factory=list)  # added in the run that continues
    files: dict[str, str] = field(default_factory=dict)  # of an undisturbed run: name -> SHA-256
    counts: dict[str, int] = field(default_factory=dict)  # system calls of an undisturbed run
    seconds: float = 0.0

    def command(self, out: Path, *more: str) -> list[str]:
        return [word.replace("{out}", str(out)) for word in (*self.words, *more)]


@dataclass
class Ended:
    code: int  # exit code, or minus the signal
    text: str  # standard output and error
    fired: int  # how many calls failed


def start(
    argv: list[str], out: Path, fault: dict[str, str] | None = None, modules: Path | None = None
) -> int:
    """The process of `zoofast` argv; what it prints goes to out.log. modules: a file that gets the
    names of all modules that it has imported."""
    log = out.with_suffix(".log")
    log.write_bytes(b"")
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        fd = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        if fault is not None:
            state = out.with_suffix(".state")
            state.write_bytes(bytes(STATE))
            os.environ.update(
                FAULTS_PREFIX=f"{out}/",
                FAULTS_STATE=str(state),
                **{f"FAULTS_{key.upper()}": value for key, value in fault.items()},
            )
            ctypes.CDLL(os.environ["LD_PRELOAD"]).faults_arm()
        try:
            code = main(argv)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        if modules is not None:
            modules.write_text("\n".join(sys.modules))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(pid: int, out: Path, kill_after: float | None = None) -> Ended:
    begin = time.monotonic()
    killed = False
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        age = time.monotonic() - begin
        if not killed and age > (TIMED_OUT if kill_after is None else kill_after):
            with contextlib.suppress(ProcessLookupError):  # it has no group yet
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            killed = True
        time.sleep(0.0005)
    code = os.waitstatus_to_exitcode(status)
    text = out.with_suffix(".log").read_text(errors="replace")
    if killed and kill_after is None:
        text += f"\nhung for {TIMED_OUT} s"
    state = out.with_suffix(".state")
    fired = int.from_bytes(state.read_bytes()[24:28], "little") if state.exists() else 0
    return Ended(code, text, fired)


def sums(folder: Path) -> dict[str, str]:
    """File -> digest of its bytes; of a file with times, of what must not change. Which device made
    a result does not count."""
    return {
        re.sub(r"\bdevice\d+/", "", path.relative_to(folder).as_posix()): hashlib.sha256(
            content(path, folder)
        ).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not re.fullmatch(r"device\d+_summary\.json", path.name)
    }


def content(path: Path, folder: Path) -> bytes:
    data = path.read_bytes()
    if path.name in CONTENT:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            whole = json.loads(data.replace(f"{folder}/".encode(), b"{out}/"))
            return json.dumps([whole[key] for key in CONTENT[path.name]]).encode()
    if path.suffix == ".html":  # its charts show times
        return b"whole page" if data.rstrip().endswith(b"</html>") else data
    return data


def fresh(out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    for suffix in (".log", ".state"):
        out.with_suffix(suffix).unlink(missing_ok=True)
    out.mkdir(parents=True)
    return out


def is_plain_error(run: Ended) -> bool:
    """A one-line error of exit code 2, or what was left out of exit code 1."""
    if "Traceback" in run.text or run.code not in (1, 2, 130):
        return False
    if run.code == 2:
        return run.text.rstrip().splitlines()[-1:] != [] and "zoofast: error: " in run.text
    return bool(run.text.strip())


def faults_of_files(scenario: Scenario, out: Path, complete: bool) -> str:
    """What is wrong with the files in `out`; empty when nothing is."""
    now = sums(out)
    wrong = []
    for name, digest in now.items():
        if UNFINISHED.search(Path(name).name) and not complete:
            continue
        if name.endswith(".lock"):  # nobody holds it: its removal failed
            continue
        if name not in scenario.files:
            wrong.append(f"{name} should not exist")
        elif digest != scenario.files[name]:
            wrong.append(f"{name} differs")
    if complete:
        wrong += [f"{name} is missing" for name in scenario.files.keys() - now.keys()]
    return ", ".join(wrong)


def last_line(text: str) -> str:
    return (text.rstrip().splitlines() or [""])[-1][:200]


@dataclass
class Case:
    scenario: Scenario
    kind: str  # fault, kill, moment, or WRITERS
    fault: dict[str, str] | None = None
    moment: float = 0.0

    @property
    def label(self) -> str:
        if self.fault is None:
            return f"{self.scenario.name}: killed after {self.moment * 1e3:.1f} ms"
        fault = self.fault
        return f"{self.scenario.name}: {fault['do']} at {fault['call']} {fault['at']}" + (
            "" if fault.get("count", "1") == "1" else " and all after it"
        )


def run_case(case: Case, out: Path) -> tuple[str, str]:
    """(how the disturbed run ended, what was not as promised or nothing)."""
    scenario = case.scenario
    fresh(out)
    disturbed = ended(
        start(scenario.command(out), out, case.fault),
        out,
        case.moment if case.fault is None else None,
    )
    if case.fault is not None and disturbed.fired == 0:
        outcome = NOT_DISTURBED  # other threads were faster, so it made fewer calls
    elif case.kind == "moment" and disturbed.code != -signal.SIGKILL:
        outcome = NOT_DISTURBED  # it ended first
    elif disturbed.code == 0:
        outcome = "no effect"
    elif disturbed.code == -signal.SIGKILL:
        outcome = "killed"
    else:
        outcome = f"exit {disturbed.code}"
    if disturbed.code == 0:
        wrong = faults_of_files(scenario, out, complete=True)
        if wrong:
            return outcome, f"exit code 0, but {wrong}"
    elif disturbed.code == -signal.SIGKILL and case.kind != "fault":
        pass
    elif not is_plain_error(disturbed):
        return outcome, f"exit code {disturbed.code}: {last_line(disturbed.text)}"
    wrong = faults_of_files(scenario, out, complete=False)
    if wrong:
        return outcome, f"after the disturbed run: {wrong}"
    resumed = ended(start(scenario.command(out, *scenario.again), out), out)
    if resumed.code != 0:
        return outcome, f"continued: exit code {resumed.code}: {last_line(resumed.text)}"
    wrong = faults_of_files(scenario, out, complete=True)
    return outcome, f"continued: {wrong}" if wrong else ""


# ---- the commands ------------------------------------------------------------------------


def scenarios(data: Path) -> list[Scenario]:
    """Small data in `data`, and every command that writes, on it."""
    spec = oracle.Spec(size=(40, 40), crop=(32, 32))
    folders.write(data / "images", folders.good_files(9))
    folders.recipe_file(data, spec)
    tiny = oracle.Spec(size=(5, 5), crop=(4, 4))
    folders.recipe_file(data / "tiny", tiny)
    models.write_model(data / "one.onnx", 2)
    models.write_model(data / "two.onnx", 2, outputs=2)
    models.write_inputs(data / "bins", 7)
    names = [Path(name).stem for name in folders.good_files(9)]
    labels = "".join(f"{name}.JPEG {i % models.CLASSES}\n" for i, name in enumerate(names))
    (data / "labels.txt").write_text(labels)
    results = data / "results"
    results.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        scores = [(i * 7 + k * 5) % 11 for k in range(models.CLASSES)]
        (results / f"{name}_0.txt").write_text(" ".join(map(str, scores)) + " \n")
    images, recipe, tiny_recipe = (
        str(data / name) for name in ("images", "recipe.toml", "tiny/recipe.toml")
    )
    prep = ["prep", images, "{out}/t", "--recipe", recipe, "--threads", "2", "--quiet", "--format"]
    infer = ["infer", "-i", str(data / "bins"), "-o", "{out}", "--output_dirname", "r", "--quiet"]
    evaluate = ["eval", str(data / "one.onnx"), images, str(data / "labels.txt"), "--threads", "2"]
    evaluate += ["--recipe", tiny_recipe, "--quiet", "-o", "{out}/r.json"]
    score = ["score", str(results), str(data / "labels.txt"), "-o", "{out}/r.json", "--quiet"]
    more = ["--json", "{out}/all.json", "--per-class", "{out}/classes.csv"]
    resume = ["--resume"]
    return [
        Scenario("prep bin", [*prep, "bin"], resume),
        Scenario("prep npy", [*prep, "npy"], resume),
        Scenario("prep pack", [*prep, "pack"], resume),
        Scenario("infer, one output", [*infer, "-m", str(data / "one.onnx")], resume),
        Scenario(
            "infer, two outputs", [*infer, "-m", str(data / "two.onnx"), "--outfmt", "TXT"], resume
        ),
        Scenario("eval", [*evaluate, *more], resume),
        Scenario("eval with logits", [*evaluate, "--save-logits", "{out}/l.npy"], resume),
        Scenario("eval with report", [*evaluate, "--report", "{out}/p.html"], resume),
        Scenario("score", [*score, *more]),
    ]


def measure(scenario: Scenario, out: Path) -> None:
    """Two undisturbed runs: the files, which must be equal, the system calls, the time.

    This process imports what the first run imports: no later run has to.
    """
    modules = out.with_suffix(".modules")
    seen = []
    for _ in range(2):
        fresh(out)
        begin = time.monotonic()
        fault = {"call": "open", "do": "eio"}  # at no call
        run = ended(start(scenario.command(out), out, fault, modules), out)
        for name in modules.read_text().splitlines():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        scenario.seconds = time.monotonic() - begin
        assert run.code == 0, (scenario.name, run)
        state = out.with_suffix(".state").read_bytes()
        scenario.counts = {
            call: int.from_bytes(state[4 * i : 4 * i + 4], "little") for i, call in enumerate(CALLS)
        }
        seen.append(sums(out))
    first, second = seen
    scenario.files = second
    assert first == second, (scenario.name, {name for name in first if first[name] != second[name]})


def spread(total: int, wanted: int, draw: random.Random) -> list[int]:
    """`wanted` of the numbers 1..total, or all of them."""
    numbers = list(range(1, total + 1))
    return numbers if total <= wanted else sorted(draw.sample(numbers, wanted))


def cases(scenario: Scenario, faults: int, kills: int, draw: random.Random) -> Iterator[Case]:
    """About so many faults, and so many kills, half of them at a system call."""
    grid = [
        Case(scenario, "fault", {"call": call, "at": str(at), "do": do, "count": count})
        for call in CALLS
        for do in FAULTS
        for at in range(1, scenario.counts[call] + 1)
        for count in (("1", "0") if do == "enospc" else ("1",))
        if do != "short" or call == "write"
    ]
    yield from draw.sample(grid, min(faults, len(grid)))
    grid = [
        Case(scenario, "kill", {"call": call, "at": str(at), "do": do, "count": "1"})
        for call in ("write", "rename", "close", "unlink")
        for do in KILLS
        for at in range(1, scenario.counts[call] + 1)
    ]
    at_calls = draw.sample(grid, min(kills // 2, len(grid)))
    yield from at_calls
    for _ in range(kills - len(at_calls)):
        yield Case(scenario, "moment", moment=draw.uniform(0, scenario.seconds))


# ---- two writers, devices, hostile files -----------------------------------------------------


def two_writers(scenario: Scenario, out: Path) -> tuple[str, str]:
    fresh(out)
    (out.parent / (out.name + "b")).mkdir(exist_ok=True)
    second_log = out.parent / (out.name + "b") / "x"
    command = scenario.command(out, *scenario.again)
    pids = [start(command, out), start(command, second_log)]
    runs = [ended(pids[0], out), ended(pids[1], second_log)]
    for run in runs:
        if run.code != 0 and not is_plain_error(run):
            return f"exit {run.code}", f"exit code {run.code}: {last_line(run.text)}"
    outcome = "one refused" if any(run.code for run in runs) else "one after the other"
    if all(run.code for run in runs):
        return "both refused", f"both refused: {last_line(runs[0].text)}"
    last = ended(start(command, out), out)
    if last.code != 0:
        return outcome, f"third run: exit code {last.code}: {last_line(last.text)}"
    wrong = faults_of_files(scenario, out, complete=True)
    return outcome, f"third run: {wrong}" if wrong else ""


FAILING = (
    fake_aclruntime.SHIM
    + """
module = sys.modules[__name__]
make = module.InferenceSession
import time
def session(path, device, options):
    made = make(path, device, options)
    run, calls = made.run, []
    def failing(names, feeds):
        calls.append(1)
        if device == 1 and len(calls) == 2:
            {what}
        return run(names, feeds)
    made.run = failing
    return made
module.InferenceSession = session
"""
)
DEVICES = {
    "hung": "time.sleep(1000)",
    "killed": "os.kill(os.getpid(), 9)",
    "failed": "raise RuntimeError('[507011][task timeout] ')",
    "slow": "time.sleep(0.5)",
}


def device_case(command: str, kind: str, data: Path, out: Path) -> tuple[str, str]:
    """A command on two NPUs, of which one has that trouble at its second batch; then --resume."""
    shim = out.with_name(out.name + ".path")
    shutil.rmtree(shim, ignore_errors=True)
    shim.mkdir()
    model = data / "m.om"
    words = [command, *("--device", "0,1", "--device-timeout", "3", "--quiet")]
    if command == "eval":
        words += [str(model), str(data / "images"), str(data / "labels.txt")]
        words += ["--recipe", str(data / "tiny/recipe.toml"), "-o", "{out}/r.json"]
        words += ["--save-logits", "{out}/l.npy"]
    else:
        words += ["-m", str(model), "-i", str(data / "bins"), "-o", "{out}"]
        words += ["--output_dirname", "r"]
    scenario = Scenario(f"{command} on two NPUs", words, ["--resume"])
    os.environ["FAKE_ACLRUNTIME"] = "G2"
    sys.path.insert(0, str(shim))
    text = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{shim}{os.pathsep}{text}"
    try:
        (shim / "aclruntime.py").write_text(fake_aclruntime.SHIM)
        fresh(out)
        undisturbed = ended(start(scenario.command(out), out), out)
        if undisturbed.code != 0:
            return "undisturbed", last_line(undisturbed.text)
        scenario.files = sums(out)
        (shim / "aclruntime.py").write_text(FAILING.replace("{what}", DEVICES[kind]))
        shutil.rmtree(shim / "__pycache__", ignore_errors=True)
        fresh(out)
        run = ended(start(scenario.command(out), out), out)
        outcome = f"exit {run.code}"
        if run.code != 0 and not is_plain_error(run):
            return outcome, f"exit code {run.code}: {last_line(run.text)}"
        if kind == "slow" and run.code != 0:
            return outcome, f"a slow device: {last_line(run.text)}"
        if run.code != 2:  # the other device has computed everything
            wrong = faults_of_files(scenario, out, complete=True)
            if wrong or command == "eval":
                return outcome, wrong
        (shim / "aclruntime.py").write_text(fake_aclruntime.SHIM)
        shutil.rmtree(shim / "__pycache__", ignore_errors=True)
        resumed = ended(start(scenario.command(out, "--resume"), out), out)
        if resumed.code != 0:
            return outcome, f"continued: exit code {resumed.code}: {last_line(resumed.text)}"
        wrong = faults_of_files(scenario, out, complete=True)
        return outcome, f"continued: {wrong}" if wrong else ""
    finally:
        sys.path.remove(str(shim))
        os.environ["PYTHONPATH"] = text


def write_tar(path: Path, name: str, outside: Path) -> None:
    """A tar with one good image, and members that are not what they seem."""
    good = folders.good_files(1)["img0000.JPEG"]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(member: str, data: bytes = good, **fields: Any) -> None:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))

        add("good.JPEG")
        if name == "dots":
            add("../../evil.JPEG")
        elif name == "absolute":
            add(f"{outside}/evil.JPEG")
        elif name == "same name":
            add("a/x.JPEG")
            add("b/x.JPEG")
        elif name == "link":
            add("l.JPEG", b"", type=tarfile.SYMTYPE, linkname=str(outside / "secret.JPEG"))
        elif name == "hard link":
            add("l.JPEG", b"", type=tarfile.LNKTYPE, linkname="../../secret.JPEG")
        elif name == "NUL":
            add("a.JPEG", pax_headers={"path": "README\0.JPEG"})
        elif name == "escape":
            add("a\x1b]0;x\x07.JPEG")
        elif name == "long":
            add("x" * 300 + ".JPEG")
        elif name == "empty name":
            add(".JPEG")
        elif name == "device":
            add("d.JPEG", b"", type=tarfile.CHRTYPE)
    data = bytearray(path.read_bytes())
    if name == "negative size":
        data[124:136] = b"\xff" * 12
    elif name == "huge size":
        data[124:136] = b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7
    elif name == "damaged size":
        data[124:136] = b"99999999999\0"
    elif name == "cut":
        del data[700:]
    elif name == "no tar":
        data = bytearray(b"\0\xff" * 4000)
    path.write_bytes(data)


TARS = (
    "dots",
    "absolute",
    "same name",
    "link",
    "hard link",
    "NUL",
    "escape",
    "long",
    "empty name",
    "device",
    "negative size",
    "huge size",
    "damaged size",
    "cut",
    "no tar",
)
SHAPES = {
    "empty": "",
    "blank": "\n\n",
    "cut": "{",
    "list": "[]",
    "number": "3",
    "null": "null",
    "deep": hostile.DEEP_LIST,
    "deep object": hostile.DEEP_OBJECT,
    "huge number": hostile.HUGE,
    "NUL": "\0" * 100,
    "binary": "\x7fELF\x01\x02",
    "not Unicode": "\udcff\udcfe",
    "byte order mark": "\ufeff{}",
    "not a number": "NaN",
    "wrong format": '{"format": "JPEG", "version": 1, "state": "running", "done": ["README"]}',
    "long line": "x" * 1_000_000,
}


def hostile_cases(data: Path, out: Path) -> Iterator[tuple[str, str, str]]:
    """(what, outcome, what was not as promised)."""
    outside = out.with_name(out.name + ".outside")
    shutil.rmtree(outside, ignore_errors=True)
    outside.mkdir()
    (outside / "secret.JPEG").write_bytes(folders.good_files(1)["img0000.JPEG"])
    before = sums(outside)

    def judge(what: str, argv: list[str], check: Callable[[], str]) -> tuple[str, str, str]:
        run = ended(start(argv, out), out)
        wrong = ""
        if run.code != 0 and not is_plain_error(run):
            wrong = f"exit code {run.code}: {last_line(run.text)}"
        elif re.search(r"[\x00\x07\x1b]", run.text):
            wrong = "prints control characters"
        elif sums(outside) != before:
            wrong = "changed files outside of its folder"
        return what, f"exit {run.code}", wrong or check()

    recipe = str(data / "recipe.toml")
    for name in TARS:
        fresh(out)
        tar = outside.with_name(out.name + ".tar")
        write_tar(tar, name, outside)

        def only_outputs(name: str = name) -> str:
            extra = [n for n in sums(out) if not re.match(r"t/([^/]+\.bin|zoofast-prep\.json)$", n)]
            secret = [n for n in sums(out) if "secret" in n or "evil" in n]
            may = name in ("dots", "absolute")  # their last part is a good name
            return f"wrote {extra or secret}" if extra or (secret and not may) else ""

        argv = ["prep", str(tar), str(out / "t"), "--recipe", recipe, "--quiet"]
        yield judge(f"tar: {name}", argv, only_outputs)

    def encoded(text: str) -> bytes:
        return text.encode("utf-8", "surrogateescape")

    images, labels = str(data / "images"), str(data / "labels.txt")
    good = folders.good_files(1)["img0000.JPEG"]
    for name, text in SHAPES.items():
        fresh(out)
        (out / "t").mkdir()
        for other in ("README", "x.JPEG"):
            (out / "t" / other).write_bytes(good)
        (out / "t/zoofast-prep.json").write_bytes(encoded(text))

        def kept() -> str:
            there = all((out / "t" / other).exists() for other in ("README", "x.JPEG"))
            return "" if there else "deleted files that are not its own"

        for option in ("--resume", "--overwrite"):
            argv = ["prep", images, str(out / "t"), "--recipe", recipe, "--quiet", option]
            yield judge(f"manifest: {name}, {option}", argv, kept)
        journal = out / "r.json.journal"
        argv = ["eval", str(data / "one.onnx"), images, labels, "--quiet", "-o"]
        argv += [str(out / "r.json"), "--recipe", str(data / "tiny/recipe.toml")]
        for option in ("--resume", "--overwrite"):
            journal.write_bytes(encoded(text + "\n"))  # a line without its end does not count
            yield judge(f"journal: {name}, {option}", [*argv, option], lambda: "")
            (out / "r.json").unlink(missing_ok=True)
        (out / "labels.txt").write_bytes(encoded(text))
        argv = ["score", str(data / "results"), str(out / "labels.txt"), "--quiet"]
        yield judge(f"labels: {name}", argv, lambda: "")
        (out / "list.txt").write_bytes(encoded(text))
        argv = ["prep", str(out / "list.txt"), str(out / "l"), "--recipe", recipe, "--quiet"]
        yield judge(f"list of images: {name}", argv, lambda: "")
        (out / "x.toml").write_bytes(encoded(text))
        argv = ["prep", images, str(out / "l"), "--recipe", str(out / "x.toml"), "--quiet"]
        yield judge(f"recipe: {name}", argv, lambda: "")


# ---- all of it ------------------------------------------------------------------------------


def share(
    number: int,
    of: int,
    work: Path,
    todo: list[Case],
    data: Path,
    deadline: float,
    pipe: Any,
) -> None:
    """One of the processes: every of-th case."""
    out = work / f"out{number}"
    if number == of - 1:
        for what, outcome, wrong in hostile_cases(data, out):
            pipe.send(("hostile files", what.partition(":")[0], outcome, wrong, what))
    for command, kind in list(itertools.product(("eval", "infer"), DEVICES))[number::of]:
        result = device_case(command, kind, data, out)
        pipe.send(("devices", kind, *result, f"{command}: a {kind} device"))
    for case in todo[number::of]:
        if time.monotonic() > deadline:
            break
        if case.kind == WRITERS:
            result = two_writers(case.scenario, out)
            pipe.send((case.scenario.name, case.kind, *result, f"{case.scenario.name}: {WRITERS}"))
            continue
        pipe.send((case.scenario.name, case.kind, *run_case(case, out), case.label))
    pipe.close()


def campaign(work: Path, is_long: bool, seed: int, only: str) -> int:
    import numpy  # noqa: F401  # imported once, before the forks
    import onnxruntime  # noqa: F401

    draw = random.Random(seed)
    data = work / "data"
    shutil.rmtree(data, ignore_errors=True)
    (data / "tiny").mkdir(parents=True)
    every = [scenario for scenario in scenarios(data) if scenario.name.startswith(only)]
    models.write_model(data / "m.om", 1)
    begin = time.monotonic()
    for scenario in every:
        measure(scenario, work / "out")
    faults, kills, rounds = (135, 135, 20) if is_long else (14, 14, 2)
    todo = [case for scenario in every for case in cases(scenario, faults, kills, draw)]
    todo += [Case(scenario, WRITERS) for scenario in every if scenario.again for _ in range(rounds)]
    draw.shuffle(todo)
    deadline = begin + 60 * float(os.environ.get("MINUTES", "inf"))
    processes = os.cpu_count() or 1
    context = multiprocessing.get_context("fork")
    pipes = []
    for number in range(processes):
        receiver, sender = context.Pipe(duplex=False)
        arguments = (number, processes, work, todo, data, deadline, sender)
        context.Process(target=share, args=arguments).start()
        sender.close()
        pipes.append(receiver)
    table: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    wrong = []
    while pipes:
        for pipe in multiprocessing.connection.wait(pipes):
            try:
                scenario_name, kind, outcome, fault, label = pipe.recv()
            except EOFError:
                pipes.remove(pipe)
                continue
            table[scenario_name, kind].update(["cases", outcome])
            if fault:
                table[scenario_name, kind].update(["wrong"])
                wrong.append(f"{label}: {fault}")
                print(f"WRONG {label}: {fault}", flush=True)
    show(table)
    total = sum(counter["cases"] for counter in table.values())
    print(f"{total} cases in {time.monotonic() - begin:.0f} s, seed {seed}: {len(wrong)} wrong")
    (work / "result.json").write_text(
        json.dumps({" / ".join(key): dict(value) for key, value in table.items()}, indent=1)
    )
    return 1 if wrong else 0


def show(table: dict[tuple[str, str], collections.Counter[str]]) -> None:
    heads = ("faults", "kills at a call", "kills at any moment", "two writers", "other", "wrong")
    kinds = {"fault": 0, "kill": 1, "moment": 2, WRITERS: 3}
    rows: dict[str, list[int]] = collections.defaultdict(lambda: [0] * len(heads))
    outcomes: collections.Counter[str] = collections.Counter()
    for (name, kind), counter in table.items():
        missed = counter[NOT_DISTURBED]
        rows[name][kinds.get(kind, 4)] += counter["cases"] - missed
        rows[name][4] += missed
        rows[name][-1] += counter["wrong"]
        for outcome, n in counter.items():
            if outcome not in ("cases", "wrong"):
                outcomes[outcome] += n
    rows["sum"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    print("| | " + " | ".join(heads) + " |")
    print("|---|" + "---:|" * len(heads))
    for name, numbers in rows.items():
        print(f"| {name} | " + " | ".join(f"{n:,}" for n in numbers) + " |")
    print(
        "How the disturbed runs ended: " + ", ".join(f"{n} {o}" for o, n in outcomes.most_common())
    )


if __name__ == "__main__":
    folder, *words = sys.argv[1:]
    numbers = [int(word) for word in words if word.isdecimal()]
    commands = [word for word in words if not word.isdecimal() and word != "long"]
    sys.exit(
        campaign(
            Path(folder).resolve(), "long" in words, (numbers or [1])[0], (commands or [""])[0]
        )
    )
