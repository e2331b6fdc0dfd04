"""The C core's own test programs: csrc/ is compiled once a run for each compiler and its flags."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import once, paths

CSRC = paths.ROOT / "csrc"
PROGRAMS = paths.ROOT / "tests/core/native"
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-pthread", f"-I{CSRC}", f"-I{PROGRAMS}"]
# Sanitized builds are hardly optimized: compiling them takes longer than their tests.
BUILDS = {  # name -> compiler, flags
    "checked": ("cc", ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]),
    "threads": ("cc", ["-O1", "-g1", "-fsanitize=thread"]),
    "aarch64": ("aarch64-linux-gnu-gcc", ["-O2", "-static"]),
}
SKIPS = {  # in the compiler's or linker's message -> what is missing
    "tsan": "ThreadSanitizer's runtime (libtsan)",
    "asan": "AddressSanitizer's runtime (libasan)",
}


def _compile(*command: str | Path) -> None:
    """Skips where a library is missing on this machine."""
    done = subprocess.run(command, capture_output=True, text=True)
    for word, missing in SKIPS.items():
        if done.returncode and word in done.stderr:
            pytest.skip(f"needs {missing}")
    assert done.returncode == 0, done.stderr


def _objects(compiler: str, flags: list[str], sources: str, folder: Path) -> None:
    """The sources, of csrc/ -> folder/*.o"""

    def compile(source: Path) -> None:
        object_file = folder / f"{source.stem}.o"
        _compile(compiler, *FLAGS, *flags, "-c", source, "-o", object_file)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(compile, sorted(CSRC.glob(sources))))


def program(
    made: once.Once, name: str, build: str, *libraries: str, sources: str = "*.c"
) -> list[str]:
    """The command that runs tests/core/native/`name`.c, linked with what it uses of csrc/.

    build: one of BUILDS. libraries: for the linker, such as -ljpeg. sources: the files of csrc/
    that it may use. Skips where the compiler, a library or the emulator is missing.
    """
    compiler, flags = BUILDS[build]
    emulator = shutil.which("qemu-aarch64")
    if shutil.which(compiler) is None or (build == "aarch64" and emulator is None):
        pytest.skip("needs aarch64-linux-gnu-gcc and qemu-aarch64")

    def archive(folder: Path) -> None:
        _objects(compiler, flags, sources, folder)
        _compile("ar", "rcs", folder / "core.a", *sorted(folder.glob("*.o")))

    def link(folder: Path) -> None:
        which = "core" if sources == "*.c" else name
        objects = made(f"{which}-{build}", archive) / "core.a"
        source = PROGRAMS / f"{name}.c"
        words = [compiler, *FLAGS, *flags, source, objects, *libraries, "-lm"]
        _compile(*words, "-o", folder / name)

    binary = str(made(f"{name}-{build}-program", link) / name)
    # another sanitizer's runtime may be preloaded into the tests
    command = ["env", "-u", "LD_PRELOAD"]
    if build == "threads":
        # the runtime has fixed addresses, which random ones may collide with
        return [*command, "setarch", "-R", binary]
    return [*command, str(emulator), binary] if build == "aarch64" else [*command, binary]
