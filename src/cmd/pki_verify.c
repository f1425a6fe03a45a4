/* pki_verify.c - meshroot pki verify: do four files form a bundle, and if not, which and why. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "cmd/commands.h"
#include "cmd/pki_tool.h"
#include "net/json.h"
#include "pki/bundle.h"

struct verify_conf {
    const char *output;
};

static const struct opt opts[] = { OPT_OUTPUT(struct verify_conf, output), { .name = NULL } };

enum { LINE_BYTES = 512 };

struct files {
    struct buf bufs[PART__ALL];
    bool present[PART__ALL];
};

static void
files_done(struct files *f)
{
    for (int i = 0; i < PART__ALL; i++)
        buf_wipe(&f->bufs[i]);
}

/* The fifth file: by the rules that sync has for the vault's. */
static int
check_lists(struct span pem, struct bundle **b, struct err *e)
{
    CLEANUP(crls_unrefp) struct crls *lists = NULL;
    struct bundle *with;

    if (bundle_lists_read(*b, pem, &lists, e) < 0 ||
        bundle_lists_check_time(lists, unix_s(), e) < 0 || bundle_lists_spare(*b, lists, e) < 0)
        return err_wrap(e, "%s", bundle_file_names[PART_CA_CRL]);
    TRY(bundle_with_lists(*b, lists, &with, e));
    bundle_unref(*b);
    *b = with;
    return 0;
}

/* A missing file is an answer like any other; only what cannot be read is an error. */
static int
check(struct files *f, struct bundle **ret, struct err *e)
{
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;
    struct span parts[PART__N];

    for (int i = 0; i < PART__N; i++) {
        if (!f->present[i])
            return err_set(e, E_DENIED, "%s: no such file", bundle_file_names[i]);
        parts[i] = buf_span(&f->bufs[i]);
    }
    TRY(bundle_new(parts, &b, e));
    if (f->present[PART_CA_CRL])
        TRY(check_lists(buf_span(&f->bufs[PART_CA_CRL]), &b, e));
    *ret = STEAL(b);
    return 0;
}

static void
describe_lists(const struct crls *lists, char ret[LINE_BYTES])
{
    int64_t at = bundle_lists_end(lists);
    char end[RFC3339_BYTES];

    rfc3339_s(at, end);
    (void)snprintf(ret, LINE_BYTES, "%zu list%s with %zu entr%s, good until %s", crls_count(lists),
                   crls_count(lists) == 1 ? "" : "s", crls_entries(lists),
                   crls_entries(lists) == 1 ? "y" : "ies", at == INT64_MAX ? "another comes" : end);
}

/* What holds of a good part, in a few words. */
static void
describe(const struct bundle *b, enum bundle_part part, char ret[LINE_BYTES])
{
    struct cert *signer = bundle_signer(b);
    char name[NAME_TEXT_BYTES], end[RFC3339_BYTES];
    const char *kind = key_kind_name(key_get_kind(bundle_key(b)));
    size_t n = bundle_chain_count(b), roots_n = roots_count(bundle_roots(b));

    if (part == PART_ROOT_CERT) {
        cert_subject_text(bundle_signer_root(b), name);
        rfc3339_s(cert_not_after(bundle_signer_root(b)), end);
        (void)snprintf(ret, LINE_BYTES, "%zu root%s; the signer's: %s, ends %s", roots_n,
                       roots_n == 1 ? "" : "s", name, end);
    } else if (part == PART_CA_CERT) {
        cert_subject_text(signer, name);
        rfc3339_s(cert_not_after(signer), end);
        (void)snprintf(ret, LINE_BYTES, "%s, %s, ends %s", name,
                       key_kind_name(cert_key_kind(signer)), end);
    } else if (part == PART_CA_KEY) {
        (void)snprintf(ret, LINE_BYTES, "%s, matches ca-cert.pem", kind);
    } else if (part == PART_CA_CRL) {
        describe_lists(bundle_lists(b), ret);
    } else {
        (void)snprintf(ret, LINE_BYTES,
                       "%zu intermediate%s in order, up to a root of root-cert.pem", n,
                       n == 1 ? "" : "s");
    }
}

/* Parts are checked in their order, and a refusal starts with the name of the part. */
static int
failing_part(const struct err *e)
{
    for (int i = 0; i < PART__ALL; i++)
        if (strncmp(e->msg, bundle_file_names[i], strlen(bundle_file_names[i])) == 0)
            return i;
    return 0;
}

static bool
all_present(const struct files *f)
{
    for (int i = 0; i < PART__N; i++)
        if (!f->present[i])
            return false;
    return true;
}

static const char *
part_state(const struct files *f, int part, int failed)
{
    if (!f->present[part])
        return "missing";
    if (!all_present(f))
        return "not checked";
    return part < failed ? "ok" : part == failed ? "FAILED" : "not checked";
}

static void
print_table(const struct files *f, const struct bundle *b, int failed)
{
    char text[LINE_BYTES] = "", end[RFC3339_BYTES];

    for (int i = 0; i < PART__ALL; i++) {
        if (i == PART_CA_CRL && !f->present[i])
            continue; /* there need be none */
        if (b == NULL) {
            printf("%-15s %s\n", bundle_file_names[i], part_state(f, i, failed));
            continue;
        }
        describe(b, (enum bundle_part)i, text);
        printf("%-15s ok  %s\n", bundle_file_names[i], text);
    }
    if (b == NULL)
        return;
    rfc3339_s(bundle_not_after(b), end);
    printf("ok: one bundle, good until %s\n", end);
}

static json_t *
bundle_json(const struct bundle *b)
{
    json_t *roots = json_array(), *chain = json_array();
    char end[RFC3339_BYTES];

    rfc3339_s(bundle_not_after(b), end);
    for (size_t i = 0; i < roots_count(bundle_roots(b)); i++)
        roots = json_array_with(roots, cert_json(roots_at(bundle_roots(b), i)));
    for (size_t i = 0; i < bundle_chain_count(b); i++)
        chain = json_array_with(chain, cert_json(bundle_chain_at(b, i)));
    return json_pack("{s:b, s:s, s:o, s:o, s:o, s:o}", "ok", 1, "not_after", end, "signer",
                     cert_json(bundle_signer(b)), "signer_root", cert_json(bundle_signer_root(b)),
                     "chain", chain, "roots", roots);
}

static int
print_answer(const struct files *f, const struct bundle *b, const struct err *why, bool as_json,
             struct err *e)
{
    int failed = b == NULL ? failing_part(why) : PART__N;

    if (!as_json) {
        print_table(f, b, failed);
        return stdout_check(e);
    }
    return print_json(b != NULL ? bundle_json(b)
                                : json_pack("{s:b, s:s, s:s}", "ok", 0, "file",
                                            bundle_file_names[failed], "reason", why->msg),
                      e);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct verify_conf *c = conf;
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;
    CLEANUP(files_done) struct files f = { .present = { false } };
    const char *dir = args->v[0];

    for (int i = 0; i < PART__ALL; i++)
        f.bufs[i] = BUF_INIT(PEM_MAX_BYTES);
    if (TRY(fileset_read(dir, bundle_file_names, PART__ALL, f.bufs, f.present, e)) == FILE_ABSENT)
        return err_set(e, E_NOTFOUND, "%s: no such folder", dir);
    int r = check(&f, &b, e);
    if (r < 0 && e->code == E_NOMEM)
        return r;
    const struct err why = *e;
    TRY(print_answer(&f, b, &why, c->output[0] == 'j', e));
    if (r == 0)
        return 0;
    fprintf(stderr, "meshroot pki verify: %s/%s\n", dir, why.msg);
    return CMD_FAILED;
}

const struct command cmd_pki_verify = {
    "pki verify",
    "DIR",
    1,
    1,
    opts,
    sizeof(struct verify_conf),
    run,
    "do four files form a bundle, and if not, which and why",
    "Checks root-cert.pem, ca-cert.pem, ca-key.pem and cert-chain.pem of DIR, made by any tool, as "
    "the\n"
    "CA will: formats, CA rights, dates, the key's match, the chain's order and path lengths up to "
    "one\n"
    "of the roots. ca-crl.pem, when there is one, must have lists of these CAs that are good now "
    "and "
    "do not revoke\n"
    "what would sign. Exit status: 0 they form a bundle, 1 they do not (the reason is on stderr). "
    "No\n"
    "network is used.\n"
    "\n"
    "Examples:\n"
    "  meshroot pki verify a1\n"
    "  meshroot pki verify /etc/cacerts --output json\n",
};
