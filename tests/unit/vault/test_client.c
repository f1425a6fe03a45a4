/* The client before a server that answers as told: what a vault, or something that is none, may
 * say. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "net/addr.h"
#include "net/http.h"
#include "vault/client.h"

enum { STEPS_MAX = 16 };

/* One answer; "%s" in header and body is our own base URL. */
struct step {
    const char *want; /* "GET /secrets/..." that the request starts with */
    int status;
    const char *header, *value, *type, *body;
    bool with_token; /* the request must have (or not have) a token */
};

static struct {
    struct loop *loop;
    struct http_server *server;
    struct vault_client *client;
    const struct step *steps;
    size_t steps_n, at;
    char base[64];
    size_t answers, items;
    struct err why;
    char name[128], version[64], value[64];
} f;
static struct err e;

static const char *
expand(const char *text, char *ret, size_t cap)
{
    const char *hole = text == NULL ? NULL : strstr(text, "%s");

    if (hole == NULL)
        return text;
    (void)snprintf(ret, cap, "%.*s%s%s", (int)(hole - text), text, f.base, hole + 2);
    return ret;
}

static void
on_request(struct http_exchange *x, void *self)
{
    char line[512], header[1024], body[4096];

    (void)self;
    (void)snprintf(line, sizeof(line), "%s %s", http_method(x), http_path(x));
    if (f.at == f.steps_n)
        fail_msg("unexpected %s", line);
    const struct step *s = &f.steps[f.at++];
    if (strncmp(line, s->want, strlen(s->want)) != 0)
        fail_msg("%s instead of %s", line, s->want);
    if (s->with_token != (http_header(x, "Authorization") != NULL))
        fail_msg("%s: token or none?", line);
    if (!s->with_token && strncmp(line, "PUT", 3) == 0)
        assert_int_equal(http_body(x).n, 0); /* no value before the server is known */
    if (s->header != NULL)
        http_reply_header(x, s->header, expand(s->value, header, sizeof(header)));
    http_reply(x, s->status, s->type, span_str(expand(s->body, body, sizeof(body))));
}

static int
setup(void **state)
{
    struct http_server_conf conf = { .on_request = on_request };
    struct addr a = { "127.0.0.1", 0 };
    struct vault_client_conf client = {
        .url = f.base, .client_id = "id", .client_secret = "s&e=c r+t", .timeout_ms = 60000
    };
    uint16_t port;

    (void)state;
    memset(&f, 0, sizeof(f));
    assert_ok(loop_new(&f.loop, &e));
    assert_ok(addr_listen(&a, false, &conf.listen_fd, &port, &e));
    assert_ok(http_server_new(f.loop, &conf, &f.server, &e));
    (void)snprintf(f.base, sizeof(f.base), "http://127.0.0.1:%u", port);
    assert_ok(vault_client_new(f.loop, &client, &f.client, &e));
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    vault_client_free(f.client);
    http_server_free(f.server);
    loop_free(f.loop);
    return 0;
}

static void
on_secret(const struct vault_secret *s, const struct err *why, void *arg)
{
    (void)arg;
    f.answers++;
    f.why.code = E_NONE;
    if (why != NULL)
        f.why = *why;
    if (s != NULL) {
        (void)snprintf(f.name, sizeof(f.name), "%s", s->name);
        (void)snprintf(f.version, sizeof(f.version), "%s", s->version);
        (void)snprintf(f.value, sizeof(f.value), "%.*s", SPAN_ARG(s->value));
    }
    loop_stop(f.loop);
}

static void
on_item(const struct vault_secret *s, const struct err *why, void *arg)
{
    (void)s;
    (void)why;
    (void)arg;
    f.items++;
}

#define CHALLENGE                                                                                  \
    "WWW-Authenticate", "Bearer authorization=\"%s/t\", resource=\"https://127.0.0.1\"",           \
        "application/json", "{\"error\":{\"code\":\"Unauthorized\",\"message\":\"AKV10000\"}}"
#define TOKEN(life)                                                                                \
    {                                                                                              \
        "POST /t/oauth2/v2.0/token", 200, NULL, NULL, "application/json",                          \
            "{\"access_token\":\"tok\",\"expires_in\":" life "}", false                            \
    }
#define V1 "0123456789abcdef0123456789abcdef"
#define BUNDLE                                                                                     \
    "{\"id\":\"%s/secrets/n/" V1 "\",\"value\":\"val\",\"attributes\":{\"enabled\":true}}"
#define GET  "GET /secrets/n/"
#define JSON "application/json"

static void
play(const struct step *steps, size_t n)
{
    f.steps = steps;
    f.steps_n = n;
    f.at = f.answers = 0;
}

static void
get(void)
{
    f.answers = 0;
    assert_ok(vault_get(f.client, "n", NULL, on_secret, NULL, &e));
    assert_int_equal(f.answers, 0); /* never before it returns */
    assert_ok(loop_run(f.loop, &e));
    assert_int_equal(f.answers, 1);
}

static void
challenge_token_value_and_then_the_token_again(void **state)
{
    static const struct step steps[] = {
        { GET, 401, CHALLENGE, false },
        TOKEN("3599"),
        { GET, 200, NULL, NULL, JSON, BUNDLE, true },
        { GET, 200, NULL, NULL, JSON, BUNDLE, true },
        { "PUT /secrets/n", 200, NULL, NULL, JSON, BUNDLE, true },
    };

    (void)state;
    play(steps, ARRAY_LEN(steps));
    get();
    assert_int_equal(f.why.code, E_NONE);
    assert_string_equal(f.name, "n");
    assert_string_equal(f.version, V1);
    assert_string_equal(f.value, "val");
    assert_ok(vault_get_current_version(f.client, "n", on_secret, NULL, &e));
    assert_ok(loop_run(f.loop, &e));
    assert_string_equal(f.version, V1);
    assert_string_equal(f.value, ""); /* the poll sees no value */
    assert_ok(vault_set(f.client, "n", span_str("x"), NULL, on_secret, NULL, &e));
    assert_ok(loop_run(f.loop, &e));
    assert_int_equal(f.at, f.steps_n);
}

static void
a_set_sends_no_value_before_the_challenge(void **state)
{
    static const struct step steps[] = { { "PUT /secrets/n", 401, CHALLENGE, false },
                                         TOKEN("3599"),
                                         { "PUT /secrets/n", 200, NULL, NULL, JSON, BUNDLE,
                                           true } };

    (void)state;
    play(steps, ARRAY_LEN(steps));
    assert_ok(vault_set(f.client, "n", span_str("x"), NULL, on_secret, NULL, &e));
    assert_ok(loop_run(f.loop, &e));
    assert_int_equal(f.why.code, E_NONE);
    assert_int_equal(f.at, f.steps_n);
}

static void
a_refused_token_is_renewed_once(void **state)
{
    static const struct step steps[] = {
        { GET, 401, CHALLENGE, false },
        TOKEN("3599"),
        { GET, 200, NULL, NULL, JSON, BUNDLE, true },
        /* revoked meanwhile: a fresh one helps */
        { GET, 401, CHALLENGE, true },
        TOKEN("3599"),
        { GET, 200, NULL, NULL, JSON, BUNDLE, true },
        /* and here it does not: final */
        { GET, 401, CHALLENGE, true },
        TOKEN("3599"),
        { GET, 401, CHALLENGE, true },
    };

    (void)state;
    play(steps, ARRAY_LEN(steps));
    get();
    get();
    assert_int_equal(f.why.code, E_NONE);
    get();
    assert_int_equal(f.why.code, E_AUTH);
    assert_int_equal(f.at, f.steps_n);
}

static void
what_a_vault_may_answer(void **state)
{
    static const struct {
        struct step step;
        enum err_code code;
        const char *says;
        unsigned retry_after_s;
    } rows[] = {
        { { GET, 404, NULL, NULL, JSON,
            "{\"error\":{\"code\":\"SecretNotFound\",\"message\":\"none\"}}", true },
          E_NOTFOUND,
          "404 SecretNotFound: none",
          0 },
        { { GET, 403, NULL, NULL, JSON,
            "{\"error\":{\"code\":\"Forbidden\",\"message\":\"m\",\"innererror\":{\"code\":"
            "\"SecretDisabled\"}}}",
            true },
          E_DENIED,
          "Forbidden/SecretDisabled",
          0 },
        { { GET, 429, "Retry-After", "7", JSON,
            "{\"error\":{\"code\":\"Throttled\",\"message\":\"m\"}}", true },
          E_BUSY,
          "429 Throttled",
          7 },
        { { GET, 429, "retry-after-ms", "1001", JSON, "{}", true }, E_BUSY, "429", 2 },
        { { GET, 500, NULL, NULL, "text/html", "<html>", true }, E_BUSY, "text/html", 0 },
        { { GET, 503, NULL, NULL, NULL, NULL, true }, E_BUSY, "503", 0 },
        { { GET, 302, "Location", "https://evil.net/", NULL, NULL, true }, E_PEER, "302", 0 },
        { { GET, 200, NULL, NULL, "text/html", "<html>a portal</html>", true },
          E_PEER,
          "not Key Vault's JSON but \"text/html\"",
          0 },
        { { GET, 200, NULL, NULL, JSON, "{\"id\":", true }, E_PEER, "not Key Vault's JSON", 0 },
        { { GET, 200, NULL, NULL, JSON, "[]", true }, E_PEER, "not Key Vault's JSON", 0 },
        { { GET, 200, NULL, NULL, JSON, "{}", true }, E_PEER, "no secret id", 0 },
        { { GET, 200, NULL, NULL, JSON, "{\"id\":\"%s/keys/n/" V1 "\",\"value\":\"x\"}", true },
          E_PEER,
          "not that of a secret",
          0 },
        { { GET, 200, NULL, NULL, JSON, "{\"id\":\"%s/secrets/n\",\"value\":\"x\"}", true },
          E_PEER,
          "no version",
          0 },
        { { GET, 200, NULL, NULL, JSON, "{\"id\":\"%s/secrets/n/" V1 "\"}", true },
          E_PEER,
          "no value",
          0 },
    };
    static const struct step open[] = { { GET, 401, CHALLENGE, false },
                                        TOKEN("\"3599\""),
                                        { GET, 200, NULL, NULL, JSON, BUNDLE, true } };

    (void)state;
    play(open, ARRAY_LEN(open));
    get();
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        play(&rows[i].step, 1);
        get();
        if (f.why.code != rows[i].code || strstr(f.why.msg, rows[i].says) == NULL ||
            strstr(f.why.msg, "secret n") == NULL)
            fail_msg("row %zu: %d %s", i, f.why.code, f.why.msg);
        assert_int_equal(f.why.retry_after_s, rows[i].retry_after_s);
    }
}

static void
what_a_token_endpoint_may_answer(void **state)
{
    static const struct {
        struct step step;
        enum err_code code;
        const char *says;
    } rows[] = {
        { { "POST", 401, NULL, NULL, JSON,
            "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: wrong\"}",
            false },
          E_AUTH,
          "AADSTS7000215" },
        { { "POST", 400, NULL, NULL, JSON,
            "{\"error\":\"unauthorized_client\",\"error_description\":\"AADSTS700016\"}", false },
          E_AUTH,
          "AADSTS700016" },
        { { "POST", 503, NULL, NULL, "text/html", "<html>", false },
          E_BUSY,
          "token for client id" },
        { { "POST", 200, NULL, NULL, "text/html", "<html>", false }, E_PEER, "no access token" },
        { { "POST", 200, NULL, NULL, JSON, "{\"access_token\":\"a b\",\"expires_in\":1}", false },
          E_PEER,
          "no access token" },
        { { "POST", 200, NULL, NULL, JSON, "{\"access_token\":\"a\",\"expires_in\":0}", false },
          E_PEER,
          "no access token" },
        { { "POST", 200, NULL, NULL, JSON, "{\"access_token\":\"a\"}", false },
          E_PEER,
          "no access token" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct step steps[] = { { GET, 401, CHALLENGE, false }, rows[i].step };

        play(i == 0 ? steps : steps + 1, i == 0 ? 2 : 1); /* the challenge is remembered */
        get();
        if (f.why.code != rows[i].code || strstr(f.why.msg, rows[i].says) == NULL)
            fail_msg("row %zu: %d %s", i, f.why.code, f.why.msg);
    }
}

static void
challenges_that_must_not_be_answered(void **state)
{
    static const struct {
        const char *challenge;
        enum err_code code;
    } rows[] = {
        { "Bearer authorization=\"https://evil.net/t\", resource=\"https://vault.azure.net\"",
          E_DENIED },
        { "Bearer authorization=\"http://login.microsoftonline.com/t\", "
          "resource=\"https://vault.azure.net\"",
          E_DENIED },
        { "Basic realm=\"x\"", E_PEER },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct step s = { GET, 401, "WWW-Authenticate", rows[i].challenge, NULL, NULL, false };

        play(&s, 1);
        get();
        assert_int_equal(f.why.code, rows[i].code);
    }
    struct step none = { GET, 401, NULL, NULL, JSON, "{}", false };
    play(&none, 1);
    get();
    assert_int_equal(f.why.code, E_AUTH);
}

static void
lists_follow_their_own_vault_only(void **state)
{
    static const struct step open[] = {
        { "GET /secrets", 401, CHALLENGE, false },
        TOKEN("3599"),
        { "GET /secrets", 200, NULL, NULL, JSON,
          "{\"value\":[{\"id\":\"https://x/secrets/a\"},{\"id\":\"https://x/secrets/"
          "b\"}],\"nextLink\":\"%s/secrets?p=2\"}",
          true },
        { "GET /secrets", 200, NULL, NULL, JSON,
          "{\"value\":[{\"id\":\"https://x/secrets/c\"}],\"nextLink\":null}", true },
    };
    static const struct step evil[] = {
        { "GET /secrets", 200, NULL, NULL, JSON,
          "{\"value\":[],\"nextLink\":\"https://evil.net/secrets\"}", true }
    };
    static const struct step none[] = { { "GET /secrets/n/versions", 200, NULL, NULL, JSON,
                                          "{\"value\":{}}", true } };

    (void)state;
    play(open, ARRAY_LEN(open));
    assert_ok(vault_list(f.client, NULL, on_item, on_secret, NULL, &e));
    assert_ok(loop_run(f.loop, &e));
    assert_int_equal(f.why.code, E_NONE);
    assert_int_equal(f.items, 3);
    play(evil, 1);
    assert_ok(vault_list(f.client, NULL, on_item, on_secret, NULL, &e));
    assert_ok(loop_run(f.loop, &e));
    assert_int_equal(f.why.code, E_PEER);
    play(none, 1);
    assert_ok(vault_list(f.client, "n", on_item, on_secret, NULL, &e));
    assert_ok(loop_run(f.loop, &e));
    assert_int_equal(f.why.code, E_PEER);
}

static void
what_is_wrong_before_anything_is_sent(void **state)
{
    struct vault_client_conf conf = { .url = "http://v.vault.azure.net",
                                      .client_id = "i",
                                      .client_secret = "s" };
    struct vault_client *c = NULL;
    static char big[25601];

    (void)state;
    memset(big, 'x', sizeof(big));
    assert_err(vault_client_new(f.loop, &conf, &c, &e), E_INVAL, "https only");
    conf.url = "https://v.vault.azure.net/x";
    assert_err(vault_client_new(f.loop, &conf, &c, &e), E_INVAL, "not a vault URL");
    conf.url = "https://v.vault.azure.net";
    conf.client_id = NULL;
    assert_err(vault_client_new(f.loop, &conf, &c, &e), E_AUTH, "client id");
    assert_err(vault_get(f.client, "a/b", NULL, on_secret, NULL, &e), E_INVAL, "secret's name");
    assert_err(vault_get(f.client, "n", "../x", on_secret, NULL, &e), E_INVAL, "version");
    assert_err(vault_set(f.client, "n", span_of(big, sizeof(big)), NULL, on_secret, NULL, &e),
               E_LIMIT, "25600");
    assert_err(vault_set(f.client, "n", span_of("\xff", 1), NULL, on_secret, NULL, &e), E_INVAL,
               "UTF-8");
    assert_int_equal(f.answers, 0);
}

/* Whoever may name a vault may not have our service account's token. */
static void
a_service_account_s_token_goes_where_the_platform_says(void **state)
{
    struct vault_client_conf conf = { .url = f.base,
                                      .client_id = "id",
                                      .assertion_file = "/nonexistent/token",
                                      .timeout_ms = 60000 };
    const struct step steps[] = { { GET, 401, CHALLENGE, false } };

    (void)state;
    vault_client_free(f.client);
    assert_int_equal(unsetenv("AZURE_AUTHORITY_HOST"), 0);
    assert_ok(vault_client_new(f.loop, &conf, &f.client, &e));
    play(steps, 1);
    get();
    assert_int_equal(f.why.code, E_DENIED);
    assert_non_null(strstr(f.why.msg, "AZURE_AUTHORITY_HOST"));

    vault_client_free(f.client); /* there it is looked for, and is none */
    assert_int_equal(setenv("AZURE_AUTHORITY_HOST", f.base, 1), 0);
    assert_ok(vault_client_new(f.loop, &conf, &f.client, &e));
    play(steps, 1);
    get();
    assert_int_not_equal(f.why.code, E_DENIED);
    assert_non_null(strstr(f.why.msg, "no token for workload identity"));
    assert_int_equal(unsetenv("AZURE_AUTHORITY_HOST"), 0);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(challenge_token_value_and_then_the_token_again),
        T(a_set_sends_no_value_before_the_challenge),
        T(a_refused_token_is_renewed_once),
        T(what_a_vault_may_answer),
        T(what_a_token_endpoint_may_answer),
        T(challenges_that_must_not_be_answered),
        T(a_service_account_s_token_goes_where_the_platform_says),
        T(lists_follow_their_own_vault_only),
        T(what_is_wrong_before_anything_is_sent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
