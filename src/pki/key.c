/* key.c - private keys: made, read, written. */
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/objects.h>
#include <openssl/rsa.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "pki/openssl.h"
#include "pki/pem.h"

enum { RSA_MIN_BITS = 2048, RSA_MAX_BITS = 8192, PROOF_MAX_BYTES = RSA_MAX_BITS / 8 };

struct key {
    atomic_uint refs;
    EVP_PKEY *pkey;
    enum key_kind kind;
};

/* clang-format off */
static const struct {
    const char *name;
    int base;          /* EVP_PKEY_x */
    const char *group; /* of an EC key */
    unsigned bits;     /* of an RSA key */
} kinds[KEY__N] = {
    [KEY_NONE]      = { "none",    EVP_PKEY_NONE,    NULL,    0    },
    [KEY_P256]      = { "p256",    EVP_PKEY_EC,      "P-256", 0    },
    [KEY_P384]      = { "p384",    EVP_PKEY_EC,      "P-384", 0    },
    [KEY_P521]      = { "p521",    EVP_PKEY_EC,      "P-521", 0    },
    [KEY_RSA2048]   = { "rsa2048", EVP_PKEY_RSA,     NULL,    2048 },
    [KEY_RSA3072]   = { "rsa3072", EVP_PKEY_RSA,     NULL,    3072 },
    [KEY_RSA4096]   = { "rsa4096", EVP_PKEY_RSA,     NULL,    4096 },
    [KEY_RSA_OTHER] = { "rsa",     EVP_PKEY_RSA,     NULL,    0    },
    [KEY_ED25519]   = { "ed25519", EVP_PKEY_ED25519, NULL,    0    },
};
/* clang-format on */

int
err_openssl_reason(struct err *e)
{
    unsigned long no = ERR_peek_error();
    const char *why = no == 0 ? NULL : ERR_reason_error_string(no);

    ERR_clear_error();
    if (why != NULL) {
        size_t n = strlen(e->msg);
        (void)snprintf(e->msg + n, sizeof(e->msg) - n, ": %s", why);
    }
    return err_result(e);
}

const char *
key_kind_name(enum key_kind k)
{
    return kinds[(size_t)k < KEY__N ? k : KEY_NONE].name;
}

int
key_kind_parse(const char *name, enum key_kind *ret, struct err *e)
{
    for (enum key_kind k = KEY_P256; k < KEY__N; k++)
        if (k != KEY_RSA_OTHER && strcmp(kinds[k].name, name) == 0) {
            *ret = k;
            return 0;
        }
    return err_set(e, E_PARSE,
                   "\"%.40s\" is not a key type; want p256, p384, p521, rsa2048, rsa3072, rsa4096 "
                   "or ed25519",
                   name);
}

const EVP_MD *
key_kind_md(enum key_kind k)
{
    return k == KEY_ED25519 ? NULL
           : k == KEY_P384  ? EVP_sha384()
           : k == KEY_P521  ? EVP_sha512()
                            : EVP_sha256();
}

enum key_kind
evp_kind(const EVP_PKEY *pkey)
{
    int base = EVP_PKEY_get_base_id(pkey), bits = EVP_PKEY_get_bits(pkey), nid = NID_undef;
    char group[64] = "";

    if (base == EVP_PKEY_EC && EVP_PKEY_get_group_name(pkey, group, sizeof(group), NULL) == 1)
        nid = OBJ_txt2nid(group);
    ERR_clear_error();
    for (enum key_kind k = KEY_P256; k < KEY__N; k++) {
        if (kinds[k].base != base)
            continue;
        if (base == EVP_PKEY_EC && nid != EC_curve_nist2nid(kinds[k].group))
            continue;
        if (kinds[k].bits != 0 && bits != (int)kinds[k].bits)
            continue;
        if (k == KEY_RSA_OTHER && (bits < RSA_MIN_BITS || bits > RSA_MAX_BITS))
            continue;
        return k;
    }
    return KEY_NONE;
}

int
key_from_evp(EVP_PKEY *take_pkey, struct key **ret, struct err *e)
{
    CLEANUP(EVP_PKEY_freep) EVP_PKEY *pkey = take_pkey;
    enum key_kind kind = evp_kind(pkey);
    struct key *k;

    if (kind == KEY_NONE)
        return err_set(e, E_PARSE,
                       "a key of type %s with %d bits is not supported; want P-256, P-384, P-521, "
                       "RSA 2048..8192 or Ed25519",
                       EVP_PKEY_get0_type_name(pkey) == NULL ? "?" : EVP_PKEY_get0_type_name(pkey),
                       EVP_PKEY_get_bits(pkey));
    k = calloc(1, sizeof(*k));
    if (k == NULL)
        return err_nomem(e);
    atomic_init(&k->refs, 1);
    k->kind = kind;
    k->pkey = STEAL(pkey);
    *ret = k;
    return 0;
}

int
key_make(enum key_kind kind, struct key **ret, struct err *e)
{
    EVP_PKEY *pkey = NULL;

    if (kind <= KEY_NONE || kind >= KEY__N || kind == KEY_RSA_OTHER)
        return err_set(e, E_INVAL, "key: \"%s\" is not a kind that is made", key_kind_name(kind));
    if (kinds[kind].base == EVP_PKEY_RSA)
        pkey = EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)kinds[kind].bits);
    else if (kinds[kind].base == EVP_PKEY_EC)
        pkey = EVP_PKEY_Q_keygen(NULL, NULL, "EC", kinds[kind].group);
    else
        pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    if (pkey == NULL)
        return err_openssl(e, E_CRYPTO, "key: make %s", key_kind_name(kind));
    return key_from_evp(pkey, ret, e);
}

/* -- reading ------------------------------------------------------------------------------------
 */

static EVP_PKEY *
decode_ec(const unsigned char **at, long n)
{
    return d2i_PrivateKey(EVP_PKEY_EC, NULL, at, n);
}

static EVP_PKEY *
decode_rsa(const unsigned char **at, long n)
{
    return d2i_PrivateKey(EVP_PKEY_RSA, NULL, at, n);
}

static EVP_PKEY *
decode_pkcs8(const unsigned char **at, long n)
{
    PKCS8_PRIV_KEY_INFO *info = d2i_PKCS8_PRIV_KEY_INFO(NULL, at, n);
    EVP_PKEY *pkey = info == NULL ? NULL : EVP_PKCS82PKEY(info);

    PKCS8_PRIV_KEY_INFO_free(info);
    return pkey;
}

/* Labels that hold a private key; decode NULL: one that is told apart only to say why not. */
static const struct form {
    const char *label;
    EVP_PKEY *(*decode)(const unsigned char **at, long n);
    const char *why_not;
} forms[] = {
    { "PRIVATE KEY", decode_pkcs8, NULL },
    { "EC PRIVATE KEY", decode_ec, NULL },
    { "RSA PRIVATE KEY", decode_rsa, NULL },
    { "ENCRYPTED PRIVATE KEY", NULL,
      "the key is encrypted; decrypt it with: openssl pkey -in ca-key.pem" },
    { "DSA PRIVATE KEY", NULL, "DSA keys are not supported" },
    { "OPENSSH PRIVATE KEY", NULL, "OpenSSH's own key format is not supported" },
};

static const struct form *
form_of(struct span label)
{
    for (size_t i = 0; i < ARRAY_LEN(forms); i++)
        if (span_eq_str(label, forms[i].label))
            return &forms[i];
    return NULL;
}

static bool
has_text(struct span s, const char *what)
{
    return s.n > 0 && memmem(s.p, s.n, what, strlen(what)) != NULL;
}

/* A key whose private half does not belong to its public half would match its certificate and sign
 * what nobody can verify; so it signs once here. */
static int
key_prove(EVP_PKEY *pkey, struct err *e)
{
    static const unsigned char text[] = "meshroot proves a key";
    unsigned char sig[PROOF_MAX_BYTES];
    size_t sig_n = sizeof(sig);
    const EVP_MD *md = key_kind_md(evp_kind(pkey));
    EVP_MD_CTX *sign = EVP_MD_CTX_new(), *verify = EVP_MD_CTX_new();
    bool good = sign != NULL && verify != NULL &&
                EVP_DigestSignInit(sign, NULL, md, NULL, pkey) == 1 &&
                EVP_DigestSign(sign, sig, &sig_n, text, sizeof(text)) == 1 &&
                EVP_DigestVerifyInit(verify, NULL, md, NULL, pkey) == 1 &&
                EVP_DigestVerify(verify, sig, sig_n, text, sizeof(text)) == 1;

    EVP_MD_CTX_free(sign);
    EVP_MD_CTX_free(verify);
    ERR_clear_error();
    return good ? 0 : err_set(e, E_PARSE, "the private key does not belong to its own public key");
}

static int
key_from_block(const struct pem_block *b, const struct form *f, struct key **ret, struct err *e)
{
    CLEANUP(EVP_PKEY_freep) EVP_PKEY *pkey = NULL;
    CLEANUP(buf_wipe) struct buf der = BUF_INIT(PEM_MAX_BYTES);

    if (has_text(b->body, ",ENCRYPTED"))
        f = form_of(span_str("ENCRYPTED PRIVATE KEY"));
    if (f->decode == NULL)
        return err_set(e, E_PARSE, "%s", f->why_not);
    TRY(pem_decode(b, &der, e));
    const unsigned char *at = der.p;
    pkey = f->decode(&at, (long)der.n);
    if (pkey == NULL)
        return err_openssl(e, E_PARSE, "%s does not parse", f->label);
    ERR_clear_error(); /* decoders leave the attempts that failed */
    if (at != der.p + der.n)
        return err_set(e, E_PARSE, "%s: %zu bytes after the key", f->label,
                       (size_t)(der.p + der.n - at));
    if (evp_kind(pkey) != KEY_NONE)
        TRY(key_prove(pkey, e));
    return key_from_evp(STEAL(pkey), ret, e);
}

/* What follows the key may be other things (its certificate), never a second key. */
static int
no_second_key(struct pem *p, struct err *e)
{
    struct pem_block b;

    while (TRY(pem_next(p, &b, e)) != PEM_END)
        if (has_text(b.label, "PRIVATE KEY"))
            return err_set(e, E_PARSE, "line %zu: a second private key; which one is meant?",
                           b.line);
    return 0;
}

int
key_from_pem(struct span pem, struct key **ret, struct err *e)
{
    CLEANUP(key_unrefp) struct key *k = NULL;
    struct pem_block b;
    struct pem p;

    TRY(pem_open(pem, &p, e));
    int r = TRY(pem_next(&p, &b, e));
    if (r == 0 && span_eq_str(b.label, "EC PARAMETERS"))
        r = TRY(pem_next(&p, &b, e));
    if (r == PEM_END)
        return err_set(e, E_PARSE, "%s",
                       p.block_n == 0 ? pem_why_none(pem) : "EC PARAMETERS only, no private key");
    const struct form *f = form_of(b.label);
    if (f == NULL)
        return err_set(e, E_PARSE, "line %zu: %.*s is not a private key", b.line,
                       SPAN_ARG(b.label));
    TRY(key_from_block(&b, f, &k, e));
    TRY(no_second_key(&p, e));
    *ret = STEAL(k);
    return 0;
}

int
key_to_pkcs8(const struct key *k, struct buf *b, struct err *e)
{
    PKCS8_PRIV_KEY_INFO *info = EVP_PKEY2PKCS8(k->pkey);
    unsigned char *der = NULL;
    int n = info == NULL ? -1 : i2d_PKCS8_PRIV_KEY_INFO(info, &der);

    PKCS8_PRIV_KEY_INFO_free(info);
    if (n <= 0)
        return err_openssl(e, E_CRYPTO, "key: encode");
    int r = buf_add(b, span_of(der, (size_t)n), e);
    OPENSSL_clear_free(der, (size_t)n);
    return r;
}

int
key_to_pem(const struct key *k, struct buf *b, struct err *e)
{
    CLEANUP(buf_wipe) struct buf der = BUF_INIT(PEM_MAX_BYTES);

    TRY(key_to_pkcs8(k, &der, e));
    return pem_add(b, "PRIVATE KEY", buf_span(&der), e);
}

/* -- the rest -----------------------------------------------------------------------------------
 */

enum key_kind
key_get_kind(const struct key *k)
{
    return k->kind;
}

EVP_PKEY *
key_evp(const struct key *k)
{
    return k->pkey;
}

struct key *
key_ref(struct key *k)
{
    atomic_fetch_add_explicit(&k->refs, 1, memory_order_relaxed);
    return k;
}

void
key_unref(struct key *k)
{
    if (k == NULL || atomic_fetch_sub_explicit(&k->refs, 1, memory_order_acq_rel) != 1)
        return;
    EVP_PKEY_free(k->pkey);
    free(k);
}
