/* test_kubeconfig.c - what a kubeconfig says, and what is refused by its name. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kube/exec.h"
#include "kube/kube.h"
#include "kube/yaml.h"
#include "tmpdir.h"

static struct err e;

#define HEAD                                                                                       \
    "apiVersion: v1\nkind: Config\ncurrent-context: one\npreferences: {}\n"                        \
    "contexts:\n- name: one\n  context: {cluster: c, user: u, namespace: x}\n"                     \
    "- name: two\n  context:\n    cluster: d\n    user: u\n"
#define CLUSTERS(more)                                                                             \
    "clusters:\n- name: c\n  cluster:\n    server: https://10.0.0.1:6443\n"                        \
    "    certificate-authority: ca.crt\n" more                                                     \
    "- name: d\n  cluster: {server: \"https://d:6443\", extensions: [{name: e, extension: {}}]}\n"
#define USERS(more) "users:\n- name: u\n  user:\n" more
#define FILES       "    client-certificate: /etc/u.crt\n    client-key: u.key\n"

static void
the_context_and_its_files(void **state)
{
    static const char text[] = HEAD CLUSTERS("") USERS(FILES "    tokenFile: /run/token\n");
    struct kube_conf c = { .server = NULL };

    (void)state;
    assert_ok(kube_conf_read(span_str(text), "/home/a/.kube/config", NULL, &c, &e));
    assert_string_equal(c.server, "https://10.0.0.1:6443");
    assert_string_equal(c.ca_file, "/home/a/.kube/ca.crt");
    assert_string_equal(c.cert_file, "/etc/u.crt");
    assert_string_equal(c.key_file, "/home/a/.kube/u.key");
    assert_string_equal(c.token_file, "/run/token");
    kube_conf_done(&c);
    kube_conf_done(&c); /* twice is harmless */
    assert_ok(kube_conf_read(span_str(text), "config", "two", &c, &e));
    assert_string_equal(c.server, "https://d:6443");
    assert_null(c.ca_file);
    assert_string_equal(c.key_file, "u.key");
    kube_conf_done(&c);
}

static void
config_write(const char *dir, const char *name, const char *text)
{
    char path[256];

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* As kubectl merges KUBECONFIG: the first file that has a name has it, paths lie beside it. */
static void
several_files(void **state)
{
    char dir[64], list[1024], want[256];
    struct kube_conf c = { .server = NULL };

    (void)state;
    tmpdir_make(dir);
    config_write(dir, "users", "apiVersion: v1\n" USERS("    tokenFile: first\n"));
    config_write(dir, "whole", HEAD CLUSTERS("") USERS("    tokenFile: second\n"));
    config_write(dir, "last",
                 "current-context: two\n"
                 "clusters: [{name: c, cluster: {server: \"https://late:1\"}}]\n"
                 "contexts: [{name: three, context: {cluster: d, user: u}}]\n");
    (void)snprintf(list, sizeof(list), ":%s/gone:%s/users:%s/whole::%s/last", dir, dir, dir, dir);
    assert_ok(kube_conf_from_files(list, NULL, &c, &e));
    assert_string_equal(c.server, "https://10.0.0.1:6443");
    (void)snprintf(want, sizeof(want), "%s/first", dir);
    assert_string_equal(c.token_file, want);
    (void)snprintf(want, sizeof(want), "%s/ca.crt", dir);
    assert_string_equal(c.ca_file, want);
    kube_conf_done(&c);
    assert_ok(kube_conf_from_files(list, "three", &c, &e));
    assert_string_equal(c.server, "https://d:6443");
    kube_conf_done(&c);
    assert_err(kube_conf_from_files(list, "four", &c, &e), E_NOTFOUND, "no \"four\" in");
    (void)snprintf(list, sizeof(list), "%s/gone:%s/gone too", dir, dir);
    assert_err(kube_conf_from_files(list, NULL, &c, &e), E_NOTFOUND, "no such file");
    config_write(dir, "gone", "no kubeconfig");
    (void)snprintf(list, sizeof(list), "%s/whole:%s/gone", dir, dir);
    assert_err(kube_conf_from_files(list, NULL, &c, &e), E_PARSE, "/gone: not a kubeconfig");
    tmpdir_remove(dir);
}

/* Data goes before a file, a token's file before a token. */
static void
what_is_inside(void **state)
{
    static const char pem[] = "-----BEGIN X-----\n";
    static const char text[] =
        HEAD CLUSTERS("    certificate-authority-data: LS0tLS1CRUdJTiBYLS0tLS0K\n")
            USERS(FILES "    client-certificate-data: LS0tLS1CRUdJTiBYLS0tLS0K\n"
                        "    client-key-data: LS0tLS1CRUdJTiBYLS0tLS0K\n    token: abc.def\n");
    static const char both[] = HEAD CLUSTERS("") USERS("    token: a\n    tokenFile: t\n");
    static const char plugin[] = HEAD CLUSTERS("") USERS(
        "    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: ./get\n"
        "      args: [a, b]\n      env: [{name: A, value: b}]\n      interactiveMode: Never\n");
    struct kube_conf c = { .server = NULL };

    (void)state;
    assert_ok(kube_conf_read(span_str(text), "/k", NULL, &c, &e));
    assert_null(c.ca_file);
    assert_null(c.cert_file);
    assert_null(c.key_file);
    assert_string_equal(c.ca_pem, pem);
    assert_string_equal(c.cert_pem, pem);
    assert_string_equal(c.key_pem, pem);
    assert_string_equal(c.token, "abc.def");
    kube_conf_done(&c);
    assert_null(c.token);
    assert_ok(kube_conf_read(span_str(both), "/k", NULL, &c, &e));
    assert_string_equal(c.token_file, "/t");
    assert_null(c.token);
    kube_conf_done(&c);
    assert_ok(kube_conf_read(span_str(plugin), "/home/a/k", NULL, &c, &e));
    assert_string_equal(c.exec_dir, "/home/a");
    assert_string_equal(json_string_value(json_object_get(c.exec, "command")), "./get");
    kube_conf_done(&c);
    kube_conf_done(&c);
    assert_null(c.exec);
}

/* As many words as there may be, and one more. */
static void
a_plugin_has_so_many_words(void **state)
{
    static const char *const lists[] = { "args", "env" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        CLEANUP(json_decrefp)
        json_t *exec = json_pack("{s:s, s:s, s:[]}", "apiVersion",
                                 "client.authentication.k8s.io/v1", "command", "x", lists[i]);
        json_t *list = json_object_get(exec, lists[i]);

        for (int n = 0; n < KUBE_EXEC_MAX_WORDS; n++)
            assert_int_equal(json_array_append_new(
                                 list, i == 0 ? json_string("a")
                                              : json_pack("{s:s, s:s}", "name", "a", "value", "b")),
                             0);
        assert_ok(kube_exec_check(exec, &e));
        assert_int_equal(json_array_append(list, json_array_get(list, 0)), 0);
        assert_err(kube_exec_check(exec, &e), E_PARSE, "more than 64");
    }
}

/* -- what a plug-in answers ---------------------------------------------------------------------
 */

static void
answers_of_a_plugin(void **state)
{
#define API "client.authentication.k8s.io/v1"
#define SAID(status)                                                                               \
    "{\"apiVersion\":\"" API "\",\"kind\":\"ExecCredential\",\"status\":" status "}"
    static const struct {
        const char *text, *words; /* words NULL: taken */
    } rows[] = {
        { SAID("{\"token\":\"abc\"}"), NULL },
        { SAID("{\"token\":\"abc\",\"clientCertificateData\":\"\",\"expirationTimestamp\":null}"),
          NULL },
        { SAID("{\"token\":\"abc\",\"expirationTimestamp\":\"2026-11-23T21:12:40Z\"}"), NULL },
        { SAID("{\"clientCertificateData\":\"a\",\"clientKeyData\":\"b\"}"), NULL },
        { "", "no JSON object" },
        { "secret-words", "no JSON object" },
        { "[]", "no JSON object" },
        { "{}", "no ExecCredential" },
        { "{\"apiVersion\":\"client.authentication.k8s.io/v1beta1\",\"kind\":\"ExecCredential\","
          "\"status\":{\"token\":\"a\"}}",
          "no ExecCredential of " API },
        { SAID("null"), "neither \"token\"" },
        { SAID("{}"), "neither \"token\"" },
        { SAID("{\"token\":\"\"}"), "neither \"token\"" },
        { SAID("{\"token\":3}"), "\"token\" is not a text" },
        { SAID("{\"token\":\"a b\"}"), "\"token\" is no token" },
        { SAID("{\"token\":\"a\\r\\nx: y\"}"), "\"token\" is no token" },
        { SAID("{\"clientKeyData\":\"b\"}"), "belong together" },
        { SAID("{\"token\":\"a\",\"expirationTimestamp\":\"soon\"}"), "expirationTimestamp" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(kube_creds_done) struct kube_creds c = { .token = NULL };

        if (rows[i].words == NULL) {
            assert_ok(kube_creds_read(span_str(rows[i].text), API, &c, &e));
            assert_true(c.token != NULL || c.key_pem != NULL);
            assert_int_equal(c.has_end, strstr(rows[i].text, "2026") != NULL);
        } else {
            assert_err(kube_creds_read(span_str(rows[i].text), API, &c, &e), E_PARSE,
                       rows[i].words);
            assert_null(strstr(e.msg, "secret-words"));
            assert_null(c.token);
        }
    }
    char *big = calloc(1, KUBE_TOKEN_MAX_BYTES + 200);
    CLEANUP(kube_creds_done) struct kube_creds c = { .token = NULL };
    assert_non_null(big);
    memset(big, 'a', KUBE_TOKEN_MAX_BYTES + 1);
    CLEANUP(json_decrefp)
    json_t *o = json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", API, "kind", "ExecCredential",
                          "status", "token", big);
    char *text = json_dumps(o, JSON_COMPACT);
    assert_err(kube_creds_read(span_str(text), API, &c, &e), E_PARSE, "has more than");
    free(text);
    free(big);
}

static void
json_is_yaml(void **state)
{
    static const char text[] =
        "{\"current-context\":\"x\",\"contexts\":[{\"name\":\"x\",\"context\":{\"cluster\":\"c\","
        "\"user\":\"u\"}}],\"clusters\":[{\"name\":\"c\",\"cluster\":{\"server\":\"https://a\"}}],"
        "\"users\":[{\"name\":\"u\",\"user\":{\"tokenFile\":\"t\"}}]}";
    struct kube_conf c = { .server = NULL };

    (void)state;
    assert_ok(kube_conf_read(span_str(text), "/etc/k", NULL, &c, &e));
    assert_string_equal(c.token_file, "/etc/t");
    kube_conf_done(&c);
}

static void
what_is_refused_says_so(void **state)
{
#define V1         "apiVersion: client.authentication.k8s.io/v1"
#define EXEC(what) HEAD CLUSTERS("") USERS("    exec: " what "\n")
#define DATA(name) HEAD CLUSTERS("") USERS("    " name ": eA==\n")
    static const struct {
        const char *text, *context;
        enum err_code code;
        const char *words;
    } rows[] = {
        { "", NULL, E_PARSE, "nothing is in it" },
        { "just words", NULL, E_PARSE, "not a kubeconfig" },
        { "a: [1, 2", NULL, E_PARSE, "line" },
        { "kind: Config\n", NULL, E_NOTFOUND, "no \"current-context\"" },
        { HEAD CLUSTERS("") USERS(FILES), "three", E_NOTFOUND, "no \"three\" in \"contexts\"" },
        { HEAD USERS(FILES), NULL, E_NOTFOUND, "no \"c\" in \"clusters\"" },
        { HEAD CLUSTERS(""), NULL, E_NOTFOUND, "no \"u\" in \"users\"" },
        { HEAD CLUSTERS("    insecure-skip-tls-verify: true\n") USERS(FILES), NULL, E_PARSE,
          "\"insecure-skip-tls-verify\" is not taken here" },
        { HEAD CLUSTERS("    proxy-url: http://p\n") USERS(FILES), NULL, E_PARSE, "\"proxy-url\"" },
        { HEAD CLUSTERS("    tls-server-name: x\n") USERS(FILES), NULL, E_PARSE,
          "\"tls-server-name\"" },
        { HEAD CLUSTERS("    certificate-authority-data: eA==\n") USERS(FILES), NULL, E_PARSE,
          "\"certificate-authority-data\" is not the base64 of PEM" },
        { DATA("client-certificate-data"), NULL, E_PARSE, "\"client-certificate-data\" is not" },
        { HEAD CLUSTERS("") USERS("    client-key-data: '!'\n"), NULL, E_PARSE,
          "\"client-key-data\"" },
        { HEAD CLUSTERS("") USERS("    token: a b\n"), NULL, E_PARSE, "\"token\" is no token" },
        { HEAD CLUSTERS("") USERS("    token: [a]\n"), NULL, E_PARSE, "\"token\" is not a text" },
        { DATA("password"), NULL, E_PARSE, "\"password\" is not taken here; name a token" },
        { EXEC("{args: [a]}"), NULL, E_PARSE, "no \"command\"" },
        { EXEC("x"), NULL, E_PARSE, "no \"command\"" },
        { EXEC("{command: x}"), NULL, E_PARSE, "\"apiVersion\"" },
        { EXEC("{command: x, apiVersion: client.authentication.k8s.io/v1alpha1}"), NULL, E_PARSE,
          "want client.authentication.k8s.io/v1" },
        { EXEC("{command: x, " V1 ", interactiveMode: Always}"), NULL, E_PARSE, "Always" },
        { EXEC("{command: x, " V1 ", args: x}"), NULL, E_PARSE, "\"args\" is not a list" },
        { EXEC("{command: x, " V1 ", args: [[a]]}"), NULL, E_PARSE, "\"args\" are texts" },
        { EXEC("{command: x, " V1 ", env: [{name: a=b, value: c}]}"), NULL, E_PARSE, "\"env\"" },
        { EXEC("{command: x, " V1 ", env: [{name: a}]}"), NULL, E_PARSE, "\"env\"" },
        { HEAD CLUSTERS("") USERS("    token: t\n    exec: {command: x, " V1 "}\n"), NULL, E_PARSE,
          "\"exec\" beside a token" },
        { HEAD CLUSTERS("") USERS("    as: admin\n"), NULL, E_PARSE, "\"as\"" },
        { HEAD CLUSTERS("") USERS("    tokenFile: [a]\n"), NULL, E_PARSE, "is not a text" },
        { HEAD "clusters:\n- name: c\n  cluster: {}\n" USERS(FILES), NULL, E_PARSE,
          "has no \"server\"" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct kube_conf c = { .server = NULL };

        assert_err(kube_conf_read(span_str(rows[i].text), "/k", rows[i].context, &c, &e),
                   rows[i].code, rows[i].words);
        assert_null(c.server);
    }
    /* what switches nothing on is no reason */
    struct kube_conf c = { .server = NULL };
    assert_ok(kube_conf_read(
        span_str(HEAD CLUSTERS("    insecure-skip-tls-verify: false\n    proxy-url: \"\"\n")
                     USERS(FILES)),
        "/k", NULL, &c, &e));
    kube_conf_done(&c);
}

static void
yaml_values(void **state)
{
    static const struct {
        const char *yaml, *json; /* NULL: refused */
    } rows[] = {
        { "a: 1", "{\"a\":\"1\"}" },
        { "a: true\nb: \"true\"\nc: false", "{\"a\":true,\"b\":\"true\",\"c\":false}" },
        { "a:\nb: ~\nc: null\nd: 'null'", "{\"a\":null,\"b\":null,\"c\":null,\"d\":\"null\"}" },
        { "- a\n- [b, {c: d}]", "[\"a\",[\"b\",{\"c\":\"d\"}]]" },
        { "a: |\n  x\n  y\n", "{\"a\":\"x\\ny\\n\"}" },
        { "{\"a\":[\"\\u00e9\"]}", "{\"a\":[\"\xc3\xa9\"]}" },
        { "a: &x 1\nb: *x", NULL },
        { "a: &x [1]", NULL },
        { "a: &x {b: c}", NULL },
        { "a: *x", NULL },
        { "a: !!binary eA==", NULL },
        { "a: !x {b: c}", NULL },
        { "a: 1\na: 2", NULL },
        { "? [a]\n: b", NULL },
        { "a: 1\n---\nb: 2", NULL },
        { "a: \"\\0\"", NULL },
        { "\"\\0\": a", NULL },
        { "a: \"x", NULL },
        { "\t- a", NULL },
        { "a: \xff", NULL },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        json_t *o = NULL;
        int r = yaml_to_json(span_str(rows[i].yaml), &o, &e);

        if (rows[i].json == NULL) {
            if (r != -E_PARSE || strstr(e.msg, "YAML") == NULL)
                fail_msg("%s: %d %s", rows[i].yaml, r, e.msg);
            continue;
        }
        assert_ok(r);
        char *text = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
        assert_string_equal(text, rows[i].json);
        free(text);
        json_decref(o);
    }
}

static void
yaml_is_bounded(void **state)
{
    char deep[2 * YAML_MAX_DEPTH + 8];
    size_t n = 2 * (size_t)YAML_MAX_NODES + 16;
    char *wide = malloc(n);
    json_t *o = NULL;

    (void)state;
    memset(deep, '[', sizeof(deep));
    assert_err(yaml_to_json(span_of(deep, sizeof(deep)), &o, &e), E_LIMIT, "levels");
    assert_non_null(wide);
    memset(wide, ',', n);
    wide[0] = '[';
    for (size_t i = 1; i + 1 < n; i += 2)
        wide[i] = 'a';
    assert_err(yaml_to_json(span_of(wide, n), &o, &e), E_LIMIT, "values");
    free(wide);
    assert_null(o);
}

static void
in_a_cluster(void **state)
{
    static const struct {
        const char *host, *port, *server; /* NULL: refused */
    } rows[] = {
        { "10.96.0.1", "443", "https://10.96.0.1:443" },
        { "fd00::1", "443", "https://[fd00::1]:443" },
        { "", "443", NULL },
        { "10.96.0.1", "0", NULL },
        { "10.96.0.1", "443/x", NULL },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct kube_conf c = { .server = NULL };

        (void)setenv("KUBERNETES_SERVICE_HOST", rows[i].host, 1);
        (void)setenv("KUBERNETES_SERVICE_PORT", rows[i].port, 1);
        int r = kube_conf_in_cluster(&c, &e);
        if (rows[i].server == NULL) {
            assert_true(r < 0);
            continue;
        }
        assert_ok(r);
        assert_string_equal(c.server, rows[i].server);
        assert_string_equal(c.token_file, KUBE_IN_CLUSTER_DIR "/token");
        kube_conf_done(&c);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_context_and_its_files),
        cmocka_unit_test(several_files),
        cmocka_unit_test(what_is_inside),
        cmocka_unit_test(answers_of_a_plugin),
        cmocka_unit_test(a_plugin_has_so_many_words),
        cmocka_unit_test(json_is_yaml),
        cmocka_unit_test(what_is_refused_says_so),
        cmocka_unit_test(yaml_values),
        cmocka_unit_test(yaml_is_bounded),
        cmocka_unit_test(in_a_cluster),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
