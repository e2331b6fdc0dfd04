/* Our decoders, for tests, fuzzers and benchmarks. */
#ifndef OWN_DECODER_H
#define OWN_DECODER_H

#include "zf_jpeg_internal.h"

#include <stdlib.h>

/* Decodes a window at a level that runs here. The decoders are kept between calls. */
static zf_status own_decode(zf_level level, const zf_jpeg *jpeg, zf_window window, zf_row_fn row,
                            void *ctx)
{
    static zf_decoders *decoders[ZF_LEVEL_COUNT];
    zf_decoder used;
    if (!decoders[level] && !(decoders[level] = zf_decoders_open(level)))
        abort();
    return zf_decode_window(decoders[level], jpeg, window, row, ctx, &used);
}

#endif
