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

enum { KUBE_SESSION_SLOW_MS = 2000 }; /* without an answer, and it is said what is waited for */

/* A line for whoever waits: which API server is asked, until when, and why it is not there. */
typedef void kube_waits_fn(const char *line, void *arg);

struct kube_session { /* zeroed, or open; stays where it was opened */
    struct loop *loop;
    struct kube_client *client;
    struct timer *timer, *slow;
    uint64_t ask_ms; /* for one question, all tries together */
    kube_waits_fn *waits;
    void *arg;
    uint64_t until_ms;
    bool is_said; /* since the last answer */
};
/* `ask_ms` 0: KUBE_DEADLINE_MS. `waits` is called when the first try fails and when no answer comes
 * for KUBE_SESSION_SLOW_MS; not again until one has come. NULL: nobody waits. Errors: as
 * kube_client_new. */
MUST_USE int kube_session_open(const struct kube_conf *conf, uint64_t ask_ms, kube_waits_fn *waits,
                               void *arg, struct kube_session *ret, struct err *e);
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
/* The same question may have another answer later: PEER, BUSY, TIMEOUT. */
bool kube_session_may_ask_again(const struct err *e);
void kube_session_pause(struct kube_session *s, uint64_t ms); /* shorter on a SYS of the loop */

#endif
