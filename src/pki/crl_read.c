/* crl_read.c - reads a revocation list of any issuer, and answers whether a certificate is in it.
 */
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "pki/crl_room.h"
#include "pki/internal.h"
#include "pki/leaf_template.h"
#include "pki/openssl.h"

/* -- TBSCertList -- */

static int
malformed(struct err *e, const char *what)
{
    return err_set(e, E_PARSE, "not a revocation list: %s", what);
}

struct extension {
    struct span oid, value;
    bool is_critical;
};

static struct extension
extension_take(struct der *c)
{
    struct der x = der_enter(c, DER_SEQUENCE);
    struct extension r = { .oid = der_oid(&x) };

    r.is_critical = der_default_false(&x);
    r.value = der_take(&x, DER_OCTET_STRING);
    c->bad = c->bad || !der_done(&x);
    return r;
}

static bool
oid_is(const struct extension *x, const uint8_t oid[3])
{
    return span_eq(x->oid, span_of(oid, 3));
}

/* RFC 5280 5.2, 5.3: a list with a critical extension that is not understood must not be used. */
static int
refuse_critical(const struct extension *x, struct err *e)
{
    if (!x->is_critical)
        return 0;
    return err_set(e, E_DENIED,
                   "a revocation list with a critical extension that changes what it says "
                   "(indirect, a delta, of a part only; RFC 5280 5.2) is not understood");
}

static int
number_read(struct span value, uint64_t *ret, struct err *e)
{
    struct der c = der_of(value);
    struct span s = der_uint(&c);
    uint64_t v = 0;

    if (!der_done(&c))
        return malformed(e, "its number is no integer");
    if (s.n > sizeof(v)) /* RFC 5280 5.2.3 allows 20 bytes; the end of it tells lists apart */
        s = span_skip(s, s.n - sizeof(v));
    for (size_t i = 0; i < s.n; i++)
        v = v << 8 | s.p[i];
    *ret = v;
    return 0;
}

static int
aki_read(struct span value, struct span *ret, struct err *e)
{
    struct der all = der_of(value), c = der_enter(&all, DER_SEQUENCE);

    if (der_peek(&c) == DER_CONTEXT)
        *ret = der_take(&c, DER_CONTEXT);
    if (c.bad || !der_done(&all))
        return malformed(e, "its authority key identifier");
    return 0;
}

static int
extensions_read(struct der *c, struct crl_head *h, struct err *e)
{
    struct der wrap = der_enter(c, DER_CONTEXT_CONSTRUCTED), all = der_enter(&wrap, DER_SEQUENCE);

    while (!der_at_end(&all)) {
        struct extension x = extension_take(&all);

        if (all.bad)
            break;
        if (oid_is(&x, crl_oid_number))
            TRY(number_read(x.value, &h->number, e));
        else if (oid_is(&x, leaf_oid_aki))
            TRY(aki_read(x.value, &h->aki, e));
        else
            TRY(refuse_critical(&x, e));
    }
    return der_done(&all) && der_done(&wrap) ? 0 : malformed(e, "its extensions");
}

static int
entry_extensions_read(struct der *c, struct crl_entry *ret, struct err *e)
{
    struct der all = der_enter(c, DER_SEQUENCE);

    while (!der_at_end(&all)) {
        struct extension x = extension_take(&all);
        struct der value = der_of(x.value);

        if (all.bad)
            break;
        if (!oid_is(&x, crl_oid_reason)) {
            TRY(refuse_critical(&x, e));
            continue;
        }
        struct span s = der_take(&value, DER_ENUMERATED);
        if (!der_done(&value) || s.n != 1)
            return malformed(e, "an entry's reason");
        ret->reason = (enum crl_reason)s.p[0];
    }
    return der_done(&all) ? 0 : malformed(e, "an entry's extensions");
}

static int
entry_read(struct der *c, struct crl_entry *ret, struct err *e)
{
    struct der x = der_enter(c, DER_SEQUENCE);
    struct span serial = der_uint(&x);

    *ret = (struct crl_entry){ .serial_n = serial.n };
    if (x.bad || serial.n == 0 || serial.n > SERIAL_MAX_BYTES)
        return malformed(e, "an entry's serial number is positive, 20 bytes at most");
    memcpy(ret->serial, serial.p, serial.n);
    ret->revoked = der_time(&x);
    if (!der_at_end(&x))
        TRY(entry_extensions_read(&x, ret, e));
    return der_done(&x) ? 0 : malformed(e, "an entry");
}

static int
entries_read(struct der *c, crl_entry_fn *fn, void *arg, struct err *e)
{
    struct der all = der_enter(c, DER_SEQUENCE);
    struct crl_entry x;
    size_t n = 0;

    for (; !der_at_end(&all); n++) {
        if (n == CRL_ENTRIES_MAX)
            return err_set(e, E_LIMIT, "a revocation list of more than %d entries",
                           CRL_ENTRIES_MAX);
        TRY(entry_read(&all, &x, e));
        TRY(fn(&x, arg, e));
    }
    return der_done(&all) && n > 0 ? 0 : malformed(e, "its entries");
}

int
crl_tbs_read(struct span tbs, struct crl_head *ret, crl_entry_fn *fn, void *arg, struct err *e)
{
    struct der all = der_of(tbs), c = der_enter(&all, DER_SEQUENCE);
    struct crl_head h = { .next_update = INT64_MAX };

    if (!der_done(&all))
        return malformed(e, "it is one SEQUENCE");
    if (der_peek(&c) == DER_INTEGER) {
        struct span v = der_uint(&c);

        if (c.bad || v.n != 1 || v.p[0] != 1)
            return malformed(e, "its version is 1 or 2");
    }
    h.algorithm = der_take_whole(&c, DER_SEQUENCE);
    h.issuer = der_take_whole(&c, DER_SEQUENCE);
    h.this_update = der_time(&c);
    if (der_peek(&c) == DER_UTC_TIME || der_peek(&c) == DER_GENERALIZED_TIME)
        h.next_update = der_time(&c);
    if (c.bad)
        return malformed(e, "its issuer or its times");
    if (der_peek(&c) == DER_SEQUENCE)
        TRY(entries_read(&c, fn, arg, e));
    if (der_peek(&c) == DER_CONTEXT_CONSTRUCTED)
        TRY(extensions_read(&c, &h, e));
    if (!der_done(&c))
        return malformed(e, "something follows its extensions");
    *ret = h;
    return 0;
}

/* -- a list -- */

struct serial {
    uint8_t n, bytes[SERIAL_MAX_BYTES];
};

struct crl {
    atomic_uint refs;
    struct buf der;                  /* owned */
    struct crl_head head;            /* spans inside der */
    uint8_t issuer_id[DIGEST_BYTES]; /* SHA-256 of the Name */
    bool is_signed;
    struct serial *serials; /* owned; in order */
    size_t n, cap;
};

static int
serial_compare(const void *a, const void *b)
{
    const struct serial *x = a, *y = b;

    return x->n != y->n ? (int)x->n - (int)y->n : memcmp(x->bytes, y->bytes, x->n);
}

static int
serial_collect(const struct crl_entry *x, void *arg, struct err *e)
{
    struct crl *c = arg;

    if (c->n == c->cap) {
        size_t cap = c->cap == 0 ? 16 : 2 * c->cap;
        struct serial *p = realloc(c->serials, cap * sizeof(*p));

        if (p == NULL)
            return err_nomem(e);
        c->serials = p;
        c->cap = cap;
    }
    c->serials[c->n].n = (uint8_t)x->serial_n;
    memcpy(c->serials[c->n++].bytes, x->serial, x->serial_n);
    return 0;
}

static int
crl_new(struct span der, struct crl **ret, struct err *e)
{
    CLEANUP(crl_unrefp) struct crl *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return err_nomem(e);
    atomic_init(&c->refs, 1);
    c->der = BUF_INIT(CRL_MAX_BYTES);
    if (der.n > CRL_MAX_BYTES)
        return err_set(e, E_LIMIT, "a revocation list of more than %d bytes", CRL_MAX_BYTES);
    TRY(buf_add(&c->der, der, e));
    *ret = STEAL(c);
    return 0;
}

/* `tbs` lies in c->der. */
static int
tbs_take(struct crl *c, struct span tbs, struct err *e)
{
    TRY(crl_tbs_read(tbs, &c->head, serial_collect, c, e));
    digest(c->head.issuer, c->issuer_id);
    if (c->n > 0)
        qsort(c->serials, c->n, sizeof(c->serials[0]), serial_compare);
    return 0;
}

int
crl_from_tbs(struct span tbs, struct crl **ret, struct err *e)
{
    CLEANUP(crl_unrefp) struct crl *c = NULL;

    TRY(crl_new(tbs, &c, e));
    TRY(tbs_take(c, buf_span(&c->der), e));
    *ret = STEAL(c);
    return 0;
}

int
crl_from_der(struct span der, struct crl **ret, struct err *e)
{
    CLEANUP(crl_unrefp) struct crl *c = NULL;

    TRY(crl_new(der, &c, e));
    c->is_signed = true;
    struct der all = der_of(buf_span(&c->der)), x = der_enter(&all, DER_SEQUENCE);
    struct span tbs = der_take_whole(&x, DER_SEQUENCE);
    struct span algorithm = der_take_whole(&x, DER_SEQUENCE), signature = der_bits(&x);
    if (!der_done(&x) || !der_done(&all) || signature.n == 0)
        return malformed(e, "it is one CertificateList and nothing else");
    TRY(tbs_take(c, tbs, e));
    if (!span_eq(algorithm, c->head.algorithm))
        return malformed(e, "its signature algorithm, twice the same (RFC 5280 5.1.1.2)");
    *ret = STEAL(c);
    return 0;
}

static struct span
tbs_of(const struct crl *c)
{
    struct der all = der_of(buf_span(&c->der)), x = der_enter(&all, DER_SEQUENCE);

    return c->is_signed ? der_take_whole(&x, DER_SEQUENCE) : buf_span(&c->der);
}

int
crl_to_bare(const struct crl *c, struct crl **ret, struct err *e)
{
    return crl_from_tbs(tbs_of(c), ret, e);
}

struct crl *
crl_ref(struct crl *c)
{
    (void)atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void
crl_unref(struct crl *c)
{
    if (c == NULL || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    buf_done(&c->der);
    free(c->serials);
    free(c);
}

bool
crl_is_signed(const struct crl *c)
{
    return c->is_signed;
}

struct span
crl_der(const struct crl *c)
{
    return buf_span(&c->der);
}

uint64_t
crl_number(const struct crl *c)
{
    return c->head.number;
}

int64_t
crl_this_update(const struct crl *c)
{
    return c->head.this_update;
}

int64_t
crl_next_update(const struct crl *c)
{
    return c->head.next_update;
}

size_t
crl_count(const struct crl *c)
{
    return c->n;
}

bool
crl_is_of(const struct crl *c, const struct cert *issuer)
{
    struct span ski = cert_ski(issuer);

    return span_eq(c->head.issuer, cert_subject_der(issuer)) &&
           (c->head.aki.n == 0 || ski.n == 0 || span_eq(c->head.aki, ski));
}

bool
cert_may_sign_crls(const struct cert *c)
{
    return (X509_get_key_usage(cert_x509(c)) & KU_CRL_SIGN) != 0; /* all ones without it */
}

int
crl_verify(const struct crl *c, const struct cert *issuer, struct err *e)
{
    const unsigned char *p = c->der.p;
    char name[NAME_TEXT_BYTES];

    cert_subject_text(issuer, name);
    if (!crl_is_of(c, issuer))
        return err_set(e, E_DENIED, "the revocation list is not one of \"%s\"", name);
    if (!cert_may_sign_crls(issuer))
        return err_set(e, E_DENIED, "\"%s\" may not sign revocation lists (no cRLSign)", name);
    X509_CRL *x = d2i_X509_CRL(NULL, &p, (long)c->der.n);
    bool good = x != NULL && X509_CRL_verify(x, X509_get0_pubkey(cert_x509(issuer))) == 1;
    X509_CRL_free(x);
    ERR_clear_error();
    return good ? 0
                : err_set(e, E_DENIED, "the revocation list's signature is not that of \"%s\"",
                          name);
}

static bool
issuer_is(const struct crl *c, const struct cert *cert)
{
    const unsigned char *p;
    size_t n;
    struct span aki = cert_aki(cert);

    if (X509_NAME_get0_der(X509_get_issuer_name(cert_x509(cert)), &p, &n) != 1)
        return false;
    return span_eq(c->head.issuer, span_of(p, n)) &&
           (c->head.aki.n == 0 || aki.n == 0 || span_eq(c->head.aki, aki));
}

bool
crl_has(const struct crl *c, struct span serial)
{
    struct serial want = { .n = (uint8_t)serial.n };

    if (serial.n > SERIAL_MAX_BYTES || c->n == 0)
        return false;
    memcpy(want.bytes, serial.p, serial.n);
    return bsearch(&want, c->serials, c->n, sizeof(want), serial_compare) != NULL;
}

int
crl_each(const struct crl *c, crl_entry_fn *fn, void *arg, struct err *e)
{
    struct crl_head ignored;

    return crl_tbs_read(tbs_of(c), &ignored, fn, arg, e);
}

struct seek {
    struct span serial;
    struct crl_entry *ret;
    bool found;
};

static int
on_entry(const struct crl_entry *x, void *arg, struct err *e)
{
    struct seek *s = arg;

    (void)e;
    if (span_eq(span_of(x->serial, x->serial_n), s->serial)) {
        *s->ret = *x;
        s->found = true;
    }
    return 0;
}

int
crl_entry_of(const struct crl *c, struct span serial, struct crl_entry *ret, struct err *e)
{
    struct seek s = { serial, ret, false };

    TRY(crl_each(c, on_entry, &s, e));
    return s.found ? 0 : CRL_HAS_NOT;
}

bool
crl_revokes(const struct crl *c, const struct cert *cert)
{
    return c->n > 0 && issuer_is(c, cert) && crl_has(c, cert_serial(cert));
}

/* -- who and when -- */

void
crl_issuer_text(const struct crl *c, char ret[NAME_TEXT_BYTES])
{
    const unsigned char *p = c->head.issuer.p;
    X509_NAME *name = d2i_X509_NAME(NULL, &p, (long)c->head.issuer.n);

    if (name != NULL)
        name_text(name, ret);
    else
        (void)snprintf(ret, NAME_TEXT_BYTES, "(a name that does not parse)");
    X509_NAME_free(name);
    ERR_clear_error();
}

bool
crl_same_issuer(const struct crl *a, const struct crl *b)
{
    return span_eq(a->head.issuer, b->head.issuer) && span_eq(a->head.aki, b->head.aki);
}

int
crl_check_time(const struct crl *c, int64_t now, struct err *e)
{
    bool late = c->head.next_update <= now;
    char name[NAME_TEXT_BYTES], at[RFC3339_BYTES];

    if (!late && c->head.this_update <= now)
        return 0;
    crl_issuer_text(c, name);
    rfc3339_s(late ? c->head.next_update : c->head.this_update, at);
    return err_set(e, E_DENIED, "the revocation list of \"%s\" %s %s", name,
                   late ? "expired at" : "is of a time to come,", at);
}

bool
crl_revokes_mark(const struct crl *c, const struct cert_mark *m)
{
    return c->n > 0 && memcmp(c->issuer_id, m->issuer_id, DIGEST_BYTES) == 0 &&
           (c->head.aki.n == 0 || m->aki_n == 0 || c->head.aki.n > CERT_MARK_AKI_BYTES ||
            span_eq(c->head.aki, span_of(m->aki, m->aki_n))) &&
           crl_has(c, span_of(m->serial, m->serial_n));
}
