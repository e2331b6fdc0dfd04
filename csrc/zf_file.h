/* Reading files; writing them is in zoofast.h. */
#ifndef ZF_FILE_H
#define ZF_FILE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that grow as needed; ZF_PAD more than nbytes are readable. Freed by
 * free(data). */
typedef struct zf_buffer {
    uint8_t *data;
    size_t nbytes, capacity;
} zf_buffer;

/* Both return 0 or an errno. */
int zf_read_file(const char *path, zf_buffer *buffer);
int zf_read_range(int fd, uint64_t offset, size_t nbytes, zf_buffer *buffer);

#endif
