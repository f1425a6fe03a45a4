/* revoked.c - the leaves that are revoked: on disk first, then in memory. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/str.h"
#include "ca/revoke.h"

#define REVOKED_PREFIX "revoked/"

enum { VALUE_BYTES = 4096 };

void
revoked_record_key(const struct revoked *v, char ret[REVOKED_KEY_BYTES])
{
    char signer[DIGEST_TEXT_BYTES], serial[2 * SERIAL_MAX_BYTES + 1];

    hex_text(span_of(v->signer_id, DIGEST_BYTES), signer);
    hex_text(span_of(v->entry.serial, v->entry.serial_n), serial);
    (void)snprintf(ret, REVOKED_KEY_BYTES, REVOKED_PREFIX "%s/%s", signer, serial);
}

/* -- reading -- */

static int
key_parse(const char *key, struct revoked *v, struct err *e)
{
    struct span rest = span_skip(span_str(key), sizeof(REVOKED_PREFIX) - 1), signer;

    if (!span_starts(span_str(key), REVOKED_PREFIX) || !span_cut(&rest, '/', &signer) ||
        rest.n % 2 != 0 || rest.n > 2 * SERIAL_MAX_BYTES ||
        hex_parse(signer, v->signer_id, DIGEST_BYTES, e) < 0 ||
        hex_parse(rest, v->entry.serial, rest.n / 2, e) < 0)
        return err_set(e, E_PARSE, "not the key of a revoked leaf");
    v->entry.serial_n = rest.n / 2;
    return 0;
}

static int
value_parse(struct span text, struct revoked *v, struct err *e)
{
    json_t *j = json_loadb((const char *)text.p, text.n, JSON_REJECT_DUPLICATES, NULL);
    json_int_t not_after = 0, at = 0;
    const char *identity = NULL, *reason = NULL;
    int r = json_unpack(j, "{s:I, s:I, s:s, s:s}", "not_after", &not_after, "revoked", &at,
                        "identity", &identity, "reason", &reason);

    v->not_after = not_after;
    v->entry.revoked = at;
    r = r != 0 ? err_set(e, E_PARSE, "not a record of a revoked leaf")
               : crl_reason_parse(reason, &v->entry.reason, e);
    if (r == 0)
        r = str_dup(span_str(identity), &v->identity, e);
    json_decref(j);
    return r;
}

/* Takes over v->identity. */
static int
table_put(struct revoked_table *t, struct revoked *v, struct err *e)
{
    if (t->n == t->cap) {
        size_t cap = t->cap == 0 ? 16 : 2 * t->cap;
        struct revoked *p = realloc(t->all, cap * sizeof(*p));

        if (p == NULL)
            return err_nomem(e);
        t->all = p;
        t->cap = cap;
    }
    t->all[t->n++] = *v;
    v->identity = NULL;
    return 0;
}

int
revoked_record_read(const char *key, struct span value, struct revoked *ret, struct err *e)
{
    struct revoked v = { .identity = NULL };

    TRY(key_parse(key, &v, e));
    TRY(value_parse(value, &v, e));
    *ret = v;
    return 0;
}

static int
on_record(const char *key, struct span value, uint64_t revision, void *arg, struct err *e)
{
    struct revoked v = { .identity = NULL };

    (void)revision;
    int r = revoked_record_read(key, value, &v, e);
    if (r == 0)
        r = table_put(arg, &v, e);
    free(v.identity);
    return r < 0 ? err_wrap(e, "%s", key) : 0;
}

int
revoked_open(struct revoked_table *t, struct store *s, struct loop *l, struct err *e)
{
    *t = (struct revoked_table){ .store = s, .loop = l };
    return s == NULL ? 0 : store_list(s, REVOKED_PREFIX, NULL, SIZE_MAX, false, on_record, t, e);
}

void
revoked_done(struct revoked_table *t)
{
    for (size_t i = 0; i < t->n; i++)
        free(t->all[i].identity);
    free(t->all);
    t->all = NULL;
    t->n = t->cap = 0;
}

const struct revoked *
revoked_find(const struct revoked_table *t, const uint8_t signer_id[DIGEST_BYTES],
             struct span serial)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct revoked *v = &t->all[i];

        if (span_eq(span_of(v->entry.serial, v->entry.serial_n), serial) &&
            memcmp(v->signer_id, signer_id, DIGEST_BYTES) == 0)
            return v;
    }
    return NULL;
}

/* -- adding: transactions of STORE_TXN_OPS, answered in their order -- */

struct adding {
    struct revoked_table *table;
    void (*done)(const struct err *e, void *arg);
    void *arg;
    struct err err; /* the first that went wrong */
    size_t parts_n; /* at the store */
    size_t n;
    struct revoked v[]; /* identities are owned */
};

static void
adding_free(struct adding *a)
{
    for (size_t i = 0; i < a->n; i++)
        free(a->v[i].identity);
    free(a);
}

struct part { /* one transaction */
    struct adding *adding;
    size_t from, n;
};

static void
on_part(const struct err *why, uint64_t revision, void *arg)
{
    struct part *p = arg;
    struct adding *a = p->adding;
    struct err e = *why;

    (void)revision;
    for (size_t i = p->from; i < p->from + p->n && e.code == E_NONE; i++)
        if (revoked_find(a->table, a->v[i].signer_id,
                         span_of(a->v[i].entry.serial, a->v[i].entry.serial_n)) == NULL &&
            table_put(a->table, &a->v[i], &e) < 0)
            break;
    if (e.code != E_NONE && a->err.code == E_NONE)
        a->err = e;
    free(p);
    if (--a->parts_n == 0) {
        a->done(&a->err, a->arg);
        adding_free(a);
    }
}

int
revoked_record_write(const struct revoked *v, struct buf *b, struct err *e)
{
    json_t *j = json_pack("{s:I, s:I, s:s, s:s}", "not_after", (json_int_t)v->not_after, "revoked",
                          (json_int_t)v->entry.revoked, "identity", v->identity, "reason",
                          crl_reason_name(v->entry.reason));
    char *text = j == NULL ? NULL : json_dumps(j, JSON_COMPACT);
    int r = text == NULL ? err_nomem(e) : buf_add_str(b, text, e);

    free(text);
    json_decref(j);
    return r;
}

static int
part_commit(struct adding *a, size_t from, size_t n, struct err *e)
{
    struct store_op ops[STORE_TXN_OPS];
    char keys[STORE_TXN_OPS][REVOKED_KEY_BYTES];
    struct buf values[STORE_TXN_OPS];
    struct part *p = malloc(sizeof(*p));
    int r = p == NULL ? err_nomem(e) : 0;

    for (size_t i = 0; i < n; i++)
        values[i] = BUF_INIT(VALUE_BYTES);
    for (size_t i = 0; i < n && r == 0; i++) {
        revoked_record_key(&a->v[from + i], keys[i]);
        r = revoked_record_write(&a->v[from + i], &values[i], e);
        ops[i] = (struct store_op){ .kind = STORE_PUT, .key = keys[i] };
        ops[i].value = buf_span(&values[i]);
    }
    if (r == 0) {
        *p = (struct part){ a, from, n };
        r = store_commit(a->table->store, ops, n, a->table->loop, on_part, p, e);
    }
    if (r < 0)
        free(p);
    else
        a->parts_n++; /* answered on this loop, so not yet */
    for (size_t i = 0; i < n; i++)
        buf_done(&values[i]);
    return r;
}

static int
adding_make(struct revoked_table *t, const struct revoked *v, size_t n, struct adding **ret,
            struct err *e)
{
    struct adding *a = calloc(1, sizeof(*a) + n * sizeof(a->v[0]));
    int r = a == NULL ? err_nomem(e) : 0;

    if (a != NULL)
        a->table = t;
    for (; r == 0 && a->n < n; a->n += r == 0) {
        a->v[a->n] = v[a->n];
        a->v[a->n].identity = NULL;
        r = str_dup(span_str(v[a->n].identity), &a->v[a->n].identity, e);
    }
    if (r < 0 && a != NULL)
        adding_free(a);
    else
        *ret = a;
    return r;
}

int
revoked_add(struct revoked_table *t, const struct revoked *v, size_t n,
            void (*done)(const struct err *e, void *arg), void *arg, struct err *e)
{
    struct adding *a = NULL;
    size_t at = 0;
    int r = 0;

    if (t->store == NULL)
        return err_set(e, E_STATE, "this CA has no store to keep revoked leaves in");
    if (t->n + n > REVOKED_MAX)
        return err_set(e, E_LIMIT,
                       "%zu leaves are revoked and not expired, %zu more would pass the limit of "
                       "%d; they leave the list as they expire",
                       t->n, n, REVOKED_MAX);
    TRY(adding_make(t, v, n, &a, e));
    a->done = done;
    a->arg = arg;
    while (at < n && r == 0) {
        size_t some = n - at < STORE_TXN_OPS ? n - at : STORE_TXN_OPS;

        r = part_commit(a, at, some, e);
        at += r == 0 ? some : 0;
    }
    if (at == 0) {
        adding_free(a);
        return r;
    }
    if (r < 0)
        a->err = *e; /* said when the parts before it are there */
    return 0;
}

/* -- letting go -- */

bool
revoked_may_go(int64_t end, uint64_t *seen_ms, int64_t now, uint64_t now_ms)
{
    if (end + REVOKED_KEPT_S >= now) {
        *seen_ms = 0;
        return false;
    }
    if (*seen_ms == 0)
        *seen_ms = now_ms == 0 ? 1 : now_ms;
    return now_ms - *seen_ms >= (uint64_t)REVOKED_KEPT_S * 1000;
}

void
revoked_record_delete(struct store *s, const char *key)
{
    struct store_op op = { .kind = STORE_DELETE, .key = key };
    struct err e;

    if (s != NULL && store_commit(s, &op, 1, NULL, NULL, NULL, &e) < 0)
        return; /* the store is busy */
}

bool
revoked_prune(struct revoked_table *t, int64_t now, uint64_t now_ms)
{
    size_t n = 0;

    for (size_t i = 0; i < t->n; i++) {
        struct revoked *v = &t->all[i];
        char key[REVOKED_KEY_BYTES];

        if (revoked_may_go(v->not_after, &v->seen_ms, now, now_ms)) {
            revoked_record_key(v, key);
            revoked_record_delete(t->store, key);
            free(v->identity);
        } else {
            t->all[n++] = *v;
        }
    }
    bool any = n != t->n;
    t->n = n;
    return any;
}
