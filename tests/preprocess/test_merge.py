"""`zoofast merge` of folders: what one machine would have made of the whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import folders, in_process
from zoofast.base.files import PART
from zoofast.base.lock import output_lock
from zoofast.errors import OutputError
from zoofast.preprocess import merge
from zoofast.preprocess.manifest import MANIFEST

N = 3
# of one run, or of when and where it ran
OF_A_RUN = {"seconds", "images_per_second", "stage_seconds", "folder", "threads", "verified"}


def prep(images: Path, out: Path, recipe: str, *more: object) -> None:
    done = in_process.zoofast("prep", images, out, "--recipe", recipe, "--quiet", *more)
    assert done.returncode in (0, 1), done.stderr


def manifest(folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return {key: value for key, value in said.items() if key not in OF_A_RUN}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images, bad ones, and one whose name cannot be that of a tensor."""
    files = {**folders.good_files(8), **folders.BAD_FILES, "img0003\nb.JPEG": b"x"}
    return folders.write(tmp_path_factory.mktemp("merge") / "in", files)


@pytest.mark.parametrize(
    "more",
    [
        ["--format", "bin", "--verify", 2],
        ["--format", "npy", "--limit", 2],
        ["--format", "pack"],
        ["--bin-names", "{folder}/{name}.bin", "--mirror"],
    ],
    ids=lambda more: more[1],
)
def test_folders_become_what_one_machine_makes(
    images: Path, tmp_path: Path, more: list[object]
) -> None:
    recipe = folders.recipe_file(tmp_path)
    whole, merged = tmp_path / "whole", tmp_path / "merged"
    parts = [tmp_path / f"part{i}" for i in range(N)]
    limited = [*more[:-1], N * 2] if "--limit" in more else more
    prep(images, whole, recipe, *limited)
    for i, part in enumerate(parts, 1):
        prep(images, part, recipe, "--shard", f"{i}/{N}", *more)
    for again in ([], ["--overwrite"]):
        done = in_process.zoofast("merge", merged, *reversed(parts), *again)
        assert done.returncode == (1 if manifest(whole)["failed"] else 0), done.stderr
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    assert len(files) > 2
    assert sorted(path.relative_to(merged) for path in merged.rglob("*") if path.is_file()) == (
        sorted(files)
    )
    for file in files:
        if file.name != MANIFEST:
            assert (merged / file).read_bytes() == (whole / file).read_bytes(), file
    expected = manifest(whole)
    expected["options"]["verify"] = manifest(merged)["options"]["verify"]
    assert manifest(merged) == expected
    assert list(manifest(merged)) == list(expected)
    done = in_process.zoofast("merge", merged, *parts)
    assert (done.returncode, "replace it with --overwrite" in done.stderr) == (2, True)


def test_a_merge_that_cannot_remove_earlier_tensors(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: str, files: list[str]) -> None:
        raise OutputError(f"{folder}: cannot be removed")

    prep(images, tmp_path / "part", folders.recipe_file(tmp_path))
    for expected in ("complete", "interrupted"):
        done = in_process.zoofast("merge", tmp_path / "out", tmp_path / "part", "--overwrite")
        assert manifest(tmp_path / "out")["state"] == expected, done.stderr
        monkeypatch.setattr(merge, "remove_files", fail)


def test_packs_that_cannot_be_joined_replace_nothing(images: Path, tmp_path: Path) -> None:
    recipe = folders.recipe_file(tmp_path)
    parts = [tmp_path / f"part{i}" for i in range(N)]
    for i, part in enumerate(parts, 1):
        prep(images, part, recipe, "--format", "pack", "--shard", f"{i}/{N}")
    out = tmp_path / "out"
    prep(images, out, recipe, "--format", "pack")
    whole, sums = folders.sums(out, ".npy", ".txt"), folders.sums(out, "")
    names = parts[1] / "pack.names.txt"
    good = names.read_text()
    for said, bad in (("; missing: img", "x\n" + good.partition("\n")[2]), ("names", good[8:])):
        names.write_text(bad)
        done = in_process.zoofast("merge", out, *parts, "--overwrite")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"{parts[1]}/pack.npy: " in done.stderr and said in done.stderr
        assert folders.sums(out, "") == sums
    # Rows in another order, as older versions wrote them where an image failed at first.
    names.write_text("".join(sorted(good.splitlines(True), reverse=True)))
    rows = np.load(parts[1] / "pack.npy")
    np.save(parts[1] / "pack.npy", rows[::-1])
    done = in_process.zoofast("merge", out, *parts, "--overwrite")
    assert done.returncode == 1, done.stderr  # images failed
    assert folders.sums(out, ".npy", ".txt") == whole


def test_too_little_space_is_said_before_tensors_are_replaced(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = folders.recipe_file(tmp_path), tmp_path / "out"
    for format in ("bin", "pack"):
        part = tmp_path / format
        prep(images, part, recipe, "--format", format)
        # For files, as if `out` were on another disk, where they cannot be linked.
        monkeypatch.setattr(merge, "_is_linked", lambda shard, out: False)
        with monkeypatch.context() as patched:
            patched.setattr("zoofast.preprocess.folder.free_space", lambda folder: 1000)
            done = in_process.zoofast("merge", out, part)
            assert done.returncode == 2
            assert "bytes are needed and 1,000 are free; free some space" in done.stderr
            assert not out.exists()


def test_what_is_missing_or_double_is_named(images: Path, tmp_path: Path) -> None:
    def said(*shards: Path) -> str:
        done = in_process.zoofast("merge", tmp_path / "merged", *shards)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "merged").exists()
        return done.stderr

    recipe = folders.recipe_file(tmp_path)
    first, second, third = parts = [tmp_path / f"part{i}" for i in range(N)]
    for i, part in enumerate(parts, 1):
        prep(images, part, recipe, "--shard", f"{i}/{N}")
    assert "1 shard of 3 missing: 2/3" in said(third, first)
    shutil.copytree(second, tmp_path / "copy")
    assert "copy are both shard 2/3; give one of them" in said(*parts, tmp_path / "copy")
    prep(images, tmp_path / "other", recipe, "--shard", "2/3", "--dtype", "float16")
    assert "was prepared with another recipe" in said(first, tmp_path / "other", third)
    prep(images, tmp_path / "half", recipe, "--shard", "2/2")
    assert "is a shard of 2, but" in said(first, tmp_path / "half")
    assert "holds no zoofast-prep.json" in said(first, images)
    gone = sorted(second.glob("*.bin"))[0]
    gone.unlink()
    assert f"1 tensor missing or not whole: {gone.name}" in said(*parts)
    content = json.loads((second / MANIFEST).read_text())
    stolen = json.loads((first / MANIFEST).read_text())["names"][0]
    content["names"][0] = stolen
    (second / MANIFEST).write_text(json.dumps(content))
    assert f"in two shards: {stolen} (in " in said(*parts)
    (second / MANIFEST).write_text(json.dumps({**content, "places_without_name": [99]}))
    assert "holds tensors of several runs" in said(*parts)
    (second / MANIFEST).write_text(json.dumps({**content, "state": "interrupted"}))
    assert "is not complete" in said(*parts)


def two_shards(images: Path, tmp_path: Path, *more: object) -> list[Path]:
    """Their folders."""
    parts = [tmp_path / f"part{i}" for i in range(2)]
    for i, part in enumerate(parts, 1):
        prep(images, part, folders.recipe_file(tmp_path), "--shard", f"{i}/2", *more)
    return parts


def said(out: Path, *words: object) -> str:
    done = in_process.zoofast("merge", out, *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    return done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_shard_is_not_overwritten(images: Path, tmp_path: Path) -> None:
    parts = two_shards(images, tmp_path)
    before = contents(parts[0])
    (tmp_path / "link").symlink_to(parts[0])
    for out in (parts[0], tmp_path / "link"):
        with pytest.raises(OutputError, match="is one of the shards; choose another folder"):
            merge.merge_folders(parts, out, overwrite=True)
        assert "would replace the file of SHARD" in said(out, *parts, "--overwrite")
    assert contents(parts[0]) == before
    (tmp_path / "out").mkdir()
    with output_lock(tmp_path / "out"):
        assert "in use" in said(tmp_path / "out", *parts)


def test_what_a_killed_merge_leaves(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, out = two_shards(images, tmp_path), tmp_path / "out"

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merge, "_join", killed)
        with pytest.raises(KeyboardInterrupt):
            merge.merge_folders(parts, out)
    assert manifest(out)["state"] == "running"
    first, second = (sorted(part.glob("*.bin"))[0] for part in parts)
    before = second.read_bytes()
    (out / MANIFEST).unlink()
    os.link(second, out / (first.name + PART))  # would be written through
    merge.merge_folders(parts, out, overwrite=True)
    assert second.read_bytes() == before and (out / first.name).read_bytes() == first.read_bytes()


def test_file_systems_without_links(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*paths: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    parts, out = two_shards(images, tmp_path), tmp_path / "out"
    monkeypatch.setattr("zoofast.preprocess.merge.os.link", fail)
    merge.merge_folders(parts, out)
    tensors = {name: data for part in parts for name, data in contents(part).items()}
    assert {**tensors, MANIFEST: b""} == {**contents(out), MANIFEST: b""}


def test_tensors_that_are_not_whole(images: Path, tmp_path: Path) -> None:
    parts = two_shards(images, tmp_path)
    cut = sorted(parts[1].glob("*.bin"))[0]
    os.truncate(cut, cut.stat().st_size - 1)
    assert f"1 tensor missing or not whole: {cut.name}" in said(tmp_path / "out", *parts)


def test_packs_that_lack_an_image(images: Path, tmp_path: Path) -> None:
    parts = two_shards(images, tmp_path, "--format", "pack")
    names, rows = parts[1] / "pack.names.txt", np.load(parts[1] / "pack.npy")
    lines = names.read_text().splitlines()
    np.save(parts[1] / "pack.npy", rows[1:])
    names.write_text("".join(f"{line}\n" for line in lines[1:]))
    reason = f"has other images than the manifest; prepare the shard anew; missing: {lines[0]}"
    assert reason in said(tmp_path / "out", *parts)


def test_shards_of_other_options(images: Path, tmp_path: Path) -> None:
    parts = two_shards(images, tmp_path)
    recipe = folders.recipe_file(tmp_path)
    for words in (["--format", "npy"], ["--limit", 2], ["--bin-names", "{name}.bin"]):
        other = tmp_path / f"other{words[0]}"
        prep(images, other, recipe, "--shard", "2/2", *words)
        assert "was prepared with another " in said(tmp_path / "out", parts[0], other)
    fewer = {path.name: path.read_bytes() for path in sorted(images.iterdir())[:4]}
    prep(folders.write(tmp_path / "in", fewer), tmp_path / "few", recipe, "--shard", "2/2")
    assert "few was prepared with another source (4 images) than " in (
        said(tmp_path / "out", parts[0], tmp_path / "few")
    )


def test_a_pack_is_replaced_by_tensors(images: Path, tmp_path: Path) -> None:
    out, one, two = (tmp_path / name for name in ("out", "one", "two"))
    recipe = folders.recipe_file(tmp_path)
    prep(images, one, recipe, "--format", "pack")
    prep(images, two, recipe)
    for folder in (one, two, one):
        in_process.zoofast("merge", out, folder, "--overwrite")
        assert sorted(contents(out)) == sorted(contents(folder))


def test_images_that_failed_have_no_bin(images: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    more = ["--bin-names", "{name}.bin"]
    prep(images, whole, folders.recipe_file(tmp_path), *more)
    merge.merge_folders(two_shards(images, tmp_path, *more), out)
    assert {**contents(out), MANIFEST: b""} == {**contents(whole), MANIFEST: b""}
    assert len(list(out.glob("*.bin"))) == 8


def test_manifests_of_other_versions(images: Path, tmp_path: Path) -> None:
    parts = two_shards(images, tmp_path)
    content = json.loads((parts[1] / MANIFEST).read_text())
    for key in ("nodes", "stage_seconds", "nbytes_in", "images_in_source"):
        fewer = {name: value for name, value in content.items() if name != key}
        (parts[1] / MANIFEST).write_text(json.dumps(fewer))
        assert "prepare it anew" in said(tmp_path / "out", *parts)
    for images_in_source in (4, "11", 1 << 99):
        damaged = {**content, "images_in_source": images_in_source}
        (parts[1] / MANIFEST).write_text(json.dumps(damaged))
        assert "prepare it anew" in said(tmp_path / "out", *parts)


def test_times_and_checks_of_the_whole(images: Path, tmp_path: Path) -> None:
    parts = two_shards(images, tmp_path, "--verify", 2)
    told = [json.loads((part / MANIFEST).read_text()) for part in parts]
    for each, seconds, verified in zip(told, (2.0, 4.0), ((2, 2, 0.0), (2, 1, 0.5)), strict=True):
        keys = ("images", "equal", "largest_difference")
        each["seconds"] = seconds
        each["verified"] = {**dict(zip(keys, verified, strict=True)), "differing": []}
    for part, each in zip(parts, told, strict=True):
        (part / MANIFEST).write_text(json.dumps(each))
    whole = merge.merge_folders(parts, tmp_path / "out")
    assert whole["seconds"] == 4.0 and whole["images_per_second"] == whole["prepared"] / 4.0
    expected = {"images": 4, "equal": 3, "largest_difference": 0.5, "differing": []}
    assert whole["verified"] == expected
