/* test_jwks_source.c - keys from a file and over https: the last good set stays, and without one
 * there is none (peers.md 5a 21). */
#include "../pki/ca_kit.h"

#include <unistd.h>

#include "base/file.h"
#include "identity/jwks_source.h"
#include "net/addr.h"
#include "net/http.h"

enum { GIVE_UP_MS = 60 * 1000, EVERY_MS = 20 };

static const struct metric_desc any = { "meshroot_jwks_loads_total", "", METRIC_COUNTER };
static struct err e;

struct fixture {
    struct loop *loop;
    struct timer *give_up, *look;
    struct metrics *metrics;
    struct jwks_source *source;
    char dir[64], path[128];
    size_t changes, count; /* on_change calls; keys of the last one */
    const char *until;     /* labels of the metric to wait for */
    double until_n;
    /* the https issuer */
    struct http_server *server;
    uint16_t port;
    int status;
    const char *body;
    size_t requests;
};

static void
on_give_up(void *arg)
{
    (void)arg;
    fail_msg("nothing happened");
}

static void
on_change(struct jwks *keys, void *arg)
{
    struct fixture *f = arg;

    f->changes++;
    f->count = jwks_count(keys);
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

/* Runs the loop until the counter of `result` has grown by n. */
static void
wait_more(struct fixture *f, const char *result, unsigned n)
{
    f->until = result;
    f->until_n = metric_value(f->metrics, any.name, result) + n;
    timer_set(f->look, 1);
    assert_ok(loop_run(f->loop, &e));
}

/* `n` keys with kids k0, k1, ... */
static struct buf
keys_json(unsigned n)
{
    struct buf b = BUF_INIT(JWKS_DOC_MAX_BYTES);

    for (unsigned i = 0; i < n; i++) {
        CLEANUP(key_unrefp) struct key *k = NULL;
        struct buf one = BUF_INIT(1024);
        char kid[8];

        (void)snprintf(kid, sizeof(kid), "k%u", i);
        assert_ok(key_make(KEY_P256, &k, &e));
        assert_ok(jwks_of_key(k, kid, &one, &e));
        size_t skip = i == 0 ? 0 : strlen("{\"keys\":[");
        if (i > 0)
            b.p[b.n -= 2] = ',', b.n++;
        assert_ok(buf_add(&b, span_skip(buf_span(&one), skip), &e));
        buf_done(&one);
    }
    return b;
}

static void
put(struct fixture *f, const char *text)
{
    assert_ok(file_write(f->path, span_str(text), 0644, &e));
}

static int
setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/jwks-test.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->path, sizeof(f->path), "%s/jwks.json", f->dir);
    assert_ok(loop_new(&f->loop, &e));
    assert_ok(metrics_new(&f->metrics, &e));
    assert_ok(timer_new(f->loop, on_give_up, f, &f->give_up, &e));
    assert_ok(timer_new(f->loop, on_look, f, &f->look, &e));
    timer_set(f->give_up, GIVE_UP_MS);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;

    jwks_source_free(f->source);
    http_server_free(f->server);
    timer_free(f->give_up);
    timer_free(f->look);
    loop_free(f->loop);
    metrics_free(f->metrics);
    (void)unlink(f->path);
    (void)rmdir(f->dir);
    free(f);
    return 0;
}

static int
start(struct fixture *f, const char *location, const char *ca_file)
{
    struct jwks_source_conf conf = { .location = location,
                                     .ca_file = ca_file,
                                     .on_change = on_change,
                                     .arg = f,
                                     .metrics = f->metrics,
                                     .every_ms = EVERY_MS };

    return jwks_source_new(f->loop, &conf, &f->source, &e);
}

static void
a_file_and_its_changes(void **state)
{
    static const char *const damaged[] = { "", "{\"keys\":[]}", "<html>", "{\"keys\":[" };
    struct fixture *f = *state;
    struct buf one = keys_json(1), two = keys_json(2);

    assert_ok(start(f, f->path, NULL));
    wait_more(f, "result=\"failed\"", 2); /* not there yet: no keys, and it is tried again */
    assert_int_equal(f->changes, 0);
    put(f, buf_text(&one));
    wait_more(f, "result=\"changed\"", 1);
    assert_int_equal(f->changes, 1);
    assert_int_equal(f->count, 1);
    wait_more(f, "result=\"same\"", 2);
    put(f, buf_text(&one)); /* written again, the same content: no change */
    wait_more(f, "result=\"same\"", 2);
    assert_int_equal(f->changes, 1);
    for (size_t i = 0; i < ARRAY_LEN(damaged); i++) {
        put(f, damaged[i]);
        wait_more(f, "result=\"failed\"", 2);
        assert_int_equal(f->changes, 1); /* the last good set stays */
    }
    put(f, buf_text(&two));
    wait_more(f, "result=\"changed\"", 1);
    assert_int_equal(f->count, 2);
    assert_int_equal(unlink(f->path), 0);
    wait_more(f, "result=\"failed\"", 1);
    assert_int_equal(f->changes, 2);
    jwks_source_unknown_kid(f->source); /* for a file there is nothing to hurry */
    buf_done(&one);
    buf_done(&two);
}

static void
locations(void **state)
{
    static const struct {
        const char *location;
        bool ok;
    } rows[] = {
        { "https://issuer/keys", true },
        { "file:/a/b.json", true },
        { "file:///a/b.json", true },
        { "a/b.json", true },
        { "http://issuer/keys", false },
        { "HTTP://issuer/keys", false },
        { "ftp://issuer/keys", false },
        { "file:a.json", false },
        { "file://host/a.json", false },
        { "https://", false },
        { "", false },
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int r = start(f, rows[i].location, NULL);

        assert_int_equal(r, rows[i].ok ? 0 : -E_INVAL);
        jwks_source_free(f->source);
        f->source = NULL;
    }
}

static void
on_request(struct http_exchange *x, void *self)
{
    struct fixture *f = self;

    f->requests++;
    http_reply(x, f->status, "application/json", span_str(f->body));
}

static void
server_start(struct fixture *f, struct ca *root)
{
    struct ca leaf;
    struct addr a = { "127.0.0.1", 0 };
    struct http_server_conf conf = { .on_request = on_request, .self = f };
    CLEANUP(tls_conf_unrefp) struct tls_conf *tls = NULL;

    ca_bent(root, NULL, "root", -1, 10, CA_EXT);
    ca_bent(&leaf, root, "issuer", -1, 10, "subjectAltName=IP:127.0.0.1");
    struct tls_conf_args t = { .is_server = true, .key = leaf.key, .leaf = leaf.cert };
    assert_ok(tls_conf_new(&t, &tls, &e));
    conf.tls = tls;
    assert_ok(addr_listen(&a, false, &conf.listen_fd, &f->port, &e));
    assert_ok(http_server_new(f->loop, &conf, &f->server, &e));
    ca_done(&leaf);
}

static void
an_https_issuer(void **state)
{
    struct fixture *f = *state;
    struct ca root, stranger;
    struct buf one = keys_json(1), pem = BUF_INIT(PEM_MAX_BYTES);
    char url[64];

    server_start(f, &root);
    (void)snprintf(url, sizeof(url), "https://127.0.0.1:%u/keys", f->port);
    f->status = 200;
    f->body = buf_text(&one);

    ca_make(&stranger, NULL, "CN=stranger", -1);
    assert_ok(cert_to_pem(stranger.cert, &pem, &e));
    put(f, buf_text(&pem));
    assert_ok(start(f, url, f->path)); /* the server's root is not the one trusted */
    wait_more(f, "result=\"failed\"", 2);
    assert_int_equal(f->requests, 0);
    assert_int_equal(f->changes, 0);
    jwks_source_free(f->source);
    f->source = NULL;

    buf_done(&pem);
    pem = BUF_INIT(PEM_MAX_BYTES);
    assert_ok(cert_to_pem(root.cert, &pem, &e));
    put(f, buf_text(&pem));
    f->status = 500; /* with a good body: the status counts */
    assert_ok(start(f, url, f->path));
    wait_more(f, "result=\"failed\"", 2);
    assert_int_equal(f->changes, 0);
    f->status = 200;
    wait_more(f, "result=\"changed\"", 1);
    wait_more(f, "result=\"same\"", 1);
    f->body = "<html>sign in</html>";
    wait_more(f, "result=\"failed\"", 2);
    f->status = 404;
    wait_more(f, "result=\"failed\"", 1);
    assert_int_equal(f->changes, 1);
    jwks_source_unknown_kid(f->source);
    buf_done(&one);
    buf_done(&pem);
    ca_done(&root);
    ca_done(&stranger);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_file_and_its_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(locations, setup, teardown),
        cmocka_unit_test_setup_teardown(an_https_issuer, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
