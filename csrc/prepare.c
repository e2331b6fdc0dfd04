/*
 * One image into one tensor: decode the window that the crop reads, resample
 * horizontally row by row as rows arrive, vertically as soon as an output row
 * has all its taps, then look up and pack.
 */
#include "zf_file.h"
#include "zf_prepare.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct zf_workspace {
    const zf_kernels *kernels;
    zf_decoders *decoders;
    zf_buffer file;
    zf_taps across, down;
    uint8_t *scratch;
    size_t capacity;
    uint64_t clock_ns; /* for zf_sampled_ns */
};

static uint64_t clock_cost(void)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < 16; i++) {
        uint64_t begin = zf_now(), ns = zf_now() - begin;
        least = ns < least ? ns : least;
    }
    return least;
}

zf_workspace *zf_workspace_open(const zf_kernels *kernels)
{
    zf_workspace *ws = calloc(1, sizeof *ws);
    if (!ws)
        return NULL;
    ws->kernels = kernels;
    ws->clock_ns = clock_cost();
    ws->decoders = zf_decoders_open(kernels);
    if (!ws->decoders) {
        free(ws);
        return NULL;
    }
    return ws;
}

void zf_workspace_close(zf_workspace *ws)
{
    if (!ws)
        return;
    zf_decoders_close(ws->decoders);
    zf_taps_free(&ws->across);
    zf_taps_free(&ws->down);
    free(ws->file.data);
    free(ws->scratch);
    free(ws);
}

size_t zf_recipe_nbytes(const zf_recipe *recipe)
{
    return (size_t)3 * (size_t)recipe->out_h * (size_t)recipe->out_w *
           (size_t)recipe->elem_size;
}

/* ---- geometry ------------------------------------------------------------- */

/* (side - crop) / 2, rounded as Python's int(round(x)) or int(x) does. */
static int crop_origin(int side, int crop, zf_rounding rounding)
{
    int d = side - crop, half = d / 2; /* C truncates, like int() */
    if (rounding == ZF_TRUNCATE || d % 2 == 0)
        return half;
    return half % 2 == 0 ? half : half + (d < 0 ? -1 : 1);
}

typedef struct {
    int resized_w, resized_h;
    int left, top;             /* of the output in the resized image */
    int x0, y0, x1, y1;        /* the part of the output that lies within it */
    bool down_first;           /* the vertical pass comes before the horizontal */
} geometry;

static bool is_down_first(zf_order order, int w, int h, int resized_w, int resized_h)
{
    if (resized_h >= h || order == ZF_ORDER_ACROSS)
        return false;
    if (order == ZF_ORDER_TALL)
        return h > 100 * w;
    return h - resized_h > 2 * (w - resized_w);
}

static zf_status plan_geometry(const zf_recipe *r, int w, int h, geometry *g,
                               zf_result *result)
{
    g->resized_w = w;
    g->resized_h = h;
    if (r->resize == ZF_RESIZE_EXACT) {
        g->resized_w = r->resize_w;
        g->resized_h = r->resize_h;
    } else if (r->resize == ZF_RESIZE_SHORT) {
        /* int(size * long / short), the long side truncated */
        int size = r->resize_w, shorter = zf_min(w, h);
        double longer = (double)size * zf_max(w, h) / shorter;
        if (longer > 1 << 30)
            return ZF_UNSUPPORTED;
        g->resized_w = w <= h ? size : (int)longer;
        g->resized_h = w <= h ? (int)longer : size;
        if (w == h)
            g->resized_h = size;
    }
    g->down_first = is_down_first(r->order, w, h, g->resized_w, g->resized_h);
    g->left = g->top = 0;
    result->got_w = g->resized_w;
    result->got_h = g->resized_h;
    if (r->crop_w > 0) {
        g->left = crop_origin(g->resized_w, r->crop_w, r->crop_rounding);
        g->top = crop_origin(g->resized_h, r->crop_h, r->crop_rounding);
        result->got_w = r->crop_w;
        result->got_h = r->crop_h;
    }
    if (result->got_w != r->out_w || result->got_h != r->out_h)
        return ZF_SIZE;
    /* A crop larger than the image is filled with black, as Pillow does. */
    g->x0 = zf_max(-g->left, 0);
    g->y0 = zf_max(-g->top, 0);
    g->x1 = zf_min(g->resized_w - g->left, r->out_w);
    g->y1 = zf_min(g->resized_h - g->top, r->out_h);
    return g->x0 < g->x1 && g->y0 < g->y1 ? ZF_OK : ZF_UNSUPPORTED;
}

/* ---- the resizer, fed row by row ------------------------------------------ */

typedef struct {
    zf_workspace *ws;
    const zf_taps *across, *down;
    int channels;              /* 1 or 3 */
    bool down_first;
    size_t width;              /* pixels in a row of the ring */
    size_t stride;             /* of all rows below */
    int ring;                  /* rows kept per channel, a power of two */
    uint8_t *rows[3];          /* the newest rows, resampled across unless
                                  down_first, twice: row y stands at y % ring
                                  and that + ring, so that a run of rows is
                                  never broken */
    uint8_t *down_row;         /* with down_first: one row, resampled down */
    uint8_t *resized[3];       /* the result, out_stride apart */
    size_t out_stride;         /* out_w: dense, so that packing is one run */
    int offset;                /* first pixel of the image in a result row */
    int next;                  /* next row of down to make */
    int bottom;                /* source row that has been seen, from 0 */
    zf_sampled time;           /* spent on rows */
} resizer;

static zf_status on_row(void *ctx, int y, const uint8_t *const planes[3])
{
    resizer *z = ctx;
    const zf_kernels *kernels = z->ws->kernels;
    int at = y - z->down->first;
    size_t slot = (size_t)(at & (z->ring - 1)) * z->stride;

    zf_piece_begins(&z->time);
    if (at == 0)
        z->next = 0; /* also when a second decoder begins anew */
    for (int c = 0; c < z->channels; c++) {
        uint8_t *row = z->rows[c] + slot;
        if (z->down_first)
            memcpy(row, planes[c], z->width);
        else
            kernels->resample_h(row, planes[c], z->across);
        memcpy(row + (size_t)z->ring * z->stride, row, z->width);
    }
    while (z->next < z->down->n && z->down->start[z->next] + z->down->ksize <= at + 1) {
        size_t from = (size_t)(z->down->start[z->next] & (z->ring - 1)) * z->stride;
        const int32_t *k = z->down->k + (size_t)z->next * (size_t)z->down->ksize;
        for (int c = 0; c < z->channels; c++) {
            uint8_t *out = z->resized[c] + (size_t)z->next * z->out_stride + z->offset;
            uint8_t *down = z->down_first ? z->down_row : out;
            if (z->down->identity)
                memcpy(down, z->rows[c] + from, z->width);
            else
                kernels->resample_v(down, z->rows[c] + from, z->stride, k, z->down->ksize,
                                    z->down->wide, z->width);
            if (z->down_first)
                kernels->resample_h(out, down, z->across);
        }
        z->next++;
    }
    zf_piece_ends(&z->time);
    return ZF_OK;
}

/* ---- packing ---------------------------------------------------------------- */

static bool is_identity(const uint8_t *table)
{
    for (int i = 0; i < 3 * 256; i++)
        if (table[i] != i % 256)
            return false;
    return true;
}

static void lookup(void *out, size_t step, const uint8_t *pixels, const void *table,
                   int elem_size, size_t n)
{
    if (elem_size == 1)
        for (size_t i = 0; i < n; i++)
            ((uint8_t *)out)[i * step] = ((const uint8_t *)table)[pixels[i]];
    else if (elem_size == 2)
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)out)[i * step] = ((const uint16_t *)table)[pixels[i]];
    else
        for (size_t i = 0; i < n; i++)
            ((uint32_t *)out)[i * step] = ((const uint32_t *)table)[pixels[i]];
}

static void pack(const zf_workspace *ws, const zf_recipe *r, const uint8_t *const planes[3],
                 void *out)
{
    size_t n = (size_t)r->out_w * (size_t)r->out_h, size = (size_t)r->elem_size;
    bool bytes = size == 1 && is_identity(r->table);

    if (bytes && r->layout == ZF_NHWC) {
        const uint8_t *ordered[3];
        for (int c = 0; c < 3; c++)
            ordered[r->channel_at[c]] = planes[c];
        ws->kernels->interleave(out, ordered, n);
        return;
    }
    for (int c = 0; c < 3; c++) {
        const char *table = (const char *)r->table + (size_t)c * 256 * size;
        char *at = out;
        if (r->layout == ZF_NHWC)
            lookup(at + (size_t)r->channel_at[c] * size, 3, planes[c], table, r->elem_size, n);
        else {
            at += (size_t)r->channel_at[c] * n * size;
            if (bytes)
                memcpy(at, planes[c], n);
            else if (size == 4)
                ws->kernels->lookup32((uint32_t *)at, planes[c], (const uint32_t *)table, n);
            else
                lookup(at, 1, planes[c], table, r->elem_size, n);
        }
    }
}

/* ---- one image --------------------------------------------------------------- */

static int power_of_two(int n)
{
    int p = 1;
    while (p < n)
        p *= 2;
    return p;
}

/* Where an image's pixels come from: delivers a window's rows. */
typedef zf_status (*decode_fn)(zf_workspace *ws, const void *image, zf_window window,
                               resizer *z, zf_result *result);

/* Takes the sampled part, an estimate, out of a measured time. */
static uint64_t part_of(uint64_t *ns, const zf_sampled *part, const zf_workspace *ws)
{
    uint64_t estimate = zf_sampled_ns(part, ws->clock_ns);
    uint64_t taken = estimate < *ns ? estimate : *ns;
    *ns -= taken;
    return taken;
}

static zf_status prepare(zf_workspace *ws, const zf_recipe *r, int width, int height,
                         int channels, decode_fn decode, const void *image, void *out,
                         zf_result *result)
{
    geometry g;
    uint64_t begin = zf_now();
    result->width = width;
    result->height = height;
    zf_status status = plan_geometry(r, width, height, &g, result);
    if (status != ZF_OK)
        return status;
    status = zf_taps_make(&ws->across, ws->kernels, width, g.resized_w, g.left + g.x0,
                          g.x1 - g.x0, r->filter);
    if (status == ZF_OK)
        status = zf_taps_make(&ws->down, &zf_kernels_scalar, height, g.resized_h,
                              g.top + g.y0, g.y1 - g.y0, r->filter);
    if (status != ZF_OK)
        return status;

    resizer z = {.ws = ws, .across = &ws->across, .down = &ws->down, .channels = channels};
    size_t pixels = (size_t)r->out_w * (size_t)r->out_h;
    z.down_first = g.down_first;
    z.width = (size_t)(z.down_first ? z.across->last - z.across->first : z.across->n);
    z.stride = (z.width + ZF_PAD + 63) & ~(size_t)63;
    z.ring = power_of_two(z.down->ksize);
    z.out_stride = (size_t)r->out_w;
    z.offset = g.x0;
    size_t rows = 2 * (size_t)z.ring * z.stride, plane = (pixels + ZF_PAD + 63) & ~(size_t)63;
    size_t need = (size_t)channels * (rows + plane) + z.stride;
    if (need > ws->capacity) {
        free(ws->scratch);
        ws->scratch = aligned_alloc(64, need);
        ws->capacity = ws->scratch ? need : 0;
        if (!ws->scratch)
            return ZF_NOMEM;
    }
    const uint8_t *planes[3];
    for (int c = 0; c < 3; c++) {
        int from = c < channels ? c : 0; /* gray: one plane thrice */
        z.rows[c] = ws->scratch + (size_t)from * rows;
        uint8_t *base = ws->scratch + (size_t)channels * rows + (size_t)from * plane;
        planes[c] = base;
        z.resized[c] = base + (size_t)g.y0 * z.out_stride;
    }
    z.down_row = ws->scratch + (size_t)channels * (rows + plane);
    result->ns[ZF_STAGE_RESIZE] += zf_now() - begin;

    zf_window window = {z.across->first, z.down->first, z.across->last, z.down->last};
    begin = zf_now();
    status = decode(ws, image, window, &z, result);
    uint64_t spent = zf_now() - begin;
    result->ns[ZF_STAGE_RESIZE] += part_of(&spent, &z.time, ws);
    if (result->decoder == ZF_DECODER_BASELINE) {
        const zf_pixel_times *times = zf_decoders_times(ws->decoders);
        result->ns[ZF_STAGE_IDCT] += part_of(&spent, &times->idct, ws);
        result->ns[ZF_STAGE_COLOUR] += part_of(&spent, &times->colour, ws);
        result->ns[ZF_STAGE_ENTROPY] += spent;
    } else {
        result->ns[ZF_STAGE_DECODE] += spent;
    }
    if (status != ZF_OK)
        return status;

    begin = zf_now();
    bool whole = g.x1 - g.x0 == r->out_w && g.y1 - g.y0 == r->out_h;
    for (int c = 0; c < channels && !whole; c++) {
        uint8_t *base = ws->scratch + (size_t)channels * rows + (size_t)c * plane;
        for (int y = 0; y < r->out_h; y++) {
            bool inside = y >= g.y0 && y < g.y1;
            uint8_t *row = base + (size_t)y * z.out_stride;
            memset(row, 0, (size_t)(inside ? g.x0 : r->out_w));
            if (inside)
                memset(row + g.x1, 0, (size_t)(r->out_w - g.x1));
        }
    }
    pack(ws, r, planes, out);
    result->ns[ZF_STAGE_PACK] += zf_now() - begin;
    return ZF_OK;
}

static zf_status decode_jpeg(zf_workspace *ws, const void *image, zf_window window,
                             resizer *z, zf_result *result)
{
    return zf_decode_window(ws->decoders, image, window, ZF_DECODER_NONE, on_row, z,
                            &result->decoder);
}

zf_status zf_prepare_jpeg(zf_workspace *ws, const zf_recipe *recipe, const uint8_t *data,
                          size_t nbytes, void *out, zf_result *result)
{
    zf_jpeg jpeg;
    memset(result, 0, sizeof *result);
    result->nbytes_in = nbytes;
    result->status = zf_jpeg_parse(data, nbytes, &jpeg);
    if (result->status == ZF_OK)
        result->status = prepare(ws, recipe, jpeg.width, jpeg.height, jpeg.ncomp, decode_jpeg,
                                 &jpeg, out, result);
    return result->status;
}

typedef struct {
    const uint8_t *rgb;
    size_t stride;
} pixels;

static zf_status read_pixels(zf_workspace *ws, const void *image, zf_window w, resizer *z,
                             zf_result *result)
{
    const pixels *from = image;
    size_t n = (size_t)(w.x1 - w.x0), plane = n + ZF_PAD;
    /* The kernels read past a row's end, and the caller's last row has
     * nothing there, so each row is copied first. */
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
        on_row(z, y, (const uint8_t *const *)planes);
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

/* ---- whole pictures, for tests and benchmarks ------------------------------- */

typedef struct {
    uint8_t *rgb;
    const zf_kernels *kernels;
    size_t width;
    int top;
    bool gray;
} picture;

static zf_status store_row(void *ctx, int y, const uint8_t *const planes[3])
{
    picture *p = ctx;
    const uint8_t *gray[3] = {planes[0], planes[0], planes[0]};
    p->kernels->interleave(p->rgb + (size_t)(y - p->top) * 3 * p->width,
                           p->gray ? gray : planes, p->width);
    return ZF_OK;
}

zf_status zf_decode_jpeg_window(zf_workspace *ws, const uint8_t *data, size_t nbytes, int x0,
                                int y0, int x1, int y1, zf_decoder only, uint8_t *rgb,
                                zf_result *result)
{
    zf_jpeg jpeg;
    memset(result, 0, sizeof *result);
    result->status = zf_jpeg_parse(data, nbytes, &jpeg);
    if (result->status != ZF_OK)
        return result->status;
    if (x0 < 0 || y0 < 0 || x0 >= x1 || y0 >= y1 || x1 > jpeg.width || y1 > jpeg.height)
        return result->status = ZF_SIZE;
    picture p = {rgb, ws->kernels, (size_t)(x1 - x0), y0, jpeg.ncomp == 1};
    result->status = zf_decode_window(ws->decoders, &jpeg, (zf_window){x0, y0, x1, y1}, only,
                                      store_row, &p, &result->decoder);
    return result->status;
}

zf_status zf_decode_jpeg(zf_workspace *ws, const uint8_t *data, size_t nbytes, uint8_t *rgb,
                         zf_result *result)
{
    int width, height;
    memset(result, 0, sizeof *result);
    result->status = zf_jpeg_size(data, nbytes, &width, &height);
    if (result->status != ZF_OK)
        return result->status;
    return zf_decode_jpeg_window(ws, data, nbytes, 0, 0, width, height, ZF_DECODER_NONE, rgb,
                                 result);
}

/* ---- one job -------------------------------------------------------------------- */

void zf_compute_job(zf_workspace *ws, const zf_recipe *recipe, zf_job *job)
{
    zf_result *result = &job->result;
    const uint8_t *data = job->data;
    size_t nbytes = job->nbytes;
    uint64_t begin = zf_now(), reading = 0;

    if (!data) {
        int error = job->path ? zf_read_file(job->path, &ws->file)
                              : zf_read_range(job->fd, job->offset, job->nbytes, &ws->file);
        if (error) {
            memset(result, 0, sizeof *result);
            result->begin_ns = begin;
            result->status = error == ENOMEM ? ZF_NOMEM : ZF_READ;
            result->sys_errno = error;
            return;
        }
        data = ws->file.data;
        nbytes = ws->file.nbytes;
        reading = zf_now() - begin;
    }
    zf_prepare_jpeg(ws, recipe, data, nbytes, job->out, result);
    result->begin_ns = begin;
    result->ns[ZF_STAGE_READ] = reading;
}

void zf_write_job(zf_job *job)
{
    zf_result *result = &job->result;
    uint64_t begin = zf_now();
    result->sys_errno =
        zf_write_file(job->file_path, job->file_tmp, job->file_data, job->file_nbytes);
    result->write_begin_ns = begin;
    result->ns[ZF_STAGE_WRITE] = zf_now() - begin;
    if (result->sys_errno)
        result->status = ZF_WRITE;
}
