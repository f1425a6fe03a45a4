/* lists.c - a revocation list for each signer whose leaves may be alive, and those of CAs above. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/str.h"
#include "ca/revoke.h"
#include "ledger/reader.h"
#include "net/json.h"

#define LIST_PREFIX "crl/"

enum { KEY_BYTES = sizeof(LIST_PREFIX) + DIGEST_TEXT_BYTES };

static void
list_key(const struct crl_list *x, char ret[KEY_BYTES])
{
    memcpy(ret, LIST_PREFIX, sizeof(LIST_PREFIX));
    hex_text(span_of(x->signer_id, DIGEST_BYTES), ret + sizeof(LIST_PREFIX) - 1);
}

static void
list_free(struct crl_list *x)
{
    cert_unref(x->cert);
    signer_unref(x->signer);
    crl_unref(x->list);
    crl_unref(x->bare);
}

/* -- at start -- */

/* A signer of a former run: its list stands, its key is gone. */
static int
on_list(const char *key, struct span value, uint64_t revision, void *arg, struct err *e)
{
    struct crl_lists *l = arg;
    struct crl_list x = { .is_dirty = true };

    (void)revision;
    if (l->n == CA_LISTS_MAX)
        return 0; /* a list too many of a former run: its signer is not told of */
    int r = hex_parse(span_str(key + sizeof(LIST_PREFIX) - 1), x.signer_id, DIGEST_BYTES, e);
    if (r == 0)
        r = crl_from_der(value, &x.list, e);
    if (r == 0)
        r = ledger_issuer(l->table->store, x.signer_id, &x.cert, e);
    if (r < 0) {
        list_free(&x);
        return err_wrap(e, "%s", key);
    }
    l->all[l->n++] = x;
    return 0;
}

static void
list_append(struct crl_lists *l, struct cert *cert)
{
    struct crl_list x = { .cert = cert_ref(cert), .is_dirty = true };

    memcpy(x.signer_id, cert_id(cert), DIGEST_BYTES);
    l->all[l->n++] = x;
}

const struct crl_list *
lists_find(const struct crl_lists *l, const uint8_t signer_id[DIGEST_BYTES])
{
    for (size_t i = 0; i < l->n; i++)
        if (memcmp(l->all[i].signer_id, signer_id, DIGEST_BYTES) == 0)
            return &l->all[i];
    return NULL;
}

/* Signers of other replicas, whose leaves are in the table: no list of theirs was signed here. */
static int
issuers_open(struct crl_lists *l, struct err *e)
{
    for (size_t i = 0; i < l->table->n && l->n < CA_LISTS_MAX; i++) {
        CLEANUP(cert_unrefp) struct cert *cert = NULL;
        const uint8_t *id = l->table->all[i].signer_id;

        if (lists_find(l, id) == NULL && TRY(ledger_issuer(l->table->store, id, &cert, e)) == 0)
            list_append(l, cert);
    }
    return 0;
}

int
lists_open(struct crl_lists *l, struct ca *c, struct revoked_table *t, struct err *e)
{
    *l = (struct crl_lists){ .ca = c, .table = t };
    if (t->store == NULL)
        return 0;
    TRY(store_list(t->store, LIST_PREFIX, NULL, SIZE_MAX, false, on_list, l, e));
    return issuers_open(l, e);
}

void
lists_done(struct crl_lists *l)
{
    for (size_t i = 0; i < l->n; i++)
        list_free(&l->all[i]);
    crls_unref(STEAL(l->handed_out));
    crls_unref(STEAL(l->above));
    l->n = 0;
}

/* -- signers -- */

static void
list_forget(struct crl_lists *l, size_t i)
{
    char key[KEY_BYTES];
    struct store_op op = { .kind = STORE_DELETE, .key = key };
    struct err e;

    list_key(&l->all[i], key);
    if (l->table->store != NULL && store_commit(l->table->store, &op, 1, NULL, NULL, NULL, &e) < 0)
        log_debug("revoke", "an old list stays in the store: %s", e.msg);
    list_free(&l->all[i]);
    memmove(&l->all[i], &l->all[i + 1], (l->n - i - 1) * sizeof(l->all[0]));
    l->n--;
}

/* The one that is missed least: the oldest without an entry, else the oldest. */
static size_t
list_least(const struct crl_lists *l)
{
    for (size_t i = l->n - 1; i > 0; i--)
        if ((l->all[i].list == NULL || crl_count(l->all[i].list) == 0) && l->all[i].bare == NULL)
            return i;
    return l->n - 1;
}

/* The one of this signer at the front, those that were before it behind. */
static struct crl_list *
list_to_front(struct crl_lists *l, const uint8_t id[DIGEST_BYTES])
{
    struct crl_list x = { .is_dirty = true };
    size_t i = 0;

    while (i < l->n && memcmp(l->all[i].signer_id, id, DIGEST_BYTES) != 0)
        i++;
    if (i < l->n) {
        x = l->all[i];
    } else {
        if (l->n == CA_LISTS_MAX) {
            log_warn("revoke",
                     "more than %d signers have leaves alive: the list of the oldest is "
                     "not handed out any more",
                     CA_LISTS_MAX);
            list_forget(l, list_least(l));
        }
        i = l->n++;
        memcpy(x.signer_id, id, DIGEST_BYTES);
    }
    memmove(&l->all[1], &l->all[0], i * sizeof(l->all[0]));
    l->all[0] = x;
    return &l->all[0];
}

void
lists_signer(struct crl_lists *l, struct cert *cert, struct signer *s)
{
    struct crl_list *x = list_to_front(l, cert_id(cert));

    cert_unref(x->cert);
    x->cert = cert_ref(cert);
    signer_unref(x->signer);
    x->signer = signer_ref(s);
}

int
lists_issuer(struct crl_lists *l, struct cert *cert, struct err *e)
{
    if (lists_find(l, cert_id(cert)) != NULL)
        return 0;
    if (l->n == CA_LISTS_MAX)
        return err_set(e, E_LIMIT, "more than %d signers have leaves alive", CA_LISTS_MAX);
    if (l->table->store != NULL)
        TRY(ledger_issuer_keep(l->table->store, cert, e));
    list_append(l, cert);
    return 0;
}

void
lists_above(struct crl_lists *l, struct crls *above)
{
    if (crls_equal(l->above, above))
        return;
    crls_unref(l->above);
    l->above = above == NULL ? NULL : crls_ref(above);
    lists_dirty(l);
}

/* What came with the set about leaves of this signer; NULL: nothing. */
static struct crl *
above_of(const struct crl_lists *l, const struct crl_list *x)
{
    return x->cert == NULL ? NULL : crls_of(l->above, x->cert);
}

size_t
lists_above_alone(const struct crl_lists *l, struct crl **ret)
{
    size_t n = 0;

    for (size_t i = 0; i < crls_count(l->above) && n < BUNDLE_LISTS_MAX; i++) {
        bool is_ours = false;

        for (size_t k = 0; k < l->n; k++)
            is_ours = is_ours || above_of(l, &l->all[k]) == crls_at(l->above, i);
        if (!is_ours)
            ret[n++] = crls_at(l->above, i);
    }
    return n;
}

void
lists_dirty(struct crl_lists *l)
{
    for (size_t i = 0; i < l->n; i++)
        l->all[i].is_dirty = true;
}

/* -- making one list -- */

struct last_leaf {
    const uint8_t *signer_id;
    int64_t not_after;
};

static void
on_leaf(const struct ledger_leaf *leaf, void *arg)
{
    struct last_leaf *x = arg;

    if (memcmp(leaf->signer_id, x->signer_id, DIGEST_BYTES) == 0 && leaf->not_after > x->not_after)
        x->not_after = leaf->not_after;
}

/* The end of the last leaf under this signer; 0: none is alive. */
static int64_t
last_leaf_end(const struct crl_lists *l, const struct crl_list *x)
{
    struct last_leaf last = { .signer_id = x->signer_id };

    (void)ledger_leaves(l->ca->conf.ledger, NULL, on_leaf, &last);
    return last.not_after;
}

static bool
has_entries(const struct crl_lists *l, const struct crl_list *x)
{
    for (size_t i = 0; i < l->table->n; i++)
        if (memcmp(l->table->all[i].signer_id, x->signer_id, DIGEST_BYTES) == 0)
            return true;
    return false;
}

struct entries {
    const struct crl_lists *l;
    const struct crl_list *x;
    struct crl_entry *all;
    size_t n;
};

static int
entry_add(const struct crl_entry *v, void *arg, struct err *e)
{
    struct entries *a = arg;

    (void)e;
    if (crl_reason_name(v->reason) != NULL && a->n < CRL_ENTRIES_MAX && v->serial[0] != 0 &&
        revoked_find(a->l->table, a->x->signer_id, span_of(v->serial, v->serial_n)) == NULL)
        a->all[a->n++] = *v;
    return 0;
}

/* Ours, and those that came with the set: as many as one list takes, ours first. */
static int
entries_of(struct entries *a, struct err *e)
{
    const struct revoked_table *t = a->l->table;
    const struct crl *above = above_of(a->l, a->x);

    for (size_t i = 0; i < t->n; i++)
        if (memcmp(t->all[i].signer_id, a->x->signer_id, DIGEST_BYTES) == 0)
            a->all[a->n++] = t->all[i].entry;
    return above == NULL ? 0 : crl_each(above, entry_add, a, e);
}

/* RFC 5280 5.2.3: it grows, even when the store was lost: it never falls behind the clock. */
static uint64_t
next_number(const struct crl_list *x, int64_t now)
{
    uint64_t last = x->list == NULL ? 0 : crl_number(x->list);

    return last >= (uint64_t)now ? last + 1 : (uint64_t)now;
}

static int
tbs_make(struct crl_lists *l, const struct crl_list *x, struct buf *tbs, struct err *e)
{
    CLEANUP(leaf_template_freep) struct leaf_template *own = NULL;
    const struct leaf_template *t = x->signer == NULL ? NULL : signer_template(x->signer);
    const struct crl *above = above_of(l, x);
    size_t max = l->table->n + 1 + (above == NULL ? 0 : crl_count(above));
    struct crl_entry *entries = calloc(max, sizeof(*entries));
    int64_t now = unix_s(), end = last_leaf_end(l, x) + CA_CRL_SPARE_S;
    struct crl_request q = { .number = next_number(x, now), .this_update = now };

    if (entries == NULL)
        return err_nomem(e);
    q.next_update = end > now + CA_CRL_LIFE_S ? end : now + CA_CRL_LIFE_S;
    struct entries a = { l, x, entries, 0 };
    int r = entries_of(&a, e);
    q.entries = entries;
    q.n = a.n;
    if (r == 0 && t == NULL)
        r = leaf_template_new(x->cert, NULL, &own, e);
    if (r == 0)
        r = crl_tbs(t == NULL ? own : t, &q, tbs, e);
    free(entries);
    return r;
}

static void
list_store(struct crl_lists *l, const struct crl_list *x)
{
    char key[KEY_BYTES];
    struct store_op op = { .kind = STORE_PUT, .key = key, .value = crl_der(x->list) };
    struct err e;

    list_key(x, key);
    if (l->table->store != NULL && store_commit(l->table->store, &op, 1, NULL, NULL, NULL, &e) < 0)
        log_warn("revoke", "the revocation list is in force and not kept: %s", e.msg);
}

static int
list_sign(struct crl_lists *l, struct crl_list *x, struct span tbs, struct err *e)
{
    CLEANUP(buf_done) struct buf der = BUF_INIT(CRL_MAX_BYTES);
    CLEANUP(crl_unrefp) struct crl *made = NULL;
    uint8_t signature[SIGNATURE_MAX_BYTES];
    size_t n = 0;

    TRY(signer_sign_crl(x->signer, tbs, signature, &n, e));
    TRY(crl_finish(signer_template(x->signer), tbs, span_of(signature, n), &der, e));
    TRY(crl_from_der(buf_span(&der), &made, e));
    TRY(crl_verify(made, x->cert, e));
    crl_unref(x->list);
    x->list = STEAL(made);
    list_store(l, x);
    return 0;
}

/* What the last signed list says is all that there is to say. */
static bool
list_covers(const struct crl_lists *l, const struct crl_list *x)
{
    for (size_t i = 0; i < l->table->n; i++) {
        const struct revoked *v = &l->table->all[i];

        if (memcmp(v->signer_id, x->signer_id, DIGEST_BYTES) == 0 &&
            (x->list == NULL || !crl_has(x->list, span_of(v->entry.serial, v->entry.serial_n))))
            return false;
    }
    return x->list != NULL && above_of(l, x) == NULL;
}

static int
list_say_bare(struct crl_lists *l, struct crl_list *x, struct span tbs, struct err *e)
{
    struct crl *bare = NULL;

    if (!list_covers(l, x))
        TRY(crl_from_tbs(tbs, &bare, e));
    crl_unref(x->bare);
    x->bare = bare;
    return 0;
}

/* Signed by its issuer where it can be; else said unsigned, so that those who have it from us know
 * it all the same. */
static int
list_make(struct crl_lists *l, struct crl_list *x, struct err *e)
{
    CLEANUP(buf_done) struct buf tbs = BUF_INIT(CRL_MAX_BYTES);
    struct err why = { .code = E_NONE };

    TRY(tbs_make(l, x, &tbs, e));
    if (x->signer != NULL && cert_may_sign_crls(x->cert)) {
        int r = list_sign(l, x, buf_span(&tbs), &why);

        if (r == -E_NOTFOUND) { /* another process than the one that had its key */
            signer_unref(x->signer);
            x->signer = NULL;
        }
        if (r == 0) {
            crl_unref(x->bare);
            x->bare = NULL;
            x->is_dirty = false;
            return 0;
        }
    }
    TRY(list_say_bare(l, x, buf_span(&tbs), e));
    x->is_dirty = x->signer != NULL && cert_may_sign_crls(x->cert); /* it will be signed yet */
    *e = why;
    return -(int)why.code;
}

/* -- all of them -- */

/* A list from whose end the leaves of its signer are long gone. */
static bool
list_is_over(const struct crl_lists *l, size_t i, int64_t now)
{
    const struct crl_list *x = &l->all[i];

    return i > 0 && (x->list == NULL || crl_next_update(x->list) < now) &&
           last_leaf_end(l, x) < now && !has_entries(l, x);
}

/* A former signer's key is wiped with its last leaf: there is nothing left to revoke. */
static void
key_let_go(struct crl_lists *l, size_t i, int64_t now)
{
    struct crl_list *x = &l->all[i];

    if (i == 0 || x->signer == NULL || has_entries(l, x) || last_leaf_end(l, x) >= now)
        return;
    signer_unref(x->signer);
    x->signer = NULL;
}

/* Changed; or old, or of a time to come, where there is a key to make another. */
static bool
list_is_due(const struct crl_list *x, int64_t now)
{
    if (x->cert == NULL)
        return false;
    if (x->is_dirty)
        return true;
    int64_t made = x->list != NULL ? crl_this_update(x->list) : 0;
    if (x->list == NULL && x->bare != NULL)
        made = crl_this_update(x->bare);
    return x->signer != NULL && (made + CA_CRL_EVERY_S <= now || made > now + SIGNER_BACKDATE_S);
}

/* The others', references in `made`. One that has expired goes on without its signature: our own
 * agents refuse what it names, others would refuse everybody. */
static int
above_make(const struct crl_lists *l, struct crl **made, size_t *ret_n, struct err *e)
{
    struct crl *alone[BUNDLE_LISTS_MAX];
    size_t n = lists_above_alone(l, alone);

    for (*ret_n = 0; *ret_n < n; ++*ret_n)
        if (crl_next_update(alone[*ret_n]) <= unix_s())
            TRY(crl_to_bare(alone[*ret_n], &made[*ret_n], e));
        else
            made[*ret_n] = crl_ref(alone[*ret_n]);
    return 0;
}

static int
handed_out_make(const struct crl_lists *l, struct crls **ret, struct err *e)
{
    struct crl *all[2 * CA_LISTS_MAX + BUNDLE_LISTS_MAX], *made[BUNDLE_LISTS_MAX];
    size_t n = 0, made_n = 0;

    *ret = NULL;
    if (l->table->n == 0 && crls_entries(l->above) == 0)
        return 0;
    for (size_t i = 0; i < l->n; i++) {
        if (l->all[i].list != NULL)
            all[n++] = l->all[i].list;
        if (l->all[i].bare != NULL)
            all[n++] = l->all[i].bare;
    }
    int r = above_make(l, made, &made_n, e);
    for (size_t i = 0; i < made_n; i++)
        all[n++] = made[i];
    if (r == 0)
        r = crls_new(all, n, ret, e);
    while (made_n > 0)
        crl_unref(made[--made_n]);
    return r;
}

static void
trouble_say(struct crl_lists *l, const struct err *e)
{
    if (e->code != E_NONE && strcmp(l->trouble, e->msg) != 0)
        log_error("revoke", "A revocation list is not signed, and is tried again: %s", e->msg);
    (void)snprintf(l->trouble, sizeof(l->trouble), "%s", e->code == E_NONE ? "" : e->msg);
}

bool
lists_update(struct crl_lists *l)
{
    struct err trouble = { .code = E_NONE }, e;
    struct crls *next = NULL;
    int64_t now = unix_s();

    for (size_t i = l->n; i-- > 0;) {
        key_let_go(l, i, now);
        if (list_is_over(l, i, now))
            list_forget(l, i);
    }
    for (size_t i = 0; i < l->n; i++)
        if (list_is_due(&l->all[i], now) && list_make(l, &l->all[i], &e) < 0)
            trouble = e;
    if (handed_out_make(l, &next, &e) < 0) {
        trouble_say(l, &e);
        return false;
    }
    trouble_say(l, &trouble);
    bool same = crls_equal(next, l->handed_out);
    if (same) {
        crls_unref(next);
        return false;
    }
    crls_unref(l->handed_out);
    l->handed_out = next;
    return true;
}

/* -- for people -- */

static json_t *
time_json(int64_t t)
{
    char text[RFC3339_BYTES];

    rfc3339_s(t, text);
    return json_string(text);
}

static json_t *
list_json(const struct crl_list *x)
{
    const struct crl *c = x->bare != NULL ? x->bare : x->list;
    char id[DIGEST_TEXT_BYTES], name[NAME_TEXT_BYTES] = "(not kept)";

    hex_text(span_of(x->signer_id, DIGEST_BYTES), id);
    if (x->cert != NULL)
        cert_subject_text(x->cert, name);
    json_t *j = json_pack("{s:s, s:s, s:b, s:b}", "signer", name, "id", id, "signed",
                          x->bare == NULL && x->list != NULL, "key_held", x->signer != NULL);
    if (c == NULL)
        return j;
    j = json_object_with(j, "number", json_integer((json_int_t)crl_number(c)));
    j = json_object_with(j, "this_update", time_json(crl_this_update(c)));
    j = json_object_with(j, "next_update", time_json(crl_next_update(c)));
    j = json_object_with(j, "entries", json_integer((json_int_t)crl_count(c)));
    return j;
}

json_t *
lists_json(const struct crl_lists *l)
{
    json_t *all = json_array();

    for (size_t i = 0; i < l->n; i++)
        all = json_array_with(all, list_json(&l->all[i]));
    return all;
}
