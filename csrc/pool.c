/*
 * Threads that compute the jobs of a queue of batches, and threads that write
 * the computed jobs' files and pixels.
 *
 * Computing threads never wait for the disk. If a thread computed and wrote in
 * turn, its core would be idle during the write until another thread woke up.
 */
#include "threads.h"
#include "zf_prepare.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define WAKE_AFTER 8 /* jobs with pixels to store, unless a batch is complete before */

struct zf_pool {
    pthread_mutex_t lock; /* guards all fields below, and the batches */
    pthread_cond_t submitted; /* a batch was queued, or the pool closes */
    pthread_cond_t computed;  /* a job waits for a writer, or no more will come */
    pthread_cond_t done;      /* all jobs of a batch are finished */
    zf_batch *head, *tail;    /* batches with jobs that have not begun */
    zf_job *unwritten, **unwritten_end; /* computed jobs with something to write */
    int nquiet; /* jobs that became unwritten since a writer was woken */
    bool closing;      /* jobs that have not begun are cancelled */
    bool all_computed; /* no more jobs will need a writer */
    /* constant after zf_pool_open */
    int nworkspaces;
    zf_workspace **workspaces; /* one for each computing thread */
    zf_threads *computing, *writing;
};

/* Takes the next job from the queue, NULL when there is none. The caller holds
 * the lock. */
static zf_job *take_job(zf_pool *pool)
{
    zf_batch *batch = pool->head;
    if (!batch)
        return NULL;
    zf_job *job = &batch->jobs[batch->next++];
    if (batch->next == batch->njobs) {
        pool->head = batch->link;
        if (!pool->head)
            pool->tail = NULL;
    }
    job->batch = batch;
    return job;
}

/* Counts a job as finished. The caller holds the lock. */
static void finish_job(zf_pool *pool, zf_job *job)
{
    zf_batch *batch = job->batch;
    if (++batch->finished == batch->njobs)
        pthread_cond_broadcast(&pool->done);
}

/* Computes a job, or cancels it when the pool closes. The caller holds the
 * lock; it is released during the computation. */
static void compute_job(zf_pool *pool, zf_job *job, int worker)
{
    if (pool->closing) {
        memset(&job->result, 0, sizeof job->result);
        job->result.status = ZF_CANCELLED;
        finish_job(pool, job);
        return;
    }
    pthread_mutex_unlock(&pool->lock);
    zf_compute_job(pool->workspaces[worker], job->batch, job);
    job->result.worker = worker;
    pthread_mutex_lock(&pool->lock);
    zf_batch *batch = job->batch;
    bool ends_batch = ++batch->computed == batch->njobs;
    if (zf_must_write(job)) {
        job->link = NULL;
        *pool->unwritten_end = job;
        pool->unwritten_end = &job->link;
        pool->nquiet++;
    } else {
        finish_job(pool, job);
    }
    /* A file is written at once, since its write may wait for the disk. Pixels go to the page
     * cache: to wake a writer for each image would cost more than the delay. */
    bool wakes = job->file_path || ends_batch || pool->nquiet == WAKE_AFTER;
    if (pool->nquiet && wakes) {
        pool->nquiet = 0;
        pthread_cond_signal(&pool->computed);
    }
}

static void run_computing(void *context, int worker)
{
    zf_pool *pool = context;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        zf_job *job = take_job(pool);
        if (job)
            compute_job(pool, job, worker);
        else if (pool->closing)
            break;
        else
            pthread_cond_wait(&pool->submitted, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}

static void run_writing(void *context, int writer)
{
    zf_pool *pool = context;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        zf_job *job = pool->unwritten;
        if (job) {
            pool->unwritten = job->link;
            if (!pool->unwritten)
                pool->unwritten_end = &pool->unwritten;
            pthread_mutex_unlock(&pool->lock);
            job->result.writer = writer;
            zf_write_job(job);
            pthread_mutex_lock(&pool->lock);
            finish_job(pool, job);
        } else if (pool->all_computed) {
            break;
        } else {
            pthread_cond_wait(&pool->computed, &pool->lock);
        }
    }
    pthread_mutex_unlock(&pool->lock);
}

/* Opens a workspace for each computing thread. */
static bool open_workspaces(zf_pool *pool, int n, zf_level level)
{
    pool->workspaces = calloc((size_t)n, sizeof *pool->workspaces);
    if (!pool->workspaces)
        return false;
    for (; pool->nworkspaces < n; pool->nworkspaces++) {
        zf_workspace *ws = zf_workspace_open(level);
        if (!ws)
            return false;
        pool->workspaces[pool->nworkspaces] = ws;
    }
    return true;
}

/* Starts n threads; false when fewer could be started. */
static bool start_threads(zf_threads **threads, int n, void (*run)(void *, int), zf_pool *pool)
{
    *threads = zf_threads_start(n, run, pool);
    return *threads && zf_threads_count(*threads) == n;
}

zf_pool *zf_pool_open(int ncomputing, int nwriting, zf_level level)
{
    zf_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->submitted, NULL);
    pthread_cond_init(&pool->computed, NULL);
    pthread_cond_init(&pool->done, &clock);
    pthread_condattr_destroy(&clock);
    pool->unwritten_end = &pool->unwritten;
    if (open_workspaces(pool, ncomputing, level) &&
        start_threads(&pool->computing, ncomputing, run_computing, pool) &&
        start_threads(&pool->writing, nwriting, run_writing, pool))
        return pool;
    zf_pool_close(pool);
    return NULL;
}

void zf_pool_submit(zf_pool *pool, zf_batch *batch)
{
    batch->next = batch->computed = batch->finished = 0;
    batch->link = NULL;
    if (batch->njobs == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    if (pool->tail)
        pool->tail->link = batch;
    else
        pool->head = batch;
    pool->tail = batch;
    pthread_cond_broadcast(&pool->submitted);
    pthread_mutex_unlock(&pool->lock);
}

int zf_pool_wait(zf_pool *pool, zf_batch *batch, int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&pool->lock);
    int error = 0;
    while (batch->finished < batch->njobs && error == 0)
        error = pthread_cond_timedwait(&pool->done, &pool->lock, &until);
    int done = batch->finished == batch->njobs;
    pthread_mutex_unlock(&pool->lock);
    return done;
}

int zf_pool_is_here(const zf_pool *pool) { return zf_threads_are_here(pool->computing); }

void zf_pool_close(zf_pool *pool)
{
    if (!pool || (pool->computing && !zf_pool_is_here(pool)))
        return; /* in a child, a lock may be locked for ever: its copy of the memory stays */
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    pthread_cond_broadcast(&pool->submitted);
    pthread_mutex_unlock(&pool->lock);
    zf_threads_join(pool->computing);
    pthread_mutex_lock(&pool->lock);
    pool->all_computed = true;
    pthread_cond_broadcast(&pool->computed);
    pthread_mutex_unlock(&pool->lock);
    zf_threads_join(pool->writing);
    for (int i = 0; i < pool->nworkspaces; i++)
        zf_workspace_close(pool->workspaces[i]);
    free(pool->workspaces);
    pthread_cond_destroy(&pool->submitted);
    pthread_cond_destroy(&pool->computed);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}
