/*
 * Differential fuzzing of our JPEG decoders against libjpeg-turbo.
 *
 * For any bytes: if the decoder for the file's kind accepts the whole picture, libjpeg-turbo decodes
 * it to the same pixels without a warning. If it accepts a window, the library
 * decodes the file to the same pixels there. And every CPU level that runs here
 * accepts the same windows with the same pixels.
 *
 * libjpeg-turbo is not instrumented for MemorySanitizer, so there the check is
 * that every pixel and every decision depends on initialized memory only.
 */
#include "jpeg_reference.h"
#include "own_decoder.h"

#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#define WITHOUT_REFERENCE 1
#endif
#endif

#define MAX_PIXELS (1u << 18)

static uint8_t *pixels; /* of the window, planar */
static volatile uint8_t padding;
static zf_window window;
static int channels, rows;

static zf_status keep_row(void *ctx, int y, const uint8_t *const planes[3])
{
    (void)ctx;
    size_t w = (size_t)(window.x1 - window.x0), h = (size_t)(window.y1 - window.y0);
    if (y != window.y0 + rows++)
        abort();
    for (int c = 0; c < channels; c++) {
        memcpy(pixels + ((size_t)c * h + (size_t)(y - window.y0)) * w, planes[c], w);
        padding = planes[c][w + ZF_PAD - 1]; /* it has to be readable */
    }
    return ZF_OK;
}

static void compare(const reference_image *want)
{
    size_t w = (size_t)(window.x1 - window.x0), h = (size_t)(window.y1 - window.y0);
#ifdef WITHOUT_REFERENCE
    (void)want;
    __msan_check_mem_is_initialized(pixels, w * h * (size_t)channels);
    return;
#endif
    for (size_t y = 0; y < h; y++)
        for (size_t x = 0; x < w; x++)
            for (size_t c = 0; c < (size_t)channels; c++) {
                size_t at = (y + (size_t)window.y0) * (size_t)want->width + x + (size_t)window.x0;
                if (want->pixels[at * (size_t)channels + c] != pixels[(c * h + y) * w + x])
                    abort();
            }
}

static zf_status decode(zf_level level, const zf_jpeg *jpeg)
{
    rows = 0;
    zf_status status = own_decode(level, jpeg, window, keep_row, NULL);
    if (status == ZF_OK && rows != window.y1 - window.y0)
        abort();
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes)
{
    static reference_image want;
    static zf_jpeg jpeg;

    if (zf_jpeg_parse(data, nbytes, &jpeg) != ZF_OK ||
        (size_t)jpeg.width * (size_t)jpeg.height > MAX_PIXELS)
        return 0;
    if (!pixels && !(pixels = malloc(3 * MAX_PIXELS)))
        abort();
#ifndef WITHOUT_REFERENCE
    reference_decode(data, nbytes, MAX_PIXELS, &want);
#endif
    channels = jpeg.ncomp;

    /* the window depends on the bytes, so that a crash can be repeated */
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < nbytes; i++)
        hash = (hash ^ data[i]) * 16777619u;
    zf_window part;
    part.x0 = (int)(hash % (uint32_t)jpeg.width);
    part.y0 = (int)(hash / 7 % (uint32_t)jpeg.height);
    part.x1 = part.x0 + 1 + (int)(hash / 77 % (uint32_t)(jpeg.width - part.x0));
    part.y1 = part.y0 + 1 + (int)(hash / 777 % (uint32_t)(jpeg.height - part.y0));

    for (int whole = 0; whole < 2; whole++) {
        zf_status first = ZF_OK;
        window = whole ? (zf_window){0, 0, jpeg.width, jpeg.height} : part;
        for (zf_level level = 0; level < ZF_LEVEL_COUNT; level++) {
            if (!zf_level_runs_here(level))
                continue;
            zf_status status = decode(level, &jpeg);
            if (status != ZF_OK && status != ZF_UNSUPPORTED)
                abort();
            if (level > 0 && status != first)
                abort(); /* the levels disagree */
            first = status;
            if (status != ZF_OK)
                continue;
            if (want.warnings < 0 || (whole && want.warnings > 0))
                abort(); /* libjpeg-turbo does not take it */
            compare(&want);
        }
    }
    return 0;
}
