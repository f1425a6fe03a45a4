/* bundle.c - the four parts, checked to belong together. */
#include "pki/bundle.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "pki/internal.h"

struct bundle {
    atomic_uint refs;
    struct roots *roots;
    struct key *key;
    struct cert *signer_root;
    struct crls *lists; /* NULL: none */
    size_t path_n;
    struct cert *path[CHAIN_MAX]; /* from ca-cert up, a root at the end left out; a self-signed
                                         ca-cert is there with path_n 1 and signer_root the same */
};

const char *const bundle_file_names[PART__ALL] = {
    [PART_ROOT_CERT] = "root-cert.pem", [PART_CA_CERT] = "ca-cert.pem",
    [PART_CA_KEY] = "ca-key.pem",       [PART_CERT_CHAIN] = "cert-chain.pem",
    [PART_CA_CRL] = "ca-crl.pem",
};

const char *const bundle_secret_names[PART__ALL] = {
    [PART_ROOT_CERT] = "root-cert",   [PART_CA_CERT] = "ca-cert", [PART_CA_KEY] = "ca-key",
    [PART_CERT_CHAIN] = "cert-chain", [PART_CA_CRL] = "ca-crl",
};

/* What is being read: the certificates as they stand in the files. */
struct draft {
    struct bundle *b;
    struct cert *signer;               /* owned */
    size_t chain_n;                    /* cert-chain.pem */
    struct cert *chain[CHAIN_MAX + 1]; /* owned */
};

static void
draft_done(struct draft *d)
{
    cert_unref(d->signer);
    for (size_t i = 0; i < d->chain_n; i++)
        cert_unref(d->chain[i]);
    bundle_unref(d->b);
}

static int
in_part(enum bundle_part part, struct err *e)
{
    return err_wrap(e, "%s", bundle_file_names[part]);
}

static bool
same_cert(const struct cert *a, const struct cert *b)
{
    return memcmp(cert_id(a), cert_id(b), DIGEST_BYTES) == 0;
}

/* -- ca-cert and ca-key -------------------------------------------------------------------------
 */

/* The first block signs; as with istiod, what stands behind it counts for nothing. */
static int
read_signer(struct draft *d, struct span pem, struct err *e)
{
    struct cert *v[CHAIN_MAX + 1];
    size_t n = 0;

    TRY(certs_from_pem(pem, v, ARRAY_LEN(v), &n, e));
    d->signer = v[0];
    for (size_t i = 1; i < n; i++)
        cert_unref(v[i]);
    return 0;
}

static int
check_ca(const struct cert *c, struct err *e)
{
    char name[NAME_TEXT_BYTES];

    cert_subject_text(c, name);
    if (!cert_is_ca(c))
        return err_set(e, E_DENIED, "\"%s\" is not a CA certificate (CA:TRUE, keyCertSign)", name);
    TRY(cert_check_time(c, e));
    if (!x509_usage_fits(cert_x509(c)))
        return err_set(e, E_DENIED,
                       "\"%s\": its extended key usage does not allow both server and client use",
                       name);
    if (cert_key_kind(c) == KEY_NONE)
        return err_set(e, E_DENIED,
                       "\"%s\": its key is too weak or of a kind that is not supported", name);
    return 0;
}

static int
read_key(struct draft *d, struct span pem, struct err *e)
{
    char name[NAME_TEXT_BYTES];

    TRY(key_from_pem(pem, &d->b->key, e));
    if (cert_key_matches(d->signer, d->b->key))
        return 0;
    cert_subject_text(d->signer, name);
    return err_set(
        e, E_DENIED, "the key (%s) does not match the certificate in ca-cert.pem, \"%s\" (%s)",
        key_kind_name(key_get_kind(d->b->key)), name, key_kind_name(cert_key_kind(d->signer)));
}

/* -- cert-chain ---------------------------------------------------------------------------------
 */

static int
check_start(const struct draft *d, struct err *e)
{
    char got[NAME_TEXT_BYTES], want[NAME_TEXT_BYTES];

    if (same_cert(d->chain[0], d->signer))
        return 0;
    cert_subject_text(d->chain[0], got);
    cert_subject_text(d->signer, want);
    for (size_t i = 1; i < d->chain_n; i++)
        if (same_cert(d->chain[i], d->signer))
            return err_set(
                e, E_DENIED,
                "out of order: the certificate of ca-cert.pem, \"%s\", is number %zu and "
                "must be the first",
                want, i + 1);
    if (strcmp(got, want) == 0)
        return err_set(e, E_DENIED,
                       "starts with another certificate named \"%s\" than ca-cert.pem: one of the "
                       "two files is older",
                       got);
    return err_set(e, E_DENIED,
                   "starts with \"%s\", not with the certificate of ca-cert.pem, \"%s\"", got,
                   want);
}

/* Number i must be signed by number i + 1. */
static int
check_link(const struct draft *d, size_t i, struct err *e)
{
    char name[NAME_TEXT_BYTES], next[NAME_TEXT_BYTES];
    const struct cert *c = d->chain[i];

    if (!cert_is_self_signed(c) && cert_is_signed_by(c, d->chain[i + 1]))
        return 0;
    cert_subject_text(c, name);
    cert_subject_text(d->chain[i + 1], next);
    if (cert_is_self_signed(c))
        return err_set(e, E_DENIED, "certificate %zu, \"%s\", comes after the root \"%s\"", i + 2,
                       next, name);
    for (size_t k = 0; k < d->chain_n; k++)
        if (k != i && cert_is_signed_by(c, d->chain[k]))
            return err_set(e, E_DENIED,
                           "out of order: certificate %zu, \"%s\", is signed by certificate %zu, "
                           "which must come right after it",
                           i + 1, name, k + 1);
    cert_issuer_text(c, name);
    return err_set(e, E_DENIED,
                   "broken: certificate %zu is signed by \"%s\", and certificate %zu, \"%s\", is "
                   "not that, or has another key",
                   i + 1, name, i + 2, next);
}

/* RFC 5280 4.2.1.9: how many CAs that are not self-issued may stand below. */
static int
check_path_len(const struct cert *c, size_t below, struct err *e)
{
    char name[NAME_TEXT_BYTES];

    if (cert_path_len(c) < 0 || (size_t)cert_path_len(c) >= below)
        return 0;
    cert_subject_text(c, name);
    return err_set(e, E_DENIED,
                   "\"%s\" has path length %d, and %zu intermediate%s below it in the chain", name,
                   cert_path_len(c), below, below == 1 ? " stands" : "s stand");
}

static bool
is_self_issued(const struct cert *c)
{
    X509 *x = cert_x509(c);

    return X509_NAME_cmp(X509_get_subject_name(x), X509_get_issuer_name(x)) == 0;
}

static int
no_root(const struct cert *last, struct err *e)
{
    char name[NAME_TEXT_BYTES], issuer[NAME_TEXT_BYTES];

    cert_subject_text(last, name);
    cert_issuer_text(last, issuer);
    if (cert_is_self_signed(last))
        return err_set(e, E_DENIED, "ends in the root \"%s\", which is not in root-cert.pem", name);
    return err_set(e, E_DENIED,
                   "ends in \"%s\", signed by \"%s\", which is not in root-cert.pem and not in the "
                   "chain",
                   name, issuer);
}

/* The root at or above the last certificate of the chain; of several with one key, a valid one. */
static int
find_root(struct draft *d, struct err *e)
{
    const struct cert *last = d->chain[d->chain_n - 1];
    const struct roots *r = d->b->roots;
    struct cert *found = NULL;

    for (size_t i = 0; i < roots_count(r) && found == NULL; i++)
        if (same_cert(roots_at(r, i), last))
            found = roots_at(r, i);
    for (size_t i = 0; i < roots_count(r) && !cert_is_self_signed(last); i++) {
        struct cert *root = roots_at(r, i);
        struct err late = { .code = E_NONE };

        if (cert_is_signed_by(last, root) && (found == NULL || cert_check_time(root, &late) == 0))
            found = root;
    }
    if (found == NULL)
        return no_root(last, e);
    d->b->signer_root = cert_ref(found);
    return 0;
}

/* The path without the root, one reference each; path lengths on the way. */
static int
take_path(struct draft *d, struct err *e)
{
    struct bundle *b = d->b;
    size_t below = 0;

    for (size_t i = 0; i < d->chain_n; i++) {
        struct cert *c = d->chain[i];

        if (i > 0 && same_cert(c, b->signer_root))
            break;
        if (b->path_n == CHAIN_MAX)
            return err_set(e, E_LIMIT, "more than %d intermediates", (int)CHAIN_MAX);
        TRY(check_ca(c, e));
        TRY(check_path_len(c, below, e));
        below += is_self_issued(c) ? 0 : 1;
        b->path[b->path_n++] = cert_ref(c);
    }
    if (same_cert(b->path[b->path_n - 1], b->signer_root))
        return 0;
    TRY(check_ca(b->signer_root, e));
    return check_path_len(b->signer_root, below, e);
}

static int
read_chain(struct draft *d, struct span pem, struct err *e)
{
    size_t n = 0;

    if (span_trim(pem).n == 0) {
        if (!cert_is_self_signed(d->signer))
            return err_set(e, E_DENIED, "empty; it must start with the certificate of ca-cert.pem");
        d->chain[0] = cert_ref(d->signer);
        d->chain_n = 1;
    } else {
        TRY(certs_from_pem(pem, d->chain, ARRAY_LEN(d->chain), &n, e));
        d->chain_n = n;
    }
    TRY(check_start(d, e));
    for (size_t i = 0; i + 1 < d->chain_n; i++)
        TRY(check_link(d, i, e));
    TRY(find_root(d, e));
    return take_path(d, e);
}

/* Last, a verifier that shares no code with the checks above: unknown critical extensions, name
 * constraints, weak signatures. */
static int
check_as_peer(const struct bundle *b, struct err *e)
{
    struct cert *root = NULL;

    return roots_verify(b->roots, b->path[0], b->path + 1, b->path_n - 1, &root, e);
}

/* -- the bundle ---------------------------------------------------------------------------------
 */

static int
bundle_alloc(struct bundle **ret, struct err *e)
{
    struct bundle *b = calloc(1, sizeof(*b));

    if (b == NULL)
        return err_nomem(e);
    atomic_init(&b->refs, 1);
    *ret = b;
    return 0;
}

static int
bundle_read(const struct span parts[PART__N], bool with_key, struct bundle **ret, struct err *e)
{
    CLEANUP(draft_done) struct draft d = { .b = NULL };

    TRY(bundle_alloc(&d.b, e));
    if (roots_from_pem(parts[PART_ROOT_CERT], &d.b->roots, e) < 0)
        return in_part(PART_ROOT_CERT, e);
    if (read_signer(&d, parts[PART_CA_CERT], e) < 0 || check_ca(d.signer, e) < 0)
        return in_part(PART_CA_CERT, e);
    if (with_key && read_key(&d, parts[PART_CA_KEY], e) < 0)
        return in_part(PART_CA_KEY, e);
    if (read_chain(&d, parts[PART_CERT_CHAIN], e) < 0 || check_as_peer(d.b, e) < 0)
        return in_part(PART_CERT_CHAIN, e);
    *ret = STEAL(d.b);
    return 0;
}

int
bundle_new(const struct span parts[PART__N], struct bundle **ret, struct err *e)
{
    return bundle_read(parts, true, ret, e);
}

int
bundle_new_public(const struct span parts[PART__N], struct bundle **ret, struct err *e)
{
    return bundle_read(parts, false, ret, e);
}

/* References to all of `b`, with other roots and lists. */
static int
bundle_copy(const struct bundle *b, struct roots *roots, struct crls *lists, struct bundle **ret,
            struct err *e)
{
    struct bundle *copy;

    TRY(bundle_alloc(&copy, e));
    copy->roots = roots_ref(roots);
    copy->lists = lists == NULL ? NULL : crls_ref(lists);
    copy->key = b->key == NULL ? NULL : key_ref(b->key);
    copy->signer_root = cert_ref(b->signer_root);
    for (; copy->path_n < b->path_n; copy->path_n++)
        copy->path[copy->path_n] = cert_ref(b->path[copy->path_n]);
    *ret = copy;
    return 0;
}

int
bundle_with_lists(const struct bundle *b, struct crls *lists, struct bundle **ret, struct err *e)
{
    return bundle_copy(b, b->roots, lists, ret, e);
}

int
bundle_with_roots(const struct bundle *b, struct roots *roots, struct bundle **ret, struct err *e)
{
    char name[NAME_TEXT_BYTES];

    if (!roots_has(roots, cert_id(b->signer_root))) {
        cert_subject_text(b->signer_root, name);
        return err_set(e, E_DENIED, "the set of roots lacks the signer's root \"%s\"", name);
    }
    return bundle_copy(b, roots, b->lists, ret, e);
}

struct bundle *
bundle_ref(struct bundle *b)
{
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    return b;
}

void
bundle_unref(struct bundle *b)
{
    if (b == NULL || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < b->path_n; i++)
        cert_unref(b->path[i]);
    cert_unref(b->signer_root);
    key_unref(b->key);
    roots_unref(b->roots);
    crls_unref(b->lists);
    free(b);
}

struct roots *
bundle_roots(const struct bundle *b)
{
    return b->roots;
}

struct crls *
bundle_lists(const struct bundle *b)
{
    return b->lists;
}

struct cert *
bundle_signer(const struct bundle *b)
{
    return b->path[0];
}

struct key *
bundle_key(const struct bundle *b)
{
    return b->key;
}

struct cert *
bundle_signer_root(const struct bundle *b)
{
    return b->signer_root;
}

size_t
bundle_chain_count(const struct bundle *b)
{
    return same_cert(b->path[0], b->signer_root) ? 0 : b->path_n;
}

struct cert *
bundle_chain_at(const struct bundle *b, size_t i)
{
    return b->path[i];
}

int64_t
bundle_not_after(const struct bundle *b)
{
    int64_t end = cert_not_after(b->signer_root);

    for (size_t i = 0; i < b->path_n; i++)
        if (cert_not_after(b->path[i]) < end)
            end = cert_not_after(b->path[i]);
    return end;
}

/* As Istio's own tools write it: the intermediates, then their root. */
static int
chain_pem(const struct bundle *b, struct buf *out, struct err *e)
{
    for (size_t i = 0; i < bundle_chain_count(b); i++)
        TRY(cert_to_pem(b->path[i], out, e));
    return cert_to_pem(b->signer_root, out, e);
}

static int
root_pem(const struct bundle *b, struct buf *out, struct err *e)
{
    return roots_to_pem(b->roots, out, e);
}

static int
signer_pem(const struct bundle *b, struct buf *out, struct err *e)
{
    return cert_to_pem(b->path[0], out, e);
}

static int
ca_key_pem(const struct bundle *b, struct buf *out, struct err *e)
{
    if (b->key == NULL)
        return err_set(e, E_STATE, "this bundle was read without its key");
    return key_to_pem(b->key, out, e);
}

static int
lists_pem(const struct bundle *b, struct buf *out, struct err *e)
{
    return crls_to_pem(b->lists, out, e);
}

int
bundle_part_pem(const struct bundle *b, enum bundle_part part, struct buf *out, struct err *e)
{
    static int (*const writers[PART__ALL])(const struct bundle *, struct buf *, struct err *) = {
        [PART_ROOT_CERT] = root_pem,   [PART_CA_CERT] = signer_pem, [PART_CA_KEY] = ca_key_pem,
        [PART_CERT_CHAIN] = chain_pem, [PART_CA_CRL] = lists_pem,
    };

    if ((size_t)part >= ARRAY_LEN(writers))
        return err_set(e, E_INVAL, "bundle: no such part");
    return writers[part](b, out, e);
}
