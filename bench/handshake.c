/* handshake.c - see handshake.h. */
#include "handshake.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <time.h>

#include "floor.h"
#include "pki/openssl.h"

enum { STEPS_MAX = 8, WIRE_BYTES = 64 * 1024, REQUEST_BYTES = 1400, ANSWER_BYTES = 2000 };

struct handshake {
    bool resumed;
    SSL_CTX *server, *client;
    SSL_SESSION *session; /* the newest ticket's; NULL: none yet */
};

static int
on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *in,
        unsigned in_n, void *arg)
{
    (void)ssl;
    (void)in_n;
    (void)arg;
    *out = in + 1;
    *out_n = in[0];
    return SSL_TLSEXT_ERR_OK;
}

static int
on_session(SSL *ssl, SSL_SESSION *session)
{
    struct handshake *h = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

    SSL_SESSION_free(h->session);
    h->session = session;
    return 1;
}

/* Nobody verifies it. */
static X509 *
certificate(EVP_PKEY *key, EVP_PKEY *issuer)
{
    X509 *x = X509_new();
    X509_NAME *name = x == NULL ? NULL : X509_get_subject_name(x);

    if (x == NULL || X509_set_version(x, 2) != 1 ||
        ASN1_INTEGER_set(X509_get_serialNumber(x), 1) != 1 ||
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"floor", -1, -1,
                                   0) != 1 ||
        X509_set_issuer_name(x, name) != 1 || X509_gmtime_adj(X509_getm_notBefore(x), 0) == NULL ||
        X509_gmtime_adj(X509_getm_notAfter(x), 86400) == NULL || X509_set_pubkey(x, key) != 1 ||
        X509_sign(x, issuer, EVP_sha256()) == 0) {
        X509_free(x);
        return NULL;
    }
    return x;
}

static bool
set_certificate(SSL_CTX *ctx, EVP_PKEY *ca)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *leaf = key == NULL ? NULL : certificate(key, ca), *mid = certificate(ca, ca);
    bool good = leaf != NULL && mid != NULL && SSL_CTX_use_certificate(ctx, leaf) == 1 &&
                SSL_CTX_use_PrivateKey(ctx, key) == 1 && SSL_CTX_add1_chain_cert(ctx, mid) == 1;

    EVP_PKEY_free(key);
    X509_free(leaf);
    X509_free(mid);
    return good;
}

static bool
set_up(struct handshake *h, EVP_PKEY *ca)
{
    static const unsigned char h2[] = "\2h2";
    SSL_CTX *ends[] = { h->server, h->client };

    for (size_t i = 0; i < ARRAY_LEN(ends); i++)
        if (ends[i] == NULL || SSL_CTX_set_min_proto_version(ends[i], TLS1_3_VERSION) != 1 ||
            SSL_CTX_set_ciphersuites(ends[i], "TLS_AES_128_GCM_SHA256") != 1 ||
            SSL_CTX_ctrl(ends[i], SSL_CTRL_SET_GROUPS_LIST, 0, (void *)(uintptr_t) "X25519") != 1)
            return false;
    (void)SSL_CTX_set_mode(h->server, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(h->server, 1);
    SSL_CTX_set_verify(h->server, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_alpn_select_cb(h->server, on_alpn, NULL);
    (void)SSL_CTX_set_session_cache_mode(h->server, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_session_cache_mode(h->client,
                                         SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(h->client, on_session);
    (void)SSL_CTX_set_app_data(h->client, h);
    return SSL_CTX_set_num_tickets(h->server, 1) == 1 &&
           SSL_CTX_set_session_id_context(h->server, h2, sizeof(h2) - 1) == 1 &&
           SSL_CTX_set_alpn_protos(h->client, h2, sizeof(h2) - 1) == 0 &&
           set_certificate(h->server, ca);
}

int
handshake_new(struct key *ca_key, bool resumed, struct handshake **ret, struct err *e)
{
    struct handshake *h = calloc(1, sizeof(*h));

    if (h == NULL)
        return err_nomem(e);
    h->resumed = resumed;
    h->server = SSL_CTX_new(TLS_server_method());
    h->client = SSL_CTX_new(TLS_client_method());
    if (!set_up(h, key_evp(ca_key)) || handshake_run(h) < 0) { /* the first ticket */
        handshake_free(h);
        return err_set(e, E_CRYPTO, "the floor's own handshake does not work");
    }
    *ret = h;
    return 0;
}

static bool
has_read(SSL *ssl, size_t want)
{
    uint8_t bytes[ANSWER_BYTES];
    size_t n = 0;

    return SSL_read_ex(ssl, bytes, sizeof(bytes), &n) == 1 && n == want;
}

static bool
has_written(SSL *ssl, size_t n)
{
    static const uint8_t bytes[ANSWER_BYTES];
    size_t done = 0;

    return SSL_write_ex(ssl, bytes, n, &done) == 1 && done == n;
}

struct ends {
    SSL *server, *client;
    double at, client_us;
};

static void
client_begins(struct ends *x)
{
    x->at = clock_us(CLOCK_THREAD_CPUTIME_ID);
}

static void
client_ends(struct ends *x)
{
    x->client_us += clock_us(CLOCK_THREAD_CPUTIME_ID) - x->at;
}

/* r: 1 done, 0 the server has to speak, negative: failed. The request goes with the last flight. */
static int
client_step(struct ends *x)
{
    client_begins(x);
    int r = SSL_do_handshake(x->client);
    if (r == 1 && !has_written(x->client, REQUEST_BYTES))
        r = -1;
    else if (r != 1)
        r = SSL_get_error(x->client, r) == SSL_ERROR_WANT_READ ? 0 : -1;
    client_ends(x);
    return r;
}

static bool
talk(const struct handshake *h, struct ends *x)
{
    int client = 0, server = 0;

    for (int i = 0; i < STEPS_MAX && server != 1; i++) {
        if (client == 0)
            client = client_step(x);
        if (client < 0)
            return false;
        server = SSL_do_handshake(x->server);
    }
    return server == 1 && client == 1 && has_read(x->server, REQUEST_BYTES) &&
           has_written(x->server, ANSWER_BYTES) &&
           SSL_session_reused(x->server) == (h->resumed && h->session != NULL);
}

static bool
server_start(const struct handshake *h, struct ends *x)
{
    BIO *ours = NULL, *theirs = NULL;

    x->server = SSL_new(h->server);
    if (x->server == NULL || BIO_new_bio_pair(&ours, WIRE_BYTES, &theirs, WIRE_BYTES) != 1)
        return false;
    SSL_set_bio(x->server, ours, ours);
    SSL_set_bio(x->client, theirs, theirs);
    SSL_set_accept_state(x->server);
    return true;
}

double
handshake_run(struct handshake *h)
{
    struct ends x = { .client_us = 0 };

    client_begins(&x);
    x.client = SSL_new(h->client);
    bool good = x.client != NULL;
    if (good)
        SSL_set_connect_state(x.client);
    if (good && h->resumed && h->session != NULL)
        good = SSL_set_session(x.client, h->session) == 1;
    client_ends(&x);
    good = good && server_start(h, &x) && talk(h, &x);
    client_begins(&x);
    good = good && has_read(x.client, ANSWER_BYTES); /* and the ticket before it */
    if (good)
        (void)SSL_shutdown(x.client); /* else its session would count as broken */
    SSL_free(x.client);
    client_ends(&x);
    SSL_free(x.server);
    ERR_clear_error();
    return good ? x.client_us : -1;
}

void
handshake_free(struct handshake *h)
{
    if (h == NULL)
        return;
    SSL_SESSION_free(h->session);
    SSL_CTX_free(h->server);
    SSL_CTX_free(h->client);
    free(h);
}
