"""Sources that change after they were listed: their images fail, and get no other pixels."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import folders, web
from zoofast.errors import OutputError, SourceError
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sources import Source, open_source

pytestmark = pytest.mark.slow

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
    import pyarrow
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
    import fsspec

    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def read(source: Source, cache: PixelCache | None = None) -> tuple[dict[str, int], dict[str, str]]:
    """The pixels' largest value of each image, and why the others failed."""
    pixels, reasons = {}, {}
    with Loader(source, RECIPE, cache=cache) as loader:
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


# ---- what a cache knows images by ---------------------------------------------------------


@pytest.mark.parametrize("outer", ["file://{folder}/{name}.tar", "memory://c/{name}.tar"])
def test_archives_in_archives_do_not_share_pixels(tmp_path: Path, memory: Any, outer: str) -> None:
    """Their members have the same names, sizes and times."""
    for name, red in (("a", 10), ("b", 200)):
        (tmp_path / f"{name}.tar").write_bytes(tar(red))
        memory.pipe(f"/c/{name}.tar", tar(red))
    found = {}
    for name in ("a", "b"):
        url = "tar://::" + outer.format(folder=tmp_path, name=name)
        with open_source(url) as source:
            alone = read(source)
            cache = PixelCache(tmp_path / "cache")
            assert read(source, cache) == read(source, cache) == alone
            found[name] = alone[0]
    assert found["a"] != found["b"]


def test_queries_do_not_share_pixels(tmp_path: Path) -> None:
    """A server that gives another file for another query, with the same size and time."""
    with web.serving({"/v.tar": tar(10)}) as server:
        server.times["/v.tar"] = "Mon, 05 Jan 2026 10:00:00 GMT"
        alone = {}
        for version, red in (("1", 10), ("2", 200)):
            server.files["/v.tar"] = tar(red)
            with open_source(f"{server.url}/v.tar?version={version}") as source:
                alone[version] = read(source)
                cache = PixelCache(tmp_path / "cache")
                assert read(source, cache) == read(source, cache) == alone[version]
        assert alone["1"] != alone["2"]


@pytest.mark.parametrize(("age", "is_kept"), [(1, False), (3, True)])
def test_a_file_that_has_just_changed_is_not_kept(tmp_path: Path, age: int, is_kept: bool) -> None:
    """In the same second, a file may be written again, and have the same time and ETag."""
    told: list[str] = []
    with web.serving({"/v.tar": tar(10)}) as server:
        server.times["/v.tar"] = formatdate(time.time() - age, usegmt=True)
        with open_source(f"{server.url}/v.tar") as source:
            read(source, PixelCache(tmp_path / "cache", warn=told.append))
            before = len(server.requests)
            read(source, PixelCache(tmp_path / "cache"))
    assert (len(server.requests) == before) == is_kept
    assert (told == []) == is_kept
    assert is_kept or "they have just changed" in told[0]


def test_objects_whose_names_have_a_question_mark(memory: Any, tmp_path: Path) -> None:
    files = {"a.bmp": 1, "get?id=5.bmp": 2, "get?id=6.bmp": 3, "photo.bmp?w=200": 4, "z.bmp": 5}
    for name, number in files.items():
        memory.pipe(f"/q/{name}", bmp(10, number))
        (tmp_path / name).write_bytes(bmp(10, number))
    with open_source(tmp_path) as local, open_source("memory://q/") as stored:
        assert [item.name for item in stored.items] == [item.name for item in local.items]
        assert [Path(each).name for each in stored.skipped] == ["photo.bmp%3Fw=200"]
        assert read(stored) == read(local)
        assert stored.items[1].path == "memory:///q/get%3Fid=5.bmp"


@pytest.mark.parametrize("folder", ["s3://bucket/cache", "memory://x"])
def test_a_cache_is_no_url(folder: str) -> None:
    with pytest.raises(OutputError, match=f"{folder}: the cache is a folder of this machine"):
        PixelCache(folder)


def test_the_label_of_an_image_with_a_bad_name(tmp_path: Path) -> None:
    """The image fails alone, and the labels of the others are read."""
    with tarfile.open(tmp_path / "l.tar", "w") as file:
        for i, key in enumerate(("a", "x" * 245, "b")):
            for end, content in ((".bmp", bmp(10, i)), (".cls", b"%d" % i)):
                member = tarfile.TarInfo(key + end)
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    with open_source(tmp_path / "l.tar") as source:
        labels = source.read_labels()
        assert labels is not None and (labels["a"], labels["b"]) == (0, 2)
        pixels, reasons = read(source)
    assert list(pixels) == ["a", "b"] and len(reasons) == 1


def test_of_files_of_unknown_sizes_few_are_fetched_ahead() -> None:
    """The page of a web server tells no sizes. Of files of 8 MB, eight are 64 MB."""
    with web.serving({f"/{i}.bmp": bytes(8_000_000) for i in range(40)}) as server:
        server.files["/"] = "".join(f'<a href="{i}.bmp">' for i in range(40)).encode()
        source = open_source(f"{server.url}/")
        listing = len(server.requests)
        with source.open_reader(source.items, 1 << 30) as reader:
            for taken in range(len(source.items)):
                time.sleep(0.5 if taken < 2 else 0.01)
                assert len(server.requests) - listing <= taken + 9
                reader.take()


def test_an_empty_tar_among_others_is_named() -> None:
    message = r"a-1\.tar: not a readable tar file: empty file"
    with (
        web.serving({"/a-0.tar": tar(1), "/a-1.tar": b""}) as server,
        pytest.raises(SourceError, match=message),
    ):
        open_source(server.url + "/a-{0..1}.tar")
