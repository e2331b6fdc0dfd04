/*
 * Threads that run one function and are joined together.
 *
 * A child process made by fork() has a copy of the memory, but no copy of the
 * threads, and a lock that a thread held stays locked for ever. So the child may
 * only ask whether the threads are here, and join them, which then does nothing.
 */
#ifndef ZF_THREADS_H
#define ZF_THREADS_H

#include <stdbool.h>

typedef struct zf_threads zf_threads;

/* Starts n >= 0 threads, or fewer when the system has no more. Each calls
 * run(context, index) with an index of its own, counted from 0. NULL when out
 * of memory. */
zf_threads *zf_threads_start(int n, void (*run)(void *context, int index), void *context);

/* How many threads were started. */
int zf_threads_count(const zf_threads *threads);

/* Whether this process started the threads; false in its children. */
bool zf_threads_are_here(const zf_threads *threads);

/* Waits until every thread's run has returned, then frees `threads`, which may
 * be NULL. */
void zf_threads_join(zf_threads *threads);

#endif
