/*
 * Compares the kernels of every CPU level that runs here with the scalar
 * kernels, byte for byte, on random tables and pixels. Inputs end ZF_PAD bytes
 * before an unreadable page; outputs end where their padding ends. Built and run
 * by tests/core/test_native.py, also for aarch64 under qemu-user.
 *
 * usage: kernels [ROUNDS]
 */
#include "zf_opencv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t state = 1;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

/* nbytes of random values, followed by an unreadable page. */
static uint8_t *guarded(size_t nbytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (nbytes + page - 1) / page * page;
    uint8_t *base = mmap(NULL, whole + page, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + whole, page, PROT_NONE) != 0)
        abort();
    uint8_t *start = base + whole - nbytes;
    for (size_t i = 0; i < nbytes; i++)
        start[i] = (uint8_t)draw(256);
    return start;
}

static void release(uint8_t *start, size_t nbytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (nbytes + page - 1) / page * page;
    munmap(start + nbytes - whole, whole + page);
}

static int failures;
static const char *isa; /* the name of the level under test */

static void compare(const char *what, const void *made, const void *expected,
                    size_t n)
{
    if (memcmp(made, expected, n) != 0) {
        fprintf(stderr, "%s: %s differs from scalar\n", isa, what);
        failures++;
    }
}

static void check_resample(const zf_kernels *kernels)
{
    int in = 1 + (int)draw(draw(4) ? 700 : 6000), out = 1 + (int)draw(600);
    int n = 1 + (int)draw((uint32_t)out), from = (int)draw((uint32_t)(out - n + 1));
    zf_filter filter = (zf_filter)draw(6);
    zf_taps taps = {0};
    if (zf_taps_make(&taps, kernels, in, out, from, n, filter) != ZF_OK)
        abort();
    if (taps.first < 0 || taps.last > in || taps.first >= taps.last) {
        fprintf(stderr, "%s: taps leave the image\n", isa);
        failures++;
    }

    size_t width = (size_t)(taps.last - taps.first), padded = width + ZF_PAD;
    uint8_t *src = guarded(padded), *dst = guarded((size_t)n + ZF_PAD);
    uint8_t *expected = malloc((size_t)n + ZF_PAD);
    kernels->resample_h(dst, src, &taps);
    zf_resample_h_scalar(expected, src, &taps);
    compare("resample_h", dst, expected, (size_t)n);

    int rows = taps.ksize;
    size_t pixels = 1 + draw(300), stride = pixels + ZF_PAD;
    uint8_t *block = guarded((size_t)rows * stride);
    uint8_t *made = guarded(pixels + ZF_PAD), *wanted = malloc(pixels + ZF_PAD);
    const int32_t *k = taps.k + (size_t)draw((uint32_t)n) * (size_t)taps.ksize;
    const uint8_t **row = malloc((size_t)rows * sizeof *row);
    for (int y = 0; y < rows; y++)
        row[y] = block + (size_t)y * stride;
    kernels->resample_v(made, row, k, rows, taps.needs_32bit, pixels);
    zf_resample_v_scalar(wanted, row, k, rows, taps.needs_32bit, pixels);
    free(row);
    compare("resample_v", made, wanted, pixels);

    release(src, padded);
    release(dst, (size_t)n + ZF_PAD);
    release(block, (size_t)rows * stride);
    release(made, pixels + ZF_PAD);
    free(expected);
    free(wanted);
    zf_taps_free(&taps);
}

static void check_pixels(const zf_kernels *kernels)
{
    size_t n = 1 + draw(400), padded = n + ZF_PAD;
    uint8_t *rgb = guarded(3 * n + 3 * 64), *planes[3], *expected[3];
    for (int c = 0; c < 3; c++) {
        planes[c] = guarded(padded);
        expected[c] = malloc(padded);
    }
    kernels->deinterleave(planes, rgb, n);
    zf_deinterleave_scalar(expected, rgb, n);
    for (int c = 0; c < 3; c++)
        compare("deinterleave", planes[c], expected[c], n);

    uint8_t *out = guarded(3 * n);
    kernels->interleave(out, (const uint8_t *const *)planes, n);
    compare("interleave", out, rgb, 3 * n);

    uint32_t table[256];
    for (int i = 0; i < 256; i++)
        table[i] = draw(1u << 31) * 2 + draw(2);
    uint32_t *values = (uint32_t *)(void *)guarded(4 * n), *wanted = malloc(4 * n);
    kernels->lookup32(values, planes[0], table, n);
    zf_lookup32_scalar(wanted, planes[0], table, n);
    compare("lookup32", values, wanted, 4 * n);

    release(rgb, 3 * n + 3 * 64);
    release(out, 3 * n);
    release((uint8_t *)values, 4 * n);
    for (int c = 0; c < 3; c++) {
        release(planes[c], padded);
        free(expected[c]);
    }
    free(wanted);
}

/* Fills rows of floats so that large products cancel: another order of the sums, or
 * another rounding of a product, then gives other bytes. */
static void fill_cancelling(float *const *rows, const zf_cv_line *line, int output, int n)
{
    for (int i = 0; i < n; i++) {
        double sum = 0, first_weight = 1;
        for (int r = line->taps - 1; r >= 0; r--) {
            size_t at = (size_t)output * (size_t)line->taps + (size_t)r;
            double weight = line->method == ZF_CV_CUBE ? line->fixed[at] * ZF_CV_CUBE_UNIT
                                                       : line->real[at];
            rows[r][i] = (float)draw(1 << 24);
            if (r > 0)
                sum += rows[r][i] * weight;
            first_weight = weight;
        }
        if (first_weight != 0)
            rows[0][i] = (float)((draw(512) / 2.0 - sum) / first_weight);
    }
}

/* The passes of an OpenCV resize that a level has kernels for. */
static void check_opencv(const zf_kernels *kernels)
{
    const zf_cv_kernels *k = kernels->opencv, *scalar = &zf_cv_kernels_scalar;
    const struct {
        zf_filter filter;
        zf_cv_method method;
        size_t elem; /* bytes of a number between the passes */
        ZF_DECL_CV_ACROSS((*across));
        ZF_DECL_CV_ACROSS((*scalar_across));
        ZF_DECL_CV_DOWN((*down)); /* NULL: every level has the same */
        ZF_DECL_CV_DOWN((*scalar_down));
    } cases[] = {
        {ZF_CV_LINEAR, ZF_CV_FIXED, 2, k->across_fixed, scalar->across_fixed, k->down_fixed,
         scalar->down_fixed},
        {ZF_CV_LINEAR_EXACT, ZF_CV_EXACT, 2, k->across_exact, scalar->across_exact,
         k->down_exact, scalar->down_exact},
        {ZF_CV_CUBIC, ZF_CV_CUBE, 4, k->across_cube, scalar->across_cube, k->down_cube,
         scalar->down_cube},
        {ZF_CV_AREA, ZF_CV_SHARE, 4, k->across_real, scalar->across_real, k->down_share,
         scalar->down_share},
        {ZF_CV_LINEAR_FLOAT32, ZF_CV_REAL, 4, k->across_real, scalar->across_real, NULL, NULL},
    };
    int chosen = (int)draw(sizeof cases / sizeof *cases);
    zf_cv_method method = cases[chosen].method;
    size_t elem = cases[chosen].elem;
    int out = 1 + (int)draw(300), in = 1 + (int)draw(draw(4) ? 900 : 4000);
    if (method == ZF_CV_SHARE)
        in += out; /* the mean of fractions is for sides that shrink */
    int n = 1 + (int)draw((uint32_t)out), from = (int)draw((uint32_t)(out - n + 1));
    zf_cv_line line = {0};
    if (zf_cv_line_make(&line, kernels, method, cases[chosen].filter, false, in, out, from, n,
                        0) != ZF_OK)
        abort();
    line.divisor = draw(2) ? 1 : 255;

    size_t padded = (size_t)(line.last - line.first) + ZF_PAD;
    size_t stride = (size_t)n * elem + ZF_PAD;
    uint8_t *src = guarded(padded), *made = guarded(stride), *wanted = malloc(stride);
    cases[chosen].across(made, src, &line);
    cases[chosen].scalar_across(wanted, src, &line);
    compare("across", made, wanted, (size_t)n * elem);

    if (cases[chosen].down) { /* of rows as this pass makes them */
        uint8_t **rows = calloc((size_t)line.taps, sizeof *rows);
        for (int r = 0; r < line.taps; r++) {
            for (size_t i = 0; i < padded; i++)
                src[i] = (uint8_t)draw(256);
            rows[r] = guarded(stride);
            cases[chosen].scalar_across(rows[r], src, &line);
        }
        int output = (int)draw((uint32_t)n);
        if (elem == sizeof(float) && draw(2))
            fill_cancelling((float *const *)(void *)rows, &line, output, n);
        uint8_t *pixels = guarded((size_t)n + ZF_PAD), *expected = malloc((size_t)n);
        cases[chosen].down(pixels, (const void *const *)rows, &line, output, (size_t)n);
        cases[chosen].scalar_down(expected, (const void *const *)rows, &line, output, (size_t)n);
        compare("down", pixels, expected, (size_t)n);
        for (int r = 0; r < line.taps; r++)
            release(rows[r], stride);
        release(pixels, (size_t)n + ZF_PAD);
        free(expected);
        free(rows);
    }
    release(src, padded);
    release(made, stride);
    free(wanted);
    zf_cv_line_free(&line);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 2000, levels = 0;
    for (zf_level level = 0; level < ZF_LEVEL_COUNT; level++) {
        isa = zf_level_name(level);
        if (!zf_level_runs_here(level)) {
            printf("%s: not on this CPU\n", isa);
            continue;
        }
        levels++;
        for (int i = 0; i < rounds; i++) {
            check_resample(zf_kernels_of[level]);
            check_pixels(zf_kernels_of[level]);
            check_opencv(zf_kernels_of[level]);
        }
        printf("%s: %d rounds\n", isa, rounds);
    }
    return failures || levels == 0;
}
