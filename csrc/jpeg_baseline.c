/*
 * Decodes a window of a baseline JPEG, one MCU row after the other.
 *
 * Entropy decoding has to begin at the top left. But only the blocks that the
 * window's pixels depend on are stored and transformed, and MCU rows below the
 * window are not decoded. The decoder holds the samples of at most two MCU rows.
 * Complete pixel rows go to the caller at once.
 */
#include "zf_jpeg_internal.h"

#include <stdlib.h>
#include <string.h>

#define MARGIN 64 /* writable bytes before a sample row: its left neighbour, alignment */
#define SLACK (ZF_PAD + MARGIN) /* bytes past a row's end that kernels may touch */

/* Blocks that wait for their transform. Several are transformed at once, since
 * AVX-512 does two at a time; few enough to stay in the L1 cache. */
#define QUEUE 12

typedef enum { UP_NONE, UP_BOX, UP_H2V1, UP_H2V2, UP_H1V2 } upsampling;

/* The plan for one component of one window. */
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

/* The MCUs of the picture, and the range that the window needs. */
typedef struct {
    int columns, rows;
    int x0, y0, x1, y1;
    int pixel_rows; /* in an MCU */
} mcu_grid;

struct zf_baseline {
    const zf_jpeg_kernels *kernels;
    zf_dc_table dc[4];
    zf_ac_table ac[4];
    plane planes[3];
    bool rows_above_and_below; /* some plane's upsampling reads neighbouring rows */
    mcu_grid grid;
    uint8_t *rgb[3]; /* rows for converted pixels */
    zf_mcu mcu;
    _Alignas(64) zf_block blocks[QUEUE];
    zf_transform queue[QUEUE]; /* the blocks[] that the window needs */
    uint8_t *unstuffed; /* the bytes of one restart interval */
    size_t unstuffed_capacity;
    uint8_t *pixels; /* all sample rows, upsampled rows and RGB rows */
    size_t pixels_capacity;
    zf_pixel_times times;
};

zf_baseline *zf_baseline_open(zf_level level)
{
    zf_baseline *d = NULL;

    if (posix_memalign((void **)&d, 64, sizeof *d) != 0)
        return NULL;
    memset(d, 0, sizeof *d);
    d->kernels = zf_jpeg_kernels_of[level];
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

const zf_pixel_times *zf_baseline_times(const zf_baseline *d) { return &d->times; }

/* Makes *buffer hold nbytes, and loses its contents; false when out of memory. */
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
    memset(*buffer, 0, nbytes); /* kernels read past the ends of rows, without using it */
    *capacity = nbytes;
    return true;
}

static int ceil_div(int a, int b) { return (a + b - 1) / b; }

/* ---- planning --------------------------------------------------------------- */

/* What libjpeg chooses (jdsample.c) with fancy upsampling on. It has a box
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

static bool reads_left_and_right(const plane *p)
{
    return p->up == UP_H2V1 || p->up == UP_H2V2;
}

static bool reads_above_and_below(const plane *p)
{
    return p->up == UP_H1V2 || p->up == UP_H2V2;
}

static bool plan_plane(plane *p, const zf_jpeg *jpeg, const zf_component *c, zf_window w)
{
    bool alone = jpeg->ncomp == 1; /* then the sampling factors mean nothing */
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

    int dx = reads_left_and_right(p), dy = reads_above_and_below(p);
    p->bx0 = zf_max(w.x0 / p->h_expand - dx, 0) / 8;
    p->by0 = zf_max(w.y0 / p->v_expand - dy, 0) / 8;
    p->bx1 = ceil_div(zf_min(ceil_div(w.x1, p->h_expand) + dx, p->width), 8);
    p->by1 = ceil_div(zf_min(ceil_div(w.y1, p->v_expand) + dy, p->height), 8);

    if (!jpeg->quant_defined[c->tq])
        return false;
    for (int k = 0; k < 64; k++) {
        int factor = jpeg->quant[c->tq][k];
        p->q.factor[zf_zigzag_index[k]] = (int16_t)factor;
        p->q.limit[zf_zigzag_index[k]] = (uint16_t)(factor ? ZF_COEF_MAX / factor : INT16_MAX);
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

static mcu_grid plan_grid(const zf_baseline *d, const zf_jpeg *jpeg)
{
    const plane *first = &d->planes[0];
    int mcu_w = 8 * first->h * first->h_expand, mcu_h = 8 * first->v * first->v_expand;
    int columns = ceil_div(jpeg->width, mcu_w), rows = ceil_div(jpeg->height, mcu_h);
    mcu_grid g = {columns, rows, .x0 = columns, .y0 = rows, .pixel_rows = mcu_h};
    for (int i = 0; i < jpeg->ncomp; i++) {
        const plane *p = &d->planes[i];
        g.x0 = zf_min(g.x0, p->bx0 / p->h);
        g.y0 = zf_min(g.y0, p->by0 / p->v);
        g.x1 = zf_max(g.x1, ceil_div(p->bx1, p->h));
        g.y1 = zf_max(g.y1, ceil_div(p->by1, p->v));
    }
    return g;
}

/* Lays all rows out in one buffer; false when out of memory. */
static bool plan_rows(zf_baseline *d, const zf_jpeg *jpeg, zf_window w)
{
    size_t row_nbytes = ((size_t)(w.x1 - w.x0) + 16 + SLACK + 63) / 64 * 64;
    size_t need = SLACK;

    for (int i = 0; i < jpeg->ncomp; i++) {
        plane *p = &d->planes[i];
        p->stride = ((size_t)(p->bx1 - p->bx0) * 8 + MARGIN + SLACK + 63) / 64 * 64;
        p->ring = 8 * p->v * (d->rows_above_and_below ? 2 : 1);
        need += p->stride * (size_t)p->ring + 2 * row_nbytes;
    }
    if (!reserve(&d->pixels, &d->pixels_capacity, need))
        return false;
    uint8_t *next = d->pixels;
    for (int i = 0; i < jpeg->ncomp; i++) {
        plane *p = &d->planes[i];
        p->samples = next + MARGIN;
        next += p->stride * (size_t)p->ring;
        p->row = next;
        next += row_nbytes;
        d->rgb[i] = next;
        next += row_nbytes;
    }
    return true;
}

static zf_status plan(zf_baseline *d, const zf_jpeg *jpeg, zf_window w)
{
    if (jpeg->progressive || jpeg->scan_ncomp != jpeg->ncomp || jpeg->scan_ss != 0 ||
        jpeg->scan_se != 63 || jpeg->scan_ah != 0 || jpeg->scan_al != 0)
        return ZF_UNSUPPORTED;
    d->rows_above_and_below = false;
    for (int i = 0; i < jpeg->ncomp; i++) {
        if (!plan_plane(&d->planes[i], jpeg, &jpeg->comp[i], w))
            return ZF_UNSUPPORTED;
        d->rows_above_and_below |= reads_above_and_below(&d->planes[i]);
    }
    if (!plan_mcu(d, jpeg))
        return ZF_UNSUPPORTED;
    d->grid = plan_grid(d, jpeg);
    size_t scan_nbytes = jpeg->nbytes - jpeg->scan_offset;
    if (!plan_rows(d, jpeg, w) ||
        !reserve(&d->unstuffed, &d->unstuffed_capacity, scan_nbytes + ZF_BITS_PAD))
        return ZF_NOMEM;
    d->times = (zf_pixel_times){0};
    return ZF_OK;
}

/* ---- the compressed bytes ------------------------------------------------- */

typedef struct {
    const uint8_t *next, *end; /* the file's bytes that were not read yet */
    const uint8_t *start;      /* the bytes of a restart interval, unstuffed */
    size_t n;                  /* how many bytes those are */
    zf_bits bits;
    int dc[3];                 /* the last DC of each component */
    int until_restart;         /* MCUs up to the next restart marker */
    int restarts;              /* restart markers read so far */
} stream;

/* Unstuffs the bytes up to the next marker. */
static void read_interval(zf_baseline *d, stream *s)
{
    uint8_t *start = d->unstuffed;
    s->next = d->kernels->unstuff(start, &s->n, s->next, s->end);
    memset(start + s->n, 0, ZF_BITS_PAD);
    s->start = start;
    s->bits = (zf_bits){start, 0, 0};
}

/* Reads the marker at s->next, after any fill bytes; 0 if the file ends. */
static int read_marker(stream *s)
{
    while (s->next < s->end && *s->next == 0xFF)
        s->next++;
    return s->next < s->end ? *s->next++ : 0;
}

/* Bits of the restart interval that were not used yet; negative if the decoder
 * ran past its end. */
static int64_t bits_left(const stream *s)
{
    return ((int64_t)(s->start - s->bits.p) + (int64_t)s->n) * 8 + s->bits.left;
}

static bool is_restart(int marker) { return marker >= 0xD0 && marker <= 0xD7; }

/* Reads a restart marker and begins the next restart interval. False if the
 * interval has bytes left or another marker follows. */
static bool restart(zf_baseline *d, const zf_jpeg *jpeg, stream *s)
{
    if (bits_left(s) >= 8 || read_marker(s) != 0xD0 + s->restarts % 8)
        return false;
    s->restarts++;
    s->until_restart = jpeg->restart_interval;
    read_interval(d, s);
    s->dc[0] = s->dc[1] = s->dc[2] = 0;
    return true;
}

/* Whether an end-of-image marker follows the scan's bytes, which are not
 * decoded. Pillow refuses a truncated file, also if the window needs no more of
 * it. */
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

/* Where one of an MCU's blocks is stored, for all MCUs of a row: the block of the
 * MCU in column mx is number mx * step + dx of the row's n needed blocks. It is
 * not needed if that is negative, or n or more. */
typedef struct {
    const zf_dequant *q;
    uint8_t *dst; /* of needed block 0 */
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

/* Adds the blocks of an MCU that the window needs to the queue, which has n
 * entries. Returns the queue's new length. */
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

/* Repeats the samples at the picture's left and right edges, as the triangle
 * filters need it. */
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

/* ---- pixels --------------------------------------------------------------- */

/* The samples of plane p for the pixels [w.x0, w.x1) of row y. */
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

/* Upsamples and converts pixel row y, and gives it to the caller. */
static zf_status deliver(zf_baseline *d, const zf_jpeg *jpeg, zf_window w, int y,
                         zf_row_fn row, void *ctx)
{
    const uint8_t *planes[3] = {NULL, NULL, NULL};
    zf_piece_begins(&d->times.colour);
    for (int i = 0; i < jpeg->ncomp; i++)
        planes[i] = upsampled(d, &d->planes[i], w, y);
    if (jpeg->color == ZF_COLOR_YCC) {
        d->kernels->ycc_to_rgb(d->rgb, planes[0], planes[1], planes[2], w.x1 - w.x0);
        for (int i = 0; i < 3; i++)
            planes[i] = d->rgb[i];
    }
    zf_piece_ends(&d->times.colour);
    return row(ctx, y, planes);
}

/* ---- decoding ------------------------------------------------------------- */

/* Transforms the blocks of the queue; false if a block is out of range. */
static bool transform_queue(zf_baseline *d, int n)
{
    zf_piece_begins(&d->times.idct);
    if (!d->kernels->idct(d->queue, n))
        return false;
    zf_piece_ends(&d->times.idct);
    return true;
}

/* Decodes row `my` of MCUs into samples; false where the data is bad. */
static bool decode_mcu_row(zf_baseline *d, const zf_jpeg *jpeg, stream *s, int my)
{
    const mcu_grid *g = &d->grid;
    place places[ZF_MCU_BLOCKS];
    uint8_t last[ZF_MCU_BLOCKS];
    int held = 0, queued = 0; /* entries of blocks[], of queue[] */

    find_places(places, d, jpeg->ncomp, my);
    for (int mx = 0; mx < g->columns; mx++) {
        if (jpeg->restart_interval) {
            if (s->until_restart == 0 && !restart(d, jpeg, s))
                return false;
            s->until_restart--;
        }
        bool needed = my >= g->y0 && mx >= g->x0 && mx < g->x1;
        zf_block *blocks = needed ? d->blocks + held : NULL;
        if (!d->kernels->mcu(&s->bits, &d->mcu, s->dc, blocks, last) || bits_left(s) < 0)
            return false;
        if (!needed)
            continue;
        queued = queue_mcu(d, queued, places, mx, blocks, last);
        held += d->mcu.nblocks;
        if (held + d->mcu.nblocks > QUEUE || mx + 1 == g->x1) {
            if (!transform_queue(d, queued))
                return false;
            held = queued = 0;
        }
    }
    for (int i = 0; i < jpeg->ncomp; i++) {
        const plane *p = &d->planes[i];
        if (reads_left_and_right(p) && my >= g->y0)
            extend_edges(p, 8 * p->v * my, 8 * p->v * (my + 1));
    }
    return true;
}

zf_status zf_baseline_decode(zf_baseline *d, const zf_jpeg *jpeg, zf_window w, zf_row_fn row,
                             void *ctx)
{
    zf_status status = plan(d, jpeg, w);
    if (status != ZF_OK)
        return status;
    const mcu_grid *g = &d->grid;
    stream s = {.next = jpeg->data + jpeg->scan_offset,
                .end = jpeg->data + jpeg->nbytes,
                .until_restart = jpeg->restart_interval};
    int y = w.y0; /* the pixel row to be delivered next */

    read_interval(d, &s);
    for (int my = 0; my < g->y1; my++) {
        if (!decode_mcu_row(d, jpeg, &s, my))
            return ZF_UNSUPPORTED;
        /* an MCU row's last pixel row needs samples of the next MCU row */
        int ready = (my + 1) * g->pixel_rows - (d->rows_above_and_below && my + 1 < g->rows);
        for (; y < zf_min(ready, w.y1); y++) {
            status = deliver(d, jpeg, w, y, row, ctx);
            if (status != ZF_OK)
                return status;
        }
    }
    bool complete = g->y1 < g->rows ? ends_well(&s)
                                    : bits_left(&s) < 8 && read_marker(&s) == 0xD9;
    return complete ? ZF_OK : ZF_UNSUPPORTED;
}
