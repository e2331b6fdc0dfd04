"""CIFAR's pickles, and the pickles of JPEGs of face data sets, read without running them.

A pickle is a program that can call any function. This module runs none: it reads the operations
with pickletools, follows those that these files are made of, and refuses all others.

CIFAR's files are dictionaries with `data`, (n, 3072) uint8, the planes R, G and B of 32 x 32
pixels, and `labels` or `fine_labels` (https://www.cs.toronto.edu/~kriz/cifar.html). A pickle of
JPEGs is a tuple whose first element is a list of JPEG files, as in insightface's `lfw.bin`.
"""

from __future__ import annotations

import io
import os
import pickletools
import struct
import tempfile
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoofast.base.files import read_file
from zoofast.errors import SourceError
from zoofast.preprocess.sources.source import Source, archive_stamp

SIDE = 32  # pixels of CIFAR's pictures
_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_FROMBUFFER = ("numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer")
_GLOBALS = (*_RECONSTRUCT, *_FROMBUFFER, "numpy ndarray", "numpy dtype", "_codecs encode")


@dataclass(frozen=True)
class Pictures:
    """n image files, and the class of each; no classes in a pickle of JPEGs."""

    files: list[bytes]
    suffix: str
    labels: list[int]


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass
class _Array:
    """An array as the pickle describes it. NumPy does not see it before it is checked."""

    shape: Any = None
    data: Any = None


class _Type:
    """The type of 8-bit numbers."""


_VALUES = (
    "BININT",
    "BININT1",
    "BININT2",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
)
_MARK = object()
_TYPE = _Type()


@dataclass
class PickleSource(Source):
    """Images of a pickle, in a temporary file that has no name."""

    labels: dict[str, int] | None = None

    def read_labels(self) -> dict[str, int] | None:
        return self.labels


def is_pickle(where: str) -> bool:
    """Whether the file is a pickle of a binary protocol."""
    with open(where, "rb") as file:
        data = file.read(2)
    return len(data) > 1 and data[0] == 0x80 and 2 <= data[1] <= 5


def from_pickle(where: str) -> Source:
    stamp = archive_stamp(where, os.stat(where))
    try:
        pictures = read_pictures(read_file(where))
    except ValueError as error:
        reason = str(error)[:120]  # it can show any part of the file
        raise SourceError(f"{where}: neither a pickle of CIFAR nor of JPEGs: {reason}") from error
    source = PickleSource(where)
    with tempfile.TemporaryFile() as file:
        for i, data in enumerate(pictures.files):
            source.add(f"{where}/{i:05d}{pictures.suffix}", file.tell(), len(data))
            file.write(data)
        file.flush()
        source.fds.append(os.dup(file.fileno()))
        source.stamps.append(stamp)
    if pictures.labels:
        names = [item.name for item in source.items]
        source.labels = dict(zip(names, pictures.labels, strict=True))
    return source


def read_pictures(data: bytes) -> Pictures:
    """The pictures of a pickle. Raises ValueError, with the reason, for any other content."""
    try:
        with warnings.catch_warnings():  # of escapes in texts of a damaged file
            warnings.simplefilter("ignore")
            content = _load(data)
    except (struct.error, IndexError, OverflowError, TypeError) as error:
        raise ValueError("a damaged pickle") from error
    if isinstance(content, tuple):
        files = content[0] if content else None
        if not isinstance(files, list) or not all(isinstance(each, bytes) for each in files):
            raise ValueError("its first element is no list of JPEG files")
        return Pictures(files, ".jpg", [])
    if not isinstance(content, dict):
        raise ValueError("neither CIFAR's dictionary nor a tuple with a list of JPEG files")
    named = {k.decode("latin-1") if isinstance(k, bytes) else k: v for k, v in content.items()}
    array, labels = named.get("data"), named.get("labels", named.get("fine_labels"))
    size = 3 * SIDE * SIDE
    if not isinstance(array, _Array) or not isinstance(array.data, bytes):
        raise ValueError("has no array 'data'")
    if not isinstance(labels, list) or not all(type(each) is int for each in labels):
        raise ValueError("has no list of whole numbers 'labels' or 'fine_labels'")
    if array.shape != (len(labels), size) or len(array.data) != size * len(labels):
        raise ValueError(f"'data' is not {len(labels)} pictures of {size} bytes, as the labels say")
    planes = np.frombuffer(array.data, np.uint8).reshape(-1, 3, SIDE, SIDE)
    header = f"P6 {SIDE} {SIDE} 255\n".encode()
    files = [header + picture.tobytes() for picture in planes.transpose(0, 2, 3, 1)]
    return Pictures(files, ".ppm", labels)


def _load(data: bytes) -> Any:
    """What the pickle makes, of dictionaries, lists, tuples, texts, bytes, numbers and arrays."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        at = _last_mark(stack)
        values = stack[at + 1 :]
        del stack[at:]
        return values

    argument: Any
    for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            break
        if name == "MARK":
            stack.append(_MARK)
        elif name in _VALUES:
            stack.append(argument)
        elif name in ("BINSTRING", "SHORT_BINSTRING"):  # of Python 2: bytes
            stack.append(argument.encode("latin-1"))
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in memo:
                raise ValueError("a damaged pickle")
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_global(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_global(f"{module} {attribute}" if _are_texts(module, attribute) else ""))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(stack) < count:
                raise ValueError("a damaged pickle")
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif name in ("APPEND", "APPENDS"):
            values = [stack.pop()] if name == "APPEND" else pop_to_mark()
            _expect(stack[-1], list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = [stack.pop(-2), stack.pop()] if name == "SETITEM" else pop_to_mark()
            target = _expect(stack[-1], dict)
            for key, value in zip(values[::2], values[1::2], strict=True):
                if not isinstance(key, (str, bytes)):
                    raise ValueError("a key that is no text")
                target[key] = value
        elif name == "REDUCE":
            arguments, function = _expect(stack.pop(), tuple), _expect(stack.pop(), _Global)
            stack.append(_reduce(function.name, arguments))
        elif name == "BUILD":
            _build(stack, _expect(stack.pop(), tuple))
        else:
            raise ValueError(f"the operation {name}, which no such file has")
    if len(stack) != 1:
        raise ValueError("a damaged pickle")
    return stack[0]


def _last_mark(stack: list[Any]) -> int:
    for at in reversed(range(len(stack))):
        if stack[at] is _MARK:
            return at
    raise ValueError("a damaged pickle")


def _are_texts(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _expect(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise ValueError("a damaged pickle")
    return value


def _global(name: str) -> _Global:
    if name not in _GLOBALS:
        raise ValueError(f"it would call {name[:60]!r}, which no such file does")
    return _Global(name)


def _reduce(function: str, arguments: tuple[Any, ...]) -> Any:
    """What the call of one of _GLOBALS gives, for the arguments that such files have."""
    if function == "_codecs encode" and _are_texts(*arguments) and arguments[1:] == ("latin1",):
        return arguments[0].encode("latin-1")  # Python 3 writes bytes so in protocol 2
    if function in _RECONSTRUCT and arguments[:1] == (_Global("numpy ndarray"),):
        return _Array()
    if function in _FROMBUFFER and len(arguments) == 4:  # of protocol 5
        data, dtype, shape, order = arguments
        if dtype is _TYPE and order == "C" and isinstance(data, (bytes, bytearray)):
            return _Array(shape, bytes(data))
        raise ValueError("an array that is not of 8-bit numbers in C order")
    if function == "numpy dtype" and arguments[:1] in (("u1",), (b"u1",)):
        return _TYPE
    raise ValueError("a call that no such file has")


def _build(stack: list[Any], state: tuple[Any, ...]) -> None:
    """Gives the object at the end of the stack its state."""
    if stack[-1] is _TYPE:
        return
    array = _expect(stack[-1], _Array)
    _, shape, dtype, is_fortran, data = state
    if dtype is not _TYPE or is_fortran is not False:
        raise ValueError("an array that is not of 8-bit numbers in C order")
    array.shape, array.data = shape, data
