/* EXIF orientations, 1 to 8, as cv2.imread reads and applies them. */
#ifndef ZF_ORIENTATION_H
#define ZF_ORIENTATION_H

#include "zf_internal.h"

/* Whether the turned picture's width is the file's height. */
bool zf_is_transposed(int orientation);

/* As zf_decode_window, of a window of the turned picture. Holds the whole window in
 * memory. */
zf_status zf_decode_turned(zf_decoders *decoders, const zf_jpeg *jpeg, int orientation,
                           zf_window window, zf_row_fn row, void *ctx, zf_decoder *used);

#endif
