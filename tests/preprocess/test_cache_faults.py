"""The cache of pixels beside kills, failing disks and other processes.

Each run is a process of its own. tests/support/faults.c, which is preloaded, disturbs system calls
on the cache's files.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import folders, paths
from zoofast.preprocess.pixel_file import check_pixels, list_pixels

pytestmark = pytest.mark.slow

IMAGES = 23
FORM = replace(folders.SPEC, dtype="uint8", layout="NHWC")
LOAD = """
import hashlib, json, sys
from zoofast import Loader, PixelCache, load_recipe, open_source
images, recipe, cache, size = sys.argv[1:]
said, tensors = [], {}
kept = PixelCache(cache, int(size) or None, said.append)
with open_source(images) as source, Loader(
    source, load_recipe(recipe), cache=kept, batch_size=4, threads=2
) as loader:
    for batch in loader:
        for name, row in zip(batch.names, batch.array):
            tensors[name] = hashlib.sha256(row.tobytes()).hexdigest()
print(json.dumps([tensors, loader.stats.decoders["cache"], said]))
"""


class Place:
    """Images, a recipe and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        files = folders.good_files(IMAGES)
        self.images = folders.age(folders.write(folder / "images", files))
        self.recipe = folders.recipe_file(folder, FORM)
        self.expected = {
            name.removesuffix(".JPEG"): hashlib.sha256(folders.tensor(data, FORM)).hexdigest()
            for name, data in files.items()
        }
        self.library = folder / "faults.so"
        source = paths.ROOT / "tests/support/faults.c"
        command = ["cc", "-std=gnu11", "-O1", "-shared", "-fPIC", source, "-ldl"]
        subprocess.run([*command, "-o", self.library], check=True)

    def start(self, size: int = 0, **fault: object) -> subprocess.Popen[str]:
        """size: of the cache at most, bytes; 0: any."""
        environment = dict(os.environ)
        if fault:
            state = self.folder / "state"
            state.write_bytes(bytes(4096))
            environment |= {f"FAULTS_{key.upper()}": str(value) for key, value in fault.items()}
            environment |= {"FAULTS_PREFIX": f"{self.cache}/", "FAULTS_STATE": str(state)}
            environment["LD_PRELOAD"] = str(self.library)
        words = [sys.executable, "-c", LOAD, self.images, self.recipe, self.cache, str(size)]
        return subprocess.Popen(
            words, cwd=paths.ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )

    def check(self, process: subprocess.Popen[str]) -> tuple[int, list[str]]:
        """How many images came from the cache, and the warnings. The tensors must be right."""
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        tensors, cached, said = json.loads(out)
        assert tensors == self.expected
        return cached, said

    def clear(self) -> None:
        for path in self.cache.glob("*"):
            path.unlink()

    def check_complete(self) -> None:
        """The next run is right and completes the cache; nothing is damaged then."""
        _, said = self.check(self.start())
        assert said == []
        [listed] = list_pixels(self.cache)
        assert check_pixels(self.cache, listed.digest) == (IMAGES, 0, None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize(
    ("call", "at"),
    [("open", 1), ("open", 3), ("rename", 1), *(("write", n) for n in (1, 3, 6, 12))],
)
def test_a_kill_at_any_call(place: Place, call: str, at: int) -> None:
    for what in ("kill", "killed"):  # before the call, after it
        place.clear()
        process = place.start(call=call, at=at, do=what, count=1)
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL
    place.check_complete()


@pytest.mark.parametrize("what", ["kill", "killed", "eio"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_fault_while_another_geometry_is_removed(place: Place, at: int, what: str) -> None:
    """Unlinked are its index, its pixels and its lock, in this order."""
    place.clear()
    place.cache.mkdir(exist_ok=True)
    size = 4096 + 25 * (4096 + 64)
    for name, nbytes in (("index", 4096 + 64 * 9), ("pixels", 9 * 4096)):
        (place.cache / f"{'0' * 16}.{name}").write_bytes(bytes(nbytes))
    process = place.start(size, call="unlink", at=at, do=what, count=1)
    if what == "eio":
        place.check(process)
    else:
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL
    _, said = place.check(place.start(size))
    assert not any("is full" in text for text in said)
    assert [path.stem[0] for path in place.cache.glob("0*")] == []
    place.check_complete()


@pytest.mark.parametrize("at", [1, 2, 9])
def test_a_disk_that_is_full_or_fails(place: Place, at: int) -> None:
    for what, reason in (("enospc", "No space left on device"), ("eio", "Input/output error")):
        place.clear()
        _, said = place.check(place.start(call="write", at=at, do=what))
        assert len(said) == 1
        assert reason in said[0]
    place.check_complete()


def test_a_write_that_falls_short_is_completed(place: Place) -> None:
    place.clear()
    for at in (3, 8):
        _, said = place.check(place.start(call="write", at=at, do="short", count=1))
        assert len(said) <= 1  # of a record that is not whole
    place.check_complete()


def test_several_processes_at_once(place: Place) -> None:
    for _ in range(2):
        processes = [place.start() for _ in range(3)]
        said = [place.check(process)[1] for process in processes]
        assert said == [[], [], []]
        for path in place.cache.glob("*.pixels"):  # and then from a damaged cache
            data = bytearray(path.read_bytes())
            for at in range(100, len(data), 5000):
                data[at] ^= 255
            path.write_bytes(data)
    place.check_complete()
