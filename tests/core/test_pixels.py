"""Pixels that the core keeps, and makes other tensors of: whole, or not used at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support import jpegs, oracle
from zoofast import _core
from zoofast._core import Status
from zoofast.preprocess import reference
from zoofast.preprocess.prepare import prepare_with_pillow
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import parse_recipe

SIZE = (24, 28)
SPEC = oracle.Spec(size=(32, 32), crop=SIZE)
BLACK_BORDER = replace(SPEC, size=(26, 26), crop=(30, 30))
PADDED = """
name = "padded"
[resize]
mode = "fit"
size = [20, 22]
filter = "cv2-linear"
[pad]
size = [24, 28]
position = "centre"
value = [114, 7, 255]
[tensor]
dtype = "float32"
layout = "NCHW"
channels = "RGB"
[normalize]
scale = "0-1"
mean = [0.5, 0.4, 0.3]
std = [0.2, 0.3, 0.4]
[model]
input = "image"
output = "class"
"""
OFFSET = 4096


def checksum(data: bytes) -> int:
    """zf_checksum, as checksum.c defines it."""
    mask = (1 << 64) - 1

    def add(total: int, word: int) -> int:
        turned = (total << 29 | total >> 35) & mask
        return (turned ^ word) * 0x9E3779B97F4A7C15 & mask

    lanes, total = list(range(8)), len(data)
    padded = data + bytes(-len(data) % 64)
    for i in range(0, len(padded), 8):
        lane = i // 8 % 8
        lanes[lane] = add(lanes[lane], int.from_bytes(padded[i : i + 8], "little"))
    for lane_total in lanes:
        total = add(total, lane_total)
    return total


def test_the_checksum_is_what_its_comment_says() -> None:
    data = np.random.default_rng(1).bytes(1000)
    for n in (0, 1, 7, 8, 63, 64, 65, 127, 128, 999, 1000):
        assert _core.checksum(data[:n]) == checksum(data[:n])


def test_the_checksum_sees_each_flipped_bit_and_lost_zeros() -> None:
    data = bytearray(np.random.default_rng(2).bytes(200) + bytes(100))
    seen = {_core.checksum(bytes(data[:n])) for n in range(200, 301)}
    assert len(seen) == 101
    whole = _core.checksum(bytes(data))
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        assert _core.checksum(bytes(data)) != whole
        data[bit // 8] ^= 1 << bit % 8


def test_allocated_space_reads_as_zeros_and_no_file_need_have_it(tmp_path: Path) -> None:
    path = tmp_path / "pixels"
    path.write_bytes(b"before")
    with open(path, "r+b") as file, open(path, "rb") as only_read:
        _core.allocate(only_read.fileno(), 0, 1 << 20)
        assert path.read_bytes() == b"before"
        _core.allocate(file.fileno(), 4096, 8192)
        assert path.read_bytes().rstrip(b"\0") == b"before"
        assert path.stat().st_size in (6, 4096 + 8192)  # 6: on a disk that cannot
    reading, writing = os.pipe()
    _core.allocate(writing, 0, 4096)
    os.close(reading)
    os.close(writing)


class Case:
    """An image file, and a file for its pixels."""

    def __init__(self, folder: Path, data: bytes) -> None:
        self.image = folder / "image.jpg"
        self.image.write_bytes(data)
        self.store = folder / "pixels"
        self.fd = os.open(self.store, os.O_RDWR | os.O_CREAT)
        self.pool = _core.Pool(1, writers=1)
        self.stored: _core.StoredPixels | None = None

    def run(
        self, recipe: Recipe, *, keep: bool = False, use: bool = False, fd: int | None = None
    ) -> tuple[NDArray[np.generic], str]:
        """The tensor, and the decoder that made its pixels; sets `stored`."""
        batch = _core.Batch(recipe.plan(), 1)
        batch.add_path(str(self.image))
        fd = self.fd if fd is None else fd
        if use:
            assert self.stored is not None
            stored = self.stored
            stamp = stored.file_nbytes, stored.file_mtime_ns
            batch.use_pixels(0, fd, OFFSET, stored.checksum, stored.place, *stamp)
        if keep:
            batch.store_pixels(0, fd, OFFSET)
        self.pool.submit(batch)
        self.pool.wait(batch)
        outcome = batch.outcome(0)
        assert outcome.status == Status.OK
        self.stored = next(iter(batch.stored_pixels()), self.stored)
        return batch.array[0].copy(), _core.DECODERS[outcome.decoder]

    def close(self) -> None:
        self.pool.close()
        os.close(self.fd)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path, jpegs.jpeg(51, 64, 3))
    yield case
    case.close()


def of_spec(spec: oracle.Spec) -> Recipe:
    return parse_recipe(spec.toml(), "test")


@pytest.mark.parametrize("spec", [SPEC, BLACK_BORDER], ids=["crop", "black border"])
@pytest.mark.parametrize("kind", ["baseline", "progressive", "gray"])
def test_all_forms_of_the_tensor_come_from_one_images_pixels(
    tmp_path: Path, spec: oracle.Spec, kind: str
) -> None:
    data = jpegs.jpeg(51, 64, 3, progressive=kind == "progressive")
    if kind == "gray":
        data = jpegs.gray_jpeg(51, 64, 3)
    rgb = oracle.pixels(data)
    case = Case(tmp_path, data)
    made, decoder = case.run(of_spec(spec), keep=True)
    assert made.tobytes() == oracle.tensor(rgb, spec).tobytes()
    assert decoder == ("baseline" if kind == "gray" else kind)
    assert case.stored is not None
    assert case.stored.errno == 0
    pixels = oracle.tensor(rgb, replace(spec, dtype="uint8")).tobytes()
    assert case.store.read_bytes()[OFFSET:] == pixels
    assert case.stored.checksum == checksum(pixels)
    status = case.image.stat()
    stamp = (status.st_size, status.st_mtime_ns)
    assert (case.stored.file_nbytes, case.stored.file_mtime_ns) == stamp
    other = oracle.IMAGENET[1], oracle.IMAGENET[0]
    for form in (
        spec,
        replace(spec, dtype="uint8", layout="NHWC"),
        replace(spec, dtype="uint8", channels="BGR"),
        replace(spec, dtype="float16", layout="NHWC", channels="BGR"),
        replace(spec, scale="0-255", mean=other[0], std=other[1]),
    ):
        made, decoder = case.run(of_spec(form), use=True)
        assert decoder == "cache"
        assert made.tobytes() == oracle.tensor(rgb, form).tobytes()
    case.close()


def test_padding_is_the_recipes_own(case: Case) -> None:
    recipe = parse_recipe(PADDED, "test")
    image = Image.open(case.image)
    case.run(recipe, keep=True)
    other_value = PADDED.replace("114, 7, 255", "1, 2, 3")
    other_stage = PADDED.replace("[tensor]", 'stage = "tensor"\n[tensor]')
    for form in (recipe, parse_recipe(other_value, "test"), parse_recipe(other_stage, "test")):
        made, decoder = case.run(form, use=True)
        assert decoder == "cache"
        assert made.tobytes() == reference.prepare_image(image, form).tobytes()


def test_pixels_that_pillow_decoded(tmp_path: Path) -> None:
    rgb = jpegs.photo(51, 64, 5)
    data = jpegs.save(rgb, "PNG")
    recipe, workspace = of_spec(BLACK_BORDER), _core.Workspace()
    plan = recipe.plan()
    out = np.empty(plan.nbytes, np.uint8)
    assert prepare_with_pillow(data, recipe, plan, workspace, out) is None
    pixels, place = workspace.pixels(plan)
    expected = oracle.tensor(rgb, replace(BLACK_BORDER, dtype="uint8"))
    assert pixels.tobytes() == expected.tobytes()
    rows = np.flatnonzero(expected.any((0, 2)))
    assert place == (0, rows[0], 30, len(rows))


@pytest.mark.parametrize(
    "damage", ["a bit", "cut", "empty", "file changed", "file touched", "place", "no file"]
)
def test_what_is_damaged_or_old_is_prepared_and_kept_anew(case: Case, damage: str) -> None:
    recipe = of_spec(SPEC)
    case.run(recipe, keep=True)
    good = case.store.read_bytes()
    expected = oracle.tensor(oracle.pixels(case.image.read_bytes()), SPEC)
    status, fd = case.image.stat(), case.fd
    assert case.stored is not None
    if damage == "a bit":
        bad = bytearray(good)
        bad[OFFSET + 777] ^= 16
        case.store.write_bytes(bad)
    elif damage in ("cut", "empty"):
        os.truncate(case.store, len(good) - 1 if damage == "cut" else 0)
    elif damage == "file changed":  # and has another size, and its old time
        case.image.write_bytes(jpegs.jpeg(51, 64, 4) + b"\0")
        os.utime(case.image, ns=(0, status.st_mtime_ns))
        expected = oracle.tensor(oracle.pixels(case.image.read_bytes()), SPEC)
    elif damage == "file touched":
        os.utime(case.image, ns=(0, status.st_mtime_ns + 1))
    elif damage == "place":
        case.stored = case.stored._replace(place=(1, 0, 28, 24))
    else:
        fd = -1
    made, decoder = case.run(recipe, use=True, keep=damage != "no file", fd=fd)
    assert decoder == "baseline"
    assert made.tobytes() == expected.tobytes()
    if damage != "no file":
        again, decoder = case.run(recipe, use=True)
        assert decoder == "cache"
        assert again.tobytes() == expected.tobytes()


def test_pixels_that_cannot_be_written_cost_no_tensor(case: Case) -> None:
    only_read = os.open(case.store, os.O_RDONLY)
    made, _ = case.run(of_spec(SPEC), keep=True, fd=only_read)
    os.close(only_read)
    assert made.tobytes() == oracle.tensor(oracle.pixels(case.image.read_bytes()), SPEC).tobytes()
    assert case.stored is not None
    assert os.strerror(case.stored.errno) == "Bad file descriptor"


def test_a_recipe_without_8_bit_pixels_keeps_none(case: Case) -> None:
    text = SPEC.toml().replace('"bilinear"', '"cv2-linear-float32"')
    recipe = parse_recipe(text, "test")
    workspace, plan = _core.Workspace(), recipe.plan()
    workspace.prepare(case.image.read_bytes(), plan, np.empty(plan.nbytes, np.uint8))
    with pytest.raises(ValueError, match="no 8-bit pixels"):
        workspace.pixels(plan)
    case.run(recipe, keep=True)
    assert case.stored is not None
    assert case.stored.errno != 0
    assert case.store.stat().st_size == 0
