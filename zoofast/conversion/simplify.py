"""Simplifies an ONNX with onnxsim, and proves that the result computes the same outputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from zoofast.base.extras import needs
from zoofast.base.text import first_line
from zoofast.conversion import onnxfile
from zoofast.conversion.agreement import Agreement, compare_models, random_images
from zoofast.errors import ModelError

PROOF_IMAGES = 2  # random images that both models compute, at least
# As a share of an output's largest value. A batch normalization that is folded into its
# convolution rounds differently.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class SimplifyResult:
    """The number of nodes by operator before and after, and the proof."""

    before: Counter[str]
    after: Counter[str]
    agreement: Agreement


def simplify(source: Path, out: Path, batch: int | None = None) -> SimplifyResult:
    """Writes the simplified `source` to `out`; `batch` None keeps the batch size as it is.

    ONNX Runtime computes all outputs of both models on the same random images, which must agree.
    Raises ModelError, and then `out` is as it was before.
    """
    with needs("onnx"):
        import onnx
        import onnxsim
    model = onnxfile.read_valid(source)
    port = onnxfile.image_input(model, source)
    if batch is not None and port.batch not in (None, batch):
        raise ModelError(
            f"{source}: its batch is fixed to {port.batch}; export it anew for {batch}"
        )
    size = batch or port.batch or PROOF_IMAGES
    images = random_images(port.shape, max(size, PROOF_IMAGES), str(source))
    before = Counter(node.op_type for node in model.graph.node)
    shapes = None if batch is None else {port.name: [batch, *port.shape[1:]]}
    try:
        simplified, _ = onnxsim.simplify(model, overwrite_input_shapes=shapes)
    except Exception as error:  # onnxsim's C++ core raises bare RuntimeError, ValueError, …
        raise ModelError(f"{source}: onnxsim: {first_line(error)}") from error
    after = Counter(node.op_type for node in simplified.graph.node)
    del model
    with onnxfile.output(out) as partial:
        onnx.save(simplified, str(partial))
        del simplified  # the sessions below need the memory
        name = f"{out}: the simplified model"
        agreement = compare_models(source, partial, images, TOLERANCE, name, batch=size)
    return SimplifyResult(before, after, agreement)
