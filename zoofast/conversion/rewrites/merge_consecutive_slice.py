"""Merges chains of Slice nodes, each of which cuts other axes, into one Slice.

PyTorch exports `x[:, :, 1:, 1:]` as one Slice for each axis; on an NPU each Slice copies a tensor.
Slices of distinct axes give the same result in any order, so one Slice can cut them all. Two
consecutive Slices are merged when

- all their starts, ends, axes and steps are constants (attributes before opset 10),
- only the second Slice uses the result of the first, and the graph does not output it, and
- they have no axis in common, where negative axes count from the end.

The merged Slice is merged again with the next, so that a chain of any length becomes one node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoofast.base.extras import needs

if TYPE_CHECKING:
    import onnx

NAME = "KnowledgeMergeConsecutiveSlice"
SUMMARY = "merge chains of Slice nodes on distinct axes into one"
UNUSED = "no consecutive Slices on distinct axes; newer versions of onnxsim merge them themselves"

FIRST_OPSET_WITH_INPUTS = 10  # before it, starts, ends and axes are attributes
FIRST_IR_WITH_FREE_INITIALIZERS = 4  # before it, an initializer is also an input of the graph
LARGE_BYTES = 1024  # shapes do not depend on the values of larger tensors


@dataclass(frozen=True)
class Cut:
    """The arguments of a Slice: for each axis in `axes`, its start, end and step."""

    starts: list[int]
    ends: list[int]
    axes: list[int]
    steps: list[int]

    def then(self, other: Cut) -> Cut:
        """The Cut that does both."""
        return Cut(
            self.starts + other.starts,
            self.ends + other.ends,
            self.axes + other.axes,
            self.steps + other.steps,
        )


def apply(model: onnx.ModelProto) -> int:
    """Merges in place; returns the number of Slice nodes that it removed."""
    with needs("onnx"):
        return _Merger(model).run()


class _Merger:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        opsets = {entry.domain: entry.version for entry in model.opset_import}
        self.opset = opsets.get("", opsets.get("ai.onnx", 0))
        self.constants = self._constants()
        self.uses = Counter(_names_used(self.graph))
        self.outputs = {value.name for value in self.graph.output}
        self.merged: set[str] = set()  # the tensors between merged Slices
        self._ranks: dict[str, int] | None = None

    def run(self) -> int:
        producers = {name: node for node in self.graph.node for name in node.output}
        for node in list(self.graph.node):
            # The nodes come in the order of the data: a chain's first two Slices are merged first.
            first = producers.get(node.input[0]) if node.input else None
            if first is None or not self._can_merge(first, node):
                continue
            cut, second = self._cut(first), self._cut(node)
            if cut is None or second is None or self._collide(cut.axes, second.axes, node):
                continue
            self.merged.add(node.input[0])
            self.uses.subtract(first.input[1:])
            self._write(node, first.input[0], cut.then(second))
        if self.merged:
            self._sweep()
        return len(self.merged)

    def _can_merge(self, first: onnx.NodeProto, second: onnx.NodeProto) -> bool:
        link = second.input[0]
        return (
            _is_slice(first)
            and _is_slice(second)
            and self.uses[link] == 1
            and link not in self.outputs
            and (
                self.opset < FIRST_OPSET_WITH_INPUTS
                or self.model.ir_version >= FIRST_IR_WITH_FREE_INITIALIZERS
            )
        )

    def _cut(self, node: onnx.NodeProto) -> Cut | None:
        """The arguments of the Slice `node`; None when they are not constant, or not valid."""
        if self.opset < FIRST_OPSET_WITH_INPUTS:
            attributes = {entry.name: list(entry.ints) for entry in node.attribute}
            starts, ends = attributes.get("starts"), attributes.get("ends")
            axes, steps = attributes.get("axes"), None
        else:
            names = [*node.input[1:], *[""] * (5 - len(node.input))]
            if any(name and name not in self.constants for name in names):
                return None
            starts, ends, axes, steps = (self.constants.get(name) for name in names)
        if starts is None or ends is None:
            return None
        axes = list(range(len(starts))) if axes is None else axes
        steps = [1] * len(starts) if steps is None else steps
        if not len(starts) == len(ends) == len(axes) == len(steps):
            return None
        return Cut(starts, ends, axes, steps)

    def _collide(self, first: list[int], second: list[int], node: onnx.NodeProto) -> bool:
        axes = first + second
        if axes and min(axes) < 0 <= max(axes):
            # Axes of both signs can only be compared when the rank is known; slicing keeps it.
            rank = self._rank(node.input[0])
            if rank is None:
                return True
            axes = [axis + rank if axis < 0 else axis for axis in axes]
        return len(set(axes)) < len(axes)

    def _write(self, node: onnx.NodeProto, source: str, cut: Cut) -> None:
        import onnx

        node.input[0] = source
        fields = {"starts": cut.starts, "ends": cut.ends, "axes": cut.axes, "steps": cut.steps}
        if self.opset < FIRST_OPSET_WITH_INPUTS:
            del node.attribute[:]
            del fields["steps"]
            node.attribute.extend(onnx.helper.make_attribute(*item) for item in fields.items())
            return
        names = []
        for field, values in fields.items():
            name = f"{field}_{node.name or node.output[0]}"
            while name in self.constants or name in self.uses:
                name += "_"
            tensor = onnx.numpy_helper.from_array(np.array(values, dtype=np.int64), name)
            self.graph.initializer.append(tensor)
            self.constants[name] = values
            self.uses[name] = 1
            names.append(name)
        self.uses.subtract(node.input[1:])
        node.input[:] = [source, *names]

    def _sweep(self) -> None:
        """Removes the merged nodes, and the constants and shapes that only they used."""
        unused = {name for name in self.constants if self.uses[name] == 0}
        unused -= self.outputs | {value.name for value in self.graph.input}
        removed = self.merged | unused
        _delete(self.graph.node, lambda node: bool(node.output) and node.output[0] in removed)
        _delete(self.graph.initializer, lambda tensor: tensor.name in removed)
        _delete(self.graph.value_info, lambda value: value.name in removed)

    def _constants(self) -> dict[str, list[int]]:
        """The values of every one-dimensional integer constant, by name.

        An initializer that is also an input of the graph is not constant: a caller may replace it.
        """
        import onnx

        tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        for value in self.graph.input:
            tensors.pop(value.name, None)
        lists: dict[str, list[int]] = {}
        for node in self.graph.node:
            if node.op_type == "Constant":
                for entry in node.attribute:
                    if entry.name == "value":
                        tensors[node.output[0]] = entry.t
                    elif entry.name == "value_ints":
                        lists[node.output[0]] = list(entry.ints)
        integer = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
        for name, tensor in tensors.items():
            if (
                tensor.data_type in integer
                and len(tensor.dims) == 1
                and tensor.data_location != onnx.TensorProto.EXTERNAL
            ):
                with suppress(ValueError):  # a tensor with more or fewer values than its shape
                    lists[name] = onnx.numpy_helper.to_array(tensor).tolist()
        return lists

    def _rank(self, name: str) -> int | None:
        if self._ranks is None:
            self._ranks = _ranks(self.model)
        return self._ranks.get(name)


def _delete(entries: Any, unwanted: Callable[[Any], bool]) -> None:
    """Deletes from a repeated protobuf field by position; its remove() would compare tensors."""
    for position in reversed(range(len(entries))):
        if unwanted(entries[position]):
            del entries[position]


def _is_slice(node: onnx.NodeProto) -> bool:
    return node.op_type == "Slice" and node.domain in ("", "ai.onnx")


def _names_used(graph: onnx.GraphProto) -> Iterator[str]:
    """The name of a tensor for each use as an input of a node, also inside If and Loop."""
    for node in graph.node:
        yield from node.input
        for entry in node.attribute:
            for body in (entry.g, *entry.graphs):
                yield from _names_used(body)
                yield from (value.name for value in body.output)


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """The ranks of the graph's tensors, by name, as far as ONNX's shape inference knows them."""
    import onnx

    # Shape inference copies the model several times: replace large weights by inputs.
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.functions.extend(model.functions)
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    bare.graph.value_info.extend(model.graph.value_info)
    bare.graph.name = model.graph.name
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= LARGE_BYTES:
            bare.graph.initializer.append(tensor)
        else:
            bare.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    graph = onnx.shape_inference.infer_shapes(bare).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info)
        if value.type.tensor_type.HasField("shape")
    }
