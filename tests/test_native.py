"""The C core's own checks: compiled here, and for aarch64 where its compiler and qemu are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
SANITIZE = ["-g", "-fsanitize=undefined", "-fno-sanitize-recover=undefined"]


def build_kernels(compiler: str, binary: Path, *flags: str) -> None:
    sources = [ROOT / "csrc/cpu.c", ROOT / "csrc/resample.c"]
    sources += sorted((ROOT / "csrc").glob("kernels_*.c"))
    command = [compiler, *FLAGS, *flags, "-I", ROOT / "csrc", ROOT / "tests/native/kernels.c"]
    subprocess.run([*command, *sources, "-lm", "-o", binary], check=True)


def test_kernels_equal_scalar(tmp_path: Path) -> None:
    build_kernels("cc", tmp_path / "kernels", *SANITIZE)
    done = subprocess.run([tmp_path / "kernels", "500"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "scalar: 500 rounds" in done.stdout


def test_kernels_equal_scalar_on_aarch64(tmp_path: Path) -> None:
    compiler, qemu = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or qemu is None:
        pytest.skip("needs aarch64-linux-gnu-gcc and qemu-aarch64")
    build_kernels(compiler, tmp_path / "kernels", "-static")
    done = subprocess.run([qemu, tmp_path / "kernels", "300"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "neon: 300 rounds" in done.stdout
