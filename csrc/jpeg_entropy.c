/*
 * Entropy-coded bytes -> coefficients: T.81, annex F.2.2.
 *
 * One chain of dependent steps takes most of the time: top bits of the buffer ->
 * table -> number of bits used -> shift. So one lookup gives up to two complete
 * coefficients, other work does not lengthen the chain, and rare cases are
 * handled outside of it.
 */
#include "zf_jpeg_bits.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* Fields of an entry of zf_ac_table.entry. */
#define TOTAL(e) (64 - ZF_AC_BITS - (int)(uint8_t)(e))
#define STEP1(e) ((uint8_t)((e) >> 16))
#define STEP2(e) ((uint32_t)(e) >> 24)
#define SIZE_AND_INDEX(e) ((e) >> 32 & 63)
#define VALUE1(e) ((int)((e) >> 40)) /* in its low 16 bits */
#define VALUE2(e) ((int8_t)((e) >> 56))

/* ---- blocks --------------------------------------------------------------- */

/* Returns n <= ZF_MAX_TOTAL bits to the buffer. */
INLINE void put_back(zf_bits *b, int n)
{
    int ahead = 96 - b->left - n; /* position of the next bit, from 12 bytes before p */
    const uint8_t *p = b->p + ((ahead >> 3) - 12);
    b->buf = load_be64(p) << (ahead & 7);
    b->left = 56 - (ahead & 7);
    b->p = p + 7;
}

/* Decodes a coefficient without the table's entries. Returns its zigzag steps, 0
 * if the code is bad. */
INLINE int ac_rare(zf_bits *b, const zf_ac_table *table, int *value)
{
    refill(b);
    int length, symbol = zf_find_symbol(&table->codes, b->buf, &length);
    int step = (symbol >> 4) + 1, size = symbol & 15;
    if (length > 16)
        return 0;
    if (size == 0 && step != 16)
        step = ZF_EOB;
    *value = extend(b->buf << length, size);
    drop(b, length + size);
    return step;
}

/* Returns the index of the entry behind `entry`, from the buffer before that entry's bits are
 * dropped: this is a step less in the chain than the top bits of the buffer after that. *value
 * gets the bits of a value of the stream, which lie above the index; 0: it is in the table. */
typedef size_t split_fn(uint64_t buf, uint64_t entry, int *value);

static inline size_t split(uint64_t buf, uint64_t entry, int *value)
{
    uint64_t bits = buf >> (entry & 63);
    *value = (int)((bits & (((uint64_t)1 << SIZE_AND_INDEX(entry)) - 1)) >> ZF_AC_BITS);
    return bits & ((1 << ZF_AC_BITS) - 1);
}

/* Stores the coefficients of an entry behind zigzag position k. Returns the position of
 * the last of them. *index gets the index of the next entry. */
INLINE size_t take(zf_bits *b, uint64_t entry, size_t k, int16_t *block, size_t *index,
                   split_fn *split)
{
    /* There is no branch on whether the value is in the table or in the stream, since it would
     * be hard to predict. */
    int value;
    *index = split(b->buf, entry, &value);
    value += VALUE1(entry);
    b->buf <<= (64 - ZF_AC_BITS - entry) & 63;
    b->left -= TOTAL(entry);
    k += STEP1(entry);
    /* the first value last: if there is no second, both have one index */
    block[zf_zigzag_index[k + STEP2(entry)]] = VALUE2(entry);
    block[zf_zigzag_index[k]] = (int16_t)value;
    return k + STEP2(entry);
}

/* Decodes the AC coefficients of a block. Returns the zigzag position of the last
 * coefficient, 64 if the stream is bad. The buffer has 25 bits at least. */
INLINE int ac_coefficients(zf_bits *b, const zf_ac_table *table, int16_t *block,
                           split_fn *split)
{
    size_t k = 0;
    int value;
    uint64_t entry;

    for (;;) {
        size_t index = b->buf >> (64 - ZF_AC_BITS);
        do {
            /* The bits of two entries and the index of a third fit the buffer. It is
             * filled between the lookup and the shift, where it does not lengthen the chain. */
            entry = table->entry[index];
            refill(b);
            k = take(b, entry, k, block, &index, split);
            if (k >= 63)
                break;
            entry = table->entry[index];
            k = take(b, entry, k, block, &index, split);
        } while (k < 63);

        if (__builtin_expect(k >= ZF_EOB && k < ZF_EOB + 63, 1))
            return (int)k - ZF_EOB;
        if (k == 63)
            return 63;
        if (k < ZF_OTHER)
            break;
        int step = ac_rare(b, table, &value);
        if (step == 0)
            return 64;
        k += (size_t)step - ZF_OTHER;
        block[zf_zigzag_index[k]] = (int16_t)value;
        if (k >= 63)
            return k == 63 ? 63 : k >= ZF_EOB ? (int)k - ZF_EOB : 64;
    }

    /* The entry's first value was coefficient 63, so its second value belongs to
     * the next block: decode the first value alone. */
    if (k - STEP2(entry) == 63) {
        put_back(b, TOTAL(entry));
        ac_rare(b, table, &value);
        return 63;
    }
    return 64;
}

INLINE bool decode_mcu(zf_bits *bits, const zf_mcu *mcu, int dc[3], zf_block *blocks, uint8_t *last,
                       split_fn *split)
{
    zf_bits b = *bits; /* in registers */
    const zf_dc_table *next_dc = mcu->block[0].dc;
    const zf_ac_table *next_ac = mcu->block[0].ac;

    refill(&b);
    memset(blocks, 0, (size_t)mcu->nblocks * sizeof *blocks);
    for (int i = 0; i < mcu->nblocks; i++) {
        /* The CPU often predicts the end of the block before wrongly, and begins here anew.
         * Then the chain goes through the first lookup: it waits neither for a refill (at least
         * 12 bits are left), nor for the addresses of the tables. */
        const zf_dc_table *dc_table = next_dc;
        const zf_ac_table *ac_table = next_ac;
        int entry = dc_entry(&b, dc_table), comp = mcu->block[i].comp, difference;
        refill(&b);
        next_dc = mcu->block[i + 1].dc;
        next_ac = mcu->block[i + 1].ac;
        if (!dc_difference(&b, dc_table, entry, &difference))
            return false;
        dc[comp] += difference;
        if (dc[comp] != (int16_t)dc[comp])
            return false;
        blocks[i][0] = (int16_t)dc[comp];
        int end = ac_coefficients(&b, ac_table, blocks[i], split);
        if (end > 63)
            return false;
        last[i] = (uint8_t)end;
    }
    *bits = b;
    return true;
}

/* ---- skipped blocks --------------------------------------------------------- */

/* Does what an entry of a run table cannot do. block: the block that the entry belongs to,
 * and whether that is its DC; k: the zigzag position before the entry. *dc_bits gets the bits
 * of a DC. Returns the position after the entry, 63 or more at the end of a DC or of a block;
 * -1 if the stream is bad. */
static __attribute__((noinline)) int skip_rare(zf_bits *b, const zf_mcu *mcu, size_t block,
                                               bool is_dc, int entry, int k, uint64_t *dc_bits)
{
    const zf_dc_table *dc = mcu->block[block].dc;
    int value;
    if (is_dc) {
        refill(b);
        *dc_bits = b->buf;
        bool ok = dc_difference(b, dc, dc_entry(b, dc), &value);
        refill(b);
        return ok ? 63 : -1;
    }
    /* codes of the next block may be among the entry's: one code alone */
    put_back(b, ZF_RUN_TOTAL(entry));
    int step = ac_rare(b, mcu->block[block].ac, &value);
    refill(b);
    k += step;
    return step != 0 && (k <= 63 || k >= ZF_EOB) ? k : -1;
}

/* Skips MCUs with n / 2 blocks in all. tables has each block's DC table and AC table.
 * dc_bits[2 * i] gets the bits of the i-th difference; the other elements are scratch.
 *
 * Nothing in the loop depends on where a block ends but the choice of the table and of k,
 * which takes no branch: the CPU could not predict it. */
INLINE bool skip_blocks(zf_bits *bits, const zf_mcu *mcu, const uint16_t *const *tables,
                        size_t n, uint64_t *dc_bits)
{
    zf_bits b = *bits;
    const uint16_t *table = tables[0], *next = tables[1];
    size_t s = 0;
    int entry, k = 0;

    refill(&b);
    while (s < n) {
        for (int i = 0; i < 2; i++) {
            entry = table[b.buf >> (64 - ZF_RUN_BITS)];
            if (i == 0)
                refill(&b);
            dc_bits[s] = b.buf;
            b.buf <<= entry & 63;
            b.left -= ZF_RUN_TOTAL(entry);
            k += ZF_RUN_STEPS(entry); /* of a DC: fewer than 16, for nothing */
            if (k >= 63)
                break;
            bool ends = entry & ZF_RUN_ENDS;
            table = ends ? next : table;
            k = ends ? 0 : k;
            s += ends;
            next = tables[s + 1];
            if (s == n)
                break;
        }
        if (__builtin_expect(k < 63, 1))
            continue;
        if (k != 63 || entry & ZF_RUN_ENDS) { /* else: a block without an EOB */
            zf_bits copy = b;
            k = skip_rare(&copy, mcu, s / 2 % (size_t)mcu->nblocks, s % 2 == 0, entry,
                          k - ZF_RUN_STEPS(entry), &dc_bits[s]);
            if (k < 0)
                return false;
            b = copy;
        }
        if (k >= 63) {
            k = 0;
            s++;
            table = tables[s];
            next = tables[s + 1];
        }
    }
    *bits = b;
    return true;
}

INLINE bool skip_mcus(zf_bits *bits, const uint8_t *end, const zf_mcu *mcu, int dc[3], int n)
{
    const uint16_t *tables[2 * ZF_RUN_BLOCKS + 2];
    uint64_t dc_bits[2 * ZF_RUN_BLOCKS];
    int most = zf_min(n, ZF_RUN_BLOCKS / mcu->nblocks);
    size_t count = 0;

    for (int m = 0; m < most; m++)
        for (int i = 0; i < mcu->nblocks; i++) {
            tables[count++] = mcu->block[i].dc->entry;
            tables[count++] = mcu->block[i].ac->run;
        }
    tables[count] = tables[count + 1] = tables[0]; /* are read, but not used */
    for (; n > 0; n -= most) {
        most = zf_min(n, most);
        count = (size_t)(2 * most * mcu->nblocks);
        /* The reader is at most a buffer's bytes ahead of the bits that were used. Behind the
         * segment only ZF_RUN_BLOCKS blocks may be read. */
        if (bits->p > end + sizeof bits->buf)
            return false;
        if (!skip_blocks(bits, mcu, tables, count, dc_bits))
            return false;
        const uint64_t *next = dc_bits;
        for (int m = 0; m < most; m++)
            for (int i = 0; i < mcu->nblocks; i++, next += 2) {
                int comp = mcu->block[i].comp, difference;
                const zf_dc_table *table = mcu->block[i].dc;
                zf_bits b = {.buf = *next};
                if (!dc_difference(&b, table, dc_entry(&b, table), &difference))
                    return false;
                dc[comp] += difference;
                if (dc[comp] != (int16_t)dc[comp])
                    return false;
            }
    }
    return true;
}

/* ---- levels ------------------------------------------------------------------- */

ZF_DECL_MCU(zf_mcu_scalar) { return decode_mcu(bits, mcu, dc, blocks, last, split); }
ZF_DECL_SKIP(zf_skip_scalar) { return skip_mcus(bits, end, mcu, dc, n); }

#if defined(__x86_64__)
/* The same code, compiled for BMI2, whose shifts do not change the flags and take
 * the count from any register. */
#define BMI2 __attribute__((target("bmi,bmi2")))

BMI2 static inline size_t split_bmi2(uint64_t buf, uint64_t entry, int *value)
{
    *value = (int)(_bzhi_u64(buf >> (entry & 63), (uint32_t)(entry >> 32)) >> ZF_AC_BITS);
    return __bextr_u64(buf, entry);
}

BMI2 ZF_DECL_MCU(zf_mcu_bmi2) { return decode_mcu(bits, mcu, dc, blocks, last, split_bmi2); }
BMI2 ZF_DECL_SKIP(zf_skip_bmi2) { return skip_mcus(bits, end, mcu, dc, n); }
#endif

/* ---- unstuffing ----------------------------------------------------------- */

ZF_DECL_UNSTUFF(zf_unstuff_scalar)
{
    uint8_t *out = dst;

    while (src < end) {
        const uint8_t *ff = memchr(src, 0xFF, (size_t)(end - src));
        size_t run = (size_t)((ff ? ff : end) - src);
        memcpy(out, src, run);
        out += run;
        src += run;
        if (!ff || src + 1 == end || src[1] != 0)
            break;
        *out++ = 0xFF;
        src += 2;
    }
    *n = (size_t)(out - dst);
    return src;
}
