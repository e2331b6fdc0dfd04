/* Worker threads over a queue of batches. The only file that knows pthreads. */
#include "zf_prepare.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct zf_pool {
    pthread_mutex_t lock;
    pthread_cond_t work, written, done;
    zf_batch *head, *tail; /* batches that still have jobs to hand out */
    /* Computed jobs that wait for a writer. Whoever computes goes on with its
     * next image at once: a thread that also wrote would leave its core to
     * one that first has to wake up. */
    zf_job *unwritten, **unwritten_end;
    bool cancelled, closing;
    bool computed;  /* nothing more will have to be written */
    int ncomputing; /* threads that compute; they are the first of `threads` */
    int nthreads;
    pthread_t *threads;
};

typedef struct {
    zf_pool *pool;
    zf_workspace *ws; /* of a thread that computes; NULL: it writes */
    int index;
} worker;

/* The next job, with the lock held; NULL when there is none. */
static zf_job *take(zf_pool *pool)
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

/* With the lock held. */
static void finish(zf_pool *pool, zf_job *job)
{
    zf_batch *batch = job->batch;
    if (++batch->finished == batch->njobs)
        pthread_cond_broadcast(&pool->done);
}

/* The lock is held before and after. */
static void compute(zf_pool *pool, zf_job *job, const worker *self)
{
    if (pool->cancelled) {
        memset(&job->result, 0, sizeof job->result);
        job->result.status = ZF_CANCELLED;
        finish(pool, job);
        return;
    }
    pthread_mutex_unlock(&pool->lock);
    zf_compute_job(self->ws, job->batch->recipe, job);
    job->result.worker = self->index;
    pthread_mutex_lock(&pool->lock);
    if (job->file_path && job->result.status == ZF_OK) {
        job->link = NULL;
        *pool->unwritten_end = job;
        pool->unwritten_end = &job->link;
        pthread_cond_signal(&pool->written);
    } else {
        finish(pool, job);
    }
}

static void run_computing(zf_pool *pool, const worker *self)
{
    for (;;) {
        zf_job *job = take(pool);
        if (job)
            compute(pool, job, self);
        else if (pool->closing)
            return;
        else
            pthread_cond_wait(&pool->work, &pool->lock);
    }
}

static void run_writing(zf_pool *pool, const worker *self)
{
    for (;;) {
        zf_job *job = pool->unwritten;
        if (job) {
            pool->unwritten = job->link;
            if (!pool->unwritten)
                pool->unwritten_end = &pool->unwritten;
            pthread_mutex_unlock(&pool->lock);
            job->result.writer = self->index - pool->ncomputing;
            zf_write_job(job);
            pthread_mutex_lock(&pool->lock);
            finish(pool, job);
        } else if (pool->computed) {
            return;
        } else {
            pthread_cond_wait(&pool->written, &pool->lock);
        }
    }
}

static void *work(void *argument)
{
    worker self = *(worker *)argument;
    free(argument);
    pthread_mutex_lock(&self.pool->lock);
    if (self.ws)
        run_computing(self.pool, &self);
    else
        run_writing(self.pool, &self);
    pthread_mutex_unlock(&self.pool->lock);
    zf_workspace_close(self.ws);
    return NULL;
}

static bool start(zf_pool *pool, zf_workspace *ws)
{
    worker *self = malloc(sizeof *self);
    if (!self)
        return false;
    *self = (worker){pool, ws, pool->nthreads};
    if (pthread_create(&pool->threads[pool->nthreads], NULL, work, self) != 0) {
        free(self);
        return false;
    }
    pool->nthreads++;
    return true;
}

static bool start_computing(zf_pool *pool, const zf_kernels *kernels)
{
    zf_workspace *ws = zf_workspace_open(kernels);
    if (ws && start(pool, ws)) {
        pool->ncomputing++;
        return true;
    }
    zf_workspace_close(ws);
    return false;
}

zf_pool *zf_pool_open(int nthreads, int nwriters, const zf_kernels *kernels)
{
    zf_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->written, NULL);
    pthread_cond_init(&pool->done, &clock);
    pthread_condattr_destroy(&clock);
    pool->unwritten_end = &pool->unwritten;
    pool->threads = calloc((size_t)nthreads + (size_t)nwriters, sizeof *pool->threads);
    bool ok = pool->threads != NULL;
    for (int i = 0; ok && i < nthreads; i++)
        ok = start_computing(pool, kernels);
    for (int i = 0; ok && i < nwriters; i++)
        ok = start(pool, NULL);
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
    for (int i = 0; i < pool->ncomputing; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_mutex_lock(&pool->lock);
    pool->computed = true;
    pthread_cond_broadcast(&pool->written);
    pthread_mutex_unlock(&pool->lock);
    for (int i = pool->ncomputing; i < pool->nthreads; i++)
        pthread_join(pool->threads[i], NULL);
    free(pool->threads);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->written);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}
