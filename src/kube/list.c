/* list.c - one object; all objects of a kind, page by page, one page in memory at a time. */
#include <ctype.h>
#include <stdlib.h>

#include "base/str.h"
#include "kube/feed.h"

enum { PAGE_DEADLINE_MS = 30 * 1000 };

struct kube_list {
    struct kube_client *client;
    struct kube_list_conf conf;
    char *path; /* owned */
    struct kube_call *call;
    struct buf next;  /* the continue token; empty: the first page */
    size_t limit;     /* objects on a page */
    size_t objects_n; /* since it began */
    size_t restarts;
    char version[KUBE_VERSION_BYTES];
};

static void
list_free(struct kube_list *l)
{
    if (l == NULL)
        return;
    buf_done(&l->next);
    free(l->path);
    free(l);
}
DEFINE_CLEANUP(struct kube_list, list_free)

static void
list_end(struct kube_list *l, const struct err *why)
{
    l->conf.done(why == NULL ? l->version : NULL, why, l->conf.arg);
    list_free(l);
}

/* RFC 3986 2.3: everything but the unreserved as %XX. */
static int
query_add(struct buf *b, const char *text, struct err *e)
{
    for (const char *p = text; *p != '\0'; p++)
        if (isalnum((unsigned char)*p) || strchr("-._~", *p) != NULL)
            TRY(buf_add_byte(b, (uint8_t)*p, e));
        else
            TRY(buf_addf(b, e, "%%%02X", (unsigned char)*p));
    return 0;
}

static void on_page(const json_t *body, const struct err *why, void *arg);

static int
page_ask(struct kube_list *l, struct err *e)
{
    CLEANUP(buf_done) struct buf path = BUF_INIT(KUBE_CONTINUE_MAX_BYTES * 4);

    TRY(buf_addf(&path, e, "%s%climit=%zu", l->path, strchr(l->path, '?') == NULL ? '?' : '&',
                 l->limit));
    if (l->next.n > 0) {
        TRY(buf_add_str(&path, "&continue=", e));
        TRY(query_add(&path, buf_text(&l->next), e));
    } else {
        l->objects_n = 0;
        l->conf.begin(l->conf.arg);
    }
    struct kube_request q = { .method = "GET",
                              .path = buf_text(&path),
                              .deadline_ms = l->conf.deadline_ms == 0 ? PAGE_DEADLINE_MS
                                                                      : l->conf.deadline_ms };
    return kube_send(l->client, &q, on_page, l, &l->call, e);
}

static int
page_read(struct kube_list *l, const json_t *body, struct err *e)
{
    const json_t *items = json_object_get(body, "items"), *item;
    const json_t *next = json_object_get(json_object_get(body, "metadata"), "continue");
    size_t max = l->conf.max_objects == 0 ? KUBE_LIST_MAX_OBJECTS : l->conf.max_objects, i;

    /* null is what Go makes of a list that has nothing in it */
    if (!json_is_array(items) && !json_is_null(items))
        return err_set(e, E_PEER, "the answer to a list has no items");
    if (kube_version_read(body, l->version, e) < 0) {
        e->code = E_PEER;
        return err_wrap(e, "list");
    }
    l->objects_n += json_array_size(items);
    if (l->objects_n > max)
        return err_set(e, E_LIMIT, "more than %zu objects", max);
    json_array_foreach(items, i, item)
        TRY(l->conf.item(item, l->conf.arg, e));
    buf_done(&l->next);
    l->next = BUF_INIT(KUBE_CONTINUE_MAX_BYTES);
    if (json_string_length(next) > 0 && json_array_size(items) == 0)
        return err_set(e, E_PEER, "a page of a list has nothing and says that there is more");
    return json_string_length(next) == 0 ? 0 : buf_add_str(&l->next, json_string_value(next), e);
}

/* A page too large is asked for again in halves; a token too old means the first page again. r:
 * true when there is another way. */
static bool
try_otherwise(struct kube_list *l, const struct err *why)
{
    if (why->code == E_LIMIT && l->limit > 1) {
        l->limit /= 2;
        return true;
    }
    if (why->code == E_STATE && l->next.n > 0 && l->restarts < KUBE_LIST_RESTARTS) {
        l->restarts++;
        buf_done(&l->next);
        l->next = BUF_INIT(KUBE_CONTINUE_MAX_BYTES);
        return true;
    }
    return false;
}

static void
on_page(const json_t *body, const struct err *why, void *arg)
{
    struct kube_list *l = arg;
    struct err e = { .code = E_NONE };

    l->call = NULL;
    if (body == NULL) {
        if (!try_otherwise(l, why))
            list_end(l, why);
        else if (page_ask(l, &e) < 0)
            list_end(l, &e);
        return;
    }
    if (page_read(l, body, &e) < 0 || (l->next.n > 0 && page_ask(l, &e) < 0))
        list_end(l, &e);
    else if (l->next.n == 0)
        list_end(l, NULL);
}

int
kube_list_start(struct kube_client *c, const struct kube_list_conf *conf, struct kube_list **ret,
                struct err *e)
{
    CLEANUP(list_freep) struct kube_list *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return err_nomem(e);
    l->client = c;
    l->conf = *conf;
    l->limit = KUBE_LIST_LIMIT;
    l->next = BUF_INIT(KUBE_CONTINUE_MAX_BYTES);
    TRY(str_dup(span_str(conf->path), &l->path, e));
    TRY(page_ask(l, e));
    *ret = STEAL(l);
    return 0;
}

void
kube_list_cancel(struct kube_list *l)
{
    if (l == NULL)
        return;
    kube_cancel(l->call);
    list_free(l);
}

const char *
kube_list_version(const struct kube_list *l)
{
    return l->version;
}

int
kube_get(struct kube_client *c, const char *path, uint64_t deadline_ms, kube_done_fn *done,
         void *arg, struct kube_call **ret, struct err *e)
{
    struct kube_request q = { .method = "GET", .path = path, .deadline_ms = deadline_ms };

    return kube_send(c, &q, done, arg, ret, e);
}
