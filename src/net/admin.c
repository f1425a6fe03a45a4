#include "net/admin.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "net/addr.h"

struct admin {
    struct admin_conf conf;
    struct http_server *server;
};

void
admin_reply(struct http_exchange *x, int status, json_t *take_j)
{
    char *text = take_j == NULL ? NULL : json_dumps(take_j, JSON_COMPACT);

    json_decref(take_j);
    if (text == NULL)
        http_reply(x, 500, "text/plain", span_str("out of memory\n"));
    else
        http_reply(x, status, "application/json", span_str(text));
    free(text);
}

void
admin_reply_err(struct http_exchange *x, const struct err *e)
{
    admin_reply(x, err_meaning(e->code)->http_status,
                json_pack("{s:{s:s, s:i, s:s}}", "error", "code", err_meaning(e->code)->name,
                          "number", (int)e->code, "message", e->msg));
}

static bool
table_serve(const struct admin_route *r, void *self, struct http_exchange *x, bool *path_known)
{
    for (; r->path != NULL; r++) {
        if (strcmp(r->path, http_path(x)) != 0)
            continue;
        *path_known = true;
        if (strcmp(r->method, http_method(x)) == 0) {
            r->serve(self, x);
            return true;
        }
    }
    return false;
}

static void
on_request(struct http_exchange *x, void *self)
{
    const struct admin *a = self;
    bool path_known = false;

    if (a->conf.monitor != NULL && monitor_serve(a->conf.monitor, x))
        return;
    for (size_t i = 0; i < ARRAY_LEN(a->conf.tables) && a->conf.tables[i].routes != NULL; i++)
        if (table_serve(a->conf.tables[i].routes, a->conf.tables[i].self, x, &path_known))
            return;
    http_reply(x, path_known ? 405 : 404, "text/plain",
               span_str(path_known ? "wrong method\n" : "no such page\n"));
}

int
admin_new(struct loop *l, const struct admin_conf *conf, struct admin **ret, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;
    struct http_server_conf h = { .listen_fd = -1, .on_request = on_request };
    struct admin *a = calloc(1, sizeof(*a));

    if (a == NULL)
        return err_nomem(e);
    a->conf = *conf;
    h.self = a;
    h.metrics = conf->metrics;
    h.name = "admin";
    int r = str_format(&path, e, "%s/admin.sock", conf->state_dir);
    if (r == 0)
        r = unix_listen(path, 0600, &h.listen_fd, e);
    if (r == 0)
        r = http_server_new(l, &h, &a->server, e);
    if (r < 0) {
        admin_free(a);
        return err_result(e);
    }
    *ret = a;
    return 0;
}

void
admin_free(struct admin *a)
{
    if (a == NULL)
        return;
    http_server_free(a->server);
    free(a);
}
