/* Coefficients -> pixels: the scalar kernels, which define the result of the
 * SIMD kernels; and the table of all levels' kernels. */
#include "zf_jpeg_internal.h"

#include <string.h>

/* ---- inverse DCT ---------------------------------------------------------- */

/* libjpeg's jpeg_idct_islow for one row or column, before its last descaling.
 * `round` is added to every output. */
static void idct_1d(const int32_t in[8], int32_t out[8], int32_t round)
{
    int32_t sum = (in[0] + in[4]) * 8192 + round;
    int32_t difference = (in[0] - in[4]) * 8192 + round;
    int32_t even0 = in[2] * ZF_IDCT_2_0 + in[6] * ZF_IDCT_6_0;
    int32_t even1 = in[2] * ZF_IDCT_2_1 + in[6] * ZF_IDCT_6_1;
    int32_t even[4] = {sum + even0, difference + even1, difference - even1, sum - even0};
    int32_t odd[4] = {
        in[1] * ZF_IDCT_1_0 + in[3] * ZF_IDCT_3_0 + in[5] * ZF_IDCT_5_0 + in[7] * ZF_IDCT_7_0,
        in[1] * ZF_IDCT_1_1 + in[3] * ZF_IDCT_3_1 + in[5] * ZF_IDCT_5_1 + in[7] * ZF_IDCT_7_1,
        in[1] * ZF_IDCT_1_2 + in[3] * ZF_IDCT_3_2 + in[5] * ZF_IDCT_5_2 + in[7] * ZF_IDCT_7_2,
        in[1] * ZF_IDCT_1_3 + in[3] * ZF_IDCT_3_3 + in[5] * ZF_IDCT_5_3 + in[7] * ZF_IDCT_7_3,
    };
    for (int i = 0; i < 4; i++) {
        out[i] = even[i] + odd[i];
        out[7 - i] = even[i] - odd[i];
    }
}

static bool idct(const zf_transform *b)
{
    int32_t between[8][8]; /* [column][row] */

    for (int i = 0; i < 64; i++) {
        int c = b->coef[i];
        if ((c < 0 ? -c : c) > b->q->limit[i])
            return false;
    }
    for (int c = 0; c < 8; c++) {
        int32_t in[8], out[8];
        for (int r = 0; r < 8; r++) {
            int i = zf_coef_index(r, c);
            in[r] = b->coef[i] * b->q->factor[i];
        }
        idct_1d(in, out, 1 << 10);
        for (int r = 0; r < 8; r++) {
            between[c][r] = out[r] >> 11;
            if (between[c][r] > ZF_PASS1_MAX || between[c][r] < -ZF_PASS1_MAX)
                return false;
        }
    }
    for (int r = 0; r < 8; r++) {
        int32_t in[8], out[8];
        for (int c = 0; c < 8; c++)
            in[c] = between[c][r];
        idct_1d(in, out, 1 << 17);
        for (int c = 0; c < 8; c++) {
            int32_t v = out[c] >> 18;
            if (v < -512 || v > 511)
                return false;
            b->dst[(size_t)r * b->stride + (size_t)c] =
                (uint8_t)zf_min(zf_max(v + 128, 0), 255);
        }
    }
    return true;
}

/* The result of both passes if there is only a DC. */
bool zf_idct_flat(const zf_transform *b)
{
    int c = b->coef[0], v = (c * b->q->factor[0] * 4 + 16) >> 5;

    if ((c < 0 ? -c : c) > b->q->limit[0] || v < -512 || v > 511)
        return false;
    for (size_t r = 0; r < 8; r++)
        memset(b->dst + r * b->stride, zf_min(zf_max(v + 128, 0), 255), 8);
    return true;
}

ZF_DECL_IDCT(zf_idct_scalar)
{
    for (int i = 0; i < n; i++)
        if (!idct(&blocks[i]))
            return false;
    return true;
}

/* ---- upsampling ----------------------------------------------------------- */

/* As in libjpeg, even and odd columns are rounded in different ways. */
ZF_DECL_H2V1(zf_upsample_h2v1_scalar)
{
    for (int i = 0; i < n; i++) {
        dst[2 * i] = (uint8_t)((3 * src[i] + src[i - 1] + 1) >> 2);
        dst[2 * i + 1] = (uint8_t)((3 * src[i] + src[i + 1] + 2) >> 2);
    }
}

ZF_DECL_H2V2(zf_upsample_h2v2_scalar)
{
    for (int i = 0; i < n; i++) {
        int left = 3 * near[i - 1] + far[i - 1];
        int here = 3 * near[i] + far[i];
        int right = 3 * near[i + 1] + far[i + 1];
        dst[2 * i] = (uint8_t)((3 * here + left + 8) >> 4);
        dst[2 * i + 1] = (uint8_t)((3 * here + right + 7) >> 4);
    }
}

ZF_DECL_H1V2(zf_upsample_h1v2_scalar)
{
    for (int i = 0; i < n; i++)
        dst[i] = (uint8_t)((3 * near[i] + far[i] + bias) >> 2);
}

/* ---- colour --------------------------------------------------------------- */

static uint8_t clip8(int v) { return (uint8_t)zf_min(zf_max(v, 0), 255); }

/* libjpeg's conversion in 16-bit fixed point (jdcolor.c) */
ZF_DECL_YCC_TO_RGB(zf_ycc_to_rgb_scalar)
{
    for (int i = 0; i < n; i++) {
        int b = cb[i] - 128, r = cr[i] - 128;
        rgb[0][i] = clip8(y[i] + ((91881 * r + 32768) >> 16));
        rgb[1][i] = clip8(y[i] + ((-22554 * b - 46802 * r + 32768) >> 16));
        rgb[2][i] = clip8(y[i] + ((116130 * b + 32768) >> 16));
    }
}

/* ---- the kernels of all levels ----------------------------------------------- */

const zf_jpeg_kernels zf_jpeg_kernels_scalar = {
    .unstuff = zf_unstuff_scalar,
    .mcu = zf_mcu_scalar,
    .ac_first = zf_ac_first_scalar,
    .ac_refine = zf_ac_refine_scalar,
    .idct = zf_idct_scalar,
    .upsample_h2v1 = zf_upsample_h2v1_scalar,
    .upsample_h2v2 = zf_upsample_h2v2_scalar,
    .upsample_h1v2 = zf_upsample_h1v2_scalar,
    .ycc_to_rgb = zf_ycc_to_rgb_scalar,
};

const zf_jpeg_kernels *const zf_jpeg_kernels_of[] = {
#define KERNELS(constant, name, test, image, jpeg, logits)                              \
    [ZF_LEVEL_##constant] = &zf_jpeg_kernels_##jpeg,
    ZF_LEVELS(KERNELS)
#undef KERNELS
};
_Static_assert(sizeof zf_jpeg_kernels_of / sizeof *zf_jpeg_kernels_of == ZF_LEVEL_COUNT,
               "each level has kernels");
