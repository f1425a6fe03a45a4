/* pods_watch.h - a cluster (cluster.h) as its API server shows it: pods and service accounts listed
 * and watched (kube/cache.h). Nobody who asks the port waits for the API server; when that is away,
 * what is known stays in force for max_stale_ms, and then nothing is known. Layer: identity.
 */
#ifndef IDENTITY_PODS_WATCH_H
#define IDENTITY_PODS_WATCH_H

#include "identity/cluster.h"
#include "kube/cache.h"

enum {
    PODS_WATCH_STALE_MS = 5 * 60 * 1000,
    PODS_WATCH_STALE_MIN_MS = 5 * 1000, /* a list in half of it is the proof that nothing changed */
};

struct pods_watch_conf {
    uint64_t max_stale_ms;   /* 0: as above */
    struct metrics *metrics; /* borrowed; may be NULL */
};
struct pods_watch;
/* Thread: the client's loop; the port may be asked on any. The client outlives it. Errors:
 * NOMEM. */
MUST_USE int pods_watch_new(struct loop *l, struct kube_client *c,
                            const struct pods_watch_conf *conf, struct pods_watch **ret,
                            struct err *e);
void pods_watch_free(struct pods_watch *w); /* when nobody asks the port any more; NULL is fine */
DEFINE_CLEANUP(struct pods_watch, pods_watch_free)
const struct cluster *pods_watch_cluster(const struct pods_watch *w); /* borrowed */

struct pods_watch_state {
    size_t pods, accounts;
    bool is_known;       /* the port answers now */
    uint64_t age_ms;     /* of the older of the two last proofs; UINT64_MAX: none yet */
    const char *trouble; /* why the last try failed; "" */
};
/* Thread: its loop. Sets the metric of the age too. */
struct pods_watch_state pods_watch_state(struct pods_watch *w);

#endif
