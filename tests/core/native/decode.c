/*
 * Decodes JPEG files with our own decoders at one CPU level. For each file it
 * prints a line: the name, and the CRC-32 of its R, G, B (or gray) rows, or
 * "unsupported". tests/core/test_native.py runs it, also for aarch64 under
 * qemu-user, and compares the lines with Pillow's pixels.
 *
 * usage: decode LEVEL FILE...
 */
#include "own_decoder.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct {
    int width, channels;
    uint32_t crc;
} digest;

static uint32_t crc32_of(uint32_t crc, uint8_t byte)
{
    crc ^= byte;
    for (int bit = 0; bit < 8; bit++)
        crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    return crc;
}

static zf_status add_row(void *ctx, int y, const uint8_t *const planes[3])
{
    digest *d = ctx;
    (void)y;
    for (int c = 0; c < d->channels; c++)
        for (int x = 0; x < d->width; x++)
            d->crc = crc32_of(d->crc, planes[c][x]);
    return ZF_OK;
}

int main(int argc, char **argv)
{
    static uint8_t data[1 << 20];
    zf_level level = argc > 1 ? zf_level_named(argv[1]) : ZF_LEVEL_COUNT;
    if (level == ZF_LEVEL_COUNT || !zf_level_runs_here(level))
        return 2;
    for (int i = 2; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (!file)
            return 2;
        size_t n = fread(data, 1, sizeof data, file);
        fclose(file);
        zf_jpeg jpeg;
        digest d = {0, 0, UINT32_MAX};
        zf_status status = zf_jpeg_parse(data, n, &jpeg);
        if (status == ZF_OK) {
            zf_window all = {0, 0, jpeg.width, jpeg.height};
            d.width = jpeg.width;
            d.channels = jpeg.ncomp;
            status = own_decode(level, &jpeg, all, add_row, &d);
        }
        if (status == ZF_OK)
            printf("%s %08x\n", argv[i], (unsigned)~d.crc);
        else
            printf("%s unsupported\n", argv[i]);
    }
    return 0;
}
