/* Runs everything that uses threads, for ThreadSanitizer:
 *
 *   threads pool FOLDER JPEG...   pools that compute and write, closed at various moments
 *   threads read FOLDER NAME...   several threads that read result files
 */
#include "logits.h"
#include "zoofast.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIDE = 40, BATCHES = 3, JOBS = 24, ROUNDS = 8, CLASSES = 50, TOP = 6 };

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "threads: %s\n", what);
        exit(1);
    }
}

typedef struct {
    zf_batch batch;
    zf_job jobs[JOBS];
    float *tensors;
    uint8_t *pixels;
    char paths[JOBS][2][4096];
} batch_of_files;

/* store: a file for the pixels of all jobs. */
static void fill(batch_of_files *b, const zf_recipe *recipe, int number, const char *folder,
                 char **files, int nfiles, int store)
{
    size_t nbytes = zf_recipe_nbytes(recipe), stride = (nbytes + 4095) / 4096 * 4096;
    memset(b->jobs, 0, sizeof b->jobs);
    b->tensors = aligned_alloc(4096, stride * JOBS);
    b->pixels = malloc(zf_pixels_nbytes(recipe) * JOBS);
    check(b->tensors != NULL && b->pixels != NULL, "no memory");
    for (int i = 0; i < JOBS; i++) {
        char *tensor = (char *)b->tensors + stride * (size_t)i;
        snprintf(b->paths[i][0], sizeof b->paths[i][0], "%s/%d_%d.bin", folder, number, i);
        snprintf(b->paths[i][1], sizeof b->paths[i][1], "%s/%d_%d.part", folder, number, i);
        b->jobs[i] = (zf_job){.path = files[(number * JOBS + i) % nfiles],
                              .fd = -1,
                              .out = tensor,
                              .file_path = b->paths[i][0],
                              .file_tmp = b->paths[i][1],
                              .file_data = tensor,
                              .file_nbytes = nbytes,
                              .stores_pixels = i % 3 != 0,
                              .stored = {.fd = store,
                                         .offset = (uint64_t)(number * JOBS + i) * 8192}};
    }
    b->batch = (zf_batch){
        .recipe = recipe, .jobs = b->jobs, .njobs = JOBS, .pixels = b->pixels};
}

static void run_pool(const char *folder, char **files, int nfiles)
{
    static float table[3 * 256];
    static batch_of_files batches[BATCHES];
    zf_recipe recipe = {.resize = ZF_RESIZE_SHORT,
                        .resize_h = SIDE + 4,
                        .resize_w = SIDE + 4,
                        .filter = ZF_BILINEAR,
                        .crop_h = SIDE,
                        .crop_w = SIDE,
                        .crop_rounding = ZF_CROP_HALF_EVEN,
                        .out_h = SIDE,
                        .out_w = SIDE,
                        .layout = ZF_NCHW,
                        .channel_index = {0, 1, 2},
                        .elem_size = 4,
                        .table = table};
    char path[4096];
    snprintf(path, sizeof path, "%s/pixels", folder);
    int store = open(path, O_RDWR | O_CREAT, 0600);
    check(store >= 0, "no file for pixels");
    for (int round = 0; round < ROUNDS; round++) {
        int done = 0;
        zf_pool *pool = zf_pool_open(1 + round % 3, 1 + round % 2, zf_level_best());
        check(pool != NULL, "no pool");
        for (int i = 0; i < BATCHES; i++) {
            fill(&batches[i], &recipe, i, folder, files, nfiles, store);
            zf_pool_submit(pool, &batches[i].batch);
        }
        if (round % 2)
            usleep((useconds_t)round * 3000); /* then it is closed with jobs left */
        for (int i = 0; i < BATCHES && round % 2 == 0; i++)
            while (!zf_pool_wait(pool, &batches[i].batch, 100))
                ;
        zf_pool_close(pool);
        for (int i = 0; i < BATCHES; i++) {
            for (int k = 0; k < JOBS; k++) {
                zf_status status = batches[i].jobs[k].result.status;
                check(status == ZF_OK || status == ZF_CANCELLED, "a job failed");
                check(batches[i].jobs[k].store_errno == 0, "pixels were not written");
                done += status == ZF_OK;
            }
            free(batches[i].tensors);
            free(batches[i].pixels);
        }
        check(round % 2 || done == BATCHES * JOBS, "a job was dropped");
    }
    close(store);
}

static void run_reading(const char *folder, char **names, int n)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY);
    uint8_t *kinds = malloc((size_t)n);
    zf_logits_result *results = calloc((size_t)n, sizeof *results);
    int32_t *classes = malloc((size_t)n * TOP * sizeof *classes);
    float *values = malloc((size_t)n * TOP * sizeof *values);
    check(fd >= 0 && kinds && results && classes && values, "cannot begin");
    memset(kinds, ZF_LOGITS_TXT, (size_t)n);
    for (int round = 0; round < ROUNDS; round++) {
        memset(results, 0, (size_t)n * sizeof *results);
        zf_logits_files files = {.level = zf_level_best(),
                                 .dir_fd = fd,
                                 .names = (const char *const *)names,
                                 .kinds = kinds,
                                 .nfiles = (size_t)n,
                                 .bin_element = {'f', 4},
                                 .k = TOP,
                                 .want_confidence = 1,
                                 .results = results,
                                 .classes = classes,
                                 .values = values};
        zf_logits_reading *reading = zf_logits_begin(&files, round % 4);
        size_t enough = round % 2 ? (size_t)n / 3 : (size_t)n; /* a third: then it ends with files left */
        check(reading != NULL, "no reading");
        while (zf_logits_rank_files(reading, 7) < enough)
            ;
        zf_logits_end(reading);
        for (int i = 0; i < n && round % 2 == 0; i++)
            check(results[i].status == ZF_LOGITS_OK && results[i].count == CLASSES,
                  "a file was not read");
    }
    free(kinds);
    free(results);
    free(classes);
    free(values);
    close(fd);
}

int main(int argc, char **argv)
{
    check(argc > 3, "usage: threads pool|read FOLDER FILE...");
    if (strcmp(argv[1], "pool") == 0)
        run_pool(argv[2], argv + 3, argc - 3);
    else
        run_reading(argv[2], argv + 3, argc - 3);
    return 0;
}
