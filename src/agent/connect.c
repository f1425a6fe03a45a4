/* connect.c - how the agent reaches its CA: roots, own leaf, token; all looked at for each call. */
#include <libgen.h>
#include <stdlib.h>
#include <string.h>

#include "agent/room.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "net/filewatch.h"
#include "obs/log.h"

static int
ca_root_read(const struct agent *a, struct buf *b, struct err *e)
{
    int r = file_read(a->conf.ca_root, b, e);

    if (r == FILE_ABSENT)
        return err_set(e, E_NOTFOUND,
                       "the file with the CA's roots does not exist: %s; the CA's root-cert.pem "
                       "goes there",
                       a->conf.ca_root);
    return r < 0 ? err_wrap(e, "the CA's roots") : 0;
}

/* The CA proves itself under the file's roots, or under the trust set that it gave us. */
static int
ca_roots(const struct agent *a, struct span pem, struct roots **ret, struct err *e)
{
    CLEANUP(roots_unrefp) struct roots *file = NULL;

    if (creds_roots_from_pem(pem, &file, e) < 0)
        return err_wrap(e, "the CA's roots, %s", a->conf.ca_root);
    if (a->now == NULL) {
        *ret = STEAL(file);
        return 0;
    }
    return roots_union(file, a->now->roots, ret, e);
}

static bool
leaf_is_valid(const struct agent *a)
{
    return a->now != NULL && cert_not_after(a->now->leaf) > unix_s();
}

/* A CA that verifies clients by roots that it read at its start (istiod) breaks the handshake with
 * a newer leaf. Who has a token goes without every second time, and to such a CA always. Source:
 * specs/istio-ca.md 2.3. */
static bool
shows_leaf(const struct agent *a)
{
    if (!leaf_is_valid(a))
        return false;
    return a->conf.token_file == NULL ||
           (!a->ca_is_plain && (a->renew_failures + a->watch_failures) % 2 == 0);
}

/* What the settings are made from, as one digest: they are made anew only when it changes. */
static int
settings_id(const struct agent *a, struct span pem, uint8_t ret[DIGEST_BYTES], struct err *e)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(PEM_MAX_BYTES + 64 * 1024);

    TRY(buf_add(&b, pem, e));
    if (shows_leaf(a))
        TRY(buf_add(&b, span_of(cert_id(a->now->leaf), DIGEST_BYTES), e));
    if (a->now != NULL)
        for (size_t i = 0; i < roots_count(a->now->roots); i++)
            TRY(buf_add(&b, span_of(cert_id(roots_at(a->now->roots, i)), DIGEST_BYTES), e));
    digest(buf_span(&b), ret);
    return 0;
}

int
agent_connect(struct agent *a, struct err *e)
{
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(roots_unrefp) struct roots *roots = NULL;
    CLEANUP(tls_conf_unrefp) struct tls_conf *tls = NULL;
    uint8_t id[DIGEST_BYTES];

    TRY(ca_root_read(a, &pem, e));
    TRY(settings_id(a, buf_span(&pem), id, e));
    if (memcmp(id, a->ca_tls_id, DIGEST_BYTES) == 0)
        return 0;
    TRY(ca_roots(a, buf_span(&pem), &roots, e));
    struct tls_conf_args args = { .roots = roots, .rule = TLS_PEER_NAME, .alpn = "h2" };
    if (shows_leaf(a)) {
        args.key = a->now->key;
        args.leaf = a->now->leaf;
        args.chain = a->now->chain;
        args.chain_n = a->now->chain_n;
    }
    TRY(tls_conf_new(&args, &tls, e));
    grpc_client_set_tls(a->client, tls);
    memcpy(a->ca_tls_id, id, DIGEST_BYTES);
    return 0;
}

static int
token_read(const struct agent *a, struct buf *bearer, struct err *e)
{
    CLEANUP(buf_wipe) struct buf b = BUF_INIT(TOKEN_MAX_BYTES);

    if (TRY(file_read(a->conf.token_file, &b, e)) == FILE_ABSENT)
        return err_set(e, E_NOTFOUND, "%s does not exist", a->conf.token_file);
    struct span token = span_trim(buf_span(&b));
    if (token.n == 0)
        return err_set(e, E_AUTH, "%s is empty", a->conf.token_file);
    for (size_t i = 0; i < token.n; i++)
        if (token.p[i] <= ' ' || token.p[i] > '~')
            return err_set(e, E_PARSE, "%s is not one token", a->conf.token_file);
    TRY(buf_add_str(bearer, "Bearer ", e));
    return buf_add(bearer, token, e);
}

/* Without a usable token the leaf must do. */
int
agent_headers(const struct agent *a, unsigned failures, struct call_headers *ret, struct err *e)
{
    size_t n = 0;
    int r = 0;

    *ret = (struct call_headers){ .bearer = BUF_INIT(TOKEN_MAX_BYTES + 16) };
    ret->kv[n++] = (struct grpc_header_kv){ "meshroot-instance", a->instance };
    if (a->conf.cluster_id != NULL)
        ret->kv[n++] = (struct grpc_header_kv){ "clusterid", a->conf.cluster_id };
    if (a->conf.token_file != NULL)
        r = token_read(a, &ret->bearer, e);
    if (r == 0 && ret->bearer.n > 0)
        ret->kv[n++] = (struct grpc_header_kv){ "authorization", buf_text(&ret->bearer) };
    (void)snprintf(ret->attempts, sizeof(ret->attempts), "%u", failures);
    if (failures > 0) /* who was told to come back finds a place (gRPC proposal A6) */
        ret->kv[n++] = (struct grpc_header_kv){ "grpc-previous-rpc-attempts", ret->attempts };
    ret->kv[n] = (struct grpc_header_kv){ NULL, NULL };
    if (r == 0 && ret->bearer.n == 0 && !leaf_is_valid(a))
        r = err_set(e, E_AUTH, "no token file is given, and there is no valid certificate yet");
    if (r < 0 && !leaf_is_valid(a)) {
        agent_headers_done(ret);
        return err_wrap(e, "token");
    }
    return 0;
}

void
agent_headers_done(struct call_headers *h)
{
    buf_wipe(&h->bearer);
}

int
agent_call(struct agent *a, const char *path, unsigned failures, struct span msg,
           uint64_t timeout_ms, const struct grpc_answer *answer, struct grpc_request **ret,
           struct err *e)
{
    struct call_headers h;

    TRY(agent_connect(a, e));
    TRY(agent_headers(a, failures, &h, e));
    int r = grpc_client_call(a->client, path, h.kv, msg, timeout_ms, answer, ret, e);
    agent_headers_done(&h);
    return r;
}

/* -- the file with the CA's roots ---------------------------------------------------------------
 */

struct ca_file {
    struct agent *agent;
    char *dir, *base; /* of its path */
    const char *name; /* in `base` */
    struct filewatch *watch;
    uint8_t id[DIGEST_BYTES];
    bool was_read;
};

/* Whoever waits for the file goes on at once; who has no trust stream asks for a leaf, and the
 * trust set with it, within a minute. */
static void
on_ca_file(const struct buf *bufs, const bool *present, void *arg)
{
    struct ca_file *f = arg;
    struct agent *a = f->agent;
    uint8_t id[DIGEST_BYTES];
    bool was_read = f->was_read;

    if (!present[0])
        return;
    digest(buf_span(&bufs[0]), id);
    bool is_same = was_read && memcmp(id, f->id, DIGEST_BYTES) == 0;
    memcpy(f->id, id, DIGEST_BYTES);
    f->was_read = true;
    if (is_same || a->is_stopping)
        return;
    if (was_read)
        log_info("agent", "the CA's roots have changed: %s", a->conf.ca_root);
    a->roots_due = was_read && !a->is_watching;
    if (a->now == NULL)
        renew_within(a, 0);
    else if (a->roots_due)
        renew_within(a, CA_FILE_WINDOW_MS);
}

int
ca_file_new(struct agent *a, struct ca_file **ret, struct err *e)
{
    struct ca_file *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return err_nomem(e);
    f->agent = a;
    int r = str_dup(span_str(a->conf.ca_root), &f->dir, e);
    if (r == 0)
        r = str_dup(span_str(a->conf.ca_root), &f->base, e);
    if (r == 0) {
        f->name = basename(f->base);
        const struct filewatch_conf c = { .dir = dirname(f->dir),
                                          .names = &f->name,
                                          .n = 1,
                                          .max_file_bytes = PEM_MAX_BYTES,
                                          .interval_ms = CA_FILE_INTERVAL_MS,
                                          .use_events = true,
                                          .on_change = on_ca_file,
                                          .arg = f };
        r = filewatch_new(a->loop, &c, &f->watch, e);
    }
    if (r < 0)
        ca_file_free(f);
    else
        *ret = f;
    return r;
}

void
ca_file_free(struct ca_file *f)
{
    if (f == NULL)
        return;
    filewatch_free(f->watch);
    free(f->dir);
    free(f->base);
    free(f);
}
