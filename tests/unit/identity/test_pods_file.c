/* test_pods_file.c - a cluster as kubectl prints it; what is damaged or old is not believed. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../tmpdir.h"
#include "base/clock.h"
#include "base/file.h"
#include "identity/pods_file.h"

enum { GIVE_UP_MS = 60 * 1000, EVERY_MS = 10 };

static const struct metric_desc any = { "meshroot_pods_loads_total", "", METRIC_COUNTER };
static struct err e;

#define POD(ns, name, uid, sa, node, phase)                                                        \
    "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"namespace\":\"" ns                    \
    "\",\"name\":\"" name "\",\"uid\":\"" uid "\"},\"spec\":{\"serviceAccountName\":\"" sa         \
    "\",\"nodeName\":\"" node "\",\"containers\":[]},\"status\":{\"phase\":\"" phase "\"}}"
#define ACCOUNT(ns, name, uid)                                                                     \
    "{\"kind\":\"ServiceAccount\",\"metadata\":{\"namespace\":\"" ns "\",\"name\":\"" name         \
    "\",\"uid\":\"" uid "\"}}"
#define LIST(items) "{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[" items "]}"

static const char three[] = LIST(POD("shop", "cart-2", "u2", "cart", "n2", "Running") "," POD(
    "shop", "cart-1", "u1", "cart", "n1",
    "Running") "," POD("shop", "job-1", "u3", "job", "n1",
                       "Succeeded") ",{\"kind\":\"Node\",\"metadata\":{\"name\":"
                                    "\"n1\"}}," ACCOUNT("shop", "cart", "ua") "," ACCOUNT("a", "b",
                                                                                          "uc"));

static void
what_kubectl_prints(void **state)
{
    CLEANUP(pod_list_freep) struct pod_list *l = NULL;

    (void)state;
    assert_ok(pod_list_from_json(span_str(three), &l, &e));
    assert_int_equal(pod_list_pods(l), 3);
    const struct cluster_pod *p = pod_list_pod(l, "shop", "cart-1");
    assert_non_null(p);
    assert_string_equal(p->uid, "u1");
    assert_string_equal(p->node, "n1");
    assert_string_equal(p->sa, "cart");
    assert_false(p->is_over);
    assert_true(pod_list_pod(l, "shop", "job-1")->is_over);
    assert_null(pod_list_pod(l, "shop", "cart-3"));
    assert_null(pod_list_pod(l, "cart-1", "shop"));
    assert_null(pod_list_pod(l, "", ""));
    assert_string_equal(pod_list_account(l, "shop", "cart")->uid, "ua");
    assert_null(pod_list_account(l, "shop", "job"));
    assert_true(pod_list_runs_on(l, "n1", "shop", "cart"));
    assert_true(pod_list_runs_on(l, "n2", "shop", "cart"));
    assert_false(pod_list_runs_on(l, "n3", "shop", "cart"));
    assert_false(pod_list_runs_on(l, "n1", "shop", "job")); /* it is over */
    assert_false(pod_list_runs_on(l, "", "shop", "cart"));
}

static void
pods_without_accounts_and_pods_that_end(void **state)
{
    static const char pods[] =
        "{\"kind\":\"PodList\",\"items\":[{\"metadata\":{\"namespace\":\"a\",\"name\":\"p\","
        "\"uid\":"
        "\"u\",\"deletionTimestamp\":\"2020-02-29T23:59:59Z\"},\"spec\":{\"serviceAccountName\":"
        "\"s\",\"nodeName\":\"n\"}},{\"metadata\":{\"namespace\":\"a\",\"name\":\"q\",\"uid\":"
        "\"v\"},"
        "\"spec\":{\"serviceAccountName\":\"t\"}}]}";
    CLEANUP(pod_list_freep) struct pod_list *l = NULL;

    (void)state;
    assert_ok(pod_list_from_json(span_str(pods), &l, &e));
    assert_int_equal(pod_list_pods(l), 2);
    assert_int_equal(pod_list_pod(l, "a", "p")->deleted_s, 1583020799);
    assert_false(pod_list_runs_on(l, "n", "a", "s")); /* deleted long ago */
    assert_false(pod_list_runs_on(l, "", "a", "t"));  /* on no node yet */
    assert_null(pod_list_account(l, "a", "s"));
}

static void
what_is_no_list(void **state)
{
    static const struct {
        const char *text, *words;
    } rows[] = {
        { "", "" },
        { "[]", "" },
        { "{}", "kubectl get pods,serviceaccounts" },
        { "{\"kind\":\"Pod\",\"items\":[]}", "kubectl get pods,serviceaccounts" },
        { "{\"kind\":\"List\",\"items\":{}}", "kubectl get pods,serviceaccounts" },
        { LIST("1"), "item 1: not an object" },
        { LIST("{\"kind\":\"Pod\"}"), "item 1" },
        { LIST("{\"kind\":\"Pod\",\"metadata\":3}"), "\"metadata\" is not an object" },
        { LIST(POD("Shop", "p", "u", "s", "n", "")), "\"namespace\" is not a name" },
        { LIST(POD("a", "p/q", "u", "s", "n", "")), "\"name\" is not a name" },
        { LIST(POD("a", "p", "", "s", "n", "")), "no \"uid\"" },
        { LIST(POD("a", "p", "u", "s*", "n", "")), "\"serviceAccountName\" is not a name" },
        { LIST(POD("a", "p", "u", "s", "n n", "")), "\"nodeName\" is not a name" },
        { LIST(POD("a", "p", "u", "s", "n", "") "," POD("a", "p", "v", "s", "n", "")),
          "pod a/p is there twice" },
        { LIST(ACCOUNT("a", "b", "u") "," ACCOUNT("a", "b", "v")),
          "service account a/b is there twice" },
        { "{\"kind\":\"List\",\"kind\":\"List\",\"items\":[]}", "" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct pod_list *l = NULL;

        assert_err(pod_list_from_json(span_str(rows[i].text), &l, &e), E_PARSE, rows[i].words);
        assert_null(l);
    }
}

static void
a_list_is_bounded(void **state)
{
    static const char one[] = "{\"kind\":\"X\"},";
    CLEANUP(buf_done)
    struct buf b = BUF_INIT(sizeof(one) * (PODS_FILE_MAX_ITEMS + 2) + 64);
    struct pod_list *l = NULL;

    (void)state;
    assert_ok(buf_add_str(&b, "{\"kind\":\"List\",\"items\":[", &e));
    for (size_t i = 0; i < PODS_FILE_MAX_ITEMS; i++)
        assert_ok(buf_add_str(&b, one, &e));
    assert_ok(buf_add_str(&b, "{\"kind\":\"X\"}]}", &e));
    assert_err(pod_list_from_json(buf_span(&b), &l, &e), E_LIMIT, "at most 50000 are taken");
    assert_null(l);
}

/* -- the file ------------------------------------------------------------------------------------
 */

struct fixture {
    struct loop *loop;
    struct timer *give_up, *look;
    struct metrics *metrics;
    struct pods_file *file;
    char dir[64], path[80];
    const char *until;
    double until_n;
};

static void
on_give_up(void *arg)
{
    (void)arg;
    fail_msg("nothing happened");
}

static void
on_look(void *arg)
{
    struct fixture *f = arg;

    if (metric_value(f->metrics, any.name, f->until) >= f->until_n)
        loop_stop(f->loop);
    else
        timer_set(f->look, 5);
}

static void
wait_more(struct fixture *f, const char *result)
{
    f->until = result;
    f->until_n = metric_value(f->metrics, any.name, result) + 1;
    timer_set(f->look, 1);
    assert_ok(loop_run(f->loop, &e));
}

static void
put(struct fixture *f, const char *text)
{
    assert_ok(file_write(f->path, span_str(text), 0644, &e));
}

static void
the_file_changes_under_the_port(void **state)
{
    struct fixture f = { .until = "" };
    struct cluster_pod pod;
    struct cluster_account account;

    (void)state;
    tmpdir_make(f.dir);
    (void)snprintf(f.path, sizeof(f.path), "%s/pods.json", f.dir);
    assert_ok(loop_new(&f.loop, &e));
    assert_ok(metrics_new(&f.metrics, &e));
    assert_ok(timer_new(f.loop, on_give_up, NULL, &f.give_up, &e));
    assert_ok(timer_new(f.loop, on_look, &f, &f.look, &e));
    timer_set(f.give_up, GIVE_UP_MS);
    struct pods_file_conf k = { .path = f.path, .every_ms = EVERY_MS, .metrics = f.metrics };
    assert_ok(pods_file_new(f.loop, &k, &f.file, &e));
    const struct cluster *c = pods_file_cluster(f.file);

    wait_more(&f, "result=\"failed\""); /* not there yet: nothing is known, so no yes and no no */
    assert_err(c->pod(c->self, "shop", "cart-1", &pod, &e), E_BUSY, "not known yet");
    assert_err(c->account(c->self, "shop", "cart", &account, &e), E_BUSY, "not known yet");
    assert_err(c->runs_on(c->self, "n1", "shop", "cart", &e), E_BUSY, "not known yet");
    put(&f, three);
    wait_more(&f, "result=\"changed\"");
    assert_int_equal(c->pod(c->self, "shop", "cart-1", &pod, &e), 0);
    assert_string_equal(pod.uid, "u1");
    assert_int_equal(c->account(c->self, "shop", "cart", &account, &e), 0);
    assert_int_equal(c->runs_on(c->self, "n1", "shop", "cart", &e), 0);
    wait_more(&f, "result=\"same\"");
    put(&f, "{\"kind\":"); /* half a file: the last good one stays */
    wait_more(&f, "result=\"failed\"");
    assert_int_equal(c->pod(c->self, "shop", "cart-1", &pod, &e), 0);
    put(&f, LIST(ACCOUNT("shop", "cart", "new")));
    wait_more(&f, "result=\"changed\"");
    assert_int_equal(c->pod(c->self, "shop", "cart-1", &pod, &e), CLUSTER_ABSENT);
    assert_int_equal(c->account(c->self, "shop", "cart", &account, &e), 0);
    assert_string_equal(account.uid, "new");
    assert_int_equal(c->runs_on(c->self, "n1", "shop", "cart", &e), CLUSTER_ABSENT);

    /* too old: what was true once is not believed */
    pods_file_free(f.file);
    k.stale_ms = 1;
    assert_ok(pods_file_new(f.loop, &k, &f.file, &e));
    c = pods_file_cluster(f.file);
    wait_more(&f, "result=\"changed\"");
    assert_int_equal(unlink(f.path), 0);
    wait_more(&f, "result=\"failed\"");
    assert_err(c->account(c->self, "shop", "cart", &account, &e), E_BUSY, "too long ago");
    pods_file_free(f.file);
    timer_free(f.give_up);
    timer_free(f.look);
    loop_free(f.loop);
    metrics_free(f.metrics);
    tmpdir_remove(f.dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_kubectl_prints),
        cmocka_unit_test(pods_without_accounts_and_pods_that_end),
        cmocka_unit_test(what_is_no_list),
        cmocka_unit_test(a_list_is_bounded),
        cmocka_unit_test(the_file_changes_under_the_port),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
