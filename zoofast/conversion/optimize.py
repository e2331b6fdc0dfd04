"""Rewrites of an ONNX graph that change its speed on an NPU and not a bit of its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoofast.base.extras import needs
from zoofast.conversion import onnxfile, rewrites
from zoofast.conversion.agreement import Agreement, compare_models, random_images

PROOF_IMAGES = 2  # random images that both models compute, where their number is free


@dataclass(frozen=True)
class OptimizeResult:
    """How often each rewrite applied, the nodes before and after, and the proof."""

    applied: dict[str, int]
    nodes_before: int
    nodes_after: int
    agreement: Agreement


def optimize(source: Path, out: Path, names: Sequence[str]) -> OptimizeResult:
    """Applies the rewrites `names` in order to `source` and writes `out`, also if none applied.

    ONNX Runtime computes both graphs as they are on random images; every bit of all outputs has
    to be equal. Raises ModelError, and then `out` is as it was before.
    """
    with needs("onnx"):
        import onnx
    chosen = [rewrites.load(name) for name in names]
    model = onnxfile.read_valid(source)
    shape = onnxfile.image_input(model, source).shape
    before = len(model.graph.node)
    applied = {rewrite.name: rewrite.apply(model) for rewrite in chosen}
    after = len(model.graph.node)
    with onnxfile.output(out) as partial:
        onnx.save(model, str(partial))
        del model  # the sessions below need the memory
        size = shape[0] or PROOF_IMAGES
        images = random_images(shape, size, str(source))
        name = f"{out}: the rewritten model"
        agreement = compare_models(source, partial, images, 0.0, name, batch=size, optimized=False)
    return OptimizeResult(applied, before, after, agreement)
