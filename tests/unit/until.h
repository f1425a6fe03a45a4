/* until.h - a loop that runs until something is so. */
#ifndef TESTS_UNIT_UNTIL_H
#define TESTS_UNIT_UNTIL_H

#include "unit.h"

#include <stdbool.h>

#include "base/clock.h"
#include "net/loop.h"

enum { WAIT_MS = 60000 }; /* nothing here takes that long, however busy the machine is */
enum { UNTIL_STEP_MS = 5 };

struct until {
    struct loop *l;
    struct timer *step;
    bool (*is_so)(void *arg);
    void *arg;
    uint64_t by_ms;
    bool gave_up;
};

static inline void
until_step(void *arg)
{
    struct until *u = arg;

    bool is_so = u->is_so(u->arg);

    u->gave_up = !is_so && mono_ms() > u->by_ms;
    if (is_so || u->gave_up)
        loop_stop(u->l);
    else
        timer_set(u->step, UNTIL_STEP_MS);
}

/* Runs `l` until is_so(arg), which is asked every few milliseconds. r: false: not within WAIT_MS.
 */
static inline bool
loop_until(struct loop *l, bool (*is_so)(void *arg), void *arg)
{
    struct until u = { .l = l, .is_so = is_so, .arg = arg, .by_ms = mono_ms() + WAIT_MS };
    struct err e;

    assert_ok(timer_new(l, until_step, &u, &u.step, &e));
    timer_set(u.step, 0);
    assert_ok(loop_run(l, &e));
    timer_free(u.step);
    return !u.gave_up;
}

#endif
