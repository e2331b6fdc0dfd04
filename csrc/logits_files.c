/* Reads the rows of result files, and ranks them on several threads. */
#include "logits_internal.h"
#include "threads.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- one file -------------------------------------------------------------------- */

/* Files of up to this many bytes are copied into the thread's buffer. Mapping them
 * would take longer: page faults, and threads that wait for each other in the kernel.
 * Larger files are mapped, since only the first row is read. */
#define COPY_BYTES ((size_t)128 << 10)

/* One thread's memory, which all its files use. */
typedef struct scratch {
    zf_level level;
    char *bytes; /* COPY_BYTES */
    float *row;
    size_t row_capacity;
} scratch;

/* Makes room for a row of n values; false when out of memory. */
static bool reserve_row(scratch *s, size_t n)
{
    float *row;

    if (n <= s->row_capacity)
        return true;
    if (n > SIZE_MAX / sizeof *row || (row = realloc(s->row, n * sizeof *row)) == NULL)
        return false;
    s->row = row;
    s->row_capacity = n;
    return true;
}

/* The value of a half-precision float. */
static float half_value(uint16_t half)
{
    int exponent = (half >> 10) & 0x1f;
    int fraction = half & 0x3ff;
    float magnitude;

    if (exponent == 0x1f)
        magnitude = fraction ? NAN : INFINITY;
    else if (exponent == 0)
        magnitude = ldexpf((float)fraction, -24);
    else
        magnitude = ldexpf((float)(fraction | 0x400), exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

/* Converts n little-endian elements to float, as NumPy's astype does. False if the
 * type is unknown. */
static bool convert(const char *src, zf_logits_element element, size_t n, float *out)
{
#define CONVERT(c_type, expression)                     \
    for (size_t i = 0; i < n; i++) {                    \
        c_type v;                                       \
        memcpy(&v, src + i * sizeof v, sizeof v);       \
        out[i] = (float)(expression);                   \
    }                                                   \
    return true

    switch (element.type << 8 | element.size) {
    case 'f' << 8 | 4:
        memcpy(out, src, n * sizeof *out);
        return true;
    case 'f' << 8 | 2: CONVERT(uint16_t, half_value(v));
    case 'f' << 8 | 8: CONVERT(double, v);
    case 'i' << 8 | 1: CONVERT(int8_t, v);
    case 'i' << 8 | 2: CONVERT(int16_t, v);
    case 'i' << 8 | 4: CONVERT(int32_t, v);
    case 'i' << 8 | 8: CONVERT(int64_t, v);
    case 'u' << 8 | 1: CONVERT(uint8_t, v);
    case 'u' << 8 | 2: CONVERT(uint16_t, v);
    case 'u' << 8 | 4: CONVERT(uint32_t, v);
    case 'u' << 8 | 8: CONVERT(uint64_t, v);
    default: return false;
    }
#undef CONVERT
}

/* Parses text[0, nbytes) into the row. */
static void parse(scratch *s, const char *text, size_t nbytes, zf_logits_result *r)
{
    size_t count = 0, offset = 0;

    if (!reserve_row(s, nbytes / 2 + 1))
        r->status = ZF_LOGITS_NOMEM;
    else
        r->status = zf_logits_parse(s->level, text, nbytes, s->row, &count, &offset);
    r->count = (int64_t)count;
    r->offset = (int64_t)offset;
}

/* Parses the first line of text[0, nbytes). Returns whether that is the complete row:
 * a line with a single number may be the first of a column. */
static bool row_of_line(scratch *s, const char *text, size_t nbytes, zf_logits_result *r)
{
    const char *newline = memchr(text, '\n', nbytes);
    size_t line = newline == NULL ? nbytes : (size_t)(newline - text);

    parse(s, text, line, r);
    return newline != NULL && (r->status != ZF_LOGITS_OK || r->count > 1);
}

static void row_of_text(scratch *s, const char *text, size_t nbytes, zf_logits_result *r)
{
    if (!row_of_line(s, text, nbytes, r) && r->status == ZF_LOGITS_OK && r->count == 1)
        parse(s, text, nbytes, r);
    if (r->status == ZF_LOGITS_OK && r->count == 0)
        r->status = ZF_LOGITS_EMPTY;
}

/* Converts the first `count` elements of data[0, nbytes) into the row. */
static void row_of_elements(scratch *s, const char *data, size_t nbytes,
                            zf_logits_element element, size_t count, zf_logits_result *r)
{
    if (count == 0) {
        r->status = ZF_LOGITS_EMPTY;
    } else if (count > nbytes / (size_t)element.size) {
        r->status = ZF_LOGITS_BYTES;
        r->offset = (int64_t)nbytes;
    } else if (!reserve_row(s, count)) {
        r->status = ZF_LOGITS_NOMEM;
    } else if (!convert(data, element, count, s->row)) {
        r->status = ZF_LOGITS_NPY;
    } else {
        r->count = (int64_t)count;
    }
}

static void row_of_bin(scratch *s, const char *data, size_t nbytes, zf_logits_element element,
                       zf_logits_result *r)
{
    if (nbytes % (size_t)element.size != 0) {
        r->status = ZF_LOGITS_BYTES;
        r->offset = (int64_t)nbytes;
        return;
    }
    row_of_elements(s, data, nbytes, element, nbytes / (size_t)element.size, r);
}

#define NPY_HEADER_MAX 1024 /* bytes of text; NumPy's own headers have 128 */

/* Copies the header's text of an .npy, with a '\0'. Returns the offset of the elements,
 * 0 if the file is not an .npy. */
static size_t npy_header(const char *data, size_t nbytes, char header[NPY_HEADER_MAX + 1])
{
    const uint8_t *bytes = (const uint8_t *)data;
    size_t start = 10; /* bytes before the text in version 1 */

    if (nbytes < start + 2 || memcmp(data, "\x93NUMPY", 6) != 0)
        return 0;
    size_t length = bytes[8] | (size_t)bytes[9] << 8;
    if (bytes[6] > 1) { /* versions 2 and 3: the length has four bytes */
        length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
        start += 2;
    }
    if (length > NPY_HEADER_MAX || length > nbytes - start)
        return 0;
    memcpy(header, data + start, length);
    header[length] = '\0';
    return start + length;
}

/* The value of a key in an .npy header, NULL if there is none. */
static const char *npy_value(const char *header, const char *key)
{
    const char *value = strstr(header, key);

    if (value == NULL)
        return NULL;
    value += strlen(key);
    return value + strspn(value, " ");
}

/* Parses a descr: '<f4', or '|u1' for elements without a byte order. */
static bool npy_element(const char *descr, zf_logits_element *element)
{
    if (descr[0] != '\'' || (descr[1] != '<' && descr[1] != '|') || descr[2] == '\0' ||
        !zf_is_digit(descr[3]) || descr[3] == '0' || descr[4] != '\'')
        return false;
    *element = (zf_logits_element){descr[2], descr[3] - '0'};
    return true;
}

/* Parses a shape: the length of its last dimension that is longer than 1, 0 if a
 * dimension is 0. */
static bool npy_row_length(const char *shape, size_t *length)
{
    bool empty = false;

    *length = 1;
    if (*shape != '(')
        return false;
    for (const char *p = shape + 1; *p != ')';) {
        char *end;
        unsigned long long n;

        p += strspn(p, ", ");
        if (*p == ')')
            break;
        if (!zf_is_digit(*p))
            return false;
        errno = 0;
        n = strtoull(p, &end, 10);
        if (errno != 0 || n > SIZE_MAX)
            return false;
        empty |= n == 0;
        if (n != 1)
            *length = (size_t)n;
        p = end;
    }
    if (empty)
        *length = 0;
    return true;
}

static void row_of_npy(scratch *s, const char *data, size_t nbytes, zf_logits_result *r)
{
    char header[NPY_HEADER_MAX + 1];
    zf_logits_element element;
    size_t count, offset = npy_header(data, nbytes, header);

    r->status = ZF_LOGITS_NPY;
    if (offset == 0)
        return;
    const char *descr = npy_value(header, "'descr':");
    const char *order = npy_value(header, "'fortran_order':");
    const char *shape = npy_value(header, "'shape':");
    if (descr == NULL || order == NULL || shape == NULL || !npy_element(descr, &element) ||
        strncmp(order, "False", 5) != 0 || !npy_row_length(shape, &count))
        return;
    r->status = ZF_LOGITS_OK;
    row_of_elements(s, data + offset, nbytes - offset, element, count, r);
}

static void row_of(scratch *s, const char *data, size_t nbytes, zf_logits_kind kind,
                   zf_logits_element bin_element, zf_logits_result *r)
{
    if (kind == ZF_LOGITS_TXT)
        row_of_text(s, data, nbytes, r);
    else if (kind == ZF_LOGITS_NPY_FILE)
        row_of_npy(s, data, nbytes, r);
    else
        row_of_bin(s, data, nbytes, bin_element, r);
}

/* Reads the first nbytes of fd, or fewer if it ends before; -1 on failure. */
static ssize_t read_all(int fd, char *out, size_t nbytes)
{
    size_t got = 0;

    while (got < nbytes) {
        ssize_t n = pread(fd, out + got, nbytes - got, (off_t)got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

/* Reads the row of a file of any size and kind. */
static void read_complete(scratch *s, int fd, zf_logits_kind kind,
                          zf_logits_element bin_element, zf_logits_result *r)
{
    struct stat st;

    if (fstat(fd, &st) != 0) {
        r->status = ZF_LOGITS_READ;
        r->sys_errno = errno;
    } else if (!S_ISREG(st.st_mode)) {
        r->status = ZF_LOGITS_READ;
        r->sys_errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
    } else if ((size_t)st.st_size <= COPY_BYTES) {
        ssize_t got = read_all(fd, s->bytes, (size_t)st.st_size);
        if (got < 0) {
            r->status = ZF_LOGITS_READ;
            r->sys_errno = errno;
        } else {
            row_of(s, s->bytes, (size_t)got, kind, bin_element, r);
        }
    } else {
        size_t nbytes = (size_t)st.st_size;
        char *map = mmap(NULL, nbytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            r->status = ZF_LOGITS_READ;
            r->sys_errno = errno;
        } else {
            row_of(s, map, nbytes, kind, bin_element, r);
            munmap(map, nbytes);
        }
    }
}

/* Reads a file's row into s->row, and describes it in *r. */
static void read_row(scratch *s, int dir_fd, const char *name, zf_logits_kind kind,
                     zf_logits_element bin_element, zf_logits_result *r)
{
    int fd;
    ssize_t got;

    memset(r, 0, sizeof *r);
    /* O_NONBLOCK: without it, opening a pipe waits for a writer */
    fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        r->status = ZF_LOGITS_READ;
        r->sys_errno = errno;
        return;
    }
    /* If the first line is a complete row, the file's size is not needed. */
    got = kind == ZF_LOGITS_TXT ? pread(fd, s->bytes, COPY_BYTES, 0) : 0;
    if (got <= 0 || !row_of_line(s, s->bytes, (size_t)got, r) || r->status != ZF_LOGITS_OK)
        read_complete(s, fd, kind, bin_element, r);
    close(fd);
}

zf_logits_result zf_logits_read_file(zf_level level, int dir_fd, const char *name,
                                     zf_logits_kind kind, zf_logits_element bin_element,
                                     float **row)
{
    scratch s = {.level = level, .bytes = malloc(COPY_BYTES)};
    zf_logits_result r = {.status = ZF_LOGITS_NOMEM};

    if (s.bytes != NULL)
        read_row(&s, dir_fd, name, kind, bin_element, &r);
    free(s.bytes);
    *row = s.row;
    return r;
}

/* ---- many files ------------------------------------------------------------------ */

/* Reads and ranks file i. */
static void rank_file(scratch *s, const zf_logits_files *f, size_t i)
{
    zf_logits_result *r = &f->results[i];
    int32_t *classes = f->classes + i * f->k;
    float *values = f->values + i * f->k;
    size_t ranked = 0;

    if (s->bytes == NULL)
        *r = (zf_logits_result){.status = ZF_LOGITS_NOMEM};
    else
        read_row(s, f->dir_fd, f->names[i], (zf_logits_kind)f->kinds[i], f->bin_element, r);
    if (r->status == ZF_LOGITS_OK) {
        size_t n = (size_t)r->count;
        ranked = n < f->k ? n : f->k;
        zf_logits_topk(s->row, n, ranked, classes, values);
        if (f->want_confidence)
            r->confidence = zf_logits_confidence(f->level, s->row, n, &r->sum, &r->min);
    }
    for (; ranked < f->k; ranked++) {
        classes[ranked] = -1;
        values[ranked] = NAN;
    }
}

struct zf_logits_reading {
    zf_logits_files files;
    atomic_size_t next; /* the first file that no thread has begun */
    zf_threads *threads;
};

/* Files that a thread begins at a time: few enough that threads end at about the
 * same time. */
#define RUN 16

size_t zf_logits_rank_files(zf_logits_reading *reading, size_t max_files)
{
    const zf_logits_files *files = &reading->files;
    scratch s = {.level = files->level, .bytes = malloc(COPY_BYTES)};
    size_t begin, end = 0;

    for (size_t done = 0; done < max_files && end < files->nfiles; done += RUN) {
        begin = atomic_fetch_add(&reading->next, RUN);
        end = begin < files->nfiles && files->nfiles - begin > RUN ? begin + RUN : files->nfiles;
        for (size_t i = begin; i < end; i++)
            rank_file(&s, files, i);
    }
    free(s.bytes);
    free(s.row);
    return end;
}

static void rank_all_files(void *reading, int index)
{
    (void)index;
    zf_logits_rank_files(reading, SIZE_MAX);
}

zf_logits_reading *zf_logits_begin(const zf_logits_files *files, int nthreads)
{
    zf_logits_reading *reading = malloc(sizeof *reading);

    if (reading == NULL)
        return NULL;
    reading->files = *files;
    atomic_init(&reading->next, 0);
    reading->threads = zf_threads_start(nthreads, rank_all_files, reading);
    if (reading->threads == NULL) {
        free(reading);
        return NULL;
    }
    return reading;
}

int zf_logits_is_here(const zf_logits_reading *reading)
{
    return zf_threads_are_here(reading->threads);
}

void zf_logits_end(zf_logits_reading *reading)
{
    /* so large that threads stop, and too small to wrap when they add to it */
    atomic_store(&reading->next, SIZE_MAX / 2);
    zf_threads_join(reading->threads);
    free(reading);
}
