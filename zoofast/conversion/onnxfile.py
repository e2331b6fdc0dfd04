"""Reads ONNX files, writes them completely or not at all, and describes their inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoofast.base.extras import needs
from zoofast.base.files import atomic_output, is_device_or_pipe, opened
from zoofast.base.text import first_line
from zoofast.errors import ModelError, OutputError

if TYPE_CHECKING:
    import onnx


MAX_PROTOBUF_BYTES = 1 << 31


@dataclass(frozen=True)
class Port:
    """An input of a model: its name, and its shape with None for dynamic sizes."""

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
        with opened(path):
            pass  # a regular file; onnx would wait for the writer of a pipe
        model = onnx.load(str(path), format="protobuf")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (DecodeError, UnicodeDecodeError) as error:  # UnicodeDecodeError: of a name
        raise ModelError(f"{path}: not an ONNX model") from error
    except (onnx.checker.ValidationError, ValueError) as error:
        # weights in other files, which are missing, outside of the folder or too short
        raise ModelError(f"{path}: {first_line(error)}") from error
    if not model.graph.node:
        raise ModelError(f"{path}: not an ONNX model (it has no nodes)")
    return model


@contextmanager
def output(path: Path) -> Iterator[Path]:
    """atomic_output for an ONNX that is read again, to be compared, before it gets its name.

    Raises OutputError, also for a device or a pipe.
    """
    if is_device_or_pipe(path):
        raise OutputError(f"{path}: a device or a pipe cannot be read again; name a file")
    with atomic_output(path) as partial:
        yield partial


def read_valid(path: Path) -> onnx.ModelProto:
    """As `read`; ModelError also for a graph that breaks ONNX's rules."""
    model = read(path)
    import onnx

    try:
        # A model with more than 2 GB of weights can only be checked as a file.
        onnx.checker.check_model(str(path) if model.ByteSize() >= MAX_PROTOBUF_BYTES else model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{path}: not a valid ONNX model: {first_line(error)}") from error
    return model


def inputs(model: onnx.ModelProto) -> list[Port]:
    """The graph's inputs without a constant value: what a caller has to give."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [_port(value) for value in model.graph.input if value.name not in constants]


def _port(value: onnx.ValueInfoProto) -> Port:
    dims = value.type.tensor_type.shape.dim
    return Port(
        value.name,
        tuple(dim.dim_value if dim.dim_value > 0 else None for dim in dims),
    )


def image_input(model: onnx.ModelProto, path: Path) -> Port:
    """The one NCHW input of a classifier; ModelError, naming `path`, when it has another form."""
    ports = inputs(model)
    if len(ports) != 1 or len(ports[0].shape) != 4:
        raise ModelError(
            f"{path}: a classifier has one 4-D input, this model has "
            f"{'; '.join(map(str, ports)) or 'none'}"
        )
    return ports[0]
