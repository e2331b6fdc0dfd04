/* Resizes as OpenCV does, from rows that arrive one by one: the horizontal pass of a
 * row when it arrives, if any output row reads it, and the vertical pass as soon as
 * an output row has all its taps. */
#include "zf_opencv.h"

#include <stdlib.h>
#include <string.h>

struct zf_cv {
    const zf_kernels *kernels;
    zf_cv_line horizontal, vertical;
    int channels;        /* planes that are computed: 1 or 3 */
    bool is_gray;        /* the source has one plane */
    ZF_DECL_CV_ACROSS((*across));
    ZF_DECL_CV_DOWN((*down));
    size_t elem;         /* bytes of an element of a row between the passes */
    size_t out_elem;     /* bytes of an element of a plane */
    size_t stride;       /* bytes of a row of the ring */
    int ring;            /* rows held for each channel, a power of two */
    uint8_t *rows[3];    /* the newest rows of each channel: row y is at y % ring */
    const void **taps;   /* the rows of one output's taps */
    uint8_t *planes[3];
    size_t out_stride;   /* pixels */
    size_t out_offset;   /* pixels, in a plane, of the part's first pixel */
    int ends[3];         /* cubic: the column at which OpenCV sums in whole numbers */
    int next;            /* the output row to be made next, from 0 */
    zf_sampled time;
    uint8_t *scratch;
    size_t capacity;     /* of scratch, in bytes */
};

zf_cv *zf_cv_open(const zf_kernels *kernels)
{
    zf_cv *cv = calloc(1, sizeof *cv);
    if (cv)
        cv->kernels = kernels;
    return cv;
}

void zf_cv_close(zf_cv *cv)
{
    if (!cv)
        return;
    zf_cv_line_free(&cv->horizontal);
    zf_cv_line_free(&cv->vertical);
    free(cv->scratch);
    free(cv);
}

static void choose_kernels(zf_cv *cv, zf_cv_method method)
{
    const zf_cv_kernels *k = cv->kernels->opencv;
    cv->elem = sizeof(float);
    cv->out_elem = 1;
    cv->across = k->across_real;
    switch (method) {
    case ZF_CV_COPY:
        cv->across = zf_cv_across_copy;
        cv->down = zf_cv_down_copy;
        cv->elem = 1;
        break;
    case ZF_CV_FIXED:
        cv->across = k->across_fixed;
        cv->down = k->down_fixed;
        cv->elem = sizeof(int16_t);
        break;
    case ZF_CV_EXACT:
        cv->across = k->across_exact;
        cv->down = k->down_exact;
        cv->elem = sizeof(uint16_t);
        break;
    case ZF_CV_CUBE:
        cv->across = k->across_cube;
        cv->down = k->down_cube;
        break;
    case ZF_CV_SHARE:
        cv->down = k->down_share;
        break;
    case ZF_CV_BLOCK:
        cv->down = zf_cv_down_block;
        break;
    case ZF_CV_HALF:
        cv->down = zf_cv_down_half;
        break;
    case ZF_CV_REAL:
        cv->down = zf_cv_down_real;
        cv->out_elem = sizeof(float);
        break;
    }
}

/* OpenCV computes INTER_CUBIC's vertical pass in float for 8 values of an interleaved
 * row at a time, and the rest of the row in whole numbers. Sets cv->ends; returns whether the row has such a rest. */
static bool find_ends(zf_cv *cv, const zf_recipe *r, const zf_part *part)
{
    int values = 3 * part->resized_w, body = values / 8 * 8;
    for (int c = 0; c < 3; c++) {
        int end = (body - r->channel_index[c] + 2) / 3 - part->x;
        cv->ends[c] = zf_max(zf_min(end, part->w), 0);
    }
    return body < values;
}

static size_t round_up_to_64(size_t n) { return (n + 63) & ~(size_t)63; }

/* Lays rows and planes out in the scratch. */
static zf_status lay_out(zf_cv *cv, const zf_recipe *r)
{
    const zf_cv_line *v = &cv->vertical;
    int span = 1;
    for (int i = 0; i < v->n; i++) {
        const int *index = v->index + (size_t)i * (size_t)v->taps;
        span = zf_max(span, index[v->taps - 1] - index[0] + 1);
    }
    cv->ring = 1;
    while (cv->ring < span)
        cv->ring *= 2;
    cv->stride = round_up_to_64((size_t)cv->horizontal.n * cv->elem + ZF_PAD);
    size_t rows = (size_t)cv->ring * cv->stride;
    size_t pixels = (size_t)r->out_w * (size_t)r->out_h;
    size_t plane = round_up_to_64(pixels * cv->out_elem + ZF_PAD);
    size_t taps = round_up_to_64((size_t)v->taps * sizeof *cv->taps);
    size_t need = (size_t)cv->channels * (rows + plane) + taps;
    if (need > cv->capacity) {
        free(cv->scratch);
        cv->scratch = aligned_alloc(64, need);
        cv->capacity = cv->scratch ? need : 0;
        if (!cv->scratch)
            return ZF_NOMEM;
    }
    cv->taps = (const void **)cv->scratch;
    uint8_t *base = cv->scratch + taps;
    for (int c = 0; c < 3; c++) {
        size_t channel = (size_t)(c < cv->channels ? c : 0); /* gray: a plane is shared */
        cv->rows[c] = base + channel * rows;
        cv->planes[c] = base + (size_t)cv->channels * rows + channel * plane;
    }
    return ZF_OK;
}

zf_status zf_cv_begin(zf_cv *cv, const zf_recipe *r, const zf_geometry *g, int channels)
{
    const zf_part *part = &g->part;
    zf_cv_method method =
        zf_cv_method_of(r->filter, part->in_w, part->in_h, part->resized_w, part->resized_h);
    zf_status status =
        zf_cv_line_make(&cv->horizontal, cv->kernels, method, r->filter, false, part->in_w,
                        part->resized_w, part->x, part->w, part->scale);
    if (status == ZF_OK)
        status = zf_cv_line_make(&cv->vertical, cv->kernels, method, r->filter, true,
                                 part->in_h, part->resized_h, part->y, part->h, part->scale);
    if (status != ZF_OK)
        return status;
    cv->vertical.unit = (float)(1.0 / ((double)cv->horizontal.taps * cv->vertical.taps));
    choose_kernels(cv, method);
    cv->horizontal.divisor = method == ZF_CV_REAL ? r->divisor : 1;
    cv->is_gray = channels == 1;
    cv->channels = channels;
    if (method == ZF_CV_CUBE && find_ends(cv, r, part))
        cv->channels = 3; /* the channels of a gray row end at different columns */
    cv->out_stride = (size_t)r->out_w;
    cv->out_offset = (size_t)g->y0 * (size_t)r->out_w + (size_t)g->x0;
    cv->next = 0;
    cv->time = (zf_sampled){0};
    return lay_out(cv, r);
}

zf_window zf_cv_window(const zf_cv *cv)
{
    return (zf_window){cv->horizontal.first, cv->vertical.first, cv->horizontal.last,
                       cv->vertical.last};
}

void *zf_cv_plane(const zf_cv *cv, int channel) { return cv->planes[channel]; }

int zf_cv_channels(const zf_cv *cv) { return cv->channels; }

const zf_sampled *zf_cv_time(const zf_cv *cv) { return &cv->time; }

/* The first and the last source row of an output row's taps. */
static int first_row(const zf_cv *cv, int output)
{
    return cv->vertical.index[(size_t)output * (size_t)cv->vertical.taps];
}

static int last_row(const zf_cv *cv, int output)
{
    return cv->vertical.index[(size_t)(output + 1) * (size_t)cv->vertical.taps - 1];
}

static void store_row(zf_cv *cv, int row_index, const uint8_t *const planes[3])
{
    size_t slot = (size_t)(row_index & (cv->ring - 1)) * cv->stride;
    for (int c = 0; c < cv->channels; c++)
        cv->across(cv->rows[c] + slot, planes[cv->is_gray ? 0 : c], &cv->horizontal);
}

/* The rows of an output's taps, from column x on. */
static void find_rows(zf_cv *cv, int channel, size_t x)
{
    const zf_cv_line *v = &cv->vertical;
    const int *index = v->index + (size_t)cv->next * (size_t)v->taps;
    for (int k = 0; k < v->taps; k++)
        cv->taps[k] = cv->rows[channel] + (size_t)(index[k] & (cv->ring - 1)) * cv->stride +
                      x * cv->elem;
}

static void make_output_row(zf_cv *cv)
{
    size_t n = (size_t)cv->horizontal.n;
    for (int c = 0; c < cv->channels; c++) {
        size_t at = cv->out_offset + (size_t)cv->next * cv->out_stride;
        uint8_t *out = cv->planes[c] + at * cv->out_elem;
        find_rows(cv, c, 0);
        cv->down(out, cv->taps, &cv->vertical, cv->next, n);
        if (cv->vertical.method == ZF_CV_CUBE && (size_t)cv->ends[c] < n) {
            size_t end = (size_t)cv->ends[c];
            find_rows(cv, c, end);
            zf_cv_down_cube_end(out + end, cv->taps, &cv->vertical, cv->next, n - end);
        }
    }
    cv->next++;
}

zf_status zf_cv_on_row(void *ctx, int y, const uint8_t *const planes[3])
{
    zf_cv *cv = ctx;
    int row_index = y - cv->vertical.first;

    zf_piece_begins(&cv->time);
    if (cv->next < cv->vertical.n && first_row(cv, cv->next) <= row_index)
        store_row(cv, row_index, planes); /* rows between the taps are not needed */
    while (cv->next < cv->vertical.n && last_row(cv, cv->next) <= row_index)
        make_output_row(cv);
    zf_piece_ends(&cv->time);
    return ZF_OK;
}
