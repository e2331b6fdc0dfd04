/* Numbers to text. */
#include "logits.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* FLT_MAX has 39 digits before the dot; with sign, dot, six digits and blank, 48. */
#define MAX_F_BYTES 48

size_t zf_logits_format_bound(size_t n)
{
    return n * MAX_F_BYTES + 1;
}

/* "00" "01" ... "99" */
static const char digit_pairs[] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
    "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
    "8081828384858687888990919293949596979899";

static char *put_pair(char *p, uint32_t value)
{
    memcpy(p, digit_pairs + 2 * value, 2);
    return p + 2;
}

static char *put_six_digits(char *p, uint32_t value)
{
    p = put_pair(p, value / 10000);
    p = put_pair(p, value / 100 % 100);
    return put_pair(p, value % 100);
}

static char *put_integer(char *p, uint64_t value)
{
    if (value < 10) {
        *p++ = (char)('0' + value);
        return p;
    }
    if (value < 100)
        return put_pair(p, (uint32_t)value);
    p = put_integer(p, value / 100);
    return put_pair(p, (uint32_t)(value % 100));
}

static char *put_f(char *p, float value)
{
    double magnitude = fabs((double)value);

    if (value != value) {
        memcpy(p, "nan ", 4);
        return p + 4;
    }
    if (signbit(value))
        *p++ = '-';
    if (isinf(magnitude)) {
        memcpy(p, "inf ", 4);
        return p + 4;
    }
    if (magnitude < 0x1p40) {
        /* A float has 24 significant bits and 10^6 has 14, so the product is exact in
         * a double. rint is the only rounding; like printf, it rounds ties to even. */
        uint64_t millionths = (uint64_t)rint(magnitude * 1e6);

        p = put_integer(p, millionths / 1000000);
        *p++ = '.';
        p = put_six_digits(p, (uint32_t)(millionths % 1000000));
    } else {
        /* The value is an integer. Without a fraction, printf writes no dot, which
         * depends on the locale. */
        p += sprintf(p, "%.0f", magnitude);
        memcpy(p, ".000000", 7);
        p += 7;
    }
    *p++ = ' ';
    return p;
}

size_t zf_logits_format(const float *row, size_t n, char *out)
{
    char *p = out;

    for (size_t i = 0; i < n; i++)
        p = put_f(p, row[i]);
    *p++ = '\n';
    return (size_t)(p - out);
}
