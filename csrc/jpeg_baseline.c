/*
 * Decodes a window of a baseline JPEG, one MCU row after the other.
 *
 * Entropy decoding has to begin at the top left. But only the blocks that the
 * window's pixels depend on are stored and transformed, and MCU rows below the
 * window are not decoded.
 */
#include "zf_jpeg_internal.h"

#include <stdlib.h>
#include <string.h>

struct zf_baseline {
    zf_dc_table dc[4];
    zf_ac_table ac[4];
    zf_planes planes;
    zf_mcu mcu;
    _Alignas(64) zf_block blocks[ZF_QUEUE];
    uint8_t *unstuffed; /* the bytes of one restart interval */
    size_t unstuffed_capacity;
};

zf_baseline *zf_baseline_open(zf_level level)
{
    zf_baseline *d = NULL;

    if (posix_memalign((void **)&d, 64, sizeof *d) != 0)
        return NULL;
    memset(d, 0, sizeof *d);
    d->planes.kernels = zf_jpeg_kernels_of[level];
    return d;
}

void zf_baseline_close(zf_baseline *d)
{
    if (!d)
        return;
    free(d->unstuffed);
    free(d->planes.pixels);
    free(d);
}

const zf_pixel_times *zf_baseline_times(const zf_baseline *d) { return &d->planes.times; }

/* ---- planning --------------------------------------------------------------- */

static bool plan_mcu(zf_baseline *d, const zf_jpeg *jpeg)
{
    d->mcu.nblocks = 0;
    for (int i = 0; i < jpeg->ncomp; i++) {
        const zf_component *c = &jpeg->comp[i];
        if (c->td < 0 || !zf_dc_table_make(&d->dc[c->td], &jpeg->dc[c->td]) ||
            !zf_ac_table_make(&d->ac[c->ta], &jpeg->ac[c->ta]))
            return false;
        for (int j = 0; j < d->planes.plane[i].h * d->planes.plane[i].v; j++) {
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

static zf_status plan(zf_baseline *d, const zf_jpeg *jpeg, zf_window w)
{
    if (jpeg->scan_ss != 0 || jpeg->scan_se != 63 || jpeg->scan_ah != 0 || jpeg->scan_al != 0)
        return ZF_UNSUPPORTED;
    zf_status status = zf_planes_begin(&d->planes, jpeg, w);
    if (status != ZF_OK)
        return status;
    if (!plan_mcu(d, jpeg))
        return ZF_UNSUPPORTED;
    size_t scan_nbytes = jpeg->nbytes - jpeg->scan_offset;
    return zf_reserve(&d->unstuffed, &d->unstuffed_capacity, scan_nbytes + ZF_BITS_PAD)
               ? ZF_OK
               : ZF_NOMEM;
}

/* ---- decoding ------------------------------------------------------------- */

/* Where one of an MCU's blocks is stored, for all MCUs of a row: the block of the
 * MCU in column mx is number mx * step + dx of the row's n needed blocks. It is
 * not needed if that is negative, or n or more. */
typedef struct {
    const zf_dequant *q;
    uint8_t *dst; /* of needed block 0 */
    size_t stride;
    int step, dx, n;
} place;

static void find_places(place *places, const zf_planes *d, int my)
{
    for (int c = 0; c < d->ncomp; c++) {
        const zf_plane *p = &d->plane[c];
        for (int by = my * p->v; by < (my + 1) * p->v; by++) {
            bool needed = by >= p->by0 && by < p->by1;
            for (int x = 0; x < p->h; x++)
                *places++ = (place){.q = &p->q,
                                    .dst = zf_sample_row(p, 8 * by),
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
        d->planes.queue[n++] = (zf_transform){blocks[i], p->q, p->dst + 8 * bx, p->stride, last[i]};
    }
    return n;
}

/* Makes ready for n MCUs, or for fewer up to the next restart marker. Returns how many;
 * 0 where the data is bad. */
static int begin_mcus(zf_stream *s, int n)
{
    if (!s->restart_interval)
        return n;
    if (s->until_restart == 0 && !zf_stream_restart(s))
        return 0;
    n = zf_min(n, s->until_restart);
    s->until_restart -= n;
    return n;
}

/* Skips n MCUs; false where the data is bad. */
static bool skip_mcus(zf_baseline *d, zf_stream *s, int n)
{
    while (n > 0) {
        int run = begin_mcus(s, n);
        if (run == 0 || !d->planes.kernels->skip(&s->bits, zf_stream_end(s), &d->mcu, s->dc, run) ||
            zf_stream_bits_left(s) < 0)
            return false;
        n -= run;
    }
    return true;
}

/* Decodes the MCUs that the window needs of row `my` into samples; false where the data is
 * bad. */
static bool decode_needed(zf_baseline *d, zf_stream *s, int my)
{
    const zf_mcu_grid *g = &d->planes.grid;
    ZF_DECL_MCU((*const decode_mcu)) = d->planes.kernels->mcu;
    place places[ZF_MCU_BLOCKS];
    uint8_t last[ZF_MCU_BLOCKS];
    int held = 0, queued = 0; /* entries of blocks[], of queue[] */

    find_places(places, &d->planes, my);
    for (int mx = g->x0; mx < g->x1; mx++) {
        zf_block *blocks = d->blocks + held;
        if (!begin_mcus(s, 1) || !decode_mcu(&s->bits, &d->mcu, s->dc, blocks, last) ||
            zf_stream_bits_left(s) < 0)
            return false;
        queued = queue_mcu(d, queued, places, mx, blocks, last);
        held += d->mcu.nblocks;
        if (held + d->mcu.nblocks > ZF_QUEUE || mx + 1 == g->x1) {
            if (!zf_planes_transform(&d->planes, queued))
                return false;
            held = queued = 0;
        }
    }
    return true;
}

/* Decodes row `my` of MCUs; false where the data is bad. */
static bool decode_mcu_row(zf_baseline *d, zf_stream *s, int my)
{
    const zf_mcu_grid *g = &d->planes.grid;
    if (my < g->y0)
        return skip_mcus(d, s, g->columns);
    return skip_mcus(d, s, g->x0) && decode_needed(d, s, my) &&
           skip_mcus(d, s, g->columns - g->x1);
}

zf_status zf_baseline_decode(zf_baseline *d, const zf_jpeg *jpeg, zf_window w, zf_row_fn row,
                             void *ctx)
{
    zf_status status = plan(d, jpeg, w);
    if (status != ZF_OK)
        return status;
    const zf_mcu_grid *g = &d->planes.grid;
    zf_stream s;

    zf_stream_begin(&s, d->planes.kernels, jpeg, d->unstuffed);
    for (int my = 0; my < g->y1; my++) {
        if (!decode_mcu_row(d, &s, my))
            return ZF_UNSUPPORTED;
        status = zf_planes_end_mcu_row(&d->planes, my, row, ctx);
        if (status != ZF_OK)
            return status;
    }
    /* Pillow refuses a truncated file, also if the window needs no more of it. */
    const uint8_t *end = s.next;
    if (g->y1 < g->rows)
        end = zf_scan_end(s.next, s.end);
    else if (zf_stream_bits_left(&s) >= 8)
        return ZF_UNSUPPORTED;
    return end && zf_marker_at(end, s.end) == 0xD9 ? ZF_OK : ZF_UNSUPPORTED;
}
