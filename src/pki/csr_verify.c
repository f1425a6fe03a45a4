/* csr_verify.c - a CSR's signature by its own key, without the generic decoders.
 *
 * What the library would make anew for each CSR is kept: the curve's parameters inside a key whose
 * point is replaced, the fetched hashes, the contexts. A kit serves one call at a time; kits wait
 * in a pool.
 */
#include <assert.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdlib.h>

#include "pki/csr_forms.h"
#include "pki/der.h"
#include "pki/openssl.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "OSSL_PARAM numbers are native");

enum { KITS_MAX = 64 }; /* in the pool; more may be in use */

static const char *const failures[] = {
    [FAMILY_EC] = "x509: ECDSA verification failure",
    [FAMILY_RSA] = "crypto/rsa: verification error",
    [FAMILY_ED] = "x509: Ed25519 verification failure",
};

struct kit {
    struct kit *next;
    EVP_PKEY *ec[CSR_CURVES]; /* the curve, and the point of the last CSR */
    EVP_PKEY_CTX *ec_ctx[CSR_CURVES];
    EVP_PKEY_CTX *rsa; /* ready for EVP_PKEY_fromdata */
    EVP_MD_CTX *hash;
};

static struct {
    pthread_once_t once;
    EVP_MD *hashes[CSR_ALGORITHMS]; /* fetched once, then only read */
    pthread_mutex_t lock;           /* of what follows */
    struct kit *free;
    size_t n;
} shared = { .once = PTHREAD_ONCE_INIT, .lock = PTHREAD_MUTEX_INITIALIZER };

static void
hashes_fetch(void)
{
    for (size_t i = 0; i < CSR_ALGORITHMS; i++)
        if (csr_algorithms[i].hash != NULL)
            shared.hashes[i] = EVP_MD_fetch(NULL, csr_algorithms[i].hash, NULL);
}

/* -- kits -- */

static void
kit_free(struct kit *k)
{
    if (k == NULL)
        return;
    for (size_t i = 0; i < CSR_CURVES; i++) {
        EVP_PKEY_CTX_free(k->ec_ctx[i]);
        EVP_PKEY_free(k->ec[i]);
    }
    EVP_PKEY_CTX_free(k->rsa);
    EVP_MD_CTX_free(k->hash);
    free(k);
}
DEFINE_CLEANUP(struct kit, kit_free)

static struct kit *
kit_new(void)
{
    CLEANUP(kit_freep) struct kit *k = calloc(1, sizeof(*k));

    if (k == NULL || (k->hash = EVP_MD_CTX_new()) == NULL)
        return NULL;
    k->rsa = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    if (k->rsa == NULL || EVP_PKEY_fromdata_init(k->rsa) != 1)
        return NULL;
    for (size_t i = 0; i < CSR_CURVES; i++) {
        EVP_PKEY_CTX *x = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
        bool good = x != NULL && EVP_PKEY_paramgen_init(x) == 1 &&
                    EVP_PKEY_CTX_set_group_name(x, csr_curves[i].name) == 1 &&
                    EVP_PKEY_paramgen(x, &k->ec[i]) == 1;

        EVP_PKEY_CTX_free(x);
        if (!good || (k->ec_ctx[i] = EVP_PKEY_CTX_new_from_pkey(NULL, k->ec[i], NULL)) == NULL)
            return NULL;
    }
    return STEAL(k);
}

static struct kit *
kit_take(void)
{
    (void)pthread_mutex_lock(&shared.lock);
    struct kit *k = shared.free;
    if (k != NULL) {
        shared.free = k->next;
        shared.n--;
    }
    (void)pthread_mutex_unlock(&shared.lock);
    return k == NULL ? kit_new() : k;
}

static void
kit_give(struct kit *take_k)
{
    CLEANUP(kit_freep) struct kit *k = take_k;

    (void)pthread_mutex_lock(&shared.lock);
    if (shared.n < KITS_MAX) {
        k->next = shared.free;
        shared.n++;
        shared.free = STEAL(k);
    }
    (void)pthread_mutex_unlock(&shared.lock);
}

/* -- keys -- */

/* Modulus and exponent as EVP_PKEY_fromdata wants them: native byte order. Owner: caller. */
static EVP_PKEY *
rsa_key(struct kit *kit, struct span spki)
{
    struct der all = der_of(spki), c = der_enter(&all, DER_SEQUENCE);
    uint8_t bytes[RSA_MAX_BITS / 8 + 8];
    struct span part[2];
    OSSL_PARAM params[3];
    EVP_PKEY *k = NULL;
    size_t at = 0;

    (void)der_take(&c, DER_SEQUENCE);
    struct der bits = der_of(der_bits(&c)), seq = der_enter(&bits, DER_SEQUENCE);
    for (size_t i = 0; i < 2; i++) {
        part[i] = der_uint(&seq);
        if (seq.bad || part[i].n > sizeof(bytes) - at)
            return NULL;
        for (size_t n = 0; n < part[i].n; n++)
            bytes[at + n] = part[i].p[part[i].n - 1 - n];
        params[i] = OSSL_PARAM_construct_BN(i == 0 ? OSSL_PKEY_PARAM_RSA_N : OSSL_PKEY_PARAM_RSA_E,
                                            bytes + at, part[i].n);
        at += part[i].n;
    }
    params[2] = OSSL_PARAM_construct_end();
    return EVP_PKEY_fromdata(kit->rsa, &k, EVP_PKEY_PUBLIC_KEY, params) == 1 ? k : NULL;
}

/* -- signatures -- */

enum verdict { GOOD, BAD_KEY, BAD_SIGNATURE };

struct signed_text {
    EVP_MD *hash;
    struct span text, signature;
};

/* verify_init takes the key as it is now: what the context knew of an earlier one is gone. */
static enum verdict
hashed_check(struct kit *kit, EVP_PKEY_CTX *x, const struct signed_text *s, bool tell_hash)
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    bool good = x != NULL && EVP_DigestInit_ex2(kit->hash, s->hash, NULL) == 1 &&
                EVP_DigestUpdate(kit->hash, s->text.p, s->text.n) == 1 &&
                EVP_DigestFinal_ex(kit->hash, sum, &n) == 1 && EVP_PKEY_verify_init(x) == 1 &&
                (!tell_hash || EVP_PKEY_CTX_set_signature_md(x, s->hash) == 1) &&
                EVP_PKEY_verify(x, s->signature.p, s->signature.n, sum, n) == 1;

    return good ? GOOD : BAD_SIGNATURE;
}

/* Setting the point checks that it is on the curve. */
static enum verdict
ec_check(struct kit *kit, const struct csr *c, const struct signed_text *s)
{
    size_t i = 0;

    while (i < CSR_CURVES && csr_curves[i].kind != c->kind)
        i++;
    if (i == CSR_CURVES)
        return BAD_KEY;
    size_t n = csr_curves[i].point_bytes;
    if (EVP_PKEY_set1_encoded_public_key(kit->ec[i], c->spki.p + c->spki.n - n, n) != 1)
        return BAD_KEY;
    return hashed_check(kit, kit->ec_ctx[i], s, false);
}

static enum verdict
rsa_check(struct kit *kit, const struct csr *c, const struct signed_text *s)
{
    EVP_PKEY *k = rsa_key(kit, c->spki);
    EVP_PKEY_CTX *x = k == NULL ? NULL : EVP_PKEY_CTX_new_from_pkey(NULL, k, NULL);
    enum verdict v = k == NULL ? BAD_KEY : hashed_check(kit, x, s, true);

    EVP_PKEY_CTX_free(x);
    EVP_PKEY_free(k);
    return v;
}

static enum verdict
ed_check(struct kit *kit, const struct csr *c, const struct signed_text *s)
{
    EVP_PKEY *k =
        EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, c->spki.p + c->spki.n - 32, 32);
    EVP_MD_CTX *x = EVP_MD_CTX_new();
    bool good = x != NULL && k != NULL && EVP_DigestVerifyInit(x, NULL, NULL, NULL, k) == 1 &&
                EVP_DigestVerify(x, s->signature.p, s->signature.n, s->text.p, s->text.n) == 1;

    (void)kit;
    EVP_MD_CTX_free(x);
    enum verdict v = k == NULL ? BAD_KEY : good ? GOOD : BAD_SIGNATURE;
    EVP_PKEY_free(k);
    return v;
}

int
csr_verify(struct span der, const struct csr *c, struct err *e)
{
    static enum verdict (*const checks[])(struct kit *, const struct csr *,
                                          const struct signed_text *) = {
        [FAMILY_EC] = ec_check, [FAMILY_RSA] = rsa_check, [FAMILY_ED] = ed_check
    };
    const struct csr_algorithm *alg;
    struct signed_text s;
    enum csr_family family = csr_family_of(c->kind);

    TRY(csr_outer(der, &s.text, &alg, &s.signature, e));
    if (alg->family != family)
        return err_set(e, E_CRYPTO, "%s: signed with an algorithm for another kind of key",
                       failures[family]);
    (void)pthread_once(&shared.once, hashes_fetch);
    s.hash = shared.hashes[alg - csr_algorithms];
    struct kit *kit = kit_take();
    if (kit == NULL)
        return err_nomem(e);
    enum verdict v = checks[family](kit, c, &s);
    kit_give(kit);
    if (v == GOOD)
        return 0;
    ERR_clear_error(); /* a stranger's reasons stay out of somebody else's */
    return err_set(e, E_CRYPTO, "%s%s", failures[family],
                   v == BAD_KEY ? ": the public key is not valid" : "");
}
