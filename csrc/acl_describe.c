/* What a model takes and gives, and the shapes that it is compiled for. */
#include "acl_model.h"

#include <stdlib.h>
#include <string.h>

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

int zf_acl_describe(zf_acl_model *model, zf_acl_error *error)
{
    return describe_inputs(model, error) || describe_outputs(model, error) ||
                   describe_gears(model, error)
               ? -1
               : 0;
}
