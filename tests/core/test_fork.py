"""A child process made by fork has none of its parent's threads: it can close, and not use, them.

Each case runs in a process of its own, with a time limit: without the check the child would wait
for ever for a thread or a lock.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import folders, jpegs

SECONDS = 300  # the children end at once; a child that hangs ends the test

SETUP = """
import os, sys, threading, time
import numpy as np
from zoofast import _core, _logits, prepare
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.recipe_file import load_recipe
from zoofast.preprocess.sources import open_source

RECIPE = load_recipe("squeezenet1_1")

def in_child(run):
    # the exit code of a child that calls run()
    child = os.fork()
    if child == 0:
        try:
            run()
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def run(folder: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SETUP + code, str(folder)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "ZOOFAST_ISA": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """JPEGs, and PNGs, which threads of Python decode."""
    files = {f"{i}.JPEG": jpegs.jpeg(300, 300, i % 5) for i in range(60)}
    files |= {f"{i}.png": jpegs.save(jpegs.photo(40, 40, i), "PNG") for i in range(100, 110)}
    return folders.write(tmp_path / "images", files)


def test_a_child_closes_the_loader_of_its_parent(images: Path) -> None:
    out = run(
        images,
        """
codes = []
for i in range(10):
    with Loader(open_source(sys.argv[1]), RECIPE, batch_size=8, threads=3) as loader:
        names = [] if i % 2 == 0 else list(loader.take().names)
        time.sleep(0.003 * i)
        codes.append(in_child(loader.close))
        while (batch := loader.take()) is not None:
            names += batch.names
            loader.give_back(batch)
        if i % 2 == 0:
            assert len(names) == 70, len(names)
print(codes)
""",
    )
    assert out == f"{[0] * 10}\n"


def test_a_child_that_uses_the_loader_of_its_parent_is_told(images: Path) -> None:
    out = run(
        images,
        """
with Loader(open_source(sys.argv[1]), RECIPE, batch_size=8, threads=2) as loader:
    batch = loader.take()
    print(in_child(loader.take), in_child(lambda: loader.give_back(batch)))
""",
    )
    error = r"RuntimeError process \d+ cannot use .* inherited this Loader by fork; open a Loader"
    lines = out.splitlines()
    assert lines[-1] == "1 1"
    assert len(lines) == 3
    assert all(re.match(error, line) for line in lines[:2])


def test_a_child_may_open_a_loader_and_prepare_images_itself(images: Path) -> None:
    out = run(
        images,
        """
def load():
    with Loader(open_source(sys.argv[1]), RECIPE, batch_size=8, threads=2) as mine:
        assert sum(len(batch.names) for batch in mine) == 70

def prepare_one():
    assert prepare(sys.argv[1] + "/3.JPEG", RECIPE).shape == RECIPE.shape

with Loader(open_source(sys.argv[1]), RECIPE, batch_size=8, threads=2) as loader:
    loader.take()
    prepare_one()
    print(in_child(load), in_child(prepare_one))
""",
    )
    assert out == "0 0\n"


def test_readings_of_results(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i}_0.txt").write_text("1.000000 2.000000 3.000000 \n")
    out = run(
        tmp_path,
        """
fd = os.open(sys.argv[1], os.O_RDONLY)
names = [name.encode() for name in sorted(os.listdir(sys.argv[1]))]
reading = _logits.Reading(fd, names, np.zeros(len(names), np.uint8), 1, threads=3)
print(in_child(reading.end), in_child(lambda: reading.rank_files(5)))
while reading.rank_files(50) < len(names):
    pass
reading.end()
print((reading.classes == 2).all())
""",
    )
    lines = out.splitlines()
    assert lines[0].startswith("RuntimeError a process made by fork")
    assert lines[1:] == ["0 1", "True"]


def test_workers_of_pytorchs_dataloader(images: Path) -> None:
    pytest.importorskip("torch")
    out = run(
        images,
        """
import torch.utils.data as data

class Images(data.Dataset):
    def __init__(self, loader):
        self.paths = [item.path for item in loader._items]
        self.loader = loader  # inherited by the workers

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return i, prepare(self.paths[i], RECIPE)

class Wrong(Images):
    def __getitem__(self, i):
        return self.loader.take()

with Loader(open_source(sys.argv[1]), RECIPE, batch_size=8, threads=2) as loader:
    batch = loader.take()
    options = {"num_workers": 2, "multiprocessing_context": "fork"}
    seen = 0
    for positions, tensors in data.DataLoader(Images(loader), batch_size=10, **options):
        seen += len(positions)
        for i, tensor in zip(positions.tolist(), tensors.numpy()):
            if i < 8:
                assert np.array_equal(tensor, batch.array[i]), i
    try:
        next(iter(data.DataLoader(Wrong(loader), **options)))
    except RuntimeError as error:
        print("inherited this Loader by fork" in str(error))
    print(seen, len(loader.take().names))
""",
    )
    assert out == "True\n70 8\n"
