/* How many may wait, and when the others are to come back. Time is passed in. */
#include "unit.h"

#include "ca/turnstile.h"

enum { PLACES = 512 };

static uint64_t
ask(struct turnstile *t, bool has_waited, uint64_t now)
{
    const struct turnstile_caller c = { .has_waited = has_waited, .own = 2 };

    return turnstile_ask(t, &c, now);
}

/* Fills it with those who come for the first time; how many were let in. */
static size_t
fill(struct turnstile *t, bool has_waited, uint64_t now)
{
    size_t n = 0;

    while (ask(t, has_waited, now) == 0 && n < 100000) {
        turnstile_in(t, now);
        n++;
    }
    return n;
}

/* `n` waits end, one each `ms`; others take their places, so that it is never empty. */
static uint64_t
work(struct turnstile *t, size_t n, uint64_t ms, uint64_t now)
{
    for (size_t i = 0; i < n; i++) {
        now += ms;
        turnstile_in(t, now);
        turnstile_out(t, now);
    }
    return now;
}

static void
places_end_and_a_part_is_kept_for_those_who_come_back(void **state)
{
    struct turnstile t = { .places = PLACES };

    (void)state;
    size_t first = fill(&t, false, 1000), back = fill(&t, true, 1000);
    assert_int_equal(first, PLACES - PLACES / TURNSTILE_KEPT_PART);
    assert_int_equal(first + back, PLACES);
    assert_true(ask(&t, true, 1000) > 0);
    turnstile_out(&t, 1001);
    assert_true(ask(&t, false, 1001) > 0); /* the free place is not for a newcomer */
    assert_int_equal(ask(&t, true, 1001), 0);
}

static void
one_without_places_lets_everybody_in(void **state)
{
    struct turnstile t = { .places = 0 };

    (void)state;
    assert_int_equal(fill(&t, false, 5), 100000);
}

static void
a_narrow_one_lets_one_in(void **state)
{
    struct turnstile t = { .places = 1 };

    (void)state;
    assert_int_equal(fill(&t, false, 5), 1);
    turnstile_out(&t, 6);
    assert_int_equal(ask(&t, false, 6), 0);
}

/* A node's proxy may ask for many at once, but not take the places of the others. */
static void
one_connection_cannot_take_every_place(void **state)
{
    struct turnstile t = { .places = PLACES };
    struct turnstile_caller many = { .own = 1 };

    (void)state;
    for (; many.own < 100 && turnstile_ask(&t, &many, 1000) == 0; many.own++)
        turnstile_in(&t, 1000);
    assert_int_equal(many.own, 100); /* as many as it likes while there is room */
    while (t.waiting < PLACES / 2)
        turnstile_in(&t, 1000);
    assert_true(turnstile_ask(&t, &many, 1000) > 0);
    many.has_waited = true;
    assert_true(turnstile_ask(&t, &many, 1000) > 0);
    assert_int_equal(ask(&t, false, 1000), 0);
    many.own = TURNSTILE_OWN_CALLS;
    assert_int_equal(turnstile_ask(&t, &many, 1000), 0);
}

static void
each_is_told_a_later_time_at_the_pace_of_the_work(void **state)
{
    struct turnstile t = { .places = PLACES };
    uint64_t now = 1000, before = 0;

    (void)state;
    (void)fill(&t, false, now);
    now = work(&t, 1000, 5, now); /* one each 5 ms, for 5 s */
    for (int i = 0; i < 1000; i++) {
        uint64_t ms = ask(&t, false, now);

        assert_true(ms >= before);
        before = ms;
    }
    /* behind those who wait, and behind 1,000 at 5 ms each */
    assert_in_range(before, t.waiting * 4 + 4000, t.waiting * 6 + 6000);
    /* who comes at the time that was told finds the later times unchanged */
    uint64_t next = ask(&t, false, now + 1000);
    assert_in_range(next, before - 1000, before - 900);
}

static void
a_time_is_never_too_soon_nor_beyond_the_limit(void **state)
{
    struct turnstile t = { .places = 4 };
    uint64_t ms = 0;

    (void)state;
    (void)fill(&t, false, 1000);
    assert_int_equal(ask(&t, false, 1000), TURNSTILE_BACK_MIN_MS);
    for (int i = 0; i < 200000; i++)
        ms = ask(&t, false, 1000);
    assert_int_equal(ms, TURNSTILE_BACK_MAX_MS);
}

static void
a_slow_signer_lets_fewer_wait(void **state)
{
    struct turnstile t = { .places = PLACES };
    uint64_t now = 1000;

    (void)state;
    (void)fill(&t, true, now);
    now = work(&t, 1000, 20, now); /* 20 ms each: 200 are 4 s */
    assert_true(ask(&t, true, now) > 0);
    while (ask(&t, true, now) > 0)
        turnstile_out(&t, now += 20);
    assert_in_range(t.waiting, 190, 230);
    now = work(&t, 1000, 10000, now); /* stuck, nearly: no less than this */
    while (ask(&t, true, now) > 0)
        turnstile_out(&t, now += 20);
    assert_in_range(t.waiting, 190, 230);
    for (int i = 0; i < 4; i++) { /* and it is not held against it */
        now = work(&t, 1000, 2, now);
        (void)fill(&t, true, now);
    }
    assert_int_equal(t.waiting, PLACES);
}

static void
a_few_slow_calls_are_not_taken_for_a_slow_signer(void **state)
{
    struct turnstile t = { .places = PLACES };

    (void)state;
    for (uint64_t now = 0; now < 100 * 300; now += 300) { /* ten at a time, which take their time */
        for (int i = 0; i < 10; i++)
            turnstile_in(&t, now);
        for (int i = 0; i < 10; i++)
            turnstile_out(&t, now + 299);
    }
    for (uint64_t now = 100000; now < 100 * 60000; now += 60000) { /* one call a minute, of 1 ms */
        turnstile_in(&t, now);
        turnstile_out(&t, now + 1);
    }
    assert_int_equal(fill(&t, true, 6000000), PLACES);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places_end_and_a_part_is_kept_for_those_who_come_back),
        cmocka_unit_test(one_connection_cannot_take_every_place),
        cmocka_unit_test(one_without_places_lets_everybody_in),
        cmocka_unit_test(a_narrow_one_lets_one_in),
        cmocka_unit_test(each_is_told_a_later_time_at_the_pace_of_the_work),
        cmocka_unit_test(a_time_is_never_too_soon_nor_beyond_the_limit),
        cmocka_unit_test(a_slow_signer_lets_fewer_wait),
        cmocka_unit_test(a_few_slow_calls_are_not_taken_for_a_slow_signer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
