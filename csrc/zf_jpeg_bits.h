/* The bit reader and the Huffman codes, for the entropy decoders of jpeg_entropy.c
 * and jpeg_scans.c. */
#ifndef ZF_JPEG_BITS_H
#define ZF_JPEG_BITS_H

#include "zf_jpeg_internal.h"

#include <string.h>

/* False if libjpeg's jpeg_make_d_derived_tbl refuses the table. */
bool zf_codes_make(zf_codes *codes, const zf_huffman *source);

/* The symbol whose code is at the top of bits. *length gets the code's length; 17 when there
 * is no such code. */
__attribute__((noinline)) int zf_find_symbol(const zf_codes *codes, uint64_t bits, int *length);

/* The signed value of the top `size` bits of bits: EXTEND of T.81. */
static inline int extend(uint64_t bits, int size)
{
    int value = (int)((bits >> 1) >> (63 - size));
    int negative = (int)~((int64_t)bits >> 63);
    return value - (negative & ((1 << size) - 1));
}

static inline uint64_t load_be64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

/* Fills the buffer to 56 bits or more, without a branch. A byte that fits only in
 * part is loaded again by the next refill, which gives its bits the same
 * values. */
static inline void refill(zf_bits *b)
{
    b->buf |= load_be64(b->p) >> b->left;
    b->p += (uint32_t)(63 - b->left) >> 3;
    b->left |= 56;
}

static inline void drop(zf_bits *b, int n)
{
    b->buf <<= n;
    b->left -= n;
}

/* The entry of a DC table for the buffer's top ZF_RUN_BITS bits. */
static inline int dc_entry(const zf_bits *b, const zf_dc_table *table)
{
    return table->entry[b->buf >> (64 - ZF_RUN_BITS)];
}

/* Decodes the DC difference of a block, whose entry was looked up before; the buffer was
 * filled before or after that. False if the code is bad. */
static inline __attribute__((always_inline)) bool dc_difference(zf_bits *b,
                                                                const zf_dc_table *table,
                                                                int entry, int *difference)
{
    int total = ZF_RUN_TOTAL(entry), size = ZF_RUN_STEPS(entry);

    if (__builtin_expect(total == 0, 0)) {
        int length;
        size = zf_find_symbol(&table->codes, b->buf, &length);
        if (length > 16)
            return false;
        total = length + size;
    }
    *difference = extend(b->buf << (total - size), size);
    drop(b, total);
    return true;
}

#endif
