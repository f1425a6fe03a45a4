/* ledger_verify.c - meshroot ledger verify: was a row edited, removed or moved, and which. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cmd/commands.h"
#include "cmd/ledger_tool.h"

struct verify_conf {
    const char *state_dir, *mark, *output;
};

static const struct opt opts[] = {
    OPT_STATE_DIR(struct verify_conf, state_dir),
    { "mark", OPT_STRING, offsetof(struct verify_conf, mark), NULL, NULL, NULL, 0, "ROW:HASH",
      "a row that must be there, as an earlier verify printed it" },
    OPT_OUTPUT(struct verify_conf, output),
    { .name = NULL },
};

static int
mark_parse(const char *text, struct ledger_mark *ret, struct err *e)
{
    struct span rest = span_str(text), head;

    *ret = (struct ledger_mark){ .seq = 0 };
    if (!span_cut(&rest, ':', &head) || u64_parse(head, 1, UINT64_MAX, &ret->seq, e) < 0 ||
        hex_parse(rest, ret->hash, DIGEST_BYTES, e) < 0)
        return err_set(e, E_INVAL, "\"%.100s\" is no mark: want ROW:HASH, with %d hex digits", text,
                       2 * DIGEST_BYTES);
    return 0;
}

static int
print_good(const struct ledger_mark *m, const struct ledger_mark *removed, bool as_json,
           struct err *e)
{
    char hex[DIGEST_TEXT_BYTES];

    hex_text(span_of(m->hash, DIGEST_BYTES), hex);
    if (as_json)
        return print_json(json_pack("{s:b, s:I, s:I, s:s, s:I, s:I}", "ok", 1, "rows",
                                    (json_int_t)m->rows, "seq", (json_int_t)m->seq, "hash", hex,
                                    "removed_rows", (json_int_t)removed->rows, "removed_seq",
                                    (json_int_t)removed->seq),
                          e);
    printf("ok: %" PRIu64 " rows, none edited, removed or moved\n", m->rows);
    if (removed->rows > 0)
        printf("the first %" PRIu64 " of them, up to row %" PRIu64 ", were removed by "
               "--ledger-retention; the rest follows the last of them\n",
               removed->rows, removed->seq);
    if (m->rows > 0)
        printf("mark: %" PRIu64 ":%s\n", m->seq, hex);
    return stdout_check(e);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct verify_conf *c = conf;
    CLEANUP(store_closep) struct store *s = NULL;
    bool as_json = strcmp(c->output, "json") == 0;
    struct ledger_mark mark, newest, removed;

    (void)args;
    if (c->mark != NULL)
        TRY(mark_parse(c->mark, &mark, e));
    TRY(ledger_store(c->state_dir, &s, e));
    TRY(store_hold_snapshot(s, e));
    int r = ledger_check(s, c->mark != NULL ? &mark : NULL, &newest, &removed, e);
    if (r < 0 && e->code != E_DENIED)
        return r;
    if (r == 0)
        return print_good(&newest, &removed, as_json, e);
    if (as_json)
        TRY(print_json(json_pack("{s:b, s:s}", "ok", 0, "reason", e->msg), e));
    else
        printf("FAILED: %s\n", e->msg);
    TRY(stdout_check(e));
    return CMD_FAILED;
}

const struct command cmd_ledger_verify = {
    "ledger verify",
    "",
    0,
    0,
    opts,
    sizeof(struct verify_conf),
    run,
    "find any edited, removed or moved row",
    "Walks the whole chain in one snapshot, beside a running daemon too, and says which row is "
    "the\n"
    "first that is wrong, and how (exit 1). When all is well it prints a mark, the newest row and\n"
    "its hash: kept elsewhere and given back with --mark it proves that nothing up to there was\n"
    "written anew, not even by somebody who can write the whole database (docs/ledger.md).\n"
    "\n"
    "Examples:\n"
    "  meshroot ledger verify\n"
    "  meshroot ledger verify --mark "
    "4711:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0"
    "f00a08\n",
};
