/* test_token_review.c - the API server's answer, member by member. */
#include "unit.h"

#include <string.h>

#include "kube/kube.h"

static struct err e;

static const char *const audiences[] = { "istio-ca", "other", NULL };

static int
read_text(const char *text, struct kube_review *ret)
{
    json_t *o = json_loads(text, 0, NULL);

    assert_non_null(o);
    int r = kube_review_read(o, audiences, ret, &e);
    json_decref(o);
    return r;
}

#define REVIEW(status) "{\"kind\":\"TokenReview\",\"status\":{" status "}}"
#define EXTRA(x)       REVIEW("\"user\":{\"extra\":{\"authentication.kubernetes.io/pod-name\":" x "}}")

static void
protos_6_a_good_answer(void **state)
{
    struct kube_review r;

    (void)state;
    assert_ok(read_text(
        REVIEW("\"authenticated\":true,\"audiences\":[\"x\",\"other\"],\"user\":{\"username\":"
               "\"system:serviceaccount:a:b\",\"uid\":\"u\",\"groups\":[\"g\","
               "\"system:serviceaccounts\"],\"extra\":{\"authentication.kubernetes.io/pod-name\":["
               "\"p\"],\"authentication.kubernetes.io/pod-uid\":[\"pu\"],\"more\":[1]}}"),
        &r));
    assert_true(r.is_authenticated && r.has_audience && r.is_service_account);
    assert_string_equal(r.username, "system:serviceaccount:a:b");
    assert_string_equal(r.uid, "u");
    assert_string_equal(r.pod_name, "p");
    assert_string_equal(r.pod_uid, "pu");
    assert_string_equal(r.node_name, "");
    assert_string_equal(r.error, "");
}

static void
nothing_is_true_that_is_not_said(void **state)
{
    static const char *const rows[] = {
        REVIEW(""),
        REVIEW("\"authenticated\":null"),
        REVIEW("\"authenticated\":\"true\""),
        REVIEW("\"authenticated\":1"),
        REVIEW("\"authenticated\":false,\"audiences\":\"istio-ca\""),
        REVIEW("\"audiences\":[[\"istio-ca\"]],\"user\":{\"groups\":\"system:serviceaccounts\"}"),
        REVIEW(
            "\"audiences\":[\"istio-ca2\"],\"user\":{\"groups\":[\"system:serviceaccounts:a\"]}"),
        REVIEW("\"audiences\":{\"istio-ca\":1},\"user\":[]"),
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct kube_review r;

        assert_ok(read_text(rows[i], &r));
        if (r.is_authenticated || r.has_audience || r.is_service_account)
            fail_msg("%s", rows[i]);
    }
}

static void
what_is_no_review(void **state)
{
    char long_name[KUBE_TEXT_BYTES + 128];
    static const char *const rows[] = {
        "{}",
        "{\"kind\":\"TokenReview\"}",
        "{\"kind\":\"TokenReview\",\"status\":[]}",
        "{\"kind\":\"Pod\",\"status\":{}}",
        "{\"kind\":3,\"status\":{}}",
        REVIEW("\"error\":{}"),
        REVIEW("\"user\":{\"username\":3}"),
        REVIEW("\"user\":{\"uid\":[]}"),
        EXTRA("[\"a\",\"b\"]"),
        EXTRA("[3]"),
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct kube_review r = { .is_authenticated = false };

        assert_err(read_text(rows[i], &r), E_PEER, "TokenReview");
    }
    struct kube_review r;
    (void)snprintf(long_name, sizeof(long_name), REVIEW("\"user\":{\"username\":\"%0*d\"}"),
                   KUBE_TEXT_BYTES, 0);
    assert_err(read_text(long_name, &r), E_PEER, "too long");
    assert_ok(read_text(EXTRA("\"p\""), &r)); /* not a list: as if it were not there */
    assert_string_equal(r.pod_name, "");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(protos_6_a_good_answer),
        cmocka_unit_test(nothing_is_true_that_is_not_said),
        cmocka_unit_test(what_is_no_review),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
