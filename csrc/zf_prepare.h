/* What the pool runs. */
#ifndef ZF_PREPARE_H
#define ZF_PREPARE_H

#include "zf_internal.h"

/* Reads, prepares and, if asked, writes one image; the outcome is in
 * job->result. */
void zf_run_job(zf_workspace *ws, const zf_recipe *recipe, zf_job *job, int worker);

#endif
