"""Recipes of OpenCV's pixels equal cv2.resize without IPP, and are turned as cv2.imread turns."""

from __future__ import annotations

import io
import random
import struct
import subprocess
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support import jpegs, native, once, oracle
from zoofast import _core, prepare
from zoofast.errors import ImageError
from zoofast.preprocess import opencv, reference
from zoofast.preprocess.prepare import Refusal, decode_with_pillow
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import parse_recipe

FILTERS = sorted(name for name in _core.FILTERS if name.startswith("cv2-"))
Pixels = NDArray[Any]


@pytest.fixture(scope="module")
def cv2() -> Any:
    """OpenCV without IPP, which is for x86 only and changes between versions."""
    module = pytest.importorskip("cv2")
    module.ipp.setUseIPP(False)
    return module


def by_opencv(cv2: Any, rgb: Pixels, height: int, width: int, filter: str) -> Pixels:
    method = {
        "cv2-nearest": cv2.INTER_NEAREST,
        "cv2-linear": cv2.INTER_LINEAR,
        "cv2-linear-float32": cv2.INTER_LINEAR,
        "cv2-cubic": cv2.INTER_CUBIC,
        "cv2-area": cv2.INTER_AREA,
        "cv2-linear-exact": cv2.INTER_LINEAR_EXACT,
    }[filter]
    pixels = rgb.astype(np.float32) if filter == "cv2-linear-float32" else rgb
    made: Pixels = cv2.resize(pixels, (width, height), interpolation=method)
    return made


def spec_of(filter: str, size: tuple[int, int], **other: Any) -> oracle.Spec:
    dtype = "float32" if filter == "cv2-linear-float32" else "uint8"
    options = {"mode": "exact", "crop": None, "layout": "NHWC", "dtype": dtype, "scale": "0-255"}
    still = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return oracle.Spec(filter=filter, size=size, **{**options, **still, **other})


def recipe_of(spec: oracle.Spec, decoder: str = "pillow") -> Recipe:
    return parse_recipe(spec.toml() + f'[image]\ndecoder = "{decoder}"\n', "test")


def from_rgb(rgb: Pixels, recipe: Recipe, workspace: _core.Workspace) -> Pixels:
    plan = recipe.plan()
    out = np.full(plan.nbytes, 0xA5, np.uint8)
    assert workspace.prepare_rgb(rgb, plan, out).status == _core.Status.OK
    return out.view(plan.dtype).reshape(plan.shape)


def sizes(draw: random.Random) -> tuple[int, int, int, int]:
    """Height and width before and after: any, whole factors, one side or both unchanged."""
    most = draw.choice([3, 40, 200, 400])
    height, width = draw.randint(1, most), draw.randint(1, most)
    new = [draw.randint(1, draw.choice([3, 40, 300])) for _ in range(2)]
    kind = draw.random()
    if kind < 0.25:
        new = [draw.randint(1, 60), draw.randint(1, 60)]
        height, width = new[0] * draw.randint(1, 5), new[1] * draw.randint(1, 5)
    elif kind < 0.35:
        new[0] = height
    elif kind < 0.4:
        new = [height, width]
    return height, width, new[0], new[1]


def random_pixels(seed: int, height: int, width: int) -> Pixels:
    rng = np.random.default_rng(seed)
    if seed % 5 == 0:
        return rng.choice(np.array([0, 255], np.uint8), (height, width, 3))
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def compare(cv2: Any, isa: str, filter: str, seeds: range) -> None:
    workspace = _core.Workspace(isa)
    for seed in seeds:
        height, width, new_h, new_w = sizes(random.Random(seed))
        rgb = random_pixels(seed, height, width)
        made = from_rgb(rgb, recipe_of(spec_of(filter, (new_h, new_w))), workspace)
        wanted = by_opencv(cv2, rgb, new_h, new_w, filter)
        assert made.tobytes() == wanted.tobytes(), (seed, (height, width), (new_h, new_w))


@pytest.mark.parametrize("filter", FILTERS)
def test_any_resize_equals_opencv(cv2: Any, isa: str, filter: str) -> None:
    compare(cv2, isa, filter, range(80))


@pytest.mark.slow
@pytest.mark.parametrize("filter", FILTERS)
def test_any_resize_equals_opencv_at_length(cv2: Any, isa: str, filter: str) -> None:
    compare(cv2, isa, filter, range(1000, 2000))


@pytest.mark.parametrize("level", [pytest.param("scalar", marks=pytest.mark.slow), "neon"])
def test_resizes_on_aarch64_equal_opencv(cv2: Any, made: once.Once, level: str) -> None:
    cases, wanted = [], []
    for i, seed in enumerate(range(300, 390)):
        filter = FILTERS[i % len(FILTERS)]
        height, width, new_h, new_w = sizes(random.Random(seed))
        rgb = random_pixels(seed, height, width)
        head = np.array([_core.FILTERS[filter], width, height, new_w, new_h], np.int32)
        cases.append(head.tobytes() + rgb.tobytes())
        wanted.append(by_opencv(cv2, rgb, new_h, new_w, filter))
    command = [*native.program(made, "opencv", "aarch64"), level]
    done = subprocess.run(command, input=b"".join(cases), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    ends = np.cumsum([image.nbytes for image in wanted])
    assert len(done.stdout) == ends[-1]
    for i, image in enumerate(wanted):
        assert done.stdout[ends[i] - image.nbytes : ends[i]] == image.tobytes(), (i, image.shape)


@pytest.mark.parametrize("filter", FILTERS)
def test_the_slow_reference_equals_opencv(cv2: Any, filter: str) -> None:
    for seed in range(200, 260):
        height, width, new_h, new_w = sizes(random.Random(seed))
        rgb = random_pixels(seed, height, width)
        source = rgb.astype(np.float32) if filter == "cv2-linear-float32" else rgb
        made = opencv.resize(source, new_h, new_w, filter)
        wanted = by_opencv(cv2, rgb, new_h, new_w, filter)
        assert made.dtype == wanted.dtype
        assert made.tobytes() == wanted.tobytes(), (seed, (height, width), (new_h, new_w))


@pytest.mark.parametrize("filter", FILTERS)
def test_recipes_of_photos(isa: str, filter: str) -> None:
    """Crops, layouts, channels, grey JPEGs and normalization, beside the slow reference."""
    workspace = _core.Workspace(isa)
    draw = random.Random(7)
    for seed in range(40):
        height, width, *_ = sizes(draw)
        grey = seed % 4 == 0
        data = (jpegs.gray_jpeg if grey else jpegs.jpeg)(height, width, seed)
        spec = spec_of(
            filter,
            (draw.randint(1, 90),) * 2,
            mode="short",
            crop=(draw.randint(1, 99), draw.randint(1, 99)),
            channels=draw.choice(["RGB", "BGR"]),
            layout=draw.choice(["NCHW", "NHWC"]),
            dtype=draw.choice(["uint8", "float32"]),
            scale=draw.choice(["0-1", "0-255"]),
            mean=(0.5, 0.25, 0.125),
            std=(0.3, 0.7, 1.9),
        )
        recipe = recipe_of(spec)
        out = np.full(recipe.nbytes, 0xA5, np.uint8)
        assert workspace.prepare(data, recipe.plan(), out).status == _core.Status.OK
        with Image.open(io.BytesIO(data)) as image:
            wanted = reference.prepare_image(image, recipe)
        assert out.tobytes() == wanted.tobytes(), (seed, spec)


def exif(number: int, order: str) -> bytes:
    """An APP1 segment's contents with that orientation; order is "<" (II) or ">" (MM)."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    tag = struct.pack(order + "HHIHH", 0x0112, 3, 1, number, 0)
    return b"Exif\0\0" + head + struct.pack(order + "IH", 8, 1) + tag + bytes(4)


def with_segments(data: bytes, *contents: bytes) -> bytes:
    segments = [b"\xff\xe1" + struct.pack(">H", len(each) + 2) + each for each in contents]
    return data[:2] + b"".join(segments) + data[2:]


def by_imread(cv2: Any, data: bytes) -> Pixels:
    made = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(made[:, :, ::-1])


def sized(rgb: Pixels) -> Recipe:
    spec = spec_of("bilinear", (1, 1), mode="none", out=rgb.shape[:2])
    return recipe_of(spec, "cv2")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("number", range(10))
def test_every_orientation(cv2: Any, number: int, order: str) -> None:
    for data in (jpegs.jpeg(37, 22), jpegs.gray_jpeg(22, 37)):
        turned = with_segments(data, exif(number, order))
        wanted = by_imread(cv2, turned)
        assert np.array_equal(prepare(turned, sized(wanted)), wanted)
        assert np.array_equal(decode_with_pillow(turned, "cv2"), wanted)


@pytest.mark.parametrize("number", range(1, 9))
def test_a_crop_of_a_turned_picture(isa: str, number: int) -> None:
    """Only the window that the crop shows is decoded."""
    data = with_segments(jpegs.jpeg(90, 61), exif(number, "<"))
    recipe = recipe_of(spec_of("cv2-linear", (40, 40), mode="short", crop=(24, 28)), "cv2")
    out = np.empty(recipe.nbytes, np.uint8)
    outcome = _core.Workspace(isa).prepare(data, recipe.plan(), out)
    assert outcome.status == _core.Status.OK
    rgb = decode_with_pillow(data, "cv2")
    assert not isinstance(rgb, Refusal)
    assert rgb.shape[:2] == ((90, 61) if number < 5 else (61, 90))
    wanted = reference.prepare_image(Image.fromarray(rgb), recipe)
    assert out.tobytes() == wanted.tobytes()


def hostile_exif(draw: random.Random) -> bytes:
    """EXIF data of tags that OpenCV reads, many with wrong counts and offsets, some cut off."""
    order = draw.choice("<>")
    tags = [0x10E, 0x10F, 0x11A, 0x128, 0x132, 0x13E, 0x13F, 0x211, 0x213, 0x214, 0x8298, 0x100]
    entries = b""
    count = draw.randint(0, 5)
    for _ in range(count):
        if draw.random() < 0.5:
            entries += struct.pack(order + "HHIHH", 0x0112, 3, 1, draw.randint(0, 9), 0)
        else:
            length = draw.choice([0, 1, 4, 5, 30, 60, 2**31, 2**32 - 1])
            value = draw.choice([draw.randint(0, 120), 2**32 - 1, 2**32 - 8])
            entries += struct.pack(order + "HHII", draw.choice(tags), 2, length, value)
    offset = draw.choice([8, 8, 8, 8, 0, 9, 2**32 - 2])
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, offset)
    stated = draw.choice([count, count, count + 2, 65535])
    data = bytearray(head + struct.pack(order + "H", stated) + entries + bytes(draw.randint(0, 9)))
    if draw.random() < 0.3:
        data[draw.randrange(len(data))] = draw.choice([0, 255, draw.randrange(256)])
    if draw.random() < 0.3:
        del data[draw.randint(0, len(data)) :]
    return b"Exif\0\0" + bytes(data)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of EXIF data, and goes on
def test_hostile_exif_is_read_as_opencv_reads_it(cv2: Any) -> None:
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("OpenCV 4 reads the first APP1 segment only, whatever it holds")
    data, draw = jpegs.jpeg(6, 9), random.Random(1)
    turned = 0
    for _ in range(1500):
        segments = [hostile_exif(draw) for _ in range(draw.choice([1, 1, 2]))]
        broken = with_segments(data, *segments)
        wanted = by_imread(cv2, broken)
        assert np.array_equal(prepare(broken, sized(wanted)), wanted), segments
        by_pillow = decode_with_pillow(broken, "cv2")  # which refuses some broken EXIF data
        assert isinstance(by_pillow, Refusal) or np.array_equal(by_pillow, wanted), segments
        turned += not np.array_equal(wanted, oracle.pixels(data))
    assert turned > 100


def test_xmp_before_exif(cv2: Any) -> None:
    data = with_segments(jpegs.jpeg(20, 30), b"http://ns.adobe.com/xap/1.0/\0<x/>", exif(6, ">"))
    pixels = decode_with_pillow(data, "cv2")
    assert not isinstance(pixels, Refusal)
    assert pixels.shape == (30, 20, 3)
    assert np.array_equal(prepare(data, sized(pixels)), pixels)


def test_other_formats(cv2: Any) -> None:
    """Pillow decodes what OpenCV decodes to the same pixels; the rest is refused with a reason."""
    rgb = jpegs.photo(20, 30)
    for data in (
        jpegs.save(rgb, "PNG"),
        jpegs.save(rgb[:, :, 0], "PNG"),
        jpegs.save(np.dstack([rgb, rgb[:, :, 1]]), "PNG"),
        jpegs.save(rgb, "PNG", exif=exif(8, "<")),
        jpegs.save(rgb, "BMP"),
    ):
        wanted = by_imread(cv2, data)
        assert np.array_equal(prepare(data, sized(wanted)), wanted)
    refused = {
        "PNG of 16 bits": jpegs.save(rgb[:, :, 0].astype(np.uint16) * 200, "PNG"),
        "GIF": jpegs.save(rgb, "GIF"),
    }
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([rgb, rgb[:, :, 1]]), "CMYK").save(buffer, "JPEG")
    refused["mode CMYK"] = buffer.getvalue()
    for words, data in refused.items():
        with pytest.raises(ImageError, match=words):
            prepare(data, sized(rgb))
