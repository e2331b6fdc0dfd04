"""Several tars as one source, and WebDataset's samples in tars."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support import folders
from zoofast.errors import SourceError
from zoofast.preprocess.folder import choose
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.recipe_file import load_recipe
from zoofast.preprocess.sources import open_source
from zoofast.preprocess.sources.patterns import expand


def make_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    "pattern",
    [
        "s-{8..11}.tar",
        "s-{08..11}.tar",
        "{0..1}{2..3}.x",
        "a*b?[cd].tar",
        "{a,b}",
        "{3..}",
        "x.tar",
    ],
)
def test_patterns_are_those_of_a_shell(tmp_path: Path, pattern: str) -> None:
    for name in ("s-8.tar", "s-9.tar", "s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar", "02.x"):
        (tmp_path / name).touch()
    for name in ("03.x", "12.x", "13.x", "axb1c.tar", "ab1d.tar", "ab12c.tar", "ab1e.tar"):
        (tmp_path / name).touch()
    line = f"printf '%s\\n' {pattern}"
    bash = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=True)
    expected = [str(tmp_path / name) for name in bash.stdout.decode().split()]
    found = expand(str(tmp_path / pattern))
    if pattern in ("{a,b}", "{3..}", "x.tar"):  # no ranges of numbers
        assert found is None
    else:
        assert found == expected


def test_a_pattern_that_fails_is_named(tmp_path: Path) -> None:
    make_tar(tmp_path / "0.tar", {"a.JPEG": b"x"})
    (tmp_path / "1.txt").touch()
    for name, words in {
        "{0..1}.tar": "/1.tar: no such file, which is one of ",
        "{1..0}.tar": "the range {1..0} ends before it begins",
        "*.zip": r"*.zip: no file matches",
        "[01].t*": "1.txt: several files are a source only if all are tars, or all are Parquet",
        "0.tar": None,
    }.items():
        if words is None:
            open_source(tmp_path / name).close()
            continue
        with pytest.raises(SourceError) as caught:
            open_source(tmp_path / name)
        assert words in str(caught.value)


def test_an_existing_file_is_no_pattern(tmp_path: Path) -> None:
    make_tar(tmp_path / "{0..1}[a]*.tar", {"a.JPEG": b"x"})
    with open_source(tmp_path / "{0..1}[a]*.tar") as source:
        assert [item.path for item in source.items] == ["a.JPEG"]


def test_many_tars_give_the_tensors_of_the_folder(tmp_path: Path) -> None:
    files = folders.good_files(9)
    folders.write(tmp_path / "in", files)
    names = list(files)
    for i in range(3):
        make_tar(tmp_path / f"s-{i}.tar", {name: files[name] for name in names[3 * i : 3 * i + 3]})
    (tmp_path / "s-1.tar").write_bytes((tmp_path / "s-1.tar").read_bytes() + b"junk" * 5000)
    recipe = load_recipe("squeezenet1_1")

    def tensors(where: Path, shard: tuple[int, int]) -> dict[str, bytes]:
        with open_source(where) as source:
            items = choose(source, None, shard)
            with Loader(source, recipe, items=items, batch_size=2, threads=2) as loader:
                return {
                    name: row.tobytes()
                    for batch in loader
                    for name, row in zip(batch.names, batch.array, strict=True)
                }

    for shard in ((1, 1), (2, 2)):
        expected = tensors(tmp_path / "in", shard)
        assert list(expected) == list(tensors(tmp_path / "s-{0..2}.tar", shard))
        assert expected == tensors(tmp_path / "s-?.tar", shard)
    with open_source(tmp_path / "s-*.tar") as source:
        assert [source.read(item) for item in source.items] == list(files.values())
        fds = list(source.fds)
    for fd in fds:
        with pytest.raises(OSError):
            os.fstat(fd)


def test_one_name_in_two_tars_names_both(tmp_path: Path) -> None:
    make_tar(tmp_path / "0.tar", {"n1/a.JPEG": b"x"})
    make_tar(tmp_path / "1.tar", {"n2/a.png": b"x"})
    with pytest.raises(SourceError, match=r"/0\.tar/n1/a\.JPEG and .*/1\.tar/n2/a\.png \(both 'a'"):
        open_source(tmp_path / "?.tar")


def test_a_damaged_tar_among_others_is_named(tmp_path: Path) -> None:
    make_tar(tmp_path / "0.tar", {"a.JPEG": b"x"})
    make_tar(tmp_path / "1.tar", {"b.JPEG": b"x" * 2000, "c.JPEG": b"y"})
    os.truncate(tmp_path / "1.tar", 1000)
    with pytest.raises(SourceError, match=r"/1\.tar: not a readable tar file: unexpected end"):
        open_source(tmp_path / "*.tar")
    os.unlink(tmp_path / "1.tar")
    os.mkfifo(tmp_path / "1.tar")
    with pytest.raises(SourceError, match=r"/1\.tar: not a regular file"):
        open_source(tmp_path / "*.tar")
    assert not folders.open_below(tmp_path)


def test_a_damaged_header_is_not_the_end_of_a_tar(tmp_path: Path) -> None:
    """For tarfile it is, and all members behind it would be missing without a word."""
    path = tmp_path / "a.tar"
    make_tar(path, {f"img{i}.JPEG": bytes(1024) for i in range(5)})
    data = bytearray(path.read_bytes())
    data[2 * 1536 + 3] ^= 1  # of the third name
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.tar: .*the header at byte 3,072 is damaged"):
        open_source(path)
    path.write_bytes(data[: 2 * 1536 + 100])  # cut
    with pytest.raises(SourceError, match=r"a\.tar: .*the header at byte 3,072 is damaged or cut"):
        open_source(path)
    path.write_bytes(data[: 2 * 1536])  # a tar without an end
    with open_source(path) as source:
        assert [item.name for item in source.items] == ["img0", "img1"]


def test_too_many_tars_for_the_process(tmp_path: Path) -> None:
    make_tar(tmp_path / "0.tar", {"a.JPEG": b"x"})
    for i in range(1, 40):
        os.link(tmp_path / "0.tar", tmp_path / f"{i}.tar")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 5, limits[1]))
    try:
        with pytest.raises(SourceError, match=r"may not open 40 tars at once.* ulimit -n 1064"):
            open_source(tmp_path / "{0..39}.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


SAMPLES = {
    "n01/a.jpg": b"x",
    "n01/a.cls": b"7\n",
    "n01/a.json": b'{"label": 8, "text": "y"}',  # the cls member is preferred
    "n01/b.json": b'{"cls": 9}',  # may come before the image
    "n01/b.jpg": b"x",
    "n01/c.jpg": b"x",
    "n01/c.txt": b"a caption",
    "n01/d.jpg": b"x",
    "n01/d.json": b'["no object"]',
    "n02/a.cls": b"1",  # of no image: another folder
    "README.md": b"x",
    "._a.cls": b"x",
}


def test_the_samples_of_webdataset(tmp_path: Path) -> None:
    make_tar(tmp_path / "0.tar", SAMPLES)
    make_tar(tmp_path / "1.tar", {"e.cls": b"10", "e.PNG": b"x", "a.cls": b"3"})
    with open_source(tmp_path / "{0..1}.tar") as source:
        assert [item.name for item in source.items] == ["a", "b", "c", "d", "e"]
        skipped = [os.path.relpath(path, tmp_path) for path in source.skipped]
        assert sorted(skipped) == [
            "0.tar/._a.cls",
            "0.tar/README.md",
            "0.tar/n02/a.cls",
            "1.tar/a.cls",
        ]
        assert source.read_labels() == {"a": 7, "b": 9, "e": 10}
    make_tar(tmp_path / "2.tar", {"a.jpg": b"x", "a.txt": b"7"})
    with open_source(tmp_path / "2.tar") as source:
        assert source.read_labels() is None


@pytest.mark.parametrize(
    ("member", "content", "words"),
    [
        ("a.cls", b"", "holds no class: not a whole number from 0 to 999999999"),
        ("a.cls", b"-1", "not a whole number"),
        ("a.cls", b"9" * 5000, "not a whole number"),
        ("a.cls", "٣".encode(), "not a whole number"),
        ("a.cls", b"1" * (2 << 20), r"cannot be read: larger than 1,048,576 bytes"),
        ("a.json", b'{"label": true}', "its label is not a whole number"),
        ("a.json", b'{"label": 1e3}', "its label is not a whole number"),
        ("a.json", json.dumps({"cls": 10**9}).encode(), "its label is not a whole number"),
        ("a.json", b'{"label"', "holds no class: "),
        ("a.json", b"[" * 100_000, "nested too deeply"),
    ],
)
def test_labels_of_a_hostile_tar(tmp_path: Path, member: str, content: bytes, words: str) -> None:
    make_tar(tmp_path / "0.tar", {"a.jpg": b"x", member: content})
    with (
        open_source(tmp_path / "0.tar") as source,
        pytest.raises(SourceError, match=f"^{member}: .*{words}") as caught,
    ):
        source.read_labels()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_label_that_the_end_of_the_tar_cuts_is_refused(tmp_path: Path) -> None:
    """Of `123`, the first digit alone would be another class."""
    make_tar(tmp_path / "0.tar", {"a.jpg": b"x", "a.cls": b"123"})
    with open_source(tmp_path / "0.tar") as source:
        os.truncate(tmp_path / "0.tar", source.label_members.items[0].offset + 1)
        with pytest.raises(SourceError, match=r"a\.cls: holds no class: the tar ends within it"):
            source.read_labels()


def test_the_index_does_not_keep_what_tarfile_lists(tmp_path: Path) -> None:
    """tarfile keeps every header, 1 kB and more each, unless it is told to forget it."""
    import tracemalloc

    block = bytearray(tarfile.TarInfo("notes.txt").tobuf(tarfile.USTAR_FORMAT))
    image = tarfile.TarInfo("a.jpg").tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "0.tar").write_bytes(image + bytes(block) * 20_000 + bytes(1024))
    tracemalloc.start()
    with open_source(tmp_path / "0.tar") as source:
        assert len(source.skipped) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500 * 20_000


def test_images_and_labels_of_samples_take_little_memory(tmp_path: Path) -> None:
    """Shards of millions of samples are listed by the one driver of a cluster."""
    import tracemalloc

    count = 4000
    for shard in range(2):
        members = {}
        for i in range(shard * count, (shard + 1) * count):
            members |= {f"{i:09d}.jpg": b"x", f"{i:09d}.cls": str(i % 1000).encode()}
        make_tar(tmp_path / f"{shard}.tar", members)
    tracemalloc.start()
    with open_source(tmp_path / "{0..1}.tar") as source:
        labels = source.read_labels()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert labels is not None and len(labels) == len(source.items) == 2 * count
        assert labels["000004321"] == 321
    assert held < 75 * 2 * count
