/* The scalar kernels, which define the result: the SIMD kernels must equal them
 * in every byte. And the table of all levels' kernels. */
#include "zf_opencv.h"

#include <string.h>

#define ROUND (1 << 21)

/* Pillow's clip8: drops the 22 fraction bits and saturates to 0..255. */
static uint8_t clip8(int32_t sum)
{
    sum >>= 22;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* Overflowing sums wrap around, as Pillow's do in practice. The arithmetic is
 * unsigned because overflow of signed integers is undefined in C. */
static int32_t multiply_add(int32_t sum, uint8_t pixel, int32_t k)
{
    return (int32_t)((uint32_t)sum + (uint32_t)pixel * (uint32_t)k);
}

ZF_DECL_PLAN_H(zf_plan_h_scalar)
{
    (void)t;
    return true;
}

ZF_DECL_RESAMPLE_H(zf_resample_h_scalar)
{
    if (t->identity) {
        memcpy(dst, src, (size_t)t->n);
        return;
    }
    for (int i = 0; i < t->n; i++) {
        const uint8_t *pixels = src + t->start[i];
        const int32_t *k = t->k + (size_t)i * (size_t)t->ksize;
        int32_t sum = ROUND;
        for (int x = 0; x < t->ksize; x++)
            sum = multiply_add(sum, pixels[x], k[x]);
        dst[i] = clip8(sum);
    }
}

/* Row by row for 64 pixels at a time, so that compilers can use SIMD. */
ZF_DECL_RESAMPLE_V(zf_resample_v_scalar)
{
    (void)needs_32bit;
    for (size_t i = 0; i < n; i += 64) {
        int32_t sum[64];
        for (size_t x = 0; x < 64; x++)
            sum[x] = ROUND;
        for (int y = 0; y < ntaps; y++)
            for (size_t x = 0; x < 64; x++)
                sum[x] = multiply_add(sum[x], rows[y][i + x], k[y]);
        for (size_t x = 0; x < 64; x++)
            dst[i + x] = clip8(sum[x]);
    }
}

ZF_DECL_DEINTERLEAVE(zf_deinterleave_scalar)
{
    for (size_t i = 0; i < n; i++)
        for (int c = 0; c < 3; c++)
            planes[c][i] = rgb[3 * i + (size_t)c];
}

ZF_DECL_INTERLEAVE(zf_interleave_scalar)
{
    for (size_t i = 0; i < n; i++)
        for (int c = 0; c < 3; c++)
            dst[3 * i + (size_t)c] = planes[c][i];
}

ZF_DECL_LOOKUP32(zf_lookup32_scalar)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = table[src[i]];
}

const zf_kernels zf_kernels_scalar = {
    .plan_h = zf_plan_h_scalar,
    .resample_h = zf_resample_h_scalar,
    .resample_v = zf_resample_v_scalar,
    .deinterleave = zf_deinterleave_scalar,
    .interleave = zf_interleave_scalar,
    .lookup32 = zf_lookup32_scalar,
    .opencv = &zf_cv_kernels_scalar,
};

const zf_kernels *const zf_kernels_of[] = {
#define KERNELS(constant, name, test, image, jpeg, logits)                              \
    [ZF_LEVEL_##constant] = &zf_kernels_##image,
    ZF_LEVELS(KERNELS)
#undef KERNELS
};
_Static_assert(sizeof zf_kernels_of / sizeof *zf_kernels_of == ZF_LEVEL_COUNT,
               "each level has kernels");
