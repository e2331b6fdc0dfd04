/* Resized pixels -> a tensor: border, normalization, layout. */
#include "zf_pack.h"

#include <string.h>

/* Makes the part of the tensor black that lies outside the image. */
static void fill_border(const zf_recipe *r, const zf_geometry *g, const zf_resized *image)
{
    int x1 = g->x0 + g->part.w, y1 = g->y0 + g->part.h;
    if (g->part.w == r->out_w && g->part.h == r->out_h)
        return;
    size_t size = image->elem_size, row_nbytes = (size_t)r->out_w * size;
    for (int c = 0; c < image->channels; c++)
        for (int y = 0; y < r->out_h; y++) {
            bool inside = y >= g->y0 && y < y1;
            uint8_t *row = (uint8_t *)image->planes[c] + (size_t)y * row_nbytes;
            memset(row, 0, inside ? (size_t)g->x0 * size : row_nbytes);
            if (inside)
                memset(row + (size_t)x1 * size, 0, (size_t)(r->out_w - x1) * size);
        }
}

static bool is_identity(const uint8_t *table)
{
    for (int i = 0; i < 3 * 256; i++)
        if (table[i] != i % 256)
            return false;
    return true;
}

/* Replaces n bytes by their elements of the table, `step` elements apart. */
static void lookup(void *out, size_t step, const uint8_t *pixels, const void *table,
                   int elem_size, size_t n)
{
    if (elem_size == 1)
        for (size_t i = 0; i < n; i++)
            ((uint8_t *)out)[i * step] = ((const uint8_t *)table)[pixels[i]];
    else if (elem_size == 2)
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)out)[i * step] = ((const uint16_t *)table)[pixels[i]];
    else
        for (size_t i = 0; i < n; i++)
            ((uint32_t *)out)[i * step] = ((const uint32_t *)table)[pixels[i]];
}

/* Normalizes the planes of R, G, B by the recipe's table, into its layout. */
static void pack_bytes(const zf_kernels *kernels, const zf_recipe *r, void *const planes[3],
                       void *out)
{
    size_t n = (size_t)r->out_w * (size_t)r->out_h, size = (size_t)r->elem_size;
    bool unchanged = size == 1 && is_identity(r->table);

    if (unchanged && r->layout == ZF_NHWC) {
        const uint8_t *ordered[3];
        for (int c = 0; c < 3; c++)
            ordered[r->channel_index[c]] = planes[c];
        kernels->interleave(out, ordered, n);
        return;
    }
    for (int c = 0; c < 3; c++) {
        const char *table = (const char *)r->table + (size_t)c * 256 * size;
        size_t index = (size_t)r->channel_index[c];
        char *plane = (char *)out + index * n * size;
        if (r->layout == ZF_NHWC)
            lookup((char *)out + index * size, 3, planes[c], table, r->elem_size, n);
        else if (unchanged)
            memcpy(plane, planes[c], n);
        else if (size == 4)
            kernels->lookup32((uint32_t *)plane, planes[c], (const uint32_t *)table, n);
        else
            lookup(plane, 1, planes[c], table, r->elem_size, n);
    }
}

/* Normalizes planes of floats, into the recipe's layout: float32, or uint8 as NumPy's
 * astype makes them of values from 0 to 255. */
static void pack_floats(const zf_recipe *r, void *const planes[3], void *out)
{
    size_t n = (size_t)r->out_w * (size_t)r->out_h;
    for (int c = 0; c < 3; c++) {
        const float *plane = planes[c], mean = r->mean[c], std = r->std[c];
        size_t index = (size_t)r->channel_index[c];
        size_t step = r->layout == ZF_NHWC ? 3 : 1;
        size_t first = r->layout == ZF_NHWC ? index : index * n;
        if (r->elem_size == 1)
            for (size_t i = 0; i < n; i++)
                ((uint8_t *)out)[first + i * step] = (uint8_t)plane[i];
        else if (step == 1) /* apart, so that the compiler vectorizes it */
            for (size_t i = 0; i < n; i++)
                ((float *)out)[first + i] = (plane[i] - mean) / std;
        else
            for (size_t i = 0; i < n; i++)
                ((float *)out)[first + i * step] = (plane[i] - mean) / std;
    }
}

/* Sets n elements, `step` elements apart, from element `first` of out on. */
static void fill_elements(void *out, size_t first, size_t step, size_t n, const void *element,
                          size_t size)
{
    uint32_t value = 0;
    memcpy(&value, element, 4); /* zf_recipe.fill has 4 bytes for each channel */
    if (size == 1)
        for (size_t i = 0; i < n; i++)
            ((uint8_t *)out)[first + i * step] = *(const uint8_t *)element;
    else if (size == 2)
        for (size_t i = 0; i < n; i++)
            memcpy((uint16_t *)out + first + i * step, element, 2);
    else
        for (size_t i = 0; i < n; i++)
            ((uint32_t *)out)[first + i * step] = value;
}

/* Puts r->fill into the tensor's elements outside the image. */
static void paint_border(const zf_recipe *r, const zf_geometry *g, void *out)
{
    size_t size = (size_t)r->elem_size, step = r->layout == ZF_NHWC ? 3 : 1;
    size_t w = (size_t)r->out_w, x0 = (size_t)g->x0, x1 = (size_t)(g->x0 + g->part.w);
    int y1 = g->y0 + g->part.h;
    for (int c = 0; c < 3; c++) {
        size_t index = (size_t)r->channel_index[c];
        size_t plane = r->layout == ZF_NHWC ? index : index * w * (size_t)r->out_h;
        for (int y = 0; y < r->out_h; y++) {
            bool inside = y >= g->y0 && y < y1;
            size_t row = plane + (size_t)y * w * step;
            fill_elements(out, row, step, inside ? x0 : w, r->fill[c], size);
            if (inside)
                fill_elements(out, row + x1 * step, step, w - x1, r->fill[c], size);
        }
    }
}

void zf_pack_bytes(const zf_kernels *kernels, const zf_recipe *recipe,
                   const zf_geometry *geometry, void *const planes[3], void *out)
{
    pack_bytes(kernels, recipe, planes, out);
    if (recipe->padding != ZF_NOT_PADDED)
        paint_border(recipe, geometry, out);
}

void zf_pack(const zf_kernels *kernels, const zf_recipe *recipe, const zf_geometry *geometry,
             const zf_resized *image, void *out)
{
    fill_border(recipe, geometry, image);
    if (image->elem_size != sizeof(float)) {
        zf_pack_bytes(kernels, recipe, geometry, image->planes, out);
        return;
    }
    pack_floats(recipe, image->planes, out);
    if (recipe->padding != ZF_NOT_PADDED)
        paint_border(recipe, geometry, out);
}
