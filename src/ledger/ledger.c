/* ledger.c - rows on their way to the disk, words, questions.
 *
 * Rows get seq and hash under the lock, in the order of the calls, on top of `head`, which runs
 * ahead of the disk. The ledger is a source of the store: whenever the writer begins a group it
 * asks for what waits, the next batch, so a slow disk or a busy CA makes larger batches, not more
 * of them; a batch is one transaction: it expects the head that is on disk, puts its rows, puts the
 * new head. When a batch fails, everything that waits is chained to rows that do not
 * exist: it fails with it, and `head` goes back to `durable`, what the store has. Should the store
 * fail and yet have written (a sync error at the very end), its head is not ours any more, and the
 * next batch meets CONFLICT: then head and rows are read again from the store before anything is
 * appended.
 *
 * A seq is never used twice, though rows failed: a word that retires "all rows up to now" would
 * retire a later row under the same number. So seq has gaps; the chain is by hash, and the head
 * counts the rows. For the same reason a start goes on above every seq that a word has named.
 */
#include "ledger/ledger.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "ledger/compact.h"
#include "ledger/live.h"
#include "ledger/queue.h"
#include "ledger/record.h"
#include "ledger/walk.h"

enum {
    BATCH_ROWS = STORE_SOURCE_OPS - 2, /* and the head, twice */
    PRUNE_EVERY_S = 60,
};

static const struct metric_desc rows_total = { "meshroot_ledger_rows_total",
                                               "Rows appended to the ledger.", METRIC_COUNTER };
static const struct metric_desc rows_failed = {
    "meshroot_ledger_failed_rows_total", "Rows that the disk refused; their leaves were held back.",
    METRIC_COUNTER
};
static const struct metric_desc live_leaves = {
    "meshroot_ledger_live_leaves", "Leaves issued, not expired, and not replaced as far as known.",
    METRIC_GAUGE
};

struct ledger {
    struct store *store;
    struct store_source *source;
    struct metrics *metrics;
    uint8_t id[LEDGER_ID_BYTES];
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t idle;
    struct live *live;
    struct head durable, head; /* on disk; with what waits */
    uint64_t next_seq;
    struct fifo flight, waiting; /* owned */
    struct buf before, after;    /* the head around `flight`, as encoded */
    bool reload;                 /* the store's head is not `durable` */
    size_t words_n;              /* at the store */
    size_t answering;            /* batches done, whose answers are being posted */
    int64_t pruned;
    struct compactor *compactor; /* NULL: every row is kept */
};

/* -- start, and start again after a conflict -----------------------------------------------------
 */

struct loading {
    struct ledger *l;
    struct head head;
    uint64_t stop_seq; /* rows up to it are known */
    int64_t now, horizon;
    uint8_t want[DIGEST_BYTES]; /* the hash that the next (older) row must have */
};

static int
load_row(const struct record *rec, void *arg, struct err *e)
{
    struct loading *g = arg;

    if (rec->row.seq > g->head.seq) /* committed since the head was read: comes with its batch */
        return 0;
    if (rec->row.seq <= g->stop_seq || rec->row.issued < g->horizon)
        return WALK_ENOUGH;
    if (memcmp(rec->hash, g->want, DIGEST_BYTES) != 0)
        return err_set(e, E_PARSE,
                       "ledger: the chain is broken at row %" PRIu64
                       ": it is not the row that the next one (or the head) follows",
                       rec->row.seq);
    memcpy(g->want, rec->prev, DIGEST_BYTES);
    if (rec->row.not_after < g->now)
        return 0;
    return live_add(g->l->live, &rec->row, g->now, e);
}

/* The head's row is there and is the one; without a head there is no row. */
static int
newest_check(struct ledger *l, const struct head *h, struct err *e)
{
    struct buf b = BUF_INIT(ROW_BYTES);
    struct record rec = { .row = { .seq = 0 } };
    char key[ROW_KEY_BYTES];

    bool some = false;

    if (h->seq == 0) {
        TRY(rows_exist(l->store, &some, e));
        return some ? err_set(e, E_PARSE, "ledger: there are rows, and no head") : 0;
    }
    row_key(h->seq, key);
    int r = store_get(l->store, key, &b, NULL, e);
    if (r == 0)
        r = record_decode(buf_span(&b), &rec, e);
    buf_done(&b);
    if (r != 0 || memcmp(rec.hash, h->hash, DIGEST_BYTES) != 0)
        return err_set(e, E_PARSE, "ledger: row %" PRIu64 ", the newest, is missing or changed",
                       h->seq);
    return 0;
}

/* Takes over head and rows from the store; rows up to `known` are in `live` already. */
static int
rows_load(struct ledger *l, uint64_t known, struct err *e)
{
    struct loading g = { .l = l, .stop_seq = known, .now = unix_s() };

    TRY(head_read(l->store, &g.head, e));
    g.horizon = g.now - g.head.max_ttl_s - HORIZON_SLACK_S;
    memcpy(g.want, g.head.hash, DIGEST_BYTES);
    TRY(rows_walk(l->store, 0, true, load_row, &g, e));
    if (known == 0 && memcmp(g.want, g.head.hash, DIGEST_BYTES) == 0)
        TRY(newest_check(l, &g.head, e)); /* no row was young enough to be looked at */
    l->durable = l->head = g.head;
    if (l->next_seq <= g.head.seq)
        l->next_seq = g.head.seq + 1;
    return 0;
}

static int
load_word(const char *key, struct span value, uint64_t revision, void *arg, struct err *e)
{
    struct ledger *l = arg;
    struct word w;

    (void)revision;
    if (word_decode(value, &w, e) < 0)
        return err_wrap(e, "%s", key);
    if (l->next_seq < w.used_seq)
        l->next_seq = w.used_seq;
    return live_word_set(l->live, &w, e);
}

static size_t batch_fill(struct store_op *ops, void *arg);
static void on_batch(const struct err *why, uint64_t revision, void *arg);

int
ledger_open(struct store *s, struct metrics *m, struct ledger **ret, struct err *e)
{
    struct ledger *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return err_nomem(e);
    l->store = s;
    l->metrics = m;
    l->next_seq = 1;
    l->before = l->after = BUF_INIT(HEAD_BYTES);
    fifo_init(&l->flight);
    fifo_init(&l->waiting);
    (void)pthread_mutex_init(&l->lock, NULL);
    (void)pthread_cond_init(&l->idle, NULL);
    int r = live_new(&l->live, e);
    if (r == 0)
        r = store_list(s, FLEET_PREFIX, NULL, SIZE_MAX, false, load_word, l, e);
    if (r == 0)
        r = rows_load(l, 0, e);
    if (r == 0)
        r = ident_load(s, l->id, e);
    if (r == 0)
        r = store_source_new(s, batch_fill, on_batch, l, &l->source, e);
    if (r < 0) {
        ledger_close(l);
        if (e->code == E_DENIED) /* an edited row */
            e->code = E_PARSE;
        return err_result(e);
    }
    metric_add(m, &rows_total, "", (double)l->durable.rows);
    metric_set(m, &live_leaves, "", (double)live_each(l->live, unix_s(), false, NULL, NULL));
    *ret = l;
    return 0;
}

const uint8_t *
ledger_id(const struct ledger *l)
{
    return l->id;
}

void
ledger_close(struct ledger *l)
{
    if (l == NULL)
        return;
    compactor_free(l->compactor);
    (void)pthread_mutex_lock(&l->lock);
    while (l->flight.n > 0 || l->waiting.n > 0 || l->words_n > 0 || l->answering > 0)
        (void)pthread_cond_wait(&l->idle, &l->lock);
    (void)pthread_mutex_unlock(&l->lock);
    store_source_free(l->source);
    buf_done(&l->before);
    buf_done(&l->after);
    live_free(l->live);
    (void)pthread_cond_destroy(&l->idle);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}

int
ledger_keep_for(struct ledger *l, uint64_t keep_ms, struct err *e)
{
    return compactor_new(l->store, l->metrics, (int64_t)(keep_ms / 1000), &l->compactor, e);
}

/* -- batches, under the lock ---------------------------------------------------------------------
 */

/* Everything on its way does not exist; to be answered from `ret` without the lock. */
static void
rows_fail(struct ledger *l, const struct err *why, struct fifo *ret)
{
    struct fifo *from[] = { &l->flight, &l->waiting };
    struct pending *p;

    for (size_t i = 0; i < ARRAY_LEN(from); i++)
        while ((p = fifo_take(from[i])) != NULL) {
            p->err = *why;
            metric_add(l->metrics, &rows_failed, "", 1);
            live_remove(l->live, p->rec.row.identity, p->rec.row.instance, p->rec.row.seq);
            fifo_add(ret, p);
        }
    l->head = l->durable;
    l->reload = l->reload || why->code == E_CONFLICT;
}

static void
head_advance(struct head *h, const struct record *r)
{
    int64_t ttl = r->row.not_after - r->row.issued;

    h->seq = r->row.seq;
    h->rows++;
    h->max_ttl_s = ttl > h->max_ttl_s ? ttl : h->max_ttl_s;
    memcpy(h->hash, r->hash, DIGEST_BYTES);
}

/* Under the lock: takes the next batch and writes it down; how many operations. */
static int
batch_write(struct ledger *l, struct store_op *ops, size_t *ret_n, struct err *e)
{
    struct head h = l->durable;
    struct pending *p;
    size_t n = 1;

    while (n <= BATCH_ROWS && (p = fifo_take(&l->waiting)) != NULL) {
        ops[n++] =
            (struct store_op){ .kind = STORE_PUT, .key = p->key, .value = buf_span(&p->bytes) };
        head_advance(&h, &p->rec);
        fifo_add(&l->flight, p);
    }
    l->before.n = l->after.n = 0;
    if (l->durable.seq > 0)
        TRY(head_encode(&l->durable, &l->before, e));
    TRY(head_encode(&h, &l->after, e));
    ops[0] = (struct store_op){ .kind = STORE_EXPECT_VALUE,
                                .key = HEAD_KEY,
                                .value = buf_span(&l->before) };
    ops[n++] =
        (struct store_op){ .kind = STORE_PUT, .key = HEAD_KEY, .value = buf_span(&l->after) };
    *ret_n = l->flight.n > 0 ? n : 0;
    return 0;
}

/* On the store's writer thread. Nothing is in flight: the writer has one group at a time. */
static size_t
batch_fill(struct store_op *ops, void *arg)
{
    struct ledger *l = arg;
    struct fifo answers;
    struct err e;
    size_t n = 0;

    fifo_init(&answers);
    (void)pthread_mutex_lock(&l->lock);
    if (batch_write(l, ops, &n, &e) < 0)
        rows_fail(l, &e, &answers);
    (void)pthread_mutex_unlock(&l->lock);
    fifo_answer(&answers);
    return n;
}

/* On the store's writer thread. */
static void
on_batch(const struct err *why, uint64_t revision, void *arg)
{
    struct ledger *l = arg;
    struct fifo answers;
    struct pending *p;

    (void)revision;
    fifo_init(&answers);
    (void)pthread_mutex_lock(&l->lock);
    bool was_full = l->flight.n == BATCH_ROWS;
    if (why->code == E_NONE) {
        metric_add(l->metrics, &rows_total, "", (double)l->flight.n);
        while ((p = fifo_take(&l->flight)) != NULL) {
            head_advance(&l->durable, &p->rec);
            fifo_add(&answers, p);
        }
    } else {
        rows_fail(l, why, &answers);
    }
    bool more = was_full && l->waiting.n > 0;
    l->answering++;
    (void)pthread_mutex_unlock(&l->lock);
    if (more)
        store_source_more(l->source); /* what came before the batch, and had no place in it */
    fifo_answer(&answers);
    (void)pthread_mutex_lock(&l->lock);
    l->answering--;
    (void)pthread_cond_broadcast(&l->idle);
    (void)pthread_mutex_unlock(&l->lock);
}

/* -- appending ----------------------------------------------------------------------------------
 */

static void
on_gone(const char *identity, const char *instance, void *arg)
{
    struct ledger *l = arg;
    char key[STORE_KEY_BYTES + 1];
    struct store_op op = { .kind = STORE_DELETE, .key = key };
    struct err e;

    fleet_key(identity, instance, key);
    if (store_commit(l->store, &op, 1, NULL, NULL, NULL, &e) < 0)
        return; /* the store is busy: the word of a workload without leaves harms nobody */
}

static void
prune(struct ledger *l, int64_t now)
{
    live_prune(l->live, now, on_gone, l);
    l->pruned = now;
    metric_set(l->metrics, &live_leaves, "", (double)live_each(l->live, now, false, NULL, NULL));
}

static int
row_check(const struct ledger_row *row, struct err *e)
{
    if (row->key_id_n > LEDGER_KEY_ID_BYTES)
        return err_set(e, E_INVAL, "ledger: a key id of %zu bytes", row->key_id_n);
    if (row->serial_n == 0 || row->serial_n > SERIAL_MAX_BYTES)
        return err_set(e, E_INVAL, "ledger: a serial number of %zu bytes", row->serial_n);
    if (row->identity[0] == '\0' || memchr(row->identity, '\0', sizeof(row->identity)) == NULL ||
        memchr(row->instance, '\0', sizeof(row->instance)) == NULL ||
        memchr(row->auth, '\0', sizeof(row->auth)) == NULL)
        return err_set(e, E_INVAL, "ledger: a row without an identity, or with one too long");
    return 0;
}

/* Under the lock: gives the row its place in the chain. */
static int
row_chain(struct ledger *l, struct pending *p, struct err *e)
{
    int64_t now = unix_s();

    if (l->waiting.n >= LEDGER_WAITING_MAX)
        return err_set(e, E_LIMIT, "more than %d rows wait for the ledger",
                       (int)LEDGER_WAITING_MAX);
    if (l->reload && rows_load(l, l->durable.seq, e) < 0)
        return err_wrap(e, "ledger changed by somebody else");
    l->reload = false;
    if (now - l->pruned >= PRUNE_EVERY_S)
        prune(l, now);
    TRY(live_check(l->live, p->rec.row.identity, p->rec.row.instance, e));
    p->rec.row.seq = l->next_seq;
    row_key(p->rec.row.seq, p->key);
    memcpy(p->rec.prev, l->head.hash, DIGEST_BYTES);
    TRY(record_encode(&p->rec, &p->bytes, e));
    TRY(live_add(l->live, &p->rec.row, now, e));
    l->next_seq++;
    head_advance(&l->head, &p->rec);
    return 0;
}

int
ledger_append(struct ledger *l, const struct ledger_row *row, struct loop *loop,
              ledger_done_fn *done, void *arg, struct err *e)
{
    TRY(row_check(row, e));
    struct pending *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return err_nomem(e);
    *p = (struct pending){
        .loop = loop, .done = done, .arg = arg, .rec.row = *row, .bytes = BUF_INIT(ROW_BYTES)
    };
    (void)pthread_mutex_lock(&l->lock);
    int r = row_chain(l, p, e);
    if (r == 0)
        fifo_add(&l->waiting, p);
    (void)pthread_mutex_unlock(&l->lock);
    if (r < 0)
        pending_free(p);
    else
        store_source_more(l->source);
    return r;
}

/* -- words --------------------------------------------------------------------------------------
 */

struct said {
    struct ledger *ledger;
    struct loop *loop;
    ledger_done_fn *done;
    void *arg;
    struct err err;
    struct word word;
};

static void
said_answer(void *arg)
{
    struct said *s = arg;

    if (s->done != NULL)
        s->done(&s->err, s->arg);
    free(s);
}

/* On the store's writer thread. A word counts once it is durable: a gate must not open on what a
 * crash would forget. */
static void
on_word(const struct err *why, uint64_t revision, void *arg)
{
    struct said *s = arg;
    struct ledger *l = s->ledger;
    struct err e;

    (void)revision;
    s->err = *why;
    (void)pthread_mutex_lock(&l->lock);
    if (why->code == E_NONE && live_word_set(l->live, &s->word, &e) < 0)
        s->err = e;
    if (s->err.code != E_NONE)
        live_word_undo(l->live, &s->word);
    (void)pthread_mutex_unlock(&l->lock);
    if (s->loop == NULL)
        said_answer(s);
    else
        while (loop_post(s->loop, said_answer, s, &e) < 0)
            (void)usleep(LEDGER_ANSWER_RETRY_US);
    (void)pthread_mutex_lock(&l->lock);
    l->words_n--;
    (void)pthread_cond_broadcast(&l->idle);
    (void)pthread_mutex_unlock(&l->lock);
}

static int
word_commit(struct ledger *l, struct said *s, struct err *e)
{
    char key[STORE_KEY_BYTES + 1];
    struct buf b = BUF_INIT(WORD_BYTES);
    struct store_op op = { .kind = STORE_PUT, .key = key };
    int r = word_encode(&s->word, &b, e);

    fleet_key(s->word.identity, s->word.instance, key);
    op.value = buf_span(&b);
    if (r == 0)
        r = store_commit(l->store, &op, 1, NULL, on_word, s, e);
    buf_done(&b);
    return r;
}

int
ledger_acknowledge(struct ledger *l, const struct ledger_ack *a, struct loop *loop,
                   ledger_done_fn *done, void *arg, struct err *e)
{
    if (a->instance[0] == '\0' || memchr(a->instance, '\0', sizeof(a->instance)) == NULL ||
        a->identity[0] == '\0' || memchr(a->identity, '\0', sizeof(a->identity)) == NULL ||
        a->roots_n > ROOTS_MAX || a->serial_n > SERIAL_MAX_BYTES)
        return err_set(e, E_INVAL, "an acknowledgement without identity or instance, or too long");
    struct said *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return err_nomem(e);
    *s = (struct said){ .ledger = l, .loop = loop, .done = done, .arg = arg };
    (void)pthread_mutex_lock(&l->lock);
    int r = live_word(l->live, a, l->next_seq - 1, unix_s(), &s->word, e);
    if (r == 0) {
        r = word_commit(l, s, e);
        if (r < 0)
            live_word_undo(l->live, &s->word);
        else
            l->words_n++; /* on_word waits for the lock */
    }
    (void)pthread_mutex_unlock(&l->lock);
    if (r != 0)
        free(s);
    return r > 0 ? LEDGER_STALE : r;
}

int
ledger_note_issuers(struct ledger *l, const struct bundle *b, struct err *e)
{
    return issuers_put(l->store, b, e);
}

/* -- questions ----------------------------------------------------------------------------------
 */

static void
workloads(struct ledger *l, bool words_too, ledger_workload_fn *fn, void *arg)
{
    int64_t now = unix_s();

    (void)pthread_mutex_lock(&l->lock);
    live_prune(l->live, now, on_gone, l);
    l->pruned = now;
    metric_set(l->metrics, &live_leaves, "", (double)live_each(l->live, now, words_too, fn, arg));
    (void)pthread_mutex_unlock(&l->lock);
}

void
ledger_workloads(struct ledger *l, ledger_workload_fn *fn, void *arg)
{
    workloads(l, false, fn, arg);
}

void
ledger_workloads_said(struct ledger *l, ledger_workload_fn *fn, void *arg)
{
    workloads(l, true, fn, arg);
}

uint64_t
ledger_leaves(struct ledger *l, const char *identity, ledger_leaf_fn *fn, void *arg)
{
    (void)pthread_mutex_lock(&l->lock);
    live_issued(l->live, identity, unix_s(), fn, arg);
    uint64_t newest = l->next_seq - 1;
    (void)pthread_mutex_unlock(&l->lock);
    return newest;
}

struct rows_of {
    size_t left;
    ledger_row_fn *fn;
    void *arg;
};

static int
row_give(const struct record *rec, void *arg, struct err *e)
{
    struct rows_of *r = arg;

    if (r->left == 0)
        return WALK_ENOUGH;
    r->left--;
    TRY(r->fn(&rec->row, r->arg, e));
    return r->left == 0 ? WALK_ENOUGH : 0;
}

int
ledger_rows(struct ledger *l, uint64_t before, size_t limit, ledger_row_fn *fn, void *arg,
            struct err *e)
{
    struct rows_of r = { limit, fn, arg };

    return rows_walk(l->store, before, true, row_give, &r, e);
}

int
ledger_verify(struct ledger *l, uint64_t *ret_rows, struct err *e)
{
    struct head h = { .seq = 0 }, floor;

    TRY(rows_verify(l->store, NULL, &h, &floor, e));
    *ret_rows = h.rows;
    return 0;
}

int
ledger_health(struct ledger *l, struct err *e)
{
    return store_health(l->store, e);
}

uint64_t
ledger_count(struct ledger *l)
{
    (void)pthread_mutex_lock(&l->lock);
    uint64_t n = l->durable.rows;
    (void)pthread_mutex_unlock(&l->lock);
    return n;
}
