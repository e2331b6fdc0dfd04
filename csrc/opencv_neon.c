/*
 * NEON kernels of OpenCV's resize. They make the same operations as the scalar
 * kernels, in the same order, on several outputs at once. Products are rounded before
 * they are added, so there is no fused multiply-add of floats.
 */
#if defined(__aarch64__)

#include "zf_opencv.h"

#include <arm_neon.h>

/* ---- horizontal ------------------------------------------------------------ */

/* The taps' pixels of four outputs. */
static inline uint8x16_t gathered(const uint8_t *src, int base, const uint8_t *index)
{
    return vqtbl1q_u8(vld1q_u8(src + base), vld1q_u8(index));
}

/* The sums of neighbouring products of eight pixels and weights. */
static inline int32x4_t sum_of_pairs(uint8x8_t pixels, const int16_t *weight)
{
    int16x8_t p = vreinterpretq_s16_u16(vmovl_u8(pixels)), w = vld1q_s16(weight);
    return vpaddq_s32(vmull_s16(vget_low_s16(p), vget_low_s16(w)), vmull_high_s16(p, w));
}

/* The sums of two taps of four outputs. */
static inline int32x4_t sum_of_two(const zf_cv_group *g, int half, const uint8_t *src)
{
    return sum_of_pairs(vget_low_u8(gathered(src, g->base[half], g->index[half])),
                        g->weight[half]);
}

static ZF_DECL_CV_ACROSS(across_fixed)
{
    if (!line->has_plan) {
        zf_cv_across_fixed_scalar(dst, src, line);
        return;
    }
    const zf_cv_group *g = line->plan;
    for (int i = 0; i < line->n; i += 8, g++)
        vst1q_s16((int16_t *)dst + i, vcombine_s16(vshrn_n_s32(sum_of_two(g, 0, src), 4),
                                                   vshrn_n_s32(sum_of_two(g, 1, src), 4)));
}

static ZF_DECL_CV_ACROSS(across_exact)
{
    if (!line->has_plan) {
        zf_cv_across_exact_scalar(dst, src, line);
        return;
    }
    const zf_cv_group *g = line->plan;
    for (int i = 0; i < line->n; i += 8, g++)
        vst1q_u16((uint16_t *)dst + i, vcombine_u16(vqmovun_s32(sum_of_two(g, 0, src)),
                                                    vqmovun_s32(sum_of_two(g, 1, src))));
}

static ZF_DECL_CV_ACROSS(across_cube)
{
    if (!line->has_plan) {
        zf_cv_across_cube_scalar(dst, src, line);
        return;
    }
    const zf_cv_group *g = line->plan;
    for (int i = 0; i < line->n; i += 8, g++)
        for (int half = 0; half < 2; half++) {
            uint8x16_t pixels = gathered(src, g->base[half], g->index[half]);
            int32x4_t sum = vpaddq_s32(sum_of_pairs(vget_low_u8(pixels), g->weight[half]),
                                       sum_of_pairs(vget_high_u8(pixels), g->weight[half] + 8));
            vst1q_f32((float *)dst + i + 4 * half, vcvtq_f32_s32(sum));
        }
}

/* A tap that an output lacks adds 0. */
static ZF_DECL_CV_ACROSS(across_real)
{
    if (!line->has_plan) {
        zf_cv_across_real_scalar(dst, src, line);
        return;
    }
    const zf_cv_real_group *g = line->plan;
    float32x4_t divisor = vdupq_n_f32(line->divisor);
    for (int i = 0; i < line->n; i += 8) {
        float32x4_t sum[2] = {vdupq_n_f32(0), vdupq_n_f32(0)};
        for (int k = 0; k < line->taps; k += 4, g++)
            for (int half = 0; half < 2; half++) {
                uint8x16_t bytes = gathered(src, g->base[half], g->index[half]);
                uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
                uint32x4_t pixels[4] = {vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low),
                                        vmovl_u16(vget_low_u16(high)), vmovl_high_u16(high)};
                for (int tap = 0; tap < 4 && k + tap < line->taps; tap++) {
                    float32x4_t p = vdivq_f32(vcvtq_f32_u32(pixels[tap]), divisor);
                    float32x4_t w = vld1q_f32(g->weight[tap] + 4 * half);
                    sum[half] = vaddq_f32(sum[half], vmulq_f32(p, w));
                }
            }
        vst1q_f32((float *)dst + i, sum[0]);
        vst1q_f32((float *)dst + i + 4, sum[1]);
    }
}

/* ---- vertical -------------------------------------------------------------- */

static ZF_DECL_CV_DOWN(down_fixed)
{
    const int16_t *w = line->fixed + 2 * (size_t)output;
    const int16_t *a = rows[0], *b = rows[1];
    for (size_t i = 0; i < n; i += 8) {
        int16x8_t x = vld1q_s16(a + i), y = vld1q_s16(b + i);
        int16x8_t upper = vcombine_s16(vshrn_n_s32(vmull_n_s16(vget_low_s16(x), w[0]), 16),
                                       vshrn_n_s32(vmull_high_n_s16(x, w[0]), 16));
        int16x8_t lower = vcombine_s16(vshrn_n_s32(vmull_n_s16(vget_low_s16(y), w[1]), 16),
                                       vshrn_n_s32(vmull_high_n_s16(y, w[1]), 16));
        vst1_u8((uint8_t *)dst + i, vqrshrun_n_s16(vaddq_s16(upper, lower), 2));
    }
}

static ZF_DECL_CV_DOWN(down_exact)
{
    const int16_t *w = line->fixed + 2 * (size_t)output;
    const uint16_t *a = rows[0], *b = rows[1];
    uint16_t w0 = (uint16_t)w[0], w1 = (uint16_t)w[1];
    for (size_t i = 0; i < n; i += 8) {
        uint16x8_t x = vld1q_u16(a + i), y = vld1q_u16(b + i);
        uint32x4_t low = vmlal_n_u16(vmull_n_u16(vget_low_u16(x), w0), vget_low_u16(y), w1);
        uint32x4_t high = vmlal_high_n_u16(vmull_high_n_u16(x, w0), y, w1);
        uint16x8_t sum = vcombine_u16(vrshrn_n_u32(low, 16), vrshrn_n_u32(high, 16));
        vst1_u8((uint8_t *)dst + i, vmovn_u16(sum));
    }
}

/* Eight floats, rounded to whole numbers (half to even) and saturated to bytes. */
static inline uint8x8_t to_bytes(float32x4_t low, float32x4_t high)
{
    return vqmovun_s16(vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(low)),
                                    vqmovn_s32(vcvtnq_s32_f32(high))));
}

static ZF_DECL_CV_DOWN(down_cube)
{
    const int16_t *fixed = line->fixed + 4 * (size_t)output;
    const float *const *r = (const float *const *)rows;
    float w[4];
    for (int k = 0; k < 4; k++)
        w[k] = (float)fixed[k] * ZF_CV_CUBE_UNIT;
    for (size_t i = 0; i < n; i += 8) {
        float32x4_t sum[2];
        for (size_t v = 0; v < 2; v++) {
            size_t at = i + 4 * v;
            sum[v] = vmulq_n_f32(vld1q_f32(r[3] + at), w[3]);
            for (int k = 2; k >= 0; k--)
                sum[v] = vaddq_f32(vmulq_n_f32(vld1q_f32(r[k] + at), w[k]), sum[v]);
        }
        vst1_u8((uint8_t *)dst + i, to_bytes(sum[0], sum[1]));
    }
}

static ZF_DECL_CV_DOWN(down_share)
{
    const float *w = line->real + (size_t)output * (size_t)line->taps;
    const float *const *r = (const float *const *)rows;
    for (size_t i = 0; i < n; i += 8) {
        float32x4_t sum[2];
        for (size_t v = 0; v < 2; v++) {
            size_t at = i + 4 * v;
            sum[v] = vmulq_n_f32(vld1q_f32(r[0] + at), w[0]);
            for (int k = 1; k < line->taps; k++)
                sum[v] = vaddq_f32(sum[v], vmulq_n_f32(vld1q_f32(r[k] + at), w[k]));
        }
        vst1_u8((uint8_t *)dst + i, to_bytes(sum[0], sum[1]));
    }
}

const zf_cv_kernels zf_cv_kernels_neon = {
    .plan = zf_cv_plan_groups,
    .across_fixed = across_fixed,
    .across_exact = across_exact,
    .across_cube = across_cube,
    .across_real = across_real,
    .down_fixed = down_fixed,
    .down_exact = down_exact,
    .down_cube = down_cube,
    .down_share = down_share,
};

#endif
