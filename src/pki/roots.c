/* roots.c - a set of self-signed CA certificates, ordered by id. */
#include <openssl/err.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "pki/internal.h"

/* Level 2 of OpenSSL: 112 bits, so no RSA below 2048 and no SHA-1 in a signature that counts. */
enum { AUTH_LEVEL = 2 };

struct roots {
    atomic_uint refs;
    X509_STORE *store;
    size_t n;
    struct cert *v[ROOTS_MAX]; /* one reference each; ascending ids, so equal sets are equal here */
};

static void
certs_unref(struct cert *const *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        cert_unref(v[i]);
}

static int
root_check(const struct cert *c, struct err *e)
{
    char name[NAME_TEXT_BYTES];

    if (cert_is_ca(c) && cert_is_self_signed(c))
        return 0;
    cert_subject_text(c, name);
    if (!cert_is_ca(c))
        return err_set(e, E_DENIED, "\"%s\" is not a CA certificate (CA:TRUE, keyCertSign)", name);
    return err_set(e, E_DENIED, "\"%s\" is not self-signed: it is no root", name);
}

/* Where `id` is, or where it goes. */
static size_t
place(const struct roots *r, const uint8_t id[DIGEST_BYTES])
{
    size_t i = 0;

    while (i < r->n && memcmp(cert_id(r->v[i]), id, DIGEST_BYTES) < 0)
        i++;
    return i;
}

bool
roots_has(const struct roots *r, const uint8_t id[DIGEST_BYTES])
{
    size_t i = place(r, id);

    return i < r->n && memcmp(cert_id(r->v[i]), id, DIGEST_BYTES) == 0;
}

static int
add_one(struct roots *r, struct cert *c, struct err *e)
{
    size_t i = place(r, cert_id(c));

    if (roots_has(r, cert_id(c)))
        return 0;
    TRY(root_check(c, e));
    if (r->n == ROOTS_MAX)
        return err_set(e, E_LIMIT, "more than %d roots", (int)ROOTS_MAX);
    if (X509_STORE_add_cert(r->store, cert_x509(c)) != 1)
        return err_openssl(e, E_NOMEM, "roots: store");
    memmove(&r->v[i + 1], &r->v[i], (r->n - i) * sizeof(r->v[0]));
    r->v[i] = cert_ref(c);
    r->n++;
    return 0;
}

static int
roots_empty(struct roots **ret, struct err *e)
{
    CLEANUP(roots_unrefp) struct roots *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return err_nomem(e);
    atomic_init(&r->refs, 1);
    r->store = X509_STORE_new();
    if (r->store == NULL)
        return err_nomem(e);
    *ret = STEAL(r);
    return 0;
}

static int
no_duplicates(struct cert *const *v, size_t n, struct err *e)
{
    char name[NAME_TEXT_BYTES];

    for (size_t i = 1; i < n; i++)
        for (size_t k = 0; k < i; k++)
            if (memcmp(cert_id(v[i]), cert_id(v[k]), DIGEST_BYTES) == 0) {
                cert_subject_text(v[i], name);
                return err_set(e, E_DENIED,
                               "block %zu is the same certificate as block %zu: \"%s\"", i + 1,
                               k + 1, name);
            }
    return 0;
}

int
roots_from_pem(struct span pem, struct roots **ret, struct err *e)
{
    CLEANUP(roots_unrefp) struct roots *r = NULL;
    struct cert *v[ROOTS_MAX];
    size_t n = 0;

    TRY(certs_from_pem(pem, v, ROOTS_MAX, &n, e));
    int rc = no_duplicates(v, n, e);
    if (rc == 0)
        rc = roots_empty(&r, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        if (add_one(r, v[i], e) < 0)
            rc = err_wrap(e, "block %zu", i + 1);
    certs_unref(v, n);
    if (rc == 0)
        *ret = STEAL(r);
    return rc;
}

int
roots_from_certs(struct cert *const *certs, size_t n, struct roots **ret, struct err *e)
{
    CLEANUP(roots_unrefp) struct roots *r = NULL;

    TRY(roots_empty(&r, e));
    for (size_t i = 0; i < n; i++)
        TRY(add_one(r, certs[i], e));
    if (r->n == 0)
        return err_set(e, E_DENIED, "a set of roots needs at least one");
    *ret = STEAL(r);
    return 0;
}

int
roots_union(const struct roots *a, const struct roots *b, struct roots **ret, struct err *e)
{
    CLEANUP(roots_unrefp) struct roots *r = NULL;

    TRY(roots_from_certs(a->v, a->n, &r, e));
    for (size_t i = 0; i < b->n; i++)
        TRY(add_one(r, b->v[i], e));
    *ret = STEAL(r);
    return 0;
}

int
roots_to_pem(const struct roots *r, struct buf *b, struct err *e)
{
    for (size_t i = 0; i < r->n; i++)
        TRY(cert_to_pem(r->v[i], b, e));
    return 0;
}

struct roots *
roots_ref(struct roots *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

void
roots_unref(struct roots *r)
{
    if (r == NULL || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
        return;
    certs_unref(r->v, r->n);
    X509_STORE_free(r->store);
    free(r);
}

X509_STORE *
roots_store(const struct roots *r)
{
    return r->store;
}

size_t
roots_count(const struct roots *r)
{
    return r->n;
}

struct cert *
roots_at(const struct roots *r, size_t i)
{
    return r->v[i];
}

bool
roots_contain(const struct roots *big, const struct roots *small)
{
    for (size_t i = 0; i < small->n; i++)
        if (!roots_has(big, cert_id(small->v[i])))
            return false;
    return true;
}

bool
roots_equal(const struct roots *a, const struct roots *b)
{
    return a->n == b->n && roots_contain(a, b);
}

/* -- verification -------------------------------------------------------------------------------
 */

static void
stack_free(STACK_OF(X509) * s)
{
    sk_X509_free(s); /* borrowed certificates */
}

/* DEFINE_CLEANUP cannot spell a STACK_OF type. */
static void
stack_freep(STACK_OF(X509) * *s)
{
    stack_free(*s);
}
DEFINE_CLEANUP(X509_STORE_CTX, X509_STORE_CTX_free)

/* Why X509_verify_cert said no, with the name that it stumbled over. */
static int
verify_error(X509_STORE_CTX *ctx, struct err *e)
{
    int why = X509_STORE_CTX_get_error(ctx);
    X509 *at = X509_STORE_CTX_get_current_cert(ctx);
    char name[NAME_TEXT_BYTES] = "?", issuer[NAME_TEXT_BYTES] = "?";

    ERR_clear_error();
    if (why == X509_V_ERR_OUT_OF_MEM)
        return err_nomem(e);
    if (at != NULL) {
        name_text(X509_get_subject_name(at), name);
        name_text(X509_get_issuer_name(at), issuer);
    }
    if (why == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY ||
        why == X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE)
        return err_set(e, E_DENIED, "\"%s\" is signed by an unknown authority: \"%s\"", name,
                       issuer);
    if (why == X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN ||
        why == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT)
        return err_set(e, E_DENIED, "\"%s\" is self-signed and not among the roots", name);
    return err_set(e, E_DENIED, "\"%s\": %s", name, X509_verify_cert_error_string(why));
}

/* The anchor at the end of the verified path, as ours. */
static struct cert *
anchor_of(const struct roots *r, X509_STORE_CTX *ctx)
{
    STACK_OF(X509) *path = X509_STORE_CTX_get0_chain(ctx);
    int n = sk_X509_num(path);

    for (size_t i = 0; n > 0 && i < r->n; i++)
        if (X509_cmp(cert_x509(r->v[i]), sk_X509_value(path, n - 1)) == 0)
            return r->v[i];
    return NULL;
}

/* OpenSSL is not asked for a purpose: it knows no "server and client", so usage is checked here. */
static int
check_usages(X509_STORE_CTX *ctx, struct err *e)
{
    STACK_OF(X509) *path = X509_STORE_CTX_get0_chain(ctx);
    char name[NAME_TEXT_BYTES];

    for (int i = 0; i < sk_X509_num(path); i++) {
        X509 *x = sk_X509_value(path, i);

        if (x509_usage_fits(x))
            continue;
        name_text(X509_get_subject_name(x), name);
        return err_set(e, E_DENIED,
                       "\"%s\": its extended key usage does not allow both server and client use",
                       name);
    }
    return 0;
}

int
roots_verify(const struct roots *r, const struct cert *leaf, struct cert *const *intermediates,
             size_t n, struct cert **ret_root, struct err *e)
{
    CLEANUP(X509_STORE_CTX_freep) X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    CLEANUP(stack_freep) STACK_OF(X509) *others = sk_X509_new_null();

    if (n > CHAIN_MAX)
        return err_set(e, E_LIMIT, "%zu intermediates, at most %d are read", n, (int)CHAIN_MAX);
    TRY(cert_check_time(leaf, e));
    if (ctx == NULL || others == NULL)
        return err_nomem(e);
    for (size_t i = 0; i < n; i++)
        if (sk_X509_push(others, cert_x509(intermediates[i])) <= 0)
            return err_nomem(e);
    if (X509_STORE_CTX_init(ctx, r->store, cert_x509(leaf), others) != 1)
        return err_openssl(e, E_NOMEM, "verify");
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
    X509_VERIFY_PARAM_set_time(param, (time_t)unix_s());
    X509_VERIFY_PARAM_set_depth(param, CHAIN_MAX);
    X509_VERIFY_PARAM_set_auth_level(param, AUTH_LEVEL);
    if (X509_verify_cert(ctx) != 1)
        return verify_error(ctx, e);
    TRY(check_usages(ctx, e));
    struct cert *root = anchor_of(r, ctx);
    if (root == NULL)
        return err_set(e, E_DENIED, "the path does not end in one of the roots");
    *ret_root = root;
    return 0;
}
