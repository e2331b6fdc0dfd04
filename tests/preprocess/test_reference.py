"""Tensors equal Pillow and NumPy in every byte, for any recipe and any image."""

from __future__ import annotations

import io
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.support import jpegs, oracle
from zoofast import _core, prepare
from zoofast.base.torchvision_operators import define_missing_operators
from zoofast.errors import ImageError
from zoofast.preprocess import recipe, reference
from zoofast.preprocess.recipe_file import load_recipe, parse_recipe

CROP_ROUNDINGS = ("half-even", "truncate", "up", "down", "torchvision")
SIDES = st.one_of(st.integers(1, 70), st.integers(1, 400))


@st.composite
def specs(draw: st.DrawFn) -> oracle.Spec:
    mode = draw(st.sampled_from(["short", "height", "exact", "none"]))
    keeps_ratio = mode in ("short", "height")
    side = st.integers(1, 90)
    size = (draw(side), draw(side)) if mode == "exact" else (draw(side),) * 2
    crop = draw(st.none() | st.tuples(st.integers(1, 110), st.integers(1, 110)))
    if mode != "exact" and crop is None:
        crop = (draw(side), draw(side))
    dtype = draw(st.sampled_from(["float32", "float32", "float16", "uint8"]))
    numbers = st.integers(13, 512).map(lambda n: n / 256)
    return oracle.Spec(
        mode=mode,
        size=size,
        side_rounding=draw(st.sampled_from(["down", "half-up"])) if keeps_ratio else "down",
        filter=draw(st.sampled_from(oracle.FILTERS)),
        crop=crop,
        rounding=draw(st.sampled_from(CROP_ROUNDINGS)),
        dtype=dtype,
        layout=draw(st.sampled_from(["NCHW", "NHWC"])),
        channels=draw(st.sampled_from(["RGB", "BGR"])),
        scale=draw(st.sampled_from(["0-1", "0-255", 1 / 127.5, 0.003921569])),
        mean=(draw(numbers), draw(numbers), draw(numbers)),
        std=(draw(numbers), draw(numbers), draw(numbers)),
        precision=draw(st.sampled_from(["float32", "float64", "float16"])),
        second=draw(st.none() | st.tuples(*[st.tuples(numbers, numbers, numbers)] * 2)),
    )


def from_rgb(rgb: NDArray[np.uint8], spec: oracle.Spec, isa: str) -> NDArray[np.uint8]:
    plan = parse_recipe(spec.toml(), "test").plan()
    out = np.full(plan.nbytes, 0xA5, np.uint8)
    status = _core.Workspace(isa).prepare_rgb(rgb, plan, out).status
    assert status == _core.Status.OK
    return out


def expected(rgb: NDArray[np.uint8], spec: oracle.Spec) -> NDArray[np.uint8]:
    return oracle.tensor(rgb, spec).reshape(-1).view(np.uint8)


@given(height=SIDES, width=SIDES, spec=specs(), seed=st.integers(0, 3))
def test_any_recipe_of_any_pixels(
    isa: str, height: int, width: int, spec: oracle.Spec, seed: int
) -> None:
    assume(spec.mode != "height" or spec.size[0] * width >= height)  # else no width is left
    rgb = jpegs.photo(height, width, seed)
    assert np.array_equal(from_rgb(rgb, spec, isa), expected(rgb, spec))


@given(
    shape=st.sampled_from([(1, 1), (1, 900), (900, 1), (2, 1500), (1500, 3), (700, 13), (5, 640)]),
    filter=st.sampled_from(oracle.FILTERS),
    side=st.integers(1, 64),
)
def test_extreme_shapes(isa: str, shape: tuple[int, int], filter: str, side: int) -> None:
    rgb = jpegs.photo(*shape, seed=side)
    spec = oracle.Spec(size=(side, side), crop=(40, 56), filter=filter, dtype="uint8")
    assert np.array_equal(from_rgb(rgb, spec, isa), expected(rgb, spec))


@given(
    rgb=st.integers(0, 2**32 - 1).map(
        lambda seed: np.random.default_rng(seed).choice(np.array([0, 255], np.uint8), (37, 61, 3))
    ),
    filter=st.sampled_from(oracle.FILTERS),
    size=st.tuples(st.integers(1, 140), st.integers(1, 140)),
)
def test_pixels_of_black_and_white_only(
    isa: str, rgb: NDArray[np.uint8], filter: str, size: tuple[int, int]
) -> None:
    """Values above 255 and below 0 between the passes show whether each pass clips."""
    spec = oracle.Spec(mode="exact", size=size, crop=None, filter=filter, dtype="uint8")
    assert np.array_equal(from_rgb(rgb, spec, isa), expected(rgb, spec))


def is_down_first(order: str, w: int, h: int, new_w: int, new_h: int) -> bool:
    if order == "pillow-12.2":
        return new_h < h and h > 100 * w
    return order == "pillow-13.0" and new_h < h and h - new_h > 2 * (w - new_w)


@pytest.mark.parametrize("order", _core.PASS_ORDERS)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60))
    | st.tuples(st.integers(190, 320), st.integers(2, 3)),  # about 100 times as tall as wide
    new=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    filter=st.sampled_from(oracle.FILTERS[1:]),
)
def test_the_order_of_passes_of_every_pillow(
    isa: str, order: str, size: tuple[int, int], new: tuple[int, int], filter: str
) -> None:
    """Pillow changed the order in 12.2 and 13.0. A resize of one side alone has one pass, so two
    such resizes give the expected pixels of either order with any Pillow."""
    (h, w), (new_h, new_w) = size, new
    rgb, method = jpegs.photo(h, w, h), Image.Resampling[filter.upper()]
    image = Image.fromarray(rgb)
    middle = (w, new_h) if is_down_first(order, w, h, new_w, new_h) else (new_w, h)
    wanted = np.asarray(image.resize(middle, method).resize((new_w, new_h), method))
    spec = oracle.Spec(
        mode="exact", size=new, crop=None, filter=filter, dtype="uint8", layout="NHWC"
    )
    with mock.patch.object(recipe, "resize_order", lambda: order):
        made = from_rgb(rgb, spec, isa)
    assert np.array_equal(made, wanted.reshape(-1))


def test_tall_photos_are_of_the_kind_that_the_order_changes() -> None:
    """In short-side recipes the order matters for images more than twice as tall as wide."""
    rgb = jpegs.photo(700, 300, 4)
    spec = oracle.Spec(size=(256, 256), crop=(224, 224), dtype="uint8")
    made = {}
    for order in _core.PASS_ORDERS:
        with mock.patch.object(recipe, "resize_order", lambda order=order: order):
            made[order] = from_rgb(rgb, spec, "scalar")
    assert np.array_equal(made["pillow-10.0"], made["pillow-12.2"])
    assert not np.array_equal(made["pillow-10.0"], made["pillow-13.0"])
    assert np.array_equal(made[recipe.resize_order()], expected(rgb, spec))


@pytest.mark.parametrize(
    ("version", "order"),
    [
        ("10.0.0", "pillow-10.0"),
        ("12.1.1", "pillow-10.0"),
        ("12.2.0", "pillow-12.2"),
        ("12.10.0", "pillow-12.2"),
        ("13.0.0", "pillow-13.0"),
        ("13.1.0.dev0", "pillow-13.0"),
    ],
)
def test_the_order_follows_the_version(version: str, order: str) -> None:
    with mock.patch("PIL.__version__", version):
        assert recipe.resize_order() == order


@pytest.mark.parametrize("filter", oracle.FILTERS)
@pytest.mark.parametrize("source", range(1, 34))
def test_every_small_ratio(isa: str, source: int, filter: str) -> None:
    workspace, rgb = _core.Workspace(isa), jpegs.photo(source, source, source)
    for target in range(1, 40):
        spec = oracle.Spec(
            mode="exact", size=(target, target), crop=None, filter=filter, dtype="uint8"
        )
        plan = parse_recipe(spec.toml(), "test").plan()
        out = np.empty(plan.nbytes, np.uint8)
        assert workspace.prepare_rgb(rgb, plan, out).status == _core.Status.OK
        assert np.array_equal(out, expected(rgb, spec)), (source, target)


@pytest.mark.parametrize("rounding", CROP_ROUNDINGS)
def test_crop_origins_of_every_difference(isa: str, rounding: str) -> None:
    """side - crop from -12 to 12, odd and even: the rules differ for some of them."""
    for side in range(8, 21):
        for crop in range(8, 21):
            rgb = jpegs.photo(side, 31 - side, side)
            spec = oracle.Spec(mode="none", crop=(crop, crop), rounding=rounding, dtype="uint8")
            assert np.array_equal(from_rgb(rgb, spec, isa), expected(rgb, spec)), (side, crop)


def test_roundings_differ_where_they_should() -> None:
    rgb = jpegs.photo(31, 31)
    tensors = [
        expected(rgb, oracle.Spec(mode="none", crop=(28, 28), rounding=rule, dtype="uint8"))
        for rule in ("half-even", "truncate")
    ]
    assert not np.array_equal(*tensors)  # 1.5 is rounded to 2 by one rule, to 1 by the other


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("scale", ["0-1", "0-255"])
def test_every_kind_of_tensor(isa: str, dtype: str, layout: str, channels: str, scale: str) -> None:
    for height, width in ((24, 24), (33, 71), (16, 1)):
        spec = oracle.Spec(dtype=dtype, layout=layout, channels=channels, scale=scale)
        rgb = jpegs.photo(height, width, 5)
        assert np.array_equal(from_rgb(rgb, spec, isa), expected(rgb, spec))


@given(height=st.integers(30, 300), width=st.integers(30, 300))
def test_torchvisions_centre_crop(isa: str, height: int, width: int) -> None:
    """crop.rounding = "torchvision" pads and rounds as torchvision's own CenterCrop."""
    pytest.importorskip("torch")
    define_missing_operators()
    transforms = pytest.importorskip("torchvision.transforms")
    rgb = jpegs.photo(height, width)
    wanted = np.asarray(transforms.CenterCrop((120, 171))(Image.fromarray(rgb)))
    spec = oracle.Spec(mode="none", crop=(120, 171), rounding="torchvision", dtype="uint8")
    assert from_rgb(rgb, spec, isa).tobytes() == wanted.transpose(2, 0, 1).tobytes()


def test_a_side_rounded_half_up(isa: str) -> None:
    """megvii's ShuffleNet: int(size / short * long + 0.5), in Python's floats."""
    spec = oracle.Spec(size=(40, 40), crop=None, out=(40, 1), side_rounding="half-up")
    plan, workspace = parse_recipe(spec.toml(), "test").plan(), _core.Workspace(isa)
    out = np.empty(plan.nbytes, np.uint8)
    for short in range(20, 60):
        for long in range(short, 130):
            rgb = np.zeros((short, long, 3), np.uint8)
            outcome = workspace.prepare_rgb(rgb, plan, out)
            assert outcome.status == _core.Status.SIZE
            assert outcome.size == (40, int(40 / short * long + 0.5)), (short, long)


def test_an_image_too_narrow_for_its_height_is_named() -> None:
    spec = oracle.Spec(mode="height", size=(10, 10), crop=(10, 10), dtype="uint8")
    with pytest.raises(ImageError, match=r"image: 10x0 after resizing"):
        prepare(jpegs.jpeg(30, 2), parse_recipe(spec.toml(), "test"))


def test_a_size_that_the_recipe_does_not_make_is_named() -> None:
    spec = oracle.Spec(mode="short", size=(20, 20), crop=None, out=(20, 20), dtype="uint8")
    chosen = parse_recipe(spec.toml(), "test")
    square, wide = jpegs.jpeg(50, 50), jpegs.jpeg(50, 100)
    assert np.array_equal(prepare(square, chosen), oracle.tensor(oracle.pixels(square), spec))
    with pytest.raises(Exception, match=r"image: 20x40 after resizing; .* is 20x20"):
        prepare(wide, chosen)


@given(height=SIDES, width=SIDES, spec=specs())
def test_the_slow_reference_agrees(height: int, width: int, spec: oracle.Spec) -> None:
    """`prep --verify` compares with zoofast.preprocess.reference, which must itself be right."""
    assume(spec.mode != "height" or spec.size[0] * width >= height)
    rgb = jpegs.photo(height, width)
    made = reference.prepare_image(Image.fromarray(rgb), parse_recipe(spec.toml(), "test"))
    wanted = oracle.tensor(rgb, spec)
    assert made.dtype == wanted.dtype
    assert made.shape == wanted.shape
    assert made.tobytes() == wanted.tobytes()


def test_torchvision_agrees(isa: str) -> None:
    """The transforms of the AlexNet guide, run by torchvision itself."""
    pytest.importorskip("torch")
    define_missing_operators()
    transforms = pytest.importorskip("torchvision.transforms")
    steps = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    chosen = load_recipe("alexnet")
    for seed, (height, width) in enumerate([(375, 500), (500, 333), (224, 224), (90, 700)]):
        data = jpegs.jpeg(height, width, seed)
        image = Image.open(io.BytesIO(data)).convert("RGB")
        wanted = steps(image).numpy()
        out = np.empty(chosen.nbytes, np.uint8)
        status = _core.Workspace(isa).prepare(data, chosen.plan(), out).status
        assert status == _core.Status.OK
        assert out.tobytes() == np.ascontiguousarray(wanted).tobytes()
        assert reference.prepare_image(image, chosen).tobytes() == out.tobytes()
