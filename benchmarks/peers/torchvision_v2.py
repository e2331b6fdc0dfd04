"""torchvision's v2 transforms on 8-bit tensors, decoded by torchvision.io where that loads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray

from peers._torchvision import torchvision, v2

EXACT = False

_pipeline = v2.Compose(
    [
        v2.Resize(256, antialias=True),
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


def _decode_with_torchvision(data: bytes) -> torch.Tensor:
    coded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    mode = torchvision.io.ImageReadMode.RGB
    pixels: torch.Tensor = torchvision.io.decode_jpeg(coded, mode=mode)
    return pixels


def _decode_with_simplejpeg(data: bytes) -> torch.Tensor:
    return torch.from_numpy(simplejpeg.decode_jpeg(data, colorspace="RGB")).permute(2, 0, 1)


def _choose() -> tuple[str, Callable[[bytes], torch.Tensor]]:
    tiny = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8), colorspace="RGB")
    try:
        _decode_with_torchvision(tiny)
    except RuntimeError:  # its compiled half did not load
        return "simplejpeg + torchvision v2", _decode_with_simplejpeg
    return "torchvision.io + torchvision v2", _decode_with_torchvision


LABEL, _decode = _choose()
PACKAGES = ("torchvision", "torch", "simplejpeg")


def prepare(data: bytes) -> NDArray[np.float32]:
    tensor: NDArray[np.float32] = _pipeline(_decode(data)).contiguous().numpy()
    return tensor
