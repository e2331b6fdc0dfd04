/* The sum that tells whether stored pixels were damaged. */
#include "zoofast.h"

#include <string.h>

#define LANES 8 /* words that are summed side by side, so that no sum waits for another */
#define FACTOR UINT64_C(0x9E3779B97F4A7C15) /* odd; 2^64 / the golden ratio */
#define TURN 29

/* For a given word a one-to-one function of the sum, and for a given sum of the word. So two
 * contents that differ in one word alone never have the same sum. */
static inline uint64_t add(uint64_t sum, uint64_t word)
{
    sum = ((sum << TURN | sum >> (64 - TURN)) ^ word) * FACTOR;
    /* Without this the compiler makes vectors of the lanes. Few CPUs multiply vectors of 64-bit
     * words, and it takes two and a half times as long. */
    __asm__("" : "+r"(sum));
    return sum;
}

/* Adds 64 bytes to the lanes, a word to each. */
static inline void add_block(uint64_t lanes[LANES], const uint8_t *block)
{
    for (size_t i = 0; i < LANES; i++) {
        uint64_t word;
        memcpy(&word, block + i * sizeof word, sizeof word);
        lanes[i] = add(lanes[i], word);
    }
}

/* The bytes, and zeros up to a multiple of 64 bytes, are 64-bit words, the lowest byte first.
 * Word i is added to lane i % 8; lane n begins as n. Then the lanes are added to the number
 * of bytes, in order. */
uint64_t zf_checksum(const uint8_t *data, size_t nbytes)
{
    uint8_t last[LANES * sizeof(uint64_t)] = {0};
    uint64_t lanes[LANES], sum = nbytes;
    size_t whole = nbytes / sizeof last * sizeof last;
    for (size_t i = 0; i < LANES; i++)
        lanes[i] = i;
    for (size_t at = 0; at < whole; at += sizeof last)
        add_block(lanes, data + at);
    if (whole < nbytes) {
        memcpy(last, data + whole, nbytes - whole);
        add_block(lanes, last);
    }
    for (size_t i = 0; i < LANES; i++)
        sum = add(sum, lanes[i]);
    return sum;
}
