"""The emulation of libascendcl.so beside the golden files: built once a run; its model files.

Its settings are read once in a process, so what uses it runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import models, once, paths

MAIN = "from zoofast.cli import main; sys.exit(main())"
SOURCE = paths.SHARED / "acl-emulator"
WAIT_TIMED_OUT = "EMU507047"


@dataclass(frozen=True)
class Emulator:
    """library: its libascendcl.so."""

    library: Path

    def environment(self, **settings: object) -> dict[str, str]:
        """The environment of a process that finds the library. settings: FAULT="h2d:1=207001"…"""
        return {
            **{name: value for name, value in os.environ.items() if "ASCEND" not in name},
            "ZOOFAST_ACL_LIB": str(self.library),
            "ACLEMU_PYDIR": str(SOURCE),
            "ACLEMU_ORT_THREADS": "1",
            **{f"ACLEMU_{name}": str(value) for name, value in settings.items()},
        }

    def start(self, *words: str | Path, **settings: object) -> subprocess.Popen[str]:
        """`zoofast` with `words`, that runs on."""
        return subprocess.Popen(
            [sys.executable, "-c", f"import sys; {MAIN}", *map(str, words)],
            env=self.environment(**settings),
            cwd=paths.ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *words: str | Path, timeout: float = 600, **settings: object
    ) -> subprocess.CompletedProcess[str]:
        """`zoofast` with `words`."""
        return self.python(MAIN, *words, timeout=timeout, **settings)

    def python(
        self, code: str, *words: str | Path, timeout: float = 600, **settings: object
    ) -> subprocess.CompletedProcess[str]:
        """A Python program, which has `sys`.

        On a slow machine a wait of a second may end early, and zoofast waits again. What the
        library prints then is left out of standard error.
        """
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {code}", *map(str, words)],
            env=self.environment(**settings),
            cwd=paths.ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        lines = done.stderr.splitlines(keepends=True)
        done.stderr = "".join(line for line in lines if f"ERROR {WAIT_TIMED_OUT}:" not in line)
        return done


def build(made: once.Once, kind: str = "") -> Emulator:
    """kind: "", "asan" or "tsan". Skips where the emulator's source or g++ is missing."""
    if not (SOURCE / "build.sh").is_file():
        pytest.skip(f"no emulation of ACL at {SOURCE}; set ZOOFAST_SHARED")
    if shutil.which("g++") is None:
        pytest.skip("the emulation of ACL needs g++")

    if "ACLEMU_OUT" in os.environ:  # a build for several runs
        made = once.Once(Path(os.environ["ACLEMU_OUT"]).absolute())

    def make(folder: Path) -> None:
        words = ["sh", str(SOURCE / "build.sh"), *filter(None, [kind])]
        # The last -O counts. Without optimization, compiling takes half as long.
        compiler = folder / "c++"
        compiler.write_text('#!/bin/sh\nexec g++ "$@" -O0\n')
        compiler.chmod(0o755)
        environment = {**os.environ, "ACLEMU_OUT": str(folder), "CXX": str(compiler)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    folder = made(f"acl-emulator{kind}", make)
    return Emulator(folder / f"build{kind and '-'}{kind}" / "libascendcl.so")


def write_om(
    path: Path,
    *,
    batch: int | None = 4,
    image: tuple[int, ...] = models.IMAGE,
    dtype: str = "float32",
    classes: int = models.CLASSES,
    onnx: str = "",
    **more: Any,
) -> str:
    """A classifier with a batch size, or with the gears of `more`. onnx: what it computes; empty:
    numbers that depend on each sample's bytes."""
    spec = {
        "aclemu_om": 1,
        "name": path.stem,
        "onnx": onnx,
        "inputs": [{"name": "image", "dtype": dtype, "shape": [batch or -1, *image]}],
        "outputs": [{"name": "class", "dtype": "float32", "shape": [batch or -1, classes]}],
        **more,
    }
    path.write_text(json.dumps(spec))
    return str(path)
