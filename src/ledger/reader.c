#include "ledger/reader.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "ledger/record.h"
#include "ledger/walk.h"

const char *
leaf_state_name(enum leaf_state s)
{
    static const char *const names[] = {
        [LEAF_IN_USE] = "in use", [LEAF_REPLACED] = "replaced", [LEAF_EXPIRED] = "expired"
    };

    return names[s];
}

struct finding {
    struct store *store;
    const struct ledger_query *q;
    struct issuer_ids issuers;
    struct head head; /* when it began */
    int64_t now, oldest;
    uint64_t found;
    ledger_found_fn *fn;
    void *arg;
};

/* As live_each judges: a durable word of its holder names a newer leaf. */
static int
state_of(struct finding *f, const struct ledger_row *row, enum leaf_state *ret, struct err *e)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(WORD_BYTES);
    char key[STORE_KEY_BYTES + 1];
    struct word w;

    *ret = row->not_after < f->now ? LEAF_EXPIRED : LEAF_IN_USE;
    if (*ret == LEAF_EXPIRED || row->instance[0] == '\0')
        return 0;
    fleet_key(row->identity, row->instance, key);
    if (TRY(store_get(f->store, key, &b, NULL, e)) == STORE_ABSENT)
        return 0;
    if (word_decode(buf_span(&b), &w, e) < 0)
        return err_wrap(e, "%s", key);
    if (row->seq < w.used_seq)
        *ret = LEAF_REPLACED;
    return 0;
}

static bool
identity_fits(const char *want, const char *identity)
{
    size_t n = strlen(want);

    if (n > 0 && want[n - 1] == '*')
        return strncmp(want, identity, n - 1) == 0;
    return strcmp(want, identity) == 0;
}

static bool
row_fits(const struct finding *f, const struct ledger_row *row)
{
    const struct ledger_query *q = f->q;

    return row->issued >= q->since &&
           (q->identity == NULL || identity_fits(q->identity, row->identity)) &&
           (q->serial.n == 0 || span_eq(q->serial, span_of(row->serial, row->serial_n))) &&
           (q->issuer == NULL || issuer_is_in(&f->issuers, row->signer_id) ||
            issuer_is_in(&f->issuers, row->root_id));
}

static int
row_found(const struct record *rec, void *arg, struct err *e)
{
    struct finding *f = arg;
    struct ledger_found found = { .row = &rec->row, .prev = rec->prev, .hash = rec->hash };

    if (f->q->oldest_first && rec->row.seq > f->head.seq)
        return WALK_ENOUGH;
    if (!f->q->oldest_first && rec->row.issued < f->oldest)
        return WALK_ENOUGH;
    if (!row_fits(f, &rec->row))
        return 0;
    TRY(state_of(f, &rec->row, &found.state, e));
    if (f->q->live && found.state != LEAF_IN_USE)
        return 0;
    int r = f->fn(&found, f->arg, e);
    if (r < 0)
        return r;
    return ++f->found == f->q->limit ? WALK_ENOUGH : 0;
}

/* The time of issue before which no row can fit, as far as clocks go: rows are in order of seq. */
static int64_t
oldest_wanted(const struct finding *f)
{
    int64_t live_from = f->now - f->head.max_ttl_s;
    int64_t from = f->q->live && live_from > f->q->since ? live_from : f->q->since;

    return from < INT64_MIN + HORIZON_SLACK_S ? INT64_MIN : from - HORIZON_SLACK_S;
}

int
ledger_find(struct store *s, const struct ledger_query *q, ledger_found_fn *fn, void *arg,
            struct err *e)
{
    struct finding *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return err_nomem(e);
    *f = (struct finding){ .store = s, .q = q, .now = unix_s(), .fn = fn, .arg = arg };
    int r = q->issuer == NULL ? 0 : issuers_match(s, q->issuer, &f->issuers, e);
    if (r == 0)
        r = head_read(s, &f->head, e);
    f->oldest = oldest_wanted(f);
    if (r == 0)
        r = rows_walk(s, 0, !q->oldest_first, row_found, f, e);
    free(f);
    return r;
}

static struct ledger_mark
mark_of(const struct head *h)
{
    struct ledger_mark m = { .seq = h->seq, .rows = h->rows };

    memcpy(m.hash, h->hash, DIGEST_BYTES);
    return m;
}

int
ledger_check(struct store *s, const struct ledger_mark *mark, struct ledger_mark *ret,
             struct ledger_mark *ret_removed, struct err *e)
{
    struct head h = { .seq = 0 }, floor = { .seq = 0 };

    TRY(rows_verify(s, mark, &h, &floor, e));
    *ret = mark_of(&h);
    *ret_removed = mark_of(&floor);
    return 0;
}

int
ledger_removed(struct store *s, struct ledger_mark *ret, struct err *e)
{
    struct head floor = { .seq = 0 };

    TRY(floor_read(s, &floor, e));
    *ret = mark_of(&floor);
    return 0;
}
