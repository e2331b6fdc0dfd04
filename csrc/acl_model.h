/* A model on a device, for the files that make it up: acl_describe.c, acl_slots.c, acl_dynamic.c,
 * acl_batches.c and acl_model.c. */
#ifndef ZF_ACL_MODEL_H
#define ZF_ACL_MODEL_H

#include "acl_internal.h"

#include <stdatomic.h>

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

/* Fills the model from what ACL tells of it (acl_describe.c). */
int zf_acl_describe(zf_acl_model *model, zf_acl_error *error);

/* Memory of the device, of at least `nbytes`. The slot is not in flight. */
int zf_acl_reserve_device(device_tensor *tensor, size_t nbytes, zf_acl_error *error);
/* Pinned memory of the host, of at least `nbytes`. */
int zf_acl_reserve_host(const zf_acl_model *model, host_tensor *tensor, size_t nbytes,
                        zf_acl_error *error);
/* Allocates what all slots need, at the first call. */
int zf_acl_prepare_slots(zf_acl_model *model, zf_acl_error *error);
void zf_acl_free_slot(zf_acl_model *model, slot *at);
/* The shapes of a slot's outputs with the gear that was told last; without gears, those of the
 * model. */
int zf_acl_set_result_shapes(zf_acl_model *model, slot *at, zf_acl_error *error);

/* Tells the device which gear the slot's batch has; the hidden input keeps it (acl_dynamic.c). */
int zf_acl_set_gear(zf_acl_model *model, slot *at, const int64_t *gear, int length,
                    zf_acl_error *error);

#endif
