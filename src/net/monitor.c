#include "net/monitor.h"

#include <stdlib.h>
#include <unistd.h>

#include "net/addr.h"
#include "obs/log.h"

struct monitor {
    struct monitor_conf conf;
    struct http_server *server; /* NULL: not listening */
    uint16_t port;
    char path[MONITOR_PATH_BYTES]; /* of a Unix socket */
};

static void
reply_metrics(struct monitor *m, struct http_exchange *x)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(MONITOR_METRICS_BYTES);
    struct err e = { 0 };

    if (m->conf.refresh != NULL)
        m->conf.refresh(m->conf.self);
    if (metrics_text(m->conf.metrics, &b, &e) < 0)
        http_reply(x, 500, "text/plain", span_str("the metrics do not fit\n"));
    else
        http_reply(x, 200, "text/plain; version=0.0.4", buf_span(&b));
}

static void
reply_health(struct monitor *m, struct http_exchange *x)
{
    (void)m;
    http_reply(x, 200, "text/plain", span_str("ok\n"));
}

static void
reply_ready(struct monitor *m, struct http_exchange *x)
{
    if (m->conf.is_ready(m->conf.self))
        http_reply(x, 200, "text/plain", span_str("ready\n"));
    else
        http_reply(x, 503, "text/plain",
                   span_str(m->conf.why_not_ready == NULL ? m->conf.not_ready
                                                          : m->conf.why_not_ready(m->conf.self)));
}

static void
reply_status(struct monitor *m, struct http_exchange *x)
{
    char *text = m->conf.status == NULL ? NULL : m->conf.status(m->conf.self);

    if (m->conf.status == NULL)
        http_reply(x, 404, "text/plain", span_str("/metrics, /healthz, /readyz\n"));
    else
        http_reply(x, text == NULL ? 500 : 200, "application/json", span_str(text));
    free(text);
}

static const struct page {
    const char *path;
    void (*reply)(struct monitor *m, struct http_exchange *x);
} pages[] = {
    { "/metrics", reply_metrics },
    { "/healthz", reply_health },
    { "/readyz", reply_ready },
    { "/status", reply_status },
};

bool
monitor_serve(struct monitor *m, struct http_exchange *x)
{
    for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
        if (strcmp(http_path(x), pages[i].path) != 0)
            continue;
        if (strcmp(http_method(x), "GET") != 0)
            http_reply(x, 405, "text/plain", span_str("GET only\n"));
        else
            pages[i].reply(m, x);
        return true;
    }
    return m->conf.page != NULL && m->conf.page(x, m->conf.self);
}

static void
on_request(struct http_exchange *x, void *self)
{
    if (!monitor_serve(self, x))
        http_reply(x, 404, "text/plain", span_str("/metrics, /healthz, /readyz, /status\n"));
}

static int
listen_open(struct monitor *m, struct loop *l, const char *listen, struct err *e)
{
    struct http_server_conf h = {
        .on_request = on_request, .self = m, .metrics = m->conf.metrics, .name = "monitoring"
    };
    struct addr a;

    if (listen == NULL || strcmp(listen, "off") == 0)
        return 0;
    if (listen[0] == '/') {
        TRY(unix_listen(listen, 0600, &h.listen_fd, e));
        (void)snprintf(m->path, sizeof(m->path), "%s", listen);
        return http_server_new(l, &h, &m->server, e);
    }
    TRY(addr_parse(listen, &a, e));
    TRY(addr_listen(&a, false, &h.listen_fd, &m->port, e));
    TRY(http_server_new(l, &h, &m->server, e));
    log_info("", "monitoring at http://%s:%u", a.host, m->port);
    return 0;
}

int
monitor_new(struct loop *l, const char *listen, const struct monitor_conf *conf,
            struct monitor **ret, struct err *e)
{
    struct monitor *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return err_nomem(e);
    m->conf = *conf;
    if (listen_open(m, l, listen, e) < 0) {
        monitor_free(m);
        return err_wrap(e, "monitoring");
    }
    *ret = m;
    return 0;
}

void
monitor_free(struct monitor *m)
{
    if (m == NULL)
        return;
    http_server_free(m->server);
    if (m->path[0] != '\0')
        (void)unlink(m->path);
    free(m);
}

uint16_t
monitor_port(const struct monitor *m)
{
    return m->port;
}
