"""Whether two forms of one model compute the same: the proof behind export, simplify, optimize."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoofast.base.extras import needs
from zoofast.errors import ModelError

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Agreement:
    """How far the logits of two models are apart on the same images."""

    images: int
    largest: float  # largest absolute difference; infinite when a logit is not finite
    scale: float  # largest absolute logit of the reference
    top1: float  # share of images with the same first class, 0..1

    def within(self, tolerance: float) -> bool:
        """True when the largest difference is at most `tolerance` times the largest logit."""
        return self.largest <= tolerance * self.scale

    def __str__(self) -> str:
        return (
            f"{self.images} images: largest difference {self.largest:.3g} "
            f"(logits up to {self.scale:.3g}), top-1 agreement {self.top1:.2%}"
        )


def compare(reference: NDArray[np.float32], other: NDArray[np.float32]) -> Agreement:
    """The Agreement of two arrays of logits, each N x classes; ModelError when shapes differ."""
    if reference.shape != other.shape:
        raise ModelError(f"outputs have different shapes: {reference.shape} and {other.shape}")
    largest = float("inf")
    if np.isfinite(reference).all() and np.isfinite(other).all():
        largest = float(np.abs(reference.astype(np.float64) - other).max())
    return Agreement(
        images=len(reference),
        largest=largest,
        scale=float(np.abs(reference).max()),
        top1=float((reference.argmax(axis=1) == other.argmax(axis=1)).mean()),
    )


def demand(agreement: Agreement, tolerance: float, what: str) -> None:
    """Raises ModelError when `agreement` is beyond `tolerance`; `what` begins the message."""
    if not agreement.within(tolerance):
        raise ModelError(
            f"{what} computes something else: {agreement}; allowed {tolerance:g} of the logits"
        )


def run_onnx(
    path: Path, images: NDArray[np.float32], *, optimized: bool = True
) -> NDArray[np.float32]:
    """The first output of the ONNX model `path` for `images` (N x 3 x H x W), by ONNX Runtime.

    A fixed batch size is filled up with the first image and the fill is cut off again.
    `optimized=False` computes the graph as it stands, for exact comparisons. Raises ModelError.
    """
    with needs("onnx"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about the graph's style, not its result
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        port = session.get_inputs()[0]
        batch = port.shape[0] if isinstance(port.shape[0], int) else 1
        chunks = []
        for begin in range(0, len(images), batch):
            chunk = images[begin : begin + batch]
            fill = np.repeat(chunk[:1], batch - len(chunk), axis=0)
            fed = np.ascontiguousarray(np.concatenate([chunk, fill]))
            chunks.append(session.run(None, {port.name: fed})[0][: len(chunk)])
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise ModelError(f"{path}: ONNX Runtime: {str(error).splitlines()[0]}") from error
    return np.concatenate(chunks)


def random_images(shape: tuple[int | None, ...], count: int) -> NDArray[np.float32]:
    """`count` inputs of normal noise with a fixed seed, for a model input of `shape` (N x …).

    Raises ModelError when a size other than the batch is dynamic.
    """
    sizes = [size for size in shape[1:] if size is not None]
    if len(sizes) != len(shape) - 1:
        raise ModelError(
            f"input sizes {shape} are dynamic beyond the batch; give the model fixed ones"
        )
    return np.random.default_rng(0).standard_normal((count, *sizes), dtype=np.float32)
