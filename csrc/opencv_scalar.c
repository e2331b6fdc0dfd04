/* The scalar kernels of OpenCV's resize, which define the result: the SIMD kernels
 * must equal them in every byte. The arithmetic is that of OpenCV's universal
 * intrinsics (modules/imgproc/src/resize.cpp), with IPP off. */
#include "zf_opencv.h"

#include <math.h>
#include <string.h>

static uint8_t saturate(long x) { return (uint8_t)(x < 0 ? 0 : x > 255 ? 255 : x); }

ZF_DECL_CV_PLAN(zf_cv_plan_scalar)
{
    (void)line;
    return true;
}

/* ---- horizontal ------------------------------------------------------------ */

ZF_DECL_CV_ACROSS(zf_cv_across_copy)
{
    for (int i = 0; i < line->n; i++)
        ((uint8_t *)dst)[i] = src[line->index[i]];
}

ZF_DECL_CV_ACROSS(zf_cv_across_fixed_scalar)
{
    const int *index = line->index;
    const int16_t *w = line->fixed;
    for (int i = 0; i < line->n; i++, index += 2, w += 2)
        ((int16_t *)dst)[i] = (int16_t)((src[index[0]] * w[0] + src[index[1]] * w[1]) >> 4);
}

ZF_DECL_CV_ACROSS(zf_cv_across_exact_scalar)
{
    const int *index = line->index;
    const int16_t *w = line->fixed;
    for (int i = 0; i < line->n; i++, index += 2, w += 2)
        ((uint16_t *)dst)[i] = (uint16_t)(src[index[0]] * w[0] + src[index[1]] * w[1]);
}

ZF_DECL_CV_ACROSS(zf_cv_across_cube_scalar)
{
    for (int i = 0; i < line->n; i++) {
        const int *index = line->index + 4 * (size_t)i;
        const int16_t *w = line->fixed + 4 * (size_t)i;
        int sum = 0;
        for (int k = 0; k < 4; k++)
            sum += src[index[k]] * w[k];
        ((float *)dst)[i] = (float)sum; /* below 2^24, so this is exact */
    }
}

ZF_DECL_CV_ACROSS(zf_cv_across_real_scalar)
{
    for (int i = 0; i < line->n; i++) {
        size_t at = (size_t)i * (size_t)line->taps;
        float sum = 0;
        for (int k = 0; k < line->taps; k++)
            sum += src[line->index[at + (size_t)k]] / line->divisor * line->real[at + (size_t)k];
        ((float *)dst)[i] = sum;
    }
}

/* ---- vertical -------------------------------------------------------------- */

ZF_DECL_CV_DOWN(zf_cv_down_copy)
{
    (void)line;
    (void)output;
    memcpy(dst, rows[0], n);
}

ZF_DECL_CV_DOWN(zf_cv_down_fixed_scalar)
{
    const int16_t *w = line->fixed + 2 * (size_t)output;
    const int16_t *a = rows[0], *b = rows[1];
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)dst)[i] = saturate((((w[0] * a[i]) >> 16) + ((w[1] * b[i]) >> 16) + 2) >> 2);
}

ZF_DECL_CV_DOWN(zf_cv_down_exact_scalar)
{
    const int16_t *w = line->fixed + 2 * (size_t)output;
    const uint16_t *a = rows[0], *b = rows[1];
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)dst)[i] = (uint8_t)((a[i] * w[0] + b[i] * w[1] + (1 << 15)) >> 16);
}

ZF_DECL_CV_DOWN(zf_cv_down_cube_scalar)
{
    const int16_t *fixed = line->fixed + 4 * (size_t)output;
    const float *const *r = (const float *const *)rows;
    float w[4];
    for (int k = 0; k < 4; k++)
        w[k] = (float)fixed[k] * ZF_CV_CUBE_UNIT;
    for (size_t i = 0; i < n; i++) {
        float sum = r[0][i] * w[0] + (r[1][i] * w[1] + (r[2][i] * w[2] + r[3][i] * w[3]));
        ((uint8_t *)dst)[i] = saturate(lrintf(sum));
    }
}

ZF_DECL_CV_DOWN(zf_cv_down_cube_end)
{
    const int16_t *w = line->fixed + 4 * (size_t)output;
    const float *const *r = (const float *const *)rows;
    for (size_t i = 0; i < n; i++) {
        uint32_t sum = 1 << 21; /* wraps around, as OpenCV's does in practice */
        for (int k = 0; k < 4; k++)
            sum += (uint32_t)((int32_t)r[k][i] * w[k]);
        ((uint8_t *)dst)[i] = saturate((int32_t)sum >> 22);
    }
}

static float sum_down(const float *const *rows, const float *w, int taps, size_t i)
{
    float sum = rows[0][i] * w[0];
    for (int k = 1; k < taps; k++)
        sum += rows[k][i] * w[k];
    return sum;
}

ZF_DECL_CV_DOWN(zf_cv_down_share_scalar)
{
    const float *w = line->real + (size_t)output * (size_t)line->taps;
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)dst)[i] =
            saturate(lrintf(sum_down((const float *const *)rows, w, line->taps, i)));
}

ZF_DECL_CV_DOWN(zf_cv_down_real)
{
    const float *w = line->real + (size_t)output * (size_t)line->taps;
    for (size_t i = 0; i < n; i++)
        ((float *)dst)[i] = sum_down((const float *const *)rows, w, line->taps, i);
}

/* A block's sum is a whole number, which float may not hold. */
static int32_t block_sum(const float *const *rows, int taps, size_t i)
{
    uint32_t sum = 0;
    for (int k = 0; k < taps; k++)
        sum += (uint32_t)rows[k][i];
    return (int32_t)sum;
}

ZF_DECL_CV_DOWN(zf_cv_down_block)
{
    (void)output;
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)dst)[i] = saturate(lrintf(
            (float)block_sum((const float *const *)rows, line->taps, i) * line->unit));
}

ZF_DECL_CV_DOWN(zf_cv_down_half)
{
    (void)output;
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)dst)[i] =
            (uint8_t)((block_sum((const float *const *)rows, line->taps, i) + 2) >> 2);
}

const zf_cv_kernels zf_cv_kernels_scalar = {
    .plan = zf_cv_plan_scalar,
    .across_fixed = zf_cv_across_fixed_scalar,
    .across_exact = zf_cv_across_exact_scalar,
    .across_cube = zf_cv_across_cube_scalar,
    .across_real = zf_cv_across_real_scalar,
    .down_fixed = zf_cv_down_fixed_scalar,
    .down_exact = zf_cv_down_exact_scalar,
    .down_cube = zf_cv_down_cube_scalar,
    .down_share = zf_cv_down_share_scalar,
};
