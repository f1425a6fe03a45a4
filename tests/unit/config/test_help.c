/* What help.h and near.h promise. */
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "config/help.h"
#include "config/near.h"

static void
words_are_wrapped(void **state)
{
    static const struct {
        const char *text;
        size_t at, indent, columns;
        const char *want;
    } rows[] = {
        { "", 0, 0, 20, "\n" },
        { "one two", 0, 0, 20, "one two\n" },
        { "one  two ", 0, 0, 20, "one two\n" },
        { "one two three", 0, 0, 7, "one two\nthree\n" },
        { "one two three", 0, 2, 9, "  one two\n  three\n" },
        { "one two", 5, 2, 9, " one\n  two\n" },
        { "a-word-that-is-longer-than-a-line b", 0, 0, 10,
          "a-word-that-is-longer-than-a-line\nb\n" },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *text = NULL;
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);

        help_wrap(span_str(rows[i].text), rows[i].at, rows[i].indent, rows[i].columns, f);
        assert_int_equal(fclose(f), 0);
        assert_string_equal(text, rows[i].want);
        free(text);
    }
}

static void
paragraphs_are_set_anew_and_examples_stay(void **state)
{
    static const struct {
        const char *text, *want;
    } rows[] = {
        { "one\ntwo\n", "one two\n" },
        { "one\ntwo three four\n\nfive\n", "one two\nthree four\n\nfive\n" },
        { "Examples:\n  a   long line stays   so\n", "Examples:\n  a   long line stays   so\n" },
        { "one\n  last line without end", "one\n  last line without end\n" },
        { "no end", "no end\n" },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *text = NULL;
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);

        help_text(rows[i].text, 10, f);
        assert_int_equal(fclose(f), 0);
        assert_string_equal(text, rows[i].want);
        free(text);
    }
}

static void
what_is_no_terminal_has_the_usual_width(void **state)
{
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

    (void)state;
    assert_int_equal(help_columns(fd), HELP_COLUMNS);
    (void)close(fd);
}

static void
the_nearest_word(void **state)
{
    static const struct {
        const char *word, *want;
    } rows[] = {
        { "namespace", "namespace" },
        { "namespce", "namespace" },
        { "namepsace", "namespace" },
        { "name-space", "namespace" },
        { "outptu", "output" },
        { "out", "out" },
        { "ot", "out" },
        { "xyz", NULL },
        { "", NULL },
        { "completely", NULL },
    };
    static char longest[NEAR_WORD_BYTES + 2];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct near n = near_start(span_str(rows[i].word));

        assert_null(near_word(&n));
        near_try(&n, "namespace");
        near_try(&n, "output");
        near_try(&n, "out");
        if (rows[i].want == NULL)
            assert_null(near_word(&n));
        else
            assert_string_equal(near_word(&n), rows[i].want);
    }
    memset(longest, 'a', sizeof(longest) - 1);
    struct near n = near_start(span_str(longest));
    near_try(&n, longest);
    assert_null(near_word(&n));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_wrapped),
        cmocka_unit_test(paragraphs_are_set_anew_and_examples_stay),
        cmocka_unit_test(what_is_no_terminal_has_the_usual_width),
        cmocka_unit_test(the_nearest_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
