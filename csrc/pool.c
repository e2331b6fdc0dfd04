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
    /* A worker computes only while it holds a workspace, and gives it back
     * to write its file: the disk's waiting is then another one's computing.
     * So there are more workers than workspaces. */
    zf_workspace **idle;
    int nidle;
    int nthreads;
    pthread_t *threads;
};

typedef struct {
    zf_pool *pool;
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

/* Computes and writes; the lock is held before and after. */
static void run(zf_pool *pool, zf_batch *batch, zf_job *job, int index)
{
    if (pool->cancelled) {
        memset(&job->result, 0, sizeof job->result);
        job->result.status = ZF_CANCELLED;
        return;
    }
    zf_workspace *ws = pool->idle[--pool->nidle];
    pthread_mutex_unlock(&pool->lock);
    zf_compute_job(ws, batch->recipe, job);
    job->result.worker = index;
    pthread_mutex_lock(&pool->lock);
    pool->idle[pool->nidle++] = ws;
    if (job->file_path && job->result.status == ZF_OK) {
        if (pool->head)
            pthread_cond_signal(&pool->work);
        pthread_mutex_unlock(&pool->lock);
        zf_write_job(job);
        pthread_mutex_lock(&pool->lock);
    }
}

static void *work(void *argument)
{
    worker self = *(worker *)argument;
    zf_pool *pool = self.pool;
    free(argument);

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        zf_batch *batch;
        zf_job *job = pool->nidle > 0 ? take(pool, &batch) : NULL;
        if (job) {
            run(pool, batch, job, self.index);
            if (++batch->finished == batch->njobs)
                pthread_cond_broadcast(&pool->done);
        } else if (pool->closing && !pool->head) {
            break;
        } else {
            pthread_cond_wait(&pool->work, &pool->lock);
        }
    }
    pthread_cond_broadcast(&pool->work); /* others may wait for the last workspace */
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static bool start(zf_pool *pool)
{
    worker *self = malloc(sizeof *self);
    if (!self)
        return false;
    *self = (worker){pool, pool->nthreads};
    if (pthread_create(&pool->threads[pool->nthreads], NULL, work, self) != 0) {
        free(self);
        return false;
    }
    pool->nthreads++;
    return true;
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
    /* Writing a file may take as long as computing two; one more pair, so
     * that a single thread is not held up by one slow write. */
    int nworkers = 3 * nthreads + 2;
    pool->threads = calloc((size_t)nworkers, sizeof *pool->threads);
    pool->idle = calloc((size_t)nthreads, sizeof *pool->idle);
    bool ok = pool->threads && pool->idle;
    for (int i = 0; ok && i < nthreads; i++) {
        ok = (pool->idle[i] = zf_workspace_open(kernels)) != NULL;
        pool->nidle += ok;
    }
    for (int i = 0; ok && i < nworkers; i++)
        ok = start(pool);
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
    for (int i = 0; i < pool->nthreads; i++)
        pthread_join(pool->threads[i], NULL);
    while (pool->nidle > 0)
        zf_workspace_close(pool->idle[--pool->nidle]);
    free(pool->threads);
    free(pool->idle);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}
