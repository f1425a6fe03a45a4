/* recorder.h - Kubernetes Events about an object, as `kubectl describe` shows them. Layer: kube.
 *
 * For people, never for logic: what cannot be written is counted and forgotten. The same words
 * about the same object within KUBE_SERIES_MS are one Event whose count grows. Bounded in rate, in
 * series and in requests under way, so that a loop that fails does not fill etcd. Source:
 * Kubernetes API reference, Event v1 core; API conventions, "Events".
 */
#ifndef KUBE_RECORDER_H
#define KUBE_RECORDER_H

#include "kube/write.h"

enum {
    KUBE_SERIES_MAX = 64,            /* kept; the one unused longest makes room */
    KUBE_SERIES_MS = 10 * 60 * 1000, /* afterwards the same words are a new Event */
    KUBE_SERIES_EVERY_MS = 5 * 1000, /* between two writes of a count */
    KUBE_EVENTS_BURST = 25,          /* writes at once, */
    KUBE_EVENTS_PER_S = 1,           /* and in the long run */
    KUBE_EVENT_MESSAGE_BYTES = 1024, /* the server's bound; cut */
};

struct kube_recorder_conf {
    const char *component;   /* "meshroot-operator"; static */
    const char *instance;    /* the pod's name; copied; NULL: none */
    struct metrics *metrics; /* borrowed; may be NULL */
};
struct kube_recorder;
/* Belongs to the client's loop; the client outlives it. Errors: NOMEM. */
MUST_USE int kube_recorder_new(struct loop *l, struct kube_client *c,
                               const struct kube_recorder_conf *conf, struct kube_recorder **ret,
                               struct err *e);
void kube_recorder_free(struct kube_recorder *r); /* what is not written is not; NULL is fine */
DEFINE_CLEANUP(struct kube_recorder, kube_recorder_free)

/* Says of `about`, an object as the server gave it (of a kind without namespace: in "default"),
 * why (one word, "Rotated"; static) and what. No secret. Never fails; never calls back. */
void kube_recorder_say(struct kube_recorder *r, const json_t *about, bool is_warning,
                       const char *reason, const char *fmt, ...) PRINTF(5, 6);

/* The Event that is created, said once and now, under a name of the caller's choice: for who writes
 * it himself (kube/session.h). Owner: caller. Errors: NOMEM. */
MUST_USE int kube_recorder_event(const struct kube_recorder_conf *from, const char *name,
                                 const json_t *about, bool is_warning, const char *reason,
                                 const char *message, json_t **ret, struct err *e);

#endif
