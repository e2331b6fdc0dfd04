/* The inverse DCT for x86 vectors of any width. A file of kernels includes this once,
 * after defining
 *   TARGET            the attribute with the CPU features
 *   V(operation)      an intrinsic of the width
 *   vec, reals        the vectors of integers and of floats
 *   every_lane(v)     a vector with v in each 128 bits ("lane") */
#include "zf_jpeg_internal.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline)) TARGET

/* The pair (a, b) in each 32 bits, for pmaddwd. */
#define PAIR(a, b) V(set1_epi32)((int)((uint32_t)(uint16_t)(a) | (uint32_t)(b) << 16))
#define MADD(v, a, b) V(madd_epi16)(v, PAIR(a, b))

/* idct_1d of jpeg_pixels.c for as many rows or columns as a vector has 32-bit numbers.
 * Each of in[0] holds inputs 0 and 4, of in[1] 2 and 6, of in[2] 1 and 3, of in[3] 5
 * and 7. */
INLINE void idct_1d(const vec in[4], int round, vec out[8])
{
#define ODD(i)                                                                         \
    V(add_epi32)(MADD(in[2], ZF_IDCT_1_##i, ZF_IDCT_3_##i),                            \
                 MADD(in[3], ZF_IDCT_5_##i, ZF_IDCT_7_##i))
    vec half = V(set1_epi32)(round);
    vec sum = V(add_epi32)(MADD(in[0], 8192, 8192), half);
    vec difference = V(add_epi32)(MADD(in[0], 8192, -8192), half);
    vec even0 = MADD(in[1], ZF_IDCT_2_0, ZF_IDCT_6_0);
    vec even1 = MADD(in[1], ZF_IDCT_2_1, ZF_IDCT_6_1);
    vec even[4] = {V(add_epi32)(sum, even0), V(add_epi32)(difference, even1),
                   V(sub_epi32)(difference, even1), V(sub_epi32)(sum, even0)};
    vec odd[4] = {ODD(0), ODD(1), ODD(2), ODD(3)};
    for (int i = 0; i < 4; i++) {
        out[i] = V(add_epi32)(even[i], odd[i]);
        out[7 - i] = V(sub_epi32)(even[i], odd[i]);
    }
#undef ODD
}

/* The two 32-bit numbers 0 and 2 (which = 0x88) or 1 and 3 (0xDD) of each lane of a, and
 * then of b. */
#define EVERY_OTHER(a, b, which) ((vec)V(shuffle_ps)((reals)(a), (reals)(b), which))

/* The dequantized coefficients. Sets bits of *bad if one is out of range. */
INLINE vec dequantized(vec coef, vec factor, vec limit, vec *bad)
{
    *bad |= V(subs_epu16)(V(abs_epi16)(coef), limit);
    return V(mullo_epi16)(coef, factor);
}

/* The first pass. in[i]: the row pair i of a block's order, four columns a lane. next[0]
 * gets the first column pair of the rows 0 to 3 in each lane, next[1] the second pair;
 * next[2] and next[3] those of the rows 4 to 7. Sets bits of *bad if a number is out of
 * range. */
INLINE void idct_columns(const vec in[4], vec next[4], vec *bad)
{
    vec v[8], rows[4], size = V(set1_epi16)(0);

    idct_1d(in, 1 << 10, v);
    for (int i = 0; i < 4; i++) { /* a lane: four columns of row 2 * i, then of the next */
        rows[i] = V(packs_epi32)(V(srai_epi32)(v[2 * i], 11), V(srai_epi32)(v[2 * i + 1], 11));
        size |= V(abs_epi16)(rows[i]);
    }
    for (int i = 0; i < 2; i++) {
        next[2 * i] = EVERY_OTHER(rows[2 * i], rows[2 * i + 1], 0x88);
        next[2 * i + 1] = EVERY_OTHER(rows[2 * i], rows[2 * i + 1], 0xDD);
    }
    _Static_assert((ZF_PASS1_MAX & (ZF_PASS1_MAX + 1)) == 0, "the range is a number of bits");
    *bad |= size & V(set1_epi16)((short)~ZF_PASS1_MAX);
}

/* The second pass: four rows a lane. A lane of first gets the samples of its first two
 * rows, a lane of second those of the others. *bad as above. */
INLINE void idct_rows(const vec in[4], vec *first, vec *second, vec *bad)
{
    const vec transpose = /* four columns of four rows */
        every_lane(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    vec v[8], columns[4], any = V(set1_epi16)(0);

    /* 512 is added: the sample is in range if its high bits are 0 */
    idct_1d(in, (1 << 17) + (512 << 18), v);
    for (int i = 0; i < 4; i++) {
        vec wide = V(packs_epi32)(V(srai_epi32)(v[2 * i], 18), V(srai_epi32)(v[2 * i + 1], 18));
        any |= wide;
        columns[i] = V(sub_epi16)(wide, V(set1_epi16)(512 - 128));
    }
    vec left = V(shuffle_epi8)(V(packus_epi16)(columns[0], columns[1]), transpose);
    vec right = V(shuffle_epi8)(V(packus_epi16)(columns[2], columns[3]), transpose);
    *first = V(unpacklo_epi32)(left, right);
    *second = V(unpackhi_epi32)(left, right);
    *bad |= any & V(set1_epi16)((short)0xFC00);
}

/* Stores the rows `row` and `row` + 1 of a block. */
INLINE void store_rows(const zf_transform *block, size_t row, __m128i two)
{
    uint8_t *dst = block->dst + row * block->stride;
    _mm_storel_epi64((__m128i *)dst, two);
    _mm_storeh_pd((double *)(dst + block->stride), (__m128d)two);
}
