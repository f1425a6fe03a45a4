/* revoked_identity.c - see revoked_identity.h. */
#include "ca/revoked_identity.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/str.h"
#include "ca/revoke.h"
#include "pki/leaf.h"

#define IDENTITY_PREFIX "revoke-identity/"

enum { VALUE_BYTES = 4096 };

/* -- cuts -- */

struct cut {
    const char *identity; /* in its own cuts' texts */
    int64_t at;
};

struct cuts {
    atomic_uint refs;
    char *texts; /* owned */
    size_t n;
    struct cut all[]; /* by identity; of one, the latest last */
};

struct cuts *
cuts_ref(struct cuts *c)
{
    (void)atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void
cuts_unref(struct cuts *c)
{
    if (c == NULL || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(c->texts);
    free(c);
}

bool
cuts_equal(const struct cuts *a, const struct cuts *b)
{
    size_t n = a == NULL ? 0 : a->n, i = 0;

    if (n != (b == NULL ? 0 : b->n))
        return false;
    while (i < n && a->all[i].at == b->all[i].at &&
           strcmp(a->all[i].identity, b->all[i].identity) == 0)
        i++;
    return i == n;
}

static int
cut_order(const void *a, const void *b)
{
    const struct cut *x = a, *y = b;
    int r = strcmp(x->identity, y->identity);

    return r != 0 ? r : (x->at > y->at) - (x->at < y->at);
}

static int
cuts_make(const struct revoked_identities *t, struct cuts **ret, struct err *e)
{
    size_t bytes = 1;

    *ret = NULL;
    if (t->n == 0)
        return 0;
    for (size_t i = 0; i < t->n; i++)
        bytes += strlen(t->all[i].identity) + 1;
    struct cuts *c = calloc(1, sizeof(*c) + t->n * sizeof(c->all[0]));
    char *text = c == NULL ? NULL : calloc(1, bytes);
    if (text == NULL) {
        free(c);
        return err_nomem(e);
    }
    atomic_init(&c->refs, 1);
    c->texts = text;
    for (; c->n < t->n; c->n++) {
        const struct revoked_identity *v = &t->all[c->n];
        size_t n = strlen(v->identity) + 1;

        memcpy(text, v->identity, n);
        c->all[c->n] = (struct cut){ text, v->at };
        text += n;
    }
    qsort(c->all, c->n, sizeof(c->all[0]), cut_order);
    *ret = c;
    return 0;
}

static int
span_order(struct span a, const char *text)
{
    struct span b = span_str(text);
    int r = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);

    return r != 0 ? r : (a.n > b.n) - (a.n < b.n);
}

bool
cuts_refuse(const struct cuts *c, struct span identity, int64_t not_before)
{
    size_t from = 0, to = c == NULL ? 0 : c->n;

    if (identity.n == 0)
        return false;
    while (from < to) { /* the first that lies behind this identity */
        size_t mid = from + (to - from) / 2;

        if (span_order(identity, c->all[mid].identity) >= 0)
            from = mid + 1;
        else
            to = mid;
    }
    return from > 0 && span_eq_str(identity, c->all[from - 1].identity) &&
           not_before + LEAF_BACKDATE_S < c->all[from - 1].at;
}

static int
cuts_renew(struct revoked_identities *t, struct err *e)
{
    struct cuts *c;

    TRY(cuts_make(t, &c, e));
    cuts_unref(t->cuts);
    t->cuts = c;
    return 0;
}

/* -- records -- */

void
identity_record_key(const struct revoked_identity *v, char ret[IDENTITY_KEY_BYTES])
{
    char hex[2 * IDENTITY_ACT_BYTES + 1];

    hex_text(span_of(v->id, IDENTITY_ACT_BYTES), hex);
    (void)snprintf(ret, IDENTITY_KEY_BYTES, IDENTITY_PREFIX "%s", hex);
}

int
identity_record_write(const struct revoked_identity *v, struct buf *b, struct err *e)
{
    json_t *j =
        json_pack("{s:s, s:I, s:I, s:s}", "identity", v->identity, "revoked", (json_int_t)v->at,
                  "until", (json_int_t)v->until, "reason", crl_reason_name(v->reason));
    char *text = j == NULL ? NULL : json_dumps(j, JSON_COMPACT);
    int r = text == NULL ? err_nomem(e) : buf_add_str(b, text, e);

    free(text);
    json_decref(j);
    return r;
}

int
identity_record_read(const char *key, struct span value, struct revoked_identity *ret,
                     struct err *e)
{
    struct revoked_identity v = { .is_kept = true };
    json_int_t at = 0, until = 0;
    const char *identity = NULL, *reason = NULL;

    if (!span_starts(span_str(key), IDENTITY_PREFIX) ||
        hex_parse(span_skip(span_str(key), sizeof(IDENTITY_PREFIX) - 1), v.id, sizeof(v.id), e) < 0)
        return err_set(e, E_PARSE, "not the key of a revoked identity");
    json_t *j = json_loadb((const char *)value.p, value.n, JSON_REJECT_DUPLICATES, NULL);
    int r = json_unpack(j, "{s:s, s:I, s:I, s:s}", "identity", &identity, "revoked", &at, "until",
                        &until, "reason", &reason);
    r = r != 0 ? err_set(e, E_PARSE, "not a record of a revoked identity")
               : crl_reason_parse(reason, &v.reason, e);
    v.at = at;
    v.until = until;
    if (r == 0)
        r = str_dup(span_str(identity), &v.identity, e);
    json_decref(j);
    if (r == 0)
        *ret = v;
    return r;
}

/* -- the table -- */

static int
table_put(struct revoked_identities *t, struct revoked_identity *take_v, struct err *e)
{
    if (t->n == t->cap) {
        size_t cap = t->cap == 0 ? 16 : 2 * t->cap;
        struct revoked_identity *p = realloc(t->all, cap * sizeof(*p));

        if (p == NULL) {
            free(take_v->identity);
            return err_nomem(e);
        }
        t->all = p;
        t->cap = cap;
    }
    t->all[t->n++] = *take_v;
    return 0;
}

static int
on_record(const char *key, struct span value, uint64_t revision, void *arg, struct err *e)
{
    struct revoked_identity v;

    (void)revision;
    int r = identity_record_read(key, value, &v, e);
    if (r == 0)
        r = table_put(arg, &v, e);
    return r < 0 ? err_wrap(e, "%s", key) : 0;
}

int
identities_open(struct revoked_identities *t, struct store *s, struct loop *l, struct err *e)
{
    *t = (struct revoked_identities){ .store = s, .loop = l };
    if (s == NULL)
        return 0;
    TRY(store_list(s, IDENTITY_PREFIX, NULL, SIZE_MAX, false, on_record, t, e));
    return cuts_renew(t, e);
}

void
identities_done(struct revoked_identities *t)
{
    for (size_t i = 0; i < t->n; i++)
        free(t->all[i].identity);
    free(t->all);
    cuts_unref(t->cuts);
    *t = (struct revoked_identities){ .store = NULL };
}

struct revoked_identity *
identities_find(const struct revoked_identities *t, const uint8_t id[IDENTITY_ACT_BYTES])
{
    for (size_t i = 0; i < t->n; i++)
        if (memcmp(t->all[i].id, id, IDENTITY_ACT_BYTES) == 0)
            return &t->all[i];
    return NULL;
}

size_t
identities_kept(const struct revoked_identities *t)
{
    size_t n = 0;

    for (size_t i = 0; i < t->n; i++)
        n += t->all[i].is_kept;
    return n;
}

int
identities_begin(struct revoked_identities *t, const struct revoked_identity *v, struct err *e)
{
    struct revoked_identity mine = *v;

    if (t->store == NULL)
        return err_set(e, E_STATE, "this CA has no store to keep revoked identities in");
    if (t->n >= REVOKED_IDENTITIES_MAX)
        return err_set(
            e, E_LIMIT,
            "%zu times an identity was revoked of which a leaf may be alive, and that is "
            "the limit; revoke its leaves by --serial on the replicas that issued them",
            t->n);
    mine.seen_ms = 0;
    mine.is_kept = false;
    TRY(str_dup(span_str(v->identity), &mine.identity, e));
    TRY(table_put(t, &mine, e));
    if (cuts_renew(t, e) == 0)
        return 0;
    free(t->all[--t->n].identity);
    return err_result(e);
}

void
identities_drop(struct revoked_identities *t, const uint8_t id[IDENTITY_ACT_BYTES])
{
    struct revoked_identity *v = identities_find(t, id);
    struct err e;

    if (v == NULL)
        return;
    free(v->identity);
    t->n--;
    memmove(v, v + 1, (size_t)(&t->all[t->n] - v) * sizeof(*v));
    (void)cuts_renew(t, &e); /* out of memory: it is refused a while longer */
}

struct keeping {
    struct revoked_identities *table;
    uint8_t id[IDENTITY_ACT_BYTES];
    void (*done)(const struct err *e, void *arg);
    void *arg;
};

static void
on_kept(const struct err *why, uint64_t revision, void *arg)
{
    struct keeping *k = arg;
    struct revoked_identity *v = identities_find(k->table, k->id);

    (void)revision;
    if (v != NULL && why->code == E_NONE)
        v->is_kept = true;
    k->done(why, k->arg);
    free(k);
}

int
identities_keep(struct revoked_identities *t, const uint8_t id[IDENTITY_ACT_BYTES],
                void (*done)(const struct err *e, void *arg), void *arg, struct err *e)
{
    CLEANUP(buf_done) struct buf value = BUF_INIT(VALUE_BYTES);
    const struct revoked_identity *v = identities_find(t, id);
    char key[IDENTITY_KEY_BYTES];

    if (v == NULL)
        return err_set(e, E_STATE, "this identity is not being revoked");
    identity_record_key(v, key);
    TRY(identity_record_write(v, &value, e));
    struct keeping *k = calloc(1, sizeof(*k));
    if (k == NULL)
        return err_nomem(e);
    *k = (struct keeping){ .table = t, .done = done, .arg = arg };
    memcpy(k->id, id, IDENTITY_ACT_BYTES);
    struct store_op op = { .kind = STORE_PUT, .key = key, .value = buf_span(&value) };
    int r = store_commit(t->store, &op, 1, t->loop, on_kept, k, e);
    if (r < 0)
        free(k);
    return r;
}

/* -- letting go -- */

bool
identities_prune(struct revoked_identities *t, int64_t now, uint64_t now_ms)
{
    size_t n = 0;
    struct err e;

    for (size_t i = 0; i < t->n; i++) {
        struct revoked_identity *v = &t->all[i];
        char key[IDENTITY_KEY_BYTES];

        if (v->is_kept && revoked_may_go(v->until, &v->seen_ms, now, now_ms)) {
            identity_record_key(v, key);
            revoked_record_delete(t->store, key);
            free(v->identity);
        } else {
            t->all[n++] = *v;
        }
    }
    bool any = n != t->n;
    t->n = n;
    if (any)
        (void)cuts_renew(t, &e); /* out of memory: what has ended is refused a while longer */
    return any;
}
