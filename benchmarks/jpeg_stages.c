/*
 * Our own decoders and libjpeg-turbo, one thread, bytes in memory. Verifies
 * every image first, then times all stages in turn. Prints the median round,
 * and "best": the sum of each file's shortest time, which other work on the
 * machine changes less.
 *
 * Usage: jpeg_stages [-r ROUNDS] [-i ISA] [-t] [-p] FILE...
 *
 * -t: prints tab-separated figures, one line per kind of file and stage: kind,
 * stage, files, mean bytes and mean pixels per file, mean seconds per file
 * (median, best), and median ticks of the time stamp counter (x86: TSC, Arm:
 * CNTVCT) per byte. benchmarks/jpeg.py makes tables of them.
 *
 * -p: the files are progressive; without it, only baseline files are taken.
 *
 *     cc -std=c11 -D_GNU_SOURCE -O3 -ffp-contract=off -Icsrc -Itests/core/native \
 *         benchmarks/jpeg_stages.c csrc/levels.c csrc/decode.c csrc/jpeg_*.c -ljpeg -o jpeg_stages
 *
 * Stages: `coefficients` is entropy decoding alone (jpeg_read_coefficients in
 * libjpeg-turbo), of baseline files only; `rgb` is the full image as RGB or gray rows; `window` is the
 * centred part that a 256/224 crop reads.
 */
#include "jpeg_reference.h"
#include "own_decoder.h"

#include <unistd.h>

typedef struct {
    uint8_t *data;
    size_t nbytes;
    zf_jpeg jpeg;
    char kind[16];
} file;

static bool read_file(const char *path, file *f)
{
    FILE *in = fopen(path, "rb");
    if (!in)
        return false;
    fseek(in, 0, SEEK_END);
    f->nbytes = (size_t)ftell(in);
    rewind(in);
    f->data = malloc(f->nbytes + 1);
    bool ok = f->data && fread(f->data, 1, f->nbytes, in) == f->nbytes;
    fclose(in);
    return ok;
}

/* ---- what is timed -------------------------------------------------------- */

static uint8_t sink[65536 * 3];

static void turbo_coefficients(const file *f)
{
    struct jpeg_decompress_struct cinfo;
    struct jpeg_error_mgr errors;
    cinfo.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&cinfo);
    jpeg_mem_src(&cinfo, f->data, (unsigned long)f->nbytes);
    jpeg_read_header(&cinfo, TRUE);
    jpeg_read_coefficients(&cinfo);
    jpeg_finish_decompress(&cinfo);
    jpeg_destroy_decompress(&cinfo);
}

static void turbo_rgb(const file *f)
{
    struct jpeg_decompress_struct cinfo;
    struct jpeg_error_mgr errors;
    cinfo.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&cinfo);
    jpeg_mem_src(&cinfo, f->data, (unsigned long)f->nbytes);
    jpeg_read_header(&cinfo, TRUE);
    jpeg_start_decompress(&cinfo);
    JSAMPROW row = sink;
    while (cinfo.output_scanline < cinfo.output_height)
        jpeg_read_scanlines(&cinfo, &row, 1);
    jpeg_finish_decompress(&cinfo);
    jpeg_destroy_decompress(&cinfo);
}

static zf_level level;
static const zf_jpeg_kernels *kernels;
static uint8_t *unstuffed;

/* Entropy decoding as in zf_baseline_decode, of an image without restart
 * markers; stores every block. Builds the tables again where the DHT changes,
 * as zf_baseline_decode does. */
static void zoofast_coefficients(const file *f)
{
    static zf_dc_table dc_tables[4];
    static zf_ac_table ac_tables[4];
    static _Alignas(64) zf_block blocks[ZF_MCU_BLOCKS];
    uint8_t last[ZF_MCU_BLOCKS];
    zf_jpeg jpeg;
    zf_mcu mcu = {0};
    size_t n;
    int dc[3] = {0, 0, 0};

    if (zf_jpeg_parse(f->data, f->nbytes, &jpeg) != ZF_OK)
        abort();
    for (int i = 0; i < jpeg.ncomp; i++) {
        const zf_component *c = &jpeg.comp[i];
        if (!zf_dc_table_make(&dc_tables[c->td], &jpeg.dc[c->td]) ||
            !zf_ac_table_make(&ac_tables[c->ta], &jpeg.ac[c->ta]))
            abort();
        for (int j = 0; j < (jpeg.ncomp == 1 ? 1 : c->h * c->v); j++, mcu.nblocks++) {
            mcu.block[mcu.nblocks].comp = i;
            mcu.block[mcu.nblocks].dc = &dc_tables[c->td];
            mcu.block[mcu.nblocks].ac = &ac_tables[c->ta];
        }
    }
    int w = 8 * (jpeg.ncomp == 1 ? 1 : jpeg.max_h), h = 8 * (jpeg.ncomp == 1 ? 1 : jpeg.max_v);
    int count = (jpeg.width + w - 1) / w * ((jpeg.height + h - 1) / h);

    kernels->unstuff(unstuffed, &n, f->data + jpeg.scan_offset, f->data + f->nbytes);
    memset(unstuffed + n, 0, ZF_BITS_PAD);
    zf_bits bits = {unstuffed, 0, 0};
    for (int i = 0; i < count; i++)
        if (!kernels->mcu(&bits, &mcu, dc, blocks, last))
            abort();
    if ((int64_t)(unstuffed - bits.p + (int64_t)n) * 8 + bits.left >= 8)
        abort(); /* the data did not end where the image ends */
}

static zf_status drop_row(void *ctx, int y, const uint8_t *const planes[3])
{
    (void)ctx;
    sink[y & 7] = planes[0][0];
    return ZF_OK;
}

static void decode_window(const file *f, bool crop)
{
    zf_jpeg jpeg;
    if (zf_jpeg_parse(f->data, f->nbytes, &jpeg) != ZF_OK)
        abort();
    zf_window w = {0, 0, jpeg.width, jpeg.height};
    if (crop) {
        int side = zf_min(jpeg.width, jpeg.height) * 7 / 8;
        w.x0 = (jpeg.width - side) / 2;
        w.y0 = (jpeg.height - side) / 2;
        w.x1 = w.x0 + side;
        w.y1 = w.y0 + side;
    }
    if (own_decode(level, &jpeg, w, drop_row, NULL) != ZF_OK)
        abort();
}

static void zoofast_rgb(const file *f) { decode_window(f, false); }
static void zoofast_window(const file *f) { decode_window(f, true); }

static const struct {
    const char *name;
    void (*run)(const file *);
} stages[] = {
    {"libjpeg-turbo coefficients", turbo_coefficients},
    {"zoofast coefficients", zoofast_coefficients},
    {"libjpeg-turbo rgb", turbo_rgb},
    {"zoofast rgb", zoofast_rgb},
    {"zoofast window", zoofast_window},
};
#define NSTAGES (sizeof stages / sizeof *stages)

static bool progressive;
/* The first stage that is timed: progressive files have no stage `coefficients`. */
static size_t first_stage(void) { return progressive ? 2 : 0; }

/* ---- verifying ------------------------------------------------------------ */

static reference_image want;

static zf_status compare_row(void *ctx, int y, const uint8_t *const planes[3])
{
    (void)ctx;
    size_t channels = (size_t)want.channels;
    const uint8_t *row = want.pixels + (size_t)y * (size_t)want.width * channels;
    for (size_t x = 0; x < (size_t)want.width; x++)
        for (size_t c = 0; c < channels; c++)
            if (row[x * channels + c] != planes[c][x])
                return ZF_CANCELLED;
    return ZF_OK;
}

static void verify(const file *f, const char *path)
{
    zf_window all = {0, 0, f->jpeg.width, f->jpeg.height};
    reference_decode(f->data, f->nbytes, SIZE_MAX, &want);
    if (want.warnings != 0 ||
        own_decode(level, &f->jpeg, all, compare_row, NULL) != ZF_OK) {
        fprintf(stderr, "%s: not equal to libjpeg-turbo\n", path);
        exit(1);
    }
}

/* ---- reporting ------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static uint64_t ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t value;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(value));
    return value;
#else
    return 0;
#endif
}

static bool tabs;
static double ticks_per_second;

/* Prints the median and the best of the rounds, for the files of one kind. */
static void report(const char *kind, const file *files, int n, double *const *seconds, int rounds)
{
    double nbytes = 0, pixels = 0, median[NSTAGES], best[NSTAGES];
    double *totals = malloc((size_t)rounds * sizeof *totals);
    int count = 0;
    if (!totals)
        abort();
    for (size_t s = 0; s < NSTAGES; s++) {
        for (int r = 0; r < rounds; r++) {
            totals[r] = 0;
            for (int i = 0; i < n; i++)
                if (!kind || strcmp(kind, files[i].kind) == 0)
                    totals[r] += seconds[s][(size_t)r * (size_t)n + (size_t)i];
        }
        best[s] = 0;
        for (int i = 0; i < n; i++) {
            double fastest = seconds[s][i];
            for (int r = 1; r < rounds; r++) {
                double t = seconds[s][(size_t)r * (size_t)n + (size_t)i];
                fastest = t < fastest ? t : fastest;
            }
            if (!kind || strcmp(kind, files[i].kind) == 0)
                best[s] += fastest;
        }
        qsort(totals, (size_t)rounds, sizeof *totals, by_value);
        median[s] = totals[rounds / 2];
    }
    free(totals);
    for (int i = 0; i < n; i++)
        if (!kind || strcmp(kind, files[i].kind) == 0) {
            nbytes += (double)files[i].nbytes;
            pixels += (double)files[i].jpeg.width * files[i].jpeg.height;
            count++;
        }
    if (tabs) {
        for (size_t s = first_stage(); s < NSTAGES; s++)
            printf("%s\t%s\t%d\t%.1f\t%.1f\t%.9f\t%.9f\t%.3f\n", kind ? kind : "all",
                   stages[s].name, count, nbytes / count, pixels / count, median[s] / count,
                   best[s] / count, median[s] * ticks_per_second / nbytes);
        return;
    }
    printf("%s: %d files, %.1f kB and %.1f kpx each\n", kind ? kind : "all", count,
           nbytes / count / 1e3, pixels / count / 1e3);
    for (size_t s = first_stage(); s < NSTAGES; s++)
        printf("  %-28s median %7.3f ms/image, best %7.3f ms: %6.1f MB/s of JPEG, %6.1f Mpx/s\n",
               stages[s].name, 1e3 * median[s] / count, 1e3 * best[s] / count,
               nbytes / best[s] / 1e6, pixels / best[s] / 1e6);
    if (!progressive)
        printf("  coefficients %.2fx (best %.2fx)\n", median[0] / median[1], best[0] / best[1]);
    printf("  rgb %.2fx (%.2fx), window against libjpeg-turbo's full rgb %.2fx (%.2fx)\n",
           median[2] / median[3], best[2] / best[3],
           median[2] / median[4], best[2] / best[4]);
}

int main(int argc, char **argv)
{
    int rounds = 9, option, n = 0;
    size_t largest = 0;
    const char *isa = "scalar";
    char kinds[16][16];
    int nkinds = 0;

    while ((option = getopt(argc, argv, "r:i:tp")) != -1) {
        if (option == 'r')
            rounds = atoi(optarg);
        else if (option == 'i')
            isa = optarg;
        else if (option == 't')
            tabs = true;
        else if (option == 'p')
            progressive = true;
        else
            return 2;
    }
    level = zf_level_named(isa);
    if (level == ZF_LEVEL_COUNT || !zf_level_runs_here(level)) {
        fprintf(stderr, "no such CPU level here: %s\n", isa);
        return 2;
    }
    kernels = zf_jpeg_kernels_of[level];
    file *files = calloc((size_t)(argc - optind) + 1, sizeof *files);
    if (!files || rounds < 1) {
        fprintf(stderr, "out of memory, or no rounds\n");
        return 2;
    }
    for (int i = optind; i < argc; i++) {
        file *f = &files[n];
        if (!read_file(argv[i], f)) {
            perror(argv[i]);
            return 1;
        }
        if (zf_jpeg_parse(f->data, f->nbytes, &f->jpeg) != ZF_OK || f->jpeg.progressive != progressive ||
            f->jpeg.restart_interval) {
            fprintf(stderr, "%s: left out, another kind of file\n", argv[i]);
            free(f->data);
            continue;
        }
        const zf_component *c = f->jpeg.comp;
        if (f->jpeg.ncomp == 1)
            strcpy(f->kind, "gray");
        else
            snprintf(f->kind, sizeof f->kind, "%dx%d,%dx%d,%dx%d", c[0].h, c[0].v, c[1].h,
                     c[1].v, c[2].h, c[2].v);
        int k = 0;
        while (k < nkinds && strcmp(kinds[k], f->kind) != 0)
            k++;
        if (k == nkinds && k < 16)
            strcpy(kinds[nkinds++], f->kind);
        verify(f, argv[i]);
        if (f->nbytes > largest)
            largest = f->nbytes;
        n++;
    }
    unstuffed = malloc(largest + ZF_BITS_PAD);
    double *seconds[NSTAGES];
    for (size_t s = 0; s < NSTAGES; s++)
        if (!(seconds[s] = calloc((size_t)rounds * (size_t)n + 1, sizeof **seconds)))
            return 1;
    if (n == 0 || !unstuffed)
        return 1;

    /* All stages run in turn on every file, so that other work on the machine
     * slows all of them. */
    uint64_t begin_ticks = ticks(), begin = zf_now();
    for (int r = -1; r < rounds; r++) /* round -1 warms up */
        for (int i = 0; i < n; i++)
            for (size_t s = first_stage(); s < NSTAGES; s++) {
                uint64_t start = zf_now();
                stages[s].run(&files[i]);
                if (r >= 0)
                    seconds[s][(size_t)r * (size_t)n + (size_t)i] = (double)(zf_now() - start) / 1e9;
            }

    ticks_per_second = (double)(ticks() - begin_ticks) * 1e9 / (double)(zf_now() - begin);
    if (!tabs)
        printf("verified %d files, then timed %d rounds, level %s\n", n, rounds, isa);
    report(NULL, files, n, seconds, rounds);
    for (int k = 0; k < nkinds; k++)
        report(kinds[k], files, n, seconds, rounds);
    return 0;
}
