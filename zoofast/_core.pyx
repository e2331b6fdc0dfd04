"""The C core for Python: checks buffers, releases the GIL, returns statuses. See _core.pyi."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import enum
import mmap
from typing import NamedTuple

import numpy as np

include "_levels.pxi"

cdef extern from *:
    """
    /* Wheels for one machine are built with the pyconfig.h of another. */
    _Static_assert(SIZEOF_VOID_P == sizeof(void *) && SIZEOF_SIZE_T == sizeof(size_t) &&
                   SIZEOF_INT == sizeof(int) && SIZEOF_LONG == sizeof(long) &&
                   SIZEOF_LONG_LONG == sizeof(long long) && SIZEOF_WCHAR_T == sizeof(wchar_t) &&
                   PY_LITTLE_ENDIAN == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__),
                   "pyconfig.h is for another kind of machine");
    #ifdef __clang__
    static const char zf_compiler[] = "Clang " __clang_version__;
    #else
    static const char zf_compiler[] = "GCC " __VERSION__;
    #endif
    """
    const char *zf_compiler

cdef extern from "Python.h":
    object PyUnicode_EncodeFSDefault(object)

FILTERS = {
    "nearest": ZF_NEAREST,
    "lanczos": ZF_LANCZOS,
    "bilinear": ZF_BILINEAR,
    "bicubic": ZF_BICUBIC,
    "box": ZF_BOX,
    "hamming": ZF_HAMMING,
    "cv2-nearest": ZF_CV_NEAREST,
    "cv2-linear": ZF_CV_LINEAR,
    "cv2-linear-float32": ZF_CV_LINEAR_FLOAT32,
    "cv2-cubic": ZF_CV_CUBIC,
    "cv2-area": ZF_CV_AREA,
    "cv2-linear-exact": ZF_CV_LINEAR_EXACT,
}
PASS_ORDERS = {
    "pillow-10.0": ZF_PASS_ORDER_PILLOW_10_0,
    "pillow-12.2": ZF_PASS_ORDER_PILLOW_12_2,
    "pillow-13.0": ZF_PASS_ORDER_PILLOW_13_0,
}
CROP_ROUNDINGS = {
    "half-even": ZF_CROP_HALF_EVEN,
    "truncate": ZF_CROP_TRUNCATE,
    "up": ZF_CROP_UP,
    "down": ZF_CROP_DOWN,
    "torchvision": ZF_CROP_TORCHVISION,
}
SIDE_ROUNDINGS = {
    "down": ZF_SIDE_DOWN,
    "half-up": ZF_SIDE_HALF_UP,
    "half-even": ZF_SIDE_HALF_EVEN,
    "timm": ZF_SIDE_TIMM,
    "cv2-factor": ZF_SIDE_FACTOR,
}
PADDINGS = {"none": ZF_NOT_PADDED, "centre": ZF_PADDED_CENTRE, "corner": ZF_PADDED_CORNER}
RESIZES = {
    "short": ZF_RESIZE_SHORT,
    "height": ZF_RESIZE_HEIGHT,
    "fit": ZF_RESIZE_FIT,
    "exact": ZF_RESIZE_EXACT,
    "none": ZF_RESIZE_NONE,
}
STAGES = tuple(zf_stage_name(<zf_stage>i).decode() for i in range(ZF_STAGE_COUNT))
DECODERS = tuple(zf_decoder_name(<zf_decoder>i).decode() for i in range(ZF_DECODER_COUNT))
PAGE = 4096
COMPILER = zf_compiler.decode().strip()


class Status(enum.IntEnum):
    OK = ZF_OK
    UNSUPPORTED = ZF_UNSUPPORTED
    NOMEM = ZF_NOMEM
    READ = ZF_READ
    WRITE = ZF_WRITE
    SIZE = ZF_SIZE
    CANCELLED = ZF_CANCELLED


def isa_names():
    return level_names()


def isa(name=None):
    return zf_level_name(<zf_level>level_of(name)).decode()


cdef class Plan:

    cdef zf_recipe c
    cdef readonly object shape, dtype, _table

    def __init__(self, *, resize, resize_size, resize_rounding, filter, pass_order, crop,
                 crop_rounding, out_size, nhwc, channel_index, table, is_turned=False,
                 divisor=1, padding="none",
                 fill=None, mean=(0, 0, 0), std=(1, 1, 1)):
        table = np.ascontiguousarray(table)
        if table.shape != (3, 256) or table.dtype not in (np.uint8, np.float16, np.float32):
            raise ValueError(f"table must be (3, 256) uint8, float16 or float32, "
                             f"not {table.shape} {table.dtype}")
        cdef const uint8_t[:] view = table.reshape(-1).view(np.uint8)
        self._table = table
        self.c.resize = RESIZES[resize]
        self.c.resize_h, self.c.resize_w = resize_size
        self.c.resize_rounding = SIDE_ROUNDINGS[resize_rounding]
        self.c.filter = FILTERS[filter]
        self.c.pass_order = PASS_ORDERS[pass_order]
        self.c.crop_h, self.c.crop_w = crop
        self.c.crop_rounding = CROP_ROUNDINGS[crop_rounding]
        self.c.out_h, self.c.out_w = out_size
        self.c.layout = ZF_NHWC if nhwc else ZF_NCHW
        for i in range(3):
            self.c.channel_index[i] = channel_index[i]
        if sorted(channel_index) != [0, 1, 2] or self.c.out_h < 1 or self.c.out_w < 1:
            raise ValueError("channel_index must be a permutation and out_size positive")
        self.c.elem_size = table.itemsize
        self.c.table = &view[0]
        self.c.is_turned = is_turned
        self.c.divisor = divisor
        self.c.padding = PADDINGS[padding]
        cdef const uint8_t[:, ::1] elements
        if fill is not None:
            if fill.shape != (3,) or fill.dtype != table.dtype:
                raise ValueError(f"fill must be (3,) {table.dtype}, not {fill.shape} {fill.dtype}")
            elements = np.ascontiguousarray(fill).view(np.uint8).reshape(3, -1)
            for i in range(3):
                memcpy(self.c.fill[i], &elements[i, 0], table.itemsize)
        for i in range(3):
            self.c.mean[i] = mean[i]
            self.c.std[i] = std[i]
        if FILTERS[filter] == ZF_CV_LINEAR_FLOAT32 and self.c.elem_size == 2:
            raise ValueError("cv2-linear-float32 makes float32 or uint8, not float16")
        self.dtype = table.dtype
        size = (self.c.out_h, self.c.out_w)
        self.shape = (*size, 3) if nhwc else (3, *size)

    @property
    def nbytes(self):
        return zf_recipe_nbytes(&self.c)

    @property
    def pixels_nbytes(self):
        return zf_pixels_nbytes(&self.c)


cdef class Outcome:

    cdef zf_result c  # its fields become objects when they are asked for: few are, of most images

    @property
    def status(self):
        return self.c.status

    @property
    def errno(self):
        return self.c.sys_errno

    @property
    def size(self):
        return self.c.got_h, self.c.got_w

    @property
    def decoder(self):
        return self.c.decoder

    @property
    def nbytes_in(self):
        return self.c.nbytes_in

    @property
    def stage_ns(self):
        return stage_ns(&self.c)

    @property
    def begin_ns(self):
        return self.c.begin_ns

    @property
    def worker(self):
        return self.c.worker

    @property
    def write_begin_ns(self):
        return self.c.write_begin_ns

    @property
    def writer(self):
        return self.c.writer


class Totals(NamedTuple):
    nbytes_in: int
    stage_ns: tuple
    decoded: tuple
    not_ok: list


class StoredPixels(NamedTuple):
    i: int
    status: int
    errno: int
    checksum: int
    place: tuple
    file_nbytes: int
    file_mtime_ns: int
    read_ns: int


cdef tuple stage_ns(const zf_result *r):
    cdef list ns = []
    cdef size_t k
    for k in range(ZF_STAGE_COUNT):
        ns.append(r.ns[k])
    return tuple(ns)


cdef Outcome outcome(const zf_result *r):
    cdef Outcome of_image = Outcome.__new__(Outcome)
    of_image.c = r[0]
    return of_image


cdef class Workspace:

    cdef zf_workspace *ws

    def __cinit__(self, isa=None):
        self.ws = zf_workspace_open(level_of(isa))
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

    def pixels(self, Plan plan not None):
        cdef zf_place place
        cdef uint8_t[::1] planes
        array = np.empty(plan.pixels_nbytes, np.uint8)
        planes = array
        if zf_copy_pixels(self.ws, &plan.c, &planes[0], &place) != ZF_OK:
            raise ValueError("the recipe has no 8-bit pixels")
        return array, (place.x, place.y, place.w, place.h)

    def decode(self, const uint8_t[::1] data not None, window=None):
        cdef int width = 0, height = 0, x0, y0, x1, y1
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
            zf_decode_jpeg_window(self.ws, p, n, x0, y0, x1, y1, &rgb[0, 0, 0], &result)
        return array if result.status == ZF_OK else None


def exif_orientation(const uint8_t[::1] data not None):
    return zf_exif_orientation(&data[0], data.shape[0]) if data.shape[0] else 0


def checksum(const uint8_t[::1] data not None):
    cdef uint64_t total
    cdef size_t n = data.shape[0]
    cdef const uint8_t *p = &data[0] if n else NULL
    with nogil:
        total = zf_checksum(p, n)
    return total


def allocate(int fd, unsigned long long offset, unsigned long long nbytes):
    with nogil:
        zf_allocate(fd, offset, nbytes)


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
    """`nbytes` zero bytes, aligned to a page; mapped from `fd` unless that is -1.

    Uses huge pages if the system has them: page faults and direct I/O take time for each page.
    """
    memory = mmap.mmap(fd, nbytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # this kernel has no huge pages
    return memory


cdef class Batch:
    cdef zf_batch c
    cdef readonly Plan plan
    cdef readonly int capacity
    cdef readonly object array
    cdef readonly int fd
    cdef object _memory, _slots, _prefix, _pixels
    cdef uint8_t *_first_slot
    cdef list _alive
    cdef size_t _stride, _offset
    cdef bint _for_files

    def __cinit__(self, Plan plan not None, int capacity, bint for_files=False,
                  bytes prefix=b"", bint shared=False, size_t max_file_nbytes=0, memory=None):
        self.fd = -1
        self.c.max_file_nbytes = max_file_nbytes
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
        if memory is not None:
            self._memory = memory(self._stride * capacity)
        else:
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
        if self.c.jobs != NULL and self.fd >= 0:  # without jobs, fd may still be 0
            os.close(self.fd)
        free(self.c.jobs)

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

    def add_bytes(self, data not None, bytes to=None, bytes tmp=None):
        cdef const uint8_t[::1] view = data
        cdef zf_job *job = self._next()
        self._alive.append(data)
        job.data = &view[0] if view.shape[0] else <const uint8_t *>b""
        job.nbytes = view.shape[0]
        self._to_file(job, to, tmp)

    def drop_bytes(self):
        cdef size_t i
        for i in range(self.c.njobs):
            self.c.jobs[i].data = NULL
        self._alive = []

    cdef zf_job *_job(self, size_t i) except NULL:
        if i >= self.c.njobs:
            raise IndexError(i)
        return &self.c.jobs[i]

    def use_pixels(self, size_t i, int fd, unsigned long long offset,
                   unsigned long long checksum, tuple place not None,
                   unsigned long long file_nbytes, long long file_mtime_ns):
        cdef zf_job *job = self._job(i)
        cdef zf_stored *stored = &job.stored
        job.has_pixels = True
        stored.fd, stored.offset, stored.checksum = fd, offset, checksum
        stored.place.x, stored.place.y, stored.place.w, stored.place.h = place
        stored.file_nbytes, stored.file_mtime_ns = file_nbytes, file_mtime_ns

    def store_pixels(self, size_t i, int fd, unsigned long long offset):
        cdef zf_job *job = self._job(i)
        cdef uint8_t[::1] memory
        if self._pixels is None:
            self._pixels = _memory(self.plan.pixels_nbytes * self.capacity, -1)
            memory = self._pixels
            self.c.pixels = &memory[0]
        job.stores_pixels = True
        job.stored.fd, job.stored.offset = fd, offset

    cdef bint has_output(self):
        cdef size_t i
        if self._for_files:
            return True
        for i in range(self.c.njobs):
            if self.c.jobs[i].stores_pixels:
                return True
        return False

    def stored_pixels(self):
        cdef list outcomes = []
        cdef size_t i
        cdef const zf_job *job
        cdef const zf_stored *s
        for i in range(self.c.njobs):
            job, s = &self.c.jobs[i], &self.c.jobs[i].stored
            if job.stores_pixels and job.result.decoder != ZF_DECODER_CACHE:
                outcomes.append(StoredPixels(i, job.result.status, job.store_errno, s.checksum,
                                 (s.place.x, s.place.y, s.place.w, s.place.h),
                                 s.file_nbytes, s.file_mtime_ns, s.read_ns))
        return outcomes

    def file_bytes(self, size_t i):
        return self._slots[i, :self.plan.nbytes + self._offset]

    def tensor_bytes(self, size_t i):
        return self._slots[i, self._offset:self._offset + self.plan.nbytes]

    def outcome(self, size_t i):
        return outcome(&self._job(i).result)

    def totals(self):
        cdef zf_result total
        cdef size_t i, k
        cdef const zf_result *result
        cdef list decoded = [0] * ZF_DECODER_COUNT, not_ok = []
        memset(&total, 0, sizeof(total))
        for i in range(self.c.njobs):
            result = &self.c.jobs[i].result
            total.nbytes_in += result.nbytes_in
            for k in range(ZF_STAGE_COUNT):
                total.ns[k] += result.ns[k]
            if result.status == ZF_OK:
                decoded[<int>result.decoder] += 1
            else:
                not_ok.append(i)
        return Totals(total.nbytes_in, stage_ns(&total), tuple(decoded), not_ok)

    def busy(self):
        cdef dict workers = {}, writers = {}
        cdef list spent
        cdef size_t i, k
        cdef uint64_t end, last = 0
        cdef const zf_result *r
        for i in range(self.c.njobs):
            r = &self.c.jobs[i].result
            end = r.begin_ns
            spent = workers.setdefault(r.worker, [0] * ZF_STAGE_COUNT)
            for k in range(ZF_STAGE_COUNT):
                if k != ZF_STAGE_WRITE and r.ns[k]:
                    spent[k] += r.ns[k]
                    end += r.ns[k]
            if r.ns[<int>ZF_STAGE_WRITE]:
                writers[r.writer] = writers.get(r.writer, 0) + r.ns[<int>ZF_STAGE_WRITE]
                end = r.write_begin_ns + r.ns[<int>ZF_STAGE_WRITE]
            last = max(last, end)
        return workers, writers, last


@cython.no_gc_clear  # the batches must exist until the threads have ended
cdef class Pool:

    cdef zf_pool *pool
    cdef set _running
    cdef readonly int threads, writers

    def __cinit__(self, int threads, isa=None, int writers=0):
        if threads < 1 or writers < 0:
            raise ValueError(f"threads must be at least 1, not {threads}, and writers at least 0")
        self._running = set()
        self.threads, self.writers = threads, writers
        self.pool = zf_pool_open(threads, writers, level_of(isa))
        if self.pool == NULL:
            raise MemoryError(f"cannot start {threads + writers} threads")

    def __dealloc__(self):
        cdef zf_pool *pool = self.pool
        with nogil:
            zf_pool_close(pool)

    @property
    def is_here(self):
        return self.pool == NULL or bool(zf_pool_is_here(self.pool))

    def check(self):
        if self.pool == NULL:
            raise ValueError("the Loader is closed")
        if not self.is_here:
            raise RuntimeError(
                f"process {os.getpid()} cannot use the threads of another process: it inherited "
                "this Loader by fork; open a Loader in each process"
            )

    def submit(self, Batch batch not None):
        self.check()
        if batch in self._running:
            raise ValueError("the batch is running already")
        if self.writers == 0 and batch.has_output():
            raise ValueError("the batch is for files or pixels, and the pool has no writers")
        self._running.add(batch)
        with nogil:  # a worker that wakes up may take this thread's core immediately
            zf_pool_submit(self.pool, &batch.c)

    def wait(self, Batch batch not None):
        cdef int done = 0
        if batch not in self._running:
            raise ValueError("the batch was not submitted")
        self.check()
        while not done:
            with nogil:
                done = zf_pool_wait(self.pool, &batch.c, 100)
            PyErr_CheckSignals()
        self._running.discard(batch)

    def close(self):
        cdef zf_pool *pool = self.pool
        self.pool = NULL
        with nogil:
            zf_pool_close(pool)
        self._running.clear()
