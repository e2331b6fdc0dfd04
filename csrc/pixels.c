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
    return ((sum << TURN | sum >> (64 - TURN)) ^ word) * FACTOR;
}

/* The bytes, and zeros up to a multiple of 64 bytes, are 64-bit words, the lowest byte first.
 * Word i is added to lane i % 8; lane n begins as n. Then the lanes are added to the number
 * of bytes, in order. */
uint64_t zf_checksum(const uint8_t *data, size_t nbytes)
{
    uint64_t lanes[LANES], words[LANES], sum = nbytes;
    for (size_t i = 0; i < LANES; i++)
        lanes[i] = i;
    for (size_t at = 0; at < nbytes; at += sizeof words) {
        if (nbytes - at >= sizeof words) {
            memcpy(words, data + at, sizeof words);
        } else {
            memset(words, 0, sizeof words);
            memcpy(words, data + at, nbytes - at);
        }
        for (size_t i = 0; i < LANES; i++)
            lanes[i] = add(lanes[i], words[i]);
    }
    for (size_t i = 0; i < LANES; i++)
        sum = add(sum, lanes[i]);
    return sum;
}
