"""The C library as C programs use it: installed, found by pkg-config, linked both ways."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import folders, jpegs, oracle, paths

ALEXNET = oracle.Spec(size=(256, 256), crop=(224, 224))


@pytest.mark.slow
def test_the_example_finds_pillows_bytes(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    environment = {
        **os.environ,
        "CFLAGS": "-O1",
        "PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig"),
        "LD_LIBRARY_PATH": str(prefix / "lib"),
    }

    def run(*command: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            command, cwd=paths.ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    run("make", "install-c", f"PREFIX={prefix}")
    shared = run("pkg-config", "--cflags", "--libs", "zoofast").split()
    static = [f"-I{prefix}/include", str(prefix / "lib/libzoofast.a"), "-lm", "-pthread"]
    run("c++", "-Wall", "-Werror", "-fsyntax-only", "-x", "c++", prefix / "include/zoofast.h")
    image, tensor, other = tmp_path / "a.jpeg", tmp_path / "a.bin", tmp_path / "other.bin"
    data = jpegs.jpeg(300, 420, 1, subsampling=2)
    image.write_bytes(data)
    expected = folders.tensor(data, ALEXNET)
    assert expected.shape == (3, 224, 224)
    tensor.write_bytes(expected.tobytes())
    other.write_bytes((expected * 1.0000001).tobytes())
    for libraries in (shared, static):
        run("cc", "-Wall", "-Werror", "examples/prepare.c", *libraries, "-o", tmp_path / "prepare")
        said = run(tmp_path / "prepare", image, tensor)
        assert said == "420x300 pixels, decoder baseline: equal\n"
        assert run(tmp_path / "prepare", image, other, code=1).endswith("different\n")
    sanitized = ("-g", "-fsanitize=address,undefined", "examples/prepare.c", *static)
    run("cc", *sanitized, "-o", tmp_path / "prepare")
    run(tmp_path / "prepare", image, tensor)
    run(tmp_path / "prepare", tensor, tensor, code=2)  # no JPEG; a leak ends with another code
