#include "unit.h"

#include <event2/event.h>
#include <limits.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/loop.h"

enum { MANY = 10000 };

struct world {
    struct loop *l;
    int ready_n, deferred_at, posted_at;
};

static void
on_deferred(void *arg)
{
    struct world *w = arg;

    w->deferred_at = w->ready_n;
    loop_stop(w->l);
}

/* Nobody reads the descriptor: it is ready in every turn. */
static void
on_ready(void *arg)
{
    struct world *w = arg;

    if (++w->ready_n == 1)
        loop_defer(w->l, on_deferred, w);
    if (w->ready_n == MANY)
        loop_stop(w->l);
}

static void
deferred_calls_run_though_a_descriptor_is_always_ready(void **state)
{
    struct world w = { .ready_n = 0 };
    struct fd_watch *watch;
    struct err e;
    int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);

    (void)state;
    assert_ok(loop_new(&w.l, &e));
    assert_ok(fd_watch_new(w.l, fd, on_ready, &w, &watch, &e));
    assert_ok(loop_run(w.l, &e));
    assert_in_range(w.deferred_at, 1, 3);
    fd_watch_free(watch);
    loop_free(w.l);
    (void)close(fd);
}

static void
on_posted(void *arg)
{
    struct world *w = arg;

    w->posted_at = w->ready_n;
    loop_stop(w->l);
}

/* A call that defers itself for ever lets the others in. */
static void
defer_again(void *arg)
{
    struct world *w = arg;

    if (++w->ready_n < 100 * MANY)
        loop_defer(w->l, defer_again, w);
    else
        loop_stop(w->l);
}

static void
a_call_that_defers_itself_starves_nobody(void **state)
{
    struct world w = { .ready_n = 0 };
    struct err e;

    (void)state;
    assert_ok(loop_new(&w.l, &e));
    loop_defer(w.l, defer_again, &w);
    assert_ok(loop_post(w.l, on_posted, &w, &e));
    assert_ok(loop_run(w.l, &e));
    assert_in_range(w.posted_at, 0, MANY);
    w.ready_n = 100 * MANY; /* ends the chain when the loop is freed */
    loop_free(w.l);
}

/* -- a loop without memory: libevent's heap of times cannot grow -- */

enum { SHORT_MS = 50, LONG_MS = 60 * 1000 };

static int refusals; /* so many event_add() with a time fail */

int __real_event_add(struct event *ev, const struct timeval *tv);
int __wrap_event_add(struct event *ev, const struct timeval *tv);

int
__wrap_event_add(struct event *ev, const struct timeval *tv)
{
    if (tv == NULL || refusals == 0)
        return __real_event_add(ev, tv);
    refusals--;
    return -1;
}

struct alarm {
    struct loop *l;
    struct timer *short_one, *long_one;
    uint64_t since_ms, at_ms;
    int rings;
};

static void
on_alarm(void *arg)
{
    struct alarm *a = arg;

    a->at_ms = mono_ms();
    a->rings++;
    loop_stop(a->l);
}

static void
on_too_late(void *arg)
{
    (void)arg;
    fail_msg("the timer was lost");
}

static void
alarm_ring(struct alarm *a, int refused)
{
    struct err e;

    *a = (struct alarm){ .rings = 0 };
    assert_ok(loop_new(&a->l, &e));
    assert_ok(timer_new(a->l, on_alarm, a, &a->short_one, &e));
    assert_ok(timer_new(a->l, on_too_late, a, &a->long_one, &e));
    timer_set(a->long_one, LONG_MS);
    a->since_ms = mono_ms();
    refusals = refused;
    timer_set(a->short_one, SHORT_MS);
    assert_ok(loop_run(a->l, &e));
}

static void
alarm_done(struct alarm *a)
{
    refusals = 0;
    timer_free(a->long_one);
    timer_free(a->short_one);
    loop_free(a->l);
}

/* With memory again after some turns, or never: it rings once, and not before its time. */
static void
a_timer_is_not_lost_when_memory_is(void **state)
{
    static const int refused[] = { 0, 1, 3, INT_MAX };
    struct alarm a;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        alarm_ring(&a, refused[i]);
        assert_int_equal(a.rings, 1);
        assert_true(a.at_ms - a.since_ms >= SHORT_MS - 1);
        alarm_done(&a);
    }
}

/* One that waits for memory is set anew or stopped as any other. */
static void
a_timer_that_waits_for_memory_can_be_stopped(void **state)
{
    struct alarm a;

    (void)state;
    alarm_ring(&a, 0);
    refusals = INT_MAX;
    timer_set(a.long_one, LONG_MS);
    timer_set(a.long_one, 0);
    timer_stop(a.long_one);
    timer_set(a.short_one, SHORT_MS);
    struct err e;
    assert_ok(loop_run(a.l, &e));
    assert_int_equal(a.rings, 2);
    alarm_done(&a);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_timer_is_not_lost_when_memory_is),
        cmocka_unit_test(a_timer_that_waits_for_memory_can_be_stopped),
        cmocka_unit_test(deferred_calls_run_though_a_descriptor_is_always_ready),
        cmocka_unit_test(a_call_that_defers_itself_starves_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
