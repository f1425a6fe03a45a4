/* The whole agent against a CA that the test plays: what is used, what is put aside, what is said.
 */
#include "mint.h"

#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/workload.h"
#include "base/file.h"
#include "base/str.h"
#include "istio_ca.pb-c.h"
#include "meshroot.pb-c.h"
#include "net/addr.h"
#include "net/grpc.h"

enum { WAIT_MS = 20000, WORDS_MAX = 64 };

#define ID "spiffe://cluster.local/ns/shop/sa/web"

/* What our CA does with a CSR. */
enum answer_kind {
    GOOD,
    OTHER_IDENTITY,
    OTHER_KEY,
    OTHER_ROOTS, /* the roots do not have the leaf's */
    NO_ROOTS,    /* one element only */
    BUSY,        /* RESOURCE_EXHAUSTED, once; good afterwards */
};

struct word {
    uint64_t generation;
    size_t roots_n, serial_n;
    uint64_t at_ms;
    uint8_t serial[SERIAL_MAX_BYTES];
    bool ended;
};

struct world {
    struct loop *l;
    struct timer *limit, *poll;
    bool (*until)(struct world *w);
    bool timed_out;
    char dir[64], ca_root[96], state[96], token[96];
    struct mint_ca root, other, mid, mid2;
    struct key *ca_key;
    struct cert *ca_leaf;
    struct grpc_server *server;
    uint16_t port;
    struct agent *agent;
    /* the CA */
    enum answer_kind kind;
    uint64_t generation; /* 0: no trailer */
    struct mint_ca *signer;
    struct roots *roots; /* that go with the answer */
    int64_t life_s;
    int csrs_n, watches_n, refuse_words_n;
    struct grpc_call *watch;
    struct word words[WORDS_MAX];
    size_t words_n, words_before;
    char seen_auth[64], seen_instance[64], seen_uri[128];
    bool stopped;
    int pushes_n; /* to a workload */
};

/* -- the CA -- */

static struct cert *
leaf_for(struct world *w, struct span csr_pem, const char *san)
{
    struct buf der = BUF_INIT(CSR_MAX_BYTES);
    const char *const sans[] = { san };
    uint8_t tbs[TBS_MAX_BYTES], sig[SIGNATURE_MAX_BYTES], out[LEAF_MAX_BYTES];
    size_t tbs_n, sig_n, n;
    struct leaf_template *t;
    struct cert *leaf;
    struct csr csr;
    struct err e;

    assert_ok(csr_from_pem(csr_pem, &der, &e));
    assert_ok(csr_parse(buf_span(&der), &csr, &e));
    assert_ok(csr_verify(buf_span(&der), &csr, &e));
    struct leaf_request q = { .profile = LEAF_WORKLOAD,
                              .spki = csr.spki,
                              .sans = sans,
                              .sans_n = 1,
                              .not_before = unix_s() - 120,
                              .not_after = unix_s() + w->life_s };
    assert_ok(random_bytes(q.serial, sizeof(q.serial), &e));
    assert_ok(leaf_template_new(w->signer->cert, w->signer->key, &t, &e));
    assert_ok(leaf_tbs(t, &q, tbs, &tbs_n, &e));
    assert_ok(leaf_sign(t, span_of(tbs, tbs_n), sig, &sig_n, &e));
    assert_ok(leaf_finish(t, span_of(tbs, tbs_n), span_of(sig, sig_n), out, &n, &e));
    assert_ok(cert_from_der(span_of(out, n), &leaf, &e));
    leaf_template_free(t);
    buf_done(&der);
    return leaf;
}

static void
send_answer(struct world *w, struct grpc_call *c, const struct cert *leaf)
{
    struct buf pem[4] = { BUF_INIT(8192), BUF_INIT(8192), BUF_INIT(8192), BUF_INIT(65536) };
    Istio__V1__Auth__IstioCertificateResponse m = ISTIO__V1__AUTH__ISTIO_CERTIFICATE_RESPONSE__INIT;
    struct roots *roots = w->kind == OTHER_ROOTS ? w->other.roots : w->roots;
    uint8_t packed[65536];
    char *chain[4], text[24];
    struct err e;

    assert_ok(cert_to_pem(leaf, &pem[0], &e));
    assert_ok(cert_to_pem(w->signer->cert, &pem[1], &e));
    assert_ok(cert_to_pem(w->root.cert, &pem[2], &e)); /* as Istio's chain files have it */
    assert_ok(roots_to_pem(roots, &pem[3], &e));
    for (size_t i = 0; i < 4; i++)
        chain[i] = (char *)pem[i].p;
    m.cert_chain = chain;
    m.n_cert_chain = w->kind == NO_ROOTS ? 1 : 4;
    size_t n = istio__v1__auth__istio_certificate_response__pack(&m, packed);
    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)w->generation);
    if (w->generation != 0)
        assert_ok(grpc_trailer(c, "meshroot-generation", text, &e));
    assert_ok(grpc_send(c, span_of(packed, n), &e));
    grpc_finish(c, GRPC_OK, NULL);
    for (size_t i = 0; i < 4; i++)
        buf_done(&pem[i]);
}

static void
create(struct grpc_call *c, struct span msg, void *self)
{
    struct world *w = self;
    struct span auth = grpc_header(c, "authorization"),
                instance = grpc_header(c, "meshroot-instance");
    struct key *stranger;
    struct err e;

    w->csrs_n++;
    (void)snprintf(w->seen_auth, sizeof(w->seen_auth), "%.*s", SPAN_ARG(auth));
    (void)snprintf(w->seen_instance, sizeof(w->seen_instance), "%.*s", SPAN_ARG(instance));
    w->seen_uri[0] = '\0';
    if (grpc_peer(c) != NULL)
        (void)snprintf(w->seen_uri, sizeof(w->seen_uri), "%.*s", SPAN_ARG(grpc_peer(c)->uri));
    if (w->kind == BUSY) {
        w->kind = GOOD;
        grpc_finish(c, GRPC_RESOURCE_EXHAUSTED, "too many");
        return;
    }
    Istio__V1__Auth__IstioCertificateRequest *m =
        istio__v1__auth__istio_certificate_request__unpack(NULL, msg.n, msg.p);
    assert_non_null(m);
    struct cert *leaf =
        leaf_for(w, span_str(m->csr),
                 w->kind == OTHER_IDENTITY ? "spiffe://cluster.local/ns/shop/sa/root" : ID);
    if (w->kind == OTHER_KEY) {
        assert_ok(key_make(KEY_P256, &stranger, &e));
        cert_unref(leaf);
        leaf = mint_leaf(w->signer, stranger, ID, 3600);
        key_unref(stranger);
    }
    send_answer(w, c, leaf);
    cert_unref(leaf);
    istio__v1__auth__istio_certificate_request__free_unpacked(m, NULL);
}

static void
watch_gone(void *arg)
{
    struct world *w = arg;

    w->watch = NULL;
}

static void
push(struct world *w, uint64_t generation, struct roots *roots, const struct mint_ca *signer,
     uint64_t window_ms)
{
    Meshroot__V1__TrustSet m = MESHROOT__V1__TRUST_SET__INIT;
    ProtobufCBinaryData all[ROOTS_MAX];
    uint8_t packed[65536];
    struct err e;

    for (size_t i = 0; i < roots_count(roots); i++) {
        struct span der = cert_der(roots_at(roots, i));

        all[i] = (ProtobufCBinaryData){ der.n, (uint8_t *)(uintptr_t)der.p };
    }
    m.generation = generation;
    m.roots = all;
    m.n_roots = roots_count(roots);
    m.signer_id =
        (ProtobufCBinaryData){ DIGEST_BYTES, (uint8_t *)(uintptr_t)cert_id(signer->cert) };
    m.renew_window_ms = window_ms;
    size_t n = meshroot__v1__trust_set__pack(&m, packed);
    assert_non_null(w->watch);
    assert_ok(grpc_send(w->watch, span_of(packed, n), &e));
}

static void
watch(struct grpc_call *c, struct span msg, void *self)
{
    struct world *w = self;

    (void)msg;
    w->watches_n++;
    if (w->watch != NULL)
        grpc_on_gone(w->watch, NULL, NULL);
    w->watch = c;
    grpc_on_gone(c, watch_gone, w);
    push(w, w->generation == 0 ? 1 : w->generation, w->roots, w->signer, 0);
}

static void
acknowledge(struct grpc_call *c, struct span msg, void *self)
{
    struct world *w = self;
    Meshroot__V1__Word *m = meshroot__v1__word__unpack(NULL, msg.n, msg.p);
    struct err e;

    assert_non_null(m);
    if (w->refuse_words_n > 0) {
        w->refuse_words_n--;
        grpc_finish(c, GRPC_UNAVAILABLE, "the store is away");
    } else {
        struct word *x = &w->words[w->words_n++ % WORDS_MAX];

        *x = (struct word){ .generation = m->generation,
                            .roots_n = m->n_root_ids,
                            .serial_n = m->leaf_serial.len,
                            .ended = m->ended != 0,
                            .at_ms = mono_ms() };
        memcpy(x->serial, m->leaf_serial.data, x->serial_n);
        assert_ok(grpc_send(c, span_of(NULL, 0), &e));
        grpc_finish(c, GRPC_OK, NULL);
    }
    meshroot__v1__word__free_unpacked(m, NULL);
}

static const struct grpc_method methods[] = {
    { .path = "/istio.v1.auth.IstioCertificateService/CreateCertificate", .on_request = create },
    { .path = "/meshroot.v1.Trust/Watch", .streams = true, .on_request = watch },
    { .path = "/meshroot.v1.Trust/Acknowledge", .on_request = acknowledge },
};

/* -- the world -- */

static void
on_limit(void *arg)
{
    struct world *w = arg;

    w->timed_out = true;
    loop_stop(w->l);
}

static void
on_poll(void *arg)
{
    struct world *w = arg;

    if (w->until(w))
        loop_stop(w->l);
    else
        timer_set(w->poll, 5);
}

static void
run_until(struct world *w, bool (*until)(struct world *w))
{
    struct err e;

    w->until = until;
    timer_set(w->limit, WAIT_MS);
    timer_set(w->poll, 0);
    assert_ok(loop_run(w->l, &e));
    timer_stop(w->limit);
    timer_stop(w->poll);
    if (w->timed_out) {
        json_t *j = w->agent == NULL ? NULL : agent_status(w->agent);
        char *text = j == NULL ? NULL : json_dumps(j, 0);

        fail_msg("timed out: %s", text == NULL ? "" : text);
    }
}

/* `vouch`: for the certificates of clients. */
static void
server_start(struct world *w, struct roots *vouch)
{
    struct grpc_server_conf sc = { .methods = methods, .methods_n = ARRAY_LEN(methods), .self = w };
    const struct tls_conf_args a = { .is_server = true,
                                     .key = w->ca_key,
                                     .leaf = w->ca_leaf,
                                     .chain = &w->mid.cert,
                                     .chain_n = 1,
                                     .roots = vouch,
                                     .rule = TLS_PEER_OPTIONAL,
                                     .alpn = "h2" };
    struct err e;

    assert_ok(tls_conf_new(&a, &sc.tls, &e));
    assert_ok(
        addr_listen(&(struct addr){ "127.0.0.1", w->port }, false, &sc.listen_fd, &w->port, &e));
    assert_ok(grpc_server_new(w->l, &sc, &w->server, &e));
    tls_conf_unref(sc.tls);
}

static int
setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct buf pem = BUF_INIT(65536);
    struct err e;

    assert_non_null(w);
    assert_ok(loop_new(&w->l, &e));
    assert_ok(timer_new(w->l, on_limit, w, &w->limit, &e));
    assert_ok(timer_new(w->l, on_poll, w, &w->poll, &e));
    (void)snprintf(w->dir, sizeof(w->dir), "/tmp/test_agent.XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    (void)snprintf(w->ca_root, sizeof(w->ca_root), "%s/ca.pem", w->dir);
    (void)snprintf(w->token, sizeof(w->token), "%s/token", w->dir);
    (void)snprintf(w->state, sizeof(w->state), "%s/web", w->dir);
    mint_ca(&w->root, "CN=Root A", NULL);
    mint_ca(&w->other, "CN=Root B", NULL);
    mint_ca(&w->mid, "CN=Intermediate A1", &w->root);
    mint_ca(&w->mid2, "CN=Intermediate A2", &w->root);
    assert_ok(key_make(KEY_P256, &w->ca_key, &e));
    w->ca_leaf = mint_leaf(&w->mid, w->ca_key, "127.0.0.1", 86400);
    assert_ok(roots_to_pem(w->root.roots, &pem, &e));
    assert_ok(file_write(w->ca_root, buf_span(&pem), 0644, &e));
    assert_ok(file_write(w->token, span_str("abc.def.ghi\n"), 0600, &e));
    buf_done(&pem);
    w->signer = &w->mid;
    w->roots = roots_ref(w->root.roots);
    w->generation = 5;
    w->life_s = 3600;
    server_start(w, w->root.roots);
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    struct world *w = *state;
    char command[128];

    agent_free(w->agent);
    grpc_server_free(w->server);
    timer_free(w->limit);
    timer_free(w->poll);
    loop_free(w->l);
    mint_ca_done(&w->root);
    mint_ca_done(&w->other);
    mint_ca_done(&w->mid);
    mint_ca_done(&w->mid2);
    key_unref(w->ca_key);
    cert_unref(w->ca_leaf);
    roots_unref(w->roots);
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", w->dir);
    (void)!system(command);
    free(w);
    clock_shift_for_test(0);
    return 0;
}

static struct agent_conf
conf(struct world *w, char *addr, size_t cap)
{
    (void)snprintf(addr, cap, "127.0.0.1:%u", w->port);
    return (struct agent_conf){ .dir = w->state,
                                .ca_addr = addr,
                                .ca_root = w->ca_root,
                                .token_file = w->token,
                                .identity = ID,
                                .key_kind = KEY_P256 };
}

static void
start(struct world *w)
{
    static char addr[64];
    struct agent_conf c = conf(w, addr, sizeof(addr));
    struct err e;

    assert_ok(agent_new(w->l, &c, &w->agent, &e));
}

/* One value of the status, as text; numbers in decimal. */
static const char *
status(struct world *w, const char *name)
{
    static char text[512];
    json_t *j = agent_status(w->agent);
    const json_t *v = json_object_get(j, name);

    if (v == NULL)
        v = json_object_get(json_object_get(j, "leaf"), name);
    if (json_is_integer(v))
        (void)snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(v));
    else if (json_is_boolean(v))
        (void)snprintf(text, sizeof(text), "%s", json_is_true(v) ? "true" : "false");
    else if (json_is_array(v))
        (void)snprintf(text, sizeof(text), "%zu", json_array_size(v));
    else
        (void)snprintf(text, sizeof(text), "%s", json_is_string(v) ? json_string_value(v) : "");
    json_decref(j);
    return text;
}

static const struct word *
last_word(struct world *w)
{
    return &w->words[(w->words_n + WORDS_MAX - 1) % WORDS_MAX];
}

static bool
word_is_said(struct world *w)
{
    return w->words_n > 0 && w->watch != NULL && strcmp(status(w, "watching"), "true") == 0 &&
           last_word(w)->generation == strtoull(status(w, "generation"), NULL, 10) &&
           strcmp(status(w, "acknowledged_generation"), status(w, "generation")) == 0;
}

static bool
csr_is_refused(struct world *w)
{
    return status(w, "last_error")[0] != '\0';
}

static bool
two_csrs(struct world *w)
{
    return w->csrs_n >= 2 && word_is_said(w);
}

static bool
file_holds(struct world *w, const char *name, const char *part)
{
    struct buf b = BUF_INIT(65536);
    char path[160];
    struct err e;

    (void)snprintf(path, sizeof(path), "%s/%s", w->state, name);
    assert_int_equal(file_read(path, &b, &e), 0);
    bool has = strstr(buf_text(&b), part) != NULL;
    buf_done(&b);
    return has;
}

/* -- tests -- */

static void
first_leaf_is_used_and_said(void **state)
{
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    assert_int_equal(w->csrs_n, 1);
    assert_string_equal(w->seen_auth, "Bearer abc.def.ghi");
    assert_int_equal(strlen(w->seen_instance), 32);
    assert_int_equal(last_word(w)->generation, 5);
    assert_int_equal(last_word(w)->roots_n, 1);
    assert_true(last_word(w)->serial_n > 0);
    assert_false(last_word(w)->ended);
    assert_true(file_holds(w, "meshroot.json", "\"generation\": 5"));
    assert_true(file_holds(w, "key.pem", "PRIVATE KEY"));
    assert_string_equal(status(w, "trusted"), "true");
}

static void
bad_answers_are_never_used(void **state)
{
    static const struct {
        enum answer_kind kind;
        const char *part;
    } rows[] = {
        { OTHER_IDENTITY, "not for " ID },
        { OTHER_KEY, "does not belong to our key" },
        { OTHER_ROOTS, "CA's answer" },
        { NO_ROOTS, "leaf and roots are needed" },
    };
    struct world *w = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        w->kind = rows[i].kind;
        start(w);
        run_until(w, csr_is_refused);
        if (strstr(status(w, "last_error"), rows[i].part) == NULL)
            fail_msg("row %zu: %s", i, status(w, "last_error"));
        assert_string_equal(status(w, "ready"), "false");
        assert_int_equal(w->words_n, 0);
        agent_free(w->agent);
        w->agent = NULL;
    }
}

static void
a_busy_ca_is_asked_again(void **state)
{
    struct world *w = *state;

    w->kind = BUSY;
    start(w);
    run_until(w, two_csrs);
    assert_string_equal(status(w, "last_error"), "");
}

static bool
two_roots(struct world *w)
{
    return strcmp(status(w, "roots"), "2") == 0 && word_is_said(w);
}

static bool
generation_7(struct world *w)
{
    return strcmp(status(w, "generation"), "7") == 0 && word_is_said(w);
}

static struct roots *
both(struct world *w)
{
    struct roots *r;
    struct err e;

    assert_ok(roots_union(w->root.roots, w->other.roots, &r, &e));
    return r;
}

static void
wider_trust_set_is_used_and_said_with_the_same_leaf(void **state)
{
    struct world *w = *state;
    struct roots *wide = both(w);

    start(w);
    run_until(w, word_is_said);
    char serial[64];
    (void)snprintf(serial, sizeof(serial), "%s", status(w, "serial"));
    push(w, 6, wide, w->signer, 0);
    run_until(w, two_roots);
    assert_int_equal(last_word(w)->generation, 6);
    assert_int_equal(last_word(w)->roots_n, 2);
    assert_string_equal(status(w, "serial"), serial);
    assert_int_equal(w->csrs_n, 1);
    assert_true(file_holds(w, "meshroot.json", "\"generation\": 6"));
    /* one that was held back in the network comes late: put aside; the next one shows the order */
    push(w, 5, w->root.roots, w->signer, 0);
    push(w, 7, wide, w->signer, 0);
    run_until(w, generation_7);
    assert_string_equal(status(w, "roots"), "2");
    roots_unref(wide);
}

static bool
signer_is_mid2(struct world *w)
{
    char id[DIGEST_TEXT_BYTES];

    hex_text(span_of(cert_id(w->mid2.cert), DIGEST_BYTES), id);
    return strcmp(status(w, "signer_id"), id) == 0 && word_is_said(w);
}

static bool
aside(struct world *w)
{
    return strstr(status(w, "last_error"), "older than 9") != NULL;
}

/* A replica that lags behind answers with an older generation: neither leaf nor roots are used. */
static void
an_older_answer_is_put_aside_whole(void **state)
{
    struct world *w = *state;
    struct roots *wide = both(w);

    start(w);
    run_until(w, word_is_said);
    char serial[64];
    (void)snprintf(serial, sizeof(serial), "%s", status(w, "serial"));
    push(w, 9, wide, &w->mid2, 1); /* the signer has moved: it asks, and gets generation 5 */
    run_until(w, aside);
    assert_string_equal(status(w, "serial"), serial);
    assert_string_equal(status(w, "generation"), "9");
    assert_string_equal(status(w, "roots"), "2");
    w->generation = 9;
    w->signer = &w->mid2;
    roots_unref(w->roots);
    w->roots = wide;
    run_until(w, signer_is_mid2);
    assert_string_equal(status(w, "generation"), "9");
}

static void
a_moved_signer_is_followed_within_the_window(void **state)
{
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    w->signer = &w->mid2;
    push(w, 6, w->roots, &w->mid2, 50);
    w->generation = 6;
    run_until(w, signer_is_mid2);
    assert_int_equal(w->csrs_n, 2);
    assert_string_equal(w->seen_uri, ID); /* it showed its leaf */
    /* the same again changes nothing */
    push(w, 6, w->roots, &w->mid2, 1);
    run_until(w, word_is_said);
    assert_int_equal(w->csrs_n, 2);
}

static void
an_empty_trust_set_is_refused(void **state)
{
    Meshroot__V1__TrustSet m = MESHROOT__V1__TRUST_SET__INIT;
    uint8_t packed[64];
    struct world *w = *state;
    struct err e;

    start(w);
    run_until(w, word_is_said);
    m.generation = 99;
    size_t n = meshroot__v1__trust_set__pack(&m, packed);
    assert_ok(grpc_send(w->watch, span_of(packed, n), &e));
    run_until(w, csr_is_refused);
    assert_non_null(strstr(status(w, "last_error"), "trust set of 0 roots"));
    assert_string_equal(status(w, "generation"), "5");
}

static bool
said_at_last(struct world *w)
{
    return w->refuse_words_n == 0 && word_is_said(w);
}

static void
a_word_that_is_not_taken_is_said_again(void **state)
{
    struct world *w = *state;

    w->refuse_words_n = 2;
    start(w);
    run_until(w, said_at_last);
}

static bool
said_again(struct world *w)
{
    return w->words_n > w->words_before;
}

static void
after_an_outage_it_watches_and_says_it_again(void **state)
{
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    int watches = w->watches_n;
    grpc_server_free(w->server);
    run_until(w, csr_is_refused);
    assert_string_equal(status(w, "ready"), "true");
    w->words_before = w->words_n;
    server_start(w, w->root.roots);
    run_until(w, said_again);
    assert_true(w->watches_n > watches);
    assert_int_equal(w->csrs_n, 1);
}

static bool
said_with_a_new_leaf(struct world *w)
{
    return w->csrs_n >= 2 && w->words_n > w->words_before;
}

/* istiod reads the roots that vouch for its clients once, at its start: after a rotation it breaks
 * the handshake with a new leaf. The token is enough. */
static void
a_ca_that_cannot_verify_our_leaf_is_asked_without_it(void **state)
{
    struct world *w = *state;

    w->life_s = 4;
    start(w);
    run_until(w, word_is_said);
    grpc_server_free(w->server);
    w->words_before = w->words_n;
    w->life_s = 3600;
    server_start(w, w->other.roots);
    run_until(w, said_with_a_new_leaf);
    assert_string_equal(w->seen_uri, "");
}

static void
a_restart_goes_on_with_leaf_and_instance(void **state)
{
    struct world *w = *state;
    char serial[64], instance[64];

    start(w);
    run_until(w, word_is_said);
    (void)snprintf(serial, sizeof(serial), "%s", status(w, "serial"));
    (void)snprintf(instance, sizeof(instance), "%s", status(w, "instance"));
    agent_free(w->agent);
    w->agent = NULL;
    w->words_n = 0;
    start(w);
    run_until(w, word_is_said);
    assert_int_equal(w->csrs_n, 1);
    assert_string_equal(status(w, "serial"), serial);
    assert_string_equal(status(w, "instance"), instance);
}

static void
an_expired_leaf_is_not_gone_on_with(void **state)
{
    struct world *w = *state;

    w->life_s = 600;
    start(w);
    run_until(w, word_is_said);
    agent_free(w->agent);
    w->agent = NULL;
    clock_shift_for_test(700);
    start(w);
    run_until(w, two_csrs);
    assert_string_equal(status(w, "ready"), "true");
}

/* notBefore is two minutes back; a leaf of 2 s is renewed at 1 s, not at once and for ever. */
static void
a_short_leaf_is_renewed_at_half_of_what_was_left(void **state)
{
    struct world *w = *state;
    uint64_t from = mono_ms();

    w->life_s = 4; /* whole seconds: between 3 and 4 are left */
    start(w);
    run_until(w, two_csrs);
    assert_in_range(mono_ms() - from, 1000, 8000);
}

static void
on_stopped(void *arg)
{
    struct world *w = arg;

    w->stopped = true;
}

static bool
is_stopped(struct world *w)
{
    return w->stopped;
}

static void
an_end_is_said_when_the_key_is_gone(void **state)
{
    struct world *w = *state;
    char path[160];
    struct stat st;

    start(w);
    run_until(w, word_is_said);
    agent_stop(w->agent, true, on_stopped, w);
    run_until(w, is_stopped);
    assert_true(last_word(w)->ended);
    (void)snprintf(path, sizeof(path), "%s/key.pem", w->state);
    assert_int_equal(lstat(path, &st), -1);
}

static void
a_stop_keeps_the_key(void **state)
{
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    agent_stop(w->agent, false, on_stopped, w);
    run_until(w, is_stopped);
    assert_false(last_word(w)->ended);
    assert_true(file_holds(w, "key.pem", "PRIVATE KEY"));
}

static void
a_goodbye_nobody_takes_is_bounded(void **state)
{
    struct world *w = *state;

    start(w);
    run_until(w, word_is_said);
    grpc_server_free(w->server);
    w->server = NULL;
    uint64_t from = mono_ms();
    agent_stop(w->agent, true, on_stopped, w);
    run_until(w, is_stopped);
    assert_true(mono_ms() - from < 4000);
}

static void
wrong_settings(void **state)
{
    static const struct {
        const char *identity, *inbound, *part;
    } rows[] = {
        { "http://a", NULL, "identity" },
        { ID, "127.0.0.1:0=127.0.0.1:1", "without a rule" },
    };
    struct world *w = *state;
    struct agent *a;
    struct err e;
    char addr[64];

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct agent_conf c = conf(w, addr, sizeof(addr));

        c.identity = rows[i].identity;
        c.inbound = rows[i].inbound;
        assert_true(agent_new(w->l, &c, &a, &e) < 0);
        if (strstr(e.msg, rows[i].part) == NULL)
            fail_msg("row %zu: %s", i, e.msg);
    }
}

static void
a_set_that_cannot_be_written_is_not_used(void **state)
{
    struct world *w = *state;
    struct roots *wide = both(w);
    char link[160];
    struct err e;

    start(w);
    run_until(w, word_is_said);
    /* ..data cannot be replaced by a rename when it is a folder with something in it */
    (void)snprintf(link, sizeof(link), "%s/..data", w->state);
    assert_int_equal(unlink(link), 0);
    (void)snprintf(link, sizeof(link), "%s/..data/in-the-way", w->state);
    assert_ok(dir_make(link, 0755, &e));
    push(w, 6, wide, w->signer, 0);
    run_until(w, csr_is_refused);
    assert_non_null(strstr(status(w, "last_error"), "the old one stays"));
    assert_string_equal(status(w, "generation"), "5"); /* and nothing was said of 6 */
    assert_int_equal(last_word(w)->generation, 5);
    assert_int_equal(rmdir(link), 0);
    *strrchr(link, '/') = '\0';
    assert_int_equal(rmdir(link), 0);
    run_until(w, two_roots);
    assert_int_equal(last_word(w)->generation, 6);
    roots_unref(wide);
}

static void
on_pushed(struct span msg, void *arg)
{
    struct world *w = arg;

    assert_true(msg.n > 0);
    w->pushes_n++;
}

static void
on_ended(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    (void)code;
    (void)msg;
    (void)q;
    (void)arg;
}

static bool
was_pushed(struct world *w)
{
    return w->pushes_n > 0;
}

/* A workload of the Workload API trusts a new root when it has read what was pushed; the CA is not
 * told before. */
static void
the_word_waits_for_workloads(void **state)
{
    static const struct grpc_header_kv security[] = { { "workload.spiffe.io", "true" },
                                                      { NULL, NULL } };
    struct world *w = *state;
    const struct grpc_answer answer = { on_pushed, on_ended, w };
    struct roots *wide = both(w);
    struct grpc_client *client;
    char addr[64], path[96];
    struct err e;

    (void)snprintf(path, sizeof(path), "%s/api.sock", w->dir);
    struct agent_conf c = conf(w, addr, sizeof(addr));
    c.workload_socket = path;
    assert_ok(agent_new(w->l, &c, &w->agent, &e));
    run_until(w, word_is_said);
    const struct grpc_client_conf cc = { .host = path };
    assert_ok(grpc_client_new(w->l, &cc, &client, &e));
    assert_ok(grpc_client_call(client, "/SpiffeWorkloadAPI/FetchX509SVID", security, span_str(""),
                               0, &answer, NULL, &e));
    run_until(w, was_pushed);
    uint64_t from = mono_ms();
    push(w, 6, wide, w->signer, 0);
    run_until(w, two_roots);
    assert_int_equal(w->pushes_n, 2);
    assert_int_equal(last_word(w)->generation, 6);
    /* the loop reads the time once a turn, from a coarse clock: a few ms less are no less waiting
     */
    assert_true(last_word(w)->at_ms - from + 50 >= WORKLOAD_SETTLE_MS);
    grpc_client_free(client);
    roots_unref(wide);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(first_leaf_is_used_and_said),
        T(bad_answers_are_never_used),
        T(a_busy_ca_is_asked_again),
        T(wider_trust_set_is_used_and_said_with_the_same_leaf),
        T(an_older_answer_is_put_aside_whole),
        T(a_moved_signer_is_followed_within_the_window),
        T(an_empty_trust_set_is_refused),
        T(a_word_that_is_not_taken_is_said_again),
        T(after_an_outage_it_watches_and_says_it_again),
        T(a_ca_that_cannot_verify_our_leaf_is_asked_without_it),
        T(a_restart_goes_on_with_leaf_and_instance),
        T(an_expired_leaf_is_not_gone_on_with),
        T(a_short_leaf_is_renewed_at_half_of_what_was_left),
        T(an_end_is_said_when_the_key_is_gone),
        T(a_stop_keeps_the_key),
        T(a_goodbye_nobody_takes_is_bounded),
        T(wrong_settings),
        T(a_set_that_cannot_be_written_is_not_used),
        T(the_word_waits_for_workloads),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
