/*
 * Pillow's resampling tables (libImaging/Resample.c), for the output pixels
 * inside the crop.
 *
 * For output pixel i of a line resized from in_size to out_size:
 *
 *     scale   = in_size / out_size
 *     fscale  = max(scale, 1)                  (antialias when shrinking)
 *     support = filter's support * fscale
 *     centre  = (i + 0.5) * scale
 *     taps    = [int(centre - support + 0.5), int(centre + support + 0.5))
 *     weight  = filter((x - centre + 0.5) / fscale), divided by their sum
 *     k       = weight in 22-bit fixed point, rounded half away from zero
 *
 * The arithmetic is double, in Pillow's own order of operations. The build uses
 * -ffp-contract=off, because a fused multiply-add would change the last bit.
 */
#include "zf_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PRECISION_BITS 22
/* Coefficients below this limit fit three signed base-256 digits, as the SIMD
 * kernels need. All of Pillow's filters stay below 1.5 * 2^22, which fits. */
#define DIGITS_LIMIT (127 * 65536)

static double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

static double bilinear(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double hamming(double x)
{
    x = fabs(x);
    if (x == 0.0)
        return 1.0;
    if (x >= 1.0)
        return 0.0;
    x = x * M_PI;
    return sin(x) / x * (0.54f + 0.46f * cos(x)); /* float constants, as in Pillow */
}

static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static double sinc(double x)
{
    if (x == 0.0)
        return 1.0;
    x = x * M_PI;
    return sin(x) / x;
}

static double lanczos(double x)
{
    return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
}

static const struct {
    double (*weight)(double x);
    double support;
} filters[] = {
    [ZF_LANCZOS] = {lanczos, 3.0}, [ZF_BILINEAR] = {bilinear, 1.0},
    [ZF_BICUBIC] = {bicubic, 2.0}, [ZF_BOX] = {box, 0.5},
    [ZF_HAMMING] = {hamming, 1.0},
};

/* Makes room for n outputs of ksize taps; false when out of memory. */
static bool reserve(zf_taps *t, int n, int ksize)
{
    size_t need = (size_t)n * (size_t)(ksize + 1) * sizeof(int32_t);
    if (need > t->capacity) {
        free(t->start);
        t->start = malloc(need);
        t->capacity = t->start ? need : 0;
        if (!t->start)
            return false;
    }
    t->k = t->start + n;
    t->n = n;
    t->ksize = ksize;
    return true;
}

/* A table with one tap of weight 1 for each output: the identity, or NEAREST.
 * Like Pillow, this adds up NEAREST's positions in double instead of
 * multiplying. */
static zf_status make_single(zf_taps *t, int in_size, int out_size, int from, int n)
{
    double step = (double)in_size / out_size, position = step * 0.5;
    bool identity = in_size == out_size;

    if (!reserve(t, n, 1))
        return ZF_NOMEM;
    for (int i = 0; i < from + n; i++, position += step)
        if (i >= from)
            t->start[i - from] = identity ? i : zf_min((int)position, in_size - 1);
    for (int i = 0; i < n; i++)
        t->k[i] = 1 << PRECISION_BITS;
    t->identity = identity;
    return ZF_OK;
}

/* Keeps the first `used` of `columns` coefficients of each output, after the
 * others turned out to be 0 everywhere: bilinear tables of photos use 3 or 4 of
 * 5. At the far edge the run of taps moves inward, so that every tap lies inside
 * the image. */
static void drop_columns(zf_taps *t, int columns, int used, int in_size)
{
    for (int i = 0; i < t->n; i++) {
        const int32_t *from = t->k + (size_t)i * (size_t)columns;
        int32_t *k = t->k + (size_t)i * (size_t)used;
        int inward = zf_max(t->start[i] + used - in_size, 0);
        for (int x = 0; x < used; x++) /* a call of memmove takes longer */
            k[x] = from[x];
        if (inward == 0)
            continue;
        memmove(k + inward, k, (size_t)(used - inward) * sizeof *k);
        memset(k, 0, (size_t)inward * sizeof *k);
        t->start[i] -= inward;
    }
    t->ksize = used;
}

static zf_status make_filtered(zf_taps *t, int in_size, int out_size, int from, int n,
                               zf_filter filter)
{
    double scale = (double)(float)in_size / out_size;
    double fscale = scale < 1.0 ? 1.0 : scale, inverse = 1.0 / fscale;
    double support = filters[filter].support * fscale;
    int widest = (int)ceil(support) * 2 + 1, used = 1;
    double *weights = malloc((size_t)widest * sizeof *weights);

    if (!weights || !reserve(t, n, widest)) {
        free(weights);
        return ZF_NOMEM;
    }
    for (int i = 0; i < n; i++) {
        double centre = (from + i + 0.5) * scale, sum = 0.0;
        int lo = zf_max((int)(centre - support + 0.5), 0);
        int count = zf_min((int)(centre + support + 0.5), in_size) - lo;
        int32_t *k = t->k + (size_t)i * (size_t)widest;

        for (int x = 0; x < count; x++) {
            weights[x] = filters[filter].weight((x + lo - centre + 0.5) * inverse);
            sum += weights[x];
        }
        for (int x = 0; x < widest; x++) {
            double w = x < count ? (sum != 0.0 ? weights[x] / sum : weights[x]) : 0.0;
            k[x] = (int)((w < 0 ? -0.5 : 0.5) + w * (1 << PRECISION_BITS));
            if (k[x] >= DIGITS_LIMIT || k[x] <= -DIGITS_LIMIT)
                t->needs_32bit = true;
            if (k[x] != 0)
                used = zf_max(used, x + 1);
        }
        t->start[i] = lo;
    }
    free(weights);
    drop_columns(t, widest, used, in_size);
    return ZF_OK;
}

zf_status zf_taps_make(zf_taps *t, const zf_kernels *kernels, int in_size, int out_size,
                       int from, int n, zf_filter filter)
{
    if (t->n == n && t->in_size == in_size && t->out_size == out_size && t->from == from &&
        t->filter == filter)
        return ZF_OK;

    t->needs_32bit = t->identity = false;
    zf_status status = in_size == out_size || filter == ZF_NEAREST
                           ? make_single(t, in_size, out_size, from, n)
                           : make_filtered(t, in_size, out_size, from, n, filter);
    t->n = 0; /* until the table is complete */
    if (status != ZF_OK)
        return status;

    /* start[] is sorted */
    t->first = t->start[0];
    t->last = t->start[n - 1] + t->ksize;
    for (int i = 0; i < n; i++)
        t->start[i] -= t->first;
    t->n = n;
    if (!kernels->plan_h(t)) {
        t->n = 0;
        return ZF_NOMEM;
    }
    t->in_size = in_size;
    t->out_size = out_size;
    t->from = from;
    t->filter = filter;
    return ZF_OK;
}

bool zf_plan_reserve(zf_taps *t, size_t nbytes)
{
    if (nbytes > t->plan_capacity) {
        nbytes = (nbytes + 63) & ~(size_t)63;
        free(t->plan);
        t->plan = aligned_alloc(64, nbytes);
        t->plan_capacity = t->plan ? nbytes : 0;
    }
    return t->plan != NULL;
}

void zf_taps_free(zf_taps *t)
{
    free(t->start);
    free(t->plan);
    memset(t, 0, sizeof *t);
}
