/* grpc_client.c - the client's connections and time. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/grpc_client.h"

enum {
    CONNECT_MS = 5 * 1000,
    KEEPALIVE_MS = 30 * 1000,
    TICK_MAX_MS = 60 * 1000,
};

static void dial(struct grpc_client *c);

/* -- connections --------------------------------------------------------------------------------
 */

static void
conn_free(void *arg)
{
    free(arg);
}

/* Off the client; its calls have ended. */
static void
conn_drop(struct client_conn *c)
{
    struct grpc_client *client = c->client;
    struct client_conn **at = &client->old;

    if (client->conn == c)
        client->conn = NULL;
    while (*at != NULL && *at != c)
        at = &(*at)->next;
    if (*at == c)
        *at = c->next;
    h2_conn_free(c->io);
    loop_defer(client->loop, conn_free, c);
}

/* That server wants no more of us, or has gone: the next one is another, where there is one. One
 * that we ended for a reason of our own is the first choice. */
static void
leave(struct client_conn *c)
{
    struct grpc_client *client = c->client;

    client->kept.host[0] = '\0';
    if (c->is_ended_by_us) {
        client->kept = c->at;
        return;
    }
    client->left = c->at;
    client->target = (client->target + 1) % client->targets_n;
}

/* What happens at the end of a turn: calls that end, connections that are finished, calls that
 * wait for one. */
static void
sweep(void *arg)
{
    struct grpc_client *c = arg;

    c->sweep_is_due = false;
    if (c->is_freed)
        return;
    for (size_t n = c->ended.n; n > 0 && c->ended.head != NULL; n--)
        client_request_done(c->ended.head, c->ended.head->code, c->ended.head->text);
    if (c->conn != NULL && c->conn->is_closing) {
        leave(c->conn);
        c->conn->next = c->old;
        c->old = c->conn;
        c->conn = NULL;
    }
    for (struct client_conn *o = c->old, *next; o != NULL; o = next) {
        next = o->next;
        if (o->sent.n == 0)
            conn_drop(o);
    }
    if (c->waiting.n > 0 && c->conn == NULL && c->resolving == NULL)
        dial(c);
    client_send_waiting(c);
}

void
client_sweep_soon(struct grpc_client *c)
{
    if (c->sweep_is_due || c->is_freed)
        return;
    c->sweep_is_due = true;
    loop_defer(c->loop, sweep, c);
}

static void
on_open(void *self)
{
    struct client_conn *c = self;

    c->client->found_n = 0; /* look the name up again next time */
    client_send_waiting(c->client);
}

static void dial_next(struct grpc_client *c, const struct err *why);

static void
dial_failed(struct grpc_client *c, const struct err *why)
{
    char text[ERR_MSG_BYTES];

    const struct addr *to = &c->targets[c->target];

    (void)snprintf(text, sizeof(text), "connect to %.100s:%u: %.350s", to->host, to->port,
                   why->msg);
    c->found_n = 0;
    client_fail_waiting(c, text);
}

/* The streams may say a last word while the connection is closed: no longer to these calls. */
static void
detach_all(struct client_conn *c)
{
    for (struct grpc_request *q = c->sent.head; q != NULL; q = q->next) {
        if (q->st != NULL)
            h2_set_user(q->st, NULL);
        q->st = NULL;
    }
}

static void
on_closed(const struct err *why, void *self)
{
    struct client_conn *c = self;
    struct grpc_client *client = c->client;
    bool was_open = h2_conn_last_read_ms(c->io) != 0, is_current = client->conn == c;

    detach_all(c);
    while (c->sent.head != NULL) { /* the connection is dropped only after its last call */
        struct grpc_request *q = c->sent.head;
        bool is_known = q->code >= 0;

        client_request_done(q, is_known ? q->code : GRPC_UNAVAILABLE,
                            is_known ? q->text : why->msg);
    }
    if (is_current && was_open)
        leave(c);
    conn_drop(c);
    if (is_current && !was_open)
        dial_next(client, why);
    else
        client_sweep_soon(client);
}

const char *
client_server_name(const struct grpc_client *c)
{
    const char *host = c->targets[c->target].host;

    if (c->verify_name != NULL)
        return c->verify_name;
    return host[0] == '/' ? "localhost" /* as grpc-go says it */ : host;
}

/* Of the time that is left, what one address may take: one that swallows packets leaves some for
 * the others. */
static uint64_t
share_ms(const struct grpc_client *c, uint64_t now)
{
    uint64_t left = c->dial_by_ms > now ? c->dial_by_ms - now : 1;
    uint64_t others = c->found_n - c->found_at + c->targets_n - c->tried_n;

    return others > 1 && left > others ? left / others : left;
}

static int
dial_addr(struct grpc_client *c, const struct addr *a, struct err *e)
{
    int fd, one = 1;
    uint64_t now = mono_ms();
    struct client_conn *conn = calloc(1, sizeof(*conn));

    if (conn == NULL)
        return err_nomem(e);
    conn->client = c;
    conn->at = *a;
    bool is_unix = a->host[0] == '/';
    if ((is_unix ? unix_connect(a->host, &fd, e) : addr_connect(a, &fd, e)) < 0) {
        free(conn);
        return err_result(e);
    }
    if (!is_unix)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    const struct h2_conn_conf conf = { .fd = fd,
                                       .tls = c->tls,
                                       .verify_name = client_server_name(c),
                                       .open_ms = share_ms(c, now),
                                       .h2 = { .max_streams = 0,
                                               .max_header_bytes = GRPC_MAX_HEADER_BYTES,
                                               .ops = &client_call_ops,
                                               .self = conn,
                                               .pool = c->streams },
                                       .on_open = on_open,
                                       .on_closed = on_closed };
    if (h2_conn_new(c->loop, &conf, &conn->io, e) < 0) {
        free(conn);
        return err_result(e);
    }
    c->conn = conn;
    return 0;
}

static void dial_target(struct grpc_client *c);

/* The next address, the next target, or the end of it. */
static void
dial_next(struct grpc_client *c, const struct err *why)
{
    struct err e = *why;

    while (c->found_at < c->found_n && mono_ms() < c->dial_by_ms)
        if (dial_addr(c, &c->found[c->found_at++], &e) == 0)
            return;
    if (c->tried_n + 1 < c->targets_n && mono_ms() < c->dial_by_ms) {
        c->tried_n++;
        c->target = (c->target + 1) % c->targets_n;
        dial_target(c);
        return;
    }
    dial_failed(c, &e);
}

static bool
is_ipv6(const struct addr *a)
{
    return strchr(a->host, ':') != NULL;
}

static bool
is_same(const struct addr *a, const struct addr *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}

/* The resolver's order puts families first; addresses of one are replicas, taken by chance. The one
 * that was left goes last. */
static void
found_take(struct grpc_client *c, const struct addr *found, size_t n)
{
    size_t alike = 1, at = 0;

    while (alike < n && is_ipv6(&found[alike]) == is_ipv6(&found[0]))
        alike++;
    size_t from = n > 1 ? (size_t)random_below(alike) : 0;
    bool left_is_there = false, kept_is_there = false;
    for (size_t i = 0; i < n; i++) {
        const struct addr *a = &found[i < alike ? (i + from) % alike : i];
        bool is_kept = is_same(a, &c->kept), is_left = !is_kept && is_same(a, &c->left);

        kept_is_there = kept_is_there || is_kept;
        left_is_there = left_is_there || is_left;
        if (!is_left && !is_kept)
            c->found[at++] = *a;
    }
    if (kept_is_there) {
        memmove(&c->found[1], &c->found[0], at * sizeof(c->found[0]));
        c->found[0] = c->kept;
        at++;
    }
    if (left_is_there)
        c->found[at++] = c->left;
    c->found_n = at;
    c->found_at = 0;
}

static void
on_resolved(const struct addr *found, size_t n, const struct err *why, void *arg)
{
    struct grpc_client *c = arg;
    struct err e;

    c->resolving = NULL;
    (void)err_set(&e, E_TIMEOUT, "no connection in time");
    found_take(c, found, n);
    dial_next(c, n == 0 ? why : &e);
}

static void
dial_target(struct grpc_client *c)
{
    const struct addr *to = &c->targets[c->target];
    struct err e = { 0 };

    c->found_n = c->found_at = 0;
    if (to->host[0] == '/') {
        c->found[0] = *to;
        c->found_n = 1;
        (void)err_set(&e, E_TIMEOUT, "no connection in time");
        dial_next(c, &e);
    } else if (resolve_start(c->loop, to->host, to->port, on_resolved, c, &c->resolving, &e) < 0)
        dial_failed(c, &e);
}

static void
dial(struct grpc_client *c)
{
    uint64_t now = mono_ms();

    c->dial_by_ms = now + c->connect_ms;
    c->tried_n = 0;
    dial_target(c);
    if (c->resolving != NULL)
        client_tick_by(c, c->dial_by_ms, now);
}

/* -- time ---------------------------------------------------------------------------------------
 */

static uint64_t
expire_list(struct request_list *l, uint64_t now)
{
    uint64_t next = UINT64_MAX;

    for (struct grpc_request *q = l->head, *after; q != NULL; q = after) {
        after = q->next;
        if (q->deadline_ms != 0 && q->deadline_ms <= now)
            client_request_end(q, GRPC_DEADLINE_EXCEEDED, "the deadline has passed");
        else if (q->deadline_ms != 0 && q->deadline_ms < next)
            next = q->deadline_ms;
    }
    return next;
}

static uint64_t
check_conn(struct client_conn *c, uint64_t now)
{
    uint64_t next = expire_list(&c->sent, now);
    uint64_t check = now + h2_conn_check(c->io, now, c->sent.n == 0 ? 0 : c->client->keepalive_ms);

    return next < check ? next : check;
}

static void
on_tick(void *arg)
{
    struct grpc_client *c = arg;
    uint64_t now = mono_ms(), next = expire_list(&c->waiting, now), v;

    c->tick_at_ms = UINT64_MAX;
    if (c->resolving != NULL && now >= c->dial_by_ms) {
        struct err e;

        resolve_cancel(STEAL(c->resolving));
        (void)err_set(&e, E_TIMEOUT, "the name was not resolved within %llu ms",
                      (unsigned long long)c->connect_ms);
        dial_failed(c, &e);
    } else if (c->resolving != NULL && c->dial_by_ms < next)
        next = c->dial_by_ms;
    for (struct client_conn *o = c->old, *after; o != NULL; o = after) {
        after = o->next;
        v = check_conn(o, now);
        next = v < next ? v : next;
    }
    if (c->conn != NULL) {
        v = check_conn(c->conn, now);
        next = v < next ? v : next;
    }
    if (next != UINT64_MAX)
        client_tick_by(c, next < now + TICK_MAX_MS ? next : now + TICK_MAX_MS, now);
}

/* -- the public face ----------------------------------------------------------------------------
 */

static int
targets_take(struct grpc_client *c, const struct grpc_client_conf *conf, struct err *e)
{
    if (strlen(conf->host) >= HOST_BYTES || conf->others_n >= GRPC_TARGETS_MAX)
        return err_set(e, E_INVAL, "a host of %d bytes at most, and %d servers", HOST_BYTES - 1,
                       (int)GRPC_TARGETS_MAX);
    (void)snprintf(c->targets[0].host, HOST_BYTES, "%s", conf->host);
    c->targets[0].port = conf->port;
    for (c->targets_n = 1; c->targets_n <= conf->others_n; c->targets_n++)
        c->targets[c->targets_n] = conf->others[c->targets_n - 1];
    c->target = (size_t)random_below(c->targets_n);
    return 0;
}

int
grpc_client_new(struct loop *l, const struct grpc_client_conf *conf, struct grpc_client **ret,
                struct err *e)
{
    struct grpc_client *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return err_nomem(e);
    *c = (struct grpc_client){ .loop = l,
                               .tls = conf->tls == NULL ? NULL : tls_conf_ref(conf->tls),
                               .connect_ms = conf->connect_ms == 0 ? CONNECT_MS : conf->connect_ms,
                               .keepalive_ms =
                                   conf->keepalive_ms == 0 ? KEEPALIVE_MS : conf->keepalive_ms,
                               .tick_at_ms = UINT64_MAX };
    if (targets_take(c, conf, e) < 0 ||
        (conf->verify_name != NULL &&
         str_dup(span_str(conf->verify_name), &c->verify_name, e) < 0) ||
        h2_pool_new(&c->streams, e) < 0 || timer_new(l, on_tick, c, &c->tick, e) < 0) {
        grpc_client_free(c);
        return err_wrap(e, "grpc client");
    }
    *ret = c;
    return 0;
}

void
grpc_client_set_tls(struct grpc_client *c, struct tls_conf *tls)
{
    struct tls_conf *old = c->tls;

    c->tls = tls == NULL ? NULL : tls_conf_ref(tls);
    tls_conf_unref(old);
}

void
grpc_client_reconnect(struct grpc_client *c)
{
    if (c->conn == NULL)
        return;
    c->conn->is_closing = c->conn->is_ended_by_us = true;
    client_sweep_soon(c);
}

static void
client_destroy(void *arg)
{
    struct grpc_client *c = arg;

    h2_pool_free(c->streams);
    free(c->verify_name);
    free(c);
}

static void
conn_end(struct client_conn *c)
{
    detach_all(c);
    while (c->sent.head != NULL)
        client_request_done(c->sent.head, GRPC_CANCELLED, "the client was closed");
    conn_drop(c);
}

void
grpc_client_free(struct grpc_client *c)
{
    if (c == NULL)
        return;
    c->is_freed = true;
    while (c->old != NULL)
        conn_end(c->old);
    if (c->conn != NULL)
        conn_end(c->conn);
    while (c->waiting.head != NULL)
        client_request_done(c->waiting.head, GRPC_CANCELLED, "the client was closed");
    while (c->ended.head != NULL)
        client_request_done(c->ended.head, c->ended.head->code, c->ended.head->text);
    resolve_cancel(c->resolving);
    timer_free(c->tick);
    tls_conf_unref(c->tls);
    loop_defer(c->loop, client_destroy, c);
}
