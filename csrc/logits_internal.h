/* What the files of logits.h share: the kernels, and the fast path of parsing. */
#ifndef ZF_LOGITS_INTERNAL_H
#define ZF_LOGITS_INTERNAL_H

#include "logits.h"

#include <string.h>

/* ---- kernels ---------------------------------------------------------------- */

/* Sums and extremes are kept in this many independent lanes, so that they fit
 * SIMD registers. Value i of a row belongs to lane i % ZF_LANES. */
#define ZF_LANES 8

typedef struct zf_extent {
    float max[ZF_LANES], min[ZF_LANES], sum[ZF_LANES];
} zf_extent;

typedef struct zf_logits_kernels {
    /* Parses the numbers that begin at p and are written as by "%f ", up to the
     * first number in another form, or fewer. Returns how many it stored in out;
     * *after gets the end of the last. text <= p <= end are parts of one text. */
    size_t (*parse_run)(const char *text, const char *p, const char *end, const char **after,
                        float *out);
    /* Adds the values v[0, n) to the lanes. n is a multiple of ZF_LANES. NaN changes
     * neither max nor min. */
    void (*extend)(zf_extent *extent, const float *v, size_t n);
    /* Adds e^(v[i] - max) to the lanes of sums. n is a multiple of ZF_LANES. */
    void (*add_exps)(float sums[ZF_LANES], const float *v, size_t n, float max);
} zf_logits_kernels;

#define ZF_DECLARE(constant, name, test, image, jpeg, logits)                          \
    extern const zf_logits_kernels zf_logits_kernels_##logits;
ZF_LEVELS(ZF_DECLARE)
#undef ZF_DECLARE
extern const zf_logits_kernels *const zf_logits_kernels_of[ZF_LEVEL_COUNT];

/* The scalar kernels' parts, defined with their callers. */
size_t zf_parse_run_scalar(const char *text, const char *p, const char *end,
                           const char **after, float *out);
void zf_extend_scalar(zf_extent *extent, const float *v, size_t n);
void zf_add_exps_scalar(float sums[ZF_LANES], const float *v, size_t n, float max);

/* ---- one number as written by "%f " ------------------------------------------- */

static inline bool zf_is_digit(char c) { return c >= '0' && c <= '9'; }

#define ZF_ONES UINT64_C(0x0101010101010101)

static inline uint64_t zf_load8(const char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* Whether all eight bytes of word are digits. */
static inline bool zf_eight_digits(uint64_t word)
{
    return (((word + 0x46 * ZF_ONES) | (word - 0x30 * ZF_ONES)) & 0x80 * ZF_ONES) == 0;
}

/* The value of eight digits, the first digit in the lowest byte. Combines digits
 * to pairs, pairs to fours, and fours to the value. */
static inline uint32_t zf_eight_digits_value(uint64_t word)
{
    word -= 0x30 * ZF_ONES;
    word = word * 10 + (word >> 8);
    word = ((word & UINT64_C(0x000000ff000000ff)) * (100 + (UINT64_C(1000000) << 32)) +
            ((word >> 16) & UINT64_C(0x000000ff000000ff)) * (1 + (UINT64_C(10000) << 32))) >>
           32;
    return (uint32_t)word;
}

/* Bytes that zf_parse_f may read. */
#define ZF_F_READS 16

/* Parses a number as "%f " writes it, with at most seven bytes before the dot and
 * without a branch on its length or sign. Moves *p past the blank, or returns false
 * with *p unchanged if the text has another form. Little-endian CPUs only. */
static inline bool zf_parse_f(const char **p, float *out)
{
    uint64_t word = zf_load8(*p), dots = word ^ '.' * ZF_ONES, integer, fraction;
    /* This is **p == '-'. Compilers make that a write of one byte of a register,
     * which has to wait for the register's old value, the last number's quotient. */
    uint32_t negative = ((uint32_t)((word & 0xff) ^ '-') - 1) >> 31, bits;
    int before; /* bytes before the dot; the next number's address depends on nothing else */
    int64_t millionths;
    float value;

    dots = (dots - ZF_ONES) & ~dots & 0x80 * ZF_ONES;
    if (dots == 0)
        return false;
    before = __builtin_ctzll(dots) >> 3;
    if (before == 0)
        return false;
    word ^= negative * (uint64_t)('-' ^ '0'); /* replaces the sign by a leading zero */
    integer = (word << (64 - 8 * before)) | (0x30 * ZF_ONES >> (8 * before));
    word = zf_load8(*p + before + 1);
    fraction = (word << 16) | 0x3030;
    if (integer << 16 == (0x30 * ZF_ONES) << 16) { /* below 100: one word holds all digits */
        fraction = (word << 16) | (integer >> 48);
        millionths = 0;
    } else {
        if (!zf_eight_digits(integer))
            return false;
        millionths = (int64_t)zf_eight_digits_value(integer) * 1000000;
    }
    if (!zf_eight_digits(fraction) || (char)(word >> 48) != ' ')
        return false;
    value = (float)((double)(millionths + (int64_t)zf_eight_digits_value(fraction)) / 1e6);
    memcpy(&bits, &value, sizeof bits);
    bits |= negative << 31;
    memcpy(out, &bits, sizeof bits);
    *p += before + 8;
    return true;
}

#endif
