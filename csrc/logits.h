/*
 * Class scores ("logits"): read from result files, rank, write as text.
 *
 * Like the core, this part knows nothing of Python, never prints, and owns
 * nothing after a call returns. It stands alone: no other file of csrc/ is
 * needed. All functions may be called from several threads at once.
 */
#ifndef ZF_LOGITS_H
#define ZF_LOGITS_H

#include <stddef.h>
#include <stdint.h>

typedef enum zf_logits_status {
    ZF_LOGITS_OK = 0,
    ZF_LOGITS_NOMEM,  /* out of memory */
    ZF_LOGITS_READ,   /* cannot be opened or read; see sys_errno */
    ZF_LOGITS_EMPTY,  /* no number in the first row */
    ZF_LOGITS_NUMBER, /* something that is no number, at byte `at` */
    ZF_LOGITS_NPY,    /* not an .npy of plain little-endian numbers in C order */
    ZF_LOGITS_BYTES   /* `at` bytes: no multiple of the element, or fewer than the header says */
} zf_logits_status;

typedef enum zf_logits_kind { ZF_LOGITS_TXT, ZF_LOGITS_BIN, ZF_LOGITS_NPY_FILE } zf_logits_kind;

/* ---- CPU levels ---------------------------------------------------------- */

/* Runs everything on this CPU level from now on: "scalar" or, where this CPU
 * has it, "avx2"; NULL: the best, as without a call. Every level gives the same
 * bits. Returns 0, and changes nothing, for any other. */
int zf_logits_use(const char *isa);

/* ---- text ---------------------------------------------------------------- */

/* Parses numbers separated by blanks from text[0, nbytes) into out, which
 * must have room for nbytes / 2 + 1 values. What counts as a number, and its
 * value, are those of Python's float(), then rounded to float (as
 * np.float32(text) does): decimals, exponents, inf, infinity, nan in any
 * case; no hexadecimal, no underscores. *at is the offset of the offender
 * when the status is ZF_LOGITS_NUMBER. */
zf_logits_status zf_logits_parse(const char *text, size_t nbytes, float *out, size_t *count,
                                 size_t *at);

/* Bytes that zf_logits_format may need for n values. */
size_t zf_logits_format_bound(size_t n);

/* Writes row[0, n) as C's "%f " each (nan and inf without a sign of nan) and
 * one '\n' at the end; no '\0'. Returns the bytes written. */
size_t zf_logits_format(const float *row, size_t n, char *out);

/* ---- ranking ------------------------------------------------------------- */

/* The k best of row[0, n), best first: their classes and, where values is
 * not NULL, their scores. Equal scores (+0 and -0 are equal): the lower class
 * first. NaN comes last. Needs 1 <= k <= n <= INT32_MAX. */
void zf_logits_topk(const float *row, size_t n, size_t k, int32_t *classes, float *values);

/* The softmax of the largest value of row[0, n), NaN taken as impossible; NaN
 * when the largest is not finite. *sum is the plain sum of the values and
 * *least the smallest, by which probabilities can be told from logits. Plain
 * float32 arithmetic in a fixed order: every CPU gives the same bits. */
float zf_logits_confidence(const float *row, size_t n, float *sum, float *least);

/* ---- files --------------------------------------------------------------- */

/* What one file held. */
typedef struct zf_logits_result {
    int32_t status; /* zf_logits_status */
    int32_t sys_errno;
    int64_t at;     /* see the statuses */
    int64_t count;  /* values in the row */
    float confidence, sum, least; /* as by zf_logits_confidence */
    int32_t padding;
} zf_logits_result;

typedef struct zf_logits_files {
    int dir_fd;                /* names are relative to it */
    const char *const *names;  /* nfiles paths */
    const uint8_t *kinds;      /* nfiles of zf_logits_kind */
    size_t nfiles;
    char bin_type;             /* element of .bin files: 'f', 'i' or 'u' ... */
    int bin_size;              /* ... of this many bytes */
    size_t k;
    int want_confidence;
    /* output, one per file; rows shorter than k fill what they have, the
     * rest is class -1, score NaN */
    zf_logits_result *results;
    int32_t *classes;          /* nfiles * k */
    float *values;             /* nfiles * k */
} zf_logits_files;

/* Reading and ranking files on several threads. A file's row: the first line
 * of a text; all of a .bin; the first run along the last dimension longer than
 * 1 of an .npy. A text with a single number in its first line and more lines is
 * one column (an output of shape N,C,1,1): the row is all of it. */
typedef struct zf_logits_reading zf_logits_reading;

/* Begins to read on nthreads (>= 0) threads, or fewer when no more can be
 * started; what files points to must last until the end. NULL: out of memory. */
zf_logits_reading *zf_logits_begin(const zf_logits_files *files, int nthreads);

/* Reads `most` files (>= 1), or a few more, on the calling thread as well.
 * Returns how many some thread has taken by then: nfiles when none is left. */
size_t zf_logits_help(zf_logits_reading *reading, size_t most);

/* Waits for the threads and frees; files that no thread has taken stay unread,
 * so help until there is none. */
void zf_logits_end(zf_logits_reading *reading);

/* One file's row into a buffer that the caller frees with free(). */
zf_logits_result zf_logits_read_file(int dir_fd, const char *name, zf_logits_kind kind,
                                     char bin_type, int bin_size, float **row);

#endif
