/* The baseline decoder's kernels for AVX2. They equal the scalar kernels of
 * jpeg_pixels.c and jpeg_entropy.c in every byte. */
#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx2,bmi,bmi2")))
#define V(operation) _mm256_##operation
#define every_lane(v) _mm256_broadcastsi128_si256(v)

typedef __m256i vec;
typedef __m256 reals;

#include "zf_jpeg_x86.h"

INLINE vec load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE void store(void *p, vec v) { _mm256_storeu_si256((__m256i *)p, v); }

INLINE vec load_wide(const uint8_t *p)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
}

INLINE vec to_bytes(vec a, vec b)
{
    return _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xD8);
}

#include "zf_jpeg_rows_x86.h"
#include "zf_jpeg_bytes_x86.h"

TARGET static bool idct(const zf_transform *b)
{
    vec in[4], v[4], r0145, r2367, bad = _mm256_setzero_si256();

    if (b->last == 0)
        return zf_idct_flat(b);
    for (int i = 0; i < 4; i++)
        in[i] = dequantized(load(b->coef + 16 * i), load(b->q->factor + 16 * i),
                            load(b->q->limit + 16 * i), &bad);
    idct_columns(in, v, &bad);
    /* v: the column pairs (0,4) or (2,6) in lane 0, (1,3) or (5,7) in lane 1 */
    const vec next[4] = {
        _mm256_permute2x128_si256(v[0], v[2], 0x20), _mm256_permute2x128_si256(v[1], v[3], 0x20),
        _mm256_permute2x128_si256(v[0], v[2], 0x31), _mm256_permute2x128_si256(v[1], v[3], 0x31)};
    idct_rows(next, &r0145, &r2367, &bad);
    store_rows(b, 0, _mm256_castsi256_si128(r0145));
    store_rows(b, 2, _mm256_castsi256_si128(r2367));
    store_rows(b, 4, _mm256_extracti128_si256(r0145, 1));
    store_rows(b, 6, _mm256_extracti128_si256(r2367, 1));
    return _mm256_testz_si256(bad, bad);
}

TARGET static ZF_DECL_IDCT(idct_avx2)
{
    for (int i = 0; i < n; i++)
        if (!idct(&blocks[i]))
            return false;
    return true;
}

const zf_jpeg_kernels zf_jpeg_kernels_avx2 = {
    .unstuff = unstuff,
    .mcu = zf_mcu_bmi2,
    .skip = zf_skip_bmi2,
    .ac_first = zf_ac_first_bmi2,
    .ac_refine = zf_ac_refine_bmi2,
    .idct = idct_avx2,
    .upsample_h2v1 = upsample_h2v1,
    .upsample_h2v2 = upsample_h2v2,
    .upsample_h1v2 = upsample_h1v2,
    .ycc_to_rgb = ycc_to_rgb,
};

#endif
