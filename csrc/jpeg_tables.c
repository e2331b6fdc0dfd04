/*
 * Huffman tables for baseline files, from the DHT segments: T.81, annexes C and F.
 *
 * Nearly every ImageNet file has tables of its own, so they are made for each image.
 * They are filled by runs of equal entries, code by code.
 */
#include "zf_jpeg_bits.h"

#include <string.h>

const uint8_t zf_zigzag_index[288] = {
    0, 8, 32, 16, 40, 4, 10, 36, 24, 33, 1, 41, 20, 42, 2, 12,
    34, 26, 37, 9, 48, 17, 56, 5, 43, 18, 44, 6, 14, 38, 28, 35,
    11, 52, 25, 49, 57, 21, 58, 3, 45, 22, 46, 30, 39, 13, 50, 27,
    53, 59, 19, 60, 7, 47, 15, 54, 29, 51, 61, 23, 62, 31, 55, 63,
#define TRASH8                                                                         \
    ZF_COEF_TRASH, ZF_COEF_TRASH, ZF_COEF_TRASH, ZF_COEF_TRASH, ZF_COEF_TRASH,         \
        ZF_COEF_TRASH, ZF_COEF_TRASH, ZF_COEF_TRASH
#define TRASH64 TRASH8, TRASH8, TRASH8, TRASH8, TRASH8, TRASH8, TRASH8, TRASH8
    TRASH64, TRASH64, TRASH64, TRASH8, TRASH8, TRASH8, TRASH8,
};

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
        codes->limit[l] = (int32_t)(code << (16 - l));
        code <<= 1;
    }
    codes->nsymbols = symbol;
    memcpy(codes->values, source->values, sizeof codes->values);
    return true;
}

int zf_find_symbol(const zf_codes *codes, uint64_t bits, int *length)
{
    int top = (int)(bits >> 48), l = 1;

    for (int i = 1; i <= 16; i++) /* the limits rise; no branch depends on the data */
        l += codes->limit[i] <= top;
    *length = l;
    return l > 16 ? 0 : codes->values[codes->offset[l] + (top >> (16 - l))];
}

bool zf_dc_table_make(zf_dc_table *table, const zf_huffman *source)
{
    const uint32_t n = 1 << ZF_RUN_BITS;
    uint32_t filled = 0;
    int symbol = 0;

    if (same(&table->source, source))
        return true;
    table->source.defined = false;
    if (!zf_codes_make(&table->codes, source))
        return false;
    for (int i = 0; i < table->codes.nsymbols; i++)
        if (source->values[i] > 15)
            return false;

    for (int l = 1; l <= ZF_RUN_BITS; l++)
        for (int i = 0; i < source->bits[l]; i++) {
            int size = source->values[symbol++];
            int entry = l + size > ZF_MAX_TOTAL ? ZF_RUN_OTHER
                                                : ZF_RUN_ENTRY(l + size, size) | ZF_RUN_ENDS;
            for (uint32_t end = filled + (n >> l); filled < end; filled++)
                table->entry[filled] = (uint16_t)entry;
        }
    for (; filled < n; filled++)
        table->entry[filled] = ZF_RUN_OTHER;
    table->source = *source;
    return true;
}

/* The symbols of an AC table, in the order of their codes. */
typedef struct {
    int n;
    struct {
        int length; /* of the code */
        int total;  /* of code and value */
        int size;   /* of the value */
        int step;   /* zigzag steps; ZF_EOB: the block ends */
    } symbol[256];
} ac_symbols;

static void list_symbols(ac_symbols *list, const zf_huffman *source)
{
    list->n = 0;
    for (int l = 1; l <= 16; l++)
        for (int i = 0; i < source->bits[l]; i++) {
            int value = source->values[list->n], size = value & 15, step = (value >> 4) + 1;
            if (size == 0 && step != 16) /* libjpeg treats all such runs as an end of block */
                step = ZF_EOB;
            list->symbol[list->n].length = l;
            list->symbol[list->n].total = l + size;
            list->symbol[list->n].size = size;
            list->symbol[list->n++].step = step;
        }
}

/* The functions below write up to CHUNK - 1 entries more than they should, which is faster
 * than counting. Later entries replace them. */
#define CHUNK 4

static inline uint64_t *put(uint64_t *out, int n, uint64_t entry)
{
    for (int i = 0; i < n; i += CHUNK)
        for (int j = 0; j < CHUNK; j++)
            out[i + j] = entry;
    return out + n;
}

/* Puts n entries that begin with the coefficient of `entry`, and go on with those of tail. */
static inline uint64_t *put_sums(uint64_t *out, int n, uint64_t entry, const uint64_t *tail)
{
    for (int i = 0; i < n; i += CHUNK)
        for (int j = 0; j < CHUNK; j++)
            out[i + j] = entry + tail[i + j];
    return out + n;
}

static inline int value_of(int bits, int size)
{
    return size == 0 || bits >> (size - 1) ? bits : bits + 1 - (1 << size);
}

/* For each string of nbits bits: the coefficient that it begins with, as the second of an
 * entry; 0 if its code and its value are longer. */
static void list_seconds(uint64_t *out, int nbits, const ac_symbols *list)
{
    uint64_t *end = out + (1 << nbits);
    for (int s = 0; s < list->n && list->symbol[s].length <= nbits; s++) {
        int total = list->symbol[s].total, size = list->symbol[s].size;
        if (total > nbits) {
            out = put(out, 1 << (nbits - list->symbol[s].length), 0);
            continue;
        }
        for (int bits = 0; bits < 1 << size; bits++)
            out = put(out, 1 << (nbits - total),
                      ZF_AC_SECOND(total, list->symbol[s].step, value_of(bits, size)));
    }
    memset(out, 0, (size_t)(end - out) * sizeof *out);
}

#define OTHER_ENTRY ZF_AC_ENTRY(0, 0, ZF_OTHER, 0)

/* Puts the n entries of a code that ends the block, or whose value is longer than they are. */
static inline uint64_t *put_one(uint64_t *out, int n, int total, int size, int step)
{
    if (step == ZF_EOB)
        return put(out, n, ZF_AC_ENTRY(total, 0, ZF_EOB, 0));
    if (n == 1 || total > ZF_MAX_TOTAL) /* 1: without the bit that says the sign */
        return put(out, n, OTHER_ENTRY);
    out = put(out, n / 2, ZF_AC_ENTRY(total, size, step, 1 - (1 << size)));
    return put(out, n / 2, ZF_AC_ENTRY(total, size, step, 0));
}

static void fill_entries(zf_ac_table *table, const ac_symbols *list)
{
    uint64_t entries[(1 << ZF_AC_BITS) + CHUNK], *out = entries;
    uint64_t seconds[(1 << ZF_AC_BITS) + CHUNK] = {0}; /* from 1 << nbits on: of nbits bits */

    /* Only a run of 16 zeros can have one bit, and gets no second. */
    for (int nbits = 0; nbits <= ZF_AC_BITS - 2; nbits++)
        list_seconds(seconds + (1 << nbits), nbits, list);
    for (int s = 0; s < list->n && list->symbol[s].length <= ZF_AC_BITS; s++) {
        int length = list->symbol[s].length, total = list->symbol[s].total;
        int size = list->symbol[s].size, step = list->symbol[s].step;
        if (total > ZF_AC_BITS || step == ZF_EOB) {
            out = put_one(out, 1 << (ZF_AC_BITS - length), total, size, step);
            continue;
        }
        int n = 1 << (ZF_AC_BITS - total);
        for (int bits = 0; bits < 1 << size; bits++)
            out = put_sums(out, n,
                           ZF_AC_ENTRY(total, 0, step, value_of(bits, size)),
                           seconds + n);
    }
    while (out < entries + (1 << ZF_AC_BITS))
        *out++ = OTHER_ENTRY;
    memcpy(table->entry, entries, sizeof table->entry);
}

/* For each string of nbits bits: the sum of the complete codes that it begins with, each
 * with its value; 0: none. tails + (1 << i) has the same for i < nbits bits. */
static void list_runs(uint16_t *out, int nbits, const ac_symbols *list, const uint16_t *tails)
{
    uint16_t *end = out + (1 << nbits);
    for (int s = 0; s < list->n && list->symbol[s].length <= nbits; s++) {
        int length = list->symbol[s].length, total = list->symbol[s].total;
        bool ends = list->symbol[s].step == ZF_EOB;
        int entry = ends ? ZF_RUN_ENTRY(total, 0) | ZF_RUN_ENDS
                         : ZF_RUN_ENTRY(total, list->symbol[s].step);
        if (list->symbol[s].size + ZF_RUN_BITS > ZF_MAX_TOTAL)
            entry = 0;
        int period = ends || total > nbits || !entry ? 1 : 1 << (nbits - total);
        const uint16_t *tail = tails + period; /* tails[1] is 0 */
        uint16_t *next = out + (1 << (nbits - length));
        if (period >= CHUNK) {
            for (; out < next; out += period)
                for (int i = 0; i < period; i += CHUNK)
                    for (int j = 0; j < CHUNK; j++)
                        out[i + j] = (uint16_t)(entry + tail[i + j]);
        } else {
            for (int i = 0; out < next; i = (i + 1) & (period - 1))
                *out++ = (uint16_t)(entry + tail[i]);
        }
    }
    memset(out, 0, (size_t)(end - out) * sizeof *out);
}

static void fill_runs(zf_ac_table *table, const ac_symbols *list)
{
    uint16_t tails[(2 << ZF_RUN_BITS) + CHUNK];
    tails[1] = 0;
    for (int nbits = 1; nbits <= ZF_RUN_BITS; nbits++)
        list_runs(tails + (1 << nbits), nbits, list, tails);
    for (int i = 0; i < 1 << ZF_RUN_BITS; i++) {
        uint16_t entry = tails[(1 << ZF_RUN_BITS) + i];
        table->run[i] = entry ? entry : ZF_RUN_OTHER;
    }
}

bool zf_ac_table_make(zf_ac_table *table, const zf_huffman *source)
{
    ac_symbols list;

    if (same(&table->source, source))
        return true;
    table->source.defined = false;
    if (!zf_codes_make(&table->codes, source))
        return false;
    list_symbols(&list, source);
    fill_entries(table, &list);
    fill_runs(table, &list);
    table->source = *source;
    return true;
}
