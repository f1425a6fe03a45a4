/* compact.c - retention: the oldest rows go, the head as it was at the last of them stays.
 *
 * The floor is a head: its hash is what the first kept row follows, its count and longest lifetime
 * are what the newest head has beyond the rows that are there. Rows and floor change in one
 * transaction, so a kill leaves either. A chain that is broken is not cut: it is the evidence.
 */
#include "ledger/compact.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "ledger/walk.h"
#include "obs/log.h"

enum { CLOCKS_MAY_DIFFER_S = 3600 };

static const struct metric_desc removed_total = { "meshroot_ledger_removed_rows_total",
                                                  "Rows that retention removed.", METRIC_COUNTER };

struct step {
    int64_t before;
    uint64_t newest;
    struct head floor; /* as it will be */
    size_t n;
    char keys[COMPACT_ROWS][ROW_KEY_BYTES];
};

static int
on_row(const struct record *rec, void *arg, struct err *e)
{
    struct step *x = arg;
    int64_t ttl = rec->row.not_after - rec->row.issued;

    if (x->n == COMPACT_ROWS || rec->row.seq >= x->newest || rec->row.not_after >= x->before)
        return WALK_ENOUGH;
    if (memcmp(rec->prev, x->floor.hash, DIGEST_BYTES) != 0)
        return err_set(e, E_DENIED,
                       "ledger row %" PRIu64 ": it does not follow row %" PRIu64
                       ", so nothing is removed; meshroot ledger verify says more",
                       rec->row.seq, x->floor.seq);
    row_key(rec->row.seq, x->keys[x->n++]);
    x->floor.seq = rec->row.seq;
    x->floor.rows++;
    x->floor.max_ttl_s = ttl > x->floor.max_ttl_s ? ttl : x->floor.max_ttl_s;
    memcpy(x->floor.hash, rec->hash, DIGEST_BYTES);
    return 0;
}

static int
step_commit(struct store *s, const struct step *x, const struct head *was, struct err *e)
{
    CLEANUP(buf_done) struct buf before = BUF_INIT(HEAD_BYTES), after = BUF_INIT(HEAD_BYTES);
    struct store_op ops[STORE_TXN_OPS];
    size_t n = 0;

    if (was->seq > 0)
        TRY(head_encode(was, &before, e));
    TRY(head_encode(&x->floor, &after, e));
    ops[n++] = (struct store_op){ .kind = STORE_EXPECT_VALUE,
                                  .key = FLOOR_KEY,
                                  .value = buf_span(&before) };
    for (size_t i = 0; i < x->n; i++)
        ops[n++] = (struct store_op){ .kind = STORE_DELETE, .key = x->keys[i] };
    ops[n++] = (struct store_op){ .kind = STORE_PUT, .key = FLOOR_KEY, .value = buf_span(&after) };
    return store_commit_wait(s, ops, n, NULL, e);
}

int
compact_step(struct store *s, int64_t before, size_t *ret_n, struct err *e)
{
    struct step x = { .before = before };
    struct head head, was;

    TRY(head_read(s, &head, e));
    TRY(floor_read(s, &was, e));
    x.newest = head.seq;
    x.floor = was;
    TRY(rows_walk(s, 0, false, on_row, &x, e));
    if (x.n > 0)
        TRY(step_commit(s, &x, &was, e));
    *ret_n = x.n;
    return 0;
}

/* -- the thread -- */

struct compactor {
    struct store *store;
    struct metrics *metrics;
    int64_t keep_s, started_s; /* wall; with started_ms, mono */
    uint64_t started_ms;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool is_stopping; /* under the lock */
    char trouble[ERR_MSG_BYTES];
};

/* A clock that jumps ahead must not cost the record of leaves that are good when it is set right.
 */
static int64_t
now_by_both_clocks(const struct compactor *c)
{
    int64_t wall = unix_s(), run = c->started_s + (int64_t)((mono_ms() - c->started_ms) / 1000) +
                                   CLOCKS_MAY_DIFFER_S;

    return wall < run ? wall : run;
}

static size_t
step(struct compactor *c)
{
    struct err e = { .code = E_NONE };
    size_t n = 0;

    if (compact_step(c->store, now_by_both_clocks(c) - c->keep_s, &n, &e) < 0 &&
        strcmp(c->trouble, e.msg) != 0)
        log_error("ledger", "old rows are kept for now: %s", e.msg);
    (void)snprintf(c->trouble, sizeof(c->trouble), "%s", e.code == E_NONE ? "" : e.msg);
    if (n > 0)
        metric_add(c->metrics, &removed_total, "", (double)n);
    return n;
}

static void *
compactor_main(void *arg)
{
    struct compactor *c = arg;

    (void)pthread_mutex_lock(&c->lock);
    while (!c->is_stopping) {
        (void)pthread_mutex_unlock(&c->lock);
        size_t n = step(c);
        (void)pthread_mutex_lock(&c->lock);
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += c->keep_s < COMPACT_EVERY_S ? c->keep_s : COMPACT_EVERY_S;
        if (n < COMPACT_ROWS && !c->is_stopping)
            (void)pthread_cond_timedwait(&c->wake, &c->lock, &until);
    }
    (void)pthread_mutex_unlock(&c->lock);
    return NULL;
}

int
compactor_new(struct store *s, struct metrics *m, int64_t keep_s, struct compactor **ret,
              struct err *e)
{
    struct compactor *c = calloc(1, sizeof(*c));
    pthread_condattr_t attr;

    if (c == NULL)
        return err_nomem(e);
    c->store = s;
    c->metrics = m;
    c->keep_s = keep_s < 1 ? 1 : keep_s;
    c->started_s = unix_s();
    c->started_ms = mono_ms();
    (void)pthread_mutex_init(&c->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&c->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    int no = pthread_create(&c->thread, NULL, compactor_main, c);
    if (no != 0) {
        (void)pthread_cond_destroy(&c->wake);
        (void)pthread_mutex_destroy(&c->lock);
        free(c);
        return err_sys(e, no, "ledger: start a thread");
    }
    *ret = c;
    return 0;
}

void
compactor_free(struct compactor *c)
{
    if (c == NULL)
        return;
    (void)pthread_mutex_lock(&c->lock);
    c->is_stopping = true;
    (void)pthread_cond_signal(&c->wake);
    (void)pthread_mutex_unlock(&c->lock);
    (void)pthread_join(c->thread, NULL);
    (void)pthread_cond_destroy(&c->wake);
    (void)pthread_mutex_destroy(&c->lock);
    free(c);
}
