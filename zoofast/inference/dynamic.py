"""The shapes and the normalization that a dynamic `.om` gets when it is run."""

from __future__ import annotations

import configparser
from dataclasses import dataclass, field
from pathlib import Path

from zoofast.errors import BackendError
from zoofast.preprocess.recipe import Recipe


@dataclass(frozen=True)
class DynamicAipp:
    """Normalization by dynamic AIPP: of RGB images of `source`, (h, w) pixels, the crop (y, x, h,
    w); then (value - low) * var of each channel, in the network's order. swap: the network takes
    BGR."""

    source: tuple[int, int]
    crop: tuple[int, int, int, int]
    swap: bool
    low: tuple[float, float, float]
    var: tuple[float, float, float]


@dataclass(frozen=True)
class Dynamic:
    """What a dynamic model is run with; a model that is not dynamic ignores `image` and `aipp`.

    hw: height and width. shapes: of each input, by name; the batch size first. image: the shape of
    one image, for a model without `hw` or `shapes`. output_nbytes: of each output whose size
    ACL does not know.
    """

    hw: tuple[int, int] | None = None
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    image: tuple[int, ...] | None = None
    output_nbytes: tuple[int, ...] = field(default=())
    aipp: DynamicAipp | None = None


def of_recipe(recipe: Recipe) -> Dynamic:
    """For a model that takes the recipe's tensors."""
    return Dynamic(image=recipe.shape, aipp=aipp_of_recipe(recipe))


def aipp_of_recipe(recipe: Recipe) -> DynamicAipp | None:
    """What the NPU computes from the recipe's 8-bit pixels; None for another recipe."""
    device = recipe.device_input
    if device is None:
        return None
    # swap is False: zoofast has put the channels into the network's order already
    crop = (*device.crop_start, *recipe.input_size)
    return DynamicAipp(recipe.size, crop, False, device.mean, device.factor)


def parse_hw(text: str) -> tuple[int, int]:
    """ "224,224". Raises ValueError."""
    height, width = (int(number) for number in text.split(","))
    if min(height, width) < 1:
        raise ValueError(text)
    return height, width


def parse_shapes(text: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """ "image:1,3,224,224;other:1,10". Raises ValueError."""
    shapes = []
    for part in text.split(";"):
        name, colon, numbers = part.rpartition(":")
        shape = tuple(int(number) for number in numbers.split(","))
        if not (name and colon) or min(shape) < 1:
            raise ValueError(text)
        shapes.append((name, shape))
    return tuple(shapes)


def read_aipp_config(path: str) -> DynamicAipp:
    """ais_bench's file for dynamic AIPP: a section aipp_op with ATC's names.

    Raises BackendError.
    """
    parser = configparser.ConfigParser()
    try:
        parser.read_string(Path(path).read_text(encoding="utf-8"))
        values = parser["aipp_op"]
        if values.get("input_format") != "RGB888_U8":
            raise ValueError("input_format must be RGB888_U8")
        for name in ("csc_switch", "padding", "resize", "ax_swap_switch"):
            if int(values.get(name, "0")):
                raise ValueError(f"{name} is not supported")
        height, width = int(values["src_image_size_h"]), int(values["src_image_size_w"])
        crop = (0, 0, height, width)
        if int(values.get("crop", "0")):
            names = ("load_start_pos_h", "load_start_pos_w", "crop_size_h", "crop_size_w")
            y, x, h, w = (int(values[name]) for name in names)
            crop = (y, x, h, w)

        def channels(name: str, default: str) -> list[float]:
            return [float(values.get(f"{name}_{i}", default)) for i in range(3)]

        low = [a + b for a, b in zip(channels("mean_chn", "0"), channels("min_chn", "0"),
                                     strict=True)]  # fmt: skip
        var = channels("var_reci_chn", "1")
        swap = bool(int(values.get("rbuv_swap_switch", "0")))
        return DynamicAipp(
            (height, width), crop, swap, (low[0], low[1], low[2]), (var[0], var[1], var[2])
        )
    except OSError as error:
        raise BackendError(f"{path}: {error.strerror}") from error
    except KeyError as error:
        raise BackendError(
            f"{path}: not a configuration of dynamic AIPP: {error} is missing"
        ) from error
    except (configparser.Error, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BackendError(f"{path}: not a configuration of dynamic AIPP: {reason}") from error
