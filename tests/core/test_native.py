"""The C core's own checks: compiled here, and for aarch64 where its compiler and qemu are."""

from __future__ import annotations

import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.support import folders, jpegs, oracle, paths
from zoofast import _core
from zoofast.preprocess import recipe

FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
SANITIZE = ["-g", "-fsanitize=undefined", "-fno-sanitize-recover=undefined"]


def build(compiler: str, binary: Path, program: str, sources: list[str], *flags: str) -> None:
    files = [path for pattern in sources for path in sorted((paths.ROOT / "csrc").glob(pattern))]
    command = [
        compiler,
        *FLAGS,
        *flags,
        "-I",
        paths.ROOT / "csrc",
        paths.ROOT / "tests/core/native" / program,
    ]
    subprocess.run([*command, *files, "-lm", "-o", binary], check=True)


def cross() -> tuple[str, str]:
    """The compiler and the emulator for aarch64."""
    compiler, qemu = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or qemu is None:
        pytest.skip("needs aarch64-linux-gnu-gcc and qemu-aarch64")
    return compiler, qemu


KERNELS = ["levels.c", "resample.c", "kernels_*.c"]
DECODER = ["levels.c", "jpeg_header.c", "jpeg_baseline.c", "jpeg_entropy.c", "jpeg_pixels*.c"]


def test_kernels_equal_scalar(tmp_path: Path) -> None:
    build("cc", tmp_path / "kernels", "kernels.c", KERNELS, *SANITIZE)
    done = subprocess.run([tmp_path / "kernels", "500"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "scalar: 500 rounds" in done.stdout


def test_kernels_equal_scalar_on_aarch64(tmp_path: Path) -> None:
    compiler, qemu = cross()
    build(compiler, tmp_path / "kernels", "kernels.c", KERNELS, "-static")
    done = subprocess.run([qemu, tmp_path / "kernels", "300"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "neon: 300 rounds" in done.stdout


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
    path = folder / "progressive.jpg"
    path.write_bytes(jpegs.jpeg(30, 41, progressive=True))
    expected[str(path)] = "unsupported"
    return expected


def printed(command: list[str | Path], files: dict[str, str]) -> dict[str, str]:
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=True)
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


def test_decoder_equals_pillow(tmp_path: Path, isa: str) -> None:
    build("cc", tmp_path / "decode", "decode.c", DECODER, *SANITIZE)
    files = write_files(tmp_path)
    assert printed([tmp_path / "decode", isa], files) == files


@pytest.mark.parametrize("level", ["scalar", "neon"])
def test_decoder_equals_pillow_on_aarch64(tmp_path: Path, level: str) -> None:
    compiler, qemu = cross()
    build(compiler, tmp_path / "decode", "decode.c", DECODER, "-static")
    files = write_files(tmp_path)
    assert printed([qemu, tmp_path / "decode", level], files) == files


def test_whole_core_compiles_for_aarch64(tmp_path: Path) -> None:
    """All but libjpeg-turbo's part, whose headers are the host's."""
    compiler, _ = cross()
    for source in sorted((paths.ROOT / "csrc").glob("*.c")):
        if source.name != "jpeg_turbo.c":
            command = [compiler, *FLAGS, "-I", paths.ROOT / "csrc", "-c", source]
            subprocess.run([*command, "-o", tmp_path / "object.o"], check=True)


def build_prepare(compiler: str, binary: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    sources = [
        paths.ROOT / "tests/core/native/prepare.c",
        *sorted((paths.ROOT / "csrc").glob("*.c")),
    ]
    command = [compiler, *FLAGS, "-pthread", *flags, "-I", paths.ROOT / "csrc", *sources]
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
    order = str(_core.PASS_ORDERS[recipe.resize_order()])
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
    compiler, qemu = cross()
    built = build_prepare(compiler, tmp_path / "prepare", "-static")
    if "cannot find -ljpeg" in built.stderr or "jconfig.h" in built.stderr:
        pytest.skip("needs libjpeg-turbo for arm64 (libjpeg62-turbo-dev:arm64)")
    assert built.returncode == 0, built.stderr
    check_prepare([qemu, tmp_path / "prepare"], tmp_path / "in")


@pytest.fixture(scope="module")
def under_tsan(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs native/threads.c under ThreadSanitizer."""
    binary = tmp_path_factory.mktemp("tsan") / "threads"
    sources = [
        paths.ROOT / "tests/core/native/threads.c",
        *sorted((paths.ROOT / "csrc").glob("*.c")),
    ]
    flags = [*FLAGS, "-pthread", "-g", "-fsanitize=thread", "-I", paths.ROOT / "csrc"]
    built = subprocess.run(
        ["cc", *flags, *sources, "-ljpeg", "-lm", "-o", binary], capture_output=True, text=True
    )
    if "tsan" in built.stderr:
        pytest.skip("needs ThreadSanitizer's runtime (libtsan)")
    assert built.returncode == 0, built.stderr
    # the runtime has fixed addresses, which random ones may collide with
    return ["setarch", "-R", str(binary)]


def run_under_tsan(command: list[str], *arguments: str | Path) -> None:
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_pool_has_no_data_race(under_tsan: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    files = {f"{i}.JPEG": jpegs.jpeg(60 + 9 * i, 70, i, progressive=i == 3) for i in range(6)}
    folders.write(tmp_path / "in", files)
    images = sorted((tmp_path / "in").iterdir())
    run_under_tsan(under_tsan, "pool", tmp_path / "out", *images)


def test_reading_results_has_no_data_race(under_tsan: list[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for i in range(90):
        row = rng.standard_normal(50)
        (tmp_path / f"img{i}_0.txt").write_text(" ".join(f"{x:f}" for x in row) + " ")
    names = [path.name for path in tmp_path.iterdir()]
    run_under_tsan(under_tsan, "read", tmp_path, *names)
