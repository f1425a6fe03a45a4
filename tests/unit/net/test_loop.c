#include "unit.h"

#include <sys/eventfd.h>
#include <unistd.h>

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

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deferred_calls_run_though_a_descriptor_is_always_ready),
        cmocka_unit_test(a_call_that_defers_itself_starves_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
