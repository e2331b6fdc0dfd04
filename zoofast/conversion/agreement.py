"""Compares the logits of two forms of one model: the proof of export, simplify and optimize."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.extras import needs
from zoofast.base.text import counted, first_line, percent
from zoofast.errors import ModelError

MAX_RANDOM_VALUES = 1 << 28  # 1 GiB of float32


@dataclass(frozen=True)
class Agreement:
    """How much the logits of two models differ on the same images."""

    images: int
    max_difference: float  # largest absolute difference; infinite when a logit is not finite
    max_logit: float  # largest absolute logit of the reference
    top1: float  # share of images with the same first class, 0..1

    def within(self, tolerance: float) -> bool:
        """True when the largest difference is at most `tolerance` times the largest logit."""
        return self.max_difference <= tolerance * self.max_logit

    def __str__(self) -> str:
        return (
            f"{counted(self.images, 'image')}: largest difference "
            f"{self.max_difference:.3g} (logits up to {self.max_logit:.3g}), "
            f"top-1 agreement {percent(self.top1, 2)}"
        )


def compare(reference: NDArray[np.float32], other: NDArray[np.float32]) -> Agreement:
    """The Agreement of two arrays of logits, (N, classes) each.

    Raises ModelError when the shapes differ, or are not those of logits.
    """
    if reference.shape != other.shape:
        raise ModelError(f"outputs have different shapes: {reference.shape} and {other.shape}")
    if reference.ndim < 2 or reference.size == 0:
        raise ModelError(f"the output's shape is {reference.shape}; logits are (images, classes)")
    max_difference = float("inf")
    if np.isfinite(reference).all() and np.isfinite(other).all():
        max_difference = float(np.abs(reference.astype(np.float64) - other).max())
    return Agreement(
        images=len(reference),
        max_difference=max_difference,
        max_logit=float(np.abs(reference).max()),
        top1=float((reference.argmax(axis=1) == other.argmax(axis=1)).mean()),
    )


def require_agreement(agreement: Agreement, tolerance: float, model: str) -> None:
    """Raises ModelError, which names `model`, when `agreement` is not within `tolerance`."""
    if not agreement.within(tolerance):
        raise ModelError(
            f"{model} computes other logits: {agreement}; "
            f"allowed are {tolerance:g} of the largest logit"
        )


def run_onnx(
    path: Path, images: NDArray[np.float32], *, optimized: bool = True, batch: int = 1
) -> NDArray[np.float32]:
    """The first output of the ONNX model `path`, (N, classes), computed by ONNX Runtime.

    images: (N, 3, H, W). Where the model has a fixed batch size, the last batch is padded with
        copies of its first image, and the answers to the copies are dropped.
    batch: images at a time where the model takes any number.
    optimized: as in compare_models.

    Raises ModelError.
    """
    return _logits(path, _run(path, images, optimized, batch))[: len(images)]


def compare_models(
    reference: Path,
    other: Path,
    images: NDArray[np.float32],
    tolerance: float,
    model: str,
    *,
    batch: int,
    optimized: bool = True,
) -> Agreement:
    """The Agreement of the logits, the first outputs of two ONNX models, on `images`.

    images: (N, 3, H, W); both models compute `batch` at a time, which divides N.
    tolerance: the largest difference of each output, as a share of its largest value.
    model: what messages call the other model.
    optimized: False switches ONNX Runtime's own rewrites off, for comparisons of every bit.

    Raises ModelError when a model cannot be run, or when an output, also one beside the logits,
    has another name, type or shape, or differs more.
    """
    expected = _run(reference, images, optimized, batch)
    computed = _run(other, images, optimized, batch)
    names = [", ".join(map(repr, outputs[0])) for outputs in (computed, expected)]
    if names[0] != names[1]:
        raise ModelError(f"{model} has the outputs {names[0]} instead of {names[1]}")
    agreement = compare(_logits(reference, expected), _logits(other, computed))
    require_agreement(agreement, tolerance, model)
    for name in list(expected[0])[1:]:
        pairs = zip(expected, computed, strict=True)
        if not all(_is_close(one[name], two[name], tolerance) for one, two in pairs):
            raise ModelError(
                f"{model} computes another output {name!r}; allowed are differences of "
                f"{tolerance:g} of the output's largest value"
            )
    return agreement


def _is_close(expected: NDArray[Any], computed: NDArray[Any], tolerance: float) -> bool:
    """Whether two arrays have one shape and type, and differ by at most `tolerance` times the
    largest value. Infinities and NaNs have to be at the same places."""
    if (expected.shape, expected.dtype) != (computed.shape, computed.dtype):
        return False
    if expected.dtype.kind != "f":
        return bool(np.array_equal(expected, computed))
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    return bool(
        np.allclose(computed, expected, rtol=0.0, atol=tolerance * float(largest), equal_nan=True)
    )


def _logits(path: Path, batches: list[dict[str, NDArray[Any]]]) -> NDArray[Any]:
    """The first outputs of all batches, (N, classes). Raises ModelError for other shapes."""
    name = next(iter(batches[0]))
    logits = [outputs[name] for outputs in batches]
    shapes = {array.shape for array in logits}
    if len(shapes) > 1 or logits[0].ndim < 2 or logits[0].dtype.kind not in "fiub":
        shown = " and ".join(map(str, sorted(shapes)))
        raise ModelError(
            f"{path}: its output {name!r} has the shape {shown} and the type {logits[0].dtype}; "
            "logits are numbers of the shape (images, classes)"
        )
    return np.concatenate(logits)


def _run(
    path: Path, images: NDArray[np.float32], optimized: bool, batch: int
) -> list[dict[str, NDArray[Any]]]:
    """All outputs of each batch by name. The arguments are those of run_onnx; also the answers to
    the copies are returned. Raises ModelError."""
    with needs("onnx"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised as well; its warnings concern style
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        port = session.get_inputs()[0]
        batch = port.shape[0] if isinstance(port.shape[0], int) and port.shape[0] > 0 else batch
        names = [output.name for output in session.get_outputs()]
        batches = []
        for begin in range(0, len(images), batch):
            chunk = images[begin : begin + batch]
            padding = np.repeat(chunk[:1], batch - len(chunk), axis=0)
            padded = np.ascontiguousarray(np.concatenate([chunk, padding]))
            outputs = session.run(None, {port.name: padded})
            batches.append(dict(zip(names, outputs, strict=True)))
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise ModelError(f"{path}: ONNX Runtime: {first_line(error)}") from error
    for name, value in batches[0].items():
        if not isinstance(value, np.ndarray):
            raise ModelError(f"{path}: its output {name!r} is not a tensor; remove it")
    return batches


def random_images(
    shape: tuple[int | None, ...], count: int, model: str = "the model"
) -> NDArray[np.float32]:
    """`count` inputs of normal noise, drawn with a fixed seed, for a model input of `shape`.

    model: what messages call it. Raises ModelError when a size other than the batch is dynamic.
    """
    sizes = [size for size in shape[1:] if size is not None]
    if len(sizes) != len(shape) - 1:
        raise ModelError(
            f"{model}: its input sizes {tuple(size or '?' for size in shape)} are dynamic beyond "
            "the batch; give the model fixed sizes"
        )
    if count * math.prod(sizes) > MAX_RANDOM_VALUES:
        raise ModelError(f"{model}: its input of {count} x {sizes} is too large to compute")
    return np.random.default_rng(0).standard_normal((count, *sizes), dtype=np.float32)
