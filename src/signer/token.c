/* token.c - see token.h. */
#include "signer/token.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <p11-kit/p11-kit.h>
#include <p11-kit/uri.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "pki/openssl.h"
#include "signer/sandbox.h"
#include "signer/signer.h"

enum { PROOF_BYTES = 32, NUMBER_MAX_BYTES = 1024 };

DEFINE_CLEANUP(P11KitUri, p11_kit_uri_free)

struct token {
    CK_FUNCTION_LIST *calls;
    P11KitUri *uri;
    CK_SLOT_ID slot;
    char name[TOKEN_NAME_BYTES];
    bool is_one_at_a_time; /* see sessions_open */
    pthread_mutex_t lock;  /* of `spare` */
    pthread_cond_t one_is_spare;
    CK_SESSION_HANDLE spare[SIGNER_LANES_MAX + 1];
    size_t spare_n;
    atomic_bool is_lost;
    char why[ERR_MSG_BYTES]; /* written before is_lost is set, once */
};

/* -- what the module says -- */

static const char *
rv_name(CK_RV rv)
{
    static const struct {
        CK_RV rv;
        const char *name;
    } rows[] = {
        { CKR_GENERAL_ERROR, "CKR_GENERAL_ERROR" },
        { CKR_FUNCTION_FAILED, "CKR_FUNCTION_FAILED" },
        { CKR_HOST_MEMORY, "CKR_HOST_MEMORY" },
        { CKR_DEVICE_ERROR, "CKR_DEVICE_ERROR" },
        { CKR_DEVICE_MEMORY, "CKR_DEVICE_MEMORY" },
        { CKR_DEVICE_REMOVED, "CKR_DEVICE_REMOVED" },
        { CKR_TOKEN_NOT_PRESENT, "CKR_TOKEN_NOT_PRESENT" },
        { CKR_TOKEN_NOT_RECOGNIZED, "CKR_TOKEN_NOT_RECOGNIZED" },
        { CKR_SESSION_CLOSED, "CKR_SESSION_CLOSED" },
        { CKR_SESSION_COUNT, "CKR_SESSION_COUNT" },
        { CKR_SESSION_HANDLE_INVALID, "CKR_SESSION_HANDLE_INVALID" },
        { CKR_OBJECT_HANDLE_INVALID, "CKR_OBJECT_HANDLE_INVALID" },
        { CKR_KEY_HANDLE_INVALID, "CKR_KEY_HANDLE_INVALID" },
        { CKR_KEY_FUNCTION_NOT_PERMITTED, "CKR_KEY_FUNCTION_NOT_PERMITTED" },
        { CKR_MECHANISM_INVALID, "CKR_MECHANISM_INVALID" },
        { CKR_USER_NOT_LOGGED_IN, "CKR_USER_NOT_LOGGED_IN" },
        { CKR_PIN_INCORRECT, "CKR_PIN_INCORRECT" },
        { CKR_PIN_INVALID, "CKR_PIN_INVALID" },
        { CKR_PIN_LEN_RANGE, "CKR_PIN_LEN_RANGE" },
        { CKR_PIN_LOCKED, "CKR_PIN_LOCKED" },
        { CKR_PIN_EXPIRED, "CKR_PIN_EXPIRED" },
        { CKR_CRYPTOKI_NOT_INITIALIZED, "CKR_CRYPTOKI_NOT_INITIALIZED" },
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].rv == rv)
            return rows[i].name;
    return "another CKR";
}

/* A call of the module failed. A module whose system call was refused hides that behind a general
 * error: the call is named too. */
static int
module_error(const char *what, CK_RV rv, struct err *e)
{
    char refused[SANDBOX_CALL_BYTES];

    sandbox_refused_call(refused);
    return err_set(
        e, E_PEER,
        "the PKCS#11 token: %s: %s (0x%lx)%s%s; a module that reads files while it signs "
        "needs --signer-reads DIR",
        what, rv_name(rv), (unsigned long)rv,
        refused[0] == '\0' ? "" : "; the sandbox last refused it the system call ", refused);
}

/* The same, and the token is not used any more. */
static int
lose(struct token *t, const char *what, CK_RV rv, struct err *e)
{
    int r = module_error(what, rv, e);

    (void)pthread_mutex_lock(&t->lock);
    if (!atomic_load(&t->is_lost)) {
        memcpy(t->why, e->msg, sizeof(t->why));
        atomic_store(&t->is_lost, true);
    }
    (void)pthread_mutex_unlock(&t->lock);
    return r;
}

const char *
token_lost(const struct token *t)
{
    return atomic_load(&t->is_lost) ? t->why : NULL;
}

const char *
token_name(const struct token *t)
{
    return t->name;
}

/* -- the URI -- */

static const char *
pin_path(P11KitUri *u)
{
    const char *s = p11_kit_uri_get_pin_source(u);

    if (s != NULL && strncmp(s, "file:", 5) == 0)
        s += strncmp(s, "file:///", 8) == 0 ? 7 : 5;
    return s;
}

static int
uri_read(const char *text, P11KitUri **ret, struct err *e)
{
    CLEANUP(p11_kit_uri_freep) P11KitUri *u = p11_kit_uri_new();

    if (u == NULL)
        return err_nomem(e);
    int r = p11_kit_uri_parse(text, P11_KIT_URI_FOR_ANY, u);
    if (r != P11_KIT_URI_OK)
        return err_set(e, E_INVAL, "--signer: not a PKCS#11 URI (RFC 7512): %s",
                       p11_kit_uri_message(r));
    if (p11_kit_uri_get_pin_value(u) != NULL)
        return err_set(e, E_INVAL,
                       "--signer: pin-value shows the PIN to every user of this machine; put it "
                       "in a file of mode 0600 and write pin-source=file:/PATH");
    if (p11_kit_uri_any_unrecognized(u))
        return err_set(e, E_INVAL, "--signer: the URI has an attribute that is not known");
    const char *module = p11_kit_uri_get_module_path(u), *pin = pin_path(u);
    if (module == NULL || module[0] != '/')
        return err_set(e, E_INVAL,
                       "--signer: the URI needs ?module-path=/PATH of the module that is to be "
                       "loaded (/usr/lib/softhsm/libsofthsm2.so)");
    if (pin == NULL || pin[0] != '/')
        return err_set(e, E_INVAL,
                       "--signer: the URI needs pin-source=file:/PATH of a file with the PIN");
    *ret = STEAL(u);
    return 0;
}

int
token_uri_check(const char *uri, struct err *e)
{
    CLEANUP(p11_kit_uri_freep) P11KitUri *u = NULL;

    return uri_read(uri, &u, e);
}

/* -- opening -- */

static int
module_load(struct token *t, struct err *e)
{
    const char *path = p11_kit_uri_get_module_path(t->uri);

    t->calls = p11_kit_module_load(path, P11_KIT_MODULE_UNMANAGED | P11_KIT_MODULE_CRITICAL);
    if (t->calls == NULL) {
        const char *why = p11_kit_message();

        return err_set(e, E_NOTFOUND, "the PKCS#11 module %s cannot be loaded: %s", path,
                       why == NULL ? "it is not there, or not a module" : why);
    }
    CK_RV rv = p11_kit_module_initialize(t->calls);
    return rv == CKR_OK ? 0 : module_error("C_Initialize", rv, e);
}

/* A text of fixed length, padded with spaces. */
static struct span
padded(const unsigned char *p, size_t n)
{
    while (n > 0 && (p[n - 1] == ' ' || p[n - 1] == '\0'))
        n--;
    return span_of(p, n);
}

static void
name_put(struct token *t, const CK_TOKEN_INFO *i)
{
    struct span label = padded(i->label, sizeof(i->label)),
                maker = padded(i->manufacturerID, sizeof(i->manufacturerID)),
                model = padded(i->model, sizeof(i->model)),
                serial = padded(i->serialNumber, sizeof(i->serialNumber));

    (void)snprintf(t->name, sizeof(t->name), "%.*s (%.*s %.*s, serial %.*s)", SPAN_ARG(label),
                   SPAN_ARG(maker), SPAN_ARG(model), SPAN_ARG(serial));
    for (char *p = t->name; *p != '\0'; p++) /* goes to logs and status */
        if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
            *p = '?';
}

static int
slot_find(struct token *t, struct err *e)
{
    CK_SLOT_ID slots[TOKEN_SLOTS_MAX], want = p11_kit_uri_get_slot_id(t->uri);
    CK_ULONG n = TOKEN_SLOTS_MAX, found = 0;
    CK_TOKEN_INFO info;

    CK_RV rv = t->calls->C_GetSlotList(CK_TRUE, slots, &n);
    if (rv != CKR_OK)
        return module_error("C_GetSlotList", rv, e);
    for (CK_ULONG i = 0; i < n; i++) {
        if ((want != (CK_SLOT_ID)-1 && slots[i] != want) ||
            t->calls->C_GetTokenInfo(slots[i], &info) != CKR_OK ||
            !p11_kit_uri_match_token_info(t->uri, &info))
            continue;
        t->slot = slots[i];
        t->is_one_at_a_time = span_eq_str(padded(info.manufacturerID, sizeof(info.manufacturerID)),
                                          "SoftHSM project");
        name_put(t, &info);
        found++;
        if (info.flags & CKF_USER_PIN_LOCKED)
            return err_set(e, E_AUTH, "the PKCS#11 token %s: its PIN is locked", t->name);
        if (info.flags & CKF_USER_PIN_FINAL_TRY)
            return err_set(e, E_AUTH,
                           "the PKCS#11 token %s: one more wrong PIN locks it, so it is not tried; "
                           "log in once by hand (pkcs11-tool --login)",
                           t->name);
    }
    if (found == 1)
        return 0;
    return err_set(e, found == 0 ? E_NOTFOUND : E_DENIED,
                   found == 0 ? "--signer: no token that is present matches the URI"
                              : "--signer: several tokens match the URI; add serial=");
}

static int
pin_read(const char *path, char pin[TOKEN_PIN_MAX_BYTES + 2], size_t *ret_n, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return err_sys(e, errno, "--signer: pin-source %s", path);
    ssize_t r = read(fd, pin, TOKEN_PIN_MAX_BYTES + 2);
    int why = errno;
    (void)close(fd);
    if (r < 0)
        return err_sys(e, why, "--signer: pin-source %s", path);
    size_t n = (size_t)r;
    n -= n > 0 && pin[n - 1] == '\n' ? 1 : 0;
    if (n == 0 || n > TOKEN_PIN_MAX_BYTES)
        return err_set(e, E_INVAL, "--signer: pin-source %s: want a PIN of 1 to %d bytes", path,
                       TOKEN_PIN_MAX_BYTES);
    *ret_n = n;
    return 0;
}

/* A wrong PIN is said once and not tried again by itself: three of them lock most tokens. */
static int
login(struct token *t, struct err *e)
{
    const char *path = pin_path(t->uri);
    char pin[TOKEN_PIN_MAX_BYTES + 2];
    size_t n;

    int r = pin_read(path, pin, &n, e);
    CK_RV rv = r < 0 ? CKR_OK
                     : t->calls->C_Login(t->spare[0], CKU_USER, (unsigned char *)pin, (CK_ULONG)n);
    explicit_bzero(pin, sizeof(pin));
    if (r < 0 || rv == CKR_OK || rv == CKR_USER_ALREADY_LOGGED_IN)
        return r;
    if (rv == CKR_PIN_INCORRECT || rv == CKR_PIN_INVALID || rv == CKR_PIN_LEN_RANGE ||
        rv == CKR_PIN_LOCKED || rv == CKR_PIN_EXPIRED)
        return err_set(e, E_AUTH,
                       "the PKCS#11 token %s refuses the PIN in %s: %s; it is not tried "
                       "again, so that it does not lock: mend the file, start anew",
                       t->name, path, rv_name(rv));
    return module_error("C_Login", rv, e);
}

/* SoftHSM 2.6.1 is asked for thread safety and promises it, but two threads in it end in a SIGSEGV
 * or CKR_GENERAL_ERROR sooner or later (its issue 688): one session, so one call at a time. */
static int
sessions_open(struct token *t, size_t n, struct err *e)
{
    while (t->spare_n < (t->is_one_at_a_time ? 1 : n)) {
        CK_RV rv =
            t->calls->C_OpenSession(t->slot, CKF_SERIAL_SESSION, NULL, NULL, &t->spare[t->spare_n]);
        if (rv != CKR_OK)
            return module_error("C_OpenSession", rv, e);
        t->spare_n++;
    }
    return 0;
}

int
token_open(const char *uri, size_t sessions, struct token **ret, struct err *e)
{
    struct token *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return err_nomem(e);
    (void)pthread_mutex_init(&t->lock, NULL);
    (void)pthread_cond_init(&t->one_is_spare, NULL);
    atomic_init(&t->is_lost, false);
    int r = uri_read(uri, &t->uri, e);
    if (r == 0)
        r = module_load(t, e);
    if (r == 0)
        r = slot_find(t, e);
    if (r == 0)
        r = sessions_open(t, sessions, e);
    if (r == 0)
        r = login(t, e);
    if (r < 0) {
        p11_kit_uri_free(t->uri);
        free(t); /* the module stays loaded: this process ends */
        return r;
    }
    *ret = t;
    return 0;
}

/* -- sessions: one call at a time in each -- */

static CK_SESSION_HANDLE
session_take(struct token *t)
{
    (void)pthread_mutex_lock(&t->lock);
    while (t->spare_n == 0)
        (void)pthread_cond_wait(&t->one_is_spare, &t->lock);
    CK_SESSION_HANDLE s = t->spare[--t->spare_n];
    (void)pthread_mutex_unlock(&t->lock);
    return s;
}

static void
session_give(struct token *t, CK_SESSION_HANDLE s)
{
    (void)pthread_mutex_lock(&t->lock);
    t->spare[t->spare_n++] = s;
    (void)pthread_cond_signal(&t->one_is_spare);
    (void)pthread_mutex_unlock(&t->lock);
}

/* -- signing -- */

/* PKCS#11 v2.40 mechanisms 2.3.1: r and s, each as long as the order, to ECDSA-Sig-Value. */
static int
ecdsa_to_der(const uint8_t *raw, size_t n, uint8_t ret[SIGNATURE_MAX_BYTES], size_t *ret_n,
             struct err *e)
{
    ECDSA_SIG *sig = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(raw, (int)(n / 2), NULL), *s = BN_bin2bn(raw + n / 2, (int)(n / 2), NULL);
    int der_n = -1;

    if (sig != NULL && r != NULL && s != NULL && ECDSA_SIG_set0(sig, r, s) == 1) {
        r = s = NULL;
        der_n = i2d_ECDSA_SIG(sig, NULL);
        if (der_n > 0 && der_n <= SIGNATURE_MAX_BYTES)
            der_n = i2d_ECDSA_SIG(sig, &ret);
    }
    BN_free(r);
    BN_free(s);
    ECDSA_SIG_free(sig);
    if (der_n <= 0)
        return err_nomem(e);
    *ret_n = (size_t)der_n;
    return 0;
}

static bool
is_rsa(enum key_kind k)
{
    return k == KEY_RSA2048 || k == KEY_RSA3072 || k == KEY_RSA4096 || k == KEY_RSA_OTHER;
}

/* What the mechanism signs: the digest, for RSA in its DigestInfo (RFC 8017 9.2, SHA-256). */
static int
to_sign(enum key_kind kind, struct span bytes, uint8_t ret[EVP_MAX_MD_SIZE + 19], CK_ULONG *ret_n,
        struct err *e)
{
    static const uint8_t sha256_info[] = { 0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60,
                                           0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
                                           0x01, 0x05, 0x00, 0x04, 0x20 };
    size_t at = is_rsa(kind) ? sizeof(sha256_info) : 0;
    unsigned n = 0;

    memcpy(ret, sha256_info, sizeof(sha256_info));
    if (EVP_Digest(bytes.p, bytes.n, ret + at, &n, key_kind_md(kind), NULL) != 1)
        return err_set(e, E_CRYPTO, "signer: no digest");
    *ret_n = at + n;
    return 0;
}

struct attempt { /* one signature, and what came of it */
    CK_MECHANISM how;
    uint8_t input[EVP_MAX_MD_SIZE + 19], raw[SIGNATURE_MAX_BYTES];
    CK_ULONG input_n, raw_n;
    const char *what; /* the call that failed */
};

static CK_RV
sign_in_session(struct token *t, const struct token_key *k, struct attempt *a)
{
    CK_SESSION_HANDLE s = session_take(t);

    a->what = "C_SignInit";
    a->raw_n = sizeof(a->raw);
    CK_RV rv = t->calls->C_SignInit(s, &a->how, k->handle);
    if (rv == CKR_OK) {
        a->what = "C_Sign";
        rv = t->calls->C_Sign(s, a->input, a->input_n, a->raw, &a->raw_n);
    }
    session_give(t, s);
    return rv;
}

int
token_sign(struct token *t, const struct token_key *k, struct span bytes,
           uint8_t ret[SIGNATURE_MAX_BYTES], size_t *ret_n, struct err *e)
{
    struct attempt a = { .how.mechanism = is_rsa(k->kind) ? CKM_RSA_PKCS : CKM_ECDSA };

    if (token_lost(t) != NULL)
        return err_set(e, E_PEER, "%s", token_lost(t));
    TRY(to_sign(k->kind, bytes, a.input, &a.input_n, e));
    CK_RV rv = sign_in_session(t, k, &a);
    if (rv != CKR_OK)
        return lose(t, a.what, rv, e);
    if (a.raw_n == 0 || a.raw_n > sizeof(a.raw) || (!is_rsa(k->kind) && a.raw_n % 2 != 0))
        return lose(t, "C_Sign: a signature of odd length", CKR_GENERAL_ERROR, e);
    if (!is_rsa(k->kind))
        return ecdsa_to_der(a.raw, a.raw_n, ret, ret_n, e);
    memcpy(ret, a.raw, *ret_n = a.raw_n);
    return 0;
}

/* -- the key of a certificate -- */

static int
proof_check(const struct cert *cert, enum key_kind kind, struct span proof, struct span signature)
{
    EVP_MD_CTX *x = EVP_MD_CTX_new();
    bool good = x != NULL &&
                EVP_DigestVerifyInit(x, NULL, key_kind_md(kind), NULL,
                                     X509_get0_pubkey(cert_x509(cert))) == 1 &&
                EVP_DigestVerify(x, signature.p, signature.n, proof.p, proof.n) == 1;

    EVP_MD_CTX_free(x);
    return good;
}

/* The RSA modulus of a key object against the certificate's: spares a slow signature. */
static bool
may_be_rsa(struct token *t, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, const struct cert *cert)
{
    uint8_t n[NUMBER_MAX_BYTES];
    CK_ATTRIBUTE a = { CKA_MODULUS, n, sizeof(n) };
    BIGNUM *want = NULL, *got = NULL;

    if (t->calls->C_GetAttributeValue(s, o, &a, 1) != CKR_OK || a.ulValueLen > sizeof(n))
        return true; /* it does not say: the proof will */
    got = BN_bin2bn(n, (int)a.ulValueLen, NULL);
    bool same = EVP_PKEY_get_bn_param(X509_get0_pubkey(cert_x509(cert)), "n", &want) != 1 ||
                got == NULL || BN_cmp(want, got) == 0;
    BN_free(want);
    BN_free(got);
    return same;
}

/* CKA_EC_PARAMS: the DER of the curve's OID. RFC 5480 2.1.1.1. */
static CK_ATTRIBUTE
curve_attribute(enum key_kind kind)
{
    static uint8_t p256[] = { 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07 },
                   p384[] = { 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22 },
                   p521[] = { 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23 };

    if (kind == KEY_P256)
        return (CK_ATTRIBUTE){ CKA_EC_PARAMS, p256, sizeof(p256) };
    return kind == KEY_P384 ? (CK_ATTRIBUTE){ CKA_EC_PARAMS, p384, sizeof(p384) }
                            : (CK_ATTRIBUTE){ CKA_EC_PARAMS, p521, sizeof(p521) };
}

/* Private keys of the kind that the URI lets through. */
static int
keys_list(struct token *t, CK_SESSION_HANDLE s, const struct cert *cert, enum key_kind kind,
          CK_OBJECT_HANDLE ret[TOKEN_KEYS_MAX], CK_ULONG *ret_n, struct err *e)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_KEY_TYPE type = is_rsa(kind) ? CKK_RSA : CKK_EC;
    CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE want[6] = { { CKA_CLASS, &class, sizeof(class) },
                             { CKA_KEY_TYPE, &type, sizeof(type) },
                             { CKA_SIGN, &yes, sizeof(yes) } };
    const CK_ATTRIBUTE *label = p11_kit_uri_get_attribute(t->uri, CKA_LABEL),
                       *id = p11_kit_uri_get_attribute(t->uri, CKA_ID);
    CK_ULONG n = 3, found = 0, kept = 0;

    if (!is_rsa(kind))
        want[n++] = curve_attribute(kind);
    if (label != NULL)
        want[n++] = *label;
    if (id != NULL)
        want[n++] = *id;
    CK_RV rv = t->calls->C_FindObjectsInit(s, want, n);
    if (rv != CKR_OK)
        return lose(t, "C_FindObjectsInit", rv, e);
    rv = t->calls->C_FindObjects(s, ret, TOKEN_KEYS_MAX, &found);
    (void)t->calls->C_FindObjectsFinal(s);
    if (rv != CKR_OK || found > TOKEN_KEYS_MAX)
        return lose(t, "C_FindObjects", rv, e);
    for (CK_ULONG i = 0; i < found; i++)
        if (!is_rsa(kind) || may_be_rsa(t, s, ret[i], cert))
            ret[kept++] = ret[i];
    *ret_n = kept;
    return 0;
}

int
token_key_find(struct token *t, const struct cert *cert, struct token_key *ret, struct err *e)
{
    static const char context[] = "meshroot: is this the key of ca-cert.pem?";
    uint8_t proof[sizeof(context) + PROOF_BYTES], signature[SIGNATURE_MAX_BYTES];
    struct token_key k = { .kind = cert_key_kind(cert) };
    CK_OBJECT_HANDLE found[TOKEN_KEYS_MAX];
    CK_ULONG found_n = 0;
    size_t n;

    if (key_kind_md(k.kind) == NULL)
        return err_set(e, E_INVAL, "ca-cert.pem: a key of this kind (%s) is not used in a token",
                       key_kind_name(k.kind));
    memcpy(proof, context, sizeof(context));
    TRY(random_bytes(proof + sizeof(context), PROOF_BYTES, e));
    CK_SESSION_HANDLE s = session_take(t);
    int r = keys_list(t, s, cert, k.kind, found, &found_n, e);
    session_give(t, s);
    TRY(r);
    for (CK_ULONG i = 0; i < found_n; i++) {
        k.handle = found[i];
        TRY(token_sign(t, &k, span_of(proof, sizeof(proof)), signature, &n, e));
        if (proof_check(cert, k.kind, span_of(proof, sizeof(proof)), span_of(signature, n))) {
            *ret = k;
            return 0;
        }
    }
    return err_set(e, E_NOTFOUND,
                   "the token %s has no private key of ca-cert.pem's (%lu looked at, %s); make or "
                   "import it there, or put its certificate in the folder%s",
                   t->name, (unsigned long)found_n, key_kind_name(k.kind),
                   found_n > 0 ? "" : "; a module that reads files needs --signer-reads DIR");
}
