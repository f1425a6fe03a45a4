#include "ca_kit.h"

static void
keys_round_trip(void **state)
{
    static const enum key_kind rows[] = { KEY_P256, KEY_P384, KEY_P521, KEY_RSA2048, KEY_ED25519 };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf pem = BUF_INIT(PEM_MAX_BYTES);
        struct key *k = NULL, *again = NULL;
        enum key_kind kind = KEY_NONE;

        assert_ok(key_make(rows[i], &k, &e));
        assert_int_equal(key_get_kind(k), rows[i]);
        assert_ok(key_to_pem(k, &pem, &e));
        assert_non_null(strstr(buf_text(&pem), "-----BEGIN PRIVATE KEY-----\n"));
        assert_ok(key_from_pem(buf_span(&pem), &again, &e));
        assert_int_equal(key_get_kind(again), rows[i]);
        assert_ok(key_kind_parse(key_kind_name(rows[i]), &kind, &e));
        assert_int_equal(kind, rows[i]);
        key_unref(key_ref(k));
        key_unref(k);
        key_unref(again);
        buf_wipe(&pem);
    }
}

static void
makes_and_verifies(void **state)
{
    struct ca root, inter;
    struct roots *roots = NULL;
    struct cert *end = NULL;
    char text[NAME_TEXT_BYTES];
    struct err e;

    (void)state;
    ca_make(&root, NULL, "O=Istio,CN=Root A", -1);
    ca_make(&inter, &root, "O=Istio,CN=Intermediate CA - A1,L=cluster-A1", 0);
    assert_true(cert_is_ca(root.cert) && cert_is_self_signed(root.cert));
    assert_true(cert_is_ca(inter.cert) && !cert_is_self_signed(inter.cert));
    assert_int_equal(cert_path_len(root.cert), -1);
    assert_int_equal(cert_path_len(inter.cert), 0);
    assert_true(span_eq(cert_aki(inter.cert), cert_ski(root.cert)));
    assert_int_equal(cert_ski(inter.cert).n, 20);
    assert_int_equal(cert_serial(inter.cert).n, 16);
    cert_subject_text(inter.cert, text);
    assert_string_equal(text, "CN=Intermediate CA - A1,O=Istio,L=cluster-A1");
    assert_ok(roots_from_certs(&root.cert, 1, &roots, &e));
    assert_ok(roots_verify(roots, inter.cert, NULL, 0, &end, &e));
    assert_ptr_equal(end, root.cert);
    clock_shift_for_test(101 * 86400);
    assert_err(roots_verify(roots, inter.cert, NULL, 0, &end, &e), E_DENIED, "expired at");
    clock_shift_for_test(0);
    roots_unref(roots);
    ca_done(&inter);
    ca_done(&root);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_round_trip),
        cmocka_unit_test(makes_and_verifies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
