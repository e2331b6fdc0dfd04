/*
 * zoofast: image bytes -> model-ready tensors, equal to Pillow in every byte.
 *
 * This header is the whole contract between the C core and its callers.
 *
 * - The core knows nothing of Python. It never prints, exits or installs a
 *   signal handler. Every function that can fail returns a zf_status.
 * - Buffers belong to the caller. The core owns only what hides behind
 *   zf_workspace and zf_pool.
 * - A zf_workspace serves one thread at a time. A zf_pool may be used by
 *   several threads.
 * - After a failure the contents of an output buffer are undefined.
 * - Not promised: struct layouts between versions.
 */
#ifndef ZOOFAST_H
#define ZOOFAST_H

#include <stddef.h>
#include <stdint.h>

typedef enum zf_status {
    ZF_OK = 0,
    ZF_UNSUPPORTED, /* not a plain JPEG, or anomalous: let Pillow judge it */
    ZF_NOMEM,       /* out of memory */
    ZF_READ,        /* the input could not be opened or read; see sys_errno */
    ZF_WRITE,       /* the output could not be written; see sys_errno */
    ZF_SIZE,        /* the resized image is not of the recipe's output size */
    ZF_CANCELLED    /* the pool was asked to stop before this job ran */
} zf_status;

/* ---- recipe ------------------------------------------------------------ */

typedef enum { ZF_RESIZE_NONE, ZF_RESIZE_SHORT, ZF_RESIZE_EXACT } zf_resize;
/* Pillow's filters (Image.Resampling) */
typedef enum {
    ZF_NEAREST,
    ZF_LANCZOS,
    ZF_BILINEAR,
    ZF_BICUBIC,
    ZF_BOX,
    ZF_HAMMING
} zf_filter;
/* Which pass Pillow makes first. Each rounds to 8 bits, so the order shows.
 * From w x h to W x H, the vertical pass comes first where */
typedef enum {
    ZF_ORDER_ACROSS, /* never: before Pillow 12.2 */
    ZF_ORDER_TALL,   /* H < h and h > 100 w: 12.2 and 12.3 */
    ZF_ORDER_SHRINK  /* H < h and h - H > 2 (w - W): from 13.0 */
} zf_order;
typedef enum { ZF_HALF_EVEN, ZF_TRUNCATE } zf_rounding;
typedef enum { ZF_NCHW, ZF_NHWC } zf_layout;

/* How one image becomes one tensor. Plain data; constant while in use. */
typedef struct zf_recipe {
    zf_resize resize;
    int resize_w, resize_h; /* EXACT: the size. SHORT: both the short side */
    zf_filter filter;
    zf_order order;
    int crop_w, crop_h;     /* centre crop; 0, 0: none */
    zf_rounding crop_rounding; /* of (side - crop) / 2 */
    int out_w, out_h;       /* the tensor's size; another size is ZF_SIZE */
    zf_layout layout;
    int channel_at[3];      /* where R, G, B go: {0,1,2} RGB, {2,1,0} BGR */
    int elem_size;          /* bytes per element: 1, 2 or 4 */
    /* [3][256] elements: what each 8-bit value of R, G, B becomes. A channel
     * has only 256 inputs, so normalization is this table and every CPU gives
     * the same floats: those of whoever filled it in. */
    const void *table;
} zf_recipe;

/* Bytes of one output tensor: 3 * out_h * out_w * elem_size. */
size_t zf_recipe_nbytes(const zf_recipe *recipe);

/* ---- CPU levels -------------------------------------------------------- */

typedef struct zf_kernels zf_kernels;

const zf_kernels *zf_kernels_named(const char *isa); /* NULL: unknown, or not on this CPU */
const zf_kernels *zf_kernels_best(void);             /* never NULL: scalar is the floor */
const char *zf_kernels_name(const zf_kernels *kernels);
/* All level names that this build knows, NULL-terminated, best last. */
const char *const *zf_kernels_all(void);

/* ---- one image --------------------------------------------------------- */

typedef enum { ZF_DECODER_NONE, ZF_DECODER_TURBO, ZF_DECODER_BASELINE, ZF_DECODER_COUNT } zf_decoder;

typedef enum {
    ZF_STAGE_READ,
    ZF_STAGE_DECODE,  /* by libjpeg-turbo, which does not tell what it does when */
    ZF_STAGE_ENTROPY, /* these three by our own decoder; tables included */
    ZF_STAGE_IDCT,
    ZF_STAGE_COLOUR, /* upsampling included */
    ZF_STAGE_RESIZE,
    ZF_STAGE_PACK,
    ZF_STAGE_WRITE,
    ZF_STAGE_COUNT
} zf_stage;

typedef struct zf_result {
    zf_status status;
    int sys_errno;      /* for ZF_READ and ZF_WRITE */
    int width, height;  /* of the source image, 0 when not known */
    int got_w, got_h;   /* for ZF_SIZE: the size it would have had */
    zf_decoder decoder; /* which decoder made the pixels */
    uint64_t ns[ZF_STAGE_COUNT]; /* time spent, nanoseconds of CLOCK_MONOTONIC */
    size_t nbytes_in;   /* bytes of the image file */
    uint64_t begin_ns;  /* when the job began, CLOCK_MONOTONIC; jobs only */
    int worker;         /* which of the pool's threads computed it, from 0; jobs only */
    /* of jobs with a file */
    uint64_t write_begin_ns;
    int writer; /* which of the pool's writers wrote it, from 0 */
} zf_result;

typedef struct zf_workspace zf_workspace;

/* NULL when out of memory. */
zf_workspace *zf_workspace_open(const zf_kernels *kernels);
void zf_workspace_close(zf_workspace *ws);

/* A JPEG in memory -> out (zf_recipe_nbytes bytes, any alignment). */
zf_status zf_prepare_jpeg(zf_workspace *ws, const zf_recipe *recipe, const uint8_t *data,
                          size_t nbytes, void *out, zf_result *result);

/* Decoded pixels -> out. rgb: height rows of width RGB triples, row_stride
 * bytes apart. For images that Pillow had to decode. */
zf_status zf_prepare_rgb(zf_workspace *ws, const zf_recipe *recipe, const uint8_t *rgb,
                         int width, int height, size_t row_stride, void *out,
                         zf_result *result);

/* A JPEG in memory -> its RGB pixels, whole: height rows of width triples.
 * The size must be that of zf_jpeg_size. For tests and benchmarks. */
zf_status zf_jpeg_size(const uint8_t *data, size_t nbytes, int *width, int *height);
zf_status zf_decode_jpeg(zf_workspace *ws, const uint8_t *data, size_t nbytes, uint8_t *rgb,
                         zf_result *result);

/* Only [y0,y1) x [x0,x1) of it, densely; what the crop's decoding does. By one
 * decoder alone, unless `only` is ZF_DECODER_NONE. */
zf_status zf_decode_jpeg_window(zf_workspace *ws, const uint8_t *data, size_t nbytes, int x0,
                                int y0, int x1, int y1, zf_decoder only, uint8_t *rgb,
                                zf_result *result);

/* ---- files ------------------------------------------------------------- */

/* Write a file whole: under tmp_path first, then renamed to path. Uses direct
 * I/O where data is 4096-byte aligned and the file system allows it; it
 * then moves whole 4096-byte blocks, all of which are pages that data has a
 * byte in. Returns 0 or an errno; on failure tmp_path is removed. */
int zf_write_file(const char *path, const char *tmp_path, const void *data, size_t nbytes);

/* ---- many images ------------------------------------------------------- */

typedef struct zf_job {
    /* input, the first that is set: data (borrowed), path, else fd with
     * offset and nbytes (a tar member) */
    const uint8_t *data;
    const char *path;
    int fd;
    uint64_t offset;
    size_t nbytes; /* of data, or of the member */
    /* output */
    void *out;
    /* when path is set: file_nbytes bytes at file_data are written there
     * after out is filled (out lies within) */
    const char *file_path;
    const char *file_tmp;
    const void *file_data;
    size_t file_nbytes;
    zf_result result;
    /* private to the pool */
    struct zf_batch *batch;
    struct zf_job *link;
} zf_job;

typedef struct zf_batch {
    const zf_recipe *recipe;
    zf_job *jobs;
    size_t njobs;
    /* private to the pool from submit until done */
    size_t next, finished;
    struct zf_batch *link;
} zf_batch;

typedef struct zf_pool zf_pool;

/* Starts nthreads threads that compute, and nwriters that write the files of
 * jobs that have one: at least one writer where any has. NULL when out of
 * memory or threads. */
zf_pool *zf_pool_open(int nthreads, int nwriters, const zf_kernels *kernels);
/* Queues a batch; batch, jobs and buffers must live until it is done.
 * Batches start in the order of their submission. */
void zf_pool_submit(zf_pool *pool, zf_batch *batch);
/* Waits until batch is done: 1, or 0 when timeout_ms passed first. */
int zf_pool_wait(zf_pool *pool, zf_batch *batch, int timeout_ms);
/* Jobs not yet begun finish at once as ZF_CANCELLED. */
void zf_pool_cancel(zf_pool *pool);
/* Cancels, waits for running jobs, frees. */
void zf_pool_close(zf_pool *pool);

#endif
