/* pods_watch.c - what is kept of pods and service accounts, and the port that workers ask. */
#include "identity/pods_watch.h"

#include <stdlib.h>

#include "identity/pod_item.h"

static const struct metric_desc age_gauge = {
    "meshroot_cluster_age_seconds",
    "Since the last proof that what is known of pods and service accounts is so; -1: none yet.",
    METRIC_GAUGE,
};

struct pods_watch {
    struct cluster port;
    struct kube_cache *pods, *accounts;
    uint64_t max_stale_ms;
    struct metrics *metrics;
};

/* -- what is kept: a head, then texts, each with its NUL -----------------------------------------
 */

struct head {
    int64_t deleted_s;
    bool is_over;
};

static int
head_add(struct buf *b, int64_t deleted_s, bool is_over, struct err *e)
{
    struct head h;

    memset(&h, 0, sizeof(h));
    h.deleted_s = deleted_s;
    h.is_over = is_over;
    return buf_add(b, span_of(&h, sizeof(h)), e);
}

static int
text_add(struct buf *b, const char *text, struct err *e)
{
    return buf_add(b, span_of(text, strlen(text) + 1), e);
}

static struct head
head_take(struct span *value)
{
    struct head h;

    memcpy(&h, value->p, sizeof(h));
    *value = span_of(value->p + sizeof(h), value->n - sizeof(h));
    return h;
}

static void
text_take(struct span *value, char *ret)
{
    size_t n = strlen((const char *)value->p) + 1;

    memcpy(ret, value->p, n);
    *value = span_of(value->p + n, value->n - n);
}

static int
group_make(struct buf *b, const char *node, const char *ns, const char *sa, struct err *e)
{
    TRY(text_add(b, node, e));
    TRY(text_add(b, ns, e));
    return text_add(b, sa, e);
}

static int
pod_project(const json_t *object, struct buf *group, struct buf *value, struct err *e)
{
    struct cluster_pod p = { .deleted_s = 0 };

    TRY(pod_item_read(object, &p, e));
    if (p.node[0] != '\0' && !p.is_over)
        TRY(group_make(group, p.node, p.ns, p.sa, e));
    TRY(head_add(value, p.deleted_s, p.is_over, e));
    TRY(text_add(value, p.uid, e));
    TRY(text_add(value, p.sa, e));
    return text_add(value, p.node, e);
}

static int
account_project(const json_t *object, struct buf *group, struct buf *value, struct err *e)
{
    char ns[K8S_NAME_BYTES], name[K8S_NAME_BYTES];
    struct cluster_account a = { .deleted_s = 0 };

    (void)group;
    TRY(account_item_read(object, ns, name, &a, e));
    TRY(head_add(value, a.deleted_s, false, e));
    return text_add(value, a.uid, e);
}

/* -- the port ------------------------------------------------------------------------------------
 */

static bool
on_pod(struct span value, void *arg)
{
    struct cluster_pod *p = arg;
    struct head h = head_take(&value);

    p->deleted_s = h.deleted_s;
    p->is_over = h.is_over;
    text_take(&value, p->uid);
    text_take(&value, p->sa);
    text_take(&value, p->node);
    return true;
}

static int
get_pod(void *self, const char *ns, const char *name, struct cluster_pod *ret, struct err *e)
{
    struct cluster_pod p = { .deleted_s = 0 };
    struct pods_watch *w = self;

    if (TRY(kube_cache_find(w->pods, ns, name, w->max_stale_ms, on_pod, &p, e)) != 0)
        return CLUSTER_ABSENT;
    memcpy(p.ns, ns, strlen(ns) + 1); /* what was found fits */
    memcpy(p.name, name, strlen(name) + 1);
    *ret = p;
    return 0;
}

static bool
on_account(struct span value, void *arg)
{
    struct cluster_account *a = arg;

    a->deleted_s = head_take(&value).deleted_s;
    text_take(&value, a->uid);
    return true;
}

static int
get_account(void *self, const char *ns, const char *name, struct cluster_account *ret,
            struct err *e)
{
    struct cluster_account a = { .deleted_s = 0 };
    struct pods_watch *w = self;

    if (TRY(kube_cache_find(w->accounts, ns, name, w->max_stale_ms, on_account, &a, e)) != 0)
        return CLUSTER_ABSENT;
    *ret = a;
    return 0;
}

static bool
on_runs(struct span value, void *arg)
{
    (void)arg;
    return !cluster_is_deleted(head_take(&value).deleted_s);
}

static int
runs_on(void *self, const char *node, const char *ns, const char *sa, struct err *e)
{
    CLEANUP(buf_done) struct buf group = BUF_INIT(3 * K8S_NAME_BYTES);
    struct pods_watch *w = self;
    struct err too_long;

    if (group_make(&group, node, ns, sa, &too_long) < 0)
        return CLUSTER_ABSENT; /* no object has such names */
    return TRY(kube_cache_group(w->pods, buf_span(&group), w->max_stale_ms, on_runs, NULL, e)) == 0
               ? 0
               : CLUSTER_ABSENT;
}

const struct cluster *
pods_watch_cluster(const struct pods_watch *w)
{
    return &w->port;
}

struct pods_watch_state
pods_watch_state(struct pods_watch *w)
{
    struct kube_cache_state p = kube_cache_state(w->pods), a = kube_cache_state(w->accounts);
    uint64_t age_ms = p.age_ms > a.age_ms ? p.age_ms : a.age_ms;
    const char *trouble = kube_cache_trouble(w->pods);

    metric_set(w->metrics, &age_gauge, "", age_ms == UINT64_MAX ? -1 : (double)age_ms / 1000);
    return (struct pods_watch_state){
        .pods = p.objects,
        .accounts = a.objects,
        .is_known = p.is_whole && a.is_whole && age_ms <= w->max_stale_ms,
        .age_ms = age_ms,
        .trouble = trouble[0] != '\0' ? trouble : kube_cache_trouble(w->accounts),
    };
}

int
pods_watch_new(struct loop *l, struct kube_client *c, const struct pods_watch_conf *conf,
               struct pods_watch **ret, struct err *e)
{
    CLEANUP(pods_watch_freep) struct pods_watch *w = calloc(1, sizeof(*w));

    if (w == NULL)
        return err_nomem(e);
    w->port = (struct cluster){ get_pod, get_account, runs_on, w };
    w->metrics = conf->metrics;
    w->max_stale_ms = conf->max_stale_ms == 0 ? PODS_WATCH_STALE_MS : conf->max_stale_ms;
    struct kube_cache_conf k = { .path = "/api/v1/pods",
                                 .name = "pods",
                                 .project = pod_project,
                                 .relist_ms = w->max_stale_ms / 2,
                                 .metrics = conf->metrics };
    TRY(kube_cache_new(l, c, &k, &w->pods, e));
    k.path = "/api/v1/serviceaccounts";
    k.name = "serviceaccounts";
    k.project = account_project;
    TRY(kube_cache_new(l, c, &k, &w->accounts, e));
    *ret = STEAL(w);
    return 0;
}

void
pods_watch_free(struct pods_watch *w)
{
    if (w == NULL)
        return;
    kube_cache_free(w->pods);
    kube_cache_free(w->accounts);
    free(w);
}
