/* What acl_library.c and the files of acl_model.h share. */
#ifndef ZF_ACL_INTERNAL_H
#define ZF_ACL_INTERNAL_H

#include "acl.h"

/* The functions of the opened library. */
#define ZF_ACL_DECLARE(optional, result, name, arguments) result(*name) arguments;
typedef struct {
    ZF_ACL_FUNCTIONS(ZF_ACL_DECLARE)
} zf_acl_api;
#undef ZF_ACL_DECLARE
extern zf_acl_api zf_acl;

/* Fills `error` from ACL's code and its explanation; returns the code. */
int zf_acl_fail(zf_acl_error *error, const char *call, int code);
/* An error of our own; returns -1. */
int zf_acl_refuse(zf_acl_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* An error because the library lacks an optional function; returns -1. */
int zf_acl_lacks(zf_acl_error *error, const char *name);

/* aclInit at the first call; makes `device` current, and gives a context of its own. Counts the
 * context as open until zf_acl_leave_device. */
int zf_acl_enter_device(int device, acl_context *context, zf_acl_error *error);
/* abandoned: the device may still work; the context stays, and counts as open for ever. */
int zf_acl_leave_device(acl_context context, bool abandoned, zf_acl_error *error);

/* The error of a failed task of `device` since the last call; 0: none. Other threads report it. */
int zf_acl_take_exception(int device);

/* zf_acl_host_alloc in a context. */
void *zf_acl_alloc_pinned(acl_context context, size_t nbytes, zf_acl_error *error);

/* Whether [memory, memory + nbytes) is pinned. */
bool zf_acl_is_pinned(const void *memory, size_t nbytes);

/* Calls a function of ACL; jumps to `failed` when that fails, with `error` filled. */
#define ZF_ACL_TRY(name, ...)                                   \
    do {                                                        \
        int acl_code_ = zf_acl.name(__VA_ARGS__);               \
        if (acl_code_) {                                        \
            zf_acl_fail(error, #name, acl_code_);               \
            goto failed;                                        \
        }                                                       \
    } while (0)

#endif
