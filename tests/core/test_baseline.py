"""Our JPEG decoders against libjpeg-turbo and, kernel by kernel, against scalar C."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import native, once, paths


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("build", "rounds", "level"), [("checked", 200, "scalar"), ("aarch64", 100, "neon")]
)
def test_kernels_equal_scalar(made: once.Once, build: str, rounds: int, level: str) -> None:
    out = run(*native.program(made, "jpeg_kernels", build), str(rounds))
    assert f"{level}: {rounds} rounds" in out


@pytest.fixture(scope="module")
def decoder(made: once.Once) -> list[str]:
    return native.program(made, "jpeg_decoder", "checked", "-ljpeg")


def test_random_pictures_equal_libjpeg(decoder: list[str]) -> None:
    """Whole and in windows, every level; damaged ones are never taken where libjpeg warns."""
    out = run(*decoder, "-n", "150", "-s", "20")
    assert out.endswith(" 0 pictures failed\n")
    assert int(out.split()[0]) > 3_000, out


def test_sample_equals_libjpeg(decoder: list[str]) -> None:
    files = sorted((paths.SHARED / "imagenet-sample/val").rglob("*.JPEG"))[::6]
    if not files:
        pytest.skip("needs the ImageNet sample")
    assert " 0 refused, 0 pictures failed" in run(*decoder, *files)
