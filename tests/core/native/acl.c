/* Runs models on the emulation of ACL, for the sanitizers:
 *
 *   acl run LIBRARY DEVICES MODEL...    batches overlap on all devices at the same time, in a thread
 *                                       for each device and model; the outputs are checked
 *   acl fail LIBRARY DEVICES MODEL...   the same, where calls of ACL may fail (ACLEMU_FAIL)
 *   acl hang LIBRARY DEVICES MODEL      devices that hang (ACLEMU_FAULT) are abandoned
 */
#include "acl.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 4, BATCHES = 24, RING = 6, MAX_THREADS = 16 };

typedef struct {
    const char *file;
    int device;
    pthread_t thread;
    pthread_mutex_t lock; /* guards model, answered and ended */
    zf_acl_model *model;
    int answered;
    bool ended;
    zf_acl_error error; /* call and text are set if something failed */
    bool failed;
} worker;

static bool may_fail;
static void (*fake_logits)(const void *sample, size_t nbytes, float *out, size_t n);

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "acl: %s\n", what);
        exit(1);
    }
}

/* Sample k of batch b on a worker differs from all others. */
static void fill(unsigned char *to, size_t nbytes, int device, int batch, int k)
{
    for (size_t i = 0; i < nbytes; i++)
        to[i] = (unsigned char)(i * 7 + (size_t)(device * 131 + batch * 17 + k));
}

static void check_outputs(worker *at, int batch, int rows, size_t sample)
{
    size_t nbytes = 0;
    int64_t dims[16];
    const float *got = zf_acl_result(at->model, 0, &nbytes);
    int ndims = zf_acl_result_dims(at->model, 0, dims);
    check(ndims == 2 && dims[0] >= rows, "the output has another shape");
    size_t classes = (size_t)dims[1];
    check(nbytes >= (size_t)rows * classes * sizeof *got, "the output is short");
    unsigned char *data = malloc(sample);
    float *expected = malloc(classes * sizeof *expected);
    check(data && expected, "no memory");
    for (int k = 0; k < rows; k++) {
        fill(data, sample, at->device, batch, k);
        fake_logits(data, sample, expected, classes);
        check(!memcmp(got + (size_t)k * classes, expected, classes * sizeof *expected),
              "an output is wrong");
    }
    free(data);
    free(expected);
    float ms[3];
    zf_acl_result_times(at->model, ms);
    check(may_fail || (ms[0] >= 0 && ms[1] >= 0 && ms[2] >= 0), "a time is missing");
}

/* Queues and takes batches; returns at the first error. */
static int run_batches(worker *at)
{
    const zf_acl_tensor *input = zf_acl_input(at->model, 0);
    const int64_t *gears = NULL;
    int length = 0, count = zf_acl_gears(at->model, &gears, &length), rows[BATCHES];
    int largest = (int)input->dims[0];
    for (int i = 0; i < count; i++)
        largest = gears[i] > largest ? (int)gears[i] : largest;
    size_t sample = input->nbytes / (size_t)largest;
    unsigned char *pinned = zf_acl_host_alloc(at->model, RING * input->nbytes, &at->error);
    unsigned char *pageable = malloc(RING * input->nbytes);
    int failed = !pinned;
    check(pageable != NULL, "no memory");
    int begun = 0;
    while (!failed && at->answered < BATCHES) {
        while (begun < BATCHES && zf_acl_in_flight(at->model) < SLOTS && !failed) {
            const int64_t *gear = count ? &gears[begun % count] : NULL;
            rows[begun] = gear ? (int)*gear : largest;
            unsigned char *memory = begun % 3 ? pinned : pageable;
            memory += (size_t)(begun % RING) * input->nbytes;
            size_t nbytes = (size_t)rows[begun] * sample;
            for (int k = 0; k < rows[begun]; k++)
                fill(memory + (size_t)k * sample, sample, at->device, begun, k);
            const void *data = memory;
            failed = zf_acl_begin(at->model, &data, &nbytes, gear, length, 1 + begun % 2,
                                  &at->error);
            begun += !failed;
        }
        while (!failed && (failed = zf_acl_wait(at->model, &at->error)) == 1)
            failed = 0;
        if (!failed) {
            check_outputs(at, at->answered, rows[at->answered], sample);
            zf_acl_release(at->model);
            pthread_mutex_lock(&at->lock);
            at->answered++;
            pthread_mutex_unlock(&at->lock);
        }
    }
    /* What is in flight may still be read: the memory is given back after the model is closed. */
    zf_acl_error later;
    pthread_mutex_lock(&at->lock);
    zf_acl_model *model = at->model;
    at->model = NULL;
    pthread_mutex_unlock(&at->lock);
    int closed = zf_acl_close_model(model, 2, failed ? &later : &at->error);
    zf_acl_host_free(pinned);
    free(pageable);
    return failed ? failed : closed;
}

static void *work(void *argument)
{
    worker *at = argument;
    zf_acl_model *model = zf_acl_open_model(at->device, at->file, SLOTS, &at->error);
    pthread_mutex_lock(&at->lock);
    at->model = model;
    pthread_mutex_unlock(&at->lock);
    at->failed = !model || run_batches(at);
    pthread_mutex_lock(&at->lock);
    at->ended = true;
    pthread_mutex_unlock(&at->lock);
    return NULL;
}

/* Abandons models that answer nothing for a second, until all workers have ended. */
static void abandon(worker *workers, int count)
{
    int seen[MAX_THREADS], left = count;
    memset(seen, -1, sizeof seen);
    while (left > 0) {
        struct timespec pause = {.tv_sec = 1};
        nanosleep(&pause, NULL);
        left = 0;
        for (int i = 0; i < count; i++) {
            pthread_mutex_lock(&workers[i].lock);
            if (workers[i].model && workers[i].answered == seen[i])
                zf_acl_abandon(workers[i].model);
            seen[i] = workers[i].model ? workers[i].answered : -1;
            left += !workers[i].ended;
            pthread_mutex_unlock(&workers[i].lock);
        }
    }
}

int main(int argc, char **argv)
{
    check(argc > 4, "acl run|fail|hang LIBRARY DEVICES MODEL...");
    static worker workers[MAX_THREADS];
    zf_acl_error error;
    int devices = atoi(argv[3]), count = 0;
    bool hangs = !strcmp(argv[1], "hang");
    may_fail = strcmp(argv[1], "run") != 0;
    check(zf_acl_open_library("/nowhere/libascendcl.so", &error) != 0, "no library was opened");
    check(!zf_acl_open_library(argv[2], &error), error.text);
    *(void **)&fake_logits = dlsym(dlopen(argv[2], RTLD_NOW), "aclemu_fake_logits");
    check(fake_logits != NULL, "no aclemu_fake_logits");
    for (int device = 0; device < devices; device++) {
        for (char **file = argv + 4; *file && count < MAX_THREADS; file++) {
            workers[count].file = *file;
            workers[count].device = device;
            pthread_mutex_init(&workers[count].lock, NULL);
            count++;
        }
    }
    for (int i = 0; i < count; i++)
        check(!pthread_create(&workers[i].thread, NULL, work, &workers[i]), "no thread");
    if (hangs)
        abandon(workers, count);
    int failures = 0;
    for (int i = 0; i < count; i++) {
        pthread_join(workers[i].thread, NULL);
        if (workers[i].failed) {
            check(may_fail, workers[i].error.text);
            printf("%s: %d\n", workers[i].error.call ? workers[i].error.call : "refused",
                   workers[i].error.code);
            failures++;
        } else {
            check(workers[i].answered == BATCHES, "a batch has no answer");
        }
    }
    check(!zf_acl_finalize(&error) || may_fail, error.text);
    check(zf_acl_is_busy() == hangs, "the library is busy");
    printf("%d of %d failed\n", failures, count);
    return 0;
}
