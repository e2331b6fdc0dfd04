/*
 * Decodes a window of a JPEG with several scans.
 *
 * A progressive file has several scans of the whole picture: first the
 * coefficients' high bits, band by band, then their lower bits. A sequential file
 * may have a scan for each component. The complete file is in memory,
 * so all scans are decoded side by side: each of them some MCU rows, then these
 * rows' blocks are transformed. Few coefficients are in memory at a time, and rows
 * below the window are not decoded. As in jpeg_baseline.c, only the blocks that
 * the window's pixels depend on have coefficients; of the others the decoder
 * keeps which coefficients are not 0, as a progressive file's later scans depend
 * on it.
 */
#include "zf_jpeg_bits.h"

#include <stdlib.h>

/* Usual files have 3, 6 or 10 scans. Pillow decodes files with more. */
#define MAX_SCANS 64
/* Bytes of coefficients that are decoded at a time, at least one MCU row: they
 * stay in the L2 cache, and a scan's state is loaded once per so many. */
#define BATCH_NBYTES (128 * 1024)

typedef struct {
    zf_stream stream;
    const uint8_t *end; /* of the scan, in the file */
    bool is_dc;
    int ncomp, comp[3];
    int high_bit; /* that the scan adds to; 0: it has the first bits */
    zf_ac_scan ac; /* for DC only low_bit is used */
    zf_mcu mcu;    /* of a sequential file */
} scan;

/* The blocks of a component, in the MCU rows that are decoded at a time. */
typedef struct {
    int columns, rows;  /* of the picture, in blocks */
    size_t stride;      /* blocks from one row of nonzero[] to the next */
    uint64_t *nonzero;  /* see ZF_DECL_AC_SCAN; of a sequential file, the last one's bit */
    size_t coef_stride; /* needed blocks in a row */
    int16_t *coef;
} component;

struct zf_progressive {
    zf_planes planes;
    zf_dc_table dc[3]; /* of each component: one scan has its first bits */
    zf_ac_table ac[3]; /* the same of sequential files */
    _Alignas(64) zf_block mcu_blocks[ZF_MCU_BLOCKS]; /* of sequential files */
    component comp[3];
    int8_t known[3][64]; /* the lowest bit known of each coefficient; -1: none */
    bool is_sequential;
    scan *scans;
    int nscans, scans_capacity;
    int first_row, batch; /* the MCU rows that are decoded now; how many at a time */
    uint8_t *unstuffed;
    size_t unstuffed_capacity;
    uint8_t *blocks; /* all components' nonzero and coef */
    size_t blocks_capacity, blocks_nbytes;
};

zf_progressive *zf_progressive_open(zf_level level)
{
    zf_progressive *d = NULL;

    if (posix_memalign((void **)&d, 64, sizeof *d) != 0)
        return NULL;
    memset(d, 0, sizeof *d);
    d->planes.kernels = zf_jpeg_kernels_of[level];
    return d;
}

void zf_progressive_close(zf_progressive *d)
{
    if (!d)
        return;
    free(d->scans);
    free(d->unstuffed);
    free(d->blocks);
    free(d->planes.pixels);
    free(d);
}

const zf_pixel_times *zf_progressive_times(const zf_progressive *d)
{
    return &d->planes.times;
}

/* ---- planning --------------------------------------------------------------- */

/* Whether the scan brings coefficients' first bits or their next one, and nothing
 * twice. libjpeg only warns of some other orders of scans. */
static bool note_progress(zf_progressive *d, const scan *s, const zf_jpeg *jpeg)
{
    for (int i = 0; i < s->ncomp; i++) {
        int8_t *known = d->known[s->comp[i]];
        if (!s->is_dc && known[0] < 0)
            return false;
        for (int k = jpeg->scan_ss; k <= jpeg->scan_se; k++) {
            if (s->high_bit == 0 ? known[k] >= 0 : known[k] != s->high_bit)
                return false;
            known[k] = (int8_t)s->ac.low_bit;
        }
    }
    return true;
}

/* Plans the MCUs of a scan of a sequential file; false where a table is missing. */
static bool plan_mcu(zf_progressive *d, scan *s, const zf_jpeg *jpeg)
{
    s->mcu.nblocks = 0;
    for (int i = 0; i < s->ncomp; i++) {
        int c = s->comp[i];
        const zf_plane *p = &d->planes.plane[c];
        if (!zf_dc_table_make(&d->dc[c], &jpeg->dc[jpeg->comp[c].td]) ||
            !zf_ac_table_make(&d->ac[c], &jpeg->ac[jpeg->comp[c].ta]))
            return false;
        for (int j = 0; j < (s->ncomp == 1 ? 1 : p->h * p->v); j++) {
            int n = s->mcu.nblocks++;
            s->mcu.block[n].comp = i;
            s->mcu.block[n].dc = &d->dc[c];
            s->mcu.block[n].ac = &d->ac[c];
        }
    }
    return true;
}

/* Plans the scan whose header was read last; false where it is unusual. */
static bool plan_scan(zf_progressive *d, scan *s, const zf_jpeg *jpeg)
{
    int blocks = 0;

    s->ncomp = 0;
    for (int i = 0; i < jpeg->ncomp; i++)
        if (jpeg->comp[i].td >= 0) {
            s->comp[s->ncomp++] = i;
            blocks += d->planes.plane[i].h * d->planes.plane[i].v;
        }
    s->is_dc = jpeg->scan_ss == 0;
    s->high_bit = jpeg->scan_ah;
    s->ac.first = jpeg->scan_ss;
    s->ac.last = jpeg->scan_se;
    s->ac.low_bit = jpeg->scan_al;
    s->ac.eob_run = 0;
    if (s->ac.low_bit > ZF_LOW_BIT_MAX || (s->high_bit && s->ac.low_bit != s->high_bit - 1))
        return false;
    if (s->ncomp > 1 && blocks > ZF_MCU_BLOCKS)
        return false;
    if (!jpeg->progressive)
        return s->ac.first == 0 && s->ac.last == 63 && s->high_bit == 0 &&
               s->ac.low_bit == 0 && note_progress(d, s, jpeg) && plan_mcu(d, s, jpeg);
    if (s->is_dc ? s->ac.last != 0
                 : s->ac.last > 63 || s->ac.last < s->ac.first || s->ncomp > 1)
        return false;
    if (!note_progress(d, s, jpeg))
        return false;
    if (!s->is_dc) /* a scan that adds a bit has only new coefficients of 1 or -1 */
        return zf_scan_table_make(&s->ac.table, &jpeg->ac[jpeg->comp[s->comp[0]].ta],
                                  s->high_bit ? 1 : 15);
    for (int i = 0; i < s->ncomp && s->high_bit == 0; i++)
        if (!zf_dc_table_make(&d->dc[s->comp[i]], &jpeg->dc[jpeg->comp[s->comp[i]].td]))
            return false;
    return true;
}

/* Makes room for one more scan. */
static bool reserve_scan(zf_progressive *d)
{
    if (d->nscans < d->scans_capacity)
        return true;
    int capacity = d->scans_capacity + 12;
    scan *scans = realloc(d->scans, (size_t)capacity * sizeof *scans);
    if (!scans)
        return false;
    d->scans = scans;
    d->scans_capacity = capacity;
    return true;
}

/* Reads all scans' headers, up to the end of the image. */
static zf_status plan_scans(zf_progressive *d, const zf_jpeg *header)
{
    zf_jpeg jpeg = *header;
    const uint8_t *end = jpeg.data + jpeg.nbytes;

    d->nscans = 0;
    memset(d->known, -1, sizeof d->known);
    if (!zf_reserve(&d->unstuffed, &d->unstuffed_capacity,
                    jpeg.nbytes - jpeg.scan_offset + MAX_SCANS * ZF_BITS_PAD))
        return ZF_NOMEM;
    uint8_t *buffer = d->unstuffed;
    for (;;) {
        if (d->nscans == MAX_SCANS)
            return ZF_UNSUPPORTED;
        if (!reserve_scan(d))
            return ZF_NOMEM;
        scan *s = &d->scans[d->nscans++];
        if (!plan_scan(d, s, &jpeg))
            return ZF_UNSUPPORTED;
        zf_stream_begin(&s->stream, d->planes.kernels, &jpeg, buffer);
        s->end = zf_scan_end(s->stream.next, end);
        if (!s->end)
            return ZF_UNSUPPORTED;
        s->stream.end = s->end;
        buffer += (size_t)(s->end - (jpeg.data + jpeg.scan_offset)) + ZF_BITS_PAD;
        if (zf_marker_at(s->end, end) == 0xD9)
            return ZF_OK;
        if (!zf_jpeg_next_scan(&jpeg, (size_t)(s->end - jpeg.data)))
            return ZF_UNSUPPORTED;
    }
}

/* libjpeg smooths the blocks of a progressive picture of which bits are missing. */
static bool is_complete(const zf_progressive *d, int ncomp)
{
    for (int c = 0; c < ncomp; c++)
        for (int k = 0; k < 64; k++)
            if (d->known[c][k] != 0)
                return false;
    return true;
}

/* Lays out the blocks of as many MCU rows as are decoded at a time; false when out
 * of memory. */
static bool plan_blocks(zf_progressive *d)
{
    const zf_planes *planes = &d->planes;
    size_t per_row[3], all = 0;

    for (int i = 0; i < planes->ncomp; i++) {
        const zf_plane *p = &planes->plane[i];
        component *c = &d->comp[i];
        c->columns = zf_ceil_div(p->width, 8);
        c->rows = zf_ceil_div(p->height, 8);
        c->stride = ((size_t)(planes->grid.columns * p->h) + 7) / 8 * 8;
        c->coef_stride = (size_t)(p->bx1 - p->bx0);
        per_row[i] = (size_t)p->v * (c->stride * sizeof *c->nonzero +
                                     c->coef_stride * 64 * sizeof *c->coef);
        all += per_row[i];
    }
    d->batch = zf_max(1, (int)(BATCH_NBYTES / all));
    d->blocks_nbytes = all * (size_t)d->batch;
    if (!zf_reserve(&d->blocks, &d->blocks_capacity, d->blocks_nbytes))
        return false;
    uint8_t *next = d->blocks;
    for (int i = 0; i < planes->ncomp; i++) {
        component *c = &d->comp[i];
        size_t rows = (size_t)(planes->plane[i].v * d->batch);
        c->nonzero = (uint64_t *)next;
        c->coef = (int16_t *)(next + rows * c->stride * sizeof *c->nonzero);
        next += per_row[i] * (size_t)d->batch;
    }
    return true;
}

static zf_status plan(zf_progressive *d, const zf_jpeg *jpeg, zf_window w)
{
    d->is_sequential = !jpeg->progressive;
    zf_status status = zf_planes_begin(&d->planes, jpeg, w);
    if (status == ZF_OK)
        status = plan_scans(d, jpeg);
    if (status != ZF_OK)
        return status;
    if (!is_complete(d, jpeg->ncomp))
        return ZF_UNSUPPORTED;
    return plan_blocks(d) ? ZF_OK : ZF_NOMEM;
}

/* ---- scans ------------------------------------------------------------------ */

/* Begins an MCU: false where a restart marker is missing. */
static bool begin_mcu(zf_stream *s)
{
    if (s->restart_interval == 0)
        return true;
    if (s->until_restart == 0 && !zf_stream_restart(s))
        return false;
    s->until_restart--;
    return true;
}

/* How many of the scan's own MCUs a row has. They have one block if the scan has one
 * component. */
static int mcus_in_row(const zf_progressive *d, const scan *s)
{
    return s->ncomp == 1 ? d->comp[s->comp[0]].columns : d->planes.grid.columns;
}

/* The coefficients of block by, bx of a component; NULL if the window does not need
 * it. */
static int16_t *block_at(const zf_progressive *d, int c, int by, int bx)
{
    const zf_plane *p = &d->planes.plane[c];
    if (by < p->by0 || by >= p->by1 || bx < p->bx0 || bx >= p->bx1)
        return NULL;
    size_t row = (size_t)(by - d->first_row * p->v);
    return d->comp[c].coef + 64 * (row * d->comp[c].coef_stride + (size_t)(bx - p->bx0));
}

static uint64_t *nonzero_at(const zf_progressive *d, int c, int by, int bx)
{
    size_t row = (size_t)(by - d->first_row * d->planes.plane[c].v);
    return d->comp[c].nonzero + row * d->comp[c].stride + bx;
}

/* Decodes a block of a scan of DC coefficients. block is NULL if it is not needed. */
static inline bool decode_dc(zf_bits *b, const scan *s, const zf_dc_table *table, int *dc,
                             int16_t *block)
{
    int difference;

    refill(b);
    if (s->high_bit) {
        if (block)
            block[0] |= (int16_t)((int)(b->buf >> 63) << s->ac.low_bit);
        drop(b, 1);
        return true;
    }
    if (!dc_difference(b, table, dc_entry(b, table), &difference))
        return false;
    *dc += difference;
    int value = *dc * (1 << s->ac.low_bit);
    if (*dc != (int16_t)*dc || value != (int16_t)value)
        return false;
    if (block)
        block[0] = (int16_t)value;
    return true;
}

/* Decodes row y of the scan's own MCUs. */
static bool decode_dc_row(zf_progressive *d, scan *s, int y)
{
    zf_stream *stream = &s->stream;
    bool alone = s->ncomp == 1;

    for (int x = 0, columns = mcus_in_row(d, s); x < columns; x++) {
        if (!begin_mcu(stream))
            return false;
        zf_bits b = stream->bits;
        for (int i = 0; i < s->ncomp; i++) {
            int c = s->comp[i];
            int h = alone ? 1 : d->planes.plane[c].h, v = alone ? 1 : d->planes.plane[c].v;
            for (int by = y * v; by < (y + 1) * v; by++)
                for (int bx = x * h; bx < (x + 1) * h; bx++)
                    if (!decode_dc(&b, s, &d->dc[c], &stream->dc[i], block_at(d, c, by, bx)))
                        return false;
        }
        stream->bits = b;
        if (zf_stream_bits_left(stream) < 0)
            return false;
    }
    return true;
}

/* Decodes row y of the own MCUs of a sequential file's scan. */
static bool decode_sequential_row(zf_progressive *d, scan *s, int y)
{
    const zf_jpeg_kernels *kernels = d->planes.kernels;
    zf_stream *stream = &s->stream;
    bool alone = s->ncomp == 1;
    struct {
        int16_t *coef; /* NULL: not needed */
        uint64_t *nonzero;
    } to[ZF_MCU_BLOCKS];
    uint8_t last[ZF_MCU_BLOCKS];

    for (int x = 0, columns = mcus_in_row(d, s); x < columns; x++) {
        int n = 0;
        bool needed = false;
        for (int i = 0; i < s->ncomp; i++) {
            int c = s->comp[i];
            const zf_plane *p = &d->planes.plane[c];
            int h = alone ? 1 : p->h, v = alone ? 1 : p->v;
            for (int by = y * v; by < (y + 1) * v; by++)
                for (int bx = x * h; bx < (x + 1) * h; bx++, n++) {
                    to[n].coef = block_at(d, c, by, bx);
                    to[n].nonzero = nonzero_at(d, c, by, bx);
                    needed |= to[n].coef != NULL;
                }
        }
        if (!begin_mcu(stream) ||
            !(needed ? kernels->mcu(&stream->bits, &s->mcu, stream->dc, d->mcu_blocks, last)
                     : kernels->skip(&stream->bits, zf_stream_end(stream), &s->mcu, stream->dc,
                                     1)) ||
            zf_stream_bits_left(stream) < 0)
            return false;
        for (int i = 0; i < n; i++)
            if (to[i].coef) {
                memcpy(to[i].coef, d->mcu_blocks[i], 64 * sizeof(int16_t));
                *to[i].nonzero = (uint64_t)1 << last[i];
            }
    }
    return true;
}

/* Decodes row by of the blocks of a scan of AC coefficients, in runs of blocks that
 * the window needs or does not need. */
static bool decode_ac_row(zf_progressive *d, scan *s, int by)
{
    const zf_jpeg_kernels *kernels = d->planes.kernels;
    ZF_DECL_AC_SCAN((*const decode)) = s->high_bit ? kernels->ac_refine : kernels->ac_first;
    zf_stream *stream = &s->stream;
    const zf_plane *p = &d->planes.plane[s->comp[0]];
    const component *c = &d->comp[s->comp[0]];
    uint64_t *nonzero = nonzero_at(d, s->comp[0], by, 0);

    for (int x = 0, n; x < c->columns; x += n) {
        n = (x < p->bx0 ? p->bx0 : x < p->bx1 ? p->bx1 : c->columns) - x;
        if (stream->restart_interval) {
            if (stream->until_restart == 0 && (s->ac.eob_run || !zf_stream_restart(stream)))
                return false;
            n = zf_min(n, stream->until_restart);
            stream->until_restart -= n;
        }
        if (!decode(&stream->bits, &s->ac, stream->start + stream->n + 8, nonzero + x,
                    block_at(d, s->comp[0], by, x), n) ||
            zf_stream_bits_left(stream) < 0)
            return false;
    }
    return true;
}

/* Decodes MCU row my of a scan; false where the data is bad. */
static bool decode_scan_row(zf_progressive *d, scan *s, int my)
{
    bool (*const decode)(zf_progressive *, scan *, int) =
        d->is_sequential ? decode_sequential_row : s->is_dc ? decode_dc_row : decode_ac_row;
    if (s->ncomp > 1)
        return decode(d, s, my);
    int v = d->planes.plane[s->comp[0]].v;
    for (int by = my * v; by < zf_min((my + 1) * v, d->comp[s->comp[0]].rows); by++)
        if (!decode(d, s, by))
            return false;
    return true;
}

/* Whether a scan ends where the picture does. */
static bool ends_here(const scan *s)
{
    return zf_stream_bits_left(&s->stream) < 8 && s->ac.eob_run == 0 &&
           s->stream.next == s->end;
}

/* ---- blocks ----------------------------------------------------------------- */

/* Transforms the blocks of MCU row my that the window needs; false if one is out of
 * range. */
static bool transform_mcu_row(zf_progressive *d, int my)
{
    zf_planes *planes = &d->planes;
    int queued = 0;

    for (int i = 0; i < planes->ncomp; i++) {
        const zf_plane *p = &planes->plane[i];
        for (int by = zf_max(my * p->v, p->by0); by < zf_min((my + 1) * p->v, p->by1); by++) {
            const uint64_t *nonzero = nonzero_at(d, i, by, 0);
            const int16_t *block = block_at(d, i, by, p->bx0);
            uint8_t *samples = zf_sample_row(p, 8 * by);
            for (int bx = p->bx0; bx < p->bx1; bx++, block += 64, samples += 8) {
                int last = 63 - __builtin_clzll(nonzero[bx] | 1);
                planes->queue[queued++] =
                    (zf_transform){block, &p->q, samples, p->stride, last};
                if (queued == ZF_QUEUE) {
                    if (!zf_planes_transform(planes, queued))
                        return false;
                    queued = 0;
                }
            }
        }
    }
    return zf_planes_transform(planes, queued);
}

zf_status zf_progressive_decode(zf_progressive *d, const zf_jpeg *jpeg, zf_window w,
                                zf_row_fn row, void *ctx)
{
    zf_status status = plan(d, jpeg, w);
    if (status != ZF_OK)
        return status;
    const zf_mcu_grid *g = &d->planes.grid;

    for (d->first_row = 0; d->first_row < g->y1; d->first_row += d->batch) {
        int end = zf_min(d->first_row + d->batch, g->y1);
        memset(d->blocks, 0, d->blocks_nbytes);
        for (int i = 0; i < d->nscans; i++)
            for (int my = d->first_row; my < end; my++)
                if (!decode_scan_row(d, &d->scans[i], my))
                    return ZF_UNSUPPORTED;
        for (int my = d->first_row; my < end; my++) {
            if (!transform_mcu_row(d, my))
                return ZF_UNSUPPORTED;
            status = zf_planes_end_mcu_row(&d->planes, my, row, ctx);
            if (status != ZF_OK)
                return status;
        }
    }
    for (int i = 0; i < d->nscans && g->y1 == g->rows; i++)
        if (!ends_here(&d->scans[i]))
            return ZF_UNSUPPORTED;
    return ZF_OK;
}
