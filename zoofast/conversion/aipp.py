"""AIPP, the NPU's own preprocessing: writes its configuration, and computes it on the host.

With AIPP the compiled model takes 8-bit NHWC pixels, a quarter of the bytes, and the NPU crops
and normalizes them on their way in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoofast.errors import ModelError, RecipeError
from zoofast.preprocess.recipe import Floats3, Recipe, Size

SOURCE_SIDES = range(2, 4097)  # what AIPP takes, in pixels
MOST_MINIMUM = 255.0


@dataclass(frozen=True)
class Aipp:
    """A static configuration for packed 8-bit RGB (or BGR) images. Sizes are (height, width).

    A pixel x of channel c becomes (x - mean[c] - minimum[c]) * factor[c], in float16. Channels
    count in the order of the bytes.
    """

    source: Size
    crop: Size | None = None
    start: Size = (0, 0)  # of the crop: top, left
    mean: tuple[int, int, int] = (0, 0, 0)
    minimum: Floats3 = (0.0, 0.0, 0.0)
    factor: Floats3 = (1.0, 1.0, 1.0)

    @property
    def size(self) -> Size:
        """Height and width that reach the network."""
        return self.crop or self.source

    @classmethod
    def of(cls, recipe: Recipe) -> Aipp:
        """What leads from the recipe's uint8 NHWC tensor to the network's input.

        Raises RecipeError for a recipe of another dtype or layout, or of values AIPP cannot hold.
        """
        if recipe.dtype != "uint8" or recipe.layout != "NHWC" or recipe.on_device is None:
            raise RecipeError(f"recipe {recipe.name}: AIPP takes uint8 NHWC with an [aipp] table")
        if not all(side in SOURCE_SIDES for side in recipe.size):
            raise RecipeError(f"recipe {recipe.name}: AIPP takes sides of 2 to 4096 pixels")
        unit = 255.0 if recipe.on_device.scale == "0-1" else 1.0
        order = ["RGB".index(channel) for channel in recipe.channels]
        minimum = [recipe.on_device.mean[channel] * unit for channel in order]
        factor = [1.0 / (recipe.on_device.std[channel] * unit) for channel in order]
        if not all(0.0 <= value <= MOST_MINIMUM for value in minimum):
            raise RecipeError(f"recipe {recipe.name}: AIPP takes means of 0 to 255, not {minimum}")
        cropped = recipe.input_size != recipe.size
        return cls(
            source=recipe.size,
            crop=recipe.input_size if cropped else None,
            start=(
                (recipe.size[0] - recipe.input_size[0]) // 2,
                (recipe.size[1] - recipe.input_size[1]) // 2,
            ),
            minimum=(minimum[0], minimum[1], minimum[2]),
            factor=(factor[0], factor[1], factor[2]),
        )

    def text(self) -> str:
        """The configuration file, every field explained."""
        entries = [
            ("aipp_mode", "static", "the same for every image, compiled into the .om"),
            ("related_input_rank", "0", "the model's first input"),
            ("input_format", "RGB888_U8", "three 8-bit values a pixel, rows of pixels (NHWC)"),
            ("src_image_size_w", f"{self.source[1]}", "width of what is fed, in pixels"),
            ("src_image_size_h", f"{self.source[0]}", "height of what is fed"),
            ("crop", f"{self.crop is not None}".lower(), "whether AIPP cuts the model's size out"),
        ]
        if self.crop is not None:
            entries += [
                ("load_start_pos_w", f"{self.start[1]}", "first column of the crop"),
                ("load_start_pos_h", f"{self.start[0]}", "first row of the crop"),
                ("crop_size_w", f"{self.crop[1]}", "width of the crop: the model's"),
                ("crop_size_h", f"{self.crop[0]}", "height of the crop: the model's"),
            ]
        entries += [
            ("rbuv_swap_switch", "false", "first and third value of a pixel stay where they are"),
            ("csc_switch", "false", "no colour conversion: it is no YUV"),
        ]
        entries += [
            (f"mean_chn_{c}", f"{self.mean[c]}", f"whole number taken from channel {c}")
            for c in range(3)
        ]
        entries += [
            (f"min_chn_{c}", f"{self.minimum[c]:.15g}", f"taken from channel {c}: its mean, 0-255")
            for c in range(3)
        ]
        entries += [
            (f"var_reci_chn_{c}", f"{self.factor[c]:.15g}", f"times this: 1 / deviation of {c}")
            for c in range(3)
        ]
        lines = [f"    {key} : {value}" for key, value, _ in entries]
        width = max(map(len, lines)) + 2
        return "".join(
            [
                "# On the NPU: (value - mean_chn - min_chn) * var_reci_chn, in float16.\n",
                "aipp_op {\n",
                *(
                    f"{line:<{width}}# {why}\n"
                    for line, (_, _, why) in zip(lines, entries, strict=True)
                ),
                "}\n",
            ]
        )

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the NPU's AIPP makes of `pixels` (N x H x W x 3): N x 3 x h x w.

        The arithmetic is float16, one operation after the other; the hardware's own rounding is
        not documented, so expect differences of an ulp or two. Returned as float32, as ONNX
        Runtime takes it. Raises ModelError for another size or dtype.
        """
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (*self.source, 3):
            raise ModelError(
                f"AIPP is set for uint8 images of {self.source[0]}x{self.source[1]}x3, "
                f"not {pixels.dtype} of {'x'.join(map(str, pixels.shape[1:]))}"
            )
        (top, left), (height, width) = self.start, self.size
        values = pixels[:, top : top + height, left : left + width].astype(np.float16)
        values -= np.array(self.mean, np.float16)
        values -= np.array(self.minimum, np.float16)
        values *= np.array(self.factor, np.float16)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


def read(path: Path) -> Aipp:
    """The configuration in a file, as far as zoofast has AIPP: static, RGB888_U8, no conversion.

    Raises ModelError, naming the line, for anything else, which must not pass for understood.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    values: dict[str, str] = {}
    body = re.fullmatch(r"\s*aipp_op\s*\{([^{}]*)\}\s*", re.sub(r"#.*", "", text))
    if body is None:
        raise ModelError(f"{path}: not of the form aipp_op {{ key : value … }}")
    for line in filter(None, map(str.strip, body[1].splitlines())):
        match = re.fullmatch(r"(\w+)\s*:\s*([\w.]+)", line, re.ASCII)
        if match is None or match[1] in values:
            raise ModelError(f"{path}: line {line!r} is not one `key : value`, given once")
        values[match[1]] = match[2]
    try:
        return _from_values(values)
    except KeyError as error:
        raise ModelError(f"{path}: key {error} is missing") from error
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error


def _from_values(values: dict[str, str]) -> Aipp:
    values = dict(values)
    for key, only in (
        ("aipp_mode", ("static",)),
        ("input_format", ("RGB888_U8", "3")),
        ("related_input_rank", ("0",)),
        ("rbuv_swap_switch", ("false",)),
        ("csc_switch", ("false",)),
    ):
        default = None if key in ("aipp_mode", "input_format") else only[0]
        value = values.pop(key, default)
        if value not in only:
            raise ValueError(f"{key} : {value}; zoofast knows only {only[0]}")
    source = (int(values.pop("src_image_size_h")), int(values.pop("src_image_size_w")))
    crop, start = None, (0, 0)
    if values.pop("crop", "false") == "true":
        crop = (int(values.pop("crop_size_h")), int(values.pop("crop_size_w")))
        start = (int(values.pop("load_start_pos_h", 0)), int(values.pop("load_start_pos_w", 0)))
    if any(
        at + part > whole for at, part, whole in zip(start, crop or source, source, strict=True)
    ):
        raise ValueError(f"the crop {crop} at {start} leaves the image {source}")
    mean = [int(values.pop(f"mean_chn_{c}", 0)) for c in range(3)]
    minimum = [float(values.pop(f"min_chn_{c}", 0)) for c in range(3)]
    factor = [float(values.pop(f"var_reci_chn_{c}", 1)) for c in range(3)]
    if values:
        raise ValueError(f"key {next(iter(values))!r} is unknown, or unused here")
    return Aipp(
        source,
        crop,
        start,
        (mean[0], mean[1], mean[2]),
        (minimum[0], minimum[1], minimum[2]),
        (factor[0], factor[1], factor[2]),
    )
