/* CPU levels by name, and which of them this CPU runs. See levels.h. */
#include "levels.h"

#include <stddef.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const names[] = {
#define NAME(constant, name, ...) [ZF_LEVEL_##constant] = name,
    ZF_LEVELS(NAME)
#undef NAME
};
_Static_assert(sizeof names / sizeof *names == ZF_LEVEL_COUNT, "each level has a name");

const char *zf_level_name(zf_level level) { return names[level]; }

#if defined(__x86_64__)
uint32_t zf_cpu_features;

__attribute__((constructor)) static void find_features(void)
{
    enum { OSXSAVE = 1 << 27 };
    struct {
        uint32_t eax, ebx, ecx, edx;
    } leaf[8] = {{0}};
    uint32_t saved = 0, high;
    const int leaves[] = {0, 1, 7};
    for (int i = 0; i < 3; i++) { /* leaves that this CPU lacks stay 0 */
        int n = leaves[i];
        __get_cpuid_count(n, 0, &leaf[n].eax, &leaf[n].ebx, &leaf[n].ecx, &leaf[n].edx);
    }
    if (leaf[1].ecx & OSXSAVE)
        __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
#define FIND(name, number, reg, bit, needed)                                           \
    if ((leaf[number].reg >> (bit)&1) && (saved & (needed)) == (needed))               \
        zf_cpu_features |= UINT32_C(1) << ZF_CPU_##name;
    ZF_CPU_FEATURES(FIND)
#undef FIND
    if (leaf[0].ebx == signature_INTEL_ebx && leaf[0].ecx == signature_INTEL_ecx &&
        leaf[0].edx == signature_INTEL_edx)
        zf_cpu_features |= UINT32_C(1) << ZF_CPU_INTEL;
}
#endif

bool zf_level_runs_here(zf_level level)
{
    switch (level) {
#define TEST(constant, name, runs_here, ...)                                           \
    case ZF_LEVEL_##constant:                                                          \
        return runs_here;
        ZF_LEVELS(TEST)
#undef TEST
    default:
        return false;
    }
}

zf_level zf_level_best(void)
{
    zf_level level = ZF_LEVEL_COUNT - 1;
    while (!zf_level_runs_here(level))
        level--; /* every CPU runs the first level */
    return level;
}

zf_level zf_level_named(const char *name)
{
    zf_level level = 0;
    while (level < ZF_LEVEL_COUNT && strcmp(names[level], name) != 0)
        level++;
    return level;
}
