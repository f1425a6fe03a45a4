/* test_write.c - paths, objects and the meaning of refusals; the verbs' traffic: tests/e2e. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "kube/feed.h"
#include "kube/status.h"
#include "kube/write.h"
#include "net/json.h"

static struct err e;

static void
paths_lead_nowhere_else(void **state)
{
    static const struct {
        const struct kube_kind *kind;
        const char *ns, *name, *sub, *path; /* path NULL: refused */
    } rows[] = {
        { &kube_secret, "a", "b", NULL, "/api/v1/namespaces/a/secrets/b" },
        { &kube_secret, "a", NULL, NULL, "/api/v1/namespaces/a/secrets" },
        { &kube_secret, NULL, NULL, NULL, "/api/v1/secrets" },
        { &kube_namespace, NULL, "b", "finalize", "/api/v1/namespaces/b/finalize" },
        { &kube_deployment, "a", "b.c-1", "status",
          "/apis/apps/v1/namespaces/a/deployments/b.c-1/status" },
        { &kube_secret, NULL, "b", NULL, NULL },
        { &kube_namespace, "a", "b", NULL, NULL },
        { &kube_secret, "a", "../x", NULL, NULL },
        { &kube_secret, "a", "a..b", NULL, NULL },
        { &kube_secret, "a", "b/c", NULL, NULL },
        { &kube_secret, "a", "b?x=1", NULL, NULL },
        { &kube_secret, "a", "B", NULL, NULL },
        { &kube_secret, "a", "", NULL, NULL },
        { &kube_secret, "", "b", NULL, NULL },
        { &kube_secret, "a", "b", "st/x", NULL },
        { &kube_secret, "a%2fb", "b", NULL, NULL },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(str_freep) char *path = NULL;

        if (rows[i].path == NULL) {
            assert_true(kube_path(rows[i].kind, rows[i].ns, rows[i].name, rows[i].sub, &path, &e) <
                        0);
            assert_int_equal(e.code, E_INVAL);
            continue;
        }
        assert_ok(kube_path(rows[i].kind, rows[i].ns, rows[i].name, rows[i].sub, &path, &e));
        assert_string_equal(path, rows[i].path);
    }
    char *path = NULL, long_name[KUBE_NAME_MAX_BYTES + 2];
    memset(long_name, 'a', sizeof(long_name));
    long_name[KUBE_NAME_MAX_BYTES + 1] = '\0';
    assert_err(kube_path(&kube_secret, "a", long_name, NULL, &path, &e), E_INVAL, "no name");
    long_name[KUBE_NAME_MAX_BYTES] = '\0';
    assert_ok(kube_path(&kube_secret, "a", long_name, NULL, &path, &e));
    free(path);
}

static void
what_is_built_is_read(void **state)
{
    CLEANUP(json_wipe_freep) json_t *o = NULL, *owner = NULL, *map = NULL;
    CLEANUP(buf_wipe) struct buf out = BUF_INIT(64), small = BUF_INIT(4);

    (void)state;
    assert_ok(kube_object_new(&kube_secret, "istio-system", "cacerts", &o, &e));
    assert_ok(kube_object_label(o, "app", "meshroot", &e));
    assert_ok(kube_object_annotate(o, "meshroot.io/generation", "7", &e));
    assert_ok(kube_object_annotate(o, "gone", NULL, &e));
    assert_ok(kube_secret_set(o, "ca-key.pem", span_of("\0key\xff", 5), &e));
    assert_ok(kube_secret_set(o, "empty", span_of("", 0), &e));
    assert_string_equal(kube_object_name(o), "cacerts");
    assert_string_equal(kube_object_ns(o), "istio-system");
    assert_string_equal(kube_object_get_label(o, "app"), "meshroot");
    assert_string_equal(kube_object_get_annotation(o, "meshroot.io/generation"), "7");
    assert_string_equal(kube_object_get_annotation(o, "gone"), "");
    assert_string_equal(kube_object_text(o, "metadata.name"), "cacerts");
    assert_string_equal(kube_object_text(o, "metadata"), "");
    assert_string_equal(kube_object_text(o, "x.y.z"), "");
    assert_ok(kube_secret_get(o, "ca-key.pem", &out, &e));
    assert_int_equal(out.n, 5);
    assert_memory_equal(out.p, "\0key\xff", 5);
    assert_int_equal(kube_secret_get(o, "none", &out, &e), KUBE_DATA_ABSENT);
    assert_err(kube_secret_get(o, "ca-key.pem", &small, &e), E_LIMIT, "ca-key.pem");
    assert_int_equal(json_object_set_new(json_object_get(o, "data"), "bad", json_string("!")), 0);
    assert_err(kube_secret_get(o, "bad", &out, &e), E_PARSE, "bad");
    assert_ok(kube_object_new(&kube_config_map, NULL, "m", &map, &e));
    assert_ok(kube_config_map_set(map, "root-cert.pem", span_str("PEM"), &e));
    assert_err(kube_config_map_set(map, "x", span_of("\xff", 1), &e), E_INVAL, "UTF-8");
    assert_string_equal(kube_object_ns(map), "");
    /* an owner has a uid */
    assert_ok(kube_object_new(&kube_namespace, NULL, "n", &owner, &e));
    assert_err(kube_object_own(o, owner, true, &e), E_INVAL, "uid");
    assert_int_equal(
        json_object_set_new(json_object_get(owner, "metadata"), "uid", json_string("u-1")), 0);
    assert_ok(kube_object_own(o, owner, true, &e));
    assert_ok(kube_object_own(o, owner, false, &e));
    const json_t *refs = json_object_get(json_object_get(o, "metadata"), "ownerReferences");
    assert_int_equal(json_array_size(refs), 2);
    assert_string_equal(kube_object_text(json_array_get(refs, 0), "uid"), "u-1");
    assert_true(json_is_true(json_object_get(json_array_get(refs, 0), "controller")));
    /* a guard is what was read */
    assert_err(kube_object_guard(o, kube_object_version(owner), &e), E_PARSE, "resourceVersion");
    assert_int_equal(json_object_set_new(json_object_get(owner, "metadata"), "resourceVersion",
                                         json_string("41")),
                     0);
    assert_ok(kube_object_guard(o, kube_object_version(owner), &e));
    assert_string_equal(kube_object_version(o), "41");
    assert_false(kube_object_is_going(o));
}

static void
data_has_an_end(void **state)
{
    CLEANUP(json_wipe_freep) json_t *o = NULL;
    uint8_t *big = calloc(1, KUBE_DATA_MAX_BYTES + 1);

    (void)state;
    assert_non_null(big);
    assert_ok(kube_object_new(&kube_secret, "a", "b", &o, &e));
    assert_ok(kube_secret_set(o, "k", span_of(big, KUBE_DATA_MAX_BYTES), &e));
    assert_err(kube_secret_set(o, "k", span_of(big, KUBE_DATA_MAX_BYTES + 1), &e), E_LIMIT,
               "\"k\"");
    assert_err(kube_config_map_set(o, "k", span_of(big, KUBE_DATA_MAX_BYTES + 1), &e), E_LIMIT,
               "\"k\"");
    free(big);
}

static void
a_refusal_says_what_to_do(void **state)
{
    static const struct {
        int status;
        const char *body;
        enum err_code code;
        const char *words;
    } rows[] = {
        { 409, "{\"reason\":\"AlreadyExists\",\"message\":\"secrets \\\"x\\\" already exists\"}",
          E_EXISTS, "already exists" },
        { 409, "{\"reason\":\"Conflict\",\"message\":\"the object has been modified\"}", E_CONFLICT,
          "has been modified" },
        { 409, "{}", E_CONFLICT, "no reason given" },
        { 403,
          "{\"reason\":\"Forbidden\",\"message\":\"User \\\"op\\\" cannot patch resource "
          "\\\"secrets\\\" in API group \\\"\\\" in the namespace \\\"istio-system\\\"\"}",
          E_DENIED, "cannot patch resource \"secrets\" in API group \"\" in the namespace" },
        { 403,
          "{\"reason\":\"Forbidden\",\"message\":\"is being terminated\",\"details\":{\"causes\":[{"
          "\"reason\":\"NamespaceTerminating\"}]}}",
          E_STATE, "is being terminated" },
        { 404, "{\"reason\":\"NotFound\"}", E_NOTFOUND, "404" },
        { 413, "{}", E_LIMIT, "413" },
        { 422, "{\"reason\":\"Invalid\",\"message\":\"spec.x\\n: must\"}", E_INVAL,
          "spec.x : must" },
        { 500, "{\"reason\":\"AlreadyExists\"}", E_PEER, "500" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(json_wipe_freep) json_t *o = NULL;

        assert_ok(json_object_parse(span_str(rows[i].body), KUBE_MAX_DEPTH, &o, &e));
        kube_status_error(rows[i].status, "POST", o, &e);
        assert_int_equal(e.code, rows[i].code);
        assert_non_null(strstr(e.msg, rows[i].words));
    }
}

static void
on_never(const json_t *body, const struct err *why, void *arg)
{
    (void)body;
    (void)why;
    (void)arg;
}

/* What cannot be right is not sent. */
static void
refused_at_once(void **state)
{
    static char server[] = "https://127.0.0.1:1";
    struct kube_conf conf = { .server = server };
    CLEANUP(json_wipe_freep) json_t *o = NULL;
    struct kube_client *c = NULL;
    struct kube_call *call = NULL;
    struct loop *l = NULL;

    (void)state;
    assert_ok(loop_new(&l, &e));
    assert_ok(kube_client_new(l, &conf, NULL, &c, &e));
    assert_ok(kube_object_new(&kube_secret, NULL, "x", &o, &e));
    struct kube_write w = { .kind = &kube_secret, .object = o };
    assert_err(kube_create(c, &w, on_never, NULL, NULL, &e), E_INVAL, "no namespace");
    w.ns = "a";
    assert_err(kube_update(c, &w, on_never, NULL, NULL, &e), E_INVAL, "resourceVersion");
    w.manager = "two words";
    assert_err(kube_apply(c, &w, on_never, NULL, NULL, &e), E_INVAL, "field manager");
    w.manager = NULL;
    assert_err(kube_delete(c, &w, on_never, NULL, NULL, &e), E_INVAL, "names what goes");
    w.object = o; /* two data of the largest size are too large a request */
    char *big = malloc(KUBE_DATA_MAX_BYTES + 1);
    assert_non_null(big);
    memset(big, 'a', KUBE_DATA_MAX_BYTES);
    big[KUBE_DATA_MAX_BYTES] = '\0';
    assert_ok(kube_config_map_set(o, "a", span_str(big), &e));
    assert_ok(kube_patch(c, &w, on_never, NULL, &call, &e));
    kube_cancel(call);
    assert_ok(kube_config_map_set(o, "b", span_str(big), &e));
    assert_err(kube_patch(c, &w, on_never, NULL, NULL, &e), E_LIMIT, "an object for");
    free(big);
    w.object = NULL;
    assert_err(kube_patch(c, &w, on_never, NULL, NULL, &e), E_INVAL, "no object");
    kube_client_free(c);
    loop_free(l);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_lead_nowhere_else), cmocka_unit_test(what_is_built_is_read),
        cmocka_unit_test(data_has_an_end),         cmocka_unit_test(a_refusal_says_what_to_do),
        cmocka_unit_test(refused_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
