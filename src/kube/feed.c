/* feed.c - list, watch, and what comes after either has ended. */
#include "kube/feed.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/str.h"
#include "kube/write.h"
#include "obs/log.h"

enum { RETRY_AFTER_MAX_S = 60 };

static const struct metric_desc feed_total = {
    "meshroot_kube_feed_total",
    "What came of the Kubernetes API, by resource and kind: list, watch, event, bookmark, failed.",
    METRIC_COUNTER,
};

struct kube_feed {
    struct loop *loop;
    struct kube_client *client;
    struct kube_feed_conf conf;
    char *path, *name;  /* owned */
    struct timer *next; /* the next try; while a watch is open: when it has been silent too long */
    struct kube_list *list;           /* under way */
    struct kube_call *stream;         /* under way */
    struct buf line;                  /* of the stream, so far */
    char version[KUBE_VERSION_BYTES]; /* where a watch goes on; "": list first */
    char as_of[KUBE_VERSION_BYTES];   /* of what is being told */
    uint64_t highest;                 /* the last revision that was told of; 0: none */
    bool is_warned;                   /* of a watch that went back: the list comes */
    bool is_dated;                    /* the list under way: its version is known */
    uint64_t alive_ms, listed_ms, wait_ms;
    char trouble[ERR_MSG_BYTES];
};

static void
count(const struct kube_feed *f, const char *what)
{
    char labels[128];

    (void)snprintf(labels, sizeof(labels), "resource=\"%.64s\",what=\"%s\"", f->name, what);
    metric_add(f->conf.metrics, &feed_total, labels, 1);
}

static void
alive(struct kube_feed *f)
{
    if (f->trouble[0] != '\0')
        log_info("kube", "%s: in step with %s again", f->name, kube_client_server(f->client));
    f->trouble[0] = '\0';
    f->alive_ms = mono_ms();
    if (f->conf.alive != NULL)
        f->conf.alive(f->conf.arg);
}

/* Sets the next try, later each time. */
static void
go_on_later(struct kube_feed *f, unsigned retry_after_s)
{
    uint64_t wait = f->wait_ms / 2 + random_below(f->wait_ms / 2 + 1);
    uint64_t asked_ms =
        1000 * (uint64_t)(retry_after_s > RETRY_AFTER_MAX_S ? RETRY_AFTER_MAX_S : retry_after_s);

    f->wait_ms = f->wait_ms * 2 > KUBE_FEED_WAIT_MAX_MS ? KUBE_FEED_WAIT_MAX_MS : f->wait_ms * 2;
    timer_set(f->next, wait > asked_ms ? wait : asked_ms);
}

static void
failed(struct kube_feed *f, const struct err *why)
{
    count(f, "failed");
    if (strcmp(f->trouble, why->msg) != 0)
        log_warn("kube", "%s: %s", f->name, why->msg);
    (void)snprintf(f->trouble, sizeof(f->trouble), "%s", why->msg);
    go_on_later(f, why->retry_after_s);
}

/* -- revisions -----------------------------------------------------------------------------------
 */

/* What is told next is of that version. r: it is of one before what was told. */
static bool
goes_back(struct kube_feed *f, const char *version)
{
    uint64_t now = kube_revision(version);
    bool is_back = now != 0 && now < f->highest;

    (void)snprintf(f->as_of, sizeof(f->as_of), "%s", version);
    return is_back;
}

static void
went_back(const struct kube_feed *f, struct err *e)
{
    (void)err_set(e, E_STATE,
                  "the API server went back from version %llu to %.40s, as after an etcd was "
                  "restored from a backup: all is read again, and what was known of before does "
                  "not count",
                  (unsigned long long)f->highest, f->as_of);
}

static void
list_is_of(struct kube_feed *f, const char *version)
{
    struct err e;

    if (f->is_dated)
        return;
    f->is_dated = true;
    if (goes_back(f, version)) {
        went_back(f, &e);
        if (!f->is_warned)
            log_warn("kube", "%s: %s", f->name, e.msg);
        if (f->conf.rewound != NULL)
            f->conf.rewound(f->conf.arg);
    }
    f->is_warned = false;
    f->highest = kube_revision(version);
}

/* -- watch --------------------------------------------------------------------------------------
 */

/* What is kept does not hold what the server said: from the start. */
static int
broken(struct kube_feed *f, int r)
{
    if (r < 0) {
        f->version[0] = '\0';
        if (f->conf.broken != NULL)
            f->conf.broken(f->conf.arg);
    }
    return r;
}

static int
event_take(struct kube_feed *f, const struct kube_event *ev, struct err *e)
{
    if (ev->type == KUBE_ERROR) {
        *e = ev->error;
        return err_result(e);
    }
    if (goes_back(f, ev->version)) {
        went_back(f, e); /* STATE: lists again; that list is the judge */
        f->is_warned = true;
        return broken(f, err_result(e));
    }
    if (ev->type == KUBE_PUT)
        TRY(broken(f, f->conf.put(ev->object, f->conf.arg, e)));
    if (ev->type == KUBE_GONE)
        TRY(broken(f, f->conf.gone(ev->object, f->conf.arg, e)));
    memcpy(f->version, ev->version, sizeof(f->version));
    f->highest = kube_revision(ev->version);
    f->wait_ms = f->conf.wait_first_ms;
    count(f, ev->type == KUBE_BOOKMARK ? "bookmark" : "event");
    alive(f);
    return 0;
}

static int
line_take(struct kube_feed *f, struct err *e)
{
    struct span line = span_trim(buf_span(&f->line));
    struct kube_event ev = { .object = NULL };

    if (line.n == 0)
        return 0;
    if (kube_event_read(line, &ev, e) < 0) {
        f->version[0] = '\0'; /* an event is lost: what it was, a list says */
        if (f->conf.broken != NULL)
            f->conf.broken(f->conf.arg);
        return err_wrap(e, "watch");
    }
    int r = event_take(f, &ev, e);
    json_decref(ev.object);
    return r;
}

static int
on_data(struct span piece, void *arg, struct err *e)
{
    struct kube_feed *f = arg;

    while (piece.n > 0) {
        const uint8_t *end = memchr(piece.p, '\n', piece.n);
        size_t n = end == NULL ? piece.n : (size_t)(end - piece.p);

        if (buf_add(&f->line, span_of(piece.p, n), e) < 0) {
            f->version[0] = '\0';
            if (f->conf.broken != NULL)
                f->conf.broken(f->conf.arg);
            return err_wrap(e, "watch: an event");
        }
        if (end == NULL)
            return 0;
        TRY(line_take(f, e));
        f->line.n = 0;
        piece = span_of(end + 1, piece.n - n - 1);
    }
    return 0;
}

static void
on_stream_end(const json_t *body, const struct err *why, void *arg)
{
    struct kube_feed *f = arg;

    (void)body;
    f->stream = NULL;
    buf_done(&f->line);
    if (why == NULL) { /* its time was over */
        f->wait_ms = f->conf.wait_first_ms;
        go_on_later(f, 0);
        return;
    }
    if (why->code == E_STATE) /* 410 or 504, as an answer or as an event; it went back */
        f->version[0] = '\0';
    failed(f, why);
}

static int
watch_start(struct kube_feed *f, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;

    TRY(str_format(&path, e,
                   "%s%cwatch=1&allowWatchBookmarks=true&resourceVersion=%s&timeoutSeconds=%llu",
                   f->path, strchr(f->path, '?') == NULL ? '?' : '&', f->version,
                   (unsigned long long)f->conf.watch_s));
    f->line = BUF_INIT(KUBE_MAX_EVENT_BYTES);
    struct kube_request q = { .method = "GET",
                              .path = path,
                              .deadline_ms = f->conf.watch_s * 1000 + KUBE_WATCH_SLACK_MS,
                              .on_data = on_data };
    TRY(kube_send(f->client, &q, on_stream_end, f, &f->stream, e));
    count(f, "watch");
    return 0;
}

/* -- list ---------------------------------------------------------------------------------------
 */

static void
on_list_begin(void *arg)
{
    struct kube_feed *f = arg;

    f->is_dated = false;
    f->conf.begin(f->conf.arg);
}

static int
on_list_item(const json_t *object, void *arg, struct err *e)
{
    struct kube_feed *f = arg;

    list_is_of(f, kube_list_version(f->list));
    return f->conf.put(object, f->conf.arg, e);
}

static void silence_watch(struct kube_feed *f);

static void
on_list_end(const char *version, const struct err *why, void *arg)
{
    struct kube_feed *f = arg;
    struct err e;

    f->list = NULL;
    if (why != NULL) {
        failed(f, why);
        return;
    }
    count(f, "list");
    list_is_of(f, version);
    (void)snprintf(f->version, sizeof(f->version), "%s", version);
    f->listed_ms = mono_ms();
    f->conf.whole(f->conf.arg);
    alive(f);
    if (watch_start(f, &e) < 0)
        failed(f, &e);
    else
        silence_watch(f);
}

static int
list_start(struct kube_feed *f, struct err *e)
{
    struct kube_list_conf l = { .path = f->path,
                                .max_objects = f->conf.max_objects,
                                .begin = on_list_begin,
                                .item = on_list_item,
                                .done = on_list_end,
                                .arg = f };

    f->version[0] = '\0';
    return kube_list_start(f->client, &l, &f->list, e);
}

/* -- the next step ------------------------------------------------------------------------------
 */

static uint64_t
silent_ms(const struct kube_feed *f)
{
    return mono_ms() - f->alive_ms;
}

static void
silence_watch(struct kube_feed *f)
{
    uint64_t ms = silent_ms(f);

    timer_set(f->next, ms >= f->conf.relist_ms ? 0 : f->conf.relist_ms - ms);
}

static void
on_next(void *arg)
{
    struct kube_feed *f = arg;
    bool is_late = f->version[0] == '\0' || silent_ms(f) >= f->conf.relist_ms ||
                   (f->conf.verify_ms != 0 && mono_ms() - f->listed_ms >= f->conf.verify_ms);
    struct err e;

    if (f->stream != NULL && !is_late) {
        silence_watch(f);
        return;
    }
    if (f->stream != NULL) {
        kube_cancel(STEAL(f->stream));
        buf_done(&f->line);
    }
    if ((is_late ? list_start(f, &e) : watch_start(f, &e)) < 0)
        failed(f, &e);
    else if (!is_late)
        silence_watch(f);
}

int
kube_feed_new(struct loop *l, struct kube_client *c, const struct kube_feed_conf *conf,
              struct kube_feed **ret, struct err *e)
{
    CLEANUP(kube_feed_freep) struct kube_feed *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return err_nomem(e);
    f->loop = l;
    f->client = c;
    f->conf = *conf;
    f->conf.watch_s = conf->watch_s == 0 ? KUBE_WATCH_S : conf->watch_s;
    f->conf.relist_ms = conf->relist_ms == 0 ? KUBE_FEED_RELIST_MS : conf->relist_ms;
    f->conf.wait_first_ms =
        conf->wait_first_ms == 0 ? KUBE_FEED_WAIT_FIRST_MS : conf->wait_first_ms;
    f->wait_ms = f->conf.wait_first_ms;
    TRY(str_dup(span_str(conf->path), &f->path, e));
    TRY(str_dup(span_str(conf->name), &f->name, e));
    TRY(timer_new(l, on_next, f, &f->next, e));
    timer_set(f->next, 0);
    *ret = STEAL(f);
    return 0;
}

void
kube_feed_free(struct kube_feed *f)
{
    if (f == NULL)
        return;
    timer_free(f->next);
    kube_list_cancel(f->list);
    kube_cancel(f->stream);
    buf_done(&f->line);
    free(f->path);
    free(f->name);
    free(f);
}

const char *
kube_feed_trouble(const struct kube_feed *f)
{
    return f->trouble;
}

const char *
kube_feed_version(const struct kube_feed *f)
{
    return f->as_of;
}
