/* What err.h, buf.h, secret.h and clock.h promise. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/secret.h"

/* -- err */

static void
errors_carry_cause_and_context(void **state)
{
    (void)state;
    struct err e = { 0 };

    assert_int_equal(err_set(&e, E_DENIED, "no %s", "way"), -E_DENIED);
    assert_string_equal(e.msg, "no way");
    assert_non_null(strstr(e.file, "test_basics.c"));
    assert_int_equal(err_wrap(&e, "open %d", 3), -E_DENIED);
    assert_string_equal(e.msg, "open 3: no way");
    assert_int_equal(err_sys(&e, ENOSPC, "f: write"), -E_SYS);
    assert_string_equal(e.msg, "f: write: No space left on device");
    assert_int_equal(e.sys, ENOSPC);
    assert_int_equal(err_nomem(&e), -E_NOMEM);
}

static void
errors_are_one_line_and_keep_the_cause(void **state)
{
    (void)state;
    struct err e = { 0 };
    char big[2 * ERR_MSG_BYTES];

    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    (void)err_set(&e, E_PEER, "a\nb\x1b[31m");
    assert_string_equal(e.msg, "a b [31m");
    (void)err_wrap(&e, "%s", big); /* context that does not fit is dropped, the cause stays */
    assert_string_equal(e.msg, "a b [31m");
    (void)err_set(&e, E_PEER, "%s", big);
    assert_int_equal(strlen(e.msg), ERR_MSG_BYTES - 1);
    (void)err_sys(&e, EACCES, "%s", big);
    assert_non_null(strstr(e.msg, ": Permission denied"));
    (void)err_set(&e, E_STATE, "inner");
    (void)err_set(&e, E_STATE, "outer: %s", e.msg); /* its own message as an argument */
    assert_string_equal(e.msg, "outer: inner");
}

static void
each_code_has_a_meaning_of_its_own(void **state)
{
    (void)state;
    for (int a = 0; a < E__MAX; a++) {
        const struct err_meaning *m = err_meaning((enum err_code)a);

        assert_non_null(m->name);
        assert_true(a == E_NONE ? m->exit_status == 0 : m->exit_status > 1);
        for (int b = 0; b < a; b++) {
            assert_int_not_equal(m->exit_status, err_meaning((enum err_code)b)->exit_status);
            assert_string_not_equal(m->name, err_meaning((enum err_code)b)->name);
        }
    }
    assert_int_equal(err_meaning(E_BUSY)->http_status, 503);
    assert_true(err_meaning(E_BUSY)->retryable && !err_meaning(E_DENIED)->retryable);
    assert_int_equal(err_meaning(E_AUTH)->grpc_code, 16);
}

/* -- buf */

static void
buffers_grow_to_their_cap_and_no_further(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(1000);
    struct err e = { 0 };

    assert_string_equal(buf_text(&b), "");
    for (int i = 0; i < 100; i++)
        assert_ok(buf_add(&b, span_str("0123456789"), &e));
    assert_int_equal(b.n, 1000);
    assert_int_equal(b.p[1000], '\0');
    assert_err(buf_add_byte(&b, 'x', &e), E_LIMIT, "1000 bytes");
    assert_err(buf_addf(&b, &e, "%d", 1), E_LIMIT, "1000 bytes");
    assert_ok(buf_add(&b, span_str(""), &e));
    uint8_t *at = NULL;
    assert_err(buf_reserve(&b, SIZE_MAX, &at, &e), E_LIMIT, "");
    assert_int_equal(b.n, 1000);
    buf_done(&b);
    buf_done(&b);
    assert_ok(buf_addf(&b, &e, "%s=%d", "a", 1)); /* usable again */
    assert_string_equal(buf_text(&b), "a=1");
    buf_wipe(&b);
    buf_wipe(&b);
}

/* -- secret */

static void
secrets_hold_and_refuse(void **state)
{
    (void)state;
    struct err e = { 0 };
    struct secret *s = NULL, *r = NULL, *r2 = NULL;
    static const uint8_t zero[32];
    static char big[1024 * 1024 + 1];

    assert_ok(secret_new(span_str("key"), &s, &e));
    assert_true(span_eq_str(secret_span(s), "key"));
    assert_ok(secret_random(32, &r, &e));
    assert_ok(secret_random(32, &r2, &e));
    assert_false(secret_eq(secret_span(r), secret_span(r2)));
    assert_false(secret_eq(secret_span(r), span_of(zero, 32)));
    assert_true(secret_eq(secret_span(s), span_str("key")));
    assert_false(secret_eq(secret_span(s), span_str("kez")));
    assert_false(secret_eq(secret_span(s), span_str("keys")));
    secret_free(s);
    secret_free(r2);
    s = NULL;
    assert_err(secret_new(span_str(""), &s, &e), E_LIMIT, "0 bytes");
    assert_err(secret_new(span_of(big, sizeof(big)), &s, &e), E_LIMIT, "want 1..1048576");
    assert_null(s);
    assert_int_equal(secret_span(NULL).n, 0);
    secret_free(NULL);

    pid_t pid = fork(); /* a child sees zeros */
    int status = 1;
    if (pid == 0)
        _exit(memcmp(secret_span(r).p, zero, 32) == 0 ? 0 : 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    secret_free(r);
}

/* -- clock */

static void
clocks(void **state)
{
    (void)state;
    char t[RFC3339_BYTES];

    rfc3339_s(0, t);
    assert_string_equal(t, "1970-01-01T00:00:00Z");
    rfc3339_s(1795468360, t);
    assert_string_equal(t, "2026-11-23T21:12:40Z");
    rfc3339_us(1795468360000042, t);
    assert_string_equal(t, "2026-11-23T21:12:40.000042Z");
    uint64_t before = mono_ms();
    int64_t now = unix_s();
    clock_shift_for_test(86400);
    assert_in_range(unix_s() - now, 86400, 86400 + 60);
    clock_shift_for_test(0);
    assert_true(mono_ms() >= before && mono_ms() - before < 60000); /* not moved by that */
    assert_int_equal(random_below(0), 0);
    assert_int_equal(random_below(1), 0);
    bool seen[8] = { false };
    for (int i = 0; i < 1000; i++)
        seen[random_below(8)] = true;
    for (size_t i = 0; i < 8; i++)
        assert_true(seen[i]);
}

static void
rfc3339_5_6_times_are_read(void **state)
{
    static const struct {
        const char *text;
        int64_t t; /* -1: refused */
    } rows[] = {
        { "1970-01-01T00:00:00Z", 0 },
        { "2026-11-23T21:12:40Z", 1795468360 },
        { "2026-11-23T21:12:40.000042Z", 1795468360 },
        { "2024-02-29T12:00:00Z", 1709208000 },
        { "9999-12-31T23:59:59Z", 253402300799 },
        { "2023-02-29T12:00:00Z", -1 },
        { "2026-06-31T00:00:00Z", -1 },
        { "2026-11-23T24:00:00Z", -1 },
        { "2026-11-23T21:12:60Z", -1 },
        { "2026-11-23T21:12:40+00:00", -1 },
        { "2026-11-23T21:12:40.Z", -1 },
        { "2026-11-23T21:12:40", -1 },
        { "2026-11-23 21:12:40Z", -1 },
        { "2026-1-23T21:12:40Z", -1 },
        { "1969-12-31T23:59:59Z", -1 },
        { "2026-11-23T21:12:40.0000000000000000000000000000Z", -1 },
        { "", -1 },
    };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int64_t t = -1;
        int r = rfc3339_parse(span_str(rows[i].text), &t, &e);

        if (r != (rows[i].t < 0 ? -E_PARSE : 0) || t != rows[i].t)
            fail_msg("%s: %d, %lld", rows[i].text, r, (long long)t);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_carry_cause_and_context),
        cmocka_unit_test(rfc3339_5_6_times_are_read),
        cmocka_unit_test(errors_are_one_line_and_keep_the_cause),
        cmocka_unit_test(each_code_has_a_meaning_of_its_own),
        cmocka_unit_test(buffers_grow_to_their_cap_and_no_further),
        cmocka_unit_test(secrets_hold_and_refuse),
        cmocka_unit_test(clocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
