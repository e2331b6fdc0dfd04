/* What the core's files share. Callers include zoofast.h instead. */
#ifndef ZF_INTERNAL_H
#define ZF_INTERNAL_H

#include "zoofast.h"

#include <stdbool.h>
#include <time.h>

/* Kernels may read this many bytes past the end of an image row or a table, but
 * none before its start. */
#define ZF_PAD 128

/* ---- resampling tables (resample.c) ------------------------------------ */

/* Pillow's resampling in one direction, for a run of output pixels:
 * output i = clip8((2^21 + sum_t src[start[i] + t] * k[i * ksize + t]) >> 22),
 * 0 <= t < ksize. start[i] <= start[i + 1]. */
typedef struct zf_taps {
    int n;           /* output pixels */
    int ksize;       /* taps per output pixel: the largest number that any needs */
    int first, last; /* the outputs read source pixels [first, last) */
    bool identity;   /* output i is source pixel first + i */
    bool needs_32bit; /* some coefficient does not fit three signed bytes */
    int *start;      /* n, relative to first */
    int32_t *k;      /* n * ksize */
    /* the arguments of zf_taps_make that this table was made for */
    int in_size, out_size, from;
    zf_filter filter;
    void *plan;      /* what plan_h computed for resample_h */
    bool fits_one_load; /* set by plan_h: the result of zf_fits_one_load */
    size_t capacity, plan_capacity; /* bytes of start and k together; of plan */
} zf_taps;

/* Gives t->plan a capacity of nbytes or more, aligned to 64 bytes. Its contents
 * are lost. False when out of memory. */
bool zf_plan_reserve(zf_taps *t, size_t nbytes);

/* Whether one load of nbytes holds the first four taps of each of `outputs`
 * neighbouring outputs. It does not if the image shrinks to less than a
 * quarter. */
static inline bool zf_fits_one_load(const zf_taps *t, int outputs, int nbytes)
{
    for (int i = 0; i < t->n; i += outputs) {
        int last = i + outputs < t->n ? i + outputs - 1 : t->n - 1;
        if (t->start[last] - t->start[i] + 4 > nbytes)
            return false;
    }
    return true;
}

/* Splits k into three signed base-256 digits, lowest first. k must fit them:
 * see zf_taps.needs_32bit. */
static inline void zf_digits(int32_t k, int8_t digits[3])
{
    for (int d = 0; d < 3; d++) {
        digits[d] = (int8_t)(k & 0xFF);
        k = (k - digits[d]) / 256;
    }
}

/* ---- kernels ------------------------------------------------------------ */

/* The horizontal pass for one row of one plane: t->n outputs. src is pixel
 * t->first. ZF_PAD bytes past the last used source pixel are readable, and
 * ZF_PAD bytes past the last output are writable. */
#define ZF_DECL_RESAMPLE_H(name) \
    void name(uint8_t *dst, const uint8_t *src, const zf_taps *t)
/* The vertical pass for n pixels of the rows rows[i], 0 <= i < ntaps.
 * The kernel may round n up to a multiple of 64: src and dst are padded. */
#define ZF_DECL_RESAMPLE_V(name)                                                       \
    void name(uint8_t *dst, const uint8_t *const *rows, const int32_t *k, int ntaps,   \
              bool needs_32bit, size_t n)
/* n RGB triples -> three planes, which are padded. The kernel may read 3 * 64
 * bytes past the end of rgb. */
#define ZF_DECL_DEINTERLEAVE(name) \
    void name(uint8_t *const planes[3], const uint8_t *rgb, size_t n)
/* Three planes, which are padded -> n RGB triples. dst has no padding. */
#define ZF_DECL_INTERLEAVE(name) \
    void name(uint8_t *dst, const uint8_t *const planes[3], size_t n)
/* Replaces each of n bytes (src is padded) by its 4-byte element of the table.
 * dst has no padding. */
#define ZF_DECL_LOOKUP32(name) \
    void name(uint32_t *dst, const uint8_t *src, const uint32_t *table, size_t n)
/* Prepares t->plan for resample_h; false when out of memory. */
#define ZF_DECL_PLAN_H(name) bool name(zf_taps *t)

typedef struct zf_cv_kernels zf_cv_kernels; /* zf_opencv.h */

typedef struct zf_kernels {
    ZF_DECL_PLAN_H((*plan_h));
    ZF_DECL_RESAMPLE_H((*resample_h));
    ZF_DECL_RESAMPLE_V((*resample_v));
    ZF_DECL_DEINTERLEAVE((*deinterleave));
    ZF_DECL_INTERLEAVE((*interleave));
    ZF_DECL_LOOKUP32((*lookup32));
    const zf_cv_kernels *opencv;
} zf_kernels;

#define ZF_DECLARE(constant, name, test, image, jpeg, logits)                          \
    extern const zf_kernels zf_kernels_##image;
ZF_LEVELS(ZF_DECLARE)
#undef ZF_DECLARE
extern const zf_kernels *const zf_kernels_of[ZF_LEVEL_COUNT];

ZF_DECL_PLAN_H(zf_plan_h_scalar);
ZF_DECL_RESAMPLE_H(zf_resample_h_scalar);
ZF_DECL_RESAMPLE_V(zf_resample_v_scalar);
ZF_DECL_DEINTERLEAVE(zf_deinterleave_scalar);
ZF_DECL_INTERLEAVE(zf_interleave_scalar);
ZF_DECL_LOOKUP32(zf_lookup32_scalar);

#if defined(__x86_64__) /* what several levels use */
ZF_DECL_DEINTERLEAVE(zf_deinterleave_ssse3);
ZF_DECL_INTERLEAVE(zf_interleave_ssse3);
#endif

/* Fills t for the output pixels [from, from + n) of a line that is resized from
 * in_size to out_size pixels. Does nothing if t holds this table already. */
zf_status zf_taps_make(zf_taps *t, const zf_kernels *kernels, int in_size, int out_size,
                       int from, int n, zf_filter filter);
void zf_taps_free(zf_taps *t);

/* ---- JPEG --------------------------------------------------------------- */

typedef struct zf_component {
    int id, h, v;   /* sampling factors, 1..4 */
    int tq;         /* quantization table */
    int td, ta;     /* Huffman tables in the scan; -1: not part of the scan */
} zf_component;

typedef struct zf_huffman {
    bool defined;
    uint8_t bits[17]; /* bits[l]: number of codes of length l, l = 1..16 */
    uint8_t values[256];
} zf_huffman;

typedef enum { ZF_COLOR_GRAY, ZF_COLOR_YCC, ZF_COLOR_RGB } zf_color;

/* The contents of a file's header: all before the entropy-coded bytes of the
 * first scan, or of a later one after zf_jpeg_next_scan. */
typedef struct zf_jpeg {
    const uint8_t *data;
    size_t nbytes;
    size_t scan_offset; /* of the scan's first entropy-coded byte */
    /* of the first EXIF segment that has one, 1 to 8, as OpenCV 5 reads it; 0: none.
     * OpenCV 4 reads the first APP1 segment only, whatever it holds. */
    int orientation;
    bool exif_is_unusual; /* perhaps Pillow refuses the file; OpenCV ignores such data */
    int width, height;
    bool progressive; /* SOF2; else SOF0 or SOF1 with Huffman coding */
    int ncomp;        /* 1 or 3 */
    zf_component comp[3];
    int max_h, max_v;
    zf_color color;   /* libjpeg's choice, from JFIF, Adobe and the component ids */
    int scan_ncomp;   /* components of the scan */
    int scan_ss, scan_se, scan_ah, scan_al;
    int restart_interval; /* MCUs, 0: none */
    bool quant_defined[4];
    uint16_t quant[4][64]; /* zigzag order, as in the file */
    zf_huffman dc[4], ac[4];
} zf_jpeg;

/* Parses the header, strictly: Pillow's own header parser and libjpeg treat many
 * unusual headers in ways of their own (junk between markers, wrong lengths,
 * CMYK, multi-picture files, 12 bits, huge sizes ...). Such a header is
 * ZF_UNSUPPORTED, so that Pillow decides. */
zf_status zf_jpeg_parse(const uint8_t *data, size_t nbytes, zf_jpeg *jpeg);

/* Whether Pillow can read the resolution in these EXIF data, which begin with the byte
 * order. Where it may fail, it refuses the file. */
bool zf_exif_is_plain(const uint8_t *data, size_t nbytes);

/* Reads the segments from data[offset] on up to the entropy-coded bytes of the next
 * scan: Huffman tables, restart interval, scan header. False at anything else. */
bool zf_jpeg_next_scan(zf_jpeg *jpeg, size_t offset);

/* Source pixels [x0, x1) x [y0, y1). */
typedef struct zf_window {
    int x0, y0, x1, y1;
} zf_window;

/* Receives the decoded rows of a window, from top to bottom. planes are R,
 * G, B, or only planes[0] for grayscale. planes[c][i] is pixel x0 + i; ZF_PAD
 * bytes past the window's end are readable. A status other than ZF_OK ends the
 * decoding. */
typedef zf_status (*zf_row_fn)(void *ctx, int y, const uint8_t *const planes[3]);

/* The time of work that is done in many short pieces, of which some are timed:
 * see zf_piece_begins. */
typedef struct zf_sampled {
    uint64_t ns, begin;     /* sum over the timed pieces; when a timed piece began */
    uint64_t pieces, timed; /* how many pieces there were; how many were timed */
} zf_sampled;

/* The times of a decoder's parts; the rest of its time is entropy decoding. */
typedef struct zf_pixel_times {
    zf_sampled idct, colour;
} zf_pixel_times;

/* The decoders for all kinds of files. */
typedef struct zf_decoders zf_decoders;
zf_decoders *zf_decoders_open(zf_level level); /* NULL when out of memory */
void zf_decoders_close(zf_decoders *decoders);
/* Decodes a window with the decoder for the file's kind. *used gets that decoder.
 * ZF_UNSUPPORTED for a file with an anomaly, possibly after some rows were delivered. */
zf_status zf_decode_window(zf_decoders *decoders, const zf_jpeg *jpeg, zf_window window,
                           zf_row_fn row, void *ctx, zf_decoder *used);
/* The times of the last decoding, if it was by that decoder; NULL for
 * ZF_DECODER_NONE. */
const zf_pixel_times *zf_decoders_times(const zf_decoders *decoders, zf_decoder used);

/* ---- time ----------------------------------------------------------------- */

static inline uint64_t zf_now(void)
{
#ifdef ZF_NO_CLOCK /* benchmarks/profile_cost.py measures the cost of the clock */
    return 0;
#else
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
#endif
}

/* One piece in ZF_SAMPLE is timed, since reading the clock twice for every piece
 * would cost several per cent of the time. The number is a prime, so that it has
 * no common factor with the rows of JPEG's blocks. */
#define ZF_SAMPLE 43

static inline void zf_piece_begins(zf_sampled *s)
{
    s->begin = s->pieces++ % ZF_SAMPLE == ZF_SAMPLE / 2 ? zf_now() : 0;
}

static inline void zf_piece_ends(zf_sampled *s)
{
    if (s->begin) {
        s->ns += zf_now() - s->begin;
        s->timed++;
    }
}

/* Estimates the nanoseconds of all pieces. clock_ns: the measured time of an
 * empty piece. */
static inline uint64_t zf_sampled_ns(const zf_sampled *s, uint64_t clock_ns)
{
    uint64_t clock = clock_ns * s->timed;
    return s->timed && s->ns > clock ? (s->ns - clock) * s->pieces / s->timed : 0;
}

/* ---- small things ------------------------------------------------------- */

static inline int zf_min(int a, int b) { return a < b ? a : b; }
static inline int zf_max(int a, int b) { return a > b ? a : b; }

#endif
