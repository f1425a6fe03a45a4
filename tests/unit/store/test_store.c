/* What store.h promises, on SQLite. */
#include "store_kit.h"

#include <pthread.h>

static void
put_get_delete_and_revisions(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct store_op ops[] = { put("a/1", "one"), put("a/2", "") };
    uint64_t first = 0, second = 0, seen = 0;
    struct buf b = BUF_INIT(64);

    assert_value(f, "a/1", NULL);
    assert_ok(store_commit_wait(f->s, ops, 2, &first, &e));
    assert_value(f, "a/1", "one");
    assert_value(f, "a/2", "");
    assert_ok(store_get(f->s, "a/2", &b, &seen, &e));
    assert_int_equal(seen, first);
    assert_true(first > 0);

    struct store_op del[] = { { .kind = STORE_DELETE, .key = "a/1" },
                              { .kind = STORE_DELETE, .key = "no" } };
    assert_ok(store_commit_wait(f->s, del, 2, &second, &e));
    assert_true(second > first);
    assert_value(f, "a/1", NULL);
    buf_done(&b);
}

static void
expectations(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    uint64_t rev = 0;
    struct store_op one = put("k", "v1");

    assert_ok(store_commit_wait(f->s, &one, 1, &rev, &e));
    struct {
        const char *what;
        struct store_op expect;
        bool holds;
    } rows[] = {
        { "right revision", { .kind = STORE_EXPECT, .key = "k", .revision = rev }, true },
        { "wrong revision", { .kind = STORE_EXPECT, .key = "k", .revision = rev + 7 }, false },
        { "must not exist, exists", { .kind = STORE_EXPECT, .key = "k" }, false },
        { "must not exist, does not", { .kind = STORE_EXPECT, .key = "none" }, true },
        { "must exist, does not", { .kind = STORE_EXPECT, .key = "none", .revision = 1 }, false },
        { "right value",
          { .kind = STORE_EXPECT_VALUE, .key = "k", .value = span_str("v1") },
          true },
        { "wrong value",
          { .kind = STORE_EXPECT_VALUE, .key = "k", .value = span_str("v2") },
          false },
        { "no value, absent", { .kind = STORE_EXPECT_VALUE, .key = "none" }, true },
        { "no value, there", { .kind = STORE_EXPECT_VALUE, .key = "k" }, false },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        /* the put comes first: expectations are about the state before */
        struct store_op ops[] = { put("mark", rows[i].what), rows[i].expect };

        if (rows[i].holds) {
            assert_ok(store_commit_wait(f->s, ops, 2, NULL, &e));
            assert_value(f, "mark", rows[i].what);
        } else {
            put_now(f, "mark", "before");
            assert_err(store_commit_wait(f->s, ops, 2, NULL, &e), E_CONFLICT, rows[i].expect.key);
            assert_value(f, "mark", "before");
        }
    }
}

static void
bad_arguments(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    static char long_key[STORE_KEY_BYTES + 2], big[STORE_VALUE_BYTES + 1];
    struct store_op many[STORE_TXN_OPS + 1];

    memset(long_key, 'k', sizeof(long_key) - 1);
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        many[i] = put("k", "v");
    struct store_op large = { .kind = STORE_PUT, .key = "k", .value = span_of(big, sizeof(big)) };
    struct store_op bad[] = { put("", "v"), put(long_key, "v"), put("a\nb", "v"), large };
    const char *says[] = { "0 bytes", "513 bytes", "control character", "value of" };

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_err(store_commit_wait(f->s, &bad[i], 1, NULL, &e), E_INVAL, says[i]);
    assert_err(store_commit_wait(f->s, many, 0, NULL, &e), E_INVAL, "0 operations");
    assert_err(store_commit_wait(f->s, many, ARRAY_LEN(many), NULL, &e), E_INVAL, "65 operations");
    large.value.n = STORE_VALUE_BYTES;
    assert_ok(store_commit_wait(f->s, &large, 1, NULL, &e));
}

/* -- list */

static int
join(const char *key, struct span value, uint64_t revision, void *arg, struct err *e)
{
    (void)revision;
    return buf_addf(arg, e, "%s=%.*s ", key, SPAN_ARG(value));
}

static void
list_ranges(void **state)
{
    struct fix *f = *state;
    static const struct {
        const char *prefix, *after;
        size_t limit;
        bool reverse;
        const char *want;
    } rows[] = {
        { "a/", NULL, 10, false, "a/1=1 a/2=2 a/3=3 " },
        { "a/", NULL, 2, false, "a/1=1 a/2=2 " },
        { "a/", "a/1", 10, false, "a/2=2 a/3=3 " },
        { "a/", "a/3", 10, false, "" },
        { "a/", "A", 10, false, "a/1=1 a/2=2 a/3=3 " },
        { "a/", "b", 10, false, "" },
        { "a/", NULL, 10, true, "a/3=3 a/2=2 a/1=1 " },
        { "a/", NULL, 1, true, "a/3=3 " },
        { "a/", "a/3", 10, true, "a/2=2 a/1=1 " },
        { "a/", "a/25", 10, true, "a/2=2 a/1=1 " },
        { "a/", "z", 10, true, "a/3=3 a/2=2 a/1=1 " },
        { "a/", "A", 10, true, "" },
        { "a/", NULL, 0, false, "" },
        { "a", NULL, 10, false, "a/1=1 a/2=2 a/3=3 a0=x " },
        { "", NULL, 10, false, "a/1=1 a/2=2 a/3=3 a0=x b=y " },
        { "", "a/3", 1, false, "a0=x " },
        { "", NULL, 2, true, "b=y a0=x " },
        { "none", NULL, 10, false, "" },
    };
    put_now(f, "a/3", "3");
    put_now(f, "a/1", "1");
    put_now(f, "a/2", "2");
    put_now(f, "a0", "x");
    put_now(f, "b", "y");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf b = BUF_INIT(4096);
        struct err e = { 0 };

        assert_ok(store_list(f->s, rows[i].prefix, rows[i].after, rows[i].limit, rows[i].reverse,
                             join, &b, &e));
        assert_string_equal(buf_text(&b), rows[i].want);
        buf_done(&b);
    }
}

static int
stop_at_two(const char *key, struct span value, uint64_t revision, void *arg, struct err *e)
{
    struct fix *f = arg;

    (void)value;
    (void)revision;
    assert_value(f, key, "v"); /* reading inside a walk is allowed */
    return strcmp(key, "l/2") == 0 ? err_set(e, E_STATE, "enough") : 0;
}

static void
list_stops_with_the_error_of_each(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };

    put_now(f, "l/1", "v");
    put_now(f, "l/2", "v");
    put_now(f, "l/3", "v");
    assert_err(store_list(f->s, "l/", NULL, 10, false, stop_at_two, f, &e), E_STATE, "enough");
    assert_value(f, "l/3", "v"); /* and the store is fine */
}

/* -- answers and grouping */

struct answers {
    struct loop *l;
    size_t n, want, conflicts;
    uint64_t last;
    bool ordered;
};

static void
on_answer(const struct err *e, uint64_t revision, void *arg)
{
    struct answers *a = arg;

    if (e->code == E_CONFLICT)
        a->conflicts++;
    else
        assert_int_equal(e->code, E_NONE);
    if (e->code == E_NONE) {
        a->ordered = a->ordered && revision > a->last;
        a->last = revision;
    }
    if (++a->n == a->want)
        loop_stop(a->l);
}

static void
commits_are_grouped_answered_in_order_and_conflicts_stay_alone(void **state)
{
    struct fix *f = *state;
    struct answers a = { .l = f->l, .want = 1000, .ordered = true };
    struct err e = { 0 };
    struct store_stats before, after;

    store_get_stats(f->s, &before);
    for (size_t i = 0; i < a.want; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), "g/%04zu", i);
        struct store_op ops[] = {
            put(key, "v"), { .kind = STORE_EXPECT, .key = "absent", .revision = i % 10 == 3 }
        };

        assert_ok(store_commit(f->s, ops, 2, f->l, on_answer, &a, &e));
    }
    assert_ok(loop_run(f->l, &e));
    store_get_stats(f->s, &after);
    assert_true(a.ordered);
    assert_int_equal(a.conflicts, 100);
    assert_value(f, "g/0003", NULL);
    assert_value(f, "g/0004", "v");
    assert_true(after.transactions - before.transactions < 300);
    assert_int_equal(after.operations - before.operations, 2000);
}

static void
the_queue_has_a_bound(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    static char big[STORE_VALUE_BYTES];
    struct store_op ops[STORE_TXN_OPS];
    int r = 0;

    for (size_t i = 0; i < ARRAY_LEN(ops); i++)
        ops[i] = (struct store_op){ .kind = STORE_PUT,
                                    .key = "same",
                                    .value = span_of(big, sizeof(big)) };
    for (int i = 0; i < 1000 && r == 0; i++) /* 16 MiB each */
        r = store_commit(f->s, ops, ARRAY_LEN(ops), NULL, NULL, NULL, &e);
    assert_int_equal(r, -E_LIMIT);
    assert_non_null(strstr(e.msg, "too many writes wait"));
}

static void
close_commits_what_waits(void **state)
{
    struct fix *f = *state;
    struct answers a = { .l = f->l, .want = 50, .ordered = true };
    struct err e = { 0 };

    for (size_t i = 0; i < a.want; i++) {
        struct store_op op = put("c", "v");
        assert_ok(store_commit(f->s, &op, 1, f->l, on_answer, &a, &e));
    }
    store_close(f->s);
    f->s = NULL;
    assert_ok(loop_run(f->l, &e));
    assert_int_equal(a.n, 50);
    assert_ok(store_open_sqlite(f->dir, &f->s, &e));
    assert_value(f, "c", "v");
    uint64_t rev = 0;
    struct store_op op = put("c", "w");
    assert_ok(store_commit_wait(f->s, &op, 1, &rev, &e));
    assert_true(rev > a.last); /* revisions go on growing over a restart */
}

/* -- watch */

struct seen {
    struct loop *l;
    struct buf text;
    const char *until;
    struct store_watch *w;
    bool free_on_first;
};

static void
on_touch(const char *key, void *arg)
{
    struct seen *s = arg;
    struct err e = { 0 };

    assert_ok(buf_addf(&s->text, &e, "%s ", key));
    if (s->free_on_first) {
        store_watch_free(s->w);
        s->w = NULL;
    }
    if (strcmp(key, s->until) == 0)
        loop_stop(s->l);
}

static void
watch_tells_of_keys_with_the_prefix(void **state)
{
    struct fix *f = *state;
    struct seen w = { .l = f->l, .text = BUF_INIT(4096), .until = "w/end" };
    struct seen once = { .l = f->l, .text = BUF_INIT(4096), .until = "-", .free_on_first = true };
    struct err e = { 0 };
    struct store_op ops[] = { put("w/1", "v"),
                              put("x/1", "v"),
                              { .kind = STORE_DELETE, .key = "w/2" },
                              { .kind = STORE_EXPECT, .key = "w/none" } };
    struct store_op conflict[] = { put("w/3", "v"), { .kind = STORE_EXPECT, .key = "w/1" } };
    struct store_op end = put("w/end", "v");

    assert_ok(store_watch_new(f->s, "w/", f->l, on_touch, &w, &w.w, &e));
    assert_ok(store_watch_new(f->s, "w/", f->l, on_touch, &once, &once.w, &e));
    assert_ok(store_commit_wait(f->s, ops, 4, NULL, &e));
    assert_int_equal(store_commit_wait(f->s, conflict, 2, NULL, &e), -E_CONFLICT);
    assert_ok(store_commit_wait(f->s, &end, 1, NULL, &e));
    assert_ok(loop_run(f->l, &e));
    assert_string_equal(buf_text(&w.text), "w/1 w/2 w/end ");
    assert_string_equal(buf_text(&once.text),
                        "w/1 "); /* none after free, though two were under way */
    store_close(f->s);
    f->s = NULL;
    store_watch_free(w.w); /* after its store is fine */
    buf_done(&w.text);
    buf_done(&once.text);
}

/* -- many threads */

static void *
hammer(void *arg)
{
    struct fix *f = arg;
    struct buf b = BUF_INIT(4096);
    struct err e = { 0 };

    for (int i = 0; i < 200; i++) {
        struct store_op op = put("h/k", "v");
        b.n = 0;
        if (store_commit_wait(f->s, &op, 1, NULL, &e) < 0 ||
            store_get(f->s, "h/k", &b, NULL, &e) < 0)
            return f;
    }
    buf_done(&b);
    return NULL;
}

static void
any_thread_may_call(void **state)
{
    pthread_t t[4];

    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        assert_int_equal(pthread_create(&t[i], NULL, hammer, *state), 0);
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        void *bad = NULL;
        assert_int_equal(pthread_join(t[i], &bad), 0);
        assert_null(bad);
    }
}

/* -- sources */

static int
count_one(const char *key, struct span value, uint64_t revision, void *arg, struct err *e)
{
    (void)key;
    (void)value;
    (void)revision;
    (void)e;
    ++*(size_t *)arg;
    return 0;
}

static size_t
count_of(struct store *s, const char *prefix)
{
    struct err e = { 0 };
    size_t n = 0;

    assert_ok(store_list(s, prefix, NULL, SIZE_MAX, false, count_one, &n, &e));
    return n;
}

struct well {
    struct store_source *src;
    struct store *s;
    pthread_mutex_t lock;
    char keys[2 * STORE_SOURCE_OPS][32];
    size_t asked, filled, in_flight, done, fills, failed;
    uint64_t revision;
    const char *expect; /* in front of each fill: this key must not be there */
    enum err_code last;
};

static size_t
well_fill(struct store_op *ops, void *arg)
{
    struct well *w = arg;
    size_t n = 0;

    (void)pthread_mutex_lock(&w->lock);
    if (w->expect != NULL && w->filled < w->asked)
        ops[n++] = (struct store_op){ .kind = STORE_EXPECT, .key = w->expect };
    for (; w->filled < w->asked && n < STORE_SOURCE_OPS; w->filled++, w->in_flight++) {
        (void)snprintf(w->keys[w->filled], 32, "src/%04zu", w->filled);
        ops[n++] = (struct store_op){ .kind = STORE_PUT,
                                      .key = w->keys[w->filled],
                                      .value = span_str("v") };
    }
    w->fills += n > 0 ? 1 : 0;
    (void)pthread_mutex_unlock(&w->lock);
    return n;
}

static void
well_done(const struct err *e, uint64_t revision, void *arg)
{
    struct well *w = arg;

    (void)pthread_mutex_lock(&w->lock);
    *(e->code == E_NONE ? &w->done : &w->failed) += w->in_flight;
    w->in_flight = 0;
    w->revision = revision;
    w->last = e->code;
    bool more = w->filled < w->asked;
    (void)pthread_mutex_unlock(&w->lock);
    if (more)
        store_source_more(w->src);
}

static void
well_ask(struct well *w, size_t n)
{
    (void)pthread_mutex_lock(&w->lock);
    w->asked += n;
    (void)pthread_mutex_unlock(&w->lock);
    for (size_t i = 0; i < n; i++)
        store_source_more(w->src);
}

/* All that was asked has been answered: what is committed behind it is in a later group, or the
 * same one; one more group is certainly behind. */
static void
well_settle(struct well *w)
{
    struct store_op op = put("settle", "v");
    struct err e = { 0 };

    for (bool busy = true; busy;) {
        assert_ok(store_commit_wait(w->s, &op, 1, NULL, &e));
        (void)pthread_mutex_lock(&w->lock);
        busy = w->done + w->failed < w->asked;
        (void)pthread_mutex_unlock(&w->lock);
    }
}

static void
a_source_is_asked_for_all_that_came(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct well *w = calloc(1, sizeof(*w));
    struct store_op taken = put("taken", "v");

    w->s = f->s;
    (void)pthread_mutex_init(&w->lock, NULL);
    assert_ok(store_source_new(f->s, well_fill, well_done, w, &w->src, &e));
    well_ask(w, 300); /* more than one transaction of a source holds */
    well_settle(w);
    assert_int_equal(w->done, 300);
    assert_true(w->fills >= 2 && w->fills < 100); /* not one for each */
    assert_int_equal(count_of(f->s, "src/"), 300);
    uint64_t revision = w->revision;

    assert_ok(store_commit_wait(f->s, &taken, 1, NULL, &e));
    w->expect = "taken"; /* a conflict is the source's own: others' transactions go on */
    well_ask(w, 3);
    well_settle(w);
    assert_int_equal(w->failed, 3);
    assert_int_equal(w->last, E_CONFLICT);
    assert_int_equal(count_of(f->s, "src/"), 300);
    w->expect = NULL;
    well_ask(w, 1);
    well_settle(w);
    assert_int_equal(count_of(f->s, "src/"), 301);
    assert_true(w->revision > revision);

    well_ask(w, 5);
    store_source_free(w->src); /* nothing is called afterwards; all or nothing of them is there */
    size_t n = count_of(f->s, "src/");
    assert_true(n >= 301 && n <= 306);
    assert_int_equal(n, w->done);
    assert_ok(store_commit_wait(f->s, &taken, 1, NULL, &e));
    assert_int_equal(count_of(f->s, "src/"), n);
    (void)pthread_mutex_destroy(&w->lock);
    free(w);
}

/* -- reading only */

static void
readers_beside_the_writer_and_without_it(void **state)
{
    struct fix *f = *state;
    struct store *r = NULL;
    struct err e = { 0 };
    struct store_op one = put("ro/1", "v"), two = put("ro/2", "v");
    char none[80];

    assert_ok(store_commit_wait(f->s, &one, 1, NULL, &e));
    assert_ok(store_open_sqlite_readonly(f->dir, &r, &e));
    assert_int_equal(count_of(r, "ro/"), 1);
    assert_ok(store_commit_wait(f->s, &two, 1, NULL, &e));
    assert_int_equal(count_of(r, "ro/"), 2); /* what is committed meanwhile is seen */
    assert_ok(store_hold_snapshot(r, &e));
    two.key = "ro/3";
    assert_ok(store_commit_wait(f->s, &two, 1, NULL, &e));
    assert_int_equal(count_of(r, "ro/"), 2); /* until one snapshot is held */
    assert_err(store_commit(r, &one, 1, NULL, NULL, NULL, &e), E_STATE, "reading only");
    assert_err(store_hold_snapshot(f->s, &e), E_STATE, "opened for reading");
    struct store_watch *w = NULL;
    assert_err(store_watch_new(r, "ro/", f->l, NULL, NULL, &w, &e), E_STATE, "reading only");
    store_close(f->s); /* the reader is still there: nothing waits for it */
    f->s = NULL;
    assert_int_equal(count_of(r, "ro/"), 2);
    store_close(r);
    assert_ok(store_open_sqlite_readonly(f->dir, &r, &e));
    assert_int_equal(count_of(r, "ro/"), 3);
    store_close(r);
    assert_ok(store_open_sqlite(f->dir, &f->s, &e)); /* and a start after readers is as always */
    assert_int_equal(count_of(f->s, "ro/"), 3);
    (void)snprintf(none, sizeof(none), "%s/none", f->dir);
    assert_err(store_open_sqlite_readonly(none, &r, &e), E_NOTFOUND, "no such file");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(put_get_delete_and_revisions),
        T(expectations),
        T(bad_arguments),
        T(list_ranges),
        T(list_stops_with_the_error_of_each),
        T(commits_are_grouped_answered_in_order_and_conflicts_stay_alone),
        T(the_queue_has_a_bound),
        T(close_commits_what_waits),
        T(watch_tells_of_keys_with_the_prefix),
        T(a_source_is_asked_for_all_that_came),
        T(readers_beside_the_writer_and_without_it),
        T(any_thread_may_call),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
