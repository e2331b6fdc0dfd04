/*
 * CPU levels: the sets of CPU features that kernels are written for.
 *
 * ZF_LEVELS is the only list of levels. To add a level, write a file of
 * kernels and add a line to the list.
 */
#ifndef ZF_LEVELS_H
#define ZF_LEVELS_H

#include <stdbool.h>

/* Each line, slowest level first: the level's constant, its name, the test
 * whether this CPU runs it, and the tables of kernels that it uses for images
 * (zf_kernels_*), for JPEG (zf_jpeg_kernels_*) and for logits
 * (zf_logits_kernels_*). A level may use another level's table. */
#if defined(__x86_64__)
#define ZF_LEVELS(LEVEL)                                                               \
    LEVEL(SCALAR, "scalar", true, scalar, scalar, scalar)                              \
    LEVEL(SSSE3, "ssse3", ZF_CPU_HAS("ssse3"), ssse3, ssse3, scalar)                    \
    LEVEL(AVX2, "avx2", ZF_CPU_HAS_AVX2, avx2, avx2, avx2)                             \
    LEVEL(AVX512, "avx512", ZF_CPU_HAS_AVX512, avx512, avx512, avx2)
#elif defined(__aarch64__) /* every aarch64 CPU has NEON */
#define ZF_LEVELS(LEVEL)                                                               \
    LEVEL(SCALAR, "scalar", true, scalar, scalar, scalar)                              \
    LEVEL(NEON, "neon", true, neon, neon, scalar)
#else
#define ZF_LEVELS(LEVEL) LEVEL(SCALAR, "scalar", true, scalar, scalar, scalar)
#endif

#define ZF_CPU_HAS(feature) __builtin_cpu_supports(feature)
#define ZF_CPU_HAS_AVX2 (ZF_CPU_HAS("avx2") && ZF_CPU_HAS("bmi") && ZF_CPU_HAS("bmi2"))
#define ZF_CPU_HAS_AVX512                                                              \
    (ZF_CPU_HAS_AVX2 && ZF_CPU_HAS("avx512f") && ZF_CPU_HAS("avx512bw") &&             \
     ZF_CPU_HAS("avx512vl") && ZF_CPU_HAS("avx512dq") && ZF_CPU_HAS("avx512vbmi") &&   \
     ZF_CPU_HAS("avx512vbmi2") && ZF_CPU_HAS("avx512vnni") && ZF_CPU_HAS("popcnt"))

typedef enum zf_level {
#define ZF_CONSTANT(constant, ...) ZF_LEVEL_##constant,
    ZF_LEVELS(ZF_CONSTANT)
#undef ZF_CONSTANT
    ZF_LEVEL_COUNT
} zf_level;

const char *zf_level_name(zf_level level);
/* Whether this CPU has the features of the level. */
bool zf_level_runs_here(zf_level level);
/* The fastest level that this CPU runs. */
zf_level zf_level_best(void);
/* The level of that name; ZF_LEVEL_COUNT when there is none. */
zf_level zf_level_named(const char *name);

#endif
