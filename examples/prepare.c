/* Prepares an image as torchvision does for AlexNet, and compares the tensor with a file of bytes:
 *
 *     cc prepare.c $(pkg-config --cflags --libs zoofast) -o prepare
 *     ./prepare image.jpeg tensor.bin
 */
#include <stdio.h>
#include <string.h>
#include <zoofast.h>

static float table[3][256], made[3 * 224 * 224], expected[3 * 224 * 224];
static uint8_t jpeg[16 << 20];

int main(int argc, char **argv)
{
    const float mean[] = {0.485f, 0.456f, 0.406f}, std[] = {0.229f, 0.224f, 0.225f};
    for (int c = 0; c < 3; c++)
        for (int x = 0; x < 256; x++)
            table[c][x] = ((float)x / 255 - mean[c]) / std[c];
    zf_recipe recipe = {.resize = ZF_RESIZE_SHORT, .resize_w = 256, .resize_h = 256,
                        .filter = ZF_BILINEAR, .pass_order = ZF_PASS_ORDER_PILLOW_13_0,
                        .crop_w = 224, .crop_h = 224, .out_w = 224, .out_h = 224,
                        .layout = ZF_NCHW, .channel_index = {0, 1, 2},
                        .elem_size = sizeof(float), .table = table};
    FILE *image = argc == 3 ? fopen(argv[1], "rb") : NULL;
    FILE *tensor = argc == 3 ? fopen(argv[2], "rb") : NULL;
    if (!image || !tensor || fread(expected, sizeof expected, 1, tensor) != 1)
        return fprintf(stderr, "usage: prepare image.jpeg tensor.bin\n"), 2;
    size_t nbytes = fread(jpeg, 1, sizeof jpeg, image);
    fclose(image);
    fclose(tensor);
    zf_workspace *workspace = zf_workspace_open(zf_level_best());
    if (!workspace)
        return fprintf(stderr, "out of memory\n"), 2;
    zf_result result;
    zf_status status = zf_prepare_jpeg(workspace, &recipe, jpeg, nbytes, made, &result);
    zf_workspace_close(workspace);
    if (status != ZF_OK)
        return fprintf(stderr, "%s: %s\n", argv[1], status == ZF_UNSUPPORTED
                       ? "Pillow has to decode it" : "out of memory"), 2;
    int differs = memcmp(made, expected, sizeof made) != 0;
    printf("%dx%d pixels, decoder %s: %s\n", result.width, result.height,
           zf_decoder_name(result.decoder), differs ? "different" : "equal");
    return differs;
}
