"""Sources that change after they were listed: their images fail, and get no other pixels."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import folders
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sources import Source, open_source

fsspec = pytest.importorskip("fsspec", reason="the extra 'remote' is not installed")
pytest.importorskip("aiohttp", reason="the extra 'remote' is not installed")

RECIPE = parse_recipe(folders.SPEC.toml(), "test")


def bmp(red: int, number: int) -> bytes:
    """All have the same size."""
    content = io.BytesIO()
    Image.new("RGB", (40, 40), (red, number, 0)).save(content, "BMP")
    return content.getvalue()


def tar(red: int) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        for i in range(3):
            member = tarfile.TarInfo(f"{i}.bmp")
            member.size = len(bmp(red, i))
            file.addfile(member, io.BytesIO(bmp(red, i)))
    return content.getvalue()


def parquet(red: int) -> bytes:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra 'remote' is not installed")
    from pyarrow.parquet import write_table

    content = io.BytesIO()
    rows = [{"bytes": bmp(red, i), "path": f"{i}.bmp"} for i in range(3)]
    write_table(pyarrow.table({"image": rows}), content, row_group_size=2)
    return content.getvalue()


MAKE: dict[str, Callable[[int], bytes]] = {
    "x.tar": tar,
    "x.tar.gz": lambda red: gzip.compress(tar(red), mtime=0),
    "x.parquet": parquet,
}


@pytest.fixture
def memory() -> Iterator[Any]:
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def read(source: Source) -> tuple[dict[str, int], dict[str, str]]:
    """The pixels' largest value of each image, and why the others failed."""
    pixels, reasons = {}, {}
    with Loader(source, RECIPE) as loader:
        for batch in loader:
            pixels |= {
                name: int(np.ptp(array))
                for name, array in zip(batch.names, batch.array, strict=True)
            }
            reasons |= {failure.name: failure.reason for failure in batch.failures}
    return pixels, reasons


@pytest.mark.parametrize("name", MAKE)
def test_a_file_of_a_store_that_is_replaced(memory: Any, name: str) -> None:
    memory.pipe(f"/d/{name}", MAKE[name](10))
    with open_source(f"memory://d/{name}") as source:
        assert not read(source)[1]
        memory.pipe(f"/d/{name}", MAKE[name](200))
        pixels, reasons = read(source)
        with pytest.raises(OSError, match="it changed after it was listed"):
            source.read(source.items[1])
    assert not pixels and len(reasons) == 3
    assert all("it changed after it was listed" in reason for reason in reasons.values())


def test_a_single_object_that_grew(memory: Any) -> None:
    memory.pipe("/e/0.bmp", bmp(10, 0))
    memory.pipe("/e/1.bmp", bmp(10, 1))
    with open_source("memory://e/") as source:
        memory.pipe("/e/0.bmp", bmp(200, 0) + b"1")
        pixels, reasons = read(source)
    assert list(pixels) == ["1"]
    assert reasons == {"0": "it changed after it was listed: it has another size now"}


@pytest.mark.parametrize("how", ["replaced", "written"])
def test_a_local_parquet_file_that_changes(tmp_path: Path, how: str) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet(10))
    os.utime(path, (1_000_000_000, 1_000_000_000))
    with open_source(path) as source:
        assert not read(source)[1]
        if how == "replaced":
            other = tmp_path / "other"
            other.write_bytes(parquet(200))
            os.utime(other, (1_000_000_000, 1_000_000_000))
            other.replace(path)
        else:
            path.write_bytes(parquet(200))
        pixels, reasons = read(source)
    assert not pixels and len(reasons) == 3
    changed = "it changed after it was listed: it was replaced or written"
    assert set(reasons.values()) == {f"{path}: {changed}"}
