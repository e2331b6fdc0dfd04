/*
 * OpenCV's resampling tables (modules/imgproc/src/resize.cpp), for the output
 * pixels inside the crop.
 *
 * For output pixel i of a side that is resized from in_size to out_size pixels,
 * with all numbers double unless said otherwise:
 *
 *     scale = 1 / (out_size / in_size), or given
 *     x     = (float)((i + 0.5) * scale - 0.5)      linear, cubic
 *     left  = floor(x), part = x - left             part is float
 *
 * The build uses -ffp-contract=off, because a fused multiply-add would change the
 * last bit.
 */
#include "zf_opencv.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double scale_of(int in_size, int out_size)
{
    return 1.0 / ((double)out_size / in_size);
}

static bool is_whole(double scale) { return fabs(scale - rint(scale)) < DBL_EPSILON; }

zf_cv_method zf_cv_method_of(zf_filter filter, int in_w, int in_h, int out_w, int out_h)
{
    double scale_x = scale_of(in_w, out_w), scale_y = scale_of(in_h, out_h);
    bool whole = is_whole(scale_x) && is_whole(scale_y);
    bool half = whole && rint(scale_x) == 2 && rint(scale_y) == 2;

    switch (filter) {
    case ZF_CV_NEAREST:
        return ZF_CV_COPY;
    case ZF_CV_LINEAR:
        return half ? ZF_CV_HALF : ZF_CV_FIXED;
    case ZF_CV_LINEAR_EXACT:
        return ZF_CV_EXACT;
    case ZF_CV_CUBIC:
        return ZF_CV_CUBE;
    case ZF_CV_AREA:
        if (scale_x < 1 || scale_y < 1)
            return ZF_CV_FIXED;
        return half ? ZF_CV_HALF : whole ? ZF_CV_BLOCK : ZF_CV_SHARE;
    default:
        return ZF_CV_REAL;
    }
}

/* ---- the taps of one output pixel ------------------------------------------ */

/* Up to line->taps source pixels (not yet clamped to the image) and their weights. */
typedef struct {
    int *index;
    float *real;
    int16_t *fixed;
} taps;

static int16_t in_fixed_point(float weight) { return (int16_t)lrintf(weight * 2048); }

static int clamp(int x, int size) { return x < 0 ? 0 : zf_min(x, size - 1); }

/* Outside the image, the border pixel counts alone across, and twice, with both
 * weights, down. */
static void linear_taps(taps t, int left, float part, int in_size, bool is_vertical)
{
    if (!is_vertical && left < 0) {
        left = 0;
        part = 0;
    }
    if (!is_vertical && left >= in_size - 1) {
        left = in_size - 1;
        part = 0;
    }
    t.index[0] = left;
    t.index[1] = left + 1;
    t.real[0] = 1.0f - part;
    t.real[1] = part;
}

static void position(double scale, int i, int *left, float *part)
{
    float x = (float)((i + 0.5) * scale - 0.5);
    *left = (int)floorf(x);
    *part = x - (float)*left;
}

/* INTER_AREA where a side grows: interpolates only across the border of two source
 * pixels. */
static void position_of_area(int in_size, int out_size, int i, int *left, float *part)
{
    double inverse = (double)out_size / in_size;
    *left = (int)floor(i * scale_of(in_size, out_size));
    *part = (float)((i + 1) - (*left + 1) * inverse);
    *part = *part <= 0 ? 0.0f : *part - floorf(*part);
}

/* OpenCV computes the position with its softdouble, which is IEEE's double, and the
 * weights in 1/256. */
static void exact_taps(taps t, double scale, int i, int in_size)
{
    double x = scale * (i + 0.5) - 0.5;
    int left = (int)floor(x), second = 0;
    if (left < 0 || in_size == 1)
        left = 0;
    else if (left >= in_size - 1)
        left = in_size - 1;
    else
        second = (int)rint((x - left) * 256);
    t.index[0] = left;
    t.index[1] = left + 1;
    t.fixed[0] = (int16_t)(256 - second);
    t.fixed[1] = (int16_t)second;
}

/* The interpolation of R. Keys with a = -0.75. */
static void cubic_taps(taps t, int left, float x)
{
    const float a = -0.75f;
    float y = 1 - x;
    for (int k = 0; k < 4; k++)
        t.index[k] = left - 1 + k;
    t.real[0] = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a;
    t.real[1] = ((a + 2) * x - (a + 3)) * x * x + 1;
    t.real[2] = ((a + 2) * y - (a + 3)) * y * y + 1;
    t.real[3] = 1.0f - t.real[0] - t.real[1] - t.real[2];
}

/* INTER_AREA: the shares of the source pixels in [i * scale, (i + 1) * scale).
 * Returns the number of taps. A NULL index only counts them. */
static int shared_taps(taps t, double scale, int i, int in_size)
{
    double begin = i * scale, end = begin + scale;
    double cell = fmin(scale, in_size - begin);
    int last = zf_min((int)floor(end), in_size - 1);
    int first = zf_min((int)ceil(begin), last), n = 0;
    bool has_left = first - begin > 1e-3, has_right = end - last > 1e-3;
    for (int k = first - has_left; k < last + has_right; k++, n++) {
        if (!t.index)
            continue;
        double share = k < first ? first - begin : k < last ? 1.0 : fmin(fmin(end - last, 1.0), cell);
        t.index[n] = k;
        t.real[n] = (float)(share / cell);
    }
    return n;
}

/* ---- the table --------------------------------------------------------------- */

static int number_of_taps(const zf_cv_line *line, double scale, int from, int n, int in_size)
{
    int most = 1;
    switch (line->method) {
    case ZF_CV_COPY:
        return 1;
    case ZF_CV_CUBE:
        return 4;
    case ZF_CV_BLOCK:
        return (int)rint(scale);
    case ZF_CV_SHARE:
        for (int i = 0; i < n; i++)
            most = zf_max(most, shared_taps((taps){0}, scale, from + i, in_size));
        return most;
    default:
        return 2;
    }
}

static bool reserve(zf_cv_line *line, size_t count)
{
    size_t need = count * (sizeof(int) + sizeof(float) + sizeof(int16_t));
    if (need > line->capacity) {
        free(line->index);
        line->index = malloc(need);
        line->capacity = line->index ? need : 0;
        if (!line->index)
            return false;
    }
    line->real = (float *)(line->index + count);
    line->fixed = (int16_t *)(line->real + count);
    return true;
}

/* Fills the taps of output pixel i; returns their number. */
static int fill(const zf_cv_line *line, taps t, double scale, int i, int in_size, int out_size)
{
    int left;
    float part;
    switch (line->method) {
    case ZF_CV_COPY:
        t.index[0] = (int)floor(i * scale);
        return 1;
    case ZF_CV_EXACT:
        exact_taps(t, scale, i, in_size);
        return 2;
    case ZF_CV_SHARE:
        return shared_taps(t, scale, i, in_size);
    case ZF_CV_BLOCK:
    case ZF_CV_HALF:
        for (int k = 0; k < line->taps; k++) {
            t.index[k] = i * line->taps + k;
            t.real[k] = 1;
        }
        return line->taps;
    default:
        break;
    }
    if (line->filter == ZF_CV_AREA)
        position_of_area(in_size, out_size, i, &left, &part);
    else
        position(scale, i, &left, &part);
    if (line->method == ZF_CV_CUBE)
        cubic_taps(t, left, part);
    else
        linear_taps(t, left, part, in_size, line->is_vertical);
    for (int k = 0; k < line->taps; k++)
        t.fixed[k] = in_fixed_point(t.real[k]);
    return line->taps;
}

zf_status zf_cv_line_make(zf_cv_line *line, const zf_kernels *kernels, zf_cv_method method,
                          zf_filter filter, bool is_vertical, int in_size, int out_size,
                          int from, int n, double scale)
{
    if (scale == 0)
        scale = scale_of(in_size, out_size);
    if (line->n == n && line->in_size == in_size && line->out_size == out_size &&
        line->from == from && line->filter == filter && line->method == method &&
        line->scale == scale)
        return ZF_OK;

    line->n = 0; /* until the table is complete */
    line->method = method;
    line->filter = filter;
    line->is_vertical = is_vertical;
    line->taps = number_of_taps(line, scale, from, n, in_size);
    if (!reserve(line, (size_t)n * (size_t)line->taps))
        return ZF_NOMEM;
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * (size_t)line->taps;
        taps t = {line->index + at, line->real + at, line->fixed + at};
        int used = fill(line, t, scale, from + i, in_size, out_size);
        for (int k = 0; k < line->taps; k++) {
            if (k >= used) { /* adds 0 */
                t.index[k] = t.index[zf_max(used - 1, 0)];
                t.real[k] = 0;
            }
            t.index[k] = clamp(t.index[k], in_size);
        }
    }
    size_t count = (size_t)n * (size_t)line->taps;
    line->first = line->index[0]; /* the indexes never fall */
    line->last = line->index[count - 1] + 1;
    for (size_t k = 0; k < count; k++)
        line->index[k] -= line->first;
    line->n = n;
    line->has_plan = false;
    if (!is_vertical && !kernels->opencv->plan(line)) {
        line->n = 0;
        return ZF_NOMEM;
    }
    line->in_size = in_size;
    line->out_size = out_size;
    line->from = from;
    line->scale = scale;
    return ZF_OK;
}

void zf_cv_line_free(zf_cv_line *line)
{
    free(line->index);
    free(line->plan);
    memset(line, 0, sizeof *line);
}
