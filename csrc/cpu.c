/* Which kernels this CPU can run: the only file that asks it. */
#include "zf_internal.h"

#include <string.h>

static const zf_kernels *const levels[] = {
    &zf_kernels_scalar,
#if defined(__x86_64__)
    &zf_kernels_avx2,
    &zf_kernels_avx512,
#elif defined(__aarch64__)
    &zf_kernels_neon,
#endif
};
#define NLEVELS (sizeof levels / sizeof *levels)

static bool runs_here(const zf_kernels *kernels)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (kernels == &zf_kernels_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
    if (kernels == &zf_kernels_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
               __builtin_cpu_supports("avx512vnni") &&
               __builtin_cpu_supports("bmi2");
#endif
#if defined(__aarch64__)
    if (kernels == &zf_kernels_neon)
        return true;
#endif
    return kernels == &zf_kernels_scalar;
}

const zf_kernels *zf_kernels_named(const char *isa)
{
    for (size_t i = 0; i < NLEVELS; i++)
        if (strcmp(levels[i]->name, isa) == 0)
            return runs_here(levels[i]) ? levels[i] : NULL;
    return NULL;
}

const zf_kernels *zf_kernels_best(void)
{
    size_t i = NLEVELS - 1;
    while (!runs_here(levels[i]))
        i--;
    return levels[i];
}

const char *zf_kernels_name(const zf_kernels *kernels) { return kernels->name; }

const char *const *zf_kernels_all(void)
{
    static const char *const names[] = {
        "scalar",
#if defined(__x86_64__)
        "avx2", "avx512",
#elif defined(__aarch64__)
        "neon",
#endif
        NULL,
    };
    return names;
}
