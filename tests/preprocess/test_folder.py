"""Folders of tensors: their bytes, the manifest, resuming, and what can go wrong on the way."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import folders, jpegs, oracle
from zoofast.base.rows import npy_header
from zoofast.errors import ImageError, OutputError, SourceError
from zoofast.preprocess import folder as prep
from zoofast.preprocess import recipe
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.folder import PrepOptions, PrepReport, prepare_folder
from zoofast.preprocess.manifest import MANIFEST
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sources import Item, Source, open_source
from zoofast.preprocess.verify import verify

FORMATS = ("bin", "npy", "pack")
SUFFIXES = {"bin": (".bin",), "npy": (".npy",), "pack": (".npy", ".txt")}


@pytest.fixture(scope="module")
def chosen() -> Recipe:
    return parse_recipe(folders.SPEC.toml(), "test")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty good images."""
    return folders.write(tmp_path_factory.mktemp("images"), folders.good_files(20))


def run(source: Path, out: Path, chosen: Recipe, **options: object) -> PrepReport:
    with open_source(source) as opened:
        return prepare_folder(opened, out, chosen, PrepOptions(threads=2, **options))  # type: ignore[arg-type]


def manifest(out: Path) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((out / MANIFEST).read_text())
    return loaded


def tensors(out: Path, format: str, spec: oracle.Spec = folders.SPEC) -> dict[str, bytes]:
    """Each name's tensor bytes, as NumPy reads them back."""
    if format == "pack":
        array = np.load(out / "pack.npy")
        names = (out / "pack.names.txt").read_text().splitlines()
        assert len(array) == len(names)
        return {name: array[i].tobytes() for i, name in enumerate(names)}
    found = {}
    for path in out.glob(f"*.{format}"):
        if format == "npy":
            found[path.stem] = np.load(path).tobytes()
        else:
            found[path.stem] = np.fromfile(path, spec.dtype).tobytes()
    return found


def wanted(files: dict[str, bytes], spec: oracle.Spec = folders.SPEC) -> dict[str, bytes]:
    return {
        name.removesuffix(".JPEG"): folders.tensor(data, spec).tobytes()
        for name, data in files.items()
    }


# ---- what is written ---------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "spec",
    [
        folders.SPEC,
        oracle.Spec(size=(40, 40), crop=(31, 37), dtype="uint8", layout="NHWC"),
        oracle.Spec(size=(70, 70), crop=(64, 64), dtype="float16", channels="BGR"),
    ],
    ids=["float32", "uint8", "float16"],
)
def test_every_byte(images: Path, tmp_path: Path, format: str, spec: oracle.Spec) -> None:
    report = run(images, tmp_path / "out", parse_recipe(spec.toml(), "t"), format=format)
    assert report.state == "complete"
    assert (report.prepared, report.resumed, report.failures) == (20, 0, [])
    assert tensors(tmp_path / "out", format, spec) == wanted(folders.good_files(20), spec)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert not any(name.endswith(".part") for name in left)
    assert len(left) == (3 if format == "pack" else 21)
    assert report.nbytes_out == sum(
        path.stat().st_size
        for path in (tmp_path / "out").iterdir()
        if path.suffix in (".bin", ".npy")
    ) - (4096 if format == "pack" else 0)


def test_npy_files_load_with_their_shape(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    run(images, tmp_path, chosen, format="npy")
    array = np.load(tmp_path / "img0000.npy")
    assert (array.shape, array.dtype) == ((3, 32, 32), np.float32)
    assert array.flags.c_contiguous


def test_a_pack_is_in_the_sources_order(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    run(images, tmp_path, chosen, format="pack")
    array = np.load(tmp_path / "pack.npy", mmap_mode="r")
    assert (array.shape, array.dtype) == ((20, 3, 32, 32), np.float32)
    names = (tmp_path / "pack.names.txt").read_text().splitlines()
    assert names == [f"img{i:04d}" for i in range(20)]


def test_headers_are_numpys_own(tmp_path: Path) -> None:
    for shape, dtype in (((3, 4, 5), "float32"), ((1,), "uint8"), ((50000, 3, 331, 331), "<f2")):
        for length in (None, 128, 4096):
            header = npy_header(shape, dtype, length)
            assert length is None or len(header) == length
            path = tmp_path / "x.npy"
            with path.open("wb") as file:
                file.write(header)
                file.truncate(len(header) + int(np.prod(shape)) * np.dtype(dtype).itemsize)
            loaded = np.load(path, mmap_mode="r")
            assert (loaded.shape, loaded.dtype) == (shape, np.dtype(dtype))


@pytest.mark.parametrize("format", FORMATS)
def test_threads_change_nothing(images: Path, tmp_path: Path, chosen: Recipe, format: str) -> None:
    made = []
    for threads in (1, 2, 5):
        out = tmp_path / str(threads)
        with open_source(images) as source:
            report = prepare_folder(source, out, chosen, PrepOptions(format, threads))
        assert report.threads == threads
        made.append(folders.sums(out, *SUFFIXES[format]))
    assert made[0] == made[1] == made[2]
    assert made[0]


def test_shards_make_the_whole(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    run(images, tmp_path / "whole", chosen)
    for i in (1, 2, 3):
        report = run(images, tmp_path / str(i), chosen, shard=(i, 3))
        assert report.total == report.prepared
    parts = [folders.sums(tmp_path / str(i), ".bin") for i in (1, 2, 3)]
    assert sum(map(len, parts)) == 20
    assert {**parts[0], **parts[1], **parts[2]} == folders.sums(tmp_path / "whole", ".bin")


def test_the_manifest_says_what_was_done(tmp_path: Path, chosen: Recipe) -> None:
    files = {**folders.good_files(9), **folders.BAD_FILES}
    source = folders.write(tmp_path / "in", files)
    (source / "notes.txt").write_text("no image")
    report = run(source, tmp_path / "out", chosen, verify=4)
    said = manifest(tmp_path / "out")
    assert said == json.loads(json.dumps(report.as_dict()))
    assert said["state"] == "complete"
    assert said["recipe"] == {"name": "test", "digest": chosen.digest}
    assert (said["total"], said["prepared"], said["failed"]) == (12, 9, 3)
    assert said["skipped_as_no_image"] == 1
    assert said["failures_by_cause"] == {"truncated": 1, "empty": 1, "not an image": 1}
    failures = said["failures"]
    assert isinstance(failures, list)
    assert {failure["path"] for failure in failures} == {
        str(source / name) for name in folders.BAD_FILES
    }
    versions = said["versions"]
    assert isinstance(versions, dict)
    assert {"zoofast", "numpy", "pillow", "python", "cpu_level"} <= versions.keys()
    assert said["verified"] == {
        "images": 4,
        "equal": 4,
        "largest_difference": 0.0,
        "differing": [],
    }


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_but_bad_images(tmp_path: Path, chosen: Recipe, format: str) -> None:
    source = folders.write(tmp_path / "in", folders.BAD_FILES)
    report = run(source, tmp_path / "out", chosen, format=format, verify=3)
    assert (report.prepared, len(report.failures)) == (0, 3)
    assert tensors(tmp_path / "out", format) == {}


@pytest.mark.parametrize("format", FORMATS)
def test_stopping_at_the_first_failure(tmp_path: Path, chosen: Recipe, format: str) -> None:
    files = {f"a{i:02d}.JPEG": jpegs.jpeg(40, 40, i) for i in range(30)}
    files["a12.JPEG"] = b"broken"
    source = folders.write(tmp_path / "in", files)
    with pytest.raises(ImageError, match=r"a12\.JPEG: not an image.*stopped at the first"):
        run(source, tmp_path / "out", chosen, on_error="stop", format=format)
    assert manifest(tmp_path / "out")["state"] == "interrupted"
    # after a repair the run can be continued
    (source / "a12.JPEG").write_bytes(jpegs.jpeg(40, 40, 12))
    files["a12.JPEG"] = jpegs.jpeg(40, 40, 12)
    report = run(source, tmp_path / "out", chosen, resume=True, format=format)
    assert report.prepared + report.resumed == 30
    assert tensors(tmp_path / "out", format) == wanted(files)


def test_names_that_are_not_utf8(tmp_path: Path, chosen: Recipe) -> None:
    source = tmp_path / "in"
    source.mkdir()
    name = os.fsdecode(b"caf\xe9.JPEG")
    (source / name).write_bytes(jpegs.jpeg(40, 40))
    for format in FORMATS:
        report = run(source, tmp_path / format, chosen, format=format, verify=1)
        assert report.verified is not None
        assert report.verified.equal == 1
        assert json.loads((tmp_path / format / MANIFEST).read_text())["prepared"] == 1
        assert run(source, tmp_path / format, chosen, format=format, resume=True).resumed == 1
    assert (tmp_path / "pack" / "pack.names.txt").read_bytes() == b"caf\xe9\n"


# ---- resuming ------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_resuming_a_complete_run_does_nothing(
    images: Path, tmp_path: Path, chosen: Recipe, format: str
) -> None:
    run(images, tmp_path, chosen, format=format)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.bin")}
    sums = folders.sums(tmp_path, *SUFFIXES[format])
    report = run(images, tmp_path, chosen, format=format, resume=True)
    assert (report.prepared, report.resumed, report.state) == (0, 20, "complete")
    assert folders.sums(tmp_path, *SUFFIXES[format]) == sums
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.bin")} == before


def test_resuming_redoes_what_is_not_whole(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    run(images, tmp_path, chosen)
    sums = folders.sums(tmp_path, ".bin")
    (tmp_path / "img0003.bin").unlink()
    os.truncate(tmp_path / "img0007.bin", 100)
    with (tmp_path / "img0009.bin").open("ab") as file:
        file.write(b"x")
    (tmp_path / "img0003.bin.part").write_bytes(b"half")
    (tmp_path / "other.bin.part").write_bytes(b"no image of this folder")
    report = run(images, tmp_path, chosen, resume=True)
    assert (report.prepared, report.resumed) == (3, 17)
    assert folders.sums(tmp_path, ".bin") == sums
    assert list(tmp_path.glob("*.part")) == [tmp_path / "other.bin.part"]


@pytest.mark.parametrize("damage", ["data", "names", "both", "half a name", "between renames"])
def test_resuming_a_pack_from_any_state(
    images: Path, tmp_path: Path, chosen: Recipe, damage: str
) -> None:
    """The states that a kill can leave: more rows than names, half a name, one of two renames."""
    run(images, tmp_path, chosen, format="pack")
    sums = folders.sums(tmp_path, ".npy", ".txt")
    data, names = tmp_path / "pack.npy", tmp_path / "pack.names.txt"
    names = names.rename(str(names) + ".part")
    if damage != "between renames":
        data = data.rename(str(data) + ".part")
    kept = {"data": 12, "names": 7, "both": 7, "half a name": 6, "between renames": 20}[damage]
    each = chosen.nbytes
    if damage in ("data", "both"):
        os.truncate(data, 4096 + 12 * each + 100)
    if damage in ("names", "both"):
        os.truncate(names, 7 * len("img0000\n"))
    if damage == "half a name":
        os.truncate(names, 6 * len("img0000\n") + 3)
    report = run(images, tmp_path, chosen, format="pack", resume=True)
    assert (report.resumed, report.prepared) == (kept, 20 - kept)
    assert folders.sums(tmp_path, ".npy", ".txt") == sums


@pytest.mark.parametrize("format", FORMATS)
def test_resuming_with_more_images(
    images: Path, tmp_path: Path, chosen: Recipe, format: str
) -> None:
    run(images, tmp_path / "whole", chosen, format=format)
    assert run(images, tmp_path / "out", chosen, format=format, limit=7).total == 7
    report = run(images, tmp_path / "out", chosen, format=format, resume=True)
    assert (report.prepared, report.resumed) == (13, 7)
    assert folders.sums(tmp_path / "out", *SUFFIXES[format]) == folders.sums(
        tmp_path / "whole", *SUFFIXES[format]
    )


def test_a_pack_resumed_with_another_part_of_the_source(
    images: Path, tmp_path: Path, chosen: Recipe
) -> None:
    """A pack has the rows of the chosen images alone, so that others would be lost."""
    run(images, tmp_path / "out", chosen, format="pack", shard=(1, 2), limit=5)
    sums = folders.sums(tmp_path / "out", "")
    for other in ({"shard": (2, 2)}, {"shard": (1, 2), "limit": 4}):
        with pytest.raises(OutputError, match=r"pack\.npy: has a row of img000[08], which is none"):
            run(images, tmp_path / "out", chosen, format="pack", resume=True, **other)
        assert folders.sums(tmp_path / "out", "") == sums
    run(images, tmp_path / "out", chosen, format="pack", resume=True)
    run(images, tmp_path / "fresh", chosen, format="pack")
    assert folders.sums(tmp_path / "out", ".npy", ".txt") == folders.sums(
        tmp_path / "fresh", ".npy", ".txt"
    )


@pytest.mark.parametrize("stopped", [False, True])
def test_a_pack_is_in_order_when_a_failed_image_is_prepared_later(
    tmp_path: Path, chosen: Recipe, stopped: bool
) -> None:
    files = folders.good_files(20)
    images = folders.write(tmp_path / "in", files)
    run(images, tmp_path / "fresh", chosen, format="pack")
    for i in (1, 4, 19):
        (images / f"img{i:04d}.JPEG").write_bytes(b"no image")
    out = tmp_path / "out"
    assert len(run(images, out, chosen, format="pack").failures) == 3
    folders.write(images, files)

    def stop(report: PrepReport) -> None:
        if report.prepared:  # all rows are written, in another order
            raise KeyboardInterrupt

    if stopped:
        options = PrepOptions(format="pack", resume=True)
        with pytest.raises(KeyboardInterrupt), open_source(images) as source:
            prepare_folder(source, out, chosen, options, stop)
    report = run(images, out, chosen, format="pack", resume=True)
    assert report.prepared + report.resumed == 20 and not report.failures
    assert folders.sums(out, ".npy", ".txt") == folders.sums(tmp_path / "fresh", ".npy", ".txt")


def test_resuming_with_another_recipe_is_refused(
    images: Path, tmp_path: Path, chosen: Recipe
) -> None:
    run(images, tmp_path, chosen, limit=5)
    sums = folders.sums(tmp_path, ".bin", ".json")
    other = replace(chosen, crop_rounding="truncate")
    with pytest.raises(OutputError, match=f"another recipe .{chosen.digest}, now {other.digest}"):
        run(images, tmp_path, other, resume=True)
    with pytest.raises(OutputError, match=r"another format \(bin, now npy\)"):
        run(images, tmp_path, chosen, resume=True, format="npy")
    assert folders.sums(tmp_path, ".bin", ".json") == sums


def test_resuming_with_a_pillow_that_resizes_otherwise_is_refused(
    images: Path, tmp_path: Path, chosen: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(images, tmp_path, chosen, limit=5)
    other = "pillow-10.0" if recipe.resize_order() != "pillow-10.0" else "pillow-13.0"
    monkeypatch.setattr(prep, "resize_order", lambda: other)
    with pytest.raises(OutputError, match="another Pillow"):
        run(images, tmp_path, chosen, resume=True)


def test_an_earlier_run_is_not_overwritten_unasked(
    images: Path, tmp_path: Path, chosen: Recipe
) -> None:
    run(images, tmp_path, chosen, limit=5)
    with pytest.raises(OutputError, match=r"holds an earlier run.*--resume.*--overwrite"):
        run(images, tmp_path, chosen)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("earlier_format", FORMATS)
def test_overwriting_leaves_nothing_of_the_earlier_run(
    images: Path, tmp_path: Path, chosen: Recipe, format: str, earlier_format: str
) -> None:
    """A tensor that stayed would count as this run's: --resume looks at names and sizes."""
    other = replace(chosen, crop_rounding="truncate")  # tensors of the same size
    run(images, tmp_path / "out", other, format=earlier_format)
    # the state after a kill at the run's beginning
    with open_source(images) as source:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prepare_folder(
                source, tmp_path / "out", chosen, PrepOptions(format, 1, overwrite=True), stop
            )
    report = run(images, tmp_path / "out", chosen, format=format, resume=True, limit=15)
    assert report.resumed < 20
    assert report.state == "complete"
    run(images, tmp_path / "fresh", chosen, format=format, limit=15)
    everything = (".bin", ".npy", ".txt", ".part")
    made = folders.sums(tmp_path / "out", *everything)
    for name, digest in folders.sums(tmp_path / "fresh", *everything).items():
        assert made.pop(name) == digest
    # tensors beyond the limit, which the interrupted run made, are of this recipe too
    run(images, tmp_path / "all", chosen, format=format)
    assert made.items() <= folders.sums(tmp_path / "all", *everything).items()


@pytest.mark.parametrize("format", ["npy", "pack"])
def test_a_run_that_ends_while_it_removes_earlier_tensors(
    images: Path, tmp_path: Path, chosen: Recipe, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    run(images, tmp_path, chosen, format=format)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prep, "remove_files", stop)
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path, chosen, format=format, overwrite=True)
    assert manifest(tmp_path)["state"] == "interrupted"


@pytest.mark.parametrize("format", FORMATS)
def test_a_run_that_cannot_begin_removes_no_earlier_tensors(
    images: Path, tmp_path: Path, chosen: Recipe, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    out = tmp_path / "out"
    run(images, out, chosen, format=format, limit=10)
    sums = folders.sums(out, "")
    no_folder = folders.write(tmp_path, {"file": b""}) / "file"
    with pytest.raises(OutputError, match="file: cannot be written to"):
        run(images, out, chosen, format=format, overwrite=True, cache=PixelCache(no_folder))
    # What the earlier tensors take counts as free, in whole blocks.
    monkeypatch.setattr(prep, "free_space", lambda folder: 8 * chosen.nbytes)
    with pytest.raises(OutputError, match="bytes are needed and"):
        run(images, out, chosen, format=format, overwrite=True)
    assert folders.sums(out, "") == sums
    monkeypatch.setattr(prep, "free_space", lambda folder: 14 * chosen.nbytes)
    assert run(images, out, chosen, format=format, overwrite=True).prepared == 20


def test_files_without_a_manifest_are_not_trusted(
    images: Path, tmp_path: Path, chosen: Recipe
) -> None:
    (tmp_path / "img0000.bin").write_bytes(bytes(chosen.nbytes))
    report = run(images, tmp_path, chosen, resume=True)
    assert (report.prepared, report.resumed) == (20, 0)
    assert tensors(tmp_path, "bin") == wanted(folders.good_files(20))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "{}\0"])
def test_a_manifest_that_is_none(images: Path, tmp_path: Path, chosen: Recipe, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(OutputError, match=f"{MANIFEST}: not a manifest"):
        run(images, tmp_path, chosen, resume=True)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many images that a run can be killed in its middle. Some cannot be decoded."""
    files = {f"{i:04d}.JPEG": jpegs.jpeg(90 + i % 30, 120, i % 25) for i in range(600)}
    return folders.write(tmp_path_factory.mktemp("many"), {**files, **folders.BAD_FILES})


def command(*args: object) -> list[str]:
    code = "import sys; from zoofast.cli import prep_main; sys.exit(prep_main())"
    return [sys.executable, "-c", code, *map(str, args)]


@pytest.mark.parametrize("format", FORMATS)
def test_killed_at_any_moment_and_resumed(tmp_path: Path, many: Path, format: str) -> None:
    """After several kill -9 and --resume the folder equals that of an undisturbed run."""
    recipe_file = folders.recipe_file(tmp_path / "r")
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    args = [many, out, "--recipe", recipe_file, "--format", format, "--quiet", "--threads", 2]
    subprocess.run(
        command(many, undisturbed, *args[2:]), capture_output=True, check=False, timeout=120
    )
    rng, killed, whole = random.Random(format), 0, 0
    for _ in range(40):
        process = subprocess.Popen(
            command(*args, *(["--resume"] if killed else [])),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        # it is killed once it has written something
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < 300:
            if (out / MANIFEST).exists() and _grown(out, format) > whole:
                time.sleep(rng.uniform(0, 0.03))
                process.kill()
                break
            time.sleep(0.001)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        if process.returncode != -signal.SIGKILL:  # it was faster
            if killed:
                break
            shutil.rmtree(out)
            continue
        killed += 1
        for path in out.glob("*.bin"):
            assert path.stat().st_size == 3 * 32 * 32 * 4  # under its final name a file is whole
        whole = _grown(out, format)
        if killed == 4:
            break
    assert killed >= 1
    last = subprocess.run(
        command(*args, "--resume", "--json", tmp_path / "last.json"),
        capture_output=True,
        timeout=120,
    )
    assert last.returncode == 1  # the bad images fail in each run
    said = json.loads((tmp_path / "last.json").read_text())
    assert said["resumed"] + said["prepared"] == 600
    assert said["resumed"] >= min(whole, 600) > 0
    assert said["failed"] == 3
    everything = (".bin", ".npy", ".txt", ".part")
    assert folders.sums(out, *everything) == folders.sums(undisturbed, *everything)


def _grown(out: Path, format: str) -> int:
    """How many tensors are whole, at least."""
    if format != "pack":
        return sum(1 for _ in out.glob(f"*.{format}"))
    names = out / "pack.names.txt.part"
    try:
        return len(names.read_bytes().splitlines())
    except FileNotFoundError:
        return 0


# ---- verifying -----------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_verify_finds_a_changed_byte(
    images: Path, tmp_path: Path, chosen: Recipe, format: str
) -> None:
    run(images, tmp_path, chosen, format=format)
    clean = run(images, tmp_path, chosen, format=format, resume=True, verify=20)
    assert clean.verified == prep.Verified(20, 20, 0.0, [])
    name = "pack.npy" if format == "pack" else f"img0004.{format}"
    row = 4 * chosen.nbytes if format == "pack" else 0
    with (tmp_path / name).open("r+b") as file:
        file.seek(row + 4096 if format == "pack" else (128 if format == "npy" else 0))
        file.write(np.float32(1000).tobytes())
    report = run(images, tmp_path, chosen, format=format, resume=True, verify=20)
    assert report.verified is not None
    assert (report.verified.images, report.verified.equal) == (20, 19)
    assert report.verified.differing == ["img0004"]
    assert 990 < report.verified.largest_difference < 1010


def test_verify_copes_with_anything_on_disk(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    with open_source(images) as source:
        prepare_folder(source, tmp_path, chosen, PrepOptions("npy", 2))
        (tmp_path / "img0001.npy").unlink()
        (tmp_path / "img0002.npy").write_bytes(b"not npy")
        np.save(tmp_path / "img0003.npy", np.zeros((3, 32, 31), np.float32))
        np.save(tmp_path / "img0004.npy", np.zeros((3, 32, 32), np.float16))
        os.truncate(tmp_path / "img0005.npy", 500)
        verified = verify(source, source.items, tmp_path, chosen, "npy", 20)
    assert sorted(verified.differing) == [f"img000{i}" for i in range(1, 6)]
    assert verified.equal == 15


def test_verify_says_when_a_source_file_is_gone(tmp_path: Path, chosen: Recipe) -> None:
    source = folders.write(tmp_path / "in", folders.good_files(2))
    with open_source(source) as opened:
        prepare_folder(opened, tmp_path / "out", chosen, PrepOptions(threads=1))
        (source / "img0001.JPEG").unlink()
        with pytest.raises(ImageError, match=r"img0001\.JPEG: cannot be verified: No such file"):
            verify(opened, opened.items, tmp_path / "out", chosen, "bin", 2)


# ---- the disk ------------------------------------------------------------------


def _interrupt(folder: Path) -> int:
    raise KeyboardInterrupt


def test_too_little_space_is_said_before_anything_is_written(
    images: Path, tmp_path: Path, chosen: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prep, "free_space", lambda folder: 20 * chosen.nbytes - 1)
    with pytest.raises(OutputError, match="245,760 bytes are needed and 245,759 are free"):
        run(images, tmp_path / "out", chosen)
    assert not (tmp_path / "out").exists()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(prep, "free_space", _interrupt)
        run(images, tmp_path / "out", chosen)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="are needed and"):
        run(images, tmp_path / "out", chosen)
    assert (tmp_path / "out").is_dir()  # it was there before
    # tensors of an earlier run need no space
    monkeypatch.setattr(prep, "free_space", lambda folder: 20 * chosen.nbytes)
    run(images, tmp_path / "out", chosen, limit=10)
    monkeypatch.setattr(prep, "free_space", lambda folder: 10 * chosen.nbytes)
    assert run(images, tmp_path / "out", chosen, resume=True).prepared == 10


def test_free_space_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    deep = prep.free_space(tmp_path / "not" / "there" / "yet")
    assert deep > 0
    assert abs(deep - prep.free_space(tmp_path)) < 1 << 30


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 236 kB, where twenty tensors of 12 kB do not fit."""
    where = tmp_path / "tiny"
    where.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=236k", "tmpfs", where], capture_output=True
    )
    if made.returncode:
        pytest.skip("this user cannot mount a small file system")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk(
    images: Path, tiny_disk: Path, chosen: Recipe, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tiny_disk / "out"
    with pytest.raises(OutputError, match=r"are needed and .* are free"):
        run(images, out, chosen, format=format)
    monkeypatch.setattr(
        prep, "free_space", lambda folder: 1 << 40
    )  # as if other processes filled the disk later
    (tiny_disk / "other").write_bytes(bytes(100_000))
    with pytest.raises(OutputError, match=r"No space left on device.*--resume") as caught:
        run(images, out, chosen, format=format)
    assert "\n" not in str(caught.value)
    for path in out.glob("*.bin"):
        assert path.stat().st_size == chosen.nbytes
    (tiny_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=2m", tiny_disk], check=True)
    report = run(images, out, chosen, format=format, resume=True)
    assert report.resumed > 0
    assert tensors(out, format) == wanted(folders.good_files(20))


@pytest.mark.parametrize("format", FORMATS)
def test_a_write_that_fails_halfway(
    images: Path, tmp_path: Path, chosen: Recipe, format: str
) -> None:
    """A limit on the size of files has the same effect, and needs no file system to mount."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = 4096 + 5 * chosen.nbytes if format == "pack" else chosen.nbytes // 2
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        with pytest.raises(OutputError, match=os.strerror(errno.EFBIG)):
            run(images, tmp_path, chosen, format=format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.glob("*.bin")) + list(tmp_path.glob("*.bin.part"))
    run(images, tmp_path, chosen, format=format, resume=True)
    assert tensors(tmp_path, format) == wanted(folders.good_files(20))


def test_a_folder_that_vanishes(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    for format in FORMATS:
        out = tmp_path / format

        def remove(*_: object, out: Path = out) -> None:
            if out.exists():
                out.rename(str(out) + ".gone")

        with open_source(images) as source, pytest.raises(OutputError, match="No such file"):
            prepare_folder(source, out, chosen, PrepOptions(format, 1), remove)


def test_a_folder_that_is_a_file(images: Path, tmp_path: Path, chosen: Recipe) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="out: a file has this name; name a folder"):
        run(images, tmp_path / "out", chosen)
    with pytest.raises(OutputError, match="Not a directory"):
        run(images, tmp_path / "out" / "deeper", chosen)


def test_a_read_only_folder(images: Path, open_folder: Path, chosen: Recipe) -> None:
    run(images, open_folder / "first", chosen)  # imports what nobody may read
    open_folder.chmod(0o555)
    with (
        open_source(images) as source,
        folders.without_privileges(),
        pytest.raises(OutputError, match="cannot be written: Permission denied"),
    ):
        prepare_folder(source, open_folder, chosen)


def test_a_clash_of_names_is_found_before_any_work(tmp_path: Path, chosen: Recipe) -> None:
    source = folders.write(
        tmp_path / "in", {"a.1.JPEG": jpegs.jpeg(9, 9), "a.2.JPEG": jpegs.jpeg(9, 9)}
    )
    with pytest.raises(SourceError, match="first dot"):
        run(source, tmp_path / "out", chosen)
    assert not (tmp_path / "out").exists()


def test_an_image_that_vanishes_after_listing(tmp_path: Path, chosen: Recipe) -> None:
    source = folders.write(tmp_path / "in", folders.good_files(5))
    with open_source(source) as opened:
        (source / "img0002.JPEG").unlink()
        report = prepare_folder(opened, tmp_path / "out", chosen, PrepOptions(threads=2))
    assert report.prepared == 4
    assert [failure.cause for failure in report.failures] == ["unreadable"]
    assert not (tmp_path / "out" / "img0002.bin").exists()


def test_memory_of_many_images(tmp_path: Path, chosen: Recipe) -> None:
    """The names, and the manifest while it is written, take less than 50 bytes an image."""
    count = 20_000
    lines = (f"/nowhere/ILSVRC2012_val_{i:08d}.JPEG\n" for i in range(count))
    (tmp_path / "list.txt").write_text("".join(lines))

    def store(source: Source, items: Sequence[Item], options: PrepOptions, *rest: object) -> None:
        assert len(items) == count

    with open_source(tmp_path / "list.txt") as source:
        tracemalloc.start()
        report = prepare_folder(source, tmp_path / "out", chosen, store=store)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(report.names) == count
    assert peak < 50 * count + 300_000


def test_a_folder_without_a_name(
    images: Path, tmp_path: Path, chosen: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an unset variable of a shell gives it; pathlib takes it for the current folder."""
    monkeypatch.chdir(tmp_path)
    with open_source(images) as source, pytest.raises(OutputError, match="has no name"):
        prepare_folder(source, "", chosen)
    assert os.listdir(tmp_path) == []
    assert run(images, Path("."), chosen).prepared == 20
