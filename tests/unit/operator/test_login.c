/* The Secret with the credentials of the vault: all of them, each a text, or a problem that names
 * it.
 */
#include "unit.h"

#include "login_kit.h"

static char opened_with[64]; /* the secret */

static void
on_open(const struct vault_client_conf *conf)
{
    (void)snprintf(opened_with, sizeof(opened_with), "%s", conf->client_secret);
}

static void
login(const char *client_secret) /* base64; NULL: the key is not there */
{
    json_t *o = json_pack("{s:{s:s, s:s, s:s*}}", "data", "tenant", "dA==", "client_id",
                          "Yw==", "client_secret", client_secret);

    assert_non_null(o);
    opened_with[0] = '\0';
    login_play(o, on_open);
    assert_string_equal(play.path, "/api/v1/namespaces/mesh/secrets/login");
    json_decref(o);
}

static void
whole_credentials_open_the_vault(void **state)
{
    (void)state;
    login("czNjcjN0");
    assert_string_equal(opened_with, "s3cr3t");
    assert_string_equal(play.problem, "");
}

static void
a_missing_or_empty_one_is_a_problem(void **state)
{
    static const char *const values[] = { NULL, "" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        login(values[i]);
        assert_string_equal(opened_with, "");
        assert_non_null(strstr(play.problem, "Secret mesh/login: has no key client_secret"));
    }
}

/* What is behind a NUL would be left out, silently. */
static void
one_with_a_nul_is_a_problem(void **state)
{
    (void)state;
    login("c2VjAHJldA==");
    assert_string_equal(opened_with, "");
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
