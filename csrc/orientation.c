/* Turns pictures by their EXIF orientation, as cv2.imread does. */
#include "zf_orientation.h"

#include <stdlib.h>
#include <string.h>

/* An orientation is a transposition (of 5 to 8), and then these flips. */
static bool flips_x(int orientation)
{
    return orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
}

static bool flips_y(int orientation)
{
    return orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
}

bool zf_is_transposed(int orientation) { return orientation >= 5; }

static void flip(int *from, int *to, int size)
{
    int begin = *from;
    *from = size - *to;
    *to = size - begin;
}

/* The window of the file that a window of the turned picture, which has w x h pixels,
 * shows. */
static zf_window source_window(zf_window turned, int orientation, int w, int h)
{
    if (flips_x(orientation))
        flip(&turned.x0, &turned.x1, w);
    if (flips_y(orientation))
        flip(&turned.y0, &turned.y1, h);
    if (zf_is_transposed(orientation))
        return (zf_window){turned.y0, turned.x0, turned.y1, turned.x1};
    return turned;
}

/* The decoded window. */
typedef struct {
    uint8_t *planes[3];
    size_t width, height;
    int top, channels;
} picture;

static zf_status keep_row(void *ctx, int y, const uint8_t *const planes[3])
{
    picture *p = ctx;
    for (int c = 0; c < p->channels; c++)
        memcpy(p->planes[c] + (size_t)(y - p->top) * p->width, planes[c], p->width);
    return ZF_OK;
}

/* Row y of the turned window, of n pixels. */
static void turned_row(const picture *p, int channel, int orientation, size_t y, size_t n,
                       uint8_t *row)
{
    bool is_transposed = zf_is_transposed(orientation);
    size_t height = is_transposed ? p->width : p->height;
    size_t line = flips_y(orientation) ? height - 1 - y : y;
    const uint8_t *from = p->planes[channel] + line * (is_transposed ? 1 : p->width);
    size_t step = is_transposed ? p->width : 1;
    if (flips_x(orientation))
        for (size_t x = 0; x < n; x++)
            row[x] = from[(n - 1 - x) * step];
    else
        for (size_t x = 0; x < n; x++)
            row[x] = from[x * step];
}

zf_status zf_decode_turned(zf_decoders *decoders, const zf_jpeg *jpeg, int orientation,
                           zf_window window, zf_row_fn row, void *ctx, zf_decoder *used)
{
    bool is_transposed = zf_is_transposed(orientation);
    int w = is_transposed ? jpeg->height : jpeg->width;
    int h = is_transposed ? jpeg->width : jpeg->height;
    zf_window source = source_window(window, orientation, w, h);
    picture p = {.width = (size_t)(source.x1 - source.x0),
                 .height = (size_t)(source.y1 - source.y0),
                 .top = source.y0,
                 .channels = jpeg->ncomp};
    size_t n = (size_t)(window.x1 - window.x0), row_nbytes = n + ZF_PAD;
    size_t plane_nbytes = p.width * p.height;
    uint8_t *memory = calloc(1, 3 * row_nbytes + (size_t)p.channels * plane_nbytes);
    if (!memory)
        return ZF_NOMEM;
    uint8_t *rows[3];
    for (int c = 0; c < 3; c++) {
        rows[c] = memory + (size_t)c * row_nbytes;
        p.planes[c] = memory + 3 * row_nbytes + (size_t)(c < p.channels ? c : 0) * plane_nbytes;
    }
    zf_status status = zf_decode_window(decoders, jpeg, source, keep_row, &p, used);
    for (int y = window.y0; status == ZF_OK && y < window.y1; y++) {
        for (int c = 0; c < p.channels; c++)
            turned_row(&p, c, orientation, (size_t)(y - window.y0), n, rows[c]);
        status = row(ctx, y, (const uint8_t *const *)rows);
    }
    free(memory);
    return status;
}
