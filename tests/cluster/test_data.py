"""`zoofast.ray.Prepare` on batches as Ray Data gives them."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from tests.support import jpegs
from zoofast import ImageError, load_recipe
from zoofast.preprocess.reference import prepare_image
from zoofast.ray import Prepare

RECIPE = load_recipe("alexnet")


def objects(*values: object) -> np.ndarray:
    """Values of any size as a column."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def test_each_form_of_rows() -> None:
    files = [jpegs.jpeg(300, 280, 1), jpegs.save(jpegs.photo(270, 350, 2), "PNG")]
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
    expected = np.stack([prepare_image(image, RECIPE) for image in images])
    pixels = [np.asarray(image) for image in images]
    key = np.array(["a", "b"])
    for batch in (
        {"bytes": objects(*files), "path": key},
        {"image": objects(*({"bytes": data, "path": None} for data in files)), "path": key},
        {"image": objects(*pixels), "path": key},
        {"path": key, "jpg": objects(*files)},
    ):
        made = pickle.loads(pickle.dumps(Prepare("alexnet")))(batch)
        assert list(made) == ["path", "tensor"]
        assert made["tensor"].dtype == np.float32
        assert np.array_equal(made["tensor"], expected)
    one_size = {"photo": np.stack([pixels[0], pixels[0]])}
    made = Prepare(RECIPE, column="photo", output="x")(one_size)
    assert np.array_equal(made["x"], expected[[0, 0]])


def test_what_cannot_be_prepared() -> None:
    good = jpegs.jpeg(300, 280, 1)
    rows = {"bytes": objects(good, b"no image"), "path": np.array(["a.jpg", "b.jpg"])}
    with pytest.raises(ImageError, match=r"^b\.jpg: not an image that Pillow can identify$"):
        Prepare(RECIPE)(rows)
    marked = Prepare(RECIPE, on_error="mark")(rows)
    assert list(marked["failure"]) == ["", "not an image that Pillow can identify"]
    assert marked["tensor"][0].any() and not marked["tensor"][1].any()
    for image, reason in (
        (np.zeros((9, 9), np.uint8), r"row 0 of a batch: uint8 \[9, 9\] is not RGB"),
        (np.zeros((9, 9, 4), np.uint8), "is not RGB"),
        (np.zeros((9, 9, 3), np.float32), "is not RGB"),
        ("x.jpg", "str is neither bytes nor an array"),
        ({"path": "x"}, "NoneType is neither bytes"),
    ):
        with pytest.raises(ImageError, match=reason):
            Prepare(RECIPE)({"image": objects(image)})
    with pytest.raises(ImageError, match=r"no column bytes or image or .*, but x"):
        Prepare(RECIPE)({"x": objects(good)})
    with pytest.raises(ValueError, match="on_error must be one of stop, mark, not 'skip'"):
        Prepare(RECIPE, on_error="skip")


def test_no_column_of_the_rows_is_replaced() -> None:
    rows = {"bytes": objects(jpegs.jpeg(300, 280, 1)), "label": np.array([7])}
    with pytest.raises(ImageError, match="the rows have a column label already; rename or drop"):
        Prepare(RECIPE, output="label")(rows)
    with pytest.raises(ImageError, match="the rows have a column failure already"):
        Prepare(RECIPE, on_error="mark")({**rows, "failure": np.array([""])})
    with pytest.raises(ValueError, match="output 'failure': this column has the reasons"):
        Prepare(RECIPE, on_error="mark", output="failure")
    made = Prepare(RECIPE, output="bytes")(rows)  # the images' own place
    assert made["bytes"].shape == (1, 3, 224, 224)
    assert made["label"] == [7]
