/* ca_revoked.c - meshroot ca revoked: which leaves are revoked, and the state of the lists. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cmd/admin_client.h"
#include "cmd/commands.h"
#include "cmd/ledger_tool.h"

struct revoked_conf {
    const char *state_dir, *output;
};

static const struct opt opts[] = {
    OPT_STATE_DIR(struct revoked_conf, state_dir),
    OPT_OUTPUT(struct revoked_conf, output),
    { .name = NULL },
};

static void
answer_print(const json_t *answer)
{
    const json_t *x;
    size_t i;

    json_array_foreach(json_object_get(answer, "revoked"), i, x) {
        if (i == 0)
            printf("%-32s %-20s %-20s %-20s %s\n", "SERIAL", "REVOKED", "EXPIRES", "REASON",
                   "IDENTITY");
        printf("%-32s %-20s %-20s %-20s ", shown_text(x, "serial"), shown_text(x, "revoked"),
               shown_text(x, "not_after"), shown_text(x, "reason"));
        print_text(shown_text(x, "identity"), 0);
        printf("\n");
    }
    if (i == 0)
        printf("no leaf is revoked\n");
    json_array_foreach(json_object_get(answer, "identities"), i, x) {
        printf("every leaf of ");
        print_text(shown_text(x, "identity"), 0);
        printf(" until %s (%s); the last of them ends by %s\n", shown_text(x, "revoked"),
               shown_text(x, "reason"), shown_text(x, "until"));
    }
    json_array_foreach(json_object_get(answer, "lists"), i, x) {
        printf("list of ");
        print_text(shown_text(x, "signer"), 0);
        printf(": %lld entries, good until %s%s\n", (long long)shown_number(x, "entries"),
               shown_text(x, "next_update"),
               json_is_true(json_object_get(x, "signed")) ? "" : ", not signed");
    }
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct revoked_conf *c = conf;
    CLEANUP(str_freep) char *dir = NULL;
    json_t *answer = NULL;

    (void)args;
    TRY(state_dir(c->state_dir, &dir, e));
    TRY(admin_call(dir, "GET", "/v1/ca/revoked", NULL, &answer, e));
    if (strcmp(c->output, "json") == 0)
        return print_json(answer, e);
    answer_print(answer);
    json_decref(answer);
    return stdout_check(e);
}

const struct command cmd_ca_revoked = {
    "ca revoked",
    "",
    0,
    0,
    opts,
    sizeof(struct revoked_conf),
    run,
    "which leaves are revoked and not expired",
    "Lists the revoked leaves, the identities that were revoked on all replicas, as far as this "
    "one\n"
    "has done it, and for each signer whose leaves may be alive its revocation list:\n"
    "until when it is good, and whether its issuer has signed it.\n"
    "\n"
    "Examples:\n"
    "  meshroot ca revoked\n"
    "  meshroot ca revoked --output json\n",
};
