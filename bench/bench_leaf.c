/* bench_leaf.c - CPU per issued leaf through the whole stack, beside the raw floor of the same run.
 *
 * A forked child runs the CA as `meshroot ca serve` does (one worker, SQLite ledger, token
 * authentication); the parent keeps CALLS calls under way on CONNECTIONS TLS connections. What is
 * counted is the CPU time of the whole child process, the ledger's writer included, and of its
 * signer process. The floor is
 * one CSR verification and one signature with the same kinds of keys in a tight loop.
 */
#include <errno.h>
#include <inttypes.h>
#include <openssl/x509.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "ca/ca.h"
#include "ca/wire.h"
#include "config/opts.h"
#include "net/grpc.h"
#include "obs/log.h"
#include "pki/issue.h"
#include "pki/leaf.h"
#include "pki/openssl.h"
#include "signer/signer.h"

enum { CONNECTIONS = 8, CALLS = 4, WARM_UP = 400, TOKEN_BYTES = 4096 };

static const char identity[] = "spiffe://cluster.local/ns/bench/sa/load";
static const char issuer[] = "https://bench.example";

/* -- the floor -- */

static double
clock_us(clockid_t id)
{
    struct timespec t;

    (void)clock_gettime(id, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int
keypair_time(struct key *k, bool signing, size_t n, double *ret_us, struct err *e)
{
    static const uint8_t text[400] = "a TBSCertificate is about this long";
    uint8_t sig[SIGNATURE_MAX_BYTES];
    size_t sig_n = sizeof(sig);
    EVP_MD_CTX *ready = EVP_MD_CTX_new(), *x = EVP_MD_CTX_new();
    bool good = EVP_DigestSignInit_ex(ready, NULL, "SHA256", NULL, NULL, key_evp(k), NULL) == 1 &&
                EVP_MD_CTX_copy_ex(x, ready) == 1 &&
                EVP_DigestSign(x, sig, &sig_n, text, sizeof(text)) == 1;

    if (good && !signing) {
        EVP_MD_CTX_reset(ready);
        good = EVP_DigestVerifyInit_ex(ready, NULL, "SHA256", NULL, NULL, key_evp(k), NULL) == 1;
    }
    double from = clock_us(CLOCK_THREAD_CPUTIME_ID);
    for (size_t i = 0; i < n && good; i++) {
        size_t room = sizeof(sig);

        good = EVP_MD_CTX_copy_ex(x, ready) == 1 &&
               (signing ? EVP_DigestSign(x, sig, &room, text, sizeof(text))
                        : EVP_DigestVerify(x, sig, sig_n, text, sizeof(text))) == 1;
    }
    *ret_us = (clock_us(CLOCK_THREAD_CPUTIME_ID) - from) / (double)n;
    EVP_MD_CTX_free(ready);
    EVP_MD_CTX_free(x);
    return good ? 0 : err_set(e, E_CRYPTO, "the floor's own signatures do not work");
}

static int
floor_time(struct key *ca, struct key *leaf, double *ret_us, struct err *e)
{
    double sign, verify;

    TRY(keypair_time(leaf, false, 200, &verify, e)); /* warm-up */
    TRY(keypair_time(leaf, false, 3000, &verify, e));
    TRY(keypair_time(ca, true, 1500, &sign, e));
    *ret_us = sign + verify;
    return 0;
}

/* -- one scene: keys, a set on disk, a token -- */

struct scene {
    char dir[64], ca_dir[96], jwks[96];
    struct key *root_key, *ca_key, *leaf_key, *token_key;
    struct buf csr, token;
    struct roots *roots;
};

static int
set_make(struct scene *s, struct err *e)
{
    struct ca_request rq = { .subject = "O=Istio,CN=Root", .days = 3650, .path_len = -1 };
    struct ca_request iq = { .subject = "O=Istio,CN=Intermediate", .days = 365, .path_len = 0 };
    CLEANUP(cert_unrefp) struct cert *root = NULL;
    CLEANUP(cert_unrefp) struct cert *ca = NULL;
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;
    CLEANUP(buf_done)
    struct buf root_pem = BUF_INIT(PEM_MAX_BYTES), ca_pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(buf_wipe) struct buf key_pem = BUF_INIT(PEM_MAX_BYTES);
    struct set_manifest m = { .generation = 1 };

    TRY(root_make(&rq, s->root_key, &root, e));
    TRY(intermediate_make(&iq, s->ca_key, root, s->root_key, &ca, e));
    TRY(cert_to_pem(root, &root_pem, e));
    TRY(cert_to_pem(ca, &ca_pem, e));
    TRY(key_to_pem(s->ca_key, &key_pem, e));
    struct span parts[PART__N] = { buf_span(&root_pem), buf_span(&ca_pem), buf_span(&key_pem),
                                   buf_span(&ca_pem) };
    TRY(bundle_new(parts, &b, e));
    TRY(set_write(s->ca_dir, b, &m, e));
    return roots_from_certs(&root, 1, &s->roots, e);
}

static int
scene_make(enum key_kind kind, struct scene *s, struct err *e)
{
    CLEANUP(buf_done) struct buf jwks = BUF_INIT(8192), claims = BUF_INIT(8192);

    *s = (struct scene){ .dir = "/tmp/meshroot-bench-XXXXXX",
                         .csr = BUF_INIT(CSR_MAX_BYTES),
                         .token = BUF_INIT(TOKEN_BYTES) };
    if (mkdtemp(s->dir) == NULL)
        return err_sys(e, errno, "cannot make a folder in /tmp");
    (void)snprintf(s->ca_dir, sizeof(s->ca_dir), "%s/ca", s->dir);
    (void)snprintf(s->jwks, sizeof(s->jwks), "%s/jwks.json", s->dir);
    TRY(key_make(kind, &s->root_key, e));
    TRY(key_make(kind, &s->ca_key, e));
    TRY(key_make(kind, &s->leaf_key, e));
    TRY(key_make(KEY_RSA2048, &s->token_key, e)); /* as a cluster signs its tokens */
    TRY(set_make(s, e));
    TRY(jwks_of_key(s->token_key, "k1", &jwks, e));
    TRY(file_write(s->jwks, buf_span(&jwks), 0600, e));
    TRY(buf_addf(&claims, e,
                 "{\"iss\":\"%s\",\"aud\":[\"istio-ca\"],\"exp\":%" PRId64 ",\"jti\":\"bench\","
                 "\"sub\":\"system:serviceaccount:bench:load\"}",
                 issuer, unix_s() + 3600));
    TRY(buf_add_str(&s->token, "Bearer ", e));
    TRY(jwt_sign(s->token_key, "k1", false, buf_span(&claims), &s->token, e));
    return csr_make(s->leaf_key, identity, &s->csr, e);
}

static void
scene_done(struct scene *s)
{
    char command[128];

    key_unref(s->root_key);
    key_unref(s->ca_key);
    key_unref(s->leaf_key);
    key_unref(s->token_key);
    roots_unref(s->roots);
    buf_done(&s->csr);
    buf_done(&s->token);
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", s->dir);
    if (s->dir[0] == '/' && system(command) != 0)
        fprintf(stderr, "cannot remove %s\n", s->dir);
}

/* -- the child: the CA -- */

struct server {
    struct loop *loop;
    struct ca *ca;
    int ready_fd;
};

static void
on_term(void *arg)
{
    struct server *s = arg;

    loop_stop(s->loop);
}

struct ready { /* what the child tells the parent */
    pid_t signer;
    uint16_t port;
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
    struct server *s = arg;
    struct ready r = { signer_pid(s->ca), ca_port(s->ca) };

    (void)generation;
    (void)roots;
    (void)id;
    if (write(s->ready_fd, &r, sizeof(r)) != sizeof(r))
        loop_stop(s->loop);
}

static int
server_run(const struct scene *scene, int ready_fd, struct err *e)
{
    struct server s = { .ready_fd = ready_fd };
    struct metrics *metrics;
    struct store *store;
    struct ledger *ledger;
    struct ca_conf k = { .dir = scene->ca_dir,
                         .listen = "127.0.0.1:0",
                         .workers = 1,
                         .trust_domain = "cluster.local",
                         .issuers = { { issuer, scene->jwks, NULL } },
                         .issuers_n = 1,
                         .dns_names = { "localhost" },
                         .dns_names_n = 1,
                         .default_ttl_ms = 86400 * 1000,
                         .max_ttl_ms = (uint64_t)90 * 86400 * 1000,
                         .on_loaded = on_loaded,
                         .arg = &s };

    log_setup(STDERR_FILENO, LOG_ERROR, false);
    TRY(metrics_new(&metrics, e));
    TRY(loop_new(&s.loop, e));
    TRY(store_open_sqlite(scene->dir, &store, e));
    TRY(ledger_open(store, metrics, &ledger, e));
    k.ledger = ledger;
    k.metrics = metrics;
    TRY(loop_on_signal(s.loop, SIGTERM, on_term, &s, e));
    TRY(ca_new(s.loop, &k, &s.ca, e));
    TRY(loop_run(s.loop, e));
    ca_free(s.ca);
    ledger_close(ledger);
    store_close(store);
    loop_free(s.loop);
    metrics_free(metrics);
    return 0;
}

static int
server_fork(const struct scene *scene, pid_t *ret_pid, struct ready *ret, struct err *e)
{
    int ends[2];

    if (pipe(ends) != 0)
        return err_sys(e, errno, "pipe");
    pid_t pid = fork();
    if (pid == 0) {
        struct err why = { .code = E_NONE };

        (void)close(ends[0]);
        if (server_run(scene, ends[1], &why) < 0)
            fprintf(stderr, "bench server: %s\n", why.msg);
        _exit(why.code == E_NONE ? 0 : 1);
    }
    (void)close(ends[1]);
    bool up = pid > 0 && read(ends[0], ret, sizeof(*ret)) == sizeof(*ret);
    (void)close(ends[0]);
    *ret_pid = pid;
    return up ? 0 : err_set(e, E_STATE, "the CA under test did not start");
}

/* -- the parent: the load -- */

struct load {
    struct loop *loop;
    struct grpc_client *clients[CONNECTIONS];
    const struct scene *scene;
    struct buf request;
    size_t left, under_way, good, wanted;
    clockid_t cpu, signer_cpu;
    double cpu_from, wall_from;
    char failure[256];
};

struct lane { /* one call slot of one connection */
    struct load *load;
    struct grpc_client *client;
};

static void lane_call(struct lane *lane);

static void
on_message(struct span msg, void *arg)
{
    (void)msg;
    (void)arg;
}

static double
cpu_us(const struct load *l)
{
    return clock_us(l->cpu) + clock_us(l->signer_cpu);
}

static void
on_done(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct lane *lane = arg;
    struct load *l = lane->load;

    (void)q;
    l->under_way--;
    if (code != GRPC_OK && l->failure[0] == '\0')
        (void)snprintf(l->failure, sizeof(l->failure), "%s: %s", grpc_code_name(code),
                       msg == NULL ? "" : msg);
    l->good += code == GRPC_OK;
    if (l->good == WARM_UP) {
        l->cpu_from = cpu_us(l);
        l->wall_from = clock_us(CLOCK_MONOTONIC);
    }
    if (l->left > 0 && l->failure[0] == '\0')
        lane_call(lane);
    else if (l->under_way == 0)
        loop_stop(l->loop);
}

static void
lane_call(struct lane *lane)
{
    struct load *l = lane->load;
    const struct grpc_header_kv headers[] = { { "authorization", buf_text(&l->scene->token) },
                                              { NULL, NULL } };
    const struct grpc_answer answer = { on_message, on_done, lane };
    struct err e;

    l->left--;
    if (grpc_client_call(lane->client, "/istio.v1.auth.IstioCertificateService/CreateCertificate",
                         headers, buf_span(&l->request), 10000, &answer, NULL, &e) < 0) {
        (void)snprintf(l->failure, sizeof(l->failure), "%.200s", e.msg);
        return;
    }
    l->under_way++;
}

static int
load_run(struct load *l, uint16_t port, struct err *e)
{
    struct tls_conf_args a = { .roots = l->scene->roots, .rule = TLS_PEER_NAME, .alpn = "h2" };
    CLEANUP(tls_conf_unrefp) struct tls_conf *tls = NULL;
    static struct lane lanes[CONNECTIONS * CALLS];
    struct grpc_client_conf c = { .host = "127.0.0.1", .port = port, .verify_name = "localhost" };

    TRY(tls_conf_new(&a, &tls, e));
    c.tls = tls;
    for (size_t i = 0; i < CONNECTIONS; i++)
        TRY(grpc_client_new(l->loop, &c, &l->clients[i], e));
    for (size_t i = 0; i < CONNECTIONS * CALLS; i++) {
        lanes[i] = (struct lane){ l, l->clients[i % CONNECTIONS] };
        lane_call(&lanes[i]);
    }
    if (l->under_way > 0)
        TRY(loop_run(l->loop, e));
    if (l->failure[0] != '\0')
        return err_set(e, E_PEER, "a call failed: %s", l->failure);
    return 0;
}

struct figures {
    const char *name;
    double floor_us, leaf_us, per_s;
};

static int
measure(const struct scene *s, pid_t pid, const struct ready *ready, size_t leaves,
        struct figures *ret, struct err *e)
{
    struct load l = { .scene = s, .left = WARM_UP + leaves, .request = BUF_INIT(CSR_MAX_BYTES) };

    if (clock_getcpuclockid(pid, &l.cpu) != 0 ||
        clock_getcpuclockid(ready->signer, &l.signer_cpu) != 0)
        return err_sys(e, errno, "no CPU clock for the CA under test");
    TRY(loop_new(&l.loop, e));
    int r = wire_answer_add(&l.request, buf_span(&s->csr), e); /* field 1 of both messages */
    if (r == 0)
        r = load_run(&l, ready->port, e);
    ret->leaf_us = (cpu_us(&l) - l.cpu_from) / (double)leaves;
    ret->per_s = (double)leaves * 1e6 / (clock_us(CLOCK_MONOTONIC) - l.wall_from);
    for (size_t i = 0; i < CONNECTIONS; i++)
        grpc_client_free(l.clients[i]);
    loop_free(l.loop);
    buf_done(&l.request);
    return r;
}

static int
bench(enum key_kind kind, size_t leaves, struct figures *ret, struct err *e)
{
    struct scene s;
    pid_t pid = -1;
    struct ready ready;

    ret->name = key_kind_name(kind);
    int r = scene_make(kind, &s, e);
    if (r == 0)
        r = floor_time(s.ca_key, s.leaf_key, &ret->floor_us, e);
    if (r == 0)
        r = server_fork(&s, &pid, &ready, e);
    if (r == 0)
        r = measure(&s, pid, &ready, leaves, ret, e);
    if (pid > 0) {
        (void)kill(pid, SIGTERM);
        (void)waitpid(pid, NULL, 0);
    }
    scene_done(&s);
    return r;
}

/* -- the table -- */

struct bench_conf {
    uint64_t leaves;
    bool json;
};
static const struct opt opts[] = {
    { "leaves", OPT_COUNT, offsetof(struct bench_conf, leaves), "3000", "100", "1000000", 0, "N",
      "leaves to issue per kind of key" },
    { "json", OPT_FLAG, offsetof(struct bench_conf, json), NULL, NULL, NULL, 0, NULL,
      "print one JSON object" },
    { .name = NULL },
};

static void
print(const struct figures *f, size_t n, const struct bench_conf *c)
{
    if (!c->json)
        printf("CPU per leaf, server and signer process; %d TLS connections x %d calls, %" PRIu64
               " leaves, ledger on\n\n%-10s %12s %12s %8s %12s\n",
               CONNECTIONS, CALLS, c->leaves, "keys", "us/leaf", "floor us", "ratio", "leaves/s");
    else
        printf("{\"leaves\": %" PRIu64 ", \"results\": [", c->leaves);
    for (size_t i = 0; i < n; i++)
        printf(c->json
                   ? "%s{\"keys\": \"%s\", \"us_per_leaf\": %.1f, \"floor_us\": %.1f, \"ratio\": "
                     "%.2f, \"leaves_per_s\": %.0f}"
                   : "%s%-10s %12.1f %12.1f %8.2f %12.0f\n",
               c->json && i > 0 ? ", " : "", f[i].name, f[i].leaf_us, f[i].floor_us,
               f[i].leaf_us / f[i].floor_us, f[i].per_s);
    if (c->json)
        printf("]}\n");
}

int
main(int argc, char *argv[])
{
    static const enum key_kind kinds[] = { KEY_P256, KEY_RSA2048 };
    struct figures f[ARRAY_LEN(kinds)];
    struct bench_conf c = { 0 };
    struct opt_args args;
    struct err e = { 0 };

    signer_child_run(argc, argv);
    (void)signal(SIGPIPE, SIG_IGN);
    log_setup(STDERR_FILENO, LOG_ERROR, false);
    int r = opts_parse(opts, &c, argc - 1, argv + 1, &args, &e);
    if (r == OPT_HELP) {
        opts_help(opts, stdout);
        return 0;
    }
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(kinds); i++)
        r = bench(kinds[i], (size_t)c.leaves, &f[i], &e);
    if (r < 0) {
        fprintf(stderr, "bench_leaf: %s\n", e.msg);
        return 1;
    }
    print(f, ARRAY_LEN(kinds), &c);
    return 0;
}
