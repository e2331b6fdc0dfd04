"""onnxsim with a fixed or any batch size, its result proven equal to what went in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from zoofast.base.extras import needs
from zoofast.base.files import atomic_output
from zoofast.conversion import onnxfile
from zoofast.conversion.agreement import Agreement, compare, demand, random_images, run_onnx
from zoofast.errors import ModelError

IMAGES = 2  # random inputs of the proof
# Of the largest logit. Folding a batch normalization into its convolution rounds differently.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Simplified:
    """What `simplify` did: nodes by operator before and after, and the proof."""

    before: Counter[str]
    after: Counter[str]
    agreement: Agreement


def simplify(source: Path, out: Path, batch: int | None = None) -> Simplified:
    """Writes the simplified `source` to `out`, with a fixed batch size or, for None, its own.

    Both models are run by ONNX Runtime on the same random inputs. Raises ModelError, and then
    `out` is as it was before.
    """
    with needs("onnx"):
        import onnxsim
    model = onnxfile.read(source)
    port = onnxfile.image_input(model, source)
    if batch is not None and port.batch not in (None, batch):
        raise ModelError(
            f"{source}: its batch is fixed to {port.batch}; export it anew for {batch}"
        )
    before = Counter(node.op_type for node in model.graph.node)
    shapes = None if batch is None else {port.name: [batch, *port.shape[1:]]}
    try:
        simplified, _ = onnxsim.simplify(model, overwrite_input_shapes=shapes)
    except Exception as error:  # onnxsim's C++ core raises bare RuntimeError, ValueError, …
        raise ModelError(f"{source}: onnxsim: {str(error).splitlines()[0]}") from error
    after = Counter(node.op_type for node in simplified.graph.node)
    del model
    with atomic_output(out) as partial:
        onnxfile.write(simplified, partial)
        del simplified  # the runs below need its memory
        images = random_images(port.shape, port.batch or IMAGES)
        agreement = compare(run_onnx(source, images), run_onnx(partial, images))
        demand(agreement, TOLERANCE, f"{out}: the simplified model")
    return Simplified(before, after, agreement)
