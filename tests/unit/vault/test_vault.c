/* The server over real HTTP on loopback, with the real store; tokens are signed here. */
#include "unit.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/secret.h"
#include "net/addr.h"
#include "net/http.h"
#include "obs/log.h"
#include "vault/secret_json.h"
#include "vault/vault.h"

#define TENANT "11111111-2222-4333-8444-555555555555"
#define ISSUER "https://sts.windows.net/" TENANT "/"

enum who {
    NONE,
    OFFICER,
    USER,
    READER,
    STRANGER,
    OTHER_AUDIENCE,
    OTHER_ISSUER,
    OTHER_TENANT,
    EXPIRED,
    JUNK,
    WHO_N
};

static struct {
    struct loop *loop;
    struct store *store;
    struct key *key;
    struct jwks *jwks;
    struct secret *master;
    struct vault *vault;
    struct http_server *server;
    struct http_client *client;
    uint16_t port;
    char dir[64], *tokens[WHO_N];
    int status;
    uint64_t retry_after_s;
    char challenge[400];
    struct buf body;
    size_t pending;
} f;
static struct err e;

static const char *const oids[WHO_N] = { [OFFICER] = "officer",        [USER] = "user",
                                         [READER] = "reader",          [STRANGER] = "stranger",
                                         [OTHER_AUDIENCE] = "officer", [OTHER_ISSUER] = "officer",
                                         [OTHER_TENANT] = "officer",   [EXPIRED] = "officer" };

static enum vault_role
role_of(void *self, const char *vault, const char *oid)
{
    static const struct {
        const char *oid;
        enum vault_role role;
    } rows[] = { { "officer", VAULT_SECRETS_OFFICER },
                 { "user", VAULT_SECRETS_USER },
                 { "reader", VAULT_READER } };

    (void)self;
    (void)vault;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (strcmp(rows[i].oid, oid) == 0)
            return rows[i].role;
    return VAULT_NOBODY;
}

static void
on_request(struct http_exchange *x, void *self)
{
    (void)self;
    vault_serve(f.vault, x);
}

static void
token_make(enum who who)
{
    struct buf claims = BUF_INIT(2048), out = BUF_INIT(8192);
    int64_t end = unix_s() + (who == EXPIRED ? -301 : 3600);

    assert_ok(
        buf_addf(&claims, &e,
                 "{\"aud\":\"%s\",\"iss\":\"%s\",\"tid\":\"%s\",\"exp\":%lld,\"oid\":\"%s\","
                 "\"appid\":\"app\",\"sub\":\"s\"}",
                 who == OTHER_AUDIENCE ? "https://management.azure.com" : "https://vault.azure.net",
                 who == OTHER_ISSUER ? "https://sts.windows.net/x/" : ISSUER,
                 who == OTHER_TENANT ? "x" : TENANT, (long long)end, oids[who]));
    assert_ok(jwt_sign(f.key, "k", true, buf_span(&claims), &out, &e));
    f.tokens[who] = strdup(buf_text(&out));
    buf_done(&claims);
    buf_done(&out);
}

static void
vault_start(uint64_t creates, uint64_t reads)
{
    struct vault_conf conf = { .loop = f.loop,
                               .store = f.store,
                               .master_key = f.master,
                               .names = { "v", "second" },
                               .names_n = 2,
                               .dns_suffix = "vault.azure.net",
                               .authority = "https://login.microsoftonline.com",
                               .tenant = TENANT,
                               .keys = f.jwks,
                               .issuer = ISSUER,
                               .role = role_of,
                               .creates_per_10s = creates,
                               .reads_per_10s = reads };

    vault_free(f.vault);
    assert_ok(vault_new(&conf, &f.vault, &e));
}

static int
setup(void **state)
{
    struct http_server_conf conf = { .on_request = on_request, .max_body_bytes = 256 * 1024 };
    struct addr a = { "127.0.0.1", 0 };
    struct buf json = BUF_INIT(65536);
    uint8_t master[32] = { 7 };

    (void)state;
    memset(&f, 0, sizeof(f));
    f.body = BUF_INIT(1024 * 1024);
    (void)snprintf(f.dir, sizeof(f.dir), "/tmp/meshroot-test-XXXXXX");
    assert_non_null(mkdtemp(f.dir));
    assert_ok(loop_new(&f.loop, &e));
    assert_ok(store_open_sqlite(f.dir, &f.store, &e));
    assert_ok(key_make(KEY_RSA2048, &f.key, &e));
    assert_ok(jwks_of_key(f.key, "k", &json, &e));
    assert_ok(jwks_from_json(buf_span(&json), &f.jwks, &e));
    buf_done(&json);
    assert_ok(secret_new(span_of(master, 32), &f.master, &e));
    vault_start(0, 0);
    assert_ok(addr_listen(&a, false, &conf.listen_fd, &f.port, &e));
    assert_ok(http_server_new(f.loop, &conf, &f.server, &e));
    assert_ok(http_client_new(f.loop, &f.client, &e));
    for (enum who w = OFFICER; w < JUNK; w++)
        token_make(w);
    f.tokens[JUNK] = strdup("junk");
    return 0;
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int
teardown(void **state)
{
    (void)state;
    http_client_free(f.client);
    vault_free(f.vault);
    http_server_free(f.server);
    store_close(f.store);
    loop_free(f.loop);
    jwks_unref(f.jwks);
    key_unref(f.key);
    secret_free(f.master);
    for (size_t i = 0; i < WHO_N; i++)
        free(f.tokens[i]);
    buf_done(&f.body);
    return nftw(f.dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void
on_answer(const struct http_answer *a, const struct err *why, void *arg)
{
    (void)arg;
    if (why != NULL)
        fail_msg("%s", why->msg);
    f.status = a->status;
    f.retry_after_s = a->retry_after_s;
    (void)snprintf(f.challenge, sizeof(f.challenge), "%s",
                   a->www_authenticate == NULL ? "" : a->www_authenticate);
    f.body.n = 0;
    assert_ok(buf_add(&f.body, a->body, &e));
    if (--f.pending == 0)
        loop_stop(f.loop);
}

static void
send_as(enum who who, const char *host, const char *method, const char *path, struct span body)
{
    char url[1024], auth[9000], host_line[300];
    const char *headers[] = { auth, host_line, "Content-Type: application/json", NULL };

    (void)snprintf(auth, sizeof(auth), "%s%s", who == NONE ? "X-None: " : "Authorization: Bearer ",
                   who == NONE ? "" : f.tokens[who]);
    (void)snprintf(host_line, sizeof(host_line), "Host: %s", host);
    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%u%s", f.port, path);
    struct http_request_conf q = {
        .method = method, .url = url, .headers = who == NONE ? headers + 1 : headers, .body = body
    };
    f.pending++;
    assert_ok(http_send(f.client, &q, on_answer, NULL, NULL, &e));
}

static int
ask(enum who who, const char *host, const char *method, const char *path, const char *body)
{
    send_as(who, host, method, path, span_str(body));
    assert_ok(loop_run(f.loop, &e));
    return f.status;
}

#define HOST "v.vault.azure.net"
#define SET(name, body)                                                                            \
    assert_int_equal(ask(OFFICER, HOST, "PUT", "/secrets/" name "?api-version=7.4", (body)), 200)

static bool
says(const char *text)
{
    return strstr(buf_text(&f.body), text) != NULL;
}

static void
who_asks_comes_before_what_is_asked(void **state)
{
    static const struct {
        enum who who;
        const char *method, *path, *body;
        int status;
        const char *says;
    } rows[] = {
        /* azure.md 0 point 1: the first request has neither token nor body */
        { NONE, "PUT", "/secrets/x?api-version=7.4", NULL, 401,
          "AKV10000: Request is missing a Bearer or PoP token." },
        { NONE, "GET", "/", NULL, 401, "AKV10000" },
        { NONE, "DELETE", "/no/such/path/at/all", NULL, 401, "AKV10000" },
        { JUNK, "GET", "/secrets/x?api-version=7.4", NULL, 401, "AKV10001" },
        { EXPIRED, "GET", "/secrets/x?api-version=7.4", NULL, 401, "expired" },
        { OTHER_AUDIENCE, "GET", "/secrets/x?api-version=7.4", NULL, 401,
          "AKV10022: Invalid audience. Expected http" },
        { OTHER_AUDIENCE, "GET", "/secrets/x?api-version=7.4", NULL, 401,
          "found: https://management.azure.com" },
        { OTHER_ISSUER, "GET", "/secrets/x?api-version=7.4", NULL, 401,
          "AKV10032: Invalid issuer" },
        { OTHER_TENANT, "GET", "/secrets/x?api-version=7.4", NULL, 401, "AKV10032" },
        /* what a caller may not do it learns nothing about */
        { STRANGER, "GET", "/secrets/none?api-version=7.4", NULL, 403, "ForbiddenByRbac" },
        { STRANGER, "GET", "/secrets?api-version=7.4", NULL, 403, "secrets/readMetadata/action" },
        { USER, "PUT", "/secrets/x?api-version=7.4", "{}", 403, "secrets/setSecret/action" },
        { USER, "PATCH", "/secrets/x?api-version=7.4", "{}", 403,
          "Role needed: Key Vault Secrets Officer" },
        { READER, "GET", "/secrets/x?api-version=7.4", NULL, 403, "secrets/getSecret/action" },
        { READER, "GET", "/secrets?api-version=7.4", NULL, 200, "\"value\":[]" },
        { USER, "GET", "/secrets/x?api-version=7.4", NULL, 404, "SecretNotFound" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int got = ask(rows[i].who, HOST, rows[i].method, rows[i].path, rows[i].body);

        if (got != rows[i].status || !says(rows[i].says))
            fail_msg("row %zu: %d %s", i, got, buf_text(&f.body));
        assert_int_equal(f.challenge[0] != '\0', got == 401); /* always repeated */
    }
}

static void
the_challenge_names_the_host_that_was_asked(void **state)
{
    static const struct {
        const char *host, *want;
    } rows[] = {
        { "v.vault.azure.net", "Bearer authorization=\"https://login.microsoftonline.com/" TENANT
                               "\", resource=\"http://vault.azure.net\"" },
        { "SECOND.Vault.Azure.net:8443",
          "Bearer authorization=\"https://login.microsoftonline.com/" TENANT
          "\", resource=\"http://vault.azure.net:8443\"" },
        { "127.0.0.1:8443", "Bearer authorization=\"http://127.0.0.1:8443/" TENANT
                            "\", resource=\"http://127.0.0.1:8443\"" },
        { "localhost:8443", "Bearer authorization=\"http://localhost:8443/" TENANT
                            "\", resource=\"http://localhost:8443\"" },
        { "v.localhost:8443", "Bearer authorization=\"http://v.localhost:8443/" TENANT
                              "\", resource=\"http://localhost:8443\"" },
        { "[::1]:8443",
          "Bearer authorization=\"http://[::1]:8443/" TENANT "\", resource=\"http://[::1]:8443\"" },
    };
    static const char *const unknown[] = { "w.vault.azure.net", "vault.azure.net",
                                           "v.vault.azure.net.evil", "vv.vault.azure.net",
                                           "x.v.vault.azure.net" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_int_equal(ask(NONE, rows[i].host, "GET", "/secrets", NULL), 401);
        assert_string_equal(f.challenge, rows[i].want);
    }
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
        assert_int_equal(ask(OFFICER, unknown[i], "GET", "/secrets?api-version=7.4", NULL), 404);
    assert_int_equal(ask(OFFICER, "v.vault.azure.net:x", "GET", "/secrets", NULL), 400);
}

static void
bad_requests(void **state)
{
    static char big[25601 + 20], tags[1024], tag[400];
    const struct {
        const char *method, *path, *body;
        int status;
        const char *says;
    } rows[] = {
        { "GET", "/secrets", NULL, 400, "api-version must be specified" },
        { "GET", "/secrets?api-version=", NULL, 400, "api-version must be specified" },
        { "GET", "/secrets?api-version=a%22b", NULL, 400, "not a version" },
        { "GET", "/secrets/under_score?api-version=7.4", NULL, 400, "invalid name" },
        { "GET", "/secrets/x/versions/y/z?api-version=7.4", NULL, 400, "BadParameter" },
        { "GET", "/secrets/x/notaversion?api-version=7.4", NULL, 400, "Invalid secret version" },
        { "GET", "/secrets/x/00000000000000000000000000000000?api-version=7.4", NULL, 404,
          "SecretNotFound" },
        { "GET", "/keys?api-version=7.4", NULL, 404, "NotFound" },
        { "POST", "/secrets/x?api-version=7.4", "{}", 405, "MethodNotAllowed" },
        { "DELETE", "/secrets/x?api-version=7.4", NULL, 400, "NotSupported" },
        { "POST", "/secrets/restore?api-version=7.4", "{}", 400, "NotSupported" },
        { "GET", "/deletedsecrets?api-version=7.4", NULL, 400, "NotSupported" },
        { "GET", "/secrets?api-version=7.4&maxresults=0", NULL, 400, "maxresults" },
        { "GET", "/secrets?api-version=7.4&maxresults=26", NULL, 400, "maxresults" },
        { "GET", "/secrets?api-version=7.4&$skiptoken=%25", NULL, 400, "skiptoken" },
        { "GET", "/secrets/x/versions?api-version=7.4", NULL, 404, "SecretNotFound" },
        { "PATCH", "/secrets/x?api-version=7.4", "{}", 404, "SecretNotFound" },
        { "PUT", "/secrets/x?api-version=7.4", NULL, 400, "not valid JSON" },
        { "PUT", "/secrets/x?api-version=7.4", "[]", 400, "not a JSON object" },
        { "PUT", "/secrets/x?api-version=7.4", "{}", 400, "'value' is required" },
        { "PUT", "/secrets/x?api-version=7.4", "{\"value\":null}", 400, "'value' is required" },
        { "PUT", "/secrets/x?api-version=7.4", "{\"value\":1}", 400, "'value' is not a string" },
        { "PUT", "/secrets/x?api-version=7.4", "{\"value\":\"a\\u0000b\"}", 400, "JSON" },
        { "PUT", "/secrets/x?api-version=7.4",
          "{\"value\":\"\",\"attributes\":{\"exp\":1,\"nbf\":2}}", 400, "'exp' is before 'nbf'" },
        { "PUT", "/secrets/x?api-version=7.4", "{\"value\":\"\",\"attributes\":{\"exp\":\"1\"}}",
          400, "'exp' is not a time" },
        { "PUT", "/secrets/x?api-version=7.4", "{\"value\":\"\",\"attributes\":{\"enabled\":1}}",
          400, "'enabled'" },
        { "PUT", "/secrets/x?api-version=7.4", "{\"value\":\"\",\"tags\":{\"a\":1}}", 400, "tag" },
        { "PUT", "/secrets/x?api-version=7.4", tags, 400, "at most 15" },
        { "PUT", "/secrets/x?api-version=7.4", tag, 400, "at most 256" },
        { "PUT", "/secrets/x?api-version=7.4", big, 400, "25601 bytes; at most 25600" },
    };
    size_t n = (size_t)snprintf(tags, sizeof(tags), "{\"value\":\"\",\"tags\":{");

    (void)state;
    for (int i = 0; i < 16; i++)
        n += (size_t)snprintf(tags + n, sizeof(tags) - n, "%s\"t%d\":\"\"", i == 0 ? "" : ",", i);
    (void)snprintf(tags + n, sizeof(tags) - n, "}}");
    (void)snprintf(tag, sizeof(tag), "{\"value\":\"\",\"tags\":{\"a\":\"%0257d\"}}", 0);
    (void)snprintf(big, sizeof(big), "{\"value\":\"%025601d\"}", 0);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int got = ask(OFFICER, HOST, rows[i].method, rows[i].path, rows[i].body);

        if (got != rows[i].status || !says(rows[i].says))
            fail_msg("row %zu: %d %s", i, got, buf_text(&f.body));
    }
    assert_int_equal(ask(OFFICER, HOST, "GET", "/secrets?api-version=7.4", NULL), 200);
    assert_true(says("\"value\":[]")); /* nothing of all that was stored */
}

static void
every_shape_of_a_good_request_reads_it(void **state)
{
    static const char *const paths[] = {
        "/secrets/Root-Cert?api-version=7.4",
        "/secrets/root-cert/?api%2Dversion=2025-07-01",
        "//secrets//ROOT-CERT?api-version=7.6",
        "/secrets/root-cert?api-version=2026-04-01-preview&x=y",
        "/secrets/root%2Dcert?api-version=2016-10-01",
    };

    (void)state;
    SET("Root-Cert", "{\"value\":\"v1\",\"contentType\":null,\"tags\":null,\"attributes\":{\"exp\":"
                     "null},\"unknown\":1}");
    assert_true(says("\"recoveryLevel\":\"Recoverable+Purgeable\""));
    assert_false(says("kid"));
    assert_false(says("contentType"));
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        assert_int_equal(ask(USER, HOST, "GET", paths[i], NULL), 200);
        assert_true(says("\"value\":\"v1\""));
        assert_true(says("\"id\":\"http://v.vault.azure.net/secrets/Root-Cert/"));
    }
    assert_int_equal(ask(USER, "second.vault.azure.net", "GET", paths[0], NULL), 404);
    /* names of the API are names of secrets as well: azure.md 1.1 */
    SET("restore", "{\"value\":\"r\"}");
    assert_int_equal(ask(USER, HOST, "GET", "/secrets/restore?api-version=7.4", NULL), 200);
}

static void
updates_change_what_is_named_and_nothing_else(void **state)
{
    (void)state;
    SET("s", "{\"value\":\"v\",\"contentType\":\"t\",\"tags\":{\"a\":\"b\"}}");
    assert_int_equal(ask(OFFICER, HOST, "PATCH", "/secrets/s/?api-version=7.4",
                         "{\"attributes\":{\"enabled\":false},\"value\":\"ignored\"}"),
                     200);
    assert_false(says("\"value\""));
    assert_true(says("\"contentType\":\"t\""));
    assert_true(says("\"tags\":{\"a\":\"b\"}"));
    assert_int_equal(ask(OFFICER, HOST, "GET", "/secrets/s?api-version=7.4", NULL), 403);
    assert_true(says("SecretDisabled"));
    assert_int_equal(ask(OFFICER, HOST, "PATCH", "/secrets/s?api-version=7.4",
                         "{\"attributes\":{\"enabled\":true,\"nbf\":99999999999},\"tags\":{}}"),
                     200);
    assert_int_equal(ask(OFFICER, HOST, "GET", "/secrets/s?api-version=7.4", NULL), 403);
    assert_true(says("SecretNotYetValid"));
    assert_int_equal(
        ask(OFFICER, HOST, "PATCH", "/secrets/s?api-version=7.4", "{\"attributes\":{\"exp\":5}}"),
        400);
    assert_int_equal(ask(OFFICER, HOST, "PATCH", "/secrets/s?api-version=7.4",
                         "{\"attributes\":{\"nbf\":1,\"exp\":5}}"),
                     200);
    assert_int_equal(ask(OFFICER, HOST, "GET", "/secrets/s?api-version=7.4", NULL),
                     200); /* expired is readable */
    assert_true(says("\"value\":\"v\""));
    assert_true(says("\"tags\":{}"));
}

static void
writers_at_the_same_moment_lose_no_version(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++)
        send_as(OFFICER, HOST, "PUT", "/secrets/s?api-version=7.4", span_str("{\"value\":\"v\"}"));
    assert_ok(loop_run(f.loop, &e));
    assert_int_equal(f.status, 200);
    assert_int_equal(ask(OFFICER, HOST, "GET", "/secrets/s/versions?api-version=7.4", NULL), 200);
    json_t *j = json_loadb(buf_text(&f.body), f.body.n, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(j, "value")), 6);
    json_decref(j);
}

static void
budgets_end_in_429_with_retry_after(void **state)
{
    (void)state;
    vault_start(3, 4);
    for (int i = 0; i < 3; i++)
        SET("s", "{\"value\":\"v\"}");
    assert_int_equal(ask(OFFICER, HOST, "PUT", "/secrets/s?api-version=7.4", "{\"value\":\"v\"}"),
                     429);
    assert_true(says("Throttled"));
    assert_in_range(f.retry_after_s, 1, 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(ask(OFFICER, HOST, "GET", "/secrets/s?api-version=7.4", NULL), 200);
    assert_int_equal(ask(OFFICER, HOST, "GET", "/secrets/s?api-version=7.4", NULL), 429);
    assert_int_equal(ask(NONE, HOST, "GET", "/secrets/s?api-version=7.4", NULL),
                     401); /* the challenge is free */
    assert_int_equal(
        ask(OFFICER, "second.vault.azure.net", "GET", "/secrets?api-version=7.4", NULL), 200);
}

static void
the_end_of_the_vault_answers_what_is_under_way(void **state)
{
    (void)state;
    send_as(OFFICER, HOST, "PUT", "/secrets/s?api-version=7.4", span_str("{\"value\":\"v\"}"));
    send_as(OFFICER, HOST, "GET", "/secrets/s?api-version=7.4", span_str(NULL));
    vault_start(0, 0); /* frees the one before */
    assert_ok(loop_run(f.loop, &e));
    assert_true(f.status == 200 || f.status == 404);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(who_asks_comes_before_what_is_asked),
        T(the_challenge_names_the_host_that_was_asked),
        T(bad_requests),
        T(every_shape_of_a_good_request_reads_it),
        T(updates_change_what_is_named_and_nothing_else),
        T(writers_at_the_same_moment_lose_no_version),
        T(budgets_end_in_429_with_retry_after),
        T(the_end_of_the_vault_answers_what_is_under_way),
    };

    log_setup(STDOUT_FILENO, LOG_ERROR, false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
