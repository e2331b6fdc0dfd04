/*
 * NEON kernels. On Arm a 32-bit multiply-add costs no more than two 16-bit
 * ones, so coefficients are not split as on x86.
 */
#if defined(__aarch64__)

#include "zf_opencv.h"

#include <arm_neon.h>
#include <string.h>

/* ---- horizontal ---------------------------------------------------------- */

/* Four outputs and four taps of each, from one load of 16 pixels: which pixel
 * belongs to each tap, and the coefficients. The order is tap by tap, so that a
 * vector's lanes are the outputs. */
typedef struct {
    uint8_t index[16];
    int32_t k[4][4];
} group;

static int groups_of(const zf_taps *t) { return (t->ksize + 3) / 4; }

static bool plan_h(zf_taps *t)
{
    t->fits_one_load = zf_fits_one_load(t, 4, 16);
    if (t->identity || !t->fits_one_load)
        return true;
    int groups = groups_of(t);
    if (!zf_plan_reserve(t, (size_t)((t->n + 3) / 4) * (size_t)groups * sizeof(group)))
        return false;
    group *g = t->plan;
    for (int i = 0; i < t->n; i += 4)
        for (int first = 0; first < 4 * groups; first += 4, g++)
            for (int x = 0; x < 4; x++)
                for (int lane = 0; lane < 4; lane++) {
                    int output = i + lane;
                    bool used = output < t->n && first + x < t->ksize;
                    g->k[x][lane] =
                        used ? t->k[(size_t)output * (size_t)t->ksize + (size_t)(first + x)] : 0;
                    g->index[4 * x + lane] =
                        output < t->n ? (uint8_t)(t->start[output] - t->start[i] + x) : 0;
                }
    return true;
}

/* Four 32-bit sums -> four clipped bytes, each in the low half of 16 bits. */
static inline uint16x4_t clip(int32x4_t sum)
{
    return vqmovun_s32(vshrq_n_s32(sum, 22));
}

static ZF_DECL_RESAMPLE_H(resample_h)
{
    if (t->identity || !t->fits_one_load) {
        zf_resample_h_scalar(dst, src, t);
        return;
    }
    const group *g = t->plan;
    int groups = groups_of(t);

    for (int i = 0; i < t->n; i += 4) {
        const uint8_t *pixels = src + t->start[i];
        int32x4_t sum = vdupq_n_s32(1 << 21);
        for (int j = 0; j < groups; j++, g++, pixels += 4) {
            uint8x16_t bytes = vqtbl1q_u8(vld1q_u8(pixels), vld1q_u8(g->index));
            int16x8_t taps01 = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
            int16x8_t taps23 = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
            sum = vmlaq_s32(sum, vmovl_s16(vget_low_s16(taps01)), vld1q_s32(g->k[0]));
            sum = vmlaq_s32(sum, vmovl_high_s16(taps01), vld1q_s32(g->k[1]));
            sum = vmlaq_s32(sum, vmovl_s16(vget_low_s16(taps23)), vld1q_s32(g->k[2]));
            sum = vmlaq_s32(sum, vmovl_high_s16(taps23), vld1q_s32(g->k[3]));
        }
        uint16x4_t four = clip(sum);
        uint8x8_t out = vqmovn_u16(vcombine_u16(four, four));
        memcpy(dst + i, &out, 4);
    }
}

/* ---- vertical ------------------------------------------------------------ */

static ZF_DECL_RESAMPLE_V(resample_v)
{
    (void)needs_32bit;
    for (size_t i = 0; i < n; i += 16) {
        int32x4_t sum[4];
        for (int v = 0; v < 4; v++)
            sum[v] = vdupq_n_s32(1 << 21);
        for (int y = 0; y < ntaps; y++) {
            uint8x16_t bytes = vld1q_u8(rows[y] + i);
            int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
            int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
            sum[0] = vmlaq_n_s32(sum[0], vmovl_s16(vget_low_s16(low)), k[y]);
            sum[1] = vmlaq_n_s32(sum[1], vmovl_high_s16(low), k[y]);
            sum[2] = vmlaq_n_s32(sum[2], vmovl_s16(vget_low_s16(high)), k[y]);
            sum[3] = vmlaq_n_s32(sum[3], vmovl_high_s16(high), k[y]);
        }
        uint8x8_t first = vqmovn_u16(vcombine_u16(clip(sum[0]), clip(sum[1])));
        uint8x8_t second = vqmovn_u16(vcombine_u16(clip(sum[2]), clip(sum[3])));
        vst1q_u8(dst + i, vcombine_u8(first, second));
    }
}

/* ---- interleaved pixels --------------------------------------------------- */

static ZF_DECL_DEINTERLEAVE(deinterleave)
{
    for (size_t i = 0; i < n; i += 16) {
        uint8x16x3_t pixels = vld3q_u8(rgb + 3 * i);
        for (int c = 0; c < 3; c++)
            vst1q_u8(planes[c] + i, pixels.val[c]);
    }
}

static ZF_DECL_INTERLEAVE(interleave)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        uint8x16x3_t pixels;
        for (int c = 0; c < 3; c++)
            pixels.val[c] = vld1q_u8(planes[c] + i);
        vst3q_u8(dst + 3 * i, pixels);
    }
    const uint8_t *const rest[3] = {planes[0] + i, planes[1] + i, planes[2] + i};
    zf_interleave_scalar(dst + 3 * i, rest, n - i);
}

const zf_kernels zf_kernels_neon = {
    .plan_h = plan_h,
    .resample_h = resample_h,
    .resample_v = resample_v,
    .deinterleave = deinterleave,
    .interleave = interleave,
    .lookup32 = zf_lookup32_scalar,
    .opencv = &zf_cv_kernels_neon,
};

#endif
