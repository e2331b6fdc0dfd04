/*
 * Decodes JPEG files by the baseline decoder at one CPU level, and prints for
 * each a line: its name and the FNV-1a hash of its R, G, B (or gray) rows, or
 * "unsupported". Run by tests/test_native.py, which knows what Pillow makes of
 * the files; for aarch64 under qemu-user.
 *
 *     cc -D_GNU_SOURCE -Icsrc tests/native/decode.c csrc/jpeg_{header,baseline,entropy,pixels*}.c
 */
#include "zf_jpeg_internal.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct {
    int width, channels;
    uint64_t hash;
} digest;

static zf_status hash_row(void *ctx, int y, const uint8_t *const planes[3])
{
    digest *d = ctx;
    (void)y;
    for (int c = 0; c < d->channels; c++)
        for (int x = 0; x < d->width; x++)
            d->hash = (d->hash ^ planes[c][x]) * 1099511628211u;
    return ZF_OK;
}

int main(int argc, char **argv)
{
    static uint8_t data[1 << 20];
    zf_baseline *decoder = argc > 1 ? zf_baseline_open(argv[1]) : NULL;
    if (!decoder)
        return 2;
    for (int i = 2; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (!file)
            return 2;
        size_t n = fread(data, 1, sizeof data, file);
        fclose(file);
        zf_jpeg jpeg;
        digest d = {0, 0, 14695981039346656037u};
        zf_status status = zf_jpeg_parse(data, n, &jpeg);
        if (status == ZF_OK) {
            zf_window all = {0, 0, jpeg.width, jpeg.height};
            d.width = jpeg.width;
            d.channels = jpeg.ncomp;
            status = zf_baseline_decode(decoder, &jpeg, all, hash_row, &d);
        }
        if (status == ZF_OK)
            printf("%s %016llx\n", argv[i], (unsigned long long)d.hash);
        else
            printf("%s unsupported\n", argv[i]);
    }
    zf_baseline_close(decoder);
    return 0;
}
