/* test_client.c - the client's limits, and that everyone who asked gets one answer. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "kube/kube.h"

enum { GIVE_UP_MS = 60 * 1000 };

static struct err e;

struct scene {
    struct loop *loop;
    struct timer *give_up;
    struct kube_client *client;
    size_t answers, wanted;
    enum err_code code;
};

static void
on_give_up(void *arg)
{
    (void)arg;
    fail_msg("no answer");
}

static void
on_done(const json_t *body, const struct err *why, void *arg)
{
    struct scene *s = arg;

    assert_null(body);
    s->code = why->code;
    if (++s->answers == s->wanted)
        loop_stop(s->loop);
}

static int
setup(void **state)
{
    static char server[] = "https://127.0.0.1:1/"; /* nobody listens; the slash is taken off */
    struct kube_conf conf = { .server = server };
    struct scene *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    *state = s;
    assert_ok(loop_new(&s->loop, &e));
    assert_ok(timer_new(s->loop, on_give_up, NULL, &s->give_up, &e));
    timer_set(s->give_up, GIVE_UP_MS);
    assert_ok(kube_client_new(s->loop, &conf, NULL, &s->client, &e));
    assert_string_equal(kube_client_server(s->client), "https://127.0.0.1:1");
    return 0;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    kube_client_free(s->client);
    timer_free(s->give_up);
    loop_free(s->loop);
    free(s);
    return 0;
}

static void
so_many_and_no_more(void **state)
{
    struct kube_request q = { .method = "GET", .path = "/x" };
    struct scene *s = *state;

    for (size_t i = 0; i < KUBE_MAX_REQUESTS; i++)
        assert_ok(kube_send(s->client, &q, on_done, s, NULL, &e));
    assert_err(kube_send(s->client, &q, on_done, s, NULL, &e), E_LIMIT, "under way");
    assert_int_equal(s->answers, 0);
    kube_client_free(STEAL(s->client)); /* everyone is told */
    assert_int_equal(s->answers, KUBE_MAX_REQUESTS);
    assert_int_equal(s->code, E_PEER);
}

static void
a_call_ends_in_its_time(void **state)
{
    struct kube_request q = { .method = "GET", .path = "/x", .deadline_ms = 300 };
    struct scene *s = *state;

    do { /* tried again until then; the time may be over before the first try is */
        s->wanted = s->answers + 1;
        assert_ok(kube_send(s->client, &q, on_done, s, NULL, &e));
        assert_ok(loop_run(s->loop, &e));
        q.deadline_ms *= 2;
    } while (s->code == E_TIMEOUT);
    assert_int_equal(s->code, E_PEER);
    q.method = "POST"; /* not safe to send twice: told at once */
    q.deadline_ms = 0;
    s->wanted = s->answers + 1;
    assert_ok(kube_send(s->client, &q, on_done, s, NULL, &e));
    assert_ok(loop_run(s->loop, &e));
    assert_int_equal(s->code, E_PEER);
}

static void
what_is_cancelled_is_silent(void **state)
{
    struct kube_request q = { .method = "GET", .path = "/x" };
    struct kube_call *call = NULL;
    struct scene *s = *state;

    assert_ok(kube_send(s->client, &q, on_done, s, &call, &e));
    kube_cancel(call);
    kube_cancel(NULL);
    s->wanted = 1;
    q.deadline_ms = 100;
    assert_ok(kube_send(s->client, &q, on_done, s, NULL, &e));
    assert_ok(loop_run(s->loop, &e));
    assert_int_equal(s->answers, 1);
    q.path = "x";
    assert_err(kube_send(s->client, &q, on_done, s, NULL, &e), E_INVAL, "no path");
}

static void
servers_and_files_that_cannot_be(void **state)
{
    static const struct {
        const char *server, *ca_file, *cert_file, *words;
    } rows[] = {
        { "http://10.0.0.1", NULL, NULL, "want https://" },
        { "10.0.0.1:6443", NULL, NULL, "want https://" },
        { "https://u@10.0.0.1", NULL, NULL, "want https://" },
        { "https://10.0.0.1?x", NULL, NULL, "want https://" },
        { "https://10.0.0.1", "/nowhere/ca.crt", NULL, "/nowhere/ca.crt" },
        { "https://10.0.0.1", NULL, "/etc/passwd", "belong together" },
    };
    struct scene *s = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char server[64], file[64], cert[64];
        struct kube_conf conf = { .server = server };
        struct kube_client *c = NULL;

        (void)snprintf(server, sizeof(server), "%s", rows[i].server);
        (void)snprintf(file, sizeof(file), "%s", rows[i].ca_file == NULL ? "" : rows[i].ca_file);
        (void)snprintf(cert, sizeof(cert), "%s",
                       rows[i].cert_file == NULL ? "" : rows[i].cert_file);
        conf.ca_file = file[0] == '\0' ? NULL : file;
        conf.cert_file = cert[0] == '\0' ? NULL : cert;
        assert_true(kube_client_new(s->loop, &conf, NULL, &c, &e) < 0);
        assert_non_null(strstr(e.msg, rows[i].words));
        assert_null(c);
    }
}

int
main(void)
{
#define SCENE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        SCENE(so_many_and_no_more),
        SCENE(a_call_ends_in_its_time),
        SCENE(what_is_cancelled_is_silent),
        SCENE(servers_and_files_that_cannot_be),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
