/* ledger_list.c - meshroot ledger list: which leaves were issued, newest first. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "cmd/commands.h"
#include "cmd/ledger_tool.h"

struct list_conf {
    const char *state_dir, *issuer, *identity, *since, *output;
    uint64_t limit;
    bool live;
};

#define AT(member) offsetof(struct list_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    OPT_STATE_DIR(struct list_conf, state_dir),
    { "issuer", OPT_STRING, AT(issuer), NULL, NULL, NULL, 0, "TEXT",
      "signed by, or under, an issuer with this in its subject, or whose id starts so" },
    { "identity", OPT_STRING, AT(identity), NULL, NULL, NULL, 0, "ID", "of this SPIFFE id; a * at the end: all that start so" },
    { "live", OPT_FLAG, AT(live), NULL, NULL, NULL, 0, NULL, "in use: not expired, and not replaced as far as its holder has said" },
    { "since", OPT_STRING, AT(since), NULL, NULL, NULL, 0, "TIME", "issued since 2026-11-23T21:12:40Z, 2026-11-23, or 2h ago" },
    { "limit", OPT_COUNT, AT(limit), "50", "0", "1000000000", 0, "N", "at most so many rows; 0 for all" },
    { "output", OPT_CHOICE, AT(output), "table", "table|json|csv", NULL, 0, "FORMAT", "how to print the answer" },
    { .name = NULL },
};
/* clang-format on */
#undef AT

enum { SERIAL_SHOWN = 34 };

struct printing {
    bool as_json, as_csv;
    size_t n;
};

static int
row_print(const struct ledger_found *f, void *arg, struct err *e)
{
    struct printing *p = arg;
    const struct ledger_row *row = f->row;
    char serial[2 * SERIAL_MAX_BYTES + 1], issued[RFC3339_BYTES], end[RFC3339_BYTES],
        signer[DIGEST_TEXT_BYTES];
    json_t *j = NULL;

    p->n++;
    if (p->as_csv)
        return csv_row(f, true, e);
    if (p->as_json) {
        TRY(row_json(f, true, &j, e));
        (void)fputs(p->n == 1 ? "[\n" : ",\n", stdout);
        (void)json_dumpf(j, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
        json_decref(j);
        return ferror(stdout) == 0 ? 0 : stdout_check(e);
    }
    if (p->n == 1)
        printf("%-8s %-*s %-20s %-20s %-8s %-12s %s\n", "ROW", SERIAL_SHOWN, "SERIAL", "ISSUED",
               "EXPIRES", "STATE", "SIGNER", "IDENTITY");
    hex_text(span_of(row->serial, row->serial_n), serial);
    hex_text(span_of(row->signer_id, DIGEST_BYTES), signer);
    rfc3339_s(row->issued, issued);
    rfc3339_s(row->not_after, end);
    printf("%-8" PRIu64 " %-*s %-20s %-20s %-8s %-12.12s ", row->seq, SERIAL_SHOWN, serial, issued,
           end, leaf_state_name(f->state), signer);
    print_text(row->identity, 0);
    printf("\n");
    return ferror(stdout) == 0 ? 0 : stdout_check(e);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct list_conf *c = conf;
    struct printing p = { .as_json = strcmp(c->output, "json") == 0,
                          .as_csv = strcmp(c->output, "csv") == 0 };
    struct ledger_query q = { .issuer = c->issuer,
                              .identity = c->identity,
                              .live = c->live,
                              .limit = c->limit,
                              .since = INT64_MIN };
    CLEANUP(store_closep) struct store *s = NULL;

    (void)args;
    if (c->since != NULL)
        TRY(since_parse(c->since, &q.since, e));
    TRY(ledger_store(c->state_dir, &s, e));
    if (p.as_csv)
        TRY(csv_head(true, e));
    TRY(ledger_find(s, &q, row_print, &p, e));
    if (p.as_json)
        (void)fputs(p.n == 0 ? "[]\n" : "\n]\n", stdout);
    return stdout_check(e);
}

const struct command cmd_ledger_list = {
    "ledger list",
    "",
    0,
    0,
    opts,
    sizeof(struct list_conf),
    run,
    "which leaves were issued, to whom, under which issuer",
    "Lists rows of the ledger, newest first; every leaf that ever left the CA has one. Works "
    "while\n"
    "meshroot up (or ca serve) runs, and when it does not. All filters must hold. An issuer is\n"
    "named by a part of its subject, or by the first digits of its id (mesh status and pki "
    "inspect\n"
    "print ids); the signer or the root may match.\n"
    "\n"
    "Examples:\n"
    "  meshroot ledger list --live --issuer 'Intermediate CA - A1'\n"
    "  meshroot ledger list --identity 'spiffe://cluster.local/ns/shop/*' --since 2h\n"
    "  meshroot ledger list --limit 0 --output csv > leaves.csv\n",
};
