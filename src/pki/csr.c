/* csr.c - PKCS#10 by our own strict reader: form, key policy; and one of our own. */
#include <openssl/evp.h>

#include "base/str.h"
#include "pki/csr_forms.h"
#include "pki/der.h"
#include "pki/leaf.h"
#include "pki/openssl.h"
#include "pki/pem.h"

/* clang-format off */
static const uint8_t oid_ec_key[] = { 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01 };
static const uint8_t oid_rsa_key[] = { 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01 };
static const uint8_t oid_ed25519[] = { 0x2b, 0x65, 0x70 };
static const uint8_t oid_p256[] = { 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07 };
static const uint8_t oid_p384[] = { 0x2b, 0x81, 0x04, 0x00, 0x22 };
static const uint8_t oid_p521[] = { 0x2b, 0x81, 0x04, 0x00, 0x23 };
static const uint8_t oid_extension_request[] = { 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e };
static const uint8_t oid_ms_extension_request[] = { 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0e };
static const uint8_t oid_basic_constraints[] = { 0x55, 0x1d, 0x13 };
static const uint8_t oid_alt_name[] = { 0x55, 0x1d, 0x11 };
static const uint8_t oid_ecdsa_sha256[] = { 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02 };
static const uint8_t oid_ecdsa_sha384[] = { 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03 };
static const uint8_t oid_ecdsa_sha512[] = { 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04 };
static const uint8_t oid_rsa_sha256[] = { 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b };
static const uint8_t oid_rsa_sha384[] = { 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c };
static const uint8_t oid_rsa_sha512[] = { 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d };
#define OID(o) { (o), sizeof(o) }
/* clang-format on */

#define PARSE_TEXT "failed to parse X.509 certificate signing request"

enum { RDNS_MAX = 32, EXTENSIONS_MAX = 32 };

const struct csr_curve csr_curves[CSR_CURVES] = {
    { OID(oid_p256), KEY_P256, 65, "P-256" },
    { OID(oid_p384), KEY_P384, 97, "P-384" },
    { OID(oid_p521), KEY_P521, 133, "P-521" },
};

/* SHA-1 and RSA-PSS are not among them: no agent sends them. */
const struct csr_algorithm csr_algorithms[CSR_ALGORITHMS] = {
    { OID(oid_ecdsa_sha256), FAMILY_EC, "SHA256" }, { OID(oid_ecdsa_sha384), FAMILY_EC, "SHA384" },
    { OID(oid_ecdsa_sha512), FAMILY_EC, "SHA512" }, { OID(oid_rsa_sha256), FAMILY_RSA, "SHA256" },
    { OID(oid_rsa_sha384), FAMILY_RSA, "SHA384" },  { OID(oid_rsa_sha512), FAMILY_RSA, "SHA512" },
    { OID(oid_ed25519), FAMILY_ED, NULL },
};

enum csr_family
csr_family_of(enum key_kind kind)
{
    return kind == KEY_ED25519 ? FAMILY_ED : kind <= KEY_P521 ? FAMILY_EC : FAMILY_RSA;
}

static int
not_encoded(struct err *e, const char *why)
{
    return err_set(e, E_PARSE, "certificate signing request is not properly encoded: %s", why);
}

static struct span
find(struct span s, const char *text)
{
    const uint8_t *p = s.n == 0 ? NULL : memmem(s.p, s.n, text, strlen(text));

    return p == NULL ? (struct span){ NULL, 0 } : span_of(p, (size_t)(s.p + s.n - p));
}

/* Base64 lines between the marks: white space dropped, the rest strict. */
static int
pem_body_decode(struct span body, struct buf *out, struct err *e)
{
    CLEANUP(buf_done) struct buf text = BUF_INIT(CSR_MAX_BYTES * 2);
    uint8_t *to;
    struct err why;

    if (buf_reserve(&text, body.n, &to, &why) < 0)
        return not_encoded(e, "it is too long");
    for (size_t i = 0; i < body.n; i++)
        if (body.p[i] != '\n' && body.p[i] != '\r' && body.p[i] != ' ' && body.p[i] != '\t')
            to[text.n++] = body.p[i];
    return base64_decode(out, buf_span(&text), &why) < 0 ? not_encoded(e, why.msg) : 0;
}

int
csr_from_pem(struct span pem, struct buf *out, struct err *e)
{
    static const char begin[] = "-----BEGIN ", end[] = "-----END ";

    if (pem.n > 0 && pem.p[0] == DER_SEQUENCE && pem.n <= CSR_MAX_BYTES)
        return buf_add(out, pem, e);
    if (pem.n > 2 * CSR_MAX_BYTES)
        return not_encoded(e, "it is too long");
    struct span label = span_skip(find(pem, begin), sizeof(begin) - 1);
    struct span body = find(label, "-----");

    if (body.p == NULL)
        return not_encoded(e, "no PEM block");
    label.n -= body.n;
    body = span_skip(body, 5);
    struct span tail = find(body, end);
    if (tail.p == NULL)
        return not_encoded(e, "the PEM block does not end");
    body.n -= tail.n;
    tail = span_skip(tail, sizeof(end) - 1);
    if (memchr(label.p, '\n', label.n) != NULL || tail.n < label.n + 5 ||
        memcmp(tail.p, label.p, label.n) != 0 || memcmp(tail.p + label.n, "-----", 5) != 0)
        return not_encoded(e, "the PEM block's marks do not match");
    return pem_body_decode(body, out, e);
}

static bool
utf8_is_sound(struct span s)
{
    for (size_t i = 0; i < s.n;) {
        uint8_t c = s.p[i++];
        size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : (c & 0xf0) == 0xe0 ? 2 : 3;
        uint32_t v = c < 0x80 ? c : c & (0x3fU >> more);

        if (c >= 0x80 && (c < 0xc2 || c > 0xf4 || s.n - i < more))
            return false;
        for (size_t k = 0; k < more; k++, i++) {
            if ((s.p[i] & 0xc0) != 0x80)
                return false;
            v = v << 6 | (s.p[i] & 0x3f);
        }
        if ((more == 2 && (v < 0x800 || (v >= 0xd800 && v < 0xe000))) ||
            (more == 3 && (v < 0x10000 || v > 0x10ffff)))
            return false;
    }
    return true;
}

/* A subject is not used for anything; its form is held to what every X.509 library accepts. */
static bool
name_value_is_sound(uint8_t tag, struct span s)
{
    switch (tag) {
    case DER_UTF8_STRING:
        return utf8_is_sound(s);
    case DER_PRINTABLE_STRING:
    case DER_IA5_STRING:
    case DER_NUMERIC_STRING:
        for (size_t i = 0; i < s.n; i++)
            if (s.p[i] >= 0x80)
                return false;
        return true;
    case DER_T61_STRING:
        return true;
    default:
        return false;
    }
}

static bool
name_is_sound(struct span name)
{
    struct der all = der_of(name), c = der_enter(&all, DER_SEQUENCE);
    size_t n = 0;

    while (!der_at_end(&c)) {
        struct der set = der_enter(&c, DER_SET);

        do {
            struct der pair = der_enter(&set, DER_SEQUENCE);
            uint8_t tag;

            (void)der_oid(&pair);
            struct span v = der_any(&pair, &tag, NULL);
            if (!der_done(&pair) || !name_value_is_sound(tag, v) || ++n > RDNS_MAX)
                return false;
        } while (!der_at_end(&set));
    }
    return der_done(&c);
}

static int
rsa_kind(struct der *bits, struct csr *ret, struct err *e)
{
    struct der c = der_enter(bits, DER_SEQUENCE);
    struct span n = der_uint(&c), exp = der_uint(&c);

    if (!der_done(&c) || !der_done(bits) || n.n == 0)
        return err_set(e, E_PARSE, PARSE_TEXT ": RSA public key");
    size_t bits_n = n.n * 8 - (size_t)(__builtin_clz(n.p[0] == 0 ? 1U : n.p[0]) - 24);
    if (bits_n < RSA_MIN_BITS || bits_n > RSA_MAX_BITS)
        return err_set(e, E_DENIED, "the CSR's RSA key has %zu bits; %d to %d are accepted", bits_n,
                       RSA_MIN_BITS, RSA_MAX_BITS);
    bool small = exp.n < 3 || (exp.n == 3 && exp.p[0] == 1 && exp.p[1] == 0 && exp.p[2] == 0);
    if ((n.p[n.n - 1] & 1) == 0 || (exp.p[exp.n - 1] & 1) == 0 || small || exp.n > 4)
        return err_set(e, E_DENIED,
                       "the CSR's RSA key has a modulus or exponent that no sound key "
                       "has (65537 is usual)");
    ret->kind = bits_n == 2048   ? KEY_RSA2048
                : bits_n == 3072 ? KEY_RSA3072
                : bits_n == 4096 ? KEY_RSA4096
                                 : KEY_RSA_OTHER;
    return 0;
}

static int
ec_kind(struct der *alg, struct span point, struct csr *ret, struct err *e)
{
    struct span oid = der_oid(alg);

    if (!der_done(alg))
        return err_set(e, E_PARSE, PARSE_TEXT ": EC parameters are not a named curve");
    for (size_t i = 0; i < CSR_CURVES; i++) {
        if (!span_eq(oid, csr_curves[i].oid))
            continue;
        if (point.n != csr_curves[i].point_bytes || point.p[0] != 4)
            return err_set(e, E_PARSE, PARSE_TEXT ": EC point is not an uncompressed one of %s",
                           csr_curves[i].name);
        ret->kind = csr_curves[i].kind;
        return 0;
    }
    return err_set(e, E_DENIED, "the CSR's key is on a curve other than P-256, P-384, P-521");
}

/* Which key it is, and that it is one we certify. */
static int
spki_parse(struct span spki, struct csr *ret, struct err *e)
{
    struct der all = der_of(spki), c = der_enter(&all, DER_SEQUENCE);
    struct der alg = der_enter(&c, DER_SEQUENCE);
    struct span oid = der_oid(&alg), bits = der_bits(&c);

    if (!der_done(&c) || !der_done(&all) || alg.bad || bits.n == 0)
        return err_set(e, E_PARSE, PARSE_TEXT ": public key");
    ret->spki = spki;
    if (span_eq(oid, span_of(oid_ec_key, sizeof(oid_ec_key))))
        return ec_kind(&alg, bits, ret, e);
    if (span_eq(oid, span_of(oid_rsa_key, sizeof(oid_rsa_key)))) {
        struct der inner = der_of(bits);
        struct span null = der_take(&alg, DER_NULL);

        if (null.n != 0 || !der_done(&alg))
            return err_set(e, E_PARSE, PARSE_TEXT ": RSA parameters");
        return rsa_kind(&inner, ret, e);
    }
    if (span_eq(oid, span_of(oid_ed25519, sizeof(oid_ed25519)))) {
        if (!der_done(&alg) || bits.n != 32)
            return err_set(e, E_PARSE, PARSE_TEXT ": Ed25519 public key");
        ret->kind = KEY_ED25519;
        return 0;
    }
    return err_set(e, E_DENIED, "the CSR's key is none of ECDSA, RSA, Ed25519");
}

int
spki_check(struct span spki, struct err *e)
{
    struct csr unused;

    return spki_parse(spki, &unused, e);
}

static int
basic_constraints_check(struct span value, struct err *e)
{
    struct der all = der_of(value), c = der_enter(&all, DER_SEQUENCE);
    bool ca = der_default_false(&c);

    if (!der_at_end(&c))
        (void)der_uint(&c);
    if (!der_done(&c) || !der_done(&all))
        return err_set(e, E_PARSE, PARSE_TEXT ": basic constraints");
    if (ca)
        return err_set(e, E_DENIED, "the CSR asks for a CA certificate (CA:TRUE)");
    return 0;
}

/* The names that agents ask for; what is asked for is never used. A kind that nobody here would
 * check is refused, not overlooked (specs/peers.md 5a 10, 12, 16). */
static bool
alt_name_is_sound(uint8_t tag, struct span s)
{
    if (tag == (DER_CONTEXT | 7))
        return s.n == 4 || s.n == 16;
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] <= ' ' || s.p[i] >= 0x7f)
            return false;
    return s.n > 0;
}

static int
alt_name_check(struct span value, struct err *e)
{
    struct der all = der_of(value), c = der_enter(&all, DER_SEQUENCE);
    size_t uris_n = 0;

    do {
        uint8_t tag;
        struct span s = der_any(&c, &tag, NULL);

        if (c.bad || (tag & 0xc0) != DER_CONTEXT || (tag & 0x1f) > 8)
            return err_set(e, E_PARSE, PARSE_TEXT ": subject alternative name");
        if (tag != (DER_CONTEXT | 2) && tag != (DER_CONTEXT | 6) && tag != (DER_CONTEXT | 7))
            return err_set(e, E_DENIED,
                           "the CSR asks for a name that is no URI, DNS name or IP address");
        if (!alt_name_is_sound(tag, s))
            return err_set(e, E_PARSE, PARSE_TEXT ": subject alternative name");
        uris_n += tag == (DER_CONTEXT | 6);
    } while (!der_at_end(&c));
    if (!der_done(&c) || !der_done(&all))
        return err_set(e, E_PARSE, PARSE_TEXT ": subject alternative name");
    if (uris_n > 1)
        return err_set(e, E_DENIED, "the CSR asks for %zu URIs; a workload has one", uris_n);
    return 0;
}

static int
extensions_check(struct span value, struct err *e)
{
    struct der all = der_of(value), c = der_enter(&all, DER_SEQUENCE);
    struct span seen[EXTENSIONS_MAX];
    size_t n = 0;

    while (!der_at_end(&c)) {
        struct der ext = der_enter(&c, DER_SEQUENCE);
        struct span oid = der_oid(&ext);

        (void)der_default_false(&ext);
        struct span v = der_take(&ext, DER_OCTET_STRING);
        if (!der_done(&ext) || n == EXTENSIONS_MAX || !der_is_sound(v))
            return err_set(e, E_PARSE, PARSE_TEXT ": requested extensions");
        for (size_t i = 0; i < n; i++)
            if (span_eq(seen[i], oid))
                return err_set(e, E_PARSE, PARSE_TEXT ": the same extension is requested twice");
        seen[n++] = oid;
        if (span_eq(oid, span_of(oid_basic_constraints, sizeof(oid_basic_constraints))))
            TRY(basic_constraints_check(v, e));
        if (span_eq(oid, span_of(oid_alt_name, sizeof(oid_alt_name))))
            TRY(alt_name_check(v, e));
    }
    if (!der_done(&c) || !der_done(&all))
        return err_set(e, E_PARSE, PARSE_TEXT ": requested extensions");
    return 0;
}

static int
attributes_check(struct der c, struct err *e)
{
    bool asked = false;

    while (!der_at_end(&c)) {
        struct der attr = der_enter(&c, DER_SEQUENCE);
        struct span oid = der_oid(&attr);
        struct der values = der_enter(&attr, DER_SET), first = values;
        bool is_request =
            span_eq(oid, span_of(oid_extension_request, sizeof(oid_extension_request))) ||
            span_eq(oid, span_of(oid_ms_extension_request, sizeof(oid_ms_extension_request)));
        size_t n = 0;

        for (; !der_at_end(&values); n++) {
            struct span whole;
            uint8_t tag;

            (void)der_any(&values, &tag, &whole);
            if (values.bad || !der_is_sound(whole))
                return err_set(e, E_PARSE, PARSE_TEXT ": attribute value");
        }
        if (!der_done(&attr) || !der_done(&values) || (is_request && (n != 1 || asked)))
            return err_set(e, E_PARSE, PARSE_TEXT ": attributes");
        if (is_request) {
            asked = true;
            TRY(extensions_check(span_of(first.p, (size_t)(first.end - first.p)), e));
        }
    }
    return c.bad ? err_set(e, E_PARSE, PARSE_TEXT ": attributes") : 0;
}

/* The three parts of the outer SEQUENCE; the algorithm looked up. */
int
csr_outer(struct span der, struct span *ret_tbs, const struct csr_algorithm **ret_alg,
          struct span *ret_signature, struct err *e)
{
    struct der all = der_of(der), c = der_enter(&all, DER_SEQUENCE);
    struct span tbs = der_take_whole(&c, DER_SEQUENCE);
    struct der alg = der_enter(&c, DER_SEQUENCE);
    struct span oid = der_oid(&alg), signature = der_bits(&c), params = { NULL, 0 };
    bool has_params = !der_at_end(&alg);

    if (has_params)
        params = der_take(&alg, DER_NULL);
    if (!der_done(&alg) || !der_done(&c) || !der_done(&all) || params.n != 0)
        return err_set(e, E_PARSE, PARSE_TEXT "%s",
                       c.bad || all.bad   ? ""
                       : all.p != all.end ? ": trailing bytes"
                                          : "");
    for (size_t i = 0; i < CSR_ALGORITHMS; i++) {
        const struct csr_algorithm *a = &csr_algorithms[i];

        if (!span_eq(oid, a->oid))
            continue;
        /* RFC 4055 5: NULL for RSA; RFC 5758 3.2, RFC 8410 3: absent for the others */
        if (has_params != (a->family == FAMILY_RSA))
            return err_set(e, E_PARSE, PARSE_TEXT ": signature algorithm parameters");
        *ret_tbs = tbs;
        *ret_alg = a;
        *ret_signature = signature;
        return 0;
    }
    return err_set(e, E_DENIED,
                   "the CSR is signed with an algorithm other than ECDSA or RSA with "
                   "SHA-2, or Ed25519");
}

int
csr_parse(struct span der, struct csr *ret, struct err *e)
{
    const struct csr_algorithm *alg;
    struct csr csr = { 0 };
    struct span signature;

    if (der.n > CSR_MAX_BYTES)
        return err_set(e, E_PARSE, PARSE_TEXT ": more than %d bytes", CSR_MAX_BYTES);
    TRY(csr_outer(der, &csr.tbs, &alg, &signature, e));
    struct der all = der_of(csr.tbs), c = der_enter(&all, DER_SEQUENCE);
    struct span version = der_uint(&c);
    csr.subject = der_take_whole(&c, DER_SEQUENCE);
    struct span spki = der_take_whole(&c, DER_SEQUENCE);
    struct der attributes = der_enter(&c, DER_CONTEXT_CONSTRUCTED);

    if (!der_done(&c) || version.n != 1 || version.p[0] != 0)
        return err_set(e, E_PARSE, PARSE_TEXT ": request information");
    if (!name_is_sound(csr.subject))
        return err_set(e, E_PARSE, PARSE_TEXT ": subject");
    TRY(spki_parse(spki, &csr, e));
    TRY(attributes_check(attributes, e));
    *ret = csr;
    return 0;
}

/* -- a CSR of our own -- */

static const struct csr_algorithm *
algorithm_for(enum key_kind kind)
{
    enum csr_family family = csr_family_of(kind);
    size_t i = 0;

    while (csr_algorithms[i].family != family)
        i++;
    return &csr_algorithms[i + (kind == KEY_P384 ? 1U : kind == KEY_P521 ? 2U : 0U)];
}

/* CertificationRequestInfo: empty subject, one critical SAN. */
static int
info_write(struct derw *w, const struct key *k, const char *uri, struct err *e)
{
    static const uint8_t is_critical[] = { DER_BOOLEAN, 1, 0xff },
                         version[] = { DER_INTEGER, 1, 0 };
    CLEANUP(buf_done) struct buf spki = BUF_INIT(LEAF_MAX_BYTES);
    size_t end = derw_mark(w);

    derw_put(w, DER_CONTEXT | 6, span_str(uri));
    derw_wrap(w, DER_SEQUENCE, end);
    derw_wrap(w, DER_OCTET_STRING, end);
    derw_bytes(w, span_of(is_critical, sizeof(is_critical)));
    derw_put(w, DER_OID, span_of(oid_alt_name, sizeof(oid_alt_name)));
    derw_wrap(w, DER_SEQUENCE, end); /* Extension */
    derw_wrap(w, DER_SEQUENCE, end); /* Extensions */
    derw_wrap(w, DER_SET, end);
    derw_put(w, DER_OID, span_of(oid_extension_request, sizeof(oid_extension_request)));
    derw_wrap(w, DER_SEQUENCE, end);
    derw_wrap(w, DER_CONTEXT_CONSTRUCTED, end);
    TRY(key_spki(k, &spki, e));
    derw_bytes(w, buf_span(&spki));
    derw_put(w, DER_SEQUENCE, span_str(""));
    derw_bytes(w, span_of(version, sizeof(version)));
    derw_wrap(w, DER_SEQUENCE, end);
    return 0;
}

int
leaf_to_pem(struct span der, struct buf *out, struct err *e)
{
    return pem_add(out, "CERTIFICATE", der, e);
}

int
csr_make(const struct key *k, const char *uri, struct buf *out, struct err *e)
{
    const struct csr_algorithm *alg = algorithm_for(key_get_kind(k));
    uint8_t info[LEAF_MAX_BYTES], all[LEAF_MAX_BYTES * 2], signature[SIGNATURE_MAX_BYTES];
    struct derw iw = derw_of(info, sizeof(info)), w = derw_of(all, sizeof(all));
    size_t signature_n = sizeof(signature), end = derw_mark(&w);

    TRY(info_write(&iw, k, uri, e));
    struct span tbs = derw_span(&iw);
    if (tbs.n == 0)
        return err_set(e, E_LIMIT, "CSR: the SPIFFE id is too long");
    EVP_MD_CTX *x = EVP_MD_CTX_new();
    bool good = x != NULL &&
                EVP_DigestSignInit_ex(x, NULL, alg->hash, NULL, NULL, key_evp(k), NULL) == 1 &&
                EVP_DigestSign(x, signature, &signature_n, tbs.p, tbs.n) == 1;
    EVP_MD_CTX_free(x);
    if (!good)
        return err_set(e, E_CRYPTO, "CSR: cannot sign");
    derw_bytes(&w, span_of(signature, signature_n));
    derw_bytes(&w, span_of("", 1)); /* no unused bits */
    derw_wrap(&w, DER_BIT_STRING, end);
    size_t alg_end = derw_mark(&w);
    if (alg->family == FAMILY_RSA)
        derw_put(&w, DER_NULL, span_str(""));
    derw_put(&w, DER_OID, alg->oid);
    derw_wrap(&w, DER_SEQUENCE, alg_end);
    derw_bytes(&w, tbs);
    derw_wrap(&w, DER_SEQUENCE, end);
    if (w.bad)
        return err_set(e, E_LIMIT, "CSR: it is too long");
    return pem_add(out, "CERTIFICATE REQUEST", derw_span(&w), e);
}
