/* The gear of a batch, and normalization by dynamic AIPP. */
#include "acl_model.h"

#include <string.h>

int zf_acl_set_aipp(zf_acl_model *model, const zf_acl_aipp *aipp, zf_acl_error *error)
{
    if (model->aipp_input < 0)
        return zf_acl_refuse(error, "has no input with dynamic AIPP");
    if (!zf_acl.aclmdlCreateAIPP || !zf_acl.aclmdlDestroyAIPP || !zf_acl.aclmdlSetAIPPInputFormat ||
        !zf_acl.aclmdlSetAIPPRbuvSwapSwitch || !zf_acl.aclmdlSetAIPPSrcImageSize ||
        !zf_acl.aclmdlSetAIPPCropParams || !zf_acl.aclmdlSetAIPPDtcPixelMin ||
        !zf_acl.aclmdlSetAIPPPixelVarReci || !zf_acl.aclmdlSetInputAIPP)
        return zf_acl_lacks(error, "aclmdlSetInputAIPP");
    if (zf_acl_prepare_slots(model, error))
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

int zf_acl_set_gear(zf_acl_model *model, slot *at, const int64_t *gear, int length,
                    zf_acl_error *error)
{
    size_t size = (size_t)length * sizeof *gear;
    int wanted = model->gears ? model->gear_length : length;
    if (!gear || length < 1 || length > ACL_MAX_DIMS || length != wanted)
        return zf_acl_refuse(error, "the model is dynamic and needs a shape");
    if (at->gear_length == length && !memcmp(at->gear, gear, size))
        return 0;
    at->gear_length = 0;
    if (tell_gear(model, at, gear, length, error) || zf_acl_set_result_shapes(model, at, error))
        return -1;
    memcpy(at->gear, gear, size);
    at->gear_length = length;
    return 0;
}
