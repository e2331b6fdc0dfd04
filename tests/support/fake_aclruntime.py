"""aclruntime as its five generations behave, on ONNX files, and unforgiving.

`build("G2")` makes a module. What the real one answers with a RuntimeError, this one does too;
what there is undefined (a crash, garbage, another thread's context) is a Misuse here. An `.om`
is an ONNX model, run by ONNX Runtime; a batch dimension left open makes it a dynamic-batch one.
"""

from __future__ import annotations

import ctypes
import enum
import os
import threading
import time
import tracemalloc
import weakref
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from tests.support import paths

if TYPE_CHECKING:
    import pytest

GENERATIONS = ("G0", "G1", "G2", "G3", "G4")
DEVICES = 8
# The text of an `aclruntime.py` for spawned processes: the module of $FAKE_ACLRUNTIME's generation.
SHIM = """
import os, sys, tracemalloc
tracemalloc.start(1)
from tests.support import fake_aclruntime
sys.modules[__name__] = fake_aclruntime.build(os.environ["FAKE_ACLRUNTIME"])
"""
# Goes after SHIM. The statements run before a session is made, and before each run of a session;
# they may use `device`, its number, and `calls`, the number of runs so far.
FAULTS = """
import signal, time
module = sys.modules[__name__]
class Faulty(module.InferenceSession):
    def __init__(self, path, device, options):
        {at_open}
        super().__init__(path, device, options)
        self.device, self.calls = device, 0
    def run(self, names, feeds):
        device, calls = self.device, self.calls
        self.calls += 1
        {at_run}
        return super().run(names, feeds)
module.InferenceSession = Faulty
"""
_NUMPY_DOMAIN = 389047  # under which NumPy reports its blocks to tracemalloc


def install(
    folder: Path,
    patch: pytest.MonkeyPatch,
    generation: str = "G3",
    *,
    at_open: str = "pass",
    at_run: str = "pass",
) -> None:
    """Lets processes that are started from now on find this module as aclruntime."""
    folder.mkdir(exist_ok=True)
    (folder / "aclruntime.py").write_text(SHIM + FAULTS.format(at_open=at_open, at_run=at_run))
    patch.syspath_prepend(folder)
    patch.setenv("FAKE_ACLRUNTIME", generation)
    patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(paths.ROOT)]))


class Misuse(AssertionError):
    """The real module would crash, hang or compute garbage."""


class Datatype(enum.Enum):
    """As pybind11's enums: int() works, but it is no int."""

    float32 = 0
    float16 = 1
    int8 = 2
    int32 = 3
    uint8 = 4
    int16 = 6
    uint16 = 7
    uint32 = 8
    int64 = 9
    uint64 = 10
    double = 11
    bool = 12

    def __int__(self) -> int:
        return int(self.value)


_OF_ORT = {
    "tensor(float)": Datatype.float32,
    "tensor(float16)": Datatype.float16,
    "tensor(uint8)": Datatype.uint8,
    "tensor(int64)": Datatype.int64,
    "tensor(double)": Datatype.double,
}
_TO_NUMPY = {Datatype.double: "float64"}


def _numpy(datatype: Datatype) -> np.dtype[Any]:
    return np.dtype(_TO_NUMPY.get(datatype, datatype.name))


def is_allocated(address: int) -> bool:
    """Whether a living NumPy array begins at `address`; needs tracemalloc to have seen it.

    Memory that is shared with another process counts as well, as long as it is mapped.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(bound, 16) for bound in line.split()[0].split("-"))
        if begin <= address < end and "/memfd:" in line:
            return True
    if not tracemalloc.is_tracing():
        raise Misuse("start tracemalloc before the arrays are made, or freed ones go unseen")
    find = ctypes.pythonapi._PyTraceMalloc_GetTraceback
    find.argtypes, find.restype = [ctypes.c_uint, ctypes.c_size_t], ctypes.py_object
    return find(_NUMPY_DOMAIN, address) is not None


def _print(*lines: str) -> None:
    """As C code prints: not through sys.stdout."""
    os.write(1, "".join(f"{line}\n" for line in lines).encode())


def _need(value: Any, kind: type, what: str) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{what}: incompatible function arguments: {value!r}")


class _State:
    """What one process shares."""

    def __init__(self, generation: str) -> None:
        self.generation = generation
        self.finalized = 0
        self.here = threading.local()  # .device: whose context this thread has
        self.h2d: list[float] = []
        self.d2h: list[float] = []
        self.zero = time.perf_counter() - 2.0  # the real one counts from process start

    @property
    def level(self) -> int:
        return GENERATIONS.index(self.generation)

    def clock(self) -> float:
        return (time.perf_counter() - self.zero) * 1e3


class SessionOptions:
    __slots__ = ("_acl_json_path", "_log_level", "_loop")

    def __init__(self) -> None:
        self._loop, self._log_level, self._acl_json_path = 1, 2, ""

    @property
    def loop(self) -> int:
        return self._loop

    @loop.setter
    def loop(self, value: int) -> None:
        _need(value, int, "loop")
        self._loop = value

    @property
    def log_level(self) -> int:
        return self._log_level

    @log_level.setter
    def log_level(self, value: int) -> None:
        _need(value, int, "log_level")
        if not 1 <= value <= 4:
            raise Misuse(f"log level {value}")
        self._log_level = value


class TensorDesc:
    """Refers into its session, as the real one: gone with it."""

    def __init__(self, session: Session, tensor: Any) -> None:
        self._session = weakref.ref(session)
        self._tensor = tensor

    def _alive(self) -> Session:
        session = self._session()
        if session is None or session._closed:
            raise Misuse("a tensor_desc was used after its session")
        return session

    @property
    def name(self) -> str:
        self._alive()
        return str(self._tensor.name)

    @property
    def datatype(self) -> Datatype:
        self._alive()
        return _OF_ORT[self._tensor.type]

    @property
    def shape(self) -> list[int]:
        self._alive()
        return [number if isinstance(number, int) else -1 for number in self._tensor.shape]

    @property
    def realsize(self) -> int:
        batch = self._alive()._batch
        shape = [batch if number < 0 else number for number in self.shape]
        return int(np.prod(shape)) * _numpy(self.datatype).itemsize


class BaseTensor:
    """An address and a size; keeps nothing alive."""

    def __init__(self, ptr: int, nbytes: int) -> None:
        _need(ptr, int, "BaseTensor")
        _need(nbytes, int, "BaseTensor")
        self.buf, self.size = ptr, nbytes


def _host_tensor(state: _State, array: Any) -> Tensor:
    """What `aclruntime.Tensor(array)` makes. The runtime's own outputs have no such limits."""
    view = memoryview(array)
    if not view.contiguous:
        raise Misuse("Tensor ignores strides")
    if view.format not in ("f", "b", "B", "i", "d", "e"):
        raise Misuse(f"Tensor takes format {view.format} for single bytes")
    return Tensor(state, array)


class Tensor:
    """A copy of a host buffer, or an output."""

    def __init__(self, state: _State, array: Any, device: int = -1) -> None:
        self._state, self._array, self.device = state, np.array(array), device

    def to_device(self, device: int) -> None:
        _need(device, int, "to_device")
        self.device = device
        self._state.here.device = device

    def to_host(self) -> None:
        if self._state.finalized:
            raise Misuse("to_host after finalize")
        if self._state.level >= 2 and getattr(self._state.here, "device", None) is None:
            raise RuntimeError("[107002][Error code unknown] ")
        begin = self._state.clock()
        self.device = -1
        self._state.d2h.append(self._state.clock() - begin)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.device >= 0:
            raise RuntimeError("tensor is in npu. can't convert to numpy array")
        return np.array(self._array, dtype)


class Summary:
    """What sumary() returns: a copy, in the generation's own form."""

    def __init__(self, state: _State, spans: list[tuple[float, float]]) -> None:
        lengths = [end - start for start, end in spans]
        if state.level == 0:
            self.exec_time, self.exec_count = sum(lengths), len(lengths)
        elif state.level <= 2:
            self.exec_time_list: list[Any] = lengths
        else:
            self.exec_time_list = [tuple(np.float32(ms).item() for ms in span) for span in spans]


class Session:
    """InferenceSession."""

    def __init__(self, state: _State, model_path: str, device_id: int, options: Any) -> None:
        _need(model_path, str, "InferenceSession")
        _need(device_id, int, "InferenceSession")
        _need(options, SessionOptions, "InferenceSession")
        self._closed = True
        if state.finalized:
            raise RuntimeError("[-1][ACL: general failure] ")
        if not 0 <= device_id < DEVICES:
            _print("[INFO] acl init success", f"[ERROR] acl open device {device_id} failed")
            raise RuntimeError("[107001][Error code unknown] ")
        try:
            self._ort = onnxruntime.InferenceSession(Path(model_path).read_bytes())
        except Exception as error:
            _print("[ERROR] load model from file failed", "[WARN] no model had been loaded")
            raise RuntimeError("[1][ACL: invalid parameter] ") from error
        _print("[INFO] acl init success", f"[INFO] open device {device_id} success")
        self._state, self._device, self._options = state, device_id, options
        self._closed = False
        self._thread = threading.get_ident()
        self._spans: list[tuple[float, float]] = []
        self._inputs = self._ort.get_inputs()
        self._is_dynamic = not isinstance(self._inputs[0].shape[0], int)
        self._batch = 0 if self._is_dynamic else self._inputs[0].shape[0]
        state.here.device = device_id

    def _enter(self) -> None:
        """What a call finds of the process and the thread."""
        if self._closed:
            raise Misuse("the session was used after free_resource")
        if self._state.finalized > 1:
            raise Misuse("segmentation fault: use after finalize was called twice")
        if self._state.finalized:
            raise RuntimeError("[-1][ACL: general failure] ")
        if self._state.level < 2 and threading.get_ident() != self._thread:
            raise Misuse("another thread than the session's, in a generation that is unsafe there")
        if self._state.level >= 3:
            self._state.here.device = self._device

    def get_inputs(self) -> list[TensorDesc]:
        self._enter()
        return [TensorDesc(self, tensor) for tensor in self._inputs]

    def get_outputs(self) -> list[TensorDesc]:
        self._enter()
        return [TensorDesc(self, tensor) for tensor in self._ort.get_outputs()]

    def options(self) -> SessionOptions:
        self._enter()
        return self._options

    def sumary(self) -> Summary:
        self._enter()
        return Summary(self._state, self._spans)

    def reset_sumaryinfo(self) -> None:
        self._enter()
        self._spans.clear()

    def set_staticbatch(self) -> None:
        self._enter()

    def set_dynamic_batchsize(self, n: int) -> None:
        self._enter()
        _need(n, int, "set_dynamic_batchsize")
        if not self._is_dynamic:
            raise RuntimeError("[1][ACL: invalid parameter] ")
        self._batch = n

    def run(self, output_names: Any, feeds: Any) -> list[Tensor]:
        self._enter()
        _need(output_names, list, "run")
        _need(feeds, list, "run")
        kinds: tuple[type, ...] = (Tensor, BaseTensor) if self._state.level >= 2 else (Tensor,)
        if not any(all(isinstance(feed, kind) for feed in feeds) for kind in kinds):
            raise TypeError("run(): incompatible function arguments")
        if len(feeds) < len(self._inputs):
            raise RuntimeError("[-1][ACL: general failure] ")
        if len(feeds) > len(self._inputs):
            raise Misuse("more feeds than inputs")
        if len(set(output_names)) != len(output_names):
            raise RuntimeError("[1004][Invalid parameter] ")
        if not set(output_names) <= {tensor.name for tensor in self._ort.get_outputs()}:
            raise RuntimeError("[-1][ACL: general failure] ")
        if self._state.level == 2 and getattr(self._state.here, "device", None) != self._device:
            raise RuntimeError("[-1][ACL: general failure] ")  # no context, or another device's
        (feed,) = feeds
        begin = self._state.clock()
        data = self._bytes(feed)
        self._state.h2d.append(self._state.clock() - begin)
        desc = self.get_inputs()[0]
        if len(data) != desc.realsize:
            raise RuntimeError("[-1][ACL: general failure] ")
        shape = [self._batch if number < 0 else number for number in desc.shape]
        batch = np.frombuffer(data, _numpy(desc.datatype)).reshape(shape)
        for _ in range(self._options.loop):
            begin = self._state.clock()
            outputs = self._ort.run(output_names, {desc.name: batch})
            self._spans.append((begin, self._state.clock()))
        return [Tensor(self._state, output, self._device) for output in outputs]

    def _bytes(self, feed: Tensor | BaseTensor) -> bytes:
        if isinstance(feed, Tensor):
            if feed.device != self._device:
                raise Misuse("the input tensor is not on the session's device")
            return feed._array.tobytes()
        if not is_allocated(feed.buf):
            raise Misuse("the array of a BaseTensor was freed before run")
        return ctypes.string_at(feed.buf, feed.size)


class _FromG2(Session):
    def finalize(self) -> None:
        self._state.finalized += 1


class _FromG3(_FromG2):
    def free_resource(self) -> None:
        self._enter()
        self._closed = True

    def run_pipeline(self, *arguments: Any) -> None:
        raise Misuse("run_pipeline has known bugs")


class _FromG4(_FromG3):
    def set_context(self) -> None:
        self._enter()


def build(generation: str) -> ModuleType:
    """A module of that generation, as in a fresh process."""
    state = _State(generation)
    base: Any = (Session, Session, _FromG2, _FromG3, _FromG4)[state.level]

    class InferenceSession(base):  # a class, whose methods tell the generation
        def __init__(self, model_path: str, device_id: int, options: Any) -> None:
            super().__init__(state, model_path, device_id, options)

    module: Any = ModuleType("aclruntime")
    module.__version__ = "0.0.1" if state.level < 2 else "0.0.2"
    module.state = state
    module.session_options = SessionOptions
    module.dtype = Datatype
    module.InferenceSession = InferenceSession
    module.Tensor = lambda array: _host_tensor(state, array)
    if state.level >= 2:
        module.BaseTensor = BaseTensor

        class MemorySummary:
            H2D_time_list = property(lambda self: list(state.h2d))
            D2H_time_list = property(lambda self: list(state.d2h))

            def reset(self) -> None:
                state.h2d.clear()
                state.d2h.clear()

        module.MemorySummary = MemorySummary
    typed: ModuleType = module
    return typed
