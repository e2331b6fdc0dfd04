/* The baseline decoder's kernels for NEON. They equal the scalar kernels of
 * jpeg_pixels.c in every byte. */
#if defined(__aarch64__)

#include "zf_jpeg_internal.h"

#include <arm_neon.h>

/* ---- inverse DCT ---------------------------------------------------------- */

/* idct_1d of jpeg_pixels.c for four rows or columns, one in each lane. The
 * rounding is done by the descaling. */
static inline void idct_1d(const int16x4_t in[8], int32x4_t out[8])
{
    int32x4_t sum = vshlq_n_s32(vaddl_s16(in[0], in[4]), 13);
    int32x4_t difference = vshlq_n_s32(vsubl_s16(in[0], in[4]), 13);
    int32x4_t even0 = vmlal_n_s16(vmull_n_s16(in[2], ZF_IDCT_2_0), in[6], ZF_IDCT_6_0);
    int32x4_t even1 = vmlal_n_s16(vmull_n_s16(in[2], ZF_IDCT_2_1), in[6], ZF_IDCT_6_1);
    int32x4_t even[4] = {vaddq_s32(sum, even0), vaddq_s32(difference, even1),
                         vsubq_s32(difference, even1), vsubq_s32(sum, even0)};
#define ODD(i)                                                                        \
    vmlal_n_s16(vmlal_n_s16(vmlal_n_s16(vmull_n_s16(in[1], ZF_IDCT_1_##i), in[3],     \
                                        ZF_IDCT_3_##i),                               \
                            in[5], ZF_IDCT_5_##i),                                    \
                in[7], ZF_IDCT_7_##i)
    int32x4_t odd[4] = {ODD(0), ODD(1), ODD(2), ODD(3)};
#undef ODD
    for (int i = 0; i < 4; i++) {
        out[i] = vaddq_s32(even[i], odd[i]);
        out[7 - i] = vsubq_s32(even[i], odd[i]);
    }
}

/* idct_1d of both halves of `in`. DESCALE turns four 32-bit sums into 16 bits. */
#define IDCT_1D(out, in, DESCALE)                                                     \
    do {                                                                              \
        int16x4_t low[8], high[8];                                                    \
        int32x4_t first[8], second[8];                                                \
        for (int i = 0; i < 8; i++) {                                                 \
            low[i] = vget_low_s16((in)[i]);                                           \
            high[i] = vget_high_s16((in)[i]);                                         \
        }                                                                             \
        idct_1d(low, first);                                                          \
        idct_1d(high, second);                                                        \
        for (int i = 0; i < 8; i++)                                                   \
            (out)[i] = vcombine_s16(DESCALE(first[i]), DESCALE(second[i]));           \
    } while (0)

#define DESCALE_1(v) vqrshrn_n_s32(v, 11)
#define DESCALE_2(v) vqmovn_s32(vrshrq_n_s32(v, 18))

static inline void transpose(int16x8_t v[8])
{
    int16x8x2_t a[4];
    int32x4x2_t b[4];
    for (int i = 0; i < 4; i++)
        a[i] = vtrnq_s16(v[2 * i], v[2 * i + 1]);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            b[2 * i + j] = vtrnq_s32(vreinterpretq_s32_s16(a[2 * i].val[j]),
                                     vreinterpretq_s32_s16(a[2 * i + 1].val[j]));
    /* b[j] and b[2 + j] hold rows 0-3 and 4-7 of columns j, 2 + j | 4 + j, 6 + j */
    for (int j = 0; j < 2; j++)
        for (int k = 0; k < 2; k++) {
            int64x2_t top = vreinterpretq_s64_s32(b[j].val[k]);
            int64x2_t bottom = vreinterpretq_s64_s32(b[2 + j].val[k]);
            v[j + 2 * k] = vreinterpretq_s16_s64(vtrn1q_s64(top, bottom));
            v[4 + j + 2 * k] = vreinterpretq_s16_s64(vtrn2q_s64(top, bottom));
        }
}

static bool idct(const zf_transform *block)
{
    static const int rows[4][2] = {{0, 4}, {2, 6}, {1, 3}, {5, 7}};
    static const int columns[8] = {0, 4, 2, 6, 1, 3, 5, 7};
    int16x8_t in[8], v[8];
    uint16x8_t bad = vdupq_n_u16(0), largest = bad, any = bad;

    if (block->last == 0)
        return zf_idct_flat(block);
    for (int i = 0; i < 4; i++) {
        int16x8x2_t c = vld2q_s16(block->coef + 16 * i);
        int16x8x2_t factor = vld2q_s16(block->q->factor + 16 * i);
        uint16x8x2_t limit = vld2q_u16(block->q->limit + 16 * i);
        for (int j = 0; j < 2; j++) {
            uint16x8_t size = vreinterpretq_u16_s16(vabsq_s16(c.val[j]));
            in[rows[i][j]] = vmulq_s16(c.val[j], factor.val[j]);
            bad = vorrq_u16(bad, vcgtq_u16(size, limit.val[j]));
        }
    }
    IDCT_1D(v, in, DESCALE_1);
    for (int i = 0; i < 8; i++)
        largest = vmaxq_u16(largest, vreinterpretq_u16_s16(vabsq_s16(v[i])));
    bad = vorrq_u16(bad, vcgtq_u16(largest, vdupq_n_u16(ZF_PASS1_MAX)));

    transpose(v);
    for (int i = 0; i < 8; i++)
        in[columns[i]] = v[i];
    IDCT_1D(v, in, DESCALE_2);
    for (int i = 0; i < 8; i++)
        any = vorrq_u16(any, vreinterpretq_u16_s16(vaddq_s16(v[i], vdupq_n_s16(512))));
    bad = vorrq_u16(bad, vcgtq_u16(any, vdupq_n_u16(1023)));

    transpose(v);
    for (size_t i = 0; i < 8; i++)
        vst1_u8(block->dst + i * block->stride,
                vqmovun_s16(vaddq_s16(v[i], vdupq_n_s16(128))));
    return vmaxvq_u16(bad) == 0;
}

static ZF_DECL_IDCT(idct_neon)
{
    for (int i = 0; i < n; i++)
        if (!idct(&blocks[i]))
            return false;
    return true;
}

/* ---- upsampling ----------------------------------------------------------- */

static inline uint16x8_t load_wide(const uint8_t *p) { return vmovl_u8(vld1_u8(p)); }

static ZF_DECL_H2V1(upsample_h2v1_neon)
{
    for (int i = 0; i < n; i += 8) {
        uint16x8_t here = vmulq_n_u16(load_wide(src + i), 3);
        uint16x8_t left = vaddq_u16(load_wide(src + i - 1), vdupq_n_u16(1));
        uint8x8x2_t out = {{
            vshrn_n_u16(vaddq_u16(here, left), 2),
            vrshrn_n_u16(vaddq_u16(here, load_wide(src + i + 1)), 2),
        }};
        vst2_u8(dst + 2 * i, out);
    }
}

static inline uint16x8_t column_sum(const uint8_t *near, const uint8_t *far)
{
    return vmlaq_n_u16(load_wide(far), load_wide(near), 3);
}

static ZF_DECL_H2V2(upsample_h2v2_neon)
{
    for (int i = 0; i < n; i += 8) {
        uint16x8_t here = vmulq_n_u16(column_sum(near + i, far + i), 3);
        uint16x8_t left = column_sum(near + i - 1, far + i - 1);
        uint16x8_t right = vaddq_u16(column_sum(near + i + 1, far + i + 1), vdupq_n_u16(7));
        uint8x8x2_t out = {{
            vrshrn_n_u16(vaddq_u16(here, left), 4),
            vshrn_n_u16(vaddq_u16(here, right), 4),
        }};
        vst2_u8(dst + 2 * i, out);
    }
}

static ZF_DECL_H1V2(upsample_h1v2_neon)
{
    uint16x8_t round = vdupq_n_u16((uint16_t)bias);
    for (int i = 0; i < n; i += 8)
        vst1_u8(dst + i, vshrn_n_u16(vaddq_u16(column_sum(near + i, far + i), round), 2));
}

/* ---- colour --------------------------------------------------------------- */

static ZF_DECL_YCC_TO_RGB(ycc_to_rgb_neon)
{
    for (int i = 0; i < n; i += 8) {
        int16x8_t y8 = vreinterpretq_s16_u16(load_wide(y + i));
        int16x8_t b = vsubq_s16(vreinterpretq_s16_u16(load_wide(cb + i)), vdupq_n_s16(128));
        int16x8_t r = vsubq_s16(vreinterpretq_s16_u16(load_wide(cr + i)), vdupq_n_s16(128));
        /* factors as in jpeg_pixels_avx2.c */
        int16x8_t r_part = vqrdmulhq_n_s16(r, 13173), b_part = vqrdmulhq_n_s16(b, -14942 / 2);
        int32x4_t g_low = vmlal_n_s16(vmull_n_s16(vget_low_s16(b), -22554), vget_low_s16(r), 18734);
        int32x4_t g_high =
            vmlal_n_s16(vmull_n_s16(vget_high_s16(b), -22554), vget_high_s16(r), 18734);
        int16x8_t g = vcombine_s16(vrshrn_n_s32(g_low, 16), vrshrn_n_s32(g_high, 16));
        vst1_u8(rgb[0] + i, vqmovun_s16(vaddq_s16(vaddq_s16(y8, r), r_part)));
        vst1_u8(rgb[1] + i, vqmovun_s16(vaddq_s16(vsubq_s16(y8, r), g)));
        vst1_u8(rgb[2] + i, vqmovun_s16(vaddq_s16(vaddq_s16(y8, vaddq_s16(b, b)), b_part)));
    }
}

const zf_jpeg_kernels zf_jpeg_kernels_neon = {
    .unstuff = zf_unstuff_scalar,
    .mcu = zf_mcu_scalar,
    .skip = zf_skip_scalar,
    .ac_first = zf_ac_first_scalar,
    .ac_refine = zf_ac_refine_scalar,
    .idct = idct_neon,
    .upsample_h2v1 = upsample_h2v1_neon,
    .upsample_h2v2 = upsample_h2v2_neon,
    .upsample_h1v2 = upsample_h1v2_neon,
    .ycc_to_rgb = ycc_to_rgb_neon,
};

#endif
