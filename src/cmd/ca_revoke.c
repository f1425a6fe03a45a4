/* ca_revoke.c - meshroot ca revoke: a leaf, or all of an identity, is refused from now on. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cmd/admin_client.h"
#include "cmd/commands.h"
#include "cmd/ledger_tool.h"
#include "net/json.h"

struct revoke_conf {
    const char *state_dir, *serial, *identity, *reason, *output;
    bool yes;
};

#define AT(member) offsetof(struct revoke_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    { "serial", OPT_STRING, AT(serial), NULL, NULL, NULL, 0, "HEX", "of one leaf, as a tool prints it: 7D5B..., 7d:5b:..., 0x7d5b..., serial=7D5B..." },
    { "identity", OPT_STRING, AT(identity), NULL, NULL, NULL, 0, "SPIFFE-ID", "all leaves that it got until now, from any replica" },
    { "reason", OPT_CHOICE, AT(reason), "unspecified",
      "unspecified|keyCompromise|cACompromise|affiliationChanged|superseded|cessationOfOperation|privilegeWithdrawn",
      NULL, 0, "REASON", "what the list says of it (RFC 5280 5.3.1)" },
    { "yes", OPT_FLAG, AT(yes), NULL, NULL, NULL, 0, NULL, "also when it is more than 16 leaves" },
    OPT_STATE_DIR(struct revoke_conf, state_dir),
    OPT_OUTPUT(struct revoke_conf, output),
    { .name = NULL },
};
/* clang-format on */

static int
request_make(const struct revoke_conf *c, json_t **ret, struct err *e)
{
    uint8_t serial[SERIAL_MAX_BYTES];
    char hex[2 * SERIAL_MAX_BYTES + 1];
    size_t n;

    if ((c->serial == NULL) == (c->identity == NULL))
        return err_set(e, E_INVAL, "want one of --serial HEX and --identity SPIFFE-ID");
    json_t *q = json_pack("{s:s, s:b}", "reason", c->reason, "yes", c->yes);
    if (q == NULL)
        return err_nomem(e);
    if (c->identity != NULL) {
        q = json_object_with(q, "identity", json_string(c->identity));
    } else if (serial_parse(c->serial, serial, &n, e) < 0) {
        json_decref(q);
        return err_result(e);
    } else {
        hex_text(span_of(serial, n), hex);
        q = json_object_with(q, "serial", json_string(hex));
    }
    *ret = q;
    return q == NULL ? err_nomem(e) : 0;
}

/* By the answer's "carried": what becomes of an identity at the other replicas. */
static const struct {
    const char *carried, *words;
} others[] = {
    { "yes", "Done on this replica. The others are told by the operator, and do it within some "
             "seconds;\nmeshroot ca revoked on each shows when it has." },
    { "none", "Done on this replica, which has no courier (--revocation-courier): if there are "
              "others, run this\non each." },
    { "old", "Done on this replica. The operator is of a version that does not tell the others: "
             "run this on\neach, or upgrade it." },
    { "away", "Done on this replica. The operator, which tells the others, has not been here "
              "lately: they are\ntold when it has; meshroot ca revoked on each shows it." },
};

static void
answer_print(const json_t *j)
{
    const char *carried = shown_text(j, "carried");
    const json_t *list = json_array_get(json_object_get(j, "lists"), 0);
    const char *next = json_string_value(json_object_get(list, "next_update"));
    const char *trouble = json_string_value(json_object_get(j, "trouble"));

    printf("revoked: %lld, revoked before: %lld\n", (long long)shown_number(j, "revoked"),
           (long long)shown_number(j, "already"));
    if (next != NULL)
        printf("list: number %lld, good until %s\n", (long long)shown_number(list, "number"), next);
    if (json_is_false(json_object_get(list, "signed")))
        printf("The list is not signed%s%s: our CA and agents refuse these leaves, others are not "
               "told\n(docs/revocation.md).\n",
               trouble == NULL ? "" : ": ", trouble == NULL ? "" : trouble);
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        if (strcmp(carried, others[i].carried) == 0)
            printf("%s\n", others[i].words);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct revoke_conf *c = conf;
    CLEANUP(str_freep) char *dir = NULL;
    json_t *q = NULL, *answer = NULL;

    (void)args;
    TRY(request_make(c, &q, e));
    if (state_dir(c->state_dir, &dir, e) < 0) {
        json_decref(q);
        return err_result(e);
    }
    TRY(admin_call(dir, "POST", "/v1/ca/revoke", q, &answer, e));
    if (strcmp(c->output, "json") == 0)
        return print_json(answer, e);
    answer_print(answer);
    json_decref(answer);
    return stdout_check(e);
}

const struct command cmd_ca_revoke = {
    "ca revoke",
    "",
    0,
    0,
    opts,
    sizeof(struct revoke_conf),
    run,
    "refuse a leaf, or every leaf of an identity, from now on",
    "The leaf is looked up in the ledger, recorded, and put in its issuer's revocation list, "
    "which\n"
    "all agents of this CA get at once. From the answer on the CA takes it from nobody as proof "
    "of\n"
    "who calls; agents end open connections of its holder and refuse new ones. The holder may get\n"
    "another leaf with its token. What is revoked here the operator carries to the other "
    "replicas,\n"
    "within seconds: serial numbers and identities, whose leaves each of them revokes in its own\n"
    "ledger. To revoke twice does no harm.\n"
    "Works with meshroot up and ca serve. docs/revocation.md says who enforces what.\n"
    "\n"
    "Examples:\n"
    "  meshroot ca revoke --serial 7d5b2f0c9a --reason keyCompromise\n"
    "  meshroot ca revoke --identity spiffe://cluster.local/ns/shop/sa/cart --yes\n",
};
