"""--cache of prep, eval and profile, and `zoofast cache`, which looks after what it keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import folders, in_process, oracle
from zoofast.base.lock import output_lock

COUNT = 12
FORM = replace(folders.SPEC, dtype="uint8", layout="NHWC")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with images, a bad one among them, and recipes of one geometry."""
    files = {**folders.good_files(COUNT), "bad.JPEG": b"no image"}
    folders.age(folders.write(tmp_path / "images", files))
    folders.recipe_file(tmp_path / "float")
    folders.recipe_file(tmp_path / "byte", FORM)
    return tmp_path


def prep(place: Path, out: str, recipe: str, *more: object) -> in_process.Ended:
    where = place / "images", place / out, "--recipe", place / recipe / "recipe.toml"
    return in_process.zoofast("prep", *where, *more)


def cache(place: Path, action: str, *more: object) -> in_process.Ended:
    return in_process.zoofast("cache", action, place / "cache", *more)


def decoders(place: Path, out: str) -> dict[str, int]:
    content = json.loads((place / out / "zoofast-prep.json").read_text())
    return {name: count for name, count in content["decoders"].items() if count}


@pytest.mark.parametrize(
    "form",
    [
        ["--format", "bin"],
        ["--format", "npy"],
        ["--format", "pack"],
        ["--images-per-bin", "4", "--fill", "zero", "--bin-names", "{i}.bin"],
    ],
    ids=str,
)
def test_prep_writes_the_same_files_from_the_cache(place: Path, form: list[str]) -> None:
    with_cache = [*form, "--cache", place / "cache"]
    runs = {"plain": form, "fills": with_cache, "reads": with_cache}
    for out, words in runs.items():
        done = prep(place, out, "float", *words)
        assert done.returncode == 1  # the bad image
        assert "bad.JPEG: not an image" in done.stderr
    sums = [folders.sums(place / out, ".bin", ".npy", ".txt") for out in runs]
    assert sums[0] == sums[1] == sums[2] != {}
    assert decoders(place, "plain") == decoders(place, "fills")
    assert decoders(place, "reads") == {"cache": COUNT}
    assert prep(place, "form", "byte", "--cache", place / "cache", "--verify", 99).returncode == 1
    assert decoders(place, "form") == {"cache": COUNT}
    made = (place / "form" / "img0003.bin").read_bytes()
    assert made == folders.tensor(folders.good_files(COUNT)["img0003.JPEG"], FORM).tobytes()


def test_profile_measures_the_cache(place: Path) -> None:
    words = ["profile", place / "images", "--recipe", place / "float" / "recipe.toml"]
    words += ["--seconds", "0.01", "--only-recipe", "--scratch", place, "--json", place / "p.json"]
    in_process.zoofast(*words, "--cache", place / "cache")
    stages = {stage["name"] for stage in json.loads((place / "p.json").read_text())["stages"]}
    assert {"read", "pack"} <= stages
    assert json.loads(cache(place, "list", "--json").stdout)[0]["images"] == COUNT


def test_list_verify_and_clear(place: Path) -> None:
    (place / "cache").mkdir()
    (place / "cache" / "notes.txt").write_text("mine")
    done = cache(place, "list")
    assert (done.returncode, done.stdout) == (0, "")
    assert "cache: no pixels are kept here" in done.stderr
    prep(place, "a", "float", "--cache", place / "cache")
    other = oracle.Spec(size=(40, 40), crop=(30, 30))
    folders.recipe_file(place / "other", other)
    prep(place, "b", "other", "--cache", place / "cache")
    listed = json.loads(cache(place, "list", "--json").stdout)
    assert [each["images"] for each in listed] == [COUNT, COUNT]
    sizes = {tuple(each["geometry"]["size"]): each["digest"] for each in listed}
    assert sizes.keys() == {(32, 32), (30, 30)}
    table = cache(place, "list").stdout
    assert "short 40, bilinear, 30×30" in table
    done = cache(place, "verify")
    assert (done.returncode, done.stdout) == (0, f"{2 * COUNT} images intact, 0 damaged\n")
    pixels = place / "cache" / f"{sizes[30, 30]}.pixels"
    data = bytearray(pixels.read_bytes())
    data[5 * 4096 + 100] ^= 1
    data[7 * 4096 + 100] ^= 1
    pixels.write_bytes(data)
    done = cache(place, "verify")
    assert done.returncode == 1
    assert done.stdout == f"{2 * COUNT - 2} images intact, 2 damaged\n"
    assert f"{sizes[30, 30]}: 2 images damaged" in done.stderr
    assert cache(place, "clear", "0" * 16).returncode == 2
    with output_lock(pixels):
        done = cache(place, "clear", sizes[30, 30])
        assert done.returncode == 2
        assert "is in use by process" in done.stderr
        assert cache(place, "verify").returncode == 2
    assert cache(place, "clear", sizes[30, 30]).stdout.startswith(f"removed the pixels of {COUNT}")
    assert [each["digest"] for each in json.loads(cache(place, "list", "--json").stdout)] == [
        sizes[32, 32]
    ]
    assert cache(place, "clear").returncode == 0
    assert [path.name for path in (place / "cache").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("kind", "nbytes", "words", "damaged"),
    [
        ("index", 10, "index is damaged", 0),
        ("index", 4096 + 64 + 10, "1 image damaged", 1),  # the first slot is the bad image's
        ("index", None, "index is missing", 0),
        ("pixels", 10, f"{COUNT} images damaged", COUNT),
        ("pixels", None, ".pixels cannot be read: No such file or directory", COUNT),
    ],
)
def test_verify_names_each_file_that_is_damaged_or_gone(
    place: Path, kind: str, nbytes: int | None, words: str, damaged: int
) -> None:
    """And checks the other geometries. nbytes: that are left of the file; None: there is none."""
    prep(place, "a", "float", "--cache", place / "cache")
    folders.recipe_file(place / "other", oracle.Spec(size=(40, 40), crop=(30, 30)))
    prep(place, "b", "other", "--cache", place / "cache")
    first, second = (each["digest"] for each in json.loads(cache(place, "list", "--json").stdout))
    path = place / "cache" / f"{first}.{kind}"
    path.write_bytes(path.read_bytes()[:nbytes])
    if nbytes is None:
        path.unlink()
    for more in ([], ["--quiet"]):
        done = cache(place, "verify", *more)
        assert done.returncode == 1
        assert f"{first}: " in done.stderr and words in done.stderr
        assert second not in done.stderr
    assert cache(place, "verify").stdout == f"{COUNT} images intact, {damaged} damaged\n"
    (place / "cache" / f"{second}.pixels").unlink()
    done = cache(place, "verify")
    assert done.returncode == 1
    assert f"{first}: " in done.stderr and f"{second}: its file .pixels cannot" in done.stderr
    for out, recipe in (("c", "float"), ("d", "other")):  # the cure that it names
        prep(place, out, recipe, "--cache", place / "cache")
    assert cache(place, "verify").returncode == 0


def test_bad_arguments_are_one_line(place: Path) -> None:
    (place / "file").write_text("no folder")
    cases = [
        (prep(place, "o", "float", "--cache-size", "1G"), "--cache-size is of no use without"),
        (prep(place, "o", "float", "--cache", place / "file"), "file: cannot be written to"),
        (cache(place, "list"), "cache: cannot be read: No such file"),
        (cache(place, "clear", "ab"), "cache: cannot be read: No such file"),
    ]
    for done, words in cases:
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert words in done.stderr


def test_the_cache_leaves_the_disk_to_the_tensors(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the disk had space for the tensors and for the pixels of five images."""
    each = 3 * 32 * 32 * 4
    free = (COUNT + 1) * each + 5 * (4096 + 64) + 100

    def usage(path: Path) -> SimpleNamespace:
        written = sum(file.stat().st_size for file in (place / "out").glob("pack*"))
        return SimpleNamespace(free=free - written)

    monkeypatch.setattr("shutil.disk_usage", usage)
    monkeypatch.setattr("zoofast.preprocess.pixel_file.LIMIT_SLOTS", 1)
    done = prep(place, "out", "float", "--format", "pack", "--cache", place / "cache")
    assert "is full: the rest of the disk is left to the outputs" in done.stderr
    # The bad image, which is the first, has a slot until it fails.
    assert json.loads(cache(place, "list", "--json").stdout)[0]["images"] == 4
