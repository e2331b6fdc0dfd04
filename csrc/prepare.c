/*
 * One image into one tensor: decode the window that the crop reads, resample
 * each row horizontally as it arrives, resample vertically as soon as an output
 * row has all its taps, then normalize by table and pack.
 */
#include "zf_file.h"
#include "zf_opencv.h"
#include "zf_orientation.h"
#include "zf_prepare.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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
    zf_taps horizontal, vertical;
    zf_cv *opencv;
    uint8_t *scratch;
    size_t capacity;   /* of scratch, in bytes */
    uint64_t clock_ns; /* for zf_sampled_ns */
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
    ws->opencv = zf_cv_open(ws->kernels);
    if (ws->decoders && ws->opencv)
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
    zf_taps_free(&ws->horizontal);
    zf_taps_free(&ws->vertical);
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

/* (side - crop) / 2 in pixels, rounded as the recipe says. */
static int crop_origin(int side, int crop, zf_crop_rounding rounding)
{
    int difference = side - crop, half = difference / 2; /* C truncates, like int() */
    if (rounding == ZF_CROP_TRUNCATE || difference % 2 == 0)
        return half;
    if (rounding == ZF_CROP_DOWN)
        return difference < 0 ? half - 1 : half;
    if (difference < 0 && rounding != ZF_CROP_HALF_EVEN)
        return half; /* ceil() of a negative number, or torchvision's padding */
    if (rounding == ZF_CROP_UP)
        return half + 1;
    return half % 2 == 0 ? half : half + (difference < 0 ? -1 : 1);
}

/* Where the tensor's pixels come from. All in pixels. */
typedef struct {
    int resized_w, resized_h;
    int left, top;       /* of the tensor in the resized image; can be negative */
    int x0, y0, x1, y1;  /* the part of the tensor that lies within that image */
    bool vertical_first; /* the vertical pass comes before the horizontal pass */
    double scale;        /* of ZF_SIDE_FACTOR, old / new; else 0 */
} geometry;

/* Whether Pillow makes the vertical pass first: see zf_pass_order. */
static bool is_vertical_first(zf_pass_order order, int w, int h, int resized_w, int resized_h)
{
    if (resized_h >= h || order == ZF_PASS_ORDER_PILLOW_10_0)
        return false;
    if (order == ZF_PASS_ORDER_PILLOW_12_2)
        return h > 100 * w;
    return h - resized_h > 2 * (w - resized_w);
}

/* The length of a side of `side` pixels, where the other side goes from `old` to `new` pixels;
 * -1 where it is beyond all use. */
static int proportional(int side, int old, int new, zf_side_rounding rounding)
{
    /* In the sources' own order of double operations. */
    double length = (double)new * side / old;
    if (rounding == ZF_SIDE_HALF_UP) {
        length = (double)new / old * side;
        length += 0.5;
    }
    return length > 1 << 30 ? -1 : (int)length;
}

/* The size of ZF_RESIZE_FIT, in the sources' own order of double operations. */
static void fit(const zf_recipe *r, int w, int h, geometry *g)
{
    double across = (double)r->resize_w / w, down = (double)r->resize_h / h;
    double scale = across < down ? across : down, new_w = w * scale, new_h = h * scale;
    if (r->resize_rounding == ZF_SIDE_HALF_UP) {
        new_w += 0.5;
        new_h += 0.5;
    } else if (r->resize_rounding == ZF_SIDE_HALF_EVEN || r->resize_rounding == ZF_SIDE_FACTOR) {
        new_w = rint(new_w);
        new_h = rint(new_h);
        g->scale = r->resize_rounding == ZF_SIDE_FACTOR ? 1 / scale : 0;
    } else if (r->resize_rounding == ZF_SIDE_TIMM) {
        double ratio = fmax((double)w / r->resize_w, (double)h / r->resize_h);
        new_w = rint(w / ratio);
        new_h = rint(h / ratio);
    }
    g->resized_w = (int)new_w;
    g->resized_h = (int)new_h;
}

static zf_status plan_geometry(const zf_recipe *r, int w, int h, geometry *g,
                               zf_result *result)
{
    g->resized_w = w;
    g->resized_h = h;
    g->scale = 0;
    if (r->resize == ZF_RESIZE_EXACT) {
        g->resized_w = r->resize_w;
        g->resized_h = r->resize_h;
    } else if (r->resize == ZF_RESIZE_FIT) {
        fit(r, w, h, g);
    } else if (r->resize != ZF_RESIZE_NONE) {
        bool given_w = r->resize == ZF_RESIZE_SHORT && w <= h;
        g->resized_w = given_w ? r->resize_w : proportional(w, h, r->resize_h, r->resize_rounding);
        g->resized_h = given_w ? proportional(h, w, r->resize_w, r->resize_rounding) : r->resize_h;
        if (g->resized_w < 0 || g->resized_h < 0)
            return ZF_UNSUPPORTED;
    }
    g->vertical_first = is_vertical_first(r->pass_order, w, h, g->resized_w, g->resized_h);
    g->left = g->top = 0;
    result->got_w = g->resized_w;
    result->got_h = g->resized_h;
    if (g->resized_w == 0 || g->resized_h == 0)
        return ZF_SIZE; /* HEIGHT or FIT, and the image is very narrow */
    if (r->padding != ZF_NOT_PADDED && g->resized_w <= r->out_w && g->resized_h <= r->out_h) {
        bool is_centred = r->padding == ZF_PADDED_CENTRE;
        g->left = is_centred ? -((r->out_w - g->resized_w) / 2) : 0;
        g->top = is_centred ? -((r->out_h - g->resized_h) / 2) : 0;
        result->got_w = r->out_w;
        result->got_h = r->out_h;
    }
    if (r->crop_w > 0) {
        g->left = crop_origin(g->resized_w, r->crop_w, r->crop_rounding);
        g->top = crop_origin(g->resized_h, r->crop_h, r->crop_rounding);
        result->got_w = r->crop_w;
        result->got_h = r->crop_h;
    }
    if (result->got_w != r->out_w || result->got_h != r->out_h)
        return ZF_SIZE;
    /* Like Pillow, a crop that is larger than the image is black outside it. */
    g->x0 = zf_max(-g->left, 0);
    g->y0 = zf_max(-g->top, 0);
    g->x1 = zf_min(g->resized_w - g->left, r->out_w);
    g->y1 = zf_min(g->resized_h - g->top, r->out_h);
    return g->x0 < g->x1 && g->y0 < g->y1 ? ZF_OK : ZF_UNSUPPORTED;
}

/* ---- the resizer, which receives decoded rows ------------------------------ */

typedef struct {
    zf_workspace *ws;
    const zf_taps *horizontal, *vertical;
    int channels;        /* 1 or 3 */
    bool vertical_first;
    size_t width;        /* pixels in a row of the ring */
    size_t stride;       /* bytes from one row of the ring to the next */
    int ring;            /* rows held for each channel, a power of two */
    /* The newest source rows of each channel, resampled horizontally unless
     * vertical_first. Each row is held twice, at y % ring and ring rows later,
     * so that the rows of an output's taps always follow one another. */
    uint8_t *rows[3];
    uint8_t *vertical_row; /* if vertical_first: one row, resampled vertically */
    uint8_t *planes[3];  /* the tensor's pixels: out_h rows of out_stride bytes */
    size_t out_stride;   /* out_w: there are no gaps, so that packing is one run */
    size_t out_offset;   /* in a plane, of the image's first pixel */
    int next;            /* the output row to be made next, from 0 */
    zf_sampled time;     /* spent here */
} resizer;

/* Stores a decoded row in the ring. row_index counts from the window's top. */
static void store_row(resizer *z, int row_index, const uint8_t *const planes[3])
{
    size_t slot = (size_t)(row_index & (z->ring - 1)) * z->stride;
    for (int c = 0; c < z->channels; c++) {
        uint8_t *row = z->rows[c] + slot;
        if (z->vertical_first)
            memcpy(row, planes[c], z->width);
        else
            z->ws->kernels->resample_h(row, planes[c], z->horizontal);
        memcpy(row + (size_t)z->ring * z->stride, row, z->width);
    }
}

/* Makes the next output row from the ring. */
static void make_output_row(resizer *z)
{
    const zf_kernels *kernels = z->ws->kernels;
    const zf_taps *v = z->vertical;
    size_t first = (size_t)(v->start[z->next] & (z->ring - 1)) * z->stride;
    const int32_t *k = v->k + (size_t)z->next * (size_t)v->ksize;

    for (int c = 0; c < z->channels; c++) {
        uint8_t *out = z->planes[c] + z->out_offset + (size_t)z->next * z->out_stride;
        uint8_t *made = z->vertical_first ? z->vertical_row : out;
        if (v->identity)
            memcpy(made, z->rows[c] + first, z->width);
        else
            kernels->resample_v(made, z->rows[c] + first, z->stride, k, v->ksize,
                                v->needs_32bit, z->width);
        if (z->vertical_first)
            kernels->resample_h(out, made, z->horizontal);
    }
    z->next++;
}

static zf_status on_row(void *ctx, int y, const uint8_t *const planes[3])
{
    resizer *z = ctx;
    const zf_taps *v = z->vertical;
    int row_index = y - v->first;

    zf_piece_begins(&z->time);
    store_row(z, row_index, planes);
    while (z->next < v->n && v->start[z->next] + v->ksize <= row_index + 1)
        make_output_row(z);
    zf_piece_ends(&z->time);
    return ZF_OK;
}

static int power_of_two(int n)
{
    int p = 1;
    while (p < n)
        p *= 2;
    return p;
}

static size_t round_up_to_64(size_t n) { return (n + 63) & ~(size_t)63; }

/* Makes the tables of taps, and lays the rows and planes out in the scratch. */
static zf_status plan_resizer(zf_workspace *ws, const zf_recipe *r, const geometry *g,
                              int width, int height, int channels, resizer *z)
{
    zf_status status = zf_taps_make(&ws->horizontal, ws->kernels, width, g->resized_w,
                                    g->left + g->x0, g->x1 - g->x0, r->filter);
    if (status == ZF_OK) /* scalar kernels: only the horizontal pass needs a plan */
        status = zf_taps_make(&ws->vertical, &zf_kernels_scalar, height, g->resized_h,
                              g->top + g->y0, g->y1 - g->y0, r->filter);
    if (status != ZF_OK)
        return status;

    *z = (resizer){.ws = ws,
                   .horizontal = &ws->horizontal,
                   .vertical = &ws->vertical,
                   .channels = channels,
                   .vertical_first = g->vertical_first,
                   .out_stride = (size_t)r->out_w,
                   .out_offset = (size_t)g->y0 * (size_t)r->out_w + (size_t)g->x0};
    z->width = (size_t)(z->vertical_first ? z->horizontal->last - z->horizontal->first
                                          : z->horizontal->n);
    z->stride = round_up_to_64(z->width + ZF_PAD);
    z->ring = power_of_two(z->vertical->ksize);
    size_t rows = 2 * (size_t)z->ring * z->stride;
    size_t plane = round_up_to_64((size_t)r->out_w * (size_t)r->out_h + ZF_PAD);
    size_t need = (size_t)channels * (rows + plane) + z->stride;
    if (need > ws->capacity) {
        free(ws->scratch);
        ws->scratch = aligned_alloc(64, need);
        ws->capacity = ws->scratch ? need : 0;
        if (!ws->scratch)
            return ZF_NOMEM;
    }
    for (int c = 0; c < 3; c++) {
        size_t channel = (size_t)(c < channels ? c : 0); /* gray: R, G, B share a plane */
        z->rows[c] = ws->scratch + channel * rows;
        z->planes[c] = ws->scratch + (size_t)channels * rows + channel * plane;
    }
    z->vertical_row = ws->scratch + (size_t)channels * (rows + plane);
    return ZF_OK;
}

/* ---- packing ---------------------------------------------------------------- */

/* What packing needs of the resized image. */
typedef struct {
    void *planes[3];  /* R, G, B: out_h rows of out_w pixels; gray: the same plane */
    int channels;     /* different planes, 1 or 3 */
    size_t elem_size; /* bytes of a pixel of a plane: 1, or 4 for float */
} resized;

/* Makes the part of the tensor black that lies outside the image. */
static void fill_border(const zf_recipe *r, const geometry *g, const resized *image)
{
    if (g->x1 - g->x0 == r->out_w && g->y1 - g->y0 == r->out_h)
        return;
    size_t size = image->elem_size, row_nbytes = (size_t)r->out_w * size;
    for (int c = 0; c < image->channels; c++)
        for (int y = 0; y < r->out_h; y++) {
            bool inside = y >= g->y0 && y < g->y1;
            uint8_t *row = (uint8_t *)image->planes[c] + (size_t)y * row_nbytes;
            memset(row, 0, inside ? (size_t)g->x0 * size : row_nbytes);
            if (inside)
                memset(row + (size_t)g->x1 * size, 0, (size_t)(r->out_w - g->x1) * size);
        }
}

static bool is_identity(const uint8_t *table)
{
    for (int i = 0; i < 3 * 256; i++)
        if (table[i] != i % 256)
            return false;
    return true;
}

/* Replaces n bytes by their elements of the table, `step` elements apart. */
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

/* Normalizes the planes of R, G, B by the recipe's table, into its layout. */
static void pack(const zf_workspace *ws, const zf_recipe *r, void *const planes[3], void *out)
{
    size_t n = (size_t)r->out_w * (size_t)r->out_h, size = (size_t)r->elem_size;
    bool unchanged = size == 1 && is_identity(r->table);

    if (unchanged && r->layout == ZF_NHWC) {
        const uint8_t *ordered[3];
        for (int c = 0; c < 3; c++)
            ordered[r->channel_index[c]] = planes[c];
        ws->kernels->interleave(out, ordered, n);
        return;
    }
    for (int c = 0; c < 3; c++) {
        const char *table = (const char *)r->table + (size_t)c * 256 * size;
        size_t index = (size_t)r->channel_index[c];
        char *plane = (char *)out + index * n * size;
        if (r->layout == ZF_NHWC)
            lookup((char *)out + index * size, 3, planes[c], table, r->elem_size, n);
        else if (unchanged)
            memcpy(plane, planes[c], n);
        else if (size == 4)
            ws->kernels->lookup32((uint32_t *)plane, planes[c], (const uint32_t *)table, n);
        else
            lookup(plane, 1, planes[c], table, r->elem_size, n);
    }
}

/* Normalizes planes of floats, into the recipe's layout: float32, or uint8 as NumPy's
 * astype makes them of values from 0 to 255. */
static void pack_floats(const zf_recipe *r, void *const planes[3], void *out)
{
    size_t n = (size_t)r->out_w * (size_t)r->out_h;
    for (int c = 0; c < 3; c++) {
        const float *plane = planes[c], mean = r->mean[c], std = r->std[c];
        size_t index = (size_t)r->channel_index[c];
        size_t step = r->layout == ZF_NHWC ? 3 : 1;
        size_t first = r->layout == ZF_NHWC ? index : index * n;
        if (r->elem_size == 1)
            for (size_t i = 0; i < n; i++)
                ((uint8_t *)out)[first + i * step] = (uint8_t)plane[i];
        else if (step == 1) /* apart, so that the compiler vectorizes it */
            for (size_t i = 0; i < n; i++)
                ((float *)out)[first + i] = (plane[i] - mean) / std;
        else
            for (size_t i = 0; i < n; i++)
                ((float *)out)[first + i * step] = (plane[i] - mean) / std;
    }
}

/* Sets n elements, `step` elements apart, from element `first` of out on. */
static void fill_elements(void *out, size_t first, size_t step, size_t n, const void *element,
                          size_t size)
{
    uint32_t value = 0;
    memcpy(&value, element, 4); /* zf_recipe.fill has 4 bytes for each channel */
    if (size == 1)
        for (size_t i = 0; i < n; i++)
            ((uint8_t *)out)[first + i * step] = *(const uint8_t *)element;
    else if (size == 2)
        for (size_t i = 0; i < n; i++)
            memcpy((uint16_t *)out + first + i * step, element, 2);
    else
        for (size_t i = 0; i < n; i++)
            ((uint32_t *)out)[first + i * step] = value;
}

/* Puts r->fill into the tensor's elements outside the image. */
static void paint_border(const zf_recipe *r, const geometry *g, void *out)
{
    size_t size = (size_t)r->elem_size, step = r->layout == ZF_NHWC ? 3 : 1;
    size_t w = (size_t)r->out_w, x0 = (size_t)g->x0, x1 = (size_t)g->x1;
    for (int c = 0; c < 3; c++) {
        size_t index = (size_t)r->channel_index[c];
        size_t plane = r->layout == ZF_NHWC ? index : index * w * (size_t)r->out_h;
        for (int y = 0; y < r->out_h; y++) {
            bool inside = y >= g->y0 && y < g->y1;
            size_t row = plane + (size_t)y * w * step;
            fill_elements(out, row, step, inside ? x0 : w, r->fill[c], size);
            if (inside)
                fill_elements(out, row + x1 * step, step, w - x1, r->fill[c], size);
        }
    }
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

/* Prepares Pillow's resizer z, or the workspace's of OpenCV. Says where it makes the
 * pixels, and where it wants the rows. */
static zf_status plan_resize(zf_workspace *ws, const zf_recipe *r, const geometry *g, int width,
                             int height, int channels, resizer *z, resized *image, receiver *to)
{
    zf_status status;
    if (r->filter < ZF_CV_NEAREST) {
        status = plan_resizer(ws, r, g, width, height, channels, z);
        if (status != ZF_OK)
            return status;
        *image = (resized){{z->planes[0], z->planes[1], z->planes[2]}, channels, 1};
        *to = (receiver){{z->horizontal->first, z->vertical->first, z->horizontal->last,
                          z->vertical->last},
                         on_row, z, &z->time};
        return ZF_OK;
    }
    zf_cv *cv = ws->opencv;
    zf_cv_part part = {width,           height,         g->resized_w,    g->resized_h,
                       g->left + g->x0, g->top + g->y0, g->x1 - g->x0, g->y1 - g->y0,
                       g->scale};
    status = zf_cv_begin(cv, r, &part, channels,
                         (size_t)g->y0 * (size_t)r->out_w + (size_t)g->x0);
    if (status != ZF_OK)
        return status;
    *image = (resized){{zf_cv_plane(cv, 0), zf_cv_plane(cv, 1), zf_cv_plane(cv, 2)},
                       zf_cv_channels(cv),
                       r->filter == ZF_CV_LINEAR_FLOAT32 ? sizeof(float) : 1};
    *to = (receiver){zf_cv_window(cv), zf_cv_on_row, cv, zf_cv_time(cv)};
    return ZF_OK;
}

static zf_status prepare(zf_workspace *ws, const zf_recipe *r, int width, int height,
                         int channels, decode_fn decode, const void *image, void *out,
                         zf_result *result)
{
    geometry g;
    resizer z;
    resized pixels;
    receiver to;
    uint64_t begin = zf_now();

    result->width = width;
    result->height = height;
    zf_status status = plan_geometry(r, width, height, &g, result);
    if (status == ZF_OK)
        status = plan_resize(ws, r, &g, width, height, channels, &z, &pixels, &to);
    if (status != ZF_OK)
        return status;
    result->ns[ZF_STAGE_RESIZE] += zf_now() - begin;

    status = decode_and_resize(ws, decode, image, &to, result);
    if (status != ZF_OK)
        return status;

    begin = zf_now();
    fill_border(r, &g, &pixels);
    if (r->filter == ZF_CV_LINEAR_FLOAT32)
        pack_floats(r, pixels.planes, out);
    else
        pack(ws, r, pixels.planes, out);
    if (r->padding != ZF_NOT_PADDED)
        paint_border(r, &g, out);
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

void zf_compute_job(zf_workspace *ws, const zf_batch *batch, zf_job *job)
{
    zf_result *result = &job->result;
    uint64_t begin = zf_now();
    size_t max_nbytes = batch->max_file_nbytes;
    int error = job->path ? zf_read_file(job->path, max_nbytes, &ws->file)
                          : zf_read_range(job->fd, job->offset, job->nbytes, max_nbytes, &ws->file);
    uint64_t reading = zf_now() - begin;

    if (error) {
        memset(result, 0, sizeof *result);
        result->status = error == ENOMEM ? ZF_NOMEM : ZF_READ;
        result->sys_errno = error;
    } else {
        zf_prepare_jpeg(ws, batch->recipe, ws->file.data, ws->file.nbytes, job->out, result);
        result->ns[ZF_STAGE_READ] = reading;
    }
    result->begin_ns = begin;
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
