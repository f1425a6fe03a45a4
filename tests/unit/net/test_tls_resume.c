/* Resumption never skips authentication: peers.md 5b rows 23 and 24 (SPIRE 1.14.3, CVE-2022-21654),
 * by ticket (TLS 1.2), by session id (TLS 1.2) and by PSK (TLS 1.3). Server and client are joined
 * in memory. */
#include "mint.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "net/tls_openssl.h"
#include "pki/openssl.h"

enum { STEPS_MAX = 64 };
enum { PSK_KE, PSK_DHE_KE }; /* RFC 8446 4.2.9 */

#define ID_A "spiffe://cluster.local/ns/shop/sa/a"

struct world {
    struct mint_ca root, other, mid;
    struct key *key;
    struct cert *server, *leaf;
};

static int
setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct err e;

    assert_non_null(w);
    assert_ok(key_make(KEY_P256, &w->key, &e));
    mint_ca(&w->root, "CN=Root A", NULL);
    mint_ca(&w->other, "CN=Root B", NULL);
    mint_ca(&w->mid, "CN=Intermediate A1", &w->root);
    w->server = mint_leaf(&w->mid, w->key, "ca.local", 7200);
    w->leaf = mint_leaf(&w->mid, w->key, ID_A, 7200);
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    struct world *w = *state;

    cert_unref(w->server);
    cert_unref(w->leaf);
    key_unref(w->key);
    mint_ca_done(&w->root);
    mint_ca_done(&w->other);
    mint_ca_done(&w->mid);
    free(w);
    clock_shift_for_test(0);
    return 0;
}

static struct tls_conf *
server_conf(struct world *w, struct roots *roots)
{
    struct cert *chain[] = { w->mid.cert };
    const struct tls_conf_args a = { .is_server = true,
                                     .key = w->key,
                                     .leaf = w->server,
                                     .chain = chain,
                                     .chain_n = 1,
                                     .roots = roots,
                                     .rule = TLS_PEER_OPTIONAL,
                                     .alpn = "h2",
                                     .resumes = true };
    struct tls_conf *c;
    struct err e;

    assert_ok(tls_conf_new(&a, &c, &e));
    return c;
}

/* A client that is not ours: it trusts anybody and resumes whatever it can. */
static SSL_CTX *
client_ctx(struct world *w, int version, bool with_leaf, bool with_tickets)
{
    static const uint8_t h2[] = { 2, 'h', '2' };
    SSL_CTX *x = SSL_CTX_new(TLS_client_method());

    assert_int_equal(SSL_CTX_set_min_proto_version(x, version), 1);
    assert_int_equal(SSL_CTX_set_max_proto_version(x, version), 1);
    assert_int_equal(SSL_CTX_set_alpn_protos(x, h2, sizeof(h2)), 0);
    if (!with_tickets)
        (void)SSL_CTX_set_options(x, SSL_OP_NO_TICKET);
    if (with_leaf) {
        assert_int_equal(SSL_CTX_use_certificate(x, cert_x509(w->leaf)), 1);
        assert_int_equal(SSL_CTX_use_PrivateKey(x, key_evp(w->key)), 1);
        assert_int_equal(SSL_CTX_add1_chain_cert(x, cert_x509(w->mid.cert)), 1);
    }
    return x;
}

struct meeting {
    bool is_up, is_resumed, has_peer;
    bool shares_leaf;     /* one parsed certificate of the peer for both libraries */
    int kept_n;           /* further certificates that the server's end still holds */
    SSL_SESSION *session; /* what the client may offer next; NULL: none */
};

static bool
step(SSL *s)
{
    int r = SSL_do_handshake(s);

    return r == 1 || SSL_get_error(s, r) == SSL_ERROR_WANT_READ;
}

/* Joins both ends, shakes hands, says goodbye. The client's end reads once, so that it has what was
 * sent after the handshake. */
static struct meeting
meet(struct tls_conf *conf, SSL *client)
{
    struct meeting m = { .is_up = false };
    struct tls_peer peer = { .leaf = NULL };
    BIO *a, *b;
    SSL *server;
    struct err e;
    uint8_t byte;
    bool good = true;

    assert_ok(tls_ssl_new(conf, NULL, &server, &e));
    assert_int_equal(BIO_new_bio_pair(&a, 0, &b, 0), 1);
    SSL_set_bio(server, a, a);
    SSL_set_bio(client, b, b);
    for (int i = 0; i < STEPS_MAX && good; i++)
        good = step(client) && step(server);
    m.is_up = good && SSL_is_init_finished(client) && SSL_is_init_finished(server) &&
              SSL_write(server, "x", 1) == 1 && SSL_read(client, &byte, 1) == 1 &&
              tls_peer_of(conf, server, &peer, &e) == 0;
    if (m.is_up) {
        m.is_resumed = SSL_session_reused(server) == 1;
        m.has_peer = peer.leaf != NULL;
        m.shares_leaf = m.has_peer && cert_x509(peer.leaf) == SSL_get0_peer_certificate(server);
        m.kept_n = sk_X509_num(SSL_get_peer_cert_chain(server)) +
                   sk_X509_num(SSL_get0_verified_chain(server));
        m.session = SSL_get1_session(client);
        tls_peer_done(&peer);
        (void)SSL_shutdown(client);
        (void)SSL_shutdown(server);
    }
    ERR_clear_error();
    SSL_free(server);
    SSL_free(client);
    return m;
}

static struct meeting
meet_as(struct tls_conf *conf, SSL_CTX *x, SSL_SESSION *offer)
{
    SSL *client = SSL_new(x);

    SSL_set_connect_state(client);
    if (offer != NULL)
        assert_int_equal(SSL_set_session(client, offer), 1);
    return meet(conf, client);
}

static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

static void
who_showed_no_certificate_resumes_and_is_still_nobody(void **state)
{
    struct world *w = *state;

    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        struct tls_conf *conf = server_conf(w, w->root.roots);
        SSL_CTX *x = client_ctx(w, versions[i], false, true);
        struct meeting first = meet_as(conf, x, NULL);
        struct meeting second = meet_as(conf, x, first.session);

        assert_true(first.is_up && !first.is_resumed && !first.has_peer);
        assert_true(second.is_up && second.is_resumed && !second.has_peer);
        SSL_SESSION_free(first.session);
        SSL_SESSION_free(second.session);
        SSL_CTX_free(x);
        tls_conf_unref(conf);
    }
}

static void
cve_row_23_a_client_certificate_is_verified_in_every_handshake(void **state)
{
    struct world *w = *state;

    for (size_t i = 0; i < 2 * ARRAY_LEN(versions); i++) {
        struct tls_conf *conf = server_conf(w, w->root.roots);
        SSL_CTX *x = client_ctx(w, versions[i / 2], true, i % 2 == 0); /* ticket or PSK; id */
        struct meeting first = meet_as(conf, x, NULL);
        struct meeting second = meet_as(conf, x, first.session);

        assert_true(first.is_up && !first.is_resumed && first.has_peer);
        assert_true(second.is_up && !second.is_resumed && second.has_peer);
        SSL_SESSION_free(first.session);
        SSL_SESSION_free(second.session);
        SSL_CTX_free(x);
        tls_conf_unref(conf);
    }
}

/* An idle connection is to be small. */
static void
a_server_keeps_of_a_verified_peer_its_leaf_alone(void **state)
{
    struct world *w = *state;

    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        struct tls_conf *conf = server_conf(w, w->root.roots);
        SSL_CTX *x = client_ctx(w, versions[i], true, false);
        struct meeting m = meet_as(conf, x, NULL);

        assert_true(m.is_up && m.has_peer && m.shares_leaf);
        assert_int_equal(m.kept_n, 0);
        SSL_SESSION_free(m.session);
        SSL_CTX_free(x);
        tls_conf_unref(conf);
    }
}

/* The conf of after the removal has roots without the client's. */
static void
cve_row_23_a_removed_root_is_of_no_use_to_a_resumed_session(void **state)
{
    struct world *w = *state;

    for (size_t i = 0; i < 2 * ARRAY_LEN(versions); i++) {
        struct tls_conf *before = server_conf(w, w->root.roots);
        struct tls_conf *after = server_conf(w, w->other.roots);
        SSL_CTX *x = client_ctx(w, versions[i / 2], true, i % 2 == 0);
        struct meeting first = meet_as(before, x, NULL);
        struct meeting second = meet_as(after, x, first.session);

        assert_true(first.is_up && first.has_peer);
        assert_false(second.is_up);
        SSL_SESSION_free(first.session);
        SSL_CTX_free(x);
        tls_conf_unref(before);
        tls_conf_unref(after);
    }
}

static void
cve_row_24_a_ticket_of_older_settings_is_noise(void **state)
{
    struct world *w = *state;

    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        struct tls_conf *before = server_conf(w, w->root.roots);
        struct tls_conf *after = server_conf(w, w->root.roots);
        SSL_CTX *x = client_ctx(w, versions[i], false, true);
        struct meeting first = meet_as(before, x, NULL);
        struct meeting second = meet_as(after, x, first.session);

        assert_true(second.is_up && !second.is_resumed);
        SSL_SESSION_free(first.session);
        SSL_SESSION_free(second.session);
        SSL_CTX_free(x);
        tls_conf_unref(before);
        tls_conf_unref(after);
    }
}

static void
a_session_id_alone_resumes_nothing(void **state)
{
    struct world *w = *state;
    struct tls_conf *conf = server_conf(w, w->root.roots);
    SSL_CTX *x = client_ctx(w, TLS1_2_VERSION, false, false);
    struct meeting first = meet_as(conf, x, NULL);
    struct meeting second = meet_as(conf, x, first.session);

    assert_true(first.is_up && second.is_up && !second.is_resumed);
    SSL_SESSION_free(first.session);
    SSL_SESSION_free(second.session);
    SSL_CTX_free(x);
    tls_conf_unref(conf);
}

/* How many tickets a server means to give to a client whose ClientHello says `modes` instead of
 * what OpenSSL's says: psk_key_exchange_modes with psk_dhe_ke. */
static size_t
tickets_for(struct tls_conf *conf, SSL_CTX *x, const uint8_t modes[6])
{
    static const uint8_t dhe[6] = { 0, TLSEXT_TYPE_psk_kex_modes, 0, 2, 1, PSK_DHE_KE };
    SSL *client = SSL_new(x), *server;
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    struct err e;
    char *p;

    SSL_set_connect_state(client);
    SSL_set0_rbio(client, BIO_new(BIO_s_mem()));
    SSL_set0_wbio(client, in);
    assert_true(step(client));
    long n = BIO_get_mem_data(in, &p);
    uint8_t *at = memmem(p, (size_t)n, dhe, sizeof(dhe));
    assert_non_null(at);
    memcpy(at, modes, sizeof(dhe));
    assert_ok(tls_ssl_new(conf, NULL, &server, &e));
    assert_int_equal(BIO_up_ref(in), 1);
    SSL_set_bio(server, in, out);
    assert_true(step(server));
    assert_true(BIO_get_mem_data(out, &p) > 0); /* its whole flight */
    size_t tickets = SSL_get_num_tickets(server);
    SSL_free(client);
    SSL_free(server);
    return tickets;
}

/* RFC 8446 4.2.9. Go without a session cache, its default, says nothing of PSK. */
static void
who_cannot_resume_gets_no_ticket(void **state)
{
    static const struct {
        uint8_t modes[6];
        size_t tickets;
    } rows[] = {
        { { 0, TLSEXT_TYPE_psk_kex_modes, 0, 2, 1, PSK_DHE_KE }, TLS_TICKETS },
        { { 0, TLSEXT_TYPE_psk_kex_modes, 0, 2, 1, PSK_KE }, 0 },
        { { 0xfa, 0xfa, 0, 2, 1, PSK_DHE_KE }, 0 }, /* of a type that nobody knows */
    };
    struct world *w = *state;
    struct tls_conf *conf = server_conf(w, w->root.roots);
    SSL_CTX *x = client_ctx(w, TLS1_3_VERSION, false, true);

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(tickets_for(conf, x, rows[i].modes), rows[i].tickets);
    SSL_CTX_free(x);
    tls_conf_unref(conf);
}

/* -- our own client -----------------------------------------------------------------------------
 */

static struct tls_conf *
our_client(struct world *w)
{
    const struct tls_conf_args a = {
        .roots = w->root.roots, .rule = TLS_PEER_NAME, .alpn = "h2", .resumes = true
    };
    struct tls_conf *c;
    struct err e;

    assert_ok(tls_conf_new(&a, &c, &e));
    return c;
}

static bool
our_client_resumes(struct tls_conf *server, struct tls_conf *client, const char *name)
{
    SSL *ssl;
    struct err e;

    assert_ok(tls_ssl_new(client, name, &ssl, &e));
    struct meeting m = meet(server, ssl);
    SSL_SESSION_free(m.session);
    return m.is_up && m.is_resumed;
}

static void
our_client_resumes_with_the_same_server_only(void **state)
{
    struct world *w = *state;
    struct tls_conf *server = server_conf(w, w->root.roots), *client = our_client(w);

    assert_false(our_client_resumes(server, client, "ca.local"));
    assert_true(our_client_resumes(server, client, "ca.local"));
    assert_true(our_client_resumes(server, client, "ca.local"));
    assert_false(our_client_resumes(server, client, "cb.local"));
    tls_conf_unref(client);
    tls_conf_unref(server);
}

static void
our_client_verifies_a_server_anew_once_its_certificate_has_ended(void **state)
{
    struct world *w = *state;
    struct tls_conf *server = server_conf(w, w->root.roots), *client = our_client(w);

    assert_false(our_client_resumes(server, client, "ca.local"));
    clock_shift_for_test(7300);
    assert_false(our_client_resumes(server, client, "ca.local"));
    tls_conf_unref(client);
    tls_conf_unref(server);
}

static void
settings_that_would_skip_authentication_are_refused(void **state)
{
    struct world *w = *state;
    const struct tls_conf_args rows[] = {
        { .is_server = true,
          .key = w->key,
          .leaf = w->server,
          .roots = w->root.roots,
          .rule = TLS_PEER_SPIFFE,
          .resumes = true },
        { .key = w->key,
          .leaf = w->leaf,
          .roots = w->root.roots,
          .rule = TLS_PEER_NAME,
          .resumes = true },
    };
    struct tls_conf *c;
    struct err e;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_err(tls_conf_new(&rows[i], &c, &e), E_INVAL, "not resumed");
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(who_showed_no_certificate_resumes_and_is_still_nobody),
        T(cve_row_23_a_client_certificate_is_verified_in_every_handshake),
        T(a_server_keeps_of_a_verified_peer_its_leaf_alone),
        T(cve_row_23_a_removed_root_is_of_no_use_to_a_resumed_session),
        T(cve_row_24_a_ticket_of_older_settings_is_noise),
        T(a_session_id_alone_resumes_nothing),
        T(who_cannot_resume_gets_no_ticket),
        T(our_client_resumes_with_the_same_server_only),
        T(our_client_verifies_a_server_anew_once_its_certificate_has_ended),
        T(settings_that_would_skip_authentication_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
