/* cache.c - two trees under one lock: objects by name, groups by their text. */
#include "kube/cache.h"

#include <pthread.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

enum { TREE_NODE_BYTES = 40 /* what tsearch takes for each, about */, NAME_MAX_BYTES = 254 };

static const struct metric_desc objects_gauge = {
    "meshroot_kube_cache_objects",
    "Objects of the cluster that are kept in memory, by resource.",
    METRIC_GAUGE,
};
static const struct metric_desc bytes_gauge = {
    "meshroot_kube_cache_bytes",
    "Bytes of memory that these objects take, by resource.",
    METRIC_GAUGE,
};

struct kept;

struct group {        /* of at least one entry */
    struct span text; /* first: as a key is; of one of its bytes below */
    struct kept *first;
    uint8_t bytes[];
};

struct kept {
    struct span key; /* first: "NS\0NAME" in bytes below */
    struct span value;
    struct group *group;                   /* NULL: none */
    struct kept *next, **link;             /* all of them */
    struct kept *group_next, **group_link; /* of the group */
    uint64_t round;                        /* the list that it was last seen in */
    size_t size;
    uint8_t bytes[];
};

struct kube_cache {
    struct kube_cache_conf conf;
    struct kube_feed *feed;
    char labels[128];
    uint64_t round;
    /* under the lock */
    pthread_rwlock_t lock;
    void *by_key, *by_group; /* tsearch's */
    struct kept *all;
    size_t objects_n, bytes_n;
    bool is_whole;
    uint64_t alive_ms;
};

/* Both kinds of node begin with their key. */
static int
key_compare(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    size_t n = x->n < y->n ? x->n : y->n;
    int r = n == 0 ? 0 : memcmp(x->p, y->p, n);

    return r != 0 ? r : (x->n > y->n) - (x->n < y->n);
}

static void *
find(void *const *root, struct span key)
{
    void *node = tfind(&key, root, key_compare), *ret = NULL;

    if (node != NULL)
        memcpy(&ret, node, sizeof(ret));
    return ret;
}

/* -- entries; under the lock for writing --------------------------------------------------------
 */

static void
group_leave(struct kube_cache *c, struct kept *x)
{
    struct group *g = x->group;

    if (g == NULL)
        return;
    *x->group_link = x->group_next;
    if (x->group_next != NULL)
        x->group_next->group_link = x->group_link;
    if (g->first == NULL) {
        (void)tdelete(g, &c->by_group, key_compare);
        c->bytes_n -= sizeof(*g) + g->text.n + TREE_NODE_BYTES;
        free(g);
    }
}

static int
group_join(struct kube_cache *c, struct kept *x, struct span text, struct err *e)
{
    struct group *g = find(&c->by_group, text);

    if (g == NULL) {
        g = calloc(1, sizeof(*g) + text.n);
        if (g == NULL)
            return err_nomem(e);
        memcpy(g->bytes, text.p, text.n);
        g->text = span_of(g->bytes, text.n);
        if (tsearch(g, &c->by_group, key_compare) == NULL) {
            free(g);
            return err_nomem(e);
        }
        c->bytes_n += sizeof(*g) + text.n + TREE_NODE_BYTES;
    }
    x->group = g;
    x->group_next = g->first;
    x->group_link = &g->first;
    if (x->group_next != NULL)
        x->group_next->group_link = &x->group_next;
    g->first = x;
    return 0;
}

static void
entry_drop(struct kube_cache *c, struct kept *x)
{
    (void)tdelete(x, &c->by_key, key_compare);
    group_leave(c, x);
    *x->link = x->next;
    if (x->next != NULL)
        x->next->link = x->link;
    c->objects_n--;
    c->bytes_n -= x->size;
    free(x);
}

static int
entry_add(struct kube_cache *c, struct span key, struct span group, struct span value,
          struct err *e)
{
    size_t n = sizeof(struct kept) + key.n + value.n, size = n + TREE_NODE_BYTES;
    struct kept *old = find(&c->by_key, key);

    if (old != NULL)
        entry_drop(c, old);
    if (c->objects_n >= c->conf.max_objects)
        return err_set(e, E_LIMIT, "more than %zu objects", c->conf.max_objects);
    if (c->bytes_n + size + group.n + sizeof(struct group) > c->conf.max_bytes)
        return err_set(e, E_LIMIT, "the objects need more than %zu bytes", c->conf.max_bytes);
    struct kept *x = calloc(1, n);
    if (x == NULL)
        return err_nomem(e);
    memcpy(x->bytes, key.p, key.n);
    x->key = span_of(x->bytes, key.n);
    if (value.n > 0)
        memcpy(x->bytes + key.n, value.p, value.n);
    x->value = span_of(x->bytes + key.n, value.n);
    x->round = c->round;
    x->size = size;
    if ((group.n > 0 && group_join(c, x, group, e) < 0) ||
        tsearch(x, &c->by_key, key_compare) == NULL) {
        group_leave(c, x);
        free(x);
        return err_nomem(e);
    }
    x->next = c->all;
    x->link = &c->all;
    if (x->next != NULL)
        x->next->link = &x->next;
    c->all = x;
    c->objects_n++;
    c->bytes_n += size;
    return 0;
}

/* -- what the feed says -------------------------------------------------------------------------
 */

static int
name_add(struct buf *b, const char *name, struct err *e)
{
    size_t n = strlen(name);

    return n >= NAME_MAX_BYTES ? err_set(e, E_PARSE, "an object whose name is too long")
                               : buf_add(b, span_of(name, n + 1), e);
}

/* "NS\0NAME\0", NS empty for what is in none; jansson's texts have no NUL inside as they are
 * parsed. */
static int
key_make(const json_t *object, struct buf *b, struct err *e)
{
    const json_t *meta = json_object_get(object, "metadata");
    const char *ns = json_string_value(json_object_get(meta, "namespace"));
    const char *name = json_string_value(json_object_get(meta, "name"));

    if (name == NULL || name[0] == '\0')
        return err_set(e, E_PARSE, "an object without a name");
    TRY(name_add(b, ns == NULL ? "" : ns, e));
    return name_add(b, name, e);
}

static int
on_put(const json_t *object, void *arg, struct err *e)
{
    CLEANUP(buf_done) struct buf key = BUF_INIT(2 * NAME_MAX_BYTES);
    CLEANUP(buf_done) struct buf group = BUF_INIT(KUBE_CACHE_VALUE_BYTES);
    CLEANUP(buf_done) struct buf value = BUF_INIT(KUBE_CACHE_VALUE_BYTES);
    struct kube_cache *c = arg;

    TRY(key_make(object, &key, e));
    const char *ns = (const char *)key.p; /* and the name behind it */
    if (c->conf.project(object, &group, &value, e) < 0)
        return err_wrap(e, "%.64s/%.128s", ns, ns + strlen(ns) + 1);
    (void)pthread_rwlock_wrlock(&c->lock);
    int r = entry_add(c, buf_span(&key), buf_span(&group), buf_span(&value), e);
    c->is_whole = c->is_whole && r == 0; /* what was there before may be gone: a hole */
    (void)pthread_rwlock_unlock(&c->lock);
    return r;
}

static int
on_gone(const json_t *object, void *arg, struct err *e)
{
    CLEANUP(buf_done) struct buf key = BUF_INIT(2 * NAME_MAX_BYTES);
    struct kube_cache *c = arg;

    TRY(key_make(object, &key, e));
    (void)pthread_rwlock_wrlock(&c->lock);
    struct kept *x = find(&c->by_key, buf_span(&key));
    if (x != NULL)
        entry_drop(c, x);
    (void)pthread_rwlock_unlock(&c->lock);
    return 0;
}

static void
on_begin(void *arg)
{
    struct kube_cache *c = arg;

    c->round++;
}

/* What the list did not have is gone. */
static void
on_whole(void *arg)
{
    struct kube_cache *c = arg;
    struct kept *next;

    (void)pthread_rwlock_wrlock(&c->lock);
    for (struct kept *x = c->all; x != NULL; x = next) {
        next = x->next;
        if (x->round != c->round)
            entry_drop(c, x);
    }
    c->is_whole = true;
    (void)pthread_rwlock_unlock(&c->lock);
}

static void
on_alive(void *arg)
{
    struct kube_cache *c = arg;

    (void)pthread_rwlock_wrlock(&c->lock);
    c->alive_ms = mono_ms();
    size_t objects = c->objects_n, bytes = c->bytes_n;
    (void)pthread_rwlock_unlock(&c->lock);
    metric_set(c->conf.metrics, &objects_gauge, c->labels, (double)objects);
    metric_set(c->conf.metrics, &bytes_gauge, c->labels, (double)bytes);
}

static void
on_broken(void *arg)
{
    struct kube_cache *c = arg;

    (void)pthread_rwlock_wrlock(&c->lock);
    c->is_whole = false;
    (void)pthread_rwlock_unlock(&c->lock);
}

/* -- questions ----------------------------------------------------------------------------------
 */

/* Takes the lock for reading; it is not held after a failure. */
static int
enter(struct kube_cache *c, uint64_t max_age_ms, struct err *e)
{
    (void)pthread_rwlock_rdlock(&c->lock);
    bool is_whole = c->is_whole;
    if (is_whole && mono_ms() - c->alive_ms <= max_age_ms)
        return 0;
    (void)pthread_rwlock_unlock(&c->lock);
    return is_whole
               ? err_set(e, E_BUSY, "what is known of the cluster's %s is too old", c->conf.name)
               : err_set(e, E_BUSY, "the cluster's %s are not known yet", c->conf.name);
}

int
kube_cache_find(struct kube_cache *c, const char *ns, const char *name, uint64_t max_age_ms,
                kube_cache_fn *fn, void *arg, struct err *e)
{
    uint8_t key[2 * NAME_MAX_BYTES];
    size_t a = strlen(ns) + 1, b = strlen(name) + 1;

    TRY(enter(c, max_age_ms, e));
    struct kept *x = NULL;
    if (a <= NAME_MAX_BYTES && b <= NAME_MAX_BYTES) {
        memcpy(key, ns, a);
        memcpy(key + a, name, b);
        x = find(&c->by_key, span_of(key, a + b));
    }
    bool found = x != NULL && fn(x->value, arg);
    (void)pthread_rwlock_unlock(&c->lock);
    return found ? 0 : KUBE_CACHE_ABSENT;
}

int
kube_cache_group(struct kube_cache *c, struct span group, uint64_t max_age_ms, kube_cache_fn *fn,
                 void *arg, struct err *e)
{
    bool found = false;

    TRY(enter(c, max_age_ms, e));
    struct group *g = find(&c->by_group, group);
    for (struct kept *x = g == NULL ? NULL : g->first; x != NULL && !found; x = x->group_next)
        found = fn(x->value, arg);
    (void)pthread_rwlock_unlock(&c->lock);
    return found ? 0 : KUBE_CACHE_ABSENT;
}

struct kube_cache_state
kube_cache_state(struct kube_cache *c)
{
    (void)pthread_rwlock_rdlock(&c->lock);
    struct kube_cache_state s = { c->objects_n, c->bytes_n, c->is_whole,
                                  c->alive_ms == 0 ? UINT64_MAX : mono_ms() - c->alive_ms };
    (void)pthread_rwlock_unlock(&c->lock);
    return s;
}

const char *
kube_cache_trouble(const struct kube_cache *c)
{
    return kube_feed_trouble(c->feed);
}

/* -- a life -------------------------------------------------------------------------------------
 */

int
kube_cache_new(struct loop *l, struct kube_client *client, const struct kube_cache_conf *conf,
               struct kube_cache **ret, struct err *e)
{
    CLEANUP(kube_cache_freep) struct kube_cache *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return err_nomem(e);
    (void)pthread_rwlock_init(&c->lock, NULL);
    c->conf = *conf;
    c->conf.max_objects = conf->max_objects == 0 ? KUBE_CACHE_MAX_OBJECTS : conf->max_objects;
    c->conf.max_bytes = conf->max_bytes == 0 ? KUBE_CACHE_MAX_BYTES : conf->max_bytes;
    (void)snprintf(c->labels, sizeof(c->labels), "resource=\"%.64s\"", conf->name);
    struct kube_feed_conf f = { .path = conf->path,
                                .name = conf->name,
                                .metrics = conf->metrics,
                                .max_objects = c->conf.max_objects,
                                .relist_ms = conf->relist_ms,
                                .wait_first_ms = conf->wait_first_ms,
                                .begin = on_begin,
                                .put = on_put,
                                .gone = on_gone,
                                .whole = on_whole,
                                .alive = on_alive,
                                .broken = on_broken,
                                .arg = c };
    TRY(kube_feed_new(l, client, &f, &c->feed, e));
    *ret = STEAL(c);
    return 0;
}

void
kube_cache_free(struct kube_cache *c)
{
    if (c == NULL)
        return;
    kube_feed_free(c->feed);
    while (c->all != NULL)
        entry_drop(c, c->all);
    (void)pthread_rwlock_destroy(&c->lock);
    free(c);
}
