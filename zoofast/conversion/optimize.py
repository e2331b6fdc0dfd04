"""Rewrites of an ONNX graph that change its speed on an NPU and not a bit of its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoofast.base.extras import needs
from zoofast.base.files import atomic_output
from zoofast.conversion import onnxfile, rewrites
from zoofast.conversion.agreement import (
    Agreement,
    compare,
    random_images,
    require_agreement,
    run_onnx,
)

PROOF_IMAGES = 2  # random images that both models compute


@dataclass(frozen=True)
class OptimizeResult:
    """How often each rewrite applied, the nodes before and after, and the proof."""

    applied: dict[str, int]
    nodes_before: int
    nodes_after: int
    agreement: Agreement


def optimize(source: Path, out: Path, names: Sequence[str]) -> OptimizeResult:
    """Applies the rewrites `names` in order to `source` and writes `out`, also if none applied.

    ONNX Runtime computes both graphs as they are on random images; every bit of the logits has
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
    with atomic_output(out) as partial:
        onnx.save(model, str(partial))
        del model  # the sessions below need the memory
        images = random_images(shape, shape[0] or PROOF_IMAGES)
        agreement = compare(
            run_onnx(source, images, optimized=False), run_onnx(partial, images, optimized=False)
        )
        require_agreement(agreement, 0.0, f"{out}: the rewritten model")
    return OptimizeResult(applied, before, after, agreement)
