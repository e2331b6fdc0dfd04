/* Reading files. zoofast.h has the function that writes them. */
#ifndef ZF_FILE_H
#define ZF_FILE_H

#include <stddef.h>
#include <stdint.h>

/* A buffer that grows as needed. ZF_PAD bytes past nbytes are readable. The
 * owner frees data with free(). */
typedef struct zf_buffer {
    uint8_t *data;
    size_t nbytes, capacity;
} zf_buffer;

/* What shows that a file has changed. */
typedef struct zf_stamp {
    uint64_t nbytes;
    int64_t mtime_ns; /* time of modification, nanoseconds since 1970 */
} zf_stamp;

/* Read a file, or nbytes bytes of it from offset on; fewer bytes if the file
 * ends before. More than max_nbytes are not read (EFBIG), unless that is 0.
 * zf_read_file sets the stamp that the file has before it is read. Both return 0 or
 * an errno; EINVAL: not a regular file. */
int zf_read_file(const char *path, size_t max_nbytes, zf_buffer *buffer, zf_stamp *stamp);
int zf_read_range(int fd, uint64_t offset, size_t nbytes, size_t max_nbytes, zf_buffer *buffer);

/* The stamp of a regular file that can be opened for reading. Returns 0 or an errno. */
int zf_file_stamp(const char *path, zf_stamp *stamp);

/* Write nbytes bytes to fd at offset. Returns 0 or an errno. */
int zf_write_range(int fd, uint64_t offset, const uint8_t *data, size_t nbytes);

#endif
