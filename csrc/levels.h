/*
 * CPU levels: the sets of CPU features that kernels are written for.
 *
 * ZF_LEVELS is the only list of levels. To add a level, write a file of
 * kernels and add a line to the list.
 */
#ifndef ZF_LEVELS_H
#define ZF_LEVELS_H

#include <stdbool.h>
#include <stdint.h>

/* Each line, slowest level first: the level's constant, its name, the test
 * whether this CPU runs it, and the tables of kernels that it uses for images
 * (zf_kernels_*), for JPEG (zf_jpeg_kernels_*) and for logits
 * (zf_logits_kernels_*). A level may use another level's table. */
#if defined(__x86_64__)
#define ZF_LEVELS(LEVEL)                                                               \
    LEVEL(SCALAR, "scalar", true, scalar, scalar, scalar)                              \
    LEVEL(SSSE3, "ssse3", ZF_CPU_HAS(SSSE3), ssse3, ssse3, scalar)                      \
    LEVEL(AVX2, "avx2", ZF_CPU_HAS_AVX2, avx2, avx2, avx2)                             \
    LEVEL(AVX512, "avx512", ZF_CPU_HAS_AVX512, avx512, avx512, avx2)
#elif defined(__aarch64__) /* every aarch64 CPU has NEON */
#define ZF_LEVELS(LEVEL)                                                               \
    LEVEL(SCALAR, "scalar", true, scalar, scalar, scalar)                              \
    LEVEL(NEON, "neon", true, neon, neon, scalar)
#else
#define ZF_LEVELS(LEVEL) LEVEL(SCALAR, "scalar", true, scalar, scalar, scalar)
#endif

#if defined(__x86_64__)
/* What kernels need of an x86 CPU: a name; the leaf, register and bit of CPUID
 * that tell of it; and the bits of XCR0, which the system sets for the registers
 * that it saves. The compiler's __builtin_cpu_supports would need a run-time
 * library, which that of Zig has only as a stub that answers no. */
#define ZF_CPU_FEATURES(FEATURE)                                                       \
    FEATURE(SSSE3, 1, ecx, 9, 0)                                                       \
    FEATURE(POPCNT, 1, ecx, 23, 0)                                                     \
    FEATURE(BMI, 7, ebx, 3, 0)                                                         \
    FEATURE(AVX2, 7, ebx, 5, 0x6)                                                      \
    FEATURE(BMI2, 7, ebx, 8, 0)                                                        \
    FEATURE(AVX512F, 7, ebx, 16, 0xE6)                                                 \
    FEATURE(AVX512DQ, 7, ebx, 17, 0xE6)                                                \
    FEATURE(AVX512BW, 7, ebx, 30, 0xE6)                                                \
    FEATURE(AVX512VL, 7, ebx, 31, 0xE6)                                                \
    FEATURE(AVX512VBMI, 7, ecx, 1, 0xE6)                                               \
    FEATURE(AVX512VBMI2, 7, ecx, 6, 0xE6)                                              \
    FEATURE(VPCLMULQDQ, 7, ecx, 10, 0x6)                                               \
    FEATURE(AVX512VNNI, 7, ecx, 11, 0xE6)

enum {
#define ZF_CONSTANT(name, ...) ZF_CPU_##name,
    ZF_CPU_FEATURES(ZF_CONSTANT)
#undef ZF_CONSTANT
    ZF_CPU_INTEL /* the CPU's maker */
};

/* Bit ZF_CPU_*: whether this CPU has the feature. Set before main(). */
extern uint32_t zf_cpu_features;

#define ZF_CPU_HAS(name) ((zf_cpu_features >> ZF_CPU_##name & 1) != 0)
#define ZF_CPU_HAS_AVX2 (ZF_CPU_HAS(AVX2) && ZF_CPU_HAS(BMI) && ZF_CPU_HAS(BMI2))
#define ZF_CPU_HAS_AVX512                                                              \
    (ZF_CPU_HAS_AVX2 && ZF_CPU_HAS(AVX512F) && ZF_CPU_HAS(AVX512BW) &&                 \
     ZF_CPU_HAS(AVX512VL) && ZF_CPU_HAS(AVX512DQ) && ZF_CPU_HAS(AVX512VBMI) &&         \
     ZF_CPU_HAS(AVX512VBMI2) && ZF_CPU_HAS(AVX512VNNI) && ZF_CPU_HAS(POPCNT))
#endif

typedef enum zf_level {
#define ZF_CONSTANT(constant, ...) ZF_LEVEL_##constant,
    ZF_LEVELS(ZF_CONSTANT)
#undef ZF_CONSTANT
    ZF_LEVEL_COUNT
} zf_level;

#ifdef __cplusplus
extern "C" {
#endif
#ifdef ZF_EXPORT /* the C library's symbols; Python's modules have none */
#pragma GCC visibility push(default)
#endif

const char *zf_level_name(zf_level level);
/* Whether this CPU has the features of the level. */
bool zf_level_runs_here(zf_level level);
/* The fastest level that this CPU runs. */
zf_level zf_level_best(void);
/* The level of that name; ZF_LEVEL_COUNT when there is none. */
zf_level zf_level_named(const char *name);

#ifdef ZF_EXPORT
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif
