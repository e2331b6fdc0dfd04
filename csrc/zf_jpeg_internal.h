/* Shared by the baseline JPEG decoder's own files: jpeg_baseline.c (the
 * driver), jpeg_entropy*.c (bytes -> coefficients), jpeg_pixels*.c
 * (coefficients -> pixels). */
#ifndef ZF_JPEG_INTERNAL_H
#define ZF_JPEG_INTERNAL_H

#include "zf_internal.h"

/* ---- coefficients --------------------------------------------------------- */

#define ZF_MCU_BLOCKS 10 /* libjpeg's limit (T.81, B.2.3) */

/* A block's 64 coefficients lie in the order in which the vector IDCTs read
 * them: four groups of 16, rows (0,4) (2,6) (1,3) (5,7), each group being the
 * columns 0 4 2 6 1 3 5 7 of both rows, interleaved. Such a pair is what one
 * multiply-add takes, and the columns' order spares shuffles between the two
 * passes. What a broken stream decodes past its 64th coefficient goes to
 * ZF_COEF_TRASH. */
#define ZF_COEF_TRASH 64
#define ZF_COEF_STRIDE 96 /* keeps every block aligned to 64 bytes */

typedef int16_t zf_block[ZF_COEF_STRIDE];

/* Zigzag position -> place in a block. Positions from 64 on are trash, as far
 * as the entropy decoder can run before it notices. */
extern const uint8_t zf_coef_at[256];

/* Row r, column c -> place in a block. */
static inline int zf_coef_index(int r, int c)
{
    static const uint8_t row[8] = {0, 32, 16, 33, 1, 48, 17, 49};
    static const uint8_t column[8] = {0, 8, 4, 10, 2, 12, 6, 14};
    return row[r] + column[c];
}

/* ---- entropy decoding ----------------------------------------------------- */

/* Bits of an unstuffed segment, the next one on top of buf. Bits of buf
 * below the `left` valid ones are zero or already what the refill will put
 * there. At least ZF_BITS_PAD bytes past the segment are readable, so that
 * running over its end is noticed once per MCU, not once per symbol. */
typedef struct zf_bits {
    const uint8_t *p;
    uint64_t buf;
    int left;
} zf_bits;

/* The longest block is 64 codes of 16 bits, each with 15 more. */
#define ZF_BITS_PAD (ZF_MCU_BLOCKS * 64 * 31 / 8 + 64)

#define ZF_DC_BITS 10
#define ZF_AC_BITS 11

/* What decodes any code, slowly: T.81's figure F.16 on left-aligned values. */
typedef struct zf_codes {
    uint32_t limit[18]; /* first 16-bit value above the codes of length l */
    int offset[17];     /* index of a code's symbol: offset + (value >> (16 - l)) */
    int nsymbols;
    uint8_t values[256];
} zf_codes;

typedef struct zf_dc_table {
    /* bits of code and difference together (0: a long code), and of the
     * difference alone */
    struct {
        uint8_t total, size;
    } entry[1 << ZF_DC_BITS];
    zf_codes codes;
    zf_huffman source; /* what the table was made of, to notice the next same one */
} zf_dc_table;

/* An AC entry says what the next ZF_AC_BITS bits begin with, from the low byte
 * up:
 *    8 bits: how many bits it uses; 0: not in the table, decode it otherwise
 *    8 bits: where the first coefficient's value is in the stream, not in the
 *            table, the length of its code; else 63, which shifts all away
 *    8 bits: zigzag steps up to and including the first coefficient
 *    8 bits: and from there to a second one; 0: there is none
 *   16 bits: the first value; what to add to a negative one from the stream
 *   16 bits: the second value; 64 less the length of one in the stream
 * An end of block counts as a coefficient 0, ZF_EOB steps on, so that the loop
 * needs no test of its own for it. */
#define ZF_EOB 128

typedef struct zf_ac_table {
    uint64_t entry[1 << ZF_AC_BITS];
    zf_codes codes;
    zf_huffman source;
} zf_ac_table;

/* Fill a table from a DHT; false where libjpeg refuses the DHT. Nothing is
 * done where the table was made of the same one before. */
bool zf_dc_table_make(zf_dc_table *table, const zf_huffman *source);
bool zf_ac_table_make(zf_ac_table *table, const zf_huffman *source);

/* The blocks of one MCU, in order. */
typedef struct zf_mcu {
    int nblocks;
    struct {
        int comp;
        const zf_dc_table *dc;
        const zf_ac_table *ac;
    } block[ZF_MCU_BLOCKS];
} zf_mcu;

/* ---- pixels --------------------------------------------------------------- */

/* A quantization table in a block's order. */
typedef struct zf_dequant {
    _Alignas(64) int16_t factor[64];
    uint16_t limit[64]; /* largest |coefficient| whose product is in range */
} zf_dequant;

/* Where all of libjpeg's IDCTs (C and SIMD, of every version) compute the
 * same: dequantized coefficients within +-ZF_COEF_MAX and the first pass
 * within +-ZF_PASS1_MAX fit the SIMD's 16-bit sums, and outputs of
 * -512..511 around 128 fit the C code's table of range limits. No encoder of
 * an 8-bit picture leaves these ranges by more than its quantization error. */
#define ZF_COEF_MAX 4095
#define ZF_PASS1_MAX 16383

/* 13-bit fixed-point matrix of the accurate integer IDCT ("islow"): its
 * factored sums, multiplied out. They have no rounding in between, so the
 * integers are the same. */
#define ZF_IDCT_2_0 10703  /* even: row 2 and 6 to outputs 0, 3 */
#define ZF_IDCT_6_0 4433
#define ZF_IDCT_2_1 4433   /* to outputs 1, 2 */
#define ZF_IDCT_6_1 (-10704)
#define ZF_IDCT_1_0 11363  /* odd: row 1, 3, 5, 7 to output 0 (and 7) */
#define ZF_IDCT_3_0 9633
#define ZF_IDCT_5_0 6437
#define ZF_IDCT_7_0 2260
#define ZF_IDCT_1_1 9633
#define ZF_IDCT_3_1 (-2259)
#define ZF_IDCT_5_1 (-11362)
#define ZF_IDCT_7_1 (-6436)
#define ZF_IDCT_1_2 6437
#define ZF_IDCT_3_2 (-11362)
#define ZF_IDCT_5_2 2261
#define ZF_IDCT_7_2 9633
#define ZF_IDCT_1_3 2260
#define ZF_IDCT_3_3 (-6436)
#define ZF_IDCT_5_3 9633
#define ZF_IDCT_7_3 (-11363)

/* ---- kernels -------------------------------------------------------------- */

/* Copies entropy-coded bytes up to the next marker, without the zeros stuffed
 * after 0xFF. Returns where the marker's 0xFF is, or end; *n gets the count.
 * dst has room for end - src bytes and 64 more. */
#define ZF_DECL_UNSTUFF(name) \
    const uint8_t *name(uint8_t *dst, size_t *n, const uint8_t *src, const uint8_t *end)

/* Decodes an MCU: the difference of each DC is added to dc[component]; the
 * coefficients go to blocks[] and the zigzag position of each block's last
 * one to last[]. blocks NULL: only passes over the MCU, last is not set. False: the stream is
 * bad (it may also have run past its end, which the caller checks). */
#define ZF_DECL_MCU(name)                                                         \
    bool name(zf_bits *bits, const zf_mcu *mcu, int dc[3], zf_block *blocks,      \
              uint8_t last[ZF_MCU_BLOCKS])

/* A block to become 8 x 8 pixels. */
typedef struct zf_transform {
    const int16_t *coef;
    const zf_dequant *q;
    uint8_t *dst;
    size_t stride;
    int last; /* zigzag position of the last coefficient that may not be 0 */
} zf_transform;

/* The inverse DCT of n blocks. False: one is out of the range in which
 * libjpeg's versions agree. */
#define ZF_DECL_IDCT(name) bool name(const zf_transform *blocks, int n)

/* libjpeg's "fancy" (triangle filter) upsampling of n samples. src[-1] and
 * src[n] must hold the neighbours, or copies of the edge sample at an edge.
 * near and far: the rows 1/4 and 3/4 away. Up to 64 samples more may be read
 * and written. */
#define ZF_DECL_H2V1(name) void name(uint8_t *dst, const uint8_t *src, int n)
#define ZF_DECL_H2V2(name) \
    void name(uint8_t *dst, const uint8_t *near, const uint8_t *far, int n)
#define ZF_DECL_H1V2(name)                                                        \
    void name(uint8_t *dst, const uint8_t *near, const uint8_t *far, int bias, int n)

/* n pixels. Up to 64 more may be read and written. */
#define ZF_DECL_YCC_TO_RGB(name)                                                  \
    void name(uint8_t *const rgb[3], const uint8_t *y, const uint8_t *cb,         \
              const uint8_t *cr, int n)

typedef struct zf_jpeg_kernels {
    const char *name;
    ZF_DECL_UNSTUFF((*unstuff));
    ZF_DECL_MCU((*mcu));
    ZF_DECL_IDCT((*idct));
    ZF_DECL_H2V1((*upsample_h2v1));
    ZF_DECL_H2V2((*upsample_h2v2));
    ZF_DECL_H1V2((*upsample_h1v2));
    ZF_DECL_YCC_TO_RGB((*ycc_to_rgb));
} zf_jpeg_kernels;

/* The kernels of a CPU level (zf_kernels_all), NULL where there is none of
 * that name. The CPU must support the level. */
const zf_jpeg_kernels *zf_jpeg_kernels_for(const char *isa);

ZF_DECL_UNSTUFF(zf_unstuff_scalar);
ZF_DECL_MCU(zf_mcu_scalar);
ZF_DECL_IDCT(zf_idct_scalar);
bool zf_idct_flat(const zf_transform *block); /* of one that has only a DC */
ZF_DECL_H2V1(zf_upsample_h2v1_scalar);
ZF_DECL_H2V2(zf_upsample_h2v2_scalar);
ZF_DECL_H1V2(zf_upsample_h1v2_scalar);
ZF_DECL_YCC_TO_RGB(zf_ycc_to_rgb_scalar);

#if defined(__x86_64__)
extern const zf_jpeg_kernels zf_jpeg_kernels_avx2;
extern const zf_jpeg_kernels zf_jpeg_kernels_avx512;
ZF_DECL_MCU(zf_mcu_bmi2);
ZF_DECL_H2V1(zf_upsample_h2v1_avx2);
ZF_DECL_H2V2(zf_upsample_h2v2_avx2);
ZF_DECL_H1V2(zf_upsample_h1v2_avx2);
ZF_DECL_YCC_TO_RGB(zf_ycc_to_rgb_avx2);
#elif defined(__aarch64__)
extern const zf_jpeg_kernels zf_jpeg_kernels_neon;
#endif

/* ---- the decoder ---------------------------------------------------------- */

typedef struct zf_baseline zf_baseline;

/* isa: the name of a CPU level. NULL when out of memory or unknown. */
zf_baseline *zf_baseline_open(const char *isa);
void zf_baseline_close(zf_baseline *decoder);

/* Decodes a window, equal to libjpeg-turbo's full decode. ZF_UNSUPPORTED for
 * whatever it does not decode and for any anomaly, possibly after some rows:
 * then another decoder has to do the whole window again. */
zf_status zf_baseline_decode(zf_baseline *decoder, const zf_jpeg *jpeg, zf_window window,
                             zf_row_fn row, void *ctx);

/* Of the last decode. */
const zf_pixel_times *zf_baseline_times(const zf_baseline *decoder);

#endif
