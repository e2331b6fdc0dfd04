/*
 * Compares our own decoders with libjpeg-turbo, at every CPU level that runs
 * here: on the given files, or on random pictures that libjpeg-turbo encodes with
 * every kind of header and scan script that the decoders support; complete and in windows.
 *
 * usage: jpeg_decoder [-n CASES] [-s SEED] [-w FOLDER] [FILE...]
 *
 * -w: also writes the random pictures to a folder, as seeds for fuzzing.
 */
#include "jpeg_reference.h"
#include "own_decoder.h"

#include <unistd.h>

static uint64_t seed = 1;

static uint32_t rnd(uint32_t n) /* 0 <= rnd < n */
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed * 0x2545F4914F6CDD1DULL >> 32) % n);
}

/* ---- comparing ------------------------------------------------------------ */

typedef struct {
    const reference_image *want;
    zf_window window;
    int next; /* row */
    bool equal;
} comparison;

static zf_status compare_row(void *ctx, int y, const uint8_t *const planes[3])
{
    comparison *c = ctx;
    const reference_image *want = c->want;
    volatile uint8_t sum = 0;

    c->equal &= y == c->next++;
    for (int x = c->window.x0; x < c->window.x1 && c->equal; x++)
        for (int i = 0; i < want->channels; i++)
            c->equal &= want->pixels[((size_t)y * (size_t)want->width + (size_t)x) *
                                         (size_t)want->channels + (size_t)i] ==
                        planes[i][x - c->window.x0];
    /* the promised padding can be read */
    for (int i = 0; i < want->channels; i++)
        sum = (uint8_t)(sum + planes[i][c->window.x1 - c->window.x0 + ZF_PAD - 1]);
    return c->equal ? ZF_OK : ZF_CANCELLED;
}

static int decoded, refused;

/* Decodes a window; false if it differs from the reference. */
static bool check_window(zf_level level, const zf_jpeg *jpeg, zf_window w,
                         const reference_image *want, bool must)
{
    comparison c = {want, w, w.y0, true};
    zf_status status = own_decode(level, jpeg, w, compare_row, &c);
    if (status == ZF_UNSUPPORTED && c.equal && !must) {
        refused++;
        return true;
    }
    decoded++;
    return status == ZF_OK && c.equal && c.next == w.y1;
}

/* must: the decoder has to support this file. */
static bool check_jpeg(const uint8_t *data, size_t nbytes, bool must, const char *what)
{
    static reference_image want;
    static zf_jpeg jpeg;

    reference_decode(data, nbytes, 1u << 28, &want);
    if (zf_jpeg_parse(data, nbytes, &jpeg) != ZF_OK) {
        refused++;
        if (must)
            fprintf(stderr, "%s: the header is refused\n", what);
        return !must;
    }
    uint64_t saved = seed;
    for (zf_level i = 0; i < ZF_LEVEL_COUNT; i++) {
        const char *isa = zf_level_name(i);
        if (!zf_level_runs_here(i))
            continue;
        if (want.warnings != 0) {
            comparison c = {&want, {0, 0, 0, 0}, 0, false};
            zf_window all = {0, 0, jpeg.width, jpeg.height};
            if (own_decode(i, &jpeg, all, compare_row, &c) == ZF_OK) {
                fprintf(stderr, "%s: taken by %s, but not by libjpeg-turbo\n", what, isa);
                return false;
            }
            continue;
        }
        seed = saved;
        for (int j = 0; j < 6; j++) {
            zf_window w = {0, 0, want.width, want.height};
            if (j > 0) {
                w.x0 = (int)rnd((uint32_t)want.width);
                w.y0 = (int)rnd((uint32_t)want.height);
                w.x1 = w.x0 + 1 + (int)rnd((uint32_t)(want.width - w.x0));
                w.y1 = w.y0 + 1 + (int)rnd((uint32_t)(want.height - w.y0));
            }
            if (!check_window(i, &jpeg, w, &want, must)) {
                fprintf(stderr, "%s: %s differs in %d,%d..%d,%d of %dx%d\n", what, isa, w.x0,
                        w.y0, w.x1, w.y1, want.width, want.height);
                return false;
            }
        }
    }
    return true;
}

/* ---- making JPEGs --------------------------------------------------------- */

/* Random factors that libjpeg can both write and upsample. */
static void random_sampling(struct jpeg_compress_struct *cinfo)
{
    static const int usual[][2] = {{1, 1}, {2, 1}, {2, 2}, {1, 2}, {4, 1}, {1, 4}, {4, 2}};
    int n = cinfo->num_components;
    for (;;) {
        int blocks = 0, max_h = 1, max_v = 1;
        bool whole = true;
        bool odd = rnd(2);
        const int *u = usual[rnd(7)];
        for (int i = 0; i < n; i++) {
            jpeg_component_info *c = &cinfo->comp_info[i];
            c->h_samp_factor = odd ? 1 + (int)rnd(4) : i ? 1 : u[0];
            c->v_samp_factor = odd ? 1 + (int)rnd(4) : i ? 1 : u[1];
            blocks += c->h_samp_factor * c->v_samp_factor;
            max_h = zf_max(max_h, c->h_samp_factor);
            max_v = zf_max(max_v, c->v_samp_factor);
        }
        for (int i = 0; i < n; i++)
            whole &= max_h % cinfo->comp_info[i].h_samp_factor == 0 &&
                     max_v % cinfo->comp_info[i].v_samp_factor == 0;
        if (whole && (n == 1 || blocks <= 10))
            return;
    }
}

/* A random order of progressive scans, which may split the coefficients into bands
 * and leave their lower bits to later scans. Returns the number of scans. */
static int random_script(jpeg_scan_info *scans, int ncomp)
{
    enum { BANDS = 4 }; /* of a component: the DC, and up to three of AC */
    int first[3][BANDS], last[3][BANDS], low[3][BANDS], todo[3][BANDS];
    int n = 0, left = 0, dc_low = (int)rnd(3);
    bool together = rnd(2); /* all components' DC in one scan */

    for (int c = 0; c < ncomp; c++) {
        int nbands = 2 + (int)rnd(BANDS - 1), k = 0;
        for (int b = 0; b < BANDS; b++) {
            todo[c][b] = 0;
            if (b >= nbands)
                continue;
            first[c][b] = k;
            last[c][b] = b == 0 ? 0 : b == nbands - 1 ? 63 : k + (int)rnd((uint32_t)(64 - k) / 2);
            k = last[c][b] + 1;
            low[c][b] = b == 0 && together ? dc_low : (int)rnd(4);
            todo[c][b] = 1 + low[c][b]; /* scans */
            if (b > 0 || !together || c == 0)
                left += todo[c][b];
        }
    }
    for (; left > 0; n++, left--) {
        int c, b;
        do {
            c = (int)rnd((uint32_t)ncomp);
            b = (int)rnd(BANDS);
        } while (todo[c][b] == 0 || (together && b == 0 && c > 0) ||
                 (b > 0 && todo[together ? 0 : c][0] == 1 + low[together ? 0 : c][0]));
        bool begins = todo[c][b]-- == 1 + low[c][b];
        scans[n] = (jpeg_scan_info){.comps_in_scan = b == 0 && together ? ncomp : 1,
                                    .component_index = {c, 1, 2},
                                    .Ss = first[c][b],
                                    .Se = last[c][b],
                                    .Ah = begins ? 0 : todo[c][b] + 1,
                                    .Al = todo[c][b]};
    }
    return n;
}

/* Scans of a sequential file: two components in one of them, or each in its own.
 * Returns the number of scans. */
static int random_partition(jpeg_scan_info *scans)
{
    int alone = (int)rnd(4), n = alone == 3 ? 3 : 2; /* 3: each component */
    for (int i = 0; i < n; i++)
        scans[i] = (jpeg_scan_info){.comps_in_scan = 1, .component_index = {i}, .Se = 63};
    if (alone < 3) {
        int first = (int)rnd(2); /* the scan of the component that is alone */
        scans[first].component_index[0] = alone;
        scans[1 - first].comps_in_scan = 2;
        scans[1 - first].component_index[0] = alone == 0;
        scans[1 - first].component_index[1] = alone == 2 ? 1 : 2;
    }
    return n;
}

/* Whether the scans bring the last bit of every coefficient. */
static bool is_complete(const jpeg_scan_info *scans, int n, int ncomp)
{
    int complete = 0;
    for (int i = 0; i < n; i++)
        if (scans[i].Al == 0)
            complete += scans[i].comps_in_scan * (scans[i].Se - scans[i].Ss + 1);
    return complete == 64 * ncomp;
}

static void fill(uint8_t *pixels, size_t n, int width)
{
    int kind = (int)rnd(5), a = (int)rnd(256), b = (int)rnd(40);
    for (size_t i = 0; i < n; i++) {
        int x = (int)(i % (size_t)width), y = (int)(i / (size_t)width);
        switch (kind) {
        case 0: pixels[i] = (uint8_t)rnd(256); break;
        case 1: pixels[i] = (uint8_t)a; break;
        case 2: pixels[i] = (uint8_t)(a + x * b / 8 + y); break;
        case 3: pixels[i] = (uint8_t)(rnd(2) * 255); break;
        default: pixels[i] = (uint8_t)zf_min(255, a / 2 + (x * y / 7) % 100 + (int)rnd(9));
        }
    }
}

static void no_message(j_common_ptr cinfo, int level)
{
    (void)cinfo;
    (void)level;
}

/* A random picture. *gentle is false if bits are missing, or if its values may leave
 * the range that the decoders support. */
static unsigned char *random_jpeg(unsigned long *nbytes, bool *gentle, char *what, size_t size)
{
    struct jpeg_compress_struct cinfo;
    struct jpeg_error_mgr errors;
    unsigned char *data = NULL;
    static const J_COLOR_SPACE spaces[] = {JCS_YCbCr, JCS_YCbCr, JCS_RGB, JCS_GRAYSCALE};
    J_COLOR_SPACE space = spaces[rnd(4)];
    bool large = rnd(32) == 0;
    int width = 1 + (int)rnd(large ? 700 : 70), height = 1 + (int)rnd(large ? 300 : 70);
    int quality = 1 + (int)rnd(100), channels = space == JCS_GRAYSCALE ? 1 : 3;

    cinfo.err = jpeg_std_error(&errors);
    errors.emit_message = no_message;
    jpeg_create_compress(&cinfo);
    *nbytes = 0;
    jpeg_mem_dest(&cinfo, &data, nbytes);
    cinfo.image_width = (JDIMENSION)width;
    cinfo.image_height = (JDIMENSION)height;
    cinfo.input_components = channels;
    cinfo.in_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(&cinfo);
    jpeg_set_colorspace(&cinfo, space);
    jpeg_set_quality(&cinfo, quality, (boolean)rnd(2));
    random_sampling(&cinfo);
    cinfo.optimize_coding = (boolean)rnd(2);
    cinfo.restart_interval = rnd(3) ? 0 : 1 + rnd(20);
    static jpeg_scan_info script[64];
    int progressive = (int)rnd(6); /* 1: libjpeg's own script */
    if (progressive == 1)
        jpeg_simple_progression(&cinfo);
    else if (progressive == 2) {
        cinfo.num_scans = random_script(script, channels);
        cinfo.scan_info = script;
        if (rnd(16) == 0) /* some bits are missing; libjpeg does not omit a first DC */
            for (uint32_t i = rnd(3); i < 3; i++)
                if (script[cinfo.num_scans - 1].Ss > 0 || script[cinfo.num_scans - 1].Ah > 0)
                    cinfo.num_scans--;
    } else if (progressive == 3 && channels == 3) {
        cinfo.num_scans = random_partition(script);
        cinfo.scan_info = script;
    }
    cinfo.write_JFIF_header = (boolean)(space == JCS_YCbCr && rnd(2));
    cinfo.write_Adobe_marker = (boolean)(space == JCS_RGB || rnd(4) == 0);
    if (channels == 3) /* own tables for each component */
        for (int i = 0; i < 3; i++) {
            cinfo.comp_info[i].dc_tbl_no = (int)rnd(2);
            cinfo.comp_info[i].ac_tbl_no = (int)rnd(2);
            cinfo.comp_info[i].quant_tbl_no = (int)rnd(2);
        }
    *gentle = quality > 30 && (progressive != 2 || is_complete(script, cinfo.num_scans, channels));
    snprintf(what, size, "%dx%d quality %d space %d factors %d,%d %d,%d %d,%d restart %u scans %d", width,
             height, quality, space, cinfo.comp_info[0].h_samp_factor,
             cinfo.comp_info[0].v_samp_factor,
             channels == 3 ? cinfo.comp_info[1].h_samp_factor : 0,
             channels == 3 ? cinfo.comp_info[1].v_samp_factor : 0,
             channels == 3 ? cinfo.comp_info[2].h_samp_factor : 0,
             channels == 3 ? cinfo.comp_info[2].v_samp_factor : 0, cinfo.restart_interval,
             cinfo.num_scans ? cinfo.num_scans : 1);

    jpeg_start_compress(&cinfo, TRUE);
    size_t stride = (size_t)width * (size_t)channels;
    uint8_t *pixels = malloc(stride * (size_t)height);
    if (!pixels)
        abort();
    fill(pixels, stride * (size_t)height, (int)stride);
    while (cinfo.next_scanline < cinfo.image_height) {
        JSAMPROW row = pixels + stride * cinfo.next_scanline;
        jpeg_write_scanlines(&cinfo, &row, 1);
    }
    free(pixels);
    jpeg_finish_compress(&cinfo);
    jpeg_destroy_compress(&cinfo);
    return data;
}

/* ---- the program ----------------------------------------------------------- */

static void write_seed(const char *folder, int number, const uint8_t *data, size_t nbytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/seed-%d.jpg", folder, number);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, nbytes, f) != nbytes || fclose(f) != 0) {
        perror(path);
        exit(2);
    }
}

static bool check_random(const char *folder, int number)
{
    unsigned long nbytes;
    bool gentle;
    char what[200];
    uint64_t start = seed;
    unsigned char *data = random_jpeg(&nbytes, &gentle, what, sizeof what);
    bool ok = check_jpeg(data, nbytes, gentle, what);
    if (folder)
        write_seed(folder, number, data, nbytes);

    /* damaged copies: the decoder may refuse them, and must where libjpeg warns */
    for (int i = 0; ok && i < 8; i++) {
        uint8_t *copy = malloc(nbytes); /* of exactly this size, for ASan */
        size_t n = rnd(4) ? nbytes : rnd((uint32_t)nbytes);
        if (!copy)
            abort();
        memcpy(copy, data, nbytes);
        for (uint32_t j = rnd(4); j > 0; j--)
            copy[rnd((uint32_t)nbytes)] = rnd(3) ? (uint8_t)rnd(256) : 0xFF;
        uint8_t *exact = realloc(copy, n ? n : 1);
        ok = check_jpeg(exact ? exact : copy, n, false, what);
        free(exact ? exact : copy);
    }
    if (!ok)
        fprintf(stderr, "(seed %llu)\n", (unsigned long long)start);
    free(data);
    return ok;
}

static uint8_t *read_file(const char *path, size_t *nbytes)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = NULL;
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        perror(path);
        exit(2);
    }
    *nbytes = (size_t)ftell(f);
    rewind(f);
    data = malloc(*nbytes + 1);
    if (!data || fread(data, 1, *nbytes, f) != *nbytes) {
        perror(path);
        exit(2);
    }
    fclose(f);
    return data;
}

int main(int argc, char **argv)
{
    int cases = 1000, failed = 0, option;
    const char *folder = NULL;

    while ((option = getopt(argc, argv, "n:s:w:")) != -1) {
        if (option == 'n')
            cases = atoi(optarg);
        else if (option == 's')
            seed = strtoull(optarg, NULL, 10);
        else if (option == 'w')
            folder = optarg;
        else
            return 2;
    }
    for (int i = optind; i < argc; i++) {
        size_t nbytes;
        uint8_t *data = read_file(argv[i], &nbytes);
        failed += !check_jpeg(data, nbytes, false, argv[i]);
        free(data);
    }
    if (optind == argc)
        for (int i = 0; i < cases; i++)
            failed += !check_random(folder, i);
    printf("%d windows equal, %d refused, %d pictures failed\n", decoded, refused, failed);
    return failed != 0;
}
