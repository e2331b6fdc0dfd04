/* Normalizes resized pixels and packs them into a tensor. */
#ifndef ZF_PACK_H
#define ZF_PACK_H

#include "zf_geometry.h"

typedef struct zf_resized {
    void *planes[3];  /* R, G, B: out_h rows of out_w pixels; gray: the same plane */
    int channels;     /* different planes, 1 or 3 */
    size_t elem_size; /* bytes of a pixel of a plane: 1, or 4 for float */
} zf_resized;

/* Makes the tensor `out`, zf_recipe_nbytes(recipe) bytes. Sets the border in the image's
 * planes too. */
void zf_pack(const zf_kernels *kernels, const zf_recipe *recipe, const zf_geometry *geometry,
             const zf_resized *image, void *out);

/* The same of planes of 8-bit pixels, which have their border. */
void zf_pack_bytes(const zf_kernels *kernels, const zf_recipe *recipe,
                   const zf_geometry *geometry, void *const planes[3], void *out);

#endif
