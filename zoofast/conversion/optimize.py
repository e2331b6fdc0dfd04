"""Rewrites of an ONNX graph that change its speed on an NPU and not a bit of its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoofast.base.files import atomic_output
from zoofast.conversion import onnxfile, rewrites
from zoofast.conversion.agreement import Agreement, compare, demand, random_images, run_onnx

IMAGES = 2  # random inputs of the proof


@dataclass(frozen=True)
class Optimized:
    """What `optimize` did: how often each rewrite applied, node counts, and the proof."""

    applied: dict[str, int]
    nodes_before: int
    nodes_after: int
    agreement: Agreement


def optimize(source: Path, out: Path, names: Sequence[str]) -> Optimized:
    """Applies the rewrites `names` in order to `source` and writes `out`, also if none applied.

    Both graphs are run by ONNX Runtime on random inputs, unoptimized, and have to agree in
    every bit. Raises ModelError, and then `out` is as it was before.
    """
    chosen = [rewrites.load(name) for name in names]
    model = onnxfile.read(source)
    shape = onnxfile.image_input(model, source).shape
    before = len(model.graph.node)
    applied = {rewrite.name: rewrite.apply(model) for rewrite in chosen}
    after = len(model.graph.node)
    with atomic_output(out) as partial:
        onnxfile.write(model, partial)
        del model  # the runs below need its memory
        images = random_images(shape, shape[0] or IMAGES)
        agreement = compare(
            run_onnx(source, images, optimized=False), run_onnx(partial, images, optimized=False)
        )
        demand(agreement, 0.0, f"{out}: the rewritten model")
    return Optimized(applied, before, after, agreement)
