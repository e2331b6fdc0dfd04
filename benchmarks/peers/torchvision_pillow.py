"""torchvision's transforms on a Pillow image: AlexNet's guide."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from peers._torchvision import torchvision

LABEL = "torchvision on Pillow"
EXACT = True
PACKAGES = ("torchvision", "torch", "pillow")

_transforms = torchvision.transforms
_pipeline = _transforms.Compose(
    [
        _transforms.Resize(256),
        _transforms.CenterCrop(224),
        _transforms.ToTensor(),
        _transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


def prepare(data: bytes) -> NDArray[np.float32]:
    tensor: NDArray[np.float32] = _pipeline(Image.open(io.BytesIO(data)).convert("RGB")).numpy()
    return tensor
