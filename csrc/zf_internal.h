/* Shared by the core's own files; callers include zoofast.h. */
#ifndef ZF_INTERNAL_H
#define ZF_INTERNAL_H

#include "zoofast.h"

#include <stdbool.h>
#include <time.h>

/* Every image row and table that a SIMD kernel reads may be read this many
 * bytes past its end (never before its start). */
#define ZF_PAD 128

/* ---- resampling tables (resample.c) ------------------------------------ */

/* One direction of Pillow's resampler for a run of output pixels:
 * output i = clip8((2^21 + sum_t src[start[i] + t] * k[i * ksize + t]) >> 22),
 * t < ksize. start never falls. */
typedef struct zf_taps {
    int n;           /* outputs */
    int ksize;       /* taps per output: the largest count */
    int first, last; /* source range [first, last) that the outputs read */
    bool identity;   /* output i is source pixel first + i */
    bool wide;       /* some |k| does not fit three signed bytes: scalar only */
    int *start;      /* n, relative to first */
    int32_t *k;      /* n * ksize */
    /* the inputs that this table was made for, so that it can be kept */
    int in_size, out_size, from;
    zf_filter filter;
    void *plan;      /* what resample_h precomputes, made by plan_h */
    bool near;       /* set by plan_h: its outputs' pixels fit zf_is_near */
    size_t capacity, plan_capacity;
} zf_taps;

/* Makes t->plan hold nbytes (64-byte aligned, contents lost). */
bool zf_plan_reserve(zf_taps *t, size_t nbytes);

/* Whether the first taps of every `outputs` neighbouring outputs, four each,
 * lie within one load of nbytes. Shrinking more than fourfold, they do not. */
static inline bool zf_is_near(const zf_taps *t, int outputs, int nbytes)
{
    for (int i = 0; i < t->n; i += outputs) {
        int last = i + outputs < t->n ? i + outputs - 1 : t->n - 1;
        if (t->start[last] - t->start[i] + 4 > nbytes)
            return false;
    }
    return true;
}

/* Splits k into signed base-256 digits, low first. k is not wide. */
static inline void zf_digits(int32_t k, int8_t digits[3])
{
    for (int d = 0; d < 3; d++) {
        digits[d] = (int8_t)(k & 0xFF);
        k = (k - digits[d]) / 256;
    }
}

/* ---- kernels ------------------------------------------------------------ */

/* Horizontal pass of one row of one plane: t->n outputs. src is pixel
 * t->first; ZF_PAD bytes past the last used pixel are readable; dst has
 * ZF_PAD bytes to spare. */
#define ZF_DECL_RESAMPLE_H(name) \
    void name(uint8_t *dst, const uint8_t *src, const zf_taps *t)
/* Vertical pass of n pixels: rows[i * stride], i < ntaps. n may be rounded
 * up to 64 by the kernel: src and dst are padded. */
#define ZF_DECL_RESAMPLE_V(name)                                                       \
    void name(uint8_t *dst, const uint8_t *rows, size_t stride, const int32_t *k,      \
              int ntaps, bool wide, size_t n)
/* n RGB triples -> three planes (padded). 3 * 64 bytes past rgb's end are read. */
#define ZF_DECL_DEINTERLEAVE(name) \
    void name(uint8_t *const planes[3], const uint8_t *rgb, size_t n)
/* Three planes (padded) -> n RGB triples. dst has no padding. */
#define ZF_DECL_INTERLEAVE(name) \
    void name(uint8_t *dst, const uint8_t *const planes[3], size_t n)
/* Table lookup of n bytes (padded) into n 4-byte elements. dst has no padding. */
#define ZF_DECL_LOOKUP32(name) \
    void name(uint32_t *dst, const uint8_t *src, const uint32_t *table, size_t n)
/* Prepares t->plan for resample_h; returns false when out of memory. */
#define ZF_DECL_PLAN_H(name) bool name(zf_taps *t)

struct zf_kernels {
    const char *name;
    ZF_DECL_PLAN_H((*plan_h));
    ZF_DECL_RESAMPLE_H((*resample_h));
    ZF_DECL_RESAMPLE_V((*resample_v));
    ZF_DECL_DEINTERLEAVE((*deinterleave));
    ZF_DECL_INTERLEAVE((*interleave));
    ZF_DECL_LOOKUP32((*lookup32));
};

extern const zf_kernels zf_kernels_scalar;
#if defined(__x86_64__)
extern const zf_kernels zf_kernels_avx2;
extern const zf_kernels zf_kernels_avx512;
#elif defined(__aarch64__)
extern const zf_kernels zf_kernels_neon; /* part of every aarch64 CPU */
#endif

ZF_DECL_PLAN_H(zf_plan_h_scalar);
ZF_DECL_RESAMPLE_H(zf_resample_h_scalar);
ZF_DECL_RESAMPLE_V(zf_resample_v_scalar);
ZF_DECL_DEINTERLEAVE(zf_deinterleave_scalar);
ZF_DECL_INTERLEAVE(zf_interleave_scalar);
ZF_DECL_LOOKUP32(zf_lookup32_scalar);

/* Fills t for output pixels [from, from + n) of an out_size-pixel result.
 * Keeps what t already holds when nothing changed. */
zf_status zf_taps_make(zf_taps *t, const zf_kernels *kernels, int in_size, int out_size,
                       int from, int n, zf_filter filter);
void zf_taps_free(zf_taps *t);

/* ---- JPEG --------------------------------------------------------------- */

typedef struct zf_component {
    int id, h, v;   /* sampling factors, 1..4 */
    int tq;         /* quantization table */
    int td, ta;     /* Huffman tables of the first scan; -1: not in it */
} zf_component;

typedef struct zf_huffman {
    bool defined;
    uint8_t bits[17]; /* bits[l]: number of codes of length l, l = 1..16 */
    uint8_t values[256];
} zf_huffman;

typedef enum { ZF_COLOR_GRAY, ZF_COLOR_YCC, ZF_COLOR_RGB } zf_color;

/* Everything before the first scan's entropy-coded bytes. */
typedef struct zf_jpeg {
    const uint8_t *data;
    size_t nbytes;
    size_t scan;      /* offset of the first entropy-coded byte */
    int width, height;
    bool progressive; /* SOF2; else SOF0 or SOF1 with Huffman coding */
    int ncomp;        /* 1 or 3 */
    zf_component comp[3];
    int max_h, max_v;
    zf_color color;   /* as libjpeg decides it from JFIF, Adobe and the ids */
    int scan_ncomp;   /* components of the first scan */
    int scan_ss, scan_se, scan_ah, scan_al;
    int restart_interval; /* MCUs, 0: none */
    bool quant_defined[4];
    uint16_t quant[4][64]; /* zigzag order, as in the file */
    zf_huffman dc[4], ac[4];
} zf_jpeg;

/* Parses the header. Strict on purpose: whatever Pillow's own header parser
 * or libjpeg might judge differently from a plain reading (junk between
 * markers, odd lengths, CMYK, multi-picture files, 12 bits, bomb sizes ...)
 * is ZF_UNSUPPORTED, so that Pillow itself decides. */
zf_status zf_jpeg_parse(const uint8_t *data, size_t nbytes, zf_jpeg *jpeg);

/* Source pixels [x0, x1) x [y0, y1). */
typedef struct zf_window {
    int x0, y0, x1, y1;
} zf_window;

/* Receives one decoded row of a window, top to bottom; after a decoder that
 * gave up, another begins with the window's first row again. planes: R, G, B, or
 * only planes[0] for grayscale; planes[c][i] is pixel x0 + i, readable ZF_PAD
 * bytes past the window's end. A status other than ZF_OK ends the decode. */
typedef zf_status (*zf_row_fn)(void *ctx, int y, const uint8_t *const planes[3]);

/* A decoder's own scratch. */
typedef struct zf_turbo zf_turbo;
zf_turbo *zf_turbo_open(const zf_kernels *kernels);
void zf_turbo_close(zf_turbo *turbo);
/* Decodes a window through libjpeg-turbo. Any warning, error or truncation
 * is ZF_UNSUPPORTED; rows may have been delivered by then. */
zf_status zf_turbo_decode(zf_turbo *turbo, const zf_jpeg *jpeg, zf_window window,
                          zf_row_fn row, void *ctx);

typedef struct zf_sampled {
    uint64_t ns, begin;
    uint64_t pieces, timed;
} zf_sampled;

/* What our own decoder can tell of a decode; the rest is entropy decoding. */
typedef struct zf_pixel_times {
    zf_sampled idct, colour;
} zf_pixel_times;

/* All decoders, in the order in which they are tried. */
typedef struct zf_decoders zf_decoders;
zf_decoders *zf_decoders_open(const zf_kernels *kernels); /* NULL: out of memory */
void zf_decoders_close(zf_decoders *decoders);
/* Decodes a window by the first decoder that can; by `only` alone unless that
 * is ZF_DECODER_NONE. *used says which one did. */
zf_status zf_decode_window(zf_decoders *decoders, const zf_jpeg *jpeg, zf_window window,
                           zf_decoder only, zf_row_fn row, void *ctx, zf_decoder *used);
/* What ZF_DECODER_BASELINE's last decode spent, if that was the last. */
const zf_pixel_times *zf_decoders_times(const zf_decoders *decoders);

/* ---- time ----------------------------------------------------------------- */

static inline uint64_t zf_now(void)
{
#ifdef ZF_NO_CLOCK /* only to measure what the timing costs: benchmarks/profile_cost.py */
    return 0;
#else
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
#endif
}

/* The time of work that comes in many short pieces, of which one in
 * ZF_SAMPLE is timed: reading the clock twice at each would cost several per
 * cent of the whole. A prime, so that it does not go with the rows of JPEG's
 * blocks. */
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

/* An estimate for all pieces. clock_ns: what an empty piece seems to take. */
static inline uint64_t zf_sampled_ns(const zf_sampled *s, uint64_t clock_ns)
{
    uint64_t clock = clock_ns * s->timed;
    return s->timed && s->ns > clock ? (s->ns - clock) * s->pieces / s->timed : 0;
}

/* ---- small things ------------------------------------------------------- */

static inline int zf_min(int a, int b) { return a < b ? a : b; }
static inline int zf_max(int a, int b) { return a > b ? a : b; }

#endif
