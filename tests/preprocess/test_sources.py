"""Listing images: folders, class folders, tar files, lists."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import folders, jpegs
from zoofast.base.names import stem
from zoofast.errors import SourceError
from zoofast.preprocess.folder import choose
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.recipe_file import load_recipe
from zoofast.preprocess.sources import Item, Source, open_source


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def listed(where: Path) -> tuple[list[str], list[str]]:
    with open_source(where) as source:
        return [item.name for item in source.items], source.skipped


def test_a_flat_folder_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPEG", "a10.jpg", "a2.jpeg", "Z.PNG", "c.WebP", "d.JpG")
    names, skipped = listed(tmp_path)
    assert names == ["Z", "a10", "a2", "b", "c", "d"]  # by path, as sorted() has it
    assert skipped == []


def test_what_is_no_image_is_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.JPEG", "a.txt", "README", ".hidden", "b.jpeg.bak", "sub/c.xml")
    names, skipped = listed(tmp_path)
    assert names == ["a"]
    assert {os.path.relpath(path, tmp_path) for path in skipped} == {
        "a.txt",
        "README",
        ".hidden",
        "b.jpeg.bak",
        "sub/c.xml",
    }


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "n02/b.JPEG", "n01/c.JPEG", "n01/a.JPEG", "n10/deep/er/d.JPEG")
    names, _ = listed(tmp_path)
    assert names == ["a", "c", "b", "d"]


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "x.JPEG/a.JPEG")
    assert listed(tmp_path)[0] == ["a"]


def test_paths_are_sorted_as_texts(tmp_path: Path) -> None:
    """Characters before and after the slash, in names of files and of folders."""
    names = ["a-b.jpg", "a.d/x.jpg", "a/b/z.jpg", "a/b.jpg", "a/b-c/y.jpg", "a0.jpg", "a!/w.jpg"]
    touch(tmp_path, *names)
    with open_source(tmp_path) as source:
        paths = [item.path for item in source.items]
    assert paths == sorted(str(tmp_path / name) for name in names)


def test_linked_class_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "data", "a.JPEG")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "n01").symlink_to(tmp_path / "data")
    assert listed(tmp_path / "val")[0] == ["a"]


def test_a_link_to_a_folder_above_does_not_loop(tmp_path: Path) -> None:
    touch(tmp_path, "n01/a.JPEG")
    (tmp_path / "n01" / "up").symlink_to(tmp_path)
    (tmp_path / "n01" / "here").symlink_to(tmp_path / "n01")
    assert listed(tmp_path)[0] == ["a"]


def test_one_folder_by_two_links_is_not_listed_once_in_silence(tmp_path: Path) -> None:
    touch(tmp_path / "data", "a.JPEG")
    (tmp_path / "val").mkdir()
    for name in ("n01", "n02"):
        (tmp_path / "val" / name).symlink_to(tmp_path / "data")
    with pytest.raises(SourceError, match=r"n0[12] and .*n0[12] are one folder, .* first dot"):
        open_source(tmp_path / "val")


def test_a_link_to_nothing_is_a_failure_later_not_now(tmp_path: Path) -> None:
    touch(tmp_path, "a.JPEG")
    (tmp_path / "b.JPEG").symlink_to(tmp_path / "gone")
    (tmp_path / "c.JPEG").symlink_to(tmp_path / "c.JPEG")
    assert listed(tmp_path)[0] == ["a", "b", "c"]


def make_tar(path: Path, members: dict[str, bytes], format: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(data)
                if "\0" in name:  # other headers end a name there
                    info.pax_headers = {"path": name}
                archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_read_in_place(tmp_path: Path, format: int) -> None:
    deep = "/".join(["folder"] * 12)
    members = {
        "z.JPEG": b"zz",
        "val/": b"",
        "val/n01/": b"",
        "val/n01/a.jpeg": b"aaa",
        f"{deep}/b.JPG": b"",
        "notes.txt": b"no image",
        "./c.PNG": os.urandom(3000),
    }
    if format != tarfile.USTAR_FORMAT:
        members["long" * 60 + ".JPEG"] = b"long name"
        members["größe.JPEG"] = b"utf-8"
    make_tar(tmp_path / "val.tar", members, format)
    before = set(tmp_path.iterdir())
    with open_source(tmp_path / "val.tar") as source:
        images = {name: data for name, data in members.items() if not name.endswith(("/", "txt"))}
        assert [item.path for item in source.items] == list(images)  # the members' own order
        assert [item.name for item in source.items] == [stem(name) for name in images]
        assert source.skipped == ["notes.txt"]
        for item in source.items:
            assert source.read(item) == images[item.path]
    assert set(tmp_path.iterdir()) == before  # nothing was unpacked


def test_links_inside_a_tar_are_said(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.JPEG")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("b.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "a.JPEG"
        archive.addfile(link)
        link.name = "notes.txt"
        archive.addfile(link)
    assert listed(tmp_path / "a.tar") == (["a", "b"], ["notes.txt"])
    with open_source(tmp_path / "a.tar") as source:
        assert [source.read(item) for item in source.items] == [b"abc", b""]
        with Loader(source, load_recipe("alexnet"), items=source.items[1:], threads=1) as loader:
            (failure,) = [failure for batch in loader for failure in batch.failures]
    assert (failure.name, failure.cause) == ("b", "empty")
    assert failure.reason == "the file is empty, or a link in a tar"


@pytest.mark.parametrize("cut", [300, 512, 700, 1100])
def test_a_cut_tar_is_refused_or_shows_at_the_image(tmp_path: Path, cut: int) -> None:
    make_tar(tmp_path / "a.tar", {"a.JPEG": b"x" * 600, "b.JPEG": b"y" * 600})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:cut])
    with pytest.raises(SourceError, match=r"a\.tar"):
        open_source(tmp_path / "a.tar")


def test_not_a_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"hello" * 500)
    with pytest.raises(SourceError, match=r"a\.tar: not a readable tar file"):
        open_source(tmp_path / "a.tar")


def test_a_zip_is_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK" + bytes(50))
    with pytest.raises(SourceError, match=r"a\.zip: .*unpack"):
        open_source(tmp_path / "a.zip")


def test_a_list_of_paths(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.JPEG", "images/a.JPEG")
    absolute = tmp_path / "images" / "a.JPEG"
    (tmp_path / "list.txt").write_text(f"images/b.JPEG\r\n\n# a comment\n{absolute}  \nREADME.md\n")
    with open_source(tmp_path / "list.txt") as source:
        assert [item.name for item in source.items] == ["b", "a"]  # the list's own order
        assert [source.read(item) for item in source.items] == [b"images/b.JPEG", b"images/a.JPEG"]
        assert len(source.skipped) == 1


def test_a_list_may_name_every_file_of_a_folder(tmp_path: Path) -> None:
    """But those with a line break in the name."""
    names = ["#1.jpg", " lead.jpg", "a\u2028b.jpg", "c\x85d\x0be.jpg", os.fsdecode(b"caf\xe9.jpg")]
    touch(tmp_path, *names[:-1])
    (tmp_path / names[-1]).write_bytes(b"latin")
    lines = "".join(f"{name}\n" for name in [*names, "#commented.jpg"])
    (tmp_path / "list").write_bytes(os.fsencode(lines))
    with open_source(tmp_path / "list") as source:
        assert [item.path for item in source.items] == [str(tmp_path / name) for name in names]
        assert source.read(source.items[-1]) == b"latin"
        assert source.skipped == []


def test_an_image_given_as_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.JPEG").write_bytes(jpegs.jpeg(9, 9))
    with pytest.raises(SourceError, match=r"a\.JPEG: a single image is no source; name its folder"):
        open_source(tmp_path / "a.JPEG")
    (tmp_path / "a.JPEG").rename(tmp_path / "model.onnx")
    with pytest.raises(SourceError, match=r"model\.onnx: no folder, \.tar .* or text file"):
        open_source(tmp_path / "model.onnx")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="gone: no such folder"):
        open_source(tmp_path / "gone")
    with pytest.raises(SourceError, match=r"no images; known suffixes: .*\.jpeg"):
        open_source(tmp_path)
    touch(tmp_path, "a.txt", "b.txt")
    with pytest.raises(SourceError, match=r"no images \(2 other files\)"):
        open_source(tmp_path)
    make_tar(tmp_path / "empty.tar", {})
    with pytest.raises(SourceError, match="no images"):
        open_source(tmp_path / "empty.tar")
    (tmp_path / "empty.lst").write_text("")
    with pytest.raises(SourceError, match="no images"):
        open_source(tmp_path / "empty.lst")


@pytest.mark.parametrize(
    "names",
    [
        ("a.JPEG", "a.png"),
        ("a.1.JPEG", "a.2.JPEG"),
        ("n01/a.JPEG", "n02/a.JPEG"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "tar", "list"])
def test_two_images_of_one_output_are_refused(
    tmp_path: Path, names: tuple[str, str], kind: str
) -> None:
    where = tmp_path / "in"
    touch(where, *names)
    if kind == "tar":
        make_tar(tmp_path / "in.tar", dict.fromkeys(names, b"x"))
        where = tmp_path / "in.tar"
    elif kind == "list":
        (tmp_path / "in.txt").write_text("".join(f"in/{name}\n" for name in names))
        where = tmp_path / "in.txt"
    with pytest.raises(SourceError, match="first dot") as caught:
        open_source(where)
    for name in names:
        assert name in str(caught.value)


def test_many_clashes_are_one_line(tmp_path: Path) -> None:
    for i in range(9):
        touch(tmp_path, f"{i}.JPEG", f"{i}.png")
    with pytest.raises(SourceError, match=r"9 images would overwrite.*and 6 more") as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "tar", "list"])
def test_dotfiles_are_skipped_and_counted(tmp_path: Path, kind: str) -> None:
    """macOS adds a `._x.jpg` to every x.jpg of an archive or a foreign disk."""
    where, names = tmp_path / ".in", ["a.JPEG", "._a.JPEG", "n01/.b.JPEG", ".DS_Store"]
    touch(where, *names)
    if kind == "tar":
        members = {f"./{name}": b"x" for name in names}
        make_tar(tmp_path / "in.tar", members)
        where = tmp_path / "in.tar"
    elif kind == "list":
        (tmp_path / "in.txt").write_text("".join(f".in/{name}\n" for name in names))
        where = tmp_path / "in.txt"
    names_listed, skipped = listed(where)
    assert names_listed == ["a"]
    assert sorted(map(os.path.basename, skipped)) == [".DS_Store", "._a.JPEG", ".b.JPEG"]


@pytest.mark.parametrize("kind", ["folder", "tar", "list"])
def test_folders_that_begin_with_a_dot_are_skipped(tmp_path: Path, kind: str) -> None:
    where, names = tmp_path / "in", ["a.JPEG", ".cache/b.JPEG", "n/.git/o/c.JPEG"]
    touch(where, *names)
    (where / ".link").symlink_to("n")
    expected = ["a"], [".cache", ".git", ".link"]
    if kind == "tar":
        make_tar(tmp_path / "in.tar", dict.fromkeys([*names, "../d.JPEG"], b"x"))
        where, expected = tmp_path / "in.tar", (["a", "d"], ["b.JPEG", "c.JPEG"])
    elif kind == "list":
        (tmp_path / "in.txt").write_text("".join(f"in/{name}\n" for name in names))
        where, expected = tmp_path / "in.txt", (["a", "b", "c"], [])
    names_listed, skipped = listed(where)
    assert (names_listed, sorted(map(os.path.basename, skipped))) == expected


BAD_NAMES = {
    "new\nline.JPEG": "a line break, a slash or a null byte",
    "x" * 241 + ".JPEG": "has more than 240 bytes",
    "é" * 121 + ".JPEG": "has more than 240 bytes",
}


@pytest.mark.parametrize("kind", ["folder", "tar", "list"])
def test_a_name_that_cannot_be_one_is_a_failure_of_that_image(tmp_path: Path, kind: str) -> None:
    images = {name: jpegs.jpeg(300, 300) for name in ["a.JPEG", "z.JPEG", "y" * 240 + ".JPEG"]}
    bad = dict(BAD_NAMES)
    if kind == "tar":  # pax attributes can have any characters
        bad["../up\0down.JPEG"] = "a line break, a slash or a null byte"
    elif kind == "list":
        del bad["new\nline.JPEG"]
    where = tmp_path / "in"
    where.mkdir()
    if kind == "tar":
        where = tmp_path / "in.tar"
        make_tar(where, images | dict.fromkeys(bad, b"x"), tarfile.PAX_FORMAT)
    else:
        for name, data in (images | dict.fromkeys(bad, b"x")).items():
            (where / name).write_bytes(data)
    if kind == "list":
        (tmp_path / "in.txt").write_text("".join(f"in/{name}\n" for name in images | bad))
        where = tmp_path / "in.txt"
    recipe, names, failures = load_recipe("squeezenet1_1"), [], {}
    with open_source(where) as source, Loader(source, recipe, threads=1) as loader:
        for batch in loader:
            names += batch.names
            failures |= {Path(failure.path).name: failure for failure in batch.failures}
            assert batch.array.any(axis=(1, 2, 3)).all()
    assert sorted(names) == sorted(stem(name) for name in images)
    assert {name.rpartition("/")[2] for name in bad} == failures.keys()
    for name, words in bad.items():
        failure = failures[name.rpartition("/")[2]]
        assert failure.cause == "bad name" and words in failure.reason


def header(name: str, size: int, pax: bool = False) -> bytes:
    """A tar member's header that claims to be of any `size`; tarfile writes none below 0."""
    info = tarfile.TarInfo(name)
    if pax:
        info.type = tarfile.XHDTYPE
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size < 0 or size >= 8**11:
        block[124:136] = size.to_bytes(12, "big", signed=True)
        block[124] |= 0x80
    else:
        block[124:136] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_a_member_of_an_archive_is_never_a_path(tmp_path: Path) -> None:
    """A size of -1 (base 256) once made zoofast open the member's name on the local disk."""
    secret = tmp_path / "secret.JPEG"
    secret.write_bytes(jpegs.jpeg(300, 300))
    good = io.BytesIO()
    with tarfile.open(fileobj=good, mode="w") as archive:
        info = tarfile.TarInfo("good.JPEG")
        info.size = secret.stat().st_size
        archive.addfile(info, io.BytesIO(secret.read_bytes()))
    (tmp_path / "x.tar").write_bytes(header(str(secret)[:99], -1) + good.getvalue())
    recipe = load_recipe("squeezenet1_1")
    try:
        source = open_source(tmp_path / "x.tar")
    except SourceError as error:  # a Python that refuses such an archive
        assert "not a readable tar file" in str(error)
        return
    with source, Loader(source, recipe, threads=1) as loader:
        (batch,) = loader
    assert batch.names == ["good"]
    assert [failure.reason for failure in batch.failures] == ["its size in the archive is -1 bytes"]


@pytest.mark.parametrize(
    "data",
    [
        header("a.JPEG", -512) * 3,  # the next member is this one again
        header("a.JPEG", -1024) * 3,
        header("a", 1 << 40, pax=True) + b"x" * 2048,  # attributes of a terabyte
        header("a", -1024, pax=True) + b"x" * 2048,
        header("a", 2048, pax=True) + (b"12 size=" + b"9" * 2040)[:2048] + header("a.JPEG", 0),
        header("a", 1024, pax=True) + b"\0" * 1024 + header("a.JPEG", 0),
        header("a", 0, pax=True) * 3000 + header("a.JPEG", 0),
        header("a.JPEG", 1 << 90),
    ],
    ids=["loop", "back", "large", "negative", "digits", "nulls", "deep", "beyond"],
)
def test_hostile_tars_end_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data + b"\0" * 1024)
    try:
        with open_source(tmp_path / "x.tar") as source:
            assert len(source.items) == 1
            with Loader(source, load_recipe("squeezenet1_1"), threads=1) as loader:
                assert [len(batch.failures) for batch in loader] == [1]
    except SourceError as error:
        assert str(error).startswith(f"{tmp_path}/x.tar: ")
        assert "\n" not in str(error)


def test_twelve_folders_linked_to_each_other(tmp_path: Path) -> None:
    """Each link leads to all others: 12! paths, but twelve folders."""
    folders_ = [tmp_path / f"n{i:02d}" for i in range(12)]
    for folder in folders_:
        folder.mkdir()
        for other in folders_:
            (folder / f"to-{other.name}").symlink_to(other)
    touch(tmp_path, "a.JPEG")
    assert listed(tmp_path)[0] == ["a"]  # the linked folders have no images
    touch(folders_[3], "b.JPEG")
    with pytest.raises(SourceError, match=r"n03 are one folder, .* remove the link"):
        open_source(tmp_path)


def test_a_link_beside_its_folder_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "n01/a.JPEG")
    (tmp_path / "also").symlink_to(tmp_path / "n01")
    with pytest.raises(SourceError, match=r"/also and .*/n01 are one folder"):
        open_source(tmp_path)


def test_an_unreadable_folder_is_named(tmp_path: Path, open_folder: Path) -> None:
    touch(open_folder, "n01/a.JPEG", "n02/b.JPEG")
    (open_folder / "n02").chmod(0)
    with folders.without_privileges(), pytest.raises(SourceError, match="/n02: Permission denied"):
        open_source(open_folder)


def test_a_list_of_any_size_and_kind(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as sparse:
        sparse.truncate(100 << 30)
    with pytest.raises(SourceError, match="huge: line 1 has more than 65,536 bytes"):
        open_source(tmp_path / "huge")
    with pytest.raises(SourceError, match="/dev/zero: not a regular file"):
        open_source("/dev/zero")
    reading, writing = os.pipe()
    os.write(writing, b"/in/x.JPEG\n")
    os.close(writing)
    with open_source(f"/dev/fd/{reading}") as source:  # <(command) of a shell
        assert [item.path for item in source.items] == ["/in/x.JPEG"]
    os.close(reading)
    (tmp_path / "list").write_bytes(b"a\0b/x.JPEG\n")
    with open_source(tmp_path / "list") as source:
        assert source.items[0].problem == "the path has a null byte"


def test_names_of_any_bytes(tmp_path: Path) -> None:
    """File systems allow names that are not UTF-8."""
    raw = os.fsencode(tmp_path) + b"/caf\xe9.JPEG"
    Path(os.fsdecode(raw)).write_bytes(jpegs.jpeg(300, 300))
    recipe = load_recipe("squeezenet1_1")
    with open_source(tmp_path) as source, Loader(source, recipe, threads=1) as loader:
        (batch,) = loader
        assert [os.fsencode(name) for name in batch.names] == [b"caf\xe9"]
        assert batch.array.shape == (1, 224, 224, 3)
        assert np.any(batch.array)


@given(
    total=st.integers(0, 60),
    n=st.integers(1, 9),
    limit=st.none() | st.integers(1, 70),
)
def test_shards_part_the_source(total: int, n: int, limit: int | None) -> None:
    source = Source("here", [Item(str(i), f"{i}.JPEG") for i in range(total)])
    shards = [choose(source, None, (i, n)) for i in range(1, n + 1)]
    together = [item for shard in shards for item in shard]
    assert len(together) == total
    assert set(together) == set(source.items)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    for i, shard in enumerate(shards, 1):
        assert shard == sorted(shard, key=source.items.index)
        assert choose(source, limit, (i, n)) == shard[:limit]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("val/ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000001"),
        ("a.1.bin", "a"),
        ("plain", "plain"),
        ("dir.with.dots/a.b", "a"),
    ],
)
def test_names_end_at_the_first_dot(path: str, name: str) -> None:
    assert stem(path) == name
