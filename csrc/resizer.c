/*
 * Pillow's resize: resamples each decoded row horizontally as it arrives, and vertically as
 * soon as an output row has all its taps.
 */
#include "zf_resizer.h"

#include <stdlib.h>
#include <string.h>

struct zf_resizer {
    const zf_kernels *kernels;
    zf_taps horizontal, vertical;
    int channels;        /* 1 or 3 */
    bool vertical_first;
    size_t width;        /* pixels in a row of the ring */
    int ring;            /* rows held for each channel, a power of two */
    /* The newest source rows of each channel, resampled horizontally unless
     * vertical_first. Row y is at y % ring, and each row is named twice, also ring rows
     * later, so that the rows of an output's taps always follow one another. */
    uint8_t **rows[3];
    uint8_t *vertical_row; /* if vertical_first: one row, resampled vertically */
    uint8_t *planes[3];  /* the tensor's pixels: out_h rows of out_stride bytes */
    size_t out_stride;   /* out_w: there are no gaps, so that packing is one run */
    size_t out_offset;   /* in a plane, of the image's first pixel */
    int next;            /* the output row to be made next, from 0 */
    uint8_t *scratch;    /* holds all rows and rows[] */
    size_t capacity;     /* of scratch, in bytes */
    zf_sampled time;     /* spent in zf_resizer_on_row for this image */
};

zf_resizer *zf_resizer_open(const zf_kernels *kernels)
{
    zf_resizer *z = calloc(1, sizeof *z);
    if (z)
        z->kernels = kernels;
    return z;
}

void zf_resizer_close(zf_resizer *z)
{
    if (!z)
        return;
    zf_taps_free(&z->horizontal);
    zf_taps_free(&z->vertical);
    free(z->scratch);
    free(z);
}

zf_window zf_resizer_window(const zf_resizer *z)
{
    return (zf_window){z->horizontal.first, z->vertical.first, z->horizontal.last,
                       z->vertical.last};
}

void *zf_resizer_plane(const zf_resizer *z, int channel) { return z->planes[channel]; }

const zf_sampled *zf_resizer_time(const zf_resizer *z) { return &z->time; }

/* Stores a decoded row in the ring. row_index counts from the window's top. */
static void store_row(zf_resizer *z, int row_index, const uint8_t *const planes[3])
{
    for (int c = 0; c < z->channels; c++) {
        uint8_t *row = z->rows[c][row_index & (z->ring - 1)];
        if (z->vertical_first)
            memcpy(row, planes[c], z->width);
        else
            z->kernels->resample_h(row, planes[c], &z->horizontal);
    }
}

/* Makes the next output row from the ring. */
static void make_output_row(zf_resizer *z)
{
    const zf_kernels *kernels = z->kernels;
    const zf_taps *v = &z->vertical;
    int first = v->start[z->next] & (z->ring - 1);
    const int32_t *k = v->k + (size_t)z->next * (size_t)v->ksize;

    for (int c = 0; c < z->channels; c++) {
        const uint8_t *const *rows = (const uint8_t *const *)z->rows[c] + first;
        uint8_t *out = z->planes[c] + z->out_offset + (size_t)z->next * z->out_stride;
        uint8_t *made = z->vertical_first ? z->vertical_row : out;
        if (v->identity)
            memcpy(made, rows[0], z->width);
        else
            kernels->resample_v(made, rows, k, v->ksize, v->needs_32bit, z->width);
        if (z->vertical_first)
            kernels->resample_h(out, made, &z->horizontal);
    }
    z->next++;
}

zf_status zf_resizer_on_row(void *resizer, int y, const uint8_t *const planes[3])
{
    zf_resizer *z = resizer;
    const zf_taps *v = &z->vertical;
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

zf_status zf_resizer_begin(zf_resizer *z, const zf_recipe *recipe, const zf_geometry *g,
                           int channels)
{
    const zf_part *part = &g->part;
    zf_status status = zf_taps_make(&z->horizontal, z->kernels, part->in_w, part->resized_w,
                                    part->x, part->w, recipe->filter);
    if (status == ZF_OK) /* scalar kernels: only the horizontal pass needs a plan */
        status = zf_taps_make(&z->vertical, &zf_kernels_scalar, part->in_h, part->resized_h,
                              part->y, part->h, recipe->filter);
    if (status != ZF_OK)
        return status;

    z->channels = channels;
    z->vertical_first = g->vertical_first;
    z->out_stride = (size_t)recipe->out_w;
    z->out_offset = (size_t)g->y0 * (size_t)recipe->out_w + (size_t)g->x0;
    z->next = 0;
    z->time = (zf_sampled){0};
    z->width = (size_t)(z->vertical_first ? z->horizontal.last - z->horizontal.first
                                          : z->horizontal.n);
    z->ring = power_of_two(z->vertical.ksize);
    size_t stride = round_up_to_64(z->width + ZF_PAD), ring = (size_t)z->ring;
    size_t names = round_up_to_64(2 * ring * sizeof *z->rows[0]);
    size_t plane = round_up_to_64((size_t)recipe->out_w * (size_t)recipe->out_h + ZF_PAD);
    size_t need = (size_t)channels * (names + ring * stride + plane) + stride;
    if (need > z->capacity) {
        free(z->scratch);
        z->scratch = aligned_alloc(64, need);
        z->capacity = z->scratch ? need : 0;
        if (!z->scratch)
            return ZF_NOMEM;
    }
    uint8_t *free_bytes = z->scratch;
    for (int c = 0; c < channels; c++) {
        z->rows[c] = (uint8_t **)(void *)free_bytes;
        free_bytes += names;
        for (size_t y = 0; y < ring; y++, free_bytes += stride)
            z->rows[c][y] = z->rows[c][y + ring] = free_bytes;
        z->planes[c] = free_bytes;
        free_bytes += plane;
    }
    z->vertical_row = free_bytes;
    for (int c = channels; c < 3; c++) /* gray: R, G, B share a plane */
        z->planes[c] = z->planes[0];
    return ZF_OK;
}
