"""The manifest as outside data, what --overwrite removes, and two writers in one folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import folders
from zoofast.errors import OutputError
from zoofast.preprocess.folder import PrepOptions, prepare_folder
from zoofast.preprocess.manifest import MANIFEST, read_manifest
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sinks import FORMATS
from zoofast.preprocess.sources import open_source

PACKING = {"images": 2, "fill": "zero", "names": "{i}.bin", "mirror": False, "bins": {}}


@pytest.fixture
def chosen() -> Recipe:
    return parse_recipe(folders.SPEC.toml(), "test")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return folders.write(tmp_path / "in", folders.good_files(4))


def run(images: Path, out: Path, recipe: Recipe, **options: Any) -> None:
    with open_source(images) as source:
        prepare_folder(source, out, recipe, PrepOptions(threads=1, **options))


def change(out: Path, **changes: Any) -> None:
    content = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps(content | changes))


# ---- removing ------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_overwriting_removes_only_what_prep_wrote(
    images: Path, tmp_path: Path, chosen: Recipe, format: str
) -> None:
    out = tmp_path / "out"
    run(images, out, chosen, format=format)
    others = ["other.bin", "other.npy", "img0001.txt", "img0001.JPEG", "other.bin.part"]
    for name in others:
        (out / name).write_text("precious")
    made = {path.name for path in out.iterdir()} - set(others) - {MANIFEST}
    run(images, out, chosen, format="npy" if format == "bin" else "bin", limit=1, overwrite=True)
    left = {path.name for path in out.iterdir()}
    assert not left & made
    assert left - set(others) - {MANIFEST} == {f"img0000.{'npy' if format == 'bin' else 'bin'}"}
    assert all((out / name).read_text() == "precious" for name in others)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"options": {"format": "JPEG"}}, "'format' is none of bin, npy, pack"),
        ({"options": {"format": "bin/../JPEG"}}, "'format' is none of"),
        ({"options": {"format": ["bin"]}}, "'format' is not a text"),
        ({"options": {}}, "'format' is not a text"),
        ({"options": "bin"}, "'options' is not an object"),
        ({"names": None}, "'names' is not a list"),
        ({"names": ["../in/img0001"]}, "'names' has one that no image can have"),
        ({"names": ["/etc/passwd"]}, "'names' has one"),
        ({"names": ["a\0b"]}, "'names' has one"),
        ({"names": [""]}, "'names' has one"),
        ({"names": [".."]}, "'names' has one"),
        ({"names": [7]}, "'names' has one"),
        ({"names": ["x" * 1000]}, "'names' has one"),
        ({"names": ["\ud800"]}, "'names' has one"),
        ({"recipe": {"digest": 7}}, "'name' is not a text"),
        ({"recipe": []}, "'recipe' is not an object"),
        ({"state": 1e400}, "'state' is not a text"),
        ({"packing": 8}, "'packing' is not an object"),
        ({"packing": PACKING | {"images": "8"}}, "'packing' has a key of another type"),
        ({"packing": PACKING | {"images": 0}}, "a bin holds 1 to 1024 images"),
        ({"packing": PACKING | {"names": "{stem.__class__}.bin"}}, "bin names"),
        ({"packing": PACKING | {"bins": {"../in/img0001.bin": [""]}}}, "'bins' has one"),
        ({"packing": PACKING | {"bins": {"a/b/c.bin": [""]}}}, "'bins' has one"),
        ({"packing": PACKING | {"bins": {"/a.bin": [""]}}}, "'bins' has one"),
        ({"packing": PACKING | {"bins": {"img0001.JPEG": [""]}}}, "'bins' has one"),
        ({"packing": PACKING | {"bins": {"0.bin": ["img0009"]}}}, "'bins' has an image"),
        ({"packing": PACKING | {"bins": {"0.bin": ["img0001"] * 3}}}, "'bins' has one"),
        ({"failures": [7]}, "'name' is not a text"),
        ({"resize_order": None}, "'resize_order' is not a text"),
    ],
    ids=str,
)
def test_a_manifest_is_checked_before_anything_is_removed(
    images: Path, tmp_path: Path, chosen: Recipe, changes: dict[str, Any], words: str
) -> None:
    out = tmp_path / "out"
    run(images, out, chosen)
    change(out, **changes)
    (out / "x.JPEG").write_text("precious")
    before = folders.sums(tmp_path, ".bin", ".JPEG")
    for options in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(OutputError) as caught:
            run(images, out, chosen, **options)
        assert f"{MANIFEST}: not a manifest of this zoofast ({words}" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert folders.sums(tmp_path, ".bin", ".JPEG") == before


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"7",
        b"[]",
        b"{}",
        b'{"state": ',
        b"[" * 100_000,
        b'{"state":' * 50_000,
        b'{"total": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
        b"\0" * 100,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_any_text_for_a_manifest(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(text)
    with pytest.raises(OutputError, match=f"{MANIFEST}: not a manifest of this zoofast") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(OutputError, match=f"{MANIFEST}: cannot be read: not a regular file"):
        read_manifest(tmp_path)


def test_a_resumed_folder_knows_all_its_images(
    images: Path, tmp_path: Path, chosen: Recipe
) -> None:
    """So that --overwrite removes the tensors of every run, whatever part it was of."""
    out = tmp_path / "out"
    for shard in ((1, 2), (2, 2)):
        run(images, out, chosen, shard=shard, resume=True)
    earlier = read_manifest(out)
    assert earlier is not None
    assert sorted(earlier.names) == [f"img000{i}" for i in range(4)]
    run(images, out, chosen, limit=1, overwrite=True)
    assert [path.name for path in out.glob("*.bin")] == ["img0000.bin"]


def test_links_of_temporary_names_are_not_followed(
    images: Path, tmp_path: Path, chosen: Recipe
) -> None:
    out, target = tmp_path / "out", tmp_path / "target"
    out.mkdir()
    target.write_text("precious")
    for name in (f".{MANIFEST}.part", f"{MANIFEST}.part", ".zoofast.lock", "pack.npy.part"):
        (out / name).symlink_to(target)
    (out / "pack.names.txt.part").symlink_to(target)
    run(images, out, chosen, format="pack")
    assert target.read_text() == "precious"
    assert not any(path.is_symlink() for path in out.iterdir() if path.name != f"{MANIFEST}.part")


# ---- two writers ---------------------------------------------------------------

SLOW = """
import sys, time
from zoofast import PrepOptions, load_recipe, open_source, prepare_folder
options = PrepOptions(format=sys.argv[4], threads=1, resume=True)
def told(report):
    print("began", flush=True)
    time.sleep(600)
with open_source(sys.argv[1]) as source:
    prepare_folder(source, sys.argv[2], load_recipe(sys.argv[3]), options, told)
"""


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_writer_ends_at_once_and_changes_nothing(
    images: Path, tmp_path: Path, chosen: Recipe, format: str
) -> None:
    out, recipe = tmp_path / "out", folders.recipe_file(tmp_path / "r")
    first = subprocess.Popen(
        [sys.executable, "-c", SLOW, images, out, recipe, format], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "began\n"
        before = folders.sums(out, ".bin", ".npy", ".part", ".json")
        for more in ("--resume", "--overwrite"):
            command = [*_prep(images, out, recipe, format), more]
            second = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert second.returncode == 2
            assert f"{out} is in use by process {first.pid} on " in second.stderr
            assert second.stderr.count("\n") == 1
        assert folders.sums(out, ".bin", ".npy", ".part", ".json") == before
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    last = subprocess.run([*_prep(images, out, recipe, format), "--resume"], capture_output=True)
    assert last.returncode == 0  # the kernel freed the lock
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def _prep(images: Path, out: Path, recipe: str, format: str) -> list[str]:
    code = "import sys; from zoofast.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "prep", str(images), str(out), "--recipe", recipe]
    return [*command, "--format", format, "--quiet"]


@pytest.mark.parametrize("format", ["bin", "pack"])
def test_writers_that_start_together(tmp_path: Path, chosen: Recipe, format: str) -> None:
    """Some are refused; the folder is that of one run, whichever writers came through."""
    images = folders.write(tmp_path / "in", folders.good_files(30))
    out, recipe = tmp_path / "out", folders.recipe_file(tmp_path / "r")
    command = [*_prep(images, out, recipe, format), "--resume"]
    codes = set()
    for _ in range(2):
        writers = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(3)
        ]
        for writer in writers:
            _, error = writer.communicate()
            assert writer.returncode == (2 if b"is in use by" in error else 0)
            codes.add(writer.returncode)
    assert 0 in codes
    alone = tmp_path / "alone"
    run(images, alone, chosen, format=format)
    ends = (".bin", ".npy", ".txt", ".part")
    assert folders.sums(out, *ends) == folders.sums(alone, *ends)
