/*
 * AVX-512 (VBMI, VNNI) kernels.
 *
 * A 22-bit coefficient is split into three signed base-256 digits. vpdpbusd
 * multiplies unsigned bytes (pixels) by signed bytes (digits), four taps at a
 * time, and adds the products in 32 bits. The three sums, one for each digit,
 * are shifted and added: this gives the scalar kernels' sum.
 */
#if defined(__x86_64__)

#include "zf_opencv.h"

#include <immintrin.h>
#include <string.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,bmi2")))

/* ---- horizontal ---------------------------------------------------------- */

/* Sixteen outputs and four taps of each, from one load of 64 pixels: which pixel
 * belongs to each tap, and the digits of the coefficients. */
typedef struct {
    uint8_t index[64];
    int8_t digits[3][64];
} group;

/* 64 taps of one output. Used if one load does not hold the pixels of 16
 * neighbouring outputs; the image then shrinks a lot, so there are many taps. */
typedef struct {
    int8_t digits[3][64];
} run;

static int groups_of(const zf_taps *t) { return (t->ksize + 3) / 4; }
static int runs_of(const zf_taps *t) { return (t->ksize + 63) / 64; }

static int32_t tap(const zf_taps *t, int output, int x)
{
    return output < t->n && x < t->ksize
               ? t->k[(size_t)output * (size_t)t->ksize + (size_t)x]
               : 0;
}

static bool plan_h(zf_taps *t)
{
    t->fits_one_load = zf_fits_one_load(t, 16, 64);
    if (t->identity || t->needs_32bit)
        return true;
    if (!t->fits_one_load) {
        int runs = runs_of(t);
        if (!zf_plan_reserve(t, (size_t)t->n * (size_t)runs * sizeof(run)))
            return false;
        run *r = t->plan;
        for (int i = 0; i < t->n; i++)
            for (int first = 0; first < 64 * runs; first += 64, r++)
                for (int x = 0; x < 64; x++) {
                    int8_t digits[3];
                    zf_digits(tap(t, i, first + x), digits);
                    for (int d = 0; d < 3; d++)
                        r->digits[d][x] = digits[d];
                }
        return true;
    }
    int groups = groups_of(t);
    int n = (t->n + 31) / 32 * 32; /* resample_h makes 32 outputs at once */
    if (!zf_plan_reserve(t, (size_t)(n / 16) * (size_t)groups * sizeof(group)))
        return false;
    group *g = t->plan;
    for (int i = 0; i < n; i += 16)
        for (int first = 0; first < 4 * groups; first += 4, g++)
            for (int lane = 0; lane < 64; lane++) {
                int output = i + lane / 4, x = lane % 4;
                int8_t digits[3];
                zf_digits(tap(t, output, first + x), digits);
                for (int d = 0; d < 3; d++)
                    g->digits[d][lane] = digits[d];
                g->index[lane] =
                    output < t->n ? (uint8_t)(t->start[output] - t->start[i] + x) : 0;
            }
    return true;
}

AVX512 static inline __m512i recombine(__m512i low, __m512i mid, __m512i high)
{
    __m512i sum = _mm512_add_epi32(low, _mm512_slli_epi32(mid, 8));
    return _mm512_add_epi32(sum, _mm512_slli_epi32(high, 16));
}

/* The sums of sixteen outputs, without their fraction. */
AVX512 static inline __m512i sixteen_sums(const group *g, int groups, const uint8_t *pixels)
{
    __m512i low = _mm512_set1_epi32(1 << 21), mid = _mm512_setzero_si512(), high = mid;
    for (int j = 0; j < groups; j++, g++, pixels += 4) {
        __m512i p = _mm512_permutexvar_epi8(_mm512_loadu_si512(g->index),
                                            _mm512_loadu_si512(pixels));
        low = _mm512_dpbusd_epi32(low, p, _mm512_loadu_si512(g->digits[0]));
        mid = _mm512_dpbusd_epi32(mid, p, _mm512_loadu_si512(g->digits[1]));
        high = _mm512_dpbusd_epi32(high, p, _mm512_loadu_si512(g->digits[2]));
    }
    return _mm512_srai_epi32(recombine(low, mid, high), 22);
}

AVX512 static inline __attribute__((always_inline)) void
resample_h_groups(uint8_t *dst, const uint8_t *src, const zf_taps *t, int groups)
{
    const group *g = t->plan;
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7); /* undoes packing by lanes */

    for (int i = 0; i < t->n; i += 32, g += 2 * groups) {
        int next = i + 16 < t->n ? i + 16 : i; /* the plan then has no coefficients */
        __m512i words =
            _mm512_packs_epi32(sixteen_sums(g, groups, src + t->start[i]),
                               sixteen_sums(g + groups, groups, src + t->start[next]));
        words = _mm512_max_epi16(_mm512_permutexvar_epi64(order, words), _mm512_setzero_si512());
        _mm256_storeu_si256((__m256i *)(dst + i), _mm512_cvtusepi16_epi8(words));
    }
}

AVX512 static void resample_h_runs(uint8_t *dst, const uint8_t *src, const zf_taps *t)
{
    const run *r = t->plan;
    int runs = runs_of(t);

    for (int i = 0; i < t->n; i++) {
        const uint8_t *pixels = src + t->start[i];
        __m512i low = _mm512_setzero_si512(), mid = low, high = low;
        for (int j = 0; j < runs; j++, r++, pixels += 64) {
            __m512i p = _mm512_loadu_si512(pixels);
            low = _mm512_dpbusd_epi32(low, p, _mm512_loadu_si512(r->digits[0]));
            mid = _mm512_dpbusd_epi32(mid, p, _mm512_loadu_si512(r->digits[1]));
            high = _mm512_dpbusd_epi32(high, p, _mm512_loadu_si512(r->digits[2]));
        }
        int sum = (_mm512_reduce_add_epi32(recombine(low, mid, high)) + (1 << 21)) >> 22;
        dst[i] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
    }
}

AVX512 static ZF_DECL_RESAMPLE_H(resample_h)
{
    if (t->identity || t->needs_32bit)
        zf_resample_h_scalar(dst, src, t);
    else if (t->fits_one_load && groups_of(t) == 1) /* no inner loop */
        resample_h_groups(dst, src, t, 1);
    else if (t->fits_one_load)
        resample_h_groups(dst, src, t, groups_of(t));
    else
        resample_h_runs(dst, src, t);
}

/* ---- vertical ------------------------------------------------------------ */

/* Bytes of four rows -> four vectors of 16 dwords. A dword holds the bytes of
 * one pixel position in the four rows. Vector v holds the positions 4v to
 * 4v + 3 of each lane of 16 pixels. */
AVX512 static inline void transpose4(const __m512i rows[4], __m512i pixels[4])
{
    __m512i lo01 = _mm512_unpacklo_epi8(rows[0], rows[1]);
    __m512i hi01 = _mm512_unpackhi_epi8(rows[0], rows[1]);
    __m512i lo23 = _mm512_unpacklo_epi8(rows[2], rows[3]);
    __m512i hi23 = _mm512_unpackhi_epi8(rows[2], rows[3]);
    pixels[0] = _mm512_unpacklo_epi16(lo01, lo23);
    pixels[1] = _mm512_unpackhi_epi16(lo01, lo23);
    pixels[2] = _mm512_unpacklo_epi16(hi01, hi23);
    pixels[3] = _mm512_unpackhi_epi16(hi01, hi23);
}

/* n <= 4 coefficients -> their first, second and third digits (zf_digits). Every
 * dword of digit[d] holds digit d of the four coefficients. */
AVX512 static inline void spread_digits(const int32_t *k, int n, __m512i digit[3])
{
    __m128i rest = _mm_maskz_loadu_epi32((__mmask8)((1 << n) - 1), k);
    for (int d = 0; d < 3; d++) {
        digit[d] = _mm512_broadcastd_epi32(_mm_cvtepi32_epi8(rest));
        /* rounding has the same effect as zf_digits' subtraction of the digit */
        rest = _mm_srai_epi32(_mm_add_epi32(rest, _mm_set1_epi32(128)), 8);
    }
}

/* Adds the products of up to four rows, from pixel i on, to the sums. */
AVX512 static inline __attribute__((always_inline)) void
add_rows(__m512i low[4], __m512i mid[4], __m512i high[4], const uint8_t *const *rows, int nrows,
         const __m512i digit[3], size_t i)
{
    __m512i row[4], pixels[4];
    for (int j = 0; j < 4; j++)
        row[j] = _mm512_loadu_si512(rows[zf_min(j, nrows - 1)] + i);
    transpose4(row, pixels);
    for (int v = 0; v < 4; v++) {
        low[v] = _mm512_dpbusd_epi32(low[v], pixels[v], digit[0]);
        mid[v] = _mm512_dpbusd_epi32(mid[v], pixels[v], digit[1]);
        high[v] = _mm512_dpbusd_epi32(high[v], pixels[v], digit[2]);
    }
}

AVX512 static ZF_DECL_RESAMPLE_V(resample_v)
{
    if (needs_32bit) {
        zf_resample_v_scalar(dst, rows, k, ntaps, needs_32bit, n);
        return;
    }
    __m512i digit[3];
    spread_digits(k, zf_min(ntaps, 4), digit);
    for (size_t i = 0; i < n; i += 64) {
        __m512i low[4], mid[4], high[4];
        for (int v = 0; v < 4; v++) {
            low[v] = _mm512_set1_epi32(1 << 21);
            mid[v] = high[v] = _mm512_setzero_si512();
        }
        add_rows(low, mid, high, rows, ntaps, digit, i);
        for (int y = 4; y < ntaps; y += 4) {
            __m512i more[3];
            spread_digits(k + y, zf_min(ntaps - y, 4), more);
            add_rows(low, mid, high, rows + y, ntaps - y, more, i);
        }
        for (int v = 0; v < 4; v++)
            low[v] = _mm512_srai_epi32(recombine(low[v], mid[v], high[v]), 22);
        __m512i first = _mm512_packs_epi32(low[0], low[1]);
        __m512i second = _mm512_packs_epi32(low[2], low[3]);
        _mm512_storeu_si512(dst + i, _mm512_packus_epi16(first, second));
    }
}

/* ---- interleaved pixels --------------------------------------------------- */

/* 3 * i: the offset of pixel i in RGB triples */
static const uint8_t triple[64] = {
    0,   3,   6,   9,   12,  15,  18,  21,  24,  27,  30,  33,  36,  39,  42,  45,
    48,  51,  54,  57,  60,  63,  66,  69,  72,  75,  78,  81,  84,  87,  90,  93,
    96,  99,  102, 105, 108, 111, 114, 117, 120, 123, 126, 129, 132, 135, 138, 141,
    144, 147, 150, 153, 156, 159, 162, 165, 168, 171, 174, 177, 180, 183, 186, 189,
};

AVX512 static ZF_DECL_DEINTERLEAVE(deinterleave)
{
    const __m512i base = _mm512_loadu_si512(triple);
    for (size_t i = 0; i < n; i += 64) {
        __m512i a = _mm512_loadu_si512(rgb + 3 * i);
        __m512i b = _mm512_loadu_si512(rgb + 3 * i + 64);
        __m512i c = _mm512_loadu_si512(rgb + 3 * i + 128);
        for (int channel = 0; channel < 3; channel++) {
            __m512i index = _mm512_add_epi8(base, _mm512_set1_epi8((char)channel));
            __m512i from_ab = _mm512_permutex2var_epi8(a, index, b);
            /* indices of 128 and more select from c */
            __m512i all = _mm512_mask_permutexvar_epi8(from_ab, _mm512_movepi8_mask(index),
                                                       index, c);
            _mm512_storeu_si512(planes[channel] + i, all);
        }
    }
}

AVX512 static ZF_DECL_INTERLEAVE(interleave)
{
    /* Output byte j of 192 comes from plane j % 3, pixel j / 3. */
    uint8_t pixel[192];
    __mmask64 green[3] = {0}, blue[3] = {0};
    for (int j = 0; j < 192; j++) {
        pixel[j] = (uint8_t)(j / 3);
        green[j / 64] |= (__mmask64)(j % 3 == 1) << (j % 64);
        blue[j / 64] |= (__mmask64)(j % 3 == 2) << (j % 64);
    }
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        __m512i r = _mm512_loadu_si512(planes[0] + i);
        __m512i g = _mm512_loadu_si512(planes[1] + i);
        __m512i b = _mm512_loadu_si512(planes[2] + i);
        for (int part = 0; part < 3; part++) {
            __m512i index = _mm512_loadu_si512(pixel + 64 * part);
            __m512i out = _mm512_permutexvar_epi8(index, r);
            out = _mm512_mask_permutexvar_epi8(out, green[part], index, g);
            out = _mm512_mask_permutexvar_epi8(out, blue[part], index, b);
            _mm512_storeu_si512(dst + 3 * i + 64 * (size_t)part, out);
        }
    }
    const uint8_t *const rest[3] = {planes[0] + i, planes[1] + i, planes[2] + i};
    zf_interleave_scalar(dst + 3 * i, rest, n - i);
}

/* ---- table lookup ---------------------------------------------------------- */

/* Sixteen registers hold the table as four planes of 256 bytes. A lookup in one
 * plane takes two permutes of two registers each, and a blend. */
AVX512 static ZF_DECL_LOOKUP32(lookup32)
{
    uint8_t bytes[4][256];
    for (int i = 0; i < 256; i++)
        for (int b = 0; b < 4; b++)
            bytes[b][i] = (uint8_t)(table[i] >> (8 * b));
    __m512i plane[4][4];
    for (int b = 0; b < 4; b++)
        for (int q = 0; q < 4; q++)
            plane[b][q] = _mm512_loadu_si512(bytes[b] + 64 * q);
    /* transpose4 works within 16-byte lanes. With the input's dwords in this
     * order, each output vector holds 16 neighbouring elements. */
    const __m512i order =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);

    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        __m512i index = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(src + i));
        __mmask64 upper = _mm512_movepi8_mask(index);
        __m512i values[4], elements[4];
        for (int b = 0; b < 4; b++)
            values[b] = _mm512_mask_blend_epi8(
                upper, _mm512_permutex2var_epi8(plane[b][0], index, plane[b][1]),
                _mm512_permutex2var_epi8(plane[b][2], index, plane[b][3]));
        transpose4(values, elements);
        for (int v = 0; v < 4; v++)
            _mm512_storeu_si512(dst + i + 16 * (size_t)v, elements[v]);
    }
    zf_lookup32_scalar(dst + i, src + i, table, n - i);
}

const zf_kernels zf_kernels_avx512 = {
    .plan_h = plan_h,
    .resample_h = resample_h,
    .resample_v = resample_v,
    .deinterleave = deinterleave,
    .interleave = interleave,
    .lookup32 = lookup32,
    .opencv = &zf_cv_kernels_avx2,
};

#endif
