/* A strict parser of JPEG headers. zf_internal.h says at zf_jpeg_parse why it
 * leaves unusual headers to Pillow. Markers: ITU-T T.81, annex B. */
#include "zf_internal.h"

#include <string.h>

/* Pillow raises DecompressionBombError for pictures of more than twice
 * Image.MAX_IMAGE_PIXELS, which is 1 GiB / 4 / 3 pixels. */
#define BOMB_PIXELS (2 * (1024LL * 1024 * 1024 / 4 / 3))

/* The contents of a marker segment, after its length. */
typedef struct {
    const uint8_t *p;
    size_t n;
} segment;

static int be16(const uint8_t *p) { return p[0] << 8 | p[1]; }

static bool starts(segment s, const char *prefix, size_t n)
{
    return s.n >= n && memcmp(s.p, prefix, n) == 0;
}

/* Pillow reads the Photoshop resource blocks when it opens a file. If a block
 * extends past its segment, Pillow refuses the file or stops reading blocks,
 * depending on where the segment ends. */
static bool photoshop_is_clean(segment s)
{
    size_t offset = 14; /* past the signature */
    while (offset + 4 <= s.n && memcmp(s.p + offset, "8BIM", 4) == 0) {
        if (offset + 7 > s.n)
            return false;
        size_t name = offset + 6;
        offset = name + 1 + s.p[name];
        offset += offset & 1;
        if (offset + 4 > s.n)
            return false;
        size_t size = (size_t)be16(s.p + offset) << 16 | (size_t)be16(s.p + offset + 2);
        offset += 4;
        if (size > s.n - offset)
            return false;
        offset += size;
        offset += offset & 1;
    }
    return true;
}

/* Segments that were found so far. */
typedef struct {
    bool jfif, adobe, exif, frame;
    int adobe_transform;
} seen;

static bool read_app(int marker, segment s, zf_jpeg *jpeg, seen *seen)
{
    switch (marker) {
    case 0xE0:
        if (starts(s, "JFIF", 4)) {
            if (s.n < 14 || s.p[4] != 0)
                return false;
            seen->jfif = true;
        }
        return true;
    case 0xE1:
        if (!starts(s, "Exif\0", 5))
            return true;
        /* Pillow joins the data of several segments. */
        jpeg->exif_is_unusual = seen->exif || s.n < 6 || !zf_exif_is_plain(s.p + 6, s.n - 6);
        seen->exif = true;
        if (jpeg->orientation == 0 && starts(s, "Exif\0\0", 6))
            jpeg->orientation = zf_exif_orientation(s.p + 6, s.n - 6);
        return true;
    case 0xE2:
        if (starts(s, "MPF\0", 4))
            return false; /* several pictures: Pillow uses its MPO reader */
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
        int is_16bit = s.p[0] >> 4, id = s.p[0] & 15;
        size_t need = 1 + (is_16bit ? 128 : 64);
        if (is_16bit > 1 || id > 3 || s.n < need)
            return false;
        for (int i = 0; i < 64; i++)
            jpeg->quant[id][i] =
                (uint16_t)(is_16bit ? be16(s.p + 1 + 2 * i) : s.p[1 + i]);
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
        /* T.81, B.2.3, demands the frame's order; not all decoders check it */
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

/* The colour space that libjpeg's default_decompress_parms chooses. */
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

/* Reads the marker and the segment at *offset, and moves *offset past them. */
static bool next_segment(const zf_jpeg *jpeg, size_t *offset, int *marker, segment *s)
{
    const uint8_t *data = jpeg->data;
    size_t i = *offset;
    if (i >= jpeg->nbytes || data[i] != 0xFF)
        return false;
    while (i < jpeg->nbytes && data[i] == 0xFF)
        i++; /* skip fill bytes */
    if (i + 3 > jpeg->nbytes)
        return false;
    *marker = data[i++];
    size_t length = (size_t)be16(data + i);
    if (length < 2 || length > jpeg->nbytes - i)
        return false;
    *s = (segment){data + i + 2, length - 2};
    *offset = i + length;
    return true;
}

/* Reads a segment other than SOS; false where Pillow has to decide. */
static bool read_segment(int marker, segment s, zf_jpeg *jpeg, seen *seen)
{
    switch (marker) {
    case 0xC0: case 0xC1: case 0xC2:
        if (seen->frame)
            return false;
        seen->frame = true;
        return read_frame(marker, s, jpeg);
    case 0xC4:
        return read_huffman(s, jpeg);
    case 0xDB:
        return read_quant(s, jpeg);
    case 0xDD:
        if (s.n != 2)
            return false;
        jpeg->restart_interval = be16(s.p);
        return true;
    case 0xFE:
        return true;
    default:
        return marker >= 0xE0 && marker <= 0xEF && read_app(marker, s, jpeg, seen);
    }
}

zf_status zf_jpeg_parse(const uint8_t *data, size_t nbytes, zf_jpeg *jpeg)
{
    seen seen = {0};
    size_t offset = 2;
    int marker;
    segment s;

    memset(jpeg, 0, sizeof *jpeg);
    jpeg->data = data;
    jpeg->nbytes = nbytes;
    if (nbytes < 4 || data[0] != 0xFF || data[1] != 0xD8 || data[2] != 0xFF)
        return ZF_UNSUPPORTED;
    for (;;) {
        if (!next_segment(jpeg, &offset, &marker, &s))
            return ZF_UNSUPPORTED;
        if (marker == 0xDA)
            break;
        if (!read_segment(marker, s, jpeg, &seen))
            return ZF_UNSUPPORTED;
    }
    if (!seen.frame || !read_scan(s, jpeg))
        return ZF_UNSUPPORTED;
    if (seen.adobe && !seen.jfif && jpeg->ncomp == 3 && seen.adobe_transform > 1)
        return ZF_UNSUPPORTED; /* libjpeg warns, and assumes YCbCr */
    jpeg->scan_offset = offset;
    jpeg->color = color_of(jpeg, &seen);
    return ZF_OK;
}

bool zf_jpeg_next_scan(zf_jpeg *jpeg, size_t offset)
{
    int marker;
    segment s;

    for (;;) {
        if (!next_segment(jpeg, &offset, &marker, &s))
            return false;
        if (marker == 0xDA)
            break;
        if ((marker != 0xC4 && marker != 0xDD) || !read_segment(marker, s, jpeg, NULL))
            return false;
    }
    for (int i = 0; i < jpeg->ncomp; i++)
        jpeg->comp[i].td = jpeg->comp[i].ta = -1;
    jpeg->scan_offset = offset;
    return read_scan(s, jpeg);
}

zf_status zf_jpeg_size(const uint8_t *data, size_t nbytes, int *width, int *height)
{
    zf_jpeg jpeg;
    zf_status status = zf_jpeg_parse(data, nbytes, &jpeg);
    *width = jpeg.width;
    *height = jpeg.height;
    return status;
}
