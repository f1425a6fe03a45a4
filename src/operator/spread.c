#include "operator/spread.h"

#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "kube/write.h"
#include "obs/log.h"
#include "operator/plugin_ca.h"

enum { NS_BYTES = 64 };

/* One namespace. It is in the tree from when any of the two watches has told of it. */
struct place {
    char name[NS_BYTES]; /* first: the tree's key */
    struct spread *spread;
    struct place *next;   /* of all */
    struct place *queued; /* next in the queue of those that need a write */
    bool is_queued, exists, is_selected, is_going;
    bool has_map, seen; /* the ConfigMap is there; in the list that is being read */
    bool ns_seen;
    bool ns_told;               /* of the namespace, since the write under way began */
    uint64_t known_at;          /* as of which revision, also of its absence; 0: no number */
    uint8_t held[DIGEST_BYTES]; /* digest of the roots in it; zeros: none that can be read */
    struct kube_call *call;     /* a write under way */
    uint64_t retry_at;          /* 0: at once */
    unsigned failures, disputes;
    uint64_t disputed_at;
    bool was_good; /* it held the set that is wanted now */
};

struct spread {
    struct loop *loop;
    struct spread_conf conf;
    json_t *selector; /* owned */
    struct kube_feed *namespaces, *maps;
    bool ns_whole, maps_whole;
    void *tree;
    struct place *all;
    struct place *queue_head, *queue_tail;
    size_t calls_n;
    uint64_t overwritten;
    size_t restored;
    int64_t restored_at;
    char restored_ns[NS_BYTES], restored_by[SPREAD_BY_BYTES];
    bool any_gone; /* a namespace, or what lay in it */
    struct timer *timer;
    char *pem; /* owned; NULL: no set yet */
    uint8_t want[DIGEST_BYTES];
    char trouble[512];
    /* the last text that was read, for they are all alike */
    uint8_t memo_text[DIGEST_BYTES], memo_roots[DIGEST_BYTES];
    bool is_told;
};

static const struct metric_desc done_gauge = {
    "meshroot_operator_namespaces", "Selected namespaces, by whether they hold the trust set.",
    METRIC_GAUGE
};
static const struct metric_desc writes_total = { "meshroot_operator_config_map_writes_total",
                                                 "Writes of istio-ca-root-cert, by result.",
                                                 METRIC_COUNTER };

static const char *const left_out[] = { "kube-public", "kube-node-lease", "local-path-storage" };

/* -- the table -----------------------------------------------------------------------------------
 */

static int
place_compare(const void *a, const void *b)
{
    return strcmp(a, b); /* the name is first in both */
}

static struct place *
place_find(const struct spread *s, const char *name)
{
    void *node = tfind(name, &s->tree, place_compare);
    struct place *p = NULL;

    if (node != NULL)
        memcpy(&p, node, sizeof(p));
    return p;
}

static struct place *
place_get(struct spread *s, const char *name, struct err *e)
{
    struct place *p = place_find(s, name);

    if (p != NULL)
        return p;
    if (name[0] == '\0' || strlen(name) >= NS_BYTES) {
        (void)err_set(e, E_PEER, "a namespace has the name \"%.80s\"", name);
        return NULL;
    }
    p = calloc(1, sizeof(*p));
    if (p == NULL) {
        (void)err_nomem(e);
        return NULL;
    }
    memcpy(p->name, name, strlen(name) + 1);
    p->spread = s;
    if (tsearch(p, &s->tree, place_compare) == NULL) {
        free(p);
        (void)err_nomem(e);
        return NULL;
    }
    p->next = s->all;
    s->all = p;
    return p;
}

static bool
is_wanted(const struct place *p)
{
    return p->exists && p->is_selected && !p->is_going;
}

static bool
is_good(const struct place *p)
{
    return p->has_map && p->spread->pem != NULL &&
           memcmp(p->held, p->spread->want, DIGEST_BYTES) == 0;
}

static void
told(struct spread *s)
{
    s->is_told = true;
    timer_set(s->timer, 0);
}

/* -- writes --------------------------------------------------------------------------------------
 */

static void
enqueue(struct place *p)
{
    struct spread *s = p->spread;

    if (p->is_queued || p->call != NULL || !is_wanted(p) || is_good(p) || s->pem == NULL ||
        !s->maps_whole || mono_ms() < p->retry_at)
        return;
    p->is_queued = true;
    p->queued = NULL;
    if (s->queue_tail != NULL)
        s->queue_tail->queued = p;
    else
        s->queue_head = p;
    s->queue_tail = p;
}

static uint64_t
doubled(uint64_t first, uint64_t max, unsigned n)
{
    uint64_t ms = n < 20 ? first << n : max;

    ms = ms > max ? max : ms;
    return ms / 2 + random_below(ms / 2 + 1);
}

static void map_take(struct place *p, const json_t *o, uint64_t version, bool is_ours);

static void
write_failed(struct place *p, const struct err *why)
{
    struct spread *s = p->spread;

    if (why->code == E_STATE) { /* the namespace is being terminated; or was, before it was told */
        p->is_going = p->is_going || !p->ns_told;
        return;
    }
    if (why->code == E_EXISTS || why->code == E_NOTFOUND) {
        p->has_map = why->code == E_EXISTS; /* the watch is behind: the other verb */
        if (p->failures++ < 3)
            return;
    }
    p->failures++;
    p->retry_at = mono_ms() + doubled(SPREAD_RETRY_FIRST_MS, SPREAD_RETRY_MAX_MS, p->failures - 1);
    if (strcmp(s->trouble, why->msg) != 0)
        log_with(LOG_WARN, "operator", LABELS({ "namespace", p->name }),
                 SPREAD_CONFIG_MAP " is not written: %s", why->msg);
    (void)snprintf(s->trouble, sizeof(s->trouble), "%s", why->msg);
}

static void
on_written(const json_t *body, const struct err *why, void *arg)
{
    struct place *p = arg;
    struct spread *s = p->spread;

    p->call = NULL;
    s->calls_n--;
    metric_add(s->conf.metrics, &writes_total,
               why == NULL ? "result=\"done\"" : "result=\"failed\"", 1);
    if (why == NULL) {
        p->failures = 0;
        map_take(p, body, kube_revision(kube_object_version(body)), true);
    } else {
        write_failed(p, why);
    }
    enqueue(p);
    told(s);
}

static int
write_start(struct place *p, struct err *e)
{
    struct spread *s = p->spread;
    json_t *o = NULL;
    struct kube_write w = { .kind = &kube_config_map, .ns = p->name, .name = SPREAD_CONFIG_MAP };
    int done;

    p->ns_told = false;
    if (p->has_map)
        o = json_pack("{s:{s:s}}", "data", SPREAD_KEY, s->pem);
    else
        o = json_pack("{s:s, s:s, s:{s:s, s:s, s:{s:s}}, s:{s:s}}", "apiVersion", "v1", "kind",
                      "ConfigMap", "metadata", "name", SPREAD_CONFIG_MAP, "namespace", p->name,
                      "labels", "istio.io/config", "true", "data", SPREAD_KEY, s->pem);
    if (o == NULL)
        return err_nomem(e);
    w.object = o;
    done = p->has_map ? kube_patch(s->conf.kube, &w, on_written, p, &p->call, e)
                      : kube_create(s->conf.kube, &w, on_written, p, &p->call, e);
    json_decref(o);
    return done;
}

static void
queue_run(struct spread *s)
{
    struct err e;

    while (s->queue_head != NULL && s->calls_n < SPREAD_CALLS_MAX) {
        struct place *p = s->queue_head;

        s->queue_head = p->queued;
        if (s->queue_head == NULL)
            s->queue_tail = NULL;
        p->is_queued = false;
        if (!is_wanted(p) || is_good(p))
            continue;
        p->retry_at = 0; /* what comes while it is under way (a dispute) stays */
        if (write_start(p, &e) < 0) {
            p->call = NULL;
            write_failed(p, &e);
            p->retry_at = p->retry_at > 0 ? p->retry_at : mono_ms() + SPREAD_RETRY_FIRST_MS;
        } else {
            s->calls_n++;
            s->overwritten += p->has_map;
        }
    }
}

/* Namespaces come and go; neither watch knows anything of these. */
static void
places_forget(struct spread *s)
{
    struct place **at = &s->all;

    while (*at != NULL) {
        struct place *p = *at;

        if (p->exists || p->has_map || p->call != NULL || p->is_queued) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        (void)tdelete(p, &s->tree, place_compare);
        free(p);
    }
    s->any_gone = false;
}

/* What became due; when the next will. */
static void
on_timer(void *arg)
{
    struct spread *s = arg;
    uint64_t now = mono_ms(), next = UINT64_MAX;

    if (s->any_gone)
        places_forget(s);
    for (struct place *p = s->all; p != NULL; p = p->next)
        enqueue(p);
    queue_run(s);
    for (struct place *p = s->all; p != NULL; p = p->next)
        if (p->retry_at > now && is_wanted(p) && !is_good(p) && p->retry_at < next)
            next = p->retry_at;
    if (next != UINT64_MAX)
        timer_set(s->timer, next - now + 1);
    if (s->is_told) {
        s->is_told = false;
        s->conf.on_change(s->conf.arg);
    }
}

/* -- what is there -------------------------------------------------------------------------------
 */

static void
roots_digest(const struct roots *roots, uint8_t ret[DIGEST_BYTES])
{
    uint8_t ids[ROOTS_MAX * DIGEST_BYTES];
    size_t n = roots_count(roots);

    for (size_t i = 0; i < n && i < ROOTS_MAX; i++) /* in order of ids */
        memcpy(ids + i * DIGEST_BYTES, cert_id(roots_at(roots, i)), DIGEST_BYTES);
    digest(span_of(ids, n * DIGEST_BYTES), ret);
}

static void
text_digest(struct spread *s, const char *text, uint8_t ret[DIGEST_BYTES])
{
    CLEANUP(roots_unrefp) struct roots *roots = NULL;
    uint8_t id[DIGEST_BYTES];
    struct err e;

    memset(ret, 0, DIGEST_BYTES);
    if (text == NULL || strlen(text) > PEM_MAX_BYTES)
        return;
    digest(span_str(text), id);
    if (memcmp(id, s->memo_text, DIGEST_BYTES) != 0) {
        memset(s->memo_roots, 0, DIGEST_BYTES);
        if (roots_from_pem(span_str(text), &roots, &e) == 0)
            roots_digest(roots, s->memo_roots);
        memcpy(s->memo_text, id, DIGEST_BYTES);
    }
    memcpy(ret, s->memo_roots, DIGEST_BYTES);
}

/* Who says that it wrote our key last (metadata.managedFields); it may say any name. */
static void
writer_of(const json_t *o, char ret[SPREAD_BY_BYTES])
{
    const json_t *all = json_object_get(json_object_get(o, "metadata"), "managedFields"), *m;
    const char *last = "";
    size_t i;

    ret[0] = '\0';
    json_array_foreach(all, i, m) {
        const json_t *data = json_object_get(json_object_get(m, "fieldsV1"), "f:data");
        const char *who = json_string_value(json_object_get(m, "manager"));
        const char *at = json_string_value(json_object_get(m, "time"));

        if (json_object_get(data, "f:" SPREAD_KEY) == NULL || who == NULL || at == NULL ||
            strcmp(at, last) < 0)
            continue;
        last = at;
        (void)snprintf(ret, SPREAD_BY_BYTES, "%s", who);
    }
    for (char *c = ret; *c != '\0'; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
}

static void
disputed(struct place *p, const json_t *o)
{
    struct spread *s = p->spread;
    uint64_t now = mono_ms();

    if (now - p->disputed_at > SPREAD_PEACE_MS)
        p->disputes = 0;
    p->disputes++;
    p->disputed_at = now;
    p->retry_at = p->disputes == 1 ? 0
                                   : now + doubled(SPREAD_DISPUTE_FIRST_MS, SPREAD_DISPUTE_MAX_MS,
                                                   p->disputes - 2);
    s->restored++;
    s->restored_at = unix_s();
    memcpy(s->restored_ns, p->name, sizeof(p->name));
    writer_of(o, s->restored_by);
    if (p->disputes <= SPREAD_DISPUTES_N)
        log_with(LOG_WARN, "operator", LABELS({ "namespace", p->name }),
                 SPREAD_CONFIG_MAP " was changed by %s; it is put back",
                 s->restored_by[0] == '\0' ? "somebody else" : s->restored_by);
    s->conf.on_restored(p->name, s->restored_by, s->conf.arg);
}

/* `o` NULL: it is gone. */
static void
map_take(struct place *p, const json_t *o, uint64_t version, bool is_ours)
{
    const char *text = json_string_value(json_object_get(json_object_get(o, "data"), SPREAD_KEY));

    if (kube_is_late(version, p->known_at, p->has_map))
        return;
    p->known_at = version;
    p->has_map = o != NULL;
    text_digest(p->spread, text, p->held);
    bool good = is_good(p);
    if (p->was_good && !good && !is_ours && is_wanted(p))
        disputed(p, o);
    p->was_good = good;
    enqueue(p);
}

static int
map_put(const json_t *o, void *arg, struct err *e)
{
    struct spread *s = arg;
    struct place *p;

    if (strcmp(kube_object_name(o), SPREAD_CONFIG_MAP) != 0)
        return 0; /* a server that does not know the selector */
    p = place_get(s, kube_object_ns(o), e);
    if (p == NULL)
        return err_result(e);
    p->seen = true;
    map_take(p, o, kube_revision(kube_feed_version(s->maps)), false);
    told(s);
    return 0;
}

static int
map_gone(const json_t *o, void *arg, struct err *e)
{
    struct spread *s = arg;
    struct place *p = place_find(s, kube_object_ns(o));

    (void)e;
    s->any_gone = true;
    if (p != NULL && strcmp(kube_object_name(o), SPREAD_CONFIG_MAP) == 0) {
        map_take(p, NULL, kube_revision(kube_feed_version(s->maps)), false);
        told(s);
    }
    return 0;
}

static void
maps_begin(void *arg)
{
    struct spread *s = arg;

    for (struct place *p = s->all; p != NULL; p = p->next)
        p->seen = false;
}

/* What we wrote may be in the history that is no more. */
static void
on_rewound(void *arg)
{
    struct spread *s = arg;

    for (struct place *p = s->all; p != NULL; p = p->next) {
        p->known_at = 0;
        s->calls_n -= p->call != NULL;
        kube_cancel(STEAL(p->call));
    }
    told(s);
}

static void
maps_whole(void *arg)
{
    struct spread *s = arg;
    uint64_t version = kube_revision(kube_feed_version(s->maps));

    s->maps_whole = s->any_gone = true;
    for (struct place *p = s->all; p != NULL; p = p->next)
        if (!p->seen)
            map_take(p, NULL, version, false);
    told(s);
}

static int
ns_put(const json_t *o, void *arg, struct err *e)
{
    struct spread *s = arg;
    const char *name = kube_object_name(o);
    struct place *p = place_get(s, name, e);

    if (p == NULL)
        return err_result(e);
    p->exists = p->ns_seen = p->ns_told = true;
    p->is_going =
        kube_object_is_going(o) || strcmp(kube_object_text(o, "status.phase"), "Terminating") == 0;
    p->is_selected =
        selector_takes(s->selector, json_object_get(json_object_get(o, "metadata"), "labels"));
    for (size_t i = 0; i < ARRAY_LEN(left_out); i++)
        p->is_selected = p->is_selected && strcmp(name, left_out[i]) != 0;
    enqueue(p);
    told(s);
    return 0;
}

static int
ns_gone(const json_t *o, void *arg, struct err *e)
{
    struct spread *s = arg;
    struct place *p = place_find(s, kube_object_name(o));
    uint64_t at = kube_revision(kube_feed_version(s->namespaces));

    (void)e;
    s->any_gone = true;
    if (p != NULL) {
        p->exists = false;
        p->ns_told = true;
        if (!kube_is_late(at, p->known_at, p->has_map)) { /* else the next one's map is told */
            p->has_map = p->was_good = false;
            p->known_at = at;
        }
        p->disputes = p->failures = 0;
        p->retry_at = 0;
    }
    told(s);
    return 0;
}

static void
ns_begin(void *arg)
{
    struct spread *s = arg;

    for (struct place *p = s->all; p != NULL; p = p->next)
        p->ns_seen = false;
}

static void
ns_whole(void *arg)
{
    struct spread *s = arg;

    s->ns_whole = s->any_gone = true;
    for (struct place *p = s->all; p != NULL; p = p->next)
        p->exists = p->ns_seen;
    told(s);
}

static void
ns_broken(void *arg)
{
    ((struct spread *)arg)->ns_whole = false;
}

static void
maps_broken(void *arg)
{
    ((struct spread *)arg)->maps_whole = false;
}

/* -- public --------------------------------------------------------------------------------------
 */

int
spread_new(struct loop *l, const struct spread_conf *conf, struct spread **ret, struct err *e)
{
    CLEANUP(spread_freep) struct spread *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return err_nomem(e);
    s->loop = l;
    s->conf = *conf;
    s->selector = json_incref((json_t *)(uintptr_t)conf->selector);
    TRY(timer_new(l, on_timer, s, &s->timer, e));
    struct kube_feed_conf ns = { .path = "/api/v1/namespaces",
                                 .name = "namespaces",
                                 .metrics = conf->metrics,
                                 .max_objects = SPREAD_NAMESPACES_MAX,
                                 .begin = ns_begin,
                                 .put = ns_put,
                                 .gone = ns_gone,
                                 .whole = ns_whole,
                                 .broken = ns_broken,
                                 .rewound = on_rewound,
                                 .verify_ms = KUBE_FEED_VERIFY_MS,
                                 .arg = s };
    struct kube_feed_conf maps = { .path = "/api/v1/configmaps?fieldSelector="
                                           "metadata.name%3D" SPREAD_CONFIG_MAP,
                                   .name = "configmaps",
                                   .metrics = conf->metrics,
                                   .max_objects = SPREAD_NAMESPACES_MAX,
                                   .begin = maps_begin,
                                   .put = map_put,
                                   .gone = map_gone,
                                   .whole = maps_whole,
                                   .broken = maps_broken,
                                   .rewound = on_rewound,
                                   .verify_ms = KUBE_FEED_VERIFY_MS,
                                   .arg = s };
    TRY(kube_feed_new(l, conf->kube, &ns, &s->namespaces, e));
    TRY(kube_feed_new(l, conf->kube, &maps, &s->maps, e));
    *ret = STEAL(s);
    return 0;
}

static void
nothing(void *node)
{
    (void)node;
}

void
spread_free(struct spread *s)
{
    if (s == NULL)
        return;
    kube_feed_free(s->namespaces);
    kube_feed_free(s->maps);
    tdestroy(s->tree, nothing);
    while (s->all != NULL) {
        struct place *p = s->all;

        s->all = p->next;
        kube_cancel(p->call);
        free(p);
    }
    timer_free(s->timer);
    json_decref(s->selector);
    free(s->pem);
    free(s);
}

int
spread_set(struct spread *s, struct roots *roots, struct err *e)
{
    struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    uint8_t want[DIGEST_BYTES];
    char *text = NULL;

    roots_digest(roots, want);
    if (s->pem != NULL && memcmp(want, s->want, DIGEST_BYTES) == 0)
        return 0;
    int done = roots_to_pem(roots, &pem, e);
    if (done == 0)
        done = str_dup(buf_span(&pem), &text, e);
    buf_done(&pem);
    if (done < 0)
        return done;
    free(s->pem);
    s->pem = text;
    memcpy(s->want, want, DIGEST_BYTES);
    s->restored = 0;
    s->restored_at = 0;
    for (struct place *p = s->all; p != NULL; p = p->next) {
        p->was_good = is_good(p);
        p->disputes = p->failures = 0; /* of another set */
        p->retry_at = 0;
    }
    told(s);
    return 0;
}

struct spread_state
spread_state(struct spread *s)
{
    struct spread_state st = { .is_whole = s->ns_whole && s->maps_whole,
                               .overwritten = s->overwritten,
                               .restored = s->restored,
                               .restored_at = s->restored_at };
    const char *ns = kube_feed_trouble(s->namespaces), *maps = kube_feed_trouble(s->maps);

    memcpy(st.restored_ns, s->restored_ns, sizeof(st.restored_ns));
    memcpy(st.restored_by, s->restored_by, sizeof(st.restored_by));
    for (const struct place *p = s->all; p != NULL; p = p->next) {
        st.known++;
        if (!is_wanted(p))
            continue;
        st.namespaces++;
        st.done += is_good(p);
        if (p->disputes >= SPREAD_DISPUTES_N && mono_ms() - p->disputed_at < SPREAD_PEACE_MS) {
            st.disputed++;
            memcpy(st.disputed_ns, p->name, sizeof(st.disputed_ns));
        }
    }
    if (st.done == st.namespaces)
        s->trouble[0] = '\0';
    (void)snprintf(st.trouble, sizeof(st.trouble), "%s",
                   ns[0] != '\0'     ? ns
                   : maps[0] != '\0' ? maps
                                     : s->trouble);
    metric_set(s->conf.metrics, &done_gauge, "holds=\"true\"", (double)st.done);
    metric_set(s->conf.metrics, &done_gauge, "holds=\"false\"", (double)(st.namespaces - st.done));
    return st;
}

bool
spread_holds(struct spread *s, const char *ns, const struct roots *roots)
{
    const struct place *p = place_find(s, ns);
    uint8_t want[DIGEST_BYTES];

    roots_digest(roots, want);
    return p != NULL && p->has_map && memcmp(p->held, want, DIGEST_BYTES) == 0;
}
