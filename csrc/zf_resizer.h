/* Pillow's resize, fed with decoded rows; resample.c computes its taps. */
#ifndef ZF_RESIZER_H
#define ZF_RESIZER_H

#include "zf_geometry.h"

typedef struct zf_resizer zf_resizer;
zf_resizer *zf_resizer_open(const zf_kernels *kernels); /* NULL when out of memory */
void zf_resizer_close(zf_resizer *resizer);

/* Prepares for an image of `channels` planes, 1 or 3. */
zf_status zf_resizer_begin(zf_resizer *resizer, const zf_recipe *recipe,
                           const zf_geometry *geometry, int channels);
/* The source pixels to be decoded. */
zf_window zf_resizer_window(const zf_resizer *resizer);
/* The zf_row_fn that receives the window's rows; ctx is the zf_resizer. */
zf_status zf_resizer_on_row(void *resizer, int y, const uint8_t *const planes[3]);
/* The R, G and B planes of recipe->out_w x out_h bytes, without gaps. Pixels outside the
 * geometry's part are not set. The planes of a grayscale image are the same. */
void *zf_resizer_plane(const zf_resizer *resizer, int channel);
/* What zf_resizer_on_row has taken since zf_resizer_begin. */
const zf_sampled *zf_resizer_time(const zf_resizer *resizer);

#endif
