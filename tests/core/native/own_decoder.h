/* Our own decoders without libjpeg-turbo behind them, for tests, fuzzers and
 * benchmarks. */
#ifndef OWN_DECODER_H
#define OWN_DECODER_H

#include "zf_jpeg_internal.h"

#include <stdlib.h>

/* Decodes a window with the decoder for the file's kind at a level that runs here.
 * The decoders are kept between calls. */
static zf_status own_decode(zf_level level, const zf_jpeg *jpeg, zf_window window, zf_row_fn row,
                            void *ctx)
{
    static zf_baseline *baseline[ZF_LEVEL_COUNT];
    static zf_progressive *progressive[ZF_LEVEL_COUNT];
    if (!baseline[level]) {
        baseline[level] = zf_baseline_open(level);
        progressive[level] = zf_progressive_open(level);
        if (!baseline[level] || !progressive[level])
            abort();
    }
    return jpeg->progressive
               ? zf_progressive_decode(progressive[level], jpeg, window, row, ctx)
               : zf_baseline_decode(baseline[level], jpeg, window, row, ctx);
}

#endif
