/* test_wire.c - Istio's two messages in place, against protobuf-c. */
#include "unit.h"

#include <string.h>

#include "ca/wire.h"
#include "istio_ca.pb-c.h"

#define MSG(s)                                                                                     \
    {                                                                                              \
        (const uint8_t *)(s), sizeof(s) - 1                                                        \
    }

/* specs/protos.md 1, byte for byte, is the first row. */
static void
protos_1_requests_are_read(void **state)
{
    static const struct {
        const char *what;
        struct span msg;
        const char *csr;
        int64_t validity_s;
        const char *impersonated;
    } rows[] = {
        { "as pilot-agent sends it",
          MSG("\x0a\x01X\x18\x80\xa3\x05\x22\x12\x0a\x10\x0a\x0a"
              "CertSigner\x12\x02\x1a\x00"),
          "X", 86400, "" },
        { "nothing at all", MSG(""), "", 0, "" },
        { "negative validity", MSG("\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "", -1, "" },
        { "ztunnel's identity",
          MSG("\x22\x1d\x0a\x1b\x0a\x14"
              "ImpersonatedIdentity\x12\x03\x1a\x01z"),
          "", 0, "z" },
        { "identity as a number",
          MSG("\x22\x1c\x0a\x1a\x0a\x14"
              "ImpersonatedIdentity\x12\x02\x20\x01"),
          "", 0, "" },
        { "identity empty",
          MSG("\x22\x1c\x0a\x1a\x0a\x14"
              "ImpersonatedIdentity\x12\x02\x1a\x00"),
          "", 0, "" },
        { "unknown fields are skipped", MSG("\x12\x01y\x51\0\0\0\0\0\0\0\0\x5d\0\0\0\0\x0a\x01X"),
          "X", 0, "" },
        { "the last csr wins", MSG("\x0a\x01X\x0a\x01Y"), "Y", 0, "" },
    };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct wire_request q;

        if (wire_request_read(rows[i].msg, &q, &e) < 0)
            fail_msg("%s: %s", rows[i].what, e.msg);
        assert_true(span_eq_str(q.csr, rows[i].csr));
        assert_int_equal(q.validity_s, rows[i].validity_s);
        assert_true(span_eq_str(q.impersonated, rows[i].impersonated));
    }
}

static void
what_is_no_message_is_refused(void **state)
{
    static const struct {
        const char *what;
        struct span msg;
    } rows[] = {
        { "a tag only", MSG("\x0a") },
        { "a length that runs over", MSG("\x0a\x05X") },
        { "field 0", MSG("\x02\x00") },
        { "a group", MSG("\x0b\x0c") },
        { "wire type 6", MSG("\x0e\x00") },
        { "a varint without end", MSG("\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01") },
        { "a cut fixed64", MSG("\x51\0\0") },
        { "a broken map entry", MSG("\x22\x03\x0a\x01\x0a") },
    };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct wire_request q;

        if (wire_request_read(rows[i].msg, &q, &e) == 0)
            fail_msg("%s", rows[i].what);
        assert_int_equal(e.code, E_PARSE);
    }
}

/* protobuf-c follows each level with a stack frame; ours does not look inside. */
static void
deep_metadata_costs_nothing(void **state)
{
    static uint8_t msg[60 * 1024];
    struct wire_request q;
    struct err e = { 0 };

    (void)state;
    size_t at = sizeof(msg);
    while (at > 8) { /* Value.list_value of ListValue.values of ... */
        size_t n = sizeof(msg) - at;

        msg[--at] = (uint8_t)(n >> 14);
        msg[--at] = (uint8_t)(n >> 7 | 0x80);
        msg[--at] = (uint8_t)(n | 0x80);
        msg[--at] = 0x32;
    }
    msg[at] = 0x22;
    assert_ok(wire_request_read(span_of(msg + at, sizeof(msg) - at), &q, &e));
    assert_int_equal(q.impersonated.n, 0);
}

static void
answers_are_read_by_protobuf_c(void **state)
{
    static const size_t sizes[] = { 0, 1, 127, 128, 16383, 16384 };
    static uint8_t text[16384];
    CLEANUP(buf_done) struct buf b = BUF_INIT(64 * 1024);
    struct err e = { 0 };

    (void)state;
    memset(text, 'x', sizeof(text));
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        assert_ok(wire_answer_add(&b, span_of(text, sizes[i]), &e));
    Istio__V1__Auth__IstioCertificateResponse *m =
        istio__v1__auth__istio_certificate_response__unpack(NULL, b.n, b.p);
    assert_non_null(m);
    assert_int_equal(m->n_cert_chain, ARRAY_LEN(sizes));
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        assert_int_equal(strlen(m->cert_chain[i]), sizes[i]);
    istio__v1__auth__istio_certificate_response__free_unpacked(m, NULL);
}

/* CVE-2022-48468: unsigned wrap in versions before 1.4.1, which Debian 12 has. */
static void
cve_44_protobuf_c_is_new_enough(void **state)
{
    (void)state;
    assert_true(protobuf_c_version_number() >= 1004001);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(protos_1_requests_are_read),
        cmocka_unit_test(what_is_no_message_is_refused),
        cmocka_unit_test(deep_metadata_costs_nothing),
        cmocka_unit_test(answers_are_read_by_protobuf_c),
        cmocka_unit_test(cve_44_protobuf_c_is_new_enough),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
