"""Compressed tars give what the folder gives. Damaged ones are named. Bombs do not take memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import sys
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import fetched, folders, tars, web
from zoofast.errors import SourceError
from zoofast.preprocess.folder import PrepOptions, PrepReport, prepare_folder
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sources import open_source
from zoofast.preprocess.sources.compressed_tars import CompressedTarSource
from zoofast.preprocess.sources.decompress import CHUNK, Forward
from zoofast.preprocess.sources.tar_headers import list_members

# Each is more than what is decompressed at once.
LARGE = {f"img{i:04d}.JPEG": random.Random(i).randbytes(CHUNK + 50_000) for i in range(8)}
RECIPE = parse_recipe(folders.SPEC.toml(), "test")


def zstd(data: bytes) -> bytes:
    import zstandard

    # two frames, of which one has a sum
    half = len(data) // 2
    first = zstandard.ZstdCompressor(write_checksum=True).compress(data[:half])
    return first + zstandard.ZstdCompressor().compress(data[half:])


def gzip_parts(data: bytes) -> bytes:
    """As pigz and bgzip write it: several streams; and zeros at the end, as tapes do."""
    return b"".join(gzip.compress(data[i : i + 30_000]) for i in range(0, len(data), 30_000)) + (
        bytes(1000)
    )


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "tar.gz": gzip.compress,
    "tgz": gzip_parts,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": zstd,
}
KINDS = [
    pytest.param(kind, marks=pytest.mark.slow) if kind == "tar.zst" else kind for kind in COMPRESS
]


def tar_of(files: dict[str, bytes], labels: bool = True) -> bytes:
    """A tar in WebDataset's layout; the class of image `imgI` is I."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            members = {name: data}
            if labels:
                members[name.partition(".")[0] + ".cls"] = str(int(name[3:7])).encode()
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def prepare(where: Path | str, out: Path, **options: object) -> PrepReport:
    with open_source(where) as source:
        report = prepare_folder(source, out, RECIPE, PrepOptions(threads=2, **options))  # type: ignore[arg-type]
    assert not fetched.threads()
    return report


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_tar_gives_what_the_folder_gives(tmp_path: Path, kind: str) -> None:
    good = folders.good_files(23)
    files = dict(sorted((good | folders.BAD_FILES).items(), key=lambda file: file[0][::-1]))
    folders.write(tmp_path / "in", files)
    tar = tmp_path / f"a.{kind}"
    tar.write_bytes(COMPRESS[kind](tar_of(files, labels=False)))
    expected = prepare(tmp_path / "in", tmp_path / "expected")
    report = prepare(tar, tmp_path / "out", verify=5)
    assert folders.sums(tmp_path / "out", ".bin") == folders.sums(tmp_path / "expected", ".bin")
    assert report.names == [name[:-5] for name in files]
    assert report.verified is not None and report.verified.equal == 5
    failures = {(f.name, f.cause, f.reason) for f in expected.failures}
    assert {(f.name, f.cause, f.reason) for f in report.failures} == failures and len(failures) == 3
    # a part of the images, then the others
    for name in list(good)[::3]:
        (tmp_path / "out" / f"{name[:-5]}.bin").unlink()
    again = prepare(tar, tmp_path / "out", resume=True)
    assert (again.resumed, again.prepared) == (15, 8)
    assert folders.sums(tmp_path / "out", ".bin") == folders.sums(tmp_path / "expected", ".bin")


@pytest.mark.parametrize("kind", KINDS)
def test_several_tars_of_which_one_is_not_compressed(tmp_path: Path, kind: str) -> None:
    files = folders.good_files(12)
    names = list(files)
    for i in range(4):
        part = tar_of({name: files[name] for name in names[3 * i : 3 * i + 3]})
        if i == 2:
            (tmp_path / "s-2.tar").write_bytes(part)
        else:
            (tmp_path / f"s-{i}.{kind}").write_bytes(COMPRESS[kind](part))
    with open_source(tmp_path / "s-?.t*") as source:
        assert [item.name + ".JPEG" for item in source.items] == names
        assert source.read_labels() == {name[:-5]: i for i, name in enumerate(names)}
        # in any order: it begins again where it must
        for item in (*source.items[::5], *source.items[::-2]):
            assert source.read(item) == files[item.name + ".JPEG"]
        with pytest.raises(OSError, match="larger than 10 bytes"):
            source.read(source.items[0], 10)
    report = prepare(tmp_path / "s-?.t*", tmp_path / "out", limit=4, shard=(2, 3))
    assert report.names == [name[:-5] for name in names[1::3]]
    for name in report.names:
        tensor = folders.tensor(files[f"{name}.JPEG"])
        assert (tmp_path / "out" / f"{name}.bin").read_bytes() == tensor.tobytes()


def test_labels_are_those_of_a_plain_tar(tmp_path: Path) -> None:
    plain = {"a.jpg": b"x", "a.cls": b"1", "a.json": b"[", "b.json": b'{"label": 2}', "b.jpg": b""}
    for more in ({}, {"b.cls": b"none"}):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, data in (plain | more).items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        (tmp_path / "a.tar.gz").write_bytes(gzip.compress(out.getvalue()))
        with open_source(tmp_path / "a.tar.gz") as source:
            if not more:
                assert source.read_labels() == {"a": 1, "b": 2}
                continue
            with pytest.raises(SourceError, match=r"^b\.cls: holds no class: not a whole number"):
                source.read_labels()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_named(tmp_path: Path, kind: str) -> None:
    """Cut, with a wrong sum, with a byte that is another, no such file at all, or empty."""
    path = tmp_path / f"a.{kind}"
    whole = COMPRESS[kind](tar_of({"img0000.JPEG": random.Random(0).randbytes(300_000)}))
    middle = len(whole) // 2
    damaged = {
        "cut": whole[:middle],
        "other": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "text": b"no such file " * 100,
        "empty": b"",
        "more": whole.rstrip(b"\0") + b"junk",
    }
    if kind in ("tar.gz", "tar.bz2", "tar.xz"):
        damaged["cut at the end"] = whole[:-5]
    for what, data in damaged.items():
        path.write_bytes(data)
        with pytest.raises(SourceError, match=rf"/a\.{kind}: ") as caught:
            open_source(path)
        assert "\n" not in str(caught.value), what
    assert not fetched.threads()
    path.write_bytes(whole)
    open_source(path).close()


def test_images_before_damage_are_not_lost(tmp_path: Path) -> None:
    """The file is cut after it was listed."""
    rng = random.Random(0)
    files = {f"img{i:04d}.JPEG": rng.randbytes(100_000) for i in range(20)}
    files |= folders.good_files(3)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(tar_of(files)))
    with open_source(path) as source:
        os.truncate(path, 1_000_000)
        good, bad = [], []
        with Loader(source, RECIPE, threads=1, batch_size=2) as loader:
            for batch in loader:
                good += batch.names
                bad += [(f.name, f.reason) for f in batch.failures if f.cause == "unreadable"]
    assert good == ["img0000", "img0001", "img0002"]
    reason = f"{path} cannot be decompressed: it ends too early"
    assert bad == [(f"img{i:04d}", reason) for i in range(12, 20)]


def test_a_bomb_does_not_take_memory(tmp_path: Path) -> None:
    def tar() -> io.BytesIO:
        out = io.BytesIO()
        with gzip.open(out, "wb", compresslevel=1) as file:
            for name, nbytes in (("big.JPEG", 200_000_000), ("img0001.JPEG", 5)):
                info = tarfile.TarInfo(name)
                info.size = nbytes
                file.write(info.tobuf())
                for _ in range(nbytes // 1_000_000):
                    file.write(bytes(1_000_000))
                file.write(bytes(-nbytes % 512))
            file.write(b"12345".ljust(1024, b"\0"))
        return out

    (tmp_path / "a.tar.gz").write_bytes(tar().getvalue())
    tracemalloc.start()
    with open_source(tmp_path / "a.tar.gz") as source:
        with source.open_reader(source.items, 1_000_000) as reader:
            (first,) = reader.take()
            assert isinstance(first, OSError) and "larger than 1,000,000 bytes" in str(first)
            assert reader.take() == [bytes(5)]
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * CHUNK


def test_a_loader_holds_no_list_of_the_members(tmp_path: Path) -> None:
    """What a Loader holds grows by less than 30 bytes for each member that is not read yet."""

    def held(count: int) -> int:
        path = tmp_path / f"{count}.tar.gz"
        with gzip.open(path, "wb", compresslevel=1) as file:
            for i in range(count):
                info = tarfile.TarInfo(f"ILSVRC2012_val_{i:08d}.JPEG")
                info.size = 1
                file.write(info.tobuf() + bytes(512))
            file.write(bytes(1024))
        return fetched.held_by_a_loader(path)

    assert held(12_000) - held(2_000) < 10_000 * 30


def test_a_window_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """xz's filter asks for 1.5 GB of memory before it has decompressed a byte."""
    data = lzma.compress(tar_of(folders.good_files(1)), filters=[{"id": lzma.FILTER_LZMA2}])
    large = bytearray(data)
    large[large.index(b"\x21\x01") + 2] = 39  # the size of its dictionary: 3 GiB
    header = large[12 : 12 + (large[12] + 1) * 4 - 4]
    large[12 + len(header) : 16 + len(header)] = zlib.crc32(header).to_bytes(4, "little")
    (tmp_path / "a.tar.xz").write_bytes(large)
    with pytest.raises(SourceError, match=r"a\.tar\.xz: cannot be decompressed: Memory usage"):
        open_source(tmp_path / "a.tar.xz")


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "a.tar.zst").write_bytes(b"x")
    with pytest.raises(
        SourceError, match=r"'zstandard' is missing: pip install 'zoofast\[remote\]"
    ):
        open_source(tmp_path / "a.tar.zst")


def test_reading_forwards() -> None:
    data = random.Random(0).randbytes(5 * CHUNK + 100)
    packed = gzip.compress(data)
    rng = random.Random(1)
    for _ in range(20):
        forward = Forward(lambda offset, size: packed[offset : offset + size], "a.tgz")
        at = 0
        while at < len(data) + CHUNK:
            size = rng.choice((0, 1, 512, 5000, CHUNK, 2 * CHUNK + 7))
            assert forward.pread(at, size) == data[at : at + size]
            if size <= CHUNK and at:
                assert forward.pread(at - 1, 3) == data[at - 1 : at + 2]
                assert forward.pread(at, 3) == data[at : at + 3]
            else:
                at += size
            at += rng.choice((0, 1, 511, 512, 70_000, CHUNK))
    with pytest.raises(ValueError, match="byte 0 is needed again"):
        forward.pread(0, 1)


def test_damaged_tars_are_listed_forwards_too(tmp_path: Path) -> None:
    """Also where tarfile reads the rest of the tars."""
    rng = random.Random(0)
    made = [tars.made_by_python(format) for format in tars.FORMATS]
    for _ in range(300):
        data = tars.mutant(rng.choice(made), rng)
        expected = tars.by_tarfile(data)
        pread = Forward(tars.reader(data, CHUNK), "a.tar").pread
        assert tars.listed(list_members(pread, 1 << 14)) == expected


def test_an_item_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(LARGE), 1))
    with open_source(tmp_path / "a.tar.gz") as source:
        for item in [item for item in source.items for _ in range(2)]:
            assert source.read(item) == LARGE[item.name + ".JPEG"]


@pytest.mark.slow
def test_images_behind_one_that_could_not_be_fetched_are_right() -> None:
    """Its decompression ended within it."""
    pytest.importorskip("aiohttp")
    with (
        web.serving({"/a.tar.gz": gzip.compress(tar_of(LARGE), 1)}) as server,
        open_source(f"{server.url}/a.tar.gz") as source,
    ):
        source.store.sleep = lambda seconds: None  # type: ignore[attr-defined]
        server.faults.extend([("cut", 700_000)] + [503] * 6)
        failed = 0
        for item in source.items:
            try:
                data = source.read(item)
            except OSError:
                failed += 1
            else:
                assert data == LARGE[item.name + ".JPEG"], item.name
        assert failed == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_tar_that_is_cut_after_it_was_listed(tmp_path: Path, kind: str) -> None:
    """No image is shorter than the listing says."""
    path = tmp_path / f"a.{kind}"
    path.write_bytes(COMPRESS[kind](tar_of(LARGE)))
    source: Any = open_source(path)
    with source:
        path.write_bytes(path.read_bytes()[:500_000])
        got: list[Any] = []
        with source.open_reader(source.items, 1 << 20) as reader:
            while len(got) < len(LARGE):
                got += reader.take(8)
    for data, expected in zip(got, LARGE.values(), strict=True):
        assert isinstance(data, OSError) or data == expected
    assert isinstance(got[-1], OSError)


def test_limits_are_those_of_a_plain_tar(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, size in (("a.JPEG", 10), ("a.cls", 2_000_000), ("b\nc.JPEG", 1)):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(b"1" * size))
        link = tarfile.TarInfo("d.cls")
        link.type, link.linkname = tarfile.SYMTYPE, "a.cls"
        archive.addfile(link)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(out.getvalue()))
    (tmp_path / "a.tar").write_bytes(out.getvalue())
    reasons = []
    for kind in ("tar", "tar.gz"):
        with open_source(tmp_path / f"a.{kind}") as source:
            item, bad = source.items
            if isinstance(source, CompressedTarSource):
                with source.open_reader([item], 10) as reader:
                    assert reader.take() == [b"1" * 10]
            assert source.read(item, 10) == b"1" * 10
            for each, most in ((item, 9), (bad, 10)):
                with pytest.raises(OSError):
                    source.read(each, most)
            with pytest.raises(SourceError) as error:
                source.read_labels()
            reasons.append(str(error.value))
    assert reasons[0] == reasons[1]


def test_a_tar_that_is_refused_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(LARGE))[:100_000])
    with pytest.raises(SourceError):
        open_source(tmp_path / "a.tar.gz")
    assert not folders.open_below(tmp_path)


@pytest.mark.slow
def test_passes_that_ended_keep_no_connection() -> None:
    pytest.importorskip("aiohttp")
    files = {
        f"/{i}.tar.gz": gzip.compress(
            tar_of({f"img{i}{name[4:]}": data for name, data in LARGE.items()}), 1
        )
        for i in range(2)
    }
    with web.serving(files) as server, open_source(f"{server.url}/{{0..1}}.tar.gz") as source:
        for item in (*source.items[::-1], *source.items[::5]):
            assert source.read(item) == LARGE[f"img0{item.name[4:]}.JPEG"]
            http = source.requests._http  # type: ignore[attr-defined]
            assert len(http._open - set(http._idle)) <= 1


def zstd_frames() -> list[bytes]:
    """Frames of all kinds: with and without sums and sizes, repeated bytes, raw blocks, none."""
    import zstandard

    mixed = random.Random(5).randbytes(300) + bytes(200_000) + b"ab" * 300
    frames = []
    for content in (b"", b"x", mixed, random.Random(6).randbytes(700)):
        for sums in (False, True):
            for has_size in (False, True):
                compressor = zstandard.ZstdCompressor(
                    write_checksum=sums, write_content_size=has_size
                )
                frames.append(compressor.compress(content))
        stream = zstandard.ZstdCompressor().compressobj()  # knows no size when it begins
        frames.append(stream.compress(content) + stream.flush())
    skipped = b"\x5e\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    return [*frames, skipped]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "stride"), [(1, 8), (7, 3), (CHUNK, 1)])
def test_a_cut_zst_is_found_wherever_it_is_cut(step: int, stride: int) -> None:
    """zstandard gives the bytes before the cut as if they were all.

    step: bytes that each read gives. stride: with small reads, which take long, only every eighth
    or third byte, and those where a frame begins and ends, are cuts."""
    frames = zstd_frames()
    whole = b"".join(frames)
    ends = {sum(map(len, frames[:i])) for i in range(len(frames) + 1)}
    near = {end + i for end in ends for i in range(-9, 10)}
    complete = 0
    for end in sorted({*range(0, len(whole), stride), *near} & set(range(len(whole) + 1))):
        cut = whole[:end]
        forward = Forward(lambda at, size, cut=cut: cut[at : at + min(size, step)], "a.tar.zst")
        if end in ends:
            forward.drain(1 << 30)
            complete += 1
        else:
            with pytest.raises(OSError, match="cannot be decompressed"):
                forward.drain(1 << 30)
    assert complete == len(ends)
