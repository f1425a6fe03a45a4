#include "unit.h"

#include <string.h>

#include "pki/seal.h"

static struct err e;
static const uint8_t key_a[SEAL_KEY_BYTES] = { 1 }, key_b[SEAL_KEY_BYTES] = { 2 };

static struct seal *
seal_with(const uint8_t *key)
{
    struct seal *s = NULL;

    assert_ok(seal_new(span_of(key, SEAL_KEY_BYTES), &s, &e));
    return s;
}

static void
values_come_back(void **state)
{
    static const size_t sizes[] = { 0, 1, 15, 16, 17, 25600 };
    static uint8_t value[25600];
    struct seal *s = seal_with(key_a);

    (void)state;
    memset(value, 'v', sizeof(value));
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct buf sealed = BUF_INIT(1 << 20), plain = BUF_INIT(1 << 20);

        assert_ok(seal_close(s, "vault/v/n/1", span_of(value, sizes[i]), &sealed, &e));
        assert_int_equal(sealed.n, sizes[i] + SEAL_OVERHEAD_BYTES);
        assert_ok(seal_open(s, "vault/v/n/1", buf_span(&sealed), &plain, &e));
        assert_true(span_eq(buf_span(&plain), span_of(value, sizes[i])));
        buf_done(&sealed);
        buf_wipe(&plain);
    }
    seal_free(s);
}

static void
the_same_value_never_looks_the_same(void **state)
{
    struct buf a = BUF_INIT(4096), b = BUF_INIT(4096);
    struct seal *s = seal_with(key_a);

    (void)state;
    assert_ok(seal_close(s, "n", span_str("value"), &a, &e));
    assert_ok(seal_close(s, "n", span_str("value"), &b, &e));
    assert_false(span_eq(buf_span(&a), buf_span(&b)));
    assert_null(memmem(a.p, a.n, "value", 5));
    buf_done(&a);
    buf_done(&b);
    seal_free(s);
}

static void
every_changed_byte_is_noticed(void **state)
{
    struct buf sealed = BUF_INIT(4096), plain = BUF_INIT(4096);
    struct seal *s = seal_with(key_a);

    (void)state;
    assert_ok(seal_close(s, "root-cert", span_str("a value"), &sealed, &e));
    for (size_t i = 0; i < sealed.n; i++) {
        sealed.p[i] ^= 1;
        assert_err(seal_open(s, "root-cert", buf_span(&sealed), &plain, &e), E_CRYPTO, "root-cert");
        sealed.p[i] ^= 1;
        assert_int_equal(plain.n, 0);
    }
    for (size_t n = 0; n < sealed.n; n++)
        assert_err(seal_open(s, "root-cert", span_of(sealed.p, n), &plain, &e), E_CRYPTO,
                   "root-cert");
    assert_ok(seal_open(s, "root-cert", buf_span(&sealed), &plain, &e));
    buf_done(&sealed);
    buf_done(&plain);
    seal_free(s);
}

static void
another_record_or_master_key_does_not_open_it(void **state)
{
    struct buf sealed = BUF_INIT(4096), plain = BUF_INIT(4096);
    struct seal *a = seal_with(key_a), *b = seal_with(key_b);

    (void)state;
    assert_ok(seal_close(a, "ca-key", span_str("k"), &sealed, &e));
    assert_err(seal_open(a, "ca-key2", buf_span(&sealed), &plain, &e), E_CRYPTO, "ca-key2");
    assert_err(seal_open(b, "ca-key", buf_span(&sealed), &plain, &e), E_CRYPTO, "master key");
    assert_int_equal(plain.n, 0);
    buf_done(&sealed);
    buf_done(&plain);
    seal_free(a);
    seal_free(b);
}

static void
limits(void **state)
{
    struct buf small = BUF_INIT(SEAL_OVERHEAD_BYTES), plain = BUF_INIT(4);
    static uint8_t big[SEAL_MAX_BYTES + 1];
    struct seal *s = NULL;

    (void)state;
    assert_err(seal_new(span_of(key_a, 31), &s, &e), E_INVAL, "31 bytes");
    s = seal_with(key_a);
    assert_err(seal_close(s, "n", span_of(big, sizeof(big)), &plain, &e), E_LIMIT, "n: ");
    assert_err(seal_close(s, "n", span_str("x"), &small, &e), E_LIMIT, "");
    assert_int_equal(small.n, 0); /* nothing half-written */
    buf_done(&small);
    seal_free(s);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_come_back),
        cmocka_unit_test(the_same_value_never_looks_the_same),
        cmocka_unit_test(every_changed_byte_is_noticed),
        cmocka_unit_test(another_record_or_master_key_does_not_open_it),
        cmocka_unit_test(limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
