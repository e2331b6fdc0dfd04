"""The cache of pixels: never another byte, whatever becomes of its files."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import struct
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import fetched, folders, jpegs, oracle
from zoofast import _core
from zoofast.base.lock import output_lock
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.pixel_file import MAGIC, Checked, check_pixels, geometry_of, list_pixels
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe, parse_recipe
from zoofast.preprocess.sources import Item, Source, open_source
from zoofast.preprocess.sources.readahead import ReadAhead

IMAGES = 23
FLOAT = folders.SPEC
BYTE = replace(FLOAT, dtype="uint8", layout="NHWC", channels="BGR")
HALF = replace(FLOAT, dtype="float16", scale="0-255", mean=(1.0, 2.0, 3.0), std=(3.0, 2.0, 1.0))
SLOT_AND_RECORD = _core.PAGE + 64  # 3 * 32 * 32 bytes fit a page
HEADER = 4096


def recipe_of(spec: oracle.Spec) -> Recipe:
    return parse_recipe(spec.toml(), "test")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Good images of all kinds of decoders, and bad ones."""
    files = {**folders.good_files(IMAGES), **folders.BAD_FILES}
    return folders.age(folders.write(tmp_path / "images", files))


class Ran:
    """One run of a Loader over a source: all that it delivers, and which decoders it used."""

    def __init__(
        self, where: Path, spec: oracle.Spec, cache: PixelCache | None, threads: int = 2
    ) -> None:
        with (
            open_source(where) as source,
            Loader(source, recipe_of(spec), cache=cache, batch_size=4, threads=threads) as loader,
        ):
            self.take_all(loader)

    def take_all(self, loader: Loader) -> None:
        self.tensors: dict[str, bytes] = {}
        self.failures: list[str] = []
        for batch in loader:
            for name, row in zip(batch.names, batch.array, strict=True):
                self.tensors[name] = row.tobytes()
            self.failures += map(str, batch.failures)
        self.decoders = loader.stats.decoders

    @property
    def cached(self) -> int:
        return self.decoders["cache"]


def expected(folder: Path, spec: oracle.Spec) -> dict[str, bytes]:
    """What Pillow and NumPy make of the good images, in the source's order."""
    return {
        path.name.removesuffix(".JPEG"): folders.tensor(path.read_bytes(), spec).tobytes()
        for path in sorted(folder.glob("img*"))
    }


def pixels_of(folder: Path) -> Path:
    (path,) = folder.glob("*.pixels")
    return path


def index_of(folder: Path) -> Path:
    return pixels_of(folder).with_suffix(".index")


@pytest.mark.parametrize(
    "kind", ["folder", "tar", "tar.gz", pytest.param("parquet", marks=pytest.mark.slow)]
)
def test_one_cache_serves_all_forms_of_a_geometry(tmp_path: Path, images: Path, kind: str) -> None:
    where, said = images, list[str]()
    if kind == "parquet":
        from pyarrow import parquet, table

        where = tmp_path / "images.parquet"
        rows = [
            {"bytes": path.read_bytes(), "path": path.name} for path in sorted(images.iterdir())
        ]
        parquet.write_table(table({"image": rows}), where)
        folders.age(where)
    elif kind != "folder":
        where = tmp_path / f"images.{kind}"
        with tarfile.open(where, "w:gz" if kind == "tar.gz" else "w") as tar:
            for path in sorted(images.iterdir()):
                tar.add(path, path.name)
        folders.age(where)
    plain = Ran(where, FLOAT, None)
    assert plain.tensors == expected(images, FLOAT)
    for number, spec in enumerate((FLOAT, FLOAT, BYTE, HALF)):
        made = Ran(where, spec, PixelCache(tmp_path / "cache", warn=said.append))
        assert made.tensors == expected(images, spec)
        assert made.failures == plain.failures  # the bad ones, which are not kept
        assert made.cached == (IMAGES if number else 0)
        assert (made.decoders["pillow"] == 0) == bool(number)
    assert said == []
    assert pixels_of(tmp_path / "cache").stat().st_size <= IMAGES * _core.PAGE
    assert not list((tmp_path / "cache").glob(".*"))


def test_what_belongs_to_a_geometry() -> None:
    recipe = load_recipe("alexnet")
    geometry = geometry_of(recipe)
    assert geometry is not None
    same = (
        recipe.with_output(dtype="uint8", layout="NHWC"),
        replace(recipe, channels="BGR", name="other", classes=7),
        replace(recipe, normalization=replace(recipe.normalization, mean=(1.0, 2.0, 3.0))),
        replace(recipe, pad_value=(1.0, 2.0, 3.0)),
    )
    assert all(geometry_of(each) == geometry for each in same)
    others = (
        replace(recipe, resize="exact"),
        replace(recipe, resize_size=(257, 257)),
        replace(recipe, resize_rounding="half-up"),
        replace(recipe, filter="bicubic"),
        replace(recipe, crop_rounding="down"),
        replace(recipe, crop=(192, 192), size=(192, 192)),
        replace(recipe, decoder="cv2"),
        replace(recipe, pad=(224, 224)),
        replace(recipe, pad_position="corner"),
    )
    cubic = replace(recipe, filter="cv2-cubic")
    different = [geometry_of(each) for each in (*others, cubic, replace(cubic, channels="BGR"))]
    assert all(each not in (geometry, *different[:i]) for i, each in enumerate(different))
    assert geometry_of(replace(recipe, filter="cv2-linear-float32")) is None


def test_another_release_of_pillow_has_other_pixels(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ran(images, FLOAT, PixelCache(tmp_path / "cache"))
    monkeypatch.setattr("PIL.__version__", "99.0.0")
    assert Ran(images, FLOAT, PixelCache(tmp_path / "cache")).cached == 0
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 2


def test_a_changed_image_is_prepared_anew(tmp_path: Path, images: Path) -> None:
    Ran(images, FLOAT, PixelCache(tmp_path / "cache"))
    (images / "img0001.JPEG").write_bytes(jpegs.jpeg(50, 50, 99))
    folders.age(images)
    touched = images / "img0002.JPEG"
    os.utime(touched, ns=(0, touched.stat().st_mtime_ns + 1))
    again = Ran(images, BYTE, PixelCache(tmp_path / "cache"))
    assert again.tensors == expected(images, BYTE)
    assert again.cached == IMAGES - 2
    assert Ran(images, FLOAT, PixelCache(tmp_path / "cache")).cached == IMAGES
    assert pixels_of(tmp_path / "cache").stat().st_size <= IMAGES * _core.PAGE  # no new slots


def test_another_folder_with_the_same_names_sizes_and_times(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 2)):
        data = jpegs.jpeg(40, 40, seed)
        folders.write(tmp_path / folder, {"img.JPEG": data.ljust(5000, b"\0")})
        folders.age(tmp_path / folder)
    for _ in range(2):
        for folder in ("a", "b"):
            made = Ran(tmp_path / folder, FLOAT, PixelCache(tmp_path / "cache"))
            assert made.tensors == expected(tmp_path / folder, FLOAT)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "b")
    assert Ran(link, FLOAT, PixelCache(tmp_path / "cache")).cached == 1


def test_an_image_that_was_just_written_is_not_kept(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be written again in the same step of the file system's clock."""
    monkeypatch.setattr("zoofast.preprocess.sources.source.SETTLED_NS", 1000 * 10**9)
    os.utime(images / "img0004.JPEG")
    for _ in range(2):
        made = Ran(images, FLOAT, PixelCache(tmp_path / "cache"))
        assert made.tensors == expected(images, FLOAT)
    assert made.cached == IMAGES - 1


def flip_bits(path: Path, count: int, rng: random.Random, first: int = 0) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(count):
        data[rng.randrange(first, len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "pixels": lambda folder, rng: flip_bits(pixels_of(folder), 40, rng),
    "records": lambda folder, rng: flip_bits(index_of(folder), 10, rng, HEADER),
    "header": lambda folder, rng: flip_bits(index_of(folder), 1, rng),
    "zeros": lambda folder, rng: pixels_of(folder).write_bytes(bytes(IMAGES * _core.PAGE)),
    "short pixels": lambda folder, rng: os.truncate(pixels_of(folder), 5 * _core.PAGE + 7),
    "short index": lambda folder, rng: os.truncate(index_of(folder), HEADER + 64 * 9 + 30),
    "short header": lambda folder, rng: os.truncate(index_of(folder), 100),
    "no pixels": lambda folder, rng: pixels_of(folder).unlink(),
    "no index": lambda folder, rng: index_of(folder).unlink(),
    "mixed slots": lambda folder, rng: pixels_of(folder).write_bytes(
        pixels_of(folder).read_bytes()[_core.PAGE :]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_reaches_no_tensor_and_is_repaired(
    tmp_path: Path, images: Path, damage: str
) -> None:
    cache = tmp_path / "cache"
    Ran(images, FLOAT, PixelCache(cache))
    wanted = expected(images, BYTE)
    for seed in range(3):
        DAMAGE[damage](cache, random.Random(seed))
        made = Ran(images, BYTE, PixelCache(cache))
        assert made.tensors == wanted
        assert made.cached < IMAGES
        again = Ran(images, BYTE, PixelCache(cache))
        assert again.cached == IMAGES
        assert again.tensors == wanted


def test_a_killed_run_leaves_what_the_next_completes(tmp_path: Path, images: Path) -> None:
    cache, counts = tmp_path / "cache", []
    for batches in (1, 3):
        pid = os.fork()
        if pid == 0:
            try:
                with open_source(images) as source:
                    loader = Loader(
                        source,
                        recipe_of(FLOAT),
                        cache=PixelCache(cache),
                        batch_size=4,
                        threads=2,
                    )
                    taken = [loader.take() for _ in range(batches)]
                    assert all(taken)
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        counts.append(index_of(cache).stat().st_size)
    assert counts[0] < counts[1] <= HEADER + 64 * 12
    done = Ran(images, BYTE, PixelCache(cache))
    assert done.tensors == expected(images, BYTE)
    assert 1 < done.cached < IMAGES
    assert Ran(images, BYTE, PixelCache(cache)).cached == IMAGES
    assert pixels_of(cache).stat().st_size <= IMAGES * _core.PAGE  # half-written slots are used


@pytest.fixture
def other_loader(tmp_path: Path, images: Path) -> Iterator[Loader]:
    """A Loader that fills the cache meanwhile, and has done one batch."""
    source: Source
    with (
        open_source(images) as source,
        Loader(
            source, recipe_of(FLOAT), cache=PixelCache(tmp_path / "cache"), batch_size=4, threads=1
        ) as loader,
    ):
        first = loader.take()
        assert first is not None
        loader.give_back(first)
        yield loader


def test_the_second_process_reads_what_the_first_has_stored(
    tmp_path: Path, images: Path, other_loader: Loader
) -> None:
    """A lock belongs to an open file, so that two Loaders of a process are like two processes."""
    second = Ran(images, BYTE, PixelCache(tmp_path / "cache"))
    assert second.tensors == expected(images, BYTE)
    assert 0 < second.cached < IMAGES
    rest = [batch for batch in other_loader if batch.names]
    assert rest
    other_loader.close()
    assert Ran(images, BYTE, PixelCache(tmp_path / "cache")).cached == IMAGES


def limit_files(nbytes: int) -> None:
    """A longer file cannot be written: EFBIG, as a full disk gives ENOSPC."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))


@pytest.mark.parametrize("room", [0, HEADER + 64 * 5, 6 * _core.PAGE + 100, 20 * _core.PAGE])
def test_a_full_disk_turns_the_cache_off_with_one_warning(
    tmp_path: Path, images: Path, room: int
) -> None:
    said: list[str] = []
    cache = PixelCache(tmp_path / "cache", warn=said.append)
    limit_files(room)
    try:
        made = [Ran(images, FLOAT, cache), Ran(images, BYTE, cache)]
    finally:
        limit_files(resource.RLIM_INFINITY)
    assert [each.tensors for each in made] == [expected(images, FLOAT), expected(images, BYTE)]
    assert len(said) == 1
    assert "File too large" in said[0]
    for count in (made[1].cached, IMAGES):
        again = Ran(images, BYTE, PixelCache(tmp_path / "cache", warn=said.append))
        assert again.tensors == expected(images, BYTE)
        assert again.cached == count
    assert len(said) == 1


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_limit_holds_for_all_files_of_the_folder(tmp_path: Path, images: Path) -> None:
    """Another geometry, which a process fills, stays while it does; then it makes room."""
    cache, said = tmp_path / "cache", list[str]()
    other = replace(FLOAT, crop=(30, 30))
    Ran(images, other, PixelCache(cache))
    other_digest = pixels_of(cache).stem
    most = size_of(cache) + HEADER + 10 * SLOT_AND_RECORD + 50
    with output_lock(pixels_of(cache)):
        for _ in range(2):
            made = Ran(images, FLOAT, PixelCache(cache, most, said.append))
            assert made.tensors == expected(images, FLOAT)
            assert len(said) == 1
            assert f"is full: its limit is {most:,} bytes" in said.pop()
        assert made.cached == 10
        assert most - 5000 < sum(file.stat().st_size for file in cache.glob("[!.]*")) <= most
    made = Ran(images, FLOAT, PixelCache(cache, most, said.append))
    assert made.tensors == expected(images, FLOAT)
    assert said == [
        f"{cache}: removed the pixels of geometry {other_digest}, the least recently used; the "
        f"limit is {most:,} bytes"
    ]
    assert pixels_of(cache).stem != other_digest  # and it is the only one
    assert size_of(cache) <= most
    assert Ran(images, FLOAT, PixelCache(cache)).cached == IMAGES


def test_the_geometry_used_last_is_removed_last(tmp_path: Path) -> None:
    images = folders.age(folders.write(tmp_path / "good", folders.good_files(IMAGES)))
    cache, said = tmp_path / "cache", list[str]()
    specs = [replace(FLOAT, crop=(side, side)) for side in (30, 28, 26)]
    for age, spec in zip((100, 300, 200), specs, strict=True):  # seconds
        Ran(images, spec, PixelCache(cache))
        for path in cache.glob("[!.]*"):
            if path.stat().st_mtime > time.time() - 50:
                os.utime(path, (time.time() - age, time.time() - age))
    most = size_of(cache) + SLOT_AND_RECORD  # the last page of the pixels may be short
    assert Ran(images, specs[1], PixelCache(cache, most)).cached == IMAGES  # is used now
    Ran(images, FLOAT, PixelCache(cache, most, said.append))
    assert len(said) == 1  # for one geometry as large as the new one
    cached = [Ran(images, spec, PixelCache(cache)).cached for spec in (FLOAT, *specs)]
    assert cached == [IMAGES, IMAGES, IMAGES, 0]


def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path, images: Path) -> None:
    cache, said = tmp_path / "cache", list[str]()
    Ran(images, FLOAT, PixelCache(cache))
    (cache / f".{pixels_of(cache).name}.lock").mkdir()  # so that there is no lock file
    made = Ran(images, BYTE, PixelCache(cache, warn=said.append))
    assert made.tensors == expected(images, BYTE)
    assert made.cached == IMAGES
    assert len(said) == 1
    assert said[0].endswith("Is a directory; the cache is read, and not filled")


def test_a_recipe_that_resizes_floats_uses_no_cache_and_says_so_once(
    tmp_path: Path, images: Path
) -> None:
    said: list[str] = []
    cache = PixelCache(tmp_path / "cache", warn=said.append)
    spec = replace(FLOAT, filter="cv2-linear-float32")
    for _ in range(2):
        assert Ran(images, spec, cache).cached == 0
    assert said == [f"test has no 8-bit pixels to keep: {tmp_path / 'cache'} is not used"]
    assert not (tmp_path / "cache").exists()


def test_a_file_that_became_too_large_or_unreadable_fails_as_without_cache(
    tmp_path: Path, images: Path
) -> None:
    cache = PixelCache(tmp_path / "cache")
    Ran(images, FLOAT, cache)
    (images / "img0003.JPEG").unlink()
    with open_source(images) as source:
        sizes = sorted(path.stat().st_size for path in images.glob("img*"))
        results = []
        for used in (None, cache):
            with Loader(source, recipe_of(FLOAT), cache=used, max_file_bytes=sizes[-3]) as loader:
                batches = [(b.names, list(map(str, b.failures))) for b in loader]
                results.append(batches)
    assert results[0] == results[1]
    assert sum("larger than" in line for _, lines in results[0] for line in lines) == 2


def test_a_stream_of_the_same_image_keeps_it_once(tmp_path: Path, images: Path) -> None:
    with open_source(images) as source:
        items = [*source.items[3:5]] * 20
        with Loader(
            source, recipe_of(FLOAT), items=items, cache=PixelCache(tmp_path / "cache")
        ) as loader:
            assert len([name for batch in loader for name in batch.names]) == 40
    assert pixels_of(tmp_path / "cache").stat().st_size <= 2 * _core.PAGE
    assert index_of(tmp_path / "cache").stat().st_size == HEADER + 2 * 64


class Store(fetched.DictSource):
    """A store whose images are known by their name and a version."""

    version = 1

    def cache_key(self, item: Item) -> bytes | None:
        return None if item.name == "img0002" else f"{item.path} {self.version}".encode()

    def read(self, item: Item, max_bytes: int = 1 << 30) -> bytes:
        data = self.files[item.path]
        assert isinstance(data, bytes)
        return data


def test_what_the_cache_has_is_not_fetched(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = folders.good_files(IMAGES)
    cache = tmp_path / "cache"

    def run() -> tuple[Store, Ran]:
        source = Store({"gone.JPEG": OSError(2, "gone"), **files})
        ran = Ran.__new__(Ran)
        with Loader(source, recipe_of(BYTE), cache=PixelCache(cache), batch_size=4) as loader:
            ran.take_all(loader)
        assert ran.tensors == expected(images, BYTE)
        assert ran.failures == ["gone.JPEG: gone"]
        return source, ran

    first, _ = run()
    assert len(first.fetched) == IMAGES + 1
    second, made = run()
    assert sorted(second.fetched) == ["gone", "img0002"]
    assert made.cached == IMAGES - 1
    flip_bits(pixels_of(cache), 2000, random.Random(1))
    _, made = run()  # Pillow decodes what is damaged
    assert 0 < made.decoders["pillow"] == IMAGES - 1 - made.cached
    assert run()[1].cached == IMAGES - 1
    most = sorted(map(len, files.values()))[-3]
    for used in (PixelCache(cache), None):  # what Pillow decoded is known by its file's size too
        with Loader(Store(files), recipe_of(BYTE), cache=used, max_file_bytes=most) as loader:
            assert sum(len(batch.failures) for batch in loader) == 2
    monkeypatch.setattr(Store, "version", 2)
    assert len(run()[0].fetched) == IMAGES + 1


def test_a_source_that_cannot_be_opened_leaves_no_file_open(tmp_path: Path) -> None:
    class Broken(Store):
        def open_reader(self, items: Sequence[Item], max_bytes: int) -> ReadAhead:
            raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        Loader(Broken(folders.good_files(1)), recipe_of(BYTE), cache=PixelCache(tmp_path / "cache"))
    assert list((tmp_path / "cache").glob("*.pixels")) and not folders.open_below(tmp_path)
    assert not list((tmp_path / "cache").glob(".*"))  # no lock


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_a_plain_file_is_written(tmp_path: Path, images: Path, kind: str) -> None:
    cache, said = tmp_path / "cache", list[str]()
    Ran(images, FLOAT, PixelCache(cache))
    pixels, victim = pixels_of(cache), tmp_path / "victim"
    pixels.unlink()
    victim.write_bytes(b"precious")
    if kind == "link":
        pixels.symlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(pixels)
    else:
        pixels.mkdir()
    for _ in range(2):
        made = Ran(images, BYTE, PixelCache(cache, warn=said.append))
        assert made.tensors == expected(images, BYTE)
        assert made.cached == 0
    assert len(said) == 2
    assert victim.read_bytes() == b"precious"


def test_a_cache_that_is_removed_meanwhile_fails_no_run(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoofast.preprocess.pixel_file.LIMIT_SLOTS", 1)
    cache, said = tmp_path / "cache", list[str]()
    kept = PixelCache(cache, 1 << 30, said.append)
    with (
        open_source(images) as source,
        Loader(source, recipe_of(FLOAT), cache=kept, batch_size=4, threads=1) as loader,
    ):
        first = loader.take()
        assert first is not None
        shutil.rmtree(cache)
        loader.give_back(first)
        assert sum(len(batch.names) for batch in loader) + len(first.names) == IMAGES
    assert said == [f"{cache}: No such file or directory; the cache is filled no further"]
    assert Ran(images, FLOAT, PixelCache(cache)).cached == 0


def test_a_file_that_is_kept_open_serves_loaders_in_turn(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of other recipes; and what the disk has free beside the outputs counts once."""
    nbytes, slots = 900_000, 20
    frees = [nbytes + slots * SLOT_AND_RECORD]

    def usage(path: Path) -> shutil._ntuple_diskusage:
        return shutil._ntuple_diskusage(0, 0, frees.pop() if frees else 0)

    monkeypatch.setattr("zoofast.preprocess.pixel_file.shutil.disk_usage", usage)
    told: list[str] = []
    (tmp_path / "out").mkdir()
    plain = PixelCache(tmp_path / "cache", warn=told.append)
    cache = plain.beside(tmp_path / "out", nbytes)
    with cache.kept_open(recipe_of(FLOAT)):
        for part in (slice(0, 9), slice(9, None)):
            with (
                open_source(images) as source,
                Loader(source, recipe_of(FLOAT), items=source.items[part], cache=cache) as loader,
            ):
                assert sum(len(batch.names) for batch in loader) > 0
        for spec in (BYTE, FLOAT):
            ran = Ran(images, spec, cache)
            assert ran.cached == slots and ran.tensors == expected(images, spec)
        other = replace(FLOAT, filter="bicubic")
        assert Ran(images, other, cache).tensors == expected(images, other)
    assert len(told) == 1 and "is full" in told[0]
    for path in (tmp_path / "cache").glob("*.pixels"):
        with output_lock(path):  # the file was closed
            pass
    assert Ran(images, FLOAT, plain).cached == slots


def test_an_image_that_is_not_settled_keeps_its_slot(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another image would get the same slot otherwise."""
    cache = tmp_path / "cache"
    Ran(images, FLOAT, PixelCache(cache))
    changed, new = images / "img0003.JPEG", images / "img0099.JPEG"
    changed.write_bytes(changed.read_bytes() + b"\0")
    monkeypatch.setattr("zoofast.preprocess.sources.source.SETTLED_NS", 1000 * 10**9)
    kept = PixelCache(cache)
    with kept.kept_open(recipe_of(FLOAT)):
        assert Ran(images, FLOAT, kept).cached == IMAGES - 1
        shutil.copy(images / "img0005.JPEG", new)
        folders.age(new)
        assert Ran(images, BYTE, kept).tensors == expected(images, BYTE)
    index = index_of(cache).read_bytes()[HEADER:]
    assert len({index[at : at + 16] for at in range(0, len(index), 64)}) == IMAGES + 1


def test_an_image_of_the_largest_size_is_not_fetched(tmp_path: Path) -> None:
    files = folders.good_files(IMAGES)
    for count in (IMAGES, 1):  # img0002 has no key
        source = Store(files)
        most = max(map(len, files.values()))
        with Loader(
            source, recipe_of(BYTE), cache=PixelCache(tmp_path / "cache"), max_file_bytes=most
        ) as loader:
            assert sum(len(batch.names) for batch in loader) == IMAGES
        assert len(source.fetched) == count


@pytest.mark.parametrize("what", ["version", "resize_order"])
def test_another_release_has_other_pixels(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    Ran(images, FLOAT, PixelCache(tmp_path / "cache"))
    monkeypatch.setattr(f"zoofast.preprocess.pixel_file.{what}", lambda *name: "other")
    assert Ran(images, FLOAT, PixelCache(tmp_path / "cache")).cached == 0


@pytest.mark.parametrize("rest", [0, SLOT_AND_RECORD - 1])
def test_the_limit_counts_the_header(tmp_path: Path, images: Path, rest: int) -> None:
    most = HEADER + 5 * SLOT_AND_RECORD + rest
    Ran(images, FLOAT, PixelCache(tmp_path / "cache", most))
    assert Ran(images, FLOAT, PixelCache(tmp_path / "cache", most)).cached == 5
    assert size_of(tmp_path / "cache") <= most


def test_nothing_is_removed_for_what_stays_free(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slots that are there already take no space of it."""
    cache, out, free = tmp_path / "cache", tmp_path / "out", [0]
    out.mkdir()

    def usage(path: Path) -> shutil._ntuple_diskusage:
        return shutil._ntuple_diskusage(0, 0, free[0])

    monkeypatch.setattr("zoofast.preprocess.pixel_file.shutil.disk_usage", usage)
    other = replace(FLOAT, crop=(30, 30))
    Ran(images, other, PixelCache(cache))
    for more in (0, 5, 4):
        free[0] = 1000 + more * SLOT_AND_RECORD
        Ran(images, FLOAT, PixelCache(cache, 1 << 30).beside(out, 1000))
    assert Ran(images, FLOAT, PixelCache(cache)).cached == 9
    free[0] = 1 << 40
    assert Ran(images, other, PixelCache(cache)).cached == IMAGES


def test_another_disk_need_not_stay_free(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    cache = PixelCache(tmp_path / "cache")
    assert cache.beside(tmp_path / "out", 7)._left_free == 7
    assert cache.beside(Path("/dev/shm"), 7)._left_free == 0


def test_a_cache_that_was_kept_open_serves_later_loaders(tmp_path: Path, images: Path) -> None:
    cache = PixelCache(tmp_path / "cache")
    with cache.kept_open(recipe_of(FLOAT)):
        Ran(images, FLOAT, cache)
    assert Ran(images, FLOAT, cache).cached == IMAGES


@pytest.mark.parametrize(
    "size", [[0, 5], [-1, 5], ["x", 5], [True, 5], [1 << 20, 1], [1.5, 2], [5], 7]
)
def test_headers_of_sizes_that_no_image_has(tmp_path: Path, size: Any) -> None:
    digest = "0" * 16
    header = (MAGIC + json.dumps({"size": size}).encode() + b"\n").ljust(HEADER, b"\0")
    (tmp_path / f"{digest}.index").write_bytes(header)
    (tmp_path / f"{digest}.pixels").write_bytes(bytes(100))
    (listed,) = list_pixels(tmp_path)
    assert listed.geometry is None
    assert check_pixels(tmp_path, digest) == Checked(0, 0, "its file .index is damaged")


def test_pixels_larger_than_their_file_are_not_read(tmp_path: Path) -> None:
    digest, size = "0" * 16, [(1 << 20) - 1] * 2
    header = (MAGIC + json.dumps({"size": size}).encode() + b"\n").ljust(HEADER, b"\0")
    record = struct.pack("<16sQqQ4iI", b"k" * 16, 1, 1, 1, 0, 0, 1, 1, 0)
    record += struct.pack("<I", zlib.crc32(record))
    (tmp_path / f"{digest}.index").write_bytes(header + record)
    (tmp_path / f"{digest}.pixels").write_bytes(bytes(100))
    assert check_pixels(tmp_path, digest) == Checked(0, 1)
