"""torchvision, also where its compiled part cannot be loaded.

PyPI's torchvision is compiled for the CUDA build of torch. With a CPU build of torch, its import
fails because an operator is missing that no benchmark uses. Defining the operator makes the import
work.
"""

from __future__ import annotations

import torch

torch.set_num_threads(1)

try:
    import torchvision
except RuntimeError:
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

from torchvision.transforms import v2  # noqa: E402  # only after the above

__all__ = ["torchvision", "v2"]
