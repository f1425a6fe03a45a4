#include "ledger/walk.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_ROWS = 128 };

struct page {
    struct record rows[PAGE_ROWS];
    uint64_t key_seq[PAGE_ROWS];
    size_t n;
    bool is_named; /* the error names its row */
};

static int
page_row(const char *key, struct span value, uint64_t revision, void *arg, struct err *e)
{
    struct page *p = arg;
    uint64_t seq = strtoull(key + sizeof(ROW_PREFIX) - 1, NULL, 16);

    (void)revision;
    p->key_seq[p->n] = seq;
    int r = record_decode(value, &p->rows[p->n], e);
    if (r == 0 && p->rows[p->n].row.seq != seq)
        r = err_set(e, E_DENIED, "it is the record of row %" PRIu64 ": it was moved",
                    p->rows[p->n].row.seq);
    if (r < 0) {
        p->is_named = true;
        return err_wrap(e, "ledger row %" PRIu64, seq);
    }
    p->n++;
    return 0;
}

int
rows_walk(struct store *s, uint64_t seq, bool reverse, record_fn *fn, void *arg, struct err *e)
{
    struct page *p = malloc(sizeof(*p));
    char key[ROW_KEY_BYTES];
    int r = 0;

    if (p == NULL)
        return err_nomem(e);
    do {
        struct err bad;

        p->n = 0;
        p->is_named = false;
        row_key(seq, key);
        int page_r =
            store_list(s, ROW_PREFIX, seq == 0 ? NULL : key, PAGE_ROWS, reverse, page_row, p, &bad);
        for (size_t i = 0; r == 0 && i < p->n; i++)
            r = fn(&p->rows[i], arg, e); /* those before the bad one first */
        if (p->n > 0)
            seq = p->key_seq[p->n - 1];
        if (r == 0 && page_r < 0) {
            *e = bad;
            r = p->is_named ? page_r : err_wrap(e, "ledger, next to row %" PRIu64, seq);
        }
    } while (r == 0 && p->n == PAGE_ROWS);
    free(p);
    return r < 0 ? r : 0;
}

static int
head_read_at(struct store *s, const char *key, struct head *ret, struct err *e)
{
    struct buf b = BUF_INIT(HEAD_BYTES * 4);
    int r = store_get(s, key, &b, NULL, e);
    struct head h = { .seq = 0 };

    if (r == 0 && (r = head_decode(buf_span(&b), &h, e)) < 0)
        r = err_wrap(e, "%s", key);
    buf_done(&b);
    if (r < 0)
        return r;
    *ret = h;
    return 0;
}

int
head_read(struct store *s, struct head *ret, struct err *e)
{
    return head_read_at(s, HEAD_KEY, ret, e);
}

int
floor_read(struct store *s, struct head *ret, struct err *e)
{
    return head_read_at(s, FLOOR_KEY, ret, e);
}

struct verifying {
    struct head head, floor; /* when it began */
    const struct ledger_mark *mark;
    bool is_marked; /* the mark's row was there */
    uint8_t last[DIGEST_BYTES];
    uint64_t last_seq, rows;
    int64_t max_ttl_s;
};

static int
row_verify(const struct record *rec, void *arg, struct err *e)
{
    struct verifying *v = arg;

    if (rec->row.seq > v->head.seq)
        return WALK_ENOUGH;
    if (memcmp(rec->prev, v->last, DIGEST_BYTES) != 0)
        return err_set(e, E_DENIED,
                       "ledger row %" PRIu64 ": it does not follow row %" PRIu64
                       "%s: a row before it was removed or changed",
                       rec->row.seq, v->last_seq,
                       v->floor.seq != 0 && v->rows == v->floor.rows
                           ? ", the last that retention removed"
                           : "");
    if (v->mark != NULL && v->mark->seq == rec->row.seq) {
        v->is_marked = memcmp(v->mark->hash, rec->hash, DIGEST_BYTES) == 0;
        if (!v->is_marked)
            return err_set(e, E_DENIED,
                           "ledger row %" PRIu64
                           ": its hash is not the one that was kept: it, or one before it, was "
                           "written anew",
                           rec->row.seq);
    }
    memcpy(v->last, rec->hash, DIGEST_BYTES);
    v->last_seq = rec->row.seq;
    v->rows++;
    if (rec->row.not_after - rec->row.issued > v->max_ttl_s)
        v->max_ttl_s = rec->row.not_after - rec->row.issued;
    return 0;
}

static int
any_row(const char *key, struct span value, uint64_t revision, void *arg, struct err *e)
{
    (void)key;
    (void)value;
    (void)revision;
    (void)e;
    *(bool *)arg = true;
    return 0;
}

int
rows_exist(struct store *s, bool *ret, struct err *e)
{
    *ret = false;
    return store_list(s, ROW_PREFIX, NULL, 1, false, any_row, ret, e);
}

/* A row that retention has removed cannot be compared any more, but for the last of them. */
static int
mark_check(struct verifying *v, struct err *e)
{
    const struct ledger_mark *m = v->mark;

    if (m == NULL || m->seq > v->floor.seq)
        return 0;
    if (m->seq < v->floor.seq)
        return err_set(e, E_NOTFOUND,
                       "ledger row %" PRIu64 " was removed by --ledger-retention, as all up to row "
                       "%" PRIu64 ": an export of before proves it, or a mark of a later row",
                       m->seq, v->floor.seq);
    v->is_marked = memcmp(m->hash, v->floor.hash, DIGEST_BYTES) == 0;
    return v->is_marked ? 0
                        : err_set(e, E_DENIED,
                                  "ledger row %" PRIu64 ", the last that retention removed: its "
                                  "hash is not the one that was kept",
                                  m->seq);
}

static int
end_check(const struct verifying *v, struct err *e)
{
    if (memcmp(v->last, v->head.hash, DIGEST_BYTES) != 0)
        return err_set(e, E_DENIED,
                       "ledger row %" PRIu64 ": the head says row %" PRIu64
                       " is the newest: rows at the end were removed or changed",
                       v->last_seq, v->head.seq);
    if (v->rows != v->head.rows || v->max_ttl_s != v->head.max_ttl_s)
        return err_set(e, E_DENIED,
                       "ledger: %" PRIu64 " rows of at most %" PRId64 " s, the head says %" PRIu64
                       " and %" PRId64 ": it was changed",
                       v->rows, v->max_ttl_s, v->head.rows, v->head.max_ttl_s);
    if (v->mark != NULL && !v->is_marked)
        return err_set(e, E_DENIED,
                       "ledger row %" PRIu64 ": it was there once, and is not any more",
                       v->mark->seq);
    return 0;
}

static int
verify_once(struct store *s, struct verifying *v, struct err *e)
{
    bool some = false;

    TRY(rows_exist(s, &some, e)); /* before the head: both may be about to appear */
    TRY(head_read(s, &v->head, e));
    if (some && v->head.seq == 0)
        return err_set(e, E_DENIED, "ledger: there are rows, and no head");
    TRY(mark_check(v, e));
    memcpy(v->last, v->floor.hash, DIGEST_BYTES);
    v->last_seq = v->floor.seq;
    v->rows = v->floor.rows;
    v->max_ttl_s = v->floor.max_ttl_s;
    TRY(rows_walk(s, 0, false, row_verify, v, e));
    return end_check(v, e);
}

int
rows_verify(struct store *s, const struct ledger_mark *mark, struct head *ret,
            struct head *ret_floor, struct err *e)
{
    struct head again = { .seq = 0 };
    int r;

    do { /* rows may go under our eyes, without a snapshot: then once more from where they are */
        struct verifying v = { .mark = mark };

        TRY(floor_read(s, &v.floor, e));
        r = verify_once(s, &v, e);
        *ret = v.head;
        *ret_floor = v.floor;
        struct err ignored;
        if (r < 0 && floor_read(s, &again, &ignored) < 0)
            break;
    } while (r < 0 && again.seq != ret_floor->seq);
    if (r < 0 && e->code == E_PARSE)
        e->code = E_DENIED;
    return r < 0 ? err_result(e) : 0;
}
