/* Chooses the decoder for an image: one of our own if it supports the file, else
 * libjpeg-turbo. If none does, the caller leaves the image to Pillow. */
#include "zf_jpeg_internal.h"

#include <stdlib.h>

static const char *const decoder_names[] = {
#define NAME(constant, name) [ZF_DECODER_##constant] = name,
    ZF_DECODERS(NAME)
#undef NAME
};
_Static_assert(sizeof decoder_names / sizeof *decoder_names == ZF_DECODER_COUNT,
               "each decoder has a name");

const char *zf_decoder_name(zf_decoder decoder) { return decoder_names[decoder]; }

struct zf_decoders {
    zf_baseline *baseline;
    zf_progressive *progressive;
    zf_turbo *turbo;
    /* Our scalar pixel code is slow, since it is written for readers.
     * libjpeg-turbo has SIMD also for CPUs without the features of our levels. */
    bool turbo_first;
};

zf_decoders *zf_decoders_open(zf_level level)
{
    zf_decoders *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->baseline = zf_baseline_open(level);
    d->progressive = zf_progressive_open(level);
    d->turbo = zf_turbo_open(zf_kernels_of[level]);
    d->turbo_first = level == ZF_LEVEL_SCALAR;
    if (d->baseline && d->progressive && d->turbo)
        return d;
    zf_decoders_close(d);
    return NULL;
}

void zf_decoders_close(zf_decoders *d)
{
    if (!d)
        return;
    zf_baseline_close(d->baseline);
    zf_progressive_close(d->progressive);
    zf_turbo_close(d->turbo);
    free(d);
}

const zf_pixel_times *zf_decoders_times(const zf_decoders *d, zf_decoder used)
{
    switch (used) {
    case ZF_DECODER_BASELINE:
        return zf_baseline_times(d->baseline);
    case ZF_DECODER_PROGRESSIVE:
        return zf_progressive_times(d->progressive);
    default:
        return NULL;
    }
}

zf_status zf_decode_window(zf_decoders *d, const zf_jpeg *jpeg, zf_window window,
                           zf_decoder only, zf_row_fn row, void *ctx, zf_decoder *used)
{
    zf_status status = ZF_UNSUPPORTED;
    zf_decoder own = jpeg->progressive ? ZF_DECODER_PROGRESSIVE : ZF_DECODER_BASELINE;
    if (only == own || (only == ZF_DECODER_NONE && !d->turbo_first)) {
        *used = own;
        status = jpeg->progressive
                     ? zf_progressive_decode(d->progressive, jpeg, window, row, ctx)
                     : zf_baseline_decode(d->baseline, jpeg, window, row, ctx);
    }
    if (status == ZF_UNSUPPORTED && (only == ZF_DECODER_NONE || only == ZF_DECODER_TURBO)) {
        *used = ZF_DECODER_TURBO;
        status = zf_turbo_decode(d->turbo, jpeg, window, row, ctx);
    }
    if (status != ZF_OK)
        *used = ZF_DECODER_NONE;
    return status;
}
