/*
 * Resizes pictures as OpenCV does. Standard input holds one after the other: five
 * numbers of int32_t (zf_filter, width, height, new width, new height) and the RGB
 * pixels. Writes the resized pixels: bytes, or floats with ZF_CV_LINEAR_FLOAT32.
 * tests/preprocess/test_opencv.py compares them with cv2's, for aarch64 under
 * qemu-user.
 *
 * usage: opencv LEVEL
 */
#include "levels.h"
#include "zoofast.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    zf_level level = argc == 2 ? zf_level_named(argv[1]) : ZF_LEVEL_COUNT;
    if (level == ZF_LEVEL_COUNT || !zf_level_runs_here(level))
        return 2;
    zf_workspace *ws = zf_workspace_open(level);
    uint8_t same[3][256];
    for (int i = 0; i < 3 * 256; i++)
        same[i / 256][i % 256] = (uint8_t)i;
    int32_t head[5];
    while (fread(head, sizeof head, 1, stdin) == 1) {
        zf_recipe recipe = {
            .resize = ZF_RESIZE_EXACT,
            .resize_w = head[3],
            .resize_h = head[4],
            .filter = (zf_filter)head[0],
            .out_w = head[3],
            .out_h = head[4],
            .layout = ZF_NHWC,
            .channel_index = {0, 1, 2},
            .elem_size = head[0] == ZF_CV_LINEAR_FLOAT32 ? sizeof(float) : 1,
            .table = same,
            .divisor = 1,
            .std = {1, 1, 1},
        };
        size_t stride = 3 * (size_t)head[1], nbytes = stride * (size_t)head[2];
        uint8_t *rgb = malloc(nbytes), *out = malloc(zf_recipe_nbytes(&recipe));
        zf_result result;
        if (!ws || !rgb || !out || fread(rgb, nbytes, 1, stdin) != 1 ||
            zf_prepare_rgb(ws, &recipe, rgb, head[1], head[2], stride, out, &result) != ZF_OK)
            return 1;
        fwrite(out, zf_recipe_nbytes(&recipe), 1, stdout);
        free(rgb);
        free(out);
    }
    zf_workspace_close(ws);
    return 0;
}
