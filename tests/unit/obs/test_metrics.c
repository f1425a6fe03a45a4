/* What metrics.h promises: values, bounds, and the text page byte for byte. */
#include "unit.h"

#include <pthread.h>
#include <stdio.h>

#include "obs/metrics.h"

static const struct metric_desc counter = { "a_total", "Counts.", METRIC_COUNTER };
static const struct metric_desc gauge = { "b", "Is.", METRIC_GAUGE };
static const struct metric_desc histogram = { "c_seconds", "Takes.", METRIC_HISTOGRAM };

static int
setup(void **state)
{
    struct err e = { 0 };

    assert_ok(metrics_new((struct metrics **)state, &e));
    return 0;
}

static int
teardown(void **state)
{
    metrics_free(*state);
    return 0;
}

static void
values(void **state)
{
    struct metrics *m = *state;

    assert_true(metric_value(m, "a_total", "") == 0);
    metric_add(m, &counter, "", 1);
    metric_add(m, &counter, "", 2);
    metric_add(m, &counter, "k=\"v\"", 5);
    metric_set(m, &gauge, "", 9);
    metric_set(m, &gauge, "", -1.5);
    assert_true(metric_value(m, "a_total", "") == 3);
    assert_true(metric_value(m, "a_total", "k=\"v\"") == 5);
    assert_true(metric_value(m, "b", "") == -1.5);
    metric_clear(m, &gauge);
    assert_true(metric_value(m, "b", "") == 0);
    metric_add(NULL, &counter, "", 1); /* no registry: nothing happens */
    metric_observe(NULL, &histogram, "", 1);
}

static void
the_page_is_prometheus_text(void **state)
{
    struct metrics *m = *state;
    struct buf b = BUF_INIT(65536);
    struct err e = { 0 };

    metric_set(m, &gauge, "z=\"2\"", 0.25);
    metric_set(m, &gauge, "y=\"1\"", 1764000000);
    metric_add(m, &counter, "", 7);
    assert_ok(metrics_text(m, &b, &e));
    assert_string_equal(buf_text(&b),
                        "# HELP a_total Counts.\n# TYPE a_total counter\na_total 7\n"
                        "# HELP b Is.\n# TYPE b gauge\nb{y=\"1\"} 1764000000\nb{z=\"2\"} 0.25\n");
    buf_done(&b);
}

static void
histograms_are_cumulative(void **state)
{
    struct metrics *m = *state;
    struct buf b = BUF_INIT(65536);
    struct err e = { 0 };
    static const char *const want[] = {
        "c_seconds_bucket{le=\"0.0001\"} 1\n",
        "c_seconds_bucket{le=\"0.001\"} 2\n",
        "c_seconds_bucket{le=\"10\"} 2\n",
        "c_seconds_bucket{le=\"+Inf\"} 3\n",
        "c_seconds_sum 99.00105\n",
        "c_seconds_count 3\n",
        "c_seconds_bucket{op=\"x\",le=\"+Inf\"} 1\n",
        "c_seconds_sum{op=\"x\"} 0.5\n",
    };
    metric_observe(m, &histogram, "", 0.00005);
    metric_observe(m, &histogram, "", 0.001); /* a bound belongs to its bucket */
    metric_observe(m, &histogram, "", 99);
    metric_observe(m, &histogram, "op=\"x\"", 0.5);
    assert_ok(metrics_text(m, &b, &e));
    for (size_t i = 0; i < ARRAY_LEN(want); i++)
        if (strstr(buf_text(&b), want[i]) == NULL)
            fail_msg("no %s in\n%s", want[i], buf_text(&b));
    assert_true(metric_value(m, "c_seconds", "") == 3);
    buf_done(&b);
}

static void
label_values_are_escaped(void **state)
{
    struct buf b = BUF_INIT(256);
    struct err e = { 0 };

    (void)state;
    assert_ok(metric_label(&b, "a", "x\"y\\z\n\x7f", &e));
    assert_ok(metric_label(&b, "b", "", &e));
    assert_string_equal(buf_text(&b), "a=\"x\\\"y\\\\z??\",b=\"\"");
    buf_done(&b);
}

static void
no_peer_can_fill_memory_with_labels(void **state)
{
    struct metrics *m = *state;

    for (int i = 0; i < METRIC_MAX_SERIES + 100; i++) {
        char label[32];

        (void)snprintf(label, sizeof(label), "p=\"%d\"", i);
        metric_add(m, &counter, label, 1);
    }
    assert_true(metric_value(m, "a_total", "overflow=\"true\"") == 100);
    metric_add(m, &counter, "p=\"3\"", 1); /* those that are there go on */
    assert_true(metric_value(m, "a_total", "p=\"3\"") == 2);
}

static void
the_page_has_a_bound(void **state)
{
    struct metrics *m = *state;
    struct buf b = BUF_INIT(10);
    struct err e = { 0 };

    metric_add(m, &counter, "", 1);
    assert_err(metrics_text(m, &b, &e), E_LIMIT, "10 bytes");
    buf_done(&b);
}

static void *
count(void *m)
{
    for (int i = 0; i < 10000; i++)
        metric_add(m, &counter, "", 1);
    return NULL;
}

static void
any_thread_may_count(void **state)
{
    pthread_t t[4];

    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        assert_int_equal(pthread_create(&t[i], NULL, count, *state), 0);
    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        assert_int_equal(pthread_join(t[i], NULL), 0);
    assert_true(metric_value(*state, "a_total", "") == 40000);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(values),
        T(the_page_is_prometheus_text),
        T(histograms_are_cumulative),
        T(label_values_are_escaped),
        T(no_peer_can_fill_memory_with_labels),
        T(the_page_has_a_bound),
        T(any_thread_may_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
