"""The C core's own checks: compiled here, and for aarch64 where its compiler and qemu are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import folders
import jpegs
import pytest

from zoofast import _core, recipe

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


def build_prepare(compiler: str, binary: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    sources = [ROOT / "tests/native/prepare.c", *sorted((ROOT / "csrc").glob("*.c"))]
    command = [compiler, *FLAGS, "-pthread", *flags, "-I", ROOT / "csrc", *sources]
    return subprocess.run(
        [*map(str, command), "-ljpeg", "-lm", "-o", str(binary)], capture_output=True, text=True
    )


def check_prepare(command: list[str | Path], folder: Path) -> None:
    """Every sampling through both decoders, and pictures that each order of passes changes."""
    files = {f"{i}.JPEG": jpegs.craft(60, 70, f, i) for i, f in enumerate(jpegs.SAMPLINGS.values())}
    for i in range(4):
        files[f"baseline{i}.JPEG"] = jpegs.jpeg(90 + 60 * i, 70, i, subsampling=i % 3)
        files[f"progressive{i}.JPEG"] = jpegs.jpeg(50, 90, i, subsampling=i % 3, progressive=True)
        files[f"gray{i}.JPEG"] = jpegs.gray_jpeg(50 + i, 90, i)
    folders.write(folder, files)
    order = str(_core.ORDERS[recipe.resize_order()])
    done = subprocess.run(
        [*command, order, *(folder / name for name in files)], capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"".join(folders.tensor(data).tobytes() for data in files.values())


def test_tensors_equal_pillows(tmp_path: Path) -> None:
    built = build_prepare("cc", tmp_path / "prepare", *SANITIZE)
    assert built.returncode == 0, built.stderr
    check_prepare([tmp_path / "prepare"], tmp_path / "in")


def test_tensors_equal_pillows_on_aarch64(tmp_path: Path) -> None:
    compiler, qemu = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or qemu is None:
        pytest.skip("needs aarch64-linux-gnu-gcc and qemu-aarch64")
    built = build_prepare(compiler, tmp_path / "prepare", "-static")
    if "cannot find -ljpeg" in built.stderr or "jconfig.h" in built.stderr:
        pytest.skip("needs libjpeg-turbo for arm64 (libjpeg62-turbo-dev:arm64)")
    assert built.returncode == 0, built.stderr
    check_prepare([qemu, tmp_path / "prepare"], tmp_path / "in")
