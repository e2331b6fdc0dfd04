"""The commands and code of the pages: they parse, they run, and they print what the pages show.

The test reads the README and docs/*.md:

- Every `zoofast …` command, in a console block or in the text, is parsed by the command line's own
  parser.
- Every ```console block is run line by line, in a folder with small data, unless the line above
  it is `<!-- not run: REASON -->`. The blocks of one page run in order, in one folder. A line of
  shown output must be a line of the real output.
- Every ```python block without such a line is run, also in order. `print(x)  # text` must print
  that text; a loop may print it several times.
- A ```toml block is saved as `my.toml` for the commands.

The folder holds the names that the pages use: see `make_data`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import zoofast
from tests.support import fake_aclruntime, folders, jpegs, paths
from zoofast.cli import COMMANDS, main

PAGES = [paths.ROOT / "README.md", *sorted((paths.ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"`(zoofast [^`]+)`")
IMAGES = 8
CLASSES = 1000


class Command(NamedTuple):
    """One `$` line of a console block, and the output shown below it."""

    line: str
    shown: list[str]


def name_of(page: Path) -> str:
    return page.relative_to(paths.ROOT).as_posix()


def blocks(page: Path, kind: str) -> Iterator[tuple[str, bool]]:
    """(text, whether it is to be run) of the page's blocks of one kind."""
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if match["kind"] == kind:
            yield match["text"], match["reason"] is None


def commands(text: str) -> list[Command]:
    """The commands of a console block; a command goes on after a backslash."""
    found: list[Command] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], []))
        elif line.strip():
            found[-1].shown.append(line)
    return found


def words_of(command: str) -> list[str]:
    """The words of a shell command, without redirections and pipes."""
    return shlex.split(re.split(r" (?:2?>|\|) ", command)[0], comments=True)


# ---- every command parses --------------------------------------------------------------


def named_commands(page: Path) -> Iterator[str]:
    """All `zoofast …` commands of a page that have arguments."""
    text = page.read_text(encoding="utf-8")
    for block, _ in blocks(page, "console"):
        yield from (command.line for command in commands(block))
    yield from INLINE.findall(BLOCK.sub("", text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_parses(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in named_commands(page):
        program, *words = words_of(command)
        if program != "zoofast" or words[0].startswith("-"):
            continue
        assert words[0] in COMMANDS, command
        if len(words) == 1:
            continue  # the text names the subcommand
        monkeypatch.setattr(f"zoofast.commands.{words[0]}.run", lambda args: 0)
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
            if main(words) == 0:
                continue
        pytest.fail(f"{command}: {errors.getvalue()}")


# ---- every command runs -----------------------------------------------------------------


def write_classifier(path: Path, shape: list[int | str], dtype: int) -> None:
    """A classifier of 1000 classes that looks at the mean of each channel."""
    weights = np.random.default_rng(3).standard_normal((3, CLASSES)).astype(np.float32)
    axes = [2, 3] if shape[1] == 3 else [1, 2]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["real"], ["mean"], axes=axes, keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["class"]),
        ],
        "classifier",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info("class", TensorProto.FLOAT, [shape[0], CLASSES])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 11)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def make_data(folder: Path) -> None:
    """What the pages read: images, labels, results, models (ONNX and .om), a stand-in NPU."""
    (folder / "imagenet/val").mkdir(parents=True)
    lines = []
    for i in range(IMAGES):
        name = f"ILSVRC2012_val_{i + 1:08d}.JPEG"
        (folder / "imagenet/val" / name).write_bytes(jpegs.jpeg(300, 280 + i, i))
        lines.append(f"{name} {i}\n")
    folders.age(folder / "imagenet/val")
    (folder / "imagenet/val_label.txt").write_text("".join(lines))
    with tarfile.open(folder / "imagenet/val.tar", "w") as archive:
        archive.add(folder / "imagenet/val", "val")
    floats, pixels = TensorProto.FLOAT, TensorProto.UINT8
    write_classifier(folder / "squeezenet1_1.onnx", ["N", 3, 224, 224], floats)
    write_classifier(folder / "resnet34.onnx", ["N", 3, 224, 224], floats)
    write_classifier(folder / "resnet34_bs8.om", [8, 3, 224, 224], floats)
    write_classifier(folder / "squeezenet1_1_bs8.om", [8, 224, 224, 3], pixels)
    (folder / "stand-in").mkdir()
    (folder / "stand-in/aclruntime.py").write_text(fake_aclruntime.SHIM)
    (folder / "result").mkdir()
    for i in range(IMAGES):
        scores = np.zeros(CLASSES)
        scores[[i, 999]] = 2, i // 6 * 3  # the last two images are class 999 for this model
        text = " ".join(f"{score:f}" for score in scores)
        (folder / f"result/ILSVRC2012_val_{i + 1:08d}_0.txt").write_text(text)


def environment(folder: Path) -> dict[str, str]:
    tools = Path(sys.executable).parent
    return os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": f"{folder / 'stand-in'}:{paths.ROOT}",
        "FAKE_ACLRUNTIME": "G3",
        "COLUMNS": "100",
    }


def normal(line: str) -> str:
    """A line without the borders and the widths of a table's columns."""
    return " ".join(re.sub(r"[│┃]", " ", line).split())


def with_blocks(kind: str) -> list[Path]:
    return [page for page in PAGES if any(run for _, run in blocks(page, kind))]


@pytest.mark.parametrize("page", with_blocks("console"), ids=name_of)
def test_every_console_block_runs(page: Path, tmp_path: Path) -> None:
    make_data(tmp_path)
    for text, _ in blocks(page, "toml"):
        (tmp_path / "my.toml").write_text(text)
    for text, run in blocks(page, "console"):
        if not run:
            continue
        for line, shown in commands(text):
            done = subprocess.run(
                ["sh", "-c", line],
                cwd=tmp_path,
                env=environment(tmp_path),
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
            printed = {normal(each) for each in (done.stdout + done.stderr).splitlines()}
            for each in shown:
                assert normal(each) in printed, f"$ {line}\n{each}\n{done.stdout}"


def once(lines: list[str]) -> list[str]:
    """The lines without repetitions, which loops make."""
    return [line for line, _ in itertools.groupby(lines)]


@pytest.mark.parametrize("page", with_blocks("python"), ids=name_of)
def test_every_python_block_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for text, run in blocks(page, "python"):
        if not run:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, str(page), "exec"), names)
        expected = re.findall(r"^ *print\(.*\)  # (.*)$", text, re.MULTILINE)
        assert once(printed.getvalue().splitlines()) == once(expected)


def test_the_pages_have_commands_and_code() -> None:
    assert len(PAGES) > 7
    assert sum(len(list(named_commands(page))) for page in PAGES) > 60
    assert with_blocks("python")


def test_the_readme_is_short() -> None:
    assert len((paths.ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700


def test_the_api_page_names_everything_public() -> None:
    page = (paths.ROOT / "docs/api.md").read_text(encoding="utf-8")
    for name in zoofast.__all__:
        assert re.search(rf"^\|.*`{name}\b.*\|$", page, re.MULTILINE), name


def anchors(page: Path) -> set[str]:
    """The names by which links reach the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", sorted([*paths.ROOT.glob("*.md"), *paths.ROOT.glob("*/*.md")]), ids=name_of
)
def test_links_lead_to_pages_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_names_every_script_of_the_guides() -> None:
    table = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    patterns = re.findall(r"`([*\w]+\.py)`", table)
    scripts = {path.name for path in (paths.ROOT / "tools/guides").glob("*/*.py")}
    assert len(scripts) > 10
    for script in scripts:
        assert any(fnmatch.fnmatch(script, pattern) for pattern in patterns), script
    page = paths.ROOT / "docs/guides.md"
    assert {
        path.name.lower() for path in (paths.ROOT / "tools/guides").iterdir() if path.is_dir()
    } <= (anchors(page))
