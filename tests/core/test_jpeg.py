"""Decoding: every kind of JPEG, whole and in windows, intact and broken, as Pillow does it."""

from __future__ import annotations

import io
import random
import struct
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.support import jpegs, oracle
from zoofast import _core, prepare
from zoofast.errors import ImageError
from zoofast.preprocess.recipe_file import parse_recipe

WINDOWED = oracle.Spec(mode="none", crop=(8, 8), dtype="uint8", layout="NHWC")
PLAN = parse_recipe(WINDOWED.toml(), "test")
SAMPLINGS = {**jpegs.SAMPLINGS, **jpegs.ODD_SAMPLINGS}


def verdict(data: bytes, spec: oracle.Spec) -> NDArray[np.uint8] | None:
    """What Pillow makes of it; None when Pillow refuses."""
    try:
        rgb = oracle.pixels(data)
    except Exception:  # Pillow's readers raise many types
        return None
    return oracle.tensor(rgb, spec)


def ours(data: bytes) -> NDArray[np.uint8] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about files that it accepts
        try:
            return prepare(data, PLAN)
        except ImageError:
            return None


def agrees(data: bytes) -> bool:
    """The same verdict and, when accepted, the same pixels, though only a window is decoded."""
    wanted, made = verdict(data, WINDOWED), ours(data)
    if wanted is None or made is None:
        return wanted is None and made is None
    return bool(np.array_equal(wanted, made))


def decoded(data: bytes, isa: str | None = None) -> NDArray[np.uint8]:
    """Through the core alone, which must not leave this file to Pillow."""
    made = _core.Workspace(isa).decode(data)
    assert made is not None
    return made


# ---- intact files ------------------------------------------------------------


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "4:1:1"]),
    quality=st.integers(1, 100),
    progressive=st.booleans(),
    optimize=st.booleans(),
    restart=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_what_pillow_writes(
    isa: str,
    height: int,
    width: int,
    subsampling: str,
    quality: int,
    progressive: bool,
    optimize: bool,
    restart: int,
    seed: int,
) -> None:
    data = jpegs.jpeg(
        height,
        width,
        seed,
        subsampling=subsampling,
        quality=quality,
        progressive=progressive,
        optimize=optimize,
        restart_marker_blocks=restart,
    )
    assert np.array_equal(decoded(data, isa), oracle.pixels(data))


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    progressive=st.booleans(),
    quality=st.integers(20, 98),
)
def test_grayscale(isa: str, height: int, width: int, progressive: bool, quality: int) -> None:
    data = jpegs.gray_jpeg(height, width, 1, progressive=progressive, quality=quality)
    assert np.array_equal(decoded(data, isa), oracle.pixels(data))


@pytest.mark.parametrize("factors", SAMPLINGS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"restart": 1},
        {"restart": 3},
        {"wide_tables": True},
        {"separate_scans": True},
        {"separate_scans": True, "restart": 5},
        {"density": 0.6},
        {"density": 0.0},
    ],
    ids=str,
)
def test_every_sampling(isa: str, factors: str, options: dict[str, float]) -> None:
    for height, width in ((1, 1), (8, 8), (16, 16), (17, 33), (33, 17), (40, 64), (7, 70)):
        data = jpegs.craft(height, width, SAMPLINGS[factors], seed=width, **options)
        assert np.array_equal(decoded(data, isa), oracle.pixels(data)), (height, width)


@pytest.mark.parametrize("factors", SAMPLINGS)
@pytest.mark.parametrize("separate_scans", [False, True])
def test_windows_anywhere(isa: str, factors: str, separate_scans: bool) -> None:
    """Every position of small windows, and random ones: equal to the full decode, cut."""
    height, width = 51, 75
    data = jpegs.craft(
        height, width, SAMPLINGS[factors], seed=3, separate_scans=separate_scans, restart=2
    )
    whole, workspace = oracle.pixels(data), _core.Workspace(isa)
    windows = [(x, 20, x + 1, 21) for x in range(width)]
    windows += [(30, y, 31, y + 1) for y in range(height)]
    rng = np.random.default_rng(5)
    for _ in range(150):
        x0, x1 = np.sort(rng.choice(width + 1, 2, replace=False)).tolist()
        y0, y1 = np.sort(rng.choice(height + 1, 2, replace=False)).tolist()
        windows.append((x0, y0, x1, y1))
    for x0, y0, x1, y1 in windows:
        made = workspace.decode(data, (x0, y0, x1, y1))
        assert made is not None
        assert np.array_equal(made, whole[y0:y1, x0:x1]), (x0, y0, x1, y1)


@given(
    height=st.integers(40, 300),
    width=st.integers(40, 300),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "4:1:1", "gray"]),
    progressive=st.booleans(),
    data=st.data(),
)
def test_windows_of_larger_pictures(
    isa: str, height: int, width: int, subsampling: str, progressive: bool, data: st.DataObject
) -> None:
    if subsampling == "gray":
        file = jpegs.gray_jpeg(height, width, width, progressive=progressive)
    else:
        file = jpegs.jpeg(height, width, width, subsampling=subsampling, progressive=progressive)
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    made = _core.Workspace(isa).decode(file, (x0, y0, x1, y1))
    assert made is not None
    assert np.array_equal(made, oracle.pixels(file)[y0:y1, x0:x1])


# ---- markers -----------------------------------------------------------------

PLAIN = jpegs.jpeg(40, 56, 2)
EXIF_ROTATED = b"Exif\0\0" + b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x112, 3, 1, 6, 0, 0)
ADOBE = b"Adobe" + struct.pack(">HHH", 100, 0, 0)  # then the transform


def without_jfif(data: bytes) -> bytes:
    at = jpegs.find(data, 0xE0)
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def renamed(data: bytes, ids: bytes) -> bytes:
    """Other component ids, in the frame and the scan."""
    frame, scan = jpegs.find(data, 0xC0), jpegs.find(data, 0xDA)
    for i, value in enumerate(ids):
        data = jpegs.edit(data, frame + 10 + 3 * i, value)
        data = jpegs.edit(data, scan + 5 + 2 * i, value)
    return data


BARE = without_jfif(PLAIN)
# Files that the core itself must decode.
ORDINARY = {
    "plain": PLAIN,
    "no JFIF": BARE,
    "Exif orientation": jpegs.insert(PLAIN, jpegs.segment(0xE1, EXIF_ROTATED)),
    "XMP": jpegs.insert(PLAIN, jpegs.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")),
    "comment": jpegs.insert(PLAIN, jpegs.segment(0xFE, b"hello")),
    "empty comment": jpegs.insert(PLAIN, jpegs.segment(0xFE, b"")),
    "comment full of markers": jpegs.insert(PLAIN, jpegs.segment(0xFE, b"\xff\xd8\xff\xd9" * 9)),
    "ICC profile": jpegs.insert(PLAIN, jpegs.segment(0xE2, b"ICC_PROFILE\0\1\1" + b"x" * 99)),
    "JFIF thumbnail": jpegs.insert(PLAIN, jpegs.segment(0xE0, b"JFXX\0\x13\1\1abc")),
    "fill bytes": jpegs.insert(PLAIN, b"\xff\xff\xff"),
    "fill bytes before the frame": jpegs.insert(PLAIN, b"\xff" * 5, jpegs.find(PLAIN, 0xC0)),
    "trailing junk": PLAIN + b"junk" * 50,
    "trailing zeros": PLAIN + bytes(1000),
    "a second picture behind": PLAIN + PLAIN,
    "Adobe YCC": jpegs.insert(BARE, jpegs.segment(0xEE, ADOBE + b"\1")),
    "Adobe RGB": jpegs.insert(BARE, jpegs.segment(0xEE, ADOBE + b"\0")),
    "Adobe RGB, but JFIF": jpegs.insert(
        PLAIN, jpegs.segment(0xEE, ADOBE + b"\0"), jpegs.find(PLAIN, 0xDB)
    ),
    "ids RGB": renamed(BARE, b"RGB"),
    "ids RGB, but JFIF": renamed(PLAIN, b"RGB"),
    "ids RGB, Adobe YCC": renamed(jpegs.insert(BARE, jpegs.segment(0xEE, ADOBE + b"\1")), b"RGB"),
    "ids 0, 1, 2": renamed(BARE, b"\0\1\2"),
    "ids 200, 5, 77": renamed(BARE, b"\xc8\x05\x4d"),
    "all APPs": jpegs.insert(
        PLAIN, b"".join(jpegs.segment(0xE0 + i, b"nothing known") for i in range(16))
    ),
    "optimized tables": jpegs.jpeg(40, 56, 2, optimize=True),
    "progressive": jpegs.jpeg(40, 56, 2, progressive=True),
    "quality 1": jpegs.jpeg(40, 56, 2, quality=1),
    "quality 100": jpegs.jpeg(40, 56, 2, quality=100, subsampling=0),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_markers(isa: str, name: str) -> None:
    data = ORDINARY[name]
    assert np.array_equal(decoded(data, isa), oracle.pixels(data))
    assert agrees(data)


def test_colors_by_marker_do_differ() -> None:
    """The cases above would pass if nobody looked at the markers; these pictures are unlike."""
    as_ycc, as_rgb = decoded(ORDINARY["no JFIF"]), decoded(ORDINARY["Adobe RGB"])
    assert not np.array_equal(as_ycc, as_rgb)
    assert np.array_equal(as_rgb, decoded(ORDINARY["ids RGB"]))
    assert np.array_equal(as_ycc, decoded(ORDINARY["ids RGB, but JFIF"]))


def cmyk(ycck: bool, adobe: bool = True) -> bytes:
    pixels = np.dstack([jpegs.photo(40, 56, 1), jpegs.photo(40, 56, 2)[:, :, 0]])
    buffer = io.BytesIO()
    Image.fromarray(pixels, "CMYK").save(buffer, "JPEG")
    data = buffer.getvalue()
    at = jpegs.find(data, 0xEE)
    if not adobe:
        return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    return jpegs.edit(data, at + 15, 2 if ycck else 0)


def other(format: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(jpegs.photo(40, 56, 7))
    image = image.convert(mode)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gray16() -> bytes:
    values = np.arange(40 * 56, dtype=np.uint16).reshape(40, 56) * 29
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def mpo() -> bytes:
    buffer = io.BytesIO()
    first, second = (Image.fromarray(jpegs.photo(40, 56, seed)) for seed in (1, 2))
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    return buffer.getvalue()


# Files that the core leaves to Pillow, which accepts them.
UNUSUAL = {
    "CMYK": cmyk(ycck=False),
    "YCCK": cmyk(ycck=True),
    "CMYK without Adobe": cmyk(ycck=False, adobe=False),
    "PNG": other("PNG"),
    "PNG with alpha": other("PNG", "RGBA"),
    "PNG palette": other("PNG", "P"),
    "PNG palette, transparent": other("PNG", "P", transparency=b"\0\x80\xff"),
    "PNG bilevel": other("PNG", "1"),
    "PNG gray and alpha": other("PNG", "LA"),
    "PNG 16 bits": gray16(),
    "GIF": other("GIF", "P"),
    "BMP": other("BMP"),
    "WebP": other("WEBP", lossless=True),
    "TIFF": other("TIFF"),
    "PPM": other("PPM"),
    "several pictures": mpo(),
    "junk between markers": jpegs.insert(PLAIN, b"junk", jpegs.find(PLAIN, 0xC0)),
    "Adobe with unknown transform": jpegs.insert(BARE, jpegs.segment(0xEE, ADOBE + b"\x07")),
    "four components by hand": jpegs.craft(40, 56, ((1, 1),) * 4, seed=9),
    "four components, subsampled": jpegs.craft(40, 56, ((2, 2), (1, 1), (1, 1), (2, 2)), seed=9),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_files_go_through_pillow(name: str) -> None:
    data = UNUSUAL[name]
    assert verdict(data, WINDOWED) is not None
    assert _core.Workspace().decode(data) is None
    assert agrees(data)


# ---- broken files --------------------------------------------------------------


def seeds() -> Iterator[tuple[str, bytes]]:
    yield "plain", jpegs.jpeg(24, 40, 1, quality=60)
    yield "4:4:4", jpegs.jpeg(24, 24, 1, quality=60, subsampling=0)
    yield "progressive", jpegs.jpeg(24, 24, 1, quality=60, progressive=True)
    yield "gray", jpegs.gray_jpeg(24, 24, 1, quality=60)
    yield "restarts", jpegs.craft(40, 24, jpegs.SAMPLINGS["4:2:0"], 1, restart=1)
    yield "separate scans", jpegs.craft(24, 24, jpegs.SAMPLINGS["4:4:0"], 1, separate_scans=True)
    yield "wide tables", jpegs.craft(24, 24, jpegs.SAMPLINGS["4:4:4"], 1, wide_tables=True)
    yield (
        "markers",
        jpegs.insert(
            jpegs.jpeg(16, 16, 1, optimize=True),
            jpegs.segment(0xE1, EXIF_ROTATED)
            + jpegs.segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\x10" + bytes(16))
            + jpegs.segment(0xE2, b"ICC_PROFILE\0\1\1xyz")
            + jpegs.segment(0xEE, ADOBE + b"\1"),
        ),
    )
    yield "CMYK", cmyk(ycck=True)


def exif_of_resolution(draw: random.Random) -> bytes:
    """EXIF data with a resolution, of which some bytes are not what they should be."""
    order = draw.choice("<>")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, 3)
    kinds = [(0x112, 3, 6 << 16 if order == ">" else 6), (0x11A, 5, 50), (0x128, 3, 2 << 16)]
    tags = b"".join(struct.pack(order + "HHII", tag, kind, 1, value) for tag, kind, value in kinds)
    data = bytearray(head + tags + bytes(4) + struct.pack(order + "II", 300, 1) + bytes(20))
    for _ in range(draw.randrange(4)):
        data[draw.randrange(len(data) - 20)] = draw.choice([0, 1, 2, 3, 4, 7, 255, 254, 43])
    return b"Exif\0\0" + bytes(data)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of some EXIF data, and goes on
def test_broken_exif_is_refused_where_pillow_refuses_it() -> None:
    """Pillow reads the resolution when it opens a file that has none in a JFIF segment."""
    draw = random.Random(3)
    refused = 0
    for i in range(3000):
        data = jpegs.insert(BARE, jpegs.segment(0xE1, exif_of_resolution(draw)))
        assert agrees(data), i
        refused += verdict(data, WINDOWED) is None
    assert 5 < refused < 500
    twice = jpegs.segment(0xE1, exif_of_resolution(random.Random(1)))
    assert agrees(jpegs.insert(BARE, twice + twice[:-30]))


SEEDS = dict(seeds())


@pytest.mark.parametrize("name", SEEDS)
def test_cut_anywhere(name: str) -> None:
    data = SEEDS[name]
    step = max(1, len(data) // 1500)
    cuts = {*range(0, len(data), step), *range(max(0, len(data) - 100), len(data))}
    wrong = [cut for cut in sorted(cuts) if not agrees(data[:cut])]
    assert wrong == []
    assert verdict(data[: len(data) // 2], WINDOWED) is None  # some cuts are refused


def small(data: bytes) -> bool:
    """Whether Pillow would take the time of a small picture over it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                return image.width * image.height < 300_000
        except Exception:  # refused early
            return True


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("kind", ["flip", "byte", "marker", "cut out", "double"])
def test_corrupted_anywhere(name: str, kind: str) -> None:
    data, rng = SEEDS[name], np.random.default_rng(len(name))
    accepted = refused = 0
    for _ in range(160):
        at = int(rng.integers(2, len(data)))
        broken = bytearray(data)
        if kind == "flip":
            broken[at] ^= 1 << int(rng.integers(8))
        elif kind == "byte":
            broken[at] = int(rng.integers(256))
        elif kind == "marker":
            broken[at : at + 2] = bytes([0xFF, int(rng.integers(0xC0, 0xFF))])
        elif kind == "cut out":
            del broken[at : at + int(rng.integers(1, 30))]
        else:
            end = at + int(rng.integers(1, 30))
            broken[at:at] = broken[at:end]
        file = bytes(broken)
        if not small(file):
            continue
        assert agrees(file), (at, kind)
        if verdict(file, WINDOWED) is None:
            refused += 1
        else:
            accepted += 1
    assert accepted + refused > 100
    assert accepted > 0


@given(segment=st.binary(max_size=60), marker=st.sampled_from([*range(0xC0, 0xFF)]))
def test_any_segment_in_front(segment: bytes, marker: int) -> None:
    file = jpegs.insert(PLAIN, jpegs.segment(marker, segment))
    assert not small(file) or agrees(file)


@given(body=st.binary(max_size=80), name=st.sampled_from([b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08"]))
def test_any_exif(body: bytes, name: bytes) -> None:
    """Pillow reads the resolution out of it; whatever that does, we do."""
    assert agrees(jpegs.insert(BARE, jpegs.segment(0xE1, name + body)))


@given(
    blocks=st.lists(st.tuples(st.binary(max_size=9), st.integers(0, 40), st.binary(max_size=30))),
    tail=st.binary(max_size=12),
)
def test_any_photoshop_segment(blocks: list[tuple[bytes, int, bytes]], tail: bytes) -> None:
    body = b"Photoshop 3.0\0"
    for name, size, content in blocks:
        body += b"8BIM\x03\xed" + bytes([len(name)]) + name
        body += struct.pack(">I", size) + content
    assert agrees(jpegs.insert(PLAIN, jpegs.segment(0xED, body + tail)))


@given(data=st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for start in (b"", b"\xff\xd8\xff", PLAIN[:20], PLAIN[: jpegs.find(PLAIN, 0xC0)]):
        assert agrees(start + data)


def scans_of(data: bytes) -> list[int]:
    """Offsets of the SOS markers."""
    found, at = [], data.find(b"\xff\xda")
    while at >= 0:
        found.append(at)
        at = data.find(b"\xff\xda", at + 2)
    return found


@pytest.mark.parametrize("size", [(24, 24), (120, 90), (64, 200)])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_progressive_with_scans_missing(size: tuple[int, int], subsampling: int) -> None:
    """libjpeg smooths blocks whose coefficients never came, looking at their neighbours."""
    data = jpegs.jpeg(*size, 3, progressive=True, subsampling=subsampling, quality=40)
    scans = scans_of(data)
    assert len(scans) > 5
    for cut in scans[1:]:
        assert agrees(data[:cut] + b"\xff\xd9")


@pytest.mark.parametrize("factors", jpegs.SAMPLINGS)
def test_sequential_with_scans_missing(factors: str) -> None:
    data = jpegs.craft(40, 56, SAMPLINGS[factors], 3, separate_scans=True)
    for cut in scans_of(data)[1:]:
        assert agrees(data[:cut] + b"\xff\xd9")
        assert agrees(data[:cut])


# What Pillow refuses: (file, words of the reason)
FRAME = jpegs.find(PLAIN, 0xC0)
REFUSED = {
    "empty": (b"", "empty"),
    "one byte": (b"\xff", "not an image"),
    "only SOI": (b"\xff\xd8\xff", "not an image"),
    "text": (b"not an image at all\n" * 40, "not an image"),
    "HTML": (b"<html><body>404</body></html>", "not an image"),
    "zero width": (jpegs.edit(jpegs.edit(PLAIN, FRAME + 7, 0), FRAME + 8, 0), ""),
    "zero height": (jpegs.edit(jpegs.edit(PLAIN, FRAME + 5, 0), FRAME + 6, 0), ""),
    "12 bits": (jpegs.edit(PLAIN, FRAME + 4, 12), "not an image"),
    "cut in the header": (PLAIN[:200], "Truncated"),
    "cut in the scan": (PLAIN[: len(PLAIN) * 2 // 3], "truncated"),
    "bomb": (
        PLAIN[: FRAME + 5] + struct.pack(">HH", 65000, 65000) + PLAIN[FRAME + 9 :],
        "4225000000 pixels",
    ),
    "too many blocks": (jpegs.craft(40, 40, ((2, 2), (2, 2), (2, 2)), 1), ""),
    "cut PNG": (other("PNG")[:300], ""),
    "lossless": (jpegs.edit(PLAIN, FRAME + 1, 0xC3), ""),
    "arithmetic with Huffman tables": (jpegs.edit(PLAIN, FRAME + 1, 0xC9), None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_pillow_refuses(name: str) -> None:
    data, words = REFUSED[name]
    if words is None:
        assert agrees(data)
        return
    assert verdict(data, WINDOWED) is None
    assert _core.Workspace().decode(data) is None
    with pytest.raises(ImageError, match=r"^image: .") as caught:
        prepare(data, PLAN)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_largest_picture_below_the_bomb_limit_is_not_refused_by_size() -> None:
    """More pixels than Pillow warns at, fewer than it raises at: it is refused for being cut."""
    data = PLAIN[: FRAME + 5] + struct.pack(">HH", 10000, 12000) + PLAIN[FRAME + 9 :]
    cut = data[: jpegs.find(data, 0xDA)]
    with pytest.raises(ImageError, match="Truncated"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare(cut[:-3], PLAN)


def test_a_side_of_65500() -> None:
    """The longest that libjpeg takes; a window of it needs little memory."""
    data = jpegs.craft(1, 65500, jpegs.SAMPLINGS["gray"], density=0.0)
    made = _core.Workspace().decode(data, (65490, 0, 65500, 1))
    assert made is not None
    assert np.array_equal(made, oracle.pixels(data)[:, 65490:])
    longer = jpegs.craft(1, 65501, jpegs.SAMPLINGS["gray"], density=0.0)
    assert _core.Workspace().decode(longer) is None
    assert agrees(longer)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("marker", [0xDB, 0xC4], ids=["quantization", "Huffman"])
def test_no_table_outlives_its_image(progressive: bool, marker: int) -> None:
    """A file without its tables, after one that had others. Without Huffman tables it is a frame
    of Motion JPEG, for which Pillow has the standard ones."""
    first = jpegs.jpeg(40, 40, quality=30, optimize=True, progressive=progressive)
    whole = jpegs.jpeg(40, 40, quality=95, progressive=progressive)
    parts, at = [whole[:2]], 2
    while whole[at + 1] != 0xDA:
        length = 2 + int.from_bytes(whole[at + 2 : at + 4], "big")
        if whole[at + 1] != marker:
            parts.append(whole[at : at + length])
        at += length
    bare = b"".join(parts) + whole[at:]
    workspace = _core.Workspace()
    assert workspace.decode(first) is not None
    assert workspace.decode(bare) is None
    assert agrees(bare)


@pytest.mark.parametrize("order", [(1, 3, 2), (3, 2, 1), (2, 1, 3)])
@pytest.mark.parametrize("of", [0xC0, 0xDA], ids=["frame", "scan"])
def test_components_out_of_order(order: tuple[int, int, int], of: int) -> None:
    """libjpeg-turbo refuses some orders that a plain reading would accept. Found by fuzzing."""
    data = bytearray(jpegs.jpeg(24, 24, subsampling="4:2:0"))
    at, step = jpegs.find(bytes(data), of) + (10 if of == 0xC0 else 5), 3 if of == 0xC0 else 2
    for i, id in enumerate(order):
        data[at + i * step] = id
    assert agrees(bytes(data))
