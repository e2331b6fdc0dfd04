"""The baseline JPEG decoder against libjpeg-turbo and, kernel by kernel, against scalar C."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import paths

FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def build(compiler: str, program: str, binary: Path, *flags: str) -> Path:
    """Compiles native/`program` with the decoder; flags come last."""
    sources = [paths.ROOT / "tests/core/native" / program, paths.ROOT / "csrc/levels.c"]
    sources += [paths.ROOT / "csrc/jpeg_entropy.c"]
    sources += sorted((paths.ROOT / "csrc").glob("jpeg_pixels*.c"))
    if program == "jpeg_decoder.c":
        sources += [paths.ROOT / "csrc/jpeg_baseline.c", paths.ROOT / "csrc/jpeg_header.c"]
    include = ["-I", paths.ROOT / "csrc", "-I", paths.ROOT / "tests/core/native"]
    subprocess.run([compiler, *FLAGS, *include, *sources, "-o", binary, *flags], check=True)
    return binary


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kernels_equal_scalar(tmp_path: Path) -> None:
    binary = build("cc", "jpeg_kernels.c", tmp_path / "kernels", *SANITIZE)
    assert "scalar: 200 rounds" in run(binary, "200")


def test_kernels_equal_scalar_on_aarch64(tmp_path: Path) -> None:
    compiler, qemu = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or qemu is None:
        pytest.skip("needs aarch64-linux-gnu-gcc and qemu-aarch64")
    binary = build(compiler, "jpeg_kernels.c", tmp_path / "kernels", "-static")
    assert "neon: 100 rounds" in run(qemu, binary, "100")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("native") / "decoder"
    return build("cc", "jpeg_decoder.c", binary, *SANITIZE, "-ljpeg")


def test_random_pictures_equal_libjpeg(decoder: Path) -> None:
    """Whole and in windows, every level; damaged ones are never taken where libjpeg warns."""
    out = run(decoder, "-n", "150", "-s", "20")
    assert out.endswith(" 0 pictures failed\n")
    assert int(out.split()[0]) > 3_000, out


def test_sample_equals_libjpeg(decoder: Path) -> None:
    files = sorted((paths.SHARED / "imagenet-sample/val").rglob("*.JPEG"))[::6]
    if not files:
        pytest.skip("needs the ImageNet sample")
    assert " 0 refused, 0 pictures failed" in run(decoder, *files)
