/* OpenCV's resize (cv2.resize without IPP): opencv_lines.c computes which source
 * pixels an output pixel reads, opencv_*.c have the kernels, opencv_resize.c feeds
 * them with the decoded rows. */
#ifndef ZF_OPENCV_H
#define ZF_OPENCV_H

#include "zf_geometry.h"

/* ---- one direction -------------------------------------------------------- */

/* How a filter computes, which depends on the sizes too. */
typedef enum zf_cv_method {
    ZF_CV_COPY,  /* INTER_NEAREST */
    ZF_CV_FIXED, /* INTER_LINEAR; INTER_AREA where a side grows */
    ZF_CV_EXACT, /* INTER_LINEAR_EXACT */
    ZF_CV_CUBE,  /* INTER_CUBIC */
    ZF_CV_SHARE, /* INTER_AREA: the mean of fractions of pixels */
    ZF_CV_BLOCK, /* INTER_AREA: the mean of blocks of whole pixels */
    ZF_CV_HALF,  /* the same of 2 x 2 pixels; INTER_LINEAR too */
    ZF_CV_REAL   /* INTER_LINEAR of float32 */
} zf_cv_method;

/* Which source pixels a run of output pixels reads in one direction, and with
 * which weights. */
typedef struct zf_cv_line {
    int n;           /* output pixels */
    int taps;        /* source pixels of each output pixel */
    int first, last; /* the outputs read source pixels [first, last) */
    int *index;      /* [n][taps]: source pixel, relative to first; never falls */
    int16_t *fixed;  /* [n][taps]: weight in 1/2048; ZF_CV_EXACT: in 1/256 */
    float *real;     /* [n][taps]: weight */
    float unit;      /* ZF_CV_BLOCK: 1 / pixels of a block */
    float divisor;   /* of each pixel: not 1 only for ZF_CV_REAL */
    /* the arguments of zf_cv_line_make that this table was made for */
    zf_cv_method method;
    zf_filter filter;
    int in_size, out_size, from;
    double scale;
    bool is_vertical;
    void *plan;      /* what plan computed for the horizontal kernel */
    bool has_plan;
    size_t capacity, plan_capacity; /* bytes of index, fixed and real together; of plan */
} zf_cv_line;

/* The method of a filter that resizes from in_w x in_h to out_w x out_h pixels. */
zf_cv_method zf_cv_method_of(zf_filter filter, int in_w, int in_h, int out_w, int out_h);

/* Fills line for the output pixels [from, from + n) of a side that is resized from
 * in_size to out_size pixels. ZF_CV_COPY takes source pixel floor(i * scale) for output
 * pixel i; a scale of 0 stands for in_size / out_size, as for the other methods. Does
 * nothing if line holds this table already. */
zf_status zf_cv_line_make(zf_cv_line *line, const zf_kernels *kernels, zf_cv_method method,
                          zf_filter filter, bool is_vertical, int in_size, int out_size,
                          int from, int n, double scale);
void zf_cv_line_free(zf_cv_line *line);

/* ---- kernels -------------------------------------------------------------- */

/* The horizontal pass for one row of one plane: line->n outputs. src is source
 * pixel line->first; dst has the method's type, see zf_cv_kernels. ZF_PAD bytes past the last used pixel are readable, and ZF_PAD
 * bytes past the last output are writable. */
#define ZF_DECL_CV_ACROSS(name) \
    void name(void *dst, const uint8_t *src, const zf_cv_line *line)
/* The vertical pass for n pixels of output row `output`: rows[tap] is the row of
 * each tap. The kernel may round n up to a multiple of 32: rows and dst are
 * padded. */
#define ZF_DECL_CV_DOWN(name)                                                          \
    void name(void *dst, const void *const *rows, const zf_cv_line *line, int output,  \
              size_t n)
/* Prepares line->plan for the horizontal kernel; false when out of memory. */
#define ZF_DECL_CV_PLAN(name) bool name(zf_cv_line *line)

/* The kernels of each method. A row between the passes holds for
 *   ZF_CV_COPY   uint8_t    the pixels
 *   ZF_CV_FIXED  int16_t    sum / 16
 *   ZF_CV_EXACT  uint16_t   sum, in 1/256
 *   ZF_CV_CUBE   float      sum, a whole number
 *   the others   float      sum, across_real */
struct zf_cv_kernels {
    ZF_DECL_CV_PLAN((*plan));
    ZF_DECL_CV_ACROSS((*across_fixed));
    ZF_DECL_CV_ACROSS((*across_exact));
    ZF_DECL_CV_ACROSS((*across_cube));
    ZF_DECL_CV_ACROSS((*across_real));
    ZF_DECL_CV_DOWN((*down_fixed));
    ZF_DECL_CV_DOWN((*down_exact));
    ZF_DECL_CV_DOWN((*down_cube));
    ZF_DECL_CV_DOWN((*down_share));
};

extern const zf_cv_kernels zf_cv_kernels_scalar;
#if defined(__x86_64__)
extern const zf_cv_kernels zf_cv_kernels_avx2;
#elif defined(__aarch64__)
extern const zf_cv_kernels zf_cv_kernels_neon;
#endif

/* What the SIMD kernels' plan holds (opencv_plan.c), if each four taps of each four
 * outputs lie in 16 bytes. Whole numbers: eight outputs with up to four taps each, in
 * two halves of four outputs. All taps of a half lie in 16 bytes from base[half] on;
 * index[half] says which byte each tap is. */
typedef struct zf_cv_group {
    int base[2];
    uint8_t index[2][16];
    int16_t weight[2][16]; /* of the taps, in the same order */
} zf_cv_group;

/* The same with weights as floats. Taps come first: index[half][4 * tap + output]. More
 * taps are in further groups, which follow one another. */
typedef struct zf_cv_real_group {
    int base[2];
    uint8_t index[2][16];
    float weight[4][8]; /* [tap][output] */
} zf_cv_real_group;

ZF_DECL_CV_PLAN(zf_cv_plan_groups);

/* Of ZF_CV_CUBE: the weights of both passes are in 1/2048. */
#define ZF_CV_CUBE_UNIT (1.0f / (2048 * 2048))

ZF_DECL_CV_PLAN(zf_cv_plan_scalar);
ZF_DECL_CV_ACROSS(zf_cv_across_copy);
ZF_DECL_CV_ACROSS(zf_cv_across_fixed_scalar);
ZF_DECL_CV_ACROSS(zf_cv_across_exact_scalar);
ZF_DECL_CV_ACROSS(zf_cv_across_cube_scalar);
ZF_DECL_CV_ACROSS(zf_cv_across_real_scalar);
ZF_DECL_CV_DOWN(zf_cv_down_copy);
ZF_DECL_CV_DOWN(zf_cv_down_fixed_scalar);
ZF_DECL_CV_DOWN(zf_cv_down_exact_scalar);
ZF_DECL_CV_DOWN(zf_cv_down_cube_scalar);
ZF_DECL_CV_DOWN(zf_cv_down_share_scalar);
ZF_DECL_CV_DOWN(zf_cv_down_block);
ZF_DECL_CV_DOWN(zf_cv_down_half);
ZF_DECL_CV_DOWN(zf_cv_down_real);
/* The last values of a row of INTER_CUBIC, which OpenCV sums in whole numbers. */
ZF_DECL_CV_DOWN(zf_cv_down_cube_end);

/* ---- the resizer ---------------------------------------------------------- */

typedef struct zf_cv zf_cv;
zf_cv *zf_cv_open(const zf_kernels *kernels); /* NULL when out of memory */
void zf_cv_close(zf_cv *cv);

/* Prepares for an image of `channels` planes, 1 or 3. */
zf_status zf_cv_begin(zf_cv *cv, const zf_recipe *recipe, const zf_geometry *geometry,
                      int channels);
/* The source pixels to be decoded. */
zf_window zf_cv_window(const zf_cv *cv);
/* The zf_row_fn that receives the window's rows; ctx is the zf_cv. */
zf_status zf_cv_on_row(void *cv, int y, const uint8_t *const planes[3]);
/* The R, G and B planes of recipe->out_w x out_h pixels, without gaps: uint8_t, or
 * float for ZF_CV_LINEAR_FLOAT32. Pixels outside the part are not set. A grayscale
 * image has only the first `channels` planes; the others are the same. */
void *zf_cv_plane(const zf_cv *cv, int channel);
int zf_cv_channels(const zf_cv *cv);
const zf_sampled *zf_cv_time(const zf_cv *cv);

#endif
