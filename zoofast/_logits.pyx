# cython: language_level=3, boundscheck=False, wraparound=False
"""csrc/logits.h for Python: checks buffers, and releases the GIL around each call."""

from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc

import numpy as np

include "_levels.pxi"


cdef extern from "<fcntl.h>" nogil:
    enum:
        AT_FDCWD

cdef extern from "logits.h" nogil:
    ctypedef enum zf_logits_status:
        ZF_LOGITS_OK
        ZF_LOGITS_NOMEM
        ZF_LOGITS_READ
        ZF_LOGITS_EMPTY
        ZF_LOGITS_NUMBER
        ZF_LOGITS_NPY
        ZF_LOGITS_BYTES
    ctypedef enum zf_logits_kind:
        ZF_LOGITS_TXT
        ZF_LOGITS_BIN
        ZF_LOGITS_NPY_FILE
    ctypedef struct zf_logits_result:
        int32_t status
        int32_t sys_errno
        int64_t offset
        int64_t count
        float confidence
        float sum
        float min
        int32_t padding
    ctypedef struct zf_logits_element:
        char type
        int size
    ctypedef struct zf_logits_files:
        int level
        int dir_fd
        const char *const *names
        const uint8_t *kinds
        size_t nfiles
        zf_logits_element bin_element
        size_t k
        int want_confidence
        zf_logits_result *results
        int32_t *classes
        float *values
    zf_logits_status zf_logits_parse(
        int level, const char *text, size_t nbytes, float *out, size_t *count,
        size_t *offset) noexcept
    size_t zf_logits_format_bound(size_t n) noexcept
    size_t zf_logits_format(const float *row, size_t n, char *out) noexcept
    void zf_logits_topk(
        const float *row, size_t n, size_t k, int32_t *classes, float *values) noexcept
    float zf_logits_confidence(
        int level, const float *row, size_t n, float *sum, float *min) noexcept
    ctypedef struct zf_logits_reading:
        pass
    zf_logits_reading *zf_logits_begin(const zf_logits_files *files, int nthreads) noexcept
    size_t zf_logits_rank_files(zf_logits_reading *reading, size_t max_files) noexcept
    int zf_logits_is_here(const zf_logits_reading *reading) noexcept
    void zf_logits_end(zf_logits_reading *reading) noexcept
    zf_logits_result zf_logits_read_file(
        int level, int dir_fd, const char *name, zf_logits_kind kind,
        zf_logits_element bin_element, float **row) noexcept


OK = ZF_LOGITS_OK
NOMEM = ZF_LOGITS_NOMEM
READ = ZF_LOGITS_READ
EMPTY = ZF_LOGITS_EMPTY
NUMBER = ZF_LOGITS_NUMBER
NPY_HEADER = ZF_LOGITS_NPY
BYTES = ZF_LOGITS_BYTES

CWD = AT_FDCWD

TXT = ZF_LOGITS_TXT
BIN = ZF_LOGITS_BIN
NPY = ZF_LOGITS_NPY_FILE

RESULT_DTYPE = np.dtype([
    ("status", np.int32), ("sys_errno", np.int32), ("offset", np.int64), ("count", np.int64),
    ("confidence", np.float32), ("sum", np.float32), ("min", np.float32),
    ("padding", np.int32),
])
if RESULT_DTYPE.itemsize != sizeof(zf_logits_result):
    raise ImportError("zoofast._logits does not fit its header; build zoofast anew")


def parse(const uint8_t[::1] text not None, isa=None):
    cdef float[::1] out = np.empty(text.shape[0] // 2 + 1, np.float32)
    cdef size_t count = 0, offset = 0
    cdef int level = level_of(isa)
    cdef zf_logits_status status
    cdef const char *start = <const char *>&text[0] if text.shape[0] else NULL
    if start == NULL:
        return np.empty(0, np.float32)
    with nogil:
        status = zf_logits_parse(level, start, text.shape[0], &out[0], &count, &offset)
    if status == ZF_LOGITS_NOMEM:
        raise MemoryError
    if status != ZF_LOGITS_OK:
        raise ValueError(f"byte {offset} begins something that is not a number")
    return np.asarray(out)[:count].copy()


def format_rows(const float[:, ::1] rows not None):
    cdef size_t n = rows.shape[1], bound = zf_logits_format_bound(n)
    cdef size_t nrows = rows.shape[0], i, used = 0
    cdef float nothing = 0
    if bound > (<size_t>-1) // (nrows + 1):
        raise MemoryError
    cdef char *out = <char *>malloc(bound * nrows + 1)
    if out == NULL:
        raise MemoryError
    try:
        with nogil:
            for i in range(nrows):
                used += zf_logits_format(&rows[i, 0] if n else &nothing, n, out + used)
        return out[:used]
    finally:
        free(out)


cdef _check_scores(const float[:, ::1] scores):
    if not 1 <= scores.shape[1] <= 2**31 - 1:
        raise ValueError(f"scores have {scores.shape[1]} classes; 1 or more are needed")


def topk(const float[:, ::1] scores not None, Py_ssize_t k):
    _check_scores(scores)
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k is {k}; it must be 1 to {scores.shape[1]}, the number of classes")
    cdef Py_ssize_t n = scores.shape[0], i
    cdef int32_t[:, ::1] classes = np.empty((n, k), np.int32)
    cdef float[:, ::1] values = np.empty((n, k), np.float32)
    with nogil:
        for i in range(n):
            zf_logits_topk(&scores[i, 0], scores.shape[1], k, &classes[i, 0], &values[i, 0])
    return np.asarray(classes), np.asarray(values)


def confidence(const float[:, ::1] scores not None, isa=None):
    cdef int level = level_of(isa)
    _check_scores(scores)
    cdef Py_ssize_t n = scores.shape[0], i
    cdef float[:, ::1] out = np.empty((3, n), np.float32)
    with nogil:
        for i in range(n):
            out[0, i] = zf_logits_confidence(level, &scores[i, 0], scores.shape[1],
                                             &out[1, i], &out[2, i])
    return tuple(np.asarray(out))


cdef zf_logits_element element_of(bin_dtype) except *:
    cdef zf_logits_element element
    dtype = np.dtype(bin_dtype)
    if dtype.kind not in "fiu" or dtype.itemsize > 8 or not dtype.isnative:
        raise ValueError(f"{dtype} is no type of result files; float32, float16, int8 … are")
    element.type, element.size = ord(dtype.kind), dtype.itemsize
    return element


cdef class Reading:
    cdef readonly object results, classes, values
    cdef zf_logits_reading *reading
    cdef const char **pointers
    cdef tuple names  # keeps the bytes alive, whatever becomes of the list
    cdef object kinds

    def __cinit__(self, int dir_fd, list names not None, const uint8_t[::1] kinds not None,
                  Py_ssize_t k, *, bin_dtype="float32", bint want_confidence=False,
                  int threads=1, isa=None):
        cdef Py_ssize_t n = len(names), i
        if kinds.shape[0] != n:
            raise ValueError(f"{n} names but {kinds.shape[0]} kinds")
        if k < 1 or not 1 <= threads <= 1024:
            raise ValueError("k must be 1 or more, threads 1 to 1024")
        self.results = np.zeros(n, RESULT_DTYPE)
        self.classes = np.empty((n, k), np.int32)
        self.values = np.empty((n, k), np.float32)
        if n == 0:
            return
        self.names, self.kinds = tuple(names), kinds
        cdef zf_logits_result[::1] result_view = self.results
        cdef int32_t[:, ::1] class_view = self.classes
        cdef float[:, ::1] value_view = self.values
        cdef zf_logits_files files
        cdef bytes name
        self.pointers = <const char **>malloc(n * sizeof(char *))
        if self.pointers == NULL:
            raise MemoryError
        for i in range(n):
            name = self.names[i]
            self.pointers[i] = name
        files.level = level_of(isa)
        files.dir_fd = dir_fd
        files.names = self.pointers
        files.kinds = &kinds[0]
        files.nfiles = n
        files.bin_element = element_of(bin_dtype)
        files.k = k
        files.want_confidence = want_confidence
        files.results = &result_view[0]
        files.classes = &class_view[0, 0]
        files.values = &value_view[0, 0]
        self.reading = zf_logits_begin(&files, threads - 1)
        if self.reading == NULL:
            raise MemoryError

    def rank_files(self, Py_ssize_t max_files):
        cdef size_t started = 0
        if max_files < 1:
            raise ValueError("max_files must be 1 or more")
        if self.reading != NULL:
            if not zf_logits_is_here(self.reading):
                raise RuntimeError("a process made by fork cannot use its parent's Reading")
            with nogil:
                started = zf_logits_rank_files(self.reading, max_files)
        return started

    def end(self):
        cdef zf_logits_reading *reading = self.reading
        self.reading = NULL
        if reading != NULL:
            with nogil:
                zf_logits_end(reading)

    def __dealloc__(self):
        if self.reading != NULL:
            zf_logits_end(self.reading)
        free(self.pointers)


def read_file(int dir_fd, bytes name not None, int kind, *, bin_dtype="float32", isa=None):
    cdef float *row = NULL
    cdef zf_logits_result result
    cdef const char *path = name
    cdef zf_logits_element element = element_of(bin_dtype)
    cdef int level = level_of(isa)
    with nogil:
        result = zf_logits_read_file(level, dir_fd, path, <zf_logits_kind>kind, element, &row)
    try:
        out = np.empty(result.count, np.float32)
        if result.status == ZF_LOGITS_OK:
            out[:] = <float[:result.count]>row
        described = np.array(
            [(result.status, result.sys_errno, result.offset, result.count, result.confidence,
              result.sum, result.min, 0)], RESULT_DTYPE)[0]
        return described, out
    finally:
        free(row)
