/*
 * The AC scans of a progressive JPEG -> coefficients: T.81, annex G.1.2.
 *
 * A scan that adds a bit reads it for each coefficient that is not 0. Which are
 * not 0 is kept as a bit per coefficient, so that the zeros of a run are counted
 * and the added bits are read several at a time, and blocks that the window does
 * not need have no coefficients in memory.
 */
#include "zf_jpeg_bits.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

bool zf_scan_table_make(zf_scan_table *table, const zf_huffman *source, int max_size)
{
    const int n = 1 << ZF_SCAN_BITS;
    int filled = 0, next_symbol = 0;

    if (!zf_codes_make(&table->codes, source))
        return false;
    for (int l = 1; l <= ZF_SCAN_BITS; l++)
        for (int i = 0; i < source->bits[l]; i++) {
            int symbol = source->values[next_symbol++];
            int run = symbol >> 4, size = symbol & 15, total = l + size;
            if (size == 0 && run < 15)
                run += ZF_RUN_EOB;
            else if (size > max_size || total > ZF_SCAN_BITS)
                run = ZF_RUN_RARE;
            for (int end = filled + (n >> l); filled < end; filled++) {
                int value = 0;
                if (size > 0 && total <= ZF_SCAN_BITS)
                    value = extend((uint64_t)filled << (64 - ZF_SCAN_BITS + l), size);
                table->entry[filled].total = (uint8_t)total;
                table->entry[filled].run = (uint8_t)run;
                table->entry[filled].value = (int16_t)value;
            }
        }
    for (; filled < n; filled++)
        table->entry[filled].run = ZF_RUN_RARE;
    return true;
}

/* The next n bits, which the buffer holds. */
static inline uint64_t take(zf_bits *b, int n)
{
    uint64_t value = b->buf >> 1 >> (63 - n);
    drop(b, n);
    return value;
}

/* What a symbol means: `run` zeros and a value, or the end of the band. */
typedef struct {
    int run, value; /* run: also ZF_RUN_EOB + n; negative if the code is bad */
} symbol;

/* Decodes a symbol that is not in the table. */
static __attribute__((noinline)) symbol rare_symbol(zf_bits *bits, const zf_scan_table *table)
{
    zf_bits b = *bits;
    refill(&b);
    int length, code = zf_find_symbol(&table->codes, b.buf, &length);
    int run = code >> 4, size = code & 15;
    if (length > 16)
        return (symbol){-1, 0};
    symbol s = {size == 0 && run < 15 ? run + ZF_RUN_EOB : run, extend(b.buf << length, size)};
    drop(&b, length + size);
    *bits = b;
    return s;
}

/* The length of a run of blocks in which the band is over, this block included. */
static inline uint32_t eob_run(zf_bits *b, int n)
{
    if (n == 0)
        return 1;
    refill(b);
    return (1u << n) + (uint32_t)take(b, n);
}

static inline __attribute__((always_inline)) bool ac_first(zf_bits *bits, zf_ac_scan *scan,
                                                           const uint8_t *end,
                                                           uint64_t *nonzero, int16_t *coef,
                                                           int n)
{
    const zf_scan_table *table = &scan->table;
    const int first = scan->first, last = scan->last, unit = 1 << scan->low_bit;
    uint32_t over = scan->eob_run;
    zf_bits b = *bits; /* in registers */

    for (int i = 0; i < n; i++) {
        if (over > 0) {
            uint32_t skipped = over < (uint32_t)(n - i) ? over : (uint32_t)(n - i);
            over -= skipped;
            i += (int)skipped - 1;
            continue;
        }
        if (b.p > end)
            return false;
        int16_t *block = coef ? coef + 64 * i : NULL;
        uint64_t found = 0;
        int k = first, lookups = 0;
        do {
            if (lookups-- == 0) {
                refill(&b);
                lookups = 4; /* 5 lookups of 10 bits fit the bits of a refill */
            }
            uint64_t index = b.buf >> (64 - ZF_SCAN_BITS);
            int total = table->entry[index].total, value = table->entry[index].value;
            k += table->entry[index].run;
            if (__builtin_expect(k > last, 0)) {
                int run = table->entry[index].run;
                if (run == ZF_RUN_RARE) {
                    k -= run;
                    symbol s = rare_symbol(&b, table);
                    total = lookups = 0;
                    run = s.run;
                    value = s.value;
                    if (run < 0 || (value < 0 ? -value : value) * unit > INT16_MAX)
                        return false;
                    k += run;
                }
                b.buf <<= total;
                b.left -= total;
                if (run >= ZF_RUN_EOB) {
                    over = eob_run(&b, run - ZF_RUN_EOB) - 1;
                    break;
                }
                if (k > last)
                    return false;
            } else {
                b.buf <<= total;
                b.left -= total;
            }
            if (block)
                block[zf_zigzag_index[k]] = (int16_t)(value * unit);
            found |= (uint64_t)(value != 0) << k;
            k++;
        } while (k <= last);
        nonzero[i] |= found;
    }
    scan->eob_run = over;
    *bits = b;
    return true;
}

/* Reads n < 64 bits, of which the buffer holds 32. */
static inline uint64_t take_many(zf_bits *b, int n)
{
    if (__builtin_expect(n <= 32, 1))
        return take(b, n);
    uint64_t high = take(b, 32);
    refill(b);
    return high << (n - 32) | take(b, n - 32);
}

/* Adds a unit to the magnitude of those coefficients of the set `which` that have
 * a 1 in `added`: its lowest bit belongs to the last one. */
static inline void add_bits(int16_t *block, uint64_t which, uint64_t added, int unit)
{
    added <<= 64 - __builtin_popcountll(which);
    for (; added; added <<= 1, which &= which - 1) {
        int16_t *c = &block[zf_zigzag_index[__builtin_ctzll(which)]];
        *c = (int16_t)(*c + (((*c >> 15) | 1) * unit & -(int)(added >> 63)));
    }
}

/* The set bit that has n set bits below it; 0: there is none. */
typedef uint64_t (*nth_bit)(uint64_t set, int n);

static inline uint64_t nth_bit_scalar(uint64_t set, int n)
{
    for (; n > 0; n--)
        set &= set - 1;
    return set & -set;
}

static inline __attribute__((always_inline)) bool ac_refine(zf_bits *bits, zf_ac_scan *scan,
                                                            const uint8_t *end,
                                                            uint64_t *nonzero, int16_t *coef,
                                                            int n, nth_bit nth)
{
    const zf_scan_table *table = &scan->table;
    const int unit = 1 << scan->low_bit;
    const uint64_t top = (uint64_t)1 << scan->last, bottom = (uint64_t)1 << scan->first;
    const uint64_t band = (top - bottom) | top;
    uint32_t over = scan->eob_run;
    zf_bits b = *bits;

    for (int i = 0; i < n; i++) {
        int16_t *block = coef ? coef + 64 * i : NULL;
        const uint64_t before = nonzero[i] & band;
        uint64_t left = before;  /* those whose bit was not read yet */
        uint64_t added = 0;      /* the bits that were read */

        if (b.p > end)
            return false;
        if (over == 0) {
            uint64_t zeros = band & ~before, found = 0, at;
            do {
                refill(&b);
                uint64_t index = b.buf >> (64 - ZF_SCAN_BITS);
                int run = table->entry[index].run, value = table->entry[index].value;
                if (__builtin_expect(run == ZF_RUN_RARE, 0)) {
                    symbol s = rare_symbol(&b, table);
                    run = s.run;
                    value = s.value;
                    if (run < 0 || value < -1 || value > 1)
                        return false;
                    refill(&b);
                } else {
                    drop(&b, table->entry[index].total);
                }
                if (run >= ZF_RUN_EOB) {
                    over = eob_run(&b, run - ZF_RUN_EOB);
                    break;
                }
                at = nth(zeros, run);
                if (at == 0)
                    return false;
                uint64_t passed = left & (at - 1);
                int count = __builtin_popcountll(passed);
                added = added << count | take_many(&b, count);
                left ^= passed;
                zeros &= ~at & -at; /* those above */
                if (value) {
                    found |= at;
                    if (block)
                        block[zf_zigzag_index[__builtin_ctzll(at)]] = (int16_t)(value * unit);
                }
            } while (at != top);
            nonzero[i] |= found;
        }
        if (over > 0) {
            refill(&b);
            int count = __builtin_popcountll(left);
            added = added << count | take_many(&b, count);
            over--;
        }
        if (block && added)
            add_bits(block, before, added, unit);
    }
    scan->eob_run = over;
    *bits = b;
    return true;
}

/* Two copies of each loop, since skipping blocks needs no stores. */
ZF_DECL_AC_SCAN(zf_ac_first_scalar)
{
    return coef ? ac_first(bits, scan, end, nonzero, coef, n)
                : ac_first(bits, scan, end, nonzero, NULL, n);
}

ZF_DECL_AC_SCAN(zf_ac_refine_scalar)
{
    return coef ? ac_refine(bits, scan, end, nonzero, coef, n, nth_bit_scalar)
                : ac_refine(bits, scan, end, nonzero, NULL, n, nth_bit_scalar);
}

#if defined(__x86_64__)
/* The same code with the bit instructions that every CPU with AVX2 has. */
#define BITS __attribute__((target("bmi,bmi2,popcnt")))

BITS ZF_DECL_AC_SCAN(zf_ac_first_bmi2)
{
    return coef ? ac_first(bits, scan, end, nonzero, coef, n)
                : ac_first(bits, scan, end, nonzero, NULL, n);
}

BITS static inline uint64_t nth_bit_pdep(uint64_t set, int n)
{
    return _pdep_u64((uint64_t)1 << n, set);
}

/* AMD's CPUs before Zen 3, the first with vpclmulqdq, take hundreds of cycles for
 * pdep. */
static bool has_fast_pdep(void)
{
    return ZF_CPU_HAS(INTEL) || ZF_CPU_HAS(VPCLMULQDQ);
}

BITS static bool ac_refine_bmi2(zf_bits *bits, zf_ac_scan *scan, const uint8_t *end,
                                uint64_t *nonzero, int16_t *coef, int n)
{
    return coef ? ac_refine(bits, scan, end, nonzero, coef, n, nth_bit_scalar)
                : ac_refine(bits, scan, end, nonzero, NULL, n, nth_bit_scalar);
}

BITS ZF_DECL_AC_SCAN(zf_ac_refine_bmi2)
{
    if (!has_fast_pdep())
        return ac_refine_bmi2(bits, scan, end, nonzero, coef, n);
    return coef ? ac_refine(bits, scan, end, nonzero, coef, n, nth_bit_pdep)
                : ac_refine(bits, scan, end, nonzero, NULL, n, nth_bit_pdep);
}
#endif
