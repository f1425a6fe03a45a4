/* app.c - applications: made at start, kept in the store with a salted hash of their secret.
 *
 * The secret is 256 random bits, so a fast hash is right: there is nothing to guess.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/secret.h"
#include "base/str.h"
#include "cloud/room.h"

enum { SECRET_RANDOM_BYTES = 32, SALT_BYTES = 16, APP_MAX_BYTES = 2048, APP_KEY_BYTES = 128 };

int
guid_make(char ret[GUID_BYTES], struct err *e)
{
    uint8_t b[16];
    char hex[33];

    TRY(random_bytes(b, sizeof(b), e));
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    hex_text(span_of(b, sizeof(b)), hex);
    (void)snprintf(ret, GUID_BYTES, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16,
                   hex + 20);
    return 0;
}

static int
secret_hash(const uint8_t salt[SALT_BYTES], struct span secret, uint8_t ret[DIGEST_BYTES],
            struct err *e)
{
    struct buf b = BUF_INIT(1024);
    int r = buf_add(&b, span_of(salt, SALT_BYTES), e);

    r = r < 0 ? r : buf_add(&b, secret, e);
    if (r == 0)
        digest(buf_span(&b), ret);
    buf_wipe(&b);
    return r;
}

static int
app_store(struct cloud *c, const struct cloud_app *a, const char *salt, const char *hash,
          struct err *e)
{
    char key[APP_KEY_BYTES], oid_key[APP_KEY_BYTES];
    json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", a->name, "role", a->role, "oid",
                          a->oid, "salt", salt, "hash", hash);
    CLEANUP(str_freep) char *text = j == NULL ? NULL : json_dumps(j, JSON_COMPACT);

    json_decref(j);
    if (text == NULL)
        return err_nomem(e);
    (void)snprintf(key, sizeof(key), "cloud/app/%s", a->client_id);
    (void)snprintf(oid_key, sizeof(oid_key), "cloud/oid/%s", a->oid);
    struct store_op ops[] = {
        { STORE_EXPECT, key, { 0 }, 0 },
        { STORE_PUT, key, span_str(text), 0 },
        { STORE_PUT, oid_key, span_str(a->client_id), 0 },
    };
    uint64_t revision;
    return store_commit_wait(c->store, ops, ARRAY_LEN(ops), &revision, e);
}

int
cloud_app_add(struct cloud *c, const char *name, const char *role, struct cloud_app *ret,
              struct secret **ret_secret, struct err *e)
{
    struct cloud_app a = { 0 };
    CLEANUP(secret_freep) struct secret *raw = NULL;
    CLEANUP(secret_freep) struct secret *text = NULL;
    uint8_t salt[SALT_BYTES], hash[DIGEST_BYTES];
    char salt_hex[2 * SALT_BYTES + 1], hash_hex[DIGEST_TEXT_BYTES];
    struct buf b = BUF_INIT(128);

    (void)snprintf(a.name, sizeof(a.name), "%s", name);
    (void)snprintf(a.role, sizeof(a.role), "%s", role);
    TRY(guid_make(a.client_id, e));
    TRY(guid_make(a.oid, e));
    TRY(random_bytes(salt, sizeof(salt), e));
    TRY(secret_random(SECRET_RANDOM_BYTES, &raw, e));
    int r = base64url_add(&b, secret_span(raw), e);
    r = r < 0 ? r : secret_new(buf_span(&b), &text, e);
    buf_wipe(&b);
    TRY(r);
    TRY(secret_hash(salt, secret_span(text), hash, e));
    hex_text(span_of(salt, sizeof(salt)), salt_hex);
    hex_text(span_of(hash, sizeof(hash)), hash_hex);
    TRY(app_store(c, &a, salt_hex, hash_hex, e));
    *ret = a;
    *ret_secret = STEAL(text);
    return 0;
}

static bool
is_guid(const char *s)
{
    for (size_t i = 0; i < GUID_BYTES - 1; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;

        if (dash ? s[i] != '-' : s[i] == '\0' || strchr("0123456789abcdef", s[i]) == NULL)
            return false;
    }
    return s[GUID_BYTES - 1] == '\0';
}

/* r: 0, *ret_j is the record (owner: caller); CLOUD_NO_APP. */
static int
app_load(struct cloud *c, const char *client_id, struct cloud_app *ret, json_t **ret_j,
         struct err *e)
{
    char key[APP_KEY_BYTES];
    struct buf b = BUF_INIT(APP_MAX_BYTES);

    if (!is_guid(client_id))
        return CLOUD_NO_APP;
    (void)snprintf(key, sizeof(key), "cloud/app/%s", client_id);
    int r = store_get(c->store, key, &b, NULL, e);
    json_t *j = r == 0 ? json_loadb(buf_text(&b), b.n, JSON_REJECT_DUPLICATES, NULL) : NULL;
    buf_done(&b);
    if (r < 0)
        return r;
    const char *name = json_string_value(json_object_get(j, "name"));
    const char *role = json_string_value(json_object_get(j, "role"));
    const char *oid = json_string_value(json_object_get(j, "oid"));
    if (name == NULL || role == NULL || oid == NULL) {
        json_decref(j);
        return CLOUD_NO_APP;
    }
    struct cloud_app a = { 0 };
    (void)snprintf(a.client_id, sizeof(a.client_id), "%s", client_id);
    (void)snprintf(a.name, sizeof(a.name), "%s", name);
    (void)snprintf(a.role, sizeof(a.role), "%s", role);
    (void)snprintf(a.oid, sizeof(a.oid), "%s", oid);
    *ret = a;
    *ret_j = j;
    return 0;
}

int
app_check(struct cloud *c, const char *client_id, struct span secret, struct cloud_app *ret,
          struct err *e)
{
    uint8_t salt[SALT_BYTES], want[DIGEST_BYTES], got[DIGEST_BYTES];
    json_t *j = NULL;
    int r = app_load(c, client_id, ret, &j, e);

    if (r != 0)
        return r;
    const char *salt_hex = json_string_value(json_object_get(j, "salt"));
    const char *hash_hex = json_string_value(json_object_get(j, "hash"));
    r = hex_parse(span_str(salt_hex), salt, sizeof(salt), e);
    r = r < 0 ? r : hex_parse(span_str(hash_hex), want, sizeof(want), e);
    json_decref(j);
    r = r < 0 ? r : secret_hash(salt, secret, got, e);
    if (r == 0 && !secret_eq(span_of(want, sizeof(want)), span_of(got, sizeof(got))))
        return err_set(e, E_AUTH, "wrong secret for app %s", client_id);
    return r;
}

int
cloud_app_by_oid(struct cloud *c, const char *oid, struct cloud_app *ret, struct err *e)
{
    char key[APP_KEY_BYTES];
    struct buf b = BUF_INIT(GUID_BYTES);
    json_t *j = NULL;

    if (!is_guid(oid))
        return CLOUD_NO_APP;
    (void)snprintf(key, sizeof(key), "cloud/oid/%s", oid);
    int r = store_get(c->store, key, &b, NULL, e);
    if (r == 0)
        r = app_load(c, buf_text(&b), ret, &j, e);
    json_decref(j);
    buf_done(&b);
    return r < 0 ? r : r == 0 ? 0 : CLOUD_NO_APP;
}
