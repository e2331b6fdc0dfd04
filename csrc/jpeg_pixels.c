/* Coefficients -> pixels: the scalar kernels, which define the result of the
 * SIMD kernels; and the table of all levels' kernels. */
#include "zf_jpeg_internal.h"

#include <string.h>

/* ---- inverse DCT ---------------------------------------------------------- */

/* libjpeg's jpeg_idct_islow for eight columns (or rows) at once, before its last
 * descaling: in[i] has input i of each column, out[i] output i. `round` is added to
 * every output. Inputs have 16 bits, so that compilers can use SIMD and no sum overflows. */
static void idct_1d(const int16_t in[8][8], int32_t out[8][8], int32_t round)
{
    for (int c = 0; c < 8; c++) {
        int16_t i0 = in[0][c], i1 = in[1][c], i2 = in[2][c], i3 = in[3][c];
        int16_t i4 = in[4][c], i5 = in[5][c], i6 = in[6][c], i7 = in[7][c];
        int32_t sum = (i0 + i4) * 8192 + round, difference = (i0 - i4) * 8192 + round;
        int32_t even0 = i2 * ZF_IDCT_2_0 + i6 * ZF_IDCT_6_0;
        int32_t even1 = i2 * ZF_IDCT_2_1 + i6 * ZF_IDCT_6_1;
        int32_t odd0 = i1 * ZF_IDCT_1_0 + i3 * ZF_IDCT_3_0 + i5 * ZF_IDCT_5_0 + i7 * ZF_IDCT_7_0;
        int32_t odd1 = i1 * ZF_IDCT_1_1 + i3 * ZF_IDCT_3_1 + i5 * ZF_IDCT_5_1 + i7 * ZF_IDCT_7_1;
        int32_t odd2 = i1 * ZF_IDCT_1_2 + i3 * ZF_IDCT_3_2 + i5 * ZF_IDCT_5_2 + i7 * ZF_IDCT_7_2;
        int32_t odd3 = i1 * ZF_IDCT_1_3 + i3 * ZF_IDCT_3_3 + i5 * ZF_IDCT_5_3 + i7 * ZF_IDCT_7_3;
        out[0][c] = sum + even0 + odd0;
        out[1][c] = difference + even1 + odd1;
        out[2][c] = difference - even1 + odd2;
        out[3][c] = sum - even0 + odd3;
        out[4][c] = sum - even0 - odd3;
        out[5][c] = difference - even1 - odd2;
        out[6][c] = difference + even1 - odd1;
        out[7][c] = sum + even0 - odd0;
    }
}

static bool idct(const zf_transform *b)
{
    int16_t in[8][8], next[8][8];
    uint8_t samples[8][8]; /* [column][row] */
    int32_t out[8][8];
    int bad = 0;

    for (int i = 0; i < 64; i++) {
        int16_t c = b->coef[i], size = (int16_t)(c < 0 ? -c : c);
        bad |= (uint16_t)size > b->q->limit[i];
    }
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 8; c++) {
            int i = zf_coef_index(r, c);
            in[r][c] = (int16_t)(b->coef[i] * b->q->factor[i]);
        }
    idct_1d(in, out, 1 << 10);
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 8; c++) {
            int32_t v = out[r][c] >> 11;
            bad |= v > ZF_PASS1_MAX || v < -ZF_PASS1_MAX;
            in[r][c] = (int16_t)v;
        }
    if (bad)
        return false;
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 8; c++)
            next[c][r] = in[r][c];
    idct_1d(next, out, 1 << 17);
    for (int c = 0; c < 8; c++)
        for (int r = 0; r < 8; r++) {
            int32_t v = out[c][r] >> 18;
            bad |= v < -512 || v > 511;
            samples[c][r] = (uint8_t)zf_min(zf_max(v + 128, 0), 255);
        }
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 8; c++)
            b->dst[(size_t)r * b->stride + (size_t)c] = samples[c][r];
    return !bad;
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

/* libjpeg's conversion in 16-bit fixed point (jdcolor.c): R = Y + 91881 Cr, G = Y - 22554 Cb -
 * 46802 Cr, B = Y + 116130 Cb. Whole multiples of 65536 are taken out of the factors, so that
 * these fit 16 bits and compilers can use SIMD. */
static void ycc_to_rgb(uint8_t *restrict red, uint8_t *restrict green, uint8_t *restrict blue,
                       const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int n)
{
    for (int i = 0; i < n; i++) {
        int16_t b = (int16_t)(cb[i] - 128), r = (int16_t)(cr[i] - 128);
        red[i] = clip8(y[i] + r + ((26345 * r + 32768) >> 16));
        green[i] = clip8(y[i] - r + ((-22554 * b + 18734 * r + 32768) >> 16));
        blue[i] = clip8(y[i] + 2 * b + ((-14942 * b + 32768) >> 16));
    }
}

ZF_DECL_YCC_TO_RGB(zf_ycc_to_rgb_scalar)
{
    ycc_to_rgb(rgb[0], rgb[1], rgb[2], y, cb, cr, n);
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
