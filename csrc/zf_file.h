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

/* Read a file, or nbytes bytes of it from offset on; fewer bytes if the file
 * ends before. More than max_nbytes are not read (EFBIG), unless that is 0.
 * Both return 0 or an errno; EINVAL: not a regular file. */
int zf_read_file(const char *path, size_t max_nbytes, zf_buffer *buffer);
int zf_read_range(int fd, uint64_t offset, size_t nbytes, size_t max_nbytes, zf_buffer *buffer);

#endif
