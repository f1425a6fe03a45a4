/* pki_crl.c - meshroot pki crl: an offline CA's revocation list, for intermediates that it made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "cmd/commands.h"
#include "cmd/ledger_tool.h"
#include "cmd/pki_tool.h"
#include "pki/bundle.h"
#include "pki/crl.h"

struct crl_conf {
    const char *root, *out, *reason, *output;
    struct opt_list revoke;
    uint64_t days;
};

#define AT(member) offsetof(struct crl_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    { "root", OPT_STRING, AT(root), NULL, NULL, NULL, OPT_REQUIRED, "DIR", "folder with root-cert.pem and root-key.pem" },
    { "revoke", OPT_LIST, AT(revoke), NULL, NULL, NULL, 0, "FILE|HEX",
      "an intermediate, as PEM file or serial number; may be repeated" },
    { "reason", OPT_CHOICE, AT(reason), "unspecified",
      "unspecified|keyCompromise|cACompromise|affiliationChanged|superseded|cessationOfOperation|privilegeWithdrawn",
      NULL, 0, "REASON", "of those that are named now (RFC 5280 5.3.1)" },
    { "days", OPT_COUNT, AT(days), "90", "1", "3650", 0, "DAYS", "how long the list is good: make the next one before" },
    { "out", OPT_STRING, AT(out), NULL, NULL, NULL, OPT_REQUIRED, "FILE",
      "the list; when there is one of this root already, its entries stay" },
    OPT_OUTPUT(struct crl_conf, output),
    { .name = NULL },
};
/* clang-format on */

struct entries {
    struct crl_entry *v; /* owned; CRL_ENTRIES_MAX */
    size_t n;
};

static void
entries_done(struct entries *x)
{
    free(x->v);
}

static int
entry_add(const struct crl_entry *x, void *arg, struct err *e)
{
    struct entries *all = arg;

    for (size_t i = 0; i < all->n; i++)
        if (span_eq(span_of(all->v[i].serial, all->v[i].serial_n), span_of(x->serial, x->serial_n)))
            return 0; /* revoked before: as it was */
    if (all->n == CRL_ENTRIES_MAX)
        return err_set(e, E_LIMIT, "more than %d entries in one list", CRL_ENTRIES_MAX);
    all->v[all->n++] = *x;
    return 0;
}

/* An intermediate by its file must be one of this root's; a serial number is taken as it is. */
static int
entry_of(const char *text, const struct cert *root, struct crl_entry *x, struct err *e)
{
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(cert_unrefp) struct cert *c = NULL;
    struct cert *all[CHAIN_MAX];
    size_t n = 0;

    if (access(text, F_OK) < 0)
        return serial_parse(text, x->serial, &x->serial_n, e) < 0
                   ? err_set(e, E_INVAL, "\"%.80s\" is neither a file nor a serial number", text)
                   : 0;
    TRY(read_input(NULL, text, &pem, e));
    if (certs_from_pem(buf_span(&pem), all, CHAIN_MAX, &n, e) < 0)
        return err_wrap(e, "%s", text);
    c = all[0];
    for (size_t i = 1; i < n; i++)
        cert_unref(all[i]);
    if (!cert_is_signed_by(c, root))
        return err_set(e, E_DENIED, "%s: its first certificate is not signed by this root", text);
    memcpy(x->serial, cert_serial(c).p, x->serial_n = cert_serial(c).n);
    return 0;
}

/* What the list of before says stays; its number is where the next one goes on. */
static int
former_read(const char *path, const struct cert *root, struct entries *all, uint64_t *ret_number,
            struct err *e)
{
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(crls_unrefp) struct crls *was = NULL;

    *ret_number = (uint64_t)unix_s();
    if (access(path, F_OK) < 0)
        return 0;
    TRY(read_input(NULL, path, &pem, e));
    if (crls_from_pem(buf_span(&pem), &was, e) < 0)
        return err_wrap(e, "%s", path);
    if (crls_count(was) != 1 || crl_verify(crls_at(was, 0), root, e) < 0)
        return err_set(e, E_DENIED, "%s: it is not one list of this root; nothing is replaced",
                       path);
    if (crl_number(crls_at(was, 0)) >= *ret_number)
        *ret_number = crl_number(crls_at(was, 0)) + 1;
    return crl_each(crls_at(was, 0), entry_add, all, e);
}

static int
list_sign(const struct cert *root, const struct key *key, const struct crl_request *q,
          struct crls **ret, struct err *e)
{
    CLEANUP(leaf_template_freep) struct leaf_template *t = NULL;
    CLEANUP(buf_done) struct buf tbs = BUF_INIT(CRL_MAX_BYTES), der = BUF_INIT(CRL_MAX_BYTES);
    CLEANUP(crl_unrefp) struct crl *made = NULL;
    uint8_t signature[SIGNATURE_MAX_BYTES];
    size_t n = 0;

    TRY(leaf_template_new(root, key, &t, e));
    TRY(crl_tbs(t, q, &tbs, e));
    TRY(leaf_sign(t, buf_span(&tbs), signature, &n, e));
    TRY(crl_finish(t, buf_span(&tbs), span_of(signature, n), &der, e));
    TRY(crl_from_der(buf_span(&der), &made, e));
    TRY(crl_verify(made, root, e)); /* says when the root's key usage does not allow it */
    return crls_new(&made, 1, ret, e);
}

static int
answer(const struct crl_conf *c, const struct crl *list, struct err *e)
{
    char end[RFC3339_BYTES];

    rfc3339_s(crl_next_update(list), end);
    if (c->output[0] == 'j')
        return print_json(json_pack("{s:s, s:I, s:I, s:s}", "file", c->out, "number",
                                    (json_int_t)crl_number(list), "entries",
                                    (json_int_t)crl_count(list), "next_update", end),
                          e);
    printf("%s\n  %zu entries, number %llu, good until %s\n", c->out, crl_count(list),
           (unsigned long long)crl_number(list), end);
    return 0;
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct crl_conf *c = conf;
    CLEANUP(cert_unrefp) struct cert *root = NULL;
    CLEANUP(key_unrefp) struct key *key = NULL;
    CLEANUP(entries_done) struct entries all = { calloc(CRL_ENTRIES_MAX, sizeof(*all.v)), 0 };
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(crls_unrefp) struct crls *made = NULL;
    struct crl_request q = { .this_update = unix_s() };
    struct crl_entry x = { .revoked = unix_s() };

    (void)args;
    if (all.v == NULL)
        return err_nomem(e);
    TRY(crl_reason_parse(c->reason, &x.reason, e));
    TRY(root_read(c->root, &root, &key, e));
    TRY(former_read(c->out, root, &all, &q.number, e));
    for (size_t i = 0; i < c->revoke.n; i++) {
        TRY(entry_of(c->revoke.v[i], root, &x, e));
        TRY(entry_add(&x, &all, e));
    }
    q.next_update = q.this_update + (int64_t)c->days * 86400;
    q.entries = all.v;
    q.n = all.n;
    TRY(list_sign(root, key, &q, &made, e));
    TRY(crls_to_pem(made, &pem, e));
    TRY(file_write(c->out, buf_span(&pem), 0644, e));
    return answer(c, crls_at(made, 0), e);
}

const struct command cmd_pki_crl = {
    "pki crl",
    "",
    0,
    0,
    opts,
    sizeof(struct crl_conf),
    run,
    "a root's revocation list, offline: intermediates that are refused",
    "Makes or goes on with the revocation list of the root in --root DIR. Entries of a list that "
    "is\n"
    "there stay; its number grows. Without --revoke it is signed anew, for --days from now: make "
    "the\n"
    "next one before the last ends. Put it beside the set as ca-crl.pem (docs/revocation.md). No\n"
    "network is used.\n"
    "\n"
    "Examples:\n"
    "  meshroot pki crl --root root-a --out a1/ca-crl.pem\n"
    "  meshroot pki crl --root root-a --out a1/ca-crl.pem --revoke old/ca-cert.pem --reason "
    "keyCompromise\n",
};
