/* cache.h - what a cluster has of one kind, in memory, kept in step by a feed. Layer: kube.
 *
 * Of an object only what a projection takes is kept. Bounded in objects and bytes: beyond, and
 * after an object that cannot be taken, nothing is known until the whole list could be read again,
 * for a cache with a hole in it would say of what is there that it is not.
 */
#ifndef KUBE_CACHE_H
#define KUBE_CACHE_H

#include "kube/feed.h"

enum {
    KUBE_CACHE_MAX_OBJECTS = 200000,
    KUBE_CACHE_MAX_BYTES = 128 * 1024 * 1024, /* with what the cache needs for itself */
    KUBE_CACHE_VALUE_BYTES = 4096,            /* of one object: its value, and its group */
};

struct kube_cache_conf {
    const char *path, *name; /* as of a feed; static */
    /* What is kept of an object, and the group that it can be found by ("" none; any bytes). Both
     * are empty and capped. <0: an object that cannot be. */
    int (*project)(const json_t *object, struct buf *group, struct buf *value, struct err *e);
    size_t max_objects, max_bytes;     /* 0: as above */
    uint64_t relist_ms, wait_first_ms; /* 0: as of a feed */
    struct metrics *metrics;           /* borrowed; may be NULL */
};

struct kube_cache;
/* Belongs to the client's loop; the client outlives it. Errors: NOMEM. */
MUST_USE int kube_cache_new(struct loop *l, struct kube_client *c,
                            const struct kube_cache_conf *conf, struct kube_cache **ret,
                            struct err *e);
void kube_cache_free(struct kube_cache *c); /* when nobody asks any more; NULL is fine */
DEFINE_CLEANUP(struct kube_cache, kube_cache_free)

/* Calls fn with each value (borrowed, under a lock: be short, ask nothing of the cache) until it
 * says true. Thread: any. Blocks: never for the network. r: 0 fn said true; KUBE_CACHE_ABSENT it
 * did not. Errors: BUSY (the last proof that this is how things are is older than max_age_ms, or
 * there was none yet). */
enum { KUBE_CACHE_ABSENT = 1 };
typedef bool kube_cache_fn(struct span value, void *arg);
/* The one object of that namespace and name. */
MUST_USE int kube_cache_find(struct kube_cache *c, const char *ns, const char *name,
                             uint64_t max_age_ms, kube_cache_fn *fn, void *arg, struct err *e);
/* All objects of a group. */
MUST_USE int kube_cache_group(struct kube_cache *c, struct span group, uint64_t max_age_ms,
                              kube_cache_fn *fn, void *arg, struct err *e);

struct kube_cache_state {
    size_t objects, bytes;
    bool is_whole;   /* false: nothing is known now */
    uint64_t age_ms; /* of the last proof; UINT64_MAX: none yet */
};
struct kube_cache_state kube_cache_state(struct kube_cache *c); /* thread: any */
const char *kube_cache_trouble(const struct kube_cache *c);     /* thread: its loop; borrowed */

#endif
