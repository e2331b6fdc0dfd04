/*
 * Differential fuzzing of zf_prepare_jpeg, the whole way from a file's bytes to
 * a tensor, at every CPU level that runs here, and of the decoders alone.
 *
 * The oracle is libjpeg-turbo's decoding of the complete file. For any bytes, if
 * zf_prepare_jpeg accepts the file, libjpeg-turbo decodes it up to its
 * end-of-image marker, and the tensor equals the one that zf_prepare_rgb makes
 * of the oracle's pixels with scalar kernels. If a decoder accepts a window, its
 * pixels equal the oracle's. The recipe and the window depend on the bytes, so a
 * crash can be repeated.
 */
#include "jpeg_reference.h"
#include "zf_internal.h"

#define MAX_PIXELS (1u << 16)
#define MAX_SIDE 64

static uint32_t state;

static uint32_t draw(uint32_t below) /* 0 <= draw < below */
{
    state = state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(state >> 8) * below >> 24);
}

static void *checked(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

/* A random recipe that the picture fits in most cases. */
static zf_recipe random_recipe(int width, int height, const void *table)
{
    zf_recipe r = {.resize = (zf_resize)draw(4),
                   .resize_rounding = (zf_side_rounding)draw(2),
                   .filter = (zf_filter)draw(6),
                   .pass_order = (zf_pass_order)draw(3),
                   .crop_rounding = (zf_crop_rounding)draw(5),
                   .layout = (zf_layout)draw(2),
                   .channel_index = {draw(2) ? 0 : 2, 1, 0},
                   .elem_size = 1 << draw(3),
                   .table = table};
    r.channel_index[2] = 2 - r.channel_index[0];
    r.resize_w = 1 + (int)draw(MAX_SIDE);
    bool keeps_ratio = r.resize == ZF_RESIZE_SHORT || r.resize == ZF_RESIZE_HEIGHT;
    r.resize_h = keeps_ratio ? r.resize_w : 1 + (int)draw(MAX_SIDE);
    if (keeps_ratio || draw(2)) {
        r.out_w = r.crop_w = 1 + (int)draw(MAX_SIDE);
        r.out_h = r.crop_h = draw(3) ? 1 + (int)draw(MAX_SIDE) : zf_min(height, MAX_SIDE);
    } else {
        r.out_w = r.resize == ZF_RESIZE_EXACT ? r.resize_w : width;
        r.out_h = r.resize == ZF_RESIZE_EXACT ? r.resize_h : height;
    }
    return r;
}

/* The oracle's pixels as RGB triples. */
static const uint8_t *as_rgb(const reference_image *image)
{
    static uint8_t *rgb;
    size_t n = (size_t)image->width * (size_t)image->height;
    if (image->channels == 3)
        return image->pixels;
    rgb = checked(realloc(rgb, 3 * n));
    for (size_t i = 0; i < n; i++)
        memset(rgb + 3 * i, image->pixels[i], 3);
    return rgb;
}

static zf_workspace *workspace(zf_level level)
{
    static zf_workspace *all[ZF_LEVEL_COUNT];
    if (!all[level])
        all[level] = checked(zf_workspace_open(level));
    return all[level];
}

static void check_tensors(const uint8_t *data, size_t nbytes, const zf_jpeg *jpeg,
                          const reference_image *oracle)
{
    static uint32_t table[3 * 256];
    for (uint32_t i = 0; i < 3 * 256; i++)
        table[i] = (i + 1) * 2654435761u;
    zf_recipe recipe = random_recipe(jpeg->width, jpeg->height, table);
    size_t size = zf_recipe_nbytes(&recipe);
    uint8_t *made = checked(malloc(size)), *wanted = checked(malloc(size));
    zf_status expected = ZF_UNSUPPORTED;
    zf_result result;

    if (oracle->warnings >= 0)
        expected = zf_prepare_rgb(workspace(ZF_LEVEL_SCALAR), &recipe, as_rgb(oracle),
                                  oracle->width, oracle->height, 3 * (size_t)oracle->width,
                                  wanted, &result);
    for (zf_level level = 0; level < ZF_LEVEL_COUNT; level++) {
        if (!zf_level_runs_here(level))
            continue;
        memset(made, 0xAA, size);
        zf_status status = zf_prepare_jpeg(workspace(level), &recipe, data, nbytes, made, &result);
        if (status == ZF_OK && (expected != ZF_OK || memcmp(made, wanted, size) != 0))
            abort();
        if (status != ZF_OK && status != ZF_UNSUPPORTED && status != ZF_SIZE)
            abort();
    }
    free(made);
    free(wanted);
}

static void check_windows(const uint8_t *data, size_t nbytes, const zf_jpeg *jpeg,
                          const reference_image *oracle)
{
    zf_window w = {0, 0, jpeg->width, jpeg->height};
    if (draw(2)) {
        w.x0 = (int)draw((uint32_t)jpeg->width);
        w.y0 = (int)draw((uint32_t)jpeg->height);
        w.x1 = w.x0 + 1 + (int)draw((uint32_t)(jpeg->width - w.x0));
        w.y1 = w.y0 + 1 + (int)draw((uint32_t)(jpeg->height - w.y0));
    }
    size_t row = 3 * (size_t)(w.x1 - w.x0), rows = (size_t)(w.y1 - w.y0);
    uint8_t *made = checked(malloc(row * rows));
    zf_result result;

    for (zf_level level = 0; level < ZF_LEVEL_COUNT; level++) {
        if (!zf_level_runs_here(level) ||
            zf_decode_jpeg_window(workspace(level), data, nbytes, w.x0, w.y0, w.x1, w.y1, made,
                                  &result) != ZF_OK)
            continue;
        if (oracle->warnings < 0)
            abort(); /* libjpeg-turbo refuses the file */
        for (size_t y = 0; y < rows; y++) {
            size_t first = (y + (size_t)w.y0) * (size_t)oracle->width + (size_t)w.x0;
            if (memcmp(made + y * row, as_rgb(oracle) + 3 * first, row) != 0)
                abort();
        }
    }
    free(made);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes)
{
    static reference_image oracle;
    static zf_jpeg jpeg;

    if (zf_jpeg_parse(data, nbytes, &jpeg) != ZF_OK ||
        (size_t)jpeg.width * (size_t)jpeg.height > MAX_PIXELS)
        return 0;
    state = 2166136261u;
    for (size_t i = 0; i < nbytes; i++)
        state = (state ^ data[i]) * 16777619u;
    reference_decode(data, nbytes, MAX_PIXELS, &oracle);
    check_tensors(data, nbytes, &jpeg, &oracle);
    check_windows(data, nbytes, &jpeg, &oracle);
    return 0;
}
