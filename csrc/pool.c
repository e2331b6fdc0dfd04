/* Worker threads over a queue of batches. The only file that knows pthreads. */
#include "zf_prepare.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct zf_pool {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    zf_batch *head, *tail; /* batches that still have jobs to hand out */
    bool cancelled, closing;
    int nthreads;
    pthread_t *threads;
    zf_workspace **workspaces;
};

typedef struct {
    zf_pool *pool;
    zf_workspace *ws;
    int index;
} worker;

/* The next job, with the lock held; NULL when there is none. */
static zf_job *take(zf_pool *pool, zf_batch **from)
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
    *from = batch;
    return job;
}

static void *work(void *argument)
{
    worker *self = argument;
    zf_pool *pool = self->pool;
    zf_workspace *ws = self->ws;
    int index = self->index;
    free(self);

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        zf_batch *batch;
        zf_job *job = take(pool, &batch);
        if (!job) {
            if (pool->closing)
                break;
            pthread_cond_wait(&pool->work, &pool->lock);
            continue;
        }
        bool cancelled = pool->cancelled;
        pthread_mutex_unlock(&pool->lock);
        if (cancelled) {
            memset(&job->result, 0, sizeof job->result);
            job->result.status = ZF_CANCELLED;
        } else {
            zf_run_job(ws, batch->recipe, job, index);
        }
        pthread_mutex_lock(&pool->lock);
        if (++batch->finished == batch->njobs)
            pthread_cond_broadcast(&pool->done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static bool start(zf_pool *pool, const zf_kernels *kernels)
{
    worker *self = malloc(sizeof *self);
    zf_workspace *ws = zf_workspace_open(kernels);
    if (self && ws) {
        *self = (worker){pool, ws, pool->nthreads};
        if (pthread_create(&pool->threads[pool->nthreads], NULL, work, self) == 0) {
            pool->workspaces[pool->nthreads++] = ws;
            return true;
        }
    }
    free(self);
    zf_workspace_close(ws);
    return false;
}

zf_pool *zf_pool_open(int nthreads, const zf_kernels *kernels)
{
    zf_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, &clock);
    pthread_condattr_destroy(&clock);
    pool->threads = calloc((size_t)nthreads, sizeof *pool->threads);
    pool->workspaces = calloc((size_t)nthreads, sizeof *pool->workspaces);
    bool ok = pool->threads && pool->workspaces;
    for (int i = 0; ok && i < nthreads; i++)
        ok = start(pool, kernels);
    if (ok)
        return pool;
    zf_pool_close(pool);
    return NULL;
}

void zf_pool_submit(zf_pool *pool, zf_batch *batch)
{
    batch->next = batch->finished = 0;
    batch->link = NULL;
    if (batch->njobs == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    if (pool->tail)
        pool->tail->link = batch;
    else
        pool->head = batch;
    pool->tail = batch;
    pthread_cond_broadcast(&pool->work);
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

void zf_pool_cancel(zf_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->cancelled = true;
    pthread_mutex_unlock(&pool->lock);
}

void zf_pool_close(zf_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->cancelled = pool->closing = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->nthreads; i++) {
        pthread_join(pool->threads[i], NULL);
        zf_workspace_close(pool->workspaces[i]);
    }
    free(pool->threads);
    free(pool->workspaces);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}
