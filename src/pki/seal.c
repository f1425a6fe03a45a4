#include "pki/seal.h"

#include <openssl/evp.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/secret.h"

/* version (1) | nonce, wrapped data key, tag | nonce, value, tag */
enum { VERSION = 1, NONCE_BYTES = 12, TAG_BYTES = 16, BOX_BYTES = NONCE_BYTES + TAG_BYTES };
_Static_assert(SEAL_OVERHEAD_BYTES == 1 + BOX_BYTES + SEAL_KEY_BYTES + BOX_BYTES, "the layout");

struct seal {
    struct secret *key;
};

/* What a box holds: part of what is authenticated, so that one kind never opens as the other. */
static const char box_key[] = "meshroot seal 1 key", box_value[] = "meshroot seal 1 value";

static void
ctx_free(EVP_CIPHER_CTX *c)
{
    EVP_CIPHER_CTX_free(c);
}
DEFINE_CLEANUP(EVP_CIPHER_CTX, ctx_free)

int
seal_new(struct span master_key, struct seal **ret, struct err *e)
{
    struct seal *s;

    if (master_key.n != SEAL_KEY_BYTES)
        return err_set(e, E_INVAL, "the master key has %zu bytes, not %d", master_key.n,
                       (int)SEAL_KEY_BYTES);
    s = calloc(1, sizeof(*s));
    if (s == NULL)
        return err_nomem(e);
    if (secret_new(master_key, &s->key, e) < 0) {
        free(s);
        return err_result(e);
    }
    *ret = s;
    return 0;
}

void
seal_free(struct seal *s)
{
    if (s == NULL)
        return;
    secret_free(s->key);
    free(s);
}

static bool
aad(EVP_CIPHER_CTX *c, const char *kind, const char *name)
{
    int n;

    /* the NUL keeps kind and name apart */
    return EVP_CipherUpdate(c, NULL, &n, (const uint8_t *)kind, (int)strlen(kind) + 1) == 1 &&
           EVP_CipherUpdate(c, NULL, &n, (const uint8_t *)name, (int)strlen(name)) == 1;
}

/* Appends nonce, ciphertext and tag. */
static int
box_close(struct span key, const char *kind, const char *name, struct span plain, struct buf *out,
          struct err *e)
{
    CLEANUP(ctx_freep) EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    uint8_t *p, none[16];
    int n = 0, end = 0;

    TRY(buf_reserve(out, plain.n + BOX_BYTES, &p, e));
    TRY(random_bytes(p, NONCE_BYTES, e));
    if (c == NULL || EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, key.p, p, 1) != 1 ||
        !aad(c, kind, name) ||
        EVP_CipherUpdate(c, p + NONCE_BYTES, &n, plain.n == 0 ? none : plain.p, (int)plain.n) !=
            1 ||
        EVP_CipherFinal_ex(c, none, &end) != 1 ||
        EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, p + NONCE_BYTES + plain.n) != 1)
        return err_set(e, E_CRYPTO, "AES-256-GCM failed");
    out->n += plain.n + BOX_BYTES;
    return 0;
}

/* Appends the plain bytes of a box; nothing of them stays in `out` when the tag is wrong. */
static int
box_open(struct span key, const char *kind, const char *name, struct span box, struct buf *out,
         struct err *e)
{
    CLEANUP(ctx_freep) EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    size_t plain_n = box.n - BOX_BYTES;
    uint8_t *p, tag[TAG_BYTES], none[16];
    int n = 0, end = 0;

    TRY(buf_reserve(out, plain_n, &p, e));
    memcpy(tag, box.p + NONCE_BYTES + plain_n, TAG_BYTES);
    if (c == NULL || EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, key.p, box.p, 0) != 1 ||
        !aad(c, kind, name) ||
        EVP_CipherUpdate(c, plain_n == 0 ? none : p, &n, box.p + NONCE_BYTES, (int)plain_n) != 1 ||
        EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, tag) != 1 ||
        EVP_CipherFinal_ex(c, none, &end) != 1) {
        if (plain_n > 0)
            explicit_bzero(p, plain_n);
        return err_set(e, E_CRYPTO,
                       "%s: cannot be decrypted: it is damaged, or the master key is another one",
                       name);
    }
    out->n += plain_n;
    return 0;
}

static int
close_with(const struct seal *s, struct span data_key, const char *name, struct span value,
           struct buf *out, struct err *e)
{
    TRY(buf_add_byte(out, VERSION, e));
    TRY(box_close(secret_span(s->key), box_key, name, data_key, out, e));
    return box_close(data_key, box_value, name, value, out, e);
}

int
seal_close(const struct seal *s, const char *name, struct span value, struct buf *out,
           struct err *e)
{
    CLEANUP(secret_freep) struct secret *data_key = NULL;
    size_t before = out->n;

    if (value.n > SEAL_MAX_BYTES)
        return err_set(e, E_LIMIT, "%s: more than %d bytes to seal", name, (int)SEAL_MAX_BYTES);
    TRY(secret_random(SEAL_KEY_BYTES, &data_key, e));
    if (close_with(s, secret_span(data_key), name, value, out, e) < 0) {
        out->n = before;
        return err_result(e);
    }
    return 0;
}

int
seal_open(const struct seal *s, const char *name, struct span sealed, struct buf *out,
          struct err *e)
{
    struct buf data_key = BUF_INIT(SEAL_KEY_BYTES);
    struct span wrapped, value;

    if (sealed.n < SEAL_OVERHEAD_BYTES || sealed.p[0] != VERSION)
        return err_set(e, E_CRYPTO, "%s: not a sealed value that this version knows", name);
    if (sealed.n > SEAL_MAX_BYTES + SEAL_OVERHEAD_BYTES)
        return err_set(e, E_LIMIT, "%s: the sealed value is too large", name);
    wrapped = span_of(sealed.p + 1, BOX_BYTES + SEAL_KEY_BYTES);
    value = span_skip(sealed, 1 + wrapped.n);
    int r = box_open(secret_span(s->key), box_key, name, wrapped, &data_key, e);
    if (r == 0)
        r = box_open(buf_span(&data_key), box_value, name, value, out, e);
    buf_wipe(&data_key);
    return r;
}
