/* The baseline decoder's kernels for AVX-512 (F, BW, VL, VBMI2). This level uses
 * AVX2 kernels where AVX-512 would not be faster. */
#if defined(__x86_64__)

#include "zf_jpeg_x86.h"

#include <immintrin.h>

#define FEATURES "avx512f,avx512bw,avx512vl,avx512vbmi2,bmi,bmi2,popcnt"
#define AVX512 __attribute__((target(FEATURES)))
#define INLINE static inline __attribute__((always_inline, target(FEATURES)))

/* ---- inverse DCT ---------------------------------------------------------- */

ZF_IDCT_1D(idct_1d, INLINE, __m512i, _mm512)

INLINE __m512i load_two(const void *a, const void *b)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_load_si256((const __m256i *)a)),
                              _mm256_load_si256((const __m256i *)b), 1);
}

/* The same as for AVX2, with two blocks at a time. */
AVX512 static bool idct_two(const zf_transform *a, const zf_transform *b)
{
    __m512i in[4], v[8];
    __m512i bad = _mm512_setzero_si512();

    for (int i = 0; i < 4; i++) {
        __m512i c = load_two(a->coef + 16 * i, b->coef + 16 * i);
        __m512i limit = load_two(a->q->limit + 16 * i, b->q->limit + 16 * i);
        in[i] = _mm512_mullo_epi16(c, load_two(a->q->factor + 16 * i, b->q->factor + 16 * i));
        bad = _mm512_or_si512(bad, _mm512_subs_epu16(_mm512_abs_epi16(c), limit));
    }
    idct_1d(in[0], in[1], in[2], in[3], 1 << 10, v);

    __m512i largest = _mm512_setzero_si512();
    __m512i rows[4];
    for (int i = 0; i < 4; i++) {
        rows[i] = _mm512_packs_epi32(_mm512_srai_epi32(v[2 * i], 11),
                                     _mm512_srai_epi32(v[2 * i + 1], 11));
        largest = _mm512_max_epu16(largest, _mm512_abs_epi16(rows[i]));
    }
    bad = _mm512_or_si512(bad, _mm512_subs_epu16(largest, _mm512_set1_epi16(ZF_PASS1_MAX)));

    /* lanes of 128 bits: rows 0-3 of a, rows 0-3 of b, rows 4-7 of a, 4-7 of b */
#define EVERY_OTHER(a, b, which)                                                          \
    _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), \
                                          which))
    __m512i p0 = EVERY_OTHER(rows[0], rows[1], 0x88), p1 = EVERY_OTHER(rows[2], rows[3], 0x88);
    __m512i p2 = EVERY_OTHER(rows[0], rows[1], 0xDD), p3 = EVERY_OTHER(rows[2], rows[3], 0xDD);
#undef EVERY_OTHER
    idct_1d(_mm512_shuffle_i64x2(p0, p1, 0x88), _mm512_shuffle_i64x2(p2, p3, 0x88),
            _mm512_shuffle_i64x2(p0, p1, 0xDD), _mm512_shuffle_i64x2(p2, p3, 0xDD),
            (1 << 17) + (512 << 18), v);

    __m512i columns[4], any = _mm512_setzero_si512();
    for (int i = 0; i < 4; i++) {
        __m512i wide = _mm512_packs_epi32(_mm512_srai_epi32(v[2 * i], 18),
                                          _mm512_srai_epi32(v[2 * i + 1], 18));
        any = _mm512_or_si512(any, wide);
        columns[i] = _mm512_sub_epi16(wide, _mm512_set1_epi16(512 - 128));
    }
    bad = _mm512_or_si512(bad, _mm512_and_si512(any, _mm512_set1_epi16((short)0xFC00)));

    const __m512i transpose = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    __m512i left = _mm512_shuffle_epi8(_mm512_packus_epi16(columns[0], columns[1]), transpose);
    __m512i right = _mm512_shuffle_epi8(_mm512_packus_epi16(columns[2], columns[3]), transpose);
    __m512i r01 = _mm512_unpacklo_epi32(left, right), r23 = _mm512_unpackhi_epi32(left, right);
#define STORE(block, row, from, lane)                                                     \
    do {                                                                                  \
        __m128i two = _mm512_extracti32x4_epi32(from, lane);                              \
        _mm_storel_epi64((__m128i *)((block)->dst + (row) * (block)->stride), two);       \
        _mm_storeh_pd((double *)((block)->dst + ((row) + 1) * (block)->stride),           \
                      _mm_castsi128_pd(two));                                             \
    } while (0)
    STORE(a, 0, r01, 0);
    STORE(b, 0, r01, 1);
    STORE(a, 4, r01, 2);
    STORE(b, 4, r01, 3);
    STORE(a, 2, r23, 0);
    STORE(b, 2, r23, 1);
    STORE(a, 6, r23, 2);
    STORE(b, 6, r23, 3);
#undef STORE
    return _mm512_test_epi16_mask(bad, bad) == 0;
}

AVX512 static ZF_DECL_IDCT(idct_avx512)
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

AVX512 static ZF_DECL_UNSTUFF(unstuff_avx512)
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
    .ac_first = zf_ac_first_bmi2,
    .ac_refine = zf_ac_refine_bmi2,
    .idct = idct_avx512,
    .upsample_h2v1 = zf_upsample_h2v1_avx2,
    .upsample_h2v2 = zf_upsample_h2v2_avx2,
    .upsample_h1v2 = zf_upsample_h1v2_avx2,
    .ycc_to_rgb = zf_ycc_to_rgb_avx2,
};

#endif
