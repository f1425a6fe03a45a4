/* pods_file.c - the list of a file, kept fresh; the port that workers ask. */
#include "identity/pods_file.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "obs/log.h"

static const struct metric_desc loads_total = {
    "meshroot_pods_loads_total",
    "Attempts to read the pods of the cluster, by result: changed, same, failed.",
    METRIC_COUNTER,
};

struct pods_file {
    struct cluster port;
    struct timer *timer;
    char *path; /* owned */
    uint64_t every_ms, stale_ms;
    struct metrics *metrics;
    uint8_t sum[DIGEST_BYTES]; /* of the text in force */
    char why[ERR_MSG_BYTES];   /* the failure that was logged last; "" after a success */
    /* for workers: under the lock, which is never held over a read of the file */
    pthread_rwlock_t lock;
    struct pod_list *list; /* NULL: nothing was read yet */
    uint64_t good_ms;      /* when it was last seen to be so */
};

static void
failed(struct pods_file *f, const struct err *e)
{
    metric_add(f->metrics, &loads_total, "result=\"failed\"", 1);
    if (strcmp(f->why, e->msg) == 0)
        return;
    (void)snprintf(f->why, sizeof(f->why), "%s", e->msg);
    log_warn("identity", "pods are not read from %s: %s; %s", f->path, e->msg,
             f->list == NULL ? "none are known, bound tokens wait"
                             : "the last good ones stay for a while");
}

static void
put(struct pods_file *f, struct pod_list *take_list)
{
    struct pod_list *old = NULL;

    (void)pthread_rwlock_wrlock(&f->lock);
    f->good_ms = mono_ms();
    if (take_list != NULL) {
        old = f->list;
        f->list = take_list;
    }
    (void)pthread_rwlock_unlock(&f->lock);
    pod_list_free(old);
    f->why[0] = '\0';
}

static int
load(struct pods_file *f, struct err *e)
{
    CLEANUP(buf_done) struct buf text = BUF_INIT(PODS_FILE_MAX_BYTES);
    struct pod_list *list = NULL;
    uint8_t sum[DIGEST_BYTES];

    if (TRY(file_read(f->path, &text, e)) == FILE_ABSENT)
        return err_set(e, E_NOTFOUND, "no such file");
    digest(buf_span(&text), sum);
    if (f->list != NULL && memcmp(sum, f->sum, sizeof(sum)) == 0) {
        put(f, NULL);
        metric_add(f->metrics, &loads_total, "result=\"same\"", 1);
        return 0;
    }
    TRY(pod_list_from_json(buf_span(&text), &list, e));
    memcpy(f->sum, sum, sizeof(sum));
    size_t n = pod_list_pods(list);
    put(f, list);
    metric_add(f->metrics, &loads_total, "result=\"changed\"", 1);
    log_info("identity", "%zu pods read from %s", n, f->path);
    return 0;
}

static void
on_timer(void *arg)
{
    struct pods_file *f = arg;
    struct err e;

    if (load(f, &e) < 0)
        failed(f, &e);
    timer_set(f->timer, f->every_ms);
}

/* -- the port ------------------------------------------------------------------------------------
 */

/* Takes the lock for reading; it is not held after a failure. */
static int
enter(struct pods_file *f, struct err *e)
{
    (void)pthread_rwlock_rdlock(&f->lock);
    if (f->list != NULL && mono_ms() - f->good_ms <= f->stale_ms)
        return 0;
    bool none = f->list == NULL;
    (void)pthread_rwlock_unlock(&f->lock);
    return none ? err_set(e, E_BUSY, "the pods of the cluster are not known yet")
                : err_set(e, E_BUSY, "the pods of the cluster were last read too long ago");
}

static int
get_pod(void *self, const char *ns, const char *name, struct cluster_pod *ret, struct err *e)
{
    struct pods_file *f = self;

    TRY(enter(f, e));
    const struct cluster_pod *p = pod_list_pod(f->list, ns, name);
    if (p != NULL)
        *ret = *p;
    (void)pthread_rwlock_unlock(&f->lock);
    return p == NULL ? CLUSTER_ABSENT : 0;
}

static int
get_account(void *self, const char *ns, const char *name, struct cluster_account *ret,
            struct err *e)
{
    struct pods_file *f = self;

    TRY(enter(f, e));
    const struct cluster_account *a = pod_list_account(f->list, ns, name);
    if (a != NULL)
        *ret = *a;
    (void)pthread_rwlock_unlock(&f->lock);
    return a == NULL ? CLUSTER_ABSENT : 0;
}

static int
runs_on(void *self, const char *node, const char *ns, const char *sa, struct err *e)
{
    struct pods_file *f = self;

    TRY(enter(f, e));
    bool is_there = pod_list_runs_on(f->list, node, ns, sa);
    (void)pthread_rwlock_unlock(&f->lock);
    return is_there ? 0 : CLUSTER_ABSENT;
}

const struct cluster *
pods_file_cluster(const struct pods_file *f)
{
    return &f->port;
}

size_t
pods_file_count(const struct pods_file *f)
{
    return f->list == NULL ? 0 : pod_list_pods(f->list);
}

const char *
pods_file_trouble(const struct pods_file *f)
{
    return f->why;
}

int
pods_file_new(struct loop *l, const struct pods_file_conf *conf, struct pods_file **ret,
              struct err *e)
{
    CLEANUP(pods_file_freep) struct pods_file *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return err_nomem(e);
    f->port = (struct cluster){ get_pod, get_account, runs_on, f };
    f->every_ms = conf->every_ms == 0 ? PODS_FILE_EVERY_MS : conf->every_ms;
    f->stale_ms = conf->stale_ms == 0 ? PODS_STALE_MS : conf->stale_ms;
    f->metrics = conf->metrics;
    (void)pthread_rwlock_init(&f->lock, NULL);
    TRY(str_dup(span_str(conf->path), &f->path, e));
    TRY(timer_new(l, on_timer, f, &f->timer, e));
    timer_set(f->timer, 0);
    *ret = STEAL(f);
    return 0;
}

void
pods_file_free(struct pods_file *f)
{
    if (f == NULL)
        return;
    timer_free(f->timer);
    pod_list_free(f->list);
    (void)pthread_rwlock_destroy(&f->lock);
    free(f->path);
    free(f);
}
