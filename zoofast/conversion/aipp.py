"""AIPP, the NPU's preprocessing unit: writes its configuration, and computes its result on the CPU.

A model compiled with AIPP takes 8-bit NHWC pixels, a quarter of float32's bytes. The NPU crops and
normalizes the pixels when it reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoofast.errors import ModelError, RecipeError
from zoofast.preprocess.recipe import Floats3, Recipe, Size

SOURCE_SIDES = range(2, 4097)  # heights and widths that AIPP takes, in pixels
MAX_MINIMUM = 255.0  # the largest min_chn_* that AIPP takes


@dataclass(frozen=True)
class Aipp:
    """A static configuration for packed 8-bit RGB or BGR images. Sizes are (height, width).

    The value x of a pixel in channel c becomes (x - mean[c] - minimum[c]) * factor[c] in float16.
    The channels are numbered in the order of a pixel's bytes.
    """

    source: Size  # of the images
    crop: Size | None = None
    crop_start: Size = (0, 0)  # (top, left)
    mean: tuple[int, int, int] = (0, 0, 0)
    minimum: Floats3 = (0.0, 0.0, 0.0)
    factor: Floats3 = (1.0, 1.0, 1.0)

    @property
    def size(self) -> Size:
        """The height and width of the network's input."""
        return self.crop or self.source

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Aipp:
        """The configuration that makes the network's input from the recipe's uint8 NHWC tensor.

        Raises RecipeError for a recipe of another dtype or layout, or with values that AIPP does
        not take.
        """
        device = recipe.device_input
        if device is None:
            raise RecipeError(f"recipe {recipe.name}: AIPP takes uint8 NHWC with an [aipp] table")
        if not all(side in SOURCE_SIDES for side in recipe.size):
            raise RecipeError(f"recipe {recipe.name}: AIPP takes sides of 2 to 4096 pixels")
        if not all(0.0 <= value <= MAX_MINIMUM for value in device.mean):
            means = list(device.mean)
            raise RecipeError(f"recipe {recipe.name}: AIPP takes means of 0 to 255, not {means}")
        return cls(
            source=recipe.size,
            crop=None if recipe.input_size == recipe.size else recipe.input_size,
            crop_start=device.crop_start,
            minimum=device.mean,
            factor=device.factor,
        )

    def text(self) -> str:
        """The configuration file: a line `key : value` for each field, with a comment."""
        fields = self._fields()
        lines = [f"    {key} : {value}" for key, value, _ in fields]
        width = max(map(len, lines)) + 2
        commented = (
            f"{line:<{width}}# {comment}\n"
            for line, (_, _, comment) in zip(lines, fields, strict=True)
        )
        formula = "# On the NPU: (value - mean_chn - min_chn) * var_reci_chn, in float16.\n"
        return f"{formula}aipp_op {{\n{''.join(commented)}}}\n"

    def _fields(self) -> list[tuple[str, str, str]]:
        """(key, value, comment) of each field of the file, in order."""
        fields = [
            ("aipp_mode", "static", "the same for every image, compiled into the .om"),
            ("related_input_rank", "0", "the model's first input"),
            ("input_format", "RGB888_U8", "three 8-bit values a pixel, rows of pixels (NHWC)"),
            ("src_image_size_w", f"{self.source[1]}", "width of the images, in pixels"),
            ("src_image_size_h", f"{self.source[0]}", "height of the images"),
            ("crop", f"{self.crop is not None}".lower(), "whether AIPP crops to the model's size"),
        ]
        if self.crop is not None:
            fields += [
                ("load_start_pos_w", f"{self.crop_start[1]}", "first column of the crop"),
                ("load_start_pos_h", f"{self.crop_start[0]}", "first row of the crop"),
                ("crop_size_w", f"{self.crop[1]}", "width of the crop: the model's width"),
                ("crop_size_h", f"{self.crop[0]}", "height of the crop: the model's height"),
            ]
        fields += [
            ("rbuv_swap_switch", "false", "the first and third value of a pixel stay in place"),
            ("csc_switch", "false", "no colour conversion: the images are not YUV"),
        ]
        for c in range(3):
            fields.append((f"mean_chn_{c}", f"{self.mean[c]}", f"subtracted from channel {c}"))
        for c in range(3):
            comment = f"subtracted from channel {c}: its mean, 0-255"
            fields.append((f"min_chn_{c}", f"{self.minimum[c]:.15g}", comment))
        for c in range(3):
            comment = f"factor of channel {c}: 1 / its standard deviation"
            fields.append((f"var_reci_chn_{c}", f"{self.factor[c]:.15g}", comment))
        return fields

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The network's input, float32 (N, 3, h, w), as the NPU's AIPP makes it of `pixels`.

        pixels: uint8 (N, H, W, 3) of the configured size; ModelError for another size or dtype.

        Each operation rounds to float16. The NPU's own rounding is not documented: its values can
        differ from these by an ulp or two. They are returned as float32, which ONNX Runtime takes.
        """
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (*self.source, 3):
            raise ModelError(
                f"AIPP is configured for uint8 images of {self.source[0]}x{self.source[1]}x3, "
                f"not {pixels.dtype} of {'x'.join(map(str, pixels.shape[1:]))}"
            )
        (top, left), (height, width) = self.crop_start, self.size
        values = pixels[:, top : top + height, left : left + width].astype(np.float16)
        values -= np.array(self.mean, np.float16)
        values -= np.array(self.minimum, np.float16)
        values *= np.array(self.factor, np.float16)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)
