/* What ledger.h promises. */
#include "ledger_kit.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

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

static void
a_ledger_is_known_by_its_id(void **state)
{
    struct fix *f = *state;
    uint8_t id[LEDGER_ID_BYTES];
    struct err e = { 0 };

    memcpy(id, ledger_id(f->led), sizeof(id));
    ledger_end(f);
    ledger_start(f);
    assert_memory_equal(ledger_id(f->led), id, sizeof(id));
    ledger_close(STEAL(f->led));
    const struct store_op gone = { .kind = STORE_DELETE, .key = "ledger/ident" };
    assert_ok(store_commit_wait(f->s, &gone, 1, NULL, &e));
    assert_ok(ledger_open(f->s, f->m, &f->led, &e));
    assert_memory_not_equal(ledger_id(f->led), id, sizeof(id));
    ledger_close(STEAL(f->led));
    const struct store_op bad = { .kind = STORE_PUT,
                                  .key = "ledger/ident",
                                  .value = span_str("short") };
    assert_ok(store_commit_wait(f->s, &bad, 1, NULL, &e));
    struct ledger *none = NULL;
    assert_err(ledger_open(f->s, f->m, &none, &e), E_PARSE, "ledger/ident");
    assert_ok(store_commit_wait(f->s, &gone, 1, NULL, &e));
    assert_ok(ledger_open(f->s, f->m, &f->led, &e));
}

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
        T(any_thread_may_append),
        T(a_ledger_is_known_by_its_id),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
