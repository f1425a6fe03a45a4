/* spread.h - one trust set in the ConfigMap istio-ca-root-cert of every selected namespace. Layer:
 * operator (private).
 *
 * What is there is known from two watches, by the set of certificates, not by bytes. Only the one
 * key is ours: foreign keys and labels stay. Istio's own controller writes the same field with what
 * istiod has loaded, so a value that comes back again and again is not fought: it is put back later
 * and later, counted, and named. Thread: its loop. Source: specs/istio-ca.md 6.1.
 */
#ifndef OPERATOR_SPREAD_H
#define OPERATOR_SPREAD_H

#include "kube/feed.h"
#include "pki/pki.h"

#define SPREAD_CONFIG_MAP "istio-ca-root-cert"
#define SPREAD_KEY        "root-cert.pem"

enum {
    SPREAD_CALLS_MAX = 24,           /* writes under way at once: each has a connection */
    SPREAD_NAMESPACES_MAX = 50000,   /* beyond: the feed says so, and nothing counts as spread */
    SPREAD_RETRY_FIRST_MS = 500,     /* after a failed write, doubled, half of it random ... */
    SPREAD_RETRY_MAX_MS = 60 * 1000, /* ... up to this */
    SPREAD_DISPUTE_FIRST_MS = 1000, /* a value that came back is put back after this, doubled ... */
    SPREAD_DISPUTE_MAX_MS = 300 * 1000, /* ... up to this; the first time at once */
    SPREAD_DISPUTES_N = 3,        /* so often, and it is said that somebody else writes there */
    SPREAD_PEACE_MS = 600 * 1000, /* without another, all is forgotten */
    SPREAD_BY_BYTES = 64,         /* of a field manager's name, for messages */
};

struct spread;

struct spread_state {
    size_t namespaces, done; /* selected and not going; of them those that hold the set */
    size_t disputed;
    size_t known;         /* entries in memory */
    uint64_t overwritten; /* so often another set was found, and written over; only grows */
    bool is_whole;        /* both watches know all there is */
    char trouble[512];    /* of the last write that failed, or of a watch; "" */
    char disputed_ns[64]; /* one of those */
    /* What somebody else changed since this set is wanted, and was put back. */
    size_t restored;
    int64_t restored_at;               /* the last, unix seconds; 0: none */
    char restored_ns[64];              /* where that was */
    char restored_by[SPREAD_BY_BYTES]; /* its field manager; "": nobody knows */
};

struct spread_conf {
    struct kube_client *kube; /* borrowed */
    const json_t *selector;   /* LabelSelector or NULL; a reference is taken */
    struct metrics *metrics;  /* may be NULL */
    void (*on_change)(
        void *arg); /* the state may be another one; never before spread_new returns */
    /* Somebody changed or removed what was right in that namespace, and it is put back. `by`: the
     * field manager that says it wrote it; "": nobody knows. */
    void (*on_restored)(const char *ns, const char *by, void *arg);
    void *arg;
};

MUST_USE int spread_new(struct loop *l, const struct spread_conf *conf, struct spread **ret,
                        struct err *e);
void spread_free(struct spread *s); /* what lies in the namespaces stays; NULL is fine */
DEFINE_CLEANUP(struct spread, spread_free)
/* From now on this trust set; a reference is taken. Errors: NOMEM, LIMIT. */
MUST_USE int spread_set(struct spread *s, struct roots *roots, struct err *e);
struct spread_state spread_state(struct spread *s);
/* The namespace's ConfigMap holds exactly these roots now, whoever wrote them. */
bool spread_holds(struct spread *s, const char *ns, const struct roots *roots);

#endif
