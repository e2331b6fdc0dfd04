/* Threads that run one function and are joined together. */
#ifndef ZF_THREADS_H
#define ZF_THREADS_H

typedef struct zf_threads zf_threads;

/* Starts n >= 0 threads, or fewer when the system has no more. Each calls
 * run(context, index) with an index of its own, counted from 0. NULL when out
 * of memory. */
zf_threads *zf_threads_start(int n, void (*run)(void *context, int index), void *context);

/* How many threads were started. */
int zf_threads_count(const zf_threads *threads);

/* Waits until every thread's run has returned, then frees `threads`, which may
 * be NULL. */
void zf_threads_join(zf_threads *threads);

#endif
