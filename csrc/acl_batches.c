/* Batches that overlap: copied in, computed and copied out, each step in a stream of its own. */
#include "acl_model.h"

#include <string.h>

enum { WAIT_MS = 1000 }; /* of one call of zf_acl_wait */

/* Where to copy input i from: its own memory if that is pinned, else a pinned copy. */
static const void *pinned_source(zf_acl_model *model, slot *at, int i, const void *data,
                                 size_t nbytes, zf_acl_error *error)
{
    if (zf_acl_is_pinned(data, nbytes))
        return data;
    if (zf_acl_reserve_host(model, &at->staged[i], nbytes, error))
        return NULL;
    return memcpy(at->staged[i].memory, data, nbytes);
}

static int copy_in(zf_acl_model *model, slot *at, const void *const *data, const size_t *nbytes,
                   zf_acl_error *error)
{
    acl_stream stream = model->streams[IN];
    for (int i = 0; i < model->inputs; i++) {
        if (model->dynamic == ZF_ACL_SHAPE) {
            if (zf_acl_reserve_device(&at->in[i], nbytes[i], error))
                return -1;
            ZF_ACL_TRY(aclUpdateDataBuffer, at->in[i].buffer, at->in[i].memory, nbytes[i]);
        }
        if (nbytes[i] > at->in[i].nbytes)
            return zf_acl_refuse(error, "input %s has %zu bytes, the model takes %zu",
                                 model->in[i].name, nbytes[i], at->in[i].nbytes);
    }
    ZF_ACL_TRY(aclrtRecordEvent, at->begin[IN], stream);
    for (int i = 0; i < model->inputs; i++) {
        const void *from = pinned_source(model, at, i, data[i], nbytes[i], error);
        if (!from)
            goto failed;
        ZF_ACL_TRY(aclrtMemcpyAsync, at->in[i].memory, at->in[i].nbytes, from, nbytes[i],
                   ACL_HOST_TO_DEVICE, stream);
    }
    ZF_ACL_TRY(aclrtRecordEvent, at->end[IN], stream);
    return 0;
failed:
    return -1;
}

static int compute(zf_acl_model *model, slot *at, zf_acl_error *error)
{
    acl_stream stream = model->streams[COMPUTE];
    ZF_ACL_TRY(aclrtStreamWaitEvent, stream, at->end[IN]);
    ZF_ACL_TRY(aclrtRecordEvent, at->begin[COMPUTE], stream);
    for (int i = 0; i < at->loop; i++)
        ZF_ACL_TRY(aclmdlExecuteAsync, model->id, at->in_set, at->out_set, stream);
    ZF_ACL_TRY(aclrtRecordEvent, at->end[COMPUTE], stream);
    return 0;
failed:
    return -1;
}

static int copy_out(zf_acl_model *model, slot *at, zf_acl_error *error)
{
    acl_stream stream = model->streams[OUT];
    for (int i = 0; i < model->outputs; i++) {
        if (zf_acl_reserve_host(model, &at->result[i], at->out[i].nbytes, error))
            return -1;
    }
    ZF_ACL_TRY(aclrtStreamWaitEvent, stream, at->end[COMPUTE]);
    ZF_ACL_TRY(aclrtRecordEvent, at->begin[OUT], stream);
    for (int i = 0; i < model->outputs; i++)
        ZF_ACL_TRY(aclrtMemcpyAsync, at->result[i].memory, at->result[i].nbytes,
                   at->out[i].memory, at->result[i].used, ACL_DEVICE_TO_HOST, stream);
    ZF_ACL_TRY(aclrtRecordEvent, at->end[OUT], stream);
    return 0;
failed:
    return -1;
}

int zf_acl_begin(zf_acl_model *model, const void *const *data, const size_t *nbytes,
                 const int64_t *gear, int length, int loop, zf_acl_error *error)
{
    if (model->in_flight == model->slots)
        return zf_acl_refuse(error, "all %d slots are in flight", model->slots);
    if (model->failed)
        return zf_acl_refuse(error, "an earlier batch failed");
    slot *at = &model->ring[(model->first + model->in_flight) % model->slots];
    model->failed = true; /* until everything is queued */
    int code = zf_acl.aclrtSetCurrentContext(model->context);
    if (code)
        return zf_acl_fail(error, "aclrtSetCurrentContext", code);
    if (zf_acl_prepare_slots(model, error))
        return -1;
    at->loop = loop;
    if (model->dynamic && zf_acl_set_gear(model, at, gear, length, error))
        return -1;
    if (copy_in(model, at, data, nbytes, error) || compute(model, at, error) ||
        copy_out(model, at, error))
        return -1;
    model->in_flight++;
    model->failed = false;
    return 0;
}

static slot *oldest(const zf_acl_model *model)
{
    return &model->ring[model->first];
}

int zf_acl_wait(zf_acl_model *model, zf_acl_error *error)
{
    if (!model->in_flight)
        return zf_acl_refuse(error, "no batch is in flight");
    acl_event end = oldest(model)->end[OUT];
    const char *call = "aclrtSynchronizeEvent";
    zf_acl.aclrtSetCurrentContext(model->context);
    int code = zf_acl.aclrtSynchronizeEventWithTimeout
                   ? zf_acl.aclrtSynchronizeEventWithTimeout(end, WAIT_MS)
                   : zf_acl.aclrtSynchronizeEvent(end);
    if (code == ACL_EVENT_SYNC_TIMEOUT || code == ACL_STREAM_SYNC_TIMEOUT) {
        if (!atomic_load(&model->abandoned)) {
            if (zf_acl.aclGetRecentErrMsg)
                zf_acl.aclGetRecentErrMsg(); /* forget it */
            return 1;
        }
        model->failed = true;
        return zf_acl_fail(error, call, code);
    }
    if (!code) {
        code = zf_acl_take_exception(model->device);
        call = "a queued task";
    }
    if (code) {
        model->failed = true;
        return zf_acl_fail(error, call, code);
    }
    return 0;
}

const void *zf_acl_result(const zf_acl_model *model, int i, size_t *nbytes)
{
    const host_tensor *result = &oldest(model)->result[i];
    *nbytes = result->used;
    return result->memory;
}

/* The shape that ACL tells after an execution with dynamic shapes. */
static int executed_dims(const zf_acl_model *model, int i, int64_t dims[MAX_RANK])
{
    if (!zf_acl.aclmdlGetDatasetTensorDesc || !zf_acl.aclGetTensorDescNumDims ||
        !zf_acl.aclGetTensorDescDimV2)
        return 0;
    const acl_tensor_desc *desc =
        zf_acl.aclmdlGetDatasetTensorDesc(oldest(model)->out_set, (size_t)i);
    size_t count = desc ? zf_acl.aclGetTensorDescNumDims(desc) : 0;
    if (count > MAX_RANK)
        return 0;
    for (size_t k = 0; k < count; k++)
        if (zf_acl.aclGetTensorDescDimV2(desc, k, &dims[k]))
            return 0;
    return (int)count;
}

int zf_acl_result_dims(const zf_acl_model *model, int i, int64_t dims[16])
{
    const host_tensor *result = &oldest(model)->result[i];
    int count = model->dynamic == ZF_ACL_SHAPE ? executed_dims(model, i, dims) : 0;
    if (count)
        return count;
    memcpy(dims, result->dims, sizeof result->dims);
    return result->ndims;
}

void zf_acl_result_times(const zf_acl_model *model, float ms[3])
{
    const slot *at = oldest(model);
    for (int step = 0; step < STEPS; step++)
        if (zf_acl.aclrtEventElapsedTime(&ms[step], at->begin[step], at->end[step]))
            ms[step] = -1;
    if (ms[COMPUTE] >= 0)
        ms[COMPUTE] /= (float)at->loop;
}

void zf_acl_release(zf_acl_model *model)
{
    model->first = (model->first + 1) % model->slots;
    model->in_flight--;
}
