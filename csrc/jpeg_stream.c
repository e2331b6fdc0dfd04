/* The entropy-coded bytes of a scan: restart intervals, and the markers behind
 * them. */
#include "zf_jpeg_internal.h"

#include <string.h>

static bool is_restart(int marker) { return marker >= 0xD0 && marker <= 0xD7; }

/* Unstuffs the bytes up to the next marker. */
static void read_interval(zf_stream *s)
{
    s->next = s->kernels->unstuff(s->start, &s->n, s->next, s->end);
    memset(s->start + s->n, 0, ZF_BITS_PAD);
    s->bits = (zf_bits){s->start, 0, 0};
    s->until_restart = s->restart_interval;
    s->dc[0] = s->dc[1] = s->dc[2] = 0;
}

void zf_stream_begin(zf_stream *s, const zf_jpeg_kernels *kernels, const zf_jpeg *jpeg,
                     uint8_t *buffer)
{
    s->kernels = kernels;
    s->next = jpeg->data + jpeg->scan_offset;
    s->end = jpeg->data + jpeg->nbytes;
    s->start = buffer;
    s->restart_interval = jpeg->restart_interval;
    s->restarts = 0;
    read_interval(s);
}

/* Reads the marker at s->next, after any fill bytes; 0 if the file ends. */
static int read_marker(zf_stream *s)
{
    while (s->next < s->end && *s->next == 0xFF)
        s->next++;
    return s->next < s->end ? *s->next++ : 0;
}

bool zf_stream_restart(zf_stream *s)
{
    if (zf_stream_bits_left(s) >= 8 || read_marker(s) != 0xD0 + s->restarts % 8)
        return false;
    s->restarts++;
    read_interval(s);
    return true;
}

const uint8_t *zf_scan_end(const uint8_t *next, const uint8_t *end)
{
    while (next < end && (next = memchr(next, 0xFF, (size_t)(end - next))) != NULL) {
        const uint8_t *marker = next;
        while (marker < end && *marker == 0xFF)
            marker++;
        if (marker == end)
            return NULL;
        if (*marker != 0 && !is_restart(*marker))
            return next;
        next = marker;
    }
    return NULL;
}
