"""The answer, by other means than zoofast's: Pillow for pixels, NumPy for floats.

Nothing of zoofast is imported here. A Spec says the same as a recipe, in this module's own terms.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Spec:
    """One way of preparing images; sizes are (height, width)."""

    mode: str = "short"  # short, height, exact, none
    size: tuple[int, int] = (32, 32)  # short, height: both are the side
    side_rounding: str = "down"
    filter: str = "bilinear"
    crop: tuple[int, int] | None = (24, 24)
    rounding: str = "half-even"
    out: tuple[int, int] | None = None  # where neither crop nor exact gives it
    dtype: str = "float32"
    layout: str = "NCHW"
    channels: str = "RGB"
    scale: str | float = "0-1"
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]
    precision: str = "float32"
    # subtracted after mean; divides after std
    second: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None

    def toml(self) -> str:
        lines = ['name = "test"', "[resize]", f'mode = "{self.mode}"']
        if self.mode != "none":
            keeps_ratio = self.mode in ("short", "height")
            side = self.size[0] if keeps_ratio else list(self.size)
            lines += [f"size = {side}", f'filter = "{self.filter}"']
            if self.side_rounding != "down":
                lines += [f'rounding = "{self.side_rounding}"']
        if self.crop:
            lines += ["[crop]", f"size = {list(self.crop)}", f'rounding = "{self.rounding}"']
        lines += ["[tensor]", f'dtype = "{self.dtype}"', f'layout = "{self.layout}"']
        lines += [f'channels = "{self.channels}"']
        if self.out:
            lines += [f"size = {list(self.out)}"]
        if self.dtype != "uint8":
            scale = f'"{self.scale}"' if isinstance(self.scale, str) else repr(self.scale)
            lines += ["[normalize]", f"scale = {scale}"]
            if self.second is None:
                lines += [f"mean = {list(self.mean)}", f"std = {list(self.std)}"]
            else:
                lines += [f"mean = [{list(self.mean)}, {list(self.second[0])}]"]
                lines += [f"std = [{list(self.std)}, {list(self.second[1])}]"]
            if self.precision != "float32":
                lines += [f'precision = "{self.precision}"']
        lines += ["[model]", 'input = "image"', 'output = "class"', "classes = 1000"]
        return "\n".join(lines) + "\n"


def pixels(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) as Pillow decodes them; raises whatever Pillow raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))


def _side(spec: Spec, side: int, other: int) -> int:
    """The new length of `side`, whose `other` side becomes spec.size[0]."""
    if spec.side_rounding == "half-up":
        return int(spec.size[0] / other * side + 0.5)
    return spec.size[0] * side // other


def _origin(side: int, crop: int, rounding: str) -> int:
    doubled = side - crop
    if rounding == "truncate" or doubled % 2 == 0:
        return int(doubled / 2)
    if rounding == "down":
        return doubled // 2
    if rounding == "up":
        return -(-doubled // 2)
    if rounding == "torchvision" and doubled < 0:
        return -((crop - side) // 2)  # CenterCrop's padding_ltrb
    down = (doubled - 1) // 2  # the two whole numbers beside the half
    return down if down % 2 == 0 else down + 1


def tensor(rgb: NDArray[np.uint8], spec: Spec) -> NDArray[Any]:
    """What `spec` makes of decoded pixels; ValueError when the size does not fit."""
    image = Image.fromarray(rgb)
    height, width = rgb.shape[:2]
    if spec.mode != "none":
        if spec.mode == "exact":
            height, width = spec.size
        elif width <= height and spec.mode == "short":
            height, width = _side(spec, height, width), spec.size[0]
        else:
            height, width = spec.size[0], _side(spec, width, height)
        image = image.resize((width, height), Image.Resampling[spec.filter.upper()])
    if spec.crop:
        top = _origin(height, spec.crop[0], spec.rounding)
        left = _origin(width, spec.crop[1], spec.rounding)
        # cropping by hand: black where the crop leaves the image
        canvas = np.zeros((*spec.crop, 3), np.uint8)
        source = np.asarray(image)
        for y in range(spec.crop[0]):
            if 0 <= top + y < height:
                x0, x1 = max(0, -left), min(spec.crop[1], width - left)
                canvas[y, x0:x1] = source[top + y, left + x0 : left + x1]
        made = canvas
    else:
        made = np.asarray(image)
    wanted = spec.crop or (spec.size if spec.mode == "exact" else spec.out)
    if made.shape[:2] != wanted:
        raise ValueError(f"{made.shape[:2]} is not {wanted}")
    if spec.dtype == "uint8":
        result: NDArray[Any] = made
    else:
        result = np.empty(made.shape, spec.dtype)
        for c in range(3):
            number = np.dtype(spec.precision).type
            x = made[:, :, c].astype(number)
            if spec.scale == "0-1":
                x = np.divide(x, number(255.0))
            elif isinstance(spec.scale, float):
                x = (made[:, :, c].astype(np.float64) * spec.scale).astype(number)
            x = np.subtract(x, number(spec.mean[c]))
            if spec.second:
                x = np.subtract(x, number(spec.second[0][c]))
            x = np.divide(x, number(spec.std[c]))
            if spec.second:
                x = np.divide(x, number(spec.second[1][c]))
            assert x.dtype == number
            result[:, :, c] = x.astype(np.float32).astype(spec.dtype)
    if spec.channels == "BGR":
        result = np.flip(result, axis=2)
    if spec.layout == "NCHW":
        result = np.moveaxis(result, 2, 0)
    return np.ascontiguousarray(result)
