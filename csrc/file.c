/* Reads files into a growing buffer, and writes files completely or not at all. */
#include "zf_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "zf_internal.h"

#define DIRECT_ALIGN 4096

/* Makes room for nbytes and ZF_PAD more; false when out of memory. */
static bool reserve(zf_buffer *buffer, size_t nbytes)
{
    if (nbytes + ZF_PAD > buffer->capacity) {
        size_t capacity = nbytes + nbytes / 2 + ZF_PAD;
        uint8_t *data = realloc(buffer->data, capacity);
        if (!data)
            return false;
        buffer->data = data;
        buffer->capacity = capacity;
    }
    return true;
}

int zf_read_range(int fd, uint64_t offset, size_t nbytes, size_t max_nbytes, zf_buffer *buffer)
{
    if (max_nbytes && nbytes > max_nbytes)
        return EFBIG;
    if (!reserve(buffer, nbytes))
        return ENOMEM;
    buffer->nbytes = 0;
    while (buffer->nbytes < nbytes) {
        ssize_t got = pread(fd, buffer->data + buffer->nbytes, nbytes - buffer->nbytes,
                            (off_t)(offset + buffer->nbytes));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno;
        if (got == 0)
            break; /* the file ends before: the decoder judges the bytes that exist */
        buffer->nbytes += (size_t)got;
    }
    return 0;
}

/* Opens a regular file for reading. */
static int open_regular(const char *path, int *fd, zf_stamp *stamp)
{
    struct stat st;
    int error = 0;
    /* O_NONBLOCK: without it, opening a pipe waits for a writer */
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return errno;
    if (fstat(*fd, &st) != 0)
        error = errno;
    else if (!S_ISREG(st.st_mode))
        error = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
    if (error) {
        close(*fd);
        return error;
    }
    stamp->nbytes = (uint64_t)st.st_size;
    stamp->mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    return 0;
}

int zf_read_file(const char *path, size_t max_nbytes, zf_buffer *buffer, zf_stamp *stamp)
{
    int fd, error = open_regular(path, &fd, stamp);
    if (error)
        return error;
    error = zf_read_range(fd, 0, (size_t)stamp->nbytes, max_nbytes, buffer);
    close(fd);
    return error;
}

int zf_file_stamp(const char *path, zf_stamp *stamp)
{
    int fd, error = open_regular(path, &fd, stamp);
    if (!error)
        close(fd);
    return error;
}

int zf_write_range(int fd, uint64_t offset, const uint8_t *data, size_t nbytes)
{
    while (nbytes > 0) {
        ssize_t put = pwrite(fd, data, nbytes, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return put < 0 ? errno : EIO;
        data += put;
        offset += (uint64_t)put;
        nbytes -= (size_t)put;
    }
    return 0;
}

void zf_allocate(int fd, uint64_t offset, uint64_t nbytes)
{
    /* Not posix_fallocate: it writes to each block where the file system cannot allocate. */
    int ignored = fallocate(fd, 0, (off_t)offset, (off_t)nbytes);
    (void)ignored;
}

static int write_all(int fd, const uint8_t *data, size_t nbytes)
{
    while (nbytes > 0) {
        ssize_t put = write(fd, data, nbytes);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return put < 0 ? errno : EIO;
        data += put;
        nbytes -= (size_t)put;
    }
    return 0;
}

/* Creates a file for writing. A file of that name is left from a process that was
 * killed, or is somebody else's link: it is removed, never opened. Returns -1 with
 * errno on failure. */
static int create(const char *path)
{
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    int fd = open(path, flags, 0666);
    if (fd < 0 && errno == EEXIST && unlink(path) == 0)
        fd = open(path, flags, 0666);
    return fd;
}

/* Switches direct I/O on or off; false if the file system does not support it. */
static bool set_direct(int fd, bool direct)
{
    return fcntl(fd, F_SETFL, direct ? O_DIRECT : 0) == 0;
}

/* Writes with direct I/O, since copying to the page cache would cost more than
 * the disk. Direct I/O writes complete blocks, so the file is cut to its length
 * afterwards. EINVAL: this file system has no direct I/O; the file is then empty. */
static int write_direct(int fd, const uint8_t *data, size_t nbytes)
{
    if ((uintptr_t)data % DIRECT_ALIGN != 0 || nbytes < DIRECT_ALIGN || !set_direct(fd, true))
        return EINVAL;
    size_t blocks = (nbytes + DIRECT_ALIGN - 1) / DIRECT_ALIGN * DIRECT_ALIGN;
    int error = write_all(fd, data, blocks);
    if (!error && blocks != nbytes && ftruncate(fd, (off_t)nbytes) != 0)
        error = errno;
    if (error == EINVAL && (!set_direct(fd, false) || ftruncate(fd, 0) != 0 ||
                            lseek(fd, 0, SEEK_SET) != 0))
        error = EIO;
    return error;
}

int zf_write_file(const char *path, const char *tmp_path, const void *data, size_t nbytes)
{
    int fd = create(tmp_path);
    if (fd < 0)
        return errno;
    int error = write_direct(fd, data, nbytes);
    if (error == EINVAL)
        error = write_all(fd, data, nbytes);
    if (close(fd) != 0 && !error)
        error = errno;
    if (!error && rename(tmp_path, path) != 0)
        error = errno;
    if (error)
        unlink(tmp_path);
    return error;
}
