"""Parquet files of images give what the folder gives. Needs pyarrow: slow tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import fetched, folders, parquet_files
from zoofast.errors import SourceError
from zoofast.preprocess.folder import PrepOptions, PrepReport, prepare_folder
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sources import open_source

RECIPE = parse_recipe(folders.SPEC.toml(), "test")
slow = pytest.mark.slow


def rows(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """As Hugging Face writes the column `image`."""
    return [{"bytes": data, "path": name} for name, data in files.items()]


def prepare(where: Path | str, out: Path, **options: Any) -> PrepReport:
    with open_source(where) as source:
        report = prepare_folder(source, out, RECIPE, PrepOptions(threads=2, **options))
    assert not fetched.threads()
    return report


@slow
@pytest.mark.parametrize("row_group_size", [1, 7, 1000])
def test_parquet_gives_what_the_folder_gives(tmp_path: Path, row_group_size: int) -> None:
    good = folders.good_files(23)
    files = dict(sorted((good | folders.BAD_FILES).items(), key=lambda file: file[0][::-1]))
    folders.write(tmp_path / "in", files)
    images = rows(files)
    half = parquet_files.write(
        tmp_path / "p/val-0.parquet", {"image": images[:13]}, row_group_size=row_group_size
    )
    parquet_files.write(tmp_path / "p/val-1.parquet", {"image": images[13:]}, compression="zstd")
    (tmp_path / "p/README.md").touch()
    expected = prepare(tmp_path / "in", tmp_path / "expected")
    failures = {(f.name, f.cause, f.reason) for f in expected.failures}
    for i, where in enumerate((tmp_path / "p", tmp_path / "p" / "val-{0..1}.parquet")):
        out = tmp_path / f"out{i}"
        report = prepare(where, out, verify=4)
        assert folders.sums(out, ".bin") == folders.sums(tmp_path / "expected", ".bin")
        assert report.names == [name[:-5] for name in files]
        assert {(f.name, f.cause, f.reason) for f in report.failures} == failures
        assert report.verified is not None and report.verified.equal == 4
    for name in list(good)[::3]:
        (out / f"{name[:-5]}.bin").unlink()
    again = prepare(where, out, resume=True)
    assert (again.resumed, again.prepared) == (15, 8)
    part = prepare(half, tmp_path / "part", shard=(2, 3), limit=3)
    assert part.names == [name[:-5] for name in files][1:13:3][:3]
    for name in {*part.names} & {name[:-5] for name in good}:
        tensor = folders.tensor(files[f"{name}.JPEG"])
        assert (tmp_path / "part" / f"{name}.bin").read_bytes() == tensor.tobytes()


@slow
def test_a_loader_holds_no_list_of_the_rows(tmp_path: Path) -> None:
    """What a Loader holds grows by less than 30 bytes for each row that is not read yet."""

    def held(count: int) -> int:
        images = rows({f"ILSVRC2012_val_{i:08d}.JPEG": b"x" for i in range(count)})
        path = parquet_files.write(tmp_path / f"{count}.parquet", {"image": images})
        return fetched.held_by_a_loader(path)

    assert held(12_000) - held(2_000) < 10_000 * 30


@slow
def test_names_labels_and_columns(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    files = folders.good_files(5)
    data = list(files.values())
    images = [
        {"bytes": data[0], "path": "deep/n01.tar/first.x.JPEG"},
        {"bytes": data[1], "path": None},
        {"bytes": None, "path": "nothing.JPEG"},
        None,
        {"bytes": data[4], "path": "../../etc/passwd"},
    ]
    path = parquet_files.write(
        tmp_path / "val-0.parquet", {"image": images, "label": [3, 0, -1, None, 999]}
    )
    with open_source(path) as source:
        names = ["first", "val-0_00000001", "nothing", "val-0_00000003", "passwd"]
        assert [item.name for item in source.items] == names
        assert source.read_labels() == {"first": 3, "val-0_00000001": 0, "passwd": 999}
        assert source.read(source.items[4]) == data[4]
        failed = {}
        with Loader(source, RECIPE, threads=1) as loader:
            for batch in loader:
                failed |= {f.name: f.reason for f in batch.failures}
        assert failed == dict.fromkeys(names[2:4], "the row has no image")
    binary = pyarrow.array(data, pyarrow.large_binary())
    for column in ("jpg", "jpeg", "bytes", "image"):
        path = parquet_files.write(
            tmp_path / "b.parquet", {"x": range(5), column: binary, "cls": range(5)}
        )
        with open_source(path) as source:
            assert [source.read(item) for item in source.items] == data
            assert source.read_labels() == {f"b_{i:08d}": i for i in range(5)}
            with pytest.raises(OSError, match="larger than 9 bytes"):
                source.read(source.items[0], 9)
    for columns, words in (
        ({"picture": binary, "image": ["a.jpg"] * 5}, "no column of images: .*: picture, image$"),
        ({"image": rows(files)[:1] * 2}, "would overwrite another's output"),
        ({"image": binary.slice(0, 0)}, "no images"),
        ({"image": [{"bytes": [1, 2], "path": "a.jpg"}]}, "no column of images: .*: image$"),
    ):
        with pytest.raises(SourceError, match=words):
            open_source(parquet_files.write(tmp_path / "c.parquet", columns))
    twice = pyarrow.Table.from_arrays([binary, binary], ["image", "image"])
    parquet.write_table(twice, tmp_path / "c.parquet")
    with pytest.raises(SourceError, match=r"no column of images: .*: image, image$"):
        open_source(tmp_path / "c.parquet")
    for label, words in (
        (["cat"] * 5, "its column label is string, not a whole number"),
        ([1, 2, 3, 4, 10**9], "c.parquet/c_00000004: its label is more than 999999999"),
    ):
        path = parquet_files.write(tmp_path / "c.parquet", {"image": binary, "label": label})
        with open_source(path) as source, pytest.raises(SourceError, match=words):
            source.read_labels()


@slow
def test_a_damaged_page_loses_its_row_group_alone(tmp_path: Path) -> None:
    files = folders.good_files(30)
    columns = {"image": rows(files), "label": range(30)}
    path = parquet_files.write(
        tmp_path / "a.parquet",
        columns,
        row_group_size=10,
        write_page_checksum=True,
        use_dictionary=False,
        compression="none",
    )
    whole = path.read_bytes()
    middle = whole.index(files["img0015.JPEG"]) + 100
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    report = prepare(path, tmp_path / "out")
    failed = [f.name for f in report.failures]
    assert failed == [f"img{i:04d}" for i in range(10, 20)] and report.prepared == 20
    assert all(f"{path}: cannot be read as Parquet: " in f.reason for f in report.failures)
    assert all("\n" not in f.reason and f.cause == "unreadable" for f in report.failures)
    for name in set(files) - {f"{name}.JPEG" for name in failed}:
        tensor = folders.tensor(files[name]).tobytes()
        assert (tmp_path / "out" / name).with_suffix(".bin").read_bytes() == tensor
    for data in (whole[:-100], whole[:50], b"", b"PAR1" * 10):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=r"/a\.parquet: ") as caught:
            open_source(path)
        assert "\n" not in str(caught.value)


@slow
def test_damage_anywhere_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    """Bytes that are others give an error, or images; and nothing ends the process."""
    import random

    files = folders.good_files(6)
    whole = parquet_files.write(
        tmp_path / "a.parquet", {"image": rows(files), "label": range(6)}
    ).read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        tail = rng.random() < 0.7
        for _ in range(rng.choice((1, 3))):
            at = rng.randrange(len(data) - 700, len(data)) if tail else rng.randrange(len(data))
            data[at] = rng.randrange(256)
        (tmp_path / "a.parquet").write_bytes(data)
        try:
            with (
                open_source(tmp_path / "a.parquet") as source,
                source.open_reader(source.items, 1 << 20) as reader,
            ):
                for _ in source.items:
                    (fetched,) = reader.take()
                    if isinstance(fetched, OSError):
                        assert fetched.strerror and "\n" not in fetched.strerror
        except SourceError as error:
            refused += 1
            assert "a.parquet" in str(error) and "\n" not in str(error)
    assert 30 < refused < 270


@slow
def test_memory_does_not_grow_with_a_row_group(tmp_path: Path) -> None:
    code = """
import os, re, sys
from pathlib import Path
from zoofast import open_source
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # more CPUs read further ahead
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
source = open_source(sys.argv[1])
listed = peak()
with source.open_reader(source.items, 1 << 28) as reader:
    for i in range(2000):
        assert reader.take() == [i.to_bytes(4, "big") * 25_000]
print(peak() - listed)
"""
    images = [i.to_bytes(4, "big") * 25_000 for i in range(2000)]
    options = {"write_batch_size": 4, "use_dictionary": False, "compression": "none"}
    path = parquet_files.write(tmp_path / "a.parquet", {"image": images}, **options)
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120_000  # kB, of 200,000


def test_without_pyarrow_the_cure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    words = re.escape("'pyarrow' is missing: pip install 'zoofast[remote]'")
    for where in (tmp_path, tmp_path / "a.parquet", tmp_path / "*.parquet"):
        with pytest.raises(SourceError, match=words):
            open_source(where)
