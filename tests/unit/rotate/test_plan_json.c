/* The plan in the store: what is written is read back, and nothing else is. */
#include "unit.h"

#include <stdlib.h>

#include "base/str.h"

#include "mesh_of_roots.h"

static struct {
    struct authority a, b;
    struct roots *roots;
    struct plan plan;
    char *text;
} t;

static int
set_up(void **state)
{
    (void)state;
    struct err e;

    make_root("Root A", &t.a);
    make_root("Root B", &t.b);
    struct cert *certs[] = { t.a.cert, t.b.cert };
    assert_ok(roots_from_certs(certs, 2, &t.roots, &e));
    t.plan = (struct plan){ .generation = 9, .roots_n = 2, .forced = "8/narrow/0123456789abcdef" };
    for (size_t i = 0; i < 2; i++) {
        memcpy(t.plan.roots[i].id, cert_id(certs[i]), DIGEST_BYTES);
        t.plan.roots[i].since = 4 + i;
    }
    memcpy(t.plan.signer.root_id, cert_id(t.b.cert), DIGEST_BYTES);
    memset(t.plan.signer.id, 7, DIGEST_BYTES);
    memset(t.plan.signer.chain_id, 8, DIGEST_BYTES);
    for (size_t i = 0; i < PART__N; i++)
        (void)snprintf(t.plan.signer.versions.v[i], VERSION_TEXT_BYTES, "version-%zu", i);
    assert_ok(plan_to_json(&t.plan, t.roots, &t.text, &e));
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    free(t.text);
    roots_unref(t.roots);
    authority_done(&t.a);
    authority_done(&t.b);
    return 0;
}

static void
what_is_written_is_read_back(void **state)
{
    (void)state;
    struct err e;
    struct plan p;
    CLEANUP(roots_unrefp) struct roots *roots = NULL;

    assert_ok(plan_from_json(span_str(t.text), &p, &roots, &e));
    assert_int_equal(p.generation, 9);
    assert_int_equal(p.roots_n, 2);
    assert_memory_equal(p.roots, t.plan.roots, 2 * sizeof(p.roots[0]));
    assert_memory_equal(&p.signer, &t.plan.signer, sizeof(p.signer));
    assert_string_equal(p.forced, "8/narrow/0123456789abcdef");
    assert_true(roots_equal(roots, t.roots));
}

/* As most are, and as all were that an older version wrote. */
static void
a_plan_in_which_nothing_was_forced_does_not_speak_of_it(void **state)
{
    (void)state;
    struct err e;
    struct plan p = t.plan, back = t.plan;
    CLEANUP(roots_unrefp) struct roots *roots = NULL;
    CLEANUP(str_freep) char *text = NULL;

    p.forced[0] = '\0';
    assert_ok(plan_to_json(&p, t.roots, &text, &e));
    assert_null(strstr(text, "forced"));
    assert_ok(plan_from_json(span_str(text), &back, &roots, &e));
    assert_string_equal(back.forced, "");
}

static void
a_root_without_its_certificate_is_not_written(void **state)
{
    (void)state;
    struct err e;
    struct plan p = t.plan;
    char *text = NULL;

    p.roots[1].id[0] ^= 1;
    assert_err(plan_to_json(&p, t.roots, &text, &e), E_NOTFOUND, "certificate of root");
    assert_null(text);
}

/* The first `from` of the good text becomes `to`. Owner: caller. */
static char *
edited(const char *from, const char *to)
{
    const char *at = strstr(t.text, from);
    size_t n = strlen(t.text) + strlen(to) + 1;
    char *s = malloc(n);

    assert_non_null(at);
    assert_non_null(s);
    (void)snprintf(s, n, "%.*s%s%s", (int)(at - t.text), t.text, to, at + strlen(from));
    return s;
}

static void
what_is_not_a_plan_is_refused(void **state)
{
    (void)state;
    char twice[2 * DIGEST_TEXT_BYTES], once[2 * DIGEST_TEXT_BYTES];
    char a[DIGEST_TEXT_BYTES], b[DIGEST_TEXT_BYTES];
    hex_text(span_of(t.plan.roots[0].id, DIGEST_BYTES), a);
    hex_text(span_of(t.plan.roots[1].id, DIGEST_BYTES), b);
    (void)snprintf(once, sizeof(once), "\"root_id\":\"%s\"", b);
    (void)snprintf(twice, sizeof(twice), "\"root_id\":\"%c%s\"", b[0] == '0' ? '1' : '0', b + 1);
    const struct {
        const char *from, *to, *says;
    } rows[] = {
        { "{\"format\"", "[\"format\"", "line 1" },
        { "\"format\":1", "\"format\":2", "another version" },
        { "\"format\":1", "\"format\":\"1\"", "Expected integer" },
        { "\"format\":1", "\"format\":1,\"more\":1", "more" },
        { "\"format\":1", "\"format\":1,\"format\":1", "uplicate" },
        { "\"generation\":9", "\"generation\":0", "generation" },
        { "\"generation\":9", "\"generation\":-9", "generation" },
        { "\"generation\":9", "\"generation\":3", "since" }, /* a root from the future */
        { "\"since\":4", "\"since\":0", "since" },
        { "\"since\":4", "\"since\":4,\"x\":0", "roots" },
        { a, b, "not the id of its certificate" },
        { a, "zz", "roots: id" },
        { b, a, "twice" },
        { "BEGIN CERTIFICATE", "BEGIN NOTHING", "pem" },
        { once, twice, "not among the roots" },
        { "\"chain_id\"", "\"chain\"", "signer" },
        { "version-3", "0123456789012345678901234567890123456789012345678901234567890123",
          "too long" },
        { "\"ca-key\"", "\"ca-kez\"", "ca-key" },
        { "\"8/narrow/0123456789abcdef\"", "8", "Expected string" },
        { "8/narrow/", "8/narrow/0123456789012345678901234567890123456789", "forced: is too long" },
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err e = { .code = E_NONE };
        struct plan p;
        struct roots *roots = NULL;
        char *s = edited(rows[i].from, rows[i].to);
        int r = plan_from_json(span_str(s), &p, &roots, &e);
        if (r != -(int)E_PARSE || strstr(e.msg, rows[i].says) == NULL)
            fail_msg("%s to %s: %d \"%s\"", rows[i].from, rows[i].to, r, e.msg);
        assert_null(roots);
        free(s);
    }
}

static void
size_is_bounded(void **state)
{
    (void)state;
    struct err e;
    struct plan p;
    struct roots *roots = NULL;
    char *big = calloc(1, PLAN_JSON_BYTES + 2);

    assert_non_null(big);
    memset(big, ' ', PLAN_JSON_BYTES + 1);
    assert_err(plan_from_json(span_str(big), &p, &roots, &e), E_PARSE, "bytes");
    assert_err(plan_from_json(span_str(""), &p, &roots, &e), E_PARSE, "0 bytes");
    free(big);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(a_plan_in_which_nothing_was_forced_does_not_speak_of_it),
        cmocka_unit_test(a_root_without_its_certificate_is_not_written),
        cmocka_unit_test(what_is_not_a_plan_is_refused),
        cmocka_unit_test(size_is_bounded),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
