/* Memory that is given back: less of it is there, and nothing is lost. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/footprint.h"
#include "base/str.h"

static const char constant[] = "a constant of the program";
static int variable = 7;

static long
file_kib(void)
{
    char line[128];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "re");

    assert_non_null(f);
    while (kib < 0 && fgets(line, sizeof(line), f) != NULL)
        (void)sscanf(line, "RssFile: %ld", &kib);
    (void)fclose(f);
    return kib;
}

static void
what_is_given_back_comes_again(void **state)
{
    char *heap = malloc(100000);
    uint64_t ms;
    struct err e;

    (void)state;
    assert_non_null(heap);
    memset(heap, 'h', 100000);
    variable = 8;
    long before = file_kib();
    footprint_trim();
    long after = file_kib();
    assert_true(before > 0 && after < before);
    assert_string_equal(constant, "a constant of the program");
    assert_int_equal(variable, 8);
    assert_int_equal(heap[99999], 'h');
    assert_ok(duration_ms_parse(span_str("90s"), &ms, &e));
    assert_int_equal(ms, 90000);
    free(heap);
}

int
main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(what_is_given_back_comes_again) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
