/* The part of the inverse DCT that all x86 vector widths share. */
#ifndef ZF_JPEG_X86_H
#define ZF_JPEG_X86_H

#include "zf_jpeg_internal.h"

/* The pair (a, b) in one 32-bit lane, for vpmaddwd. */
#define ZF_PAIR(a, b) ((int)((uint32_t)(uint16_t)(a) | (uint32_t)(b) << 16))

/* Defines name(): idct_1d of jpeg_pixels.c for as many rows or columns as a
 * vector has 32-bit lanes. Each lane of in04 holds inputs 0 and 4, each lane of
 * in26 inputs 2 and 6, and so on. m: the prefix of the vector's intrinsics. */
#define ZF_IDCT_MADD(m, v, a, b) m##_madd_epi16(v, m##_set1_epi32(ZF_PAIR(a, b)))
#define ZF_IDCT_ODD(m, i)                                                         \
    m##_add_epi32(ZF_IDCT_MADD(m, in13, ZF_IDCT_1_##i, ZF_IDCT_3_##i),            \
                  ZF_IDCT_MADD(m, in57, ZF_IDCT_5_##i, ZF_IDCT_7_##i))
#define ZF_IDCT_1D(name, attributes, vec, m)                                      \
    attributes void name(vec in04, vec in26, vec in13, vec in57, int round,       \
                         vec out[8])                                              \
    {                                                                             \
        vec half = m##_set1_epi32(round);                                         \
        vec sum = m##_add_epi32(ZF_IDCT_MADD(m, in04, 8192, 8192), half);         \
        vec difference = m##_add_epi32(ZF_IDCT_MADD(m, in04, 8192, -8192), half); \
        vec even0 = ZF_IDCT_MADD(m, in26, ZF_IDCT_2_0, ZF_IDCT_6_0);              \
        vec even1 = ZF_IDCT_MADD(m, in26, ZF_IDCT_2_1, ZF_IDCT_6_1);              \
        vec even[4] = {m##_add_epi32(sum, even0), m##_add_epi32(difference, even1), \
                       m##_sub_epi32(difference, even1), m##_sub_epi32(sum, even0)}; \
        vec odd[4] = {ZF_IDCT_ODD(m, 0), ZF_IDCT_ODD(m, 1), ZF_IDCT_ODD(m, 2),    \
                      ZF_IDCT_ODD(m, 3)};                                         \
        for (int i = 0; i < 4; i++) {                                             \
            out[i] = m##_add_epi32(even[i], odd[i]);                              \
            out[7 - i] = m##_sub_epi32(even[i], odd[i]);                          \
        }                                                                         \
    }

#endif
