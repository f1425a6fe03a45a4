#include "net/http.h"

struct fetch {
    struct loop *loop;
    int status;
    struct buf *body;
    struct err *e;
    int r;
};

static void
on_done(const struct http_answer *a, const struct err *why, void *arg)
{
    struct fetch *f = arg;

    if (why != NULL) {
        *f->e = *why;
        f->r = -(int)why->code;
    } else {
        f->status = a->status;
        f->r = buf_add(f->body, a->body, f->e);
    }
    loop_stop(f->loop);
}

static int
fetch_run(struct fetch *f, struct http_client *c, const struct http_request_conf *q, struct err *e)
{
    TRY(http_send(c, q, on_done, f, NULL, e));
    TRY(loop_run(f->loop, e));
    return f->r;
}

int
http_fetch(const struct http_request_conf *q, int *ret_status, struct buf *ret_body, struct err *e)
{
    CLEANUP(loop_freep) struct loop *l = NULL;
    struct http_client *c = NULL;

    TRY(loop_new(&l, e));
    TRY(http_client_new(l, &c, e));
    struct fetch f = { .loop = l, .body = ret_body, .e = e };
    int r = fetch_run(&f, c, q, e);
    http_client_free(c);
    if (r == 0)
        *ret_status = f.status;
    return r;
}
