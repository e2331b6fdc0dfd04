/* The baseline decoder's kernels for AVX-512 (F, BW, VL, VBMI2). This level uses
 * AVX2 kernels where AVX-512 would not be faster. */
#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,bmi,bmi2,popcnt")))
#define V(operation) _mm512_##operation
#define every_lane(v) _mm512_broadcast_i32x4(v)

typedef __m512i vec;
typedef __m512 reals;

#include "zf_jpeg_x86.h"

INLINE void store(void *p, vec v) { _mm512_storeu_si512(p, v); }

INLINE vec load_wide(const uint8_t *p)
{
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)p));
}

INLINE vec to_bytes(vec a, vec b)
{
    const vec order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    return _mm512_permutexvar_epi64(order, _mm512_packus_epi16(a, b));
}

#include "zf_jpeg_rows_x86.h"

/* ---- inverse DCT ---------------------------------------------------------- */

INLINE vec load_two(const void *a, const void *b)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_load_si256((const __m256i *)a)),
                              _mm256_load_si256((const __m256i *)b), 1);
}

/* The same as for AVX2, with two blocks at a time. */
TARGET static bool idct_two(const zf_transform *a, const zf_transform *b)
{
    vec in[4], v[4], r01, r23, bad = _mm512_setzero_si512();

    for (int i = 0; i < 4; i++)
        in[i] = dequantized(load_two(a->coef + 16 * i, b->coef + 16 * i),
                            load_two(a->q->factor + 16 * i, b->q->factor + 16 * i),
                            load_two(a->q->limit + 16 * i, b->q->limit + 16 * i), &bad);
    idct_columns(in, v, &bad);
    /* lanes of 128 bits: rows 0-3 of a, rows 0-3 of b, rows 4-7 of a, 4-7 of b */
    const vec next[4] = {
        _mm512_shuffle_i64x2(v[0], v[2], 0x88), _mm512_shuffle_i64x2(v[1], v[3], 0x88),
        _mm512_shuffle_i64x2(v[0], v[2], 0xDD), _mm512_shuffle_i64x2(v[1], v[3], 0xDD)};
    idct_rows(next, &r01, &r23, &bad);
    store_rows(a, 0, _mm512_extracti32x4_epi32(r01, 0));
    store_rows(b, 0, _mm512_extracti32x4_epi32(r01, 1));
    store_rows(a, 4, _mm512_extracti32x4_epi32(r01, 2));
    store_rows(b, 4, _mm512_extracti32x4_epi32(r01, 3));
    store_rows(a, 2, _mm512_extracti32x4_epi32(r23, 0));
    store_rows(b, 2, _mm512_extracti32x4_epi32(r23, 1));
    store_rows(a, 6, _mm512_extracti32x4_epi32(r23, 2));
    store_rows(b, 6, _mm512_extracti32x4_epi32(r23, 3));
    return _mm512_test_epi16_mask(bad, bad) == 0;
}

TARGET static ZF_DECL_IDCT(idct_avx512)
{
    const zf_transform *waiting = NULL; /* a block that waits for a second block */

    for (int i = 0; i < n; i++) {
        if (blocks[i].last == 0) {
            if (!zf_idct_flat(&blocks[i]))
                return false;
        } else if (!waiting) {
            waiting = &blocks[i];
        } else {
            if (!idct_two(waiting, &blocks[i]))
                return false;
            waiting = NULL;
        }
    }
    return !waiting || idct_two(waiting, waiting);
}

/* ---- unstuffing ----------------------------------------------------------- */

TARGET static ZF_DECL_UNSTUFF(unstuff_avx512)
{
    uint8_t *out = dst;
    uint64_t carry = 0; /* 1 if the byte before src is 0xFF */

    while (end - src >= 64) {
        __m512i v = _mm512_loadu_si512(src);
        uint64_t ff = _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8(-1));
        uint64_t zero = _mm512_testn_epi8_mask(v, v);
        uint64_t after = ff << 1 | carry;
        if (after & ~zero)
            break; /* a marker */
        uint64_t stuffed = after & zero;
        _mm512_storeu_si512(out, _mm512_maskz_compress_epi8(~stuffed, v));
        out += 64 - _mm_popcnt_u64(stuffed);
        src += 64;
        carry = ff >> 63;
    }
    out -= carry;
    src -= carry;
    size_t tail;
    src = zf_unstuff_scalar(out, &tail, src, end);
    *n = (size_t)(out - dst) + tail;
    return src;
}

const zf_jpeg_kernels zf_jpeg_kernels_avx512 = {
    .unstuff = unstuff_avx512,
    .mcu = zf_mcu_bmi2,
    .skip = zf_skip_bmi2,
    .ac_first = zf_ac_first_bmi2,
    .ac_refine = zf_ac_refine_bmi2,
    .idct = idct_avx512,
    .upsample_h2v1 = upsample_h2v1,
    .upsample_h2v2 = upsample_h2v2,
    .upsample_h1v2 = upsample_h1v2,
    .ycc_to_rgb = ycc_to_rgb,
};

#endif
