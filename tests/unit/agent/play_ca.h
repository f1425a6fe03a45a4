/* play_ca.h - the world of test_agent.c: an agent, and a CA that the test plays with our own
 * server. What it answers, pushes and has been told is in struct world. */
#ifndef TESTS_UNIT_AGENT_PLAY_CA_H
#define TESTS_UNIT_AGENT_PLAY_CA_H

#include "keep_port.h"
#include "mint.h"
#include "until.h"

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
#include "pki/crl.h"

enum { WORDS_MAX = 64 };

#define ID "spiffe://cluster.local/ns/shop/sa/web"

/* What our CA does with a CSR. */
enum answer_kind {
    GOOD,
    OTHER_IDENTITY,
    OTHER_KEY,
    OTHER_ROOTS, /* the roots do not have the leaf's */
    NO_ROOTS,    /* one element only */
    BUSY,        /* RESOURCE_EXHAUSTED, once, with `pushback`; good afterwards */
};

struct word {
    uint64_t generation, leaf_generation;
    size_t roots_n, serial_n;
    uint64_t at_ms;
    uint8_t serial[SERIAL_MAX_BYTES];
    bool ended;
};

struct world {
    struct loop *l;
    bool (*until)(struct world *w);
    char dir[64], ca_root[96], state[96], token[96];
    struct mint_ca root, other, mid, mid2;
    struct key *ca_key;
    struct cert *ca_leaf;
    struct grpc_server *server;
    uint16_t port;
    int port_fd;
    struct agent *agent;
    /* the CA */
    enum answer_kind kind;
    uint64_t generation; /* 0: no trailer */
    struct mint_ca *signer;
    struct roots *roots; /* that go with the answer */
    int64_t life_s;
    int csrs_n, csrs_before, watches_n, watches_before, refuse_words_n;
    const char *pushback; /* of refusals, in ms; NULL: none */
    uint64_t refused_at_ms, taken_at_ms;
    struct grpc_call *watch;
    struct word words[WORDS_MAX];
    size_t words_n, words_before;
    char seen_auth[64], seen_instance[64], seen_uri[128];
    char seen_attempts[16];         /* with the last CSR that was taken */
    char issued[SERIAL_TEXT_BYTES]; /* serial of the last leaf that was made */
    bool stopped;
    bool is_plain;          /* no trust stream, as istiod */
    bool holds;             /* the next answer with a leaf waits for let_go, as ... */
    struct grpc_call *held; /* ... this one */
    struct cert *held_leaf; /* owned */
    uint64_t held_generation;
    int pushes_n;              /* to a workload */
    ProtobufCBinaryData lists; /* one, in the next pushes; empty: none */
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
    cert_serial_text(leaf, w->issued);
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
refuse_call(struct world *w, struct grpc_call *c, int code)
{
    struct err e;

    if (w->pushback != NULL)
        assert_ok(grpc_trailer(c, "grpc-retry-pushback-ms", w->pushback, &e));
    w->refused_at_ms = mono_ms();
    grpc_finish(c, code, "too many");
}

static void
see_attempts(struct world *w, const struct grpc_call *c)
{
    w->taken_at_ms = mono_ms();
    (void)snprintf(w->seen_attempts, sizeof(w->seen_attempts), "%.*s",
                   SPAN_ARG(grpc_header(c, "grpc-previous-rpc-attempts")));
}

static void
held_gone(void *arg)
{
    struct world *w = arg;

    w->held = NULL;
}

/* The answer that waits goes out, of the generation that was in force when it was made. */
static inline void
let_go(struct world *w)
{
    uint64_t now = w->generation;

    assert_non_null(w->held);
    w->generation = w->held_generation;
    send_answer(w, STEAL(w->held), w->held_leaf);
    w->generation = now;
    cert_unref(STEAL(w->held_leaf));
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
        refuse_call(w, c, GRPC_RESOURCE_EXHAUSTED);
        return;
    }
    see_attempts(w, c);
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
    istio__v1__auth__istio_certificate_request__free_unpacked(m, NULL);
    if (w->holds) {
        w->holds = false;
        w->held = c;
        w->held_leaf = leaf;
        w->held_generation = w->generation;
        grpc_on_gone(c, held_gone, w);
        return;
    }
    send_answer(w, c, leaf);
    cert_unref(leaf);
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
    m.crls = &w->lists;
    m.n_crls = w->lists.len > 0;
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
    if (w->is_plain) {
        grpc_finish(c, GRPC_UNIMPLEMENTED, "unknown service meshroot.v1.Trust");
        return;
    }
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
    if (w->is_plain) {
        grpc_finish(c, GRPC_UNIMPLEMENTED, "unknown service meshroot.v1.Trust");
    } else if (w->refuse_words_n > 0) {
        w->refuse_words_n--;
        grpc_finish(c, GRPC_UNAVAILABLE, "the store is away");
    } else {
        struct word *x = &w->words[w->words_n++ % WORDS_MAX];

        *x = (struct word){ .generation = m->generation,
                            .leaf_generation = m->leaf_generation,
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
    if (!loop_until(w->l, is_so, w)) {
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
    w->port_fd = keep_port(&w->port);
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
    (void)close(w->port_fd);
    loop_free(w->l);
    mint_ca_done(&w->root);
    mint_ca_done(&w->other);
    mint_ca_done(&w->mid);
    mint_ca_done(&w->mid2);
    key_unref(w->ca_key);
    cert_unref(w->ca_leaf);
    cert_unref(w->held_leaf);
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

/* The agent is gone without a word; what the next one says is counted anew. */
static void
crash(struct world *w)
{
    agent_free(STEAL(w->agent));
    w->words_n = 0;
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

/* -- revocation lists -- */

/* Into the next pushes: a list that says it is of `of`, signed with the key of `by`, with one
 * serial number, hex. */
static inline void
list_make(struct world *w, const struct mint_ca *of, const struct mint_ca *by, int64_t life_s,
          const char *serial, struct buf *der)
{
    CLEANUP(buf_done) struct buf tbs = BUF_INIT(CRL_MAX_BYTES);
    size_t digits = strlen(serial);
    struct crl_entry entry = { .serial_n = (digits + 1) / 2, .revoked = unix_s() - 900 };
    const struct crl_request q = { (uint64_t)unix_s(), unix_s() - 900, unix_s() + life_s, &entry,
                                   1 };
    uint8_t signature[SIGNATURE_MAX_BYTES];
    struct leaf_template *t, *by_t;
    char even[SERIAL_TEXT_BYTES];
    size_t n;
    struct err e;

    /* as it is shown it has no zero in front */
    (void)snprintf(even, sizeof(even), "%s%s", digits % 2 == 1 ? "0" : "", serial);
    assert_ok(hex_parse(span_str(even), entry.serial, entry.serial_n, &e));
    assert_ok(leaf_template_new(of->cert, of->key, &t, &e));
    assert_ok(leaf_template_new(by->cert, by->key, &by_t, &e));
    assert_ok(crl_tbs(t, &q, &tbs, &e));
    assert_ok(leaf_sign(by_t, buf_span(&tbs), signature, &n, &e));
    der->n = 0;
    assert_ok(crl_finish(t, buf_span(&tbs), span_of(signature, n), der, &e));
    w->lists = (ProtobufCBinaryData){ der->n, der->p };
    leaf_template_free(t);
    leaf_template_free(by_t);
}

static inline void
lists_file(const struct world *w, struct buf *b)
{
    char path[160];
    struct err e;

    (void)snprintf(path, sizeof(path), "%s/ca-crl.pem", w->state);
    b->n = 0;
    assert_ok(file_read(path, b, &e));
}

static inline bool
lists_are_gone(const struct world *w)
{
    char path[160];

    (void)snprintf(path, sizeof(path), "%s/ca-crl.pem", w->state);
    return access(path, F_OK) != 0;
}

static inline bool
two_csrs(struct world *w)
{
    return w->csrs_n >= 2 && word_is_said(w);
}

static inline bool
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

static inline bool
newest_is_said(struct world *w)
{
    return word_is_said(w) && last_word(w)->generation == w->generation;
}

#endif
