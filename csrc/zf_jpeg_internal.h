/* What the files of our JPEG decoders share: jpeg_baseline.c and
 * jpeg_progressive.c (the drivers), jpeg_stream.c (the bytes of a scan),
 * jpeg_tables.c (Huffman tables), jpeg_entropy.c and jpeg_scans.c (bytes ->
 * coefficients), jpeg_planes.c (which blocks a window needs, and its pixel rows)
 * and jpeg_pixels*.c (coefficients -> pixels). decode.c uses the last section only. */
#ifndef ZF_JPEG_INTERNAL_H
#define ZF_JPEG_INTERNAL_H

#include "zf_internal.h"

/* ---- coefficients --------------------------------------------------------- */

#define ZF_MCU_BLOCKS 10 /* libjpeg's limit (T.81, B.2.3) */

/* The 64 coefficients of a block are stored in the order in which the SIMD
 * inverse DCTs read them: four groups of 16. The groups hold the row pairs (0,4)
 * (2,6) (1,3) (5,7). A group holds both rows' columns 0 4 2 6 1 3 5 7, one of the
 * first row and one of the second in turn. One multiply-add takes such a pair,
 * and this order of the columns saves shuffles between the two passes. A
 * coefficient that a broken stream has past the 64th is stored at
 * ZF_COEF_TRASH. */
#define ZF_COEF_TRASH 64
#define ZF_COEF_STRIDE 96 /* keeps every block aligned to 64 bytes */

typedef int16_t zf_block[ZF_COEF_STRIDE];

/* Zigzag position -> index in a block. Positions of 64 and more, which the
 * entropy decoder can reach before it notices, give ZF_COEF_TRASH. */
extern const uint8_t zf_zigzag_index[288];

/* ---- entropy decoding ----------------------------------------------------- */

/* Reads the bits of an unstuffed segment. The next bit is the highest of buf;
 * `left` bits of buf are valid. The bits below them are 0, or already have the
 * values that the next refill gives them. ZF_BITS_PAD bytes past the segment are
 * readable, so the decoder checks once per MCU, not once per symbol, whether it
 * has run over the segment's end. */
typedef struct zf_bits {
    const uint8_t *p;
    uint64_t buf;
    int left;
} zf_bits;

/* Blocks that are skipped before the decoder checks that. */
#define ZF_RUN_BLOCKS 24

/* The longest block has 64 codes of 16 bits, each followed by 15 bits. */
#define ZF_BITS_PAD (ZF_RUN_BLOCKS * 64 * 31 / 8 + 64)

#define ZF_AC_BITS 10
#define ZF_RUN_BITS 10

/* The most bits of an entry. Of the 56 bits of a refill, two entries leave enough for
 * the index of the next. */
#define ZF_MAX_TOTAL 22
_Static_assert(2 * ZF_MAX_TOTAL + ZF_AC_BITS <= 56 && ZF_AC_BITS <= 10 && ZF_RUN_BITS <= 10,
               "the entries fit a refill");

/* Decodes a code of any length, bit by bit: figure F.16 of T.81, with the codes
 * shifted left to 16 bits. */
typedef struct zf_codes {
    int32_t limit[17];  /* the first 16-bit value above all codes of length l */
    int offset[17];     /* a code's symbol is values[offset + (code >> (16 - l))] */
    int nsymbols;
    uint8_t values[256];
} zf_codes;

/* A table for several codes at once, without the values of AC coefficients. An entry says
 * what the next ZF_RUN_BITS bits begin with. From the lowest bits up:
 *    6 bits: the number of bits used, of codes and values together. The last value may
 *            be beyond the ZF_RUN_BITS bits
 *    9 bits: AC: zigzag steps to the last of the coefficients. DC: the bits of the
 *            difference
 *    1 bit:  DC, or the end of a block
 * ZF_RUN_OTHER: no code is in the table. */
#define ZF_RUN_ENTRY(total, steps) ((total) | (steps) << 6)
#define ZF_RUN_ENDS 0x8000
#define ZF_RUN_OTHER ZF_RUN_ENTRY(0, 127)
#define ZF_RUN_TOTAL(e) ((e) & 63)
#define ZF_RUN_STEPS(e) ((e) >> 6 & 511)

typedef struct zf_dc_table {
    uint16_t entry[1 << ZF_RUN_BITS]; /* one code each */
    zf_codes codes;
    zf_huffman source; /* the DHT that the table was made from */
} zf_dc_table;

/* An entry of the AC table says which coefficients the next ZF_AC_BITS bits
 * begin with: one or two. If a code and its value are too long for the table, the
 * table knows the value's sign, and the value is read from the stream. `total` is the
 * number of bits used. From the lowest bits up:
 *    8 bits: where the bits of the next entry's index lie in the 64-bit buffer:
 *            64 - ZF_AC_BITS - total; a total of 0: the code is not in the table
 *    8 bits: ZF_AC_BITS, so that these 16 bits control the instruction bextr
 *    8 bits: zigzag steps to the first coefficient; ZF_OTHER: the code is not in the table
 *    8 bits: zigzag steps from there to the second; 0: there is no second
 *    8 bits: ZF_AC_BITS, more the bits of a value in the stream
 *   16 bits: the first value; or what to add to the bits of the stream
 *    8 bits: the second value
 * An end of block is stored as a coefficient 0 after ZF_EOB steps, so the loop
 * does not test for it. */
#define ZF_AC_ENTRY(total, size, step, value)                                          \
    ((uint64_t)(64 - ZF_AC_BITS - (total)) | (uint64_t)ZF_AC_BITS << 8 |               \
     (uint64_t)(step) << 16 | (uint64_t)(ZF_AC_BITS + (size)) << 32 |                  \
     (uint64_t)(uint16_t)(value) << 40)
/* To be added to an entry of one coefficient that is in the table. */
#define ZF_AC_SECOND(total, step, value)                                               \
    (((uint64_t)(step) << 24 | (uint64_t)(value) << 56) - (uint64_t)(total))
#define ZF_EOB 128
#define ZF_OTHER 208 /* no sum of other steps reaches it: 62 + 16 + ZF_EOB */

typedef struct zf_ac_table {
    uint64_t entry[1 << ZF_AC_BITS];
    uint16_t run[1 << ZF_RUN_BITS]; /* for skipping */
    zf_codes codes;
    zf_huffman source;
} zf_ac_table;

/* Fill a table from a DHT; false if libjpeg refuses the DHT. They do nothing if
 * the table was made from an equal DHT. */
bool zf_dc_table_make(zf_dc_table *table, const zf_huffman *source);
bool zf_ac_table_make(zf_ac_table *table, const zf_huffman *source);

/* A table for the AC coefficients of a progressive scan. An entry says which
 * symbol the next ZF_SCAN_BITS bits begin with. `run` is the number of zeros
 * before the coefficient; ZF_RUN_EOB + n: the band ends here and in the next
 * blocks, whose number has n more bits; ZF_RUN_RARE: the code, or the code and
 * its value, are longer. `total` is the number of bits used, of the value also.
 * A run of 16 zeros has the run 15 and the value 0. */
#define ZF_SCAN_BITS 10
#define ZF_RUN_RARE 64
#define ZF_RUN_EOB 128

typedef struct zf_scan_table {
    struct {
        uint8_t total, run;
        int16_t value;
    } entry[1 << ZF_SCAN_BITS];
    zf_codes codes;
} zf_scan_table;

/* Fills a table from a DHT; false if libjpeg refuses the DHT. Symbols with values of
 * more than max_size bits count as rare. */
bool zf_scan_table_make(zf_scan_table *table, const zf_huffman *source, int max_size);

/* The blocks of one MCU, in order; then one more, which is loaded, but not used. */
typedef struct zf_mcu {
    int nblocks;
    struct {
        int comp;
        const zf_dc_table *dc;
        const zf_ac_table *ac;
    } block[ZF_MCU_BLOCKS + 1];
} zf_mcu;

/* ---- pixels --------------------------------------------------------------- */

/* A quantization table in a block's order. */
typedef struct zf_dequant {
    _Alignas(64) int16_t factor[64];
    uint16_t limit[64]; /* the largest |coefficient| that ZF_COEF_MAX allows */
} zf_dequant;

/* All of libjpeg's inverse DCTs (C and SIMD, of every version) give the same
 * result in this range: dequantized coefficients within +-ZF_COEF_MAX and a
 * first pass within +-ZF_PASS1_MAX fit the 16-bit sums of the SIMD code, and
 * outputs of 128 - 512 to 128 + 511 fit the C code's table of range limits.
 * Pictures of 8 bits leave the range only by the quantization error. The kernels
 * refuse blocks outside the range. */
#define ZF_COEF_MAX 4095
#define ZF_PASS1_MAX 16383

/* The matrix of libjpeg's accurate integer inverse DCT ("islow"), in 13-bit
 * fixed point. libjpeg factors the sums; here they are multiplied out. There is
 * no rounding in between, so the integers are the same. */
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

/* Copies entropy-coded bytes up to the next marker, without the zero that
 * follows every 0xFF. Returns the address of the marker's 0xFF, or end. *n gets
 * the number of bytes copied. dst has room for end - src + 64 bytes. */
#define ZF_DECL_UNSTUFF(name) \
    const uint8_t *name(uint8_t *dst, size_t *n, const uint8_t *src, const uint8_t *end)

/* Decodes an MCU. Adds each DC difference to dc[component], and stores the
 * coefficients in blocks[] and the zigzag position of each block's last
 * coefficient in last[]. False: the stream is bad. The caller has to check whether it
 * was read past its end. */
#define ZF_DECL_MCU(name)                                                         \
    bool name(zf_bits *bits, const zf_mcu *mcu, int dc[3], zf_block *blocks,      \
              uint8_t last[ZF_MCU_BLOCKS])

/* Decodes n MCUs, but stores nothing apart from dc[]. The bits end where ZF_DECL_MCU's
 * end. end: of the segment; ZF_BITS_PAD bytes behind it are readable. */
#define ZF_DECL_SKIP(name)                                                             \
    bool name(zf_bits *bits, const uint8_t *end, const zf_mcu *mcu, int dc[3], int n)

/* A block to be transformed into 8 x 8 samples. */
typedef struct zf_transform {
    const int16_t *coef;
    const zf_dequant *q;
    uint8_t *dst;
    size_t stride;
    int last; /* zigzag position; all later coefficients are 0 */
} zf_transform;

/* The inverse DCT of n blocks. False: a block is outside the range in which
 * libjpeg's versions give the same result. */
#define ZF_DECL_IDCT(name) bool name(const zf_transform *blocks, int n)

/* libjpeg's "fancy" upsampling (a triangle filter) of n samples. src[-1] and
 * src[n] must hold the neighbours; at an edge, copies of the edge sample. near
 * and far are the rows at a distance of 1/4 and 3/4 of a sample. Up to 64 samples
 * past the end may be read and written. */
#define ZF_DECL_H2V1(name) void name(uint8_t *dst, const uint8_t *src, int n)
#define ZF_DECL_H2V2(name) \
    void name(uint8_t *dst, const uint8_t *near, const uint8_t *far, int n)
#define ZF_DECL_H1V2(name)                                                        \
    void name(uint8_t *dst, const uint8_t *near, const uint8_t *far, int bias, int n)

/* Converts n pixels. Up to 64 pixels past the end may be read and written. */
#define ZF_DECL_YCC_TO_RGB(name)                                                  \
    void name(uint8_t *const rgb[3], const uint8_t *y, const uint8_t *cb,         \
              const uint8_t *cr, int n)

/* Values in a zf_scan_table have at most 9 bits, so those of this scan fit 16. */
#define ZF_LOW_BIT_MAX 6

/* A scan of a progressive file that has one component's AC coefficients. */
typedef struct zf_ac_scan {
    int first, last;  /* zigzag positions of the band */
    int low_bit;      /* the lowest bit that the scan has; up to ZF_LOW_BIT_MAX */
    uint32_t eob_run; /* the band is over in so many of the next blocks */
    zf_scan_table table;
} zf_ac_scan;

/* Decodes n blocks of a scan of AC coefficients: the first scan of its band, or
 * one that adds a bit. nonzero[i] has a bit for each zigzag position where block i
 * has a coefficient other than 0, apart from its DC. coef is the first of n blocks
 * of 64 coefficients, in a block's order; NULL: the blocks are skipped, and only
 * nonzero is kept. False: the stream is bad, or over the address `end`. The caller
 * has to check whether it was read past its end. */
#define ZF_DECL_AC_SCAN(name)                                                     \
    bool name(zf_bits *bits, zf_ac_scan *scan, const uint8_t *end, uint64_t *nonzero, \
              int16_t *coef, int n)

typedef struct zf_jpeg_kernels {
    ZF_DECL_UNSTUFF((*unstuff));
    ZF_DECL_MCU((*mcu));
    ZF_DECL_SKIP((*skip));
    ZF_DECL_AC_SCAN((*ac_first));
    ZF_DECL_AC_SCAN((*ac_refine));
    ZF_DECL_IDCT((*idct));
    ZF_DECL_H2V1((*upsample_h2v1));
    ZF_DECL_H2V2((*upsample_h2v2));
    ZF_DECL_H1V2((*upsample_h1v2));
    ZF_DECL_YCC_TO_RGB((*ycc_to_rgb));
} zf_jpeg_kernels;

#define ZF_DECLARE(constant, name, test, image, jpeg, logits)                          \
    extern const zf_jpeg_kernels zf_jpeg_kernels_##jpeg;
ZF_LEVELS(ZF_DECLARE)
#undef ZF_DECLARE
extern const zf_jpeg_kernels *const zf_jpeg_kernels_of[ZF_LEVEL_COUNT];

ZF_DECL_UNSTUFF(zf_unstuff_scalar);
ZF_DECL_MCU(zf_mcu_scalar);
ZF_DECL_SKIP(zf_skip_scalar);
ZF_DECL_AC_SCAN(zf_ac_first_scalar);
ZF_DECL_AC_SCAN(zf_ac_refine_scalar);
ZF_DECL_IDCT(zf_idct_scalar);
bool zf_idct_flat(const zf_transform *block); /* of a block that has only a DC */
ZF_DECL_H2V1(zf_upsample_h2v1_scalar);
ZF_DECL_H2V2(zf_upsample_h2v2_scalar);
ZF_DECL_H1V2(zf_upsample_h1v2_scalar);
ZF_DECL_YCC_TO_RGB(zf_ycc_to_rgb_scalar);

#if defined(__x86_64__) /* what several levels use */
ZF_DECL_MCU(zf_mcu_bmi2);
ZF_DECL_SKIP(zf_skip_bmi2);
ZF_DECL_AC_SCAN(zf_ac_first_bmi2);
ZF_DECL_AC_SCAN(zf_ac_refine_bmi2);
#endif

/* ---- the bytes of a scan (jpeg_stream.c) ------------------------------------ */

/* The entropy-coded bytes of a scan, one restart interval after the other. */
typedef struct zf_stream {
    const zf_jpeg_kernels *kernels;
    const uint8_t *next, *end; /* the file's bytes that were not read yet */
    uint8_t *start;            /* the bytes of a restart interval, unstuffed */
    size_t n;                  /* how many bytes those are */
    zf_bits bits;
    int dc[3];                 /* the last DC of each component */
    int restart_interval;      /* MCUs; 0: none */
    int until_restart;         /* MCUs up to the next restart marker */
    int restarts;              /* restart markers read so far */
} zf_stream;

/* Begins with the bytes at jpeg->scan_offset, and reads the first interval. The
 * buffer has room for all bytes up to the end of the scan and ZF_BITS_PAD. */
void zf_stream_begin(zf_stream *s, const zf_jpeg_kernels *kernels, const zf_jpeg *jpeg,
                     uint8_t *buffer);

/* Reads a restart marker and begins the next restart interval. False if the
 * interval has bytes left or another marker follows. */
bool zf_stream_restart(zf_stream *s);

/* The end of the restart interval's bytes. */
static inline const uint8_t *zf_stream_end(const zf_stream *s)
{
    return s->start + s->n;
}

/* Bits of the restart interval that were not used yet; negative if the decoder
 * ran past its end. */
static inline int64_t zf_stream_bits_left(const zf_stream *s)
{
    return ((int64_t)(s->start - s->bits.p) + (int64_t)s->n) * 8 + s->bits.left;
}

/* The address of the first marker at `next` or later that is no restart marker;
 * NULL: there is none. */
const uint8_t *zf_scan_end(const uint8_t *next, const uint8_t *end);

/* The marker at p, after any fill bytes; 0: none. */
static inline int zf_marker_at(const uint8_t *p, const uint8_t *end)
{
    while (p < end && *p == 0xFF)
        p++;
    return p < end ? *p : 0;
}

/* ---- the planes of a window (jpeg_planes.c) ---------------------------------- */

typedef enum {
    ZF_UP_NONE,
    ZF_UP_BOX,
    ZF_UP_H2V1,
    ZF_UP_H2V2,
    ZF_UP_H1V2,
} zf_upsampling;

/* The plan for one component of one window. */
typedef struct zf_plane {
    int h, v;                   /* blocks per MCU */
    int h_expand, v_expand;     /* pixels per sample */
    zf_upsampling up;
    int width, height;          /* of the component, in samples */
    int bx0, by0, bx1, by1;     /* blocks that the window needs */
    uint8_t *samples;           /* sample (8 * bx0, row 0 of the ring) */
    size_t stride;
    int ring;                   /* rows held: sample row r is at r % ring */
    uint8_t *row;               /* one upsampled row */
    zf_dequant q;
} zf_plane;

static inline uint8_t *zf_sample_row(const zf_plane *p, int r)
{
    return p->samples + (size_t)(r % p->ring) * p->stride;
}

/* The MCUs of the picture, and the range that the window needs. */
typedef struct zf_mcu_grid {
    int columns, rows;
    int x0, y0, x1, y1;
    int pixel_rows; /* in an MCU */
} zf_mcu_grid;

/* Blocks that wait for their transform. Several are transformed at once, since
 * AVX-512 does two at a time; few enough to stay in the L1 cache. */
#define ZF_QUEUE 12

typedef struct zf_planes {
    const zf_jpeg_kernels *kernels;
    zf_window window;
    int ncomp;
    zf_color color;
    zf_plane plane[3];
    bool rows_above_and_below; /* some plane's upsampling reads neighbouring rows */
    zf_mcu_grid grid;
    zf_transform queue[ZF_QUEUE];
    int next_row;    /* pixel row to be delivered next */
    uint8_t *rgb[3]; /* rows for converted pixels */
    uint8_t *pixels; /* all sample rows, upsampled rows and RGB rows */
    size_t pixels_capacity;
    zf_pixel_times times;
} zf_planes;

/* Plans the decoding of a window. ZF_UNSUPPORTED: libjpeg has no such upsampling,
 * or a quantization table is missing. */
zf_status zf_planes_begin(zf_planes *planes, const zf_jpeg *jpeg, zf_window window);

/* Transforms the first n blocks of the queue; false if a block is out of range. */
bool zf_planes_transform(zf_planes *planes, int n);

/* Delivers the pixel rows that are complete with MCU row my, which all blocks were
 * transformed of. A status other than ZF_OK is the caller's. */
zf_status zf_planes_end_mcu_row(zf_planes *planes, int my, zf_row_fn row, void *ctx);

/* Makes *buffer, aligned to 64 bytes, hold nbytes; may lose its contents. False when
 * out of memory. */
bool zf_reserve(uint8_t **buffer, size_t *capacity, size_t nbytes);

static inline int zf_ceil_div(int a, int b) { return (a + b - 1) / b; }

/* ---- the decoders --------------------------------------------------------- */

/* Decodes a window of a sequential file with one scan to the same pixels as
 * libjpeg-turbo. ZF_UNSUPPORTED for files that it cannot decode and for any
 * anomaly, possibly after some rows: Pillow then has to decode the picture. */
typedef struct zf_baseline zf_baseline;

/* This CPU must run the level. NULL when out of memory. */
zf_baseline *zf_baseline_open(zf_level level);
void zf_baseline_close(zf_baseline *decoder);
zf_status zf_baseline_decode(zf_baseline *decoder, const zf_jpeg *jpeg, zf_window window,
                             zf_row_fn row, void *ctx);
/* The times of the last decoding. */
const zf_pixel_times *zf_baseline_times(const zf_baseline *decoder);

/* The same of a file with several scans, progressive or sequential. */
typedef struct zf_progressive zf_progressive;

zf_progressive *zf_progressive_open(zf_level level);
void zf_progressive_close(zf_progressive *decoder);
zf_status zf_progressive_decode(zf_progressive *decoder, const zf_jpeg *jpeg, zf_window window,
                                zf_row_fn row, void *ctx);
const zf_pixel_times *zf_progressive_times(const zf_progressive *decoder);

#endif
