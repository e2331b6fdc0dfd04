/* A full decode to RGB by the system's libjpeg-turbo, as fast as possible: one
 * decompressor for all images, and rows go directly into the caller's buffer.
 * Pillow has decoded the images before, so an error ends the process. */
#include <stdio.h>

#include <jpeglib.h>

static struct jpeg_decompress_struct cinfo;
static struct jpeg_error_mgr errors;

void start(void)
{
    cinfo.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&cinfo);
}

int version(void) { return LIBJPEG_TURBO_VERSION_NUMBER; }

/* Reads the header; decode() must follow. */
void measure(const unsigned char *data, unsigned long nbytes, int *width, int *height)
{
    jpeg_mem_src(&cinfo, data, nbytes);
    jpeg_read_header(&cinfo, TRUE);
    *width = (int)cinfo.image_width;
    *height = (int)cinfo.image_height;
}

void decode(unsigned char *rgb)
{
    cinfo.out_color_space = JCS_RGB;
    cinfo.dct_method = JDCT_ISLOW;
    jpeg_start_decompress(&cinfo);
    size_t stride = 3 * (size_t)cinfo.output_width;
    while (cinfo.output_scanline < cinfo.output_height) {
        JSAMPROW rows[16];
        for (int i = 0; i < 16; i++)
            rows[i] = rgb + (cinfo.output_scanline + (size_t)i) * stride;
        jpeg_read_scanlines(&cinfo, rows, 16);
    }
    jpeg_finish_decompress(&cinfo);
}
