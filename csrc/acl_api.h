/*
 * What zoofast assumes of libascendcl.so, the C library of CANN. Everything that
 * rests on the vendor's documentation, and not on a run on a card, is in this file.
 *
 * Names, signatures, values: "AscendCL API reference" of CANN on hiascend.com,
 * sections "Device", "Context", "Stream", "Event", "Memory", "Model loading and
 * execution", "Data types" and "Error codes". They are written down here anew, so
 * that a build needs no CANN. A symbol that some CANN lacks is optional, and the
 * functions that use it say what they do without it.
 *
 * Assumptions, with their source:
 *
 *  1. A context belongs to a device. A thread works on its current context; streams,
 *     events and models are used with the context that made them ("Context").
 *  2. One model id must not run on two streams at the same time ("aclmdlExecuteAsync").
 *  3. A copy is asynchronous only with host memory from aclrtMallocHost
 *     ("aclrtMemcpyAsync"). Such memory serves all devices of a process; the
 *     documentation does not say so, and does not forbid it.
 *  4. An event of aclrtCreateEventExWithFlag needs no reset before it is recorded
 *     again ("aclrtCreateEventExWithFlag"). Events of the older functions are used
 *     the same way where that one is missing; torch_npu does so too.
 *  5. A failed task is reported by the next synchronization with its stream
 *     ("aclrtSynchronizeStream"). Whether a wait for an event that another stream
 *     recorded reports it is not documented. So the exception callback is asked too
 *     ("aclrtSetExceptionInfoCallback"), and all streams are synchronized at the end.
 *  6. The hidden input of dynamic shapes has the name ascend_mbatch_shape_data
 *     ("ACL_DYNAMIC_TENSOR_NAME"), that of dynamic AIPP ascend_dynamic_aipp_data.
 *  7. A model with gears gets buffers of its largest gear, a model with any shape gets
 *     buffers of the batch's size ("aclmdlGetInputSizeByIndex").
 *  8. aclInit and aclFinalize work once in a process ("aclInit", "aclFinalize").
 *  9. After a fork the library is of no use in the child ("aclInit"). zoofast starts
 *     new programs only.
 */
#ifndef ZF_ACL_API_H
#define ZF_ACL_API_H

#include <stddef.h>
#include <stdint.h>

typedef void *acl_context;
typedef void *acl_stream;
typedef void *acl_event;
typedef struct acl_model_desc acl_model_desc;
typedef struct acl_dataset acl_dataset;
typedef struct acl_buffer acl_buffer;
typedef struct acl_tensor_desc acl_tensor_desc;
typedef struct acl_aipp acl_aipp;
typedef struct acl_exception acl_exception;

enum {
    ACL_SUCCESS = 0,
    ACL_REPEAT_INITIALIZE = 100002,
    ACL_LOST_HEARTBEAT = 507010,
    ACL_STREAM_SYNC_TIMEOUT = 507046,
    ACL_EVENT_SYNC_TIMEOUT = 507047,
};
enum { ACL_HOST_TO_DEVICE = 1, ACL_DEVICE_TO_HOST = 2 };          /* aclrtMemcpyKind */
enum { ACL_MALLOC_HUGE_FIRST = 0 };                               /* aclrtMemMallocPolicy */
enum { ACL_HBM = 1, ACL_DDR = 0 };                                /* aclrtMemAttr */
enum { ACL_EVENT_SYNC = 0x1, ACL_EVENT_TIME_LINE = 0x8 };         /* flags of events */
enum { ACL_FORMAT_ND = 2 };                                       /* aclFormat */
enum { ACL_RGB888 = 3 };                                          /* aclAippInputFormat */
enum { ACL_AIPP_STATIC = 1, ACL_AIPP_DYNAMIC = 2, ACL_AIPP_NODE = 3 }; /* aclmdlInputAippType */
enum { ACL_MAX_NAME = 128, ACL_MAX_DIMS = 128 };

#define ACL_GEAR_INPUT "ascend_mbatch_shape_data"
#define ACL_AIPP_INPUT "ascend_dynamic_aipp_data"

typedef struct {
    char name[ACL_MAX_NAME];
    size_t count;
    int64_t dims[ACL_MAX_DIMS];
} acl_dims;

typedef struct {
    size_t count;
    uint64_t batch[ACL_MAX_DIMS];
} acl_batches;

typedef struct {
    size_t count;
    uint64_t hw[ACL_MAX_DIMS][2];
} acl_hws;

/* F(optional?, result, name, arguments); an optional function is NULL if missing. */
#define ZF_ACL_FUNCTIONS(F)                                                                    \
    F(0, int, aclInit, (const char *config))                                                   \
    F(0, int, aclFinalize, (void))                                                             \
    F(1, const char *, aclGetRecentErrMsg, (void))                                             \
    F(1, int, aclrtGetVersion, (int32_t *major, int32_t *minor, int32_t *patch))               \
    F(1, const char *, aclrtGetSocName, (void))                                                \
    F(0, int, aclrtGetDeviceCount, (uint32_t *count))                                          \
    F(0, int, aclrtSetDevice, (int32_t device))                                                \
    F(0, int, aclrtResetDevice, (int32_t device))                                              \
    F(0, int, aclrtCreateContext, (acl_context *context, int32_t device))                      \
    F(0, int, aclrtDestroyContext, (acl_context context))                                      \
    F(0, int, aclrtSetCurrentContext, (acl_context context))                                   \
    F(0, int, aclrtCreateStream, (acl_stream *stream))                                         \
    F(0, int, aclrtDestroyStream, (acl_stream stream))                                         \
    F(0, int, aclrtSynchronizeStream, (acl_stream stream))                                     \
    F(1, int, aclrtSynchronizeStreamWithTimeout, (acl_stream stream, int32_t ms))              \
    F(1, int, aclrtSetExceptionInfoCallback, (void (*call)(acl_exception *)))                  \
    F(1, uint32_t, aclrtGetDeviceIdFromExceptionInfo, (const acl_exception *exception))        \
    F(1, uint32_t, aclrtGetErrorCodeFromExceptionInfo, (const acl_exception *exception))       \
    F(0, int, aclrtCreateEvent, (acl_event *event))                                            \
    F(1, int, aclrtCreateEventWithFlag, (acl_event *event, uint32_t flag))                     \
    F(1, int, aclrtCreateEventExWithFlag, (acl_event *event, uint32_t flag))                   \
    F(0, int, aclrtDestroyEvent, (acl_event event))                                            \
    F(0, int, aclrtRecordEvent, (acl_event event, acl_stream stream))                          \
    F(0, int, aclrtStreamWaitEvent, (acl_stream stream, acl_event event))                      \
    F(0, int, aclrtSynchronizeEvent, (acl_event event))                                        \
    F(1, int, aclrtSynchronizeEventWithTimeout, (acl_event event, int32_t ms))                 \
    F(0, int, aclrtEventElapsedTime, (float *ms, acl_event begin, acl_event end))              \
    F(0, int, aclrtMalloc, (void **memory, size_t nbytes, int policy))                         \
    F(0, int, aclrtFree, (void *memory))                                                       \
    F(0, int, aclrtMallocHost, (void **memory, size_t nbytes))                                 \
    F(0, int, aclrtFreeHost, (void *memory))                                                   \
    F(0, int, aclrtMemcpyAsync,                                                                \
      (void *to, size_t room, const void *from, size_t nbytes, int kind, acl_stream stream))   \
    F(1, int, aclrtGetMemInfo, (int attribute, size_t *available, size_t *total))              \
    F(0, size_t, aclDataTypeSize, (int type))                                                  \
    F(0, acl_buffer *, aclCreateDataBuffer, (void *memory, size_t nbytes))                     \
    F(0, int, aclDestroyDataBuffer, (const acl_buffer *buffer))                                \
    F(0, int, aclUpdateDataBuffer, (acl_buffer *buffer, void *memory, size_t nbytes))          \
    F(0, acl_dataset *, aclmdlCreateDataset, (void))                                           \
    F(0, int, aclmdlDestroyDataset, (const acl_dataset *set))                                  \
    F(0, int, aclmdlAddDatasetBuffer, (acl_dataset *set, acl_buffer *buffer))                  \
    F(0, int, aclmdlLoadFromFile, (const char *file, uint32_t *model))                         \
    F(0, int, aclmdlUnload, (uint32_t model))                                                  \
    F(0, acl_model_desc *, aclmdlCreateDesc, (void))                                           \
    F(0, int, aclmdlDestroyDesc, (acl_model_desc *desc))                                       \
    F(0, int, aclmdlGetDesc, (acl_model_desc *desc, uint32_t model))                           \
    F(0, size_t, aclmdlGetNumInputs, (acl_model_desc *desc))                                   \
    F(0, size_t, aclmdlGetNumOutputs, (acl_model_desc *desc))                                  \
    F(0, size_t, aclmdlGetInputSizeByIndex, (acl_model_desc *desc, size_t index))              \
    F(0, size_t, aclmdlGetOutputSizeByIndex, (acl_model_desc *desc, size_t index))             \
    F(0, const char *, aclmdlGetInputNameByIndex, (const acl_model_desc *desc, size_t index))  \
    F(0, const char *, aclmdlGetOutputNameByIndex, (const acl_model_desc *desc, size_t index)) \
    F(0, int, aclmdlGetInputDataType, (const acl_model_desc *desc, size_t index))              \
    F(0, int, aclmdlGetOutputDataType, (const acl_model_desc *desc, size_t index))             \
    F(0, int, aclmdlGetInputDims, (const acl_model_desc *desc, size_t index, acl_dims *dims))  \
    F(0, int, aclmdlGetOutputDims, (const acl_model_desc *desc, size_t index, acl_dims *dims)) \
    F(1, int, aclmdlGetCurOutputDims,                                                          \
      (const acl_model_desc *desc, size_t index, acl_dims *dims))                              \
    F(1, int, aclmdlGetDynamicBatch, (const acl_model_desc *desc, acl_batches *batches))       \
    F(1, int, aclmdlGetDynamicHW, (const acl_model_desc *desc, size_t index, acl_hws *hws))    \
    F(1, int, aclmdlGetInputDynamicGearCount,                                                  \
      (const acl_model_desc *desc, size_t index, size_t *count))                               \
    F(1, int, aclmdlGetInputDynamicDims,                                                       \
      (const acl_model_desc *desc, size_t index, acl_dims *dims, size_t count))                \
    F(1, int, aclmdlSetDynamicBatchSize,                                                       \
      (uint32_t model, acl_dataset *set, size_t index, uint64_t batch))                        \
    F(1, int, aclmdlSetDynamicHWSize,                                                          \
      (uint32_t model, acl_dataset *set, size_t index, uint64_t h, uint64_t w))                \
    F(1, int, aclmdlSetInputDynamicDims,                                                       \
      (uint32_t model, acl_dataset *set, size_t index, const acl_dims *dims))                  \
    F(1, acl_tensor_desc *, aclCreateTensorDesc,                                               \
      (int type, int count, const int64_t *dims, int format))                                  \
    F(1, void, aclDestroyTensorDesc, (const acl_tensor_desc *desc))                            \
    F(1, size_t, aclGetTensorDescNumDims, (const acl_tensor_desc *desc))                       \
    F(1, int, aclGetTensorDescDimV2, (const acl_tensor_desc *desc, size_t index, int64_t *dim)) \
    F(1, int, aclmdlSetDatasetTensorDesc,                                                      \
      (acl_dataset *set, acl_tensor_desc *desc, size_t index))                                 \
    F(1, acl_tensor_desc *, aclmdlGetDatasetTensorDesc, (const acl_dataset *set, size_t index)) \
    F(0, int, aclmdlExecuteAsync,                                                              \
      (uint32_t model, const acl_dataset *in, acl_dataset *out, acl_stream stream))            \
    F(1, int, aclmdlGetAippType, (uint32_t model, size_t index, int *type, size_t *attached))  \
    F(1, acl_aipp *, aclmdlCreateAIPP, (uint64_t batch))                                       \
    F(1, int, aclmdlDestroyAIPP, (const acl_aipp *aipp))                                       \
    F(1, int, aclmdlSetAIPPInputFormat, (acl_aipp *aipp, int format))                          \
    F(1, int, aclmdlSetAIPPRbuvSwapSwitch, (acl_aipp *aipp, int8_t on))                        \
    F(1, int, aclmdlSetAIPPSrcImageSize, (acl_aipp *aipp, int32_t w, int32_t h))               \
    F(1, int, aclmdlSetAIPPCropParams,                                                         \
      (acl_aipp *aipp, int8_t on, int32_t x, int32_t y, int32_t w, int32_t h, uint64_t image)) \
    F(1, int, aclmdlSetAIPPDtcPixelMin,                                                        \
      (acl_aipp *aipp, float c0, float c1, float c2, float c3, uint64_t image))                \
    F(1, int, aclmdlSetAIPPPixelVarReci,                                                       \
      (acl_aipp *aipp, float c0, float c1, float c2, float c3, uint64_t image))                \
    F(1, int, aclmdlSetInputAIPP,                                                              \
      (uint32_t model, acl_dataset *set, size_t index, const acl_aipp *aipp))

/* E(number, name without ACL_ERROR_, cure or ""); "Error codes" of the reference. */
#define ZF_ACL_ERRORS(E)                                                                       \
    E(100000, "INVALID_PARAM", "")                                                             \
    E(100001, "UNINITIALIZE", "")                                                              \
    E(100002, "REPEAT_INITIALIZE", "another library of this process has used ACL")             \
    E(100003, "INVALID_FILE", "")                                                              \
    E(100011, "INVALID_MODEL_ID", "")                                                          \
    E(100012, "DESERIALIZE_MODEL", "the file is damaged, or is no .om")                        \
    E(100013, "PARSE_MODEL", "the file is damaged, or is no .om")                              \
    E(100014, "READ_MODEL_FAILURE", "the file is damaged, or cannot be read")                  \
    E(100015, "MODEL_SIZE_INVALID", "the file is damaged, or is no .om")                       \
    E(100037, "REPEAT_FINALIZE", "")                                                           \
    E(107000, "RT_PARAM_INVALID", "")                                                          \
    E(107001, "RT_INVALID_DEVICEID", "there is no such device; see npu-smi info")              \
    E(107002, "RT_CONTEXT_NULL", "")                                                           \
    E(107003, "RT_STREAM_CONTEXT", "")                                                         \
    E(107004, "RT_MODEL_CONTEXT", "")                                                          \
    E(107019, "RT_WAIT_TIMEOUT", "")                                                           \
    E(107020, "RT_TASK_TIMEOUT", "")                                                           \
    E(107022, "RT_DEVICE_TASK_ABORT", "")                                                      \
    E(107023, "RT_STREAM_ABORT", "")                                                           \
    E(145000, "GE_PARAM_INVALID", "the tensors do not fit the model")                          \
    E(145001, "GE_EXEC_NOT_INIT", "")                                                          \
    E(145002, "GE_EXEC_MODEL_PATH_INVALID", "the file cannot be read")                         \
    E(145003, "GE_EXEC_MODEL_ID_INVALID", "")                                                  \
    E(145006, "GE_EXEC_MODEL_DATA_SIZE_INVALID", "the file is damaged")                        \
    E(145011, "GE_DYNAMIC_INPUT_ADDR_INVALID", "")                                             \
    E(145012, "GE_DYNAMIC_INPUT_LENGTH_INVALID", "")                                           \
    E(145013, "GE_DYNAMIC_BATCH_SIZE_INVALID", "the model was not compiled for this batch size") \
    E(145014, "GE_AIPP_BATCH_EMPTY", "")                                                       \
    E(145015, "GE_AIPP_NOT_EXIST", "")                                                         \
    E(145016, "GE_AIPP_MODE_INVALID", "")                                                      \
    E(200000, "BAD_ALLOC", "the host has too little memory")                                   \
    E(200001, "API_NOT_SUPPORT", "this CANN or chip does not support the function")            \
    E(207000, "RT_FEATURE_NOT_SUPPORT", "this CANN or chip does not support the function")     \
    E(207001, "RT_MEMORY_ALLOCATION",                                                          \
      "memory ran out: use a smaller batch, or end other programs on the device")              \
    E(207004, "RT_NO_DEVICE", "see npu-smi info")                                              \
    E(207006, "RT_NO_PERMISSION", "may this user open /dev/davinci*?")                         \
    E(207018, "RT_DEVICE_OOM",                                                                 \
      "memory ran out: use a smaller batch, or end other programs on the device")              \
    E(245000, "GE_MEMORY_ALLOCATION",                                                          \
      "memory ran out: use a smaller batch, or end other programs on the device")              \
    E(500000, "INTERNAL_ERROR", "")                                                            \
    E(500001, "FAILURE", "")                                                                   \
    E(500002, "GE_FAILURE", "was the .om compiled for this chip and CANN?")                    \
    E(500003, "RT_FAILURE", "")                                                                \
    E(507000, "RT_INTERNAL_ERROR", "")                                                         \
    E(507004, "RT_STREAM_NOT_COMPLETE", "")                                                    \
    E(507006, "RT_EVENT_NOT_COMPLETE", "")                                                     \
    E(507010, "RT_LOST_HEARTBEAT", "the device is lost: see npu-smi info, reset or reboot it") \
    E(507011, "RT_MODEL_EXECUTE", "was the .om compiled for this chip and CANN?")              \
    E(507012, "RT_REPORT_TIMEOUT", "")                                                         \
    E(507013, "RT_SYS_DMA", "")                                                                \
    E(507014, "RT_AICORE_TIMEOUT", "")                                                         \
    E(507015, "RT_AICORE_EXCEPTION", "")                                                       \
    E(507017, "RT_AICPU_TIMEOUT", "")                                                          \
    E(507018, "RT_AICPU_EXCEPTION", "")                                                        \
    E(507033, "RT_DEV_SETUP_ERROR", "is the driver loaded, and may this user open /dev/davinci*?") \
    E(507046, "RT_STREAM_SYNC_TIMEOUT", "the device does not answer")                          \
    E(507047, "RT_EVENT_SYNC_TIMEOUT", "the device does not answer")                           \
    E(507899, "RT_DRV_INTERNAL_ERROR", "the process was forked, or the driver is broken")      \
    E(545000, "GE_INTERNAL_ERROR", "")                                                         \
    E(545001, "GE_LOAD_MODEL", "was the .om compiled for this chip and CANN?")

#endif
