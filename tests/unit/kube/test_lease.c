/* test_lease.c - who leads when, on clocks that we turn; a whole election in a model. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kube/lease.h"
#include "net/json.h"

static struct err e;

static struct kube_lease_record
record(const char *holder, const char *renewed)
{
    struct kube_lease_record r = { .duration_ms = 15000 };

    (void)snprintf(r.holder, sizeof(r.holder), "%s", holder);
    (void)snprintf(r.renewed, sizeof(r.renewed), "%s", renewed);
    return r;
}

/* -- rules --------------------------------------------------------------------------------------
 */

static void
free_when_unchanged_for_its_time(void **state)
{
    /* what the peer's clock says is of no matter: years ago, years ahead */
    static const char *const stamps[] = { "1999-01-01T00:00:00.000000Z",
                                          "2999-01-01T00:00:00.000000Z", "" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(stamps); i++) {
        struct kube_lease_view v = { .who = "me", .renew_ms = 10000 };
        struct kube_lease_record r = record("other", stamps[i]);

        assert_int_equal(kube_lease_judge(&v, &r, 100000), KUBE_LEASE_WAIT);
        assert_int_equal(kube_lease_judge(&v, &r, 114999), KUBE_LEASE_WAIT);
        assert_int_equal(kube_lease_judge(&v, &r, 115000), KUBE_LEASE_TAKE);
        r.transitions++; /* alive after all: from now on */
        assert_int_equal(kube_lease_judge(&v, &r, 120000), KUBE_LEASE_WAIT);
        assert_int_equal(kube_lease_judge(&v, &r, 134999), KUBE_LEASE_WAIT);
        r.holder[0] = '\0'; /* released */
        assert_int_equal(kube_lease_judge(&v, &r, 135000), KUBE_LEASE_TAKE);
    }
}

static void
our_own_name_from_another_life_is_waited_for(void **state)
{
    struct kube_lease_view v = { .who = "me", .renew_ms = 10000 };
    struct kube_lease_record r = record("me", "x");

    (void)state;
    assert_int_equal(kube_lease_judge(&v, &r, 5), KUBE_LEASE_WAIT);
    assert_int_equal(kube_lease_judge(&v, &r, 15005), KUBE_LEASE_TAKE);
}

static void
held_from_the_sending_until_the_deadline(void **state)
{
    struct kube_lease_view v = { .who = "me", .renew_ms = 10000 };
    struct kube_lease_record r = record("me", "1");

    (void)state;
    assert_int_equal(kube_lease_judge(&v, NULL, 1000), KUBE_LEASE_CREATE);
    assert_false(kube_lease_holds(&v, 1000));
    kube_lease_confirm(&v, &r, 1000);
    assert_true(kube_lease_holds(&v, 10999));
    assert_false(kube_lease_holds(&v, 11000));
    /* a renewal whose answer was lost is ours; it does not hold longer for that */
    r = record("me", "2");
    assert_int_equal(kube_lease_judge(&v, &r, 9000), KUBE_LEASE_TAKE);
    assert_false(kube_lease_holds(&v, 11000));
    /* another's ends it at once */
    r = record("other", "3");
    assert_int_equal(kube_lease_judge(&v, &r, 9500), KUBE_LEASE_WAIT);
    assert_false(kube_lease_holds(&v, 9500));
}

static void
a_deleted_record_frees_nothing_early(void **state)
{
    struct kube_lease_view v = { .who = "me", .renew_ms = 10000 };
    struct kube_lease_record r = record("other", "1");

    (void)state;
    assert_int_equal(kube_lease_judge(&v, &r, 0), KUBE_LEASE_WAIT);
    assert_int_equal(kube_lease_judge(&v, NULL, 14999), KUBE_LEASE_WAIT);
    assert_int_equal(kube_lease_judge(&v, NULL, 15000), KUBE_LEASE_CREATE);
}

/* An etcd that was restored has a record of before: whoever leads now and is not in it ends at
 * once, and whoever was waits as if it were anybody's. */
static void
a_record_of_before_gives_nobody_the_lease(void **state)
{
    struct kube_lease_view now = { .who = "now", .renew_ms = 10000 };
    struct kube_lease_view then = { .who = "then", .renew_ms = 10000 };
    struct kube_lease_record mine = record("now", "2"), old = record("then", "1");

    (void)state;
    kube_lease_confirm(&then, &old, 1000);
    assert_int_equal(kube_lease_judge(&then, &mine, 30000), KUBE_LEASE_WAIT);
    kube_lease_confirm(&now, &mine, 30000);
    assert_int_equal(kube_lease_judge(&now, &old, 32000), KUBE_LEASE_WAIT);
    assert_int_equal(kube_lease_judge(&then, &old, 32000), KUBE_LEASE_WAIT);
    assert_false(kube_lease_holds(&now, 32000));
    assert_false(kube_lease_holds(&then, 32000));
    assert_int_equal(kube_lease_judge(&then, &old, 46999), KUBE_LEASE_WAIT);
    assert_int_equal(kube_lease_judge(&then, &old, 47000), KUBE_LEASE_TAKE);
}

static void
records_that_are_none(void **state)
{
    static const struct {
        const char *text, *words; /* words NULL: taken */
    } rows[] = {
        { "{}", NULL },
        { "{\"spec\":null}", NULL },
        { "{\"spec\":{\"holderIdentity\":null,\"leaseDurationSeconds\":null}}", NULL },
        { "{\"spec\":[]}", "spec" },
        { "{\"spec\":{\"holderIdentity\":3}}", "holderIdentity" },
        { "{\"spec\":{\"leaseDurationSeconds\":\"15\"}}", "leaseDurationSeconds" },
        { "{\"spec\":{\"leaseTransitions\":1.5}}", "leaseTransitions" },
        { "{\"spec\":{\"renewTime\":\"2026-01-01T00:00:00.000000000000000000Z\"}}", "renewTime" },
    };
    struct kube_lease_record r;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(json_wipe_freep) json_t *o = NULL;

        assert_ok(json_object_parse(span_str(rows[i].text), KUBE_MAX_DEPTH, &o, &e));
        if (rows[i].words == NULL) {
            assert_ok(kube_lease_read(o, &r, &e));
            assert_string_equal(r.holder, "");
            assert_int_equal(r.duration_ms, 1000);
        } else
            assert_err(kube_lease_read(o, &r, &e), E_PARSE, rows[i].words);
    }
    static const struct {
        int64_t seconds;
        uint64_t ms;
    } durations[] = { { -5, 1000 }, { 0, 1000 }, { 15, 15000 }, { INT64_MAX, 3600000 } };
    for (size_t i = 0; i < ARRAY_LEN(durations); i++) {
        CLEANUP(json_wipe_freep)
        json_t *o = json_pack("{s:{s:I, s:I}}", "spec", "leaseDurationSeconds",
                              (json_int_t)durations[i].seconds, "leaseTransitions",
                              (json_int_t)durations[i].seconds);

        assert_ok(kube_lease_read(o, &r, &e));
        assert_int_equal(r.duration_ms, durations[i].ms);
        assert_true(r.transitions >= 0);
    }
    char holder[KUBE_LEASE_HOLDER_BYTES + 1];
    memset(holder, 'a', sizeof(holder) - 1);
    holder[sizeof(holder) - 1] = '\0';
    CLEANUP(json_wipe_freep)
    json_t *o = json_pack("{s:{s:s}}", "spec", "holderIdentity", holder);
    assert_err(kube_lease_read(o, &r, &e), E_PARSE, "holderIdentity");
}

/* -- an election in a model ---------------------------------------------------------------------
 * Candidates on clocks that are apart, requests that the server does late or never, answers that
 * are late or lost, processes that stop for a while and go on. At no moment do two lead. */

enum { CANDIDATES = 4, STEP_MS = 100, STEPS = 40000 };

struct request {
    bool is_under_way, is_write, is_done, is_refused;
    uint64_t done_at, answer_at; /* answer_at 0: lost, noticed after 5 s */
    int64_t version;             /* written over; 0: create */
    struct kube_lease_record r;
    bool is_there;
};

struct candidate {
    struct kube_lease_view view;
    uint64_t skew, next_at, frozen_until, sent_ms;
    int64_t version; /* read */
    struct request q;
    char name[16];
};

static struct {
    struct kube_lease_record r;
    bool is_there;
    int64_t version;
} server;

static unsigned seed;

static uint64_t
below(uint64_t n)
{
    seed = seed * 1103515245u + 12345u;
    return (seed >> 8) % n;
}

static void
send_request(struct candidate *c, bool is_write, uint64_t now)
{
    bool is_slow = below(10) == 0;

    c->q = (struct request){ .is_under_way = true, .is_write = is_write, .version = c->version };
    c->q.done_at = now + below(is_slow ? 8000 : 300);
    c->q.answer_at = below(8) == 0 ? 0 : c->q.done_at + below(is_slow ? 4000 : 300);
    if (!is_write)
        return;
    c->q.r = record(c->name, "");
    c->q.r.transitions = (int64_t)below(1 << 30); /* a mark of its own */
    c->sent_ms = now + c->skew;
}

/* The server's part. */
static void
request_do(struct candidate *c)
{
    c->q.is_done = true;
    if (c->q.is_write) {
        c->q.is_refused = server.is_there ? c->q.version != server.version : c->q.version != 0;
        if (c->q.is_refused)
            return;
        server.r = c->q.r;
        server.is_there = true;
        server.version++;
    } else {
        c->q.r = server.r;
        c->q.is_there = server.is_there;
    }
    c->q.version = server.is_there ? server.version : 0;
}

static void
answer_take(struct candidate *c, uint64_t now, bool is_lost)
{
    c->q.is_under_way = false;
    c->next_at = now + 200 + below(2000);
    if (is_lost)
        return;
    if (c->q.is_write && c->q.is_refused) {
        send_request(c, false, now);
        return;
    }
    c->version = c->q.version;
    if (c->q.is_write) {
        kube_lease_confirm(&c->view, &c->q.r, c->sent_ms);
        return;
    }
    enum kube_lease_move move =
        kube_lease_judge(&c->view, c->q.is_there ? &c->q.r : NULL, now + c->skew);
    if (move != KUBE_LEASE_WAIT)
        send_request(c, true, now);
}

static void
candidate_step(struct candidate *c, uint64_t now)
{
    struct request *q = &c->q;

    if (q->is_under_way && !q->is_done && now >= q->done_at)
        request_do(c); /* whether anyone waits for it or not */
    if (now < c->frozen_until)
        return;
    if (below(400) == 0)
        c->frozen_until = now + below(40000);
    if (q->is_under_way && q->is_done &&
        now >= (q->answer_at == 0 ? q->done_at + 5000 : q->answer_at))
        answer_take(c, now, q->answer_at == 0);
    else if (!q->is_under_way && now >= c->next_at)
        send_request(c, c->view.is_mine && kube_lease_holds(&c->view, now + c->skew), now);
    if (c->view.is_mine && !kube_lease_holds(&c->view, now + c->skew))
        c->view.is_mine = false; /* lease.c's timer */
}

static void
never_two_leaders(void **state)
{
    size_t led = 0, changes = 0;
    int last = -1;

    (void)state;
    for (seed = 1; seed < 10; seed++) {
        static struct candidate all[CANDIDATES];
        unsigned began = seed;

        memset(all, 0, sizeof(all));
        memset(&server, 0, sizeof(server));
        for (size_t i = 0; i < CANDIDATES; i++) {
            (void)snprintf(all[i].name, sizeof(all[i].name), "c%zu", i);
            all[i].view = (struct kube_lease_view){ .who = all[i].name, .renew_ms = 10000 };
            all[i].skew = 300000 * i; /* five minutes apart */
        }
        for (uint64_t now = 1; now < (uint64_t)STEPS * STEP_MS; now += STEP_MS) {
            int leaders = 0;

            for (size_t i = 0; i < CANDIDATES; i++) {
                candidate_step(&all[i], now);
                if (kube_lease_holds(&all[i].view, now + all[i].skew)) {
                    leaders++;
                    changes += last != (int)i;
                    last = (int)i;
                }
            }
            assert_true(leaders <= 1);
            led += (size_t)leaders;
        }
        seed = began;
    }
    assert_true(led > 3 * STEPS); /* there is a leader most of the time, */
    assert_true(changes > 20);    /* and not always the same */
}

/* -- settings -----------------------------------------------------------------------------------
 */

static void
timings_that_cannot_be(void **state)
{
    static const uint64_t rows[][3] = {
        { 15000, 15000, 2000 }, { 15000, 10000, 10000 }, { 1500, 1000, 200 }, { 3601000, 10, 1 }
    };
    static char server_url[] = "https://127.0.0.1:1";
    struct kube_conf conf = { .server = server_url };
    struct kube_client *c = NULL;
    struct kube_lease *l = NULL;
    struct loop *loop = NULL;

    (void)state;
    assert_ok(loop_new(&loop, &e));
    assert_ok(kube_client_new(loop, &conf, NULL, &c, &e));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct kube_lease_conf lc = { .ns = "a",
                                      .name = "b",
                                      .who = "w",
                                      .duration_ms = rows[i][0],
                                      .renew_ms = rows[i][1],
                                      .retry_ms = rows[i][2] };

        assert_err(kube_lease_new(loop, c, &lc, &l, &e), E_INVAL, "want retry < renew");
    }
    struct kube_lease_conf nobody = { .ns = "a", .name = "b", .who = "" };
    assert_err(kube_lease_new(loop, c, &nobody, &l, &e), E_INVAL, "name");
    struct kube_lease_conf place = { .ns = "A", .name = "b", .who = "w" };
    assert_err(kube_lease_new(loop, c, &place, &l, &e), E_INVAL, "namespace");
    kube_client_free(c);
    loop_free(loop);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(free_when_unchanged_for_its_time),
        cmocka_unit_test(our_own_name_from_another_life_is_waited_for),
        cmocka_unit_test(held_from_the_sending_until_the_deadline),
        cmocka_unit_test(a_deleted_record_frees_nothing_early),
        cmocka_unit_test(a_record_of_before_gives_nobody_the_lease),
        cmocka_unit_test(records_that_are_none),
        cmocka_unit_test(never_two_leaders),
        cmocka_unit_test(timings_that_cannot_be),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
