/* From an image's size and a recipe to sizes and places, all in pixels. */
#ifndef ZF_GEOMETRY_H
#define ZF_GEOMETRY_H

#include "zf_internal.h"

/* A part of a resized image. */
typedef struct zf_part {
    int in_w, in_h;           /* the source image */
    int resized_w, resized_h; /* the whole resized image */
    int x, y, w, h;           /* the part of the resized image that is wanted */
    double scale;             /* of ZF_SIDE_FACTOR, old / new; else 0 */
} zf_part;

typedef struct zf_geometry {
    zf_part part;
    int x0, y0;          /* of the part in the tensor; outside the part is border */
    bool vertical_first; /* the vertical pass comes before the horizontal pass */
} zf_geometry;

/* Plans for an image of w x h pixels. ZF_SIZE: the recipe gives a tensor of another size;
 * result->got_w and got_h say which. ZF_UNSUPPORTED: Pillow has to decide. */
zf_status zf_geometry_make(zf_geometry *geometry, const zf_recipe *recipe, int w, int h,
                           zf_result *result);

#endif
