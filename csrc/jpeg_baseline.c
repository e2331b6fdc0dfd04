/*
 * A window of a baseline JPEG, MCU row by MCU row.
 *
 * Entropy decoding has to start at the top left, whatever the window; but
 * only blocks that the window's pixels depend on are kept and transformed,
 * and MCU rows below them are not read at all. The samples of at most two MCU
 * rows are held; finished pixel rows go straight to the caller.
 */
#include "zf_jpeg_internal.h"

#include <stdlib.h>
#include <string.h>

#define MARGIN 64 /* writable bytes before a sample row: its left neighbour, alignment */
#define SLACK (ZF_PAD + MARGIN) /* bytes past a row's end that kernels may touch */

/* Blocks that wait for their transform: some more than one, as two go faster
 * together, and few enough to stay in the nearest cache. */
#define QUEUE 12

typedef enum { UP_NONE, UP_BOX, UP_H2V1, UP_H2V2, UP_H1V2 } upsampling;

/* One component's part in the decoding of one window. */
typedef struct {
    int h, v;                   /* blocks per MCU */
    int h_expand, v_expand;     /* pixels per sample */
    upsampling up;
    int width, height;          /* of the component, in samples */
    int bx0, by0, bx1, by1;     /* blocks that the window needs */
    uint8_t *samples;           /* sample (8 * bx0, row 0 of the ring) */
    size_t stride;
    int ring;                   /* rows held: sample row r is at r % ring */
    uint8_t *row;               /* one upsampled row */
    zf_dequant q;
} plane;

struct zf_baseline {
    const zf_jpeg_kernels *kernels;
    zf_dc_table dc[4];
    zf_ac_table ac[4];
    plane planes[3];
    zf_mcu mcu;
    _Alignas(64) zf_block blocks[QUEUE];
    zf_transform queue[QUEUE]; /* those of blocks[] that the window needs */
    uint8_t *unstuffed; /* the bytes of one restart interval */
    size_t unstuffed_capacity;
    uint8_t *pixels; /* all sample rows, upsampled rows and RGB rows */
    size_t pixels_capacity;
    zf_pixel_times times;
};

zf_baseline *zf_baseline_open(const char *isa)
{
    const zf_jpeg_kernels *kernels = zf_jpeg_kernels_for(isa);
    zf_baseline *d = NULL;

    if (!kernels || posix_memalign((void **)&d, 64, sizeof *d) != 0)
        return NULL;
    memset(d, 0, sizeof *d);
    d->kernels = kernels;
    return d;
}

void zf_baseline_close(zf_baseline *d)
{
    if (!d)
        return;
    free(d->unstuffed);
    free(d->pixels);
    free(d);
}

static bool reserve(uint8_t **buffer, size_t *capacity, size_t nbytes)
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
    memset(*buffer, 0, nbytes); /* kernels read past rows' ends, harmlessly */
    *capacity = nbytes;
    return true;
}

static int ceil_div(int a, int b) { return (a + b - 1) / b; }

/* ---- setting up ----------------------------------------------------------- */

/* libjpeg's choice (jdsample.c), with fancy upsampling on; it has a box
 * filter for every other whole ratio. */
static upsampling choose_upsampling(const plane *p)
{
    if (p->h_expand == 1 && p->v_expand == 1)
        return UP_NONE;
    if (p->h_expand == 1 && p->v_expand == 2)
        return UP_H1V2;
    if (p->h_expand == 2 && p->v_expand == 1 && p->width > 2)
        return UP_H2V1;
    if (p->h_expand == 2 && p->v_expand == 2 && p->width > 2)
        return UP_H2V2;
    return UP_BOX;
}

static bool looks_sideways(const plane *p) { return p->up == UP_H2V1 || p->up == UP_H2V2; }
static bool looks_up_and_down(const plane *p) { return p->up == UP_H1V2 || p->up == UP_H2V2; }

static bool plan_plane(plane *p, const zf_jpeg *jpeg, const zf_component *c, zf_window w)
{
    bool alone = jpeg->ncomp == 1; /* then the factors mean nothing */
    int max_h = alone ? 1 : jpeg->max_h, max_v = alone ? 1 : jpeg->max_v;
    p->h = alone ? 1 : c->h;
    p->v = alone ? 1 : c->v;
    if (max_h % p->h || max_v % p->v)
        return false; /* libjpeg has no such upsampling */
    p->h_expand = max_h / p->h;
    p->v_expand = max_v / p->v;
    p->width = ceil_div(jpeg->width * p->h, max_h);
    p->height = ceil_div(jpeg->height * p->v, max_v);
    p->up = choose_upsampling(p);

    int beside = looks_sideways(p), above = looks_up_and_down(p);
    p->bx0 = zf_max(w.x0 / p->h_expand - beside, 0) / 8;
    p->by0 = zf_max(w.y0 / p->v_expand - above, 0) / 8;
    p->bx1 = ceil_div(zf_min(ceil_div(w.x1, p->h_expand) + beside, p->width), 8);
    p->by1 = ceil_div(zf_min(ceil_div(w.y1, p->v_expand) + above, p->height), 8);

    if (!jpeg->quant_defined[c->tq])
        return false;
    for (int k = 0; k < 64; k++) {
        int factor = jpeg->quant[c->tq][k];
        p->q.factor[zf_coef_at[k]] = (int16_t)factor;
        p->q.limit[zf_coef_at[k]] = (uint16_t)(factor ? ZF_COEF_MAX / factor : INT16_MAX);
    }
    return true;
}

static bool plan_mcu(zf_baseline *d, const zf_jpeg *jpeg)
{
    d->mcu.nblocks = 0;
    for (int i = 0; i < jpeg->ncomp; i++) {
        const zf_component *c = &jpeg->comp[i];
        if (c->td < 0 || !zf_dc_table_make(&d->dc[c->td], &jpeg->dc[c->td]) ||
            !zf_ac_table_make(&d->ac[c->ta], &jpeg->ac[c->ta]))
            return false;
        for (int j = 0; j < d->planes[i].h * d->planes[i].v; j++) {
            if (d->mcu.nblocks == ZF_MCU_BLOCKS)
                return false;
            d->mcu.block[d->mcu.nblocks].comp = i;
            d->mcu.block[d->mcu.nblocks].dc = &d->dc[c->td];
            d->mcu.block[d->mcu.nblocks].ac = &d->ac[c->ta];
            d->mcu.nblocks++;
        }
    }
    return true;
}

/* Lays all rows out in one buffer. rgb gets the rows for converted pixels. */
static bool plan_rows(zf_baseline *d, const zf_jpeg *jpeg, bool context, zf_window w,
                      uint8_t *rgb[3])
{
    size_t row_nbytes = ((size_t)(w.x1 - w.x0) + 16 + SLACK + 63) / 64 * 64;
    size_t need = 0;

    for (int pass = 0; pass < 2; pass++) {
        uint8_t *at = d->pixels;
        for (int i = 0; i < jpeg->ncomp; i++) {
            plane *p = &d->planes[i];
            p->stride = ((size_t)(p->bx1 - p->bx0) * 8 + MARGIN + SLACK + 63) / 64 * 64;
            p->ring = 8 * p->v * (context ? 2 : 1);
            if (pass == 0) {
                need += p->stride * (size_t)p->ring + 2 * row_nbytes;
                continue;
            }
            p->samples = at + MARGIN;
            at += p->stride * (size_t)p->ring;
            p->row = at;
            at += row_nbytes;
            rgb[i] = at;
            at += row_nbytes;
        }
        if (pass == 0 && !reserve(&d->pixels, &d->pixels_capacity, need + SLACK))
            return false;
    }
    return true;
}

/* ---- the compressed bytes ------------------------------------------------- */

typedef struct {
    const uint8_t *next, *end; /* of the file */
    const uint8_t *start;      /* of the segment, unstuffed */
    size_t n;
    zf_bits bits;
} stream;

static void read_segment(zf_baseline *d, stream *s)
{
    uint8_t *start = d->unstuffed;
    s->next = d->kernels->unstuff(start, &s->n, s->next, s->end);
    memset(start + s->n, 0, ZF_BITS_PAD);
    s->start = start;
    s->bits = (zf_bits){start, 0, 0};
}

/* Steps over the marker at s->next; 0 where there is none. Fill bytes may
 * stand before it. */
static int read_marker(stream *s)
{
    while (s->next < s->end && *s->next == 0xFF)
        s->next++;
    return s->next < s->end ? *s->next++ : 0;
}

/* Bits of the segment that are not used yet; negative: it was overrun. */
static int64_t bits_left(const stream *s)
{
    return ((int64_t)(s->start - s->bits.p) + (int64_t)s->n) * 8 + s->bits.left;
}

static bool is_restart(int marker) { return marker >= 0xD0 && marker <= 0xD7; }

/* True where the rest of the data, undecoded, is followed by an end of image:
 * a truncated file is an error of Pillow's even where the window needs no more
 * of it. */
static bool ends_well(stream *s)
{
    for (;;) {
        int marker = read_marker(s);
        if (marker != 0 && !is_restart(marker))
            return marker == 0xD9;
        const uint8_t *ff =
            s->next < s->end ? memchr(s->next, 0xFF, (size_t)(s->end - s->next)) : NULL;
        if (!ff)
            return false;
        s->next = ff;
    }
}

/* ---- samples -------------------------------------------------------------- */

static uint8_t *sample_row(const plane *p, int r)
{
    return p->samples + (size_t)(r % p->ring) * p->stride;
}

/* Where the blocks of an MCU row go: block i of the MCU in column mx is at
 * column mx * step + dx of the needed ones, if that is below n. */
typedef struct {
    const zf_dequant *q;
    uint8_t *dst; /* of the first needed one */
    size_t stride;
    int step, dx, n;
} place;

static void find_places(place *places, const zf_baseline *d, int ncomp, int my)
{
    for (int c = 0; c < ncomp; c++) {
        const plane *p = &d->planes[c];
        for (int by = my * p->v; by < (my + 1) * p->v; by++) {
            bool needed = by >= p->by0 && by < p->by1;
            for (int x = 0; x < p->h; x++)
                *places++ = (place){.q = &p->q,
                                    .dst = sample_row(p, 8 * by),
                                    .stride = p->stride,
                                    .step = p->h,
                                    .dx = x - p->bx0,
                                    .n = needed ? p->bx1 - p->bx0 : 0};
        }
    }
}

/* Adds those blocks of an MCU that the window needs to the queue, which holds
 * n. Returns its new length. */
static int queue_mcu(zf_baseline *d, int n, const place *places, int mx, const zf_block *blocks,
                     const uint8_t *last)
{
    for (int i = 0; i < d->mcu.nblocks; i++) {
        const place *p = &places[i];
        int bx = mx * p->step + p->dx;
        if (bx < 0 || bx >= p->n)
            continue;
        d->queue[n++] = (zf_transform){blocks[i], p->q, p->dst + 8 * bx, p->stride, last[i]};
    }
    return n;
}

/* The triangle filters see the edge samples again beyond a picture's edge. */
static void extend_edges(const plane *p, int r0, int r1)
{
    int first = 8 * p->bx0;
    for (int r = r0; r < r1; r++) {
        uint8_t *row = sample_row(p, r);
        if (first == 0)
            row[-1] = row[0];
        if (8 * p->bx1 >= p->width)
            row[p->width - first] = row[p->width - 1 - first];
    }
}

const zf_pixel_times *zf_baseline_times(const zf_baseline *d) { return &d->times; }

/* ---- pixels --------------------------------------------------------------- */

/* The samples of component p for pixels [w.x0, w.x1) of row y. */
static const uint8_t *upsampled(const zf_baseline *d, const plane *p, zf_window w, int y)
{
    const zf_jpeg_kernels *kernels = d->kernels;
    int r = y / p->v_expand;
    int first = w.x0 / p->h_expand, n = ceil_div(w.x1, p->h_expand) - first;
    int skip = w.x0 - first * p->h_expand;
    int other = zf_min(zf_max(y % 2 ? r + 1 : r - 1, 0), p->height - 1);
    const uint8_t *near = sample_row(p, r) + (first - 8 * p->bx0);
    const uint8_t *far = sample_row(p, other) + (first - 8 * p->bx0);

    switch (p->up) {
    case UP_NONE:
        return near;
    case UP_BOX:
        for (int i = 0; i < n; i++)
            memset(p->row + i * p->h_expand, near[i], (size_t)p->h_expand);
        break;
    case UP_H2V1:
        kernels->upsample_h2v1(p->row, near, n);
        break;
    case UP_H2V2:
        kernels->upsample_h2v2(p->row, near, far, n);
        break;
    case UP_H1V2:
        kernels->upsample_h1v2(p->row, near, far, y % 2 ? 2 : 1, n);
        break;
    }
    return p->row + skip;
}

static zf_status deliver(zf_baseline *d, const zf_jpeg *jpeg, zf_window w, int y,
                         uint8_t *const rgb[3], zf_row_fn row, void *ctx)
{
    const uint8_t *planes[3] = {NULL, NULL, NULL};
    zf_piece_begins(&d->times.colour);
    for (int i = 0; i < jpeg->ncomp; i++)
        planes[i] = upsampled(d, &d->planes[i], w, y);
    if (jpeg->color == ZF_COLOR_YCC) {
        d->kernels->ycc_to_rgb(rgb, planes[0], planes[1], planes[2], w.x1 - w.x0);
        for (int i = 0; i < 3; i++)
            planes[i] = rgb[i];
    }
    zf_piece_ends(&d->times.colour);
    return row(ctx, y, planes);
}

/* ---- decoding ------------------------------------------------------------- */

zf_status zf_baseline_decode(zf_baseline *d, const zf_jpeg *jpeg, zf_window w, zf_row_fn row,
                             void *ctx)
{
    if (jpeg->progressive || jpeg->scan_ncomp != jpeg->ncomp || jpeg->scan_ss != 0 ||
        jpeg->scan_se != 63 || jpeg->scan_ah != 0 || jpeg->scan_al != 0)
        return ZF_UNSUPPORTED;

    bool context = false;
    for (int i = 0; i < jpeg->ncomp; i++) {
        if (!plan_plane(&d->planes[i], jpeg, &jpeg->comp[i], w))
            return ZF_UNSUPPORTED;
        context |= looks_up_and_down(&d->planes[i]);
    }
    if (!plan_mcu(d, jpeg))
        return ZF_UNSUPPORTED;

    uint8_t *rgb[3];
    size_t scan_nbytes = jpeg->nbytes - jpeg->scan;
    if (!plan_rows(d, jpeg, context, w, rgb) ||
        !reserve(&d->unstuffed, &d->unstuffed_capacity, scan_nbytes + ZF_BITS_PAD))
        return ZF_NOMEM;

    /* MCUs: all of them, and those that the window needs */
    int mcu_w = 8 * d->planes[0].h * d->planes[0].h_expand;
    int mcu_h = 8 * d->planes[0].v * d->planes[0].v_expand;
    int columns = ceil_div(jpeg->width, mcu_w), rows = ceil_div(jpeg->height, mcu_h);
    int mx0 = columns, mx1 = 0, my0 = rows, my1 = 0;
    for (int i = 0; i < jpeg->ncomp; i++) {
        const plane *p = &d->planes[i];
        mx0 = zf_min(mx0, p->bx0 / p->h);
        my0 = zf_min(my0, p->by0 / p->v);
        mx1 = zf_max(mx1, ceil_div(p->bx1, p->h));
        my1 = zf_max(my1, ceil_div(p->by1, p->v));
    }

    stream s = {.next = jpeg->data + jpeg->scan, .end = jpeg->data + jpeg->nbytes};
    int dc[3] = {0, 0, 0};
    int until_restart = jpeg->restart_interval, restarts = 0;
    uint8_t last[ZF_MCU_BLOCKS];
    d->times = (zf_pixel_times){0};
    int y = w.y0; /* next pixel row to deliver */

    read_segment(d, &s);
    for (int my = 0; my < my1; my++) {
        place places[ZF_MCU_BLOCKS];
        int held = 0, queued = 0; /* of blocks[], of queue[] */
        find_places(places, d, jpeg->ncomp, my);
        for (int mx = 0; mx < columns; mx++) {
            if (jpeg->restart_interval && until_restart-- == 0) {
                if (bits_left(&s) >= 8 || read_marker(&s) != 0xD0 + restarts % 8)
                    return ZF_UNSUPPORTED;
                restarts++;
                until_restart = jpeg->restart_interval - 1;
                read_segment(d, &s);
                dc[0] = dc[1] = dc[2] = 0;
            }
            bool needed = my >= my0 && mx >= mx0 && mx < mx1;
            zf_block *blocks = needed ? d->blocks + held : NULL;
            if (!d->kernels->mcu(&s.bits, &d->mcu, dc, blocks, last) || bits_left(&s) < 0)
                return ZF_UNSUPPORTED;
            if (!needed)
                continue;
            queued = queue_mcu(d, queued, places, mx, blocks, last);
            held += d->mcu.nblocks;
            if (held + d->mcu.nblocks > QUEUE || mx + 1 == mx1) {
                zf_piece_begins(&d->times.idct);
                if (!d->kernels->idct(d->queue, queued))
                    return ZF_UNSUPPORTED;
                zf_piece_ends(&d->times.idct);
                held = queued = 0;
            }
        }
        for (int i = 0; i < jpeg->ncomp; i++) {
            const plane *p = &d->planes[i];
            if (looks_sideways(p) && my >= my0)
                extend_edges(p, 8 * p->v * my, 8 * p->v * (my + 1));
        }
        /* the last row's lower neighbours come with the next MCU row */
        int ready = (my + 1) * mcu_h - (context && my + 1 < rows ? 1 : 0);
        for (; y < zf_min(ready, w.y1); y++) {
            zf_status status = deliver(d, jpeg, w, y, rgb, row, ctx);
            if (status != ZF_OK)
                return status;
        }
    }
    bool well = my1 < rows ? ends_well(&s) : bits_left(&s) < 8 && read_marker(&s) == 0xD9;
    return well ? ZF_OK : ZF_UNSUPPORTED;
}
