/* vault_write.c - set and update: one transaction each, answered when it is durable. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "vault/request.h"

enum { CONFLICT_TRIES = 8, RECORD_BYTES = 32 * 1024, VERSION_ID_BYTES = 16, SET_OPS = 4 };

static int set_try(struct vault_request *q, struct err *e);
static int update_try(struct vault_request *q, struct err *e);

/* What the caller sent is wrong. */
static int
fail_caller(struct vault_request *q, const struct err *e)
{
    if (e->code == E_NOMEM)
        return err_result(e);
    request_fail(q, 400, "BadParameter", NULL, "%s", e->msg);
    return 0;
}

/* The value appears in the answer to a set, and never in that to an update. */
static void
answer(struct vault_request *q)
{
    char id[SECRET_ID_BYTES];
    json_t *bundle = NULL;
    struct err e = { 0 };
    bool is_set = q->change.value.p != NULL;

    secret_id(q, q->shown, q->version, id);
    if (secret_bundle(&q->meta, id, is_set ? &q->change.value : NULL, &bundle, &e) < 0)
        request_fail_err(q, &e);
    else
        request_finish(q, 200, bundle);
}

/* Somebody else wrote the same secret first: read again, decide again. */
static void
on_committed(const struct err *why, uint64_t revision, void *arg)
{
    struct vault_request *q = arg;
    struct err e = { 0 };

    (void)revision;
    if (why->code == E_NONE) {
        answer(q);
        return;
    }
    if (why->code != E_CONFLICT || q->v == NULL || ++q->tries == CONFLICT_TRIES) {
        request_fail_err(q, why);
        return;
    }
    int r = q->change.value.p != NULL ? set_try(q, &e) : update_try(q, &e);
    if (r < 0)
        request_fail_err(q, &e);
}

/* -- set ----------------------------------------------------------------------------------------
 */

static int
version_make(char ret[SECRET_VERSION_BYTES], struct err *e)
{
    uint8_t b[VERSION_ID_BYTES];

    TRY(random_bytes(b, sizeof(b), e));
    hex_text(span_of(b, sizeof(b)), ret);
    return 0;
}

static int
head_save(const struct vault_request *q, struct buf *out, struct err *e)
{
    CLEANUP(json_unrefp)
    json_t *j = json_pack("{s:s,s:s}", "name", q->shown, "current", q->version);

    return j == NULL ? err_nomem(e) : json_add(out, j, e);
}

/* Value, attributes and the pointer to them, or none of the three. */
static int
set_commit(struct vault_request *q, uint64_t head_revision, struct buf *head, struct buf *meta,
           struct buf *value, struct err *e)
{
    char k_head[VAULT_KEY_BYTES], k_meta[VAULT_KEY_BYTES], k_value[VAULT_KEY_BYTES];

    key_secret(q, q->lower, k_head);
    key_version(q, q->lower, q->version, k_meta);
    key_value(q, q->lower, q->version, k_value);
    TRY(head_save(q, head, e));
    TRY(secret_meta_save(&q->meta, meta, e));
    TRY(seal_close(q->v->seal, k_value, q->change.value, value, e));
    const struct store_op ops[SET_OPS] = {
        { STORE_EXPECT, k_head, { 0 }, head_revision },
        { STORE_PUT, k_value, buf_span(value), 0 },
        { STORE_PUT, k_meta, buf_span(meta), 0 },
        { STORE_PUT, k_head, buf_span(head), 0 },
    };
    return store_commit(q->v->conf.store, ops, SET_OPS, q->v->conf.loop, on_committed, q, e);
}

static int
set_try(struct vault_request *q, struct err *e)
{
    struct buf head = BUF_INIT(RECORD_BYTES), meta = BUF_INIT(RECORD_BYTES),
               value = BUF_INIT(STORE_VALUE_BYTES);
    struct secret_head old = { .revision = 0 };

    int r = head_load(q, q->lower, &old, e);
    memcpy(q->shown, r == STORE_ABSENT ? q->name : old.shown, sizeof(q->shown));
    if (r >= 0)
        r = version_make(q->version, e);
    if (r == 0)
        r = set_commit(q, old.revision, &head, &meta, &value, e);
    buf_done(&head);
    buf_done(&meta);
    buf_done(&value);
    return r;
}

int
op_set(struct vault_request *q, struct err *e)
{
    int64_t now = unix_s();

    q->meta = (struct secret_meta){ .enabled = true, .created = now, .updated = now };
    if (secret_change_parse(http_body(q->x), true, &q->change, e) < 0 ||
        secret_meta_apply(&q->meta, &q->change, e) < 0)
        return fail_caller(q, e);
    return set_try(q, e);
}

/* -- update -------------------------------------------------------------------------------------
 */

static int
update_commit(struct vault_request *q, uint64_t revision, struct err *e)
{
    struct buf meta = BUF_INIT(RECORD_BYTES);
    char key[VAULT_KEY_BYTES];

    key_version(q, q->lower, q->version, key);
    int r = secret_meta_save(&q->meta, &meta, e);
    const struct store_op ops[] = {
        { STORE_EXPECT, key, { 0 }, revision },
        { STORE_PUT, key, buf_span(&meta), 0 },
    };
    if (r == 0)
        r = store_commit(q->v->conf.store, ops, ARRAY_LEN(ops), q->v->conf.loop, on_committed, q,
                         e);
    buf_done(&meta);
    return r;
}

static int
update_try(struct vault_request *q, struct err *e)
{
    struct secret_head head;
    uint64_t revision = 0;

    secret_meta_done(&q->meta);
    int r = head_load(q, q->lower, &head, e);
    if (r == 0 && q->version[0] == '\0')
        memcpy(q->version, head.current, sizeof(q->version));
    if (r == 0)
        r = meta_load(q, q->lower, q->version, &q->meta, &revision, e);
    if (r == STORE_ABSENT) {
        request_not_found(q);
        return 0;
    }
    if (r < 0)
        return r;
    memcpy(q->shown, head.shown, sizeof(q->shown));
    if (secret_meta_apply(&q->meta, &q->change, e) < 0)
        return fail_caller(q, e);
    q->meta.updated = unix_s();
    return update_commit(q, revision, e);
}

int
op_update(struct vault_request *q, struct err *e)
{
    if (secret_change_parse(http_body(q->x), false, &q->change, e) < 0)
        return fail_caller(q, e);
    return update_try(q, e);
}
