/* What a bucket lets through, with a clock of its own. */
#include "unit.h"

#include "base/bucket.h"
#include "base/clock.h"

static uint64_t now_ms = 1000;

uint64_t __wrap_mono_ms(void);
uint64_t
__wrap_mono_ms(void)
{
    return now_ms;
}

static uint64_t
take_all(struct bucket *b)
{
    uint64_t n = 0;

    while (n < 100000 && bucket_take(b))
        n++;
    return n;
}

static void
so_much_at_once_and_so_much_a_second(void **state)
{
    static const struct {
        uint64_t max, per, ms, after_ms, want;
    } rows[] = {
        { 10, 5, 1000, 0, 0 },         { 10, 5, 1000, 199, 0 },
        { 10, 5, 1000, 200, 1 },       { 10, 5, 1000, 1000, 5 },
        { 10, 5, 1000, 3600000, 10 },  { 1, 1000, 1, 1, 1 },
        { 4000, 4000, 10000, 25, 10 }, { 300, 300, 10000, 33, 0 },
        { 300, 300, 10000, 34, 1 },    { 10000, 1000, 1000, UINT64_MAX / 2, 10000 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct bucket b = bucket_full(rows[i].max, rows[i].per, rows[i].ms);

        assert_int_equal(take_all(&b), rows[i].max);
        now_ms += rows[i].after_ms;
        uint64_t n = take_all(&b);
        if (n != rows[i].want)
            fail_msg("row %zu: %llu passed", i, (unsigned long long)n);
    }
}

static void
the_wait_is_exact(void **state)
{
    struct bucket b = bucket_full(3, 3, 10000);

    (void)state;
    assert_int_equal(bucket_wait_ms(&b), 0);
    assert_int_equal(take_all(&b), 3);
    uint64_t wait = bucket_wait_ms(&b);
    assert_int_equal(wait, 3334);
    now_ms += wait - 1;
    assert_false(bucket_take(&b));
    assert_int_equal(bucket_wait_ms(&b), 1);
    now_ms += 1;
    assert_true(bucket_take(&b));
    assert_false(bucket_take(&b));
}

static void
what_is_given_back_is_capped(void **state)
{
    struct bucket b = bucket_full(5, 1, 1000);

    (void)state;
    assert_int_equal(take_all(&b), 5);
    bucket_give(&b, 2);
    assert_int_equal(take_all(&b), 2);
    bucket_give(&b, UINT64_MAX);
    bucket_give(&b, 1);
    assert_int_equal(take_all(&b), 5);
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(so_much_at_once_and_so_much_a_second),
        cmocka_unit_test(the_wait_is_exact),
        cmocka_unit_test(what_is_given_back_is_capped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
