/* What the pool runs. */
#ifndef ZF_PREPARE_H
#define ZF_PREPARE_H

#include "zf_internal.h"

/* Reads and prepares one image into job->out; the outcome is in job->result. */
void zf_compute_job(zf_workspace *ws, const zf_recipe *recipe, zf_job *job);

/* Writes the file of a job that was computed and has one. */
void zf_write_job(zf_job *job);

#endif
