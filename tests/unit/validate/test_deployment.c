/* What is read from Deployments, pods and managedFields, and what is written on them. */
#include "unit.h"

#include <string.h>

#include "net/json.h"
#include "kube/write.h"
#include "validate/deployment.h"

static struct err e;

static json_t *
json(const char *text)
{
    json_t *o = NULL;

    assert_ok(json_object_parse(span_str(text), 32, &o, &e));
    return o;
}

/* A Deployment with these containers. */
static json_t *
deployment(const char *containers)
{
    char text[2048];

    (void)snprintf(text, sizeof(text),
                   "{\"metadata\":{\"name\":\"istiod\",\"resourceVersion\":\"7\"},\"spec\":{"
                   "\"template\":{\"spec\":{\"containers\":%s}}}}",
                   containers);
    return json(text);
}

#define MULTI(v)                                                                                   \
    "\"env\":[{\"name\":\"A\",\"value\":\"true\"},{\"name\":\"ISTIO_MULTIROOT_MESH\",\"value\":"   \
    "\"" v "\"}]"

static void
which_istiod(void **state)
{
    static const struct {
        const char *containers, *version;
        bool is_multiroot, takes_hot, by_text;
    } rows[] = {
        { "[{\"name\":\"discovery\",\"image\":\"docker.io/istio/pilot:1.17.2\"}]", "1.17.2", false,
          false, true },
        { "[{\"name\":\"x\"},{\"name\":\"discovery\",\"image\":\"h:5000/"
          "pilot:1.22.0-distroless@sha256:ab\"," MULTI("true") "}]",
          "1.22.0-distroless", true, true, true },
        { "[{\"name\":\"discovery\",\"image\":\"pilot:1.19.9\"," MULTI("true") "}]", "1.19.9", true,
          false, true },
        { "[{\"name\":\"discovery\",\"image\":\"pilot:1.20\"," MULTI("false") "}]", "1.20", false,
          false, true },
        { "[{\"name\":\"discovery\",\"image\":\"pilot:1.30.0-rc.1\"," MULTI("true") "}]",
          "1.30.0-rc.1", true, true, false },
        { "[{\"name\":\"discovery\",\"image\":\"pilot:2.0.0\"," MULTI("true") "}]", "2.0.0", true,
          true, false },
        { "[{\"name\":\"discovery\",\"image\":\"h:5000/pilot\"," MULTI("true") "}]", "", true, true,
          false },
        { "[{\"name\":\"discovery\",\"image\":\"pilot:latest\"}]", "latest", false, false, false },
        { "[{\"name\":\"pilot\",\"image\":\"pilot:1.31.4\"}]", "1.31.4", false, false, false },
        { "[{\"name\":\"discovery\"}]", "", false, false, false },
        { "[{\"name\":\"discovery\",\"image\":7,\"env\":\"none\"}]", "", false, false, false },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        json_t *d = deployment(rows[i].containers);
        struct validate_istiod got;

        assert_ok(validate_istiod_read(d, &got, &e));
        assert_string_equal(got.version, rows[i].version);
        assert_int_equal(got.is_multiroot, rows[i].is_multiroot);
        assert_int_equal(got.takes_roots_hot, rows[i].takes_hot);
        assert_int_equal(got.hot_compares_text, rows[i].by_text);
        json_decref(d);
    }
    json_t *d = deployment("[{\"name\":\"a\"},{\"name\":\"b\"}]");
    struct validate_istiod got;
    assert_err(validate_istiod_read(d, &got, &e), E_PARSE, "no container \"discovery\"");
    json_decref(d);
    d = json("{}");
    assert_err(validate_istiod_read(d, &got, &e), E_PARSE, "no container");
    json_decref(d);
}

/* kubectl's order of questions, and its words. */
static void
the_rollout(void **state)
{
    static const struct {
        const char *generation, *spec, *status;
        enum validate_rollout is;
        const char *words;
    } rows[] = {
        { "2", "\"replicas\":2",
          "\"observedGeneration\":2,\"replicas\":2,\"updatedReplicas\":2,\"availableReplicas\":2",
          ROLLOUT_DONE, "deployment \"istiod\" successfully rolled out" },
        { "3", "\"replicas\":2",
          "\"observedGeneration\":2,\"replicas\":2,\"updatedReplicas\":2,\"availableReplicas\":2",
          ROLLOUT_UNDER_WAY, "Waiting for deployment spec update to be observed..." },
        { "2", "\"replicas\":2", "\"observedGeneration\":2,\"replicas\":3,\"updatedReplicas\":1",
          ROLLOUT_UNDER_WAY, "1 out of 2 new replicas have been updated" },
        { "2", "\"replicas\":2",
          "\"observedGeneration\":2,\"replicas\":3,\"updatedReplicas\":2,\"availableReplicas\":2",
          ROLLOUT_UNDER_WAY, "1 old replicas are pending termination" },
        { "2", "\"replicas\":2",
          "\"observedGeneration\":2,\"replicas\":2,\"updatedReplicas\":2,\"availableReplicas\":1",
          ROLLOUT_UNDER_WAY, "1 of 2 updated replicas are available" },
        { "2", "\"paused\":true", "\"observedGeneration\":2,\"replicas\":1,\"updatedReplicas\":0",
          ROLLOUT_UNDER_WAY, "0 out of 1 new replicas" },
        { "2", "\"replicas\":0", "\"observedGeneration\":2", ROLLOUT_DONE, "successfully" },
        { "2", "\"replicas\":1",
          "\"observedGeneration\":2,\"replicas\":2,\"updatedReplicas\":1,\"conditions\":[{\"type\":"
          "\"Available\",\"reason\":\"ProgressDeadlineExceeded\"},{\"type\":\"Progressing\","
          "\"reason\":\"ProgressDeadlineExceeded\"}]",
          ROLLOUT_FAILED, "deployment \"istiod\" exceeded its progress deadline" },
        /* an old failure, not yet looked at again */
        { "3", "\"replicas\":1",
          "\"observedGeneration\":2,\"conditions\":[{\"type\":\"Progressing\",\"reason\":"
          "\"ProgressDeadlineExceeded\"}]",
          ROLLOUT_UNDER_WAY, "to be observed" },
        { "2", "\"replicas\":1",
          "\"observedGeneration\":2,\"replicas\":2,\"updatedReplicas\":1,\"conditions\":[{\"type\":"
          "\"Progressing\",\"reason\":\"ReplicaSetUpdated\"}]",
          ROLLOUT_UNDER_WAY, "pending termination" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[1024], words[VALIDATE_WHY_BYTES];

        (void)snprintf(text, sizeof(text),
                       "{\"metadata\":{\"name\":\"istiod\",\"generation\":%s},\"spec\":{%s},"
                       "\"status\":{%s}}",
                       rows[i].generation, rows[i].spec, rows[i].status);
        json_t *d = json(text);
        assert_int_equal(validate_rollout_read(d, words), rows[i].is);
        if (strstr(words, rows[i].words) == NULL)
            fail_msg("row %zu: %s", i, words);
        assert_int_equal(validate_is_paused(d), i == 5);
        json_decref(d);
    }
}

static void
whose_pod(void **state)
{
    static const struct {
        const char *selector, *labels;
        int r; /* <0: refused */
    } rows[] = {
        { "{\"matchLabels\":{\"app\":\"istiod\"}}", "{\"app\":\"istiod\",\"x\":\"y\"}", 0 },
        { "{\"matchLabels\":{\"app\":\"istiod\"}}", "{\"app\":\"other\"}", VALIDATE_NOT_ITS },
        { "{\"matchLabels\":{\"app\":\"istiod\",\"istio.io/rev\":\"b\"}}", "{\"app\":\"istiod\"}",
          VALIDATE_NOT_ITS },
        { "{\"matchLabels\":{\"app\":7}}", "{\"app\":\"7\"}", VALIDATE_NOT_ITS },
        { "{\"matchLabels\":{}}", "{}", -1 },
        { "{}", "{}", -1 },
        { "{\"matchLabels\":{\"a\":\"b\"},\"matchExpressions\":[{}]}", "{\"a\":\"b\"}", -1 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[512];

        (void)snprintf(text, sizeof(text), "{\"spec\":{\"selector\":%s}}", rows[i].selector);
        json_t *d = json(text);
        (void)snprintf(text, sizeof(text), "{\"metadata\":{\"labels\":%s}}", rows[i].labels);
        json_t *pod = json(text);
        if (rows[i].r < 0)
            assert_err(validate_is_its_pod(d, pod, &e), E_PARSE, "by labels alone");
        else
            assert_int_equal(validate_is_its_pod(d, pod, &e), rows[i].r);
        json_decref(d);
        json_decref(pod);
    }
}

static void
which_pods_are_workloads(void **state)
{
    static const struct {
        const char *spec;
        bool is;
    } rows[] = {
        { "{\"containers\":[{\"name\":\"app\"},{\"name\":\"istio-proxy\"}]}", true },
        { "{\"containers\":[{\"name\":\"app\"}],\"initContainers\":[{\"name\":\"istio-proxy\"}]}",
          true },
        { "{\"containers\":[{\"name\":\"app\"}]}", false },
        { "{}", false },
        { "{\"volumes\":[{\"configMap\":{\"name\":\"istio-ca-root-cert\"}}]}", true },
        { "{\"volumes\":[{\"configMap\":{\"name\":\"kube-root-ca.crt\"}}]}", false },
        { "{\"volumes\":[{\"projected\":{\"sources\":[{\"serviceAccountToken\":{\"path\":\"t\"}},"
          "{\"serviceAccountToken\":{\"audience\":\"istio-ca\"}}]}}]}",
          true },
        { "{\"volumes\":[{\"projected\":{\"sources\":[{\"serviceAccountToken\":{\"audience\":"
          "\"vault\"}}]}}]}",
          false },
        { "{\"volumes\":[{\"projected\":{\"sources\":[{\"configMap\":{\"name\":"
          "\"istio-ca-root-cert\"}}]}}]}",
          true },
        { "{\"volumes\":[{\"projected\":{\"sources\":[{\"clusterTrustBundle\":{\"signerName\":"
          "\"istio.io/istiod-ca\"}}]}}]}",
          true },
        /* istiod itself mounts both */
        { "{\"containers\":[{\"name\":\"discovery\"}],\"volumes\":[{\"configMap\":{\"name\":"
          "\"istio-ca-root-cert\"}}]}",
          false },
        { "{\"containers\":\"none\",\"volumes\":7}", false },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[1024];

        (void)snprintf(text, sizeof(text), "{\"spec\":%s}", rows[i].spec);
        json_t *pod = json(text);
        if (validate_is_workload(pod, "istio-ca-root-cert") != rows[i].is)
            fail_msg("row %zu", i);
        json_decref(pod);
    }
}

/* The operator has a token for the CA and asks it for evidence: it has no certificate, and its age
 * says nothing of the mesh. */
static void
our_own_pods_are_no_workloads(void **state)
{
#define TOKEN                                                                                      \
    "\"volumes\":[{\"projected\":{\"sources\":[{\"serviceAccountToken\":{\"audience\":"            \
    "\"istio-ca\"}}]}}]"
    static const struct {
        const char *name, *part, *spec;
        bool is;
    } rows[] = {
        { "meshroot", "operator", TOKEN, false },
        { "meshroot", "ca", TOKEN, false },
        { "meshroot", "vault", TOKEN, false },
        { "meshroot", "validator", TOKEN, false },
        /* with a sidecar it is a workload like any other */
        { "meshroot", "operator", TOKEN ",\"containers\":[{\"name\":\"istio-proxy\"}]", true },
        { "meshroot", "agent", TOKEN, true },
        { "meshroot", "", TOKEN, true },
        { "shop", "operator", TOKEN, true },
    };
#undef TOKEN

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[1024];

        (void)snprintf(text, sizeof(text),
                       "{\"metadata\":{\"labels\":{\"app.kubernetes.io/name\":\"%s\","
                       "\"app.kubernetes.io/component\":\"%s\"}},\"spec\":{%s}}",
                       rows[i].name, rows[i].part, rows[i].spec);
        json_t *pod = json(text);
        if (validate_is_workload(pod, "istio-ca-root-cert") != rows[i].is)
            fail_msg("row %zu", i);
        json_decref(pod);
    }
}

static void
when_data_changed(void **state)
{
#define FIELD(time, fields) "{\"time\":\"" time "\",\"fieldsV1\":{" fields "}}"
    static const struct {
        const char *fields;
        int64_t t;
    } rows[] = {
        { "[]", 0 },
        { "7", 0 },
        { "[" FIELD("1970-01-01T00:01:40Z", "\"f:data\":{}") "]", 100 },
        { "[" FIELD("1970-01-01T00:01:40Z", "\"f:data\":{}") "," FIELD("1970-01-01T00:03:20Z",
                                                                       "\"f:data\":{}") "]",
          200 },
        /* who changes a label changes no data */
        { "[" FIELD("1970-01-01T00:01:40Z", "\"f:data\":{}") "," FIELD("1970-01-01T00:03:20Z",
                                                                       "\"f:metadata\":{}") "]",
          100 },
        { "[" FIELD("yesterday", "\"f:data\":{}") "]", 0 },
        { "[{\"fieldsV1\":{\"f:data\":{}}}]", 0 },
    };
#undef FIELD

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[512];

        (void)snprintf(text, sizeof(text), "{\"metadata\":{\"managedFields\":%s}}", rows[i].fields);
        json_t *o = json(text);
        assert_int_equal(validate_data_changed(o), rows[i].t);
        json_decref(o);
    }
}

static void
memory_there_and_back(void **state)
{
    struct validate_memory m = { .tried = TRIED_FAILED,
                                 .run = "0123456789abcdef",
                                 .at = "2026-11-26T01:02:03Z",
                                 .why = "a \"quoted\" reason" },
                           got;
    json_t *d = deployment("[]"), *patch, *none;

    (void)state;
    memset(m.roots, 0xa5, sizeof(m.roots));
    assert_ok(validate_memory_patch(&m, "2026-11-26T01:02:03Z", d, &patch, &e));
    assert_string_equal(kube_object_version(patch), "7");
    const json_t *template = json_object_get(json_object_get(patch, "spec"), "template");
    assert_string_equal(kube_object_get_annotation(template, VALIDATE_RESTARTED),
                        "2026-11-26T01:02:03Z");
    validate_memory_read(patch, &got);
    assert_memory_equal(&got, &m, sizeof(m));
    json_decref(patch);
    assert_ok(validate_memory_patch(&m, NULL, NULL, &none, &e));
    assert_null(json_object_get(none, "spec"));
    assert_string_equal(kube_object_version(none), "");
    json_decref(none);
    json_decref(d);
}

static void
memory_that_cannot_be_read_is_none(void **state)
{
    static const char *const rows[] = {
        "",
        "{",
        "7",
        "[]",
        "{\"state\":\"failed\"}",
        "{\"state\":\"failed\",\"roots\":\"zz\"}",
        "{\"state\":7}",
        "{\"state\":\"a state that is far too long for it\"}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct validate_memory got = { .tried = TRIED_OPEN };
        json_t *d = deployment("[]");

        assert_ok(kube_object_annotate(d, VALIDATE_MEMORY, rows[i], &e));
        validate_memory_read(d, &got);
        assert_int_equal(got.tried, TRIED_NONE);
        json_decref(d);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(which_istiod),
        cmocka_unit_test(the_rollout),
        cmocka_unit_test(whose_pod),
        cmocka_unit_test(which_pods_are_workloads),
        cmocka_unit_test(our_own_pods_are_no_workloads),
        cmocka_unit_test(when_data_changed),
        cmocka_unit_test(memory_there_and_back),
        cmocka_unit_test(memory_that_cannot_be_read_is_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
