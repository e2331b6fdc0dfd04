/* CPU levels by name, and which of them this CPU runs. See levels.h. */
#include "levels.h"

#include <stddef.h>
#include <string.h>

static const char *const names[] = {
#define NAME(constant, name, ...) [ZF_LEVEL_##constant] = name,
    ZF_LEVELS(NAME)
#undef NAME
};
_Static_assert(sizeof names / sizeof *names == ZF_LEVEL_COUNT, "each level has a name");

const char *zf_level_name(zf_level level) { return names[level]; }

bool zf_level_runs_here(zf_level level)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
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
