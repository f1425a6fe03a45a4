/* pki_intermediate.c - meshroot pki intermediate: the four files of a bundle, under a root. */
#include <stdio.h>
#include <stdlib.h>

#include "cmd/commands.h"
#include "cmd/pki_tool.h"
#include "net/json.h"
#include "pki/bundle.h"
#include "pki/issue.h"

struct intermediate_conf {
    const char *root, *out, *subject, *key_type, *path_len, *output;
    uint64_t days;
    bool force;
    struct opt_list dns, also_trust;
};

static const struct opt opts[] = {
    { "root", OPT_STRING, offsetof(struct intermediate_conf, root), NULL, NULL, NULL, OPT_REQUIRED,
      "DIR", "folder with root-cert.pem and root-key.pem" },
    { "out", OPT_STRING, offsetof(struct intermediate_conf, out), NULL, NULL, NULL, OPT_REQUIRED,
      "DIR", "folder for the four files; made if need be" },
    { "subject", OPT_STRING, offsetof(struct intermediate_conf, subject),
      "O=Istio,CN=Intermediate CA", NULL, NULL, 0, "NAME",
      "name of the intermediate; attributes in the order given, '\\,' for a comma" },
    { "key-type", OPT_CHOICE, offsetof(struct intermediate_conf, key_type), "p256", KEY_TYPES, NULL,
      0, "TYPE", "kind of key" },
    { "days", OPT_COUNT, offsetof(struct intermediate_conf, days), "365", "1", "36500", 0, "DAYS",
      "how long it is valid; never past the root's end" },
    { "path-len", OPT_CHOICE, offsetof(struct intermediate_conf, path_len), "0",
      "none|0|1|2|3|4|5|6", NULL, 0, "N", "how many intermediates may stand in a row below it" },
    { "dns", OPT_LIST, offsetof(struct intermediate_conf, dns), NULL, NULL, NULL, 0, "NAME",
      "a DNS name for the intermediate itself; may be repeated" },
    { "also-trust", OPT_LIST, offsetof(struct intermediate_conf, also_trust), NULL, NULL, NULL, 0,
      "FILE", "put the roots of FILE into root-cert.pem as well; may be repeated" },
    { "force", OPT_FLAG, offsetof(struct intermediate_conf, force), NULL, NULL, NULL, 0, NULL,
      "replace files that exist, the key too" },
    OPT_OUTPUT(struct intermediate_conf, output),
    { .name = NULL },
};

struct issuer { /* the offline root */
    struct cert *cert;
    struct key *key;
};

static void
issuer_done(struct issuer *i)
{
    cert_unref(i->cert);
    key_unref(i->key);
}

/* The issuer, and what --also-trust names. */
static int
trust_set(const struct intermediate_conf *c, struct cert *root, struct roots **ret, struct err *e)
{
    CLEANUP(roots_unrefp) struct roots *all = NULL;

    TRY(roots_from_certs(&root, 1, &all, e));
    for (size_t i = 0; i < c->also_trust.n; i++) {
        CLEANUP(buf_wipe) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
        CLEANUP(roots_unrefp) struct roots *more = NULL, *both = NULL;

        TRY(read_input(NULL, c->also_trust.v[i], &pem, e));
        if (roots_from_pem(buf_span(&pem), &more, e) < 0 || roots_union(all, more, &both, e) < 0)
            return err_wrap(e, "%s", c->also_trust.v[i]);
        roots_unref(all);
        all = STEAL(both);
    }
    *ret = STEAL(all);
    return 0;
}

static int
fill(const struct issuer *by, const struct cert *made, const struct key *k,
     const struct roots *roots, struct out *files, struct err *e)
{
    struct span parts[PART__N];
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;

    for (int i = 0; i < PART__N; i++)
        (void)out_add(files, bundle_file_names[i], i == PART_CA_KEY ? 0600 : 0644);
    TRY(roots_to_pem(roots, &files->v[PART_ROOT_CERT].data, e));
    TRY(cert_to_pem(made, &files->v[PART_CA_CERT].data, e));
    TRY(key_to_pem(k, &files->v[PART_CA_KEY].data, e));
    TRY(cert_to_pem(made, &files->v[PART_CERT_CHAIN].data, e));
    TRY(cert_to_pem(by->cert, &files->v[PART_CERT_CHAIN].data, e));
    for (int i = 0; i < PART__N; i++)
        parts[i] = buf_span(&files->v[i].data);
    return bundle_new(parts, &b, e); /* what is written passes our own check */
}

static int
answer(const struct intermediate_conf *c, const struct cert *made, const struct roots *roots,
       struct err *e)
{
    if (c->output[0] == 'j') {
        json_t *all = json_array();

        for (size_t i = 0; i < roots_count(roots); i++)
            all = json_array_with(all, cert_json(roots_at(roots, i)));
        return print_json(json_pack("{s:s, s:o, s:o}", "dir", c->out, "intermediate",
                                    cert_json(made), "roots", all),
                          e);
    }
    printf("%s/%s\n", c->out, bundle_file_names[PART_CA_CERT]);
    cert_print(made, 2);
    for (size_t i = 0; i < roots_count(roots); i++) {
        char name[NAME_TEXT_BYTES];

        cert_subject_text(roots_at(roots, i), name);
        printf("%s%s%s %s\n", i == 0 ? c->out : "", i == 0 ? "/root-cert.pem\n" : "", " ", name);
    }
    printf("%s/ca-key.pem\n  private key, mode 0600\n%s/cert-chain.pem\n  the intermediate, then "
           "its root\n",
           c->out, c->out);
    return 0;
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct intermediate_conf *c = conf;
    struct ca_request q = { .subject = c->subject,
                            .days = c->days,
                            .path_len = c->path_len[0] == 'n' ? -1 : c->path_len[0] - '0',
                            .dns = c->dns.v,
                            .dns_n = c->dns.n };
    CLEANUP(issuer_done) struct issuer by = { .cert = NULL };
    CLEANUP(key_unrefp) struct key *k = NULL;
    CLEANUP(cert_unrefp) struct cert *made = NULL;
    CLEANUP(roots_unrefp) struct roots *roots = NULL;
    CLEANUP(out_done) struct out files = OUT_INIT;
    enum key_kind kind;

    (void)args;
    TRY(root_read(c->root, &by.cert, &by.key, e));
    TRY(trust_set(c, by.cert, &roots, e));
    TRY(key_kind_parse(c->key_type, &kind, e));
    TRY(key_make(kind, &k, e));
    TRY(intermediate_make(&q, k, by.cert, by.key, &made, e));
    TRY(fill(&by, made, k, roots, &files, e));
    TRY(out_write(&files, c->out, c->force, e));
    return answer(c, made, roots, e);
}

const struct command cmd_pki_intermediate = {
    "pki intermediate",
    "",
    0,
    0,
    opts,
    sizeof(struct intermediate_conf),
    run,
    "make an intermediate under a root: the four files, offline",
    "Makes an intermediate, signed by the root in --root DIR, and writes the four files that a "
    "mesh\n"
    "takes: root-cert.pem, ca-cert.pem, ca-key.pem (mode 0600), cert-chain.pem. They pass\n"
    "\"meshroot pki verify\". Nothing is replaced without --force. No network is used.\n"
    "\n"
    "Examples:\n"
    "  meshroot pki intermediate --root root-a --out a1 --subject 'O=Istio,CN=Intermediate CA - "
    "A1,L=cluster-A1'\n"
    "  meshroot pki intermediate --root root-b --out b1 --also-trust root-a/root-cert.pem \\\n"
    "    --key-type rsa4096 --dns istiod.istio-system.svc\n",
};
