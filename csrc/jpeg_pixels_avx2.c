/* The baseline decoder's kernels for AVX2. They equal the scalar kernels of
 * jpeg_pixels.c and jpeg_entropy.c in every byte. */
#if defined(__x86_64__)

#include "zf_jpeg_x86.h"

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,bmi,bmi2")))
#define INLINE static inline __attribute__((always_inline, target("avx2,bmi,bmi2")))

/* ---- inverse DCT ---------------------------------------------------------- */

ZF_IDCT_1D(idct_1d, INLINE, __m256i, _mm256)

AVX2 static bool idct(const zf_transform *b)
{
    __m256i in[4], v[8];
    __m256i bad = _mm256_setzero_si256();

    if (b->last == 0)
        return zf_idct_flat(b);
    for (int i = 0; i < 4; i++) {
        __m256i c = _mm256_load_si256((const __m256i *)(b->coef + 16 * i));
        __m256i limit = _mm256_load_si256((const __m256i *)(b->q->limit + 16 * i));
        in[i] = _mm256_mullo_epi16(c, _mm256_load_si256((const __m256i *)(b->q->factor + 16 * i)));
        bad = _mm256_or_si256(bad, _mm256_subs_epu16(_mm256_abs_epi16(c), limit));
    }
    idct_1d(in[0], in[1], in[2], in[3], 1 << 10, v);

    /* rows[i]: row pair i, columns 0 4 2 6 | 1 3 5 7, 16 bits each, the first row
     * and the second in turn */
    __m256i largest = _mm256_setzero_si256();
    __m256i rows[4];
    for (int i = 0; i < 4; i++) {
        rows[i] = _mm256_packs_epi32(_mm256_srai_epi32(v[2 * i], 11),
                                     _mm256_srai_epi32(v[2 * i + 1], 11));
        largest = _mm256_max_epu16(largest, _mm256_abs_epi16(rows[i]));
    }
    bad = _mm256_or_si256(bad, _mm256_subs_epu16(largest, _mm256_set1_epi16(ZF_PASS1_MAX)));

    /* 32-bit lanes hold the column pairs (0,4) (2,6) | (1,3) (5,7); the second pass
     * needs one row in each lane */
#define EVERY_OTHER(a, b, which)                                                          \
    _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), \
                                          which))
    __m256i p0 = EVERY_OTHER(rows[0], rows[1], 0x88), p1 = EVERY_OTHER(rows[2], rows[3], 0x88);
    __m256i p2 = EVERY_OTHER(rows[0], rows[1], 0xDD), p3 = EVERY_OTHER(rows[2], rows[3], 0xDD);
#undef EVERY_OTHER
    idct_1d(_mm256_permute2x128_si256(p0, p1, 0x20), _mm256_permute2x128_si256(p2, p3, 0x20),
            _mm256_permute2x128_si256(p0, p1, 0x31), _mm256_permute2x128_si256(p2, p3, 0x31),
            (1 << 17) + (512 << 18), v);

    /* 512 was added above: the value is in range if its high bits are 0 */
    __m256i columns[4], any = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        __m256i wide = _mm256_packs_epi32(_mm256_srai_epi32(v[2 * i], 18),
                                          _mm256_srai_epi32(v[2 * i + 1], 18));
        any = _mm256_or_si256(any, wide);
        columns[i] = _mm256_sub_epi16(wide, _mm256_set1_epi16(512 - 128));
    }
    bad = _mm256_or_si256(bad, _mm256_and_si256(any, _mm256_set1_epi16((short)0xFC00)));

    /* each 128 bits hold 4 columns of 4 rows -> rows */
    const __m256i transpose = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    __m256i left = _mm256_shuffle_epi8(_mm256_packus_epi16(columns[0], columns[1]), transpose);
    __m256i right = _mm256_shuffle_epi8(_mm256_packus_epi16(columns[2], columns[3]), transpose);
    __m256i r0145 = _mm256_unpacklo_epi32(left, right), r2367 = _mm256_unpackhi_epi32(left, right);
    __m128i out[4] = {_mm256_castsi256_si128(r0145), _mm256_castsi256_si128(r2367),
                      _mm256_extracti128_si256(r0145, 1), _mm256_extracti128_si256(r2367, 1)};
    for (int i = 0; i < 4; i++) {
        _mm_storel_epi64((__m128i *)(b->dst + (size_t)(2 * i) * b->stride), out[i]);
        _mm_storeh_pd((double *)(b->dst + (size_t)(2 * i + 1) * b->stride), _mm_castsi128_pd(out[i]));
    }
    return _mm256_testz_si256(bad, bad);
}

AVX2 static ZF_DECL_IDCT(idct_avx2)
{
    for (int i = 0; i < n; i++)
        if (!idct(&blocks[i]))
            return false;
    return true;
}

/* ---- upsampling ----------------------------------------------------------- */

INLINE __m256i load_wide(const uint8_t *p)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
}

INLINE __m256i times3(__m256i v) { return _mm256_add_epi16(v, _mm256_add_epi16(v, v)); }

/* even and odd results of 16 bits each -> bytes, even and odd in turn */
INLINE void store_in_turn(uint8_t *dst, __m256i even, __m256i odd)
{
    _mm256_storeu_si256((__m256i *)dst, _mm256_or_si256(even, _mm256_slli_epi16(odd, 8)));
}

AVX2 ZF_DECL_H2V1(zf_upsample_h2v1_avx2)
{
    for (int i = 0; i < n; i += 16) {
        __m256i here = times3(load_wide(src + i));
        __m256i left = _mm256_add_epi16(load_wide(src + i - 1), _mm256_set1_epi16(1));
        __m256i right = _mm256_add_epi16(load_wide(src + i + 1), _mm256_set1_epi16(2));
        store_in_turn(dst + 2 * i, _mm256_srli_epi16(_mm256_add_epi16(here, left), 2),
                      _mm256_srli_epi16(_mm256_add_epi16(here, right), 2));
    }
}

INLINE __m256i column_sum(const uint8_t *near, const uint8_t *far)
{
    return _mm256_add_epi16(times3(load_wide(near)), load_wide(far));
}

AVX2 ZF_DECL_H2V2(zf_upsample_h2v2_avx2)
{
    for (int i = 0; i < n; i += 16) {
        __m256i here = times3(column_sum(near + i, far + i));
        __m256i left = _mm256_add_epi16(column_sum(near + i - 1, far + i - 1), _mm256_set1_epi16(8));
        __m256i right = _mm256_add_epi16(column_sum(near + i + 1, far + i + 1), _mm256_set1_epi16(7));
        store_in_turn(dst + 2 * i, _mm256_srli_epi16(_mm256_add_epi16(here, left), 4),
                      _mm256_srli_epi16(_mm256_add_epi16(here, right), 4));
    }
}

AVX2 ZF_DECL_H1V2(zf_upsample_h1v2_avx2)
{
    __m256i round = _mm256_set1_epi16((short)bias);
    for (int i = 0; i < n; i += 16) {
        __m256i v = _mm256_srli_epi16(_mm256_add_epi16(column_sum(near + i, far + i), round), 2);
        v = _mm256_permute4x64_epi64(_mm256_packus_epi16(v, v), 0x08);
        _mm_storeu_si128((__m128i *)(dst + i), _mm256_castsi256_si128(v));
    }
}

/* ---- colour --------------------------------------------------------------- */

INLINE void ycc16(const uint8_t *y8, const uint8_t *cb8, const uint8_t *cr8, __m256i rgb[3])
{
    __m256i y = load_wide(y8);
    __m256i cb = _mm256_sub_epi16(load_wide(cb8), _mm256_set1_epi16(128));
    __m256i cr = _mm256_sub_epi16(load_wide(cr8), _mm256_set1_epi16(128));
    /* 91881 = 65536 + 26345; 116130 = 2 * 65536 - 14942; -46802 = 18734 - 65536.
     * vpmulhrsw multiplies by half of such a factor. 13173 instead of 26345 / 2
     * gives the same result for all values from -128 to 127. */
    __m256i cr_part = _mm256_mulhrs_epi16(cr, _mm256_set1_epi16(13173));
    __m256i cb_part = _mm256_mulhrs_epi16(cb, _mm256_set1_epi16(-14942 / 2));
    rgb[0] = _mm256_add_epi16(_mm256_add_epi16(y, cr), cr_part);
    rgb[2] = _mm256_add_epi16(_mm256_add_epi16(y, _mm256_add_epi16(cb, cb)), cb_part);
    __m256i half = _mm256_set1_epi32(1 << 15);
    __m256i lo = _mm256_madd_epi16(_mm256_unpacklo_epi16(cb, cr), _mm256_set1_epi32(ZF_PAIR(-22554, 18734)));
    __m256i hi = _mm256_madd_epi16(_mm256_unpackhi_epi16(cb, cr), _mm256_set1_epi32(ZF_PAIR(-22554, 18734)));
    __m256i g = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(lo, half), 16),
                                   _mm256_srai_epi32(_mm256_add_epi32(hi, half), 16));
    rgb[1] = _mm256_add_epi16(_mm256_sub_epi16(y, cr), g);
}

AVX2 ZF_DECL_YCC_TO_RGB(zf_ycc_to_rgb_avx2)
{
    for (int i = 0; i < n; i += 32) {
        __m256i first[3], second[3];
        ycc16(y + i, cb + i, cr + i, first);
        ycc16(y + i + 16, cb + i + 16, cr + i + 16, second);
        for (int c = 0; c < 3; c++) {
            __m256i v = _mm256_packus_epi16(first[c], second[c]);
            _mm256_storeu_si256((__m256i *)(rgb[c] + i), _mm256_permute4x64_epi64(v, 0xD8));
        }
    }
}

/* ---- unstuffing ----------------------------------------------------------- */

/* Copies 32 bytes at a time up to the next 0xFF. */
AVX2 static ZF_DECL_UNSTUFF(unstuff_avx2)
{
    uint8_t *out = dst;

    while (end - src >= 33) {
        __m256i v = _mm256_loadu_si256((const __m256i *)src);
        uint32_t ff = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, _mm256_set1_epi8(-1)));
        _mm256_storeu_si256((__m256i *)out, v);
        if (ff == 0) {
            out += 32;
            src += 32;
            continue;
        }
        uint32_t run = _tzcnt_u32(ff);
        out += run;
        src += run;
        if (src[1] != 0) {
            *n = (size_t)(out - dst);
            return src;
        }
        *out++ = 0xFF;
        src += 2;
    }
    size_t tail;
    src = zf_unstuff_scalar(out, &tail, src, end);
    *n = (size_t)(out - dst) + tail;
    return src;
}

const zf_jpeg_kernels zf_jpeg_kernels_avx2 = {
    .unstuff = unstuff_avx2,
    .mcu = zf_mcu_bmi2,
    .ac_first = zf_ac_first_bmi2,
    .ac_refine = zf_ac_refine_bmi2,
    .idct = idct_avx2,
    .upsample_h2v1 = zf_upsample_h2v1_avx2,
    .upsample_h2v2 = zf_upsample_h2v2_avx2,
    .upsample_h1v2 = zf_upsample_h1v2_avx2,
    .ycc_to_rgb = zf_ycc_to_rgb_avx2,
};

#endif
