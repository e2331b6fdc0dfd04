/* The unstuffing that SSSE3 and AVX2 share. A file of kernels includes this once, after
 * zf_jpeg_rows_x86.h and after defining load(p), a vector at any address. */

/* ---- unstuffing ----------------------------------------------------------- */

/* Copies a vector at a time up to the next 0xFF. */
TARGET static ZF_DECL_UNSTUFF(unstuff)
{
    uint8_t *out = dst;

    while (end - src > NBYTES) {
        vec v = load(src);
        uint32_t ff = (uint32_t)V(movemask_epi8)(V(cmpeq_epi8)(v, V(set1_epi8)(-1)));
        store(out, v);
        if (ff == 0) {
            out += NBYTES;
            src += NBYTES;
            continue;
        }
        int run = __builtin_ctz(ff);
        out += run;
        src += run;
        if (src[1] != 0) {
            *n = (size_t)(out - dst);
            return src;
        }
        *out++ = 0xFF;
        src += 2;
    }
    size_t tail;
    src = zf_unstuff_scalar(out, &tail, src, end);
    *n = (size_t)(out - dst) + tail;
    return src;
}
