#include "net/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "net/addr.h"
#include "net/tls_openssl.h"
#include "pki/openssl.h"

enum { ALPN_MAX = 32, VERIFY_DEPTH_MAX = CHAIN_MAX, NAME_BYTES = 256 };
enum { PSK_DHE_KE = 1 }; /* RFC 8446 4.2.9 */

#define CIPHERS_12 "ECDHE+AESGCM:ECDHE+CHACHA20"
#define CIPHERS_13 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define GROUPS     "X25519:P-256:P-384"

struct tls_conf {
    atomic_uint refs;
    SSL_CTX *ctx;
    enum tls_peer_rule rule;
    bool is_server, resumes;
    uint8_t alpn[ALPN_MAX]; /* length byte + name; alpn_n == 0: none */
    unsigned alpn_n;
    pthread_mutex_t lock;  /* of a client's session and whose it is */
    SSL_SESSION *session;  /* NULL: none yet */
    char name[NAME_BYTES]; /* the server's, as it was verified */
};

/* The first reason in OpenSSL's queue, in words; the queue is empty afterwards. */
static int
fail(struct err *e, enum err_code code, const char *what)
{
    unsigned long no = ERR_peek_last_error();
    const char *why = no == 0 ? NULL : ERR_reason_error_string(no);

    ERR_clear_error();
    return err_set(e, code, "tls: %s: %s", what, why == NULL ? "failed" : why);
}

static int
alpn_select(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *in,
            unsigned in_n, void *arg)
{
    const struct tls_conf *c = arg;

    (void)ssl;
    for (unsigned i = 0; i < in_n && in_n - i > in[i]; i += 1u + in[i])
        if (in[i] + 1u == c->alpn_n && memcmp(in + i, c->alpn, c->alpn_n) == 0) {
            *out = in + i + 1;
            *out_n = in[i];
            return SSL_TLSEXT_ERR_OK;
        }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int
set_alpn(struct tls_conf *c, const char *alpn, struct err *e)
{
    size_t n = alpn == NULL ? 0 : strlen(alpn);

    if (alpn == NULL)
        return 0;
    if (n == 0 || n >= ALPN_MAX)
        return err_set(e, E_INVAL, "tls: bad ALPN name");
    c->alpn[0] = (uint8_t)n;
    memcpy(c->alpn + 1, alpn, n);
    c->alpn_n = (unsigned)n + 1;
    if (c->is_server)
        SSL_CTX_set_alpn_select_cb(c->ctx, alpn_select, c);
    else if (SSL_CTX_set_alpn_protos(c->ctx, c->alpn, c->alpn_n) != 0)
        return fail(e, E_CRYPTO, "ALPN");
    return 0;
}

static int
set_own_certificate(SSL_CTX *ctx, const struct tls_conf_args *a, struct err *e)
{
    if (a->key == NULL || a->leaf == NULL) {
        if (a->is_server || a->key != NULL || a->leaf != NULL)
            return err_set(e, E_INVAL, "tls: a key and its certificate are needed");
        return 0;
    }
    if (!cert_key_matches(a->leaf, a->key))
        return err_set(e, E_DENIED, "tls: the certificate does not belong to the key");
    if (SSL_CTX_use_certificate(ctx, cert_x509(a->leaf)) != 1 ||
        SSL_CTX_use_PrivateKey(ctx, key_evp(a->key)) != 1)
        return fail(e, E_CRYPTO, "own certificate and key");
    for (size_t i = 0; i < a->chain_n; i++)
        if (SSL_CTX_add1_chain_cert(ctx, cert_x509(a->chain[i])) != 1)
            return fail(e, E_CRYPTO, "own chain");
    return 0;
}

static int
set_peer_rule(SSL_CTX *ctx, const struct tls_conf_args *a, struct err *e)
{
    static const int modes[] = {
        [TLS_PEER_NONE] = SSL_VERIFY_NONE,
        [TLS_PEER_OPTIONAL] = SSL_VERIFY_PEER,
        [TLS_PEER_SPIFFE] = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
        [TLS_PEER_NAME] = SSL_VERIFY_PEER,
    };

    if ((size_t)a->rule >= ARRAY_LEN(modes) || (a->rule == TLS_PEER_NAME && a->is_server) ||
        (a->rule == TLS_PEER_OPTIONAL && !a->is_server))
        return err_set(e, E_INVAL, "tls: this peer rule is for the other side");
    if (a->rule == TLS_PEER_NONE && !a->is_server)
        return err_set(e, E_INVAL, "tls: a client must verify its server");
    SSL_CTX_set_verify(ctx, modes[a->rule], NULL);
    SSL_CTX_set_verify_depth(ctx, VERIFY_DEPTH_MAX);
    if (a->rule == TLS_PEER_NONE)
        return 0;
    if (a->roots != NULL)
        SSL_CTX_set1_cert_store(ctx, roots_store(a->roots));
    else if (a->rule != TLS_PEER_NAME)
        return err_set(e, E_INVAL, "tls: no roots to verify the peer with");
    else if (SSL_CTX_set_default_verify_paths(ctx) != 1)
        return fail(e, E_CRYPTO, "the system's roots");
    return 0;
}

/* -- resumption ---------------------------------------------------------------------------------
 *
 * Tickets are OpenSSL's own (AES-256-CBC and HMAC-SHA256), with keys that it makes anew for each
 * SSL_CTX: a ticket of an older conf is noise to a newer one. */

/* Called while a client's certificate is verified: its session will get no ticket. (TLS 1.2 has
 * promised one by then; on_ticket refuses that.) */
static int
on_verify(int ok, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());

    (void)SSL_set_num_tickets(ssl, 0);
    return ok;
}

/* Called when a client's ClientHello is there. Who does not say that it resumes with a fresh
 * exchange (Go without a session cache, its default, does not) gets no TLS 1.3 ticket:
 * it costs 4 % of a new connection, and would be thrown away. Source: RFC 8446 4.2.9. */
static int
on_hello(SSL *ssl, int *alert, void *arg)
{
    const unsigned char *modes; /* their number, and a byte for each */
    size_t n;

    (void)alert;
    (void)arg;
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk_kex_modes, &modes, &n) != 1 || n < 2 ||
        memchr(modes + 1, PSK_DHE_KE, n - 1) == NULL)
        (void)SSL_set_num_tickets(ssl, 0);
    return SSL_CLIENT_HELLO_SUCCESS;
}

/* A session with a client certificate is never resumed: its chain would not be verified against the
 * roots of now. Source: peers.md 5b (23). */
static SSL_TICKET_RETURN
on_ticket(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t name_n,
          SSL_TICKET_STATUS status, void *arg)
{
    (void)ssl;
    (void)name;
    (void)name_n;
    (void)arg;
    if ((status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW) ||
        SSL_SESSION_get0_peer(session) != NULL)
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    return status == SSL_TICKET_SUCCESS
               ? SSL_TICKET_RETURN_USE
               : SSL_TICKET_RETURN_USE_RENEW; /* TLS 1.3: each ticket is for one use */
}

/* The name or address that the server of this connection is verified by; "" for one too long. */
static void
name_of(SSL *ssl, char ret[NAME_BYTES])
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    const char *host = X509_VERIFY_PARAM_get0_host(param, 0);
    char *ip = host == NULL ? X509_VERIFY_PARAM_get1_ip_asc(param) : NULL;
    const char *name = host != NULL ? host : ip;

    ret[0] = '\0';
    if (name != NULL && strlen(name) < NAME_BYTES)
        memcpy(ret, name, strlen(name) + 1);
    OPENSSL_free(ip);
}

/* A client has a new session. r: 1 it is kept, with its reference. */
static int
on_session(SSL *ssl, SSL_SESSION *session)
{
    struct tls_conf *c = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

    (void)pthread_mutex_lock(&c->lock);
    SSL_SESSION_free(c->session);
    c->session = session;
    name_of(ssl, c->name);
    (void)pthread_mutex_unlock(&c->lock);
    return 1;
}

/* Offers the session that this server gave, while the certificate in it is valid: nothing else of
 * it would be checked again. */
static void
offer_session(struct tls_conf *c, SSL *ssl)
{
    time_t now = (time_t)unix_s();
    char name[NAME_BYTES];

    name_of(ssl, name);
    (void)pthread_mutex_lock(&c->lock);
    X509 *peer = c->session == NULL ? NULL : SSL_SESSION_get0_peer(c->session);
    if (peer != NULL && name[0] != '\0' && strcmp(c->name, name) == 0 &&
        X509_cmp_time(X509_get0_notAfter(peer), &now) > 0 &&
        X509_cmp_time(X509_get0_notBefore(peer), &now) < 0)
        (void)SSL_set_session(ssl, c->session);
    (void)pthread_mutex_unlock(&c->lock);
}

static int
set_resumption(struct tls_conf *c, const struct tls_conf_args *a, struct err *e)
{
    static const unsigned char session_context[] = "meshroot";

    if (a->rule == TLS_PEER_SPIFFE || (!a->is_server && a->key != NULL))
        return err_set(e, E_INVAL, "tls: a session with a client certificate is not resumed");
    c->resumes = true;
    (void)SSL_CTX_clear_options(c->ctx, SSL_OP_NO_TICKET);
    (void)SSL_CTX_set_timeout(c->ctx, TLS_TICKET_LIFE_S);
    if (!a->is_server) {
        (void)SSL_CTX_set_session_cache_mode(c->ctx,
                                             SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(c->ctx, on_session);
        return 0;
    }
    if (SSL_CTX_set_num_tickets(c->ctx, TLS_TICKETS) != 1 ||
        SSL_CTX_set_session_id_context(c->ctx, session_context, sizeof(session_context) - 1) != 1 ||
        SSL_CTX_set_session_ticket_cb(c->ctx, NULL, on_ticket, NULL) != 1)
        return fail(e, E_CRYPTO, "session tickets");
    SSL_CTX_set_client_hello_cb(c->ctx, on_hello, NULL);
    if (a->rule == TLS_PEER_OPTIONAL)
        SSL_CTX_set_verify(c->ctx, SSL_CTX_get_verify_mode(c->ctx), on_verify);
    return 0;
}

static int
set_protocol(SSL_CTX *ctx, struct err *e)
{
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_cipher_list(ctx, CIPHERS_12) != 1 ||
        SSL_CTX_set_ciphersuites(ctx, CIPHERS_13) != 1 ||
        SSL_CTX_ctrl(ctx, SSL_CTRL_SET_GROUPS_LIST, 0, (void *)(uintptr_t)GROUPS) != 1 ||
        SSL_CTX_set_num_tickets(ctx, 0) != 1)
        return fail(e, E_CRYPTO, "settings");
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                                       SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_RELEASE_BUFFERS |
                                    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(ctx, 1);
    return 0;
}

int
tls_conf_new(const struct tls_conf_args *a, struct tls_conf **ret, struct err *e)
{
    CLEANUP(tls_conf_unrefp) struct tls_conf *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return err_nomem(e);
    atomic_init(&c->refs, 1);
    (void)pthread_mutex_init(&c->lock, NULL);
    c->rule = a->rule;
    c->is_server = a->is_server;
    c->ctx = SSL_CTX_new(a->is_server ? TLS_server_method() : TLS_client_method());
    if (c->ctx == NULL)
        return fail(e, E_CRYPTO, "SSL_CTX_new");
    (void)SSL_CTX_set_app_data(c->ctx, c);
    TRY(set_protocol(c->ctx, e));
    TRY(set_own_certificate(c->ctx, a, e));
    TRY(set_peer_rule(c->ctx, a, e));
    TRY(set_alpn(c, a->alpn, e));
    if (a->resumes)
        TRY(set_resumption(c, a, e));
    *ret = STEAL(c);
    return 0;
}

struct tls_conf *
tls_conf_ref(struct tls_conf *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void
tls_conf_unref(struct tls_conf *c)
{
    if (c == NULL || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    SSL_SESSION_free(c->session);
    SSL_CTX_free(c->ctx);
    (void)pthread_mutex_destroy(&c->lock);
    free(c);
}

void
tls_peer_done(struct tls_peer *p)
{
    cert_unref(p->leaf);
    free(p->above);
    *p = (struct tls_peer){ .leaf = NULL };
}

bool
tls_peer_is_revoked(const struct tls_peer *p, const struct crls *lists)
{
    for (size_t i = 0; i < p->above_n; i++)
        if (crls_revoke_mark(lists, &p->above[i]))
            return true;
    return p->leaf != NULL && crls_revoke(lists, p->leaf);
}

/* A name is verified against SAN only, whole labels only; an IP address against iPAddress. */
static int
set_name(SSL *ssl, const char *name, struct err *e)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

    if (name == NULL || name[0] == '\0')
        return err_set(e, E_INVAL, "tls: no name to verify the server by");
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT |
                                               X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (addr_is_ip(name) ? X509_VERIFY_PARAM_set1_ip_asc(param, name) != 1
                         : X509_VERIFY_PARAM_set1_host(param, name, 0) != 1 ||
                               SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME,
                                        TLSEXT_NAMETYPE_host_name, (void *)(uintptr_t)name) != 1)
        return fail(e, E_CRYPTO, "server name");
    return 0;
}

int
tls_ssl_new(struct tls_conf *c, const char *verify_name, SSL **ret, struct err *e)
{
    SSL *ssl = SSL_new(c->ctx);

    if (ssl == NULL)
        return fail(e, E_NOMEM, "SSL_new");
    X509_VERIFY_PARAM_set_time(SSL_get0_param(ssl), (time_t)unix_s());
    if (c->rule == TLS_PEER_NAME && set_name(ssl, verify_name, e) < 0) {
        SSL_free(ssl);
        return err_result(e);
    }
    if (c->resumes && !c->is_server)
        offer_session(c, ssl);
    if (c->is_server)
        SSL_set_accept_state(ssl);
    else
        SSL_set_connect_state(ssl);
    *ret = ssl;
    return 0;
}

static int
check_alpn(const struct tls_conf *c, const SSL *ssl, struct err *e)
{
    const unsigned char *got = NULL;
    unsigned n = 0;

    if (c->alpn_n == 0)
        return 0;
    SSL_get0_alpn_selected(ssl, &got, &n);
    if (n + 1 != c->alpn_n || memcmp(got, c->alpn + 1, n) != 0)
        return err_set(e, E_PEER, "tls: the peer does not speak ALPN \"%.*s\"", (int)c->alpn_n - 1,
                       (const char *)c->alpn + 1);
    return 0;
}

/* The peer's leaf as ours: one parsed certificate for both, instead of a second one. */
static int
cert_of(X509 *x, struct cert **ret, struct err *e)
{
    if (X509_up_ref(x) != 1)
        return err_nomem(e);
    return cert_from_x509(x, ret, e);
}

static void
stack_empty(STACK_OF(X509) * s)
{
    while (sk_X509_num(s) > 0) /* -1 without a stack */
        X509_free(sk_X509_pop(s));
}

/* What revocation needs of the intermediates, some hundred bytes. */
static int
marks_take(const STACK_OF(X509) * chain, struct tls_peer *p, struct err *e)
{
    int n = sk_X509_num(chain) - 2; /* without leaf and root */

    if (n <= 0)
        return 0;
    p->above = calloc((size_t)n, sizeof(p->above[0]));
    if (p->above == NULL)
        return err_nomem(e);
    for (int i = 0; i < n; i++)
        x509_mark(sk_X509_value(chain, i + 1), &p->above[p->above_n++]);
    return 0;
}

/* A server's connection keeps of a verified peer no more than its leaf and those marks:
 * intermediates and verified chain are 10 KiB, its session is never resumed, and OpenSSL looks at
 * neither again. Roots that go and what is revoked are found by leaf, marks and root id. */
static void
forget_chain(const struct tls_conf *c, SSL *ssl)
{
    if (!c->is_server)
        return;
    stack_empty(SSL_get_peer_cert_chain(ssl)); /* a server's begins after the leaf */
    stack_empty(SSL_get0_verified_chain(ssl));
}

/* Workloads are clients and servers with one certificate, so both usages are asked of it. */
static int
check_usage(const struct tls_conf *c, X509 *leaf, struct err *e)
{
    if (c->rule == TLS_PEER_NAME)
        return 0; /* OpenSSL has checked serverAuth */
    if (X509_check_purpose(leaf, X509_PURPOSE_SSL_CLIENT, 0) != 1 ||
        X509_check_purpose(leaf, X509_PURPOSE_SSL_SERVER, 0) != 1)
        return err_set(e, E_DENIED,
                       "tls: the peer's certificate is not for both server and client use");
    return 0;
}

int
tls_peer_of(const struct tls_conf *c, SSL *ssl, struct tls_peer *ret, struct err *e)
{
    struct tls_peer p = { .leaf = NULL };
    X509 *leaf = SSL_get0_peer_certificate(ssl);
    unsigned n;

    TRY(check_alpn(c, ssl, e));
    *ret = p;
    if (c->rule == TLS_PEER_NAME && SSL_session_reused(ssl) == 1)
        return 0;
    if (c->rule == TLS_PEER_NONE || (leaf == NULL && c->rule == TLS_PEER_OPTIONAL))
        return 0;
    STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
    if (leaf == NULL || SSL_get_verify_result(ssl) != X509_V_OK || sk_X509_num(chain) < 1)
        return err_set(e, E_DENIED, "tls: the peer is not verified");
    TRY(check_usage(c, leaf, e));
    if (X509_digest(sk_X509_value(chain, sk_X509_num(chain) - 1), EVP_sha256(), p.root_id, &n) != 1)
        return fail(e, E_CRYPTO, "digest");
    TRY(cert_of(leaf, &p.leaf, e));
    if (marks_take(chain, &p, e) < 0 ||
        (c->rule != TLS_PEER_NAME && cert_spiffe_uri(p.leaf, &p.uri, e) < 0)) {
        tls_peer_done(&p);
        return err_wrap(e, "tls: peer");
    }
    forget_chain(c, ssl);
    *ret = p;
    return 0;
}

int
tls_error(const SSL *ssl, const char *what, struct err *e)
{
    long v = SSL_get_verify_result(ssl);

    if (v != X509_V_OK) {
        ERR_clear_error();
        return err_set(e, E_DENIED, "tls: %s: the peer's certificate is refused: %s", what,
                       X509_verify_cert_error_string(v));
    }
    return fail(e, E_PEER, what);
}
