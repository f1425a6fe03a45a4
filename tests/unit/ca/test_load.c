/* test_load.c - which set may follow which. */
#include "kit.h"

static struct ca_loaded
loaded(struct bundle *b, enum ca_mode mode, uint64_t generation, uint8_t content)
{
    return (struct ca_loaded){ .mode = mode,
                               .bundle = b,
                               .manifest = { .generation = generation },
                               .generation = generation,
                               .content_id = { content } };
}

static void
reload_rules(void **state)
{
#define A    CA_MODE_PLUGGED_IN
#define S    CA_MODE_SELF_SIGNED
#define NONE CA_MODE_NONE
    static const struct {
        const char *what;
        enum ca_mode now_mode;
        uint64_t now_generation;
        uint8_t now_content;
        enum ca_mode next_mode;
        uint64_t next_generation;
        uint8_t next_content;
        const char *reason; /* "": loads; NULL: the same */
    } rows[] = {
        { "the first set", NONE, 0, 0, A, 0, 1, "" },
        { "another set without a manifest", A, 0, 1, A, 0, 2, "" },
        { "the same again", A, 0, 1, A, 0, 1, NULL },
        { "the next generation", A, 4, 1, A, 5, 2, "" },
        { "the same content, next generation", A, 4, 1, A, 5, 1, "" },
        { "the same generation and content", A, 4, 1, A, 4, 1, NULL },
        { "an older generation", A, 4, 1, A, 3, 2, "generation" },
        { "a manifest appears", A, 0, 1, A, 1, 2, "" },
        { "self-signed, then plugged in", S, 1, 1, A, 2, 2, "self_signed" },
        { "disabled, then plugged in", NONE, 9, 1, A, 1, 2, "" },
        { "plugged in, then self-signed", A, 9, 1, S, 1, 2, "" },
    };
    struct ca_conf conf = kit_conf();
    struct kit k;
    struct err e = { 0 };

    (void)state;
    kit_make(&k, "A", 365);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct ca_loaded now = loaded(k.bundle, rows[i].now_mode, rows[i].now_generation,
                                      rows[i].now_content),
                         next = loaded(k.bundle, rows[i].next_mode, rows[i].next_generation,
                                       rows[i].next_content);
        const char *reason = "";

        int r = ca_load_check(&conf, &now, &next, &reason, &e);
        if (rows[i].reason == NULL) {
            assert_int_equal(r, CA_LOAD_SAME);
            continue;
        }
        if ((r < 0) != (rows[i].reason[0] != '\0') || strcmp(reason, rows[i].reason) != 0)
            fail_msg("%s: r %d, reason \"%s\"", rows[i].what, r, reason);
    }
    kit_done(&k);
}

/* content_id has good lists alone: of bad ones, only what is said differs. */
static void
bad_lists_come_and_go(void **state)
{
    struct ca_conf conf = kit_conf();
    const char *reason = "";
    struct kit k;
    struct err e = { 0 };

    (void)state;
    kit_make(&k, "A", 365);
    struct ca_loaded none = loaded(k.bundle, CA_MODE_PLUGGED_IN, 4, 1), bad = none, worse = none;
    (void)err_set(&bad.manifest.lists_why, E_PARSE, "no revocation list");
    (void)err_set(&worse.manifest.lists_why, E_DENIED, "two lists");
    assert_ok(ca_load_check(&conf, &none, &bad, &reason, &e));
    assert_ok(ca_load_check(&conf, &bad, &worse, &reason, &e));
    assert_ok(ca_load_check(&conf, &worse, &none, &reason, &e));
    assert_int_equal(ca_load_check(&conf, &bad, &bad, &reason, &e), CA_LOAD_SAME);
    kit_done(&k);
}

static void
an_intermediate_with_little_life(void **state)
{
    static const struct {
        uint64_t days, ttl_days;
        bool loads;
    } rows[] = { { 10, 5, true }, { 10, 9, true }, { 10, 11, false } };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct ca_conf conf = kit_conf();
        struct ca_loaded now = { .mode = CA_MODE_NONE };
        struct kit k;
        const char *reason;

        kit_make(&k, "A", rows[i].days);
        conf.default_ttl_ms = rows[i].ttl_days * 86400 * 1000;
        struct ca_loaded next = loaded(k.bundle, CA_MODE_PLUGGED_IN, 1, 1);
        int r = ca_load_check(&conf, &now, &next, &reason, &e);
        if (rows[i].loads) {
            assert_ok(r);
        } else {
            assert_err(r, E_DENIED, "less than one leaf lifetime");
            assert_string_equal(reason, "short_life");
        }
        kit_done(&k);
    }
}

int
main(int argc, char *argv[])
{
    signer_child_run(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reload_rules),
        cmocka_unit_test(bad_lists_come_and_go),
        cmocka_unit_test(an_intermediate_with_little_life),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
