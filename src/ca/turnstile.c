#include "ca/turnstile.h"

#include <assert.h>

enum {
    MEASURE_MS = 100, /* at least, for one measurement ... */
    MEASURE_CALLS = 64,
    MEASURE_SHARE = 16, /* of a slower one in what is known */
    GUESS_US = 1000,    /* before anything was measured */
    SLOW_US = 20000,    /* a disk that stalls for once is not taken for slower than this */
};

static uint64_t
each(const struct turnstile *t)
{
    return t->each_us == 0 ? GUESS_US : t->each_us;
}

static size_t
places(const struct turnstile *t)
{
    size_t in_time = (size_t)(TURNSTILE_WAIT_MS * (uint64_t)1000 / each(t));

    return in_time < t->places ? in_time : t->places;
}

/* The next place in time: behind those who wait, and behind those who were told to come back. */
static uint64_t
give_time(struct turnstile *t, uint64_t now_ms)
{
    const uint64_t now = now_ms * 1000, last = now + TURNSTILE_BACK_MAX_MS * (uint64_t)1000;
    uint64_t behind = now + t->waiting * each(t);

    if (t->given_us < behind)
        t->given_us = behind;
    t->given_us += each(t);
    if (t->given_us > last)
        t->given_us = last;
    uint64_t ms = (t->given_us - now) / 1000;
    return ms < TURNSTILE_BACK_MIN_MS ? TURNSTILE_BACK_MIN_MS : ms;
}

/* The pace is measured only then: few calls that wait say how long one takes, not how many could be
 * served meanwhile. */
static bool
is_busy(const struct turnstile *t)
{
    return t->waiting >= places(t) / 2;
}

uint64_t
turnstile_ask(struct turnstile *t, const struct turnstile_caller *c, uint64_t now_ms)
{
    size_t n = places(t), kept = c->has_waited ? 0 : n / TURNSTILE_KEPT_PART;
    bool has_many = c->own > TURNSTILE_OWN_CALLS && is_busy(t);

    return t->places == 0 || (t->waiting < n - kept && !has_many) ? 0 : give_time(t, now_ms);
}

static void
measure_from(struct turnstile *t, uint64_t now_ms)
{
    t->from_ms = now_ms;
    t->over = 0;
}

void
turnstile_in(struct turnstile *t, uint64_t now_ms)
{
    bool was_busy = is_busy(t);

    t->waiting++;
    if (!was_busy)
        measure_from(t, now_ms);
}

void
turnstile_out(struct turnstile *t, uint64_t now_ms)
{
    uint64_t ms = now_ms - t->from_ms;

    assert(t->waiting > 0);
    t->over++;
    bool is_measured = is_busy(t) && ms >= MEASURE_MS && t->over >= MEASURE_CALLS;
    t->waiting--;
    if (!is_measured)
        return;
    uint64_t us = ms * 1000 / t->over < SLOW_US ? ms * 1000 / t->over : SLOW_US;
    if (t->each_us == 0 || us < t->each_us)
        t->each_us = us; /* so fast it can be; what was slower may be others' work on the machine */
    else
        t->each_us += (us - t->each_us) / MEASURE_SHARE;
    measure_from(t, now_ms);
}
