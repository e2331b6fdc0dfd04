"""cv2.imread's answer for images that Pillow decodes: which images, and how they are turned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoofast import _core

_EXIF = b"Exif\0\0"


def difference(image: Image.Image, data: bytes) -> str | None:
    """Why OpenCV's pixels of an image may differ from Pillow's; None where they are equal.

    `data` is the whole file.
    """
    if image.format == "JPEG":
        if image.mode not in ("L", "RGB"):
            return f"OpenCV converts a JPEG of mode {image.mode} in another way than Pillow"
        return None
    if image.format == "PNG":
        if data[24:25] == b"\x10":  # the bit depth, in the header's chunk
            return "OpenCV converts a PNG of 16 bits in another way than Pillow"
        if "Raw profile type exif" in image.info:
            return "OpenCV reads EXIF data in a PNG's text; zoofast does not"
        return None
    if image.format == "BMP":
        return None
    return f"OpenCV may decode a {image.format} to other pixels than Pillow"


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, that OpenCV 5 finds in a JPEG or PNG."""
    exif_segments: list[bytes] = []
    if image.format == "JPEG":
        exif_segments = [data for marker, data in getattr(image, "applist", []) if marker == "APP1"]
    elif "exif" in image.info:
        exif_segments = [image.info["exif"]]
    for data in exif_segments:
        if data.startswith(_EXIF):
            number = _core.exif_orientation(data[len(_EXIF) :])
            if number:
                return number
    return 1


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The pixels (height, width, 3), turned as EXIF's orientation 1 to 8 says."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
