/* The JPEG decoders' kernels for SSSE3. They equal the scalar kernels of jpeg_pixels.c
 * and jpeg_entropy.c in every byte. */
#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("ssse3")))
#define V(operation) _mm_##operation
#define every_lane(v) (v)

typedef __m128i vec;
typedef __m128 reals;

#include "zf_jpeg_x86.h"

INLINE vec load(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
INLINE void store(void *p, vec v) { _mm_storeu_si128((__m128i *)p, v); }

INLINE vec load_wide(const uint8_t *p)
{
    return _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)p), _mm_setzero_si128());
}

INLINE vec to_bytes(vec a, vec b) { return _mm_packus_epi16(a, b); }

#include "zf_jpeg_rows_x86.h"
#include "zf_jpeg_bytes_x86.h"

TARGET static bool idct(const zf_transform *b)
{
    vec v[2][4], first, second, bad = _mm_setzero_si128();

    if (b->last == 0)
        return zf_idct_flat(b);
    for (int half = 0; half < 2; half++) { /* the columns 0 4 2 6, then 1 3 5 7 */
        vec in[4];
        for (int i = 0; i < 4; i++) {
            int at = 16 * i + 8 * half;
            in[i] = dequantized(load(b->coef + at), load(b->q->factor + at),
                                load(b->q->limit + at), &bad);
        }
        idct_columns(in, v[half], &bad);
    }
    for (size_t half = 0; half < 2; half++) { /* the rows 0 to 3, then 4 to 7 */
        const vec in[4] = {v[0][2 * half], v[0][2 * half + 1], v[1][2 * half],
                           v[1][2 * half + 1]};
        idct_rows(in, &first, &second, &bad);
        store_rows(b, 4 * half, first);
        store_rows(b, 4 * half + 2, second);
    }
    return _mm_movemask_epi8(_mm_cmpeq_epi8(bad, _mm_setzero_si128())) == 0xFFFF;
}

TARGET static ZF_DECL_IDCT(idct_ssse3)
{
    for (int i = 0; i < n; i++)
        if (!idct(&blocks[i]))
            return false;
    return true;
}

const zf_jpeg_kernels zf_jpeg_kernels_ssse3 = {
    .unstuff = unstuff,
    .mcu = zf_mcu_scalar,
    .skip = zf_skip_scalar,
    .ac_first = zf_ac_first_scalar,
    .ac_refine = zf_ac_refine_scalar,
    .idct = idct_ssse3,
    .upsample_h2v1 = upsample_h2v1,
    .upsample_h2v2 = upsample_h2v2,
    .upsample_h1v2 = upsample_h1v2,
    .ycc_to_rgb = ycc_to_rgb,
};

#endif
