/* libascendcl.so in this process: its functions, devices, pinned memory, and how all of it ends. */
#include "acl_internal.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_DEVICES = 256 };

typedef struct pinned {
    char *memory;
    size_t nbytes;
    struct pinned *link;
} pinned;

zf_acl_api zf_acl;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below but the atomics */
static void *library;
static bool initialized, finalized;
static int open_contexts;                  /* abandoned ones too */
static int abandoned_contexts;
static int uses[MAX_DEVICES];              /* calls of aclrtSetDevice that are not reset yet */
static pinned *all_pinned;
static _Atomic int exceptions[MAX_DEVICES];

const char *zf_acl_error_name(int code)
{
    switch (code) {
#define ZF_ACL_NAME(number, name, cure) \
    case number:                        \
        return "ACL_ERROR_" name;
        ZF_ACL_ERRORS(ZF_ACL_NAME)
    default:
        return "";
    }
}

const char *zf_acl_error_cure(int code)
{
    switch (code) {
#define ZF_ACL_CURE(number, name, cure) \
    case number:                        \
        return cure;
        ZF_ACL_ERRORS(ZF_ACL_CURE)
    default:
        return "";
    }
}

int zf_acl_fail(zf_acl_error *error, const char *call, int code)
{
    const char *text = zf_acl.aclGetRecentErrMsg ? zf_acl.aclGetRecentErrMsg() : NULL;
    error->code = code;
    error->call = call;
    snprintf(error->text, sizeof error->text, "%s", text ? text : "");
    return code;
}

int zf_acl_refuse(zf_acl_error *error, const char *format, ...)
{
    va_list arguments;
    error->code = 0;
    error->call = NULL;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return -1;
}

int zf_acl_lacks(zf_acl_error *error, const char *name)
{
    return zf_acl_refuse(error, "the CANN of this machine has no function %s", name);
}

/* At the end of the process. A device that was abandoned may keep threads of the library for ever,
 * and the library's destructors would wait for them. Python and stdio are done by now. */
static void leave(int status, void *context)
{
    (void)context;
    if (zf_acl_is_busy()) {
        fflush(NULL);
        _exit(status);
    }
}

int zf_acl_open_library(const char *file, zf_acl_error *error)
{
    static const struct {
        int optional;
        const char *name;
        size_t offset;
    } functions[] = {
#define ZF_ACL_ENTRY(optional, result, name, arguments) \
    {optional, #name, offsetof(zf_acl_api, name)},
        ZF_ACL_FUNCTIONS(ZF_ACL_ENTRY)
    };
    int failed = 0;
    pthread_mutex_lock(&lock);
    if (!library) {
        void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
        const char *reason = handle ? NULL : dlerror();
        zf_acl_api found;
        memset(&found, 0, sizeof found);
        if (!handle)
            failed = zf_acl_refuse(error, "%s", reason ? reason : file);
        for (size_t i = 0; !failed && i < sizeof functions / sizeof functions[0]; i++) {
            void *address = dlsym(handle, functions[i].name);
            if (!address && !functions[i].optional)
                failed = zf_acl_refuse(error, "%s: has no function %s; it is no libascendcl.so, "
                                       "or of a CANN that is too old", file, functions[i].name);
            memcpy((char *)&found + functions[i].offset, &address, sizeof address);
        }
        if (!failed) {
            zf_acl = found;
            library = handle;
            on_exit(leave, NULL); /* before the library's own destructors, which came earlier */
        } else if (handle) {
            dlclose(handle);
        }
    }
    pthread_mutex_unlock(&lock);
    return failed;
}

bool zf_acl_is_open(void)
{
    pthread_mutex_lock(&lock);
    bool open = library != NULL;
    pthread_mutex_unlock(&lock);
    return open;
}

bool zf_acl_is_busy(void)
{
    pthread_mutex_lock(&lock);
    bool busy = open_contexts > 0;
    pthread_mutex_unlock(&lock);
    return busy;
}

/* ACL calls this in a thread of its own. */
static void on_exception(acl_exception *exception)
{
    uint32_t device = zf_acl.aclrtGetDeviceIdFromExceptionInfo(exception);
    uint32_t code = zf_acl.aclrtGetErrorCodeFromExceptionInfo(exception);
    if (device < MAX_DEVICES)
        atomic_store(&exceptions[device], code ? (int)code : -1);
}

int zf_acl_take_exception(int device)
{
    return atomic_exchange(&exceptions[device], 0);
}

/* The caller holds the lock. */
static int initialize(zf_acl_error *error)
{
    if (!library)
        return zf_acl_refuse(error, "libascendcl.so is not open");
    if (finalized)
        return zf_acl_refuse(error, "ACL is finalized; a process can use it only once");
    if (initialized)
        return 0;
    int code = zf_acl.aclInit(NULL);
    if (code && code != ACL_REPEAT_INITIALIZE)
        return zf_acl_fail(error, "aclInit", code);
    initialized = true;
    if (zf_acl.aclrtSetExceptionInfoCallback && zf_acl.aclrtGetDeviceIdFromExceptionInfo &&
        zf_acl.aclrtGetErrorCodeFromExceptionInfo)
        zf_acl.aclrtSetExceptionInfoCallback(on_exception);
    return 0;
}

int zf_acl_enter_device(int device, acl_context *context, zf_acl_error *error)
{
    if (device < 0 || device >= MAX_DEVICES)
        return zf_acl_refuse(error, "there is no device %d", device);
    pthread_mutex_lock(&lock);
    int failed = initialize(error);
    if (!failed)
        open_contexts++; /* from now on this thread may hang in ACL */
    pthread_mutex_unlock(&lock);
    if (failed)
        return failed;
    ZF_ACL_TRY(aclrtSetDevice, device);
    /* zf_acl_finalize resets the device, also after an error: a reset here could meet another
     * thread's aclrtSetDevice, and take the device away from that thread. */
    pthread_mutex_lock(&lock);
    uses[device]++;
    pthread_mutex_unlock(&lock);
    ZF_ACL_TRY(aclrtCreateContext, context, device);
    zf_acl_take_exception(device);
    return 0;
failed:
    pthread_mutex_lock(&lock);
    open_contexts--;
    pthread_mutex_unlock(&lock);
    return -1;
}

int zf_acl_leave_device(acl_context context, bool abandoned, zf_acl_error *error)
{
    int code = 0;
    pthread_mutex_lock(&lock);
    if (abandoned)
        abandoned_contexts++;
    pthread_mutex_unlock(&lock);
    if (abandoned)
        return 0;
    code = zf_acl.aclrtDestroyContext(context);
    if (code)
        zf_acl_fail(error, "aclrtDestroyContext", code);
    pthread_mutex_lock(&lock);
    open_contexts--;
    pthread_mutex_unlock(&lock);
    return code;
}

void *zf_acl_alloc_pinned(acl_context context, size_t nbytes, zf_acl_error *error)
{
    pinned *entry = calloc(1, sizeof *entry);
    void *memory = NULL;
    if (!entry) {
        zf_acl_refuse(error, "out of memory");
        return NULL;
    }
    ZF_ACL_TRY(aclrtSetCurrentContext, context);
    ZF_ACL_TRY(aclrtMallocHost, &memory, nbytes);
    memset(memory, 0, nbytes);
    entry->memory = memory;
    entry->nbytes = nbytes;
    pthread_mutex_lock(&lock);
    entry->link = all_pinned;
    all_pinned = entry;
    pthread_mutex_unlock(&lock);
    return memory;
failed:
    free(entry);
    return NULL;
}

void zf_acl_host_free(void *memory)
{
    bool is_ours = false;
    pthread_mutex_lock(&lock);
    for (pinned **at = &all_pinned; *at && !abandoned_contexts; at = &(*at)->link) {
        pinned *entry = *at;
        if (entry->memory == memory) {
            *at = entry->link;
            free(entry);
            is_ours = true;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    if (is_ours)
        zf_acl.aclrtFreeHost(memory);
}

bool zf_acl_is_pinned(const void *memory, size_t nbytes)
{
    uintptr_t begin = (uintptr_t)memory;
    bool found = false;
    pthread_mutex_lock(&lock);
    for (const pinned *at = all_pinned; at && !found; at = at->link) {
        uintptr_t first = (uintptr_t)at->memory;
        found = begin >= first && nbytes <= at->nbytes && begin - first <= at->nbytes - nbytes;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

int zf_acl_finalize(zf_acl_error *error)
{
    int failed = 0;
    pthread_mutex_lock(&lock);
    bool now = initialized && !finalized && open_contexts == 0;
    if (now)
        finalized = true;
    pinned *memory = now ? all_pinned : NULL;
    if (now)
        all_pinned = NULL;
    pthread_mutex_unlock(&lock);
    if (!now)
        return 0;
    while (memory) {
        pinned *link = memory->link;
        zf_acl.aclrtFreeHost(memory->memory);
        free(memory);
        memory = link;
    }
    for (int device = 0; device < MAX_DEVICES; device++) {
        for (; uses[device] > 0; uses[device]--) {
            int code = zf_acl.aclrtResetDevice(device);
            if (code && !failed)
                failed = zf_acl_fail(error, "aclrtResetDevice", code);
        }
    }
    int code = zf_acl.aclFinalize();
    if (code && !failed)
        failed = zf_acl_fail(error, "aclFinalize", code);
    return failed;
}
