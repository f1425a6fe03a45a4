/* store.c - opening, the queue, reading, the watches. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "store/room.h"

struct store_watch {
    struct store_watch *next;
    struct store *store; /* NULL once the store is closed */
    struct loop *loop;
    store_watch_fn *fn;
    void *arg;
    atomic_uint refs; /* the owner and each hint under way */
    bool closed;      /* loop's thread only */
    char prefix[STORE_KEY_BYTES + 1];
};

struct hint {
    struct store_watch *watch; /* a reference */
    char key[];
};

/* -- watches ------------------------------------------------------------------------------------
 */

static void
watch_unref(struct store_watch *w)
{
    if (atomic_fetch_sub(&w->refs, 1) == 1)
        free(w);
}

static void
hint_give(void *arg)
{
    struct hint *h = arg;

    if (!h->watch->closed)
        h->watch->fn(h->key, h->watch->arg);
    watch_unref(h->watch);
    free(h);
}

/* Best effort when memory is short: events are hints, readers look again by themselves. */
static void
hint_send(struct store_watch *w, const char *key)
{
    size_t n = strlen(key) + 1;
    struct hint *h = malloc(sizeof(*h) + n);
    struct err e;

    if (h == NULL)
        return;
    h->watch = w;
    memcpy(h->key, key, n);
    (void)atomic_fetch_add(&w->refs, 1);
    if (loop_post(w->loop, hint_give, h, &e) < 0) {
        (void)atomic_fetch_sub(&w->refs, 1);
        free(h);
    }
}

void
watches_tell(struct store *s, const struct store_op *ops, size_t n)
{
    (void)pthread_mutex_lock(&s->lock);
    for (struct store_watch *w = s->watches; w != NULL; w = w->next)
        for (size_t i = 0; i < n; i++)
            if ((ops[i].kind == STORE_PUT || ops[i].kind == STORE_DELETE) &&
                strncmp(ops[i].key, w->prefix, strlen(w->prefix)) == 0)
                hint_send(w, ops[i].key);
    (void)pthread_mutex_unlock(&s->lock);
}

int
store_watch_new(struct store *s, const char *prefix, struct loop *l, store_watch_fn *fn, void *arg,
                struct store_watch **ret, struct err *e)
{
    if (strlen(prefix) > STORE_KEY_BYTES)
        return err_set(e, E_INVAL, "a prefix of %zu bytes, want at most %d", strlen(prefix),
                       (int)STORE_KEY_BYTES);
    if (s->writer == NULL)
        return err_set(e, E_STATE, "the store was opened for reading only");
    struct store_watch *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return err_nomem(e);
    w->store = s;
    w->loop = l;
    w->fn = fn;
    w->arg = arg;
    memcpy(w->prefix, prefix, strlen(prefix) + 1);
    atomic_init(&w->refs, 1);
    (void)pthread_mutex_lock(&s->lock);
    w->next = s->watches;
    s->watches = w;
    (void)pthread_mutex_unlock(&s->lock);
    *ret = w;
    return 0;
}

void
store_watch_free(struct store_watch *w)
{
    if (w == NULL)
        return;
    struct store *s = w->store;
    if (s != NULL) {
        (void)pthread_mutex_lock(&s->lock);
        for (struct store_watch **at = &s->watches; *at != NULL; at = &(*at)->next)
            if (*at == w) {
                *at = w->next;
                break;
            }
        (void)pthread_mutex_unlock(&s->lock);
    }
    w->closed = true;
    watch_unref(w);
}

/* -- callers ------------------------------------------------------------------------------------
 */

static struct store *
store_alloc(void)
{
    struct store *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return NULL;
    s->tail = &s->head;
    pthread_mutexattr_t attr;
    (void)pthread_mutexattr_init(&attr);
    (void)pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE); /* `each` may read */
    (void)pthread_mutex_init(&s->read_lock, &attr);
    (void)pthread_mutexattr_destroy(&attr);
    (void)pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&s->more, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    (void)pthread_cond_init(&s->calm, NULL);
    s->wake_at = SIZE_MAX;
    return s;
}

int
store_open_sqlite(const char *dir, struct store **ret, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;
    struct store *s = store_alloc();

    if (s == NULL)
        return err_nomem(e);
    int r = str_format(&path, e, "%s/meshroot.db", dir);
    if (r == 0)
        r = db_open(path, true, &s->writer, e);
    if (r == 0)
        r = db_open(path, false, &s->reader, e);
    if (r == 0)
        r = db_revision(s->writer, &s->revision, e);
    if (r == 0) {
        int no = pthread_create(&s->thread, NULL, writer_main, s);

        r = no == 0 ? 0 : err_sys(e, no, "start the store's writer");
    }
    s->running = r == 0;
    if (r < 0) {
        store_close(s);
        return err_wrap(e, "store");
    }
    *ret = s;
    return 0;
}

int
store_open_sqlite_readonly(const char *dir, struct store **ret, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;
    struct store *s = store_alloc();

    if (s == NULL)
        return err_nomem(e);
    int r = str_format(&path, e, "%s/meshroot.db", dir);
    if (r == 0)
        r = db_open_readonly(path, &s->reader, e);
    if (r < 0) {
        store_close(s);
        return err_wrap(e, "store");
    }
    *ret = s;
    return 0;
}

int
store_hold_snapshot(struct store *s, struct err *e)
{
    if (s->writer != NULL)
        return err_set(e, E_STATE, "only a store opened for reading holds a snapshot");
    (void)pthread_mutex_lock(&s->read_lock);
    int r = db_snapshot(s->reader, e);
    (void)pthread_mutex_unlock(&s->read_lock);
    return r;
}

void
store_close(struct store *s)
{
    if (s == NULL)
        return;
    if (s->running) {
        (void)pthread_mutex_lock(&s->lock);
        s->stopping = true;
        (void)pthread_cond_signal(&s->more);
        (void)pthread_mutex_unlock(&s->lock);
        (void)pthread_join(s->thread, NULL);
    }
    for (struct store_watch *w = s->watches; w != NULL; w = w->next)
        w->store = NULL;
    db_close(s->reader);
    db_close(s->writer); /* the last one writes the log back into the database */
    (void)pthread_mutex_destroy(&s->read_lock);
    (void)pthread_mutex_destroy(&s->lock);
    (void)pthread_cond_destroy(&s->more);
    (void)pthread_cond_destroy(&s->calm);
    free(s);
}

static int
key_check(const char *key, struct err *e)
{
    size_t n = strlen(key);

    if (n == 0 || n > STORE_KEY_BYTES)
        return err_set(e, E_INVAL, "a store key of %zu bytes, want 1..%d", n, (int)STORE_KEY_BYTES);
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)key[i] < 0x20 || key[i] == 0x7f)
            return err_set(e, E_INVAL, "a control character in a store key at position %zu", i);
    return 0;
}

static int
txn_new(const struct store_op *ops, size_t n, struct txn **ret, struct err *e)
{
    size_t bytes = sizeof(struct txn) + n * sizeof(*ops);

    if (n == 0 || n > STORE_TXN_OPS)
        return err_set(e, E_INVAL, "a transaction of %zu operations, want 1..%d", n,
                       (int)STORE_TXN_OPS);
    for (size_t i = 0; i < n; i++) {
        TRY(key_check(ops[i].key, e));
        if (ops[i].value.n > STORE_VALUE_BYTES)
            return err_set(e, E_INVAL, "%s: a value of %zu bytes, want at most %d", ops[i].key,
                           ops[i].value.n, (int)STORE_VALUE_BYTES);
        bytes += strlen(ops[i].key) + 1 + ops[i].value.n;
    }
    struct txn *t = malloc(bytes);
    if (t == NULL)
        return err_nomem(e);
    *t = (struct txn){ .n = n, .bytes = bytes };
    char *at = (char *)&t->ops[n];
    for (size_t i = 0; i < n; i++) {
        size_t key_n = strlen(ops[i].key) + 1;

        t->ops[i] = ops[i];
        t->ops[i].key = memcpy(at, ops[i].key, key_n);
        at += key_n;
        t->ops[i].value = span_of(at, ops[i].value.n);
        if (ops[i].value.n > 0)
            memcpy(at, ops[i].value.p, ops[i].value.n);
        at += ops[i].value.n;
    }
    *ret = t;
    return 0;
}

int
store_commit(struct store *s, const struct store_op *ops, size_t n, struct loop *l,
             store_done_fn *done, void *arg, struct err *e)
{
    struct txn *t = NULL;

    if (s->writer == NULL)
        return err_set(e, E_STATE, "the store was opened for reading only");
    TRY(txn_new(ops, n, &t, e));
    t->loop = l;
    t->done = done;
    t->arg = arg;
    (void)pthread_mutex_lock(&s->lock);
    bool full = s->ops_n + n > STORE_QUEUE_OPS || s->bytes_n + t->bytes > STORE_QUEUE_BYTES;
    if (!full) {
        *s->tail = t;
        s->tail = &t->next;
        s->ops_n += n;
        s->bytes_n += t->bytes;
        writer_more(s);
    }
    (void)pthread_mutex_unlock(&s->lock);
    if (!full)
        return 0;
    txn_free(t);
    return err_set(e, E_LIMIT, "too many writes wait for the store (%d operations, %d bytes)",
                   (int)STORE_QUEUE_OPS, (int)STORE_QUEUE_BYTES);
}

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool is_done;
    struct err err;
    uint64_t revision;
};

static void
waiter_wake(const struct err *e, uint64_t revision, void *arg)
{
    struct waiter *w = arg;

    (void)pthread_mutex_lock(&w->lock);
    w->err = *e;
    w->revision = revision;
    w->is_done = true;
    (void)pthread_cond_signal(&w->done);
    (void)pthread_mutex_unlock(&w->lock);
}

int
store_commit_wait(struct store *s, const struct store_op *ops, size_t n, uint64_t *ret_revision,
                  struct err *e)
{
    struct waiter w = { .is_done = false };

    (void)pthread_mutex_init(&w.lock, NULL);
    (void)pthread_cond_init(&w.done, NULL);
    int r = store_commit(s, ops, n, NULL, waiter_wake, &w, e);
    (void)pthread_mutex_lock(&w.lock);
    while (r == 0 && !w.is_done)
        (void)pthread_cond_wait(&w.done, &w.lock);
    (void)pthread_mutex_unlock(&w.lock);
    (void)pthread_cond_destroy(&w.done);
    (void)pthread_mutex_destroy(&w.lock);
    if (r < 0)
        return r;
    if (w.err.code != E_NONE) {
        *e = w.err;
        return err_result(e);
    }
    if (ret_revision != NULL)
        *ret_revision = w.revision;
    return 0;
}

int
store_get(struct store *s, const char *key, struct buf *value, uint64_t *ret_revision,
          struct err *e)
{
    TRY(key_check(key, e));
    (void)pthread_mutex_lock(&s->read_lock);
    int r = db_get(s->reader, key, value, ret_revision, e);
    (void)pthread_mutex_unlock(&s->read_lock);
    return r;
}

int
store_list(struct store *s, const char *prefix, const char *after, size_t limit, bool reverse,
           store_each_fn *each, void *arg, struct err *e)
{
    if (prefix[0] != '\0')
        TRY(key_check(prefix, e));
    if (after != NULL)
        TRY(key_check(after, e));
    (void)pthread_mutex_lock(&s->read_lock);
    int r = db_list(s->reader, prefix, after, limit, reverse, each, arg, e);
    (void)pthread_mutex_unlock(&s->read_lock);
    return r;
}

int
store_health(struct store *s, struct err *e)
{
    (void)pthread_mutex_lock(&s->lock);
    *e = s->trouble;
    (void)pthread_mutex_unlock(&s->lock);
    return e->code == E_NONE ? 0 : err_result(e);
}

void
store_get_stats(struct store *s, struct store_stats *ret)
{
    (void)pthread_mutex_lock(&s->lock);
    *ret = s->stats;
    (void)pthread_mutex_unlock(&s->lock);
}
