/* The Secret with the credentials of the vault: all of them, each a text, or a problem that names
 * it. The API server and the vault's client are the test's, by --wrap. */
#include "unit.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "operator/room.h"

static struct {
    kube_done_fn *done;
    void *arg;
    char secret[64]; /* that the vault's client was opened with */
    char problem[2 * ERR_MSG_BYTES];
} play;

int
__wrap_kube_get(struct kube_client *c, const char *path, uint64_t deadline_ms, kube_done_fn *done,
                void *arg, struct kube_call **ret, struct err *e)
{
    (void)c;
    (void)deadline_ms;
    (void)e;
    assert_string_equal(path, "/api/v1/namespaces/mesh/secrets/login");
    play.done = done;
    play.arg = arg;
    *ret = NULL;
    return 0;
}

void
__wrap_kube_cancel(struct kube_call *q)
{
    (void)q;
}

int
__wrap_vault_client_new(struct loop *l, const struct vault_client_conf *conf,
                        struct vault_client **ret, struct err *e)
{
    (void)l;
    (void)ret;
    (void)e;
    (void)snprintf(play.secret, sizeof(play.secret), "%s", conf->client_secret);
    return 0;
}

void
__wrap_vault_client_free(struct vault_client *c)
{
    (void)c;
}

void
__wrap_plugin_problem(struct plugin *p, const char *reason, const struct err *why)
{
    (void)p;
    (void)snprintf(play.problem, sizeof(play.problem), "%s: %s", reason, why->msg);
}

void
__wrap_plugin_look_soon(struct plugin *p, uint64_t ms)
{
    (void)p;
    (void)ms;
}

static void
login(const char *client_secret) /* base64; NULL: the key is not there */
{
    struct mesh_operator op = { .conf = { .vault_hosts = { "v.vault.azure.net" },
                                          .vault_hosts_n = 1 } };
    struct plugin p = { .op = &op,
                        .ca_fd = -1,
                        .spec = { .ns = "mesh",
                                  .secret = "login",
                                  .vault_url = "https://v.vault.azure.net",
                                  .login = LOGIN_SECRET } };
    json_t *o = json_pack("{s:{s:s, s:s, s:s*}}", "data", "tenant", "dA==", "client_id",
                          "Yw==", "client_secret", client_secret);

    memset(&play, 0, sizeof(play));
    assert_non_null(o);
    login_start(&p);
    play.done(o, NULL, play.arg);
    login_end(&p);
    json_decref(o);
}

static void
whole_credentials_open_the_vault(void **state)
{
    (void)state;
    login("czNjcjN0");
    assert_string_equal(play.secret, "s3cr3t");
    assert_string_equal(play.problem, "");
}

static void
a_missing_or_empty_one_is_a_problem(void **state)
{
    static const char *const values[] = { NULL, "" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        login(values[i]);
        assert_string_equal(play.secret, "");
        assert_non_null(strstr(play.problem, "Secret mesh/login: has no key client_secret"));
    }
}

/* What is behind a NUL would be left out, silently. */
static void
one_with_a_nul_is_a_problem(void **state)
{
    (void)state;
    login("c2VjAHJldA==");
    assert_string_equal(play.secret, "");
    assert_non_null(strstr(play.problem, "client_secret has a NUL in it"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_credentials_open_the_vault),
        cmocka_unit_test(a_missing_or_empty_one_is_a_problem),
        cmocka_unit_test(one_with_a_nul_is_a_problem),
    };

    cmocka_set_message_output(CM_OUTPUT_STDOUT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
