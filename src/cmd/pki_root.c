/* pki_root.c - meshroot pki root: makes a root, offline. */
#include <stdio.h>
#include <stdlib.h>

#include "cmd/commands.h"
#include "cmd/pki_tool.h"
#include "pki/bundle.h"
#include "pki/issue.h"

struct root_conf {
    const char *out, *subject, *key_type, *path_len, *output;
    uint64_t days;
    bool force;
};

static const struct opt opts[] = {
    { "out", OPT_STRING, offsetof(struct root_conf, out), NULL, NULL, NULL, OPT_REQUIRED, "DIR",
      "folder for root-cert.pem and root-key.pem; made if need be" },
    { "subject", OPT_STRING, offsetof(struct root_conf, subject), "O=Istio,CN=Root CA", NULL, NULL,
      0, "NAME", "name of the root; attributes in the order given, '\\,' for a comma" },
    { "key-type", OPT_CHOICE, offsetof(struct root_conf, key_type), "p256", KEY_TYPES, NULL, 0,
      "TYPE", "kind of key" },
    { "days", OPT_COUNT, offsetof(struct root_conf, days), "3650", "1", "36500", 0, "DAYS",
      "how long the root is valid" },
    { "path-len", OPT_CHOICE, offsetof(struct root_conf, path_len), "none", "none|1|2|3|4|5|6",
      NULL, 0, "N", "how many intermediates may stand in a row below it" },
    { "force", OPT_FLAG, offsetof(struct root_conf, force), NULL, NULL, NULL, 0, NULL,
      "replace files that exist, the key too" },
    OPT_OUTPUT(struct root_conf, output),
    { .name = NULL },
};

static int
answer(const struct root_conf *c, const struct cert *root, struct err *e)
{
    if (c->output[0] == 'j')
        return print_json(json_pack("{s:s, s:o}", "dir", c->out, "root", cert_json(root)), e);
    printf("%s/%s\n", c->out, bundle_file_names[PART_ROOT_CERT]);
    cert_print(root, 2);
    printf("%s/%s\n  private key, mode 0600: keep it offline\n", c->out, ROOT_KEY_FILE);
    return 0;
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct root_conf *c = conf;
    struct ca_request q = { .subject = c->subject, .days = c->days, .path_len = -1 };
    CLEANUP(key_unrefp) struct key *k = NULL;
    CLEANUP(cert_unrefp) struct cert *root = NULL;
    CLEANUP(out_done) struct out files = OUT_INIT;
    enum key_kind kind;

    (void)args;
    if (c->path_len[0] != 'n')
        q.path_len = c->path_len[0] - '0';
    TRY(key_kind_parse(c->key_type, &kind, e));
    TRY(key_make(kind, &k, e));
    TRY(root_make(&q, k, &root, e));
    TRY(key_to_pem(k, out_add(&files, ROOT_KEY_FILE, 0600), e));
    TRY(cert_to_pem(root, out_add(&files, bundle_file_names[PART_ROOT_CERT], 0644), e));
    TRY(out_write(&files, c->out, c->force, e));
    return answer(c, root, e);
}

const struct command cmd_pki_root = {
    "pki root",
    "",
    0,
    0,
    opts,
    sizeof(struct root_conf),
    run,
    "make a root: certificate and key, offline",
    "Makes a self-signed root and its key: root-cert.pem and root-key.pem (mode 0600).\n"
    "Nothing is replaced without --force. No network is used.\n"
    "\n"
    "Examples:\n"
    "  meshroot pki root --out root-a --subject 'O=Istio,CN=Root A'\n"
    "  meshroot pki root --out root-b --subject 'O=Example\\, Inc.,CN=Root B' --key-type rsa4096 "
    "--days 7300\n",
};
