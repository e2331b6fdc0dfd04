/*
 * Compares the baseline decoder's kernels of every CPU level that runs here with
 * the scalar kernels: the bytes, and whether a block or MCU is accepted. An
 * unreadable page follows the memory that kernels may touch. Built and run by
 * tests/core/test_baseline.py, also for aarch64 under qemu-user.
 *
 * usage: jpeg_kernels ROUNDS
 */
#include "zf_jpeg_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define OVER 64 /* samples or pixels that a row kernel may touch past n */

static uint64_t state = 1;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

/* nbytes, the last of which is the last one readable. */
static uint8_t *guarded(size_t nbytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (nbytes + page - 1) / page * page;
    uint8_t *base = mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                         -1, 0);
    if (base == MAP_FAILED || mprotect(base + whole, page, PROT_NONE) != 0)
        abort();
    return base + whole - nbytes;
}

static void release(uint8_t *start, size_t nbytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (nbytes + page - 1) / page * page;
    munmap(start + nbytes - whole, whole + page);
}

static const zf_jpeg_kernels *kernels, *const scalar = &zf_jpeg_kernels_scalar;
static const char *isa; /* the name of the level under test */
static int failures;

static void expect(bool same, const char *what)
{
    if (!same) {
        fprintf(stderr, "%s: %s differs from scalar\n", isa, what);
        failures++;
    }
}

/* ---- inverse DCT ---------------------------------------------------------- */

#define BLOCKS 5

/* Coefficients of several sizes, so that many blocks are accepted and others fail
 * each of the three range tests, some of them narrowly. */
static void check_idct(int *taken, int *refused)
{
    static _Alignas(64) zf_block coef[BLOCKS];
    static zf_dequant q;
    uint8_t made[BLOCKS][8 * 24], expected[BLOCKS][8 * 24];
    zf_transform blocks[BLOCKS], same[BLOCKS];
    int n = 1 + (int)draw(BLOCKS);

    for (int k = 0; k < 64; k++) {
        int factor = draw(200) ? 1 + (int)draw(8) : (int)draw(65536);
        q.factor[k] = (int16_t)factor;
        q.limit[k] = (uint16_t)(factor ? ZF_COEF_MAX / factor : INT16_MAX);
    }
    for (int i = 0; i < n; i++) {
        int spread = 1 << draw(9), last = draw(4) ? (int)draw(64) : 0;
        memset(coef[i], 0, sizeof coef[i]);
        for (int k = 0; k <= last; k++)
            coef[i][zf_zigzag_index[k]] = (int16_t)((int)draw((uint32_t)spread * 2 + 1) - spread);
        if (draw(60) == 0)
            coef[i][zf_zigzag_index[draw((uint32_t)last + 1)]] = (int16_t)draw(65536);
        blocks[i] = (zf_transform){coef[i], &q, made[i] + 8, 24, last};
        same[i] = (zf_transform){coef[i], &q, expected[i] + 8, 24, last};
    }
    memset(made, 7, sizeof made);
    memset(expected, 7, sizeof expected);
    bool ok = scalar->idct(same, n);
    expect(kernels->idct(blocks, n) == ok, "the IDCT's verdict");
    if (ok)
        expect(memcmp(made, expected, sizeof made) == 0, "the IDCT");
    *(ok ? taken : refused) += 1;
}

/* ---- rows ----------------------------------------------------------------- */

static void check_rows(void)
{
    int n = 1 + (int)draw(200);
    size_t in_nbytes = 1 + (size_t)n + OVER, out_nbytes = 2 * ((size_t)n + OVER);
    uint8_t *in[3], *out[3], *expected[3];

    for (int c = 0; c < 3; c++) {
        in[c] = guarded(in_nbytes);
        out[c] = guarded(out_nbytes);
        expected[c] = guarded(out_nbytes);
        bool extreme = draw(3) == 0;
        for (size_t i = 0; i < in_nbytes; i++)
            in[c][i] = (uint8_t)(extreme ? 255 * draw(2) : draw(256));
    }
    const uint8_t *a = in[0] + 1, *b = in[1] + 1, *c = in[2] + 1;

    kernels->upsample_h2v1(out[0], a, n);
    scalar->upsample_h2v1(expected[0], a, n);
    expect(memcmp(out[0], expected[0], 2 * (size_t)n) == 0, "h2v1");
    kernels->upsample_h2v2(out[0], a, b, n);
    scalar->upsample_h2v2(expected[0], a, b, n);
    expect(memcmp(out[0], expected[0], 2 * (size_t)n) == 0, "h2v2");
    for (int bias = 1; bias <= 2; bias++) {
        kernels->upsample_h1v2(out[0], a, b, bias, n);
        scalar->upsample_h1v2(expected[0], a, b, bias, n);
        expect(memcmp(out[0], expected[0], (size_t)n) == 0, "h1v2");
    }
    kernels->ycc_to_rgb(out, a, b, c, n);
    scalar->ycc_to_rgb(expected, a, b, c, n);
    for (int i = 0; i < 3; i++)
        expect(memcmp(out[i], expected[i], (size_t)n) == 0, "YCbCr to RGB");

    for (int i = 0; i < 3; i++) {
        release(in[i], in_nbytes);
        release(out[i], out_nbytes);
        release(expected[i], out_nbytes);
    }
}

/* All colours. */
static void check_colours(void)
{
    uint8_t y[256 + OVER], cb[256 + OVER], cr[256 + OVER];
    uint8_t out[3][256 + OVER], expected[3][256 + OVER];
    uint8_t *const to[3] = {out[0], out[1], out[2]};
    uint8_t *const same[3] = {expected[0], expected[1], expected[2]};

    for (int i = 0; i < 256 + OVER; i++)
        y[i] = (uint8_t)i;
    for (int colour = 0; colour < 65536; colour++) {
        memset(cb, colour >> 8, sizeof cb);
        memset(cr, colour & 255, sizeof cr);
        kernels->ycc_to_rgb(to, y, cb, cr, 256);
        scalar->ycc_to_rgb(same, y, cb, cr, 256);
        for (int i = 0; i < 3; i++)
            if (memcmp(out[i], expected[i], 256) != 0) {
                expect(false, "a colour");
                return;
            }
    }
}

/* ---- bytes ---------------------------------------------------------------- */

/* Data of a random length with many 0xFF, stuffed or not, in memory that ends
 * with it. */
static void check_unstuff(void)
{
    size_t nbytes = draw(400), n1, n2;
    uint8_t *data = guarded(nbytes), *out = malloc(nbytes + 64), *expected = malloc(nbytes + 64);
    uint32_t ff = 1 + draw(40), marker = 1 + draw(100);

    if (!out || !expected)
        abort();
    for (size_t i = 0; i < nbytes; i++) {
        data[i] = draw(ff) ? (uint8_t)draw(255) : 0xFF;
        if (data[i] == 0xFF && draw(marker) && i + 1 < nbytes)
            data[++i] = 0;
    }
    const uint8_t *end = data + nbytes;
    const uint8_t *stop = kernels->unstuff(out, &n1, data, end);
    expect(stop == scalar->unstuff(expected, &n2, data, end) && n1 == n2 &&
               memcmp(out, expected, n1) == 0,
           "unstuffing");
    release(data, nbytes);
    free(out);
    free(expected);
}

/* A random MCU with random tables. Most are invalid, and all levels must find
 * the same. */
static void check_mcu(int *decoded)
{
    static zf_dc_table dc_table;
    static zf_ac_table ac_table;
    static _Alignas(64) zf_block made[ZF_MCU_BLOCKS], expected[ZF_MCU_BLOCKS];
    static uint8_t data[4096 + ZF_BITS_PAD];
    zf_huffman dc = {.defined = true}, ac = {.defined = true};
    zf_mcu mcu = {.nblocks = 1 + (int)draw(3)};
    int dc1[3] = {0}, dc2[3] = {0};
    uint8_t last1[ZF_MCU_BLOCKS] = {0}, last2[ZF_MCU_BLOCKS] = {0};

    for (int i = 0; i < 12; i++)
        dc.values[i] = (uint8_t)i;
    dc.bits[2] = 1, dc.bits[3] = 5, dc.bits[5] = 3, dc.bits[7 + draw(9)] = 2;
    uint32_t left = 65535; /* of the 16-bit codes */
    int count = 0;
    for (int l = 2; l <= 16; l++) {
        uint32_t max = left >> (16 - l);
        ac.bits[l] = (uint8_t)draw((uint32_t)zf_min((int)max, zf_min(30, 256 - count)) + 1);
        left -= (uint32_t)ac.bits[l] << (16 - l);
        count += ac.bits[l];
    }
    for (int i = 0; i < 256; i++)
        ac.values[i] = (uint8_t)(draw(3) ? draw(4) << 4 | draw(6) : draw(256));
    if (!zf_dc_table_make(&dc_table, &dc) || !zf_ac_table_make(&ac_table, &ac)) {
        expect(false, "a valid table");
        return;
    }
    for (int i = 0; i < mcu.nblocks; i++) {
        mcu.block[i].comp = i;
        mcu.block[i].dc = &dc_table;
        mcu.block[i].ac = &ac_table;
    }
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)draw(256);
    zf_bits bits1 = {data, 0, 0}, bits2 = {data, 0, 0};
    bool ok = kernels->mcu(&bits1, &mcu, dc1, made, last1);
    expect(ok == scalar->mcu(&bits2, &mcu, dc2, expected, last2), "an MCU's verdict");
    zf_bits bits3 = {data, 0, 0};
    int dc3[3] = {0};
    expect(ok == kernels->skip(&bits3, data + sizeof data - ZF_BITS_PAD, &mcu, dc3, 1), "a skipped MCU's verdict");
    if (!ok)
        return;
    ++*decoded;
    expect(bits1.p == bits2.p && bits1.left == bits2.left && memcmp(dc1, dc2, sizeof dc1) == 0 &&
               memcmp(last1, last2, sizeof last1) == 0,
           "an MCU's end");
    for (int i = 0; i < mcu.nblocks; i++)
        expect(memcmp(made[i], expected[i], 64 * sizeof(int16_t)) == 0, "an MCU");
    expect(8 * (bits3.p - bits1.p) == bits3.left - bits1.left && memcmp(dc1, dc3, sizeof dc1) == 0,
           "skipping an MCU");
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 0;

    if (rounds < 1)
        return 2;
    for (zf_level level = 0; level < ZF_LEVEL_COUNT; level++) {
        int taken = 0, refused = 0, decoded = 0;
        if (!zf_level_runs_here(level))
            continue;
        isa = zf_level_name(level);
        kernels = zf_jpeg_kernels_of[level];
        for (int r = 0; r < rounds; r++) {
            for (int j = 0; j < 20; j++)
                check_idct(&taken, &refused);
            check_rows();
            check_unstuff();
            check_mcu(&decoded);
        }
        check_colours();
        if (taken == 0 || refused == 0 || decoded == 0)
            expect(false, "(nothing compared)");
        printf("%s: %d rounds, %d transforms taken, %d refused, %d MCUs decoded\n", isa, rounds,
               taken, refused, decoded);
    }
    return failures != 0;
}
