/* The Workload API over its Unix socket, with our own client: who is answered, with what, and when
 * again. */
#include "mint.h"
#include "tmpdir.h"
#include "until.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "agent/workload.h"
#include "net/addr.h"
#include "net/grpc.h"
#include "pki/pem.h"
#include "workload.pb-c.h"

enum { CLIENTS_MAX = 12 };

#define ID          "spiffe://cluster.local/ns/shop/sa/web"
#define SVID        "/SpiffeWorkloadAPI/FetchX509SVID"
#define BUNDLES     "/SpiffeWorkloadAPI/FetchX509Bundles"
#define JWT_SVID    "/SpiffeWorkloadAPI/FetchJWTSVID"
#define JWT_BUNDLES "/SpiffeWorkloadAPI/FetchJWTBundles"
#define VALIDATE    "/SpiffeWorkloadAPI/ValidateJWTSVID"

struct got { /* of one call */
    struct world *w;
    int messages_n, code;
    bool is_done;
    char text[256];
    struct buf last;
    struct grpc_request *q;
};

struct world {
    struct loop *l;
    bool (*until)(struct world *w);
    char dir[64], path[96];
    struct mint_ca root, other, mid;
    struct roots *wide;
    struct key *key, *key2;
    struct creds *creds, *next, *wider;
    struct workload *api;
    struct metrics *metrics;
    struct grpc_client *clients[CLIENTS_MAX];
    struct got svid, bundles;
    int last_fd, extra_fd, settled_n, done_n, exhausted_n, wanted_n;
};

static void
on_settled(void *arg)
{
    struct world *w = arg;

    assert_true(workload_is_settled(w->api));
    w->settled_n++;
}

static bool
is_so(void *arg)
{
    struct world *w = arg;

    return w->until(w);
}

static void
run_until(struct world *w, bool (*until)(struct world *w))
{
    w->until = until;
    assert_true(loop_until(w->l, is_so, w));
}

static struct creds *
creds_make(struct world *w, struct key *key, uint64_t generation)
{
    struct cert *leaf = mint_leaf(&w->mid, key, ID, 600);
    struct buf pem[3] = { BUF_INIT(8192), BUF_INIT(8192), BUF_INIT(65536) };
    struct creds *c;
    char *chain[3];
    struct err e;

    assert_ok(cert_to_pem(leaf, &pem[0], &e));
    assert_ok(cert_to_pem(w->mid.cert, &pem[1], &e));
    assert_ok(roots_to_pem(w->root.roots, &pem[2], &e));
    for (size_t i = 0; i < 3; i++)
        chain[i] = (char *)pem[i].p;
    assert_ok(creds_from_answer(key, ID, chain, 3, &c, &e));
    c->generation = generation;
    for (size_t i = 0; i < 3; i++)
        buf_done(&pem[i]);
    cert_unref(leaf);
    return c;
}

static int
setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct err e;

    assert_non_null(w);
    tmpdir_make(w->dir);
    (void)snprintf(w->path, sizeof(w->path), "%s/run/agent.sock", w->dir);
    assert_ok(loop_new(&w->l, &e));
    assert_ok(metrics_new(&w->metrics, &e));
    mint_ca(&w->root, "CN=Root A", NULL);
    mint_ca(&w->other, "CN=Root B", NULL);
    mint_ca(&w->mid, "CN=Intermediate A1", &w->root);
    assert_ok(key_make(KEY_P256, &w->key, &e));
    assert_ok(key_make(KEY_RSA2048, &w->key2, &e)); /* a new key for each leaf */
    assert_ok(roots_union(w->root.roots, w->other.roots, &w->wide, &e));
    w->creds = creds_make(w, w->key, 1);
    w->next = creds_make(w, w->key2, 2);
    assert_ok(creds_with_roots(w->next, w->wide, NULL, 3, &w->wider, &e));
    w->svid = (struct got){ .w = w, .last = BUF_INIT(1 << 20) };
    w->bundles = (struct got){ .w = w, .last = BUF_INIT(1 << 20) };
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    struct world *w = *state;

    for (size_t i = 0; i < CLIENTS_MAX; i++)
        grpc_client_free(w->clients[i]);
    workload_free(w->api);
    loop_free(w->l);
    metrics_free(w->metrics);
    creds_free(w->creds);
    creds_free(w->next);
    creds_free(w->wider);
    mint_ca_done(&w->root);
    mint_ca_done(&w->other);
    mint_ca_done(&w->mid);
    roots_unref(w->wide);
    key_unref(w->key);
    key_unref(w->key2);
    buf_done(&w->svid.last);
    buf_done(&w->bundles.last);
    tmpdir_remove(w->dir);
    free(w);
    clock_shift_for_test(0);
    return 0;
}

static void
serve(struct world *w, const uint32_t *uids, size_t n)
{
    const struct workload_conf conf = { .socket = w->path,
                                        .uids = uids,
                                        .uids_n = n,
                                        .metrics = w->metrics,
                                        .on_settled = on_settled,
                                        .arg = w };
    struct err e;

    assert_ok(workload_new(w->l, &conf, &w->api, &e));
}

static void
on_message(struct span msg, void *arg)
{
    struct got *g = arg;
    struct err e;

    g->messages_n++;
    g->last.n = 0;
    assert_ok(buf_add(&g->last, msg, &e));
}

static void
on_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct got *g = arg;

    (void)q;
    g->code = code;
    g->is_done = true;
    g->q = NULL;
    (void)snprintf(g->text, sizeof(g->text), "%s", msg);
}

static const struct grpc_header_kv security[] = { { "workload.spiffe.io", "true" },
                                                  { NULL, NULL } };

static struct grpc_client *
client(struct world *w, size_t i)
{
    const struct grpc_client_conf conf = { .host = w->path };
    struct err e;

    if (w->clients[i] == NULL)
        assert_ok(grpc_client_new(w->l, &conf, &w->clients[i], &e));
    return w->clients[i];
}

static void
call(struct got *g, const char *path, const struct grpc_header_kv *headers, struct span msg)
{
    const struct grpc_answer answer = { on_message, on_done, g };
    struct err e;

    g->is_done = false;
    g->messages_n = 0;
    g->code = -1;
    g->last.n = 0;
    assert_ok(grpc_client_call(client(g->w, 0), path, headers, msg, 0, &answer, &g->q, &e));
}

static bool
svid_done(struct world *w)
{
    return w->svid.is_done;
}

static bool
svid_came(struct world *w)
{
    return w->svid.messages_n > 0 || w->svid.is_done;
}

static bool
both_came(struct world *w)
{
    return w->svid.messages_n > 0 && w->bundles.messages_n > 0;
}

static void
start_both(struct world *w)
{
    serve(w, NULL, 0);
    workload_use(w->api, w->creds);
    call(&w->svid, SVID, security, span_str(""));
    call(&w->bundles, BUNDLES, security, span_str(""));
    run_until(w, both_came);
}

/* What a workload reads out of an answer is what the agent holds. */
static void
check_svid(struct world *w, const struct creds *c)
{
    struct buf roots = BUF_INIT(65536), chain = BUF_INIT(65536), pem = BUF_INIT(65536);
    struct key *key;
    struct err e;
    Spiffe__Workload__SvidResponse *m =
        spiffe__workload__svid_response__unpack(NULL, w->svid.last.n, w->svid.last.p);

    assert_non_null(m);
    assert_int_equal(m->n_svids, 1);
    const Spiffe__Workload__Svid *s = m->svids[0];
    assert_string_equal(s->spiffe_id, ID);
    assert_ok(buf_add(&chain, cert_der(c->leaf), &e));
    assert_ok(buf_add(&chain, cert_der(w->mid.cert), &e));
    for (size_t i = 0; i < roots_count(c->roots); i++)
        assert_ok(buf_add(&roots, cert_der(roots_at(c->roots, i)), &e));
    assert_true(span_eq(span_of(s->x509_svid.data, s->x509_svid.len), buf_span(&chain)));
    assert_true(span_eq(span_of(s->bundle.data, s->bundle.len), buf_span(&roots)));
    assert_ok(
        pem_add(&pem, "PRIVATE KEY", span_of(s->x509_svid_key.data, s->x509_svid_key.len), &e));
    assert_ok(key_from_pem(buf_span(&pem), &key, &e));
    assert_true(cert_key_matches(c->leaf, key));
    key_unref(key);
    buf_done(&roots);
    buf_done(&chain);
    buf_done(&pem);
    spiffe__workload__svid_response__free_unpacked(m, NULL);
}

static size_t
roots_in_bundles(struct world *w)
{
    size_t n = 0;
    Spiffe__Workload__BundlesResponse *m =
        spiffe__workload__bundles_response__unpack(NULL, w->bundles.last.n, w->bundles.last.p);

    assert_non_null(m);
    assert_int_equal(m->n_bundles, 1);
    assert_string_equal(m->bundles[0]->key, "spiffe://cluster.local");
    for (size_t i = 0; i < roots_count(w->wide); i++) {
        struct span der = cert_der(roots_at(w->wide, i));

        n += memmem(m->bundles[0]->value.data, m->bundles[0]->value.len, der.p, der.n) != NULL;
    }
    spiffe__workload__bundles_response__free_unpacked(m, NULL);
    return n;
}

static void
the_first_answer_is_whole_and_at_once(void **state)
{
    struct world *w = *state;

    start_both(w);
    check_svid(w, w->creds);
    assert_int_equal(roots_in_bundles(w), 1);
    assert_false(w->svid.is_done); /* the stream stays */
    assert_true(workload_is_settled(w->api));
    assert_true(workload_gave_key(w->api));
    assert_true(metric_value(w->metrics, "meshroot_agent_workload_requests_total",
                             "method=\"FetchX509SVID\",code=\"OK\"") == 1);
    workload_metrics_refresh(w->api);
    assert_true(metric_value(w->metrics, "meshroot_agent_workload_streams", "") == 2);
}

static void
bundles_alone_give_no_key(void **state)
{
    struct world *w = *state;

    serve(w, NULL, 0);
    workload_use(w->api, w->creds);
    assert_false(workload_gave_key(w->api));
    w->svid.messages_n = 1; /* not waited for */
    call(&w->bundles, BUNDLES, security, span_str(""));
    run_until(w, both_came);
    assert_false(workload_gave_key(w->api));
    assert_null(memmem(w->bundles.last.p, w->bundles.last.n, ID, strlen(ID)));
}

static bool
svid_again(struct world *w)
{
    return w->svid.messages_n == 2 && w->settled_n == 1;
}

static bool
both_again(struct world *w)
{
    return w->svid.messages_n == 3 && w->bundles.messages_n == 2 && w->settled_n == 2;
}

/* Each stream hears of what it is about: a new leaf is nothing new for a stream of bundles. */
static void
each_change_is_pushed_to_whom_it_concerns(void **state)
{
    struct world *w = *state;

    start_both(w);
    workload_use(w->api, w->next);
    assert_false(workload_is_settled(w->api));
    run_until(w, svid_again);
    check_svid(w, w->next);
    assert_int_equal(w->bundles.messages_n, 1);
    workload_use(w->api, w->wider);
    run_until(w, both_again);
    check_svid(w, w->wider);
    assert_int_equal(roots_in_bundles(w), 2);
    workload_use(w->api, w->wider); /* nothing has changed */
    assert_true(workload_is_settled(w->api));
    assert_true(metric_value(w->metrics, "meshroot_agent_workload_pushes_total", "") == 3);
}

static bool
no_streams(struct world *w)
{
    workload_metrics_refresh(w->api);
    return metric_value(w->metrics, "meshroot_agent_workload_streams", "") == 0;
}

static void
a_client_that_goes_leaves_nothing_behind(void **state)
{
    struct world *w = *state;

    start_both(w);
    grpc_cancel(w->svid.q);
    run_until(w, svid_done);
    grpc_client_free(STEAL(w->clients[0]));
    run_until(w, no_streams);
    workload_use(w->api, w->wider);
    assert_true(workload_is_settled(w->api)); /* there is nobody to wait for */
}

static void
refusals_have_the_codes_of_the_specification(void **state)
{
    static const struct grpc_header_kv none[] = { { NULL, NULL } },
                                       no[] = { { "workload.spiffe.io", "false" }, { NULL, NULL } },
                                       upper[] = { { "workload.spiffe.io", "True" },
                                                   { NULL, NULL } },
                                       twice[] = { { "workload.spiffe.io", "true" },
                                                   { "workload.spiffe.io", "true" },
                                                   { NULL, NULL } };
    static const struct {
        const char *path, *msg, *part;
        const struct grpc_header_kv *headers;
        int code;
    } rows[] = {
        { SVID, "", "security header missing", none, GRPC_INVALID_ARGUMENT },
        { BUNDLES, "", "security header missing", none, GRPC_INVALID_ARGUMENT },
        { SVID, "", "security header", no, GRPC_INVALID_ARGUMENT },
        { SVID, "", "security header", upper, GRPC_INVALID_ARGUMENT },
        { SVID, "", "security header", twice, GRPC_INVALID_ARGUMENT },
        { SVID, "\x0a\x7f", "not what this method takes", security, GRPC_INVALID_ARGUMENT },
        { BUNDLES, "\x0a\x7f", "not what this method takes", security, GRPC_INVALID_ARGUMENT },
        { JWT_SVID, "\x0a\x01x", "security header", no, GRPC_INVALID_ARGUMENT },
        { JWT_SVID, "", "1 to 8 audiences", security, GRPC_INVALID_ARGUMENT },
        { JWT_BUNDLES, "", "security header missing", none, GRPC_INVALID_ARGUMENT },
        { JWT_BUNDLES, "", "told no keys of JWT-SVIDs yet", security, GRPC_UNAVAILABLE },
        { VALIDATE, "", "security header", twice, GRPC_INVALID_ARGUMENT },
        { VALIDATE, "", "an audience and a token", security, GRPC_INVALID_ARGUMENT },
        { VALIDATE, "\x0a\x01x\x12\x01y", "keys of JWT-SVIDs are not known", security,
          GRPC_UNAVAILABLE },
        { "/SpiffeWorkloadAPI/FetchWITSVID", "", "unknown method", security, GRPC_UNIMPLEMENTED },
        { "/spire.api.X/Y", "", "unknown service", security, GRPC_UNIMPLEMENTED },
    };
    struct world *w = *state;

    serve(w, NULL, 0);
    workload_use(w->api, w->creds);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        call(&w->svid, rows[i].path, rows[i].headers, span_str(rows[i].msg));
        run_until(w, svid_done);
        if (w->svid.code != rows[i].code || strstr(w->svid.text, rows[i].part) == NULL)
            fail_msg("row %zu: %d %s", i, w->svid.code, w->svid.text);
        assert_int_equal(w->svid.messages_n, 0);
    }
    assert_false(workload_gave_key(w->api));
}

/* Fields that a newer client sends are passed over. */
static void
unknown_fields_of_a_request_are_skipped(void **state)
{
    struct world *w = *state;

    serve(w, NULL, 0);
    workload_use(w->api, w->creds);
    call(&w->svid, SVID, security,
         span_str("\x52\x03"
                  "abc"));
    run_until(w, svid_came);
    check_svid(w, w->creds);
}

static void
another_uid_is_refused(void **state)
{
    const uint32_t strangers[] = { (uint32_t)geteuid() + 1, 4242 };
    const uint32_t allowed[] = { 4242, (uint32_t)geteuid() };
    struct world *w = *state;
    struct stat st;

    serve(w, strangers, ARRAY_LEN(strangers));
    workload_use(w->api, w->creds);
    assert_int_equal(stat(w->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0666);
    call(&w->svid, SVID, security, span_str(""));
    run_until(w, svid_done);
    assert_int_equal(w->svid.code, GRPC_PERMISSION_DENIED);
    assert_non_null(strstr(w->svid.text, "no identity issued: uid "));
    assert_false(workload_gave_key(w->api));
    json_t *j = workload_status(w->api);
    assert_int_equal(json_integer_value(json_object_get(j, "refused")), 1);
    json_decref(j);
    workload_free(w->api);
    serve(w, allowed, ARRAY_LEN(allowed));
    workload_use(w->api, w->creds);
    grpc_client_free(STEAL(w->clients[0]));
    call(&w->svid, SVID, security, span_str(""));
    run_until(w, svid_came);
    check_svid(w, w->creds);
}

static void
without_a_leaf_it_is_unavailable(void **state)
{
    struct world *w = *state;

    serve(w, NULL, 0);
    for (int i = 0; i < 2; i++) {
        call(&w->svid, i == 0 ? SVID : BUNDLES, security, span_str(""));
        run_until(w, svid_done);
        assert_int_equal(w->svid.code, GRPC_UNAVAILABLE);
    }
    workload_use(w->api, w->creds);
    call(&w->svid, SVID, security, span_str(""));
    run_until(w, svid_came);
    check_svid(w, w->creds);
}

static void
an_expired_leaf_is_not_given_but_its_roots_are(void **state)
{
    struct world *w = *state;

    serve(w, NULL, 0);
    workload_use(w->api, w->creds);
    clock_shift_for_test(700);
    call(&w->svid, SVID, security, span_str(""));
    call(&w->bundles, BUNDLES, security, span_str(""));
    run_until(w, svid_done);
    assert_int_equal(w->svid.code, GRPC_UNAVAILABLE);
    w->svid.messages_n = 1;
    run_until(w, both_came);
    assert_int_equal(roots_in_bundles(w), 1);
}

static void
count_message(struct span msg, void *arg)
{
    struct world *w = arg;

    (void)msg;
    w->done_n++;
}

static void
count_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct world *w = arg;

    (void)msg;
    (void)q;
    if (code == GRPC_RESOURCE_EXHAUSTED) {
        w->exhausted_n++;
        w->done_n++;
    }
}

static bool
all_answered(struct world *w)
{
    return w->done_n >= w->wanted_n;
}

static void
streams_are_bounded(void **state)
{
    struct world *w = *state;
    const struct grpc_answer answer = { count_message, count_done, w };
    int per_client = 120;
    struct err e;

    serve(w, NULL, 0);
    workload_use(w->api, w->creds);
    w->wanted_n = WORKLOAD_STREAMS_MAX + 5;
    for (int i = 0; i < w->wanted_n; i++)
        assert_ok(grpc_client_call(client(w, (size_t)(i / per_client)), BUNDLES, security,
                                   span_str(""), 0, &answer, NULL, &e));
    run_until(w, all_answered);
    assert_int_equal(w->exhausted_n, 5);
}

static bool
is_cut_off(struct world *w)
{
    char c;

    return recv(w->extra_fd, &c, 1, MSG_DONTWAIT) == 0;
}

/* The server's first frame has come on the last one. */
static bool
all_accepted(struct world *w)
{
    char c;

    return recv(w->last_fd, &c, 1, MSG_DONTWAIT | MSG_PEEK) == 1;
}

/* Silent connections of one user, allowed or not, keep nobody else out. */
static void
connections_of_one_uid_are_bounded(void **state)
{
    struct world *w = *state;
    int fds[WORKLOAD_PER_UID_MAX];
    struct err e;

    serve(w, NULL, 0);
    workload_use(w->api, w->creds);
    for (size_t i = 0; i < WORKLOAD_PER_UID_MAX; i++)
        assert_ok(unix_connect(w->path, &fds[i], &e));
    w->last_fd = fds[WORKLOAD_PER_UID_MAX - 1];
    run_until(w, all_accepted);
    assert_ok(unix_connect(w->path, &w->extra_fd, &e));
    run_until(w, is_cut_off);
    for (size_t i = 0; i < WORKLOAD_PER_UID_MAX; i++) {
        uint8_t settings[9]; /* the server's first frame waits: this one was let in */

        assert_int_equal(recv(fds[i], settings, 9, MSG_DONTWAIT), 9);
        (void)close(fds[i]);
    }
    (void)close(w->extra_fd);
}

static void
the_socket_goes_with_the_agent(void **state)
{
    const struct workload_conf again = { .socket = ((struct world *)*state)->path };
    struct world *w = *state;
    struct workload *second;
    struct stat st;
    struct err e;

    serve(w, NULL, 0);
    assert_int_equal(stat(w->path, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 0777, 0600); /* nobody but root and us may call */
    assert_err(workload_new(w->l, &again, &second, &e), E_STATE, "another process serves there");
    assert_int_equal(stat(w->path, &st), 0);
    workload_free(STEAL(w->api));
    assert_int_equal(stat(w->path, &st), -1);
    /* one that a killed process left is in nobody's way */
    int fd;
    assert_ok(unix_listen(w->path, 0600, &fd, &e));
    (void)close(fd);
    serve(w, NULL, 0);
}

static void
too_many_uids(void **state)
{
    const uint32_t uids[WORKLOAD_UIDS_MAX + 1] = { 0 };
    struct world *w = *state;
    const struct workload_conf conf = { .socket = w->path,
                                        .uids = uids,
                                        .uids_n = ARRAY_LEN(uids) };
    struct workload *api;
    struct err e;

    assert_err(workload_new(w->l, &conf, &api, &e), E_LIMIT, "32 --workload-allow-uid");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(the_first_answer_is_whole_and_at_once),
        T(bundles_alone_give_no_key),
        T(each_change_is_pushed_to_whom_it_concerns),
        T(a_client_that_goes_leaves_nothing_behind),
        T(refusals_have_the_codes_of_the_specification),
        T(unknown_fields_of_a_request_are_skipped),
        T(another_uid_is_refused),
        T(without_a_leaf_it_is_unavailable),
        T(an_expired_leaf_is_not_given_but_its_roots_are),
        T(streams_are_bounded),
        T(connections_of_one_uid_are_bounded),
        T(the_socket_goes_with_the_agent),
        T(too_many_uids),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
