/* Text to numbers. And the table of all levels' kernels for logits. */
#include "logits_internal.h"

#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

const zf_logits_kernels zf_logits_kernels_scalar = {
    .parse_run = zf_parse_run_scalar,
    .extend = zf_extend_scalar,
    .add_exps = zf_add_exps_scalar,
};

const zf_logits_kernels *const zf_logits_kernels_of[] = {
#define KERNELS(constant, name, test, image, jpeg, logits)                             \
    [ZF_LEVEL_##constant] = &zf_logits_kernels_##logits,
    ZF_LEVELS(KERNELS)
#undef KERNELS
};
_Static_assert(sizeof zf_logits_kernels_of / sizeof *zf_logits_kernels_of == ZF_LEVEL_COUNT,
               "each level has kernels");

/* ---- any number ----------------------------------------------------------------- */

static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void make_c_locale(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

/* Rounds a token, which must be a number, correctly to double. Uses the C locale,
 * since the caller's locale may have ',' instead of '.'. */
static zf_logits_status round_to_double(const char *token, size_t nbytes, double *value)
{
    char small[64], *copy = small;

    pthread_once(&c_locale_once, make_c_locale);
    if (c_locale == (locale_t)0)
        return ZF_LOGITS_NOMEM;
    if (nbytes >= sizeof small && (copy = malloc(nbytes + 1)) == NULL)
        return ZF_LOGITS_NOMEM;
    memcpy(copy, token, nbytes);
    copy[nbytes] = '\0';
    *value = strtod_l(copy, NULL, c_locale);
    if (copy != small)
        free(copy);
    return ZF_LOGITS_OK;
}

/* Whether [p, end) is the word, which is in lower case, in any case and locale. */
static bool is_word(const char *p, const char *end, const char *word)
{
    for (; p < end && *word != '\0'; p++, word++)
        if ((*p | 0x20) != *word)
            return false;
    return p == end && *word == '\0';
}

/* Parses [p, end) as nan, inf or infinity. */
static bool parse_special(const char *p, const char *end, double *value)
{
    if (is_word(p, end, "nan"))
        *value = NAN;
    else if (is_word(p, end, "inf") || is_word(p, end, "infinity"))
        *value = INFINITY;
    else
        return false;
    return true;
}

#define MAX_SIGNIFICANT 19 /* digits that always fit 64 bits */

/* A decimal number: mantissa * 10^exponent if it has at most MAX_SIGNIFICANT
 * significant digits; the mantissa has no more digits than that. */
typedef struct {
    uint64_t mantissa;
    int significant;
    long exponent;
} decimal;

/* Parses digits with at most one dot, and moves *p past them; false if there is no
 * digit. */
static bool parse_digits(const char **p, const char *end, decimal *d)
{
    bool any = false, fraction = false;

    for (; *p < end; ++*p) {
        if (**p == '.' && !fraction) {
            fraction = true;
            continue;
        }
        if (!zf_is_digit(**p))
            break;
        any = true;
        if (d->significant > 0 || **p != '0')
            d->significant++;
        if (d->significant <= MAX_SIGNIFICANT) {
            d->mantissa = d->mantissa * 10 + (uint64_t)(**p - '0');
            d->exponent -= fraction;
        }
    }
    return any;
}

/* Parses what follows an 'e', and moves *p past it; false if there is nothing. A
 * huge power is cut to one that is far out of range too. */
static bool parse_exponent(const char **p, const char *end, decimal *d)
{
    bool negative = *p < end && **p == '-';
    long power = 0;

    if (*p < end && (**p == '-' || **p == '+'))
        ++*p;
    if (*p == end)
        return false;
    for (; *p < end && zf_is_digit(**p); ++*p)
        if (power < 100000)
            power = power * 10 + (**p - '0');
    d->exponent += negative ? -power : power;
    return true;
}

/* The powers of ten that a double represents exactly. */
static const double exact_power[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                     1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                     1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
#define MAX_EXACT_POWER 22
#define MAX_EXACT_INTEGER (UINT64_C(1) << 53)

/* Computes a decimal number if that takes a single rounding: mantissa and power
 * are exact doubles, so one division or product rounds as the decimal itself would
 * be rounded (Clinger's fast path). */
static bool compute_exactly(const decimal *d, double *value)
{
    if (d->significant > MAX_SIGNIFICANT || d->mantissa > MAX_EXACT_INTEGER ||
        d->exponent < -MAX_EXACT_POWER || d->exponent > MAX_EXACT_POWER)
        return false;
    *value = d->exponent < 0 ? (double)d->mantissa / exact_power[-d->exponent]
                             : (double)d->mantissa * exact_power[d->exponent];
    return true;
}

/* Parses the token [token, end), which has no blanks. */
static zf_logits_status parse_token(const char *token, const char *end, float *out)
{
    const char *p = token;
    bool negative = *p == '-';
    decimal d = {0};
    double value;

    if (*p == '-' || *p == '+')
        p++;
    if (p < end && !zf_is_digit(*p) && *p != '.') {
        if (!parse_special(p, end, &value))
            return ZF_LOGITS_NUMBER;
    } else {
        if (!parse_digits(&p, end, &d))
            return ZF_LOGITS_NUMBER;
        if (p < end && (*p == 'e' || *p == 'E')) {
            p++;
            if (!parse_exponent(&p, end, &d))
                return ZF_LOGITS_NUMBER;
        }
        if (p != end)
            return ZF_LOGITS_NUMBER;
        if (!compute_exactly(&d, &value)) {
            zf_logits_status status = round_to_double(token, (size_t)(end - token), &value);
            if (status == ZF_LOGITS_OK)
                *out = (float)value; /* the sign is part of the token */
            return status;
        }
    }
    *out = (float)(negative ? -value : value);
    return ZF_LOGITS_OK;
}

/* ---- a text ------------------------------------------------------------------- */

size_t zf_parse_run_scalar(const char *text, const char *p, const char *end,
                           const char **after, float *out)
{
    size_t n = 0;

    (void)text;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    while (end - p >= ZF_F_READS && zf_parse_f(&p, &out[n]))
        n++;
#endif
    *after = p;
    return n;
}

zf_logits_status zf_logits_parse(zf_level level, const char *text, size_t nbytes, float *out,
                                 size_t *count, size_t *offset)
{
    const zf_logits_kernels *kernels = zf_logits_kernels_of[level];
    const char *p = text, *end = text + nbytes;
    size_t n = 0;

    *offset = 0;
    for (;;) {
        while (p < end && is_blank(*p))
            p++;
        if (p == end)
            break;
        const char *token = p, *after; /* not &p, so that p can stay in a register */
        n += kernels->parse_run(text, p, end, &after, out + n);
        p = after;
        if (p != token)
            continue;
        while (p < end && !is_blank(*p))
            p++;
        zf_logits_status status = parse_token(token, p, &out[n]);
        if (status != ZF_LOGITS_OK) {
            *offset = (size_t)(token - text);
            return status;
        }
        n++;
    }
    *count = n;
    return ZF_LOGITS_OK;
}
