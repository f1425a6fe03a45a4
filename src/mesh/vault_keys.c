#include "mesh/vault_keys.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "pki/issue.h"
#include "pki/leaf.h"

enum {
    KEY_FILE_BYTES = 128,
    RECORD_BYTES = 16 * 1024,
    ROOT_DAYS = 3650,
    SERVING_S = 90 * 86400,
    BACKDATE_S = 300, /* clocks of clients */
    GUID_BYTES = 16,
};

#define KEY_CHECK  "vault-service/master-check"
#define KEY_ROOT   "vault-service/tls-root"
#define KEY_TENANT "vault-service/tenant"
#define CHECK_TEXT "meshroot"

static int
put_new(struct store *s, const char *key, struct span value, struct err *e)
{
    const struct store_op ops[] = {
        { STORE_EXPECT, key, { 0 }, 0 },
        { STORE_PUT, key, value, 0 },
    };
    uint64_t revision;

    return store_commit_wait(s, ops, ARRAY_LEN(ops), &revision, e);
}

/* -- the master key -----------------------------------------------------------------------------
 */

static int
master_key_read(const char *path, uint8_t ret[SEAL_KEY_BYTES], struct err *e)
{
    struct buf b = BUF_INIT(KEY_FILE_BYTES);
    struct stat st;

    int r = file_read(path, &b, e);
    if (r == 0 && (stat(path, &st) < 0 || (st.st_mode & 077) != 0))
        r = err_set(e, E_DENIED, "%s can be read by others; chmod 600 %s", path, path);
    if (r == 0 && hex_parse(span_trim(buf_span(&b)), ret, SEAL_KEY_BYTES, e) < 0)
        r = err_set(e, E_PARSE, "%s does not hold a master key (64 hex digits)", path);
    buf_wipe(&b);
    return r;
}

static int
master_key_make(const char *path, uint8_t ret[SEAL_KEY_BYTES], struct err *e)
{
    char text[2 * SEAL_KEY_BYTES + 2];

    TRY(random_bytes(ret, SEAL_KEY_BYTES, e));
    hex_text(span_of(ret, SEAL_KEY_BYTES), text);
    text[sizeof(text) - 2] = '\n';
    int r = file_write_new(path, span_of(text, sizeof(text) - 1), 0600, e);
    explicit_bzero(text, sizeof(text));
    return r;
}

/* A known text sealed at first start tells a wrong key apart from damaged values. */
static int
master_key_check(struct store *s, const char *path, struct span key, struct span check,
                 struct err *e)
{
    CLEANUP(seal_freep) struct seal *seal = NULL;
    struct buf b = BUF_INIT(KEY_FILE_BYTES + SEAL_OVERHEAD_BYTES);
    int r = seal_new(key, &seal, e);

    if (r == 0 && check.n > 0 && seal_open(seal, KEY_CHECK, check, &b, e) < 0)
        r = err_set(e, E_STATE, "%s is not the master key that this vault's values are sealed with",
                    path);
    else if (r == 0 && check.n == 0) {
        r = seal_close(seal, KEY_CHECK, span_str(CHECK_TEXT), &b, e);
        if (r == 0)
            r = put_new(s, KEY_CHECK, buf_span(&b), e);
    }
    buf_done(&b);
    return r;
}

int
master_key_open(struct store *s, const char *path, struct secret **ret, struct err *e)
{
    struct buf check = BUF_INIT(KEY_FILE_BYTES + SEAL_OVERHEAD_BYTES);
    uint8_t key[SEAL_KEY_BYTES];

    int r = store_get(s, KEY_CHECK, &check, NULL, e);
    if (r >= 0)
        r = master_key_read(path, key, e);
    if (r == FILE_ABSENT)
        r = check.n > 0 ? err_set(e, E_STATE,
                                  "the master key %s is missing; put it back: without it the "
                                  "vault's values cannot be read",
                                  path)
                        : master_key_make(path, key, e);
    if (r == 0)
        r = master_key_check(s, path, span_of(key, sizeof(key)), buf_span(&check), e);
    if (r == 0)
        r = secret_new(span_of(key, sizeof(key)), ret, e);
    explicit_bzero(key, sizeof(key));
    buf_done(&check);
    return r;
}

/* -- kept keys ----------------------------------------------------------------------------------
 */

static int
kept_key_make(struct store *s, const struct seal *seal, const char *name, enum key_kind kind,
              struct key **ret, struct err *e)
{
    CLEANUP(key_unrefp) struct key *k = NULL;
    struct buf pem = BUF_INIT(RECORD_BYTES), sealed = BUF_INIT(RECORD_BYTES);

    TRY(key_make(kind, &k, e));
    int r = key_to_pem(k, &pem, e);
    if (r == 0)
        r = seal_close(seal, name, buf_span(&pem), &sealed, e);
    if (r == 0)
        r = put_new(s, name, buf_span(&sealed), e);
    buf_wipe(&pem);
    buf_done(&sealed);
    if (r == 0)
        *ret = STEAL(k);
    return r;
}

int
kept_key(struct store *s, const struct seal *seal, const char *name, enum key_kind kind,
         struct key **ret, struct err *e)
{
    struct buf pem = BUF_INIT(RECORD_BYTES), sealed = BUF_INIT(RECORD_BYTES);

    int r = store_get(s, name, &sealed, NULL, e);
    if (r == 0)
        r = seal_open(seal, name, buf_span(&sealed), &pem, e);
    if (r == 0)
        r = key_from_pem(buf_span(&pem), ret, e);
    buf_wipe(&pem);
    buf_done(&sealed);
    return r == STORE_ABSENT ? kept_key_make(s, seal, name, kind, ret, e) : r;
}

static int
kept_root_make(struct store *s, struct key *key, struct cert **ret, struct err *e)
{
    struct ca_request q = { .subject = "O=meshroot,CN=meshroot vault listener",
                            .days = ROOT_DAYS,
                            .path_len = 0 };
    CLEANUP(cert_unrefp) struct cert *c = NULL;

    TRY(root_make(&q, key, &c, e));
    TRY(put_new(s, KEY_ROOT, cert_der(c), e));
    *ret = STEAL(c);
    return 0;
}

int
kept_root(struct store *s, struct key *key, struct cert **ret, struct err *e)
{
    struct buf der = BUF_INIT(RECORD_BYTES);

    int r = store_get(s, KEY_ROOT, &der, NULL, e);
    if (r == 0)
        r = cert_from_der(buf_span(&der), ret, e);
    buf_done(&der);
    return r == STORE_ABSENT ? kept_root_make(s, key, ret, e) : r;
}

/* -- the serving certificate --------------------------------------------------------------------
 */

static int
leaf_make(const struct cert *root, const struct key *root_key, struct span spki,
          const char *const *sans, size_t sans_n, struct cert **ret, struct err *e)
{
    CLEANUP(leaf_template_freep) struct leaf_template *t = NULL;
    struct leaf_request q = { .profile = LEAF_SERVER,
                              .spki = spki,
                              .sans = sans,
                              .sans_n = sans_n,
                              .not_before = unix_s() - BACKDATE_S,
                              .not_after = unix_s() + SERVING_S };
    uint8_t tbs[TBS_MAX_BYTES], signature[SIGNATURE_MAX_BYTES], der[LEAF_MAX_BYTES];
    size_t tbs_n, signature_n, der_n;

    TRY(random_bytes(q.serial, sizeof(q.serial), e));
    TRY(leaf_template_new(root, root_key, &t, e));
    TRY(leaf_tbs(t, &q, tbs, &tbs_n, e));
    TRY(leaf_sign(t, span_of(tbs, tbs_n), signature, &signature_n, e));
    TRY(leaf_finish(t, span_of(tbs, tbs_n), span_of(signature, signature_n), der, &der_n, e));
    return cert_from_der(span_of(der, der_n), ret, e);
}

int
serving_tls(const struct cert *root, struct key *root_key, const char *const sans[VAULT_SANS],
            size_t sans_n, struct tls_conf **ret, struct err *e)
{
    CLEANUP(key_unrefp) struct key *key = NULL;
    CLEANUP(cert_unrefp) struct cert *leaf = NULL;
    struct buf spki = BUF_INIT(RECORD_BYTES);

    TRY(key_make(KEY_P256, &key, e));
    int r = key_spki(key, &spki, e);
    if (r == 0)
        r = leaf_make(root, root_key, buf_span(&spki), sans, sans_n, &leaf, e);
    buf_done(&spki);
    if (r < 0)
        return r;
    struct tls_conf_args a = { .is_server = true, .key = key, .leaf = leaf, .rule = TLS_PEER_NONE };
    return tls_conf_new(&a, ret, e);
}

/* -- the tenant ---------------------------------------------------------------------------------
 */

int
kept_tenant(struct store *s, const char *given, char ret[VAULT_TENANT_TEXT], struct err *e)
{
    struct buf b = BUF_INIT(VAULT_TENANT_TEXT - 1);
    uint8_t r16[GUID_BYTES];
    char h[2 * GUID_BYTES + 1];
    char tenant[VAULT_TENANT_TEXT];
    int r = store_get(s, KEY_TENANT, &b, NULL, e);

    (void)snprintf(tenant, sizeof(tenant), "%s", buf_text(&b));
    buf_done(&b);
    if (r == 0 && given != NULL && strcmp(given, tenant) != 0)
        return err_set(e, E_STATE, "this state folder belongs to the tenant %s, not to %s", tenant,
                       given);
    if (r != STORE_ABSENT) {
        if (r == 0)
            memcpy(ret, tenant, sizeof(tenant));
        return r;
    }
    if (given != NULL && (strlen(given) != 36 || strspn(given, "0123456789abcdef-") != 36))
        return err_set(e, E_INVAL,
                       "the tenant \"%.80s\" is not a GUID such as "
                       "11111111-2222-3333-4444-555555555555",
                       given);
    TRY(random_bytes(r16, sizeof(r16), e));
    r16[6] = (uint8_t)((r16[6] & 0x0f) | 0x40); /* RFC 9562 5.4 */
    r16[8] = (uint8_t)((r16[8] & 0x3f) | 0x80);
    hex_text(span_of(r16, sizeof(r16)), h);
    (void)snprintf(tenant, sizeof(tenant), "%.8s-%.4s-%.4s-%.4s-%.12s", h, h + 8, h + 12, h + 16,
                   h + 20);
    if (given != NULL)
        (void)snprintf(tenant, sizeof(tenant), "%s", given);
    TRY(put_new(s, KEY_TENANT, span_str(tenant), e));
    memcpy(ret, tenant, sizeof(tenant));
    return 0;
}
