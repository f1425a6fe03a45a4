/* demo.c - the whole story in one terminal, with real processes on loopback. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "cmd/admin_client.h"
#include "cmd/commands.h"
#include "cmd/demo_load.h"
#include "cmd/demo_proc.h"
#include "cmd/demo_tell.h"
#include "net/json.h"

enum {
    WORKLOADS = 3,
    PAUSE_MS = 20,        /* between two handshakes of one pair */
    POLL_US = 100 * 1000, /* between two looks at the status */
    STEP_TIMEOUT_MS = 60 * 1000,
    HANDSHAKES_MIN = 2500,
    PROVE_TIMEOUT_MS = 240 * 1000, /* for those: a very busy machine makes a dozen a second */
    DIR_BYTES = 512,
    FILE_BYTES = 1024,
};

struct demo_conf {
    const char *output;
    bool keep, json; /* json: what --output was before it had its name */
    const char *dir;
};

struct demo {
    const struct demo_conf *conf;
    char dir[DIR_BYTES], state[DIR_BYTES + 16], log[DIR_BYTES + 16], cmd_log[DIR_BYTES + 16];
    struct demo_tell tell;
    struct demo_procs procs;
    struct demo_load *load;
    uint16_t service[DEMO_ECHO_MAX]; /* the workloads' own services */
    uint16_t inbound[WORKLOADS];     /* their mTLS ports */
    json_t *signers;                 /* id of an intermediate -> its short name; owned */
    json_t *steps;                   /* owned */
    size_t step_n;
    uint64_t step_since, tried_before, failed_before, since;
};

static const char *const workload_names[WORKLOADS] = { "web", "cart", "db" };

/* -- commands and paths --------------------------------------------------------------------------
 */

static const char *
path_in(const struct demo *d, const char *name, char ret[FILE_BYTES])
{
    (void)snprintf(ret, FILE_BYTES, "%s/%s", d->dir, name);
    return ret;
}

#define ARGV(...)      ((const char *const[]){ __VA_ARGS__, NULL })
#define RUN(d, e, ...) demo_run(ARGV(__VA_ARGS__), (d)->cmd_log, (e))

/* Sets the four secrets, in the order of a careful operator: trust first, then chain, certificate,
 * key. */
static int
secrets_set(struct demo *d, const char *from, bool only_roots, struct err *e)
{
    static const struct {
        const char *secret, *file;
    } order[] = { { "root-cert", "root-cert.pem" },
                  { "cert-chain", "cert-chain.pem" },
                  { "ca-cert", "ca-cert.pem" },
                  { "ca-key", "ca-key.pem" } };

    for (size_t i = 0; i < (only_roots ? 1 : ARRAY_LEN(order)); i++) {
        char file[FILE_BYTES + 32];

        (void)snprintf(file, sizeof(file), "%s/%s/%s", d->dir, from, order[i].file);
        TRY(RUN(d, e, "vault", "secret", "set", "--state-dir", d->state, "--vault-name", "meshroot",
                "--name", order[i].secret, "--file", file));
    }
    return 0;
}

/* -- waiting on evidence -------------------------------------------------------------------------
 */

struct progress {
    const char *what;
    size_t have, want;
    bool done;
};

typedef void look_fn(const struct demo *d, const json_t *status, struct progress *ret);

static int
wait_until(struct demo *d, look_fn *look, struct err *e)
{
    uint64_t until = mono_ms() + STEP_TIMEOUT_MS;
    struct progress p = { 0 };

    for (;;) {
        json_t *status = NULL;

        TRY(demo_all_alive(&d->procs, e));
        TRY(admin_call(d->state, "GET", "/v1/status", NULL, &status, e));
        look(d, status, &p);
        json_decref(status);
        tell_bar(&d->tell, p.what, p.have, p.want);
        if (p.done) {
            tell_bar_end(&d->tell);
            tell_line(&d->tell, "%zu of %zu %s", p.have, p.want, p.what);
            return 0;
        }
        if (mono_ms() > until) {
            tell_bar_end(&d->tell);
            return err_set(e, E_TIMEOUT, "after %d s only %zu of %zu %s; see %s",
                           STEP_TIMEOUT_MS / 1000, p.have, p.want, p.what, d->log);
        }
        (void)usleep(POLL_US);
    }
}

static const json_t *
agents_of(const json_t *status)
{
    return json_object_get(json_object_get(status, "fleet"), "agents");
}

/* Workloads that said they hold the trust set in force. */
static void
look_trust(const struct demo *d, const json_t *status, struct progress *ret)
{
    json_int_t now =
        json_integer_value(json_object_get(json_object_get(status, "ca"), "generation"));
    const json_t *a;
    size_t i;

    (void)d;
    *ret = (struct progress){ "workloads hold the trust set in force", 0, WORKLOADS, false };
    json_array_foreach(agents_of(status), i, a)
        ret->have += json_integer_value(json_object_get(a, "trust_generation")) == now ? 1 : 0;
    ret->done = ret->have == WORKLOADS;
}

/* Workloads whose only leaf in use is of the intermediate in force. */
static size_t
on_signer(const json_t *status, const char *signer)
{
    const json_t *a;
    size_t i, n = 0;

    json_array_foreach(agents_of(status), i, a) {
        const json_t *ids = json_object_get(a, "leaf_signers");
        const char *id = json_string_value(json_array_get(ids, 0));

        n += json_array_size(ids) == 1 && id != NULL && strcmp(id, signer) == 0 ? 1 : 0;
    }
    return n;
}

static const char *
signer_in_force(const json_t *status, const char *member)
{
    const json_t *im = json_object_get(json_object_get(status, "ca"), "intermediate");
    const char *s = json_string_value(json_object_get(im, member));

    return s != NULL ? s : "";
}

static bool
signer_is(const json_t *status, const char *name)
{
    char cn[64];

    (void)snprintf(cn, sizeof(cn), "CN=Intermediate CA - %s,", name);
    return strstr(signer_in_force(status, "subject"), cn) != NULL;
}

static void
look_signer(const char *name, const json_t *status, struct progress *ret)
{
    *ret = (struct progress){ "workloads use leaves of the new intermediate only", 0, WORKLOADS,
                              false };
    if (signer_is(status, name))
        ret->have = on_signer(status, signer_in_force(status, "id"));
    ret->done = ret->have == WORKLOADS;
}

static void
look_a1(const struct demo *d, const json_t *status, struct progress *ret)
{
    struct progress trust;

    look_signer("A1", status, ret);
    look_trust(d, status, &trust);
    ret->done = ret->done && trust.done;
}

static void
look_a2(const struct demo *d, const json_t *status, struct progress *ret)
{
    (void)d;
    look_signer("A2", status, ret);
}

static void
look_b1(const struct demo *d, const json_t *status, struct progress *ret)
{
    (void)d;
    look_signer("B1", status, ret);
}

static size_t
roots_in_force(const json_t *status)
{
    return json_array_size(json_object_get(json_object_get(status, "ca"), "roots"));
}

static void
look_widened(const struct demo *d, const json_t *status, struct progress *ret)
{
    look_trust(d, status, ret);
    if (roots_in_force(status) != 2)
        ret->have = 0, ret->done = false;
}

static void
look_narrowed(const struct demo *d, const json_t *status, struct progress *ret)
{
    look_trust(d, status, ret);
    if (roots_in_force(status) != 1 || !signer_is(status, "B1"))
        ret->have = 0, ret->done = false;
}

/* -- the steps -----------------------------------------------------------------------------------
 */

/* Makes it and shows that its four files belong together. */
static int
pki_intermediate(struct demo *d, const char *name, const char *root, struct err *e)
{
    char out[FILE_BYTES], from[FILE_BYTES], subject[128];

    (void)snprintf(subject, sizeof(subject), "O=Istio,CN=Intermediate CA - %s,L=cluster-%s", name,
                   name);
    TRY(RUN(d, e, "pki", "intermediate", "--root", path_in(d, root, from), "--out",
            path_in(d, name, out), "--subject", subject));
    return RUN(d, e, "pki", "verify", out);
}

static int
step_pki(struct demo *d, struct err *e)
{
    char a[FILE_BYTES], b[FILE_BYTES];

    TRY(RUN(d, e, "pki", "root", "--out", path_in(d, "root-a", a), "--subject",
            "O=Istio,CN=Root A"));
    TRY(RUN(d, e, "pki", "root", "--out", path_in(d, "root-b", b), "--subject",
            "O=Istio,CN=Root B"));
    TRY(pki_intermediate(d, "A1", "root-a", e));
    TRY(pki_intermediate(d, "A2", "root-a", e));
    TRY(pki_intermediate(d, "B1", "root-b", e));
    tell_line(&d->tell,
              "Root A signs A1 and A2, Root B signs B1; each set passes meshroot pki verify");
    return 0;
}

/* The ports that a child wrote, once it has. Owner of *ret: caller. */
static int
ports_wait(struct demo *d, const char *file, json_t **ret, struct err *e)
{
    uint64_t until = mono_ms() + STEP_TIMEOUT_MS;

    while (mono_ms() < until) {
        struct buf b = BUF_INIT(4096);
        int r = file_read(file, &b, e);
        json_t *j = r == 0 ? json_loadb(buf_text(&b), b.n, 0, NULL) : NULL;

        buf_done(&b);
        if (r < 0)
            return r;
        if (j != NULL) {
            *ret = j;
            return 0;
        }
        TRY(demo_all_alive(&d->procs, e));
        (void)usleep(POLL_US / 10);
    }
    return err_set(e, E_TIMEOUT, "%s did not appear", file);
}

static int
step_up(struct demo *d, struct err *e)
{
    char issuer[FILE_BYTES + 32], keys[FILE_BYTES], jwks[FILE_BYTES], ports[FILE_BYTES];
    json_t *j = NULL;
    uint64_t t = mono_ms();

    TRY(RUN(d, e, "identity", "keygen", "--out", path_in(d, "issuer", keys)));
    (void)snprintf(issuer, sizeof(issuer), "https://demo.meshroot=%s",
                   path_in(d, "issuer/jwks.json", jwks));
    path_in(d, "up.ports", ports);
    TRY(demo_start(&d->procs,
                   ARGV("up", "--state-dir", d->state, "--ca-listen", "127.0.0.1:0",
                        "--vault-listen", "127.0.0.1:0", "--monitoring", "127.0.0.1:0", "--issuer",
                        issuer, "--renew-window", "2s", "--port-file", ports),
                   d->log, e));
    TRY(ports_wait(d, ports, &j, e));
    tell_line(&d->tell, "up in %" PRIu64 " ms: vault %s", mono_ms() - t,
              json_string_value(json_object_get(j, "vault")));
    json_decref(j);
    return 0;
}

static int
step_enable(struct demo *d, struct err *e)
{
    TRY(secrets_set(d, "A1", false, e));
    TRY(RUN(d, e, "mesh", "enable", "--state-dir", d->state, "--root-cert-object-name", "root-cert",
            "--ca-cert-object-name", "ca-cert", "--ca-key-object-name", "ca-key",
            "--cert-chain-object-name", "cert-chain", "--key-vault-id",
            "/subscriptions/0/resourceGroups/demo/providers/Microsoft.KeyVault/vaults/meshroot",
            "--rotation-poll-interval", "1s"));
    return 0;
}

static int
ca_address(struct demo *d, char ret[64], struct err *e)
{
    json_t *status = NULL;

    TRY(admin_call(d->state, "GET", "/v1/status", NULL, &status, e));
    json_int_t port = json_integer_value(json_object_get(json_object_get(status, "ports"), "ca"));
    json_decref(status);
    (void)snprintf(ret, 64, "127.0.0.1:%d", (int)port);
    return 0;
}

static int
workload_start(struct demo *d, size_t i, const char *ca, struct err *e)
{
    const char *name = workload_names[i];
    char token[FILE_BYTES], dir[FILE_BYTES], key[FILE_BYTES], trust[FILE_BYTES], id[128],
        inbound[64], ports[FILE_BYTES], log[FILE_BYTES], out[WORKLOADS][160], leaf[64];
    const char *argv[40];
    size_t n = 0;

    (void)snprintf(leaf, sizeof(leaf), "%s.token", name);
    path_in(d, leaf, token);
    (void)snprintf(id, sizeof(id), "spiffe://cluster.local/ns/demo/sa/%s", name);
    (void)snprintf(trust, sizeof(trust), "%s/trust/root-cert.pem", d->state);
    TRY(RUN(d, e, "identity", "token", "--key", path_in(d, "issuer/issuer-key.pem", key),
            "--issuer", "https://demo.meshroot", "--identity", id, "--out", token));
    (void)snprintf(inbound, sizeof(inbound), "127.0.0.1:%u=127.0.0.1:%u", d->inbound[i],
                   d->service[i]);
    (void)snprintf(leaf, sizeof(leaf), "%s.ports", name);
    path_in(d, leaf, ports);
    (void)snprintf(leaf, sizeof(leaf), "%s.log", name);
    path_in(d, leaf, log);
    const char *const fixed[] = {
        "agent",        "run",   "--dir",          path_in(d, name, dir),
        "--ca-addr",    ca,      "--ca-root-cert", trust,
        "--token-file", token,   "--identity",     id,
        "--inbound",    inbound, "--allow",        "spiffe://cluster.local/ns/demo/sa/*",
        "--port-file",  ports,   "--monitoring",   "127.0.0.1:0"
    };
    for (size_t k = 0; k < ARRAY_LEN(fixed); k++)
        argv[n++] = fixed[k];
    for (size_t k = 0; k < WORKLOADS; k++) {
        if (k == i)
            continue;
        (void)snprintf(out[k], sizeof(out[k]),
                       "127.0.0.1:0=127.0.0.1:%u=spiffe://cluster.local/ns/demo/sa/%s",
                       d->inbound[k], workload_names[k]);
        argv[n++] = "--outbound";
        argv[n++] = out[k];
    }
    argv[n] = NULL;
    return demo_start(&d->procs, argv, log, e);
}

/* A port for each workload's mTLS side, so that all can be told of all before any runs. */
static int
inbound_ports_pick(struct demo *d, struct err *e)
{
    for (size_t i = 0; i < WORKLOADS; i++)
        TRY(demo_load_keep_port(d->load, &d->inbound[i], e));
    return 0;
}

static int
step_workloads(struct demo *d, struct err *e)
{
    uint16_t out[DEMO_PAIRS_MAX];
    size_t n = 0;
    char ca[64];

    TRY(demo_load_new(WORKLOADS, d->service, &d->load, e));
    TRY(inbound_ports_pick(d, e));
    TRY(ca_address(d, ca, e));
    for (size_t i = 0; i < WORKLOADS; i++)
        TRY(workload_start(d, i, ca, e));
    for (size_t i = 0; i < WORKLOADS; i++) {
        char file[FILE_BYTES], name[64];
        json_t *j = NULL, *port;
        size_t k;

        (void)snprintf(name, sizeof(name), "%s.ports", workload_names[i]);
        TRY(ports_wait(d, path_in(d, name, file), &j, e));
        json_array_foreach(json_object_get(j, "outbound"), k, port)
            out[n++] = (uint16_t)json_integer_value(port);
        json_decref(j);
    }
    TRY(wait_until(d, look_a1, e));
    return demo_load_start(d->load, out, n, PAUSE_MS, e);
}

static int
step_intermediate(struct demo *d, struct err *e)
{
    TRY(secrets_set(d, "A2", false, e));
    return wait_until(d, look_a2, e);
}

/* root-cert = old + new, as an operator makes it: cat. */
static int
roots_join(struct demo *d, struct err *e)
{
    struct buf b = BUF_INIT(64 * 1024);
    char a[FILE_BYTES], c[FILE_BYTES], out[FILE_BYTES];
    int r = dir_make(path_in(d, "A+B", out), 0755, e);

    r = r < 0 ? r : file_read(path_in(d, "root-a/root-cert.pem", a), &b, e);
    r = r < 0 ? r : file_read(path_in(d, "root-b/root-cert.pem", c), &b, e);
    r = r < 0 ? r : file_write(path_in(d, "A+B/root-cert.pem", out), buf_span(&b), 0644, e);
    buf_done(&b);
    return r;
}

static int
step_widen(struct demo *d, struct err *e)
{
    TRY(roots_join(d, e));
    TRY(secrets_set(d, "A+B", true, e));
    return wait_until(d, look_widened, e);
}

static int
step_signer(struct demo *d, struct err *e)
{
    static const char *const parts[][2] = { { "cert-chain", "B1/cert-chain.pem" },
                                            { "ca-cert", "B1/ca-cert.pem" },
                                            { "ca-key", "B1/ca-key.pem" } };

    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        char file[FILE_BYTES];

        TRY(RUN(d, e, "vault", "secret", "set", "--state-dir", d->state, "--vault-name", "meshroot",
                "--name", parts[i][0], "--file", path_in(d, parts[i][1], file)));
    }
    return wait_until(d, look_b1, e);
}

static int
step_narrow(struct demo *d, struct err *e)
{
    TRY(secrets_set(d, "B1", true, e));
    return wait_until(d, look_narrowed, e);
}

/* Lets the load go on until the figure means something. */
static int
step_prove(struct demo *d, struct err *e)
{
    uint64_t until = mono_ms() + PROVE_TIMEOUT_MS, tried, failed;

    for (demo_load_count(d->load, &tried, &failed, NULL); tried < HANDSHAKES_MIN;
         demo_load_count(d->load, &tried, &failed, NULL)) {
        tell_bar(&d->tell, "handshakes", tried, HANDSHAKES_MIN);
        TRY(demo_all_alive(&d->procs, e));
        if (mono_ms() > until)
            return err_set(e, E_TIMEOUT, "only %" PRIu64 " handshakes", tried);
        (void)usleep(POLL_US);
    }
    tell_bar_end(&d->tell);
    return 0;
}

static const struct step {
    const char *name, *why;
    int (*run)(struct demo *d, struct err *e);
} steps[] = {
    { "offline PKI: roots A and B, intermediates A1, A2, B1",
      "The root keys stay in a folder that no daemon reads; in life: another machine, or an HSM.",
      step_pki },
    { "meshroot up: vault, sync, rotation, CA",
      "One process, one state folder; the mesh is still off.", step_up },
    { "four secrets into the vault, mesh enable",
      "The set is read and checked to belong together before anything starts to sign.",
      step_enable },
    { "three workloads",
      "Each gets a 24 h leaf by its token; then all make new mTLS handshakes with all.",
      step_workloads },
    { "intermediate rotation: A1 to A2",
      "Same root, so every workload accepts the new leaves already: the signer moves at once, "
      "without a restart.",
      step_intermediate },
    { "root rotation 1/3: trust A and B",
      "Widening is always safe: nobody loses a root. Each workload acknowledges the new trust set.",
      step_widen },
    { "root rotation 2/3: sign under B",
      "Held until every replica hands out B and every workload has acknowledged it; then leaves "
      "renew.",
      step_signer },
    { "root rotation 3/3: drop A",
      "Held until no leaf in use chains to A: the ledger and the workloads' word say so.",
      step_narrow },
    { "traffic goes on", "New handshakes under root B only.", step_prove },
};

/* -- the report ----------------------------------------------------------------------------------
 */

/* Leaves in use by issuer, with the short names of the story: "A1", "A2", "B1". */
static json_t *
issuers_now(struct demo *d)
{
    json_t *ret = json_object(), *status = NULL, *n;
    struct err e;
    const char *id;

    if (d->procs.n == 0 || admin_call(d->state, "GET", "/v1/status", NULL, &status, &e) < 0)
        return ret;
    const char *cn = strstr(signer_in_force(status, "subject"), "CN=Intermediate CA - ");
    if (cn != NULL && strlen(cn) > 23)
        d->signers =
            json_object_with(d->signers, signer_in_force(status, "id"), json_stringn(cn + 21, 2));
    json_object_foreach(json_object_get(json_object_get(status, "fleet"), "by_issuer"), id, n) {
        const char *name = json_string_value(json_object_get(d->signers, id));

        ret = json_object_with(ret, name != NULL ? name : id, json_incref(n));
    }
    json_decref(status);
    return ret;
}

static void
step_record(struct demo *d, const char *name)
{
    uint64_t tried, failed;

    demo_load_count(d->load, &tried, &failed, NULL);
    d->steps = json_array_with(
        d->steps, json_pack("{s:s, s:f, s:{s:I, s:I}, s:o}", "name", name, "seconds",
                            (double)(mono_ms() - d->step_since) / 1000, "handshakes", "tried",
                            (json_int_t)(tried - d->tried_before), "failed",
                            (json_int_t)(failed - d->failed_before), "issuers", issuers_now(d)));
    d->tried_before = tried;
    d->failed_before = failed;
}

static int
story(struct demo *d, struct err *e)
{
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        tell_step(&d->tell, i + 1, steps[i].name, steps[i].why);
        d->step_since = mono_ms();
        if (steps[i].run(d, e) < 0)
            return err_wrap(e, "step %zu (%s)", i + 1, steps[i].name);
        tell_log(&d->tell);
        step_record(d, steps[i].name);
    }
    return 0;
}

static bool
is_json(const struct demo_conf *c)
{
    return c->json || strcmp(c->output, "json") == 0;
}

/* The object of --output json, and the table made from it. r: 0, or CMD_FAILED. */
static int
report(struct demo *d, const struct err *why, struct err *e)
{
    uint64_t tried, failed;
    struct err first;

    demo_load_stop(d->load);
    demo_load_count(d->load, &tried, &failed, &first);
    bool ok = why->code == E_NONE && failed == 0 && tried >= HANDSHAKES_MIN;
    json_t *r = json_pack("{s:b, s:{s:I, s:I}, s:f, s:O}", "ok", (int)ok, "handshakes", "tried",
                          (json_int_t)tried, "failed", (json_int_t)failed, "seconds",
                          (double)(mono_ms() - d->since) / 1000, "steps", d->steps);
    if (why->code != E_NONE)
        r = json_object_with(r, "error", json_string(why->msg));
    if (first.code != E_NONE)
        r = json_object_with(r, "first_failure", json_string(first.msg));
    tell_table(&d->tell, r);
    if (is_json(d->conf))
        TRY(print_json(r, e));
    else
        json_decref(r);
    return ok ? 0 : CMD_FAILED;
}

static int
folder_make(struct demo *d, struct err *e)
{
    const char *tmp = getenv("TMPDIR");

    if (d->conf->dir != NULL) {
        (void)snprintf(d->dir, sizeof(d->dir), "%s", d->conf->dir);
        TRY(dir_make(d->dir, 0700, e));
    } else {
        (void)snprintf(d->dir, sizeof(d->dir), "%s/meshroot-demo-XXXXXX",
                       tmp != NULL ? tmp : "/tmp");
        if (mkdtemp(d->dir) == NULL)
            return err_sys(e, errno, "%s", d->dir);
    }
    (void)snprintf(d->state, sizeof(d->state), "%s/state", d->dir);
    (void)snprintf(d->log, sizeof(d->log), "%s/up.log", d->dir);
    (void)snprintf(d->cmd_log, sizeof(d->cmd_log), "%s/commands.log", d->dir);
    d->tell.log = d->log;
    return 0;
}

static void
keep_running(struct demo *d)
{
    tell_line(&d->tell, "Everything keeps running until Ctrl-C. Try:");
    tell_line(&d->tell, "  meshroot mesh status --state-dir %s --watch", d->state);
    (void)pause();
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    struct demo d = { .conf = conf, .since = mono_ms() };
    struct err why = { 0 };

    (void)args;
    tell_init(&d.tell, is_json(d.conf));
    d.signers = json_object();
    d.steps = json_array();
    int r = folder_make(&d, e);
    if (r == 0) {
        (void)story(&d, &why);
        r = report(&d, &why, e);
        if (why.code != E_NONE)
            fprintf(stderr, "meshroot demo: %s\nlogs are in %s\n", why.msg, d.dir);
        else if (d.conf->keep)
            keep_running(&d);
    }
    demo_stop_all(&d.procs);
    demo_load_free(d.load);
    json_decref(d.signers);
    json_decref(d.steps);
    return r;
}

static const struct opt opts[] = {
    OPT_OUTPUT(struct demo_conf, output),
    { "json", OPT_FLAG, offsetof(struct demo_conf, json), NULL, NULL, NULL, OPT_HIDDEN, NULL,
      "as --output json" },
    { "keep", OPT_FLAG, offsetof(struct demo_conf, keep), NULL, NULL, NULL, 0, NULL,
      "leave everything running at the end" },
    { "dir", OPT_STRING, offsetof(struct demo_conf, dir), NULL, NULL, NULL, 0, "DIR",
      "where to play [a new folder in /tmp]" },
    { .name = NULL },
};

const struct command cmd_demo = {
    "demo",
    "",
    0,
    0,
    opts,
    sizeof(struct demo_conf),
    run,
    "play the whole story on this machine, in under a minute",
    "Plays the whole story with real processes on loopback: an offline PKI, a vault, four secrets, "
    "a mesh with three\n"
    "workloads that make new mTLS handshakes with one another all the time, a rotation of the "
    "intermediate, and a\n"
    "rotation of the root. Exits 0 only if no handshake failed.\n"
    "\n"
    "Examples:\n"
    "  meshroot demo\n"
    "  meshroot demo --output json | jq .handshakes\n"
    "  meshroot demo --keep --dir /tmp/mesh\n",
};
