/* workload.c - the Workload API's calls: who may make them, what streams are under way, what each
 * is sent. */
#include "agent/workload.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/sds.h"
#include "agent/workload_jwt.h"
#include "base/clock.h"
#include "base/secret.h"
#include "base/str.h"
#include "net/grpc.h"
#include "net/json.h"
#include "obs/log.h"
#include "workload.pb-c.h"

enum {
    REFUSAL_LOG_MS = 60 * 1000, /* the same uid is named once in this time */
    KEY_MAX_BYTES = 16 * 1024,
};

static const struct kind_desc {
    const char *name;
    int (*pack)(const struct creds *c, struct span pkcs8, struct buf *b, struct err *e);
    bool has_key, has_jwks;
} kinds[WORKLOAD_KINDS_N] = {
    [WORKLOAD_SVID] = { "FetchX509SVID", workload_svid_pack, true, false },
    [WORKLOAD_BUNDLES] = { "FetchX509Bundles", workload_bundles_pack, false, false },
    [WORKLOAD_JWT_BUNDLES] = { "FetchJWTBundles", workload_jwt_bundles_pack, false, true },
    [WORKLOAD_JWT_SVID] = { "FetchJWTSVID", NULL, false, false }, /* these two are no streams */
    [WORKLOAD_VALIDATE] = { "ValidateJWTSVID", NULL, false, false },
};

static const struct metric_desc m_calls = { "meshroot_agent_workload_requests_total",
                                            "Calls of the Workload API by method and first answer.",
                                            METRIC_COUNTER };
static const struct metric_desc m_pushes = { "meshroot_agent_workload_pushes_total",
                                             "Snapshots pushed to Workload API streams.",
                                             METRIC_COUNTER };
static const struct metric_desc m_streams = { "meshroot_agent_workload_streams",
                                              "Workload API streams under way.", METRIC_GAUGE };

struct stream { /* owned by the workload; gone with its call */
    struct stream *next, *prev;
    struct workload *w;
    struct grpc_call *call;
    enum workload_kind kind;
};

struct workload {
    struct workload_conf conf; /* socket and uids are not kept there */
    struct loop *loop;
    uint32_t uids[WORKLOAD_UIDS_MAX];
    char path[WORKLOAD_PATH_BYTES];
    bool is_listening;
    struct grpc_server *server;
    struct sds *sds; /* NULL: Envoy is not served */
    struct workload_jwt *jwt;
    struct timer *settle;
    const struct creds *creds; /* borrowed; NULL before the first leaf */
    struct secret *pkcs8;      /* of its key, once it was asked for */
    struct stream *streams;
    size_t streams_n;
    uint64_t pushes, refused;
    bool is_settling, gave_key;
    uint32_t refused_uid; /* named in the log last, at refused_ms */
    uint64_t refused_ms;
};

/* -- streams ------------------------------------------------------------------------------------
 */

static void
stream_gone(void *arg)
{
    struct stream *s = arg;

    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        s->w->streams = s->next;
    if (s->next != NULL)
        s->next->prev = s->prev;
    s->w->streams_n--;
    free(s);
}

static void
stream_end(struct stream *s, int code, const char *why)
{
    grpc_finish(s->call, code, why); /* no on_gone after it */
    stream_gone(s);
}

static struct stream *
stream_add(struct workload *w, struct grpc_call *c, enum workload_kind kind)
{
    struct stream *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return NULL;
    *s = (struct stream){ .next = w->streams, .w = w, .call = c, .kind = kind };
    if (s->next != NULL)
        s->next->prev = s;
    w->streams = s;
    w->streams_n++;
    grpc_on_gone(c, stream_gone, s);
    return s;
}

/* -- calls --------------------------------------------------------------------------------------
 */

static void
count(struct workload *w, enum workload_kind kind, int code)
{
    char labels[METRIC_LABELS_BYTES];

    (void)snprintf(labels, sizeof(labels), "method=\"%s\",code=\"%s\"", kinds[kind].name,
                   grpc_code_name(code));
    metric_add(w->conf.metrics, &m_calls, labels, 1);
}

void
workload_end(struct workload *w, struct grpc_call *c, enum workload_kind kind, int code,
             const char *why)
{
    count(w, kind, code);
    grpc_finish(c, code, why);
}

static void
log_refusal(struct workload *w, const struct unix_peer *p)
{
    uint64_t now = mono_ms();
    char uid[16], pid[24];

    w->refused++;
    if (w->refused > 1 && w->refused_uid == p->uid && now - w->refused_ms < REFUSAL_LOG_MS)
        return;
    w->refused_uid = p->uid;
    w->refused_ms = now;
    (void)snprintf(uid, sizeof(uid), "%u", (unsigned)p->uid);
    (void)snprintf(pid, sizeof(pid), "%lld", (long long)p->pid);
    log_with(LOG_WARN, "workload", LABELS({ "uid", uid }, { "pid", pid }),
             "a process may not use the Workload API: no --workload-allow-uid for it");
}

static bool
uid_is_allowed(const struct workload *w, uint32_t uid)
{
    for (size_t i = 0; i < w->conf.uids_n; i++)
        if (w->uids[i] == uid)
            return true;
    return false;
}

/* r: NULL when the uid may use the agent, or why not. */
static const char *
why_not(struct workload *w, struct grpc_call *c, struct unix_peer *ret, char text[ERR_MSG_BYTES])
{
    struct err e;

    if (grpc_peer_unix(c, ret, &e) < 0) {
        (void)snprintf(text, ERR_MSG_BYTES, "%s", e.msg);
        return text;
    }
    if (uid_is_allowed(w, ret->uid))
        return NULL;
    log_refusal(w, ret);
    (void)snprintf(text, ERR_MSG_BYTES, "no identity issued: uid %u may not use this agent",
                   (unsigned)ret->uid);
    return text;
}

bool
workload_admits(struct workload *w, struct grpc_call *c, struct unix_peer *ret)
{
    char text[ERR_MSG_BYTES];
    const char *why = why_not(w, c, ret, text);

    if (why != NULL)
        grpc_finish(c, GRPC_PERMISSION_DENIED, why);
    return why == NULL;
}

/* The header is what keeps a browser or a proxy that was talked into a request from getting a key.
 * Source: SPIFFE Workload Endpoint 3, 6. */
static bool
is_admitted(struct workload *w, struct grpc_call *c, enum workload_kind kind)
{
    struct unix_peer peer;
    char text[ERR_MSG_BYTES];

    if (grpc_header_count(c, "workload.spiffe.io") != 1 ||
        !span_eq_str(grpc_header(c, "workload.spiffe.io"), "true")) {
        workload_end(
            w, c, kind, GRPC_INVALID_ARGUMENT,
            "security header missing from request: metadata workload.spiffe.io must be true");
        return false;
    }
    const char *why = why_not(w, c, &peer, text);
    if (why != NULL)
        workload_end(w, c, kind, GRPC_PERMISSION_DENIED, why);
    return why == NULL;
}

/* The roots are as good after the leaf has expired; the leaf is not. */
static bool
has_answer(const struct workload *w, enum workload_kind kind)
{
    return w->creds != NULL &&
           (!kinds[kind].has_key || cert_not_after(w->creds->leaf) > unix_s()) &&
           (!kinds[kind].has_jwks || workload_jwt_keys(w->jwt).n > 0);
}

/* The key is encoded once: OpenSSL leaves copies behind in memory that it has freed. */
static int
encode_key(struct workload *w, struct err *e)
{
    CLEANUP(buf_wipe) struct buf der = BUF_INIT(KEY_MAX_BYTES);

    if (w->pkcs8 != NULL)
        return 0;
    TRY(key_to_pkcs8(w->creds->key, &der, e));
    return secret_new(buf_span(&der), &w->pkcs8, e);
}

int
workload_key(struct workload *w, struct span *ret_pkcs8, struct err *e)
{
    TRY(encode_key(w, e));
    w->gave_key = true;
    *ret_pkcs8 = secret_span(w->pkcs8);
    return 0;
}

static int
pack(struct workload *w, enum workload_kind kind, struct buf *msg, struct err *e)
{
    if (!kinds[kind].has_key)
        return kinds[kind].pack(w->creds, workload_jwt_keys(w->jwt), msg, e);
    TRY(encode_key(w, e));
    return kinds[kind].pack(w->creds, secret_span(w->pkcs8), msg, e);
}

/* The first answer; the stream stays for those to come. */
static int
answer(struct workload *w, struct grpc_call *c, enum workload_kind kind, struct err *e)
{
    CLEANUP(buf_wipe) struct buf msg = BUF_INIT(WORKLOAD_MESSAGE_MAX_BYTES);

    TRY(pack(w, kind, &msg, e));
    TRY(grpc_send(c, buf_span(&msg), e));
    if (stream_add(w, c, kind) == NULL)
        return err_nomem(e);
    w->gave_key = w->gave_key || kinds[kind].has_key;
    return 0;
}

static void
fetch(struct grpc_call *c, bool is_parsed, struct workload *w, enum workload_kind kind)
{
    struct err e = { 0 };

    if (!is_admitted(w, c, kind))
        return;
    if (!is_parsed)
        workload_end(w, c, kind, GRPC_INVALID_ARGUMENT,
                     "the request is not what this method takes");
    else if (!has_answer(w, kind))
        workload_end(w, c, kind, GRPC_UNAVAILABLE,
                     kinds[kind].has_jwks && w->creds != NULL
                         ? "the CA has told no keys of JWT-SVIDs yet; try again"
                         : "no valid certificate is in use yet; try again");
    else if (w->streams_n >= WORKLOAD_STREAMS_MAX)
        workload_end(w, c, kind, GRPC_RESOURCE_EXHAUSTED, "too many streams are under way");
    else if (answer(w, c, kind, &e) < 0)
        workload_end(w, c, kind, err_meaning(e.code)->grpc_code, e.msg);
    else
        count(w, kind, GRPC_OK);
}

static void
fetch_svid(struct grpc_call *c, struct span msg, void *self)
{
    Spiffe__Workload__SvidRequest *m = spiffe__workload__svid_request__unpack(NULL, msg.n, msg.p);

    fetch(c, m != NULL, self, WORKLOAD_SVID);
    spiffe__workload__svid_request__free_unpacked(m, NULL);
}

static void
fetch_bundles(struct grpc_call *c, struct span msg, void *self)
{
    Spiffe__Workload__BundlesRequest *m =
        spiffe__workload__bundles_request__unpack(NULL, msg.n, msg.p);

    fetch(c, m != NULL, self, WORKLOAD_BUNDLES);
    spiffe__workload__bundles_request__free_unpacked(m, NULL);
}

static void
fetch_jwt_bundles(struct grpc_call *c, struct span msg, void *self)
{
    Spiffe__Workload__BundlesRequest *m =
        spiffe__workload__bundles_request__unpack(NULL, msg.n, msg.p);

    fetch(c, m != NULL, self, WORKLOAD_JWT_BUNDLES);
    spiffe__workload__bundles_request__free_unpacked(m, NULL);
}

static void
fetch_jwt(struct grpc_call *c, struct span msg, void *self)
{
    struct workload *w = self;

    if (is_admitted(w, c, WORKLOAD_JWT_SVID))
        workload_jwt_fetch(w->jwt, c, msg);
}

static void
validate_jwt(struct grpc_call *c, struct span msg, void *self)
{
    struct workload *w = self;

    if (is_admitted(w, c, WORKLOAD_VALIDATE))
        workload_jwt_validate(w->jwt, c, msg);
}

static const struct grpc_method methods[] = {
    { .path = "/SpiffeWorkloadAPI/FetchX509SVID", .streams = true, .on_request = fetch_svid },
    { .path = "/SpiffeWorkloadAPI/FetchX509Bundles", .streams = true, .on_request = fetch_bundles },
    { .path = "/SpiffeWorkloadAPI/FetchJWTBundles",
      .streams = true,
      .on_request = fetch_jwt_bundles },
    { .path = "/SpiffeWorkloadAPI/FetchJWTSVID", .on_request = fetch_jwt },
    { .path = "/SpiffeWorkloadAPI/ValidateJWTSVID", .on_request = validate_jwt },
#define SDS(method) "/envoy.service.secret.v3.SecretDiscoveryService/" method
    { .path = SDS("StreamSecrets"),
      .streams = true,
      .on_message = sds_stream_request,
      .on_half_close = sds_half_close },
    { .path = SDS("DeltaSecrets"),
      .streams = true,
      .on_message = sds_delta_request,
      .on_half_close = sds_half_close },
    { .path = SDS("FetchSecrets"), .on_request = sds_fetch },
};
enum { SDS_METHODS_N = 3 }; /* the last ones */

/* -- pushes -------------------------------------------------------------------------------------
 */

static void
push(struct workload *w, enum workload_kind kind)
{
    CLEANUP(buf_wipe) struct buf msg = BUF_INIT(WORKLOAD_MESSAGE_MAX_BYTES);
    struct err e = { 0 };
    int r = pack(w, kind, &msg, &e);

    if (r < 0)
        log_warn("workload", "%s: what has changed cannot be said: %s", kinds[kind].name, e.msg);
    for (struct stream *s = w->streams, *next; s != NULL; s = next) {
        next = s->next;
        if (s->kind != kind)
            continue;
        if (r < 0) {
            stream_end(s, GRPC_UNAVAILABLE, e.msg); /* it asks again */
            continue;
        }
        struct err why;
        if (grpc_send(s->call, buf_span(&msg), &why) < 0) {
            stream_end(s, GRPC_RESOURCE_EXHAUSTED, why.msg);
            continue;
        }
        w->pushes++;
        metric_add(w->conf.metrics, &m_pushes, "", 1);
        w->is_settling = true;
    }
    if (w->is_settling)
        timer_set(w->settle, WORKLOAD_SETTLE_MS);
}

void
workload_use(struct workload *w, const struct creds *c)
{
    const struct creds *before = w->creds;

    w->creds = c;
    if (before == NULL || before->key != c->key)
        secret_free(STEAL(w->pkcs8));
    if (w->sds != NULL)
        sds_use(w->sds, c);
    if (before == NULL)
        return; /* no stream was let in */
    bool is_new_set = !creds_trust_equal(before, c);
    bool is_new_leaf = !span_eq(cert_der(before->leaf), cert_der(c->leaf));
    if (is_new_set || is_new_leaf)
        push(w, WORKLOAD_SVID);
    if (is_new_set)
        push(w, WORKLOAD_BUNDLES);
}

void
workload_use_jwt(struct workload *w, struct span jwks)
{
    struct err e;
    int r = workload_jwt_use(w->jwt, jwks, &e);

    if (r < 0)
        log_warn("workload", "the keys of JWT-SVIDs stay as they are: %s", e.msg);
    else if (r == 0)
        push(w, WORKLOAD_JWT_BUNDLES);
}

const struct creds *
workload_creds(const struct workload *w)
{
    return w->creds;
}

static void
look(void *arg)
{
    struct workload *w = arg;

    if (workload_is_settled(w) && w->conf.on_settled != NULL)
        w->conf.on_settled(w->conf.arg);
}

static void
on_settle(void *arg)
{
    struct workload *w = arg;

    w->is_settling = false;
    look(w);
}

bool
workload_is_settled(const struct workload *w)
{
    return w == NULL || (!w->is_settling && sds_is_settled(w->sds));
}

void
workload_why_unsettled(const struct workload *w, char *text, size_t cap)
{
    text[0] = '\0';
    if (w == NULL)
        return;
    if (!sds_is_settled(w->sds))
        sds_why_unsettled(w->sds, text, cap);
    else if (w->is_settling)
        (void)snprintf(text, cap, "Workload API clients were sent it a moment ago");
}

struct sds *
workload_sds(const struct workload *w)
{
    return w->sds;
}

bool
workload_gave_key(const struct workload *w)
{
    return w != NULL && w->gave_key;
}

/* -- making and looking -------------------------------------------------------------------------
 */

static int
set_uids(struct workload *w, const struct workload_conf *conf, struct err *e)
{
    uint32_t own = (uint32_t)geteuid();

    if (conf->uids_n > WORKLOAD_UIDS_MAX)
        return err_set(e, E_LIMIT, "more than %d --workload-allow-uid", (int)WORKLOAD_UIDS_MAX);
    for (size_t i = 0; i < conf->uids_n; i++)
        w->uids[i] = conf->uids[i];
    w->conf.uids_n = conf->uids_n;
    if (conf->uids_n > 0)
        return 0;
    w->uids[0] = 0;
    w->uids[1] = own;
    w->conf.uids_n = own == 0 ? 1 : 2;
    return 0;
}

static bool
is_private(const struct workload *w)
{
    for (size_t i = 0; i < w->conf.uids_n; i++)
        if (w->uids[i] != 0 && w->uids[i] != (uint32_t)geteuid())
            return false;
    return true;
}

static int
sds_open(struct workload *w, const struct sds_conf *conf, struct err *e)
{
    struct sds_conf c = *conf;

    c.workload = w;
    c.metrics = w->conf.metrics;
    c.on_settled = look;
    c.arg = w;
    return sds_new(w->loop, &c, &w->sds, e);
}

static int
workload_open(struct workload *w, const struct workload_conf *conf, struct err *e)
{
    struct grpc_server_conf gc = { .methods = methods,
                                   .methods_n = ARRAY_LEN(methods),
                                   .self = w,
                                   .max_connections = WORKLOAD_CONNECTIONS_MAX,
                                   .max_per_uid = WORKLOAD_PER_UID_MAX,
                                   .sends_secrets = true,
                                   .metrics = conf->metrics,
                                   .name = "workload" };

    if (conf->sds == NULL)
        gc.methods_n -= SDS_METHODS_N;
    else {
        gc.max_message_bytes = SDS_REQUEST_MAX_BYTES;
        TRY(sds_open(w, conf->sds, e));
    }
    TRY(workload_jwt_new(w, &w->conf.jwt, &w->jwt, e));
    TRY(set_uids(w, conf, e));
    TRY(workload_path(conf->socket, w->path, e));
    TRY(timer_new(w->loop, on_settle, w, &w->settle, e));
    TRY(workload_listen(w->path, is_private(w), &gc.listen_fd, e));
    w->is_listening = true;
    TRY(grpc_server_new(w->loop, &gc, &w->server, e));
    log_info("workload", "Workload API: SPIFFE_ENDPOINT_SOCKET=unix://%s", w->path);
    if (w->sds != NULL)
        log_info("sds", "SDS for Envoy on the same socket");
    return 0;
}

int
workload_new(struct loop *l, const struct workload_conf *conf, struct workload **ret, struct err *e)
{
    struct workload *w = calloc(1, sizeof(*w));

    if (w == NULL)
        return err_nomem(e);
    w->conf = *conf;
    w->conf.socket = NULL;
    w->conf.uids = NULL;
    w->conf.sds = NULL;
    w->loop = l;
    if (workload_open(w, conf, e) < 0) {
        workload_free(w);
        return err_wrap(e, "Workload API");
    }
    *ret = w;
    return 0;
}

static json_t *
uids_json(const struct workload *w)
{
    json_t *all = json_array();

    for (size_t i = 0; i < w->conf.uids_n; i++)
        all = json_array_with(all, json_integer(w->uids[i]));
    return all;
}

json_t *
workload_status(const struct workload *w)
{
    char endpoint[WORKLOAD_PATH_BYTES + 8];

    if (w == NULL)
        return json_null();
    (void)snprintf(endpoint, sizeof(endpoint), "unix://%s", w->path);
    return json_pack("{s:s, s:o, s:I, s:I, s:I, s:o}", "endpoint", endpoint, "uids", uids_json(w),
                     "streams", (json_int_t)w->streams_n, "pushes", (json_int_t)w->pushes,
                     "refused", (json_int_t)w->refused, "sds", sds_status(w->sds));
}

void
workload_metrics_refresh(struct workload *w)
{
    if (w == NULL)
        return;
    metric_set(w->conf.metrics, &m_streams, "", (double)w->streams_n);
    sds_metrics_refresh(w->sds);
}

void
workload_free(struct workload *w)
{
    if (w == NULL)
        return;
    sds_free(w->sds);
    grpc_server_free(w->server); /* stream_gone comes for each stream */
    if (w->is_listening)
        (void)unlink(w->path);
    workload_jwt_free(w->jwt);
    timer_free(w->settle);
    secret_free(w->pkcs8);
    loop_defer(w->loop, free, w);
}
