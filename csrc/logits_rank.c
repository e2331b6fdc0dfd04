/* The best classes of a row, and how sure the best one is. */
#include "logits_internal.h"

#include <math.h>

/* Whether a ranks before b, if b is earlier in the row. */
static bool ranks_before(float a, float b)
{
    return a > b || (b != b && a == a);
}

/* Inserts class i into the ranked classes[0, n). Drops the last if n is k, else
 * the list grows. Returns its new length. */
static size_t insert(const float *row, int32_t i, int32_t *classes, size_t n, size_t k)
{
    size_t rank = n < k ? n++ : k - 1;

    for (; rank > 0 && ranks_before(row[i], row[classes[rank - 1]]); rank--)
        classes[rank] = classes[rank - 1];
    classes[rank] = i;
    return n;
}

void zf_logits_topk(const float *row, size_t n, size_t k, int32_t *classes, float *values)
{
    size_t ranked = 0, i = 0;

    while (ranked < k)
        ranked = insert(row, (int32_t)i++, classes, ranked, k);
    for (float worst = row[classes[k - 1]]; i < n; i++) {
        if (row[i] <= worst) /* false if one of them is NaN */
            continue;
        if (ranks_before(row[i], worst)) {
            insert(row, (int32_t)i, classes, ranked, k);
            worst = row[classes[k - 1]];
        }
    }
    if (values != NULL)
        for (i = 0; i < k; i++)
            values[i] = row[classes[i]];
}

/* e^x for x <= 0 with a relative error of about 2e-7; 2^-126 for NaN. e^x is 2^t;
 * the integer part of t goes to the exponent, and the Taylor series of 2^f gives
 * the rest, |f| <= 1/2. There is no branch, so compilers can make SIMD of it. Unlike
 * libm's exp, it gives the same bits everywhere. */
static inline float exp_nonpositive(float x)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float t = x * 1.44269504f;
    float integer, f, power;
    int32_t bits;

    t = t > -126.0f ? t : -126.0f; /* also if t is NaN */
    integer = (t + round) - round;
    f = t - integer;
    power = 1.0f +
            f * (0.693147181f +
                 f * (0.240226507f +
                      f * (0.0555041087f +
                           f * (0.00961812911f + f * (0.00133335581f + f * 0.000154035304f)))));
    bits = ((int32_t)integer + 127) * (1 << 23);
    memcpy(&f, &bits, sizeof f);
    return power * f;
}

/* Adds n <= ZF_LANES values to the first n lanes. */
static inline void extend_lanes(zf_extent *e, const float *v, size_t n)
{
    for (size_t lane = 0; lane < n; lane++) {
        e->max[lane] = v[lane] > e->max[lane] ? v[lane] : e->max[lane];
        e->min[lane] = v[lane] < e->min[lane] ? v[lane] : e->min[lane];
        e->sum[lane] += v[lane];
    }
}

static inline void add_exps_lanes(float *sums, const float *v, size_t n, float max)
{
    for (size_t lane = 0; lane < n; lane++)
        sums[lane] += exp_nonpositive(v[lane] - max);
}

void zf_extend_scalar(zf_extent *e, const float *v, size_t n)
{
    zf_extent own = *e; /* cannot overlap v, so that compilers make SIMD of the loop */

    for (size_t i = 0; i < n; i += ZF_LANES)
        extend_lanes(&own, v + i, ZF_LANES);
    *e = own;
}

void zf_add_exps_scalar(float sums[ZF_LANES], const float *v, size_t n, float max)
{
    float own[ZF_LANES]; /* as above */

    memcpy(own, sums, sizeof own);
    for (size_t i = 0; i < n; i += ZF_LANES)
        add_exps_lanes(own, v + i, ZF_LANES, max);
    memcpy(sums, own, sizeof own);
}

float zf_logits_confidence(zf_level level, const float *row, size_t n, float *sum, float *min)
{
    const zf_logits_kernels *kernels = zf_logits_kernels_of[level];
    size_t full = n - n % ZF_LANES; /* values that fill all lanes */
    float exps[ZF_LANES] = {0};
    zf_extent e;

    for (size_t lane = 0; lane < ZF_LANES; lane++) {
        e.max[lane] = -INFINITY;
        e.min[lane] = INFINITY;
        e.sum[lane] = 0.0f;
    }
    kernels->extend(&e, row, full);
    extend_lanes(&e, row + full, n - full);
    for (size_t lane = 1; lane < ZF_LANES; lane++) {
        e.max[0] = e.max[lane] > e.max[0] ? e.max[lane] : e.max[0];
        e.min[0] = e.min[lane] < e.min[0] ? e.min[lane] : e.min[0];
        e.sum[0] += e.sum[lane];
    }
    kernels->add_exps(exps, row, full, e.max[0]);
    add_exps_lanes(exps, row + full, n - full, e.max[0]);
    for (size_t lane = 1; lane < ZF_LANES; lane++)
        exps[0] += exps[lane];
    *sum = e.sum[0];
    *min = e.min[0];
    return isfinite(e.max[0]) ? 1.0f / exps[0] : NAN;
}
