/* test_serving.c - certificates of servers, for who may have them, with the names that are allowed.
 */
#include "service_kit.h"

#include "ca/evidence.h"

static const char sign_path[] = "/meshroot.v1.Serving/Sign";
static char istiod[] = "istiod.istio-system.svc",
            revision[] = "istiod-asm-1-17.aks-istio-system.svc";

static int
setup_serving(void **state)
{
    serving_accounts_n = 1;
    int r = setup(state);

    serving_accounts_n = 0;
    return r;
}

static void
sign(struct scene *s, char **names, size_t n, int64_t validity_s)
{
    Meshroot__V1__ServingRequest m = MESHROOT__V1__SERVING_REQUEST__INIT;
    uint8_t msg[CSR_MAX_BYTES];

    m.csr = (char *)s->csr.p;
    m.names = names;
    m.n_names = n;
    m.validity_s = validity_s;
    call(s, sign_path, span_of(msg, meshroot__v1__serving_request__pack(&m, msg)));
}

static bool
der_has(const struct cert *c, const char *text)
{
    return memmem(cert_der(c).p, cert_der(c).n, text, strlen(text)) != NULL;
}

static void
a_server_has_its_names_and_a_row(void **state)
{
    struct scene *s = *state;
    char *names[] = { revision, istiod };
    struct cert *leaf;
    size_t n;
    char usage[USAGE_TEXT_BYTES];
    struct err e = { 0 };

    sign(s, names, 2, 3600);
    assert_int_equal(s->code, GRPC_OK);
    Meshroot__V1__ServingAnswer *m =
        meshroot__v1__serving_answer__unpack(NULL, s->answer.n, s->answer.p);
    assert_non_null(m);
    assert_int_equal(m->n_cert_chain, 3);
    assert_ok(certs_from_pem(span_str(m->cert_chain[0]), &leaf, 1, &n, &e));
    meshroot__v1__serving_answer__free_unpacked(m, NULL);
    assert_true(der_has(leaf, istiod));
    assert_true(der_has(leaf, revision));
    assert_false(der_has(leaf, "spiffe:"));
    cert_usage_text(leaf, usage);
    assert_non_null(strstr(usage, "serverAuth"));
    assert_in_range(cert_not_after(leaf) - unix_s(), 3500, 3600);
    assert_false(cert_is_ca(leaf));
    assert_true(span_eq(cert_serial(leaf), span_of(fake.row.serial, fake.row.serial_n)));
    cert_unref(leaf);
    assert_string_equal(fake.row.identity, identity);
    assert_string_equal(fake.row.instance, instance);
    assert_string_equal(fake.row.auth, "serving:istiod-asm-1-17.aks-istio-system.svc jwt:j");
}

static void
no_row_no_certificate(void **state)
{
    struct scene *s = *state;
    char *names[] = { istiod };

    fake.later = E_SYS;
    sign(s, names, 1, 0);
    assert_int_equal(s->code, GRPC_UNAVAILABLE);
    assert_int_equal(s->messages_n, 0);
}

static void
what_is_refused(void **state)
{
    static char other[] = "kubernetes.default.svc", wild[] = "*.istio-system.svc", empty[] = "",
                upper[] = "ISTIOD.istio-system.svc", ip[] = "10.0.0.1", spiffe[] = "spiffe://a/b",
                dot[] = "istiod.istio-system.svc.", line[] = "istiod.istio-system.svc\n";
    static const struct {
        char *name;
        int64_t validity_s;
        int code;
        const char *words;
    } rows[] = {
        { other, 0, GRPC_PERMISSION_DENIED, "the name kubernetes.default.svc is not allowed" },
        { wild, 0, GRPC_PERMISSION_DENIED, "--serving-name" },
        { empty, 0, GRPC_PERMISSION_DENIED, "--serving-name" },
        { upper, 0, GRPC_PERMISSION_DENIED, "--serving-name" },
        { ip, 0, GRPC_PERMISSION_DENIED, "--serving-name" },
        { spiffe, 0, GRPC_PERMISSION_DENIED, "--serving-name" },
        { dot, 0, GRPC_PERMISSION_DENIED, "--serving-name" },
        { line, 0, GRPC_PERMISSION_DENIED, "the name asked for is not allowed" },
        { istiod, -1, GRPC_INVALID_ARGUMENT, "30 days" },
        { istiod, 30 * 86400 + 1, GRPC_INVALID_ARGUMENT, "30 days" },
    };
    struct scene *s = *state;
    char *names[CA_SERVING_NAMES_MAX + 1];

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        names[0] = istiod; /* one that is allowed makes the other no better */
        names[1] = rows[i].name;
        sign(s, names, 2, rows[i].validity_s);
        if (s->code != rows[i].code || strstr(s->msg, rows[i].words) == NULL)
            fail_msg("%s: %s %s", rows[i].name, grpc_code_name(s->code), s->msg);
    }
    sign(s, names, 0, 0);
    assert_int_equal(s->code, GRPC_INVALID_ARGUMENT);
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        names[i] = istiod;
    sign(s, names, ARRAY_LEN(names), 0);
    assert_int_equal(s->code, GRPC_INVALID_ARGUMENT);
    s->csr.p[s->csr.n / 2] ^= 1;
    sign(s, names, 1, 0);
    assert_int_equal(s->code, GRPC_INVALID_ARGUMENT);
    call(s, sign_path, span_str("\x0a\x05x"));
    assert_int_equal(s->code, GRPC_INVALID_ARGUMENT);
    assert_int_equal(fake.row.serial_n, 0); /* and nothing was ever recorded */
}

static void
other_accounts_are_refused(void **state)
{
    struct scene *s = *state;
    char *names[] = { istiod };

    sign(s, names, 1, 0);
    assert_int_equal(s->code, GRPC_PERMISSION_DENIED);
    assert_non_null(strstr(s->msg, "--serving-account"));
    assert_int_equal(fake.row.serial_n, 0);
    assert_int_equal((int)metric_value(s->metrics, "meshroot_ca_auth_failures_total",
                                       "reason=\"serving_account\""),
                     1);
}

/* -- the same through the operator's client -- */

static void
on_client_done(struct span chain, struct span roots, const struct err *why, void *arg)
{
    struct scene *s = arg;
    struct cert *certs[4];
    size_t n;
    struct err e = { 0 };

    s->code = why == NULL ? 0 : (int)why->code;
    if (why == NULL) {
        assert_ok(certs_from_pem(chain, certs, 4, &n, &e));
        assert_int_equal(n, 2);
        assert_memory_equal(cert_id(certs[1]), cert_id(s->kit.ca), DIGEST_BYTES);
        cert_unref(certs[0]);
        cert_unref(certs[1]);
        assert_ok(certs_from_pem(roots, certs, 4, &n, &e));
        assert_int_equal(n, 1);
        cert_unref(certs[0]);
    }
    loop_stop(s->loop);
}

static void
the_client_asks_for_it(void **state)
{
    struct scene *s = *state;
    const char *names[] = { istiod };
    char token[96];
    struct evidence_client *c;
    struct err e = { 0 };

    (void)snprintf(token, sizeof(token), "%s/token", s->dir);
    assert_ok(file_write(token, span_skip(buf_span(&s->token), strlen("Bearer ")), 0600, &e));
    const struct evidence_conf conf = { .host = "127.0.0.1",
                                        .port = ca_port(s->ca),
                                        .roots = bundle_roots(s->kit.bundle),
                                        .token_file = token };
    struct serving_request q = {
        .csr = buf_span(&s->csr), .names = names, .names_n = 1, .instance = instance
    };
    assert_ok(evidence_client_new(s->loop, &conf, &c, &e));
    assert_ok(evidence_client_sign(c, &q, on_client_done, s, &e));
    run(s);
    assert_int_equal(s->code, 0);
    names[0] = "other.svc";
    assert_ok(evidence_client_sign(c, &q, on_client_done, s, &e));
    run(s);
    assert_int_equal(s->code, E_DENIED);
    q.names_n = 0;
    assert_err(evidence_client_sign(c, &q, on_client_done, s, &e), E_INVAL, "1 to 8 names");
    q.names_n = 1;
    assert_ok(evidence_client_sign(c, &q, on_client_done, s, &e)); /* its end is nobody's */
    evidence_client_free(c);
}

int
main(int argc, char *argv[])
{
    signer_child_run(argc, argv);
#define SERVING(f) cmocka_unit_test_setup_teardown(f, setup_serving, teardown)
    const struct CMUnitTest tests[] = {
        SERVING(a_server_has_its_names_and_a_row),
        SERVING(no_row_no_certificate),
        SERVING(what_is_refused),
        cmocka_unit_test_setup_teardown(other_accounts_are_refused, setup, teardown),
        SERVING(the_client_asks_for_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
