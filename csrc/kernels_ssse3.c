/*
 * SSSE3 kernels. Coefficients are split as for AVX2.
 */
#if defined(__x86_64__)

#include "zf_opencv.h"

#include <immintrin.h>
#include <string.h>

#define SSSE3 __attribute__((target("ssse3")))
#define LOW_BITS 12

static int16_t low_part(int32_t k) { return (int16_t)(k & ((1 << LOW_BITS) - 1)); }
static int16_t high_part(int32_t k) { return (int16_t)((k - low_part(k)) / (1 << LOW_BITS)); }

SSSE3 static inline __m128i load(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
SSSE3 static inline void store(void *p, __m128i v) { _mm_storeu_si128((__m128i *)p, v); }

/* ---- horizontal ---------------------------------------------------------- */

/* Four outputs, and two taps of each: which byte of 16 pixels belongs to each tap, and
 * the parts of the coefficients. */
typedef struct {
    uint8_t index[16];
    int16_t low[8], high[8];
} group;

/* Eight taps of one output. Used if one load does not hold the pixels of four
 * neighbouring outputs; the image then shrinks a lot, so there are many taps. */
typedef struct {
    int16_t low[8], high[8];
} run;

static int pairs_of(const zf_taps *t) { return (t->ksize + 1) / 2; }
static int runs_of(const zf_taps *t) { return (t->ksize + 7) / 8; }

static int32_t coefficient(const zf_taps *t, int output, int tap)
{
    return tap < t->ksize ? t->k[(size_t)output * (size_t)t->ksize + (size_t)tap] : 0;
}

static void plan_group(group *g, const zf_taps *t, int first_output, int first_tap)
{
    memset(g, 0, sizeof *g);
    for (int word = 0; word < 8; word++) {
        int output = first_output + word / 2, tap = first_tap + word % 2;
        g->index[2 * word + 1] = 0x80; /* makes a zero */
        if (output >= t->n)
            continue;
        int offset = t->start[output] - t->start[first_output];
        g->index[2 * word] = (uint8_t)(offset + first_tap % 4 + word % 2);
        g->low[word] = low_part(coefficient(t, output, tap));
        g->high[word] = high_part(coefficient(t, output, tap));
    }
}

static void plan_run(run *r, const zf_taps *t, int output, int first_tap)
{
    for (int x = 0; x < 8; x++) {
        r->low[x] = low_part(coefficient(t, output, first_tap + x));
        r->high[x] = high_part(coefficient(t, output, first_tap + x));
    }
}

static bool plan_h(zf_taps *t)
{
    t->fits_one_load = zf_fits_one_load(t, 4, 16);
    if (t->identity || t->needs_32bit)
        return true;
    if (!t->fits_one_load) {
        if (!zf_plan_reserve(t, (size_t)t->n * (size_t)runs_of(t) * sizeof(run)))
            return false;
        run *r = t->plan;
        for (int i = 0; i < t->n; i++)
            for (int j = 0; j < runs_of(t); j++)
                plan_run(r++, t, i, 8 * j);
        return true;
    }
    if (!zf_plan_reserve(t, (size_t)((t->n + 3) / 4) * (size_t)pairs_of(t) * sizeof(group)))
        return false;
    group *g = t->plan;
    for (int i = 0; i < t->n; i += 4)
        for (int j = 0; j < pairs_of(t); j++)
            plan_group(g++, t, i, 2 * j);
    return true;
}

/* Sums of parts -> results in 32 bits, not clipped yet. */
SSSE3 static inline __m128i descale(__m128i low, __m128i high)
{
    return _mm_srai_epi32(_mm_add_epi32(low, _mm_slli_epi32(high, LOW_BITS)), 22);
}

/* Adds the products of two taps. */
SSSE3 static inline void multiply(__m128i pixels, const int16_t *klow, const int16_t *khigh,
                                  __m128i *low, __m128i *high)
{
    *low = _mm_add_epi32(*low, _mm_madd_epi16(pixels, load(klow)));
    *high = _mm_add_epi32(*high, _mm_madd_epi16(pixels, load(khigh)));
}

/* Four outputs; moves *g past their groups. */
SSSE3 static inline __m128i four_outputs(const group **g, const uint8_t *src, int pairs)
{
    __m128i low = _mm_set1_epi32(1 << 21), high = _mm_setzero_si128();
    for (; pairs > 1; pairs -= 2, src += 4) {
        __m128i pixels = load(src);
        for (int j = 0; j < 2; j++, (*g)++)
            multiply(_mm_shuffle_epi8(pixels, load((*g)->index)), (*g)->low, (*g)->high, &low,
                     &high);
    }
    if (pairs) {
        multiply(_mm_shuffle_epi8(load(src), load((*g)->index)), (*g)->low, (*g)->high, &low,
                 &high);
        (*g)++;
    }
    return descale(low, high);
}

SSSE3 static void resample_h_groups(uint8_t *dst, const uint8_t *src, const zf_taps *t)
{
    const group *g = t->plan;
    int pairs = pairs_of(t);

    for (int i = 0; i < t->n; i += 4) {
        __m128i four = four_outputs(&g, src + t->start[i], pairs);
        four = _mm_packs_epi32(four, four);
        int bytes = _mm_cvtsi128_si32(_mm_packus_epi16(four, four));
        memcpy(dst + i, &bytes, sizeof bytes);
    }
}

SSSE3 static void resample_h_runs(uint8_t *dst, const uint8_t *src, const zf_taps *t)
{
    const run *r = t->plan;
    int runs = runs_of(t);

    for (int i = 0; i < t->n; i++) {
        const uint8_t *pixels = src + t->start[i];
        __m128i low = _mm_setzero_si128(), high = low;
        for (int j = 0; j < runs; j++, r++, pixels += 8) {
            __m128i eight = _mm_loadl_epi64((const __m128i *)pixels);
            multiply(_mm_unpacklo_epi8(eight, _mm_setzero_si128()), r->low, r->high, &low, &high);
        }
        __m128i sum = _mm_add_epi32(low, _mm_slli_epi32(high, LOW_BITS));
        sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 1));
        sum = _mm_srai_epi32(_mm_add_epi32(sum, _mm_cvtsi32_si128(1 << 21)), 22);
        sum = _mm_packs_epi32(sum, sum);
        dst[i] = (uint8_t)_mm_cvtsi128_si32(_mm_packus_epi16(sum, sum));
    }
}

SSSE3 static ZF_DECL_RESAMPLE_H(resample_h)
{
    if (t->identity || t->needs_32bit)
        zf_resample_h_scalar(dst, src, t);
    else if (t->fits_one_load)
        resample_h_groups(dst, src, t);
    else
        resample_h_runs(dst, src, t);
}

/* ---- vertical ------------------------------------------------------------ */

/* The same number in the even words, and another one in the odd words. */
SSSE3 static inline __m128i spread(int16_t even, int16_t odd)
{
    return _mm_set1_epi32((int32_t)((uint16_t)even | (uint32_t)(uint16_t)odd << 16));
}

/* Adds the products of two rows of 16 pixels. The sums have the pixels 0 2 4 6,
 * 1 3 5 7, 8 10 12 14 and 9 11 13 15, as for AVX2. */
SSSE3 static inline void multiply_rows(const uint8_t *row, const uint8_t *next, int32_t k0,
                                       int32_t k1, __m128i low[4], __m128i high[4])
{
    __m128i klow = spread(low_part(k0), low_part(k1));
    __m128i khigh = spread(high_part(k0), high_part(k1));
    __m128i a = load(row), b = load(next);
    __m128i lo = _mm_unpacklo_epi16(a, b), hi = _mm_unpackhi_epi16(a, b);
    const __m128i even = _mm_set1_epi16(0xFF);
    __m128i pairs[4] = {_mm_and_si128(lo, even), _mm_srli_epi16(lo, 8),
                        _mm_and_si128(hi, even), _mm_srli_epi16(hi, 8)};
    for (int v = 0; v < 4; v++) {
        low[v] = _mm_add_epi32(low[v], _mm_madd_epi16(pairs[v], klow));
        high[v] = _mm_add_epi32(high[v], _mm_madd_epi16(pairs[v], khigh));
    }
}

SSSE3 static ZF_DECL_RESAMPLE_V(resample_v)
{
    if (needs_32bit) {
        zf_resample_v_scalar(dst, rows, k, ntaps, needs_32bit, n);
        return;
    }
    const __m128i even = _mm_set1_epi32(0xFFFF);
    for (size_t i = 0; i < n; i += 16) {
        __m128i low[4], high[4], words[2];
        for (int v = 0; v < 4; v++) {
            low[v] = _mm_set1_epi32(1 << 21);
            high[v] = _mm_setzero_si128();
        }
        for (int y = 0; y < ntaps; y += 2) {
            bool last = y + 1 == ntaps;
            multiply_rows(rows[y] + i, rows[last ? y : y + 1] + i, k[y], last ? 0 : k[y + 1],
                          low, high);
        }
        for (int v = 0; v < 2; v++) { /* an odd pixel's result goes to the upper word */
            __m128i first = descale(low[2 * v], high[2 * v]);
            __m128i second = descale(low[2 * v + 1], high[2 * v + 1]);
            words[v] = _mm_or_si128(_mm_and_si128(first, even), _mm_slli_epi32(second, 16));
        }
        store(dst + i, _mm_packus_epi16(words[0], words[1]));
    }
}

/* ---- interleaved pixels --------------------------------------------------- */

/* 16 pixels are 48 bytes in three vectors: byte j is in vector j / 16. For each
 * vector and channel, pick[][] says which byte goes where. 0x80 makes a zero, so
 * that the three results can be combined with OR. */
SSSE3 ZF_DECL_DEINTERLEAVE(zf_deinterleave_ssse3)
{
    uint8_t pick[3][3][16];
    memset(pick, 0x80, sizeof pick);
    for (int j = 0; j < 48; j++)
        pick[j % 3][j / 16][j / 3] = (uint8_t)(j % 16);
    for (size_t i = 0; i < n; i += 16)
        for (int c = 0; c < 3; c++) {
            __m128i out = _mm_setzero_si128();
            for (int v = 0; v < 3; v++) {
                __m128i in = load(rgb + 3 * i + 16 * (size_t)v);
                __m128i mask = load(pick[c][v]);
                out = _mm_or_si128(out, _mm_shuffle_epi8(in, mask));
            }
            store(planes[c] + i, out);
        }
}

SSSE3 ZF_DECL_INTERLEAVE(zf_interleave_ssse3)
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
                __m128i in = load(planes[c] + i);
                __m128i mask = load(pick[v][c]);
                out = _mm_or_si128(out, _mm_shuffle_epi8(in, mask));
            }
            store(dst + 3 * i + 16 * (size_t)v, out);
        }
    const uint8_t *const rest[3] = {planes[0] + i, planes[1] + i, planes[2] + i};
    zf_interleave_scalar(dst + 3 * i, rest, n - i);
}

/* ---- table lookup ---------------------------------------------------------- */

SSSE3 static inline __m128i element(const uint32_t *table, uint32_t index)
{
    return _mm_cvtsi32_si128((int)table[index]);
}

SSSE3 static inline __m128i lookup_four(const uint32_t *table, uint32_t four)
{
    __m128i low = _mm_unpacklo_epi32(element(table, four & 0xFF),
                                     element(table, four >> 8 & 0xFF));
    __m128i high = _mm_unpacklo_epi32(element(table, four >> 16 & 0xFF),
                                      element(table, four >> 24));
    return _mm_unpacklo_epi64(low, high);
}

/* One load for eight bytes, and one store for four elements. */
SSSE3 static ZF_DECL_LOOKUP32(lookup32)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t eight;
        memcpy(&eight, src + i, sizeof eight);
        store(dst + i, lookup_four(table, (uint32_t)eight));
        store(dst + i + 4, lookup_four(table, (uint32_t)(eight >> 32)));
    }
    zf_lookup32_scalar(dst + i, src + i, table, n - i);
}

const zf_kernels zf_kernels_ssse3 = {
    .plan_h = plan_h,
    .resample_h = resample_h,
    .resample_v = resample_v,
    .deinterleave = zf_deinterleave_ssse3,
    .interleave = zf_interleave_ssse3,
    .lookup32 = lookup32,
    .opencv = &zf_cv_kernels_scalar,
};

#endif
