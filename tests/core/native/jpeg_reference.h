/* libjpeg-turbo as the oracle of native tests, fuzzers and benchmarks: what Pillow
 * does with a JPEG, in a few lines. */
#ifndef JPEG_REFERENCE_H
#define JPEG_REFERENCE_H

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf fatal;
    int warnings;
} reference_errors;

/* Also called at the end of the data: Pillow refuses a truncated file. */
static void reference_exit(j_common_ptr cinfo)
{
    longjmp(((reference_errors *)cinfo->err)->fatal, 1);
}

static boolean reference_no_more(j_decompress_ptr cinfo)
{
    reference_exit((j_common_ptr)cinfo);
    return FALSE;
}

static void reference_message(j_common_ptr cinfo, int level)
{
    if (level < 0)
        ((reference_errors *)cinfo->err)->warnings++;
}

typedef struct {
    int width, height, channels;
    int warnings;    /* about the data, not the header; -1: refused */
    uint8_t *pixels; /* channels interleaved; NULL when refused */
    size_t capacity;
} reference_image;

/* Decodes into image, whose buffer is kept between calls. Refuses pictures of
 * more than max_pixels pixels, or with a number of components other than 1 and 3. */
static void reference_decode(const uint8_t *data, size_t nbytes, size_t max_pixels,
                             reference_image *image)
{
    struct jpeg_decompress_struct cinfo;
    reference_errors errors;

    image->warnings = -1;
    cinfo.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = reference_exit;
    errors.base.emit_message = reference_message;
    errors.warnings = 0;
    jpeg_create_decompress(&cinfo);
    if (setjmp(errors.fatal)) {
        jpeg_destroy_decompress(&cinfo);
        return;
    }
    if (nbytes == 0) /* which jpeg_mem_src does not accept */
        reference_exit((j_common_ptr)&cinfo);
    jpeg_mem_src(&cinfo, data, (unsigned long)nbytes);
    cinfo.src->fill_input_buffer = reference_no_more;
    jpeg_read_header(&cinfo, TRUE);
    size_t pixels = (size_t)cinfo.image_width * cinfo.image_height;
    if (pixels > max_pixels || (cinfo.num_components != 1 && cinfo.num_components != 3)) {
        jpeg_destroy_decompress(&cinfo);
        return;
    }
    cinfo.out_color_space = cinfo.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    image->width = (int)cinfo.image_width;
    image->height = (int)cinfo.image_height;
    image->channels = cinfo.num_components;
    size_t stride = (size_t)image->width * (size_t)image->channels;
    if (stride * cinfo.image_height > image->capacity) {
        image->capacity = stride * cinfo.image_height;
        image->pixels = realloc(image->pixels, image->capacity);
        if (!image->pixels)
            abort();
    }
    errors.warnings = 0; /* a warning about the JFIF version changes no pixel */
    jpeg_start_decompress(&cinfo);
    while (cinfo.output_scanline < cinfo.output_height) {
        JSAMPROW row = image->pixels + stride * cinfo.output_scanline;
        jpeg_read_scanlines(&cinfo, &row, 1);
    }
    jpeg_finish_decompress(&cinfo);
    jpeg_destroy_decompress(&cinfo);
    image->warnings = errors.warnings;
}

#endif
