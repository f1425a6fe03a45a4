/* issue.c - roots and intermediates, made offline with OpenSSL's X.509 API. */
#include "pki/issue.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "pki/internal.h"

enum {
    DAYS_MAX = 36500,
    DAY_S = 24 * 60 * 60,
    BACK_S = 2 * 60, /* as istiod: for clocks that are a little behind */
    SERIAL_BYTES = 16,
    SUBJECT_MAX_BYTES = 1024,
    DNS_MAX_BYTES = 253,
    SHA1_BYTES = 20,
};

DEFINE_CLEANUP(X509_NAME, X509_NAME_free)
DEFINE_CLEANUP(AUTHORITY_KEYID, AUTHORITY_KEYID_free)
DEFINE_CLEANUP(GENERAL_NAMES, GENERAL_NAMES_free)
DEFINE_CLEANUP(ASN1_BIT_STRING, ASN1_BIT_STRING_free)
DEFINE_CLEANUP(ASN1_OCTET_STRING, ASN1_OCTET_STRING_free)
DEFINE_CLEANUP(BASIC_CONSTRAINTS, BASIC_CONSTRAINTS_free)
DEFINE_CLEANUP(BIGNUM, BN_free)

/* -- subject ------------------------------------------------------------------------------------
 */

/* Types that a subject may have; RFC 4514 3 and what Go prints. */
static const struct {
    const char *name;
    int nid;
} types[] = {
    { "CN", NID_commonName },
    { "O", NID_organizationName },
    { "OU", NID_organizationalUnitName },
    { "L", NID_localityName },
    { "ST", NID_stateOrProvinceName },
    { "C", NID_countryName },
    { "STREET", NID_streetAddress },
    { "POSTALCODE", NID_postalCode },
    { "SERIALNUMBER", NID_serialNumber },
    { "DC", NID_domainComponent },
    { "UID", NID_userId },
};

/* Takes the text up to an unescaped ',' from *s, without its escapes, into `out`. */
static int
take_value(struct span *s, struct buf *out, struct err *e)
{
    while (s->n > 0 && s->p[0] != ',') {
        uint8_t c = s->p[0];

        if (c == '\\') {
            *s = span_skip(*s, 1);
            if (s->n == 0)
                return err_set(e, E_INVAL, "subject: a '\\' at the end");
            c = s->p[0];
        } else if (strchr("+\"<>;", c) != NULL) {
            return err_set(e, E_INVAL, "subject: '%c' must be written '\\%c'", c, c);
        }
        if (c < 0x20 || c == 0x7f)
            return err_set(e, E_INVAL, "subject: a control character (0x%02x)", c);
        TRY(buf_add_byte(out, c, e));
        *s = span_skip(*s, 1);
    }
    return 0;
}

static int
add_type(X509_NAME *name, struct span type, const struct buf *value, struct err *e)
{
    type = span_trim(type);
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (!span_eq_str(type, types[i].name))
            continue;
        if (X509_NAME_add_entry_by_NID(name, types[i].nid, MBSTRING_UTF8, value->p, (int)value->n,
                                       -1, 0) != 1)
            return err_openssl(e, E_INVAL, "subject: %s=%s", types[i].name, buf_text(value));
        return 0;
    }
    return err_set(e, E_INVAL,
                   "subject: \"%.*s\" is not an attribute; want CN, O, OU, L, ST, C, STREET, "
                   "POSTALCODE, SERIALNUMBER, DC or UID",
                   type.n < 40 ? (int)type.n : 40, (const char *)type.p);
}

static int
take_attribute(X509_NAME *name, struct span *s, struct err *e)
{
    const uint8_t *eq = s->n == 0 ? NULL : memchr(s->p, '=', s->n);
    struct buf value = BUF_INIT(SUBJECT_MAX_BYTES);

    if (eq == NULL)
        return err_set(e, E_INVAL, "subject: \"%.*s\" has no '='; want CN=name,O=organisation",
                       s->n < 60 ? (int)s->n : 60, s->n == 0 ? "" : (const char *)s->p);
    struct span type = span_of(s->p, (size_t)(eq - s->p));
    *s = span_skip(*s, type.n + 1);
    int r = take_value(s, &value, e);
    if (r == 0 && value.n == 0)
        r = err_set(e, E_INVAL, "subject: %.*s= is empty", type.n < 40 ? (int)type.n : 40,
                    (const char *)type.p);
    if (r == 0)
        r = add_type(name, type, &value, e);
    buf_done(&value);
    return r;
}

static int
subject_parse(const char *text, X509_NAME **ret, struct err *e)
{
    struct span s = span_str(text);
    CLEANUP(X509_NAME_freep) X509_NAME *name = X509_NAME_new();

    if (name == NULL)
        return err_nomem(e);
    if (s.n == 0)
        return err_set(e, E_INVAL, "subject: a CA needs one, such as O=Istio,CN=Root A");
    if (s.n > SUBJECT_MAX_BYTES)
        return err_set(e, E_LIMIT, "subject: longer than %d bytes", (int)SUBJECT_MAX_BYTES);
    for (;;) {
        TRY(take_attribute(name, &s, e));
        if (s.n == 0)
            break;
        s = span_skip(s, 1); /* the comma: one more must follow */
    }
    *ret = STEAL(name);
    return 0;
}

/* -- extensions ---------------------------------------------------------------------------------
 */

static int
add_ext(X509 *x, int nid, void *value, bool critical, struct err *e)
{
    if (X509_add1_ext_i2d(x, nid, value, critical, X509V3_ADD_APPEND) != 1)
        return err_openssl(e, E_CRYPTO, "extension %s", OBJ_nid2sn(nid));
    return 0;
}

static int
add_constraints(X509 *x, int path_len, struct err *e)
{
    CLEANUP(BASIC_CONSTRAINTS_freep) BASIC_CONSTRAINTS *bc = BASIC_CONSTRAINTS_new();
    CLEANUP(ASN1_BIT_STRING_freep) ASN1_BIT_STRING *usage = ASN1_BIT_STRING_new();

    if (bc == NULL || usage == NULL)
        return err_nomem(e);
    bc->ca = 0xff; /* written as it is, and DER has one TRUE (X.690 11.1) */
    if (path_len >= 0) {
        bc->pathlen = ASN1_INTEGER_new();
        if (bc->pathlen == NULL || ASN1_INTEGER_set(bc->pathlen, path_len) != 1)
            return err_nomem(e);
    }
    TRY(add_ext(x, NID_basic_constraints, bc, true, e));
    /* RFC 5280 4.2.1.3: keyCertSign is bit 5, cRLSign bit 6 */
    if (ASN1_BIT_STRING_set_bit(usage, 5, 1) != 1 || ASN1_BIT_STRING_set_bit(usage, 6, 1) != 1)
        return err_nomem(e);
    return add_ext(x, NID_key_usage, usage, true, e);
}

/* RFC 5280 4.2.1.2 method 1, as openssl's "hash": SHA-1 of the key's bits. */
static int
add_key_ids(X509 *x, const struct cert *issuer, struct err *e)
{
    unsigned char md[SHA1_BYTES];
    unsigned n = sizeof(md);
    CLEANUP(ASN1_OCTET_STRING_freep) ASN1_OCTET_STRING *ski = ASN1_OCTET_STRING_new();
    CLEANUP(AUTHORITY_KEYID_freep) AUTHORITY_KEYID *aki = AUTHORITY_KEYID_new();

    if (ski == NULL || aki == NULL)
        return err_nomem(e);
    if (X509_pubkey_digest(x, EVP_sha1(), md, &n) != 1 ||
        ASN1_OCTET_STRING_set(ski, md, (int)n) != 1)
        return err_openssl(e, E_CRYPTO, "subject key identifier");
    TRY(add_ext(x, NID_subject_key_identifier, ski, false, e));
    if (issuer == NULL || cert_ski(issuer).n == 0)
        return 0;
    aki->keyid = ASN1_OCTET_STRING_new();
    if (aki->keyid == NULL ||
        ASN1_OCTET_STRING_set(aki->keyid, cert_ski(issuer).p, (int)cert_ski(issuer).n) != 1)
        return err_nomem(e);
    return add_ext(x, NID_authority_key_identifier, aki, false, e);
}

static bool
is_dns_name(const char *s)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool alnum = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');

        if (!alnum && strchr("-_.*", c) == NULL)
            return false;
    }
    return n > 0 && n <= DNS_MAX_BYTES && s[0] != '.' && s[n - 1] != '.' && strstr(s, "..") == NULL;
}

static int
add_one_san(GENERAL_NAMES *names, const char *dns, struct err *e)
{
    GENERAL_NAME *n = GENERAL_NAME_new();
    ASN1_IA5STRING *text = ASN1_IA5STRING_new();

    if (n == NULL || text == NULL || ASN1_STRING_set(text, dns, -1) != 1) {
        GENERAL_NAME_free(n);
        ASN1_IA5STRING_free(text);
        return err_nomem(e);
    }
    GENERAL_NAME_set0_value(n, GEN_DNS, text);
    if (sk_GENERAL_NAME_push(names, n) <= 0) {
        GENERAL_NAME_free(n);
        return err_nomem(e);
    }
    return 0;
}

static int
add_sans(X509 *x, const struct ca_request *q, struct err *e)
{
    CLEANUP(GENERAL_NAMES_freep) GENERAL_NAMES *names = GENERAL_NAMES_new();

    if (q->dns_n == 0)
        return 0;
    if (names == NULL)
        return err_nomem(e);
    for (size_t i = 0; i < q->dns_n; i++) {
        if (!is_dns_name(q->dns[i]))
            return err_set(e, E_INVAL, "\"%.80s\" is not a DNS name", q->dns[i]);
        TRY(add_one_san(names, q->dns[i], e));
    }
    return add_ext(x, NID_subject_alt_name, names, false, e);
}

/* -- certificates -------------------------------------------------------------------------------
 */

static int
set_serial(X509 *x, struct err *e)
{
    uint8_t random[SERIAL_BYTES];

    TRY(random_bytes(random, sizeof(random), e));
    random[0] |= random[0] == 0; /* never zero, and never shorter */
    CLEANUP(BN_freep) BIGNUM *bn = BN_bin2bn(random, sizeof(random), NULL);
    if (bn == NULL || BN_to_ASN1_INTEGER(bn, X509_get_serialNumber(x)) == NULL)
        return err_nomem(e);
    return 0;
}

/* From two minutes ago for so many days, inside the issuer's own time. */
static int
set_times(X509 *x, uint64_t days, const struct cert *issuer, struct err *e)
{
    int64_t now = unix_s(), from = now - BACK_S, to = now + (int64_t)days * DAY_S;

    if (issuer != NULL && from < cert_not_before(issuer))
        from = cert_not_before(issuer);
    if (issuer != NULL && to > cert_not_after(issuer))
        to = cert_not_after(issuer);
    if (ASN1_TIME_set(X509_getm_notBefore(x), (time_t)from) == NULL ||
        ASN1_TIME_set(X509_getm_notAfter(x), (time_t)to) == NULL)
        return err_openssl(e, E_CRYPTO, "validity");
    return 0;
}

/* Everything of both; issuer NULL: self-signed with k. */
static int
make(const struct ca_request *q, const struct key *k, const struct cert *issuer,
     const struct key *issuer_key, struct cert **ret, struct err *e)
{
    CLEANUP(X509_NAME_freep) X509_NAME *name = NULL;
    CLEANUP(X509_freep) X509 *x = X509_new();
    const struct key *by = issuer == NULL ? k : issuer_key;

    if (q->days == 0 || q->days > DAYS_MAX)
        return err_set(e, E_INVAL, "days: %llu, want 1..%d", (unsigned long long)q->days,
                       (int)DAYS_MAX);
    TRY(subject_parse(q->subject, &name, e));
    if (x == NULL)
        return err_nomem(e);
    if (X509_set_version(x, X509_VERSION_3) != 1 || X509_set_subject_name(x, name) != 1 ||
        X509_set_issuer_name(x, issuer == NULL ? name : X509_get_subject_name(cert_x509(issuer))) !=
            1 ||
        X509_set_pubkey(x, key_evp(k)) != 1)
        return err_openssl(e, E_CRYPTO, "certificate");
    TRY(set_serial(x, e));
    TRY(set_times(x, q->days, issuer, e));
    TRY(add_constraints(x, q->path_len, e));
    TRY(add_key_ids(x, issuer, e));
    TRY(add_sans(x, q, e));
    if (X509_sign(x, key_evp(by), key_kind_md(key_get_kind(by))) <= 0)
        return err_openssl(e, E_CRYPTO, "sign the certificate");
    return cert_from_x509(STEAL(x), ret, e);
}

int
root_make(const struct ca_request *q, struct key *k, struct cert **ret, struct err *e)
{
    return make(q, k, NULL, NULL, ret, e);
}

static int
check_issuer(const struct ca_request *q, const struct cert *issuer, const struct key *issuer_key,
             struct err *e)
{
    char name[NAME_TEXT_BYTES];
    int room = cert_path_len(issuer);

    cert_subject_text(issuer, name);
    if (!cert_is_ca(issuer))
        return err_set(e, E_DENIED, "the issuer \"%s\" is not a CA", name);
    if (!cert_key_matches(issuer, issuer_key))
        return err_set(e, E_DENIED, "the key does not belong to the issuer \"%s\"", name);
    if (room == 0)
        return err_set(e, E_DENIED, "the issuer \"%s\" has path length 0: no CA may stand below it",
                       name);
    if (room > 0 && q->path_len >= room)
        return err_set(e, E_DENIED,
                       "path length %d does not fit below the issuer \"%s\" with path length %d",
                       q->path_len, name, room);
    return cert_check_time(issuer, e) < 0 ? err_wrap(e, "the issuer") : 0;
}

int
intermediate_make(const struct ca_request *q, struct key *k, const struct cert *issuer,
                  const struct key *issuer_key, struct cert **ret, struct err *e)
{
    CLEANUP(cert_unrefp) struct cert *made = NULL;

    TRY(check_issuer(q, issuer, issuer_key, e));
    TRY(make(q, k, issuer, issuer_key, &made, e));
    if (span_eq(cert_subject_der(made), cert_subject_der(issuer)))
        return err_set(e, E_INVAL, "subject: the same as the issuer's; the two must differ");
    *ret = STEAL(made);
    return 0;
}
