"""The C core's skin: checks buffers, drops the GIL, hands back statuses. See _core.pyi."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import enum
import mmap
import os
from typing import NamedTuple

import numpy as np

from zoofast.errors import CpuLevelError

cdef extern from "Python.h":
    object PyUnicode_EncodeFSDefault(object)

FILTERS = {
    "nearest": ZF_NEAREST,
    "lanczos": ZF_LANCZOS,
    "bilinear": ZF_BILINEAR,
    "bicubic": ZF_BICUBIC,
    "box": ZF_BOX,
    "hamming": ZF_HAMMING,
}
ORDERS = {"across": ZF_ORDER_ACROSS, "tall": ZF_ORDER_TALL, "shrink": ZF_ORDER_SHRINK}
STAGES = ("read", "decode", "entropy", "idct", "colour", "resize", "pack", "write")
DECODERS = ("none", "turbo", "baseline")
assert len(STAGES) == ZF_STAGE_COUNT and len(DECODERS) == ZF_DECODER_COUNT
PAGE = 4096


class Status(enum.IntEnum):
    OK = ZF_OK
    UNSUPPORTED = ZF_UNSUPPORTED
    NOMEM = ZF_NOMEM
    READ = ZF_READ
    WRITE = ZF_WRITE
    SIZE = ZF_SIZE
    CANCELLED = ZF_CANCELLED


def isa_names():
    names = []
    cdef const char *const *at = zf_kernels_all()
    while at[0] != NULL:
        names.append(at[0].decode())
        at += 1
    return tuple(names)


cdef const zf_kernels *kernels_for(isa) except NULL:
    isa = isa or os.environ.get("ZOOFAST_ISA")
    if not isa:
        return zf_kernels_best()
    cdef const zf_kernels *kernels = zf_kernels_named(isa.encode())
    if kernels == NULL:
        known = isa_names()
        why = "this CPU cannot run it" if isa in known else f"known: {', '.join(known)}"
        raise CpuLevelError(f"ZOOFAST_ISA={isa}: {why}")
    return kernels


def isa(name=None):
    return zf_kernels_name(kernels_for(name)).decode()


cdef class Plan:
    """A recipe as the core takes it."""

    cdef zf_recipe c
    cdef readonly object shape, dtype, _table

    def __init__(self, *, resize, resize_size, filter, order, crop, crop_truncates, out_size,
                 nhwc, channel_at, table):
        table = np.ascontiguousarray(table)
        if table.shape != (3, 256) or table.dtype not in (np.uint8, np.float16, np.float32):
            raise ValueError(f"table must be (3, 256) uint8, float16 or float32, "
                             f"not {table.shape} {table.dtype}")
        cdef const uint8_t[:] view = table.reshape(-1).view(np.uint8)
        self._table = table
        self.c.resize = {"none": ZF_RESIZE_NONE, "short": ZF_RESIZE_SHORT,
                         "exact": ZF_RESIZE_EXACT}[resize]
        self.c.resize_h, self.c.resize_w = resize_size
        self.c.filter = FILTERS[filter]
        self.c.order = ORDERS[order]
        self.c.crop_h, self.c.crop_w = crop
        self.c.crop_rounding = ZF_TRUNCATE if crop_truncates else ZF_HALF_EVEN
        self.c.out_h, self.c.out_w = out_size
        self.c.layout = ZF_NHWC if nhwc else ZF_NCHW
        for i in range(3):
            self.c.channel_at[i] = channel_at[i]
        if sorted(channel_at) != [0, 1, 2] or self.c.out_h < 1 or self.c.out_w < 1:
            raise ValueError("channel_at must be a permutation and out_size positive")
        self.c.elem_size = table.itemsize
        self.c.table = &view[0]
        self.dtype = table.dtype
        size = (self.c.out_h, self.c.out_w)
        self.shape = (*size, 3) if nhwc else (3, *size)

    @property
    def nbytes(self):
        return zf_recipe_nbytes(&self.c)


class Outcome(NamedTuple):
    status: int
    errno: int
    size: tuple
    decoder: int
    nbytes_in: int
    stage_ns: tuple
    begin_ns: int
    worker: int
    write_begin_ns: int
    writer: int


class Totals(NamedTuple):
    nbytes_in: int
    stage_ns: tuple
    decoded: tuple
    not_ok: list


cdef tuple stage_ns(const uint64_t *ns):
    return (ns[0], ns[1], ns[2], ns[3], ns[4], ns[5], ns[6], ns[7])


cdef object outcome(const zf_result *r):
    return Outcome(r.status, r.sys_errno, (r.got_h, r.got_w), r.decoder, r.nbytes_in,
                   stage_ns(r.ns), r.begin_ns, r.worker, r.write_begin_ns, r.writer)


cdef class Workspace:
    """Scratch for one thread at a time."""

    cdef zf_workspace *ws

    def __cinit__(self, isa=None):
        self.ws = zf_workspace_open(kernels_for(isa))
        if self.ws == NULL:
            raise MemoryError()

    def __dealloc__(self):
        zf_workspace_close(self.ws)

    def prepare(self, const uint8_t[::1] data, Plan plan not None, uint8_t[::1] out not None):
        if <size_t>out.shape[0] != zf_recipe_nbytes(&plan.c):
            raise ValueError(f"out has {out.shape[0]} bytes; the recipe makes {plan.nbytes}")
        cdef zf_result result
        cdef size_t n = data.shape[0]
        cdef const uint8_t *p = &data[0] if n else NULL
        with nogil:
            zf_prepare_jpeg(self.ws, &plan.c, p, n, &out[0], &result)
        return outcome(&result)

    def prepare_rgb(self, const uint8_t[:, :, ::1] rgb not None, Plan plan not None,
                    uint8_t[::1] out not None):
        if rgb.shape[2] != 3 or rgb.shape[0] < 1 or rgb.shape[1] < 1:
            raise ValueError(f"rgb must be (height, width, 3), not {tuple(rgb.shape)[:3]}")
        if <size_t>out.shape[0] != zf_recipe_nbytes(&plan.c):
            raise ValueError(f"out has {out.shape[0]} bytes; the recipe makes {plan.nbytes}")
        cdef zf_result result
        with nogil:
            zf_prepare_rgb(self.ws, &plan.c, &rgb[0, 0, 0], <int>rgb.shape[1],
                           <int>rgb.shape[0], <size_t>rgb.shape[1] * 3, &out[0], &result)
        return outcome(&result)

    def decode(self, const uint8_t[::1] data not None, window=None, decoder="none"):
        cdef int width = 0, height = 0, x0, y0, x1, y1
        cdef zf_decoder only = DECODERS.index(decoder)
        cdef zf_result result
        cdef uint8_t[:, :, ::1] rgb
        cdef size_t n = data.shape[0]
        cdef const uint8_t *p = &data[0] if n else NULL
        if zf_jpeg_size(p, n, &width, &height) != ZF_OK:
            return None
        x0, y0, x1, y1 = window or (0, 0, width, height)
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(f"window {window} is not inside {width}x{height}")
        array = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        rgb = array
        with nogil:
            zf_decode_jpeg_window(self.ws, p, n, x0, y0, x1, y1, only, &rgb[0, 0, 0],
                                  &result)
        return array if result.status == ZF_OK else None


def write_file(path, tmp_path, const uint8_t[::1] data not None):
    cdef bytes c_path = os.fsencode(path), c_tmp = os.fsencode(tmp_path)
    cdef const char *to = c_path
    cdef const char *tmp = c_tmp
    cdef int error
    with nogil:
        error = zf_write_file(to, tmp, &data[0], data.shape[0])
    if error:
        raise OSError(error, os.strerror(error), os.fsdecode(path))


def _memory(nbytes, fd):
    """Page-aligned zeros, of `fd` unless that is -1. In huge pages where the system has them: first
    use and direct I/O go page by page."""
    memory = mmap.mmap(fd, nbytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # this kernel has none
    return memory


cdef class Batch:
    """Slots for `capacity` tensors, and the jobs that fill them.

    With `prefix` (a file header), or for files, each slot begins on a page, so that it can be
    written by direct I/O; else tensors lie densely. A `shared` batch can be mapped by another
    process, from its file descriptor `fd` (-1: not shared).
    """

    cdef zf_batch c
    cdef readonly Plan plan
    cdef readonly int capacity
    cdef readonly object array
    cdef readonly int fd
    cdef object _memory, _slots, _prefix
    cdef uint8_t *_first_slot
    cdef list _alive
    cdef size_t _stride, _offset
    cdef bint _for_files

    def __cinit__(self, Plan plan not None, int capacity, bint for_files=False,
                  bytes prefix=b"", bint shared=False):
        self.fd = -1
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self.c.jobs = <zf_job *>calloc(capacity, sizeof(zf_job))
        if self.c.jobs == NULL:
            raise MemoryError()
        self.plan = plan
        self.capacity = capacity
        self._for_files = for_files
        self._prefix = prefix
        self._offset = len(prefix)
        self._stride = plan.nbytes + len(prefix)
        if for_files:
            self._stride = (self._stride + PAGE - 1) // PAGE * PAGE
        if shared:
            self.fd = os.memfd_create("zoofast")
            os.ftruncate(self.fd, self._stride * capacity)
        self._memory = _memory(self._stride * capacity, self.fd)
        self._slots = np.frombuffer(self._memory, np.uint8).reshape(capacity, self._stride)
        if prefix:
            self._slots[:, :self._offset] = np.frombuffer(prefix, np.uint8)
        cdef uint8_t[:, ::1] slots = self._slots
        self._first_slot = &slots[0, 0]
        rows = self._slots[:, self._offset:self._offset + plan.nbytes]
        strides = np.empty(plan.shape, plan.dtype).strides
        self.array = np.ndarray((capacity, *plan.shape), plan.dtype, self._memory,
                                self._offset, (self._stride, *strides))
        self.c.recipe = &plan.c
        self._alive = []

    def __dealloc__(self):
        free(self.c.jobs)
        if self.fd >= 0:
            os.close(self.fd)

    def __len__(self):
        return self.c.njobs

    def clear(self):
        self.c.njobs = 0
        self._alive = []

    cdef zf_job *_next(self) except NULL:
        if self.c.njobs == <size_t>self.capacity:
            raise IndexError(f"the batch holds {self.capacity}")
        cdef zf_job *job = &self.c.jobs[self.c.njobs]
        cdef uint8_t *slot = self._first_slot + self.c.njobs * self._stride
        memset(job, 0, sizeof(zf_job))
        job.fd = -1
        job.out = slot + self._offset
        job.file_data = slot
        job.file_nbytes = self.plan.nbytes + self._offset
        self.c.njobs += 1
        return job

    cdef _to_file(self, zf_job *job, bytes path, bytes tmp):
        if path is not None:
            if not self._for_files:
                raise ValueError("this batch is not for files")
            self._alive += (path, tmp)
            job.file_path = path
            job.file_tmp = tmp

    def add_bytes(self, bytes data not None, bytes to=None, bytes tmp=None):
        cdef zf_job *job = self._next()
        self._alive.append(data)
        job.data = <const uint8_t *><const char *>data
        job.nbytes = len(data)
        self._to_file(job, to, tmp)

    def add_path(self, str path not None, bytes to=None, bytes tmp=None):
        cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
        cdef zf_job *job = self._next()
        self._alive.append(encoded)
        job.path = encoded
        self._to_file(job, to, tmp)

    def add_range(self, int fd, unsigned long long offset, size_t nbytes, bytes to=None,
                  bytes tmp=None):
        cdef zf_job *job = self._next()
        job.fd = fd
        job.offset = offset
        job.nbytes = nbytes
        self._to_file(job, to, tmp)

    def file_bytes(self, size_t i):
        """The bytes of slot i as its file has them, prefix included (uint8 view)."""
        return self._slots[i, :self.plan.nbytes + self._offset]

    def tensor_bytes(self, size_t i):
        """The bytes of slot i's tensor (uint8 view)."""
        return self._slots[i, self._offset:self._offset + self.plan.nbytes]

    def outcome(self, size_t i):
        if i >= self.c.njobs:
            raise IndexError(i)
        return outcome(&self.c.jobs[i].result)

    def totals(self):
        cdef uint64_t ns[8]
        cdef size_t i, k, nbytes_in = 0
        cdef const zf_result *result
        cdef list decoded = [0] * len(DECODERS), not_ok = []
        memset(ns, 0, sizeof(ns))
        for i in range(self.c.njobs):
            result = &self.c.jobs[i].result
            nbytes_in += result.nbytes_in
            for k in range(8):
                ns[k] += result.ns[k]
            if result.status == ZF_OK:
                decoded[result.decoder] += 1
            else:
                not_ok.append(i)
        return Totals(nbytes_in, stage_ns(ns), tuple(decoded), not_ok)

    def busy(self):
        cdef dict workers = {}, writers = {}
        cdef list spent
        cdef size_t i, k
        cdef uint64_t end, last = 0
        cdef const zf_result *r
        for i in range(self.c.njobs):
            r = &self.c.jobs[i].result
            end = r.begin_ns
            spent = workers.setdefault(r.worker, [0] * 8)
            for k in range(8):
                if k != ZF_STAGE_WRITE and r.ns[k]:
                    spent[k] += r.ns[k]
                    end += r.ns[k]
            if r.ns[<int>ZF_STAGE_WRITE]:
                writers[r.writer] = writers.get(r.writer, 0) + r.ns[<int>ZF_STAGE_WRITE]
                end = r.write_begin_ns + r.ns[<int>ZF_STAGE_WRITE]
            last = max(last, end)
        return workers, writers, last


@cython.no_gc_clear  # running batches must outlive the workers
cdef class Pool:
    """Worker threads of the core. They never need the GIL."""

    cdef zf_pool *pool
    cdef set _running
    cdef readonly int threads, writers

    def __cinit__(self, int threads, isa=None, int writers=0):
        if threads < 1 or writers < 0:
            raise ValueError(f"threads must be at least 1, not {threads}, and writers at least 0")
        self._running = set()
        self.threads, self.writers = threads, writers
        self.pool = zf_pool_open(threads, writers, kernels_for(isa))
        if self.pool == NULL:
            raise MemoryError(f"cannot start {threads + writers} threads")

    def __dealloc__(self):
        cdef zf_pool *pool = self.pool
        with nogil:
            zf_pool_close(pool)

    def submit(self, Batch batch not None):
        if self.pool == NULL:
            raise ValueError("the pool is closed")
        if batch in self._running:
            raise ValueError("the batch is running already")
        if batch._for_files and self.writers == 0:
            raise ValueError("the batch is for files, and the pool has no writers")
        self._running.add(batch)
        with nogil:  # a worker that wakes up may take this thread's core at once
            zf_pool_submit(self.pool, &batch.c)

    def wait(self, Batch batch not None):
        """Returns when every job of the batch is done. Ctrl-C interrupts the waiting."""
        cdef int done = 0
        if batch not in self._running:
            raise ValueError("the batch was not submitted")
        while not done:
            with nogil:
                done = zf_pool_wait(self.pool, &batch.c, 100)
            PyErr_CheckSignals()
        self._running.discard(batch)

    def close(self):
        """Lets running jobs end, drops the others. Afterwards the pool is of no use."""
        cdef zf_pool *pool = self.pool
        self.pool = NULL
        with nogil:
            zf_pool_close(pool)
        self._running.clear()
