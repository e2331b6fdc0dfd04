"""The C core's own checks: compiled here, and for aarch64 where its compiler and qemu are."""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.support import folders, jpegs, native, once, oracle
from zoofast import _core
from zoofast.preprocess import recipe


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("build", "rounds", "level"), [("checked", 500, "scalar"), ("aarch64", 300, "neon")]
)
def test_kernels_equal_scalar(made: once.Once, build: str, rounds: int, level: str) -> None:
    out = run(*native.program(made, "kernels", build), str(rounds))
    assert f"{level}: {rounds} rounds" in out


def crc(planes: np.ndarray) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(planes)):08x}"


def write_files(folder: Path) -> dict[str, str]:
    """Small JPEGs of every kind that the decoder knows, and what it must print for each."""
    expected = {}
    for i, (quality, sampling) in enumerate(
        (quality, sampling) for quality in (15, 75, 97) for sampling in ("4:4:4", "4:2:2", "4:2:0")
    ):
        for height, width in ((1, 1), (17, 33), (40, 9), (64, 67)):
            data = jpegs.jpeg(height, width, i, quality=quality, subsampling=sampling)
            path = folder / f"{quality}-{i}-{height}x{width}.jpg"
            path.write_bytes(data)
            planes = oracle.pixels(data).transpose(0, 2, 1)
            expected[str(path)] = crc(planes)
    path = folder / "gray.jpg"
    path.write_bytes(jpegs.gray_jpeg(30, 41, quality=90))
    expected[str(path)] = crc(oracle.pixels(path.read_bytes())[:, :, 0])
    for i, (height, width) in enumerate(((1, 1), (30, 41), (64, 100))):
        data = jpegs.jpeg(height, width, i, progressive=True, subsampling=i, quality=90)
        path = folder / f"progressive{i}.jpg"
        path.write_bytes(data)
        expected[str(path)] = crc(oracle.pixels(data).transpose(0, 2, 1))
    path = folder / "several_scans.jpg"
    path.write_bytes(jpegs.craft(30, 41, jpegs.SAMPLINGS["4:2:0"], separate_scans=True))
    expected[str(path)] = crc(oracle.pixels(path.read_bytes()).transpose(0, 2, 1))
    path = folder / "empty.jpg"
    path.write_bytes(b"")
    expected[str(path)] = "unsupported"
    return expected


def printed(command: list[str], files: dict[str, str]) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in run(*command, *files).splitlines())


def test_decoder_equals_pillow(made: once.Once, tmp_path: Path, isa: str) -> None:
    files = write_files(tmp_path)
    assert printed([*native.program(made, "decode", "checked"), isa], files) == files


@pytest.mark.parametrize("level", ["scalar", "neon"])
def test_decoder_equals_pillow_on_aarch64(made: once.Once, tmp_path: Path, level: str) -> None:
    files = write_files(tmp_path)
    assert printed([*native.program(made, "decode", "aarch64"), level], files) == files


@pytest.mark.parametrize(("build", "level"), [("checked", _core.isa()), ("aarch64", "neon")])
def test_tensors_equal_pillows(made: once.Once, tmp_path: Path, build: str, level: str) -> None:
    """Every sampling through all decoders, and pictures that each order of passes changes."""
    files = {f"{i}.JPEG": jpegs.craft(60, 70, f, i) for i, f in enumerate(jpegs.SAMPLINGS.values())}
    for i in range(4):
        files[f"baseline{i}.JPEG"] = jpegs.jpeg(90 + 60 * i, 70, i, subsampling=i % 3)
        files[f"progressive{i}.JPEG"] = jpegs.jpeg(50, 90, i, subsampling=i % 3, progressive=True)
        files[f"gray{i}.JPEG"] = jpegs.gray_jpeg(50 + i, 90, i)
    folders.write(tmp_path / "in", files)
    order = str(_core.PASS_ORDERS[recipe.resize_order()])
    command = [*native.program(made, "prepare", build), level, order, "3", "40", "32"]
    done = subprocess.run(
        [*command, *(tmp_path / "in" / name for name in files)], capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"".join(folders.tensor(data).tobytes() for data in files.values())


def run_under_tsan(made: once.Once, *arguments: str | Path) -> None:
    command = native.program(made, "threads", "threads")
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_pool_has_no_data_race(made: once.Once, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    files = {f"{i}.JPEG": jpegs.jpeg(60 + 9 * i, 70, i, progressive=i == 3) for i in range(6)}
    folders.write(tmp_path / "in", files)
    images = sorted((tmp_path / "in").iterdir())
    run_under_tsan(made, "pool", tmp_path / "out", *images)


def test_reading_results_has_no_data_race(made: once.Once, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for i in range(90):
        row = rng.standard_normal(50)
        (tmp_path / f"img{i}_0.txt").write_text(" ".join(f"{x:f}" for x in row) + " ")
    names = [path.name for path in tmp_path.iterdir()]
    run_under_tsan(made, "read", tmp_path, *names)
