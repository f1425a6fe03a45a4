/* What opts.h promises. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>

#include "config/help.h"
#include "config/opts.h"

struct conf {
    const char *name, *kind, *need;
    struct opt_list list;
    bool on, off;
    uint64_t n, poll_ms;
};

#define AT(m) offsetof(struct conf, m)

static const struct opt opts[] = {
    { "name", OPT_STRING, AT(name), NULL, NULL, NULL, 0, "NAME", "a name" },
    { "kind", OPT_CHOICE, AT(kind), "a", "a|bb", NULL, 0, "KIND", "a kind" },
    { "need", OPT_STRING, AT(need), NULL, NULL, NULL, OPT_REQUIRED, "X", "what is needed" },
    { "list", OPT_LIST, AT(list), NULL, NULL, NULL, 0, "X", "may come often" },
    { "on", OPT_FLAG, AT(on), NULL, NULL, NULL, 0, NULL, "a flag" },
    { "off", OPT_FLAG, AT(off), "true", NULL, NULL, 0, NULL, "a flag that is on" },
    { "n", OPT_COUNT, AT(n), "3", "1", "10", 0, "N", "a number" },
    { "poll-interval", OPT_DURATION, AT(poll_ms), "2m", "1s", "24h", OPT_HIDDEN, "DURATION",
      "hidden" },
    { .name = NULL },
};

enum { WORDS = 8 };

static int
parse(const char *const words[WORDS], struct conf *c, struct opt_args *rest, struct err *e)
{
    static char copy[WORDS][64];
    char *argv[WORDS + 1] = { NULL };
    int argc = 0;

    *c = (struct conf){ .name = NULL };
    for (; argc < WORDS && words[argc] != NULL; argc++) {
        (void)snprintf(copy[argc], sizeof(copy[argc]), "%s", words[argc]);
        argv[argc] = copy[argc];
    }
    return opts_parse(opts, c, argc, argv, rest, e);
}

static void
good_rows(void **state)
{
    static const struct {
        const char *words[WORDS];
        const char *name, *kind;
        bool on, off;
        uint64_t n, poll_ms;
        size_t list_n;
        int rest;
    } rows[] = {
        { { "--need", "x" }, NULL, "a", false, true, 3, 120000, 0, 0 },
        { { "--need=x", "--name=" }, "", "a", false, true, 3, 120000, 0, 0 },
        { { "--need=x", "--name", "--n" }, "--n", "a", false, true, 3, 120000, 0, 0 },
        { { "--need=x", "--name=a=b" }, "a=b", "a", false, true, 3, 120000, 0, 0 },
        { { "--kind", "bb", "--need", "x", "--on", "--no-off" },
          NULL,
          "bb",
          true,
          false,
          3,
          120000,
          0,
          0 },
        { { "--need=x", "--on=true", "--off=false" }, NULL, "a", true, false, 3, 120000, 0, 0 },
        { { "--need=x", "--n=1", "--n=10", "--poll-interval=24h" },
          NULL,
          "a",
          false,
          true,
          10,
          86400000,
          0,
          0 },
        { { "--need=x", "--list=1", "--list", "2" }, NULL, "a", false, true, 3, 120000, 2, 0 },
        { { "one", "--need=x", "two", "--", "--three", "-" },
          NULL,
          "a",
          false,
          true,
          3,
          120000,
          0,
          4 },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err e = { 0 };
        struct conf c;
        struct opt_args rest;

        assert_ok(parse(rows[i].words, &c, &rest, &e));
        assert_true(rows[i].name == NULL ? c.name == NULL : strcmp(c.name, rows[i].name) == 0);
        assert_string_equal(c.kind, rows[i].kind);
        assert_true(c.on == rows[i].on && c.off == rows[i].off);
        assert_int_equal(c.n, rows[i].n);
        assert_int_equal(c.poll_ms, rows[i].poll_ms);
        assert_int_equal(c.list.n, rows[i].list_n);
        assert_int_equal(rest.n, rows[i].rest);
    }
}

static void
bad_rows(void **state)
{
    static const struct {
        const char *words[WORDS], *says;
    } rows[] = {
        { { NULL }, "--need is needed (what is needed)" },
        { { "--need" }, "--need needs a value (X)" },
        { { "--need=x", "--nope" }, "unknown flag --nope" },
        { { "--need=x", "--no-name" }, "unknown flag --no-name" },
        { { "--need=x", "--knid=bb" }, "unknown flag --knid; did you mean --kind? Else see" },
        { { "--need=x", "--poll-intervall=3s" }, "unknown flag --poll-intervall; see --help" },
        { { "--need=x", "-n" }, "unknown flag -n; flags start with --" },
        { { "--need=x", "--kind=c" }, "--kind: \"c\" is not one of a|bb" },
        { { "--need=x", "--n=0" }, "--n: 0 is outside 1..10" },
        { { "--need=x", "--n=11" }, "--n: 11 is outside 1..10" },
        { { "--need=x", "--n=x" }, "--n: \"x\" is not a number" },
        { { "--need=x", "--poll-interval=90" }, "--poll-interval: \"90\" is not a duration" },
        { { "--need=x", "--poll-interval=500ms" }, "--poll-interval: 500ms is outside 1s..24h" },
        { { "--need=x", "--on=maybe" }, "--on: \"maybe\" is not true or false" },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err e = { 0 };
        struct conf c;
        struct opt_args rest;

        assert_err(parse(rows[i].words, &c, &rest, &e), E_INVAL, rows[i].says);
    }
}

static void
help_is_asked(void **state)
{
    struct err e = { 0 };
    struct conf c;
    struct opt_args rest;

    (void)state;
    assert_int_equal(parse((const char *const[WORDS]){ "x", "--help" }, &c, &rest, &e), OPT_HELP);
    assert_int_equal(parse((const char *const[WORDS]){ "-h" }, &c, &rest, &e), OPT_HELP);
    assert_ok(parse((const char *const[WORDS]){ "--need=x", "--", "-h" }, &c, &rest, &e));
}

static void
the_environment_comes_between_default_and_command_line(void **state)
{
    struct err e = { 0 };
    struct conf c;
    struct opt_args rest;

    (void)state;
    assert_int_equal(setenv("MESHROOT_POLL_INTERVAL", "5s", 1), 0);
    assert_int_equal(setenv("MESHROOT_NEED", "env", 1), 0);
    assert_ok(parse((const char *const[WORDS]){ NULL }, &c, &rest, &e));
    assert_int_equal(c.poll_ms, 5000);
    assert_string_equal(c.need, "env");
    assert_ok(parse((const char *const[WORDS]){ "--poll-interval=7s" }, &c, &rest, &e));
    assert_int_equal(c.poll_ms, 7000);
    assert_int_equal(setenv("MESHROOT_POLL_INTERVAL", "soon", 1), 0);
    assert_err(parse((const char *const[WORDS]){ NULL }, &c, &rest, &e), E_INVAL,
               "from the environment");
    assert_int_equal(unsetenv("MESHROOT_POLL_INTERVAL"), 0);
    assert_int_equal(unsetenv("MESHROOT_NEED"), 0);
}

static void
a_list_has_a_bound(void **state)
{
    char *argv[OPT_LIST_MAX + 3];
    struct err e = { 0 };
    struct conf c = { .name = NULL };
    struct opt_args rest;
    static char word[] = "--list=x", need[] = "--need=x";

    (void)state;
    argv[0] = need;
    for (size_t i = 1; i < ARRAY_LEN(argv); i++)
        argv[i] = word;
    assert_err(opts_parse(opts, &c, (int)ARRAY_LEN(argv), argv, &rest, &e), E_INVAL,
               "more than 64 times");
}

static void
help_lists_what_is_not_hidden(void **state)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);

    (void)state;
    opts_help(opts, HELP_COLUMNS, f);
    opts_help(opts, HELP_COLUMNS_MIN, f);
    assert_int_equal(fclose(f), 0);
    static const char *const want[] = { "--name NAME", "a kind (a|bb) [a]", "a number (1..10) [3]",
                                        "--help", "  --kind KIND\n      a kind (a|bb) [a]\n" };
    for (size_t i = 0; i < ARRAY_LEN(want); i++)
        assert_non_null(strstr(text, want[i]));
    assert_null(strstr(text, "poll-interval"));
    free(text);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_rows),
        cmocka_unit_test(bad_rows),
        cmocka_unit_test(help_is_asked),
        cmocka_unit_test(the_environment_comes_between_default_and_command_line),
        cmocka_unit_test(a_list_has_a_bound),
        cmocka_unit_test(help_lists_what_is_not_hidden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
