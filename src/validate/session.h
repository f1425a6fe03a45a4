/* session.h - the Kubernetes API as one run sees it: its namespace, its Deployment, its lines.
 * Layer: validate (private). */
#ifndef VALIDATE_SESSION_H
#define VALIDATE_SESSION_H

#include "kube/session.h"
#include "validate/validate.h"

enum { SESSION_ASK_MS = 30 * 1000 }; /* for one question, all tries together; at most the timeout */

struct session {
    const struct validate_conf *conf;
    struct kube_session kube;
};
MUST_USE int session_open(const struct validate_conf *conf, struct session *ret, struct err *e);
void session_close(struct session *s); /* twice is harmless */

/* An object of the mesh's namespace. Owner: caller. Errors: as kube_get, with the object's name. */
MUST_USE int session_get(struct session *s, const struct kube_kind *kind, const char *name,
                         json_t **ret, struct err *e);
/* `ns` NULL: of the whole cluster. `item` takes the same object twice. Errors: as a list's. */
MUST_USE int session_list(struct session *s, const struct kube_kind *kind, const char *ns,
                          int (*item)(const json_t *object, void *arg, struct err *e), void *arg,
                          struct err *e);
/* A merge patch of the Deployment. Errors: as kube_patch. */
MUST_USE int session_patch(struct session *s, const json_t *patch, struct err *e);
/* An Event about `object`; that it could not be written is a line. */
void session_event(struct session *s, const json_t *object, bool is_warning, const char *reason,
                   const char *note);
void session_say(struct session *s, const char *fmt, ...) PRINTF(2, 3);

#endif
