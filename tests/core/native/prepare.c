/*
 * Prepares JPEG files with a pool of threads, and writes their tensors to standard
 * output, one after the other: a short side, bilinear, a centre crop, ImageNet's
 * normalization, float32 NCHW. tests/core/test_native.py compares them with
 * Pillow's, also for aarch64 under qemu-user; benchmarks/aarch64.py counts its
 * instructions.
 *
 * usage: prepare LEVEL PASS_ORDER THREADS SHORT_SIDE CROP FILE...
 *        PASS_ORDER: 0, 1 or 2, a zf_pass_order
 */
#include "levels.h"
#include "zoofast.h"

#include <stdio.h>
#include <stdlib.h>

#define OPTIONS 6 /* arguments before the files */

static void fill(float table[3][256])
{
    static const float mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 256; i++) {
            float x = (float)i / 255.0f;
            x = x - mean[c];
            table[c][i] = x / std[c];
        }
}

int main(int argc, char **argv)
{
    static float table[3][256];
    if (argc <= OPTIONS)
        return 2;
    zf_level level = zf_level_named(argv[1]);
    if (level == ZF_LEVEL_COUNT || !zf_level_runs_here(level))
        return 2;
    int shorter = atoi(argv[4]), crop = atoi(argv[5]);
    fill(table);
    zf_recipe recipe = {
        .resize = ZF_RESIZE_SHORT,
        .resize_w = shorter,
        .resize_h = shorter,
        .filter = ZF_BILINEAR,
        .pass_order = (zf_pass_order)atoi(argv[2]),
        .crop_w = crop,
        .crop_h = crop,
        .crop_rounding = ZF_CROP_HALF_EVEN,
        .out_w = crop,
        .out_h = crop,
        .layout = ZF_NCHW,
        .channel_index = {0, 1, 2},
        .elem_size = sizeof(float),
        .table = table,
    };
    size_t n = (size_t)argc - OPTIONS, nbytes = zf_recipe_nbytes(&recipe);
    zf_job *jobs = calloc(n, sizeof *jobs);
    char *out = malloc(n * nbytes);
    zf_pool *pool = zf_pool_open(atoi(argv[3]), 0, level);
    if (!jobs || !out || !pool)
        return 1;
    for (size_t i = 0; i < n; i++) {
        jobs[i].path = argv[OPTIONS + (int)i];
        jobs[i].out = out + i * nbytes;
    }
    zf_batch batch = {.recipe = &recipe, .jobs = jobs, .njobs = n};
    zf_pool_submit(pool, &batch);
    while (!zf_pool_wait(pool, &batch, 1000))
        ;
    zf_pool_close(pool);

    int failed = 0;
    for (size_t i = 0; i < n; i++)
        if (jobs[i].result.status != ZF_OK) {
            fprintf(stderr, "%s: status %d\n", argv[OPTIONS + (int)i], (int)jobs[i].result.status);
            failed = 1;
        }
    fwrite(out, nbytes, n, stdout);
    free(jobs);
    free(out);
    return failed;
}
