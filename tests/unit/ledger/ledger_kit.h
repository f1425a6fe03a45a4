/* ledger_kit.h - a ledger in a folder of its own. */
#ifndef TESTS_UNIT_LEDGER_LEDGER_KIT_H
#define TESTS_UNIT_LEDGER_LEDGER_KIT_H

#include "unit.h"

#include <inttypes.h>

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

static inline void
ledger_start(struct fix *f)
{
    struct err e = { 0 };

    assert_ok(store_open_sqlite(f->dir, &f->s, &e));
    assert_ok(ledger_open(f->s, f->m, &f->led, &e));
}

static inline void
ledger_end(struct fix *f)
{
    ledger_close(f->led);
    store_close(f->s);
    f->led = NULL;
    f->s = NULL;
}

static inline int
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

static inline int
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

static inline void
on_done(const struct err *e, void *arg)
{
    struct fix *f = arg;

    f->last = *e;
    if (++f->answers == f->want)
        loop_stop(f->l);
}

/* Serial `n` of identity and instance, ending in `ttl`. */
static inline struct ledger_row
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

static inline enum err_code
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

static inline struct ledger_ack
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
static inline int
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

static inline void
note(const struct ledger_workload *w, void *arg)
{
    struct err e = { 0 };

    assert_ok(buf_addf(arg, &e, "%s/%s gen=%" PRIu64 " leaves=%zu roots=%zu/%c min=%" PRIu64 "\n",
                       w->identity, w->instance, w->ack_generation, w->leaves_n, w->leaf_roots_n,
                       w->leaf_roots[0][0], w->min_row_generation));
}

static inline void
assert_fleet(struct fix *f, const char *want)
{
    struct buf b = BUF_INIT(65536);

    ledger_workloads(f->led, note, &b);
    assert_string_equal(buf_text(&b), want);
    buf_done(&b);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
