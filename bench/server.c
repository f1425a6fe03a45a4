/* server.c - see server.h. */
#include "server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "ca/ca.h"
#include "ca/wire.h"
#include "floor.h"
#include "net/grpc.h"
#include "obs/log.h"
#include "pki/leaf.h"
#include "proc.h"

enum { DAY_S = 86400, BACKDATE_S = 120 };

struct ready { /* what the child tells the parent */
    pid_t signer;
    uint16_t port;
};

static void
on_term(void *arg)
{
    loop_stop(arg);
}

/* -- the whole CA -- */

struct full {
    struct loop *loop;
    struct ca *ca;
    int ready_fd;
};

static pid_t
signer_pid(const struct ca *c)
{
    json_t *j = ca_status(c);
    pid_t pid = (pid_t)json_integer_value(json_object_get(json_object_get(j, "signer"), "pid"));

    json_decref(j);
    return pid;
}

static void
on_loaded(uint64_t generation, const struct roots *roots, const uint8_t id[DIGEST_BYTES], void *arg)
{
    struct full *s = arg;
    struct ready r = { signer_pid(s->ca), ca_port(s->ca) };

    (void)generation;
    (void)roots;
    (void)id;
    if (write(s->ready_fd, &r, sizeof(r)) != sizeof(r))
        loop_stop(s->loop);
}

static int
full_run(const struct scene *scene, size_t workers, int ready_fd, struct err *e)
{
    struct full s = { .ready_fd = ready_fd };
    struct metrics *metrics;
    struct store *store;
    struct ledger *ledger;
    struct ca_conf k = { .dir = scene->ca_dir,
                         .listen = "127.0.0.1:0",
                         .workers = workers,
                         .trust_domain = "cluster.local",
                         .who = { .issuers = { { .issuer = scene_issuer, .jwks = scene->jwks } },
                                  .issuers_n = 1,
                                  .dns_names = { "localhost" },
                                  .dns_names_n = 1 },
                         .default_ttl_ms = (uint64_t)DAY_S * 1000,
                         .max_ttl_ms = (uint64_t)90 * DAY_S * 1000,
                         .on_loaded = on_loaded,
                         .arg = &s };

    TRY(metrics_new(&metrics, e));
    TRY(loop_new(&s.loop, e));
    TRY(store_open_sqlite(scene->dir, &store, e));
    TRY(ledger_open(store, metrics, &ledger, e));
    k.ledger = ledger;
    k.metrics = metrics;
    TRY(loop_on_signal(s.loop, SIGTERM, on_term, s.loop, e));
    TRY(ca_new(s.loop, &k, &s.ca, e));
    TRY(loop_run(s.loop, e));
    ca_free(s.ca);
    ledger_close(ledger);
    store_close(store);
    loop_free(s.loop);
    metrics_free(metrics);
    return 0;
}

/* -- the bare one -- */

struct bare {
    struct leaf_template *leaf;
    struct buf csr, answer, pem, tail;
    int64_t not_after;
};

static int
bare_issue(struct bare *b, struct span msg, struct err *e)
{
    static const char *const names[] = { "spiffe://cluster.local/ns/bench/sa/load" };
    uint8_t tbs[TBS_MAX_BYTES], der[LEAF_MAX_BYTES], signature[SIGNATURE_MAX_BYTES];
    size_t tbs_n, der_n, signature_n;
    struct wire_request wire;
    struct csr csr;

    b->csr.n = b->answer.n = b->pem.n = 0;
    TRY(wire_request_read(msg, &wire, e));
    TRY(csr_from_pem(wire.csr, &b->csr, e));
    TRY(csr_parse(buf_span(&b->csr), &csr, e));
    TRY(csr_verify(buf_span(&b->csr), &csr, e));
    struct leaf_request q = { .profile = LEAF_WORKLOAD,
                              .spki = csr.spki,
                              .sans = names,
                              .sans_n = 1,
                              .not_before = unix_s() - BACKDATE_S,
                              .not_after = b->not_after };
    TRY(random_bytes(q.serial, sizeof(q.serial), e));
    TRY(leaf_tbs(b->leaf, &q, tbs, &tbs_n, e));
    TRY(leaf_sign(b->leaf, span_of(tbs, tbs_n), signature, &signature_n, e));
    TRY(leaf_finish(b->leaf, span_of(tbs, tbs_n), span_of(signature, signature_n), der, &der_n, e));
    TRY(leaf_to_pem(span_of(der, der_n), &b->pem, e));
    TRY(wire_answer_add(&b->answer, buf_span(&b->pem), e));
    return buf_add(&b->answer, buf_span(&b->tail), e);
}

static void
bare_create(struct grpc_call *c, struct span msg, void *self)
{
    struct bare *b = self;
    struct err e;

    if (bare_issue(b, msg, &e) < 0 || grpc_send(c, buf_span(&b->answer), &e) < 0)
        grpc_finish(c, GRPC_INTERNAL, e.msg);
    else
        grpc_finish(c, GRPC_OK, NULL);
}

static const struct grpc_method bare_methods[] = {
    { .path = "/istio.v1.auth.IstioCertificateService/CreateCertificate",
      .on_request = bare_create },
};

/* The listener's own certificate, as the CA makes its own. */
static int
bare_tls(const struct scene *s, const struct bare *b, struct tls_conf **ret, struct err *e)
{
    static const char *const names[] = { "localhost" };
    CLEANUP(key_unrefp) struct key *key = NULL;
    CLEANUP(cert_unrefp) struct cert *leaf = NULL;
    CLEANUP(buf_done) struct buf spki = BUF_INIT(LEAF_MAX_BYTES);
    uint8_t tbs[TBS_MAX_BYTES], der[LEAF_MAX_BYTES], signature[SIGNATURE_MAX_BYTES];
    size_t tbs_n, der_n, n;
    struct cert *chain[] = { s->ca };

    TRY(key_make(KEY_P256, &key, e));
    TRY(key_spki(key, &spki, e));
    struct leaf_request q = { .profile = LEAF_SERVER,
                              .spki = buf_span(&spki),
                              .sans = names,
                              .sans_n = 1,
                              .not_before = unix_s() - BACKDATE_S,
                              .not_after = b->not_after };
    TRY(random_bytes(q.serial, sizeof(q.serial), e));
    TRY(leaf_tbs(b->leaf, &q, tbs, &tbs_n, e));
    TRY(leaf_sign(b->leaf, span_of(tbs, tbs_n), signature, &n, e));
    TRY(leaf_finish(b->leaf, span_of(tbs, tbs_n), span_of(signature, n), der, &der_n, e));
    TRY(cert_from_der(span_of(der, der_n), &leaf, e));
    const struct tls_conf_args a = { .is_server = true,
                                     .key = key,
                                     .leaf = leaf,
                                     .chain = chain,
                                     .chain_n = 1,
                                     .rule = TLS_PEER_NONE,
                                     .alpn = "h2" };
    return tls_conf_new(&a, ret, e);
}

static int
tail_fill(const struct scene *s, struct bare *b, struct err *e)
{
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);

    TRY(cert_to_pem(s->ca, &pem, e));
    TRY(wire_answer_add(&b->tail, buf_span(&pem), e));
    pem.n = 0;
    TRY(cert_to_pem(s->root, &pem, e));
    return wire_answer_add(&b->tail, buf_span(&pem), e);
}

static int
bare_run(const struct scene *scene, size_t workers, int ready_fd, struct err *e)
{
    struct bare b = { .csr = BUF_INIT(CSR_MAX_BYTES),
                      .answer = BUF_INIT(PEM_MAX_BYTES),
                      .pem = BUF_INIT(PEM_MAX_BYTES),
                      .tail = BUF_INIT(PEM_MAX_BYTES),
                      .not_after = unix_s() + DAY_S };
    CLEANUP(tls_conf_unrefp) struct tls_conf *tls = NULL;
    struct grpc_server_conf conf = { .methods = bare_methods, .methods_n = 1, .self = &b };
    struct ready ready = { 0 };
    struct grpc_server *server;
    struct loop *loop;
    struct addr addr;

    (void)workers;
    TRY(loop_new(&loop, e));
    TRY(leaf_template_new(scene->ca, scene->ca_key, &b.leaf, e));
    TRY(bare_tls(scene, &b, &tls, e));
    TRY(tail_fill(scene, &b, e));
    TRY(addr_parse("127.0.0.1:0", &addr, e));
    TRY(addr_listen(&addr, false, &conf.listen_fd, &ready.port, e));
    conf.tls = tls;
    TRY(grpc_server_new(loop, &conf, &server, e));
    TRY(loop_on_signal(loop, SIGTERM, on_term, loop, e));
    if (write(ready_fd, &ready, sizeof(ready)) != sizeof(ready))
        return err_sys(e, errno, "write");
    return loop_run(loop, e);
}

/* -- the child -- */

int
server_start(const struct scene *s, enum server_kind kind, size_t workers, struct server *ret,
             struct err *e)
{
    static int (*const runs[])(const struct scene *, size_t, int, struct err *) = {
        [SERVER_FULL] = full_run, [SERVER_BARE] = bare_run
    };
    struct ready ready;
    int ends[2];

    if (pipe(ends) != 0)
        return err_sys(e, errno, "pipe");
    (void)fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        struct err why = { .code = E_NONE };

        (void)close(ends[0]);
        log_setup(STDERR_FILENO, LOG_ERROR, false);
        if (runs[kind](s, workers, ends[1], &why) < 0)
            fprintf(stderr, "bench server: %s\n", why.msg);
        _exit(why.code == E_NONE ? 0 : 1);
    }
    (void)close(ends[1]);
    bool up = pid > 0 && read(ends[0], &ready, sizeof(ready)) == sizeof(ready);
    (void)close(ends[0]);
    *ret = (struct server){ .pid = pid };
    if (!up) {
        server_stop(ret);
        return err_set(e, E_STATE, "the CA under test did not start");
    }
    ret->signer = ready.signer;
    ret->port = ready.port;
    return 0;
}

void
server_stop(struct server *s)
{
    if (s->pid <= 0)
        return;
    (void)kill(s->pid, SIGTERM);
    (void)waitpid(s->pid, NULL, 0);
    *s = (struct server){ .pid = 0 };
}

double
server_cpu_us(const struct server *s)
{
    return proc_cpu_us(s->pid) + proc_cpu_us(s->signer);
}
