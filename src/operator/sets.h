/* sets.h - the set in Secrets, a port of rotate/: `cacerts` for a stock istiod, `meshroot-ca` for
 * our CA. Layer: operator (private).
 *
 * A Secret is ours when its annotation meshroot.io/owner names our PluginCA; another one is not
 * touched unless it is to be adopted. A whole set is one update over the resourceVersion that was
 * read. What is not exactly what we would write counts as no set, and is put back. Values are in no
 * annotation and no log. Thread: its loop. Source: specs/istio-ca.md 5.1, 13.3.
 */
#ifndef OPERATOR_SETS_H
#define OPERATOR_SETS_H

#include "kube/feed.h"
#include "rotate/ports.h"

#define SETS_OWNER      "meshroot.io/owner"
#define SETS_GENERATION "meshroot.io/generation"
#define SETS_VERSIONS   "meshroot.io/versions"

enum { SETS_MAX = 2 };

struct set_place {
    const char *ns, *name; /* of the Secret; copied */
    bool has_manifest;     /* five keys: for our CA */
    const char *pods;      /* label selector of the pods that mount it; copied */
};

struct sets_conf {
    struct kube_client *kube; /* borrowed */
    struct set_place places[SETS_MAX];
    size_t places_n;
    const char *owner; /* "istio-system/default"; copied */
    bool adopt;
    struct metrics *metrics;
    void (*on_known)(void *arg); /* once: all Secrets were read; never before sets_new returns */
    /* A write is over (`why` NULL: well), or what lies there is another one now. */
    void (*on_moved)(const struct err *why, void *arg);
    void (*on_restored)(const char *secret, const char *what, void *arg);
    void *arg;
};

struct sets;
MUST_USE int sets_new(struct loop *l, const struct sets_conf *conf, struct sets **ret,
                      struct err *e);
void sets_free(struct sets *s); /* the Secrets stay; NULL is fine */
bool sets_are_known(const struct sets *s);
struct rotate_target sets_port(struct sets *s);
/* The generation that all Secrets hold, whole; 0: they do not. */
uint64_t sets_generation(const struct sets *s);
/* Whether all Secrets may be written. Errors: BUSY (not known yet), DENIED (somebody else's). */
MUST_USE int sets_check(const struct sets *s, struct err *e);
/* Whether a mesh without a plan may be given this set. What lies there from somebody else is taken
 * over with `adopt` only, and only by a set that strands nobody who has a leaf of it: one that
 * trusts all its roots, and signs under one of them. Errors: DENIED (what to do). */
MUST_USE int sets_first_check(const struct sets *s, const struct bundle *b, struct err *e);
/* The first one exists, ours or not. */
bool sets_exist(const struct sets *s);
/* Deletes those that are ours, each only as it was read. `done` once, and not after a free. */
MUST_USE int sets_retire(struct sets *s, void (*done)(const struct err *why, void *arg), void *arg,
                         struct err *e);

#endif
