/* ledger_show.c - meshroot ledger show: all that is known of one leaf. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "cmd/commands.h"
#include "cmd/ledger_tool.h"
#include "net/json.h"

struct show_conf {
    const char *state_dir, *output;
};

static const struct opt opts[] = {
    OPT_STATE_DIR(struct show_conf, state_dir),
    OPT_OUTPUT(struct show_conf, output),
    { .name = NULL },
};

struct showing {
    struct store *store;
    bool as_json;
    size_t n;
};

static int
issuer_subject(struct store *s, const uint8_t id[DIGEST_BYTES], char ret[NAME_TEXT_BYTES],
               struct err *e)
{
    CLEANUP(cert_unrefp) struct cert *c = NULL;

    (void)snprintf(ret, NAME_TEXT_BYTES, "(not kept)");
    if (TRY(ledger_issuer(s, id, &c, e)) != STORE_ABSENT)
        cert_subject_text(c, ret);
    return 0;
}

static void
line(const char *name, const char *text)
{
    printf("%-12s ", name);
    print_text(text[0] == '\0' ? "-" : text, 0);
    printf("\n");
}

static void
digest_line(const char *name, const uint8_t id[DIGEST_BYTES])
{
    char hex[DIGEST_TEXT_BYTES];

    hex_text(span_of(id, DIGEST_BYTES), hex);
    printf("%-12s %s\n", name, hex);
}

static void
time_line(const char *name, int64_t t)
{
    char text[RFC3339_BYTES];

    rfc3339_s(t, text);
    printf("%-12s %s\n", name, text);
}

static void
row_text(const struct ledger_found *f, const char *signer, const char *root)
{
    const struct ledger_row *row = f->row;
    char serial[2 * SERIAL_MAX_BYTES + 1], key_id[2 * LEDGER_KEY_ID_BYTES + 1];

    hex_text(span_of(row->key_id, row->key_id_n), key_id);
    hex_text(span_of(row->serial, row->serial_n), serial);
    printf("%-12s %" PRIu64 "\n", "Row", row->seq);
    line("Serial", serial);
    line("Identity", row->identity);
    line("Instance", row->instance);
    line("State", leaf_state_name(f->state));
    time_line("Issued", row->issued);
    time_line("Not before", row->not_before);
    time_line("Not after", row->not_after);
    line("Signer", signer);
    digest_line("", row->signer_id);
    line("Signer key", key_id);
    line("Root", root);
    digest_line("", row->root_id);
    printf("%-12s %" PRIu64 "\n", "Generation", row->generation);
    line("Caller", row->auth);
    digest_line("Row before", f->prev);
    digest_line("Hash", f->hash);
}

static int
row_show(const struct ledger_found *f, void *arg, struct err *e)
{
    struct showing *s = arg;
    char signer[NAME_TEXT_BYTES], root[NAME_TEXT_BYTES];
    json_t *j = NULL;

    TRY(issuer_subject(s->store, f->row->signer_id, signer, e));
    TRY(issuer_subject(s->store, f->row->root_id, root, e));
    s->n++;
    if (!s->as_json) {
        row_text(f, signer, root);
        return 0;
    }
    TRY(row_json(f, true, &j, e));
    j = json_object_with(j, "signer_subject", json_string(signer));
    j = json_object_with(j, "root_subject", json_string(root));
    return print_json(j, e);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct show_conf *c = conf;
    uint8_t serial[SERIAL_MAX_BYTES];
    struct ledger_query q = { .since = INT64_MIN, .limit = 1 };
    struct showing s = { .as_json = strcmp(c->output, "json") == 0 };
    CLEANUP(store_closep) struct store *store = NULL;
    struct ledger_mark removed;

    TRY(serial_parse(args->v[0], serial, &q.serial.n, e));
    q.serial.p = serial;
    TRY(ledger_store(c->state_dir, &store, e));
    s.store = store;
    TRY(ledger_find(store, &q, row_show, &s, e));
    TRY(ledger_removed(store, &removed, e));
    if (s.n == 0 && removed.rows > 0)
        return err_set(e, E_NOTFOUND,
                       "no leaf with serial number %.80s is in the ledger; rows up to %" PRIu64
                       " were removed by --ledger-retention",
                       args->v[0], removed.seq);
    if (s.n == 0)
        return err_set(e, E_NOTFOUND, "no leaf with serial number %.80s was issued here",
                       args->v[0]);
    return stdout_check(e);
}

const struct command cmd_ledger_show = {
    "ledger show",
    "SERIAL",
    1,
    1,
    opts,
    sizeof(struct show_conf),
    run,
    "all that is known of one leaf",
    "Shows the ledger's row of the leaf with this serial number (hex, as openssl x509 -serial or\n"
    "-text prints it): for whom, when, under which issuer and generation, how its caller was "
    "known,\n"
    "whether it may still be in use, and its place in the chain.\n"
    "\n"
    "Examples:\n"
    "  meshroot ledger show 7d5b2f0c9a\n"
    "  meshroot ledger show 7D:5B:2F:0C:9A --output json\n",
};
