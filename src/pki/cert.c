/* cert.c - one certificate: parsed once by OpenSSL, its facts copied out, then never changed. */
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/str.h"
#include "pki/der.h"
#include "pki/internal.h"
#include "pki/pem.h"

enum { CERT_MAX_BYTES = 64 * 1024 };

struct cert {
    atomic_uint refs;
    X509 *x;
    unsigned char *der; /* owned, by OPENSSL_free */
    size_t der_n;
    struct span subject, ski, aki; /* inside x */
    GENERAL_NAMES *sans;           /* owned; NULL without the extension */
    int64_t not_before, not_after;
    size_t serial_n;
    int path_len;
    enum key_kind kind;
    bool is_ca, is_self_signed;
    uint8_t serial[SERIAL_MAX_BYTES];
    uint8_t id[DIGEST_BYTES];
};

static struct span
octets(const ASN1_OCTET_STRING *s)
{
    return s == NULL ? span_of(NULL, 0)
                     : span_of(ASN1_STRING_get0_data(s), (size_t)ASN1_STRING_length(s));
}

static int
read_time(const ASN1_TIME *t, int64_t *ret, struct err *e)
{
    struct tm tm;

    if (ASN1_TIME_to_tm(t, &tm) != 1)
        return err_openssl(e, E_PARSE, "a validity time does not parse");
    *ret = (int64_t)timegm(&tm);
    return 0;
}

/* RFC 5280 4.1.2.2: positive, at most 20 bytes. Zero exists in old roots and is let through. */
static int
read_serial(struct cert *c, struct err *e)
{
    const ASN1_INTEGER *s = X509_get0_serialNumber(c->x);
    const uint8_t *p = ASN1_STRING_get0_data(s);
    size_t n = (size_t)ASN1_STRING_length(s);

    if (ASN1_STRING_type(s) == V_ASN1_NEG_INTEGER)
        return err_set(e, E_PARSE, "the serial number is negative");
    for (; n > 1 && p[0] == 0; n--)
        p++;
    if (n > SERIAL_MAX_BYTES)
        return err_set(e, E_PARSE, "the serial number has %zu bytes, at most %d are allowed", n,
                       (int)SERIAL_MAX_BYTES);
    memcpy(c->serial, p, n);
    c->serial_n = n;
    return 0;
}

static bool
signed_by_key(X509 *x, X509 *issuer)
{
    EVP_PKEY *pkey = X509_get0_pubkey(issuer);
    bool good = pkey != NULL && X509_verify(x, pkey) == 1;

    ERR_clear_error();
    return good;
}

static int
read_facts(struct cert *c, struct err *e)
{
    const unsigned char *name;
    size_t name_n;

    /* Makes OpenSSL cache the extensions now: a shared X509 must not change later. */
    if (X509_check_purpose(c->x, -1, 0) != 1)
        return err_openssl(e, E_PARSE, "an extension is malformed, or there twice");
    if (X509_NAME_get0_der(X509_get_subject_name(c->x), &name, &name_n) != 1)
        return err_openssl(e, E_PARSE, "the subject does not parse");
    c->subject = span_of(name, name_n);
    c->ski = octets(X509_get0_subject_key_id(c->x));
    c->aki = octets(X509_get0_authority_key_id(c->x));
    c->sans = X509_get_ext_d2i(c->x, NID_subject_alt_name, NULL, NULL);
    TRY(read_time(X509_get0_notBefore(c->x), &c->not_before, e));
    TRY(read_time(X509_get0_notAfter(c->x), &c->not_after, e));
    TRY(read_serial(c, e));
    EVP_PKEY *pkey = X509_get0_pubkey(c->x);
    c->kind = pkey == NULL ? KEY_NONE : evp_kind(pkey);
    /* both checks: OpenSSL counts old "Netscape" and version 1 certificates as CAs of a sort */
    c->is_ca = (X509_get_extension_flags(c->x) & EXFLAG_CA) != 0 &&
               (X509_get_key_usage(c->x) & KU_KEY_CERT_SIGN) != 0 && X509_check_ca(c->x) == 1;
    long path_len = X509_get_pathlen(c->x);
    c->path_len = path_len < 0 ? -1 : path_len > CHAIN_MAX ? CHAIN_MAX : (int)path_len;
    c->is_self_signed =
        X509_NAME_cmp(X509_get_subject_name(c->x), X509_get_issuer_name(c->x)) == 0 &&
        signed_by_key(c->x, c->x);
    digest(cert_der(c), c->id);
    ERR_clear_error();
    return 0;
}

int
cert_from_x509(X509 *take_x509, struct cert **ret, struct err *e)
{
    CLEANUP(cert_unrefp) struct cert *c = calloc(1, sizeof(*c));

    if (c == NULL) {
        X509_free(take_x509);
        return err_nomem(e);
    }
    atomic_init(&c->refs, 1);
    c->x = take_x509;
    int n = i2d_X509(c->x, &c->der);
    if (n <= 0)
        return err_openssl(e, E_PARSE, "certificate: encode");
    c->der_n = (size_t)n;
    TRY(read_facts(c, e));
    *ret = STEAL(c);
    return 0;
}

int
cert_from_der(struct span der, struct cert **ret, struct err *e)
{
    const unsigned char *at = der.p;

    if (der.n == 0 || der.n > CERT_MAX_BYTES)
        return err_set(e, E_PARSE, "certificate of %zu bytes, want 1..%d", der.n,
                       (int)CERT_MAX_BYTES);
    X509 *x = d2i_X509(NULL, &at, (long)der.n);
    if (x == NULL)
        return err_openssl(e, E_PARSE, "the certificate does not parse");
    if (at != der.p + der.n) {
        X509_free(x);
        return err_set(e, E_PARSE, "%zu bytes after the certificate", (size_t)(der.p + der.n - at));
    }
    return cert_from_x509(x, ret, e);
}

static int
cert_from_block(const struct pem_block *b, struct cert **ret, struct err *e)
{
    struct buf der = BUF_INIT(CERT_MAX_BYTES);
    int r;

    if (!span_eq_str(b->label, "CERTIFICATE"))
        return err_set(e, E_PARSE, "line %zu: %.*s, want CERTIFICATE", b->line, SPAN_ARG(b->label));
    r = pem_decode(b, &der, e);
    if (r == 0)
        r = cert_from_der(buf_span(&der), ret, e);
    buf_done(&der);
    return r;
}

static int
certs_read(struct span pem, struct cert **ret, size_t max, size_t *ret_n, struct err *e)
{
    struct pem_block b;
    struct pem p;

    TRY(pem_open(pem, &p, e));
    while (TRY(pem_next(&p, &b, e)) != PEM_END) {
        if (*ret_n == max)
            return err_set(e, E_LIMIT, "more than %zu certificates", max);
        if (cert_from_block(&b, &ret[*ret_n], e) < 0)
            return err_wrap(e, "block %zu", p.block_n);
        *ret_n += 1;
    }
    return *ret_n > 0 ? 0 : err_set(e, E_PARSE, "no certificate: %s", pem_why_none(pem));
}

int
certs_from_pem(struct span pem, struct cert **ret, size_t max, size_t *ret_n, struct err *e)
{
    size_t n = 0;
    int r = certs_read(pem, ret, max, &n, e);

    for (; r < 0 && n > 0; n--) {
        cert_unref(ret[n - 1]);
        ret[n - 1] = NULL;
    }
    if (r == 0)
        *ret_n = n;
    return r;
}

int
cert_to_pem(const struct cert *c, struct buf *b, struct err *e)
{
    return pem_add(b, "CERTIFICATE", cert_der(c), e);
}

struct cert *
cert_ref(struct cert *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void
cert_unref(struct cert *c)
{
    if (c == NULL || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    GENERAL_NAMES_free(c->sans);
    X509_free(c->x);
    OPENSSL_free(c->der);
    free(c);
}

/* -- facts --------------------------------------------------------------------------------------
 */

X509 *
cert_x509(const struct cert *c)
{
    return c->x;
}

struct span
cert_der(const struct cert *c)
{
    return span_of(c->der, c->der_n);
}

const uint8_t *
cert_id(const struct cert *c)
{
    return c->id;
}

struct span
cert_subject_der(const struct cert *c)
{
    return c->subject;
}

struct span
cert_ski(const struct cert *c)
{
    return c->ski;
}

struct span
cert_aki(const struct cert *c)
{
    return c->aki;
}

struct span
cert_serial(const struct cert *c)
{
    return span_of(c->serial, c->serial_n);
}

int64_t
cert_not_before(const struct cert *c)
{
    return c->not_before;
}

int64_t
cert_not_after(const struct cert *c)
{
    return c->not_after;
}

bool
cert_is_ca(const struct cert *c)
{
    return c->is_ca;
}

int
cert_path_len(const struct cert *c)
{
    return c->path_len;
}

bool
cert_is_der(const struct cert *c)
{
    struct der all = der_of(cert_der(c)), whole = der_enter(&all, DER_SEQUENCE);
    struct span tbs = der_take_whole(&whole, DER_SEQUENCE);
    struct der in = der_of(tbs), parts = der_enter(&in, DER_SEQUENCE);
    uint8_t tag = 0;
    struct span last = { NULL, 0 };

    while (!der_at_end(&parts))
        last = der_any(&parts, &tag, NULL);
    if (!der_done(&parts) || !der_is_sound(tbs))
        return false;
    if (tag != (DER_CONTEXT_CONSTRUCTED | 3))
        return true; /* no extensions */
    struct der wrap = der_of(last), list = der_enter(&wrap, DER_SEQUENCE);
    while (!der_at_end(&list)) {
        struct der x = der_enter(&list, DER_SEQUENCE);

        (void)der_oid(&x);
        (void)der_default_false(&x);
        if (!der_is_sound(der_take(&x, DER_OCTET_STRING)) || !der_done(&x))
            return false;
    }
    return der_done(&list) && der_done(&wrap);
}

bool
cert_is_self_signed(const struct cert *c)
{
    return c->is_self_signed;
}

enum key_kind
cert_key_kind(const struct cert *c)
{
    return c->kind;
}

int
cert_public_key(const struct cert *c, struct key **ret, struct err *e)
{
    EVP_PKEY *k = X509_get_pubkey(c->x); /* a reference */

    return k == NULL ? err_set(e, E_PARSE, "a public key that cannot be read")
                     : key_from_evp(k, ret, e);
}

bool
cert_key_matches(const struct cert *c, const struct key *k)
{
    EVP_PKEY *pkey = X509_get0_pubkey(c->x);
    bool same = pkey != NULL && EVP_PKEY_eq(pkey, key_evp(k)) == 1;

    ERR_clear_error();
    return same;
}

size_t
cert_san_count(const struct cert *c)
{
    return c->sans == NULL ? 0 : (size_t)sk_GENERAL_NAME_num(c->sans);
}

struct san
cert_san_at(const struct cert *c, size_t i)
{
    static const enum san_kind sorts[] = {
        [GEN_EMAIL] = SAN_EMAIL,
        [GEN_DNS] = SAN_DNS,
        [GEN_URI] = SAN_URI,
        [GEN_IPADD] = SAN_IP,
    };
    const GENERAL_NAME *n = sk_GENERAL_NAME_value(c->sans, (int)i);
    size_t type = (size_t)n->type;

    if (type >= ARRAY_LEN(sorts) || sorts[type] == SAN_OTHER)
        return (struct san){ SAN_OTHER, { NULL, 0 } };
    return (struct san){ sorts[type], octets(n->d.ip) }; /* all four are ASN1_STRINGs */
}

int
cert_spiffe_uri(const struct cert *c, struct span *ret, struct err *e)
{
    struct span found = { NULL, 0 };
    bool have = false;

    for (size_t i = 0; i < cert_san_count(c); i++) {
        struct san s = cert_san_at(c, i);

        if (s.kind != SAN_URI)
            continue;
        if (have) /* X509-SVID 2: exactly one URI SAN */
            return err_set(e, E_DENIED, "the certificate has more than one URI SAN");
        for (size_t k = 0; k < s.value.n; k++)
            if (s.value.p[k] <= 0x20 || s.value.p[k] >= 0x7f)
                return err_set(e, E_DENIED, "the certificate's URI SAN has a byte 0x%02x",
                               s.value.p[k]);
        found = s.value;
        have = true;
    }
    if (!have)
        return CERT_NO_URI;
    *ret = found;
    return 0;
}

bool
cert_is_signed_by(const struct cert *c, const struct cert *issuer)
{
    return X509_check_issued(issuer->x, c->x) == X509_V_OK && signed_by_key(c->x, issuer->x);
}

bool
x509_usage_fits(X509 *x)
{
    uint32_t u = X509_get_extended_key_usage(x); /* all ones without the extension */

    return (u & XKU_ANYEKU) != 0 ||
           (u & (XKU_SSL_SERVER | XKU_SSL_CLIENT)) == (XKU_SSL_SERVER | XKU_SSL_CLIENT);
}

int
cert_check_time(const struct cert *c, struct err *e)
{
    char name[NAME_TEXT_BYTES], at[RFC3339_BYTES], now_text[RFC3339_BYTES];
    int64_t now = unix_s();
    bool late = now > c->not_after;

    if (!late && now >= c->not_before)
        return 0;
    cert_subject_text(c, name);
    rfc3339_s(late ? c->not_after : c->not_before, at);
    rfc3339_s(now, now_text);
    return err_set(e, E_DENIED, "\"%s\" %s %s (now %s)", name,
                   late ? "expired at" : "is not valid before", at, now_text);
}

/* Names for the bits of `have`, each with a comma in front of it but the first of the text. */
struct usage {
    uint32_t bit;
    const char *name;
};

static void
add_usages(char ret[USAGE_TEXT_BYTES], uint32_t have, const struct usage *u, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = strlen(ret);

        if ((have & u[i].bit) != 0)
            (void)snprintf(ret + at, USAGE_TEXT_BYTES - at, "%s%s", at > 0 ? "," : "", u[i].name);
    }
}

void
cert_usage_text(const struct cert *c, char ret[USAGE_TEXT_BYTES])
{
    static const struct usage key[] = {
        { KU_DIGITAL_SIGNATURE, "digitalSignature" },
        { KU_NON_REPUDIATION, "nonRepudiation" },
        { KU_KEY_ENCIPHERMENT, "keyEncipherment" },
        { KU_DATA_ENCIPHERMENT, "dataEncipherment" },
        { KU_KEY_AGREEMENT, "keyAgreement" },
        { KU_KEY_CERT_SIGN, "keyCertSign" },
        { KU_CRL_SIGN, "cRLSign" },
    };
    static const struct usage extended[] = {
        { XKU_SSL_SERVER, "serverAuth" },      { XKU_SSL_CLIENT, "clientAuth" },
        { XKU_CODE_SIGN, "codeSigning" },      { XKU_SMIME, "emailProtection" },
        { XKU_TIMESTAMP, "timeStamping" },     { XKU_OCSP_SIGN, "OCSPSigning" },
        { XKU_ANYEKU, "anyExtendedKeyUsage" },
    };
    uint32_t flags = X509_get_extension_flags(c->x);

    ret[0] = '\0';
    if ((flags & EXFLAG_KUSAGE) != 0)
        add_usages(ret, X509_get_key_usage(c->x), key, ARRAY_LEN(key));
    if ((flags & EXFLAG_XKUSAGE) != 0)
        add_usages(ret, X509_get_extended_key_usage(c->x), extended, ARRAY_LEN(extended));
    if (ret[0] == '\0')
        memcpy(ret, "-", 2);
}

void
cert_subject_text(const struct cert *c, char ret[NAME_TEXT_BYTES])
{
    name_text(X509_get_subject_name(c->x), ret);
}

void
cert_issuer_text(const struct cert *c, char ret[NAME_TEXT_BYTES])
{
    name_text(X509_get_issuer_name(c->x), ret);
}

void
cert_serial_text(const struct cert *c, char ret[SERIAL_TEXT_BYTES])
{
    hex_text(cert_serial(c), ret);
    if (ret[0] == '0' && ret[1] != '\0')
        memmove(ret, ret + 1, strlen(ret)); /* %x of a number: no zero in front */
}

/* Go's %q, for text without control characters. */
static int
add_quoted(struct buf *b, const char *s, struct err *e)
{
    TRY(buf_add_byte(b, '"', e));
    for (; *s != '\0'; s++) {
        if (*s == '"' || *s == '\\')
            TRY(buf_add_byte(b, '\\', e));
        TRY(buf_add_byte(b, (uint8_t)*s, e));
    }
    return buf_add_byte(b, '"', e);
}

int
cert_log_line(const struct cert *c, struct buf *b, struct err *e)
{
    char name[NAME_TEXT_BYTES], serial[SERIAL_TEXT_BYTES];
    char from[RFC3339_BYTES], to[RFC3339_BYTES];

    cert_serial_text(c, serial);
    rfc3339_s(c->not_before, from);
    rfc3339_s(c->not_after, to);
    TRY(buf_add_str(b, "x509 cert - Issuer: ", e));
    cert_issuer_text(c, name);
    TRY(add_quoted(b, name, e));
    TRY(buf_add_str(b, ", Subject: ", e));
    cert_subject_text(c, name);
    TRY(add_quoted(b, name, e));
    return buf_addf(b, e, ", SN: %s, NotBefore: \"%s\", NotAfter: \"%s\"", serial, from, to);
}
