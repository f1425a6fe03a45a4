/* leaf.c - the certificate of a workload or of our own listeners, by our own DER writer. */
#include "pki/leaf.h"

#include <arpa/inet.h>
#include <openssl/x509.h>

#include "pki/der.h"
#include "pki/leaf_template.h"
#include "pki/openssl.h"

/* clang-format off */
/* Critical. digitalSignature, and keyEncipherment where the key is RSA: istiod asks for both always, but RFC 8813 3 and
 * RFC 9295 3 forbid the second with EC and Ed25519 keys, which cannot do it. */
static const uint8_t key_usage_rsa[] = { 0x30, 0x0e, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff,
                                         0x04, 0x04, 0x03, 0x02, 0x05, 0xa0 },
                     key_usage_other[] = { 0x30, 0x0e, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff,
                                           0x04, 0x04, 0x03, 0x02, 0x07, 0x80 };
static const uint8_t oid_rsa_key[] = { 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01 };
/* serverAuth, clientAuth */
const uint8_t leaf_ext_eku[] = { 0x30, 0x1d, 0x06, 0x03, 0x55, 0x1d, 0x25, 0x04, 0x16, 0x30, 0x14,
                                 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01,
                                 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02 };
/* cA absent; critical */
const uint8_t leaf_ext_basic[] = { 0x30, 0x0c, 0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff,
                                   0x04, 0x02, 0x30, 0x00 };
const size_t leaf_ext_eku_n = sizeof(leaf_ext_eku), leaf_ext_basic_n = sizeof(leaf_ext_basic);
const uint8_t leaf_oid_aki[3] = { 0x55, 0x1d, 0x23 }, leaf_oid_san[3] = { 0x55, 0x1d, 0x11 };

/* specs/istio-ca.md 4.3 */
static const uint8_t alg_ecdsa_sha256[] = { 0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02 };
static const uint8_t alg_ecdsa_sha384[] = { 0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03 };
static const uint8_t alg_ecdsa_sha512[] = { 0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04 };
static const uint8_t alg_rsa_sha256[] = { 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01,
                                          0x0b, 0x05, 0x00 };
static const uint8_t alg_ed25519[] = { 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70 };
#define DER(a) { (a), sizeof(a) }
/* clang-format on */

static const struct signing {
    struct span der;
    const char *hash;
} signings[KEY__N] = {
    [KEY_P256] = { DER(alg_ecdsa_sha256), "SHA256" },
    [KEY_P384] = { DER(alg_ecdsa_sha384), "SHA384" },
    [KEY_P521] = { DER(alg_ecdsa_sha512), "SHA512" },
    [KEY_RSA2048] = { DER(alg_rsa_sha256), "SHA256" },
    [KEY_RSA3072] = { DER(alg_rsa_sha256), "SHA256" },
    [KEY_RSA4096] = { DER(alg_rsa_sha256), "SHA256" },
    [KEY_RSA_OTHER] = { DER(alg_rsa_sha256), "SHA256" },
    [KEY_ED25519] = { DER(alg_ed25519), NULL },
};

struct span
leaf_key_usage(struct span spki)
{
    struct der all = der_of(spki), c = der_enter(&all, DER_SEQUENCE);
    struct der alg = der_enter(&c, DER_SEQUENCE);

    return span_eq(der_oid(&alg), span_of(oid_rsa_key, sizeof(oid_rsa_key)))
               ? span_of(key_usage_rsa, sizeof(key_usage_rsa))
               : span_of(key_usage_other, sizeof(key_usage_other));
}

static int
fixed_write(struct leaf_template *t, struct err *e)
{
    struct derw w = derw_of(t->fixed, sizeof(t->fixed));
    size_t end = derw_mark(&w);

    if (t->ski_n > 0) {
        derw_put(&w, DER_CONTEXT, span_of(t->ski, t->ski_n));
        derw_wrap(&w, DER_SEQUENCE, end);
        derw_wrap(&w, DER_OCTET_STRING, end);
        derw_put(&w, DER_OID, span_of(leaf_oid_aki, sizeof(leaf_oid_aki)));
        derw_wrap(&w, DER_SEQUENCE, end);
    }
    derw_bytes(&w, span_of(leaf_ext_basic, sizeof(leaf_ext_basic)));
    derw_bytes(&w, span_of(leaf_ext_eku, sizeof(leaf_ext_eku)));
    t->fixed_n = derw_finish(&w);
    return w.bad ? err_set(e, E_LIMIT, "the signer's subject key identifier is too long") : 0;
}

int
leaf_template_new(const struct cert *signer, const struct key *signer_key,
                  struct leaf_template **ret, struct err *e)
{
    const struct signing *s =
        &signings[signer_key == NULL ? cert_key_kind(signer) : key_get_kind(signer_key)];
    struct span issuer = cert_subject_der(signer), ski = cert_ski(signer);

    if (s->der.n == 0)
        return err_set(e, E_INVAL, "leaves cannot be signed with this kind of key");
    if (issuer.n > LEAF_ISSUER_MAX || ski.n > LEAF_AKI_MAX)
        return err_set(e, E_LIMIT,
                       "the signer's subject (%d bytes at most) or subject key "
                       "identifier (%d) is too long",
                       LEAF_ISSUER_MAX, LEAF_AKI_MAX);
    CLEANUP(leaf_template_freep) struct leaf_template *t = calloc(1, sizeof(*t));
    if (t == NULL || (signer_key != NULL && (t->sign = EVP_MD_CTX_new()) == NULL))
        return err_nomem(e);
    memcpy(t->issuer, issuer.p, t->issuer_n = issuer.n);
    if (ski.n > 0)
        memcpy(t->ski, ski.p, t->ski_n = ski.n);
    t->algorithm = s->der;
    TRY(fixed_write(t, e));
    if (signer_key != NULL &&
        EVP_DigestSignInit_ex(t->sign, NULL, s->hash, NULL, NULL, key_evp(signer_key), NULL) != 1)
        return err_set(e, E_CRYPTO, "cannot prepare the signer's key");
    *ret = STEAL(t);
    return 0;
}

void
leaf_template_free(struct leaf_template *t)
{
    if (t == NULL)
        return;
    EVP_MD_CTX_free(t->sign);
    free(t);
}

static bool
text_is(const char *s, size_t n, const char *also)
{
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

        if (plain)
            continue;
        if (c == '\0' || strchr(also, c) == NULL)
            return false;
    }
    return n > 0;
}

int
leaf_san(const char *text, uint8_t *ret_tag, struct span *ret, uint8_t ip[16], struct err *e)
{
    size_t n = strlen(text);

    if (strncmp(text, "spiffe://", 9) == 0) {
        if (n > 2048 || !text_is(text + 9, n - 9, "-._/"))
            return err_set(e, E_INVAL, "\"%.80s\" is not a SPIFFE id", text);
        *ret_tag = DER_CONTEXT | 6;
        *ret = span_str(text);
        return 0;
    }
    int v4 = inet_pton(AF_INET, text, ip), v6 = v4 == 1 ? 0 : inet_pton(AF_INET6, text, ip);
    if (v4 == 1 || v6 == 1) {
        *ret_tag = DER_CONTEXT | 7;
        *ret = span_of(ip, v4 == 1 ? 4 : 16);
        return 0;
    }
    if (n > 253 || !text_is(text, n, "-._*"))
        return err_set(e, E_INVAL, "\"%.80s\" is neither a SPIFFE id, an IP address nor a DNS name",
                       text);
    *ret_tag = DER_CONTEXT | 2;
    *ret = span_str(text);
    return 0;
}

static int
request_check(const struct leaf_request *q, struct err *e)
{
    if (q->not_before < 0 || q->not_after <= q->not_before || q->not_after > 253402300799)
        return err_set(e, E_INVAL, "the leaf's times are out of order or out of range");
    if (q->sans_n == 0 || q->sans_n > LEAF_SANS_MAX ||
        (q->profile == LEAF_WORKLOAD && q->sans_n != 1))
        return err_set(e, E_INVAL, "a leaf has 1 to %d names, a workload's exactly one",
                       LEAF_SANS_MAX);
    for (size_t i = 0; i < q->sans_n; i++)
        if ((strncmp(q->sans[i], "spiffe://", 9) == 0) != (q->profile == LEAF_WORKLOAD))
            return err_set(e, E_INVAL, "a workload's leaf names a SPIFFE id, a server's none");
    return 0;
}

static int
san_write(struct derw *w, const struct leaf_request *q, struct err *e)
{
    static const uint8_t is_critical[] = { DER_BOOLEAN, 1, 0xff };
    size_t end = derw_mark(w);

    for (size_t i = q->sans_n; i-- > 0;) {
        uint8_t tag, ip[16];
        struct span s;

        TRY(leaf_san(q->sans[i], &tag, &s, ip, e));
        derw_put(w, tag, s);
    }
    derw_wrap(w, DER_SEQUENCE, end);
    derw_wrap(w, DER_OCTET_STRING, end);
    derw_bytes(w, span_of(is_critical, sizeof(is_critical)));
    derw_put(w, DER_OID, span_of(leaf_oid_san, sizeof(leaf_oid_san)));
    derw_wrap(w, DER_SEQUENCE, end);
    return 0;
}

/* RFC 5280 4.1.2.2: positive; 2^128 to 1 that it was not zero already. */
static void
serial_write(struct derw *w, const uint8_t serial[16])
{
    static const uint8_t zero[16], one = 1;

    derw_uint(w, memcmp(serial, zero, sizeof(zero)) == 0 ? span_of(&one, 1) : span_of(serial, 16));
}

int
leaf_tbs(const struct leaf_template *t, const struct leaf_request *q, uint8_t ret[TBS_MAX_BYTES],
         size_t *ret_n, struct err *e)
{
    static const uint8_t version3[] = { 0xa0, 0x03, DER_INTEGER, 1, 2 },
                         no_subject[] = { DER_SEQUENCE, 0 };
    struct derw w = derw_of(ret, TBS_MAX_BYTES);
    size_t end = derw_mark(&w);

    TRY(request_check(q, e));
    TRY(san_write(&w, q, e));
    derw_bytes(&w, span_of(t->fixed, t->fixed_n));
    derw_bytes(&w, leaf_key_usage(q->spki));
    derw_wrap(&w, DER_SEQUENCE, end);
    derw_wrap(&w, DER_CONTEXT_CONSTRUCTED | 3, end);
    derw_bytes(&w, q->spki);
    derw_bytes(&w, span_of(no_subject, sizeof(no_subject)));
    size_t times = derw_mark(&w);
    derw_time(&w, q->not_after);
    derw_time(&w, q->not_before);
    derw_wrap(&w, DER_SEQUENCE, times);
    derw_bytes(&w, span_of(t->issuer, t->issuer_n));
    derw_bytes(&w, t->algorithm);
    serial_write(&w, q->serial);
    derw_bytes(&w, span_of(version3, sizeof(version3)));
    derw_wrap(&w, DER_SEQUENCE, end);
    size_t n = derw_finish(&w);
    if (n == 0)
        return err_set(e, E_LIMIT, "the leaf would be longer than %d bytes", LEAF_MAX_BYTES);
    *ret_n = n;
    return 0;
}

int
leaf_finish(const struct leaf_template *t, struct span tbs, struct span signature,
            uint8_t ret[LEAF_MAX_BYTES], size_t *ret_n, struct err *e)
{
    static const uint8_t no_unused_bits;
    struct derw w = derw_of(ret, LEAF_MAX_BYTES);
    size_t end = derw_mark(&w);

    derw_bytes(&w, signature);
    derw_bytes(&w, span_of(&no_unused_bits, 1));
    derw_wrap(&w, DER_BIT_STRING, end);
    derw_bytes(&w, t->algorithm);
    derw_bytes(&w, tbs);
    derw_wrap(&w, DER_SEQUENCE, end);
    size_t n = derw_finish(&w);
    if (n == 0)
        return err_set(e, E_LIMIT, "the leaf would be longer than %d bytes", LEAF_MAX_BYTES);
    *ret_n = n;
    return 0;
}

int
leaf_sign(const struct leaf_template *t, struct span tbs, uint8_t ret[SIGNATURE_MAX_BYTES],
          size_t *ret_n, struct err *e)
{
    if (t->sign == NULL)
        return err_set(e, E_STATE, "this template has no key to sign with");
    EVP_MD_CTX *x = EVP_MD_CTX_new();
    size_t n = SIGNATURE_MAX_BYTES;
    /* a copy of the initialised context: DigestSignInit costs as much as an ECDSA signature */
    bool good = x != NULL && EVP_MD_CTX_copy_ex(x, t->sign) == 1 &&
                EVP_DigestSign(x, ret, &n, tbs.p, tbs.n) == 1;

    EVP_MD_CTX_free(x);
    if (!good)
        return err_set(e, E_CRYPTO, "the signer's key did not sign");
    *ret_n = n;
    return 0;
}

int
key_spki(const struct key *k, struct buf *out, struct err *e)
{
    uint8_t *der = NULL;
    int n = i2d_PUBKEY(key_evp(k), &der);

    if (n <= 0)
        return err_set(e, E_CRYPTO, "cannot write a public key");
    int r = buf_add(out, span_of(der, (size_t)n), e);
    OPENSSL_free(der);
    return r;
}
