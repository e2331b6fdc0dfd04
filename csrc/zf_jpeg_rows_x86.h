/* The kernels of rows that the x86 levels share. A file of kernels includes
 * this once, after zf_jpeg_x86.h and after defining
 *   store(p, v)             a vector at any address
 *   load_wide(p)            half a vector of bytes, each widened to 16 bits
 *   to_bytes(a, b)          the 16-bit numbers of a and then of b, saturated to bytes */

#define NBYTES ((int)sizeof(vec)) /* bytes in a vector */
#define WIDE (NBYTES / 2)         /* 16-bit numbers in a vector */

/* ---- upsampling ----------------------------------------------------------- */

INLINE vec times3(vec v) { return V(add_epi16)(v, V(add_epi16)(v, v)); }

/* even and odd results of 16 bits each -> bytes, even and odd in turn */
INLINE void store_in_turn(uint8_t *dst, vec even, vec odd)
{
    store(dst, even | V(slli_epi16)(odd, 8));
}

TARGET static ZF_DECL_H2V1(upsample_h2v1)
{
    for (int i = 0; i < n; i += WIDE) {
        vec here = times3(load_wide(src + i));
        vec left = V(add_epi16)(load_wide(src + i - 1), V(set1_epi16)(1));
        vec right = V(add_epi16)(load_wide(src + i + 1), V(set1_epi16)(2));
        store_in_turn(dst + 2 * i, V(srli_epi16)(V(add_epi16)(here, left), 2),
                      V(srli_epi16)(V(add_epi16)(here, right), 2));
    }
}

INLINE vec column_sum(const uint8_t *near, const uint8_t *far)
{
    return V(add_epi16)(times3(load_wide(near)), load_wide(far));
}

TARGET static ZF_DECL_H2V2(upsample_h2v2)
{
    for (int i = 0; i < n; i += WIDE) {
        vec here = times3(column_sum(near + i, far + i));
        vec left = V(add_epi16)(column_sum(near + i - 1, far + i - 1), V(set1_epi16)(8));
        vec right = V(add_epi16)(column_sum(near + i + 1, far + i + 1), V(set1_epi16)(7));
        store_in_turn(dst + 2 * i, V(srli_epi16)(V(add_epi16)(here, left), 4),
                      V(srli_epi16)(V(add_epi16)(here, right), 4));
    }
}

TARGET static ZF_DECL_H1V2(upsample_h1v2)
{
    vec round = V(set1_epi16)((short)bias);
    for (int i = 0; i < n; i += NBYTES) {
        vec v[2];
        for (int j = 0; j < 2; j++) {
            vec sum = column_sum(near + i + WIDE * j, far + i + WIDE * j);
            v[j] = V(srli_epi16)(V(add_epi16)(sum, round), 2);
        }
        store(dst + i, to_bytes(v[0], v[1]));
    }
}

/* ---- colour --------------------------------------------------------------- */

INLINE void ycc_wide(const uint8_t *y8, const uint8_t *cb8, const uint8_t *cr8, vec rgb[3])
{
    vec y = load_wide(y8);
    vec cb = V(sub_epi16)(load_wide(cb8), V(set1_epi16)(128));
    vec cr = V(sub_epi16)(load_wide(cr8), V(set1_epi16)(128));
    /* 91881 = 65536 + 26345; 116130 = 2 * 65536 - 14942; -46802 = 18734 - 65536.
     * pmulhrsw multiplies by half of such a factor. 13173 instead of 26345 / 2
     * gives the same result for all values from -128 to 127. */
    vec cr_part = V(mulhrs_epi16)(cr, V(set1_epi16)(13173));
    vec cb_part = V(mulhrs_epi16)(cb, V(set1_epi16)(-14942 / 2));
    rgb[0] = V(add_epi16)(V(add_epi16)(y, cr), cr_part);
    rgb[2] = V(add_epi16)(V(add_epi16)(y, V(add_epi16)(cb, cb)), cb_part);
    vec half = V(set1_epi32)(1 << 15);
    vec low = MADD(V(unpacklo_epi16)(cb, cr), -22554, 18734);
    vec high = MADD(V(unpackhi_epi16)(cb, cr), -22554, 18734);
    vec g = V(packs_epi32)(V(srai_epi32)(V(add_epi32)(low, half), 16),
                           V(srai_epi32)(V(add_epi32)(high, half), 16));
    rgb[1] = V(add_epi16)(V(sub_epi16)(y, cr), g);
}

TARGET static ZF_DECL_YCC_TO_RGB(ycc_to_rgb)
{
    for (int i = 0; i < n; i += NBYTES) {
        vec first[3], second[3];
        ycc_wide(y + i, cb + i, cr + i, first);
        ycc_wide(y + i + WIDE, cb + i + WIDE, cr + i + WIDE, second);
        for (int c = 0; c < 3; c++)
            store(rgb[c] + i, to_bytes(first[c], second[c]));
    }
}
