/* ledger_export.c - meshroot ledger export: all rows with their hashes, for a third party. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cmd/commands.h"
#include "cmd/ledger_tool.h"

struct export_conf {
    const char *state_dir, *output;
};

static const struct opt opts[] = {
    OPT_STATE_DIR(struct export_conf, state_dir),
    { "output", OPT_CHOICE, offsetof(struct export_conf, output), "json", "json|csv", NULL, 0,
      "FORMAT", "one JSON object a line, or RFC 4180 with a head line" },
    { .name = NULL },
};

static int
row_export(const struct ledger_found *f, void *arg, struct err *e)
{
    json_t *j = NULL;

    if (*(const bool *)arg)
        return csv_row(f, false, e);
    TRY(row_json(f, false, &j, e));
    (void)json_dumpf(j, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
    (void)putchar('\n');
    json_decref(j);
    return ferror(stdout) == 0 ? 0 : stdout_check(e);
}

/* What the first row follows: rows that retention removed. */
static void
removed_print(const struct ledger_mark *m)
{
    char hex[DIGEST_TEXT_BYTES];

    hex_text(span_of(m->hash, DIGEST_BYTES), hex);
    printf("{\"removed\":{\"rows\":%" PRIu64 ",\"seq\":%" PRIu64 ",\"hash\":\"%s\"}}\n", m->rows,
           m->seq, hex);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct export_conf *c = conf;
    struct ledger_query q = { .since = INT64_MIN, .oldest_first = true };
    CLEANUP(store_closep) struct store *s = NULL;
    struct ledger_mark removed;
    bool as_csv = strcmp(c->output, "csv") == 0;

    (void)args;
    TRY(ledger_store(c->state_dir, &s, e));
    TRY(store_hold_snapshot(s, e)); /* retention takes no row from under it */
    TRY(ledger_removed(s, &removed, e));
    if (as_csv)
        TRY(csv_head(false, e));
    else if (removed.rows > 0)
        removed_print(&removed);
    TRY(ledger_find(s, &q, row_export, &as_csv, e));
    return stdout_check(e);
}

const struct command cmd_ledger_export = {
    "ledger export",
    "",
    0,
    0,
    opts,
    sizeof(struct export_conf),
    run,
    "all rows with their hashes, for a third party to check",
    "Prints every row up to the newest, oldest first, with the fields that its hash is made of\n"
    "(docs/ledger.md says how, with a program that checks it). Ends with an error at a row that "
    "was\n"
    "edited.\n"
    "\n"
    "Examples:\n"
    "  meshroot ledger export > ledger.jsonl\n"
    "  meshroot ledger export --output csv | gzip > ledger.csv.gz\n",
};
