/*
 * One image into one tensor: decode the window that the crop reads, give each row to
 * the resizer as it is decoded, then pack.
 */
#include "zf_file.h"
#include "zf_opencv.h"
#include "zf_orientation.h"
#include "zf_pack.h"
#include "zf_prepare.h"
#include "zf_resizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const stage_names[] = {
#define NAME(constant, name) [ZF_STAGE_##constant] = name,
    ZF_STAGES(NAME)
#undef NAME
};
_Static_assert(sizeof stage_names / sizeof *stage_names == ZF_STAGE_COUNT,
               "each stage has a name");

const char *zf_stage_name(zf_stage stage) { return stage_names[stage]; }

/* ---- workspace ------------------------------------------------------------ */

struct zf_workspace {
    const zf_kernels *kernels;
    zf_decoders *decoders;
    zf_buffer file;
    zf_resizer *resizer;
    zf_cv *opencv;
    uint64_t clock_ns; /* for zf_sampled_ns */
    /* of the tensor that was made last */
    zf_geometry geometry;
    zf_resized resized;
};

/* The nanoseconds that two readings of the clock are apart at least. */
static uint64_t clock_cost(void)
{
    uint64_t min = UINT64_MAX;
    for (int i = 0; i < 16; i++) {
        uint64_t begin = zf_now(), ns = zf_now() - begin;
        min = ns < min ? ns : min;
    }
    return min;
}

zf_workspace *zf_workspace_open(zf_level level)
{
    zf_workspace *ws = calloc(1, sizeof *ws);
    if (!ws)
        return NULL;
    ws->kernels = zf_kernels_of[level];
    ws->clock_ns = clock_cost();
    ws->decoders = zf_decoders_open(level);
    ws->resizer = zf_resizer_open(ws->kernels);
    ws->opencv = zf_cv_open(ws->kernels);
    if (ws->decoders && ws->resizer && ws->opencv)
        return ws;
    zf_workspace_close(ws);
    return NULL;
}

void zf_workspace_close(zf_workspace *ws)
{
    if (!ws)
        return;
    zf_decoders_close(ws->decoders);
    zf_cv_close(ws->opencv);
    zf_resizer_close(ws->resizer);
    free(ws->file.data);
    free(ws);
}

size_t zf_recipe_nbytes(const zf_recipe *recipe)
{
    return (size_t)3 * (size_t)recipe->out_h * (size_t)recipe->out_w *
           (size_t)recipe->elem_size;
}

/* ---- one image --------------------------------------------------------------- */

/* Receives the rows of the window: Pillow's resizer or OpenCV's. */
typedef struct {
    zf_window window;
    zf_row_fn row;
    void *ctx;
    const zf_sampled *time; /* spent in row */
} receiver;

/* A source of pixels: delivers the rows of a window to the resizer. */
typedef zf_status (*decode_fn)(zf_workspace *ws, const void *image, const receiver *to,
                               zf_result *result);

/* Moves the estimated time of a sampled part out of *ns, and returns it. */
static uint64_t move_part(uint64_t *ns, const zf_sampled *part, const zf_workspace *ws)
{
    uint64_t estimate = zf_sampled_ns(part, ws->clock_ns);
    uint64_t moved = estimate < *ns ? estimate : *ns;
    *ns -= moved;
    return moved;
}

/* Decodes and resizes, and divides the time between the stages. */
static zf_status decode_and_resize(zf_workspace *ws, decode_fn decode, const void *image,
                                   const receiver *to, zf_result *result)
{
    uint64_t begin = zf_now();
    zf_status status = decode(ws, image, to, result);
    uint64_t spent = zf_now() - begin;
    result->ns[ZF_STAGE_RESIZE] += move_part(&spent, to->time, ws);
    const zf_pixel_times *times = zf_decoders_times(ws->decoders, result->decoder);
    if (times) {
        result->ns[ZF_STAGE_IDCT] += move_part(&spent, &times->idct, ws);
        result->ns[ZF_STAGE_COLOUR] += move_part(&spent, &times->colour, ws);
    }
    result->ns[ZF_STAGE_ENTROPY] += spent; /* also of a file that is left to Pillow */
    return status;
}

/* Prepares Pillow's resizer or OpenCV's. Says where it makes the pixels, and where it wants
 * the rows. */
static zf_status begin_resize(zf_workspace *ws, const zf_recipe *r, const zf_geometry *g,
                              int channels, zf_resized *image, receiver *to)
{
    zf_status status;
    if (r->filter < ZF_CV_NEAREST) {
        zf_resizer *z = ws->resizer;
        status = zf_resizer_begin(z, r, g, channels);
        if (status != ZF_OK)
            return status;
        *image = (zf_resized){
            {zf_resizer_plane(z, 0), zf_resizer_plane(z, 1), zf_resizer_plane(z, 2)}, channels, 1};
        *to = (receiver){zf_resizer_window(z), zf_resizer_on_row, z, zf_resizer_time(z)};
        return ZF_OK;
    }
    zf_cv *cv = ws->opencv;
    status = zf_cv_begin(cv, r, g, channels);
    if (status != ZF_OK)
        return status;
    *image = (zf_resized){{zf_cv_plane(cv, 0), zf_cv_plane(cv, 1), zf_cv_plane(cv, 2)},
                          zf_cv_channels(cv),
                          r->filter == ZF_CV_LINEAR_FLOAT32 ? sizeof(float) : 1};
    *to = (receiver){zf_cv_window(cv), zf_cv_on_row, cv, zf_cv_time(cv)};
    return ZF_OK;
}

static zf_status prepare(zf_workspace *ws, const zf_recipe *r, int width, int height,
                         int channels, decode_fn decode, const void *image, void *out,
                         zf_result *result)
{
    zf_geometry *g = &ws->geometry;
    receiver to;
    uint64_t begin = zf_now();

    result->width = width;
    result->height = height;
    zf_status status = zf_geometry_make(g, r, width, height, result);
    if (status == ZF_OK)
        status = begin_resize(ws, r, g, channels, &ws->resized, &to);
    if (status != ZF_OK)
        return status;
    result->ns[ZF_STAGE_RESIZE] += zf_now() - begin;

    status = decode_and_resize(ws, decode, image, &to, result);
    if (status != ZF_OK)
        return status;

    begin = zf_now();
    zf_pack(ws->kernels, r, g, &ws->resized, out);
    result->ns[ZF_STAGE_PACK] += zf_now() - begin;
    return ZF_OK;
}

/* A JPEG, and the orientation that it is turned by. */
typedef struct {
    zf_jpeg jpeg;
    int orientation;
} jpeg_image;

static zf_status decode_jpeg(zf_workspace *ws, const void *image, const receiver *to,
                             zf_result *result)
{
    const jpeg_image *from = image;
    if (from->orientation != 1)
        return zf_decode_turned(ws->decoders, &from->jpeg, from->orientation, to->window,
                                to->row, to->ctx, &result->decoder);
    return zf_decode_window(ws->decoders, &from->jpeg, to->window, to->row, to->ctx,
                            &result->decoder);
}

zf_status zf_prepare_jpeg(zf_workspace *ws, const zf_recipe *recipe, const uint8_t *data,
                          size_t nbytes, void *out, zf_result *result)
{
    jpeg_image image = {.orientation = 1};
    const zf_jpeg *jpeg = &image.jpeg;
    memset(result, 0, sizeof *result);
    result->nbytes_in = nbytes;
    result->status = zf_jpeg_parse(data, nbytes, &image.jpeg);
    if (result->status != ZF_OK)
        return result->status;
    if (!recipe->is_turned && jpeg->exif_is_unusual)
        return result->status = ZF_UNSUPPORTED;
    if (recipe->is_turned && jpeg->orientation != 0)
        image.orientation = jpeg->orientation;
    bool transposed = zf_is_transposed(image.orientation);
    result->status = prepare(ws, recipe, transposed ? jpeg->height : jpeg->width,
                             transposed ? jpeg->width : jpeg->height, jpeg->ncomp, decode_jpeg,
                             &image, out, result);
    return result->status;
}

typedef struct {
    const uint8_t *rgb;
    size_t stride;
} pixels;

static zf_status read_pixels(zf_workspace *ws, const void *image, const receiver *to,
                             zf_result *result)
{
    const pixels *from = image;
    zf_window w = to->window;
    size_t n = (size_t)(w.x1 - w.x0), plane = n + ZF_PAD;
    /* Each row is copied, because kernels read past a row's end, where the
     * caller's last row has nothing. */
    uint8_t *copy = calloc(1, 3 * n + ZF_PAD + 64 + 3 * plane);
    (void)ws;
    (void)result;
    if (!copy)
        return ZF_NOMEM;
    uint8_t *base = copy + 3 * n + ZF_PAD + 64;
    uint8_t *planes[3] = {base, base + plane, base + 2 * plane};
    for (int y = w.y0; y < w.y1; y++) {
        memcpy(copy, from->rgb + (size_t)y * from->stride + 3 * (size_t)w.x0, 3 * n);
        ws->kernels->deinterleave(planes, copy, n);
        to->row(to->ctx, y, (const uint8_t *const *)planes);
    }
    free(copy);
    return ZF_OK;
}

zf_status zf_prepare_rgb(zf_workspace *ws, const zf_recipe *recipe, const uint8_t *rgb,
                         int width, int height, size_t row_stride, void *out,
                         zf_result *result)
{
    pixels image = {rgb, row_stride};
    memset(result, 0, sizeof *result);
    result->status =
        prepare(ws, recipe, width, height, 3, read_pixels, &image, out, result);
    return result->status;
}

/* ---- 8-bit pixels ------------------------------------------------------------------ */

size_t zf_pixels_nbytes(const zf_recipe *recipe)
{
    return (size_t)3 * (size_t)recipe->out_h * (size_t)recipe->out_w;
}

zf_status zf_copy_pixels(const zf_workspace *ws, const zf_recipe *recipe, uint8_t *pixels,
                         zf_place *place)
{
    const zf_geometry *g = &ws->geometry;
    size_t plane = zf_pixels_nbytes(recipe) / 3;
    if (ws->resized.elem_size != 1)
        return ZF_UNSUPPORTED;
    for (int c = 0; c < 3; c++)
        memcpy(pixels + (size_t)c * plane, ws->resized.planes[c], plane);
    *place = (zf_place){g->x0, g->y0, g->part.w, g->part.h};
    return ZF_OK;
}

/* Whether [from, from + n) is not empty and within [0, end). */
static bool is_within(int from, int n, int end)
{
    return from >= 0 && n > 0 && n <= end && from <= end - n;
}

/* Whether pixels can be of this recipe. */
static bool has_such_pixels(const zf_recipe *recipe, const zf_place *place)
{
    return recipe->filter != ZF_CV_LINEAR_FLOAT32 &&
           is_within(place->x, place->w, recipe->out_w) &&
           is_within(place->y, place->h, recipe->out_h);
}

/* Pixels, with ZF_PAD more readable bytes behind them -> out. */
static void pack_pixels(const zf_workspace *ws, const zf_recipe *recipe, uint8_t *pixels,
                        const zf_place *place, void *out)
{
    zf_geometry geometry = {.part = {.w = place->w, .h = place->h}, .x0 = place->x, .y0 = place->y};
    size_t plane = zf_pixels_nbytes(recipe) / 3;
    void *planes[3] = {pixels, pixels + plane, pixels + 2 * plane};
    zf_pack_bytes(ws->kernels, recipe, &geometry, planes, out);
}

/* ---- pixels, for tests -------------------------------------------------------- */

typedef struct {
    uint8_t *rgb;
    const zf_kernels *kernels;
    size_t width;
    int top;
    bool gray;
} picture;

static zf_status interleave_row(void *ctx, int y, const uint8_t *const planes[3])
{
    picture *p = ctx;
    const uint8_t *gray[3] = {planes[0], planes[0], planes[0]};
    p->kernels->interleave(p->rgb + (size_t)(y - p->top) * 3 * p->width,
                           p->gray ? gray : planes, p->width);
    return ZF_OK;
}

zf_status zf_decode_jpeg_window(zf_workspace *ws, const uint8_t *data, size_t nbytes, int x0,
                                int y0, int x1, int y1, uint8_t *rgb, zf_result *result)
{
    zf_jpeg jpeg;
    memset(result, 0, sizeof *result);
    result->status = zf_jpeg_parse(data, nbytes, &jpeg);
    if (result->status != ZF_OK)
        return result->status;
    if (x0 < 0 || y0 < 0 || x0 >= x1 || y0 >= y1 || x1 > jpeg.width || y1 > jpeg.height)
        return result->status = ZF_SIZE;
    picture p = {rgb, ws->kernels, (size_t)(x1 - x0), y0, jpeg.ncomp == 1};
    result->status = zf_decode_window(ws->decoders, &jpeg, (zf_window){x0, y0, x1, y1},
                                      interleave_row, &p, &result->decoder);
    return result->status;
}

/* ---- one job -------------------------------------------------------------------- */

/* Sets *data and *nbytes to the job's input, which is read if it is not in memory. Returns 0
 * or an errno. *stamp is set of a file. */
static int read_input(zf_workspace *ws, size_t max_nbytes, const zf_job *job,
                      const uint8_t **data, size_t *nbytes, zf_stamp *stamp)
{
    if (job->data) {
        *data = job->data;
        *nbytes = job->nbytes;
        return max_nbytes && job->nbytes > max_nbytes ? EFBIG : 0;
    }
    int error = job->path ? zf_read_file(job->path, max_nbytes, &ws->file, stamp)
                          : zf_read_range(job->fd, job->offset, job->nbytes, max_nbytes, &ws->file);
    *data = ws->file.data;
    *nbytes = ws->file.nbytes;
    return error;
}

/* Makes the tensor of the pixels of an earlier run. False where they cannot be used. */
static bool use_pixels(zf_workspace *ws, const zf_batch *batch, zf_job *job)
{
    const zf_recipe *recipe = batch->recipe;
    const zf_stored *stored = &job->stored;
    size_t nbytes = zf_pixels_nbytes(recipe);
    zf_stamp stamp = {.nbytes = job->nbytes};
    zf_result *result = &job->result;
    uint64_t begin = zf_now();

    if (!has_such_pixels(recipe, &stored->place))
        return false;
    if (job->path && (zf_file_stamp(job->path, &stamp) != 0 ||
                      stamp.nbytes != stored->file_nbytes ||
                      stamp.mtime_ns != stored->file_mtime_ns))
        return false;
    if (batch->max_file_nbytes && stamp.nbytes > batch->max_file_nbytes)
        return false;
    /* Not a mapping of the file: another process may write to these pixels, or cut the file
     * off, between the sum and the packing. */
    if (zf_read_range(stored->fd, stored->offset, nbytes, 0, &ws->file) != 0 ||
        ws->file.nbytes != nbytes || zf_checksum(ws->file.data, nbytes) != stored->checksum)
        return false;
    uint64_t packing = zf_now();
    pack_pixels(ws, recipe, ws->file.data, &stored->place, job->out);
    memset(result, 0, sizeof *result);
    result->decoder = ZF_DECODER_CACHE;
    result->nbytes_in = nbytes;
    result->begin_ns = begin;
    result->ns[ZF_STAGE_READ] = packing - begin;
    result->ns[ZF_STAGE_PACK] = zf_now() - packing;
    return true;
}

/* Nanoseconds since 1970, which a file's time of modification is compared with. */
static int64_t wall_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Where the pixels of a job are that are to be stored. */
static uint8_t *pixels_of(const zf_batch *batch, const zf_job *job)
{
    return batch->pixels + (size_t)(job - batch->jobs) * zf_pixels_nbytes(batch->recipe);
}

/* Copies the pixels of the tensor, for a writing thread to store. */
static void copy_for_storing(const zf_workspace *ws, const zf_batch *batch, zf_job *job,
                             const zf_stamp *stamp)
{
    job->store_errno = 0;
    job->stored.file_nbytes = stamp->nbytes;
    job->stored.file_mtime_ns = stamp->mtime_ns;
    if (job->result.status != ZF_OK)
        return; /* the caller may store the pixels that Pillow decodes */
    uint8_t *pixels = pixels_of(batch, job);
    if (zf_copy_pixels(ws, batch->recipe, pixels, &job->stored.place) == ZF_OK)
        job->is_copied = true;
    else
        job->store_errno = ENOTSUP;
}

void zf_compute_job(zf_workspace *ws, const zf_batch *batch, zf_job *job)
{
    zf_result *result = &job->result;
    zf_stamp stamp = {.nbytes = job->nbytes};
    const uint8_t *data;
    size_t nbytes;
    job->is_copied = false;
    if (job->has_pixels && use_pixels(ws, batch, job))
        return;
    if (job->stores_pixels)
        job->stored.read_ns = wall_clock();
    uint64_t begin = zf_now();
    int error = read_input(ws, batch->max_file_nbytes, job, &data, &nbytes, &stamp);
    uint64_t reading = zf_now() - begin;

    if (error) {
        memset(result, 0, sizeof *result);
        result->status = error == ENOMEM ? ZF_NOMEM : ZF_READ;
        result->sys_errno = error;
    } else {
        zf_prepare_jpeg(ws, batch->recipe, data, nbytes, job->out, result);
        result->ns[ZF_STAGE_READ] = reading;
    }
    result->begin_ns = begin;
    if (job->stores_pixels)
        copy_for_storing(ws, batch, job, &stamp);
}

static bool must_write_file(const zf_job *job)
{
    return job->file_path && job->result.status == ZF_OK;
}

bool zf_must_write(const zf_job *job) { return job->is_copied || must_write_file(job); }

/* Writes the pixels of a job to their file. */
static void store_pixels(const zf_batch *batch, zf_job *job)
{
    zf_stored *stored = &job->stored;
    const uint8_t *pixels = pixels_of(batch, job);
    size_t nbytes = zf_pixels_nbytes(batch->recipe);
    stored->checksum = zf_checksum(pixels, nbytes);
    job->store_errno = zf_write_range(stored->fd, stored->offset, pixels, nbytes);
}

void zf_write_job(zf_job *job)
{
    zf_result *result = &job->result;
    uint64_t begin = zf_now();
    if (job->is_copied)
        store_pixels(job->batch, job);
    if (must_write_file(job)) {
        result->sys_errno =
            zf_write_file(job->file_path, job->file_tmp, job->file_data, job->file_nbytes);
        if (result->sys_errno)
            result->status = ZF_WRITE;
    }
    result->write_begin_ns = begin;
    result->ns[ZF_STAGE_WRITE] = zf_now() - begin;
}
