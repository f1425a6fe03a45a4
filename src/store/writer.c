/* writer.c - the writer's thread: groups, their size, answers; and sources. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "store/room.h"

enum {
    ANSWER_RETRY_US = 10000,
    ROW_US = 1000, /* the pause between two groups, for each thing in the first */
    GROUP_FULL = STORE_SOURCE_OPS / 2, /* nobody waits for more */
};

void
txn_free(struct txn *t)
{
    explicit_bzero(t, t->bytes); /* values may be tokens or wrapped keys */
    free(t);
}

static void
txn_answer(void *arg)
{
    struct txn *t = arg;

    t->done(&t->err, t->revision, t->arg);
    txn_free(t);
}

/* An answer is never dropped: when the loop's queue is full the writer waits, and so do writers. */
static void
txn_finish(struct txn *t)
{
    struct err e;

    if (t->done == NULL)
        txn_free(t);
    else if (t->loop == NULL)
        txn_answer(t);
    else
        while (loop_post(t->loop, txn_answer, t, &e) < 0)
            (void)usleep(ANSWER_RETRY_US);
}

/* A conflict concerns its own caller only; a disk that refuses concerns all of the group. */
static int
ops_apply(struct store *s, const struct store_op *ops, size_t n, uint64_t *revision,
          uint64_t *ret_revision, struct err *own, struct err *e)
{
    int r = db_apply(s->writer, ops, n, *revision + 1, own);

    if (r == 0) {
        *ret_revision = ++*revision;
        return 0;
    }
    if (own->code == E_CONFLICT)
        return 0;
    *e = *own;
    return r;
}

/* What waits, taken from the callers as one group. */
struct group {
    struct txn *txns;
    struct store_source *sources; /* the first of all; they stay in place while the writer works */
    size_t n;
};

/* r: whether any has something. */
static bool
sources_fill(const struct group *g)
{
    bool some = false;

    for (struct store_source *src = g->sources; src != NULL; src = src->next) {
        src->ops_n = src->fill(src->ops, src->arg);
        src->is_filled = src->ops_n > 0;
        src->err.code = E_NONE;
        some = some || src->is_filled;
    }
    return some;
}

/* Applies all of the group as one durable transaction. */
static int
group_commit(struct store *s, const struct group *g, uint64_t *ret_revision, struct err *e)
{
    uint64_t revision = s->revision;

    TRY(db_begin(s->writer, e));
    for (struct txn *t = g->txns; t != NULL; t = t->next)
        TRY(ops_apply(s, t->ops, t->n, &revision, &t->revision, &t->err, e));
    for (struct store_source *src = g->sources; src != NULL; src = src->next)
        if (src->is_filled)
            TRY(ops_apply(s, src->ops, src->ops_n, &revision, &src->revision, &src->err, e));
    TRY(db_commit(s->writer, revision, e));
    *ret_revision = revision;
    return 0;
}

static void
sources_finish(struct store *s, const struct group *g, const struct err *e)
{
    for (struct store_source *src = g->sources; src != NULL; src = src->next) {
        if (!src->is_filled)
            continue;
        src->is_filled = false;
        if (e->code == E_NONE && src->err.code == E_NONE)
            watches_tell(s, src->ops, src->ops_n);
        src->done(e->code != E_NONE ? e : &src->err, src->revision, src->arg);
    }
}

static void
group_run(struct store *s, struct group *g)
{
    struct err e = { 0 };
    size_t ops = 0;

    if (!sources_fill(g) && g->txns == NULL)
        return; /* a row that an earlier fill took before it was announced */
    if (group_commit(s, g, &s->revision, &e) < 0)
        db_rollback(s->writer);
    bool ok = e.code == E_NONE;
    for (struct txn *t = g->txns; t != NULL; t = t->next) {
        ops += t->n;
        if (!ok)
            t->err = e;
    }
    for (struct store_source *src = g->sources; src != NULL; src = src->next)
        ops += src->is_filled ? src->ops_n : 0;
    (void)pthread_mutex_lock(&s->lock);
    s->stats.transactions += ok ? 1 : 0;
    s->stats.operations += ok ? ops : 0;
    s->stats.errors += ok ? 0 : 1;
    s->trouble = e;
    (void)pthread_mutex_unlock(&s->lock);
    while (g->txns != NULL) {
        struct txn *t = g->txns;

        g->txns = t->next;
        if (t->err.code == E_NONE)
            watches_tell(s, t->ops, t->n);
        txn_finish(t);
    }
    sources_finish(s, g, &e);
}

/* -- how large a group becomes -------------------------------------------------------------------
 *
 * A transaction costs the disk and us ten times what a row in it does. So after a group of several
 * the writer pauses, for as many milliseconds as there were things in it (STORE_GROUP_US at most,
 * and not when GROUP_FULL wait). One caller after another makes groups of one, for which nobody
 * waits.
 */

void
writer_more(struct store *s)
{
    if (++s->waiting_n >= s->wake_at) {
        s->wake_at = SIZE_MAX; /* it is told once */
        (void)pthread_cond_signal(&s->more);
    }
}

static void
deadline_after(const struct timespec *from, long us, struct timespec *ret)
{
    ret->tv_nsec = from->tv_nsec + us * 1000;
    ret->tv_sec = from->tv_sec + ret->tv_nsec / 1000000000;
    ret->tv_nsec %= 1000000000;
}

/* Under the lock, while the writer has nothing to do until `want` things wait. */
static void
writer_sleep(struct store *s, size_t want, const struct timespec *until)
{
    int no = 0;

    while (s->waiting_n < want && !s->stopping && no == 0) {
        s->wake_at = want;
        no = until == NULL ? pthread_cond_wait(&s->more, &s->lock)
                           : pthread_cond_timedwait(&s->more, &s->lock, until);
    }
    s->wake_at = SIZE_MAX;
}

/* A disk that refused a write is asked again, with one that changes nothing of anybody's. */
static void
disk_probe(struct store *s)
{
    static const struct store_op op = { .kind = STORE_PUT, .key = "store/probe" };
    struct err e = { 0 }, own;
    uint64_t revision = s->revision;

    int r = db_begin(s->writer, &e);
    if (r == 0)
        r = db_apply(s->writer, &op, 1, revision + 1, &own);
    if (r < 0 && e.code == E_NONE)
        e = own;
    if (r == 0)
        r = db_commit(s->writer, revision + 1, &e);
    if (r == 0)
        s->revision = revision + 1;
    else
        db_rollback(s->writer);
    (void)pthread_mutex_lock(&s->lock);
    s->trouble = e;
    (void)pthread_mutex_unlock(&s->lock);
}

/* Under the lock: until something waits. */
static void
writer_idle(struct store *s)
{
    struct timespec until;

    while (s->trouble.code != E_NONE && s->waiting_n == 0 && !s->stopping) {
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        deadline_after(&until, STORE_PROBE_MS * 1000L, &until);
        writer_sleep(s, 1, &until);
        if (s->waiting_n > 0 || s->stopping)
            return;
        s->is_busy = true;
        (void)pthread_mutex_unlock(&s->lock);
        disk_probe(s);
        (void)pthread_mutex_lock(&s->lock);
        s->is_busy = false;
        (void)pthread_cond_broadcast(&s->calm);
    }
    writer_sleep(s, 1, NULL);
}

/* From the start of a group of `n` to the start of the next. */
static long
pause_us(size_t n)
{
    return n < 2 ? 0 : n * ROW_US > STORE_GROUP_US ? STORE_GROUP_US : (long)n * ROW_US;
}

/* Under the lock. r: false when the store is closed and nothing waits. */
static bool
group_take(struct store *s, const struct timespec *last, struct group *ret)
{
    struct timespec until;

    deadline_after(last, pause_us(s->group_n), &until);
    do {
        if (s->group_n > 1)
            writer_sleep(s, GROUP_FULL, &until); /* before idling: one waking less for a group */
        writer_idle(s);
        while (s->changing_n > 0)
            (void)pthread_cond_wait(&s->calm, &s->lock);
    } while (s->waiting_n == 0 && !s->stopping);
    if (s->waiting_n == 0)
        return false;
    *ret = (struct group){ s->head, s->sources, s->waiting_n };
    s->group_n = s->waiting_n;
    s->head = NULL;
    s->tail = &s->head;
    s->ops_n = s->bytes_n = s->waiting_n = 0;
    for (struct store_source *src = s->sources; src != NULL; src = src->next)
        src->more_n = 0;
    s->is_busy = true;
    return true;
}

void *
writer_main(void *arg)
{
    struct store *s = arg;
    struct timespec last = { 0 };
    struct group g;

    (void)pthread_mutex_lock(&s->lock);
    while (group_take(s, &last, &g)) {
        (void)pthread_mutex_unlock(&s->lock);
        (void)clock_gettime(CLOCK_MONOTONIC, &last);
        group_run(s, &g);
        (void)pthread_mutex_lock(&s->lock);
        s->is_busy = false;
        (void)pthread_cond_broadcast(&s->calm);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* -- sources ------------------------------------------------------------------------------------
 */

/* Until sources_unlock the writer rests and the list may be changed. */
static void
sources_lock(struct store *s)
{
    (void)pthread_mutex_lock(&s->lock);
    s->changing_n++;
    while (s->is_busy)
        (void)pthread_cond_wait(&s->calm, &s->lock);
}

static void
sources_unlock(struct store *s)
{
    s->changing_n--;
    (void)pthread_cond_broadcast(&s->calm);
    (void)pthread_mutex_unlock(&s->lock);
}

int
store_source_new(struct store *s, store_fill_fn *fill, store_done_fn *done, void *arg,
                 struct store_source **ret, struct err *e)
{
    if (s->writer == NULL)
        return err_set(e, E_STATE, "the store was opened for reading only");
    struct store_source *src = calloc(1, sizeof(*src));
    if (src == NULL)
        return err_nomem(e);
    *src = (struct store_source){ .store = s, .fill = fill, .done = done, .arg = arg };
    sources_lock(s);
    src->next = s->sources;
    s->sources = src;
    sources_unlock(s);
    *ret = src;
    return 0;
}

void
store_source_more(struct store_source *src)
{
    struct store *s = src->store;

    (void)pthread_mutex_lock(&s->lock);
    src->more_n++;
    writer_more(s);
    (void)pthread_mutex_unlock(&s->lock);
}

void
store_source_free(struct store_source *src)
{
    if (src == NULL)
        return;
    struct store *s = src->store;

    sources_lock(s);
    for (struct store_source **at = &s->sources; *at != NULL; at = &(*at)->next)
        if (*at == src) {
            *at = src->next;
            break;
        }
    s->waiting_n -= src->more_n;
    sources_unlock(s);
    free(src);
}
