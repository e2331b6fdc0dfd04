/*
 * Models on Ascend NPUs through libascendcl.so, which is opened when it is needed.
 *
 * A model has a context, streams and device memory of its own. It holds several
 * batches at a time: while one is computed, the next is copied to the device and
 * the results of the one before are copied back. Each step has a stream; events
 * put the steps of a batch in order.
 *
 * One thread opens a model and calls its functions, except zf_acl_abandon.
 * Functions return 0, or fill `error`. They may wait for the device, so the
 * caller releases the GIL.
 */
#ifndef ZF_ACL_H
#define ZF_ACL_H

#include "acl_api.h"

#include <stdbool.h>

typedef struct {
    int code;         /* ACL's number; 0: no function of ACL failed */
    const char *call; /* the function, or what it began, that failed; or NULL */
    char text[1024];  /* ACL's explanation, or ours */
} zf_acl_error;

/* "" for a number that is not known. */
const char *zf_acl_error_name(int code);
const char *zf_acl_error_cure(int code);

/* Opens the library, once in a process. `file`: a path, or a name that dlopen finds.
 * Does not use a device. */
int zf_acl_open_library(const char *file, zf_acl_error *error);
bool zf_acl_is_open(void);

/* Whether models are open, or were abandoned. The process must not finalize ACL then. */
bool zf_acl_is_busy(void);

/* Frees all pinned memory, releases the devices and finalizes ACL, once. Does nothing
 * while the library is busy. */
int zf_acl_finalize(zf_acl_error *error);

typedef struct zf_acl_model zf_acl_model;

/* Pinned host memory, zeroed, for this and other models. Any thread may call this while the model
 * is open. NULL: see `error`. */
void *zf_acl_host_alloc(const zf_acl_model *model, size_t nbytes, zf_acl_error *error);
/* Frees nothing after a device was abandoned, since its copies may still run. */
void zf_acl_host_free(void *memory);

enum { ZF_ACL_STATIC, ZF_ACL_BATCH, ZF_ACL_HW, ZF_ACL_DIMS, ZF_ACL_SHAPE }; /* what is dynamic */

typedef struct {
    char name[ACL_MAX_NAME];
    int type;          /* aclDataType */
    int ndims;
    int64_t dims[16];  /* -1 where dynamic */
    size_t nbytes;     /* of the largest shape; 0: not known */
    int aipp;          /* aclmdlInputAippType of an input */
} zf_acl_tensor;

/* Loads a model. slots: batches that it can hold, from 1. */
zf_acl_model *zf_acl_open_model(int device, const char *file, int slots, zf_acl_error *error);

int zf_acl_inputs(const zf_acl_model *model);  /* without the hidden ones */
int zf_acl_outputs(const zf_acl_model *model);
const zf_acl_tensor *zf_acl_input(const zf_acl_model *model, int i);
const zf_acl_tensor *zf_acl_output(const zf_acl_model *model, int i);

/* What is dynamic, and the gears: `count` rows of `length` numbers. */
int zf_acl_dynamic(const zf_acl_model *model);
int zf_acl_gears(const zf_acl_model *model, const int64_t **gears, int *length);

/* Normalization on the device, for an input with dynamic AIPP: RGB images of src_h x src_w,
 * cropped to h x w at (y, x), (value - min) * var for each channel; swap: BGR for the network.
 * Before the first batch. */
typedef struct {
    int src_h, src_w, y, x, h, w;
    bool swap;
    float min[3], var[3];
} zf_acl_aipp;
int zf_acl_set_aipp(zf_acl_model *model, const zf_acl_aipp *aipp, zf_acl_error *error);

/* Bytes of output i, for models whose outputs have no known size. Before the first batch. */
void zf_acl_set_output_size(zf_acl_model *model, int i, size_t nbytes);

/* Queues a batch: copy in, execute `loop` times, copy out. data[i], nbytes[i]: the inputs, which
 * must not change before the end of the batch. gear: NULL for a static model; else the gear's
 * numbers, or with ZF_ACL_SHAPE the dimensions of all inputs in a row. A slot must be free. */
int zf_acl_begin(zf_acl_model *model, const void *const *data, const size_t *nbytes,
                 const int64_t *gear, int length, int loop, zf_acl_error *error);

/* Waits for the oldest queued batch, at most for about a second. 1: it is not done yet. */
int zf_acl_wait(zf_acl_model *model, zf_acl_error *error);

/* The outputs of the oldest batch, for which zf_acl_wait has returned 0. */
const void *zf_acl_result(const zf_acl_model *model, int i, size_t *nbytes);
/* Its shape; returns how many dimensions. */
int zf_acl_result_dims(const zf_acl_model *model, int i, int64_t dims[16]);
/* Milliseconds of the copy in, of each execution on average, and of the copy out; < 0: unknown. */
void zf_acl_result_times(const zf_acl_model *model, float ms[3]);
/* Gives its slot back. */
void zf_acl_release(zf_acl_model *model);

int zf_acl_in_flight(const zf_acl_model *model);

/* Any thread may call this: zf_acl_wait returns an error soon, and zf_acl_close_model leaves
 * everything as it is. For a device that does not answer. */
void zf_acl_abandon(zf_acl_model *model);

/* Waits for what is queued, for `seconds` at most, frees everything, also `model`. An error is the
 * first that occurred; the model is closed in any case. */
int zf_acl_close_model(zf_acl_model *model, int seconds, zf_acl_error *error);

#endif
