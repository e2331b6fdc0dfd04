"""torchvision, also where its compiled half does not load.

PyPI's torchvision is compiled against the CUDA build of torch. Beside a CPU torch its import ends
at an operator that nothing here uses; saying what the operator looks like lets it go on.
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
