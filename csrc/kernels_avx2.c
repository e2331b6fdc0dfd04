/*
 * AVX2 kernels.
 *
 * A coefficient k is split into high * 2^12 + low. Both parts fit 16 signed
 * bits, so vpmaddwd multiplies two taps at once without loss.
 */
#if defined(__x86_64__)

#include "zf_opencv.h"

#include <immintrin.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2,bmi2")))
#define LOW_BITS 12

static int16_t low_part(int32_t k) { return (int16_t)(k & ((1 << LOW_BITS) - 1)); }
static int16_t high_part(int32_t k) { return (int16_t)((k - low_part(k)) / (1 << LOW_BITS)); }

/* ---- horizontal ---------------------------------------------------------- */

/* Four outputs and four taps of each, from one load of 16 pixels: which pixel
 * belongs to each tap, and the parts of the coefficients. */
typedef struct {
    uint8_t index[16];
    int16_t low[16], high[16];
} group;

static int groups_of(const zf_taps *t) { return (t->ksize + 3) / 4; }

static bool plan_h(zf_taps *t)
{
    t->fits_one_load = zf_fits_one_load(t, 4, 16);
    if (t->identity || t->needs_32bit || !t->fits_one_load)
        return true;
    int groups = groups_of(t);
    if (!zf_plan_reserve(t, (size_t)((t->n + 3) / 4) * (size_t)groups * sizeof(group)))
        return false;
    group *g = t->plan;
    for (int i = 0; i < t->n; i += 4)
        for (int tap = 0; tap < 4 * groups; tap += 4, g++)
            for (int lane = 0; lane < 16; lane++) {
                int output = i + lane / 4, x = lane % 4;
                bool used = output < t->n && tap + x < t->ksize;
                int32_t k =
                    used ? t->k[(size_t)output * (size_t)t->ksize + (size_t)(tap + x)] : 0;
                g->low[lane] = low_part(k);
                g->high[lane] = high_part(k);
                g->index[lane] =
                    output < t->n ? (uint8_t)(t->start[output] - t->start[i] + x) : 0;
            }
    return true;
}

AVX2 static ZF_DECL_RESAMPLE_H(resample_h)
{
    if (t->identity || t->needs_32bit || !t->fits_one_load) {
        zf_resample_h_scalar(dst, src, t);
        return;
    }
    const group *g = t->plan;
    int groups = groups_of(t);

    for (int i = 0; i < t->n; i += 4) {
        const uint8_t *pixels = src + t->start[i];
        __m256i low = _mm256_setzero_si256(), high = low;
        for (int j = 0; j < groups; j++, g++, pixels += 4) {
            __m128i bytes = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)pixels),
                                             _mm_loadu_si128((const __m128i *)g->index));
            __m256i p = _mm256_cvtepu8_epi16(bytes);
            low = _mm256_add_epi32(
                low, _mm256_madd_epi16(p, _mm256_loadu_si256((const __m256i *)g->low)));
            high = _mm256_add_epi32(
                high, _mm256_madd_epi16(p, _mm256_loadu_si256((const __m256i *)g->high)));
        }
        __m256i pairs = _mm256_add_epi32(low, _mm256_slli_epi32(high, LOW_BITS));
        __m128i sum = _mm_hadd_epi32(_mm256_castsi256_si128(pairs),
                                     _mm256_extracti128_si256(pairs, 1));
        sum = _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(1 << 21)), 22);
        sum = _mm_packs_epi32(sum, sum);
        int four = _mm_cvtsi128_si32(_mm_packus_epi16(sum, sum));
        memcpy(dst + i, &four, 4);
    }
}

/* ---- vertical ------------------------------------------------------------ */

AVX2 static ZF_DECL_RESAMPLE_V(resample_v)
{
    if (needs_32bit) {
        zf_resample_v_scalar(dst, rows, stride, k, ntaps, needs_32bit, n);
        return;
    }
    const __m256i zero = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 32) {
        __m256i low[4], high[4];
        for (int v = 0; v < 4; v++)
            low[v] = high[v] = zero;
        for (int y = 0; y < ntaps; y += 2) {
            int32_t k0 = k[y], k1 = y + 1 < ntaps ? k[y + 1] : 0;
            __m256i klow = _mm256_set1_epi32((uint16_t)low_part(k0) |
                                             (int32_t)((uint32_t)low_part(k1) << 16));
            __m256i khigh = _mm256_set1_epi32((uint16_t)high_part(k0) |
                                              (int32_t)((uint32_t)high_part(k1) << 16));
            const uint8_t *row = rows + (size_t)y * stride + i;
            const uint8_t *next = y + 1 < ntaps ? row + stride : row;
            __m256i a = _mm256_loadu_si256((const __m256i *)row);
            __m256i b = _mm256_loadu_si256((const __m256i *)next);
            __m256i ab_lo = _mm256_unpacklo_epi8(a, b), ab_hi = _mm256_unpackhi_epi8(a, b);
            __m256i pairs[4] = {
                _mm256_unpacklo_epi8(ab_lo, zero), _mm256_unpackhi_epi8(ab_lo, zero),
                _mm256_unpacklo_epi8(ab_hi, zero), _mm256_unpackhi_epi8(ab_hi, zero)};
            for (int v = 0; v < 4; v++) {
                low[v] = _mm256_add_epi32(low[v], _mm256_madd_epi16(pairs[v], klow));
                high[v] = _mm256_add_epi32(high[v], _mm256_madd_epi16(pairs[v], khigh));
            }
        }
        for (int v = 0; v < 4; v++) {
            __m256i sum = _mm256_add_epi32(low[v], _mm256_slli_epi32(high[v], LOW_BITS));
            low[v] = _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << 21)), 22);
        }
        __m256i first = _mm256_packs_epi32(low[0], low[1]);
        __m256i second = _mm256_packs_epi32(low[2], low[3]);
        _mm256_storeu_si256((__m256i *)(dst + i), _mm256_packus_epi16(first, second));
    }
}

/* ---- interleaved pixels --------------------------------------------------- */

/* 16 pixels are 48 bytes in three vectors: byte j is in vector j / 16. For each
 * vector and channel, pick[][] says which byte goes where. 0x80 makes a zero, so
 * that the three results can be combined with OR. */
AVX2 static ZF_DECL_DEINTERLEAVE(deinterleave)
{
    uint8_t pick[3][3][16];
    memset(pick, 0x80, sizeof pick);
    for (int j = 0; j < 48; j++)
        pick[j % 3][j / 16][j / 3] = (uint8_t)(j % 16);
    for (size_t i = 0; i < n; i += 16)
        for (int c = 0; c < 3; c++) {
            __m128i out = _mm_setzero_si128();
            for (int v = 0; v < 3; v++) {
                __m128i in = _mm_loadu_si128((const __m128i *)(rgb + 3 * i + 16 * (size_t)v));
                __m128i mask = _mm_loadu_si128((const __m128i *)pick[c][v]);
                out = _mm_or_si128(out, _mm_shuffle_epi8(in, mask));
            }
            _mm_storeu_si128((__m128i *)(planes[c] + i), out);
        }
}

AVX2 static ZF_DECL_INTERLEAVE(interleave)
{
    uint8_t pick[3][3][16];
    memset(pick, 0x80, sizeof pick);
    for (int j = 0; j < 48; j++)
        pick[j / 16][j % 3][j % 16] = (uint8_t)(j / 3);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int v = 0; v < 3; v++) {
            __m128i out = _mm_setzero_si128();
            for (int c = 0; c < 3; c++) {
                __m128i in = _mm_loadu_si128((const __m128i *)(planes[c] + i));
                __m128i mask = _mm_loadu_si128((const __m128i *)pick[v][c]);
                out = _mm_or_si128(out, _mm_shuffle_epi8(in, mask));
            }
            _mm_storeu_si128((__m128i *)(dst + 3 * i + 16 * (size_t)v), out);
        }
    const uint8_t *const rest[3] = {planes[0] + i, planes[1] + i, planes[2] + i};
    zf_interleave_scalar(dst + 3 * i, rest, n - i);
}

const zf_kernels zf_kernels_avx2 = {
    .plan_h = plan_h,
    .resample_h = resample_h,
    .resample_v = resample_v,
    .deinterleave = deinterleave,
    .interleave = interleave,
    /* a gather is no faster than loads from a table in the L1 cache */
    .lookup32 = zf_lookup32_scalar,
    .opencv = &zf_cv_kernels_scalar,
};

#endif
