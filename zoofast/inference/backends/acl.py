"""OM models on an Ascend NPU through CANN's own library, libascendcl.so.

Batches overlap: while the NPU computes a batch, the next one is copied to it, and the outputs of
the one before are copied back. Inputs in pinned memory (`host_memory`) are copied from where they
are. The GIL is never held meanwhile.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast import _acl, _core
from zoofast.base import acl_library
from zoofast.errors import BackendError
from zoofast.inference.backends import (
    BatchSize,
    Result,
    TensorInfo,
    Times,
    check_batch,
    input_shape,
    output_shape,
)

# One batch is copied in, one is computed, one is copied out. One more is queued, so that the device
# has work when this thread wakes up late.
MAX_IN_FLIGHT = 4
DYNAMIC_AIPP = 2  # ACL's number for an input with it


def load(
    model: str, device: int, batch: BatchSize, provider: str | None, concurrency: int
) -> AclModel:
    problem = acl_library.problem()
    if problem:
        raise BackendError(
            f"{model}: needs CANN's {acl_library.ACL_LIBRARY}: source CANN's set_env.sh, or name "
            f"the library with --acl-lib ({problem})"
        )
    return AclModel(model, device, batch)


class AclModel:
    """A Model and a QueuedModel of zoofast.inference.backends."""

    concurrency = 1
    max_in_flight = MAX_IN_FLIGHT

    def __init__(self, model: str, device: int, batch: BatchSize) -> None:
        self._model, self._device = model, device
        with self._errors("cannot be loaded"):
            self._acl = _acl.Model(device, model, MAX_IN_FLIGHT)
        try:
            self._describe(batch)
        except BaseException:
            with suppress(_acl.AclError):
                self._acl.close()
            raise
        self._times = Times()
        self._loops: deque[int] = deque()  # of the batches in flight: their executions
        self._ended_ns = 0  # when the last batch ended, monotonic

    def _describe(self, batch: BatchSize) -> None:
        shapes = tuple(self._input_shape(tensor, batch) for tensor in self._acl.inputs)
        if self._acl.dynamic and self._gear_of(shapes) is None:
            raise BackendError(
                f"{self._model}: is not compiled for "
                f"{', '.join('x'.join(map(str, shape)) for shape in shapes)}; {self._shape_cure()}"
            )
        self.inputs = [
            self._info(tensor, shape)
            for tensor, shape in zip(self._acl.inputs, shapes, strict=True)
        ]
        self.input = self.inputs[0]
        self._set_output_sizes(batch.dynamic.output_nbytes)
        self.outputs = [
            self._info(output, self._output_shape(output)) for output in self._acl.outputs
        ]

    def _input_shape(self, tensor: _acl.Tensor, batch: BatchSize) -> tuple[int, ...]:
        """The shape of the batches to run; with gears, of the largest one."""
        dynamic, kind = batch.dynamic, self._acl.dynamic
        if tensor.aipp == DYNAMIC_AIPP:
            return self._image_shape(tensor, batch)
        declared = [None if number < 0 else number for number in tensor.shape]
        if kind and None not in declared and tensor.name not in dict(dynamic.shapes):
            return tensor.shape
        if kind == "batch":
            return input_shape(self._model, tensor.name, declared, self._with_gears(batch))
        wanted = dict(dynamic.shapes).get(tensor.name)
        if not kind:
            if dynamic.hw or wanted not in (None, tensor.shape):
                raise BackendError(f"{self._model}: is not dynamic; it takes {self._info(tensor)}")
            return input_shape(self._model, tensor.name, declared, batch)
        if wanted is None and dynamic.image is not None and dynamic.hw is None:
            size = declared[0] or batch.requested or self._default_batch(dynamic.image, batch)
            wanted = (size, *dynamic.image)
        if wanted is None and dynamic.hw is not None and kind == "hw":
            sides = iter(dynamic.hw)
            wanted = tuple(next(sides, -1) if number < 0 else number for number in tensor.shape)
        fits = wanted is not None and len(wanted) == len(declared)
        if (
            wanted is None
            or not fits
            or any(
                number is not None and number != chosen
                for number, chosen in zip(declared, wanted, strict=True)
            )
        ):
            raise BackendError(
                f"{self._model}: {self._info(tensor)} has a dynamic shape; {self._shape_cure()}"
            )
        return wanted

    def _default_batch(self, image: tuple[int, ...], batch: BatchSize) -> int:
        """For a dynamic shape without a batch size: that of the largest gear for such images."""
        fitting = [gear[0] for gear in self._acl.gears if gear[1:] == image]
        return max(fitting, default=batch.default)

    def _shape_cure(self) -> str:
        gears = "; ".join(",".join(map(str, gear)) for gear in self._acl.gears)
        if self._acl.dynamic == "hw":
            return f"choose one with --dymHW, of {gears}"
        if self._acl.dynamic == "dims":
            return f"choose one with --dymDims, of {gears}"
        return "give one with --dymShape name:1,3,224,224"

    def _image_shape(self, tensor: _acl.Tensor, batch: BatchSize) -> tuple[int, ...]:
        """The shape for an input with dynamic AIPP: 8-bit RGB images before AIPP."""
        aipp = batch.dynamic.aipp
        if aipp is None:
            raise BackendError(
                f"{self._model}: input {tensor.name} has dynamic AIPP; give a --recipe of 8-bit "
                "pixels (NHWC), or --aipp_config"
            )
        declared = [None if tensor.shape[0] < 0 else tensor.shape[0], *aipp.source, 3]
        if self._acl.dynamic == "batch":
            batch = self._with_gears(batch)
        shape = input_shape(self._model, tensor.name, declared, batch)
        largest = max([shape[0], *(gear[0] for gear in self._acl.gears)])
        if int(np.prod(aipp.source)) * 3 * largest > tensor.nbytes:
            raise BackendError(
                f"{self._model}: images of {aipp.source[0]}x{aipp.source[1]} pixels are larger "
                "than the model's max_src_image_size"
            )
        with self._errors("cannot set AIPP"):
            self._acl.set_aipp(aipp.source, aipp.crop, aipp.swap, aipp.low, aipp.var)
        return shape

    def _with_gears(self, batch: BatchSize) -> BatchSize:
        """The batch size for a model with gears: the largest gear if none is requested."""
        gears = [gear[0] for gear in self._acl.gears]
        if batch.requested is not None and batch.requested > max(gears):
            raise BackendError(
                f"{self._model}: is made for batch sizes {', '.join(map(str, gears))}; "
                f"{batch.requested} is larger"
            )
        return BatchSize(batch.requested, max(gears))

    def _gear_of(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
        """The smallest gear that takes a batch of `shapes`, one for each input, or None."""
        kind, gears = self._acl.dynamic, self._acl.gears
        wanted = tuple(number for shape in shapes for number in shape)
        if kind == "shape":
            return wanted
        if kind == "batch":
            rows = max(
                shape[0]
                for shape, tensor in zip(shapes, self._acl.inputs, strict=True)
                if tensor.shape[0] < 0
            )
            return min((gear for gear in gears if gear[0] >= rows), default=None)
        if kind == "hw":
            declared = (number for tensor in self._acl.inputs for number in tensor.shape)
            sides = tuple(n for n, open_side in zip(wanted, declared, strict=True) if open_side < 0)
            return sides if sides in gears else None
        firsts = {sum(map(len, shapes[:i])) for i in range(len(shapes))}  # the batch of each input

        def fits(gear: tuple[int, ...]) -> bool:
            return len(gear) == len(wanted) and all(
                have >= need if i in firsts else have == need
                for i, (have, need) in enumerate(zip(gear, wanted, strict=True))
            )

        return min(filter(fits, gears), default=None)

    def _sizes(self, gear: tuple[int, ...]) -> list[int]:
        """How many rows of each input the device takes with a gear."""
        kind, at, sizes = self._acl.dynamic, 0, []
        for info, tensor in zip(self.inputs, self._acl.inputs, strict=True):
            if kind in ("dims", "shape"):
                sizes.append(gear[at])
                at += len(info.shape)
            else:
                is_batch = kind == "batch" and tensor.shape[0] < 0
                sizes.append(gear[0] if is_batch else info.shape[0])
        return sizes

    def _set_output_sizes(self, sizes: tuple[int, ...]) -> None:
        """The memory for outputs whose size ACL does not know before it runs."""
        if sizes and len(sizes) != len(self._acl.outputs):
            raise BackendError(f"{self._model}: has {len(self._acl.outputs)} outputs, not "
                               f"{len(sizes)} as in --outputSize")  # fmt: skip
        for i, output in enumerate(self._acl.outputs):
            shape = self._output_shape(output)
            if sizes:
                self._acl.set_output_size(i, sizes[i])
            elif self._acl.dynamic == "shape":
                if min(shape, default=1) < 0:
                    raise BackendError(
                        f"{self._model}: output {output.name} has no known size; give the bytes "
                        "of each output with --outputSize"
                    )
                self._acl.set_output_size(i, self._info(output, shape).nbytes)

    def _output_shape(self, output: _acl.Tensor) -> tuple[int, ...]:
        """ACL gives the shape for the largest gear."""
        has_gears = self._acl.dynamic in ("batch", "dims")
        if not has_gears and (not output.shape or output.shape[0] >= 0):
            return output.shape
        largest = max(gear[0] for gear in self._acl.gears) if has_gears else 0
        size = self.input.shape[0]
        return output_shape(self._model, output.name, output.shape, size, largest)

    def _info(self, tensor: _acl.Tensor, shape: tuple[int, ...] | None = None) -> TensorInfo:
        if tensor.type not in acl_library.DTYPES:
            raise BackendError(
                f"{self._model}: {tensor.name} has ACL's data type {tensor.type}, unknown"
            )
        return TensorInfo(
            tensor.name, shape or tensor.shape, np.dtype(acl_library.DTYPES[tensor.type])
        )

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except _acl.AclError as error:
            raise BackendError(f"{self._model}: {what} on device {self._device}: {error}") from None

    def share(self, batches: Sequence[_core.Batch]) -> None:
        """Nothing is to be done: pinned memory serves all devices."""

    def host_memory(self, nbytes: int) -> _acl.HostMemory:
        """Memory for batches that the device copies directly. Raises BackendError."""
        with self._errors("cannot get pinned memory"):
            return self._acl.host_memory(nbytes)

    def begin(self, *batch: NDArray[Any], rows: int = 0, loop: int = 1) -> None:
        check_batch(self.inputs, batch)
        gear: tuple[int, ...] = ()
        arrays = list(batch)
        if self._acl.dynamic:
            size = self.input.shape[0]
            # Inputs of another size than the batch's have no rows to leave out.
            fewer = rows and self._acl.dynamic != "hw" and all(len(a) == size for a in arrays)
            shapes = [(rows, *array.shape[1:]) if fewer else array.shape for array in arrays]
            gear = self._gear_of(shapes) or ()
            arrays = list(map(_resized, arrays, self._sizes(gear)))
        with self._errors("cannot run"):
            self._acl.begin(arrays, gear, loop)
        self._loops.append(loop)

    def end(self) -> Result:
        with self._errors("cannot run"):
            arrays, times = self._acl.end([output.dtype for output in self.outputs])
        end_ns = time.monotonic_ns()
        loop = self._loops.popleft()
        for series, ms, count in (
            (self._times.to_device, times.to_device, 1),
            (self._times.compute, times.compute, loop),
            (self._times.from_device, times.from_device, 1),
        ):
            if ms >= 0:
                series += [ms] * count
        begin_ns = max(self._ended_ns, end_ns - round(max(times.compute, 0.0) * loop * 1e6))
        self._ended_ns = end_ns
        outputs = [
            self._as_declared(output, array)
            for output, array in zip(self.outputs, arrays, strict=True)
        ]
        return Result(outputs, begin_ns, end_ns)

    @staticmethod
    def _as_declared(output: TensorInfo, array: NDArray[Any]) -> NDArray[Any]:
        """The rows of another gear, as those of the batch; rows without an image are 0."""
        if array.shape == output.shape or array.shape[1:] != output.shape[1:]:
            return array
        rows = np.zeros(output.shape, output.dtype)
        count = min(len(rows), len(array))
        rows[:count] = array[:count]
        return rows

    def infer(self, *batch: NDArray[Any], loop: int = 1) -> list[NDArray[Any]]:
        self.begin(*batch, loop=loop)
        return self.end().outputs

    def kill(self) -> None:
        self._acl.abandon()

    def times(self) -> Times:
        return self._times

    def reset_times(self) -> None:
        self._times = Times()

    def __enter__(self) -> AclModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._errors("cannot be closed"):
                self._acl.close()
        except BackendError:
            if error is None:
                raise


def _resized(array: NDArray[Any], size: int) -> NDArray[Any]:
    """The first `size` rows; where there are fewer, because the batch size lies between two gears,
    copies of the first row follow."""
    if size > len(array):
        return np.concatenate([array, np.repeat(array[:1], size - len(array), axis=0)])
    return array[:size]
