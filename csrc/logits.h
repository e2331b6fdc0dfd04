/*
 * Class scores ("logits"): read from result files, ranked, written as text.
 *
 * Like the core, this part does not use Python, never prints, and owns no memory
 * after a call has returned. It needs none of the core's files but levels.c and
 * threads.c. Several threads may call any function at once.
 */
#ifndef ZF_LOGITS_H
#define ZF_LOGITS_H

#include "levels.h"

#include <stddef.h>
#include <stdint.h>

typedef enum zf_logits_status {
    ZF_LOGITS_OK = 0,
    ZF_LOGITS_NOMEM,  /* out of memory */
    ZF_LOGITS_READ,   /* the file cannot be opened or read; see sys_errno */
    ZF_LOGITS_EMPTY,  /* the first row has no number */
    ZF_LOGITS_NUMBER, /* the text at byte `offset` is not a number */
    ZF_LOGITS_NPY,    /* not an .npy of plain little-endian numbers in C order */
    ZF_LOGITS_BYTES   /* `offset` bytes: not a multiple of the element's size, or fewer than
                         the header says */
} zf_logits_status;

typedef enum zf_logits_kind { ZF_LOGITS_TXT, ZF_LOGITS_BIN, ZF_LOGITS_NPY_FILE } zf_logits_kind;

/* Where a function takes a level, this CPU must run it. All levels give the same
 * bits. */

/* ---- text ---------------------------------------------------------------- */

/* Parses numbers separated by blanks from text[0, nbytes) into out, which must
 * have room for nbytes / 2 + 1 values. Accepts the decimal numbers that Python's
 * float() accepts, with exponents, inf, infinity and nan in any case, but without
 * underscores. Values are rounded to double, then to float, as by
 * np.float32(text). If the status is ZF_LOGITS_NUMBER, *offset is where the text
 * that is not a number begins. */
zf_logits_status zf_logits_parse(zf_level level, const char *text, size_t nbytes, float *out,
                                 size_t *count, size_t *offset);

/* The most bytes that zf_logits_format writes for n values. */
size_t zf_logits_format_bound(size_t n);

/* Writes each value of row[0, n) as C's "%f " (nan without a sign), then one
 * '\n', no '\0'. Returns the bytes written. */
size_t zf_logits_format(const float *row, size_t n, char *out);

/* ---- ranking ------------------------------------------------------------- */

/* The classes of the k largest values of row[0, n), largest first, and if values
 * is not NULL, those values. Of equal values (+0 equals -0) the lower class comes
 * first; NaN comes last. Needs 1 <= k <= n <= INT32_MAX. */
void zf_logits_topk(const float *row, size_t n, size_t k, int32_t *classes, float *values);

/* The softmax of the largest value of row[0, n), in which NaN counts as -inf; NaN
 * if the largest value is not finite. *sum gets the sum of the values, *min the
 * smallest value: a caller can tell probabilities from logits by them. float32
 * arithmetic in a fixed order, so every CPU gives the same bits. */
float zf_logits_confidence(zf_level level, const float *row, size_t n, float *sum, float *min);

/* ---- files --------------------------------------------------------------- */

/* What one file held. */
typedef struct zf_logits_result {
    int32_t status; /* zf_logits_status */
    int32_t sys_errno;
    int64_t offset; /* see the statuses */
    int64_t count;  /* values in the row */
    float confidence, sum, min; /* as by zf_logits_confidence */
    int32_t padding;
} zf_logits_result;

/* The type of the elements in .bin files: float, int or unsigned int of 1, 2, 4
 * or 8 bytes. */
typedef struct zf_logits_element {
    char type; /* 'f', 'i' or 'u' */
    int size;
} zf_logits_element;

typedef struct zf_logits_files {
    zf_level level;
    int dir_fd;                /* names are relative to this folder */
    const char *const *names;  /* nfiles paths */
    const uint8_t *kinds;      /* nfiles of zf_logits_kind */
    size_t nfiles;
    zf_logits_element bin_element;
    size_t k;
    int want_confidence;
    /* output: an entry for each file. If a row has fewer than k values, the
     * remaining classes are -1 and their values NaN. */
    zf_logits_result *results;
    int32_t *classes;          /* nfiles * k */
    float *values;             /* nfiles * k */
} zf_logits_files;

/* Threads that read and rank files. A file's row is the first line of a text, all
 * of a .bin, and of an .npy the first run along the last dimension that is longer
 * than 1. If the first line of a text is a single number and more lines follow, the
 * row is the whole text: a column (an output of shape N,C,1,1). */
typedef struct zf_logits_reading zf_logits_reading;

/* Starts nthreads >= 0 threads, or fewer when the system has no more. What files
 * points to must exist until zf_logits_end. NULL when out of memory. */
zf_logits_reading *zf_logits_begin(const zf_logits_files *files, int nthreads);

/* Reads and ranks max_files >= 1 files, or a few more, on the calling thread.
 * Returns how many files any thread has begun so far: nfiles when none is left. */
size_t zf_logits_rank_files(zf_logits_reading *reading, size_t max_files);

/* Whether this process began the reading. A child process made by fork() has none
 * of its threads, and may only end it. */
int zf_logits_is_here(const zf_logits_reading *reading);

/* Waits for the threads and frees. Files that no thread has begun stay unread, so
 * call zf_logits_rank_files before, until none is left. */
void zf_logits_end(zf_logits_reading *reading);

/* Reads one file's row into a buffer that the caller frees with free(). */
zf_logits_result zf_logits_read_file(zf_level level, int dir_fd, const char *name,
                                     zf_logits_kind kind, zf_logits_element bin_element,
                                     float **row);

#endif
