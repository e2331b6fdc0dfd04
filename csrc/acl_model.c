/* A model on a device: what it takes and gives, and batches that overlap. */
#include "acl_internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { WAIT_MS = 1000 }; /* of one call of zf_acl_wait */
enum { IN, COMPUTE, OUT, STEPS }; /* the steps of a batch; each has a stream */
enum { MAX_RANK = 16 };

typedef struct {
    void *memory; /* of the device */
    size_t nbytes;
    acl_buffer *buffer;
} device_tensor;

typedef struct {
    void *memory;  /* pinned */
    size_t nbytes; /* of the memory */
    size_t used;   /* by the batch's output */
    int ndims;     /* of the batch's output */
    int64_t dims[MAX_RANK];
} host_tensor;

/* A batch on its way. The device has `begin` and `end` of each step as events. */
typedef struct {
    device_tensor *in, *out;
    host_tensor *staged; /* copies of inputs that are not pinned */
    host_tensor *result;
    acl_dataset *in_set, *out_set;
    acl_event begin[STEPS], end[STEPS];
    int64_t gear[ACL_MAX_DIMS];
    int gear_length;
    int loop;
} slot;

struct zf_acl_model {
    int device, slots;
    acl_context context;
    acl_stream streams[STEPS];
    uint32_t id;
    bool loaded;
    acl_model_desc *desc;
    int inputs, hidden, outputs; /* hidden inputs follow the others */
    zf_acl_tensor *in, *out;
    size_t *hidden_nbytes;
    int gear_input, aipp_input; /* index of a hidden input, or -1 */
    int dynamic, gears, gear_length;
    int64_t *gear;
    slot *ring; /* `slots` of them */
    int first, in_flight;
    bool failed; /* something went wrong: what is queued may be incomplete */
    _Atomic bool abandoned;
};

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

/* ---- what the model takes and gives ---- */

static int set_dims(zf_acl_tensor *tensor, const acl_dims *dims, zf_acl_error *error)
{
    if (dims->count > MAX_RANK)
        return zf_acl_refuse(error, "%s has %zu dimensions, at most %d are supported",
                             tensor->name, dims->count, MAX_RANK);
    tensor->ndims = (int)dims->count;
    memcpy(tensor->dims, dims->dims, dims->count * sizeof dims->dims[0]);
    return 0;
}

static void set_name(zf_acl_tensor *tensor, const char *name)
{
    size_t length = name ? strnlen(name, sizeof tensor->name - 1) : 0;
    if (length)
        memcpy(tensor->name, name, length);
    tensor->name[length] = 0;
}

static bool is_hidden(const zf_acl_model *model, size_t i, const char *name)
{
    int type = 0;
    size_t attached;
    if (!strcmp(name, ACL_GEAR_INPUT) || !strncmp(name, ACL_AIPP_INPUT, strlen(ACL_AIPP_INPUT)))
        return true;
    return zf_acl.aclmdlGetAippType &&
           !zf_acl.aclmdlGetAippType(model->id, i, &type, &attached) && type == ACL_AIPP_NODE;
}

static int describe_inputs(zf_acl_model *model, zf_acl_error *error)
{
    size_t count = zf_acl.aclmdlGetNumInputs(model->desc);
    model->in = calloc(count + 1, sizeof *model->in);
    model->hidden_nbytes = calloc(count + 1, sizeof *model->hidden_nbytes);
    if (!model->in || !model->hidden_nbytes)
        return zf_acl_refuse(error, "out of memory");
    for (size_t i = 0; i < count; i++) {
        acl_dims dims;
        size_t attached;
        zf_acl_tensor *tensor = &model->in[model->inputs];
        const char *name = zf_acl.aclmdlGetInputNameByIndex(model->desc, i);
        set_name(tensor, name);
        size_t nbytes = zf_acl.aclmdlGetInputSizeByIndex(model->desc, i);
        if (is_hidden(model, i, tensor->name)) {
            if (!strcmp(tensor->name, ACL_GEAR_INPUT))
                model->gear_input = (int)i;
            else if (model->aipp_input >= 0)
                return zf_acl_refuse(error, "has two inputs with dynamic AIPP; one is supported");
            else
                model->aipp_input = (int)i;
            model->hidden_nbytes[model->hidden++] = nbytes;
            continue;
        }
        if (model->hidden)
            return zf_acl_refuse(error, "input %s follows a hidden input", tensor->name);
        ZF_ACL_TRY(aclmdlGetInputDims, model->desc, i, &dims);
        if (set_dims(tensor, &dims, error))
            return -1;
        tensor->type = zf_acl.aclmdlGetInputDataType(model->desc, i);
        tensor->nbytes = nbytes;
        if (zf_acl.aclmdlGetAippType &&
            zf_acl.aclmdlGetAippType(model->id, i, &tensor->aipp, &attached))
            tensor->aipp = 0;
        model->inputs++;
    }
    return 0;
failed:
    return -1;
}

static int describe_outputs(zf_acl_model *model, zf_acl_error *error)
{
    size_t count = zf_acl.aclmdlGetNumOutputs(model->desc);
    model->out = calloc(count + 1, sizeof *model->out);
    if (!model->out)
        return zf_acl_refuse(error, "out of memory");
    for (size_t i = 0; i < count; i++) {
        acl_dims dims;
        zf_acl_tensor *tensor = &model->out[i];
        set_name(tensor, zf_acl.aclmdlGetOutputNameByIndex(model->desc, i));
        ZF_ACL_TRY(aclmdlGetOutputDims, model->desc, i, &dims);
        if (set_dims(tensor, &dims, error))
            return -1;
        tensor->type = zf_acl.aclmdlGetOutputDataType(model->desc, i);
        tensor->nbytes = zf_acl.aclmdlGetOutputSizeByIndex(model->desc, i);
        model->outputs++;
    }
    return 0;
failed:
    return -1;
}

static int keep_gears(zf_acl_model *model, int dynamic, size_t count, size_t length)
{
    model->dynamic = dynamic;
    model->gears = (int)count;
    model->gear_length = (int)length;
    model->gear = calloc(count * length, sizeof *model->gear);
    return model->gear ? 0 : -1;
}

static int describe_gears(zf_acl_model *model, zf_acl_error *error)
{
    const acl_model_desc *desc = model->desc;
    size_t gear_count = 0;
    union {
        acl_batches batches;
        acl_hws hws;
    } found;
    memset(&found, 0, sizeof found);
    if (model->gear_input < 0) {
        bool open = false;
        for (int i = 0; i < model->inputs; i++)
            for (int k = 0; k < model->in[i].ndims; k++)
                open = open || model->in[i].dims[k] < 0;
        model->dynamic = open ? ZF_ACL_SHAPE : ZF_ACL_STATIC;
        return 0;
    }
    if (zf_acl.aclmdlGetDynamicBatch && !zf_acl.aclmdlGetDynamicBatch(desc, &found.batches) &&
        found.batches.count && found.batches.count <= ACL_MAX_DIMS) {
        if (keep_gears(model, ZF_ACL_BATCH, found.batches.count, 1))
            return zf_acl_refuse(error, "out of memory");
        for (int i = 0; i < model->gears; i++)
            model->gear[i] = (int64_t)found.batches.batch[i];
        return 0;
    }
    memset(&found, 0, sizeof found);
    if (zf_acl.aclmdlGetDynamicHW && !zf_acl.aclmdlGetDynamicHW(desc, (size_t)-1, &found.hws) &&
        found.hws.count && found.hws.count <= ACL_MAX_DIMS) {
        if (keep_gears(model, ZF_ACL_HW, found.hws.count, 2))
            return zf_acl_refuse(error, "out of memory");
        for (int i = 0; i < 2 * model->gears; i++)
            model->gear[i] = (int64_t)found.hws.hw[i / 2][i % 2];
        return 0;
    }
    if (zf_acl.aclmdlGetInputDynamicGearCount && zf_acl.aclmdlGetInputDynamicDims &&
        !zf_acl.aclmdlGetInputDynamicGearCount(desc, (size_t)-1, &gear_count) && gear_count &&
        gear_count <= 1024) {
        acl_dims *dims = calloc(gear_count, sizeof *dims);
        int failed = !dims ? zf_acl_refuse(error, "out of memory") : 0;
        int code = failed ? 0
                          : zf_acl.aclmdlGetInputDynamicDims(desc, (size_t)-1, dims, gear_count);
        if (code)
            failed = zf_acl_fail(error, "aclmdlGetInputDynamicDims", code);
        size_t length = failed ? 0 : dims[0].count;
        if (!failed && (!length || length > ACL_MAX_DIMS ||
                        keep_gears(model, ZF_ACL_DIMS, gear_count, length)))
            failed = zf_acl_refuse(error, "its dynamic dimensions cannot be read");
        for (size_t i = 0; !failed && i < gear_count; i++)
            memcpy(model->gear + i * length, dims[i].dims, length * sizeof *model->gear);
        free(dims);
        return failed;
    }
    return zf_acl_refuse(error, "it is dynamic in a way that this CANN does not tell");
}

/* ---- memory of the slots ---- */

/* Makes device memory of at least `nbytes`. The slot is not in flight. */
static int reserve_device(device_tensor *tensor, size_t nbytes, zf_acl_error *error)
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

static int reserve_host(const zf_acl_model *model, host_tensor *tensor, size_t nbytes,
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

/* The outputs' shapes with the gear that was told last; without gears, those of the model. */
static int set_result_shapes(zf_acl_model *model, slot *at, zf_acl_error *error)
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
        if (reserve_device(&at->out[i], size, error))
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
        if (reserve_device(&at->in[i], nbytes, error))
            return -1;
    }
    for (int i = 0; i < model->outputs; i++)
        if (reserve_device(&at->out[i], model->out[i].nbytes, error))
            return -1;
    for (int step = 0; step < STEPS; step++)
        if (make_event(&at->begin[step], error) || make_event(&at->end[step], error))
            return -1;
    if (add_buffers(at->in_set, at->in, all, error) ||
        add_buffers(at->out_set, at->out, model->outputs, error))
        return -1;
    return model->dynamic ? 0 : set_result_shapes(model, at, error);
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

static void free_slot(zf_acl_model *model, slot *at)
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

/* ---- opening and closing ---- */

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
    if (describe_inputs(model, error) || describe_outputs(model, error) ||
        describe_gears(model, error))
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
        free_slot(model, &model->ring[i]);
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

/* ---- settings ---- */

static int prepare_slots(zf_acl_model *model, zf_acl_error *error)
{
    for (int i = 0; i < model->slots; i++)
        if (!model->ring[i].in_set && fill_slot(model, &model->ring[i], error))
            return -1;
    return 0;
}

int zf_acl_set_aipp(zf_acl_model *model, const zf_acl_aipp *aipp, zf_acl_error *error)
{
    if (model->aipp_input < 0)
        return zf_acl_refuse(error, "has no input with dynamic AIPP");
    if (!zf_acl.aclmdlCreateAIPP || !zf_acl.aclmdlDestroyAIPP || !zf_acl.aclmdlSetAIPPInputFormat ||
        !zf_acl.aclmdlSetAIPPRbuvSwapSwitch || !zf_acl.aclmdlSetAIPPSrcImageSize ||
        !zf_acl.aclmdlSetAIPPCropParams || !zf_acl.aclmdlSetAIPPDtcPixelMin ||
        !zf_acl.aclmdlSetAIPPPixelVarReci || !zf_acl.aclmdlSetInputAIPP)
        return zf_acl_lacks(error, "aclmdlSetInputAIPP");
    if (prepare_slots(model, error))
        return -1;
    int64_t batch = model->in[0].dims[0];
    for (int i = 0; i < model->gears && model->dynamic == ZF_ACL_BATCH; i++)
        batch = model->gear[i] > batch ? model->gear[i] : batch;
    acl_aipp *values = zf_acl.aclmdlCreateAIPP((uint64_t)batch);
    if (!values)
        return zf_acl_refuse(error, "aclmdlCreateAIPP failed");
    bool crop = aipp->h != aipp->src_h || aipp->w != aipp->src_w;
    ZF_ACL_TRY(aclmdlSetAIPPInputFormat, values, ACL_RGB888);
    ZF_ACL_TRY(aclmdlSetAIPPSrcImageSize, values, aipp->src_w, aipp->src_h);
    ZF_ACL_TRY(aclmdlSetAIPPRbuvSwapSwitch, values, aipp->swap);
    for (int64_t i = 0; i < batch; i++) {
        uint64_t image = (uint64_t)i;
        if (crop)
            ZF_ACL_TRY(aclmdlSetAIPPCropParams, values, 1, aipp->x, aipp->y, aipp->w, aipp->h,
                       image);
        ZF_ACL_TRY(aclmdlSetAIPPDtcPixelMin, values, aipp->min[0], aipp->min[1], aipp->min[2], 0,
                   image);
        ZF_ACL_TRY(aclmdlSetAIPPPixelVarReci, values, aipp->var[0], aipp->var[1], aipp->var[2], 1,
                   image);
    }
    for (int i = 0; i < model->slots; i++)
        ZF_ACL_TRY(aclmdlSetInputAIPP, model->id, model->ring[i].in_set,
                   (size_t)model->aipp_input, values);
    zf_acl.aclmdlDestroyAIPP(values);
    return 0;
failed:
    zf_acl.aclmdlDestroyAIPP(values);
    return -1;
}

/* ---- batches ---- */

static int set_shapes(zf_acl_model *model, slot *at, const int64_t *dims, int length,
                      zf_acl_error *error)
{
    if (!zf_acl.aclCreateTensorDesc || !zf_acl.aclDestroyTensorDesc ||
        !zf_acl.aclmdlSetDatasetTensorDesc)
        return zf_acl_lacks(error, "aclmdlSetDatasetTensorDesc");
    for (int i = 0; i < model->inputs; i++) {
        const zf_acl_tensor *tensor = &model->in[i];
        if (length < tensor->ndims)
            return zf_acl_refuse(error, "too few dimensions for input %s", tensor->name);
        acl_tensor_desc *desc =
            zf_acl.aclCreateTensorDesc(tensor->type, tensor->ndims, dims, ACL_FORMAT_ND);
        if (!desc)
            return zf_acl_refuse(error, "aclCreateTensorDesc failed");
        int code = zf_acl.aclmdlSetDatasetTensorDesc(at->in_set, desc, (size_t)i);
        zf_acl.aclDestroyTensorDesc(desc);
        if (code)
            return zf_acl_fail(error, "aclmdlSetDatasetTensorDesc", code);
        dims += tensor->ndims;
        length -= tensor->ndims;
    }
    return 0;
}

static int tell_gear(zf_acl_model *model, slot *at, const int64_t *gear, int length,
                     zf_acl_error *error)
{
    size_t index = (size_t)model->gear_input;
    acl_dims dims;
    switch (model->dynamic) {
    case ZF_ACL_BATCH:
        if (!zf_acl.aclmdlSetDynamicBatchSize)
            return zf_acl_lacks(error, "aclmdlSetDynamicBatchSize");
        ZF_ACL_TRY(aclmdlSetDynamicBatchSize, model->id, at->in_set, index, (uint64_t)gear[0]);
        return 0;
    case ZF_ACL_HW:
        if (!zf_acl.aclmdlSetDynamicHWSize)
            return zf_acl_lacks(error, "aclmdlSetDynamicHWSize");
        ZF_ACL_TRY(aclmdlSetDynamicHWSize, model->id, at->in_set, index, (uint64_t)gear[0],
                   (uint64_t)gear[1]);
        return 0;
    case ZF_ACL_DIMS:
        if (!zf_acl.aclmdlSetInputDynamicDims)
            return zf_acl_lacks(error, "aclmdlSetInputDynamicDims");
        memset(&dims, 0, sizeof dims);
        dims.count = (size_t)length;
        memcpy(dims.dims, gear, (size_t)length * sizeof *gear);
        ZF_ACL_TRY(aclmdlSetInputDynamicDims, model->id, at->in_set, index, &dims);
        return 0;
    default:
        return set_shapes(model, at, gear, length, error);
    }
failed:
    return -1;
}

/* Tells the device which gear the slot's batch has. The hidden input keeps it. */
static int set_gear(zf_acl_model *model, slot *at, const int64_t *gear, int length,
                    zf_acl_error *error)
{
    size_t size = (size_t)length * sizeof *gear;
    int wanted = model->gears ? model->gear_length : length;
    if (!gear || length < 1 || length > ACL_MAX_DIMS || length != wanted)
        return zf_acl_refuse(error, "the model is dynamic and needs a shape");
    if (at->gear_length == length && !memcmp(at->gear, gear, size))
        return 0;
    at->gear_length = 0;
    if (tell_gear(model, at, gear, length, error) || set_result_shapes(model, at, error))
        return -1;
    memcpy(at->gear, gear, size);
    at->gear_length = length;
    return 0;
}

/* Where to copy input i from: its own memory if that is pinned, else a pinned copy. */
static const void *pinned_source(zf_acl_model *model, slot *at, int i, const void *data,
                                 size_t nbytes, zf_acl_error *error)
{
    if (zf_acl_is_pinned(data, nbytes))
        return data;
    if (reserve_host(model, &at->staged[i], nbytes, error))
        return NULL;
    return memcpy(at->staged[i].memory, data, nbytes);
}

static int copy_in(zf_acl_model *model, slot *at, const void *const *data, const size_t *nbytes,
                   zf_acl_error *error)
{
    acl_stream stream = model->streams[IN];
    for (int i = 0; i < model->inputs; i++) {
        if (model->dynamic == ZF_ACL_SHAPE) {
            if (reserve_device(&at->in[i], nbytes[i], error))
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
        if (reserve_host(model, &at->result[i], at->out[i].nbytes, error))
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
    if (prepare_slots(model, error))
        return -1;
    at->loop = loop;
    if (model->dynamic && set_gear(model, at, gear, length, error))
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
