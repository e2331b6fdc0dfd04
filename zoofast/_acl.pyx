"""Models on Ascend NPUs through libascendcl.so, csrc/acl.h, for Python. See _acl.pyi."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t
from libc.string cimport memcpy

import atexit
import os
from typing import NamedTuple

import numpy as np

cdef extern from "acl.h" nogil:
    ctypedef struct zf_acl_error:
        int code
        const char *call
        char text[1024]
    ctypedef struct zf_acl_tensor:
        char name[128]
        int type
        int ndims
        int64_t dims[16]
        size_t nbytes
        int aipp
    ctypedef struct zf_acl_aipp:
        int src_h, src_w, y, x, h, w
        bint swap
        float min[3]
        float var[3]
    ctypedef struct zf_acl_model
    const char *zf_acl_error_name(int code)
    const char *zf_acl_error_cure(int code)
    int zf_acl_open_library(const char *file, zf_acl_error *error)
    bint zf_acl_is_open()
    int zf_acl_finalize(zf_acl_error *error)
    void *zf_acl_host_alloc(const zf_acl_model *model, size_t nbytes, zf_acl_error *error)
    void zf_acl_host_free(void *memory)
    zf_acl_model *zf_acl_open_model(int device, const char *file, int slots, zf_acl_error *error)
    int zf_acl_inputs(const zf_acl_model *model)
    int zf_acl_outputs(const zf_acl_model *model)
    const zf_acl_tensor *zf_acl_input(const zf_acl_model *model, int i)
    const zf_acl_tensor *zf_acl_output(const zf_acl_model *model, int i)
    int zf_acl_dynamic(const zf_acl_model *model)
    int zf_acl_gears(const zf_acl_model *model, const int64_t **gears, int *length)
    int zf_acl_set_aipp(zf_acl_model *model, const zf_acl_aipp *aipp, zf_acl_error *error)
    void zf_acl_set_output_size(zf_acl_model *model, int i, size_t nbytes)
    int zf_acl_begin(zf_acl_model *model, const void *const *data, const size_t *nbytes,
                     const int64_t *gear, int length, int loop, zf_acl_error *error)
    int zf_acl_wait(zf_acl_model *model, zf_acl_error *error)
    const void *zf_acl_result(const zf_acl_model *model, int i, size_t *nbytes)
    int zf_acl_result_dims(const zf_acl_model *model, int i, int64_t *dims)
    void zf_acl_result_times(const zf_acl_model *model, float *ms)
    void zf_acl_release(zf_acl_model *model)
    int zf_acl_in_flight(const zf_acl_model *model)
    void zf_acl_abandon(zf_acl_model *model)
    int zf_acl_close_model(zf_acl_model *model, int seconds, zf_acl_error *error)

DYNAMIC = ("", "batch", "hw", "dims", "shape")  # in the order of ZF_ACL_STATIC, …

cdef enum:
    MAX_INPUTS = 16


class AclError(Exception):
    pass


class Tensor(NamedTuple):
    name: str
    type: int
    shape: tuple
    nbytes: int
    aipp: int


class Times(NamedTuple):
    to_device: float
    compute: float
    from_device: float


cdef _raise(const zf_acl_error *error):
    """ACL's number, its name, the explanation in one line and the cure, in one text."""
    lines = error.text.decode(errors="replace").split("\n")
    text = "; ".join(filter(None, (" ".join(line.split()) for line in lines)))[:400]
    if error.call == NULL:
        raise AclError(text)
    name = zf_acl_error_name(error.code).decode() or "an unknown error"
    cure = zf_acl_error_cure(error.code).decode()
    what = f"{error.call.decode()}: ACL's error {error.code}, {name}"
    raise AclError(what + (f" ({text})" if text else "") + (f"; {cure}" if cure else ""))


def open_library(file):
    cdef zf_acl_error error
    cdef bytes name = os.fsencode(file)
    cdef const char *c_name = name
    cdef int failed
    with nogil:
        failed = zf_acl_open_library(c_name, &error)
    if failed:
        _raise(&error)


def is_open():
    return zf_acl_is_open()


@atexit.register
def finalize():
    cdef zf_acl_error error
    cdef int failed
    with nogil:
        failed = zf_acl_finalize(&error)
    if failed:
        _raise(&error)


cdef _tensor(const zf_acl_tensor *tensor):
    shape = tuple(tensor.dims[k] for k in range(tensor.ndims))
    return Tensor(tensor.name.decode(errors="replace"), tensor.type, shape, tensor.nbytes,
                  tensor.aipp)


cdef class HostMemory:
    """Pinned memory, as a writable buffer."""

    cdef void *_memory
    cdef Py_ssize_t _nbytes

    def __dealloc__(self):
        cdef void *memory = self._memory
        if memory != NULL:
            with nogil:
                zf_acl_host_free(memory)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self._memory, self._nbytes, 0, flags)


@cython.no_gc_clear
cdef class Model:
    cdef zf_acl_model *_model
    cdef readonly list inputs, outputs, gears
    cdef readonly str dynamic
    cdef list _sources  # of each batch in flight: its inputs, which must live

    def __init__(self, int device, file, int slots):
        cdef zf_acl_error error
        cdef bytes name = os.fsencode(file)
        cdef const char *c_name = name
        cdef zf_acl_model *model
        cdef const int64_t *gears = NULL
        cdef int length = 0, count
        if slots < 1:
            raise ValueError("a model needs a slot")
        with nogil:
            model = zf_acl_open_model(device, c_name, slots, &error)
        if model == NULL:
            _raise(&error)
        self._model = model
        self._sources = []
        self.inputs = [_tensor(zf_acl_input(model, i)) for i in range(zf_acl_inputs(model))]
        self.outputs = [_tensor(zf_acl_output(model, i)) for i in range(zf_acl_outputs(model))]
        self.dynamic = DYNAMIC[zf_acl_dynamic(model)]
        count = zf_acl_gears(model, &gears, &length)
        self.gears = [tuple(gears[i * length + k] for k in range(length)) for i in range(count)]

    cdef zf_acl_model *_open(self) except NULL:
        if self._model == NULL:
            raise AclError("the model is closed")
        return self._model

    @property
    def in_flight(self):
        return zf_acl_in_flight(self._open())

    def set_aipp(self, source, crop, bint swap, low, var):
        cdef zf_acl_error error
        cdef zf_acl_aipp aipp
        cdef zf_acl_model *model = self._open()
        cdef int failed
        aipp.src_h, aipp.src_w = source
        aipp.y, aipp.x, aipp.h, aipp.w = crop
        aipp.swap = swap
        for i in range(3):
            aipp.min[i], aipp.var[i] = low[i], var[i]
        with nogil:
            failed = zf_acl_set_aipp(model, &aipp, &error)
        if failed:
            _raise(&error)

    def set_output_size(self, int i, size_t nbytes):
        if not 0 <= i < len(self.outputs):
            raise IndexError(i)
        zf_acl_set_output_size(self._open(), i, nbytes)

    def host_memory(self, size_t nbytes):
        cdef zf_acl_error error
        cdef zf_acl_model *model = self._open()
        cdef void *data
        cdef HostMemory memory = HostMemory()
        with nogil:
            data = zf_acl_host_alloc(model, nbytes, &error)
        if data == NULL:
            _raise(&error)
        memory._memory = data
        memory._nbytes = nbytes
        return memory

    def begin(self, arrays, gear=(), int loop=1):
        cdef zf_acl_error error
        cdef zf_acl_model *model = self._open()
        cdef const void *data[MAX_INPUTS]
        cdef size_t nbytes[MAX_INPUTS]
        cdef int64_t numbers[128]
        cdef int i, length = len(gear), failed
        cdef size_t address
        if len(arrays) != len(self.inputs) or len(arrays) > MAX_INPUTS:
            raise AclError(f"the model has {len(self.inputs)} inputs, not {len(arrays)}")
        if length > 128:
            raise AclError("the shape has too many numbers")
        for i, array in enumerate(arrays):
            if not array.flags.c_contiguous:
                raise ValueError("the batch is not C-contiguous")
            address = array.ctypes.data
            data[i] = <const void *>address
            nbytes[i] = array.nbytes
        for i in range(length):
            numbers[i] = gear[i]
        with nogil:
            failed = zf_acl_begin(model, data, nbytes, numbers if length else NULL, length, loop,
                                  &error)
        if failed:
            _raise(&error)
        self._sources.append(arrays)

    def end(self, dtypes):
        cdef zf_acl_error error
        cdef zf_acl_model *model = self._open()
        cdef int waiting = 1, i, count
        cdef size_t nbytes = 0, address
        cdef const void *result
        cdef void *to
        cdef int64_t dims[16]
        cdef float ms[3]
        while True:
            with nogil:
                waiting = zf_acl_wait(model, &error)
            if waiting != 1:
                break
            PyErr_CheckSignals()
        if waiting:
            _raise(&error)
        outputs = []
        for i, dtype in enumerate(dtypes):
            count = zf_acl_result_dims(model, i, dims)
            result = zf_acl_result(model, i, &nbytes)
            array = np.empty(tuple(dims[k] for k in range(count)), dtype)
            if <size_t>array.nbytes > nbytes:
                raise AclError(f"output {i} has {array.nbytes} bytes, its memory {nbytes}")
            address = array.ctypes.data
            to = <void *>address
            nbytes = array.nbytes
            with nogil:
                memcpy(to, result, nbytes)
            outputs.append(array)
        zf_acl_result_times(model, ms)
        zf_acl_release(model)
        self._sources.pop(0)
        return outputs, Times(ms[0], ms[1], ms[2])

    def abandon(self):
        if self._model != NULL:
            zf_acl_abandon(self._model)

    def close(self, int seconds=2):
        cdef zf_acl_error error
        cdef zf_acl_model *model = self._model
        cdef int failed
        self._model = NULL
        if model == NULL:
            return
        with nogil:
            failed = zf_acl_close_model(model, seconds, &error)
        if failed:
            _raise(&error)
