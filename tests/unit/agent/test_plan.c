#include "unit.h"

#include <string.h>

#include "agent/plan.h"
#include "net/grpc.h"

static void
renewal_times(void **state)
{
    static const struct {
        int64_t from_s, end_s, now_s;
        uint32_t random;
        uint64_t min_ms, max_ms;
    } rows[] = {
        /* 24 h: 12 h +- 72 min, at the ends and in the middle of the draw */
        { 0, 86400, 0, 0, 38880000, 38880000 },
        { 0, 86400, 0, UINT32_MAX, 47519000, 47520000 },
        { 0, 86400, 0, UINT32_MAX / 2, 43199000, 43201000 },
        /* part of it has passed: a restart does not start the half-life anew */
        { 0, 86400, 40000, UINT32_MAX / 2, 3199000, 3201000 },
        /* overdue, or no life at all: soon, not at once for all */
        { 0, 86400, 50000, 12345, 0, RENEW_LATE_MS - 1 },
        { 100, 100, 100, 7, 0, RENEW_LATE_MS - 1 },
        { 100, 50, 100, 7, 0, RENEW_LATE_MS - 1 },
        /* seconds */
        { 0, 4, 0, UINT32_MAX / 2, 1990, 2010 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t ms = plan_renew_ms(rows[i].from_s, rows[i].end_s, rows[i].now_s, rows[i].random);

        if (ms < rows[i].min_ms || ms > rows[i].max_ms)
            fail_msg("row %zu: %llu ms", i, (unsigned long long)ms);
    }
}

static void
backoff_is_full_jitter_with_a_cap(void **state)
{
    static const struct {
        unsigned failures;
        bool is_slow;
        uint32_t random;
        uint64_t ms;
    } rows[] = {
        { 1, false, 0, 1 },
        { 1, false, UINT32_MAX, 100 },
        { 2, false, UINT32_MAX, 200 },
        { 5, false, UINT32_MAX, 1600 },
        { 5, false, UINT32_MAX / 2, 800 },
        { 11, false, UINT32_MAX, BACKOFF_MAX_MS },
        { 1000000, false, UINT32_MAX, BACKOFF_MAX_MS },
        { 1, true, UINT32_MAX, 1000 },
        { 7, true, UINT32_MAX, BACKOFF_MAX_MS },
        { 0, false, UINT32_MAX, 100 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_in_range(plan_backoff_ms(rows[i].failures, rows[i].is_slow, rows[i].random),
                        rows[i].ms == 1 ? 1 : rows[i].ms - 1, rows[i].ms);
}

/* gRPC proposal A6: the server's word about when, in a trailer. */
static void
a_time_to_come_back_is_kept(void **state)
{
    static const struct {
        const char *pushback;
        uint64_t least, most; /* of what any random number gives */
    } rows[] = {
        { "0", 1, 1 },
        { "1000", 1001, 1250 },
        { "40000", 40001, 50000 },
        { "999999999", BACKOFF_MAX_MS + 1, BACKOFF_MAX_MS * 5 / 4 },
        { "", 1, 200 }, /* none: as after any second failure */
        { "-1", 1, 2000 },
        { "soon", 1, 2000 },
        { "99999999999999999999", 1, 2000 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct span s = span_str(rows[i].pushback);

        assert_in_range(plan_retry_ms(s, 2, false, 0), rows[i].least, rows[i].least);
        assert_in_range(plan_retry_ms(s, 2, false, UINT32_MAX), rows[i].most - 1, rows[i].most);
    }
}

static void
codes_that_pass_by_themselves(void **state)
{
    (void)state;
    assert_true(plan_is_transient(GRPC_RESOURCE_EXHAUSTED));
    assert_true(plan_is_transient(GRPC_UNAVAILABLE));
    assert_true(plan_is_transient(GRPC_INTERNAL));
    assert_true(plan_is_transient(GRPC_ABORTED));
    assert_true(plan_is_transient(GRPC_DEADLINE_EXCEEDED));
    assert_false(plan_is_transient(GRPC_UNAUTHENTICATED));
    assert_false(plan_is_transient(GRPC_PERMISSION_DENIED));
    assert_false(plan_is_transient(GRPC_INVALID_ARGUMENT));
    assert_false(plan_is_transient(GRPC_UNIMPLEMENTED));
}

/* model/rotation.pml, rule 4 */
static void
generations_only_grow(void **state)
{
    static const struct {
        uint64_t held, got;
        enum plan_take take;
    } rows[] = { { 0, 0, PLAN_TAKE }, { 0, 7, PLAN_TAKE }, { 7, 7, PLAN_TAKE },
                 { 7, 8, PLAN_TAKE }, { 7, 6, PLAN_DROP }, { 7, 0, PLAN_DROP } };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(plan_generation(rows[i].held, rows[i].got), rows[i].take);
}

static void
inbound_rules(void **state)
{
    static const char *const bad[] = {
        "",   "127.0.0.1:1", "127.0.0.1:1=", "=127.0.0.1:1", "127.0.0.1:1=127.0.0.1:2=127.0.0.1:3",
        "a=b"
    };
    struct addr from, to;
    struct err e;

    (void)state;
    assert_ok(plan_inbound_parse("0.0.0.0:8443=localhost:8080", &from, &to, &e));
    assert_string_equal(from.host, "0.0.0.0");
    assert_int_equal(from.port, 8443);
    assert_string_equal(to.host, "localhost");
    assert_int_equal(to.port, 8080);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_err(plan_inbound_parse(bad[i], &from, &to, &e), E_PARSE, "is not LISTEN=TO");
}

static void
addresses_of_the_ca(void **state)
{
    struct addr a[2];
    size_t n;
    struct err e;

    (void)state;
    assert_ok(plan_addrs_parse("ca:1", a, 2, &n, &e));
    assert_int_equal(n, 1);
    assert_ok(plan_addrs_parse("ca-0.ca:15012,[::1]:2", a, 2, &n, &e));
    assert_int_equal(n, 2);
    assert_string_equal(a[0].host, "ca-0.ca");
    assert_string_equal(a[1].host, "::1");
    assert_int_equal(a[1].port, 2);
    assert_err(plan_addrs_parse("a:1,b:2,c:3", a, 2, &n, &e), E_LIMIT, "more than 2");
    assert_err(plan_addrs_parse("a:1,,b:2", a, 2, &n, &e), E_PARSE, "");
    assert_err(plan_addrs_parse("", a, 2, &n, &e), E_PARSE, "");
    assert_err(plan_addrs_parse("a", a, 2, &n, &e), E_PARSE, "");
}

static void
outbound_rules(void **state)
{
    static const char *const bad[] = {
        "127.0.0.1:1=127.0.0.1:2",
        "127.0.0.1:1=127.0.0.1:2=",
        "127.0.0.1:1=127.0.0.1:2=https://a",
        "127.0.0.1=127.0.0.1:2=spiffe://td/ns/a/sa/b",
    };
    struct addr from, to;
    const char *rule;
    struct err e;

    (void)state;
    assert_ok(
        plan_outbound_parse("[::1]:0=db:8443=spiffe://td/ns/shop/sa/*", &from, &to, &rule, &e));
    assert_string_equal(from.host, "::1");
    assert_string_equal(to.host, "db");
    assert_string_equal(rule, "spiffe://td/ns/shop/sa/*");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_err(plan_outbound_parse(bad[i], &from, &to, &rule, &e), E_PARSE,
                   "is not LISTEN=PEER=RULE");
}

static void
words_of_a_command(void **state)
{
    char text[] = "  nginx -s   reload ", blank[] = "   ", many[] = "a b c d";
    char *words[4];
    struct err e;

    (void)state;
    assert_ok(plan_words(text, words, 3, &e));
    assert_string_equal(words[0], "nginx");
    assert_string_equal(words[2], "reload");
    assert_null(words[3]);
    assert_err(plan_words(blank, words, 3, &e), E_INVAL, "empty");
    assert_err(plan_words(many, words, 3, &e), E_LIMIT, "more than 3 words");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(renewal_times),
        cmocka_unit_test(backoff_is_full_jitter_with_a_cap),
        cmocka_unit_test(a_time_to_come_back_is_kept),
        cmocka_unit_test(codes_that_pass_by_themselves),
        cmocka_unit_test(generations_only_grow),
        cmocka_unit_test(inbound_rules),
        cmocka_unit_test(addresses_of_the_ca),
        cmocka_unit_test(outbound_rules),
        cmocka_unit_test(words_of_a_command),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
