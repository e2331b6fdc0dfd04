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

/* Eight outputs, and four taps of each: which byte of a lane's 16 pixels belongs to
 * each tap, and the parts of the coefficients. [0] are the taps 0 and 1 of each
 * output, [1] the taps 2 and 3. */
typedef struct {
    uint8_t index[2][32];
    int16_t low[2][16], high[2][16];
} group;

/* Sixteen outputs are made at once: lane 0 of one vector has the outputs 0 to 3,
 * lane 1 the outputs 8 to 11, and the other vector the outputs between them, so
 * that the packing instructions put them in order. */
static const int outputs_of[2][2] = {{0, 8}, {4, 12}}; /* [vector][lane] */

/* Sixteen taps of one output. Used if one load does not hold the pixels of four
 * neighbouring outputs; the image then shrinks a lot, so there are many taps. */
typedef struct {
    int16_t low[16], high[16];
} run;

static int groups_of(const zf_taps *t) { return (t->ksize + 3) / 4; }
static int runs_of(const zf_taps *t) { return (t->ksize + 15) / 16; }

static int start_of(const zf_taps *t, int output)
{
    return t->start[output < t->n ? output : t->n - 1];
}

static void plan_group(group *g, const zf_taps *t, const int outputs[2], int first_tap)
{
    memset(g, 0, sizeof *g);
    for (int lane = 0; lane < 2; lane++)
        for (int i = 0; i < 4; i++)
            for (int x = 0; x < 4; x++) {
                int output = outputs[lane] + i, tap = first_tap + x;
                int word = 8 * lane + 2 * i + x % 2;
                int offset = start_of(t, output) - start_of(t, outputs[lane]);
                int32_t k = 0;
                if (output < t->n && tap < t->ksize)
                    k = t->k[(size_t)output * (size_t)t->ksize + (size_t)tap];
                g->index[x / 2][2 * word] = (uint8_t)(offset + x);
                g->index[x / 2][2 * word + 1] = 0x80; /* makes a zero */
                g->low[x / 2][word] = low_part(k);
                g->high[x / 2][word] = high_part(k);
            }
}

static bool plan_runs(zf_taps *t)
{
    int runs = runs_of(t);
    if (!zf_plan_reserve(t, (size_t)t->n * (size_t)runs * sizeof(run)))
        return false;
    run *r = t->plan;
    for (int i = 0; i < t->n; i++)
        for (int first = 0; first < 16 * runs; first += 16, r++)
            for (int x = 0; x < 16; x++) {
                int32_t k = 0;
                if (first + x < t->ksize)
                    k = t->k[(size_t)i * (size_t)t->ksize + (size_t)(first + x)];
                r->low[x] = low_part(k);
                r->high[x] = high_part(k);
            }
    return true;
}

static bool plan_h(zf_taps *t)
{
    t->fits_one_load = zf_fits_one_load(t, 4, 16);
    if (t->identity || t->needs_32bit)
        return true;
    if (!t->fits_one_load)
        return plan_runs(t);
    int groups = groups_of(t);
    if (!zf_plan_reserve(t, (size_t)((t->n + 15) / 16) * 2 * (size_t)groups * sizeof(group)))
        return false;
    group *g = t->plan;
    for (int i = 0; i < t->n; i += 16)
        for (int j = 0; j < groups; j++)
            for (int v = 0; v < 2; v++, g++)
                plan_group(g, t, (int[2]){i + outputs_of[v][0], i + outputs_of[v][1]}, 4 * j);
    return true;
}

/* Adds the products of eight outputs and `pairs` pairs of taps of each. */
AVX2 static inline void multiply_group(const group *g, const uint8_t *lane0,
                                       const uint8_t *lane1, int pairs, __m256i *low,
                                       __m256i *high)
{
    __m256i pixels = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)lane0)),
        _mm_loadu_si128((const __m128i *)lane1), 1);
    for (int pair = 0; pair < pairs; pair++) {
        __m256i p = _mm256_shuffle_epi8(
            pixels, _mm256_loadu_si256((const __m256i *)g->index[pair]));
        __m256i klow = _mm256_loadu_si256((const __m256i *)g->low[pair]);
        __m256i khigh = _mm256_loadu_si256((const __m256i *)g->high[pair]);
        *low = _mm256_add_epi32(*low, _mm256_madd_epi16(p, klow));
        *high = _mm256_add_epi32(*high, _mm256_madd_epi16(p, khigh));
    }
}

AVX2 static inline __m256i descale(__m256i low, __m256i high)
{
    return _mm256_srai_epi32(_mm256_add_epi32(low, _mm256_slli_epi32(high, LOW_BITS)), 22);
}

AVX2 static void resample_h_groups(uint8_t *dst, const uint8_t *src, const zf_taps *t)
{
    const __m256i round = _mm256_set1_epi32(1 << 21), zero = _mm256_setzero_si256();
    const group *g = t->plan;
    int whole = (t->ksize + 1) / 4; /* groups with two pairs */
    bool rest = whole < groups_of(t);

    for (int i = 0; i < t->n; i += 16) {
        const uint8_t *pixels[4];
        for (int j = 0; j < 4; j++)
            pixels[j] = src + start_of(t, i + 4 * j);
        __m256i low[2] = {round, round}, high[2] = {zero, zero};
        int j = 0;
        for (; j < whole; j++, g += 2)
            for (int v = 0; v < 2; v++)
                multiply_group(&g[v], pixels[v] + 4 * j, pixels[v + 2] + 4 * j, 2, &low[v],
                               &high[v]);
        if (rest) {
            for (int v = 0; v < 2; v++)
                multiply_group(&g[v], pixels[v] + 4 * j, pixels[v + 2] + 4 * j, 1, &low[v],
                               &high[v]);
            g += 2;
        }
        __m256i words = _mm256_packs_epi32(descale(low[0], high[0]), descale(low[1], high[1]));
        __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words),
                                         _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(dst + i), bytes);
    }
}

AVX2 static void resample_h_runs(uint8_t *dst, const uint8_t *src, const zf_taps *t)
{
    const run *r = t->plan;
    int runs = runs_of(t);

    for (int i = 0; i < t->n; i++) {
        const uint8_t *pixels = src + t->start[i];
        __m256i low = _mm256_setzero_si256(), high = low;
        for (int j = 0; j < runs; j++, r++, pixels += 16) {
            __m256i p = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)pixels));
            low = _mm256_add_epi32(
                low, _mm256_madd_epi16(p, _mm256_loadu_si256((const __m256i *)r->low)));
            high = _mm256_add_epi32(
                high, _mm256_madd_epi16(p, _mm256_loadu_si256((const __m256i *)r->high)));
        }
        __m256i eight = _mm256_add_epi32(low, _mm256_slli_epi32(high, LOW_BITS));
        __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight),
                                     _mm256_extracti128_si256(eight, 1));
        four = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
        four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 1));
        four = _mm_srai_epi32(_mm_add_epi32(four, _mm_cvtsi32_si128(1 << 21)), 22);
        four = _mm_packs_epi32(four, four);
        dst[i] = (uint8_t)_mm_cvtsi128_si32(_mm_packus_epi16(four, four));
    }
}

AVX2 static ZF_DECL_RESAMPLE_H(resample_h)
{
    if (t->identity || t->needs_32bit)
        zf_resample_h_scalar(dst, src, t);
    else if (t->fits_one_load)
        resample_h_groups(dst, src, t);
    else
        resample_h_runs(dst, src, t);
}

/* ---- vertical ------------------------------------------------------------ */

/* The parts of two coefficients, in every dword. */
AVX2 static inline __m256i spread(int16_t even, int16_t odd)
{
    return _mm256_set1_epi32((int32_t)((uint16_t)even | (uint32_t)(uint16_t)odd << 16));
}

/* Adds the products of two rows of 32 pixels; if `first`, overwrites. Vector 0 has
 * the pixels 0, 2, 4, 6 of each lane, vector 1 the odd ones between them, vectors 2
 * and 3 the next eight. Two word unpacks and four other instructions bring the
 * pixels of both rows together, instead of six unpacks of bytes: many CPUs have
 * only one unit for unpacking. */
AVX2 static inline void multiply_rows(const uint8_t *row, const uint8_t *next, int32_t k0,
                                      int32_t k1, bool first, __m256i low[4], __m256i high[4])
{
    __m256i klow = spread(low_part(k0), low_part(k1));
    __m256i khigh = spread(high_part(k0), high_part(k1));
    __m256i a = _mm256_loadu_si256((const __m256i *)row);
    __m256i b = _mm256_loadu_si256((const __m256i *)next);
    __m256i lo = _mm256_unpacklo_epi16(a, b), hi = _mm256_unpackhi_epi16(a, b);
    const __m256i even = _mm256_set1_epi16(0xFF);
    __m256i pairs[4] = {_mm256_and_si256(lo, even), _mm256_srli_epi16(lo, 8),
                        _mm256_and_si256(hi, even), _mm256_srli_epi16(hi, 8)};
    for (int v = 0; v < 4; v++) {
        __m256i l = _mm256_madd_epi16(pairs[v], klow), h = _mm256_madd_epi16(pairs[v], khigh);
        low[v] = first ? l : _mm256_add_epi32(low[v], l);
        high[v] = first ? h : _mm256_add_epi32(high[v], h);
    }
}

AVX2 static ZF_DECL_RESAMPLE_V(resample_v)
{
    if (needs_32bit) {
        zf_resample_v_scalar(dst, rows, k, ntaps, needs_32bit, n);
        return;
    }
    const __m256i round = _mm256_set1_epi32(1 << 21);
    for (size_t i = 0; i < n; i += 32) {
        __m256i low[4], high[4];
        if (ntaps == 1)
            multiply_rows(rows[0] + i, rows[0] + i, k[0], 0, true, low, high);
        else
            multiply_rows(rows[0] + i, rows[1] + i, k[0], k[1], true, low, high);
        int y = 2;
        for (; y + 1 < ntaps; y += 2)
            multiply_rows(rows[y] + i, rows[y + 1] + i, k[y], k[y + 1], false, low, high);
        if (y < ntaps)
            multiply_rows(rows[y] + i, rows[y] + i, k[y], 0, false, low, high);
        __m256i words[2];
        for (int v = 0; v < 4; v++)
            low[v] = _mm256_add_epi32(_mm256_add_epi32(low[v], round),
                                      _mm256_slli_epi32(high[v], LOW_BITS));
        for (int v = 0; v < 2; v++) /* an odd pixel's result goes to the upper word */
            words[v] = _mm256_blend_epi16(_mm256_srai_epi32(low[2 * v], 22),
                                          _mm256_srai_epi32(low[2 * v + 1], 22 - 16), 0xAA);
        _mm256_storeu_si256((__m256i *)(dst + i), _mm256_packus_epi16(words[0], words[1]));
    }
}

/* ---- table lookup ---------------------------------------------------------- */

AVX2 static inline __m128i lookup_four(const uint32_t *table, uint32_t four)
{
    __m128i elements = _mm_cvtsi32_si128((int)table[four & 0xFF]);
    elements = _mm_insert_epi32(elements, (int)table[four >> 8 & 0xFF], 1);
    elements = _mm_insert_epi32(elements, (int)table[four >> 16 & 0xFF], 2);
    return _mm_insert_epi32(elements, (int)table[four >> 24], 3);
}

/* One load for eight bytes, and one store for four elements. A gather takes longer. */
AVX2 static ZF_DECL_LOOKUP32(lookup32)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t eight;
        memcpy(&eight, src + i, sizeof eight);
        _mm_storeu_si128((__m128i *)(dst + i), lookup_four(table, (uint32_t)eight));
        _mm_storeu_si128((__m128i *)(dst + i + 4), lookup_four(table, (uint32_t)(eight >> 32)));
    }
    zf_lookup32_scalar(dst + i, src + i, table, n - i);
}

const zf_kernels zf_kernels_avx2 = {
    .plan_h = plan_h,
    .resample_h = resample_h,
    .resample_v = resample_v,
    .deinterleave = zf_deinterleave_ssse3,
    .interleave = zf_interleave_ssse3,
    .lookup32 = lookup32,
    .opencv = &zf_cv_kernels_avx2,
};

#endif
