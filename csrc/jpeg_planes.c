/*
 * From the coefficients of blocks to the pixel rows of a window: which blocks the
 * window's pixels depend on, where their samples go, upsampling, colour. The
 * baseline and the progressive decoder share it. It holds the samples of at most
 * two MCU rows; complete pixel rows go to the caller at once.
 */
#include "zf_jpeg_internal.h"

#include <stdlib.h>
#include <string.h>

#define MARGIN 64 /* writable bytes before a sample row: its left neighbour, alignment */
#define SLACK (ZF_PAD + MARGIN) /* bytes past a row's end that kernels may touch */

bool zf_reserve(uint8_t **buffer, size_t *capacity, size_t nbytes)
{
    if (nbytes <= *capacity)
        return true;
    free(*buffer);
    *capacity = 0;
    nbytes = (nbytes + nbytes / 4 + 63) / 64 * 64;
    if (posix_memalign((void **)buffer, 64, nbytes) != 0) {
        *buffer = NULL;
        return false;
    }
    memset(*buffer, 0, nbytes); /* kernels read past the ends of rows, without using it */
    *capacity = nbytes;
    return true;
}

/* ---- planning --------------------------------------------------------------- */

/* What libjpeg chooses (jdsample.c) with fancy upsampling on. It has a box
 * filter for every other whole ratio. */
static zf_upsampling choose_upsampling(const zf_plane *p)
{
    if (p->h_expand == 1 && p->v_expand == 1)
        return ZF_UP_NONE;
    if (p->h_expand == 1 && p->v_expand == 2)
        return ZF_UP_H1V2;
    if (p->h_expand == 2 && p->v_expand == 1 && p->width > 2)
        return ZF_UP_H2V1;
    if (p->h_expand == 2 && p->v_expand == 2 && p->width > 2)
        return ZF_UP_H2V2;
    return ZF_UP_BOX;
}

static bool reads_left_and_right(const zf_plane *p)
{
    return p->up == ZF_UP_H2V1 || p->up == ZF_UP_H2V2;
}

static bool reads_above_and_below(const zf_plane *p)
{
    return p->up == ZF_UP_H1V2 || p->up == ZF_UP_H2V2;
}

static bool plan_plane(zf_plane *p, const zf_jpeg *jpeg, const zf_component *c, zf_window w)
{
    bool alone = jpeg->ncomp == 1; /* then the sampling factors mean nothing */
    int max_h = alone ? 1 : jpeg->max_h, max_v = alone ? 1 : jpeg->max_v;
    p->h = alone ? 1 : c->h;
    p->v = alone ? 1 : c->v;
    if (max_h % p->h || max_v % p->v)
        return false; /* libjpeg has no such upsampling */
    p->h_expand = max_h / p->h;
    p->v_expand = max_v / p->v;
    p->width = zf_ceil_div(jpeg->width * p->h, max_h);
    p->height = zf_ceil_div(jpeg->height * p->v, max_v);
    p->up = choose_upsampling(p);

    int dx = reads_left_and_right(p), dy = reads_above_and_below(p);
    p->bx0 = zf_max(w.x0 / p->h_expand - dx, 0) / 8;
    p->by0 = zf_max(w.y0 / p->v_expand - dy, 0) / 8;
    p->bx1 = zf_ceil_div(zf_min(zf_ceil_div(w.x1, p->h_expand) + dx, p->width), 8);
    p->by1 = zf_ceil_div(zf_min(zf_ceil_div(w.y1, p->v_expand) + dy, p->height), 8);

    if (!jpeg->quant_defined[c->tq])
        return false;
    for (int k = 0; k < 64; k++) {
        int factor = jpeg->quant[c->tq][k];
        p->q.factor[zf_zigzag_index[k]] = (int16_t)factor;
        p->q.limit[zf_zigzag_index[k]] = (uint16_t)(factor ? ZF_COEF_MAX / factor : INT16_MAX);
    }
    return true;
}

static zf_mcu_grid plan_grid(const zf_planes *d, const zf_jpeg *jpeg)
{
    const zf_plane *first = &d->plane[0];
    int mcu_w = 8 * first->h * first->h_expand, mcu_h = 8 * first->v * first->v_expand;
    int columns = zf_ceil_div(jpeg->width, mcu_w), rows = zf_ceil_div(jpeg->height, mcu_h);
    zf_mcu_grid g = {columns, rows, .x0 = columns, .y0 = rows, .pixel_rows = mcu_h};
    for (int i = 0; i < jpeg->ncomp; i++) {
        const zf_plane *p = &d->plane[i];
        g.x0 = zf_min(g.x0, p->bx0 / p->h);
        g.y0 = zf_min(g.y0, p->by0 / p->v);
        g.x1 = zf_max(g.x1, zf_ceil_div(p->bx1, p->h));
        g.y1 = zf_max(g.y1, zf_ceil_div(p->by1, p->v));
    }
    return g;
}

/* Lays all rows out in one buffer; false when out of memory. */
static bool plan_rows(zf_planes *d, zf_window w)
{
    size_t row_nbytes = ((size_t)(w.x1 - w.x0) + 16 + SLACK + 63) / 64 * 64;
    size_t need = SLACK;

    for (int i = 0; i < d->ncomp; i++) {
        zf_plane *p = &d->plane[i];
        p->stride = ((size_t)(p->bx1 - p->bx0) * 8 + MARGIN + SLACK + 63) / 64 * 64;
        p->ring = 8 * p->v * (d->rows_above_and_below ? 2 : 1);
        need += p->stride * (size_t)p->ring + 2 * row_nbytes;
    }
    if (!zf_reserve(&d->pixels, &d->pixels_capacity, need))
        return false;
    uint8_t *next = d->pixels;
    for (int i = 0; i < d->ncomp; i++) {
        zf_plane *p = &d->plane[i];
        p->samples = next + MARGIN;
        next += p->stride * (size_t)p->ring;
        p->row = next;
        next += row_nbytes;
        d->rgb[i] = next;
        next += row_nbytes;
    }
    return true;
}

zf_status zf_planes_begin(zf_planes *d, const zf_jpeg *jpeg, zf_window w)
{
    d->window = w;
    d->ncomp = jpeg->ncomp;
    d->color = jpeg->color;
    d->next_row = w.y0;
    d->times = (zf_pixel_times){0};
    d->rows_above_and_below = false;
    for (int i = 0; i < jpeg->ncomp; i++) {
        if (!plan_plane(&d->plane[i], jpeg, &jpeg->comp[i], w))
            return ZF_UNSUPPORTED;
        d->rows_above_and_below |= reads_above_and_below(&d->plane[i]);
    }
    d->grid = plan_grid(d, jpeg);
    return plan_rows(d, w) ? ZF_OK : ZF_NOMEM;
}

/* ---- samples -------------------------------------------------------------- */

bool zf_planes_transform(zf_planes *d, int n)
{
    zf_piece_begins(&d->times.idct);
    if (!d->kernels->idct(d->queue, n))
        return false;
    zf_piece_ends(&d->times.idct);
    return true;
}

/* Repeats the samples at the picture's left and right edges, as the triangle
 * filters need it. */
static void extend_edges(const zf_plane *p, int r0, int r1)
{
    int first = 8 * p->bx0;
    for (int r = r0; r < r1; r++) {
        uint8_t *row = zf_sample_row(p, r);
        if (first == 0)
            row[-1] = row[0];
        if (8 * p->bx1 >= p->width)
            row[p->width - first] = row[p->width - 1 - first];
    }
}

/* ---- pixels --------------------------------------------------------------- */

/* The samples of plane p for the pixels [w.x0, w.x1) of row y. */
static const uint8_t *upsampled(const zf_planes *d, const zf_plane *p, zf_window w, int y)
{
    if (p->up == ZF_UP_NONE) /* apart, since the divisions below take long */
        return zf_sample_row(p, y) + (w.x0 - 8 * p->bx0);
    const zf_jpeg_kernels *kernels = d->kernels;
    int r = y / p->v_expand;
    int first = w.x0 / p->h_expand, n = zf_ceil_div(w.x1, p->h_expand) - first;
    int skip = w.x0 - first * p->h_expand;
    int other = zf_min(zf_max(y % 2 ? r + 1 : r - 1, 0), p->height - 1);
    const uint8_t *near = zf_sample_row(p, r) + (first - 8 * p->bx0);
    const uint8_t *far = zf_sample_row(p, other) + (first - 8 * p->bx0);

    switch (p->up) {
    case ZF_UP_NONE:
        break;
    case ZF_UP_BOX:
        for (int i = 0; i < n; i++)
            memset(p->row + i * p->h_expand, near[i], (size_t)p->h_expand);
        break;
    case ZF_UP_H2V1:
        kernels->upsample_h2v1(p->row, near, n);
        break;
    case ZF_UP_H2V2:
        kernels->upsample_h2v2(p->row, near, far, n);
        break;
    case ZF_UP_H1V2:
        kernels->upsample_h1v2(p->row, near, far, y % 2 ? 2 : 1, n);
        break;
    }
    return p->row + skip;
}

/* Upsamples and converts pixel row y, and gives it to the caller. */
static zf_status deliver(zf_planes *d, int y, zf_row_fn row, void *ctx)
{
    zf_window w = d->window;
    const uint8_t *planes[3] = {NULL, NULL, NULL};
    zf_piece_begins(&d->times.colour);
    for (int i = 0; i < d->ncomp; i++)
        planes[i] = upsampled(d, &d->plane[i], w, y);
    if (d->color == ZF_COLOR_YCC) {
        d->kernels->ycc_to_rgb(d->rgb, planes[0], planes[1], planes[2], w.x1 - w.x0);
        for (int i = 0; i < 3; i++)
            planes[i] = d->rgb[i];
    }
    zf_piece_ends(&d->times.colour);
    return row(ctx, y, planes);
}

zf_status zf_planes_end_mcu_row(zf_planes *d, int my, zf_row_fn row, void *ctx)
{
    const zf_mcu_grid *g = &d->grid;
    for (int i = 0; i < d->ncomp && my >= g->y0; i++) {
        const zf_plane *p = &d->plane[i];
        if (reads_left_and_right(p))
            extend_edges(p, 8 * p->v * my, 8 * p->v * (my + 1));
    }
    /* an MCU row's last pixel row needs samples of the next MCU row */
    int ready = (my + 1) * g->pixel_rows - (d->rows_above_and_below && my + 1 < g->rows);
    for (; d->next_row < zf_min(ready, d->window.y1); d->next_row++) {
        zf_status status = deliver(d, d->next_row, row, ctx);
        if (status != ZF_OK)
            return status;
    }
    return ZF_OK;
}
