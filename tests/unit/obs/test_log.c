/* The line formats of log.h: istiod's text, and JSON. */
#include "unit.h"

#include <stdio.h>
#include <unistd.h>

#include <jansson.h>

#include "obs/log.h"

static int fds[2];

/* The line that was just written, without its newline. */
static void
line_get(char ret[4096])
{
    ssize_t n = read(fds[0], ret, 4095);

    assert_true(n > 0 && ret[n - 1] == '\n');
    ret[n - 1] = '\0';
}

/* "2026-11-23T21:12:40.123456Z" */
static void
assert_time(const char *s)
{
    static const char form[] = "dddd-dd-ddTdd:dd:dd.ddddddZ";

    for (size_t i = 0; form[i] != '\0'; i++)
        assert_true(form[i] == 'd' ? s[i] >= '0' && s[i] <= '9' : s[i] == form[i]);
}

static void
text_lines(void **state)
{
    (void)state;
    static const struct {
        const char *scope;
        struct log_label label[3];
        const char *msg, *want;
    } rows[] = {
        { "", { { NULL, NULL } }, "plain", "\tinfo\tplain" },
        { "sync", { { NULL, NULL } }, "scoped", "\tinfo\tsync\tscoped" },
        { "ca", { { "a", "1" }, { "b", "x y" } }, "m", "\tinfo\tca\tm\ta=1 b=\"x y\"" },
        { "ca", { { "a", NULL }, { "b", "" } }, "m", "\tinfo\tca\tm\tb=\"\"" },
        { "ca", { { "a", "x\ny\x1b" } }, "m", "\tinfo\tca\tm\ta=\"x?y?\"" },
        { "", { { NULL, NULL } }, "bell\a, tab\tstays", "\tinfo\tbell?, tab\tstays" },
        { "", { { NULL, NULL } }, "one\n2026\terror\tforged", "\tinfo\tone?2026\terror\tforged" },
        { "ca", { { "a", "x\" b=\"y\\" } }, "m", "\tinfo\tca\tm\ta=\"x\\\" b=\\\"y\\\\\"" },
    };
    log_setup(fds[1], LOG_INFO, false);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char line[4096];

        log_with(LOG_INFO, rows[i].scope, rows[i].label, "%s", rows[i].msg);
        line_get(line);
        assert_time(line);
        assert_string_equal(line + 27, rows[i].want);
    }
}

static void
levels(void **state)
{
    (void)state;
    char line[4096];

    log_setup(fds[1], LOG_WARN, false);
    assert_false(log_enabled(LOG_INFO));
    log_info("x", "not written");
    log_debug("x", "not written");
    log_warn("x", "warned");
    line_get(line);
    assert_string_equal(line + 27, "\twarn\tx\twarned");
    log_error("x", "failed");
    line_get(line);
    assert_string_equal(line + 27, "\terror\tx\tfailed");
}

static void
the_brake_leaves_out_and_says_so(void **state)
{
    (void)state;
    struct log_brake b = { 0 };
    char line[4096];

    log_setup(fds[1], LOG_INFO, false);
    for (size_t i = 0; i < LOG_BRAKE_LINES; i++)
        assert_true(log_brake(&b, "ca", 5));
    for (size_t i = 0; i < 7; i++)
        assert_false(log_brake(&b, "ca", 6));
    assert_true(log_brake(&b, "ca", 5 + LOG_BRAKE_MS));
    line_get(line);
    assert_string_equal(line + 27, "\twarn\tca\t7 lines like the next one were left out");
    assert_true(log_brake(&b, "ca", 6 + LOG_BRAKE_MS));
    assert_true(log_brake(&b, "ca", 5 + 2 * LOG_BRAKE_MS)); /* and none of nothing */
    log_info("x", "the next");
    line_get(line);
    assert_string_equal(line + 27, "\tinfo\tx\tthe next");
}

static void
json_lines(void **state)
{
    (void)state;
    char line[4096];

    log_setup(fds[1], LOG_DEBUG, true);
    log_with(LOG_DEBUG, "sync", LABELS({ "who", "a\"b\\c\n\x01" }, { "none", NULL }), "it is %d%%",
             5);
    line_get(line);
    json_t *j = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(j);
    assert_int_equal(json_object_size(j), 5);
    assert_string_equal(json_string_value(json_object_get(j, "level")), "debug");
    assert_string_equal(json_string_value(json_object_get(j, "scope")), "sync");
    assert_string_equal(json_string_value(json_object_get(j, "msg")), "it is 5%");
    assert_string_equal(json_string_value(json_object_get(j, "who")), "a\"b\\c\n\x01");
    assert_time(json_string_value(json_object_get(j, "time")));
    json_decref(j);
    log_setup(fds[1], LOG_INFO, true);
    log_info("", "m");
    line_get(line);
    assert_null(strstr(line, "scope"));
}

static int
setup(void **state)
{
    (void)state;
    return pipe(fds);
}

static int
teardown(void **state)
{
    (void)state;
    log_setup(STDOUT_FILENO, LOG_INFO, false);
    (void)close(fds[0]);
    (void)close(fds[1]);
    return 0;
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = { T(text_lines), T(levels),
                                        T(the_brake_leaves_out_and_says_so), T(json_lines) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
