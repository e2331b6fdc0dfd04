/* Chooses the decoder for an image. Where that decoder does not support the file, the
 * caller leaves the image to Pillow. */
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
};

zf_decoders *zf_decoders_open(zf_level level)
{
    zf_decoders *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->baseline = zf_baseline_open(level);
    d->progressive = zf_progressive_open(level);
    if (d->baseline && d->progressive)
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

zf_status zf_decode_window(zf_decoders *d, const zf_jpeg *jpeg, zf_window window, zf_row_fn row,
                           void *ctx, zf_decoder *used)
{
    bool has_one_scan = !jpeg->progressive && jpeg->scan_ncomp == jpeg->ncomp;
    zf_status status =
        has_one_scan ? zf_baseline_decode(d->baseline, jpeg, window, row, ctx)
                     : zf_progressive_decode(d->progressive, jpeg, window, row, ctx);
    *used = status != ZF_OK ? ZF_DECODER_NONE
            : has_one_scan  ? ZF_DECODER_BASELINE
                            : ZF_DECODER_PROGRESSIVE;
    return status;
}
