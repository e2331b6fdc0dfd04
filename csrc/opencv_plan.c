/* The table from which the SIMD kernels of OpenCV's horizontal pass load taps and
 * weights: see zf_cv_group. */
#include "zf_opencv.h"

#include <stdlib.h>
#include <string.h>

static const int *taps_of(const zf_cv_line *t, int output)
{
    return t->index + (size_t)output * (size_t)t->taps;
}

static int groups_of(const zf_cv_line *t) { return (t->taps + 3) / 4; }

/* Whether each four taps of each four outputs fit one load. */
static bool fits(const zf_cv_line *t)
{
    if (t->method == ZF_CV_COPY)
        return false;
    for (int i = 0; i < t->n; i += 4)
        for (int k = 0; k < t->taps; k += 4) {
            int last = taps_of(t, zf_min(i + 3, t->n - 1))[zf_min(k + 3, t->taps - 1)];
            if (last - taps_of(t, i)[k] >= 16)
                return false;
        }
    return true;
}

static bool is_real(const zf_cv_line *t)
{
    return t->method != ZF_CV_FIXED && t->method != ZF_CV_EXACT && t->method != ZF_CV_CUBE;
}

static void plan_integers(zf_cv_line *t)
{
    for (int i = 0; i < t->n; i++) {
        zf_cv_group *g = (zf_cv_group *)t->plan + i / 8;
        int half = i % 8 / 4, lane = i % 4;
        if (lane == 0)
            g->base[half] = taps_of(t, i)[0];
        for (int k = 0; k < t->taps; k++) {
            int at = lane * t->taps + k;
            g->index[half][at] = (uint8_t)(taps_of(t, i)[k] - g->base[half]);
            g->weight[half][at] = t->fixed[(size_t)i * (size_t)t->taps + (size_t)k];
        }
    }
}

static void plan_reals(zf_cv_line *t)
{
    for (int i = 0; i < t->n; i++)
        for (int k = 0; k < t->taps; k++) {
            zf_cv_real_group *g = (zf_cv_real_group *)t->plan + i / 8 * groups_of(t) + k / 4;
            int half = i % 8 / 4, lane = i % 4;
            if (lane == 0 && k % 4 == 0)
                g->base[half] = taps_of(t, i)[k];
            g->index[half][4 * (k % 4) + lane] = (uint8_t)(taps_of(t, i)[k] - g->base[half]);
            g->weight[k % 4][i % 8] = t->real[(size_t)i * (size_t)t->taps + (size_t)k];
        }
}

ZF_DECL_CV_PLAN(zf_cv_plan_groups)
{
    line->has_plan = fits(line);
    if (!line->has_plan)
        return true;
    size_t eights = (size_t)((line->n + 7) / 8);
    size_t need = is_real(line) ? eights * (size_t)groups_of(line) * sizeof(zf_cv_real_group)
                                : eights * sizeof(zf_cv_group);
    if (need > line->plan_capacity) {
        free(line->plan);
        line->plan = malloc(need);
        line->plan_capacity = line->plan ? need : 0;
        if (!line->plan)
            return false;
    }
    memset(line->plan, 0, need);
    if (is_real(line))
        plan_reals(line);
    else
        plan_integers(line);
    return true;
}
