#include <stdlib.h>
#include <string.h>

#include "agent/plan.h"
#include "agent/room.h"
#include "agent/sds.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/footprint.h"
#include "base/str.h"
#include "obs/log.h"

uint32_t
agent_random(void)
{
    return (uint32_t)random_below((uint64_t)UINT32_MAX + 1);
}

void
agent_note_error(struct agent *a, const char *what, const struct err *e)
{
    char text[ERR_MSG_BYTES];

    (void)snprintf(text, sizeof(text), "%s: %.400s", what, e->msg);
    if (strcmp(text, a->last_error) != 0) /* once for each reason, not for each try */
        log_warn("agent", "%s", text);
    memcpy(a->last_error, text, sizeof(text));
    a->last_error_s = unix_s();
}

const struct creds *
agent_newest(const struct agent *a)
{
    return a->pending != NULL ? a->pending : a->now;
}

/* What is new in `c`: bits of enum reload_why. */
static unsigned
changes(const struct creds *before, const struct creds *c)
{
    if (before == NULL)
        return RELOAD_LEAF | RELOAD_TRUST;
    return (span_eq(cert_der(before->leaf), cert_der(c->leaf)) ? 0u : RELOAD_LEAF) |
           (creds_trust_equal(before, c) ? 0u : RELOAD_TRUST);
}

static void
log_applied(const struct agent *a, const struct creds *before)
{
    const struct creds *c = a->now;
    char serial[SERIAL_TEXT_BYTES], end[RFC3339_BYTES], roots[24], generation[24];

    cert_serial_text(c->leaf, serial);
    rfc3339_s(cert_not_after(c->leaf), end);
    (void)snprintf(roots, sizeof(roots), "%zu", roots_count(c->roots));
    (void)snprintf(generation, sizeof(generation), "%llu", (unsigned long long)c->generation);
    bool new_leaf = before == NULL || !span_eq(cert_serial(before->leaf), cert_serial(c->leaf));
    log_with(LOG_INFO, "cache",
             LABELS({ "generation", generation }, { "roots", roots }, { "serial", serial },
                    { "not_after", end }),
             new_leaf ? "generated new workload certificate" : "trust set changed");
    if (!creds_leaf_is_trusted(c))
        log_warn("cache", "the trust set of generation %s has no root for our own leaf %s",
                 generation, serial);
    if (creds_is_revoked(c))
        log_warn(
            "cache",
            "our own leaf %s is revoked, itself or by its intermediate: peers refuse it; a new "
            "one is asked for",
            serial);
}

static void
became_ready(void *arg)
{
    struct agent *a = arg;

    if (!a->is_stopping && a->conf.on_ready != NULL)
        a->conf.on_ready(a->conf.arg);
}

static void
on_rest(void *arg)
{
    (void)arg;
    footprint_trim();
}

/* The moment of change: from here on new handshakes use it. The trust set and the leaf go
 * together. */
static void
use(struct agent *a, struct creds *take, struct tls_conf *const conf[2])
{
    CLEANUP(creds_freep) struct creds *before = a->now;

    a->now = take;
    proxies_set(a, conf);
    if (before != NULL && !crls_equal(before->crls, take->crls))
        proxies_recheck(a);
    if (a->workload != NULL)
        workload_use(a->workload, take);
    log_applied(a, before);
    bool is_new_leaf =
        before == NULL || !span_eq(cert_serial(before->leaf), cert_serial(take->leaf));
    if (is_new_leaf) {
        renew_schedule(a);
        grpc_client_reconnect(a->client); /* the CA is to see the new leaf */
        trust_watch(a);
    }
    timer_set(a->rest, REST_MS);
    if (!a->is_ready) {
        a->is_ready = true;
        count_started(a);
        loop_defer(a->loop, became_ready, a);
    }
}

/* A leaf that peers refuse is replaced soon, however it is found out: by the lists, when it comes
 * after them, or at a start. While the CA gives no better one it is asked less and less often. */
static void
look_at_leaf(struct agent *a)
{
    const struct creds *c = agent_newest(a);

    if (creds_leaf_is_trusted(c) && !creds_is_revoked(c)) {
        a->bad_leaves = 0;
        return;
    }
    uint64_t ms = plan_backoff_ms(++a->bad_leaves, true, agent_random());
    renew_between(a, ms, ms);
}

static int
apply(struct agent *a, struct creds *take, bool write, struct err *e)
{
    struct tls_conf *conf[2] = { NULL, NULL };
    int r = proxies_use(a, take, conf, e);

    if (r == 0 && write) {
        r = creds_write(a->conf.dir, a->conf.identity, take, e);
        if (r < 0)
            count_write_failure(a);
    }
    if (r == 0) {
        unsigned why = write ? changes(a->now, take) : 0; /* not written: those of the last run */

        use(a, take, conf);
        reload_start(a->reload, why);
    }
    tls_conf_unref(conf[0]);
    tls_conf_unref(conf[1]);
    return r;
}

void
agent_apply(struct agent *a, struct creds *take)
{
    struct err e = { 0 };

    if (a->is_stopping) {
        creds_free(take);
        return;
    }
    if (take != a->pending)
        creds_free(a->pending);
    a->pending = NULL;
    if (apply(a, take, true, &e) == 0)
        timer_stop(a->write_retry);
    else {
        a->pending = take;
        agent_note_error(a, "cannot use the new certificate or trust set yet; the old one stays",
                         &e);
        timer_set(a->write_retry, WRITE_RETRY_MS);
    }
    look_at_leaf(a);
}

static void
on_write_retry(void *arg)
{
    struct agent *a = arg;

    if (a->pending != NULL)
        agent_apply(a, a->pending);
}

/* -- making -------------------------------------------------------------------------------------
 */

/* The CA tells agents of one identity apart by it, and takes it that the generations of one only
 * grow. So it lives as long as the set that says which one we hold: without it, a new one. */
static int
instance_open(struct agent *a, bool is_new, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;
    CLEANUP(buf_done) struct buf b = BUF_INIT(256);
    uint8_t bytes[(INSTANCE_BYTES - 1) / 2];

    TRY(str_format(&path, e, "%s/instance", a->conf.dir));
    if (!is_new && TRY(file_read(path, &b, e)) == 0) {
        struct span s = span_trim(buf_span(&b));

        if (s.n != INSTANCE_BYTES - 1 || hex_parse(s, bytes, sizeof(bytes), e) < 0)
            return err_set(e, E_PARSE, "%s: not 32 hex digits; remove it to make a new one", path);
        hex_text(span_of(bytes, sizeof(bytes)), a->instance);
        return 0;
    }
    TRY(random_bytes(bytes, sizeof(bytes), e));
    hex_text(span_of(bytes, sizeof(bytes)), a->instance);
    TRY(buf_addf(&b, e, "%s\n", a->instance));
    return file_write(path, buf_span(&b), 0600, e);
}

/* A leaf that is still good is used again: no new CSR, the same word. */
static int
resume(struct agent *a, struct err *e)
{
    CLEANUP(creds_freep) struct creds *c = NULL;
    struct err why = { 0 };
    int r = creds_read(a->conf.dir, a->conf.identity, &c, &why);

    if (r < 0)
        log_info("agent", "what was kept is not used: %s", why.msg);
    TRY(instance_open(a, r != 0, e));
    if (r != 0)
        return 0;
    log_info("agent", "goes on with the certificate and trust set of generation %llu",
             (unsigned long long)c->generation);
    a->is_resumed = true;
    TRY(apply(a, c, false, e));
    (void)STEAL(c); /* it is in use */
    look_at_leaf(a);
    return 0;
}

/* What a person has typed is judged before anything is made. */
static int
texts_check(const struct agent_conf *c, struct err *e)
{
    struct addr cas[GRPC_TARGETS_MAX], listen, to;
    const char *rule;
    struct span td;
    size_t n;

    if (spiffe_uri_check(span_str(c->identity), &td, e) < 0)
        return err_wrap(e, "--identity \"%.120s\"", c->identity);
    if (plan_addrs_parse(c->ca_addr, cas, GRPC_TARGETS_MAX, &n, e) < 0)
        return err_wrap(e, "--ca-addr, the CA's address");
    if (c->inbound != NULL)
        TRY(plan_inbound_parse(c->inbound, &listen, &to, e));
    for (size_t i = 0; i < c->outbound_n; i++)
        TRY(plan_outbound_parse(c->outbound[i], &listen, &to, &rule, e));
    for (size_t i = 0; i < c->allow_n; i++)
        TRY(allow_rule_check(c->allow[i], e));
    return 0;
}

static int
check_conf(const struct agent_conf *c, struct err *e)
{
    if (c->dir == NULL || c->ca_addr == NULL || c->ca_root == NULL || c->identity == NULL)
        return err_set(e, E_INVAL,
                       "a folder, the CA's address and roots, and an identity are needed");
    if (c->inbound != NULL && c->allow_n == 0)
        return err_set(e, E_INVAL, "inbound without a rule of whom to let in (--allow)");
    if (texts_check(c, e) < 0) {
        e->code = E_INVAL;
        return err_result(e);
    }
    return 0;
}

/* What was pushed is in use: the word may be said. */
static void
on_workload_settled(void *arg)
{
    struct agent *a = arg;

    if (!a->is_stopping && a->now != NULL)
        trust_word_go_on(a);
}

static int
serve_workloads(struct agent *a, struct err *e)
{
    const struct sds_conf sc = { .identity = a->conf.identity,
                                 .grace_ms = a->conf.sds_grace_ms,
                                 .ack_ms = a->conf.sds_ack_ms,
                                 .may_have_clients = creds_exist(a->conf.dir) };
    const struct workload_conf wc = { .socket = a->conf.workload_socket,
                                      .uids = a->conf.workload_uids,
                                      .uids_n = a->conf.workload_uids_n,
                                      .sds = a->conf.sds ? &sc : NULL,
                                      .metrics = a->conf.metrics,
                                      .jwt = { agent_jwt_ask, a },
                                      .on_settled = on_workload_settled,
                                      .arg = a };

    return a->conf.workload_socket == NULL ? 0 : workload_new(a->loop, &wc, &a->workload, e);
}

static int
agent_open(struct agent *a, struct err *e)
{
    TRY(check_conf(&a->conf, e));
    TRY(plan_addrs_parse(a->conf.ca_addr, a->cas, GRPC_TARGETS_MAX, &a->cas_n, e));
    TRY(dir_make(a->conf.dir, 0755, e));
    TRY(dir_lock(a->conf.dir, &a->lock_fd, e));
    const struct grpc_client_conf cc = {
        .host = a->cas[0].host,
        .port = a->cas[0].port,
        .others = a->cas + 1,
        .others_n = a->cas_n - 1,
        .verify_name = a->conf.ca_name,
        .connect_ms = CONNECT_MS,
    };
    TRY(grpc_client_new(a->loop, &cc, &a->client, e));
    TRY(timer_new(a->loop, on_write_retry, a, &a->write_retry, e));
    TRY(timer_new(a->loop, on_rest, a, &a->rest, e));
    TRY(renew_init(a, e));
    TRY(trust_init(a, e));
    TRY(reload_new(a, &a->reload, e));
    TRY(proxies_open(a, e));
    TRY(serve_workloads(a, e));
    TRY(ca_file_new(a, &a->ca_file, e));
    TRY(resume(a, e));
    if (a->now == NULL)
        renew_within(a, 0);
    return 0;
}

int
agent_new(struct loop *l, const struct agent_conf *conf, struct agent **ret, struct err *e)
{
    struct agent *a = calloc(1, sizeof(*a));

    if (a == NULL)
        return err_nomem(e);
    a->conf = *conf;
    a->loop = l;
    a->lock_fd = -1;
    a->started_ms = mono_ms();
    if (a->conf.reload_timeout_ms == 0)
        a->conf.reload_timeout_ms = RELOAD_MS;
    if (agent_open(a, e) < 0) {
        agent_free(a);
        return err_wrap(e, "agent");
    }
    *ret = a;
    return 0;
}

uint16_t
agent_port(const struct agent *a, size_t i)
{
    return i < a->proxies_n ? a->proxies[i].port : 0;
}

/* -- ending -------------------------------------------------------------------------------------
 */

static void
stopped(void *arg)
{
    struct agent *a = arg;
    loop_fn *fn = a->stopped;

    a->stopped = NULL;
    if (fn != NULL)
        fn(a->stopped_arg);
}

static void
on_goodbye(int code, const char *msg, const struct grpc_request *q, void *arg)
{
    struct agent *a = arg;

    (void)q;
    if (code != GRPC_OK)
        log_warn("agent", "the CA did not take our goodbye: %s: %s", grpc_code_name(code), msg);
    if (a->stopped != NULL)
        loop_defer(a->loop, stopped, a);
}

void
agent_stop(struct agent *a, bool ended, loop_fn *done, void *arg)
{
    const struct grpc_answer answer = { .on_done = on_goodbye, .arg = a };
    struct err e = { 0 };

    a->is_stopping = true;
    a->stopped = done;
    a->stopped_arg = arg;
    timer_stop(a->write_retry);
    renew_done(a);
    trust_done(a);
    proxies_close(a); /* nothing of ours uses the key any more */
    agent_jwt_cancel(a);
    bool is_ours_alone = a->workload == NULL || (!workload_gave_key(a->workload) && !a->is_resumed);
    workload_free(STEAL(a->workload));
    if (ended)
        creds_wipe(a->conf.dir);
    if (ended && !is_ours_alone)
        log_info("agent", "the CA is not told that the key is not in use any more: workloads may "
                          "hold it, from the Workload API");
    bool is_wiped = ended && !creds_exist(a->conf.dir);
    if (ended && !is_wiped)
        log_warn("agent", "the CA is not told that we have ended: %s cannot be wiped", a->conf.dir);
    if (!is_wiped || !is_ours_alone || a->now == NULL || a->ca_is_plain) {
        loop_defer(a->loop, stopped, a);
        return;
    }
    if (timer_new(a->loop, stopped, a, &a->stop_timer, &e) < 0 ||
        trust_goodbye(a, &answer, &e) < 0) {
        log_warn("agent", "cannot say goodbye: %s", e.msg);
        loop_defer(a->loop, stopped, a);
        return;
    }
    timer_set(a->stop_timer, STOP_MS);
}

void
agent_free(struct agent *a)
{
    if (a == NULL)
        return;
    a->is_stopping = true;
    a->stopped = NULL;
    renew_done(a);
    trust_done(a);
    proxies_close(a);
    agent_jwt_cancel(a);
    workload_free(a->workload);
    ca_file_free(a->ca_file);
    grpc_client_free(a->client);
    reload_free(a->reload);
    timer_free(a->write_retry);
    timer_free(a->rest);
    timer_free(a->stop_timer);
    timer_free(a->renew_timer);
    timer_free(a->watch_timer);
    timer_free(a->ack_timer);
    creds_free(a->now);
    creds_free(a->pending);
    creds_free(a->answer);
    if (a->lock_fd >= 0)
        dir_unlock(a->lock_fd);
    loop_defer(a->loop, free, a); /* a deferred call may still name it */
}
