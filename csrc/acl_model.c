/* A model on a device: it is loaded, asked what it takes and gives, and closed. */
#include "acl_model.h"

#include <stdlib.h>
#include <string.h>

int zf_acl_inputs(const zf_acl_model *model) { return model->inputs; }
int zf_acl_outputs(const zf_acl_model *model) { return model->outputs; }
const zf_acl_tensor *zf_acl_input(const zf_acl_model *model, int i) { return &model->in[i]; }
const zf_acl_tensor *zf_acl_output(const zf_acl_model *model, int i) { return &model->out[i]; }
int zf_acl_dynamic(const zf_acl_model *model) { return model->dynamic; }
int zf_acl_in_flight(const zf_acl_model *model) { return model->in_flight; }

int zf_acl_gears(const zf_acl_model *model, const int64_t **gears, int *length)
{
    *gears = model->gear;
    *length = model->gear_length;
    return model->gears;
}

void zf_acl_set_output_size(zf_acl_model *model, int i, size_t nbytes)
{
    model->out[i].nbytes = nbytes;
}

void *zf_acl_host_alloc(const zf_acl_model *model, size_t nbytes, zf_acl_error *error)
{
    return zf_acl_alloc_pinned(model->context, nbytes, error);
}

void zf_acl_abandon(zf_acl_model *model)
{
    atomic_store(&model->abandoned, true);
}

static void free_model(zf_acl_model *model)
{
    free(model->in);
    free(model->out);
    free(model->hidden_nbytes);
    free(model->gear);
    free(model->ring);
    free(model);
}

zf_acl_model *zf_acl_open_model(int device, const char *file, int slots, zf_acl_error *error)
{
    zf_acl_error ignored;
    zf_acl_model *model = calloc(1, sizeof *model);
    if (model)
        model->ring = calloc((size_t)slots, sizeof *model->ring);
    if (!model || !model->ring) {
        free(model);
        zf_acl_refuse(error, "out of memory");
        return NULL;
    }
    model->device = device;
    model->slots = slots;
    model->gear_input = model->aipp_input = -1;
    if (zf_acl_enter_device(device, &model->context, error)) {
        free_model(model);
        return NULL;
    }
    for (int step = 0; step < STEPS; step++)
        ZF_ACL_TRY(aclrtCreateStream, &model->streams[step]);
    ZF_ACL_TRY(aclmdlLoadFromFile, file, &model->id);
    model->loaded = true;
    model->desc = zf_acl.aclmdlCreateDesc();
    if (!model->desc) {
        zf_acl_refuse(error, "aclmdlCreateDesc failed");
        goto failed;
    }
    ZF_ACL_TRY(aclmdlGetDesc, model->desc, model->id);
    if (zf_acl_describe(model, error))
        goto failed;
    return model;
failed:
    zf_acl_close_model(model, 1, &ignored);
    return NULL;
}

/* Waits until the streams are empty. 1: they are not within `seconds`. */
static int drain(zf_acl_model *model, int seconds, zf_acl_error *error)
{
    int failed = 0;
    for (int step = 0; step < STEPS; step++) {
        if (!model->streams[step])
            continue;
        int code = zf_acl.aclrtSynchronizeStreamWithTimeout
                       ? zf_acl.aclrtSynchronizeStreamWithTimeout(model->streams[step],
                                                                  seconds * 1000)
                       : zf_acl.aclrtSynchronizeStream(model->streams[step]);
        if (code && !failed)
            failed = zf_acl_fail(error, "aclrtSynchronizeStream", code);
        if (code == ACL_STREAM_SYNC_TIMEOUT)
            return 1;
    }
    return failed ? -1 : 0;
}

int zf_acl_close_model(zf_acl_model *model, int seconds, zf_acl_error *error)
{
    zf_acl_error later;
    int failed = 0;
    bool abandoned = atomic_load(&model->abandoned);
    if (!abandoned) {
        zf_acl.aclrtSetCurrentContext(model->context);
        failed = drain(model, seconds, error);
        abandoned = failed == 1;
    }
    if (abandoned) { /* the device may still use all of it; the process ends soon */
        zf_acl_leave_device(model->context, true, &later);
        return failed;
    }
    for (int i = 0; i < model->slots; i++)
        zf_acl_free_slot(model, &model->ring[i]);
    if (model->desc)
        zf_acl.aclmdlDestroyDesc(model->desc);
    if (model->loaded) {
        int code = zf_acl.aclmdlUnload(model->id);
        if (code && !failed)
            failed = zf_acl_fail(error, "aclmdlUnload", code);
    }
    for (int step = 0; step < STEPS; step++)
        if (model->streams[step])
            zf_acl.aclrtDestroyStream(model->streams[step]);
    int code = zf_acl_leave_device(model->context, false,
                                   failed ? &later : error);
    failed = failed ? failed : code;
    free_model(model);
    return failed;
}
