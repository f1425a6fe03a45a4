/* test_jwt_keys.c - which key signs JWT-SVIDs, and which ones are published, moment by moment. */
#include "kit.h"

#include "base/str.h"

enum { PUBLISH_MS = 60 * 1000, GONE_MS = (SIGNER_JWT_LIFE_S + CA_JWT_SLACK_S) * 1000 };

struct scene {
    struct kit kit; /* its signer stands for the key that is loaded */
    struct cert *certs[3];
    char kids[3][JWK_THUMBPRINT_BYTES];
    struct ca_jwt j;
};

static int
setup(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    struct err e = { 0 };

    assert_non_null(s);
    kit_make(&s->kit, "A", 100);
    for (size_t i = 0; i < ARRAY_LEN(s->certs); i++) {
        CLEANUP(buf_done) struct buf jwk = BUF_INIT(CA_JWK_BYTES);
        struct ca_request q = { .subject = "CN=X", .days = 10, .path_len = -1 };
        CLEANUP(key_unrefp) struct key *k = NULL;

        assert_ok(key_make(KEY_P256, &k, &e));
        assert_ok(root_make(&q, k, &s->certs[i], &e));
        assert_ok(jwk_of_cert(s->certs[i], s->kids[i], &jwk, &e));
    }
    *state = s;
    return 0;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    ca_jwt_done(&s->j);
    for (size_t i = 0; i < ARRAY_LEN(s->certs); i++)
        cert_unref(s->certs[i]);
    kit_done(&s->kit);
    free(s);
    return 0;
}

static void
use(struct scene *s, size_t i, uint64_t now_ms)
{
    struct err e = { 0 };

    assert_ok(ca_jwt_use(&s->j, s->certs[i], s->kit.signer, PUBLISH_MS, now_ms, &e));
}

/* "01": the keys that are published, by number; then who signs, '-' nobody. */
static void
assert_state(struct scene *s, uint64_t now_ms, const char *published, char signs)
{
    char got[8] = "", who = '-';
    uint64_t next;

    (void)ca_jwt_tick(&s->j, now_ms, &next);
    const struct ca_jwt_key *k = ca_jwt_signing(&s->j, now_ms);
    for (size_t i = 0; i < s->j.n; i++)
        for (size_t n = 0; n < ARRAY_LEN(s->kids); n++) {
            if (strcmp(s->j.keys[i].kid, s->kids[n]) == 0)
                got[i] = (char)('0' + n);
            if (k != NULL && strcmp(k->kid, s->kids[n]) == 0)
                who = (char)('0' + n);
        }
    if (strcmp(got, published) != 0 || who != signs)
        fail_msg("at %llu: \"%s\" are published and %c signs, not \"%s\" and %c",
                 (unsigned long long)now_ms, got, who, published, signs);
}

static void
a_new_key_waits_and_an_old_one_lingers(void **state)
{
    struct scene *s = *state;

    assert_state(s, 1000, "", '-');
    use(s, 0, 1000);
    assert_state(s, 1000, "0", '0'); /* the first: nobody has another one */
    use(s, 1, 5000);
    assert_state(s, 5000, "01", '0');
    assert_state(s, 5000 + PUBLISH_MS - 1, "01", '0');
    assert_state(s, 5000 + PUBLISH_MS, "01", '1');
    assert_null(s->j.keys[0].signer); /* the signer process may forget it */
    assert_state(s, 5000 + PUBLISH_MS + GONE_MS - 1, "01", '1');
    assert_state(s, 5000 + PUBLISH_MS + GONE_MS, "1", '1');
}

static void
the_same_again_changes_nothing(void **state)
{
    struct scene *s = *state;

    use(s, 0, 1000);
    use(s, 1, 5000);
    use(s, 1, 9000);
    assert_state(s, 5000 + PUBLISH_MS, "01", '1');
    use(s, 1, 5000 + PUBLISH_MS);
    assert_state(s, 5000 + PUBLISH_MS, "01", '1');
}

static void
back_and_forth_before_and_after_it_signed(void **state)
{
    struct scene *s = *state;

    use(s, 0, 1000);
    use(s, 1, 5000);
    use(s, 0, 6000); /* back before 1 signed */
    assert_state(s, 6000, "10", '0');
    use(s, 1, 7000); /* published since 5000 */
    assert_state(s, 5000 + PUBLISH_MS, "01", '1');
    use(s, 0, 70000); /* back after: 0 is published still */
    assert_state(s, 70000, "10", '0');
    assert_state(s, 70000 + GONE_MS, "0", '0');
    use(s, 1, 900000); /* gone from everywhere: it waits again */
    assert_state(s, 900000, "01", '0');
}

static void
two_rotations_in_a_row(void **state)
{
    struct scene *s = *state;

    use(s, 0, 1000);
    use(s, 1, 5000);
    use(s, 2, 6000);
    assert_state(s, 5000 + PUBLISH_MS, "012", '1'); /* it is loaded, and published long enough */
    assert_state(s, 6000 + PUBLISH_MS, "012", '2');
    assert_state(s, 6000 + PUBLISH_MS + GONE_MS, "2", '2');
}

/* A new signer process has the newest key only: until that may sign, none does. */
static void
a_lost_key_does_not_sign(void **state)
{
    struct scene *s = *state;

    use(s, 0, 1000);
    use(s, 1, 5000);
    ca_jwt_adopt(&s->j, s->kit.signer);
    assert_state(s, 6000, "01", '-');
    assert_state(s, 5000 + PUBLISH_MS, "01", '1');
}

static void
a_restart_goes_on_where_it_was(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done)
    struct buf text = BUF_INIT(65536), doc = BUF_INIT(65536), again = BUF_INIT(65536);
    struct err e = { 0 };

    use(s, 0, 1000);
    use(s, 1, 5000);
    assert_ok(ca_jwt_write(&s->j, 5000, &text, &e));
    assert_ok(ca_jwt_bundle(&s->j, &doc, &e));
    ca_jwt_done(&s->j);
    /* another process, whose clock began elsewhere */
    assert_ok(ca_jwt_recall(buf_span(&text), PUBLISH_MS, 77, &s->j, &e));
    assert_ok(ca_jwt_bundle(&s->j, &again, &e));
    assert_string_equal(buf_text(&again), buf_text(&doc));
    use(s, 1, 77);
    assert_state(s, 77, "01", '-'); /* 0 is not loaded, 1 not yet published long enough */
    assert_state(s, 77 + PUBLISH_MS + 1000, "01", '1');
}

/* However far the wall clock jumped while it was away: no longer than a whole wait. */
static void
a_clock_that_jumped_delays_by_one_wait_at_most(void **state)
{
    static const struct {
        const char *from, *to;
    } rows[] = { { "\"ready\":1", "\"ready\":99999999999" },
                 { "\"gone\":1", "\"gone\":99999999999" } };
    struct scene *s = *state;
    char text[1024];
    struct err e = { 0 };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        bool is_gone = i == 1;

        (void)snprintf(
            text, sizeof(text),
            "{\"keys\":[{\"kid\":\"%s\",\"ready\":%s,\"gone\":%s,\"jwk\":{\"kty\":\"EC\"}}]}",
            s->kids[0], is_gone ? "1" : "99999999999", is_gone ? "99999999999" : "0");
        assert_ok(ca_jwt_recall(span_str(text), PUBLISH_MS, 5000, &s->j, &e));
        assert_true(s->j.keys[0].ready_ms <= 5000 + PUBLISH_MS);
        assert_true(s->j.keys[0].gone_ms <= 5000 + GONE_MS + 1);
        ca_jwt_done(&s->j);
    }
}

static void
a_bad_file_is_refused(void **state)
{
    static const char *const rows[] = { "",
                                        "x",
                                        "[]",
                                        "{}",
                                        "{\"keys\":{}}",
                                        "{\"keys\":[1]}",
                                        "{\"keys\":[{\"kid\":\"short\",\"jwk\":{}}]}",
                                        "{\"keys\":[{\"kid\":\"\\\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                        "aaaaaaaaaaaa\",\"jwk\":{}}]}", /* is no base64url */
                                        "{\"keys\":[{},{},{},{},{},{},{},{},{}]}" };
    struct scene *s = *state;
    struct err e = { 0 };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_err(ca_jwt_recall(span_str(rows[i]), PUBLISH_MS, 1, &s->j, &e), E_PARSE, "jwt-keys");
    assert_int_equal(s->j.n, 0);
}

int
main(int argc, char *argv[])
{
    signer_child_run(argc, argv);
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_new_key_waits_and_an_old_one_lingers),
        T(the_same_again_changes_nothing),
        T(back_and_forth_before_and_after_it_signed),
        T(two_rotations_in_a_row),
        T(a_lost_key_does_not_sign),
        T(a_restart_goes_on_where_it_was),
        T(a_clock_that_jumped_delays_by_one_wait_at_most),
        T(a_bad_file_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
