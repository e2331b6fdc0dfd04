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

const uint8_t zf_zigzag_index[256] = {
    0, 8, 32, 16, 40, 4, 10, 36, 24, 33, 1, 41, 20, 42, 2, 12,
    34, 26, 37, 9, 48, 17, 56, 5, 43, 18, 44, 6, 14, 38, 28, 35,
    11, 52, 25, 49, 57, 21, 58, 3, 45, 22, 46, 30, 39, 13, 50, 27,
    53, 59, 19, 60, 7, 47, 15, 54, 29, 51, 61, 23, 62, 31, 55, 63,
#define TRASH8                                                                         \
    ZF_COEF_TRASH, ZF_COEF_TRASH, ZF_COEF_TRASH, ZF_COEF_TRASH, ZF_COEF_TRASH,         \
        ZF_COEF_TRASH, ZF_COEF_TRASH, ZF_COEF_TRASH
#define TRASH64 TRASH8, TRASH8, TRASH8, TRASH8, TRASH8, TRASH8, TRASH8, TRASH8
    TRASH64, TRASH64, TRASH64,
};

/* ---- tables --------------------------------------------------------------- */

static bool same(const zf_huffman *a, const zf_huffman *b)
{
    return a->defined && b->defined && memcmp(a->bits, b->bits, sizeof a->bits) == 0 &&
           memcmp(a->values, b->values, sizeof a->values) == 0;
}

bool zf_codes_make(zf_codes *codes, const zf_huffman *source)
{
    uint32_t code = 0;
    int symbol = 0;

    if (!source->defined)
        return false;
    for (int l = 1; l <= 16; l++) {
        codes->offset[l] = symbol - (int)code;
        code += source->bits[l];
        symbol += source->bits[l];
        /* no code may consist of ones only, and a length may not have too many codes */
        if (symbol > 256 || (source->bits[l] && code >= 1u << l))
            return false;
        codes->limit[l] = code << (16 - l);
        code <<= 1;
    }
    codes->limit[17] = UINT32_MAX; /* ends the search */
    codes->nsymbols = symbol;
    memcpy(codes->values, source->values, sizeof codes->values);
    return true;
}

int zf_find_symbol(const zf_codes *codes, uint64_t bits, int min_length, int *length)
{
    uint32_t top = (uint32_t)(bits >> 48);
    int l = min_length;

    while (top >= codes->limit[l])
        l++;
    *length = l;
    return l > 16 ? 0 : codes->values[codes->offset[l] + (int)(top >> (16 - l))];
}

bool zf_dc_table_make(zf_dc_table *table, const zf_huffman *source)
{
    if (same(&table->source, source))
        return true;
    table->source.defined = false;
    if (!zf_codes_make(&table->codes, source))
        return false;
    for (int i = 0; i < table->codes.nsymbols; i++)
        if (source->values[i] > 15)
            return false;

    int filled = 0, symbol = 0;
    for (int l = 1; l <= ZF_DC_BITS; l++)
        for (int i = 0; i < source->bits[l]; i++) {
            int size = source->values[symbol++];
            for (int end = filled + (1 << ZF_DC_BITS >> l); filled < end; filled++) {
                table->entry[filled].total = (uint8_t)(l + size);
                table->entry[filled].size = (uint8_t)size;
            }
        }
    memset(table->entry + filled, 0,
           sizeof table->entry - (size_t)filled * sizeof *table->entry);
    table->source = *source;
    return true;
}

static uint64_t ac_entry(int total, int shift, int step1, int step2, int value1, int value2)
{
    return (uint64_t)total | (uint64_t)shift << 8 | (uint64_t)step1 << 16 |
           (uint64_t)step2 << 24 | (uint64_t)(uint16_t)value1 << 32 |
           (uint64_t)(uint16_t)value2 << 48;
}

#define TOTAL(e) ((int)(uint8_t)(e))
#define SHIFT(e) ((int)((e) >> 8 & 0xFF))
#define STEP1(e) ((uint8_t)((e) >> 16))
#define STEP2(e) ((uint32_t)(e) >> 24)
#define VALUE1(e) ((int16_t)((e) >> 32))
#define VALUE2(e) ((int16_t)((e) >> 48))

#define IN_TABLE 63 /* the shift of an entry whose value is in the table */
#define MAX_TOTAL 18 /* bits of an entry: three entries fit the bits of a refill */

/* Fills the entries with one coefficient each, code by code. complete[i] gets the
 * bits of entry i's coefficient if its value is in the table, else 0. */
static void fill_single(zf_ac_table *table, const zf_huffman *source,
                        uint8_t complete[1 << ZF_AC_BITS])
{
    const uint32_t n = 1u << ZF_AC_BITS;
    uint32_t filled = 0;
    int next_symbol = 0;

    for (int l = 1; l <= ZF_AC_BITS; l++)
        for (int i = 0; i < source->bits[l]; i++) {
            int symbol = source->values[next_symbol++];
            int step = (symbol >> 4) + 1, size = symbol & 15;
            uint32_t end = filled + (n >> l);
            uint64_t entry = 0;
            if (size == 0) /* 16 zeros; libjpeg treats all other runs as an end of block */
                entry = ac_entry(l, IN_TABLE, step == 16 ? 16 : ZF_EOB, 0, 0, 0);
            else if (l + size <= MAX_TOTAL)
                entry = ac_entry(l + size, l, step, 0, 1 - (1 << size), 64 - size);
            for (; filled < end; filled++) {
                if (size > 0 && l + size <= ZF_AC_BITS) {
                    int value = extend((uint64_t)filled << (64 - ZF_AC_BITS + l), size);
                    entry = ac_entry(l + size, IN_TABLE, step, 0, value, value);
                }
                table->entry[filled] = entry;
                complete[filled] = SHIFT(entry) == IN_TABLE ? (uint8_t)(l + size) : 0;
            }
        }
    memset(table->entry + filled, 0, (n - filled) * sizeof *table->entry);
    memset(complete + filled, 0, n - filled);
}

/* Adds a second coefficient to the entries whose remaining bits hold it. */
static void add_second(zf_ac_table *table, const uint8_t complete[1 << ZF_AC_BITS])
{
    const uint32_t n = 1u << ZF_AC_BITS;

    for (uint32_t i = 0; i < n; i++) {
        uint64_t first = table->entry[i];
        uint32_t rest = i << complete[i] & (n - 1);
        if (complete[i] == 0 || STEP1(first) == ZF_EOB || complete[rest] == 0 ||
            complete[i] + complete[rest] > ZF_AC_BITS)
            continue;
        /* the entry of the rest may have got a second coefficient; only its first is used */
        uint64_t second = table->entry[rest];
        table->entry[i] = ac_entry(complete[i] + complete[rest], IN_TABLE, STEP1(first),
                                   STEP1(second), VALUE1(first), VALUE1(second));
    }
}

bool zf_ac_table_make(zf_ac_table *table, const zf_huffman *source)
{
    uint8_t complete[1 << ZF_AC_BITS];

    if (same(&table->source, source))
        return true;
    table->source.defined = false;
    if (!zf_codes_make(&table->codes, source))
        return false;
    fill_single(table, source, complete);
    add_second(table, complete);
    table->source = *source;
    return true;
}

/* ---- blocks --------------------------------------------------------------- */

/* Returns n <= 12 bits to the buffer. */
static inline __attribute__((always_inline)) void put_back(zf_bits *b, int n)
{
    int ahead = 80 - b->left - n; /* position of the next bit, from 10 bytes before p */
    const uint8_t *p = b->p + ((ahead >> 3) - 10);
    b->buf = load_be64(p) << (ahead & 7);
    b->left = 56 - (ahead & 7);
    b->p = p + 7;
}

/* Decodes a coefficient without the table's entries. Returns its zigzag steps, 0
 * if the code is bad. */
static inline __attribute__((always_inline)) int ac_rare(zf_bits *b, const zf_ac_table *table,
                                                         int *value)
{
    refill(b);
    int length, symbol = zf_find_symbol(&table->codes, b->buf, 1, &length);
    int step = (symbol >> 4) + 1, size = symbol & 15;
    if (length > 16)
        return 0;
    if (size == 0 && step != 16)
        step = ZF_EOB;
    *value = extend(b->buf << length, size);
    drop(b, length + size);
    return step;
}

/* Decodes the AC coefficients of a block; only skips them if block is NULL.
 * Returns the zigzag position of the last coefficient, 64 if the stream is bad. */
static inline __attribute__((always_inline)) int
ac_coefficients(zf_bits *b, const zf_ac_table *table, int16_t *block)
{
    size_t k = 0;
    int value, step;
    uint64_t entry;

    do {
        refill(b);
        for (int i = 0; i < 3; i++) {
            entry = table->entry[b->buf >> (64 - ZF_AC_BITS)];
            if (__builtin_expect(TOTAL(entry) == 0, 0)) {
                step = ac_rare(b, table, &value);
                if (step == 0)
                    return 64;
                k += (size_t)step;
                if (block)
                    block[zf_zigzag_index[k]] = (int16_t)value;
                if (k >= 63)
                    return k == 63 ? 63 : k >= ZF_EOB ? (int)k - ZF_EOB : 64;
                break;
            }
            if (block) {
                /* There is no branch on whether the value is in the table or in
                 * the stream, since it would be hard to predict. For a value in
                 * the table the shift leaves none of the stream's bits. (The
                 * lowest bit of buf is never valid, so it can be cleared.) */
                uint64_t bits = (b->buf & ~(uint64_t)1) << (entry >> 8 & 63);
                int negative = (int)~((int64_t)bits >> 63);
                value = (int)(bits >> (entry >> 48 & 63)) + ((int)(entry >> 32) & negative);
            }
            b->buf <<= entry & 63; /* TOTAL(entry), but one step less in the chain */
            b->left -= TOTAL(entry);
            k += STEP1(entry);
            if (block) { /* the first value last: if there is no second, both have one index */
                block[zf_zigzag_index[k + STEP2(entry)]] = VALUE2(entry);
                block[zf_zigzag_index[k]] = (int16_t)value;
            }
            k += STEP2(entry);
            if (k >= 63)
                break;
        }
    } while (k < 63);

    if (__builtin_expect(k >= ZF_EOB && k < ZF_EOB + 63, 1))
        return (int)k - ZF_EOB;
    if (k == 63)
        return 63;
    /* The entry's first value was coefficient 63, so its second value belongs to
     * the next block: decode the first value alone. */
    if (k - STEP2(entry) == 63) {
        put_back(b, TOTAL(entry));
        ac_rare(b, table, &value);
        return 63;
    }
    return 64;
}

static inline __attribute__((always_inline)) bool decode_mcu(zf_bits *bits, const zf_mcu *mcu,
                                                             int dc[3], zf_block *blocks,
                                                             uint8_t *last)
{
    zf_bits b = *bits; /* in registers */

    if (blocks)
        memset(blocks, 0, (size_t)mcu->nblocks * sizeof *blocks);
    for (int i = 0; i < mcu->nblocks; i++) {
        int comp = mcu->block[i].comp, difference;
        refill(&b);
        if (!dc_difference(&b, mcu->block[i].dc, &difference))
            return false;
        dc[comp] += difference;
        if (dc[comp] != (int16_t)dc[comp])
            return false;
        if (blocks)
            blocks[i][0] = (int16_t)dc[comp];
        int end = ac_coefficients(&b, mcu->block[i].ac, blocks ? blocks[i] : NULL);
        if (end > 63)
            return false;
        last[i] = (uint8_t)end;
    }
    *bits = b;
    return true;
}

/* Two copies of the loop, since skipping blocks needs no stores. */
ZF_DECL_MCU(zf_mcu_scalar)
{
    return blocks ? decode_mcu(bits, mcu, dc, blocks, last)
                  : decode_mcu(bits, mcu, dc, NULL, last);
}

#if defined(__x86_64__)
/* The same code, compiled for BMI2, whose shifts do not change the flags and take
 * the count from any register. */
__attribute__((target("bmi,bmi2"))) ZF_DECL_MCU(zf_mcu_bmi2)
{
    return blocks ? decode_mcu(bits, mcu, dc, blocks, last)
                  : decode_mcu(bits, mcu, dc, NULL, last);
}
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
