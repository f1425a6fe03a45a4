#include "unit.h"

#include <string.h>

#include "net/grpc_frame.h"

static void
takes_messages_from_pieces_of_any_size(void **state)
{
    static const uint8_t stream[] = { 0, 0, 0, 0, 3, 'a', 'b', 'c', 0,   0,
                                      0, 0, 0, 0, 0, 0,   0,   2,   'd', 'e' };
    struct err e;

    (void)state;
    for (size_t piece = 1; piece <= sizeof(stream); piece++) {
        struct grpc_reader r = GRPC_READER_INIT(16);
        char got[32] = "";

        for (size_t at = 0; at < sizeof(stream); at += piece) {
            struct span s =
                span_of(stream + at, at + piece > sizeof(stream) ? sizeof(stream) - at : piece);
            int m;
            do {
                m = grpc_reader_feed(&r, &s, &e);
                assert_true(m >= 0);
                if (m == GRPC_MESSAGE) {
                    (void)snprintf(got + strlen(got), sizeof(got) - strlen(got), "[%.*s]",
                                   (int)r.msg.n, buf_text(&r.msg));
                    grpc_reader_next(&r);
                }
            } while (m == GRPC_MESSAGE && s.n > 0);
        }
        assert_string_equal(got, "[abc][][de]");
        assert_true(grpc_reader_is_between(&r));
        grpc_reader_done(&r);
    }
}

static void
refuses_bad_prefixes(void **state)
{
    static const struct {
        uint8_t prefix[GRPC_PREFIX_BYTES];
        enum err_code code;
        const char *part;
    } rows[] = {
        { { 1, 0, 0, 0, 1 }, E_DENIED, "compressed" },
        { { 2, 0, 0, 0, 1 }, E_PARSE, "first byte" },
        { { 0, 0, 0, 0, 17 }, E_LIMIT, "larger than max (17 vs. 16)" },
        { { 0, 255, 255, 255, 255 }, E_LIMIT, "larger than max" },
    };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct grpc_reader r = GRPC_READER_INIT(16);
        struct span s = span_of(rows[i].prefix, GRPC_PREFIX_BYTES);

        assert_err(grpc_reader_feed(&r, &s, &e), rows[i].code, rows[i].part);
        grpc_reader_done(&r);
    }
}

static void
timeouts(void **state)
{
    static const struct {
        const char *text;
        int64_t ms; /* -1: refused */
    } rows[] = {
        { "1H", 3600000 },    { "2M", 120000 },
        { "3S", 3000 },       { "4m", 4 },
        { "5u", 1 },          { "1500u", 2 },
        { "6n", 1 },          { "2000000n", 2 },
        { "0m", 0 },          { "99999999H", 99999999LL * 3600000 },
        { "", -1 },           { "m", -1 },
        { "100000000m", -1 }, { "5", -1 },
        { "5x", -1 },         { "-5m", -1 },
        { "5 m", -1 },        { "1.5S", -1 },
    };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t ms = 0;
        int r = grpc_timeout_parse(span_str(rows[i].text), &ms, &e);

        assert_int_equal(r < 0, rows[i].ms < 0);
        if (r == 0)
            assert_int_equal(ms, rows[i].ms);
    }
    char text[GRPC_TIMEOUT_BYTES];
    grpc_timeout_text(1500, text);
    assert_string_equal(text, "1500m");
    grpc_timeout_text(UINT64_MAX, text);
    assert_string_equal(text, "99999999S");
}

static void
percent_coding_round_trips(void **state)
{
    static const struct {
        const char *plain, *coded;
    } rows[] = {
        { "plain text~", "plain text~" }, { "100%", "100%25" }, { "a\nb\tc", "a%0Ab%09c" },
        { "\xc3\xa9", "%C3%A9" },         { "", "" },
    };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf coded = BUF_INIT(100), plain = BUF_INIT(100);

        assert_ok(grpc_percent_encode(&coded, rows[i].plain, &e));
        assert_string_equal(buf_text(&coded), rows[i].coded);
        assert_ok(grpc_percent_decode(&plain, buf_span(&coded), &e));
        assert_string_equal(buf_text(&plain), rows[i].plain);
        buf_done(&coded);
        buf_done(&plain);
    }
    struct buf b = BUF_INIT(100);
    assert_ok(grpc_percent_decode(&b, span_str("%zz%4"), &e));
    assert_string_equal(buf_text(&b), "%zz%4");
    buf_done(&b);
}

static void
content_types(void **state)
{
    static const struct {
        const char *text;
        bool ok;
    } rows[] = { { "application/grpc", true },      { "application/grpc+proto", true },
                 { "application/grpc; a=b", true }, { "application/grpc-web", false },
                 { "application/json", false },     { "", false },
                 { "application/grp", false } };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(grpc_content_type_ok(span_str(rows[i].text)), rows[i].ok);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_messages_from_pieces_of_any_size),
        cmocka_unit_test(refuses_bad_prefixes),
        cmocka_unit_test(timeouts),
        cmocka_unit_test(percent_coding_round_trips),
        cmocka_unit_test(content_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
