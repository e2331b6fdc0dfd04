"""ONNX files: read with a clear error, described without surprises, written whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoofast.base.extras import needs
from zoofast.base.files import atomic_output
from zoofast.errors import ModelError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Port:
    """An input or output of a model: its name and its shape, None where a size is dynamic."""

    name: str
    shape: tuple[int | None, ...]

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None when it is dynamic."""
        return self.shape[0] if self.shape else None

    def __str__(self) -> str:
        return f"{self.name}:{','.join('?' if size is None else str(size) for size in self.shape)}"


def read(path: Path) -> onnx.ModelProto:
    """The model in the file `path`; ModelError when it is missing or not an ONNX model."""
    with needs("onnx"):
        import onnx
        from google.protobuf.message import DecodeError
    try:
        model = onnx.load(str(path))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX model") from error
    if not model.graph.node:
        raise ModelError(f"{path}: not an ONNX model (it has no nodes)")
    return model


def write(model: onnx.ModelProto, path: Path) -> None:
    """Writes `model` to `path`, whole or not at all. Raises OutputError."""
    import onnx

    with atomic_output(path) as partial:
        onnx.save(model, str(partial))


def inputs(model: onnx.ModelProto) -> list[Port]:
    """What has to be fed: the graph's inputs that no initializer fills."""
    filled = {tensor.name for tensor in model.graph.initializer}
    return [_port(value) for value in model.graph.input if value.name not in filled]


def outputs(model: onnx.ModelProto) -> list[Port]:
    """The graph's outputs."""
    return [_port(value) for value in model.graph.output]


def _port(value: onnx.ValueInfoProto) -> Port:
    dims = value.type.tensor_type.shape.dim
    return Port(
        value.name,
        tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims),
    )


def image_input(model: onnx.ModelProto, path: Path) -> Port:
    """The one NCHW input of a classifier; ModelError, naming `path`, when it has another form."""
    ports = inputs(model)
    if len(ports) != 1 or len(ports[0].shape) != 4:
        found = "; ".join(map(str, ports)) or "none"
        raise ModelError(f"{path}: one 4-D input is expected, it has {found}")
    return ports[0]
