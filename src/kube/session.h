/* session.h - the Kubernetes API for a command: one question after the other. Layer: kube.
 *
 * Each call blocks, on a loop of the session's own, until its answer or its deadline; so nothing
 * here is for a process that serves. Thread: the one that opened it.
 */
#ifndef KUBE_SESSION_H
#define KUBE_SESSION_H

#include "kube/feed.h"
#include "kube/recorder.h"
#include "kube/write.h"

struct kube_session { /* zeroed, or open */
    struct loop *loop;
    struct kube_client *client;
    struct timer *timer;
    uint64_t ask_ms; /* for one question, all tries together; 0: as of kube_send */
};
/* Errors: as kube_client_new. */
MUST_USE int kube_session_open(const struct kube_conf *conf, uint64_t ask_ms,
                               struct kube_session *ret, struct err *e);
void kube_session_close(struct kube_session *s); /* twice is harmless */

/* One object. Owner: caller. Errors: as kube_get. */
MUST_USE int kube_session_get(struct kube_session *s, const struct kube_kind *kind, const char *ns,
                              const char *name, json_t **ret, struct err *e);
/* Each object of a kind; `ns` NULL: of the whole cluster. When the list begins again, what was
 * given stays: `item` takes the same object twice. Errors: as a list's. */
MUST_USE int kube_session_list(struct kube_session *s, const struct kube_kind *kind, const char *ns,
                               int (*item)(const json_t *object, void *arg, struct err *e),
                               void *arg, struct err *e);
/* One of the verbs of kube/write.h, within the session's time. `ret` (owner: caller) may be NULL.
 * Errors: as the verb's. */
typedef int kube_verb_fn(struct kube_client *c, const struct kube_write *w, kube_done_fn *done,
                         void *arg, struct kube_call **ret, struct err *e);
MUST_USE int kube_session_write(struct kube_session *s, kube_verb_fn *verb,
                                const struct kube_write *w, json_t **ret, struct err *e);
/* An Event about an object as the server gave it. The same words about it are one Event whose count
 * grows, also from process to process (its name is made of them), until the server forgets it, an
 * hour after the last. RBAC: get, create, patch of events. Errors: as kube_get and the verbs. */
MUST_USE int kube_session_event(struct kube_session *s, const struct kube_recorder_conf *from,
                                const json_t *about, bool is_warning, const char *reason,
                                const char *message, struct err *e);
void kube_session_pause(struct kube_session *s, uint64_t ms); /* shorter on a SYS of the loop */

#endif
