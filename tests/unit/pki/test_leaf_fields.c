/* test_leaf_fields.c - a TBSCertificate built by hand, one field at a time another: neither the
 * lint before the signature (leaf_tbs_lint, what the signer's process does) nor the one after it
 * (leaf_lint) lets a wrong one through. The builder shares nothing with the product's writer. */
#include "unit.h"

#include <string.h>

#include "pki/der.h"
#include "pki/issue.h"
#include "pki/leaf.h"

enum part {
    VERSION,
    SERIAL,
    ALGORITHM,
    ISSUER,
    VALIDITY,
    SUBJECT,
    SPKI,
    UNIQUE_IDS, /* absent in a good one, as are the next three */
    EXT_KU,
    EXT_EKU,
    EXT_BC,
    EXT_AKI,
    EXT_SAN,
    EXT_MORE,
    IN_WRAP, /* beside the list of extensions */
    TAIL,    /* after everything */
    PARTS_N,
};

/* clang-format off */
#define B(text)      { (const uint8_t *)(text), sizeof(text) - 1 }
#define UTC(t)       "\x17\x0d" t
#define GENERAL(t)   "\x18\x0f" t
#define VALID(a, b)  B("\x30\x1e" UTC(a) UTC(b))
#define FROM         "231114221320Z" /* 1700000000 */
#define TO           "231115221320Z"
#define SAN_HEAD     "\x06\x03\x55\x1d\x11\x01\x01\xff\x04"
#define ECDSA_SHA256 "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"
#define KU           "\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x07\x80"
#define EKU_HEAD     "\x06\x03\x55\x1d\x25"
#define SERVER_AUTH  "\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"
#define CLIENT_AUTH  "\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02"
#define EKU          "\x30\x1d" EKU_HEAD "\x04\x16\x30\x14" SERVER_AUTH CLIENT_AUTH
#define BC           "\x30\x0c\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x02\x30\x00"
#define SAN_A        "\x30\x22" SAN_HEAD "\x18\x30\x16\x86\x14spiffe://td/ns/a/b/c"
#define SERIAL_16    "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10"
#define EC_POINT     "\x04" SERIAL_16 SERIAL_16 SERIAL_16 SERIAL_16
#define EC_KEY_OID   "\x06\x07\x2a\x86\x48\xce\x3d\x02\x01"
/* clang-format on */

static const char *const name_a[] = { "spiffe://td/ns/a/b/c" };

struct kit {
    struct key *key;
    struct cert *cert;
    struct leaf_template *t;
    struct buf spki;
    uint8_t aki[64];
    struct span good[PARTS_N];
    struct leaf_request request;
};

/* The bytes of a TBSCertificate of `parts`. */
static struct span
tbs_of(const struct span parts[PARTS_N], uint8_t buf[TBS_MAX_BYTES])
{
    struct derw w = derw_of(buf, TBS_MAX_BYTES);
    size_t end = derw_mark(&w);

    derw_bytes(&w, parts[TAIL]);
    size_t wrap = derw_mark(&w);
    derw_bytes(&w, parts[IN_WRAP]);
    size_t list = derw_mark(&w);
    for (int i = EXT_MORE; i >= EXT_KU; i--)
        derw_bytes(&w, parts[i]);
    derw_wrap(&w, DER_SEQUENCE, list);
    derw_wrap(&w, DER_CONTEXT_CONSTRUCTED | 3, wrap);
    for (int i = UNIQUE_IDS; i >= VERSION; i--)
        derw_bytes(&w, parts[i]);
    derw_wrap(&w, DER_SEQUENCE, end);
    assert_false(w.bad);
    return derw_span(&w);
}

static int
setup(void **state)
{
    static struct kit kit;
    struct ca_request q = { .subject = "CN=A", .days = 3650, .path_len = -1 };
    struct kit *k = &kit;
    struct err e;

    *k = (struct kit){ .spki = BUF_INIT(LEAF_MAX_BYTES) };
    assert_ok(key_make(KEY_P256, &k->key, &e));
    assert_ok(root_make(&q, k->key, &k->cert, &e));
    assert_ok(leaf_template_new(k->cert, NULL, &k->t, &e));
    assert_ok(key_spki(k->key, &k->spki, &e));
    struct derw w = derw_of(k->aki, sizeof(k->aki));
    size_t end = derw_mark(&w);
    derw_put(&w, DER_CONTEXT, cert_ski(k->cert));
    derw_wrap(&w, DER_SEQUENCE, end);
    derw_wrap(&w, DER_OCTET_STRING, end);
    derw_bytes(&w, span_of("\x06\x03\x55\x1d\x23", 5));
    derw_wrap(&w, DER_SEQUENCE, end);
    const struct span good[PARTS_N] = {
        [VERSION] = B("\xa0\x03\x02\x01\x02"),
        [SERIAL] = B("\x02\x10" SERIAL_16),
        [ALGORITHM] = B(ECDSA_SHA256),
        [ISSUER] = cert_subject_der(k->cert),
        [VALIDITY] = VALID(FROM, TO),
        [SUBJECT] = B("\x30\x00"),
        [SPKI] = buf_span(&k->spki),
        [EXT_KU] = B(KU),
        [EXT_EKU] = B(EKU),
        [EXT_BC] = B(BC),
        [EXT_AKI] = derw_span(&w),
        [EXT_SAN] = B(SAN_A),
    };
    memcpy(k->good, good, sizeof(good));
    k->request = (struct leaf_request){ .spki = buf_span(&k->spki),
                                        .sans = name_a,
                                        .sans_n = 1,
                                        .not_before = 1700000000,
                                        .not_after = 1700086400 };
    memcpy(k->request.serial, SERIAL_16, 16);
    *state = k;
    return 0;
}

static int
teardown(void **state)
{
    struct kit *k = *state;

    leaf_template_free(k->t);
    cert_unref(k->cert);
    key_unref(k->key);
    buf_done(&k->spki);
    return 0;
}

static void
the_hand_built_one_is_what_the_product_writes(void **state)
{
    struct kit *k = *state;
    uint8_t mine[TBS_MAX_BYTES], theirs[TBS_MAX_BYTES];
    struct leaf_facts f;
    size_t n;
    struct err e;

    struct span tbs = tbs_of(k->good, mine);
    assert_ok(leaf_tbs(k->t, &k->request, theirs, &n, &e));
    assert_true(span_eq(tbs, span_of(theirs, n)));
    assert_ok(leaf_tbs_lint(k->t, tbs, &f, &e));
    assert_int_equal(f.not_before, 1700000000);
    assert_int_equal(f.not_after, 1700086400);
}

struct row {
    const char *what;
    enum part part;
    struct span bytes;
};

/* clang-format off */
static const struct row wrong[] = {
    { "no version", VERSION, B("") },
    { "version 1 written out", VERSION, B("\xa0\x03\x02\x01\x00") },
    { "version 2", VERSION, B("\xa0\x03\x02\x01\x01") },
    { "version 4", VERSION, B("\xa0\x03\x02\x01\x03") },
    { "version in two bytes", VERSION, B("\xa0\x04\x02\x02\x00\x02") },
    { "two versions", VERSION, B("\xa0\x06\x02\x01\x02\x02\x01\x02") },
    { "serial 0", SERIAL, B("\x02\x01\x00") },
    { "serial without bytes", SERIAL, B("\x02\x00") },
    { "negative serial", SERIAL, B("\x02\x10\x81\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10") },
    { "serial with a zero too many", SERIAL, B("\x02\x11\x00" SERIAL_16) },
    { "serial of 17 bytes", SERIAL, B("\x02\x11\x01" SERIAL_16) },
    { "serial of 21 octets", SERIAL, B("\x02\x15\x00\x81\x02\x03\x04" SERIAL_16) },
    { "no serial", SERIAL, B("") },
    { "serial as ENUMERATED", SERIAL, B("\x0a\x10" SERIAL_16) },
    { "ECDSA with SHA-1", ALGORITHM, B("\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01") },
    { "ECDSA with SHA-384", ALGORITHM, B("\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03") },
    { "ECDSA with parameters", ALGORITHM, B("\x30\x0c\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02\x05\x00") },
    { "no algorithm", ALGORITHM, B("") },
    { "another issuer", ISSUER, B("\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01\x42") },
    { "the same issuer as PrintableString", ISSUER, B("\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x13\x01\x41") },
    { "empty issuer", ISSUER, B("\x30\x00") },
    { "times reversed", VALIDITY, VALID(TO, FROM) },
    { "one second", VALIDITY, VALID(FROM, FROM) },
    { "30 February", VALIDITY, VALID(FROM, "240230000000Z") },
    { "29 February 2027", VALIDITY, VALID(FROM, "270229000000Z") },
    { "29 February 2100", VALIDITY, B("\x30\x20" UTC(FROM) GENERAL("21000229000000Z")) },
    { "31 April", VALIDITY, VALID(FROM, "240431000000Z") },
    { "month 13", VALIDITY, VALID(FROM, "241301000000Z") },
    { "month 0", VALIDITY, VALID(FROM, "240001000000Z") },
    { "day 0", VALIDITY, VALID(FROM, "240100000000Z") },
    { "hour 24", VALIDITY, VALID(FROM, "240101240000Z") },
    { "second 60", VALIDITY, VALID(FROM, "240101235960Z") },
    { "no seconds", VALIDITY, B("\x30\x1c" UTC(FROM) "\x17\x0b" "2311152213Z") },
    { "an offset", VALIDITY, B("\x30\x22" UTC(FROM) "\x17\x11" "231115221320+0000") },
    { "no Z", VALIDITY, B("\x30\x1d" UTC(FROM) "\x17\x0c" "231115221320") },
    { "a sign in the digits", VALIDITY, VALID(FROM, "24+101000000Z") },
    { "1950 as the end", VALIDITY, VALID(FROM, "500101000000Z") },
    { "GeneralizedTime before 2050", VALIDITY, B("\x30\x20" UTC(FROM) GENERAL("20231115221320Z")) },
    { "GeneralizedTime of 2049", VALIDITY, B("\x30\x20" UTC(FROM) GENERAL("20491231235959Z")) },
    { "fractions of a second", VALIDITY, B("\x30\x22" UTC(FROM) "\x18\x11" "20500101000000.1Z") },
    { "one time", VALIDITY, B("\x30\x0f" UTC(FROM)) },
    { "three times", VALIDITY, B("\x30\x2d" UTC(FROM) UTC(TO) UTC(TO)) },
    { "a subject", SUBJECT, B("\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01\x41") },
    { "no subject", SUBJECT, B("") },
    { "a compressed point", SPKI, B("\x30\x39\x30\x13" EC_KEY_OID "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x22\x00\x02"
      SERIAL_16 SERIAL_16) },
    { "P-224", SPKI, B("\x30\x4e\x30\x10" EC_KEY_OID "\x06\x05\x2b\x81\x04\x00\x21\x03\x3a\x00\x04" SERIAL_16 SERIAL_16 SERIAL_16
      "12345678") },
    { "another curve's point", SPKI, B("\x30\x56\x30\x10" EC_KEY_OID "\x06\x05\x2b\x81\x04\x00\x22\x03\x42\x00" EC_POINT) },
    { "a key type that is none", SPKI, B("\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00" SERIAL_16 SERIAL_16) },
    { "no key", SPKI, B("\x30\x00") },
    { "issuerUniqueID", UNIQUE_IDS, B("\x81\x02\x00\x01") },
    { "subjectUniqueID", UNIQUE_IDS, B("\x82\x02\x00\x01") },
    { "no key usage", EXT_KU, B("") },
    { "key usage twice", EXT_KU, B(KU KU) },
    { "key usage not critical", EXT_KU, B("\x30\x0b\x06\x03\x55\x1d\x0f\x04\x04\x03\x02\x07\x80") },
    { "keyCertSign too", EXT_KU, B("\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x02\xa4") },
    { "keyEncipherment for an EC key", EXT_KU, B("\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x05\xa0") },
    { "cRLSign only", EXT_KU, B("\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x01\x02") },
    { "critical as 0x01", EXT_KU, B("\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\x01\x04\x04\x03\x02\x07\x80") },
    { "no EKU", EXT_EKU, B("") },
    { "serverAuth only", EXT_EKU, B("\x30\x13" EKU_HEAD "\x04\x0c\x30\x0a" SERVER_AUTH) },
    { "usages in the other order", EXT_EKU, B("\x30\x1d" EKU_HEAD "\x04\x16\x30\x14" CLIENT_AUTH SERVER_AUTH) },
    { "anyExtendedKeyUsage", EXT_EKU, B("\x30\x0f" EKU_HEAD "\x04\x08\x30\x06\x06\x04\x55\x1d\x25\x00") },
    { "empty EKU", EXT_EKU, B("\x30\x09" EKU_HEAD "\x04\x02\x30\x00") },
    { "OCSPSigning too", EXT_EKU, B("\x30\x27" EKU_HEAD "\x04\x20\x30\x1e" SERVER_AUTH CLIENT_AUTH
      "\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x09") },
    { "no basic constraints", EXT_BC, B("") },
    { "CA:TRUE", EXT_BC, B("\x30\x0f\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x05\x30\x03\x01\x01\xff") },
    { "CA:TRUE as 0x01", EXT_BC, B("\x30\x0f\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x05\x30\x03\x01\x01\x01") },
    { "CA:FALSE written out", EXT_BC, B("\x30\x0f\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x05\x30\x03\x01\x01\x00") },
    { "a path length", EXT_BC, B("\x30\x0f\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x05\x30\x03\x02\x01\x00") },
    { "constraints not critical", EXT_BC, B("\x30\x09\x06\x03\x55\x1d\x13\x04\x02\x30\x00") },
    { "no AKI", EXT_AKI, B("") },
    { "another AKI", EXT_AKI, B("\x30\x19\x06\x03\x55\x1d\x23\x04\x12\x30\x10\x80\x0e" "12345678901234") },
    { "AKI with a serial", EXT_AKI, B("\x30\x0e\x06\x03\x55\x1d\x23\x04\x07\x30\x05\x82\x03" "123") },
    { "no name", EXT_SAN, B("") },
    { "an empty list of names", EXT_SAN, B("\x30\x0c" SAN_HEAD "\x02\x30\x00") },
    { "names not critical", EXT_SAN, B("\x30\x1f\x06\x03\x55\x1d\x11\x04\x18\x30\x16\x86\x14spiffe://td/ns/a/b/c") },
    { "two URIs", EXT_SAN, B("\x30\x38" SAN_HEAD "\x2e\x30\x2c\x86\x14spiffe://td/ns/a/b/c\x86\x14spiffe://td/ns/a/b/d") },
    { "a DNS name beside the URI", EXT_SAN, B("\x30\x27" SAN_HEAD "\x1d\x30\x1b\x86\x14spiffe://td/ns/a/b/c\x82\x03" "a.b") },
    { "an https URI", EXT_SAN, B("\x30\x1a" SAN_HEAD "\x10\x30\x0e\x86\x0chttps://td/a") },
    { "an e-mail address", EXT_SAN, B("\x30\x11" SAN_HEAD "\x07\x30\x05\x81\x03" "a@b") },
    { "an otherName", EXT_SAN, B("\x30\x17" SAN_HEAD "\x0d\x30\x0b\xa0\x09\x06\x03\x2a\x03\x04\xa0\x02\x05\x00") },
    { "a directoryName", EXT_SAN, B("\x30\x10" SAN_HEAD "\x06\x30\x04\xa4\x02\x30\x00") },
    { "an IP address of 5 bytes", EXT_SAN, B("\x30\x13" SAN_HEAD "\x09\x30\x07\x87\x05" "12345") },
    { "a NUL in the URI", EXT_SAN, B("\x30\x22" SAN_HEAD "\x18\x30\x16\x86\x14spiffe://td/ns/a/b\x00" "c") },
    { "names twice", EXT_SAN, B(SAN_A SAN_A) },
    { "an extension of no importance", EXT_MORE, B("\x30\x0a\x06\x04\x2a\x03\x04\x05\x04\x02\x05\x00") },
    { "name constraints", EXT_MORE, B("\x30\x0c\x06\x03\x55\x1d\x1e\x01\x01\xff\x04\x02\x30\x00") },
    { "something beside the list", IN_WRAP, B("\x05\x00") },
    { "something after the extensions", TAIL, B("\x05\x00") },
    { "extensions twice", TAIL, B("\xa3\x02\x30\x00") },
};
/* clang-format on */

static void
leaf_lint_refuses(const struct kit *k, struct span tbs, const char *what)
{
    uint8_t whole[LEAF_MAX_BYTES], zeros[64] = { 0 };
    size_t n;
    struct err e;

    assert_ok(leaf_finish(k->t, tbs, span_of(zeros, sizeof(zeros)), whole, &n, &e));
    if (leaf_lint(k->t, &k->request, span_of(whole, n), &e) != -E_DENIED)
        fail_msg("%s: lets out", what);
    assert_non_null(strstr(e.msg, "leaf lint: "));
}

static void
one_wrong_field_is_never_signed_nor_sent(void **state)
{
    struct kit *k = *state;
    bool seen[PARTS_N] = { false };

    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct span parts[PARTS_N];
        uint8_t buf[TBS_MAX_BYTES];
        struct leaf_facts f;
        struct err e;

        memcpy(parts, k->good, sizeof(parts));
        parts[wrong[i].part] = wrong[i].bytes;
        struct span tbs = tbs_of(parts, buf);
        if (leaf_tbs_lint(k->t, tbs, &f, &e) != -E_DENIED)
            fail_msg("%s: would be signed", wrong[i].what);
        assert_non_null(strstr(e.msg, "leaf lint: "));
        leaf_lint_refuses(k, tbs, wrong[i].what);
        seen[wrong[i].part] = true;
    }
    for (size_t i = 0; i < PARTS_N; i++)
        assert_true(seen[i]); /* no field without a wrong row */
}

/* The order of the extensions is the profile's. */
static void
extensions_change_places(void **state)
{
    struct kit *k = *state;

    for (int a = EXT_KU; a <= EXT_SAN; a++)
        for (int b = a + 1; b <= EXT_SAN; b++) {
            struct span parts[PARTS_N];
            uint8_t buf[TBS_MAX_BYTES];
            struct leaf_facts f;
            struct err e;

            memcpy(parts, k->good, sizeof(parts));
            parts[a] = k->good[b];
            parts[b] = k->good[a];
            struct span tbs = tbs_of(parts, buf);
            assert_err(leaf_tbs_lint(k->t, tbs, &f, &e), E_DENIED, "leaf lint");
            leaf_lint_refuses(k, tbs, "changed places");
        }
}

/* What the signer cannot know, the CA's own lint does: the identity that was proved, the key, the
 * time, the serial. */
static void
sound_but_not_what_was_granted(void **state)
{
    static const struct row rows[] = {
        { "another identity", EXT_SAN,
          B("\x30\x22" SAN_HEAD "\x18\x30\x16\x86\x14spiffe://td/ns/a/b/d") },
        { "a server's names", EXT_SAN,
          B("\x30\x11" SAN_HEAD "\x07\x30\x05\x82\x03"
            "a.b") },
        { "another time", VALIDITY, VALID(FROM, "231115221321Z") },
        { "another serial", SERIAL, B("\x02\x01\x01") },
        { "another key", SPKI,
          B("\x30\x59\x30\x13" EC_KEY_OID
            "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00" EC_POINT) },
    };
    struct kit *k = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct span parts[PARTS_N];
        uint8_t buf[TBS_MAX_BYTES];
        struct leaf_facts f;
        struct err e;

        memcpy(parts, k->good, sizeof(parts));
        parts[rows[i].part] = rows[i].bytes;
        struct span tbs = tbs_of(parts, buf);
        assert_ok(leaf_tbs_lint(k->t, tbs, &f, &e));
        leaf_lint_refuses(k, tbs, rows[i].what);
    }
}

/* RFC 5280 4.1.2.5: UTCTime to 2049, GeneralizedTime from 2050; leap days of 2000, 2024, 2096. */
static void
dates_at_the_edges(void **state)
{
    static const struct {
        struct span validity;
        int64_t from, to;
    } rows[] = {
        { VALID("000229000000Z", "240229235959Z"), 951782400, 1709251199 },
        { VALID("491231235958Z", "491231235959Z"), 2524607998, 2524607999 },
        { B("\x30\x20" UTC("491231235959Z") GENERAL("20500101000000Z")), 2524607999, 2524608000 },
        { B("\x30\x22" GENERAL("20960229000000Z") GENERAL("99991231235959Z")), 3981312000,
          253402300799 },
        { VALID("700101000000Z", "700101000001Z"), 0, 1 },
    };
    struct kit *k = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct leaf_request q = k->request;
        uint8_t mine[TBS_MAX_BYTES], theirs[TBS_MAX_BYTES];
        struct span parts[PARTS_N];
        struct leaf_facts f;
        size_t n;
        struct err e;

        memcpy(parts, k->good, sizeof(parts));
        parts[VALIDITY] = rows[i].validity;
        q.not_before = rows[i].from;
        q.not_after = rows[i].to;
        struct span tbs = tbs_of(parts, mine);
        assert_ok(leaf_tbs(k->t, &q, theirs, &n, &e));
        assert_true(span_eq(tbs, span_of(theirs, n)));
        assert_ok(leaf_tbs_lint(k->t, tbs, &f, &e));
        assert_int_equal(f.not_before, rows[i].from);
        assert_int_equal(f.not_after, rows[i].to);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_hand_built_one_is_what_the_product_writes),
        cmocka_unit_test(one_wrong_field_is_never_signed_nor_sent),
        cmocka_unit_test(extensions_change_places),
        cmocka_unit_test(sound_but_not_what_was_granted),
        cmocka_unit_test(dates_at_the_edges),
    };

    return cmocka_run_group_tests_name("pki/leaf_fields", tests, setup, teardown);
}
