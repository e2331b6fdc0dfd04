/* See logits.h. */
#include "logits.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define AVX2 __attribute__((target("avx2")))
#define ALWAYS_INLINE inline __attribute__((always_inline))

/* ---- CPU levels ------------------------------------------------------------ */

enum { LEVEL_UNKNOWN, LEVEL_SCALAR, LEVEL_AVX2 };
static atomic_int level;

static int best_level(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        return LEVEL_AVX2;
#endif
    return LEVEL_SCALAR;
}

static inline int current_level(void)
{
    int now = atomic_load_explicit(&level, memory_order_relaxed);

    if (now == LEVEL_UNKNOWN)
        atomic_store_explicit(&level, now = best_level(), memory_order_relaxed);
    return now;
}

int zf_logits_use(const char *isa)
{
    int wanted = isa == NULL                 ? best_level()
                 : strcmp(isa, "scalar") == 0 ? LEVEL_SCALAR
                 : strcmp(isa, "avx2") == 0   ? LEVEL_AVX2
                                              : LEVEL_UNKNOWN;

    if (wanted == LEVEL_UNKNOWN || wanted > best_level())
        return 0;
    atomic_store(&level, wanted);
    return 1;
}

/* ---- text to numbers ------------------------------------------------------ */

static inline bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static inline bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Powers of ten that a double holds exactly. */
static const double exact_power[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                     1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                     1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
#define MAX_EXACT_POWER 22
#define MAX_EXACT_INTEGER (UINT64_C(1) << 53)

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void make_c_locale(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

/* The correctly rounded double of a token that is known to be a number. The
 * host program's locale must not turn '.' into ','. */
static zf_logits_status general_double(const char *token, size_t nbytes, double *value)
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

/* Whether [p, end) is the lower-case word, in any case and any locale. */
static bool is_word(const char *p, const char *end, const char *word)
{
    for (; p < end && *word != '\0'; p++, word++)
        if ((*p | 0x20) != *word)
            return false;
    return p == end && *word == '\0';
}

/* nan, inf or infinity as all of [p, end). */
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

/* The token [token, end), which has no blanks. */
static zf_logits_status parse_token(const char *token, const char *end, float *out)
{
    const char *p = token;
    bool negative = *p == '-';
    uint64_t mantissa = 0;
    int digits = 0, significant = 0;
    long exponent = 0;
    double value;

    if (*p == '-' || *p == '+')
        p++;
    if (p < end && !is_digit(*p) && *p != '.') {
        if (!parse_special(p, end, &value))
            return ZF_LOGITS_NUMBER;
        *out = (float)(negative ? -value : value);
        return ZF_LOGITS_OK;
    }
    for (bool fraction = false; p < end; p++) {
        if (*p == '.' && !fraction) {
            fraction = true;
            continue;
        }
        if (!is_digit(*p))
            break;
        digits = 1;
        if (significant > 0 || *p != '0')
            significant++;
        if (significant <= 19) {
            mantissa = mantissa * 10 + (uint64_t)(*p - '0');
            exponent -= fraction;
        }
    }
    if (digits == 0)
        return ZF_LOGITS_NUMBER;
    if (p < end && (*p == 'e' || *p == 'E')) {
        bool down;
        long power = 0;

        p++;
        down = p < end && *p == '-';
        if (p < end && (*p == '-' || *p == '+'))
            p++;
        if (p == end)
            return ZF_LOGITS_NUMBER;
        for (; p < end && is_digit(*p); p++)
            if (power < 100000)
                power = power * 10 + (*p - '0');
        exponent += down ? -power : power;
    }
    if (p != end)
        return ZF_LOGITS_NUMBER;
    /* Both operands are exact, so the one division or product rounds as the
     * decimal itself would (Clinger's fast path). */
    if (significant <= 19 && mantissa <= MAX_EXACT_INTEGER && exponent >= -MAX_EXACT_POWER &&
        exponent <= MAX_EXACT_POWER) {
        value = exponent < 0 ? (double)mantissa / exact_power[-exponent]
                             : (double)mantissa * exact_power[exponent];
        *out = (float)(negative ? -value : value);
        return ZF_LOGITS_OK;
    }
    zf_logits_status status = general_double(token, (size_t)(end - token), &value);
    if (status == ZF_LOGITS_OK)
        *out = (float)value;
    return status;
}

#define ONES UINT64_C(0x0101010101010101)

static inline uint64_t load8(const char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* Whether all eight bytes of word are digits. */
static inline bool eight_digits(uint64_t word)
{
    return (((word + 0x46 * ONES) | (word - 0x30 * ONES)) & 0x80 * ONES) == 0;
}

/* The value of eight digits, the first in the lowest byte: adds neighbours
 * pairwise, then pairs of pairs, then halves. */
static inline uint32_t eight_digits_value(uint64_t word)
{
    word -= 0x30 * ONES;
    word = word * 10 + (word >> 8);
    word = ((word & UINT64_C(0x000000ff000000ff)) * (100 + (UINT64_C(1000000) << 32)) +
            ((word >> 16) & UINT64_C(0x000000ff000000ff)) * (1 + (UINT64_C(10000) << 32))) >>
           32;
    return (uint32_t)word;
}

/* Bytes that parse_f may read. */
#define F_READS 16

/* A number as "%f " writes it, of at most seven bytes before the dot, without
 * a branch on its length or sign: moves *p past the blank, or returns false
 * with *p unchanged when the text is anything else. */
static inline bool parse_f(const char **p, float *out)
{
    uint64_t word = load8(*p), dots = word ^ '.' * ONES, whole, fraction;
    /* **p == '-', but compilers would set one byte of a register, which waits for
     * the rest of it: the last number's quotient */
    uint32_t negative = ((uint32_t)((word & 0xff) ^ '-') - 1) >> 31, bits;
    int before; /* bytes before the dot; the next number depends on this alone */
    int64_t millionths;
    float value;

    dots = (dots - ONES) & ~dots & 0x80 * ONES;
    if (dots == 0)
        return false;
    before = __builtin_ctzll(dots) >> 3;
    if (before == 0)
        return false;
    word ^= negative * (uint64_t)('-' ^ '0'); /* a sign becomes a leading zero */
    whole = (word << (64 - 8 * before)) | (0x30 * ONES >> (8 * before));
    word = load8(*p + before + 1);
    fraction = (word << 16) | 0x3030;
    if (whole << 16 == (0x30 * ONES) << 16) { /* below 100: one word holds all digits */
        fraction = (word << 16) | (whole >> 48);
        millionths = 0;
    } else {
        if (!eight_digits(whole))
            return false;
        millionths = (int64_t)eight_digits_value(whole) * 1000000;
    }
    if (!eight_digits(fraction) || (char)(word >> 48) != ' ')
        return false;
    value = (float)((double)(millionths + (int64_t)eight_digits_value(fraction)) / 1e6);
    memcpy(&bits, &value, sizeof bits);
    bits |= negative << 31;
    memcpy(out, &bits, sizeof bits);
    *p += before + 8;
    return true;
}

#if defined(__x86_64__)
/* Below 100, a quotient of an integer and 10^6 is never so near to a point where
 * two floats meet (2^-39 of it, at least) that the product by this, which may be
 * the quotient's neighbour in double (2^-52), could round to another float. */
#define MILLIONTH 1e-6

#define BLOCK 64

static inline uint64_t spaces(const char *p)
{
    uint64_t mask = 0;

    for (int i = 0; i < BLOCK; i += 16) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)(p + i));
        const __m128i equal = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(' '));
        mask |= (uint64_t)(uint32_t)_mm_movemask_epi8(equal) << i;
    }
    return mask;
}

/* How far parse_run looks ahead for spaces: less is looked at twice where it
 * has to give up. */
#define WINDOW 1024

/* at[0 ..]: one past each space of text[0, nbytes), a multiple of BLOCK.
 * Stores eight a block, and more where there are, so that no branch depends on
 * whether it is six or seven; the array has room for eight more. */
static inline size_t find_spaces(const char *text, size_t nbytes, uint16_t *at)
{
    size_t n = 0;

    for (size_t begin = 0; begin < nbytes; begin += BLOCK) {
        uint64_t mask = spaces(text + begin);
        size_t found = (size_t)__builtin_popcountll(mask);

        for (size_t i = 0; i < found; i += 8)
            for (size_t j = i; j < i + 8; j++) {
                /* of an empty mask anything but undefined */
                int bit = __builtin_ctzll(mask | UINT64_C(1) << (BLOCK - 1));
                at[n + j] = (uint16_t)(begin + (size_t)bit + 1);
                mask &= mask - 1;
            }
        n += found;
    }
    return n;
}

/* A group of four numbers, 16 bits for each, in one word. */
#define EACH UINT64_C(0x0001000100010001)

/* The n numbers that end one before at[1 .. n] of text, in fours, as long as they
 * are as parse_f takes them and below 100; returns how many. at[0] is where the
 * first begins. Reads 16 bytes before each one's end. */
AVX2 static inline size_t parse_fours(const char *text, const uint16_t *at, size_t n, float *out)
{
    /* bytes of a number: ... sign tens ones dot fraction; to eight digits in one half */
    const __m256i low_half =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(7, 8, 10, 11, 12, 13, 14, 15, -1, -1, -1, -1,
                                                  -1, -1, -1, -1));
    const __m256i high_half = _mm256_permute4x64_epi64(low_half, 0xb1);
    const __m256i to_hundreds = _mm256_set1_epi16(10 | 1 << 8);
    const __m256i to_myriads = _mm256_set1_epi32(100 | 1 << 16);
    const __m256i to_all = _mm256_set1_epi32(10000 | 1 << 16);
    size_t i = 0;

    for (; n - i >= 4; i += 4) {
        __m256i digits[2], numbers;
        uint64_t is_digit = 0, is_dot = 0, is_minus = 0, tens, negative, ends, starts;
        __m128i signs;
        __m128 values;

        for (size_t j = 0; j < 2; j++) {
            const __m256i pair =
                _mm256_loadu2_m128i((const __m128i *)(text + at[i + 2 * j + 2] - 17),
                                    (const __m128i *)(text + at[i + 2 * j + 1] - 17));
            const __m256i value = _mm256_sub_epi8(pair, _mm256_set1_epi8('0'));
            const __m256i digit =
                _mm256_cmpeq_epi8(_mm256_min_epu8(value, _mm256_set1_epi8(9)), value);
            const __m256i dot = _mm256_cmpeq_epi8(pair, _mm256_set1_epi8('.'));
            const __m256i minus = _mm256_cmpeq_epi8(pair, _mm256_set1_epi8('-'));

            is_digit |= (uint64_t)(uint32_t)_mm256_movemask_epi8(digit) << (32 * j);
            is_dot |= (uint64_t)(uint32_t)_mm256_movemask_epi8(dot) << (32 * j);
            is_minus |= (uint64_t)(uint32_t)_mm256_movemask_epi8(minus) << (32 * j);
            digits[j] = _mm256_shuffle_epi8(_mm256_and_si256(value, digit),
                                            j == 0 ? low_half : high_half);
        }
        tens = is_digit >> 7 & EACH;
        negative = (is_minus >> 7 | (is_minus >> 6 & tens)) & EACH;
        memcpy(&starts, at + i, sizeof starts);
        memcpy(&ends, at + i + 1, sizeof ends);
        if ((is_digit & 0xfd00 * EACH) != 0xfd00 * EACH ||
            (is_dot & 0x0200 * EACH) != 0x0200 * EACH ||
            ends - starts != 9 * EACH + tens + negative)
            break;
        /* in either half of the register: numbers 0 and 2, 1 and 3 */
        numbers = _mm256_maddubs_epi16(_mm256_or_si256(digits[0], digits[1]), to_hundreds);
        numbers = _mm256_madd_epi16(numbers, to_myriads);
        numbers = _mm256_madd_epi16(_mm256_packus_epi32(numbers, numbers), to_all);
        numbers = _mm256_permutevar8x32_epi32(numbers,
                                              _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
        values = _mm256_cvtpd_ps(_mm256_mul_pd(
            _mm256_cvtepi32_pd(_mm256_castsi256_si128(numbers)), _mm256_set1_pd(MILLIONTH)));
        signs = _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_cvtsi64_si128((int64_t)negative)), 31);
        _mm_storeu_ps(out + i, _mm_or_ps(values, _mm_castsi128_ps(signs)));
    }
    return i;
}

/* parse_f for as many numbers as come in fours; returns how many, and what
 * comes after. 16 bytes before p are readable, of which the last is a blank. */
AVX2 static size_t parse_run(const char *p, const char **after, const char *end, float *out)
{
    uint16_t at[1 + WINDOW + 8];
    size_t n = 0, run;

    do {
        size_t nbytes = end - p < WINDOW ? (size_t)(end - p) / BLOCK * BLOCK : WINDOW;

        at[0] = 0;
        run = parse_fours(p, at, find_spaces(p, nbytes, at + 1), out + n);
        p += at[run];
        n += run;
    } while (run > 0);
    *after = p;
    return n;
}
#endif

/* Numbers parsed one by one before four are tried again. */
#define SINGLES 8

zf_logits_status zf_logits_parse(const char *text, size_t nbytes, float *out, size_t *count,
                                 size_t *at)
{
    const char *p = text, *end = text + nbytes, *token;
    size_t n = 0, singles = SIZE_MAX;

    *at = 0;
    for (;;) {
        while (p < end && is_blank(*p))
            p++;
        if (p == end)
            break;
        token = p;
#if defined(__x86_64__)
        if (current_level() == LEVEL_AVX2) {
            if (p - text >= 16) {
                const char *after; /* p itself had better stay in a register */
                n += parse_run(p, &after, end, out + n);
                p = after;
            }
            singles = SINGLES;
        }
#endif
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        for (size_t i = 0; i < singles && end - p >= F_READS && parse_f(&p, &out[n]); i++)
            n++;
#endif
        if (p != token)
            continue;
        while (p < end && !is_blank(*p))
            p++;
        zf_logits_status status = parse_token(token, p, &out[n]);
        if (status != ZF_LOGITS_OK) {
            *at = (size_t)(token - text);
            return status;
        }
        n++;
    }
    *count = n;
    return ZF_LOGITS_OK;
}

/* ---- numbers to text ------------------------------------------------------ */

/* FLT_MAX has 39 digits before the dot; sign, dot, 6 digits, blank. */
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
        /* 24 bits of a float times the 14 odd bits of 10^6 are exact in a
         * double, so rounding to an integer is the only rounding, and ties go
         * to even as in printf. */
        uint64_t millionths = (uint64_t)rint(magnitude * 1e6);
        uint64_t whole = millionths / 1000000;

        p = put_integer(p, whole);
        *p++ = '.';
        p = put_six_digits(p, (uint32_t)(millionths % 1000000));
    } else {
        /* An integer; without a fraction printf needs no locale's dot. */
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

/* ---- ranking --------------------------------------------------------------- */

/* Whether a belongs before b, when b stands earlier in the row. */
static inline bool ranks_before(float a, float b)
{
    return a > b || (b != b && a == a);
}

/* Puts class i into classes[0, kept), dropping the last when k are kept. */
static size_t insert(const float *row, int32_t i, int32_t *classes, size_t kept, size_t k)
{
    size_t at = kept < k ? kept++ : k - 1;

    for (; at > 0 && ranks_before(row[i], row[classes[at - 1]]); at--)
        classes[at] = classes[at - 1];
    classes[at] = i;
    return kept;
}

void zf_logits_topk(const float *row, size_t n, size_t k, int32_t *classes, float *values)
{
    size_t kept = 0, i = 0;

    while (kept < k)
        kept = insert(row, (int32_t)i++, classes, kept, k);
    for (float worst = row[classes[k - 1]]; i < n; i++) {
        if (row[i] <= worst) /* false also where one is NaN */
            continue;
        if (ranks_before(row[i], worst)) {
            insert(row, (int32_t)i, classes, kept, k);
            worst = row[classes[k - 1]];
        }
    }
    if (values != NULL)
        for (i = 0; i < k; i++)
            values[i] = row[classes[i]];
}

/* e^x for x <= 0 and NaN (0 then), to about 2e-7 relative: 2^t split into its
 * integer part, put into the exponent, and a polynomial of the rest (the
 * Taylor series of 2^f, |f| <= 1/2). Branch-free, so that compilers make SIMD
 * of it, and the same bits everywhere, which libm does not promise. */
static ALWAYS_INLINE float exp_nonpositive(float x)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves an integer */
    float t = x * 1.44269504f;
    float whole, f, power;
    int32_t bits;

    t = t > -126.0f ? t : -126.0f; /* also where t is NaN */
    whole = (t + round) - round;
    f = t - whole;
    power = 1.0f +
            f * (0.693147181f +
                 f * (0.240226507f +
                      f * (0.0555041087f +
                           f * (0.00961812911f + f * (0.00133335581f + f * 0.000154035304f)))));
    bits = ((int32_t)whole + 127) * (1 << 23);
    memcpy(&f, &bits, sizeof f);
    return power * f;
}

/* Independent running values, so that they can be one SIMD register. */
#define LANES 8

typedef struct extent {
    float high[LANES], low[LANES], sum[LANES];
} extent;

static ALWAYS_INLINE void extend(extent *e, const float *v, size_t n)
{
    for (size_t lane = 0; lane < n; lane++) {
        e->high[lane] = v[lane] > e->high[lane] ? v[lane] : e->high[lane];
        e->low[lane] = v[lane] < e->low[lane] ? v[lane] : e->low[lane];
        e->sum[lane] += v[lane];
    }
}

static ALWAYS_INLINE void add_exps(float *exps, const float *v, size_t n, float high)
{
    for (size_t lane = 0; lane < n; lane++)
        exps[lane] += exp_nonpositive(v[lane] - high);
}

/* extend by n values, a multiple of LANES. */
static void extend_all(extent *e, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i += LANES)
        extend(e, v + i, LANES);
}

static ALWAYS_INLINE float confidence(const float *row, size_t n, float *sum, float *least,
                                      void (*extend_all)(extent *, const float *, size_t))
{
    size_t whole = n - n % LANES;
    float exps[LANES] = {0};
    extent e;

    for (size_t lane = 0; lane < LANES; lane++) {
        e.high[lane] = -INFINITY;
        e.low[lane] = INFINITY;
        e.sum[lane] = 0.0f;
    }
    extend_all(&e, row, whole);
    extend(&e, row + whole, n - whole);
    for (size_t lane = 1; lane < LANES; lane++) {
        e.high[0] = e.high[lane] > e.high[0] ? e.high[lane] : e.high[0];
        e.low[0] = e.low[lane] < e.low[0] ? e.low[lane] : e.low[0];
        e.sum[0] += e.sum[lane];
    }
    for (size_t i = 0; i < whole; i += LANES)
        add_exps(exps, row + i, LANES, e.high[0]);
    add_exps(exps, row + whole, n - whole, e.high[0]);
    for (size_t lane = 1; lane < LANES; lane++)
        exps[0] += exps[lane];
    *sum = e.sum[0];
    *least = e.low[0];
    return isfinite(e.high[0]) ? 1.0f / exps[0] : NAN;
}

#if defined(__x86_64__)
/* Compilers make no SIMD of extend. */
AVX2 static void extend_all_avx2(extent *e, const float *v, size_t n)
{
    __m256 high = _mm256_loadu_ps(e->high), low = _mm256_loadu_ps(e->low),
           sum = _mm256_loadu_ps(e->sum);

    for (size_t i = 0; i < n; i += LANES) {
        __m256 value = _mm256_loadu_ps(v + i);
        high = _mm256_max_ps(value, high); /* the second where one is NaN */
        low = _mm256_min_ps(value, low);
        sum = _mm256_add_ps(sum, value);
    }
    _mm256_storeu_ps(e->high, high);
    _mm256_storeu_ps(e->low, low);
    _mm256_storeu_ps(e->sum, sum);
}

AVX2 static float confidence_avx2(const float *row, size_t n, float *sum, float *least)
{
    return confidence(row, n, sum, least, extend_all_avx2);
}
#endif

float zf_logits_confidence(const float *row, size_t n, float *sum, float *least)
{
#if defined(__x86_64__)
    if (current_level() == LEVEL_AVX2)
        return confidence_avx2(row, n, sum, least);
#endif
    return confidence(row, n, sum, least, extend_all);
}

/* ---- files ------------------------------------------------------------------ */

/* Up to this many bytes a file is copied into the thread's buffer; mapping
 * costs more than the copy (page faults, and two threads wait for each other
 * in the kernel). Larger files are mapped: only the first row is touched. */
#define COPY_BYTES ((size_t)128 << 10)

/* One thread's memory, reused from file to file. */
typedef struct scratch {
    char *bytes; /* COPY_BYTES */
    float *row;
    size_t row_capacity;
} scratch;

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

/* n little-endian elements -> float, as NumPy's astype does. Returns false
 * for a type that is not known. */
static bool convert(const char *src, char type, int size, size_t n, float *out)
{
#define CONVERT(c_type, expression)                     \
    for (size_t i = 0; i < n; i++) {                    \
        c_type v;                                       \
        memcpy(&v, src + i * sizeof v, sizeof v);       \
        out[i] = (float)(expression);                   \
    }                                                   \
    return true

    switch (type << 8 | size) {
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

/* The first line of text[0, nbytes), if it is a whole row: a row of one number may go
 * on in the next lines. */
static bool row_of_line(scratch *s, const char *text, size_t nbytes, zf_logits_result *r)
{
    const char *newline = memchr(text, '\n', nbytes);
    size_t line = newline == NULL ? nbytes : (size_t)(newline - text);
    size_t count = 0, at = 0;

    if (!reserve_row(s, line / 2 + 1))
        r->status = ZF_LOGITS_NOMEM;
    else
        r->status = zf_logits_parse(text, line, s->row, &count, &at);
    r->count = (int64_t)count;
    r->at = (int64_t)at;
    return newline != NULL && (r->status != ZF_LOGITS_OK || count > 1);
}

static void row_of_text(scratch *s, const char *text, size_t nbytes, zf_logits_result *r)
{
    size_t count = 0, at = 0;

    if (!row_of_line(s, text, nbytes, r) && r->status == ZF_LOGITS_OK && r->count == 1) {
        if (!reserve_row(s, nbytes / 2 + 1)) {
            r->status = ZF_LOGITS_NOMEM;
            return;
        }
        r->status = zf_logits_parse(text, nbytes, s->row, &count, &at);
        r->count = (int64_t)count;
        r->at = (int64_t)at;
    }
    if (r->status == ZF_LOGITS_OK && r->count == 0)
        r->status = ZF_LOGITS_EMPTY;
}

static void row_of_elements(scratch *s, const char *data, size_t nbytes, char type, int size,
                            size_t count, zf_logits_result *r)
{
    if (count == 0) {
        r->status = ZF_LOGITS_EMPTY;
    } else if (count > nbytes / (size_t)size) {
        r->status = ZF_LOGITS_BYTES;
        r->at = (int64_t)nbytes;
    } else if (!reserve_row(s, count)) {
        r->status = ZF_LOGITS_NOMEM;
    } else if (!convert(data, type, size, count, s->row)) {
        r->status = ZF_LOGITS_NPY;
    } else {
        r->count = (int64_t)count;
    }
}

static void row_of_bin(scratch *s, const char *data, size_t nbytes, char type, int size,
                       zf_logits_result *r)
{
    if (nbytes % (size_t)size != 0) {
        r->status = ZF_LOGITS_BYTES;
        r->at = (int64_t)nbytes;
        return;
    }
    row_of_elements(s, data, nbytes, type, size, nbytes / (size_t)size, r);
}

/* Where the value of 'key' begins in an .npy header, or NULL. */
static const char *npy_value(const char *header, const char *key)
{
    const char *at = strstr(header, key);

    if (at == NULL)
        return NULL;
    at += strlen(key);
    return at + strspn(at, " ");
}

#define NPY_MAGIC 10       /* bytes before the header text in version 1 */
#define NPY_HEADER_MAX 1024

static void row_of_npy(scratch *s, const char *data, size_t nbytes, zf_logits_result *r)
{
    char header[NPY_HEADER_MAX + 1];
    const char *descr, *order, *shape;
    size_t start = NPY_MAGIC, header_bytes, count = 1;
    bool empty = false;

    r->status = ZF_LOGITS_NPY;
    if (nbytes < NPY_MAGIC + 2 || memcmp(data, "\x93NUMPY", 6) != 0)
        return;
    const uint8_t *bytes = (const uint8_t *)data;
    header_bytes = bytes[8] | (size_t)bytes[9] << 8;
    if (bytes[6] > 1) { /* versions 2 and 3: four bytes of length */
        header_bytes |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
        start += 2;
    }
    if (header_bytes > NPY_HEADER_MAX || header_bytes > nbytes - start)
        return;
    memcpy(header, data + start, header_bytes);
    header[header_bytes] = '\0';
    descr = npy_value(header, "'descr':");
    order = npy_value(header, "'fortran_order':");
    shape = npy_value(header, "'shape':");
    if (descr == NULL || order == NULL || shape == NULL || descr[0] != '\'' || shape[0] != '(' ||
        strncmp(order, "False", 5) != 0)
        return;
    /* '<f4', or '|u1' where the order does not matter */
    if ((descr[1] != '<' && descr[1] != '|') || descr[2] == '\0' || !is_digit(descr[3]) ||
        descr[4] != '\'')
        return;
    for (const char *p = shape + 1; *p != ')';) {
        char *end;
        unsigned long long n;

        p += strspn(p, ", ");
        if (*p == ')')
            break;
        if (!is_digit(*p))
            return;
        errno = 0;
        n = strtoull(p, &end, 10);
        if (errno != 0 || n > SIZE_MAX)
            return;
        empty |= n == 0;
        if (n != 1)
            count = (size_t)n; /* the last one longer than 1 remains */
        p = end;
    }
    r->status = ZF_LOGITS_OK;
    row_of_elements(s, data + start + header_bytes, nbytes - start - header_bytes, descr[2],
                    descr[3] - '0', empty ? 0 : count, r);
}

static void row_of(scratch *s, const char *data, size_t nbytes, zf_logits_kind kind,
                   char bin_type, int bin_size, zf_logits_result *r)
{
    if (kind == ZF_LOGITS_TXT)
        row_of_text(s, data, nbytes, r);
    else if (kind == ZF_LOGITS_NPY_FILE)
        row_of_npy(s, data, nbytes, r);
    else
        row_of_bin(s, data, nbytes, bin_type, bin_size, r);
}

/* Reads the first nbytes of fd, fewer where it ends before. */
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

/* The row of any file. */
static void read_whole(scratch *s, int fd, zf_logits_kind kind, char bin_type, int bin_size,
                       zf_logits_result *r)
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
            row_of(s, s->bytes, (size_t)got, kind, bin_type, bin_size, r);
        }
    } else {
        size_t nbytes = (size_t)st.st_size;
        char *map = mmap(NULL, nbytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            r->status = ZF_LOGITS_READ;
            r->sys_errno = errno;
        } else {
            row_of(s, map, nbytes, kind, bin_type, bin_size, r);
            munmap(map, nbytes);
        }
    }
}

/* Leaves the row in s->row and says in *r what it is. */
static void read_row(scratch *s, int dir_fd, const char *name, zf_logits_kind kind,
                     char bin_type, int bin_size, zf_logits_result *r)
{
    int fd;
    ssize_t got;

    memset(r, 0, sizeof *r);
    /* O_NONBLOCK: a FIFO must not hang us */
    fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        r->status = ZF_LOGITS_READ;
        r->sys_errno = errno;
        return;
    }
    /* A sound line needs no more calls: neither the file's size nor its end. */
    got = kind == ZF_LOGITS_TXT ? pread(fd, s->bytes, COPY_BYTES, 0) : 0;
    if (got <= 0 || !row_of_line(s, s->bytes, (size_t)got, r) || r->status != ZF_LOGITS_OK)
        read_whole(s, fd, kind, bin_type, bin_size, r);
    close(fd);
}

zf_logits_result zf_logits_read_file(int dir_fd, const char *name, zf_logits_kind kind,
                                     char bin_type, int bin_size, float **row)
{
    scratch s = {.bytes = malloc(COPY_BYTES)};
    zf_logits_result r = {.status = ZF_LOGITS_NOMEM};

    if (s.bytes != NULL)
        read_row(&s, dir_fd, name, kind, bin_type, bin_size, &r);
    free(s.bytes);
    *row = s.row;
    return r;
}

static void rank_file(scratch *s, const zf_logits_files *f, size_t i)
{
    zf_logits_result *r = &f->results[i];
    int32_t *classes = f->classes + i * f->k;
    float *values = f->values + i * f->k;
    size_t found = 0;

    if (s->bytes == NULL)
        *r = (zf_logits_result){.status = ZF_LOGITS_NOMEM};
    else
        read_row(s, f->dir_fd, f->names[i], (zf_logits_kind)f->kinds[i], f->bin_type,
                 f->bin_size, r);
    if (r->status == ZF_LOGITS_OK) {
        size_t n = (size_t)r->count;
        found = n < f->k ? n : f->k;
        zf_logits_topk(s->row, n, found, classes, values);
        if (f->want_confidence)
            r->confidence = zf_logits_confidence(s->row, n, &r->sum, &r->least);
    }
    for (; found < f->k; found++) {
        classes[found] = -1;
        values[found] = NAN;
    }
}

struct zf_logits_reading {
    zf_logits_files files;
    atomic_size_t next;
    int nthreads;
    pthread_t threads[];
};

/* Files taken at a time: few enough to share the end fairly. */
#define RUN 16

size_t zf_logits_help(zf_logits_reading *reading, size_t most)
{
    const zf_logits_files *files = &reading->files;
    scratch s = {.bytes = malloc(COPY_BYTES)};
    size_t begin, end = 0;

    for (size_t done = 0; done < most && end < files->nfiles; done += RUN) {
        begin = atomic_fetch_add(&reading->next, RUN);
        end = begin < files->nfiles && files->nfiles - begin > RUN ? begin + RUN : files->nfiles;
        for (size_t i = begin; i < end; i++)
            rank_file(&s, files, i);
    }
    free(s.bytes);
    free(s.row);
    return end;
}

static void *work(void *reading)
{
    zf_logits_help(reading, SIZE_MAX);
    return NULL;
}

zf_logits_reading *zf_logits_begin(const zf_logits_files *files, int nthreads)
{
    zf_logits_reading *reading =
        malloc(sizeof *reading + (size_t)nthreads * sizeof reading->threads[0]);

    if (reading == NULL)
        return NULL;
    reading->files = *files;
    atomic_init(&reading->next, 0);
    for (reading->nthreads = 0; reading->nthreads < nthreads; reading->nthreads++)
        if (pthread_create(&reading->threads[reading->nthreads], NULL, work, reading) != 0)
            break;
    return reading;
}

void zf_logits_end(zf_logits_reading *reading)
{
    /* far from wrapping, whatever the threads still add */
    atomic_store(&reading->next, SIZE_MAX / 2);
    for (int i = 0; i < reading->nthreads; i++)
        pthread_join(reading->threads[i], NULL);
    free(reading);
}
