/* test_der.c - the strict reader and the writer behind the leaf path. */
#include "unit.h"

#include <string.h>

#include "base/clock.h"
#include "pki/der.h"

static struct span
lit(const char *bytes, size_t n)
{
    return span_of(bytes, n);
}
#define LIT(s) lit((s), sizeof(s) - 1)

static void
x690_only_definite_minimal_lengths(void **state)
{
    static const struct {
        const char *what;
        struct span in;
        bool good;
    } rows[] = {
        { "empty string", { (const uint8_t *)"\x04\x00", 2 }, true },
        { "short form", { (const uint8_t *)"\x04\x01z", 3 }, true },
        { "nothing", { (const uint8_t *)"", 0 }, false },
        { "tag only", { (const uint8_t *)"\x04", 1 }, false },
        { "runs over", { (const uint8_t *)"\x04\x02z", 3 }, false },
        { "indefinite (8.1.3.6)", { (const uint8_t *)"\x30\x80\x00\x00", 4 }, false },
        { "long form for 1 (10.1)", { (const uint8_t *)"\x04\x81\x01z", 4 }, false },
        { "leading zero length octet", { (const uint8_t *)"\x04\x82\x00\x81z", 5 }, false },
        { "four length octets", { (const uint8_t *)"\x04\x84\x00\x00\x00\x01z", 7 }, false },
        { "length octets missing", { (const uint8_t *)"\x04\x82\x01", 3 }, false },
        { "high tag number", { (const uint8_t *)"\x1f\x81\x01\x00", 4 }, false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct der c = der_of(rows[i].in);
        uint8_t tag;

        (void)der_any(&c, &tag, NULL);
        if (der_done(&c) != rows[i].good)
            fail_msg("%s", rows[i].what);
    }
}

static void
badness_sticks(void **state)
{
    struct der c = der_of(LIT("\x02\x01\x05\x04\x00"));

    (void)state;
    assert_int_equal(der_take(&c, DER_OCTET_STRING).n, 0); /* wrong tag */
    assert_true(c.bad);
    assert_true(der_at_end(&c));
    assert_int_equal(der_uint(&c).n, 0);
    assert_false(der_done(&c));
    struct der inner = der_enter(&c, DER_SEQUENCE);
    assert_true(inner.bad);
}

static void
elements_are_held_to_their_form(void **state)
{
    static const struct {
        const char *what;
        struct span in;
        bool good;
    } rows[] = {
#define ROW(what, s, good) { what, { (const uint8_t *)(s), sizeof(s) - 1 }, good }
        ROW("boolean true", "\x01\x01\xff", true),
        ROW("boolean of two bytes", "\x01\x02\xff\xff", false),
        ROW("boolean 1 (11.1)", "\x01\x01\x01", false),
        ROW("integer", "\x02\x02\x00\x80", true),
        ROW("integer padded (8.3.2)", "\x02\x02\x00\x7f", false),
        ROW("integer padded with ones", "\x02\x02\xff\x80", false),
        ROW("integer empty", "\x02\x00", false),
        ROW("oid", "\x06\x03\x55\x1d\x13", true),
        ROW("oid empty", "\x06\x00", false),
        ROW("oid not ended", "\x06\x02\x55\x80", false),
        ROW("oid padded (8.19.2)", "\x06\x03\x55\x80\x01", false),
        ROW("bits", "\x03\x02\x05\xa0", true),
        ROW("unused bits set (11.2.1)", "\x03\x02\x05\xbf", false),
        ROW("nine unused bits", "\x03\x02\x09\x00", false),
        ROW("null with content", "\x05\x01z", false),
        ROW("empty sequence", "\x30\x00", true),
        ROW("sequence of garbage", "\x30\x02\x04\x05", false),
        ROW("constructed string (10.2)", "\x24\x03\x04\x01z", false),
        ROW("primitive sequence", "\x10\x00", false),
        ROW("end of contents", "\x00\x00", false),
        ROW("trailing byte", "\x30\x00z", false),
        ROW("half a BMP character", "\x1e\x01z", false),
        ROW("context primitive", "\x86\x01z", true),
        ROW("nine deep",
            "\x30\x12\x30\x10\x30\x0e\x30\x0c\x30\x0a\x30\x08\x30\x06\x30\x04\x30\x02\x30\x00",
            false),
        ROW("eight deep",
            "\x30\x10\x30\x0e\x30\x0c\x30\x0a\x30\x08\x30\x06\x30\x04\x30\x02\x30\x00", true),
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (der_is_sound(rows[i].in) != rows[i].good)
            fail_msg("%s", rows[i].what);
}

static void
rfc5280_4_1_2_5_times(void **state)
{
    static const struct {
        int64_t t;
        const char *text;
    } rows[] = {
        { 0, "\x17\x0d"
             "700101000000Z" },
        { 951782400, "\x17\x0d"
                     "000229000000Z" },
        { 1709164799, "\x17\x0d"
                      "240228235959Z" },
        { 1709164800, "\x17\x0d"
                      "240229000000Z" },
        { 2524607999, "\x17\x0d"
                      "491231235959Z" },
        { 2524608000, "\x18\x0f"
                      "20500101000000Z" },
        { 253402300799, "\x18\x0f"
                        "99991231235959Z" },
    };
    static const char *const wrong[] = {
        "\x17\x0d"
        "230229000000Z",
        "\x17\x0d"
        "231301000000Z",
        "\x17\x0d"
        "23010100006AZ",
        "\x17\x0d"
        "2301010000000",
        "\x17\x0b"
        "2301010000Z",
        "\x18\x0f"
        "20490101000000Z",
        "\x18\x0f"
        "20500001000000Z",
        "\x17\x0d"
        "230101240000Z",
        "\x17\x0d"
        "230101000060Z",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint8_t b[32];
        struct derw w = derw_of(b, sizeof(b));

        derw_time(&w, rows[i].t);
        assert_true(span_eq_str(derw_span(&w), rows[i].text));
        struct der c = der_of(derw_span(&w));
        assert_int_equal(der_time(&c), rows[i].t);
        assert_true(der_done(&c));
    }
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct der c = der_of(span_str(wrong[i]));

        (void)der_time(&c);
        if (!c.bad)
            fail_msg("%s", wrong[i] + 2);
    }
    uint8_t b[32];
    struct derw w = derw_of(b, sizeof(b));
    derw_time(&w, 253402300800);
    assert_true(w.bad);
}

static void
serials_are_positive_and_minimal(void **state)
{
    static const struct {
        struct span in, out;
    } rows[] = {
        { { (const uint8_t *)"\x00\x00", 2 }, { (const uint8_t *)"\x02\x01\x00", 3 } },
        { { (const uint8_t *)"\x00\x7f", 2 }, { (const uint8_t *)"\x02\x01\x7f", 3 } },
        { { (const uint8_t *)"\x00\x80", 2 }, { (const uint8_t *)"\x02\x02\x00\x80", 4 } },
        { { (const uint8_t *)"\xff\x01", 2 }, { (const uint8_t *)"\x02\x03\x00\xff\x01", 5 } },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint8_t b[8];
        struct derw w = derw_of(b, sizeof(b));

        derw_uint(&w, rows[i].in);
        assert_true(span_eq(derw_span(&w), rows[i].out));
    }
}

static void
lengths_cross_their_forms(void **state)
{
    static const size_t sizes[] = { 0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x10000 };
    static uint8_t b[0x10010], zeros[0x10000];

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct derw w = derw_of(b, sizeof(b));

        derw_put(&w, DER_OCTET_STRING, span_of(zeros, sizes[i]));
        struct der c = der_of(derw_span(&w));
        assert_int_equal(der_take(&c, DER_OCTET_STRING).n, sizes[i]);
        assert_true(der_done(&c));
        size_t n = derw_finish(&w);
        assert_int_equal(b[0], DER_OCTET_STRING);
        assert_true(n > sizes[i]);
    }
}

static void
a_full_buffer_is_bad(void **state)
{
    uint8_t b[4];
    struct derw w = derw_of(b, sizeof(b));

    (void)state;
    derw_put(&w, DER_OCTET_STRING, span_str("abc"));
    assert_true(w.bad);
    assert_int_equal(derw_span(&w).n, 0);
    assert_int_equal(derw_finish(&w), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(x690_only_definite_minimal_lengths),
        cmocka_unit_test(badness_sticks),
        cmocka_unit_test(elements_are_held_to_their_form),
        cmocka_unit_test(rfc5280_4_1_2_5_times),
        cmocka_unit_test(serials_are_positive_and_minimal),
        cmocka_unit_test(lengths_cross_their_forms),
        cmocka_unit_test(a_full_buffer_is_bad),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
