#include "net/filewatch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/str.h"
#include "pki/pki.h"

enum {
    DEBOUNCE_MS = 20, /* a writer of several files is given this long to finish */
    EVENTS_BYTES = 16 * 1024,
    INTERVAL_MIN_MS = 100,
    INTERVAL_MAX_MS = 60 * 60 * 1000,
};

struct filewatch {
    struct filewatch_conf conf;
    struct loop *loop;
    char *dir, *parent;      /* owned */
    int inotify_fd;          /* -1: polling only */
    int dir_wd;              /* -1: the folder is not watched now (absent, or not yet) */
    struct fd_watch *events; /* NULL without inotify */
    struct timer *reread;    /* the safety net */
    struct timer *debounce;
    struct buf bufs[FILESET_MAX];
    uint8_t present_id[DIGEST_BYTES];
    bool has_read;
    size_t sealed;                  /* number of the file that is not read; conf.n: none */
    int sealed_fd;                  /* during on_change */
    char last_error[ERR_MSG_BYTES]; /* the reason told last; "" when the last read went well */
};

/* Names, presence and content, each with its length in front, so that no two sets have one text. */
static int
set_id(const struct filewatch *w, const bool *present, uint8_t ret[DIGEST_BYTES], struct err *e)
{
    struct buf all = BUF_INIT(FILESET_MAX * (DIGEST_BYTES + 1));
    int r = 0;

    for (size_t i = 0; i < w->conf.n && r == 0; i++) {
        uint8_t one[DIGEST_BYTES];

        digest(buf_span(&w->bufs[i]), one);
        r = buf_add_byte(&all, present[i] ? 1 : 0, e);
        r = r < 0 ? r : buf_add(&all, span_of(one, sizeof(one)), e);
    }
    if (r == 0)
        digest(buf_span(&all), ret);
    buf_done(&all);
    return r;
}

static void
error_tell(struct filewatch *w, const struct err *e)
{
    if (strcmp(w->last_error, e->msg) == 0)
        return;
    memcpy(w->last_error, e->msg, sizeof(w->last_error));
    if (w->conf.on_error != NULL)
        w->conf.on_error(e, w->conf.arg);
}

static void
bufs_wipe(struct filewatch *w)
{
    for (size_t i = 0; i < w->conf.n; i++)
        buf_wipe(&w->bufs[i]);
}

/* Reads the set; calls back when its content is new. Keys pass through here: the buffers are wiped.
 */
static void
read_now(struct filewatch *w)
{
    bool present[FILESET_MAX] = { false };
    uint8_t id[DIGEST_BYTES];
    struct err e = { 0 };
    int r = w->sealed < w->conf.n
                ? fileset_read_sealed(w->dir, w->conf.names, w->conf.n, w->sealed, w->bufs, present,
                                      &w->sealed_fd, &e)
                : fileset_read(w->dir, w->conf.names, w->conf.n, w->bufs, present, &e);

    if (r == FILE_ABSENT)
        r = err_set(&e, E_NOTFOUND, "%s: no such folder", w->dir);
    if (r == 0)
        r = set_id(w, present, id, &e);
    if (r < 0) {
        error_tell(w, &e);
    } else {
        bool is_new = !w->has_read || memcmp(id, w->present_id, sizeof(id)) != 0;

        w->last_error[0] = '\0';
        w->has_read = true;
        memcpy(w->present_id, id, sizeof(id));
        if (is_new)
            w->conf.on_change(w->bufs, present, w->conf.arg);
    }
    bufs_wipe(w);
    if (w->sealed_fd >= 0)
        (void)close(w->sealed_fd);
    w->sealed_fd = -1;
}

/* The folder may have been replaced: the watch is set anew on whatever has the name now. */
static void
watch_renew(struct filewatch *w)
{
    if (w->inotify_fd < 0)
        return;
    int wd = inotify_add_watch(w->inotify_fd, w->dir,
                               IN_CREATE | IN_MOVED_TO | IN_CLOSE_WRITE | IN_DELETE |
                                   IN_MOVED_FROM | IN_DELETE_SELF | IN_MOVE_SELF);
    if (w->dir_wd >= 0 && w->dir_wd != wd)
        (void)inotify_rm_watch(w->inotify_fd, w->dir_wd);
    w->dir_wd = wd;
}

static void
on_reread(void *arg)
{
    struct filewatch *w = arg;

    watch_renew(w);
    timer_set(w->reread, w->conf.interval_ms);
    read_now(w);
}

static void
on_debounced(void *arg)
{
    struct filewatch *w = arg;

    watch_renew(w);
    read_now(w);
}

/* What the events say does not matter (a queue that overflowed says it too): something may have
 * changed. */
static void
on_events(void *arg)
{
    struct filewatch *w = arg;
    _Alignas(struct inotify_event) char b[EVENTS_BYTES];

    while (read(w->inotify_fd, b, sizeof(b)) > 0)
        ;
    timer_set(w->debounce, DEBOUNCE_MS);
}

static int
events_open(struct filewatch *w, struct err *e)
{
    w->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (w->inotify_fd < 0)
        return 0; /* out of instances: the interval alone has to do, and does */
    (void)inotify_add_watch(w->inotify_fd, w->parent, IN_CREATE | IN_MOVED_TO);
    watch_renew(w);
    return fd_watch_new(w->loop, w->inotify_fd, on_events, w, &w->events, e);
}

static int
conf_check(const struct filewatch_conf *c, struct err *e)
{
    if (c->n == 0 || c->n > FILESET_MAX)
        return err_set(e, E_INVAL, "%s: a set of %zu files, want 1..%d", c->dir, c->n,
                       (int)FILESET_MAX);
    if (c->interval_ms < INTERVAL_MIN_MS || c->interval_ms > INTERVAL_MAX_MS)
        return err_set(e, E_INVAL, "%s: re-read interval outside 100ms..1h", c->dir);
    return 0;
}

static int
parent_of(const char *dir, char **ret, struct err *e)
{
    size_t n = strlen(dir);

    while (n > 1 && dir[n - 1] == '/')
        n--;
    while (n > 0 && dir[n - 1] != '/')
        n--;
    return n == 0 ? str_dup(span_str("."), ret, e) : str_dup(span_of(dir, n), ret, e);
}

static int
filewatch_open(struct filewatch *w, struct err *e)
{
    TRY(str_dup(span_str(w->conf.dir), &w->dir, e));
    TRY(parent_of(w->dir, &w->parent, e));
    TRY(timer_new(w->loop, on_reread, w, &w->reread, e));
    TRY(timer_new(w->loop, on_debounced, w, &w->debounce, e));
    if (w->conf.use_events)
        TRY(events_open(w, e));
    timer_set(w->reread, 0);
    return 0;
}

int
filewatch_new(struct loop *l, const struct filewatch_conf *conf, struct filewatch **ret,
              struct err *e)
{
    TRY(conf_check(conf, e));
    struct filewatch *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return err_nomem(e);
    w->conf = *conf;
    w->loop = l;
    w->inotify_fd = w->dir_wd = w->sealed_fd = -1;
    while (w->sealed < conf->n &&
           (conf->sealed == NULL || strcmp(conf->names[w->sealed], conf->sealed) != 0))
        w->sealed++;
    for (size_t i = 0; i < conf->n; i++)
        w->bufs[i] = BUF_INIT(conf->max_file_bytes + 1);
    if (filewatch_open(w, e) < 0) {
        filewatch_free(w);
        return err_wrap(e, "watch %s", conf->dir);
    }
    *ret = w;
    return 0;
}

void
filewatch_free(struct filewatch *w)
{
    if (w == NULL)
        return;
    fd_watch_free(w->events);
    timer_free(w->reread);
    timer_free(w->debounce);
    if (w->inotify_fd >= 0)
        (void)close(w->inotify_fd);
    bufs_wipe(w);
    free(w->dir);
    free(w->parent);
    free(w);
}

void
filewatch_poke(struct filewatch *w)
{
    read_now(w);
}

int
filewatch_sealed_fd(const struct filewatch *w)
{
    return w->sealed_fd;
}

const uint8_t *
filewatch_present_id(const struct filewatch *w)
{
    return w->present_id;
}
