/*
 * A plugin of qemu-user that counts the instructions that each function of a program
 * executes. Writes a line for each translated block to qemu's log: the count, and the
 * symbol of the block, or ? where it has none. Built and run by aarch64.py.
 *
 * The declarations are those of QEMU's documented plugin interface, so that building
 * needs no header of QEMU.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id,
                                           void (*cb)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
                                          void (*cb)(unsigned vcpu, void *data),
                                          enum qemu_plugin_cb_flags flags, void *data);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*cb)(plugin_id, void *data),
                                    void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *insn);
void qemu_plugin_outs(const char *text);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = PLUGIN_VERSION;

typedef struct block {
    struct block *next;
    const char *symbol;
    uint64_t instructions, executed;
} block;

static block *blocks;

static void execute(unsigned vcpu, void *data)
{
    (void)vcpu;
    ((block *)data)->executed++;
}

static void translate(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    block *b = malloc(sizeof *b);
    if (!b)
        abort();
    *b = (block){blocks, qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(tb, 0)),
                 qemu_plugin_tb_n_insns(tb), 0};
    blocks = b;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, execute, QEMU_PLUGIN_CB_NO_REGS, b);
}

static void report(plugin_id id, void *data)
{
    char line[300];
    (void)id;
    (void)data;
    for (const block *b = blocks; b; b = b->next) {
        snprintf(line, sizeof line, "%" PRIu64 " %s\n", b->instructions * b->executed,
                 b->symbol ? b->symbol : "?");
        qemu_plugin_outs(line);
    }
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    (void)argc;
    (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    qemu_plugin_register_atexit_cb(id, report, NULL);
    return 0;
}
