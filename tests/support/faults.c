/* Preloaded into a process: makes one chosen system call fail, fall short, or kill the process.
 *
 *   FAULTS_PREFIX  only files below this folder
 *   FAULTS_CALL    open, write, truncate, close, rename, unlink
 *   FAULTS_AT      the N-th such call, from 1; 0 only counts
 *   FAULTS_COUNT   how many calls fail from there on; 0: all
 *   FAULTS_DO      enospc, eio, short (writes half), kill (before the call), killed (after it)
 *   FAULTS_STATE   a file of at least 4096 bytes: the processes of a run count together in it
 *
 * A child of fork calls faults_arm() after it has set the variables.
 */
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum call { OPEN, WRITE, TRUNCATE, CLOSE, RENAME, UNLINK, CALLS };
static const char *const NAMES[CALLS] = {"open", "write", "truncate", "close", "rename", "unlink"};
enum action { NONE, FAIL, SHORT, KILL, KILLED };

static struct {
    atomic_int calls[CALLS], fired;
} *state;
static char prefix[4096];
static enum call chosen;
static enum action action;
static int at, count, fault;
static bool armed;

__attribute__((constructor)) void faults_arm(void)
{
    const char *folder = getenv("FAULTS_PREFIX"), *file = getenv("FAULTS_STATE");
    const char *call = getenv("FAULTS_CALL"), *what = getenv("FAULTS_DO");
    armed = false;
    if (!folder || !file || !call || !what)
        return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR);
    state = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (state == MAP_FAILED)
        abort();
    snprintf(prefix, sizeof prefix, "%s", folder);
    for (chosen = OPEN; chosen < CALLS && strcmp(NAMES[chosen], call) != 0; chosen++)
        ;
    at = atoi(getenv("FAULTS_AT") ? getenv("FAULTS_AT") : "0");
    count = atoi(getenv("FAULTS_COUNT") ? getenv("FAULTS_COUNT") : "0");
    fault = strcmp(what, "eio") == 0 ? EIO : ENOSPC;
    action = strcmp(what, "short") == 0    ? SHORT
             : strcmp(what, "kill") == 0   ? KILL
             : strcmp(what, "killed") == 0 ? KILLED
                                           : FAIL;
    armed = true;
}

/* What is to happen to this call on a file of that path. */
static enum action next(enum call call, const char *path)
{
    if (!armed || !path || strncmp(path, prefix, strlen(prefix)) != 0)
        return NONE;
    int n = atomic_fetch_add(&state->calls[call], 1) + 1;
    if (call != chosen || at == 0 || n < at || (count && n >= at + count))
        return NONE;
    atomic_fetch_add(&state->fired, 1);
    if (action == KILL)
        kill(getpid(), SIGKILL);
    return action;
}

static enum action next_of(enum call call, int fd)
{
    char link[64], path[4096];
    if (!armed)
        return NONE;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return NONE;
    path[n] = 0;
    return next(call, path);
}

/* Ends a wrapper: the fault that was decided on, or the call itself. */
#define CALL(decision, call)                                                                       \
    do {                                                                                           \
        enum action todo = (decision);                                                             \
        if (todo == FAIL) {                                                                        \
            errno = fault;                                                                         \
            return -1;                                                                             \
        }                                                                                          \
        long result = (call);                                                                      \
        if (todo == KILLED)                                                                        \
            kill(getpid(), SIGKILL);                                                               \
        return result;                                                                             \
    } while (0)

static int open_file(int folder, const char *path, int flags, va_list rest)
{
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    bool writes = (flags & O_ACCMODE) != O_RDONLY;
    CALL(writes ? next(OPEN, path) : NONE, syscall(SYS_openat, folder, path, flags, mode));
}

#define OPEN_WRAPPER(name)                                                                         \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        int fd = open_file(AT_FDCWD, path, flags, rest);                                           \
        va_end(rest);                                                                              \
        return fd;                                                                                 \
    }
OPEN_WRAPPER(open)
OPEN_WRAPPER(open64)

#define OPENAT_WRAPPER(name)                                                                       \
    int name(int folder, const char *path, int flags, ...)                                         \
    {                                                                                              \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        int fd = open_file(folder, path, flags, rest);                                             \
        va_end(rest);                                                                              \
        return fd;                                                                                 \
    }
OPENAT_WRAPPER(openat)
OPENAT_WRAPPER(openat64)

/* What a short write writes: complete blocks where there are several, for direct I/O. */
static size_t part_of(enum action todo, size_t nbytes)
{
    if (todo != SHORT || nbytes < 2)
        return nbytes;
    return nbytes >= 8192 ? nbytes / 2 / 4096 * 4096 : nbytes / 2;
}

ssize_t write(int fd, const void *data, size_t nbytes)
{
    enum action now = next_of(WRITE, fd);
    CALL(now, syscall(SYS_write, fd, data, part_of(now, nbytes)));
}

#define PWRITE_WRAPPER(name)                                                                       \
    ssize_t name(int fd, const void *data, size_t nbytes, off_t offset)                            \
    {                                                                                              \
        enum action now = next_of(WRITE, fd);                                                      \
        CALL(now, syscall(SYS_pwrite64, fd, data, part_of(now, nbytes), offset));                  \
    }
PWRITE_WRAPPER(pwrite)
PWRITE_WRAPPER(pwrite64)

/* NumPy's tofile */
size_t fwrite(const void *data, size_t size, size_t n, FILE *file)
{
    static size_t (*real)(const void *, size_t, size_t, FILE *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fwrite");
    enum action now = next_of(WRITE, fileno(file));
    if (now == FAIL) {
        errno = fault;
        return 0;
    }
    size_t done = real(data, size, n, file);
    if (now == KILLED)
        kill(getpid(), SIGKILL);
    return done;
}

int ftruncate(int fd, off_t n) { CALL(next_of(TRUNCATE, fd), syscall(SYS_ftruncate, fd, n)); }
int ftruncate64(int fd, off_t n) { CALL(next_of(TRUNCATE, fd), syscall(SYS_ftruncate, fd, n)); }
int truncate(const char *path, off_t n) { CALL(next(TRUNCATE, path), syscall(SYS_truncate, path, n)); }
int truncate64(const char *path, off_t n) { CALL(next(TRUNCATE, path), syscall(SYS_truncate, path, n)); }
int unlink(const char *path) { CALL(next(UNLINK, path), syscall(SYS_unlink, path)); }
int rename(const char *from, const char *to) { CALL(next(RENAME, to), syscall(SYS_rename, from, to)); }

int close(int fd)
{
    enum action now = next_of(CLOSE, fd);
    if (now == FAIL) { /* as Linux does it: the descriptor is closed all the same */
        syscall(SYS_close, fd);
        errno = fault;
        return -1;
    }
    CALL(now, syscall(SYS_close, fd));
}
