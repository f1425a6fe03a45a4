/* admin.c - the admin API on STATE/admin.sock (mode 0600: only the same user), and the monitoring
 * port.
 *
 *   GET  /v1/status                    mesh_status
 *   POST /v1/mesh/enable   SETTINGS    answers when the mesh runs, or why not
 *   POST /v1/mesh/disable
 *   POST /v1/rotate/force              takes the held step; answers with who is at risk
 *   and the CA's (ca.h)
 *   GET  /metrics /healthz /readyz     also on the monitoring port, which has nothing else
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/mesh_private.h"
#include "net/addr.h"
#include "obs/log.h"

static void
serve_status(void *self, struct http_exchange *x)
{
    struct mesh *m = self;

    admin_reply(x, 200, mesh_status(m));
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
        admin_reply(w->x, 200, json_pack("{s:b}", "ok", 1));
    else if (w->x != NULL)
        admin_reply_err(w->x, e);
    free(w);
}

static void
serve_enable(void *self, struct http_exchange *x)
{
    struct mesh *m = self;
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
        admin_reply_err(x, &e);
        return;
    }
    http_on_gone(x, on_waiting_gone, w);
}

static void
serve_disable(void *self, struct http_exchange *x)
{
    struct mesh *m = self;
    struct err e = { 0 };

    if (mesh_disable(m, &e) < 0)
        admin_reply_err(x, &e);
    else
        admin_reply(x, 200, json_pack("{s:b}", "ok", 1));
}

static void
serve_force(void *self, struct http_exchange *x)
{
    struct mesh *m = self;
    struct err e = { 0 };
    json_t *risk = NULL;

    if (mesh_force(m, &risk, &e) < 0)
        admin_reply_err(x, &e);
    else
        admin_reply(x, 200, risk);
}

static const struct admin_route routes[] = {
    { "GET", "/v1/status", serve_status },
    { "POST", "/v1/mesh/enable", serve_enable },
    { "POST", "/v1/mesh/disable", serve_disable },
    { "POST", "/v1/rotate/force", serve_force },
    { NULL, NULL, NULL },
};

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

static bool
page(struct http_exchange *x, void *self)
{
    const struct mesh *m = self;

    return ca_page(m->ca, x);
}

int
admin_open(struct mesh *m, struct err *e)
{
    struct monitor_conf pages = { .metrics = m->metrics,
                                  .is_ready = is_ready,
                                  .why_not_ready = why_not_ready,
                                  .refresh = refresh,
                                  .page = page,
                                  .self = m };

    TRY(monitor_new(m->loop, m->conf.monitoring_listen, &pages, &m->monitor, e));
    struct admin_conf admin = { .state_dir = m->state_dir,
                                .tables = { { routes, m }, { ca_admin_routes, &m->ca } },
                                .metrics = m->metrics,
                                .monitor = m->monitor };
    return admin_new(m->loop, &admin, &m->admin, e);
}
