/* Coefficients -> pixels: the scalar kernels, which define the result of the
 * SIMD kernels; and the table of all levels' kernels. */
#include "zf_jpeg_internal.h"

#include <string.h>

/* ---- inverse DCT ---------------------------------------------------------- */

/* libjpeg's jpeg_idct_islow for eight columns (or rows) at once, before its last
 * descaling: input i of column c is in[8 * order[i] + c], output i is out[8 * i + c].
 * `round` is added to every output. Inputs have 16 bits, so that compilers can use SIMD
 * and no sum overflows. */
static void idct_1d(const int16_t in[64], const int order[8], int32_t out[64], int32_t round)
{
    const int16_t *p0 = in + 8 * order[0], *p1 = in + 8 * order[1], *p2 = in + 8 * order[2];
    const int16_t *p3 = in + 8 * order[3], *p4 = in + 8 * order[4], *p5 = in + 8 * order[5];
    const int16_t *p6 = in + 8 * order[6], *p7 = in + 8 * order[7];

    for (int c = 0; c < 8; c++) {
        int16_t i0 = p0[c], i1 = p1[c], i2 = p2[c], i3 = p3[c];
        int16_t i4 = p4[c], i5 = p5[c], i6 = p6[c], i7 = p7[c];
        int32_t sum = (i0 + i4) * 8192 + round, difference = (i0 - i4) * 8192 + round;
        int32_t even0 = i2 * ZF_IDCT_2_0 + i6 * ZF_IDCT_6_0;
        int32_t even1 = i2 * ZF_IDCT_2_1 + i6 * ZF_IDCT_6_1;
        int32_t odd0 = i1 * ZF_IDCT_1_0 + i3 * ZF_IDCT_3_0 + i5 * ZF_IDCT_5_0 + i7 * ZF_IDCT_7_0;
        int32_t odd1 = i1 * ZF_IDCT_1_1 + i3 * ZF_IDCT_3_1 + i5 * ZF_IDCT_5_1 + i7 * ZF_IDCT_7_1;
        int32_t odd2 = i1 * ZF_IDCT_1_2 + i3 * ZF_IDCT_3_2 + i5 * ZF_IDCT_5_2 + i7 * ZF_IDCT_7_2;
        int32_t odd3 = i1 * ZF_IDCT_1_3 + i3 * ZF_IDCT_3_3 + i5 * ZF_IDCT_5_3 + i7 * ZF_IDCT_7_3;
        out[c] = sum + even0 + odd0;
        out[8 + c] = difference + even1 + odd1;
        out[16 + c] = difference - even1 + odd2;
        out[24 + c] = sum - even0 + odd3;
        out[32 + c] = sum - even0 - odd3;
        out[40 + c] = difference - even1 - odd2;
        out[48 + c] = difference + even1 - odd1;
        out[56 + c] = sum + even0 - odd0;
    }
}

/* Interleaves the two halves. Three times, this transposes: each time rotates the six
 * bits of a number's position by one. */
static void interleave_halves(int16_t out[64], const int16_t in[64])
{
    for (int i = 0; i < 32; i++) {
        out[2 * i] = in[i];
        out[2 * i + 1] = in[i + 32];
    }
}

static void transpose(int16_t block[64])
{
    int16_t once[64], twice[64];
    interleave_halves(once, block);
    interleave_halves(twice, once);
    interleave_halves(block, twice);
}

static bool idct(const zf_transform *b)
{
    /* where each row is once a block's pairs are apart, and each column */
    static const int rows[8] = {0, 2, 1, 6, 4, 3, 5, 7}, columns[8] = {0, 4, 2, 5, 1, 6, 3, 7};
    int16_t pairs[64], block[64];
    int32_t out[64];
    int bad = 0;

    for (int i = 0; i < 64; i++) {
        int16_t c = b->coef[i], size = (int16_t)(c < 0 ? -c : c);
        bad |= (uint16_t)size > b->q->limit[i];
        pairs[i] = (int16_t)(c * b->q->factor[i]);
    }
    for (int i = 0; i < 32; i++) {
        block[i] = pairs[2 * i];
        block[i + 32] = pairs[2 * i + 1];
    }
    idct_1d(block, rows, out, 1 << 10);
    for (int i = 0; i < 64; i++) {
        int32_t v = out[i] >> 11;
        bad |= v > ZF_PASS1_MAX || v < -ZF_PASS1_MAX;
        block[i] = (int16_t)v;
    }
    if (bad)
        return false;
    transpose(block);
    idct_1d(block, columns, out, 1 << 17);
    for (int i = 0; i < 64; i++) {
        int32_t v = out[i] >> 18;
        bad |= v < -512 || v > 511;
        block[i] = (int16_t)zf_min(zf_max(v + 128, 0), 255);
    }
    transpose(block);
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 8; c++)
            b->dst[(size_t)r * b->stride + (size_t)c] = (uint8_t)block[8 * r + c];
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
    .skip = zf_skip_scalar,
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
