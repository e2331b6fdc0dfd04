/* The work that the pool's threads do. */
#ifndef ZF_PREPARE_H
#define ZF_PREPARE_H

#include "zf_internal.h"

/* Reads an image and prepares it into job->out. job->result says how it went. */
void zf_compute_job(zf_workspace *ws, const zf_batch *batch, zf_job *job);

/* Writes the file of a job that was computed and has a file. */
void zf_write_job(zf_job *job);

#endif
