/* admin.c - the admin API on STATE/admin.sock (mode 0600: only the same user), and the monitoring
 * port.
 *
 *   GET  /v1/status                    mesh_status
 *   POST /v1/mesh/enable   SETTINGS    answers when the mesh runs, or why not
 *   POST /v1/mesh/disable
 *   POST /v1/rotate/force              takes the held step; answers with who is at risk
 *   GET  /metrics /healthz /readyz     also on the monitoring port, which has nothing else
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/mesh_private.h"
#include "net/addr.h"
#include "obs/log.h"

struct route {
    const char *method, *path;
    void (*serve)(struct mesh *m, struct http_exchange *x);
};

static void
reply_json(struct http_exchange *x, int status, json_t *take_j)
{
    char *text = take_j == NULL ? NULL : json_dumps(take_j, JSON_COMPACT);

    json_decref(take_j);
    if (text == NULL)
        http_reply(x, 500, "text/plain", span_str("out of memory\n"));
    else
        http_reply(x, status, "application/json", span_str(text));
    free(text);
}

static void
reply_err(struct http_exchange *x, const struct err *e)
{
    reply_json(x, err_meaning(e->code)->http_status,
               json_pack("{s:{s:s, s:i, s:s}}", "error", "code", err_meaning(e->code)->name,
                         "number", (int)e->code, "message", e->msg));
}

static void
serve_status(struct mesh *m, struct http_exchange *x)
{
    reply_json(x, 200, mesh_status(m));
}

/* The exchange of an enable under way; the client may go away before it is answered. */
struct waiting {
    struct http_exchange *x;
};

static void
on_waiting_gone(void *arg)
{
    struct waiting *w = arg;

    w->x = NULL;
}

static void
on_enabled(const struct err *e, void *arg)
{
    struct waiting *w = arg;

    if (w->x != NULL && e->code == E_NONE)
        reply_json(w->x, 200, json_pack("{s:b}", "ok", 1));
    else if (w->x != NULL)
        reply_err(w->x, e);
    free(w);
}

static void
serve_enable(struct mesh *m, struct http_exchange *x)
{
    struct span body = http_body(x);
    struct mesh_settings s;
    struct err e = { 0 };
    struct waiting *w = calloc(1, sizeof(*w));
    json_t *j = json_loadb((const char *)body.p, body.n, JSON_REJECT_DUPLICATES, NULL);
    int r = w == NULL ? err_nomem(&e) : settings_from_json(j, &s, &e);

    json_decref(j);
    if (r == 0) {
        w->x = x;
        r = mesh_enable(m, &s, on_enabled, w, &e);
    }
    if (r < 0) {
        free(w);
        reply_err(x, &e);
        return;
    }
    http_on_gone(x, on_waiting_gone, w);
}

static void
serve_disable(struct mesh *m, struct http_exchange *x)
{
    struct err e = { 0 };

    if (mesh_disable(m, &e) < 0)
        reply_err(x, &e);
    else
        reply_json(x, 200, json_pack("{s:b}", "ok", 1));
}

static void
serve_force(struct mesh *m, struct http_exchange *x)
{
    struct err e = { 0 };
    json_t *risk = NULL;

    if (mesh_force(m, &risk, &e) < 0)
        reply_err(x, &e);
    else
        reply_json(x, 200, risk);
}

static const struct route routes[] = {
    { "GET", "/v1/status", serve_status },
    { "POST", "/v1/mesh/enable", serve_enable },
    { "POST", "/v1/mesh/disable", serve_disable },
    { "POST", "/v1/rotate/force", serve_force },
};

static void
on_admin(struct http_exchange *x, void *self)
{
    struct mesh *m = self;
    bool path_known = false;

    if (monitor_serve(m->monitor, x))
        return;
    for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
        if (strcmp(routes[i].path, http_path(x)) != 0)
            continue;
        path_known = true;
        if (strcmp(routes[i].method, http_method(x)) == 0) {
            routes[i].serve(m, x);
            return;
        }
    }
    http_reply(x, path_known ? 405 : 404, "text/plain",
               span_str(path_known ? "wrong method\n" : "no such page\n"));
}

static bool
is_ready(void *self)
{
    return mesh_is_ready(self);
}

static const char *
why_not_ready(void *self)
{
    struct mesh *m = self;

    return m->ca == NULL ? "no bundle is loaded; see meshroot mesh status\n"
                         : ca_why_not_ready(m->ca);
}

static void
refresh(void *self)
{
    struct mesh *m = self;

    if (m->ca != NULL)
        ca_metrics_refresh(m->ca);
}

int
admin_open(struct mesh *m, struct err *e)
{
    struct http_server_conf admin = {
        .listen_fd = -1, .on_request = on_admin, .self = m, .metrics = m->metrics, .name = "admin"
    };
    struct monitor_conf pages = { .metrics = m->metrics,
                                  .is_ready = is_ready,
                                  .why_not_ready = why_not_ready,
                                  .refresh = refresh,
                                  .self = m };
    char path[PATH_BYTES + 16];

    TRY(monitor_new(m->loop, m->conf.monitoring_listen, &pages, &m->monitor, e));
    (void)snprintf(path, sizeof(path), "%s/admin.sock", m->state_dir);
    TRY(unix_listen(path, 0600, &admin.listen_fd, e));
    return http_server_new(m->loop, &admin, &m->admin, e);
}
