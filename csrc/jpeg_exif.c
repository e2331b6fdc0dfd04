/* EXIF data: the orientation, as OpenCV finds it (modules/imgcodecs/src/exif.cpp), and whether
 * Pillow reads the resolution without an error.
 * EXIF: CIPA DC-008; its layout is that of TIFF 6.0, section 2. */
#include "zf_internal.h"

typedef struct {
    const uint8_t *data;
    size_t nbytes;
    bool is_little_endian;
    bool failed; /* a number was to be read outside the data */
} tiff;

static uint32_t read_number(tiff *t, uint64_t offset, int nbytes)
{
    uint32_t value = 0;
    if (offset + (uint64_t)nbytes > t->nbytes) {
        t->failed = true;
        return 0;
    }
    for (int i = 0; i < nbytes; i++) {
        uint32_t byte = t->data[offset + (uint64_t)i];
        value |= byte << 8 * (t->is_little_endian ? i : nbytes - 1 - i);
    }
    return value;
}

/* Reads `count` rational numbers at the offset that the entry holds. */
static void check_rationals(tiff *t, uint64_t entry, int count)
{
    uint64_t offset = read_number(t, entry + 8, 4);
    for (int i = 0; i < 2 * count; i++)
        read_number(t, offset + 4 * (uint64_t)i, 4);
}

static void check_text(tiff *t, uint64_t entry)
{
    uint64_t nbytes = read_number(t, entry + 4, 4), offset = 8;
    if (nbytes > 4)
        offset = read_number(t, entry + 8, 4);
    if (offset + nbytes > t->nbytes)
        t->failed = true;
}

/* OpenCV reads some tags before and between the orientation, and gives up at the
 * first one that lies outside the data. */
static void check_entry(tiff *t, uint64_t entry)
{
    switch (read_number(t, entry, 2)) {
    case 0x010E: case 0x010F: case 0x0110: case 0x0131: case 0x0132: case 0x8298:
        check_text(t, entry); /* description, make, model, software, time, copyright */
        break;
    case 0x011A: case 0x011B:
        check_rationals(t, entry, 1); /* resolution */
        break;
    case 0x0128: case 0x0213:
        read_number(t, entry + 8, 2); /* unit of the resolution, position of Cb and Cr */
        break;
    case 0x013E:
        check_rationals(t, entry, 2); /* white point */
        break;
    case 0x013F: case 0x0214:
        check_rationals(t, entry, 6); /* primary colours, reference black and white */
        break;
    case 0x0211:
        check_rationals(t, entry, 3); /* YCbCr coefficients */
        break;
    }
}

int zf_exif_orientation(const uint8_t *data, size_t nbytes)
{
    tiff t = {data, nbytes, false, false};
    if (nbytes < 8)
        return 0;
    t.is_little_endian = data[0] == 'I' && data[1] == 'I';
    if (read_number(&t, 2, 2) != 42)
        return 0;
    uint32_t offset = read_number(&t, 4, 4);
    uint32_t entries = read_number(&t, offset, 2);
    offset += 2;
    for (uint32_t i = 0; i < entries && !t.failed; i++, offset += 12) {
        if (read_number(&t, offset, 2) != 0x0112) {
            check_entry(&t, offset);
            continue;
        }
        uint32_t value = read_number(&t, (uint64_t)offset + 8, 2);
        if (t.failed)
            return 0;
        return value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 0;
}

/* Pillow reads two entries when it opens a file without a resolution in its JFIF segment
 * (JpegImagePlugin, _read_dpi_from_exif). It refuses the file where the values have some other
 * types or counts, so only the types and counts of the standard are plain. */
bool zf_exif_is_plain(const uint8_t *data, size_t nbytes)
{
    enum { SHORT = 3, RATIONAL = 5 };
    tiff t = {data, nbytes, false, false};
    if (nbytes < 8)
        return false;
    if ((data[0] != 'I' || data[1] != 'I') && (data[0] != 'M' || data[1] != 'M'))
        return false;
    t.is_little_endian = data[0] == 'I';
    if (read_number(&t, 2, 2) != 42)
        return false;
    uint32_t offset = read_number(&t, 4, 4);
    uint32_t entries = read_number(&t, offset, 2);
    uint64_t entry = (uint64_t)offset + 2;
    for (uint32_t i = 0; i < entries && !t.failed; i++, entry += 12) {
        uint32_t tag = read_number(&t, entry, 2), type = read_number(&t, entry + 2, 2);
        if (tag != 0x011A && tag != 0x0128)
            continue;
        if (type != (tag == 0x0128 ? SHORT : RATIONAL) || read_number(&t, entry + 4, 4) != 1)
            return false;
    }
    return !t.failed;
}
