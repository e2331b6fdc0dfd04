# Declares csrc/zoofast.h for Cython, in its order. Levels are in _levels.pxi.
from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef extern from "zoofast.h" nogil:
    ctypedef enum zf_status:
        ZF_OK
        ZF_UNSUPPORTED
        ZF_NOMEM
        ZF_READ
        ZF_WRITE
        ZF_SIZE
        ZF_CANCELLED

    ctypedef enum zf_resize:
        ZF_RESIZE_NONE
        ZF_RESIZE_SHORT
        ZF_RESIZE_EXACT
        ZF_RESIZE_HEIGHT
        ZF_RESIZE_FIT
    ctypedef enum zf_side_rounding:
        ZF_SIDE_DOWN
        ZF_SIDE_HALF_UP
        ZF_SIDE_HALF_EVEN
        ZF_SIDE_TIMM
        ZF_SIDE_FACTOR
    ctypedef enum zf_padding:
        ZF_NOT_PADDED
        ZF_PADDED_CENTRE
        ZF_PADDED_CORNER
    ctypedef enum zf_filter:
        ZF_NEAREST
        ZF_LANCZOS
        ZF_BILINEAR
        ZF_BICUBIC
        ZF_BOX
        ZF_HAMMING
        ZF_CV_NEAREST
        ZF_CV_LINEAR
        ZF_CV_LINEAR_FLOAT32
        ZF_CV_CUBIC
        ZF_CV_AREA
        ZF_CV_LINEAR_EXACT
    ctypedef enum zf_pass_order:
        ZF_PASS_ORDER_PILLOW_10_0
        ZF_PASS_ORDER_PILLOW_12_2
        ZF_PASS_ORDER_PILLOW_13_0
    ctypedef enum zf_crop_rounding:
        ZF_CROP_HALF_EVEN
        ZF_CROP_TRUNCATE
        ZF_CROP_UP
        ZF_CROP_DOWN
        ZF_CROP_TORCHVISION
    ctypedef enum zf_layout:
        ZF_NCHW
        ZF_NHWC

    ctypedef struct zf_recipe:
        zf_resize resize
        int resize_w, resize_h
        zf_side_rounding resize_rounding
        zf_filter filter
        zf_pass_order pass_order
        int crop_w, crop_h
        zf_crop_rounding crop_rounding
        int out_w, out_h
        zf_layout layout
        int channel_index[3]
        int elem_size
        const void *table
        zf_padding padding
        uint8_t fill[3][4]
        bint is_turned
        float divisor
        float mean[3]
        float std[3]

    size_t zf_recipe_nbytes(const zf_recipe *recipe)

    ctypedef enum zf_decoder:
        ZF_DECODER_CACHE
        ZF_DECODER_COUNT
    ctypedef enum zf_stage:
        ZF_STAGE_WRITE
        ZF_STAGE_COUNT

    const char *zf_decoder_name(zf_decoder decoder)
    const char *zf_stage_name(zf_stage stage)

    ctypedef struct zf_result:
        zf_status status
        int sys_errno
        int width, height
        int got_w, got_h
        zf_decoder decoder
        uint64_t *ns  # an array of ZF_STAGE_COUNT, which Cython does not know
        size_t nbytes_in
        uint64_t begin_ns
        int worker
        uint64_t write_begin_ns
        int writer

    ctypedef struct zf_workspace:
        pass

    zf_workspace *zf_workspace_open(int level)
    void zf_workspace_close(zf_workspace *ws)
    zf_status zf_prepare_jpeg(zf_workspace *ws, const zf_recipe *recipe, const uint8_t *data,
                              size_t nbytes, void *out, zf_result *result)
    zf_status zf_prepare_rgb(zf_workspace *ws, const zf_recipe *recipe, const uint8_t *rgb,
                             int width, int height, size_t row_stride, void *out,
                             zf_result *result)
    int zf_exif_orientation(const uint8_t *data, size_t nbytes)
    zf_status zf_jpeg_size(const uint8_t *data, size_t nbytes, int *width, int *height)
    zf_status zf_decode_jpeg_window(zf_workspace *ws, const uint8_t *data, size_t nbytes,
                                    int x0, int y0, int x1, int y1, uint8_t *rgb,
                                    zf_result *result)

    ctypedef struct zf_place:
        int x, y, w, h

    ctypedef struct zf_stored:
        int fd
        uint64_t offset
        uint64_t checksum
        zf_place place
        uint64_t file_nbytes
        int64_t file_mtime_ns
        int64_t read_ns

    size_t zf_pixels_nbytes(const zf_recipe *recipe)
    zf_status zf_copy_pixels(const zf_workspace *ws, const zf_recipe *recipe, uint8_t *pixels,
                             zf_place *place)
    uint64_t zf_checksum(const uint8_t *data, size_t nbytes)

    int zf_write_file(const char *path, const char *tmp_path, const void *data, size_t nbytes)
    void zf_allocate(int fd, uint64_t offset, uint64_t nbytes)

    ctypedef struct zf_job:
        const uint8_t *data
        const char *path
        int fd
        uint64_t offset
        size_t nbytes
        void *out
        const char *file_path
        const char *file_tmp
        const void *file_data
        size_t file_nbytes
        bint has_pixels, stores_pixels
        zf_stored stored
        int store_errno
        zf_result result

    ctypedef struct zf_batch:
        const zf_recipe *recipe
        zf_job *jobs
        size_t njobs
        size_t max_file_nbytes
        uint8_t *pixels

    ctypedef struct zf_pool:
        pass

    zf_pool *zf_pool_open(int ncomputing, int nwriting, int level)
    void zf_pool_submit(zf_pool *pool, zf_batch *batch)
    int zf_pool_wait(zf_pool *pool, zf_batch *batch, int timeout_ms)
    int zf_pool_is_here(const zf_pool *pool)
    void zf_pool_close(zf_pool *pool)
