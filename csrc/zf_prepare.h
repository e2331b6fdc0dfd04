/* The work that the pool's threads do. */
#ifndef ZF_PREPARE_H
#define ZF_PREPARE_H

#include "zf_internal.h"

/* Reads an image and prepares it into job->out. job->result says how it went. */
void zf_compute_job(zf_workspace *ws, const zf_batch *batch, zf_job *job);

/* Whether a job that was computed has something to write. */
bool zf_must_write(const zf_job *job);

/* Writes what a job that was computed has to write: its pixels, its file. */
void zf_write_job(zf_job *job);

#endif
