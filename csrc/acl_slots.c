/* The memory of a batch on its way. */
#include "acl_model.h"

#include <stdlib.h>
#include <string.h>

int zf_acl_reserve_device(device_tensor *tensor, size_t nbytes, zf_acl_error *error)
{
    if (tensor->buffer && tensor->nbytes >= nbytes)
        return 0;
    void *memory = NULL;
    ZF_ACL_TRY(aclrtMalloc, &memory, nbytes ? nbytes : 1, ACL_MALLOC_HUGE_FIRST);
    if (!tensor->buffer) {
        tensor->buffer = zf_acl.aclCreateDataBuffer(memory, nbytes);
        if (!tensor->buffer) {
            zf_acl_refuse(error, "aclCreateDataBuffer failed");
            goto failed;
        }
    } else {
        ZF_ACL_TRY(aclUpdateDataBuffer, tensor->buffer, memory, nbytes);
        zf_acl.aclrtFree(tensor->memory);
    }
    tensor->memory = memory;
    tensor->nbytes = nbytes;
    return 0;
failed:
    if (memory)
        zf_acl.aclrtFree(memory);
    return -1;
}

int zf_acl_reserve_host(const zf_acl_model *model, host_tensor *tensor, size_t nbytes,
                        zf_acl_error *error)
{
    if (tensor->memory && tensor->nbytes >= nbytes)
        return 0;
    void *memory = zf_acl_alloc_pinned(model->context, nbytes ? nbytes : 1, error);
    if (!memory)
        return -1;
    if (tensor->memory)
        zf_acl_host_free(tensor->memory);
    tensor->memory = memory;
    tensor->nbytes = nbytes;
    return 0;
}

static int make_event(acl_event *event, zf_acl_error *error)
{
    const uint32_t flags = ACL_EVENT_SYNC | ACL_EVENT_TIME_LINE;
    if (zf_acl.aclrtCreateEventExWithFlag)
        ZF_ACL_TRY(aclrtCreateEventExWithFlag, event, flags);
    else if (zf_acl.aclrtCreateEventWithFlag)
        ZF_ACL_TRY(aclrtCreateEventWithFlag, event, flags);
    else
        ZF_ACL_TRY(aclrtCreateEvent, event);
    return 0;
failed:
    *event = NULL;
    return -1;
}

static int add_buffers(acl_dataset *set, const device_tensor *tensors, int count,
                       zf_acl_error *error)
{
    for (int i = 0; i < count; i++)
        ZF_ACL_TRY(aclmdlAddDatasetBuffer, set, tensors[i].buffer);
    return 0;
failed:
    return -1;
}

int zf_acl_set_result_shapes(zf_acl_model *model, slot *at, zf_acl_error *error)
{
    for (int i = 0; i < model->outputs; i++) {
        const zf_acl_tensor *tensor = &model->out[i];
        host_tensor *result = &at->result[i];
        acl_dims dims;
        result->ndims = tensor->ndims;
        memcpy(result->dims, tensor->dims, sizeof result->dims);
        result->used = tensor->nbytes;
        if (model->gear_input < 0 || !zf_acl.aclmdlGetCurOutputDims)
            continue;
        ZF_ACL_TRY(aclmdlGetCurOutputDims, model->desc, (size_t)i, &dims);
        if (dims.count > MAX_RANK)
            return zf_acl_refuse(error, "output %s has %zu dimensions", tensor->name, dims.count);
        result->ndims = (int)dims.count;
        size_t size = zf_acl.aclDataTypeSize(tensor->type);
        for (size_t k = 0; k < dims.count; k++) {
            result->dims[k] = dims.dims[k];
            if (dims.dims[k] < 0 ||
                __builtin_mul_overflow(size, (size_t)dims.dims[k], &size))
                return zf_acl_refuse(error, "output %s has no shape", tensor->name);
        }
        if (zf_acl_reserve_device(&at->out[i], size, error))
            return -1;
        result->used = size;
    }
    return 0;
failed:
    return -1;
}

/* Allocates all of a slot whose sizes are known. */
static int fill_slot(zf_acl_model *model, slot *at, zf_acl_error *error)
{
    int all = model->inputs + model->hidden;
    at->in = calloc((size_t)all + 1, sizeof *at->in);
    at->staged = calloc((size_t)model->inputs + 1, sizeof *at->staged);
    at->out = calloc((size_t)model->outputs + 1, sizeof *at->out);
    at->result = calloc((size_t)model->outputs + 1, sizeof *at->result);
    at->in_set = zf_acl.aclmdlCreateDataset();
    at->out_set = zf_acl.aclmdlCreateDataset();
    if (!at->in || !at->staged || !at->out || !at->result || !at->in_set || !at->out_set)
        return zf_acl_refuse(error, "out of memory");
    for (int i = 0; i < all; i++) {
        size_t nbytes = i < model->inputs ? model->in[i].nbytes
                                          : model->hidden_nbytes[i - model->inputs];
        if (zf_acl_reserve_device(&at->in[i], nbytes, error))
            return -1;
    }
    for (int i = 0; i < model->outputs; i++)
        if (zf_acl_reserve_device(&at->out[i], model->out[i].nbytes, error))
            return -1;
    for (int step = 0; step < STEPS; step++)
        if (make_event(&at->begin[step], error) || make_event(&at->end[step], error))
            return -1;
    if (add_buffers(at->in_set, at->in, all, error) ||
        add_buffers(at->out_set, at->out, model->outputs, error))
        return -1;
    return model->dynamic ? 0 : zf_acl_set_result_shapes(model, at, error);
}

static void free_tensors(device_tensor *tensors, int count)
{
    for (int i = 0; tensors && i < count; i++) {
        if (tensors[i].buffer)
            zf_acl.aclDestroyDataBuffer(tensors[i].buffer);
        if (tensors[i].memory)
            zf_acl.aclrtFree(tensors[i].memory);
    }
    free(tensors);
}

static void free_hosts(host_tensor *tensors, int count)
{
    for (int i = 0; tensors && i < count; i++)
        if (tensors[i].memory)
            zf_acl_host_free(tensors[i].memory);
    free(tensors);
}

void zf_acl_free_slot(zf_acl_model *model, slot *at)
{
    if (at->in_set)
        zf_acl.aclmdlDestroyDataset(at->in_set);
    if (at->out_set)
        zf_acl.aclmdlDestroyDataset(at->out_set);
    free_tensors(at->in, model->inputs + model->hidden);
    free_tensors(at->out, model->outputs);
    free_hosts(at->staged, model->inputs);
    free_hosts(at->result, model->outputs);
    for (int step = 0; step < STEPS; step++) {
        if (at->begin[step])
            zf_acl.aclrtDestroyEvent(at->begin[step]);
        if (at->end[step])
            zf_acl.aclrtDestroyEvent(at->end[step]);
    }
}

int zf_acl_prepare_slots(zf_acl_model *model, zf_acl_error *error)
{
    for (int i = 0; i < model->slots; i++)
        if (!model->ring[i].in_set && fill_slot(model, &model->ring[i], error))
            return -1;
    return 0;
}
