/* ca.c - start, stop, and what the control loop does between reloads. */
#include "ca/ca.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "ca/evidence.h"
#include "ca/room.h"
#include "net/addr.h"
#include "obs/log.h"

/* A copy of a text of the caller's, owned by `c`. */
static int
text_keep(struct ca *c, const char **at, struct err *e)
{
    if (*at == NULL)
        return 0;
    if (c->texts_n == CA_TEXTS_MAX)
        return err_set(e, E_LIMIT, "too many names in the CA's settings");
    TRY(str_dup(span_str(*at), &c->texts[c->texts_n], e));
    *at = c->texts[c->texts_n++];
    return 0;
}

static int
texts_keep(struct ca *c, struct err *e)
{
    struct ca_conf *k = &c->conf;

    TRY(text_keep(c, &k->dir, e));
    TRY(text_keep(c, &k->self_signed_dir, e));
    TRY(text_keep(c, &k->trust_dir, e));
    TRY(text_keep(c, &k->token_uri, e));
    TRY(text_keep(c, &k->token_reads, e));
    TRY(text_keep(c, &k->listen, e));
    TRY(text_keep(c, &k->trust_domain, e));
    TRY(text_keep(c, &k->replica, e));
    TRY(text_keep(c, &k->who.pods_file, e));
    for (size_t i = 0; i < k->who.issuers_n; i++) {
        TRY(text_keep(c, &k->who.issuers[i].issuer, e));
        TRY(text_keep(c, &k->who.issuers[i].jwks, e));
        TRY(text_keep(c, &k->who.issuers[i].ca_file, e));
    }
    for (size_t i = 0; i < JWT_AUDIENCES && k->who.audiences[i] != NULL; i++)
        TRY(text_keep(c, &k->who.audiences[i], e));
    for (size_t i = 0; i < k->who.dns_names_n; i++)
        TRY(text_keep(c, &k->who.dns_names[i], e));
    for (size_t i = 0; i < k->who.node_accounts_n; i++)
        TRY(text_keep(c, &k->who.node_accounts[i], e));
    for (size_t i = 0; i < k->who.cert_signers_n; i++)
        TRY(text_keep(c, &k->who.cert_signers[i], e));
    for (size_t i = 0; i < k->who.evidence_readers_n; i++)
        TRY(text_keep(c, &k->who.evidence_readers[i], e));
    for (size_t i = 0; i < k->who.couriers_n; i++)
        TRY(text_keep(c, &k->who.couriers[i], e));
    for (size_t i = 0; i < k->who.serving_accounts_n; i++)
        TRY(text_keep(c, &k->who.serving_accounts[i], e));
    for (size_t i = 0; i < k->who.serving_names_n; i++)
        TRY(text_keep(c, &k->who.serving_names[i], e));
    return 0;
}

static int
conf_check(struct ca_conf *k, struct err *e)
{
    if (k->workers < 1 || k->workers > CA_WORKERS_MAX)
        return err_set(e, E_INVAL, "the CA has 1 to %d workers", CA_WORKERS_MAX);
    if (k->who.issuers_n > CA_JWKS_MAX || k->who.dns_names_n < 1 || k->who.dns_names_n > CA_DNS_MAX)
        return err_set(e, E_INVAL, "the CA takes up to %d issuers and 1 to %d names of its own",
                       CA_JWKS_MAX, CA_DNS_MAX);
    if (k->token_uri != NULL && k->self_signed_dir != NULL)
        return err_set(e, E_INVAL,
                       "a self-signed root is made by the signer and kept as a file: "
                       "not with keys in a token (--signer)");
    if (k->default_ttl_ms < 1000 || k->default_ttl_ms > k->max_ttl_ms)
        return err_set(e, E_INVAL,
                       "--default-workload-ttl: at least 1s, and not longer than "
                       "--max-workload-ttl");
    if (k->who.node_accounts_n > CA_NODE_ACCOUNTS_MAX ||
        k->who.cert_signers_n > CA_CERT_SIGNERS_MAX)
        return err_set(e, E_INVAL, "the CA takes up to %d node accounts and %d names of signers",
                       CA_NODE_ACCOUNTS_MAX, CA_CERT_SIGNERS_MAX);
    for (size_t i = 0; i < k->who.node_accounts_n; i++)
        TRY(node_account_check(k->who.node_accounts[i], e));
    for (size_t i = 0; i < k->who.evidence_readers_n; i++)
        TRY(node_account_check(k->who.evidence_readers[i], e));
    for (size_t i = 0; i < k->who.couriers_n; i++)
        TRY(node_account_check(k->who.couriers[i], e));
    for (size_t i = 0; i < k->who.serving_accounts_n; i++)
        TRY(node_account_check(k->who.serving_accounts[i], e));
    for (size_t i = 0; i < k->who.serving_names_n; i++)
        if (!k8s_subdomain_ok(span_str(k->who.serving_names[i])))
            return err_set(e, E_INVAL, "\"%.200s\" is no DNS name such as istiod.istio-system.svc",
                           k->who.serving_names[i]);
    if (k->who.audiences[0] == NULL)
        k->who.audiences[0] = "istio-ca";
    if (k->who.cert_signers_n == 0)
        k->who.cert_signers[k->who.cert_signers_n++] = "meshroot";
    if (k->reread_ms == 0)
        k->reread_ms = 5000;
    if (k->drain_ms == 0)
        k->drain_ms = CA_DRAIN_MS;
    if (k->replica == NULL)
        k->replica = "ca";
    if (k->replica[0] == '\0' || strlen(k->replica) >= EVIDENCE_NAME_BYTES)
        return err_set(e, E_INVAL, "a replica's name has 1 to %d bytes (--replica)",
                       (int)EVIDENCE_NAME_BYTES - 1);
    if (trust_domain_check(k->trust_domain, e) < 0) {
        e->code = E_INVAL;
        return err_wrap(e, "--trust-domain \"%.100s\"", k->trust_domain);
    }
    return 0;
}

int
ca_conf_check(const struct ca_conf *conf, struct err *e)
{
    struct ca_conf k = *conf;
    struct addr a;

    TRY(conf_check(&k, e));
    if (addr_parse(k.listen, &a, e) < 0) {
        e->code = E_INVAL;
        return err_wrap(e, "where the CA answers");
    }
    return 0;
}

/* -- calls from the workers -- */

static void
on_evidence(void *arg)
{
    struct ca *c = arg;

    atomic_store(&c->evidence_posted, false);
    if (c->conf.on_evidence != NULL && !c->is_closed)
        c->conf.on_evidence(c->conf.arg);
}

void
ca_evidence(struct ca *c)
{
    struct err e;

    (void)atomic_fetch_add(&c->evidence_n, 1);
    if (c->conf.on_evidence == NULL || atomic_exchange(&c->evidence_posted, true))
        return;
    if (loop_post(c->loop, on_evidence, c, &e) < 0)
        atomic_store(&c->evidence_posted, false);
}

static void
on_unknown_kid(void *arg)
{
    struct ca *c = arg;

    atomic_store(&c->kid_posted, false);
    for (size_t i = 0; i < c->conf.who.issuers_n && !c->is_closed; i++)
        if (c->jwks[i].source != NULL)
            jwks_source_unknown_kid(c->jwks[i].source);
}

void
ca_unknown_kid(struct ca *c)
{
    struct err e;

    if (atomic_exchange(&c->kid_posted, true))
        return;
    if (loop_post(c->loop, on_unknown_kid, c, &e) < 0)
        atomic_store(&c->kid_posted, false);
}

/* -- the control loop -- */

static void
on_keys(struct jwks *keys, void *arg)
{
    struct ca_jwks *j = arg;
    struct jwks *old = j->keys;

    j->keys = jwks_ref(keys);
    ca_load_view(j->ca, "the keys of tokens have changed");
    jwks_unref(old);
}

/* Timers run on the clock that does not jump; the dates of leaves can only follow the one that may.
 */
static void
clock_look(struct ca *c)
{
    int64_t now_s = unix_s(), step;
    uint64_t now_ms = mono_ms();

    step = now_s - c->tick_s - (int64_t)((now_ms - c->tick_ms) / 1000);
    if (c->tick_ms > 0 && (step > CA_CLOCK_STEP_S || step < -CA_CLOCK_STEP_S)) {
        log_error("",
                  "THE CLOCK HAS STEPPED by %+" PRId64 " s: leaves are dated by it, and may be "
                  "refused as not yet valid or expired; mend the time service of this machine",
                  step);
        metric_add(c->conf.metrics, &ca_m_clock_steps, "", 1);
    }
    c->tick_s = now_s;
    c->tick_ms = now_ms;
}

void
ca_tick(void *arg)
{
    struct ca *c = arg;

    timer_set(c->tick, CA_TICK_MS);
    clock_look(c);
    ca_load_again(c);
    if (c->view == NULL)
        return;
    revocations_tick(c->revocations);
    if (c->server.half_life <= unix_s() && c->view->not_after > unix_s())
        ca_load_server_cert(c);
    ca_metrics_expiry(c);
}

/* What is known of pods: one source. */
static int
pods_open(struct ca *c, struct err *e)
{
    struct ca_callers *who = &c->conf.who;
    struct pods_file_conf f = { .path = who->pods_file, .metrics = c->conf.metrics };
    struct pods_watch_conf w = { who->pods_max_stale_ms, c->conf.metrics };

    if ((who->cluster != NULL) + (who->pods_file != NULL) + (who->pods_max_stale_ms != 0) > 1)
        return err_set(e, E_INVAL, "pods come from the cluster or from a file, not from both");
    if (who->pods_max_stale_ms != 0 && c->kube == NULL)
        return err_set(e, E_INVAL, "pods are to be watched, and no API server is named");
    if (who->pods_file != NULL) {
        TRY(pods_file_new(c->loop, &f, &c->pods, e));
        who->cluster = pods_file_cluster(c->pods);
    }
    if (who->pods_max_stale_ms != 0) {
        TRY(pods_watch_new(c->loop, c->kube, &w, &c->pods_watch, e));
        who->cluster = pods_watch_cluster(c->pods_watch);
    }
    return 0;
}

/* Before the workers: they ask it. */
static int
cluster_open(struct ca *c, struct err *e)
{
    if (c->conf.who.kube != NULL)
        TRY(kube_client_new(c->loop, c->conf.who.kube, c->conf.metrics, &c->kube, e));
    c->conf.who.kube = NULL; /* borrowed for this call only */
    if (c->conf.who.token_review != 0 && c->kube == NULL)
        return err_set(e, E_INVAL, "tokens are to be reviewed, and no API server is named");
    if (c->conf.who.token_review != 0)
        TRY(ca_reviews_new(c, e));
    return pods_open(c, e);
}

static int
signer_open(struct ca *c, struct err *e)
{
    struct signer_process_conf p = { .loop = c->loop,
                                     .lanes = c->conf.workers,
                                     .max_life_s = (int64_t)(c->conf.max_ttl_ms / 1000),
                                     .trust_domain = c->conf.trust_domain,
                                     .token_uri = c->conf.token_uri,
                                     .reads = c->conf.token_reads,
                                     .on_state = ca_load_signer,
                                     .arg = c };

    TRY(signer_process_new(&p, &c->signer, e));
    metric_set(c->conf.metrics, &ca_m_signer_up, "", 1);
    ca_metrics_signer(c);
    return 0;
}

static int
listeners_open(struct ca *c, struct err *e)
{
    struct addr a;

    TRY(addr_parse(c->conf.listen, &a, e));
    for (; c->workers_n < c->conf.workers; c->workers_n++) {
        int fd;

        TRY(addr_listen(&a, true, &fd, &a.port, e));
        if (ca_worker_start(c, &c->workers[c->workers_n], fd, e) < 0) {
            c->workers_n++; /* half-made: ca_free joins and closes it */
            return err_result(e);
        }
    }
    c->port = a.port;
    return 0;
}

static int
sources_open(struct ca *c, struct err *e)
{
    struct filewatch_conf files = { .dir = c->conf.dir,
                                    .names = set_file_names,
                                    .n = SET_FILES,
                                    .sealed = set_file_names[PART_CA_KEY],
                                    .max_file_bytes = FILESET_MAX_FILE_BYTES,
                                    .interval_ms = c->conf.reread_ms,
                                    .use_events = true,
                                    .on_change = ca_load_changed,
                                    .on_error = ca_load_failed,
                                    .arg = c };

    for (size_t i = 0; i < c->conf.who.issuers_n; i++) {
        struct jwks_source_conf k = { .issuer = c->conf.who.issuers[i].issuer,
                                      .location = c->conf.who.issuers[i].jwks,
                                      .kube = c->kube,
                                      .ca_file = c->conf.who.issuers[i].ca_file,
                                      .on_change = on_keys,
                                      .arg = &c->jwks[i],
                                      .metrics = c->conf.metrics };

        c->jwks[i] = (struct ca_jwks){ .ca = c, .index = i };
        TRY(jwks_source_new(c->loop, &k, &c->jwks[i].source, e));
    }
    TRY(timer_new(c->loop, ca_tick, c, &c->tick, e));
    clock_look(c);
    TRY(timer_new(c->loop, ca_load_say, c, &c->say, e));
    TRY(timer_new(c->loop, ca_load_jwt, c, &c->jwt_timer, e));
    ca_load_recall(c);
    timer_set(c->tick, CA_TICK_MS);
    TRY(filewatch_new(c->loop, &files, &c->watch, e));
    log_info("", "Added cacerts files watcher at %s", c->conf.dir);
    return 0;
}

static void
on_last_post(void *arg)
{
    struct ca *c = arg;

    for (size_t i = 0; i < c->texts_n; i++)
        free(c->texts[i]);
    free(c);
}

DEFINE_CLEANUP(struct ca, ca_free)

int
ca_new(struct loop *l, const struct ca_conf *conf, struct ca **ret, struct err *e)
{
    CLEANUP(ca_freep) struct ca *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return err_nomem(e);
    c->loop = l;
    c->conf = *conf;
    TRY(conf_check(&c->conf, e));
    TRY(texts_keep(c, e));
    ca_metrics_start(c);
    TRY(cluster_open(c, e));
    TRY(revocations_new(c, &c->revocations, e));
    TRY(signer_open(c, e));
    TRY(listeners_open(c, e));
    TRY(sources_open(c, e));
    *ret = STEAL(c);
    return 0;
}

void
ca_leave(struct ca *c)
{
    c->is_stopping = true;
}

static void
drain_look(struct ca *c)
{
    loop_fn *done = c->on_drained;

    if (done == NULL || c->drained_n < c->workers_n)
        return;
    c->on_drained = NULL;
    done(c->drained_arg);
}

void
ca_worker_has_quit(void *arg)
{
    struct ca *c = arg;

    c->drained_n++;
    if (!c->is_closed)
        drain_look(c);
}

void
ca_drain(struct ca *c, loop_fn *done, void *arg)
{
    ca_leave(c);
    c->on_drained = done;
    c->drained_arg = arg;
    for (size_t i = 0; i < c->workers_n; i++)
        ca_worker_stop(&c->workers[i]);
    drain_look(c); /* there may be none */
}

void
ca_free(struct ca *c)
{
    if (c == NULL)
        return;
    filewatch_free(c->watch);
    timer_free(c->tick);
    timer_free(c->say);
    timer_free(c->jwt_timer);
    for (size_t i = 0; i < CA_JWKS_MAX; i++)
        jwks_source_free(c->jwks[i].source);
    ca_reviews_close(c);
    for (size_t i = 0; i < c->workers_n; i++)
        ca_worker_stop(&c->workers[i]);
    for (size_t i = 0; i < c->workers_n; i++)
        ca_worker_join(&c->workers[i]);
    pods_watch_free(c->pods_watch); /* before the client that it uses */
    ca_reviews_free(c);
    pods_file_free(c->pods);
    ca_view_unref(c->view);
    tls_conf_unref(c->tls);
    ca_server_cert_done(&c->server);
    ca_jwt_done(&c->jwt);
    revocations_free(c->revocations);
    crls_unref(c->above);
    bundle_unref(c->loaded.bundle);
    signer_unref(c->loaded.signer);
    signer_process_free(c->signer);
    for (size_t i = 0; i < CA_JWKS_MAX; i++)
        jwks_unref(c->jwks[i].keys);
    c->is_closed = true;
    /* a worker's call may still wait in the control loop: ours comes after it */
    struct err e;
    if (loop_post(c->loop, on_last_post, c, &e) < 0)
        log_error("", "the CA's memory is not given back: %s", e.msg);
}

uint16_t
ca_port(const struct ca *c)
{
    return c->port;
}

uint64_t
ca_generation(const struct ca *c)
{
    return c->loaded.bundle == NULL ? 0 : c->loaded.generation;
}

static int
ready_check(const struct ca *c, struct err *e)
{
    struct signer_status s = signer_process_status(c->signer);

    if (c->is_stopping)
        return err_set(e, E_STATE, "it is stopping: calls under way are finished");
    if (c->view == NULL)
        return err_set(e, E_STATE, "no usable set is loaded%s%s; see /status",
                       c->refused[0] == '\0' ? "" : ": ", c->refused);
    if (c->view->not_after <= unix_s())
        return err_set(e, E_STATE, "the signing certificate has expired; see /status");
    if (!s.is_up || c->signer_is_lost)
        return err_set(e, E_STATE, "the signer process is lost, or lacks the key in force: %s",
                       s.trouble[0] != '\0' ? s.trouble : "it is being started");
    if (ledger_health(c->conf.ledger, e) < 0)
        return err_wrap(e, "the ledger cannot record certificates, so none is issued");
    return 0;
}

bool
ca_is_ready(const struct ca *c)
{
    struct err e;

    return ready_check(c, &e) == 0;
}

const char *
ca_why_not_ready(struct ca *c)
{
    struct err e = { .msg = "it is ready now" };

    (void)ready_check(c, &e);
    (void)snprintf(c->why_not_ready, sizeof(c->why_not_ready), "%s\n", e.msg);
    return c->why_not_ready;
}

void
ca_poke(struct ca *c)
{
    filewatch_poke(c->watch);
    ca_load_again(c);
}
