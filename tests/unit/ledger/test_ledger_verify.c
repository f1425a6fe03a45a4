/* test_ledger_verify.c - every change of what lies on the disk is found, also after old rows went.
 */
#include "ledger_kit.h"

#include <pthread.h>

/* -- tampering -- */

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

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(verify_finds_every_change),
        T(what_is_left_is_verifiable_and_goes_on),
        T(verify_finds_every_change_of_a_compacted_ledger),
        T(rows_come_go_and_are_verified_at_one_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
