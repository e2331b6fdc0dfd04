/* Which decoder makes an image's pixels: our own for what it knows, else
 * libjpeg-turbo; what neither takes is left to Pillow by the caller. */
#include "zf_jpeg_internal.h"

#include <stdlib.h>

struct zf_decoders {
    zf_baseline *baseline;
    zf_turbo *turbo;
    /* Our scalar pixel code is written for reading, and libjpeg-turbo has
     * SIMD of its own for CPUs that lack ours. */
    bool turbo_first;
};

zf_decoders *zf_decoders_open(const zf_kernels *kernels)
{
    zf_decoders *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->baseline = zf_baseline_open(zf_kernels_name(kernels));
    d->turbo = zf_turbo_open(kernels);
    d->turbo_first = kernels == &zf_kernels_scalar;
    if (d->baseline && d->turbo)
        return d;
    zf_decoders_close(d);
    return NULL;
}

void zf_decoders_close(zf_decoders *d)
{
    if (!d)
        return;
    zf_baseline_close(d->baseline);
    zf_turbo_close(d->turbo);
    free(d);
}

const zf_pixel_times *zf_decoders_times(const zf_decoders *d)
{
    return zf_baseline_times(d->baseline);
}

zf_status zf_decode_window(zf_decoders *d, const zf_jpeg *jpeg, zf_window window,
                           zf_decoder only, zf_row_fn row, void *ctx, zf_decoder *used)
{
    zf_status status = ZF_UNSUPPORTED;
    if (only == ZF_DECODER_BASELINE || (only == ZF_DECODER_NONE && !d->turbo_first)) {
        *used = ZF_DECODER_BASELINE;
        status = zf_baseline_decode(d->baseline, jpeg, window, row, ctx);
    }
    if (status == ZF_UNSUPPORTED && only != ZF_DECODER_BASELINE) {
        *used = ZF_DECODER_TURBO;
        status = zf_turbo_decode(d->turbo, jpeg, window, row, ctx);
    }
    if (status != ZF_OK)
        *used = ZF_DECODER_NONE;
    return status;
}
