/* jws.c - the only file of identity/ that sees OpenSSL. */
#include "identity/jws.h"

#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>

#include "pki/openssl.h"

enum { SIG_MAX_BYTES = JWS_RSA_MAX_BITS / 8 };

static const struct {
    const char *crv, *group;
    size_t coord_bytes;
    enum key_kind key;
} curves[JWS__N] = {
    [JWS_P256] = { "P-256", "prime256v1", 32, KEY_P256 },
    [JWS_P384] = { "P-384", "secp384r1", 48, KEY_P384 },
    [JWS_P521] = { "P-521", "secp521r1", 66, KEY_P521 },
};

/* The first row of each kind is what we sign with. */
static const struct jws_alg algs[] = {
    { "RS256", JWS_RSA, "SHA256", false },  { "RS384", JWS_RSA, "SHA384", false },
    { "RS512", JWS_RSA, "SHA512", false },  { "PS256", JWS_RSA, "SHA256", true },
    { "ES256", JWS_P256, "SHA256", false }, { "ES384", JWS_P384, "SHA384", false },
    { "ES512", JWS_P521, "SHA512", false },
};

struct jws_key {
    EVP_PKEY *pkey; /* owned */
    enum jws_kind kind;
};

DEFINE_CLEANUP(BIGNUM, BN_free)
DEFINE_CLEANUP(ECDSA_SIG, ECDSA_SIG_free)
DEFINE_CLEANUP(EVP_MD_CTX, EVP_MD_CTX_free)
DEFINE_CLEANUP(EVP_PKEY_CTX, EVP_PKEY_CTX_free)
DEFINE_CLEANUP(OSSL_PARAM, OSSL_PARAM_free)
DEFINE_CLEANUP(OSSL_PARAM_BLD, OSSL_PARAM_BLD_free)

const struct jws_alg *
jws_alg_find(struct span name)
{
    for (size_t i = 0; i < ARRAY_LEN(algs); i++)
        if (span_eq_str(name, algs[i].name))
            return &algs[i];
    return NULL;
}

/* OpenSSL's reason is of no use to a caller who sent the bytes; it is dropped so that it does not
 * turn up in somebody else's error. */
static int
refused(struct err *e, enum err_code code, const char *what)
{
    ERR_clear_error();
    return err_set(e, code, "%s", what);
}

static int
key_of_params(const char *type, OSSL_PARAM_BLD *bld, enum jws_kind kind, bool check,
              struct jws_key **ret, struct err *e)
{
    CLEANUP(OSSL_PARAM_freep) OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(bld);
    CLEANUP(EVP_PKEY_CTX_freep) EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    CLEANUP(EVP_PKEY_freep) EVP_PKEY *pkey = NULL;

    if (params == NULL || ctx == NULL)
        return err_nomem(e);
    if (EVP_PKEY_fromdata_init(ctx) != 1 ||
        EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_PUBLIC_KEY, params) != 1)
        return refused(e, E_PARSE, "not a public key (a point that is not on its curve?)");
    if (check) {
        CLEANUP(EVP_PKEY_CTX_freep) EVP_PKEY_CTX *v = EVP_PKEY_CTX_new_from_pkey(NULL, pkey, NULL);

        if (v == NULL)
            return err_nomem(e);
        if (EVP_PKEY_public_check(v) != 1)
            return refused(e, E_PARSE, "the point is not a public key of its curve");
    }
    struct jws_key *k = calloc(1, sizeof(*k));
    if (k == NULL)
        return err_nomem(e);
    *k = (struct jws_key){ .pkey = STEAL(pkey), .kind = kind };
    *ret = k;
    return 0;
}

int
jws_key_rsa(struct span n, struct span exponent, struct jws_key **ret, struct err *e)
{
    CLEANUP(OSSL_PARAM_BLD_freep) OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();

    while (n.n > 0 && n.p[0] == 0)
        n = span_skip(n, 1);
    while (exponent.n > 0 && exponent.p[0] == 0)
        exponent = span_skip(exponent, 1);
    if (n.n > JWS_RSA_MAX_BITS / 8)
        return err_set(e, E_LIMIT, "an RSA modulus of %zu bytes, at most %d bits are allowed", n.n,
                       JWS_RSA_MAX_BITS);
    if (exponent.n == 0 || exponent.n > JWS_RSA_MAX_E_BYTES ||
        (exponent.p[exponent.n - 1] & 1) == 0 || (exponent.n == 1 && exponent.p[0] < 3))
        return err_set(e, E_PARSE, "an RSA exponent that is even, 1, or over 32 bits");
    CLEANUP(BN_freep) BIGNUM *bn = BN_bin2bn(n.p, (int)n.n, NULL);
    CLEANUP(BN_freep) BIGNUM *be = BN_bin2bn(exponent.p, (int)exponent.n, NULL);
    if (bld == NULL || bn == NULL || be == NULL)
        return err_nomem(e);
    if (BN_num_bits(bn) < JWS_RSA_MIN_BITS)
        return err_set(e, E_LIMIT, "an RSA key of %d bits, want %d or more", BN_num_bits(bn),
                       JWS_RSA_MIN_BITS);
    if (!BN_is_odd(bn))
        return err_set(e, E_PARSE, "an even RSA modulus");
    if (OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_N, bn) != 1 ||
        OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_E, be) != 1)
        return err_nomem(e);
    return key_of_params("RSA", bld, JWS_RSA, false, ret, e);
}

int
jws_key_ec(struct span crv, struct span x, struct span y, struct jws_key **ret, struct err *e)
{
    CLEANUP(OSSL_PARAM_BLD_freep) OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
    uint8_t point[1 + 2 * JWS_COORD_BYTES] = { 0x04 }; /* SEC 1 2.3.3: uncompressed */
    size_t kind = JWS_P256;

    if (bld == NULL)
        return err_nomem(e);
    while (kind < JWS__N && !span_eq_str(crv, curves[kind].crv))
        kind++;
    if (kind == JWS__N)
        return JWS_OTHER_CURVE;
    size_t n = curves[kind].coord_bytes;
    if (x.n != n || y.n != n)
        return err_set(e, E_PARSE, "coordinates of %zu and %zu bytes, want %zu (RFC 7518 6.2.1.2)",
                       x.n, y.n, n);
    memcpy(point + 1, x.p, n);
    memcpy(point + 1 + n, y.p, n);
    if (OSSL_PARAM_BLD_push_utf8_string(bld, OSSL_PKEY_PARAM_GROUP_NAME, curves[kind].group, 0) !=
            1 ||
        OSSL_PARAM_BLD_push_octet_string(bld, OSSL_PKEY_PARAM_PUB_KEY, point, 1 + 2 * n) != 1)
        return err_nomem(e);
    return key_of_params("EC", bld, (enum jws_kind)kind, true, ret, e);
}

void
jws_key_free(struct jws_key *k)
{
    if (k == NULL)
        return;
    EVP_PKEY_free(k->pkey);
    free(k);
}

enum jws_kind
jws_key_kind(const struct jws_key *k)
{
    return k->kind;
}

/* RFC 7518 3.4: two numbers of full length, not DER. */
static int
ecdsa_to_der(enum jws_kind kind, struct span raw, uint8_t ret[SIG_MAX_BYTES], size_t *ret_n,
             struct err *e)
{
    size_t n = curves[kind].coord_bytes;
    CLEANUP(ECDSA_SIG_freep) ECDSA_SIG *sig = ECDSA_SIG_new();

    if (raw.n != 2 * n)
        return err_set(e, E_CRYPTO, "an ECDSA signature of %zu bytes, want %zu (RFC 7518 3.4)",
                       raw.n, 2 * n);
    CLEANUP(BN_freep) BIGNUM *r = BN_bin2bn(raw.p, (int)n, NULL);
    CLEANUP(BN_freep) BIGNUM *s = BN_bin2bn(raw.p + n, (int)n, NULL);
    if (sig == NULL || r == NULL || s == NULL || ECDSA_SIG_set0(sig, r, s) != 1)
        return err_nomem(e);
    (void)STEAL(r);
    (void)STEAL(s);
    int der_n = i2d_ECDSA_SIG(sig, NULL);
    if (der_n <= 0 || der_n > SIG_MAX_BYTES || i2d_ECDSA_SIG(sig, &ret) != der_n)
        return refused(e, E_CRYPTO, "an ECDSA signature that cannot be encoded");
    *ret_n = (size_t)der_n;
    return 0;
}

static int
ecdsa_from_der(enum jws_kind kind, struct span der, struct buf *out, struct err *e)
{
    const uint8_t *p = der.p;
    size_t n = curves[kind].coord_bytes;
    uint8_t *at;
    CLEANUP(ECDSA_SIG_freep) ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &p, (long)der.n);

    if (sig == NULL)
        return refused(e, E_CRYPTO, "OpenSSL gave no ECDSA signature");
    TRY(buf_reserve(out, 2 * n, &at, e));
    if (BN_bn2binpad(ECDSA_SIG_get0_r(sig), at, (int)n) != (int)n ||
        BN_bn2binpad(ECDSA_SIG_get0_s(sig), at + n, (int)n) != (int)n)
        return refused(e, E_CRYPTO, "an ECDSA signature that is too long");
    out->n += 2 * n;
    out->p[out->n] = '\0';
    return 0;
}

/* RFC 7518 3.5: the salt is as long as the hash. */
static bool
pss_setup(EVP_PKEY_CTX *ctx)
{
    return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PSS_PADDING) == 1 &&
           EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx, RSA_PSS_SALTLEN_DIGEST) == 1;
}

int
jws_verify(const struct jws_key *k, const struct jws_alg *alg, struct span input, struct span sig,
           struct err *e)
{
    CLEANUP(EVP_MD_CTX_freep) EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    EVP_PKEY_CTX *pctx = NULL;
    uint8_t der[SIG_MAX_BYTES];

    if (k->kind != alg->kind)
        return err_set(e, E_CRYPTO, "the key does not go with %s", alg->name);
    if (alg->kind != JWS_RSA) {
        size_t n = 0;

        TRY(ecdsa_to_der(alg->kind, sig, der, &n, e));
        sig = span_of(der, n);
    }
    if (ctx == NULL ||
        EVP_DigestVerifyInit_ex(ctx, &pctx, alg->md, NULL, NULL, k->pkey, NULL) != 1 ||
        (alg->pss && !pss_setup(pctx)))
        return refused(e, E_CRYPTO, "cannot prepare the signature check");
    if (EVP_DigestVerify(ctx, sig.p, sig.n, input.p, input.n) != 1)
        return refused(e, E_CRYPTO, "the signature is wrong");
    return 0;
}

static int
kind_of(const struct key *k, enum jws_kind *ret, struct err *e)
{
    enum key_kind have = key_get_kind(k);

    *ret = JWS_RSA;
    if (have >= KEY_RSA2048 && have <= KEY_RSA_OTHER)
        return 0;
    for (size_t i = JWS_P256; i < JWS__N; i++)
        if (curves[i].key == have) {
            *ret = (enum jws_kind)i;
            return 0;
        }
    return err_set(e, E_INVAL, "a key of kind %s cannot sign tokens; use p256, p384 or rsa2048",
                   key_kind_name(have));
}

int
jws_alg_of(const struct key *k, const struct jws_alg **ret, struct err *e)
{
    enum jws_kind kind;
    const struct jws_alg *a = algs;

    TRY(kind_of(k, &kind, e));
    while (a->kind != kind)
        a++;
    *ret = a;
    return 0;
}

int
jws_sign(const struct key *k, const struct jws_alg *alg, struct span input, struct buf *out,
         struct err *e)
{
    CLEANUP(EVP_MD_CTX_freep) EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    EVP_PKEY_CTX *pctx = NULL;
    uint8_t sig[SIG_MAX_BYTES];
    size_t n = sizeof(sig);

    if (ctx == NULL ||
        EVP_DigestSignInit_ex(ctx, &pctx, alg->md, NULL, NULL, key_evp(k), NULL) != 1 ||
        (alg->pss && !pss_setup(pctx)) || EVP_DigestSign(ctx, sig, &n, input.p, input.n) != 1)
        return refused(e, E_CRYPTO, "signing the token failed");
    return alg->kind == JWS_RSA ? buf_add(out, span_of(sig, n), e)
                                : ecdsa_from_der(alg->kind, span_of(sig, n), out, e);
}

/* One big number of a key, big endian, `pad` bytes long (0: as short as possible). */
static int
number_add(EVP_PKEY *pkey, const char *name, size_t pad, struct buf *out, struct err *e)
{
    BIGNUM *raw = NULL;
    uint8_t *at;

    (void)EVP_PKEY_get_bn_param(pkey, name, &raw);
    CLEANUP(BN_freep) BIGNUM *bn = raw;
    if (bn == NULL)
        return refused(e, E_CRYPTO, "the key does not tell its public half");
    size_t n = pad > 0 ? pad : (size_t)BN_num_bytes(bn);
    TRY(buf_reserve(out, n, &at, e));
    if (BN_bn2binpad(bn, at, (int)n) != (int)n)
        return refused(e, E_CRYPTO, "a number of the key is too long");
    out->n += n;
    out->p[out->n] = '\0';
    return 0;
}

int
jws_public(const struct key *k, const char **ret_crv, struct buf *n_or_x, struct buf *e_or_y,
           struct err *e)
{
    enum jws_kind kind;
    EVP_PKEY *pkey = key_evp(k);

    TRY(kind_of(k, &kind, e));
    bool rsa = kind == JWS_RSA;
    TRY(number_add(pkey, rsa ? OSSL_PKEY_PARAM_RSA_N : OSSL_PKEY_PARAM_EC_PUB_X,
                   curves[kind].coord_bytes, n_or_x, e));
    TRY(number_add(pkey, rsa ? OSSL_PKEY_PARAM_RSA_E : OSSL_PKEY_PARAM_EC_PUB_Y,
                   curves[kind].coord_bytes, e_or_y, e));
    *ret_crv = curves[kind].crv;
    return 0;
}
