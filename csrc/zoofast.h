/*
 * zoofast: image bytes -> tensors for a model, equal to Pillow in every byte.
 *
 * This header, with levels.h, is the whole contract between the C core and its
 * callers.
 *
 * - The core does not use Python. It never prints, exits or installs a signal
 *   handler. A function that can fail says so by what it returns: a zf_status
 *   where its comment names nothing else, an errno, or NULL.
 * - The caller owns all buffers. The core owns only the memory behind
 *   zf_workspace and zf_pool.
 * - One thread at a time may use a zf_workspace. Several threads may use a
 *   zf_pool.
 * - After a failure the contents of an output buffer are undefined.
 * - No pointer that a function takes may be NULL, unless its comment says so.
 * - Struct layouts may change between versions.
 */
#ifndef ZOOFAST_H
#define ZOOFAST_H

#include "levels.h"

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef ZF_EXPORT /* the C library's symbols; Python's modules have none */
#pragma GCC visibility push(default)
#endif

typedef enum zf_status {
    ZF_OK = 0,
    ZF_UNSUPPORTED, /* not a plain JPEG, or one with an anomaly: Pillow has to decide */
    ZF_NOMEM,       /* out of memory */
    ZF_READ,        /* the input could not be opened or read; see sys_errno */
    ZF_WRITE,       /* the output could not be written; see sys_errno */
    ZF_SIZE,        /* the resized image does not have the recipe's output size */
    ZF_CANCELLED    /* the pool was closed before this job began */
} zf_status;

/* ---- recipe ------------------------------------------------------------ */

/* FIT: the largest size of the same proportion that fits in resize_w x resize_h. */
typedef enum {
    ZF_RESIZE_NONE,
    ZF_RESIZE_SHORT,
    ZF_RESIZE_EXACT,
    ZF_RESIZE_HEIGHT,
    ZF_RESIZE_FIT
} zf_resize;
/* How the side that keeps the proportion becomes whole, with the given side's old and new length:
 * int(new * side / old), as torchvision; or int(new / old * side + 0.5), as megvii's ShuffleNet.
 * FIT: int(x), int(x + 0.5) or Python's round(x) of x = side * min(width's, height's new / old);
 * TIMM, as timm's ResizeKeepRatio: round(x) of x = side / max(width's, height's old / new).
 * FACTOR, as cv2.resize with fx = fy = min(new / old): round(x), and both sides' pixels are
 * 1 / fx apart. Only with ZF_CV_NEAREST. */
typedef enum {
    ZF_SIDE_DOWN,
    ZF_SIDE_HALF_UP,
    ZF_SIDE_HALF_EVEN,
    ZF_SIDE_TIMM,
    ZF_SIDE_FACTOR
} zf_side_rounding;
/* Where the resized image lies in the tensor; the elements around it are zf_recipe.fill. */
typedef enum { ZF_NOT_PADDED, ZF_PADDED_CENTRE, ZF_PADDED_CORNER } zf_padding;
/* Pillow's filters (Image.Resampling), and OpenCV's (cv2.INTER_*) for 8-bit pixels;
 * ZF_CV_LINEAR_FLOAT32 is INTER_LINEAR of float32 pixels. */
typedef enum {
    ZF_NEAREST,
    ZF_LANCZOS,
    ZF_BILINEAR,
    ZF_BICUBIC,
    ZF_BOX,
    ZF_HAMMING,
    ZF_CV_NEAREST,
    ZF_CV_LINEAR,
    ZF_CV_LINEAR_FLOAT32,
    ZF_CV_CUBIC,
    ZF_CV_AREA,
    ZF_CV_LINEAR_EXACT
} zf_filter;
/* Which pass Pillow makes first when it resizes from w x h to W x H pixels.
 * Each pass rounds to 8 bits, so the order changes the result. Each constant
 * names the first release that has the rule. */
typedef enum {
    ZF_PASS_ORDER_PILLOW_10_0, /* always the horizontal pass */
    ZF_PASS_ORDER_PILLOW_12_2, /* the vertical pass if H < h and h > 100 w */
    ZF_PASS_ORDER_PILLOW_13_0  /* the vertical pass if H < h and h - H > 2 (w - W) */
} zf_pass_order;
/* How the centre crop rounds its origin x, (side - crop) / 2 pixels: as
 * Python's int(round(x)), int(x), ceil(x) or floor(x); or as torchvision's CenterCrop:
 * int(round(x)), but int(x) where the image is smaller than the crop. */
typedef enum {
    ZF_CROP_HALF_EVEN,
    ZF_CROP_TRUNCATE,
    ZF_CROP_UP,
    ZF_CROP_DOWN,
    ZF_CROP_TORCHVISION
} zf_crop_rounding;
typedef enum { ZF_NCHW, ZF_NHWC } zf_layout;

/* How one image becomes one tensor. Sizes are in pixels. The recipe must not
 * change while it is in use. */
typedef struct zf_recipe {
    zf_resize resize;
    int resize_w, resize_h; /* EXACT: the size. SHORT, HEIGHT: both hold the given side */
    zf_side_rounding resize_rounding;
    zf_filter filter;
    zf_pass_order pass_order;
    int crop_w, crop_h;     /* centre crop; 0, 0: none */
    zf_crop_rounding crop_rounding;
    int out_w, out_h;       /* the tensor's size; another size is ZF_SIZE */
    zf_layout layout;
    int channel_index[3];   /* of R, G, B in the tensor: {0,1,2} is RGB, {2,1,0} is BGR */
    int elem_size;          /* bytes per element: 1, 2 or 4 */
    /* [3][256] elements: the result of normalization for each 8-bit value of
     * R, G and B. The caller computes the table and the core only looks values
     * up, so every CPU gives the same floats. */
    const void *table;
    zf_padding padding;    /* instead of a crop */
    uint8_t fill[3][4];    /* an element of R, G and B outside the image, if padded */
    bool is_turned; /* the picture is turned by its EXIF orientation first */
    /* ZF_CV_LINEAR_FLOAT32 resizes the 8-bit values / divisor, in float32; its results
     * become (value - mean) / std, in place of the table's elements. */
    float divisor;
    float mean[3], std[3]; /* of R, G, B */
} zf_recipe;

/* Bytes of one output tensor: 3 * out_h * out_w * elem_size. */
size_t zf_recipe_nbytes(const zf_recipe *recipe);

/* ---- one image --------------------------------------------------------- */

/* The decoders that can make an image's pixels, each with its name. */
#define ZF_DECODERS(DECODER)                                                           \
    DECODER(NONE, "none") /* no decoder accepted the image */                          \
    DECODER(BASELINE, "baseline") /* jpeg_baseline.c: one scan */                      \
    DECODER(PROGRESSIVE, "progressive") /* jpeg_progressive.c: several scans */        \
    DECODER(CACHE, "cache") /* none: the pixels are those of an earlier run */

/* The stages of the work on an image, each with its name. Writing is the last. */
#define ZF_STAGES(STAGE)                                                               \
    STAGE(READ, "read")                                                                \
    STAGE(ENTROPY, "entropy") /* entropy decoding */                                   \
    STAGE(IDCT, "idct")                                                                \
    STAGE(COLOUR, "colour") /* upsampling and colour conversion */                     \
    STAGE(RESIZE, "resize")                                                            \
    STAGE(PACK, "pack")                                                                \
    STAGE(WRITE, "write")

typedef enum zf_decoder {
#define ZF_CONSTANT(constant, name) ZF_DECODER_##constant,
    ZF_DECODERS(ZF_CONSTANT)
#undef ZF_CONSTANT
    ZF_DECODER_COUNT
} zf_decoder;

typedef enum zf_stage {
#define ZF_CONSTANT(constant, name) ZF_STAGE_##constant,
    ZF_STAGES(ZF_CONSTANT)
#undef ZF_CONSTANT
    ZF_STAGE_COUNT
} zf_stage;
static_assert((int)ZF_STAGE_WRITE == ZF_STAGE_COUNT - 1, "writing is the last stage");

/* The names above. They are static: do not free them. */
const char *zf_decoder_name(zf_decoder decoder);
const char *zf_stage_name(zf_stage stage);

typedef struct zf_result {
    zf_status status;
    int sys_errno;      /* for ZF_READ and ZF_WRITE */
    int width, height;  /* of the source image in pixels, 0 when not known */
    int got_w, got_h;   /* for ZF_SIZE: the tensor's size if it were accepted */
    zf_decoder decoder; /* which decoder made the pixels */
    uint64_t ns[ZF_STAGE_COUNT]; /* time of each stage, nanoseconds of CLOCK_MONOTONIC */
    size_t nbytes_in;   /* bytes that were read: of the image file, or of pixels */
    /* of jobs only */
    uint64_t begin_ns;  /* when the job began, nanoseconds of CLOCK_MONOTONIC */
    int worker;         /* which of the pool's computing threads ran it, from 0 */
    /* of jobs with a file only */
    uint64_t write_begin_ns;
    int writer;         /* which of the pool's writing threads wrote it, from 0 */
} zf_result;

typedef struct zf_workspace zf_workspace;

/* This CPU must run the level. NULL when out of memory. */
zf_workspace *zf_workspace_open(zf_level level);
void zf_workspace_close(zf_workspace *ws);

/* A JPEG in memory -> out (zf_recipe_nbytes bytes, any alignment). */
zf_status zf_prepare_jpeg(zf_workspace *ws, const zf_recipe *recipe, const uint8_t *data,
                          size_t nbytes, void *out, zf_result *result);

/* Decoded pixels -> out, for images that Pillow had to decode. rgb has height
 * rows of width RGB triples; the rows begin row_stride >= 3 * width bytes apart. */
zf_status zf_prepare_rgb(zf_workspace *ws, const zf_recipe *recipe, const uint8_t *rgb,
                         int width, int height, size_t row_stride, void *out,
                         zf_result *result);

/* The orientation that cv2.imread finds in EXIF data, which begin with the byte order:
 * 1 to 8; 1 also for numbers without a meaning. 0: it finds none, perhaps because the
 * data are broken. */
int zf_exif_orientation(const uint8_t *data, size_t nbytes);

/* The size in pixels of a JPEG in memory. On failure, width and height are 0, or what the
 * header said before its anomaly. */
zf_status zf_jpeg_size(const uint8_t *data, size_t nbytes, int *width, int *height);

/* For tests: the pixels [x0, x1) x [y0, y1) of a JPEG in memory -> rgb, y1 - y0
 * rows of x1 - x0 RGB triples without gaps. */
zf_status zf_decode_jpeg_window(zf_workspace *ws, const uint8_t *data, size_t nbytes, int x0,
                                int y0, int x1, int y1, uint8_t *rgb, zf_result *result);

/* ---- 8-bit pixels ------------------------------------------------------ */

/* The pixels of an image are what the tensor is packed from: planes of R, G and B, each of
 * out_h rows of out_w bytes, without gaps. Recipes that differ in table, dtype, layout,
 * channel order or fill alone have the same pixels. ZF_CV_LINEAR_FLOAT32 has none. */

/* Where the image lies in its pixels. Around it they are 0. */
typedef struct zf_place {
    int x, y, w, h;
} zf_place;

/* Bytes of an image's pixels: 3 * out_h * out_w. */
size_t zf_pixels_nbytes(const zf_recipe *recipe);
/* Copies the pixels of the tensor that ws made last, of this recipe, to pixels,
 * zf_pixels_nbytes(recipe) bytes. ZF_UNSUPPORTED: it has none. */
zf_status zf_copy_pixels(const zf_workspace *ws, const zf_recipe *recipe, uint8_t *pixels,
                         zf_place *place);
/* A sum of bytes that tells whether they were damaged; checksum.c defines it. It protects from
 * no attacker. */
uint64_t zf_checksum(const uint8_t *data, size_t nbytes);

/* An image's pixels in a file. */
typedef struct zf_stored {
    int fd;
    uint64_t offset;
    uint64_t checksum;     /* of the pixels */
    zf_place place;
    uint64_t file_nbytes;  /* of the image file that they were made from, and its time of */
    int64_t file_mtime_ns; /* modification, nanoseconds since 1970; of jobs with a path */
    int64_t read_ns;       /* when the image file was read; nanoseconds since 1970 */
} zf_stored;

/* ---- files ------------------------------------------------------------- */

/* Writes a complete file to tmp_path, then renames it to path. tmp_path is always
 * a new file: one that exists is removed, and a link is not followed. Returns 0 or
 * an errno; on failure tmp_path is removed. Uses direct I/O if data is aligned to
 * 4096 bytes and the file system supports it. Direct I/O reads whole blocks of
 * 4096 bytes, so data must then be readable up to the end of its last block. */
int zf_write_file(const char *path, const char *tmp_path, const void *data, size_t nbytes);

/* Has the disk set blocks aside for nbytes bytes of a file from offset on, and makes the file
 * as long. Writing there takes less time then. A disk that cannot is no error. */
void zf_allocate(int fd, uint64_t offset, uint64_t nbytes);

/* ---- many images ------------------------------------------------------- */

typedef struct zf_job {
    /* input: nbytes bytes at data; if data is NULL, the file at path; if path is
     * NULL too, nbytes bytes of fd from offset on (a member of a tar file) */
    const uint8_t *data;
    const char *path;
    int fd;
    uint64_t offset;
    size_t nbytes;
    /* output */
    void *out;
    /* If file_path is set, file_nbytes bytes at file_data are written to that
     * file after out is filled; out lies within them. */
    const char *file_path;
    const char *file_tmp;
    const void *file_data;
    size_t file_nbytes;
    /* If has_pixels is set, the tensor is made of the pixels at `stored`, unless they are
     * damaged or the file at path has changed since. Otherwise, if stores_pixels is set, the
     * image's pixels are written there, and `stored` describes them. store_errno says why
     * they could not be written; the tensor is whole all the same. */
    bool has_pixels, stores_pixels;
    zf_stored stored;
    int store_errno;
    zf_result result;
    /* private to the pool */
    bool is_copied; /* the image's pixels are in batch->pixels */
    struct zf_batch *batch;
    struct zf_job *link;
} zf_job;

typedef struct zf_batch {
    const zf_recipe *recipe;
    zf_job *jobs;
    size_t njobs;
    /* a larger image file is not read: ZF_READ with EFBIG. 0: no limit */
    size_t max_file_nbytes;
    /* zf_pixels_nbytes(recipe) bytes for each job, if any job has stores_pixels */
    uint8_t *pixels;
    /* private to the pool from submission until the batch is done */
    size_t next, computed, finished;
    struct zf_batch *link;
} zf_batch;

typedef struct zf_pool zf_pool;

/* Starts ncomputing >= 1 threads that compute tensors, and nwriting >= 0
 * threads that write the files and pixels of jobs. A job with a file, or one that
 * stores its pixels, needs a writing thread. This CPU must run the level. NULL when
 * out of memory or threads. */
zf_pool *zf_pool_open(int ncomputing, int nwriting, zf_level level);
/* Queues a batch. Batch, jobs and buffers must exist until the batch is done.
 * Batches begin in the order in which they were submitted. */
void zf_pool_submit(zf_pool *pool, zf_batch *batch);
/* Waits up to timeout_ms milliseconds. Returns 1 when the batch is done, else 0. */
int zf_pool_wait(zf_pool *pool, zf_batch *batch, int timeout_ms);
/* Whether this process opened the pool. A child process made by fork() has none
 * of its threads, and may only close it. */
int zf_pool_is_here(const zf_pool *pool);
/* Finishes jobs that have not begun with ZF_CANCELLED, waits for running jobs,
 * ends the threads and frees the pool, which may be NULL. In a child process it
 * does nothing. */
void zf_pool_close(zf_pool *pool);

#ifdef ZF_EXPORT
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif
