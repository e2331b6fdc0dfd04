/* See threads.h. */
#include "threads.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    pthread_t id;
    zf_threads *group;
    int index;
} thread;

struct zf_threads {
    void (*run)(void *context, int index);
    void *context;
    int count;
    pid_t process; /* that started the threads */
    thread threads[];
};

static void *begin(void *argument)
{
    const thread *self = argument;
    self->group->run(self->group->context, self->index);
    return NULL;
}

zf_threads *zf_threads_start(int n, void (*run)(void *context, int index), void *context)
{
    zf_threads *group = malloc(sizeof *group + (size_t)n * sizeof group->threads[0]);
    if (!group)
        return NULL;
    group->run = run;
    group->context = context;
    group->process = getpid();
    for (group->count = 0; group->count < n; group->count++) {
        thread *next = &group->threads[group->count];
        next->group = group;
        next->index = group->count;
        if (pthread_create(&next->id, NULL, begin, next) != 0)
            break;
    }
    return group;
}

int zf_threads_count(const zf_threads *group) { return group->count; }

bool zf_threads_are_here(const zf_threads *group) { return group->process == getpid(); }

void zf_threads_join(zf_threads *group)
{
    if (!group)
        return;
    for (int i = 0; i < group->count && zf_threads_are_here(group); i++)
        pthread_join(group->threads[i].id, NULL);
    free(group);
}
