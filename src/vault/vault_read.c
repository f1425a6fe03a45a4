/* vault_read.c - get, list, list versions; what both readers and writers need of the store. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/str.h"
#include "vault/request.h"

enum { PAGE_MAX = 25, HEAD_BYTES = 1024, META_BYTES = 32 * 1024, TOKEN_BYTES = 256 };

/* -- the store's records ------------------------------------------------------------------------
 */

void
key_secret(const struct vault_request *q, const char *lower, char ret[VAULT_KEY_BYTES])
{
    (void)snprintf(ret, VAULT_KEY_BYTES, "vault/%s/secret/%s", q->slot->name, lower);
}

void
key_version(const struct vault_request *q, const char *lower, const char *version,
            char ret[VAULT_KEY_BYTES])
{
    (void)snprintf(ret, VAULT_KEY_BYTES, "vault/%s/version/%s/%s", q->slot->name, lower, version);
}

void
key_value(const struct vault_request *q, const char *lower, const char *version,
          char ret[VAULT_KEY_BYTES])
{
    (void)snprintf(ret, VAULT_KEY_BYTES, "vault/%s/value/%s/%s", q->slot->name, lower, version);
}

static int
head_parse(struct span text, struct secret_head *ret, struct err *e)
{
    CLEANUP(json_unrefp) json_t *j = json_loadb((const char *)text.p, text.n, 0, NULL);
    const char *name = json_string_value(json_object_get(j, "name"));
    const char *current = json_string_value(json_object_get(j, "current"));

    if (name == NULL || current == NULL || !secret_name_ok(name) || !secret_version_ok(current))
        return err_set(e, E_PARSE, "damaged record in the store");
    memcpy(ret->shown, name, strlen(name) + 1);
    memcpy(ret->current, current, strlen(current) + 1);
    return 0;
}

int
head_load(const struct vault_request *q, const char *lower, struct secret_head *ret, struct err *e)
{
    struct buf b = BUF_INIT(HEAD_BYTES);
    struct secret_head head = { 0 };
    char key[VAULT_KEY_BYTES];

    key_secret(q, lower, key);
    int r = store_get(q->v->conf.store, key, &b, &head.revision, e);
    if (r == 0 && head_parse(buf_span(&b), &head, e) < 0)
        r = err_wrap(e, "%s", key);
    buf_done(&b);
    if (r == 0)
        *ret = head;
    return r;
}

int
meta_load(const struct vault_request *q, const char *lower, const char *version,
          struct secret_meta *ret, uint64_t *ret_revision, struct err *e)
{
    struct buf b = BUF_INIT(META_BYTES);
    char key[VAULT_KEY_BYTES];

    key_version(q, lower, version, key);
    int r = store_get(q->v->conf.store, key, &b, ret_revision, e);
    if (r == 0 && secret_meta_load(buf_span(&b), ret, e) < 0)
        r = err_wrap(e, "%s", key);
    buf_done(&b);
    return r;
}

void
secret_id(const struct vault_request *q, const char *shown, const char *version,
          char ret[SECRET_ID_BYTES])
{
    (void)snprintf(ret, SECRET_ID_BYTES, "%s/secrets/%s%s%s", q->base, shown,
                   version[0] == '\0' ? "" : "/", version);
}

/* -- get ----------------------------------------------------------------------------------------
 */

static int
answer_value(struct vault_request *q, const struct secret_head *head,
             const struct secret_meta *meta, struct err *e)
{
    struct buf sealed = BUF_INIT(STORE_VALUE_BYTES), value = BUF_INIT(SECRET_VALUE_BYTES);
    char key[VAULT_KEY_BYTES], id[SECRET_ID_BYTES];
    json_t *bundle = NULL;
    struct span v;

    key_value(q, q->lower, q->version, key);
    secret_id(q, head->shown, q->version, id);
    int r = store_get(q->v->conf.store, key, &sealed, NULL, e);
    if (r == STORE_ABSENT)
        r = err_set(e, E_PARSE, "%s: the value is missing in the store", key);
    if (r == 0)
        r = seal_open(q->v->seal, key, buf_span(&sealed), &value, e);
    v = span_of(buf_text(&value), value.n);
    if (r == 0)
        r = secret_bundle(meta, id, &v, &bundle, e);
    buf_done(&sealed);
    buf_wipe(&value);
    if (r == 0)
        request_finish(q, 200, bundle);
    return r;
}

static int
get_answer(struct vault_request *q, const struct secret_head *head, const struct secret_meta *meta,
           struct err *e)
{
    if (!meta->enabled) {
        request_fail(q, 403, "Forbidden", "SecretDisabled",
                     "Operation get is not allowed on a disabled secret.");
        return 0;
    }
    if (meta->nbf > unix_s()) {
        request_fail(q, 403, "Forbidden", "SecretNotYetValid",
                     "Operation get is not allowed on a secret that is not yet valid.");
        return 0;
    }
    return answer_value(q, head, meta, e); /* an expired one can be read: as the service does */
}

int
op_get(struct vault_request *q, struct err *e)
{
    struct secret_meta meta = { 0 };
    struct secret_head head;

    int r = head_load(q, q->lower, &head, e);
    if (r == 0 && q->version[0] == '\0')
        memcpy(q->version, head.current, sizeof(q->version));
    if (r == 0)
        r = meta_load(q, q->lower, q->version, &meta, NULL, e);
    if (r == STORE_ABSENT) {
        request_not_found(q);
        return 0;
    }
    if (r == 0)
        r = get_answer(q, &head, &meta, e);
    secret_meta_done(&meta);
    return r;
}

/* -- lists --------------------------------------------------------------------------------------
 */

/* The last parts of up to PAGE_MAX + 1 keys: one more than a page tells whether there is another.
 */
struct page {
    size_t n, want, skip;
    char part[PAGE_MAX + 1][SECRET_NAME_BYTES];
};

static int
on_key(const char *key, struct span value, uint64_t revision, void *arg, struct err *e)
{
    struct page *p = arg;
    const char *part = key + p->skip;

    (void)value;
    (void)revision;
    if (p->n > p->want || strlen(part) >= SECRET_NAME_BYTES)
        return err_set(e, E_PARSE, "%s: damaged key in the store", key);
    (void)snprintf(p->part[p->n++], SECRET_NAME_BYTES, "%s", part);
    return 0;
}

/* maxresults and $skiptoken. False: answered. */
static bool
page_args(struct vault_request *q, struct page *p, char after[SECRET_NAME_BYTES])
{
    const char *max = http_query(q->x, "maxresults"), *token = http_query(q->x, "$skiptoken");
    struct buf b = BUF_INIT(SECRET_NAME_BYTES);
    uint64_t n = PAGE_MAX;
    struct err e = { 0 };
    bool ok = true;

    if (max != NULL && u64_parse(span_str(max), 1, PAGE_MAX, &n, &e) < 0) {
        request_fail(q, 400, "BadParameter", NULL, "maxresults must be a number from 1 to %d.",
                     (int)PAGE_MAX);
        return false;
    }
    p->want = (size_t)n;
    after[0] = '\0';
    if (token != NULL) {
        ok = base64url_decode(&b, span_str(token), &e) == 0 && secret_name_ok(buf_text(&b)) &&
             strlen(buf_text(&b)) == b.n;
        if (ok)
            (void)snprintf(after, SECRET_NAME_BYTES, "%s", buf_text(&b));
        else
            request_fail(q, 400, "BadParameter", NULL, "The $skiptoken is not one of ours.");
    }
    buf_done(&b);
    return ok;
}

static int
page_load(struct vault_request *q, const char *prefix, const char *after, struct page *p,
          struct err *e)
{
    char from[VAULT_KEY_BYTES + SECRET_NAME_BYTES];

    p->skip = strlen(prefix);
    (void)snprintf(from, sizeof(from), "%s%s", prefix, after);
    return store_list(q->v->conf.store, prefix, after[0] == '\0' ? NULL : from, p->want + 1, false,
                      on_key, p, e);
}

/* Absolute, with everything in it: clients follow it as it is. */
static int
next_link(const struct vault_request *q, const struct page *p, json_t *answer, struct err *e)
{
    struct buf token = BUF_INIT(TOKEN_BYTES);
    char path[SECRET_NAME_BYTES + 32] = "/secrets";
    json_t *link = NULL;

    if (p->n <= p->want) {
        link = json_null();
    } else {
        if (q->name[0] != '\0')
            (void)snprintf(path, sizeof(path), "/secrets/%s/versions", q->name);
        int r = base64url_add(&token, span_str(p->part[p->want - 1]), e);
        if (r == 0)
            link = json_sprintf("%s%s?api-version=%s&$skiptoken=%s&maxresults=%zu", q->base, path,
                                q->api_version, buf_text(&token), p->want);
        buf_done(&token);
        if (r < 0)
            return r;
    }
    return json_object_set_new(answer, "nextLink", link) < 0 ? err_nomem(e) : 0;
}

static int
add_item(struct vault_request *q, json_t *items, const char *lower, const char *shown,
         const char *version, bool id_has_version, struct err *e)
{
    struct secret_meta meta = { 0 };
    char id[SECRET_ID_BYTES];
    json_t *item = NULL;

    int r = meta_load(q, lower, version, &meta, NULL, e);
    if (r == STORE_ABSENT)
        return err_set(e, E_PARSE, "%s/%s: attributes are missing in the store", lower, version);
    secret_id(q, shown, id_has_version ? version : "", id);
    if (r == 0)
        r = secret_bundle(&meta, id, NULL, &item, e);
    secret_meta_done(&meta);
    if (r == 0 && json_array_append_new(items, item) < 0)
        return err_nomem(e);
    return r;
}

static int
list_answer(struct vault_request *q, const struct page *p, const struct secret_head *of,
            struct err *e)
{
    CLEANUP(json_unrefp) json_t *answer = json_object();
    json_t *items = json_array();

    if (json_object_set_new(answer, "value", items) < 0)
        return err_nomem(e);
    for (size_t i = 0; i < p->n && i < p->want; i++) {
        struct secret_head head;

        if (of != NULL) {
            TRY(add_item(q, items, q->lower, of->shown, p->part[i], true, e));
        } else {
            if (TRY(head_load(q, p->part[i], &head, e)) == STORE_ABSENT)
                continue; /* gone since the keys were read */
            TRY(add_item(q, items, p->part[i], head.shown, head.current, false, e));
        }
    }
    TRY(next_link(q, p, answer, e));
    request_finish(q, 200, STEAL(answer));
    return 0;
}

int
op_list(struct vault_request *q, struct err *e)
{
    char prefix[VAULT_KEY_BYTES], after[SECRET_NAME_BYTES];
    struct page p = { 0 };

    key_secret(q, "", prefix);
    if (!page_args(q, &p, after))
        return 0;
    TRY(page_load(q, prefix, after, &p, e));
    return list_answer(q, &p, NULL, e);
}

int
op_list_versions(struct vault_request *q, struct err *e)
{
    char prefix[VAULT_KEY_BYTES], after[SECRET_NAME_BYTES];
    struct secret_head head;
    struct page p = { 0 };

    if (!page_args(q, &p, after))
        return 0;
    if (TRY(head_load(q, q->lower, &head, e)) == STORE_ABSENT) {
        request_not_found(q);
        return 0;
    }
    key_version(q, q->lower, "", prefix);
    TRY(page_load(q, prefix, after, &p, e));
    return list_answer(q, &p, &head, e);
}
