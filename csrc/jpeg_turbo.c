/*
 * Decodes a window of a JPEG through libjpeg-turbo, to the same pixels as a full
 * decoding.
 *
 * The library can omit columns (jpeg_crop_scanline) and rows
 * (jpeg_skip_scanlines). But next to the omitted pixels its chroma upsampling
 * lacks neighbours, and the pixels are wrong if rows are skipped that do not end
 * with a row of iMCUs. So this code decodes a margin of one iMCU on every side,
 * drops it, and skips only complete rows of iMCUs.
 */
#include "zf_internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jerror.h>
#include <jpeglib.h>

/* Release 2.0.3 changed the rounding of 4:4:0 upsampling. Pillow's wheels have
 * the new rounding. */
#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2000003
#error "zoofast needs libjpeg-turbo 2.0.3 or newer"
#endif

#define ROWS 16 /* requested in one call */

struct zf_turbo {
    struct jpeg_decompress_struct cinfo;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    jmp_buf fatal;
    const zf_kernels *kernels;
    uint8_t *rows;   /* ROWS interleaved rows from libjpeg, then three planes */
    size_t capacity;
};

static void on_error(j_common_ptr cinfo)
{
    zf_turbo *turbo = (zf_turbo *)((char *)cinfo - offsetof(zf_turbo, cinfo));
    longjmp(turbo->fatal, 1);
}

/* After a warning libjpeg continues with invented pixels, which may depend on its
 * version. So Pillow's copy of the library has to decode the file. Negative
 * levels are warnings, the others are trace output. */
static void on_message(j_common_ptr cinfo, int level)
{
    if (level < 0)
        on_error(cinfo);
}

static void nothing(j_decompress_ptr cinfo) { (void)cinfo; }

/* The complete file is in memory, so a request for more bytes means that it is
 * truncated. FALSE suspends the decoding, as Pillow's reader does, and libjpeg
 * returns early. */
static boolean no_more(j_decompress_ptr cinfo)
{
    (void)cinfo;
    return FALSE;
}

static void skip(j_decompress_ptr cinfo, long n)
{
    struct jpeg_source_mgr *source = cinfo->src;
    size_t step = n <= 0 ? 0 : (size_t)n < source->bytes_in_buffer ? (size_t)n
                                                                   : source->bytes_in_buffer;
    source->next_input_byte += step;
    source->bytes_in_buffer -= step;
}

zf_turbo *zf_turbo_open(const zf_kernels *kernels)
{
    zf_turbo *turbo = calloc(1, sizeof *turbo);
    if (!turbo)
        return NULL;
    turbo->kernels = kernels;
    turbo->cinfo.err = jpeg_std_error(&turbo->errors);
    turbo->errors.error_exit = on_error;
    turbo->errors.emit_message = on_message;
    turbo->source.init_source = nothing;
    turbo->source.fill_input_buffer = no_more;
    turbo->source.skip_input_data = skip;
    turbo->source.resync_to_restart = jpeg_resync_to_restart;
    turbo->source.term_source = nothing;
    return turbo;
}

void zf_turbo_close(zf_turbo *turbo)
{
    if (!turbo)
        return;
    free(turbo->rows);
    free(turbo);
}

/* Rounds up to complete cache lines. */
static size_t round_up(size_t nbytes) { return (nbytes + 63) & ~(size_t)63; }

static bool reserve(zf_turbo *turbo, size_t nbytes)
{
    if (nbytes > turbo->capacity) {
        free(turbo->rows);
        turbo->rows = aligned_alloc(64, nbytes);
        turbo->capacity = turbo->rows ? nbytes : 0;
    }
    return turbo->rows != NULL;
}

/* Whether cropping columns gives correct pixels. It does for the samplings that
 * cameras and ImageNet use; others are decoded at full width. */
static bool can_crop(const zf_jpeg *jpeg)
{
    if (jpeg->ncomp == 1)
        return jpeg->max_h == 1 && jpeg->max_v == 1;
    for (int i = 1; i < 3; i++)
        if (jpeg->comp[i].h != 1 || jpeg->comp[i].v != 1)
            return false;
    return jpeg->comp[0].h <= 2 && jpeg->comp[0].v <= 2;
}

/* The marker after a scan's entropy-coded bytes; 0 if the file ends before it. */
static int marker_after_scan(const zf_jpeg *jpeg)
{
    const uint8_t *p = jpeg->data + jpeg->scan_offset, *end = jpeg->data + jpeg->nbytes;
    while ((p = memchr(p, 0xFF, (size_t)(end - p))) != NULL) {
        while (p < end && *p == 0xFF)
            p++;
        if (p == end)
            return 0;
        if (*p != 0 && (*p < 0xD0 || *p > 0xD7))
            return *p;
    }
    return 0;
}

/* Whether a progressive file has all its scans. If not, libjpeg smooths blocks.
 * The smoothing depends on its version, and at a window's edge on pixels outside
 * the window. */
static bool has_all_scans(j_decompress_ptr cinfo)
{
    if (!cinfo->progressive_mode)
        return true;
    for (int c = 0; c < cinfo->num_components; c++)
        for (int i = 0; i < DCTSIZE2; i++)
            if (cinfo->coef_bits[c][i] != 0)
                return false;
    return true;
}

/* Reads the header and begins the decoding; false where Pillow has to decide. */
static bool begin(zf_turbo *turbo, const zf_jpeg *jpeg)
{
    j_decompress_ptr cinfo = &turbo->cinfo;

    turbo->source.next_input_byte = jpeg->data;
    turbo->source.bytes_in_buffer = jpeg->nbytes;
    if (jpeg_read_header(cinfo, TRUE) != JPEG_HEADER_OK)
        return false;
    cinfo->out_color_space = jpeg->ncomp == 1 ? JCS_GRAYSCALE : JCS_RGB;
    cinfo->dct_method = JDCT_ISLOW;
    cinfo->do_fancy_upsampling = TRUE;
    /* Pillow reads up to the end-of-image marker, and refuses the file if the data
     * ends before it or if a marker is wrong. The library does the same for files
     * with several scans, before it decodes. If there is one scan, nothing but the
     * end of the image may follow it: rows below the window are not decoded, so a
     * wrong marker there would not be noticed. */
    if (!jpeg_has_multiple_scans(cinfo) && marker_after_scan(jpeg) != 0xD9)
        return false;
    return jpeg_start_decompress(cinfo) && has_all_scans(cinfo);
}

/* Skips rows and columns outside the window, except for a margin. *left gets the
 * first decoded column, *top the first decoded row. */
static bool skip_to_window(zf_turbo *turbo, const zf_jpeg *jpeg, zf_window w, int *left,
                           int *top)
{
    j_decompress_ptr cinfo = &turbo->cinfo;
    int mcu_w = 8 * jpeg->max_h, mcu_h = 8 * jpeg->max_v;

    *left = *top = 0;
    if (!can_crop(jpeg))
        return true;
    JDIMENSION x = (JDIMENSION)zf_max(w.x0 - mcu_w, 0);
    JDIMENSION width = (JDIMENSION)zf_min(w.x1 + mcu_w, jpeg->width) - x;
    if (width < cinfo->output_width) {
        jpeg_crop_scanline(cinfo, &x, &width); /* moves x to the left, to an iMCU */
        *left = (int)x;
    }
    *top = zf_max(w.y0 / mcu_h * mcu_h - mcu_h, 0);
    return *top == 0 ||
           jpeg_skip_scanlines(cinfo, (JDIMENSION)*top) == (JDIMENSION)*top;
}

static zf_status decode(zf_turbo *turbo, const zf_jpeg *jpeg, zf_window w, zf_row_fn row,
                        void *ctx)
{
    j_decompress_ptr cinfo = &turbo->cinfo;
    int left, y;

    if (!begin(turbo, jpeg) || !skip_to_window(turbo, jpeg, w, &left, &y))
        return ZF_UNSUPPORTED;
    size_t channels = (size_t)cinfo->output_components;
    size_t stride = round_up((size_t)cinfo->output_width * channels + 1 + ZF_PAD);
    size_t plane = round_up((size_t)(w.x1 - w.x0) + ZF_PAD);
    if (!reserve(turbo, ROWS * stride + 3 * plane))
        return ZF_NOMEM;
    /* The library writes aligned rows with non-temporal stores, past the caches,
     * and reading them back is slow. So rows begin one byte after an aligned
     * address. */
    JSAMPROW rows[ROWS];
    for (int i = 0; i < ROWS; i++)
        rows[i] = turbo->rows + (size_t)i * stride + 1;
    uint8_t *planes[3];
    for (int c = 0; c < 3; c++)
        planes[c] = turbo->rows + ROWS * stride + (size_t)c * plane;
    size_t offset = (size_t)(w.x0 - left) * channels;

    while (y < w.y1) {
        JDIMENSION want = (JDIMENSION)zf_min(ROWS, w.y1 - y);
        int got = (int)jpeg_read_scanlines(cinfo, rows, want);
        if (got == 0)
            return ZF_UNSUPPORTED; /* truncated */
        for (int i = 0; i < got; i++, y++) {
            zf_status status = ZF_OK;
            if (y < w.y0)
                continue;
            if (channels == 1) {
                const uint8_t *gray[3] = {rows[i] + offset, NULL, NULL};
                status = row(ctx, y, gray);
            } else {
                turbo->kernels->deinterleave(planes, rows[i] + offset,
                                             (size_t)(w.x1 - w.x0));
                status = row(ctx, y, (const uint8_t *const *)planes);
            }
            if (status != ZF_OK)
                return status;
        }
    }
    /* If all rows were decoded, only the end of the image may be left. */
    return y < jpeg->height || jpeg_finish_decompress(cinfo) ? ZF_OK : ZF_UNSUPPORTED;
}

static zf_status create_and_decode(zf_turbo *turbo, const zf_jpeg *jpeg, zf_window window,
                                   zf_row_fn row, void *ctx)
{
    if (setjmp(turbo->fatal))
        return ZF_UNSUPPORTED;
    jpeg_create_decompress(&turbo->cinfo);
    turbo->cinfo.src = &turbo->source;
    return decode(turbo, jpeg, window, row, ctx);
}

zf_status zf_turbo_decode(zf_turbo *turbo, const zf_jpeg *jpeg, zf_window window,
                          zf_row_fn row, void *ctx)
{
    /* Each image gets a new object. An object that is used again keeps the last
     * image's tables and uses them for a file without tables. */
    zf_status status = create_and_decode(turbo, jpeg, window, row, ctx);
    jpeg_destroy_decompress(&turbo->cinfo);
    return status;
}
