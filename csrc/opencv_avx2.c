/*
 * AVX2 kernels of OpenCV's resize. They make the same operations as the scalar
 * kernels, in the same order, on several outputs at once.
 */
#if defined(__x86_64__)

#include "zf_opencv.h"

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,bmi2")))

/* ---- horizontal ------------------------------------------------------------ */

/* The taps' pixels of four outputs. */
AVX2 static inline __m128i gathered(const uint8_t *src, int base, const uint8_t *index)
{
    return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(src + base)),
                            _mm_loadu_si128((const __m128i *)index));
}

/* The sums of two taps of outputs 0 1 2 3 | 4 5 6 7. */
AVX2 static inline __m256i sum_of_two(const zf_cv_group *g, const uint8_t *src)
{
    __m128i bytes = _mm_unpacklo_epi64(gathered(src, g->base[0], g->index[0]),
                                       gathered(src, g->base[1], g->index[1]));
    __m256i w = _mm256_set_m128i(_mm_loadu_si128((const __m128i *)g->weight[1]),
                                 _mm_loadu_si128((const __m128i *)g->weight[0]));
    return _mm256_madd_epi16(_mm256_cvtepu8_epi16(bytes), w);
}

AVX2 static ZF_DECL_CV_ACROSS(across_fixed)
{
    if (!line->has_plan) {
        zf_cv_across_fixed_scalar(dst, src, line);
        return;
    }
    const zf_cv_group *g = line->plan;
    for (int i = 0; i < line->n; i += 8, g++) {
        __m256i sum = _mm256_srai_epi32(sum_of_two(g, src), 4);
        __m128i eight = _mm_packs_epi32(_mm256_castsi256_si128(sum),
                                        _mm256_extracti128_si256(sum, 1));
        _mm_storeu_si128((__m128i *)((int16_t *)dst + i), eight);
    }
}

AVX2 static ZF_DECL_CV_ACROSS(across_exact)
{
    if (!line->has_plan) {
        zf_cv_across_exact_scalar(dst, src, line);
        return;
    }
    const zf_cv_group *g = line->plan;
    for (int i = 0; i < line->n; i += 8, g++) {
        __m256i sum = sum_of_two(g, src);
        __m128i eight = _mm_packus_epi32(_mm256_castsi256_si128(sum),
                                         _mm256_extracti128_si256(sum, 1));
        _mm_storeu_si128((__m128i *)((uint16_t *)dst + i), eight);
    }
}

AVX2 static ZF_DECL_CV_ACROSS(across_cube)
{
    if (!line->has_plan) {
        zf_cv_across_cube_scalar(dst, src, line);
        return;
    }
    const zf_cv_group *g = line->plan;
    for (int i = 0; i < line->n; i += 8, g++) {
        __m256i pairs[2];
        for (int half = 0; half < 2; half++)
            pairs[half] = _mm256_madd_epi16(
                _mm256_cvtepu8_epi16(gathered(src, g->base[half], g->index[half])),
                _mm256_loadu_si256((const __m256i *)g->weight[half]));
        /* outputs 0 1 4 5 | 2 3 6 7 */
        __m256i sum = _mm256_hadd_epi32(pairs[0], pairs[1]);
        sum = _mm256_permute4x64_epi64(sum, _MM_SHUFFLE(3, 1, 2, 0));
        _mm256_storeu_ps((float *)dst + i, _mm256_cvtepi32_ps(sum));
    }
}

AVX2 static inline __m256 add_tap(__m256 sum, __m128i bytes, const float *weight, __m256 divisor)
{
    __m256 pixels = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
    pixels = _mm256_div_ps(pixels, divisor);
    return _mm256_add_ps(sum, _mm256_mul_ps(pixels, _mm256_loadu_ps(weight)));
}

/* A tap that an output lacks adds 0. */
AVX2 static ZF_DECL_CV_ACROSS(across_real)
{
    if (!line->has_plan) {
        zf_cv_across_real_scalar(dst, src, line);
        return;
    }
    const zf_cv_real_group *g = line->plan;
    __m256 divisor = _mm256_set1_ps(line->divisor);
    for (int i = 0; i < line->n; i += 8) {
        __m256 sum = _mm256_setzero_ps();
        for (int k = 0; k < line->taps; k += 4, g++) {
            __m128i low = gathered(src, g->base[0], g->index[0]);
            __m128i high = gathered(src, g->base[1], g->index[1]);
            __m128i first = _mm_unpacklo_epi32(low, high); /* taps 0, 1 of 8 outputs */
            __m128i second = _mm_unpackhi_epi32(low, high);
            sum = add_tap(sum, first, g->weight[0], divisor);
            if (k + 1 < line->taps)
                sum = add_tap(sum, _mm_unpackhi_epi64(first, first), g->weight[1], divisor);
            if (k + 2 < line->taps)
                sum = add_tap(sum, second, g->weight[2], divisor);
            if (k + 3 < line->taps)
                sum = add_tap(sum, _mm_unpackhi_epi64(second, second), g->weight[3], divisor);
        }
        _mm256_storeu_ps((float *)dst + i, sum);
    }
}

/* ---- vertical -------------------------------------------------------------- */

AVX2 static ZF_DECL_CV_DOWN(down_fixed)
{
    const int16_t *w = line->fixed + 2 * (size_t)output;
    const int16_t *a = rows[0], *b = rows[1];
    __m256i w0 = _mm256_set1_epi16(w[0]), w1 = _mm256_set1_epi16(w[1]);
    for (size_t i = 0; i < n; i += 32) {
        __m256i sum[2];
        for (size_t v = 0; v < 2; v++) {
            __m256i x = _mm256_loadu_si256((const __m256i *)(a + i + 16 * v));
            __m256i y = _mm256_loadu_si256((const __m256i *)(b + i + 16 * v));
            x = _mm256_add_epi16(_mm256_mulhi_epi16(x, w0), _mm256_mulhi_epi16(y, w1));
            sum[v] = _mm256_srai_epi16(_mm256_add_epi16(x, _mm256_set1_epi16(2)), 2);
        }
        __m256i bytes = _mm256_packus_epi16(sum[0], sum[1]);
        bytes = _mm256_permute4x64_epi64(bytes, _MM_SHUFFLE(3, 1, 2, 0));
        _mm256_storeu_si256((__m256i *)((uint8_t *)dst + i), bytes);
    }
}

/* Four vectors of 32-bit numbers, saturated to bytes in their order. */
AVX2 static inline __m256i to_bytes(const __m256i sum[4])
{
    __m256i low = _mm256_packs_epi32(sum[0], sum[1]);
    __m256i high = _mm256_packs_epi32(sum[2], sum[3]);
    return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high),
                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

AVX2 static ZF_DECL_CV_DOWN(down_exact)
{
    const int16_t *w = line->fixed + 2 * (size_t)output;
    const uint16_t *a = rows[0], *b = rows[1];
    __m256i w0 = _mm256_set1_epi32(w[0]), w1 = _mm256_set1_epi32(w[1]);
    for (size_t i = 0; i < n; i += 32) {
        __m256i sum[4];
        for (size_t v = 0; v < 4; v++) {
            __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(a + i + 8 * v)));
            __m256i y = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(b + i + 8 * v)));
            x = _mm256_add_epi32(_mm256_mullo_epi32(x, w0), _mm256_mullo_epi32(y, w1));
            sum[v] = _mm256_srli_epi32(_mm256_add_epi32(x, _mm256_set1_epi32(1 << 15)), 16);
        }
        _mm256_storeu_si256((__m256i *)((uint8_t *)dst + i), to_bytes(sum));
    }
}

AVX2 static ZF_DECL_CV_DOWN(down_cube)
{
    const int16_t *fixed = line->fixed + 4 * (size_t)output;
    const float *const *r = (const float *const *)rows;
    __m256 w[4];
    for (int k = 0; k < 4; k++)
        w[k] = _mm256_set1_ps((float)fixed[k] * ZF_CV_CUBE_UNIT);
    for (size_t i = 0; i < n; i += 32) {
        __m256i sum[4];
        for (size_t v = 0; v < 4; v++) {
            size_t at = i + 8 * v;
            __m256 x = _mm256_mul_ps(_mm256_loadu_ps(r[3] + at), w[3]);
            x = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(r[2] + at), w[2]), x);
            x = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(r[1] + at), w[1]), x);
            x = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(r[0] + at), w[0]), x);
            sum[v] = _mm256_cvtps_epi32(x);
        }
        _mm256_storeu_si256((__m256i *)((uint8_t *)dst + i), to_bytes(sum));
    }
}

AVX2 static ZF_DECL_CV_DOWN(down_share)
{
    const float *w = line->real + (size_t)output * (size_t)line->taps;
    const float *const *r = (const float *const *)rows;
    for (size_t i = 0; i < n; i += 32) {
        __m256i sum[4];
        for (size_t v = 0; v < 4; v++) {
            size_t at = i + 8 * v;
            __m256 x = _mm256_mul_ps(_mm256_loadu_ps(r[0] + at), _mm256_set1_ps(w[0]));
            for (int k = 1; k < line->taps; k++)
                x = _mm256_add_ps(
                    x, _mm256_mul_ps(_mm256_loadu_ps(r[k] + at), _mm256_set1_ps(w[k])));
            sum[v] = _mm256_cvtps_epi32(x);
        }
        _mm256_storeu_si256((__m256i *)((uint8_t *)dst + i), to_bytes(sum));
    }
}

const zf_cv_kernels zf_cv_kernels_avx2 = {
    .plan = zf_cv_plan_groups,
    .across_fixed = across_fixed,
    .across_exact = across_exact,
    .across_cube = across_cube,
    .across_real = across_real,
    .down_fixed = down_fixed,
    .down_exact = down_exact,
    .down_cube = down_cube,
    .down_share = down_share,
};

#endif
