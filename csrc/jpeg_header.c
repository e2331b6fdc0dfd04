/* The JPEG header, read strictly. See zf_jpeg_parse in zf_internal.h for why
 * so much is left to Pillow. Markers: ITU-T T.81, annex B. */
#include "zf_internal.h"

#include <string.h>

/* Pillow raises DecompressionBombError above twice Image.MAX_IMAGE_PIXELS,
 * which is 1 GiB / 4 / 3 pixels. */
#define BOMB_PIXELS (2 * (1024LL * 1024 * 1024 / 4 / 3))

typedef struct {
    const uint8_t *p;
    size_t n;
} segment;

static int be16(const uint8_t *p) { return p[0] << 8 | p[1]; }

static bool starts(segment s, const char *prefix, size_t n)
{
    return s.n >= n && memcmp(s.p, prefix, n) == 0;
}

/* Pillow walks the Photoshop resource blocks when it opens a file; one that
 * runs past its segment makes it refuse the file or stop, depending on where. */
static bool photoshop_is_clean(segment s)
{
    size_t at = 14;
    while (at + 4 <= s.n && memcmp(s.p + at, "8BIM", 4) == 0) {
        if (at + 7 > s.n)
            return false;
        size_t name = at + 6;
        at = name + 1 + s.p[name];
        at += at & 1;
        if (at + 4 > s.n)
            return false;
        size_t size = (size_t)be16(s.p + at) << 16 | (size_t)be16(s.p + at + 2);
        at += 4;
        if (size > s.n - at)
            return false;
        at += size;
        at += at & 1;
    }
    return true;
}

typedef struct {
    bool jfif, adobe, frame;
    int adobe_transform;
} seen;

static bool read_app(int marker, segment s, seen *seen)
{
    switch (marker) {
    case 0xE0:
        if (starts(s, "JFIF", 4)) {
            if (s.n < 14 || s.p[4] != 0)
                return false;
            seen->jfif = true;
        }
        return true;
    case 0xE2:
        if (starts(s, "MPF\0", 4))
            return false; /* several pictures: Pillow's MPO reader */
        return !starts(s, "ICC_PROFILE\0", 12) || s.n >= 14;
    case 0xED:
        return !starts(s, "Photoshop 3.0\0", 14) || photoshop_is_clean(s);
    case 0xEE:
        if (starts(s, "Adobe", 5)) {
            if (s.n < 12)
                return false;
            seen->adobe = true;
            seen->adobe_transform = s.p[11];
        }
        return true;
    default:
        return true;
    }
}

static bool read_quant(segment s, zf_jpeg *jpeg)
{
    while (s.n > 0) {
        int wide = s.p[0] >> 4, id = s.p[0] & 15;
        size_t need = 1 + (wide ? 128 : 64);
        if (wide > 1 || id > 3 || s.n < need)
            return false;
        for (int i = 0; i < 64; i++)
            jpeg->quant[id][i] =
                (uint16_t)(wide ? be16(s.p + 1 + 2 * i) : s.p[1 + i]);
        jpeg->quant_defined[id] = true;
        s.p += need;
        s.n -= need;
    }
    return true;
}

static bool read_huffman(segment s, zf_jpeg *jpeg)
{
    while (s.n > 0) {
        if (s.n < 17 || (s.p[0] & ~0x13))
            return false;
        zf_huffman *table = &(s.p[0] & 0x10 ? jpeg->ac : jpeg->dc)[s.p[0] & 3];
        size_t count = 0;
        table->bits[0] = 0;
        for (int l = 1; l <= 16; l++) {
            table->bits[l] = s.p[l];
            count += s.p[l];
        }
        if (count > 256 || s.n < 17 + count)
            return false;
        memset(table->values, 0, sizeof table->values);
        memcpy(table->values, s.p + 17, count);
        table->defined = true;
        s.p += 17 + count;
        s.n -= 17 + count;
    }
    return true;
}

static bool read_frame(int marker, segment s, zf_jpeg *jpeg)
{
    if (s.n < 6 || s.p[0] != 8)
        return false;
    jpeg->progressive = marker == 0xC2;
    jpeg->height = be16(s.p + 1);
    jpeg->width = be16(s.p + 3);
    jpeg->ncomp = s.p[5];
    if (jpeg->height == 0 || jpeg->width == 0 || jpeg->height > 65500 || jpeg->width > 65500)
        return false;
    if ((int64_t)jpeg->height * jpeg->width > BOMB_PIXELS)
        return false;
    if ((jpeg->ncomp != 1 && jpeg->ncomp != 3) || s.n != 6 + 3 * (size_t)jpeg->ncomp)
        return false;
    jpeg->max_h = jpeg->max_v = 1;
    for (int i = 0; i < jpeg->ncomp; i++) {
        zf_component *c = &jpeg->comp[i];
        const uint8_t *p = s.p + 6 + 3 * i;
        c->id = p[0];
        c->h = p[1] >> 4;
        c->v = p[1] & 15;
        c->tq = p[2];
        c->td = c->ta = -1;
        if (c->h < 1 || c->h > 4 || c->v < 1 || c->v > 4 || c->tq > 3)
            return false;
        for (int j = 0; j < i; j++)
            if (jpeg->comp[j].id == c->id)
                return false;
        jpeg->max_h = zf_max(jpeg->max_h, c->h);
        jpeg->max_v = zf_max(jpeg->max_v, c->v);
    }
    return true;
}

static bool read_scan(segment s, zf_jpeg *jpeg)
{
    if (s.n < 1)
        return false;
    int n = s.p[0];
    if (n < 1 || n > jpeg->ncomp || s.n != 4 + 2 * (size_t)n)
        return false;
    jpeg->scan_ncomp = n;
    for (int i = 0, j = 0; i < n; i++, j++) {
        /* in the frame's order (T.81, B.2.3), which not all decoders insist on */
        while (j < jpeg->ncomp && jpeg->comp[j].id != s.p[1 + 2 * i])
            j++;
        if (j == jpeg->ncomp || (s.p[2 + 2 * i] & ~0x33))
            return false;
        zf_component *c = &jpeg->comp[j];
        c->td = s.p[2 + 2 * i] >> 4;
        c->ta = s.p[2 + 2 * i] & 15;
    }
    const uint8_t *p = s.p + 1 + 2 * n;
    jpeg->scan_ss = p[0];
    jpeg->scan_se = p[1];
    jpeg->scan_ah = p[2] >> 4;
    jpeg->scan_al = p[2] & 15;
    return true;
}

/* libjpeg's default_decompress_parms */
static zf_color color_of(const zf_jpeg *jpeg, const seen *seen)
{
    if (jpeg->ncomp == 1)
        return ZF_COLOR_GRAY;
    if (seen->jfif)
        return ZF_COLOR_YCC;
    if (seen->adobe)
        return seen->adobe_transform == 0 ? ZF_COLOR_RGB : ZF_COLOR_YCC;
    const zf_component *c = jpeg->comp;
    if (c[0].id == 'R' && c[1].id == 'G' && c[2].id == 'B')
        return ZF_COLOR_RGB;
    return ZF_COLOR_YCC;
}

zf_status zf_jpeg_parse(const uint8_t *data, size_t nbytes, zf_jpeg *jpeg)
{
    seen seen = {0};
    size_t at = 2;

    memset(jpeg, 0, sizeof *jpeg);
    jpeg->data = data;
    jpeg->nbytes = nbytes;
    if (nbytes < 4 || data[0] != 0xFF || data[1] != 0xD8 || data[2] != 0xFF)
        return ZF_UNSUPPORTED;

    for (;;) {
        if (at >= nbytes || data[at] != 0xFF)
            return ZF_UNSUPPORTED;
        while (at < nbytes && data[at] == 0xFF)
            at++; /* fill bytes */
        if (at + 3 > nbytes)
            return ZF_UNSUPPORTED;
        int marker = data[at];
        size_t length = (size_t)be16(data + at + 1);
        at++;
        if (length < 2 || length > nbytes - at)
            return ZF_UNSUPPORTED;
        segment s = {data + at + 2, length - 2};
        at += length;

        bool ok;
        switch (marker) {
        case 0xC0: case 0xC1: case 0xC2:
            ok = !seen.frame && read_frame(marker, s, jpeg);
            seen.frame = true;
            break;
        case 0xC4:
            ok = read_huffman(s, jpeg);
            break;
        case 0xDB:
            ok = read_quant(s, jpeg);
            break;
        case 0xDD:
            ok = s.n == 2;
            if (ok)
                jpeg->restart_interval = be16(s.p);
            break;
        case 0xFE:
            ok = true;
            break;
        case 0xDA:
            if (!seen.frame || !read_scan(s, jpeg))
                return ZF_UNSUPPORTED;
            if (seen.adobe && !seen.jfif && jpeg->ncomp == 3 && seen.adobe_transform > 1)
                return ZF_UNSUPPORTED; /* libjpeg guesses, with a warning */
            jpeg->scan = at;
            jpeg->color = color_of(jpeg, &seen);
            return ZF_OK;
        default:
            ok = marker >= 0xE0 && marker <= 0xEF && read_app(marker, s, &seen);
        }
        if (!ok)
            return ZF_UNSUPPORTED;
    }
}

zf_status zf_jpeg_size(const uint8_t *data, size_t nbytes, int *width, int *height)
{
    zf_jpeg jpeg;
    zf_status status = zf_jpeg_parse(data, nbytes, &jpeg);
    *width = jpeg.width;
    *height = jpeg.height;
    return status;
}
