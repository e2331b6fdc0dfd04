"""What every command writes, where it is written: terminals of any encoding, pipes, full disks."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support import folders, in_process
from zoofast.base.text import counted, listed, shown
from zoofast.cli import main
from zoofast.commands.shared import console

ZOOFAST = str(Path(sysconfig.get_path("scripts")) / "zoofast")
# A window title, colours, a line break, the 8-bit CSI, right to left, markup, no UTF-8.
HOSTILE = os.fsdecode(b"a\x1b]0;owned\x07\x1b[31m\n\xc2\x9b\xe2\x80\xae[/red]\xff")
ESCAPED = r"a\x1b]0;owned\x07\x1b[31m\n\x9b\u202e[/red]\xff"
FILE_NAME = HOSTILE.replace("\n", "").replace("/", "|")
CONTROL = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HOSTILE, ESCAPED),
        ("plain µ → 猫 é.JPEG", "plain µ → 猫 é.JPEG"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
        ("\u2028\u200b\ufeff", r"\u2028\u200b\ufeff"),
        ("a\tb\r", r"a\tb\r"),
        ("\ud800", r"\ud800"),
        ("", ""),
    ],
)
def test_a_name_is_shown_without_commands_to_the_terminal(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_plurals_and_lists() -> None:
    assert [counted(n, "thread") for n in (0, 1, 2000)] == [
        "0 threads",
        "1 thread",
        "2,000 threads",
    ]
    assert counted(2, "class", "classes") == "2 classes"
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c"], 1) == "a and 2 more"


def test_a_table_holds_plain_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # no text is broken
    table = console.Table("[b]name", HOSTILE, title=HOSTILE, words=2)
    table.add(HOSTILE, console.stacked("[red]x[/red]", HOSTILE))
    table.print()
    out = capsys.readouterr().out
    assert not CONTROL.search(out)
    assert "[red]x[/red]" in out and "[b]name" in out
    assert out.count(ESCAPED) == 4


@pytest.mark.parametrize("columns", [10, 40, 200])
def test_a_table_never_cuts_numbers(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table = console.Table("name", "rate", "difference")
    table.add("a name that is longer than most", "12,345,678.9", "-0.123456789")
    table.print()
    out = capsys.readouterr().out
    assert "12,345,678.9" in out and "-0.123456789" in out
    assert "…" not in out
    table = console.Table(*["one", "two", "three", "four", "five", "six", "seven"], words=0)
    table.add(*(f"{i}.23456789" for i in range(7)))
    table.print()
    out = capsys.readouterr().out
    assert all(f"{i}.23456789" in out for i in range(7))
    assert len({len(line) for line in out.splitlines()}) == 1  # no line is cut


@pytest.mark.parametrize("columns", ["0", "00", "-3", "²", "wide", "9" * 5000])
def test_a_columns_that_is_no_width_is_as_none(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    assert main(["models", "alexnet"]) == 0
    expected = capsys.readouterr().out
    for name in ("COLUMNS", "LINES"):
        monkeypatch.setenv(name, columns)
    assert main(["models", "alexnet"]) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    "path", sorted(Path(console.__file__).parents[1].rglob("*.py")), ids=lambda path: path.name
)
def test_only_the_console_prints(path: Path) -> None:
    """So that every text is escaped."""
    if path.name == "console.py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno}: use say or warn"
        if isinstance(node, ast.ImportFrom):
            assert not str(node.module).startswith("rich.table"), f"{path}:{node.lineno}"
            assert not str(node.module).startswith("rich.console"), f"{path}:{node.lineno}"


# ---- all commands ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with something to work on for every command; one image is bad."""
    top = tmp_path_factory.mktemp("place")
    files = folders.good_files(3)
    folders.write(top / "images", {**files, f"{FILE_NAME}.JPEG": b"no image"})
    folders.recipe_file(top)
    (top / "labels.txt").write_text("".join(f"{name} {i}\n" for i, name in enumerate(files)))
    for folder in ("bins", "results"):
        (top / folder).mkdir()
    for i, name in enumerate(files):
        stem = name.removesuffix(".JPEG")
        np.zeros((3, 8, 8), np.float32).tofile(top / "bins" / f"{stem}.bin")
        scores = " ".join(f"{(i == j) + 0.5:f}" for j in range(5))
        (top / "results" / f"{stem}_0.txt").write_text(f"{scores} ")
    (top / "results" / f"{FILE_NAME}_0.txt").write_text("nothing")
    (top / "stubs").mkdir()  # packages that take seconds to import
    for package in ("torch", "torchvision", "pretrainedmodels", "onnxsim"):
        (top / "stubs" / f"{package}.py").write_text("")
    return top


RECIPE = ["--recipe", "recipe.toml"]
SIM = ["--recipe", "squeezenet1_1", "--sim-fps", "1e6", "--batchsize", "2"]
# command -> arguments, exit code
COMMANDS: dict[str, tuple[list[str], int]] = {
    "prep": (["images", "{out}", *RECIPE], 1),
    "eval": (["any", "images", "labels.txt", *SIM], 1),
    "infer": (["-m", "1x3x8x8:float32:5", "--backend", "null", "-i", "bins"], 0),
    "bench": (
        ["-m", "{{bs}}x8:float32:5", "--backend", "null", "--batchsize", "1,2", "-l", "3"],
        0,
    ),
    "score": (["results", "labels.txt"], 1),
    "compare": (["results", "results", "labels.txt", "--max-flips", "0"], 1),
    "profile": (["images", *RECIPE, "--seconds", "0.01", "--images", "4", "--only-recipe"], 1),
    "aipp": (["squeezenet1_1", "-o", "{out}.config"], 0),
    "atc": ([f"{HOSTILE}.onnx", "--recipe", "resnet34", "--soc", "310P3", "--dry-run"], 0),
    "models": ([], 0),
    "doctor": ([], -1),
    "export": (["alexnet", "--weights", HOSTILE], 2),
    "simplify": ([HOSTILE, "-o", "{out}.onnx"], 2),
    "optimize": ([HOSTILE, "-o", "{out}.onnx", "-k", "x"], 2),
    "convert": (["alexnet", "--weights", HOSTILE], 2),
}


@pytest.fixture
def command(place: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    def line(name: str) -> list[str]:
        (tmp_path / "o[").mkdir(exist_ok=True)
        out = str(tmp_path / "o[/red]")
        return [ZOOFAST, name, *(word.format(out=out) for word in COMMANDS[name][0])]

    return line


def check(name: str, code: int, text: str) -> None:
    expected = COMMANDS[name][1]
    assert code in ((0, 1) if expected < 0 else (expected,)), text
    assert "Traceback" not in text and "Exception ignored" not in text


def on_terminal(line: list[str], cwd: Path, **env: str) -> tuple[int, str]:
    """Exit code and output of a command whose output is a terminal."""
    terminal, other = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", **env}
    process = subprocess.Popen(line, stdout=other, stderr=other, cwd=cwd, env=environment)
    os.close(other)
    seen, began = b"", time.monotonic()
    while time.monotonic() - began < 300:
        if select.select([terminal], [], [], 1)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:  # the command has ended
                break
    os.close(terminal)
    return process.wait(timeout=300), seen.decode("utf-8")


def test_work_without_a_count_shows_the_elapsed_time(
    place: Path, command: Callable[[str], list[str]]
) -> None:
    _, text = on_terminal(command("doctor"), place)
    assert re.search(r"examining this machine \S*0:00:0", text), text


@pytest.mark.parametrize("name", COMMANDS)
def test_names_never_command_a_terminal(
    name: str, place: Path, command: Callable[[str], list[str]]
) -> None:
    code, text = on_terminal(command(name), place, PYTHONPATH=str(place / "stubs"))
    check(name, code, text)
    assert "\x1b]" not in text and "\x9b" not in text and "\u202e" not in text
    assert "\x1b[31m\\n" not in text and "a\x1b" not in text
    if COMMANDS[name][1] > 0 and name != "compare":
        assert "owned" in text and r"\x1b]0;owned\x07" in text


@pytest.mark.parametrize("encoding", ["gbk", "latin-1", "ascii"])
@pytest.mark.parametrize("name", ["prep", "eval", "score", "profile", "models", "convert"])
def test_any_encoding(
    name: str,
    encoding: str,
    place: Path,
    command: Callable[[str], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    done = in_process.zoofast(*command(name)[1:], encoding=encoding)
    check(name, done.returncode, done.stdout + done.stderr)
    if name == "prep":
        text = done.stdout
        assert ("µs/image" if encoding == "latin-1" else "us/image") in text
        assert ("→ " if encoding == "gbk" else "-> ") in text
        assert r"\x1b]0;owned" in done.stderr  # the list of failures is there


def test_the_encoding_of_a_process(place: Path, command: Callable[[str], list[str]]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "gbk"}
    done = subprocess.run(
        command("score"), capture_output=True, cwd=place, env=environment, timeout=300
    )
    check("score", done.returncode, (done.stdout + done.stderr).decode("gbk"))


@pytest.mark.parametrize("name", ["prep", "infer", "score", "models", "export"])
def test_a_closed_pipe_ends_quietly(
    name: str, place: Path, command: Callable[[str], list[str]]
) -> None:
    process = subprocess.Popen(
        command(name), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=place, text=True
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    text = process.stderr.read()
    process.stderr.close()
    check(name, process.wait(timeout=300), text)
    assert "pipe" not in text.lower()


@pytest.mark.parametrize("name", ["prep", "infer", "score", "models", "bench"])
def test_a_full_disk_behind_standard_output_is_one_line(
    name: str, place: Path, command: Callable[[str], list[str]]
) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(name), stdout=full, stderr=subprocess.PIPE, cwd=place, text=True, timeout=300
        )
    assert done.returncode == 2
    *others, last = done.stderr.splitlines()
    assert last == "zoofast: error: standard output: No space left on device"
    assert all(line.startswith("zoofast: ") for line in others)


def test_a_full_disk_behind_standard_error_changes_nothing(
    place: Path, command: Callable[[str], list[str]]
) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("score"), stderr=full, stdout=subprocess.PIPE, cwd=place, timeout=300
        )
    assert done.returncode == 1
    assert b"scored 3 of" in done.stdout


@pytest.mark.parametrize("stream", [1, 2])
def test_closed_streams(stream: int, place: Path, command: Callable[[str], list[str]]) -> None:
    shell = 'exec "$@" ' + f"{stream}>&-"
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *command("models")], capture_output=True, cwd=place, text=True
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_result_on_a_closed_standard_output_is_an_error(
    place: Path, command: Callable[[str], list[str]]
) -> None:
    words = ["sh", "-c", 'exec "$@" >&-', "sh", *command("score"), "--json", "-"]
    done = subprocess.run(words, capture_output=True, cwd=place, text=True)
    assert done.returncode == 2
    assert done.stderr == ("zoofast: error: standard output is closed; name a file instead of -\n")


@pytest.mark.parametrize("name", ["prep", "eval", "infer", "bench", "score", "compare", "profile"])
def test_json_on_standard_output_stands_alone(
    name: str,
    place: Path,
    command: Callable[[str], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    done = in_process.zoofast(*command(name)[1:], "--json", "-")
    check(name, done.returncode, done.stderr)
    assert isinstance(json.loads(done.stdout), dict)
    assert len(done.stderr.splitlines()) > 1  # what people read
    assert not (place / "-").exists()


@pytest.mark.parametrize("words", [["models", "resnet34"], ["doctor"]], ids=str)
def test_json_replaces_a_list(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zoofast.doctor.PACKAGES", {"numpy": ("numpy", "arrays", "pip")})
    texts = []
    for more in (["--json"], ["--json", "-"], ["--json", "x.json"]):
        assert main([*words, *more]) in (0, 1)
        texts.append(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.json"]
    texts.append((tmp_path / "x.json").read_text())
    names = [[entry["name"] for entry in json.loads(texts[i])] for i in (0, 1, 3)]
    assert names[0] == names[1] == names[2]
    assert names[0][0] in texts[2]  # the table


def test_a_model_is_not_the_file_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["models", "--json", "resnet34"])
    assert "write `zoofast models resnet34 --json`" in capsys.readouterr().err


def test_only_one_result_goes_to_standard_output(
    place: Path, command: Callable[[str], list[str]]
) -> None:
    done = subprocess.run(
        [*command("score"), "--json", "-", "-o", "-"], capture_output=True, cwd=place, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "only one result" in done.stderr and done.stderr.count("\n") == 1


def test_devices_are_written_to_and_not_replaced(
    place: Path, command: Callable[[str], list[str]]
) -> None:
    read, write = os.pipe()
    line = [*command("score"), "--json", f"/dev/fd/{write}", "-o", "/dev/null"]
    done = subprocess.run(line, capture_output=True, cwd=place, pass_fds=[write])
    os.close(write)
    with os.fdopen(read) as pipe:
        assert json.loads(pipe.read())["images"] == 3
    assert done.returncode == 1
    assert not Path("/dev/null").is_file()


# ---- interrupts ------------------------------------------------------------------------

HANGING = """
import signal, sys, threading, time
from zoofast import cli
from zoofast.commands import models
cli.EXIT_SECONDS = float(sys.argv.pop(1))
def run(args):
    threading.Thread(target=time.sleep, args=(600,)).start()  # as one in a device's call
    print("working", flush=True)
    time.sleep(600)
models.run = run
sys.exit(cli.main())
"""


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal, or ignores it."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(re.search(rf"{name}:\s+(\w+)", status)[1], 16) for name in ("SigCgt", "SigIgn")]
    return any(mask >> (number - 1) & 1 for mask in masks)


@pytest.mark.parametrize("interrupts", [1, 2])
@pytest.mark.parametrize(
    ("number", "ended"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_thread_that_hangs_does_not_hold_an_interrupt_up(
    number: signal.Signals, ended: int, interrupts: int
) -> None:
    seconds = "0.2" if interrupts == 1 else "600"
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, seconds, "models"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    assert process.stderr.readline() == "zoofast: interrupted\n"
    if interrupts == 2:
        until = time.monotonic() + 300
        while catches(process.pid, number):  # until the first one has been handled
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(number)
    code = process.wait(timeout=300)
    assert code == (ended if interrupts == 1 else -number)
    assert process.stderr.read() == ""
    process.stdout.close()
    process.stderr.close()


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As with nohup."""
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, "0.2", "models"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stdout
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (143, "zoofast: interrupted\n")
