/* AVX2 kernels for logits. They give the same bits as the scalar kernels. */
#if defined(__x86_64__)

#include "logits_internal.h"

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,bmi,bmi2")))

/* ---- parsing ------------------------------------------------------------------ */

/* The product by this constant replaces the division by 10^6. It can differ from
 * the quotient by one step of double, 2^-52 of its value. A quotient below 100 is at
 * least 2^-39 of its value away from the points where the rounding to float changes.
 * So both give the same float. */
#define MILLIONTH 1e-6

#define BLOCK 64 /* bytes that one mask describes */

/* Bit i: p[i] is a space. */
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

/* Bytes in which parse_fours_ahead finds the spaces at once. The first search is short, since
 * it is in vain if one of the first numbers has another form. */
#define FIRST_WINDOW 256
#define WINDOW 1024

/* Stores in next[] the offset after each space of text[0, nbytes), and returns how
 * many there are. nbytes is a multiple of BLOCK. Stores eight offsets for a block, or
 * more if it has more spaces, since a branch on their exact number would be hard to
 * predict. So next[] needs room for eight offsets more. */
static inline size_t find_spaces(const char *text, size_t nbytes, uint16_t *next)
{
    size_t n = 0;

    for (size_t begin = 0; begin < nbytes; begin += BLOCK) {
        uint64_t mask = spaces(text + begin);
        size_t count = (size_t)__builtin_popcountll(mask);

        for (size_t i = 0; i < count; i += 8)
            for (size_t j = i; j < i + 8; j++) {
                /* the added bit keeps the result defined when the mask is empty */
                int bit = __builtin_ctzll(mask | UINT64_C(1) << (BLOCK - 1));
                next[n + j] = (uint16_t)(begin + (size_t)bit + 1);
                mask &= mask - 1;
            }
        n += count;
    }
    return n;
}

/* 1 in each 16 bits of a word, which stand for four numbers. */
#define EACH UINT64_C(0x0001000100010001)

/* Parses n numbers of text, four at a time, as long as they are below 100 and written
 * as zf_parse_f needs it. Returns how many it parsed. Number i begins at start[i] and
 * is followed by a space before start[i + 1]. Reads the 16 bytes before each of these
 * spaces. */
AVX2 static inline size_t parse_fours(const char *text, const uint16_t *start, size_t n,
                                      float *out)
{
    /* the last bytes of a number: sign, tens, ones, dot, six digits -> eight digits in
     * one half of 16 bytes */
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
        uint64_t is_digit = 0, is_dot = 0, is_minus = 0, tens, negative, starts, ends;
        __m128i signs;
        __m128 values;

        for (size_t j = 0; j < 2; j++) {
            const __m256i pair =
                _mm256_loadu2_m128i((const __m128i *)(text + start[i + 2 * j + 2] - 17),
                                    (const __m128i *)(text + start[i + 2 * j + 1] - 17));
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
        memcpy(&starts, start + i, sizeof starts);
        memcpy(&ends, start + i + 1, sizeof ends);
        /* six digits, a dot and a digit; and the length fits tens and sign */
        if ((is_digit & 0xfd00 * EACH) != 0xfd00 * EACH ||
            (is_dot & 0x0200 * EACH) != 0x0200 * EACH ||
            ends - starts != 9 * EACH + tens + negative)
            break;
        /* one half of the register has the numbers 0 and 2, the other 1 and 3 */
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

/* Parses numbers four at a time, as long as parse_fours does. Returns how many; *after
 * gets the end of the last. The 16 bytes before p must be readable, and the last of
 * them a blank. */
AVX2 static size_t parse_fours_ahead(const char *p, const char *end, const char **after,
                                     float *out)
{
    uint16_t start[1 + WINDOW + 8];
    size_t n = 0, parsed, window = FIRST_WINDOW;

    do {
        size_t left = (size_t)(end - p), nbytes = left < window ? left / BLOCK * BLOCK : window;

        start[0] = 0;
        parsed = parse_fours(p, start, find_spaces(p, nbytes, start + 1), out + n);
        p += start[parsed];
        n += parsed;
        window = window < WINDOW ? 2 * window : WINDOW;
    } while (parsed > 0);
    *after = p;
    return n;
}

/* Numbers that are parsed one by one before four at a time are tried. */
#define SINGLES 8
/* Bytes that SINGLES numbers below 100 take at most: sign, two digits, dot, six digits, space. */
#define MAX_SMALL (SINGLES * 11)
/* Groups of SINGLES after which four at a time are tried, at most. */
#define MAX_WAIT 32

/* Parses one by one until the numbers are short enough, and then four at a time. Each time that
 * this stops soon, it waits for more short numbers, so it costs little where it does not help. */
static size_t parse_run(const char *text, const char *p, const char *end, const char **after,
                        float *out)
{
    size_t n = 0, waited = 0, wait = 1;
    const char *rest; /* not &p, so that p can stay in a register */

    if (p - text >= 16) {
        n = parse_fours_ahead(p, end, &rest, out);
        p = rest;
    }
    for (;;) {
        const char *group = p;
        size_t i = 0, parsed;

        while (i < SINGLES && end - p >= ZF_F_READS && zf_parse_f(&p, &out[n + i]))
            i++;
        n += i;
        if (i < SINGLES)
            break;
        waited = p - group <= MAX_SMALL ? waited + 1 : 0;
        if (waited < wait)
            continue;
        parsed = parse_fours_ahead(p, end, &rest, out + n);
        p = rest;
        n += parsed;
        wait = parsed >= 4 * SINGLES ? 1 : wait < MAX_WAIT ? 2 * wait : MAX_WAIT;
        waited = 0;
    }
    *after = p;
    return n;
}

/* ---- sums --------------------------------------------------------------------- */

AVX2 static void extend(zf_extent *e, const float *v, size_t n)
{
    __m256 max = _mm256_loadu_ps(e->max), min = _mm256_loadu_ps(e->min),
           sum = _mm256_loadu_ps(e->sum);

    for (size_t i = 0; i < n; i += ZF_LANES) {
        __m256 value = _mm256_loadu_ps(v + i);
        max = _mm256_max_ps(value, max); /* the second operand if one is NaN */
        min = _mm256_min_ps(value, min);
        sum = _mm256_add_ps(sum, value);
    }
    _mm256_storeu_ps(e->max, max);
    _mm256_storeu_ps(e->min, min);
    _mm256_storeu_ps(e->sum, sum);
}

/* exp_nonpositive of logits_rank.c, with the same operations in the same order. */
AVX2 static inline __m256 exp_nonpositive(__m256 x)
{
    static const float taylor[] = {0.00133335581f, 0.00961812911f, 0.0555041087f,
                                   0.240226507f,   0.693147181f,   1.0f};
    const __m256 round = _mm256_set1_ps(12582912.0f);
    __m256 t = _mm256_mul_ps(x, _mm256_set1_ps(1.44269504f));
    t = _mm256_max_ps(t, _mm256_set1_ps(-126.0f)); /* the second operand if t is NaN */
    __m256 integer = _mm256_sub_ps(_mm256_add_ps(t, round), round);
    __m256 f = _mm256_sub_ps(t, integer), power = _mm256_set1_ps(0.000154035304f);
    for (size_t i = 0; i < sizeof taylor / sizeof *taylor; i++)
        power = _mm256_add_ps(_mm256_set1_ps(taylor[i]), _mm256_mul_ps(f, power));
    __m256i exponent = _mm256_add_epi32(_mm256_cvttps_epi32(integer), _mm256_set1_epi32(127));
    return _mm256_mul_ps(power, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

AVX2 static void add_exps(float sums[ZF_LANES], const float *v, size_t n, float max)
{
    __m256 sum = _mm256_loadu_ps(sums), largest = _mm256_set1_ps(max);

    for (size_t i = 0; i < n; i += ZF_LANES)
        sum = _mm256_add_ps(sum, exp_nonpositive(_mm256_sub_ps(_mm256_loadu_ps(v + i), largest)));
    _mm256_storeu_ps(sums, sum);
}

const zf_logits_kernels zf_logits_kernels_avx2 = {
    .parse_run = parse_run,
    .extend = extend,
    .add_exps = add_exps,
};

#endif
