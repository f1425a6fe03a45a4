/* What str.h and span.h promise. */
#include "unit.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/str.h"

static void
numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t min, max, want;
        enum err_code code;
        const char *says;
    } rows[] = {
        { "0", 0, 9, 0, E_NONE, "" },
        { "9", 0, 9, 9, E_NONE, "" },
        { "007", 0, 9, 7, E_NONE, "" },
        { "18446744073709551615", 0, UINT64_MAX, UINT64_MAX, E_NONE, "" },
        { "18446744073709551616", 0, UINT64_MAX, 0, E_LIMIT, "too large" },
        { "99999999999999999999999", 0, UINT64_MAX, 0, E_LIMIT, "too large" },
        { "10", 0, 9, 0, E_LIMIT, "10 is outside 0..9" },
        { "1", 2, 9, 0, E_LIMIT, "outside 2..9" },
        { "", 0, 9, 0, E_PARSE, "not a number" },
        { "-1", 0, 9, 0, E_PARSE, "\"-1\" is not a number" },
        { "+1", 0, 9, 0, E_PARSE, "not a number" },
        { " 1", 0, 9, 0, E_PARSE, "not a number" },
        { "1 ", 0, 9, 0, E_PARSE, "not a number" },
        { "0x1", 0, 9, 0, E_PARSE, "not a number" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err e = { 0 };
        uint64_t v = 77;
        int r = u64_parse(span_str(rows[i].text), rows[i].min, rows[i].max, &v, &e);

        assert_int_equal(r, -(int)rows[i].code);
        assert_non_null(strstr(e.msg, rows[i].says));
        assert_int_equal(v, r == 0 ? rows[i].want : 77); /* untouched on failure */
    }
}

static void
durations(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t ms;
        const char *back; /* NULL: refused */
    } rows[] = {
        { "0", 0, "0s" },
        { "0s", 0, "0s" },
        { "250ms", 250, "250ms" },
        { "1500ms", 1500, "1500ms" },
        { "90s", 90000, "90s" },
        { "2m", 120000, "2m" },
        { "60s", 60000, "1m" },
        { "24h", 86400000, "24h" },
        { "36h", 129600000, "36h" },
        { "90d", 7776000000, "2160h" },
        { "5", 0, NULL },
        { "s", 0, NULL },
        { "", 0, NULL },
        { "1 m", 0, NULL },
        { "1M", 0, NULL },
        { "1.5h", 0, NULL },
        { "-1s", 0, NULL },
        { "1m30s", 0, NULL },
        { "213503982335d", 0, NULL },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err e = { 0 };
        uint64_t ms = 0;
        char back[DURATION_BYTES];
        int r = duration_ms_parse(span_str(rows[i].text), &ms, &e);

        assert_int_equal(r == 0, rows[i].back != NULL);
        if (r < 0)
            continue;
        assert_int_equal(ms, rows[i].ms);
        duration_ms_text(ms, back);
        assert_string_equal(back, rows[i].back);
    }
}

static void
hexadecimal(void **state)
{
    (void)state;
    struct err e = { 0 };
    uint8_t v[4] = { 0 };
    char text[9];

    assert_ok(hex_parse(span_str("00fFA5c3"), v, 4, &e));
    hex_text(span_of(v, 4), text);
    assert_string_equal(text, "00ffa5c3");
    hex_text(span_of(v, 0), text);
    assert_string_equal(text, "");
    assert_err(hex_parse(span_str("00ffa5c"), v, 4, &e), E_PARSE, "7 hex digits, want 8");
    assert_err(hex_parse(span_str("00ffa5cg"), v, 4, &e), E_PARSE, "position 7");
}

static void
base64_rows(void **state)
{
    (void)state;
    /* RFC 4648 section 10, and what the strict decoder refuses */
    static const struct {
        const char *plain, *std, *url;
    } good[] = {
        { "", "", "" },
        { "f", "Zg==", "Zg" },
        { "fo", "Zm8=", "Zm8" },
        { "foo", "Zm9v", "Zm9v" },
        { "foob", "Zm9vYg==", "Zm9vYg" },
        { "fooba", "Zm9vYmE=", "Zm9vYmE" },
        { "foobar", "Zm9vYmFy", "Zm9vYmFy" },
        { "\xfb\xff\xfe", "+//+", "-__-" },
    };
    static const char *const bad_std[] = { "Zg",    "Zg=",    "Zg===", "Z",    "Zh==",     "Zm9=",
                                           "Zm 9v", "Zm9v\n", "-__-",  "====", "Zg==Zg==", "Z===" };
    static const char *const bad_url[] = { "Zg==", "Z", "Zh", "Zm9", "+//+", "Zm9v " };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct buf std = BUF_INIT(64), url = BUF_INIT(64), a = BUF_INIT(64), b = BUF_INIT(64);
        struct err e = { 0 };

        assert_ok(base64_add(&std, span_str(good[i].plain), &e));
        assert_ok(base64url_add(&url, span_str(good[i].plain), &e));
        assert_string_equal(buf_text(&std), good[i].std);
        assert_string_equal(buf_text(&url), good[i].url);
        assert_ok(base64_decode(&a, buf_span(&std), &e));
        assert_ok(base64url_decode(&b, buf_span(&url), &e));
        assert_string_equal(buf_text(&a), good[i].plain);
        assert_string_equal(buf_text(&b), good[i].plain);
        buf_done(&std);
        buf_done(&url);
        buf_done(&a);
        buf_done(&b);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad_std); i++) {
        struct buf b = BUF_INIT(64);
        struct err e = { 0 };

        assert_int_equal(base64_decode(&b, span_str(bad_std[i]), &e), -E_PARSE);
        assert_int_equal(b.n, 0);
        buf_done(&b);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad_url); i++) {
        struct buf b = BUF_INIT(64);
        struct err e = { 0 };

        assert_int_equal(base64url_decode(&b, span_str(bad_url[i]), &e), -E_PARSE);
        buf_done(&b);
    }
}

static void
base64_keeps_to_the_cap(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(7);
    struct err e = { 0 };

    assert_err(base64_add(&b, span_str("foobar"), &e), E_LIMIT, "more than 7 bytes");
    assert_int_equal(b.n, 0);
    buf_done(&b);
}

static void
copies_and_formats(void **state)
{
    (void)state;
    struct err e = { 0 };
    CLEANUP(str_freep) char *s = NULL;
    CLEANUP(str_freep) char *f = NULL;

    assert_ok(str_dup(span_of("abcdef", 3), &s, &e));
    assert_string_equal(s, "abc");
    assert_err(str_dup(span_of("a\0b", 3), &f, &e), E_PARSE, "NUL");
    assert_null(f);
    assert_ok(str_format(&f, &e, "%s-%d", "x", 7));
    assert_string_equal(f, "x-7");
}

static void
cutting(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        const char *parts[4];
    } rows[] = {
        { "a/b/c", 3, { "a", "b", "c" } }, { "a", 1, { "a" } },    { "", 1, { "" } },
        { "a/", 2, { "a", "" } },          { "/", 2, { "", "" } }, { "//x", 3, { "", "", "x" } },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct span s = span_str(rows[i].text), part;
        size_t n = 0;

        while (span_cut(&s, '/', &part)) {
            assert_true(n < rows[i].n);
            assert_true(span_eq_str(part, rows[i].parts[n]));
            n++;
        }
        assert_int_equal(n, rows[i].n);
    }
}

static void
spans(void **state)
{
    (void)state;
    assert_true(span_eq_str(span_trim(span_str(" \t a b\r\n")), "a b"));
    assert_true(span_eq_str(span_trim(span_str(" \n")), ""));
    assert_true(span_starts(span_str("abc"), "ab"));
    assert_true(span_starts(span_str("abc"), ""));
    assert_false(span_starts(span_str("a"), "ab"));
    assert_int_equal(span_skip(span_str("abc"), 9).n, 0);
    assert_true(span_eq_str(span_skip(span_str("abc"), 2), "c"));
    assert_true(span_eq((struct span){ 0 }, span_str("")));
}

/* RFC 3629 4 and 10: what is whole stays; overlong forms, surrogates, what is beyond 10FFFF and the
 * halves of a character do not. */
static void
what_is_no_utf8_is_shown_as_such(void **state)
{
    static const struct {
        const char *from, *to;
    } rows[] = {
        { "", "" },
        { "plain, 7-bit\n", "plain, 7-bit\n" },
        { "CN=M\xc3\xbcller", "CN=M\xc3\xbcller" },
        { "\xe2\x82\xac \xf0\x9f\x94\x91", "\xe2\x82\xac \xf0\x9f\x94\x91" },
        { "M\xfcller", "M?ller" },
        { "cut \xe2\x82", "cut ??" },
        { "cut \xc3", "cut ?" },
        { "\xc0\xaf", "??" },
        { "\xe0\x9f\xbf", "???" },
        { "\xed\xa0\x80", "???" },
        { "\xf0\x8f\xbf\xbf", "????" },
        { "\xf4\x90\x80\x80", "????" },
        { "\xc3"
          "a",
          "?a" },
    };
    char text[32];
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        (void)snprintf(text, sizeof(text), "%s", rows[i].from);
        utf8_repair(text);
        assert_string_equal(text, rows[i].to);
    }
    assert_err(err_set(&e, E_PEER, "it says \"%s\"", "no\xff"), E_PEER, "it says \"no?\"");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_utf8_is_shown_as_such),
        cmocka_unit_test(numbers),
        cmocka_unit_test(durations),
        cmocka_unit_test(hexadecimal),
        cmocka_unit_test(base64_rows),
        cmocka_unit_test(base64_keeps_to_the_cap),
        cmocka_unit_test(copies_and_formats),
        cmocka_unit_test(cutting),
        cmocka_unit_test(spans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
