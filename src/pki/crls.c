/* crls.c - several revocation lists as one set, and what it says of a certificate. */
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "pki/crl_room.h"
#include "pki/openssl.h"
#include "pki/pem.h"

/* -- marks -- */

void
x509_mark(X509 *x, struct cert_mark *ret)
{
    const ASN1_INTEGER *serial = X509_get0_serialNumber(x);
    const ASN1_OCTET_STRING *aki = X509_get0_authority_key_id(x);
    const unsigned char *p;
    size_t n;

    *ret = (struct cert_mark){ .serial_n = 0 };
    if (X509_NAME_get0_der(X509_get_issuer_name(x), &p, &n) == 1)
        digest(span_of(p, n), ret->issuer_id);
    if (aki != NULL && ASN1_STRING_length(aki) <= CERT_MARK_AKI_BYTES) {
        ret->aki_n = (uint8_t)ASN1_STRING_length(aki);
        memcpy(ret->aki, ASN1_STRING_get0_data(aki), ret->aki_n);
    }
    if (serial != NULL && ASN1_STRING_length(serial) <= SERIAL_MAX_BYTES) {
        ret->serial_n = (uint8_t)ASN1_STRING_length(serial);
        memcpy(ret->serial, ASN1_STRING_get0_data(serial), ret->serial_n);
    }
}

void
cert_mark_of(const struct cert *c, struct cert_mark *ret)
{
    x509_mark(cert_x509(c), ret);
}

/* -- a set -- */

struct crls {
    atomic_uint refs;
    size_t n, bytes_n;
    struct crl *all[CRLS_MAX]; /* references */
};

static int
crls_add(struct crls *s, struct crl *c, struct err *e)
{
    if (s->n == CRLS_MAX || s->bytes_n + crl_der(c).n > CRLS_MAX_BYTES)
        return err_set(e, E_LIMIT, "more than %d revocation lists, or %d bytes of them", CRLS_MAX,
                       CRLS_MAX_BYTES);
    s->all[s->n++] = crl_ref(c);
    s->bytes_n += crl_der(c).n;
    return 0;
}

static int
crls_make(struct crls **ret, struct err *e)
{
    struct crls *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return err_nomem(e);
    atomic_init(&s->refs, 1);
    *ret = s;
    return 0;
}

int
crls_new(struct crl *const *all, size_t n, struct crls **ret, struct err *e)
{
    CLEANUP(crls_unrefp) struct crls *s = NULL;

    TRY(crls_make(&s, e));
    for (size_t i = 0; i < n; i++)
        TRY(crls_add(s, all[i], e));
    *ret = STEAL(s);
    return 0;
}

static int
block_add(struct crls *s, const struct pem_block *b, struct err *e)
{
    CLEANUP(buf_done) struct buf der = BUF_INIT(CRL_MAX_BYTES);
    CLEANUP(crl_unrefp) struct crl *c = NULL;

    if (!span_eq_str(b->label, "X509 CRL"))
        return err_set(e, E_PARSE, "a block \"%.*s\", want X509 CRL", SPAN_ARG(b->label));
    TRY(pem_decode(b, &der, e));
    TRY(crl_from_der(buf_span(&der), &c, e));
    return crls_add(s, c, e);
}

int
crls_from_pem(struct span pem, struct crls **ret, struct err *e)
{
    CLEANUP(crls_unrefp) struct crls *s = NULL;
    struct pem_block b;
    struct pem p;

    TRY(crls_make(&s, e));
    TRY(pem_open(pem, &p, e));
    while (TRY(pem_next(&p, &b, e)) != PEM_END)
        if (block_add(s, &b, e) < 0)
            return err_wrap(e, "block %zu", p.block_n);
    if (s->n == 0 && span_trim(pem).n > 0)
        return err_set(e, E_PARSE, "no revocation list: %s", pem_why_none(pem));
    *ret = STEAL(s);
    return 0;
}

int
crls_to_pem(const struct crls *s, struct buf *b, struct err *e)
{
    for (size_t i = 0; i < crls_count(s); i++)
        if (crl_is_signed(s->all[i]))
            TRY(pem_add(b, "X509 CRL", crl_der(s->all[i]), e));
    return 0;
}

struct crls *
crls_ref(struct crls *s)
{
    (void)atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void
crls_unref(struct crls *s)
{
    if (s == NULL || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < s->n; i++)
        crl_unref(s->all[i]);
    free(s);
}

size_t
crls_count(const struct crls *s)
{
    return s == NULL ? 0 : s->n;
}

struct crl *
crls_at(const struct crls *s, size_t i)
{
    return s->all[i];
}

bool
crls_equal(const struct crls *a, const struct crls *b)
{
    if (crls_count(a) != crls_count(b))
        return false;
    for (size_t i = 0; i < crls_count(a); i++)
        if (!span_eq(crl_der(a->all[i]), crl_der(b->all[i])))
            return false;
    return true;
}

bool
crls_revoke(const struct crls *s, const struct cert *cert)
{
    for (size_t i = 0; i < crls_count(s); i++)
        if (crl_revokes(s->all[i], cert))
            return true;
    return false;
}

bool
crls_revoke_mark(const struct crls *s, const struct cert_mark *m)
{
    for (size_t i = 0; i < crls_count(s); i++)
        if (crl_revokes_mark(s->all[i], m))
            return true;
    return false;
}

struct crl *
crls_of(const struct crls *s, const struct cert *issuer)
{
    for (size_t i = 0; i < crls_count(s); i++)
        if (crl_is_signed(s->all[i]) && crl_is_of(s->all[i], issuer))
            return s->all[i];
    return NULL;
}

size_t
crls_entries(const struct crls *s)
{
    size_t n = 0;

    for (size_t i = 0; i < crls_count(s); i++)
        n += crl_count(s->all[i]);
    return n;
}

static bool
has_signed(const struct crls *s, const struct crl *c)
{
    for (size_t i = 0; i < s->n; i++)
        if (crl_is_signed(s->all[i]) && crl_same_issuer(s->all[i], c))
            return true;
    return false;
}

static bool
is_of_a_root(const struct crl *c, const struct roots *roots)
{
    for (size_t i = 0; roots != NULL && i < roots_count(roots); i++)
        if (crl_is_of(c, roots_at(roots, i)))
            return true;
    return false;
}

bool
crls_are_for_all(const struct crls *s, const struct roots *roots)
{
    for (size_t i = 0; i < crls_count(s); i++)
        if (!has_signed(s, s->all[i]) && !is_of_a_root(s->all[i], roots))
            return false;
    return crls_count(s) > 0;
}

bool
crls_reach_roots(const struct crls *s, const struct roots *roots)
{
    for (size_t i = 0; i < roots_count(roots); i++)
        if (crls_of(s, roots_at(roots, i)) == NULL)
            return false;
    return true;
}
