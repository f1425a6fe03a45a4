/* What ledger.h promises. */
#include "unit.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/str.h"
#include "ledger/compact.h"
#include "ledger/ledger.h"
#include "ledger/reader.h"
#include "tmpdir.h"

enum { HOUR = 3600, DAY = 86400 };

struct fix {
    char dir[64];
    struct store *s;
    struct loop *l;
    struct metrics *m;
    struct ledger *led;
    size_t answers, want;
    struct err last;
};

static void
ledger_start(struct fix *f)
{
    struct err e = { 0 };

    assert_ok(store_open_sqlite(f->dir, &f->s, &e));
    assert_ok(ledger_open(f->s, f->m, &f->led, &e));
}

static void
ledger_end(struct fix *f)
{
    ledger_close(f->led);
    store_close(f->s);
    f->led = NULL;
    f->s = NULL;
}

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));
    struct err e = { 0 };

    tmpdir_make(f->dir);
    assert_ok(loop_new(&f->l, &e));
    assert_ok(metrics_new(&f->m, &e));
    ledger_start(f);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fix *f = *state;

    ledger_end(f);
    loop_free(f->l);
    metrics_free(f->m);
    tmpdir_remove(f->dir);
    clock_shift_for_test(0);
    free(f);
    return 0;
}

static void
on_done(const struct err *e, void *arg)
{
    struct fix *f = arg;

    f->last = *e;
    if (++f->answers == f->want)
        loop_stop(f->l);
}

/* Serial `n` of identity and instance, ending in `ttl`. */
static struct ledger_row
row_of(const char *identity, const char *instance, uint8_t n, int64_t ttl)
{
    struct ledger_row r = { .serial_n = 2, .generation = 1 };

    r.serial[0] = 1;
    r.serial[1] = n;
    (void)snprintf(r.identity, sizeof(r.identity), "%s", identity);
    (void)snprintf(r.instance, sizeof(r.instance), "%s", instance);
    (void)snprintf(r.auth, sizeof(r.auth), "jwt:%u", n);
    r.root_id[0] = 'R';
    r.signer_id[0] = 'S';
    r.issued = r.not_before = unix_s();
    r.not_after = r.issued + ttl;
    return r;
}

static enum err_code
append(struct fix *f, const struct ledger_row *r)
{
    struct err e = { 0 };

    f->answers = 0;
    f->want = 1;
    if (ledger_append(f->led, r, f->l, on_done, f, &e) < 0)
        return e.code;
    assert_ok(loop_run(f->l, &e));
    return f->last.code;
}

static struct ledger_ack
ack_of(const char *identity, const char *instance, uint64_t generation, int serial)
{
    struct ledger_ack a = { .generation = generation, .roots_n = 1 };

    (void)snprintf(a.identity, sizeof(a.identity), "%s", identity);
    (void)snprintf(a.instance, sizeof(a.instance), "%s", instance);
    a.roots[0][0] = 'R';
    if (serial >= 0) {
        a.serial_n = 2;
        a.serial[0] = 1;
        a.serial[1] = (uint8_t)serial;
    }
    return a;
}

/* r: 0, LEDGER_STALE, or the negative code. */
static int
say(struct fix *f, const struct ledger_ack *a)
{
    struct err e = { 0 };

    f->answers = 0;
    f->want = 1;
    int r = ledger_acknowledge(f->led, a, f->l, on_done, f, &e);
    if (r != 0)
        return r;
    assert_ok(loop_run(f->l, &e));
    return -(int)f->last.code;
}

static void
note(const struct ledger_workload *w, void *arg)
{
    struct err e = { 0 };

    assert_ok(buf_addf(arg, &e, "%s/%s gen=%" PRIu64 " leaves=%zu roots=%zu/%c min=%" PRIu64 "\n",
                       w->identity, w->instance, w->ack_generation, w->leaves_n, w->leaf_roots_n,
                       w->leaf_roots[0][0], w->min_row_generation));
}

static void
assert_fleet(struct fix *f, const char *want)
{
    struct buf b = BUF_INIT(65536);

    ledger_workloads(f->led, note, &b);
    assert_string_equal(buf_text(&b), want);
    buf_done(&b);
}

/* -- rows */

struct listed {
    uint64_t seq[64];
    size_t n;
    struct ledger_row last;
};

static int
list_row(const struct ledger_row *row, void *arg, struct err *e)
{
    struct listed *x = arg;

    (void)e;
    x->seq[x->n++] = row->seq;
    x->last = *row;
    return 0;
}

static void
rows_come_back_as_they_were_newest_first(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct listed x = { .n = 0 };
    struct ledger_row r =
        row_of("spiffe://td/ns/a/sa/b", "00112233445566778899aabbccddeeff", 7, DAY);
    uint64_t n = 0;

    r.generation = 42;
    r.signer_id[31] = 9;
    memset(r.key_id, 0xab, r.key_id_n = 20);
    assert_int_equal(append(f, &r), E_NONE);
    assert_ok(ledger_rows(f->led, 0, 10, list_row, &x, &e));
    assert_int_equal(x.n, 1);
    r.seq = 1;
    r.version = 2;
    assert_memory_equal(&x.last, &r, sizeof(r));

    for (uint8_t i = 0; i < 5; i++) {
        struct ledger_row more = row_of("spiffe://td/ns/a/sa/c", "", i, DAY);
        assert_int_equal(append(f, &more), E_NONE);
    }
    static const struct {
        uint64_t before;
        size_t limit, n;
        uint64_t first, last;
    } rows[] = { { 0, 100, 6, 6, 1 }, { 0, 2, 2, 6, 5 }, { 5, 2, 2, 4, 3 },
                 { 2, 9, 1, 1, 1 },   { 1, 9, 0, 0, 0 }, { 0, 0, 0, 0, 0 } };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        x.n = 0;
        assert_ok(ledger_rows(f->led, rows[i].before, rows[i].limit, list_row, &x, &e));
        assert_int_equal(x.n, rows[i].n);
        if (x.n > 0)
            assert_true(x.seq[0] == rows[i].first && x.seq[x.n - 1] == rows[i].last);
    }
    assert_int_equal(ledger_count(f->led), 6);
    assert_ok(ledger_verify(f->led, &n, &e));
    assert_int_equal(n, 6);
    assert_true(metric_value(f->m, "meshroot_ledger_rows_total", "") == 6);
}

/* Rows that an earlier version wrote are neither written anew nor lost. */
static void
rows_of_the_former_layout_stay_in_the_chain(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct listed x = { .n = 0 };
    uint64_t n = 0;

    for (uint8_t i = 0; i < 4; i++) {
        struct ledger_row r = row_of("spiffe://td/ns/a/sa/c", "", i, DAY);
        r.version = i % 2 == 0 ? 1 : 0;
        memset(r.key_id, 7, r.key_id_n = LEDGER_KEY_ID_BYTES);
        assert_int_equal(append(f, &r), E_NONE);
    }
    assert_ok(ledger_verify(f->led, &n, &e));
    assert_int_equal(n, 4);
    assert_ok(ledger_rows(f->led, 0, 1, list_row, &x, &e));
    assert_true(x.last.version == 2 && x.last.key_id_n == LEDGER_KEY_ID_BYTES);
    assert_ok(ledger_rows(f->led, 2, 1, list_row, &x, &e));
    assert_true(x.last.version == 1 && x.last.key_id_n == 0);
    struct ledger_row r = row_of("i", "", 1, DAY);
    r.key_id_n = LEDGER_KEY_ID_BYTES + 1;
    assert_int_equal(append(f, &r), E_INVAL);
}

static void
a_burst_is_few_transactions_and_a_good_chain(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct store_stats before, after;
    uint64_t n = 0;

    store_get_stats(f->s, &before);
    f->want = 1000;
    for (size_t i = 0; i < 1000; i++) {
        struct ledger_row r = row_of("spiffe://td/x", "", (uint8_t)i, DAY);
        assert_ok(ledger_append(f->led, &r, f->l, on_done, f, &e));
    }
    assert_ok(loop_run(f->l, &e));
    store_get_stats(f->s, &after);
    assert_true(after.transactions - before.transactions < 100);
    assert_ok(ledger_verify(f->led, &n, &e));
    assert_int_equal(n, 1000);
    assert_fleet(f, "spiffe://td/x/ gen=0 leaves=1000 roots=1/R min=1\n");
    assert_true(metric_value(f->m, "meshroot_ledger_live_leaves", "") == 1000);
}

static void
bad_arguments(void **state)
{
    struct fix *f = *state;
    struct ledger_row r = row_of("", "", 1, DAY), no_serial = row_of("i", "", 1, DAY), long_id = r;
    struct ledger_ack a = ack_of("i", "", 1, 1), many = ack_of("i", "x", 1, 1);

    no_serial.serial_n = 0;
    memset(long_id.identity, 'x', sizeof(long_id.identity));
    many.roots_n = ROOTS_MAX + 1;
    assert_int_equal(append(f, &r), E_INVAL);
    assert_int_equal(append(f, &no_serial), E_INVAL);
    assert_int_equal(append(f, &long_id), E_INVAL);
    assert_int_equal(say(f, &a), -E_INVAL);
    assert_int_equal(say(f, &many), -E_INVAL);
    assert_int_equal(ledger_count(f->led), 0);
}

/* -- in use */

static void
a_word_retires_what_is_older_and_nothing_newer(void **state)
{
    struct fix *f = *state;

    for (uint8_t i = 1; i <= 4; i++) {
        struct ledger_row r = row_of("A", "i1", i, DAY);
        r.generation = i;
        assert_int_equal(append(f, &r), E_NONE);
    }
    assert_fleet(f, "A/i1 gen=0 leaves=4 roots=1/R min=1\n");
    struct ledger_ack a = ack_of("A", "i1", 3, 3);
    assert_int_equal(say(f, &a), 0);
    assert_fleet(f, "A/i1 gen=3 leaves=2 roots=1/R min=3\n");
    a = ack_of("A", "i1", 2, 4); /* an older word changes nothing */
    assert_int_equal(say(f, &a), LEDGER_STALE);
    a = ack_of("A", "i1", 4, -1); /* no leaf named, and one that is not in the ledger: same */
    assert_int_equal(say(f, &a), 0);
    a = ack_of("A", "i1", 4, 99);
    assert_int_equal(say(f, &a), 0);
    assert_fleet(f, "A/i1 gen=4 leaves=2 roots=1/R min=3\n");
    a = ack_of("A", "i1", 4, 2); /* it went back to an older leaf: that one is in use */
    assert_int_equal(say(f, &a), 0);
    assert_fleet(f, "A/i1 gen=4 leaves=3 roots=1/R min=2\n");
    a = ack_of("A", "i1", 4, 4);
    assert_int_equal(say(f, &a), 0);
    ledger_end(f); /* all of it is in the store */
    ledger_start(f);
    assert_fleet(f, "A/i1 gen=4 leaves=1 roots=1/R min=4\n");
}

static void
a_word_is_its_own_instance_s_only(void **state)
{
    struct fix *f = *state;
    struct ledger_row rows[] = { row_of("A", "i1", 1, DAY), row_of("A", "i2", 2, DAY),
                                 row_of("A", "", 3, DAY), row_of("A", "", 4, DAY) };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(append(f, &rows[i]), E_NONE);
    struct ledger_ack a = ack_of("B", "i1", 1, 1);
    assert_int_equal(say(f, &a), -E_DENIED);
    a = ack_of("A", "i1", 1, 2); /* another instance's leaf retires nothing */
    assert_int_equal(say(f, &a), 0);
    a.ended = true;
    assert_int_equal(say(f, &a), 0);
    struct buf b = BUF_INIT(4096);
    ledger_workloads(f->led, note, &b);
    assert_null(strstr(buf_text(&b), "i1"));
    assert_non_null(strstr(buf_text(&b), "A/i2 gen=0 leaves=1"));
    assert_non_null(strstr(buf_text(&b), "A/ gen=0 leaves=2"));
    buf_done(&b);
}

static void
ended_retires_up_to_now_and_not_what_comes_after(void **state)
{
    struct fix *f = *state;
    struct ledger_row r = row_of("A", "i1", 1, DAY);
    struct ledger_ack a = ack_of("A", "i1", 5, -1);

    assert_int_equal(append(f, &r), E_NONE);
    a.ended = true;
    assert_int_equal(say(f, &a), 0);
    assert_fleet(f, "");
    ledger_end(f); /* the next row must not get a number that the word covers */
    ledger_start(f);
    r = row_of("A", "i1", 2, DAY);
    assert_int_equal(append(f, &r), E_NONE);
    assert_fleet(f, "A/i1 gen=5 leaves=1 roots=1/R min=1\n");
}

static void
see_generations(const struct ledger_workload *w, void *arg)
{
    uint64_t *ret = arg;

    ret[0] = w->used_generation;
    ret[1] = w->ended_generation;
}

/* Of a leaf that another replica has issued: nothing here but the word says how old it is. */
static void
a_word_of_a_leaf_elsewhere_outlives_a_restart(void **state)
{
    struct fix *f = *state;
    struct ledger_ack a = ack_of("A", "i1", 7, 99);
    uint64_t seen[2] = { 0 };

    a.leaf_generation = 6;
    assert_int_equal(say(f, &a), 0);
    for (size_t i = 0; i < 2; i++) {
        ledger_end(f);
        ledger_start(f);
        ledger_workloads_said(f->led, see_generations, seen);
        assert_int_equal(seen[0], 6);
        assert_int_equal(seen[1], i == 0 ? 0 : 6);
        a.ended = true;
        assert_int_equal(say(f, &a), 0);
    }
}

static void
expiry_lets_go(void **state)
{
    struct fix *f = *state;
    struct ledger_row r = row_of("A", "", 1, HOUR), longer = row_of("A", "", 2, 3 * HOUR);

    longer.root_id[0] = 'Q';
    assert_int_equal(append(f, &r), E_NONE);
    assert_int_equal(append(f, &longer), E_NONE);
    assert_fleet(f, "A/ gen=0 leaves=2 roots=2/R min=1\n");
    clock_shift_for_test(2 * HOUR);
    assert_fleet(f, "A/ gen=0 leaves=1 roots=1/Q min=1\n");
    ledger_end(f);
    ledger_start(f);
    assert_fleet(f, "A/ gen=0 leaves=1 roots=1/Q min=1\n");
    clock_shift_for_test(4 * HOUR);
    assert_fleet(f, "");
    clock_shift_for_test(10 * DAY); /* nothing within the horizon: still opens, still counts */
    ledger_end(f);
    ledger_start(f);
    assert_fleet(f, "");
    assert_int_equal(ledger_count(f->led), 2);
}

/* -- a store that fails */

static void
limit_files(rlim_t bytes, struct rlimit *old)
{
    struct rlimit tight = { bytes, 0 };

    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, old), 0);
    tight.rlim_max = old->rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
}

static void
rows_behind_a_failed_one_fail_and_the_chain_goes_on(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct rlimit old;
    uint64_t n = 0;
    struct ledger_row r = row_of("A", "i1", 1, DAY);

    assert_int_equal(append(f, &r), E_NONE);
    f->answers = 0;
    f->want = 200;
    limit_files(1, &old);
    for (size_t i = 0; i < f->want; i++) {
        r = row_of("A", "i1", (uint8_t)i, DAY);
        assert_ok(ledger_append(f->led, &r, f->l, on_done, f, &e));
    }
    struct ledger_ack a = ack_of("A", "i1", 9, 1);
    f->want++;
    assert_ok(ledger_acknowledge(f->led, &a, f->l, on_done, f, &e));
    assert_ok(loop_run(f->l, &e));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(f->last.code, E_SYS);
    assert_fleet(f, "A/i1 gen=0 leaves=1 roots=1/R min=1\n"); /* neither rows nor word happened */
    a = ack_of("A", "i1", 8, 1); /* so an older one than the failed is no stale one */
    assert_int_equal(say(f, &a), 0);

    r = row_of("A", "i1", 50, DAY);
    assert_int_equal(append(f, &r), E_NONE);
    assert_int_equal(ledger_count(f->led), 2);
    assert_ok(ledger_verify(f->led, &n, &e));
    assert_int_equal(n, 2);
    ledger_end(f);
    ledger_start(f);
    assert_fleet(f, "A/i1 gen=8 leaves=2 roots=1/R min=1\n");
}

static void
another_writer_is_noticed_and_its_rows_are_taken_over(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct ledger *other = NULL;
    struct ledger_row r = row_of("A", "", 1, DAY);
    uint64_t n = 0;

    assert_int_equal(append(f, &r), E_NONE);
    assert_ok(ledger_open(f->s, NULL, &other, &e));
    r = row_of("B", "", 2, DAY);
    f->answers = 0;
    f->want = 1;
    assert_ok(ledger_append(other, &r, f->l, on_done, f, &e));
    assert_ok(loop_run(f->l, &e));
    assert_int_equal(f->last.code, E_NONE);
    ledger_close(other);

    r = row_of("C", "", 3, DAY);
    assert_int_equal(append(f, &r), E_CONFLICT);
    assert_int_equal(append(f, &r), E_NONE);
    assert_ok(ledger_verify(f->led, &n, &e));
    assert_int_equal(n, 3);
    struct buf b = BUF_INIT(4096);
    ledger_workloads(f->led, note, &b);
    assert_non_null(strstr(buf_text(&b), "B/ gen=0 leaves=1"));
    assert_non_null(strstr(buf_text(&b), "C/ gen=0 leaves=1"));
    buf_done(&b);
}

static void
child_appends(const char *dir, int out)
{
    struct fix f = { .want = 1 };
    struct err e = { 0 };

    if (loop_new(&f.l, &e) < 0 || store_open_sqlite(dir, &f.s, &e) < 0 ||
        ledger_open(f.s, NULL, &f.led, &e) < 0)
        _exit(1);
    for (uint32_t i = 1;; i++) {
        struct ledger_row r = row_of("K", "", (uint8_t)i, DAY);

        if (append(&f, &r) != E_NONE || write(out, &i, sizeof(i)) != sizeof(i))
            _exit(1);
    }
}

static void
no_answered_row_is_lost_to_kill_9(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    uint32_t answered = 0;
    uint64_t n = 0;
    int fds[2];

    ledger_end(f);
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0)
        child_appends(f->dir, fds[1]);
    (void)close(fds[1]);
    while (answered < 25 && read(fds[0], &answered, sizeof(answered)) == sizeof(answered))
        continue;
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    while (read(fds[0], &answered, sizeof(answered)) == sizeof(answered))
        continue;
    (void)close(fds[0]);
    ledger_start(f);
    assert_ok(ledger_verify(f->led, &n, &e));
    assert_true(n >= answered && answered >= 25);
}

/* -- tampering */

static void
put_raw(struct fix *f, const char *key, struct span value, bool del)
{
    struct err e = { 0 };
    struct store_op op = { .kind = del ? STORE_DELETE : STORE_PUT, .key = key, .value = value };

    assert_ok(store_commit_wait(f->s, &op, 1, NULL, &e));
}

static void
verify_finds_every_change(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    static const struct {
        const char *what, *from, *to; /* to NULL: removed; from NULL: one byte of `to` changed */
        const char *says;
        bool open_too; /* a start notices as well */
    } rows[] = {
        { "removed", "ledger/row/0000000000000003", NULL, "row 4: it does not follow row 2", true },
        { "edited", NULL, "ledger/row/0000000000000003", "row 3: its content", true },
        { "last removed", "ledger/row/0000000000000005", NULL, "row 5 is the newest", true },
        { "first removed", "ledger/row/0000000000000001", NULL, "row 2: it does not follow row 0",
          false },
        { "moved", "ledger/row/0000000000000004", "ledger/row/0000000000000003",
          "the record of row 4", true },
        { "head removed", "ledger/head", NULL, "no head", true },
        { "head edited", NULL, "ledger/head", "the head says 5 and", false },
    };
    for (uint8_t i = 1; i <= 5; i++) {
        struct ledger_row r = row_of("A", "", i, DAY);
        assert_int_equal(append(f, &r), E_NONE);
    }
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf was = BUF_INIT(4096), now = BUF_INIT(4096);
        const char *key = rows[i].to != NULL ? rows[i].to : rows[i].from;
        struct ledger *again = NULL;
        uint64_t n = 0;

        assert_ok(store_get(f->s, key, &was, NULL, &e));
        assert_ok(store_get(f->s, rows[i].from != NULL ? rows[i].from : key, &now, NULL, &e));
        if (rows[i].from == NULL)
            now.p[now.n - 38] ^= 1;
        put_raw(f, key, buf_span(&now), rows[i].to == NULL);
        int vr = ledger_verify(f->led, &n, &e);
        if (vr != -E_DENIED || strstr(e.msg, rows[i].says) == NULL)
            fail_msg("%s: %d %s", rows[i].what, vr, e.msg);
        if (rows[i].open_too) {
            int r = ledger_open(f->s, NULL, &again, &e);
            if (r != -E_PARSE)
                fail_msg("%s: start did not notice", rows[i].what);
        }
        put_raw(f, key, buf_span(&was), false);
        assert_ok(ledger_verify(f->led, &n, &e));
        assert_int_equal(n, 5);
        buf_done(&was);
        buf_done(&now);
    }
}

/* -- retention -- */

enum { KEPT_FROM = 130 };

/* 200 rows: all but some at the end are long expired. */
static void
rows_to_compact(struct fix *f)
{
    for (size_t i = 1; i <= 200; i++) {
        struct ledger_row r = row_of("A", "", (uint8_t)i, DAY);
        if (i < KEPT_FROM)
            r.not_after = r.issued - 100 + (int64_t)(i % 7);
        assert_int_equal(append(f, &r), E_NONE);
    }
}

static size_t
compact_all(struct fix *f, int64_t before)
{
    struct err e = { 0 };
    size_t all = 0, n;

    do {
        assert_ok(compact_step(f->s, before, &n, &e));
        assert_true(n <= COMPACT_ROWS);
        all += n;
    } while (n == COMPACT_ROWS);
    return all;
}

static void
what_is_left_is_verifiable_and_goes_on(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct ledger_mark before, kept, removed, m;
    uint64_t n = 0;

    rows_to_compact(f);
    assert_ok(ledger_check(f->s, NULL, &before, &removed, &e));
    assert_int_equal(removed.rows, 0);
    assert_int_equal(compact_all(f, unix_s() - 200), 0); /* none ended so long ago */
    assert_int_equal(compact_all(f, unix_s() - 50), KEPT_FROM - 1);
    assert_ok(ledger_check(f->s, &before, &kept, &removed, &e));
    assert_true(kept.seq == 200 && kept.rows == 200);
    assert_true(removed.seq == KEPT_FROM - 1 && removed.rows == KEPT_FROM - 1);
    assert_ok(ledger_check(f->s, &removed, &m, &removed, &e)); /* the last that is gone is proved */
    struct ledger_mark old = { .seq = 7 }, bent = removed;
    assert_err(ledger_check(f->s, &old, &m, &removed, &e), E_NOTFOUND, "row 7 was removed by");
    bent.hash[3] ^= 1;
    assert_err(ledger_check(f->s, &bent, &m, &removed, &e), E_DENIED, "row 129, the last that");

    ledger_close(f->led);
    assert_ok(ledger_open(f->s, f->m, &f->led, &e)); /* a start finds its way too */
    struct ledger_row r = row_of("A", "", 9, DAY);
    assert_int_equal(append(f, &r), E_NONE);
    assert_ok(ledger_verify(f->led, &n, &e));
    assert_int_equal(n, 201);
    assert_int_equal(compact_all(f, unix_s() + 10 * DAY), 201 - KEPT_FROM);
    assert_ok(ledger_verify(f->led, &n, &e)); /* the newest row stays */
    assert_int_equal(n, 201);
    ledger_close(f->led);
    assert_ok(ledger_open(f->s, f->m, &f->led, &e));
}

/* A flipped byte of what is left, or of the floor, is named; a broken chain is not cut. */
static void
verify_finds_every_change_of_a_compacted_ledger(void **state)
{
    static const struct {
        const char *what, *key, *says;
        size_t from_end; /* 0: removed */
    } rows[] = {
        { "the floor's hash", "ledger/floor", "row 130: it does not follow row 129, the last", 1 },
        { "the floor's count", "ledger/floor", "201 rows", 41 },
        { "the floor removed", "ledger/floor", "row 130: it does not follow row 0", 0 },
        { "the first row", "ledger/row/0000000000000082", "row 130: its content", 60 },
        { "the first row removed", "ledger/row/0000000000000082", "row 131: it does not follow",
          0 },
        { "a later row", "ledger/row/00000000000000c0", "row 192: its content", 60 },
    };
    struct fix *f = *state;
    struct err e = { 0 };

    rows_to_compact(f);
    assert_int_equal(compact_all(f, unix_s() - 50), KEPT_FROM - 1);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(buf_done) struct buf was = BUF_INIT(4096), now = BUF_INIT(4096);
        uint64_t n = 0;
        size_t gone = 0;

        assert_ok(store_get(f->s, rows[i].key, &was, NULL, &e));
        assert_ok(buf_add(&now, buf_span(&was), &e));
        if (rows[i].from_end > 0)
            now.p[now.n - rows[i].from_end] ^= rows[i].from_end == 41 ? 0x40 : 1;
        put_raw(f, rows[i].key, buf_span(&now), rows[i].from_end == 0);
        int r = ledger_verify(f->led, &n, &e);
        if (r != -E_DENIED || (i != 1 && strstr(e.msg, rows[i].says) == NULL))
            fail_msg("%s: %d %s", rows[i].what, r, e.msg);
        if (i != 1 && i != 5) { /* not seen from the start of what is left */
            r = compact_step(f->s, unix_s() + 10 * DAY, &gone, &e);
            if (r != -E_DENIED)
                fail_msg("%s: compaction went on: %d", rows[i].what, r);
        }
        put_raw(f, rows[i].key, buf_span(&was), false);
        assert_ok(ledger_verify(f->led, &n, &e));
        assert_int_equal(n, 200);
    }
}

static void *
verify_again_and_again(void *arg)
{
    struct fix *f = arg;
    struct err e = { 0 };
    struct ledger_mark m, removed;

    for (int i = 0; i < 40; i++)
        assert_ok(ledger_check(f->s, NULL, &m, &removed, &e));
    return NULL;
}

static void
rows_come_go_and_are_verified_at_one_time(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    pthread_t t;
    uint64_t n = 0;

    rows_to_compact(f);
    assert_ok(ledger_keep_for(f->led, 1000, &e));
    assert_int_equal(pthread_create(&t, NULL, verify_again_and_again, f), 0);
    for (size_t i = 0; i < 300; i++) {
        struct ledger_row r = row_of("A", "", (uint8_t)i, DAY);
        r.not_after = r.issued - 10;
        assert_int_equal(append(f, &r), E_NONE);
    }
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_ok(ledger_verify(f->led, &n, &e));
    assert_int_equal(n, 500);
}

/* -- against a naive model */

enum { N_IDENTITIES = 3, N_INSTANCES = 3, N_ROWS = 600, STEPS = 500, TICK = 70, KEPT = 3600 };

struct naive_row {
    uint8_t who, inst, serial;
    uint64_t generation;
    int64_t issued, ends; /* shift in seconds after which it is expired */
};

struct naive_word {
    uint64_t generation;
    size_t used; /* rows of this index and up are in use */
    int64_t said, touched;
};

struct naive {
    struct naive_row rows[N_ROWS];
    size_t n;
    struct naive_word words[N_IDENTITIES][N_INSTANCES];
    int64_t shift;
    uint64_t generation;
};

static void
naive_names(uint8_t who, uint8_t inst, char identity[16], char instance[16])
{
    (void)snprintf(identity, 16, "id%u", who);
    instance[0] = '\0';
    if (inst > 0)
        (void)snprintf(instance, 16, "i%u-%u", who, inst);
}

static void
naive_forget(struct naive *m)
{
    for (uint8_t who = 0; who < N_IDENTITIES; who++)
        for (uint8_t inst = 0; inst < N_INSTANCES; inst++) {
            struct naive_word *w = &m->words[who][inst];
            bool alive = m->shift - w->touched < KEPT;

            for (size_t i = 0; i < m->n && !alive; i++)
                alive =
                    m->rows[i].who == who && m->rows[i].inst == inst && m->rows[i].ends > m->shift;
            if (!alive)
                *w = (struct naive_word){ .touched = w->touched };
        }
}

/* After a start only what is in words and live rows is known. */
static void
naive_restart(struct naive *m)
{
    for (size_t k = 0; k < N_IDENTITIES * N_INSTANCES; k++) {
        struct naive_word *w = &m->words[k / N_INSTANCES][k % N_INSTANCES];

        w->touched = w->said;
        for (size_t i = 0; i < m->n; i++)
            if (m->rows[i].who == k / N_INSTANCES && m->rows[i].inst == k % N_INSTANCES &&
                m->rows[i].ends > m->shift && m->rows[i].issued > w->touched)
                w->touched = m->rows[i].issued;
    }
}

struct compare {
    const struct naive *m;
    size_t total;
    char bad[128]; /* an assertion may not leave the callback: the ledger's lock is held */
};

static void
compare_one(const struct ledger_workload *w, void *arg)
{
    struct compare *c = arg;
    const struct naive *m = c->m;
    char identity[16], instance[16];
    size_t n = 0;
    uint64_t min = UINT64_MAX, want = 0;

    for (uint8_t who = 0; who < N_IDENTITIES; who++)
        for (uint8_t inst = 0; inst < N_INSTANCES; inst++) {
            naive_names(who, inst, identity, instance);
            if (strcmp(identity, w->identity) != 0 || strcmp(instance, w->instance) != 0)
                continue;
            for (size_t i = 0; i < m->n; i++)
                if (m->rows[i].who == who && m->rows[i].inst == inst &&
                    m->rows[i].ends > m->shift && i >= m->words[who][inst].used) {
                    n++;
                    min = m->rows[i].generation < min ? m->rows[i].generation : min;
                }
            want = m->words[who][inst].generation;
        }
    if (w->leaves_n != n || w->min_row_generation != min || w->ack_generation != want)
        (void)snprintf(c->bad, sizeof(c->bad),
                       "%s/%s: %zu leaves, model %zu; generation %" PRIu64 ", model %" PRIu64,
                       w->identity, w->instance, w->leaves_n, n, w->ack_generation, want);
    c->total += n;
}

static void
compare_all(struct fix *f, struct naive *m)
{
    struct compare c = { .m = m };
    size_t total = 0;

    naive_forget(m);
    ledger_workloads(f->led, compare_one, &c);
    for (size_t i = 0; i < m->n; i++)
        total += m->rows[i].ends > m->shift && i >= m->words[m->rows[i].who][m->rows[i].inst].used
                     ? 1
                     : 0;
    assert_string_equal(c.bad, "");
    assert_int_equal(c.total, total);
}

static void
step_append(struct fix *f, struct naive *m, uint8_t who, uint8_t inst)
{
    char identity[16], instance[16];
    int64_t ttl = TICK / 2 + TICK * (int64_t)random_below(60);

    naive_names(who, inst, identity, instance);
    struct ledger_row r = row_of(identity, instance, (uint8_t)m->n, ttl);
    r.serial[0] = (uint8_t)(1 + m->n / 256);
    r.generation = m->generation;
    assert_int_equal(append(f, &r), E_NONE);
    m->rows[m->n] =
        (struct naive_row){ who, inst, (uint8_t)m->n, m->generation, m->shift, m->shift + ttl };
    m->n++;
    m->words[who][inst].touched = m->shift;
}

static void
step_word(struct fix *f, struct naive *m, uint8_t who, uint8_t inst)
{
    char identity[16], instance[16];
    struct naive_word *w = &m->words[who][inst];
    uint64_t generation = m->generation - random_below(m->generation < 3 ? m->generation : 3);
    size_t pick = m->n == 0 ? 0 : (size_t)random_below(m->n);

    naive_names(who, inst, identity, instance);
    struct ledger_ack a = ack_of(identity, instance, generation, (int)(uint8_t)pick);
    a.serial[0] = (uint8_t)(1 + pick / 256);
    a.ended = random_below(8) == 0;
    int r = say(f, &a);
    if (generation < w->generation) {
        assert_int_equal(r, LEDGER_STALE);
        return;
    }
    assert_int_equal(r, 0);
    w->generation = generation;
    w->said = w->touched = m->shift;
    if (pick < m->n && m->rows[pick].who == who && m->rows[pick].inst == inst &&
        m->rows[pick].ends > m->shift)
        w->used = pick;
    if (a.ended)
        w->used = m->n;
}

static void
agrees_with_a_naive_model(void **state)
{
    struct fix *f = *state;
    struct naive *m = calloc(1, sizeof(*m));
    struct err e = { 0 };
    uint64_t n = 0;

    m->generation = 1;
    for (int step = 0; step < STEPS; step++) {
        uint8_t who = (uint8_t)random_below(N_IDENTITIES),
                inst = (uint8_t)random_below(N_INSTANCES);
        uint64_t dice = random_below(100);

        if (dice < 45)
            step_append(f, m, who, inst);
        else if (dice < 75)
            step_word(f, m, who, inst == 0 ? 1 : inst);
        else if (dice < 90)
            clock_shift_for_test(m->shift +=
                                 TICK * (int64_t)(1 + random_below(random_below(4) == 0 ? 60 : 4)));
        else if (dice < 97)
            m->generation++;
        else {
            ledger_end(f);
            ledger_start(f);
            naive_restart(m);
        }
        compare_all(f, m);
    }
    assert_ok(ledger_verify(f->led, &n, &e));
    assert_int_equal(n, m->n);
    free(m);
}

/* -- threads */

static void *
worker(void *arg)
{
    struct fix *f = arg;
    struct err e = { 0 };

    for (int i = 0; i < 300; i++) {
        struct ledger_row r = row_of("T", "", (uint8_t)i, DAY);
        if (ledger_append(f->led, &r, NULL, NULL, NULL, &e) < 0)
            return f;
    }
    return NULL;
}

static void
any_thread_may_append(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    pthread_t t[4];
    uint64_t n = 0;

    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        assert_int_equal(pthread_create(&t[i], NULL, worker, f), 0);
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        void *bad = NULL;
        assert_int_equal(pthread_join(t[i], &bad), 0);
        assert_null(bad);
    }
    ledger_end(f);
    ledger_start(f);
    assert_ok(ledger_verify(f->led, &n, &e));
    assert_int_equal(n, 1200);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(rows_come_back_as_they_were_newest_first),
        T(rows_of_the_former_layout_stay_in_the_chain),
        T(a_burst_is_few_transactions_and_a_good_chain),
        T(bad_arguments),
        T(a_word_retires_what_is_older_and_nothing_newer),
        T(a_word_is_its_own_instance_s_only),
        T(a_word_of_a_leaf_elsewhere_outlives_a_restart),
        T(ended_retires_up_to_now_and_not_what_comes_after),
        T(expiry_lets_go),
        T(rows_behind_a_failed_one_fail_and_the_chain_goes_on),
        T(another_writer_is_noticed_and_its_rows_are_taken_over),
        T(no_answered_row_is_lost_to_kill_9),
        T(verify_finds_every_change),
        T(what_is_left_is_verifiable_and_goes_on),
        T(verify_finds_every_change_of_a_compacted_ledger),
        T(rows_come_go_and_are_verified_at_one_time),
        T(agrees_with_a_naive_model),
        T(any_thread_may_append),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
