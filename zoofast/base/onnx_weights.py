"""Which further files hold weights of an ONNX model.

A tensor may say that its data is external: then it has entries of text, and the value of the entry
`location` is a path from the model's folder. All other content of the model is skipped, and the
package onnx is not needed.

https://protobuf.dev/programming-guides/encoding, and onnx.proto of https://github.com/onnx/onnx
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from zoofast.errors import BackendError

# Kind of message -> its fields in which tensors may lie, by number: the kind of message there.
_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        **dict.fromkeys((5, 10), "tensor"),
        **dict.fromkeys((6, 11), "graph"),
        **dict.fromkeys((22, 23), "sparse tensor"),
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": dict[int, str](),
}
_KEY, _VALUE = 1, 2  # fields of an entry
_VARINT, _64_BITS, _BYTES, _32_BITS = 0, 1, 2, 5  # kinds of fields
_MAX_FIELDS = 5_000_000  # a model of 10,000 nodes has some 200,000
_MAX_DEPTH = 100  # of messages in each other, as in protobuf
_MAX_TEXT = 4096  # bytes of a path


def weight_files(model: str | os.PathLike[str]) -> list[str]:
    """The further files that an ONNX file names: sorted paths from its folder. Some may be missing.

    Empty for a file that is no ONNX model. Raises BackendError for a path that leads out of the
    folder; OSError.
    """
    try:
        with open(model, "rb") as file:
            found = {os.path.normpath(os.fsdecode(text)) for text in _locations(file)}
    except ValueError:
        return []  # the backend says what is wrong with the file
    for path in found:
        if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
            raise BackendError(
                f"{model}: its weights lie outside of its folder ({path!r}); save the model with "
                "all its files in one folder"
            )
    return sorted(found)


def _locations(file: BinaryIO) -> Iterator[bytes]:
    """The locations of all tensors. Raises ValueError for a file that is no ONNX model."""
    messages = [("model", os.fstat(file.fileno()).st_size)]  # that begin before `at`, with ends
    at = fields = 0
    entry: dict[int, bytes] = {}
    while messages:
        kind, end = messages[-1]
        if at == end:
            messages.pop()
            if kind == "entry" and entry.get(_KEY) == b"location" and entry.get(_VALUE):
                yield entry[_VALUE]
            continue
        fields += 1
        if fields > _MAX_FIELDS or len(messages) > _MAX_DEPTH:
            raise ValueError("too many fields")
        tag, at = _read_varint(file, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _, at = _read_varint(file, at)
            nbytes = 0
        elif wire == _BYTES:
            nbytes, at = _read_varint(file, at)
        elif wire in (_64_BITS, _32_BITS):
            nbytes = 8 if wire == _64_BITS else 4
        else:
            raise ValueError("no kind of a field")
        if at + nbytes > end:
            raise ValueError("a field is longer than its message")
        part = _PARTS[kind].get(number) if wire == _BYTES else None
        if part is not None:
            messages.append((part, at + nbytes))
            entry = {}
            continue
        if kind == "entry" and wire == _BYTES and nbytes <= _MAX_TEXT:
            entry[number] = file.read(nbytes)
        else:
            file.seek(nbytes, os.SEEK_CUR)
        at += nbytes


def _read_varint(file: BinaryIO, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. Raises ValueError."""
    value = 0
    for i in range(10):
        byte = file.read(1)
        if not byte:
            raise ValueError("the file ends too early")
        value |= (byte[0] & 127) << 7 * i
        if byte[0] < 128:
            return value, at + i + 1
    raise ValueError("a number is too long")
