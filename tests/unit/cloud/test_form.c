/* test_form.c - WHATWG URL 5.1 forms, as token requests send them. */
#include "unit.h"

#include <string.h>

#include "cloud/form.h"

static void
test_fields(void **state)
{
    static const struct {
        const char *body, *name, *want; /* want NULL: absent */
    } rows[] = {
        { "grant_type=client_credentials&client_id=a", "client_id", "a" },
        { "scope=https%3A%2F%2Fvault.azure.net%2F.default+openid", "scope",
          "https://vault.azure.net/.default openid" },
        { "client%5Fid=x", "client_id", "x" },
        { "a=1&a=2", "a", "1" },
        { "a=&b", "a", "" },
        { "a=&b", "b", "" },
        { "a=b=c", "a", "b=c" },
        { "a=1", "b", NULL },
        { "", "a", NULL },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf b = BUF_INIT(256);
        struct err e = { 0 };
        int r = form_field(span_str(rows[i].body), rows[i].name, &b, &e);

        assert_int_equal(r, rows[i].want == NULL ? FORM_ABSENT : 0);
        assert_string_equal(buf_text(&b), rows[i].want == NULL ? buf_text(&b) : rows[i].want);
        buf_done(&b);
    }
}

static void
test_refusals(void **state)
{
    static const struct {
        const char *body, *says;
        enum err_code code;
    } rows[] = {
        { "a=%", "broken % escape", E_PARSE },     { "a=%4", "broken % escape", E_PARSE },
        { "a=%zz", "broken % escape", E_PARSE },   { "a=%00", "NUL byte", E_PARSE },
        { "a=12345678901", "more than", E_LIMIT },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf b = BUF_INIT(10);
        struct err e = { 0 };

        assert_err(form_field(span_str(rows[i].body), "a", &b, &e), rows[i].code, rows[i].says);
        buf_done(&b);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("cloud/form", tests, NULL, NULL);
}
