/* Which part of the resized image the tensor shows, and where in the tensor it lies. */
#include "zf_geometry.h"

#include <math.h>

/* (side - crop) / 2 in pixels, rounded as the recipe says. */
static int crop_origin(int side, int crop, zf_crop_rounding rounding)
{
    int difference = side - crop, half = difference / 2; /* C truncates, like int() */
    if (rounding == ZF_CROP_TRUNCATE || difference % 2 == 0)
        return half;
    if (rounding == ZF_CROP_DOWN)
        return difference < 0 ? half - 1 : half;
    if (difference < 0 && rounding != ZF_CROP_HALF_EVEN)
        return half; /* ceil() of a negative number, or torchvision's padding */
    if (rounding == ZF_CROP_UP)
        return half + 1;
    return half % 2 == 0 ? half : half + (difference < 0 ? -1 : 1);
}

/* Whether Pillow makes the vertical pass first: see zf_pass_order. */
static bool is_vertical_first(zf_pass_order order, int w, int h, int resized_w, int resized_h)
{
    if (resized_h >= h || order == ZF_PASS_ORDER_PILLOW_10_0)
        return false;
    if (order == ZF_PASS_ORDER_PILLOW_12_2)
        return h > 100 * w;
    return h - resized_h > 2 * (w - resized_w);
}

/* The length of a side of `side` pixels, where the other side goes from `old` to `new` pixels;
 * -1 where it is beyond all use. */
static int proportional(int side, int old, int new, zf_side_rounding rounding)
{
    /* In the sources' own order of double operations. */
    double length = (double)new * side / old;
    if (rounding == ZF_SIDE_HALF_UP) {
        length = (double)new / old * side;
        length += 0.5;
    }
    return length > 1 << 30 ? -1 : (int)length;
}

/* The size of ZF_RESIZE_FIT, in the sources' own order of double operations. */
static void fit(const zf_recipe *r, int w, int h, zf_part *part)
{
    double across = (double)r->resize_w / w, down = (double)r->resize_h / h;
    double scale = across < down ? across : down, new_w = w * scale, new_h = h * scale;
    if (r->resize_rounding == ZF_SIDE_HALF_UP) {
        new_w += 0.5;
        new_h += 0.5;
    } else if (r->resize_rounding == ZF_SIDE_HALF_EVEN || r->resize_rounding == ZF_SIDE_FACTOR) {
        new_w = rint(new_w);
        new_h = rint(new_h);
        part->scale = r->resize_rounding == ZF_SIDE_FACTOR ? 1 / scale : 0;
    } else if (r->resize_rounding == ZF_SIDE_TIMM) {
        double ratio = fmax((double)w / r->resize_w, (double)h / r->resize_h);
        new_w = rint(w / ratio);
        new_h = rint(h / ratio);
    }
    part->resized_w = (int)new_w;
    part->resized_h = (int)new_h;
}

zf_status zf_geometry_make(zf_geometry *g, const zf_recipe *r, int w, int h,
                           zf_result *result)
{
    zf_part *part = &g->part;
    int left = 0, top = 0; /* of the tensor in the resized image; can be negative */

    *part = (zf_part){.in_w = w, .in_h = h, .resized_w = w, .resized_h = h};
    if (r->resize == ZF_RESIZE_EXACT) {
        part->resized_w = r->resize_w;
        part->resized_h = r->resize_h;
    } else if (r->resize == ZF_RESIZE_FIT) {
        fit(r, w, h, part);
    } else if (r->resize != ZF_RESIZE_NONE) {
        bool given_w = r->resize == ZF_RESIZE_SHORT && w <= h;
        part->resized_w =
            given_w ? r->resize_w : proportional(w, h, r->resize_h, r->resize_rounding);
        part->resized_h =
            given_w ? proportional(h, w, r->resize_w, r->resize_rounding) : r->resize_h;
        if (part->resized_w < 0 || part->resized_h < 0)
            return ZF_UNSUPPORTED;
    }
    g->vertical_first =
        is_vertical_first(r->pass_order, w, h, part->resized_w, part->resized_h);
    result->got_w = part->resized_w;
    result->got_h = part->resized_h;
    if (part->resized_w == 0 || part->resized_h == 0)
        return ZF_SIZE; /* HEIGHT or FIT, and the image is very narrow */
    if (r->padding != ZF_NOT_PADDED && part->resized_w <= r->out_w &&
        part->resized_h <= r->out_h) {
        bool is_centred = r->padding == ZF_PADDED_CENTRE;
        left = is_centred ? -((r->out_w - part->resized_w) / 2) : 0;
        top = is_centred ? -((r->out_h - part->resized_h) / 2) : 0;
        result->got_w = r->out_w;
        result->got_h = r->out_h;
    }
    if (r->crop_w > 0) {
        left = crop_origin(part->resized_w, r->crop_w, r->crop_rounding);
        top = crop_origin(part->resized_h, r->crop_h, r->crop_rounding);
        result->got_w = r->crop_w;
        result->got_h = r->crop_h;
    }
    if (result->got_w != r->out_w || result->got_h != r->out_h)
        return ZF_SIZE;
    /* Like Pillow, a crop that is larger than the image is black outside it. */
    g->x0 = zf_max(-left, 0);
    g->y0 = zf_max(-top, 0);
    part->x = left + g->x0;
    part->y = top + g->y0;
    part->w = zf_min(part->resized_w - left, r->out_w) - g->x0;
    part->h = zf_min(part->resized_h - top, r->out_h) - g->y0;
    return part->w > 0 && part->h > 0 ? ZF_OK : ZF_UNSUPPORTED;
}
